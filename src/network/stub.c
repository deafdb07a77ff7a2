/* SPDX-License-Identifier: MIT */
/* stub.c - see stub.h. */
#include "network/stub.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "basic/clock.h"
#include "basic/io.h"
#include "basic/str.h"
#include "network/fields.h"

#define FORMAT_VERSION 1
#define SUFFIX         ".json"
#define MAX_AGE_LIMIT  (366ull * 86400000)

struct stub {
	json_t *record;
	char id[FM_MAX_NAME];
	struct fm_conntrack_address addresses[FM_MAX_CONNTRACK_ADDRESSES];
	size_t n_addresses;
	bool only_translated;
	uint64_t created_ms, grace_ms, max_age_ms;
	uint64_t idle_since_ms; /* fm_now_ms(); 0: has flows, or has not been looked at */
	uint64_t packets;       /* of its counters when it was last looked at */
	bool counted;
};

struct fm_stubs {
	char *folder;
	struct stub **v;
	size_t n;
};

static void stub_free(struct stub *s)
{
	json_decref(s->record);
	free(s);
}
FM_DEFINE_CLEANUP(struct stub *, stub_free);

static void json_done(json_t **j)
{
	json_decref(*j);
}

/* ---- records ---- */

static int read_address(void *userdata, size_t i, const json_t *v, const struct fm_place *at, struct fm_error *err)
{
	static const struct fm_field how = { 0 };
	struct stub *s = userdata;
	const char *text = NULL;

	if (fm_field_read(v, at, &how, &text, err) < 0)
		return -1;
	if (fm_conntrack_address_parse(text, &s->addresses[i], err) < 0)
		return fm_field_error(at, NULL, err);
	s->n_addresses = i + 1;
	return 0;
}

static int check_action(void *userdata, size_t i, const json_t *v, const struct fm_place *at, struct fm_error *err)
{
	struct raw {
		const json_t *action, *undo;
	} raw = { 0 };
	static const struct fm_field fields[] = {
		{ FM_FIELD(struct raw, action), .type = FM_FIELD_OBJECT, .required = true },
		{ FM_FIELD(struct raw, undo), .type = FM_FIELD_OBJECT, .required = true },
		{ 0 },
	};
	const struct fm_redirect_ops *ops;

	if (fm_fields_read(v, at, fields, &raw, err) < 0)
		return -1;
	return fm_redirect_driver_of(raw.action, &ops, err) < 0 ? fm_field_error(at, "action", err) : 0;
}

struct words {
	uint32_t stub;
	const char *id;
	bool translated;
	uint64_t created_ms, grace_ms, max_age_ms;
	const json_t *addresses, *actions;
};

static int read_words(const json_t *record, const struct fm_place *at, struct words *ret, struct fm_error *err)
{
	static const char *const flows[] = { "all", "translated", NULL };
	static const struct fm_field fields[] = {
		{ FM_FIELD(struct words, stub), .type = FM_FIELD_U32, .min = FORMAT_VERSION, .max = FORMAT_VERSION, .required = true },
		{ FM_FIELD(struct words, id), .max = FM_MAX_NAME - 1, .check = fm_name_is_valid, .what = "is not a name",
		  .required = true },
		{ FM_FIELD(struct words, created_ms), .type = FM_FIELD_U64 },
		{ FM_FIELD(struct words, addresses), .type = FM_FIELD_LIST, .min = 1, .max = FM_MAX_CONNTRACK_ADDRESSES, .required = true },
		{ .name = "flows", .type = FM_FIELD_BOOL, .words = flows, .offset = offsetof(struct words, translated) },
		{ FM_FIELD(struct words, grace_ms), .type = FM_FIELD_U64, .max = MAX_AGE_LIMIT },
		{ FM_FIELD(struct words, max_age_ms), .type = FM_FIELD_U64, .max = MAX_AGE_LIMIT },
		{ FM_FIELD(struct words, actions), .type = FM_FIELD_LIST, .min = 1, .max = FM_MAX_REDIRECTS, .required = true },
		{ 0 },
	};

	return fm_fields_read(record, at, fields, ret, err);
}

