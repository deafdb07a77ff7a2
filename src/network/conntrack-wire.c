/* SPDX-License-Identifier: MIT */
/*
 * conntrack-wire.c - flows as bytes between the hosts. Strict: each value that the kernel of the destination will be given is checked here, and of two byte strings for the same flows one is refused.
 */
#include <arpa/inet.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <netinet/in.h>
#include <string.h>

#include "network/conntrack.h"

#define WIRE_VERSION 1
#define HEADER_BYTES 16
#define FIXED_BYTES  20 /* of an entry, without its addresses */
#define WSCALE_MAX   14 /* RFC 7323 */

#define STATUS_SEEN_REPLY 1u
#define STATUS_ASSURED    2u
#define TCP_FLAGS         (IP_CT_TCP_FLAG_WINDOW_SCALE | IP_CT_TCP_FLAG_SACK_PERM)

static const uint8_t magic[4] = { 'F', 'M', 'C', 'T' };

static void put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, (uint16_t)(v >> 16));
	put16(p + 2, (uint16_t)v);
}

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static size_t address_bytes(int family)
{
	return family == AF_INET ? 4 : 16;
}

/* One machine's: not a group, nobody, everybody; the loopback's flows do not leave a container. */
static bool address_is_single(const struct fm_conntrack_address *a)
{
	struct in6_addr six;

	if (a->family == AF_INET)
		return a->bytes[0] != 0 && a->bytes[0] != 127 && a->bytes[0] < 224;
	memcpy(&six, a->bytes, sizeof(six));
	return a->family == AF_INET6 && !IN6_IS_ADDR_MULTICAST(&six) && !IN6_IS_ADDR_UNSPECIFIED(&six) && !IN6_IS_ADDR_LOOPBACK(&six) &&
	       !IN6_IS_ADDR_V4MAPPED(&six);
}

int fm_conntrack_address_parse(const char *text, struct fm_conntrack_address *ret, struct fm_error *err)
{
	struct fm_conntrack_address a = { .family = strchr(text, ':') ? AF_INET6 : AF_INET };

	if (inet_pton(a.family, text, a.bytes) != 1 || !address_is_single(&a))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "\"%.64s\" is not the address of one machine", text);
	*ret = a;
	return 0;
}

/* What is wrong with it, or NULL. */
static const char *flow_complaint(const struct fm_conntrack_flow *f)
{
	if (f->address[0].family != f->address[1].family || !address_is_single(&f->address[0]) || !address_is_single(&f->address[1]))
		return "an address is not one machine's";
	if (f->port[0] == 0 || f->port[1] == 0)
		return "a port is 0";
	if (f->timeout_s == 0 || f->timeout_s > FM_MAX_CONNTRACK_TIMEOUT_S)
		return "its time is not within limits";
	if (f->assured && !f->seen_reply)
		return "it is assured and was never answered";
	if (f->protocol != IPPROTO_TCP && f->protocol != IPPROTO_UDP)
		return "its protocol is neither TCP nor UDP";
	for (int i = 0; i < 2; i++) {
		if (f->protocol == IPPROTO_UDP && (f->tcp_state || f->tcp_flags[i] || f->tcp_wscale[i]))
			return "a UDP flow with a TCP state";
		if ((f->tcp_flags[i] & ~TCP_FLAGS) || f->tcp_wscale[i] > WSCALE_MAX)
			return "its TCP options are not possible";
		if (f->tcp_wscale[i] && !(f->tcp_flags[i] & IP_CT_TCP_FLAG_WINDOW_SCALE))
			return "a window scale without the option";
	}
	if (f->protocol == IPPROTO_TCP && (f->tcp_state < TCP_CONNTRACK_SYN_SENT || f->tcp_state > TCP_CONNTRACK_LAST_ACK))
		return "its TCP state is not one that lives";
	return NULL;
}

static size_t entry_encode(const struct fm_conntrack_flow *f, uint8_t *p)
{
	size_t n = address_bytes(f->address[0].family);

	p[0] = f->address[0].family == AF_INET ? 4 : 6;
	p[1] = f->protocol;
	p[2] = (uint8_t)((f->seen_reply ? STATUS_SEEN_REPLY : 0) | (f->assured ? STATUS_ASSURED : 0));
	p[3] = f->tcp_state;
	memcpy(p + 4, f->tcp_wscale, 2);
	memcpy(p + 6, f->tcp_flags, 2);
	put32(p + 8, f->timeout_s);
	put32(p + 12, f->mark);
	put16(p + 16, f->port[0]);
	put16(p + 18, f->port[1]);
	memcpy(p + FIXED_BYTES, f->address[0].bytes, n);
	memcpy(p + FIXED_BYTES + n, f->address[1].bytes, n);
	return FIXED_BYTES + 2 * n;
}

