/* SPDX-License-Identifier: MIT */
/*
 * store.c - the part of the store that is the same for every backend: checking arguments, and freeing records.
 *
 * Whatever reaches a backend has been checked here, so that a limit is one line in one place, and that a backend
 * may treat a constraint violation as a defect of ours. The state numbers are the contract of docs/LIFECYCLE.md; migration/state.h, which
 * names them, lies above this room and is not included.
 */
#include <stdlib.h>
#include <string.h>

#include "basic/clock.h"
#include "basic/error.h"
#include "basic/limits.h"
#include "basic/log.h"
#include "store/store-backend.h"

#define STATE_FIRST     1 /* PENDING */
#define STATE_COMPLETED 6
#define STATE_FAILED    7
#define STATE_LAST      8 /* ROLLBACK */

/* ------------------------------------------------------------------------------------------------ checks */

static int check_id(const char *what, const char *s, struct fm_error *err)
{
	size_t n = s ? strnlen(s, FM_STORE_MAX_ID + 1) : 0;

	if (n == 0 || n > FM_STORE_MAX_ID)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "store: %s must have 1 to %d characters", what, FM_STORE_MAX_ID);
	return 0;
}

static int check_name(const char *what, const char *s, struct fm_error *err)
{
	if (s && strnlen(s, FM_STORE_MAX_NAME + 1) > FM_STORE_MAX_NAME)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "store: %s is longer than %d characters", what, FM_STORE_MAX_NAME);
	return 0;
}

static int check_time(const char *what, uint64_t ms, struct fm_error *err)
{
	if (ms > INT64_MAX)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "store: %s is not a time", what);
	return 0;
}

static int check_blob(const char *what, const void *blob, size_t len, size_t max, struct fm_error *err)
{
	if (len > 0 && !blob)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "store: %s is missing", what);
	if (len > max)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "store: %s has %zu bytes, more than %zu", what, len, max);
	return 0;
}

static int check_state(const char *what, int state, struct fm_error *err)
{
	if (state < STATE_FIRST || state > STATE_LAST)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "store: %s %d is not a state of a migration", what, state);
	return 0;
}

static int check_detail(const struct fm_store_migration *m, struct fm_error *err)
{
	if (m->error_code < 0 || m->error_code >= _FM_CODE_MAX)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "store: %d is not an error code", m->error_code);
	return check_blob("a migration's detail", m->detail, m->detail_len, FM_STORE_MAX_DETAIL, err);
}

static int check_migration(const struct fm_store_migration *m, struct fm_error *err)
{
	if (check_id("a migration's id", m->id, err) < 0 || check_state("state", m->state, err) < 0 || check_detail(m, err) < 0)
		return -1;
	if (check_name("source", m->source, err) < 0 || check_name("destination", m->destination, err) < 0 ||
	    check_name("strategy", m->strategy, err) < 0)
		return -1;
	return check_time("created_ms", m->created_ms, err);
}

/* ------------------------------------------------------------------------------------------------ records */

void fm_store_migration_done(struct fm_store_migration *m)
{
	if (!m)
		return;
	free(m->id);
	free(m->container);
	free(m->source);
	free(m->destination);
	free(m->strategy);
	free(m->path);
	free(m->error_message);
	free(m->detail);
	memset(m, 0, sizeof(*m));
}

void fm_store_migrations_free(struct fm_store_migration *m, size_t n)
{
	for (size_t i = 0; m && i < n; i++)
		fm_store_migration_done(&m[i]);
	free(m);
}

void fm_store_transitions_free(struct fm_store_transition *t, size_t n)
{
	for (size_t i = 0; t && i < n; i++)
		free(t[i].reason);
	free(t);
}

void fm_store_events_free(struct fm_store_event *e, size_t n)
{
	for (size_t i = 0; e && i < n; i++) {
		free(e[i].component);
		free(e[i].line);
	}
	free(e);
}

/* ------------------------------------------------------------------------------------------------ the store */

void fm_store_close(struct fm_store *s)
{
	if (s)
		s->ops->close(s);
}

