/* SPDX-License-Identifier: MIT */
/*
 * endpoint.c - the endpoint object: the order of the steps and their undoing. What a step does is in veth.c, bridge.c, announce.c,
 * duplicate.c, neighbours.c.
 *
 * Everything slow happens in prepare or attach: sockets, namespaces, and the wait for the carrier, which comes asynchronously and may take
 * a second. After that, open and close are one system call each. A handle that was neither prepared nor attached opens its sockets with the
 * first call that needs them, because a fence must work in recovery too, when only a name is left.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "basic/clock.h"
#include "basic/limits.h"
#include "network/internal.h"

#define IPV6_MIN_MTU       1280
#define CARRIER_TIMEOUT_MS 5000
#define REMOVE_TIMEOUT_MS  2000
#define REMOVE_POLL_MS     5

struct inside_args {
	struct fm_endpoint *e;
	int fd;
};

struct address_search {
	const struct fm_endpoint_config *cfg;
	int found; /* its family, 0 = none */
};

struct name_list {
	char (*v)[IFNAMSIZ];
	size_t n, cap;
	bool failed;
};

int fm_endpoint_need_host(struct fm_endpoint *e, struct fm_error *err)
{
	return e->host ? 0 : fm_nl_open(0, &e->host, err);
}

static int need_inside_session(struct fm_endpoint *e, struct fm_error *err)
{
	return e->inside ? 0 : fm_nl_open_in(e->netns_fd, 0, &e->inside, err);
}

static int open_raw_inside(void *userdata, struct fm_error *err)
{
	struct inside_args *a = userdata;

	return fm_raw_open(a->e->inside_index, &a->fd, err);
}

static void forget_inside_end(struct fm_endpoint *e)
{
	if (e->raw_fd >= 0)
		(void)close(e->raw_fd);
	e->raw_fd = -1;
	e->inside_index = 0;
}

static void forget_watch(struct fm_endpoint *e)
{
	if (e->watch)
		(void)fm_address_watch_end(e->watch, NULL);
	e->watch = NULL;
}

int fm_endpoint_need_inside(struct fm_endpoint *e, struct fm_error *err)
{
	struct inside_args a = { .e = e, .fd = -1 };
	struct fm_link in;
	int rc;

	if (e->raw_fd >= 0)
		return 0;
	if (need_inside_session(e, err) < 0)
		return -1;
	rc = fm_nl_link(e->inside, e->cfg.ifname, &in);
	if (rc == -ENODEV)
		return fm_error_set(err, FM_E_NOT_FOUND, "the container's namespace has no interface %s", e->cfg.ifname);
	if (rc < 0)
		return fm_nl_fail(e->inside, rc, err, "find %s in the container's namespace", e->cfg.ifname);
	e->inside_index = in.index;
	if (fm_netns_call(e->netns_fd, open_raw_inside, &a, err) < 0)
		return -1;
	e->raw_fd = a.fd;
	return 0;
}

/* Configuring the host itself by mistake (a path of its own namespace) would take its network down. */
static int check_not_the_host(struct fm_endpoint *e, struct fm_error *err)
{
	struct stat own, theirs;

	if (stat("/proc/thread-self/ns/net", &own) < 0 || fstat(e->netns_fd, &theirs) < 0)
		return fm_error_errno(err, errno, "compare network namespaces");
	if (own.st_dev == theirs.st_dev && own.st_ino == theirs.st_ino)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "endpoint %s: the container is in the host's own network namespace",
		                    e->cfg.host_ifname);
	return 0;
}

static int find_bridge(struct fm_endpoint *e, struct fm_link *ret, struct fm_error *err)
{
	const char *name = e->cfg.bridge;
	int rc = fm_nl_link(e->host, name, ret);

	if (rc == -ENODEV) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "bridge %s does not exist on this host", name);
		return fm_error_hint(err, "ip link add %s type bridge && ip link set %s up, and plug the uplink into it", name, name);
	}
	if (rc < 0)
		return fm_nl_fail(e->host, rc, err, "find bridge %s", name);
	if (strcmp(ret->kind, "bridge") != 0)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "interface %s is not a Linux bridge", name);
	if (!(ret->flags & IFF_UP)) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "bridge %s is down", name);
		return fm_error_hint(err, "ip link set %s up", name);
	}
	if (e->cfg.prefix6_len && ret->mtu < IPV6_MIN_MTU)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "bridge %s has an MTU of %u, IPv6 needs %d", name, ret->mtu,
		                    IPV6_MIN_MTU);
	/* with spanning tree a new port listens and learns for twice this time before it forwards */
	if (ret->stp && ret->forward_delay_cs > 0) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "bridge %s runs spanning tree: a new port would forward only after %u s",
		                   name, 2 * ret->forward_delay_cs / 100);
		return fm_error_hint(err, "ip link set %s type bridge stp_state 0, or a forward_delay of 0", name);
	}
	return 0;
}

