/* SPDX-License-Identifier: MIT */
/*
 * test-incoming.c - push streams at the destination: which are taken, which take another's place, and when what came over all of them counts. The source is real (push.h), its process too.
 */
#include "hostile-lab.h"
#include "stream-lab.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <sys/uio.h>

#include "migration/mover-internal.h"
#include "migration/revisit-pages.h"
#include "sync/file-pages.h"

#define PAGE  4096u
#define PAGES 4096u
#define MIB   (1ull << 20)

struct world {
	struct fm_host host;
	struct fm_mover *mover;
	struct target target;
	struct fm_stream *sources[FM_MAX_PUSH_STREAMS];
	unsigned n;
	struct fm_hash_secret secret; /* of the streams that have no push */
};

static void setup_world(struct world *w, unsigned n)
{
	char pages[16];

	memset(w, 0, sizeof(*w));
	w->n = n;
	(void)snprintf(w->host.name, sizeof(w->host.name), "alpha");
	assert_ok(fm_mover_alloc(&w->host, "m-1", true, &w->mover, &err));
	w->mover->strategy = FM_STRATEGY_LIVE;
	fm_hash_secret_draw(&w->secret);
	(void)snprintf(pages, sizeof(pages), "%u", PAGES);
	target_start(&w->target, "echo", pages, NULL);
}

static void end_world(struct world *w)
{
	fm_incoming_end(w->mover);
	for (unsigned i = 0; i < FM_MAX_PUSH_STREAMS; i++)
		fm_stream_free(w->sources[i]);
	fm_mover_destroy(w->mover);
	target_end(&w->target);
}

static struct fm_stream_hello hello(unsigned index, unsigned count, uint32_t redials)
{
	return (struct fm_stream_hello){ .role = FM_STREAM_PUSH, .index = index, .count = count, .redials = redials };
}

/* The destination is offered a stream that says this. */
static int offer(struct world *w, struct fm_stream **source, unsigned index, unsigned count, uint32_t redials)
{
	const struct fm_stream_hello what = hello(index, count, redials);
	struct fm_stream *destination;

	pair(source, &destination);
	err = FM_ERROR_INIT;
	return fm_incoming_take(w->mover, destination, &what, &err);
}

/* As a source begins that has nothing to send yet */
static void begin(const struct world *w, struct fm_stream *source)
{
	struct fm_frame_header h;
	uint8_t buf[64];

	assert_ok(fm_stream_send(source, FM_FRAME_PAGES_SECRET, 0, 0, w->secret.bytes, sizeof(w->secret.bytes), WAIT_MS, &err));
	assert_ok(fm_stream_expect(source, FM_FRAME_PAGES_HAVE_END, &h, buf, sizeof(buf), WAIT_MS, -1, &err));
}

static void offer_all(struct world *w)
{
	for (unsigned i = 0; i < w->n; i++)
		assert_int_equal(offer(w, &w->sources[i], i, w->n, 0), 0);
}

static void refused(struct world *w, unsigned index, unsigned count, uint32_t redials, enum fm_code code)
{
	struct fm_frame_header h;
	struct fm_stream *s;
	uint8_t buf[64];

	assert_int_equal(offer(w, &s, index, count, redials), -1);
	assert_int_equal(err.code, code);
	assert_code(code, fm_stream_recv(s, &h, buf, sizeof(buf), WAIT_MS, -1, &err)); /* the source is told */
	fm_stream_free(s);
}

static struct fm_push *push_of(struct world *w)
{
	struct fm_push_opts o = { .streams = w->sources, .n_streams = w->n, .look = true, .compress = -1 };
	struct fm_push *p;

	assert_ok(fm_push_new(&o, &p, &err));
	return p;
}

static size_t run_at(struct world *w, uint64_t at, size_t max, enum fm_page_have *have, const void **page)
{
	*page = NULL;
	return fm_incoming_get_run(w->mover, w->target.pid, at, max, have, page);
}

static void await_ready(struct world *w)
{
	uint64_t deadline = fm_now_ms() + WAIT_MS;

	/* ROUND_OK has come; the thread that sent it says so a moment later */
	while (!atomic_load(&w->mover->store_ready) && fm_deadline_left_ms(deadline) > 0)
		fm_pause_ms(1);
	assert_true(atomic_load(&w->mover->store_ready));
}

static void compare(struct world *w)
{
	for (uint64_t i = 0; i < PAGES;) {
		uint64_t at = w->target.memory + i * PAGE;
		enum fm_page_have have;
		const void *page;
		size_t n = run_at(w, at, PAGES - i, &have, &page);
		assert_true(have == FM_PAGE_DATA || have == FM_PAGE_ZERO);
		assert_true(n >= 1 && n <= PAGES - i);
		assert_true(w->n == 1 || at / FM_PUSH_BLOCK_BYTES == (at + (n - 1) * PAGE) / FM_PUSH_BLOCK_BYTES);
		uint8_t *real = malloc(n * PAGE);
		struct iovec local = { .iov_base = real, .iov_len = n * PAGE },
		             remote = { .iov_base = (void *)(uintptr_t)at, .iov_len = n * PAGE };
		assert_int_equal(process_vm_readv(w->target.pid, &local, 1, &remote, 1, 0), n * PAGE);
		if (have == FM_PAGE_DATA)
			assert_memory_equal(real, page, n * PAGE);
		for (size_t k = 0; have == FM_PAGE_ZERO && k < n; k++)
			assert_true(fm_page_is_zero(real + k * PAGE));
		free(real);
		i += n;
	}
}

