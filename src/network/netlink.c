/* SPDX-License-Identifier: MIT */
/*
 * netlink.c - rtnetlink sessions.
 *
 * Requests are queued in one buffer and go out with one sendmsg(2): the kernel carries them out one after the other inside that call and
 * has queued every answer when it returns, so reading never waits; the receive timeout is only a belt. Answers are matched by sequence
 * number, so that an answer left over from an earlier failure is never taken for a newer one. A batch is limited to FM_NL_BATCH_BYTES,
 * which also keeps the answers within the default receive buffer.
 */
#include "network/netlink.h"

#include <errno.h>
#include <linux/if.h>
#include <linux/if_link.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "basic/clock.h"
#include "network/endpoint.h"

/* iproute2 uses 32 KiB too: the kernel sizes dump messages up to that */
#define NL_RECV_BYTES     32768
#define NL_RECV_TIMEOUT_S 5
#define NL_DUMP_TRIES     5

struct nl_open_args {
	unsigned groups;
	struct fm_nl **ret;
};

static void nl_seal(struct fm_nl *nl)
{
	/* the last request in the buffer may have grown since it was begun */
	size_t off = 0;

	while (off < nl->out_len) {
		const struct nlmsghdr *h = (const struct nlmsghdr *)(nl->out + off);

		off += MNL_ALIGN(h->nlmsg_len);
	}
	nl->out_len = off;
}

static void nl_drop_queue(struct fm_nl *nl)
{
	nl->out_len = 0;
	nl->queued = 0;
}

static int reason_cb(const struct nlattr *attr, void *userdata)
{
	struct fm_nl *nl = userdata;

	if (mnl_attr_get_type(attr) == NLMSGERR_ATTR_MSG && mnl_attr_validate(attr, MNL_TYPE_NUL_STRING) >= 0)
		(void)snprintf(nl->reason, sizeof(nl->reason), "%s", mnl_attr_get_str(attr));
	return MNL_CB_OK;
}

/* What an NLMSG_ERROR says; keeps the kernel's words of the first failure. */
static int nl_verdict(struct fm_nl *nl, const struct nlmsghdr *h)
{
	const struct nlmsgerr *e = mnl_nlmsg_get_payload(h);
	unsigned skip = sizeof(*e);

	if (h->nlmsg_len < mnl_nlmsg_size(sizeof(*e)))
		return -EBADMSG;
	if (e->error == 0)
		return 0;
	if (!(h->nlmsg_flags & NLM_F_CAPPED) && e->msg.nlmsg_len > sizeof(e->msg))
		skip += MNL_ALIGN(e->msg.nlmsg_len) - sizeof(e->msg);
	if (!nl->reason[0] && (h->nlmsg_flags & NLM_F_ACK_TLVS) && h->nlmsg_len > mnl_nlmsg_size(skip))
		(void)mnl_attr_parse(h, skip, reason_cb, nl);
	return e->error > 0 ? -EBADMSG : e->error;
}

static ssize_t nl_recv(struct fm_nl *nl, char *buf, size_t cap)
{
	ssize_t n;

	do
		n = mnl_socket_recvfrom(nl->sock, buf, cap);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? -ETIMEDOUT : -errno;
	return n;
}

int fm_nl_open_bus(int bus, unsigned groups, struct fm_nl **ret, struct fm_error *err)
{
	_fm_nl_ struct fm_nl *nl = calloc(1, sizeof(*nl));
	struct timeval timeout = { .tv_sec = NL_RECV_TIMEOUT_S };
	int on = 1;

	if (!nl)
		return fm_error_errno(err, ENOMEM, "open a netlink session");
	nl->sock = mnl_socket_open2(bus, SOCK_CLOEXEC);
	if (!nl->sock || mnl_socket_bind(nl->sock, groups, MNL_SOCKET_AUTOPID) < 0)
		return fm_error_errno(err, errno, "open a netlink session");
	if (setsockopt(mnl_socket_get_fd(nl->sock), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) < 0)
		return fm_error_errno(err, errno, "set the timeout of a netlink session");
	/* only better messages: a kernel without them is as good */
	(void)mnl_socket_setsockopt(nl->sock, NETLINK_EXT_ACK, &on, sizeof(on));
	(void)mnl_socket_setsockopt(nl->sock, NETLINK_CAP_ACK, &on, sizeof(on));
	*ret = FM_TAKE_PTR(nl);
	return 0;
}

int fm_nl_open(unsigned groups, struct fm_nl **ret, struct fm_error *err)
{
	return fm_nl_open_bus(NETLINK_ROUTE, groups, ret, err);
}

