/* SPDX-License-Identifier: MIT */
/* test-procmaps.c - lines of maps and smaps: the kernel's, and those that are none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "basic/cleanup.h"
#include "basic/proc.h"
#include "basic/procmaps.h"

static void test_lines(void **state)
{
	static const struct {
		const char *line;
		struct fm_map m;
		bool anonymous;
	} good[] = {
		{ "7f0000000000-7f0000002000 rw-p 00000000 00:00 0 ",
		  { .start = 0x7f0000000000, .end = 0x7f0000002000, .writable = true, .name = "" },
		  true },
		{ "1000-2000 r--p 00000000 00:00 0                          [heap]",
		  { .start = 0x1000, .end = 0x2000, .name = "[heap]" },
		  true },
		{ "1000-2000 rw-p 00000000 00:00 0                          [stack]",
		  { .start = 0x1000, .end = 0x2000, .writable = true, .name = "[stack]" },
		  true },
		{ "1000-2000 rw-p 00000000 00:00 0                          [anon:a b]",
		  { .start = 0x1000, .end = 0x2000, .writable = true, .name = "[anon:a b]" },
		  true },
		{ "1000-2000 r-xp 00000000 00:00 0                          [vdso]",
		  { .start = 0x1000, .end = 0x2000, .name = "[vdso]" },
		  false },
		{ "1000-2000 rw-s 00003000 00:01 42                         /dev/zero (deleted)",
		  { .start = 0x1000,
		    .end = 0x2000,
		    .offset = 0x3000,
		    .inode = 42,
		    .writable = true,
		    .shared = true,
		    .name = "/dev/zero (deleted)" },
		  false },
		{ "1000-2000 rw-p 00003000 fe:00 42                         /a file",
		  { .start = 0x1000, .end = 0x2000, .offset = 0x3000, .inode = 42, .writable = true, .name = "/a file" },
		  false },
	};
	static const char *const bad[] = { "",
		                           "x",
		                           "1000",
		                           "1000-",
		                           "1000-1000 rw-p 0 00:00 0",
		                           "2000-1000 rw-p 0 00:00 0",
		                           "1000-2000",
		                           "1000-2000 ",
		                           "1000-2000 rw-",
		                           "1000-2000 rw-p",
		                           "1000-2000 rw-px0 00:00 0",
		                           "1000-2000 rw-p 0",
		                           "Size:    4 kB" };
	struct fm_map m;

	for (size_t i = 0; i < FM_ARRAY_SIZE(good); i++) {
		assert_true(fm_map_parse(good[i].line, &m));
		assert_int_equal(m.start, good[i].m.start);
		assert_int_equal(m.end, good[i].m.end);
		assert_int_equal(m.offset, good[i].m.offset);
		assert_int_equal(m.inode, good[i].m.inode);
		assert_int_equal(m.writable, good[i].m.writable);
		assert_int_equal(m.shared, good[i].m.shared);
		assert_string_equal(m.name, good[i].m.name);
		assert_int_equal(fm_map_is_private_anonymous(&m), good[i].anonymous);
	}
	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++)
		assert_false(fm_map_parse(bad[i], &m));
}

struct seen {
	uint64_t where;
	unsigned n;
	bool locked;
};

static int look(void *userdata, const char *header, char *flags)
{
	struct seen *s = userdata;
	struct fm_map m;

	assert_true(fm_map_parse(header, &m));
	assert_false(fm_smaps_has_flag(flags, "zz"));
	s->n++;
	if (m.start <= s->where && s->where < m.end)
		s->locked = fm_smaps_has_flag(flags, "lo");
	return 0;
}

/* This process's own: as many mappings as maps shows, each of which is understood, and the one that was locked. */
static void test_the_kernels(void **state)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *p = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct seen s = { .where = (uintptr_t)p };
	unsigned lines = 0;
	char *maps = NULL, *smaps = NULL;
	struct fm_map m;
	uint64_t locked;

	assert_int_equal(syscall(SYS_mlock, p, page), 0); /* the sanitizers make mlock(3) do nothing */
	assert_int_equal(fm_proc_status_number(getpid(), "VmLck:", &locked, NULL), 0);
	assert_int_equal(locked, page / 1024);
	assert_int_equal(fm_proc_read(getpid(), "smaps", FM_PROC_SMAPS_MAX, &smaps, NULL, NULL), 0);
	assert_int_equal(fm_smaps_each(smaps, look, &s), 0);
	assert_true(s.locked);
	assert_int_equal(fm_proc_read(getpid(), "maps", FM_PROC_MAPS_MAX, &maps, NULL, NULL), 0);
	for (char *line = maps, *next; line; line = next, lines++) {
		next = fm_cut_line(line);
		assert_true(fm_map_parse(line, &m));
	}
	/* reading them may have changed them by a mapping or two */
	assert_in_range(lines, s.n - 3, s.n + 3);
	free(maps);
	free(smaps);
	(void)munmap(p, 4 * page);
}

static int stop(void *userdata, const char *header, char *flags)
{
	unsigned *n = userdata;

	return ++*n == 2 ? -7 : 0;
}

static void test_stops(void **state)
{
	char text[] = "1000-2000 rw-p 0 00:00 0 \nSize: 4 kB\nVmFlags: rd wr \nVmFlags: xx \n2000-3000 rw-p 0 00:00 0 \nVmFlags: "
	              "rd\n3000-4000 rw-p 0 00:00 0 \nVmFlags: ";
	unsigned n = 0;

	assert_int_equal(fm_smaps_each(text, stop, &n), -7);
	assert_int_equal(n, 2);
	assert_true(fm_smaps_has_flag("rd wr", "wr"));
	assert_false(fm_smaps_has_flag("rd wr", "d "));
	assert_false(fm_smaps_has_flag("", "wr"));
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_lines), cmocka_unit_test(test_the_kernels),
		                            cmocka_unit_test(test_stops) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
