/* SPDX-License-Identifier: MIT */
/* network.c - the description with measurements and the fleet: actions of a move, and whether intents are met. See network.h; what it tells people is in network-show.c. */
#include "migration/network.h"

#include <stdio.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "migration/network-internal.h"
#include "network/endpoint.h"

static int read_description(const char *path, struct fm_description **ret, struct fm_error *err)
{
	_fm_free_ char *text = NULL;
	size_t len = 0;

	if (fm_read_file(path, FM_MAX_DESCRIPTION_BYTES, &text, &len, err) < 0)
		return fm_error_prefix(err, "the network's description");
	return fm_description_parse(text, len, ret, err) < 0 ? fm_error_prefix(err, "%s", path) : 0;
}

int fm_network_open(const char *path, struct fm_fleet *fleet, struct fm_network **ret, struct fm_error *err)
{
	struct fm_description *d = NULL;
	struct fm_network *n;

	if (read_description(path, &d, err) < 0)
		return -1;
	n = calloc(1, sizeof(*n));
	if (!n)
		abort();
	n->path = fm_xstrdup(path);
	n->d = d;
	n->fleet = fleet;
	n->known_ports = json_object();
	n->told = json_object();
	pthread_rwlock_init(&n->lock, NULL);
	fm_measured_init(n);
	*ret = n;
	return 0;
}

void fm_network_free(struct fm_network *n)
{
	if (!n)
		return;
	fm_description_free(n->d);
	free(n->path);
	json_decref(n->known_ports);
	json_decref(n->told);
	free(n->measured);
	pthread_rwlock_destroy(&n->lock);
	free(n);
}

int fm_network_require(const struct fm_network *n, struct fm_error *err)
{
	if (n)
		return 0;
	(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "this manager has no description of its network");
	return fm_error_hint(err, "start it with --network FILE; docs/NETWORK.md says what is in the file");
}

int fm_network_reload(struct fm_network *n, struct fm_error *err)
{
	struct fm_description *d = NULL, *before;

	if (fm_network_require(n, err) < 0 || read_description(n->path, &d, err) < 0)
		return -1;
	pthread_rwlock_wrlock(&n->lock);
	before = n->d;
	n->d = d;
	free(n->measured);
	fm_measured_init(n);
	n->refreshed_ms = 0;
	pthread_rwlock_unlock(&n->lock);
	fm_description_free(before);
	return 0;
}

/* ---- measurements */

int fm_network_measure(struct fm_network *n, const char *from, const char *from_port, const char *to, const char *to_port,
                       const struct fm_link_measurement *m, struct fm_error *err)
{
	uint32_t link = 0;

	if (fm_network_require(n, err) < 0)
		return -1;
	pthread_rwlock_wrlock(&n->lock);
	int rc = fm_topology_find_link(n->d->topology, from, from_port, to, to_port, &link, err);
	if (rc == 0)
		rc = fm_topology_measure(n->d->topology, link, m, err);
	if (rc == 0)
		n->measured[link] = (struct fm_measured_link){
			.base = *m, .told = true, .latency = true, .loss = true, .utilisation = true, .at_unix_ms = fm_realtime_ms()
		};
	pthread_rwlock_unlock(&n->lock);
	return rc;
}

int fm_network_set_up(struct fm_network *n, const char *from, const char *from_port, const char *to, const char *to_port, bool up,
                      struct fm_error *err)
{
	uint32_t link = 0;

	if (fm_network_require(n, err) < 0)
		return -1;
	pthread_rwlock_wrlock(&n->lock);
	int rc = fm_topology_find_link(n->d->topology, from, from_port, to, to_port, &link, err);
	if (rc == 0)
		rc = fm_topology_set_up(n->d->topology, link, up, err);
	pthread_rwlock_unlock(&n->lock);
	return rc;
}

/* ---- containers and their intents */

