/* SPDX-License-Identifier: MIT */
/*
 * mover.c - the agent's movers as a whole: finding, locking, status, and what the control protocol asks of either side. The sides themselves are in
 * mover-source.c and mover-destination.c.
 *
 * A mover is in the list from the moment its journal exists until it is released or aborted and its journal removed; a finished one stays there (without effects) for a while,
 * so that a repeated Abort or Status gets an answer.
 */
#include "migration/mover.h"

#include <dirent.h>
#include <fcntl.h>
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "migration/mover-internal.h"

#define MAX_MOVERS 256
/* A manager asks again about what it has under way, and what it has concluded it does not ask about: no more of them can be missed. An older one is answered as one from before a restart. */
#define MAX_ENDED FM_MAX_MIGRATIONS_ACTIVE

struct fm_movers {
	struct fm_host *h;
	pthread_mutex_t lock;
	struct fm_mover *v[MAX_MOVERS];
	size_t n;
	struct fm_mover_figures forgotten; /* of those that forget_oldest let go */
};

/* ---------------------------------------------------------------- one mover */

int fm_mover_alloc(struct fm_host *h, const char *id, bool destination, struct fm_mover **ret, struct fm_error *err)
{
	struct fm_mover *m = calloc(1, sizeof(*m));
	if (!m)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	m->h = h;
	m->destination = destination;
	m->images_fd = m->listen_fd = m->files_here_fd = m->root_fd = -1;
	m->error = FM_ERROR_INIT;
	(void)snprintf(m->id, sizeof(m->id), "%s", id);
	(void)snprintf(m->images_path, sizeof(m->images_path), "%s/%s.%s", h->images_dir, id, destination ? "destination" : "source");
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->changed, NULL);
	if (destination && !(m->neighbours = calloc(FM_MAX_NEIGHBOURS, sizeof(m->neighbours[0])))) {
		free(m);
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	}
	if (fm_stop_init(&m->stop, err) < 0) {
		free(m->neighbours);
		free(m);
		return -1;
	}
	*ret = m;
	return 0;
}

void fm_mover_drop_streams(struct fm_mover *m)
{
	pthread_mutex_lock(&m->lock);
	struct fm_stream *gone[2] = { m->control, m->pages };
	m->control = m->pages = NULL;
	for (int i = 0; i < 2; i++)
		m->wire_bytes += gone[i] ? fm_stream_bytes(gone[i]) : 0;
	pthread_mutex_unlock(&m->lock);
	fm_stream_free(gone[0]);
	fm_stream_free(gone[1]);
}

void fm_mover_publish(struct fm_mover *m)
{
	pthread_mutex_lock(&m->lock);
	m->view = m->local;
	m->view.container = NULL;
	m->view.config = NULL;
	pthread_mutex_unlock(&m->lock);
}

/* Lets go of every resource of the process; what is outside stays as the journal says. */
static void drop_resources(struct fm_mover *m)
{
	fm_rounds_end(m);
	fm_mover_drop_streams(m);
	fm_criu_free(m->criu);
	m->criu = NULL;
	fm_hold_free(m->hold);
	m->hold = NULL;
	fm_throttle_free(m->throttle);
	m->throttle = NULL;
	fm_manifest_free(m->manifest);
	m->manifest = NULL;
	fm_known_free(m->known);
	m->known = NULL;
	fm_mover_volumes_done(m);
	fm_memory_trees_done(&m->memory_trees);
	free(m->source_rootfs);
	fm_closep(&m->root_fd);
	m->root_fd = -1;
	fm_strv_free(m->exclude);
	m->source_rootfs = NULL;
	m->exclude = NULL;
	fm_page_source_free(m->page_source);
	m->page_source = NULL;
	fm_flows_free(m);
	fm_endpoints_free(m->endpoints);
	m->endpoints = NULL;
	free(m->neighbours);
	m->neighbours = NULL;
	m->n_neighbours = 0;
	fm_local_done(&m->local);
	fm_mover_publish(m);
	fm_pb_free(m->description);
	fm_pb_free(m->request);
	fm_pb_free(m->execute);
	m->execute = NULL;
	free(m->config);
	m->description = NULL;
	m->request = NULL;
	m->config = NULL;
	if (m->images_fd >= 0)
		(void)close(m->images_fd);
	if (m->listen_fd >= 0)
		(void)close(m->listen_fd);
	fm_closep(&m->files_here_fd);
	m->images_fd = m->listen_fd = m->files_here_fd = -1;
}

