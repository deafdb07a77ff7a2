/* SPDX-License-Identifier: MIT */
/* test-journal.c - an agent's durable memory, on real files: torn ends at every byte, damage, kill -9 of the writer, a disk that is full. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/str.h"
#include "migration/journal.h"

#define FILE_NAME "m-1.source.journal"

#define assert_ok(call, e)                                                                                                                 \
	do {                                                                                                                               \
		if ((call) != 0)                                                                                                           \
			fail_msg("%s: %s", #call, (e).message);                                                                            \
	} while (0)

struct fixture {
	char dir[64];
	char path[128];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	(void)snprintf(f->dir, sizeof(f->dir), "/tmp/fm-test-journal-XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	(void)snprintf(f->path, sizeof(f->path), "%s/" FILE_NAME, f->dir);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	int rc = fm_remove_tree(f->dir, NULL);
	free(f);
	return rc;
}

static struct fm_journal *create(const char *dir)
{
	struct fm_journal *j = NULL;
	struct fm_error e = FM_ERROR_INIT;
	assert_ok(fm_journal_create(dir, "m-1", "source", json_pack("{s:s}", "container", "web"), &j, &e), e);
	return j;
}

static struct fm_journal *reopen(const char *dir)
{
	struct fm_journal *j = NULL;
	struct fm_error e = FM_ERROR_INIT;
	assert_ok(fm_journal_open(dir, FILE_NAME, &j, &e), e);
	return j;
}

/* Undo that writes down what it was asked, fails for `fail`. */
struct undone {
	char text[512];
	const char *fail;
};

static int note_undo(void *userdata, const char *what, const char *arg, struct fm_error *err)
{
	struct undone *u = userdata;
	size_t n = strlen(u->text);
	(void)snprintf(u->text + n, sizeof(u->text) - n, "%s%s=%s", n ? " " : "", what, arg);
	return u->fail && strcmp(u->fail, arg) == 0 ? fm_error_set(err, FM_E_INTERNAL, "cannot undo %s", arg) : 0;
}

static void assert_undo(struct fm_journal *j, const char *want)
{
	struct undone u = { "", NULL };
	struct fm_error e = FM_ERROR_INIT;
	assert_ok(fm_journal_undo(j, note_undo, &u, &e), e);
	assert_string_equal(u.text, want);
}

static void fill(struct fm_journal *j)
{
	struct fm_error e = FM_ERROR_INIT;
	assert_ok(fm_journal_intent(j, "netns", "/run/n", false, &e), e);
	assert_ok(fm_journal_intent(j, "instance", "web.m-1", true, &e), e);
	assert_ok(fm_journal_note(j, "root", "42", &e), e);
	assert_ok(fm_journal_decide(j, FM_DECISION_PREPARED, false, &e), e);
	assert_ok(fm_journal_decide(j, FM_DECISION_COMMITTED, true, &e), e);
}

static void test_create_and_open(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	struct fm_journal *j = create(f->dir), *second = NULL;
	struct stat st;
	assert_int_equal(fm_journal_decision(j), FM_DECISION_UNKNOWN);
	assert_false(fm_journal_ran(j));
	fill(j);
	assert_int_equal(fm_journal_create(f->dir, "m-1", "source", json_object(), &second, &e), -1);
	assert_int_equal(e.code, FM_E_ALREADY_EXISTS);
	assert_null(second);
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(fm_journal_decision(j), FM_DECISION_COMMITTED);
		assert_true(fm_journal_ran(j));
		assert_string_equal(fm_journal_head(j, "container"), "web");
		assert_string_equal(fm_journal_head(j, "migration"), "m-1");
		assert_string_equal(fm_journal_head(j, "role"), "source");
		assert_null(fm_journal_head(j, "nothing"));
		assert_string_equal(fm_journal_get(j, "root"), "42");
		assert_null(fm_journal_get(j, "nothing"));
		fm_journal_free(j);
		j = reopen(f->dir);
	}
	assert_ok(fm_journal_note(j, "root", "43", &e), e);
	assert_string_equal(fm_journal_get(j, "root"), "43");
	assert_ok(fm_journal_remove(j, &e), e);
	assert_false(fm_path_exists(f->path));
	assert_ok(fm_journal_remove(j, &e), e);                          /* again */
	assert_int_equal(fm_journal_decision(j), FM_DECISION_COMMITTED); /* this stays known */
	assert_true(fm_journal_ran(j));
	assert_null(fm_journal_get(j, "root"));
	assert_null(fm_journal_head(j, "container"));
	assert_int_equal(fm_journal_note(j, "late", "1", &e), -1);
	fm_journal_free(j);
	fm_journal_free(NULL);
	assert_int_equal(fm_journal_open(f->dir, FILE_NAME, &j, &e), -1);
	assert_int_equal(e.code, FM_E_NOT_FOUND);
}

