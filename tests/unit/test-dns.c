/* SPDX-License-Identifier: MIT */
/*
 * test-dns.c - the name service's texts and messages: names, words, the secret's file, undo lines, and what real servers said (dns-messages.h). The operations are tested with real servers in
 * tests/integration/test_dns.py.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/str.h"
#include "check.h"
#include "dns-messages.h"
#include "network/dns-internal.h"

/* 63 characters */
#define LABEL "abcdefghijklmnopqrstuvwxyz-abcdefghijklmnopqrstuvwxyz-123456789"

static void assert_says(const char *part)
{
	if (!strstr(err.message, part))
		fail_msg("\"%s\" is not in \"%s\"", part, err.message);
}

/* ---- names and addresses ---- */

static void test_names(void **state)
{
	static const char *const good[][2] = { { "web.lab.test", "web.lab.test" },
		                               { "WEB.Lab.TEST.", "web.lab.test" },
		                               { "a", "a" },
		                               { "_sip._tcp.x-1.y", "_sip._tcp.x-1.y" },
		                               { LABEL, LABEL },
		                               { LABEL "." LABEL "." LABEL "." LABEL, NULL } };
	static const char *const bad[] = { "",          ".",   "..",   ".a",         "a..b",    "a b", "a\\046b",
		                           "w\xc3\xa4", "a/b", "a\nb", "*.lab.test", "x" LABEL, "a\"b" };
	char name[FM_DNS_NAME_MAX + 1];

	for (size_t i = 0; i < FM_ARRAY_SIZE(good) - 1; i++) {
		assert_ok(fm_dns_name_parse(good[i][0], name, &err));
		assert_string_equal(name, good[i][1]);
	}
	assert_code(FM_E_INVALID_ARGUMENT, fm_dns_name_parse(good[5][0], name, &err)); /* 255 characters */
	assert_ok(fm_dns_name_parse(good[5][0] + 2, name, &err));
	assert_int_equal(strlen(name), FM_DNS_NAME_MAX);
	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++)
		if (fm_dns_name_parse(bad[i], name, &err) == 0)
			fail_msg("\"%s\" was taken", bad[i]);
	assert_true(fm_dns_name_is_in("web.lab.test", "lab.test") && fm_dns_name_is_in("lab.test", "lab.test"));
	assert_false(fm_dns_name_is_in("weblab.test", "lab.test") || fm_dns_name_is_in("test", "lab.test") ||
	             fm_dns_name_is_in("lab.test", ""));
}

static void test_name_wire(void **state)
{
	uint8_t wire[FM_DNS_NAME_MAX + 2];

	assert_int_equal(fm_dns_name_to_wire("web.lab.test", wire), 14);
	assert_memory_equal(wire, "\3web\3lab\4test", 14);
}

