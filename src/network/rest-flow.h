/* SPDX-License-Identifier: MIT */
/*
 * rest-flow.h - flows in the JSON of ryu's and os-ken's REST interface (ofctl_rest), to and from what the codec calls a flow. Pure functions, private to network/.
 *
 * The interface has two dialects, by the OpenFlow version that controller and switch agreed on. Both are read; what is written has the members of both, and each side takes its own:
 *   1.2, 1.3: "actions": ["OUTPUT:2"], and old names in matches ("dl_dst", "nw_dst", …)
 *   1.4, 1.5: "instructions": [{"type": "APPLY_ACTIONS", "actions": [{"type": "OUTPUT", "port": 2, …}]}], and the standard's names ("eth_dst", "ipv4_dst", …)
 * What a flow says beyond that is marked with `more`, as the codec does, and is never written back.
 *
 * Python writes integers of 64 bits without a sign, jansson reads those with one: fm_rest_parse takes larger ones as text.
 */
#ifndef FM_NETWORK_REST_FLOW_H
#define FM_NETWORK_REST_FLOW_H

#include <jansson.h>

#include "network/openflow-codec.h"

/* DATA_LOSS when it is no JSON. */
int fm_rest_parse(const char *text, size_t n, json_t **ret, struct fm_error *err);
/* The answer to GET /stats/flow/<dpid>: {"<dpid>": [{…}, …]}. *ret: free(); NULL when there are none. */
int fm_rest_flows(const json_t *answer, uint64_t dpid, struct fm_of_flow **ret, size_t *ret_n, struct fm_error *err);
/* The body of POST /stats/flowentry/…, to be freed, and which command it is for ("add"). NULL: no memory, or a change that is not in redirect-flow.h's vocabulary. */
char *fm_rest_flow_mod(uint64_t dpid, const struct fm_of_flow_mod *m, const char **ret_command);

#endif
