/* SPDX-License-Identifier: MIT */
/*
 * engine-request.c - OCI's config.json in Docker's words: see engine.h.
 *
 * What Docker has no word for is refused by its name; four things are not: nosuid, nodev and noexec of a bind mount (Docker cannot say them; every container of runc and Podman has them), what every engine mounts by itself, resource
 * devices that are denied (Docker denies all but its own list), and members that are missing where Docker's default is the stricter one (seccomp, masked and read-only paths).
 */
#include <errno.h>
#include <string.h>
#include <strings.h>

#include "basic/str.h"
#include "container/engine.h"

static int refuse(struct fm_error *err, const char *member)
{
	(void)fm_error_set(err, FM_E_INVALID_ARGUMENT, "docker cannot do what config.json says in %s", member);
	return fm_error_hint(err, "remove it from the container's configuration, or choose another runtime");
}

static bool is_empty(const json_t *m)
{
	return !m || json_is_null(m) || json_is_false(m) ||
	       ((json_is_object(m) || json_is_array(m)) && json_object_size(m) + json_array_size(m) == 0) ||
	       (json_is_string(m) && json_string_length(m) == 0);
}

/* Only these members may say something. known: NULL-terminated */
static int only(const json_t *o, const char *where, const char *const *known, struct fm_error *err)
{
	const char *key;
	json_t *m;

	json_object_foreach((json_t *)o, key, m)
	{
		bool found = is_empty(m);

		for (size_t i = 0; !found && known[i]; i++)
			found = fm_streq(known[i], key);
		if (!found) {
			_fm_free_ char *name = fm_xasprintf("%s%s%.80s", where, *where ? "." : "", key);

			return refuse(err, name);
		}
	}
	return 0;
}

static int check_members(const json_t *config, struct fm_error *err)
{
	static const char *const top[] = {
		"ociVersion", "process", "root", "hostname", "domainname", "mounts", "linux", "annotations", NULL
	};
	static const char *const process[] = {
		"terminal",        "consoleSize",     "user",        "args", "env", "cwd", "capabilities", "rlimits",
		"noNewPrivileges", "apparmorProfile", "oomScoreAdj", NULL
	};
	static const char *const user[] = { "uid", "gid", "additionalGids", NULL };
	static const char *const linux_[] = { "namespaces",  "resources",     "cgroupsPath",       "sysctl", "seccomp",
		                              "maskedPaths", "readonlyPaths", "rootfsPropagation", NULL };
	static const char *const resources[] = { "memory", "cpu", "pids", "devices", NULL };
	static const char *const memory[] = { "limit", "reservation", "swap", "swappiness", "disableOOMKiller", NULL };
	static const char *const cpu[] = { "shares", "quota", "period", "cpus", "mems", NULL };
	const json_t *p = json_object_get(config, "process"), *l = json_object_get(config, "linux"), *r = json_object_get(l, "resources"),
	             *ns;
	size_t k;

	json_array_foreach(json_object_get(l, "namespaces"), k, ns)
	{
		const char *type = json_string_value(json_object_get(ns, "type"));

		if (fm_streq(type, "user") || fm_streq(type, "time") ||
		    (!fm_streq(type, "network") && !is_empty(json_object_get(ns, "path"))))
			return refuse(err, "linux.namespaces");
	}
	if (fm_streq(json_string_value(json_object_get(l, "rootfsPropagation")), "shared"))
		return refuse(err, "linux.rootfsPropagation");
	return only(config, "", top, err) < 0 || only(p, "process", process, err) < 0 ||
	                       only(json_object_get(p, "user"), "process.user", user, err) < 0 || only(l, "linux", linux_, err) < 0 ||
	                       only(r, "linux.resources", resources, err) < 0 ||
	                       only(json_object_get(r, "memory"), "linux.resources.memory", memory, err) < 0 ||
	                       only(json_object_get(r, "cpu"), "linux.resources.cpu", cpu, err) < 0
	               ? -1
	               : 0;
}

/* jansson's setters fail on NULL values and containers, so whatever goes wrong is in the sum of their results. */
static int copy(json_t *to, const char *key, const json_t *from, const char *from_key)
{
	json_t *m = json_object_get(from, from_key);

	return is_empty(m) ? 0 : json_object_set(to, key, m);
}

