/* SPDX-License-Identifier: MIT */
/* test-openflow-codec.c - OpenFlow messages there and back, bytes that are known from the specification, and a decoder that is fed with rubbish. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "basic/cleanup.h"
#include "network/openflow.h"

static uint8_t wire[FM_OF_MESSAGE_BYTES_MAX];
static size_t len;

static void encode(const struct fm_of_message *m)
{
	assert_ok(fm_of_encode(m, wire, sizeof(wire), &len, &err));
	assert_int_equal(len, wire[2] << 8 | wire[3]);
	assert_int_equal(wire[0], FM_OF_VERSION);
}

/* Encoded, decoded and encoded again: the same bytes. The first decoded one is returned. */
static struct fm_of_message there_and_back(const struct fm_of_message *m)
{
	static uint8_t again[FM_OF_MESSAGE_BYTES_MAX];
	struct fm_of_message back;
	size_t n;

	encode(m);
	assert_ok(fm_of_decode(wire, len, &back, &err));
	assert_int_equal(back.type, m->type);
	assert_int_equal(back.xid, m->xid);
	assert_ok(fm_of_encode(&back, again, sizeof(again), &n, &err));
	assert_int_equal(n, len);
	assert_memory_equal(again, wire, n);
	return back;
}

static struct fm_of_flow_mod full_ipv4_mod(void)
{
	struct fm_of_flow_mod f = { .command = FM_OF_ADD,
		                    .table = 3,
		                    .priority = 1000,
		                    .idle_timeout_s = 5,
		                    .hard_timeout_s = 60,
		                    .flags = FM_OF_CHECK_OVERLAP | FM_OF_SEND_FLOW_REM,
		                    .cookie = 0x0102030405060708,
		                    .cookie_mask = UINT64_MAX };

	f.match.has = FM_OF_IN_PORT | FM_OF_ETH_DST | FM_OF_ETH_SRC | FM_OF_ETH_TYPE | FM_OF_VLAN_VID | FM_OF_IPV4_SRC | FM_OF_IPV4_DST;
	f.match.in_port = 7;
	memcpy(f.match.eth_dst, "\x02\x77\x00\x00\x01\x00", 6);
	memcpy(f.match.eth_src, "\x02\x77\x00\x00\x02\x00", 6);
	f.match.eth_type = 0x0800;
	f.match.vlan_vid = 42;
	inet_pton(AF_INET, "10.77.0.100", &f.match.ipv4_dst);
	inet_pton(AF_INET, "10.77.0.3", &f.match.ipv4_src);
	f.actions.n = 5;
	f.actions.at[0] = (struct fm_of_action){ .kind = FM_OF_SET_ETH_DST, .mac = { 2, 0, 0, 0, 0, 1 } };
	f.actions.at[1] = (struct fm_of_action){ .kind = FM_OF_SET_ETH_SRC, .mac = { 2, 0, 0, 0, 0, 2 } };
	f.actions.at[2] = (struct fm_of_action){ .kind = FM_OF_SET_IPV4_DST, .ipv4 = f.match.ipv4_src };
	f.actions.at[3] = (struct fm_of_action){ .kind = FM_OF_GROUP, .number = 9 };
	f.actions.at[4] = (struct fm_of_action){ .kind = FM_OF_OUTPUT, .number = 12 };
	return f;
}

