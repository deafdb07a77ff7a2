/* SPDX-License-Identifier: MIT */
/*
 * coordinator.c - requests in, one worker thread a migration, answers about migrations under way and past ones. See coordinator.h.
 * Active migrations are in a list; the store has all of them. After a restart every unfinished one is taken up in the state in which the store left it.
 */
#include "migration/coordinator.h"

#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <string.h>
#include <time.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "migration/coordinator-internal.h"
#include "migration/costs.h"

#define DEFAULT_TOTAL_MS 600000
#define MAX_TOTAL_MS     (7ull * 24 * 3600 * 1000)
#define MIN_BANDWIDTH    65536u

#define MESSENGERS          2  /* threads that deliver policies' notices */
#define MAX_NOTICES_WAITING 64 /* for one of them; more are dropped, and the log says so */

/* ---------------------------------------------------------------- one migration */

static struct fm_migration *migration_new(struct fm_coordinator *c)
{
	struct fm_migration *m = calloc(1, sizeof(*m));
	if (!m)
		abort();
	m->c = c;
	m->terms.priority = FM_PRIORITY_NORMAL;
	(void)snprintf(m->trigger, sizeof(m->trigger), "user");
	pthread_mutex_init(&m->lock, NULL);
	if (fm_stop_init(&m->cancel, NULL) < 0)
		abort();
	return m;
}

static void migration_free(struct fm_migration *m)
{
	fm_pb_free(m->pb);
	fm_pb_free(m->facts);
	free(m->compat);
	fm_pb_free(m->prepared);
	fm_strv_free(m->terms.notices);
	json_decref(m->built_in);
	fm_stop_done(&m->cancel);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

static void activate(struct fm_coordinator *c, struct fm_migration *m)
{
	pthread_mutex_lock(&c->lock);
	m->next = c->active;
	c->active = m;
	pthread_mutex_unlock(&c->lock);
}

/* A new request is refused when there are too many; what is on record has to be taken up in any number. */
static int activate_new(struct fm_coordinator *c, struct fm_migration *m, struct fm_error *err)
{
	unsigned n = 0;
	pthread_mutex_lock(&c->lock);
	for (struct fm_migration *o = c->active; o; o = o->next)
		n++;
	if (n < FM_MAX_MIGRATIONS_ACTIVE) {
		m->next = c->active;
		c->active = m;
	}
	pthread_mutex_unlock(&c->lock);
	if (n < FM_MAX_MIGRATIONS_ACTIVE)
		return 0;
	(void)fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "%u migrations are under way, this manager takes no more", n);
	return fm_error_hint(err, "try again when some are over: 'fleximigrate migration ls --active'");
}

static void deactivate(struct fm_coordinator *c, struct fm_migration *m)
{
	pthread_mutex_lock(&c->lock);
	for (struct fm_migration **p = &c->active; *p; p = &(*p)->next)
		if (*p == m) {
			*p = m->next;
			break;
		}
	c->changes++;
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
}

/* Another migration's message may be replaced by its worker at any time. */
bool fm_is_about(struct fm_migration *m, const char *container, const char *source, const char *destination)
{
	pthread_mutex_lock(&m->lock);
	bool is = fm_streq(m->pb->container, container) || fm_streq(m->pb->source, source) || fm_streq(m->pb->destination, destination);
	pthread_mutex_unlock(&m->lock);
	return is;
}

static FM_PB(Migration) * snapshot(struct fm_migration *m)
{
	pthread_mutex_lock(&m->lock);
	FM_PB(Migration) *copy = fm_pb_copy(m->pb);
	pthread_mutex_unlock(&m->lock);
	return copy;
}

static int (*const phases[_FM_STATE_MAX])(struct fm_migration *m, struct fm_error *err) = {
	[FM_STATE_PENDING] = fm_phase_pending,           [FM_STATE_PLANNING] = fm_phase_planning,
	[FM_STATE_PREPARATION] = fm_phase_preparation,   [FM_STATE_EXECUTION] = fm_phase_execution,
	[FM_STATE_VERIFICATION] = fm_phase_verification, [FM_STATE_COMPLETED] = fm_phase_completed,
};

