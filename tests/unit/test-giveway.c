/* SPDX-License-Identifier: MIT */
/* Tests of basic/giveway, with real threads on a processor that they have to share. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "basic/clock.h"
#include "basic/giveway.h"

#define SECTION_US   500u
#define SECTIONS_MAX 200u

static void compute(uint64_t us)
{
	uint64_t end = fm_thread_cpu_us() + us;
	while (fm_thread_cpu_us() < end)
		;
}

static void pin_to_one(cpu_set_t *before)
{
	cpu_set_t one;
	int cpu = sched_getcpu();

	assert_true(cpu >= 0);
	assert_int_equal(sched_getaffinity(0, sizeof(*before), before), 0);
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
}

static void *spin(void *stop)
{
	while (!atomic_load((atomic_bool *)stop))
		;
	return NULL;
}

static void test_section(void **state)
{
	struct fm_giveway g;
	int nice = getpriority(PRIO_PROCESS, 0);

	fm_giveway_init(&g);
	assert_true(g.possible); /* the tests are run as root */
	fm_giveway_begin(&g);
	assert_int_equal(sched_getscheduler(0), SCHED_IDLE);
	fm_giveway_end(&g);
	assert_int_equal(sched_getscheduler(0), SCHED_OTHER);
	assert_int_equal(getpriority(PRIO_PROCESS, 0), nice);
	fm_giveway_end(&g); /* of nothing */
	assert_int_equal(sched_getscheduler(0), SCHED_OTHER);
}

/* Somebody who never pauses has the processor: giving way would mean never to run. */
static void test_starving(void **state)
{
	struct fm_giveway g;
	atomic_bool stop = false;
	pthread_t other;
	cpu_set_t before;
	unsigned n = 0;

	pin_to_one(&before);
	assert_int_equal(pthread_create(&other, NULL, spin, &stop), 0); /* where this thread may run */
	fm_giveway_init(&g);
	for (; n < SECTIONS_MAX && g.ordinary == 0; n++) {
		fm_giveway_begin(&g);
		compute(SECTION_US);
		fm_giveway_end(&g);
	}
	assert_true(g.ordinary > 0);
	unsigned first = g.ordinary;
	fm_giveway_begin(&g);
	assert_int_equal(sched_getscheduler(0), SCHED_OTHER);
	fm_giveway_end(&g);
	assert_int_equal(g.ordinary, first - 1);
	atomic_store(&stop, true);
	pthread_join(other, NULL);
	assert_int_equal(sched_setaffinity(0, sizeof(before), &before), 0);
}

static int unprivileged(void)
{
	struct rlimit none = { 0 };
	struct fm_giveway g;

	if (setrlimit(RLIMIT_NICE, &none) < 0 || setresuid(65534, 65534, 65534) < 0)
		return 2;
	fm_giveway_init(&g);
	fm_giveway_begin(&g);
	int during = sched_getscheduler(0);
	fm_giveway_end(&g);
	return g.possible || during != SCHED_OTHER;
}

/* Who could not come back does not go. */
static void test_unprivileged(void **state)
{
	int status = -1;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0)
		_exit(unprivileged());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_section),
		cmocka_unit_test(test_starving),
		cmocka_unit_test(test_unprivileged),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
