/* SPDX-License-Identifier: MIT */
/*
 * document.h - a document that people write, YAML or JSON, as a tree of JSON with the place of every value. For policies and scenarios.
 *
 * What is read: a text that begins with { or [ and is JSON (RFC 8259) is read as JSON; everything else as one document of YAML, restricted to what JSON can say:
 *   - mappings, sequences and scalars in any style. Keys are texts. Plain scalars are what YAML 1.2's core schema says: null ~ true false (also True, TRUE, …), decimal, 0x and 0o integers, floats; the rest is text, so
 *     "yes", "on" and "09:30" are texts. "010" is refused where it is not in quotes: readers of YAML do not agree about it.
 *   - refused: anchors, aliases, tags, tag directives, several documents, duplicate keys (compared as text), numbers that JSON cannot hold (.inf, .nan, over 64 bits), NUL characters, anything that is not UTF-8.
 *
 * Every error is one line "NAME:LINE:COLUMN: what". INVALID_ARGUMENT: the document; RESOURCE_EXHAUSTED: a limit. Time and memory are linear in the length of the text.
 *
 * The document owns the tree; json_incref what should live longer, and change nothing: places are found by the tree's own objects. Read-only after parsing, so for any number of threads; jansson's counts of
 * references are atomic.
 */
#ifndef FM_BASIC_DOCUMENT_H
#define FM_BASIC_DOCUMENT_H

#include <jansson.h>
#include <stddef.h>

#include "basic/cleanup.h"
#include "basic/error.h"

struct fm_document;

struct fm_document_limits { /* 0 = FM_MAX_DOCUMENT_… */
	size_t bytes, nodes;
	unsigned depth; /* of lists and mappings in each other; at most 1000 */
};

struct fm_document_place {
	unsigned line, column; /* from 1; 0: not known */
};

/* name: what errors and places call it, a path mostly. limits: may be NULL. */
int fm_document_parse(const char *text, size_t len, const char *name, const struct fm_document_limits *limits, struct fm_document **ret,
                      struct fm_error *err);
/* The file's errors, too. */
int fm_document_read(const char *path, const struct fm_document_limits *limits, struct fm_document **ret, struct fm_error *err);
void fm_document_free(struct fm_document *d);
FM_DEFINE_CLEANUP(struct fm_document *, fm_document_free);
#define _fm_document_ _fm_cleanup_(fm_document_freep)

const char *fm_document_name(const struct fm_document *d);
json_t *fm_document_root(const struct fm_document *d); /* borrowed */

/* Where a member of a mapping (its value; fm_document_key_place: its key) or an entry of a sequence begins; the root: parent NULL. {0, 0} for what is not in it. */
struct fm_document_place fm_document_member_place(const struct fm_document *d, const json_t *object, const char *key);
struct fm_document_place fm_document_key_place(const struct fm_document *d, const json_t *object, const char *key);
struct fm_document_place fm_document_entry_place(const struct fm_document *d, const json_t *array, size_t i);

/* INVALID_ARGUMENT "NAME:LINE:COLUMN: …"; without a line where it is not known. Returns -1. */
int fm_document_error(const struct fm_document *d, struct fm_document_place at, struct fm_error *err, const char *fmt, ...)
        __attribute__((format(printf, 4, 5)));

#endif
