/* SPDX-License-Identifier: MIT */
/*
 * test-revisit-files.c - what a container that left has left: kept, found again, bounded, and right whenever the agent dies while it comes or goes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/str.h"
#include "migration/instances.h"
#include "migration/mover.h"
#include "migration/pb.h"
#include "migration/revisit-files.h"

#define assert_ok(call, e)                                                                                                                 \
	do {                                                                                                                               \
		if ((call) != 0)                                                                                                           \
			fail_msg("%s: %s", #call, (e).message);                                                                            \
	} while (0)
#define DAY_S 86400

/* ---------------------------------------------------------------- a runtime with at most one instance, which is what its folder says */

static int one_list(struct fm_runtime *rt, struct fm_instance **ret, size_t *ret_n, struct fm_error *err);
static int one_state(struct fm_runtime *rt, const char *id, struct fm_instance *ret, struct fm_error *err)
{
	return fm_error_set(err, FM_E_NOT_FOUND, "there is no instance '%s'", id);
}
static int one_remove(struct fm_runtime *rt, const char *id, struct fm_error *err)
{
	return 0;
}
static const struct fm_runtime_ops one_ops = { .name = "one", .list = one_list, .state = one_state, .remove = one_remove };

struct fixture {
	struct fm_runtime rt; /* first: the runtime's functions get its address */
	struct fm_host h;
	char dir[64];
	char resident[64]; /* id of the instance */
};

