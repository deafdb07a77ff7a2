/* SPDX-License-Identifier: MIT */
/* policy-read.c - policies from a document, every mistake with its place; see policy.h. */
#include <ctype.h>
#include <string.h>

#include "basic/str.h"
#include "decision/policy.h"
#include "decision/strategy.h"

enum key { NAME, DESCRIPTION, CONTEXT, CONDITIONS, ACTIONS, CONSTRAINTS, PRIORITY, _KEYS };
static const char *const keys[] = { "policy_name", "description", "CONTEXT", "CONDITIONS", "ACTIONS", "CONSTRAINTS", "PRIORITY", NULL };

static const char *const action_names[] = { "allow_migration",
	                                    "deny_migration",
	                                    "rollback",
	                                    "set_priority",
	                                    "set_strategy",
	                                    "require_approval",
	                                    "trigger_load_balancer_reconfiguration",
	                                    "notify",
	                                    NULL };
_Static_assert(FM_ARRAY_SIZE(action_names) == _FM_POLICY_ACTION_MAX + 1, "every action has a name");

static const char *const days[] = { "mon", "tue", "wed", "thu", "fri", "sat", "sun", NULL };

/* What is being read. */
struct reader {
	const struct fm_document *d;
	struct fm_error *err;
	struct fm_policy *p;
	const json_t *o;        /* the policy's mapping */
	const char *key[_KEYS]; /* as written; NULL: not there */
};

const char *fm_policy_action_name(enum fm_policy_action a)
{
	return action_names[a];
}

static struct fm_document_place place(const struct reader *r, enum key k)
{
	return fm_document_member_place(r->d, r->o, r->key[k]);
}

static const json_t *value(const struct reader *r, enum key k)
{
	return r->key[k] ? json_object_get(r->o, r->key[k]) : NULL;
}

static int unknown(const struct reader *r, struct fm_document_place at, const char *what, const char *name, const char *const *names)
{
	const char *best = fm_nearest_name(name, names);
	return fm_document_error(r->d, at, r->err, "there is no %s '%.64s'%s%s%s", what, name, best ? "; is '" : "", best ? best : "",
	                         best ? "' meant?" : "");
}

/* ---------------------------------------------------------------- keys, name, priority */

static int read_keys(struct reader *r)
{
	const char *key = NULL;
	json_t *v = NULL;
	if (!json_is_object(r->o))
		return fm_document_error(r->d, fm_document_member_place(r->d, NULL, NULL), r->err,
		                         "a policy is a mapping with policy_name, CONDITIONS, ACTIONS, …");
	json_object_foreach((json_t *)r->o, key, v)
	{
		int k = 0;
		while (k < _KEYS && strcasecmp(keys[k], key) != 0)
			k++;
		if (k == _KEYS)
			return unknown(r, fm_document_key_place(r->d, r->o, key), "member of a policy", key, keys);
		if (r->key[k])
			return fm_document_error(r->d, fm_document_key_place(r->d, r->o, key), r->err, "'%s' is there already, as '%s'",
			                         key, r->key[k]);
		r->key[k] = key;
	}
	return 0;
}

static int read_name(struct reader *r, const struct fm_policies *set)
{
	const char *name = json_string_value(value(r, NAME));
	struct fm_document_place at = place(r, NAME);
	if (!r->key[NAME])
		return fm_document_error(r->d, fm_document_key_place(r->d, r->o, json_object_iter_key(json_object_iter((json_t *)r->o))),
		                         r->err, "a policy without policy_name");
	if (!name || !fm_name_is_valid(name))
		return fm_document_error(r->d, at, r->err, "policy_name has to be a text of 1 to 63 letters, digits, _ . -");
	for (size_t i = 0; i < set->n; i++)
		if (fm_streq(set->v[i]->name, name))
			return fm_document_error(r->d, at, r->err, "there is a policy '%s' already, at %s", name, set->v[i]->at);
	r->p->name = fm_xstrdup(name);
	r->p->at = fm_xasprintf("%s:%u:%u", fm_document_name(r->d), at.line, at.column);
	if (r->key[DESCRIPTION] &&
	    (!json_is_string(value(r, DESCRIPTION)) || json_string_length(value(r, DESCRIPTION)) > FM_MAX_POLICY_DESCRIPTION))
		return fm_document_error(r->d, place(r, DESCRIPTION), r->err, "description has to be a text of at most %u bytes",
		                         FM_MAX_POLICY_DESCRIPTION);
	r->p->description = fm_xstrdup(r->key[DESCRIPTION] ? json_string_value(value(r, DESCRIPTION)) : "");
	return 0;
}

