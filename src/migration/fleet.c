/* SPDX-License-Identifier: MIT */
/* fleet.c - see fleet.h. Two small arrays under one lock: fleets are thousands at most and reports come once a second a host. */
#include "migration/fleet.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/random.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/id.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "migration/pb.h"
#include "migration/usage.h"
#include "monitor/peers.h"

#define CORDONED    "cordoned" /* kind of record */
#define SETTLED_MAX 64
#define SETTLED_MS  3000

/* What this manager has done itself is newer than a report that was on its way meanwhile: for a moment it counts more. */
struct settled {
	char name[128];
	char host[64]; /* where it is; "" = nowhere */
	char left[64]; /* where it is no more; "" = nothing is known */
	uint64_t until_ms;
};

struct fm_fleet {
	pthread_mutex_t lock;
	struct fm_store *store;
	FM_PB(Host) * *hosts;
	size_t n_hosts;
	FM_PB(Container) * *containers;
	size_t n_containers;
	struct settled settled[SETTLED_MAX];
	size_t next_settled;
	uint8_t peer_key[FM_PEERS_KEY_BYTES];
};

/* ---------------------------------------------------------------- under the lock */

static FM_PB(Host) * *find_host(struct fm_fleet *f, const char *name)
{
	for (size_t i = 0; i < f->n_hosts; i++)
		if (fm_streq(f->hosts[i]->name, name))
			return &f->hosts[i];
	return NULL;
}

static bool is_resident(const FM_PB(Container) * c)
{
	return !fm_streq(c->status, "incoming") && !fm_streq(c->status, "outgoing");
}

static bool is_online(const FM_PB(Host) * h)
{
	return fm_realtime_ms() < h->last_seen_unix_ms + FM_FLEET_OFFLINE_MS;
}

static void settle(struct fm_fleet *f, const char *name, const char *host, const char *left)
{
	struct settled *e = NULL;
	for (size_t i = 0; i < SETTLED_MAX && !e; i++)
		if (fm_streq(f->settled[i].name, name))
			e = &f->settled[i];
	if (!e)
		e = &f->settled[f->next_settled++ % SETTLED_MAX];
	(void)snprintf(e->name, sizeof(e->name), "%s", name);
	(void)snprintf(e->host, sizeof(e->host), "%s", host);
	(void)snprintf(e->left, sizeof(e->left), "%s", left);
	e->until_ms = fm_now_ms() + SETTLED_MS;
}

static const struct settled *find_settled(struct fm_fleet *f, const char *name)
{
	for (size_t i = 0; i < SETTLED_MAX; i++)
		if (fm_streq(f->settled[i].name, name) && fm_now_ms() < f->settled[i].until_ms)
			return &f->settled[i];
	return NULL;
}

/* Was this line of a report written before what we know? */
static bool is_outdated(struct fm_fleet *f, const FM_PB(Container) * c, const char *host)
{
	const struct settled *e = find_settled(f, c->name);
	return e && (fm_streq(e->left, host) || (e->host[0] && !is_resident(c)));
}

/* Everything of a host that its report replaces; what we have just put there and it does not know yet stays. */
static void drop_reported(struct fm_fleet *f, const FM_PB(ReportRequest) * r)
{
	size_t out = 0;
	for (size_t i = 0; i < f->n_containers; i++) {
		FM_PB(Container) *c = f->containers[i];
		const struct settled *e = fm_streq(c->host, r->host->name) ? find_settled(f, c->name) : NULL;
		bool keep = !fm_streq(c->host, r->host->name) || (e && fm_streq(e->host, c->host));
		for (size_t k = 0; e && keep && k < r->n_containers; k++)
			keep = !fm_streq(r->containers[k]->name, c->name) || !is_resident(r->containers[k]);
		if (keep)
			f->containers[out++] = c;
		else
			fm_pb_free(c);
	}
	f->n_containers = out;
}

static void set_status(struct fm_fleet *f, FM_PB(Host) * copy)
{
	fm_pb_set(&copy->status, is_online(copy) ? "online" : "offline");
	copy->containers = 0;
	for (size_t i = 0; i < f->n_containers; i++)
		copy->containers += fm_streq(f->containers[i]->host, copy->name) && is_resident(f->containers[i]);
}

