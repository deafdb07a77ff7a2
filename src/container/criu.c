/* SPDX-License-Identifier: MIT */
/*
 * criu.c - the conversation with one `criu swrk`.
 *
 * The socket keeps message borders (SEQPACKET); CRIU is strictly request and answer, except that between the two it sends notifications
 * and waits for each to be acknowledged. A notification is the only place where we can hold it, so dump and restore are split there:
 *
 *   NEW --dump_prepare--> pre-dump = DUMP_READY
 *       --dump_begin--> … query-ext-files (acknowledged) … post-dump = DUMPED
 *       --dump_end (refuses)--> answer, exit = ENDED
 *   NEW --restore_prepare--> RESTORE_READY
 *       --restore_begin--> … post-restore = RESTORED
 *       --commit (acknowledges)--> pre-resume, post-resume, answer, exit = ENDED
 *       --abort (refuses)--> CRIU kills what it made, answer, exit = ENDED
 *
 * There is no notification between CRIU's own preparations (kernel features, options) and its reading of the images. So inventory.img,
 * the first image that it opens, is a named pipe for that while: CRIU waits in open(2). When it does, the name is removed;
 * restore_begin writes the real file's bytes into the pipe.
 *
 * A refused post-dump (criu/cr-dump.c, cr_dump_finish): TCP repair is turned off, links made for the dump are removed, then the lazy
 * page server "fails" at the address that is none (criu-start.c), then every thread gets its registers back and is let go as "alive". A
 * SIGSTOP that was queued meanwhile is taken by the kernel before the first instruction: nothing of the tree runs.
 *
 * Giving up (deadline, cancel, free) never kills a CRIU that holds tasks, as long as it answers at all: a killed tracer lets go of
 * tasks in the middle of its injected code. Instead our end of the socket is shut, which CRIU takes for a refusal at its next
 * notification; only a CRIU that does not end within GIVE_UP_MS is killed. The same happens by itself when our process dies. A restore
 * that is given up is killed together with everything CRIU has made.
 */
#include "container/criu-internal.h"
#include "container/criu-log.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/proc.h"
#include "basic/str.h"
#include "container/criu-view.h"
#include "criu-rpc.pb-c.h"

#define MAX_MESSAGE_BYTES (64u << 10)
#define GIVE_UP_MS        10000
#define WARM_UP_MS        10000
#define GHOST_LIMIT_BYTES (64u << 20) /* a deleted file that is still open travels inside the images, up to this size */

#define DUMP_LOG    "dump.log"
#define RESTORE_LOG "restore.log"
#define INVENTORY   "inventory.img"

enum criu_state { CRIU_NEW, CRIU_DUMP_READY, CRIU_RESTORE_READY, CRIU_DUMPING, CRIU_DUMPED, CRIU_RESTORING, CRIU_RESTORED, CRIU_ENDED };

struct fm_criu {
	struct fm_criu_process process;
	int images_dirfd; /* -1: none */
	enum criu_state state;
	bool lazy_pages;           /* this kernel and CRIU can */
	struct fm_criu_view *view; /* or NULL */
	bool hide_maps;
	struct fm_smaps *smaps; /* looked at before the fence, until dump_begin */
	pid_t root;             /* restored, host pid; 0 before */
	int inventory;          /* RESTORE_READY: our end of the pipe in place of inventory.img */
	unsigned char buffer[MAX_MESSAGE_BYTES];
};

/* What to wait for: until when, unless the descriptor becomes readable. */
struct patience {
	uint64_t deadline;
	int cancel_fd;
};

static struct patience patience_ms(int timeout_ms, int cancel_fd)
{
	return (struct patience){ .deadline = fm_now_ms() + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0), .cancel_fd = cancel_fd };
}

/* ---- CRIU's own words ---- */

/* An error with CRIU's words behind ours. */
static int criu_error(struct fm_criu *c, enum fm_code code, const char *log_file, const char *what, struct fm_error *err)
{
	char errors[600];
	const char *hint;

	fm_criu_log_errors(c->images_dirfd, log_file, c->process.stderr_fd, errors, sizeof(errors));
	fm_error_set(err, code, "%s%s%s", what, errors[0] ? ": " : "", errors);
	hint = fm_criu_log_advice(errors);
	return hint ? fm_error_hint(err, "%s", hint) : -1;
}

