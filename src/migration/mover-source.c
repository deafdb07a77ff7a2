/* SPDX-License-Identifier: MIT */
/*
 * mover-source.c - giving a container away.
 *
 * The freeze, in order (fm_source_execute): intents and FROZEN on record -> fence (endpoints closed inbound: answers that are under way still leave) -> CRIU dump up to post-dump ->
 * SIGSTOP to the tree -> endpoints closed -> neighbours, changed files, images, RESTORE to the destination -> CRIU detaches meanwhile -> RESTORED comes -> COMMITTED on record (the commit point) -> COMMIT -> RUNNING comes.
 * Whatever fails before the commit point is undone here at once, without waiting for the manager: the service comes first.
 *
 * Pages (post-copy) are read from the stopped tree and served by a thread of its own, which reconnects for as long as the destination may need pages.
 */
#include "migration/mover-internal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "container/root.h"

#define CONNECT_TIMEOUT_MS  10000
#define FILES_TIMEOUT_MS    600000
#define RUNNING_TIMEOUT_MS  30000
#define CRIU_END_TIMEOUT_MS 30000
#define REDIRECT_TIMEOUT_MS 1000
#define KEEP_PAGES_MS       1000u /* the migration's end waits for it */
#define RECONNECT_PAUSE_MS  200
#define WARM_PATIENCE_MS    30000 /* nobody waits yet, and the destination may be busy with its disk */
#define FREEZE_PATIENCE_MS  5000  /* clients wait for a destination that fell silent: no longer than they would for a lost packet or two */
#define HIDE_MAPS_MIN_BYTES (128ull << 20) /* the kernel needs 3 ms for its smaps; below that, intercepting CRIU costs as much */

/* ---------------------------------------------------------------- prepare */

static int find_container(struct fm_mover *m, struct fm_error *err)
{
	if (fm_instances_find(m->h, m->container, NULL, &m->local, err) < 0)
		return -1;
	(void)snprintf(m->instance, sizeof(m->instance), "%s", m->local.container->instance);
	m->root = fm_local_app_pid(&m->local);
	fm_local_measure(&m->local);
	if (!fm_streq(m->local.container->status, "running") || m->root <= 0)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "container '%s' is not running on '%s' (status %s)", m->container,
		                    m->h->name, m->local.container->status);
	if (m->h->criu_problem.code != FM_OK) {
		*err = m->h->criu_problem;
		return -1;
	}
	if (m->lazy && !m->local.nested)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION,
		                    "container '%s' is an ordinary one: it can only be moved with strategy cold", m->container);
	fm_mover_publish(m);
	return fm_journal_note(m->journal, "instance", m->instance, err);
}

static int take_endpoints(struct fm_mover *m, struct fm_error *err)
{
	if (fm_endpoints_new(m->local.endpoints, m->local.n_endpoints, m->local.netns_path, &m->endpoints, err) < 0)
		return -1;
	return fm_endpoints_attach(m->endpoints, err);
}

static int start_criu(struct fm_mover *m, struct fm_error *err)
{
	if (!m->local.nested)
		return 0;
	struct fm_criu_start_opts o = { .ns_pid = m->local.pid1,
		                        .images_dirfd = m->images_fd,
		                        .hide_memory = m->hide,
		                        .hide_maps = m->local.container->memory_bytes >= HIDE_MAPS_MIN_BYTES };
	struct fm_proc_id id;
	if (fm_criu_start(&m->h->criu, &o, &m->criu, err) < 0)
		return -1;
	if (fm_proc_identify(fm_criu_pid(m->criu), &id, err) < 0)
		return -1;
	_fm_free_ char *text = fm_xasprintf("%d:%llu", (int)id.pid, (unsigned long long)id.start_ticks);
	return fm_journal_note(m->journal, "criu", text, err);
}

static int find_files(struct fm_mover *m, struct fm_error *err)
{
	static const char *const never[] = { ".fleximigrate", "proc", "sys", "dev" };
	_fm_free_ char *config = NULL;
	struct fm_bundle_info info __attribute__((cleanup(fm_bundle_info_done))) = { 0 };
	if (fm_bundle_read(m->local.container->bundle, &config, &info, err) < 0)
		return -1;
	for (size_t i = 0; i < FM_ARRAY_SIZE(never); i++)
		fm_strv_add(&m->exclude, never[i]);
	fm_file_mount_points(&info, &m->exclude);
	if (fm_local_owns_root(m->h, &m->local)) {
		if (fm_root_open(m->local.pid1, &m->root_fd, err) < 0)
			return -1;
		m->source_rootfs = fm_root_path(m->root_fd);
	} else {
		m->source_rootfs = FM_TAKE_PTR(info.rootfs);
	}
	return fm_volumes_prepare_source(m, err);
}

