/* SPDX-License-Identifier: MIT */
/*
 * instances.c - see instances.h.
 *
 * Bringing an instance up is a list of outside effects, each with its intent in the journal first: instance folder and runtime container ("instance"), pinned network namespace
 * ("netns"), veth pair ("endpoint"). The caller owns the journal: `run` has a short-lived one, a destination the migration's.
 */
#include "migration/instances.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/proc.h"
#include "basic/str.h"
#include "container/cgroup.h"
#include "decision/converge.h"
#include "container/nest.h"
#include "loop/child.h"
#include "migration/pb.h"
#include "migration/revisit-files.h"
#include "migration/volumes.h"
#include "network/sockets.h"

#define NEST_START_TIMEOUT_MS 10000
#define COPY_TIMEOUT_MS       600000

void fm_local_done(struct fm_local *l)
{
	fm_pb_free(l->container);
	free(l->config);
	*l = FM_LOCAL_INIT;
}

/* ---------------------------------------------------------------- the instance's record */

static int write_pb(const char *path, const void *message, struct fm_error *err)
{
	size_t n = protobuf_c_message_get_packed_size(message);
	_fm_free_ uint8_t *b = malloc(n ? n : 1);
	if (!b)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	protobuf_c_message_pack(message, b);
	return fm_write_file_atomic(path, b, n, 0600, err);
}

int fm_instances_save(struct fm_host *h, const char *instance, const FM_PB(Container) * c, const char *config, struct fm_error *err)
{
	_fm_free_ char *dir = fm_xasprintf("%s/%s", h->instances_dir, instance);
	_fm_free_ char *pb = fm_xasprintf("%s/container.pb", dir);
	_fm_free_ char *cfg = fm_xasprintf("%s/user-config.json", dir);
	if (fm_mkdir_p(dir, 0700, err) < 0)
		return -1;
	if (config && fm_write_file_atomic(cfg, config, strlen(config), 0600, err) < 0)
		return -1;
	return write_pb(pb, c, err);
}

/* The agent's own bridge is what the first endpoint is plugged into; another one says itself where it belongs, because it hardly belongs there. */
static int parse_endpoint(struct fm_host *h, const FM_PB(Container) * c, const char *instance, size_t i, struct fm_endpoint_config *ret,
                          struct fm_error *err)
{
	const FM_PB(Endpoint) *e = fm_pb_endpoint(c, i);
	const struct fm_endpoint_words w = { .bridge = h->bridge[0] && (i == 0 || !e->bridge[0]) ? h->bridge : e->bridge,
		                             .ifname = e->interface,
		                             .mac = e->mac,
		                             .address = e->address,
		                             .gateway = e->gateway,
		                             .address6 = e->address6,
		                             .gateway6 = e->gateway6 };
	if (fm_endpoint_config_parse(&w, c->name, (unsigned)i, ret, err) < 0)
		return i == 0 ? -1 : fm_error_prefix(err, "endpoint %zu", i + 1);
	fm_endpoint_host_ifname(instance, (unsigned)i, ret->host_ifname);
	return 0;
}

static int parse_endpoints(struct fm_host *h, const FM_PB(Container) * c, const char *instance, struct fm_local *l, struct fm_error *err)
{
	size_t n = 0;
	for (; fm_pb_endpoint(c, n); n++) {
		if (n == FM_MAX_ENDPOINTS)
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "container '%s' has more than %d endpoints", c->name,
			                    FM_MAX_ENDPOINTS);
		if (parse_endpoint(h, c, instance, n, &l->endpoints[n], err) < 0)
			return -1;
	}
	if (n > 0)
		(void)snprintf(l->netns_path, sizeof(l->netns_path), "%s/%s", h->netns_dir, instance);
	l->n_endpoints = n;
	return fm_endpoints_check(l->endpoints, n, err);
}

/* Fill what follows from the instance's name and its record. */
static int load_local(struct fm_host *h, const char *instance, struct fm_local *l, struct fm_error *err)
{
	_fm_free_ char *data = NULL;
	size_t n = 0;
	(void)snprintf(l->dir, sizeof(l->dir), "%s/%s", h->instances_dir, instance);
	_fm_free_ char *pb = fm_xasprintf("%s/container.pb", l->dir);
	_fm_free_ char *cfg = fm_xasprintf("%s/user-config.json", l->dir);
	if (fm_read_file(pb, FM_MAX_CONFIG_BYTES, &data, &n, err) < 0)
		return -1;
	l->container = fleximigrate__v1__container__unpack(NULL, n, (const uint8_t *)data);
	if (!l->container)
		return fm_error_set(err, FM_E_DATA_LOSS, "the record %s is damaged", pb);
	if (fm_read_file(cfg, FM_MAX_CONFIG_BYTES, &l->config, NULL, err) < 0)
		return -1;
	l->nested = fm_streq(l->container->kind, "nested");
	if (l->nested)
		(void)snprintf(l->control_dir, sizeof(l->control_dir), "%s/nest", l->dir);
	return parse_endpoints(h, l->container, instance, l, err);
}

