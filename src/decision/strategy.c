/* SPDX-License-Identifier: MIT */
/* strategy.c - see strategy.h. */
#include "decision/strategy.h"

#include "basic/cleanup.h"
#include "basic/str.h"

static const char *const names[] = { "unspecified", "auto", "cold", "pre-copy", "post-copy", "live" };

const char *fm_strategy_to_string(enum fm_strategy s)
{
	return (unsigned)s < FM_ARRAY_SIZE(names) ? names[s] : names[0];
}

int fm_strategy_from_string(const char *name, enum fm_strategy *ret, struct fm_error *err)
{
	for (unsigned i = FM_STRATEGY_AUTO; i < _FM_STRATEGY_MAX; i++)
		if (fm_streq(names[i], name)) {
			*ret = (enum fm_strategy)i;
			return 0;
		}
	(void)fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%s' is not a strategy", name);
	return fm_error_hint(err, "strategies: auto, live, pre-copy, post-copy, cold");
}

int fm_strategy_check_available(enum fm_strategy s, struct fm_error *err)
{
	if (s >= FM_STRATEGY_AUTO && s < _FM_STRATEGY_MAX)
		return 0;
	return fm_error_set(err, FM_E_INVALID_ARGUMENT, "strategy number %d is unknown", (int)s);
}
