/* SPDX-License-Identifier: MIT */
/* openflow-codec.c - the messages of openflow-codec.h, but for flows (openflow-flow.c) and the words for errors (openflow-errors.c). */
#include "network/openflow-codec.h"

#include <string.h>

#include "basic/cleanup.h"
#include "basic/str.h"
#include "network/openflow-internal.h"

#define HELLO_VERSIONS     1u /* element type */
#define HELLO_ELEMENTS_MAX 16u
#define PORT_BYTES         40u /* without properties */
#define PORT_CONFIG_DOWN   1u
#define PORT_STATE_NO_LINK 1u
#define MULTIPART_MORE     1u
#define COUNTERS_BYTES     80u   /* of a port, without properties */
#define TYPE_LAST          34u   /* of 1.4 */
#define ERROR_DATA_BYTES   1024u /* more of a refused message is of no use */

const char *fm_of_type_to_string(unsigned type)
{
	static const char *const names[] = {
		[FM_OF_HELLO] = "HELLO",
		[FM_OF_ERROR] = "ERROR",
		[FM_OF_ECHO_REQUEST] = "ECHO_REQUEST",
		[FM_OF_ECHO_REPLY] = "ECHO_REPLY",
		[FM_OF_FEATURES_REQUEST] = "FEATURES_REQUEST",
		[FM_OF_FEATURES_REPLY] = "FEATURES_REPLY",
		[FM_OF_SET_CONFIG] = "SET_CONFIG",
		[FM_OF_PORT_STATUS] = "PORT_STATUS",
		[FM_OF_FLOW_MOD] = "FLOW_MOD",
		[FM_OF_MULTIPART_REQUEST] = "MULTIPART_REQUEST",
		[FM_OF_MULTIPART_REPLY] = "MULTIPART_REPLY",
		[FM_OF_BARRIER_REQUEST] = "BARRIER_REQUEST",
		[FM_OF_BARRIER_REPLY] = "BARRIER_REPLY",
		[FM_OF_ROLE_REQUEST] = "ROLE_REQUEST",
		[FM_OF_ROLE_REPLY] = "ROLE_REPLY",
		[FM_OF_SET_ASYNC] = "SET_ASYNC",
		[FM_OF_BUNDLE_CONTROL] = "BUNDLE_CONTROL",
		[FM_OF_BUNDLE_ADD] = "BUNDLE_ADD_MESSAGE",
	};

	return type < sizeof(names) / sizeof(names[0]) && names[type] ? names[type] : "other message";
}

/* encoding */

static void put_header(struct fm_of_writer *w, unsigned type, uint32_t xid)
{
	fm_of_put_u8(w, FM_OF_VERSION);
	fm_of_put_u8(w, type);
	fm_of_put_u16(w, 0);
	fm_of_put_u32(w, xid);
}

static void put_hello(struct fm_of_writer *w, uint32_t versions)
{
	fm_of_put_u16(w, HELLO_VERSIONS);
	fm_of_put_u16(w, 8);
	fm_of_put_u32(w, versions);
}

static void put_features(struct fm_of_writer *w, const struct fm_of_features *f)
{
	fm_of_put_u64(w, f->datapath_id);
	fm_of_put_u32(w, f->buffers);
	fm_of_put_u8(w, f->tables);
	fm_of_put_u8(w, f->auxiliary_id);
	fm_of_put_zeros(w, 2);
	fm_of_put_u32(w, f->capabilities);
	fm_of_put_zeros(w, 4);
}

/* Properties {type, length, mask}, of an even type for slaves, of the odd one above it for the other roles */
static void put_async(struct fm_of_writer *w, const struct fm_of_message *m)
{
	const uint32_t masks[] = { m->async.packet_in, m->async.port_status, m->async.flow_removed };

	for (unsigned type = 0; type < 2 * FM_ARRAY_SIZE(masks); type++) {
		fm_of_put_u16(w, type);
		fm_of_put_u16(w, 8);
		fm_of_put_u32(w, masks[type / 2]);
	}
}

