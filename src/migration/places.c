/* SPDX-License-Identifier: MIT */
/* places.c - see places.h. */
#include "migration/places.h"

#include <string.h>

#include "basic/cleanup.h"
#include "basic/str.h"
#include "migration/instances.h"
#include "migration/keeper.h"
#include "network/conntrack.h"

/* However they are written */
static bool is_same(const char *one, const char *other)
{
	struct fm_conntrack_address a, b;

	return one && fm_conntrack_address_parse(one, &a, NULL) == 0 && fm_conntrack_address_parse(other, &b, NULL) == 0 &&
	       a.family == b.family && memcmp(a.bytes, b.bytes, sizeof(a.bytes)) == 0;
}

static bool is_here(const json_t *record, char *const *addresses)
{
	const json_t *list = json_object_get(record, "addresses"), *one;
	size_t i;

	json_array_foreach(list, i, one)
	{
		for (char *const *a = addresses; a && *a; a++)
			if (is_same(json_string_value(one), *a))
				return true;
	}
	return false;
}

int fm_places_left(struct fm_host *h, const json_t *records, json_t **ret, struct fm_error *err)
{
	_fm_cleanup_(json_decrefp) json_t *left = json_array();
	_fm_cleanup_(fm_strv_freep) char **addresses = NULL;
	json_t *record;
	size_t i;

	json_array_foreach(records, i, record) if (fm_keeper_is_of_resident(record))(void) json_array_append(left, record);
	/* after the records: whoever has come since is here, too */
	if (json_array_size(left) > 0 && fm_instances_addresses(h, &addresses, err) < 0)
		return -1;
	for (i = json_array_size(left); i-- > 0;)
		if (is_here(json_array_get(left, i), addresses))
			(void)json_array_remove(left, i);
	*ret = FM_TAKE_PTR(left);
	return 0;
}

void fm_places_tidy(struct fm_host *h)
{
	_fm_cleanup_(json_decrefp) json_t *records = h->keeper ? fm_keeper_records(h->keeper) : NULL;
	_fm_cleanup_(json_decrefp) json_t *left = NULL;
	struct fm_error e = FM_ERROR_INIT;
	const json_t *record;
	size_t i;

	if (fm_places_left(h, records, &left, &e) < 0) {
		fm_log_write(h->log, FM_LOG_WARN, "NetworkManager", NULL,
		             "Whether publications here are of containers that have left cannot be known (looked at again with the next "
		             "one): %s",
		             e.message);
		return;
	}
	json_array_foreach(left, i, record)(void) fm_keeper_left(h->keeper, record, NULL);
}
