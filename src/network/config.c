/* SPDX-License-Identifier: MIT */
/*
 * config.c - an endpoint's configuration: from the user's words, and checked again wherever it comes from another host.
 *
 * The container's MAC is derived from its *name*, because it must be the same on every host; the host end's name from the *instance*,
 * because two instances of one container can stand on one host during a migration.
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "basic/id.h"
#include "basic/str.h"
#include "network/internal.h"

#define DEFAULT_IFNAME "eth0"
#define MTU_MIN        576
#define MTU_MAX        65535
#define HOST_PREFIX    "fm"
#define HOST_DIGITS    8

/* The kernel's own rule (dev_valid_name), and printable, because it goes into messages and paths. */
static bool ifname_is_valid(const char *s)
{
	size_t n = strnlen(s, IFNAMSIZ);

	if (n == 0 || n >= IFNAMSIZ || strcmp(s, ".") == 0 || strcmp(s, "..") == 0)
		return false;
	for (; *s; s++)
		if (!isgraph((unsigned char)*s) || *s == '/' || *s == ':' || *s == '%')
			return false;
	return true;
}

static uint32_t netmask(unsigned prefix_len)
{
	return prefix_len == 0 ? 0 : 0xffffffffu << (32 - prefix_len);
}

static bool unicast(uint32_t host_order)
{
	return host_order >> 24 != 0 && host_order >> 24 != 127 && host_order >> 28 < 14;
}

/* Neither the subnet itself nor its broadcast address (a /31 has neither). */
static bool is_host_of_subnet(uint32_t address, unsigned prefix_len)
{
	uint32_t host = address & ~netmask(prefix_len);

	return prefix_len >= 31 || (host != 0 && host != ~netmask(prefix_len));
}

bool fm_endpoint_ifname_is_ours(const char *s)
{
	size_t n = strlen(HOST_PREFIX);

	if (strnlen(s, IFNAMSIZ) != n + HOST_DIGITS || strncmp(s, HOST_PREFIX, n) != 0)
		return false;
	return strspn(s + n, "0123456789abcdef") == HOST_DIGITS;
}

int fm_endpoint_config_check(const struct fm_endpoint_config *c, struct fm_error *err)
{
	static const uint8_t zero[6];
	uint32_t address = ntohl(c->address.s_addr), gateway = ntohl(c->gateway.s_addr);

	if (!ifname_is_valid(c->bridge))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: bridge \"%.15s\" is not an interface name", c->bridge);
	if (!ifname_is_valid(c->ifname) || fm_streq(c->ifname, "lo"))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: interface \"%.15s\" is not a possible name", c->ifname);
	if (!fm_endpoint_ifname_is_ours(c->host_ifname))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: host interface \"%.15s\" is not \"fm\" and 8 hex digits",
		                    c->host_ifname);
	if ((c->mac[0] & 1) || memcmp(c->mac, zero, sizeof(zero)) == 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: the MAC address is a group address or zero");
	if (c->prefix_len < 8 || c->prefix_len > 32)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: prefix length /%u is not in /8../32", c->prefix_len);
	if (!unicast(address) || !is_host_of_subnet(address, c->prefix_len))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: the address is not one that a host can have in its subnet");
	if (gateway && (!unicast(gateway) || !is_host_of_subnet(gateway, c->prefix_len) || ((gateway ^ address) & netmask(c->prefix_len)) ||
	                gateway == address))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: the gateway is not another host in the address's subnet");
	if (c->mtu && (c->mtu < MTU_MIN || c->mtu > MTU_MAX))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: MTU %u is not in %d..%d", c->mtu, MTU_MIN, MTU_MAX);
	return 0;
}

static void mac_from_name(const char *name, uint8_t ret[6])
{
	uint64_t h = fm_hash_str(name);

	/* 02: locally administered, unicast */
	ret[0] = 0x02;
	for (int i = 1; i < 6; i++)
		ret[i] = (uint8_t)(h >> (8 * i));
}

static int mac_parse(const char *s, uint8_t ret[6], struct fm_error *err)
{
	uint8_t mac[6];

	for (int i = 0; i < 6; i++) {
		const char *p = s + 3 * (size_t)i;
		char hex[3];

		/* checked left to right, so never beyond the end */
		if (!isxdigit((unsigned char)p[0]) || !isxdigit((unsigned char)p[1]) || p[2] != (i < 5 ? ':' : '\0'))
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: mac \"%.32s\" is not like 02:77:00:00:01:00", s);
		hex[0] = p[0];
		hex[1] = p[1];
		hex[2] = '\0';
		mac[i] = (uint8_t)strtoul(hex, NULL, 16);
	}
	memcpy(ret, mac, sizeof(mac));
	return 0;
}

static int address_parse(const char *s, struct in_addr *ret, uint8_t *ret_prefix, struct fm_error *err)
{
	const char *slash = strchr(s, '/');
	char ip[INET_ADDRSTRLEN];
	struct in_addr a;
	int prefix;

	if (!slash)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT,
		                    "endpoint: address \"%.32s\" has no prefix length, write it like 10.77.0.100/24", s);
	if ((size_t)(slash - s) >= sizeof(ip))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: address \"%.32s\" is not like 10.77.0.100/24 (IPv4)", s);
	memcpy(ip, s, (size_t)(slash - s));
	ip[slash - s] = '\0';
	if (inet_pton(AF_INET, ip, &a) != 1 || fm_parse_int(slash + 1, 8, 32, &prefix, NULL) < 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: address \"%.32s\" is not like 10.77.0.100/24 (IPv4)", s);
	*ret = a;
	*ret_prefix = (uint8_t)prefix;
	return 0;
}

static bool is_set(const char *s)
{
	return s && *s;
}

int fm_endpoint_config_parse(const char *bridge, const char *ifname, const char *mac, const char *address, const char *gateway,
                             const char *name, struct fm_endpoint_config *ret, struct fm_error *err)
{
	struct fm_endpoint_config c = { 0 };

	if (!is_set(bridge) || strlen(bridge) >= sizeof(c.bridge))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: bridge \"%.32s\" is not an interface name",
		                    bridge ? bridge : "");
	if (is_set(ifname) && strlen(ifname) >= sizeof(c.ifname))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: interface \"%.32s\" is not a possible name", ifname);
	if (!is_set(address))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: no address given");
	if (!is_set(name) && !is_set(mac))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: neither a MAC address nor a name to derive one from");
	(void)snprintf(c.bridge, sizeof(c.bridge), "%s", bridge);
	(void)snprintf(c.ifname, sizeof(c.ifname), "%s", is_set(ifname) ? ifname : DEFAULT_IFNAME);
	fm_endpoint_host_ifname(is_set(name) ? name : mac, c.host_ifname);
	if (!is_set(mac))
		mac_from_name(name, c.mac);
	else if (mac_parse(mac, c.mac, err) < 0)
		return -1;
	if (address_parse(address, &c.address, &c.prefix_len, err) < 0)
		return -1;
	if (is_set(gateway) && inet_pton(AF_INET, gateway, &c.gateway) != 1)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: gateway \"%.32s\" is not an IPv4 address", gateway);
	if (fm_endpoint_config_check(&c, err) < 0)
		return -1;
	*ret = c;
	return 0;
}

void fm_endpoint_host_ifname(const char *instance, char ret[IFNAMSIZ])
{
	uint64_t h = fm_hash_str(instance);

	(void)snprintf(ret, IFNAMSIZ, HOST_PREFIX "%08x", (uint32_t)(h ^ (h >> 32)));
}

void fm_mac_format(const uint8_t mac[6], char ret[18])
{
	(void)snprintf(ret, 18, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}
