/* SPDX-License-Identifier: MIT */
/*
 * engine.c - see engine.h: calls, answers, and the operations that Docker and Podman have in common (libpod's paths and answers are made after Docker's).
 */
#include "container/engine.h"

#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "basic/clock.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "container/bundle.h"
#include "loop/http.h"

#define MAX_ID        127
#define MAX_REFERENCE 255
#define MAX_SAID      300 /* of a daemon's words in a message of ours */

/* ---- the object ---- */

int fm_engine_new(const struct fm_runtime_ops *ops, const char *socket, const char *base, struct fm_runtime **ret, struct fm_error *err)
{
	struct fm_engine *e;

	if (!socket || socket[0] != '/' || strlen(socket) > FM_MAX_HTTP_SOCKET_PATH)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT,
		                    "%s: the socket of its daemon has to be an absolute path of at most %u characters, not '%.120s'",
		                    ops->name, FM_MAX_HTTP_SOCKET_PATH, socket ? socket : "");
	e = calloc(1, sizeof *e);
	if (!e)
		return fm_error_errno(err, ENOMEM, "making the driver for %s", ops->name);
	e->rt.ops = ops;
	e->socket = fm_xstrdup(socket);
	e->base = base;
	(void)pthread_mutex_init(&e->lock, NULL);
	*ret = &e->rt;
	return 0;
}

void fm_engine_free(struct fm_runtime *rt)
{
	struct fm_engine *e = fm_engine_of(rt);

	(void)pthread_mutex_destroy(&e->lock);
	free(e->socket);
	free(e);
}

/* ---- names ---- */

int fm_engine_check_id(const char *id, struct fm_error *err)
{
	size_t n = id ? strnlen(id, MAX_ID + 1) : 0;
	bool good = n > 0 && n <= MAX_ID && isalnum((unsigned char)id[0]);

	for (size_t i = 0; good && i < n; i++)
		good = isalnum((unsigned char)id[i]) || strchr("_.-", id[i]);
	return good ? 0 : fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%.80s' is not a container's id", id ? id : "");
}

int fm_engine_check_reference(const char *reference, struct fm_error *err)
{
	size_t n = reference ? strnlen(reference, MAX_REFERENCE + 1) : 0;
	bool good =
	        n > 0 && n <= MAX_REFERENCE && isalnum((unsigned char)reference[0]) && !strstr(reference, "..") && !strstr(reference, "//");

	for (size_t i = 0; good && i < n; i++)
		good = isalnum((unsigned char)reference[i]) || strchr("_.-/:@+", reference[i]);
	return good ? 0 : fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%.80s' is not an image's name", reference ? reference : "");
}

char *fm_engine_escape(const char *s)
{
	struct fm_buf b = { 0 };

	fm_buf_add(&b, "", 0);
	for (; *s; s++) {
		if (isalnum((unsigned char)*s) || strchr("-._~", *s))
			fm_buf_add(&b, s, 1);
		else
			fm_buf_addf(&b, "%%%02X", (unsigned char)*s);
	}
	return b.data;
}

/* ---- calls ---- */

int fm_engine_parse(const char *text, size_t len, json_t **ret, struct fm_error *err)
{
	json_error_t e;
	json_t *o;

	if (len > FM_MAX_HTTP_RESPONSE_BYTES)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "an answer of more than %u bytes", FM_MAX_HTTP_RESPONSE_BYTES);
	o = json_loadb(text, len, 0, &e);
	if (!o)
		return fm_error_set(err, FM_E_DATA_LOSS, "no JSON: line %d: %.80s", e.line, e.text);
	*ret = o;
	return 0;
}

static enum fm_code code_of(unsigned status)
{
	switch (status) {
	case 400:
		return FM_E_INVALID_ARGUMENT;
	case 401:
	case 403:
		return FM_E_PERMISSION_DENIED;
	case 404:
		return FM_E_NOT_FOUND;
	case 409:
		return FM_E_FAILED_PRECONDITION;
	case 501:
		return FM_E_UNIMPLEMENTED;
	case 503:
		return FM_E_UNAVAILABLE;
	default:
		return FM_E_INTERNAL;
	}
}