void fm_mover_destroy(struct fm_mover *m)
{
	if (!m)
		return;
	drop_resources(m);
	fm_journal_free(m->journal);
	fm_stop_done(&m->stop);
	fm_strv_free(m->notes);
	pthread_cond_destroy(&m->changed);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

void fm_mover_step(struct fm_mover *m, const char *step)
{
	pthread_mutex_lock(&m->lock);
	(void)snprintf(m->step, sizeof(m->step), "%s", step);
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
}

void fm_mover_phase(struct fm_mover *m, const char *name, uint64_t us)
{
	pthread_mutex_lock(&m->lock);
	if (m->n_phases < FM_MOVER_MAX_PHASES) {
		(void)snprintf(m->phases[m->n_phases].name, sizeof(m->phases[0].name), "%s", name);
		m->phases[m->n_phases++].us = us;
	}
	pthread_mutex_unlock(&m->lock);
}

int fm_mover_fail(struct fm_mover *m, const struct fm_error *e)
{
	pthread_mutex_lock(&m->lock);
	if (m->error.code == FM_OK)
		m->error = *e;
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
	return -1;
}

void fm_mover_note(struct fm_mover *m, const char *fmt, ...)
{
	char text[512];
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	pthread_mutex_lock(&m->lock);
	fm_strv_add(&m->notes, text);
	pthread_mutex_unlock(&m->lock);
}

const struct fm_stream_tls *fm_mover_tls(struct fm_mover *m)
{
	return m->h->use_tls ? &m->h->tls : NULL;
}

int fm_mover_cancel_fd(struct fm_mover *m)
{
	return m->stop.fd;
}

int fm_mover_mount_images(struct fm_mover *m, struct fm_error *err)
{
	if (fm_journal_intent(m->journal, "tmpfs", m->images_path, false, err) < 0)
		return -1;
	return fm_host_mount_images(m->images_path, FM_MOVER_IMAGES_MAX_BYTES, &m->images_fd, err);
}

int fm_mover_fault(struct fm_mover *m, const char *point, struct fm_error *err)
{
	return fm_fault_point(m->h->fault, point, err);
}

void fm_mover_await_criu(struct fm_mover *m, int timeout_ms, bool kill_it)
{
	const char *text = fm_journal_get(m->journal, "criu");
	struct fm_proc_id id = { 0 };
	unsigned long long ticks = 0;
	int pid = 0;
	if (!text || sscanf(text, "%d:%llu", &pid, &ticks) != 2 || pid <= 0)
		return;
	id.pid = pid;
	id.start_ticks = ticks;
	if (fm_proc_wait_gone(&id, timeout_ms, NULL) < 0 && kill_it && fm_proc_alive(&id))
		(void)kill(id.pid, SIGKILL);
}

static int undo_one(void *userdata, const char *what, const char *arg, struct fm_error *err)
{
	struct fm_mover *m = userdata;
	if (fm_streq(what, "tmpfs") && m->images_fd >= 0) {
		(void)close(m->images_fd);
		m->images_fd = -1;
	}
	if (fm_str_startswith(what, "volume-"))
		return fm_volumes_undo(m, what, arg, err);
	return m->destination ? fm_host_undo(m->h, what, arg, err) : fm_source_undo(m, what, arg, err);
}

int fm_mover_undo(struct fm_mover *m, struct fm_error *err)
{
	return fm_journal_undo(m->journal, undo_one, m, err);
}

/* ---------------------------------------------------------------- the list */

static struct fm_mover *find_locked(struct fm_movers *ms, const char *id)
{
	for (size_t i = 0; i < ms->n; i++)
		if (fm_streq(ms->v[i]->id, id))
			return ms->v[i];
	return NULL;
}

/* A reference for the time of one call. */
static struct fm_mover *acquire(struct fm_movers *ms, const char *id)
{
	pthread_mutex_lock(&ms->lock);
	struct fm_mover *m = find_locked(ms, id);
	if (m)
		m->users++;
	pthread_mutex_unlock(&ms->lock);
	return m;
}

static void release_ref(struct fm_movers *ms, struct fm_mover **m)
{
	pthread_mutex_lock(&ms->lock);
	if (*m)
		(*m)->users--;
	pthread_mutex_unlock(&ms->lock);
}

static void count(struct fm_mover *m, struct fm_mover_figures *f)
{
	enum fm_decision d = m->journal ? fm_journal_decision(m->journal) : FM_DECISION_UNKNOWN;
	pthread_mutex_lock(&m->lock);
	if (!m->finished)
		f->role[m->destination].under_way[d]++;
	else if (d == FM_DECISION_RELEASED)
		f->role[m->destination].released++;
	else
		f->role[m->destination].aborted++;
	f->role[m->destination].wire_bytes +=
	        m->wire_bytes + (m->control ? fm_stream_bytes(m->control) : 0) + (m->pages ? fm_stream_bytes(m->pages) : 0);
	if (m->finished) /* before, a source that sends rounds takes some of them back */
		f->role[m->destination].pages += m->pages_done;
	f->rounds += m->n_rounds;
	f->paused += !m->finished && m->pause.since_unix_ms;
	pthread_mutex_unlock(&m->lock);
}

/* Of those that nobody uses, the one that ended first. false: there is none. */
static bool forget_oldest(struct fm_movers *ms)
{
	size_t oldest = ms->n;
	for (size_t i = 0; i < ms->n; i++)
		if (ms->v[i]->finished && !ms->v[i]->users && (oldest == ms->n || ms->v[i]->ended_us < ms->v[oldest]->ended_us))
			oldest = i;
	if (oldest == ms->n)
		return false;
	count(ms->v[oldest], &ms->forgotten);
	fm_mover_destroy(ms->v[oldest]);
	memmove(&ms->v[oldest], &ms->v[oldest + 1], (ms->n - oldest - 1) * sizeof(ms->v[0]));
	ms->n--;
	return true;
}

/* For one more, and so that an agent's memory does not grow with what it has done. */
static bool make_room(struct fm_movers *ms)
{
	size_t ended = 0;
	for (size_t i = 0; i < ms->n; i++)
		ended += ms->v[i]->finished;
	for (; (ended > MAX_ENDED || ms->n == MAX_MOVERS) && forget_oldest(ms); ended--)
		;
	return ms->n < MAX_MOVERS;
}

static int enlist(struct fm_movers *ms, struct fm_mover *m, struct fm_error *err)
{
	pthread_mutex_lock(&ms->lock);
	int rc = 0;
	if (find_locked(ms, m->id))
		rc = fm_error_set(err, FM_E_ALREADY_EXISTS, "migration %s is known on '%s' already", m->id, ms->h->name);
	for (size_t i = 0; rc == 0 && i < ms->n; i++) {
		struct fm_mover *o = ms->v[i];
		/* Two sides of the same container are legal only for the way back (a reverse migration while the first is committed). */
		if (!o->finished && fm_streq(o->container, m->container) && m->epoch <= o->epoch)
			rc = fm_error_set(err, FM_E_ABORTED, "container '%s' is held by migration %s (epoch %u) on '%s'", m->container,
			                  o->id, o->epoch, ms->h->name);
	}
	if (rc == 0 && !make_room(ms))
		rc = fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "host '%s' has %d migrations under way", ms->h->name, MAX_MOVERS);
	if (rc == 0) {
		m->users = 1;
		ms->v[ms->n++] = m;
	}
	pthread_mutex_unlock(&ms->lock);
	return rc;
}

