/* SPDX-License-Identifier: MIT */
/*
 * runtime-containerd.c - the runtime driver for containerd, by its API.
 *
 * A container there is a record; its process is a *task*, kept by a shim that outlives the daemon. create makes both (the runtime has created the process, which waits); what has ended stays as a stopped
 * task with its exit status until remove. A record without a task counts as stopped: start is not for it.
 *
 * Every call has a deadline. What the daemon did when its answer was lost (UNAVAILABLE, DEADLINE_EXCEEDED) is not known: remove, which looks at each part by itself, is the undo of any create.
 *
 * Statuses. containerd hands on the words of shim and runtime with UNKNOWN: the state of the system does not allow it, or the configuration does not, which is FAILED_PRECONDITION here as it is with runc.
 *
 * containerd's restart monitor (a plugin) goes by labels of the container: it starts again what has the status label "running", in the way that the policy label says (1.7; always before). Setting a label
 * to "" removes it. The label "stopped" would be an order to end it, so it is never written.
 */
#include "container/runtime-containerd.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/id.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "container/bundle.h"
#include "container/runtime-containerd-internal.h"

#define CONTAINERS "/containerd.services.containers.v1.Containers/"
#define TASKS      "/containerd.services.tasks.v1.Tasks/"

#define SPEC_TYPE    "types.containerd.io/opencontainers/runtime-spec/1/Spec"
#define OPTIONS_TYPE "containerd.runc.v1.Options"
#define SHIM         "io.containerd.runc.v2"

#define LABEL_BUNDLE         "org.fleximigrate.bundle" /* where create found it */
#define LABEL_NERDCTL_NAME   "nerdctl/name"
#define LABEL_RESTART        "containerd.io/restart.status"
#define LABEL_RESTART_POLICY "containerd.io/restart.policy"

#define MAX_ID_BYTES        76 /* containerd's own limits */
#define MAX_NAMESPACE_BYTES 48 /* "NAMESPACE:ID" fits into fm_instance.id */
#define MAX_LABEL_BYTES     4096

#define ASK_MS  10000
#define WORK_MS 30000 /* create, start, delete: runc works */
#define END_MS  10000 /* from SIGKILL to the end */
#define UNDO_MS 5000

struct containerd {
	struct fm_runtime rt; /* first */
	struct fm_containerd_transport t;
	char **namespaces;
	pthread_mutex_t lock;
	struct fm_containerd_watch *watch; /* under lock */
};

/* Where an instance is. */
struct place {
	const char *id; /* ours */
	const char *ns;
	char cid[MAX_ID_BYTES + 1]; /* containerd's */
};

static struct containerd *containerd_of(struct fm_runtime *rt)
{
	return (struct containerd *)rt;
}

static void free_message(void *m)
{
	if (*(ProtobufCMessage **)m)
		protobuf_c_message_free_unpacked(*(ProtobufCMessage **)m, NULL);
}
#define _message_ _fm_cleanup_(free_message)

/* ---- calls */

static int call(struct containerd *c, const char *ns, const char *method, const ProtobufCMessage *request,
                const ProtobufCMessageDescriptor *answer, int timeout_ms, void *ret, struct fm_error *err)
{
	ProtobufCMessage *m = NULL;

	if (c->t.call(c->t.userdata, ns, method, request, answer, timeout_ms, &m, err) < 0) {
		if (err && err->code == FM_E_UNKNOWN)
			err->code = FM_E_FAILED_PRECONDITION;
		return -1;
	}
	*(ProtobufCMessage **)ret = m;
	return 0;
}

/* Whose answer says nothing but that it is done. */
static int order(struct containerd *c, const char *ns, const char *method, const ProtobufCMessage *request, int timeout_ms,
                 struct fm_error *err)
{
	_message_ ProtobufCMessage *m = NULL;

	return call(c, ns, method, request, &fm_ctrd_empty__descriptor, timeout_ms, &m, err);
}

static int task_order(struct containerd *c, const struct place *p, const char *method, int timeout_ms, struct fm_error *err)
{
	FmCtrdTaskId request = FM_CTRD_TASK_ID__INIT;

	request.container_id = (char *)p->cid;
	return order(c, p->ns, method, &request.base, timeout_ms, err);
}

static int send_signal(struct containerd *c, const struct place *p, int signal, struct fm_error *err)
{
	FmCtrdKill request = FM_CTRD_KILL__INIT;

	request.container_id = (char *)p->cid;
	request.signal = (uint32_t)signal;
	return order(c, p->ns, TASKS "Kill", &request.base, ASK_MS, err);
}