/* ---- messages ---- */

static int ended_unexpectedly(struct fm_criu *c, struct fm_error *err)
{
	siginfo_t si = { 0 };

	/* The socket closes a little before the exit status can be seen. */
	(void)fm_wait_fd(c->process.pidfd, POLLIN, 1000, NULL);
	if (waitid(P_PIDFD, (id_t)c->process.pidfd, &si, WEXITED | WNOHANG | WNOWAIT) == 0 && si.si_pid != 0)
		return fm_error_set(err, FM_E_UNAVAILABLE, "CRIU ended in the middle of its work (%s %d)",
		                    si.si_code == CLD_EXITED ? "exit status" : "killed by signal", si.si_status);
	return fm_error_set(err, FM_E_UNAVAILABLE, "CRIU closed its connection in the middle of its work");
}

static int send_request(struct fm_criu *c, const FmCriuRequest *request, struct fm_error *err)
{
	size_t n = fm_criu_request__get_packed_size(request);
	ssize_t sent;

	if (n > sizeof(c->buffer))
		return fm_error_set(err, FM_E_INTERNAL, "request to CRIU of %zu bytes is too long", n);
	fm_criu_request__pack(request, c->buffer);
	do
		sent = send(c->process.socket, c->buffer, n, MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	if (sent < 0 && (errno == EPIPE || errno == ECONNRESET))
		return ended_unexpectedly(c, err);
	if (sent < 0)
		return fm_error_errno(err, errno, "CRIU (process %d) does not take a request", (int)c->process.pid);
	return 0;
}

static int acknowledge(struct fm_criu *c, bool success, struct fm_error *err)
{
	FmCriuRequest r = FM_CRIU_REQUEST__INIT;

	r.type = FM_CRIU_TYPE__FM_CRIU_NOTIFY;
	r.has_notify_success = 1;
	r.notify_success = success;
	return send_request(c, &r, err);
}

/* Wait until a message is there. */
static int wait_message(struct fm_criu *c, const struct patience *p, struct fm_error *err)
{
	struct pollfd fds[] = {
		{ .fd = c->process.socket, .events = POLLIN },
		{ .fd = c->process.pidfd, .events = POLLIN },
		{ .fd = p->cancel_fd, .events = POLLIN },
	};

	for (;;) {
		int n = poll(fds, FM_ARRAY_SIZE(fds), fm_deadline_left_ms(p->deadline));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fm_error_errno(err, errno, "cannot wait for CRIU");
		if (fds[0].revents)
			return 0;
		if (fds[1].revents)
			return ended_unexpectedly(c, err);
		if (fds[2].revents)
			return fm_error_set(err, FM_E_CANCELLED, "cancelled while CRIU was working");
		if (n == 0)
			return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "CRIU did not finish in time");
	}
}

static void response_free(FmCriuResponse *r)
{
	fm_criu_response__free_unpacked(r, NULL);
}
FM_DEFINE_CLEANUP(FmCriuResponse *, response_free);
#define _response_ _fm_cleanup_(response_freep)

static int receive(struct fm_criu *c, const struct patience *p, FmCriuResponse **ret, struct fm_error *err)
{
	ssize_t n;

	if (wait_message(c, p, err) < 0)
		return -1;
	do
		n = recv(c->process.socket, c->buffer, sizeof(c->buffer), MSG_TRUNC | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n == 0 || (n < 0 && errno == ECONNRESET))
		return ended_unexpectedly(c, err);
	if (n < 0)
		return fm_error_errno(err, errno, "cannot receive from CRIU");
	if ((size_t)n > sizeof(c->buffer))
		return fm_error_set(err, FM_E_INTERNAL, "CRIU sent a message of %zd bytes", n);
	*ret = fm_criu_response__unpack(NULL, (size_t)n, c->buffer);
	return *ret ? 0 : fm_error_set(err, FM_E_INTERNAL, "CRIU sent a message that cannot be read");
}