int fm_conntrack_encode(const struct fm_conntrack_flow *v, size_t n, uint32_t left_out, uint8_t **ret, size_t *ret_len,
                        struct fm_error *err)
{
	_fm_free_ uint8_t *p = NULL;
	size_t len = HEADER_BYTES;

	if (n > FM_MAX_CONNTRACK)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "%zu tracked connections, at most %d travel", n, FM_MAX_CONNTRACK);
	p = calloc(1, HEADER_BYTES + n * (FIXED_BYTES + 32));
	if (!p)
		return fm_error_errno(err, ENOMEM, "write down %zu tracked connections", n);
	memcpy(p, magic, sizeof(magic));
	p[4] = WIRE_VERSION;
	put32(p + 8, (uint32_t)n);
	put32(p + 12, left_out);
	for (size_t i = 0; i < n; i++) {
		const char *wrong = flow_complaint(&v[i]);

		if (wrong)
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "tracked connection %zu: %s", i, wrong);
		len += entry_encode(&v[i], p + len);
	}
	*ret = FM_TAKE_PTR(p);
	*ret_len = len;
	return 0;
}

/* The bytes of the entry, 0 when it is cut off or of no known family. */
static size_t entry_decode(const uint8_t *p, size_t left, struct fm_conntrack_flow *f)
{
	int family = left > 0 && p[0] == 4 ? AF_INET : left > 0 && p[0] == 6 ? AF_INET6 : AF_UNSPEC;
	size_t n = address_bytes(family);

	if (family == AF_UNSPEC || left < FIXED_BYTES + 2 * n || (p[2] & ~(STATUS_SEEN_REPLY | STATUS_ASSURED)))
		return 0;
	*f = (struct fm_conntrack_flow){ .protocol = p[1],
		                         .seen_reply = p[2] & STATUS_SEEN_REPLY,
		                         .assured = p[2] & STATUS_ASSURED,
		                         .tcp_state = p[3],
		                         .tcp_wscale = { p[4], p[5] },
		                         .tcp_flags = { p[6], p[7] },
		                         .timeout_s = get32(p + 8),
		                         .mark = get32(p + 12),
		                         .port = { get16(p + 16), get16(p + 18) } };
	for (size_t i = 0; i < 2; i++) {
		f->address[i].family = family;
		memcpy(f->address[i].bytes, p + FIXED_BYTES + i * n, n);
	}
	return FIXED_BYTES + 2 * n;
}

static int header_decode(const uint8_t *bytes, size_t len, uint32_t *ret_n, struct fm_error *err)
{
	static const uint8_t zero[3];

	if (len < HEADER_BYTES || memcmp(bytes, magic, sizeof(magic)) != 0)
		return fm_error_set(err, FM_E_DATA_LOSS, "tracked connections: not what a host writes");
	if (bytes[4] != WIRE_VERSION || memcmp(bytes + 5, zero, sizeof(zero)) != 0)
		return fm_error_set(err, FM_E_DATA_LOSS, "tracked connections: version %u, this is %d", bytes[4], WIRE_VERSION);
	*ret_n = get32(bytes + 8);
	if (*ret_n > FM_MAX_CONNTRACK)
		return fm_error_set(err, FM_E_DATA_LOSS, "%u tracked connections, at most %d travel", *ret_n, FM_MAX_CONNTRACK);
	/* before memory is taken for what is not there */
	if (*ret_n > (len - HEADER_BYTES) / (FIXED_BYTES + 8))
		return fm_error_set(err, FM_E_DATA_LOSS, "tracked connections: %u are told, %zu bytes have no room for them", *ret_n, len);
	return 0;
}

int fm_conntrack_decode(const uint8_t *bytes, size_t len, struct fm_conntrack_flow **ret, size_t *ret_n, uint32_t *ret_left_out,
                        struct fm_error *err)
{
	_fm_free_ struct fm_conntrack_flow *v = NULL;
	size_t at = HEADER_BYTES;
	uint32_t n = 0;

	if (header_decode(bytes, len, &n, err) < 0)
		return -1;
	v = calloc(n ? n : 1, sizeof(*v));
	if (!v)
		return fm_error_errno(err, ENOMEM, "read %u tracked connections", n);
	for (uint32_t i = 0; i < n; i++) {
		size_t took = entry_decode(bytes + at, len - at, &v[i]);
		const char *wrong = took ? flow_complaint(&v[i]) : "cut off, or of an unknown kind";

		if (wrong)
			return fm_error_set(err, FM_E_DATA_LOSS, "tracked connection %u: %s", i, wrong);
		at += took;
	}
	if (at != len)
		return fm_error_set(err, FM_E_DATA_LOSS, "tracked connections: %zu bytes too many", len - at);
	*ret_left_out = get32(bytes + 12);
	*ret = FM_TAKE_PTR(v);
	*ret_n = n;
	return 0;
}
