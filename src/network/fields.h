/* SPDX-License-Identifier: MIT */
/*
 * fields.h - JSON that people write, read by tables: every member is known, has its type and its bounds, and what is wrong is told with its place. Private to network/.
 *
 * An object's table says where each member goes in a struct; what is missing and not required leaves the struct as it was. Texts, lists and objects are borrowed from the JSON, which the caller keeps.
 * A place is a path like "openflow.switches[2]", "" for the whole; messages are "network: openflow.switches[2].address …". All errors are INVALID_ARGUMENT.
 */
#ifndef FM_NETWORK_FIELDS_H
#define FM_NETWORK_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/error.h"

#define FM_FIELD_TEXT_MAX 255 /* characters, where the table says none */

enum fm_field_type {
	FM_FIELD_TEXT,   /* const char *; not empty */
	FM_FIELD_U32,    /* uint32_t */
	FM_FIELD_U64,    /* uint64_t */
	FM_FIELD_BOOL,   /* bool */
	FM_FIELD_LIST,   /* const json_t * */
	FM_FIELD_OBJECT, /* const json_t * */
};

struct fm_field {
	const char *name; /* NULL ends the table */
	enum fm_field_type type;
	size_t offset;
	bool required;
	uint64_t min, max; /* a number's value; how many characters, entries or members there may be */
	/* NULL, or true when the text is what `what` says */
	bool (*check)(const char *text);
	const char *what; /* "is not the address of a host" */
};

/* Always -1: "network: PLACE.KEY WHAT". key NULL: the place itself. */
int fm_field_wrong(const char *place, const char *key, const char *what, struct fm_error *err);

int fm_fields_read(const json_t *o, const char *place, const struct fm_field *fields, void *ret, struct fm_error *err);
/* Each entry in turn, with its place. list may be NULL: empty. */
int fm_fields_each(const json_t *list, const char *place, const char *key,
                   int (*each)(void *userdata, size_t i, const json_t *entry, const char *place, struct fm_error *err), void *userdata,
                   struct fm_error *err);
/* The members of a free-form object ("h1": "192.0.2.1"): all texts that pass `check`. o may be NULL. */
int fm_fields_map(const json_t *o, const char *place, const char *key, bool (*check)(const char *text), const char *what,
                  struct fm_error *err);

/* ---- what texts may be */
bool fm_is_ip_address(const char *text);     /* IPv4 or IPv6, no prefix, no scope */
bool fm_is_host_port(const char *text);      /* 192.0.2.1, 192.0.2.1:53, 2001:db8::1, [2001:db8::1]:53 */
bool fm_is_switch_address(const char *text); /* tcp:HOST:PORT, unix:PATH */
bool fm_is_url(const char *text);            /* http://… or https://…, nothing that would have to be escaped */
bool fm_is_file_name(const char *text);      /* in the folder of secrets */
bool fm_is_interface(const char *text);
bool fm_is_dns_name(const char *text);
/* AF_INET or AF_INET6 of what fm_is_ip_address accepts, else 0 */
int fm_ip_family(const char *text);

#endif