static int get_container(struct containerd *c, const struct place *p, FmCtrdContainerIs **ret, struct fm_error *err)
{
	FmCtrdContainerId request = FM_CTRD_CONTAINER_ID__INIT;

	request.id = (char *)p->cid;
	if (call(c, p->ns, CONTAINERS "Get", &request.base, &fm_ctrd_container_is__descriptor, ASK_MS, ret, err) < 0)
		return -1;
	if ((*ret)->container)
		return 0;
	free_message(ret);
	*ret = NULL;
	return fm_error_set(err, FM_E_INTERNAL, "containerd says nothing of %s", p->cid);
}

static enum fm_container_status status_of(const FmCtrdProcess *p)
{
	switch (p->status) {
	case FM_CTRD_STATUS__FM_CTRD_CREATED:
		return FM_CONTAINER_CREATED;
	case FM_CTRD_STATUS__FM_CTRD_RUNNING:
		return FM_CONTAINER_RUNNING;
	case FM_CTRD_STATUS__FM_CTRD_STOPPED:
		return FM_CONTAINER_STOPPED;
	case FM_CTRD_STATUS__FM_CTRD_PAUSED:
	case FM_CTRD_STATUS__FM_CTRD_PAUSING:
		return FM_CONTAINER_PAUSED;
	default:
		return FM_CONTAINER_UNKNOWN;
	}
}

static pid_t pid_of(const FmCtrdProcess *p)
{
	return status_of(p) == FM_CONTAINER_STOPPED || p->pid > INT32_MAX ? 0 : (pid_t)p->pid;
}

/* NOT_FOUND when there is no task (or no container). */
static int get_task(struct containerd *c, const struct place *p, enum fm_container_status *ret_status, pid_t *ret_pid, struct fm_error *err)
{
	_message_ FmCtrdProcessIs *m = NULL;
	FmCtrdTaskId request = FM_CTRD_TASK_ID__INIT;

	request.container_id = (char *)p->cid;
	if (call(c, p->ns, TASKS "Get", &request.base, &fm_ctrd_process_is__descriptor, ASK_MS, &m, err) < 0)
		return -1;
	if (!m->process)
		return fm_error_set(err, FM_E_INTERNAL, "containerd says nothing of the task of %s", p->cid);
	*ret_status = status_of(m->process);
	if (ret_pid)
		*ret_pid = pid_of(m->process);
	return 0;
}

/* ---- ids */

/* [A-Za-z0-9]+([._-][A-Za-z0-9]+)*, at most `max` bytes */
static bool is_containerd_name(const char *s, size_t max)
{
	size_t n = strlen(s);

	if (n == 0 || n > max || !isalnum((unsigned char)s[n - 1]))
		return false;
	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)s[i]) && (!strchr("._-", s[i]) || i == 0 || !isalnum((unsigned char)s[i - 1])))
			return false;
	return true;
}

static void cid_of(const char *id, char ret[MAX_ID_BYTES + 1])
{
	if (is_containerd_name(id, MAX_ID_BYTES))
		(void)snprintf(ret, MAX_ID_BYTES + 1, "%s", id);
	else
		(void)snprintf(ret, MAX_ID_BYTES + 1, "fleximigrate-%016" PRIx64, fm_hash_str(id));
}

static int bad_id(const char *id, struct fm_error *err)
{
	return fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%.140s' is not a container id", id ? id : "");
}

static int place_of(const struct containerd *c, const char *id, struct place *ret, struct fm_error *err)
{
	static const char more[] = "_.+-";
	const char *colon = id ? strchr(id, ':') : NULL;
	size_t n = id ? strlen(id) : 0;

	ret->id = id;
	ret->ns = c->namespaces[0];
	if (n == 0 || n >= sizeof((struct fm_instance *)NULL)->id || !isalnum((unsigned char)id[0]))
		return bad_id(id, err);
	if (!colon) {
		for (size_t i = 0; i < n; i++)
			if (!isalnum((unsigned char)id[i]) && !strchr(more, id[i]))
				return bad_id(id, err);
		cid_of(id, ret->cid);
		return 0;
	}
	if (!is_containerd_name(colon + 1, MAX_ID_BYTES))
		return bad_id(id, err);
	(void)snprintf(ret->cid, sizeof ret->cid, "%s", colon + 1);
	for (size_t i = 1; c->namespaces[i]; i++)
		if (strlen(c->namespaces[i]) == (size_t)(colon - id) && strncmp(c->namespaces[i], id, (size_t)(colon - id)) == 0) {
			ret->ns = c->namespaces[i];
			return 0;
		}
	return fm_error_set(err, FM_E_NOT_FOUND, "%s: containerd's namespace is not one that is looked at", id);
}

