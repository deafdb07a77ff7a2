/* SPDX-License-Identifier: MIT */
/* test-push.c - rounds of pages of a running process into a store, over streams that are cut or damaged at any byte: what the store has in the end is what the frozen process has. */
#include "push-lab.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "basic/proc.h"
#include "sync/file-pages.h"
#include "sync/page-codec.h"
#include "sync/push.h"

#define PAGE  4096u
#define PAGES 600u
#define MIB   (1ull << 20)

/* ---------------------------------------------------------------- both ends */

static const struct churn churn = { .pages = PAGES, .changes = 6, .longest = 40 };

struct world {
	struct target target;
	struct fm_page_store *store;
	struct fm_push *push;
	struct fm_stream *source, *destination;
	struct link link;
	pthread_t receiver;
	bool receives;
	bool has_files; /* the destination finds the process's first pages in files */
	unsigned looked;
	_Atomic bool complete;
	unsigned breaks, seed;
	int64_t good_max;
};

#define FILE_PAGES 400u

static void look(void *userdata)
{
	struct world *w = userdata;
	uint8_t page[PAGE];

	w->looked++;
	for (unsigned i = 0; w->looked == 1 && i < FILE_PAGES; i++) {
		void *at = (void *)(uintptr_t)(w->target.memory + (uint64_t)i * PAGE);
		struct iovec local = { .iov_base = page, .iov_len = PAGE }, remote = { .iov_base = at, .iov_len = PAGE };
		struct fm_error e = FM_ERROR_INIT;
		if (process_vm_readv(w->target.pid, &local, 1, &remote, 1, 0) != PAGE ||
		    fm_page_store_put(w->store, FM_FILE_PAGES_PID, (uint64_t)i * PAGE, page, &e) < 0)
			print_error("no page %u of a file: %s\n", i, e.message);
	}
}

static void *receive(void *arg)
{
	struct world *w = arg;
	struct fm_error e = FM_ERROR_INIT;

	if (fm_push_receive(w->destination, w->store, w->has_files ? look : NULL, w, -1, &e) == 0)
		w->complete = true;
	else if (e.code != FM_E_UNAVAILABLE && e.code != FM_E_DATA_LOSS)
		print_error("the receiver ended: %s\n", e.message);
	if (!w->complete)
		fm_stream_shutdown(w->destination);
	return NULL;
}

static void disconnect(struct world *w)
{
	if (!w->receives)
		return;
	fm_stream_shutdown(w->source);
	fm_stream_shutdown(w->destination);
	(void)pthread_join(w->receiver, NULL);
	(void)pthread_join(w->link.thread, NULL);
	fm_stream_free(w->source);
	fm_stream_free(w->destination);
	w->receives = false;
}

/* A connection that breaks after a random number of bytes, at most good_max; 0: it does not. */
static void connect_again(struct world *w)
{
	disconnect(w);
	pair_raw(&w->source, &w->link.a);
	pair_raw(&w->destination, &w->link.b);
	w->link.good = w->good_max ? rand_r(&w->seed) % w->good_max : INT64_MAX;
	w->link.damages = rand_r(&w->seed) % 2;
	assert_int_equal(pthread_create(&w->link.thread, NULL, relay, &w->link), 0);
	assert_int_equal(pthread_create(&w->receiver, NULL, receive, w), 0);
	w->receives = true;
}

static int reconnect(void *userdata, unsigned index, const struct fm_error *why, int cancel_fd, struct fm_stream **ret, struct fm_error *e)
{
	struct world *w = userdata;

	assert_int_equal(index, 0);
	assert_true(why->code != FM_OK);
	if (w->breaks++ > 6)
		w->good_max = 0;
	connect_again(w);
	*ret = w->source;
	return 0;
}

static void setup_world(struct world *w, unsigned seed, int64_t good_max, bool reconnects)
{
	char pages[16];

	*w = (struct world){ .seed = seed, .good_max = good_max };
	assert_ok(fm_page_store_new(64 * MIB, &w->store, &err));
	(void)snprintf(pages, sizeof(pages), "%u", PAGES);
	target_start(&w->target, "echo", pages, NULL);
	connect_again(w);
	struct fm_push_opts o = {
		.streams = &w->source, .n_streams = 1, .reconnect = reconnects ? reconnect : NULL, .userdata = w, .compress = -1
	};
	assert_ok(fm_push_new(&o, &w->push, &err));
}

static void end_world(struct world *w)
{
	disconnect(w);
	fm_push_free(w->push);
	fm_page_store_free(w->store);
	target_end(&w->target);
}

