/* SPDX-License-Identifier: MIT */
/*
 * coordinator-lab.h - a coordinator between a real SQLite store in a temporary folder, a real fleet and the twin of two agents; and a
 * store in front of the real one that can be full.
 */
#ifndef FM_TEST_COORDINATOR_LAB_H
#define FM_TEST_COORDINATOR_LAB_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <fnmatch.h>
#include <stdatomic.h>

#include "agent-twin.h"
#include "basic/clock.h"
#include "basic/fault.h"
#include "basic/io.h"
#include "migration/coordinator.h"
#include "migration/state.h"
#include "store/store-backend.h"

#define assert_ok(call, e)                                                                                                                 \
	do {                                                                                                                               \
		if ((call) != 0)                                                                                                           \
			fail_msg("%s: %s (%s)", #call, (e).message, (e).hint);                                                             \
	} while (0)
#define assert_code(call, e, want)                                                                                                         \
	do {                                                                                                                               \
		(e) = FM_ERROR_INIT;                                                                                                       \
		assert_int_equal((call), -1);                                                                                              \
		if ((e).code != (want))                                                                                                    \
			fail_msg("%s: %s %s, wanted %s", #call, fm_code_to_string((e).code), (e).message, fm_code_to_string(want));        \
	} while (0)

/* ---------------------------------------------------------------- a store that can be full */

struct full_store {
	struct fm_store store; /* first */
	struct fm_store *real;
	atomic_int fail_transition; /* the n-th from now fails, then the following `fail_times - 1` too */
	atomic_int fail_times;
	atomic_int fail_create;
	atomic_int fail_update;
	atomic_int updates;
};

#define REAL(s) (((struct full_store *)(s))->real)

static void full_close(struct fm_store *s)
{
	fm_store_close(REAL(s));
	free(s);
}
static int full_create(struct fm_store *s, const struct fm_store_migration *m, uint32_t *ret_epoch, struct fm_error *err)
{
	if (atomic_load(&((struct full_store *)s)->fail_create))
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "the disk is full");
	return fm_store_migration_create(REAL(s), m, ret_epoch, err);
}
static int full_transition(struct fm_store *s, int expected, const struct fm_store_migration *m, const char *label, const char *reason,
                           struct fm_error *err)
{
	struct full_store *f = (struct full_store *)s;
	if (atomic_load(&f->fail_transition) && atomic_fetch_sub(&f->fail_transition, 1) == 1) {
		if (atomic_fetch_sub(&f->fail_times, 1) > 1)
			atomic_store(&f->fail_transition, 1);
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "the disk is full");
	}
	return fm_store_migration_transition(REAL(s), expected, m, label, reason, err);
}
static int full_update(struct fm_store *s, const struct fm_store_migration *m, struct fm_error *err)
{
	(void)atomic_fetch_add(&((struct full_store *)s)->updates, 1);
	if (atomic_load(&((struct full_store *)s)->fail_update))
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "the disk is full");
	return fm_store_migration_update(REAL(s), m, err);
}
static int full_get(struct fm_store *s, const char *id, struct fm_store_migration *ret, struct fm_error *err)
{
	return fm_store_migration_get(REAL(s), id, ret, err);
}
static int full_list(struct fm_store *s, bool active_only, size_t limit, struct fm_store_migration **ret, size_t *ret_n,
                     struct fm_error *err)
{
	return fm_store_migration_list(REAL(s), active_only, limit, ret, ret_n, err);
}
static int full_transitions(struct fm_store *s, const char *id, struct fm_store_transition **ret, size_t *ret_n, struct fm_error *err)
{
	return fm_store_transition_list(REAL(s), id, ret, ret_n, err);
}
static int full_append(struct fm_store *s, const char *id, const struct fm_store_event *e, uint64_t *ret_seq, struct fm_error *err)
{
	return fm_store_event_append(REAL(s), id, e, ret_seq, err);
}
static int full_events(struct fm_store *s, const char *id, uint64_t after, size_t limit, struct fm_store_event **ret, size_t *ret_n,
                       struct fm_error *err)
{
	return fm_store_event_list(REAL(s), id, after, limit, ret, ret_n, err);
}
static int full_host_put(struct fm_store *s, const char *name, const void *host, size_t len, uint64_t seen_ms, struct fm_error *err)
{
	return fm_store_host_put(REAL(s), name, host, len, seen_ms, err);
}
static int full_containers_put(struct fm_store *s, const char *host, size_t n, const char *const *names, const void *const *blobs,
                               const size_t *lens, struct fm_error *err)
{
	return fm_store_containers_put(REAL(s), host, n, names, blobs, lens, err);
}
static int full_host_each(struct fm_store *s, fm_store_blob_fn fn, void *userdata, struct fm_error *err)
{
	return fm_store_host_each(REAL(s), fn, userdata, err);
}
static int full_container_each(struct fm_store *s, fm_store_blob_fn fn, void *userdata, struct fm_error *err)
{
	return fm_store_container_each(REAL(s), fn, userdata, err);
}

