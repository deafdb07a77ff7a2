/* SPDX-License-Identifier: MIT */
/* runtimes.c - see runtimes.h. */
#include "container/runtimes.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/proc.h"
#include "basic/str.h"

#define LOOK_AGAIN_MS 1000

struct one {
	struct fm_runtime *rt;
	char *socket; /* NULL: a program */
	int watch_fd; /* -1: none (yet) */
	uint64_t looked_ms;
	struct fm_instance *last; /* its last answer; guarded by the set's lock */
	size_t n_last;
};

struct fm_runtimes {
	struct fm_runtime all; /* first */
	pthread_mutex_t lock;
	struct one v[FM_MAX_RUNTIMES];
	size_t n;
};

static struct fm_runtimes *set_of(struct fm_runtime *rt)
{
	return (struct fm_runtimes *)rt;
}

static bool is_there(const struct one *o)
{
	return !o->socket || access(o->socket, F_OK) == 0;
}

/* ---- listing */

static int append(struct fm_instance **v, size_t *n, const struct fm_instance *more, size_t n_more, struct fm_error *err)
{
	if (n_more == 0)
		return 0;
	if (*n + n_more > FM_MAX_CONTAINERS_PER_HOST)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "more than %d containers on one host", FM_MAX_CONTAINERS_PER_HOST);
	struct fm_instance *bigger = realloc(*v, (*n + n_more) * sizeof(**v));
	if (!bigger)
		return fm_error_errno(err, ENOMEM, "listing containers");
	memcpy(bigger + *n, more, n_more * sizeof(**v));
	*v = bigger;
	*n += n_more;
	return 0;
}

static void remember(struct fm_runtimes *s, struct one *o, const struct fm_instance *v, size_t n)
{
	struct fm_instance *copy = n ? malloc(n * sizeof(*v)) : NULL;

	if (n && !copy)
		return; /* the older answer is better than none */
	if (n)
		memcpy(copy, v, n * sizeof(*v));
	pthread_mutex_lock(&s->lock);
	free(o->last);
	o->last = copy;
	o->n_last = n;
	pthread_mutex_unlock(&s->lock);
}

/* Those of its last answer that live. */
static int recall(struct fm_runtimes *s, struct one *o, struct fm_instance **ret, size_t *ret_n, struct fm_error *err)
{
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < o->n_last && rc == 0; i++)
		if (o->last[i].pid > 0 && kill(o->last[i].pid, 0) == 0)
			rc = append(ret, ret_n, &o->last[i], 1, err);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

/* Whether it answered, or had nothing to be asked for, or had to be remembered, is the same to who wants to know what there is. */
static int ask(struct fm_runtimes *s, struct one *o, struct fm_instance **ret, size_t *ret_n, struct fm_error *err)
{
	_fm_free_ struct fm_instance *v = NULL;
	struct fm_error e = FM_ERROR_INIT;
	size_t n = 0;

	if (!is_there(o))
		return recall(s, o, ret, ret_n, err);
	if (o->rt->ops->list(o->rt, &v, &n, &e) == 0) {
		remember(s, o, v, n);
		*ret = FM_TAKE_PTR(v);
		*ret_n = n;
		return 0;
	}
	if (o->socket && (e.code == FM_E_UNAVAILABLE || e.code == FM_E_DEADLINE_EXCEEDED))
		return recall(s, o, ret, ret_n, err);
	if (err)
		*err = e;
	return -1;
}

static bool has_pid(const struct fm_instance *v, size_t n, pid_t pid)
{
	for (size_t i = 0; pid > 0 && i < n; i++)
		if (v[i].pid == pid)
			return true;
	return false;
}