static int one_list(struct fm_runtime *rt, struct fm_instance **ret, size_t *ret_n, struct fm_error *err)
{
	const struct fixture *f = (const struct fixture *)rt;
	*ret = calloc(1, sizeof(**ret));
	*ret_n = f->resident[0] ? 1 : 0;
	(void)snprintf((*ret)->id, sizeof((*ret)->id), "%s", f->resident);
	return 0;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct fm_error e = FM_ERROR_INIT;
	(void)snprintf(f->dir, sizeof(f->dir), "/tmp/fm-test-revisit-files-XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	_fm_free_ char *state_dir = fm_xasprintf("%s/state", f->dir);
	_fm_free_ char *run_dir = fm_xasprintf("%s/run", f->dir);
	(void)snprintf(f->h.name, sizeof(f->h.name), "alpha");
	f->rt.ops = &one_ops;
	f->h.runtime = &f->rt;
	f->h.revisit_files_max_bytes = FM_REVISIT_FILES_TENTH;
	*state = f;
	return fm_host_init_dirs(&f->h, state_dir, run_dir, &e);
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	(void)umount2(f->h.visited_dir, MNT_DETACH); /* of a test that failed half way */
	int rc = fm_remove_tree(f->dir, NULL);
	free(f);
	return rc;
}

/* ---------------------------------------------------------------- making and looking */

static void put(const char *folder, const char *name, const char *text)
{
	struct fm_error e = FM_ERROR_INIT;
	_fm_free_ char *path = fm_xasprintf("%s/%s", folder, name);
	assert_ok(fm_mkdir_p(folder, 0755, &e), e);
	assert_ok(fm_write_file_atomic(path, text, strlen(text), 0644, &e), e);
}

/* As an arrival left it */
static void own_instance(struct fixture *f, const char *instance, const char *text)
{
	_fm_free_ char *rootfs = fm_xasprintf("%s/%s/rootfs", f->h.instances_dir, instance);
	_fm_free_ char *dir = fm_xasprintf("%s/%s", f->h.instances_dir, instance);
	const struct timespec long_ago[2] = { { .tv_sec = 1000000000 }, { .tv_sec = 1000000000 } };
	put(rootfs, "file", text);
	put(dir, "log", "output");
	assert_int_equal(utimensat(AT_FDCWD, rootfs, long_ago, 0), 0); /* as it was made, years before it left */
}

/* As `run` left it */
static char *users_instance(struct fixture *f, const char *instance)
{
	char *rootfs = fm_xasprintf("%s/bundles/%s/rootfs", f->dir, instance);
	_fm_free_ char *bundle = fm_xasprintf("%s/%s/bundle", f->h.instances_dir, instance);
	_fm_free_ char *config = fm_xasprintf(
	        "{\"ociVersion\":\"1.0.2\",\"root\":{\"path\":\"%s\"},\"process\":{\"cwd\":\"/\",\"args\":[\"a\"]},\"linux\":{}}", rootfs);
	put(rootfs, "file", "the user's");
	put(bundle, "config.json", config);
	return rootfs;
}

static void keep(struct fixture *f, const char *container, const char *instance)
{
	struct fm_error e = FM_ERROR_INIT;
	assert_ok(fm_revisit_files_keep(&f->h, container, instance, &e), e);
}

static bool exists(struct fixture *f, const char *what, const char *name)
{
	_fm_free_ char *path = fm_xasprintf("%s/%s/%s", f->h.state_dir, what, name);
	return fm_path_exists(path);
}

/* What `file` of the copy says; NULL: there is no copy. */
static char *copy_says(struct fixture *f, const char *container)
{
	struct timespec since = { 0 };
	char *text = NULL;
	int fd = -1;
	fm_revisit_files_open(&f->h, container, &fd, &since);
	if (fd < 0)
		return NULL;
	assert_in_range(since.tv_sec, time(NULL) - 100, time(NULL) + 1);
	assert_int_equal(fm_read_file_at(fd, "file", 1000, &text, NULL, NULL), 0);
	close(fd);
	return text;
}

static void assert_says(struct fixture *f, const char *container, const char *text)
{
	_fm_free_ char *found = copy_says(f, container);
	if (!text)
		assert_null(found);
	else
		assert_string_equal(text, found ? found : "(no copy)");
}

static unsigned entries(const char *dir)
{
	unsigned n = 0;
	_fm_closedir_ DIR *d = opendir(dir);
	for (struct dirent *e; d && (e = readdir(d));)
		n += !fm_streq(e->d_name, ".") && !fm_streq(e->d_name, "..");
	return n;
}

/* ---------------------------------------------------------------- coming and going */

static void test_own_copy(void **state)
{
	struct fixture *f = *state;
	unsigned n = 9;
	uint64_t bytes = 1;
	assert_says(f, "web", NULL);
	own_instance(f, "web.m-1", "first");
	keep(f, "web", "web.m-1");
	assert_says(f, "web", "first");
	assert_false(exists(f, "instances", "web.m-1/rootfs"));
	assert_true(exists(f, "instances", "web.m-1/log"));
	keep(f, "web", "web.m-1"); /* once more, as after a crash: it stays */
	assert_says(f, "web", "first");
	own_instance(f, "web.m-2", "second");
	own_instance(f, "other.m-3", "another");
	keep(f, "web", "web.m-2");
	keep(f, "other", "other.m-3");
	assert_says(f, "web", "second");
	assert_says(f, "other", "another");
	fm_revisit_files_usage(&f->h, &n, &bytes);
	assert_int_equal(n, 2);
	assert_true(bytes >= 2 * 512 && bytes < 100000);
	assert_int_equal(fm_revisit_files_remove(&f->h, "web", NULL), 0);
	assert_int_equal(fm_revisit_files_remove(&f->h, "web", NULL), 0);
	assert_says(f, "web", NULL);
	assert_says(f, "other", "another");
	assert_int_equal(entries(f->h.visited_dir), 1);
}

/* The user's bundle is read and never touched. */
static void test_users_bundle(void **state)
{
	struct fixture *f = *state;
	_fm_free_ char *rootfs = users_instance(f, "web");
	_fm_free_ char *file = fm_xasprintf("%s/file", rootfs);
	uint64_t bytes = 1;
	unsigned n = 0;
	keep(f, "web", "web");
	assert_says(f, "web", "the user's");
	keep(f, "web", "web");
	assert_says(f, "web", "the user's");
	fm_revisit_files_usage(&f->h, &n, &bytes);
	assert_int_equal(n, 1);
	assert_int_equal(bytes, 0); /* it is not ours */
	own_instance(f, "web.m-1", "ours");
	keep(f, "web", "web.m-1");
	assert_says(f, "web", "ours");
	assert_true(fm_path_exists(file));
	keep(f, "web", "web");
	assert_int_equal(fm_revisit_files_remove(&f->h, "web", NULL), 0);
	assert_true(fm_path_exists(file));
	keep(f, "web", "web");
	assert_int_equal(fm_remove_tree(rootfs, NULL), 0); /* the user removes it */
	assert_says(f, "web", NULL);
	keep(f, "gone", "web"); /* nothing to keep */
	assert_int_equal(entries(f->h.visited_dir), 1);
}

static void test_turned_off(void **state)
{
	struct fixture *f = *state;
	own_instance(f, "web.m-1", "first");
	keep(f, "web", "web.m-1");
	own_instance(f, "web.m-2", "second");
	f->h.revisit_files_max_bytes = 0;
	keep(f, "web", "web.m-2");
	assert_true(exists(f, "instances", "web.m-2/rootfs"));
	assert_int_equal(fm_revisit_files_trim(&f->h, false, NULL), 0);
	assert_int_equal(entries(f->h.visited_dir), 0);
}

static void test_odd_names(void **state)
{
	struct fixture *f = *state;
	static const char *const odd[] = { "", ".", "..", "../instances", "a/b", ".gone.x" };
	own_instance(f, "web.m-1", "first");
	for (size_t i = 0; i < FM_ARRAY_SIZE(odd); i++) {
		keep(f, odd[i], "web.m-1");
		keep(f, "web", odd[i]);
		assert_int_equal(fm_revisit_files_remove(&f->h, odd[i], NULL), 0);
		assert_says(f, odd[i], NULL);
	}
	assert_true(exists(f, "instances", "web.m-1/rootfs"));
	assert_int_equal(entries(f->h.visited_dir), 0);
}

/* ---------------------------------------------------------------- bounds */

static void aged(struct fixture *f, const char *container, const char *text, int64_t age_s)
{
	struct timespec t[2] = { { .tv_sec = time(NULL) - age_s }, { .tv_sec = time(NULL) - age_s } };
	_fm_free_ char *path = fm_xasprintf("%s/%s", f->h.visited_dir, container);
	put(path, "file", text);
	assert_int_equal(utimensat(AT_FDCWD, path, t, 0), 0);
}

static void trim(struct fixture *f)
{
	struct fm_error e = FM_ERROR_INIT;
	assert_ok(fm_revisit_files_trim(&f->h, true, &e), e);
}

static void test_count_and_age(void **state)
{
	struct fixture *f = *state;
	char name[16];
	for (int i = 0; i < 20; i++) {
		(void)snprintf(name, sizeof(name), "c%d", i);
		aged(f, name, name, 1000 + i);
	}
	trim(f);
	for (int i = 0; i < 20; i++) {
		(void)snprintf(name, sizeof(name), "c%d", i);
		assert_int_equal(exists(f, "visited", name), i < 16);
	}
	aged(f, "c0", "old", 7 * DAY_S + 1);
	aged(f, "c1", "not quite", 7 * DAY_S - 1000);
	trim(f);
	assert_false(exists(f, "visited", "c0"));
	assert_true(exists(f, "visited", "c1"));
	assert_int_equal(entries(f->h.visited_dir), 15);
	/* one that comes now is the newest */
	aged(f, "c0", "x", 500);
	own_instance(f, "web.m-1", "first");
	keep(f, "web", "web.m-1");
	assert_int_equal(entries(f->h.visited_dir), 16);
	assert_says(f, "web", "first");
	assert_false(exists(f, "visited", "c1"));
}

static void test_bytes(void **state)
{
	struct fixture *f = *state;
	_fm_free_ char *text = calloc(1, 100001);
	memset(text, 'x', 100000);
	aged(f, "old", text, 3000);
	aged(f, "small", "x", 2500);
	aged(f, "new", text, 2000);
	f->h.revisit_files_max_bytes = 250000;
	trim(f);
	assert_int_equal(entries(f->h.visited_dir), 3);
	f->h.revisit_files_max_bytes = 150000;
	assert_int_equal(fm_revisit_files_trim(&f->h, false, NULL), 0); /* without measuring */
	assert_int_equal(entries(f->h.visited_dir), 3);
	trim(f);
	assert_false(exists(f, "visited", "old"));
	assert_true(exists(f, "visited", "small"));
	assert_true(exists(f, "visited", "new"));
	f->h.revisit_files_max_bytes = 50000; /* not even the newest: then nothing older either */
	trim(f);
	assert_int_equal(entries(f->h.visited_dir), 0);
}

/* Whoever reads it has it locked. */
static void test_in_use(void **state)
{
	struct fixture *f = *state;
	struct timespec since;
	int fd = -1;
	aged(f, "web", "old", 8 * DAY_S);
	fm_revisit_files_open(&f->h, "web", &fd, &since);
	assert_true(fd >= 0);
	trim(f);
	assert_true(exists(f, "visited", "web"));
	close(fd);
	trim(f);
	assert_false(exists(f, "visited", "web"));
}

static void test_full_disk(void **state)
{
	struct fixture *f = *state;
	if (geteuid() != 0) {
		print_message("needs root, to mount a small disk\n");
		skip();
	}
	assert_int_equal(mount("fm-test", f->h.visited_dir, "tmpfs", 0, "size=1m"), 0);
	f->h.revisit_files_max_bytes = 1 << 30;
	_fm_free_ char *text = calloc(1, 300001);
	memset(text, 'x', 300000);
	aged(f, "oldest", text, 3000);
	aged(f, "older", text, 2000);
	aged(f, "newest", text, 1000);
	aged(f, "tiny", "x", 500);
	trim(f); /* 900 of 1024 KiB are used: 12 % free */
	assert_int_equal(entries(f->h.visited_dir), 4);
	put(f->h.visited_dir, ".other", "x"); /* somebody else fills the disk */
	_fm_free_ char *other = fm_xasprintf("%s/.other", f->h.visited_dir);
	assert_int_equal(truncate(other, 0), 0);
	text[60000] = '\0';
	put(f->h.visited_dir, ".other", text);
	trim(f);
	assert_false(exists(f, "visited", "oldest"));
	assert_true(exists(f, "visited", "older"));
	assert_int_equal(umount2(f->h.visited_dir, 0), 0);
}

/* ---------------------------------------------------------------- the agent dies */

/* The journal of a source that has released the container, up to a point of what comes then */
static void leave_journal(struct fixture *f, const char *id, const char *role, enum fm_decision d, bool intent)
{
	struct fm_journal *j = NULL;
	struct fm_error e = FM_ERROR_INIT;
	_fm_free_ char *instance = fm_xasprintf("web.%s", id);
	json_t *head = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "container", "web", "peer", "beta", "token", "t", "instance",
	                         instance, "stream_address", "127.0.0.1:1", "epoch", "1", "strategy", "cold");
	assert_ok(fm_journal_create(f->h.journals_dir, id, role, head, &j, &e), e);
	assert_ok(fm_journal_note(j, "instance", instance, &e), e);
	if (d)
		assert_ok(fm_journal_decide(j, d, true, &e), e);
	if (intent)
		assert_ok(fm_journal_intent(j, "visited", "web", true, &e), e);
	fm_journal_free(j);
}