/* What a restart means for the state it found. */
static int take_up(struct fm_migration *m, struct fm_error *err)
{
	enum fm_state s = m->resume_from;
	if (s == FM_STATE_INVALID)
		return 0;
	fm_mlog(m, FM_LOG_WARN, "MigrationManager", "Taking up migration '%s' after a restart in state %s.", m->id, fm_state_to_string(s));
	m->resume_from = FM_STATE_INVALID;
	m->source_touched = m->destination_touched = true;
	if (s == FM_STATE_PREPARATION)
		return fm_error_set(err, FM_E_ABORTED, "the manager was restarted during the preparation");
	if (s == FM_STATE_EXECUTION) {
		if (fm_resolve_switch_over(m, err) < 0)
			return -1;
		return fm_migration_transition(
		        m, FM_STATE_VERIFICATION, NULL, err, FM_LOG_INFO,
		        "State transfer and restoration complete for '%s'. Transitioning: EXECUTION -> VERIFICATION.", m->pb->container);
	}
	m->past_commit = s == FM_STATE_VERIFICATION || s == FM_STATE_COMPLETED;
	return 0;
}

/* Verified and on record: there is no way back, and releasing is idempotent. Tried until it works, as the source's copy blocks its host. */
static void finalize(struct fm_migration *m, struct fm_error *err)
{
	for (int pause_ms = FM_RETRY_PAUSE_MS; !m->pb->finished_unix_ms;
	     pause_ms = pause_ms < FM_RETRY_PAUSE_MAX_MS ? pause_ms * 2 : pause_ms) {
		fm_mlog(m, FM_LOG_ERROR, "MigrationManager", "Finalizing migration '%s' failed (trying again): %s", m->id, err->message);
		if (fm_wait_fd(m->c->shutdown.fd, POLLIN, pause_ms, NULL) != 0)
			return;
		*err = FM_ERROR_INIT;
		if (fm_phase_completed(m, err) == 0 || fm_stopping(m))
			return;
	}
}

static void run_phases(struct fm_migration *m)
{
	struct fm_error err = FM_ERROR_INIT;
	enum fm_state s = fm_migration_state(m);
	int rc = 0;
	if (s == FM_STATE_FAILED || s == FM_STATE_ROLLBACK) {
		/* A restart in the middle of a rollback; whether the commit point was passed is in the source's journal. */
		m->source_touched = m->destination_touched = true;
		m->past_commit = strstr(m->pb->path, "5F") != NULL ||
		                 (strstr(m->pb->path, "4F") && (fm_resolve_switch_over(m, &err) == 0 || m->past_commit));
		if (!fm_stop_requested(&m->c->shutdown))
			fm_rollback(m, NULL);
		return;
	}
	for (rc = take_up(m, &err); rc == 0; rc = phases[s](m, &err)) {
		if (m->pb->finished_unix_ms)
			return;
		s = fm_migration_state(m);
	}
	if (fm_stopping(m))
		return; /* not a failure: the store knows where to go on */
	if (fm_migration_state(m) == FM_STATE_COMPLETED)
		finalize(m, &err);
	else
		fm_rollback(m, &err);
}

static void run(void *arg)
{
	struct fm_migration *m = arg;
	struct fm_coordinator *c = m->c;
	if (!fm_stopping(m))
		run_phases(m);
	deactivate(c, m);
	migration_free(m);
	pthread_mutex_lock(&c->lock);
	bool idle = !c->active;
	pthread_mutex_unlock(&c->lock);
	if (idle)
		(void)malloc_trim(0); /* what the allocator keeps between few blocks that live: a megabyte, in less than a millisecond */
}

/* ---------------------------------------------------------------- life of the coordinator */

static int state_of_active(struct fm_coordinator *c, const char *id)
{
	int state = FM_STATE_INVALID;
	pthread_mutex_lock(&c->lock);
	for (struct fm_migration *m = c->active; m; m = m->next)
		if (fm_streq(m->id, id))
			state = (int)fm_migration_state(m);
	pthread_mutex_unlock(&c->lock);
	return state;
}

static void keep_line(void *userdata, enum fm_log_level level, const char *component, const struct fm_log_fields *f, const char *line)
{
	struct fm_coordinator *c = userdata;
	uint64_t seq;
	if (!f || !f->migration_id || !f->migration_id[0])
		return;
	struct fm_store_event e = { .at_ms = fm_realtime_ms(), .level = (int)level, .component = (char *)component, .line = (char *)line };
	e.state = f->state_to ? (int)fm_state_from_string(f->state_to) : state_of_active(c, f->migration_id);
	(void)fm_store_event_append(c->o.store, f->migration_id, &e, &seq, NULL);
	fm_changed(c);
}

