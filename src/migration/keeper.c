/* SPDX-License-Identifier: MIT */
/* keeper.c - a thread around network/stub.h, and a stub's record out of a migration's redirections. */
#include "migration/keeper.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/str.h"
#include "loop/pool.h"
#include "migration/pb.h"
#include "network/endpoints.h"
#include "network/redirect-tunnel.h"
#include "network/stub.h"

#define MAX_ANNOUNCING      32 /* with more at a time, the oldest is left out */
#define STEP_EVERY_MS       1000
#define STEP_TIMEOUT_MS     20000
#define ARRIVING_TIMEOUT_MS 1000         /* in a switch-over */
#define PUBLISHED           ".published" /* ends the names of records of containers that are here */

/* Of one container that has come */
struct announcing {
	struct fm_endpoint_config v[FM_MAX_ENDPOINTS];
	size_t n;
	char netns_path[1400];
	uint64_t opened_ms;
	unsigned done; /* of announce_after_ms */
};
static const unsigned announce_after_ms[] = { 100, 300, 700, 1500, 3000 };

struct fm_keeper {
	struct fm_log *log;
	char *secrets_dir;
	struct fm_stop stop;
	int wake_fd; /* eventfd: something new to announce */
	pthread_t thread;
	bool started;
	struct fm_stubs *stubs;
	struct fm_conntrack *conntrack; /* the thread's, as the next */
	bool complained;
	pthread_mutex_t lock;                     /* guards what follows; nothing that takes time is done with it */
	char unwanted[FM_MAX_STUBS][FM_MAX_NAME]; /* of containers that are back, and could not be taken away at once */
	size_t n_unwanted;
	struct announcing announcing[MAX_ANNOUNCING];
	size_t n_announcing;
};

static void damaged(const char *file, const struct fm_error *why, void *userdata)
{
	struct fm_keeper *k = userdata;

	fm_log_write(k->log, FM_LOG_ERROR, "NetworkManager", NULL,
	             "The record '%s' of what is kept for old connections cannot be read (%s); it needs an operator.", file, why->message);
}

static const char *id_of(const json_t *record)
{
	return json_string_value(json_object_get(record, "id"));
}

static void retired(const char *id, const char *why, void *userdata)
{
	struct fm_keeper *k = userdata;

	fm_log_write(k->log, FM_LOG_INFO, "NetworkManager", NULL,
	             fm_str_endswith(id, PUBLISHED) ? "The publication '%s' is gone: %s."
	                                            : "What migration '%s' left here for old connections is gone: %s.",
	             id, why);
}

/* Only of a tunnel it can be told. One that has gone (the host was started anew) leads nothing anywhere. */
static int counter(const json_t *action, const json_t *undo, uint64_t *ret, void *userdata, struct fm_error *err)
{
	struct fm_tunnel_traffic t = { 0 };
	struct fm_error e = FM_ERROR_INIT;

	if (!fm_streq(json_string_value(json_object_get(action, "driver")), fm_redirect_tunnel.name))
		return 1;
	if (fm_tunnel_traffic(action, &t, &e) < 0) {
		if (err && e.code != FM_E_NOT_FOUND)
			*err = e;
		return e.code == FM_E_NOT_FOUND ? 1 : -1;
	}
	*ret = t.packets;
	return 0;
}

/* One that has gone meanwhile is as good. */
static int retire(struct fm_keeper *k, const char *id, const struct fm_redirect_call *c, struct fm_error *err)
{
	const char *why = fm_str_endswith(id, PUBLISHED) ? "the container has left" : "the container is back";
	struct fm_error e = FM_ERROR_INIT;

	if (fm_stubs_retire(k->stubs, id, c, &e) == 0) {
		retired(id, why, k);
		return 0;
	}
	if (e.code == FM_E_NOT_FOUND)
		return 0;
	*err = e;
	return -1;
}

static void remember_unwanted(struct fm_keeper *k, const char *id)
{
	bool known = false;

	pthread_mutex_lock(&k->lock);
	for (size_t i = 0; i < k->n_unwanted; i++)
		known |= fm_streq(k->unwanted[i], id);
	if (!known && k->n_unwanted < FM_MAX_STUBS)
		(void)snprintf(k->unwanted[k->n_unwanted++], FM_MAX_NAME, "%s", id);
	pthread_mutex_unlock(&k->lock);
}

static bool next_unwanted(struct fm_keeper *k, size_t i, char ret[FM_MAX_NAME])
{
	bool there;

	pthread_mutex_lock(&k->lock);
	there = i < k->n_unwanted;
	if (there)
		memcpy(ret, k->unwanted[i], FM_MAX_NAME);
	pthread_mutex_unlock(&k->lock);
	return there;
}

