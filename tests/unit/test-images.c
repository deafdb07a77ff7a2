/* SPDX-License-Identifier: MIT */
/* test-images.c - reading pagemap images: right ones, and everything an evil host could send. Images written by CRIU itself are
 * read in test-criu.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/io.h"
#include "basic/str.h"
#include "container/images.h"

#define LAZY    2
#define PRESENT 4

/* ---- writing images ---- */

static void put_u32(struct fm_buf *b, uint32_t v)
{
	const unsigned char bytes[4] = { (unsigned char)v, (unsigned char)(v >> 8), (unsigned char)(v >> 16), (unsigned char)(v >> 24) };

	fm_buf_add(b, bytes, 4);
}

static void put_varint(struct fm_buf *b, uint64_t v)
{
	do {
		unsigned char c = (unsigned char)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
		fm_buf_add(b, &c, 1);
	} while ((v >>= 7) != 0);
}

static void put_field(struct fm_buf *b, unsigned field, uint64_t v)
{
	put_varint(b, (uint64_t)field << 3);
	put_varint(b, v);
}

static void put_record(struct fm_buf *b, struct fm_buf *record)
{
	put_u32(b, (uint32_t)record->len);
	fm_buf_add(b, record->data, record->len);
	fm_buf_done(record);
	*record = FM_BUF_INIT;
}

static struct fm_buf image(void)
{
	struct fm_buf b = FM_BUF_INIT, head = FM_BUF_INIT;

	put_u32(&b, 0x54564319);
	put_u32(&b, 0x56084025);
	put_field(&head, 1, 1);
	put_record(&b, &head);
	return b;
}

static void put_entry(struct fm_buf *b, uint64_t vaddr, uint64_t n_pages, uint64_t flags)
{
	struct fm_buf e = FM_BUF_INIT;

	put_field(&e, 1, vaddr);
	put_field(&e, 2, n_pages & 0xffffffff);
	put_field(&e, 4, flags);
	if (n_pages > 0xffffffff)
		put_field(&e, 5, n_pages);
	put_record(b, &e);
}

/* ---- one file ---- */

static void test_good(void **state)
{
	struct fm_buf b = image(), e = FM_BUF_INIT;
	struct fm_lazy_range *v = NULL;
	size_t n = 0;

	put_entry(&b, 0x400000, 3, PRESENT);
	put_entry(&b, 0x500000, 2, LAZY);
	put_entry(&b, 0x502000, 5, LAZY | PRESENT);
	/* fields in another order, unknown ones of every kind between, the newer page count */
	put_field(&e, 4, LAZY);
	put_varint(&e, 9 << 3 | 2);
	put_varint(&e, 3);
	fm_buf_add(&e, "abc", 3);
	put_varint(&e, 10 << 3 | 1);
	fm_buf_add(&e, "12345678", 8);
	put_varint(&e, 11 << 3 | 5);
	fm_buf_add(&e, "1234", 4);
	put_field(&e, 5, 7);
	put_field(&e, 2, 1);
	put_field(&e, 1, 0x7fffffff0000);
	put_record(&b, &e);
	assert_int_equal(fm_pagemap_parse(b.data, b.len, 500, &v, &n, NULL), 0);
	assert_int_equal(n, 3);
	assert_int_equal(v[0].ns_pid, 500);
	assert_int_equal(v[0].vaddr, 0x500000);
	assert_int_equal(v[0].n_pages, 2);
	assert_int_equal(v[1].n_pages, 5);
	assert_int_equal(v[2].vaddr, 0x7fffffff0000);
	assert_int_equal(v[2].n_pages, 7);
	/* appending */
	assert_int_equal(fm_pagemap_parse(b.data, b.len, 501, &v, &n, NULL), 0);
	assert_int_equal(n, 6);
	assert_int_equal(v[5].ns_pid, 501);
	free(v);
	fm_buf_done(&b);
}

