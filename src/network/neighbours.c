/* SPDX-License-Identifier: MIT */
/*
 * neighbours.c - the container's neighbour table, out of the source's namespace and into the destination's.
 *
 * Why at all: the first packet of a restored connection goes out while the port is still closed (CRIU's window probe). Without an entry the
 * kernel starts to ask, gets no answer, and the connection waits for the next question. With the source's table there is nothing to ask.
 * The entries are installed as REACHABLE: confirmed now, ageing as any other.
 */
#include <arpa/inet.h>
#include <linux/neighbour.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/limits.h"
#include "network/endpoints.h"
#include "network/internal.h"

#define NUD_KNOWN (NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_PERMANENT)

struct collect {
	struct fm_neighbour *v;
	size_t n, before, cap;
	int ifindex, family;
};

static size_t address_len(int family)
{
	return family == AF_INET ? sizeof(struct in_addr) : sizeof(struct in6_addr);
}

/* A group, the own machine or nobody as a neighbour would send somebody's traffic to everybody, or nowhere. */
static bool is_single_machine(const struct fm_neighbour *v)
{
	static const uint8_t no_mac[6];
	uint32_t a = ntohl(v->address.s_addr);

	if ((v->mac[0] & 1) || memcmp(v->mac, no_mac, sizeof(no_mac)) == 0)
		return false;
	if (v->family == AF_INET)
		return a >> 24 != 0 && a >> 28 < 14 && a >> 24 != 127;
	return v->family == AF_INET6 && !IN6_IS_ADDR_UNSPECIFIED(&v->address6) && !IN6_IS_ADDR_LOOPBACK(&v->address6) &&
	       !IN6_IS_ADDR_MULTICAST(&v->address6) && !IN6_IS_ADDR_V4MAPPED(&v->address6);
}

static void collect_reset(void *userdata)
{
	struct collect *c = userdata;

	c->n = c->before;
}

static int collect_cb(const struct nlmsghdr *h, void *userdata)
{
	struct collect *c = userdata;
	const struct ndmsg *nd = mnl_nlmsg_get_payload(h);
	struct fm_neighbour e = { .family = c->family };
	bool has_address = false, has_mac = false;
	const struct nlattr *a;

	if (h->nlmsg_type != RTM_NEWNEIGH || h->nlmsg_len < mnl_nlmsg_size(sizeof(*nd)))
		return MNL_CB_OK;
	if (nd->ndm_family != c->family || nd->ndm_ifindex != c->ifindex || !(nd->ndm_state & NUD_KNOWN) || c->n >= c->cap)
		return MNL_CB_OK;
	mnl_attr_for_each (a, h, sizeof(*nd)) {
		if (mnl_attr_get_type(a) == NDA_DST && mnl_attr_get_payload_len(a) == address_len(c->family)) {
			memcpy(&e.address6, mnl_attr_get_payload(a), address_len(c->family));
			has_address = true;
		} else if (mnl_attr_get_type(a) == NDA_LLADDR && mnl_attr_get_payload_len(a) == sizeof(e.mac)) {
			memcpy(e.mac, mnl_attr_get_payload(a), sizeof(e.mac));
			has_mac = true;
		}
	}
	if (has_address && has_mac && is_single_machine(&e))
		c->v[c->n++] = e;
	return MNL_CB_OK;
}

int fm_endpoint_neighbours(struct fm_endpoint *e, struct fm_neighbour *ret, size_t *n, struct fm_error *err)
{
	const int families[] = { e->cfg.prefix_len ? AF_INET : 0, e->cfg.prefix6_len ? AF_INET6 : 0 };
	struct collect c = { .v = ret, .cap = *n };

	if (!e->cfg.bridge[0]) { /* the gateway alone, and that is on every host */
		*n = 0;
		return 0;
	}
	if (fm_endpoint_need_inside(e, err) < 0)
		return -1;
	c.ifindex = e->inside_index;
	for (size_t i = 0; i < FM_ARRAY_SIZE(families); i++) {
		struct ndmsg all = { .ndm_family = (uint8_t)families[i] };
		int rc;

		if (!families[i])
			continue;
		c.family = families[i];
		c.before = c.n;
		rc = fm_nl_dump(e->inside, RTM_GETNEIGH, &all, sizeof(all), collect_cb, &c, collect_reset);
		if (rc < 0)
			return fm_nl_fail(e->inside, rc, err, "read the neighbour table of %s", e->cfg.ifname);
	}
	*n = c.n;
	return 0;
}

static bool put_entry(struct fm_endpoint *e, const struct fm_neighbour *v)
{
	struct nlmsghdr *h = fm_nl_begin(e->inside, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, 64);
	struct ndmsg *nd;

	if (!h)
		return false;
	nd = mnl_nlmsg_put_extra_header(h, sizeof(*nd));
	nd->ndm_family = (uint8_t)v->family;
	nd->ndm_ifindex = e->inside_index;
	nd->ndm_state = NUD_REACHABLE;
	mnl_attr_put(h, NDA_DST, address_len(v->family), &v->address6);
	mnl_attr_put(h, NDA_LLADDR, sizeof(v->mac), v->mac);
	return true;
}