/* With the lock. */
static void end_locked(struct fm_mover *m)
{
	m->finished = true;
	m->ended_us = fm_now_us();
	pthread_cond_broadcast(&m->changed);
}

/* What is left is the memory of the outcome. Its threads are gone, and nobody asks for its stop token any more. */
static void conclude(struct fm_mover *m)
{
	drop_resources(m);
	pthread_mutex_lock(&m->lock);
	fm_stop_done(&m->stop);
	end_locked(m);
	pthread_mutex_unlock(&m->lock);
}

/* After release or abort */
static int finish(struct fm_mover *m, struct fm_error *err)
{
	if (fm_journal_remove(m->journal, err) < 0)
		return -1;
	conclude(m);
	return 0;
}

/*
 * What a migration used and gave back stays in the allocator's heaps, whole pages between the few blocks that live longer: some megabytes. The kernel gets them back within a millisecond, but a thread that
 * allocates meanwhile waits for that: so not while any other migration is under way here. One that begins now is far from its freeze.
 */
static void give_back_memory(struct fm_movers *ms)
{
	bool idle = true;
	pthread_mutex_lock(&ms->lock);
	for (size_t i = 0; i < ms->n; i++)
		idle = idle && ms->v[i]->finished;
	pthread_mutex_unlock(&ms->lock);
	if (idle)
		(void)malloc_trim(0);
}

/* ---------------------------------------------------------------- recovery */

static int parse_role(const char *file, char *id, size_t cap, bool *destination, bool *run)
{
	const char *suffixes[] = { ".source.journal", ".destination.journal", ".run.journal" };
	for (size_t i = 0; i < FM_ARRAY_SIZE(suffixes); i++) {
		if (!fm_str_endswith(file, suffixes[i]))
			continue;
		size_t n = strlen(file) - strlen(suffixes[i]);
		if (n == 0 || n >= cap)
			return -1;
		memcpy(id, file, n);
		id[n] = '\0';
		*destination = i == 1;
		*run = i == 2;
		return 0;
	}
	return -1;
}

static int undo_run(void *userdata, const char *what, const char *arg, struct fm_error *err)
{
	return fm_host_undo(userdata, what, arg, err);
}

