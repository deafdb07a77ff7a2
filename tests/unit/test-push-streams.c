/* SPDX-License-Identifier: MIT */
/* test-push-streams.c - rounds over several push streams at once: each has its pages and no others, breaks for itself, and fails for all. */
#include "push-lab.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <sys/uio.h>

#include "basic/proc.h"
#include "sync/page-codec.h"
#include "sync/push.h"

#define PAGE      4096u
#define PAGES     6144u /* 12 blocks */
#define MIB       (1ull << 20)
#define PROMPT_MS 15000 /* half of what any wait for the other end lasts */

/* ---------------------------------------------------------------- which stream */

static void test_division(void **state)
{
	for (unsigned n = 1; n <= FM_MAX_PUSH_STREAMS; n++) {
		unsigned blocks[FM_MAX_PUSH_STREAMS] = { 0 }, last = UINT32_MAX, same = 0, longest = 0;
		for (uint64_t i = 0; i < 8192; i++) {
			uint64_t at = 0x7f0000000000 + i * FM_PUSH_BLOCK_BYTES;
			unsigned k = fm_push_stream_of(7, at, n);
			assert_true(k < n);
			assert_int_equal(fm_push_stream_of(7, at + FM_PUSH_BLOCK_BYTES - PAGE, n), k);
			blocks[k]++;
			same = k == last ? same + 1 : 1;
			longest = same > longest ? same : longest;
			last = k;
		}
		for (unsigned k = 0; k < n; k++)
			assert_in_range(blocks[k], 8192 / n * 3 / 4, 8192 / n * 5 / 4);
		assert_true(n == 1 || longest < 20); /* neighbours do not stay together */
	}
	/* a part of the protocol: two versions must agree */
	static const unsigned of_16[] = { 3, 15, 9, 1, 9, 7, 8, 4 };
	for (unsigned i = 0; i < FM_ARRAY_SIZE(of_16); i++)
		assert_int_equal(fm_push_stream_of(1 + (pid_t)i % 2, 0x555555600000 + i * FM_PUSH_BLOCK_BYTES, 16), of_16[i]);
}

static void test_runs_stay_in_blocks(void **state)
{
	const uint64_t block = 40 * FM_PUSH_BLOCK_BYTES;

	assert_int_equal(fm_push_stream_run(block, 100000, 1), 100000);
	assert_int_equal(fm_push_stream_run(block, 100000, 3), 512);
	assert_int_equal(fm_push_stream_run(block + PAGE, 100000, 3), 511);
	assert_int_equal(fm_push_stream_run(block - PAGE, 100000, 3), 1);
	assert_int_equal(fm_push_stream_run(block + PAGE, 5, 3), 5);
}

/* ---------------------------------------------------------------- both ends */

static const struct churn churn = { .pages = PAGES, .changes = 12, .longest = 80 };

struct world;

struct lane {
	struct world *world;
	struct fm_page_store *store;
	struct fm_stream *source, *destination;
	struct link link;
	pthread_t receiver;
	bool receives, complete;
	unsigned breaks, seed;
	int64_t good_max;
};

struct world {
	struct target target;
	struct fm_push *push;
	struct fm_stream *sources[FM_MAX_PUSH_STREAMS];
	struct lane lanes[FM_MAX_PUSH_STREAMS];
	unsigned n, seed;
	_Atomic unsigned damages;
	unsigned fails;
	int cancel_fd;
};

static void *receive(void *arg)
{
	struct lane *l = arg;
	struct fm_error e = FM_ERROR_INIT;

	if (fm_push_receive(l->destination, l->store, NULL, NULL, -1, &e) == 0)
		l->complete = true;
	else
		fm_stream_shutdown(l->destination);
	return NULL;
}

static void disconnect(struct lane *l)
{
	if (!l->receives)
		return;
	fm_stream_shutdown(l->source);
	fm_stream_shutdown(l->destination);
	(void)pthread_join(l->receiver, NULL);
	(void)pthread_join(l->link.thread, NULL);
	fm_stream_free(l->source);
	fm_stream_free(l->destination);
	l->receives = false;
}

