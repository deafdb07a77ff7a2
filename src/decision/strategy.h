/* SPDX-License-Identifier: MIT */
/* strategy.h - Decision Engine: the strategies and their names. What they cost: cost.h; which one is taken: selector.h. */
#ifndef FM_DECISION_STRATEGY_H
#define FM_DECISION_STRATEGY_H

#include "basic/error.h"

enum fm_strategy {
	FM_STRATEGY_AUTO = 1,
	FM_STRATEGY_COLD = 2,
	FM_STRATEGY_PRE_COPY = 3,
	FM_STRATEGY_POST_COPY = 4,
	FM_STRATEGY_LIVE = 5,
	_FM_STRATEGY_MAX
};
const char *fm_strategy_to_string(enum fm_strategy s);                                      /* "post-copy"; never NULL */
int fm_strategy_from_string(const char *name, enum fm_strategy *ret, struct fm_error *err); /* INVALID_ARGUMENT lists the names */
/* INVALID_ARGUMENT for a number that is none */
int fm_strategy_check_available(enum fm_strategy s, struct fm_error *err);

#endif
