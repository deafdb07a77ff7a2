/* SPDX-License-Identifier: MIT */
/* test-compat.c - the verdict on a move, of facts alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "basic/cleanup.h"
#include "decision/compat.h"

#define GB (1ull << 30)

struct lab {
	struct fm_compat_container c;
	struct fm_compat_host from, to;
	struct fm_compat found;
};

/* Two hosts that are the same: nothing can be said. */
static void fresh(struct lab *l)
{
	static const struct fm_compat_host h = { .name = "src",
		                                 .kernel = "6.1.0",
		                                 .machine = "x86_64",
		                                 .cpu_vendor = "GenuineIntel",
		                                 .cpu_model = "one",
		                                 .cpu_flags = "fpu sse2 avx2 avx512f hypervisor",
		                                 .cgroup_mode = "v2",
		                                 .runtime_version = "runc 1.1",
		                                 .criu_version = "4.2",
		                                 .criu_problem = "",
		                                 .ordinary_problem = "",
		                                 .xsave_features = 0xe7,
		                                 .xsave_bytes = 2696,
		                                 .page_bytes = 4096,
		                                 .memory_available_bytes = 4 * GB,
		                                 .disk_available_bytes = 9 * GB };

	l->c = (struct fm_compat_container){ .name = "web", .nested = true, .memory_bytes = GB, .rootfs_bytes = GB };
	l->from = l->to = h;
	l->to.name = "dst";
}

static void check(struct lab *l)
{
	fm_compat_check(&l->c, &l->from, &l->to, &l->found);
	for (size_t i = 1; i < l->found.n; i++)
		assert_true(l->found.v[i - 1].severity <= l->found.v[i].severity);
	for (size_t i = 0; i < l->found.n; i++) {
		assert_true(l->found.v[i].text[0] != 0);
		assert_true(l->found.v[i].remedy[0] != 0 || l->found.v[i].severity != FM_COMPAT_BLOCKER);
	}
}

/* The only thing that is found. */
static void one(struct lab *l, enum fm_compat_severity severity, const char *subject, const char *text)
{
	check(l);
	if (l->found.n != 1 || l->found.v[0].severity != severity || strcmp(l->found.v[0].subject, subject) != 0 ||
	    !strstr(l->found.v[0].text, text))
		fail_msg("%zu found, the first: %d %s '%s'; expected %d %s '%s'", l->found.n, l->found.n ? (int)l->found.v[0].severity : -1,
		         l->found.n ? l->found.v[0].subject : "", l->found.n ? l->found.v[0].text : "", (int)severity, subject, text);
	fresh(l);
}

static void none(struct lab *l)
{
	check(l);
	if (l->found.n != 0)
		fail_msg("found: %s", l->found.v[0].text);
	fresh(l);
}

static void test_same(void **state)
{
	static struct lab l;

	fresh(&l);
	none(&l);
	l.to.xsave_features |= 0x200; /* a destination that can do more is fine */
	l.to.cpu_flags = "fpu sse2 avx2 avx512f amx_tile hypervisor";
	none(&l);
	l.to.cpu_flags = "fpu sse2 avx2 avx512f"; /* not an instruction */
	none(&l);
	l.to.cgroup_mode = "hybrid"; /* a nested one does not see them */
	none(&l);
	l.to.ordinary_problem = "iptables-restore is missing";
	none(&l);
	l.to.runtime_version = NULL;
	none(&l);
}

static void test_processor(void **state)
{
	static struct lab l;

	fresh(&l);
	l.to.cpu_flags = "fpu sse2 avx2";
	one(&l, FM_COMPAT_BLOCKER, "cpu", "lacks 1 instruction set that 'src' has (avx512f)");
	l.to.cpu_flags = "sse2 avx avx512fx"; /* whole words */
	one(&l, FM_COMPAT_BLOCKER, "cpu", "lacks 3 instruction sets that 'src' has (fpu avx2 avx512f)");
	l.to.cpu_flags = "fpu sse2 avx2";
	l.c.ignore_cpu = true;
	one(&l, FM_COMPAT_RISK, "cpu", "(avx512f)");
	l.to.xsave_features = 0x7;
	one(&l, FM_COMPAT_BLOCKER, "cpu", "xsave components 0xe0");
	l.to.xsave_features = 0x7;
	l.c.ignore_cpu = true; /* registers cannot be ignored */
	one(&l, FM_COMPAT_BLOCKER, "cpu", "xsave components 0xe0");
	l.to.xsave_bytes = 832;
	one(&l, FM_COMPAT_BLOCKER, "cpu", "take 2696 bytes on 'src' and have room for 832");
	l.to.xsave_bytes = 11008;
	one(&l, FM_COMPAT_RISK, "cpu", "11008");
	l.to.xsave_bytes = 0; /* not known */
	l.to.xsave_features = 0;
	none(&l);
	l.to.cpu_vendor = "AuthenticAMD";
	l.to.cpu_model = "two";
	one(&l, FM_COMPAT_RISK, "cpu", "different makes");
	l.to.cpu_model = "two";
	one(&l, FM_COMPAT_NOTE, "cpu", "one on 'src', two on 'dst'");
	l.to.machine = "aarch64";
	l.to.cpu_flags = "fp asimd";
	l.to.page_bytes = 65536;
	one(&l, FM_COMPAT_BLOCKER, "architecture", "'dst' is aarch64");
	l.to.page_bytes = 16384;
	one(&l, FM_COMPAT_BLOCKER, "page size", "16384");
	l.to.cpu_flags = NULL;
	one(&l, FM_COMPAT_RISK, "facts", "'dst' does not say");
	l.from.page_bytes = 0;
	one(&l, FM_COMPAT_RISK, "facts", "'src' does not say");
}

