/* SPDX-License-Identifier: MIT */
/* test-cgroup.c - processor time of a real cgroup with a busy process in it: measured, limited, put back; and where a cgroup is, by the text of mountinfo. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above */
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/cgroups.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/str.h"
#include "container/cgroup.h"

#define OK(call)                                                                                                                           \
	do {                                                                                                                               \
		struct fm_error *e_ = &oops;                                                                                               \
		*e_ = FM_ERROR_INIT;                                                                                                       \
		if ((call) != 0)                                                                                                           \
			fail_msg("%s: %s", #call, e_->message);                                                                            \
	} while (0)
#define MAX_GROUPS 2

static struct fm_error oops;

struct fixture {
	char groups[MAX_GROUPS][128]; /* cpu and cpuacct, or one of cgroup v2 */
	size_t n;
	bool v2;
	pid_t busy;
	struct fm_cgroup_cpu *cpu;
};

/* Made the same way everywhere; false: there is no such hierarchy. */
static bool make_group(struct fixture *f, const char *point, const char *needs)
{
	char path[192];
	(void)snprintf(f->groups[f->n], sizeof(f->groups[0]), "%s/fm-test-cpu-%d", point, (int)getpid());
	if (mkdir(f->groups[f->n], 0755) < 0)
		return false;
	(void)snprintf(path, sizeof(path), "%s/%s", f->groups[f->n], needs);
	f->n++;
	return fm_path_exists(path);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	char path[192], pid[16];
	*state = f;
	if (!make_group(f, "/sys/fs/cgroup/cpu", "cpu.cfs_quota_us") || !make_group(f, "/sys/fs/cgroup/cpuacct", "cpuacct.usage"))
		f->v2 = f->n == 0 && make_group(f, "/sys/fs/cgroup", "cpu.max");
	if (f->n < MAX_GROUPS && !f->v2)
		return 0;
	f->busy = fork();
	if (f->busy == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			__asm__ volatile("");
	}
	(void)snprintf(pid, sizeof(pid), "%d", (int)f->busy);
	for (size_t i = 0; i < f->n; i++) {
		(void)snprintf(path, sizeof(path), "%s/cgroup.procs", f->groups[i]);
		if (fm_write_file(path, pid, &oops) < 0)
			return -1;
	}
	return 0;
}

static void remove_groups(struct fixture *f)
{
	if (f->busy > 0) {
		(void)kill(f->busy, SIGKILL);
		(void)waitpid(f->busy, NULL, 0);
	}
	f->busy = 0;
	uint64_t deadline = fm_now_ms() + 10000;
	for (size_t i = 0; i < f->n; i++)
		while (rmdir(f->groups[i]) < 0 && errno == EBUSY && fm_now_ms() < deadline)
			fm_pause_ms(5);
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	remove_groups(f);
	fm_cgroup_cpu_free(f->cpu);
	free(f);
	return 0;
}

#define NEED(f)                                                                                                                            \
	do {                                                                                                                               \
		if ((f)->busy <= 0) {                                                                                                      \
			print_message("skipped: no cgroup with a quota of processor time can be made here\n");                             \
			skip();                                                                                                            \
		}                                                                                                                          \
	} while (0)

/* The quota in microseconds a period, as text; "max" and "-1" are none. */
static const char *quota(const struct fixture *f, char *buf, size_t cap)
{
	_fm_free_ char *file = fm_xasprintf("%s/%s", f->groups[0], f->v2 ? "cpu.max" : "cpu.cfs_quota_us");
	_fm_free_ char *text = NULL;
	OK(fm_read_file(file, 4096, &text, NULL, &oops));
	(void)snprintf(buf, cap, "%.*s", (int)strcspn(text, " \n"), text);
	return fm_streq(buf, "max") ? "-1" : buf;
}

static void set_quota(const struct fixture *f, const char *text)
{
	_fm_free_ char *file = fm_xasprintf("%s/%s", f->groups[0], f->v2 ? "cpu.max" : "cpu.cfs_quota_us");
	OK(fm_write_file(file, text, &oops));
}

static uint64_t rate_us_per_s(const struct fixture *f, unsigned ms)
{
	uint64_t before, after, t = fm_now_us();
	OK(fm_cgroup_cpu_used_us(f->cpu, &before, &oops));
	while (fm_now_us() - t < ms * 1000ull)
		fm_pause_ms(ms / 10);
	OK(fm_cgroup_cpu_used_us(f->cpu, &after, &oops));
	return (after - before) * 1000000 / (fm_now_us() - t);
}

static void test_limit_and_restore(void **state)
{
	struct fixture *f = *state;
	char was[256], buf[64];
	NEED(f);
	OK(fm_cgroup_cpu_open(f->busy, &f->cpu, &oops));
	OK(fm_cgroup_cpu_remember(f->cpu, was, sizeof(was), &oops));
	assert_string_equal(quota(f, buf, sizeof(buf)), "-1");
	uint64_t free_rate = rate_us_per_s(f, 300);
	assert_true(free_rate > 100000);
	OK(fm_cgroup_cpu_limit(f->cpu, 50000, &oops));
	assert_string_equal(quota(f, buf, sizeof(buf)), "5000"); /* of a period of 100 ms */
	assert_in_range(rate_us_per_s(f, 500), 1000, 90000);
	for (int i = 0; i < 2; i++) {
		OK(fm_cgroup_cpu_restore(was, &oops));
		assert_string_equal(quota(f, buf, sizeof(buf)), "-1");
	}
	assert_true(rate_us_per_s(f, 300) > 100000);
}

/* A quota of the container's own is never raised, and it is what comes back. */
static void test_only_lower(void **state)
{
	struct fixture *f = *state;
	char was[256], buf[64];
	NEED(f);
	set_quota(f, f->v2 ? "30000 50000" : "30000");
	OK(fm_cgroup_cpu_open(f->busy, &f->cpu, &oops));
	OK(fm_cgroup_cpu_remember(f->cpu, was, sizeof(was), &oops));
	OK(fm_cgroup_cpu_limit(f->cpu, 4000000, &oops));
	assert_string_equal(quota(f, buf, sizeof(buf)), "30000");
	OK(fm_cgroup_cpu_limit(f->cpu, 100000, &oops));
	assert_string_equal(quota(f, buf, sizeof(buf)), f->v2 ? "5000" : "10000");
	OK(fm_cgroup_cpu_limit(f->cpu, 200000, &oops));
	assert_string_equal(quota(f, buf, sizeof(buf)), f->v2 ? "5000" : "10000");
	OK(fm_cgroup_cpu_limit(f->cpu, 0, &oops)); /* slowed down, not stopped */
	assert_string_equal(quota(f, buf, sizeof(buf)), "1000");
	OK(fm_cgroup_cpu_restore(was, &oops));
	assert_string_equal(quota(f, buf, sizeof(buf)), "30000");
}

static void test_gone(void **state)
{
	struct fixture *f = *state;
	char was[256];
	uint64_t used;
	NEED(f);
	OK(fm_cgroup_cpu_open(f->busy, &f->cpu, &oops));
	OK(fm_cgroup_cpu_remember(f->cpu, was, sizeof(was), &oops));
	remove_groups(f);
	OK(fm_cgroup_cpu_restore(was, &oops));
	assert_int_equal(fm_cgroup_cpu_limit(f->cpu, 1000, &oops), -1);
	assert_int_equal(fm_cgroup_cpu_used_us(f->cpu, &used, &oops), -1);
	assert_int_equal(fm_cgroup_cpu_remember(f->cpu, was, sizeof(was), &oops), -1);
	f->n = 0;
}

/* The root's cgroup is everybody's. */
static void test_no_cgroup_of_its_own(void **state)
{
	struct fm_cgroup_cpu *c = NULL;
	_fm_free_ char *cgroups = NULL;
	OK(fm_read_file("/proc/1/cgroup", 65536, &cgroups, NULL, &oops));
	if (!strstr(cgroups, ":cpu:/\n") && !strstr(cgroups, ":cpu,cpuacct:/\n") && strcmp(cgroups, "0::/\n") != 0) {
		print_message("skipped: the first process has a cgroup of its own here\n");
		skip();
	}
	assert_int_equal(fm_cgroup_cpu_open(1, &c, &oops), -1);
	assert_int_equal(oops.code, FM_E_FAILED_PRECONDITION);
	assert_null(c);
}

static void test_bad_memory(void **state)
{
	assert_int_equal(fm_cgroup_cpu_restore("", &oops), -1);
	assert_int_equal(fm_cgroup_cpu_restore("/no/equals/sign", &oops), -1);
	OK(fm_cgroup_cpu_restore("/no/such/cgroup/cpu.max=max 100000", &oops));
}

static void test_folder(void **state)
{
	char dir[] = "/tmp/fm-test-cgroup-XXXXXX";
	assert_non_null(mkdtemp(dir));
	_fm_free_ char *group = fm_xasprintf("%s/a/b", dir);
	_fm_free_ char *procs = fm_xasprintf("%s/cgroup.procs", group);
	_fm_free_ char *mountinfo = fm_xasprintf("28 1 0:25 / /nowhere rw - cgroup cgroup rw,cpuset\nnonsense\n"
	                                         "30 1 0:27 / %s/other rw - cgroup2 cgroup2 rw\n"
	                                         "29 1 0:26 /outer %s rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n",
	                                         dir, dir);
	OK(fm_mkdir_p(group, 0700, &oops));
	OK(fm_write_file_atomic(procs, "", 0, 0600, &oops));
	_fm_free_ char *found = fm_cgroup_folder("cpu,cpuacct", "/outer/a/b", mountinfo);
	assert_non_null(found);
	assert_string_equal(found, group);
	assert_null(fm_cgroup_folder("cpu,cpuacct", "/a/b", mountinfo)); /* not below the mount's root */
	assert_null(fm_cgroup_folder("cpu,cpuacct", "/outerspace/b", mountinfo));
	assert_null(fm_cgroup_folder("cpu,cpuacct", "/outer/a/c", mountinfo)); /* not there */
	assert_null(fm_cgroup_folder("memory", "/outer/a/b", mountinfo));
	assert_null(fm_cgroup_folder("", "/a/b", mountinfo));
	assert_null(fm_cgroup_folder("cpu", "/outer/a/b", ""));
	OK(fm_remove_tree(dir, &oops));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_limit_and_restore),         T(test_only_lower),           T(test_gone), cmocka_unit_test(test_no_cgroup_of_its_own),
		cmocka_unit_test(test_bad_memory), cmocka_unit_test(test_folder)
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
