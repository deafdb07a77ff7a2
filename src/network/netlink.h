/* SPDX-License-Identifier: MIT */
/*
 * netlink.h - a small rtnetlink session, private to network/.
 *
 * A session belongs to the network namespace that its thread was in when it was opened, for ever: a session into a container's
 * namespace works from any thread, without entering the namespace again. That is what keeps the freeze free of setns(2).
 *
 * Calling sequence: fm_nl_open -> {fm_nl_begin, mnl_attr_put…, fm_nl_call}* -> fm_nl_close. Several requests in one system call:
 * fm_nl_begin for each, fm_nl_flush once. Functions named fm_nl_* return 0 or a negative errno where callers branch on it (ENODEV is often
 * fine), and `reason` then holds the kernel's own words; fm_nl_fail() turns both into the house's error.
 */
#ifndef FM_NETWORK_NETLINK_H
#define FM_NETWORK_NETLINK_H

#include <libmnl/libmnl.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>

#include "basic/cleanup.h"
#include "basic/error.h"

#define FM_NL_BATCH_BYTES 8192
#define FM_NL_BATCH_MAX   (FM_NL_BATCH_BYTES / NLMSG_HDRLEN)

struct fm_nl {
	struct mnl_socket *sock;
	uint32_t seq;    /* of the last request */
	unsigned queued; /* requests in `out` not sent yet */
	size_t out_len;
	char reason[128]; /* the kernel's explanation of the last failure, or "" */
	char out[FM_NL_BATCH_BYTES] __attribute__((aligned(4)));
};

/* groups: RTMGRP_LINK and the like for notifications, else 0. */
int fm_nl_open(unsigned groups, struct fm_nl **ret, struct fm_error *err);
/* The same on another bus than NETLINK_ROUTE: NETLINK_NETFILTER. */
int fm_nl_open_bus(int bus, unsigned groups, struct fm_nl **ret, struct fm_error *err);
/* The same inside another namespace. */
int fm_nl_open_in(int netns_fd, unsigned groups, struct fm_nl **ret, struct fm_error *err);
void fm_nl_close(struct fm_nl *nl);
FM_DEFINE_CLEANUP(struct fm_nl *, fm_nl_close);
#define _fm_nl_ _fm_cleanup_(fm_nl_closep)

/* Start a request (type RTM_*, flags NLM_F_CREATE and the like; REQUEST and ACK are added) with room for `need` bytes behind the header.
 * NULL when the batch is full: flush first. The next begin or flush seals it. */
struct nlmsghdr *fm_nl_begin(struct fm_nl *nl, uint16_t type, uint16_t flags, size_t need);
/* Send all queued requests, wait for all answers. The first failure's negative errno; the others were carried out all the same. */
int fm_nl_flush(struct fm_nl *nl);
/* The same, and what became of each, in the order in which they were begun: verdicts has room for all that are queued (at most FM_NL_BATCH_MAX). Valid when the result is 0, or is one of them. */
int fm_nl_flush_each(struct fm_nl *nl, int *verdicts);
/* Dump: cb gets every message of the answer; a table that changed under the dump is asked for again (reset() first). */
int fm_nl_dump(struct fm_nl *nl, uint16_t type, const void *header, size_t header_len, mnl_cb_t cb, void *userdata,
               void (*reset)(void *userdata));
/* One question, its answer (cb, once or not at all) and the verdict. */
int fm_nl_get(struct fm_nl *nl, uint16_t type, const void *header, size_t header_len, mnl_cb_t cb, void *userdata);
/* "<text>: <strerror> (<reason>)" */
int fm_nl_fail(const struct fm_nl *nl, int rc, struct fm_error *err, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

struct fm_link {
	int index;
	char name[IFNAMSIZ];
	char kind[16];     /* "veth", "bridge", "" */
	unsigned flags;    /* IFF_UP … */
	uint8_t operstate; /* IF_OPER_UP … */
	int master;        /* 0 = none */
	int peer;          /* IFLA_LINK: the other end's index in its own namespace */
	uint8_t mac[6];
	uint32_t mtu;
	bool stp;                  /* bridge only */
	uint32_t forward_delay_cs; /* bridge only, 1/100 s */
};

int fm_nl_link(struct fm_nl *nl, const char *name, struct fm_link *ret);
/* All links; cb returns 0 to go on. */
int fm_nl_links(struct fm_nl *nl, void (*cb)(const struct fm_link *link, void *userdata), void *userdata, void (*reset)(void *userdata));
/* Delete by name. -ENODEV when there is none. */
int fm_nl_link_delete(struct fm_nl *nl, const char *name);
/* Bring up by index. */
int fm_nl_link_up(struct fm_nl *nl, int index);
/* Wait until the link's operstate is UP (the carrier comes asynchronously). `watch` is a session opened with RTMGRP_LINK *before* the link
 * went up. */
int fm_nl_wait_up(struct fm_nl *nl, struct fm_nl *watch, const char *name, int timeout_ms, struct fm_error *err);

#endif