static int open_inside(void *userdata, struct fm_error *err)
{
	const struct nl_open_args *a = userdata;

	return fm_nl_open(a->groups, a->ret, err);
}

int fm_nl_open_in(int netns_fd, unsigned groups, struct fm_nl **ret, struct fm_error *err)
{
	struct nl_open_args a = { .groups = groups, .ret = ret };

	return fm_netns_call(netns_fd, open_inside, &a, err);
}

void fm_nl_close(struct fm_nl *nl)
{
	int saved = errno;

	if (!nl)
		return;
	if (nl->sock)
		(void)mnl_socket_close(nl->sock);
	free(nl);
	errno = saved;
}

struct nlmsghdr *fm_nl_begin(struct fm_nl *nl, uint16_t type, uint16_t flags, size_t need)
{
	struct nlmsghdr *h;

	nl_seal(nl);
	if (nl->out_len + MNL_ALIGN(mnl_nlmsg_size(need)) > sizeof(nl->out))
		return NULL;
	h = mnl_nlmsg_put_header(nl->out + nl->out_len);
	h->nlmsg_type = type;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
	h->nlmsg_seq = ++nl->seq;
	nl->out_len += h->nlmsg_len;
	nl->queued++;
	return h;
}

int fm_nl_flush(struct fm_nl *nl)
{
	return fm_nl_flush_each(nl, NULL);
}

int fm_nl_flush_each(struct fm_nl *nl, int *verdicts)
{
	char buf[NL_RECV_BYTES] __attribute__((aligned(8)));
	unsigned open = nl->queued;
	uint32_t first = nl->seq - nl->queued + 1;
	int result = 0;

	nl->reason[0] = '\0';
	nl_seal(nl);
	if (!open)
		return 0;
	if (mnl_socket_sendto(nl->sock, nl->out, nl->out_len) < 0) {
		nl_drop_queue(nl);
		return -errno;
	}
	nl_drop_queue(nl);
	while (open > 0) {
		ssize_t n = nl_recv(nl, buf, sizeof(buf));
		int left = (int)n;

		if (n < 0)
			return (int)n;
		for (const struct nlmsghdr *h = (const void *)buf; mnl_nlmsg_ok(h, left); h = mnl_nlmsg_next(h, &left)) {
			int rc;

			if (h->nlmsg_type != NLMSG_ERROR || h->nlmsg_seq - first >= nl->seq - first + 1)
				continue;
			rc = nl_verdict(nl, h);
			if (verdicts)
				verdicts[h->nlmsg_seq - first] = rc;
			if (rc < 0 && result == 0)
				result = rc;
			open--;
		}
	}
	return result;
}

/* One datagram of a dump: 1 = go on, 0 = complete, negative errno. */
static int dump_step(struct fm_nl *nl, char *buf, size_t cap, mnl_cb_t cb, void *userdata, bool *changed)
{
	ssize_t n = nl_recv(nl, buf, cap);
	int left = (int)n;

	if (n < 0)
		return (int)n;
	for (const struct nlmsghdr *h = (const void *)buf; mnl_nlmsg_ok(h, left); h = mnl_nlmsg_next(h, &left)) {
		if (h->nlmsg_seq != nl->seq)
			continue;
		if (h->nlmsg_flags & NLM_F_DUMP_INTR)
			*changed = true;
		if (h->nlmsg_type == NLMSG_DONE)
			return 0;
		if (h->nlmsg_type == NLMSG_ERROR)
			return nl_verdict(nl, h);
		if (h->nlmsg_type >= NLMSG_MIN_TYPE && cb(h, userdata) < 0)
			return -ENOMEM;
	}
	return 1;
}

int fm_nl_dump(struct fm_nl *nl, uint16_t type, const void *header, size_t header_len, mnl_cb_t cb, void *userdata,
               void (*reset)(void *userdata))
{
	char buf[NL_RECV_BYTES] __attribute__((aligned(8)));

	nl->reason[0] = '\0';
	nl_drop_queue(nl);
	for (int attempt = 0; attempt < NL_DUMP_TRIES; attempt++) {
		struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
		bool changed = false;
		int rc;

		h->nlmsg_type = type;
		h->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
		h->nlmsg_seq = ++nl->seq;
		memcpy(mnl_nlmsg_put_extra_header(h, header_len), header, header_len);
		if (mnl_socket_sendto(nl->sock, h, h->nlmsg_len) < 0)
			return -errno;
		do
			rc = dump_step(nl, buf, sizeof(buf), cb, userdata, &changed);
		while (rc > 0);
		if (rc < 0 || !changed)
			return rc;
		if (reset)
			reset(userdata);
	}
	return -EAGAIN;
}

