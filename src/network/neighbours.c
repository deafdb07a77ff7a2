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

#include "basic/limits.h"
#include "network/internal.h"

#define NUD_KNOWN (NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_PERMANENT)

struct collect {
	struct fm_neighbour *v;
	size_t n, cap;
	int ifindex;
};

static void collect_reset(void *userdata)
{
	struct collect *c = userdata;

	c->n = 0;
}

static int collect_cb(const struct nlmsghdr *h, void *userdata)
{
	struct collect *c = userdata;
	const struct ndmsg *nd = mnl_nlmsg_get_payload(h);
	struct fm_neighbour e = { 0 };
	bool has_address = false, has_mac = false;
	const struct nlattr *a;

	if (h->nlmsg_type != RTM_NEWNEIGH || h->nlmsg_len < mnl_nlmsg_size(sizeof(*nd)))
		return MNL_CB_OK;
	if (nd->ndm_family != AF_INET || nd->ndm_ifindex != c->ifindex || !(nd->ndm_state & NUD_KNOWN) || c->n >= c->cap)
		return MNL_CB_OK;
	mnl_attr_for_each (a, h, sizeof(*nd)) {
		if (mnl_attr_get_type(a) == NDA_DST && mnl_attr_get_payload_len(a) == sizeof(e.address)) {
			memcpy(&e.address, mnl_attr_get_payload(a), sizeof(e.address));
			has_address = true;
		} else if (mnl_attr_get_type(a) == NDA_LLADDR && mnl_attr_get_payload_len(a) == sizeof(e.mac)) {
			memcpy(e.mac, mnl_attr_get_payload(a), sizeof(e.mac));
			has_mac = true;
		}
	}
	if (has_address && has_mac)
		c->v[c->n++] = e;
	return MNL_CB_OK;
}

int fm_endpoint_neighbours(struct fm_endpoint *e, struct fm_neighbour *ret, size_t *n, struct fm_error *err)
{
	struct collect c = { .v = ret, .cap = *n };
	struct ndmsg all = { .ndm_family = AF_INET };
	int rc;

	if (fm_endpoint_need_inside(e, err) < 0)
		return -1;
	c.ifindex = e->inside_index;
	rc = fm_nl_dump(e->inside, RTM_GETNEIGH, &all, sizeof(all), collect_cb, &c, collect_reset);
	if (rc < 0)
		return fm_nl_fail(e->inside, rc, err, "read the neighbour table of %s", e->cfg.ifname);
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
	nd->ndm_family = AF_INET;
	nd->ndm_ifindex = e->inside_index;
	nd->ndm_state = NUD_REACHABLE;
	mnl_attr_put(h, NDA_DST, sizeof(v->address), &v->address);
	mnl_attr_put(h, NDA_LLADDR, sizeof(v->mac), v->mac);
	return true;
}

/* The list comes from another host: a group address as a neighbour's MAC would send unicast to everybody. */
static int check_entries(const struct fm_neighbour *v, size_t n, struct fm_error *err)
{
	char text[INET_ADDRSTRLEN];

	if (n > FM_MAX_NEIGHBOURS)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "%zu neighbours, at most %d are taken", n, FM_MAX_NEIGHBOURS);
	for (size_t i = 0; i < n; i++) {
		uint32_t a = ntohl(v[i].address.s_addr);

		if (a == 0 || a >> 28 >= 14 || a >> 24 == 127 || (v[i].mac[0] & 1))
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "neighbour %s is not a single machine",
			                    inet_ntop(AF_INET, &v[i].address, text, sizeof(text)));
	}
	return 0;
}

int fm_endpoint_set_neighbours(struct fm_endpoint *e, const struct fm_neighbour *v, size_t n, struct fm_error *err)
{
	int rc = 0;

	if (check_entries(v, n, err) < 0 || fm_endpoint_need_inside(e, err) < 0)
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