static int address_cb(const struct nlmsghdr *h, void *userdata)
{
	const struct ifaddrmsg *ifa = mnl_nlmsg_get_payload(h);
	struct address_search *s = userdata;
	const struct fm_endpoint_config *c = s->cfg;
	const struct nlattr *a;

	if (h->nlmsg_type != RTM_NEWADDR || h->nlmsg_len < mnl_nlmsg_size(sizeof(*ifa)))
		return MNL_CB_OK;
	mnl_attr_for_each (a, h, sizeof(*ifa)) {
		size_t n = mnl_attr_get_payload_len(a);

		/* IFA_ADDRESS is the other end's where there is IFA_LOCAL, and IPv6 has the second with such an end only */
		if (mnl_attr_get_type(a) != IFA_LOCAL && (mnl_attr_get_type(a) != IFA_ADDRESS || ifa->ifa_family != AF_INET6))
			continue;
		if (ifa->ifa_family == AF_INET && c->prefix_len && n == sizeof(c->address) &&
		    memcmp(mnl_attr_get_payload(a), &c->address, n) == 0)
			s->found = AF_INET;
		if (ifa->ifa_family == AF_INET6 && c->prefix6_len && n == sizeof(c->address6) &&
		    memcmp(mnl_attr_get_payload(a), &c->address6, n) == 0)
			s->found = AF_INET6;
	}
	return MNL_CB_OK;
}

/* What this host knows at once; whether somebody else has them is asked meanwhile. */
static int check_addresses(struct fm_endpoint *e, const struct fm_link *bridge, struct fm_error *err)
{
	struct address_search s = { .cfg = &e->cfg };
	struct ifaddrmsg all = { .ifa_family = AF_UNSPEC };
	char text[INET6_ADDRSTRLEN];
	/* nobody is asked about what is the host's own */
	int rc = fm_nl_dump(e->host, RTM_GETADDR, &all, sizeof(all), address_cb, &s, NULL);

	if (rc < 0)
		return fm_nl_fail(e->host, rc, err, "read this host's addresses");
	if (s.found)
		return fm_error_set(
		        err, FM_E_ALREADY_EXISTS, "address %s is this host's own",
		        inet_ntop(s.found, s.found == AF_INET ? (const void *)&e->cfg.address : &e->cfg.address6, text, sizeof(text)));
	return e->cfg.bridge[0] ? fm_address_watch_begin(bridge, &e->cfg, &e->watch, err) : 0;
}

/* 1 = our pair stands already, 0 = the name is free. */
static int find_existing(struct fm_endpoint *e, struct fm_error *err)
{
	struct fm_link host_end;
	int rc = fm_nl_link(e->host, e->cfg.host_ifname, &host_end);

	if (rc == -ENODEV)
		return 0;
	if (rc < 0)
		return fm_nl_fail(e->host, rc, err, "look for %s", e->cfg.host_ifname);
	if (!fm_veth_is_pair(e, &host_end)) {
		(void)fm_error_set(err, FM_E_ALREADY_EXISTS, "interface %s exists and does not lead into this container",
		                   e->cfg.host_ifname);
		return fm_error_hint(err, "a leftover of an earlier run? ip link delete %s", e->cfg.host_ifname);
	}
	if (e->attach->is_open(e))
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "endpoint %s is open already, it cannot be prepared",
		                    e->cfg.host_ifname);
	return 1;
}

/* Both ends configured and with carrier. Idempotent, so that it also completes what an interrupted prepare left. */
static int bring_up(struct fm_endpoint *e, struct fm_error *err)
{
	_fm_nl_ struct fm_nl *watch_host = NULL, *watch_inside = NULL;
	struct fm_link host_end;
	int rc;

	/* before the links go up, so that the notification cannot be missed */
	if (fm_nl_open(RTMGRP_LINK, &watch_host, err) < 0 || fm_nl_open_in(e->netns_fd, RTMGRP_LINK, &watch_inside, err) < 0)
		return -1;
	if (fm_veth_seal_host_end(e, err) < 0)
		return -1;
	rc = fm_nl_link(e->host, e->cfg.host_ifname, &host_end);
	if (rc == 0)
		rc = fm_nl_link_up(e->host, host_end.index);
	if (rc < 0)
		return fm_nl_fail(e->host, rc, err, "bring up %s", e->cfg.host_ifname);
	if (fm_veth_configure_inside(e, err) < 0)
		return -1;
	if (fm_nl_wait_up(e->host, watch_host, e->cfg.host_ifname, CARRIER_TIMEOUT_MS, err) < 0)
		return -1;
	if (fm_nl_wait_up(e->inside, watch_inside, e->cfg.ifname, CARRIER_TIMEOUT_MS, err) < 0)
		return -1;
	return fm_veth_finish_inside(e, err) < 0 ? -1 : fm_routed_finish(e, err);
}