static void test_reverse(void **state)
{
	char name[FM_DNS_NAME_MAX + 1];

	assert_ok(fm_dns_reverse_name("10.77.0.5", name, &err));
	assert_string_equal(name, "5.0.77.10.in-addr.arpa");
	assert_ok(fm_dns_reverse_name("2001:db8::1", name, &err));
	assert_string_equal(name, "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa");
	assert_code(FM_E_INVALID_ARGUMENT, fm_dns_reverse_name("web.lab.test", name, &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_dns_reverse_name("10.77.0", name, &err));
}

/* ---- words and the secret ---- */

struct place {
	char dir[64], file[80];
};

static struct place place_new(const char *text, mode_t mode)
{
	struct place p = { .dir = "/tmp/fm-test-dns-XXXXXX" };
	int fd;

	assert_non_null(mkdtemp(p.dir));
	(void)snprintf(p.file, sizeof(p.file), "%s/secret", p.dir);
	fd = open(p.file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	assert_sys(fchmod(fd, mode));
	(void)close(fd);
	return p;
}

static void place_end(struct place *p)
{
	assert_ok(fm_remove_tree(p->dir, &err));
}

#define GOOD_SECRET "YSBzZWNyZXQgb2YgdGhpcnR5LXR3byBieXRlcy4uLi4="

static void test_words(void **state)
{
	struct place p = place_new(" " GOOD_SECRET "\n", 0600);
	struct fm_dns_words w = { .server = "[2001:db8::53]:5353",
		                  .zone = "Lab.Test.",
		                  .reverse_zone = "77.10.in-addr.arpa",
		                  .key_name = "Mover.lab.test",
		                  .algorithm = "HMAC-SHA512",
		                  .secret_file = p.file };
	struct fm_dns_zone z;
	char text[80];

	assert_ok(fm_dns_zone_parse(&w, &z, &err));
	fm_dns_server_text(&z, text);
	assert_string_equal(text, "[2001:db8::53]:5353");
	assert_string_equal(z.zone, "lab.test");
	assert_string_equal(z.key_name, "mover.lab.test");
	assert_int_equal(z.algorithm, FM_DNS_HMAC_SHA512);
	assert_int_equal(z.secret_len, 32);
	assert_memory_equal(z.secret, dns_message_secret, 32);
	fm_dns_zone_wipe(&z);
	for (size_t i = 0; i < sizeof(z); i++)
		assert_int_equal(((const uint8_t *)&z)[i], 0);
	w.algorithm = "hmac-md5";
	assert_code(FM_E_INVALID_ARGUMENT, fm_dns_zone_parse(&w, &z, &err));
	w.algorithm = NULL;
	assert_ok(fm_dns_zone_parse(&w, &z, &err));
	assert_int_equal(z.algorithm, FM_DNS_HMAC_SHA256);
	w.key_name = "";
	assert_code(FM_E_INVALID_ARGUMENT, fm_dns_zone_parse(&w, &z, &err));
	place_end(&p);
}

static void test_servers(void **state)
{
	static const char *const good[][2] = { { "192.0.2.53", "192.0.2.53:53" },
		                               { "192.0.2.53:5353", "192.0.2.53:5353" },
		                               { "2001:db8::53", "[2001:db8::53]:53" },
		                               { "[2001:db8::53]", "[2001:db8::53]:53" },
		                               { "[::1]:65535", "[::1]:65535" } };
	static const char *const bad[] = { "",        "ns.lab.test", "192.0.2.53:", "192.0.2.53:0",     "192.0.2.53:65536", "[::1",
		                           "[::1]53", "[::1]:x",     "::1]:53",     "192.0.2.53:53:53", "192.0.2.053" };
	struct fm_dns_words w = { .zone = "lab.test" };
	struct fm_dns_zone z;
	char text[80];

	for (size_t i = 0; i < FM_ARRAY_SIZE(good); i++) {
		w.server = good[i][0];
		assert_ok(fm_dns_zone_parse(&w, &z, &err));
		fm_dns_server_text(&z, text);
		assert_string_equal(text, good[i][1]);
	}
	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++) {
		w.server = bad[i];
		assert_code(FM_E_INVALID_ARGUMENT, fm_dns_zone_parse(&w, &z, &err));
	}
}

static void test_secret_file(void **state)
{
	static const struct {
		const char *text;
		mode_t mode;
		enum fm_code code;
	} t[] = {
		{ GOOD_SECRET, 0600, FM_OK },
		{ GOOD_SECRET, 0400, FM_OK },
		{ "\n\t " GOOD_SECRET "  \n\n", 0600, FM_OK },
		{ GOOD_SECRET, 0640, FM_E_PERMISSION_DENIED },
		{ GOOD_SECRET, 0604, FM_E_PERMISSION_DENIED },
		{ GOOD_SECRET, 0602, FM_E_PERMISSION_DENIED },
		{ "", 0600, FM_E_INVALID_ARGUMENT },
		{ "\n", 0600, FM_E_INVALID_ARGUMENT },
		{ "====", 0600, FM_E_INVALID_ARGUMENT },
		{ "c2hvcnQ=", 0600, FM_E_INVALID_ARGUMENT }, /* 5 bytes */
		{ "YSBzZWNyZXQgb2YgdGhpcnR5LXR3byBieXRlcy4uLi4", 0600, FM_E_INVALID_ARGUMENT },
		{ "YSBzZWNyZXQgb2YgdGhpcnR5LXR3by=ieXRlcy4uLi4=", 0600, FM_E_INVALID_ARGUMENT },
		{ "key \"mover\" { secret \"" GOOD_SECRET "\"; };", 0600, FM_E_INVALID_ARGUMENT },
	};

	for (size_t i = 0; i < FM_ARRAY_SIZE(t); i++) {
		struct place p = place_new(t[i].text, t[i].mode);
		struct fm_dns_words w = { .server = "::1", .zone = "lab.test", .key_name = "k", .secret_file = p.file };
		struct fm_dns_zone z;

		err = FM_ERROR_INIT;
		if ((fm_dns_zone_parse(&w, &z, &err) == 0) != (t[i].code == FM_OK) || err.code != t[i].code)
			fail_msg("secret %zu: %s", i, err.message);
		assert_null(strstr(err.message, "c2hvcnQ"));
		assert_null(strstr(err.message, "YSBz"));
		place_end(&p);
	}
}

static void test_secret_places(void **state)
{
	struct place p = place_new("", 0600);
	struct fm_dns_words w = { .server = "::1", .zone = "lab.test", .key_name = "k", .secret_file = p.dir };
	struct fm_dns_zone z;
	char large[2048];
	int fd;

	assert_code(FM_E_INVALID_ARGUMENT, fm_dns_zone_parse(&w, &z, &err)); /* a directory */
	w.secret_file = p.file;
	memset(large, 'A', sizeof(large));
	fd = open(p.file, O_WRONLY | O_CLOEXEC);
	assert_int_equal(write(fd, large, sizeof(large)), sizeof(large));
	(void)close(fd);
	assert_code(FM_E_INVALID_ARGUMENT, fm_dns_zone_parse(&w, &z, &err));
	assert_says("more than");
	assert_sys(unlink(p.file));
	assert_sys(mkfifo(p.file, 0600));
	assert_code(FM_E_INVALID_ARGUMENT, fm_dns_zone_parse(&w, &z, &err)); /* and it did not wait */
	assert_sys(unlink(p.file));
	assert_code(FM_E_NOT_FOUND, fm_dns_zone_parse(&w, &z, &err));
	place_end(&p);
}

static void test_secret_owner(void **state)
{
	struct place p = place_new(GOOD_SECRET, 0600);
	struct fm_dns_words w = { .server = "::1", .zone = "lab.test", .key_name = "k", .secret_file = p.file };
	struct fm_dns_zone z;

	if (geteuid() != 0) {
		place_end(&p);
		print_message("skipped: giving files away needs root\n");
		skip();
	}
	assert_sys(chown(p.file, 65534, 65534));
	assert_code(FM_E_PERMISSION_DENIED, fm_dns_zone_parse(&w, &z, &err));
	place_end(&p);
}

/* ---- undo ---- */

static const struct fm_dns_change moved = {
	.name = "lost.lab.test", .type = FM_DNS_A, .from = { "10.77.0.1", 3600 }, .to = { "10.77.0.2", 60 }
};

static void test_undo(void **state)
{
	static const struct fm_dns_change made = {
		.name = "1.0.77.10.in-addr.arpa", .type = FM_DNS_PTR, .from = { "", 0 }, .to = { "web.lab.test", INT32_MAX }
	};
	static const struct fm_dns_change *const all[] = { &moved, &made };
	struct fm_dns_change back, again;
	char line[FM_MAX_DNS_UNDO_BYTES];

	for (size_t i = 0; i < FM_ARRAY_SIZE(all); i++) {
		assert_ok(fm_dns_undo_format(all[i], line, &err));
		assert_null(strchr(line, '\n'));
		memset(&back, 0x55, sizeof(back));
		assert_ok(fm_dns_undo_parse(line, &back, &err));
		fm_dns_change_inverse(&back, &again);
		assert_string_equal(again.name, all[i]->name);
		assert_int_equal(again.type, all[i]->type);
		assert_string_equal(again.from.value, all[i]->from.value);
		assert_string_equal(again.to.value, all[i]->to.value);
		assert_true(again.from.ttl_s == all[i]->from.ttl_s && again.to.ttl_s == all[i]->to.ttl_s);
	}
	assert_ok(fm_dns_undo_format(&moved, line, &err));
	assert_string_equal(line, "{\"dns\":1,\"name\":\"lost.lab.test\",\"type\":\"A\",\"from\":{\"value\":\"10.77.0.2\",\"ttl\":60},"
	                          "\"to\":{\"value\":\"10.77.0.1\",\"ttl\":3600}}");
}

static void test_undo_longest(void **state)
{
	struct fm_dns_change c = { .type = FM_DNS_PTR, .from = { .ttl_s = INT32_MAX }, .to = { .ttl_s = INT32_MAX } }, back;
	char line[FM_MAX_DNS_UNDO_BYTES];

	assert_ok(fm_dns_name_parse(LABEL "." LABEL "." LABEL ".abcdefghijklmnopqrstuvwxyz-abcdefghijklmnopqrstuvwxyz-1234567", c.name,
	                            &err));
	memcpy(c.from.value, c.name, sizeof(c.name));
	memcpy(c.to.value, c.name, sizeof(c.name));
	assert_ok(fm_dns_undo_format(&c, line, &err));
	assert_ok(fm_dns_undo_parse(line, &back, &err));
	assert_string_equal(back.to.value, c.name);
}

#define SIDES ",\"from\":{\"value\":\"10.77.0.2\",\"ttl\":60},\"to\":{\"value\":\"10.77.0.1\",\"ttl\":3600}}"

static void test_undo_damaged(void **state)
{
	static const char *const bad[] = {
		"",
		"{}",
		"[]",
		"null",
		"{\"dns\":1,\"name\":\"lost.lab.test\",\"type\":\"A\"",
		"{\"dns\":2,\"name\":\"lost.lab.test\",\"type\":\"A\"" SIDES,
		"{\"name\":\"lost.lab.test\",\"type\":\"A\"" SIDES,
		"{\"dns\":1,\"name\":\"lost.lab.test\",\"type\":\"CNAME\"" SIDES,
		"{\"dns\":1,\"name\":\"lost.lab.test\",\"type\":\"AAAA\"" SIDES,
		"{\"dns\":1,\"name\":\"lost..test\",\"type\":\"A\"" SIDES,
		"{\"dns\":1,\"name\":\"Lost.lab.test\",\"type\":\"A\"" SIDES,
		"{\"dns\":1,\"name\":7,\"type\":\"A\"" SIDES,
		"{\"dns\":1,\"more\":1,\"name\":\"lost.lab.test\",\"type\":\"A\"" SIDES,
		"{\"dns\":1,\"dns\":1,\"name\":\"lost.lab.test\",\"type\":\"A\"" SIDES,
		"{\"dns\":1,\"name\":\"lost.lab.test\\u0000\",\"type\":\"A\"" SIDES,
		"{\"dns\":1,\"name\":\"a\",\"type\":\"A\",\"from\":{\"value\":\"\",\"ttl\":0},\"to\":{\"value\":\"\",\"ttl\":0}}",
		"{\"dns\":1,\"name\":\"a\",\"type\":\"A\",\"from\":{\"value\":\"\",\"ttl\":5},\"to\":{\"value\":\"10.0.0.1\",\"ttl\":0}}",
		"{\"dns\":1,\"name\":\"a\",\"type\":\"A\",\"from\":{\"value\":\"\",\"ttl\":0},\"to\":{\"value\":\"10.0.0.1\",\"ttl\":-1}}",
		"{\"dns\":1,\"name\":\"a\",\"type\":\"A\",\"from\":{\"value\":\"\",\"ttl\":0},\"to\":{\"value\":\"10.0.0.1\",\"ttl\":"
		"2147483648}}",
		"{\"dns\":1,\"name\":\"a\",\"type\":\"A\",\"from\":{\"value\":\"\",\"ttl\":0},\"to\":{\"value\":\"10.0.0.1\",\"ttl\":1.5}}",
		"{\"dns\":1,\"name\":\"a\",\"type\":\"A\",\"from\":[],\"to\":{\"value\":\"10.0.0.1\",\"ttl\":1}}",
	};
	struct fm_dns_change c = { .name = "untouched" };
	char large[2 * FM_MAX_DNS_UNDO_BYTES];

	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++) {
		err = FM_ERROR_INIT;
		if (fm_dns_undo_parse(bad[i], &c, &err) == 0 || err.code != FM_E_DATA_LOSS)
			fail_msg("\"%s\": %s", bad[i], err.message);
	}
	memset(large, ' ', sizeof(large));
	large[sizeof(large) - 1] = '\0';
	assert_code(FM_E_DATA_LOSS, fm_dns_undo_parse(large, &c, &err));
	assert_string_equal(c.name, "untouched");
}