/*
 * The passes over the root filesystem: everything, while the container runs; what changed since, just before the freeze, because files that changed shortly before
 * they were looked at are sent again and need not be so inside the freeze; what changed since then, inside it.
 */
enum pass { PASS_ALL = 1, PASS_WARM = 2, PASS_FROZEN = 3 };

static int send_files(struct fm_mover *m, enum pass pass, int timeout_ms, uint64_t *ret_bytes, struct fm_error *err)
{
	struct fm_manifest *now = NULL;
	/* Without a manifest to make for a later pass, the last one need not wait for the disk; nor is anything read twice in it, to find out what is known. */
	bool frozen = pass == PASS_FROZEN;
	if (fm_filetree_send_known(m->control, frozen ? NULL : m->known, m->source_rootfs, m->exclude, m->manifest, pass,
	                           frozen ? NULL : &now, ret_bytes, timeout_ms, fm_mover_cancel_fd(m), err) < 0)
		return fm_error_prefix(err, "cannot send the root filesystem %s", m->source_rootfs);
	fm_manifest_free(m->manifest);
	m->manifest = now;
	if (fm_volumes_send(m, pass, frozen, timeout_ms, ret_bytes, err) < 0)
		return -1;
	return pass == PASS_ALL ? 0
	                        : fm_memory_files_send(m, pass, frozen, timeout_ms, ret_bytes, err); /* the first waits for the parent */
}

static int expect(struct fm_mover *m, enum fm_frame type, struct fm_frame_header *ret, int timeout_ms, struct fm_error *err)
{
	struct fm_frame_header h;
	_fm_free_ uint8_t *buf = malloc(FM_MAX_FRAME_BYTES);
	if (!buf)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	if (fm_stream_expect(m->control, type, &h, buf, FM_MAX_FRAME_BYTES, timeout_ms, fm_mover_cancel_fd(m), err) < 0)
		return -1;
	if (ret)
		*ret = h;
	return 0;
}

/* The destination has a whole pass: root filesystem and volumes. */
static int expect_files(struct fm_mover *m, int timeout_ms, struct fm_error *err)
{
	for (size_t i = 0; i < 1 + m->volumes.n + m->memory_trees.n; i++) /* the first time there are none of these */
		if (expect(m, FM_FRAME_FILES_OK, NULL, timeout_ms, err) < 0)
			return -1;
	return 0;
}

static int connect_streams(struct fm_mover *m, struct fm_error *err)
{
	const struct fm_stream_hello control = { .role = FM_STREAM_CONTROL }, pages = { .role = FM_STREAM_PAGES };
	if (fm_stream_connect(m->stream_address, fm_mover_tls(m), m->token, m->id, &control, CONNECT_TIMEOUT_MS, &m->control, err) < 0)
		return fm_error_prefix(err, "cannot connect to the destination '%s' at %s", m->peer, m->stream_address);
	if (m->lazy &&
	    fm_stream_connect(m->stream_address, fm_mover_tls(m), m->token, m->id, &pages, CONNECT_TIMEOUT_MS, &m->pages, err) < 0)
		return fm_error_prefix(err, "cannot connect the page stream to '%s' at %s", m->peer, m->stream_address);
	return 0;
}

/* To the parent's mounts there, which now stand. */
static int send_memory(struct fm_mover *m, uint64_t *ret_bytes, struct fm_error *err)
{
	uint64_t t = fm_now_us();
	if (fm_memory_files_send(m, PASS_ALL, false, FILES_TIMEOUT_MS, ret_bytes, err) < 0)
		return -1;
	for (size_t i = 0; i < m->memory_trees.n; i++)
		if (expect(m, FM_FRAME_FILES_OK, NULL, FILES_TIMEOUT_MS, err) < 0)
			return fm_error_prefix(err, "destination '%s'", m->peer);
	fm_mover_phase(m, "memory-files", fm_now_us() - t);
	return 0;
}