/* What a client says of itself it is only in these words. */
static void take_trigger(struct fm_migration *m, const char *requested_by)
{
	static const char *const known[] = { "drain", "balance", "proactive" };
	for (size_t i = 0; i < FM_ARRAY_SIZE(known); i++)
		if (fm_streq(known[i], requested_by))
			(void)snprintf(m->trigger, sizeof(m->trigger), "%s", known[i]);
}

static bool has_begun(const struct fm_store_migration *r)
{
	return r->state != FM_STATE_PENDING && r->state != FM_STATE_PLANNING;
}

static int resume(struct fm_coordinator *c, const struct fm_store_migration *r, struct fm_error *err)
{
	struct fm_migration *m = migration_new(c);
	m->pb = fleximigrate__v1__migration__unpack(NULL, r->detail_len, r->detail);
	if (!m->pb) {
		migration_free(m);
		fm_log_write(c->o.log, FM_LOG_ERROR, "MigrationManager", NULL,
		             "The record of migration '%s' is damaged; it needs an operator.", r->id);
		return 0;
	}
	(void)snprintf(m->id, sizeof(m->id), "%s", r->id);
	(void)snprintf(m->log_id, sizeof(m->log_id), "%s", r->id);
	m->epoch = r->epoch;
	m->resume_from = (enum fm_state)r->state;
	m->taken_up = true;
	m->no_throttle = true; /* what was asked for is not on record, and nobody is slowed down on a guess */
	m->requested = (enum fm_strategy)(m->pb->requested_strategy ? m->pb->requested_strategy : m->pb->strategy);
	take_trigger(m, m->pb->trigger);
	if (has_begun(r)) {
		fm_queue_join(m);
		if (m->resume_from == FM_STATE_EXECUTION)
			fm_rules_resume_duration(m);
	} else { /* begins anew, and waits for nothing for ever */
		m->deadline_ms = fm_now_ms() + DEFAULT_TOTAL_MS;
		fm_pb_set(&m->pb->sub_state, "");
	}
	activate(c, m);
	if (fm_pool_submit(c->pool, run, m, err) == 0)
		return 0;
	deactivate(c, m);
	migration_free(m);
	return -1;
}

/* Those in the middle first, as the others may have to wait for them; of each kind the oldest first, as they were asked for. */
static int resume_unfinished(struct fm_coordinator *c, struct fm_error *err)
{
	struct fm_store_migration *v = NULL;
	size_t n = 0;
	int rc = 0;
	if (fm_store_migration_list(c->o.store, true, 0, &v, &n, err) < 0)
		return -1;
	for (int begun = 1; begun >= 0; begun--)
		for (size_t i = n; rc == 0 && i-- > 0;)
			if (has_begun(&v[i]) == begun)
				rc = resume(c, &v[i], err);
	fm_store_migrations_free(v, n);
	return rc;
}

/* Who waits in the queue, or for approval, has a thread, too; how many are under way at a time is the queue's matter. */
static unsigned worker_threads(const struct fm_coordinator *c)
{
	return c->o.max_concurrent > FM_MAX_MIGRATIONS_ACTIVE ? c->o.max_concurrent : FM_MAX_MIGRATIONS_ACTIVE;
}

int fm_coordinator_new(const struct fm_coordinator_opts *o, struct fm_coordinator **ret, struct fm_error *err)
{
	struct fm_coordinator *c = calloc(1, sizeof(*c));
	pthread_condattr_t attr;
	if (!c)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	c->o = *o;
	c->costs = o->costs;
	c->o.max_concurrent = o->max_concurrent ? o->max_concurrent : 8;
	pthread_mutex_init(&c->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&c->changed, &attr);
	pthread_condattr_destroy(&attr);
	fm_log_set_observer(o->log, keep_line, c);
	if (fm_stop_init(&c->shutdown, err) < 0 || (!c->costs && fm_costs_new(o->store, &c->costs, err) < 0) ||
	    fm_pool_new(MESSENGERS, MAX_NOTICES_WAITING, &c->messengers, err) < 0 ||
	    fm_pool_new(worker_threads(c), FM_STORE_MAX_MIGRATIONS, &c->pool, err) < 0 || fm_redirections_remember(c, err) < 0 ||
	    resume_unfinished(c, err) < 0) {
		fm_coordinator_free(c);
		return -1;
	}
	*ret = c;
	return 0;
}

