/* SPDX-License-Identifier: MIT */
/*
 * dns-wire.c - messages: questions and updates out, answers in.
 *
 * Records and names are ldns's to build and to take apart. Ours is the walk over the message, with its own limits: at most one question, FM_MAX_DNS_RECORDS records, a signature only as the last of
 * them, and nothing behind it. Where the signature begins is known from that walk; its fields are read here, with bounds, because ldns keeps copies of some only.
 */
/* Before ldns: its headers make bool a signed char otherwise, with which "flags & 0x80" is not a truth but a number. */
#include <stdbool.h>

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <ldns/ldns.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#include "basic/cleanup.h"
#include "network/dns-internal.h"

FM_DEFINE_CLEANUP(ldns_pkt *, ldns_pkt_free);
FM_DEFINE_CLEANUP(ldns_rr *, ldns_rr_free);
FM_DEFINE_CLEANUP(ldns_rdf *, ldns_rdf_deep_free);

/* ---- out ---- */

static int no_memory(struct fm_error *err)
{
	return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "name service: the request cannot be made: out of memory");
}

static ldns_rdf_type rdf_type(enum fm_dns_type type)
{
	return type == FM_DNS_A ? LDNS_RDF_TYPE_A : type == FM_DNS_AAAA ? LDNS_RDF_TYPE_AAAA : LDNS_RDF_TYPE_DNAME;
}

/* value NULL or "": a record without data, as prerequisites and deletions have it. */
static int push_record(ldns_pkt *p, ldns_pkt_section section, const struct fm_dns_change *c, int class, uint32_t ttl_s, const char *value,
                       struct fm_error *err)
{
	_fm_cleanup_(ldns_rr_freep) ldns_rr *rr = ldns_rr_new();
	ldns_rdf *owner = ldns_rdf_new_frm_str(LDNS_RDF_TYPE_DNAME, c->name), *data;

	if (!rr || !owner) {
		ldns_rdf_deep_free(owner);
		return no_memory(err);
	}
	ldns_rr_set_owner(rr, owner);
	ldns_rr_set_type(rr, (ldns_rr_type)c->type);
	ldns_rr_set_class(rr, (ldns_rr_class) class);
	ldns_rr_set_ttl(rr, ttl_s);
	if (value && *value) {
		data = ldns_rdf_new_frm_str(rdf_type(c->type), value);
		if (!data || !ldns_rr_push_rdf(rr, data)) {
			ldns_rdf_deep_free(data);
			return no_memory(err);
		}
	}
	if (!ldns_pkt_push_rr(p, section, rr))
		return no_memory(err);
	rr = NULL;
	return 0;
}

static ldns_pkt *packet_new(const char *name, int type, int opcode, struct fm_dns_request *r)
{
	ldns_rdf *owner = ldns_rdf_new_frm_str(LDNS_RDF_TYPE_DNAME, name);
	ldns_pkt *p = owner ? ldns_pkt_query_new(owner, (ldns_rr_type)type, LDNS_RR_CLASS_IN, 0) : NULL;

	if (!p) {
		ldns_rdf_deep_free(owner);
		return NULL;
	}
	*r = (struct fm_dns_request){ .opcode = opcode, .qtype = (uint16_t)type };
	memcpy(r->question, name, strlen(name) + 1);
	/* nobody who does not see the request may guess it */
	if (getrandom(&r->id, sizeof(r->id), 0) != sizeof(r->id))
		abort();
	ldns_pkt_set_id(p, r->id);
	ldns_pkt_set_opcode(p, (ldns_pkt_opcode)opcode);
	return p;
}

static int packet_encode(const ldns_pkt *p, struct fm_dns_request *r, struct fm_error *err)
{
	_fm_free_ uint8_t *wire = NULL;
	size_t n = 0;
	ldns_status s = ldns_pkt2wire(&wire, p, &n);

	if (s != LDNS_STATUS_OK || n > sizeof(r->wire))
		return fm_error_set(err, FM_E_INTERNAL, "name service: the request cannot be encoded: %s", ldns_get_errorstr_by_id(s));
	memcpy(r->wire, wire, n);
	r->len = n;
	return 0;
}

