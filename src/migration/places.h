/* SPDX-License-Identifier: MIT */
/*
 * places.h - publications on this host's address belong to containers that are here: which of those that the keeper has (keeper.h) still do, and the end of the others.
 *
 * A container's publication at its destination is handed to that host when the migration is over, and stays while the container does. Whatever becomes of the container (it moves on, it is removed, its host was
 * started anew), that is seen in one way: no container here has the address any more. So a move that is rolled back has touched nothing of it.
 */
#ifndef FM_MIGRATION_PLACES_H
#define FM_MIGRATION_PLACES_H

#include "migration/host.h"

/* Takes away the publications of containers that are not here. After a container has left, and at the agent's start; cheap where there are none. What fails is logged, and tried again by the keeper or the next time. */
void fm_places_tidy(struct fm_host *h);
/* Of records (keeper.h), those of containers that are not here, json_decref. Fails when it cannot be known who is here. */
int fm_places_left(struct fm_host *h, const json_t *records, json_t **ret, struct fm_error *err);

#endif
