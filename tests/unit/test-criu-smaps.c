/* SPDX-License-Identifier: MIT */
/* test-criu-smaps.c - what is said about a process's mappings without asking the kernel for smaps: the truth, nothing, or found out. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/proc.h"
#include "container/criu-smaps.h"

#define MIB (1u << 20)

static struct fm_error err;

struct target {
	pid_t pid;
	int to, from;
};

/* 'f': other flags, 'm': a new mapping, 'w': pages, which are nobody's business here */
static void target_main(int to, int from)
{
	uint8_t *p = mmap(NULL, 8 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char c = 'x';

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	memset(p, 1, MIB);
	while (write(from, &c, 1) == 1 && read(to, &c, 1) == 1) {
		if (c == 'f' && madvise(p, 8 * MIB, MADV_DONTFORK) < 0)
			break;
		if (c == 'm' && mmap(NULL, 3 * MIB, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
			break;
		if (c == 'w')
			memset(p, 2, 8 * MIB);
	}
	_exit(1);
}

static void order(const struct target *t, char c)
{
	char word;

	assert_int_equal(write(t->to, &c, 1), 1);
	assert_int_equal(read(t->from, &word, 1), 1);
}

static void stop(const struct target *t)
{
	assert_int_equal(kill(t->pid, SIGSTOP), 0);
	while (fm_proc_state(t->pid) != 'T')
		fm_pause_ms(1);
}

static int setup(void **state)
{
	struct target *t = calloc(1, sizeof(*t));
	int to[2], from[2];
	char word;

	assert_non_null(t);
	assert_int_equal(pipe(to), 0);
	assert_int_equal(pipe(from), 0);
	t->pid = fork();
	if (t->pid == 0)
		target_main(to[0], from[1]);
	(void)close(to[0]);
	(void)close(from[1]);
	t->to = to[1];
	t->from = from[0];
	assert_int_equal(read(t->from, &word, 1), 1);
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	struct target *t = *state;

	(void)kill(t->pid, SIGKILL);
	(void)waitpid(t->pid, NULL, 0);
	(void)close(t->to);
	(void)close(t->from);
	free(t);
	return 0;
}

static struct fm_smaps *look(const struct target *t)
{
	struct fm_smaps *s = NULL;

	err = FM_ERROR_INIT;
	if (fm_smaps_look(t->pid, &s, &err) < 0)
		fail_msg("%s", err.message);
	return s;
}

/* The lines of the kernel's smaps that CRIU reads */
static char *real_lines(pid_t pid)
{
	char path[48], *text = NULL, *out = NULL, *save = NULL;
	size_t n = 0;

	(void)snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
	assert_int_equal(fm_read_file(path, 64 * MIB, &text, NULL, NULL), 0);
	FILE *f = open_memstream(&out, &n);
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		bool header = (*line >= '0' && *line <= '9') || (*line >= 'a' && *line <= 'f');
		if (header || strncmp(line, "VmFlags: ", 9) == 0)
			(void)fprintf(f, "%s\n", line);
	}
	(void)fclose(f);
	free(text);
	return out;
}

static void remove_soft_dirty(char *text)
{
	size_t to = 0;

	for (size_t i = 0; text[i]; i += strncmp(text + i, " sd", 3) == 0 ? 3 : 1)
		if (strncmp(text + i, " sd", 3) != 0)
			text[to++] = text[i];
	text[to] = '\0';
}

static void test_truth(void **state)
{
	struct target *t = *state;
	struct fm_smaps *s = look(t);

	order(t, 'w');
	stop(t);
	char *said = fm_smaps_answer(s, t->pid), *real = real_lines(t->pid);
	assert_non_null(said);
	remove_soft_dirty(real);
	assert_string_equal(said, real);
	err = FM_ERROR_INIT;
	assert_int_equal(fm_smaps_verify(s, &err), 0);
	free(said);
	free(real);
	fm_smaps_free(s);
}

static void test_new_mapping(void **state)
{
	struct target *t = *state;
	struct fm_smaps *s = look(t);

	order(t, 'm');
	stop(t);
	assert_null(fm_smaps_answer(s, t->pid));
	assert_null(fm_smaps_answer(s, getpid())); /* not of the tree */
	err = FM_ERROR_INIT;
	assert_int_equal(fm_smaps_verify(s, &err), 0); /* nothing was said */
	fm_smaps_free(s);
}

static void test_other_flags(void **state)
{
	struct target *t = *state;
	struct fm_smaps *s = look(t);

	order(t, 'f');
	stop(t);
	char *said = fm_smaps_answer(s, t->pid);
	assert_non_null(said);
	err = FM_ERROR_INIT;
	assert_int_equal(fm_smaps_verify(s, &err), -1);
	assert_int_equal(err.code, FM_E_ABORTED);
	assert_true(err.hint[0]);
	free(said);
	fm_smaps_free(s);
}

static void test_no_process(void **state)
{
	struct target *t = *state;
	struct fm_smaps *s = look(t);

	assert_int_equal(kill(t->pid, SIGKILL), 0);
	while (fm_proc_state(t->pid) != 'Z')
		fm_pause_ms(1);
	free(fm_smaps_answer(s, t->pid));
	fm_smaps_free(s);
	fm_smaps_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_truth, setup, teardown),
		cmocka_unit_test_setup_teardown(test_new_mapping, setup, teardown),
		cmocka_unit_test_setup_teardown(test_other_flags, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_process, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
