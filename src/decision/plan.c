/* SPDX-License-Identifier: MIT */
/* plan.c - see plan.h: plans as data, and their JSON form. */
#include "decision/plan.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/str.h"
#include "decision/load.h"
#include "decision/memory.h"
#include "decision/order.h"

static const char *const kinds[] = { "unspecified", "balance", "drain", "consolidate", "proactive" };

const char *fm_plan_kind_to_string(enum fm_plan_kind k)
{
	return (unsigned)k < FM_ARRAY_SIZE(kinds) ? kinds[k] : kinds[0];
}

static void free_left(struct fm_plan_left *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(v[i].name);
	free(v);
}

void fm_plan_free(struct fm_plan *p)
{
	if (!p)
		return;
	for (size_t i = 0; i < p->n_steps; i++) {
		free(p->steps[i].container_name);
		free(p->steps[i].from_name);
		free(p->steps[i].to_name);
		free(p->steps[i].depends_on);
	}
	free(p->steps);
	free_left(p->left, p->n_left);
	free_left(p->over, p->n_over);
	fm_strv_free(p->freed);
	free(p);
}

/* ---------------------------------------------------------------- building */

static void add_step(struct fm_plan *p, const struct fm_snapshot *s, const struct fm_job *j, const size_t *step_of, const char *why)
{
	p->steps = fm_grow_array(p->steps, p->n_steps + 1, sizeof(*p->steps));
	struct fm_plan_step *step = &p->steps[p->n_steps++];
	*step = (struct fm_plan_step){ .container = j->container,
		                       .from = j->from,
		                       .to = j->to,
		                       .container_name = fm_xstrdup(s->containers[j->container].name),
		                       .from_name = fm_xstrdup(s->hosts[j->from].name),
		                       .to_name = fm_xstrdup(s->hosts[j->to].name),
		                       .cost = j->cost,
		                       .bandwidth_bytes_per_s = j->bandwidth_bytes_per_s,
		                       .start_ms = j->start_ms,
		                       .end_ms = j->end_ms,
		                       .depends_on = fm_alloc_array(j->n_after, sizeof(size_t)),
		                       .n_depends_on = j->n_after };
	for (size_t i = 0; i < j->n_after; i++)
		step->depends_on[i] = step_of[j->after[i]];
	(void)snprintf(step->why, sizeof(step->why), "%s", why ? why : "");
	fm_str_sanitize(step->why); /* it may be cut inside a character */
	if (step->end_ms > p->duration_ms)
		p->duration_ms = step->end_ms;
}

void fm_plan_add_jobs(struct fm_plan *p, const struct fm_snapshot *s, const struct fm_job *jobs, size_t n, char *const *why)
{
	_fm_free_ size_t *step_of = fm_alloc_array(n, sizeof(*step_of));
	for (size_t i = 0; i < n; i++) {
		const struct fm_snap_container *c = &s->containers[jobs[i].container];
		step_of[i] = p->n_steps;
		if (jobs[i].left_out)
			fm_plan_add_left(p, c->name, fm_container_importance(c), jobs[i].problem);
		else
			add_step(p, s, &jobs[i], step_of, why[i]);
	}
}

void fm_plan_add_left(struct fm_plan *p, const char *name, double importance, const char *why)
{
	p->left = fm_grow_array(p->left, p->n_left + 1, sizeof(*p->left));
	struct fm_plan_left *left = &p->left[p->n_left++];
	*left = (struct fm_plan_left){ .name = fm_xstrdup(name), .importance = importance };
	(void)snprintf(left->why, sizeof(left->why), "%s", why);
	fm_str_sanitize(left->why);
}

static int by_importance(const void *a, const void *b)
{
	const struct fm_plan_left *x = a, *y = b;
	if (x->importance > y->importance || x->importance < y->importance)
		return x->importance > y->importance ? -1 : 1;
	return strcmp(x->name, y->name);
}

void fm_plan_sort_left(struct fm_plan *p)
{
	if (p->n_left)
		qsort(p->left, p->n_left, sizeof(*p->left), by_importance);
}