/* Takes a reference to the record. */
static int stub_parse(json_t *record, struct stub **ret, struct fm_error *err)
{
	_fm_cleanup_(stub_freep) struct stub *s = calloc(1, sizeof(*s));
	struct words w = { .grace_ms = FM_STUB_GRACE_MS, .max_age_ms = FM_STUB_MAX_AGE_MS };
	const struct fm_place at = { .who = "stub" };

	if (!s)
		return fm_error_errno(err, ENOMEM, "stub");
	if (read_words(record, &at, &w, err) < 0 || fm_fields_each(w.addresses, &at, "addresses", read_address, s, err) < 0 ||
	    fm_fields_each(w.actions, &at, "actions", check_action, NULL, err) < 0)
		return -1;
	s->only_translated = w.translated;
	s->created_ms = w.created_ms;
	s->grace_ms = w.grace_ms;
	s->max_age_ms = w.max_age_ms;
	memcpy(s->id, w.id, strlen(w.id) + 1);
	s->record = json_incref(record);
	*ret = FM_TAKE_PTR(s);
	return 0;
}

/* ---- files ---- */

static int file_of(const struct fm_stubs *s, const char *id, char path[FM_MAX_PATH], struct fm_error *err)
{
	return fm_snprintf(path, FM_MAX_PATH, err, "%s/%s" SUFFIX, s->folder, id);
}

static int stub_write(const struct fm_stubs *s, const struct stub *stub, struct fm_error *err)
{
	_fm_free_ char *text = json_dumps(stub->record, JSON_COMPACT | JSON_SORT_KEYS);
	char path[FM_MAX_PATH];

	if (!text)
		return fm_error_errno(err, ENOMEM, "write stub %s", stub->id);
	if (strlen(text) > FM_MAX_STUB_BYTES)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "stub %s: a record of %zu bytes, at most %u are possible", stub->id,
		                    strlen(text), FM_MAX_STUB_BYTES);
	if (file_of(s, stub->id, path, err) < 0)
		return -1;
	return fm_write_file_atomic(path, text, strlen(text), 0600, err) < 0 ? fm_error_prefix(err, "stub %s", stub->id) : 0;
}

static int stub_unlink(const struct fm_stubs *s, const struct stub *stub, struct fm_error *err)
{
	_fm_close_ int folder = open(s->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char path[FM_MAX_PATH];

	if (file_of(s, stub->id, path, err) < 0)
		return -1;
	if (folder < 0 || (unlink(path) < 0 && errno != ENOENT) || fsync(folder) < 0)
		return fm_error_errno(err, errno, "delete the record of stub %s", stub->id);
	return 0;
}

static int stub_read(const char *folder, const char *file, struct stub **ret, struct fm_error *err)
{
	_fm_cleanup_(json_done) json_t *record = NULL;
	_fm_free_ char *text = NULL;
	char path[FM_MAX_PATH];
	size_t len;

	if (fm_snprintf(path, sizeof(path), err, "%s/%s", folder, file) < 0 || fm_read_file(path, FM_MAX_STUB_BYTES, &text, &len, err) < 0)
		return -1;
	record = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	if (!record)
		return fm_error_set(err, FM_E_DATA_LOSS, "stub: %s is not JSON", path);
	if (stub_parse(record, ret, err) < 0)
		return -1;
	/* a copy under another name would be undone twice, and deleted once */
	if (strncmp(file, (*ret)->id, strlen((*ret)->id)) != 0 || strlen(file) != strlen((*ret)->id) + strlen(SUFFIX)) {
		stub_free(*ret);
		return fm_error_set(err, FM_E_DATA_LOSS, "stub: %s has the id of another", path);
	}
	return 0;
}

static int load_all(struct fm_stubs *s, void (*damaged)(const char *file, const struct fm_error *why, void *userdata), void *userdata,
                    struct fm_error *err)
{
	_fm_closedir_ DIR *d = opendir(s->folder);
	const struct dirent *e;

	if (!d)
		return fm_error_errno(err, errno, "read the stubs in %s", s->folder);
	while ((e = readdir(d))) {
		struct fm_error why = FM_ERROR_INIT;
		struct stub *stub = NULL;

		/* others are what a crash left of an unfinished write */
		if (!fm_str_endswith(e->d_name, SUFFIX) || e->d_name[0] == '.')
			continue;
		if (s->n == FM_MAX_STUBS)
			return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "more than %d stubs in %s", FM_MAX_STUBS, s->folder);
		if (stub_read(s->folder, e->d_name, &stub, &why) == 0)
			s->v[s->n++] = stub;
		else if (damaged)
			damaged(e->d_name, &why, userdata);
	}
	return 0;
}

