/* SPDX-License-Identifier: MIT */
/* planner-record.c - plans as messages and as records of the store. */
#include <stdio.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "migration/planner-internal.h"

static FM_PB(PlanStep) * step_to_pb(const struct fm_plan_step *s)
{
	FM_PB(PlanStep) *pb = FM_PB_NEW(PlanStep, plan_step);
	fm_pb_set(&pb->container, s->container_name);
	fm_pb_set(&pb->from, s->from_name);
	fm_pb_set(&pb->to, s->to_name);
	fm_pb_set(&pb->why, s->why);
	fm_pb_set(&pb->state, "waiting");
	pb->strategy = (FM_PB(Strategy))s->cost.strategy;
	pb->start_ms = s->start_ms;
	pb->end_ms = s->end_ms;
	pb->downtime_ms = s->cost.downtime_ms;
	pb->wire_bytes = s->cost.wire_bytes;
	pb->bandwidth_bytes_per_s = s->bandwidth_bytes_per_s;
	pb->depends_on = malloc((s->n_depends_on + 1) * sizeof(*pb->depends_on));
	if (!pb->depends_on)
		abort();
	for (size_t i = 0; i < s->n_depends_on; i++)
		pb->depends_on[pb->n_depends_on++] = (uint32_t)s->depends_on[i];
	return pb;
}

static FM_PB(PlanLeft) * left_to_pb(const struct fm_plan_left *l)
{
	FM_PB(PlanLeft) *pb = FM_PB_NEW(PlanLeft, plan_left);
	fm_pb_set(&pb->name, l->name);
	fm_pb_set(&pb->why, l->why);
	pb->importance = l->importance;
	return pb;
}

FM_PB(ClusterPlan) * fm_plan_to_pb(const struct fm_plan *plan)
{
	FM_PB(ClusterPlan) *pb = FM_PB_NEW(ClusterPlan, cluster_plan);
	fm_pb_set(&pb->kind, fm_plan_kind_to_string(plan->kind));
	fm_pb_set(&pb->summary, plan->summary);
	fm_pb_set(&pb->state, "planned");
	pb->complete = plan->complete;
	pb->deadline_ms = plan->deadline_ms;
	pb->duration_ms = plan->duration_ms;
	pb->created_unix_ms = fm_realtime_ms();
	for (size_t i = 0; i < plan->n_steps; i++)
		FM_PB_ADD(pb->steps, pb->n_steps, step_to_pb(&plan->steps[i]));
	for (size_t i = 0; i < plan->n_left; i++)
		FM_PB_ADD(pb->will_not_make_it, pb->n_will_not_make_it, left_to_pb(&plan->left[i]));
	for (size_t i = 0; i < plan->n_over; i++)
		FM_PB_ADD(pb->over, pb->n_over, left_to_pb(&plan->over[i]));
	for (char **f = plan->freed; f && *f; f++)
		fm_pb_add_string(&pb->freed, &pb->n_freed, *f);
	return pb;
}

int fm_planner_record(struct fm_planner *p, const FM_PB(ClusterPlan) * pb, struct fm_error *err)
{
	size_t n = protobuf_c_message_get_packed_size(&pb->base);
	_fm_free_ uint8_t *data = malloc(n ? n : 1);
	if (!data)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	protobuf_c_message_pack(&pb->base, data);
	return fm_store_record_put(p->o.store, FM_PLAN_KIND, pb->id, data, n, err);
}

int fm_planner_unpack(const void *data, size_t len, const char *id, FM_PB(ClusterPlan) * *ret, struct fm_error *err)
{
	FM_PB(ClusterPlan) *pb = fleximigrate__v1__cluster_plan__unpack(NULL, len, data);
	if (!pb)
		return fm_error_set(err, FM_E_DATA_LOSS, "the record of plan '%s' is damaged", id);
	*ret = pb;
	return 0;
}

static int interrupt_one(struct fm_planner *p, FM_PB(ClusterPlan) * pb, struct fm_error *err)
{
	unsigned done = 0, under_way = 0, left = 0;
	for (size_t i = 0; i < pb->n_steps; i++) {
		FM_PB(PlanStep) *s = pb->steps[i];
		done += fm_streq(s->state, "done");
		under_way += fm_streq(s->state, "running");
		if (!fm_streq(s->state, "waiting"))
			continue;
		fm_pb_set(&s->state, "left");
		left++;
	}
	_fm_free_ char *reason = fm_xasprintf(
	        "the manager was restarted: %u of %zu steps were done, %u under way go on as migrations, %u were not begun and will not be",
	        done, pb->n_steps, under_way, left);
	fm_pb_set(&pb->state, "interrupted");
	fm_pb_set(&pb->reason, reason);
	pb->finished_unix_ms = fm_realtime_ms();
	fm_log_write(p->o.log, FM_LOG_WARN, FM_PLAN_COMPONENT, NULL, "Plan '%s' (%s%s%s) is interrupted: %s.", pb->id, pb->kind,
	             pb->host[0] ? " " : "", pb->host, reason);
	return fm_planner_record(p, pb, err);
}

int fm_planner_interrupt_all(struct fm_planner *p, struct fm_error *err)
{
	struct fm_store_record *r = NULL;
	size_t n = 0;
	int rc = fm_store_record_list(p->o.store, FM_PLAN_KIND, 0, &r, &n, err);
	for (size_t i = 0; rc == 0 && i < n; i++) {
		_fm_pb_ FM_PB(ClusterPlan) *pb = NULL;
		if (fm_planner_unpack(r[i].data, r[i].len, r[i].id, &pb, NULL) < 0)
			fm_log_write(p->o.log, FM_LOG_ERROR, FM_PLAN_COMPONENT, NULL, "The record of plan '%s' is damaged.", r[i].id);
		else if (pb->finished_unix_ms == 0)
			rc = interrupt_one(p, pb, err);
	}
	fm_store_records_free(r, n);
	return rc;
}