/* Acknowledge notifications until `script` comes (returned unanswered) or the final answer. NULL: no script is waited for. */
static int converse(struct fm_criu *c, const char *script, const struct patience *p, FmCriuResponse **ret, struct fm_error *err)
{
	for (;;) {
		_response_ FmCriuResponse *r = NULL;

		if (receive(c, p, &r, err) < 0)
			return -1;
		if (r->type != FM_CRIU_TYPE__FM_CRIU_NOTIFY || (script && r->notify && fm_streq(r->notify->script, script))) {
			*ret = FM_TAKE_PTR(r);
			return 0;
		}
		if (acknowledge(c, true, err) < 0)
			return -1;
	}
}

/* ---- the end of the process ---- */

/* true: it has ended (and is reaped) */
static bool wait_end(struct fm_criu *c, int timeout_ms)
{
	if (c->state == CRIU_ENDED)
		return true;
	if (fm_wait_fd(c->process.pidfd, POLLIN, timeout_ms, NULL) <= 0)
		return false;
	while (waitid(P_PIDFD, (id_t)c->process.pidfd, &(siginfo_t){ 0 }, WEXITED) < 0 && errno == EINTR)
		;
	c->state = CRIU_ENDED;
	return true;
}

static void kill_criu(struct fm_criu *c)
{
	(void)syscall(SYS_pidfd_send_signal, c->process.pidfd, SIGKILL, NULL, 0);
	(void)wait_end(c, -1);
}

/* CRIU and everything it has made so far: it must not fork while we look. */
static void kill_restore(struct fm_criu *c)
{
	_fm_free_ pid_t *tree = NULL;
	size_t n = 0;

	(void)syscall(SYS_pidfd_send_signal, c->process.pidfd, SIGSTOP, NULL, 0);
	(void)fm_tree_stop(c->process.pid, NULL);
	if (fm_proc_tree(c->process.pid, &tree, &n, NULL) == 0)
		for (size_t i = n; i-- > 1;)
			(void)kill(tree[i], SIGKILL);
	kill_criu(c);
}

/* Shut the socket, which CRIU takes for a refusal; kill it only if that does not end it. */
static void give_up(struct fm_criu *c)
{
	bool restoring = c->state == CRIU_RESTORING || c->state == CRIU_RESTORED;

	if (c->state == CRIU_ENDED)
		return;
	(void)shutdown(c->process.socket, SHUT_RDWR);
	if (c->state == CRIU_NEW || c->state == CRIU_DUMP_READY || c->state == CRIU_RESTORE_READY)
		kill_criu(c); /* holds nothing */
	else if (restoring && c->state == CRIU_RESTORING)
		kill_restore(c); /* may wait for somebody who never comes */
	else if (!wait_end(c, GIVE_UP_MS))
		restoring ? kill_restore(c) : kill_criu(c);
}

/* A failed step: nothing can be done with this CRIU any more. Keeps err. */
static int abandon(struct fm_criu *c)
{
	give_up(c);
	return -1;
}

/* ---- requests ---- */

static int feature_check(struct fm_criu *c, struct fm_error *err)
{
	FmCriuRequest r = FM_CRIU_REQUEST__INIT;
	FmCriuFeatures features = FM_CRIU_FEATURES__INIT;
	_response_ FmCriuResponse *answer = NULL;
	struct patience p = patience_ms(WARM_UP_MS, -1);

	features.has_lazy_pages = features.lazy_pages = 1;
	r.type = FM_CRIU_TYPE__FM_CRIU_FEATURE_CHECK;
	r.has_keep_open = r.keep_open = 1;
	r.features = &features;
	if (send_request(c, &r, err) < 0 || converse(c, NULL, &p, &answer, err) < 0)
		return -1;
	if (answer->type != FM_CRIU_TYPE__FM_CRIU_FEATURE_CHECK || !answer->success)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "it cannot work on this kernel");
	c->lazy_pages = answer->features && answer->features->has_lazy_pages && answer->features->lazy_pages;
	return 0;
}

