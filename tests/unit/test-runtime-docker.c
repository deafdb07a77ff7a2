/* SPDX-License-Identifier: MIT */
/* test-runtime-docker.c - the Docker driver with a dockerd of its own: a nested parent's life, what may be repeated, what is refused, names, policies, a daemon that is restarted. */
#include <fcntl.h>
#include <sys/stat.h>

#include "nest-lab.h" /* before check.h, whose err it would shadow */

#include "container/bundle.h"
#include "container/nest.h"
#include "engine-lab.h"
#include "loop/child.h"

static struct {
	const char *dir;
	char *socket, *instances;
	struct lab lab;
	struct fm_runtime *rt;
	pid_t daemon;
} t;

static const char config_format[] =
        "{ \"ociVersion\": \"1.0.2\", \"process\": { \"user\": { \"uid\": 1000, \"gid\": 1000 }, \"cwd\": \"/tmp\", \"env\": [\"PATH=/\"],"
        " \"args\": [ \"/probe\", \"signals\" ], \"noNewPrivileges\": true, \"capabilities\": { \"bounding\": [\"CAP_KILL\"] } }, "
        "\"root\": { \"path\": \"rootfs\" }, \"hostname\": \"probe\","
        " \"mounts\": [ { \"destination\": \"/proc\", \"type\": \"proc\", \"source\": \"proc\" }, { \"destination\": \"/dev/shm\", "
        "\"type\": \"tmpfs\", \"options\": [\"size=1m\"] },"
        " { \"destination\": \"/scratch\", \"type\": \"tmpfs\", \"options\": [\"size=1m\", \"mode=1777\"] } ],"
        " \"linux\": { %s \"resources\": { \"memory\": { \"limit\": 67108864 }, \"pids\": { \"limit\": 100 } }, \"namespaces\": [ { "
        "\"type\": \"pid\" }, { \"type\": \"mount\" },"
        " { \"type\": \"ipc\" }, { \"type\": \"uts\" }, { \"type\": \"network\" } ] } }";

static void start_daemon(void)
{
	_fm_free_ char *data = fm_xasprintf("%s/data", t.dir), *exec = fm_xasprintf("%s/exec", t.dir),
	               *host = fm_xasprintf("unix://%s", t.socket), *pid = fm_xasprintf("%s/pid", t.dir),
	               *log = fm_xasprintf("%s/log", t.dir), *cgroup = fm_xstrdup(strrchr(t.dir, '/'));
	char *argv[] = { "dockerd",
		         "--experimental",
		         "--data-root",
		         data,
		         "--exec-root",
		         exec,
		         "--pidfile",
		         pid,
		         "-H",
		         host,
		         "--iptables=false",
		         "--ip6tables=false",
		         "--ip-forward=false",
		         "--bridge=none",
		         "--ip-masq=false",
		         "--userland-proxy=false",
		         "--storage-driver",
		         "overlay2",
		         "--live-restore",
		         "--cgroup-parent",
		         cgroup,
		         NULL };

	t.daemon = engine_spawn(argv, log);
	engine_await(t.rt);
}

static void end_daemon(void)
{
	assert_sys(kill(t.daemon, SIGTERM));
	assert_int_equal(waitpid(t.daemon, NULL, 0), t.daemon);
}

static char *make(const char *name, const char *instance, const char *linux_members)
{
	_fm_free_ char *config = fm_xasprintf(config_format, linux_members), *lab_root = lab_rootfs(&t.lab, instance),
	               *root = fm_xasprintf("%s/root-%s", t.dir, instance), *cgroup = fm_xasprintf("%s/%s", strrchr(t.dir, '/'), instance);
	struct fm_instance_spec s = { .instances_dir = t.instances,
		                      .instance = instance,
		                      .name = name,
		                      .config = config,
		                      .rootfs = root,
		                      .cgroup_path = cgroup,
		                      .nested = true,
		                      .wait = false,
		                      .nest_binary = t.lab.nest };
	char *argv[] = { "cp", "-a", lab_root, root, NULL }, *bundle = NULL; /* from /tmp, which may be another filesystem */

	assert_ok(fm_child_run(argv, NULL, NULL, &err));
	assert_ok(fm_bundle_make_instance(&s, &bundle, &err));
	return bundle;
}