/* In the threads of the streams, too: nothing that ends the test. */
static int open_end(struct fm_stream **stream, int *fd, struct fm_error *e)
{
	int sv[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
		return fm_error_errno(e, errno, "socketpair");
	*fd = sv[1];
	return fm_stream_from_fd(sv[0], stream, e);
}

/* A connection that breaks after a random number of bytes, at most good_max; 0: it does not. */
static int connect_again(struct lane *l, struct fm_error *e)
{
	disconnect(l);
	if (open_end(&l->source, &l->link.a, e) < 0 || open_end(&l->destination, &l->link.b, e) < 0)
		return -1;
	l->link.good = l->good_max ? rand_r(&l->seed) % l->good_max : INT64_MAX;
	l->link.damages = rand_r(&l->seed) % 2;
	l->link.damaged = false;
	int rc = pthread_create(&l->link.thread, NULL, relay, &l->link);
	if (rc == 0)
		rc = pthread_create(&l->receiver, NULL, receive, l);
	if (rc != 0)
		return fm_error_errno(e, rc, "a thread");
	l->receives = true;
	return 0;
}

static int reconnect(void *userdata, unsigned index, const struct fm_error *why, int cancel_fd, struct fm_stream **ret, struct fm_error *e)
{
	struct world *w = userdata;
	struct lane *l = &w->lanes[index];

	if (why->code == FM_OK)
		return fm_error_set(e, FM_E_INTERNAL, "no reason to connect again");
	if (l->breaks++ > 6)
		l->good_max = 0;
	if (connect_again(l, e) < 0)
		return -1;
	*ret = l->source;
	return 0;
}

static void setup_world(struct world *w, unsigned n, unsigned seed)
{
	char pages[16];

	memset(w, 0, sizeof(*w));
	w->n = n;
	w->seed = seed;
	(void)snprintf(pages, sizeof(pages), "%u", PAGES);
	target_start(&w->target, "echo", pages, NULL);
	for (unsigned i = 0; i < n; i++) {
		w->lanes[i] = (struct lane){ .world = w, .seed = seed * 100 + i };
		assert_ok(fm_page_store_new(64 * MIB, &w->lanes[i].store, &err));
	}
}

static void connect_all(struct world *w)
{
	for (unsigned i = 0; i < w->n; i++) {
		assert_ok(connect_again(&w->lanes[i], &err));
		w->sources[i] = w->lanes[i].source;
	}
}

/* Over streams that exist */
static void start_push(struct world *w, const struct fm_push_opts *more)
{
	struct fm_push_opts o = *more;

	o.streams = w->sources;
	o.n_streams = w->n;
	o.userdata = w;
	assert_ok(fm_push_new(&o, &w->push, &err));
}

static void end_world(struct world *w)
{
	for (unsigned i = 0; i < w->n; i++)
		disconnect(&w->lanes[i]);
	fm_push_free(w->push);
	for (unsigned i = 0; i < w->n; i++)
		fm_page_store_free(w->lanes[i].store);
	target_end(&w->target);
}

static unsigned lane_of(const struct world *w, unsigned page)
{
	return fm_push_stream_of(w->target.pid, w->target.memory + (uint64_t)page * PAGE, w->n);
}

/* Pages are in the store of their stream, with the frozen process's bytes, and in no other. Returns how many of its memory are not there. */
static unsigned compare(const struct world *w)
{
	unsigned missing = 0;

	for (unsigned i = 0; i < PAGES; i++) {
		uint64_t at = w->target.memory + (uint64_t)i * PAGE;
		const void *page = NULL;
		for (unsigned k = 0; k < w->n; k++)
			if (k != lane_of(w, i))
				assert_int_equal(fm_page_store_get(w->lanes[k].store, w->target.pid, at, &page), FM_PAGE_NOT_HERE);
		enum fm_page_have have = fm_page_store_get(w->lanes[lane_of(w, i)].store, w->target.pid, at, &page);
		missing += is_missing(&w->target, at, have, page);
	}
	return missing;
}

static void run(struct world *w, unsigned rounds, uint64_t max_pages, struct fm_push_result *ret)
{
	push_all(w->push, &w->target, &churn, &w->seed, rounds, max_pages, ret);
}

static void start(struct world *w, unsigned n, unsigned seed, const struct fm_push_opts *o)
{
	setup_world(w, n, seed);
	connect_all(w);
	start_push(w, o);
}

/* ---------------------------------------------------------------- all well */

static void test_rounds(void **state)
{
	static const unsigned counts[] = { 1, 2, 3, FM_MAX_PUSH_STREAMS };
	static const enum fm_tracker_backend backends[] = { FM_TRACKER_AUTO, FM_TRACKER_HASH };

	for (size_t i = 0; i < 8; i++) {
		struct fm_push_opts o = { .backend = backends[i % 2], .compress = -1 };
		struct fm_push_result r;
		struct world w;
		start(&w, counts[i / 2], 1 + (unsigned)i, &o);
		run(&w, 4, UINT64_MAX, &r);
		assert_int_equal(r.pages_left, 0);
		assert_true(r.pages_changed > 0 && r.pages_changed < PAGES);
		for (unsigned k = 0; k < w.n; k++) {
			disconnect(&w.lanes[k]); /* ends the receiver, which may still be on its way out */
			assert_true(w.lanes[k].complete && fm_page_store_is_sealed(w.lanes[k].store));
			assert_int_equal(w.lanes[k].breaks, 0);
		}
		assert_int_equal(compare(&w), 0);
		end_world(&w);
	}
}

/* What was read is noted by several threads: a page that nobody changes is not reported again. */
static void test_what_was_read_is_noted(void **state)
{
	struct fm_push_opts o = { .backend = FM_TRACKER_HASH };
	struct fm_push_result first, second;
	struct world w;

	start(&w, 4, 3, &o);
	struct fm_page_source_task t = task_of(&w.target);
	assert_ok(fm_push_round(w.push, &t, 1, -1, &first, &err));
	assert_true(first.pages_changed >= PAGES);
	order(&w.target, 'w', 17, 5);
	assert_ok(fm_push_round(w.push, &t, 1, -1, &second, &err));
	assert_in_range(second.pages_changed, 5, 20);
	end_world(&w);
}

/* The limit is that of the round, whichever stream the pages belong to. */
static void test_the_rest_is_left(void **state)
{
	for (unsigned limit = 0; limit < 600; limit += 150) {
		struct fm_push_opts o = { 0 };
		struct fm_push_result r;
		struct world w;
		start(&w, 3, 2, &o);
		struct fm_page_source_task t = task_of(&w.target);
		assert_ok(fm_push_round(w.push, &t, 1, -1, &r, &err));
		order(&w.target, 'w', 0, PAGES);
		freeze(&w.target);
		assert_ok(fm_push_final(w.push, &t, 1, limit, -1, &r, &err));
		assert_true(r.pages_changed >= PAGES);
		assert_int_equal(r.pages_left, r.pages_changed - limit);
		assert_in_range(compare(&w), PAGES - limit, PAGES);
		end_world(&w);
	}
}

static void test_bandwidth(void **state)
{
	struct fm_push_opts o = { .bandwidth_bytes_per_s = MIB, .compress = FM_CHUNK_PLAIN };
	struct fm_push_result r;
	struct world w;

	start(&w, 4, 9, &o);
	struct fm_page_source_task t = task_of(&w.target);
	assert_ok(fm_push_round(w.push, &t, 1, -1, &r, &err));
	uint64_t wanted_us = r.payload_bytes * 1000000 / MIB;
	assert_true(wanted_us > 1000000); /* 255 different pages */
	assert_true(r.total_us + 150000 > wanted_us);
	end_world(&w);
}

/* ---------------------------------------------------------------- streams that break */

static void test_links_that_break(void **state)
{
	unsigned breaks = 0;

	for (unsigned seed = 1; seed <= 12; seed++) {
		struct fm_push_opts o = { .reconnect = reconnect, .compress = -1 };
		struct fm_push_result r;
		struct world w;
		setup_world(&w, 3, seed);
		for (unsigned i = 0; i < w.n; i++)
			w.lanes[i].good_max = (seed + i) % 2 ? 400000 : 40000;
		connect_all(&w);
		start_push(&w, &o);
		run(&w, 3, seed % 3 ? UINT64_MAX : 20, &r);
		assert_true(compare(&w) <= r.pages_left);
		assert_int_equal(r.pages_left, seed % 3 || r.pages_changed < 20 ? 0 : r.pages_changed - 20);
		for (unsigned i = 0; i < w.n; i++)
			breaks += w.lanes[i].breaks;
		end_world(&w);
	}
	assert_true(breaks > 12);
}

/* Only the one that broke is dialled again and sends again. */
static void test_one_that_breaks(void **state)
{
	struct fm_push_opts o = { .reconnect = reconnect, .compress = -1 };
	struct fm_push_result r;
	struct world w;

	setup_world(&w, 3, 4);
	unsigned broken = lane_of(&w, 0); /* it has a block at least */
	connect_all(&w);
	disconnect(&w.lanes[broken]);
	w.lanes[broken].good_max = 3000;
	assert_ok(connect_again(&w.lanes[broken], &err));
	w.sources[broken] = w.lanes[broken].source;
	w.lanes[broken].good_max = 0; /* the next one holds */
	start_push(&w, &o);
	run(&w, 2, UINT64_MAX, &r);
	for (unsigned i = 0; i < w.n; i++)
		assert_int_equal(w.lanes[i].breaks, i == broken);
	assert_int_equal(compare(&w), 0);
	end_world(&w);
}

static bool damage_some(void *userdata)
{
	struct world *w = userdata;
	unsigned n = atomic_fetch_add(&w->damages, 1);

	return n % 5 == 0 && n < 60;
}

static void test_damaged_chunks(void **state)
{
	struct fm_push_opts o = { .reconnect = reconnect, .damage = damage_some };
	struct fm_push_result r;
	struct world w;
	unsigned breaks = 0;

	start(&w, 3, 5, &o);
	run(&w, 5, UINT64_MAX, &r);
	assert_int_equal(compare(&w), 0);
	for (unsigned i = 0; i < w.n; i++)
		breaks += w.lanes[i].breaks;
	assert_true(breaks > 0);
	end_world(&w);
}

static bool damage_one(void *userdata)
{
	struct world *w = userdata;

	return atomic_exchange(&w->damages, 0) != 0;
}

/* What it had taken of the limit is there again for its next try. Before the first chunk is sent no stream has taken more than a block, so the one that breaks has taken one. */
static void test_a_limit_and_a_break(void **state)
{
	const uint64_t limit = 4 * FM_PUSH_BLOCK_BYTES / PAGE;
	struct fm_push_opts o = { .reconnect = reconnect, .damage = damage_one };
	struct fm_push_result r;
	struct world w;

	start(&w, 3, 6, &o);
	struct fm_page_source_task t = task_of(&w.target);
	assert_ok(fm_push_round(w.push, &t, 1, -1, &r, &err));
	order(&w.target, 'w', 0, PAGES);
	freeze(&w.target);
	w.damages = 1;
	assert_ok(fm_push_final(w.push, &t, 1, limit, -1, &r, &err));
	assert_int_equal(w.lanes[0].breaks + w.lanes[1].breaks + w.lanes[2].breaks, 1);
	assert_int_equal(r.pages_left, r.pages_changed - limit);
	end_world(&w);
}

/* A store of each stream that has the pages from before. */
static void test_an_earlier_visit(void **state)
{
	struct fm_push_opts o = { 0 };
	struct fm_push_result first, second;
	struct world w;

	start(&w, 3, 7, &o);
	struct fm_page_source_task t = task_of(&w.target);
	assert_ok(fm_push_round(w.push, &t, 1, -1, &first, &err));
	assert_int_equal(first.pages_known, 0);
	for (unsigned i = 0; i < w.n; i++)
		disconnect(&w.lanes[i]);
	fm_push_free(w.push);
	order(&w.target, 'w', 10, 5);
	connect_all(&w);
	start_push(&w, &o);
	assert_ok(fm_push_round(w.push, &t, 1, -1, &second, &err));
	assert_int_equal(second.pages_known, first.pages_changed);
	assert_in_range(second.pages_sent, 5, 20); /* and what its stack is used for */
	end_world(&w);
}

/* ---------------------------------------------------------------- one fails for all */

/* Streams whose other ends nobody serves but the test. */
static void setup_unserved(struct world *w, unsigned n)
{
	setup_world(w, n, 1);
	for (unsigned i = 0; i < n; i++) {
		pair(&w->lanes[i].source, &w->lanes[i].destination);
		w->sources[i] = w->lanes[i].source;
	}
}

static void free_unserved(struct world *w)
{
	for (unsigned i = 0; i < w->n; i++) {
		fm_stream_free(w->lanes[i].source);
		fm_stream_free(w->lanes[i].destination);
	}
	end_world(w);
}

static void expect_promptly(struct world *w, int cancel_fd, enum fm_code code)
{
	struct fm_page_source_task t = task_of(&w->target);
	struct fm_push_result r;
	uint64_t since = fm_now_ms();

	assert_code(code, fm_push_round(w->push, &t, 1, cancel_fd, &r, &err));
	assert_true(fm_now_ms() - since < PROMPT_MS);
	/* and that was it */
	assert_code(FM_E_FAILED_PRECONDITION, fm_push_round(w->push, &t, 1, -1, &r, &err));
}

/* Pages whose bytes do not fit into any buffer of a socket */
static void fill_with_noise(struct world *w)
{
	uint8_t *noise = malloc(PAGES * PAGE);

	fill_pattern(noise, PAGES * PAGE, 3);
	struct iovec local = { .iov_base = noise, .iov_len = PAGES * PAGE },
	             remote = { .iov_base = (void *)(uintptr_t)w->target.memory, .iov_len = PAGES * PAGE };
	assert_int_equal(process_vm_writev(w->target.pid, &local, 1, &remote, 1, 0), PAGES * PAGE);
	free(noise);
}

/* The one that may send is about to be stuck in it. */
static bool cancel_now(void *userdata)
{
	const struct world *w = userdata;

	(void)eventfd_write(w->cancel_fd, 1);
	return false;
}

static bool fail_now(void *userdata)
{
	const struct world *w = userdata;
	struct fm_error full = FM_ERROR_INIT;

	(void)fm_error_set(&full, FM_E_RESOURCE_EXHAUSTED, "no room for pages");
	fm_stream_send_error(w->lanes[w->fails].destination, &full);
	return false;
}

/* Streams that wait for the destination, and one that is stuck in sending, all end, and none is dialled again. */
static void expect_an_end(bool (*what)(void *userdata), enum fm_code code)
{
	struct fm_push_opts o = { .reconnect = reconnect, .damage = what };
	struct world w;

	setup_unserved(&w, 3);
	fill_with_noise(&w);
	unsigned stuck = lane_of(&w, 0);
	w.fails = (stuck + 1) % 3;
	w.cancel_fd = eventfd(0, EFD_CLOEXEC);
	assert_ok(fm_stream_send(w.lanes[stuck].destination, FM_FRAME_PAGES_HAVE_END, 0, 0, NULL, 0, 1000, &err));
	start_push(&w, &o);
	expect_promptly(&w, w.cancel_fd, code);
	for (unsigned i = 0; i < w.n; i++)
		assert_int_equal(w.lanes[i].breaks, 0);
	(void)close(w.cancel_fd);
	free_unserved(&w);
}

static void test_cancel(void **state)
{
	expect_an_end(cancel_now, FM_E_CANCELLED);
}

/* The first failure is the round's. */
static void test_failure_of_one(void **state)
{
	expect_an_end(fail_now, FM_E_RESOURCE_EXHAUSTED);
}

static int dial_for_ever(void *userdata, unsigned index, const struct fm_error *why, int cancel_fd, struct fm_stream **ret,
                         struct fm_error *e)
{
	struct world *w = userdata;
	struct fm_error full = FM_ERROR_INIT;

	w->lanes[index].breaks++;
	/* Now that this one is being dialled, another one fails. */
	(void)fm_error_set(&full, FM_E_RESOURCE_EXHAUSTED, "no room for pages");
	fm_stream_send_error(w->lanes[(index + 1) % 3].destination, &full);
	(void)fm_wait_fd(cancel_fd, POLLIN, 2 * PROMPT_MS, NULL);
	return fm_error_set(e, FM_E_UNAVAILABLE, "there is no way");
}

static void test_failure_while_one_is_dialled(void **state)
{
	struct fm_push_opts o = { .reconnect = dial_for_ever };
	struct world w;

	setup_unserved(&w, 3);
	fm_stream_shutdown(w.lanes[1].destination);
	start_push(&w, &o);
	expect_promptly(&w, -1, FM_E_RESOURCE_EXHAUSTED);
	assert_int_equal(w.lanes[1].breaks, 1);
	free_unserved(&w);
}

static void test_number_of_streams(void **state)
{
	struct fm_push *p;
	struct fm_push_opts o = { .n_streams = 0 };

	assert_code(FM_E_INVALID_ARGUMENT, fm_push_new(&o, &p, &err));
	o.n_streams = FM_MAX_PUSH_STREAMS + 1;
	assert_code(FM_E_INVALID_ARGUMENT, fm_push_new(&o, &p, &err));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_division),
		cmocka_unit_test(test_runs_stay_in_blocks),
		cmocka_unit_test(test_rounds),
		cmocka_unit_test(test_what_was_read_is_noted),
		cmocka_unit_test(test_the_rest_is_left),
		cmocka_unit_test(test_bandwidth),
		cmocka_unit_test(test_links_that_break),
		cmocka_unit_test(test_one_that_breaks),
		cmocka_unit_test(test_damaged_chunks),
		cmocka_unit_test(test_a_limit_and_a_break),
		cmocka_unit_test(test_an_earlier_visit),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_failure_of_one),
		cmocka_unit_test(test_failure_while_one_is_dialled),
		cmocka_unit_test(test_number_of_streams),
	};

	(void)signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
