/* SPDX-License-Identifier: MIT */
/* stub.c - see stub.h. */
#include "network/stub.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
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

/* What the record says does not change. Of the rest the first three are the lock's, the others the step's alone. */
struct stub {
	json_t *record;
	char id[FM_MAX_NAME];
	struct fm_conntrack_address addresses[FM_MAX_CONNTRACK_ADDRESSES];
	size_t n_addresses;
	bool only_translated;
	bool stays; /* until it is retired */
	uint64_t created_ms, grace_ms, max_age_ms;
	unsigned refs; /* the list's, and a step's that looks at it */
	bool busy;     /* somebody writes or reverts it: nobody else may */
	bool gone;
	uint64_t idle_since_ms; /* fm_now_ms(); 0: has flows, or has not been looked at */
	uint64_t packets;       /* of its counters when it was last looked at */
	bool counted;
};

/* Nothing that takes time is done with the lock: neither files, nor the kernel's tables, nor reverts. */
struct fm_stubs {
	char *folder;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* one is not busy any more; by the monotonic clock */
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
	bool translated, leaves;
	uint64_t created_ms, grace_ms, max_age_ms;
	const json_t *addresses, *actions;
};

static int read_words(const json_t *record, const struct fm_place *at, struct words *ret, struct fm_error *err)
{
	static const char *const flows[] = { "all", "translated", NULL }, *const until[] = { "flows", "leaves", NULL };
	static const struct fm_field fields[] = {
		{ FM_FIELD(struct words, stub), .type = FM_FIELD_U32, .min = FORMAT_VERSION, .max = FORMAT_VERSION, .required = true },
		{ FM_FIELD(struct words, id), .max = FM_MAX_NAME - 1, .check = fm_name_is_valid, .what = "is not a name",
		  .required = true },
		{ FM_FIELD(struct words, created_ms), .type = FM_FIELD_U64 },
		{ FM_FIELD(struct words, addresses), .type = FM_FIELD_LIST, .min = 1, .max = FM_MAX_CONNTRACK_ADDRESSES, .required = true },
		{ .name = "flows", .type = FM_FIELD_BOOL, .words = flows, .offset = offsetof(struct words, translated) },
		{ .name = "until", .type = FM_FIELD_BOOL, .words = until, .offset = offsetof(struct words, leaves) },
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
	s->stays = w.leaves;
	s->created_ms = w.created_ms;
	s->grace_ms = w.grace_ms;
	s->max_age_ms = w.max_age_ms;
	memcpy(s->id, w.id, strlen(w.id) + 1);
	s->record = json_incref(record);
	s->refs = 1;
	*ret = FM_TAKE_PTR(s);
	return 0;
}

/* ---- the list, with its lock ---- */

static struct stub *find(const struct fm_stubs *s, const char *id)
{
	for (size_t i = 0; i < s->n; i++)
		if (strcmp(s->v[i]->id, id) == 0)
			return s->v[i];
	return NULL;
}

static void unref(struct stub *stub)
{
	if (--stub->refs == 0)
		stub_free(stub);
}

static void take_out(struct fm_stubs *s, struct stub *stub)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->v[i] == stub) {
			s->v[i] = s->v[--s->n];
			break;
		}
	stub->gone = true;
	unref(stub);
}

/* Ends what `busy` has begun. */
static void let_go(struct fm_stubs *s, struct stub *stub, bool gone)
{
	pthread_mutex_lock(&s->lock);
	stub->busy = false;
	if (gone)
		take_out(s, stub);
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
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
	pthread_condattr_t attr;

	if (!s)
		return fm_error_errno(err, ENOMEM, "read the stubs in %s", folder);
	(void)pthread_condattr_init(&attr);
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	(void)pthread_cond_init(&s->changed, &attr);
	(void)pthread_condattr_destroy(&attr);
	(void)pthread_mutex_init(&s->lock, NULL);
	s->folder = strdup(folder);
	s->v = calloc(FM_MAX_STUBS, sizeof(struct stub *));
	if (!s->folder || !s->v)
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
	(void)pthread_cond_destroy(&s->changed);
	(void)pthread_mutex_destroy(&s->lock);
	free(s);
}

