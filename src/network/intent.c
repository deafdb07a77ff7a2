/* SPDX-License-Identifier: MIT */
/* intent.c - which intent is whose; from an intent and a move to actions, or to problems. See intent.h; the way is in intent-way.c. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "basic/id.h"
#include "basic/str.h"
#include "network/address.h"
#include "network/intent-internal.h"
#include "network/redirect.h"

/* ---- whose */

static bool has_label(char *const *labels, const char *label)
{
	for (; labels && *labels; labels++)
		if (fm_streq(*labels, label))
			return true;
	return false;
}

int fm_intent_find(const struct fm_description *d, const char *container, char *const *labels, const struct fm_intent **ret,
                   struct fm_error *err)
{
	const struct fm_intent *found = NULL;

	for (size_t i = 0; i < d->n_intents; i++)
		if (fm_streq(d->intents[i].container, container)) {
			*ret = &d->intents[i];
			return 0;
		}
	for (size_t i = 0; i < d->n_intents; i++) {
		if (!d->intents[i].label || !has_label(labels, d->intents[i].label))
			continue;
		if (found)
			return fm_error_set(err, FM_E_FAILED_PRECONDITION, "the labels of container '%s' fit the intents '%s' and '%s'",
			                    container, found->service, d->intents[i].service);
		found = &d->intents[i];
	}
	*ret = found;
	return 0;
}

/* ---- what all steps use */

int fm_plan_add(struct fm_intent_plan *p, const char *at, const char *driver, json_t *action, struct fm_error *err)
{
	json_auto_t *a = action;
	size_t n = 0;

	if (!a || json_object_set_new(a, "at", json_string(at)) < 0 || json_object_set_new(a, "driver", json_string(driver)) < 0)
		return fm_error_errno(err, ENOMEM, "an action for %s", driver);
	n = json_dumpb(a, NULL, 0, JSON_COMPACT);
	if (n > FM_MAX_REDIRECT_BYTES || json_array_size(p->actions) >= FM_MAX_REDIRECTS)
		return fm_plan_refuse(err, "it takes more than a migration can change: %d actions of %d bytes each", FM_MAX_REDIRECTS,
		                      FM_MAX_REDIRECT_BYTES);
	return json_array_append(p->actions, a) < 0 ? fm_error_errno(err, ENOMEM, "an action for %s", driver) : 0;
}

bool fm_plan_may(const struct fm_intent_plan *p, unsigned driver)
{
	return (p->i->drivers & driver) != 0;
}

bool fm_plan_moves(const struct fm_intent_plan *p)
{
	return !fm_streq(p->m->source, p->m->destination);
}

uint64_t fm_plan_mark(const struct fm_intent_plan *p)
{
	return fm_hash_str(p->m->container);
}

static int require(const struct fm_intent_plan *p, unsigned driver, const char *what, struct fm_error *err)
{
	if (fm_plan_may(p, driver))
		return 0;
	return fm_plan_refuse(err, "%s needs %s, which may not be used", what, fm_intent_driver_name(driver));
}

/* Where clients find the service when it is on that host. NULL: nobody said. */
static const char *address_at(const struct fm_intent_plan *p, const char *host)
{
	const char *address = json_string_value(json_object_get(p->i->addresses, host));

	if (address || fm_streq(p->i->keep, "name") || p->i->n_publish > 0)
		return address ? address : json_string_value(json_object_get(p->d->tunnels.hosts, host));
	for (size_t e = 0; e < p->m->n_endpoints; e++)
		if (p->m->endpoints[e].n_addresses > 0)
			return p->m->endpoints[e].addresses[0];
	return NULL;
}

static int both_addresses(const struct fm_intent_plan *p, const char *what, const char **ret_from, const char **ret_to,
                          struct fm_error *err)
{
	*ret_from = address_at(p, p->m->source);
	*ret_to = address_at(p, p->m->destination);
	if (!*ret_from || !*ret_to)
		return fm_plan_refuse(err, "%s: it is not known where clients find it on '%s' (\"addresses\" of the intent)", what,
		                      *ret_from ? p->m->destination : p->m->source);
	if (fm_ip_family(*ret_from) != fm_ip_family(*ret_to))
		return fm_plan_refuse(err, "%s: %s and %s are addresses of two families", what, *ret_from, *ret_to);
	return 0;
}

/* ---- steps. Each adds its actions, or says what is in the way. */

