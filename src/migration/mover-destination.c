/* SPDX-License-Identifier: MIT */
/*
 * mover-destination.c - taking a container.
 *
 * Prepare makes the endpoints (closed) and listens for the source. The accept thread takes page streams at any time (the source may reconnect) and starts one
 * control session, which follows the source: files, parent container, changed files, images, restore, commit.
 *
 * Between COMMIT and the first instruction: the record COMMITTED{ran} comes first (a kernel socket behind an open port may acknowledge data, so from then on we may not claim that nothing
 * ran), then neighbours, port open, announcement, and last CRIU goes on.
 */
#include "migration/mover-internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "container/root.h"
#include "migration/keeper.h"
#include "migration/restore-gate.h"
#include "migration/revisit-files.h"

#define FILES_TIMEOUT_MS       600000
#define EXECUTE_WAIT_MS        3600000 /* between PREPARED and the first frame of the freeze: the manager's own limits apply */
#define RESTORE_TIMEOUT_MS     120000
#define COMMIT_TIMEOUT_MS      30000
#define CRIU_TIMEOUT_MS        30000
#define CRIU_ORPHAN_TIMEOUT_MS 3000
#define HELLO_TIMEOUT_MS       5000
#define REVERT_TIMEOUT_MS      1000

static int send_frame(struct fm_mover *m, enum fm_frame type, uint64_t a, struct fm_error *err)
{
	return fm_stream_send(m->control, type, a, 0, NULL, 0, COMMIT_TIMEOUT_MS, err);
}

/* ---------------------------------------------------------------- the parent */

static pid_t highest(const FM_PB(PrepareDestinationRequest) * r)
{
	pid_t max = FM_NEST_FIRST_PID;
	for (size_t i = 0; i < r->n_busy_pids; i++)
		max = r->busy_pids[i] > max ? r->busy_pids[i] : max;
	return max;
}

static int start_criu(struct fm_mover *m, struct fm_error *err)
{
	struct fm_criu_start_opts o = { .ns_pid = m->local.pid1, .join_cgroups = true, .images_dirfd = m->images_fd };
	struct fm_proc_id id;
	/* CRIU itself takes pids in the parent: above those that the tree needs, with room for what the tree may fork until it is frozen. */
	o.avoid_pid = highest(m->request) + 4096;
	if (fm_criu_start(&m->h->criu, &o, &m->criu, err) < 0)
		return fm_error_phase(err, "criu");
	if (fm_proc_identify(fm_criu_pid(m->criu), &id, err) < 0)
		return -1;
	_fm_free_ char *text = fm_xasprintf("%d:%llu", (int)id.pid, (unsigned long long)id.start_ticks);
	return fm_journal_note(m->journal, "criu", text, err);
}

static struct fm_criu_restore_opts restore_options(struct fm_mover *m)
{
	return (struct fm_criu_restore_opts){ .lazy = m->lazy, .timeout_ms = RESTORE_TIMEOUT_MS, .cancel_fd = m->stop.fd, .log_level = 1 };
}

/* What is received from now on goes to where the runtime has put what was received. */
static int follow_root(struct fm_mover *m, struct fm_error *err)
{
	if (!fm_local_owns_root(m->h, &m->local))
		return 0;
	if (fm_root_open(m->local.pid1, &m->root_fd, err) < 0)
		return -1;
	_fm_free_ char *path = fm_root_path(m->root_fd);
	return fm_snprintf(m->rootfs, sizeof(m->rootfs), err, "%s", path);
}