int fm_nl_get(struct fm_nl *nl, uint16_t type, const void *header, size_t header_len, mnl_cb_t cb, void *userdata)
{
	char buf[NL_RECV_BYTES] __attribute__((aligned(8)));
	struct nlmsghdr *h = mnl_nlmsg_put_header(buf);

	nl->reason[0] = '\0';
	nl_drop_queue(nl);
	h->nlmsg_type = type;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	h->nlmsg_seq = ++nl->seq;
	memcpy(mnl_nlmsg_put_extra_header(h, header_len), header, header_len);
	if (mnl_socket_sendto(nl->sock, h, h->nlmsg_len) < 0)
		return -errno;
	for (;;) {
		ssize_t n = nl_recv(nl, buf, sizeof(buf));
		int left = (int)n;

		if (n < 0)
			return (int)n;
		for (const struct nlmsghdr *m = (const void *)buf; mnl_nlmsg_ok(m, left); m = mnl_nlmsg_next(m, &left)) {
			if (m->nlmsg_seq != nl->seq)
				continue;
			if (m->nlmsg_type == NLMSG_ERROR)
				return nl_verdict(nl, m);
			if (m->nlmsg_type >= NLMSG_MIN_TYPE && cb(m, userdata) < 0)
				return -ENOMEM;
		}
	}
}

int fm_nl_fail(const struct fm_nl *nl, int rc, struct fm_error *err, const char *fmt, ...)
{
	char what[384];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	if (nl->reason[0])
		return fm_error_errno(err, -rc, "%s (kernel: %s)", what, nl->reason);
	return fm_error_errno(err, -rc, "%s", what);
}

static void link_parse_bridge(const struct nlattr *data, struct fm_link *l)
{
	const struct nlattr *a;

	mnl_attr_for_each_nested (a, data) {
		if (mnl_attr_get_type(a) == IFLA_BR_STP_STATE && mnl_attr_validate(a, MNL_TYPE_U32) >= 0)
			l->stp = mnl_attr_get_u32(a) != 0;
		else if (mnl_attr_get_type(a) == IFLA_BR_FORWARD_DELAY && mnl_attr_validate(a, MNL_TYPE_U32) >= 0)
			l->forward_delay_cs = mnl_attr_get_u32(a);
	}
}

static void link_parse_info(const struct nlattr *info, struct fm_link *l)
{
	const struct nlattr *a, *data = NULL;

	mnl_attr_for_each_nested (a, info) {
		if (mnl_attr_get_type(a) == IFLA_INFO_KIND && mnl_attr_validate(a, MNL_TYPE_NUL_STRING) >= 0)
			(void)snprintf(l->kind, sizeof(l->kind), "%s", mnl_attr_get_str(a));
		else if (mnl_attr_get_type(a) == IFLA_INFO_DATA)
			data = a;
	}
	if (data && strcmp(l->kind, "bridge") == 0)
		link_parse_bridge(data, l);
}

static void link_parse(const struct nlmsghdr *h, struct fm_link *l)
{
	const struct ifinfomsg *ifi = mnl_nlmsg_get_payload(h);
	const struct nlattr *a;

	*l = (struct fm_link){ .index = ifi->ifi_index, .flags = ifi->ifi_flags };
	mnl_attr_for_each (a, h, sizeof(*ifi)) {
		switch (mnl_attr_get_type(a)) {
		case IFLA_IFNAME:
			if (mnl_attr_validate(a, MNL_TYPE_NUL_STRING) >= 0)
				(void)snprintf(l->name, sizeof(l->name), "%s", mnl_attr_get_str(a));
			break;
		case IFLA_ADDRESS:
			if (mnl_attr_get_payload_len(a) == sizeof(l->mac))
				memcpy(l->mac, mnl_attr_get_payload(a), sizeof(l->mac));
			break;
		case IFLA_MTU:
			l->mtu = mnl_attr_get_u32(a);
			break;
		case IFLA_MASTER:
			l->master = (int)mnl_attr_get_u32(a);
			break;
		case IFLA_LINK:
			l->peer = (int)mnl_attr_get_u32(a);
			break;
		case IFLA_OPERSTATE:
			l->operstate = mnl_attr_get_u8(a);
			break;
		case IFLA_LINKINFO:
			link_parse_info(a, l);
			break;
		default:
			break;
		}
	}
}