static void test_bad_head(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	struct fm_journal *j = NULL;
	/* what json_pack gives for text that is not UTF-8 */
	assert_int_equal(fm_journal_create(f->dir, "m-1", "source", NULL, &j, &e), -1);
	assert_false(fm_path_exists(f->path));
	e = FM_ERROR_INIT;
	assert_int_equal(fm_journal_create("/nonexistent", "m-1", "source", json_object(), &j, &e), -1);
	assert_int_equal(e.code, FM_E_NOT_FOUND);
	assert_null(j);
}

static void test_undo(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	struct fm_journal *j = create(f->dir);
	assert_undo(j, "");
	assert_ok(fm_journal_intent(j, "netns", "n", false, &e), e);
	assert_ok(fm_journal_intent(j, "tmpfs", "a", false, &e), e);
	assert_ok(fm_journal_intent(j, "tmpfs", "b", false, &e), e);
	assert_ok(fm_journal_intent(j, "fence", NULL, false, &e), e);
	assert_ok(fm_journal_intent(j, "gone", "x", false, &e), e);
	assert_ok(fm_journal_forget(j, "gone", &e), e);
	/* newest first; what fails stays, the others go on, the first error is told */
	struct undone u = { "", "a" };
	assert_int_equal(fm_journal_undo(j, note_undo, &u, &e), -1);
	assert_string_equal(u.text, "fence= tmpfs=b tmpfs=a netns=n");
	assert_string_equal(e.message, "cannot undo a");
	fm_journal_free(j);
	/* only that one is left, also for the next process; undoing is over once */
	j = reopen(f->dir);
	assert_undo(j, "tmpfs=a");
	assert_undo(j, "");
	/* the same name once more counts again */
	assert_ok(fm_journal_intent(j, "tmpfs", "a", false, &e), e);
	fm_journal_free(j);
	j = reopen(f->dir);
	assert_undo(j, "tmpfs=a");
	/* a plain forget is about every argument */
	assert_ok(fm_journal_intent(j, "tmpfs", "c", false, &e), e);
	assert_ok(fm_journal_intent(j, "tmpfs", "d", false, &e), e);
	assert_ok(fm_journal_forget(j, "tmpfs", &e), e);
	assert_undo(j, "");
	fm_journal_free(j);
}

/* A record that is not of ours, but well-formed, is undone once as well. */
static void test_undo_without_argument(void **state)
{
	static const char text[] = "{\"k\":\"head\"}\n{\"k\":\"intent\",\"what\":\"netns\"}\n{\"k\":\"intent\",\"what\":\"x\",\"arg\":5}\n{"
	                           "\"k\":\"intent\"}\n";
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	assert_ok(fm_write_file_atomic(f->path, text, strlen(text), 0600, &e), e);
	struct fm_journal *j = reopen(f->dir);
	assert_undo(j, "x= netns=");
	assert_undo(j, "");
	fm_journal_free(j);
	j = reopen(f->dir);
	assert_undo(j, "");
	fm_journal_free(j);
}

static void test_decisions(void **state)
{
	static const char *const names[] = { "UNKNOWN", "PREPARED", "FROZEN", "RESTORED", "COMMITTED", "ABORTED", "RELEASED" };
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	struct fm_journal *j = create(f->dir);
	for (int d = 1; d <= FM_DECISION_RELEASED; d++) {
		assert_string_equal(fm_decision_to_string((enum fm_decision)d), names[d]);
		assert_ok(fm_journal_decide(j, (enum fm_decision)d, d % 2, &e), e);
		fm_journal_free(j);
		j = reopen(f->dir);
		assert_int_equal(fm_journal_decision(j), d);
		assert_int_equal(fm_journal_ran(j), d % 2);
	}
	assert_string_equal(fm_decision_to_string((enum fm_decision)99), "UNKNOWN");
	fm_journal_free(j);
}