static void forget_unwanted(struct fm_keeper *k, const char *id)
{
	pthread_mutex_lock(&k->lock);
	for (size_t i = k->n_unwanted; i-- > 0;)
		if (fm_streq(k->unwanted[i], id))
			memmove(k->unwanted[i], k->unwanted[--k->n_unwanted], FM_MAX_NAME);
	pthread_mutex_unlock(&k->lock);
}

/* That it fails has been said when it did for the first time. */
static void retire_unwanted(struct fm_keeper *k, const struct fm_redirect_call *c)
{
	char id[FM_MAX_NAME];

	for (size_t i = 0; next_unwanted(k, i, id);) {
		struct fm_error e = FM_ERROR_INIT;

		if (retire(k, id, c, &e) == 0)
			forget_unwanted(k, id);
		else
			i++;
	}
}

static void step(struct fm_keeper *k)
{
	struct fm_stubs_step how = {
		.call = { .deadline_ms = fm_now_ms() + STEP_TIMEOUT_MS, .cancel_fd = k->stop.fd, .secrets_dir = k->secrets_dir },
		.conntrack = k->conntrack,
		.counter = counter,
		.retired = retired,
		.userdata = k,
	};
	struct fm_error e = FM_ERROR_INIT;
	int rc;

	retire_unwanted(k, &how.call);
	rc = fm_stubs_step(k->stubs, &how, &e);
	if (rc < 0 && !k->complained && !fm_stop_requested(&k->stop))
		fm_log_write(k->log, FM_LOG_WARN, "NetworkManager", NULL, "Looking after old connections failed (trying again): %s",
		             e.message);
	k->complained = rc < 0;
}

/* From inside the container: what is not open lets nothing out, so a container that has left meanwhile is not announced here. */
static void announce(const struct announcing *a)
{
	struct fm_endpoints *e = NULL;

	if (fm_endpoints_new(a->v, a->n, a->netns_path, &e, NULL) == 0 && fm_endpoints_attach(e, NULL) == 0 && fm_endpoints_is_open(e))
		(void)fm_endpoints_announce(e, NULL);
	fm_endpoints_free(e);
}

/* One that is due, copied out: announcing takes no lock. */
static bool take_due(struct fm_keeper *k, struct announcing *ret)
{
	bool found = false;

	pthread_mutex_lock(&k->lock);
	for (size_t i = 0; i < k->n_announcing && !found; i++) {
		struct announcing *a = &k->announcing[i];

		if (fm_now_ms() < a->opened_ms + announce_after_ms[a->done])
			continue;
		*ret = *a;
		found = true;
		if (++a->done == FM_ARRAY_SIZE(announce_after_ms))
			*a = k->announcing[--k->n_announcing];
	}
	pthread_mutex_unlock(&k->lock);
	return found;
}

static int until_next_ms(struct fm_keeper *k, uint64_t step_ms)
{
	uint64_t next_ms = step_ms;

	pthread_mutex_lock(&k->lock);
	for (size_t i = 0; i < k->n_announcing; i++) {
		uint64_t due_ms = k->announcing[i].opened_ms + announce_after_ms[k->announcing[i].done];

		next_ms = due_ms < next_ms ? due_ms : next_ms;
	}
	pthread_mutex_unlock(&k->lock);
	return fm_deadline_left_ms(next_ms);
}

static void wait_for_work(struct fm_keeper *k, int timeout_ms)
{
	struct pollfd fds[] = { { .fd = k->stop.fd, .events = POLLIN }, { .fd = k->wake_fd, .events = POLLIN } };
	eventfd_t ignored;

	if (poll(fds, 2, timeout_ms) > 0 && fds[1].revents)
		(void)eventfd_read(k->wake_fd, &ignored);
}

static void *run(void *arg)
{
	struct fm_keeper *k = arg;
	struct announcing due;
	uint64_t step_ms = fm_now_ms();

	while (!fm_stop_requested(&k->stop)) {
		while (take_due(k, &due))
			announce(&due);
		if (fm_now_ms() >= step_ms) {
			step(k);
			step_ms = fm_now_ms() + STEP_EVERY_MS;
		}
		wait_for_work(k, until_next_ms(k, step_ms));
	}
	return NULL;
}

void fm_keeper_opened(struct fm_keeper *k, const struct fm_endpoint_config *v, size_t n, const char *netns_path)
{
	struct announcing a = { .n = n, .opened_ms = fm_now_ms() };

	if (!k || n == 0 || n > FM_MAX_ENDPOINTS)
		return;
	memcpy(a.v, v, n * sizeof(*v));
	(void)snprintf(a.netns_path, sizeof(a.netns_path), "%s", netns_path);
	pthread_mutex_lock(&k->lock);
	if (k->n_announcing == MAX_ANNOUNCING)
		memmove(k->announcing, k->announcing + 1, --k->n_announcing * sizeof(a));
	k->announcing[k->n_announcing++] = a;
	pthread_mutex_unlock(&k->lock);
	(void)eventfd_write(k->wake_fd, 1);
}

