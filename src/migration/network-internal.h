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
	json_t *known_ports;      /* {"container": {"s1": 3}}: where flows lead */
	json_t *told;             /* {"container": "the problem that was told last"}; recheck's alone */
};

struct containers {
	FM_PB(Container) * *v;
	size_t n;
};

int fm_network_require(const struct fm_network *n, struct fm_error *err);
int fm_network_containers(const struct fm_network *n, struct containers *ret, struct fm_error *err);
void fm_containers_done(struct containers *c);
/* With the lock. */
int fm_network_intent_of(const struct fm_network *n, const FM_PB(Container) * c, const struct fm_intent **ret, struct fm_error *err);

#endif