static void drop_containers(struct fm_fleet *f, const char *host, const char *name)
{
	size_t out = 0;
	for (size_t i = 0; i < f->n_containers; i++) {
		FM_PB(Container) *c = f->containers[i];
		if (fm_streq(c->host, host) && fm_streq(c->name, name))
			fm_pb_free(c);
		else
			f->containers[out++] = c;
	}
	f->n_containers = out;
}

/* ---------------------------------------------------------------- life */

static int load_host(void *userdata, const char *host, const char *name, const void *blob, size_t len, uint64_t seen_ms)
{
	struct fm_fleet *f = userdata;
	FM_PB(Host) *h = fleximigrate__v1__host__unpack(NULL, len, blob);
	if (h) {
		h->last_seen_unix_ms = 0; /* known, but nobody has reported since this manager started */
		FM_PB_ADD(f->hosts, f->n_hosts, h);
	}
	return 0;
}

static int load_cordoned(struct fm_fleet *f, struct fm_error *err)
{
	struct fm_store_record *r = NULL;
	size_t n = 0;
	if (fm_store_record_list(f->store, CORDONED, 0, &r, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < f->n_hosts; i++) {
		f->hosts[i]->cordoned = false;
		for (size_t k = 0; k < n; k++)
			f->hosts[i]->cordoned = f->hosts[i]->cordoned || fm_streq(r[k].id, f->hosts[i]->name);
	}
	fm_store_records_free(r, n);
	return 0;
}

static int load_container(void *userdata, const char *host, const char *name, const void *blob, size_t len, uint64_t seen_ms)
{
	struct fm_fleet *f = userdata;
	FM_PB(Container) *c = fleximigrate__v1__container__unpack(NULL, len, blob);
	if (c) {
		fm_pb_set(&c->host, host); /* kept as it was reported, and there the host need not name itself */
		FM_PB_ADD(f->containers, f->n_containers, c);
	}
	return 0;
}

int fm_fleet_new(struct fm_store *store, struct fm_fleet **ret, struct fm_error *err)
{
	struct fm_fleet *f = calloc(1, sizeof(*f));
	if (!f)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	pthread_mutex_init(&f->lock, NULL);
	f->store = store;
	if (getrandom(f->peer_key, sizeof(f->peer_key), 0) != sizeof(f->peer_key)) {
		fm_fleet_free(f);
		return fm_error_errno(err, errno, "cannot make the key of the agents' probes");
	}
	if (fm_store_host_each(store, load_host, f, err) < 0 || fm_store_container_each(store, load_container, f, err) < 0 ||
	    load_cordoned(f, err) < 0) {
		fm_fleet_free(f);
		return -1;
	}
	*ret = f;
	return 0;
}

void fm_fleet_free(struct fm_fleet *f)
{
	if (!f)
		return;
	for (size_t i = 0; i < f->n_hosts; i++)
		fm_pb_free(f->hosts[i]);
	for (size_t i = 0; i < f->n_containers; i++)
		fm_pb_free(f->containers[i]);
	free(f->hosts);
	free(f->containers);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

/* ---------------------------------------------------------------- reports */

static int check_report(const FM_PB(ReportRequest) * r, struct fm_error *err)
{
	if (!r->host || !fm_name_is_valid(r->host->name))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "the report names no valid host");
	if (r->n_containers > FM_MAX_CONTAINERS_PER_HOST)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "host '%s' reports %zu containers, more than %d", r->host->name,
		                    r->n_containers, FM_MAX_CONTAINERS_PER_HOST);
	for (size_t i = 0; i < r->n_containers; i++)
		if (!r->containers[i]->name[0] || strlen(r->containers[i]->name) > 127)
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "host '%s' reports a container without a usable name",
			                    r->host->name);
	return 0;
}

