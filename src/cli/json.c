/* SPDX-License-Identifier: MIT */
/* json.c - any message of the contract as JSON, by reflection over its descriptor. Unset optional messages are left out, everything else is there, so that scripts find every key. */
#include <stdio.h>
#include <string.h>

#include <jansson.h>
#include <math.h>

#include "basic/cleanup.h"
#include "basic/str.h"
#include "cli/cli.h"

static json_t *message_to_json(const ProtobufCMessage *m);

static json_t *enum_to_json(const ProtobufCEnumDescriptor *d, int value)
{
	const ProtobufCEnumValue *v = protobuf_c_enum_descriptor_get_value(d, value);
	return v ? json_string(v->name) : json_integer(value);
}

/* Text that is not valid UTF-8 does not fit into JSON: what cannot be shown becomes '?'. */
static json_t *text_to_json(const char *text)
{
	json_t *j = json_string(text ? text : "");
	if (j)
		return j;
	_fm_free_ char *copy = fm_xstrdup(text);
	fm_str_sanitize(copy);
	return json_string(copy);
}

static json_t *bytes_to_json(const ProtobufCBinaryData *b)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	_fm_buf_ struct fm_buf out = FM_BUF_INIT;
	fm_buf_add(&out, "", 0);
	for (size_t i = 0; i < b->len; i += 3) {
		size_t n = b->len - i < 3 ? b->len - i : 3;
		uint32_t v = (uint32_t)b->data[i] << 16 | (n > 1 ? (uint32_t)b->data[i + 1] << 8 : 0) | (n > 2 ? b->data[i + 2] : 0);
		char quad[4] = { digits[v >> 18], digits[v >> 12 & 63], n > 1 ? digits[v >> 6 & 63] : '=', n > 2 ? digits[v & 63] : '=' };
		fm_buf_add(&out, quad, 4);
	}
	return json_string(out.data ? out.data : "");
}

static json_t *unsigned_to_json(uint64_t v)
{
	return v <= INT64_MAX ? json_integer((json_int_t)v) : json_real((double)v);
}

/* One value of a field at p. */
static json_t *value_to_json(const ProtobufCFieldDescriptor *f, const void *p)
{
	switch (f->type) {
	case PROTOBUF_C_TYPE_STRING:
		return text_to_json(*(const char *const *)p);
	case PROTOBUF_C_TYPE_MESSAGE:
		return message_to_json(*(const ProtobufCMessage *const *)p);
	case PROTOBUF_C_TYPE_ENUM:
		return enum_to_json(f->descriptor, *(const int *)p);
	case PROTOBUF_C_TYPE_BOOL:
		return json_boolean(*(const protobuf_c_boolean *)p);
	case PROTOBUF_C_TYPE_FLOAT:
		return isfinite(*(const float *)p) ? json_real((double)*(const float *)p) : json_null();
	case PROTOBUF_C_TYPE_UINT64:
		return unsigned_to_json(*(const uint64_t *)p);
	case PROTOBUF_C_TYPE_BYTES:
		return bytes_to_json(p);
	case PROTOBUF_C_TYPE_INT64:
		return json_integer((json_int_t) * (const int64_t *)p);
	case PROTOBUF_C_TYPE_UINT32:
		return json_integer((json_int_t) * (const uint32_t *)p);
	case PROTOBUF_C_TYPE_INT32:
		return json_integer((json_int_t) * (const int32_t *)p);
	case PROTOBUF_C_TYPE_DOUBLE:
		return isfinite(*(const double *)p) ? json_real(*(const double *)p) : json_null(); /* not known */
	default:
		return json_null(); /* the contract has no other types */
	}
}

static size_t element_size(const ProtobufCFieldDescriptor *f)
{
	switch (f->type) {
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_MESSAGE:
		return sizeof(void *);
	case PROTOBUF_C_TYPE_BYTES:
		return sizeof(ProtobufCBinaryData);
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_DOUBLE:
		return 8;
	case PROTOBUF_C_TYPE_BOOL:
		return sizeof(protobuf_c_boolean);
	default:
		return 4;
	}
}

static json_t *repeated_to_json(const ProtobufCFieldDescriptor *f, const uint8_t *base)
{
	json_t *a = json_array();
	size_t n = *(const size_t *)(const void *)(base + f->quantifier_offset);
	const uint8_t *v = *(const uint8_t *const *)(const void *)(base + f->offset);
	for (size_t i = 0; i < n; i++)
		json_array_append_new(a, value_to_json(f, v + i * element_size(f)));
	return a;
}

static json_t *message_to_json(const ProtobufCMessage *m)
{
	if (!m)
		return NULL;
	json_t *o = json_object();
	const uint8_t *base = (const uint8_t *)m;
	for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
		json_t *v = f->label == PROTOBUF_C_LABEL_REPEATED ? repeated_to_json(f, base) : value_to_json(f, base + f->offset);
		if (v)
			json_object_set_new(o, f->name, v);
	}
	return o;
}

void fm_print_json(const ProtobufCMessage *m)
{
	json_t *j = message_to_json(m);
	if (j)
		(void)json_dumpf(j, stdout, JSON_COMPACT);
	printf("\n");
	(void)fflush(stdout);
	json_decref(j);
}
