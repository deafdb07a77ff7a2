/* SPDX-License-Identifier: MIT */
/*
 * openflow-flow.c - flows of openflow-codec.h: matches, actions, flow-mods, entries of flow statistics.
 *
 * A match is a list of tagged fields {class, number and "has a mask", length, value}. The table below says which ones are known, what each needs, and where it is kept; it drives both
 * directions, and actions that set a field, too.
 */
#include <stddef.h>
#include <string.h>

#include "network/openflow-internal.h"

#define OXM_CLASS_BASIC    0x8000u
#define OXM_CLASS_WITH_ID  0xffffu /* experimenters': four bytes of identity in front of the value */
#define MATCH_TYPE_OXM     1u
#define VLAN_PRESENT       0x1000u
#define NO_BUFFER          0xffffffffu
#define ETH_IPV4           0x0800u
#define ETH_IPV6           0x86ddu
#define ETH_ARP            0x0806u
#define ACTION_OUTPUT      0u
#define ACTION_GROUP       22u
#define ACTION_SET_FIELD   25u
#define INSTRUCTION_APPLY  4u
#define FLOW_STATS_BYTES   48u /* of an entry, before its match */
#define TO_CONTROLLER_NONE 0u

/* How a value is kept in memory */
enum kept { U16, U32, BYTES };

struct field {
	uint32_t bit;
	uint8_t number, bytes; /* on the wire */
	enum kept kept;
	uint16_t eth_type; /* that has to be matched, too; 0: any */
	size_t offset;     /* in struct fm_of_match */
	uint8_t set;       /* enum fm_of_action_kind that sets it; 0: none */
};

#define AT(name) offsetof(struct fm_of_match, name)

/* In the order in which they are written: what a field needs comes before it. */
static const struct field fields[] = {
	{ FM_OF_IN_PORT, 0, 4, U32, 0, AT(in_port), 0 },
	{ FM_OF_ETH_DST, 3, 6, BYTES, 0, AT(eth_dst), FM_OF_SET_ETH_DST },
	{ FM_OF_ETH_SRC, 4, 6, BYTES, 0, AT(eth_src), FM_OF_SET_ETH_SRC },
	{ FM_OF_ETH_TYPE, 5, 2, U16, 0, AT(eth_type), 0 },
	{ FM_OF_VLAN_VID, 6, 2, U16, 0, AT(vlan_vid), 0 },
	{ FM_OF_IPV4_SRC, 11, 4, BYTES, ETH_IPV4, AT(ipv4_src), FM_OF_SET_IPV4_SRC },
	{ FM_OF_IPV4_DST, 12, 4, BYTES, ETH_IPV4, AT(ipv4_dst), FM_OF_SET_IPV4_DST },
	{ FM_OF_ARP_OP, 21, 2, U16, ETH_ARP, AT(arp_op), 0 },
	{ FM_OF_ARP_SPA, 22, 4, BYTES, ETH_ARP, AT(arp_spa), 0 },
	{ FM_OF_ARP_TPA, 23, 4, BYTES, ETH_ARP, AT(arp_tpa), 0 },
	{ FM_OF_IPV6_SRC, 26, 16, BYTES, ETH_IPV6, AT(ipv6_src), FM_OF_SET_IPV6_SRC },
	{ FM_OF_IPV6_DST, 27, 16, BYTES, ETH_IPV6, AT(ipv6_dst), FM_OF_SET_IPV6_DST },
};
#define N_FIELDS (sizeof(fields) / sizeof(fields[0]))

static const struct field *field_numbered(unsigned number)
{
	for (size_t i = 0; i < N_FIELDS; i++)
		if (fields[i].number == number)
			return &fields[i];
	return NULL;
}

static const struct field *field_set_by(enum fm_of_action_kind kind)
{
	for (size_t i = 0; i < N_FIELDS; i++)
		if (fields[i].set && fields[i].set == kind)
			return &fields[i];
	return NULL;
}

static void put_oxm_header(struct fm_of_writer *w, const struct field *f)
{
	fm_of_put_u16(w, OXM_CLASS_BASIC);
	fm_of_put_u8(w, (unsigned)f->number << 1);
	fm_of_put_u8(w, f->bytes);
}

