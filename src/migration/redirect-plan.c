/* SPDX-License-Identifier: MIT */
/* redirect-plan.c - PLANNING's part for the network: what the container's intent means for this move (network.h), as redirections in its record. */
#include <string.h>

#include "basic/cleanup.h"
#include "migration/coordinator-internal.h"
#include "network/intent.h"

#define STEP(name) FLEXIMIGRATE__V1__REDIRECTION_STEP__REDIRECTION_##name

/* What clients of the old way still need after the move stays until the last of their connections has ended; a publication at the destination stays until the container leaves. The hosts know which is which. */
static bool is_lasting(const char *driver)
{
	return fm_streq(driver, "tunnel") || fm_streq(driver, "dnat");
}

static int add_redirection(struct fm_migration *m, FM_PB(Migration) * pb, json_t *action, struct fm_error *err)
{
	FM_PB(Redirection) *r = FM_PB_NEW(Redirection, redirection);
	const char *driver = json_string_value(json_object_get(action, "driver"));
	const char *at = json_string_value(json_object_get(action, "at"));
	const char *side = json_string_value(json_object_get(action, "side"));
	char *text;

	if (at && !fm_streq(at, FM_INTENT_AT_MANAGER))
		fm_pb_set(&r->at, at);
	r->lasting = is_lasting(driver);
	r->urgent = fm_streq(driver, "tunnel") && fm_streq(side, "source") && fm_streq(r->at, m->pb->source);
	(void)json_object_del(action, "at");
	(void)json_object_del(action, "by_policy");
	text = json_dumps(action, JSON_COMPACT);
	if (!text) {
		fm_pb_free(r);
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	}
	fm_pb_set(&r->action, text);
	free(text);
	FM_PB_ADD(pb->redirections, pb->n_redirections, r);
	return 0;
}

/* A plan that is made once more begins anew; nothing of it was prepared. */
static void drop_planned(FM_PB(Migration) * pb)
{
	for (size_t i = 0; i < pb->n_redirections; i++)
		fm_pb_free(pb->redirections[i]);
	free(pb->redirections);
	pb->redirections = NULL;
	pb->n_redirections = 0;
}

/* What a policy asks of the load balancer has to be possible. */
static int check_balancer(struct fm_migration *m, struct fm_error *err)
{
	if (!m->terms.balancer_by[0] || fm_network_has_balancer(m->c->o.network, m->facts->container))
		return 0;
	(void)fm_error_set(err, FM_E_FAILED_PRECONDITION,
	                   "policy '%s' wants its load balancer reconfigured, but no intent of container '%s' has a load_balancer",
	                   m->terms.balancer_by, m->pb->container);
	return fm_error_hint(err, "add one to the file given with --network (docs/NETWORK.md), or take the action out of the policy");
}

int fm_redirections_plan(struct fm_migration *m, uint64_t downtime_ms, struct fm_error *err)
{
	_fm_cleanup_(json_decrefp) json_t *actions = NULL;
	int rc = 0;

	if (check_balancer(m, err) < 0)
		return -1;
	if (fm_network_compile(m->c->o.network, m->id, m->facts->container, m->pb->source, m->pb->destination, downtime_ms, &actions, err) <
	    0)
		return -1;
	pthread_mutex_lock(&m->lock);
	drop_planned(m->pb);
	for (size_t i = 0; rc == 0 && i < json_array_size(actions); i++)
		if (m->terms.balancer_by[0] || !json_is_true(json_object_get(json_array_get(actions, i), "by_policy")))
			rc = add_redirection(m, m->pb, json_array_get(actions, i), err);
	pthread_mutex_unlock(&m->lock);
	return rc;
}

static void remember(struct fm_network *n, const FM_PB(Migration) * pb)
{
	_fm_cleanup_(json_decrefp) json_t *actions = json_array();

	for (size_t i = 0; i < pb->n_redirections; i++) {
		FM_PB(RedirectionStep) step = pb->redirections[i]->step;

		if (step == STEP(FLIPPED) || step == STEP(VERIFIED) || step == STEP(KEPT))
			(void)json_array_append_new(actions, json_loads(pb->redirections[i]->action, 0, NULL));
	}
	fm_network_moved(n, pb->container, actions);
}

void fm_redirections_over(struct fm_migration *m)
{
	remember(m->c->o.network, m->pb);
}

/* In the order in which they were made: of each container the last word counts, switch by switch. Those under way are remembered when they are over. */
int fm_redirections_remember(struct fm_coordinator *c, struct fm_error *err)
{
	struct fm_store_migration *v = NULL;
	size_t n = 0;

	if (!c->o.network)
		return 0;
	if (fm_store_migration_list(c->o.store, false, 0, &v, &n, err) < 0)
		return -1;
	for (size_t i = n; i-- > 0;) {
		_fm_pb_ FM_PB(Migration) *pb =
		        v[i].finished_ms ? fleximigrate__v1__migration__unpack(NULL, v[i].detail_len, v[i].detail) : NULL;

		if (pb)
			remember(c->o.network, pb);
	}
	fm_store_migrations_free(v, n);
	return 0;
}
