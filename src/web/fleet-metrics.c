/* SPDX-License-Identifier: MIT */
/* fleet-metrics.c - hosts and containers as their agents report them; see metrics.h. */
#include <stdlib.h>
#include <string.h>

#include "basic/limits.h"
#include "basic/str.h"
#include "migration/pb.h"
#include "web/metrics.h"

/* A field of HostUsage or ContainerUsage as a metric: its number in the contract, and what it is multiplied by. */
struct field {
	enum fm_metric metric;
	uint32_t number;
	double factor;
	bool zero_is_unknown;
};

#define PERCENT 0.01
#define MS      0.001

static const struct field host_fields[] = {
	{ FM_METRIC_HOST_USAGE_TIME, 1, MS, true },
	{ FM_METRIC_HOST_CPU, 2, PERCENT, false },
	{ FM_METRIC_HOST_LOAD1, 3, 1, false },
	{ FM_METRIC_HOST_SWAP_USED, 6, 1, false },
	{ FM_METRIC_HOST_FAULTS, 7, 1, false },
	{ FM_METRIC_HOST_MAJOR_FAULTS, 8, 1, false },
	{ FM_METRIC_HOST_DISK_READ, 9, 1, false },
	{ FM_METRIC_HOST_DISK_WRITE, 10, 1, false },
	{ FM_METRIC_HOST_DISK_UTILISATION, 11, PERCENT, false },
	{ FM_METRIC_HOST_NETWORK_IN, 12, 1, false },
	{ FM_METRIC_HOST_NETWORK_OUT, 13, 1, false },
	{ FM_METRIC_HOST_NETWORK_CAPACITY, 14, 1, true },
	{ FM_METRIC_HOST_CONNECTIONS, 15, 1, false },
	{ FM_METRIC_HOST_CPU_PRESSURE, 16, PERCENT, false },
	{ FM_METRIC_HOST_MEMORY_PRESSURE, 17, PERCENT, false },
	{ FM_METRIC_HOST_IO_PRESSURE, 18, PERCENT, false },
};

static const struct field container_fields[] = {
	{ FM_METRIC_CONTAINER_USAGE_TIME, 1, MS, true },
	{ FM_METRIC_CONTAINER_CPU, 2, 1, false },
	{ FM_METRIC_CONTAINER_MEMORY, 3, 1, false },
	{ FM_METRIC_CONTAINER_WORKING_SET, 4, 1, false },
	{ FM_METRIC_CONTAINER_DIRTY, 5, 1, false },
	{ FM_METRIC_CONTAINER_FAULTS, 6, 1, false },
	{ FM_METRIC_CONTAINER_MAJOR_FAULTS, 7, 1, false },
	{ FM_METRIC_CONTAINER_DISK_READ, 8, 1, false },
	{ FM_METRIC_CONTAINER_DISK_WRITE, 9, 1, false },
	{ FM_METRIC_CONTAINER_NETWORK_IN, 10, 1, false },
	{ FM_METRIC_CONTAINER_NETWORK_OUT, 11, 1, false },
	{ FM_METRIC_CONTAINER_CONNECTIONS, 12, 1, false },
	{ FM_METRIC_CONTAINER_THREADS, 13, 1, false },
	{ FM_METRIC_CONTAINER_RESTARTS, 14, 1, false },
	{ FM_METRIC_CONTAINER_CPU_PRESSURE, 15, PERCENT, false },
	{ FM_METRIC_CONTAINER_MEMORY_PRESSURE, 16, PERCENT, false },
	{ FM_METRIC_CONTAINER_IO_PRESSURE, 17, PERCENT, false },
	{ FM_METRIC_CONTAINER_THROTTLED, 18, PERCENT, false },
};

static bool is_unknown(const uint32_t *v, size_t n, uint32_t number)
{
	for (size_t i = 0; i < n; i++)
		if (v[i] == number)
			return true;
	return false;
}