/* The store's keys are short; an instance's name need not be. */
static char *store_key(const FM_PB(Container) * c)
{
	const char *name = c->instance[0] ? c->instance : c->name;
	return strlen(name) <= FM_MAX_NAME ? fm_xstrdup(name) : fm_xasprintf("%016llx", (unsigned long long)fm_hash_str(name));
}

static void persist_containers(struct fm_fleet *f, const FM_PB(ReportRequest) * r)
{
	size_t n = r->n_containers;
	const char **names = calloc(n + 1, sizeof(*names));
	const void **blobs = calloc(n + 1, sizeof(*blobs));
	size_t *lens = calloc(n + 1, sizeof(*lens));
	for (size_t i = 0; names && blobs && lens && i < n; i++) {
		uint8_t *b = malloc(protobuf_c_message_get_packed_size(&r->containers[i]->base) + 1);
		if (!b)
			abort();
		lens[i] = protobuf_c_message_pack(&r->containers[i]->base, b);
		names[i] = store_key(r->containers[i]);
		blobs[i] = b;
	}
	if (names && blobs && lens)
		(void)fm_store_containers_put(f->store, r->host->name, n, names, blobs, lens,
		                              NULL); /* a cache: the next report is a second away */
	for (size_t i = 0; names && blobs && i < n; i++) {
		free((void *)names[i]);
		free((void *)blobs[i]);
	}
	free(names);
	free(blobs);
	free(lens);
}

static void persist_host(struct fm_fleet *f, const FM_PB(Host) * h)
{
	_fm_free_ uint8_t *b = malloc(protobuf_c_message_get_packed_size(&h->base) + 1);
	if (b)
		(void)fm_store_host_put(f->store, h->name, b, protobuf_c_message_pack(&h->base, b), h->last_seen_unix_ms, NULL);
}

static bool is_on_record_as_cordoned(struct fm_fleet *f, const char *host)
{
	_fm_free_ void *data = NULL;
	size_t len = 0;
	return fm_store_record_get(f->store, CORDONED, host, &data, &len, NULL) == 0;
}

int fm_fleet_report(struct fm_fleet *f, const FM_PB(ReportRequest) * r, struct fm_error *err)
{
	if (check_report(r, err) < 0)
		return -1;
	FM_PB(Host) *h = fm_pb_copy(r->host);
	fm_usage_check_host(h);
	h->last_seen_unix_ms = fm_realtime_ms();
	pthread_mutex_lock(&f->lock);
	FM_PB(Host) **known = find_host(f, h->name);
	h->cordoned = known ? (*known)->cordoned : is_on_record_as_cordoned(f, h->name); /* ours, not its agent's */
	if (!known && f->n_hosts >= FM_MAX_HOSTS) {
		pthread_mutex_unlock(&f->lock);
		fm_pb_free(h);
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "this manager has %d hosts already", FM_MAX_HOSTS);
	}
	if (known) {
		h->cordoned = (*known)->cordoned;
		fm_pb_free(*known);
		*known = h;
	} else {
		FM_PB_ADD(f->hosts, f->n_hosts, h);
	}
	drop_reported(f, r);
	for (size_t i = 0; i < r->n_containers; i++) {
		if (is_outdated(f, r->containers[i], h->name))
			continue;
		FM_PB(Container) *c = fm_pb_copy(r->containers[i]);
		fm_usage_check_container(c);
		fm_pb_set(&c->host, h->name);
		FM_PB_ADD(f->containers, f->n_containers, c);
	}
	persist_host(f, h);
	persist_containers(f, r);
	pthread_mutex_unlock(&f->lock);
	return 0;
}

/* ---------------------------------------------------------------- questions */

int fm_fleet_host(struct fm_fleet *f, const char *name, FM_PB(Host) * *ret, struct fm_error *err)
{
	_fm_buf_ struct fm_buf names = FM_BUF_INIT;
	pthread_mutex_lock(&f->lock);
	FM_PB(Host) **h = find_host(f, name);
	FM_PB(Host) *copy = h ? fm_pb_copy(*h) : NULL;
	if (copy)
		set_status(f, copy);
	for (size_t i = 0; !copy && i < f->n_hosts && names.len < 150; i++)
		fm_buf_addf(&names, "%s%s", i ? ", " : "", f->hosts[i]->name);
	pthread_mutex_unlock(&f->lock);
	if (!copy) {
		(void)fm_error_set(err, FM_E_NOT_FOUND, "there is no host '%s'", name);
		return fm_error_hint(err, "known hosts: %s", names.len ? names.data : "none; start an agent");
	}
	*ret = copy;
	return 0;
}

