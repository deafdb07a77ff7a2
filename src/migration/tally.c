/* SPDX-License-Identifier: MIT */
/* tally.c - see tally.h. */
#include "migration/tally.h"

#include <pthread.h>
#include <stdlib.h>

#include "basic/cleanup.h"
#include "migration/pb.h"
#include "migration/state.h"

#define MS 1000ull
#define S  1000000ull

const uint64_t fm_tally_short_us[FM_TALLY_BUCKETS] = { 5 * MS,   10 * MS, 25 * MS,   50 * MS, 100 * MS, 200 * MS, 300 * MS,
	                                               500 * MS, 1 * S,   2500 * MS, 5 * S,   10 * S,   30 * S,   60 * S };
const uint64_t fm_tally_long_us[FM_TALLY_BUCKETS] = { 250 * MS, 500 * MS, 1 * S,   2500 * MS, 5 * S,   10 * S,   20 * S,
	                                              30 * S,   60 * S,   120 * S, 300 * S,   600 * S, 1800 * S, 3600 * S };

const char *const fm_tally_phases[] = { "files-warm", "files",         "files-delta", "files-known", "memory-files",
	                                "rounds",     "criu-ready",    "dump",        "verify-dump", "images",
	                                "last-set",   "last-set-wait", "file-pages",  "restore",     "resume",
	                                "redirect",   "commit",        "keep-pages",  "pages",       "other" };
_Static_assert(FM_ARRAY_SIZE(fm_tally_phases) == FM_TALLY_PHASES, "each phase has its place");

struct fm_tally {
	pthread_mutex_t lock;
	struct fm_tally_figures figures;
};

static void add_time(struct fm_tally_times *t, const uint64_t bounds[FM_TALLY_BUCKETS], uint64_t us)
{
	size_t i = 0;
	while (i < FM_TALLY_BUCKETS && us > bounds[i])
		i++;
	t->counts[i]++;
	t->sum_us += us;
}

static size_t phase_index(const char *name)
{
	size_t i = 0;
	while (i + 1 < FM_TALLY_PHASES && !fm_streq(fm_tally_phases[i], name))
		i++;
	return i;
}

/* These are of single page faults, reported beside the phases. */
static bool is_phase(const char *name)
{
	return !fm_str_startswith(name, "fault-");
}

static void add(struct fm_tally_figures *f, const FM_PB(Migration) * m)
{
	size_t strategy = m->strategy > 0 && m->strategy < (int)_FM_STRATEGY_MAX ? (size_t)m->strategy : FM_STRATEGY_AUTO;
	if ((enum fm_state)m->state == FM_STATE_COMPLETED) {
		f->by_strategy[strategy].completed++;
		uint64_t ms = m->finished_unix_ms > m->created_unix_ms ? m->finished_unix_ms - m->created_unix_ms : 0;
		add_time(&f->by_strategy[strategy].duration, fm_tally_long_us, ms * MS);
		if (m->frozen_us > 0)
			add_time(&f->by_strategy[strategy].downtime, fm_tally_short_us, m->frozen_us);
	} else {
		f->by_strategy[strategy].failed++;
		f->failures[m->error_code > 0 && m->error_code < (unsigned)_FM_CODE_MAX ? m->error_code : FM_E_UNKNOWN]++;
	}
	f->by_strategy[strategy].wire_bytes += m->wire_bytes;
	f->by_strategy[strategy].files_bytes += m->files_bytes;
	f->by_strategy[strategy].pages += m->pages_done;
	f->rolled_back += m->rolled_back;
	f->throttled += m->throttle_percent > 0;
	for (size_t i = 0; i < m->n_phases; i++)
		if (is_phase(m->phases[i]->name))
			add_time(&f->phases[phase_index(m->phases[i]->name)], fm_tally_short_us, m->phases[i]->duration_us);
}

/* See tally.h: all of them, or none. */
static int load(struct fm_tally *t, struct fm_store *store, struct fm_error *err)
{
	struct fm_store_migration *v = NULL;
	size_t n = 0;
	if (fm_store_migration_list(store, false, 0, &v, &n, err) < 0)
		return -1;
	for (size_t i = 0; n < FM_STORE_MAX_MIGRATIONS && i < n; i++) {
		if (v[i].finished_ms == 0)
			continue;
		_fm_pb_ FM_PB(Migration) *m = fleximigrate__v1__migration__unpack(NULL, v[i].detail_len, v[i].detail);
		if (m)
			add(&t->figures, m);
	}
	fm_store_migrations_free(v, n);
	return 0;
}

int fm_tally_new(struct fm_store *store, struct fm_tally **ret, struct fm_error *err)
{
	struct fm_tally *t = calloc(1, sizeof(*t));
	if (!t)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	pthread_mutex_init(&t->lock, NULL);
	if (load(t, store, err) < 0) {
		fm_tally_free(t);
		return -1;
	}
	*ret = t;
	return 0;
}

void fm_tally_free(struct fm_tally *t)
{
	if (!t)
		return;
	pthread_mutex_destroy(&t->lock);
	free(t);
}

void fm_tally_add(struct fm_tally *t, const FM_PB(Migration) * m)
{
	if (!t)
		return;
	pthread_mutex_lock(&t->lock);
	add(&t->figures, m);
	pthread_mutex_unlock(&t->lock);
}

void fm_tally_paused(struct fm_tally *t)
{
	if (!t)
		return;
	pthread_mutex_lock(&t->lock);
	t->figures.pauses++;
	pthread_mutex_unlock(&t->lock);
}

void fm_tally_read(struct fm_tally *t, struct fm_tally_figures *ret)
{
	pthread_mutex_lock(&t->lock);
	*ret = t->figures;
	pthread_mutex_unlock(&t->lock);
}