int fm_network_intent_of(const struct fm_network *n, const FM_PB(Container) * c, const struct fm_intent **ret, struct fm_error *err)
{
	_fm_cleanup_(fm_strv_freep) char **labels = NULL;

	for (size_t i = 0; i < c->n_labels; i++) {
		_fm_free_ char *label = fm_xasprintf("%s=%s", c->labels[i]->key, c->labels[i]->value);
		fm_strv_add(&labels, label);
	}
	return fm_intent_find(n->d, c->name, labels, ret, err);
}

/* A container that is moving is reported twice; until it has moved it is where it leaves. */
int fm_network_containers(const struct fm_network *n, struct containers *ret, struct fm_error *err)
{
	FM_PB(Container) **v = NULL;
	size_t all = 0, kept = 0;

	if (fm_fleet_containers(n->fleet, "", &v, &all, err) < 0)
		return -1;
	for (size_t i = 0; i < all; i++)
		if (fm_streq(v[i]->status, "incoming"))
			fm_pb_free(v[i]);
		else
			v[kept++] = v[i];
	*ret = (struct containers){ .v = v, .n = kept };
	return 0;
}

void fm_containers_done(struct containers *c)
{
	for (size_t i = 0; i < c->n; i++)
		fm_pb_free(c->v[i]);
	free(c->v);
}

/* What the container's interfaces are called in the network. */
struct interfaces {
	struct fm_intent_endpoint v[FM_MAX_ENDPOINTS];
	size_t n;
	struct {
		char mac[18], text[2][64];
		const char *addresses[2];
	} words[FM_MAX_ENDPOINTS];
};

static int add_interface(const FM_PB(Container) * c, const FM_PB(Endpoint) * e, struct interfaces *to, struct fm_error *err)
{
	/* the bridge is the host's business, and may not be known here */
	const struct fm_endpoint_words w = { .bridge = "br", .mac = e->mac, .address = e->address, .address6 = e->address6 };
	const char *const given[] = { e->address, e->address6 };
	struct fm_endpoint_config config;
	size_t n = 0;

	if (to->n == FM_MAX_ENDPOINTS)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "container '%s' has more than %d endpoints", c->name, FM_MAX_ENDPOINTS);
	if (fm_endpoint_config_parse(&w, c->name, (unsigned)to->n, &config, err) < 0)
		return -1;
	fm_mac_format(config.mac, to->words[to->n].mac);
	for (size_t i = 0; i < FM_ARRAY_SIZE(given); i++) {
		if (!given[i][0])
			continue;
		(void)snprintf(to->words[to->n].text[n], sizeof(to->words[to->n].text[n]), "%.*s", (int)strcspn(given[i], "/"), given[i]);
		to->words[to->n].addresses[n] = to->words[to->n].text[n];
		n++;
	}
	to->v[to->n] =
	        (struct fm_intent_endpoint){ .mac = to->words[to->n].mac, .addresses = to->words[to->n].addresses, .n_addresses = n };
	to->n++;
	return 0;
}

static int interfaces_of(const FM_PB(Container) * c, struct interfaces *ret, struct fm_error *err)
{
	*ret = (struct interfaces){ 0 };
	if (!c->endpoint || (!c->endpoint->address[0] && !c->endpoint->address6[0]))
		return 0;
	if (add_interface(c, c->endpoint, ret, err) < 0)
		return -1;
	for (size_t i = 0; i < c->n_more_endpoints; i++)
		if (add_interface(c, c->more_endpoints[i], ret, err) < 0)
			return -1;
	return 0;
}

/* ---- links that are somebody's own */

/* Of each container the intent, and the links of its clients' ways; all NULL where no intent wants a dedicated path. */
struct ways {
	const struct containers *all;
	struct way {
		const struct fm_intent *intent;
		uint32_t *links;
		size_t n;
	} * v;
};

struct taken {
	uint32_t *v; /* room for all links there are */
	bool *is;
	size_t n;
};

static bool has_dedicated(const struct fm_description *d)
{
	for (size_t i = 0; i < d->n_intents; i++)
		if (d->intents[i].dedicated_path)
			return true;
	return false;
}

