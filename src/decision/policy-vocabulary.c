/* SPDX-License-Identifier: MIT */
/* policy-vocabulary.c - what conditions can ask for, and where in a case it is: one table, so that no variable is documented, typed and read in different places. See policy.h. */
#include <math.h>
#include <string.h>

#include "basic/str.h"
#include "decision/policy.h"

#define DAY_S 86400

enum from { SOURCE, DESTINATION, CONTAINER, LINK };
enum kind { REAL, WHOLE, TEXT, FLAG };

#define H(what) offsetof(struct fm_snap_host, what)
#define C(what) offsetof(struct fm_snap_container, what)
#define L(what) offsetof(struct fm_snap_link, what)

/* Computed ones come first. */
enum {
	TIME_OF_DAY,
	DAY_OF_WEEK,
	CONGESTION,
	SERVICE_TYPE,
	STRATEGY,
	REQUESTED_STRATEGY,
	TRIGGER,
	PREDICTED_DOWNTIME,
	PREDICTED_TOTAL,
	PREDICTED_WIRE,
	ACTIVE,
	SOURCE_CONTAINERS,
	DESTINATION_CONTAINERS,
	SINCE_MOVE,
	_COMPUTED
};

#define TABLE(X)                                                                                                                           \
	X("source_cpu_utilization", SOURCE, REAL, H(cpu_percent))                                                                          \
	X("destination_cpu_utilization", DESTINATION, REAL, H(cpu_percent))                                                                \
	X("source_memory_utilization", SOURCE, REAL, H(memory_percent))                                                                    \
	X("destination_memory_utilization", DESTINATION, REAL, H(memory_percent))                                                          \
	X("source_predicted_cpu", SOURCE, REAL, H(cpu_predicted_percent))                                                                  \
	X("destination_predicted_cpu", DESTINATION, REAL, H(cpu_predicted_percent))                                                        \
	X("predicted_cpu", SOURCE, REAL, H(cpu_predicted_percent))                                                                         \
	X("source_cpu_pressure", SOURCE, REAL, H(cpu_pressure_percent))                                                                    \
	X("destination_cpu_pressure", DESTINATION, REAL, H(cpu_pressure_percent))                                                          \
	X("source_memory_pressure", SOURCE, REAL, H(memory_pressure_percent))                                                              \
	X("destination_memory_pressure", DESTINATION, REAL, H(memory_pressure_percent))                                                    \
	X("source_io_pressure", SOURCE, REAL, H(io_pressure_percent))                                                                      \
	X("destination_io_pressure", DESTINATION, REAL, H(io_pressure_percent))                                                            \
	X("source_disk_utilization", SOURCE, REAL, H(disk_utilisation_percent))                                                            \
	X("destination_disk_utilization", DESTINATION, REAL, H(disk_utilisation_percent))                                                  \
	X("source_memory_available_bytes", SOURCE, WHOLE, H(memory_available_bytes))                                                       \
	X("destination_memory_available_bytes", DESTINATION, WHOLE, H(memory_available_bytes))                                             \
	X("destination_disk_available_bytes", DESTINATION, WHOLE, H(disk_available_bytes))                                                 \
	X("source_host", SOURCE, TEXT, H(name))                                                                                            \
	X("destination_host", DESTINATION, TEXT, H(name))                                                                                  \
	X("destination_cordoned", DESTINATION, FLAG, H(cordoned))                                                                          \
	X("container", CONTAINER, TEXT, C(name))                                                                                           \
	X("image", CONTAINER, TEXT, C(image))                                                                                              \
	X("nested", CONTAINER, FLAG, C(nested))                                                                                            \
	X("cpu_cores", CONTAINER, REAL, C(cpu_cores))                                                                                      \
	X("predicted_cpu_cores", CONTAINER, REAL, C(cpu_predicted_cores))                                                                  \
	X("compressibility", CONTAINER, REAL, C(compressibility))                                                                          \
	X("processes", CONTAINER, WHOLE, C(processes))                                                                                     \
	X("memory_bytes", CONTAINER, WHOLE, C(memory_bytes))                                                                               \
	X("memory_limit_bytes", CONTAINER, WHOLE, C(memory_limit_bytes))                                                                   \
	X("working_set_bytes", CONTAINER, WHOLE, C(working_set_bytes))                                                                     \
	X("dirty_rate_bytes_per_s", CONTAINER, WHOLE, C(dirty_bytes_per_s))                                                                \
	X("connections", CONTAINER, WHOLE, C(connections))                                                                                 \
	X("restarts", CONTAINER, WHOLE, C(restarts))                                                                                       \
	X("files_bytes", CONTAINER, WHOLE, C(files_bytes))                                                                                 \
	X("network_latency_ms", LINK, REAL, L(latency_ms))                                                                                 \
	X("network_loss_percent", LINK, REAL, L(loss_percent))                                                                             \
	X("network_utilization", LINK, REAL, L(utilisation_percent))                                                                       \
	X("network_predicted_utilization", LINK, REAL, L(predicted_utilisation_percent))                                                   \
	X("network_bandwidth_bytes_per_s", LINK, WHOLE, L(bandwidth_bytes_per_s))

