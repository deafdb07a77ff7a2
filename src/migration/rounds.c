/* SPDX-License-Identifier: MIT */
/*
 * rounds.c - the source's pages before the freeze: rounds of pre-copy while the container runs (strategies pre-copy and live), and the last set inside the freeze.
 *
 * The first round begins while the destination prepares what it does not need for that: its parent container. A thread of its own sends it, and what goes wrong with it is found out by fm_rounds_run.
 *
 * The last set is found and sent by a thread of its own, from the moment at which all tasks are frozen, while CRIU dumps and the destination restores: usually it is
 * over before they are. The commit waits for it, because the destination's store says nothing before it has been brought up to date.
 *
 * live: whatever goes wrong here, the container can still be moved post-copy: the store is then not used, and every page is asked for. pre-copy promises that the destination has
 * all pages, so there it ends the migration before anything is frozen, or undoes the freeze.
 */
#include <math.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "decision/converge.h"
#include "migration/mover-internal.h"

#define CONNECT_TIMEOUT_MS    10000
#define ROUNDS_MAX            64u
#define FINAL_MS              30u /* live: sending more than this would take inside the freeze is left to be fetched */
#define FINAL_PAGES_MIN       1024u
#define FROZEN_WAIT_MS        60000
#define RECONNECT_MS          20000 /* while the container runs */
#define RECONNECT_FROZEN_MS   3000  /* its clients wait: without the last set everything can still be fetched on demand */
#define RECONNECT_PAUSE_MS    100
#define RECONNECT_TRY_MS      1000
#define FILE_PAGES_MEMORY_MIN (64ull << 20)
#define COMPRESSED_PAGES_MIN  64u /* of fewer it says nothing */

enum rounds_thread { NO_THREAD, FIRST_ROUND, LAST_SET };

struct fm_rounds {
	struct fm_stream *streams[FM_MAX_PUSH_STREAMS];
	uint32_t redials[FM_MAX_PUSH_STREAMS]; /* of each stream: its thread's */
	unsigned n_streams;
	struct fm_push *push;
	struct fm_converge_round round[ROUNDS_MAX];
	unsigned n;
	uint64_t rate_bytes_per_s;
	uint64_t looked_us, between_us; /* when it was looked last what changed; the longest time between two looks */

	int frozen_fd; /* eventfd: the tree is frozen */
	pthread_t thread;
	enum rounds_thread started;
	bool ending; /* under the mover's lock, as is a change of the streams */
	int rc;
	struct fm_error error;
	struct fm_push_result result;
};

unsigned fm_mover_streams(const struct fm_mover *m)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	return m->limits.streams ? m->limits.streams : fm_converge_streams(cpus > 0 ? (uint32_t)cpus : 1);
}

static bool wanted(const struct fm_mover *m)
{
	return m->strategy == FM_STRATEGY_LIVE || m->strategy == FM_STRATEGY_PRE_COPY;
}

int fm_mover_tasks(struct fm_mover *m, struct fm_page_source_task **ret, size_t *ret_n, struct fm_error *err)
{
	_fm_free_ pid_t *tree = NULL;
	size_t n = 0, k = 0;
	if (fm_proc_tree(m->root, &tree, &n, err) < 0)
		return -1;
	struct fm_page_source_task *tasks = calloc(n ? n : 1, sizeof(*tasks));
	if (!tasks)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	for (size_t i = 0; i < n; i++) {
		tasks[k].host_pid = tree[i];
		if (fm_proc_ns_pid(tree[i], &tasks[k].ns_pid, NULL) == 0) /* one that ended meanwhile is no task any more */
			k++;
	}
	*ret = tasks;
	*ret_n = k;
	return 0;
}

static void drop(struct fm_mover *m)
{
	struct fm_rounds *r = m->rounds;
	if (!r)
		return;
	m->rounds = NULL;
	fm_push_free(r->push);
	for (unsigned i = 0; i < r->n_streams; i++) {
		if (!r->streams[i])
			continue;
		pthread_mutex_lock(&m->lock);
		m->wire_bytes += fm_stream_bytes(r->streams[i]);
		pthread_mutex_unlock(&m->lock);
		fm_stream_free(r->streams[i]);
	}
	fm_closep(&r->frozen_fd);
	free(r);
}

