/* SPDX-License-Identifier: MIT */
/* address.c - see address.h. */
#include "network/address.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/str.h"

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

int fm_ip_family(const char *text)
{
	struct fm_ip a;

	return fm_ip_parse(text, &a) ? a.family : 0;
}

bool fm_is_ip_address(const char *text)
{
	return fm_ip_family(text) != 0;
}

bool fm_mac_parse(const char *text, uint8_t ret[6])
{
	uint8_t mac[6];

	for (size_t i = 0; i < sizeof(mac); i++) {
		const char *p = text + 3 * i;

		/* checked left to right, so never beyond the end */
		if (!isxdigit((unsigned char)p[0]) || !isxdigit((unsigned char)p[1]) || p[2] != (i < 5 ? ':' : '\0'))
			return false;
		char hex[3] = { p[0], p[1], '\0' };
		mac[i] = (uint8_t)strtoul(hex, NULL, 16);
	}
	memcpy(ret, mac, sizeof(mac));
	return true;
}

bool fm_mac_is_unicast(const uint8_t mac[6])
{
	static const uint8_t zero[6];

	return !(mac[0] & 1) && memcmp(mac, zero, sizeof(zero)) != 0;
}

static bool is_port(const char *text)
{
	int port = 0;

	return fm_parse_int(text, 1, 65535, &port, NULL) == 0;
}

bool fm_is_host_port(const char *text)
{
	char address[64];
	const char *end = *text == '[' ? strchr(text, ']') : strrchr(text, ':');
	size_t skip = *text == '[';

	if (fm_is_ip_address(text))
		return true;
	if (!end || (size_t)(end - text) - skip >= sizeof(address) || (skip && end[1] != ':'))
		return false;
	(void)snprintf(address, sizeof(address), "%.*s", (int)((size_t)(end - text) - skip), text + skip);
	return fm_ip_family(address) == (skip ? AF_INET6 : AF_INET) && is_port(end + 1 + skip);
}

bool fm_is_switch_address(const char *text)
{
	const char *colon = strrchr(text, ':');

	if (fm_str_startswith(text, "unix:"))
		return text[strlen("unix:")] == '/';
	return fm_str_startswith(text, "tcp:") && colon > text + strlen("tcp:") && is_port(colon + 1);
}

bool fm_is_url(const char *text)
{
	const char *host = fm_str_startswith(text, "http://")    ? text + strlen("http://")
	                   : fm_str_startswith(text, "https://") ? text + strlen("https://")
	                                                         : NULL;

	if (!host || !*host || strchr("/:?#@", *host))
		return false;
	for (const char *p = text; *p; p++)
		if (*p <= ' ' || *p > '~' || strchr("\"<>\\^`{|}", *p))
			return false;
	return true;
}

/* '%' is the kernel's, in patterns of names. */
bool fm_is_interface(const char *text)
{
	if (!*text || strlen(text) >= IFNAMSIZ || fm_streq(text, ".") || fm_streq(text, ".."))
		return false;
	for (const char *p = text; *p; p++)
		if (!isgraph((unsigned char)*p) || strchr("/:%", *p))
			return false;
	return true;
}
