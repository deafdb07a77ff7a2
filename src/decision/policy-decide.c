/* SPDX-License-Identifier: MIT */
/* policy-decide.c - what a set of policies says about one migration, and the record of how that came about. The rules are in policy.h. */
#include <string.h>

#include "basic/str.h"
#include "decision/policy.h"

#define MAX_PARTS      8   /* comparisons that are told of one policy */
#define MAX_PART_BYTES 200 /* of one of them */
#define MINUTES_A_DAY  1440

enum verdict { SILENT, ALLOW, DENY };

/* One policy's part in the decision. */
struct opinion {
	const struct fm_policy *p;
	struct fm_expr_result result;
	bool in_force, in_window;
	enum verdict verdict;
	char reason[400];
};

struct decider {
	const struct fm_policies *set;
	const struct fm_policy_case *c;
	struct fm_expr_value values[FM_MAX_POLICY_VALUES];
	json_t *labels; /* that were looked up, with what they said */
	struct fm_expr_env env;
};

static const char *look_up(void *userdata, unsigned function, const char *key)
{
	struct decider *d = userdata;
	const struct fm_snapshot *s = d->c->snapshot;
	const struct fm_snap_labels *where = function == 0   ? &s->containers[d->c->container].labels
	                                     : function == 1 ? &s->hosts[d->c->source].labels
	                                                     : &s->hosts[d->c->destination].labels;
	const char *value = fm_snap_label(where, key);
	_fm_free_ char *name = fm_xasprintf("%s(\"%s\")", fm_policy_vocabulary()->lookups[function], key);
	(void)json_object_set_new(d->labels, name, json_string(value ? value : ""));
	return value;
}

/* ---------------------------------------------------------------- windows */

/* Does the moment lie in it? One over midnight belongs to the day on which it began. */
static bool is_in_window(const struct fm_policy_window *w, const struct fm_snapshot *s)
{
	int64_t minute = ((int64_t)(s->at_unix_ms / 1000) + (w->has_offset ? w->utc_offset_s : s->utc_offset_s)) / 60;
	int64_t day = minute / MINUTES_A_DAY, of_day = minute % MINUTES_A_DAY;
	unsigned today = (unsigned)((day + 3) % 7), yesterday = (today + 6) % 7; /* the epoch was a Thursday */
	if (w->from_minute < w->to_minute)
		return (w->days >> today & 1) && of_day >= w->from_minute && of_day < w->to_minute;
	return ((w->days >> today & 1) && of_day >= w->from_minute) || ((w->days >> yesterday & 1) && of_day < w->to_minute);
}

static bool is_in_windows(const struct fm_policy *p, const struct fm_snapshot *s)
{
	for (size_t i = 0; i < p->n_windows; i++)
		if (is_in_window(&p->windows[i], s))
			return true;
	return p->n_windows == 0;
}

/* ---------------------------------------------------------------- one policy */