void fm_coordinator_free(struct fm_coordinator *c)
{
	if (!c)
		return;
	fm_stop_request(&c->shutdown);
	/* Wakes workers that wait for an agent; with the shutdown flag set they leave their migration as the store has it. */
	pthread_mutex_lock(&c->lock);
	for (struct fm_migration *m = c->active; m; m = m->next)
		fm_stop_request(&m->cancel);
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
	if (c->pool)
		fm_pool_free(c->pool);
	if (c->messengers)
		fm_pool_free(c->messengers);
	if (!c->o.costs)
		fm_costs_free(c->costs);
	fm_log_set_observer(c->o.log, NULL, NULL);
	fm_stop_done(&c->shutdown);
	pthread_cond_destroy(&c->changed);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

struct fm_costs *fm_coordinator_costs(struct fm_coordinator *c)
{
	return c->costs;
}

/* ---------------------------------------------------------------- requests */

static int check_request(const FM_PB(MigrateRequest) * req, struct fm_error *err)
{
	if (!fm_name_is_valid(req->container))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%s' is not a container name", req->container);
	if (!fm_name_is_valid(req->to))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%s' is not a host name", req->to);
	if (req->max_total_ms > MAX_TOTAL_MS)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a limit of %llu ms is more than the longest one, %llu ms",
		                    (unsigned long long)req->max_total_ms, (unsigned long long)MAX_TOTAL_MS);
	if (req->max_downtime_ms > MAX_TOTAL_MS)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a downtime of %llu ms is more than the longest one, %llu ms",
		                    (unsigned long long)req->max_downtime_ms, (unsigned long long)MAX_TOTAL_MS);
	if (req->bandwidth_bytes_per_s > 0 && req->bandwidth_bytes_per_s < MIN_BANDWIDTH)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a bandwidth of %llu bytes/s is less than the smallest one, %u",
		                    (unsigned long long)req->bandwidth_bytes_per_s, MIN_BANDWIDTH);
	if (req->max_throttle_percent > FM_MAX_THROTTLE_PERCENT)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a throttle of %u %% is more than the highest one, %d %%",
		                    req->max_throttle_percent, FM_MAX_THROTTLE_PERCENT);
	if (req->streams > FM_MAX_PUSH_STREAMS)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%u streams are more than there may be, %d", req->streams,
		                    FM_MAX_PUSH_STREAMS);
	return fm_strategy_check_available((enum fm_strategy)(req->strategy ? req->strategy : FLEXIMIGRATE__V1__STRATEGY__AUTO), err);
}

static struct fm_migration *migration_from_request(struct fm_coordinator *c, const FM_PB(MigrateRequest) * req)
{
	struct fm_migration *m = migration_new(c);
	char id[FM_MIGRATION_ID_LEN + 1];
	fm_id_new(id);
	(void)snprintf(m->id, sizeof(m->id), "%s", id);
	(void)snprintf(m->log_id, sizeof(m->log_id), "%s", id);
	m->pb = FM_PB_NEW(Migration, migration);
	fm_pb_set(&m->pb->id, id);
	fm_pb_set(&m->pb->container, req->container);
	fm_pb_set(&m->pb->destination, req->to);
	m->pb->strategy = req->strategy ? req->strategy : FLEXIMIGRATE__V1__STRATEGY__AUTO;
	m->pb->state = FLEXIMIGRATE__V1__STATE__PENDING;
	m->pb->created_unix_ms = fm_realtime_ms();
	m->requested = (enum fm_strategy)m->pb->strategy;
	m->pb->requested_strategy = m->pb->strategy;
	take_trigger(m, req->requested_by);
	fm_pb_set(&m->pb->trigger, m->trigger);
	m->max_downtime_ms = req->max_downtime_ms;
	m->bandwidth_bytes_per_s = req->bandwidth_bytes_per_s;
	m->no_throttle = req->no_throttle;
	m->max_throttle_percent = req->no_throttle ? 0 : req->max_throttle_percent;
	m->streams = req->streams;
	fm_pb_set(&m->pb->requested_runtime, req->runtime);
	m->deadline_ms = fm_now_ms() + (req->max_total_ms ? req->max_total_ms : DEFAULT_TOTAL_MS);
	return m;
}

