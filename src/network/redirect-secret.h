/* SPDX-License-Identifier: MIT */
/*
 * redirect-secret.h - the files that actions name, in the call's secrets_dir: an action and its undo have no secrets themselves. Private to network/.
 *
 * `name` is what the member `key` of the action at `at` says; NULL where it says nothing, and then there is none and no error. A name with a '/' or a '.' at its beginning is INVALID_ARGUMENT, a call without
 * secrets_dir FAILED_PRECONDITION.
 */
#ifndef FM_NETWORK_REDIRECT_SECRET_H
#define FM_NETWORK_REDIRECT_SECRET_H

#include "network/fields.h"
#include "network/redirect.h"

/* The file's path, to be freed. */
int fm_redirect_secret_path(const struct fm_redirect_call *c, const char *name, const struct fm_place *at, const char *key, char **ret,
                            struct fm_error *err);
/*
 * What is in the file, without white space at its end: min to cap bytes, *ret_len 0 when there is none. Only root or ourselves may own it and nobody else read it (mode 0600 or less), else
 * PERMISSION_DENIED. The caller overwrites ret.
 */
int fm_redirect_secret(const struct fm_redirect_call *c, const char *name, const struct fm_place *at, const char *key, size_t min,
                       char *ret, size_t cap, size_t *ret_len, struct fm_error *err);

#endif
