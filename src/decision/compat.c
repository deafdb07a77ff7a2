/* SPDX-License-Identifier: MIT */
/* compat.c - see compat.h. */
#include "decision/compat.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/str.h"

const char *fm_compat_severity_to_string(enum fm_compat_severity s)
{
	static const char *const names[] = { "blocker", "risk", "note" };
	return (unsigned)s < FM_ARRAY_SIZE(names) ? names[s] : "unknown";
}

const char *fm_compat_remedy(const char *blocker)
{
	static const struct {
		const char *sign, *remedy;
	} known[] = {
		{ "io_uring", "let the program use epoll (many have a switch: nginx 'use epoll', Node.js UV_USE_IO_URING=0, PostgreSQL "
		              "io_method=worker)" },
		{ "perf_event", "stop profiling it while it moves" },
		{ "userfaultfd", "switch off what handles page faults itself in it (a garbage collector, a snapshot)" },
		{ "BPF", "load BPF programs from the host, outside the container" },
		{ "KVM", "move the virtual machine with its own means" },
		{ "seccomp notify", "let something outside the container supervise it" },
		{ "multipath TCP", "use TCP: Go programs with GODEBUG=multipathtcp=0" },
		{ "device", "run it without the device, or stop it and start it on the other host" },
		{ "dma-buf", "run it without the device, or stop it and start it on the other host" },
		{ "System V", "use POSIX or mapped shared memory, semaphores and queues" },
		{ "debugged or traced", "end the debugger or tracer" },
		{ "namespace of its own", "run what makes it (a sandbox, a container in the container) outside, or switch it off" },
		{ "does not belong to the application", "end it, or leave that shell, and ask again" },
		{ "socket of", "let the program use TCP, UDP or Unix sockets" },
		{ "kernel object", "let the program do without it while it moves" },
		{ "is not running", "start it first" },
		{ "has ended", "start it again" },
		{ "iptables", "install the package iptables on the source" },
		{ "CRIU", "run 'fleximigrate doctor' on the source" },
	};

	for (size_t i = 0; i < FM_ARRAY_SIZE(known); i++)
		if (strstr(blocker, known[i].sign))
			return known[i].remedy;
	return "";
}

struct check {
	const struct fm_compat_container *c;
	const struct fm_compat_host *from, *to;
	struct fm_compat *out;
};

/* In its place, the most severe first. When there is no more room the last one gives way to a more severe one. NULL: not added. */
static struct fm_compat_finding *add(struct check *x, enum fm_compat_severity severity, enum fm_compat_part part, const char *subject,
                                     const char *remedy)
{
	struct fm_compat *o = x->out;

	if (o->n == FM_COMPAT_MAX && o->v[o->n - 1].severity <= severity)
		return NULL;
	size_t at = o->n == FM_COMPAT_MAX ? o->n - 1 : o->n++;
	for (; at > 0 && o->v[at - 1].severity > severity; at--)
		o->v[at] = o->v[at - 1];
	struct fm_compat_finding *f = &o->v[at];
	f->severity = severity;
	f->part = part;
	f->subject = subject;
	f->text[0] = '\0';
	(void)snprintf(f->remedy, sizeof(f->remedy), "%s", remedy);
	return f;
}

__attribute__((format(printf, 6, 7))) static void find(struct check *x, enum fm_compat_severity severity, enum fm_compat_part part,
                                                       const char *subject, const char *remedy, const char *fmt, ...)
{
	struct fm_compat_finding *f = add(x, severity, part, subject, remedy);
	va_list ap;

	if (!f)
		return;
	va_start(ap, fmt);
	(void)vsnprintf(f->text, sizeof(f->text), fmt, ap);
	va_end(ap);
}

static bool is_known(const char *a, const char *b)
{
	return a && a[0] && b && b[0];
}

static bool differs(const char *a, const char *b)
{
	return is_known(a, b) && !fm_streq(a, b);
}

static void check_container(struct check *x)
{
	for (size_t i = 0; i < x->c->n_blockers; i++)
		find(x, FM_COMPAT_BLOCKER, FM_COMPAT_CONTAINER, "container", fm_compat_remedy(x->c->blockers[i]), "%s", x->c->blockers[i]);
}

static void check_programs(struct check *x)
{
	_fm_free_ char *doctor = fm_xasprintf("run 'fleximigrate doctor' on '%s'", x->to->name);

	if (x->to->criu_problem && x->to->criu_problem[0])
		find(x, FM_COMPAT_BLOCKER, FM_COMPAT_READINESS, "criu", doctor, "host '%s' cannot restore: %s", x->to->name,
		     x->to->criu_problem);
	else if (differs(x->from->criu_version, x->to->criu_version))
		find(x, FM_COMPAT_RISK, FM_COMPAT_READINESS, "criu", "install the same version on both hosts: tools/setup/install-criu.sh",
		     "CRIU is %s on '%s' and %s on '%s': an older one may not read what a newer one has written", x->from->criu_version,
		     x->from->name, x->to->criu_version, x->to->name);
	if (!x->c->nested && x->to->ordinary_problem && x->to->ordinary_problem[0])
		find(x, FM_COMPAT_BLOCKER, FM_COMPAT_READINESS, "iptables", "install the package iptables there", "host '%s': %s",
		     x->to->name, x->to->ordinary_problem);
	if (!x->c->nested && differs(x->from->cgroup_mode, x->to->cgroup_mode))
		find(x, FM_COMPAT_RISK, FM_COMPAT_READINESS, "cgroup", "boot both with the same hierarchy, or run the container nested",
		     "control groups are %s on '%s' and %s on '%s': the groups of an ordinary container may not be made there",
		     x->from->cgroup_mode, x->from->name, x->to->cgroup_mode, x->to->name);
}