int fm_stubs_load(const char *folder, void (*damaged)(const char *file, const struct fm_error *why, void *userdata), void *userdata,
                  struct fm_stubs **ret, struct fm_error *err)
{
	_fm_stubs_ struct fm_stubs *s = calloc(1, sizeof(*s));

	if (s) {
		s->folder = strdup(folder);
		s->v = calloc(FM_MAX_STUBS, sizeof(struct stub *));
	}
	if (!s || !s->folder || !s->v)
		return fm_error_errno(err, ENOMEM, "read the stubs in %s", folder);
	if (fm_mkdir_p(folder, 0700, err) < 0 || load_all(s, damaged, userdata, err) < 0)
		return -1;
	*ret = FM_TAKE_PTR(s);
	return 0;
}

void fm_stubs_free(struct fm_stubs *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n; i++)
		stub_free(s->v[i]);
	free(s->v);
	free(s->folder);
	free(s);
}

size_t fm_stubs_count(const struct fm_stubs *s)
{
	return s->n;
}

const json_t *fm_stubs_get(const struct fm_stubs *s, size_t i)
{
	return i < s->n ? s->v[i]->record : NULL;
}

static struct stub *find(const struct fm_stubs *s, const char *id, size_t *ret_i)
{
	for (size_t i = 0; i < s->n; i++)
		if (strcmp(s->v[i]->id, id) == 0) {
			*ret_i = i;
			return s->v[i];
		}
	return NULL;
}

/* The same but for the time that was set here. */
static bool same_record(const json_t *given, const json_t *kept)
{
	_fm_cleanup_(json_done) json_t *copy = json_copy((json_t *)given);

	if (copy && !json_object_get(given, "created_ms"))
		(void)json_object_set(copy, "created_ms", json_object_get(kept, "created_ms"));
	return copy && json_equal(copy, kept);
}

int fm_stubs_add(struct fm_stubs *s, const json_t *record, struct fm_error *err)
{
	_fm_cleanup_(stub_freep) struct stub *stub = NULL;
	_fm_cleanup_(json_done) json_t *copy = json_deep_copy(record);
	const struct stub *there;
	size_t i;

	if (!copy)
		return fm_error_errno(err, ENOMEM, "stub");
	if (!json_object_get(copy, "created_ms"))
		(void)json_object_set_new(copy, "created_ms", json_integer((json_int_t)fm_realtime_ms()));
	if (stub_parse(copy, &stub, err) < 0)
		return -1;
	there = find(s, stub->id, &i);
	if (there)
		return same_record(record, there->record)
		               ? 0
		               : fm_error_set(err, FM_E_ALREADY_EXISTS, "there is another stub %s already", stub->id);
	if (s->n == FM_MAX_STUBS)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "this host keeps %d stubs already, for containers that have left",
		                    FM_MAX_STUBS);
	if (stub_write(s, stub, err) < 0)
		return -1;
	s->v[s->n++] = FM_TAKE_PTR(stub);
	return 0;
}

/* ---- living and retiring ---- */

/* Sum of what the counters know; *ret_grew: more than last time. */
static int look_at_counters(struct stub *stub, const struct fm_stubs_step *how, bool *ret_grew, struct fm_error *err)
{
	const json_t *v;
	uint64_t sum = 0;
	size_t i;

	*ret_grew = false;
	if (!how->counter)
		return 0;
	json_array_foreach(json_object_get(stub->record, "actions"), i, v)
	{
		uint64_t n = 0;
		int rc = how->counter(json_object_get(v, "action"), json_object_get(v, "undo"), &n, how->userdata, err);

		if (rc < 0)
			return -1;
		sum += rc == 0 ? n : 0;
	}
	*ret_grew = stub->counted && sum != stub->packets;
	stub->packets = sum;
	stub->counted = true;
	return 0;
}

