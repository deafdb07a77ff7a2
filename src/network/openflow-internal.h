/* SPDX-License-Identifier: MIT */
/*
 * openflow-internal.h - what the files of the OpenFlow codec share: bytes in the network's order, written and read within bounds.
 *
 * Both directions remember that they ran over an end (`overflow`) instead of saying so at each call: a writer writes no more then, a reader gives zeros. Whoever has finished asks once.
 */
#ifndef FM_NETWORK_OPENFLOW_INTERNAL_H
#define FM_NETWORK_OPENFLOW_INTERNAL_H

#include <string.h>

#include "network/openflow-codec.h"

struct fm_of_writer {
	uint8_t *data;
	size_t cap, len;
	bool overflow;
};

struct fm_of_reader {
	const uint8_t *data;
	size_t n;
	bool overflow;
};

static inline void fm_of_put(struct fm_of_writer *w, const void *data, size_t n)
{
	if (w->overflow || n > w->cap - w->len) {
		w->overflow = true;
		return;
	}
	if (data && n)
		memcpy(w->data + w->len, data, n);
	else if (n)
		memset(w->data + w->len, 0, n);
	w->len += n;
}

static inline void fm_of_put_zeros(struct fm_of_writer *w, size_t n)
{
	fm_of_put(w, NULL, n);
}

static inline void fm_of_put_u8(struct fm_of_writer *w, unsigned v)
{
	uint8_t b = (uint8_t)v;

	fm_of_put(w, &b, 1);
}

static inline void fm_of_put_u16(struct fm_of_writer *w, unsigned v)
{
	uint8_t b[2] = { (uint8_t)(v >> 8), (uint8_t)v };

	fm_of_put(w, b, sizeof(b));
}

static inline void fm_of_put_u32(struct fm_of_writer *w, uint32_t v)
{
	fm_of_put_u16(w, v >> 16);
	fm_of_put_u16(w, v & 0xffff);
}

static inline void fm_of_put_u64(struct fm_of_writer *w, uint64_t v)
{
	fm_of_put_u32(w, (uint32_t)(v >> 32));
	fm_of_put_u32(w, (uint32_t)v);
}

/* Write a length that is known only now. */
static inline void fm_of_patch_u16(struct fm_of_writer *w, size_t at, size_t v)
{
	if (w->overflow)
		return;
	w->data[at] = (uint8_t)(v >> 8);
	w->data[at + 1] = (uint8_t)v;
}

/* Zeros up to a multiple of 8 bytes, counted from `start`. */
static inline void fm_of_pad(struct fm_of_writer *w, size_t start)
{
	fm_of_put_zeros(w, (8 - (w->len - start) % 8) % 8);
}

/* The next n bytes, or NULL */
static inline const uint8_t *fm_of_get(struct fm_of_reader *r, size_t n)
{
	const uint8_t *p = r->data;

	if (r->overflow || n > r->n) {
		r->overflow = true;
		return NULL;
	}
	r->data += n;
	r->n -= n;
	return p;
}

static inline void fm_of_get_bytes(struct fm_of_reader *r, void *ret, size_t n)
{
	const uint8_t *p = fm_of_get(r, n);

	if (p)
		memcpy(ret, p, n);
	else
		memset(ret, 0, n);
}

static inline uint8_t fm_of_get_u8(struct fm_of_reader *r)
{
	const uint8_t *p = fm_of_get(r, 1);

	return p ? *p : 0;
}

static inline uint16_t fm_of_get_u16(struct fm_of_reader *r)
{
	const uint8_t *p = fm_of_get(r, 2);

	return p ? (uint16_t)(p[0] << 8 | p[1]) : 0;
}

static inline uint32_t fm_of_get_u32(struct fm_of_reader *r)
{
	uint32_t high = fm_of_get_u16(r);

	return high << 16 | fm_of_get_u16(r);
}

static inline uint64_t fm_of_get_u64(struct fm_of_reader *r)
{
	uint64_t high = fm_of_get_u32(r);

	return high << 32 | fm_of_get_u32(r);
}

/* A part of n bytes as a reader of its own; empty (and overflow at the first read of it) when there are not so many */
static inline struct fm_of_reader fm_of_get_part(struct fm_of_reader *r, size_t n)
{
	const uint8_t *p = fm_of_get(r, n);

	return (struct fm_of_reader){ .data = p, .n = p ? n : 0, .overflow = !p };
}

/* openflow-flow.c. Writers check the meaning (INVALID_ARGUMENT), readers the form (DATA_LOSS). */
int fm_of_put_match(struct fm_of_writer *w, const struct fm_of_match *m, struct fm_error *err);
int fm_of_get_match(struct fm_of_reader *r, struct fm_of_match *ret, struct fm_error *err);
int fm_of_put_flow_mod(struct fm_of_writer *w, const struct fm_of_flow_mod *f, struct fm_error *err);
int fm_of_get_flow_mod(struct fm_of_reader *r, struct fm_of_flow_mod *ret, struct fm_error *err);

/* openflow-codec.c */
int fm_of_get_port(struct fm_of_reader *r, struct fm_of_port *ret, struct fm_error *err);

#endif