static int record(struct fm_migration *m, struct fm_error *err)
{
	size_t n = protobuf_c_message_get_packed_size(&m->pb->base);
	_fm_free_ uint8_t *detail = malloc(n ? n : 1);
	if (!detail)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	protobuf_c_message_pack(&m->pb->base, detail);
	struct fm_store_migration r = {
		.id = m->id,
		.container = m->pb->container,
		.source = m->pb->source,
		.destination = m->pb->destination,
		.strategy = (char *)fm_strategy_to_string((enum fm_strategy)m->pb->strategy),
		.state = FM_STATE_PENDING,
		.path = m->pb->path,
		.created_ms = m->pb->created_unix_ms,
		.error_message = m->pb->error_message,
		.detail = detail,
		.detail_len = n,
	};
	return fm_store_migration_create(m->c->o.store, &r, &m->epoch, err);
}

static int dry_run(struct fm_migration *m, FM_PB(Migration) * *ret, struct fm_error *err)
{
	struct fm_strategy_choice choice;
	_fm_buf_ struct fm_buf others = FM_BUF_INIT;
	m->log_id[0] = '\0';
	if (fm_check_hosts(m, err) < 0)
		return -1;
	if (fm_plan(m, &choice, err) < 0) {
		for (size_t i = 1; m->facts && i < m->facts->n_blockers; i++)
			fm_buf_addf(&others, "%s%s", i > 1 ? "; " : "", m->facts->blockers[i]);
		return others.len ? fm_error_hint(err, "also: %s", others.data) : -1;
	}
	fm_pb_set(&m->pb->id, "");
	*ret = snapshot(m);
	return 0;
}

int fm_coordinator_migrate(struct fm_coordinator *c, const FM_PB(MigrateRequest) * req, FM_PB(Migration) * *ret, struct fm_error *err)
{
	if (check_request(req, err) < 0)
		return -1;
	struct fm_migration *m = migration_from_request(c, req);
	if (req->dry_run) {
		int rc = dry_run(m, ret, err);
		migration_free(m);
		return rc;
	}
	/* Active before it is on record, so that nobody can remove the container in between. */
	if (activate_new(c, m, err) < 0) {
		migration_free(m);
		return -1;
	}
	if (record(m, err) < 0) {
		deactivate(c, m);
		migration_free(m);
		return -1;
	}
	FM_PB(Migration) *copy = snapshot(m);
	if (fm_pool_submit(c->pool, run, m, err) < 0) {
		/* Recorded but nobody to run it: say so in the record, too. */
		fm_rollback(m, err);
		deactivate(c, m);
		migration_free(m);
		fm_pb_free(copy);
		return -1;
	}
	*ret = copy;
	return 0;
}

static void add_finding(FM_PB(CanMigrateResponse) * r, const char *severity, const char *subject, const char *text, const char *remedy)
{
	FM_PB(CompatFinding) *f = FM_PB_NEW(CompatFinding, compat_finding);
	fm_pb_set(&f->severity, severity);
	fm_pb_set(&f->subject, subject);
	fm_pb_set(&f->text, text);
	fm_pb_set(&f->remedy, remedy);
	FM_PB_ADD(r->findings, r->n_findings, f);
}

/* What only the plan can say (labels, the operator's policies, the strategy) is a blocker like the others. */
static void find_all(struct fm_migration *m, FM_PB(CanMigrateResponse) * r)
{
	struct fm_strategy_choice choice;
	struct fm_error e = FM_ERROR_INIT;
	for (size_t i = 0; m->compat && i < m->compat->n; i++) {
		const struct fm_compat_finding *f = &m->compat->v[i];
		r->possible = r->possible && f->severity != FM_COMPAT_BLOCKER;
		add_finding(r, fm_compat_severity_to_string(f->severity), f->subject, f->text, f->remedy);
	}
	if (!r->possible)
		return;
	r->possible = fm_plan(m, &choice, &e) == 0;
	if (r->possible)
		r->plan = fm_pb_copy(m->pb->plan);
	else
		add_finding(r, "blocker", "plan", e.message, e.hint);
}