static int stand_parent(struct fm_mover *m, struct fm_error *err)
{
	struct fm_bringup b = { .instance = m->instance,
		                .config = m->config,
		                .rootfs = m->rootfs,
		                .migration_id = m->id,
		                .wait = true,
		                .container = m->description };
	fm_mover_step(m, "parent");
	if (fm_bringup_instance(m->h, m->journal, &b, &m->local, m->endpoints, err) < 0 || follow_root(m, err) < 0)
		return fm_error_phase(err, "parent");
	fm_mover_publish(m);
	if (m->local.nested && start_criu(m, err) < 0)
		return -1;
	if (m->lazy && fm_pages_start(m, err) < 0)
		return fm_error_phase(err, "pages");
	if (m->local.nested) {
		struct fm_criu_restore_opts o = restore_options(m);
		if (fm_criu_restore_prepare(m->criu, &o, err) < 0)
			return fm_error_phase(err, "criu");
	}
	if (fm_journal_decide(m->journal, FM_DECISION_PREPARED, false, err) < 0)
		return -1;
	fm_mover_step(m, "prepared");
	return fm_mover_fault(m, "destination-after-prepare", err);
}

/* ---------------------------------------------------------------- restore and commit */

static int receive_neighbours(struct fm_mover *m, uint8_t *buf, struct fm_error *err)
{
	struct fm_frame_header h;
	if (fm_stream_expect(m->control, FM_FRAME_NEIGHBOURS, &h, buf, FM_MAX_FRAME_BYTES, RESTORE_TIMEOUT_MS, m->stop.fd, err) < 0)
		return -1;
	return fm_neighbours_decode(buf, h.length, h.a, m->local.n_endpoints, m->neighbours, &m->n_neighbours, err);
}

static int restore_begin(struct fm_mover *m, struct fm_restore_gate **gate, struct fm_error *err)
{
	struct fm_criu_restore_opts o = restore_options(m);
	if (!m->local.nested)
		return fm_restore_gate_begin(m->h, m->instance, m->images_path, m->local.dir, RESTORE_TIMEOUT_MS, m->stop.fd, gate, err);
	return fm_criu_restore_begin(m->criu, &o, &m->root, err);
}

static void restore_abort(struct fm_mover *m, struct fm_restore_gate *gate)
{
	if (m->local.nested)
		(void)fm_criu_restore_abort(m->criu, CRIU_TIMEOUT_MS, NULL);
	else
		fm_restore_gate_abort(gate);
}

static int restore_finish(struct fm_mover *m, struct fm_restore_gate *gate, struct fm_error *err)
{
	if (!m->local.nested)
		return fm_restore_gate_commit(gate, CRIU_TIMEOUT_MS, &m->root, err);
	if (fm_criu_restore_commit(m->criu, CRIU_TIMEOUT_MS, err) < 0)
		return -1;
	pid_t ns_pid = 0;
	if (fm_proc_ns_pid(m->root, &ns_pid, err) < 0)
		return fm_error_prefix(err, "the restored application ended at once");
	return fm_nest_adopt(m->local.control_dir, ns_pid, err);
}

/* It was here before, perhaps, and what it left for its old connections would lead away from it. */
static void forget_old_ways(struct fm_mover *m)
{
	char **addresses = NULL;
	fm_local_addresses(&m->local, &addresses);
	if (addresses)
		fm_keeper_arriving(m->h->keeper, addresses);
	fm_strv_free(addresses);
}

/* The way back of a rollback: what this host, then the source, did in the switch-over. The manager does it again, so that a failure here costs time only. */
static void revert_urgent(struct fm_mover *m)
{
	struct fm_redirect_call c = { .deadline_ms = fm_now_ms() + REVERT_TIMEOUT_MS, .cancel_fd = -1, .secrets_dir = m->h->secrets_dir };
	for (size_t i = 0; m->request && i < m->request->n_reverts; i++) {
		struct fm_error e = FM_ERROR_INIT;
		if (fm_redirection_step(&c, m->request->reverts[i], FLEXIMIGRATE__V1__REDIRECTION_STEP__REDIRECTION_REVERTED, NULL, &e) < 0)
			fm_mover_note(m, "%s", e.message);
	}
}

static int open_port(struct fm_mover *m, struct fm_error *err)
{
	forget_old_ways(m);
	revert_urgent(m);
	fm_flows_restore(m);
	if (fm_endpoints_set_neighbours(m->endpoints, m->neighbours, m->n_neighbours, err) < 0 || fm_endpoints_open(m->endpoints, err) < 0)
		return -1;
	return fm_endpoints_announce(m->endpoints, err);
}

