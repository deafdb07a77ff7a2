/* SPDX-License-Identifier: MIT */
/*
 * announce.c - telling the network where the container is now.
 *
 * Sent from the container's own end, so that every switch on the way learns the port: the MAC moves with the container, so neighbours'
 * caches stay right; the switches' tables do not. IPv4: one gratuitous request and one gratuitous reply, because some implementations update
 * on one only. IPv6: one unsolicited neighbour advertisement. And a report that this MAC listens to the address's solicited-node group:
 * the kernel sent its own when the address was set, through a closed port, and a switch that delivers groups only where somebody has
 * reported would keep solicitations from the container until its querier asks again, minutes later.
 * And a frame that no switch can have seen: an Open vSwitch does not learn from what its cache knows already, and announcements of a container that was here some seconds ago are that.
 */
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "basic/cleanup.h"
#include "network/frames.h"
#include "network/internal.h"

int fm_raw_open(int ifindex, int *ret_fd, struct fm_error *err)
{
	/* protocol 0: a socket that only sends, so that nothing piles up in it */
	_fm_close_ int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_ifindex = ifindex };

	if (fd < 0 || bind(fd, (const struct sockaddr *)&at, sizeof(at)) < 0)
		return fm_error_errno(err, errno, "open a raw socket");
	*ret_fd = FM_TAKE_FD(fd);
	return 0;
}

int fm_raw_send(int fd, int ifindex, const uint8_t *frame, size_t n, struct fm_error *err)
{
	struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_ifindex = ifindex, .sll_halen = ETH_ALEN };

	memcpy(&to.sll_protocol, frame + offsetof(struct ether_header, ether_type), sizeof(to.sll_protocol));
	memcpy(to.sll_addr, frame, ETH_ALEN);
	if (sendto(fd, frame, n, 0, (const struct sockaddr *)&to, sizeof(to)) < 0)
		return fm_error_errno(err, errno, "send a frame of %s",
		                      to.sll_protocol == htons(ETH_P_ARP) ? "ARP" : "neighbour discovery");
	return 0;
}

int fm_announce(int fd, int ifindex, const struct fm_endpoint_config *c, struct fm_error *err)
{
	uint8_t f[5][FM_FRAME_MAX], chance[5] = { 0 };
	size_t len[5], n = 0;

	/* First, so that the others are passed on by who has looked. Without chance it is a frame like another. */
	(void)getrandom(chance, sizeof(chance), GRND_NONBLOCK);
	len[n] = fm_frame_unseen(c->mac, chance, f[n]);
	n++;
	if (c->prefix_len) {
		len[n] = fm_frame_arp_announce(c->mac, c->address, false, f[n]);
		n++;
		len[n] = fm_frame_arp_announce(c->mac, c->address, true, f[n]);
		n++;
	}
	if (c->prefix6_len) {
		len[n] = fm_frame_nd_announce(c->mac, &c->address6, f[n]);
		n++;
		len[n] = fm_frame_mld_report(c->mac, &c->address6, f[n]);
		n++;
	}
	for (size_t i = 0; i < n; i++)
		if (fm_raw_send(fd, ifindex, f[i], len[i], err) < 0)
			return fm_error_prefix(err, "announce the endpoint");
	return 0;
}