/* ---- process ---- */

static int set_process(const json_t *p, json_t *body, json_t *host)
{
	json_t *args = json_object_get(p, "args"), *user = json_object_get(p, "user"), *o, *list = json_array(), *cmd = json_array(),
	       *limits = json_array();
	_fm_free_ char *who = fm_xasprintf("%lld:%lld", (long long)json_integer_value(json_object_get(user, "uid")),
	                                   (long long)json_integer_value(json_object_get(user, "gid")));
	int r = json_object_set_new(body, "User", json_string(who));
	size_t k;

	json_array_foreach(args, k, o) if (k > 0) r |= json_array_append(cmd, o);
	r |= json_object_set_new(body, "Entrypoint", json_pack("[O]", json_array_get(args, 0))) | json_object_set_new(body, "Cmd", cmd);
	r |= copy(body, "Env", p, "env") | copy(body, "WorkingDir", p, "cwd") | copy(host, "OomScoreAdj", p, "oomScoreAdj");
	json_array_foreach(json_object_get(user, "additionalGids"), k, o) r |=
	        json_array_append_new(list, json_sprintf("%lld", (long long)json_integer_value(o)));
	r |= json_object_set_new(host, "GroupAdd", list) | json_object_set_new(host, "CapDrop", json_pack("[s]", "ALL"));
	r |= copy(host, "CapAdd", json_object_get(p, "capabilities"), "bounding");
	json_array_foreach(json_object_get(p, "rlimits"), k, o)
	{
		const char *type = json_string_value(json_object_get(o, "type"));
		_fm_free_ char *name = fm_xstrdup(type && fm_str_startswith(type, "RLIMIT_") ? type + strlen("RLIMIT_") : "?");

		for (char *c = name; *c; c++)
			*c = *c >= 'A' && *c <= 'Z' ? (char)(*c - 'A' + 'a') : *c;
		r |= json_array_append_new(limits,
		                           json_pack("{s:s,s:I,s:I}", "Name", name, "Soft", json_integer_value(json_object_get(o, "soft")),
		                                     "Hard", json_integer_value(json_object_get(o, "hard"))));
	}
	return r | json_object_set_new(host, "Ulimits", limits);
}

static int set_security(const json_t *config, json_t *host, struct fm_error *err)
{
	static const char *const seccomp_members[] = { "defaultAction", "architectures", "syscalls", NULL };
	const json_t *p = json_object_get(config, "process"), *l = json_object_get(config, "linux"),
	             *seccomp = json_object_get(l, "seccomp");
	const char *profile = json_string_value(json_object_get(p, "apparmorProfile"));
	json_t *options = json_array();
	int r = 0;

	if (json_is_true(json_object_get(p, "noNewPrivileges")))
		r |= json_array_append_new(options, json_string("no-new-privileges"));
	if (profile && *profile)
		r |= json_array_append_new(options, json_sprintf("apparmor=%s", profile));
	if (!is_empty(seccomp)) {
		_fm_free_ char *text = json_dumps(seccomp, JSON_COMPACT);

		if (only(seccomp, "linux.seccomp", seccomp_members, err) < 0) {
			json_decref(options);
			return -1;
		}
		r |= text ? json_array_append_new(options, json_sprintf("seccomp=%s", text)) : -1;
	}
	r |= json_object_set_new(host, "SecurityOpt", options) | copy(host, "MaskedPaths", l, "maskedPaths") |
	     copy(host, "ReadonlyPaths", l, "readonlyPaths") | copy(host, "Sysctls", l, "sysctl");
	return r ? fm_error_set(err, FM_E_INVALID_ARGUMENT, "config.json: its security members cannot be passed on") : 0;
}

/* ---- mounts ---- */

static const char *option_of(const json_t *m, const char *prefix)
{
	json_t *o;
	size_t k;

	json_array_foreach(json_object_get(m, "options"), k, o)
	{
		const char *s = json_string_value(o);

		if (s && strncmp(s, prefix, strlen(prefix)) == 0 && (prefix[strlen(prefix) - 1] == '=' || fm_streq(s, prefix)))
			return s + (prefix[strlen(prefix) - 1] == '=' ? strlen(prefix) : 0);
	}
	return NULL;
}