static void put_port_status(struct fm_of_writer *w, const struct fm_of_port_status *s)
{
	fm_of_put_u8(w, s->reason);
	fm_of_put_zeros(w, 7);
	fm_of_put_u32(w, s->port.number);
	fm_of_put_u16(w, PORT_BYTES);
	fm_of_put_zeros(w, 2);
	fm_of_put(w, s->port.mac, 6);
	fm_of_put_zeros(w, 2);
	fm_of_put(w, s->port.name, FM_OF_PORT_NAME_BYTES);
	fm_of_put_u32(w, s->port.down ? PORT_CONFIG_DOWN : 0);
	fm_of_put_u32(w, s->port.link_down ? PORT_STATE_NO_LINK : 0);
}

static bool is_multipart(unsigned kind)
{
	return kind == FM_OF_MULTIPART_FLOWS || kind == FM_OF_MULTIPART_COUNTERS || kind == FM_OF_MULTIPART_PORTS;
}

static int put_multipart(struct fm_of_writer *w, const struct fm_of_message *m, struct fm_error *err)
{
	const struct fm_of_flow_filter *f = &m->multipart.filter;
	bool reply = m->type == FM_OF_MULTIPART_REPLY;

	if (!is_multipart(m->multipart.kind))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "there is no multipart %d", (int)m->multipart.kind);
	fm_of_put_u16(w, m->multipart.kind);
	fm_of_put_u16(w, reply && m->multipart.to_be_continued ? MULTIPART_MORE : 0);
	fm_of_put_zeros(w, 4);
	if (reply) {
		fm_of_put(w, m->multipart.entries.data, m->multipart.entries.n);
	} else if (m->multipart.kind == FM_OF_MULTIPART_FLOWS) {
		fm_of_put_u8(w, f->table);
		fm_of_put_zeros(w, 3);
		fm_of_put_u32(w, FM_OF_PORT_ANY);
		fm_of_put_u32(w, FM_OF_GROUP_ANY);
		fm_of_put_zeros(w, 4);
		fm_of_put_u64(w, f->cookie);
		fm_of_put_u64(w, f->cookie_mask);
		return fm_of_put_match(w, &f->match, err);
	} else if (m->multipart.kind == FM_OF_MULTIPART_COUNTERS) {
		fm_of_put_u32(w, FM_OF_PORT_ANY);
		fm_of_put_zeros(w, 4);
	}
	return 0;
}

static int put_bundle(struct fm_of_writer *w, const struct fm_of_message *m, struct fm_error *err)
{
	if ((unsigned)m->bundle.kind > FM_OF_BUNDLE_DISCARDED)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "there is no bundle control %d", (int)m->bundle.kind);
	fm_of_put_u32(w, m->bundle.id);
	fm_of_put_u16(w, m->bundle.kind);
	fm_of_put_u16(w, m->bundle.flags);
	return 0;
}

static int put_bundle_add(struct fm_of_writer *w, const struct fm_of_message *m, struct fm_error *err)
{
	fm_of_put_u32(w, m->bundle_add.id);
	fm_of_put_zeros(w, 2);
	fm_of_put_u16(w, m->bundle_add.flags);
	size_t start = w->len;
	put_header(w, FM_OF_FLOW_MOD, m->xid);
	if (fm_of_put_flow_mod(w, &m->bundle_add.flow_mod, err) < 0)
		return -1;
	fm_of_patch_u16(w, start + 2, w->len - start);
	return 0;
}

