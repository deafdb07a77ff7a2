/* SPDX-License-Identifier: MIT */
/*
 * redirect-dns.c - driver "dns": a name follows the container to its new address. Run by the manager; the work is dns.h's.
 *
 *   {"driver":"dns","server":"192.0.2.53:5353","zone":"example.org","reverse_zone":"in-addr.arpa","key":"mover","algorithm":"hmac-sha256","key_file":"mover.key",
 *    "name":"redis.example.org","from":"10.77.0.100","to":"10.78.0.100","ttl_s":1,"reverse":true}
 *
 * The undo is the records' changes in the order in which they are made, as dns.h's lines, and how long caches may hold the old address: {"lines":[…],"caches_hold_s":3600}. Several changes of one record form a
 * chain of states, T being the time to live as it was:
 *
 *     from, T  --open-->  from, ttl_s  --flip-->  to, ttl_s  --flip-->  to, T
 *
 * A process that died, or a server that answered too late, leaves the record in any of them. So each step asks first where in its chain the record is: going on from there is opening or flipping,
 * going back is reverting, and a record that is nowhere in its chain is somebody else's: ABORTED. (Applying all undos in reverse would not do: the last one knows only the last two states.)
 *
 * When the address stays there is nothing that a cache could hold too long: no change, an undo without lines.
 */
#include <string.h>

#include "basic/cleanup.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "network/dns-internal.h"
#include "network/redirect-secret.h"

#define ME            "dns"
#define DEFAULT_TTL_S 1
#define STEPS_MAX     5 /* time to live, address, reverse record away, reverse record new, time to live */

struct job {
	struct fm_dns_zone zone;
	struct fm_dns_call call;
	char name[FM_DNS_NAME_MAX + 1];
	enum fm_dns_type type;
	char from[FM_DNS_NAME_MAX + 1], to[FM_DNS_NAME_MAX + 1]; /* canonical */
	uint32_t ttl_s;
	bool reverse;
	struct fm_dns_change step[STEPS_MAX];
	size_t n_steps;
	uint32_t caches_hold_s;
};

static void job_done(struct job *j)
{
	fm_dns_zone_wipe(&j->zone);
}

/* ---- reading ---- */

struct words {
	struct fm_dns_words zone;
	const char *name, *from, *to, *key_file;
	uint32_t ttl_s;
	bool reverse;
};

static int read_words(const json_t *a, const struct fm_place *at, struct words *ret, struct fm_error *err)
{
#define IN_ZONE(member) .offset = offsetof(struct words, zone.member)
	static const struct fm_field fields[] = {
		FM_FIELD_DRIVER,
		{ .name = "server", IN_ZONE(server), .max = 80, .required = true },
		{ .name = "zone", IN_ZONE(zone), .max = FM_DNS_NAME_MAX + 1, .required = true },
		{ .name = "reverse_zone", IN_ZONE(reverse_zone), .max = FM_DNS_NAME_MAX + 1 },
		{ .name = "key", IN_ZONE(key_name), .max = FM_DNS_NAME_MAX + 1, .required = true },
		{ .name = "algorithm", IN_ZONE(algorithm), .max = 32 },
		{ FM_FIELD(struct words, key_file), .max = FM_MAX_NAME, .required = true },
		{ FM_FIELD(struct words, name), .max = FM_DNS_NAME_MAX + 1, .required = true },
		{ FM_FIELD(struct words, from), .max = FM_DNS_NAME_MAX, .required = true },
		{ FM_FIELD(struct words, to), .max = FM_DNS_NAME_MAX, .required = true },
		{ FM_FIELD(struct words, ttl_s), .type = FM_FIELD_U32, .max = FM_DNS_TTL_MAX },
		{ FM_FIELD(struct words, reverse), .type = FM_FIELD_BOOL },
		{ 0 },
	};
#undef IN_ZONE

	return fm_fields_read(a, at, fields, ret, err);
}

/* "from" says of which family the record is, "to" has to be of the same. */
static int read_record(const struct words *w, const struct fm_place *at, struct job *j, struct fm_error *err)
{
	if (fm_dns_name_parse(w->name, j->name, err) < 0)
		return fm_field_error(at, "name", err);
	j->type = strchr(w->from, ':') ? FM_DNS_AAAA : FM_DNS_A;
	if (fm_dns_value_parse(j->type, w->from, j->from, err) < 0)
		return fm_field_error(at, "from", err);
	if (fm_dns_value_parse(j->type, w->to, j->to, err) < 0)
		return fm_field_error(at, "to (of the same family as from)", err);
	return 0;
}