static void recover(struct fixture *f)
{
	struct fm_movers *ms = NULL;
	struct fm_error e = FM_ERROR_INIT;
	assert_ok(fm_movers_new(&f->h, &ms, &e), e);
	fm_movers_free(ms);
}

static void assert_released(struct fixture *f, const char *text)
{
	assert_says(f, "web", text);
	assert_int_equal(entries(f->h.instances_dir), 0);
	assert_int_equal(entries(f->h.journals_dir), 0);
	assert_int_equal(entries(f->h.visited_dir), text ? 1 : 0);
}

static void test_dies_at_each_step(void **state)
{
	struct fixture *f = *state;
	_fm_free_ char *rootfs = fm_xasprintf("%s/web.m-1/rootfs", f->h.instances_dir);
	_fm_free_ char *dir = fm_xasprintf("%s/web.m-1", f->h.instances_dir);
	_fm_free_ char *copy = fm_xasprintf("%s/web", f->h.visited_dir);
	_fm_free_ char *gone = fm_xasprintf("%s/.gone.0123456789abcdef0123456789abcdef", f->h.visited_dir);
	static const char *const steps[] = { "released", "intent", "older going", "older gone", "stamped", "moved", "folder gone" };
	for (size_t step = 0; step < FM_ARRAY_SIZE(steps); step++) {
		print_message("dies after: %s\n", steps[step]);
		own_instance(f, "web.m-1", "left");
		aged(f, "web", "older", 1000);
		leave_journal(f, "m-1", "source", FM_DECISION_RELEASED, step >= 1);
		if (step >= 2)
			assert_int_equal(rename(copy, gone), 0);
		if (step >= 3)
			assert_int_equal(fm_remove_tree(gone, NULL), 0);
		if (step >= 4)
			assert_int_equal(utimensat(AT_FDCWD, rootfs, NULL, 0), 0);
		if (step >= 5)
			assert_int_equal(rename(rootfs, copy), 0);
		if (step >= 6)
			assert_int_equal(fm_remove_tree(dir, NULL), 0);
		recover(f);
		trim(f); /* as the agent does at its start */
		assert_released(f, "left");
		recover(f);
		assert_released(f, "left");
		assert_int_equal(fm_revisit_files_remove(&f->h, "web", NULL), 0);
	}
}