/* matches */

static int check_match(const struct fm_of_match *m, struct fm_error *err)
{
	if (m->more || m->has & ~FM_OF_FIELDS_ALL)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "the match has fields that are not known here");
	for (size_t i = 0; i < N_FIELDS; i++) {
		const struct field *f = &fields[i];

		if (!(m->has & f->bit) || !f->eth_type)
			continue;
		if (!(m->has & FM_OF_ETH_TYPE) || m->eth_type != f->eth_type)
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a match on field %u needs one on Ethernet type 0x%04x", f->number,
			                    f->eth_type);
	}
	if (m->has & FM_OF_VLAN_VID && m->vlan_vid > 4095 && m->vlan_vid != FM_OF_VLAN_NONE)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%u is no number of a VLAN", m->vlan_vid);
	if (m->has & FM_OF_IN_PORT && (m->in_port == 0 || (m->in_port > FM_OF_PORT_MAX && m->in_port != FM_OF_PORT_LOCAL)))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "no packet comes in from port %u", m->in_port);
	return 0;
}

static void put_field(struct fm_of_writer *w, const struct field *f, const struct fm_of_match *m)
{
	const uint8_t *at = (const uint8_t *)m + f->offset;
	uint16_t v16;
	uint32_t v32;

	put_oxm_header(w, f);
	switch (f->kept) {
	case U16:
		memcpy(&v16, at, sizeof(v16));
		if (f->bit == FM_OF_VLAN_VID)
			v16 = v16 == FM_OF_VLAN_NONE ? 0 : (uint16_t)(v16 | VLAN_PRESENT);
		fm_of_put_u16(w, v16);
		break;
	case U32:
		memcpy(&v32, at, sizeof(v32));
		fm_of_put_u32(w, v32);
		break;
	case BYTES:
		fm_of_put(w, at, f->bytes);
		break;
	}
}

int fm_of_put_match(struct fm_of_writer *w, const struct fm_of_match *m, struct fm_error *err)
{
	size_t start = w->len;

	if (check_match(m, err) < 0)
		return -1;
	fm_of_put_u16(w, MATCH_TYPE_OXM);
	fm_of_put_u16(w, 0);
	for (size_t i = 0; i < N_FIELDS; i++)
		if (m->has & fields[i].bit)
			put_field(w, &fields[i], m);
	fm_of_patch_u16(w, start + 2, w->len - start);
	fm_of_pad(w, start);
	return 0;
}

/* The value of a field without a mask; its length has been checked. False: a value that has no place here. */
static bool get_field(struct fm_of_reader *r, const struct field *f, struct fm_of_match *m)
{
	uint8_t *at = (uint8_t *)m + f->offset;
	uint16_t v16;
	uint32_t v32;

	switch (f->kept) {
	case U16:
		v16 = fm_of_get_u16(r);
		if (f->bit == FM_OF_VLAN_VID) {
			if (v16 != 0 && (v16 & ~0xfffu) != VLAN_PRESENT)
				return false;
			v16 = v16 ? (uint16_t)(v16 & 0xfff) : FM_OF_VLAN_NONE;
		}
		memcpy(at, &v16, sizeof(v16));
		break;
	case U32:
		v32 = fm_of_get_u32(r);
		memcpy(at, &v32, sizeof(v32));
		break;
	case BYTES:
		fm_of_get_bytes(r, at, f->bytes);
		break;
	}
	return true;
}

/* A mask that asks for every bit means the same as none. */
static bool mask_is_full(const uint8_t *mask, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (mask[i] != 0xff)
			return false;
	return true;
}

