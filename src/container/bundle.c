/* SPDX-License-Identifier: MIT */
/*
 * bundle.c - see bundle.h.
 *
 * A config.json may come from another host, so it is untrusted in form (size, depth, types, number of members) though not in power: who may
 * create containers may write mounts and hooks into it, as with any OCI runtime.
 *
 * The instance's config is the user's one with a few members replaced, all others are passed on untouched, known to us or not.
 */
#include "container/bundle.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "container/nest.h"

#define MAX_DEPTH  64
#define MAX_ARGS   4096
#define MAX_MOUNTS 1024

/* ---- reading */

/* jansson recurses to 2048; a config needs a dozen. Brackets within strings do not count. */
static int check_depth(const char *text, struct fm_error *err)
{
	unsigned depth = 0;
	bool in_string = false;

	for (const char *p = text; *p; p++) {
		if (in_string) {
			if (*p == '\\' && p[1])
				p++;
			else if (*p == '"')
				in_string = false;
		} else if (*p == '"') {
			in_string = true;
		} else if (*p == '{' || *p == '[') {
			if (++depth > MAX_DEPTH)
				return fm_error_set(err, FM_E_INVALID_ARGUMENT, "config.json is nested deeper than %d", MAX_DEPTH);
		} else if ((*p == '}' || *p == ']') && depth > 0) {
			depth--;
		}
	}
	return 0;
}

static int parse_text(const char *text, json_t **ret, struct fm_error *err)
{
	_fm_cleanup_(json_decrefp) json_t *o = NULL;
	json_error_t e;

	if (strlen(text) > FM_MAX_CONFIG_BYTES)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "config.json is larger than %u bytes", FM_MAX_CONFIG_BYTES);
	if (check_depth(text, err) < 0)
		return -1;
	o = json_loads(text, JSON_REJECT_DUPLICATES, &e);
	if (!o)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "config.json: line %d, column %d: %s", e.line, e.column, e.text);
	if (!json_is_object(o))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "config.json is not an object");
	*ret = FM_TAKE_PTR(o);
	return 0;
}

/* A member that must be of the given type; NULL without an error when it is missing and optional. name is the full one, for the message. */
static int member(json_t *o, const char *key, const char *name, json_type type, bool optional, json_t **ret, struct fm_error *err)
{
	static const char *const types[] = {
		[JSON_OBJECT] = "an object", [JSON_ARRAY] = "an array", [JSON_STRING] = "a string", [JSON_INTEGER] = "an integer",
		[JSON_REAL] = "a number",    [JSON_TRUE] = "a boolean", [JSON_FALSE] = "a boolean", [JSON_NULL] = "null"
	};
	json_t *m = json_object_get(o, key);

	if (!m || (optional && json_is_null(m))) {
		if (!optional)
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "config.json: %s is missing", name);
		*ret = NULL;
		return 0;
	}
	if (json_typeof(m) != type && !(type == JSON_TRUE && json_is_boolean(m)))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "config.json: %s is not %s", name, types[type]);
	*ret = m;
	return 0;
}

static int read_id(json_t *user, const char *key, const char *name, uint32_t *ret, struct fm_error *err)
{
	json_int_t v;
	json_t *m = NULL;

	if (member(user, key, name, JSON_INTEGER, true, &m, err) < 0)
		return -1;
	v = m ? json_integer_value(m) : 0;
	if (v < 0 || v >= UINT32_MAX) /* (uid_t)-1 means "no change" to the kernel */
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "config.json: %s is not a user or group id", name);
	*ret = (uint32_t)v;
	return 0;
}

static int read_args(json_t *args, char ***ret, struct fm_error *err)
{
	_fm_cleanup_(fm_strv_freep) char **v = NULL;
	size_t n = json_array_size(args);

	if (n == 0 || n > MAX_ARGS)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "config.json: process.args has %zu members, it needs 1 to %d", n, MAX_ARGS);
	for (size_t i = 0; i < n; i++) {
		const char *s = json_string_value(json_array_get(args, i));

		if (!s || (i == 0 && !*s))
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "config.json: process.args[%zu] is not a string that can be run",
			                    i);
		fm_strv_add(&v, s);
	}
	*ret = FM_TAKE_PTR(v);
	return 0;
}