static void say(char *buf, size_t cap, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void say(char *buf, size_t cap, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(buf, cap, fmt, ap);
	va_end(ap);
	fm_str_sanitize(buf); /* what was cut may end in the middle of a character */
}

static void value_to_text(const struct fm_expr_value *v, enum fm_expr_type type, char *buf, size_t cap)
{
	if (!v->known)
		say(buf, cap, "not known");
	else if (type == FM_EXPR_TEXT)
		say(buf, cap, "'%.64s'", v->text);
	else if (type == FM_EXPR_BOOL)
		say(buf, cap, "%s", v->truth ? "true" : "false");
	else
		say(buf, cap, "%.10g", v->number);
}

/* "source_cpu_utilization > 80 (source_cpu_utilization is 91.5)" */
static void part_to_text(const struct decider *d, const struct fm_policy *p, const struct fm_expr_part *part, char *buf, size_t cap)
{
	const struct fm_expr_vocabulary *voc = fm_policy_vocabulary();
	size_t len = part->len < MAX_PART_BYTES ? part->len : MAX_PART_BYTES;
	char text[MAX_PART_BYTES + 1] = "";
	bool any = false;
	for (size_t i = 0; i < len; i++) /* it may have been written on several lines */
		text[i] = (char)(strchr("\n\r\t", part->text[i]) ? ' ' : part->text[i]);
	say(buf, cap, "%s%s", text, len < part->len ? "…" : "");
	for (unsigned i = 0; i < voc->n_variables; i++) {
		char value[96];
		if (!fm_expr_part_uses(p->expr, part, i))
			continue;
		value_to_text(&d->values[i], voc->variables[i].type, value, sizeof(value));
		say(buf + strlen(buf), cap - strlen(buf), "%s%s is %s", any ? ", " : " (", voc->variables[i].name, value);
		any = true;
	}
	if (any)
		say(buf + strlen(buf), cap - strlen(buf), ")");
}

/* The first comparison that decided. */
static void because(struct decider *d, const struct fm_policy *p, char *buf, size_t cap)
{
	struct fm_expr_part part;
	buf[0] = '\0';
	if (p->expr && fm_expr_explain(p->expr, &d->env, &part, 1))
		part_to_text(d, p, &part, buf, cap);
}

static void judge(struct decider *d, struct opinion *o)
{
	const struct fm_policy *p = o->p;
	char why[300];
	if (p->expr)
		fm_expr_eval(p->expr, &d->env, &o->result);
	else
		o->result = (struct fm_expr_result){ .truth = FM_TRUTH_TRUE };
	o->in_window = is_in_windows(p, d->c->snapshot);
	o->in_force = o->result.truth == FM_TRUTH_TRUE;
	because(d, p, why, sizeof(why));
	if (o->result.truth == FM_TRUTH_UNKNOWN) {
		o->verdict = DENY;
		say(o->reason, sizeof(o->reason), "'%s' is not known, and it has to be",
		    fm_policy_vocabulary()->variables[o->result.variable].name);
	} else if (o->result.truth == FM_TRUTH_ERROR) {
		o->verdict = DENY;
		say(o->reason, sizeof(o->reason), "CONDITIONS, line %u, column %u: %s", o->result.line, o->result.column,
		    o->result.problem);
	} else if (!o->in_force) {
		say(o->reason, sizeof(o->reason), "its conditions do not hold%s%s", why[0] ? ": " : "", why);
	} else if (fm_policy_has(p, FM_POLICY_DENY) || fm_policy_has(p, FM_POLICY_ROLLBACK)) {
		o->verdict = DENY;
		say(o->reason, sizeof(o->reason), "it denies%s%s", why[0] ? ": " : "", why);
	} else if (!o->in_window) {
		o->verdict = DENY;
		say(o->reason, sizeof(o->reason), "it is in force outside its windows");
	} else if (fm_policy_has(p, FM_POLICY_ALLOW)) {
		o->verdict = ALLOW;
		say(o->reason, sizeof(o->reason), "its conditions hold%s%s", why[0] ? ": " : "", why);
	} else {
		say(o->reason, sizeof(o->reason), "its conditions hold%s%s", why[0] ? ": " : "", why);
	}
}

/* ---------------------------------------------------------------- all of them */

/* Higher PRIORITY first, then denying, then the order of reading. */
static bool outranks(const struct opinion *a, const struct opinion *b)
{
	if (a->p->priority != b->p->priority)
		return a->p->priority > b->p->priority;
	return a->verdict == DENY && b->verdict != DENY;
}

static void nothing_allows(const struct opinion *v, size_t n, struct fm_policy_decision *ret)
{
	for (size_t i = 0; i < n; i++) {
		if (!fm_policy_has(v[i].p, FM_POLICY_ALLOW))
			continue;
		ret->allowed = false;
		if (!ret->message[0])
			say(ret->message, sizeof(ret->message), "no policy allows it; '%s': %s", v[i].p->name, v[i].reason);
	}
}

static void decide(const struct opinion *v, size_t n, struct fm_policy_decision *ret)
{
	const struct opinion *best = NULL;
	for (size_t i = 0; i < n; i++)
		if (v[i].verdict != SILENT && (!best || outranks(&v[i], best)))
			best = &v[i];
	ret->allowed = !best || best->verdict == ALLOW;
	ret->decided_by = best ? best->p->name : NULL;
	if (!best)
		nothing_allows(v, n, ret);
	else if (best->verdict == DENY)
		say(ret->message, sizeof(ret->message), "%s", best->reason);
}

static void lower(unsigned *to, unsigned limit)
{
	if (limit && (*to == 0 || limit < *to))
		*to = limit;
}

static int64_t priority_of(const char *name)
{
	return fm_streq(name, "low") ? 25 : fm_streq(name, "high") ? 75 : fm_streq(name, "critical") ? 100 : FM_PRIORITY_NORMAL;
}

/* Of one policy in force; by: the PRIORITY of whoever said it last */
static void add_effects(const struct fm_policy *p, struct fm_policy_decision *ret, int64_t *by_priority, int64_t *by_strategy)
{
	const char *priority = fm_policy_argument(p, FM_POLICY_SET_PRIORITY), *strategy = fm_policy_argument(p, FM_POLICY_SET_STRATEGY);
	if (priority && p->priority > *by_priority) {
		ret->priority = priority_of(priority);
		*by_priority = p->priority;
	}
	if (strategy && p->priority > *by_strategy) {
		ret->strategy = strategy;
		ret->strategy_by = p->name;
		*by_strategy = p->priority;
	}
	if (!ret->approval_by && fm_policy_has(p, FM_POLICY_REQUIRE_APPROVAL))
		ret->approval_by = p->name;
	if (!ret->balancer_by && fm_policy_has(p, FM_POLICY_LOAD_BALANCER))
		ret->balancer_by = p->name;
	lower(&ret->limits.global, p->limits.global);
	lower(&ret->limits.per_host, p->limits.per_host);
	lower(&ret->limits.per_link, p->limits.per_link);
	if (p->duration_s && (ret->duration_s == 0 || p->duration_s < ret->duration_s)) {
		ret->duration_s = p->duration_s;
		ret->duration_by = p->name;
	}
	for (size_t i = 0; i < p->n_actions; i++)
		if (p->actions[i].action == FM_POLICY_NOTIFY && ret->n_notices < FM_MAX_POLICY_LIST)
			ret->notices[ret->n_notices++] = (struct fm_policy_notice){ p->name, p->actions[i].argument };
}

/* ---------------------------------------------------------------- the record */

static const char *truth_name(enum fm_truth t)
{
	static const char *const names[] = { "false", "true", "unknown", "error" };
	return names[t];
}

static json_t *value_to_json(const struct fm_expr_value *v, enum fm_expr_type type)
{
	if (!v->known)
		return json_null();
	return type == FM_EXPR_TEXT ? json_string(v->text) : type == FM_EXPR_BOOL ? json_boolean(v->truth) : json_real(v->number);
}

static json_t *variables_to_json(const struct decider *d)
{
	const struct fm_expr_vocabulary *voc = fm_policy_vocabulary();
	json_t *o = json_object();
	for (unsigned i = 0; i < voc->n_variables; i++)
		for (size_t k = 0; k < d->set->n; k++)
			if (d->set->v[k]->expr && fm_expr_uses(d->set->v[k]->expr, i))
				(void)json_object_set_new(o, voc->variables[i].name, value_to_json(&d->values[i], voc->variables[i].type));
	return o;
}

static json_t *opinion_to_json(struct decider *d, const struct fm_policy *p, const struct opinion *o)
{
	static const char *const verdicts[] = { "none", "allow", "deny" };
	struct fm_expr_part parts[MAX_PARTS];
	json_t *list = json_array(), *actions = json_array();
	size_t n = p->expr ? fm_expr_explain(p->expr, &d->env, parts, MAX_PARTS) : 0;
	for (size_t i = 0; i < n; i++) {
		char text[600];
		part_to_text(d, p, &parts[i], text, sizeof(text));
		(void)json_array_append_new(list, json_pack("{s:s, s:s}", "text", text, "result", truth_name(parts[i].truth)));
	}
	for (size_t i = 0; i < p->n_actions; i++) {
		const char *argument = p->actions[i].argument, *name = fm_policy_action_name(p->actions[i].action);
		_fm_free_ char *text = argument ? fm_xasprintf("%s(\"%s\")", name, argument) : fm_xstrdup(name);
		(void)json_array_append_new(actions, json_string(text));
	}
	return json_pack("{s:s, s:s, s:I, s:s, s:s, s:b, s:s, s:o, s:o}", "name", p->name, "at", p->at, "priority", (json_int_t)p->priority,
	                 "result", truth_name(o->result.truth), "verdict", verdicts[o->verdict], "in_windows", o->in_window, "reason",
	                 o->reason, "because", list, "actions", actions);
}

static json_t *effects_to_json(const struct fm_policy_decision *e)
{
	json_t *notices = json_array();
	for (size_t i = 0; i < e->n_notices; i++)
		(void)json_array_append_new(notices, json_string(e->notices[i].policy));
	return json_pack("{s:I, s:s*, s:s*, s:s*, s:s*, s:{s:i, s:i, s:i}, s:i, s:s*, s:o}", "priority", (json_int_t)e->priority,
	                 "strategy", e->strategy, "strategy_by", e->strategy_by, "approval_by", e->approval_by, "load_balancer_by",
	                 e->balancer_by, "max_concurrent_migrations", "global", (int)e->limits.global, "per_host", (int)e->limits.per_host,
	                 "per_link", (int)e->limits.per_link, "migration_duration_s", (int)e->duration_s, "migration_duration_by",
	                 e->duration_by, "notified_by", notices);
}

static json_t *to_record(struct decider *d, const struct opinion *v, const struct fm_policy_decision *ret)
{
	json_t *policies = json_array();
	for (size_t i = 0; i < d->set->n; i++)
		(void)json_array_append_new(policies, opinion_to_json(d, d->set->v[i], &v[i]));
	return json_pack("{s:b, s:s?, s:s, s:I, s:i, s:o, s:O, s:o, s:o}", "allowed", ret->allowed, "decided_by", ret->decided_by,
	                 "message", ret->message, "at_unix_ms", (json_int_t)d->c->snapshot->at_unix_ms, "utc_offset_s",
	                 d->c->snapshot->utc_offset_s, "variables", variables_to_json(d), "labels", d->labels, "policies", policies,
	                 "effects", effects_to_json(ret));
}

void fm_policies_decide(const struct fm_policies *set, const struct fm_policy_case *c, struct fm_policy_decision *ret)
{
	struct decider d = { .set = set, .c = c, .labels = json_object() };
	_fm_free_ struct opinion *v = calloc(set->n + 1, sizeof(*v));
	int64_t by_priority = INT64_MIN, by_strategy = INT64_MIN;
	if (!v)
		abort();
	*ret = (struct fm_policy_decision){ .priority = FM_PRIORITY_NORMAL };
	d.env = (struct fm_expr_env){ d.values, look_up, &d };
	fm_policy_values(c, d.values);
	for (size_t i = 0; i < set->n; i++) {
		v[i].p = set->v[i];
		judge(&d, &v[i]);
		if (v[i].in_force)
			add_effects(v[i].p, ret, &by_priority, &by_strategy);
	}
	decide(v, set->n, ret);
	ret->record = to_record(&d, v, ret);
	json_decref(d.labels);
	if (!ret->record)
		abort();
}