/* Pages that are in the store have the frozen process's bytes; returns how many of its memory are not there. */
static unsigned compare(const struct world *w)
{
	unsigned missing = 0;

	for (unsigned i = 0; i < PAGES; i++) {
		uint64_t at = w->target.memory + (uint64_t)i * PAGE;
		const void *page = NULL;
		enum fm_page_have have = fm_page_store_get(w->store, w->target.pid, at, &page);
		missing += is_missing(&w->target, at, have, page);
	}
	return missing;
}

static void run(struct world *w, unsigned rounds, uint64_t max_pages, struct fm_push_result *ret)
{
	push_all(w->push, &w->target, &churn, &w->seed, rounds, max_pages, ret);
}

static void test_rounds(void **state)
{
	struct fm_push_result r;
	struct world w;

	setup_world(&w, 1, 0, false);
	run(&w, 4, UINT64_MAX, &r);
	assert_int_equal(r.pages_left, 0);
	assert_true(r.pages_changed > 0 && r.pages_changed < PAGES);
	assert_int_equal(compare(&w), 0);
	assert_int_equal(w.breaks, 0);
	end_world(&w);
}

static void test_the_rest_is_left(void **state)
{
	struct fm_push_result r;
	struct world w;

	setup_world(&w, 2, 0, false);
	run(&w, 2, 10, &r);
	assert_int_equal(r.pages_left, r.pages_changed - 10);
	assert_true(compare(&w) > 0);
	end_world(&w);
}

static void test_a_link_that_breaks(void **state)
{
	unsigned breaks = 0;

	for (unsigned seed = 1; seed <= 40; seed++) {
		struct fm_push_result r;
		struct world w;
		setup_world(&w, seed, seed % 2 ? 3000000 : 40000, true);
		run(&w, 3, seed % 3 ? UINT64_MAX : 20, &r);
		unsigned missing = compare(&w);
		assert_true(missing <= r.pages_left);
		breaks += w.breaks;
		end_world(&w);
	}
	assert_true(breaks > 40);
}

/* A store that has the pages from before: only what is different is sent, and what is gone is not in the way. */
static void test_an_earlier_visit(void **state)
{
	struct fm_push_result first, second, last;
	struct world w;

	setup_world(&w, 7, 0, false);
	struct fm_page_source_task t = task_of(&w.target);
	assert_ok(fm_push_round(w.push, &t, 1, -1, &first, &err));
	assert_int_equal(first.pages_known, 0);
	disconnect(&w);
	fm_push_free(w.push);
	order(&w.target, 'w', 10, 5);
	order(&w.target, 'd', 100, 3);

	connect_again(&w);
	struct fm_push_opts o = { .streams = &w.source, .n_streams = 1, .userdata = &w, .compress = -1 };
	assert_ok(fm_push_new(&o, &w.push, &err));
	assert_ok(fm_push_round(w.push, &t, 1, -1, &second, &err));
	assert_int_equal(second.pages_known, first.pages_changed);
	assert_in_range(second.pages_sent, 5, 15); /* and what its stack is used for */
	assert_true(second.payload_bytes < first.payload_bytes / 10);
	freeze(&w.target);
	assert_ok(fm_push_final(w.push, &t, 1, UINT64_MAX, -1, &last, &err));
	assert_int_equal(compare(&w), 0);
	end_world(&w);
}

/* What a source says first, as the destination hears it */
static void hear_secret(struct fm_stream *destination, struct fm_hash_secret *ret)
{
	uint8_t payload[512];
	struct fm_frame_header h;

	assert_ok(fm_stream_expect(destination, FM_FRAME_PAGES_SECRET, &h, payload, sizeof(payload), 1000, -1, &err));
	assert_ok(fm_hash_secret_take(payload, h.length, ret, &err));
}

static int take_this(void *userdata, unsigned index, const struct fm_error *why, int cancel_fd, struct fm_stream **ret, struct fm_error *e)
{
	struct fm_stream **next = userdata;

	assert_true(why->code != FM_OK);
	if (!*next)
		return fm_error_set(e, FM_E_UNAVAILABLE, "there is no other stream");
	*ret = *next;
	*next = NULL;
	return 0;
}