static int read_process(json_t *config, struct fm_bundle_info *i, struct fm_error *err)
{
	json_t *process = NULL, *args = NULL, *user = NULL, *cwd = NULL, *terminal = NULL;

	if (member(config, "process", "process", JSON_OBJECT, false, &process, err) < 0 ||
	    member(process, "args", "process.args", JSON_ARRAY, false, &args, err) < 0 ||
	    member(process, "cwd", "process.cwd", JSON_STRING, false, &cwd, err) < 0 ||
	    member(process, "user", "process.user", JSON_OBJECT, true, &user, err) < 0 ||
	    member(process, "terminal", "process.terminal", JSON_TRUE, true, &terminal, err) < 0)
		return -1;
	if (json_string_value(cwd)[0] != '/')
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "config.json: process.cwd is not an absolute path");
	if (read_id(user, "uid", "process.user.uid", &i->uid, err) < 0 || read_id(user, "gid", "process.user.gid", &i->gid, err) < 0)
		return -1;
	i->terminal = json_is_true(terminal);
	return read_args(args, &i->args, err);
}

static json_t *find_namespace(json_t *linux_, const char *type)
{
	json_t *list = json_object_get(linux_, "namespaces"), *ns;
	size_t k;

	json_array_foreach(list, k, ns) if (fm_streq(json_string_value(json_object_get(ns, "type")), type)) return ns;
	return NULL;
}

static int read_linux(json_t *config, struct fm_bundle_info *i, struct fm_error *err)
{
	json_t *linux_ = NULL, *namespaces = NULL, *resources = NULL, *memory = NULL, *limit = NULL, *ns = NULL, *path = NULL;
	size_t k;

	if (member(config, "linux", "linux", JSON_OBJECT, true, &linux_, err) < 0 ||
	    member(linux_, "namespaces", "linux.namespaces", JSON_ARRAY, true, &namespaces, err) < 0 ||
	    member(linux_, "resources", "linux.resources", JSON_OBJECT, true, &resources, err) < 0 ||
	    member(resources, "memory", "linux.resources.memory", JSON_OBJECT, true, &memory, err) < 0 ||
	    member(memory, "limit", "linux.resources.memory.limit", JSON_INTEGER, true, &limit, err) < 0)
		return -1;
	json_array_foreach(namespaces, k, ns) if (!json_is_string(json_object_get(ns, "type"))) return fm_error_set(
	        err, FM_E_INVALID_ARGUMENT, "config.json: linux.namespaces[%zu] has no type", k);
	if (limit && json_integer_value(limit) > 0) /* -1: unlimited */
		i->memory_limit_bytes = (uint64_t)json_integer_value(limit);
	i->cgroup_namespace = find_namespace(linux_, "cgroup") != NULL;
	ns = find_namespace(linux_, "network");
	if (!ns)
		return 0;
	if (member(ns, "path", "linux.namespaces[network].path", JSON_STRING, true, &path, err) < 0)
		return -1;
	i->netns_path = fm_xstrdup(path ? json_string_value(path) : "");
	return 0;
}

/* Whether mount m is a bind mount, and whether it is writable. */
static bool is_bind(json_t *m, bool *ret_writable)
{
	json_t *options = json_object_get(m, "options"), *o;
	bool bind = fm_streq(json_string_value(json_object_get(m, "type")), "bind"), writable = true;
	size_t k;

	json_array_foreach(options, k, o)
	{
		const char *s = json_string_value(o);

		if (fm_streq(s, "bind") || fm_streq(s, "rbind"))
			bind = true;
		else if (fm_streq(s, "ro"))
			writable = false;
		else if (fm_streq(s, "rw"))
			writable = true;
	}
	*ret_writable = writable;
	return bind;
}

static int read_mounts(json_t *config, struct fm_bundle_info *i, struct fm_error *err)
{
	json_t *mounts = NULL, *m = NULL;
	size_t k;

	if (member(config, "mounts", "mounts", JSON_ARRAY, true, &mounts, err) < 0)
		return -1;
	if (json_array_size(mounts) > MAX_MOUNTS)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "config.json: more than %d mounts", MAX_MOUNTS);
	json_array_foreach(mounts, k, m)
	{
		const char *destination = json_string_value(json_object_get(m, "destination"));
		const char *source = json_string_value(json_object_get(m, "source"));
		bool writable;

		if (!destination)
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "config.json: mounts[%zu] has no destination", k);
		if (!is_bind(m, &writable))
			continue;
		/* Relative ones would be relative to the instance's bundle, which is another folder. */
		if (!source || source[0] != '/')
			return fm_error_set(err, FM_E_INVALID_ARGUMENT,
			                    "config.json: the source of the bind mount at %s is not an absolute path", destination);
		if (!writable) {
			fm_strv_add(&i->read_only, source);
			fm_strv_add(&i->read_only_targets, destination);
			continue;
		}
		fm_strv_add(&i->volumes, source);
		fm_strv_add(&i->volume_targets, destination);
	}
	return 0;
}