int fm_source_prepare(struct fm_mover *m, FM_PB(PrepareSourceResponse) * resp, struct fm_error *err)
{
	uint64_t t = fm_now_us();
	fm_mover_step(m, "prepare");
	if (find_container(m, err) < 0)
		return -1;
	m->hide = m->lazy && fm_criu_view_is_possible() && !fm_tree_is_filtered(m->root);
	if (find_files(m, err) < 0 || fm_mover_mount_images(m, err) < 0 || take_endpoints(m, err) < 0 || connect_streams(m, err) < 0)
		return -1;
	fm_flows_open(m);
	fm_mover_step(m, "files");
	/* The destination says first what it has from an earlier visit, and PREPARED when its parent container stands on the received files. */
	if (fm_known_take(m->control, &m->known, FILES_TIMEOUT_MS, fm_mover_cancel_fd(m), err) < 0 ||
	    send_files(m, PASS_ALL, FILES_TIMEOUT_MS, &resp->files_bytes, err) < 0 || expect_files(m, FILES_TIMEOUT_MS, err) < 0) {
		(void)fm_error_prefix(err, "destination '%s'", m->peer);
		return fm_error_phase(err, "files");
	}
	if (fm_rounds_start(m, err) < 0)
		return fm_error_phase(err, "pages");
	if (expect(m, FM_FRAME_PREPARED, NULL, FILES_TIMEOUT_MS, err) < 0)
		return fm_error_prefix(err, "destination '%s'", m->peer);
	fm_mover_phase(m, "files", fm_now_us() - t);
	if (send_memory(m, &resp->files_bytes, err) < 0)
		return fm_error_phase(err, "memory-files");
	if (start_criu(m, err) < 0)
		return fm_error_phase(err, "criu");
	_fm_free_ char *checkpoint = fm_xasprintf("chk-%s-0", m->container);
	fm_pb_set(&resp->checkpoint_id, checkpoint);
	fm_mover_step(m, "prepared");
	return fm_journal_decide(m->journal, FM_DECISION_PREPARED, false, err);
}

/* ---------------------------------------------------------------- the page server */

static int map_tasks(struct fm_mover *m, struct fm_error *err)
{
	_fm_free_ struct fm_page_source_task *tasks = NULL;
	size_t n = 0;
	if (fm_mover_tasks(m, &tasks, &n, err) < 0)
		return -1;
	return fm_page_source_new(tasks, n, &m->page_source, err);
}

static bool reconnect_pages(struct fm_mover *m)
{
	const struct fm_stream_hello pages = { .role = FM_STREAM_PAGES };
	struct fm_stream *s = NULL;
	if (fm_stream_connect(m->stream_address, fm_mover_tls(m), m->token, m->id, &pages, 1000, &s, NULL) < 0) {
		(void)fm_wait_fd(m->stop.fd, POLLIN, RECONNECT_PAUSE_MS, NULL);
		return false;
	}
	pthread_mutex_lock(&m->lock);
	if (m->pages) {
		m->wire_bytes += fm_stream_bytes(m->pages);
		fm_stream_free(m->pages);
	}
	m->pages = s;
	pthread_mutex_unlock(&m->lock);
	return true;
}

/* Serves until the destination says it has everything. A broken stream is reconnected once ownership is given away; before that the switch-over fails as a whole. */
static void *serve_pages(void *arg)
{
	struct fm_mover *m = arg;
	bool connected = m->pages != NULL;
	while (!fm_stop_requested(&m->stop)) {
		struct fm_error e = FM_ERROR_INIT;
		if (connected && fm_page_source_serve(m->page_source, m->pages, m->stop.fd, &e) == 0) {
			fm_mover_step(m, "pages complete");
			break;
		}
		if (e.code != FM_OK && e.code != FM_E_UNAVAILABLE && e.code != FM_E_CANCELLED) {
			(void)fm_mover_fail(m, &e); /* the peer has been told; another connection would end the same way */
			break;
		}
		connected = false;
		if (fm_journal_decision(m->journal) != FM_DECISION_COMMITTED) {
			(void)fm_wait_fd(m->stop.fd, POLLIN, RECONNECT_PAUSE_MS, NULL);
			continue;
		}
		connected = reconnect_pages(m);
	}
	return NULL;
}

static int start_page_server(struct fm_mover *m, struct fm_error *err)
{
	if (!m->lazy)
		return 0;
	if (map_tasks(m, err) < 0)
		return fm_error_phase(err, "pages");
	int rc = pthread_create(&m->thread, NULL, serve_pages, m);
	if (rc != 0)
		return fm_error_errno(err, rc, "cannot start the page server's thread");
	m->thread_started = true;
	return 0;
}

static void stop_page_server(struct fm_mover *m)
{
	fm_stop_request(&m->stop);
	pthread_mutex_lock(&m->lock);
	if (m->pages)
		fm_stream_shutdown(m->pages);
	pthread_mutex_unlock(&m->lock);
	if (m->thread_started)
		pthread_join(m->thread, NULL);
	m->thread_started = false;
}