/* live goes on without what has failed; pre-copy does not. */
static int without(struct fm_mover *m, struct fm_error *why, struct fm_error *err)
{
	drop(m);
	fm_throttle_lift(m);
	if (m->strategy == FM_STRATEGY_LIVE && why->code != FM_E_CANCELLED) {
		fm_mover_note(m, "pages are fetched after the switch-over only: %s", why->message);
		return 0;
	}
	*err = *why;
	return fm_error_phase(err, "pages");
}

static int connect_push(struct fm_mover *m, unsigned index, int timeout_ms, struct fm_stream **ret, struct fm_error *err)
{
	const struct fm_rounds *r = m->rounds;
	const struct fm_stream_hello push = { .role = FM_STREAM_PUSH, .index = index, .count = r->n_streams, .redials = r->redials[index] };
	if (fm_stream_connect(m->stream_address, fm_mover_tls(m), m->token, m->id, &push, timeout_ms, ret, err) < 0)
		return fm_error_prefix(err, "cannot connect to the destination '%s'", m->peer);
	return 0;
}

/* Takes the new stream into the place of the old one, unless the rounds are being ended: then it is not wanted any more. */
static int replace_stream(struct fm_mover *m, unsigned index, struct fm_stream *s, struct fm_error *err)
{
	struct fm_rounds *r = m->rounds;
	pthread_mutex_lock(&m->lock);
	struct fm_stream *unwanted = r->ending ? s : r->streams[index];
	if (!r->ending) {
		m->wire_bytes += fm_stream_bytes(r->streams[index]);
		r->streams[index] = s;
	}
	pthread_mutex_unlock(&m->lock);
	fm_stream_free(unwanted);
	return unwanted == s ? fm_error_set(err, FM_E_CANCELLED, "cancelled while connecting again") : 0;
}

static bool ending(struct fm_mover *m)
{
	pthread_mutex_lock(&m->lock);
	bool yes = m->rounds->ending;
	pthread_mutex_unlock(&m->lock);
	return yes;
}

/* What has arrived stays there: a link that comes back costs the stream's part of the round that it broke. A thread of each stream. */
static int reconnect(void *userdata, unsigned index, const struct fm_error *why, int cancel_fd, struct fm_stream **ret,
                     struct fm_error *err)
{
	struct fm_mover *m = userdata;
	struct fm_rounds *r = m->rounds;
	uint64_t deadline = fm_now_ms() + (r->started == LAST_SET ? RECONNECT_FROZEN_MS : RECONNECT_MS);

	if (r->n_streams == 1)
		fm_mover_note(m, "the stream of pages broke (%s): connecting again", why->message);
	else
		fm_mover_note(m, "stream %u of %u of pages broke (%s): connecting again", index + 1, r->n_streams, why->message);
	fm_stream_shutdown(r->streams[index]);
	/* The destination may have taken a connection that we gave up: each is another one. */
	while (r->redials[index]++, connect_push(m, index, RECONNECT_TRY_MS, ret, err) < 0)
		if (ending(m) || fm_deadline_left_ms(deadline) <= 0 || fm_wait_fd(cancel_fd, POLLIN, RECONNECT_PAUSE_MS, NULL) > 0)
			return -1;
	return replace_stream(m, index, *ret, err);
}

static bool damage(void *userdata)
{
	struct fm_error e = FM_ERROR_INIT;
	return fm_mover_fault(userdata, "stream-corrupt", &e) < 0;
}

/* To look through its files takes the destination longer than sending so little. */
static bool files_may_help(const struct fm_mover *m)
{
	return m->local.container->memory_bytes >= FILE_PAGES_MEMORY_MIN &&
	       !fm_streq(fm_pb_label(m->local.container, "fleximigrate.file-pages"), "no");
}