static int full_record_put(struct fm_store *s, const char *kind, const char *id, uint64_t at_ms, const void *data, size_t len, bool durable,
                           struct fm_error *err)
{
	return durable ? fm_store_record_put(REAL(s), kind, id, data, len, err)
	               : fm_store_record_keep(REAL(s), kind, id, at_ms, data, len, err);
}
static int full_record_get(struct fm_store *s, const char *kind, const char *id, void **ret, size_t *ret_len, struct fm_error *err)
{
	return fm_store_record_get(REAL(s), kind, id, ret, ret_len, err);
}
static int full_record_delete(struct fm_store *s, const char *kind, const char *id, struct fm_error *err)
{
	return fm_store_record_delete(REAL(s), kind, id, err);
}
static int full_record_list(struct fm_store *s, const char *kind, size_t limit, struct fm_store_record **ret, size_t *ret_n,
                            struct fm_error *err)
{
	return fm_store_record_list(REAL(s), kind, limit, ret, ret_n, err);
}

static const struct fm_store_ops full_ops = {
	.record_put = full_record_put,
	.record_get = full_record_get,
	.record_delete = full_record_delete,
	.record_list = full_record_list,
	.close = full_close,
	.migration_create = full_create,
	.migration_transition = full_transition,
	.migration_update = full_update,
	.migration_get = full_get,
	.migration_list = full_list,
	.transition_list = full_transitions,
	.event_append = full_append,
	.event_list = full_events,
	.host_put = full_host_put,
	.containers_put = full_containers_put,
	.host_each = full_host_each,
	.container_each = full_container_each,
};

/* ---------------------------------------------------------------- the lab */

struct lab {
	char dir[64];
	char db[96];
	struct full_store *full;
	struct fm_store *store;
	struct fm_fleet *fleet;
	struct fm_log *log;
	struct fm_fault *fault;
	struct fm_network *network;   /* NULL: nothing is described */
	struct fm_tally *tally;       /* NULL: nobody asks for figures */
	struct fm_rulebook *policies; /* NULL: only those that are built in */
	int null_fd;
	struct twin *t;
	struct fm_coordinator *c;
	unsigned max_concurrent;
	int grace_ms;
};

static inline void lab_report(struct lab *l, const char *host, const char *const *containers, uint64_t memory_available)
{
	FM_PB(ReportRequest) *r = FM_PB_NEW(ReportRequest, report_request);
	struct fm_error e = FM_ERROR_INIT;
	r->host = FM_PB_NEW(Host, host);
	fm_pb_set(&r->host->name, host);
	fm_pb_set(&r->host->address, "127.0.0.1:7401");
	r->host->memory_available_bytes = memory_available;
	r->host->disk_available_bytes = 1ull << 40;
	for (size_t i = 0; containers && containers[i]; i++) {
		FM_PB(Container) *c = FM_PB_NEW(Container, container);
		fm_pb_set(&c->name, containers[i]);
		fm_pb_set(&c->instance, containers[i]);
		fm_pb_set(&c->status, "running");
		fm_pb_set(&c->kind, "nested");
		FM_PB_ADD(r->containers, r->n_containers, c);
	}
	assert_ok(fm_fleet_report(l->fleet, r, &e), e);
	fm_pb_free(r);
}