static int ask_version(struct fm_criu *c, int *ret, struct fm_error *err)
{
	FmCriuRequest r = FM_CRIU_REQUEST__INIT;
	_response_ FmCriuResponse *answer = NULL;
	struct patience p = patience_ms(WARM_UP_MS, -1);

	r.type = FM_CRIU_TYPE__FM_CRIU_VERSION;
	if (send_request(c, &r, err) < 0 || converse(c, NULL, &p, &answer, err) < 0)
		return -1;
	const FmCriuVersion *v = answer->success ? answer->version : NULL;
	if (!v || v->major_number < 0 || v->major_number > 999 || v->minor_number < 0 || v->minor_number > 99 || v->sublevel < 0 ||
	    v->sublevel > 99)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "it does not tell its version");
	*ret = v->major_number * 10000 + v->minor_number * 100 + (v->has_sublevel ? v->sublevel : 0);
	return 0;
}

/* What dump and restore have in common. */
static void common_opts(FmCriuOpts *o, const char *log_file, int log_level, int timeout_ms, bool lazy)
{
	o->images_dir_fd = -1;
	o->images_dir = (char *)FM_CRIU_CHILD_IMAGES;
	o->log_file = (char *)log_file;
	o->has_log_level = 1;
	o->log_level = log_level > 0 ? log_level : 1; /* error lines are always wanted */
	o->has_notify_scripts = o->notify_scripts = 1;
	o->has_tcp_established = o->tcp_established = 1;
	o->has_file_locks = o->file_locks = 1;
	o->has_evasive_devices = o->evasive_devices = 1;
	o->has_manage_cgroups_mode = 1;
	o->manage_cgroups_mode = FM_CRIU_CGROUPS__FM_CRIU_CGROUPS_IGNORE;
	/* The host's port is closed meanwhile: our affair, not CRIU's. */
	o->has_network_lock = 1;
	o->network_lock = FM_CRIU_NETWORK_LOCK__FM_CRIU_NETWORK_LOCK_SKIP;
	o->has_ghost_limit = 1;
	o->ghost_limit = GHOST_LIMIT_BYTES;
	o->has_timeout = 1;
	o->timeout = (uint32_t)(timeout_ms > 1000 ? (timeout_ms + 999) / 1000 : 1);
	o->has_lazy_pages = 1;
	o->lazy_pages = lazy;
}

static enum fm_code code_of(const FmCriuResponse *r)
{
	return r->has_cr_errno && r->cr_errno == ESRCH ? FM_E_NOT_FOUND : FM_E_FAILED_PRECONDITION;
}

static int send_opts(struct fm_criu *c, FmCriuType type, FmCriuOpts *opts, struct fm_error *err)
{
	FmCriuRequest request = FM_CRIU_REQUEST__INIT;

	request.type = type;
	request.opts = opts;
	return send_request(c, &request, err);
}

static int check_ready(const struct fm_criu *c, enum criu_state want, bool lazy, struct fm_error *err)
{
	if (c->state != want || c->images_dirfd < 0)
		return fm_error_set(err, FM_E_INTERNAL, "CRIU is asked for a step out of order (state %d, not %d)", (int)c->state,
		                    (int)want);
	if (lazy && !c->lazy_pages) {
		fm_error_set(err, FM_E_FAILED_PRECONDITION,
		             "post-copy is not possible: the kernel or CRIU lacks non-cooperative userfaultfd");
		return fm_error_hint(err, "use stop-and-copy, or check sysctl vm.unprivileged_userfaultfd and the kernel's configuration "
		                          "(CONFIG_USERFAULTFD)");
	}
	return 0;
}

/* Put CRIU's words behind an error of ours that has none (it timed out, died, …). */
static int with_log(struct fm_criu *c, const char *log_file, const char *what, struct fm_error *err)
{
	char errors[400];

	fm_error_prefix(err, "%s", what);
	fm_criu_log_errors(c->images_dirfd, log_file, c->process.stderr_fd, errors, sizeof(errors));
	if (err && errors[0]) {
		struct fm_error ours = *err;
		fm_error_set(err, ours.code, "%s: %s", ours.message, errors);
		if (fm_criu_log_advice(errors))
			fm_error_hint(err, "%s", fm_criu_log_advice(errors));
	}
	return -1;
}

