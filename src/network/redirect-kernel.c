/* SPDX-License-Identifier: MIT */
/* redirect-kernel.c - see redirect-kernel.h. */
#include "network/redirect-kernel.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "basic/clock.h"
#include "basic/str.h"

#define ANSWER_BYTES 32768

bool fm_ip_equal(const struct fm_ip *a, const struct fm_ip *b)
{
	return a->family == b->family && memcmp(a->raw, b->raw, fm_ip_len(a)) == 0;
}

bool fm_ip_parse(const char *text, struct fm_ip *ret)
{
	struct fm_ip a = { .family = strchr(text, ':') ? AF_INET6 : AF_INET };

	if (inet_pton(a.family, text, a.raw) != 1)
		return false;
	*ret = a;
	return true;
}

const char *fm_ip_text(const struct fm_ip *a, char buf[FM_IP_TEXT])
{
	if (a->family == AF_UNSPEC || !inet_ntop(a->family, a->raw, buf, FM_IP_TEXT))
		(void)snprintf(buf, FM_IP_TEXT, "none");
	return buf;
}

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

bool fm_ip_is_unicast(const struct fm_ip *a)
{
	struct in6_addr v6;

	if (a->family == AF_INET)
		return a->raw[0] != 0 && a->raw[0] != 127 && a->raw[0] < 224;
	memcpy(&v6, a->raw, sizeof(v6));
	return a->family == AF_INET6 && !IN6_IS_ADDR_UNSPECIFIED(&v6) && !IN6_IS_ADDR_LOOPBACK(&v6) && !IN6_IS_ADDR_MULTICAST(&v6) &&
	       !IN6_IS_ADDR_V4MAPPED(&v6);
}

bool fm_ip_is_link_local6(const struct fm_ip *a)
{
	return a->family == AF_INET6 && a->raw[0] == 0xfe && (a->raw[1] & 0xc0) == 0x80;
}

/* ---- words ---- */

int(fm_words_wrong)(const struct fm_words *w, const char *key, const char *what, struct fm_error *err)
{
	return fm_error_set(err, w->code, "%s: %.64s %s", w->name, key, what);
}

int fm_words_check(const struct fm_words *w, const char *const *known, struct fm_error *err)
{
	const char *key;
	json_t *value;

	if (!json_is_object(w->o))
		return fm_error_set(err, w->code, "%s: not an object", w->name);
	json_object_foreach((json_t *)w->o, key, value)
	{
		size_t i = 0;

		while (known[i] && !fm_streq(known[i], key))
			i++;
		if (!known[i])
			return fm_words_wrong(w, key, "is not a member that is known here", err);
	}
	return 0;
}

int fm_words_text(const struct fm_words *w, const char *key, bool required, const char **ret, struct fm_error *err)
{
	const json_t *m = json_object_get(w->o, key);

	if (!m)
		return required ? fm_words_wrong(w, key, "is missing", err) : 0;
	if (!json_is_string(m) || strlen(json_string_value(m)) != json_string_length(m) || json_string_length(m) == 0)
		return fm_words_wrong(w, key, "is not a text", err);
	*ret = json_string_value(m);
	return 0;
}

int fm_words_number(const struct fm_words *w, const char *key, uint32_t min, uint32_t max, bool required, uint32_t *ret,
                    struct fm_error *err)
{
	const json_t *m = json_object_get(w->o, key);
	char what[64];

	if (!m)
		return required ? fm_words_wrong(w, key, "is missing", err) : 0;
	if (!json_is_integer(m) || json_integer_value(m) < min || json_integer_value(m) > max) {
		(void)snprintf(what, sizeof(what), "is not a whole number from %u to %u", min, max);
		return fm_words_wrong(w, key, what, err);
	}
	*ret = (uint32_t)json_integer_value(m);
	return 0;
}

int fm_words_bool(const struct fm_words *w, const char *key, bool *ret, struct fm_error *err)
{
	const json_t *m = json_object_get(w->o, key);

	if (m && !json_is_boolean(m))
		return fm_words_wrong(w, key, "is neither true nor false", err);
	if (m)
		*ret = json_is_true(m);
	return 0;
}

int fm_words_ip(const struct fm_words *w, const char *key, bool required, struct fm_ip *ret, struct fm_error *err)
{
	const char *text = NULL;
	struct fm_ip a;

	if (fm_words_text(w, key, required, &text, err) < 0)
		return -1;
	if (!text)
		return 0;
	if (!fm_ip_parse(text, &a) || !fm_ip_is_unicast(&a))
		return fm_words_wrong(w, key, "is not the address of one machine (without a prefix length)", err);
	*ret = a;
	return 0;
}

int fm_words_ifname(const struct fm_words *w, const char *key, bool required, char ret[IFNAMSIZ], struct fm_error *err)
{
	const char *text = NULL;
	bool ok;

	if (fm_words_text(w, key, required, &text, err) < 0)
		return -1;
	if (!text)
		return 0;
	ok = strlen(text) < IFNAMSIZ && !fm_streq(text, ".") && !fm_streq(text, "..");
	for (const char *p = text; *p && ok; p++)
		ok = isgraph((unsigned char)*p) && *p != '/' && *p != ':' && *p != '%';
	if (!ok)
		return fm_words_wrong(w, key, "is not the name of an interface", err);
	(void)snprintf(ret, IFNAMSIZ, "%s", text);
	return 0;
}

int fm_words_mac(const struct fm_words *w, const char *key, uint8_t ret[6], struct fm_error *err)
{
	static const uint8_t zero[6];
	const char *text = "";
	uint8_t mac[6] = { 0 };
	bool ok;

	if (fm_words_text(w, key, true, &text, err) < 0)
		return -1;
	ok = strlen(text) == 17;
	for (size_t i = 0; i < 6 && ok; i++) {
		const char *p = text + 3 * i;
		char hex[3] = { p[0], p[1], '\0' };

		ok = isxdigit((unsigned char)p[0]) && isxdigit((unsigned char)p[1]) && p[2] == (i < 5 ? ':' : '\0');
		mac[i] = (uint8_t)strtoul(hex, NULL, 16);
	}
	if (!ok || (mac[0] & 1) || memcmp(mac, zero, sizeof(mac)) == 0)
		return fm_words_wrong(w, key, "is not the MAC address of one machine, like 02:77:00:00:01:00", err);
	memcpy(ret, mac, sizeof(mac));
	return 0;
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
