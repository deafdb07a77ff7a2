/* SPDX-License-Identifier: MIT */
/*
 * frames.c - see frames.h.
 *
 * Checksums of received frames are not looked at: a sender on this host may have left them to a network card that the frame never met.
 */
#include "network/frames.h"

#include <net/ethernet.h>
#include <net/if_arp.h>
#include <netinet/icmp6.h>
#include <netinet/if_ether.h>
#include <netinet/ip6.h>
#include <string.h>

#define ND_HOP_LIMIT          255 /* nobody beyond a router can have sent it */
#define MLD_V2_REPORT         143
#define MLD_CHANGE_TO_EXCLUDE 4 /* … nobody: the whole group is wanted */

struct arp_frame {
	struct ether_header eth;
	struct ether_arp arp;
	uint8_t pad[60 - sizeof(struct ether_header) - sizeof(struct ether_arp)]; /* the shortest frame of Ethernet */
} __attribute__((packed));

struct nd_frame {
	struct ether_header eth;
	struct ip6_hdr ip;
	struct icmp6_hdr icmp;
	struct in6_addr target;
	uint8_t option[8]; /* type, length in units of 8, MAC */
} __attribute__((packed));

struct mld_frame {
	struct ether_header eth;
	struct ip6_hdr ip;
	uint8_t hop_by_hop[8]; /* router alert: without it no switch need look */
	struct icmp6_hdr icmp;
	uint8_t record_type, aux_len;
	uint16_t n_sources;
	struct in6_addr group;
} __attribute__((packed));

_Static_assert(sizeof(struct nd_frame) <= FM_FRAME_MAX && sizeof(struct mld_frame) <= FM_FRAME_MAX, "room for each frame");

static const uint8_t broadcast[ETH_ALEN] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

/* ---- ARP ---- */

static size_t arp(uint16_t op, const uint8_t sender[6], struct in_addr sender_ip, const uint8_t *target, struct in_addr target_ip,
                  uint8_t ret[FM_FRAME_MAX])
{
	struct arp_frame f = { 0 };

	memcpy(f.eth.ether_dhost, broadcast, ETH_ALEN);
	memcpy(f.eth.ether_shost, sender, ETH_ALEN);
	f.eth.ether_type = htons(ETH_P_ARP);
	f.arp.arp_hrd = htons(ARPHRD_ETHER);
	f.arp.arp_pro = htons(ETH_P_IP);
	f.arp.arp_hln = ETH_ALEN;
	f.arp.arp_pln = sizeof(struct in_addr);
	f.arp.arp_op = htons(op);
	memcpy(f.arp.arp_sha, sender, ETH_ALEN);
	memcpy(f.arp.arp_spa, &sender_ip, sizeof(sender_ip));
	if (target)
		memcpy(f.arp.arp_tha, target, ETH_ALEN);
	memcpy(f.arp.arp_tpa, &target_ip, sizeof(target_ip));
	memcpy(ret, &f, sizeof(f));
	return sizeof(f);
}

size_t fm_frame_arp_announce(const uint8_t mac[6], struct in_addr address, bool reply, uint8_t ret[FM_FRAME_MAX])
{
	return arp(reply ? ARPOP_REPLY : ARPOP_REQUEST, mac, address, reply ? mac : NULL, address, ret);
}

size_t fm_frame_unseen(const uint8_t mac[6], const uint8_t chance[5], uint8_t ret[FM_FRAME_MAX])
{
	memset(ret, 0, ETH_ZLEN);
	ret[0] = 0x03;
	memcpy(ret + 1, chance, 5);
	memcpy(ret + ETH_ALEN, mac, ETH_ALEN);
	ret[12] = 0x88;
	ret[13] = 0xb5;
	return ETH_ZLEN;
}

size_t fm_frame_arp_probe(const uint8_t device[6], struct in_addr address, uint8_t ret[FM_FRAME_MAX])
{
	return arp(ARPOP_REQUEST, device, (struct in_addr){ 0 }, NULL, address, ret);
}