static inline void lab_start(struct lab *l)
{
	struct fm_error e = FM_ERROR_INIT;
	struct fm_coordinator_opts o = { .store = l->store,
		                         .agents = twin_api(l->t),
		                         .fleet = l->fleet,
		                         .log = l->log,
		                         .fault = l->fault,
		                         .network = l->network,
		                         .tally = l->tally,
		                         .policies = l->policies,
		                         .max_concurrent = l->max_concurrent,
		                         .agent_grace_ms = l->grace_ms };
	assert_ok(fm_coordinator_new(&o, &l->c, &e), e);
}

static inline void lab_fault(struct lab *l, const char *spec)
{
	struct fm_error e = FM_ERROR_INIT;
	fm_fault_free(l->fault);
	l->fault = NULL;
	if (spec)
		assert_ok(fm_fault_new(spec, &l->fault, &e), e);
}

/* The manager stops without having finished, and another one opens the same store. */
static inline void lab_stop(struct lab *l)
{
	fm_coordinator_free(l->c);
	l->c = NULL;
}

static inline int lab_setup(void **state)
{
	struct lab *l = calloc(1, sizeof(*l));
	struct fm_error e = FM_ERROR_INIT;
	(void)snprintf(l->dir, sizeof(l->dir), "/tmp/fm-test-coordinator-XXXXXX");
	if (!mkdtemp(l->dir))
		return -1;
	(void)snprintf(l->db, sizeof(l->db), "%s/manager.db", l->dir);
	l->null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
	l->log = fm_log_new(l->null_fd, FM_LOG_HUMAN, FM_LOG_INFO);
	l->full = calloc(1, sizeof(*l->full));
	l->full->store.ops = &full_ops;
	l->store = &l->full->store;
	assert_ok(fm_store_open_sqlite(l->db, &l->full->real, &e), e);
	assert_ok(fm_fleet_new(l->store, &l->fleet, &e), e);
	l->t = twin_new();
	(void)twin_instance_add(l->t, "alpha", "web", TWIN_RUNNING);
	lab_report(l, "alpha", (const char *const[]){ "web", NULL }, 8ull << 30);
	lab_report(l, "beta", NULL, 8ull << 30);
	l->grace_ms = 400;
	*state = l;
	/* A test that hangs ends the program instead of the machine's patience. */
	(void)alarm(300);
	return 0;
}

static inline int lab_teardown(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;
	fm_coordinator_free(l->c);
	fm_fleet_free(l->fleet);
	fm_store_close(l->store);
	fm_log_free(l->log);
	fm_fault_free(l->fault);
	fm_network_free(l->network);
	fm_rulebook_free(l->policies);
	(void)close(l->null_fd);
	twin_free(l->t);
	int rc = fm_remove_tree(l->dir, &e);
	free(l);
	return rc;
}

/* ---------------------------------------------------------------- steps */

static inline int lab_try_migrate(struct lab *l, const char *container, const char *to, char id[64], struct fm_error *err)
{
	FM_PB(MigrateRequest) req = FLEXIMIGRATE__V1__MIGRATE_REQUEST__INIT;
	FM_PB(Migration) *m = NULL;
	req.container = (char *)container;
	req.to = (char *)to;
	if (fm_coordinator_migrate(l->c, &req, &m, err) < 0)
		return -1;
	(void)snprintf(id, 64, "%s", m->id);
	fm_pb_free(m);
	return 0;
}

static inline void lab_migrate(struct lab *l, char id[64])
{
	struct fm_error e = FM_ERROR_INIT;
	assert_ok(lab_try_migrate(l, "web", "beta", id, &e), e);
}

static inline FM_PB(Migration) * lab_get(struct lab *l, const char *id)
{
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(Migration) *m = NULL;
	assert_ok(fm_coordinator_get(l->c, id, &m, &e), e);
	return m;
}