static int begin(struct fm_mover *m, struct fm_error *err)
{
	const char *tracking = fm_pb_label(m->local.container, "fleximigrate.tracking");
	enum fm_tracker_backend backend = FM_TRACKER_AUTO;
	struct fm_rounds *r = m->rounds;
	r->frozen_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (r->frozen_fd < 0)
		return fm_error_errno(err, errno, "eventfd");
	if (!m->hide && fm_tree_is_filtered(m->root))
		return fm_error_set(err, FM_E_FAILED_PRECONDITION,
		                    "processes of '%s' have seccomp filters: it moves with strategy post-copy or cold", m->container);
	if (!m->hide)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION,
		                    "host '%s' cannot keep CRIU from dumping pages itself (its kernel has no seccomp notifications)",
		                    m->h->name);
	if (tracking && fm_tracker_backend_from_string(tracking, &backend, err) < 0)
		return fm_error_prefix(err, "label fleximigrate.tracking");
	r->n_streams = fm_mover_streams(m);
	for (unsigned i = 0; i < r->n_streams; i++)
		if (connect_push(m, i, CONNECT_TIMEOUT_MS, &r->streams[i], err) < 0)
			return -1;
	struct fm_push_opts o = { .streams = r->streams,
		                  .n_streams = r->n_streams,
		                  .look = files_may_help(m),
		                  .reconnect = reconnect,
		                  .damage = damage,
		                  .userdata = m,
		                  .backend = backend,
		                  .bandwidth_bytes_per_s = m->limits.bandwidth_bytes_per_s,
		                  .compress = -1 };
	return fm_push_new(&o, &r->push, err);
}

/*
 * For the next migration's forecast: how much it writes, by the longest time between two looks, in which a page written again and again counts once, and how its memory compresses. Throttled it writes less than it
 * would.
 */
static void keep_measured(struct fm_mover *m, const struct fm_push_result *got, uint64_t looked_us)
{
	struct fm_rounds *r = m->rounds;
	uint64_t between_us = r->looked_us ? looked_us - r->looked_us : 0, bytes = got->pages_changed * FM_PAGE_BYTES;
	bool unthrottled = fm_throttle_percent(m) == 0;
	pthread_mutex_lock(&m->lock);
	if (!r->looked_us && got->pages_changed >= COMPRESSED_PAGES_MIN)
		m->compressibility = fmin((double)got->payload_bytes / (double)bytes, 1);
	if (between_us > r->between_us && unthrottled) {
		uint64_t rate = (uint64_t)((double)bytes * 1e6 / (double)between_us);
		m->dirty_bytes_per_s = rate ? rate : 1; /* 0: not measured */
		r->between_us = between_us;
	}
	pthread_mutex_unlock(&m->lock);
	r->looked_us = looked_us;
}

static int one_round(struct fm_mover *m, struct fm_error *err)
{
	struct fm_rounds *r = m->rounds;
	uint64_t looked_us = fm_now_us();
	_fm_free_ struct fm_page_source_task *tasks = NULL;
	struct fm_push_result got = { 0 };
	size_t n = 0;
	fm_throttle_round_begins(m);
	if (fm_mover_tasks(m, &tasks, &n, err) < 0 || fm_push_round(r->push, tasks, n, fm_mover_cancel_fd(m), &got, err) < 0)
		return -1;
	keep_measured(m, &got, looked_us);
	if (r->n == ROUNDS_MAX) /* the first one tells the memory's size: keep it */
		memmove(&r->round[1], &r->round[2], (--r->n - 1) * sizeof(r->round[0]));
	r->round[r->n++] = (struct fm_converge_round){ .changed_bytes = got.pages_changed * FM_PAGE_BYTES,
		                                       .sent_bytes = got.payload_bytes,
		                                       .us = got.total_us,
		                                       .throttle_percent = fm_throttle_percent(m) };
	fm_throttle_round_ended(m);
	if (got.pages_of_files > 0)
		fm_mover_note(m, "'%s' has %llu pages of files of '%s' at hand: what is the same in memory is not sent", m->peer,
		              (unsigned long long)got.pages_of_files, m->container);
	pthread_mutex_lock(&m->lock);
	m->pages_total = r->round[0].changed_bytes / FM_PAGE_BYTES;
	m->pages_done = m->pages_total - (got.pages_changed < m->pages_total && r->n > 1 ? got.pages_changed : 0);
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
	return 0;
}