static void restore_members(struct fm_mover *m)
{
	const char *s;
	uint64_t epoch = 0;
	if ((s = fm_journal_head(m->journal, "container")))
		(void)snprintf(m->container, sizeof(m->container), "%s", s);
	if ((s = fm_journal_head(m->journal, "peer")))
		(void)snprintf(m->peer, sizeof(m->peer), "%s", s);
	if ((s = fm_journal_head(m->journal, "token")))
		(void)snprintf(m->token, sizeof(m->token), "%s", s);
	if ((s = fm_journal_head(m->journal, "instance")))
		(void)snprintf(m->instance, sizeof(m->instance), "%s", s);
	if ((s = fm_journal_head(m->journal, "stream_address")))
		(void)snprintf(m->stream_address, sizeof(m->stream_address), "%s", s);
	if ((s = fm_journal_head(m->journal, "epoch")) && fm_parse_u64(s, &epoch, NULL) == 0)
		m->epoch = (uint32_t)epoch;
	(void)fm_strategy_from_string(fm_journal_head(m->journal, "strategy"), &m->strategy, NULL);
	m->lazy = m->strategy != FM_STRATEGY_COLD;
	m->images_fd = open(m->images_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void recover_one(struct fm_movers *ms, const char *file)
{
	struct fm_error err = FM_ERROR_INIT;
	struct fm_journal *j = NULL;
	struct fm_mover *m = NULL;
	bool destination = false, run = false;
	char id[64];
	if (parse_role(file, id, sizeof(id), &destination, &run) < 0)
		return;
	if (fm_journal_open(ms->h->journals_dir, file, &j, &err) < 0) {
		_fm_free_ char *path = fm_xasprintf("%s/%s", ms->h->journals_dir, file);
		if (err.code == FM_E_NOT_FOUND && unlink(path) == 0)
			return; /* killed while it was being created */
		fm_log_write(ms->h->log, FM_LOG_ERROR, "MigrationManager", NULL, "Cannot read journal %s: %s", file, err.message);
		return;
	}
	if (run) {
		if (fm_journal_undo(j, undo_run, ms->h, &err) == 0)
			(void)fm_journal_remove(j, NULL);
		fm_log_write(ms->h->log, FM_LOG_WARN, "ContainerManager", NULL,
		             "Starting container '%s' had been interrupted; it was undone.", id);
		fm_journal_free(j);
		return;
	}
	if (fm_mover_alloc(ms->h, id, destination, &m, &err) < 0) {
		fm_journal_free(j);
		return;
	}
	m->journal = j;
	restore_members(m);
	fm_log_write(ms->h->log, FM_LOG_WARN, "MigrationManager", NULL, "Recovering migration %s (%s, %s) on '%s'.", id,
	             destination ? "destination" : "source", fm_decision_to_string(fm_journal_decision(j)), ms->h->name);
	if ((destination ? fm_destination_recover(m, &err) : fm_source_recover(m, &err)) < 0)
		fm_log_write(ms->h->log, FM_LOG_ERROR, "MigrationManager", NULL, "Recovering migration %s: %s", id, err.message);
	enum fm_decision d = fm_journal_decision(j);
	if (err.code == FM_OK && (d == FM_DECISION_ABORTED || d == FM_DECISION_RELEASED))
		(void)finish(m, NULL);
	if (enlist(ms, m, &err) == 0)
		m->users = 0;
}

int fm_movers_new(struct fm_host *h, struct fm_movers **ret, struct fm_error *err)
{
	struct fm_movers *ms = calloc(1, sizeof(*ms));
	if (!ms)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	ms->h = h;
	pthread_mutex_init(&ms->lock, NULL);
	_fm_closedir_ DIR *d = opendir(h->journals_dir);
	if (!d) {
		free(ms);
		return fm_error_errno(err, errno, "cannot read the journals in %s", h->journals_dir);
	}
	for (struct dirent *e; (e = readdir(d));)
		recover_one(ms, e->d_name);
	*ret = ms;
	return 0;
}

void fm_movers_free(struct fm_movers *ms)
{
	if (!ms)
		return;
	for (size_t i = 0; i < ms->n; i++) {
		struct fm_mover *m = ms->v[i];
		fm_stop_request(&m->stop);
		if (m->control)
			fm_stream_shutdown(m->control);
		if (m->pages)
			fm_stream_shutdown(m->pages);
		if (m->thread_started)
			pthread_join(m->thread, NULL);
		if (m->control_started)
			pthread_join(m->control_thread, NULL);
		if (m->destination)
			fm_pages_stop(m);
		fm_mover_destroy(m);
	}
	pthread_mutex_destroy(&ms->lock);
	free(ms);
}

/* ---------------------------------------------------------------- prepare */

static json_t *journal_head(const struct fm_mover *m)
{
	_fm_free_ char *epoch = fm_xasprintf("%u", m->epoch);
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "container", m->container, "peer", m->peer, "token", m->token, "instance",
	                 m->instance, "stream_address", m->stream_address, "epoch", epoch, "strategy", fm_strategy_to_string(m->strategy));
}

static int check_ids(const char *id, const char *container, FM_PB(Strategy) strategy, struct fm_error *err)
{
	if (!fm_name_is_valid(id) || strlen(id) > 40)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%s' is not a migration id", id);
	if (!fm_name_is_valid(container))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%s' is not a container name", container);
	if ((enum fm_strategy)strategy <= FM_STRATEGY_AUTO || (enum fm_strategy)strategy >= _FM_STRATEGY_MAX)
		return fm_error_set(err, FM_E_UNIMPLEMENTED, "strategy number %d is not known to this agent", (int)strategy);
	return 0;
}

/* One operation at a time works on a mover; abort may interrupt the one that runs. */
static void begin_exclusive(struct fm_mover *m)
{
	pthread_mutex_lock(&m->lock);
	while (m->executing)
		pthread_cond_wait(&m->changed, &m->lock);
	m->executing = true;
	pthread_mutex_unlock(&m->lock);
}

static void end_exclusive(struct fm_mover *m)
{
	pthread_mutex_lock(&m->lock);
	m->executing = false;
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
}

/* A failed preparation undoes itself; the record of the failure stays for Status. */
static int give_up(struct fm_mover *m, const struct fm_error *cause)
{
	struct fm_error e = FM_ERROR_INIT;
	(void)fm_mover_fail(m, cause);
	if ((m->destination ? fm_destination_abort(m, &e) : fm_source_abort(m, false, &e)) == 0)
		(void)finish(m, NULL);
	return -1;
}

/* Exclusively. An abort that was quicker than the preparation has finished the mover already. */
static int begin_journal(struct fm_mover *m, const char *role, struct fm_error *err)
{
	struct fm_journal *j = NULL;
	int rc = m->finished ? fm_error_set(err, FM_E_CANCELLED, "migration %s was aborted", m->id)
	                     : fm_journal_create(m->h->journals_dir, m->id, role, journal_head(m), &j, err);
	pthread_mutex_lock(&m->lock);
	m->journal = j;
	pthread_mutex_unlock(&m->lock);
	if (rc < 0)
		conclude(m);
	return rc;
}

int fm_movers_prepare_destination(struct fm_movers *ms, const FM_PB(PrepareDestinationRequest) * req,
                                  FM_PB(PrepareDestinationResponse) * *ret, struct fm_error *err)
{
	struct fm_mover *m = NULL;
	if (!req->container)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "the request names no container");
	if (check_ids(req->migration_id, req->container->name, req->strategy, err) < 0 ||
	    fm_mover_alloc(ms->h, req->migration_id, true, &m, err) < 0)
		return -1;
	m->epoch = req->epoch;
	m->strategy = (enum fm_strategy)req->strategy;
	m->lazy = m->strategy != FM_STRATEGY_COLD;
	(void)snprintf(m->container, sizeof(m->container), "%s", req->container->name);
	(void)snprintf(m->peer, sizeof(m->peer), "%.63s", req->source);
	(void)snprintf(m->instance, sizeof(m->instance), "%s.%s", req->container->name, req->migration_id);
	(void)snprintf(m->rootfs, sizeof(m->rootfs), "%s/%s/rootfs", ms->h->instances_dir, m->instance);
	m->request = fm_pb_copy(req);
	m->description = fm_pb_copy(req->container);
	m->config = strndup((const char *)req->config.data, req->config.len);
	fm_token_new(m->token);
	if (enlist(ms, m, err) < 0) {
		fm_mover_destroy(m);
		return -1;
	}
	_fm_pb_ FM_PB(PrepareDestinationResponse) *resp = FM_PB_NEW(PrepareDestinationResponse, prepare_destination_response);
	begin_exclusive(m);
	int rc = begin_journal(m, "destination", err);
	if (rc == 0 && (rc = fm_destination_prepare(m, resp, err)) < 0)
		(void)give_up(m, err);
	end_exclusive(m);
	if (rc == 0)
		*ret = FM_TAKE_PTR(resp);
	release_ref(ms, &m);
	return rc;
}

