/* SPDX-License-Identifier: MIT */
/*
 * dns-tsig.c - transaction signatures, RFC 8945.
 *
 * What is signed: for an answer the request's MAC first (so it is this request's answer); the message as if the signature's record were not in it; the record's own fields. MACs are never cut short:
 * a shorter one than the algorithm's does not match.
 */
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/str.h"
#include "network/dns-internal.h"

static const EVP_MD *digest(enum fm_dns_algorithm a)
{
	switch (a) {
	case FM_DNS_HMAC_SHA1:
		return EVP_sha1();
	case FM_DNS_HMAC_SHA224:
		return EVP_sha224();
	case FM_DNS_HMAC_SHA384:
		return EVP_sha384();
	case FM_DNS_HMAC_SHA512:
		return EVP_sha512();
	default:
		return EVP_sha256();
	}
}

static void add_be(struct fm_buf *b, uint64_t v, unsigned bytes)
{
	uint8_t out[8];

	for (unsigned i = 0; i < bytes; i++)
		out[i] = (uint8_t)(v >> (8 * (bytes - 1 - i)));
	fm_buf_add(b, out, bytes);
}

static void add_name(struct fm_buf *b, const char *name)
{
	uint8_t wire[FM_DNS_NAME_MAX + 2];

	fm_buf_add(b, wire, fm_dns_name_to_wire(name, wire));
}

/* The fields of the record that are signed along. */
static void add_variables(struct fm_buf *b, const struct fm_dns_zone *zone, const struct fm_dns_tsig *t)
{
	add_name(b, zone->key_name);
	add_be(b, FM_DNS_CLASS_ANY, 2);
	add_be(b, 0, 4);
	add_name(b, fm_dns_algorithm_name(zone->algorithm));
	add_be(b, t->time_s, 6);
	add_be(b, t->fudge_s, 2);
	add_be(b, t->error, 2);
	add_be(b, t->other_len, 2);
	fm_buf_add(b, t->other, t->other_len);
}

static bool mac_of(const struct fm_dns_zone *zone, const struct fm_buf *text, uint8_t ret[FM_DNS_MAC_MAX], size_t *ret_len)
{
	unsigned n = 0;

	if (!HMAC(digest(zone->algorithm), zone->secret, (int)zone->secret_len, (const unsigned char *)text->data, text->len, ret, &n))
		return false;
	*ret_len = n;
	return true;
}

/* The record behind the message. */
static void add_record(struct fm_buf *b, const struct fm_dns_zone *zone, const struct fm_dns_request *r, const struct fm_dns_tsig *t)
{
	_fm_buf_ struct fm_buf data = FM_BUF_INIT;

	add_name(&data, fm_dns_algorithm_name(zone->algorithm));
	add_be(&data, t->time_s, 6);
	add_be(&data, t->fudge_s, 2);
	add_be(&data, r->mac_len, 2);
	fm_buf_add(&data, r->mac, r->mac_len);
	add_be(&data, r->id, 2);
	add_be(&data, 0, 2); /* no error */
	add_be(&data, 0, 2); /* nothing else */
	add_name(b, zone->key_name);
	add_be(b, FM_DNS_TYPE_TSIG, 2);
	add_be(b, FM_DNS_CLASS_ANY, 2);
	add_be(b, 0, 4);
	add_be(b, data.len, 2);
	fm_buf_add(b, data.data, data.len);
}

int fm_dns_tsig_sign(const struct fm_dns_zone *zone, uint64_t now_s, struct fm_dns_request *r, struct fm_error *err)
{
	struct fm_dns_tsig t = { .time_s = now_s, .fudge_s = FM_DNS_FUDGE_S, .other = (const uint8_t *)"" };
	_fm_buf_ struct fm_buf text = FM_BUF_INIT, record = FM_BUF_INIT;

	fm_buf_add(&text, r->wire, r->len);
	add_variables(&text, zone, &t);
	if (!mac_of(zone, &text, r->mac, &r->mac_len))
		return fm_error_set(err, FM_E_INTERNAL, "name service: the request cannot be signed with %s",
		                    fm_dns_algorithm_name(zone->algorithm));
	add_record(&record, zone, r, &t);
	if (record.len > sizeof(r->wire) - r->len)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "name service: the request has more than %zu bytes", sizeof(r->wire));
	memcpy(r->wire + r->len, record.data, record.len);
	r->len += record.len;
	r->wire[11]++; /* additional records: none before */
	return 0;
}

bool fm_dns_tsig_matches(const struct fm_dns_zone *zone, const struct fm_dns_request *request, const uint8_t *wire,
                         const struct fm_dns_tsig *t)
{
	_fm_buf_ struct fm_buf text = FM_BUF_INIT;
	uint8_t mac[FM_DNS_MAC_MAX];
	unsigned additional = ((unsigned)wire[10] << 8 | wire[11]) - 1;
	size_t n;

	if (!t->present || !t->key_matches || !t->algorithm_matches || !zone->key_name[0])
		return false;
	add_be(&text, request->mac_len, 2);
	fm_buf_add(&text, request->mac, request->mac_len);
	add_be(&text, t->original_id, 2);
	fm_buf_add(&text, wire + 2, 8);
	add_be(&text, additional, 2);
	fm_buf_add(&text, wire + FM_DNS_HEADER_BYTES, t->offset - FM_DNS_HEADER_BYTES);
	add_variables(&text, zone, t);
	return mac_of(zone, &text, mac, &n) && t->mac_len == n && CRYPTO_memcmp(mac, t->mac, n) == 0;
}