static int taken_init(const struct fm_network *n, struct taken *ret, struct fm_error *err)
{
	size_t links = fm_topology_n_links(n->d->topology);

	ret->v = calloc(links + 1, sizeof(*ret->v));
	ret->is = calloc(links + 1, sizeof(*ret->is));
	return ret->v && ret->is ? 0 : fm_error_errno(err, ENOMEM, "%zu links", links);
}

static void taken_done(struct taken *t)
{
	free(t->v);
	free(t->is);
}

static void take(struct taken *t, const struct way *w)
{
	for (size_t l = 0; l < w->n; l++) {
		if (t->is[w->links[l]])
			continue;
		t->is[w->links[l]] = true;
		t->v[t->n++] = w->links[l];
	}
}

static void ways_done(struct ways *w)
{
	for (size_t c = 0; w->v && c < w->all->n; c++)
		free(w->v[c].links);
	free(w->v);
}

/*
 * The ways of dedicated ones are chosen first, one after the other in the fleet's order, each keeping from those before it; the others keep from the dedicated ones only. So everybody who asks comes to the same
 * answer.
 */
static int find_ways(const struct fm_network *n, const struct containers *all, struct ways *ret, struct fm_error *err)
{
	_fm_cleanup_(taken_done) struct taken taken = { 0 };

	*ret = (struct ways){ .all = all };
	if (!has_dedicated(n->d))
		return 0;
	ret->v = calloc(all->n + 1, sizeof(*ret->v));
	if (!ret->v || taken_init(n, &taken, err) < 0)
		return fm_error_errno(err, ENOMEM, "the ways of %zu containers", all->n);
	for (size_t c = 0; c < all->n; c++)
		(void)fm_network_intent_of(n, all->v[c], &ret->v[c].intent, NULL); /* two that fit are told when it is asked about */
	for (int dedicated = 1; dedicated >= 0; dedicated--)
		for (size_t c = 0; c < all->n; c++) {
			struct way *w = &ret->v[c];

			if (!w->intent || w->intent->dedicated_path != dedicated)
				continue;
			if (fm_intent_links(n->d, w->intent, all->v[c]->host, taken.v, taken.n, &w->links, &w->n, err) < 0)
				return -1;
			if (dedicated)
				take(&taken, w);
		}
	return 0;
}

/* Which links the container must not use: who wants a dedicated path keeps from all others, and they from it. */
static int find_taken(const struct fm_network *n, const struct ways *ways, const FM_PB(Container) * c, const struct fm_intent *i,
                      struct taken *ret, struct fm_error *err)
{
	if (!ways->v)
		return 0;
	if (taken_init(n, ret, err) < 0)
		return -1;
	for (size_t k = 0; k < ways->all->n; k++)
		if (ways->v[k].intent && (i->dedicated_path || ways->v[k].intent->dedicated_path) &&
		    !fm_streq(ways->all->v[k]->name, c->name))
			take(ret, &ways->v[k]);
	return 0;
}

/* ---- actions */

static int compile(struct fm_network *n, const char *migration, const struct containers *all, const FM_PB(Container) * c,
                   const struct fm_intent *i, const char *source, const char *destination, uint64_t predicted_downtime_ms, json_t **ret,
                   struct fm_error *err)
{
	_fm_cleanup_(ways_done) struct ways ways = { 0 };
	_fm_cleanup_(taken_done) struct taken taken = { 0 };
	struct interfaces ends;
	int rc;

	if (interfaces_of(c, &ends, err) < 0 || find_ways(n, all, &ways, err) < 0 || find_taken(n, &ways, c, i, &taken, err) < 0)
		return -1;
	const struct fm_intent_move m = { .migration = migration,
		                          .container = c->name,
		                          .endpoints = ends.v,
		                          .n_endpoints = ends.n,
		                          .source = source,
		                          .destination = destination,
		                          .predicted_downtime_ms = predicted_downtime_ms,
		                          .taken_links = taken.v,
		                          .n_taken_links = taken.n,
		                          .known_ports = json_object_get(n->known_ports, c->name) };
	rc = fm_intent_compile(n->d, i, &m, ret, err);
	if (rc < 0 && err && err->code == FM_E_FAILED_PRECONDITION)
		(void)fm_error_hint(err, "'fleximigrate intent show %s' says what it wants, 'fleximigrate network show' what there is",
		                    i->service);
	return rc;
}