int fm_coordinator_can_migrate(struct fm_coordinator *c, const FM_PB(CanMigrateRequest) * req, FM_PB(CanMigrateResponse) * *ret,
                               struct fm_error *err)
{
	FM_PB(MigrateRequest) as = FLEXIMIGRATE__V1__MIGRATE_REQUEST__INIT;
	as.container = req->container;
	as.to = req->to;
	as.strategy = req->strategy;
	if (check_request(&as, err) < 0)
		return -1;
	struct fm_migration *m = migration_from_request(c, &as);
	m->log_id[0] = '\0';
	int rc = fm_check_hosts(m, err) < 0 || fm_compat_look(m, err) < 0 ? -1 : 0;
	if (rc == 0) {
		FM_PB(CanMigrateResponse) *r = FM_PB_NEW(CanMigrateResponse, can_migrate_response);
		fm_pb_set(&r->source, m->pb->source);
		r->possible = true;
		find_all(m, r);
		*ret = r;
	}
	migration_free(m);
	return rc;
}

/* ---------------------------------------------------------------- questions */

static FM_PB(Migration) * active_snapshot(struct fm_coordinator *c, const char *id)
{
	FM_PB(Migration) *copy = NULL;
	pthread_mutex_lock(&c->lock);
	for (struct fm_migration *m = c->active; m && !copy; m = m->next)
		if (fm_streq(m->id, id))
			copy = snapshot(m);
	pthread_mutex_unlock(&c->lock);
	return copy;
}

static FM_PB(Migration) * from_record(struct fm_coordinator *c, const struct fm_store_migration *r)
{
	FM_PB(Migration) *pb = active_snapshot(c, r->id);
	return pb ? pb : fleximigrate__v1__migration__unpack(NULL, r->detail_len, r->detail);
}

int fm_coordinator_get(struct fm_coordinator *c, const char *id, FM_PB(Migration) * *ret, struct fm_error *err)
{
	struct fm_store_migration r = { 0 };
	if (fm_store_migration_get(c->o.store, id, &r, err) < 0)
		return fm_error_hint(err, "'fleximigrate migration ls' shows the known ones");
	FM_PB(Migration) *pb = from_record(c, &r);
	fm_store_migration_done(&r);
	if (!pb)
		return fm_error_set(err, FM_E_DATA_LOSS, "the record of migration '%s' is damaged", id);
	*ret = pb;
	return 0;
}

int fm_coordinator_list(struct fm_coordinator *c, bool active_only, size_t limit, FM_PB(Migration) * **ret, size_t *ret_n,
                        struct fm_error *err)
{
	struct fm_store_migration *v = NULL;
	size_t n = 0, out = 0;
	if (fm_store_migration_list(c->o.store, active_only, limit ? limit : 100, &v, &n, err) < 0)
		return -1;
	FM_PB(Migration) **list = calloc(n ? n : 1, sizeof(*list));
	for (size_t i = 0; list && i < n; i++)
		if ((list[out] = from_record(c, &v[i])))
			fm_pb_set(&list[out++]->decision, ""); /* together they could be more than a message holds */
	fm_store_migrations_free(v, n);
	if (!list)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	*ret = list;
	*ret_n = out;
	return 0;
}

int fm_coordinator_cancel(struct fm_coordinator *c, const char *id, FM_PB(Migration) * *ret, struct fm_error *err)
{
	int rc = 0;
	bool found = false;
	pthread_mutex_lock(&c->lock);
	for (struct fm_migration *m = c->active; m; m = m->next) {
		if (!fm_streq(m->id, id))
			continue;
		found = true;
		enum fm_state s = fm_migration_state(m);
		if (m->past_commit || s == FM_STATE_VERIFICATION || s == FM_STATE_COMPLETED)
			rc = fm_error_set(err, FM_E_FAILED_PRECONDITION, "migration '%s' is past its commit point (%s) and goes on", id,
			                  fm_state_to_string(s));
		else if (s == FM_STATE_FAILED || s == FM_STATE_ROLLBACK)
			rc = fm_error_set(err, FM_E_FAILED_PRECONDITION, "migration '%s' is rolling back already", id);
		else
			fm_stop_request(&m->cancel);
	}
	c->changes++; /* who waits in the queue looks */
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
	if (rc < 0)
		return -1;
	if (fm_coordinator_get(c, id, ret, err) < 0)
		return -1;
	if (!found) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "migration '%s' is over: %s", id,
		                   fm_state_to_string((enum fm_state)(*ret)->state));
		fm_pb_free(*ret);
		*ret = NULL;
		return -1;
	}
	return 0;
}

