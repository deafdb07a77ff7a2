/* SPDX-License-Identifier: MIT */
/*
 * predictor-state.c - a predictor as bytes and back.
 *
 *   magic "FMPREDIC" · u32 version · u32 CRC-32 of what follows · u64 length of what follows · struct fm_predictor_core · state_bytes of each family in use
 *
 * The structures are copied as they are: a state is for the program that wrote it. The version counts changes of any of them; sizes are part of the check, so a build that forgot to count is refused too.
 * What is loaded may have been made up: counts, indexes and sums are checked. Members' own numbers are not: a member whose forecasts are no numbers is taken to say the last value.
 */
#include <endian.h>
#include <math.h>
#include <string.h>

#include "decision/predictor-internal.h"

#define MAGIC   "FMPREDIC"
#define VERSION 2u

struct header {
	char magic[8];
	uint32_t version, crc;
	uint64_t length;
};

_Static_assert(__BYTE_ORDER == __LITTLE_ENDIAN, "states are little endian");

/* CRC-32 as in IEEE 802.3 (reflected, 0xEDB88320). */
static uint32_t crc32(const uint8_t *data, size_t n)
{
	uint32_t table[256], crc = 0xffffffffu;
	for (uint32_t i = 0; i < 256; i++) {
		table[i] = i;
		for (int bit = 0; bit < 8; bit++)
			table[i] = table[i] & 1 ? table[i] >> 1 ^ 0xedb88320u : table[i] >> 1;
	}
	for (size_t i = 0; i < n; i++)
		crc = crc >> 8 ^ table[(crc ^ data[i]) & 255];
	return ~crc;
}

static size_t body_bytes(const struct fm_predictor *p)
{
	size_t n = sizeof(p->core);
	for (unsigned i = 0; i < p->n_families; i++)
		n += p->family[i]->state_bytes;
	return n;
}

int fm_predictor_save(const struct fm_predictor *p, struct fm_buf *out, struct fm_error *err)
{
	struct header h = { .version = VERSION, .length = body_bytes(p) };
	size_t at = out->len;
	memcpy(h.magic, MAGIC, sizeof(h.magic));
	if (h.length + sizeof(h) > FM_PREDICTOR_BLOB_BYTES)
		return fm_error_set(err, FM_E_INTERNAL, "a predictor's state of %zu bytes", (size_t)h.length);
	fm_buf_add(out, &h, sizeof(h));
	fm_buf_add(out, &p->core, sizeof(p->core));
	for (unsigned i = 0; i < p->n_families; i++)
		if (p->family[i]->state_bytes)
			fm_buf_add(out, p->state[i], p->family[i]->state_bytes);
	h.crc = crc32((const uint8_t *)out->data + at + sizeof(h), h.length);
	memcpy(out->data + at, &h, sizeof(h));
	return 0;
}

static bool lags_are_possible(const struct fm_past *s)
{
	for (unsigned r = 0; r < FM_LAG_RATES; r++) {
		if (s->n_nearest[r] > FM_LAGS_NEAREST)
			return false;
		for (unsigned i = 0; i < s->n_nearest[r]; i++)
			if (s->nearest[r][i] < 1 || s->nearest[r][i] > FM_LAGS || s->nearest[r][i] >= s->n)
				return false;
		for (unsigned i = 0; i < FM_LAGS; i++)
			if (!(s->distance[r][i] >= 0) || !isfinite(s->distance[r][i]))
				return false;
	}
	return true;
}

static bool series_is_possible(const struct fm_past *s)
{
	if (s->n == 0 || s->n > FM_SERIES_ROOM || s->count < s->n || s->count > UINT64_MAX / 2 ||
	    (s->count > s->n && s->n < FM_SERIES_PAST))
		return s->n == 0 && s->count == 0;
	for (uint32_t i = 0; i < s->n; i++)
		if (!(fabs(s->y[i]) <= FM_PREDICTOR_VALUE_MOST))
			return false;
	return lags_are_possible(s);
}

/* Sums that were no numbers would stay so for ever, and with them all weights. */
static bool mix_is_possible(const struct fm_mix *m)
{
	_Static_assert(sizeof(m->horizon[0]) == (2 * FM_PREDICTOR_MAX_MEMBERS + 6 + FM_RECENT) * sizeof(double), "numbers only");
	for (unsigned h = 0; h < FM_HORIZONS; h++) {
		const double *number = m->horizon[h].loss;
		for (unsigned i = 0; i < sizeof(m->horizon[0]) / sizeof(double); i++)
			if (!isfinite(number[i]))
				return false;
	}
	for (unsigned then = 0; then < FM_RECENT; then++)
		for (unsigned i = 0; i < FM_PREDICTOR_MAX_MEMBERS * FM_HORIZONS; i++)
			if (!isfinite(m->base[then]) || !isfinite(m->ahead[then][i / FM_HORIZONS][i % FM_HORIZONS]))
				return false;
	return true;
}