static int prepare(struct fm_endpoint *e, bool check_duplicate, struct fm_error *err)
{
	struct fm_link bridge;
	int existing;

	if (check_not_the_host(e, err) < 0 || fm_endpoint_need_host(e, err) < 0 || need_inside_session(e, err) < 0)
		return -1;
	forget_inside_end(e);
	forget_watch(e);
	if ((e->cfg.bridge[0] ? find_bridge(e, &bridge, err) : fm_routed_check(e, &bridge, err)) < 0)
		return -1;
	existing = find_existing(e, err);
	if (existing < 0 || (check_duplicate && check_addresses(e, &bridge, err) < 0))
		return -1;
	if (!existing && fm_veth_create(e, &bridge, err) < 0)
		return -1;
	if (bring_up(e, err) < 0 || fm_endpoint_need_inside(e, err) < 0) {
		if (!existing)
			(void)fm_nl_link_delete(e->host, e->cfg.host_ifname);
		forget_inside_end(e);
		return -1;
	}
	e->made = !existing;
	return 0;
}

static void list_reset(void *userdata)
{
	struct name_list *l = userdata;

	l->n = 0;
}

static void list_cb(const struct fm_link *link, void *userdata)
{
	struct name_list *l = userdata;

	if (!fm_endpoint_ifname_is_ours(link->name) || strcmp(link->kind, "veth") != 0 || l->n >= FM_MAX_CONTAINERS_PER_HOST)
		return;
	if (l->n == l->cap) {
		size_t cap = l->cap ? 2 * l->cap : 16;
		void *p = realloc(l->v, cap * sizeof(*l->v));

		if (!p) {
			l->failed = true;
			return;
		}
		l->v = p;
		l->cap = cap;
	}
	memcpy(l->v[l->n++], link->name, IFNAMSIZ);
}

static int open_netns(const char *path, int *ret_fd, struct fm_error *err)
{
	/* O_NONBLOCK: a FIFO by that name must not hang the agent */
	_fm_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return fm_error_errno(err, errno, "open network namespace %s", path);
	if (ioctl(fd, NS_GET_NSTYPE) != CLONE_NEWNET)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s is not a network namespace", path);
	*ret_fd = FM_TAKE_FD(fd);
	return 0;
}

int fm_endpoint_new(const struct fm_endpoint_config *cfg, const char *netns_path, struct fm_endpoint **ret, struct fm_error *err)
{
	_fm_close_ int fd = -1;
	struct fm_endpoint *e;

	if (fm_endpoint_config_check(cfg, err) < 0 || open_netns(netns_path, &fd, err) < 0)
		return -1;
	e = calloc(1, sizeof(*e));
	if (!e)
		return fm_error_errno(err, ENOMEM, "create an endpoint");
	e->cfg = *cfg;
	e->attach = cfg->bridge[0] ? &fm_attach_bridge : &fm_attach_routed;
	e->ipv6_fd = -1;
	e->netns_fd = FM_TAKE_FD(fd);
	e->raw_fd = -1;
	*ret = e;
	return 0;
}

void fm_endpoint_free(struct fm_endpoint *e)
{
	int saved = errno;

	if (!e)
		return;
	forget_watch(e);
	forget_inside_end(e);
	fm_nl_close(e->host);
	fm_nl_close(e->inside);
	(void)close(e->netns_fd);
	fm_closep(&e->ipv6_fd);
	free(e);
	errno = saved;
}

int fm_endpoint_prepare(struct fm_endpoint *e, bool check_duplicate, struct fm_error *err)
{
	if (prepare(e, check_duplicate, err) < 0)
		return fm_error_prefix(err, "prepare endpoint %s", e->cfg.host_ifname);
	return 0;
}

void fm_endpoint_unprepare(struct fm_endpoint *e)
{
	forget_watch(e);
	if (e->made)
		(void)fm_nl_link_delete(e->host, e->cfg.host_ifname);
	e->made = false;
	forget_inside_end(e);
}