static int read_root(json_t *config, const char *base, struct fm_bundle_info *i, struct fm_error *err)
{
	json_t *root = NULL, *path = NULL;
	const char *s;

	if (member(config, "root", "root", JSON_OBJECT, false, &root, err) < 0 ||
	    member(root, "path", "root.path", JSON_STRING, false, &path, err) < 0)
		return -1;
	s = json_string_value(path);
	if (!*s)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "config.json: root.path is empty");
	if (s[0] != '/' && (!base || base[0] != '/'))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT,
		                    "config.json: root.path '%s' is relative and there is no absolute base for it", s);
	i->rootfs = s[0] == '/' ? fm_xstrdup(s) : fm_xasprintf("%s/%s", base, s);
	return 0;
}

void fm_bundle_info_done(struct fm_bundle_info *i)
{
	free(i->rootfs);
	free(i->netns_path);
	fm_strv_free(i->args);
	fm_strv_free(i->volumes);
	fm_strv_free(i->volume_targets);
	fm_strv_free(i->read_only);
	fm_strv_free(i->read_only_targets);
	*i = (struct fm_bundle_info){ 0 };
}

static int parse_config(json_t *config, const char *base, struct fm_bundle_info *ret, struct fm_error *err)
{
	_fm_cleanup_(fm_bundle_info_done) struct fm_bundle_info i = { 0 };
	json_t *version = NULL;

	if (member(config, "ociVersion", "ociVersion", JSON_STRING, false, &version, err) < 0)
		return -1;
	if (!fm_str_startswith(json_string_value(version), "1."))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "config.json: ociVersion '%s' is not 1.x", json_string_value(version));
	if (read_root(config, base, &i, err) < 0 || read_process(config, &i, err) < 0 || read_linux(config, &i, err) < 0 ||
	    read_mounts(config, &i, err) < 0)
		return -1;
	*ret = i;
	i = (struct fm_bundle_info){ 0 };
	return 0;
}

int fm_bundle_parse(const char *config, const char *base, struct fm_bundle_info *ret, struct fm_error *err)
{
	_fm_cleanup_(json_decrefp) json_t *o = NULL;

	if (parse_text(config, &o, err) < 0)
		return -1;
	return parse_config(o, base, ret, err);
}

int fm_bundle_read(const char *bundle, char **ret_config, struct fm_bundle_info *ret, struct fm_error *err)
{
	_fm_cleanup_(fm_bundle_info_done) struct fm_bundle_info i = { 0 };
	_fm_free_ char *base = realpath(bundle, NULL), *path = NULL, *config = NULL;
	struct stat st;

	if (!base)
		return fm_error_errno(err, errno, "bundle %s", bundle);
	path = fm_xasprintf("%s/config.json", base);
	if (fm_read_file(path, FM_MAX_CONFIG_BYTES, &config, NULL, err) < 0)
		return fm_error_prefix(err, "bundle %s", bundle);
	if (fm_bundle_parse(config, base, &i, err) < 0)
		return fm_error_prefix(err, "bundle %s", bundle);
	if (!i.rootfs || stat(i.rootfs, &st) < 0)
		return fm_error_errno(err, errno, "bundle %s: root filesystem %s", bundle, i.rootfs);
	if (!S_ISDIR(st.st_mode))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "bundle %s: root filesystem %s is not a directory", bundle, i.rootfs);
	*ret_config = FM_TAKE_PTR(config);
	*ret = i;
	i = (struct fm_bundle_info){ 0 };
	return 0;
}

/* ---- the instance's config */

static int check_nestable(json_t *config, struct fm_error *err)
{
	static const char *const private[] = { "pid", "mount", "ipc", "uts" };
	json_t *linux_ = json_object_get(config, "linux"), *m;
	size_t k;

	for (size_t n = 0; n < FM_ARRAY_SIZE(private); n++) {
		json_t *ns = find_namespace(linux_, private[n]);
		const char *path = json_string_value(json_object_get(ns, "path"));

		if (!ns || (path && *path)) {
			(void)fm_error_set(err, FM_E_INVALID_ARGUMENT, "a nested container needs a %s namespace of its own, this one %s",
			                   private[n], ns ? "joins another's" : "uses the host's");
			return fm_error_hint(err,
			                     "add {\"type\": \"%s\"} to linux.namespaces in config.json, or make it an ordinary container",
			                     private[n]);
		}
	}
	json_array_foreach(json_object_get(config, "mounts"), k, m)
	{
		const char *d = json_string_value(json_object_get(m, "destination"));

		if (d && strstr(d, ".fleximigrate"))
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "config.json mounts something at %s, which is ours", d);
	}
	return 0;
}

