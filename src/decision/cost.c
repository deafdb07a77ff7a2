/* SPDX-License-Identifier: MIT */
/*
 * cost.c - see cost.h.
 *
 * The correction is fitted anew with every move over the last HISTORY of them: weighted ridge regression by Cholesky, a few passes for Huber's weights. That is some 10,000 multiplications, and cannot run away
 * as recursive least squares with forgetting can when nothing new is seen for long.
 */
#include "decision/cost.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "decision/snapshot.h"

/* ---- the formula; docs/DECISION.md says where the constants were measured */
#define MB                    1e6
#define DEFAULT_BANDWIDTH     1e9
#define PIPELINE_BYTES_PER_S  400e6 /* of memory that a stream of pages reads, packs and stores on one core */
#define DEFAULT_DIRTY_PART    0.01
#define DEFAULT_COMPRESSION   0.6
#define DEFAULT_CPU_PERCENT   50.0
#define PREPARE_MS            250.0
#define FILES_MS              300.0 /* to look through them on both hosts, however few travel; the first round is sent meanwhile */
#define PROCESS_MS            6.4
#define SWITCH_MS             30.0
#define SWITCH_MS_PER_MB      0.02
#define POST_COPY_MS          4.0
#define ON_DEMAND_MS          150.0 /* until the last page is there, however few there are */
#define ON_DEMAND_BYTES_PER_S 300e6
#define ORDINARY_MS           400.0
#define COLD_MS_PER_MB        1.5
#define FREEZE_ROUND_TRIPS    2.0
#define OVERLAP_MS            20.0
#define SMALL_BYTES           (2.0 * 1024 * 1024)
#define ROUNDS_MAX            30u
#define SHRINKS               0.8
#define BYTES_MAX_FACTOR      3.0
#define ON_DEMAND_SLOWS       0.2 /* of the time that pages are fetched on demand */

/* ---- the correction */
#define HISTORY   256
#define FEATURES  10
#define TARGETS   3
#define PASSES    4
#define HUBER     1.5  /* residuals up to that many scales count fully */
#define AGE_DECAY 0.98 /* a move counts so much less than the next one */
/* The level: what the newest moves were off by together, believed as if so many more had been off by nothing */
#define LEVEL_DECAY 0.8
#define LEVEL_PRIOR 2.0
#define LEVEL_LEAST 1e-3
#define LEVEL_CLIP  6.0 /* no move says more than so many scales */
/* In moves: how strongly "the formula is right" is believed. Of a strategy's own factor little, of slopes more. */
#define RIDGE_LEVEL   0.5
#define RIDGE_SLOPE   6.0
#define BAND_PRIOR    0.7  /* log: without history a factor of two either way */
#define BAND_PRIOR_N  6.0  /* in moves */
#define SCALE_MIN     0.02 /* log: 2 %, below which outcomes do not differ */
#define LOW_QUANTILE  0.1
#define HIGH_QUANTILE 0.9

struct move {
	double x[FEATURES];
	double y[TARGETS]; /* log(outcome / formula); NAN: not measured */
};

struct fit {
	double w[FEATURES];
	double level;     /* log */
	double low, high; /* log, of what is left unexplained */
};

struct fm_cost_model {
	struct move moves[HISTORY];
	unsigned n, next, learnt;
	struct fit fits[TARGETS];
};

/* ---------------------------------------------------------------- formula */

static double or_default(double v, double d)
{
	return isfinite(v) && v >= 0 ? v : d;
}

static double dirty_of(const struct fm_cost_case *c)
{
	return c->dirty_bytes_per_s == FM_UNKNOWN ? DEFAULT_DIRTY_PART * (double)c->memory_bytes : (double)c->dirty_bytes_per_s;
}

static double bandwidth_of(const struct fm_cost_case *c)
{
	return c->bandwidth_bytes_per_s ? (double)c->bandwidth_bytes_per_s : DEFAULT_BANDWIDTH;
}

static double compression_of(const struct fm_cost_case *c)
{
	return fmin(fmax(or_default(c->compressibility, DEFAULT_COMPRESSION), 0.01), 1);
}