int fm_movers_prepare_source(struct fm_movers *ms, const FM_PB(PrepareSourceRequest) * req, FM_PB(PrepareSourceResponse) * *ret,
                             struct fm_error *err)
{
	struct fm_mover *m = NULL;
	if (req->max_throttle_percent > FM_MAX_THROTTLE_PERCENT)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a throttle of %u %% is more than the highest one, %d %%",
		                    req->max_throttle_percent, FM_MAX_THROTTLE_PERCENT);
	if (req->streams > FM_MAX_PUSH_STREAMS)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%u streams are more than there may be, %d", req->streams,
		                    FM_MAX_PUSH_STREAMS);
	if (check_ids(req->migration_id, req->container, req->strategy, err) < 0 ||
	    fm_mover_alloc(ms->h, req->migration_id, false, &m, err) < 0)
		return -1;
	m->epoch = req->epoch;
	m->strategy = (enum fm_strategy)req->strategy;
	m->lazy = m->strategy != FM_STRATEGY_COLD;
	m->limits.max_downtime_ms = req->max_downtime_ms;
	m->limits.max_rounds_ms = req->max_rounds_ms;
	m->limits.bandwidth_bytes_per_s = req->bandwidth_bytes_per_s;
	m->limits.max_throttle_percent = req->max_throttle_percent;
	m->limits.streams = req->streams;
	(void)snprintf(m->container, sizeof(m->container), "%s", req->container);
	(void)snprintf(m->peer, sizeof(m->peer), "%.63s", req->destination);
	(void)snprintf(m->token, sizeof(m->token), "%.32s", req->token);
	(void)snprintf(m->stream_address, sizeof(m->stream_address), "%.127s", req->stream_address);
	if (enlist(ms, m, err) < 0) {
		fm_mover_destroy(m);
		return -1;
	}
	_fm_pb_ FM_PB(PrepareSourceResponse) *resp = FM_PB_NEW(PrepareSourceResponse, prepare_source_response);
	begin_exclusive(m);
	int rc = begin_journal(m, "source", err);
	if (rc == 0 && (rc = fm_source_prepare(m, resp, err)) < 0)
		(void)give_up(m, err);
	end_exclusive(m);
	if (rc == 0)
		*ret = FM_TAKE_PTR(resp);
	release_ref(ms, &m);
	return rc;
}

