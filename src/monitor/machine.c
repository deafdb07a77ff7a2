/* SPDX-License-Identifier: MIT */
/* machine.c - see machine.h. */
#include "monitor/machine.h"

#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifdef __x86_64__
#include <cpuid.h>
#endif

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/str.h"

#define CPUINFO_MAX_BYTES (4u << 20) /* 2 KB a processor */

/* "key<tabs>: value"; a value that does not fit is left out: part of a list would be another list. */
static void take(const char *text, const char *key, char *ret, size_t cap)
{
	size_t key_len = strlen(key);

	for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
		size_t len = strcspn(line, "\n");
		const char *colon = memchr(line, ':', len);

		if (!colon || strncmp(line, key, key_len) != 0 || key_len + strspn(line + key_len, " \t") != (size_t)(colon - line))
			continue;
		const char *value = colon + 1 + strspn(colon + 1, " \t");
		size_t n = value < line + len ? (size_t)(line + len - value) : 0;
		if (n < cap) {
			memcpy(ret, value, n);
			ret[n] = '\0';
			fm_str_sanitize(ret);
		}
		return;
	}
}

void fm_machine_parse_cpuinfo(const char *text, struct fm_machine *ret)
{
	take(text, "vendor_id", ret->cpu_vendor, sizeof(ret->cpu_vendor));
	take(text, "model name", ret->cpu_model, sizeof(ret->cpu_model));
	take(text, "flags", ret->cpu_flags, sizeof(ret->cpu_flags));
	if (!ret->cpu_flags[0])
		take(text, "Features", ret->cpu_flags, sizeof(ret->cpu_flags)); /* arm64 */
}

static void read_xsave(struct fm_machine *m)
{
#ifdef __x86_64__
	unsigned a, b, c, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !__get_cpuid_count(0xd, 0, &a, &b, &c, &d))
		return;
	unsigned low, high;
	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	m->xsave_bytes = b;
	m->xsave_features = (uint64_t)high << 32 | low;
#endif
}

static void read_cgroup_mode(struct fm_machine *m)
{
	struct statfs top, unified;

	if (statfs("/sys/fs/cgroup", &top) < 0)
		return;
	if (top.f_type == CGROUP2_SUPER_MAGIC)
		(void)snprintf(m->cgroup_mode, sizeof(m->cgroup_mode), "v2");
	else if (top.f_type == TMPFS_MAGIC)
		(void)snprintf(m->cgroup_mode, sizeof(m->cgroup_mode), "%s",
		               statfs("/sys/fs/cgroup/unified", &unified) == 0 && unified.f_type == CGROUP2_SUPER_MAGIC ? "hybrid" : "v1");
}

void fm_machine_read(struct fm_machine *ret)
{
	static const struct fm_machine empty;
	_fm_free_ char *text = NULL;
	struct utsname u;

	*ret = empty;
	if (uname(&u) == 0)
		(void)snprintf(ret->arch, sizeof(ret->arch), "%s", u.machine);
	if (fm_read_file("/proc/cpuinfo", CPUINFO_MAX_BYTES, &text, NULL, NULL) == 0)
		fm_machine_parse_cpuinfo(text, ret);
	ret->page_bytes = (uint32_t)sysconf(_SC_PAGESIZE);
	read_xsave(ret);
	read_cgroup_mode(ret);
}