/* Cut at every byte: the whole lines before the cut are what is known, and writing goes on behind them. */
static void test_torn_at_every_byte(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	struct fm_journal *j = create(f->dir);
	_fm_free_ char *whole = NULL, *now = NULL;
	size_t n = 0, head = 0;
	fill(j);
	fm_journal_free(j);
	assert_ok(fm_read_file(f->path, 1 << 20, &whole, &n, &e), e);
	head = (size_t)(strchr(whole, '\n') - whole) + 1;
	for (size_t cut = 0; cut <= n; cut++) {
		size_t lines = 0;
		for (size_t i = 0; i < cut; i++)
			lines += whole[i] == '\n';
		assert_ok(fm_write_file_atomic(f->path, whole, cut, 0600, &e), e);
		e = FM_ERROR_INIT;
		if (cut < head) {
			assert_int_equal(fm_journal_open(f->dir, FILE_NAME, &j, &e), -1);
			assert_int_equal(e.code, FM_E_NOT_FOUND);
			continue;
		}
		assert_ok(fm_journal_open(f->dir, FILE_NAME, &j, &e), e);
		assert_int_equal(fm_journal_decision(j), lines == 6   ? FM_DECISION_COMMITTED
		                                         : lines == 5 ? FM_DECISION_PREPARED
		                                                      : FM_DECISION_UNKNOWN);
		assert_ok(fm_journal_decide(j, FM_DECISION_ABORTED, false, &e), e);
		fm_journal_free(j);
		j = reopen(f->dir);
		assert_int_equal(fm_journal_decision(j), FM_DECISION_ABORTED);
		assert_undo(j, lines >= 3 ? "instance=web.m-1 netns=/run/n" : lines == 2 ? "netns=/run/n" : "");
		fm_journal_free(j);
	}
	(void)now;
}

/* Some file systems leave zeros behind after a power cut. */
static void test_zeros_at_the_end(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	struct fm_journal *j = create(f->dir);
	char zeros[100] = "";
	fill(j);
	fm_journal_free(j);
	_fm_close_ int fd = open(f->path, O_WRONLY | O_APPEND | O_CLOEXEC);
	assert_ok(fm_write_full(fd, zeros, sizeof(zeros), &e), e);
	j = reopen(f->dir);
	assert_int_equal(fm_journal_decision(j), FM_DECISION_COMMITTED);
	assert_ok(fm_journal_decide(j, FM_DECISION_RELEASED, true, &e), e);
	fm_journal_free(j);
	j = reopen(f->dir);
	assert_int_equal(fm_journal_decision(j), FM_DECISION_RELEASED);
	fm_journal_free(j);
}

/* Damage anywhere before the last line is never taken for a torn end: what follows may be a decision. */
static void test_damaged_middle(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	struct fm_journal *j = create(f->dir);
	_fm_free_ char *whole = NULL;
	size_t n = 0, last = 0;
	fill(j);
	fm_journal_free(j);
	assert_ok(fm_read_file(f->path, 1 << 20, &whole, &n, &e), e);
	for (size_t i = 0; i + 1 < n; i++)
		if (whole[i] == '\n')
			last = i + 1;
	for (size_t i = 0; i < last; i++) {
		static const char bad[] = { '\0', '\n', '\x80' };
		for (size_t k = 0; k < sizeof(bad); k++) {
			char was = whole[i];
			if (was == bad[k])
				continue;
			whole[i] = bad[k];
			assert_ok(fm_write_file_atomic(f->path, whole, n, 0600, &e), e);
			whole[i] = was;
			j = NULL;
			e = FM_ERROR_INIT;
			if (fm_journal_open(f->dir, FILE_NAME, &j, &e) == 0)
				fail_msg("byte %zu changed to %d was not noticed", i, bad[k]);
			assert_int_equal(e.code, FM_E_DATA_LOSS);
			assert_null(j);
		}
	}
	/* not objects, no head, too large */
	static const char *const files[] = { "[]\n", "1\n", "{\"k\":\"note\"}\n", "{}\n", "{\"k\":\"head\",\"k\":\"head\"}\n" };
	for (size_t i = 0; i < FM_ARRAY_SIZE(files); i++) {
		assert_ok(fm_write_file_atomic(f->path, files[i], strlen(files[i]), 0600, &e), e);
		e = FM_ERROR_INIT;
		assert_int_equal(fm_journal_open(f->dir, FILE_NAME, &j, &e), -1);
		assert_int_equal(e.code, FM_E_DATA_LOSS);
	}
	assert_int_equal(truncate(f->path, 5 << 20), 0);
	e = FM_ERROR_INIT;
	assert_int_equal(fm_journal_open(f->dir, FILE_NAME, &j, &e), -1);
	assert_int_equal(e.code, FM_E_RESOURCE_EXHAUSTED);
}