/* ---------------------------------------------------------------- the freeze */

/* "fm3f9a61c2 fm02b5c7d1" */
static char *port_names(const struct fm_mover *m)
{
	char *names = fm_xstrdup("");
	for (size_t i = 0; i < m->local.n_endpoints; i++) {
		char *more = fm_xasprintf("%s%s%s", names, i ? " " : "", m->local.endpoints[i].host_ifname);
		free(names);
		names = more;
	}
	return names;
}

/* A parent that ends from here on, and is started again by its engine, starts nothing. It waits for the disk, so it is not done within the freeze. */
static int mark_held(struct fm_mover *m, struct fm_error *err)
{
	if (!m->local.nested)
		return 0;
	if (fm_journal_intent(m->journal, "mark", m->instance, true, err) < 0 || fm_nest_fence(m->local.control_dir, 1, err) < 0)
		return fm_error_prefix(err, "cannot mark '%s' as one that is being moved", m->container);
	return fm_mover_fault(m, "source-after-mark", err);
}

static int fence(struct fm_mover *m, struct fm_error *err)
{
	_fm_free_ char *root = fm_xasprintf("%d", (int)m->root);
	_fm_free_ char *ports = port_names(m);
	/* The nest's answer, CRIU's freeze and its work inside the tasks are processor time of this cgroup, too. */
	fm_throttle_lift(m);
	/* Everything that has to be undone is on record before the first of it happens, and before the clock of the downtime starts. */
	if (fm_journal_intent(m->journal, "fence", ports, false, err) < 0 || fm_journal_intent(m->journal, "hold", root, false, err) < 0 ||
	    fm_journal_decide(m->journal, FM_DECISION_FROZEN, false, err) < 0)
		return -1;
	fm_stream_set_patience(m->control, FREEZE_PATIENCE_MS);
	if (m->local.nested && fm_nest_hold(m->local.control_dir, 1, err) < 0)
		return -1;
	m->held = true;
	m->fence_us = fm_now_us();
	m->fenced = true;
	m->hold = fm_hold_start(m->local.endpoints, m->local.n_endpoints);
	if (fm_endpoints_close_inbound(m->endpoints, err) < 0)
		return fm_error_prefix(err, "cannot fence the source");
	fm_flows_read(m);
	return fm_mover_fault(m, "source-after-fence", err);
}

static int dump_options(struct fm_mover *m, int timeout_ms, struct fm_criu_dump_opts *ret, struct fm_error *err)
{
	*ret = (struct fm_criu_dump_opts){ .lazy = m->lazy && !m->hide,
		                           .hide = m->hide ? m->root : 0,
		                           .frozen_fd = fm_rounds_frozen_fd(m),
		                           .timeout_ms = timeout_ms,
		                           .cancel_fd = -1,
		                           .log_level = 1 };
	return fm_proc_ns_pid(m->root, &ret->root_ns_pid, err);
}

/* What CRIU can do before it stops the first task does not belong into the freeze. */
static int ready_criu(struct fm_mover *m, uint64_t deadline_ms, struct fm_error *err)
{
	struct fm_criu_dump_opts o;
	uint64_t t = fm_now_us();
	if (!m->local.nested)
		return 0;
	if (dump_options(m, fm_deadline_left_ms(deadline_ms), &o, err) < 0 || fm_criu_dump_prepare(m->criu, &o, err) < 0)
		return fm_error_phase(err, "criu");
	fm_mover_phase(m, "criu-ready", fm_now_us() - t);
	return 0;
}

static int dump_nested(struct fm_mover *m, int timeout_ms, struct fm_error *err)
{
	struct fm_criu_dump_opts o;
	if (dump_options(m, timeout_ms, &o, err) < 0 || fm_criu_dump_begin(m->criu, &o, err) < 0)
		return -1;
	m->dumped = true;
	if (fm_mover_fault(m, "source-after-dump", err) < 0)
		return -1;
	if (fm_tree_stop(m->root, err) < 0)
		return -1;
	return fm_mover_fault(m, "source-after-stop", err);
}

static int dump_ordinary(struct fm_mover *m, int timeout_ms, struct fm_error *err)
{
	struct fm_checkpoint_opts o = {
		.image_dir = m->images_path, .work_dir = m->images_path, .tcp_established = true, .timeout_ms = timeout_ms
	};
	return m->h->runtime->ops->checkpoint(m->h->runtime, m->instance, &o, err);
}