static void test_flow_mods(void **state)
{
	struct fm_of_message m = { .type = FM_OF_FLOW_MOD, .xid = 77, .flow_mod = full_ipv4_mod() }, back;

	back = there_and_back(&m);
	assert_memory_equal(&back.flow_mod.match, &m.flow_mod.match, sizeof(m.flow_mod.match));
	assert_int_equal(back.flow_mod.actions.n, 5);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(back.flow_mod.actions.at[i].kind, m.flow_mod.actions.at[i].kind);
	assert_int_equal(back.flow_mod.actions.at[4].number, 12);
	assert_int_equal(back.flow_mod.priority, 1000);
	assert_int_equal(back.flow_mod.hard_timeout_s, 60);
	assert_true(back.flow_mod.cookie == 0x0102030405060708);
	assert_false(back.flow_mod.match.more || back.flow_mod.actions.more);

	for (unsigned c = FM_OF_MODIFY; c <= FM_OF_DELETE_STRICT; c++) {
		m.flow_mod.command = (enum fm_of_command)c;
		if (c >= FM_OF_DELETE) {
			m.flow_mod.actions.n = 0;
			m.flow_mod.table = FM_OF_TABLE_ALL;
		}
		assert_int_equal(there_and_back(&m).flow_mod.command, c);
	}
	m.type = FM_OF_BUNDLE_ADD;
	struct fm_of_flow_mod mod = full_ipv4_mod();
	m.bundle_add.id = 5;
	m.bundle_add.flags = FM_OF_BUNDLE_ATOMIC | FM_OF_BUNDLE_ORDERED;
	m.bundle_add.flow_mod = mod;
	back = there_and_back(&m);
	assert_int_equal(back.bundle_add.id, 5);
	assert_memory_equal(&back.bundle_add.flow_mod.match, &mod.match, sizeof(mod.match));
}

static void test_ipv6_arp_and_vlan(void **state)
{
	struct fm_of_message m = { .type = FM_OF_FLOW_MOD, .xid = 1 }, back;
	struct fm_of_match *match = &m.flow_mod.match;

	match->has = FM_OF_ETH_TYPE | FM_OF_IPV6_SRC | FM_OF_IPV6_DST | FM_OF_VLAN_VID;
	match->eth_type = 0x86dd;
	match->vlan_vid = FM_OF_VLAN_NONE;
	inet_pton(AF_INET6, "fd77::100", &match->ipv6_dst);
	inet_pton(AF_INET6, "fd77::3", &match->ipv6_src);
	m.flow_mod.actions.n = 2;
	m.flow_mod.actions.at[0] = (struct fm_of_action){ .kind = FM_OF_SET_IPV6_DST, .ipv6 = match->ipv6_src };
	m.flow_mod.actions.at[1] = (struct fm_of_action){ .kind = FM_OF_OUTPUT, .number = FM_OF_PORT_LOCAL };
	back = there_and_back(&m);
	assert_memory_equal(&back.flow_mod.match, match, sizeof(*match));
	assert_memory_equal(&back.flow_mod.actions.at[0].ipv6, &match->ipv6_src, 16);
	match->vlan_vid = 0;
	assert_int_equal(there_and_back(&m).flow_mod.match.vlan_vid, 0); /* tagged with number 0 is not untagged */

	*match = (struct fm_of_match){ .has = FM_OF_ETH_TYPE | FM_OF_ARP_OP | FM_OF_ARP_SPA | FM_OF_ARP_TPA,
		                       .eth_type = 0x0806,
		                       .arp_op = 1 };
	inet_pton(AF_INET, "10.77.0.100", &match->arp_tpa);
	back = there_and_back(&m);
	assert_memory_equal(&back.flow_mod.match, match, sizeof(*match));
}

/* From the specification's tables, by hand */
static void test_bytes(void **state)
{
	static const uint8_t expected[] = {
		5,    14,   0,    104,  0,    0,    0,    9,                                              /* header */
		0,    0,    0,    0,    0,    0,    0,    1,    0,    0,    0,    0,    0,    0, 0,    0, /* cookie, mask */
		2,    0,    0,    0,    0,    0,    0x80, 0, /* table, ADD, time-outs, priority */
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0,    0, 0,    0, /* no buffer, port, group; flags, importance */
		0,    1,    0,    22,   0x80, 0,    0,    4,    0,    0,    0,    3,    0x80, 0, 0x06, 6, 2,
		0,    0,    0,    0,    1,    0,    0,                                                    /* match */
		0,    4,    0,    32,   0,    0,    0,    0,                                              /* apply */
		0,    22,   0,    8,    0,    0,    0,    6,                                              /* group */
		0,    0,    0,    16,   0,    0,    0,    8,    0,    0,    0,    0,    0,    0, 0,    0, /* output */
	};
	struct fm_of_message m = { .type = FM_OF_FLOW_MOD, .xid = 9 };

	m.flow_mod = (struct fm_of_flow_mod){ .cookie = 1, .table = 2, .priority = 0x8000 };
	m.flow_mod.match = (struct fm_of_match){ .has = FM_OF_IN_PORT | FM_OF_ETH_DST, .in_port = 3, .eth_dst = { 2, 0, 0, 0, 0, 1 } };
	m.flow_mod.actions.n = 2;
	m.flow_mod.actions.at[0] = (struct fm_of_action){ .kind = FM_OF_GROUP, .number = 6 };
	m.flow_mod.actions.at[1] = (struct fm_of_action){ .kind = FM_OF_OUTPUT, .number = 8 };
	encode(&m);
	assert_int_equal(len, sizeof(expected));
	assert_memory_equal(wire, expected, len);
}

