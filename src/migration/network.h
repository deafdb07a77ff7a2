/* SPDX-License-Identifier: MIT */
/*
 * network.h - the network as the manager knows it: its operator's description (network/description.h), what has been measured since, and what services want of it (network/intent.h), put together with where
 * containers are (fleet.h).
 *
 * A manager without a description has none: NULL is a valid argument everywhere, fm_network_compile has nothing to do then, and whoever asks about the network gets FAILED_PRECONDITION.
 * The file is read at the start, and again when the manager is told to (SIGHUP). All functions are for any thread. Messages returned are freed with fm_pb_free.
 */
#ifndef FM_MIGRATION_NETWORK_H
#define FM_MIGRATION_NETWORK_H

#include <jansson.h>

#include "basic/error.h"
#include "basic/log.h"
#include "migration/agent-api.h"
#include "migration/fleet.h"
#include "network/topology.h"

#define FM_NETWORK_RECHECK_MS 10000 /* fm_network_recheck, by the manager */

struct fm_network;

/*
 * Traffic that is expected of a host, in and out together, bytes a second; NAN: not known. Where it is more than what is measured now, its links' utilisation is raised by as much, so that paths keep away from what will be
 * full. Set once, before anybody asks for anything; called under the network's lock, so it must not ask the network.
 */
void fm_network_set_forecast(struct fm_network *n, double (*traffic)(void *userdata, const char *host), void *userdata);

/* Reads the file. INVALID_ARGUMENT with the place of what is wrong. The fleet is borrowed. */
int fm_network_open(const char *path, struct fm_fleet *fleet, struct fm_network **ret, struct fm_error *err);
void fm_network_free(struct fm_network *n);
/*
 * Reads the file again. It counts from the next question on: migrations have their actions in their records, and go on with those. What was measured of links counts no more until it is measured again.
 * An error, as of open, changes nothing. Where flows of switches lead is remembered.
 */
int fm_network_reload(struct fm_network *n, struct fm_error *err);

/*
 * What has been measured of a link, or that it is down or up again; it counts from the next question on. Ports may be NULL where one link leads from one to the other. Until something is measured the
 * description's values hold. NOT_FOUND: no such link.
 */
int fm_network_measure(struct fm_network *n, const char *from, const char *from_port, const char *to, const char *to_port,
                       const struct fm_link_measurement *m, struct fm_error *err);
int fm_network_set_up(struct fm_network *n, const char *from, const char *from_port, const char *to, const char *to_port, bool up,
                      struct fm_error *err);

/*
 * What agents report is taken over by itself, when somebody asks and at least at each recheck: how much their interfaces carry is the utilisation of a host's link where it has only one (or of what leads from it or to it, where
 * these are directed); latency and loss between two agents are those of all links of the shortest path between them together, as it is described, and are shared out among them so that all
 * measurements fit (network-measured.c says how). What is not measured, or not any more, is as it is described.
 */
struct fm_network_way {
	uint64_t latency_us;
	uint64_t bandwidth_bytes_per_s;     /* of its narrowest link */
	uint32_t loss_ppm, utilisation_ppm; /* utilisation: of its fullest link */
};
/* Of the shortest path. NOT_FOUND: there is none. */
int fm_network_between(struct fm_network *n, const char *from, const char *to, struct fm_network_way *ret, struct fm_error *err);

/*
 * For PLANNING: which actions lead clients to the container after its move (fm_intent_compile's array; json_decref). *ret is an empty array where its service has no intent. FAILED_PRECONDITION "intent '…': …":
 * what it wants cannot be had by this move. migration: its id; NULL for a plan that is only shown.
 */
int fm_network_compile(struct fm_network *n, const char *migration, const FM_PB(Container) * container, const char *source,
                       const char *destination, uint64_t predicted_downtime_ms, json_t **ret, struct fm_error *err);
/* Does an intent of the container's service name a load balancer? */
bool fm_network_has_balancer(struct fm_network *n, const FM_PB(Container) * container);
/* The move is over and these were its actions: the flows of switches lead where they say. Kept in memory: a coordinator that starts says it of all migrations on record. Of containers that have
 * none on record (any more) it is computed from the topology. */
void fm_network_moved(struct fm_network *n, const char *container, const json_t *actions);

int fm_network_show(struct fm_network *n, FM_PB(GetNetworkResponse) * *ret, struct fm_error *err);
/* NOT_FOUND: no such node, or no path, with what stands in the way. */
int fm_network_paths(struct fm_network *n, const FM_PB(FindPathsRequest) * req, FM_PB(FindPathsResponse) * *ret, struct fm_error *err);
/* Are the intents met now, where the containers are? */
int fm_network_check(struct fm_network *n, FM_PB(CheckNetworkResponse) * *ret, struct fm_error *err);
int fm_network_intents(struct fm_network *n, FM_PB(ListIntentsResponse) * *ret, struct fm_error *err);
int fm_network_intent(struct fm_network *n, const char *service, FM_PB(Intent) * *ret, struct fm_error *err);
/* The same, and a line in the log for each intent that is no longer met, or is again. */
void fm_network_recheck(struct fm_network *n, struct fm_log *log);

#endif