int fm_store_migration_create(struct fm_store *s, const struct fm_store_migration *m, uint32_t *ret_epoch, struct fm_error *err)
{
	if (check_migration(m, err) < 0 || check_name("container", m->container, err) < 0)
		return -1;
	if (!m->container || !*m->container)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "store: migration '%s' names no container", m->id);
	return s->ops->migration_create(s, m, ret_epoch, err);
}

int fm_store_migration_transition(struct fm_store *s, int expected, const struct fm_store_migration *m, const char *label,
                                  const char *reason, struct fm_error *err)
{
	if (check_migration(m, err) < 0 || check_state("expected state", expected, err) < 0 ||
	    check_time("finished_ms", m->finished_ms, err) < 0)
		return -1;
	if (m->finished_ms && m->state != STATE_COMPLETED && m->state != STATE_FAILED)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "store: migration '%s' cannot be finished in state %d", m->id, m->state);
	if (label && strnlen(label, 4) > 3)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "store: a transition's label has at most 3 characters");
	return s->ops->migration_transition(s, expected, m, label, reason, err);
}

int fm_store_migration_update(struct fm_store *s, const struct fm_store_migration *m, struct fm_error *err)
{
	if (check_id("a migration's id", m->id, err) < 0 || check_detail(m, err) < 0)
		return -1;
	return s->ops->migration_update(s, m, err);
}

int fm_store_migration_get(struct fm_store *s, const char *id, struct fm_store_migration *ret, struct fm_error *err)
{
	if (check_id("a migration's id", id, err) < 0)
		return -1;
	return s->ops->migration_get(s, id, ret, err);
}

int fm_store_migration_list(struct fm_store *s, bool active_only, size_t limit, struct fm_store_migration **ret, size_t *ret_n,
                            struct fm_error *err)
{
	/* Unfinished ones are never pruned, so that there may be a few more than the maximum. */
	if (limit == 0 || limit > INT32_MAX)
		limit = INT32_MAX;
	return s->ops->migration_list(s, active_only, limit, ret, ret_n, err);
}

int fm_store_transition_list(struct fm_store *s, const char *migration_id, struct fm_store_transition **ret, size_t *ret_n,
                             struct fm_error *err)
{
	if (check_id("a migration's id", migration_id, err) < 0)
		return -1;
	return s->ops->transition_list(s, migration_id, ret, ret_n, err);
}

int fm_store_event_append(struct fm_store *s, const char *migration_id, const struct fm_store_event *e, uint64_t *ret_seq,
                          struct fm_error *err)
{
	if (check_id("a migration's id", migration_id, err) < 0 || check_name("component", e->component, err) < 0 ||
	    check_time("at_ms", e->at_ms, err) < 0)
		return -1;
	if (e->level < 0 || e->level >= _FM_LOG_LEVEL_MAX)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "store: %d is not a log level", e->level);
	if (e->state != 0 && check_state("an event's state", e->state, err) < 0)
		return -1;
	return s->ops->event_append(s, migration_id, e, ret_seq, err);
}

int fm_store_event_list(struct fm_store *s, const char *migration_id, uint64_t after_seq, size_t limit, struct fm_store_event **ret,
                        size_t *ret_n, struct fm_error *err)
{
	if (check_id("a migration's id", migration_id, err) < 0)
		return -1;
	if (limit == 0 || limit > FM_STORE_MAX_EVENTS)
		limit = FM_STORE_MAX_EVENTS;
	if (after_seq > INT64_MAX)
		after_seq = INT64_MAX;
	return s->ops->event_list(s, migration_id, after_seq, limit, ret, ret_n, err);
}

void fm_store_records_free(struct fm_store_record *r, size_t n)
{
	for (size_t i = 0; r && i < n; i++) {
		free(r[i].id);
		free(r[i].data);
	}
	free(r);
}

static int check_record(const char *kind, const char *id, struct fm_error *err)
{
	if (check_id("a record's kind", kind, err) < 0 || check_name("a record's id", id, err) < 0)
		return -1;
	return id && *id ? 0 : fm_error_set(err, FM_E_INVALID_ARGUMENT, "store: a record of kind '%s' has no id", kind);
}