/* ---- messages ---- */

static size_t from_hex(const char *hex, uint8_t *ret)
{
	size_t n = strlen(hex) / 2;
	unsigned v;

	for (size_t i = 0; i < n; i++) {
		assert_int_equal(sscanf(hex + 2 * i, "%2x", &v), 1);
		ret[i] = (uint8_t)v;
	}
	return n;
}

static struct fm_dns_zone message_zone(void)
{
	struct fm_dns_zone z = { .zone = "lab.test", .key_name = "mover.lab.test", .algorithm = FM_DNS_HMAC_SHA256, .secret_len = 32 };

	memcpy(z.secret, dns_message_secret, 32);
	return z;
}

/* The request as it was sent: its MAC is 6 bytes before the end. */
static struct fm_dns_request message_request(const char *hex, int opcode, const char *question, uint16_t type)
{
	struct fm_dns_request r = { .opcode = opcode, .qtype = type, .mac_len = 32 };

	r.len = from_hex(hex, r.wire);
	r.id = (uint16_t)(r.wire[0] << 8 | r.wire[1]);
	memcpy(r.mac, r.wire + r.len - 38, 32);
	memcpy(r.question, question, strlen(question) + 1);
	return r;
}

static void decode(const char *request, const char *answer, int opcode, const char *question, uint16_t type, struct fm_dns_answer *ret)
{
	struct fm_dns_request r = message_request(request, opcode, question, type);
	struct fm_dns_zone z = message_zone();
	uint8_t wire[FM_DNS_REQUEST_MAX];

	assert_ok(fm_dns_decode(wire, from_hex(answer, wire), &z, &r, ret, &err));
	assert_int_equal(ret->id, r.id);
	assert_true(ret->response && ret->question_matches && !ret->truncated && ret->tsig.present);
	assert_int_equal(ret->opcode, opcode);
}

