/* SPDX-License-Identifier: MIT */
/*
 * test-runtime-runc.c - the runc driver with the real runc and, where installed, the real CRIU: an ordinary container's life, checkpoint
 * and restore, and a nested parent made by bundle.c.
 */
#include <errno.h>
#include <glob.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "basic/clock.h"
#include "container/bundle.h"
#include "loop/child.h"
#include "container/nest.h"
#include "container/runtime.h"
#include "nest-lab.h"

#define PATIENCE_MS 30000
#define CRIU        "/opt/fleximigrate/criu/criu"
#define OBSERVE_MS  100 /* the counter moves every 2 ms */

struct ctx {
	struct lab lab;
	struct fm_runtime *rt;
	char *instances;
	char *criu;
};

static const char config_format[] = "{ \"ociVersion\": \"1.0.2\","
                                    "  \"process\": { \"terminal\": false, \"user\": { \"uid\": %u, \"gid\": %u }, \"cwd\": \"/\", "
                                    "\"env\": [\"PATH=/\"], \"args\": [ %s ] },"
                                    "  \"root\": { \"path\": \"rootfs\" },"
                                    "  \"hostname\": \"probe\","
                                    "  \"mounts\": [ { \"destination\": \"/proc\", \"type\": \"proc\", \"source\": \"proc\" },"
                                    "    { \"destination\": \"/dev\", \"type\": \"tmpfs\", \"source\": \"tmpfs\", \"options\": "
                                    "[\"nosuid\", \"mode=755\", \"size=65536k\"] } ],"
                                    "  \"linux\": { \"namespaces\": [ { \"type\": \"pid\" }, { \"type\": \"mount\" }, { \"type\": \"ipc\" "
                                    "}, { \"type\": \"uts\" }, { \"type\": \"network\" } ] } }";

/* One container of a test; its name is the instance's and the cgroup's too. */
struct box {
	char id[64];
	char *bundle;
	char *rootfs;
	char *control;
	int log_read, log_write; /* a pipe: what CRIU can hand over */
};

#define NEED_CTX(state)                                                                                                                    \
	struct ctx *c = *(state);                                                                                                          \
	if (!c)                                                                                                                            \
	skip()

static void ok(int result, const struct fm_error *err)
{
	if (result < 0)
		fail_msg("%s: %s (%s)", fm_code_to_string(err->code), err->message, err->hint);
}

static void expect_code(int result, const struct fm_error *err, enum fm_code code)
{
	assert_int_equal(result, -1);
	if (err->code != code)
		fail_msg("expected %s, got %s: %s", fm_code_to_string(code), fm_code_to_string(err->code), err->message);
}

static void box_make(struct ctx *c, struct box *b, const char *name, const char *args, bool nested, bool wait, uid_t uid)
{
	struct fm_error err = FM_ERROR_INIT;
	_fm_free_ char *config = fm_xasprintf(config_format, uid, uid, args), *cgroup = NULL;
	struct fm_instance_spec s = { .instances_dir = c->instances, .name = name, .config = config, .nested = nested, .wait = wait };
	int p[2];

	(void)snprintf(b->id, sizeof b->id, "%s-%s", strrchr(c->lab.dir, '/') + 1, name);
	b->rootfs = lab_rootfs(&c->lab, name);
	assert_non_null(b->rootfs);
	cgroup = fm_xasprintf("/%s", b->id); /* one level: runc removes no more */
	s.instance = b->id;
	s.rootfs = b->rootfs;
	s.cgroup_path = cgroup;
	s.nest_binary = c->lab.nest;
	ok(fm_bundle_make_instance(&s, &b->bundle, &err), &err);
	b->control = fm_xasprintf("%s/%s/nest", c->instances, b->id);
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	b->log_read = p[0];
	b->log_write = p[1];
}

