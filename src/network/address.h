/* SPDX-License-Identifier: MIT */
/*
 * address.h - addresses as people write them: of machines (IPv4, IPv6), of network cards, of servers with a port, names of interfaces. Pure functions, nothing is looked up; private to network/.
 *
 * What is accepted is exact: the whole text, no blanks, no scope, no prefix length, no short forms of IPv4.
 */
#ifndef FM_NETWORK_ADDRESS_H
#define FM_NETWORK_ADDRESS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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
/* Of one machine: neither zero nor loopback, multicast or broadcast. */
bool fm_ip_is_unicast(const struct fm_ip *a);
bool fm_ip_is_link_local6(const struct fm_ip *a);
/* AF_INET or AF_INET6 of what fm_is_ip_address accepts, else 0 */
int fm_ip_family(const char *text);

/* "02:77:00:00:01:00", small or capital letters; whose it is, a group's or nobody's, is not looked at. */
bool fm_mac_parse(const char *text, uint8_t ret[6]);
/* Of one card: neither a group's nor zero */
bool fm_mac_is_unicast(const uint8_t mac[6]);

bool fm_is_ip_address(const char *text);
bool fm_is_host_port(const char *text);      /* 192.0.2.1, 192.0.2.1:53, 2001:db8::1, [2001:db8::1]:53 */
bool fm_is_switch_address(const char *text); /* tcp:HOST:PORT, unix:PATH */
bool fm_is_url(const char *text);            /* http://… or https://…, nothing that would have to be escaped */
bool fm_is_interface(const char *text);

#endif