/* A writer is killed while it writes as fast as it can; what it was told is durable is there. */
static void test_kill_writer(void **state)
{
	struct fixture *f = *state;
	for (unsigned round = 1; round <= 20; round++) {
		int told[2];
		unsigned last = 0, n = 0, wanted = round * 3;
		struct fm_error e = FM_ERROR_INIT;
		assert_int_equal(pipe2(told, O_CLOEXEC), 0);
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			struct fm_journal *j = NULL;
			if (fm_journal_create(f->dir, "m-1", "source", json_object(), &j, NULL) < 0)
				_exit(1);
			for (unsigned i = 1;; i++) {
				char text[32];
				(void)snprintf(text, sizeof(text), "%u", i);
				if (fm_journal_note(j, "count", text, NULL) < 0 ||
				    fm_journal_decide(j, FM_DECISION_COMMITTED, true, NULL) < 0 ||
				    write(told[1], &i, sizeof(i)) != sizeof(i))
					_exit(1);
			}
		}
		(void)close(told[1]);
		while (n < wanted && read(told[0], &n, sizeof(n)) == sizeof(n))
			last = n;
		assert_int_equal(kill(pid, SIGKILL), 0);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		while (read(told[0], &n, sizeof(n)) == sizeof(n))
			last = n;
		(void)close(told[0]);
		struct fm_journal *j = reopen(f->dir);
		assert_int_equal(fm_journal_decision(j), FM_DECISION_COMMITTED);
		assert_true((unsigned)atoi(fm_journal_get(j, "count")) >= last);
		assert_ok(fm_journal_decide(j, FM_DECISION_RELEASED, true, &e), e);
		fm_journal_free(j);
		j = reopen(f->dir);
		assert_int_equal(fm_journal_decision(j), FM_DECISION_RELEASED);
		assert_ok(fm_journal_remove(j, &e), e);
		fm_journal_free(j);
	}
}

/* A full disk: the step fails, the file stays whole, and writing goes on when there is room. */
static void fill_disk(const char *dir, size_t keep)
{
	char page[4096] = "", path[256];
	(void)snprintf(path, sizeof(path), "%s/ballast", dir);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	while (write(fd, page, sizeof(page)) > 0)
		;
	(void)ftruncate(fd, lseek(fd, 0, SEEK_END) - (off_t)keep);
	(void)close(fd);
}

static int on_full_disk(const char *dir)
{
	struct fm_error e = FM_ERROR_INIT;
	struct fm_journal *j = NULL;
	char path[256], text[200];
	unsigned ok = 0;
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	if (fm_journal_create(dir, "m-1", "source", json_object(), &j, &e) < 0)
		return 1;
	fill_disk(dir, 0);
	while (fm_journal_note(j, "k", text, &e) == 0 && ok < 1000)
		ok++;
	if (ok == 1000 || e.code != FM_E_RESOURCE_EXHAUSTED)
		return 2;
	/* nothing of the refused record is known, here or to the next reader */
	if (fm_journal_decide(j, FM_DECISION_COMMITTED, true, &e) == 0 && fm_journal_decide(j, FM_DECISION_COMMITTED, true, &e) == 0 &&
	    fm_journal_decide(j, FM_DECISION_COMMITTED, true, &e) == 0)
		return 3;
	enum fm_decision d = fm_journal_decision(j);
	struct fm_journal *again = NULL;
	if (fm_journal_open(dir, FILE_NAME, &again, &e) < 0 || fm_journal_decision(again) != d)
		return 4;
	fm_journal_free(again);
	/* room again */
	(void)snprintf(path, sizeof(path), "%s/ballast", dir);
	if (unlink(path) < 0 || fm_journal_decide(j, FM_DECISION_ABORTED, false, &e) < 0)
		return 5;
	fm_journal_free(j);
	again = NULL;
	if (fm_journal_open(dir, FILE_NAME, &again, &e) < 0 || fm_journal_decision(again) != FM_DECISION_ABORTED)
		return 6;
	fm_journal_free(again);
	/* a journal that cannot be created leaves no file */
	fill_disk(dir, 0);
	j = NULL;
	if (fm_journal_create(dir, "m-2", "source", json_object(), &j, &e) == 0 || j)
		return 7;
	(void)snprintf(path, sizeof(path), "%s/m-2.source.journal", dir);
	return fm_path_exists(path) ? 8 : 0;
}

static void test_disk_full(void **state)
{
	struct fixture *f = *state;
	int status = 0;
	if (geteuid() != 0) {
		print_message("not root: no file system of its own to fill\n");
		skip();
	}
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		/* in its own mount namespace, so that nothing is left even when this is killed */
		if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		    mount("fm-test", f->dir, "tmpfs", MS_NOSUID | MS_NODEV, "size=64k") < 0)
			_exit(100);
		_exit(on_full_disk(f->dir));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 100) {
		print_message("no mount namespace here\n");
		skip();
	}
	assert_int_equal(WEXITSTATUS(status), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_create_and_open),
		T(test_bad_head),
		T(test_undo),
		T(test_undo_without_argument),
		T(test_decisions),
		T(test_torn_at_every_byte),
		T(test_zeros_at_the_end),
		T(test_damaged_middle),
		T(test_kill_writer),
		T(test_disk_full),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