/* Follows the events as a watcher does, until the migration is over. */
static inline FM_PB(Migration) * lab_finish(struct lab *l, const char *id)
{
	uint64_t seq = 0;
	for (;;) {
		struct fm_error e = FM_ERROR_INIT;
		FM_PB(Event) *event = NULL;
		bool active = fm_coordinator_is_active(l->c, id);
		FM_PB(Migration) *m = lab_get(l, id);
		bool over = m->finished_unix_ms && !active;
		assert_ok(fm_coordinator_next_event(l->c, id, seq, over ? 0 : 1000, &event, &e), e);
		if (event) {
			assert_true(event->seq > seq);
			seq = event->seq;
		} else if (over) {
			return m;
		}
		fm_pb_free(event);
		fm_pb_free(m);
	}
}

/* Until the record shows that state. */
static inline void lab_await_state(struct lab *l, const char *id, FM_PB(State) state)
{
	for (;;) {
		struct fm_error e = FM_ERROR_INIT;
		FM_PB(Event) *event = NULL;
		FM_PB(Migration) *m = lab_get(l, id);
		bool there = m->state == state;
		fm_pb_free(m);
		if (there)
			return;
		assert_ok(fm_coordinator_next_event(l->c, id, UINT32_MAX, 50, &event, &e), e);
		fm_pb_free(event);
	}
}

/* Until the record shows that sub-state. */
__attribute__((unused)) static FM_PB(Migration) * lab_await_sub_state(struct lab *l, const char *id, const char *sub_state)
{
	for (;;) {
		struct fm_error e = FM_ERROR_INIT;
		FM_PB(Event) *event = NULL;
		FM_PB(Migration) *m = lab_get(l, id);
		if (strcmp(m->sub_state, sub_state) == 0)
			return m;
		if (m->finished_unix_ms)
			fail_msg("it ended before it was %s: %s", sub_state, m->error_message);
		fm_pb_free(m);
		assert_ok(fm_coordinator_next_event(l->c, id, UINT32_MAX, 50, &event, &e), e);
		fm_pb_free(event);
	}
}

static inline size_t lab_lines(struct lab *l, const char *id, struct fm_store_event **ret)
{
	struct fm_error e = FM_ERROR_INIT;
	size_t n = 0;
	assert_ok(fm_store_event_list(l->store, id, 0, 0, ret, &n, &e), e);
	return n;
}

static inline void lab_print_lines(const struct fm_store_event *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		print_message("    %s\n", v[i].line);
}

/* The patterns (fnmatch) match lines in this order, others in between. */
static inline void lab_assert_lines(struct lab *l, const char *id, const char *const *patterns)
{
	struct fm_store_event *v = NULL;
	size_t n = lab_lines(l, id, &v), at = 0;
	for (size_t i = 0; patterns[i]; i++, at++) {
		while (at < n && fnmatch(patterns[i], v[at].line, 0) != 0)
			at++;
		if (at == n) {
			lab_print_lines(v, n);
			fail_msg("no line '%s' in its place", patterns[i]);
		}
	}
	fm_store_events_free(v, n);
}

static inline bool lab_has_line(struct lab *l, const char *id, const char *pattern)
{
	struct fm_store_event *v = NULL;
	size_t n = lab_lines(l, id, &v);
	bool found = false;
	for (size_t i = 0; i < n; i++)
		found = found || fnmatch(pattern, v[i].line, 0) == 0;
	fm_store_events_free(v, n);
	return found;
}

/* What must hold at the end of everything */
static inline void lab_assert_end(struct lab *l, const char *id, FM_PB(State) state, const char *path, const char *where)
{
	FM_PB(Migration) *m = lab_finish(l, id);
	if (m->state != state || strcmp(m->path, path) != 0 || strcmp(twin_where(l->t, "web"), where) != 0 || l->t->violations ||
	    twin_leftovers(l->t)) {
		struct fm_store_event *v = NULL;
		size_t n = lab_lines(l, id, &v);
		lab_print_lines(v, n);
		for (size_t i = 0; i < l->t->n_calls; i++)
			print_message("    call %s\n", l->t->calls[i]);
		fail_msg("state %s, path '%s' (wanted '%s'), running on '%s' (wanted '%s'), %u leftovers, %u violations: %s",
		         fm_state_to_string((enum fm_state)m->state), m->path, path, twin_where(l->t, "web"), where, twin_leftovers(l->t),
		         l->t->violations, l->t->violation);
	}
	assert_false(fm_coordinator_is_moving(l->c, "web"));
	fm_pb_free(m);
}

