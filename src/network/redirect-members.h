/* SPDX-License-Identifier: MIT */
/*
 * redirect-members.h - how a driver reads the members of its action and of its undo. Private to network/.
 *
 * Strict: what is not known, of another kind, or out of bounds is INVALID_ARGUMENT, and the message begins with the driver and names the member: "dns: ttl_s is not …". `where` is the driver's name. Texts have
 * no control characters, and are the object's: they live as long as it does. A member that is missing and not required leaves *ret as it is.
 */
#ifndef FM_NETWORK_REDIRECT_MEMBERS_H
#define FM_NETWORK_REDIRECT_MEMBERS_H

#include <stdbool.h>

#include "network/redirect.h"

/* o is an object that has no other members than `known` (NULL-terminated). */
int fm_members_check(const json_t *o, const char *where, const char *const *known, struct fm_error *err);
/* 1 to max_bytes bytes. */
int fm_member_text(const json_t *o, const char *where, const char *key, bool required, size_t max_bytes, const char **ret,
                   struct fm_error *err);
int fm_member_number(const json_t *o, const char *where, const char *key, uint64_t min, uint64_t max, uint64_t *ret, struct fm_error *err);
int fm_member_bool(const json_t *o, const char *where, const char *key, bool *ret, struct fm_error *err);
/* "where: key TEXT": INVALID_ARGUMENT. */
int fm_member_wrong(const char *where, const char *key, const char *text, struct fm_error *err);
/* The path of a file in the call's secrets_dir that the member names; *ret NULL when it is missing and not required. To be freed. */
int fm_member_secret_path(const struct fm_redirect_call *c, const json_t *o, const char *where, const char *key, bool required, char **ret,
                          struct fm_error *err);
/*
 * What is in that file, without white space at its end: min to cap bytes, *ret_len 0 when the member is missing. Only root or ourselves may own it and nobody else read it (mode 0600 or less), else
 * PERMISSION_DENIED. The caller overwrites ret.
 */
int fm_member_secret(const struct fm_redirect_call *c, const json_t *o, const char *where, const char *key, size_t min, char *ret,
                     size_t cap, size_t *ret_len, struct fm_error *err);
/* What was read of an undo is wrong: DATA_LOSS instead, with the driver's name. Returns -1. */
int fm_members_undo_error(const char *where, struct fm_error *err);

#endif