static int start(struct fm_keeper *k, const char *folder, struct fm_error *err)
{
	int rc;

	if (k->wake_fd < 0)
		return fm_error_errno(err, errno, "eventfd");
	if (fm_stop_init(&k->stop, err) < 0 || fm_conntrack_open(&k->conntrack, err) < 0 ||
	    fm_stubs_load(folder, damaged, k, &k->stubs, err) < 0)
		return -1;
	rc = pthread_create(&k->thread, NULL, run, k);
	if (rc != 0)
		return fm_error_errno(err, rc, "cannot start the thread that looks after old connections");
	k->started = true;
	return 0;
}

int fm_keeper_new(const char *folder, const char *secrets_dir, struct fm_log *log, struct fm_keeper **ret, struct fm_error *err)
{
	struct fm_keeper *k = calloc(1, sizeof(*k));

	if (!k)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	k->log = log;
	k->stop.fd = -1;
	k->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	k->secrets_dir = fm_xstrdup(secrets_dir);
	pthread_mutex_init(&k->lock, NULL);
	if (start(k, folder, err) < 0) {
		fm_keeper_free(k);
		return -1;
	}
	*ret = k;
	return 0;
}

void fm_keeper_free(struct fm_keeper *k)
{
	if (!k)
		return;
	if (k->started) {
		fm_stop_request(&k->stop);
		pthread_join(k->thread, NULL);
	}
	fm_stubs_free(k->stubs);
	fm_conntrack_free(k->conntrack);
	if (k->stop.fd >= 0)
		fm_stop_done(&k->stop);
	fm_closep(&k->wake_fd);
	pthread_mutex_destroy(&k->lock);
	free(k->secrets_dir);
	free(k);
}

size_t fm_keeper_count(struct fm_keeper *k)
{
	return fm_stubs_count(k->stubs);
}

/* ---------------------------------------------------------------- what a move makes pointless */

static bool any_equal(const json_t *list, const json_t *one)
{
	size_t i;
	json_t *v;

	json_array_foreach(list, i, v) if (json_equal(v, one)) return true;
	return false;
}

/* `kept` is this host's end of a tunnel by which a container's replies return to the host where it had been; `now` is this host's end of one that leads its packets to the same host. */
static bool is_round(const json_t *kept, const json_t *now)
{
	size_t i;
	json_t *address;

	if (!fm_streq(json_string_value(json_object_get(kept, "driver")), fm_redirect_tunnel.name) ||
	    !fm_streq(json_string_value(json_object_get(now, "driver")), fm_redirect_tunnel.name) ||
	    !fm_streq(json_string_value(json_object_get(kept, "side")), "destination") ||
	    !fm_streq(json_string_value(json_object_get(now, "side")), "source") ||
	    !json_equal(json_object_get(kept, "remote"), json_object_get(now, "remote")))
		return false;
	json_array_foreach(json_object_get(kept, "addresses"), i,
	                   address) if (any_equal(json_object_get(now, "addresses"), address)) return true;
	return false;
}

/* A container has gone back: with both ends its packets would go round and round between the two hosts. */
static bool leads_round(const json_t *record, const void *now)
{
	size_t i, n;
	json_t *kept, *mine;

	json_array_foreach(json_object_get(record, "actions"), i, kept)
	{
		json_array_foreach(json_object_get(now, "actions"), n, mine)
		{
			if (is_round(json_object_get(kept, "action"), json_object_get(mine, "action")))
				return true;
		}
	}
	return false;
}

/* What cannot be taken away now is tried again. */
static int retire_one(struct fm_keeper *k, const char *id, struct fm_error *err)
{
	struct fm_redirect_call c = { .cancel_fd = -1, .deadline_ms = fm_now_ms() + ARRIVING_TIMEOUT_MS, .secrets_dir = k->secrets_dir };
	struct fm_error e = FM_ERROR_INIT;

	if (retire(k, id, &c, &e) == 0)
		return 0;
	remember_unwanted(k, id);
	fm_log_write(k->log, FM_LOG_WARN, "NetworkManager", NULL,
	             "What migration '%s' left here for old connections cannot be taken away (trying again): %s", id, e.message);
	if (err)
		*err = e;
	return -1;
}

/* Of what is kept for old connections. */
static void retire_where(struct fm_keeper *k, bool (*match)(const json_t *record, const void *arg), const void *arg)
{
	_fm_cleanup_(json_decrefp) json_t *all = fm_stubs_records(k->stubs);
	const json_t *record;
	size_t i;

	json_array_foreach(all, i, record)
	{
		if (!fm_keeper_is_of_resident(record) && match(record, arg))
			(void)retire_one(k, id_of(record), NULL);
	}
}