int fm_fleet_cordon(struct fm_fleet *f, const char *host, bool cordoned, struct fm_error *err)
{
	_fm_pb_ FM_PB(Host) *known = NULL;
	if (fm_fleet_host(f, host, &known, err) < 0) /* says which there are */
		return -1;
	if ((cordoned ? fm_store_record_put(f->store, CORDONED, host, NULL, 0, err)
	              : fm_store_record_delete(f->store, CORDONED, host, err)) < 0)
		return -1;
	pthread_mutex_lock(&f->lock);
	FM_PB(Host) **h = find_host(f, host);
	if (h)
		(*h)->cordoned = cordoned;
	pthread_mutex_unlock(&f->lock);
	return 0;
}

int fm_fleet_hosts(struct fm_fleet *f, FM_PB(Host) * **ret, size_t *ret_n, struct fm_error *err)
{
	pthread_mutex_lock(&f->lock);
	FM_PB(Host) **v = calloc(f->n_hosts + 1, sizeof(*v));
	size_t n = v ? f->n_hosts : 0;
	for (size_t i = 0; i < n; i++) {
		v[i] = fm_pb_copy(f->hosts[i]);
		set_status(f, v[i]);
	}
	pthread_mutex_unlock(&f->lock);
	if (!v)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	*ret = v;
	*ret_n = n;
	return 0;
}

/* Of several reports about one name the running resident one counts: a host that is behind may still show what it gave away. */
static const FM_PB(Container) * best(struct fm_fleet *f, const char *name)
{
	const FM_PB(Container) *found = NULL;
	for (size_t i = 0; i < f->n_containers; i++) {
		const FM_PB(Container) *c = f->containers[i];
		if (!fm_streq(c->name, name) || !is_resident(c))
			continue;
		if (!found || (!fm_streq(found->status, "running") && fm_streq(c->status, "running")))
			found = c;
	}
	return found;
}

int fm_fleet_container(struct fm_fleet *f, const char *name, FM_PB(Container) * *ret, struct fm_error *err)
{
	pthread_mutex_lock(&f->lock);
	const FM_PB(Container) *c = best(f, name);
	FM_PB(Container) *copy = c ? fm_pb_copy(c) : NULL;
	pthread_mutex_unlock(&f->lock);
	if (!copy) {
		(void)fm_error_set(err, FM_E_NOT_FOUND, "there is no container '%s' on any host", name);
		return fm_error_hint(err, "'fleximigrate container ls' shows what there is");
	}
	*ret = copy;
	return 0;
}

int fm_fleet_containers(struct fm_fleet *f, const char *host, FM_PB(Container) * **ret, size_t *ret_n, struct fm_error *err)
{
	pthread_mutex_lock(&f->lock);
	FM_PB(Container) **v = calloc(f->n_containers + 1, sizeof(*v));
	size_t n = 0;
	for (size_t i = 0; v && i < f->n_containers; i++)
		if (!host || !host[0] || fm_streq(f->containers[i]->host, host))
			v[n++] = fm_pb_copy(f->containers[i]);
	pthread_mutex_unlock(&f->lock);
	if (!v)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	*ret = v;
	*ret_n = n;
	return 0;
}

