/* SPDX-License-Identifier: MIT */
/*
 * runtime-docker.c - the driver for Docker Engine, API 1.41 and later.
 *
 * Docker runs images only, so a parent is a container of an empty image (made when it is missing), and the bundle's root filesystem moves into the container's writable layer before it is started for the first time: overlay2 only,
 * whose layer is a folder (GraphDriver.Data.UpperDir) that nobody has mounted then. The image is no effect that had to be undone: it has no content.
 *
 * A container carries the instance's id as a label from its first moment, so remove finds it wherever create has been interrupted.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "basic/str.h"
#include "container/bundle.h"
#include "container/engine.h"

#define PARENT_IMAGE "fleximigrate/parent:empty"

static const char *string_at(const json_t *o, const char *a, const char *b)
{
	const json_t *m = json_object_get(o, a);

	return json_string_value(b ? json_object_get(m, b) : m);
}

static int docker_version(struct fm_runtime *rt, char *buf, size_t cap, struct fm_error *err)
{
	_fm_cleanup_(json_decrefp) json_t *o = NULL;
	const char *v;

	if (fm_engine_do(fm_engine_of(rt), (struct fm_engine_call){ .method = "GET", .path = fm_xstrdup("/version") }, &o, NULL, err) < 0)
		return -1;
	v = json_string_value(json_object_get(o, "Version"));
	return v ? fm_snprintf(buf, cap, err, "%.40s", v) : fm_error_set(err, FM_E_DATA_LOSS, "docker does not say its version");
}

/* ---- create ---- */

static int find_image(struct fm_engine *e, struct fm_error *err)
{
	return fm_engine_do(e, (struct fm_engine_call){ .method = "GET", .path = fm_xstrdup("/images/" PARENT_IMAGE "/json") }, NULL, NULL,
	                    err);
}

static int make_image(struct fm_engine *e, struct fm_error *err)
{
	static const char nothing[1024]; /* the end of a tar */
	struct fm_engine_call c = { .method = "POST",
		                    .path = fm_xstrdup("/images/create?fromSrc=-&repo=fleximigrate/parent&tag=empty"),
		                    .raw = nothing,
		                    .raw_len = sizeof nothing };

	if (fm_engine_do(e, c, NULL, NULL, err) < 0)
		return fm_error_prefix(err, "making the image %s", PARENT_IMAGE);
	return find_image(e, err); /* what goes wrong is only said in the answer's text */
}

static int ensure_image(struct fm_engine *e, struct fm_error *err)
{
	struct fm_error local = FM_ERROR_INIT;
	int rc;

	(void)pthread_mutex_lock(&e->lock);
	rc = find_image(e, &local);
	if (rc < 0 && local.code == FM_E_NOT_FOUND)
		rc = make_image(e, err);
	else if (rc < 0 && err)
		*err = local;
	(void)pthread_mutex_unlock(&e->lock);
	return rc;
}

static int check_info(struct fm_engine *e, bool *ret_cgroupfs, struct fm_error *err)
{
	_fm_cleanup_(json_decrefp) json_t *o = NULL;
	const char *driver;

	if (fm_engine_do(e, (struct fm_engine_call){ .method = "GET", .path = fm_xstrdup("/info") }, &o, NULL, err) < 0)
		return -1;
	driver = json_string_value(json_object_get(o, "Driver"));
	if (!fm_streq(driver, "overlay2")) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION,
		                   "docker keeps containers in '%.40s', a root filesystem can be given to overlay2 only",
		                   driver ? driver : "");
		return fm_error_hint(err, "set \"storage-driver\": \"overlay2\" in /etc/docker/daemon.json, or choose another runtime");
	}
	*ret_cgroupfs = fm_streq(json_string_value(json_object_get(o, "CgroupDriver")), "cgroupfs");
	return 0;
}

static int post_create(struct fm_engine *e, json_t *body, const char *name, char **ret, unsigned *ret_status, struct fm_error *err)
{
	_fm_cleanup_(json_decrefp) json_t *o = NULL;
	struct fm_engine_call c = { .method = "POST", .path = fm_xasprintf("/containers/create?name=%s", name), .body = json_incref(body) };

	if (fm_engine_do(e, c, &o, ret_status, err) < 0)
		return -1;
	if (fm_engine_check_id(string_at(o, "Id", NULL), NULL) < 0)
		return fm_error_set(err, FM_E_DATA_LOSS, "docker does not say the id of what it made");
	*ret = fm_xstrdup(string_at(o, "Id", NULL));
	return 0;
}

/* Called as its user calls it where that name is free, else by its id. */
static int create_named(struct fm_engine *e, json_t *body, const char *id, char **ret, struct fm_error *err)
{
	const char *name = string_at(json_object_get(body, "Labels"), FM_ANNOTATION_NAME, NULL);
	struct fm_error local = FM_ERROR_INIT;
	unsigned status = 409;

	if (name && fm_engine_check_id(name, NULL) == 0 && strlen(name) >= 2) {
		if (post_create(e, body, name, ret, &status, &local) == 0)
			return 0;
		if (status != 409) {
			if (err)
				*err = local;
			return -1;
		}
	}
	if (post_create(e, body, id, ret, &status, err) == 0)
		return 0;
	if (status == 409 && err)
		err->code = FM_E_ALREADY_EXISTS;
	return -1;
}