static int not_single(const struct fm_neighbour *v, enum fm_code code, struct fm_error *err)
{
	char text[INET6_ADDRSTRLEN];

	return fm_error_set(err, code, "neighbour %s is not a single machine",
	                    inet_ntop(v->family == AF_INET ? AF_INET : AF_INET6, &v->address6, text, sizeof(text)));
}

/* The list comes from another host. */
static int check_entries(const struct fm_endpoint *e, const struct fm_neighbour *v, size_t n, struct fm_error *err)
{
	if (n > FM_MAX_NEIGHBOURS)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "%zu neighbours, at most %d are taken", n, FM_MAX_NEIGHBOURS);
	for (size_t i = 0; i < n; i++) {
		if (!is_single_machine(&v[i]))
			return not_single(&v[i], FM_E_INVALID_ARGUMENT, err);
		if (!(v[i].family == AF_INET ? e->cfg.prefix_len : e->cfg.prefix6_len))
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "an IPv%d neighbour for %s, which has no such address",
			                    v[i].family == AF_INET ? 4 : 6, e->cfg.ifname);
	}
	return 0;
}

int fm_endpoint_set_neighbours(struct fm_endpoint *e, const struct fm_neighbour *v, size_t n, struct fm_error *err)
{
	int rc = 0;

	if (!e->cfg.bridge[0])
		return 0;
	if (check_entries(e, v, n, err) < 0 || fm_endpoint_need_inside(e, err) < 0)
		return -1;
	for (size_t i = 0; i < n && rc == 0; i++) {
		if (put_entry(e, &v[i]))
			continue;
		rc = fm_nl_flush(e->inside);
		if (rc == 0 && !put_entry(e, &v[i]))
			rc = -ENOBUFS;
	}
	if (rc == 0)
		rc = fm_nl_flush(e->inside);
	if (rc < 0)
		return fm_nl_fail(e->inside, rc, err, "install %zu neighbours on %s", n, e->cfg.ifname);
	return 0;
}

/* ---- between two hosts: {u8 layout, 3 bytes 0}, then {u8 4 or 6, u8 endpoint, 6 bytes MAC, 16 bytes address, of IPv4 the first 4} each ---- */

size_t fm_neighbours_encode(const struct fm_neighbour *v, size_t n, uint8_t ret[FM_NEIGHBOURS_MAX_BYTES])
{
	size_t len = FM_NEIGHBOURS_HEAD_BYTES + n * FM_NEIGHBOUR_BYTES;

	memset(ret, 0, len);
	ret[0] = FM_NEIGHBOURS_LAYOUT;
	for (size_t i = 0; i < n; i++) {
		uint8_t *p = ret + FM_NEIGHBOURS_HEAD_BYTES + i * FM_NEIGHBOUR_BYTES;

		p[0] = v[i].family == AF_INET ? 4 : 6;
		p[1] = v[i].endpoint;
		memcpy(p + 2, v[i].mac, sizeof(v[i].mac));
		memcpy(p + 8, &v[i].address6, address_len(v[i].family));
	}
	return len;
}

static int decode_one(const uint8_t *p, size_t n_endpoints, struct fm_neighbour *ret, struct fm_error *err)
{
	static const uint8_t zero[12];
	struct fm_neighbour v = { .endpoint = p[1], .family = p[0] == 4 ? AF_INET : AF_INET6 };

	memcpy(v.mac, p + 2, sizeof(v.mac));
	memcpy(&v.address6, p + 8, address_len(v.family));
	if ((p[0] != 4 && p[0] != 6) || (p[0] == 4 && memcmp(p + 12, zero, sizeof(zero)) != 0))
		return fm_error_set(err, FM_E_DATA_LOSS, "the source sent a malformed neighbour (family %u)", p[0]);
	if (v.endpoint >= n_endpoints)
		return fm_error_set(err, FM_E_DATA_LOSS, "the source sent a neighbour of endpoint %u of %zu", v.endpoint + 1, n_endpoints);
	if (!is_single_machine(&v))
		return not_single(&v, FM_E_DATA_LOSS, err);
	*ret = v;
	return 0;
}

int fm_neighbours_decode(const uint8_t *data, size_t len, uint64_t count, size_t n_endpoints, struct fm_neighbour ret[FM_MAX_NEIGHBOURS],
                         size_t *ret_n, struct fm_error *err)
{
	static const uint8_t head[FM_NEIGHBOURS_HEAD_BYTES] = { FM_NEIGHBOURS_LAYOUT };

	if (count > FM_MAX_NEIGHBOURS || len != FM_NEIGHBOURS_HEAD_BYTES + count * FM_NEIGHBOUR_BYTES ||
	    memcmp(data, head, sizeof(head)) != 0)
		return fm_error_set(err, FM_E_DATA_LOSS, "the source sent a malformed neighbour table (%zu bytes for %llu entries)", len,
		                    (unsigned long long)count);
	for (size_t i = 0; i < count; i++)
		if (decode_one(data + FM_NEIGHBOURS_HEAD_BYTES + i * FM_NEIGHBOUR_BYTES, n_endpoints, &ret[i], err) < 0)
			return -1;
	*ret_n = count;
	return 0;
}