int fm_dns_encode_query(const char *name, enum fm_dns_type type, struct fm_dns_request *ret, struct fm_error *err)
{
	_fm_cleanup_(ldns_pkt_freep) ldns_pkt *p = packet_new(name, (int)type, FM_DNS_OP_QUERY, ret);

	return p ? packet_encode(p, ret, err) : no_memory(err);
}

int fm_dns_encode_update(const char *zone, const struct fm_dns_change *c, struct fm_dns_request *ret, struct fm_error *err)
{
	_fm_cleanup_(ldns_pkt_freep) ldns_pkt *p = packet_new(zone, FM_DNS_TYPE_SOA, FM_DNS_OP_UPDATE, ret);
	bool was = c->from.value[0], will = c->to.value[0];

	if (!p)
		return no_memory(err);
	/* The set of records has exactly this value, or there is none: RFC 2136, 2.4.2 and 2.4.3. ldns calls the sections by their names in questions. */
	if (push_record(p, LDNS_SECTION_ANSWER, c, was ? FM_DNS_CLASS_IN : FM_DNS_CLASS_NONE, 0, c->from.value, err) < 0)
		return -1;
	if (was && push_record(p, LDNS_SECTION_AUTHORITY, c, FM_DNS_CLASS_ANY, 0, NULL, err) < 0)
		return -1;
	if (will && push_record(p, LDNS_SECTION_AUTHORITY, c, FM_DNS_CLASS_IN, c->to.ttl_s, c->to.value, err) < 0)
		return -1;
	return packet_encode(p, ret, err);
}

int fm_dns_encode_rehearsal(const char *zone, const struct fm_dns_change *c, struct fm_dns_request *ret, struct fm_error *err)
{
	_fm_cleanup_(ldns_pkt_freep) ldns_pkt *p = packet_new(zone, FM_DNS_TYPE_SOA, FM_DNS_OP_UPDATE, ret);

	if (!p)
		return no_memory(err);
	/* RFC 2136, 2.4.1 and 2.4.3 */
	if (push_record(p, LDNS_SECTION_ANSWER, c, FM_DNS_CLASS_ANY, 0, NULL, err) < 0 ||
	    push_record(p, LDNS_SECTION_ANSWER, c, FM_DNS_CLASS_NONE, 0, NULL, err) < 0 ||
	    push_record(p, LDNS_SECTION_AUTHORITY, c, FM_DNS_CLASS_ANY, 0, NULL, err) < 0)
		return -1;
	if (c->from.value[0] && push_record(p, LDNS_SECTION_AUTHORITY, c, FM_DNS_CLASS_IN, c->from.ttl_s, c->from.value, err) < 0)
		return -1;
	return packet_encode(p, ret, err);
}

/* ---- in ---- */

struct walk {
	const uint8_t *wire;
	size_t n, at;
	const struct fm_dns_zone *zone;
	const struct fm_dns_request *request;
	struct fm_dns_answer *answer;
};

static unsigned be16(const uint8_t *p)
{
	return (unsigned)p[0] << 8 | p[1];
}

static uint64_t be48(const uint8_t *p)
{
	return (uint64_t)be16(p) << 32 | (uint64_t)be16(p + 2) << 16 | be16(p + 4);
}

static int damaged(const char *what, struct fm_error *err)
{
	return fm_error_set(err, FM_E_DATA_LOSS, "name service: the answer is damaged: %s", what);
}

