/* SPDX-License-Identifier: MIT */
/*
 * dns.c - the operations of dns.h.
 *
 * The server's answer to an update may get lost, and we ask again: then the prerequisite does not hold any more, because we ourselves have made it so. So "the record is not what it was" always leads
 * to a look: if it is what it was to become, all is well, whoever did it. This is also what makes an undo harmless when it is done twice, or when its change never was.
 */
#include "network/dns.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/str.h"
#include "network/dns-internal.h"

#define VERIFY_PAUSE_MS 100

static int at_server(const struct fm_dns_call *c, const char *what, const char *owner, enum fm_dns_type type, struct fm_error *err)
{
	char server[80];

	fm_dns_server_text(c->zone, server);
	return fm_error_prefix(err, "name service at %s: %s %s %s", server, what, owner, fm_dns_type_to_string(type));
}

/* The record's owner, and that it is in a zone of ours. */
static int owner_of(const struct fm_dns_zone *z, const char *name, enum fm_dns_type type, char ret[FM_DNS_NAME_MAX + 1],
                    struct fm_error *err)
{
	const char *zone = type == FM_DNS_PTR ? z->reverse_zone : z->zone;

	if (type != FM_DNS_PTR || fm_dns_reverse_name(name, ret, NULL) < 0)
		if (fm_dns_name_parse(name, ret, err) < 0)
			return -1;
	if (fm_dns_name_is_in(ret, zone))
		return 0;
	if (!*zone)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "name service: %s: no reverse zone is configured", ret);
	return fm_error_set(err, FM_E_INVALID_ARGUMENT, "name service: %s is not in the zone %s", ret, zone);
}

/* ---- asking ---- */

static int ask(const struct fm_dns_call *c, const char *owner, enum fm_dns_type type, struct fm_dns_rrset *ret, struct fm_error *err)
{
	struct fm_dns_request request;
	struct fm_dns_answer a;

	if (fm_dns_encode_query(owner, type, &request, err) < 0 || fm_dns_exchange(c, &request, &a, err) < 0)
		return -1;
	if (a.rcode != FM_DNS_NOERROR && a.rcode != FM_DNS_NXDOMAIN)
		return fm_dns_rcode_error(c->zone, &a, err);
	if (!a.authoritative) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "the server is not an authority for it");
		return fm_error_hint(err, "name the zone's own server, not a resolver; a part of the zone may be delegated elsewhere");
	}
	if (a.alias)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "the name is an alias (CNAME): change what it leads to");
	if (a.too_many)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "more than %d values", FM_MAX_DNS_VALUES);
	*ret = a.rrset;
	return 0;
}

static int query_owner(const struct fm_dns_call *c, const char *owner, enum fm_dns_type type, struct fm_dns_rrset *ret,
                       struct fm_error *err)
{
	return ask(c, owner, type, ret, err) < 0 ? at_server(c, "asking for", owner, type, err) : 0;
}

int fm_dns_query(const struct fm_dns_call *c, const char *name, enum fm_dns_type type, struct fm_dns_rrset *ret, struct fm_error *err)
{
	char owner[FM_DNS_NAME_MAX + 1];

	return owner_of(c->zone, name, type, owner, err) < 0 ? -1 : query_owner(c, owner, type, ret, err);
}

static bool is_value(const struct fm_dns_rrset *s, const char *value)
{
	return *value ? s->n == 1 && strcmp(s->value[0], value) == 0 : s->n == 0;
}

/* For people. */
static void values_text(const struct fm_dns_rrset *s, char *ret, size_t cap)
{
	(void)snprintf(ret, cap, s->n == 0 ? "absent" : s->n == 1 ? "%.200s" : "%.200s and %zu more", s->value[0], s->n - 1);
}

int fm_dns_verify(const struct fm_dns_call *c, const char *name, enum fm_dns_type type, const char *value, struct fm_error *err)
{
	char owner[FM_DNS_NAME_MAX + 1], wanted[FM_DNS_NAME_MAX + 1] = "", seen[256] = "not known";
	uint64_t next_ms;

	if (owner_of(c->zone, name, type, owner, err) < 0 || (*value && fm_dns_value_parse(type, value, wanted, err) < 0))
		return -1;
	for (;;) {
		struct fm_error why = FM_ERROR_INIT;
		struct fm_dns_rrset now = { 0 };

		next_ms = fm_now_ms() + VERIFY_PAUSE_MS;
		if (query_owner(c, owner, type, &now, &why) == 0) {
			if (is_value(&now, wanted))
				return 0;
			values_text(&now, seen, sizeof(seen));
		} else if (why.code != FM_E_UNAVAILABLE && why.code != FM_E_DATA_LOSS) {
			if (err)
				*err = why;
			return -1;
		}
		if (next_ms >= c->deadline_ms)
			break;
		if (fm_dns_wait(-1, 0, next_ms, c->cancel_fd, err) < 0)
			return -1;
	}
	(void)fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "it is still %s, not %s", seen, *wanted ? wanted : "absent");
	return at_server(c, "verifying", owner, type, err);
}