static void refuse(const void *data, size_t len)
{
	struct fm_lazy_range *v = NULL;
	struct fm_error err = FM_ERROR_INIT;
	size_t n = 0;

	/* An exact copy, so that sanitizers see every byte read too much. */
	void *copy = malloc(len ? len : 1);
	memcpy(copy, data, len);
	if (fm_pagemap_parse(copy, len, 500, &v, &n, &err) == 0)
		fail_msg("%zu bytes were taken for good", len);
	assert_int_equal(err.code, FM_E_DATA_LOSS);
	assert_int_equal(n, 0);
	free(v);
	free(copy);
}

static void test_cut_anywhere(void **state)
{
	struct fm_buf b = image();

	put_entry(&b, 0x500000, 2, LAZY);
	put_entry(&b, 0x600000, 1ull << 31, LAZY);
	const size_t whole[] = { 8 + 4 + 2, 8 + 4 + 2 + 4 + (size_t)(unsigned char)b.data[14] };
	for (size_t len = 0; len < b.len; len++)
		if (len != whole[0] && len != whole[1]) /* there, it is a shorter good file */
			refuse(b.data, len);
	fm_buf_done(&b);
}

static void test_hostile(void **state)
{
	static const struct {
		uint64_t vaddr, n_pages;
	} impossible[] = {
		{ 0x500001, 1 },                /* not on a page */
		{ 0x500000, 0 },                /* nothing */
		{ 1ull << 57, 1 },              /* outside */
		{ (1ull << 57) - 4096, 2 },     /* ends outside */
		{ 0xfffffffffffff000, 1 },      /* the end overflows */
		{ 0x500000, (1ull << 32) + 1 }, /* too many */
		{ 0x500000, UINT64_MAX },
		{ 0x500000, 1ull << 52 }, /* n * 4096 overflows */
	};
	struct fm_buf b, e = FM_BUF_INIT;

	for (size_t i = 0; i < FM_ARRAY_SIZE(impossible); i++) {
		b = image();
		put_entry(&b, impossible[i].vaddr, impossible[i].n_pages, LAZY);
		refuse(b.data, b.len);
		fm_buf_done(&b);
	}
	/* overlapping, and backwards; also where one of them is not lazy; nothing of a bad file is kept */
	b = image();
	put_entry(&b, 0x500000, 2, LAZY);
	put_entry(&b, 0x501000, 1, PRESENT);
	refuse(b.data, b.len);
	fm_buf_done(&b);
	/* no address, no count */
	for (unsigned field = 1; field <= 2; field++) {
		b = image();
		put_field(&e, field, 0x1000);
		put_record(&b, &e);
		refuse(b.data, b.len);
		fm_buf_done(&b);
	}
	/* field number 0, a group, a varint without end, one of 65 bits, a length beyond the record */
	const char *const bad[] = { "\x01\x01", "\x0b", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
		                    "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", "\x0a\x05" };
	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++) {
		b = image();
		fm_buf_add(&e, bad[i], strlen(bad[i]));
		put_record(&b, &e);
		refuse(b.data, b.len);
		fm_buf_done(&b);
	}
	/* record lengths */
	b = image();
	put_u32(&b, 0xffffffff);
	refuse(b.data, b.len);
	fm_buf_done(&b);
	/* other magics */
	refuse("\x19\x43\x56\x54\x25\x40\x08\x56", 8);
	refuse("\x25\x40\x08\x56\x19\x43\x56\x54", 8);
}

/* ---- a folder ---- */

static int make_folder(char path[32])
{
	strcpy(path, "/tmp/fm-test-images.XXXXXX");
	assert_non_null(mkdtemp(path));
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void write_image(int dirfd, const char *name, struct fm_buf *b)
{
	int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, b->data, b->len), (ssize_t)b->len);
	close(fd);
	fm_buf_done(b);
}

