/* SPDX-License-Identifier: MIT */
/*
 * runtimes.h - all that runs containers on a host, as one runtime.
 *
 * An engine lies above an OCI runtime, and some of their containers may be seen by both: of those with the same PID 1 the runtime that was added first has the say; add engines before what they lie on,
 * and whoever is to be used when nobody asks for another one last (fm_runtimes_usual).
 *
 * An engine whose daemon does not answer just now (it is being restarted, say) still has its containers: those of its last answer whose PID 1 lives are listed, the operations upon them are UNAVAILABLE.
 * An engine that has never answered and whose socket is not there has none.
 *
 * Calls go to the runtime that has the instance; ids are unique among those we make, and an id that two runtimes have is the first one's. create and restore are asked of one runtime, not of all.
 * Threads: any, once all are added.
 */
#ifndef FM_CONTAINER_RUNTIMES_H
#define FM_CONTAINER_RUNTIMES_H

#include "container/runtime.h"

#define FM_MAX_RUNTIMES 8

struct fm_runtimes;

int fm_runtimes_new(struct fm_runtimes **ret, struct fm_error *err);
/* With all that were added. NULL is allowed. */
void fm_runtimes_free(struct fm_runtimes *s);
/* Takes rt, also on failure. socket: of an engine, NULL of a program. */
int fm_runtimes_add(struct fm_runtimes *s, struct fm_runtime *rt, const char *socket, struct fm_error *err);

/* All of them behind one table, traits 0; owned by s. Its version is the usual one's. */
struct fm_runtime *fm_runtimes_all(struct fm_runtimes *s);
/* By name; NULL or "": the usual one. NOT_FOUND with the names that there are. Whether it works is not asked. */
int fm_runtimes_find(struct fm_runtimes *s, const char *name, struct fm_runtime **ret, struct fm_error *err);
/* The i-th, NULL behind the last one. ret_there: has it a socket (a program always has)? May be NULL. */
struct fm_runtime *fm_runtimes_at(struct fm_runtimes *s, size_t i, bool *ret_there);
/* May containers have come, gone, started or ended since the last call? Those that cannot tell count as changed once a second at most. */
bool fm_runtimes_changed(struct fm_runtimes *s);

#endif