/* ---- planning ---- */

static int single_check(const struct fm_dns_rrset *now, struct fm_error *err)
{
	char seen[256];

	if (now->n <= 1)
		return 0;
	values_text(now, seen, sizeof(seen));
	(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "it is %s: only a record with one value can be changed", seen);
	return fm_error_hint(err, "give the container a name of its own");
}

static int plan_check(const struct fm_dns_change *p, const struct fm_dns_rrset *now, const char *old, struct fm_error *err)
{
	char expected[FM_DNS_NAME_MAX + 1] = "", seen[256];

	values_text(now, seen, sizeof(seen));
	if (old && *old && fm_dns_value_parse(p->type, old, expected, err) < 0)
		return -1;
	if (old && !is_value(now, expected))
		return fm_error_set(err, FM_E_ABORTED, "it is %s, not %s", seen, *expected ? expected : "absent");
	if (single_check(now, err) < 0)
		return -1;
	if (now->n == 0 && !p->to.value[0])
		return fm_error_set(err, FM_E_NOT_FOUND, "there is no such record to remove");
	return 0;
}

static int ttl_check(uint32_t ttl_s, struct fm_error *err)
{
	if (ttl_s <= FM_DNS_TTL_MAX)
		return 0;
	return fm_error_set(err, FM_E_INVALID_ARGUMENT, "name service: a time to live of %u s, at most %d are possible", ttl_s,
	                    FM_DNS_TTL_MAX);
}

static void take_from(struct fm_dns_change *p, const struct fm_dns_rrset *now)
{
	if (now->n == 0)
		return;
	memcpy(p->from.value, now->value[0], sizeof(p->from.value));
	p->from.ttl_s = now->ttl_s;
}

int fm_dns_plan_replace(const struct fm_dns_call *c, const char *name, enum fm_dns_type type, const char *old, const char *value,
                        uint32_t ttl_s, struct fm_dns_change *ret, struct fm_error *err)
{
	struct fm_dns_change p = { .type = type };
	struct fm_dns_rrset now = { 0 };

	if (owner_of(c->zone, name, type, p.name, err) < 0 || ttl_check(ttl_s, err) < 0 ||
	    (*value && fm_dns_value_parse(type, value, p.to.value, err) < 0) || query_owner(c, p.name, type, &now, err) < 0)
		return -1;
	if (plan_check(&p, &now, old, err) < 0)
		return at_server(c, "replacing", p.name, type, err);
	take_from(&p, &now);
	p.to.ttl_s = *value ? ttl_s : 0;
	if (fm_dns_change_check(&p, err) < 0)
		return -1;
	*ret = p;
	return 0;
}

int fm_dns_plan_ttl(const struct fm_dns_call *c, const char *name, enum fm_dns_type type, uint32_t ttl_s, struct fm_dns_change *ret,
                    struct fm_error *err)
{
	struct fm_dns_change p = { .type = type };
	struct fm_dns_rrset now = { 0 };

	if (owner_of(c->zone, name, type, p.name, err) < 0 || ttl_check(ttl_s, err) < 0 || query_owner(c, p.name, type, &now, err) < 0)
		return -1;
	if (now.n == 0)
		(void)fm_error_set(err, FM_E_NOT_FOUND, "there is no such record");
	if (now.n == 0 || single_check(&now, err) < 0)
		return at_server(c, "the time to live of", p.name, type, err);
	take_from(&p, &now);
	p.to = p.from;
	p.to.ttl_s = ttl_s;
	if (fm_dns_change_check(&p, err) < 0)
		return -1;
	*ret = p;
	return 0;
}

/* ---- changing ---- */

static bool changes_ttl_only(const struct fm_dns_change *p)
{
	return strcmp(p->from.value, p->to.value) == 0;
}

