/* SPDX-License-Identifier: MIT */
/* policy-explain.c - the record of a decision in plain words; see policy.h. It may come from another version of this program: what is missing is left out. */
#include <string.h>

#include "basic/str.h"
#include "decision/policy.h"

static const char *text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s ? s : "";
}

static void explain_policy(struct fm_buf *b, const json_t *p)
{
	const json_t *list = json_object_get(p, "because");
	json_t *part = NULL;
	size_t i = 0;
	const char *verdict = text_of(p, "verdict");
	fm_buf_addf(b, "  policy '%s'", text_of(p, "name"));
	if (json_is_integer(json_object_get(p, "priority")))
		fm_buf_addf(b, " (PRIORITY %lld, %s)", (long long)json_integer_value(json_object_get(p, "priority")), text_of(p, "at"));
	fm_buf_addf(b, " %s: %s\n",
	            fm_streq(verdict, "allow")  ? "allows"
	            : fm_streq(verdict, "deny") ? "denies"
	                                        : "says nothing for or against",
	            text_of(p, "reason"));
	json_array_foreach(list, i, part) if (json_array_size(list) > 1)
	        fm_buf_addf(b, "    %s: %s\n", text_of(part, "result"), text_of(part, "text"));
}

static void explain_effects(struct fm_buf *b, const json_t *e)
{
	const json_t *limits = json_object_get(e, "max_concurrent_migrations");
	static const char *const names[] = { "global", "per_host", "per_link" }, *const words[] = { "in all", "of a host", "of a link" };
	long long duration = json_integer_value(json_object_get(e, "migration_duration_s"));
	if (json_is_integer(json_object_get(e, "priority")))
		fm_buf_addf(b, "  its priority in the queue is %lld\n", (long long)json_integer_value(json_object_get(e, "priority")));
	if (*text_of(e, "strategy"))
		fm_buf_addf(b, "  its strategy is %s, as policy '%s' wants\n", text_of(e, "strategy"), text_of(e, "strategy_by"));
	if (*text_of(e, "approval_by"))
		fm_buf_addf(b, "  somebody has to approve it, as policy '%s' wants\n", text_of(e, "approval_by"));
	if (*text_of(e, "load_balancer_by"))
		fm_buf_addf(b, "  its load balancer is led to the new host, as policy '%s' wants\n", text_of(e, "load_balancer_by"));
	for (size_t i = 0; i < FM_ARRAY_SIZE(names); i++)
		if (json_integer_value(json_object_get(limits, names[i])) > 0)
			fm_buf_addf(b, "  it begins when fewer than %lld migrations %s are under way\n",
			            (long long)json_integer_value(json_object_get(limits, names[i])), words[i]);
	if (duration > 0)
		fm_buf_addf(b, "  it is rolled back when it is not committed after %lld s, as policy '%s' wants\n", duration,
		            text_of(e, "migration_duration_by"));
}

char *fm_policy_explain(const json_t *record)
{
	struct fm_buf b = FM_BUF_INIT;
	const json_t *list;
	json_t *o = NULL;
	size_t i = 0;
	if (!json_is_boolean(json_object_get(record, "allowed")))
		return NULL;
	bool allowed = json_is_true(json_object_get(record, "allowed"));
	const char *by = text_of(record, "decided_by"), *message = text_of(record, "message");
	if (allowed)
		fm_buf_addf(&b, "Allowed: %s%s%s\n", *by ? "policy '" : "no policy is against it", by, *by ? "' decided" : "");
	else
		fm_buf_addf(&b, "Denied%s%s%s: %s\n", *by ? " by policy '" : "", by, *by ? "'" : "", message);
	list = json_object_get(record, "built_in");
	json_array_foreach(list, i, o) explain_policy(&b, o);
	list = json_object_get(record, "policies");
	json_array_foreach(list, i, o) explain_policy(&b, o);
	if (allowed)
		explain_effects(&b, json_object_get(record, "effects"));
	return b.data;
}