static int take_root(struct fm_engine *e, const char *engine_id, const char *rootfs, struct fm_error *err)
{
	_fm_cleanup_(json_decrefp) json_t *o = NULL;
	const char *upper;

	if (fm_engine_do(e, (struct fm_engine_call){ .method = "GET", .path = fm_xasprintf("/containers/%s/json", engine_id) }, &o, NULL,
	                 err) < 0)
		return -1;
	upper = string_at(json_object_get(o, "GraphDriver"), "Data", "UpperDir");
	if (!upper || upper[0] != '/' || !fm_str_endswith(upper, "/diff")) /* it will be emptied */
		return fm_error_set(err, FM_E_INTERNAL, "docker does not say where the layer of container %.12s is", engine_id);
	return fm_engine_take_root(rootfs, upper, err);
}

static int not_yet(struct fm_engine *e, const char *id, struct fm_error *err)
{
	struct fm_error local = FM_ERROR_INIT;
	_fm_free_ char *there = NULL;

	if (fm_engine_find(e, id, &there, &local) == 0)
		return fm_error_set(err, FM_E_ALREADY_EXISTS, "docker has a container %s already", id);
	if (local.code == FM_E_NOT_FOUND)
		return 0;
	if (err)
		*err = local;
	return -1;
}

static int docker_create(struct fm_runtime *rt, const char *id, const char *bundle, int log_fd, struct fm_error *err)
{
	struct fm_engine *e = fm_engine_of(rt);
	_fm_cleanup_(json_decrefp) json_t *config = NULL, *body = NULL;
	_fm_free_ char *rootfs = NULL, *engine_id = NULL;
	struct fm_error local = FM_ERROR_INIT;
	bool cgroupfs = false;

	(void)log_fd; /* it keeps output itself */
	if (fm_engine_check_id(id, err) < 0 || fm_engine_config(bundle, &config, &rootfs, err) < 0)
		return -1;
	if (check_info(e, &cgroupfs, err) < 0 || not_yet(e, id, err) < 0)
		return -1;
	if (fm_engine_docker_request(config, bundle, PARENT_IMAGE, cgroupfs, &body, err) < 0)
		return -1;
	if (json_object_set_new(json_object_get(body, "Labels"), FM_ANNOTATION_INSTANCE, json_string(id)) < 0)
		return fm_error_errno(err, ENOMEM, "making a request to docker");
	if (ensure_image(e, err) < 0 || create_named(e, body, id, &engine_id, err) < 0)
		return -1;
	if (take_root(e, engine_id, rootfs, &local) == 0)
		return 0;
	if (local.code != FM_E_DATA_LOSS) /* else it holds what could not be given back */
		(void)fm_engine_delete(e, engine_id, NULL);
	if (err)
		*err = local;
	return -1;
}

/* ---- policies ---- */

static int docker_restart_policy(struct fm_runtime *rt, const char *id, char *buf, size_t cap, struct fm_error *err)
{
	_fm_cleanup_(json_decrefp) json_t *o = NULL;
	const json_t *policy;
	const char *name;

	if (fm_engine_inspect(fm_engine_of(rt), id, &o, err) < 0)
		return -1;
	policy = json_object_get(json_object_get(o, "HostConfig"), "RestartPolicy");
	name = json_string_value(json_object_get(policy, "Name"));
	json_int_t most = json_integer_value(json_object_get(policy, "MaximumRetryCount"));
	if (fm_streq(name, "on-failure") && most > 0)
		return fm_snprintf(buf, cap, err, "on-failure:%lld", (long long)most);
	return fm_snprintf(buf, cap, err, "%.40s", name && *name ? name : "no");
}

static int docker_set_restart_policy(struct fm_runtime *rt, const char *id, const char *policy, struct fm_error *err)
{
	_fm_free_ char *engine_id = NULL, *name = fm_xstrdup(policy);
	char *colon = strchr(name, ':');
	int most = 0;

	if (colon) {
		*colon = '\0';
		if (fm_parse_int(colon + 1, 0, 1000000, &most, err) < 0)
			return -1;
	}
	if (fm_engine_find(fm_engine_of(rt), id, &engine_id, err) < 0)
		return -1;
	struct fm_engine_call c = { .method = "POST",
		                    .path = fm_xasprintf("/containers/%s/update", engine_id),
		                    .body = json_pack("{s:{s:s,s:i}}", "RestartPolicy", "Name", name, "MaximumRetryCount", most) };
	return fm_engine_do(fm_engine_of(rt), c, NULL, NULL, err);
}

static const struct fm_runtime_ops docker_ops = {
	.name = "docker",
	.traits = FM_RUNTIME_OWN_ROOT | FM_RUNTIME_OWN_NETNS | FM_RUNTIME_OWN_LOG | FM_RUNTIME_RESTARTS | FM_RUNTIME_CREATES_LATE,
	.version = docker_version,
	.list = fm_engine_list,
	.state = fm_engine_state,
	.create = docker_create,
	.start = fm_engine_start,
	.kill = fm_engine_kill,
	.pause = fm_engine_pause,
	.resume = fm_engine_resume,
	.remove = fm_engine_remove,
	.stop = fm_engine_stop,
	.restart_policy = docker_restart_policy,
	.set_restart_policy = docker_set_restart_policy,
	.free = fm_engine_free,
};

int fm_runtime_docker_new(const char *socket, struct fm_runtime **ret, struct fm_error *err)
{
	return fm_engine_new(&docker_ops, socket, "/v1.41", ret, err);
}
