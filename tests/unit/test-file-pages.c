/* SPDX-License-Identifier: MIT */
/* test-file-pages.c - pages of files in the cache as contents of a store: all of them, within their bounds, from trees and files that somebody changes meanwhile or has made to do harm. */
#include "check.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/str.h"
#include "sync/file-pages.h"
#include "sync/page-store-internal.h"

#define PAGE    4096u
#define MIB     (1ull << 20)
#define LONG_MS 60000

struct fixture {
	char *dir, *tree;
	int fd; /* of the tree */
	struct fm_page_store *store;
	struct fm_file_pages_result got;
};

/* On a disk where there is one: what is in memory only cannot leave the cache. */
static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->dir = fm_xstrdup("/var/tmp/fm-test-file-pages-XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	f->tree = fm_xasprintf("%s/tree", f->dir);
	if (mkdir(f->tree, 0755) < 0)
		return -1;
	f->fd = open(f->tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = f;
	return fm_page_store_new(256 * MIB, &f->store, &err);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fm_page_store_free(f->store);
	(void)close(f->fd);
	int r = fm_remove_tree(f->dir, NULL);
	free(f->dir);
	free(f->tree);
	free(f);
	return r;
}

/* Page `page` of the file with this number: no other has it; 0: zeros */
static const uint8_t *content(uint64_t number, uint64_t page)
{
	static uint64_t words[PAGE / 8];

	for (size_t i = 0; i < PAGE / 8; i++)
		words[i] = number ? (number << 40) + (page << 16) + i + 1 : 0;
	return (const uint8_t *)words;
}

static int new_file(struct fixture *f, const char *path, uint64_t number, uint64_t n_pages)
{
	int fd = openat(f->fd, path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	assert_sys(fd);
	for (uint64_t i = 0; i < n_pages; i++)
		assert_int_equal(pwrite(fd, content(number, i), PAGE, (off_t)(i * PAGE)), PAGE);
	return fd;
}

static void make_file(struct fixture *f, const char *path, uint64_t number, uint64_t n_pages)
{
	(void)close(new_file(f, path, number, n_pages));
}

static void look_at(struct fixture *f, const char *root, uint64_t max_bytes, unsigned max_ms)
{
	const char *const roots[] = { "/nowhere/at/all", root };
	struct fm_file_pages_opts o = { .max_bytes = max_bytes, .max_ms = max_ms, .cancel_fd = -1 };

	f->got = (struct fm_file_pages_result){ 0 };
	assert_ok(fm_file_pages_put(f->store, roots, 2, &o, &f->got, &err));
}

static void look(struct fixture *f)
{
	look_at(f, f->tree, 128 * MIB, LONG_MS);
}

/* Would the source be right to name this content? Then it gets just that. */
static bool has(struct fixture *f, const uint8_t *page)
{
	struct fm_error e = FM_ERROR_INIT;
	uint8_t want[PAGE];

	memcpy(want, page, PAGE);
	if (fm_page_store_put_known(f->store, 1, 0x10000, fm_page_hash(&f->store->secret, want), &e) < 0) {
		assert_int_equal(e.code, FM_E_NOT_FOUND);
		return false;
	}
	assert_memory_equal(fm_page_store_peek(f->store, 1, 0x10000), want, PAGE);
	assert_int_equal(fm_page_store_drop(f->store, 1, 0x10000, 1, &e), 0);
	return true;
}

static uint64_t count_of(struct fixture *f, uint64_t number, uint64_t n_pages)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < n_pages; i++)
		n += has(f, content(number, i));
	return n;
}

