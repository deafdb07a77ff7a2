/* SPDX-License-Identifier: MIT */
/*
 * test-page-source.c - pages of a real, stopped child over a socket pair.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above */
#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/limits.h"
#include "sync/page-source.h"
#include "sync/stream-internal.h"

#define WAIT_MS 20000
#define NS_PID  7
#define N_PAGES 1024u

struct fixture {
	uint8_t *memory; /* same address here and in the child; ours is changed after the fork, so that a read of the wrong process shows */
	pid_t child;
	struct fm_page_source *source;
	struct fm_stream *ours, *theirs; /* theirs: the pager's end */
	int cancel;
	pthread_t thread;
	bool running;
	struct fm_error result;
	int returned;
	uint8_t *buf;
};

static uint8_t byte_of(uint32_t page)
{
	return (uint8_t)(page * 7 + 1);
}

static void connect_streams(struct fixture *f)
{
	int sv[2];
	assert_int_equal(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv));
	assert_ok(fm_stream_from_fd(sv[0], &f->ours, &err));
	assert_ok(fm_stream_from_fd(sv[1], &f->theirs, &err));
}

static void free_streams(struct fixture *f)
{
	fm_stream_free(f->ours);
	fm_stream_free(f->theirs);
	f->ours = f->theirs = NULL;
}

static void *serve(void *arg)
{
	struct fixture *f = arg;
	f->result = FM_ERROR_INIT;
	f->returned = fm_page_source_serve(f->source, f->ours, f->cancel, &f->result);
	return NULL;
}

static void start_serving(struct fixture *f)
{
	pthread_create(&f->thread, NULL, serve, f);
	f->running = true;
}

static void join_serving(struct fixture *f)
{
	pthread_join(f->thread, NULL);
	f->running = false;
}