static void box_done(struct ctx *c, struct box *b)
{
	struct fm_error err = FM_ERROR_INIT;
	_fm_free_ char *pattern = fm_xasprintf("/sys/fs/cgroup/*/%s", b->id), *pattern2 = fm_xasprintf("/sys/fs/cgroup/%s", b->id);
	struct fm_instance i;
	glob_t g;

	ok(c->rt->ops->remove(c->rt, b->id, &err), &err);
	ok(c->rt->ops->remove(c->rt, b->id, &err), &err); /* missing is success */
	ok(c->rt->ops->kill(c->rt, b->id, SIGTERM, &err), &err);
	expect_code(c->rt->ops->state(c->rt, b->id, &i, &err), &err, FM_E_NOT_FOUND);
	assert_int_equal(glob(pattern, 0, NULL, &g), GLOB_NOMATCH);
	assert_int_equal(glob(pattern2, 0, NULL, &g), GLOB_NOMATCH);
	err = FM_ERROR_INIT;
	ok(fm_bundle_remove_instance(c->instances, b->id, &err), &err);
	close(b->log_read);
	close(b->log_write);
	free(b->bundle);
	free(b->rootfs);
	free(b->control);
}

static void start(struct ctx *c, struct box *b)
{
	struct fm_error err = FM_ERROR_INIT;

	ok(c->rt->ops->create(c->rt, b->id, b->bundle, b->log_write, &err), &err);
	ok(c->rt->ops->start(c->rt, b->id, &err), &err);
}

static const char *line_of(struct box *b)
{
	static char line[512];
	size_t n = 0;

	while (n < sizeof line - 1) {
		if (fm_wait_fd(b->log_read, POLLIN, PATIENCE_MS, NULL) != 1)
			fail_msg("no line came, only '%.*s'", (int)n, line);
		if (read(b->log_read, line + n, 1) != 1 || line[n] == '\n')
			break;
		n++;
	}
	line[n] = '\0';
	return line;
}

static struct fm_instance state_of(struct ctx *c, struct box *b)
{
	struct fm_error err = FM_ERROR_INIT;
	struct fm_instance i = { 0 };

	ok(c->rt->ops->state(c->rt, b->id, &i, &err), &err);
	return i;
}

static void await_status(struct ctx *c, struct box *b, enum fm_container_status wanted)
{
	uint64_t deadline = fm_now_ms() + PATIENCE_MS;

	while (state_of(c, b).status != wanted) {
		assert_true(fm_now_ms() < deadline);
		fm_pause_ms(20);
	}
}

/* ---- */

static void test_new(void **state)
{
	struct fm_error err = FM_ERROR_INIT;
	struct fm_runtime *rt = NULL;
	char buf[64];

	expect_code(fm_runtime_runc_new("runc", "relative", NULL, &rt, &err), &err, FM_E_INVALID_ARGUMENT);
	expect_code(fm_runtime_runc_new("", "/run/x", NULL, &rt, &err), &err, FM_E_INVALID_ARGUMENT);
	expect_code(fm_runtime_runc_new("runc", "/run/x", "criu", &rt, &err), &err, FM_E_INVALID_ARGUMENT);
	assert_null(rt);
	fm_runtime_free(rt);
	ok(fm_runtime_runc_new("/no/such/no-such-runc", "/run/x", NULL, &rt, &err), &err);
	expect_code(rt->ops->version(rt, buf, sizeof buf, &err), &err, FM_E_NOT_FOUND);
	assert_non_null(strstr(err.message, "no-such-runc"));
	fm_runtime_free(rt);
	assert_string_equal(fm_container_status_to_string(FM_CONTAINER_PAUSED), "paused");
	assert_string_equal(fm_container_status_to_string((enum fm_container_status)77), "unknown");
}