int fm_nl_link(struct fm_nl *nl, const char *name, struct fm_link *ret)
{
	char buf[NL_RECV_BYTES] __attribute__((aligned(8)));
	struct nlmsghdr *h;
	struct fm_link link;
	bool found = false;

	nl->reason[0] = '\0';
	nl_drop_queue(nl);
	h = fm_nl_begin(nl, RTM_GETLINK, 0, 256);
	mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(h, IFLA_IFNAME, name);
	mnl_attr_put_u32(h, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
	nl_seal(nl);
	if (mnl_socket_sendto(nl->sock, nl->out, nl->out_len) < 0) {
		nl_drop_queue(nl);
		return -errno;
	}
	nl_drop_queue(nl);
	/* the link and then the acknowledgement, or an error alone */
	for (;;) {
		ssize_t n = nl_recv(nl, buf, sizeof(buf));
		int left = (int)n;

		if (n < 0)
			return (int)n;
		for (const struct nlmsghdr *m = (const void *)buf; mnl_nlmsg_ok(m, left); m = mnl_nlmsg_next(m, &left)) {
			if (m->nlmsg_seq != nl->seq)
				continue;
			if (m->nlmsg_type == NLMSG_ERROR) {
				int rc = nl_verdict(nl, m);

				if (rc < 0)
					return rc;
				if (found)
					*ret = link;
				return found ? 0 : -ENODEV;
			}
			if (m->nlmsg_type == RTM_NEWLINK) {
				link_parse(m, &link);
				found = true;
			}
		}
	}
}

struct links_args {
	void (*cb)(const struct fm_link *link, void *userdata);
	void *userdata;
	void (*reset)(void *userdata);
};

static int links_cb(const struct nlmsghdr *h, void *userdata)
{
	const struct links_args *a = userdata;
	struct fm_link link;

	if (h->nlmsg_type != RTM_NEWLINK || h->nlmsg_len < mnl_nlmsg_size(sizeof(struct ifinfomsg)))
		return MNL_CB_OK;
	link_parse(h, &link);
	a->cb(&link, a->userdata);
	return MNL_CB_OK;
}

static void links_reset(void *userdata)
{
	const struct links_args *a = userdata;

	if (a->reset)
		a->reset(a->userdata);
}

int fm_nl_links(struct fm_nl *nl, void (*cb)(const struct fm_link *link, void *userdata), void *userdata, void (*reset)(void *userdata))
{
	struct links_args a = { .cb = cb, .userdata = userdata, .reset = reset };
	struct ifinfomsg all = { .ifi_family = AF_UNSPEC };

	return fm_nl_dump(nl, RTM_GETLINK, &all, sizeof(all), links_cb, &a, links_reset);
}

int fm_nl_link_delete(struct fm_nl *nl, const char *name)
{
	struct nlmsghdr *h;

	nl_drop_queue(nl);
	h = fm_nl_begin(nl, RTM_DELLINK, 0, 256);
	mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(h, IFLA_IFNAME, name);
	return fm_nl_flush(nl);
}

int fm_nl_link_up(struct fm_nl *nl, int index)
{
	struct nlmsghdr *h;
	struct ifinfomsg *ifi;

	nl_drop_queue(nl);
	h = fm_nl_begin(nl, RTM_NEWLINK, 0, 256);
	ifi = mnl_nlmsg_put_extra_header(h, sizeof(*ifi));
	ifi->ifi_index = index;
	ifi->ifi_flags = IFF_UP;
	ifi->ifi_change = IFF_UP;
	return fm_nl_flush(nl);
}

int fm_nl_wait_up(struct fm_nl *nl, struct fm_nl *watch, const char *name, int timeout_ms, struct fm_error *err)
{
	char buf[NL_RECV_BYTES] __attribute__((aligned(8)));
	uint64_t deadline = fm_now_ms() + (uint64_t)timeout_ms;

	for (;;) {
		struct fm_link link = { 0 };
		struct pollfd p = { .fd = mnl_socket_get_fd(watch->sock), .events = POLLIN };
		int left, rc = fm_nl_link(nl, name, &link);

		if (rc < 0)
			return fm_nl_fail(nl, rc, err, "wait for the carrier of %s", name);
		if (link.operstate == IF_OPER_UP)
			return 0;
		left = fm_deadline_left_ms(deadline);
		if (left == 0)
			return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "interface %s got no carrier within %d ms", name, timeout_ms);
		/* any notification is a reason to look again; a lost one (ENOBUFS) too */
		if (poll(&p, 1, left) < 0 && errno != EINTR)
			return fm_error_errno(err, errno, "wait for the carrier of %s", name);
		if (p.revents)
			(void)recv(p.fd, buf, sizeof(buf), MSG_DONTWAIT);
	}
}