/* Pages 0-1023 hold their number, except: 300-309 and every second one of 400-419 are not mapped, 500-503 may not be read by the child itself */
static void lay_out(uint8_t *m)
{
	for (uint32_t i = 0; i < N_PAGES; i++)
		memset(m + i * FM_PAGE_BYTES, byte_of(i), FM_PAGE_BYTES);
	munmap(m + 300 * FM_PAGE_BYTES, 10 * FM_PAGE_BYTES);
	for (uint32_t i = 400; i < 420; i += 2)
		munmap(m + i * FM_PAGE_BYTES, FM_PAGE_BYTES);
	mprotect(m + 500 * FM_PAGE_BYTES, 4 * FM_PAGE_BYTES, PROT_NONE);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int status;

	/* a reservation around, so that nothing else gets into the holes */
	f->memory = mmap(NULL, N_PAGES * FM_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	f->buf = malloc(FM_MAX_FRAME_BYTES);
	f->cancel = eventfd(0, EFD_CLOEXEC);
	f->child = fork();
	if (f->child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		lay_out(f->memory);
		raise(SIGSTOP);
		_exit(0);
	}
	if (waitpid(f->child, &status, WUNTRACED) != f->child || !WIFSTOPPED(status))
		return -1;
	memset(f->memory, 0xee, 16);
	struct fm_page_source_task task = { .ns_pid = NS_PID, .host_pid = f->child };
	*state = f;
	if (fm_page_source_new(&task, 1, &f->source, &err) < 0) {
		fprintf(stderr, "%s\n", err.message);
		return -1;
	}
	connect_streams(f);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	if (f->running) {
		fm_stream_shutdown(f->ours);
		join_serving(f);
	}
	free_streams(f);
	fm_page_source_free(f->source);
	if (f->child > 0) {
		kill(f->child, SIGKILL);
		waitpid(f->child, NULL, 0);
	}
	munmap(f->memory, N_PAGES * FM_PAGE_BYTES);
	close(f->cancel);
	free(f->buf);
	free(f);
	return 0;
}

static uint64_t address_of(const struct fixture *f, uint32_t page)
{
	return (uintptr_t)f->memory + (uint64_t)page * FM_PAGE_BYTES;
}

static void request(struct fixture *f, uint64_t pid, uint64_t address, uint32_t n)
{
	uint8_t p[8];
	fm_put_le32(p, n);
	fm_put_le32(p + 4, 1);
	assert_ok(fm_stream_send(f->theirs, FM_FRAME_PAGE_REQUEST, pid, address, p, sizeof(p), WAIT_MS, &err));
}

static void expect_pages(struct fixture *f, uint32_t page, uint32_t n)
{
	struct fm_frame_header h;

	assert_ok(fm_stream_expect(f->theirs, FM_FRAME_PAGES, &h, f->buf, FM_MAX_FRAME_BYTES, WAIT_MS, -1, &err));
	assert_int_equal(NS_PID, h.a);
	assert_int_equal(address_of(f, page), h.b);
	assert_int_equal(n * FM_PAGE_BYTES, h.length);
	for (uint32_t i = 0; i < n; i++) {
		uint8_t want[FM_PAGE_BYTES];
		memset(want, byte_of(page + i), sizeof(want));
		assert_memory_equal(want, f->buf + i * FM_PAGE_BYTES, sizeof(want));
	}
}

static void expect_gone(struct fixture *f, uint32_t page, uint32_t n)
{
	struct fm_frame_header h;

	assert_ok(fm_stream_expect(f->theirs, FM_FRAME_PAGES_GONE, &h, f->buf, FM_MAX_FRAME_BYTES, WAIT_MS, -1, &err));
	assert_int_equal(NS_PID, h.a);
	assert_int_equal(address_of(f, page), h.b);
	assert_int_equal(4, h.length);
	assert_int_equal(n, fm_get_le32(f->buf));
}

static void finish(struct fixture *f)
{
	assert_ok(fm_stream_send(f->theirs, FM_FRAME_PAGES_DONE, 0, 0, NULL, 0, WAIT_MS, &err));
	join_serving(f);
	assert_int_equal(0, f->returned);
}

static void test_whole(void **state)
{
	struct fixture *f = *state;

	start_serving(f);
	request(f, NS_PID, address_of(f, 0), 256);
	expect_pages(f, 0, 256);
	request(f, NS_PID, address_of(f, 77), 1);
	expect_pages(f, 77, 1);
	finish(f);
	assert_int_equal(257, fm_page_source_pages_sent(f->source));
}

static void test_partly_gone(void **state)
{
	struct fixture *f = *state;

	start_serving(f);
	request(f, NS_PID, address_of(f, 290), 30);
	expect_pages(f, 290, 10);
	expect_gone(f, 300, 10);
	expect_pages(f, 310, 10);
	request(f, NS_PID, address_of(f, 300), 10);
	expect_gone(f, 300, 10);
	request(f, NS_PID, address_of(f, 305), 6);
	expect_gone(f, 305, 5);
	expect_pages(f, 310, 1);
	request(f, NS_PID, address_of(f, 299), 3);
	expect_pages(f, 299, 1);
	expect_gone(f, 300, 2);
	request(f, NS_PID, address_of(f, 256), 256); /* everything at once, the guard pages too */
	expect_pages(f, 256, 44);
	expect_gone(f, 300, 10);
	expect_pages(f, 310, 90);
	for (uint32_t i = 400; i < 420; i += 2) {
		expect_gone(f, i, 1);
		if (i < 418)
			expect_pages(f, i + 1, 1);
	}
	/* from 419 on it is one mapping, then the pages that only /proc/PID/mem reads, one at a time, then the rest */
	expect_pages(f, 419, 81);
	for (uint32_t i = 500; i < 504; i++)
		expect_pages(f, i, 1);
	expect_pages(f, 504, 8);
	finish(f);
}

/* 128 mapped and 128 unmapped in turn is the most frames that an answer can have */
static void test_worst_answer(void **state)
{
	struct fixture *f = *state;

	kill(f->child, SIGKILL);
	waitpid(f->child, NULL, 0);
	fm_page_source_free(f->source);
	f->source = NULL;
	f->child = fork();
	if (f->child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (uint32_t i = 0; i < 256; i++)
			memset(f->memory + i * FM_PAGE_BYTES, byte_of(i), FM_PAGE_BYTES);
		for (uint32_t i = 0; i < 256; i += 2)
			munmap(f->memory + i * FM_PAGE_BYTES, FM_PAGE_BYTES);
		raise(SIGSTOP);
		_exit(0);
	}
	assert_int_equal(f->child, waitpid(f->child, NULL, WUNTRACED));
	struct fm_page_source_task task = { .ns_pid = NS_PID, .host_pid = f->child };
	assert_ok(fm_page_source_new(&task, 1, &f->source, &err));
	start_serving(f);
	request(f, NS_PID, address_of(f, 0), 256);
	for (uint32_t i = 0; i < 256; i += 2) {
		expect_gone(f, i, 1);
		expect_pages(f, i + 1, 1);
	}
	finish(f);
}

static void test_order_of_arrival(void **state)
{
	struct fixture *f = *state;

	start_serving(f);
	for (uint32_t i = 0; i < 100; i++)
		request(f, NS_PID, address_of(f, (i * 31) % 290), 1 + i % 8);
	for (uint32_t i = 0; i < 100; i++)
		expect_pages(f, (i * 31) % 290, 1 + i % 8);
	finish(f);
}

static void expect_fatal(struct fixture *f, enum fm_code code)
{
	struct fm_frame_header h;

	join_serving(f);
	assert_int_equal(-1, f->returned);
	assert_int_equal(code, f->result.code);
	err = FM_ERROR_INIT;
	assert_int_equal(-1, fm_stream_recv(f->theirs, &h, f->buf, FM_MAX_FRAME_BYTES, WAIT_MS, -1, &err)); /* the pager is told */
	assert_int_equal(code, err.code);
	free_streams(f);
	connect_streams(f);
}

static void test_bad_requests(void **state)
{
	struct fixture *f = *state;
	struct {
		uint64_t pid, address;
		uint32_t n;
	} bad[] = {
		{ NS_PID + 1, address_of(f, 0), 1 },
		{ (uint64_t)f->child, address_of(f, 0), 1 }, /* the host's number means nothing here */
		{ 0x100000000ull + NS_PID, address_of(f, 0), 1 },
		{ UINT64_MAX, address_of(f, 0), 1 },
		{ NS_PID, address_of(f, 0) + 1, 1 },
		{ NS_PID, address_of(f, 0) + 2048, 1 },
		{ NS_PID, address_of(f, 0), 0 },
		{ NS_PID, address_of(f, 0), 257 },
		{ NS_PID, address_of(f, 0), UINT32_MAX },
		{ NS_PID, UINT64_MAX - 4095, 2 },
	};

	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++) {
		start_serving(f);
		request(f, bad[i].pid, bad[i].address, bad[i].n);
		expect_fatal(f, FM_E_DATA_LOSS);
	}
	start_serving(f);
	assert_ok(fm_stream_send(f->theirs, FM_FRAME_PAGE_REQUEST, NS_PID, address_of(f, 0), "1234", 4, WAIT_MS, &err));
	expect_fatal(f, FM_E_DATA_LOSS);
	start_serving(f);
	assert_ok(fm_stream_send(f->theirs, FM_FRAME_PAGE_REQUEST, NS_PID, address_of(f, 0), "123456789", 9, WAIT_MS, &err));
	expect_fatal(f, FM_E_DATA_LOSS);
	start_serving(f);
	assert_ok(fm_stream_send(f->theirs, FM_FRAME_COMMIT, 0, 0, NULL, 0, WAIT_MS, &err));
	expect_fatal(f, FM_E_DATA_LOSS);

	/* strange addresses are only not mapped */
	start_serving(f);
	for (int i = 0; i < 3; i++) {
		static const uint64_t strange[] = { 0, 0x8000000000000000ull, 0xffff800000000000ull };
		struct fm_frame_header h;
		request(f, NS_PID, strange[i], 2);
		assert_ok(fm_stream_expect(f->theirs, FM_FRAME_PAGES_GONE, &h, f->buf, FM_MAX_FRAME_BYTES, WAIT_MS, -1, &err));
		assert_int_equal(2, fm_get_le32(f->buf));
	}
	finish(f);
}