/* Without the dot at the end, in small letters; what is too long or not printable as a name becomes "?", which no name is. */
static void name_text(const ldns_rdf *name, char ret[FM_DNS_NAME_MAX + 1])
{
	_fm_free_ char *text = name ? ldns_rdf2str(name) : NULL;
	size_t n = text ? strlen(text) : 0;

	if (n && text[n - 1] == '.')
		n--;
	memcpy(ret, "?", 2);
	if (n == 0 || n > FM_DNS_NAME_MAX)
		return;
	for (size_t i = 0; i < n; i++) {
		if (!isgraph((unsigned char)text[i])) {
			memcpy(ret, "?", 2);
			return;
		}
		ret[i] = (char)tolower((unsigned char)text[i]);
	}
	ret[n] = '\0';
}

static bool name_is(const ldns_rdf *name, const char *canonical)
{
	char text[FM_DNS_NAME_MAX + 1];

	name_text(name, text);
	return strcmp(text, canonical) == 0;
}

static int take_question(struct walk *w, struct fm_error *err)
{
	_fm_cleanup_(ldns_rr_freep) ldns_rr *rr = NULL;

	if (ldns_wire2rr(&rr, w->wire, w->n, &w->at, LDNS_SECTION_QUESTION) != LDNS_STATUS_OK)
		return damaged("its question", err);
	w->answer->has_question = true;
	w->answer->question_matches = name_is(ldns_rr_owner(rr), w->request->question) &&
	                              (unsigned)ldns_rr_get_type(rr) == w->request->qtype && (int)ldns_rr_get_class(rr) == FM_DNS_CLASS_IN;
	return 0;
}

/* A record of the answer's own section. */
static int take_value(struct walk *w, const ldns_rr *rr, struct fm_error *err)
{
	struct fm_dns_rrset *set = &w->answer->rrset;
	unsigned type = (unsigned)ldns_rr_get_type(rr);
	const ldns_rdf *data = ldns_rr_rd_count(rr) == 1 ? ldns_rr_rdf(rr, 0) : NULL;
	char value[FM_DNS_NAME_MAX + 1];

	if ((int)ldns_rr_get_class(rr) != FM_DNS_CLASS_IN || !name_is(ldns_rr_owner(rr), w->request->question))
		return 0;
	if (type == FM_DNS_TYPE_CNAME)
		w->answer->alias = true;
	if (type != w->request->qtype || w->request->opcode != FM_DNS_OP_QUERY)
		return 0;
	if (!data || (type == FM_DNS_A && ldns_rdf_size(data) != 4) || (type == FM_DNS_AAAA && ldns_rdf_size(data) != 16))
		return damaged("a record without a value", err);
	if (type == FM_DNS_PTR)
		name_text(data, value);
	else if (!inet_ntop(type == FM_DNS_A ? AF_INET : AF_INET6, ldns_rdf_data(data), value, sizeof(value)))
		return damaged("a value", err);
	if (set->n == FM_MAX_DNS_VALUES) {
		w->answer->too_many = true;
		return 0;
	}
	memcpy(set->value[set->n], value, sizeof(value));
	if (set->n == 0 || ldns_rr_ttl(rr) < set->ttl_s)
		set->ttl_s = ldns_rr_ttl(rr);
	set->n++;
	return 0;
}

static bool take_name(struct walk *w, size_t *at, size_t end, const char *expected, bool *ret_matches)
{
	_fm_cleanup_(ldns_rdf_deep_freep) ldns_rdf *name = NULL;

	if (ldns_wire2dname(&name, w->wire, end, at) != LDNS_STATUS_OK || *at > end)
		return false;
	*ret_matches = name_is(name, expected);
	return true;
}

static bool take_bytes(const struct walk *w, size_t *at, const uint8_t **ret, size_t *ret_len)
{
	size_t n;

	if (w->n - *at < 2)
		return false;
	n = be16(w->wire + *at);
	*at += 2;
	if (w->n - *at < n)
		return false;
	*ret = w->wire + *at;
	*ret_len = n;
	*at += n;
	return true;
}