/* ---------------------------------------------------------------- status */

static void fill_error(FM_PB(MoverStatus) * s, const struct fm_error *e)
{
	s->error_code = e->code;
	fm_pb_set(&s->error_message, e->message);
	fm_pb_set(&s->error_hint, e->hint);
	fm_pb_set(&s->error_phase, e->phase);
}

static void fill_pause(FM_PB(MoverStatus) * s, const struct fm_mover *m)
{
	s->pause = FM_PB_NEW(Pause, pause);
	s->pause->since_unix_ms = m->pause.since_unix_ms;
	s->pause->pages_missing = m->pages_total - m->pages_done;
	_fm_free_ char *down = m->pause.reason[0] ? NULL : fm_xasprintf("the connection to '%s' is down", m->peer);
	fm_pb_set(&s->pause->reason, down ? down : m->pause.reason);
}

/* Asked while other threads work on the mover: by what was published, which is nothing before the instance stands and after it was let go. */
static bool tree_alive(struct fm_mover *m)
{
	pthread_mutex_lock(&m->lock);
	struct fm_local view = m->view;
	bool finished = m->finished;
	pthread_mutex_unlock(&m->lock);
	if (finished)
		return false;
	if (m->destination && !view.nested)
		return fm_destination_tree_alive(m);
	return view.pid1 > 0 && fm_local_app_pid(&view) > 0;
}

static FM_PB(MoverStatus) * status_of(struct fm_mover *m)
{
	FM_PB(MoverStatus) *s = FM_PB_NEW(MoverStatus, mover_status);
	fm_pb_set(&s->migration_id, m->id);
	fm_pb_set(&s->role, m->destination ? "destination" : "source");
	s->decision = (FM_PB(Decision))(m->journal ? fm_journal_decision(m->journal) : FM_DECISION_UNKNOWN);
	s->ran = m->journal && fm_journal_ran(m->journal);
	s->alive = tree_alive(m);
	if (m->destination && !m->finished)
		fm_pages_refresh(m);
	pthread_mutex_lock(&m->lock);
	fm_pb_set(&s->step, m->step);
	s->pages_total = m->pages_total;
	s->pages_done = m->pages_done;
	s->throttle_percent = m->throttled_percent;
	s->dirty_bytes_per_s = m->dirty_bytes_per_s;
	s->compressibility = m->compressibility;
	s->frozen_us = m->frozen_us;
	s->wire_bytes = m->wire_bytes + (m->control ? fm_stream_bytes(m->control) : 0) + (m->pages ? fm_stream_bytes(m->pages) : 0);
	s->stream_up = m->pages != NULL;
	for (size_t i = 0; i < m->n_phases; i++) {
		FM_PB(Phase) *p = FM_PB_NEW(Phase, phase);
		fm_pb_set(&p->name, m->phases[i].name);
		p->duration_us = m->phases[i].us;
		FM_PB_ADD(s->phases, s->n_phases, p);
	}
	for (char **n = m->notes; n && *n; n++)
		fm_pb_add_string(&s->notes, &s->n_notes, *n);
	if (m->error.code != FM_OK)
		fill_error(s, &m->error);
	else if (m->pause.since_unix_ms)
		fill_pause(s, m);
	pthread_mutex_unlock(&m->lock);
	return s;
}