static int read_priority(struct reader *r)
{
	const json_t *v = value(r, PRIORITY);
	if (!v)
		return 0;
	if (!json_is_integer(v) || json_integer_value(v) < -1000000 || json_integer_value(v) > 1000000)
		return fm_document_error(r->d, place(r, PRIORITY), r->err, "PRIORITY has to be a whole number from -1000000 to 1000000");
	r->p->priority = json_integer_value(v);
	return 0;
}

/* ---------------------------------------------------------------- conditions */

/* context[i]: the variable is in CONTEXT */
static int read_context(struct reader *r, bool *context)
{
	const struct fm_expr_vocabulary *voc = fm_policy_vocabulary();
	const char *names[FM_MAX_POLICY_VALUES + 1] = { NULL };
	const json_t *list = value(r, CONTEXT);
	if (!json_is_array(list))
		return fm_document_error(r->d, place(r, CONTEXT), r->err, "CONTEXT has to be a list of variables");
	for (size_t k = 0; k < voc->n_variables; k++)
		names[k] = voc->variables[k].name;
	for (size_t i = 0; i < json_array_size(list); i++) {
		const char *name = json_string_value(json_array_get(list, i));
		struct fm_document_place at = fm_document_entry_place(r->d, list, i);
		size_t k = 0;
		if (!name)
			return fm_document_error(r->d, at, r->err, "CONTEXT has to be a list of variables");
		while (k < voc->n_variables && !fm_streq(names[k], name))
			k++;
		if (k == voc->n_variables)
			return unknown(r, at, "variable", name, names);
		context[k] = true;
	}
	return 0;
}

static int read_conditions(struct reader *r)
{
	const struct fm_expr_vocabulary *voc = fm_policy_vocabulary();
	bool context[FM_MAX_POLICY_VALUES] = { false };
	const json_t *v = value(r, CONDITIONS);
	struct fm_error e = FM_ERROR_INIT;
	if (r->key[CONTEXT] && read_context(r, context) < 0)
		return -1;
	if (!v || json_is_true(v))
		return 0;
	if (!json_is_string(v))
		return fm_document_error(r->d, place(r, CONDITIONS), r->err, "CONDITIONS has to be a text (or true)");
	r->p->conditions = fm_xstrdup(json_string_value(v));
	if (fm_expr_parse(json_string_value(v), json_string_length(v), voc, &r->p->expr, &e) < 0)
		return fm_document_error(r->d, place(r, CONDITIONS), r->err, "CONDITIONS of '%s', %s", r->p->name, e.message);
	for (unsigned i = 0; r->key[CONTEXT] && i < voc->n_variables; i++) {
		unsigned column = 0, line = fm_expr_line_of(r->p->expr, i, &column);
		if (line && !context[i])
			return fm_document_error(r->d, place(r, CONDITIONS), r->err,
			                         "CONDITIONS of '%s', line %u, column %u: '%s' is not in CONTEXT", r->p->name, line, column,
			                         voc->variables[i].name);
	}
	return 0;
}

/* ---------------------------------------------------------------- actions */

/* What is between the parentheses: nothing, or one text in quotes. False: something else. */
static bool read_argument(const char *p, char **ret)
{
	p += strspn(p, " ");
	if (*p == '"' || *p == '\'') {
		const char *end = strchr(p + 1, *p);
		if (!end || memchr(p, '\\', (size_t)(end - p)))
			return false;
		*ret = strndup(p + 1, (size_t)(end - p - 1));
		p = end + 1;
	}
	p += strspn(p, " ");
	return p[0] == ')' && p[1] == '\0';
}

/* NAME or NAME("argument") */
static int split_action(const struct reader *r, struct fm_document_place at, const char *s, char *name, size_t cap, char **argument)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789");
	const char *p = s + n + strspn(s + n, " ");
	if (n == 0 || n >= cap || (*p && (*p != '(' || !read_argument(p + 1, argument))))
		return fm_document_error(r->d, at, r->err, "'%.80s': an action is written NAME or NAME(\"argument\")", s);
	memcpy(name, s, n);
	name[n] = '\0';
	return 0;
}

static const struct {
	const char *name;
	int64_t priority;
} priorities[] = { { "low", 25 }, { "normal", FM_PRIORITY_NORMAL }, { "high", 75 }, { "critical", 100 } };

static bool is_priority(const char *s)
{
	for (size_t i = 0; i < FM_ARRAY_SIZE(priorities); i++)
		if (fm_streq(priorities[i].name, s))
			return true;
	return false;
}