size_t fm_stubs_count(struct fm_stubs *s)
{
	size_t n;

	pthread_mutex_lock(&s->lock);
	n = s->n;
	pthread_mutex_unlock(&s->lock);
	return n;
}

json_t *fm_stubs_records(struct fm_stubs *s)
{
	json_t *all = json_array();

	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < s->n; i++)
		(void)json_array_append(all, s->v[i]->record);
	pthread_mutex_unlock(&s->lock);
	return all;
}

/* The same but for the time that was set here. */
static bool same_record(const json_t *given, const json_t *kept)
{
	_fm_cleanup_(json_done) json_t *copy = json_copy((json_t *)given);

	if (copy && !json_object_get(given, "created_ms"))
		(void)json_object_set(copy, "created_ms", json_object_get(kept, "created_ms"));
	return copy && json_equal(copy, kept);
}

/* With the lock. 1: it has taken its place, and is to be written. */
static int enter(struct fm_stubs *s, struct stub *stub, const json_t *record, struct fm_error *err)
{
	const struct stub *there;

	while ((there = find(s, stub->id)) && there->busy)
		pthread_cond_wait(&s->changed, &s->lock);
	if (there)
		return same_record(record, there->record)
		               ? 0
		               : fm_error_set(err, FM_E_ALREADY_EXISTS, "there is another stub %s already", stub->id);
	if (s->n == FM_MAX_STUBS)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "this host keeps %d stubs already, for containers that have left",
		                    FM_MAX_STUBS);
	stub->busy = true;
	s->v[s->n++] = stub;
	return 1;
}