static int await_commit(struct fm_mover *m, uint8_t *buf, struct fm_error *err)
{
	struct fm_frame_header h;
	if (fm_stream_recv(m->control, &h, buf, FM_MAX_FRAME_BYTES, COMMIT_TIMEOUT_MS, m->stop.fd, err) < 0)
		return fm_error_prefix(err, "no word from the source about the commit");
	if (h.type == FM_FRAME_FLOWS) /* once, and then the word about the commit */
		return fm_flows_take(m, buf, h.length, err) < 0 ? -1 : await_commit(m, buf, err);
	if (h.type == FM_FRAME_COMMIT)
		return 0;
	if (h.type == FM_FRAME_ABORT)
		return fm_error_set(err, FM_E_ABORTED, "the source gave the migration up");
	return fm_error_set(err, FM_E_DATA_LOSS, "the source sent %s where COMMIT belongs", fm_frame_to_string(h.type));
}

/* The pages of a small tree may all be here before this is said: the manager waits for the word that they are. */
static void step_running(struct fm_mover *m)
{
	pthread_mutex_lock(&m->lock);
	if (!fm_streq(m->step, "pages complete"))
		(void)snprintf(m->step, sizeof(m->step), "running");
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
}

/* After COMMIT: run. An error before the tree can have run is reported as "never ran". */
static int take_over(struct fm_mover *m, struct fm_restore_gate *gate, struct fm_error *err)
{
	uint64_t t = fm_now_us();
	if (fm_journal_decide(m->journal, FM_DECISION_COMMITTED, true, err) < 0) {
		restore_abort(m, gate);
		return -1;
	}
	if (fm_mover_fault(m, "destination-after-commit", err) < 0 || open_port(m, err) < 0) {
		restore_abort(m, gate);
		return fm_error_phase(err, "switch-over");
	}
	if (restore_finish(m, gate, err) < 0)
		return fm_error_phase(err, "resume");
	(void)fm_endpoints_announce(m->endpoints, NULL); /* once more: the first may have met a busy switch */
	step_running(m);
	atomic_store(&m->resumed, true);
	int rc = send_frame(m, FM_FRAME_RUNNING, fm_now_us() - t, err);
	/* The source waits for that word, and this for the keeper. */
	fm_keeper_opened(m->h->keeper, m->local.endpoints, m->local.n_endpoints, m->local.netns_path);
	return rc < 0 ? -1 : fm_mover_fault(m, "destination-after-running", err);
}

static int restore(struct fm_mover *m, uint8_t *buf, struct fm_error *err)
{
	struct fm_restore_gate *gate = NULL;
	uint64_t t = fm_now_us();
	fm_mover_step(m, "restore");
	if (fm_mover_fault(m, "destination-before-restore", err) < 0)
		return -1;
	if (restore_begin(m, &gate, err) < 0)
		return fm_error_phase(err, "restore");
	/* CRIU does not wait for its userfaultfds to be kept by the nest: the commit does. */
	if (m->pager && fm_pager_wait_kept(m->pager, COMMIT_TIMEOUT_MS, m->stop.fd, err) < 0) {
		restore_abort(m, gate);
		fm_restore_gate_free(gate);
		return fm_error_phase(err, "pages");
	}
	_fm_free_ char *root = fm_xasprintf("%d", (int)m->root);
	if (fm_journal_note(m->journal, "root", root, err) < 0 || fm_journal_decide(m->journal, FM_DECISION_RESTORED, false, err) < 0 ||
	    fm_mover_fault(m, "destination-after-restore", err) < 0 || send_frame(m, FM_FRAME_RESTORED, fm_now_us() - t, err) < 0 ||
	    await_commit(m, buf, err) < 0) {
		restore_abort(m, gate);
		fm_restore_gate_free(gate);
		return -1;
	}
	fm_mover_phase(m, "restore", fm_now_us() - t);
	int rc = take_over(m, gate, err);
	if (fm_journal_decision(m->journal) == FM_DECISION_COMMITTED)
		fm_volumes_came(m);
	fm_restore_gate_free(gate);
	return rc;
}