static void test_life(void **state)
{
	NEED_CTX(state);
	struct fm_error err = FM_ERROR_INIT;
	_fm_free_ struct fm_instance *list = NULL;
	uint64_t now = fm_realtime_ms();
	struct fm_instance i;
	struct box b;
	size_t n = 9;
	char buf[64];

	ok(c->rt->ops->version(c->rt, buf, sizeof buf, &err), &err);
	assert_true(buf[0] >= '1' && buf[0] <= '9');
	ok(c->rt->ops->list(c->rt, &list, &n, &err), &err);
	assert_int_equal(n, 0);
	free(FM_TAKE_PTR(list));
	box_make(c, &b, "life", "\"/probe\", \"signals\"", false, false, 0);
	expect_code(c->rt->ops->start(c->rt, b.id, &err), &err, FM_E_NOT_FOUND);
	ok(c->rt->ops->create(c->rt, b.id, b.bundle, b.log_write, &err), &err);
	expect_code(c->rt->ops->create(c->rt, b.id, b.bundle, b.log_write, &err), &err, FM_E_ALREADY_EXISTS);
	assert_non_null(strstr(line_of(&b), "exist")); /* it tells the log as well */
	i = state_of(c, &b);
	assert_int_equal(i.status, FM_CONTAINER_CREATED);
	assert_true(i.pid > 1);
	assert_string_equal(i.owner_name, "life");
	assert_string_equal(i.bundle, b.bundle);
	assert_true(i.created_ms + 60000 > now && i.created_ms < now + 60000);
	ok(c->rt->ops->start(c->rt, b.id, &err), &err);
	assert_string_equal(line_of(&b), "ready");
	ok(c->rt->ops->list(c->rt, &list, &n, &err), &err);
	assert_int_equal(n, 1);
	assert_string_equal(list[0].id, b.id);
	assert_int_equal(list[0].status, FM_CONTAINER_RUNNING);
	for (int k = 0; k < 2; k++) /* both may be repeated */
		ok(c->rt->ops->pause(c->rt, b.id, &err), &err);
	assert_int_equal(state_of(c, &b).status, FM_CONTAINER_PAUSED);
	for (int k = 0; k < 2; k++)
		ok(c->rt->ops->resume(c->rt, b.id, &err), &err);
	ok(c->rt->ops->kill(c->rt, b.id, SIGHUP, &err), &err);
	assert_string_equal(line_of(&b), "signal 1");
	ok(c->rt->ops->kill(c->rt, b.id, SIGTERM, &err), &err);
	assert_string_equal(line_of(&b), "signal 15");
	await_status(c, &b, FM_CONTAINER_STOPPED);
	assert_int_equal(state_of(c, &b).pid, 0);
	ok(c->rt->ops->kill(c->rt, b.id, SIGKILL, &err), &err);
	expect_code(c->rt->ops->pause(c->rt, b.id, &err), &err, FM_E_FAILED_PRECONDITION);
	box_done(c, &b);
}

static void test_refusals(void **state)
{
	NEED_CTX(state);
	static const char *const ids[] = { "", "-v", "--root", "a/b", "..", "a b", "a\nb" };
	struct fm_error err = FM_ERROR_INIT;
	struct fm_instance i;
	struct box b;

	for (size_t k = 0; k < FM_ARRAY_SIZE(ids); k++) {
		expect_code(c->rt->ops->state(c->rt, ids[k], &i, &err), &err, FM_E_INVALID_ARGUMENT);
		expect_code(c->rt->ops->remove(c->rt, ids[k], &err), &err, FM_E_INVALID_ARGUMENT);
	}
	box_make(c, &b, "refused", "\"/does-not-exist\"", false, false, 0);
	expect_code(c->rt->ops->kill(c->rt, b.id, 0, &err), &err, FM_E_INVALID_ARGUMENT);
	expect_code(c->rt->ops->create(c->rt, b.id, b.bundle, -1, &err), &err, FM_E_INVALID_ARGUMENT);
	/* runc's own words */
	expect_code(c->rt->ops->create(c->rt, b.id, b.bundle, b.log_write, &err), &err, FM_E_FAILED_PRECONDITION);
	assert_non_null(strstr(err.message, "/does-not-exist"));
	assert_non_null(strstr(err.message, "no such file"));
	expect_code(c->rt->ops->create(c->rt, b.id, "/no/such/bundle", b.log_write, &err), &err, FM_E_FAILED_PRECONDITION);
	box_done(c, &b);
}

static void test_remove_paused(void **state)
{
	NEED_CTX(state);
	struct fm_error err = FM_ERROR_INIT;
	struct box b;

	box_make(c, &b, "paused", "\"/probe\", \"pause\"", false, false, 0);
	start(c, &b);
	assert_string_equal(line_of(&b), "pausing");
	ok(c->rt->ops->pause(c->rt, b.id, &err), &err);
	box_done(c, &b);
}

/* ---- nested */

