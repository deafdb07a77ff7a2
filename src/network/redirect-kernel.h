/* SPDX-License-Identifier: MIT */
/*
 * redirect-kernel.h - what the redirection drivers for this host's own kernel share (vxlan, route, tunnel): addresses in attributes, and questions with an answer over rtnetlink. Private
 * to network/.
 */
#ifndef FM_NETWORK_REDIRECT_KERNEL_H
#define FM_NETWORK_REDIRECT_KERNEL_H

#include "network/address.h"
#include "network/netlink.h"
#include "network/redirect.h"

/* By its length: 4 or 16 bytes. */
bool fm_ip_of_attr(const struct nlattr *a, struct fm_ip *ret);
void fm_ip_put(struct nlmsghdr *h, uint16_t type, const struct fm_ip *a);

/* CANCELLED or DEADLINE_EXCEEDED: before anything is done. The kernel answers at once, so there is nothing to wait for in between. */
int fm_redirect_may_go_on(const struct fm_redirect_call *c, const char *driver, struct fm_error *err);

/* A question with its answer: h was made in a buffer of the caller's by fm_nl_question; cb gets every message of the answer. 0 or a negative errno, as fm_nl_flush. */
struct nlmsghdr *fm_nl_question(struct fm_nl *nl, void *buf, uint16_t type);
int fm_nl_ask(struct fm_nl *nl, struct nlmsghdr *h, mnl_cb_t cb, void *userdata);

#endif