static void test_host(void **state)
{
	static struct lab l;

	fresh(&l);
	l.to.criu_problem = "CRIU is not installed";
	l.to.criu_version = "";
	one(&l, FM_COMPAT_BLOCKER, "criu", "host 'dst' cannot restore: CRIU is not installed");
	l.to.criu_version = "4.1";
	one(&l, FM_COMPAT_RISK, "criu", "4.2 on 'src' and 4.1 on 'dst'");
	l.to.kernel = "6.12.0";
	one(&l, FM_COMPAT_NOTE, "kernel", "6.12.0");
	l.to.kernel = "5.15.0";
	one(&l, FM_COMPAT_RISK, "kernel", "5.15.0");
	l.c.nested = false;
	none(&l);
	l.c.nested = false;
	l.to.cgroup_mode = "hybrid";
	one(&l, FM_COMPAT_RISK, "cgroup", "v2 on 'src' and hybrid on 'dst'");
	l.c.nested = false;
	l.to.ordinary_problem = "iptables-restore is missing";
	one(&l, FM_COMPAT_BLOCKER, "iptables", "host 'dst': iptables-restore");
}

static void test_capacity(void **state)
{
	static struct lab l;

	fresh(&l);
	l.to.memory_available_bytes = GB + GB / 10;
	none(&l);
	l.to.memory_available_bytes = GB + GB / 10 - 1;
	one(&l, FM_COMPAT_BLOCKER, "memory", "it needs 1.1");
	l.to.disk_available_bytes = GB - 1;
	one(&l, FM_COMPAT_BLOCKER, "disk", "its root filesystem needs");
	l.to.disk_available_bytes = GB - 1;
	check(&l);
	assert_non_null(fm_compat_blocker(&l.found, FM_COMPAT_CAPACITY));
	assert_null(fm_compat_blocker(&l.found, FM_COMPAT_READINESS));
	assert_null(fm_compat_blocker(&l.found, FM_COMPAT_CONTAINER));
}

/* Everything that a source says of a container today; each has a remedy. */
static void test_container(void **state)
{
	static struct lab l;
	static char *const said[] = {
		(char *)"process 12 (a) uses io_uring, which cannot be saved",
		(char *)"process 12 (a) has a performance counter (perf_event) open, which cannot be saved",
		(char *)"process 12 (a) handles page faults itself (userfaultfd), which cannot be saved",
		(char *)"process 12 (a) has a BPF link open, which cannot be saved",
		(char *)"process 12 (a) runs a virtual machine (KVM), which cannot be saved",
		(char *)"process 12 (a) supervises another process (seccomp notify), which cannot be saved",
		(char *)"process 12 (a) has a kernel object open ([x]) that cannot be saved",
		(char *)"process 12 (a) uses a socket of family 40, which cannot be saved",
		(char *)"process 12 (a) uses multipath TCP, which cannot be saved (Go programs: set GODEBUG=multipathtcp=0)",
		(char *)"process 12 (a) has the device /dev/nvidia0 open, which cannot be saved",
		(char *)"process 12 (a) shares memory with a device (dma-buf), which cannot be saved",
		(char *)"process 12 (a) uses System V shared memory, which cannot be saved",
		(char *)"process 12 (a) is being debugged or traced, and can have one tracer only",
		(char *)"process 12 (a) has made a user namespace of its own, which cannot be saved",
		(char *)"process 12 (a) does not belong to the application (docker exec?) and would stay behind",
		(char *)"the container is not running",
		(char *)"the container's application has ended"
	};

	fresh(&l);
	l.c.blockers = said;
	l.c.n_blockers = FM_ARRAY_SIZE(said);
	l.to.kernel = "5.15.0"; /* a risk comes after them */
	check(&l);
	assert_int_equal(l.found.n, FM_ARRAY_SIZE(said) + 1);
	for (size_t i = 0; i < FM_ARRAY_SIZE(said); i++)
		assert_string_equal(l.found.v[i].text, said[i]);
	assert_ptr_equal(fm_compat_blocker(&l.found, FM_COMPAT_CONTAINER), &l.found.v[0]);
	assert_string_equal(fm_compat_remedy("something new"), "");
}

/* More than there is room for: risks give way to blockers, nothing is overrun. */
static void test_full(void **state)
{
	static struct lab l;
	char *many[FM_COMPAT_MAX + 9];

	fresh(&l);
	for (size_t i = 0; i < FM_ARRAY_SIZE(many); i++)
		many[i] = (char *)"the container is not running";
	l.c.blockers = many;
	l.c.n_blockers = FM_COMPAT_MAX - 1;
	l.to.criu_version = "4.1";        /* takes the last place */
	l.to.cpu_flags = "fpu sse2 avx2"; /* and has to give it away */
	check(&l);
	assert_int_equal(l.found.n, FM_COMPAT_MAX);
	assert_string_equal(l.found.v[FM_COMPAT_MAX - 1].subject, "cpu");
	l.c.n_blockers = FM_ARRAY_SIZE(many);
	check(&l);
	assert_int_equal(l.found.n, FM_COMPAT_MAX);
	assert_string_equal(l.found.v[FM_COMPAT_MAX - 1].subject, "container");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same),     cmocka_unit_test(test_processor), cmocka_unit_test(test_host),
		cmocka_unit_test(test_capacity), cmocka_unit_test(test_container), cmocka_unit_test(test_full)
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