static int read_action(const struct fm_redirect_call *c, const json_t *a, struct job *j, struct fm_error *err)
{
	const struct fm_place at = { .who = ME };
	struct words w = { .ttl_s = DEFAULT_TTL_S };
	_fm_free_ char *secret = NULL;

	if (read_words(a, &at, &w, err) < 0 || read_record(&w, &at, j, err) < 0)
		return -1;
	if (w.reverse && !w.zone.reverse_zone)
		return fm_field_wrong(&at, "reverse_zone", "is missing, and \"reverse\" needs it", err);
	if (fm_redirect_secret_path(c, w.key_file, &at, "key_file", &secret, err) < 0)
		return -1;
	w.zone.secret_file = secret;
	j->reverse = w.reverse;
	j->ttl_s = w.ttl_s;
	j->call = (struct fm_dns_call){ .zone = &j->zone, .deadline_ms = c->deadline_ms, .cancel_fd = c->cancel_fd };
	return fm_dns_zone_parse(&w.zone, &j->zone, err);
}

/* A line is a change of a record of the action's, or of somebody's who should not be there. */
static int check_line(const struct job *j, const struct fm_dns_change *change, struct fm_error *err)
{
	char old[FM_DNS_NAME_MAX + 1], new[FM_DNS_NAME_MAX + 1];

	if (change->type != FM_DNS_PTR && change->type == j->type && strcmp(change->name, j->name) == 0)
		return 0;
	if (change->type == FM_DNS_PTR && j->reverse && fm_dns_reverse_name(j->from, old, err) == 0 &&
	    fm_dns_reverse_name(j->to, new, err) == 0 && (strcmp(change->name, old) == 0 || strcmp(change->name, new) == 0))
		return 0;
	return fm_error_set(err, FM_E_DATA_LOSS, "%s %s is not a record of this action", change->name, fm_dns_type_to_string(change->type));
}

static int read_line(void *userdata, size_t i, const json_t *v, const struct fm_place *at, struct fm_error *err)
{
	static const struct fm_field how = { .max = FM_MAX_DNS_UNDO_BYTES };
	struct fm_dns_change inverse;
	struct job *j = userdata;
	const char *line = NULL;

	if (fm_field_read(v, at, &how, &line, err) < 0)
		return -1;
	if (fm_dns_undo_parse(line, &inverse, err) < 0 || check_line(j, &inverse, err) < 0)
		return fm_field_error(at, NULL, err);
	fm_dns_change_inverse(&inverse, &j->step[i]);
	j->n_steps = i + 1;
	return 0;
}

static int read_undo(const json_t *undo, struct job *j, struct fm_error *err)
{
	static const struct fm_field fields[] = {
		{ .name = "lines", .type = FM_FIELD_LIST, .max = STEPS_MAX, .required = true },
		{ .name = "caches_hold_s", .type = FM_FIELD_ANY }, /* is for others */
		{ 0 },
	};
	const struct fm_place at = { .who = ME ": undo", .code = FM_E_DATA_LOSS };
	const json_t *lines = NULL;

	return fm_fields_read(undo, &at, fields, &lines, err) < 0 ? -1 : fm_fields_each(lines, &at, "lines", read_line, j, err);
}

static int read_job(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct job *j, struct fm_error *err)
{
	return read_action(c, action, j, err) < 0 ? -1 : read_undo(undo, j, err);
}

static int write_undo(const struct job *j, json_t **ret, struct fm_error *err)
{
	_fm_cleanup_(json_decrefp) json_t *lines = json_array();
	char line[FM_MAX_DNS_UNDO_BYTES];

	for (size_t i = 0; i < j->n_steps; i++)
		if (fm_dns_undo_format(&j->step[i], line, err) < 0 || json_array_append_new(lines, json_string(line)) < 0)
			return -1;
	*ret = json_pack("{s:O, s:I}", "lines", lines, "caches_hold_s", (json_int_t)j->caches_hold_s);
	return *ret ? 0 : fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "%s: no memory", ME);
}

/* ---- planning ---- */