void fm_fleet_peers(struct fm_fleet *f, const char *host, FM_PB(ReportResponse) * r)
{
	size_t own = 0;

	pthread_mutex_lock(&f->lock);
	while (own < f->n_hosts && !fm_streq(f->hosts[own]->name, host))
		own++;
	for (size_t i = 1; own < f->n_hosts && i < f->n_hosts && r->n_peers < FM_MAX_PEERS; i++) {
		const FM_PB(Host) *h = f->hosts[(own + i) % f->n_hosts];
		if (!is_online(h) || !h->echo_port)
			continue;
		FM_PB(Peer) *p = FM_PB_NEW(Peer, peer);
		_fm_free_ char *address = fm_xasprintf("%s:%u", h->stream_address, h->echo_port);
		fm_pb_set(&p->host, h->name);
		fm_pb_set(&p->address, address);
		FM_PB_ADD(r->peers, r->n_peers, p);
	}
	r->peer_key.data = malloc(FM_PEERS_KEY_BYTES);
	if (r->peer_key.data) {
		memcpy(r->peer_key.data, f->peer_key, FM_PEERS_KEY_BYTES);
		r->peer_key.len = FM_PEERS_KEY_BYTES;
	}
	pthread_mutex_unlock(&f->lock);
}

int fm_fleet_agent_address(struct fm_fleet *f, const char *host, char *ret, size_t cap, struct fm_error *err)
{
	_fm_pb_ FM_PB(Host) *h = NULL;
	if (fm_fleet_host(f, host, &h, err) < 0)
		return -1;
	return fm_snprintf(ret, cap, err, "%s", h->address);
}

/* ---------------------------------------------------------------- corrections */

/* Any record of it: right after a switch-over the last reports can be "outgoing" from the one host and still "incoming" from the other. */
static const FM_PB(Container) * any(struct fm_fleet *f, const char *name)
{
	for (size_t i = 0; i < f->n_containers; i++)
		if (fm_streq(f->containers[i]->name, name))
			return f->containers[i];
	return NULL;
}

static const FM_PB(Container) * any_elsewhere(struct fm_fleet *f, const char *name, const char *host)
{
	for (size_t i = 0; i < f->n_containers; i++)
		if (fm_streq(f->containers[i]->name, name) && !fm_streq(f->containers[i]->host, host))
			return f->containers[i];
	return NULL;
}

static const FM_PB(Container) * on_host(struct fm_fleet *f, const char *name, const char *host)
{
	for (size_t i = 0; i < f->n_containers; i++)
		if (fm_streq(f->containers[i]->name, name) && fm_streq(f->containers[i]->host, host))
			return f->containers[i];
	return NULL;
}

void fm_fleet_container_moved(struct fm_fleet *f, const char *name, const char *to_host)
{
	pthread_mutex_lock(&f->lock);
	/* The destination's own words are the better ones: another instance, other pids. */
	const FM_PB(Container) *there = on_host(f, name, to_host), *from = best(f, name);
	const FM_PB(Container) *c = there ? there : from ? from : any(f, name);
	from = from && !fm_streq(from->host, to_host) ? from : any_elsewhere(f, name, to_host);
	FM_PB(Container) *moved = c ? fm_pb_copy(c) : NULL;
	_fm_free_ char *left = fm_xstrdup(from ? from->host : "");
	if (moved) {
		if (left[0])
			drop_containers(f, left, name);
		drop_containers(f, to_host, name);
		if (!is_resident(moved))
			fm_pb_set(&moved->status, "running");
		fm_pb_set(&moved->host, to_host);
		FM_PB_ADD(f->containers, f->n_containers, moved);
	}
	settle(f, name, to_host, left);
	pthread_mutex_unlock(&f->lock);
}

void fm_fleet_container_put(struct fm_fleet *f, const FM_PB(Container) * c)
{
	pthread_mutex_lock(&f->lock);
	drop_containers(f, c->host, c->name);
	FM_PB(Container) *copy = fm_pb_copy(c);
	FM_PB_ADD(f->containers, f->n_containers, copy);
	const struct settled *before = find_settled(f, c->name);
	_fm_free_ char *left = fm_xstrdup(before && fm_streq(before->host, c->host) ? before->left : "");
	settle(f, c->name, c->host, left);
	pthread_mutex_unlock(&f->lock);
}

void fm_fleet_container_gone(struct fm_fleet *f, const char *name, const char *host)
{
	pthread_mutex_lock(&f->lock);
	drop_containers(f, host, name);
	settle(f, name, "", host);
	pthread_mutex_unlock(&f->lock);
}