/* ---------------------------------------------------------------- the control session */

/* What is here from an earlier visit need not be sent; without it the source is told so. */
static int offer_files(struct fm_mover *m, struct fm_error *err)
{
	struct timespec since = { 0 };
	uint64_t t = fm_now_us();
	int fd = -1;
	fm_revisit_files_open(m->h, m->container, &fd, &since);
	if (fd >= 0 && fm_known_scan(fd, &since, m->stop.fd, &m->known, err) < 0)
		return -1;
	if (m->known)
		fm_mover_phase(m, "files-known", fm_now_us() - t);
	return fm_known_offer(m->control, m->known, FILES_TIMEOUT_MS, m->stop.fd, err);
}

static int receive_files(struct fm_mover *m, struct fm_known *known, int durable, int timeout_ms, struct fm_error *err)
{
	int rc = fm_filetree_recv_known(m->control, known, m->rootfs, durable, FM_MOVER_IMAGES_MAX_BYTES, timeout_ms, m->stop.fd, err);
	if (fm_known_is_bad(known))
		(void)fm_revisit_files_remove(m->h, m->container, NULL);
	return rc;
}

static int follow_source(struct fm_mover *m, uint8_t *buf, struct fm_error *err)
{
	uint64_t bytes = 0;
	fm_mover_step(m, "files");
	if (offer_files(m, err) < 0 || receive_files(m, m->known, 1, FILES_TIMEOUT_MS, err) < 0)
		return fm_error_phase(err, "files");
	if (fm_volumes_receive(m, buf, true, FILES_TIMEOUT_MS, err) < 0 || fm_mover_fault(m, "destination-after-files", err) < 0 ||
	    fm_volumes_place(m, err) < 0)
		return fm_error_phase(err, "files");
	(void)eventfd_write(m->files_here_fd, 1);
	if (fm_bringup_addresses(m->endpoints, err) < 0 || stand_parent(m, err) < 0 || send_frame(m, FM_FRAME_PREPARED, 0, err) < 0)
		return -1;
	if (fm_memory_files_receive(m, buf, FILES_TIMEOUT_MS, FILES_TIMEOUT_MS, err) < 0)
		return fm_error_phase(err, "memory-files");
	/* Twice more: just before the freeze and inside it (mover-source.c, enum pass). */
	if (receive_files(m, m->known, 0, EXECUTE_WAIT_MS, err) < 0 || fm_volumes_receive(m, buf, false, RESTORE_TIMEOUT_MS, err) < 0 ||
	    fm_memory_files_receive(m, buf, RESTORE_TIMEOUT_MS, RESTORE_TIMEOUT_MS, err) < 0 ||
	    receive_files(m, NULL, 0, RESTORE_TIMEOUT_MS, err) < 0 || fm_volumes_receive(m, buf, false, RESTORE_TIMEOUT_MS, err) < 0 ||
	    fm_memory_files_receive(m, buf, RESTORE_TIMEOUT_MS, RESTORE_TIMEOUT_MS, err) < 0)
		return fm_error_phase(err, "files");
	fm_mover_step(m, "images");
	if (fm_images_recv(m->control, m->images_fd, FM_MOVER_IMAGES_MAX_BYTES, NULL, buf, &bytes, RESTORE_TIMEOUT_MS, m->stop.fd, err) < 0)
		return fm_error_phase(err, "transfer");
	struct fm_frame_header h;
	if (receive_neighbours(m, buf, err) < 0 ||
	    fm_stream_expect(m->control, FM_FRAME_RESTORE, &h, buf, FM_MAX_FRAME_BYTES, RESTORE_TIMEOUT_MS, m->stop.fd, err) < 0)
		return fm_error_phase(err, "transfer");
	fm_thread_haste(FM_HASTE_HURRIED);
	int rc = restore(m, buf, err);
	fm_thread_haste(FM_HASTE_USUAL);
	return rc;
}