static int get_oxm(struct fm_of_reader *r, struct fm_of_match *m, struct fm_error *err)
{
	unsigned class = fm_of_get_u16(r), tag = fm_of_get_u8(r), length = fm_of_get_u8(r);
	const struct field *f = class == OXM_CLASS_BASIC ? field_numbered(tag >> 1) : NULL;
	bool masked = tag & 1;
	struct fm_of_reader value = fm_of_get_part(r, length);

	if (r->overflow)
		return fm_error_set(err, FM_E_DATA_LOSS, "a field of a match is cut off");
	if (!f) {
		m->more = true;
		return class == OXM_CLASS_WITH_ID && length < 4
		               ? fm_error_set(err, FM_E_DATA_LOSS, "an experimenter's field without identity")
		               : 0;
	}
	if (length != f->bytes * (masked ? 2u : 1u))
		return fm_error_set(err, FM_E_DATA_LOSS, "field %u of a match has %u bytes", f->number, length);
	if (m->has & f->bit)
		return fm_error_set(err, FM_E_DATA_LOSS, "a match has field %u twice", f->number);
	if ((masked && !mask_is_full(value.data + f->bytes, f->bytes)) || !get_field(&value, f, m)) {
		m->more = true;
		return 0;
	}
	m->has |= f->bit;
	return 0;
}

int fm_of_get_match(struct fm_of_reader *r, struct fm_of_match *ret, struct fm_error *err)
{
	struct fm_of_match m = { 0 };
	unsigned type = fm_of_get_u16(r), length = fm_of_get_u16(r);

	if (r->overflow || length < 4)
		return fm_error_set(err, FM_E_DATA_LOSS, "a match is cut off");
	if (type != MATCH_TYPE_OXM)
		return fm_error_set(err, FM_E_DATA_LOSS, "a match of type %u", type);
	struct fm_of_reader list = fm_of_get_part(r, length - 4);
	(void)fm_of_get(r, (8 - length % 8) % 8);
	if (r->overflow)
		return fm_error_set(err, FM_E_DATA_LOSS, "a match says it has %u bytes, more than there are", length);
	while (list.n)
		if (get_oxm(&list, &m, err) < 0)
			return -1;
	*ret = m;
	return 0;
}

/* actions */

static const void *set_value(const struct fm_of_action *a)
{
	if (a->kind == FM_OF_SET_ETH_DST || a->kind == FM_OF_SET_ETH_SRC)
		return a->mac;
	return a->kind == FM_OF_SET_IPV4_SRC || a->kind == FM_OF_SET_IPV4_DST ? (const void *)&a->ipv4 : (const void *)&a->ipv6;
}

static int put_action(struct fm_of_writer *w, const struct fm_of_action *a, struct fm_error *err)
{
	const struct field *f = field_set_by(a->kind);
	size_t start = w->len;

	if (a->kind == FM_OF_OUTPUT) {
		if (a->number == 0 || a->number == FM_OF_PORT_ANY)
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%u is no port to send to", a->number);
		fm_of_put_u16(w, ACTION_OUTPUT);
		fm_of_put_u16(w, 16);
		fm_of_put_u32(w, a->number);
		fm_of_put_u16(w, TO_CONTROLLER_NONE);
		fm_of_put_zeros(w, 6);
	} else if (a->kind == FM_OF_GROUP) {
		fm_of_put_u16(w, ACTION_GROUP);
		fm_of_put_u16(w, 8);
		fm_of_put_u32(w, a->number);
	} else if (f) {
		fm_of_put_u16(w, ACTION_SET_FIELD);
		fm_of_put_u16(w, 0);
		put_oxm_header(w, f);
		fm_of_put(w, set_value(a), f->bytes);
		fm_of_pad(w, start);
		fm_of_patch_u16(w, start + 2, w->len - start);
	} else {
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "there is no action %d", (int)a->kind);
	}
	return 0;
}

static int put_actions(struct fm_of_writer *w, const struct fm_of_actions *list, struct fm_error *err)
{
	size_t start = w->len;

	if (list->more)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "the flow has actions that are not known here");
	if (list->n > FM_MAX_OF_ACTIONS)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "a flow has %u actions, at most %u are allowed", list->n,
		                    FM_MAX_OF_ACTIONS);
	if (list->n == 0)
		return 0;
	fm_of_put_u16(w, INSTRUCTION_APPLY);
	fm_of_put_u16(w, 0);
	fm_of_put_zeros(w, 4);
	for (unsigned i = 0; i < list->n; i++)
		if (put_action(w, &list->at[i], err) < 0)
			return -1;
	fm_of_patch_u16(w, start + 2, w->len - start);
	return 0;
}

