/* SPDX-License-Identifier: MIT */
/* usage.c - see usage.h. One table a message, and everything goes by it. */
#include "migration/usage.h"

#include <math.h>
#include <stddef.h>

#include "basic/limits.h"
#include "migration/pb.h"

enum type { F64, U64, U32 }; /* in the message; the plain structs have double for the first and uint64_t for the others */

struct field {
	uint32_t number; /* the contract's */
	enum type type;
	size_t plain, message;
	double max;
};

#define HOST(n, member, t, m)                                                                                                              \
	{                                                                                                                                  \
		n, t, offsetof(struct fm_host_usage, member), offsetof(FM_PB(HostUsage), member), m                                        \
	}
static const struct field host_fields[] = {
	HOST(2, cpu_percent, F64, 100),
	HOST(3, load1, F64, FM_USAGE_MAX),
	HOST(4, memory_total_bytes, U64, 1e18),
	HOST(5, memory_available_bytes, U64, 1e18),
	HOST(6, swap_used_bytes, U64, 1e18),
	HOST(7, page_faults_per_s, F64, FM_USAGE_MAX),
	HOST(8, major_page_faults_per_s, F64, FM_USAGE_MAX),
	HOST(9, disk_read_bytes_per_s, U64, FM_USAGE_MAX),
	HOST(10, disk_write_bytes_per_s, U64, FM_USAGE_MAX),
	HOST(11, disk_utilisation_percent, F64, 100),
	HOST(12, network_in_bytes_per_s, U64, FM_USAGE_MAX),
	HOST(13, network_out_bytes_per_s, U64, FM_USAGE_MAX),
	HOST(14, network_capacity_bytes_per_s, U64, FM_USAGE_MAX),
	HOST(15, connections, U32, UINT32_MAX),
	HOST(16, cpu_pressure_percent, F64, 100),
	HOST(17, memory_pressure_percent, F64, 100),
	HOST(18, io_pressure_percent, F64, 100),
};

#define CONTAINER(n, member, t, m)                                                                                                         \
	{                                                                                                                                  \
		n, t, offsetof(struct fm_container_usage, member), offsetof(FM_PB(ContainerUsage), member), m                              \
	}
static const struct field container_fields[] = {
	CONTAINER(2, cpu_cores, F64, 1e5),
	CONTAINER(3, memory_bytes, U64, 1e18),
	CONTAINER(4, working_set_bytes, U64, 1e18),
	CONTAINER(5, dirty_bytes_per_s, U64, FM_USAGE_MAX),
	CONTAINER(6, page_faults_per_s, F64, FM_USAGE_MAX),
	CONTAINER(7, major_page_faults_per_s, F64, FM_USAGE_MAX),
	CONTAINER(8, disk_read_bytes_per_s, U64, FM_USAGE_MAX),
	CONTAINER(9, disk_write_bytes_per_s, U64, FM_USAGE_MAX),
	CONTAINER(10, network_in_bytes_per_s, U64, FM_USAGE_MAX),
	CONTAINER(11, network_out_bytes_per_s, U64, FM_USAGE_MAX),
	CONTAINER(12, connections, U32, UINT32_MAX),
	CONTAINER(13, threads, U32, UINT32_MAX),
	CONTAINER(14, restarts, U32, UINT32_MAX),
	CONTAINER(15, cpu_pressure_percent, F64, 100),
	CONTAINER(16, memory_pressure_percent, F64, 100),
	CONTAINER(17, io_pressure_percent, F64, 100),
	CONTAINER(18, throttled_percent, F64, 100),
};

static void *at(void *base, size_t offset)
{
	return (char *)base + offset;
}

/* NAN: it is not known, or cannot be */
static double plain_value(const struct field *f, const void *u)
{
	const void *p = at((void *)u, f->plain);

	if (f->type == F64)
		return *(const double *)p;
	return *(const uint64_t *)p == FM_USAGE_UNKNOWN ? NAN : (double)*(const uint64_t *)p;
}

static double message_value(const struct field *f, const void *m)
{
	const void *p = at((void *)m, f->message);

	return f->type == F64 ? *(const double *)p : f->type == U64 ? (double)*(const uint64_t *)p : (double)*(const uint32_t *)p;
}

static bool possible(const struct field *f, double v)
{
	return v >= 0 && v <= f->max; /* and so not NAN */
}

static void set_message(const struct field *f, void *m, double v)
{
	void *p = at(m, f->message);

	if (f->type == F64)
		*(double *)p = v;
	else if (f->type == U64)
		*(uint64_t *)p = (uint64_t)v;
	else
		*(uint32_t *)p = (uint32_t)v;
}

struct numbers {
	uint32_t *v;
	size_t n;
};

static void to_message(const struct field *fields, size_t n, const void *u, void *m, struct numbers *unknown)
{
	unknown->v = calloc(n, sizeof(*unknown->v));
	if (!unknown->v)
		abort(); /* as FM_PB_NEW */
	for (size_t i = 0; i < n; i++) {
		double v = plain_value(&fields[i], u);
		if (possible(&fields[i], v))
			set_message(&fields[i], m, v);
		else
			unknown->v[unknown->n++] = fields[i].number;
	}
}