static void test_nested(void **state)
{
	NEED_CTX(state);

	for (uid_t uid = 0; uid <= 1234; uid += 1234) {
		struct fm_error err = FM_ERROR_INIT;
		struct fm_nest_status st;
		pid_t app = 0;
		struct box b;

		box_make(c, &b, uid ? "nested-user" : "nested", "\"probe\", \"signals\"", true, false, uid);
		ok(c->rt->ops->create(c->rt, b.id, b.bundle, b.log_write, &err), &err);
		ok(fm_pidns_set_last_pid(state_of(c, &b).pid, FM_NEST_FIRST_PID - 1, &err), &err);
		ok(c->rt->ops->start(c->rt, b.id, &err), &err);
		assert_string_equal(line_of(&b), "ready");
		ok(fm_nest_status(b.control, &st, &err), &err);
		assert_int_equal(st.state, FM_NEST_RUNNING);
		assert_true(st.app_ns_pid >= FM_NEST_FIRST_PID && st.app_ns_pid < FM_NEST_FIRST_PID + 50);
		ok(fm_nest_host_pid(state_of(c, &b).pid, st.app_ns_pid, &app, &err), &err);
		assert_true(app != state_of(c, &b).pid);
		ok(c->rt->ops->kill(c->rt, b.id, SIGUSR1, &err), &err);
		assert_string_equal(line_of(&b), "signal 10");
		ok(c->rt->ops->kill(c->rt, b.id, SIGTERM, &err), &err);
		assert_string_equal(line_of(&b), "signal 15");
		await_status(c, &b, FM_CONTAINER_STOPPED);
		box_done(c, &b);
	}
}

static void test_nested_wait(void **state)
{
	NEED_CTX(state);
	struct fm_error err = FM_ERROR_INIT;
	struct fm_nest_status st = { 0 };
	uint64_t deadline = fm_now_ms() + PATIENCE_MS;
	struct box b;

	box_make(c, &b, "waiting", "\"probe\", \"signals\"", true, true, 0);
	start(c, &b);
	while (fm_nest_status(b.control, &st, &err) < 0) {
		assert_true(fm_now_ms() < deadline);
		fm_pause_ms(5);
	}
	assert_int_equal(st.state, FM_NEST_EMPTY);
	ok(c->rt->ops->kill(c->rt, b.id, SIGTERM, &err), &err);
	await_status(c, &b, FM_CONTAINER_STOPPED);
	box_done(c, &b);
}

/* ---- checkpoint and restore */

static uint64_t counter_of(struct box *b)
{
	_fm_free_ char *path = fm_xasprintf("%s/tmp/counter", b->rootfs), *data = NULL;
	uint64_t v = 0;
	size_t n = 0;

	assert_int_equal(fm_read_file(path, 8192, &data, &n, NULL), 0);
	assert_true(n >= sizeof v);
	memcpy(&v, data, sizeof v);
	return v;
}

static void await_counter_above(struct box *b, uint64_t v)
{
	uint64_t deadline = fm_now_ms() + PATIENCE_MS;

	while (counter_of(b) <= v) {
		assert_true(fm_now_ms() < deadline);
		fm_pause_ms(2);
	}
}

#define NEED_CRIU(c)                                                                                                                       \
	do {                                                                                                                               \
		if (access(CRIU, X_OK) < 0) {                                                                                              \
			printf("no CRIU at %s (tools/setup/install-criu.sh)\n", CRIU);                                                     \
			skip();                                                                                                            \
		}                                                                                                                          \
	} while (0)

