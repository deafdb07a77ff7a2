/* SPDX-License-Identifier: MIT */
/*
 * snapshot.h - Decision Engine: the cluster at one moment, as every decision sees it: hosts, containers, links. Policies, scores, plans and the simulator are functions of a snapshot
 * and of nothing else, so each decision can be recorded, replayed offline and tested without a host.
 *
 * What was not measured is unknown: NAN in a double, FM_UNKNOWN in a count of bytes. Nobody takes "unknown" for zero: a policy that needs it denies, a plan leaves the thing alone.
 * Percentages are of the whole host (100 = all its processors), cores are processors in use (1.0 = one).
 *
 * A snapshot owns everything in it. Not thread-safe; a finished one may be read by any number of threads. Hosts and containers are known by their index, links lead from index to index.
 *
 * Labels with a meaning here (of hosts: from the agent's options, of containers: from `container run --label`):
 *   service_type                  of a container: what policies' service_type is ("" where there is none)
 *   fleximigrate.affinity         of a container: all with the same value belong on one host
 *   fleximigrate.anti-affinity    of a container: no two with the same value belong on one host
 *   fleximigrate.hosts            of a container: "KEY=VALUE", only hosts with that label will do
 *   fleximigrate.migrate=deny     of a container: stays where it is
 *   fleximigrate.importance       of a container: 0 to 100, weighs its downtime; none: 1
 *   fleximigrate.cost             of a host: what an hour of it costs, any unit, the same for all
 *
 * JSON form (`policy test --with`, `plan --output json`, the simulator's results): {"at_unix_ms": N, "hosts": [{"name": …}], "containers": [{"name": …, "host": "NAME"}],
 * "links": [{"from": "NAME", "to": "NAME"}]}, members named like the structs' fields; a member that is missing or null is unknown (or empty, or false), one that is not known is refused.
 */
#ifndef FM_DECISION_SNAPSHOT_H
#define FM_DECISION_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/error.h"

#define FM_UNKNOWN UINT64_MAX

struct fm_snap_label {
	char *key, *value;
};
struct fm_snap_labels {
	struct fm_snap_label *v;
	size_t n;
};

struct fm_snap_host {
	char *name;
	bool online;
	bool cordoned;    /* takes no container any more: it is being drained, or an operator said so */
	bool can_restore; /* CRIU and a runtime that work */
	double cpus;
	double cpu_percent, cpu_predicted_percent; /* used now (mean of the last minute); predicted for 30 minutes ahead */
	double memory_percent;                     /* not available, of the total */
	double cpu_pressure_percent, memory_pressure_percent, io_pressure_percent; /* PSI, some, avg60 */
	double disk_utilisation_percent;                                           /* time its busiest disk is at work */
	double loss_percent, latency_ms; /* towards the other agents, worst of those that are online */
	uint64_t memory_total_bytes, memory_available_bytes, disk_available_bytes;
	uint64_t network_in_bytes_per_s, network_out_bytes_per_s;
	uint64_t network_capacity_bytes_per_s; /* of its link, each way */
	struct fm_snap_labels labels;
	char **images; /* what it has of them, references or digests; NULL-terminated or NULL */
};

struct fm_snap_container {
	char *name;
	size_t host; /* index */
	bool nested; /* only these can be moved other than cold */
	bool moving; /* a migration of it is under way */
	bool fixed;  /* cannot be moved at all; blocker says why */
	double cpu_cores, cpu_predicted_cores;
	double compressibility; /* compressed size by size, of a sample of its memory; 1 = not compressible */
	uint64_t processes;
	uint64_t memory_bytes, memory_limit_bytes, working_set_bytes;
	uint64_t dirty_bytes_per_s;
	uint64_t network_in_bytes_per_s, network_out_bytes_per_s, disk_bytes_per_s;
	uint64_t connections, restarts;
	uint64_t files_bytes;        /* root filesystem and volumes that travel */
	uint64_t last_moved_unix_ms; /* 0: never */
	char *image;
	char *blocker;
	struct fm_snap_labels labels;
};

/* Both directions, unless another one says otherwise for the way back. What no link tells is FM_SNAP_* below. */
struct fm_snap_link {
	size_t from, to; /* hosts */
	double latency_ms, loss_percent, utilisation_percent, predicted_utilisation_percent;
	uint64_t bandwidth_bytes_per_s;
};

struct fm_snapshot {
	uint64_t at_unix_ms;
	int utc_offset_s; /* of the operator's time zone, for time_of_day and windows */
	struct fm_snap_host *hosts;
	struct fm_snap_container *containers;
	struct fm_snap_link *links;
	size_t n_hosts, n_containers, n_links;
};

struct fm_snapshot *fm_snapshot_new(uint64_t at_unix_ms);
void fm_snapshot_free(struct fm_snapshot *s);
struct fm_snapshot *fm_snapshot_copy(const struct fm_snapshot *s);

/* Append one with everything unknown; return it, valid until the next one of its kind is appended. The limits (FM_MAX_HOSTS, FM_MAX_SNAPSHOT_CONTAINERS, FM_MAX_SNAPSHOT_LINKS) are the
 * caller's to keep: reading JSON keeps them. */
struct fm_snap_host *fm_snapshot_add_host(struct fm_snapshot *s, const char *name);
struct fm_snap_container *fm_snapshot_add_container(struct fm_snapshot *s, const char *name, size_t host);
struct fm_snap_link *fm_snapshot_add_link(struct fm_snapshot *s, size_t from, size_t to);

void fm_snap_labels_add(struct fm_snap_labels *l, const char *key, const char *value);
const char *fm_snap_label(const struct fm_snap_labels *l, const char *key); /* NULL: has none */

/* Linear; who asks for many builds an index. SIZE_MAX: there is none. */
size_t fm_snapshot_host(const struct fm_snapshot *s, const char *name);
size_t fm_snapshot_container(const struct fm_snapshot *s, const char *name);
const struct fm_snap_link *fm_snapshot_link(const struct fm_snapshot *s, size_t from, size_t to); /* NULL: nothing is known */

/* INVALID_ARGUMENT with the place of the mistake, "containers[3].host"; RESOURCE_EXHAUSTED over a limit. */
int fm_snapshot_parse(const char *text, size_t len, struct fm_snapshot **ret, struct fm_error *err);
char *fm_snapshot_to_json(const struct fm_snapshot *s); /* the caller frees it; unknown members are left out */

#endif
