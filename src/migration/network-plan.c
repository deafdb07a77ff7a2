/* SPDX-License-Identifier: MIT */
/* network-plan.c - PLANNING's part for the network: the intent that is about the container, compiled for this move (network/intent.h), as redirections in its record. */
#include <string.h>

#include "basic/cleanup.h"
#include "migration/coordinator-internal.h"
#include "network/intent.h"

static void json_freep(json_t **j)
{
	json_decref(*j);
}

static char **labels_of(const FM_PB(Container) * c)
{
	char **v = NULL;

	for (size_t i = 0; i < c->n_labels; i++) {
		_fm_free_ char *text = fm_xasprintf("%s=%s", c->labels[i]->key, c->labels[i]->value);

		fm_strv_add(&v, text);
	}
	return v;
}

/* What clients of the old way still need after the move stays until the last of their connections has ended. */
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

static int compile(struct fm_migration *m, const struct fm_intent *intent, uint64_t downtime_ms, json_t **ret, struct fm_error *err)
{
	const FM_PB(Endpoint) *e = m->facts->container->endpoint;
	char address[64] = "";
	const char *addresses[] = { address };
	struct fm_intent_endpoint endpoint = { .mac = e ? e->mac : "", .addresses = addresses, .n_addresses = 1 };
	struct fm_intent_move move = {
		.container = m->pb->container,
		.endpoints = &endpoint,
		.n_endpoints = e ? 1 : 0,
		.source = m->pb->source,
		.destination = m->pb->destination,
		.predicted_downtime_ms = downtime_ms,
	};

	if (e)
		(void)snprintf(address, sizeof(address), "%.*s", (int)strcspn(e->address, "/"), e->address);
	return fm_intent_compile(m->c->o.network, intent, &move, ret, err);
}

int fm_network_plan(struct fm_migration *m, uint64_t downtime_ms, struct fm_error *err)
{
	_fm_cleanup_(json_freep) json_t *actions = NULL;
	const struct fm_intent *intent = NULL;
	char **labels;
	int rc;

	if (!m->c->o.network)
		return 0;
	labels = labels_of(m->facts->container);
	rc = fm_intent_find(m->c->o.network, m->pb->container, labels, &intent, err);
	fm_strv_free(labels);
	if (rc < 0 || !intent)
		return rc;
	if (compile(m, intent, downtime_ms, &actions, err) < 0)
		return -1;
	pthread_mutex_lock(&m->lock);
	for (size_t i = 0; rc == 0 && i < json_array_size(actions); i++)
		rc = add_redirection(m, m->pb, json_array_get(actions, i), err);
	pthread_mutex_unlock(&m->lock);
	return rc;
}