bool fm_frame_arp_claims(const uint8_t *frame, size_t n, struct in_addr address, uint8_t ret_mac[6])
{
	struct arp_frame f;

	if (n < offsetof(struct arp_frame, pad))
		return false;
	memcpy(&f, frame, offsetof(struct arp_frame, pad));
	if (f.eth.ether_type != htons(ETH_P_ARP) || f.arp.arp_hrd != htons(ARPHRD_ETHER) || f.arp.arp_pro != htons(ETH_P_IP) ||
	    f.arp.arp_hln != ETH_ALEN || f.arp.arp_pln != sizeof(struct in_addr))
		return false;
	if (memcmp(f.arp.arp_spa, &address, sizeof(address)) != 0)
		return false;
	memcpy(ret_mac, f.arp.arp_sha, ETH_ALEN);
	return true;
}

/* ---- IPv6 ---- */

static uint32_t sum16(const void *data, size_t n, uint32_t sum)
{
	const uint8_t *p = data;

	for (size_t i = 0; i + 1 < n; i += 2)
		sum += (uint32_t)p[i] << 8 | p[i + 1];
	return sum;
}

/* Of an ICMPv6 message of an even length, over RFC 8200's pseudo header. */
static uint16_t checksum(const struct ip6_hdr *ip, const void *message, size_t n)
{
	uint32_t sum = (uint32_t)n + IPPROTO_ICMPV6;

	sum = sum16(&ip->ip6_src, sizeof(ip->ip6_src), sum);
	sum = sum16(&ip->ip6_dst, sizeof(ip->ip6_dst), sum);
	sum = sum16(message, n, sum);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons((uint16_t)~sum);
}

static void to_group(struct ether_header *eth, const uint8_t from[6], const struct in6_addr *group)
{
	eth->ether_dhost[0] = eth->ether_dhost[1] = 0x33;
	memcpy(eth->ether_dhost + 2, group->s6_addr + 12, 4);
	memcpy(eth->ether_shost, from, ETH_ALEN);
	eth->ether_type = htons(ETH_P_IPV6);
}

static struct ip6_hdr ip_header(uint8_t next, uint8_t hops, size_t payload, const struct in6_addr *src, const struct in6_addr *dst)
{
	struct ip6_hdr ip = { .ip6_src = *src, .ip6_dst = *dst };

	ip.ip6_flow = htonl(6u << 28);
	ip.ip6_plen = htons((uint16_t)payload);
	ip.ip6_nxt = next;
	ip.ip6_hlim = hops;
	return ip;
}

static struct in6_addr solicited_node_group(const struct in6_addr *address)
{
	struct in6_addr g = { .s6_addr = { 0xff, 0x02, [11] = 1, [12] = 0xff } };

	memcpy(g.s6_addr + 13, address->s6_addr + 13, 3);
	return g;
}

/* An advertisement ends with its sender's MAC. */
static size_t nd(uint8_t type, uint32_t flags, const uint8_t from[6], const struct in6_addr *src, const struct in6_addr *dst,
                 const struct in6_addr *target, uint8_t ret[FM_FRAME_MAX])
{
	bool tells_mac = type == ND_NEIGHBOR_ADVERT;
	struct nd_frame f = { 0 };
	size_t n = sizeof(f) - (tells_mac ? 0 : sizeof(f.option)), payload = n - offsetof(struct nd_frame, icmp);
	struct ip6_hdr ip = ip_header(IPPROTO_ICMPV6, ND_HOP_LIMIT, payload, src, dst);

	to_group(&f.eth, from, dst);
	f.ip = ip;
	f.icmp.icmp6_type = type;
	f.icmp.icmp6_data32[0] = flags;
	f.target = *target;
	if (tells_mac) {
		f.option[0] = ND_OPT_TARGET_LINKADDR;
		f.option[1] = 1;
		memcpy(f.option + 2, from, ETH_ALEN);
	}
	memcpy(ret, &f, sizeof(f));
	f.icmp.icmp6_cksum = checksum(&ip, ret + offsetof(struct nd_frame, icmp), payload);
	memcpy(ret, &f, sizeof(f));
	return n;
}

