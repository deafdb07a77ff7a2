/* SPDX-License-Identifier: MIT */
/*
 * predictor-internal.h - what a predictor is made of: the series, its lag distances, the members' vtable, weights and intervals. For src/decision/ and its tests.
 *
 * Order in one observation (predictor.c): forecasts of 1 to 12 steps ago are scored against the new value (mix, interval); the series takes it; members learn; members forecast all horizons;
 * forecasts are mixed. All of it lies in memory without pointers, so that state is saved by copying (predictor-state.c); what was loaded is checked, but for members' own numbers: forecasts
 * that are no numbers are replaced by the last value.
 */
#ifndef FM_DECISION_PREDICTOR_INTERNAL_H
#define FM_DECISION_PREDICTOR_INTERNAL_H

#include "basic/limits.h"
#include "decision/predictor.h"

#define FM_PREDICTOR_MAX_MEMBERS 40u
#define FM_PREDICTOR_VALUE_MOST  1e15
#define FM_PREDICTOR_STAMP_MOST  253402300799999ll /* the last millisecond of the year 9999 */
#define FM_HORIZONS              FM_PREDICTOR_HORIZONS
#define FM_RECENT                (FM_HORIZONS + 1) /* rings that hold what was known 0 to 12 steps ago */

/* ---------------------------------------------------------------- the series (predictor-series.c) */

#define FM_SERIES_PAST  2048u /* steps that are remembered: a week of 5 minutes and a little */
#define FM_SERIES_ROOM  2560u /* moved to the front when it is full, so that the past is always one piece */
#define FM_LAGS         2016u
#define FM_LAG_RATES    4u
#define FM_NORM_STEPS   97u /* window of center and scale: 8 hours of 5 minutes */
#define FM_LAGS_NEAREST 52u /* 40 neighbours at the longest horizon, for which 11 lags are too short */

struct fm_past {
	double y[FM_SERIES_ROOM];
	uint32_t n;       /* of y; the newest is y[n - 1] */
	uint32_t n_day;   /* steps of a day; 0 when a day is not a whole number of them */
	uint64_t count;   /* all that there have been; recent things are at count % FM_RECENT */
	uint32_t missing; /* 1: the newest was not observed: it is the one before, repeated */
	double center[FM_RECENT], scale[FM_RECENT];
	/* how far the series is from itself so many steps ago: mean absolute difference, older steps counting less by 0.7, 0.85, 0.95, 0.99 a step. lag - 1 is the index. */
	float distance[FM_LAG_RATES][FM_LAGS];
	/* the nearest lags by these distances, nearest first; kept up only if somebody asks for them (wants_lags) */
	uint32_t wants_lags, n_nearest[FM_LAG_RATES];
	uint16_t nearest[FM_LAG_RATES][FM_LAGS_NEAREST];
};

void fm_past_init(struct fm_past *s, uint32_t step_ms, uint32_t members);
void fm_past_add(struct fm_past *s, double value, bool missing);
/* back: 0 is the newest; what is older than the memory is the oldest there is. */
static inline double fm_past_at(const struct fm_past *s, uint32_t back)
{
	return s->y[back < s->n ? s->n - 1 - back : 0];
}
/* Median and mean distance from it of the FM_NORM_STEPS up to `back` steps ago. Scale is above zero. */
void fm_past_norm(const struct fm_past *s, uint32_t back, double *ret_center, double *ret_scale);
/* The lag of the smallest long-run distance, at least 2; 0 when nothing is known yet. */
unsigned fm_past_period(const struct fm_past *s);

/* Median of n values (n > 0), which are reordered; the lower one of two in the middle and the upper one are averaged. */
double fm_median(double *v, unsigned n);

/* ---------------------------------------------------------------- members */

/*
 * A family of members that share work: `n` forecasts with a name each. `state_bytes` of zeroed memory without pointers belong to it and are saved as they are. observe is called after
 * the series has taken a value (also a missing one: windows move, nothing is learnt from it), then forecast; row i of `out` is the forecast of member i for 1 to 12 steps. No errors: a member that
 * cannot forecast says the last value.
 */
struct fm_family {
	enum fm_predictor_kind kind;
	unsigned n;
	const char *names[14];
	size_t state_bytes;
	void (*init)(void *state, uint64_t seed); /* may be NULL */
	void (*observe)(void *state, const struct fm_past *s);
	void (*forecast)(const void *state, const struct fm_past *s, double (*out)[FM_HORIZONS]);
	bool (*wake)(void *state, const struct fm_past *s); /* after loading: false when the state is not possible. May be NULL */
};

