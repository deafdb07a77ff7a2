/* SPDX-License-Identifier: MIT */
/*
 * frames.h - the few frames that an endpoint sends and looks for itself, as bytes: ARP, neighbour discovery (RFC 4861), a multicast listener's report (RFC 3810). Pure functions. Private to network/.
 *
 * What is received comes from anybody: a claim is only what is complete and says so; nothing is taken from beyond the frame's end.
 */
#ifndef FM_NETWORK_FRAMES_H
#define FM_NETWORK_FRAMES_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FM_FRAME_MAX 96 /* the longest of these */

/* Gratuitous ARP in its two forms, and a probe (RFC 5227): `device`'s question for an address without saying who asks. Each returns the frame's length. */
size_t fm_frame_arp_announce(const uint8_t mac[6], struct in_addr address, bool reply, uint8_t ret[FM_FRAME_MAX]);
size_t fm_frame_arp_probe(const uint8_t device[6], struct in_addr address, uint8_t ret[FM_FRAME_MAX]);
/* Unsolicited, overriding advertisement to all nodes; "this MAC listens to the address's solicited-node group"; the solicitation of duplicate address detection (RFC 4862). */
size_t fm_frame_nd_announce(const uint8_t mac[6], const struct in6_addr *address, uint8_t ret[FM_FRAME_MAX]);
size_t fm_frame_mld_report(const uint8_t mac[6], const struct in6_addr *address, uint8_t ret[FM_FRAME_MAX]);
size_t fm_frame_nd_probe(const uint8_t device[6], const struct in6_addr *address, uint8_t ret[FM_FRAME_MAX]);

/* To nobody: a group address of the locally administered kind and an Ethernet type for experiments (IEEE 802). A switch that remembers what to do with frames it has seen has not seen this one, and looks where it came from. */
size_t fm_frame_unseen(const uint8_t mac[6], const uint8_t chance[5], uint8_t ret[FM_FRAME_MAX]);

/* Does the frame say that somebody has the address, or is about to take it? Who, by MAC. */
bool fm_frame_arp_claims(const uint8_t *frame, size_t n, struct in_addr address, uint8_t ret_mac[6]);
bool fm_frame_nd_claims(const uint8_t *frame, size_t n, const struct in6_addr *address, uint8_t ret_mac[6]);

#endif