void fm_plan_add_over(struct fm_plan *p, const struct fm_load *l)
{
	for (size_t h = 0; h < l->n_hosts; h++) {
		const struct fm_load_host *host = &l->hosts[h];
		bool cpu = fm_load_exceeds(host->used[FM_CPU], host->limit[FM_CPU]),
		     memory = fm_load_exceeds(host->used[FM_MEMORY], host->limit[FM_MEMORY]);
		if (!host->known || !l->s->hosts[h].online || (!cpu && !memory))
			continue;
		p->over = fm_grow_array(p->over, p->n_over + 1, sizeof(*p->over));
		struct fm_plan_left *o = &p->over[p->n_over++];
		*o = (struct fm_plan_left){ .name = fm_xstrdup(l->s->hosts[h].name) };
		(void)snprintf(o->why, sizeof(o->why), "%s at %.0f %%: %s", cpu ? "processors" : "memory",
		               cpu ? host->used[FM_CPU] / host->total[FM_CPU] * 100 : host->used[FM_MEMORY] / host->total[FM_MEMORY] * 100,
		               host->relieve ? "there is no room for what would have to leave" : "what cannot be moved is too much for it");
	}
}

/* ---------------------------------------------------------------- JSON */

static json_t *number(uint64_t n)
{
	return json_integer((json_int_t)(n > INT64_MAX ? INT64_MAX : n));
}

static json_t *left_json(const struct fm_plan_left *v, size_t n, bool containers)
{
	json_t *list = json_array();
	for (size_t i = 0; i < n; i++) {
		json_t *o = json_object();
		(void)json_object_set_new(o, containers ? "container" : "host", json_string(v[i].name));
		if (containers)
			(void)json_object_set_new(o, "importance", json_real(v[i].importance));
		(void)json_object_set_new(o, "why", json_string(v[i].why));
		(void)json_array_append_new(list, o);
	}
	return list;
}

static json_t *step_json(const struct fm_plan_step *s, size_t number_of_it)
{
	json_t *o = json_object(), *after = json_array();
	for (size_t i = 0; i < s->n_depends_on; i++)
		(void)json_array_append_new(after, number(s->depends_on[i]));
	(void)json_object_set_new(o, "step", number(number_of_it));
	(void)json_object_set_new(o, "container", json_string(s->container_name));
	(void)json_object_set_new(o, "from", json_string(s->from_name));
	(void)json_object_set_new(o, "to", json_string(s->to_name));
	(void)json_object_set_new(o, "strategy", json_string(fm_strategy_to_string(s->cost.strategy)));
	(void)json_object_set_new(o, "depends_on", after);
	(void)json_object_set_new(o, "start_ms", number(s->start_ms));
	(void)json_object_set_new(o, "end_ms", number(s->end_ms));
	(void)json_object_set_new(o, "downtime_ms", number(s->cost.downtime_ms));
	(void)json_object_set_new(o, "wire_bytes", number(s->cost.wire_bytes));
	(void)json_object_set_new(o, "bandwidth_bytes_per_s", number(s->bandwidth_bytes_per_s));
	(void)json_object_set_new(o, "why", json_string(s->why));
	return o;
}

char *fm_plan_to_json(const struct fm_plan *p)
{
	json_t *o = json_object(), *steps = json_array(), *freed = json_array();
	for (size_t i = 0; i < p->n_steps; i++)
		(void)json_array_append_new(steps, step_json(&p->steps[i], i));
	for (char **f = p->freed; f && *f; f++)
		(void)json_array_append_new(freed, json_string(*f));
	(void)json_object_set_new(o, "kind", json_string(fm_plan_kind_to_string(p->kind)));
	(void)json_object_set_new(o, "complete", json_boolean(p->complete));
	(void)json_object_set_new(o, "summary", json_string(p->summary));
	if (p->deadline_ms)
		(void)json_object_set_new(o, "deadline_ms", number(p->deadline_ms));
	(void)json_object_set_new(o, "duration_ms", number(p->duration_ms));
	(void)json_object_set_new(o, "will_not_make_it", left_json(p->left, p->n_left, true));
	(void)json_object_set_new(o, "over", left_json(p->over, p->n_over, false));
	(void)json_object_set_new(o, "freed", freed);
	(void)json_object_set_new(o, "steps", steps);
	char *text = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	if (!text)
		abort(); /* names are valid UTF-8: the snapshot's readers see to it */
	return text;
}