/* Of memory, not of what it is packed into. Rounds alone are packed. */
static double rate_of(const struct fm_cost_case *c)
{
	return fmin(PIPELINE_BYTES_PER_S, bandwidth_of(c) / compression_of(c));
}

struct rounds {
	double sent_bytes, left_bytes;
	double first_ms, others_ms;
	unsigned n;
	bool converges;
};

static struct rounds rounds_of(const struct fm_cost_case *c)
{
	double memory = (double)c->memory_bytes, rate = rate_of(c), dirty = dirty_of(c);
	struct rounds r = { .left_bytes = memory, .converges = true };
	while (r.n < ROUNDS_MAX && (r.n == 0 || r.left_bytes > SMALL_BYTES)) {
		double changed = fmin(dirty * (r.left_bytes / rate), memory);
		r.sent_bytes += r.left_bytes;
		*(r.n == 0 ? &r.first_ms : &r.others_ms) += r.left_bytes / rate * 1000;
		r.n++;
		r.converges = changed <= SMALL_BYTES || changed <= SHRINKS * r.left_bytes;
		r.left_bytes = changed;
		if (!r.converges || r.sent_bytes > BYTES_MAX_FACTOR * memory)
			break;
	}
	return r;
}

static double ordinary_or_nested_ms(const struct fm_cost_case *c)
{
	return (c->nested ? SWITCH_MS : ORDINARY_MS) + FREEZE_ROUND_TRIPS * 2 * or_default(c->latency_ms, 0);
}

/* Total without the bytes' own time is the same for all: parent, endpoint, files, verification. */
static void formula(const struct fm_cost_case *c, struct fm_cost *k, double *ret_on_demand_ms)
{
	double mb = (double)c->memory_bytes / MB, files_ms = FILES_MS + (double)c->files_bytes / bandwidth_of(c) * 1000;
	double base = ordinary_or_nested_ms(c) + PROCESS_MS * c->processes;
	double on_demand = 0, before = files_ms, bytes = (double)c->memory_bytes;
	*k = (struct fm_cost){ .converges = true };
	switch (c->strategy) {
	case FM_STRATEGY_COLD:
		k->downtime_ms = base + COLD_MS_PER_MB * mb + bytes / bandwidth_of(c) * 1000;
		break;
	case FM_STRATEGY_POST_COPY:
		k->downtime_ms = base + POST_COPY_MS + SWITCH_MS_PER_MB * mb;
		on_demand = ON_DEMAND_MS + bytes / fmin(ON_DEMAND_BYTES_PER_S, bandwidth_of(c)) * 1000;
		break;
	default: {
		struct rounds r = rounds_of(c);
		double left_ms = r.left_bytes / rate_of(c) * 1000;
		bool live = c->strategy == FM_STRATEGY_LIVE;
		k->rounds = r.n;
		k->converges = r.converges;
		k->downtime_ms = base + SWITCH_MS_PER_MB * mb + (live ? 0 : fmax(0, left_ms - OVERLAP_MS));
		before = fmax(files_ms, r.first_ms) + r.others_ms;
		on_demand = live ? left_ms : 0;
		bytes = (r.sent_bytes + r.left_bytes) * compression_of(c);
	}
	}
	k->total_ms = PREPARE_MS + before + k->downtime_ms + on_demand;
	k->wire_bytes = bytes + (double)c->files_bytes;
	if (ret_on_demand_ms)
		*ret_on_demand_ms = on_demand;
}

/* ---------------------------------------------------------------- correction */

static void features(const struct fm_cost_case *c, double *x)
{
	memset(x, 0, FEATURES * sizeof(*x));
	x[c->strategy - FM_STRATEGY_COLD] = 1; /* four of them */
	x[4] = log1p((double)c->memory_bytes / (64 * MB));
	x[5] = log1p(c->processes);
	x[6] = log1p(dirty_of(c) / MB);
	x[7] = or_default(c->source_cpu_percent, DEFAULT_CPU_PERCENT) / 100;
	x[8] = log1p(or_default(c->latency_ms, 0));
	x[9] = c->strategy == FM_STRATEGY_COLD ? x[4] : 0; /* the only one whose downtime is mostly its memory's */
}