static struct fm_instance state_of(const char *id)
{
	struct fm_instance i = { 0 };

	assert_ok(t.rt->ops->state(t.rt, id, &i, &err));
	return i;
}

static void await_status(const char *id, enum fm_container_status wanted)
{
	for (uint64_t deadline = fm_now_ms() + ENGINE_PATIENCE_MS; state_of(id).status != wanted; fm_pause_ms(20))
		assert_true(fm_now_ms() < deadline);
}

static void await_nest(const char *id)
{
	_fm_free_ char *control = fm_xasprintf("%s/%s/nest", t.instances, id);
	struct fm_nest_status s = { 0 };

	for (uint64_t deadline = fm_now_ms() + ENGINE_PATIENCE_MS; fm_nest_status(control, &s, &err) < 0 || s.state != FM_NEST_RUNNING;
	     fm_pause_ms(20))
		if (fm_now_ms() > deadline)
			fail_msg("no nest: %s", err.message);
}

static void test_life(void **state)
{
	const struct fm_runtime_ops *o = t.rt->ops;
	_fm_free_ char *bundle = make("redis", "life-1", ""), *gone = fm_xasprintf("%s/root-life-1/probe", t.dir),
	               *root = fm_xasprintf("%s/root-life-1", t.dir);
	struct fm_instance i, *list = NULL;
	char policy[64];
	struct stat st;
	size_t n = 0;

	assert_code(FM_E_NOT_FOUND, o->state(t.rt, "life-1", &i, &err));
	assert_code(FM_E_NOT_FOUND, o->start(t.rt, "life-1", &err));
	assert_ok(o->create(t.rt, "life-1", bundle, -1, &err));
	assert_code(FM_E_ALREADY_EXISTS, o->create(t.rt, "life-1", bundle, -1, &err));
	assert_int_equal(access(gone, F_OK), -1); /* taken over */
	assert_sys(access(root, F_OK));
	i = state_of("life-1");
	assert_int_equal(i.status, FM_CONTAINER_CREATED);
	assert_int_equal(i.pid, 0);
	assert_string_equal(i.name, "redis");
	assert_string_equal(i.owner_name, "redis");
	assert_string_equal(i.bundle, bundle);
	assert_true(i.nested);
	assert_ok(o->start(t.rt, "life-1", &err));
	await_nest("life-1");
	i = state_of("life-1");
	assert_int_equal(i.status, FM_CONTAINER_RUNNING);
	assert_true(i.pid > 1 && i.created_ms + 60000 > fm_realtime_ms());
	_fm_free_ char *probe = fm_xasprintf("/proc/%d/root/probe", i.pid), *tmp = fm_xasprintf("/proc/%d/root/tmp", i.pid);
	assert_sys(access(probe, X_OK));
	assert_sys(stat(tmp, &st));
	assert_int_equal(st.st_mode & 07777, 01777); /* a working directory of Docker's making has given way */
	for (int k = 0; k < 2; k++)
		assert_ok(o->pause(t.rt, "life-1", &err));
	assert_int_equal(state_of("life-1").status, FM_CONTAINER_PAUSED);
	for (int k = 0; k < 2; k++)
		assert_ok(o->resume(t.rt, "life-1", &err));
	assert_ok(o->set_restart_policy(t.rt, "life-1", "on-failure:3", &err));
	assert_ok(o->restart_policy(t.rt, "life-1", policy, sizeof policy, &err));
	assert_string_equal(policy, "on-failure:3");
	assert_ok(o->set_restart_policy(t.rt, "life-1", "no", &err));
	assert_ok(o->list(t.rt, &list, &n, &err));
	assert_int_equal(n, 1);
	assert_string_equal(list[0].id, "life-1");
	assert_int_equal(list[0].pid, i.pid);
	free(list);
	for (int k = 0; k < 2; k++)
		assert_ok(o->stop(t.rt, "life-1", 5000, &err));
	await_status("life-1", FM_CONTAINER_STOPPED);
	assert_int_equal(state_of("life-1").pid, 0);
	assert_ok(o->kill(t.rt, "life-1", SIGTERM, &err));
	assert_code(FM_E_FAILED_PRECONDITION, o->pause(t.rt, "life-1", &err));
	for (int k = 0; k < 2; k++)
		assert_ok(o->remove(t.rt, "life-1", &err));
	assert_ok(o->kill(t.rt, "life-1", SIGKILL, &err));
	assert_ok(o->stop(t.rt, "life-1", 0, &err));
	assert_code(FM_E_NOT_FOUND, o->state(t.rt, "life-1", &i, &err));
}