static void test_small_messages(void **state)
{
	struct fm_of_message m = { .type = FM_OF_HELLO, .xid = 1, .hello.versions = 1u << 5 }, back;

	assert_int_equal(there_and_back(&m).hello.versions, 1u << 5);
	for (unsigned k = FM_OF_BUNDLE_OPEN; k <= FM_OF_BUNDLE_DISCARDED; k++) {
		m = (struct fm_of_message){ .type = FM_OF_BUNDLE_CONTROL, .xid = 2, .bundle = { 7, (enum fm_of_bundle_kind)k, 3 } };
		back = there_and_back(&m);
		assert_true(back.bundle.id == 7 && back.bundle.kind == k && back.bundle.flags == 3);
	}
	m = (struct fm_of_message){ .type = FM_OF_FEATURES_REPLY, .features = { 0x1122334455667788, 256, 0x4f, 254, 0 } };
	back = there_and_back(&m);
	assert_memory_equal(&back.features, &m.features, sizeof(m.features));
	m = (struct fm_of_message){ .type = FM_OF_ECHO_REQUEST, .xid = 3, .echo = { (const uint8_t *)"who", 3 } };
	back = there_and_back(&m);
	assert_memory_equal(back.echo.data, "who", 3);
	m = (struct fm_of_message){ .type = FM_OF_ROLE_REQUEST, .xid = 3, .role = { FM_OF_ROLE_MASTER, UINT64_MAX } };
	assert_true(there_and_back(&m).role.generation == UINT64_MAX);
	m = (struct fm_of_message){ .type = FM_OF_SET_ASYNC, .xid = 3, .async = { 1, 7, 2 } };
	back = there_and_back(&m);
	assert_true(back.async.packet_in == 1 && back.async.port_status == 7 && back.async.flow_removed == 2);
	m = (struct fm_of_message){ .type = FM_OF_SET_CONFIG, .xid = 3, .config = { 0, 128 } };
	assert_int_equal(there_and_back(&m).config.miss_send_bytes, 128);
	m = (struct fm_of_message){ .type = FM_OF_ERROR, .xid = 3, .error = { 5, 1, { (const uint8_t *)"xx", 2 } } };
	back = there_and_back(&m);
	assert_true(back.error.type == 5 && back.error.code == 1 && back.error.data.n == 2);
	m = (struct fm_of_message){ .type = FM_OF_MULTIPART_REQUEST, .multipart.kind = FM_OF_MULTIPART_FLOWS };
	m.multipart.filter = (struct fm_of_flow_filter){ .table = 1, .cookie = 4, .cookie_mask = 12, .match = full_ipv4_mod().match };
	assert_true(there_and_back(&m).multipart.filter.cookie_mask == 12);
	m.multipart.kind = FM_OF_MULTIPART_PORTS;
	there_and_back(&m);
	m = (struct fm_of_message){ .type = FM_OF_PORT_STATUS,
		                    .port_status = { FM_OF_PORT_MODIFIED, { 5, { 2, 0, 0, 0, 0, 9 }, "vnet5", false, true } } };
	back = there_and_back(&m);
	assert_string_equal(back.port_status.port.name, "vnet5");
	assert_true(back.port_status.port.link_down && !back.port_status.port.down);
}

static void refused(enum fm_code code, struct fm_of_flow_mod f)
{
	struct fm_of_message m = { .type = FM_OF_FLOW_MOD, .flow_mod = f };

	assert_code(code, fm_of_encode(&m, wire, sizeof(wire), &len, &err));
}