static int add_bind(const json_t *m, const char *target, json_t *mounts)
{
	static const char *const propagations[] = { "private", "rprivate", "shared", "rshared", "slave", "rslave" };
	const char *propagation = "rprivate", *source = json_string_value(json_object_get(m, "source"));

	for (size_t i = 0; i < FM_ARRAY_SIZE(propagations); i++)
		if (option_of(m, propagations[i]))
			propagation = propagations[i];
	return json_array_append_new(mounts, json_pack("{s:s,s:s,s:s,s:b,s:{s:s,s:b}}", "Type", "bind", "Source", source, "Target", target,
	                                               "ReadOnly", option_of(m, "ro") != NULL, "BindOptions", "Propagation", propagation,
	                                               "NonRecursive", option_of(m, "bind") && !option_of(m, "rbind")));
}

/* Docker's defaults are nosuid, nodev and noexec: what is not said is said the other way round. */
static int add_tmpfs(const json_t *m, const char *target, json_t *tmpfs)
{
	static const char *const passed[] = { "size=", "mode=", "uid=", "gid=", "nr_inodes=" };
	struct fm_buf b = { 0 };

	fm_buf_addf(&b, "%s,%s,%s,%s", option_of(m, "ro") ? "ro" : "rw", option_of(m, "nosuid") ? "nosuid" : "suid",
	            option_of(m, "nodev") ? "nodev" : "dev", option_of(m, "noexec") ? "noexec" : "exec");
	for (size_t i = 0; i < FM_ARRAY_SIZE(passed); i++)
		if (option_of(m, passed[i]))
			fm_buf_addf(&b, ",%s%s", passed[i], option_of(m, passed[i]));
	int r = json_object_set_new(tmpfs, target, json_string(b.data));
	fm_buf_done(&b);
	return r;
}

static int shm_size(const json_t *m, json_t *host)
{
	const char *size = option_of(m, "size=");
	uint64_t bytes = 0;

	if (!size)
		return 0;
	if (fm_parse_bytes(size, &bytes, NULL) < 0 || bytes > INT64_MAX)
		return -1;
	return json_object_set_new(host, "ShmSize", json_integer((json_int_t)bytes));
}

static bool is_engines(const char *type, const char *target)
{
	static const char *const types[] = { "proc", "sysfs", "mqueue", "devpts", "cgroup", "cgroup2" };

	for (size_t i = 0; i < FM_ARRAY_SIZE(types); i++)
		if (fm_streq(type, types[i]))
			return true;
	return fm_streq(type, "tmpfs") && (fm_streq(target, "/dev") || fm_streq(target, "/proc") || fm_streq(target, "/sys/fs/cgroup"));
}

static int set_mounts(const json_t *config, json_t *host, struct fm_error *err)
{
	json_t *mounts = json_array(), *tmpfs = json_object(), *m;
	int r = json_object_set_new(host, "Mounts", mounts) | json_object_set_new(host, "Tmpfs", tmpfs);
	size_t k;

	json_array_foreach(json_object_get(config, "mounts"), k, m)
	{
		const char *type = json_string_value(json_object_get(m, "type")),
		           *target = json_string_value(json_object_get(m, "destination"));

		if (fm_streq(type, "bind") || option_of(m, "bind") || option_of(m, "rbind")) {
			r |= add_bind(m, target, mounts);
		} else if (is_engines(type, target)) {
			continue;
		} else if (fm_streq(type, "tmpfs")) {
			r |= fm_streq(target, "/dev/shm") ? shm_size(m, host) : add_tmpfs(m, target, tmpfs);
		} else {
			_fm_free_ char *name = fm_xasprintf("mounts: %.40s at %.80s", type ? type : "nothing", target);

			return refuse(err, name);
		}
	}
	return r ? fm_error_set(err, FM_E_INVALID_ARGUMENT, "config.json: its mounts cannot be passed on") : 0;
}

/* ---- resources ---- */

