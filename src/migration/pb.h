/* SPDX-License-Identifier: MIT */
/*
 * pb.h - small helpers for the contract's messages as plain structs (protobuf-c).
 * A message made by fm_pb_new (malloc + init) owns what is put into it and is freed as an unpacked one.
 */
#ifndef FM_MIGRATION_PB_H
#define FM_MIGRATION_PB_H

#include <stdlib.h>
#include <string.h>

#include "basic/str.h"
#include "migration/agent-api.h"

static inline void *fm_pb_new_raw(const ProtobufCMessageDescriptor *d)
{
	ProtobufCMessage *m = malloc(d->sizeof_message);
	if (!m)
		abort(); /* as fm_xstrdup: small allocations that cannot be refused usefully */
	protobuf_c_message_init(d, m);
	return m;
}
/* struct Fleximigrate__V1__Container *c = FM_PB_NEW(Container, container); */
#define FM_PB_NEW(Type, lower) ((FM_PB(Type) *)fm_pb_new_raw(&fleximigrate__v1__##lower##__descriptor))

static inline void fm_pb_free(void *message)
{
	if (message)
		protobuf_c_message_free_unpacked(message, NULL);
}
static inline void fm_pb_freep(void *p)
{
	fm_pb_free(*(void **)p);
}
#define _fm_pb_ _fm_cleanup_(fm_pb_freep)

/* Replace a string member. */
static inline void fm_pb_set(char **field, const char *value)
{
	if (*field && *field != (const char *)protobuf_c_empty_string)
		free(*field);
	*field = fm_xstrdup(value ? value : "");
}

/* A container's label, NULL: it has none of this name. */
static inline const char *fm_pb_label(const FM_PB(Container) * c, const char *key)
{
	for (size_t i = 0; c && i < c->n_labels; i++)
		if (fm_streq(c->labels[i]->key, key))
			return c->labels[i]->value;
	return NULL;
}

/* A container's endpoints: the first, and the others. NULL: it has no more of them. */
static inline const FM_PB(Endpoint) * fm_pb_endpoint(const FM_PB(Container) * c, size_t i)
{
	if (i == 0)
		return c->endpoint;
	return c->endpoint && i <= c->n_more_endpoints ? c->more_endpoints[i - 1] : NULL;
}

/* Deep copy by packing. */
static inline void *fm_pb_copy(const void *message)
{
	const ProtobufCMessage *m = message;
	size_t n = protobuf_c_message_get_packed_size(m);
	uint8_t *b = malloc(n ? n : 1);
	if (!b)
		abort();
	protobuf_c_message_pack(m, b);
	void *copy = protobuf_c_message_unpack(m->descriptor, NULL, n, b);
	free(b);
	if (!copy)
		abort();
	return copy;
}

/* Append a copy of a string to a repeated string field. */
static inline void fm_pb_add_string(char ***v, size_t *n, const char *s)
{
	char **grown = realloc(*v, (*n + 1) * sizeof(**v));
	if (!grown)
		abort();
	grown[(*n)++] = fm_xstrdup(s);
	*v = grown;
}

/* Append a message (taken) to a repeated message field. */
#define FM_PB_ADD(array, n, message)                                                                                                       \
	do {                                                                                                                               \
		void *fm_grown_ = realloc((array), ((n) + 1) * sizeof(*(array)));                                                          \
		if (!fm_grown_)                                                                                                            \
			abort();                                                                                                           \
		(array) = fm_grown_;                                                                                                       \
		(array)[(n)++] = (message);                                                                                                \
	} while (0)

#endif