/* With the lock. */
static int compile_if_wanted(struct fm_network *n, const char *migration, const FM_PB(Container) * c, const char *source,
                             const char *destination, uint64_t predicted_downtime_ms, json_t **ret, struct fm_error *err)
{
	_fm_cleanup_(fm_containers_done) struct containers all = { 0 };
	const struct fm_intent *i = NULL;

	if (fm_network_intent_of(n, c, &i, err) < 0)
		return -1;
	if (!i) {
		*ret = json_array();
		return *ret ? 0 : fm_error_errno(err, ENOMEM, "actions");
	}
	if (fm_network_containers(n, &all, err) < 0)
		return -1;
	return compile(n, migration, &all, c, i, source, destination, predicted_downtime_ms, ret, err);
}

int fm_network_compile(struct fm_network *n, const char *migration, const FM_PB(Container) * container, const char *source,
                       const char *destination, uint64_t predicted_downtime_ms, json_t **ret, struct fm_error *err)
{
	if (!n) {
		*ret = json_array();
		return *ret ? 0 : fm_error_errno(err, ENOMEM, "actions");
	}
	fm_network_refresh(n);
	pthread_rwlock_rdlock(&n->lock);
	int rc = compile_if_wanted(n, migration, container, source, destination, predicted_downtime_ms, ret, err);
	pthread_rwlock_unlock(&n->lock);
	return rc;
}

bool fm_network_has_balancer(struct fm_network *n, const FM_PB(Container) * container)
{
	const struct fm_intent *i = NULL;

	if (!n)
		return false;
	pthread_rwlock_rdlock(&n->lock);
	bool has = fm_network_intent_of(n, container, &i, NULL) == 0 && i && i->balancer.balancer;
	pthread_rwlock_unlock(&n->lock);
	return has;
}

void fm_network_moved(struct fm_network *n, const char *container, const json_t *actions)
{
	const json_t *switches, *s;
	json_t *ports = json_object();

	for (size_t a = 0; a < json_array_size(actions); a++) {
		switches = json_object_get(json_array_get(actions, a), "switches");
		for (size_t k = 0; k < json_array_size(switches); k++) {
			s = json_array_get(switches, k);
			(void)json_object_set(ports, json_string_value(json_object_get(s, "name")), json_object_get(s, "to_port"));
		}
	}
	if (n && json_object_size(ports) > 0) {
		pthread_rwlock_wrlock(&n->lock);
		json_t *known = json_object_get(n->known_ports, container); /* switches that did not change lead where they did */
		if (known)
			(void)json_object_update(known, ports);
		else
			(void)json_object_set(n->known_ports, container, ports);
		pthread_rwlock_unlock(&n->lock);
	}
	json_decref(ports);
}

/* ---- are they met? */

static int check_one(struct fm_network *n, const struct ways *ways, const FM_PB(Container) * c, const struct fm_intent *i, char ***ret,
                     struct fm_error *err)
{
	_fm_cleanup_(taken_done) struct taken taken = { 0 };
	struct interfaces ends;

	if (interfaces_of(c, &ends, err) < 0 || find_taken(n, ways, c, i, &taken, err) < 0)
		return -1;
	const struct fm_intent_move m = { .container = c->name,
		                          .endpoints = ends.v,
		                          .n_endpoints = ends.n,
		                          .source = c->host,
		                          .destination = c->host,
		                          .taken_links = taken.v,
		                          .n_taken_links = taken.n };
	return fm_intent_check(n->d, i, &m, ret, err);
}

static FM_PB(IntentStatus) * new_status(const char *service, const char *container, const char *host)
{
	FM_PB(IntentStatus) *s = FM_PB_NEW(IntentStatus, intent_status);

	fm_pb_set(&s->service, service);
	fm_pb_set(&s->container, container);
	fm_pb_set(&s->host, host);
	return s;
}

