/* SPDX-License-Identifier: MIT */
/* test-runtime-containerd.c - the containerd driver with the real containerd and runc, in namespaces of the test's own: a nested parent's life, what is refused, the daemon's restart. */
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "nest-lab.h"
#include "check.h"
#include "basic/clock.h"
#include "container/bundle.h"
#include "rpc/containerd-client.h"

#define PATIENCE_MS 10000

static const char config[] =
        "{\"ociVersion\":\"1.0.2\",\"process\":{\"terminal\":false,\"user\":{\"uid\":0,\"gid\":0},\"cwd\":\"/\",\"env\":[\"PATH=/"
        "\"],\"args\":[\"probe\",\"signals\"]},"
        "\"root\":{\"path\":\"rootfs\"},\"hostname\":\"probe\",\"mounts\":[{\"destination\":\"/"
        "proc\",\"type\":\"proc\",\"source\":\"proc\"},"
        "{\"destination\":\"/dev\",\"type\":\"tmpfs\",\"source\":\"tmpfs\",\"options\":[\"nosuid\",\"mode=755\",\"size=65536k\"]}],"
        "\"linux\":{\"namespaces\":[{\"type\":\"pid\"},{\"type\":\"mount\"},{\"type\":\"ipc\"},{\"type\":\"uts\"},{\"type\":\"network\"}]}"
        "}";

struct ctx {
	struct lab lab;
	pid_t daemon;
	struct fm_runtime *rt;
};

