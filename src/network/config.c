/* SPDX-License-Identifier: MIT */
/*
 * config.c - an endpoint's configuration: from the user's words, and checked again wherever it comes from another host.
 *
 * The container's MAC is derived from its *name*, because it must be the same on every host; the host end's name from the *instance*,
 * because two instances of one container can stand on one host during a migration. A container's further endpoints take their number into
 * both, behind a '#', which is in no name.
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/id.h"
#include "basic/str.h"
#include "network/address.h"
#include "network/endpoints.h"
#include "network/internal.h"

#define DEFAULT_IFNAME "eth%u"
#define MTU_MIN_IPV6   1280
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

/* The container's own: a link-local one belongs to an interface, and the kernel makes it from the MAC, which travels. */
static bool unicast6(const struct in6_addr *a)
{
	return !IN6_IS_ADDR_UNSPECIFIED(a) && !IN6_IS_ADDR_LOOPBACK(a) && !IN6_IS_ADDR_MULTICAST(a) && !IN6_IS_ADDR_LINKLOCAL(a) &&
	       !IN6_IS_ADDR_V4MAPPED(a);
}

static bool same_subnet6(const struct in6_addr *a, const struct in6_addr *b, unsigned prefix_len)
{
	unsigned whole = prefix_len / 8, bits = prefix_len % 8;

	if (memcmp(a->s6_addr, b->s6_addr, whole) != 0)
		return false;
	return bits == 0 || (a->s6_addr[whole] ^ b->s6_addr[whole]) >> (8 - bits) == 0;
}

/* Not the subnet's own address, which belongs to all its routers (a /127 and a /128 have none). */
static bool is_host_of_subnet6(const struct in6_addr *a, unsigned prefix_len)
{
	struct in6_addr subnet = { 0 };
	unsigned whole = prefix_len / 8, bits = prefix_len % 8;

	memcpy(subnet.s6_addr, a->s6_addr, whole);
	if (bits)
		subnet.s6_addr[whole] = (uint8_t)(a->s6_addr[whole] & 0xff << (8 - bits));
	return prefix_len >= 127 || memcmp(&subnet, a, sizeof(subnet)) != 0;
}

bool fm_endpoint_ifname_is_ours(const char *s)
{
	size_t n = strlen(HOST_PREFIX);

	if (strnlen(s, IFNAMSIZ) != n + HOST_DIGITS || strncmp(s, HOST_PREFIX, n) != 0)
		return false;
	return strspn(s + n, "0123456789abcdef") == HOST_DIGITS;
}

/* Of endpoints without a bridge, on every host. */
#define ROUTED_GATEWAY 0xa9fe0101u
static const struct in6_addr routed_gateway6 = { .s6_addr = { 0xfe, 0x80, [15] = 1 } };

static int check_ipv4(const struct fm_endpoint_config *c, struct fm_error *err)
{
	uint32_t address = ntohl(c->address.s_addr), gateway = ntohl(c->gateway.s_addr);

	if (c->prefix_len == 0)
		return gateway ? fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: an IPv4 gateway, and no IPv4 address") : 0;
	if (!c->bridge[0]) {
		if (c->prefix_len != 32 || gateway != ROUTED_GATEWAY || !unicast(address))
			return fm_error_set(err, FM_E_INVALID_ARGUMENT,
			                    "endpoint: without a bridge the address is one machine's, /32, and its gateway is 169.254.1.1");
		return 0;
	}
	if (c->prefix_len < 8 || c->prefix_len > 32)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: prefix length /%u is not in /8../32", c->prefix_len);
	if (!unicast(address) || !is_host_of_subnet(address, c->prefix_len))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: the address is not one that a host can have in its subnet");
	if (gateway && (!unicast(gateway) || !is_host_of_subnet(gateway, c->prefix_len) || ((gateway ^ address) & netmask(c->prefix_len)) ||
	                gateway == address))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: the gateway is not another host in the address's subnet");
	return 0;
}

static int check_ipv6(const struct fm_endpoint_config *c, struct fm_error *err)
{
	const struct in6_addr *gateway = &c->gateway6;
	bool has_gateway = !IN6_IS_ADDR_UNSPECIFIED(gateway);

	if (c->prefix6_len == 0)
		return has_gateway ? fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: an IPv6 gateway, and no IPv6 address") : 0;
	if (!c->bridge[0] && (c->prefix6_len != 128 || !IN6_ARE_ADDR_EQUAL(gateway, &routed_gateway6)))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT,
		                    "endpoint: without a bridge the IPv6 address is one machine's, /128, and its gateway is fe80::1");
	if (c->prefix6_len < 8 || c->prefix6_len > 128)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: prefix length /%u is not in /8../128", c->prefix6_len);
	if (!unicast6(&c->address6) || !is_host_of_subnet6(&c->address6, c->prefix6_len))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: the IPv6 address is not one that a host can have in its subnet");
	/* a subnet's own address is a router's, too */
	if (has_gateway && !IN6_IS_ADDR_LINKLOCAL(gateway) &&
	    (!unicast6(gateway) || !same_subnet6(gateway, &c->address6, c->prefix6_len) || IN6_ARE_ADDR_EQUAL(gateway, &c->address6)))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT,
		                    "endpoint: the IPv6 gateway is neither link-local nor another host in the address's subnet");
	if (c->mtu && c->mtu < MTU_MIN_IPV6)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: MTU %u is too small for IPv6, which needs %d", c->mtu,
		                    MTU_MIN_IPV6);
	return 0;
}