static int dump(struct fm_mover *m, uint64_t deadline_ms, struct fm_error *err)
{
	uint64_t t = fm_now_us();
	int left = fm_deadline_left_ms(deadline_ms);
	fm_mover_step(m, "dump");
	if ((m->local.nested ? dump_nested(m, left, err) : dump_ordinary(m, left, err)) < 0)
		return fm_error_phase(err, "dump");
	if (fm_endpoints_close(m->endpoints, err) < 0)
		return fm_error_prefix(err, "cannot fence the source");
	fm_mover_phase(m, "dump", fm_now_us() - t);
	return 0;
}

static int send_neighbours(struct fm_mover *m, int timeout_ms, struct fm_error *err)
{
	size_t n = FM_MAX_NEIGHBOURS;
	_fm_free_ struct fm_neighbour *v = calloc(n, sizeof(*v));
	_fm_free_ uint8_t *wire = malloc(FM_NEIGHBOURS_MAX_BYTES);
	if (!v || !wire)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	if (fm_endpoints_neighbours(m->endpoints, v, &n, err) < 0)
		return -1;
	return fm_stream_send(m->control, FM_FRAME_NEIGHBOURS, n, 0, wire, fm_neighbours_encode(v, n, wire), timeout_ms, err);
}

/* Changed files, images, neighbours, and the word to restore. */
static int transfer(struct fm_mover *m, uint64_t deadline_ms, struct fm_error *err)
{
	uint64_t bytes = 0, t = fm_now_us();
	fm_mover_step(m, "transfer");
	if (send_files(m, PASS_FROZEN, fm_deadline_left_ms(deadline_ms), &bytes, err) < 0)
		return fm_error_phase(err, "files");
	fm_mover_phase(m, "files-delta", fm_now_us() - t);
	t = fm_now_us();
	if (fm_images_send(m->control, m->images_fd, &bytes, fm_deadline_left_ms(deadline_ms), err) < 0 ||
	    send_neighbours(m, fm_deadline_left_ms(deadline_ms), err) < 0 ||
	    fm_stream_send(m->control, FM_FRAME_RESTORE, 0, 0, NULL, 0, fm_deadline_left_ms(deadline_ms), err) < 0)
		return fm_error_phase(err, "transfer");
	fm_mover_phase(m, "images", fm_now_us() - t);
	return 0;
}

/* Just before the fence, and after the tracker's last look, which changes flags of mappings. */
static void look_at_mappings(struct fm_mover *m)
{
	if (m->local.nested)
		fm_criu_dump_look(m->criu, m->root);
}

/* While the destination restores. */
static int verify_dump(struct fm_mover *m, struct fm_error *err)
{
	uint64_t t = fm_now_us();
	if (!m->local.nested)
		return 0;
	if (fm_criu_dump_verify(m->criu, err) < 0)
		return fm_error_phase(err, "dump");
	fm_mover_phase(m, "verify-dump", fm_now_us() - t);
	return 0;
}

/* While the destination restores, CRIU lets go of the tree here: it ends up in our SIGSTOP. */
static int let_criu_go(struct fm_mover *m, uint64_t deadline_ms, struct fm_error *err)
{
	if (!m->local.nested)
		return 0;
	m->dumped = false;
	if (fm_criu_dump_end(m->criu, fm_deadline_left_ms(deadline_ms), err) < 0)
		return -1;
	return fm_tree_wait_stopped(m->root, fm_deadline_left_ms(deadline_ms), err);
}

static int await_restored(struct fm_mover *m, uint64_t deadline_ms, struct fm_error *err)
{
	struct fm_frame_header h;
	fm_mover_step(m, "restore");
	if (expect_files(m, fm_deadline_left_ms(deadline_ms), err) < 0 ||
	    expect(m, FM_FRAME_RESTORED, &h, fm_deadline_left_ms(deadline_ms), err) < 0)
		return fm_error_phase(err, "restore");
	fm_mover_phase(m, "restore", h.a);
	return fm_mover_fault(m, "source-before-commit", err);
}

/* The commit point. After the record nothing here may resume the tree any more. */
static int commit(struct fm_mover *m, struct fm_error *err)
{
	uint64_t t = fm_now_us();
	fm_mover_step(m, "commit");
	if (fm_stop_requested(&m->stop))
		return fm_error_set(err, FM_E_CANCELLED, "cancelled before the commit point");
	if (fm_journal_decide(m->journal, FM_DECISION_COMMITTED, false, err) < 0)
		return fm_error_phase(err, "commit");
	fm_mover_phase(m, "commit", fm_now_us() - t);
	return 0;
}