static int set_id(const struct containerd *c, const char *ns, const FmCtrdContainer *in, struct fm_instance *i, struct fm_error *err)
{
	const char *label = fm_containerd_label(in, FM_ANNOTATION_INSTANCE);
	char cid[MAX_ID_BYTES + 1];
	struct place p;

	if (!is_containerd_name(in->id, MAX_ID_BYTES))
		return fm_error_set(err, FM_E_INTERNAL, "containerd reports a container without a usable id");
	if (ns != c->namespaces[0])
		return fm_snprintf(i->id, sizeof i->id, err, "%s:%s", ns, in->id);
	if (label && !strchr(label, ':') && place_of(c, label, &p, NULL) == 0) {
		cid_of(label, cid);
		if (fm_streq(cid, in->id)) /* else somebody copied the label */
			return fm_snprintf(i->id, sizeof i->id, err, "%s", label);
	}
	return fm_snprintf(i->id, sizeof i->id, err, "%s", in->id);
}

/* ---- state */

static int instance_of(const struct containerd *c, const char *ns, const FmCtrdContainer *in, struct fm_instance *ret, struct fm_error *err)
{
	const char *bundle = fm_containerd_label(in, LABEL_BUNDLE), *owner = fm_containerd_label(in, FM_ANNOTATION_NAME);
	const char *name = fm_containerd_label(in, LABEL_NERDCTL_NAME), *kind = fm_containerd_label(in, FM_ANNOTATION_KIND);
	struct fm_instance i = { .status = FM_CONTAINER_STOPPED };

	if (set_id(c, ns, in, &i, err) < 0)
		return -1;
	(void)snprintf(i.runtime, sizeof i.runtime, "containerd");
	(void)snprintf(i.bundle, sizeof i.bundle, "%s", bundle && bundle[0] == '/' ? bundle : "");
	if (fm_name_is_valid(owner)) /* anything else cannot be ours */
		(void)snprintf(i.owner_name, sizeof i.owner_name, "%s", owner);
	(void)snprintf(i.name, sizeof i.name, "%s", name && *name ? name : i.id);
	fm_str_sanitize(i.name);
	(void)snprintf(i.image, sizeof i.image, "%s", in->image);
	fm_str_sanitize(i.image);
	i.nested = kind ? fm_streq(kind, "nested") : fm_containerd_spec_is_nested(in->spec);
	if (in->created_at && in->created_at->seconds > 0 && in->created_at->nanos >= 0)
		i.created_ms = (uint64_t)in->created_at->seconds * 1000 + (uint64_t)in->created_at->nanos / 1000000;
	*ret = i;
	return 0;
}

static int containerd_state(struct fm_runtime *rt, const char *id, struct fm_instance *ret, struct fm_error *err)
{
	struct containerd *c = containerd_of(rt);
	_message_ FmCtrdContainerIs *is = NULL;
	struct fm_error local = FM_ERROR_INIT;
	struct fm_instance i;
	struct place p;

	if (place_of(c, id, &p, err) < 0 || get_container(c, &p, &is, err) < 0 || instance_of(c, p.ns, is->container, &i, err) < 0)
		return -1;
	if (!fm_streq(i.id, id)) /* two ids of one hash, or another's container that is called like one */
		return fm_error_set(err, FM_E_NOT_FOUND, "containerd has no container %s", id);
	if (get_task(c, &p, &i.status, &i.pid, &local) < 0 && local.code != FM_E_NOT_FOUND) {
		if (err)
			*err = local;
		return -1;
	}
	*ret = i;
	return 0;
}

struct listing {
	struct containerd *c;
	const char *ns;
	struct fm_instance *v;
	size_t n, cap, first; /* of this namespace */
	struct fm_error err;
};

static int list_one(void *arg, const ProtobufCMessage *message)
{
	const FmCtrdContainerIs *m = (const FmCtrdContainerIs *)message;
	struct listing *l = arg;

	if (l->n >= FM_MAX_CONTAINERS_PER_HOST)
		return fm_error_set(&l->err, FM_E_RESOURCE_EXHAUSTED, "more than %d containers on one host", FM_MAX_CONTAINERS_PER_HOST);
	if (l->n == l->cap) {
		size_t cap = l->cap ? 2 * l->cap : 16;
		struct fm_instance *v = realloc(l->v, cap * sizeof *v);

		if (!v)
			return fm_error_errno(&l->err, ENOMEM, "listing containers");
		l->v = v;
		l->cap = cap;
	}
	if (!m->container)
		return 0;
	if (instance_of(l->c, l->ns, m->container, &l->v[l->n], &l->err) < 0)
		return -1;
	l->n++;
	return 0;
}

