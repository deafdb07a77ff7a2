/* SPDX-License-Identifier: MIT */
/*
 * rules.h - the operator's policies as the manager has them: read from a file or a folder, replaced as a whole when they are read again, asked by every plan (decision/policy.h; docs/POLICIES.md).
 *
 * A manager without --policies has none: NULL is a valid argument everywhere. All functions are for any thread; reading again waits for decisions that are being made, some microseconds each.
 */
#ifndef FM_MIGRATION_RULES_H
#define FM_MIGRATION_RULES_H

#include "basic/error.h"
#include "decision/policy.h"
#include "migration/agent-api.h"

/* A file, or all of a folder that end in .yaml, .yml or .json, sorted by name. INVALID_ARGUMENT with the place of what is wrong; also for a URL of notify() that no request could be sent to. */
int fm_policies_read(const char *path, struct fm_policies **ret, struct fm_error *err);

struct fm_rulebook;
int fm_rulebook_open(const char *path, struct fm_rulebook **ret, struct fm_error *err);
void fm_rulebook_free(struct fm_rulebook *b);
/* From the same path. When something is wrong with it, the policies from before hold. Migrations that are planned already keep their terms. */
int fm_rulebook_reload(struct fm_rulebook *b, struct fm_error *err);
size_t fm_rulebook_count(struct fm_rulebook *b);

/* Borrow the policies as they are now, and give them back; NULL (and nothing to give back) when there are none. */
const struct fm_policies *fm_rulebook_hold(struct fm_rulebook *b);
void fm_rulebook_release(struct fm_rulebook *b);

void fm_rulebook_list(struct fm_rulebook *b, FM_PB(ListPoliciesResponse) * to);
/* One of them as it is listed; the caller frees it. For `policy check`, too. */
FM_PB(Policy) * fm_policy_to_pb(const struct fm_policy *p);

#endif