/* What is not in one store may be in another's next block. */
static void expect_an_end_at_a_block(struct world *w)
{
	uint64_t end = w->target.memory + (uint64_t)(PAGES - 1) * PAGE, at = w->target.memory;
	enum fm_page_have have;
	const void *page;

	do
		at = (at / FM_PUSH_BLOCK_BYTES + 1) * FM_PUSH_BLOCK_BYTES;
	while (at < end && fm_push_stream_of(w->target.pid, at, w->n) == fm_push_stream_of(w->target.pid, at - PAGE, w->n));
	if (at >= end) /* the address is what it is */
		return;
	fm_incoming_taken(w->mover, w->target.pid, at - PAGE, 1);
	assert_int_equal(run_at(w, at - PAGE, 100, &have, &page), 1);
	assert_int_equal(have, FM_PAGE_NOT_HERE);
}

static void test_whole(void **state)
{
	static const unsigned counts[] = { 1, 3, FM_MAX_PUSH_STREAMS };

	for (size_t i = 0; i < FM_ARRAY_SIZE(counts); i++) {
		struct fm_push_result r;
		enum fm_page_have have;
		const void *page;
		struct world w;
		setup_world(&w, counts[i]);
		struct fm_page_source_task t = { .ns_pid = w.target.pid, .host_pid = w.target.pid };
		assert_int_equal(run_at(&w, w.target.memory, 7, &have, &page), 7); /* before any stream */
		assert_int_equal(have, FM_PAGE_NOT_HERE);
		offer_all(&w);
		struct fm_push *p = push_of(&w);
		assert_ok(fm_push_round(p, &t, 1, -1, &r, &err));
		assert_int_equal(run_at(&w, w.target.memory, PAGES, &have, &page), PAGES); /* not certain yet */
		assert_int_equal(have, FM_PAGE_NOT_HERE);
		assert_int_equal(kill(w.target.pid, SIGSTOP), 0);
		assert_int_equal(state_becomes(w.target.pid, "T"), 'T');
		assert_ok(fm_push_final(p, &t, 1, UINT64_MAX, -1, &r, &err));
		await_ready(&w);
		compare(&w);
		if (w.n > 1)
			expect_an_end_at_a_block(&w);
		/* given back, across all blocks */
		fm_incoming_taken(w.mover, w.target.pid, w.target.memory, PAGES);
		for (uint64_t k = 0; k < PAGES; k += 511) {
			(void)run_at(&w, w.target.memory + k * PAGE, 1, &have, &page);
			assert_int_equal(have, FM_PAGE_NOT_HERE);
		}
		fm_push_free(p);
		end_world(&w);
	}
}

/* Sealed, all of them, or nothing is used. */
static void test_one_is_missing(void **state)
{
	struct fm_frame_header h;
	uint8_t buf[64];
	struct world w;

	setup_world(&w, 3);
	offer_all(&w);
	for (unsigned i = 0; i < w.n; i++) {
		assert_false(atomic_load(&w.mover->store_ready));
		begin(&w, w.sources[i]);
		assert_ok(fm_stream_send(w.sources[i], FM_FRAME_ROUND_END, 0, 1, NULL, 0, WAIT_MS, &err));
		assert_ok(fm_stream_expect(w.sources[i], FM_FRAME_ROUND_OK, &h, buf, sizeof(buf), WAIT_MS, -1, &err));
		if (i > 0)
			continue;
		/* The same again, as if the answer had been lost: that counts once. */
		fm_stream_free(w.sources[0]);
		assert_int_equal(offer(&w, &w.sources[0], 0, 3, 1), 0);
		begin(&w, w.sources[0]);
		assert_ok(fm_stream_send(w.sources[0], FM_FRAME_ROUND_END, 0, 1, NULL, 0, WAIT_MS, &err));
		assert_ok(fm_stream_expect(w.sources[0], FM_FRAME_ROUND_OK, &h, buf, sizeof(buf), WAIT_MS, -1, &err));
	}
	await_ready(&w);
	end_world(&w);
}