static void add_step(struct job *j, const char *name, enum fm_dns_type type, const struct fm_dns_side *from, const struct fm_dns_side *to)
{
	struct fm_dns_change *s = &j->step[j->n_steps++];

	*s = (struct fm_dns_change){ .type = type, .from = *from, .to = *to };
	memcpy(s->name, name, strlen(name) + 1);
}

/* old_ttl_s: what the address's record had. */
static int plan_reverse(struct job *j, uint32_t old_ttl_s, struct fm_error *err)
{
	struct fm_dns_rrset now = { 0 };
	struct fm_dns_change change;
	uint32_t ttl_s = old_ttl_s;

	if (fm_dns_query(&j->call, j->from, FM_DNS_PTR, &now, err) < 0)
		return -1;
	if (now.n > 0) {
		if (fm_dns_plan_replace(&j->call, j->from, FM_DNS_PTR, j->name, "", 0, &change, err) < 0)
			return -1;
		ttl_s = change.from.ttl_s;
		add_step(j, change.name, FM_DNS_PTR, &change.from, &change.to);
	}
	if (fm_dns_query(&j->call, j->to, FM_DNS_PTR, &now, err) < 0)
		return -1;
	if (now.n == 1 && strcmp(now.value[0], j->name) == 0)
		return 0; /* as it shall be: not ours to remove either */
	if (fm_dns_plan_replace(&j->call, j->to, FM_DNS_PTR, "", j->name, ttl_s, &change, err) < 0)
		return -1;
	add_step(j, change.name, FM_DNS_PTR, &change.from, &change.to);
	return 0;
}

static int plan(struct job *j, struct fm_error *err)
{
	struct fm_dns_change swap;
	struct fm_dns_side before, after;
	bool lower;

	if (fm_dns_plan_replace(&j->call, j->name, j->type, j->from, j->to, j->ttl_s, &swap, err) < 0)
		return -1;
	if (strcmp(j->from, j->to) == 0)
		return 0;
	before = swap.from;
	after = swap.to;
	after.ttl_s = before.ttl_s;
	lower = j->ttl_s < before.ttl_s;
	swap.from.ttl_s = swap.to.ttl_s = lower ? j->ttl_s : before.ttl_s;
	j->caches_hold_s = before.ttl_s;
	if (lower)
		add_step(j, j->name, j->type, &before, &swap.from);
	add_step(j, j->name, j->type, &swap.from, &swap.to);
	if (j->reverse && plan_reverse(j, before.ttl_s, err) < 0)
		return -1;
	if (lower)
		add_step(j, j->name, j->type, &swap.to, &after);
	return 0;
}

static bool same_record(const struct fm_dns_change *a, const struct fm_dns_change *b)
{
	return a->type == b->type && strcmp(a->name, b->name) == 0;
}

/* Another step of the same record comes before it. */
static bool is_later(const struct job *j, size_t i)
{
	for (size_t k = 0; k < i; k++)
		if (same_record(&j->step[k], &j->step[i]))
			return true;
	return false;
}

/* A key that may not, and a server that does not take updates, are found out before anything is touched. */
static int prepare(const struct fm_redirect_call *c, const json_t *action, json_t **ret_undo, struct fm_error *err)
{
	_fm_cleanup_(job_done) struct job j = { 0 };

	if (read_action(c, action, &j, err) < 0 || plan(&j, err) < 0)
		return -1;
	for (size_t i = 0; i < j.n_steps; i++)
		if (!is_later(&j, i) && fm_dns_rehearse(&j.call, &j.step[i], err) < 0)
			return -1;
	return write_undo(&j, ret_undo, err);
}

/* ---- going along a chain ---- */

static bool is_side(const struct fm_dns_rrset *now, const struct fm_dns_side *s)
{
	if (!s->value[0])
		return now->n == 0;
	return now->n == 1 && strcmp(now->value[0], s->value) == 0 && now->ttl_s == s->ttl_s;
}

static void now_text(const struct fm_dns_rrset *now, char *ret, size_t cap)
{
	if (now->n == 0)
		(void)fm_snprintf(ret, cap, NULL, "absent");
	else
		(void)fm_snprintf(ret, cap, NULL, "%.200s%s with %u s to live", now->value[0], now->n > 1 ? " and more" : "", now->ttl_s);
}

