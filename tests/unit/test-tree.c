/* SPDX-License-Identifier: MIT */
/* test-tree.c - stopping, continuing, killing whole trees, and saying what cannot be migrated. */
#include "criu-lab.h"

#include <pthread.h>
#include <sys/ptrace.h>

/* ---- a tree of our own, counting in shared memory ---- */

struct counters {
	volatile uint64_t root, child, thread;
};

static struct counters *shared_counters(void)
{
	void *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_true(m != MAP_FAILED);
	return m;
}

static void *count_in_thread(void *arg)
{
	for (;;)
		((struct counters *)arg)->thread++;
	return NULL;
}

/* Forks children that live for a moment and children that stay, all the time. */
static _Noreturn void restless(struct counters *c)
{
	pthread_t t;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	pthread_create(&t, NULL, count_in_thread, c);
	for (int stay = 0;; c->root++) {
		pid_t pid = fork();
		if (pid == 0) {
			c->child++;
			if (stay < 20)
				for (;;)
					pause();
			_exit(0);
		}
		stay++;
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
}

static pid_t start_restless(struct counters *c)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0)
		restless(c);
	while (c->child < 50 || c->thread == 0)
		fm_pause_ms(1);
	return pid;
}

static void await_progress(const struct counters *c)
{
	uint64_t root = c->root, child = c->child, thread = c->thread, deadline = fm_now_ms() + 20000;

	while (c->root == root || c->child == child || c->thread == thread) {
		assert_true(fm_now_ms() < deadline);
		fm_pause_ms(1);
	}
}

static void test_stop_continue_kill(void **state)
{
	struct counters *c = shared_counters(), before;
	pid_t root = start_restless(c), *tree, *again;
	size_t n, n_again;

	for (int round = 0; round < 5; round++) {
		OK(fm_tree_stop(root, &oops));
		OK(fm_tree_wait_stopped(root, 10000, &oops));
		before = *c;
		OK(fm_proc_tree(root, &tree, &n, &oops));
		assert_true(n > 20);
		for (size_t i = 0; i < n; i++)
			assert_non_null(strchr("TZ", fm_proc_state(tree[i])));
		/* stopping what is stopped changes nothing */
		OK(fm_tree_stop(root, &oops));
		OK(fm_proc_tree(root, &again, &n_again, &oops));
		assert_int_equal(n, n_again);
		assert_memory_equal(tree, again, n * sizeof(*tree));
		assert_memory_equal(&before, (const void *)c, sizeof(before));
		free(tree);
		free(again);
		OK(fm_tree_continue(root, &oops));
		await_progress(c);
	}
	OK(fm_proc_tree(root, &tree, &n, &oops));
	OK(fm_tree_kill(root, 10000, &oops));
	assert_int_equal(waitpid(root, NULL, 0), root);
	for (size_t i = 0; i < n; i++)
		assert_true(fm_proc_state(tree[i]) == 0 || fm_proc_state(tree[i]) == 'Z');
	free(tree);
	munmap(c, 4096);
}

/* As while CRIU holds the tree: SIGSTOP waits, and comes before the next instruction. */
static void test_stop_while_traced(void **state)
{
	struct counters *c = shared_counters();
	struct fm_error err = FM_ERROR_INIT;
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			c->root++;
	}
	while (c->root == 0)
		fm_pause_ms(1);
	if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) < 0) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		print_message("skipped: ptrace is not allowed here\n");
		skip();
	}
	assert_int_equal(ptrace(PTRACE_INTERRUPT, pid, NULL, NULL), 0);
	assert_int_equal(waitpid(pid, NULL, __WALL), pid);
	uint64_t before = c->root;
	OK(fm_tree_stop(pid, &oops));
	assert_int_equal(fm_tree_wait_stopped(pid, 10, &err), -1);
	assert_int_equal(err.code, FM_E_DEADLINE_EXCEEDED);
	assert_int_equal(ptrace(PTRACE_DETACH, pid, NULL, NULL), 0);
	OK(fm_tree_wait_stopped(pid, 10000, &oops));
	assert_int_equal(c->root, before);
	OK(fm_tree_continue(pid, &oops));
	while (c->root == before)
		fm_pause_ms(1);
	OK(fm_tree_kill(pid, 10000, &oops));
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	munmap(c, 4096);
}

static void test_nobody_there(void **state)
{
	struct fm_error err = FM_ERROR_INIT;
	char **found = NULL;
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(fm_tree_stop(pid, &err), -1);
	assert_int_equal(err.code, FM_E_NOT_FOUND);
	assert_int_equal(fm_tree_continue(pid, NULL), -1);
	assert_int_equal(fm_tree_wait_stopped(pid, 10, NULL), -1);
	assert_int_equal(fm_tree_blockers(pid, pid, &found, NULL), -1);
	/* killing is about the result */
	OK(fm_tree_kill(pid, 1000, &oops));
}

/* A slip in a number must not take the host down. */
static void test_never_ourselves(void **state)
{
	const pid_t roots[] = { 1, 0, -1, getpid(), getppid() };

	for (size_t i = 0; i < FM_ARRAY_SIZE(roots); i++) {
		struct fm_error err = FM_ERROR_INIT;

		if (roots[i] == 0 && i > 1)
			continue; /* our parent is outside our pid namespace */
		assert_int_equal(fm_tree_stop(roots[i], &err), -1);
		assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
		assert_int_equal(fm_tree_kill(roots[i], 1000, NULL), -1);
		assert_int_equal(fm_tree_continue(roots[i], NULL), -1);
	}
}