int fm_endpoint_rehome(struct fm_endpoint *e, const char *netns_path, struct fm_error *err)
{
	int fd = -1;

	fm_endpoint_unprepare(e);
	if (open_netns(netns_path, &fd, err) < 0)
		return -1;
	fm_nl_close(e->inside); /* it is one into the namespace of before */
	e->inside = NULL;
	fm_closep(&e->ipv6_fd);
	e->ipv6_fd = -1;
	(void)close(e->netns_fd);
	e->netns_fd = fd;
	return 0;
}

int fm_endpoint_await_free(struct fm_endpoint *e, struct fm_error *err)
{
	struct fm_address_watch *w = e->watch;

	e->watch = NULL;
	if (!w || fm_address_watch_end(w, err) == 0)
		return 0;
	fm_endpoint_unprepare(e);
	return fm_error_prefix(err, "prepare endpoint %s", e->cfg.host_ifname);
}

int fm_endpoint_attach(struct fm_endpoint *e, struct fm_error *err)
{
	struct fm_link host_end;
	int rc;

	if (check_not_the_host(e, err) < 0 || fm_endpoint_need_host(e, err) < 0)
		return -1;
	rc = fm_nl_link(e->host, e->cfg.host_ifname, &host_end);
	if (rc == -ENODEV)
		return fm_error_set(err, FM_E_NOT_FOUND, "endpoint %s does not exist on this host", e->cfg.host_ifname);
	if (rc < 0)
		return fm_nl_fail(e->host, rc, err, "look for endpoint %s", e->cfg.host_ifname);
	forget_inside_end(e);
	if (fm_endpoint_need_inside(e, err) < 0)
		return -1;
	if (!fm_veth_is_pair(e, &host_end))
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "interface %s does not lead to %s of this container", e->cfg.host_ifname,
		                    e->cfg.ifname);
	return fm_routed_keep(e, err);
}

int fm_endpoint_open(struct fm_endpoint *e, struct fm_error *err)
{
	return e->attach->open(e, err);
}

int fm_endpoint_close_inbound(struct fm_endpoint *e, struct fm_error *err)
{
	return e->attach->close_inbound(e, err);
}

int fm_endpoint_close(struct fm_endpoint *e, struct fm_error *err)
{
	return e->attach->close(e, err);
}

int fm_endpoint_announce(struct fm_endpoint *e, struct fm_error *err)
{
	return e->attach->announce(e, err);
}

bool fm_endpoint_is_open(struct fm_endpoint *e)
{
	return e->attach->is_open(e);
}

int fm_endpoint_remove(const char *host_ifname, struct fm_error *err)
{
	_fm_nl_ struct fm_nl *nl = NULL;
	uint64_t deadline = fm_now_ms() + REMOVE_TIMEOUT_MS;
	struct fm_link link;

	if (!fm_endpoint_ifname_is_ours(host_ifname))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "\"%.15s\" is not the name of an endpoint, it is not removed", host_ifname);
	if (fm_nl_open(0, &nl, err) < 0)
		return -1;
	/* when the container's namespace went first, the kernel takes the pair down in the background and the name stays for a while */
	for (;;) {
		int rc = fm_nl_link_delete(nl, host_ifname);

		if (rc < 0 && rc != -ENODEV)
			return fm_nl_fail(nl, rc, err, "remove endpoint %s", host_ifname);
		rc = fm_nl_link(nl, host_ifname, &link);
		if (rc == -ENODEV)
			return 0;
		if (rc < 0)
			return fm_nl_fail(nl, rc, err, "remove endpoint %s", host_ifname);
		if (fm_deadline_left_ms(deadline) == 0)
			return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "endpoint %s is still there %d ms after its removal", host_ifname,
			                    REMOVE_TIMEOUT_MS);
		fm_pause_ms(REMOVE_POLL_MS);
	}
}

int fm_endpoint_list(char (**ret)[IFNAMSIZ], size_t *ret_n, struct fm_error *err)
{
	_fm_nl_ struct fm_nl *nl = NULL;
	struct name_list l = { 0 };
	int rc;

	if (fm_nl_open(0, &nl, err) < 0)
		return -1;
	rc = fm_nl_links(nl, list_cb, &l, list_reset);
	if (rc < 0 || l.failed) {
		free(l.v);
		return fm_nl_fail(nl, rc < 0 ? rc : -ENOMEM, err, "list the endpoints of this host");
	}
	*ret = l.v;
	*ret_n = l.n;
	return 0;
}