/* ---------------------------------------------------------------- publications of containers that are here */

bool fm_keeper_is_of_resident(const json_t *record)
{
	return fm_streq(json_string_value(json_object_get(record, "until")), "leaves");
}

json_t *fm_keeper_records(struct fm_keeper *k)
{
	return fm_stubs_records(k->stubs);
}

int fm_keeper_left(struct fm_keeper *k, const json_t *record, struct fm_error *err)
{
	return retire_one(k, id_of(record), err);
}

/* However they are written */
static bool is_same(const char *one, const char *other)
{
	struct fm_conntrack_address a, b;

	return one && other && fm_conntrack_address_parse(one, &a, NULL) == 0 && fm_conntrack_address_parse(other, &b, NULL) == 0 &&
	       a.family == b.family && memcmp(a.bytes, b.bytes, sizeof(a.bytes)) == 0;
}

static bool is_about(const json_t *record, const void *addresses)
{
	const json_t *list = json_object_get(record, "addresses");
	size_t i;
	json_t *one;

	json_array_foreach(list, i, one) for (char *const *a = addresses; *a; a++) if (is_same(json_string_value(one), *a)) return true;
	return false;
}

void fm_keeper_arriving(struct fm_keeper *k, char *const *addresses)
{
	if (k)
		retire_where(k, is_about, addresses);
}

/* ---------------------------------------------------------------- a record */

static void add_address(json_t *list, const json_t *address)
{
	size_t i;
	json_t *have;

	if (!json_is_string(address))
		return;
	json_array_foreach(list, i, have) if (is_same(json_string_value(have), json_string_value(address))) return;
	(void)json_array_append(list, (json_t *)address);
}

/* Whose flows need it: "address" of a publication, "addresses" of a tunnel. */
static void add_addresses(json_t *list, const json_t *action)
{
	const json_t *several = json_object_get(action, "addresses");
	size_t i;
	json_t *one;

	add_address(list, json_object_get(action, "address"));
	json_array_foreach(several, i, one) add_address(list, one);
}

static int add_action(json_t *actions, json_t *addresses, const FM_PB(Redirection) * r, struct fm_error *err)
{
	_fm_cleanup_(json_decrefp) json_t *action = json_loads(r->action, JSON_REJECT_DUPLICATES, NULL);
	_fm_cleanup_(json_decrefp) json_t *undo = json_loads(r->undo, JSON_REJECT_DUPLICATES, NULL);

	if (!json_is_object(action) || !json_is_object(undo))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a redirection to be kept whose action or undo is no JSON object");
	add_addresses(addresses, action);
	if (json_array_append_new(actions, json_pack("{s:O, s:O}", "action", action, "undo", undo)) < 0)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	return 0;
}

/* A publication where the container is now. */
static bool is_of_place(const json_t *action)
{
	return fm_streq(json_string_value(json_object_get(action, "driver")), fm_redirect_dnat.name) &&
	       fm_streq(json_string_value(json_object_get(action, "side")), "destination");
}

struct keeping {
	json_t *actions, *addresses;
};

static void keeping_done(struct keeping *g)
{
	json_decref(g->actions);
	json_decref(g->addresses);
}

static int add_record(struct fm_keeper *k, const char *id, const char *until, const struct keeping *g, struct fm_error *err)
{
	_fm_cleanup_(json_decrefp) json_t *record = json_pack("{s:i, s:s, s:O, s:s, s:s, s:O}", "stub", 1, "id", id, "addresses",
	                                                      g->addresses, "flows", "all", "until", until, "actions", g->actions);

	if (!record)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a migration's id that is no text");
	if (fm_stubs_add(k->stubs, record, err) < 0)
		return -1;
	retire_where(k, leads_round, record);
	return 0;
}

int fm_keeper_keep(struct fm_keeper *k, const char *migration_id, FM_PB(Redirection) *const *v, size_t n, struct fm_error *err)
{
	_fm_cleanup_(keeping_done) struct keeping flows = { json_array(), json_array() };
	_fm_cleanup_(keeping_done) struct keeping place = { json_array(), json_array() };
	_fm_free_ char *published = fm_xasprintf("%s" PUBLISHED, migration_id);

	for (size_t i = 0; i < n; i++) {
		_fm_cleanup_(json_decrefp) json_t *action = json_loads(v[i]->action, JSON_REJECT_DUPLICATES, NULL);
		struct keeping *g = is_of_place(action) ? &place : &flows;

		if (add_action(g->actions, g->addresses, v[i], err) < 0)
			return -1;
	}
	if (json_array_size(place.actions) > 0 && add_record(k, published, "leaves", &place, err) < 0)
		return -1;
	if (json_array_size(place.actions) > 0 && json_array_size(flows.actions) == 0)
		return 0;
	return add_record(k, migration_id, "flows", &flows, err);
}