extern const struct fm_family fm_family_last, fm_family_smoothing, fm_family_window, fm_family_seasonal, fm_family_autoregressive,
        fm_family_analog, fm_family_forest, fm_family_lstm;
#define FM_FAMILIES 8u
const struct fm_family *fm_family_at(unsigned index); /* index < FM_FAMILIES, in the order of their kinds' bits */

/* ---------------------------------------------------------------- weights (predictor-mix.c) */

struct fm_mix_horizon {
	double loss[FM_PREDICTOR_MAX_MEMBERS];    /* discounted sum of absolute errors */
	double pending[FM_PREDICTOR_MAX_MEMBERS]; /* errors so far of forecasts whose time has not come */
	double typical, typical_weight;           /* the same of the middle member */
	double guard_last, guard_mixed;           /* the same of the last value and of the mixture, over longer */
	double alarm_last, alarm_mixed;           /* the same, over shorter */
	double mixed[FM_RECENT];                  /* what the mixture said, before the guard */
};
struct fm_mix {
	unsigned n; /* members */
	struct fm_mix_horizon horizon[FM_HORIZONS];
	double base[FM_RECENT];                                        /* the value from which was forecast */
	float ahead[FM_RECENT][FM_PREDICTOR_MAX_MEMBERS][FM_HORIZONS]; /* forecasts, relative to base */
};
/* The value of step `count` (steps are numbered from 1) against what was forecast for it. */
void fm_mix_score(struct fm_mix *m, uint64_t count, double value);
/* Remember the members' forecasts made at step `count` and mix them. Member 0 is the last value. */
void fm_mix_forecast(struct fm_mix *m, uint64_t count, double last, double (*members)[FM_HORIZONS], double ret[FM_HORIZONS]);
/* Share of each member at a horizon (index from 0); weights sum to 1. */
void fm_mix_weights(const struct fm_mix *m, unsigned horizon, double weight[FM_PREDICTOR_MAX_MEMBERS]);

/* ---------------------------------------------------------------- intervals (predictor-interval.c) */

#define FM_INTERVAL_RESIDUALS 384u

struct fm_interval {
	uint32_t n, next;                       /* of residual: a ring */
	double miss_low, miss_high;             /* the quantiles in use: 0.05 each if residuals came from one distribution */
	double missed_low, missed_high;         /* share of the newest values that each end missed */
	double low[FM_RECENT], high[FM_RECENT]; /* what was said */
	double said[FM_RECENT];
	float residual[FM_INTERVAL_RESIDUALS]; /* value - forecast */
	float sorted[FM_INTERVAL_RESIDUALS];   /* the same; not saved but made again */
};
void fm_interval_init(struct fm_interval *iv);
bool fm_interval_wake(struct fm_interval *iv);
/* `horizon` from 1. The value of step `count` against what was said at count - horizon. */
void fm_interval_score(struct fm_interval *iv, uint64_t count, unsigned horizon, double value);
/* Ends for a forecast made at step `count`; scale is what to assume while nothing is known. */
void fm_interval_ends(struct fm_interval *iv, uint64_t count, double forecast, double scale, double *ret_low, double *ret_high);

/* ---------------------------------------------------------------- the whole */

struct fm_predictor_core { /* saved by copying */
	struct fm_predictor_options options;
	int64_t origin_ms; /* stamp of the first observation */
	int64_t newest;    /* step of the newest observation, from origin */
	struct fm_predictor_stats stats;
	struct fm_forecast forecast[FM_HORIZONS];
	struct fm_past series;
	struct fm_mix mix;
	struct fm_interval interval[FM_HORIZONS];
};
struct fm_predictor {
	struct fm_predictor_core core;
	const struct fm_family *family[FM_FAMILIES];
	void *state[FM_FAMILIES];
	unsigned n_families;
};
int fm_predictor_options_check(const struct fm_predictor_options *o, struct fm_error *err); /* complete ones */
int fm_predictor_allocate(const struct fm_predictor_options *o, struct fm_predictor **ret,
                          struct fm_error *err); /* families' states, zeroed */
void fm_predictor_begin(struct fm_predictor *p); /* knows nothing; options and stats stay */

/* splitmix64 (Steele, Lea, Flood 2014): 64 bits from a counter; enough to choose samples and first weights. */
static inline uint64_t fm_random_next(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

#endif