static int check_spec(const struct fm_instance_spec *s, const struct fm_bundle_info *i, json_t *config, struct fm_error *err)
{
	if (!fm_name_is_valid(s->instance) || !fm_name_is_valid(s->name))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%.80s' or '%.80s' is not a valid name", s->instance ? s->instance : "",
		                    s->name ? s->name : "");
	if (!s->instances_dir || s->instances_dir[0] != '/' || !s->rootfs || s->rootfs[0] != '/')
		return fm_error_set(err, FM_E_INVALID_ARGUMENT,
		                    "instance %s: the instances folder and the root filesystem must be absolute paths", s->instance);
	if (i->terminal) {
		(void)fm_error_set(err, FM_E_INVALID_ARGUMENT, "container %s asks for a terminal, which cannot be migrated", s->name);
		return fm_error_hint(err, "set process.terminal to false in config.json");
	}
	if (!s->nested)
		return 0;
	if (!s->nest_binary || s->nest_binary[0] != '/')
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "instance %s: no absolute path of the nest's program", s->instance);
	return check_nestable(config, err);
}

/* Existing or new member object; NULL when memory is out. */
static json_t *sub_object(json_t *o, const char *key, json_t *(*make)(void))
{
	json_t *m = json_object_get(o, key);

	if (m && !json_is_null(m))
		return m;
	m = make();
	return json_object_set_new(o, key, m) < 0 ? NULL : m;
}

/* process.args = nest -- args. jansson's setters fail on NULL values, so one check at the end covers running out of memory. */
static int nest_args(json_t *config)
{
	json_t *process = json_object_get(config, "process");
	json_t *args = json_array();
	int r = json_array_append_new(args, json_string(FM_NEST_MOUNT));

	r |= json_array_append_new(args, json_string("--"));
	r |= json_array_extend(args, json_object_get(process, "args"));
	r |= json_object_set_new(process, "args", args);
	return r;
}

static int nest_mounts(json_t *config, const char *nest_binary, const char *control_dir)
{
	json_t *mounts = sub_object(config, "mounts", json_array);
	int r = json_array_append_new(mounts, json_pack("{s:s, s:s, s:s, s:[s,s,s,s]}", "destination", FM_NEST_MOUNT, "type", "bind",
	                                                "source", nest_binary, "options", "bind", "ro", "nosuid", "nodev"));

	r |= json_array_append_new(mounts, json_pack("{s:s, s:s, s:s, s:[s,s,s,s,s]}", "destination", FM_NEST_RUN_MOUNT, "type", "bind",
	                                             "source", control_dir, "options", "bind", "rw", "nosuid", "nodev", "noexec"));
	return r;
}

static int annotate(json_t *config, const struct fm_instance_spec *s)
{
	json_t *a = sub_object(config, "annotations", json_object);
	int r = json_object_set_new(a, FM_ANNOTATION_NAME, json_string(s->name));

	r |= json_object_set_new(a, FM_ANNOTATION_KIND, json_string(s->nested ? "nested" : "ordinary"));
	r |= json_object_set_new(a, FM_ANNOTATION_INSTANCE, json_string(s->instance));
	if (s->migration_id)
		r |= json_object_set_new(a, FM_ANNOTATION_MIGRATION, json_string(s->migration_id));
	else
		(void)json_object_del(a, FM_ANNOTATION_MIGRATION);
	return r;
}

static int set_netns(json_t *linux_, const char *path)
{
	json_t *ns = find_namespace(linux_, "network");

	if (ns)
		return json_object_set_new(ns, "path", json_string(path));
	return json_array_append_new(sub_object(linux_, "namespaces", json_array),
	                             json_pack("{s:s, s:s}", "type", "network", "path", path));
}

static int change_config(json_t *config, const struct fm_instance_spec *s, const char *control_dir, char **ret, struct fm_error *err)
{
	json_t *linux_ = sub_object(config, "linux", json_object);
	int r = json_object_set_new(json_object_get(config, "root"), "path", json_string(s->rootfs));

	if (s->cgroup_path)
		r |= json_object_set_new(linux_, "cgroupsPath", json_string(s->cgroup_path));
	if (s->netns_path)
		r |= set_netns(linux_, s->netns_path);
	if (s->nested) {
		r |= nest_args(config);
		r |= nest_mounts(config, s->nest_binary, control_dir);
	}
	r |= annotate(config, s);
	*ret = r ? NULL : json_dumps(config, JSON_INDENT(2));
	if (!*ret)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT,
		                    "instance %s: its config.json cannot be written (a path that is not UTF-8?)", s->instance);
	return 0;
}