static void add_task(struct listing *l, const FmCtrdProcess *p)
{
	const char *cid = *p->id ? p->id : p->container_id;
	struct place at;

	for (size_t i = l->first; i < l->n; i++)
		if (place_of(l->c, l->v[i].id, &at, NULL) == 0 && fm_streq(at.cid, cid)) {
			l->v[i].status = status_of(p);
			l->v[i].pid = pid_of(p);
			return;
		}
}

static int list_namespace(struct listing *l, struct fm_error *err)
{
	FmCtrdFilters all = FM_CTRD_FILTERS__INIT;
	FmCtrdTasksFilter all_tasks = FM_CTRD_TASKS_FILTER__INIT;
	_message_ FmCtrdTasks *tasks = NULL;
	const struct fm_containerd_transport *t = &l->c->t;

	l->first = l->n;
	if (t->stream(t->userdata, l->ns, CONTAINERS "ListStream", &all.base, &fm_ctrd_container_is__descriptor, ASK_MS, -1, list_one, l,
	              err) < 0)
		return -1;
	if (fm_error_is_set(&l->err)) {
		if (err)
			*err = l->err;
		return -1;
	}
	if (l->n == l->first)
		return 0;
	/* after the containers: what has no task then has ended */
	if (call(l->c, l->ns, TASKS "List", &all_tasks.base, &fm_ctrd_tasks__descriptor, ASK_MS, &tasks, err) < 0)
		return -1;
	for (size_t i = 0; i < tasks->n_tasks; i++)
		add_task(l, tasks->tasks[i]);
	return 0;
}

static int containerd_list(struct fm_runtime *rt, struct fm_instance **ret, size_t *ret_n, struct fm_error *err)
{
	struct containerd *c = containerd_of(rt);
	struct listing l = { .c = c };

	for (size_t i = 0; c->namespaces[i]; i++) {
		l.ns = c->namespaces[i];
		if (list_namespace(&l, err) < 0) {
			free(l.v);
			return -1;
		}
	}
	if (!l.v)
		l.v = calloc(1, sizeof *l.v);
	if (!l.v)
		return fm_error_errno(err, ENOMEM, "listing containers");
	*ret = l.v;
	*ret_n = l.n;
	return 0;
}

static int containerd_version(struct fm_runtime *rt, char *buf, size_t cap, struct fm_error *err)
{
	struct containerd *c = containerd_of(rt);
	FmCtrdEmpty nothing = FM_CTRD_EMPTY__INIT;
	_message_ FmCtrdVersion *v = NULL;

	if (call(c, c->namespaces[0], FM_CONTAINERD_VERSION, &nothing.base, &fm_ctrd_version__descriptor, ASK_MS, &v, err) < 0)
		return -1;
	return fm_snprintf(buf, cap, err, "%s", v->version);
}

/* ---- life */

/* The shim opens the log by its name: "file:///…", with what a URI cannot have as %XX. "": nothing is to be written. */
static int log_uri(int log_fd, char **ret, struct fm_error *err)
{
	_fm_buf_ struct fm_buf b = FM_BUF_INIT;
	char link[64], path[4096];
	struct stat st, named;
	ssize_t n;

	(void)snprintf(link, sizeof link, "/proc/self/fd/%d", log_fd);
	n = log_fd > 0 && fstat(log_fd, &st) == 0 ? readlink(link, path, sizeof path - 1) : -1;
	if (n < 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "creating a container without a log");
	path[n] = '\0';
	if (S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3)) {
		*ret = fm_xstrdup("");
		return 0;
	}
	if (!S_ISREG(st.st_mode) || stat(path, &named) < 0 || named.st_dev != st.st_dev || named.st_ino != st.st_ino)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "containerd writes to a log by its name: %s is not a file that has one",
		                    path);
	fm_buf_addf(&b, "file://");
	for (const char *s = path; *s; s++)
		fm_buf_addf(&b, isalnum((unsigned char)*s) || strchr("/-._~", *s) ? "%c" : "%%%02X", (unsigned char)*s);
	*ret = FM_TAKE_PTR(b.data);
	return 0;
}

/* Removes what is there of it: task, container. */
static int remove_place(struct containerd *c, const struct place *p, struct fm_error *err);

static void undo_create(struct containerd *c, const struct place *p)
{
	uint64_t deadline = fm_now_ms() + UNDO_MS;
	struct fm_error e = FM_ERROR_INIT;

	/* a daemon that is being restarted is waited for, for a while */
	while (remove_place(c, p, &e) < 0 && e.code == FM_E_UNAVAILABLE && fm_now_ms() < deadline)
		fm_pause_ms(100);
}

