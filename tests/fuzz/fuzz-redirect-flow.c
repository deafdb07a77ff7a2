/* SPDX-License-Identifier: MIT */
/*
 * fuzz-redirect-flow.c - libFuzzer entry for a controller's JSON and for actions and undos. The first byte chooses: an answer with flows, as it is; or an action of either driver, with the undo behind a NUL. An
 * action that is taken can be written as changes, and its undo be read again.
 */
#include "fuzz.h"
#include "network/redirect-flow.h"
#include "network/rest-flow.h"

static void outcome(int rc, const struct fm_error *err)
{
	assert((rc == 0) == (err->code == FM_OK));
	assert(rc == 0 || err->message[0]);
}

static void answer(const char *text, size_t n)
{
	struct fm_error err = FM_ERROR_INIT;
	struct fm_of_flow *flows = NULL;
	json_t *o = NULL;
	size_t many = 0;

	int rc = fm_rest_parse(text, n, &o, &err);
	outcome(rc, &err);
	if (rc < 0)
		return;
	rc = fm_rest_flows(o, 10, &flows, &many, &err);
	outcome(rc, &err);
	for (size_t i = 0; rc == 0 && i < many; i++) {
		char words[64];

		assert(flows[i].actions.n <= FM_MAX_OF_ACTIONS);
		assert(strlen(fm_flow_actions_text(&flows[i].actions, words, sizeof(words))) < sizeof(words));
	}
	free(flows);
	json_decref(o);
}

static void changes(const struct fm_flow_plan *p)
{
	for (size_t i = 0; i < p->n; i++)
		for (int want = FM_FLOW_AS_IT_WAS; want <= FM_FLOW_MOVED; want++) {
			const char *command = NULL;
			struct fm_of_flow_mod m;

			fm_flow_mod_to(p, i, (enum fm_flow_state)want, &m);
			char *body = fm_rest_flow_mod(p->at[i].dpid, &m, &command);
			assert(body && command);
			free(body);
		}
}

static void action(const char *text, size_t n, enum fm_flow_kind kind)
{
	const char *end = memchr(text, '\0', n);
	size_t first = end ? (size_t)(end - text) : n;
	json_t *o = json_loadb(text, first, 0, NULL), *undo = end ? json_loadb(end + 1, n - first - 1, JSON_DECODE_ANY, NULL) : NULL;
	struct fm_error err = FM_ERROR_INIT;
	static struct fm_flow_plan p;

	int rc = o ? fm_flow_plan_parse(o, kind, &p, &err) : -1;
	if (rc == 0) {
		(void)fm_flow_undo_parse(&p, undo, NULL);
		changes(&p);
		json_t *again = fm_flow_undo_make(&p);
		assert(fm_flow_undo_parse(&p, again, &err) == 0);
		json_decref(again);
	}
	json_decref(o);
	json_decref(undo);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	if (data[0] % 3 == 0)
		answer((const char *)data + 1, size - 1);
	else
		action((const char *)data + 1, size - 1, data[0] % 3 == 1 ? FM_FLOW_OPENFLOW : FM_FLOW_REST);
	return 0;
}