/* Both engines say {"message": …}. */
static int refused(const struct fm_engine *e, const struct fm_engine_call *c, const struct fm_http_response *r, struct fm_error *err)
{
	_fm_cleanup_(json_decrefp) json_t *o = NULL;
	const char *said = NULL;

	if (fm_engine_parse(r->body, r->body_len, &o, NULL) == 0)
		said = json_string_value(json_object_get(o, "message"));
	return fm_error_set(err, code_of(r->status), "%s refuses %s %.*s (%u): %.*s", e->rt.ops->name, c->method,
	                    (int)strcspn(c->path, "?"), c->path, r->status, MAX_SAID, said ? said : r->body);
}

static int do_call(struct fm_engine *e, const struct fm_engine_call *c, json_t **ret, unsigned *ret_status, struct fm_error *err)
{
	_fm_free_ char *url = fm_xasprintf("http://engine%s%s", e->base, c->path),
	               *text = c->body ? json_dumps(c->body, JSON_COMPACT) : NULL;
	_fm_http_response_ struct fm_http_response answer = { 0 };
	struct fm_http_request r = { .method = c->method,
		                     .url = url,
		                     .unix_socket = e->socket,
		                     .body = c->raw ? c->raw : text,
		                     .body_len = c->raw ? c->raw_len : (text ? strlen(text) : 0),
		                     .content_type = c->raw ? "application/x-tar" : NULL,
		                     .deadline_ms = fm_now_ms() + (uint64_t)(c->timeout_ms ? c->timeout_ms : FM_ENGINE_TIMEOUT_MS),
		                     .cancel_fd = -1 };

	if (c->body && !text)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s: a request that cannot be written as JSON", e->rt.ops->name);
	if (fm_http_call(&r, &answer, err) < 0)
		return fm_error_prefix(err, "%s", e->rt.ops->name);
	if (ret_status)
		*ret_status = answer.status;
	if (answer.status != 304 && (answer.status < 200 || answer.status > 299))
		return refused(e, c, &answer, err);
	if (ret && fm_engine_parse(answer.body, answer.body_len, ret, err) < 0)
		return fm_error_prefix(err, "%s: %s %.*s", e->rt.ops->name, c->method, (int)strcspn(c->path, "?"), c->path);
	return 0;
}

int fm_engine_do(struct fm_engine *e, struct fm_engine_call c, json_t **ret, unsigned *ret_status, struct fm_error *err)
{
	int rc;

	if (ret_status)
		*ret_status = 0;
	rc = do_call(e, &c, ret, ret_status, err);
	free(c.path);
	json_decref(c.body);
	return rc;
}

/* ---- answers ---- */

static enum fm_container_status status_of(const char *s)
{
	static const struct {
		const char *word;
		enum fm_container_status status;
	} words[] = {
		{ "created", FM_CONTAINER_CREATED },    { "configured", FM_CONTAINER_CREATED }, { "initialized", FM_CONTAINER_CREATED },
		{ "running", FM_CONTAINER_RUNNING },    { "stopping", FM_CONTAINER_RUNNING },   { "paused", FM_CONTAINER_PAUSED },
		{ "exited", FM_CONTAINER_STOPPED },     { "stopped", FM_CONTAINER_STOPPED },    { "dead", FM_CONTAINER_STOPPED },
		{ "restarting", FM_CONTAINER_STOPPED }, { "removing", FM_CONTAINER_STOPPED },
	};

	for (size_t i = 0; i < FM_ARRAY_SIZE(words); i++)
		if (fm_streq(s, words[i].word))
			return words[i].status;
	return FM_CONTAINER_UNKNOWN;
}

uint64_t fm_engine_time(const char *s)
{
	struct tm tm = { 0 };
	const char *end = s ? strptime(s, "%Y-%m-%dT%H:%M:%S", &tm) : NULL;
	int hours = 0, minutes = 0;
	int64_t ms = 0;

	if (!end)
		return 0;
	if (*end == '.') {
		unsigned scale = 100;

		for (end++; isdigit((unsigned char)*end); end++, scale /= 10)
			ms += (*end - '0') * (int)scale;
	}
	ms += (int64_t)timegm(&tm) * 1000;
	if ((*end == '+' || *end == '-') && sscanf(end + 1, "%2d:%2d", &hours, &minutes) == 2)
		ms -= (*end == '-' ? -1 : 1) * (hours * 60 + minutes) * 60000ll;
	return ms < 0 ? 0 : (uint64_t)ms;
}

static const char *string_at(const json_t *o, const char *a, const char *b)
{
	const json_t *m = json_object_get(o, a);

	return json_string_value(b ? json_object_get(m, b) : m);
}

