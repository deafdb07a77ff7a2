/* SPDX-License-Identifier: MIT */
/*
 * fuzz-dns.c - libFuzzer entry for what a name server, or who pretends to be one, answers, and for the undo line of a journal. The first byte chooses: 0 to 2 an answer to a question for an A, PTR or AAAA
 * record, 3 to an update, 4 an undo. The requests' signatures are those of tests/unit/dns-messages.h, so that the seeds are answers that verify.
 */
#include "../unit/dns-messages.h"

#include "fuzz.h"
#include "network/dns-internal.h"

static const struct {
	const char *wire, *question;
	int opcode;
	uint16_t type;
} requests[] = { { web_request, "web.lab.test", FM_DNS_OP_QUERY, FM_DNS_A },
	         { ptr_request, "1.0.77.10.in-addr.arpa", FM_DNS_OP_QUERY, FM_DNS_PTR },
	         { web6_request, "web6.lab.test", FM_DNS_OP_QUERY, FM_DNS_AAAA },
	         { nxrrset_request, "lab.test", FM_DNS_OP_UPDATE, FM_DNS_TYPE_SOA } };

static unsigned nibble(char c)
{
	return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'a' + 10);
}

static struct fm_dns_request request_of(unsigned which)
{
	const char *hex = requests[which].wire;
	struct fm_dns_request r = {
		.len = strlen(hex) / 2, .opcode = requests[which].opcode, .qtype = requests[which].type, .mac_len = 32
	};

	for (size_t i = 0; i < r.len; i++)
		r.wire[i] = (uint8_t)(nibble(hex[2 * i]) << 4 | nibble(hex[2 * i + 1]));
	r.id = (uint16_t)(r.wire[0] << 8 | r.wire[1]);
	memcpy(r.mac, r.wire + r.len - 38, 32);
	strcpy(r.question, requests[which].question);
	return r;
}

static void answer(unsigned which, const uint8_t *data, size_t size)
{
	struct fm_dns_zone z = { .zone = "lab.test", .key_name = "mover.lab.test", .secret_len = 32 };
	struct fm_dns_request r = request_of(which);
	struct fm_error err = FM_ERROR_INIT;
	struct fm_dns_answer a;
	int rc;

	memcpy(z.secret, dns_message_secret, 32);
	rc = fm_dns_decode(data, size, &z, &r, &a, &err);
	assert((rc == 0) == (err.code == FM_OK));
	assert(a.rrset.n <= FM_MAX_DNS_VALUES);
	for (size_t i = 0; i < a.rrset.n; i++)
		assert(a.rrset.value[i][0] && memchr(a.rrset.value[i], '\0', sizeof(a.rrset.value[i])));
	assert(!a.tsig.present || a.tsig.offset < size);
	assert(!a.verified || (rc == 0 && a.tsig.present && a.tsig.mac_len == 32));
	if (rc == 0 && fm_dns_rcode_error(&z, &a, &err) < 0)
		assert(err.message[0]);
}

static void undo(const uint8_t *data, size_t size)
{
	struct fm_error err = FM_ERROR_INIT;
	char *text = strndup((const char *)data, size), line[FM_MAX_DNS_UNDO_BYTES];
	struct fm_dns_change c, inverse, again;

	if (!text)
		return;
	if (fm_dns_undo_parse(text, &c, &err) < 0) {
		assert(err.code == FM_E_DATA_LOSS && err.message[0]);
	} else {
		struct fm_dns_request r;

		fm_dns_change_inverse(&c, &inverse);
		if (fm_dns_undo_format(&inverse, line, &err) < 0 || fm_dns_undo_parse(line, &again, &err) < 0 ||
		    fm_dns_encode_update("lab.test", &c, &r, &err) < 0)
			abort();
		assert(strcmp(again.name, c.name) == 0 && strcmp(again.from.value, c.from.value) == 0 &&
		       strcmp(again.to.value, c.to.value) == 0);
		assert(again.from.ttl_s == c.from.ttl_s && again.to.ttl_s == c.to.ttl_s && again.type == c.type);
	}
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	/* in a piece of memory of exactly its size, so that a byte too far is seen */
	uint8_t *exact = malloc(size > 1 ? size - 1 : 1);
	if (!exact)
		return 0;
	memcpy(exact, data + 1, size - 1);
	if (data[0] % 5 == 4)
		undo(exact, size - 1);
	else
		answer(data[0] % 5, exact, size - 1);
	free(exact);
	return 0;
}