size_t fm_frame_nd_announce(const uint8_t mac[6], const struct in6_addr *address, uint8_t ret[FM_FRAME_MAX])
{
	static const struct in6_addr all_nodes = { .s6_addr = { 0xff, 0x02, [15] = 1 } };

	return nd(ND_NEIGHBOR_ADVERT, ND_NA_FLAG_OVERRIDE, mac, address, &all_nodes, address, ret);
}

size_t fm_frame_nd_probe(const uint8_t device[6], const struct in6_addr *address, uint8_t ret[FM_FRAME_MAX])
{
	struct in6_addr group = solicited_node_group(address);

	return nd(ND_NEIGHBOR_SOLICIT, 0, device, &in6addr_any, &group, address, ret);
}

size_t fm_frame_mld_report(const uint8_t mac[6], const struct in6_addr *address, uint8_t ret[FM_FRAME_MAX])
{
	static const struct in6_addr all_mld2_routers = { .s6_addr = { 0xff, 0x02, [15] = 0x16 } };
	const size_t message = sizeof(struct mld_frame) - offsetof(struct mld_frame, icmp);
	struct mld_frame f = { .hop_by_hop = { IPPROTO_ICMPV6, 0, IP6OPT_ROUTER_ALERT, 2, 0, 0, IP6OPT_PADN, 0 } };
	/* RFC 3810, 5.2.13: a link-local source, or none */
	struct ip6_hdr ip =
	        ip_header(IPPROTO_HOPOPTS, 1, sizeof(f) - offsetof(struct mld_frame, hop_by_hop), &in6addr_any, &all_mld2_routers);

	to_group(&f.eth, mac, &all_mld2_routers);
	f.ip = ip;
	f.icmp.icmp6_type = MLD_V2_REPORT;
	f.icmp.icmp6_data16[1] = htons(1);
	f.record_type = MLD_CHANGE_TO_EXCLUDE;
	f.group = solicited_node_group(address);
	memcpy(ret, &f, sizeof(f));
	f.icmp.icmp6_cksum = checksum(&ip, ret + offsetof(struct mld_frame, icmp), message);
	memcpy(ret, &f, sizeof(f));
	return sizeof(f);
}

/* The MAC that an advertisement tells. An option of no length would be looked at for ever: the frame is none then. */
static bool target_mac(const uint8_t *options, size_t n, uint8_t ret_mac[6])
{
	for (size_t i = 0; i + 8 <= n;) {
		size_t len = 8u * options[i + 1];

		if (len == 0 || len > n - i)
			return false;
		if (options[i] == ND_OPT_TARGET_LINKADDR)
			memcpy(ret_mac, options + i + 2, ETH_ALEN);
		i += len;
	}
	return true;
}

bool fm_frame_nd_claims(const uint8_t *frame, size_t n, const struct in6_addr *address, uint8_t ret_mac[6])
{
	const size_t fixed = offsetof(struct nd_frame, option), ip_end = offsetof(struct nd_frame, icmp);
	struct in6_addr source, target;
	uint8_t mac[ETH_ALEN];
	struct nd_frame f;

	if (n < fixed)
		return false;
	memcpy(&f, frame, fixed);
	source = f.ip.ip6_src;
	target = f.target;
	if (f.eth.ether_type != htons(ETH_P_IPV6) || f.ip.ip6_nxt != IPPROTO_ICMPV6 || f.ip.ip6_hlim != ND_HOP_LIMIT ||
	    f.icmp.icmp6_code != 0 || ntohs(f.ip.ip6_plen) < fixed - ip_end || ntohs(f.ip.ip6_plen) > n - ip_end ||
	    !IN6_ARE_ADDR_EQUAL(&target, address))
		return false;
	memcpy(mac, f.eth.ether_shost, ETH_ALEN);
	if (f.icmp.icmp6_type == ND_NEIGHBOR_ADVERT) {
		if (!target_mac(frame + fixed, ip_end + ntohs(f.ip.ip6_plen) - fixed, mac))
			return false;
	} else if (f.icmp.icmp6_type != ND_NEIGHBOR_SOLICIT || !IN6_IS_ADDR_UNSPECIFIED(&source)) {
		return false; /* a question of somebody who has another address */
	}
	memcpy(ret_mac, mac, ETH_ALEN);
	return true;
}