static inline void lab_assert_calls(struct lab *l, const char *part, const char *want)
{
	_fm_free_ char *got = twin_calls_like(l->t, part);
	assert_string_equal(got, want);
}

/* Scenario 1 of docs/LIFECYCLE.md */
__attribute__((unused)) static const char *const success_lines[] = {
	"INFO \\[MigrationManager\\]: Received migration request * Initial State: PENDING.",
	"INFO \\[MigrationManager\\]: Evaluating policies for migration request '*'.",
	"INFO \\[MigrationManager\\]: Policy check passed. Transitioning: PENDING -> PLANNING.",
	"INFO \\[DecisionEngine\\]: Analyzing workload and resources for 'web'. Optimal strategy: *",
	"INFO \\[ResourceAllocator\\]: Allocating resources on destination 'beta'.",
	"INFO \\[MigrationManager\\]: Migration plan generated for 'web'. Transitioning: PLANNING -> PREPARATION.",
	"INFO \\[ContainerManager\\]: Preparing * on 'beta'.",
	"INFO \\[NetworkManager\\]: *",
	"INFO \\[StateSynchronizer\\]: Initiating checkpoint process for 'web'.",
	"INFO \\[MigrationManager\\]: Preparation phase complete for 'web'. Transitioning: PREPARATION -> EXECUTION.",
	"INFO \\[StateSynchronizer\\]: Starting * state transfer (Checkpoint ID: ckpt-1) for 'web' to 'beta'.",
	"INFO \\[StateSynchronizer\\]: * state transfer complete. Total data transferred: 64.0 MB.",
	"INFO \\[ContainerManager\\]: Restoring container 'web' state on 'beta' from checkpoint 'ckpt-1'.",
	"INFO \\[MigrationManager\\]: State transfer and restoration complete for 'web'. Transitioning: EXECUTION -> VERIFICATION.",
	"INFO \\[ResourceMonitor\\]: Performing post-migration checks for 'web' on 'beta'.",
	"INFO \\[NetworkManager\\]: Verifying network connectivity *",
	"INFO \\[MigrationManager\\]: * Verification passed for 'web'. Transitioning: VERIFICATION -> COMPLETED.",
	"INFO \\[MigrationManager\\]: Finalizing migration '*'. Cleaning up source resources on 'alpha'.",
	"INFO \\[MigrationManager\\]: Migration of container 'web' to 'beta' completed successfully. Final State: COMPLETED.",
	NULL,
};

static inline void assert_transitions(struct lab *l, const char *id, const char *want)
{
	_fm_buf_ struct fm_buf b = FM_BUF_INIT;
	struct fm_store_transition *v = NULL;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(Migration) *m = lab_get(l, id);
	size_t n = 0;
	assert_ok(fm_store_transition_list(l->store, id, &v, &n, &e), e);
	assert_int_equal(n, m->n_transitions);
	for (size_t i = 0; i < n; i++) {
		fm_buf_addf(&b, "%s%d>%d%s%s", i ? " " : "", v[i].from, v[i].to, v[i].label[0] ? ":" : "", v[i].label);
		assert_int_equal(v[i].from, m->transitions[i]->from);
		assert_int_equal(v[i].to, m->transitions[i]->to);
		assert_string_equal(v[i].label, m->transitions[i]->label);
	}
	assert_string_equal(b.data, want);
	fm_store_transitions_free(v, n);
	fm_pb_free(m);
}

#define COMPLETED FLEXIMIGRATE__V1__STATE__COMPLETED
#define FAILED    FLEXIMIGRATE__V1__STATE__FAILED

#endif