/* SET_FIELD, its header read already. False: of a field that is not set here. */
static bool get_set_field(struct fm_of_reader *r, struct fm_of_action *ret)
{
	unsigned class = fm_of_get_u16(r), tag = fm_of_get_u8(r), length = fm_of_get_u8(r);
	const struct field *f = class == OXM_CLASS_BASIC && !(tag & 1) ? field_numbered(tag >> 1) : NULL;

	if (!f || !f->set || length != f->bytes)
		return false;
	ret->kind = (enum fm_of_action_kind)f->set;
	fm_of_get_bytes(r, (void *)set_value(ret), f->bytes);
	return true;
}

static bool get_action_value(struct fm_of_reader *r, unsigned type, struct fm_of_action *ret)
{
	switch (type) {
	case ACTION_OUTPUT:
		*ret = (struct fm_of_action){ .kind = FM_OF_OUTPUT, .number = fm_of_get_u32(r) };
		(void)fm_of_get(r, 8);
		return ret->number != 0 && ret->number != FM_OF_PORT_ANY;
	case ACTION_GROUP:
		*ret = (struct fm_of_action){ .kind = FM_OF_GROUP, .number = fm_of_get_u32(r) };
		return true;
	case ACTION_SET_FIELD:
		return get_set_field(r, ret);
	default:
		return false;
	}
}

static int get_actions(struct fm_of_reader *r, struct fm_of_actions *list, struct fm_error *err)
{
	while (r->n) {
		struct fm_of_action a = { 0 };
		unsigned type = fm_of_get_u16(r), length = fm_of_get_u16(r);

		if (r->overflow || length < 8 || length % 8 || length - 4 > r->n)
			return fm_error_set(err, FM_E_DATA_LOSS, "an action of %u bytes where %zu are left", length, r->n);
		struct fm_of_reader value = fm_of_get_part(r, length - 4);
		bool known = get_action_value(&value, type, &a);
		if (value.overflow)
			return fm_error_set(err, FM_E_DATA_LOSS, "an action of type %u has %u bytes", type, length);
		if (known && list->n < FM_MAX_OF_ACTIONS && !list->more)
			list->at[list->n++] = a;
		else
			list->more = true;
	}
	return 0;
}

/* Instructions up to the reader's end */
static int get_instructions(struct fm_of_reader *r, struct fm_of_actions *ret, struct fm_error *err)
{
	bool applied = false;

	*ret = (struct fm_of_actions){ 0 };
	while (r->n) {
		unsigned type = fm_of_get_u16(r), length = fm_of_get_u16(r);

		if (r->overflow || length < 8 || length % 8 || length - 4 > r->n)
			return fm_error_set(err, FM_E_DATA_LOSS, "an instruction of %u bytes where %zu are left", length, r->n);
		struct fm_of_reader value = fm_of_get_part(r, length - 4);
		if (type != INSTRUCTION_APPLY) {
			ret->more = true;
			continue;
		}
		if (applied)
			return fm_error_set(err, FM_E_DATA_LOSS, "a flow has two lists of actions to apply");
		applied = true;
		(void)fm_of_get(&value, 4);
		if (get_actions(&value, ret, err) < 0)
			return -1;
	}
	return 0;
}

/* flow-mods */

static bool deletes(enum fm_of_command c)
{
	return c == FM_OF_DELETE || c == FM_OF_DELETE_STRICT;
}

static int check_flow_mod(const struct fm_of_flow_mod *f, struct fm_error *err)
{
	if ((unsigned)f->command > FM_OF_DELETE_STRICT)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "there is no command %d for flows", (int)f->command);
	if (f->table == FM_OF_TABLE_ALL && !deletes(f->command))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a flow is put into one table, not into all");
	if (deletes(f->command) && (f->actions.n || f->actions.more))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a flow that is deleted has no actions");
	return 0;
}