/* Who follows a name goes on with the old address for as long as caches hold it, unless somebody forwards. */
static int plan_gap(struct fm_intent_plan *p, struct fm_error *err)
{
	bool waits = fm_streq(p->i->keep, "name") && p->i->n_publish == 0 && fm_plan_moves(p);
	uint64_t ttl_ms = waits ? (uint64_t)p->i->dns->ttl_s * 1000 : 0;

	if (!p->i->max_gap_ms || p->m->predicted_downtime_ms + ttl_ms <= p->i->max_gap_ms)
		return 0;
	if (ttl_ms)
		return fm_plan_refuse(
		        err,
		        "a gap of at most %llu ms is allowed; %llu ms are predicted, and the name's old address may be held for %llu ms",
		        (unsigned long long)p->i->max_gap_ms, (unsigned long long)p->m->predicted_downtime_ms, (unsigned long long)ttl_ms);
	return fm_plan_refuse(err, "a gap of at most %llu ms is allowed, %llu ms are predicted", (unsigned long long)p->i->max_gap_ms,
	                      (unsigned long long)p->m->predicted_downtime_ms);
}

/* What comes to the source's host goes on to the container, and is answered through the tunnel that fm_plan_way has made. */
static int plan_publish(struct fm_intent_plan *p, struct fm_error *err)
{
	const char *from = NULL, *to = NULL, *container = NULL;

	if (p->i->n_publish == 0 || !fm_plan_moves(p))
		return 0;
	if (require(p, FM_INTENT_DNAT, "publishing ports", err) < 0 || both_addresses(p, "published ports", &from, &to, err) < 0)
		return -1;
	for (size_t e = 0; e < p->m->n_endpoints && !container; e++)
		for (size_t a = 0; a < p->m->endpoints[e].n_addresses && !container; a++)
			if (fm_ip_family(p->m->endpoints[e].addresses[a]) == fm_ip_family(from))
				container = p->m->endpoints[e].addresses[a];
	if (!container)
		return fm_plan_refuse(err, "published ports: it has no address of the family of %s", from);
	for (size_t n = 0; n < p->i->n_publish; n++)
		for (int side = 0; side < 2; side++) {
			const struct fm_intent_port *port = &p->i->publish[n];
			json_t *a = json_pack("{s:s, s:s, s:s, s:I, s:s, s:I}", "side", side ? "destination" : "source", "protocol",
			                      port->protocol, "host_address", side ? to : from, "host_port", (json_int_t)port->host_port,
			                      "address", container, "port", (json_int_t)port->port);

			if (fm_plan_add(p, side ? p->m->destination : p->m->source, "dnat", a, err) < 0)
				return -1;
		}
	return 0;
}

static int plan_name(struct fm_intent_plan *p, struct fm_error *err)
{
	const struct fm_net_dns *d = p->i->dns;
	const char *from = NULL, *to = NULL;
	json_t *a;

	if (!d)
		return 0;
	if (require(p, FM_INTENT_DNS, "following its name", err) < 0 || both_addresses(p, "its name", &from, &to, err) < 0)
		return -1;
	if (!fm_plan_moves(p))
		return 0;
	if (fm_streq(from, to))
		return fm_plan_refuse(err, "its name means %s on both hosts: there is nothing to follow", from);
	a = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:b}", "server", d->server, "zone", d->zone, "key", d->key,
	              "algorithm", d->algorithm, "key_file", d->key_file, "name", p->i->name, "from", from, "to", to, "ttl_s",
	              (json_int_t)d->ttl_s, "reverse", d->reverse_zone != NULL);
	if (a && d->reverse_zone)
		json_object_set_new(a, "reverse_zone", json_string(d->reverse_zone));
	return fm_plan_add(p, FM_INTENT_AT_MANAGER, "dns", a, err);
}

static json_t *with_port(const char *address, uint32_t port)
{
	return fm_ip_family(address) == AF_INET6 ? json_sprintf("[%s]:%u", address, port) : json_sprintf("%s:%u", address, port);
}

/* Without a new address and without draining there is nothing that the balancer would have to do. */
static int plan_balancer(struct fm_intent_plan *p, struct fm_error *err)
{
	const struct fm_intent_balancer *b = &p->i->balancer;
	const char *from = NULL, *to = NULL;
	json_t *a;

	if (!b->balancer)
		return 0;
	if (require(p, FM_INTENT_HAPROXY, "its load balancer", err) < 0 || both_addresses(p, "its load balancer", &from, &to, err) < 0)
		return -1;
	if (!fm_plan_moves(p) || (fm_streq(from, to) && !b->drain))
		return 0;
	a = json_pack("{s:s, s:s, s:s, s:o, s:o, s:b}", "socket", b->balancer->socket, "backend", b->backend, "server", b->server, "from",
	              with_port(from, b->port), "to", with_port(to, b->port), "drain", (int)b->drain);
	if (a && b->by_policy)
		json_object_set_new(a, "by_policy", json_true());
	if (a && b->drain)
		json_object_set_new(a, "max_drain_ms", json_integer((json_int_t)b->balancer->max_drain_ms));
	return fm_plan_add(p, FM_INTENT_AT_MANAGER, "haproxy", a, err);
}