static int put_body(struct fm_of_writer *w, const struct fm_of_message *m, struct fm_error *err)
{
	switch (m->type) {
	case FM_OF_HELLO:
		put_hello(w, m->hello.versions);
		return 0;
	case FM_OF_ERROR:
		fm_of_put_u16(w, m->error.type);
		fm_of_put_u16(w, m->error.code);
		fm_of_put(w, m->error.data.data, m->error.data.n);
		return 0;
	case FM_OF_ECHO_REQUEST:
	case FM_OF_ECHO_REPLY:
		fm_of_put(w, m->echo.data, m->echo.n);
		return 0;
	case FM_OF_FEATURES_REPLY:
		put_features(w, &m->features);
		return 0;
	case FM_OF_SET_CONFIG:
		fm_of_put_u16(w, m->config.flags);
		fm_of_put_u16(w, m->config.miss_send_bytes);
		return 0;
	case FM_OF_SET_ASYNC:
		put_async(w, m);
		return 0;
	case FM_OF_PORT_STATUS:
		put_port_status(w, &m->port_status);
		return 0;
	case FM_OF_FLOW_MOD:
		return fm_of_put_flow_mod(w, &m->flow_mod, err);
	case FM_OF_MULTIPART_REQUEST:
	case FM_OF_MULTIPART_REPLY:
		return put_multipart(w, m, err);
	case FM_OF_ROLE_REQUEST:
	case FM_OF_ROLE_REPLY:
		fm_of_put_u32(w, m->role.role);
		fm_of_put_zeros(w, 4);
		fm_of_put_u64(w, m->role.generation);
		return 0;
	case FM_OF_BUNDLE_CONTROL:
		return put_bundle(w, m, err);
	case FM_OF_BUNDLE_ADD:
		return put_bundle_add(w, m, err);
	case FM_OF_FEATURES_REQUEST:
	case FM_OF_BARRIER_REQUEST:
	case FM_OF_BARRIER_REPLY:
		return 0;
	default:
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "messages of type %d are not written", (int)m->type);
	}
}

int fm_of_encode(const struct fm_of_message *m, void *buf, size_t cap, size_t *ret_len, struct fm_error *err)
{
	struct fm_of_writer w = { .data = buf, .cap = cap < FM_OF_MESSAGE_BYTES_MAX ? cap : FM_OF_MESSAGE_BYTES_MAX };

	put_header(&w, m->type, m->xid);
	if (put_body(&w, m, err) < 0)
		return fm_error_prefix(err, "OpenFlow %s", fm_of_type_to_string(m->type));
	if (w.overflow)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "an OpenFlow %s does not fit into %zu bytes",
		                    fm_of_type_to_string(m->type), w.cap);
	fm_of_patch_u16(&w, 2, w.len);
	*ret_len = w.len;
	return 0;
}

/* decoding */

static uint32_t versions_up_to(unsigned version)
{
	return version >= 31 ? UINT32_MAX : (1u << (version + 1)) - 1;
}

/* Elements: {type, length without padding, value, padding to 8}. Unknown ones are skipped. */
static int get_hello(struct fm_of_reader *r, unsigned version, struct fm_of_message *m, struct fm_error *err)
{
	bool listed = false;

	m->hello.versions = versions_up_to(version);
	for (unsigned i = 0; r->n; i++) {
		unsigned type = fm_of_get_u16(r), length = fm_of_get_u16(r), padding = (8 - length % 8) % 8;

		if (r->overflow || length < 4 || length - 4 > r->n || i >= HELLO_ELEMENTS_MAX)
			return fm_error_set(err, FM_E_DATA_LOSS, "element %u of %u bytes where %zu are left", i, length, r->n);
		struct fm_of_reader value = fm_of_get_part(r, length - 4);
		(void)fm_of_get(r, padding < r->n ? padding : r->n);
		if (type != HELLO_VERSIONS || listed)
			continue;
		if (value.n < 4)
			return fm_error_set(err, FM_E_DATA_LOSS, "an empty list of versions");
		m->hello.versions = fm_of_get_u32(&value);
		listed = true;
	}
	return 0;
}

static int get_error(struct fm_of_reader *r, struct fm_of_message *m)
{
	m->error.type = fm_of_get_u16(r);
	m->error.code = fm_of_get_u16(r);
	m->error.data = (struct fm_of_bytes){ r->data, r->n < ERROR_DATA_BYTES ? r->n : ERROR_DATA_BYTES };
	(void)fm_of_get(r, r->n);
	return 0;
}

static int get_echo(struct fm_of_reader *r, struct fm_of_message *m, struct fm_error *err)
{
	if (r->n > FM_OF_ECHO_BYTES_MAX)
		return fm_error_set(err, FM_E_DATA_LOSS, "%zu bytes of data, at most %u are allowed", r->n, FM_OF_ECHO_BYTES_MAX);
	m->echo = (struct fm_of_bytes){ r->data, r->n };
	(void)fm_of_get(r, r->n);
	return 0;
}

