/* SPDX-License-Identifier: MIT */
/*
 * bridge.c - attachment to a Linux bridge: the port's master, and one forwarding entry.
 *
 * Open = master set, and a `static sticky` forwarding entry for the container's MAC on its own port: a late packet of the source's copy
 * that comes in through the uplink cannot pull the address away (plain `static` entries still roam). Close = no master. The kernel drops a
 * port's forwarding entries with the port, static ones too, so nothing on the closed host points to a dead port, and the new host's
 * announcement makes the uplink be learned. Detaching a port waits for the packets in flight (synchronize_net), so nothing passes any more
 * when close returns.
 *
 * Closed inbound = still a port, but without the entry, and neither learned nor flooded to: the bridge has no reason to deliver anything there.
 *
 * Names, not indices, are looked up on every call: a recreated bridge or pair is found, and a stale index can never fence the wrong one.
 */
#include <errno.h>
#include <linux/neighbour.h>
#include <string.h>

#include "network/internal.h"

static int set_master(struct fm_endpoint *e, int master)
{
	struct nlmsghdr *h = fm_nl_begin(e->host, RTM_SETLINK, 0, 64);

	if (!h)
		return -ENOBUFS;
	mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(h, IFLA_IFNAME, e->cfg.host_ifname);
	mnl_attr_put_u32(h, IFLA_MASTER, (uint32_t)master);
	return 0;
}

static int put_fdb_entry(struct fm_endpoint *e, int port, bool add)
{
	struct nlmsghdr *h = fm_nl_begin(e->host, add ? RTM_NEWNEIGH : RTM_DELNEIGH, add ? NLM_F_CREATE | NLM_F_REPLACE : 0, 64);
	struct ndmsg *nd;

	if (!h)
		return -ENOBUFS;
	nd = mnl_nlmsg_put_extra_header(h, sizeof(*nd));
	nd->ndm_family = PF_BRIDGE;
	nd->ndm_ifindex = port;
	nd->ndm_state = NUD_NOARP | NUD_REACHABLE; /* what `bridge fdb … static` sends */
	nd->ndm_flags = NTF_MASTER | NTF_STICKY;
	mnl_attr_put(h, NDA_LLADDR, sizeof(e->cfg.mac), e->cfg.mac);
	return 0;
}

/* Neither learned nor flooded to: without a forwarding entry no frame goes out by this port. */
static int hide_port(struct fm_endpoint *e, int port)
{
	static const uint16_t off[] = { IFLA_BRPORT_LEARNING, IFLA_BRPORT_UNICAST_FLOOD, IFLA_BRPORT_MCAST_FLOOD, IFLA_BRPORT_BCAST_FLOOD };
	struct nlmsghdr *h = fm_nl_begin(e->host, RTM_SETLINK, 0, 128);
	struct ifinfomsg *ifi;
	struct nlattr *info;

	if (!h)
		return -ENOBUFS;
	ifi = mnl_nlmsg_put_extra_header(h, sizeof(*ifi));
	ifi->ifi_family = PF_BRIDGE;
	ifi->ifi_index = port;
	info = mnl_attr_nest_start(h, IFLA_PROTINFO);
	for (size_t i = 0; i < sizeof(off) / sizeof(off[0]); i++)
		mnl_attr_put_u8(h, off[i], 0);
	mnl_attr_nest_end(h, info);
	return 0;
}

static int bridge_close_inbound(struct fm_endpoint *e, struct fm_error *err)
{
	struct fm_link port;
	int rc;

	if (fm_endpoint_need_host(e, err) < 0)
		return -1;
	rc = fm_nl_link(e->host, e->cfg.host_ifname, &port);
	if (rc == -ENODEV || (rc == 0 && port.master == 0))
		return 0; /* closed altogether */
	if (rc == 0)
		rc = hide_port(e, port.index);
	if (rc == 0)
		rc = put_fdb_entry(e, port.index, false);
	if (rc == 0)
		rc = fm_nl_flush(e->host);
	if (rc < 0 && rc != -ENOENT) /* the entry had gone before: somebody's `bridge fdb del` */
		return fm_nl_fail(e->host, rc, err, "take %s out of what its bridge delivers to", e->cfg.host_ifname);
	return 0;
}

static int bridge_close(struct fm_endpoint *e, struct fm_error *err)
{
	int rc;

	if (fm_endpoint_need_host(e, err) < 0)
		return -1;
	rc = set_master(e, 0);
	if (rc == 0)
		rc = fm_nl_flush(e->host);
	if (rc < 0 && rc != -ENODEV)
		return fm_nl_fail(e->host, rc, err, "detach %s from its bridge", e->cfg.host_ifname);
	return 0;
}

static int bridge_open(struct fm_endpoint *e, struct fm_error *err)
{
	struct fm_link port, bridge;
	int rc;

	if (fm_endpoint_need_host(e, err) < 0)
		return -1;
	rc = fm_nl_link(e->host, e->cfg.host_ifname, &port);
	if (rc < 0)
		return fm_nl_fail(e->host, rc, err, "open endpoint %s", e->cfg.host_ifname);
	rc = fm_nl_link(e->host, e->cfg.bridge, &bridge);
	if (rc == -ENODEV)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "open endpoint %s: bridge %s is gone", e->cfg.host_ifname,
		                    e->cfg.bridge);
	if (rc < 0)
		return fm_nl_fail(e->host, rc, err, "open endpoint %s: find bridge %s", e->cfg.host_ifname, e->cfg.bridge);
	/* A port that was closed inbound gets its settings back with a new membership. */
	if (port.master && bridge_close(e, err) < 0)
		return -1;
	/* one system call for both, so that the port is never without its entry for longer than the kernel needs */
	rc = set_master(e, bridge.index);
	if (rc == 0)
		rc = put_fdb_entry(e, port.index, true);
	if (rc == 0)
		rc = fm_nl_flush(e->host);
	if (rc < 0) {
		(void)fm_nl_fail(e->host, rc, err, "plug %s into bridge %s", e->cfg.host_ifname, e->cfg.bridge);
		(void)bridge_close(e, NULL); /* half open is not open */
		return -1;
	}
	return 0;
}

static int bridge_announce(struct fm_endpoint *e, struct fm_error *err)
{
	if (fm_endpoint_need_inside(e, err) < 0)
		return -1;
	return fm_announce(e->raw_fd, e->inside_index, &e->cfg, err);
}

static bool bridge_is_open(struct fm_endpoint *e)
{
	struct fm_link port;
	int rc;

	/* what cannot be shown to be closed counts as open */
	if (fm_endpoint_need_host(e, NULL) < 0)
		return true;
	rc = fm_nl_link(e->host, e->cfg.host_ifname, &port);
	if (rc == -ENODEV)
		return false;
	return rc < 0 || port.master != 0;
}

const struct fm_attach_ops fm_attach_bridge = {
	.name = "bridge",
	.open = bridge_open,
	.close_inbound = bridge_close_inbound,
	.close = bridge_close,
	.announce = bridge_announce,
	.is_open = bridge_is_open,
};