/* labels: the configuration's own, then id and bundle. The arrays of pointers are the caller's to free. */
static int create_container(struct containerd *c, const struct place *p, const struct fm_containerd_spec *s, const char *bundle,
                            struct fm_error *err)
{
	size_t n_own = fm_strv_len(s->labels) / 2, n = 0;
	_fm_free_ FmCtrdLabel *labels = calloc(n_own + 2, sizeof *labels);
	_fm_free_ FmCtrdLabel **pointers = calloc(n_own + 2, sizeof *pointers);
	FmCtrdRuncOptions runc = FM_CTRD_RUNC_OPTIONS__INIT; /* cgroups by their files, as the other drivers: systemd_cgroup is false */
	FmCtrdAny spec = FM_CTRD_ANY__INIT, options = FM_CTRD_ANY__INIT;
	FmCtrdRuntime runtime = FM_CTRD_RUNTIME__INIT;
	FmCtrdContainer container = FM_CTRD_CONTAINER__INIT;
	FmCtrdContainerIs request = FM_CTRD_CONTAINER_IS__INIT;
	_message_ FmCtrdContainerIs *made = NULL;
	uint8_t packed[64];

	if (!labels || !pointers)
		return fm_error_errno(err, ENOMEM, "creating %s", p->id);
	for (size_t i = 0; i < n_own + 2; i++) {
		const char *key = i == 0 ? FM_ANNOTATION_INSTANCE : i == 1 ? LABEL_BUNDLE : s->labels[2 * (i - 2)];
		const char *value = i == 0 ? p->id : i == 1 ? bundle : s->labels[2 * (i - 2) + 1];

		if ((i > 1 && (fm_streq(key, FM_ANNOTATION_INSTANCE) || fm_streq(key, LABEL_BUNDLE))) ||
		    strlen(key) + strlen(value) > MAX_LABEL_BYTES)
			continue;
		fm_ctrd_label__init(&labels[n]);
		labels[n].key = (char *)key;
		labels[n].value = (char *)value;
		pointers[n] = &labels[n];
		n++;
	}
	options.type_url = OPTIONS_TYPE;
	options.value = (ProtobufCBinaryData){ .len = fm_ctrd_runc_options__pack(&runc, packed), .data = packed };
	spec.type_url = SPEC_TYPE;
	spec.value = (ProtobufCBinaryData){ .len = strlen(s->json), .data = (uint8_t *)s->json };
	runtime.name = SHIM;
	runtime.options = &options;
	container.id = (char *)p->cid;
	container.labels = pointers;
	container.n_labels = n;
	container.runtime = &runtime;
	container.spec = &spec;
	request.container = &container;
	return call(c, p->ns, CONTAINERS "Create", &request.base, &fm_ctrd_container_is__descriptor, ASK_MS, &made, err);
}

static int create_task(struct containerd *c, const struct place *p, const char *rootfs, char *log, struct fm_error *err)
{
	char *options[] = { "rbind", "rw" };
	FmCtrdMount root = FM_CTRD_MOUNT__INIT, *mounts[] = { &root };
	FmCtrdTaskCreate request = FM_CTRD_TASK_CREATE__INIT;

	root.type = "bind";
	root.source = (char *)rootfs;
	root.options = options;
	root.n_options = FM_ARRAY_SIZE(options);
	request.container_id = (char *)p->cid;
	request.rootfs = mounts;
	request.n_rootfs = 1;
	request.stdout = log;
	request.stderr = log;
	return order(c, p->ns, TASKS "Create", &request.base, WORK_MS, err);
}

static int containerd_create(struct fm_runtime *rt, const char *id, const char *bundle, int log_fd, struct fm_error *err)
{
	struct containerd *c = containerd_of(rt);
	_fm_cleanup_(fm_containerd_spec_done) struct fm_containerd_spec s = { 0 };
	_fm_free_ char *log = NULL;
	struct place p;

	if (place_of(c, id, &p, err) < 0)
		return -1;
	if (p.ns != c->namespaces[0])
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s: containers are made in containerd's namespace %s only", id,
		                    c->namespaces[0]);
	if (log_uri(log_fd, &log, err) < 0 || fm_containerd_spec_of_bundle(bundle, &s, err) < 0)
		return -1;
	if (create_container(c, &p, &s, bundle, err) < 0)
		return fm_error_prefix(err, "creating %s", id);
	if (create_task(c, &p, s.rootfs, log, err) == 0)
		return 0;
	undo_create(c, &p);
	return fm_error_prefix(err, "creating %s", id);
}

static int containerd_start(struct fm_runtime *rt, const char *id, struct fm_error *err)
{
	struct place p;

	if (place_of(containerd_of(rt), id, &p, err) < 0)
		return -1;
	return task_order(containerd_of(rt), &p, TASKS "Start", WORK_MS, err);
}