/* ---- blockers ---- */

static const char troublemaker[] =
        "import ctypes, os, socket, sys, time\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "got = []\n"
        "def attempt(name, r):\n"
        "    if r is not None and r >= 0: got.append(name)\n"
        "attempt('io_uring', libc.syscall(425, 8, ctypes.create_string_buffer(256)))\n"
        "attempt('userfaultfd', libc.syscall(323, 0))\n"
        "attempt('multipath', libc.socket(2, 1, 262))\n"
        "libc.shmat.restype = ctypes.c_void_p\n"
        "i = libc.shmget(0, 4096, 0o1600)\n"
        "if i >= 0 and libc.shmat(i, None, 0) != ctypes.c_void_p(-1).value: got.append('System V shared memory, which cannot')\n"
        "attempt('semaphores', libc.semget(0, 1, 0o1600))\n"
        "if os.fork() == 0:\n"
        "    attempt('uts namespace', libc.unshare(0x04000000))\n"
        "    open(sys.argv[1] + '.child', 'w').write('\\n'.join(got[-1:]))\n"
        "    os.rename(sys.argv[1] + '.child', sys.argv[1] + '.child-ready')\n"
        "    time.sleep(100000)\n"
        "while not os.path.exists(sys.argv[1] + '.child-ready'): time.sleep(0.01)\n"
        "got += open(sys.argv[1] + '.child-ready').read().split('\\n')\n"
        "open(sys.argv[1] + '.tmp', 'w').write('\\n'.join(got) + '\\n')\n"
        "os.rename(sys.argv[1] + '.tmp', sys.argv[1])\n"
        "time.sleep(100000)\n";

static bool strv_mentions(char **v, const char *part)
{
	for (; v && *v; v++)
		if (strstr(*v, part))
			return true;
	return false;
}

static void test_no_blockers(void **state)
{
	struct fixture *f = *state;
	char **found = NULL;

	NEED(f);
	parent_start(&f->a);
	pid_t root = start_victim(f, &f->a);
	/* A CRIU of ours that waits there is none. */
	struct fm_criu *c = criu_in(f, &f->a, f->images);
	OK(fm_tree_blockers(f->a.pid, root, &found, &oops));
	if (found)
		fail_msg("found: %s", found[0]);
	fm_criu_free(c);
}

static void test_blockers(void **state)
{
	struct fixture *f = *state;
	char path[96], **found = NULL, *save = NULL;
	_fm_free_ char *got = NULL;

	NEED(f);
	snprintf(path, sizeof(path), "%s/got", f->dir);
	OK(fm_write_file_atomic(f->script, troublemaker, sizeof(troublemaker) - 1, 0600, &oops));
	parent_start(&f->a);
	char *const argv[] = { (char *)"python3", f->script, path, NULL };
	pid_t root = parent_spawn(&f->a, argv);
	uint64_t deadline = fm_now_ms() + 30000;
	while (access(path, F_OK) < 0) {
		assert_true(fm_now_ms() < deadline);
		fm_pause_ms(5);
	}
	/* `docker exec` */
	pid_t stranger = fork();
	if (stranger == 0) {
		char pid[16];
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		snprintf(pid, sizeof(pid), "%d", (int)f->a.pid);
		execlp("nsenter", "nsenter", "-t", pid, "-p", "-m", "sleep", "1000", NULL);
		_exit(1);
	}
	do {
		fm_strv_free(found);
		found = NULL;
		OK(fm_tree_blockers(f->a.pid, root, &found, &oops));
		assert_true(fm_now_ms() < deadline);
	} while (!strv_mentions(found, "(sleep) does not belong"));
	for (char **v = found; *v; v++)
		print_message("    %s\n", *v);
	OK(fm_read_file(path, 4096, &got, NULL, &oops));
	for (char *name = strtok_r(got, "\n", &save); name; name = strtok_r(NULL, "\n", &save))
		if (!strv_mentions(found, name))
			fail_msg("%s is not reported", name);
	assert_true(strv_mentions(found, "process 500 (python3)"));
	fm_strv_free(found);
	/* being debugged */
	if (ptrace(PTRACE_SEIZE, root, NULL, NULL) == 0) {
		OK(fm_tree_blockers(f->a.pid, root, &found, &oops));
		assert_true(strv_mentions(found, "traced"));
		fm_strv_free(found);
		/* A seized process can only be let go of when it stands. */
		assert_int_equal(ptrace(PTRACE_INTERRUPT, root, NULL, NULL), 0);
		assert_int_equal(waitpid(root, NULL, __WALL), root);
		assert_int_equal(ptrace(PTRACE_DETACH, root, NULL, NULL), 0);
	}
	kill(stranger, SIGKILL);
	waitpid(stranger, NULL, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stop_continue_kill),
		cmocka_unit_test(test_stop_while_traced),
		cmocka_unit_test(test_nobody_there),
		cmocka_unit_test(test_never_ourselves),
		cmocka_unit_test_setup_teardown(test_no_blockers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_blockers, setup, teardown),
	};

	cmocka_set_test_filter(getenv("FM_TEST_FILTER"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
