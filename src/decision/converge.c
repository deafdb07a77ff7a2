/* SPDX-License-Identifier: MIT */
/* converge.c - see converge.h for the model. */
#include "decision/converge.h"

#include <stdarg.h>
#include <stdio.h>

#include "basic/limits.h"
#include "basic/str.h"

#define BASE_MS        60u
#define OVERLAP_MS     20u
#define DOWNTIME_MS    300u
#define ROUNDS_MS      300000u
#define FACTOR_PERCENT 300u
#define THROTTLE_FACTOR_PERCENT                                                                                                            \
	1500u /* nine steps up to the highest throttle, each a round that may send everything, and what it sends after them */
#define THROTTLE_FIRST_PERCENT 20u
#define THROTTLE_STEP_PERCENT  10u
#define ROUNDS                 30u
#define SMALL_BYTES            (2u << 20) /* a set this small is not worth another round */
#define TELLING_BYTES          (1u << 20) /* smaller rounds say nothing about the rate */
#define DEFAULT_RATE           (200u << 20)
#define STREAMS_MAX            4u
#define IN_VAIN_BYTES          (8u << 20)
#define PROGRESS_PERCENT       80u /* a round that leaves more than this of the one before does not shrink */

static uint64_t or_default(uint64_t v, uint64_t d)
{
	return v ? v : d;
}

static uint64_t best_rate(const struct fm_converge_round *r, unsigned n)
{
	uint64_t best = 0;
	for (unsigned i = 0; i < n; i++) {
		uint64_t rate = r[i].us ? r[i].changed_bytes * 1000000 / r[i].us : 0;
		if (r[i].changed_bytes >= TELLING_BYTES && rate > best)
			best = rate;
	}
	return best ? best : DEFAULT_RATE;
}

__attribute__((format(printf, 3, 4))) static void decide(struct fm_converge_decision *d, enum fm_converge_verdict v, const char *fmt, ...)
{
	va_list ap;
	d->verdict = v;
	va_start(ap, fmt);
	(void)vsnprintf(d->reason, sizeof(d->reason), fmt, ap);
	va_end(ap);
}

static uint64_t max_factor_percent(const struct fm_converge_limits *l)
{
	return or_default(l->max_factor_percent, l->max_throttle_percent ? THROTTLE_FACTOR_PERCENT : FACTOR_PERCENT);
}

static const char *limit_reached(const struct fm_converge_limits *l, const struct fm_converge_round *r, unsigned n)
{
	uint64_t sent = 0, us = 0;
	for (unsigned i = 0; i < n; i++) {
		sent += r[i].sent_bytes;
		us += r[i].us;
	}
	if (us / 1000 >= or_default(l->max_rounds_ms, ROUNDS_MS))
		return "the time for rounds is over";
	if (sent / 100 >= r[0].changed_bytes / 10000 * max_factor_percent(l) && n > 1)
		return "as much was sent as may be for this memory";
	return n >= or_default(l->max_rounds, ROUNDS) ? "no more rounds are allowed" : NULL;
}

static uint32_t next_throttle(uint32_t max_percent, uint32_t now_percent)
{
	uint32_t next = now_percent ? now_percent + THROTTLE_STEP_PERCENT : THROTTLE_FIRST_PERCENT;
	uint32_t max = max_percent < FM_MAX_THROTTLE_PERCENT ? max_percent : FM_MAX_THROTTLE_PERCENT;
	if (next > max)
		next = max;
	return next > now_percent ? next : now_percent;
}

/* How many of the last rounds had the throttle that is in force now. */
static unsigned rounds_alike(const struct fm_converge_round *r, unsigned n)
{
	unsigned k = 1;
	while (k < n && r[n - 1 - k].throttle_percent == r[n - 1].throttle_percent)
		k++;
	return k;
}

/* What there is to decide upon: the last round as the ones before make it look. */
struct outlook {
	const char *limit; /* that was reached */
	bool stuck;        /* rounds do not shrink */
	bool hopeless;     /* nor did they before, under the same throttle */
	bool fits;         /* what is left can be sent inside the freeze */
	uint32_t throttle, next_throttle;
	unsigned alike;
};

static struct outlook look(const struct fm_converge_limits *l, const struct fm_converge_round *r, unsigned n, uint64_t sending_downtime_ms)
{
	struct outlook o = { .limit = limit_reached(l, r, n), .throttle = r[n - 1].throttle_percent };
	o.next_throttle = next_throttle(l->max_throttle_percent, o.throttle);
	o.alike = rounds_alike(r, n);
	o.stuck = n > 1 && r[n - 1].changed_bytes * 100 > r[n - 2].changed_bytes * PROGRESS_PERCENT;
	o.hopeless = o.stuck && n > 3 && o.alike > 2 && r[n - 2].changed_bytes * 100 > r[n - 3].changed_bytes * PROGRESS_PERCENT;
	o.fits = sending_downtime_ms <= or_default(l->max_downtime_ms, DOWNTIME_MS);
	return o;
}