int fm_endpoint_config_check(const struct fm_endpoint_config *c, struct fm_error *err)
{
	if (c->bridge[0] && !ifname_is_valid(c->bridge))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: bridge \"%.15s\" is not an interface name", c->bridge);
	if (!ifname_is_valid(c->ifname) || strcmp(c->ifname, "lo") == 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: interface \"%.15s\" is not a possible name", c->ifname);
	if (!fm_endpoint_ifname_is_ours(c->host_ifname))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: host interface \"%.15s\" is not \"fm\" and 8 hex digits",
		                    c->host_ifname);
	if (!fm_mac_is_unicast(c->mac))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: the MAC address is a group address or zero");
	if (c->prefix_len == 0 && c->prefix6_len == 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: no address given");
	if (check_ipv4(c, err) < 0 || check_ipv6(c, err) < 0)
		return -1;
	if (c->mtu && (c->mtu < MTU_MIN || c->mtu > MTU_MAX))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: MTU %u is not in %d..%d", c->mtu, MTU_MIN, MTU_MAX);
	return 0;
}

static bool share_subnet(const struct fm_endpoint_config *a, const struct fm_endpoint_config *b)
{
	unsigned shorter = a->prefix_len < b->prefix_len ? a->prefix_len : b->prefix_len;
	unsigned shorter6 = a->prefix6_len < b->prefix6_len ? a->prefix6_len : b->prefix6_len;

	return (shorter && ((ntohl(a->address.s_addr) ^ ntohl(b->address.s_addr)) & netmask(shorter)) == 0) ||
	       (shorter6 && same_subnet6(&a->address6, &b->address6, shorter6));
}

static int check_two(const struct fm_endpoint_config *a, const struct fm_endpoint_config *b, struct fm_error *err)
{
	if (strcmp(a->ifname, b->ifname) == 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "two endpoints have the interface %s", a->ifname);
	if (memcmp(a->mac, b->mac, sizeof(a->mac)) == 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "two endpoints have the same MAC address");
	/* two of 2^32, but then the second would take over the first one's pair */
	if (strcmp(a->host_ifname, b->host_ifname) == 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "two endpoints have the same host end %s; choose another container name",
		                    a->host_ifname);
	if (share_subnet(a, b)) {
		(void)fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoints %s and %s have addresses in the same subnet", a->ifname,
		                   b->ifname);
		return fm_error_hint(err, "the kernel would send by one of them only, and answer for both on either");
	}
	if ((a->gateway.s_addr && b->gateway.s_addr) || (!IN6_IS_ADDR_UNSPECIFIED(&a->gateway6) && !IN6_IS_ADDR_UNSPECIFIED(&b->gateway6)))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT,
		                    "endpoints %s and %s both have a gateway; a container has one for each family", a->ifname, b->ifname);
	return 0;
}

int fm_endpoints_check(const struct fm_endpoint_config *v, size_t n, struct fm_error *err)
{
	if (n > FM_MAX_ENDPOINTS)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%zu endpoints, a container can have %d", n, FM_MAX_ENDPOINTS);
	for (size_t i = 0; i < n; i++) {
		if (fm_endpoint_config_check(&v[i], err) < 0)
			return -1;
		for (size_t k = 0; k < i; k++)
			if (check_two(&v[k], &v[i], err) < 0)
				return -1;
	}
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
	if (!fm_mac_parse(s, ret))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: mac \"%.32s\" is not like 02:77:00:00:01:00", s);
	return 0;
}

/* "ADDRESS/LEN" of one family; ret has room for its address */
static int address_parse(const char *s, int family, void *ret, uint8_t *ret_prefix, struct fm_error *err)
{
	const char *like = family == AF_INET ? "10.77.0.100/24 (IPv4)" : "fd77::100/64 (IPv6)";
	const char *slash = strchr(s, '/');
	char ip[INET6_ADDRSTRLEN];
	int prefix;

	if (!slash)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: address \"%.64s\" has no prefix length, write it like %s", s,
		                    like);
	if ((size_t)(slash - s) >= sizeof(ip))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: address \"%.64s\" is not like %s", s, like);
	memcpy(ip, s, (size_t)(slash - s));
	ip[slash - s] = '\0';
	if (inet_pton(family, ip, ret) != 1 || fm_parse_int(slash + 1, 8, family == AF_INET ? 32 : 128, &prefix, NULL) < 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: address \"%.64s\" is not like %s", s, like);
	*ret_prefix = (uint8_t)prefix;
	return 0;
}