static int all_list(struct fm_runtime *rt, struct fm_instance **ret, size_t *ret_n, struct fm_error *err)
{
	struct fm_runtimes *s = set_of(rt);
	_fm_free_ struct fm_instance *found = NULL;
	size_t n = 0;

	for (size_t k = 0; k < s->n; k++) {
		_fm_free_ struct fm_instance *v = NULL;
		size_t n_v = 0, before = n;
		if (ask(s, &s->v[k], &v, &n_v, err) < 0)
			return -1;
		for (size_t i = 0; i < n_v; i++)
			if (!has_pid(found, before, v[i].pid) && append(&found, &n, &v[i], 1, err) < 0)
				return -1;
	}
	if (!found)
		found = calloc(1, sizeof(*found));
	if (!found)
		return fm_error_errno(err, ENOMEM, "listing containers");
	*ret = FM_TAKE_PTR(found);
	*ret_n = n;
	return 0;
}

/* ---- whose it is */

/* It may have been removed meanwhile: whoever had it last answers that best. */
static struct one *had(struct fm_runtimes *s, const char *id)
{
	struct one *found = NULL;

	pthread_mutex_lock(&s->lock);
	for (size_t k = 0; k < s->n && !found; k++)
		for (size_t i = 0; i < s->v[k].n_last && !found; i++)
			if (fm_streq(s->v[k].last[i].id, id))
				found = &s->v[k];
	pthread_mutex_unlock(&s->lock);
	return found;
}

static int state_at(struct one *o, const char *id, struct fm_instance *ret, struct fm_error *err)
{
	if (!is_there(o) && o->n_last == 0)
		return fm_error_set(err, FM_E_NOT_FOUND, "%s is not there", o->rt->ops->name);
	return o->rt->ops->state(o->rt, id, ret, err);
}

/* NOT_FOUND only when all say so: one that does not answer may have it. */
static int owner(struct fm_runtimes *s, const char *id, struct one **ret, struct fm_instance *state, struct fm_error *err)
{
	struct one *first = had(s, id);
	struct fm_error worst = FM_ERROR_INIT, e = FM_ERROR_INIT;

	*ret = first;
	if (first && state_at(first, id, state, &e) == 0)
		return 0;
	if (first && e.code != FM_E_NOT_FOUND)
		worst = e;
	for (size_t k = 0; k < s->n; k++) {
		struct one *o = &s->v[k];
		if (o == first)
			continue;
		e = FM_ERROR_INIT;
		*ret = o;
		if (state_at(o, id, state, &e) == 0)
			return 0;
		if (e.code != FM_E_NOT_FOUND && worst.code == FM_OK)
			worst = e;
	}
	if (worst.code != FM_OK) {
		if (err)
			*err = worst;
		return -1;
	}
	return fm_error_set(err, FM_E_NOT_FOUND, "no runtime of this host has a container '%s'", id);
}

static int all_state(struct fm_runtime *rt, const char *id, struct fm_instance *ret, struct fm_error *err)
{
	struct one *o;

	return owner(set_of(rt), id, &o, ret, err);
}

static int lacks(const struct one *o, const char *what, struct fm_error *err)
{
	return fm_error_set(err, FM_E_UNIMPLEMENTED, "%s does not %s", o->rt->ops->name, what);
}

/* Of whose it is: op is the member of its table, `what` it is in words when there is none. */
#define ON_OWNER(rt, id, op, what, err, ...)                                                                                               \
	struct fm_instance state_;                                                                                                         \
	struct one *o_;                                                                                                                    \
	if (owner(set_of(rt), id, &o_, &state_, err) < 0)                                                                                  \
		return -1;                                                                                                                 \
	return o_->rt->ops->op ? o_->rt->ops->op(o_->rt, id, __VA_ARGS__) : lacks(o_, what, err)

static int all_start(struct fm_runtime *rt, const char *id, struct fm_error *err)
{
	ON_OWNER(rt, id, start, "start containers", err, err);
}

static int all_pause(struct fm_runtime *rt, const char *id, struct fm_error *err)
{
	ON_OWNER(rt, id, pause, "pause containers", err, err);
}