static int conflict(const struct fm_dns_change *p, const struct fm_dns_rrset *now, struct fm_error *err)
{
	char seen[256];

	values_text(now, seen, sizeof(seen));
	(void)fm_error_set(err, FM_E_ABORTED, "it is %s with %u s to live, neither %s (%u s) as before nor %s (%u s) as wanted", seen,
	                   now->ttl_s, p->from.value[0] ? p->from.value : "absent", p->from.ttl_s, p->to.value[0] ? p->to.value : "absent",
	                   p->to.ttl_s);
	return fm_error_hint(err, "somebody else has changed the record; it was left as it is");
}

/* The server compares values only. 1: has been done already, 0: go on. */
static int compare_ttl(const struct fm_dns_call *c, const struct fm_dns_change *p, struct fm_error *err)
{
	struct fm_dns_rrset now = { 0 };

	if (ask(c, p->name, p->type, &now, err) < 0)
		return -1;
	if (is_value(&now, p->to.value) && now.ttl_s == p->to.ttl_s)
		return 1;
	if (!is_value(&now, p->from.value) || now.ttl_s != p->from.ttl_s)
		return conflict(p, &now, err);
	return 0;
}

/* The prerequisite did not hold. */
static int look(const struct fm_dns_call *c, const struct fm_dns_change *p, struct fm_error *err)
{
	struct fm_dns_rrset now = { 0 };

	if (ask(c, p->name, p->type, &now, err) < 0)
		return -1;
	return is_value(&now, p->to.value) ? 0 : conflict(p, &now, err);
}

static int swap(const struct fm_dns_call *c, const struct fm_dns_change *p, enum fm_dns_outcome *ret, struct fm_error *err)
{
	const char *zone = p->type == FM_DNS_PTR ? c->zone->reverse_zone : c->zone->zone;
	struct fm_dns_request request;
	struct fm_dns_answer a;
	int done = changes_ttl_only(p) ? compare_ttl(c, p, err) : 0;

	*ret = FM_DNS_DONE_ALREADY;
	if (done != 0)
		return done < 0 ? -1 : 0;
	if (fm_dns_encode_update(zone, p, &request, err) < 0 || fm_dns_exchange(c, &request, &a, err) < 0)
		return -1;
	if (a.rcode == FM_DNS_NXRRSET || a.rcode == FM_DNS_YXRRSET)
		return look(c, p, err);
	*ret = FM_DNS_DONE;
	return fm_dns_rcode_error(c->zone, &a, err);
}

static int changeable(const struct fm_dns_call *c, const struct fm_dns_change *change, struct fm_error *err)
{
	char owner[FM_DNS_NAME_MAX + 1];

	if (fm_dns_change_check(change, err) < 0 || owner_of(c->zone, change->name, change->type, owner, err) < 0)
		return -1;
	if (!c->zone->key_name[0])
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "name service: %s cannot be changed without a key", change->name);
	return 0;
}

static int ask_whether(const struct fm_dns_call *c, const struct fm_dns_change *p, struct fm_error *err)
{
	const char *zone = p->type == FM_DNS_PTR ? c->zone->reverse_zone : c->zone->zone;
	struct fm_dns_request request;
	struct fm_dns_answer a;

	if (fm_dns_encode_rehearsal(zone, p, &request, err) < 0 || fm_dns_exchange(c, &request, &a, err) < 0)
		return -1;
	if (a.rcode == FM_DNS_NXRRSET || a.rcode == FM_DNS_YXRRSET)
		return 0;
	if (a.rcode == FM_DNS_NOERROR)
		return fm_error_set(err, FM_E_UNIMPLEMENTED, "the server does not look at the conditions of an update");
	return fm_dns_rcode_error(c->zone, &a, err);
}

int fm_dns_rehearse(const struct fm_dns_call *c, const struct fm_dns_change *change, struct fm_error *err)
{
	if (changeable(c, change, err) < 0)
		return -1;
	return ask_whether(c, change, err) < 0 ? at_server(c, "may we change", change->name, change->type, err) : 0;
}

int fm_dns_apply(const struct fm_dns_call *c, const struct fm_dns_change *change, enum fm_dns_outcome *ret, struct fm_error *err)
{
	enum fm_dns_outcome outcome;

	if (changeable(c, change, err) < 0)
		return -1;
	if (swap(c, change, &outcome, err) < 0)
		return at_server(c, "changing", change->name, change->type, err);
	if (ret)
		*ret = outcome;
	return 0;
}
