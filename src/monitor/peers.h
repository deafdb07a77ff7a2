/* SPDX-License-Identifier: MIT */
/*
 * peers.h - Resource Monitor: latency and loss on the way from one agent to others, by small datagrams that they send each other once a second and answer. TCP would hide what is lost, and wait for it.
 *
 * A probe is 40 bytes over UDP, to the port with the same number as the agent's (docs/PROTOCOL.md, "Probes"). It carries a code that only who has the cluster's key can make; without it there is no answer.
 * An answer is as long as what it answers, is different from a question, and nobody is answered more than FM_PEERS_ANSWERS_PER_S times a second altogether: nothing can be amplified or sent in circles. The kernel's
 * stamps of arrival, and the answerer telling how long it kept a probe, take the waiting of busy agents out of the figure.
 *
 * Latency is half of the round trip, the median of the last FM_PEERS_RECENT answers; loss is of the last FM_PEERS_WINDOW probes of which the answer came or did not come within FM_PEERS_LOST_MS. A peer that
 * has never answered has no measure: whatever is between may not let datagrams through at all, which says nothing about the way.
 *
 * One thread of its own. All functions may be called by any thread.
 */
#ifndef FM_MONITOR_PEERS_H
#define FM_MONITOR_PEERS_H

#include <stddef.h>
#include <stdint.h>

#include "basic/error.h"

#define FM_PEERS_EVERY_MS      1000
#define FM_PEERS_WINDOW        100
#define FM_PEERS_RECENT        15
#define FM_PEERS_LOST_MS       2000
#define FM_PEERS_ANSWERS_PER_S 8192
#define FM_PEERS_KEY_BYTES     32
#define FM_PEERS_PACKET_BYTES  40

struct fm_peers;

struct fm_peer {
	char host[64];
	char address[64]; /* "10.77.0.2:7401", "[fd77::2]:7401" */
};
struct fm_peer_measure {
	char host[64];
	uint64_t at_unix_ms; /* of the last answer */
	uint64_t latency_us;
	uint32_t loss_ppm;
};

/* Binds host:port ("10.77.0.1", "[fd77::1]") and answers from now on, once it has a key. every_ms 0: FM_PEERS_EVERY_MS; more than FM_PEERS_LOST_MS / FM_PEERS_WINDOW, or losses are overlooked. */
int fm_peers_new(const char *host, uint16_t port, uint32_t every_ms, struct fm_peers **ret, struct fm_error *err);
void fm_peers_free(struct fm_peers *p);

/*
 * Exactly these are measured from now on, at most FM_MAX_PEERS; what is known of one with the same host and address stays. Another key: what is under way with the old one counts as nothing, and nothing is counted for
 * a moment, until all have it. key_len other than FM_PEERS_KEY_BYTES: nobody is asked or answered.
 */
void fm_peers_set(struct fm_peers *p, const void *key, size_t key_len, const struct fm_peer *v, size_t n);
/* At most cap of them; returns how many. */
size_t fm_peers_measures(struct fm_peers *p, struct fm_peer_measure *v, size_t cap);

/* For the fuzzer: what arrives. Returns what is to be sent back, 0 or FM_PEERS_PACKET_BYTES, into answer. `held_us`: since it arrived. */
size_t fm_peers_packet(struct fm_peers *p, const uint8_t *packet, size_t len, uint64_t arrived_us, uint32_t held_us,
                       uint8_t answer[FM_PEERS_PACKET_BYTES]);

#endif