static int plan_webhooks(struct fm_intent_plan *p, struct fm_error *err)
{
	for (size_t n = 0; n < p->i->n_webhooks; n++) {
		const struct fm_net_webhook *w = p->i->webhooks[n];
		json_t *a;

		if (require(p, FM_INTENT_WEBHOOK, "its webhooks", err) < 0)
			return -1;
		if (!fm_plan_moves(p))
			continue;
		a = json_pack("{s:s, s:b, s:{s:s, s:s, s:s, s:s}}", "url", w->url, "required", (int)w->required, "about", "service",
		              p->i->service, "container", p->m->container, "source", p->m->source, "destination", p->m->destination);
		if (a && p->m->migration)
			json_object_set_new(json_object_get(a, "about"), "migration", json_string(p->m->migration));
		if (a && w->events)
			json_object_set_new(a, "events", json_deep_copy(w->events));
		if (a && w->headers)
			json_object_set_new(a, "headers", json_deep_copy(w->headers));
		if (a && w->secret_file)
			json_object_set_new(a, "secret_file", json_string(w->secret_file));
		if (a && w->ca_file)
			json_object_set_new(a, "ca_file", json_string(w->ca_file));
		if (fm_plan_add(p, FM_INTENT_AT_MANAGER, "webhook", a, err) < 0)
			return -1;
	}
	return 0;
}

/* In the order in which actions are opened: the way first, then those who send clients there. */
static int (*const steps[])(struct fm_intent_plan *p, struct fm_error *err) = {
	plan_gap, fm_plan_way, fm_plan_bandwidth, fm_plan_isolation, plan_publish, plan_name, plan_balancer, plan_webhooks,
};

/* ---- all of them */

static int check_move(const struct fm_intent_move *m, struct fm_error *err)
{
	if (!fm_name_is_valid(m->container) || !fm_name_is_valid(m->source) || !fm_name_is_valid(m->destination))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a move of '%.80s' from '%.80s' to '%.80s'",
		                    m->container ? m->container : "", m->source ? m->source : "", m->destination ? m->destination : "");
	for (size_t e = 0; e < m->n_endpoints; e++) {
		if (!m->endpoints[e].mac)
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "an interface of container '%s' has no MAC address", m->container);
		for (size_t a = 0; a < m->endpoints[e].n_addresses; a++)
			if (!fm_is_ip_address(m->endpoints[e].addresses[a]))
				return fm_error_set(err, FM_E_INVALID_ARGUMENT, "\"%.64s\" of container '%s' is not an address",
				                    m->endpoints[e].addresses[a], m->container);
	}
	return 0;
}

static void plan_done(struct fm_intent_plan *p)
{
	json_decref(p->actions);
}

int fm_intent_compile(const struct fm_description *d, const struct fm_intent *i, const struct fm_intent_move *m, json_t **ret,
                      struct fm_error *err)
{
	_fm_cleanup_(plan_done) struct fm_intent_plan p = { .d = d, .i = i, .m = m, .actions = json_array() };

	if (check_move(m, err) < 0)
		return -1;
	if (!fm_plan_moves(&p))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a move of '%s' from '%s' to itself", m->container, m->source);
	for (size_t s = 0; s < FM_ARRAY_SIZE(steps); s++)
		if (steps[s](&p, err) < 0)
			return fm_error_prefix(err, "intent '%s'", i->service);
	*ret = FM_TAKE_PTR(p.actions);
	return 0;
}

int fm_intent_check(const struct fm_description *d, const struct fm_intent *i, const struct fm_intent_move *m, char ***ret,
                    struct fm_error *err)
{
	_fm_cleanup_(plan_done) struct fm_intent_plan p = { .d = d, .i = i, .m = m, .actions = json_array() };
	_fm_cleanup_(fm_strv_freep) char **problems = NULL;

	if (check_move(m, err) < 0)
		return -1;
	for (size_t s = 0; s < FM_ARRAY_SIZE(steps); s++) {
		struct fm_error e = FM_ERROR_INIT;

		if (steps[s](&p, &e) == 0)
			continue;
		if (e.code != FM_E_FAILED_PRECONDITION) {
			if (err)
				*err = e;
			return fm_error_prefix(err, "intent '%s'", i->service);
		}
		fm_strv_add(&problems, e.message);
	}
	*ret = FM_TAKE_PTR(problems);
	return 0;
}