pid_t fm_local_app_pid(const struct fm_local *l)
{
	if (!l->nested)
		return l->pid1;
	struct fm_nest_status st;
	pid_t pid = 0;
	if (l->pid1 <= 0 || fm_nest_status(l->control_dir, &st, NULL) < 0 || st.app_ns_pid <= 0)
		return 0;
	return fm_nest_host_pid(l->pid1, st.app_ns_pid, &pid, NULL) < 0 ? 0 : pid;
}

void fm_local_measure(struct fm_local *l)
{
	pid_t app = fm_local_app_pid(l);
	FM_PB(Container) *c = l->container;
	c->pid = app;
	c->processes = 0;
	c->memory_bytes = 0;
	_fm_free_ pid_t *tree = NULL;
	size_t n = 0;
	if (app <= 0 || fm_proc_tree(app, &tree, &n, NULL) < 0)
		return;
	c->processes = (uint32_t)n;
	for (size_t i = 0; i < n; i++) {
		uint64_t rss = 0;
		if (fm_proc_rss_bytes(tree[i], &rss, NULL) == 0)
			c->memory_bytes += rss;
	}
}

static void apply_runtime_state(struct fm_host *h, struct fm_local *l, const struct fm_instance *i)
{
	FM_PB(Container) *c = l->container;
	l->pid1 = i->pid;
	fm_pb_set(&c->host, h->name);
	fm_pb_set(&c->instance, i->id);
	fm_pb_set(&c->runtime, i->runtime);
	(void)snprintf(l->runtime, sizeof(l->runtime), "%s", i->runtime);
	if (i->bundle[0]) {
		fm_pb_set(&c->bundle, i->bundle);
	} else if (l->dir[0]) { /* an engine does not know what it was made of */
		_fm_free_ char *bundle = fm_xasprintf("%s/bundle", l->dir);
		fm_pb_set(&c->bundle, bundle);
	}
	fm_pb_set(&c->status, fm_container_status_to_string(i->status));
	if (!c->started_unix_ms)
		c->started_unix_ms = i->created_ms;
	if (!c->image[0]) /* runtimes below an image store do not know; who runs it may say */
		fm_pb_set(&c->image, fm_pb_label(c, "fleximigrate.image"));
	if (!c->image[0] && !l->dir[0])
		fm_pb_set(&c->image, i->image);
}

/* An instance the runtime knows and we did not start. */
static void foreign_local(struct fm_local *l, const struct fm_instance *i)
{
	l->container = FM_PB_NEW(Container, container);
	fm_pb_set(&l->container->name, i->id);
	fm_pb_set(&l->container->kind, "ordinary");
}

static int local_from_runtime(struct fm_host *h, const struct fm_instance *i, struct fm_local *l, struct fm_error *err)
{
	_fm_free_ char *pb = fm_xasprintf("%s/%s/container.pb", h->instances_dir, i->id);
	if (!fm_path_exists(pb))
		foreign_local(l, i);
	else if (load_local(h, i->id, l, err) < 0)
		return -1;
	apply_runtime_state(h, l, i);
	return 0;
}

/* What is on record of it, without asking the runtime; NULL: nothing that can be read. */
static FM_PB(Container) * on_record(struct fm_host *h, const char *instance)
{
	_fm_free_ char *pb = fm_xasprintf("%s/%s/container.pb", h->instances_dir, instance);
	_fm_free_ char *data = NULL;
	size_t n = 0;
	return fm_read_file(pb, FM_MAX_CONFIG_BYTES, &data, &n, NULL) < 0
	               ? NULL
	               : fleximigrate__v1__container__unpack(NULL, n, (const uint8_t *)data);
}

/* Who has it, by its record: that an engine is away just now does not mean that its containers are. Without a record whoever says that he has it. */
static int runtime_on_record(struct fm_host *h, const char *instance, struct fm_runtime **ret, struct fm_error *err)
{
	_fm_pb_ FM_PB(Container) *c = on_record(h, instance);
	*ret = h->runtime;
	if (!c || !c->runtime[0] || fm_host_runtime(h, c->runtime, ret, err) == 0)
		return 0;
	if (err)
		err->code = FM_E_UNAVAILABLE; /* not found is the runtime, not the container */
	return -1;
}

int fm_instances_open(struct fm_host *h, const char *instance, struct fm_local *ret, struct fm_error *err)
{
	struct fm_instance i;
	struct fm_runtime *rt;
	struct fm_local l = FM_LOCAL_INIT;
	if (runtime_on_record(h, instance, &rt, err) < 0 || rt->ops->state(rt, instance, &i, err) < 0)
		return -1;
	if (local_from_runtime(h, &i, &l, err) < 0) {
		fm_local_done(&l);
		return -1;
	}
	*ret = l;
	return 0;
}