/* Refused as a whole: nothing is made, and the root filesystem stays where it is. */
static void test_refused(void **state)
{
	_fm_free_ char *bundle = make("wrong", "wrong-1", "\"intelRdt\": { \"closID\": \"a\" },"),
	               *there = fm_xasprintf("%s/root-wrong-1/probe", t.dir);
	struct fm_instance i;

	assert_code(FM_E_INVALID_ARGUMENT, t.rt->ops->create(t.rt, "wrong-1", bundle, -1, &err));
	assert_non_null(strstr(err.message, "linux.intelRdt"));
	assert_code(FM_E_INVALID_ARGUMENT, t.rt->ops->create(t.rt, "../x", bundle, -1, &err));
	assert_code(FM_E_NOT_FOUND, t.rt->ops->state(t.rt, "wrong-1", &i, &err));
	assert_sys(access(there, F_OK));
}

static void test_name_taken_and_restart(void **state)
{
	_fm_free_ char *a = make("same", "same-1", ""), *b = make("same", "same-2", "");
	const struct fm_runtime_ops *o = t.rt->ops;
	struct fm_instance i;

	assert_ok(o->create(t.rt, "same-1", a, -1, &err));
	assert_ok(o->create(t.rt, "same-2", b, -1, &err));
	assert_string_equal(state_of("same-2").name, "same-2");
	assert_ok(o->start(t.rt, "same-1", &err));
	await_nest("same-1");
	pid_t pid = state_of("same-1").pid;
	end_daemon();
	assert_code(FM_E_UNAVAILABLE, o->state(t.rt, "same-1", &i, &err));
	assert_code(FM_E_UNAVAILABLE, o->remove(t.rt, "same-1", &err)); /* it is not known to be gone */
	assert_code(FM_E_UNAVAILABLE, o->kill(t.rt, "same-1", SIGKILL, &err));
	start_daemon();
	i = state_of("same-1");
	assert_int_equal(i.status, FM_CONTAINER_RUNNING);
	assert_int_equal(i.pid, pid);
	assert_ok(o->pause(t.rt, "same-1", &err));
	assert_ok(o->remove(t.rt, "same-1", &err)); /* paused, running: whatever it does */
	assert_ok(o->remove(t.rt, "same-2", &err));
}

static int tests(const char *dir)
{
	const struct CMUnitTest all[] = { cmocka_unit_test(test_life), cmocka_unit_test(test_refused),
		                          cmocka_unit_test(test_name_taken_and_restart) };

	t.dir = dir;
	t.socket = fm_xasprintf("%s/s", dir);
	t.instances = fm_xasprintf("%s/instances", dir);
	if (lab_init(&t.lab) < 0) {
		printf("SKIP: no nest\n");
		return 0;
	}
	assert_ok(fm_runtime_docker_new(t.socket, &t.rt, &err));
	start_daemon();
	int failed = cmocka_run_group_tests(all, NULL, NULL);
	end_daemon();
	fm_runtime_free(t.rt);
	lab_done(&t.lab);
	free(t.socket);
	free(t.instances);
	return failed;
}

int main(void)
{
	if (geteuid() != 0 || !fm_found_in_path("dockerd")) {
		printf("SKIP: needs root and dockerd\n");
		return 0;
	}
	return engine_lab_main("docker", tests);
}