/* The same with a real death, at the point that was made for it. */
static void test_killed(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	int status = 0;
	own_instance(f, "web.m-1", "left");
	leave_journal(f, "m-1", "source", FM_DECISION_RELEASED, false);
	assert_ok(fm_fault_new("source-after-visited=kill", &f->h.fault, &e), e);
	pid_t pid = fork();
	if (pid == 0) {
		struct fm_movers *ms = NULL;
		(void)fm_movers_new(&f->h, &ms, NULL);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	fm_fault_free(f->h.fault);
	f->h.fault = NULL;
	assert_says(f, "web", "left");
	assert_true(exists(f, "instances", "web.m-1/log"));
	assert_int_equal(entries(f->h.journals_dir), 1);
	recover(f);
	assert_released(f, "left");
}

/* A failed migration leaves both sides what they had; an arrival takes the copy away. */
static void test_failed_and_arrived(void **state)
{
	struct fixture *f = *state;
	own_instance(f, "web.m-0", "left");
	keep(f, "web", "web.m-0");
	assert_int_equal(fm_remove_tree(f->h.instances_dir, NULL), 0);
	assert_int_equal(mkdir(f->h.instances_dir, 0700), 0);
	leave_journal(f, "m-1", "destination", FM_DECISION_PREPARED, false);
	recover(f);
	assert_released(f, "left");
	leave_journal(f, "m-2", "source", FM_DECISION_FROZEN, false);
	recover(f);
	assert_released(f, "left");
	leave_journal(f, "m-3", "destination", FM_DECISION_RELEASED, false);
	recover(f);
	assert_released(f, NULL);
}

/* Carried back: the first instance is released on the host where the container runs again. */
static void test_carried_back(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	_fm_pb_ FM_PB(Container) *c = FM_PB_NEW(Container, container);
	fm_pb_set(&c->name, "web");
	fm_pb_set(&c->kind, "nested");
	own_instance(f, "web.m-1", "out of date");
	own_instance(f, "web.m-1-back", "runs");
	assert_ok(fm_instances_save(&f->h, "web.m-1-back", c, "{}", &e), e);
	(void)snprintf(f->resident, sizeof(f->resident), "web.m-1-back");
	assert_ok(fm_instances_release(&f->h, "web.m-1", "web", &e), e);
	assert_says(f, "web", NULL);
	assert_true(exists(f, "instances", "web.m-1-back/rootfs"));
	assert_int_equal(entries(f->h.instances_dir), 1);
}

/* It is only a cache: that it cannot be kept does not keep the container from being released. */
static void test_cannot_be_kept(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	own_instance(f, "web.m-1", "left");
	assert_int_equal(rmdir(f->h.visited_dir), 0);
	assert_ok(fm_instances_release(&f->h, "web.m-1", "web", &e), e);
	assert_int_equal(entries(f->h.instances_dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(test_own_copy),       T(test_users_bundle),       T(test_turned_off),
		T(test_odd_names),      T(test_count_and_age),      T(test_bytes),
		T(test_in_use),         T(test_full_disk),          T(test_killed),
		T(test_carried_back),   T(test_failed_and_arrived), T(test_dies_at_each_step),
		T(test_cannot_be_kept),
	};
	return cmocka_run_group_tests_name("visited", tests, NULL, NULL);
}
