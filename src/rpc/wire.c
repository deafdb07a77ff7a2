/* SPDX-License-Identifier: MIT */
/*
 * wire.c - design note.
 *
 * protobuf-c neither checks UTF-8 nor bounds the memory of a parsed message: an empty submessage is two bytes on the wire and some hundred
 * in memory. Hence an allocator with a budget (plain malloc beneath, so that the default free function works later), and one walk over a
 * message by its descriptor that either checks all strings or repairs them.
 *
 * Outgoing messages are const and may hold literals: repair works on a copy made by pack and unpack. That is slow and rare.
 */
#include <stdlib.h>
#include <string.h>

#include "basic/limits.h"
#include "fleximigrate.pb-c.h"
#include "rpc/wire.h"

struct budget {
	size_t left;
	bool exceeded;
};

static void *budget_alloc(void *userdata, size_t size)
{
	struct budget *b = userdata;

	if (size > b->left) {
		b->exceeded = true;
		return NULL;
	}
	b->left -= size;
	return malloc(size);
}

static void budget_free(void *userdata, void *p)
{
	free(p);
}

/* Length of the well-formed UTF-8 sequence at s, 0 when there is none (RFC 3629: no overlong forms, no surrogates, up to U+10FFFF). */
static size_t utf8_sequence(const unsigned char *s, size_t n)
{
	unsigned char low = 0x80, high = 0xbf;
	size_t len;

	if (n == 0)
		return 0;
	if (s[0] < 0x80)
		return 1;
	if (s[0] < 0xc2 || s[0] > 0xf4)
		return 0;
	len = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
	if (s[0] == 0xe0)
		low = 0xa0;
	else if (s[0] == 0xed)
		high = 0x9f;
	else if (s[0] == 0xf0)
		low = 0x90;
	else if (s[0] == 0xf4)
		high = 0x8f;
	if (n < len || s[1] < low || s[1] > high)
		return 0;
	for (size_t i = 2; i < len; i++)
		if (s[i] < 0x80 || s[i] > 0xbf)
			return 0;
	return len;
}

/* Returns false when a byte was bad and `repair` did not ask to replace it. */
static bool walk_string(char *s, bool repair)
{
	size_t n = s ? strlen(s) : 0;

	for (size_t i = 0; i < n;) {
		size_t len = utf8_sequence((unsigned char *)s + i, n - i);

		if (len == 0) {
			if (!repair)
				return false;
			s[i] = '?';
			len = 1;
		}
		i += len;
	}
	return true;
}

static bool walk_message(const ProtobufCMessage *m, bool repair, const char **ret_field);

static bool walk_value(const ProtobufCFieldDescriptor *f, void *value, bool repair, const char **ret_field)
{
	if (!value)
		return true;
	if (f->type == PROTOBUF_C_TYPE_MESSAGE)
		return walk_message(value, repair, ret_field);
	if (walk_string(value, repair))
		return true;
	*ret_field = f->name;
	return false;
}

/* The contract's messages do not nest in themselves, so that the depth is the schema's. */
static bool walk_message(const ProtobufCMessage *m, bool repair, const char **ret_field) // NOLINT(misc-no-recursion)
{
	const char *base = (const char *)m;

	for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
		void **values;
		size_t n = 1;

		if (f->type != PROTOBUF_C_TYPE_STRING && f->type != PROTOBUF_C_TYPE_MESSAGE)
			continue;
		if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) && *(const uint32_t *)(base + f->quantifier_offset) != f->id)
			continue;
		if (f->label == PROTOBUF_C_LABEL_REPEATED) {
			n = *(const size_t *)(base + f->quantifier_offset);
			values = *(void **const *)(base + f->offset);
		} else {
			values = (void **)(uintptr_t)(base + f->offset);
		}
		for (size_t j = 0; j < n; j++)
			if (!walk_value(f, values[j], repair, ret_field))
				return false;
	}
	return true;
}

static size_t limit_of(const ProtobufCMessageDescriptor *type)
{
	return type == &fleximigrate__v1__snapshot_response__descriptor ? FM_MAX_RPC_SNAPSHOT_BYTES : FM_MAX_RPC_MESSAGE_BYTES;
}

/* NULL with *err filled on failure. */
static uint8_t *pack_as_is(const ProtobufCMessage *message, size_t *ret_len, struct fm_error *err)
{
	size_t n = protobuf_c_message_get_packed_size(message), limit = limit_of(message->descriptor);
	uint8_t *data;

	if (n > limit) {
		fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "cannot send a %s of %zu bytes, the limit is %zu",
		             message->descriptor->short_name, n, limit);
		return NULL;
	}
	data = malloc(n + 1);
	if (data)
		*ret_len = protobuf_c_message_pack(message, data);
	else
		fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "cannot send a %s: out of memory", message->descriptor->short_name);
	return data;
}