static int all_resume(struct fm_runtime *rt, const char *id, struct fm_error *err)
{
	ON_OWNER(rt, id, resume, "resume containers", err, err);
}

static int all_checkpoint(struct fm_runtime *rt, const char *id, const struct fm_checkpoint_opts *opts, struct fm_error *err)
{
	ON_OWNER(rt, id, checkpoint, "save containers", err, opts, err);
}

static int all_restart_policy(struct fm_runtime *rt, const char *id, char *buf, size_t cap, struct fm_error *err)
{
	ON_OWNER(rt, id, restart_policy, "start anything again", err, buf, cap, err);
}

static int all_set_restart_policy(struct fm_runtime *rt, const char *id, const char *policy, struct fm_error *err)
{
	ON_OWNER(rt, id, set_restart_policy, "start anything again", err, policy, err);
}

static int all_describe(struct fm_runtime *rt, const char *id, char **ret_config, struct fm_error *err)
{
	ON_OWNER(rt, id, describe, "describe containers", err, ret_config, err);
}

/* The next three are done already where nobody has it. */
static int all_kill(struct fm_runtime *rt, const char *id, int signal, struct fm_error *err)
{
	struct fm_error e = FM_ERROR_INIT;
	struct fm_instance state;
	struct one *o;

	if (owner(set_of(rt), id, &o, &state, &e) == 0)
		return o->rt->ops->kill(o->rt, id, signal, err);
	if (e.code == FM_E_NOT_FOUND)
		return 0;
	if (err)
		*err = e;
	return -1;
}

static int all_stop(struct fm_runtime *rt, const char *id, int timeout_ms, struct fm_error *err)
{
	struct fm_error e = FM_ERROR_INIT;
	struct fm_instance state;
	struct one *o;

	if (owner(set_of(rt), id, &o, &state, &e) == 0)
		return o->rt->ops->stop ? o->rt->ops->stop(o->rt, id, timeout_ms, err) : lacks(o, "stop containers", err);
	if (e.code == FM_E_NOT_FOUND)
		return 0;
	if (err)
		*err = e;
	return -1;
}

static int all_remove(struct fm_runtime *rt, const char *id, struct fm_error *err)
{
	struct fm_error e = FM_ERROR_INIT;
	struct fm_instance state;
	struct one *o;

	if (owner(set_of(rt), id, &o, &state, &e) == 0)
		return o->rt->ops->remove(o->rt, id, err);
	/* What is half-made may have no state; removing what is not there is no failure. */
	for (size_t k = 0; e.code == FM_E_NOT_FOUND && k < set_of(rt)->n; k++) {
		o = &set_of(rt)->v[k];
		if (!o->socket && o->rt->ops->remove(o->rt, id, err) < 0)
			return -1;
	}
	if (e.code == FM_E_NOT_FOUND)
		return 0;
	if (err)
		*err = e;
	return -1;
}

static int all_version(struct fm_runtime *rt, char *buf, size_t cap, struct fm_error *err)
{
	struct fm_runtimes *s = set_of(rt);

	if (s->n == 0)
		return fm_error_set(err, FM_E_NOT_FOUND, "this host has no runtime");
	struct fm_runtime *usual = s->v[s->n - 1].rt;
	return usual->ops->version(usual, buf, cap, err);
}

static int all_create(struct fm_runtime *rt, const char *id, const char *bundle, int log_fd, struct fm_error *err)
{
	return fm_error_set(err, FM_E_INTERNAL, "%s is to be created by one runtime, not by all", id);
}

static int all_restore(struct fm_runtime *rt, const char *id, const struct fm_restore_opts *o, struct fm_error *err)
{
	return fm_error_set(err, FM_E_INTERNAL, "%s is to be restored by one runtime, not by all", id);
}

static void all_free(struct fm_runtime *rt)
{
	/* fm_runtimes_free does it: who holds one runtime of many does not own them. */
}