int fm_instances_find(struct fm_host *h, const char *name, const char *skip, struct fm_local *ret, struct fm_error *err)
{
	_fm_free_ struct fm_instance *v = NULL;
	size_t n = 0;
	if (h->runtime->ops->list(h->runtime, &v, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		struct fm_local l = FM_LOCAL_INIT;
		struct fm_error e = FM_ERROR_INIT;
		if (fm_streq(v[i].id, skip))
			continue;
		if (local_from_runtime(h, &v[i], &l, &e) == 0 && fm_streq(l.container->name, name)) {
			*ret = l;
			return 0;
		}
		fm_local_done(&l);
	}
	(void)fm_error_set(err, FM_E_NOT_FOUND, "host '%s' has no container '%s'", h->name, name);
	return fm_error_hint(err, "'fleximigrate container ls --host %s' shows what is there", h->name);
}

/* Those of engines that are away are in no list. */
static int by_folder(struct fm_host *h, const char *suffix, char *ret, size_t cap, struct fm_error *err)
{
	_fm_closedir_ DIR *d = opendir(h->instances_dir);
	for (struct dirent *e; d && (e = readdir(d));) {
		struct fm_local l __attribute__((cleanup(fm_local_done))) = FM_LOCAL_INIT;
		struct fm_error why = FM_ERROR_INIT;
		if (!fm_str_endswith(e->d_name, suffix))
			continue;
		if (fm_instances_open(h, e->d_name, &l, &why) == 0)
			return fm_snprintf(ret, cap, err, "%s", e->d_name);
		if (why.code == FM_E_NOT_FOUND)
			continue;
		if (err)
			*err = why;
		return -1;
	}
	return 0;
}

int fm_instances_of_migration(struct fm_host *h, const char *migration_id, char *ret, size_t cap, struct fm_error *err)
{
	_fm_free_ struct fm_instance *v = NULL;
	_fm_free_ char *suffix = fm_xasprintf(".%s", migration_id);
	size_t n = 0;
	if (h->runtime->ops->list(h->runtime, &v, &n, err) < 0)
		return -1;
	ret[0] = '\0';
	for (size_t i = 0; i < n; i++)
		if (fm_str_endswith(v[i].id, suffix))
			return fm_snprintf(ret, cap, err, "%s", v[i].id);
	return by_folder(h, suffix, ret, cap, err);
}

int fm_instances_list(struct fm_host *h, FM_PB(Container) * **ret, size_t *ret_n, struct fm_error *err)
{
	_fm_free_ struct fm_instance *v = NULL;
	size_t n = 0, out = 0;
	if (h->runtime->ops->list(h->runtime, &v, &n, err) < 0)
		return -1;
	if (n > FM_MAX_CONTAINERS_PER_HOST)
		n = FM_MAX_CONTAINERS_PER_HOST;
	FM_PB(Container) **list = calloc(n ? n : 1, sizeof(*list));
	if (!list)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	for (size_t i = 0; i < n; i++) {
		struct fm_local l = FM_LOCAL_INIT;
		if (local_from_runtime(h, &v[i], &l, NULL) == 0) {
			fm_local_measure(&l);
			list[out++] = FM_TAKE_PTR(l.container);
		}
		fm_local_done(&l);
	}
	*ret = list;
	*ret_n = out;
	return 0;
}

void fm_local_addresses(const struct fm_local *l, char ***addresses)
{
	for (size_t i = 0; i < l->n_endpoints; i++) {
		const struct fm_endpoint_config *c = &l->endpoints[i];
		char text[INET6_ADDRSTRLEN];
		if (c->prefix_len && inet_ntop(AF_INET, &c->address, text, sizeof(text)))
			fm_strv_add(addresses, text);
		if (c->prefix6_len && inet_ntop(AF_INET6, &c->address6, text, sizeof(text)))
			fm_strv_add(addresses, text);
	}
}

int fm_instances_addresses(struct fm_host *h, char ***ret, struct fm_error *err)
{
	_fm_free_ struct fm_instance *v = NULL;
	_fm_cleanup_(fm_strv_freep) char **addresses = NULL;
	size_t n = 0;
	if (h->runtime->ops->list(h->runtime, &v, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		struct fm_local l __attribute__((cleanup(fm_local_done))) = FM_LOCAL_INIT;
		if (local_from_runtime(h, &v[i], &l, err) < 0)
			return -1;
		fm_local_addresses(&l, &addresses);
	}
	*ret = FM_TAKE_PTR(addresses);
	return 0;
}

/* ---------------------------------------------------------------- bringing up */

static void note_endpoints(const struct fm_host *h, const struct fm_local *l, char ***notes)
{
	for (size_t i = 0; notes && i < l->n_endpoints; i++) {
		const struct fm_endpoint_config *c = &l->endpoints[i];
		char mac[18], addresses[FM_ENDPOINT_ADDRESSES_LEN];
		fm_mac_format(c->mac, mac);
		fm_endpoint_addresses_format(c, addresses);
		_fm_free_ char *note = fm_xasprintf("Endpoint %s (%s, %s) prepared on bridge '%s' of '%s', port closed", addresses, mac,
		                                    c->host_ifname, c->bridge, h->name);
		fm_strv_add(notes, note);
	}
}

static int make_endpoints(struct fm_journal *j, struct fm_local *l, struct fm_endpoints **ret, struct fm_error *err)
{
	struct fm_endpoints *e = NULL;
	if (fm_journal_intent(j, "netns", l->netns_path, false, err) < 0 || fm_netns_create(l->netns_path, err) < 0 ||
	    fm_endpoints_new(l->endpoints, l->n_endpoints, l->netns_path, &e, err) < 0)
		return -1;
	for (size_t i = 0; i < l->n_endpoints; i++) {
		if (fm_journal_intent(j, "endpoint", l->endpoints[i].host_ifname, false, err) < 0) {
			fm_endpoints_free(e);
			return -1;
		}
	}
	if (fm_endpoints_prepare(e, true, err) < 0) {
		fm_endpoints_free(e);
		return -1;
	}
	*ret = e;
	return 0;
}

int fm_bringup_network(struct fm_host *h, struct fm_journal *j, const struct fm_bringup *b, struct fm_local *l,
                       struct fm_endpoints **ret_endpoints, char ***notes, struct fm_error *err)
{
	if (parse_endpoints(h, b->container, b->instance, l, err) < 0)
		return -1;
	if (l->n_endpoints == 0)
		return 0;
	if (make_endpoints(j, l, ret_endpoints, err) < 0) {
		l->n_endpoints = 0;
		return fm_error_phase(err, "network");
	}
	note_endpoints(h, l, notes);
	return 0;
}

int fm_bringup_addresses(struct fm_endpoints *e, struct fm_error *err)
{
	return fm_endpoints_await_free(e, err) < 0 ? fm_error_phase(err, "network") : 0;
}

static int wait_for_nest(const struct fm_local *l, enum fm_nest_state want, struct fm_error *err)
{
	uint64_t deadline = fm_now_ms() + NEST_START_TIMEOUT_MS;
	struct fm_nest_status st;
	struct fm_proc_id id;
	struct fm_error e = FM_ERROR_INIT;
	if (fm_proc_identify(l->pid1, &id, err) < 0)
		return fm_error_prefix(err, "the container's init ended at once");
	while (fm_now_ms() < deadline) {
		if (fm_nest_status(l->control_dir, &st, &e) == 0 && st.state == want)
			return 0;
		if (!fm_proc_alive(&id)) {
			(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "the container ended before it was up");
			return fm_error_hint(err, "its output is in %s/log", l->dir);
		}
		fm_pause_ms(2); /* the socket appears when PID 1 gets there; nothing tells us */
	}
	return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "the parent container's init did not answer within %d ms", NEST_START_TIMEOUT_MS);
}

/* Its nest is told to wait before it starts anything. */
static bool starts_standing(const struct fm_runtime *rt, const struct fm_bringup *b)
{
	return b->wait || rt->ops->traits & (FM_RUNTIME_CREATES_LATE | FM_RUNTIME_OWN_NETNS);
}

/* Where PID 1's output goes. An ordinary container's own processes would hold that descriptor, and CRIU cannot dump a file from outside the container. */
static int open_log(const struct fm_local *l, struct fm_error *err)
{
	_fm_free_ char *path = l->nested ? fm_xasprintf("%s/log", l->dir) : fm_xstrdup("/dev/null");
	int fd = open(path, O_WRONLY | (l->nested ? O_CREAT | O_APPEND | O_NOFOLLOW : 0) | O_CLOEXEC, 0600);
	if (fd < 0)
		(void)fm_error_errno(err, errno, "cannot open the container's log %s", path);
	return fd;
}

bool fm_local_owns_root(struct fm_host *h, const struct fm_local *l)
{
	struct fm_runtime *rt;
	return fm_host_runtime(h, l->runtime, &rt, NULL) == 0 && rt->ops->traits & FM_RUNTIME_OWN_ROOT;
}

/* The endpoints follow into the namespace that the runtime has made; its pin takes the place of ours, under the same name. */
static int follow_netns(const struct fm_local *l, struct fm_endpoints *endpoints, struct fm_error *err)
{
	if (!endpoints)
		return 0;
	if (fm_netns_pin(l->netns_path, l->pid1, err) < 0 || fm_endpoints_rehome(endpoints, l->netns_path, err) < 0)
		return fm_error_phase(err, "network");
	return 0;
}

/* Pids of the tree begin above those that the nest and its helpers take. */
static int number_pids(const struct fm_local *l, struct fm_error *err)
{
	return fm_pidns_set_last_pid(l->pid1, FM_NEST_FIRST_PID - 1, err);
}

/* A parent under a runtime that has no process before it starts, or that has to be given its network then: it stands, and starts the application when all is there. */
static int start_standing(const struct fm_bringup *b, struct fm_local *l, struct fm_error *err)
{
	if (wait_for_nest(l, FM_NEST_EMPTY, err) < 0)
		return -1;
	if (b->wait)
		return 0;
	if (number_pids(l, err) < 0 || fm_nest_start(l->control_dir, err) < 0)
		return -1;
	return wait_for_nest(l, FM_NEST_RUNNING, err);
}

static int start_instance(struct fm_runtime *rt, const struct fm_bringup *b, const char *bundle, struct fm_local *l,
                          struct fm_endpoints *endpoints, struct fm_error *err)
{
	const struct fm_runtime_ops *ops = rt->ops;
	bool stands = starts_standing(rt, b);
	struct fm_instance i;
	_fm_close_ int log_fd = ops->traits & FM_RUNTIME_OWN_LOG ? -1 : open_log(l, err);
	if (log_fd < 0 && !(ops->traits & FM_RUNTIME_OWN_LOG))
		return -1;
	if (ops->create(rt, b->instance, bundle, log_fd, err) < 0 || ops->state(rt, b->instance, &i, err) < 0)
		return -1;
	l->pid1 = i.pid;
	if (l->nested && !stands && number_pids(l, err) < 0)
		return -1;
	if (ops->start(rt, b->instance, err) < 0)
		return -1;
	if (ops->traits & FM_RUNTIME_CREATES_LATE && ops->state(rt, b->instance, &i, err) < 0)
		return -1;
	l->pid1 = i.pid;
	if (ops->traits & FM_RUNTIME_OWN_NETNS && follow_netns(l, endpoints, err) < 0)
		return -1;
	if (!l->nested)
		return 0;
	return stands ? start_standing(b, l, err) : wait_for_nest(l, FM_NEST_RUNNING, err);
}

static int check_runtime(const struct fm_runtime *rt, bool nested, struct fm_error *err)
{
	if (nested || rt->ops->traits & FM_RUNTIME_CHECKPOINTS)
		return 0;
	(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "%s cannot save and restore ordinary containers", rt->ops->name);
	return fm_error_hint(err, "a nested one moves under every runtime: leave '--ordinary' out");
}

int fm_bringup_instance(struct fm_host *h, struct fm_journal *j, const struct fm_bringup *b, struct fm_local *l,
                        struct fm_endpoints *endpoints, struct fm_error *err)
{
	struct fm_runtime *rt;
	struct fm_bundle_info info = { 0 };
	_fm_free_ char *bundle = NULL;
	_fm_free_ char *cgroup = fm_xasprintf("%s/%s", h->cgroup_parent, b->instance);
	bool nested = fm_streq(b->container->kind, "nested");
	struct fm_instance_spec spec = {
		.instances_dir = h->instances_dir,
		.instance = b->instance,
		.name = b->container->name,
		.config = b->config,
		.rootfs = b->rootfs,
		.netns_path = l->n_endpoints ? l->netns_path : NULL,
		.cgroup_path = cgroup,
		.migration_id = b->migration_id,
		.nested = nested,
		.wait = b->wait,
		.nest_binary = h->nest_binary,
	};
	l->nested = nested;
	(void)snprintf(l->dir, sizeof(l->dir), "%s/%s", h->instances_dir, b->instance);
	if (fm_host_runtime(h, b->container->runtime, &rt, err) < 0 || check_runtime(rt, nested, err) < 0)
		return -1;
	(void)snprintf(l->runtime, sizeof(l->runtime), "%s", rt->ops->name);
	if (fm_bundle_parse(b->config, b->rootfs, &info, err) < 0)
		return -1;
	uid_t uid = info.uid;
	gid_t gid = info.gid;
	fm_bundle_info_done(&info);
	if (fm_journal_intent(j, "instance", b->instance, true, err) < 0 || fm_bundle_make_instance(&spec, &bundle, err) < 0 ||
	    fm_instances_save(h, b->instance, b->container, b->config, err) < 0)
		return -1;
	if (nested) {
		(void)snprintf(l->control_dir, sizeof(l->control_dir), "%s/nest", l->dir);
		if (fm_nest_prepare_control(l->control_dir, uid, gid, starts_standing(rt, b), err) < 0)
			return -1;
	} else if (b->wait) {
		return 0; /* the runtime's restore creates it */
	}
	return start_instance(rt, b, bundle, l, endpoints, err);
}

/* ---------------------------------------------------------------- run and remove */

static int check_labels(const FM_PB(RunContainerRequest) * req, struct fm_error *err)
{
	uint32_t n;
	for (size_t i = 0; i < req->n_labels; i++) {
		const FM_PB(Label) *l = req->labels[i];
		if ((fm_streq(l->key, "fleximigrate.throttle") && fm_throttle_from_string(l->value, &n, err) < 0) ||
		    (fm_streq(l->key, "fleximigrate.streams") && fm_streams_from_string(l->value, &n, err) < 0))
			return fm_error_prefix(err, "label %s", l->key);
	}
	return 0;
}

static bool has_address(const FM_PB(Endpoint) * e)
{
	return e && (e->address[0] || e->address6[0]);
}

static int check_run_request(struct fm_host *h, const FM_PB(RunContainerRequest) * req, char **ret_config, struct fm_bundle_info *info,
                             struct fm_error *err)
{
	struct fm_local other = FM_LOCAL_INIT;
	if (!fm_name_is_valid(req->name))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%s' is not a container name: letters, digits, '_', '.', '-', at most 63",
		                    req->name);
	if (req->bundle[0] != '/')
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "the bundle must be an absolute path on host '%s', not '%s'", h->name,
		                    req->bundle);
	if (check_labels(req, err) < 0)
		return -1;
	if (req->n_more_endpoints && !has_address(req->endpoint))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "more endpoints than one, and the first has no address");
	if (req->health && req->health->probe[0] && fm_probe_spec_check(req->health->probe, err) < 0)
		return -1;
	if (fm_bundle_read(req->bundle, ret_config, info, err) < 0)
		return -1;
	if (!fm_path_exists(info->rootfs))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "bundle %s: its root filesystem %s does not exist", req->bundle,
		                    info->rootfs);
	if (fm_instances_find(h, req->name, NULL, &other, NULL) == 0) {
		fm_local_done(&other);
		(void)fm_error_set(err, FM_E_ALREADY_EXISTS, "host '%s' already has a container '%s'", h->name, req->name);
		return fm_error_hint(err, "'fleximigrate container rm %s' removes it", req->name);
	}
	return 0;
}

