/* SPDX-License-Identifier: MIT */
/* converge.c - see converge.h for the model. */
#include "decision/converge.h"

#include <stdarg.h>
#include <stdio.h>

#include "basic/str.h"

#define BASE_MS          60u
#define OVERLAP_MS       20u
#define DOWNTIME_MS      300u
#define ROUNDS_MS        300000u
#define FACTOR_PERCENT   300u
#define ROUNDS           30u
#define SMALL_BYTES      (2u << 20) /* a set this small is not worth another round */
#define TELLING_BYTES    (1u << 20) /* smaller rounds say nothing about the rate */
#define DEFAULT_RATE     (200u << 20)
#define PROGRESS_PERCENT 80u /* a round that leaves more than this of the one before does not shrink */

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

static const char *limit_reached(const struct fm_converge_limits *l, const struct fm_converge_round *r, unsigned n)
{
	uint64_t sent = 0, us = 0;
	for (unsigned i = 0; i < n; i++) {
		sent += r[i].sent_bytes;
		us += r[i].us;
	}
	if (us / 1000 >= or_default(l->max_rounds_ms, ROUNDS_MS))
		return "the time for rounds is over";
	if (sent / 100 >= r[0].changed_bytes / 10000 * or_default(l->max_factor_percent, FACTOR_PERCENT) && n > 1)
		return "as much was sent as may be for this memory";
	return n >= or_default(l->max_rounds, ROUNDS) ? "no more rounds are allowed" : NULL;
}

void fm_converge(const struct fm_converge_limits *l, const struct fm_converge_round *r, unsigned n, bool on_demand, uint64_t base_ms,
                 struct fm_converge_decision *ret)
{
	struct fm_converge_decision d = { .verdict = FM_CONVERGE_ANOTHER };
	uint64_t base = or_default(base_ms, BASE_MS), target = or_default(l->max_downtime_ms, DOWNTIME_MS);
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
	d.predicted_downtime_ms = base + (on_demand || send_ms < OVERLAP_MS ? 0 : send_ms - OVERLAP_MS);
	(void)fm_format_bytes(last, left, sizeof(left));
	bool stuck = n > 1 && last * 100 > r[n - 2].changed_bytes * PROGRESS_PERCENT;
	const char *limit = limit_reached(l, r, n);

	if (n > 1 && last <= SMALL_BYTES)
		decide(&d, FM_CONVERGE_SWITCH, "only %s changed during the last round", left);
	else if (on_demand && (stuck || limit))
		decide(&d, FM_CONVERGE_SWITCH, "%s changed again; what is left is fetched on demand", left);
	else if (!on_demand && n > 1 && stuck && d.predicted_downtime_ms <= target)
		decide(&d, FM_CONVERGE_SWITCH, "%s are left, and more rounds do not make it less: about %llu ms of downtime", left,
		       (unsigned long long)d.predicted_downtime_ms);
	else if (!on_demand && limit && d.predicted_downtime_ms <= target)
		decide(&d, FM_CONVERGE_SWITCH, "%s are left: about %llu ms of downtime", left, (unsigned long long)d.predicted_downtime_ms);
	else if (!on_demand && limit)
		decide(&d, FM_CONVERGE_HOPELESS, "%s: %s change during a round, which would mean %llu ms of downtime, not %llu", limit,
		       left, (unsigned long long)d.predicted_downtime_ms, (unsigned long long)target);
	else if (!on_demand && stuck && n > 3 && r[n - 2].changed_bytes * 100 > r[n - 3].changed_bytes * PROGRESS_PERCENT)
		decide(&d, FM_CONVERGE_HOPELESS,
		       "the rounds do not get smaller: %s change during each, which would mean %llu ms of downtime, not %llu", left,
		       (unsigned long long)d.predicted_downtime_ms, (unsigned long long)target);
	else
		decide(&d, FM_CONVERGE_ANOTHER, "%s changed during the last round", left);
	*ret = d;
}