/* The field's value, whatever its type. */
static double value_of(const ProtobufCMessage *m, uint32_t number)
{
	const ProtobufCFieldDescriptor *d = protobuf_c_message_descriptor_get_field(m->descriptor, number);
	const char *at = (const char *)m + (d ? d->offset : 0);
	double value = 0;
	uint64_t u64 = 0;
	uint32_t u32 = 0;
	if (!d)
		return 0;
	switch (d->type) {
	case PROTOBUF_C_TYPE_DOUBLE:
		memcpy(&value, at, sizeof(value));
		return value;
	case PROTOBUF_C_TYPE_UINT64:
		memcpy(&u64, at, sizeof(u64));
		return (double)u64;
	default:
		memcpy(&u32, at, sizeof(u32));
		return u32;
	}
}

static void add_field(struct fm_exposition *x, const struct field *f, const ProtobufCMessage *usage, const uint32_t *unknown,
                      size_t n_unknown, const char *const *labels)
{
	double value = value_of(usage, f->number);
	if (is_unknown(unknown, n_unknown, f->number) || (f->zero_is_unknown && value == 0))
		return;
	fm_exposition_add(x, f->factor == PERCENT ? value / 100 : f->factor == MS ? value / 1000 : value, labels);
}

/* ---------------------------------------------------------------- hosts */

static bool is_online(const FM_PB(Host) * h)
{
	return !fm_streq(h->status, "offline");
}

/* The verdict of the manager's thresholds. All three, so that a change is seen as one. */
static void load_states(struct fm_exposition *x, FM_PB(Host) *const *v, size_t n)
{
	static const char *const states[] = { "over", "normal", "under" };
	fm_exposition_begin(x, FM_METRIC_HOST_LOAD_STATE);
	for (size_t i = 0; i < n; i++)
		for (size_t s = 0; s < FM_ARRAY_SIZE(states) && is_online(v[i]) && v[i]->load[0]; s++)
			fm_exposition_add_u64(x, fm_streq(v[i]->load, states[s]), (const char *const[]){ v[i]->name, states[s] });
}

static void host_states(struct fm_exposition *x, FM_PB(Host) *const *v, size_t n)
{
	fm_exposition_begin(x, FM_METRIC_HOST_UP);
	for (size_t i = 0; i < n; i++)
		fm_exposition_add_u64(x, is_online(v[i]), (const char *const[]){ v[i]->name });
	fm_exposition_begin(x, FM_METRIC_HOST_LAST_SEEN);
	for (size_t i = 0; i < n; i++)
		if (v[i]->last_seen_unix_ms)
			fm_exposition_add(x, (double)v[i]->last_seen_unix_ms / 1000, (const char *const[]){ v[i]->name });
	fm_exposition_begin(x, FM_METRIC_HOST_CORDONED);
	for (size_t i = 0; i < n; i++)
		if (v[i]->status[0]) /* the manager's to say, as the status is */
			fm_exposition_add_u64(x, v[i]->cordoned, (const char *const[]){ v[i]->name });
	load_states(x, v, n);
	fm_exposition_begin(x, FM_METRIC_HOST_INFO);
	for (size_t i = 0; i < n; i++)
		if (is_online(v[i]))
			fm_exposition_add_u64(x, 1,
			                      (const char *const[]){ v[i]->name, v[i]->version, v[i]->kernel, v[i]->runtime_version,
			                                             v[i]->criu_version });
	fm_exposition_begin(x, FM_METRIC_HOST_MIGRATION_READY);
	for (size_t i = 0; i < n; i++)
		if (is_online(v[i]))
			fm_exposition_add_u64(x, !v[i]->criu_problem[0], (const char *const[]){ v[i]->name });
}

/* A number of each host that is online; 0 is "not known", but for the count of its containers. */
static void host_number(struct fm_exposition *x, enum fm_metric m, FM_PB(Host) *const *v, size_t n, uint64_t (*get)(const FM_PB(Host) *))
{
	fm_exposition_begin(x, m);
	for (size_t i = 0; i < n; i++)
		if (is_online(v[i]) && (get(v[i]) || m == FM_METRIC_HOST_CONTAINERS))
			fm_exposition_add_u64(x, get(v[i]), (const char *const[]){ v[i]->name });
}