int fm_stubs_add(struct fm_stubs *s, const json_t *record, struct fm_error *err)
{
	_fm_cleanup_(stub_freep) struct stub *stub = NULL;
	_fm_cleanup_(json_done) json_t *copy = json_deep_copy(record);
	struct stub *entered;
	int rc;

	if (!copy)
		return fm_error_errno(err, ENOMEM, "stub");
	if (!json_object_get(copy, "created_ms"))
		(void)json_object_set_new(copy, "created_ms", json_integer((json_int_t)fm_realtime_ms()));
	if (stub_parse(copy, &stub, err) < 0)
		return -1;
	pthread_mutex_lock(&s->lock);
	rc = enter(s, stub, record, err);
	pthread_mutex_unlock(&s->lock);
	if (rc <= 0)
		return rc;
	entered = FM_TAKE_PTR(stub);
	rc = stub_write(s, entered, err);
	let_go(s, entered, rc < 0);
	return rc;
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

/* The flows of these stubs, going through the table once; live[i] is what v[i] has. */
static int look_at_flows(struct stub *const *v, size_t n_stubs, struct fm_conntrack *ct, struct fm_conntrack_live *live,
                         struct fm_error *err)
{
	_fm_free_ struct fm_conntrack_address *addresses = calloc(n_stubs * FM_MAX_CONNTRACK_ADDRESSES, sizeof(*addresses));
	_fm_free_ struct fm_conntrack_live *each = calloc(n_stubs * FM_MAX_CONNTRACK_ADDRESSES, sizeof(*each));
	size_t n = 0, at = 0;

	if (!addresses || !each)
		return fm_error_errno(err, ENOMEM, "count the flows of %zu stubs", n_stubs);
	for (size_t i = 0; i < n_stubs; i++)
		for (size_t k = 0; k < v[i]->n_addresses; k++)
			addresses[n++] = v[i]->addresses[k];
	if (fm_conntrack_count_each(ct, addresses, n, each, err) < 0)
		return -1;
	/* a flow between two addresses of one stub counts twice: what matters is whether there is any */
	for (size_t i = 0; i < n_stubs; i++)
		for (size_t k = 0; k < v[i]->n_addresses; k++, at++) {
			live[i].tcp += each[at].tcp;
			live[i].udp += each[at].udp;
			live[i].translated += each[at].translated;
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

/* Backwards, as they were done. The record goes last: a crash before that repeats. The caller has made it busy. */
static int revert_and_delete(struct fm_stubs *s, struct stub *stub, const struct fm_redirect_call *call, struct fm_error *err)
{
	const json_t *list = json_object_get(stub->record, "actions");
	int rc = 0;

	for (size_t k = json_array_size(list); k > 0 && rc == 0; k--) {
		const json_t *v = json_array_get(list, k - 1), *action = json_object_get(v, "action");
		const struct fm_redirect_ops *ops;

		if (fm_redirect_driver_of(action, &ops, err) < 0 || ops->revert(call, action, json_object_get(v, "undo"), err) < 0)
			rc = fm_error_prefix(err, "stub %s", stub->id);
	}
	if (rc == 0)
		rc = stub_unlink(s, stub, err);
	let_go(s, stub, rc == 0);
	return rc;
}

/* Is it the caller's to revert? Not when somebody else is at it, or has done it. */
static bool claim(struct fm_stubs *s, struct stub *stub)
{
	bool mine;

	pthread_mutex_lock(&s->lock);
	mine = !stub->busy && !stub->gone;
	stub->busy |= mine;
	pthread_mutex_unlock(&s->lock);
	return mine;
}

static void look_at_one(struct fm_stubs *s, struct stub *stub, const struct fm_stubs_step *how, const struct fm_conntrack_live *live,
                        struct fm_error *first)
{
	struct fm_error why = FM_ERROR_INIT;
	const char *reason = why_due(stub, how, live, &why);

	if (reason && claim(s, stub) && revert_and_delete(s, stub, &how->call, &why) == 0 && how->retired)
		how->retired(stub->id, reason, how->userdata);
	if (why.code != FM_OK && first->code == FM_OK)
		*first = why;
}

/* Those that end by themselves. */
static size_t take_all(struct fm_stubs *s, struct stub *ret[FM_MAX_STUBS])
{
	size_t n = 0;

	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < s->n; i++) {
		if (s->v[i]->stays)
			continue;
		s->v[i]->refs++;
		ret[n++] = s->v[i];
	}
	pthread_mutex_unlock(&s->lock);
	return n;
}

int fm_stubs_step(struct fm_stubs *s, const struct fm_stubs_step *how, struct fm_error *err)
{
	_fm_free_ struct fm_conntrack_live *live = calloc(FM_MAX_STUBS, sizeof(*live));
	struct fm_error first = FM_ERROR_INIT;
	struct stub *v[FM_MAX_STUBS];
	size_t n;
	bool known;

	if (!live)
		return fm_error_errno(err, ENOMEM, "look at stubs");
	n = take_all(s, v);
	known = n == 0 || !how->conntrack || look_at_flows(v, n, how->conntrack, live, &first) == 0;
	for (size_t i = 0; i < n; i++)
		look_at_one(s, v[i], how, known ? &live[i] : NULL, &first);
	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < n; i++)
		unref(v[i]);
	pthread_mutex_unlock(&s->lock);
	if (first.code == FM_OK)
		return 0;
	if (err)
		*err = first;
	return -1;
}

/* With the lock. *ret NULL: whoever was at it has done it. */
static int claim_by_id(struct fm_stubs *s, const char *id, uint64_t deadline_ms, struct stub **ret, struct fm_error *err)
{
	struct timespec until = { .tv_sec = (time_t)(deadline_ms / 1000), .tv_nsec = (long)(deadline_ms % 1000) * 1000000 };

	*ret = find(s, id);
	if (!*ret)
		return fm_error_set(err, FM_E_NOT_FOUND, "there is no stub %.64s", id);
	while (*ret && (*ret)->busy) {
		if (pthread_cond_timedwait(&s->changed, &s->lock, &until) == ETIMEDOUT)
			return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "stub %.64s is being reverted, and that takes longer", id);
		*ret = find(s, id);
	}
	if (*ret)
		(*ret)->busy = true;
	return 0;
}

int fm_stubs_retire(struct fm_stubs *s, const char *id, const struct fm_redirect_call *call, struct fm_error *err)
{
	struct stub *stub = NULL;
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = claim_by_id(s, id, call->deadline_ms, &stub, err);
	pthread_mutex_unlock(&s->lock);
	return rc == 0 && stub ? revert_and_delete(s, stub, call, err) : rc;
}
