/* SPDX-License-Identifier: MIT */
/*
 * fault.h - enumerated fault points: where tests kill, fail or stall a process on purpose.
 *
 * The environment variable FLEXIMIGRATE_FAULT ("point=action[,point=action…]") arms them; it is read once by fm_fault_new() in main,
 * into an object passed as parameter. Actions: `kill` (SIGKILL self), `fail` (the point reports INTERNAL "injected"), `stall:MS`,
 * and `@N` after the name: only the N-th passage. Unknown names are an error at start, so that a test cannot silently test nothing.
 * The list of points is in fault.c; tests/e2e/chaos.py passes through each (strategies.py through source-throttled).
 */
#ifndef FM_BASIC_FAULT_H
#define FM_BASIC_FAULT_H

#include "basic/error.h"

struct fm_fault;

/* spec NULL or "" gives an object with nothing armed. */
int fm_fault_new(const char *spec, struct fm_fault **ret, struct fm_error *err);
void fm_fault_free(struct fm_fault *f);
/* Pass a point: 0 = go on; -1 = injected failure (err filled). f may be NULL. */
int fm_fault_point(struct fm_fault *f, const char *point, struct fm_error *err);
/* NULL-terminated list of all known points, for --help and tests. */
const char *const *fm_fault_points(void);

#endif