/* A container that cannot be throttled is moved, or not, without that. */
static int throttle(struct fm_mover *m, const struct fm_converge_decision *d, struct fm_converge_limits *l, struct fm_error *err)
{
	struct fm_error e = FM_ERROR_INIT;
	if (d->verdict != FM_CONVERGE_ANOTHER || d->throttle_percent == fm_throttle_percent(m))
		return 0;
	if (fm_throttle_to(m, d->throttle_percent, d->reason, &e) < 0) {
		fm_mover_note(m, "%s", e.message);
		l->max_throttle_percent = fm_throttle_percent(m);
		return 0;
	}
	return fm_mover_fault(m, "source-throttled", err);
}

/* The first is over. */
static int more_rounds(struct fm_mover *m, struct fm_error *err)
{
	struct fm_converge_limits l = { .max_downtime_ms = m->limits.max_downtime_ms,
		                        .max_rounds_ms = m->limits.max_rounds_ms,
		                        .max_throttle_percent = m->limits.max_throttle_percent };
	struct fm_rounds *r = m->rounds;
	struct fm_converge_decision d;

	for (;;) {
		fm_converge(&l, r->round, r->n, m->strategy == FM_STRATEGY_LIVE, 0, &d);
		if (throttle(m, &d, &l, err) < 0)
			return -1;
		if (d.verdict != FM_CONVERGE_ANOTHER)
			break;
		if (one_round(m, err) < 0)
			return -1;
	}
	r->rate_bytes_per_s = d.rate_bytes_per_s;
	_fm_free_ char *over = r->n_streams > 1 ? fm_xasprintf(" over %u streams", r->n_streams) : fm_xstrdup("");
	fm_mover_note(m, "%u rounds%s (changes are found by %s): %s", r->n, over, fm_tracker_backend_to_string(fm_push_tracker(r->push)),
	              d.reason);
	if (d.verdict == FM_CONVERGE_HOPELESS) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "pre-copy does not converge: %s", d.reason);
		return fm_error_hint(err, "use --strategy live, which fetches the rest on demand, or allow more with --max-downtime or "
		                          "--max-throttle");
	}
	return 0;
}

static int start_thread(struct fm_mover *m, enum rounds_thread which, void *(*body)(void *), struct fm_error *err)
{
	struct fm_rounds *r = m->rounds;
	r->started = which; /* which it wants to know itself */
	int rc = pthread_create(&r->thread, NULL, body, m);
	if (rc == 0)
		return 0;
	r->started = NO_THREAD;
	return fm_error_errno(err, rc, "cannot start a thread that sends pages");
}

static void join(struct fm_rounds *r)
{
	if (r->started != NO_THREAD)
		pthread_join(r->thread, NULL);
	r->started = NO_THREAD;
}

static void *first_round(void *arg)
{
	struct fm_mover *m = arg;
	fm_thread_haste(FM_HASTE_PATIENT);
	m->rounds->rc = one_round(m, &m->rounds->error);
	return NULL;
}

int fm_rounds_start(struct fm_mover *m, struct fm_error *err)
{
	if (!wanted(m))
		return 0;
	struct fm_rounds *r = m->rounds = calloc(1, sizeof(*r));
	if (!r)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	r->frozen_fd = -1;
	r->rc = begin(m, &r->error);
	if (r->rc < 0)
		return 0;
	return start_thread(m, FIRST_ROUND, first_round, err);
}

int fm_rounds_run(struct fm_mover *m, struct fm_error *err)
{
	struct fm_error e = FM_ERROR_INIT;
	struct fm_rounds *r = m->rounds;
	uint64_t t = fm_now_us();
	if (!r)
		return 0;
	fm_mover_step(m, "rounds");
	join(r);
	e = r->error;
	if (r->rc < 0)
		return without(m, &e, err);
	fm_thread_haste(FM_HASTE_PATIENT);
	int rc = more_rounds(m, &e);
	fm_thread_haste(FM_HASTE_USUAL);
	fm_mover_phase(m, "rounds", fm_now_us() - t);
	m->n_rounds = r->n;
	return rc < 0 ? without(m, &e, err) : 0;
}