/* A source that ended has lost its pages: that is an error, not zeros. */
static void test_task_ends(void **state)
{
	struct fixture *f = *state;

	start_serving(f);
	request(f, NS_PID, address_of(f, 1), 2);
	expect_pages(f, 1, 2);
	kill(f->child, SIGKILL);
	waitpid(f->child, NULL, 0);
	f->child = 0;
	request(f, NS_PID, address_of(f, 1), 2);
	expect_fatal(f, FM_E_FAILED_PRECONDITION);
}

static void test_cut_and_resume(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 3; i++) {
		start_serving(f);
		request(f, NS_PID, address_of(f, 10), 8);
		expect_pages(f, 10, 8);
		fm_stream_shutdown(f->theirs);
		join_serving(f);
		assert_int_equal(-1, f->returned);
		assert_int_equal(FM_E_UNAVAILABLE, f->result.code);
		free_streams(f);
		connect_streams(f);
	}
	/* cut while an answer that nobody reads is on its way */
	start_serving(f);
	for (int i = 0; i < 8; i++)
		request(f, NS_PID, address_of(f, 0), 256);
	expect_pages(f, 0, 256);
	fm_stream_free(f->theirs);
	f->theirs = NULL;
	join_serving(f);
	assert_int_equal(FM_E_UNAVAILABLE, f->result.code);
	free_streams(f);
	connect_streams(f);
	start_serving(f);
	request(f, NS_PID, address_of(f, 10), 8);
	expect_pages(f, 10, 8);
	finish(f);
}