static uint64_t containers(const FM_PB(Host) * h)
{
	return h->containers;
}
static uint64_t cpus(const FM_PB(Host) * h)
{
	return h->cpus;
}
static uint64_t memory_total(const FM_PB(Host) * h)
{
	return h->memory_total_bytes;
}
static uint64_t memory_available(const FM_PB(Host) * h)
{
	return h->memory_available_bytes;
}
static uint64_t disk_available(const FM_PB(Host) * h)
{
	return h->disk_available_bytes;
}

void fm_web_write_hosts(struct fm_exposition *x, FM_PB(Host) *const *v, size_t n)
{
	host_states(x, v, n);
	host_number(x, FM_METRIC_HOST_CONTAINERS, v, n, containers);
	host_number(x, FM_METRIC_HOST_CPUS, v, n, cpus);
	host_number(x, FM_METRIC_HOST_MEMORY_TOTAL, v, n, memory_total);
	host_number(x, FM_METRIC_HOST_MEMORY_AVAILABLE, v, n, memory_available);
	host_number(x, FM_METRIC_HOST_DISK_AVAILABLE, v, n, disk_available);
	for (size_t f = 0; f < FM_ARRAY_SIZE(host_fields); f++) {
		fm_exposition_begin(x, host_fields[f].metric);
		for (size_t i = 0; i < n; i++)
			if (is_online(v[i]) && v[i]->usage)
				add_field(x, &host_fields[f], &v[i]->usage->base, v[i]->usage->unknown, v[i]->usage->n_unknown,
				          (const char *const[]){ v[i]->name });
	}
}

/* Each peer once, whatever a report says twice. */
static bool is_first(const FM_PB(Host) * h, size_t i)
{
	for (size_t k = 0; k < i; k++)
		if (fm_streq(h->peers[k]->host, h->peers[i]->host))
			return false;
	return true;
}

void fm_web_write_peers(struct fm_exposition *x, const FM_PB(Host) * h)
{
	size_t n = h->n_peers < FM_MAX_WEB_PEERS ? h->n_peers : FM_MAX_WEB_PEERS;
	fm_exposition_begin(x, FM_METRIC_PEER_LATENCY);
	for (size_t i = 0; i < n; i++)
		if (is_first(h, i) && h->peers[i]->latency_us) /* 0: no packet came back */
			fm_exposition_add(x, (double)h->peers[i]->latency_us / 1e6, (const char *const[]){ h->name, h->peers[i]->host });
	fm_exposition_begin(x, FM_METRIC_PEER_LOSS);
	for (size_t i = 0; i < n; i++)
		if (is_first(h, i))
			fm_exposition_add(x, (double)h->peers[i]->loss_ppm / 1e6, (const char *const[]){ h->name, h->peers[i]->host });
}

/* ---------------------------------------------------------------- containers */

static const char *const statuses[] = { "running", "paused", "stopped", "created", "incoming", "outgoing", "other" };

static size_t status_index(const FM_PB(Container) * c)
{
	size_t i = 0;
	while (i + 1 < FM_ARRAY_SIZE(statuses) && !fm_streq(statuses[i], c->status))
		i++;
	return i;
}

/* By host and name; of the same the one that is more likely to be it: in the order of the statuses. */
static int by_place(const void *a, const void *b)
{
	const FM_PB(Container) *p = *(FM_PB(Container) *const *)a, *q = *(FM_PB(Container) *const *)b;
	int order = strcmp(p->host, q->host);
	order = order ? order : strcmp(p->name, q->name);
	return order ? order : (int)status_index(p) - (int)status_index(q);
}