/* Host pid of the process that CRIU, its parent, knows as ns_pid. */
static int find_child(struct fm_criu *c, pid_t ns_pid, pid_t *ret, struct fm_error *err)
{
	_fm_free_ pid_t *children = NULL;
	size_t n = 0;

	if (fm_proc_children(c->process.pid, &children, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		pid_t inner;

		if (fm_proc_ns_pid(children[i], &inner, NULL) == 0 && inner == ns_pid) {
			*ret = children[i];
			return 0;
		}
	}
	return fm_error_set(err, FM_E_INTERNAL, "CRIU says that it restored process %d, but it is not among its children", (int)ns_pid);
}

/* ---- public ---- */

static void fm_criu_freep(struct fm_criu **c)
{
	fm_criu_free(*c);
}

static int start(const char *prefix, const struct fm_criu_start_opts *o, struct fm_criu **ret, struct fm_error *err)
{
	_fm_close_ int images = -1;
	struct fm_criu *c;

	if (o && (images = fcntl(o->images_dirfd, F_DUPFD_CLOEXEC, 3)) < 0)
		return fm_error_errno(err, errno, "cannot duplicate the images folder's descriptor");
	if (images >= 0)
		fm_criu_remove_litter(images);
	c = calloc(1, sizeof(*c));
	if (!c)
		return fm_error_errno(err, ENOMEM, "starting CRIU");
	if (fm_criu_spawn(prefix, o, &c->process, err) < 0) {
		free(c);
		return -1;
	}
	c->images_dirfd = FM_TAKE_FD(images);
	c->inventory = -1;
	c->hide_maps = o && o->hide_memory && o->hide_maps;
	c->state = CRIU_NEW;
	if (c->process.view_fd >= 0 && fm_criu_view_new(FM_TAKE_FD(c->process.view_fd), c->process.pid, &c->view, err) < 0) {
		fm_criu_free(c);
		return -1;
	}
	*ret = c;
	return 0;
}

int fm_criu_install_probe(const char *prefix, int min_version, struct fm_criu_install *ret, struct fm_error *err)
{
	_fm_cleanup_(fm_criu_freep) struct fm_criu *c = NULL;
	struct fm_criu_install found = { .version = 0 };

	if (min_version <= 0)
		min_version = FM_CRIU_MIN_VERSION;
	if (fm_snprintf(found.prefix, sizeof(found.prefix), err, "%s", prefix) < 0)
		return -1;
	if (start(prefix, NULL, &c, err) < 0) {
		if (err)
			err->code = FM_E_FAILED_PRECONDITION;
		return -1;
	}
	if (ask_version(c, &found.version, err) < 0) {
		fm_error_prefix(err, "CRIU in %s", prefix);
		with_log(c, NULL, "CRIU does not work", err);
		if (err)
			err->code = FM_E_FAILED_PRECONDITION;
		return fm_error_hint(err, "run tools/setup/install-criu.sh --prefix %s", prefix);
	}
	snprintf(found.version_text, sizeof(found.version_text), "%d.%d.%d", found.version / 10000, found.version / 100 % 100,
	         found.version % 100);
	if (found.version < min_version) {
		fm_error_set(err, FM_E_FAILED_PRECONDITION, "CRIU %s in %s is too old: %d.%d.%d or newer is needed", found.version_text,
		             prefix, min_version / 10000, min_version / 100 % 100, min_version % 100);
		return fm_error_hint(err, "run tools/setup/install-criu.sh --prefix %s", prefix);
	}
	*ret = found;
	return 0;
}

int fm_criu_start(const struct fm_criu_install *inst, const struct fm_criu_start_opts *o, struct fm_criu **ret, struct fm_error *err)
{
	_fm_cleanup_(fm_criu_freep) struct fm_criu *c = NULL;

	if (o->images_dirfd < 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "CRIU needs an images folder");
	if (start(inst->prefix, o, &c, err) < 0)
		return -1;
	if (feature_check(c, err) < 0)
		return with_log(c, NULL, "CRIU cannot be made ready", err);
	*ret = FM_TAKE_PTR(c);
	return 0;
}

void fm_criu_free(struct fm_criu *c)
{
	if (!c)
		return;
	give_up(c);
	if (c->images_dirfd >= 0)
		fm_criu_remove_litter(c->images_dirfd);
	fm_criu_view_free(c->view);
	fm_smaps_free(c->smaps);
	fm_closep(&c->images_dirfd);
	fm_closep(&c->inventory);
	fm_closep(&c->process.pidfd);
	fm_closep(&c->process.socket);
	fm_closep(&c->process.stderr_fd);
	free(c);
}

pid_t fm_criu_pid(const struct fm_criu *c)
{
	return c->process.pid;
}

/* Until `script`; anything else is a failure, after which this CRIU is done for. */
static int reach(struct fm_criu *c, const char *script, const struct patience *p, const char *log_file, const char *what,
                 FmCriuResponse **ret, struct fm_error *err)
{
	_response_ FmCriuResponse *r = NULL;

	if (converse(c, script, p, &r, err) < 0) {
		abandon(c);
		return with_log(c, log_file, what, err);
	}
	if (r->type != FM_CRIU_TYPE__FM_CRIU_NOTIFY) {
		abandon(c);
		return criu_error(c, code_of(r), log_file, what, err);
	}
	if (ret)
		*ret = FM_TAKE_PTR(r);
	return 0;
}

/* The tree is frozen: which pages CRIU was not shown. */
static int list_hidden(struct fm_criu *c, struct fm_error *err)
{
	_fm_free_ struct fm_lazy_range *v = NULL;
	size_t n = 0;

	if (fm_criu_view_ranges(c->view, &v, &n, err) < 0)
		return -1;
	return fm_images_write_lazy(c->images_dirfd, v, n, err);
}

static void dump_what(const struct fm_criu_dump_opts *o, char buf[64])
{
	snprintf(buf, 64, "CRIU could not dump process %d", (int)o->root_ns_pid);
}

int fm_criu_dump_prepare(struct fm_criu *c, const struct fm_criu_dump_opts *o, struct fm_error *err)
{
	FmCriuOpts opts = FM_CRIU_OPTS__INIT;
	struct patience p = patience_ms(o->timeout_ms, o->cancel_fd);
	char what[64];

	if (check_ready(c, CRIU_NEW, o->lazy, err) < 0)
		return -1;
	if (o->hide > 0 && (o->lazy || !c->view))
		return fm_error_set(err, FM_E_INTERNAL, "CRIU was not started for a dump with hidden memory");
	common_opts(&opts, DUMP_LOG, o->log_level, o->timeout_ms, o->lazy);
	opts.has_pid = 1;
	opts.pid = o->root_ns_pid;
	dump_what(o, what);
	if (send_opts(c, FM_CRIU_TYPE__FM_CRIU_DUMP, &opts, err) < 0) {
		abandon(c);
		return with_log(c, DUMP_LOG, what, err);
	}
	if (reach(c, "pre-dump", &p, DUMP_LOG, what, NULL, err) < 0)
		return -1;
	c->state = CRIU_DUMP_READY;
	return 0;
}

/* Without this CRIU asks the kernel, which only takes longer. */
void fm_criu_dump_look(struct fm_criu *c, pid_t root)
{
	fm_smaps_free(c->smaps);
	c->smaps = NULL;
	if (c->hide_maps)
		(void)fm_smaps_look(root, &c->smaps, NULL);
}

int fm_criu_dump_begin(struct fm_criu *c, const struct fm_criu_dump_opts *o, struct fm_error *err)
{
	struct patience p = patience_ms(o->timeout_ms, o->cancel_fd);
	char what[64];

	if (c->state != CRIU_DUMP_READY && fm_criu_dump_prepare(c, o, err) < 0)
		return -1;
	dump_what(o, what);
	if (o->hide > 0)
		fm_criu_view_hide(c->view, o->hide, o->frozen_fd, FM_TAKE_PTR(c->smaps));
	c->state = CRIU_DUMPING;
	if (acknowledge(c, true, err) < 0) {
		abandon(c);
		return with_log(c, DUMP_LOG, what, err);
	}
	if (reach(c, "post-dump", &p, DUMP_LOG, what, NULL, err) < 0)
		return -1;
	if (o->hide > 0 && list_hidden(c, err) < 0) {
		abandon(c);
		return fm_error_prefix(err, "%s", what);
	}
	c->state = CRIU_DUMPED;
	return 0;
}

int fm_criu_dump_verify(struct fm_criu *c, struct fm_error *err)
{
	return c->view ? fm_criu_view_verify(c->view, err) : 0;
}

int fm_criu_dump_end(struct fm_criu *c, int timeout_ms, struct fm_error *err)
{
	struct patience p = patience_ms(timeout_ms, -1);
	_response_ FmCriuResponse *r = NULL;

	if (check_ready(c, CRIU_DUMPED, false, err) < 0)
		return -1;
	if (acknowledge(c, false, err) < 0 || converse(c, NULL, &p, &r, err) < 0) {
		abandon(c);
		return with_log(c, DUMP_LOG, "CRIU did not let go of the dumped processes properly", err);
	}
	if (!wait_end(c, fm_deadline_left_ms(p.deadline))) {
		kill_criu(c); /* has answered, i.e. holds nothing any more */
		return 0;
	}
	return 0;
}

/* Has CRIU come to its first image? Then *ret is our end of the pipe. 0: not yet */
static int open_inventory(struct fm_criu *c, int *ret, struct fm_error *err)
{
	int fd = openat(c->images_dirfd, INVENTORY, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0 && errno != ENXIO)
		return fm_error_errno(err, errno, "cannot open the pipe to CRIU");
	*ret = fd;
	return fd >= 0;
}

/* Wait until it has, or says why it never will. */
static int await_inventory(struct fm_criu *c, const struct patience *p, struct fm_error *err)
{
	for (;;) {
		struct patience tick = { .deadline = fm_now_ms() + 1, .cancel_fd = p->cancel_fd };
		struct fm_error why = FM_ERROR_INIT;
		_response_ FmCriuResponse *r = NULL;
		int got = open_inventory(c, &c->inventory, err);

		if (got != 0)
			return got < 0 ? -1 : 0;
		if (tick.deadline > p->deadline)
			tick.deadline = p->deadline;
		if (receive(c, &tick, &r, &why) == 0)
			return criu_error(c, code_of(r), RESTORE_LOG, "CRIU cannot be made ready", err);
		if (why.code != FM_E_DEADLINE_EXCEEDED || fm_deadline_left_ms(p->deadline) == 0) {
			if (err)
				*err = why;
			return -1;
		}
	}
}

static int send_restore(struct fm_criu *c, const struct fm_criu_restore_opts *o, struct fm_error *err)
{
	FmCriuOpts opts = FM_CRIU_OPTS__INIT;

	common_opts(&opts, RESTORE_LOG, o->log_level, o->timeout_ms, o->lazy);
	return send_opts(c, FM_CRIU_TYPE__FM_CRIU_RESTORE, &opts, err);
}

int fm_criu_restore_prepare(struct fm_criu *c, const struct fm_criu_restore_opts *o, struct fm_error *err)
{
	struct patience p = patience_ms(o->timeout_ms, o->cancel_fd);
	int result;

	if (check_ready(c, CRIU_NEW, o->lazy, err) < 0)
		return -1;
	if (mkfifoat(c->images_dirfd, INVENTORY, 0600) < 0)
		return fm_error_errno(err, errno, "cannot make a pipe in the images folder");
	result = send_restore(c, o, err);
	if (result == 0)
		result = await_inventory(c, &p, err);
	(void)unlinkat(c->images_dirfd, INVENTORY, 0);
	if (result < 0) {
		abandon(c);
		return fm_error_prefix(err, "preparing the restore");
	}
	c->state = CRIU_RESTORE_READY;
	return 0;
}

/* The real inventory.img into the pipe. */
static int feed_inventory(struct fm_criu *c, struct fm_error *err)
{
	_fm_close_ int pipe_fd = FM_TAKE_FD(c->inventory);
	_fm_close_ int fd = openat(c->images_dirfd, INVENTORY, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	ssize_t n = fd >= 0 ? read(fd, c->buffer, sizeof(c->buffer)) : -1;

	if (n < 0)
		return fm_error_errno(err, errno, "cannot read image %s", INVENTORY);
	/* An empty pipe takes 64 KiB at once; a real inventory has some hundred bytes. */
	if (fm_criu_write_quietly(pipe_fd, c->buffer, (size_t)n) != n)
		return fm_error_set(err, FM_E_UNAVAILABLE, "CRIU does not take image %s", INVENTORY);
	return 0;
}

int fm_criu_restore_begin(struct fm_criu *c, const struct fm_criu_restore_opts *o, pid_t *ret_root, struct fm_error *err)
{
	static const char what[] = "CRIU could not restore";
	struct patience p = patience_ms(o->timeout_ms, o->cancel_fd);
	_response_ FmCriuResponse *r = NULL;
	bool prepared = c->state == CRIU_RESTORE_READY;

	if (check_ready(c, prepared ? CRIU_RESTORE_READY : CRIU_NEW, o->lazy, err) < 0)
		return -1;
	c->state = CRIU_RESTORING;
	if ((prepared ? feed_inventory(c, err) : send_restore(c, o, err)) < 0) {
		abandon(c);
		return with_log(c, RESTORE_LOG, what, err);
	}
	if (reach(c, "post-restore", &p, RESTORE_LOG, what, &r, err) < 0)
		return -1;
	if (find_child(c, r->notify->pid, &c->root, err) < 0)
		return abandon(c);
	c->state = CRIU_RESTORED;
	*ret_root = c->root;
	return 0;
}

int fm_criu_restore_commit(struct fm_criu *c, int timeout_ms, struct fm_error *err)
{
	struct patience p = patience_ms(timeout_ms, -1);
	_response_ FmCriuResponse *r = NULL;

	if (check_ready(c, CRIU_RESTORED, false, err) < 0)
		return -1;
	if (acknowledge(c, true, err) < 0 || converse(c, NULL, &p, &r, err) < 0) {
		abandon(c);
		return with_log(c, RESTORE_LOG, "CRIU did not finish the restore", err);
	}
	if (!r->success) {
		abandon(c);
		return criu_error(c, FM_E_INTERNAL, RESTORE_LOG, "CRIU did not finish the restore", err);
	}
	/* Until it has ended, it is the tree's parent. */
	if (!wait_end(c, fm_deadline_left_ms(p.deadline)))
		kill_criu(c);
	return 0;
}

int fm_criu_restore_abort(struct fm_criu *c, int timeout_ms, struct fm_error *err)
{
	struct patience p = patience_ms(timeout_ms, -1);
	_fm_free_ struct fm_proc_id *ids = NULL;
	_fm_free_ pid_t *tree = NULL;
	_response_ FmCriuResponse *r = NULL;
	size_t n = 0;

	if (check_ready(c, CRIU_RESTORED, false, err) < 0)
		return -1;
	if (fm_proc_tree(c->root, &tree, &n, NULL) == 0 && n > 0)
		ids = calloc(n, sizeof(*ids));
	for (size_t i = 0; ids && i < n; i++)
		if (fm_proc_identify(tree[i], &ids[i], NULL) < 0)
			ids[i].pid = 0;
	if (acknowledge(c, false, NULL) < 0 || converse(c, NULL, &p, &r, NULL) < 0 || !wait_end(c, fm_deadline_left_ms(p.deadline)))
		abandon(c);
	/* CRIU has killed them; wait, and do not trust. */
	for (size_t i = 0; ids && i < n; i++) {
		if (ids[i].pid == 0)
			continue;
		if (fm_proc_alive(&ids[i]))
			(void)kill(ids[i].pid, SIGKILL);
		if (fm_proc_wait_gone(&ids[i], fm_deadline_left_ms(p.deadline) + 1000, err) < 0)
			return fm_error_prefix(err, "what was restored could not be removed");
	}
	return 0;
}