static void test_whole_pages_of_all_files(void **state)
{
	struct fixture *f = *state;
	struct fm_page_store_stats st;

	assert_sys(mkdirat(f->fd, "lib", 0755));
	assert_sys(mkdirat(f->fd, "lib/deep", 0755));
	make_file(f, "data", 1, 700);
	make_file(f, "lib/deep/code", 2, 20);
	make_file(f, "same", 2, 20);
	make_file(f, "zeros", 0, 100);
	make_file(f, "small", 3, FM_FILE_PAGES_FILE_BYTES_MIN / PAGE - 1);
	int fd = new_file(f, "odd", 4, 17);
	assert_sys(ftruncate(fd, 16 * PAGE + 1000)); /* its last page is none */
	(void)close(fd);
	look(f);
	assert_int_equal(f->got.pages_put, 700 + 20 + 16);
	assert_int_equal(f->got.files, 5);
	assert_int_equal(count_of(f, 1, 700), 700);
	assert_int_equal(count_of(f, 2, 20), 20);
	assert_int_equal(count_of(f, 3, 15), 0);
	assert_int_equal(count_of(f, 4, 17), 16);
	fm_page_store_stats(f->store, &st);
	assert_int_equal(st.pages, f->got.pages_put);
	assert_int_equal(st.zero_pages, 0);
}

/* A volume may be one */
static void test_a_single_file(void **state)
{
	struct fixture *f = *state;

	make_file(f, "other", 2, 20);
	make_file(f, "data", 1, 30);
	_fm_free_ char *path = fm_xasprintf("%s/data", f->tree);
	look_at(f, path, 128 * MIB, LONG_MS);
	assert_int_equal(f->got.files, 1);
	assert_int_equal(count_of(f, 1, 30), 30);
	assert_int_equal(count_of(f, 2, 20), 0);
	/* not what a link leads to */
	assert_sys(symlinkat("other", f->fd, "link"));
	_fm_free_ char *link = fm_xasprintf("%s/link", f->tree);
	look_at(f, link, 128 * MIB, LONG_MS);
	assert_int_equal(f->got.files, 0);
}

static void test_it_is_a_copy(void **state)
{
	struct fixture *f = *state;

	make_file(f, "data", 1, 50);
	look(f);
	make_file(f, "data", 2, 20);
	assert_int_equal(count_of(f, 1, 50), 50);
	assert_int_equal(count_of(f, 2, 20), 0);
}

static void test_bounds(void **state)
{
	struct fixture *f = *state;
	struct fm_page_store_stats st;

	make_file(f, "large", 1, 300);
	make_file(f, "larger", 2, 400);
	look_at(f, f->tree, 128 * MIB, 0);
	assert_int_equal(f->got.pages_read, 0);
	look_at(f, f->tree, 0, LONG_MS);
	assert_int_equal(f->got.pages_read, 0);
	/* the largest first */
	look_at(f, f->tree, 450 * PAGE, LONG_MS);
	assert_in_range(f->got.pages_put, 380, 450);
	assert_int_equal(count_of(f, 2, 400) + count_of(f, 1, 300), f->got.pages_put);
	assert_true(count_of(f, 2, 400) > count_of(f, 1, 300));
	fm_page_store_stats(f->store, &st);
	assert_true(st.bytes <= 450 * PAGE);
	assert_ok(fm_page_store_drop(f->store, FM_FILE_PAGES_PID, 0, UINT64_MAX, &err));
	fm_page_store_stats(f->store, &st);
	assert_int_equal(st.bytes, 0);
}

static void test_cancelled(void **state)
{
	struct fixture *f = *state;
	const char *const roots[] = { f->tree };
	int fds[2];

	make_file(f, "data", 1, 300);
	assert_sys(pipe2(fds, O_CLOEXEC));
	assert_int_equal(write(fds[1], "x", 1), 1);
	struct fm_file_pages_opts o = { .max_bytes = MIB, .max_ms = LONG_MS, .cancel_fd = fds[0] };
	assert_ok(fm_file_pages_put(f->store, roots, 1, &o, &f->got, &err));
	assert_int_equal(f->got.pages_read, 0);
	(void)close(fds[0]);
	(void)close(fds[1]);
}

/* Links, fifos and devices are nobody's pages; a fifo nobody writes to would hold us for ever. */
static void test_what_is_no_file(void **state)
{
	struct fixture *f = *state;

	_fm_free_ char *outside = fm_xasprintf("%s/outside", f->dir);
	assert_sys(mkdir(outside, 0755));
	make_file(f, "../outside/secret", 7, 100);
	make_file(f, "data", 1, 20);
	assert_sys(symlinkat("../outside/secret", f->fd, "to-file"));
	assert_sys(symlinkat("../outside", f->fd, "to-folder"));
	assert_sys(symlinkat(outside, f->fd, "absolute"));
	assert_sys(mkfifoat(f->fd, "fifo", 0644));
	if (geteuid() == 0)
		assert_sys(mknodat(f->fd, "zero", S_IFCHR | 0644, makedev(1, 5)));
	look(f);
	assert_int_equal(f->got.files, 1);
	assert_int_equal(f->got.pages_put, 20);
	assert_int_equal(count_of(f, 7, 100), 0);
}