/* The flows of all stubs, going through the table once; v[i] is what s->v[i] has. */
static int look_at_flows(const struct fm_stubs *s, struct fm_conntrack *ct, struct fm_conntrack_live *v, struct fm_error *err)
{
	_fm_free_ struct fm_conntrack_address *addresses = calloc(FM_MAX_STUBS * FM_MAX_CONNTRACK_ADDRESSES, sizeof(*addresses));
	_fm_free_ struct fm_conntrack_live *each = calloc(FM_MAX_STUBS * FM_MAX_CONNTRACK_ADDRESSES, sizeof(*each));
	size_t n = 0, at = 0;

	if (!addresses || !each)
		return fm_error_errno(err, ENOMEM, "count the flows of %zu stubs", s->n);
	for (size_t i = 0; i < s->n; i++)
		for (size_t k = 0; k < s->v[i]->n_addresses; k++)
			addresses[n++] = s->v[i]->addresses[k];
	if (fm_conntrack_count_each(ct, addresses, n, each, err) < 0)
		return -1;
	/* a flow between two addresses of one stub counts twice: what matters is whether there is any */
	for (size_t i = 0; i < s->n; i++)
		for (size_t k = 0; k < s->v[i]->n_addresses; k++, at++) {
			v[i].tcp += each[at].tcp;
			v[i].udp += each[at].udp;
			v[i].translated += each[at].translated;
		}
	return 0;
}

static bool is_too_old(const struct stub *stub)
{
	uint64_t now = fm_realtime_ms();

	return stub->max_age_ms && now > stub->created_ms && now - stub->created_ms > stub->max_age_ms;
}

/* Why it is due, or NULL. live: NULL when it cannot be known. */
static const char *why_due(struct stub *stub, const struct fm_stubs_step *how, const struct fm_conntrack_live *live, struct fm_error *err)
{
	uint64_t now = fm_now_ms();
	bool grew;

	if (is_too_old(stub))
		return "its greatest age";
	if (!live || look_at_counters(stub, how, &grew, err) < 0 || grew ||
	    (stub->only_translated ? live->translated : live->tcp + live->udp)) {
		stub->idle_since_ms = 0;
		return NULL;
	}
	if (!stub->idle_since_ms)
		stub->idle_since_ms = now;
	return now - stub->idle_since_ms >= stub->grace_ms ? "no flows any more" : NULL;
}

/* Backwards, as they were done. The record goes last: a crash before that repeats. */
static int revert_and_delete(struct fm_stubs *s, size_t i, const struct fm_redirect_call *call, struct fm_error *err)
{
	struct stub *stub = s->v[i];
	const json_t *list = json_object_get(stub->record, "actions");

	for (size_t k = json_array_size(list); k > 0; k--) {
		const json_t *v = json_array_get(list, k - 1), *action = json_object_get(v, "action");
		const struct fm_redirect_ops *ops;

		if (fm_redirect_driver_of(action, &ops, err) < 0 || ops->revert(call, action, json_object_get(v, "undo"), err) < 0)
			return fm_error_prefix(err, "stub %s", stub->id);
	}
	if (stub_unlink(s, stub, err) < 0)
		return -1;
	stub_free(stub);
	s->v[i] = s->v[--s->n];
	return 0;
}

int fm_stubs_step(struct fm_stubs *s, const struct fm_stubs_step *how, struct fm_error *err)
{
	_fm_free_ struct fm_conntrack_live *live = calloc(FM_MAX_STUBS, sizeof(*live));
	struct fm_error first = FM_ERROR_INIT;
	bool known;

	if (!live)
		return fm_error_errno(err, ENOMEM, "look at %zu stubs", s->n);
	if (s->n == 0)
		return 0;
	known = !how->conntrack || look_at_flows(s, how->conntrack, live, &first) == 0;
	/* backwards: the one that takes the place of a retired one has been looked at */
	for (size_t i = s->n; i > 0; i--) {
		struct fm_error why = FM_ERROR_INIT;
		char id[FM_MAX_NAME];
		const char *reason;

		memcpy(id, s->v[i - 1]->id, sizeof(id));
		reason = why_due(s->v[i - 1], how, known ? &live[i - 1] : NULL, &why);
		if (reason && revert_and_delete(s, i - 1, &how->call, &why) == 0 && how->retired)
			how->retired(id, reason, how->userdata);
		if (why.code != FM_OK && first.code == FM_OK)
			first = why;
	}
	if (first.code == FM_OK)
		return 0;
	if (err)
		*err = first;
	return -1;
}

int fm_stubs_retire(struct fm_stubs *s, const char *id, const struct fm_redirect_call *call, struct fm_error *err)
{
	size_t i;

	if (!find(s, id, &i))
		return fm_error_set(err, FM_E_NOT_FOUND, "there is no stub %.64s", id);
	return revert_and_delete(s, i, call, err);
}
