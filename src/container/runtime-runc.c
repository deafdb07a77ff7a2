/* SPDX-License-Identifier: MIT */
/*
 * runtime-runc.c - the runtime driver for runc (1.1 and later), by its command line.
 *
 * runc writes its own log as JSON into a memory file of ours (--log /proc/self/fd/N), so that its last error can be told to the user
 * word for word, whatever happens to its stdio, which for create and restore belongs to the container.
 *
 * Checkpoint without losing anything: the container is paused first. CRIU notes that it found the cgroup frozen, thaws it only after
 * every task is held by ptrace, and freezes it again before it lets the tasks go. So with --leave-running the source is complete and
 * stands still after the dump, until somebody resumes or removes it.
 *
 * CRIU's options that runc has no switch for go through a file named in the annotation org.criu.config of the (instance's own) bundle.
 */
#include "container/runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "container/bundle.h"
#include "container/criu-log.h"
#include "loop/child.h"

#define RUNC_TIMEOUT_MS      30000
#define RUNC_CRIU_TIMEOUT_MS 600000 /* killing CRIU half-way is worse than waiting */
#define RUNC_MAX_LOG_BYTES   (1u << 20)
#define RUNC_MAX_LIST_BYTES  (16u << 20) /* FM_MAX_CONTAINERS_PER_HOST of about 1 KiB, annotations included */

struct runc {
	struct fm_runtime rt; /* first */
	char *program;
	char *root;
	char *criu;
};

/* One call of the program. */
struct runc_call {
	char **args;        /* behind the global options */
	const char *id;     /* for messages; may be NULL */
	bool criu;          /* pass --criu */
	int out_fd, err_fd; /* 0 = captured by fm_child_run */
	int timeout_ms;     /* 0 = RUNC_TIMEOUT_MS */
};

static struct runc *runc_of(struct fm_runtime *rt)
{
	return (struct runc *)rt;
}

/* ---- running it */

static int memory_file(const char *name, int *ret_fd, struct fm_error *err)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	if (fd < 0)
		return fm_error_errno(err, errno, "making a memory file");
	*ret_fd = fd;
	return 0;
}

static int read_memory_file(int fd, size_t max, char **ret, struct fm_error *err)
{
	char path[64];

	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return fm_read_file(path, max, ret, NULL, err);
}