/* Just before the fence: what changed while the files were looked at is not to be the freeze's work. */
int fm_rounds_last(struct fm_mover *m, struct fm_error *err)
{
	struct fm_error e = FM_ERROR_INIT;
	if (!m->rounds || !fm_converge_last_round(m->rounds->round, m->rounds->n, m->strategy == FM_STRATEGY_LIVE))
		return 0;
	return one_round(m, &e) < 0 ? without(m, &e, err) : 0;
}

/* ---------------------------------------------------------------- inside the freeze */

static void *final_round(void *arg)
{
	struct fm_mover *m = arg;
	struct fm_rounds *r = m->rounds;
	_fm_free_ struct fm_page_source_task *tasks = NULL;
	size_t n = 0;
	uint64_t max = r->rate_bytes_per_s / 1000 * FINAL_MS / FM_PAGE_BYTES;
	struct pollfd fds[] = { { .fd = r->frozen_fd, .events = POLLIN }, { .fd = m->stop.fd, .events = POLLIN } };

	fm_thread_haste(FM_HASTE_HURRIED);
	if (max < FINAL_PAGES_MIN)
		max = FINAL_PAGES_MIN;
	if (m->strategy == FM_STRATEGY_PRE_COPY)
		max = UINT64_MAX;
	r->rc = -1;
	if (poll(fds, 2, FROZEN_WAIT_MS) <= 0 || !(fds[0].revents & POLLIN))
		(void)fm_error_set(&r->error, FM_E_CANCELLED, "the tree was not frozen");
	else if (fm_mover_tasks(m, &tasks, &n, &r->error) == 0)
		r->rc = fm_push_final(r->push, tasks, n, max, m->stop.fd, &r->result, &r->error);
	return NULL;
}

/* -1: nobody waits for it */
int fm_rounds_frozen_fd(const struct fm_mover *m)
{
	return m->rounds && m->rounds->started == LAST_SET ? m->rounds->frozen_fd : -1;
}

int fm_rounds_start_final(struct fm_mover *m, struct fm_error *err)
{
	if (!m->rounds)
		return 0;
	return start_thread(m, LAST_SET, final_round, err);
}

int fm_rounds_await_final(struct fm_mover *m, struct fm_error *err)
{
	struct fm_rounds *r = m->rounds;
	uint64_t t = fm_now_us();
	if (!r)
		return 0;
	join(r);
	fm_mover_phase(m, "last-set", r->result.total_us);
	fm_mover_phase(m, "last-set-wait", fm_now_us() - t);
	if (r->rc == 0) {
		fm_mover_note(m, "%llu pages changed since the last round, %llu of them are fetched on demand",
		              (unsigned long long)r->result.pages_changed, (unsigned long long)r->result.pages_left);
		return 0;
	}
	if (m->strategy == FM_STRATEGY_LIVE && !fm_stop_requested(&m->stop)) {
		fm_mover_note(m, "pages are fetched after the switch-over only: %s", r->error.message);
		return 0;
	}
	*err = r->error;
	return fm_error_phase(err, "pages");
}

/* Not inside the freeze: ending the tracking takes its time. */
void fm_rounds_end(struct fm_mover *m)
{
	if (!m->rounds)
		return;
	if (m->rounds->started != NO_THREAD) {
		(void)eventfd_write(m->rounds->frozen_fd, 1); /* the last set's, if it still waits for that, will find out */
		pthread_mutex_lock(&m->lock);
		m->rounds->ending = true;
		for (unsigned i = 0; i < m->rounds->n_streams; i++)
			fm_stream_shutdown(m->rounds->streams[i]);
		pthread_mutex_unlock(&m->lock);
		join(m->rounds);
	}
	drop(m);
}