static void test_cancel(void **state)
{
	struct fixture *f = *state;
	uint64_t one = 1;

	start_serving(f);
	assert_int_equal(8, write(f->cancel, &one, sizeof(one)));
	join_serving(f);
	assert_int_equal(-1, f->returned);
	assert_int_equal(FM_E_CANCELLED, f->result.code);
}

static void test_new(void **state)
{
	struct fm_page_source *p = NULL;
	struct fm_page_source_task t[2] = { { 1, getpid() }, { 1, getppid() } };

	assert_int_equal(-1, fm_page_source_new(t, 0, &p, &err));
	assert_int_equal(-1, fm_page_source_new(t, 2, &p, &err)); /* the same number twice */
	t[0].host_pid = 0x3fffffff;
	err = FM_ERROR_INIT;
	assert_int_equal(-1, fm_page_source_new(t, 1, &p, &err));
	assert_int_equal(FM_E_NOT_FOUND, err.code);
	assert_null(p);
	fm_page_source_free(NULL);
}

/* A tree that is frozen in the middle of its life has children that ended and were not waited for yet. */
static void test_zombie(void **state)
{
	struct fixture *f = *state;
	struct fm_page_source_task t[2] = { { NS_PID, f->child }, { NS_PID + 1, 0 } };
	siginfo_t si;

	t[1].host_pid = fork();
	if (t[1].host_pid == 0)
		_exit(0);
	assert_int_equal(0, waitid(P_PID, (id_t)t[1].host_pid, &si, WEXITED | WNOWAIT));
	fm_page_source_free(f->source);
	f->source = NULL;
	assert_ok(fm_page_source_new(t, 2, &f->source, &err));
	start_serving(f);
	request(f, NS_PID, address_of(f, 1), 2);
	expect_pages(f, 1, 2);
	request(f, NS_PID + 1, address_of(f, 1), 2);
	expect_fatal(f, FM_E_FAILED_PRECONDITION);
	waitpid(t[1].host_pid, NULL, 0);
}

static void test_throughput(void **state)
{
	struct fixture *f = *state;
	struct fm_frame_header h;
	uint64_t start = fm_now_us();

	start_serving(f);
	for (int i = 0; i < 128 + 8; i++) {
		if (i < 128)
			request(f, NS_PID, address_of(f, 0), 256);
		if (i >= 8)
			assert_ok(fm_stream_expect(f->theirs, FM_FRAME_PAGES, &h, f->buf, FM_MAX_FRAME_BYTES, WAIT_MS, -1, &err));
	}
	print_message("    1 MiB requests, 8 under way, plain: %.0f MB/s\n", 128.0 * (1 << 20) / (double)(fm_now_us() - start));
	start = fm_now_us();
	for (uint32_t i = 0; i < 2000; i++) {
		request(f, NS_PID, address_of(f, i % 256), 1);
		assert_ok(fm_stream_expect(f->theirs, FM_FRAME_PAGES, &h, f->buf, FM_MAX_FRAME_BYTES, WAIT_MS, -1, &err));
	}
	print_message("    single pages, one after the other, plain: %.1f us each\n", (double)(fm_now_us() - start) / 2000);
	finish(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_whole, setup, teardown),
		cmocka_unit_test_setup_teardown(test_partly_gone, setup, teardown),
		cmocka_unit_test_setup_teardown(test_worst_answer, setup, teardown),
		cmocka_unit_test_setup_teardown(test_order_of_arrival, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_requests, setup, teardown),
		cmocka_unit_test_setup_teardown(test_task_ends, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cut_and_resume, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cancel, setup, teardown),
		cmocka_unit_test_setup_teardown(test_zombie, setup, teardown),
		cmocka_unit_test(test_new),
		cmocka_unit_test_setup_teardown(test_throughput, setup, teardown),
	};
	return cmocka_run_group_tests_name("page-source", tests, NULL, NULL);
}