static const struct fm_runtime_ops all_ops = {
	.name = "all",
	.version = all_version,
	.list = all_list,
	.state = all_state,
	.create = all_create,
	.start = all_start,
	.kill = all_kill,
	.pause = all_pause,
	.resume = all_resume,
	.remove = all_remove,
	.checkpoint = all_checkpoint,
	.restore = all_restore,
	.stop = all_stop,
	.restart_policy = all_restart_policy,
	.set_restart_policy = all_set_restart_policy,
	.describe = all_describe,
	.free = all_free,
};

/* ---- the set */

int fm_runtimes_new(struct fm_runtimes **ret, struct fm_error *err)
{
	struct fm_runtimes *s = calloc(1, sizeof(*s));

	if (!s)
		return fm_error_errno(err, ENOMEM, "making the set of runtimes");
	s->all.ops = &all_ops;
	pthread_mutex_init(&s->lock, NULL);
	*ret = s;
	return 0;
}

void fm_runtimes_free(struct fm_runtimes *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n; i++) {
		fm_runtime_free(s->v[i].rt);
		free(s->v[i].socket);
		free(s->v[i].last);
	}
	pthread_mutex_destroy(&s->lock);
	free(s);
}

int fm_runtimes_add(struct fm_runtimes *s, struct fm_runtime *rt, const char *socket, struct fm_error *err)
{
	if (s->n == FM_MAX_RUNTIMES) {
		fm_runtime_free(rt);
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "more than %d runtimes", FM_MAX_RUNTIMES);
	}
	s->v[s->n++] = (struct one){ .rt = rt, .socket = socket ? fm_xstrdup(socket) : NULL, .watch_fd = -1 };
	return 0;
}

struct fm_runtime *fm_runtimes_all(struct fm_runtimes *s)
{
	return &s->all;
}

struct fm_runtime *fm_runtimes_at(struct fm_runtimes *s, size_t i, bool *ret_there)
{
	if (i >= s->n)
		return NULL;
	if (ret_there)
		*ret_there = is_there(&s->v[i]);
	return s->v[i].rt;
}

int fm_runtimes_find(struct fm_runtimes *s, const char *name, struct fm_runtime **ret, struct fm_error *err)
{
	_fm_free_ char *names = fm_xstrdup("");

	for (size_t i = s->n; i-- > 0;) {
		const struct fm_runtime_ops *ops = s->v[i].rt->ops;
		if (!name || !*name || fm_streq(ops->name, name)) {
			*ret = s->v[i].rt;
			return 0;
		}
		char *more = fm_xasprintf("%s%s%s", names, *names ? ", " : "", ops->name);
		free(names);
		names = more;
	}
	return fm_error_set(err, FM_E_NOT_FOUND, "there is no runtime '%s' here, only %s", name ? name : "", names);
}

/* ---- what changes */

static bool drain(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char buf[4096];
	bool any = false;

	for (int i = 0; i < 64 && poll(&p, 1, 0) > 0 && read(fd, buf, sizeof(buf)) > 0; i++)
		any = true;
	return any;
}

static bool one_changed(struct one *o)
{
	uint64_t now = fm_now_ms();

	if (!is_there(o))
		return false; /* its containers that end are missed by who looks at their processes */
	if (o->watch_fd < 0 && o->rt->ops->watch && o->rt->ops->watch(o->rt, &o->watch_fd, NULL) < 0)
		o->watch_fd = -1;
	if (o->watch_fd >= 0)
		return drain(o->watch_fd);
	if (now < o->looked_ms + LOOK_AGAIN_MS)
		return false;
	o->looked_ms = now;
	return true;
}

bool fm_runtimes_changed(struct fm_runtimes *s)
{
	bool any = false;

	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < s->n; i++)
		any |= one_changed(&s->v[i]);
	pthread_mutex_unlock(&s->lock);
	return any;
}
