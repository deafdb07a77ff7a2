/* SPDX-License-Identifier: MIT */
/*
 * trace.h - a recorded series as text, and how well it would have been predicted.
 *
 * Text: lines of "stamp,value" as monitoring exports them. A first line that does not begin with a digit is a heading; empty lines and a final line without its end are fine, "\r\n" too. Stamps are ISO 8601,
 * "2014-02-14 14:30:00" or with 'T', with or without a fraction of a second (up to 9 digits) and "Z" or "+hh:mm"; without a zone they are UTC. Values are decimal numbers; "nan" and "inf" are refused. The
 * first line that is wrong is an error with its number: figures about half a file are worse than none.
 */
#ifndef FM_DECISION_TRACE_H
#define FM_DECISION_TRACE_H

#include <stddef.h>
#include <stdint.h>

#include "basic/error.h"
#include "decision/predictor.h"

struct fm_trace_point {
	int64_t unix_ms;
	double value;
};
struct fm_trace {
	struct fm_trace_point *point; /* in the order of the text */
	size_t n;
	uint32_t step_ms; /* the most frequent distance of neighbouring points; the smallest of those equally frequent */
};
/* INVALID_ARGUMENT with the line's number; RESOURCE_EXHAUSTED over FM_MAX_TRACE_POINTS. At least two points with a distance of 1 s to 1 day. */
int fm_trace_parse(const char *text, size_t n, struct fm_trace *ret, struct fm_error *err);
void fm_trace_done(struct fm_trace *t);

struct fm_backtest_horizon {
	uint64_t scored; /* forecasts that met their value */
	double mae, last_mae;
	double ratio;    /* mae / last_mae; 1 when both are 0, infinity when only last_mae is */
	double coverage; /* share of values inside the 90 % interval, 0 to 1 */
};
struct fm_backtest {
	struct fm_backtest_horizon horizon[FM_PREDICTOR_HORIZONS];
	struct fm_predictor_stats stats;
	struct fm_predictor *predictor; /* as it is at the end, for its members' weights */
};
/*
 * The first 70 % of the points are only observed, the rest is predicted: for each point of it and each horizon, the forecast made that many steps before, from what had been observed then, next to the last
 * value known then. Points without an observation so many steps before are not scored. o->step_ms 0 takes the trace's.
 */
int fm_backtest_run(const struct fm_trace *t, const struct fm_predictor_options *o, struct fm_backtest *ret, struct fm_error *err);
void fm_backtest_done(struct fm_backtest *b);

#endif