static bool has_number(const uint32_t *v, size_t n, uint32_t number)
{
	for (size_t i = 0; i < n; i++)
		if (v[i] == number)
			return true;
	return false;
}

static void to_plain(const struct field *fields, size_t n, const void *m, const uint32_t *unknown, size_t n_unknown, void *u)
{
	for (size_t i = 0; i < n; i++) {
		double v = message_value(&fields[i], m);
		if (has_number(unknown, n_unknown, fields[i].number) || !possible(&fields[i], v))
			continue;
		if (fields[i].type == F64)
			*(double *)at(u, fields[i].plain) = v;
		else
			*(uint64_t *)at(u, fields[i].plain) = (uint64_t)v;
	}
}

FM_PB(HostUsage) * fm_usage_host_message(const struct fm_host_usage *u)
{
	if (!u->at_unix_ms)
		return NULL;
	FM_PB(HostUsage) *m = FM_PB_NEW(HostUsage, host_usage);
	struct numbers unknown = { 0 };
	m->at_unix_ms = u->at_unix_ms;
	to_message(host_fields, FM_ARRAY_SIZE(host_fields), u, m, &unknown);
	m->unknown = unknown.v;
	m->n_unknown = unknown.n;
	return m;
}

FM_PB(ContainerUsage) * fm_usage_container_message(const struct fm_container_usage *u)
{
	if (!u->at_unix_ms)
		return NULL;
	FM_PB(ContainerUsage) *m = FM_PB_NEW(ContainerUsage, container_usage);
	struct numbers unknown = { 0 };
	m->at_unix_ms = u->at_unix_ms;
	to_message(container_fields, FM_ARRAY_SIZE(container_fields), u, m, &unknown);
	m->unknown = unknown.v;
	m->n_unknown = unknown.n;
	return m;
}

void fm_usage_host_figures(const FM_PB(HostUsage) * m, struct fm_host_usage *ret)
{
	fm_host_usage_unknown(ret);
	if (!m)
		return;
	ret->at_unix_ms = m->at_unix_ms;
	to_plain(host_fields, FM_ARRAY_SIZE(host_fields), m, m->unknown, m->n_unknown, ret);
}

void fm_usage_container_figures(const FM_PB(ContainerUsage) * m, struct fm_container_usage *ret)
{
	fm_container_usage_unknown(ret);
	if (!m)
		return;
	ret->at_unix_ms = m->at_unix_ms;
	to_plain(container_fields, FM_ARRAY_SIZE(container_fields), m, m->unknown, m->n_unknown, ret);
}

/* ---- what comes from outside */

static void check_labels(FM_PB(Label) * **v, size_t *n)
{
	size_t kept = 0;

	for (size_t i = 0; i < *n; i++) {
		const FM_PB(Label) *l = (*v)[i];
		if (kept < FM_MAX_LABELS && l->key[0] && strlen(l->key) <= 255 && strlen(l->value) <= 255)
			(*v)[kept++] = (*v)[i];
		else
			fm_pb_free((*v)[i]);
	}
	*n = kept;
}

static void check_peers(FM_PB(Host) * h)
{
	size_t kept = 0;

	for (size_t i = 0; i < h->n_peers; i++) {
		const FM_PB(PeerMeasure) *p = h->peers[i];
		if (kept < FM_MAX_PEERS && fm_name_is_valid(p->host) && p->latency_us <= FM_MAX_LINK_LATENCY_US && p->loss_ppm <= 1000000)
			h->peers[kept++] = h->peers[i];
		else
			fm_pb_free(h->peers[i]);
	}
	h->n_peers = kept;
}

static void check_images(FM_PB(Host) * h)
{
	size_t kept = 0;

	for (size_t i = 0; i < h->n_images; i++)
		if (kept < FM_MAX_IMAGES && h->images[i][0] && strlen(h->images[i]) <= 255)
			h->images[kept++] = h->images[i];
		else
			free(h->images[i]);
	h->n_images = kept;
}

void fm_usage_check_host(FM_PB(Host) * h)
{
	struct fm_host_usage u;

	if (h->usage) {
		fm_usage_host_figures(h->usage, &u);
		fm_pb_free(h->usage);
		h->usage = fm_usage_host_message(&u);
	}
	check_labels(&h->labels, &h->n_labels);
	check_peers(h);
	check_images(h);
	if (h->echo_port > UINT16_MAX)
		h->echo_port = 0;
	h->cordoned = false;
	fm_pb_set(&h->load, "");
	fm_pb_set(&h->load_reason, "");
}

void fm_usage_check_container(FM_PB(Container) * c)
{
	struct fm_container_usage u;

	if (c->usage) {
		fm_usage_container_figures(c->usage, &u);
		fm_pb_free(c->usage);
		c->usage = fm_usage_container_message(&u);
	}
	if (strlen(c->image) > 255)
		fm_pb_set(&c->image, "");
}