static void wait_change(struct fm_mover *m, uint64_t known, uint32_t wait_ms)
{
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += wait_ms / 1000;
	until.tv_nsec += (long)(wait_ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	pthread_mutex_lock(&m->lock);
	while (m->pages_done == known && !m->finished && m->error.code == FM_OK)
		if (pthread_cond_timedwait(&m->changed, &m->lock, &until) != 0)
			break;
	pthread_mutex_unlock(&m->lock);
}

/*
 * No journal: never heard of, concluded, or lost. A lost one must not pass for "nothing happened": an instance with the migration's name on it is a copy that may have served.
 */
static int status_without_journal(struct fm_movers *ms, const char *id, FM_PB(MoverStatus) * *ret, struct fm_error *err)
{
	struct fm_local l __attribute__((cleanup(fm_local_done))) = FM_LOCAL_INIT;
	char instance[128];
	if (fm_instances_of_migration(ms->h, id, instance, sizeof(instance), err) < 0)
		return -1;
	FM_PB(MoverStatus) *s = FM_PB_NEW(MoverStatus, mover_status);
	fm_pb_set(&s->migration_id, id);
	if (instance[0]) {
		fm_pb_set(&s->role, "destination");
		fm_pb_set(&s->step, "pages complete");
		s->decision = FLEXIMIGRATE__V1__DECISION__COMMITTED;
		s->ran = true;
		s->alive = fm_instances_open(ms->h, instance, &l, NULL) == 0 && fm_local_app_pid(&l) > 0;
	}
	*ret = s;
	return 0;
}

int fm_movers_status(struct fm_movers *ms, const FM_PB(StatusRequest) * req, FM_PB(MoverStatus) * *ret, struct fm_error *err)
{
	struct fm_mover *m = acquire(ms, req->migration_id);
	if (!m)
		return status_without_journal(ms, req->migration_id, ret, err);
	if (req->wait_ms)
		wait_change(m, req->known_pages_done, req->wait_ms < 10000 ? req->wait_ms : 10000);
	*ret = status_of(m);
	release_ref(ms, &m);
	return 0;
}

/* ---------------------------------------------------------------- execute, verify, release, abort */

static struct fm_mover *acquire_or_fail(struct fm_movers *ms, const char *id, struct fm_error *err)
{
	struct fm_mover *m = acquire(ms, id);
	if (!m)
		(void)fm_error_set(err, FM_E_NOT_FOUND, "host '%s' knows no migration %s", ms->h->name, id);
	return m;
}

int fm_movers_execute(struct fm_movers *ms, const FM_PB(ExecuteRequest) * req, FM_PB(MoverStatus) * *ret, struct fm_error *err)
{
	struct fm_mover *m = acquire_or_fail(ms, req->migration_id, err);
	if (!m)
		return -1;
	begin_exclusive(m);
	struct fm_error e = FM_ERROR_INIT;
	int rc = 0;
	if (m->destination || m->finished || req->epoch != m->epoch || fm_journal_decision(m->journal) != FM_DECISION_PREPARED)
		rc = fm_error_set(err, FM_E_FAILED_PRECONDITION, "migration %s is not prepared as a source on '%s'", req->migration_id,
		                  ms->h->name);
	else if ((m->execute = fm_pb_copy(req)) && fm_source_execute(m, fm_now_ms() + (req->timeout_ms ? req->timeout_ms : 120000), &e) < 0)
		(void)fm_mover_fail(m, &e);
	if (rc == 0) {
		*ret = status_of(m);
		if (fm_journal_decision(m->journal) == FM_DECISION_ABORTED)
			(void)finish(m, NULL);
	}
	end_exclusive(m);
	release_ref(ms, &m);
	return rc;
}

int fm_movers_verify(struct fm_movers *ms, const FM_PB(VerifyRequest) * req, FM_PB(VerifyResponse) * *ret, struct fm_error *err)
{
	struct fm_mover *m = acquire_or_fail(ms, req->migration_id, err);
	if (!m)
		return -1;
	_fm_pb_ FM_PB(VerifyResponse) *resp = FM_PB_NEW(VerifyResponse, verify_response);
	int rc = m->destination && !m->finished ? fm_destination_verify(m, req, resp, err)
	                                        : fm_error_set(err, FM_E_FAILED_PRECONDITION, "'%s' is not the destination of migration %s",
	                                                       ms->h->name, req->migration_id);
	if (rc == 0)
		*ret = FM_TAKE_PTR(resp);
	release_ref(ms, &m);
	return rc;
}

int fm_movers_release(struct fm_movers *ms, const char *migration_id, struct fm_error *err)
{
	struct fm_mover *m = acquire(ms, migration_id);
	if (!m)
		return 0; /* released before, and forgotten by a restart */
	begin_exclusive(m);
	int rc = 0;
	if (!m->finished) {
		rc = m->destination ? fm_destination_release(m, err) : fm_source_release(m, err);
		if (rc == 0)
			rc = finish(m, err);
	}
	end_exclusive(m);
	release_ref(ms, &m);
	give_back_memory(ms);
	return rc;
}

int fm_movers_abort(struct fm_movers *ms, const FM_PB(AbortRequest) * req, FM_PB(AbortResponse) * *ret, struct fm_error *err)
{
	_fm_pb_ FM_PB(AbortResponse) *resp = FM_PB_NEW(AbortResponse, abort_response);
	struct fm_mover *m = acquire(ms, req->migration_id);
	if (!m) {
		char instance[128];
		if (fm_instances_of_migration(ms->h, req->migration_id, instance, sizeof(instance), err) < 0)
			return -1;
		if (instance[0]) {
			(void)fm_error_set(err, FM_E_FAILED_PRECONDITION,
			                   "host '%s' has no journal of migration %s, but the instance '%s' that it made", ms->h->name,
			                   req->migration_id, instance);
			return fm_error_hint(err, "look at it; 'fleximigrate container rm' removes it if it is the wrong copy");
		}
		resp->source_running = true; /* nothing of that migration is here: nothing of it is stopped */
		*ret = FM_TAKE_PTR(resp);
		return 0;
	}
	bool committed = !m->destination && m->journal && fm_journal_decision(m->journal) == FM_DECISION_COMMITTED;
	pthread_mutex_lock(&m->lock);
	if (!committed && !m->finished)
		fm_stop_request(&m->stop); /* wakes a prepare or execute that is under way */
	pthread_mutex_unlock(&m->lock);
	begin_exclusive(m);
	int rc = 0;
	if (!m->finished && !m->journal) { /* before its preparation has begun, which finds it so */
		pthread_mutex_lock(&m->lock);
		end_locked(m);
		pthread_mutex_unlock(&m->lock);
	} else if (!m->finished) {
		rc = m->destination ? fm_destination_abort(m, err) : fm_source_abort(m, req->destination_is_dead, err);
		if (rc == 0)
			rc = finish(m, err);
	}
	for (char **n = m->notes; n && *n; n++)
		fm_pb_add_string(&resp->undone, &resp->n_undone, *n);
	resp->source_running = !m->destination && rc == 0;
	end_exclusive(m);
	if (rc == 0)
		*ret = FM_TAKE_PTR(resp);
	release_ref(ms, &m);
	give_back_memory(ms);
	return rc;
}

/* ---------------------------------------------------------------- questions */

const char *fm_movers_instance_role(struct fm_movers *ms, const char *instance)
{
	const char *role = NULL;
	pthread_mutex_lock(&ms->lock);
	for (size_t i = 0; i < ms->n && !role; i++) {
		struct fm_mover *m = ms->v[i];
		enum fm_decision d = m->journal ? fm_journal_decision(m->journal) : FM_DECISION_UNKNOWN;
		if (m->finished || !fm_streq(m->instance, instance))
			continue;
		if (m->destination && d != FM_DECISION_COMMITTED && d != FM_DECISION_RELEASED)
			role = "incoming";
		else if (!m->destination && (d == FM_DECISION_COMMITTED || d == FM_DECISION_RELEASED))
			role = "outgoing";
	}
	pthread_mutex_unlock(&ms->lock);
	return role;
}

void fm_movers_figures(struct fm_movers *ms, struct fm_mover_figures *ret)
{
	struct fm_mover *busy[MAX_MOVERS];
	size_t n = 0;
	pthread_mutex_lock(&ms->lock);
	*ret = ms->forgotten;
	for (size_t i = 0; i < ms->n; i++)
		if (ms->v[i]->finished) {
			count(ms->v[i], ret);
		} else {
			ms->v[i]->users++;
			busy[n++] = ms->v[i];
		}
	pthread_mutex_unlock(&ms->lock);
	/* Without the list's lock: these may be waiting for a disk, and nobody else is to wait with them. */
	for (size_t i = 0; i < n; i++) {
		count(busy[i], ret);
		release_ref(ms, &busy[i]);
	}
}

bool fm_movers_holds(struct fm_movers *ms, const char *container)
{
	bool held = false;
	pthread_mutex_lock(&ms->lock);
	for (size_t i = 0; i < ms->n; i++)
		held = held || (!ms->v[i]->finished && fm_streq(ms->v[i]->container, container));
	pthread_mutex_unlock(&ms->lock);
	return held;
}

void fm_movers_ids(struct fm_movers *ms, char ***ret)
{
	pthread_mutex_lock(&ms->lock);
	for (size_t i = 0; i < ms->n; i++)
		if (!ms->v[i]->finished)
			fm_strv_add(ret, ms->v[i]->id);
	pthread_mutex_unlock(&ms->lock);
}
