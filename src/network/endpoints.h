/* SPDX-License-Identifier: MIT */
/*
 * endpoints.h - the endpoints of one container, as one: prepared, closed, opened, announced and removed together.
 *
 * Calls, their order, errors and threads are those of endpoint.h. A failure of one undoes what the call has done to the others, so that all are prepared or none, all are open or none. NULL is a
 * container without endpoints: every call succeeds and does nothing.
 */
#ifndef FM_NETWORK_ENDPOINTS_H
#define FM_NETWORK_ENDPOINTS_H

#include <stddef.h>

#include "network/endpoint.h"

struct fm_endpoints;

/* Each, and together: INVALID_ARGUMENT also for the same interface, MAC or subnet, or two gateways of a family. */
int fm_endpoints_check(const struct fm_endpoint_config *v, size_t n, struct fm_error *err);
/* Checks that, too. n = 0: *ret is NULL. */
int fm_endpoints_new(const struct fm_endpoint_config *v, size_t n, const char *netns_path, struct fm_endpoints **ret, struct fm_error *err);
void fm_endpoints_free(struct fm_endpoints *s);

int fm_endpoints_prepare(struct fm_endpoints *s, bool check_duplicate, struct fm_error *err);
/* Prepared ones, made again in another namespace, closed as they were; nobody else is asked for the addresses once more. When it fails they are gone. */
int fm_endpoints_rehome(struct fm_endpoints *s, const char *netns_path, struct fm_error *err);
int fm_endpoints_await_free(struct fm_endpoints *s, struct fm_error *err);
int fm_endpoints_attach(struct fm_endpoints *s, struct fm_error *err);
int fm_endpoints_open(struct fm_endpoints *s, struct fm_error *err);
/* The others are opened again when one fails. */
int fm_endpoints_close_inbound(struct fm_endpoints *s, struct fm_error *err);
/* Tries all, whatever happens: a fence that holds half is better than none. The first failure is told. */
int fm_endpoints_close(struct fm_endpoints *s, struct fm_error *err);
int fm_endpoints_announce(struct fm_endpoints *s, struct fm_error *err);
bool fm_endpoints_is_open(struct fm_endpoints *s); /* one of them */
/* Of all, at most *n in; each entry says whose it is. */
int fm_endpoints_neighbours(struct fm_endpoints *s, struct fm_neighbour *ret, size_t *n, struct fm_error *err);
/* INVALID_ARGUMENT also for an entry of an endpoint that there is not. */
int fm_endpoints_set_neighbours(struct fm_endpoints *s, const struct fm_neighbour *v, size_t n, struct fm_error *err);

/* ---- the table between two hosts (docs/PROTOCOL.md, NEIGHBOURS) ---- */

#define FM_NEIGHBOURS_LAYOUT     2
#define FM_NEIGHBOURS_HEAD_BYTES 4
#define FM_NEIGHBOUR_BYTES       24
#define FM_NEIGHBOURS_MAX_BYTES  (FM_NEIGHBOURS_HEAD_BYTES + FM_MAX_NEIGHBOURS * FM_NEIGHBOUR_BYTES)

/* n: at most FM_MAX_NEIGHBOURS. Returns the length. */
size_t fm_neighbours_encode(const struct fm_neighbour *v, size_t n, uint8_t ret[FM_NEIGHBOURS_MAX_BYTES]);
/* `count` is what the frame says. DATA_LOSS: lengths do not fit, another layout, an entry that is no single machine, or of no endpoint (the container has n_endpoints). */
int fm_neighbours_decode(const uint8_t *data, size_t len, uint64_t count, size_t n_endpoints, struct fm_neighbour ret[FM_MAX_NEIGHBOURS],
                         size_t *ret_n, struct fm_error *err);

#endif
