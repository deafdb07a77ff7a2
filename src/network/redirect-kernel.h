/* SPDX-License-Identifier: MIT */
/*
 * redirect-kernel.h - what the redirection drivers for this host's own kernel share (vxlan, route, tunnel): actions read strictly, addresses of both families, questions with an answer over
 * rtnetlink. Private to network/.
 *
 * Errors about an action are INVALID_ARGUMENT and begin with "<driver>: <member> ".
 */
#ifndef FM_NETWORK_REDIRECT_KERNEL_H
#define FM_NETWORK_REDIRECT_KERNEL_H

#include <netinet/in.h>

#include "network/netlink.h"
#include "network/redirect.h"

struct fm_ip {
	int family; /* AF_INET, AF_INET6; AF_UNSPEC = none */
	uint8_t raw[16];
};
#define FM_IP_TEXT INET6_ADDRSTRLEN

static inline size_t fm_ip_len(const struct fm_ip *a)
{
	return a->family == AF_INET6 ? 16 : a->family == AF_INET ? 4 : 0;
}
bool fm_ip_equal(const struct fm_ip *a, const struct fm_ip *b);
bool fm_ip_parse(const char *text, struct fm_ip *ret);
/* "none" for AF_UNSPEC. Returns buf. */
const char *fm_ip_text(const struct fm_ip *a, char buf[FM_IP_TEXT]);
/* By its length: 4 or 16 bytes. */
bool fm_ip_of_attr(const struct nlattr *a, struct fm_ip *ret);
void fm_ip_put(struct nlmsghdr *h, uint16_t type, const struct fm_ip *a);
/* Of one machine: neither zero nor loopback, multicast or broadcast. */
bool fm_ip_is_unicast(const struct fm_ip *a);
bool fm_ip_is_link_local6(const struct fm_ip *a);

/* Errors begin with it: of an action "vxlan", of its undo "vxlan: undo". `code` is INVALID_ARGUMENT, or DATA_LOSS for an undo. */
struct fm_words {
	const json_t *o;
	const char *name;
	enum fm_code code;
};

/* An object with no other members than `known` (NULL at the end). */
int fm_words_check(const struct fm_words *w, const char *const *known, struct fm_error *err);
/* Always -1; the macro lets compilers see it, as error.h does. */
int fm_words_wrong(const struct fm_words *w, const char *key, const char *what, struct fm_error *err);
#define fm_words_wrong(...)                                                                                                                \
	({                                                                                                                                 \
		(void)(fm_words_wrong)(__VA_ARGS__);                                                                                       \
		-1;                                                                                                                        \
	})
/* The member missing: an error when `required`, else *ret stays. */
int fm_words_text(const struct fm_words *w, const char *key, bool required, const char **ret, struct fm_error *err);
int fm_words_number(const struct fm_words *w, const char *key, uint32_t min, uint32_t max, bool required, uint32_t *ret,
                    struct fm_error *err);
int fm_words_bool(const struct fm_words *w, const char *key, bool *ret, struct fm_error *err);
int fm_words_ip(const struct fm_words *w, const char *key, bool required, struct fm_ip *ret, struct fm_error *err);
int fm_words_ifname(const struct fm_words *w, const char *key, bool required, char ret[IFNAMSIZ], struct fm_error *err);
int fm_words_mac(const struct fm_words *w, const char *key, uint8_t ret[6], struct fm_error *err);

/* CANCELLED or DEADLINE_EXCEEDED: before anything is done. The kernel answers at once, so there is nothing to wait for in between. */
int fm_redirect_may_go_on(const struct fm_redirect_call *c, const char *driver, struct fm_error *err);

/* A question with its answer: h was made in a buffer of the caller's by fm_nl_question; cb gets every message of the answer. 0 or a negative errno, as fm_nl_flush. */
struct nlmsghdr *fm_nl_question(struct fm_nl *nl, void *buf, uint16_t type);
int fm_nl_ask(struct fm_nl *nl, struct nlmsghdr *h, mnl_cb_t cb, void *userdata);

#endif
