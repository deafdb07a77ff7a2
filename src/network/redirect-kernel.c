/* SPDX-License-Identifier: MIT */
/* redirect-kernel.c - see redirect-kernel.h. */
#include "network/redirect-kernel.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "basic/clock.h"

#define ANSWER_BYTES 32768

bool fm_ip_of_attr(const struct nlattr *a, struct fm_ip *ret)
{
	size_t n = mnl_attr_get_payload_len(a);

	if (n != 4 && n != 16)
		return false;
	*ret = (struct fm_ip){ .family = n == 4 ? AF_INET : AF_INET6 };
	memcpy(ret->raw, mnl_attr_get_payload(a), n);
	return true;
}

void fm_ip_put(struct nlmsghdr *h, uint16_t type, const struct fm_ip *a)
{
	mnl_attr_put(h, type, fm_ip_len(a), a->raw);
}

/* ---- the call and the kernel ---- */

int fm_redirect_may_go_on(const struct fm_redirect_call *c, const char *driver, struct fm_error *err)
{
	struct pollfd p = { .fd = c->cancel_fd, .events = POLLIN };

	if (c->cancel_fd >= 0 && poll(&p, 1, 0) > 0)
		return fm_error_set(err, FM_E_CANCELLED, "%s: cancelled", driver);
	if (fm_now_ms() >= c->deadline_ms)
		return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "%s: no time left", driver);
	return 0;
}

struct nlmsghdr *fm_nl_question(struct fm_nl *nl, void *buf, uint16_t type)
{
	struct nlmsghdr *h = mnl_nlmsg_put_header(buf);

	h->nlmsg_type = type;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	h->nlmsg_seq = ++nl->seq;
	return h;
}

/* The kernel's words are kept, as fm_nl_flush does. */
static int verdict(struct fm_nl *nl, const struct nlmsghdr *h)
{
	const struct nlmsgerr *e = mnl_nlmsg_get_payload(h);
	unsigned skip = sizeof(*e);
	const struct nlattr *a;

	if (h->nlmsg_len < mnl_nlmsg_size(sizeof(*e)))
		return -EBADMSG;
	if (e->error == 0)
		return 0;
	if (!(h->nlmsg_flags & NLM_F_CAPPED) && e->msg.nlmsg_len > sizeof(e->msg))
		skip += MNL_ALIGN(e->msg.nlmsg_len) - sizeof(e->msg);
	if ((h->nlmsg_flags & NLM_F_ACK_TLVS) && h->nlmsg_len > mnl_nlmsg_size(skip))
		mnl_attr_for_each (a, h, skip)
			if (mnl_attr_get_type(a) == NLMSGERR_ATTR_MSG && mnl_attr_validate(a, MNL_TYPE_NUL_STRING) >= 0)
				(void)snprintf(nl->reason, sizeof(nl->reason), "%s", mnl_attr_get_str(a));
	return e->error > 0 ? -EBADMSG : e->error;
}

int fm_nl_ask(struct fm_nl *nl, struct nlmsghdr *h, mnl_cb_t cb, void *userdata)
{
	char buf[ANSWER_BYTES] __attribute__((aligned(8)));
	uint32_t seq = h->nlmsg_seq;

	nl->reason[0] = '\0';
	if (mnl_socket_sendto(nl->sock, h, h->nlmsg_len) < 0)
		return -errno;
	/* the answer and then the acknowledgement, or an error alone */
	for (;;) {
		ssize_t n = mnl_socket_recvfrom(nl->sock, buf, sizeof(buf));
		int left = (int)n;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		for (const struct nlmsghdr *m = (const void *)buf; mnl_nlmsg_ok(m, left); m = mnl_nlmsg_next(m, &left)) {
			if (m->nlmsg_seq != seq)
				continue;
			if (m->nlmsg_type == NLMSG_ERROR)
				return verdict(nl, m);
			if (m->nlmsg_type >= NLMSG_MIN_TYPE && cb(m, userdata) < 0)
				return -ENOMEM;
		}
	}
}