static void test_what_is_not_written(void **state)
{
	struct fm_of_flow_mod f = full_ipv4_mod(), good = f;
	struct fm_of_message m = { .type = FM_OF_FLOW_MOD, .flow_mod = good };

	f.match.eth_type = 0x86dd;
	refused(FM_E_INVALID_ARGUMENT, f);
	f = good;
	f.match.has &= ~(uint32_t)FM_OF_ETH_TYPE;
	refused(FM_E_INVALID_ARGUMENT, f);
	f = good;
	f.match.more = true;
	refused(FM_E_INVALID_ARGUMENT, f);
	f = good;
	f.actions.more = true;
	refused(FM_E_INVALID_ARGUMENT, f);
	f = good;
	f.match.vlan_vid = 4096;
	refused(FM_E_INVALID_ARGUMENT, f);
	f = good;
	f.match.in_port = 0;
	refused(FM_E_INVALID_ARGUMENT, f);
	f = good;
	f.actions.at[4].number = FM_OF_PORT_ANY;
	refused(FM_E_INVALID_ARGUMENT, f);
	f = good;
	f.actions.at[0].kind = (enum fm_of_action_kind)99;
	refused(FM_E_INVALID_ARGUMENT, f);
	f = good;
	f.table = FM_OF_TABLE_ALL;
	refused(FM_E_INVALID_ARGUMENT, f);
	f = good;
	f.command = FM_OF_DELETE;
	refused(FM_E_INVALID_ARGUMENT, f);
	f = good;
	f.command = (enum fm_of_command)5;
	refused(FM_E_INVALID_ARGUMENT, f);
	f = good;
	f.actions.n = FM_MAX_OF_ACTIONS + 1;
	refused(FM_E_RESOURCE_EXHAUSTED, f);
	encode(&m);
	size_t whole = len;
	for (size_t cap = 0; cap < whole; cap++)
		assert_code(FM_E_RESOURCE_EXHAUSTED, fm_of_encode(&m, wire, cap, &len, &err));
	m.type = FM_OF_OTHER;
	assert_code(FM_E_INVALID_ARGUMENT, fm_of_encode(&m, wire, sizeof(wire), &len, &err));
}

/* Every way to cut it, and every byte of it changed: refused with a reason, or taken; never read beyond its end (the sanitizer sees that, the copy is exact). */
static void mistreat(const uint8_t *message, size_t n)
{
	struct fm_of_message m;

	for (size_t cut = 0; cut < n; cut++) {
		_fm_free_ uint8_t *copy = malloc(cut ? cut : 1);
		memcpy(copy, message, cut);
		if (cut >= 4) {
			copy[2] = (uint8_t)(cut >> 8);
			copy[3] = (uint8_t)cut;
		}
		err = FM_ERROR_INIT;
		if (fm_of_decode(copy, cut, &m, &err) < 0)
			assert_true(err.code == FM_E_DATA_LOSS && err.message[0]);
	}
	for (size_t at = 0; at < n * 8; at++) {
		_fm_free_ uint8_t *copy = malloc(n);
		memcpy(copy, message, n);
		copy[at / 8] ^= (uint8_t)(1u << at % 8);
		err = FM_ERROR_INIT;
		if (fm_of_decode(copy, n, &m, &err) < 0)
			assert_true(err.code == FM_E_DATA_LOSS && err.message[0]);
	}
}