static FM_PB(Container) * container_from_request(struct fm_host *h, const FM_PB(RunContainerRequest) * req, const char *runtime,
                                                 const struct fm_bundle_info *info)
{
	FM_PB(Container) *c = FM_PB_NEW(Container, container);
	fm_pb_set(&c->name, req->name);
	fm_pb_set(&c->host, h->name);
	fm_pb_set(&c->kind, req->ordinary ? "ordinary" : "nested");
	fm_pb_set(&c->runtime, runtime);
	c->memory_limit_bytes = info->memory_limit_bytes;
	c->started_unix_ms = fm_realtime_ms();
	if (has_address(req->endpoint))
		c->endpoint = fm_pb_copy(req->endpoint);
	for (size_t i = 0; c->endpoint && i < req->n_more_endpoints && i < FM_MAX_ENDPOINTS; i++)
		FM_PB_ADD(c->more_endpoints, c->n_more_endpoints, fm_pb_copy(req->more_endpoints[i]));
	if (req->health)
		c->health = fm_pb_copy(req->health);
	for (size_t i = 0; i < req->n_labels && i < FM_MAX_LABELS; i++)
		FM_PB_ADD(c->labels, c->n_labels, fm_pb_copy(req->labels[i]));
	return c;
}

static int undo_shared(void *userdata, const char *what, const char *arg, struct fm_error *err)
{
	return fm_host_undo(userdata, what, arg, err);
}

