/* SPDX-License-Identifier: MIT */
/*
 * fuzz-openflow.c - libFuzzer entry for what a switch says. The first byte chooses: one message, or its entries, as it is (what was understood is written again and is understood again); or a
 * dialogue, in which the input is the switch's part and we ask for flows, ports, bundles.
 *
 * Dialogue: {u8 type, u8 xid, u8 length, length bytes} each, so that most of what a fuzzer makes up is not about headers.
 */
#include "fuzz.h"
#include "network/openflow-link.h"

#define DIALOGUE_BYTES_MAX (48u << 10) /* fits into a socket's buffer: nobody reads while it is written */
#define BASE_XID           1u

static void outcome(int rc, const struct fm_error *err)
{
	assert((rc == 0) == (err->code == FM_OK));
	assert(rc == 0 || err->message[0]);
}

static void one_message(const uint8_t *data, size_t size)
{
	static uint8_t first[FM_OF_MESSAGE_BYTES_MAX], second[FM_OF_MESSAGE_BYTES_MAX];
	struct fm_error err = FM_ERROR_INIT;
	struct fm_of_message m, again;
	size_t n = 0, more = 0;

	int rc = fm_of_decode(data, size, &m, &err);
	outcome(rc, &err);
	if (rc < 0) {
		assert(err.code == FM_E_DATA_LOSS);
		return;
	}
	if (fm_of_encode(&m, first, sizeof(first), &n, &err) < 0) {
		assert(err.code == FM_E_INVALID_ARGUMENT);
		return;
	}
	if (fm_of_decode(first, n, &again, NULL) < 0 || fm_of_encode(&again, second, sizeof(second), &more, NULL) < 0)
		abort();
	assert(again.type == m.type && again.xid == m.xid && n == more && memcmp(first, second, n) == 0);
}

static void entries(const uint8_t *data, size_t size, bool of_flows)
{
	struct fm_of_bytes rest = { data, size };
	struct fm_error err = FM_ERROR_INIT;
	struct fm_of_flow flow;
	struct fm_of_port port;
	int rc;

	do {
		size_t before = rest.n;
		rc = of_flows ? fm_of_flow_next(&rest, &flow, &err) : fm_of_port_next(&rest, &port, &err);
		assert(rc <= 0 || rest.n < before);
		assert(rc <= 0 || of_flows || memchr(port.name, '\0', sizeof(port.name)));
		assert(rc <= 0 || !of_flows || flow.actions.n <= FM_MAX_OF_ACTIONS);
	} while (rc > 0);
	outcome(rc, &err);
}

static void counters(const uint8_t *data, size_t size)
{
	struct fm_of_bytes rest = { data, size };
	struct fm_error err = FM_ERROR_INIT;
	struct fm_of_counters c;
	int rc;

	do {
		size_t before = rest.n;
		rc = fm_of_counters_next(&rest, &c, &err);
		assert(rc <= 0 || rest.n < before);
	} while (rc > 0);
	outcome(rc, &err);
}

static size_t make_dialogue(const uint8_t *in, size_t n, uint8_t *wire)
{
	static const uint8_t types[] = { FM_OF_ERROR,         FM_OF_ECHO_REQUEST,   FM_OF_PORT_STATUS, FM_OF_MULTIPART_REPLY,
		                         FM_OF_BARRIER_REPLY, FM_OF_BUNDLE_CONTROL, FM_OF_HELLO,       10 };
	size_t len = 0;

	while (n >= 3) {
		size_t take = in[2] < n - 3 ? in[2] : n - 3;

		if (len + FM_OF_HEADER_BYTES + take > DIALOGUE_BYTES_MAX)
			break;
		uint8_t head[FM_OF_HEADER_BYTES] = { FM_OF_VERSION, in[0] & 8 ? in[0] >> 4 : types[in[0] & 7], 0, 0, 0, 0, 0, in[1] & 15 };
		head[2] = (uint8_t)((take + FM_OF_HEADER_BYTES) >> 8);
		head[3] = (uint8_t)(take + FM_OF_HEADER_BYTES);
		memcpy(wire + len, head, sizeof(head));
		memcpy(wire + len + sizeof(head), in + 3, take);
		len += sizeof(head) + take;
		in += 3 + take;
		n -= 3 + take;
	}
	return len;
}

static void ask(struct fm_of *c)
{
	struct fm_of_flow_mod mods[2] = { { .command = FM_OF_DELETE, .table = FM_OF_TABLE_ALL }, { .command = FM_OF_ADD } };
	struct fm_error err = FM_ERROR_INIT;
	struct fm_of_port_status s;
	struct fm_of_flow *flows = NULL;
	struct fm_of_port *ports = NULL;
	uint32_t id = 0;
	size_t n;

	outcome(fm_of_flows(c, NULL, 0, -1, &flows, &n, &err), &err);
	err = FM_ERROR_INIT;
	outcome(fm_of_ports(c, 0, -1, &ports, &n, &err), &err);
	free(flows);
	free(ports);
	err = FM_ERROR_INIT;
	outcome(fm_of_flow_mods(c, mods, 2, 0, -1, &err), &err);
	err = FM_ERROR_INIT;
	int rc = fm_of_bundle_prepare(c, mods, 2, 0, -1, &id, &err);
	outcome(rc, &err);
	err = FM_ERROR_INIT;
	outcome(fm_of_bundle_commit(c, id, 0, -1, &err), &err);
	for (unsigned i = 0; i < 2 * FM_MAX_OF_EVENTS && fm_of_port_event(c, 0, -1, &s, NULL) == 0; i++)
		;
}

static void dialogue(const uint8_t *data, size_t size)
{
	static uint8_t wire[DIALOGUE_BYTES_MAX];
	struct fm_of_options o = { .address = "unix:/nowhere" };
	size_t n = make_dialogue(data, size, wire);
	struct fm_of *c = NULL;
	int sv[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0 || (n && write(sv[1], wire, n) != (ssize_t)n) ||
	    fm_of_new(&o, &c, NULL) < 0)
		abort();
	c->fd = sv[0];
	c->hello_seen = true;
	c->next_xid = BASE_XID;
	ask(c);
	fm_of_free(c);
	close(sv[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	switch (data[0] % 4) {
	case 0:
		one_message(data + 1, size - 1);
		break;
	case 1:
		entries(data + 1, size - 1, true);
		break;
	case 2:
		entries(data + 1, size - 1, false);
		counters(data + 1, size - 1);
		break;
	default:
		dialogue(data + 1, size - 1);
	}
	return 0;
}