/* The source reads our error when it has sent what it is sending. Were nobody to take that, it would be stuck in it until the connection counts as dead. */
static void drain(struct fm_mover *m, uint8_t *buf)
{
	struct fm_frame_header h;
	while (fm_stream_recv(m->control, &h, buf, FM_MAX_FRAME_BYTES, -1, m->stop.fd, NULL) == 0)
		;
}

static void *control_session(void *arg)
{
	struct fm_mover *m = arg;
	struct fm_error err = FM_ERROR_INIT;
	uint8_t *buf = malloc(FM_MAX_FRAME_BYTES);
	int rc = buf ? follow_source(m, buf, &err) : fm_error_set(&err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	if (rc < 0) {
		(void)fm_mover_fail(m, &err);
		fm_stream_send_error(m->control, &err);
		/* Nothing ran: undo at once, the manager's Abort will find it done. */
		if (fm_journal_decision(m->journal) != FM_DECISION_COMMITTED)
			(void)fm_journal_abort(m->journal, NULL);
		if (buf)
			drain(m, buf);
	}
	free(buf);
	return NULL;
}

static int start_control(struct fm_mover *m, struct fm_stream *s, struct fm_error *err)
{
	if (m->control_started)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "migration %s has its control stream already", m->id);
	m->control = s;
	int rc = pthread_create(&m->control_thread, NULL, control_session, m);
	if (rc != 0) {
		m->control = NULL;
		return fm_error_errno(err, rc, "cannot start a thread for the control stream");
	}
	m->control_started = true;
	return 0;
}

static void take_pages(struct fm_mover *m, struct fm_stream *s)
{
	pthread_mutex_lock(&m->lock);
	struct fm_stream *old = m->pages;
	m->pages = s;
	if (m->pager)
		(void)fm_pager_set_stream(m->pager, s, NULL);
	if (old) {
		m->wire_bytes += fm_stream_bytes(old);
		fm_stream_free(old);
	}
	pthread_mutex_unlock(&m->lock);
}

static void *accept_streams(void *arg)
{
	struct fm_mover *m = arg;
	while (!fm_stop_requested(&m->stop)) {
		struct fm_stream_hello what;
		struct fm_stream *s = NULL;
		int fd = -1;
		if (fm_accept(m->listen_fd, -1, m->stop.fd, &fd, NULL) < 0)
			continue;
		if (fm_stream_accept(fd, fm_mover_tls(m), m->token, m->id, HELLO_TIMEOUT_MS, &what, &s, NULL) < 0)
			continue; /* a stranger: refused, nothing changed */
		if (what.role == FM_STREAM_PAGES && m->lazy)
			take_pages(m, s);
		else if (what.role == FM_STREAM_PUSH)
			(void)fm_incoming_take(m, s, &what, NULL);
		else if (what.role != FM_STREAM_CONTROL || start_control(m, s, NULL) < 0)
			fm_stream_free(s);
	}
	return NULL;
}

/* ---------------------------------------------------------------- prepare */

static int listen_for_source(struct fm_mover *m, const char *address, struct fm_error *err)
{
	uint16_t port = 0;
	if (fm_tcp_listen(address, 8 + FM_MAX_PUSH_STREAMS, &m->listen_fd, err) < 0 || fm_tcp_local_port(m->listen_fd, &port, err) < 0)
		return -1;
	(void)snprintf(m->stream_address, sizeof(m->stream_address), "%s:%u", m->h->stream_host, port);
	if (fm_journal_note(m->journal, "stream_address", m->stream_address, err) < 0)
		return -1;
	int rc = pthread_create(&m->thread, NULL, accept_streams, m);
	if (rc != 0)
		return fm_error_errno(err, rc, "cannot start the thread for incoming streams");
	m->thread_started = true;
	return 0;
}

