/* SPDX-License-Identifier: MIT */
/*
 * flows.c - a container's entries in the hosts' connection tracking travel with it (network/conntrack.h), so that a stateful firewall at the destination lets its connections pass.
 *
 * The source reads them in a thread beside CRIU's dump, from when nothing reaches the container any more, and sends them when the destination has restored; the destination has them before its ports
 * open. Whatever goes wrong with that costs connections behind a firewall, and is no reason to fail.
 */
#include "migration/mover-internal.h"

#include <arpa/inet.h>
#include <string.h>

#include "basic/cleanup.h"
#include "network/conntrack.h"

struct fm_flows {
	struct fm_conntrack *conntrack;
	struct fm_conntrack_address addresses[2 * FM_MAX_ENDPOINTS];
	size_t n;
	struct fm_conntrack_dumping *dumping; /* source */
	uint8_t *bytes;                       /* destination: what came */
	size_t length;
};

static void add(struct fm_flows *f, int family, const void *address, size_t length)
{
	struct fm_conntrack_address *a = &f->addresses[f->n++];

	a->family = family;
	memcpy(a->bytes, address, length);
}

/* Most hosts track nothing, and going through their table would still take its time. */
static bool host_tracks(void)
{
	_fm_free_ char *count = NULL;

	return fm_read_file("/proc/sys/net/netfilter/nf_conntrack_count", 64, &count, NULL, NULL) == 0 && strtoul(count, NULL, 10) > 0;
}

void fm_flows_open(struct fm_mover *m)
{
	struct fm_error e = FM_ERROR_INIT;
	struct fm_flows *f = m->local.n_endpoints ? calloc(1, sizeof(*f)) : NULL;

	if (!f)
		return;
	for (size_t i = 0; i < m->local.n_endpoints; i++) {
		const struct fm_endpoint_config *c = &m->local.endpoints[i];

		if (c->prefix_len)
			add(f, AF_INET, &c->address, sizeof(c->address));
		if (c->prefix6_len)
			add(f, AF_INET6, &c->address6, sizeof(c->address6));
	}
	if (fm_conntrack_open(&f->conntrack, &e) < 0) {
		fm_mover_note(m, "connection tracking is not looked at: %s", e.message);
		free(f);
		return;
	}
	m->flows = f;
}

void fm_flows_free(struct fm_mover *m)
{
	struct fm_flows *f = m->flows;
	uint8_t *unused = NULL;
	size_t length = 0;

	if (!f)
		return;
	if (f->dumping)
		(void)fm_conntrack_dump_end(f->dumping, &unused, &length, NULL, NULL);
	free(unused);
	fm_conntrack_free(f->conntrack);
	free(f->bytes);
	free(f);
	m->flows = NULL;
}

/* ---------------------------------------------------------------- source */

void fm_flows_read(struct fm_mover *m)
{
	struct fm_error e = FM_ERROR_INIT;

	if (m->flows && !m->flows->dumping && host_tracks() &&
	    fm_conntrack_dump_begin(m->flows->conntrack, m->flows->addresses, m->flows->n, FM_MAX_CONNTRACK, &m->flows->dumping, &e) < 0)
		fm_mover_note(m, "connection tracking cannot be read: %s", e.message);
}

int fm_flows_send(struct fm_mover *m, int timeout_ms, struct fm_error *err)
{
	struct fm_conntrack_dumped what = { 0 };
	struct fm_error e = FM_ERROR_INIT;
	_fm_free_ uint8_t *bytes = NULL;
	size_t length = 0;

	if (!m->flows || !m->flows->dumping)
		return 0;
	int rc = fm_conntrack_dump_end(m->flows->dumping, &bytes, &length, &what, &e);
	m->flows->dumping = NULL;
	if (rc < 0) {
		fm_mover_note(m, "connection tracking cannot be read: %s", e.message);
		return 0;
	}
	if (what.over || what.skipped)
		fm_mover_note(m, "%zu tracked connections do not travel", what.over + what.skipped);
	return what.flows ? fm_stream_send(m->control, FM_FRAME_FLOWS, what.flows, 0, bytes, length, timeout_ms, err) : 0;
}

static size_t add_addresses(const FM_PB(Endpoint) * e, struct fm_conntrack_address *v, size_t n, size_t cap)
{
	const char *const words[] = { e->address, e->address6 };

	for (size_t i = 0; i < FM_ARRAY_SIZE(words); i++) {
		_fm_free_ char *text = fm_xasprintf("%.*s", (int)strcspn(words[i], "/"), words[i]);

		if (n < cap && fm_conntrack_address_parse(text, &v[n], NULL) == 0)
			n++;
	}
	return n;
}

/* Of the other containers here: their connections with this one go on. cap: there are that many, or more, or it cannot be known. */
static size_t others(struct fm_mover *m, struct fm_conntrack_address *v, size_t cap)
{
	FM_PB(Container) **list = NULL;
	size_t n_list = 0, n = 0;

	if (fm_instances_list(m->h, &list, &n_list, NULL) < 0)
		return cap;
	for (size_t i = 0; i < n_list; i++) {
		if (!fm_streq(list[i]->name, m->container)) {
			n = list[i]->endpoint ? add_addresses(list[i]->endpoint, v, n, cap) : n;
			for (size_t k = 0; k < list[i]->n_more_endpoints; k++)
				n = add_addresses(list[i]->more_endpoints[k], v, n, cap);
		}
		fm_pb_free(list[i]);
	}
	free(list);
	return n;
}

void fm_flows_forget(struct fm_mover *m)
{
	struct fm_conntrack_address keep[FM_MAX_CONNTRACK_ADDRESSES];
	struct fm_error e = FM_ERROR_INIT;

	if (!m->flows || !host_tracks())
		return;
	size_t n = others(m, keep, FM_ARRAY_SIZE(keep));
	/* More than can be told apart: stale entries end by themselves, those of others would not come back. */
	if (n == FM_ARRAY_SIZE(keep))
		return;
	if (fm_conntrack_forget(m->flows->conntrack, m->flows->addresses, m->flows->n, keep, n, false, NULL, &e) < 0)
		fm_mover_note(m, "tracked connections of '%s' stay here until they end by themselves: %s", m->container, e.message);
}

/* ---------------------------------------------------------------- destination */

int fm_flows_take(struct fm_mover *m, const uint8_t *bytes, size_t length, struct fm_error *err)
{
	if (length > FM_MAX_CONNTRACK_BYTES)
		return fm_error_set(err, FM_E_DATA_LOSS, "the source sent %zu bytes of tracked connections", length);
	if (!m->flows)
		return 0;
	free(m->flows->bytes);
	m->flows->bytes = malloc(length ? length : 1);
	if (!m->flows->bytes)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	memcpy(m->flows->bytes, bytes, length);
	m->flows->length = length;
	return 0;
}

void fm_flows_restore(struct fm_mover *m)
{
	struct fm_conntrack_restored got = { 0 };
	struct fm_error e = FM_ERROR_INIT;

	if (!m->flows || !m->flows->bytes)
		return;
	if (fm_conntrack_restore(m->flows->conntrack, m->flows->bytes, m->flows->length, m->flows->addresses, m->flows->n, &got, &e) < 0)
		fm_mover_note(m, "connections are not known to this host's firewall: %s", e.message);
	else
		fm_mover_note(m, "%zu tracked connections came along%s", got.inserted,
		              got.clashed + got.refused ? ", not all of them" : "");
}