int fm_engine_instance(const json_t *inspect, const char *runtime, struct fm_instance *ret, struct fm_error *err)
{
	const json_t *state = json_object_get(inspect, "State"), *labels = json_object_get(json_object_get(inspect, "Config"), "Labels");
	const char *name = string_at(inspect, "Name", NULL), *ours = string_at(labels, FM_ANNOTATION_INSTANCE, NULL),
	           *bundle = string_at(labels, FM_ENGINE_LABEL_BUNDLE, NULL);
	const char *owner = string_at(labels, FM_ANNOTATION_NAME, NULL),
	           *image = string_at(inspect, "ImageName", NULL); /* Podman's; Docker's: */
	json_int_t pid = json_integer_value(json_object_get(state, "Pid"));
	struct fm_instance i = { 0 };

	if (name && name[0] == '/')
		name++;
	if (!json_is_object(state) || fm_engine_check_id(name, NULL) < 0)
		return fm_error_set(err, FM_E_DATA_LOSS, "%s reports a container without a name or a state", runtime);
	if (fm_engine_check_id(ours, NULL) < 0) /* anything else cannot be ours */
		ours = NULL;
	if (!image)
		image = string_at(inspect, "Config", "Image");
	i.status = status_of(string_at(state, "Status", NULL));
	if (i.status != FM_CONTAINER_STOPPED && pid > 0 && pid <= INT32_MAX)
		i.pid = (pid_t)pid;
	(void)snprintf(i.id, sizeof i.id, "%s", ours ? ours : name);
	(void)snprintf(i.name, sizeof i.name, "%s", name);
	(void)snprintf(i.runtime, sizeof i.runtime, "%s", runtime);
	if (fm_name_is_valid(owner))
		(void)snprintf(i.owner_name, sizeof i.owner_name, "%s", owner);
	if (ours && bundle && bundle[0] == '/' && strlen(bundle) < sizeof i.bundle)
		(void)snprintf(i.bundle, sizeof i.bundle, "%s", bundle);
	if (image && strlen(image) < sizeof i.image)
		(void)snprintf(i.image, sizeof i.image, "%s", image);
	i.nested = fm_streq(string_at(inspect, "Path", NULL), FM_NEST_MOUNT);
	i.created_ms = fm_engine_time(string_at(inspect, "Created", NULL));
	*ret = i;
	return 0;
}

int fm_engine_ids(const json_t *list, char ***ret, struct fm_error *err)
{
	_fm_cleanup_(fm_strv_freep) char **v = NULL;
	size_t k;
	json_t *o;

	if (!json_is_array(list) && !json_is_null(list))
		return fm_error_set(err, FM_E_DATA_LOSS, "a list of containers that is none");
	if (json_array_size(list) > FM_MAX_CONTAINERS_PER_HOST)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "%zu containers on one host, the limit is %d", json_array_size(list),
		                    FM_MAX_CONTAINERS_PER_HOST);
	v = calloc(json_array_size(list) + 1, sizeof *v);
	if (!v)
		return fm_error_errno(err, ENOMEM, "listing containers");
	json_array_foreach(list, k, o)
	{
		const char *id = string_at(o, "Id", NULL);

		if (fm_engine_check_id(id, err) < 0)
			return fm_error_prefix(err, "a list of containers");
		v[k] = fm_xstrdup(id);
	}
	*ret = FM_TAKE_PTR(v);
	return 0;
}

/* ---- finding ---- */

static int ids_by(struct fm_engine *e, json_t *filters, char ***ret, struct fm_error *err)
{
	_fm_cleanup_(json_decrefp) json_t *list = NULL, *f = filters;
	_fm_free_ char *text = f ? json_dumps(f, JSON_COMPACT) : NULL, *escaped = text ? fm_engine_escape(text) : NULL;
	char *path = fm_xasprintf("/containers/json?all=true%s%s", escaped ? "&filters=" : "", escaped ? escaped : "");

	if (fm_engine_do(e, (struct fm_engine_call){ .method = "GET", .path = path }, &list, NULL, err) < 0)
		return -1;
	if (fm_engine_ids(list, ret, err) < 0)
		return fm_error_prefix(err, "%s", e->rt.ops->name);
	return 0;
}

static int inspect(struct fm_engine *e, const char *engine_id, json_t **ret, struct fm_error *err)
{
	return fm_engine_do(e, (struct fm_engine_call){ .method = "GET", .path = fm_xasprintf("/containers/%s/json", engine_id) }, ret,
	                    NULL, err);
}