static unsigned cached(int fd, size_t n_pages)
{
	unsigned char there[512];
	unsigned n = 0;

	assert_true(n_pages <= sizeof(there));
	void *p = mmap(NULL, n_pages * PAGE, PROT_NONE, MAP_SHARED, fd, 0);
	assert_true(p != MAP_FAILED);
	assert_sys(mincore(p, n_pages * PAGE, there));
	(void)munmap(p, n_pages * PAGE);
	for (size_t i = 0; i < n_pages; i++)
		n += there[i] & 1;
	return n;
}

/* What is on the disk only stays there. */
static void test_only_what_is_cached(void **state)
{
	struct fixture *f = *state;
	uint8_t page[PAGE];

	_fm_close_ int fd = new_file(f, "data", 1, 512);
	assert_sys(fsync(fd));
	assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	if (cached(fd, 512) > 0) {
		print_message("# skip: the files of %s do not leave the cache\n", f->dir);
		skip();
	}
	assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM), 0);
	for (uint64_t i = 100; i < 140; i++)
		assert_int_equal(pread(fd, page, PAGE, (off_t)(i * PAGE)), PAGE);
	unsigned before = cached(fd, 512);
	assert_in_range(before, 40, 300);
	look(f);
	assert_int_equal(f->got.pages_put, before);
	assert_int_equal(cached(fd, 512), before);
	for (uint64_t i = 100; i < 140; i++)
		assert_true(has(f, content(1, i)));
}

/* A hole of a terabyte: zeros, and not even in the cache. */
static void test_a_sparse_file(void **state)
{
	struct fixture *f = *state;

	_fm_close_ int fd = new_file(f, "sparse", 1, 10);
	assert_sys(ftruncate(fd, 1ll << 40));
	make_file(f, "data", 2, 20);
	look_at(f, f->tree, 128 * MIB, 2000);
	assert_int_equal(count_of(f, 1, 10), 10);
	assert_true(f->got.pages_put <= 30);
}

struct changer {
	int fd;
	_Atomic bool over;
	_Atomic unsigned times;
};

/* Shorter and longer, again and again */
static void *change(void *arg)
{
	struct changer *c = arg;

	while (!c->over) {
		if (ftruncate(c->fd, 0) < 0)
			break;
		for (uint64_t i = 0; i < 256 && !c->over; i++)
			if (pwrite(c->fd, (const uint8_t[PAGE]){ (uint8_t)i, 1 }, PAGE, (off_t)(i * PAGE)) != PAGE)
				break;
		c->times++;
	}
	return NULL;
}

static void test_a_file_that_is_truncated_meanwhile(void **state)
{
	struct fixture *f = *state;
	struct changer c = { .fd = new_file(f, "data", 1, 256) };
	pthread_t thread;
	uint64_t read = 0;

	make_file(f, "other", 2, 100);
	assert_int_equal(pthread_create(&thread, NULL, change, &c), 0);
	for (unsigned i = 0; i < 400 || c.times < 50; i++) {
		assert_ok(fm_page_store_drop(f->store, FM_FILE_PAGES_PID, 0, UINT64_MAX, &err));
		look(f);
		read += f->got.pages_read;
		assert_int_equal(count_of(f, 2, 100), 100);
	}
	c.over = true;
	(void)pthread_join(thread, NULL);
	(void)close(c.fd);
	assert_true(read > 400 * 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_whole_pages_of_all_files, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_single_file, setup, teardown),
		cmocka_unit_test_setup_teardown(test_it_is_a_copy, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bounds, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cancelled, setup, teardown),
		cmocka_unit_test_setup_teardown(test_what_is_no_file, setup, teardown),
		cmocka_unit_test_setup_teardown(test_only_what_is_cached, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_sparse_file, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_file_that_is_truncated_meanwhile, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