/* Under the coordinator's lock. */
static int approve(struct fm_migration *m, struct fm_error *err)
{
	int rc = 0;
	pthread_mutex_lock(&m->lock);
	if (!fm_streq(m->pb->sub_state, FM_AWAITING_APPROVAL))
		rc = fm_error_set(err, FM_E_FAILED_PRECONDITION, "migration '%s' does not wait for approval", m->id);
	else
		m->pb->approved_unix_ms = fm_realtime_ms();
	pthread_mutex_unlock(&m->lock);
	/* on record before it counts: a manager that is restarted does not ask again */
	if (rc == 0 && fm_migration_save(m) < 0) {
		pthread_mutex_lock(&m->lock);
		m->pb->approved_unix_ms = 0;
		pthread_mutex_unlock(&m->lock);
		return fm_error_set(err, FM_E_UNAVAILABLE, "the approval of migration '%s' cannot be recorded", m->id);
	}
	return rc;
}

int fm_coordinator_approve(struct fm_coordinator *c, const char *id, FM_PB(Migration) * *ret, struct fm_error *err)
{
	int rc = 0;
	bool found = false;
	pthread_mutex_lock(&c->lock);
	for (struct fm_migration *m = c->active; m && !found; m = m->next) {
		if (!fm_streq(m->id, id))
			continue;
		found = true;
		rc = approve(m, err);
	}
	c->changes++;
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
	if (rc < 0 || fm_coordinator_get(c, id, ret, err) < 0)
		return -1;
	if (found)
		return 0;
	(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "migration '%s' is over: %s", id,
	                   fm_state_to_string((enum fm_state)(*ret)->state));
	fm_pb_free(*ret);
	*ret = NULL;
	return -1;
}

static int read_event(struct fm_coordinator *c, const char *id, uint64_t after_seq, FM_PB(Event) * *ret, struct fm_error *err)
{
	struct fm_store_event *v = NULL;
	size_t n = 0;
	*ret = NULL;
	if (fm_store_event_list(c->o.store, id, after_seq, 1, &v, &n, err) < 0)
		return -1;
	if (n > 0) {
		FM_PB(Event) *e = FM_PB_NEW(Event, event);
		e->seq = v[0].seq;
		e->at_unix_ms = v[0].at_ms;
		e->state = (FM_PB(State))v[0].state;
		fm_pb_set(&e->level, fm_log_level_to_string((enum fm_log_level)v[0].level));
		fm_pb_set(&e->component, v[0].component);
		fm_pb_set(&e->line, v[0].line);
		*ret = e;
	}
	fm_store_events_free(v, n);
	return 0;
}

/* Until something has changed since `seen`. */
static void wait_for_change(struct fm_coordinator *c, uint64_t seen, int wait_ms)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += wait_ms / 1000;
	until.tv_nsec += (long)(wait_ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	pthread_mutex_lock(&c->lock);
	while (c->changes == seen && pthread_cond_timedwait(&c->changed, &c->lock, &until) == 0)
		;
	pthread_mutex_unlock(&c->lock);
}

static uint64_t changes_so_far(struct fm_coordinator *c)
{
	pthread_mutex_lock(&c->lock);
	uint64_t n = c->changes;
	pthread_mutex_unlock(&c->lock);
	return n;
}

int fm_coordinator_next_event(struct fm_coordinator *c, const char *id, uint64_t after_seq, int wait_ms, FM_PB(Event) * *ret,
                              struct fm_error *err)
{
	FM_PB(Event) *e = NULL;
	uint64_t seen = changes_so_far(c);
	if (read_event(c, id, after_seq, &e, err) < 0)
		return -1;
	if (!e && wait_ms > 0) {
		wait_for_change(c, seen, wait_ms);
		if (read_event(c, id, after_seq, &e, err) < 0)
			return -1;
	}
	*ret = e;
	return 0;
}

bool fm_coordinator_is_moving(struct fm_coordinator *c, const char *container)
{
	bool moving = false;
	pthread_mutex_lock(&c->lock);
	for (struct fm_migration *m = c->active; m; m = m->next)
		moving = moving || fm_is_about(m, container, NULL, NULL);
	pthread_mutex_unlock(&c->lock);
	return moving;
}

bool fm_coordinator_is_active(struct fm_coordinator *c, const char *id)
{
	FM_PB(Migration) *m = active_snapshot(c, id);
	fm_pb_free(m);
	return m != NULL;
}