/* NULL with *err filled on failure. */
static ProtobufCMessage *parse(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t n, struct fm_error *err)
{
	struct budget budget = { .left = FM_WIRE_MAX_DECODED_BYTES, .exceeded = n > limit_of(type) };
	ProtobufCAllocator allocator = { .alloc = budget_alloc, .free = budget_free, .allocator_data = &budget };
	ProtobufCMessage *m = budget.exceeded ? NULL : protobuf_c_message_unpack(type, &allocator, n, data);

	if (!m && budget.exceeded)
		fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "cannot decode a %s of %zu bytes: too large", type->short_name, n);
	else if (!m)
		fm_error_set(err, FM_E_INVALID_ARGUMENT, "cannot decode a %s of %zu bytes: malformed", type->short_name, n);
	return m;
}

static uint8_t *pack_repaired(const ProtobufCMessage *message, size_t *ret_len, struct fm_error *err)
{
	const char *field = NULL;
	ProtobufCMessage *copy;
	size_t n = 0;
	uint8_t *data = pack_as_is(message, &n, err);

	if (!data)
		return NULL;
	copy = parse(message->descriptor, data, n, err);
	free(data);
	if (!copy)
		return NULL;
	(void)walk_message(copy, true, &field);
	data = pack_as_is(copy, ret_len, err);
	protobuf_c_message_free_unpacked(copy, NULL);
	return data;
}

int fm_wire_pack(const ProtobufCMessage *message, uint8_t **ret, size_t *ret_len, struct fm_error *err)
{
	const char *field = NULL;
	uint8_t *data;
	size_t n = 0;

	data = walk_message(message, false, &field) ? pack_as_is(message, &n, err) : pack_repaired(message, &n, err);
	if (!data)
		return -1;
	*ret = data;
	*ret_len = n;
	return 0;
}

int fm_wire_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t n, ProtobufCMessage **ret, struct fm_error *err)
{
	ProtobufCMessage *m = parse(type, data, n, err);
	const char *field = NULL;

	if (!m)
		return -1;
	if (!walk_message(m, false, &field)) {
		protobuf_c_message_free_unpacked(m, NULL);
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "cannot decode a %s: field %s is not UTF-8", type->short_name, field);
	}
	*ret = m;
	return 0;
}

void fm_wire_text(char *dst, size_t cap, const char *src, size_t n)
{
	size_t out = 0;

	if (cap == 0)
		return;
	for (size_t i = 0; i < n;) {
		size_t len = utf8_sequence((const unsigned char *)src + i, n - i);
		bool bad = len == 0 || (len == 1 && ((unsigned char)src[i] < 0x20 || src[i] == 0x7f));

		if (len == 0)
			len = 1;
		if (out + len >= cap)
			break;
		if (bad)
			dst[out] = '?';
		else
			memcpy(dst + out, src + i, len);
		out += len;
		i += len;
	}
	dst[out] = '\0';
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

static bool is_code(const char *s, size_t n)
{
	return n >= 3 && s[0] == '%' && hex_digit(s[1]) >= 0 && hex_digit(s[2]) >= 0;
}

void fm_wire_trailer_encode(char *dst, size_t cap, const char *src)
{
	static const char digits[] = "0123456789ABCDEF";
	size_t n = strlen(src), out = 0;

	if (cap == 0)
		return;
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)src[i];
		bool code = c < 0x20 || c > 0x7e || is_code(src + i, n - i);

		if (out + (code ? 3 : 1) >= cap)
			break;
		if (code) {
			dst[out++] = '%';
			dst[out++] = digits[c >> 4];
			dst[out++] = digits[c & 15];
		} else {
			dst[out++] = (char)c;
		}
	}
	dst[out] = '\0';
}

void fm_wire_trailer_decode(char *dst, size_t cap, const char *src, size_t n)
{
	char *plain = malloc(n + 1);
	size_t out = 0;

	for (size_t i = 0; plain && i < n; i++) {
		if (is_code(src + i, n - i)) {
			plain[out++] = (char)(hex_digit(src[i + 1]) * 16 + hex_digit(src[i + 2]));
			i += 2;
		} else {
			plain[out++] = src[i];
		}
	}
	fm_wire_text(dst, cap, plain ? plain : "", out);
	free(plain);
}