static void test_answers(void **state)
{
	struct fm_dns_answer a;

	decode(web_request, web_answer, FM_DNS_OP_QUERY, "web.lab.test", FM_DNS_A, &a);
	assert_true(a.verified && a.authoritative && !a.alias && a.rrset.n == 1 && a.rrset.ttl_s == 3600);
	assert_string_equal(a.rrset.value[0], "10.77.0.1");
	decode(ptr_request, ptr_answer, FM_DNS_OP_QUERY, "1.0.77.10.in-addr.arpa", FM_DNS_PTR, &a);
	assert_true(a.verified && a.rrset.n == 1);
	assert_string_equal(a.rrset.value[0], "web.lab.test");
	decode(web6_request, web6_answer, FM_DNS_OP_QUERY, "web6.lab.test", FM_DNS_AAAA, &a);
	assert_true(a.verified && a.rrset.n == 1);
	assert_string_equal(a.rrset.value[0], "fd00::1");
	decode(two_request, two_answer, FM_DNS_OP_QUERY, "two.lab.test", FM_DNS_A, &a);
	assert_true(a.verified && a.rrset.n == 2);
	decode(alias_request, alias_answer, FM_DNS_OP_QUERY, "alias.lab.test", FM_DNS_A, &a);
	assert_true(a.verified && a.alias && a.rrset.n == 0);
	decode(nxrrset_request, nxrrset_answer, FM_DNS_OP_UPDATE, "lab.test", FM_DNS_TYPE_SOA, &a);
	assert_true(a.verified && a.rcode == FM_DNS_NXRRSET);
}