static bool is_set(const char *s)
{
	return s && *s;
}

static int parse_addresses(const struct fm_endpoint_words *w, struct fm_endpoint_config *c, struct fm_error *err)
{
	if (!is_set(w->address) && !is_set(w->address6))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: no address given");
	if ((is_set(w->address) && address_parse(w->address, AF_INET, &c->address, &c->prefix_len, err) < 0) ||
	    (is_set(w->address6) && address_parse(w->address6, AF_INET6, &c->address6, &c->prefix6_len, err) < 0))
		return -1;
	if (is_set(w->gateway) && inet_pton(AF_INET, w->gateway, &c->gateway) != 1)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: gateway \"%.64s\" is not an IPv4 address", w->gateway);
	if (is_set(w->gateway6) && inet_pton(AF_INET6, w->gateway6, &c->gateway6) != 1)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: gateway \"%.64s\" is not an IPv6 address", w->gateway6);
	return 0;
}

static char *numbered(const char *name, unsigned index)
{
	return index == 0 ? fm_xstrdup(name) : fm_xasprintf("%s#%u", name, index);
}

int fm_endpoint_config_parse(const struct fm_endpoint_words *w, const char *name, unsigned index, struct fm_endpoint_config *ret,
                             struct fm_error *err)
{
	struct fm_endpoint_config c = { 0 };

	if (index >= FM_MAX_ENDPOINTS)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint %u: a container can have %d", index + 1, FM_MAX_ENDPOINTS);
	if (is_set(w->bridge) && strlen(w->bridge) >= sizeof(c.bridge))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: bridge \"%.32s\" is not an interface name", w->bridge);
	if (is_set(w->ifname) && strlen(w->ifname) >= sizeof(c.ifname))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: interface \"%.32s\" is not a possible name", w->ifname);
	if (!is_set(name) && !is_set(w->mac))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "endpoint: neither a MAC address nor a name to derive one from");
	(void)snprintf(c.bridge, sizeof(c.bridge), "%s", is_set(w->bridge) ? w->bridge : "");
	if (is_set(w->ifname))
		(void)snprintf(c.ifname, sizeof(c.ifname), "%s", w->ifname);
	else
		(void)snprintf(c.ifname, sizeof(c.ifname), DEFAULT_IFNAME, index);
	fm_endpoint_host_ifname(is_set(name) ? name : w->mac, index, c.host_ifname);
	_fm_free_ char *own = numbered(is_set(name) ? name : "", index);
	if (!is_set(w->mac))
		mac_from_name(own, c.mac);
	else if (mac_parse(w->mac, c.mac, err) < 0)
		return -1;
	if (parse_addresses(w, &c, err) < 0)
		return -1;
	if (!c.bridge[0] && c.prefix_len && !is_set(w->gateway))
		c.gateway.s_addr = htonl(ROUTED_GATEWAY);
	if (!c.bridge[0] && c.prefix6_len && !is_set(w->gateway6))
		c.gateway6 = routed_gateway6;
	if (fm_endpoint_config_check(&c, err) < 0)
		return -1;
	*ret = c;
	return 0;
}

void fm_endpoint_host_ifname(const char *instance, unsigned index, char ret[IFNAMSIZ])
{
	_fm_free_ char *own = numbered(instance, index);
	uint64_t h = fm_hash_str(own);

	(void)snprintf(ret, IFNAMSIZ, HOST_PREFIX "%08x", (uint32_t)(h ^ (h >> 32)));
}

void fm_mac_format(const uint8_t mac[6], char ret[18])
{
	(void)snprintf(ret, 18, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

void fm_endpoint_addresses_format(const struct fm_endpoint_config *c, char ret[FM_ENDPOINT_ADDRESSES_LEN])
{
	char text[INET6_ADDRSTRLEN];
	int n = 0;

	ret[0] = '\0';
	if (c->prefix_len)
		n = snprintf(ret, FM_ENDPOINT_ADDRESSES_LEN, "%s/%u", inet_ntop(AF_INET, &c->address, text, sizeof(text)), c->prefix_len);
	if (c->prefix6_len)
		(void)snprintf(ret + n, FM_ENDPOINT_ADDRESSES_LEN - (size_t)n, "%s%s/%u", n ? " and " : "",
		               inet_ntop(AF_INET6, &c->address6, text, sizeof(text)), c->prefix6_len);
}