/* Keeps local, the failure, unless the instance is in a state in which nothing had to be done. */
static int forgive(struct containerd *c, const struct place *p, enum fm_container_status wanted, const struct fm_error *local,
                   struct fm_error *err)
{
	enum fm_container_status status;

	if (local->code != FM_E_UNAVAILABLE && local->code != FM_E_DEADLINE_EXCEEDED && get_task(c, p, &status, NULL, NULL) == 0 &&
	    status == wanted)
		return 0;
	if (err)
		*err = *local;
	return -1;
}

static int containerd_kill(struct fm_runtime *rt, const char *id, int signal, struct fm_error *err)
{
	struct containerd *c = containerd_of(rt);
	struct fm_error local = FM_ERROR_INIT;
	struct place p;

	if (place_of(c, id, &p, err) < 0)
		return -1;
	if (signal < 1 || signal > SIGRTMAX)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%d is not a signal", signal);
	if (send_signal(c, &p, signal, &local) == 0 || local.code == FM_E_NOT_FOUND)
		return 0;
	return forgive(c, &p, FM_CONTAINER_STOPPED, &local, err);
}

static int containerd_pause(struct fm_runtime *rt, const char *id, struct fm_error *err)
{
	struct containerd *c = containerd_of(rt);
	struct fm_error local = FM_ERROR_INIT;
	struct place p;

	if (place_of(c, id, &p, err) < 0)
		return -1;
	return task_order(c, &p, TASKS "Pause", WORK_MS, &local) == 0 ? 0 : forgive(c, &p, FM_CONTAINER_PAUSED, &local, err);
}

static int containerd_resume(struct fm_runtime *rt, const char *id, struct fm_error *err)
{
	struct containerd *c = containerd_of(rt);
	struct fm_error local = FM_ERROR_INIT;
	struct place p;

	if (place_of(c, id, &p, err) < 0)
		return -1;
	return task_order(c, &p, TASKS "Resume", WORK_MS, &local) == 0 ? 0 : forgive(c, &p, FM_CONTAINER_RUNNING, &local, err);
}

/* Until the task has ended, or is no more. The daemon may go and come meanwhile. */
static int wait_ended(struct containerd *c, const struct place *p, int timeout_ms, struct fm_error *err)
{
	uint64_t deadline = fm_now_ms() + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0);
	FmCtrdTaskId request = FM_CTRD_TASK_ID__INIT;

	request.container_id = (char *)p->cid;
	for (;;) {
		_message_ FmCtrdExit *e = NULL;
		struct fm_error local = FM_ERROR_INIT;
		int left = fm_deadline_left_ms(deadline);

		if (left > 0 && (call(c, p->ns, TASKS "Wait", &request.base, &fm_ctrd_exit__descriptor, left, &e, &local) == 0 ||
		                 local.code == FM_E_NOT_FOUND))
			return 0;
		if (left <= 0 || local.code == FM_E_DEADLINE_EXCEEDED)
			return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "%s has not ended within %d ms", p->id, timeout_ms);
		if (local.code != FM_E_UNAVAILABLE) {
			if (err)
				*err = local;
			return -1;
		}
		fm_pause_ms(50);
	}
}

/* SIGKILL, also to what is frozen, and its end. */
static int end_task(struct containerd *c, const struct place *p, enum fm_container_status status, struct fm_error *err)
{
	struct fm_error local = FM_ERROR_INIT;

	if (send_signal(c, p, SIGKILL, &local) < 0 && local.code != FM_E_NOT_FOUND && forgive(c, p, FM_CONTAINER_STOPPED, &local, err) < 0)
		return -1;
	if (status == FM_CONTAINER_PAUSED) /* with cgroups v1 it dies once it is thawed; v2's may have gone already */
		(void)task_order(c, p, TASKS "Resume", WORK_MS, NULL);
	return wait_ended(c, p, END_MS, err);
}

static int remove_place(struct containerd *c, const struct place *p, struct fm_error *err)
{
	FmCtrdContainerId request = FM_CTRD_CONTAINER_ID__INIT;
	enum fm_container_status status = FM_CONTAINER_STOPPED;
	struct fm_error local = FM_ERROR_INIT;

	if (get_task(c, p, &status, NULL, &local) == 0) {
		if (status != FM_CONTAINER_STOPPED && end_task(c, p, status, err) < 0)
			return -1;
		local = FM_ERROR_INIT;
		(void)task_order(c, p, TASKS "Delete", WORK_MS, &local);
	}
	if (local.code == FM_OK || local.code == FM_E_NOT_FOUND) {
		local = FM_ERROR_INIT;
		request.id = (char *)p->cid;
		if (order(c, p->ns, CONTAINERS "Delete", &request.base, ASK_MS, &local) == 0 || local.code == FM_E_NOT_FOUND)
			return 0;
	}
	if (err)
		*err = local;
	return fm_error_prefix(err, "removing %s", p->id);
}

