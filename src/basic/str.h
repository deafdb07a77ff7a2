/* SPDX-License-Identifier: MIT */
/*
 * str.h - text: growing buffer, formatting, strict parsing of numbers, sizes and durations.
 * Allocation failure aborts in the functions that have no error to return (fm_x*, fm_buf_*, fm_strv_*: small strings); everything fed by
 * outsiders has a limit in its caller.
 */
#ifndef FM_BASIC_STR_H
#define FM_BASIC_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"
#include "basic/error.h"

char *fm_xstrdup(const char *s);
char *fm_xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* snprintf that reports truncation: -1 with RESOURCE_EXHAUSTED. */
int fm_snprintf(char *buf, size_t cap, struct fm_error *err, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

struct fm_buf {
	char *data;
	size_t len, cap;
}; /* data is NUL-terminated when not NULL */
#define FM_BUF_INIT ((struct fm_buf){ 0 })
void fm_buf_add(struct fm_buf *b, const void *data, size_t n);
void fm_buf_addf(struct fm_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void fm_buf_done(struct fm_buf *b);
#define _fm_buf_ _fm_cleanup_(fm_buf_done)

/* A NULL-terminated vector of strings (like argv). */
size_t fm_strv_len(char *const *v);
char **fm_strv_copy(char *const *v);
void fm_strv_free(char **v);
FM_DEFINE_CLEANUP(char **, fm_strv_free);
/* Appends a copy; *v may be NULL. */
void fm_strv_add(char ***v, const char *s);

static inline bool fm_streq(const char *a, const char *b)
{
	return a && b && __builtin_strcmp(a, b) == 0;
}
bool fm_str_startswith(const char *s, const char *prefix);
bool fm_str_endswith(const char *s, const char *suffix);
/*
 * In place: control characters (C0, DEL, C1) and bytes that are not valid UTF-8 become '?', so that the text fits one line of a log,
 * JSON and protobuf.
 */
void fm_str_sanitize(char *s);

/* Strict: whole string, no sign for unsigned, no overflow. */
int fm_parse_u64(const char *s, uint64_t *ret, struct fm_error *err);
int fm_parse_int(const char *s, int min, int max, int *ret, struct fm_error *err);
/* "64K" "512M" "2G" "100" (binary multiples; also k, T, P and the spellings Ki, KiB) */
int fm_parse_bytes(const char *s, uint64_t *ret, struct fm_error *err);
/* "250ms" "2s" "1m" "3h"; a bare number is seconds */
int fm_parse_duration_ms(const char *s, uint64_t *ret, struct fm_error *err);
/* "12.3 MiB" into buf, returns buf */
const char *fm_format_bytes(uint64_t bytes, char *buf, size_t cap);

/* A container or host name: [a-zA-Z0-9][a-zA-Z0-9_.-]{0,62} (OCI's and DNS's common subset; safe in paths) */
bool fm_name_is_valid(const char *s);

#endif