static void test_complaints(void **state)
{
	struct fm_dns_zone z = { .zone = "lab.test", .key_name = "mover.lab.test" };
	struct fm_dns_answer a;

	decode(badtime_request, badtime_answer, FM_DNS_OP_QUERY, "web.lab.test", FM_DNS_A, &a);
	assert_true(a.verified && a.rcode == FM_DNS_NOTAUTH && a.tsig.error == FM_DNS_BADTIME);
	assert_int_equal(a.tsig.time_s - a.tsig.server_time_s, 1000);
	assert_code(FM_E_FAILED_PRECONDITION, fm_dns_rcode_error(&z, &a, &err));
	decode(stranger_request, stranger_answer, FM_DNS_OP_QUERY, "web.lab.test", FM_DNS_A, &a);
	assert_true(!a.verified && a.tsig.error == FM_DNS_BADKEY);
	assert_code(FM_E_UNAUTHENTICATED, fm_dns_rcode_error(&z, &a, &err));
	assert_says("BADKEY: the server has no key 'mover.lab.test'");
}

/* As it was accepted then. */
static void test_requests(void **state)
{
	struct fm_dns_request then = message_request(nxrrset_request, FM_DNS_OP_UPDATE, "lab.test", FM_DNS_TYPE_SOA), now, other;
	struct fm_dns_zone z = message_zone();
	struct fm_dns_answer a;

	assert_ok(fm_dns_encode_update("lab.test", &moved, &now, &err));
	assert_ok(fm_dns_encode_update("lab.test", &moved, &other, &err));
	now.id = then.id;
	memcpy(now.wire, then.wire, 2);
	/* the time that it was signed with */
	decode(nxrrset_request, nxrrset_answer, FM_DNS_OP_UPDATE, "lab.test", FM_DNS_TYPE_SOA, &a);
	assert_ok(fm_dns_tsig_sign(&z, a.tsig.time_s, &now, &err));
	assert_int_equal(now.len, then.len);
	assert_memory_equal(now.wire, then.wire, then.len);
	assert_memory_equal(now.mac, then.mac, 32);
}