static bool forecasts_are_possible(const struct fm_predictor_core *c)
{
	for (unsigned h = 0; h < FM_HORIZONS; h++)
		if (!(c->forecast[h].low <= c->forecast[h].value && c->forecast[h].value <= c->forecast[h].high))
			return false;
	return c->newest >= 0 && c->newest <= FM_PREDICTOR_STAMP_MOST && c->origin_ms >= 0 && c->origin_ms <= FM_PREDICTOR_STAMP_MOST;
}

/* The loaded bytes are in place: could a predictor have come to this state? What follows from options is set anew. */
static bool wake(struct fm_predictor *p)
{
	struct fm_predictor_core *c = &p->core;
	struct fm_past fresh;
	unsigned n = 0;
	fm_past_init(&fresh, c->options.step_ms, c->options.members);
	if (!series_is_possible(&c->series) || !mix_is_possible(&c->mix) || !forecasts_are_possible(c))
		return false;
	c->series.n_day = fresh.n_day;
	c->series.wants_lags = fresh.wants_lags;
	for (unsigned h = 0; h < FM_HORIZONS; h++)
		if (!fm_interval_wake(&c->interval[h]))
			return false;
	for (unsigned i = 0; i < p->n_families; i++) {
		n += p->family[i]->n;
		if (p->family[i]->wake && !p->family[i]->wake(p->state[i], &c->series))
			return false;
	}
	return c->mix.n == n;
}

static int check_header(const void *data, size_t n, struct fm_error *err)
{
	struct header h;
	if (n < sizeof(h) || n > FM_PREDICTOR_BLOB_BYTES)
		return fm_error_set(err, FM_E_DATA_LOSS, "a predictor's state of %zu bytes", n);
	memcpy(&h, data, sizeof(h));
	if (memcmp(h.magic, MAGIC, sizeof(h.magic)) != 0)
		return fm_error_set(err, FM_E_DATA_LOSS, "this is no predictor's state");
	if (h.version != VERSION)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION,
		                    "a predictor's state of version %u, this program writes %u: it has to begin anew", h.version, VERSION);
	if (h.length != n - sizeof(h) || h.crc != crc32((const uint8_t *)data + sizeof(h), n - sizeof(h)))
		return fm_error_set(err, FM_E_DATA_LOSS, "a predictor's state that is cut or altered");
	return 0;
}

int fm_predictor_load(const void *data, size_t n, struct fm_predictor **ret, struct fm_error *err)
{
	_fm_cleanup_(fm_predictor_freep) struct fm_predictor *p = NULL;
	const uint8_t *at = (const uint8_t *)data + sizeof(struct header);
	struct fm_predictor_options o;
	size_t memory_bytes;
	uint8_t bounded;
	if (check_header(data, n, err) < 0)
		return -1;
	if (n - sizeof(struct header) < sizeof(p->core))
		return fm_error_set(err, FM_E_DATA_LOSS, "a predictor's state of %zu bytes", n);
	memcpy(&o, at + offsetof(struct fm_predictor_core, options), sizeof(o));
	memcpy(&bounded, at + offsetof(struct fm_predictor_core, options.bounded), 1);
	/* a bool that is neither must not even be read */
	if (bounded > 1 || fm_predictor_options_check(&o, NULL) < 0 || !(o.members & FM_PREDICTOR_LAST))
		return fm_error_set(err, FM_E_DATA_LOSS, "a predictor's state with impossible options");
	if (fm_predictor_allocate(&o, &p, err) < 0)
		return -1;
	if (n - sizeof(struct header) != body_bytes(p))
		return fm_error_set(err, FM_E_DATA_LOSS, "a predictor's state of %zu bytes", n);
	memory_bytes = p->core.stats.memory_bytes;
	memcpy(&p->core, at, sizeof(p->core));
	p->core.stats.memory_bytes = memory_bytes;
	at += sizeof(p->core);
	for (unsigned i = 0; i < p->n_families; at += p->family[i++]->state_bytes)
		if (p->family[i]->state_bytes)
			memcpy(p->state[i], at, p->family[i]->state_bytes);
	if (!wake(p))
		return fm_error_set(err, FM_E_DATA_LOSS, "a predictor's state that cannot be");
	*ret = FM_TAKE_PTR(p);
	return 0;
}