#define TYPE(kind)                         ((kind) == TEXT ? FM_EXPR_TEXT : (kind) == FLAG ? FM_EXPR_BOOL : FM_EXPR_NUMBER)
#define VARIABLE(name, from, kind, offset) { name, TYPE(kind) },
#define PLACE(name, from, kind, offset)    { from, kind, offset },

static const struct fm_expr_variable variables[] = { [TIME_OF_DAY] = { "time_of_day", FM_EXPR_NUMBER },
	                                             [DAY_OF_WEEK] = { "day_of_week", FM_EXPR_NUMBER },
	                                             [CONGESTION] = { "network_congestion_prob", FM_EXPR_NUMBER },
	                                             [SERVICE_TYPE] = { "service_type", FM_EXPR_TEXT },
	                                             [STRATEGY] = { "strategy", FM_EXPR_TEXT },
	                                             [REQUESTED_STRATEGY] = { "requested_strategy", FM_EXPR_TEXT },
	                                             [TRIGGER] = { "trigger", FM_EXPR_TEXT },
	                                             [PREDICTED_DOWNTIME] = { "predicted_downtime_ms", FM_EXPR_NUMBER },
	                                             [PREDICTED_TOTAL] = { "predicted_total_ms", FM_EXPR_NUMBER },
	                                             [PREDICTED_WIRE] = { "predicted_wire_bytes", FM_EXPR_NUMBER },
	                                             [ACTIVE] = { "active_migrations", FM_EXPR_NUMBER },
	                                             [SOURCE_CONTAINERS] = { "source_containers", FM_EXPR_NUMBER },
	                                             [DESTINATION_CONTAINERS] = { "destination_containers", FM_EXPR_NUMBER },
	                                             [SINCE_MOVE] = { "seconds_since_last_move", FM_EXPR_NUMBER },
	                                             TABLE(VARIABLE) };
#define N_VARIABLES FM_ARRAY_SIZE(variables)
_Static_assert(N_VARIABLES <= FM_MAX_POLICY_VALUES, "a case has room for all variables");

static const struct {
	enum from from;
	enum kind kind;
	size_t offset;
} places[] = { TABLE(PLACE) };

static const char *const lookups[] = { "label", "source_label", "destination_label", NULL };

const struct fm_expr_vocabulary *fm_policy_vocabulary(void)
{
	static const struct fm_expr_vocabulary v = { variables, N_VARIABLES, lookups };
	return &v;
}

/* ---------------------------------------------------------------- values */

static struct fm_expr_value number(double v)
{
	return isfinite(v) ? (struct fm_expr_value){ .known = true, .number = v } : (struct fm_expr_value){ 0 };
}

static struct fm_expr_value whole(uint64_t v)
{
	return v == FM_UNKNOWN ? (struct fm_expr_value){ 0 } : number((double)v);
}

static struct fm_expr_value text(const char *s)
{
	return s ? (struct fm_expr_value){ .known = true, .text = s, .len = strlen(s) } : (struct fm_expr_value){ 0 };
}

static struct fm_expr_value read_place(const void *base, enum kind kind, size_t offset)
{
	const char *p = (const char *)base + offset;
	switch (kind) {
	case REAL:
		return number(*(const double *)(const void *)p);
	case WHOLE:
		return whole(*(const uint64_t *)(const void *)p);
	case TEXT:
		return text(*(char *const *)(const void *)p);
	default:
		return (struct fm_expr_value){ .known = true, .truth = *(const bool *)(const void *)p };
	}
}