static void test_checkpoint_restore(void **state)
{
	NEED_CTX(state);
	NEED_CRIU(c);
	struct fm_error err = FM_ERROR_INIT;
	_fm_free_ char *images = fm_xasprintf("%s/images", c->lab.dir), *work = fm_xasprintf("%s/work", c->lab.dir);
	_fm_free_ char *images2 = fm_xasprintf("%s/images2", c->lab.dir), *script = fm_xasprintf("%s/script", c->lab.dir);
	_fm_free_ char *conf = fm_xasprintf("%s/criu.conf", c->lab.dir), *marker = fm_xasprintf("%s/marker", c->lab.dir);
	_fm_free_ char *script_text = fm_xasprintf("#!/bin/sh\necho \"$CRTOOLS_SCRIPT_ACTION\" >>%s\n", marker);
	_fm_free_ char *conf_text = fm_xasprintf("action-script %s\n", script), *seen = NULL;
	struct fm_checkpoint_opts co = { .image_dir = images, .work_dir = work, .tcp_established = true };
	struct fm_restore_opts ro = { .image_dir = images2, .work_dir = work, .criu_config = conf, .tcp_established = true };
	struct box b;
	uint64_t stopped_at;

	box_make(c, &b, "counter", "\"/probe\", \"count\", \"/tmp/counter\"", false, false, 0);
	start(c, &b);
	assert_string_equal(line_of(&b), "counting");
	await_counter_above(&b, 10);
	ok(c->rt->ops->checkpoint(c->rt, b.id, &co, &err), &err);
	assert_int_equal(state_of(c, &b).status, FM_CONTAINER_PAUSED);
	stopped_at = counter_of(&b);
	fm_pause_ms(OBSERVE_MS);
	assert_int_equal(counter_of(&b), stopped_at);
	/* rolled back: it goes on where it was */
	ok(c->rt->ops->resume(c->rt, b.id, &err), &err);
	await_counter_above(&b, stopped_at + 10);
	/* again, from paused, and now for good */
	ok(c->rt->ops->pause(c->rt, b.id, &err), &err);
	co.image_dir = images2;
	ok(c->rt->ops->checkpoint(c->rt, b.id, &co, &err), &err);
	stopped_at = counter_of(&b);
	fm_pause_ms(OBSERVE_MS);
	assert_int_equal(counter_of(&b), stopped_at);
	ok(c->rt->ops->remove(c->rt, b.id, &err), &err);
	assert_int_equal(counter_of(&b), stopped_at); /* removing thawed nothing */

	ok(fm_write_file_atomic(script, script_text, strlen(script_text), 0755, &err), &err);
	ok(fm_write_file_atomic(conf, conf_text, strlen(conf_text), 0644, &err), &err);
	ro.bundle = b.bundle;
	ro.log_fd = b.log_write;
	ok(c->rt->ops->restore(c->rt, b.id, &ro, &err), &err);
	await_counter_above(&b, stopped_at + 10);
	assert_int_equal(state_of(c, &b).status, FM_CONTAINER_RUNNING);
	assert_string_equal(state_of(c, &b).owner_name, "counter");
	ok(fm_read_file(marker, 65536, &seen, NULL, &err), &err);
	assert_non_null(strstr(seen, "post-restore"));
	/* and it can be moved on */
	ok(c->rt->ops->checkpoint(c->rt, b.id, &co, &err), &err);
	box_done(c, &b);
}

static void test_checkpoint_fails(void **state)
{
	NEED_CTX(state);
	struct fm_error err = FM_ERROR_INIT;
	_fm_free_ char *root = fm_xasprintf("%s/runc", c->lab.dir), *images = fm_xasprintf("%s/failed-images", c->lab.dir);
	struct fm_checkpoint_opts co = { .image_dir = images, .work_dir = images };
	struct fm_restore_opts ro = { .image_dir = images, .work_dir = images };
	struct fm_runtime *no_criu = NULL, *bad_criu = NULL;
	struct box b;

	ok(fm_runtime_runc_new("runc", root, NULL, &no_criu, &err), &err);
	ok(fm_runtime_runc_new("runc", root, "/bin/false", &bad_criu, &err), &err);
	box_make(c, &b, "fails", "\"/probe\", \"count\", \"/tmp/counter\"", false, false, 0);
	ok(c->rt->ops->create(c->rt, b.id, b.bundle, b.log_write, &err), &err);
	expect_code(c->rt->ops->checkpoint(c->rt, b.id, &co, &err), &err, FM_E_FAILED_PRECONDITION);
	ok(c->rt->ops->start(c->rt, b.id, &err), &err);
	assert_string_equal(line_of(&b), "counting");
	expect_code(no_criu->ops->checkpoint(no_criu, b.id, &co, &err), &err, FM_E_FAILED_PRECONDITION);
	expect_code(bad_criu->ops->checkpoint(bad_criu, b.id, &co, &err), &err, FM_E_FAILED_PRECONDITION);
	assert_int_equal(state_of(c, &b).status, FM_CONTAINER_RUNNING);
	await_counter_above(&b, counter_of(&b));
	ok(c->rt->ops->remove(c->rt, b.id, &err), &err);
	/* nothing to restore from; nothing is left of the attempt */
	ro.bundle = b.bundle;
	ro.log_fd = b.log_write;
	expect_code(no_criu->ops->restore(no_criu, b.id, &ro, &err), &err, FM_E_FAILED_PRECONDITION);
	expect_code(bad_criu->ops->restore(bad_criu, b.id, &ro, &err), &err, FM_E_FAILED_PRECONDITION);
	if (access(CRIU, X_OK) == 0)
		expect_code(c->rt->ops->restore(c->rt, b.id, &ro, &err), &err, FM_E_FAILED_PRECONDITION);
	box_done(c, &b);
	fm_runtime_free(no_criu);
	fm_runtime_free(bad_criu);
}