static bool is_url(const char *s)
{
	const char *rest = fm_str_startswith(s, "https://") ? s + 8 : fm_str_startswith(s, "http://") ? s + 7 : NULL;
	for (const char *p = rest; p && *p; p++)
		if ((unsigned char)*p <= ' ' || (unsigned char)*p == 0x7f)
			return false;
	return rest && *rest && strlen(s) <= FM_MAX_HTTP_URL_BYTES;
}

static int check_argument(const struct reader *r, struct fm_document_place at, enum fm_policy_action a, const char *argument)
{
	enum fm_strategy strategy;
	struct fm_error e = FM_ERROR_INIT;
	bool needed = a == FM_POLICY_SET_PRIORITY || a == FM_POLICY_SET_STRATEGY || a == FM_POLICY_NOTIFY;
	if (needed != (argument != NULL))
		return fm_document_error(r->d, at, r->err, "%s %s", action_names[a],
		                         needed ? "needs an argument: (\"…\")" : "takes no argument");
	if (a == FM_POLICY_SET_PRIORITY && !is_priority(argument))
		return fm_document_error(r->d, at, r->err, "set_priority(\"%.40s\"): there are low, normal, high and critical", argument);
	if (a == FM_POLICY_SET_STRATEGY && fm_strategy_from_string(argument, &strategy, &e) < 0)
		return fm_document_error(r->d, at, r->err, "set_strategy(\"%.40s\"): %s", argument, e.message);
	if (a == FM_POLICY_NOTIFY && !is_url(argument))
		return fm_document_error(r->d, at, r->err, "notify needs a URL that begins with https:// or http://");
	return 0;
}

static int read_action(struct reader *r, const json_t *list, size_t i)
{
	const char *s = json_string_value(json_array_get(list, i));
	struct fm_document_place at = fm_document_entry_place(r->d, list, i);
	char name[FM_MAX_NAME];
	size_t a = 0;
	if (!s)
		return fm_document_error(r->d, at, r->err, "an action has to be a text");
	char **argument = &r->p->actions[r->p->n_actions].argument;
	r->p->n_actions++; /* the policy frees the argument from here on */
	if (split_action(r, at, s, name, sizeof(name), argument) < 0)
		return -1;
	while (a < _FM_POLICY_ACTION_MAX && !fm_streq(action_names[a], name))
		a++;
	if (a == _FM_POLICY_ACTION_MAX)
		return unknown(r, at, "action", name, action_names);
	r->p->actions[r->p->n_actions - 1].action = (enum fm_policy_action)a;
	return check_argument(r, at, (enum fm_policy_action)a, *argument);
}

static int read_actions(struct reader *r)
{
	const json_t *list = value(r, ACTIONS);
	if (!json_is_array(list) || json_array_size(list) == 0 || json_array_size(list) > FM_MAX_POLICY_LIST)
		return fm_document_error(r->d, r->key[ACTIONS] ? place(r, ACTIONS) : place(r, NAME), r->err,
		                         "policy '%s' needs ACTIONS, a list of 1 to %u", r->p->name, FM_MAX_POLICY_LIST);
	for (size_t i = 0; i < json_array_size(list); i++)
		if (read_action(r, list, i) < 0)
			return -1;
	bool denies = fm_policy_has(r->p, FM_POLICY_DENY) || fm_policy_has(r->p, FM_POLICY_ROLLBACK);
	if (denies && fm_policy_has(r->p, FM_POLICY_ALLOW))
		return fm_document_error(r->d, place(r, ACTIONS), r->err, "policy '%s' allows and denies", r->p->name);
	if (denies && r->key[CONSTRAINTS] && json_object_size(value(r, CONSTRAINTS)) > 0)
		return fm_document_error(r->d, place(r, CONSTRAINTS), r->err,
		                         "policy '%s' denies: there is nothing that CONSTRAINTS could limit", r->p->name);
	return 0;
}

/* ---------------------------------------------------------------- constraints */

static int read_count(struct reader *r, const json_t *o, const char *key, unsigned max, unsigned *ret)
{
	const json_t *v = json_object_get(o, key);
	if (!json_is_integer(v) || json_integer_value(v) < 1 || json_integer_value(v) > max)
		return fm_document_error(r->d, fm_document_member_place(r->d, o, key), r->err, "%s has to be a whole number from 1 to %u",
		                         key, max);
	*ret = (unsigned)json_integer_value(v);
	return 0;
}