/* Under which runtime it will run here; on record with the container. */
static int choose_runtime(struct fm_mover *m, struct fm_error *err)
{
	struct fm_runtime *rt;
	if (fm_host_choose_runtime(m->h, m->request->runtime, m->description->runtime, &rt, err) < 0)
		return fm_error_prefix(err, "destination '%s'", m->h->name);
	if (!fm_streq(m->description->kind, "nested") && fm_host_runtime(m->h, "", &rt, err) < 0)
		return -1;
	fm_pb_set(&m->description->runtime, rt->ops->name);
	return 0;
}

static int check_request(struct fm_mover *m, struct fm_error *err)
{
	struct fm_local other = FM_LOCAL_INIT;
	if (m->h->criu_problem.code != FM_OK) {
		*err = m->h->criu_problem;
		return fm_error_prefix(err, "destination '%s'", m->h->name);
	}
	if (!fm_streq(m->description->kind, "nested") && fm_host_ordinary_problem()) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "destination '%s': %s", m->h->name, fm_host_ordinary_problem());
		return fm_error_hint(err, "install it there: apt-get install iptables");
	}
	struct fm_bundle_info info = { 0 };
	if (fm_bundle_parse(m->config, "/", &info, err) < 0)
		return -1;
	fm_bundle_info_done(&info);
	if (fm_instances_open(m->h, m->instance, &other, NULL) == 0) {
		fm_local_done(&other);
		return fm_error_set(err, FM_E_ALREADY_EXISTS, "host '%s' already has an instance '%s'", m->h->name, m->instance);
	}
	return 0;
}

int fm_destination_prepare(struct fm_mover *m, FM_PB(PrepareDestinationResponse) * resp, struct fm_error *err)
{
	struct fm_bringup b = { .instance = m->instance, .config = m->config, .rootfs = m->rootfs, .container = m->description };
	fm_mover_step(m, "prepare");
	if (check_request(m, err) < 0 || choose_runtime(m, err) < 0 || fm_volumes_prepare_destination(m, err) < 0 ||
	    fm_mover_mount_images(m, err) < 0)
		return -1;
	if (fm_journal_intent(m->journal, "instance", m->instance, true, err) < 0 || fm_mkdir_p(m->rootfs, 0755, err) < 0)
		return -1;
	if (fm_bringup_network(m->h, m->journal, &b, &m->local, &m->endpoints, &m->notes, err) < 0)
		return -1;
	fm_flows_open(m);
	m->files_here_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->files_here_fd < 0)
		return fm_error_errno(err, errno, "eventfd");
	_fm_free_ char *any = fm_xasprintf("%s:0", m->h->stream_host);
	if (listen_for_source(m, any, err) < 0)
		return -1;
	fm_pb_set(&resp->stream_address, m->stream_address);
	fm_pb_set(&resp->token, m->token);
	fm_pb_set(&resp->instance, m->instance);
	/* Told once: what Abort tells is what it has undone. */
	resp->network_notes = m->notes;
	resp->n_network_notes = fm_strv_len(m->notes);
	m->notes = NULL;
	return 0;
}

/* ---------------------------------------------------------------- verify */

bool fm_destination_tree_alive(struct fm_mover *m)
{
	if (!m->local.nested) {
		struct fm_instance i;
		return m->h->runtime->ops->state(m->h->runtime, m->instance, &i, NULL) == 0 && i.status == FM_CONTAINER_RUNNING;
	}
	return fm_local_app_pid(&m->local) > 0;
}

static bool listens(const struct fm_listener *v, size_t n, const FM_PB(Listener) * want)
{
	for (size_t i = 0; i < n; i++)
		if (v[i].port == want->port && fm_streq(v[i].address, want->address))
			return true;
	return false;
}