int fm_store_record_put(struct fm_store *s, const char *kind, const char *id, const void *data, size_t len, struct fm_error *err)
{
	if (check_record(kind, id, err) < 0 || check_blob("a record", data, len, FM_STORE_MAX_DETAIL, err) < 0)
		return -1;
	return s->ops->record_put(s, kind, id, fm_realtime_ms(), data, len, true, err);
}

int fm_store_record_keep(struct fm_store *s, const char *kind, const char *id, uint64_t at_ms, const void *data, size_t len,
                         struct fm_error *err)
{
	if (check_record(kind, id, err) < 0 || check_blob("a record", data, len, FM_STORE_MAX_DETAIL, err) < 0 ||
	    check_time("at_ms", at_ms, err) < 0)
		return -1;
	return s->ops->record_put(s, kind, id, at_ms, data, len, false, err);
}

int fm_store_record_get(struct fm_store *s, const char *kind, const char *id, void **ret, size_t *ret_len, struct fm_error *err)
{
	return check_record(kind, id, err) < 0 ? -1 : s->ops->record_get(s, kind, id, ret, ret_len, err);
}

int fm_store_record_delete(struct fm_store *s, const char *kind, const char *id, struct fm_error *err)
{
	return check_record(kind, id, err) < 0 ? -1 : s->ops->record_delete(s, kind, id, err);
}

int fm_store_record_list(struct fm_store *s, const char *kind, size_t limit, struct fm_store_record **ret, size_t *ret_n,
                         struct fm_error *err)
{
	if (check_id("a record's kind", kind, err) < 0)
		return -1;
	return s->ops->record_list(s, kind, limit == 0 || limit > FM_STORE_MAX_RECORDS ? FM_STORE_MAX_RECORDS : limit, ret, ret_n, err);
}

int fm_store_record_each(struct fm_store *s, const char *kind, fm_store_blob_fn fn, void *userdata, struct fm_error *err)
{
	return check_id("a record's kind", kind, err) < 0 ? -1 : s->ops->record_each(s, kind, fn, userdata, err);
}

int fm_store_record_prune(struct fm_store *s, const char *kind, uint64_t before_ms, struct fm_error *err)
{
	if (check_id("a record's kind", kind, err) < 0 || check_time("before_ms", before_ms, err) < 0)
		return -1;
	return s->ops->record_prune(s, kind, before_ms, err);
}

int fm_store_host_put(struct fm_store *s, const char *name, const void *host, size_t host_len, uint64_t seen_ms, struct fm_error *err)
{
	if (check_id("a host's name", name, err) < 0 || check_blob("a host's report", host, host_len, FM_STORE_MAX_BLOB, err) < 0 ||
	    check_time("seen_ms", seen_ms, err) < 0)
		return -1;
	return s->ops->host_put(s, name, host, host_len, seen_ms, err);
}

int fm_store_containers_put(struct fm_store *s, const char *host, size_t n, const char *const *names, const void *const *blobs,
                            const size_t *lens, struct fm_error *err)
{
	if (check_id("a host's name", host, err) < 0)
		return -1;
	if (n > FM_MAX_CONTAINERS_PER_HOST)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "store: host '%s' reports %zu containers, more than %d", host, n,
		                    FM_MAX_CONTAINERS_PER_HOST);
	for (size_t i = 0; i < n; i++)
		if (check_id("a container's name", names[i], err) < 0 ||
		    check_blob("a container's report", blobs[i], lens[i], FM_STORE_MAX_BLOB, err) < 0)
			return -1;
	return s->ops->containers_put(s, host, n, names, blobs, lens, err);
}

int fm_store_host_each(struct fm_store *s, fm_store_blob_fn fn, void *userdata, struct fm_error *err)
{
	return s->ops->host_each(s, fn, userdata, err);
}

int fm_store_container_each(struct fm_store *s, fm_store_blob_fn fn, void *userdata, struct fm_error *err)
{
	return s->ops->container_each(s, fn, userdata, err);
}