/* What clients sent into the freeze goes on to where the container is now. */
static void release_held(struct fm_mover *m)
{
	size_t n = fm_hold_release(m->hold);
	if (n > 0)
		fm_mover_note(m, "%zu frames that came while it was frozen were handed on", n);
}

static void forget_held(struct fm_mover *m)
{
	fm_hold_free(m->hold);
	m->hold = NULL;
}

/* The manager does it again, so that a failure here costs time only. */
static void redirect_urgent(struct fm_mover *m)
{
	struct fm_redirect_call c = { .deadline_ms = fm_now_ms() + REDIRECT_TIMEOUT_MS, .cancel_fd = -1, .secrets_dir = m->h->secrets_dir };
	uint64_t t = fm_now_us();
	for (size_t i = 0; m->execute && i < m->execute->n_flips; i++) {
		struct fm_error e = FM_ERROR_INIT;
		if (fm_redirection_step(&c, m->execute->flips[i], FLEXIMIGRATE__V1__REDIRECTION_STEP__REDIRECTION_FLIPPED, NULL, &e) < 0)
			fm_mover_note(m, "%s", e.message);
	}
	if (m->execute && m->execute->n_flips)
		fm_mover_phase(m, "redirect", fm_now_us() - t);
}

static int hand_over(struct fm_mover *m, struct fm_error *err)
{
	struct fm_frame_header h;
	if (fm_mover_fault(m, "source-after-commit", err) < 0)
		return -1;
	if (fm_stream_send(m->control, FM_FRAME_COMMIT, 0, 0, NULL, 0, RUNNING_TIMEOUT_MS, err) < 0 ||
	    expect(m, FM_FRAME_RUNNING, &h, RUNNING_TIMEOUT_MS, err) < 0)
		return fm_error_phase(err, "commit");
	redirect_urgent(m);
	release_held(m);
	pthread_mutex_lock(&m->lock);
	m->frozen_us = fm_now_us() - m->fence_us;
	pthread_mutex_unlock(&m->lock);
	forget_held(m);
	fm_mover_phase(m, "resume", h.a);
	fm_mover_step(m, "handed over");
	return 0;
}

static int warm_files(struct fm_mover *m, uint64_t deadline_ms, struct fm_error *err)
{
	uint64_t bytes = 0, t = fm_now_us();
	fm_mover_step(m, "files");
	if (send_files(m, PASS_WARM, fm_deadline_left_ms(deadline_ms), &bytes, err) < 0 ||
	    expect_files(m, fm_deadline_left_ms(deadline_ms), err) < 0)
		return fm_error_phase(err, "files");
	fm_mover_phase(m, "files-warm", fm_now_us() - t);
	return 0;
}

static int stop_here(struct fm_mover *m, uint64_t deadline_ms, struct fm_error *err)
{
	look_at_mappings(m);
	fm_thread_haste(FM_HASTE_HURRIED);
	if (fence(m, err) < 0)
		return -1;
	return dump(m, deadline_ms, err);
}

static int give_away(struct fm_mover *m, uint64_t deadline_ms, struct fm_error *err)
{
	fm_stream_set_patience(m->control, WARM_PATIENCE_MS);
	if (fm_rounds_run(m, err) < 0 || warm_files(m, deadline_ms, err) < 0 || ready_criu(m, deadline_ms, err) < 0 ||
	    mark_held(m, err) < 0 || fm_rounds_last(m, err) < 0 || fm_rounds_start_final(m, err) < 0 ||
	    stop_here(m, deadline_ms, err) < 0 || start_page_server(m, err) < 0 || transfer(m, deadline_ms, err) < 0 ||
	    let_criu_go(m, deadline_ms, err) < 0 || verify_dump(m, err) < 0 || fm_volumes_note_sent(m, err) < 0 ||
	    await_restored(m, deadline_ms, err) < 0 || fm_rounds_await_final(m, err) < 0 ||
	    fm_flows_send(m, fm_deadline_left_ms(deadline_ms), err) < 0 || commit(m, err) < 0) {
		struct fm_error undo = FM_ERROR_INIT;
		if (m->control)
			(void)fm_stream_send(m->control, FM_FRAME_ABORT, 0, 0, NULL, 0, 1000, NULL);
		if (fm_source_abort(m, false, &undo) < 0)
			(void)fm_error_hint(err, "undoing on '%s' failed too: %s", m->h->name, undo.message);
		return -1;
	}
	return hand_over(m, err);
}