static void check_capacity(struct check *x)
{
	uint64_t memory = x->c->memory_bytes + x->c->memory_bytes / 10;
	char need[32], have[32];

	if (memory > x->to->memory_available_bytes)
		find(x, FM_COMPAT_BLOCKER, FM_COMPAT_CAPACITY, "memory", "free memory there, or choose another host",
		     "it needs %s of memory, '%s' has %s available", fm_format_bytes(memory, need, sizeof(need)), x->to->name,
		     fm_format_bytes(x->to->memory_available_bytes, have, sizeof(have)));
	if (x->c->rootfs_bytes > x->to->disk_available_bytes)
		find(x, FM_COMPAT_BLOCKER, FM_COMPAT_CAPACITY, "disk", "free disk space there, or choose another host",
		     "its root filesystem needs %s, '%s' has %s of disk available", fm_format_bytes(x->c->rootfs_bytes, need, sizeof(need)),
		     x->to->name, fm_format_bytes(x->to->disk_available_bytes, have, sizeof(have)));
}

static bool has_flag(const char *flags, const char *flag, size_t len)
{
	for (const char *p = flags; *p; p += strcspn(p, " "), p += strspn(p, " "))
		if (strcspn(p, " ") == len && memcmp(p, flag, len) == 0)
			return true;
	return false;
}

/* Flags of /proc/cpuinfo that say something of the kernel or of how the machine is run, not of an instruction that a program could use. */
static bool is_instruction_set(const char *flag, size_t len)
{
	static const char *const sets[] = { "fpu",           "cx8",        "cmov",     "mmx",        "fxsr",    "sse",       "sse2",
		                            "pni",           "ssse3",      "sse4_1",   "sse4_2",     "sse4a",   "popcnt",    "lm",
		                            "lahf_lm",       "cx16",       "avx",      "avx2",       "fma",     "fma4",      "f16c",
		                            "bmi1",          "bmi2",       "abm",      "movbe",      "aes",     "vaes",      "sha_ni",
		                            "gfni",          "adx",        "rdrand",   "rdseed",     "rdpid",   "rdtscp",    "erms",
		                            "fsrm",          "xsave",      "xsaveopt", "xsavec",     "xgetbv1", "pclmulqdq", "vpclmulqdq",
		                            "hle",           "rtm",        "fsgsbase", "clflushopt", "clwb",    "movdiri",   "movdir64b",
		                            "serialize",     "waitpkg",    "pku",      "ospke",      "xop",     "tbm",       "3dnow",
		                            "3dnowprefetch", "user_shstk", "cldemote" };

	for (size_t i = 0; i < FM_ARRAY_SIZE(sets); i++)
		if (strlen(sets[i]) == len && memcmp(sets[i], flag, len) == 0)
			return true;
	return (len > 6 && memcmp(flag, "avx512", 6) == 0) || (len > 4 && memcmp(flag, "amx_", 4) == 0) ||
	       (len > 4 && memcmp(flag, "avx_", 4) == 0);
}

static void check_instructions(struct check *x)
{
	char missing[200] = "";
	size_t n = 0, len = 0;

	if (!is_known(x->from->cpu_flags, x->to->cpu_flags))
		return;
	for (const char *p = x->from->cpu_flags; *p; p += strcspn(p, " "), p += strspn(p, " ")) {
		size_t l = strcspn(p, " ");

		if (l == 0 || !is_instruction_set(p, l) || has_flag(x->to->cpu_flags, p, l))
			continue;
		n++;
		if (len + l + 2 < sizeof(missing))
			len += (size_t)snprintf(missing + len, sizeof(missing) - len, "%s%.*s", len ? " " : "", (int)l, p);
	}
	if (n > 0)
		find(x, x->c->ignore_cpu ? FM_COMPAT_RISK : FM_COMPAT_BLOCKER, FM_COMPAT_READINESS, "cpu",
		     x->c->ignore_cpu ? "it is the label fleximigrate.cpu=ignore that lets it go"
		                      : "choose a host that has them; a program that does not use them may go with the label "
		                        "fleximigrate.cpu=ignore",
		     "the processor of '%s' lacks %zu instruction set%s that '%s' has (%s): a program that found them when it began would "
		     "be killed there",
		     x->to->name, n, n == 1 ? "" : "s", x->from->name, missing);
}