static bool link_program(const char *name, const char *dir, const char *path)
{
	_fm_free_ char *copy = fm_xstrdup(path), *link = fm_xasprintf("%s/%s", dir, name);
	char *save = NULL;

	for (char *d = strtok_r(copy, ":", &save); d; d = strtok_r(NULL, ":", &save)) {
		_fm_free_ char *program = fm_xasprintf("%s/%s", d, name);
		if (access(program, X_OK) == 0)
			return symlink(program, link) == 0;
	}
	return false;
}

/* From now on PATH has runc and what CRIU's starter needs, and no iptables-restore. Returns the old one. */
static char *hide_iptables(struct ctx *c)
{
	static const char *const needed[] = { "runc", "dirname", "readlink" };
	struct fm_error err = FM_ERROR_INIT;
	_fm_free_ char *dir = fm_xasprintf("%s/bin", c->lab.dir);
	char *path = fm_xstrdup(getenv("PATH"));

	ok(fm_mkdir_p(dir, 0755, &err), &err);
	for (size_t i = 0; i < FM_ARRAY_SIZE(needed); i++)
		assert_true(link_program(needed[i], dir, path));
	assert_int_equal(setenv("PATH", dir, 1), 0);
	assert_false(fm_found_in_path("iptables-restore"));
	return path;
}

/* The message names what is missing and the hint says what to install; the container runs on. */
static void test_checkpoint_without_iptables(void **state)
{
	NEED_CTX(state);
	NEED_CRIU(c);
	struct fm_error err = FM_ERROR_INIT;
	_fm_free_ char *images = fm_xasprintf("%s/no-iptables", c->lab.dir);
	struct fm_checkpoint_opts co = { .image_dir = images, .work_dir = images, .tcp_established = true };
	struct box b;

	box_make(c, &b, "locked", "\"/probe\", \"count\", \"/tmp/counter\"", false, false, 0);
	start(c, &b);
	assert_string_equal(line_of(&b), "counting");
	_fm_free_ char *path = hide_iptables(c);
	int rc = c->rt->ops->checkpoint(c->rt, b.id, &co, &err);
	assert_int_equal(setenv("PATH", path, 1), 0);
	assert_int_equal(rc, -1);
	print_message("    as expected: %s | hint: %s\n", err.message, err.hint);
	assert_non_null(strstr(err.message, "iptables-restore"));
	assert_non_null(strstr(err.hint, "install the package iptables"));
	assert_int_equal(state_of(c, &b).status, FM_CONTAINER_RUNNING);
	await_counter_above(&b, counter_of(&b));
	box_done(c, &b);
}

static int group_setup(void **state)
{
	static struct ctx c;
	struct fm_error err = FM_ERROR_INIT;
	_fm_free_ char *root = NULL;
	char buf[64];

	if (lab_init(&c.lab) < 0)
		return 0; /* every test skips */
	root = fm_xasprintf("%s/runc", c.lab.dir);
	c.instances = fm_xasprintf("%s/instances", c.lab.dir);
	if (fm_runtime_runc_new("runc", root, CRIU, &c.rt, &err) < 0 || c.rt->ops->version(c.rt, buf, sizeof buf, &err) < 0) {
		printf("needs runc: %s\n", err.message);
		lab_done(&c.lab);
		return 0;
	}
	*state = &c;
	return 0;
}

static int group_teardown(void **state)
{
	struct ctx *c = *state;

	if (!c)
		return 0;
	/* What a failed test has left. */
	_fm_free_ struct fm_instance *left = NULL;
	size_t n = 0;
	if (c->rt->ops->list(c->rt, &left, &n, NULL) == 0)
		for (size_t i = 0; i < n; i++)
			(void)c->rt->ops->remove(c->rt, left[i].id, NULL);
	fm_runtime_free(c->rt);
	free(c->instances);
	lab_done(&c->lab);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_new),
		cmocka_unit_test(test_life),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_remove_paused),
		cmocka_unit_test(test_nested),
		cmocka_unit_test(test_nested_wait),
		cmocka_unit_test(test_checkpoint_restore),
		cmocka_unit_test(test_checkpoint_fails),
		cmocka_unit_test(test_checkpoint_without_iptables),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