int fm_source_execute(struct fm_mover *m, uint64_t deadline_ms, struct fm_error *err)
{
	int rc = give_away(m, deadline_ms, err);
	fm_thread_haste(FM_HASTE_USUAL);
	fm_rounds_end(m);
	if (fm_journal_decision(m->journal) == FM_DECISION_COMMITTED)
		fm_volumes_left(m);
	return rc;
}

/* ---------------------------------------------------------------- undo, release, recovery */

static int undo_hold(struct fm_mover *m, struct fm_error *err)
{
	if (!m->local.nested)
		return m->h->runtime->ops->resume(m->h->runtime, m->instance, err);
	if (m->criu && m->dumped) {
		m->dumped = false;
		(void)fm_criu_dump_end(m->criu, CRIU_END_TIMEOUT_MS, NULL);
	}
	fm_criu_free(m->criu);
	m->criu = NULL;
	fm_mover_await_criu(m, CRIU_END_TIMEOUT_MS, true);
	m->root = fm_local_app_pid(&m->local);
	if (m->root <= 0)
		return fm_error_set(err, FM_E_DATA_LOSS, "the application of '%s' is gone from '%s'", m->container, m->h->name);
	if (fm_tree_continue(m->root, err) < 0)
		return -1;
	return fm_nest_hold(m->local.control_dir, 0, err);
}

static int undo_fence(struct fm_mover *m, struct fm_error *err)
{
	if (fm_endpoints_open(m->endpoints, err) < 0 || fm_endpoints_announce(m->endpoints, err) < 0)
		return -1;
	release_held(m);
	forget_held(m);
	return 0;
}

int fm_source_undo(struct fm_mover *m, const char *what, const char *arg, struct fm_error *err)
{
	if (fm_streq(what, "hold")) {
		if (undo_hold(m, err) < 0)
			return -1;
		fm_mover_note(m, "container '%s' runs on '%s'", m->container, m->h->name);
		return 0;
	}
	if (fm_streq(what, "fence")) {
		if (undo_fence(m, err) < 0)
			return -1;
		if (m->endpoints)
			fm_mover_note(m, "port %s of '%s' reopened", arg, m->h->name);
		return 0;
	}
	if (fm_streq(what, "mark")) /* without an instance there is nothing that could be started again */
		return m->local.nested ? fm_nest_fence(m->local.control_dir, 0, err) : 0;
	if (fm_streq(what, "throttle"))
		return fm_throttle_undo(m, arg, err);
	return fm_host_undo(m->h, what, arg, err);
}

int fm_source_abort(struct fm_mover *m, bool after_commit, struct fm_error *err)
{
	enum fm_decision d = fm_journal_decision(m->journal);
	if (d == FM_DECISION_COMMITTED && !after_commit) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "migration %s is past its commit point: '%s' owns container '%s'", m->id,
		                   m->peer, m->container);
		return fm_error_hint(err, "the source is resumed only when the destination is proved dead");
	}
	if (d == FM_DECISION_RELEASED)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "migration %s is finished on '%s'", m->id, m->h->name);
	/* From here on a commit is impossible, whatever happens to us. */
	if (fm_journal_abort(m->journal, err) < 0)
		return -1;
	stop_page_server(m);
	int rc = fm_mover_undo(m, err);
	fm_rounds_end(m); /* takes its time: the service comes first */
	fm_volumes_revert(m);
	fm_mover_drop_streams(m);
	fm_mover_step(m, "aborted");
	return rc;
}

static bool may_leave_something(const struct fm_mover *m)
{
	return !fm_streq(fm_pb_label(m->local.container, "fleximigrate.revisit"), "no");
}

/* For its return. Whatever goes wrong with that is no reason to fail. */
static void keep_pages(struct fm_mover *m)
{
	_fm_free_ struct fm_page_source_task *tasks = NULL;
	struct fm_error e = FM_ERROR_INIT;
	uint64_t pages = 0, t = fm_now_us();
	size_t n = 0;

	if (!m->local.nested || m->root <= 0 || !may_leave_something(m))
		return;
	if (fm_mover_tasks(m, &tasks, &n, &e) < 0 ||
	    fm_revisit_pages_copy(m->h->revisit_pages, m->container, tasks, n, fm_mover_streams(m), KEEP_PAGES_MS, &pages, &e) < 0)
		fm_mover_note(m, "nothing of '%s' is kept for its return: %s", m->container, e.message);
	else if (pages > 0)
		fm_mover_note(m, "%llu pages of '%s' are kept for its return", (unsigned long long)pages, m->container);
	fm_mover_phase(m, "keep-pages", fm_now_us() - t);
}