static void test_folder(void **state)
{
	char path[32];
	struct fm_lazy_range *v = NULL;
	struct fm_error err = FM_ERROR_INIT;
	size_t n = 99;
	int fd = make_folder(path);
	struct fm_buf b;

	assert_int_equal(fm_images_lazy_ranges(fd, &v, &n, NULL), 0);
	assert_int_equal(n, 0);
	free(v);
	b = image();
	put_entry(&b, 0x500000, 2, LAZY);
	put_entry(&b, 0x700000, 1, LAZY);
	write_image(fd, "pagemap-1000.img", &b);
	b = image();
	put_entry(&b, 0x600000, 4, LAZY);
	write_image(fd, "pagemap-500.img", &b);
	/* of no process, or no image at all */
	static const char *const others[] = { "pagemap-shmem-7.img", "pagemap-.img",   "pagemap-0.img",
		                              "pagemap-5x.img",      "pagemap-+5.img", "pagemap-99999999999999999999.img",
		                              "pagemap-5.img.tmp" };
	for (size_t i = 0; i < FM_ARRAY_SIZE(others); i++) {
		b = (struct fm_buf)FM_BUF_INIT;
		fm_buf_add(&b, "junk", 4);
		write_image(fd, others[i], &b);
	}
	for (int twice = 0; twice < 2; twice++) {
		assert_int_equal(fm_images_lazy_ranges(fd, &v, &n, NULL), 0);
		assert_int_equal(n, 3);
		assert_int_equal(v[0].ns_pid, 500);
		assert_int_equal(v[1].ns_pid, 1000);
		assert_int_equal(v[1].vaddr, 0x500000);
		assert_int_equal(v[2].vaddr, 0x700000);
		free(v);
	}
	/* a sum that is too much */
	for (int i = 1; i <= 2; i++) {
		char name[32];
		b = image();
		put_entry(&b, 0x600000, 1ull << 32, LAZY);
		snprintf(name, sizeof(name), "pagemap-%d.img", i);
		write_image(fd, name, &b);
	}
	assert_int_equal(fm_images_lazy_ranges(fd, &v, &n, &err), -1);
	assert_int_equal(err.code, FM_E_RESOURCE_EXHAUSTED);
	assert_int_equal(unlinkat(fd, "pagemap-1.img", 0), 0);
	assert_int_equal(unlinkat(fd, "pagemap-2.img", 0), 0);
	/* a bad one names itself */
	b = image();
	put_u32(&b, 5);
	write_image(fd, "pagemap-7.img", &b);
	err = FM_ERROR_INIT;
	assert_int_equal(fm_images_lazy_ranges(fd, &v, &n, &err), -1);
	assert_int_equal(err.code, FM_E_DATA_LOSS);
	assert_non_null(strstr(err.message, "pagemap-7.img"));
	close(fd);
	assert_int_equal(fm_remove_tree(path, NULL), 0);
}

/* What stands in place of a file must not be followed, or waited for. */
static void test_not_files(void **state)
{
	char path[32];
	int fd = make_folder(path);

	for (int how = 0; how < 3; how++) {
		struct fm_lazy_range *v = NULL;
		struct fm_error err = FM_ERROR_INIT;
		size_t n = 0;

		if (how == 0)
			assert_int_equal(symlinkat("/dev/zero", fd, "pagemap-5.img"), 0);
		else if (how == 1)
			assert_int_equal(mkfifoat(fd, "pagemap-5.img", 0600), 0);
		else
			assert_int_equal(mkdirat(fd, "pagemap-5.img", 0700), 0);
		assert_int_equal(fm_images_lazy_ranges(fd, &v, &n, &err), -1);
		assert_true(err.message[0] != '\0');
		assert_int_equal(unlinkat(fd, "pagemap-5.img", how == 2 ? AT_REMOVEDIR : 0), 0);
	}
	assert_int_equal(fm_images_lazy_ranges(-1, NULL, NULL, NULL), -1);
	close(fd);
	assert_int_equal(fm_remove_tree(path, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),   cmocka_unit_test(test_cut_anywhere), cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_folder), cmocka_unit_test(test_not_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