static int set_device_rules(const json_t *resources, json_t *host)
{
	json_t *rules = json_array(), *d;
	int r = 0;
	size_t k;

	json_array_foreach(json_object_get(resources, "devices"), k, d)
	{
		const char *type = json_string_value(json_object_get(d, "type")), *access = json_string_value(json_object_get(d, "access"));
		const json_t *major = json_object_get(d, "major"), *minor = json_object_get(d, "minor");
		_fm_free_ char *a = json_is_integer(major) ? fm_xasprintf("%lld", (long long)json_integer_value(major)) : fm_xstrdup("*");
		_fm_free_ char *b = json_is_integer(minor) ? fm_xasprintf("%lld", (long long)json_integer_value(minor)) : fm_xstrdup("*");

		if (json_is_true(json_object_get(d, "allow")))
			r |= json_array_append_new(rules, json_sprintf("%s %s:%s %s", type ? type : "a", a, b, access ? access : "rwm"));
	}
	return r | json_object_set_new(host, "DeviceCgroupRules", rules);
}

static int set_resources(const json_t *linux_, bool cgroupfs, json_t *host)
{
	const json_t *res = json_object_get(linux_, "resources"), *memory = json_object_get(res, "memory"),
	             *cpu = json_object_get(res, "cpu");
	const char *path = json_string_value(json_object_get(linux_, "cgroupsPath")), *slash = path ? strrchr(path, '/') : NULL;
	int r = copy(host, "Memory", memory, "limit") | copy(host, "MemoryReservation", memory, "reservation") |
	        copy(host, "MemorySwap", memory, "swap") | copy(host, "MemorySwappiness", memory, "swappiness") |
	        copy(host, "OomKillDisable", memory, "disableOOMKiller") | copy(host, "CpuShares", cpu, "shares") |
	        copy(host, "CpuQuota", cpu, "quota") | copy(host, "CpuPeriod", cpu, "period") | copy(host, "CpusetCpus", cpu, "cpus") |
	        copy(host, "CpusetMems", cpu, "mems") | copy(host, "PidsLimit", json_object_get(res, "pids"), "limit");

	if (json_object_get(host, "Memory") && !json_object_get(host, "MemorySwap")) /* else Docker takes twice the memory */
		r |= json_object_set_new(host, "MemorySwap", json_integer(-1));
	if (cgroupfs && path && path[0] == '/' && slash > path && !strchr(path, ':'))
		r |= json_object_set_new(host, "CgroupParent", json_stringn(path, (size_t)(slash - path)));
	return r | set_device_rules(res, host);
}

static bool has_cgroup_namespace(const json_t *linux_)
{
	json_t *ns;
	size_t k;

	json_array_foreach(json_object_get(linux_, "namespaces"), k,
	                   ns) if (fm_streq(json_string_value(json_object_get(ns, "type")), "cgroup")) return true;
	return false;
}

int fm_engine_docker_request(const json_t *config, const char *bundle, const char *image, bool cgroupfs, json_t **ret, struct fm_error *err)
{
	const json_t *linux_ = json_object_get(config, "linux");
	json_t *host = json_pack("{s:s,s:s,s:s,s:{s:s},s:b,s:s}", "NetworkMode", "none", "IpcMode", "private", "CgroupnsMode",
	                         has_cgroup_namespace(linux_) ? "private" : "host", "RestartPolicy", "Name", "no", "Init", 0, "UsernsMode",
	                         "host");
	json_t *labels = json_object();
	_fm_cleanup_(json_decrefp) json_t *body =
	        json_pack("{s:s,s:o,s:o,s:{s:[s]}}", "Image", image, "HostConfig", host, "Labels", labels, "Healthcheck", "Test", "NONE");

	if (!body)
		return fm_error_errno(err, ENOMEM, "making a request to docker");
	if (check_members(config, err) < 0 || set_mounts(config, host, err) < 0 || set_security(config, host, err) < 0)
		return -1;
	int r = set_process(json_object_get(config, "process"), body, host) | set_resources(linux_, cgroupfs, host);
	r |= copy(body, "Hostname", config, "hostname") | copy(body, "Domainname", config, "domainname") |
	     copy(host, "ReadonlyRootfs", json_object_get(config, "root"), "readonly");
	if (json_object_get(config, "annotations"))
		r |= json_object_update(labels, json_object_get(config, "annotations"));
	r |= json_object_set_new(labels, FM_ENGINE_LABEL_BUNDLE, json_string(bundle));
	if (r)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "config.json: a member of it cannot be passed on to docker");
	*ret = FM_TAKE_PTR(body);
	return 0;
}