/* The same on each stream of a push, another one for the next push. */
static void test_the_secret_of_a_push(void **state)
{
	struct fm_stream *source[3], *destination[3], *next;
	struct fm_hash_secret heard[3];
	struct fm_push *p[2];
	struct fm_push_result r;

	for (unsigned i = 0; i < 3; i++)
		pair(&source[i], &destination[i]);
	next = source[1];
	struct fm_push_opts o = {
		.streams = &source[0], .n_streams = 1, .reconnect = take_this, .userdata = &next, .backend = FM_TRACKER_HASH, .compress = -1
	};
	assert_ok(fm_push_new(&o, &p[0], &err));
	hear_secret(destination[0], &heard[0]);
	fm_stream_shutdown(destination[0]);
	assert_ok(fm_stream_send(destination[1], FM_FRAME_PAGES_HAVE_END, 0, 0, NULL, 0, 1000, &err));
	assert_ok(fm_stream_send(destination[1], FM_FRAME_ROUND_OK, 0, 0, NULL, 0, 1000, &err));
	assert_ok(fm_push_round(p[0], NULL, 0, -1, &r, &err));
	assert_null(next);
	hear_secret(destination[1], &heard[1]);
	assert_memory_equal(&heard[0], &heard[1], sizeof(heard[0]));
	o.streams = &source[2];
	assert_ok(fm_push_new(&o, &p[1], &err));
	hear_secret(destination[2], &heard[2]);
	assert_memory_not_equal(&heard[0], &heard[2], sizeof(heard[0]));
	for (unsigned i = 0; i < 2; i++)
		fm_push_free(p[i]);
	for (unsigned i = 0; i < 3; i++) {
		fm_stream_free(source[i]);
		fm_stream_free(destination[i]);
	}
}

/* Neither what is no secret, nor pages without one */
static void test_a_secret_that_is_none(void **state)
{
	static uint8_t few[FM_HASH_SECRET_BYTES];
	struct fm_hash_secret good;
	const struct {
		enum fm_frame type;
		const void *payload;
		size_t length;
	} cases[] = {
		{ FM_FRAME_PAGES_SECRET, NULL, 0 },           { FM_FRAME_PAGES_SECRET, &good, sizeof(good) - 1 },
		{ FM_FRAME_PAGES_SECRET, &few, sizeof(few) }, { FM_FRAME_ROUND_END, NULL, 0 },
		{ FM_FRAME_PAGES_PUSH, &good, sizeof(good) },
	};

	fm_hash_secret_draw(&good);
	for (unsigned i = 0; i < sizeof(few); i++)
		few[i] = (uint8_t)(i % 63);
	for (size_t i = 0; i < FM_ARRAY_SIZE(cases); i++) {
		struct fm_stream *source, *destination;
		struct fm_page_store *store;
		pair(&source, &destination);
		assert_ok(fm_page_store_new(MIB, &store, &err));
		assert_ok(fm_stream_send(source, cases[i].type, 0, 0, cases[i].payload, cases[i].length, 1000, &err));
		err = FM_ERROR_INIT;
		assert_int_equal(fm_push_receive(destination, store, NULL, NULL, -1, &err), -1);
		assert_int_equal(err.code, FM_E_DATA_LOSS);
		err = FM_ERROR_INIT;
		assert_false(fm_page_store_is_sealed(store));
		fm_page_store_free(store);
		fm_stream_free(source);
		fm_stream_free(destination);
	}
}

/* No two pages alike */
static void mark_pages(struct world *w)
{
	for (uint32_t i = 0; i < FILE_PAGES; i++)
		for (uint32_t k = 0; k <= i / 255; k++)
			order(&w->target, 'w', i, 1);
}

/* Pages that files have, too, are named; the store has them under their own names then, and needs no file any more. */
static void files_help(bool worth_it, bool breaks)
{
	struct fm_push_result first, last;
	struct world w;

	setup_world(&w, 11, 0, false);
	mark_pages(&w);
	disconnect(&w);
	fm_push_free(w.push);
	w.has_files = true;
	w.good_max = breaks ? 6000 : 0;
	connect_again(&w);
	struct fm_push_opts o = {
		.streams = &w.source, .n_streams = 1, .look = worth_it, .reconnect = reconnect, .userdata = &w, .compress = FM_CHUNK_PLAIN
	};
	assert_ok(fm_push_new(&o, &w.push, &err));
	struct fm_page_source_task t = task_of(&w.target);
	assert_ok(fm_push_round(w.push, &t, 1, -1, &first, &err));
	assert_true(breaks ? w.looked >= 1 : w.looked == worth_it);
	assert_int_equal(first.pages_of_files, worth_it ? FILE_PAGES : 0);
	if (!breaks)
		assert_true(worth_it ? first.payload_bytes < (PAGES - FILE_PAGES + 100) * PAGE : first.payload_bytes > FILE_PAGES * PAGE);
	change_some(&w.target, &churn, &w.seed);
	freeze(&w.target);
	assert_ok(fm_push_final(w.push, &t, 1, UINT64_MAX, -1, &last, &err));
	fm_page_store_taken(w.store, FM_FILE_PAGES_PID, 0, UINT64_MAX);
	assert_int_equal(compare(&w), 0);
	end_world(&w);
}