static int read_limits(struct reader *r, const json_t *o)
{
	static const char *const known[] = { "global", "per_host", "per_link", NULL };
	const char *key = NULL;
	json_t *v = NULL;
	const json_t *limits = json_object_get(o, "max_concurrent_migrations");
	unsigned *const to[] = { &r->p->limits.global, &r->p->limits.per_host, &r->p->limits.per_link };
	if (!json_is_object(limits))
		return read_count(r, o, "max_concurrent_migrations", FM_MAX_MIGRATIONS_ACTIVE, to[0]);
	json_object_foreach((json_t *)limits, key, v)
	{
		size_t k = 0;
		while (known[k] && !fm_streq(known[k], key))
			k++;
		if (!known[k])
			return unknown(r, fm_document_key_place(r->d, limits, key), "limit", key, known);
		if (read_count(r, limits, key, FM_MAX_MIGRATIONS_ACTIVE, to[k]) < 0)
			return -1;
	}
	return 0;
}

static int two_digits(const char *s)
{
	return isdigit((unsigned char)s[0]) && isdigit((unsigned char)s[1]) ? (s[0] - '0') * 10 + s[1] - '0' : -1;
}

/* "22:30"; "24:00" is the end of the day */
static int read_time(struct reader *r, const json_t *o, const char *key, uint16_t *ret)
{
	const char *s = json_string_value(json_object_get(o, key));
	int hour = s && strlen(s) == 5 ? two_digits(s) : -1, minute = hour >= 0 && s[2] == ':' ? two_digits(s + 3) : -1;
	if (hour < 0 || minute < 0 || minute > 59 || hour * 60 + minute > 1440)
		return fm_document_error(r->d, fm_document_member_place(r->d, o, key), r->err,
		                         "%s of a window has to be a text like \"22:30\"", key);
	*ret = (uint16_t)(hour * 60 + minute);
	return 0;
}

/* "+02:00" */
static int read_offset(struct reader *r, const json_t *o, struct fm_policy_window *w)
{
	const char *s = json_string_value(json_object_get(o, "utc_offset"));
	int hour = s && strlen(s) == 6 && (s[0] == '+' || s[0] == '-') ? two_digits(s + 1) : -1,
	    minute = hour >= 0 && s[3] == ':' ? two_digits(s + 4) : -1;
	if (hour < 0 || hour > 14 || minute < 0 || minute > 59)
		return fm_document_error(r->d, fm_document_member_place(r->d, o, "utc_offset"), r->err,
		                         "utc_offset of a window has to be a text like \"+02:00\"");
	w->has_offset = true;
	w->utc_offset_s = (s[0] == '-' ? -1 : 1) * (hour * 60 + minute) * 60;
	return 0;
}

static int read_days(struct reader *r, const json_t *list, struct fm_policy_window *w)
{
	if (!json_is_array(list) || json_array_size(list) == 0)
		return fm_document_error(r->d, fm_document_entry_place(r->d, NULL, 0), r->err,
		                         "days of a window has to be a list of mon, tue, …");
	w->days = 0;
	for (size_t i = 0; i < json_array_size(list); i++) {
		const char *s = json_string_value(json_array_get(list, i));
		size_t k = 0;
		while (s && days[k] && strcasecmp(days[k], s) != 0)
			k++;
		if (!s || !days[k])
			return unknown(r, fm_document_entry_place(r->d, list, i), "day", s ? s : "?", days);
		w->days |= (uint8_t)(1 << k);
	}
	return 0;
}

static int read_window(struct reader *r, const json_t *o, struct fm_document_place at)
{
	static const char *const known[] = { "days", "from", "to", "utc_offset", NULL };
	struct fm_policy_window *w = &r->p->windows[r->p->n_windows++];
	const char *key = NULL;
	json_t *v = NULL;
	*w = (struct fm_policy_window){ .days = 0x7f, .to_minute = 1440 };
	if (!json_is_object(o))
		return fm_document_error(r->d, at, r->err, "a window is a mapping with days, from, to, utc_offset");
	json_object_foreach((json_t *)o, key, v)
	{
		int rc = fm_streq(key, "days")         ? read_days(r, v, w)
		         : fm_streq(key, "from")       ? read_time(r, o, key, &w->from_minute)
		         : fm_streq(key, "to")         ? read_time(r, o, key, &w->to_minute)
		         : fm_streq(key, "utc_offset") ? read_offset(r, o, w)
		                                       : unknown(r, fm_document_key_place(r->d, o, key), "member of a window", key, known);
		if (rc < 0)
			return -1;
	}
	return 0;
}

