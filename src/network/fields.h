/* SPDX-License-Identifier: MIT */
/*
 * fields.h - JSON that people and stores give us, read by tables: every member is known, has its type and its bounds, and what is wrong is told with its place. Private to network/.
 *
 * Who reads an object has a table of its members, with where each goes in a struct:
 *
 *	static const struct fm_field fields[] = {
 *		FM_FIELD_DRIVER,
 *		{ FM_FIELD(struct action, device), .parse = fm_read_interface, .required = true },
 *		{ FM_FIELD(struct action, table), .type = FM_FIELD_U32, .min = 1 },
 *		{ 0 },
 *	};
 *	const struct fm_place at = { .who = NAME };
 *	struct action a = { .table = RT_TABLE_MAIN };
 *
 *	if (fm_fields_read(o, &at, fields, &a, err) < 0)
 *
 * A member that the table does not have is an error: it is more likely to be misspelt than meant for later. One that is missing and not required leaves the struct as it was. After an error the struct is partly written.
 * Texts have no control characters; they, lists and objects are borrowed from the JSON, which the caller keeps. Nothing is allocated; no state, any thread.
 *
 * Errors say who reads, where, and what is wrong with it: "network: openflow.switches[2].address is missing", "vxlan: undo: before.vni is not a whole number from 0 to 16777215". All have the place's code.
 */
#ifndef FM_NETWORK_FIELDS_H
#define FM_NETWORK_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/error.h"

#define FM_FIELD_TEXT_MAX 255 /* bytes, where the table says none */
#define FM_PLACE_MAX      128

/* Whose JSON it is, and where in it: a path like "openflow.switches[2]", "" for the whole. */
struct fm_place {
	const char *who;   /* "network", "vxlan: undo"; kept by the caller */
	enum fm_code code; /* 0: INVALID_ARGUMENT; DATA_LOSS for what we have written ourselves */
	char path[FM_PLACE_MAX];
};
struct fm_place fm_place_member(const struct fm_place *outer, const char *key);
struct fm_place fm_place_entry(const struct fm_place *outer, const char *key, size_t i);

enum fm_field_type {
	FM_FIELD_TEXT, /* const char *, or what `parse` makes of it */
	FM_FIELD_WORD, /* unsigned, also an enum: which one of `words` */
	FM_FIELD_BOOL, /* bool: true or false; with `words` it is their second */
	FM_FIELD_U8,   /* uint8_t … */
	FM_FIELD_U16,
	FM_FIELD_U32,
	FM_FIELD_U64,
	FM_FIELD_LIST,   /* const json_t * */
	FM_FIELD_OBJECT, /* const json_t * */
	FM_FIELD_ANY,    /* of no interest here: not looked at, not stored */
};

struct fm_field {
	const char *name; /* NULL ends the table */
	enum fm_field_type type;
	size_t offset;
	bool required;
	bool empty; /* a text may be "", and null may stand for a list or an object: the struct stays as it was */
	/* A number's value; how many bytes, entries or members there may be. max 0: the type's own, FM_FIELD_TEXT_MAX, or no bound */
	uint64_t min, max;
	const char *const *words; /* the text is one of them; NULL ends them */
	bool (*check)(const char *text);
	const char *what; /* is wrong where `check` says no: "is not the address of a host" */
	int (*parse)(const char *text, void *ret, struct fm_error *err); /* its error goes behind the place */
};

/* The member of a struct that has the name of the JSON's */
#define FM_FIELD(type_, member) .name = #member, .offset = offsetof(type_, member)
/* Of every action; whoever reads it has been found by it. */
#define FM_FIELD_DRIVER                                                                                                                    \
	{                                                                                                                                  \
		.name = "driver", .type = FM_FIELD_ANY                                                                                     \
	}

int fm_fields_read(const json_t *o, const struct fm_place *at, const struct fm_field *fields, void *ret, struct fm_error *err);
/* One value, which is at `at`; of the field name, offset and `required` do not matter. */
int fm_field_read(const json_t *v, const struct fm_place *at, const struct fm_field *how, void *ret, struct fm_error *err);
/* Each entry of member `key` in turn, with its place. list may be NULL: empty. */
int fm_fields_each(const json_t *list, const struct fm_place *at, const char *key,
                   int (*each)(void *userdata, size_t i, const json_t *entry, const struct fm_place *at, struct fm_error *err),
                   void *userdata, struct fm_error *err);
/* The members of the free-form object `key` ("h1": "192.0.2.1"): names (as fm_name_is_valid has them) with texts that are as `value` says. o may be NULL. */
int fm_fields_map(const json_t *o, const struct fm_place *at, const char *key, const struct fm_field *value, struct fm_error *err);

/* What is wrong beyond a table's reach. Always -1. key NULL: the place itself. The macros let compilers see it, as error.h does. */
int fm_field_wrong(const struct fm_place *at, const char *key, const char *what, struct fm_error *err);
/* What another parser has said about the member goes behind its place, with the place's code. */
int fm_field_error(const struct fm_place *at, const char *key, struct fm_error *err);
#define fm_field_wrong(...)                                                                                                                \
	({                                                                                                                                 \
		(void)(fm_field_wrong)(__VA_ARGS__);                                                                                       \
		-1;                                                                                                                        \
	})
#define fm_field_error(...)                                                                                                                \
	({                                                                                                                                 \
		(void)(fm_field_error)(__VA_ARGS__);                                                                                       \
		-1;                                                                                                                        \
	})

/* ---- what texts may be, besides address.h's */

bool fm_is_file_name(const char *text); /* in the folder of secrets */
bool fm_is_dns_name(const char *text);

/* ---- and what `parse` may make of them */

int fm_read_ip(const char *text, void *ret_ip, struct fm_error *err);          /* struct fm_ip */
int fm_read_host(const char *text, void *ret_ip, struct fm_error *err);        /* struct fm_ip, of one machine */
int fm_read_mac(const char *text, void *ret_mac, struct fm_error *err);        /* uint8_t[6], of one card */
int fm_read_interface(const char *text, void *ret_name, struct fm_error *err); /* char[IFNAMSIZ] */
/* "0x666d000000000007", up to 16 digits: uint64_t */
int fm_read_hex(const char *text, void *ret_u64, struct fm_error *err);

#endif