/* *ret_behind: the record is where step i leads to, or further. -1 when it is nowhere in its chain. */
static int look(const struct job *j, size_t i, bool *ret_behind, struct fm_error *err)
{
	const struct fm_dns_change *s = &j->step[i];
	struct fm_dns_rrset now = { 0 };
	bool found = false;
	char text[256];

	if (fm_dns_query(&j->call, s->name, s->type, &now, err) < 0)
		return -1;
	for (size_t k = 0; k < j->n_steps; k++) {
		if (!same_record(&j->step[k], s))
			continue;
		if (is_side(&now, &j->step[k].from)) { /* the chain's first state, or one in its middle */
			found = true;
			*ret_behind = k > i;
		} else if (is_side(&now, &j->step[k].to)) {
			found = true;
			*ret_behind = k >= i;
		}
	}
	if (found)
		return 0;
	now_text(&now, text, sizeof(text));
	(void)fm_error_set(err, FM_E_ABORTED, "%s: %s %s is %s, which is neither as before nor as wanted", ME, s->name,
	                   fm_dns_type_to_string(s->type), text);
	return fm_error_hint(err, "somebody else has changed the record; it was left as it is");
}

/* An answer of the server's that came too late has us look again at what is so already: fm_dns_apply does. */
static int go(const struct job *j, size_t i, bool forward, struct fm_error *err)
{
	struct fm_dns_change back;
	bool behind = false;

	if (look(j, i, &behind, err) < 0)
		return -1;
	if (behind == forward)
		return 0;
	fm_dns_change_inverse(&j->step[i], &back);
	return fm_dns_apply(&j->call, forward ? &j->step[i] : &back, NULL, err);
}

/* The first step, when it only lowers the time to live. */
static bool opens(const struct job *j)
{
	return j->n_steps > 0 && strcmp(j->step[0].from.value, j->step[0].to.value) == 0;
}

static int do_open(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	_fm_cleanup_(job_done) struct job j = { 0 };

	if (read_job(c, action, undo, &j, err) < 0)
		return -1;
	return opens(&j) ? go(&j, 0, true, err) : 0;
}

static int flip(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	_fm_cleanup_(job_done) struct job j = { 0 };

	if (read_job(c, action, undo, &j, err) < 0)
		return -1;
	for (size_t i = 0; i < j.n_steps; i++)
		if (go(&j, i, true, err) < 0)
			return -1;
	return 0;
}

static int revert(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	_fm_cleanup_(job_done) struct job j = { 0 };

	if (read_job(c, action, undo, &j, err) < 0)
		return -1;
	for (size_t i = j.n_steps; i-- > 0;)
		if (go(&j, i, false, err) < 0)
			return -1;
	return 0;
}

static int verify_step(const struct job *j, size_t i, struct fm_error *err)
{
	const struct fm_dns_change *s = &j->step[i];
	struct fm_dns_rrset now = { 0 };
	char text[256];

	for (size_t k = i + 1; k < j->n_steps; k++)
		if (same_record(&j->step[k], s))
			return 0; /* a later one says how it ends */
	if (fm_dns_query(&j->call, s->name, s->type, &now, err) < 0)
		return -1;
	if (is_side(&now, &s->to))
		return 0;
	now_text(&now, text, sizeof(text));
	return fm_error_set(err, FM_E_FAILED_PRECONDITION, "%s: %s %s is %s, not %s", ME, s->name, fm_dns_type_to_string(s->type), text,
	                    s->to.value[0] ? s->to.value : "absent");
}

static int verify(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	_fm_cleanup_(job_done) struct job j = { 0 };
	struct fm_dns_rrset now = { 0 };
	char text[256];

	if (read_job(c, action, undo, &j, err) < 0)
		return -1;
	for (size_t i = 0; i < j.n_steps; i++)
		if (verify_step(&j, i, err) < 0)
			return -1;
	if (j.n_steps > 0)
		return 0;
	if (fm_dns_query(&j.call, j.name, j.type, &now, err) < 0)
		return -1;
	if (now.n == 1 && strcmp(now.value[0], j.to) == 0)
		return 0;
	now_text(&now, text, sizeof(text));
	return fm_error_set(err, FM_E_FAILED_PRECONDITION, "%s: %s is %s, not %s", ME, j.name, text, j.to);
}

const struct fm_redirect_ops fm_redirect_dns = {
	.name = ME,
	.title = "records of a name service",
	.prepare = prepare,
	.open = do_open,
	.flip = flip,
	.verify = verify,
	.revert = revert,
};