/* The user's bundle is never touched: a runtime that takes the root filesystem over gets a copy. */
static int copy_rootfs(struct fm_host *h, struct fm_journal *j, struct fm_bringup *b, char **ret, struct fm_error *err)
{
	_fm_free_ char *dir = fm_xasprintf("%s/%s", h->instances_dir, b->instance);
	_fm_free_ char *copy = fm_xasprintf("%s/rootfs", dir);
	char *argv[] = { "cp", "-a", "--reflink=auto", "--", (char *)b->rootfs, copy, NULL };
	struct fm_child_opts o = { .timeout_ms = COPY_TIMEOUT_MS };
	struct fm_child_result r = { 0 };
	if (fm_journal_intent(j, "instance", b->instance, true, err) < 0 || fm_mkdir_p(dir, 0700, err) < 0)
		return -1;
	if (fm_child_run(argv, &o, &r, err) < 0)
		return fm_error_prefix(err, "cannot copy the root filesystem %s", b->rootfs);
	fm_child_result_done(&r);
	b->rootfs = copy;
	*ret = FM_TAKE_PTR(copy);
	return 0;
}

static int run_steps(struct fm_host *h, struct fm_journal *j, struct fm_bringup *b, struct fm_error *err)
{
	struct fm_local l = FM_LOCAL_INIT;
	struct fm_endpoints *e = NULL;
	struct fm_runtime *rt;
	_fm_free_ char *copy = NULL;
	int rc = -1;
	if (fm_host_runtime(h, b->container->runtime, &rt, err) < 0 ||
	    (rt->ops->traits & FM_RUNTIME_OWN_ROOT && copy_rootfs(h, j, b, &copy, err) < 0))
		return -1;
	if (fm_bringup_network(h, j, b, &l, &e, NULL, err) == 0 && fm_bringup_addresses(e, err) == 0 &&
	    fm_bringup_instance(h, j, b, &l, e, err) == 0)
		rc = fm_endpoints_open(e, err) || fm_endpoints_announce(e, err);
	fm_endpoints_free(e);
	fm_local_done(&l);
	return rc ? -1 : 0;
}

