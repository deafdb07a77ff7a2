/* SPDX-License-Identifier: MIT */
/*
 * runtime-containerd-spec.c - OCI configurations between our bundles and containerd's Spec, which is the same JSON in an envelope.
 *
 * Only the root differs: the shim has a bundle of its own, in which it mounts what Tasks.Create names as root filesystem at "rootfs". The folder of that bundle is not in the API; the shim works in the
 * folder of its first container's, beside which are those of its others (a pod's), and the device and inode of the container's own root tell whether it is the right one.
 */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/proc.h"
#include "basic/str.h"
#include "container/bundle.h"
#include "container/runtime-containerd-internal.h"

void fm_containerd_spec_done(struct fm_containerd_spec *s)
{
	free(s->json);
	free(s->rootfs);
	fm_strv_free(s->labels);
	*s = (struct fm_containerd_spec){ 0 };
}

const char *fm_containerd_label(const FmCtrdContainer *container, const char *key)
{
	for (size_t i = 0; i < container->n_labels; i++)
		if (fm_streq(container->labels[i]->key, key))
			return container->labels[i]->value;
	return NULL;
}

static int take_root(json_t *config, const char *bundle, struct fm_containerd_spec *s, struct fm_error *err)
{
	json_t *root = json_object_get(config, "root");
	const char *path = json_string_value(json_object_get(root, "path"));
	struct stat st;

	if (!path || !*path)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "bundle %s: config.json has no root.path", bundle);
	s->rootfs = path[0] == '/' ? fm_xstrdup(path) : fm_xasprintf("%s/%s", bundle, path);
	if (stat(s->rootfs, &st) < 0)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "bundle %s: its root filesystem %s: %s", bundle, s->rootfs,
		                    strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "bundle %s: its root filesystem %s is no folder", bundle, s->rootfs);
	if (json_object_set_new(root, "path", json_string("rootfs")) < 0)
		return fm_error_errno(err, ENOMEM, "translating %s", bundle);
	return 0;
}

static void take_labels(const json_t *config, struct fm_containerd_spec *s)
{
	json_t *annotations = json_object_get(config, "annotations"), *value;
	const char *key;

	json_object_foreach(annotations, key, value) if (json_is_string(value) && fm_str_startswith(key, "org.fleximigrate."))
	{
		fm_strv_add(&s->labels, key);
		fm_strv_add(&s->labels, json_string_value(value));
	}
}

int fm_containerd_spec_of_bundle(const char *bundle, struct fm_containerd_spec *ret, struct fm_error *err)
{
	_fm_cleanup_(fm_containerd_spec_done) struct fm_containerd_spec s = { 0 };
	_fm_cleanup_(json_decrefp) json_t *config = NULL;
	_fm_free_ char *path = NULL, *text = NULL;
	json_error_t e;

	if (!bundle || bundle[0] != '/')
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "the bundle '%s' is not an absolute path", bundle ? bundle : "");
	path = fm_xasprintf("%s/config.json", bundle);
	if (fm_read_file(path, FM_MAX_CONFIG_BYTES, &text, NULL, err) < 0) {
		if (err && err->code == FM_E_NOT_FOUND) /* which would be the container */
			err->code = FM_E_FAILED_PRECONDITION;
		return -1;
	}
	config = json_loads(text, JSON_REJECT_DUPLICATES, &e);
	if (!json_is_object(config))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s: line %d column %d: %s", path, e.line, e.column,
		                    config ? "no object" : e.text);
	if (take_root(config, bundle, &s, err) < 0)
		return -1;
	take_labels(config, &s);
	s.json = json_dumps(config, JSON_COMPACT);
	if (!s.json)
		return fm_error_errno(err, ENOMEM, "translating %s", path);
	*ret = s;
	s = (struct fm_containerd_spec){ 0 };
	return 0;
}

/* ---- what containerd has */

/* NULL: no configuration. flags: of jansson. */
static json_t *parse(const FmCtrdAny *spec, size_t flags, json_error_t *e)
{
	json_t *config;

	if (!spec || spec->value.len > FM_MAX_CONFIG_BYTES) {
		*e = (json_error_t){ .text = "there is none, or it is too long" };
		return NULL;
	}
	config = json_loadb((const char *)spec->value.data, spec->value.len, flags, e);
	if (config && !json_is_object(config)) {
		json_decref(config);
		*e = (json_error_t){ .text = "no object" };
		return NULL;
	}
	return config;
}