static bool only_case_differs(uint8_t a, uint8_t b)
{
	return (a ^ b) == 0x20 && ((a | 0x20) >= 'a' && (a | 0x20) <= 'z');
}

/* No bit of a signed answer can be changed unseen, but for the number (compared elsewhere) and the case of the signature's names, which does not count. */
static void test_bits(void **state)
{
	struct fm_dns_request r = message_request(web_request, FM_DNS_OP_QUERY, "web.lab.test", FM_DNS_A);
	struct fm_dns_zone z = message_zone();
	uint8_t wire[FM_DNS_REQUEST_MAX];
	size_t n = from_hex(web_answer, wire), decoded = 0;
	struct fm_dns_answer a;

	for (size_t bit = 16; bit < 8 * n; bit++) {
		uint8_t was = wire[bit / 8];

		wire[bit / 8] ^= (uint8_t)(1 << bit % 8);
		if (fm_dns_decode(wire, n, &z, &r, &a, NULL) == 0) {
			decoded++;
			if (a.verified && !(bit / 8 > 45 && only_case_differs(was, wire[bit / 8])))
				fail_msg("bit %zu of byte %zu", bit % 8, bit / 8);
		}
		wire[bit / 8] = was;
	}
	assert_true(decoded > 4 * n); /* most changes leave a message */
	r.mac[7] ^= 1;
	assert_ok(fm_dns_decode(wire, n, &z, &r, &a, &err));
	assert_false(a.verified); /* an answer, to something else */
}

static void test_cut(void **state)
{
	struct fm_dns_request r = message_request(two_request, FM_DNS_OP_QUERY, "two.lab.test", FM_DNS_A);
	struct fm_dns_zone z = message_zone();
	uint8_t wire[FM_DNS_REQUEST_MAX];
	size_t n = from_hex(two_answer, wire);
	struct fm_dns_answer a;

	for (size_t i = 0; i < n; i++) {
		_fm_free_ uint8_t *exact = malloc(i ? i : 1);

		assert_non_null(exact);
		memcpy(exact, wire, i);
		assert_code(FM_E_DATA_LOSS, fm_dns_decode(exact, i, &z, &r, &a, &err));
	}
	wire[n] = 0;
	assert_code(FM_E_DATA_LOSS, fm_dns_decode(wire, n + 1, &z, &r, &a, &err));
	wire[4] = 1; /* 257 questions */
	assert_code(FM_E_DATA_LOSS, fm_dns_decode(wire, n, &z, &r, &a, &err));
	wire[4] = 0;
	wire[6] = 3; /* 770 records */
	assert_code(FM_E_RESOURCE_EXHAUSTED, fm_dns_decode(wire, n, &z, &r, &a, &err));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),         cmocka_unit_test(test_name_wire),    cmocka_unit_test(test_reverse),
		cmocka_unit_test(test_words),         cmocka_unit_test(test_servers),      cmocka_unit_test(test_secret_file),
		cmocka_unit_test(test_secret_places), cmocka_unit_test(test_secret_owner), cmocka_unit_test(test_undo),
		cmocka_unit_test(test_undo_longest),  cmocka_unit_test(test_undo_damaged), cmocka_unit_test(test_answers),
		cmocka_unit_test(test_complaints),    cmocka_unit_test(test_requests),     cmocka_unit_test(test_bits),
		cmocka_unit_test(test_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