static double dot(const double *a, const double *b)
{
	double sum = 0;
	for (unsigned i = 0; i < FEATURES; i++)
		sum += a[i] * b[i];
	return sum;
}

/* a x = b for a symmetric positive definite a, by Cholesky, in place; the ridge sees to it that a is one */
static void solve(double a[FEATURES][FEATURES], double *b)
{
	for (unsigned i = 0; i < FEATURES; i++)
		for (unsigned j = 0; j <= i; j++) {
			double sum = a[i][j];
			for (unsigned k = 0; k < j; k++)
				sum -= a[i][k] * a[j][k];
			a[i][j] = i == j ? sqrt(sum) : sum / a[j][j];
		}
	for (unsigned i = 0; i < FEATURES; i++) {
		for (unsigned k = 0; k < i; k++)
			b[i] -= a[i][k] * b[k];
		b[i] /= a[i][i];
	}
	for (unsigned i = FEATURES; i-- > 0;) {
		for (unsigned k = i + 1; k < FEATURES; k++)
			b[i] -= a[k][i] * b[k];
		b[i] /= a[i][i];
	}
}

/* The i-th newest of those kept */
static const struct move *move_at(const struct fm_cost_model *m, unsigned age)
{
	return &m->moves[(m->next + HISTORY - 1 - age) % HISTORY];
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

struct residuals {
	double v[HISTORY];
	unsigned n;
};

static void residuals_of(const struct fm_cost_model *m, unsigned target, const double *w, struct residuals *r)
{
	r->n = 0;
	for (unsigned age = 0; age < m->n; age++) {
		const struct move *o = move_at(m, age);
		if (isfinite(o->y[target]))
			r->v[r->n++] = o->y[target] - dot(w, o->x);
	}
}

/* Median of absolute residuals, to a normal distribution's standard deviation */
static double scale_of(const struct residuals *r)
{
	double absolute[HISTORY];
	for (unsigned i = 0; i < r->n; i++)
		absolute[i] = fabs(r->v[i]);
	qsort(absolute, r->n, sizeof(*absolute), by_value);
	return fmax(r->n ? 1.4826 * absolute[r->n / 2] : 1, SCALE_MIN);
}

static void pass(const struct fm_cost_model *m, unsigned target, double scale, double *w)
{
	double a[FEATURES][FEATURES] = { 0 }, b[FEATURES] = { 0 }, weight = 1;
	for (unsigned i = 0; i < FEATURES; i++)
		a[i][i] = i < 4 || i == 9 ? RIDGE_LEVEL : RIDGE_SLOPE;
	for (unsigned age = 0; age < m->n; age++, weight *= AGE_DECAY) {
		const struct move *o = move_at(m, age);
		if (!isfinite(o->y[target]))
			continue;
		double residual = fabs(o->y[target] - dot(w, o->x));
		double counts = weight * (residual <= HUBER * scale ? 1 : HUBER * scale / residual);
		for (unsigned i = 0; i < FEATURES; i++) {
			b[i] += counts * o->x[i] * o->y[target];
			for (unsigned j = 0; j < FEATURES; j++)
				a[i][j] += counts * o->x[i] * o->x[j];
		}
	}
	solve(a, b);
	memcpy(w, b, sizeof(b));
}

/* A machine gets busier, and all its moves take longer: of what the fit leaves the newest moves tell that, whatever their strategy, long before the fit follows. Of those before the from-th newest one. */
static double level_of(const struct residuals *r, unsigned from, double scale)
{
	double sum = 0, weights = LEVEL_PRIOR, weight = 1;
	for (unsigned i = from; i < r->n && weight > LEVEL_LEAST; i++, weight *= LEVEL_DECAY) {
		sum += weight * fmax(fmin(r->v[i], LEVEL_CLIP * scale), -LEVEL_CLIP * scale);
		weights += weight;
	}
	return sum / weights;
}

/* Each without the level that there was before it */
static void unlevel(struct residuals *r, double scale)
{
	for (unsigned i = 0; i < r->n; i++)
		r->v[i] -= level_of(r, i + 1, scale);
}

static double quantile(struct residuals *r, double q)
{
	return r->n ? r->v[(unsigned)(q * (r->n - 1) + 0.5)] : 0;
}

static void fit(struct fm_cost_model *m, unsigned target)
{
	struct fit *f = &m->fits[target];
	struct residuals r;
	double scale = HUGE_VAL; /* the first pass believes everything */
	memset(f->w, 0, sizeof(f->w));
	for (unsigned i = 0; i < PASSES; i++) {
		pass(m, target, scale, f->w);
		residuals_of(m, target, f->w, &r);
		scale = scale_of(&r);
	}
	f->level = level_of(&r, 0, scale);
	unlevel(&r, scale);
	qsort(r.v, r.n, sizeof(*r.v), by_value);
	/* what was fitted to few moves fits them better than it will fit the next one */
	double believed = r.n / (r.n + BAND_PRIOR_N);
	f->low = believed * quantile(&r, LOW_QUANTILE) - (1 - believed) * BAND_PRIOR;
	f->high = believed * quantile(&r, HIGH_QUANTILE) + (1 - believed) * BAND_PRIOR;
}

struct fm_cost_model *fm_cost_model_new(void)
{
	struct fm_cost_model *m = calloc(1, sizeof(*m));
	if (!m)
		abort();
	for (unsigned t = 0; t < TARGETS; t++)
		m->fits[t] = (struct fit){ .low = -BAND_PRIOR, .high = BAND_PRIOR };
	return m;
}

void fm_cost_model_free(struct fm_cost_model *m)
{
	free(m);
}

unsigned fm_cost_learnt(const struct fm_cost_model *m)
{
	return m->learnt;
}

static double bounded(double log_factor)
{
	const double most = log(FM_COST_MAX_FACTOR);
	return fmin(fmax(log_factor, -most), most);
}

void fm_cost_learn(struct fm_cost_model *m, const struct fm_cost_case *c, const struct fm_cost_outcome *o)
{
	struct fm_cost k;
	struct move *move = &m->moves[m->next];
	formula(c, &k, NULL);
	features(c, move->x);
	const double is[TARGETS] = { o->downtime_ms, o->total_ms, o->wire_bytes };
	const double was[TARGETS] = { k.downtime_ms, k.total_ms, k.wire_bytes };
	for (unsigned t = 0; t < TARGETS; t++)
		move->y[t] = is[t] > 0 && was[t] > 0 ? bounded(log(is[t] / was[t])) : NAN;
	m->next = (m->next + 1) % HISTORY;
	m->n += m->n < HISTORY;
	m->learnt++;
	for (unsigned t = 0; t < TARGETS; t++)
		fit(m, t);
}

static void correct(const struct fm_cost_model *m, unsigned target, const double *x, double *value, double *low, double *high)
{
	static const struct fit untaught = { .low = -BAND_PRIOR, .high = BAND_PRIOR };
	const struct fit *f = m ? &m->fits[target] : &untaught;
	*value *= exp(bounded(f->level + dot(f->w, x)));
	*low = *value * exp(fmin(f->low, 0));
	*high = *value * exp(fmax(f->high, 0));
}

void fm_cost_predict(const struct fm_cost_model *m, const struct fm_cost_case *c, struct fm_cost *ret)
{
	double x[FEATURES];
	features(c, x);
	formula(c, ret, NULL);
	correct(m, 0, x, &ret->downtime_ms, &ret->downtime_low_ms, &ret->downtime_high_ms);
	correct(m, 1, x, &ret->total_ms, &ret->total_low_ms, &ret->total_high_ms);
	correct(m, 2, x, &ret->wire_bytes, &ret->wire_low_bytes, &ret->wire_high_bytes);
	ret->total_ms = fmax(ret->total_ms, ret->downtime_ms);
}

double fm_cost_of(const struct fm_cost_case *c, const struct fm_cost *k, double importance)
{
	struct fm_cost uncorrected;
	double on_demand_ms = 0;
	formula(c, &uncorrected, &on_demand_ms);
	double wire_ms = k->wire_bytes / bandwidth_of(c) * 1000;
	return k->downtime_ms * fmax(importance, 0) + k->total_ms / FM_COST_TOTAL_WEIGHT + wire_ms / FM_COST_WIRE_WEIGHT +
	       ON_DEMAND_SLOWS * on_demand_ms;
}