static int check_listeners(struct fm_mover *m, const FM_PB(VerifyRequest) * req, struct fm_error *err)
{
	_fm_free_ struct fm_listener *v = NULL;
	size_t n = 0;
	struct fm_instance i;
	if (m->h->runtime->ops->state(m->h->runtime, m->instance, &i, err) < 0 || fm_listeners(i.pid, &v, &n, err) < 0)
		return -1;
	for (size_t k = 0; k < req->n_listeners; k++)
		if (!listens(v, n, req->listeners[k]))
			return fm_error_set(err, FM_E_FAILED_PRECONDITION, "nothing listens on %s:%u any more", req->listeners[k]->address,
			                    req->listeners[k]->port);
	return 0;
}

static int await_pages(struct fm_mover *m, int timeout_ms, struct fm_error *err)
{
	uint64_t deadline = fm_now_ms() + (uint64_t)timeout_ms;
	while (m->lazy) {
		fm_pages_refresh(m);
		pthread_mutex_lock(&m->lock);
		bool done = m->pages_total == m->pages_done && fm_streq(m->step, "pages complete");
		uint64_t missing = m->pages_total - m->pages_done;
		pthread_mutex_unlock(&m->lock);
		if (done)
			return 0;
		if (!fm_deadline_left_ms(deadline))
			return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "%llu pages are still missing", (unsigned long long)missing);
		if (!fm_destination_tree_alive(m))
			return fm_error_set(err, FM_E_DATA_LOSS, "the application of '%s' has ended on '%s'", m->container, m->h->name);
		(void)fm_wait_fd(m->stop.fd, POLLIN, 20, NULL);
		if (fm_stop_requested(&m->stop))
			return fm_error_set(err, FM_E_CANCELLED, "the agent is stopping");
	}
	return 0;
}

int fm_destination_verify(struct fm_mover *m, const FM_PB(VerifyRequest) * req, FM_PB(VerifyResponse) * resp, struct fm_error *err)
{
	uint64_t t = fm_now_us();
	if (fm_journal_decision(m->journal) != FM_DECISION_COMMITTED)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "migration %s has not been committed on '%s'", m->id, m->h->name);
	if (!fm_destination_tree_alive(m))
		return fm_error_set(err, FM_E_DATA_LOSS, "the application of '%s' does not run on '%s'", m->container, m->h->name);
	if (fm_mover_fault(m, "destination-verify", err) < 0 || check_listeners(m, req, err) < 0)
		return -1;
	if (await_pages(m, req->timeout_ms ? (int)req->timeout_ms : 60000, err) < 0)
		return fm_error_phase(err, "pages");
	if (fm_volumes_sync(m, err) < 0)
		return fm_error_phase(err, "files");
	resp->ok = true;
	resp->latency_us = fm_now_us() - t;
	fm_pb_set(&resp->detail, m->lazy ? "process alive, sockets listening, all pages present" : "process alive, sockets listening");
	return 0;
}

/* ---------------------------------------------------------------- release, abort, recovery */

static void stop_threads(struct fm_mover *m)
{
	fm_stop_request(&m->stop);
	if (m->control)
		fm_stream_shutdown(m->control);
	if (m->thread_started)
		pthread_join(m->thread, NULL);
	if (m->control_started)
		pthread_join(m->control_thread, NULL);
	m->thread_started = m->control_started = false;
	fm_pages_stop(m);
	fm_mover_drop_streams(m);
	if (m->listen_fd >= 0)
		(void)close(m->listen_fd);
	m->listen_fd = -1;
}