int fm_of_put_flow_mod(struct fm_of_writer *w, const struct fm_of_flow_mod *f, struct fm_error *err)
{
	if (check_flow_mod(f, err) < 0)
		return -1;
	fm_of_put_u64(w, f->cookie);
	fm_of_put_u64(w, f->cookie_mask);
	fm_of_put_u8(w, f->table);
	fm_of_put_u8(w, f->command);
	fm_of_put_u16(w, f->idle_timeout_s);
	fm_of_put_u16(w, f->hard_timeout_s);
	fm_of_put_u16(w, f->priority);
	fm_of_put_u32(w, NO_BUFFER);
	fm_of_put_u32(w, FM_OF_PORT_ANY);
	fm_of_put_u32(w, FM_OF_GROUP_ANY);
	fm_of_put_u16(w, f->flags);
	fm_of_put_u16(w, 0); /* importance */
	if (fm_of_put_match(w, &f->match, err) < 0)
		return -1;
	return put_actions(w, &f->actions, err);
}

/* Only our own come back (in tests, and quoted in errors), so what they never have is refused. */
int fm_of_get_flow_mod(struct fm_of_reader *r, struct fm_of_flow_mod *ret, struct fm_error *err)
{
	struct fm_of_flow_mod f = { 0 };

	f.cookie = fm_of_get_u64(r);
	f.cookie_mask = fm_of_get_u64(r);
	f.table = fm_of_get_u8(r);
	unsigned command = fm_of_get_u8(r);
	f.idle_timeout_s = fm_of_get_u16(r);
	f.hard_timeout_s = fm_of_get_u16(r);
	f.priority = fm_of_get_u16(r);
	uint32_t buffer = fm_of_get_u32(r), port = fm_of_get_u32(r), group = fm_of_get_u32(r);
	f.flags = fm_of_get_u16(r);
	uint16_t importance = fm_of_get_u16(r);
	if (r->overflow)
		return fm_error_set(err, FM_E_DATA_LOSS, "a flow-mod is cut off");
	if (command > FM_OF_DELETE_STRICT || buffer != NO_BUFFER || port != FM_OF_PORT_ANY || group != FM_OF_GROUP_ANY || importance)
		return fm_error_set(err, FM_E_DATA_LOSS, "a flow-mod with command %u, or with a buffer, port or group, or importance",
		                    command);
	f.command = (enum fm_of_command)command;
	if (fm_of_get_match(r, &f.match, err) < 0 || get_instructions(r, &f.actions, err) < 0)
		return -1;
	*ret = f;
	return 0;
}

/* statistics */

int fm_of_flow_next(struct fm_of_bytes *rest, struct fm_of_flow *ret, struct fm_error *err)
{
	struct fm_of_reader all = { .data = rest->data, .n = rest->n };
	struct fm_of_flow f = { 0 };

	if (rest->n == 0)
		return 0;
	unsigned length = fm_of_get_u16(&all);
	if (all.overflow || length < FLOW_STATS_BYTES + 8 || length % 8 || length - 2 > all.n)
		return fm_error_set(err, FM_E_DATA_LOSS, "flow statistics of %u bytes where %zu are left", length, rest->n);
	struct fm_of_reader r = fm_of_get_part(&all, length - 2);
	f.table = fm_of_get_u8(&r);
	(void)fm_of_get_u8(&r);
	f.age_s = fm_of_get_u32(&r);
	(void)fm_of_get_u32(&r); /* nanoseconds of it */
	f.priority = fm_of_get_u16(&r);
	f.idle_timeout_s = fm_of_get_u16(&r);
	f.hard_timeout_s = fm_of_get_u16(&r);
	f.flags = fm_of_get_u16(&r);
	(void)fm_of_get_u32(&r); /* importance, padding */
	f.cookie = fm_of_get_u64(&r);
	f.packets = fm_of_get_u64(&r);
	f.bytes = fm_of_get_u64(&r);
	if (fm_of_get_match(&r, &f.match, err) < 0 || get_instructions(&r, &f.actions, err) < 0)
		return fm_error_prefix(err, "flow statistics");
	*rest = (struct fm_of_bytes){ .data = all.data, .n = all.n };
	*ret = f;
	return 1;
}