/* With throttling allowed, more of it comes before giving up; a throttle of which nothing can be seen yet gets its round. */
static bool throttle_more(const struct outlook *o, struct fm_converge_decision *d, const char *left)
{
	if (!o->stuck || o->limit || o->fits || (o->next_throttle == o->throttle && o->alike > 1))
		return false;
	d->throttle_percent = o->next_throttle;
	decide(d, FM_CONVERGE_ANOTHER, "what changes a round does not shrink (%s)", left);
	return true;
}

static void decide_on_demand(const struct outlook *o, struct fm_converge_decision *d, const char *left)
{
	if (o->stuck || o->limit)
		decide(d, FM_CONVERGE_SWITCH, "%s changed again; what is left is fetched on demand", left);
	else
		decide(d, FM_CONVERGE_ANOTHER, "%s changed during the last round", left);
}

static void decide_pre_copy(const struct outlook *o, const struct fm_converge_limits *l, struct fm_converge_decision *d, const char *left)
{
	unsigned long long predicted = d->predicted_downtime_ms, target = or_default(l->max_downtime_ms, DOWNTIME_MS);
	char tried[64] = "";
	if (o->throttle)
		(void)snprintf(tried, sizeof(tried), ", although it was throttled to %u %% of its processor time", 100 - o->throttle);

	if (o->stuck && o->fits)
		decide(d, FM_CONVERGE_SWITCH, "%s are left, and more rounds do not make it less: about %llu ms of downtime", left,
		       predicted);
	else if (o->limit && o->fits)
		decide(d, FM_CONVERGE_SWITCH, "%s are left: about %llu ms of downtime", left, predicted);
	else if (o->limit)
		decide(d, FM_CONVERGE_HOPELESS, "%s: %s change during a round%s, which would mean %llu ms of downtime, not %llu", o->limit,
		       left, tried, predicted, target);
	else if (o->hopeless)
		decide(d, FM_CONVERGE_HOPELESS,
		       "the rounds do not get smaller: %s change during each%s, which would mean %llu ms of downtime, not %llu", left,
		       tried, predicted, target);
	else
		decide(d, FM_CONVERGE_ANOTHER, "%s changed during the last round", left);
}

void fm_converge(const struct fm_converge_limits *l, const struct fm_converge_round *r, unsigned n, bool on_demand, uint64_t base_ms,
                 struct fm_converge_decision *ret)
{
	struct fm_converge_decision d = { .verdict = FM_CONVERGE_ANOTHER };
	uint64_t base = or_default(base_ms, BASE_MS);
	char left[32];

	if (n == 0) {
		decide(&d, FM_CONVERGE_ANOTHER, "nothing has been sent yet");
		*ret = d;
		return;
	}
	/* What the last round found is what the next one, or the freeze, is expected to find: writing goes on as it did. */
	uint64_t last = r[n - 1].changed_bytes;
	d.rate_bytes_per_s = best_rate(r, n);
	uint64_t send_ms = last * 1000 / d.rate_bytes_per_s;
	uint64_t sending_downtime_ms = base + (send_ms < OVERLAP_MS ? 0 : send_ms - OVERLAP_MS);
	d.predicted_downtime_ms = on_demand ? base : sending_downtime_ms;
	(void)fm_format_bytes(last, left, sizeof(left));
	struct outlook o = look(l, r, n, sending_downtime_ms);
	d.throttle_percent = o.throttle;

	if (n > 1 && last <= SMALL_BYTES)
		decide(&d, FM_CONVERGE_SWITCH, "only %s changed during the last round", left);
	else if (throttle_more(&o, &d, left))
		;
	else if (on_demand)
		decide_on_demand(&o, &d, left);
	else
		decide_pre_copy(&o, l, &d, left);
	*ret = d;
}

bool fm_converge_last_round(const struct fm_converge_round *r, unsigned n, bool on_demand)
{
	uint64_t last = r[n - 1].changed_bytes;
	return !on_demand || n == 1 || last <= IN_VAIN_BYTES || last <= r[0].changed_bytes / 2;
}

unsigned fm_converge_streams(uint32_t processors)
{
	unsigned half = processors / 2;
	return half < 1 ? 1 : half > STREAMS_MAX ? STREAMS_MAX : half;
}

int fm_streams_from_string(const char *text, uint32_t *ret, struct fm_error *err)
{
	int n = 0;
	if (fm_parse_int(text, 0, FM_MAX_PUSH_STREAMS, &n, NULL) < 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%.32s' is no number of streams, 0 to %d", text, FM_MAX_PUSH_STREAMS);
	*ret = (uint32_t)n;
	return 0;
}

int fm_throttle_from_string(const char *text, uint32_t *ret, struct fm_error *err)
{
	int percent = 0;
	if (fm_parse_int(text, 0, FM_MAX_THROTTLE_PERCENT, &percent, NULL) < 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%.32s' is no percentage of processor time to take away, 0 to %d", text,
		                    FM_MAX_THROTTLE_PERCENT);
	*ret = (uint32_t)percent;
	return 0;
}