static void test_pages_of_files(void **state)
{
	files_help(true, false);
	files_help(false, false);
	files_help(true, true);
}

static void tell_nonsense(struct world *w, uint64_t a, uint64_t b, size_t length, uint64_t end)
{
	uint8_t payload[4096] = { 1 };
	struct fm_page_source_task t = task_of(&w->target);
	struct fm_push_result r;
	struct fm_push *p;

	if (length)
		assert_ok(fm_stream_send(w->destination, FM_FRAME_PAGES_HAVE, a, b, payload, length, 1000, &err));
	assert_ok(fm_stream_send(w->destination, FM_FRAME_PAGES_HAVE_END, end, 0, NULL, 0, 1000, &err));
	struct fm_push_opts o = { .streams = &w->source, .n_streams = 1, .compress = -1 };
	assert_ok(fm_push_new(&o, &p, &err));
	err = FM_ERROR_INIT;
	assert_int_equal(fm_push_round(p, &t, 1, -1, &r, &err), -1);
	assert_int_equal(err.code, FM_E_DATA_LOSS);
	err = FM_ERROR_INIT;
	fm_push_free(p);
}

static void test_nonsense_about_an_earlier_visit(void **state)
{
	static const struct {
		uint64_t a, b;
		size_t length;
		uint64_t end;
	} cases[] = {
		{ 0, 4096, 16, 1 },
		{ 1ull << 40, 4096, 16, 1 },
		{ 5, 4097, 16, 1 },
		{ 5, 1ull << 47, 16, 1 },
		{ 5, UINT64_MAX - 4095, 16, 1 },
		{ 5, 4096, 15, 1 },
		{ 5, 4096, 129 * 16, 129 },
		{ 5, 4096, 16, 2 },
	};
	struct world w = { .seed = 1 };

	target_start(&w.target, "echo", "10", NULL);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		pair_raw(&w.source, &w.link.a);
		pair_raw(&w.destination, &w.link.b);
		w.link.good = INT64_MAX;
		assert_int_equal(pthread_create(&w.link.thread, NULL, relay, &w.link), 0);
		tell_nonsense(&w, cases[i].a, cases[i].b, cases[i].length, cases[i].end);
		fm_stream_shutdown(w.source);
		fm_stream_shutdown(w.destination);
		(void)pthread_join(w.link.thread, NULL);
		fm_stream_free(w.source);
		fm_stream_free(w.destination);
	}
	target_end(&w.target);
}

static bool damage_some(void *userdata)
{
	struct world *w = userdata;

	return w->breaks < 5 && rand_r(&w->seed) % 4 == 0;
}

static void test_damaged_chunks(void **state)
{
	struct fm_push_result r;
	struct world w;

	setup_world(&w, 5, 0, false);
	fm_push_free(w.push);
	struct fm_push_opts o = {
		.streams = &w.source, .n_streams = 1, .reconnect = reconnect, .damage = damage_some, .userdata = &w, .compress = -1
	};
	assert_ok(fm_push_new(&o, &w.push, &err));
	run(&w, 5, UINT64_MAX, &r);
	assert_int_equal(compare(&w), 0);
	assert_true(w.breaks > 0);
	end_world(&w);
}

static void test_without_another_link(void **state)
{
	struct fm_push_result r;
	struct world w;

	setup_world(&w, 3, 1000, false);
	struct fm_page_source_task t = task_of(&w.target);
	w.link.damages = false;
	err = FM_ERROR_INIT;
	assert_int_equal(fm_push_round(w.push, &t, 1, -1, &r, &err), -1);
	assert_true(err.code == FM_E_UNAVAILABLE || err.code == FM_E_DATA_LOSS);
	end_world(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rounds),
		cmocka_unit_test(test_the_rest_is_left),
		cmocka_unit_test(test_a_link_that_breaks),
		cmocka_unit_test(test_an_earlier_visit),
		cmocka_unit_test(test_pages_of_files),
		cmocka_unit_test(test_the_secret_of_a_push),
		cmocka_unit_test(test_a_secret_that_is_none),
		cmocka_unit_test(test_nonsense_about_an_earlier_visit),
		cmocka_unit_test(test_damaged_chunks),
		cmocka_unit_test(test_without_another_link),
	};

	(void)signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