static bool is_same_place(const FM_PB(Container) * a, const FM_PB(Container) * b)
{
	return fm_streq(a->host, b->host) && fm_streq(a->name, b->name);
}

/* Sorts, and brings those that get series to the front; returns how many. Copies of one name are not "left out": one of them is there. */
static size_t choose(FM_PB(Container) * *v, size_t n, size_t *ret_left_out)
{
	size_t out = 0, nameless = 0;
	if (n > 0)
		qsort(v, n, sizeof(*v), by_place);
	for (size_t i = 0; i < n; i++) {
		bool usable = fm_name_is_valid(v[i]->name);
		nameless += !usable;
		if (!usable || (out > 0 && is_same_place(v[out - 1], v[i])))
			continue;
		FM_PB(Container) *moved = v[i];
		v[i] = v[out]; /* nobody looks at it again, but who frees the array */
		v[out++] = moved;
	}
	*ret_left_out = nameless + (out > FM_MAX_WEB_CONTAINERS ? out : 0);
	return out > FM_MAX_WEB_CONTAINERS ? 0 : out;
}

static void count_statuses(struct fm_exposition *x, FM_PB(Container) *const *v, size_t n)
{
	uint64_t counts[FM_ARRAY_SIZE(statuses)] = { 0 };
	for (size_t i = 0; i < n; i++)
		counts[status_index(v[i])]++;
	fm_exposition_begin(x, FM_METRIC_CONTAINERS);
	for (size_t i = 0; i < FM_ARRAY_SIZE(statuses); i++)
		fm_exposition_add_u64(x, counts[i], (const char *const[]){ statuses[i] });
}

static void container_facts(struct fm_exposition *x, FM_PB(Container) *const *v, size_t n)
{
	fm_exposition_begin(x, FM_METRIC_CONTAINER_INFO);
	for (size_t i = 0; i < n; i++)
		fm_exposition_add_u64(
		        x, 1, (const char *const[]){ v[i]->host, v[i]->name, statuses[status_index(v[i])], v[i]->kind, v[i]->image });
	fm_exposition_begin(x, FM_METRIC_CONTAINER_START);
	for (size_t i = 0; i < n; i++)
		if (v[i]->started_unix_ms)
			fm_exposition_add(x, (double)v[i]->started_unix_ms / 1000, (const char *const[]){ v[i]->host, v[i]->name });
	fm_exposition_begin(x, FM_METRIC_CONTAINER_PROCESSES);
	for (size_t i = 0; i < n; i++)
		fm_exposition_add_u64(x, v[i]->processes, (const char *const[]){ v[i]->host, v[i]->name });
	fm_exposition_begin(x, FM_METRIC_CONTAINER_RESIDENT);
	for (size_t i = 0; i < n; i++)
		fm_exposition_add_u64(x, v[i]->memory_bytes, (const char *const[]){ v[i]->host, v[i]->name });
	fm_exposition_begin(x, FM_METRIC_CONTAINER_MEMORY_LIMIT);
	for (size_t i = 0; i < n; i++)
		if (v[i]->memory_limit_bytes)
			fm_exposition_add_u64(x, v[i]->memory_limit_bytes, (const char *const[]){ v[i]->host, v[i]->name });
}

void fm_web_write_containers(struct fm_exposition *x, FM_PB(Container) * *v, size_t n)
{
	size_t left_out = 0;
	count_statuses(x, v, n);
	n = choose(v, n, &left_out);
	fm_exposition_one_u64(x, FM_METRIC_CONTAINERS_LEFT_OUT, left_out);
	container_facts(x, v, n);
	for (size_t f = 0; f < FM_ARRAY_SIZE(container_fields); f++) {
		fm_exposition_begin(x, container_fields[f].metric);
		for (size_t i = 0; i < n; i++)
			if (v[i]->usage)
				add_field(x, &container_fields[f], &v[i]->usage->base, v[i]->usage->unknown, v[i]->usage->n_unknown,
				          (const char *const[]){ v[i]->host, v[i]->name });
	}
}