/* Its files stay for the next visit, if that can be put on record. */
static int release_instance(struct fm_mover *m, struct fm_error *err)
{
	if (!may_leave_something(m) || fm_journal_intent(m->journal, "visited", m->container, true, NULL) < 0)
		return fm_instances_destroy(m->h, m->instance, err);
	if (fm_instances_release(m->h, m->instance, m->container, err) < 0)
		return -1;
	(void)fm_journal_forget(m->journal, "visited", NULL); /* or it is undone: the copy goes, which is right too */
	return 0;
}

/* The parent has ended, or is about to because its application has. Started again it finds the mark. */
static bool parent_is_over(struct fm_mover *m)
{
	struct fm_error e = FM_ERROR_INIT;
	struct fm_nest_status st;
	struct fm_instance i;

	if (fm_nest_status(m->local.control_dir, &st, NULL) == 0)
		return st.state == FM_NEST_EXITED;
	if (m->h->runtime->ops->state(m->h->runtime, m->instance, &i, &e) < 0)
		return e.code == FM_E_NOT_FOUND;
	return i.status == FM_CONTAINER_STOPPED || i.pid != m->local.pid1;
}

/* Nothing is killed before it is on disk that it is elsewhere. */
static int leave(struct fm_mover *m, struct fm_error *err)
{
	struct fm_error e = FM_ERROR_INIT;

	if (fm_nest_leave(m->local.control_dir, &e) == 0 || parent_is_over(m))
		return 0;
	*err = e;
	return fm_error_prefix(err, "cannot mark '%s' as moved", m->container);
}

int fm_source_release(struct fm_mover *m, struct fm_error *err)
{
	enum fm_decision d = fm_journal_decision(m->journal);
	if (d != FM_DECISION_COMMITTED && d != FM_DECISION_RELEASED)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION,
		                    "migration %s has not been committed on '%s': its source is the only copy", m->id, m->h->name);
	if (fm_mover_fault(m, "source-before-release", err) < 0)
		return -1;
	if (d != FM_DECISION_RELEASED && fm_journal_decide(m->journal, FM_DECISION_RELEASED, false, err) < 0)
		return -1;
	stop_page_server(m);
	fm_mover_drop_streams(m);
	keep_pages(m);
	if (m->local.nested && m->root > 0) {
		if (leave(m, err) < 0)
			return -1;
		(void)fm_tree_kill(m->root, 10000, NULL); /* destroy below kills whatever is left */
	}
	(void)fm_journal_forget(m->journal, "hold", NULL);
	(void)fm_journal_forget(m->journal, "fence", NULL);
	(void)fm_journal_forget(m->journal, "mark", NULL); /* nothing is to be started here any more */
	fm_criu_free(m->criu);                             /* a pid namespace does not end before its last child is reaped */
	m->criu = NULL;
	fm_flows_forget(m);
	if (release_instance(m, err) < 0)
		return fm_error_prefix(err, "cannot free the source's copy");
	if (fm_volumes_release_source(m, err) < 0 || fm_mover_undo(m, err) < 0)
		return -1;
	fm_mover_step(m, "released");
	return 0;
}

/* After a restart of the agent. Uncommitted: undo at once, the service comes first. Committed: go on serving pages and wait for the manager's word. */
int fm_source_recover(struct fm_mover *m, struct fm_error *err)
{
	const char *instance = fm_journal_get(m->journal, "instance");
	enum fm_decision d = fm_journal_decision(m->journal);
	struct fm_error e = FM_ERROR_INIT;
	if (instance) {
		(void)snprintf(m->instance, sizeof(m->instance), "%s", instance);
		if (fm_instances_open(m->h, instance, &m->local, &e) < 0 && e.code != FM_E_NOT_FOUND) {
			*err = e;
			return -1;
		}
		m->root = fm_local_app_pid(&m->local);
		fm_mover_publish(m);
		if (m->local.container)
			(void)take_endpoints(m, NULL);
	}
	if (d == FM_DECISION_RELEASED)
		return fm_source_release(m, err);
	if (d != FM_DECISION_COMMITTED)
		return fm_source_abort(m, false, err);
	fm_mover_await_criu(m, CRIU_END_TIMEOUT_MS, true);
	m->fenced = m->held = true;
	fm_volumes_left(m);
	fm_mover_step(m, "handed over");
	return m->lazy && m->root > 0 ? start_page_server(m, err) : 0;
}
