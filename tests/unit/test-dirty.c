/* SPDX-License-Identifier: MIT */
/* test-dirty.c - the estimate of how fast memory is written, against processes that write at a known pace. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

#include "basic/clock.h"
#include "basic/proc.h"
#include "monitor/dirty.h"

#define MB   (1u << 20)
#define PAGE 4096u

struct writer {
	pid_t pid;
	volatile uint64_t *written; /* pages so far, shared */
};

/* writer.c, beside this program */
static _Noreturn void run_writer(const char *how, const char *rate, int memory, int ready)
{
	char path[1024];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 8);

	path[n > 0 ? n : 0] = '\0';
	char *slash = strrchr(path, '/');
	if (!slash || dup2(ready, 1) < 0 || dup2(memory, 3) < 0)
		_exit(1);
	(void)strcpy(slash + 1, "writer");
	(void)execl(path, "writer", how, rate, (char *)NULL);
	_exit(1);
}

static struct writer start_as(const char *how, uint64_t bytes_per_s)
{
	int ready[2], memory = memfd_create("written", 0);
	char byte, rate[24];
	struct writer w = { 0 };

	(void)snprintf(rate, sizeof(rate), "%llu", (unsigned long long)bytes_per_s);
	assert_true(memory >= 0 && ftruncate(memory, PAGE) == 0);
	w.written = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	assert_sys(pipe(ready));
	w.pid = fork();
	if (w.pid == 0)
		run_writer(how, bytes_per_s == UINT64_MAX ? NULL : rate, memory, ready[1]);
	close(ready[1]);
	close(memory);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return w;
}

static struct writer start(uint64_t bytes_per_s)
{
	return start_as("write", bytes_per_s);
}

static void stop(struct writer *w)
{
	(void)kill(w->pid, SIGKILL);
	(void)waitpid(w->pid, NULL, 0);
	(void)munmap((void *)(uintptr_t)w->written, PAGE);
}

/* What is estimated, and what was written meanwhile, bytes a second. */
static void compare(const struct writer *w, uint64_t *ret_estimate, uint64_t *ret_truth)
{
	struct fm_dirty *d = fm_dirty_new(12345);
	uint64_t began_us = fm_now_us(), before = *w->written, cpu_us = fm_thread_cpu_us();
	int rc;

	assert_true(fm_dirty_begin(d, "", &w->pid, 1, began_us));
	cpu_us = fm_thread_cpu_us() - cpu_us;
	assert_int_equal(fm_dirty_look(d, began_us + 1000, ret_estimate), 0); /* too early */
	while ((rc = fm_dirty_look(d, fm_now_us(), ret_estimate)) == 0)
		fm_pause_ms(20);
	assert_int_equal(rc, 1);
	*ret_truth = (*w->written - before) * PAGE * 1000000 / (fm_now_us() - began_us);
	print_message("estimated %.1f MB/s, written %.1f MB/s, a look %llu us\n", (double)*ret_estimate / 1e6, (double)*ret_truth / 1e6,
	              (unsigned long long)cpu_us);
	fm_dirty_free(d);
}

static void check_rate(uint64_t bytes_per_s, double tolerance)
{
	struct writer w = start(bytes_per_s);
	uint64_t estimate = 0, truth = 0;

	compare(&w, &estimate, &truth);
	stop(&w);
	assert_true((double)estimate > (double)truth * (1 - tolerance) && (double)estimate < (double)truth * (1 + tolerance));
}

static void test_known_writers(void **state)
{
	check_rate(20 * MB, 0.35); /* a third of its memory in a second: 80 of 256 pages, 3 standard errors are 28 % */
	check_rate(4 * MB, 0.6);   /* after four seconds 64 pages */
}

static void test_idle(void **state)
{
	struct writer w = start(0);
	uint64_t estimate = 1, truth;

	compare(&w, &estimate, &truth);
	stop(&w);
	assert_true(estimate < MB); /* its own stack's pages at most */
}

/* Mapped, but never touched: nothing of it is brought in by looking. */
static void test_brings_nothing_in(void **state)
{
	struct writer w = start_as("sparse", UINT64_MAX);
	pid_t pid = w.pid;
	char path[64], before[128] = "", after[128] = "";
	struct fm_dirty *d = fm_dirty_new(5);
	uint64_t v;

	while (fm_proc_state(pid) != 'S') /* it has said that it is ready, and is on its way to sleep */
		fm_pause_ms(1);
	(void)snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
	FILE *f = fopen(path, "re");
	assert_true(f && fgets(before, sizeof(before), f));
	(void)fclose(f);
	uint64_t now_us = fm_now_us();
	assert_true(fm_dirty_begin(d, "", &pid, 1, now_us));
	assert_int_equal(fm_dirty_look(d, now_us + 1000000, &v), 0);
	assert_int_equal(fm_dirty_look(d, now_us + 5000000, &v), 1);
	assert_true(v < MB); /* a page of its own stack may have been drawn */
	f = fopen(path, "re");
	assert_true(f && fgets(after, sizeof(after), f));
	(void)fclose(f);
	assert_string_equal(before, after);
	stop(&w);
	/* it is gone */
	assert_false(fm_dirty_begin(d, "", &pid, 1, now_us));
	fm_dirty_free(d);
}

static void test_ends_meanwhile(void **state)
{
	struct writer w = start(MB);
	struct fm_dirty *d = fm_dirty_new(5);
	uint64_t v, now_us = fm_now_us();

	assert_true(fm_dirty_begin(d, "", &w.pid, 1, now_us));
	stop(&w);
	assert_int_equal(fm_dirty_look(d, now_us + 2000000, &v), -1);
	fm_dirty_free(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_known_writers), cmocka_unit_test(test_idle),
		                            cmocka_unit_test(test_brings_nothing_in), cmocka_unit_test(test_ends_meanwhile) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