/* What no link tells is as bad as the worse of the two hosts' ways to the others. */
static struct fm_snap_link way(const struct fm_policy_case *c)
{
	const struct fm_snap_link *known = fm_snapshot_link(c->snapshot, c->source, c->destination);
	const struct fm_snap_host *a = &c->snapshot->hosts[c->source], *b = &c->snapshot->hosts[c->destination];
	struct fm_snap_link l = known ? *known
	                              : (struct fm_snap_link){ .latency_ms = NAN,
		                                               .loss_percent = NAN,
		                                               .utilisation_percent = NAN,
		                                               .predicted_utilisation_percent = NAN,
		                                               .bandwidth_bytes_per_s = FM_UNKNOWN };
	if (isnan(l.latency_ms))
		l.latency_ms = a->latency_ms > b->latency_ms ? a->latency_ms : b->latency_ms;
	if (isnan(l.loss_percent))
		l.loss_percent = a->loss_percent > b->loss_percent ? a->loss_percent : b->loss_percent;
	if (isnan(l.utilisation_percent) && a->network_out_bytes_per_s != FM_UNKNOWN && b->network_in_bytes_per_s != FM_UNKNOWN &&
	    a->network_capacity_bytes_per_s - 1 < FM_UNKNOWN - 1 && b->network_capacity_bytes_per_s - 1 < FM_UNKNOWN - 1) {
		double out = 100.0 * (double)a->network_out_bytes_per_s / (double)a->network_capacity_bytes_per_s;
		double in = 100.0 * (double)b->network_in_bytes_per_s / (double)b->network_capacity_bytes_per_s;
		l.utilisation_percent = out > in ? out : in;
	}
	return l;
}

/* The published formula: clamp((bw%/100 + loss + latency_ms/1000) / 3), loss as a share. */
static double congestion(const struct fm_snap_link *l)
{
	double p = (l->utilisation_percent / 100 + l->loss_percent / 100 + l->latency_ms / 1000) / 3;
	return p > 1 ? 1 : p;
}

static unsigned containers_on(const struct fm_snapshot *s, size_t host)
{
	unsigned n = 0;
	for (size_t i = 0; i < s->n_containers; i++)
		n += s->containers[i].host == host;
	return n;
}

static void times(const struct fm_snapshot *s, struct fm_expr_value *values)
{
	int64_t local_s = (int64_t)(s->at_unix_ms / 1000) + s->utc_offset_s, day = local_s / DAY_S, in_day = local_s % DAY_S;
	if (in_day < 0) {
		in_day += DAY_S;
		day--;
	}
	values[TIME_OF_DAY] = number((double)in_day / 3600);
	values[DAY_OF_WEEK] = number((double)((day % 7 + 7 + 3) % 7)); /* the epoch was a Thursday; Monday is 0, as in Python */
}

void fm_policy_values(const struct fm_policy_case *c, struct fm_expr_value values[FM_MAX_POLICY_VALUES])
{
	const struct fm_snap_container *container = &c->snapshot->containers[c->container];
	const struct fm_snap_link l = way(c);
	const void *const bases[] = { [SOURCE] = &c->snapshot->hosts[c->source],
		                      [DESTINATION] = &c->snapshot->hosts[c->destination],
		                      [CONTAINER] = container,
		                      [LINK] = &l };
	const char *service = fm_snap_label(&container->labels, "service_type");
	times(c->snapshot, values);
	values[CONGESTION] = number(congestion(&l));
	values[SERVICE_TYPE] = text(service ? service : "");
	values[STRATEGY] = text(c->strategy);
	values[REQUESTED_STRATEGY] = text(c->requested_strategy);
	values[TRIGGER] = text(c->trigger);
	values[PREDICTED_DOWNTIME] = whole(c->predicted_downtime_ms);
	values[PREDICTED_TOTAL] = whole(c->predicted_total_ms);
	values[PREDICTED_WIRE] = whole(c->predicted_wire_bytes);
	values[ACTIVE] = number(c->active_migrations);
	values[SOURCE_CONTAINERS] = number(containers_on(c->snapshot, c->source));
	values[DESTINATION_CONTAINERS] = number(containers_on(c->snapshot, c->destination));
	values[SINCE_MOVE] = number((double)c->snapshot->at_unix_ms / 1000 - (double)container->last_moved_unix_ms / 1000);
	for (size_t i = 0; i < FM_ARRAY_SIZE(places); i++)
		values[_COMPUTED + i] = read_place(bases[places[i].from], places[i].kind, places[i].offset);
}