/* By its name. The daemon takes the beginning of an id for a name, too: what it finds has to be called so. */
static int find_by_name(struct fm_engine *e, const char *id, char **ret, struct fm_error *err)
{
	_fm_cleanup_(json_decrefp) json_t *o = NULL;
	struct fm_instance i;

	if (inspect(e, id, &o, err) < 0 || fm_engine_instance(o, e->rt.ops->name, &i, err) < 0)
		return -1;
	if (!fm_streq(i.id, id) || fm_engine_check_id(string_at(o, "Id", NULL), NULL) < 0)
		return fm_error_set(err, FM_E_NOT_FOUND, "%s has no container %s", e->rt.ops->name, id);
	*ret = fm_xstrdup(string_at(o, "Id", NULL));
	return 0;
}

int fm_engine_find(struct fm_engine *e, const char *id, char **ret, struct fm_error *err)
{
	_fm_cleanup_(fm_strv_freep) char **v = NULL;
	_fm_free_ char *label = fm_xasprintf(FM_ANNOTATION_INSTANCE "=%s", id);

	if (fm_engine_check_id(id, err) < 0 || ids_by(e, json_pack("{s:[s]}", "label", label), &v, err) < 0)
		return -1;
	if (!v[0])
		return find_by_name(e, id, ret, err);
	if (v[1])
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "%s has two containers that say they are instance %s", e->rt.ops->name,
		                    id);
	*ret = fm_xstrdup(v[0]);
	return 0;
}

int fm_engine_inspect(struct fm_engine *e, const char *id, json_t **ret, struct fm_error *err)
{
	_fm_free_ char *engine_id = NULL;

	if (fm_engine_find(e, id, &engine_id, err) < 0)
		return -1;
	return inspect(e, engine_id, ret, err);
}

int fm_engine_state(struct fm_runtime *rt, const char *id, struct fm_instance *ret, struct fm_error *err)
{
	_fm_cleanup_(json_decrefp) json_t *o = NULL;

	if (fm_engine_inspect(fm_engine_of(rt), id, &o, err) < 0)
		return -1;
	return fm_engine_instance(o, rt->ops->name, ret, err);
}

int fm_engine_list(struct fm_runtime *rt, struct fm_instance **ret, size_t *ret_n, struct fm_error *err)
{
	_fm_cleanup_(fm_strv_freep) char **ids = NULL;
	_fm_free_ struct fm_instance *v = NULL;
	size_t n = 0;

	if (ids_by(fm_engine_of(rt), NULL, &ids, err) < 0)
		return -1;
	v = calloc(fm_strv_len(ids) + 1, sizeof *v);
	if (!v)
		return fm_error_errno(err, ENOMEM, "listing containers");
	for (size_t k = 0; ids[k]; k++) { /* pids are in none of Docker's lists */
		_fm_cleanup_(json_decrefp) json_t *o = NULL;
		struct fm_error local = FM_ERROR_INIT;

		if (inspect(fm_engine_of(rt), ids[k], &o, &local) == 0 && fm_engine_instance(o, rt->ops->name, &v[n], &local) == 0) {
			n++;
		} else if (local.code != FM_E_NOT_FOUND) { /* gone since */
			if (err)
				*err = local;
			return -1;
		}
	}
	*ret = FM_TAKE_PTR(v);
	*ret_n = n;
	return 0;
}

/* ---- life ---- */

/* POST /containers/ID/<what>. 404: gone, *ret_status tells. */
static int post(struct fm_runtime *rt, const char *id, const char *what, int timeout_ms, unsigned *ret_status, struct fm_error *err)
{
	_fm_free_ char *engine_id = NULL;

	*ret_status = 404;
	if (fm_engine_find(fm_engine_of(rt), id, &engine_id, err) < 0) {
		if (err && err->code != FM_E_NOT_FOUND)
			*ret_status = 0;
		return -1;
	}
	return fm_engine_do(fm_engine_of(rt),
	                    (struct fm_engine_call){ .method = "POST",
	                                             .path = fm_xasprintf("/containers/%s/%s", engine_id, what),
	                                             .timeout_ms = timeout_ms },
	                    NULL, ret_status, err);
}

/* Success when what was refused with `local` has nothing to do: the instance is in this state. */
static int forgive(struct fm_runtime *rt, const char *id, enum fm_container_status wanted, const struct fm_error *local,
                   struct fm_error *err)
{
	struct fm_instance i = { 0 };

	if (local->code != FM_E_UNAVAILABLE && fm_engine_state(rt, id, &i, NULL) == 0 && i.status == wanted)
		return 0;
	if (err)
		*err = *local;
	return -1;
}