int fm_instances_run(struct fm_host *h, const FM_PB(RunContainerRequest) * req, FM_PB(Container) * *ret, struct fm_error *err)
{
	_fm_free_ char *config = NULL;
	struct fm_bundle_info info __attribute__((cleanup(fm_bundle_info_done))) = { 0 };
	_fm_pb_ FM_PB(Container) *c = NULL;
	struct fm_journal *j = NULL;
	struct fm_local l = FM_LOCAL_INIT;
	struct fm_runtime *rt;
	if (check_run_request(h, req, &config, &info, err) < 0 || fm_host_runtime(h, req->runtime, &rt, err) < 0)
		return -1;
	c = container_from_request(h, req, rt->ops->name, &info);
	/* While it is being made, a journal of its own: a crash in the middle is undone at the agent's next start. */
	if (fm_journal_create(h->journals_dir, req->name, "run", json_object(), &j, err) < 0)
		return fm_error_prefix(err, "container '%s' is being started already", req->name);
	struct fm_bringup b = { .instance = req->name, .config = config, .rootfs = info.rootfs, .container = c };
	int rc = run_steps(h, j, &b, err);
	if (rc < 0)
		(void)fm_journal_undo(j, undo_shared, h, NULL);
	(void)fm_journal_remove(j, NULL);
	fm_journal_free(j);
	if (rc < 0)
		return fm_error_prefix(err, "cannot run container '%s' on '%s'", req->name, h->name);
	if (fm_instances_open(h, req->name, &l, err) < 0)
		return -1;
	fm_local_measure(&l);
	*ret = FM_TAKE_PTR(l.container);
	fm_local_done(&l);
	(void)fm_revisit_files_remove(h, req->name, NULL); /* another one of that name was here */
	return 0;
}