static int containerd_remove(struct fm_runtime *rt, const char *id, struct fm_error *err)
{
	struct containerd *c = containerd_of(rt);
	struct fm_error local = FM_ERROR_INIT;
	struct fm_instance i;
	struct place p;

	if (place_of(c, id, &p, err) < 0)
		return -1;
	/* what is not its own container is not touched; that it has gone, or cannot be told, is remove_place's to find out */
	if (!fm_streq(p.cid, id) && p.ns == c->namespaces[0] && containerd_state(rt, id, &i, &local) < 0) {
		if (local.code == FM_E_NOT_FOUND)
			return 0;
		if (err)
			*err = local;
		return -1;
	}
	return remove_place(c, &p, err);
}

/* ---- who starts it again */

static int set_restart_labels(struct containerd *c, const struct place *p, const char *status, const char *policy, struct fm_error *err)
{
	char *paths[] = { "labels." LABEL_RESTART, "labels." LABEL_RESTART_POLICY };
	FmCtrdLabel a = FM_CTRD_LABEL__INIT, b = FM_CTRD_LABEL__INIT, *labels[] = { &a, &b };
	FmCtrdContainer container = FM_CTRD_CONTAINER__INIT;
	FmCtrdContainerUpdate request = FM_CTRD_CONTAINER_UPDATE__INIT;
	FmCtrdMask mask = FM_CTRD_MASK__INIT;
	_message_ FmCtrdContainerIs *is = NULL;

	a.key = LABEL_RESTART;
	a.value = (char *)status;
	b.key = LABEL_RESTART_POLICY;
	b.value = (char *)policy;
	container.id = (char *)p->cid;
	container.labels = labels;
	container.n_labels = FM_ARRAY_SIZE(labels);
	mask.paths = paths;
	mask.n_paths = FM_ARRAY_SIZE(paths);
	request.container = &container;
	request.update_mask = &mask;
	return call(c, p->ns, CONTAINERS "Update", &request.base, &fm_ctrd_container_is__descriptor, ASK_MS, &is, err);
}

static const char *policy_of(const FmCtrdContainer *container)
{
	const char *policy = fm_containerd_label(container, LABEL_RESTART_POLICY);

	if (!fm_streq(fm_containerd_label(container, LABEL_RESTART), "running"))
		return "no";
	return policy && *policy ? policy : "always";
}

static int containerd_restart_policy(struct fm_runtime *rt, const char *id, char *buf, size_t cap, struct fm_error *err)
{
	struct containerd *c = containerd_of(rt);
	_message_ FmCtrdContainerIs *is = NULL;
	struct place p;

	if (place_of(c, id, &p, err) < 0 || get_container(c, &p, &is, err) < 0)
		return -1;
	return fm_snprintf(buf, cap, err, "%s", policy_of(is->container));
}

static int containerd_set_restart_policy(struct fm_runtime *rt, const char *id, const char *policy, struct fm_error *err)
{
	struct place p;
	bool no = fm_streq(policy, "no");

	if (!policy || !*policy || strlen(policy) > 64)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%.64s' is not a restart policy", policy ? policy : "");
	if (place_of(containerd_of(rt), id, &p, err) < 0)
		return -1;
	return set_restart_labels(containerd_of(rt), &p, no ? "" : "running", no ? "" : policy, err);
}

static int stop_task(struct containerd *c, const struct place *p, int timeout_ms, struct fm_error *err)
{
	enum fm_container_status status = FM_CONTAINER_STOPPED;
	struct fm_error local = FM_ERROR_INIT;

	if (get_task(c, p, &status, NULL, &local) < 0) {
		if (local.code == FM_E_NOT_FOUND)
			return 0;
		if (err)
			*err = local;
		return -1;
	}
	if (status == FM_CONTAINER_STOPPED)
		return 0;
	if (status == FM_CONTAINER_CREATED || timeout_ms <= 0) /* there is no program yet that could end by itself */
		return end_task(c, p, status, err);
	if (send_signal(c, p, SIGTERM, &local) < 0 && local.code != FM_E_NOT_FOUND && forgive(c, p, FM_CONTAINER_STOPPED, &local, err) < 0)
		return -1;
	if (status == FM_CONTAINER_PAUSED)
		(void)task_order(c, p, TASKS "Resume", WORK_MS, NULL);
	if (wait_ended(c, p, timeout_ms, &local) == 0)
		return 0;
	return end_task(c, p, FM_CONTAINER_PAUSED, err);
}

