/* SPDX-License-Identifier: MIT */
/*
 * predictor.h - Decision Engine: what a series of measurements (processor use, memory, bytes a second, …) will be in 1 to 12 steps, and how far from it it may be.
 *
 * One predictor follows one series. It holds an ensemble: several members forecast each on their own, and what is answered is mixed from them with weights that follow each member's recent error
 * on this series and this horizon, so that no member has to be right for all series and a level that shifts costs little. The forecast aims at the conditional median: the error that counts
 * is the absolute one. The interval holds the true value in 90 of 100 cases: its ends are moved after each observation by whether it was inside (docs/DECISION.md, "Prediction", has members,
 * formulas with their sources, and measurements).
 *
 *   fm_predictor_new(&options, &p, err);
 *   for each measurement, in the order of time:
 *       fm_predictor_observe(p, unix_ms, value, err);
 *       fm_predictor_forecast(p, 6, &f, err);            f.low <= f.value <= f.high, 30 minutes ahead with steps of 5 minutes
 *   fm_predictor_save(p, &buf, err); … fm_predictor_load(buf.data, buf.len, &p, err); goes on as if nothing had happened
 *   fm_predictor_free(p);
 *
 * Pure: no i/o, no clock (time is what stamps say), no threads, nothing random but by the seed: the same options and observations give the same forecasts. Different predictors may be used by
 * different threads, one predictor by one at a time. Memory is taken by _new and does not grow. Thousands of series are meant to be followed with
 * FM_PREDICTOR_CHEAP, a few with FM_PREDICTOR_ALL (docs/DECISION.md has bytes and microseconds of each).
 */
#ifndef FM_DECISION_PREDICTOR_H
#define FM_DECISION_PREDICTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/error.h"
#include "basic/str.h"

#define FM_PREDICTOR_HORIZONS   12u        /* steps ahead: 1 to this */
#define FM_PREDICTOR_STEP_MS    300000u    /* the default: 5 minutes */
#define FM_PREDICTOR_BLOB_BYTES (4u << 20) /* a saved state is smaller; a larger one is refused */

/* Kinds of members, bits of fm_predictor_options.members. One kind may be several members (rates, window lengths). */
enum fm_predictor_kind {
	FM_PREDICTOR_LAST = 1u << 0,           /* the last value; always there, asked for or not */
	FM_PREDICTOR_SMOOTHING = 1u << 1,      /* exponential smoothing at several rates, with damped trend */
	FM_PREDICTOR_WINDOW = 1u << 2,         /* medians of windows of several lengths, and since the level last jumped */
	FM_PREDICTOR_SEASONAL = 1u << 3,       /* the same time of the day, the week, and of a period found in the series */
	FM_PREDICTOR_AUTOREGRESSIVE = 1u << 4, /* linear in recent values: recursive least squares, and for the absolute error */
	FM_PREDICTOR_ANALOG = 1u << 5,         /* what followed when the series last looked like now */
	FM_PREDICTOR_FOREST = 1u << 6,         /* random forest, trained again and again on a sliding window */
	FM_PREDICTOR_LSTM = 1u << 7,           /* a small recurrent network, trained as it goes */
};
#define FM_PREDICTOR_CHEAP                                                                                                                 \
	(FM_PREDICTOR_LAST | FM_PREDICTOR_SMOOTHING | FM_PREDICTOR_WINDOW | FM_PREDICTOR_SEASONAL | FM_PREDICTOR_AUTOREGRESSIVE |          \
	 FM_PREDICTOR_ANALOG)
#define FM_PREDICTOR_ALL (FM_PREDICTOR_CHEAP | FM_PREDICTOR_FOREST | FM_PREDICTOR_LSTM)

struct fm_predictor_options {
	uint32_t step_ms; /* distance of observations; 0: FM_PREDICTOR_STEP_MS. 1 s to 1 day */
	uint32_t members; /* kinds; 0: FM_PREDICTOR_CHEAP */
	uint64_t seed;    /* of forest and LSTM */
	bool bounded;     /* forecasts and intervals are kept within what such a value can be, e.g. 0 to 100 for percent of a processor */
	double min, max;
};

struct fm_forecast {
	double value;     /* the median of what is expected */
	double low, high; /* 90 % interval; low <= value <= high */
};

struct fm_predictor;

/* INVALID_ARGUMENT for options out of range or kinds that are not known. */
int fm_predictor_new(const struct fm_predictor_options *o, struct fm_predictor **ret, struct fm_error *err);
void fm_predictor_free(struct fm_predictor *p); /* NULL is fine */
FM_DEFINE_CLEANUP(struct fm_predictor *, fm_predictor_free);

/*
 * One measurement. Stamps are put on a grid of steps that begins with the first one. What is missing between the last and this one is told to the members as missing, so a gap costs as many
 * updates as steps; one longer than what is remembered (2048 steps, a week of 5 minutes) makes the predictor begin anew. A second value for a step, or one that comes late (for a step before the
 * newest) is counted, see fm_predictor_stats, and otherwise ignored; both are success. Refused with INVALID_ARGUMENT, without any effect: NaN, infinity, values beyond +-1e15, stamps before 1970 or
 * after the year 9999.
 */
int fm_predictor_observe(struct fm_predictor *p, int64_t unix_ms, double value, struct fm_error *err);

/* From the newest observation, horizon_steps (1 to FM_PREDICTOR_HORIZONS) ahead. FAILED_PRECONDITION before the first observation, INVALID_ARGUMENT for another horizon. */
int fm_predictor_forecast(const struct fm_predictor *p, unsigned horizon_steps, struct fm_forecast *ret, struct fm_error *err);

/*
 * All that was learnt as bytes (appended to *out), for fm_predictor_load: magic, version, CRC-32, then the state in the byte order of this machine's kind (little endian is checked). Load trusts
 * nothing: another version is FAILED_PRECONDITION (begin anew), anything else that is wrong DATA_LOSS.
 */
int fm_predictor_save(const struct fm_predictor *p, struct fm_buf *out, struct fm_error *err);
int fm_predictor_load(const void *data, size_t n, struct fm_predictor **ret, struct fm_error *err);

struct fm_predictor_stats {
	uint64_t observations, duplicates, late, missing_steps;
	size_t memory_bytes; /* held by this predictor */
};
void fm_predictor_stats(const struct fm_predictor *p, struct fm_predictor_stats *ret);

/* The members in use: name ("smoothing-0.3"; lives as long as p), kind, share of the forecast at a horizon (0 to 1, together about 1). index from 0 on; false after the last one. */
struct fm_predictor_member {
	const char *name;
	enum fm_predictor_kind kind;
	double weight;
};
bool fm_predictor_member(const struct fm_predictor *p, unsigned index, unsigned horizon_steps, struct fm_predictor_member *ret);

/* "smoothing,seasonal", "cheap", "all" <-> kinds. INVALID_ARGUMENT lists the names. */
int fm_predictor_kinds_from_string(const char *names, uint32_t *ret, struct fm_error *err);
const char *fm_predictor_kind_to_string(enum fm_predictor_kind kind); /* never NULL */

#endif
