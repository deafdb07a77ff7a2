/* SPDX-License-Identifier: MIT */
/* network-internal.h - what network.c and network-show.c share. Private to the two. */
#ifndef FM_MIGRATION_NETWORK_INTERNAL_H
#define FM_MIGRATION_NETWORK_INTERNAL_H

#include <pthread.h>

#include "migration/network.h"
#include "migration/pb.h"
#include "network/intent.h"

struct fm_network {
	char *path; /* of the description */
	struct fm_fleet *fleet;
	pthread_rwlock_t lock;    /* guards what follows, but for the last */
	struct fm_description *d; /* with its links' measurements; another one after a reload, so nothing of it outlives the lock */
	struct fm_measured_link *measured; /* of each link of it */
	uint64_t refreshed_ms;
	double (*traffic)(void *userdata, const char *host); /* expected; NULL: nobody knows */
	void *traffic_userdata;
	json_t *known_ports; /* {"container": {"s1": 3}}: where flows lead */
	json_t *told;        /* {"container": "the problem that was told last"}; recheck's alone */
};

/* What of a link was measured, and what holds where nothing was: as it is described, or as fm_network_measure was told. */
struct fm_measured_link {
	struct fm_link_measurement base;
	bool told; /* base is what fm_network_measure was told */
	bool latency, loss, utilisation;
	uint64_t at_unix_ms;
};

struct containers {
	FM_PB(Container) * *v;
	size_t n;
};

/* network-measured.c */
void fm_measured_init(struct fm_network *n);
void fm_network_refresh(
        struct fm_network *n); /* takes over what the fleet reports, unless that was done a moment ago; the lock must not be held */

int fm_network_require(const struct fm_network *n, struct fm_error *err);
int fm_network_containers(const struct fm_network *n, struct containers *ret, struct fm_error *err);
void fm_containers_done(struct containers *c);
/* With the lock. */
int fm_network_intent_of(const struct fm_network *n, const FM_PB(Container) * c, const struct fm_intent **ret, struct fm_error *err);

#endif