static int containerd_stop(struct fm_runtime *rt, const char *id, int timeout_ms, struct fm_error *err)
{
	struct containerd *c = containerd_of(rt);
	_message_ FmCtrdContainerIs *is = NULL;
	struct fm_error local = FM_ERROR_INIT;
	struct place p;

	if (place_of(c, id, &p, err) < 0)
		return -1;
	if (get_container(c, &p, &is, &local) < 0) {
		if (local.code == FM_E_NOT_FOUND)
			return 0;
		if (err)
			*err = local;
		return -1;
	}
	if (!fm_streq(policy_of(is->container), "no") && set_restart_labels(c, &p, "", "", err) < 0)
		return -1;
	return stop_task(c, &p, timeout_ms, err);
}

/* ---- what others made, and what happens */

static int containerd_describe(struct fm_runtime *rt, const char *id, char **ret_config, struct fm_error *err)
{
	struct containerd *c = containerd_of(rt);
	_message_ FmCtrdContainerIs *is = NULL;
	_fm_free_ char *root = NULL;
	struct fm_instance i;
	struct place p;

	if (containerd_state(rt, id, &i, err) < 0 || place_of(c, id, &p, err) < 0 || get_container(c, &p, &is, err) < 0)
		return -1;
	if (fm_containerd_root_of(p.cid, i.pid, &root, err) < 0)
		return -1;
	return fm_containerd_describe(is->container, root, ret_config, err);
}

static int containerd_watch(struct fm_runtime *rt, int *ret_fd, struct fm_error *err)
{
	struct containerd *c = containerd_of(rt);
	int r = 0;

	pthread_mutex_lock(&c->lock);
	if (!c->watch)
		r = fm_containerd_watch_new(&c->t, c->namespaces, &c->watch, err);
	if (r == 0)
		*ret_fd = fm_containerd_watch_fd(c->watch);
	pthread_mutex_unlock(&c->lock);
	return r;
}

/* ---- the object */

static void containerd_free(struct fm_runtime *rt)
{
	struct containerd *c = containerd_of(rt);

	fm_containerd_watch_free(c->watch);
	if (c->t.free)
		c->t.free(c->t.userdata);
	(void)pthread_mutex_destroy(&c->lock);
	fm_strv_free(c->namespaces);
	free(c);
}

static const struct fm_runtime_ops containerd_ops = {
	.name = "containerd",
	.traits = FM_RUNTIME_RESTARTS,
	.version = containerd_version,
	.list = containerd_list,
	.state = containerd_state,
	.create = containerd_create,
	.start = containerd_start,
	.kill = containerd_kill,
	.pause = containerd_pause,
	.resume = containerd_resume,
	.remove = containerd_remove,
	.stop = containerd_stop,
	.restart_policy = containerd_restart_policy,
	.set_restart_policy = containerd_set_restart_policy,
	.describe = containerd_describe,
	.watch = containerd_watch,
	.free = containerd_free,
};

static int check_namespaces(const char *const *namespaces, struct fm_error *err)
{
	size_t n = 0;

	for (; namespaces[n]; n++) {
		if (!is_containerd_name(namespaces[n], MAX_NAMESPACE_BYTES))
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%.80s' is not a namespace of containerd", namespaces[n]);
		for (size_t i = 0; i < n; i++)
			if (fm_streq(namespaces[i], namespaces[n]))
				return fm_error_set(err, FM_E_INVALID_ARGUMENT, "containerd's namespace %s twice", namespaces[n]);
	}
	if (n == 0 || n > FM_MAX_CONTAINERD_NAMESPACES)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%zu namespaces of containerd: 1 to %d are looked at", n,
		                    FM_MAX_CONTAINERD_NAMESPACES);
	return 0;
}

int fm_runtime_containerd_new(const struct fm_containerd_transport *transport, const char *const *namespaces, struct fm_runtime **ret,
                              struct fm_error *err)
{
	static const char *const usual[] = { "default", NULL };
	struct containerd *c = NULL;

	namespaces = namespaces ? namespaces : usual;
	if (check_namespaces(namespaces, err) == 0 && !(c = calloc(1, sizeof *c)))
		(void)fm_error_errno(err, ENOMEM, "making the containerd driver");
	if (!c) {
		if (transport->free)
			transport->free(transport->userdata);
		return -1;
	}
	c->rt.ops = &containerd_ops;
	c->t = *transport;
	for (size_t i = 0; namespaces[i]; i++)
		fm_strv_add(&c->namespaces, namespaces[i]);
	(void)pthread_mutex_init(&c->lock, NULL);
	*ret = &c->rt;
	return 0;
}