static void daemon_start(struct ctx *c)
{
	_fm_free_ char *conf = fm_xasprintf("%s/containerd.toml", c->lab.dir), *out = fm_xasprintf("%s/daemon.log", c->lab.dir);
	uint64_t deadline = fm_now_ms() + PATIENCE_MS;
	char buf[64];

	c->daemon = fork();
	assert_true(c->daemon >= 0);
	if (c->daemon == 0) {
		int fd = open(out, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

		(void)dup2(fd, 1);
		(void)dup2(fd, 2);
		(void)execlp("containerd", "containerd", "--config", conf, (char *)NULL);
		_exit(127);
	}
	while (c->rt->ops->version(c->rt, buf, sizeof buf, &err) < 0) {
		assert_int_equal(err.code, FM_E_UNAVAILABLE);
		assert_true(fm_now_ms() < deadline);
		fm_pause_ms(20);
	}
	assert_true(buf[0] >= '1' && buf[0] <= '9');
}

static void daemon_stop(struct ctx *c)
{
	assert_sys(kill(c->daemon, SIGKILL));
	assert_true(waitpid(c->daemon, NULL, 0) == c->daemon);
}

static void await(struct ctx *c, const char *id, enum fm_container_status wanted)
{
	uint64_t deadline = fm_now_ms() + PATIENCE_MS;
	struct fm_instance i;

	for (;;) {
		assert_ok(c->rt->ops->state(c->rt, id, &i, &err));
		if (i.status == wanted)
			return;
		assert_true(fm_now_ms() < deadline);
		fm_pause_ms(10);
	}
}

static void await_log(const char *path, const char *text)
{
	uint64_t deadline = fm_now_ms() + PATIENCE_MS;

	for (;;) {
		_fm_free_ char *data = NULL;

		if (fm_read_file(path, 65536, &data, NULL, NULL) == 0 && strstr(data, text))
			return;
		if (fm_now_ms() > deadline)
			fail_msg("the log says '%s', not '%s'", data ? data : "", text);
		fm_pause_ms(10);
	}
}

static void told(int fd)
{
	uint64_t n;

	assert_int_equal(fm_wait_fd(fd, POLLIN, PATIENCE_MS, NULL), 1);
	assert_int_equal(read(fd, &n, sizeof n), sizeof n);
}

static void test_life(void **state)
{
	struct ctx *c = *state;
	if (!c)
		skip();
	const struct fm_runtime_ops *o = c->rt->ops;
	const char *id = "probe--a.m-0123456789ab"; /* not of containerd's grammar */
	_fm_free_ char *instances = fm_xasprintf("%s/instances", c->lab.dir), *rootfs = lab_rootfs(&c->lab, "root"), *bundle = NULL;
	_fm_free_ char *log_path = fm_xasprintf("%s/a log%%", c->lab.dir), *described = NULL,
	               *cgroup = fm_xasprintf("/%s", strrchr(c->lab.dir, '/') + 1);
	struct fm_instance_spec s = { .instances_dir = instances,
		                      .instance = id,
		                      .name = "probe",
		                      .config = config,
		                      .rootfs = rootfs,
		                      .cgroup_path = cgroup,
		                      .nested = true,
		                      .nest_binary = c->lab.nest };
	_fm_free_ struct fm_instance *list = NULL;
	_fm_close_ int log_fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	int p[2], watch = -1;
	struct fm_instance i;
	size_t n = 0;

	assert_ok(fm_mkdir_p(instances, 0755, &err));
	assert_ok(fm_bundle_make_instance(&s, &bundle, &err));
	assert_ok(o->watch(c->rt, &watch, &err));
	told(watch);
	assert_code(FM_E_NOT_FOUND, o->state(c->rt, id, &i, &err));
	assert_code(FM_E_INVALID_ARGUMENT, o->state(c->rt, "a/b", &i, &err));
	assert_code(FM_E_INVALID_ARGUMENT, o->create(c->rt, id, bundle, -1, &err));
	assert_sys(pipe2(p, O_CLOEXEC));
	assert_code(FM_E_INVALID_ARGUMENT, o->create(c->rt, id, bundle, p[1], &err));
	(void)close(p[0]);
	(void)close(p[1]);
	assert_code(FM_E_FAILED_PRECONDITION, o->create(c->rt, id, "/no/such/bundle", log_fd, &err));
	assert_code(FM_E_NOT_FOUND, o->start(c->rt, id, &err));
	assert_ok(o->create(c->rt, id, bundle, log_fd, &err));
	assert_code(FM_E_ALREADY_EXISTS, o->create(c->rt, id, bundle, log_fd, &err));
	assert_ok(o->state(c->rt, id, &i, &err));
	assert_int_equal(i.status, FM_CONTAINER_CREATED);
	assert_true(i.pid > 1 && i.nested);
	assert_string_equal(i.owner_name, "probe");
	assert_string_equal(i.bundle, bundle);
	told(watch);
	assert_ok(o->start(c->rt, id, &err));
	await_log(log_path, "ready");
	told(watch);
	for (int k = 0; k < 2; k++)
		assert_ok(o->pause(c->rt, id, &err));
	await(c, id, FM_CONTAINER_PAUSED);
	for (int k = 0; k < 2; k++)
		assert_ok(o->resume(c->rt, id, &err));
	assert_ok(o->describe(c->rt, id, &described, &err));
	assert_non_null(strstr(described, "\"probe\""));
	assert_null(strstr(described, FM_NEST_MOUNT));
	daemon_stop(c);
	assert_code(FM_E_UNAVAILABLE, o->state(c->rt, id, &i, &err));
	daemon_start(c);
	await(c, id, FM_CONTAINER_RUNNING);
	assert_ok(o->kill(c->rt, id, SIGHUP, &err));
	await_log(log_path, "signal 1\n");
	assert_ok(o->stop(c->rt, id, 5000, &err));
	await_log(log_path, "signal 15");
	assert_ok(o->stop(c->rt, id, 5000, &err));
	assert_ok(o->kill(c->rt, id, SIGTERM, &err));
	assert_ok(o->list(c->rt, &list, &n, &err));
	assert_int_equal(n, 1);
	assert_string_equal(list[0].id, id);
	assert_int_equal(list[0].status, FM_CONTAINER_STOPPED);
	assert_int_equal(list[0].pid, 0);
	for (int k = 0; k < 2; k++)
		assert_ok(o->remove(c->rt, id, &err));
	/* removed while it is paused */
	assert_ok(o->create(c->rt, id, bundle, log_fd, &err));
	assert_ok(o->start(c->rt, id, &err));
	assert_ok(o->pause(c->rt, id, &err));
	assert_ok(o->remove(c->rt, id, &err));
	assert_code(FM_E_NOT_FOUND, o->state(c->rt, id, &i, &err));
}

static int setup(void **state)
{
	struct ctx *c = calloc(1, sizeof *c);
	struct fm_containerd_transport t;

	*state = NULL;
	if (!fm_found_in_path("containerd") || lab_init(&c->lab) < 0) {
		printf("needs root and containerd\n");
		free(c);
		return 0;
	}
	_fm_free_ char *conf = fm_xasprintf("%s/containerd.toml", c->lab.dir), *socket = fm_xasprintf("%s/s", c->lab.dir);
	_fm_free_ char *text = fm_xasprintf("version = 2\nroot = \"%s/d\"\nstate = \"%s/e\"\ndisabled_plugins = "
	                                    "[\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"%s\"\n",
	                                    c->lab.dir, c->lab.dir, socket);
	assert_ok(fm_write_file_atomic(conf, text, strlen(text), 0600, &err));
	assert_ok(fm_containerd_transport_new(socket, &t, &err));
	assert_ok(fm_runtime_containerd_new(&t, NULL, &c->rt, &err));
	daemon_start(c);
	*state = c;
	return 0;
}

static int teardown(void **state)
{
	struct ctx *c = *state;

	if (!c)
		return 0;
	fm_runtime_free(c->rt);
	daemon_stop(c);
	lab_done(&c->lab);
	free(c);
	return 0;
}

static int in_namespaces(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_life) };

	return cmocka_run_group_tests(tests, setup, teardown);
}

/* PID 1 of the namespace: reaps shims, and takes all of them along when the tests have ended. */
static int init_main(void)
{
	pid_t tests, gone;
	int status = 0;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || mount("proc", "/proc", "proc", 0, NULL) < 0 ||
	    mount("tmpfs", "/run", "tmpfs", 0, NULL) < 0)
		return 98;
	tests = fork();
	if (tests == 0)
		exit(in_namespaces());
	do
		gone = waitpid(-1, &status, 0);
	while (gone >= 0 && gone != tests);
	return gone == tests && WIFEXITED(status) ? WEXITSTATUS(status) : 99;
}

int main(void)
{
	int status = 0;
	pid_t init;

	if (geteuid() != 0 || unshare(CLONE_NEWNS | CLONE_NEWPID) < 0)
		return in_namespaces(); /* skips */
	init = fork();
	if (init == 0)
		_exit(init_main());
	/* Not exit: who has lost the init of his children's pid namespace can make none any more, and LeakSanitizer wants one. */
	_exit(waitpid(init, &status, 0) == init && WIFEXITED(status) ? WEXITSTATUS(status) : 99);
}