/* How many endpoints it has by its record; without one, what more there was is undone by whoever's journal has it. Their names are hashes: none is removed that it cannot have. */
static unsigned endpoints_on_record(struct fm_host *h, const char *instance)
{
	_fm_pb_ FM_PB(Container) *c = on_record(h, instance);
	size_t more = c ? c->n_more_endpoints : 0;
	return 1 + (unsigned)(more < FM_MAX_ENDPOINTS ? more : FM_MAX_ENDPOINTS - 1);
}

/* What is in a store of the runtime's goes with the container. */
static bool leaves_files(struct fm_host *h, const char *instance)
{
	_fm_pb_ FM_PB(Container) *c = on_record(h, instance);
	struct fm_runtime *rt;
	return !c || fm_host_runtime(h, c->runtime, &rt, NULL) < 0 || !(rt->ops->traits & FM_RUNTIME_OWN_ROOT);
}

/* All but its folder */
static int take_down(struct fm_host *h, const char *instance, struct fm_error *err)
{
	_fm_free_ char *netns = fm_xasprintf("%s/%s", h->netns_dir, instance);
	struct fm_runtime *rt;
	if (runtime_on_record(h, instance, &rt, err) < 0 || rt->ops->remove(rt, instance, err) < 0)
		return -1;
	for (unsigned i = 0, n = endpoints_on_record(h, instance); i < n; i++) {
		char ifname[IFNAMSIZ];
		fm_endpoint_host_ifname(instance, i, ifname);
		if (fm_endpoint_remove(ifname, err) < 0)
			return -1;
	}
	if (fm_netns_remove(netns, err) < 0)
		return -1;
	fm_cgroup_prune(h->cgroup_parent);
	return 0;
}

int fm_instances_destroy(struct fm_host *h, const char *instance, struct fm_error *err)
{
	return take_down(h, instance, err) < 0 ? -1 : fm_bundle_remove_instance(h->instances_dir, instance, err);
}

int fm_instances_release(struct fm_host *h, const char *instance, const char *container, struct fm_error *err)
{
	struct fm_local back __attribute__((cleanup(fm_local_done))) = FM_LOCAL_INIT;
	if (take_down(h, instance, err) < 0)
		return -1;
	/* Carried back, it is here again. Failing to keep something is no reason to fail: the next visit sends everything. */
	if (leaves_files(h, instance) && fm_instances_find(h, container, instance, &back, NULL) < 0)
		(void)fm_revisit_files_keep(h, container, instance, NULL);
	if (fm_fault_point(h->fault, "source-after-visited", err) < 0)
		return -1;
	return fm_bundle_remove_instance(h->instances_dir, instance, err);
}

int fm_instances_remove(struct fm_host *h, const char *name, bool force, struct fm_error *err)
{
	struct fm_local l = FM_LOCAL_INIT;
	if (fm_instances_find(h, name, NULL, &l, err) < 0)
		return -1;
	bool running = !fm_streq(l.container->status, "stopped");
	_fm_free_ char *instance = fm_xstrdup(l.container->instance);
	fm_local_done(&l);
	if (running && !force) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "container '%s' is running on '%s'", name, h->name);
		return fm_error_hint(err, "'fleximigrate container rm --force %s' stops and removes it", name);
	}
	if (fm_instances_destroy(h, instance, err) < 0)
		return -1;
	fm_volumes_forget(h, name);
	return fm_revisit_files_remove(h, name, err);
}

/* ---------------------------------------------------------------- inspect */

static void add_listeners(FM_PB(InspectResponse) * r, pid_t pid)
{
	_fm_free_ struct fm_listener *v = NULL;
	size_t n = 0;
	if (fm_listeners(pid, &v, &n, NULL) < 0)
		return;
	for (size_t i = 0; i < n; i++) {
		FM_PB(Listener) *l = FM_PB_NEW(Listener, listener);
		fm_pb_set(&l->address, v[i].address);
		fm_pb_set(&l->protocol, v[i].protocol);
		l->port = v[i].port;
		FM_PB_ADD(r->listeners, r->n_listeners, l);
	}
}