int fm_destination_release(struct fm_mover *m, struct fm_error *err)
{
	enum fm_decision d = fm_journal_decision(m->journal);
	if (d != FM_DECISION_COMMITTED && d != FM_DECISION_RELEASED)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "migration %s has not been committed on '%s'", m->id, m->h->name);
	if (d != FM_DECISION_RELEASED && fm_journal_decide(m->journal, FM_DECISION_RELEASED, true, err) < 0)
		return -1;
	stop_threads(m);
	fm_revisit_pages_forget(m->h->revisit_pages, m->container); /* it came without using it */
	fm_criu_free(m->criu);
	m->criu = NULL;
	fm_known_free(m->known);
	m->known = NULL;
	if (fm_revisit_files_remove(m->h, m->container, err) < 0)
		return -1;
	/* Until now a parent that was started again would have been empty: the source might have had to go on. */
	if (m->local.nested && fm_nest_fence(m->local.control_dir, 0, err) < 0)
		return fm_error_prefix(err, "the parent of '%s' stays one that waits", m->container);
	/* The instance stays: it is a resident now. */
	static const char *const mine[] = { "instance", "netns", "endpoint" };
	for (size_t i = 0; i < FM_ARRAY_SIZE(mine); i++)
		if (fm_journal_forget(m->journal, mine[i], err) < 0)
			return -1;
	if (fm_volumes_release_destination(m, err) < 0 || fm_mover_undo(m, err) < 0)
		return -1;
	fm_mover_step(m, "released");
	return 0;
}

int fm_destination_abort(struct fm_mover *m, struct fm_error *err)
{
	if (fm_journal_abort(m->journal, err) < 0)
		return -1;
	(void)fm_endpoints_close(m->endpoints, NULL);
	stop_threads(m);
	fm_criu_free(m->criu);
	m->criu = NULL;
	int rc = fm_mover_undo(m, err);
	fm_volumes_revert(m);
	fm_mover_note(m, "partial copy of '%s' removed from '%s'", m->container, m->h->name);
	fm_mover_step(m, "aborted");
	return rc;
}

/* The agent died after COMMITTED: does the tree run? Adopt it if the nest does not have it yet. */
static int readopt(struct fm_mover *m, struct fm_error *err)
{
	struct fm_nest_status st;
	const char *text = fm_journal_get(m->journal, "root");
	int root = 0;
	pid_t ns_pid = 0;
	if (!m->local.nested || fm_nest_status(m->local.control_dir, &st, err) < 0)
		return m->local.nested ? -1 : 0;
	if (st.state != FM_NEST_EMPTY)
		return 0;
	/* Told to go on, CRIU finishes without us; else it kills what it restored. Only then is it known which. */
	fm_mover_await_criu(m, CRIU_ORPHAN_TIMEOUT_MS, false);
	if (!text || fm_parse_int(text, 1, 1 << 30, &root, NULL) < 0 || fm_proc_ns_pid(root, &ns_pid, NULL) < 0)
		return fm_error_set(err, FM_E_DATA_LOSS, "the restored application did not survive the agent");
	return fm_nest_adopt(m->local.control_dir, ns_pid, err);
}

int fm_destination_recover(struct fm_mover *m, struct fm_error *err)
{
	struct fm_error e = FM_ERROR_INIT;
	enum fm_decision d = fm_journal_decision(m->journal);
	const char *address = fm_journal_get(m->journal, "stream_address");
	if (fm_instances_open(m->h, m->instance, &m->local, &e) < 0 && e.code != FM_E_NOT_FOUND) {
		*err = e;
		return -1;
	}
	fm_mover_publish(m);
	if (d == FM_DECISION_RELEASED)
		return fm_destination_release(m, err);
	if (d != FM_DECISION_COMMITTED)
		return fm_destination_abort(m, err);
	fm_volumes_came(m);
	if (!m->local.container)
		return 0; /* status says: not alive; the manager decides */
	if (m->local.n_endpoints &&
	    fm_endpoints_new(m->local.endpoints, m->local.n_endpoints, m->local.netns_path, &m->endpoints, NULL) == 0 &&
	    fm_endpoints_attach(m->endpoints, NULL) == 0 && readopt(m, &e) == 0)
		(void)open_port(m, NULL);
	if (e.code != FM_OK)
		(void)fm_mover_fail(m, &e);
	fm_mover_step(m, "running");
	if (m->lazy && fm_pages_recover(m, &e) < 0)
		(void)fm_mover_fail(m, &e);
	return m->lazy && address ? listen_for_source(m, address, err) : 0;
}