static void test_refused(void **state)
{
	struct fm_frame_header h;
	uint8_t buf[64];
	struct world w;

	setup_world(&w, 3);
	w.mover->strategy = FM_STRATEGY_POST_COPY;
	refused(&w, 0, 1, 0, FM_E_FAILED_PRECONDITION);
	w.mover->strategy = FM_STRATEGY_PRE_COPY;
	offer_all(&w);
	begin(&w, w.sources[1]);
	refused(&w, 0, 1, 0, FM_E_INVALID_ARGUMENT); /* of another number */
	refused(&w, 3, 4, 0, FM_E_INVALID_ARGUMENT);
	refused(&w, 1, 3, 0, FM_E_ALREADY_EXISTS); /* twice */
	/* dialled again, it takes the place of the one that was there; an older one then does not */
	struct fm_stream *next;
	assert_int_equal(offer(&w, &next, 1, 3, 2), 0);
	assert_code(FM_E_UNAVAILABLE, fm_stream_recv(w.sources[1], &h, buf, sizeof(buf), WAIT_MS, -1, &err));
	refused(&w, 1, 3, 1, FM_E_ALREADY_EXISTS);
	refused(&w, 1, 3, 2, FM_E_ALREADY_EXISTS);
	begin(&w, next);
	fm_stream_free(next);
	end_world(&w);
}

/* What an earlier visit left is in the stores of the streams that ask for it, however many there are this time. */
static void test_an_earlier_visit(void **state)
{
	struct fm_revisit_pages *kept;
	struct fm_push_result r;
	uint64_t pages = 0;
	struct world w;

	setup_world(&w, 3);
	assert_ok(fm_revisit_pages_new(64 * MIB, &kept, &err));
	w.host.revisit_pages = kept;
	(void)snprintf(w.mover->container, sizeof(w.mover->container), "web");
	struct fm_page_source_task t = { .ns_pid = w.target.pid, .host_pid = w.target.pid };
	assert_int_equal(kill(w.target.pid, SIGSTOP), 0);
	assert_int_equal(state_becomes(w.target.pid, "T"), 'T');
	assert_ok(fm_revisit_pages_copy(kept, "web", &t, 1, 2, WAIT_MS, &pages, &err));
	assert_true(pages >= PAGES);
	offer_all(&w);
	struct fm_push *p = push_of(&w);
	assert_ok(fm_push_final(p, &t, 1, UINT64_MAX, -1, &r, &err));
	assert_int_equal(r.pages_known, pages);
	assert_int_equal(r.pages_sent, 0);
	await_ready(&w);
	compare(&w);
	fm_push_free(p);
	end_world(&w);
	fm_revisit_pages_free(kept);
}

static void remove_folder(char **path)
{
	if (**path)
		(void)fm_remove_tree(*path, NULL);
}

/* Whichever stream a page belongs to, its content may be that of a file. */
static void test_pages_of_files(void **state)
{
	char folder[] = "/tmp/fm-test-incoming-XXXXXX", path[64];
	char *made __attribute__((cleanup(remove_folder))) = folder;
	struct fm_revisit_pages *kept;
	struct fm_push_result r;
	const void *page;
	enum fm_page_have have;
	struct world w;

	setup_world(&w, 3);
	assert_ok(fm_revisit_pages_new(64 * MIB, &kept, &err));
	w.host.revisit_pages = kept;
	assert_non_null(mkdtemp(made));
	(void)snprintf(path, sizeof(path), "%s/model", folder);
	uint8_t *noise = malloc(PAGES * PAGE);
	fill_pattern(noise, PAGES * PAGE, 5);
	assert_ok(fm_write_file_atomic(path, noise, PAGES * PAGE, 0600, &err));
	struct iovec local = { .iov_base = noise, .iov_len = PAGES * PAGE },
	             remote = { .iov_base = (void *)(uintptr_t)w.target.memory, .iov_len = PAGES * PAGE };
	assert_int_equal(process_vm_writev(w.target.pid, &local, 1, &remote, 1, 0), PAGES * PAGE);
	(void)snprintf(w.mover->rootfs, sizeof(w.mover->rootfs), "%s", folder);
	w.mover->files_here_fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_true(w.mover->files_here_fd >= 0);
	struct fm_page_source_task t = { .ns_pid = w.target.pid, .host_pid = w.target.pid };
	offer_all(&w);
	struct fm_push *p = push_of(&w);
	assert_ok(fm_push_round(p, &t, 1, -1, &r, &err));
	assert_in_range(r.pages_of_files, 1, PAGES); /* all of them, if the machine is not busy */
	assert_true(r.payload_bytes < (PAGES - r.pages_of_files) * PAGE * 3 + MIB);
	assert_int_equal(kill(w.target.pid, SIGSTOP), 0);
	assert_int_equal(state_becomes(w.target.pid, "T"), 'T');
	assert_ok(fm_push_final(p, &t, 1, UINT64_MAX, -1, &r, &err));
	await_ready(&w);
	fm_incoming_forget_files(w.mover);
	compare(&w);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(fm_incoming_get_run(w.mover, FM_FILE_PAGES_PID, i * FM_PUSH_BLOCK_BYTES, 1, &have, &page), 1);
		assert_int_equal(have, FM_PAGE_NOT_HERE);
	}
	free(noise);
	fm_push_free(p);
	end_world(&w);
	fm_revisit_pages_free(kept);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whole),          cmocka_unit_test(test_one_is_missing),
		cmocka_unit_test(test_refused),        cmocka_unit_test(test_an_earlier_visit),
		cmocka_unit_test(test_pages_of_files),
	};

	(void)signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