static void check_registers(struct check *x)
{
	uint64_t missing = x->from->xsave_features & ~x->to->xsave_features;

	if (!x->from->xsave_bytes || !x->to->xsave_bytes)
		return;
	if (missing)
		find(x, FM_COMPAT_BLOCKER, FM_COMPAT_READINESS, "cpu",
		     "choose a host with such a processor, or switch these registers on there",
		     "the processor of '%s' does not have all registers that '%s' has (xsave components 0x%llx)", x->to->name,
		     x->from->name, (unsigned long long)missing);
	else if (x->to->xsave_bytes < x->from->xsave_bytes)
		find(x, FM_COMPAT_BLOCKER, FM_COMPAT_READINESS, "cpu", "choose a host with such a processor",
		     "saved registers take %u bytes on '%s' and have room for %u on '%s'", x->from->xsave_bytes, x->from->name,
		     x->to->xsave_bytes, x->to->name);
	else if (x->to->xsave_bytes > x->from->xsave_bytes)
		find(x, FM_COMPAT_RISK, FM_COMPAT_READINESS, "cpu",
		     "start it on the host with fewer registers if it makes signal frames or contexts itself",
		     "saved registers take %u bytes on '%s' and %u on '%s': a program that has reserved room for the smaller ones may "
		     "overrun it",
		     x->from->xsave_bytes, x->from->name, x->to->xsave_bytes, x->to->name);
}

static void check_machine(struct check *x)
{
	if (differs(x->from->machine, x->to->machine)) {
		find(x, FM_COMPAT_BLOCKER, FM_COMPAT_READINESS, "architecture", "choose a host of the same architecture",
		     "'%s' is %s, '%s' is %s: running programs cannot change that", x->from->name, x->from->machine, x->to->name,
		     x->to->machine);
		return; /* the rest says the same again */
	}
	if (x->from->page_bytes && x->to->page_bytes && x->from->page_bytes != x->to->page_bytes)
		find(x, FM_COMPAT_BLOCKER, FM_COMPAT_READINESS, "page size", "choose a host whose kernel has pages of the same size",
		     "pages have %u bytes on '%s' and %u on '%s'", x->from->page_bytes, x->from->name, x->to->page_bytes, x->to->name);
	check_registers(x);
	check_instructions(x);
	if (differs(x->from->cpu_vendor, x->to->cpu_vendor))
		find(x, FM_COMPAT_RISK, FM_COMPAT_READINESS, "cpu", "prefer a host of the same make",
		     "the processors are of different makes: %s on '%s', %s on '%s'", x->from->cpu_vendor, x->from->name, x->to->cpu_vendor,
		     x->to->name);
	else if (differs(x->from->cpu_model, x->to->cpu_model))
		find(x, FM_COMPAT_NOTE, FM_COMPAT_READINESS, "cpu", "", "the processors are different: %s on '%s', %s on '%s'",
		     x->from->cpu_model, x->from->name, x->to->cpu_model, x->to->name);
}

/* "6.1.0-13" → 6 */
static long major_of(const char *kernel)
{
	return kernel ? strtol(kernel, NULL, 10) : 0;
}

static void check_kernel(struct check *x)
{
	if (!differs(x->from->kernel, x->to->kernel))
		return;
	if (major_of(x->from->kernel) != major_of(x->to->kernel))
		find(x, FM_COMPAT_RISK, FM_COMPAT_READINESS, "kernel", "prefer a host with the same kernel",
		     "the kernel is %s on '%s' and %s on '%s': a program that uses what only the one has fails on the other",
		     x->from->kernel, x->from->name, x->to->kernel, x->to->name);
	else
		find(x, FM_COMPAT_NOTE, FM_COMPAT_READINESS, "kernel", "", "the kernel is %s on '%s' and %s on '%s'", x->from->kernel,
		     x->from->name, x->to->kernel, x->to->name);
}

static void check_what_is_known(struct check *x)
{
	const struct fm_compat_host *const hosts[] = { x->from, x->to };

	for (size_t i = 0; i < FM_ARRAY_SIZE(hosts); i++)
		if (!hosts[i]->cpu_flags || !hosts[i]->cpu_flags[0] || !hosts[i]->page_bytes)
			find(x, FM_COMPAT_RISK, FM_COMPAT_READINESS, "facts", "update its agent",
			     "the agent of '%s' does not say what processor it has: nothing was compared", hosts[i]->name);
}

void fm_compat_check(const struct fm_compat_container *c, const struct fm_compat_host *from, const struct fm_compat_host *to,
                     struct fm_compat *ret)
{
	struct check x = { .c = c, .from = from, .to = to, .out = ret };

	ret->n = 0;
	check_container(&x);
	check_programs(&x);
	check_machine(&x);
	check_capacity(&x);
	check_kernel(&x);
	check_what_is_known(&x);
}

const struct fm_compat_finding *fm_compat_blocker(const struct fm_compat *c, enum fm_compat_part part)
{
	for (size_t i = 0; i < c->n; i++)
		if (c->v[i].severity == FM_COMPAT_BLOCKER && c->v[i].part == part)
			return &c->v[i];
	return NULL;
}