static int read_windows(struct reader *r, const json_t *o)
{
	const json_t *list = json_object_get(o, "windows");
	if (!json_is_array(list) || json_array_size(list) == 0 || json_array_size(list) > FM_MAX_POLICY_LIST)
		return fm_document_error(r->d, fm_document_member_place(r->d, o, "windows"), r->err, "windows has to be a list of 1 to %u",
		                         FM_MAX_POLICY_LIST);
	for (size_t i = 0; i < json_array_size(list); i++)
		if (read_window(r, json_array_get(list, i), fm_document_entry_place(r->d, list, i)) < 0)
			return -1;
	return 0;
}

static int read_constraints(struct reader *r)
{
	static const char *const known[] = { "max_concurrent_migrations", "migration_duration", "windows", NULL };
	const json_t *o = value(r, CONSTRAINTS);
	const char *key = NULL;
	json_t *v = NULL;
	if (!o)
		return 0;
	if (!json_is_object(o))
		return fm_document_error(r->d, place(r, CONSTRAINTS), r->err, "CONSTRAINTS has to be a mapping");
	json_object_foreach((json_t *)o, key, v)
	{
		unsigned seconds = 0;
		int rc = fm_streq(key, known[0])   ? read_limits(r, o)
		         : fm_streq(key, known[1]) ? read_count(r, o, key, FM_MAX_POLICY_DURATION_S, &seconds)
		         : fm_streq(key, known[2]) ? read_windows(r, o)
		                                   : unknown(r, fm_document_key_place(r->d, o, key), "constraint", key, known);
		if (rc < 0)
			return -1;
		if (seconds)
			r->p->duration_s = seconds;
	}
	return 0;
}

/* ---------------------------------------------------------------- sets */

bool fm_policy_has(const struct fm_policy *p, enum fm_policy_action a)
{
	for (size_t i = 0; i < p->n_actions; i++)
		if (p->actions[i].action == a)
			return true;
	return false;
}

const char *fm_policy_argument(const struct fm_policy *p, enum fm_policy_action a)
{
	for (size_t i = 0; i < p->n_actions; i++)
		if (p->actions[i].action == a)
			return p->actions[i].argument;
	return NULL;
}

static void policy_free(struct fm_policy *p)
{
	if (!p)
		return;
	for (size_t i = 0; i < p->n_actions; i++)
		free(p->actions[i].argument);
	fm_expr_free(p->expr);
	free(p->conditions);
	free(p->name);
	free(p->description);
	free(p->at);
	free(p);
}
FM_DEFINE_CLEANUP(struct fm_policy *, policy_free);

static int add_policy(struct fm_policies *set, const struct fm_document *d, const json_t *o, struct fm_document_place at,
                      struct fm_error *err)
{
	_fm_cleanup_(policy_freep) struct fm_policy *p = calloc(1, sizeof(*p));
	struct reader r = { .d = d, .err = err, .p = p, .o = o };
	if (!p)
		abort();
	if (set->n == FM_MAX_POLICIES)
		return fm_document_error(d, at, err, "more than %u policies", FM_MAX_POLICIES);
	if (!json_is_object(o) || json_object_size(o) == 0)
		return fm_document_error(d, at, err, "a policy is a mapping with policy_name, CONDITIONS, ACTIONS, …");
	if (read_keys(&r) < 0 || read_name(&r, set) < 0 || read_priority(&r) < 0 || read_conditions(&r) < 0 || read_actions(&r) < 0 ||
	    read_constraints(&r) < 0)
		return -1;
	set->v[set->n++] = FM_TAKE_PTR(p);
	return 0;
}

int fm_policies_add(struct fm_policies *set, const struct fm_document *d, struct fm_error *err)
{
	const json_t *root = fm_document_root(d), *list = json_object_get(root, "policies");
	if (list && json_object_size(root) == 1 && !json_is_array(list))
		return fm_document_error(d, fm_document_member_place(d, root, "policies"), err, "policies has to be a list");
	if (!list || json_object_size(root) != 1)
		list = json_is_array(root) ? root : NULL;
	if (!list)
		return add_policy(set, d, root, fm_document_member_place(d, NULL, NULL), err);
	for (size_t i = 0; i < json_array_size(list); i++)
		if (add_policy(set, d, json_array_get(list, i), fm_document_entry_place(d, list, i), err) < 0)
			return -1;
	return 0;
}

struct fm_policies *fm_policies_new(void)
{
	struct fm_policies *set = calloc(1, sizeof(*set));
	if (!set)
		abort();
	return set;
}

void fm_policies_free(struct fm_policies *set)
{
	if (!set)
		return;
	for (size_t i = 0; i < set->n; i++)
		policy_free(set->v[i]);
	free(set);
}