static void get_features(struct fm_of_reader *r, struct fm_of_features *f)
{
	f->datapath_id = fm_of_get_u64(r);
	f->buffers = fm_of_get_u32(r);
	f->tables = fm_of_get_u8(r);
	f->auxiliary_id = fm_of_get_u8(r);
	(void)fm_of_get(r, 2);
	f->capabilities = fm_of_get_u32(r);
	(void)fm_of_get_u32(r);
}

static int get_async(struct fm_of_reader *r, struct fm_of_message *m, struct fm_error *err)
{
	uint32_t *masks[] = { &m->async.packet_in, &m->async.port_status, &m->async.flow_removed };

	for (unsigned i = 0; i < 2 * FM_ARRAY_SIZE(masks); i++) {
		unsigned type = fm_of_get_u16(r), length = fm_of_get_u16(r);
		uint32_t mask = fm_of_get_u32(r);

		if (type != i || length != 8 || (i % 2 && mask != *masks[i / 2]))
			return fm_error_set(err, FM_E_DATA_LOSS, "property %u of %u bytes, which is not one of ours", type, length);
		*masks[i / 2] = mask;
	}
	return 0;
}

static void get_port_name(struct fm_of_reader *r, char name[FM_OF_PORT_NAME_BYTES])
{
	fm_of_get_bytes(r, name, FM_OF_PORT_NAME_BYTES);
	name[FM_OF_PORT_NAME_BYTES - 1] = '\0';
	size_t n = strlen(name);
	memset(name + n, 0, FM_OF_PORT_NAME_BYTES - n);
	fm_str_sanitize(name);
}

int fm_of_get_port(struct fm_of_reader *all, struct fm_of_port *ret, struct fm_error *err)
{
	struct fm_of_port p = { .number = fm_of_get_u32(all) };
	unsigned length = fm_of_get_u16(all);

	if (all->overflow || length < PORT_BYTES || length - 6 > all->n)
		return fm_error_set(err, FM_E_DATA_LOSS, "a port's description of %u bytes where %zu are left", length, all->n);
	struct fm_of_reader r = fm_of_get_part(all, length - 6);
	(void)fm_of_get(&r, 2);
	fm_of_get_bytes(&r, p.mac, 6);
	(void)fm_of_get(&r, 2);
	get_port_name(&r, p.name);
	p.down = fm_of_get_u32(&r) & PORT_CONFIG_DOWN;
	p.link_down = fm_of_get_u32(&r) & PORT_STATE_NO_LINK;
	if (p.number == 0 || p.number == FM_OF_PORT_ANY)
		return fm_error_set(err, FM_E_DATA_LOSS, "a port with number %u", p.number);
	*ret = p;
	return 0;
}

int fm_of_port_next(struct fm_of_bytes *rest, struct fm_of_port *ret, struct fm_error *err)
{
	struct fm_of_reader r = { .data = rest->data, .n = rest->n };

	if (rest->n == 0)
		return 0;
	if (fm_of_get_port(&r, ret, err) < 0)
		return -1;
	*rest = (struct fm_of_bytes){ r.data, r.n };
	return 1;
}

int fm_of_counters_next(struct fm_of_bytes *rest, struct fm_of_counters *ret, struct fm_error *err)
{
	struct fm_of_reader r = { .data = rest->data, .n = rest->n };
	struct fm_of_counters c = { 0 };
	unsigned n = fm_of_get_u16(&r);

	if (rest->n == 0)
		return 0;
	if (r.overflow || n < COUNTERS_BYTES || n % 8 || n > rest->n)
		return fm_error_set(err, FM_E_DATA_LOSS, "counters of a port with %u bytes of %zu", n, rest->n);
	struct fm_of_reader one = fm_of_get_part(&r, n - 2);
	(void)fm_of_get(&one, 2);
	c.port = fm_of_get_u32(&one);
	c.age_us = (uint64_t)fm_of_get_u32(&one) * 1000000;
	c.age_us += fm_of_get_u32(&one) / 1000;
	c.rx_packets = fm_of_get_u64(&one);
	c.tx_packets = fm_of_get_u64(&one);
	c.rx_bytes = fm_of_get_u64(&one);
	c.tx_bytes = fm_of_get_u64(&one); /* dropped, errors and properties are of no interest here */
	*ret = c;
	*rest = (struct fm_of_bytes){ r.data, r.n };
	return 1;
}