/* Container id to host id, through linux.uidMappings or gidMappings when there are any. */
static int host_id(json_t *config, const char *key, uint32_t id, uint32_t *ret, struct fm_error *err)
{
	json_t *maps = json_object_get(json_object_get(config, "linux"), key), *m;
	size_t k;

	if (json_array_size(maps) == 0) {
		*ret = id;
		return 0;
	}
	json_array_foreach(maps, k, m)
	{
		json_int_t inside = json_integer_value(json_object_get(m, "containerID")),
		           size = json_integer_value(json_object_get(m, "size"));
		json_int_t outside = json_integer_value(json_object_get(m, "hostID"));

		if (inside < 0 || size <= 0 || outside < 0 || id < inside || id - inside >= size || outside + (id - inside) >= UINT32_MAX)
			continue;
		*ret = (uint32_t)(outside + (id - inside));
		return 0;
	}
	return fm_error_set(err, FM_E_INVALID_ARGUMENT, "config.json: linux.%s does not map the id %u of process.user", key, id);
}

/* ---- the folder */

static int make_folder(const char *folder, const char *config, const struct fm_instance_spec *s, uid_t uid, gid_t gid, struct fm_error *err)
{
	_fm_free_ char *bundle = fm_xasprintf("%s/bundle", folder), *control = fm_xasprintf("%s/nest", folder);
	_fm_free_ char *file = fm_xasprintf("%s/config.json", bundle), *log = fm_xasprintf("%s/log", folder);
	_fm_close_ int log_fd = -1;

	if (s->nested && fm_nest_prepare_control(control, uid, gid, s->wait, err) < 0)
		return -1;
	log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (log_fd < 0)
		return fm_error_errno(err, errno, "creating %s", log);
	return fm_write_file_atomic(file, config, strlen(config), 0600, err);
}

static void unmake_folder(const char *folder)
{
	static const char *const parts[] = { "bundle", "nest", "log" };

	for (size_t i = 0; i < FM_ARRAY_SIZE(parts); i++) {
		_fm_free_ char *path = fm_xasprintf("%s/%s", folder, parts[i]);

		(void)fm_remove_tree(path, NULL); /* the reason for undoing it is the one to tell */
	}
	(void)rmdir(folder); /* stays when a root filesystem has been received into it */
}

int fm_bundle_make_instance(const struct fm_instance_spec *s, char **ret_bundle, struct fm_error *err)
{
	_fm_cleanup_(fm_bundle_info_done) struct fm_bundle_info info = { 0 };
	_fm_cleanup_(json_decrefp) json_t *config = NULL;
	_fm_free_ char *folder = NULL, *bundle = NULL, *control = NULL, *text = NULL;
	uint32_t uid = 0, gid = 0;

	if (parse_text(s->config, &config, err) < 0 || parse_config(config, "/", &info, err) < 0 || check_spec(s, &info, config, err) < 0)
		return -1;
	folder = fm_xasprintf("%s/%s", s->instances_dir, s->instance);
	bundle = fm_xasprintf("%s/bundle", folder);
	control = fm_xasprintf("%s/nest", folder);
	if (host_id(config, "uidMappings", info.uid, &uid, err) < 0 || host_id(config, "gidMappings", info.gid, &gid, err) < 0 ||
	    change_config(config, s, control, &text, err) < 0 || !text)
		return -1;
	if (fm_mkdir_p(folder, 0700, err) < 0)
		return -1;
	if (mkdir(bundle, 0700) < 0) { /* the one who makes it owns the instance */
		if (errno == EEXIST)
			return fm_error_set(err, FM_E_ALREADY_EXISTS, "instance %s exists already", s->instance);
		return fm_error_errno(err, errno, "creating %s", bundle);
	}
	if (make_folder(folder, text, s, uid, gid, err) < 0)
		goto undo;
	*ret_bundle = FM_TAKE_PTR(bundle);
	return 0;
undo:
	unmake_folder(folder);
	return -1;
}

int fm_bundle_remove_instance(const char *instances_dir, const char *instance, struct fm_error *err)
{
	_fm_free_ char *folder = NULL;

	if (!fm_name_is_valid(instance))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%.80s' is not an instance's name", instance ? instance : "");
	folder = fm_xasprintf("%s/%s", instances_dir, instance);
	return fm_remove_tree(folder, err);
}