/* NULL: the container has no intent. Whatever is wrong with one is a problem of this one only. */
static FM_PB(IntentStatus) * check_container(struct fm_network *n, const struct ways *ways, const FM_PB(Container) * c)
{
	_fm_cleanup_(fm_strv_freep) char **problems = NULL;
	const struct fm_intent *i = NULL;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(IntentStatus) * s;

	if (fm_network_intent_of(n, c, &i, &e) == 0 && !i)
		return NULL;
	s = new_status(i ? i->service : "", c->name, c->host);
	if (i && check_one(n, ways, c, i, &problems, &e) == 0)
		for (char **p = problems; p && *p; p++)
			fm_pb_add_string(&s->problems, &s->n_problems, *p);
	else
		fm_pb_add_string(&s->problems, &s->n_problems, e.message);
	s->met = s->n_problems == 0;
	return s;
}

static bool is_checked(const FM_PB(CheckNetworkResponse) * r, const char *service)
{
	for (size_t i = 0; i < r->n_intents; i++)
		if (fm_streq(r->intents[i]->service, service))
			return true;
	return false;
}

/* With the lock. */
static int check_all(struct fm_network *n, const struct containers *all, FM_PB(CheckNetworkResponse) * r, struct fm_error *err)
{
	_fm_cleanup_(ways_done) struct ways ways = { 0 };

	if (find_ways(n, all, &ways, err) < 0)
		return -1;
	for (size_t c = 0; c < all->n; c++) {
		FM_PB(IntentStatus) *s = check_container(n, &ways, all->v[c]);
		if (s)
			FM_PB_ADD(r->intents, r->n_intents, s);
	}
	for (size_t i = 0; i < n->d->n_intents; i++) /* a service that nobody runs wants nothing now */
		if (!is_checked(r, n->d->intents[i].service)) {
			FM_PB(IntentStatus) *s = new_status(n->d->intents[i].service, "", "");
			s->met = true;
			FM_PB_ADD(r->intents, r->n_intents, s);
		}
	return 0;
}

int fm_network_check(struct fm_network *n, FM_PB(CheckNetworkResponse) * *ret, struct fm_error *err)
{
	_fm_cleanup_(fm_containers_done) struct containers all = { 0 };
	_fm_pb_ FM_PB(CheckNetworkResponse) *r = NULL;

	if (fm_network_require(n, err) < 0 || fm_network_containers(n, &all, err) < 0)
		return -1;
	r = FM_PB_NEW(CheckNetworkResponse, check_network_response);
	fm_network_refresh(n);
	pthread_rwlock_rdlock(&n->lock);
	int rc = check_all(n, &all, r, err);
	pthread_rwlock_unlock(&n->lock);
	if (rc < 0)
		return -1;
	*ret = FM_TAKE_PTR(r);
	return 0;
}

void fm_network_recheck(struct fm_network *n, struct fm_log *log)
{
	_fm_pb_ FM_PB(CheckNetworkResponse) *r = NULL;

	if (!n || fm_network_check(n, &r, NULL) < 0)
		return;
	for (size_t k = 0; k < r->n_intents; k++) {
		const FM_PB(IntentStatus) *s = r->intents[k];
		const struct fm_log_fields fields = { .container = s->container, .host = s->host, .action = "intent" };
		const char *first = s->n_problems ? s->problems[0] : "";
		const char *before = json_string_value(json_object_get(n->told, s->container));

		if (!s->container[0] || fm_streq(first, before ? before : ""))
			continue;
		if (s->met)
			fm_log_write(log, FM_LOG_INFO, "NetworkManager", &fields, "Intent '%s' is met again for container '%s' on '%s'.",
			             s->service, s->container, s->host);
		else
			fm_log_write(log, FM_LOG_WARN, "NetworkManager", &fields, "Intent '%s' is not met for container '%s' on '%s': %s.",
			             s->service, s->container, s->host, first);
		(void)json_object_set_new(n->told, s->container, json_string(first));
	}
}