static int get_port_status(struct fm_of_reader *r, struct fm_of_port_status *ret, struct fm_error *err)
{
	unsigned reason = fm_of_get_u8(r);

	(void)fm_of_get(r, 7);
	if (!r->overflow && reason > FM_OF_PORT_MODIFIED)
		return fm_error_set(err, FM_E_DATA_LOSS, "reason %u", reason);
	ret->reason = (enum fm_of_port_reason)reason;
	return fm_of_get_port(r, &ret->port, err);
}

static int get_flow_filter(struct fm_of_reader *r, struct fm_of_flow_filter *f, struct fm_error *err)
{
	f->table = fm_of_get_u8(r);
	(void)fm_of_get(r, 3);
	uint32_t port = fm_of_get_u32(r), group = fm_of_get_u32(r);
	(void)fm_of_get(r, 4);
	f->cookie = fm_of_get_u64(r);
	f->cookie_mask = fm_of_get_u64(r);
	if (!r->overflow && (port != FM_OF_PORT_ANY || group != FM_OF_GROUP_ANY))
		return fm_error_set(err, FM_E_DATA_LOSS, "a request for the flows to a port or group");
	return fm_of_get_match(r, &f->match, err);
}

static int get_multipart(struct fm_of_reader *r, struct fm_of_message *m, struct fm_error *err)
{
	unsigned kind = fm_of_get_u16(r), flags = fm_of_get_u16(r);

	(void)fm_of_get(r, 4);
	m->multipart.kind = is_multipart(kind) ? (enum fm_of_multipart)kind : FM_OF_MULTIPART_OTHER;
	if (m->type == FM_OF_MULTIPART_REPLY || m->multipart.kind == FM_OF_MULTIPART_OTHER) {
		m->multipart.to_be_continued = flags & MULTIPART_MORE;
		m->multipart.entries = (struct fm_of_bytes){ r->data, r->n };
		(void)fm_of_get(r, r->n);
		return 0;
	}
	if (kind == FM_OF_MULTIPART_COUNTERS)
		(void)fm_of_get(r, 8); /* of which port; asked for all from here */
	return kind == FM_OF_MULTIPART_FLOWS ? get_flow_filter(r, &m->multipart.filter, err) : 0;
}

static int get_role(struct fm_of_reader *r, struct fm_of_message *m, struct fm_error *err)
{
	uint32_t role = fm_of_get_u32(r);

	(void)fm_of_get(r, 4);
	m->role.generation = fm_of_get_u64(r);
	if (role > FM_OF_ROLE_SLAVE)
		return fm_error_set(err, FM_E_DATA_LOSS, "role %u", role);
	m->role.role = (enum fm_of_role)role;
	return 0;
}

static int get_bundle(struct fm_of_reader *r, struct fm_of_message *m, struct fm_error *err)
{
	m->bundle.id = fm_of_get_u32(r);
	unsigned kind = fm_of_get_u16(r);
	m->bundle.flags = fm_of_get_u16(r);
	if (kind > FM_OF_BUNDLE_DISCARDED)
		return fm_error_set(err, FM_E_DATA_LOSS, "bundle control of type %u", kind);
	m->bundle.kind = (enum fm_of_bundle_kind)kind;
	(void)fm_of_get(r, r->n); /* properties */
	return 0;
}

static int get_bundle_add(struct fm_of_reader *r, struct fm_of_message *m, struct fm_error *err)
{
	m->bundle_add.id = fm_of_get_u32(r);
	(void)fm_of_get(r, 2);
	m->bundle_add.flags = fm_of_get_u16(r);
	unsigned version = fm_of_get_u8(r), type = fm_of_get_u8(r), length = fm_of_get_u16(r);
	uint32_t xid = fm_of_get_u32(r);
	if (r->overflow || version != FM_OF_VERSION || type != FM_OF_FLOW_MOD || xid != m->xid)
		return fm_error_set(err, FM_E_DATA_LOSS, "what it carries is no flow-mod with the same number");
	if (length != r->n + FM_OF_HEADER_BYTES)
		return fm_error_set(err, FM_E_DATA_LOSS, "a flow-mod of %u bytes where %zu are left", length, r->n + FM_OF_HEADER_BYTES);
	return fm_of_get_flow_mod(r, &m->bundle_add.flow_mod, err);
}

