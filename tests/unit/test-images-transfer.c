/* SPDX-License-Identifier: MIT */
/*
 * test-images-transfer.c - checkpoints' files between two folders, and hostile senders.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above */
#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "check.h"
#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "sync/images-transfer.h"
#include "sync/stream-internal.h"

#define WAIT_MS 20000

struct fixture {
	char *dir, *from, *to;
	int from_fd, to_fd;
	struct fm_stream *a, *b;
	uint8_t *buf;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int sv[2];

	f->dir = fm_xstrdup("/tmp/fm-test-images-XXXXXX");
	if (!mkdtemp(f->dir) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
		return -1;
	f->from = fm_xasprintf("%s/from", f->dir);
	f->to = fm_xasprintf("%s/to", f->dir);
	if (mkdir(f->from, 0700) < 0 || mkdir(f->to, 0700) < 0)
		return -1;
	f->from_fd = open(f->from, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	f->to_fd = open(f->to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	f->buf = malloc(FM_MAX_FRAME_BYTES);
	*state = f;
	if (fm_stream_from_fd(sv[0], &f->a, NULL) < 0 || fm_stream_from_fd(sv[1], &f->b, NULL) < 0)
		return -1;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fm_stream_free(f->a);
	fm_stream_free(f->b);
	close(f->from_fd);
	close(f->to_fd);
	int r = fm_remove_tree(f->dir, NULL);
	free(f->dir);
	free(f->from);
	free(f->to);
	free(f->buf);
	free(f);
	return r;
}

static void write_file(int dirfd, const char *name, size_t n, uint32_t seed)
{
	uint8_t *p = malloc(n + 1);
	int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	for (size_t i = 0; i < n; i++) {
		seed = seed * 1664525u + 1013904223u;
		p[i] = (uint8_t)(seed >> 24);
	}
	assert_true(fd >= 0);
	assert_ok(fm_write_full(fd, p, n, &err));
	close(fd);
	free(p);
}

static void assert_same(struct fixture *f, const char *name)
{
	_fm_free_ char *a = NULL;
	_fm_free_ char *b = NULL;
	size_t na, nb;
	struct stat st;

	assert_ok(fm_read_file_at(f->from_fd, name, 64u << 20, &a, &na, &err));
	assert_ok(fm_read_file_at(f->to_fd, name, 64u << 20, &b, &nb, &err));
	assert_int_equal(na, nb);
	assert_memory_equal(a, b, na);
	assert_int_equal(0, fstatat(f->to_fd, name, &st, AT_SYMLINK_NOFOLLOW));
	assert_int_equal(0600, st.st_mode & 07777);
}

struct sending {
	struct fixture *f;
	uint64_t bytes;
	struct fm_error err;
	int result;
};

static void *send_all(void *arg)
{
	struct sending *s = arg;
	s->result = fm_images_send(s->f->a, s->f->from_fd, &s->bytes, WAIT_MS, &s->err);
	return NULL;
}

static void test_checkpoint(void **state)
{
	struct fixture *f = *state;
	struct sending s = { .f = f };
	pthread_t t;
	uint64_t bytes;
	char name[32];

	for (uint32_t i = 0; i < 60; i++) {
		snprintf(name, sizeof(name), "core-%u.img", i);
		write_file(f->from_fd, name, 100 + i * 37, i);
	}
	write_file(f->from_fd, "empty.img", 0, 0);
	write_file(f->from_fd, "pages-1.img", (3u << 20) + 4097, 7);
	write_file(f->from_fd, "exact.img", 512u << 10, 9);
	/* not part of a checkpoint */
	write_file(f->from_fd, "dump.log", 100, 1);
	write_file(f->from_fd, ".hidden", 100, 1);
	assert_int_equal(0, mkdirat(f->from_fd, "folder", 0700));
	assert_int_equal(0, symlinkat("/etc/passwd", f->from_fd, "link.img"));
	assert_int_equal(0, mkfifoat(f->from_fd, "fifo.img", 0600));

	uint64_t start = fm_now_us();
	pthread_create(&t, NULL, send_all, &s);
	assert_ok(fm_images_recv(f->b, f->to_fd, 64u << 20, NULL, f->buf, &bytes, WAIT_MS, -1, &err));
	pthread_join(t, NULL);
	print_message("    63 files, 4 MB: %llu us\n", (unsigned long long)(fm_now_us() - start));
	assert_int_equal(0, s.result);
	assert_int_equal(bytes, s.bytes);
	for (uint32_t i = 0; i < 60; i++) {
		snprintf(name, sizeof(name), "core-%u.img", i);
		assert_same(f, name);
	}
	assert_same(f, "empty.img");
	assert_same(f, "pages-1.img");
	assert_same(f, "exact.img");
	static const char *const absent[] = { "dump.log", ".hidden", "folder", "link.img", "fifo.img" };
	for (size_t i = 0; i < FM_ARRAY_SIZE(absent); i++)
		assert_int_equal(-1, faccessat(f->to_fd, absent[i], F_OK, AT_SYMLINK_NOFOLLOW));
}

static void test_unexpected_name(void **state)
{
	struct fixture *f = *state;

	write_file(f->from_fd, "odd name.img", 10, 1);
	err = FM_ERROR_INIT;
	assert_int_equal(-1, fm_images_send(f->a, f->from_fd, NULL, WAIT_MS, &err));
	assert_int_equal(FM_E_FAILED_PRECONDITION, err.code);
}

static void test_first_frame_given(void **state)
{
	struct fixture *f = *state;
	struct sending s = { .f = f };
	struct fm_frame_header h;
	pthread_t t;
	uint64_t bytes;

	write_file(f->from_fd, "one.img", 5000, 1);
	pthread_create(&t, NULL, send_all, &s);
	assert_ok(fm_stream_recv(f->b, &h, f->buf, FM_MAX_FRAME_BYTES, WAIT_MS, -1, &err));
	assert_int_equal(FM_FRAME_IMAGE_BEGIN, h.type);
	assert_ok(fm_images_recv(f->b, f->to_fd, 5000, &h, f->buf, &bytes, WAIT_MS, -1, &err)); /* exactly the limit */
	pthread_join(t, NULL);
	assert_int_equal(5000, bytes);
	assert_same(f, "one.img");
}

/* hostile senders: a script of frames, and what the receiver makes of it */
struct frame {
	enum fm_frame type;
	uint64_t a, b;
	const char *payload;
};

static enum fm_code receive_script(struct fixture *f, const struct frame *frames, size_t n, uint64_t max_bytes)
{
	int sv[2];
	struct fm_stream *a, *b;

	assert_int_equal(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv));
	assert_ok(fm_stream_from_fd(sv[0], &a, &err));
	assert_ok(fm_stream_from_fd(sv[1], &b, &err));
	for (size_t i = 0; i < n; i++)
		assert_ok(fm_stream_send(a, frames[i].type, frames[i].a, frames[i].b, frames[i].payload,
		                         frames[i].payload ? strlen(frames[i].payload) : 0, WAIT_MS, &err));
	fm_stream_free(a);
	err = FM_ERROR_INIT;
	uint64_t bytes = 77;
	int r = fm_images_recv(b, f->to_fd, max_bytes, NULL, f->buf, &bytes, WAIT_MS, -1, &err);
	fm_stream_free(b);
	if (r < 0)
		assert_int_equal(77, bytes);
	return r < 0 ? err.code : FM_OK;
}

#define script(max, ...)                                                                                                                   \
	receive_script(f, (const struct frame[]){ __VA_ARGS__ }, sizeof((const struct frame[]){ __VA_ARGS__ }) / sizeof(struct frame), max)
#define BEGIN(size, name)                                                                                                                  \
	{                                                                                                                                  \
		FM_FRAME_IMAGE_BEGIN, size, 0, name                                                                                        \
	}
#define DATA(text)                                                                                                                         \
	{                                                                                                                                  \
		FM_FRAME_IMAGE_DATA, 0, 0, text                                                                                            \
	}
#define END(files, bytes)                                                                                                                  \
	{                                                                                                                                  \
		FM_FRAME_IMAGES_END, files, bytes, NULL                                                                                    \
	}

static void test_hostile(void **state)
{
	struct fixture *f = *state;
	static const char *const names[] = { "",      ".",   "..",   "../x",     "a/b",     "/etc/passwd", ".hidden", "lazy-pages.socket",
		                             "x.log", "a b", "a\nb", "\xc3\xa4", "pages;rm" };

	for (size_t i = 0; i < FM_ARRAY_SIZE(names); i++)
		assert_int_equal(FM_E_DATA_LOSS, script(1000, BEGIN(1, names[i]), DATA("x"), END(1, 1)));
	char long_name[300];
	memset(long_name, 'n', sizeof(long_name) - 1);
	long_name[sizeof(long_name) - 1] = 0;
	assert_int_equal(FM_E_DATA_LOSS, script(1000, BEGIN(1, long_name)));

	assert_int_equal(FM_OK, script(1000, END(0, 0)));
	assert_int_equal(FM_OK, script(1000, BEGIN(4, "good.img"), DATA("ab"), DATA("cd"), END(1, 4)));
	assert_int_equal(FM_E_ALREADY_EXISTS, script(1000, BEGIN(4, "good.img")));
	assert_int_equal(FM_E_DATA_LOSS, script(1000, BEGIN(4, "s1"), DATA("ab"), END(1, 4)));      /* short */
	assert_int_equal(FM_E_DATA_LOSS, script(1000, BEGIN(4, "s2"), DATA("ab"), BEGIN(1, "s3"))); /* short */
	assert_int_equal(FM_E_DATA_LOSS, script(1000, BEGIN(4, "s4"), DATA("abcde")));              /* long */
	assert_int_equal(FM_E_DATA_LOSS, script(1000, BEGIN(4, "s5"), DATA(NULL)));                 /* for ever nothing */
	assert_int_equal(FM_E_DATA_LOSS, script(1000, DATA("x")));                                  /* of no file */
	assert_int_equal(FM_E_DATA_LOSS, script(1000, BEGIN(1, "s6"), DATA("x"), END(2, 1)));       /* a file is missing */
	assert_int_equal(FM_E_DATA_LOSS, script(1000, BEGIN(1, "s7"), DATA("x"), END(1, 2)));
	assert_int_equal(FM_E_DATA_LOSS, script(1000, { FM_FRAME_PAGES, 0, 0, "x" }));
	assert_int_equal(FM_E_UNAVAILABLE, script(1000, BEGIN(4, "s8"), DATA("ab"))); /* cut */
	assert_int_equal(FM_E_CANCELLED, script(1000, BEGIN(4, "s9"), { FM_FRAME_ABORT, 0, 0, NULL }));
	assert_int_equal(FM_E_RESOURCE_EXHAUSTED, script(1000, BEGIN(1001, "l1")));
	assert_int_equal(FM_E_RESOURCE_EXHAUSTED, script(6, BEGIN(3, "l2"), DATA("abc"), BEGIN(4, "l3")));
	assert_int_equal(FM_E_RESOURCE_EXHAUSTED, script(UINT64_MAX, BEGIN(UINT64_MAX, "l4")));
	assert_int_equal(FM_E_RESOURCE_EXHAUSTED, script(UINT64_MAX, BEGIN(FM_MAX_IMAGE_FILE_BYTES + 1, "l5")));
	assert_int_equal(FM_E_INTERNAL, script(1000, { FM_FRAME_ERROR, FM_E_INTERNAL, 0, "dump failed\nlook at the log" }));
	assert_string_equal("look at the log", err.hint);

	/* a link that waits in the folder is not followed */
	assert_int_equal(0, symlinkat("/tmp/fm-test-images-must-not-exist", f->to_fd, "trap.img"));
	assert_int_equal(FM_E_ALREADY_EXISTS, script(1000, BEGIN(1, "trap.img"), DATA("x")));
	assert_int_equal(-1, access("/tmp/fm-test-images-must-not-exist", F_OK));
}

static void test_cancel(void **state)
{
	struct fixture *f = *state;
	int cancel = eventfd(1, EFD_CLOEXEC);

	err = FM_ERROR_INIT;
	assert_int_equal(-1, fm_images_recv(f->b, f->to_fd, 1000, NULL, f->buf, NULL, -1, cancel, &err));
	assert_int_equal(FM_E_CANCELLED, err.code);
	close(cancel);
}

/* The receiver's reason reaches a sender who only writes. */
static void test_receiver_gives_up(void **state)
{
	struct fixture *f = *state;
	struct fm_error full = FM_ERROR_INIT;

	write_file(f->from_fd, "pages-1.img", 4u << 20, 7);
	fm_error_set(&full, FM_E_RESOURCE_EXHAUSTED, "no space left");
	fm_stream_send_error(f->b, &full);
	fm_stream_free(f->b);
	f->b = NULL;
	err = FM_ERROR_INIT;
	assert_int_equal(-1, fm_images_send(f->a, f->from_fd, NULL, WAIT_MS, &err));
	assert_int_equal(FM_E_RESOURCE_EXHAUSTED, err.code);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_checkpoint, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unexpected_name, setup, teardown),
		cmocka_unit_test_setup_teardown(test_first_frame_given, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hostile, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cancel, setup, teardown),
		cmocka_unit_test_setup_teardown(test_receiver_gives_up, setup, teardown),
	};
	return cmocka_run_group_tests_name("images-transfer", tests, NULL, NULL);
}