bool fm_containerd_spec_is_nested(const FmCtrdAny *spec)
{
	json_error_t e;
	/* limits beyond 2^63 (RLIM_INFINITY) are not looked at here */
	_fm_cleanup_(json_decrefp) json_t *config = parse(spec, JSON_DECODE_INT_AS_REAL, &e);

	return fm_streq(json_string_value(json_array_get(json_object_get(json_object_get(config, "process"), "args"), 0)), FM_NEST_MOUNT);
}

/* Takes the nest, its options and the "--" from the front. */
static void strip_nest(json_t *args)
{
	size_t n = 0;

	if (!fm_streq(json_string_value(json_array_get(args, 0)), FM_NEST_MOUNT))
		return;
	while (n < json_array_size(args) && !fm_streq(json_string_value(json_array_get(args, n)), "--"))
		n++;
	if (n + 1 >= json_array_size(args))
		return;
	for (size_t i = 0; i <= n; i++)
		(void)json_array_remove(args, 0);
}

/* Mounts of the nest and of its control folder: whoever makes the container again brings its own. */
static void strip_nest_mounts(json_t *mounts)
{
	for (size_t i = json_array_size(mounts); i-- > 0;) {
		const char *to = json_string_value(json_object_get(json_array_get(mounts, i), "destination"));

		if (fm_streq(to, FM_NEST_MOUNT) || fm_streq(to, FM_NEST_RUN_MOUNT))
			(void)json_array_remove(mounts, i);
	}
}

static int add_labels(json_t *config, const FmCtrdContainer *c)
{
	json_t *annotations = json_object_get(config, "annotations");

	if (!json_is_object(annotations)) {
		annotations = json_object();
		if (json_object_set_new(config, "annotations", annotations) < 0)
			return -1;
	}
	for (size_t i = 0; i < c->n_labels; i++)
		if (!json_object_get(annotations, c->labels[i]->key) &&
		    json_object_set_new(annotations, c->labels[i]->key, json_string(c->labels[i]->value)) < 0)
			return -1;
	return 0;
}

int fm_containerd_describe(const FmCtrdContainer *container, const char *rootfs, char **ret_config, struct fm_error *err)
{
	_fm_cleanup_(json_decrefp) json_t *config = NULL;
	json_error_t e;
	json_t *root;
	char *out;

	config = parse(container->spec, JSON_REJECT_DUPLICATES, &e);
	if (!config)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "the configuration of %s in containerd: line %d: %s", container->id,
		                    e.line, e.text);
	root = json_object_get(config, "root");
	if (!json_is_object(root)) {
		root = json_object();
		if (json_object_set_new(config, "root", root) < 0)
			return fm_error_errno(err, ENOMEM, "describing %s", container->id);
	}
	strip_nest(json_object_get(json_object_get(config, "process"), "args"));
	strip_nest_mounts(json_object_get(config, "mounts"));
	/* a path that is no UTF-8 cannot be said in JSON */
	if (json_object_set_new(root, "path", json_string(rootfs)) < 0 || add_labels(config, container) < 0)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "describing %s: its root %s cannot be written down", container->id,
		                    rootfs);
	out = json_dumps(config, JSON_INDENT(2));
	if (!out)
		return fm_error_errno(err, ENOMEM, "describing %s", container->id);
	*ret_config = out;
	return 0;
}

/* ---- its root on the host */

static bool same_folder(const char *a, const char *b)
{
	struct stat sa, sb;

	return stat(a, &sa) == 0 && stat(b, &sb) == 0 && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

int fm_containerd_root_of(const char *container_id, pid_t pid, char **ret, struct fm_error *err)
{
	_fm_free_ char *own = fm_xasprintf("/proc/%d/root", (int)pid), *cwd = NULL, *path = NULL;
	char work[4096];
	uint64_t shim = 0;
	ssize_t n;
	char *slash;

	if (pid <= 0)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "%s does not run, so that its root filesystem is not mounted",
		                    container_id);
	if (fm_proc_status_number(pid, "PPid:", &shim, err) < 0)
		return fm_error_prefix(err, "looking for the root filesystem of %s", container_id);
	cwd = fm_xasprintf("/proc/%llu/cwd", (unsigned long long)shim);
	n = readlink(cwd, work, sizeof work - 1);
	if (n > 0) {
		work[n] = '\0';
		slash = strrchr(work, '/');
		*slash = '\0';
		path = fm_xasprintf("%s/%s/rootfs", work, container_id);
		if (same_folder(path, own)) {
			*ret = FM_TAKE_PTR(path);
			return 0;
		}
	}
	/* as good while it runs */
	*ret = FM_TAKE_PTR(own);
	return 0;
}