static int get_body(struct fm_of_reader *r, unsigned version, struct fm_of_message *m, struct fm_error *err)
{
	switch (m->type) {
	case FM_OF_HELLO:
		return get_hello(r, version, m, err);
	case FM_OF_ERROR:
		return get_error(r, m);
	case FM_OF_ECHO_REQUEST:
	case FM_OF_ECHO_REPLY:
		return get_echo(r, m, err);
	case FM_OF_FEATURES_REPLY:
		get_features(r, &m->features);
		return 0;
	case FM_OF_SET_CONFIG:
		m->config.flags = fm_of_get_u16(r);
		m->config.miss_send_bytes = fm_of_get_u16(r);
		return 0;
	case FM_OF_SET_ASYNC:
		return get_async(r, m, err);
	case FM_OF_PORT_STATUS:
		return get_port_status(r, &m->port_status, err);
	case FM_OF_FLOW_MOD:
		return fm_of_get_flow_mod(r, &m->flow_mod, err);
	case FM_OF_MULTIPART_REQUEST:
	case FM_OF_MULTIPART_REPLY:
		return get_multipart(r, m, err);
	case FM_OF_ROLE_REQUEST:
	case FM_OF_ROLE_REPLY:
		return get_role(r, m, err);
	case FM_OF_BUNDLE_CONTROL:
		return get_bundle(r, m, err);
	case FM_OF_BUNDLE_ADD:
		return get_bundle_add(r, m, err);
	case FM_OF_OTHER:
		(void)fm_of_get(r, r->n);
		return 0;
	default: /* without a body */
		return 0;
	}
}

int fm_of_message_length(const void *header, size_t *ret, struct fm_error *err)
{
	const uint8_t *h = header;
	size_t length = (size_t)h[2] << 8 | h[3];

	if (length < FM_OF_HEADER_BYTES)
		return fm_error_set(err, FM_E_DATA_LOSS, "an OpenFlow message of %zu bytes", length);
	if (h[0] != FM_OF_VERSION && h[1] != FM_OF_HELLO && h[1] != FM_OF_ERROR)
		return fm_error_set(err, FM_E_DATA_LOSS, "an OpenFlow message of type %u in version %u", h[1], h[0]);
	*ret = length;
	return 0;
}

static enum fm_of_type type_of(unsigned number)
{
	if (strcmp(fm_of_type_to_string(number), fm_of_type_to_string(FM_OF_OTHER)) != 0)
		return (enum fm_of_type)number;
	return FM_OF_OTHER;
}

int fm_of_decode(const void *data, size_t n, struct fm_of_message *ret, struct fm_error *err)
{
	const uint8_t *head = data;
	struct fm_of_reader r = { .data = head, .n = n };
	struct fm_of_message m;
	size_t length;

	if (n < FM_OF_HEADER_BYTES)
		return fm_error_set(err, FM_E_DATA_LOSS, "an OpenFlow message of %zu bytes", n);
	if (fm_of_message_length(data, &length, err) < 0)
		return -1;
	if (length != n)
		return fm_error_set(err, FM_E_DATA_LOSS, "an OpenFlow message that says it has %zu bytes, and has %zu", length, n);
	if (head[1] > TYPE_LAST)
		return fm_error_set(err, FM_E_DATA_LOSS, "an OpenFlow message of type %u", head[1]);
	memset(&m, 0, sizeof(m));
	m.type = type_of(head[1]);
	(void)fm_of_get(&r, 4);
	m.xid = fm_of_get_u32(&r);
	if (get_body(&r, head[0], &m, err) < 0)
		return fm_error_prefix(err, "OpenFlow %s", fm_of_type_to_string(head[1]));
	if (r.overflow || r.n)
		return fm_error_set(err, FM_E_DATA_LOSS, "an OpenFlow %s of %zu bytes is too %s", fm_of_type_to_string(head[1]), n,
		                    r.overflow ? "short" : "long");
	*ret = m;
	return 0;
}
