/* SPDX-License-Identifier: MIT */
/* json.c - any message of the contract as JSON, by reflection over its descriptor. Unset optional messages are left out, everything else is there, so that scripts find every key. */
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "basic/cleanup.h"
#include "cli/cli.h"

static json_t *message_to_json(const ProtobufCMessage *m);

static json_t *enum_to_json(const ProtobufCEnumDescriptor *d, int value)
{
	const ProtobufCEnumValue *v = protobuf_c_enum_descriptor_get_value(d, value);
	return v ? json_string(v->name) : json_integer(value);
}

/* One value of a field at p. */
static json_t *value_to_json(const ProtobufCFieldDescriptor *f, const void *p)
{
	switch (f->type) {
	case PROTOBUF_C_TYPE_STRING:
		return json_string(*(const char *const *)p ? *(const char *const *)p : "");
	case PROTOBUF_C_TYPE_MESSAGE:
		return message_to_json(*(const ProtobufCMessage *const *)p);
	case PROTOBUF_C_TYPE_ENUM:
		return enum_to_json(f->descriptor, *(const int *)p);
	case PROTOBUF_C_TYPE_BOOL:
		return json_boolean(*(const protobuf_c_boolean *)p);
	case PROTOBUF_C_TYPE_UINT64:
		return json_integer((json_int_t) * (const uint64_t *)p);
	case PROTOBUF_C_TYPE_INT64:
		return json_integer((json_int_t) * (const int64_t *)p);
	case PROTOBUF_C_TYPE_UINT32:
		return json_integer((json_int_t) * (const uint32_t *)p);
	case PROTOBUF_C_TYPE_INT32:
		return json_integer((json_int_t) * (const int32_t *)p);
	default:
		return json_null(); /* bytes never reach a person */
	}
}

static size_t element_size(const ProtobufCFieldDescriptor *f)
{
	switch (f->type) {
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_MESSAGE:
		return sizeof(void *);
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_INT64:
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
		if (v && f->type != PROTOBUF_C_TYPE_BYTES)
			json_object_set_new(o, f->name, v);
		else
			json_decref(v);
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