static void test_rubbish(void **state)
{
	struct fm_of_message m = { .type = FM_OF_BUNDLE_ADD, .xid = 4, .bundle_add = { .id = 1, .flow_mod = full_ipv4_mod() } };
	struct fm_of_message back;

	encode(&m);
	mistreat(wire, len);
	for (size_t cut = FM_OF_HEADER_BYTES; cut < len; cut++) { /* no shorter one of these is right */
		wire[2] = (uint8_t)(cut >> 8);
		wire[3] = (uint8_t)cut;
		assert_code(FM_E_DATA_LOSS, fm_of_decode(wire, cut, &back, &err));
	}
	m = (struct fm_of_message){ .type = FM_OF_PORT_STATUS, .port_status.port = { .number = 1, .name = "a" } };
	encode(&m);
	mistreat(wire, len);
	m = (struct fm_of_message){ .type = FM_OF_HELLO, .hello.versions = 0x20 };
	encode(&m);
	mistreat(wire, len);

	static const struct {
		uint8_t bytes[24];
		size_t n;
	} bad[] = {
		{ { 5, 0, 0, 7, 0, 0, 0, 0 }, 8 },                            /* shorter than a header */
		{ { 4, 20, 0, 8, 0, 0, 0, 0 }, 8 },                           /* another version's */
		{ { 5, 35, 0, 8, 0, 0, 0, 0 }, 8 },                           /* no such type */
		{ { 5, 21, 0, 9, 0, 0, 0, 0, 1 }, 9 },                        /* a body where none belongs */
		{ { 5, 12, 0, 16, 0, 0, 0, 0, 3 }, 16 },                      /* no such reason */
		{ { 5, 33, 0, 16, 0, 0, 0, 0, 0, 0, 0, 1, 0, 8, 0, 0 }, 16 }, /* no such control */
		{ { 5, 0, 0, 16, 0, 0, 0, 0, 0, 1, 0, 4, 0, 0, 0, 0 }, 16 },  /* an empty list of versions */
		{ { 5, 0, 0, 12, 0, 0, 0, 0, 0, 9, 0, 3 }, 12 },              /* an element shorter than its head */
		{ { 5, 25, 0, 24, 0, 0, 0, 0, 0, 0, 0, 4 }, 24 },             /* no such role */
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_code(FM_E_DATA_LOSS, fm_of_decode(bad[i].bytes, bad[i].n, &back, &err));
	static uint8_t loud[FM_OF_HEADER_BYTES + FM_OF_ECHO_BYTES_MAX + 1] = { 5, 2, 4, 9 };
	assert_code(FM_E_DATA_LOSS, fm_of_decode(loud, sizeof(loud), &back, &err));
}

static void test_hello_of_others(void **state)
{
	static const uint8_t plain[] = { 4, 0, 0, 8, 0, 0, 0, 0 }, newer[] = { 6, 0, 0, 8, 0, 0, 0, 0 };
	static const uint8_t strange[] = { 5, 0, 0, 24, 0, 0, 0, 0, 0, 7, 0, 5, 1, 0, 0, 0, 0, 1, 0, 8, 0, 0, 0, 0x12 };
	struct fm_of_message m;

	assert_ok(fm_of_decode(plain, sizeof(plain), &m, &err));
	assert_false(m.hello.versions & 1u << 5);
	assert_ok(fm_of_decode(newer, sizeof(newer), &m, &err));
	assert_true(m.hello.versions & 1u << 5);
	assert_ok(fm_of_decode(strange, sizeof(strange), &m, &err));
	assert_int_equal(m.hello.versions, 0x12);
}

/* An entry of statistics: {48 bytes, match, instructions} */
static size_t put_entry(uint8_t *p, const void *match, size_t match_n, const void *instructions, size_t n)
{
	size_t padded = (match_n + 7) / 8 * 8, all = 48 + padded + n;

	memset(p, 0, all);
	p[0] = (uint8_t)(all >> 8);
	p[1] = (uint8_t)all;
	p[2] = 4;  /* table */
	p[13] = 9; /* priority */
	p[39] = 3; /* packets */
	memcpy(p + 48, match, match_n);
	if (n)
		memcpy(p + 48 + padded, instructions, n);
	return all;
}

static void test_flows_of_others(void **state)
{
	/* in_port, tcp_dst, an experimenter's field; then a masked ipv4_dst; then a full mask, which is none */
	static const uint8_t more[] = { 0, 1, 0,  30,   0x80, 0, 0, 4, 0, 0,    0,    2, 0x80, 0, 0x1c,
		                        2, 0, 80, 0xff, 0xff, 2, 8, 0, 0, 0x23, 0x20, 1, 2,    3, 4 };
	static const uint8_t masked[] = { 0, 1, 0, 22, 0x80, 0, 0x0a, 2, 8, 0, 0x80, 0, 0x19, 8, 10, 0, 0, 0, 255, 0, 0, 0 };
	static const uint8_t full[] = { 0, 1, 0, 22, 0x80, 0, 0x0a, 2, 8, 0, 0x80, 0, 0x19, 8, 10, 0, 0, 1, 255, 255, 255, 255 };
	static const uint8_t resubmit[] = { 0, 1, 0, 8, 1, 0, 0, 0, 0, 4, 0, 24, 0, 0, 0, 0, 0xff, 0xff, 0, 16, 0, 0, 0x23, 0x20 };
	uint8_t list[512], action[32] = { 0, 4, 0, 24, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 5 };
	struct fm_of_flow f;
	size_t n = 0;

	uint8_t nicira[8 + 24] = { 0 };
	memcpy(nicira, resubmit, sizeof(resubmit));
	n += put_entry(list + n, more, sizeof(more), nicira, sizeof(nicira));
	n += put_entry(list + n, masked, sizeof(masked), action, 24);
	n += put_entry(list + n, full, sizeof(full), action, 24);
	n += put_entry(list + n, "\0\1\0\4", 4, NULL, 0);
	struct fm_of_bytes rest = { list, n };
	assert_int_equal(fm_of_flow_next(&rest, &f, &err), 1);
	assert_true(f.match.more && f.match.has == FM_OF_IN_PORT && f.match.in_port == 2 && f.actions.more);
	assert_int_equal(fm_of_flow_next(&rest, &f, &err), 1);
	assert_true(f.match.more && f.match.has == FM_OF_ETH_TYPE && !f.actions.more && f.actions.n == 1);
	assert_int_equal(fm_of_flow_next(&rest, &f, &err), 1);
	assert_true(!f.match.more && f.match.has == (FM_OF_ETH_TYPE | FM_OF_IPV4_DST) && f.actions.at[0].number == 5);
	assert_int_equal(fm_of_flow_next(&rest, &f, &err), 1);
	assert_true(f.table == 4 && f.priority == 9 && f.packets == 3 && f.match.has == 0 && f.actions.n == 0);
	assert_int_equal(fm_of_flow_next(&rest, &f, &err), 0);

	/* the same list damaged: an end is always reached, or an error */
	for (size_t at = 0; at < n * 8; at++) {
		_fm_free_ uint8_t *copy = malloc(n);
		int rc;
		memcpy(copy, list, n);
		copy[at / 8] ^= (uint8_t)(1u << at % 8);
		rest = (struct fm_of_bytes){ copy, n };
		err = FM_ERROR_INIT;
		for (size_t many = 0; (rc = fm_of_flow_next(&rest, &f, &err)) > 0; many++)
			assert_true(many < n);
		assert_true(rc == 0 || (err.code == FM_E_DATA_LOSS && err.message[0]));
	}
	rest = (struct fm_of_bytes){ list, n - 1 };
	int rc;
	while ((rc = fm_of_flow_next(&rest, &f, &err)) > 0)
		;
	assert_int_equal(rc, -1);
}

static void test_duplicates(void **state)
{
	static const uint8_t twice[] = { 0, 1, 0, 20, 0x80, 0, 0, 4, 0, 0, 0, 2, 0x80, 0, 0, 4, 0, 0, 0, 3 };
	static const uint8_t wide[] = { 0, 1, 0, 12, 0x80, 0, 0, 5, 0, 0, 0, 2 };
	uint8_t list[128], apply[16] = { 0, 4, 0, 8, 0, 0, 0, 0, 0, 4, 0, 8 };
	struct fm_of_flow f;
	struct fm_of_bytes rest = { list, put_entry(list, twice, sizeof(twice), NULL, 0) };

	assert_code(FM_E_DATA_LOSS, fm_of_flow_next(&rest, &f, &err));
	rest = (struct fm_of_bytes){ list, put_entry(list, wide, sizeof(wide), NULL, 0) };
	assert_code(FM_E_DATA_LOSS, fm_of_flow_next(&rest, &f, &err));
	rest = (struct fm_of_bytes){ list, put_entry(list, "\0\1\0\4", 4, apply, sizeof(apply)) };
	assert_code(FM_E_DATA_LOSS, fm_of_flow_next(&rest, &f, &err));
}

static void test_ports(void **state)
{
	uint8_t list[2 * 72] = { 0 };
	struct fm_of_port p;

	for (unsigned i = 0; i < 2; i++) { /* with a property of 32 bytes each */
		uint8_t *at = list + i * 72;
		at[3] = (uint8_t)(i + 1);
		at[5] = 72;
		memset(at + 16, 'x', FM_OF_PORT_NAME_BYTES); /* a name without an end */
		at[17] = '\n';
		at[35] = 1;
	}
	struct fm_of_bytes rest = { list, sizeof(list) };
	assert_int_equal(fm_of_port_next(&rest, &p, &err), 1);
	assert_true(p.number == 1 && p.down && !p.link_down);
	assert_string_equal(p.name, "x?xxxxxxxxxxxxx");
	assert_int_equal(fm_of_port_next(&rest, &p, &err), 1);
	assert_int_equal(fm_of_port_next(&rest, &p, &err), 0);
	list[72 + 5] = 73;
	rest = (struct fm_of_bytes){ list, sizeof(list) };
	assert_int_equal(fm_of_port_next(&rest, &p, &err), 1);
	assert_code(FM_E_DATA_LOSS, fm_of_port_next(&rest, &p, &err));
	list[72 + 5] = 39;
	assert_code(FM_E_DATA_LOSS, fm_of_port_next(&rest, &p, &err));
}

static void test_words(void **state)
{
	char text[160], small[8];

	assert_string_equal(fm_of_error_text(2, 4, text, sizeof(text)), "bad action: there is no such port to send to (2/4)");
	assert_string_equal(fm_of_error_text(5, 99, text, sizeof(text)), "flow-mod failed (5/99)");
	assert_string_equal(fm_of_error_text(77, 1, text, sizeof(text)), "unknown error (77/1)");
	assert_int_equal(strlen(fm_of_error_text(2, 4, small, sizeof(small))), sizeof(small) - 1);
	assert_int_equal(fm_of_error_code(5, 1), FM_E_RESOURCE_EXHAUSTED);
	assert_int_equal(fm_of_error_code(1, 10), FM_E_PERMISSION_DENIED);
	assert_int_equal(fm_of_error_code(0, 7), FM_E_UNIMPLEMENTED);
	assert_int_equal(fm_of_error_code(2, 4), FM_E_FAILED_PRECONDITION);
	assert_int_equal(fm_of_error_code(500, 500), FM_E_FAILED_PRECONDITION);
}

static void test_backoff(void **state)
{
	assert_int_equal(fm_of_backoff_ms(0, 1), 0);
	assert_int_equal(fm_of_backoff_ms(1, 0), FM_OF_RETRY_MS_MIN);
	assert_int_equal(fm_of_backoff_ms(2, 0), 2 * FM_OF_RETRY_MS_MIN);
	assert_int_equal(fm_of_backoff_ms(UINT32_MAX, 0), FM_OF_RETRY_MS_MAX);
	for (unsigned failures = 1; failures < 20; failures++) {
		unsigned whole = fm_of_backoff_ms(failures, 0);
		assert_int_equal(fm_of_backoff_ms(failures, whole / 2), whole - whole / 2);
		for (uint32_t chance = 1; chance < 20000; chance += 7)
			assert_in_range(fm_of_backoff_ms(failures, chance), whole - whole / 2, whole);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_flow_mods),
		cmocka_unit_test(test_ipv6_arp_and_vlan),
		cmocka_unit_test(test_bytes),
		cmocka_unit_test(test_small_messages),
		cmocka_unit_test(test_what_is_not_written),
		cmocka_unit_test(test_rubbish),
		cmocka_unit_test(test_hello_of_others),
		cmocka_unit_test(test_flows_of_others),
		cmocka_unit_test(test_duplicates),
		cmocka_unit_test(test_ports),
		cmocka_unit_test(test_words),
		cmocka_unit_test(test_backoff),
	};

	return cmocka_run_group_tests_name("openflow-codec", tests, NULL, NULL);
}