/* The message of the last line of level error or fatal; NULL when there is none. */
static char *last_error_message(int log_fd)
{
	_fm_free_ char *log = NULL;
	char *found = NULL, *save = NULL;

	if (read_memory_file(log_fd, RUNC_MAX_LOG_BYTES, &log, NULL) < 0)
		return NULL;
	for (char *line = strtok_r(log, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		_fm_cleanup_(json_decrefp) json_t *o = json_loads(line, 0, NULL);
		const char *level = json_string_value(json_object_get(o, "level"));
		const char *msg = json_string_value(json_object_get(o, "msg"));

		if (!msg || !(fm_streq(level, "error") || fm_streq(level, "fatal")))
			continue;
		free(found);
		found = fm_xstrdup(msg);
	}
	return found;
}

static enum fm_code code_of_message(const char *msg)
{
	if (strstr(msg, "container does not exist"))
		return FM_E_NOT_FOUND;
	if (strstr(msg, "container with given ID already exists") || strstr(msg, "container with id exists"))
		return FM_E_ALREADY_EXISTS;
	return FM_E_FAILED_PRECONDITION;
}

static int report(const struct runc *r, const struct runc_call *c, int log_fd, const struct fm_error *child, struct fm_error *err)
{
	_fm_free_ char *msg = last_error_message(log_fd);
	const char *id = c->id ? c->id : "";
	enum fm_code code = child->code;

	if (msg && code == FM_E_FAILED_PRECONDITION)
		code = code_of_message(msg);
	(void)fm_error_set(err, code, "%s %s%s%s: %s", r->program, c->args[0], *id ? " " : "", id, msg ? msg : child->message);
	if (*child->hint)
		(void)fm_error_hint(err, "%s", child->hint);
	if (err)
		err->sys_errno = child->sys_errno;
	return -1;
}

/* ret_out (may be NULL) gets the captured stdout. */
static int runc_run(const struct runc *r, const struct runc_call *c, char **ret_out, struct fm_error *err)
{
	_fm_cleanup_(fm_strv_freep) char **argv = NULL;
	_fm_close_ int log_fd = -1;
	struct fm_child_result res = { 0 };
	struct fm_error child = FM_ERROR_INIT;
	struct fm_child_opts opts = { .timeout_ms = c->timeout_ms ? c->timeout_ms : RUNC_TIMEOUT_MS,
		                      .stdout_fd = c->out_fd,
		                      .stderr_fd = c->err_fd };
	int keep[2] = { -1, -1 };
	char log_path[64];

	if (memory_file("runc-log", &log_fd, err) < 0)
		return -1;
	(void)snprintf(log_path, sizeof log_path, "/proc/self/fd/%d", log_fd);
	keep[0] = log_fd;
	opts.keep_fds = keep;
	fm_strv_add(&argv, r->program);
	fm_strv_add(&argv, "--root");
	fm_strv_add(&argv, r->root);
	fm_strv_add(&argv, "--log");
	fm_strv_add(&argv, log_path);
	fm_strv_add(&argv, "--log-format");
	fm_strv_add(&argv, "json");
	if (c->criu) {
		fm_strv_add(&argv, "--criu");
		fm_strv_add(&argv, r->criu);
	}
	for (size_t i = 0; c->args[i]; i++)
		fm_strv_add(&argv, c->args[i]);
	if (fm_child_run(argv, &opts, &res, &child) < 0)
		return report(r, c, log_fd, &child, err);
	if (ret_out)
		*ret_out = FM_TAKE_PTR(res.out);
	fm_child_result_done(&res);
	return 0;
}

/* An id becomes an argument and a folder's name: nothing that looks like an option or leaves the folder. */
static int check_id(const char *id, struct fm_error *err)
{
	static const char first[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
	static const char rest[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.+-";
	size_t n = id ? strlen(id) : 0;

	if (n == 0 || n >= sizeof((struct fm_instance *)NULL)->id || !strchr(first, id[0]) || strspn(id, rest) != n)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%.140s' is not a container id", id ? id : "");
	return 0;
}

/* "runc VERB ARG… ID", nothing wanted of its output. */
static int simple(struct fm_runtime *rt, const char *verb, const char *arg, const char *id, const char *last, struct fm_error *err)
{
	char *args[5] = { (char *)verb };
	struct runc_call c = { .args = args, .id = id };
	size_t n = 1;

	if (check_id(id, err) < 0)
		return -1;
	if (arg)
		args[n++] = (char *)arg;
	args[n++] = (char *)id;
	if (last)
		args[n++] = (char *)last;
	return runc_run(runc_of(rt), &c, NULL, err);
}

/* ---- state */

static enum fm_container_status status_of(const char *s)
{
	for (enum fm_container_status i = FM_CONTAINER_CREATED; i <= FM_CONTAINER_STOPPED; i++)
		if (fm_streq(s, fm_container_status_to_string(i)))
			return i;
	return fm_streq(s, "pausing") ? FM_CONTAINER_PAUSED : FM_CONTAINER_UNKNOWN;
}

/* RFC 3339 in UTC, as runc writes it; 0 when it is something else. */
static uint64_t time_of(const char *s)
{
	struct tm tm = { 0 };
	char *end = s ? strptime(s, "%Y-%m-%dT%H:%M:%S", &tm) : NULL;
	uint64_t ms = 0;
	time_t t;

	if (!end)
		return 0;
	if (*end == '.') {
		unsigned scale = 100;

		for (end++; *end >= '0' && *end <= '9'; end++, scale /= 10)
			ms += (uint64_t)(*end - '0') * scale;
	}
	t = timegm(&tm);
	return t < 0 ? 0 : (uint64_t)t * 1000 + ms;
}

static int instance_of(json_t *o, struct fm_instance *ret, struct fm_error *err)
{
	const char *id = json_string_value(json_object_get(o, "id"));
	const char *bundle = json_string_value(json_object_get(o, "bundle"));
	const char *name = json_string_value(json_object_get(json_object_get(o, "annotations"), FM_ANNOTATION_NAME));
	json_int_t pid = json_integer_value(json_object_get(o, "pid"));
	struct fm_instance i = { 0 };

	if (!id)
		return fm_error_set(err, FM_E_INTERNAL, "the runtime reports a container without an id");
	if (fm_snprintf(i.id, sizeof i.id, err, "%s", id) < 0 ||
	    fm_snprintf(i.bundle, sizeof i.bundle, err, "%s", bundle ? bundle : "") < 0)
		return fm_error_prefix(err, "a container of the runtime");
	if (fm_name_is_valid(name)) /* anything else cannot be ours */
		(void)snprintf(i.owner_name, sizeof i.owner_name, "%s", name);
	(void)snprintf(i.runtime, sizeof i.runtime, "runc");
	(void)snprintf(i.name, sizeof i.name, "%s", i.id);
	i.nested = fm_streq(json_string_value(json_object_get(json_object_get(o, "annotations"), FM_ANNOTATION_KIND)), "nested");
	i.status = status_of(json_string_value(json_object_get(o, "status")));
	i.pid = i.status == FM_CONTAINER_STOPPED || pid < 0 || pid > INT32_MAX ? 0 : (pid_t)pid;
	i.created_ms = time_of(json_string_value(json_object_get(o, "created")));
	*ret = i;
	return 0;
}

static int run_json(const struct runc *r, struct runc_call *c, json_t **ret, struct fm_error *err)
{
	_fm_close_ int out = -1;
	_fm_free_ char *text = NULL;
	json_error_t e;
	json_t *o;

	/* not captured by fm_child_run, which keeps 64 KiB only */
	if (memory_file("runc-out", &out, err) < 0)
		return -1;
	c->out_fd = out;
	if (runc_run(r, c, NULL, err) < 0 || read_memory_file(out, RUNC_MAX_LIST_BYTES, &text, err) < 0)
		return -1;
	o = json_loads(text, JSON_DECODE_ANY, &e);
	if (!o)
		return fm_error_set(err, FM_E_INTERNAL, "%s %s prints no JSON: line %d: %s", r->program, c->args[0], e.line, e.text);
	*ret = o;
	return 0;
}

static int runc_list(struct fm_runtime *rt, struct fm_instance **ret, size_t *ret_n, struct fm_error *err)
{
	char *args[] = { "list", "--format", "json", NULL };
	struct runc_call c = { .args = args };
	_fm_cleanup_(json_decrefp) json_t *list = NULL;
	_fm_free_ struct fm_instance *v = NULL;
	size_t n;

	if (run_json(runc_of(rt), &c, &list, err) < 0)
		return -1;
	n = json_is_array(list) ? json_array_size(list) : 0; /* "null" when there is nothing */
	if (n > FM_MAX_CONTAINERS_PER_HOST)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "%zu containers on one host, the limit is %d", n,
		                    FM_MAX_CONTAINERS_PER_HOST);
	v = calloc(n ? n : 1, sizeof *v);
	if (!v)
		return fm_error_errno(err, ENOMEM, "listing containers");
	for (size_t i = 0; i < n; i++)
		if (instance_of(json_array_get(list, i), &v[i], err) < 0)
			return -1;
	*ret = FM_TAKE_PTR(v);
	*ret_n = n;
	return 0;
}

static int runc_state(struct fm_runtime *rt, const char *id, struct fm_instance *ret, struct fm_error *err)
{
	char *args[] = { "state", (char *)id, NULL };
	struct runc_call c = { .args = args, .id = id };
	_fm_cleanup_(json_decrefp) json_t *o = NULL;

	if (check_id(id, err) < 0 || run_json(runc_of(rt), &c, &o, err) < 0)
		return -1;
	return instance_of(o, ret, err);
}

static int runc_version(struct fm_runtime *rt, char *buf, size_t cap, struct fm_error *err)
{
	char *args[] = { "--version", NULL };
	struct runc_call c = { .args = args };
	_fm_free_ char *out = NULL;

	if (runc_run(runc_of(rt), &c, &out, err) < 0)
		return -1;
	out[strcspn(out, "\n")] = '\0';
	return fm_snprintf(buf, cap, err, "%s", fm_str_startswith(out, "runc version ") ? out + strlen("runc version ") : out);
}

/* ---- life */

static int runc_create(struct fm_runtime *rt, const char *id, const char *bundle, int log_fd, struct fm_error *err)
{
	char *args[] = { "create", "--bundle", (char *)bundle, (char *)id, NULL };
	struct runc_call c = { .args = args, .id = id, .out_fd = log_fd, .err_fd = log_fd };

	if (check_id(id, err) < 0)
		return -1;
	if (log_fd <= 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "creating %s without a log", id);
	return runc_run(runc_of(rt), &c, NULL, err);
}

static int runc_start(struct fm_runtime *rt, const char *id, struct fm_error *err)
{
	return simple(rt, "start", NULL, id, NULL, err);
}

/* Keeps local, the failure, unless the instance is in a state in which nothing had to be done. */
static int forgive(struct fm_runtime *rt, const char *id, enum fm_container_status wanted, const struct fm_error *local,
                   struct fm_error *err)
{
	struct fm_instance i = { 0 };

	if (local->code == FM_E_FAILED_PRECONDITION && runc_state(rt, id, &i, NULL) == 0 && i.status == wanted)
		return 0;
	if (err)
		*err = *local;
	return -1;
}

static int runc_kill(struct fm_runtime *rt, const char *id, int signal, struct fm_error *err)
{
	struct fm_error local = FM_ERROR_INIT;
	char number[16];

	if (signal < 1 || signal > SIGRTMAX)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%d is not a signal", signal);
	(void)snprintf(number, sizeof number, "%d", signal);
	if (simple(rt, "kill", NULL, id, number, &local) == 0 || local.code == FM_E_NOT_FOUND)
		return 0;
	return forgive(rt, id, FM_CONTAINER_STOPPED, &local, err);
}

static int runc_pause(struct fm_runtime *rt, const char *id, struct fm_error *err)
{
	struct fm_error local = FM_ERROR_INIT;

	return simple(rt, "pause", NULL, id, NULL, &local) == 0 ? 0 : forgive(rt, id, FM_CONTAINER_PAUSED, &local, err);
}

static int runc_resume(struct fm_runtime *rt, const char *id, struct fm_error *err)
{
	struct fm_error local = FM_ERROR_INIT;

	return simple(rt, "resume", NULL, id, NULL, &local) == 0 ? 0 : forgive(rt, id, FM_CONTAINER_RUNNING, &local, err);
}

static int runc_remove(struct fm_runtime *rt, const char *id, struct fm_error *err)
{
	struct fm_error local = FM_ERROR_INIT;

	if (simple(rt, "delete", "--force", id, NULL, &local) == 0 || local.code == FM_E_NOT_FOUND)
		return 0;
	if (err)
		*err = local;
	return -1;
}

/* ---- checkpoint and restore */

/* The errors of CRIU's log behind the message, and what to do about them: runc says only "criu failed". */
static int add_criu_reason(const char *work_dir, const char *log_name, struct fm_error *err)
{
	_fm_close_ int fd = open(work_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char errors[600];
	struct fm_error old;

	if (!err || fd < 0)
		return -1;
	fm_criu_log_errors(fd, log_name, -1, errors, sizeof(errors));
	if (errors[0] == '\0')
		return -1;
	old = *err;
	const char *advice = fm_criu_log_advice(errors);
	(void)fm_error_set(err, old.code, "%.300s; CRIU says: %s", old.message, errors);
	if (advice)
		return fm_error_hint(err, "%s", advice);
	return *old.hint ? fm_error_hint(err, "%s", old.hint) : fm_error_hint(err, "see %s/%s", work_dir, log_name);
}

static int check_criu(const struct runc *r, const char *verb, const char *id, struct fm_error *err)
{
	if (r->criu)
		return 0;
	(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "cannot %s %s: no CRIU is set up", verb, id);
	return fm_error_hint(err, "run tools/setup/install-criu.sh and set the agent's CRIU prefix");
}

static int checkpoint_paused(struct runc *r, const char *id, const struct fm_checkpoint_opts *o, struct fm_error *err)
{
	char *args[] = { "checkpoint",  "--leave-running",   "--file-locks", "--image-path", (char *)o->image_dir,
		         "--work-path", (char *)o->work_dir, (char *)id,     NULL,           NULL };
	struct runc_call c = { .args = args, .id = id, .criu = true, .timeout_ms = o->timeout_ms ? o->timeout_ms : RUNC_CRIU_TIMEOUT_MS };
	size_t n = fm_strv_len(args);
	struct fm_instance i = { 0 };

	if (o->tcp_established) {
		args[n] = args[n - 1];
		args[n - 1] = "--tcp-established";
	}
	if (runc_run(r, &c, NULL, err) < 0)
		return add_criu_reason(o->work_dir, "dump.log", err);
	/* What the whole switch-over rests on is looked at, not believed. */
	if (runc_state(&r->rt, id, &i, err) < 0)
		return -1;
	if (i.status != FM_CONTAINER_PAUSED)
		return fm_error_set(err, FM_E_INTERNAL, "container %s is %s after its checkpoint, it should have stayed paused", id,
		                    fm_container_status_to_string(i.status));
	return 0;
}

static int runc_checkpoint(struct fm_runtime *rt, const char *id, const struct fm_checkpoint_opts *o, struct fm_error *err)
{
	struct runc *r = runc_of(rt);
	struct fm_instance i = { 0 };

	if (check_id(id, err) < 0 || check_criu(r, "checkpoint", id, err) < 0 || runc_state(rt, id, &i, err) < 0)
		return -1;
	if (i.status != FM_CONTAINER_RUNNING && i.status != FM_CONTAINER_PAUSED)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "container %s is %s, only a running one can be checkpointed", id,
		                    fm_container_status_to_string(i.status));
	if (fm_mkdir_p(o->image_dir, 0700, err) < 0 || fm_mkdir_p(o->work_dir, 0700, err) < 0)
		return -1;
	if (i.status == FM_CONTAINER_RUNNING && runc_pause(rt, id, err) < 0)
		return -1;
	if (checkpoint_paused(r, id, o, err) < 0) {
		if (i.status == FM_CONTAINER_RUNNING) /* as it was found; ignoring a failure, the caller rolls back anyway */
			(void)runc_resume(rt, id, NULL);
		return -1;
	}
	return 0;
}

/* Names the file with CRIU's options in the bundle; removes the name when there is none, so that a second try does not meet the
 * first one's. */
static int set_criu_config(const char *bundle, const char *criu_config, struct fm_error *err)
{
	_fm_free_ char *path = fm_xasprintf("%s/config.json", bundle);
	_fm_free_ char *text = NULL, *out = NULL;
	_fm_cleanup_(json_decrefp) json_t *config = NULL;
	json_t *annotations;
	json_error_t e;

	if (fm_read_file(path, FM_MAX_CONFIG_BYTES, &text, NULL, err) < 0)
		return -1;
	config = json_loads(text, JSON_REJECT_DUPLICATES, &e);
	if (!json_is_object(config))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s: line %d: %s", path, e.line, e.text);
	annotations = json_object_get(config, "annotations");
	if (!criu_config) {
		if (!json_object_get(annotations, "org.criu.config"))
			return 0;
		(void)json_object_del(annotations, "org.criu.config");
	} else {
		if (!json_is_object(annotations)) {
			annotations = json_object();
			if (json_object_set_new(config, "annotations", annotations) < 0)
				return fm_error_errno(err, ENOMEM, "changing %s", path);
		}
		if (json_object_set_new(annotations, "org.criu.config", json_string(criu_config)) < 0)
			return fm_error_errno(err, EINVAL, "changing %s", path);
	}
	out = json_dumps(config, JSON_INDENT(2));
	if (!out)
		return fm_error_errno(err, ENOMEM, "changing %s", path);
	return fm_write_file_atomic(path, out, strlen(out), 0600, err);
}

static int runc_restore(struct fm_runtime *rt, const char *id, const struct fm_restore_opts *o, struct fm_error *err)
{
	struct runc *r = runc_of(rt);
	char *args[] = { "restore",
		         "--detach",
		         "--file-locks",
		         "--bundle",
		         (char *)o->bundle,
		         "--image-path",
		         (char *)o->image_dir,
		         "--work-path",
		         (char *)o->work_dir,
		         (char *)id,
		         NULL,
		         NULL };
	struct runc_call c = { .args = args,
		               .id = id,
		               .criu = true,
		               .out_fd = o->log_fd,
		               .err_fd = o->log_fd,
		               .timeout_ms = o->timeout_ms ? o->timeout_ms : RUNC_CRIU_TIMEOUT_MS };
	size_t n = fm_strv_len(args);

	if (check_id(id, err) < 0 || check_criu(r, "restore", id, err) < 0)
		return -1;
	if (o->log_fd <= 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "restoring %s without a log", id);
	if (fm_mkdir_p(o->work_dir, 0700, err) < 0 || set_criu_config(o->bundle, o->criu_config, err) < 0)
		return -1;
	if (o->tcp_established) {
		args[n] = args[n - 1];
		args[n - 1] = "--tcp-established";
	}
	if (runc_run(r, &c, NULL, err) == 0)
		return 0;
	return add_criu_reason(o->work_dir, "restore.log", err);
}

/* ---- the object */

static void runc_free(struct fm_runtime *rt)
{
	struct runc *r = runc_of(rt);

	free(r->program);
	free(r->root);
	free(r->criu);
	free(r);
}

static const struct fm_runtime_ops runc_ops = {
	.name = "runc",
	.traits = FM_RUNTIME_CHECKPOINTS,
	.version = runc_version,
	.list = runc_list,
	.state = runc_state,
	.create = runc_create,
	.start = runc_start,
	.kill = runc_kill,
	.pause = runc_pause,
	.resume = runc_resume,
	.remove = runc_remove,
	.checkpoint = runc_checkpoint,
	.restore = runc_restore,
	.free = runc_free,
};

int fm_runtime_runc_new(const char *program, const char *root, const char *criu, struct fm_runtime **ret, struct fm_error *err)
{
	struct runc *r;

	if (!program || !*program || !root || root[0] != '/' || (criu && criu[0] != '/'))
		return fm_error_set(
		        err, FM_E_INVALID_ARGUMENT,
		        "runc needs a program, an absolute root folder and an absolute path of CRIU (program '%s', root '%s', criu '%s')",
		        program ? program : "", root ? root : "", criu ? criu : "");
	r = calloc(1, sizeof *r);
	if (!r)
		return fm_error_errno(err, ENOMEM, "making the runc driver");
	r->rt.ops = &runc_ops;
	r->program = fm_xstrdup(program);
	r->root = fm_xstrdup(root);
	r->criu = criu ? fm_xstrdup(criu) : NULL;
	*ret = &r->rt;
	return 0;
}