/* The record from `at` to the message's end. */
static int take_signature(struct walk *w, size_t at, struct fm_error *err)
{
	struct fm_dns_tsig *t = &w->answer->tsig;

	t->offset = at;
	if (!take_name(w, &at, w->n, w->zone->key_name, &t->key_matches) || w->n - at < 10)
		return damaged("its signature's name", err);
	if (be16(w->wire + at + 2) != FM_DNS_CLASS_ANY || be16(w->wire + at + 4) || be16(w->wire + at + 6) ||
	    be16(w->wire + at + 8) != w->n - at - 10)
		return damaged("its signature's header", err);
	at += 10;
	if (!take_name(w, &at, w->n, fm_dns_algorithm_name(w->zone->algorithm), &t->algorithm_matches) || w->n - at < 8)
		return damaged("its signature's algorithm", err);
	t->time_s = be48(w->wire + at);
	t->fudge_s = (uint16_t)be16(w->wire + at + 6);
	at += 8;
	if (!take_bytes(w, &at, &t->mac, &t->mac_len) || w->n - at < 4)
		return damaged("its signature", err);
	t->original_id = (uint16_t)be16(w->wire + at);
	t->error = (uint16_t)be16(w->wire + at + 2);
	at += 4;
	if (!take_bytes(w, &at, &t->other, &t->other_len) || at != w->n)
		return damaged("its signature's end", err);
	if (t->error == FM_DNS_BADTIME && t->other_len == 6)
		t->server_time_s = be48(t->other);
	t->present = true;
	return 0;
}

static int take_records(struct walk *w, unsigned count, ldns_pkt_section section, bool may_be_signed, struct fm_error *err)
{
	for (unsigned i = 0; i < count; i++) {
		_fm_cleanup_(ldns_rr_freep) ldns_rr *rr = NULL;
		size_t begin = w->at;

		if (ldns_wire2rr(&rr, w->wire, w->n, &w->at, section) != LDNS_STATUS_OK)
			return damaged("one of its records", err);
		if (section == LDNS_SECTION_ANSWER && take_value(w, rr, err) < 0)
			return -1;
		if ((int)ldns_rr_get_type(rr) != FM_DNS_TYPE_TSIG)
			continue;
		if (!may_be_signed || i + 1 < count)
			return damaged("a signature in the middle", err);
		if (take_signature(w, begin, err) < 0)
			return -1;
	}
	return 0;
}

int fm_dns_decode(const uint8_t *wire, size_t n, const struct fm_dns_zone *zone, const struct fm_dns_request *request,
                  struct fm_dns_answer *ret, struct fm_error *err)
{
	struct walk w = { .wire = wire, .n = n, .at = FM_DNS_HEADER_BYTES, .zone = zone, .request = request, .answer = ret };
	unsigned count[4];

	*ret = (struct fm_dns_answer){ 0 };
	if (n < FM_DNS_HEADER_BYTES)
		return damaged("it is shorter than a header", err);
	for (unsigned i = 0; i < 4; i++)
		count[i] = be16(wire + 4 + 2 * i);
	ret->id = (uint16_t)be16(wire);
	ret->response = wire[2] & 0x80;
	ret->opcode = wire[2] >> 3 & 15;
	ret->authoritative = wire[2] & 4;
	ret->truncated = wire[2] & 2;
	ret->rcode = wire[3] & 15;
	if (count[0] > 1)
		return damaged("more than one question", err);
	if (count[1] + count[2] + count[3] > FM_MAX_DNS_RECORDS)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "name service: the answer has %u records, %d are looked at",
		                    count[1] + count[2] + count[3], FM_MAX_DNS_RECORDS);
	if (count[0] && take_question(&w, err) < 0)
		return -1;
	if (take_records(&w, count[1], LDNS_SECTION_ANSWER, false, err) < 0 ||
	    take_records(&w, count[2], LDNS_SECTION_AUTHORITY, false, err) < 0 ||
	    take_records(&w, count[3], LDNS_SECTION_ADDITIONAL, true, err) < 0)
		return -1;
	if (w.at != n)
		return damaged("something behind its end", err);
	ret->verified = fm_dns_tsig_matches(zone, request, wire, &ret->tsig);
	return 0;
}