static void add_tree(FM_PB(InspectResponse) * r, const struct fm_local *l, pid_t app)
{
	_fm_free_ pid_t *tree = NULL;
	size_t n = 0;
	_fm_cleanup_(fm_strv_freep) char **blockers = NULL;
	if (fm_proc_tree(app, &tree, &n, NULL) == 0) {
		r->busy_pids = calloc(n ? n : 1, sizeof(*r->busy_pids));
		for (size_t i = 0; r->busy_pids && i < n; i++) {
			pid_t ns_pid = 0;
			if (fm_proc_ns_pid(tree[i], &ns_pid, NULL) == 0)
				r->busy_pids[r->n_busy_pids++] = ns_pid;
		}
	}
	r->filtered = fm_tree_is_filtered(app);
	if (l->nested && fm_tree_blockers(l->pid1, app, &blockers, NULL) == 0)
		for (char **b = blockers; b && *b; b++)
			fm_pb_add_string(&r->blockers, &r->n_blockers, *b);
}

static int add_volumes(struct fm_host *h, const struct fm_local *l, FM_PB(InspectResponse) * r, struct fm_error *err)
{
	struct fm_volumes vs __attribute__((cleanup(fm_volumes_done))) = { 0 };
	_fm_cleanup_(fm_strv_freep) char **blockers = NULL;
	if (fm_volumes_find(h, l, true, &vs, &blockers, err) < 0)
		return -1;
	for (char **b = blockers; b && *b; b++)
		fm_pb_add_string(&r->blockers, &r->n_blockers, *b);
	for (size_t i = 0; i < vs.n; i++) {
		FM_PB(Volume) *v = FM_PB_NEW(Volume, volume);
		fm_pb_set(&v->path, vs.v[i].path);
		fm_pb_set(&v->target, vs.v[i].target);
		fm_pb_set(&v->lineage, vs.v[i].lineage);
		v->file = vs.v[i].file;
		v->bytes = vs.v[i].bytes;
		FM_PB_ADD(r->volumes, r->n_volumes, v);
	}
	return 0;
}

/* How much of a root filesystem has to travel, and which volumes. */
static void add_storage(struct fm_host *h, const struct fm_local *l, FM_PB(InspectResponse) * r)
{
	_fm_free_ char *config = NULL;
	struct fm_bundle_info info __attribute__((cleanup(fm_bundle_info_done))) = { 0 };
	struct fm_error e = FM_ERROR_INIT;
	if (fm_bundle_read(l->container->bundle, &config, &info, NULL) < 0)
		return;
	(void)fm_tree_bytes(info.rootfs, &r->rootfs_bytes, NULL);
	if (add_volumes(h, l, r, &e) < 0)
		fm_pb_add_string(&r->blockers, &r->n_blockers, e.message);
}

/* Why one of its kind cannot move. */
static void add_kind(struct fm_host *h, const struct fm_local *l, FM_PB(InspectResponse) * r)
{
	struct fm_runtime *rt;
	if (l->nested || fm_host_runtime(h, l->runtime, &rt, NULL) < 0)
		return;
	_fm_free_ char *text = fm_xasprintf(
	        "it was not started nested, and %s does not save such containers: 'fleximigrate container run --runtime %s' starts "
	        "containers that move",
	        rt->ops->name, rt->ops->name);
	if (!(rt->ops->traits & FM_RUNTIME_CHECKPOINTS))
		fm_pb_add_string(&r->blockers, &r->n_blockers, text);
	else if (fm_host_ordinary_problem())
		fm_pb_add_string(&r->blockers, &r->n_blockers, fm_host_ordinary_problem());
}

int fm_instances_inspect(struct fm_host *h, const char *name, FM_PB(InspectResponse) * *ret, struct fm_error *err)
{
	struct fm_local l __attribute__((cleanup(fm_local_done))) = FM_LOCAL_INIT;
	if (fm_instances_find(h, name, NULL, &l, err) < 0)
		return -1;
	FM_PB(InspectResponse) *r = FM_PB_NEW(InspectResponse, inspect_response);
	fm_local_measure(&l);
	if (!fm_streq(l.container->status, "running"))
		fm_pb_add_string(&r->blockers, &r->n_blockers, "the container is not running");
	else if (l.container->pid <= 0)
		fm_pb_add_string(&r->blockers, &r->n_blockers, "the container's application has ended");
	else
		add_tree(r, &l, l.container->pid);
	if (l.pid1 > 0)
		add_listeners(r, l.pid1);
	add_storage(h, &l, r);
	add_kind(h, &l, r);
	if (h->criu_problem.code != FM_OK)
		fm_pb_add_string(&r->blockers, &r->n_blockers, h->criu_problem.message);
	if (l.config) {
		r->config.len = strlen(l.config);
		r->config.data = (uint8_t *)fm_xstrdup(l.config);
	} else {
		struct fm_bundle_info info = { 0 };
		char *config = NULL;
		if (fm_bundle_read(l.container->bundle, &config, &info, NULL) == 0) {
			if (info.netns_path && info.netns_path[0])
				fm_pb_add_string(
				        &r->blockers, &r->n_blockers,
				        "its network namespace was made by somebody else; start it with 'fleximigrate container run'");
			r->config.len = strlen(config);
			r->config.data = (uint8_t *)config;
		}
		fm_bundle_info_done(&info);
	}
	r->container = FM_TAKE_PTR(l.container);
	*ret = r;
	return 0;
}