int fm_engine_start(struct fm_runtime *rt, const char *id, struct fm_error *err)
{
	unsigned status;

	return post(rt, id, "start", 0, &status, err);
}

int fm_engine_kill(struct fm_runtime *rt, const char *id, int signal, struct fm_error *err)
{
	struct fm_error local = FM_ERROR_INIT;
	char what[32];
	unsigned status;

	if (signal < 1 || signal > SIGRTMAX)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%d is not a signal", signal);
	(void)snprintf(what, sizeof what, "kill?signal=%d", signal);
	if (post(rt, id, what, 0, &status, &local) == 0 || local.code == FM_E_NOT_FOUND)
		return 0;
	return forgive(rt, id, FM_CONTAINER_STOPPED, &local, err);
}

int fm_engine_pause(struct fm_runtime *rt, const char *id, struct fm_error *err)
{
	struct fm_error local = FM_ERROR_INIT;
	unsigned status;

	return post(rt, id, "pause", 0, &status, &local) == 0 ? 0 : forgive(rt, id, FM_CONTAINER_PAUSED, &local, err);
}

int fm_engine_resume(struct fm_runtime *rt, const char *id, struct fm_error *err)
{
	struct fm_error local = FM_ERROR_INIT;
	unsigned status;

	return post(rt, id, "unpause", 0, &status, &local) == 0 ? 0 : forgive(rt, id, FM_CONTAINER_RUNNING, &local, err);
}

int fm_engine_stop(struct fm_runtime *rt, const char *id, int timeout_ms, struct fm_error *err)
{
	struct fm_error local = FM_ERROR_INIT;
	_fm_free_ char *what = NULL;
	unsigned status;

	if (timeout_ms < 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "stopping %s within %d ms", id, timeout_ms);
	what = fm_xasprintf("stop?%s=%d", fm_streq(rt->ops->name, "podman") ? "timeout" : "t",
	                    timeout_ms / 1000 + (timeout_ms % 1000 != 0)); /* whole seconds */
	if (post(rt, id, what, timeout_ms > INT32_MAX - FM_ENGINE_TIMEOUT_MS ? timeout_ms : timeout_ms + FM_ENGINE_TIMEOUT_MS, &status,
	         &local) == 0 ||
	    local.code == FM_E_NOT_FOUND)
		return 0;
	return forgive(rt, id, FM_CONTAINER_STOPPED, &local, err);
}

int fm_engine_delete(struct fm_engine *e, const char *engine_id, struct fm_error *err)
{
	uint64_t deadline = fm_now_ms() + FM_ENGINE_TIMEOUT_MS;
	struct fm_error local;
	unsigned status;

	for (;;) {
		local = FM_ERROR_INIT;
		char *path = fm_xasprintf("/containers/%s?force=true&v=true", engine_id);

		if (fm_engine_do(e, (struct fm_engine_call){ .method = "DELETE", .path = path }, NULL, &status, &local) == 0 ||
		    status == 404)
			return 0;
		if (status != 409 || fm_now_ms() > deadline)
			break;
		fm_pause_ms(50);
	}
	if (err)
		*err = local;
	return -1;
}

int fm_engine_remove(struct fm_runtime *rt, const char *id, struct fm_error *err)
{
	struct fm_error local = FM_ERROR_INIT;
	_fm_free_ char *engine_id = NULL;

	if (fm_engine_find(fm_engine_of(rt), id, &engine_id, &local) == 0)
		return fm_engine_delete(fm_engine_of(rt), engine_id, err);
	if (local.code == FM_E_NOT_FOUND)
		return 0;
	if (err)
		*err = local;
	return -1;
}

int fm_engine_config(const char *bundle, json_t **ret, char **ret_rootfs, struct fm_error *err)
{
	_fm_cleanup_(fm_bundle_info_done) struct fm_bundle_info info = { 0 };
	_fm_free_ char *text = NULL;
	json_t *o;

	if (fm_bundle_read(bundle, &text, &info, err) < 0)
		return -1;
	if (info.terminal)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "bundle %s: process.terminal cannot be had", bundle);
	o = json_loads(text, JSON_REJECT_DUPLICATES, NULL); /* has just been parsed */
	if (!o)
		return fm_error_errno(err, ENOMEM, "reading bundle %s", bundle);
	*ret = o;
	*ret_rootfs = FM_TAKE_PTR(info.rootfs);
	return 0;
}
