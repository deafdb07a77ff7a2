/* SPDX-License-Identifier: MIT */
/*
 * conntrack.h - a container's entries in the host's connection tracking table: out of the source's, into the destination's, so that a firewall there that lets pass only what is established (or drops what is
 * invalid) knows the flows that arrive with the container. And how many flows an address still has: a redirection that stays for the old ones (stub.h) goes with the last.
 *
 * What travels is the flow as the container sees it: between its own address and the peer's as it appears to it. Translation of addresses (NAT) does not travel. The host that translates goes on doing so, with its
 * own entry, for as long as packets reach it (a stub); at the destination the flow arrives translated already. An entry without NAT there also keeps a masquerading rule of the destination off the flow. A NAT that both
 * hosts do alike for one shared address is therefore not supported. Zones other than the default one, protocols but TCP and UDP, sequence numbers adjusted by a helper, and what has ended do not travel; helpers,
 * expectations and labels do not, either. TCP windows are not tracked at the destination (be-liberal): the kernel's knowledge of them cannot be read.
 *
 * Calling sequence: source: open (before the freeze) -> dump (after the fence; or begin then, and end before the hand-over) -> … -> forget (after the release); destination: open -> restore (before the endpoint opens). A session works on the network namespace that
 * the thread was in when it was opened; one thread at a time. All are idempotent. Where the kernel has no connection tracking there is nothing to carry, and nothing is an error: a dump is empty, a restore leaves all
 * out, and says so. A failure costs flows behind a stateful firewall and nothing else: a mover goes on.
 */
#ifndef FM_NETWORK_CONNTRACK_H
#define FM_NETWORK_CONNTRACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "basic/limits.h"

#define FM_MAX_CONNTRACK_BYTES (16 + FM_MAX_CONNTRACK * 52)

struct fm_conntrack_address {
	int family;        /* AF_INET, AF_INET6 */
	uint8_t bytes[16]; /* the first 4 of IPv4, the others 0 */
};
/* "10.78.0.100", "fd77::100". INVALID_ARGUMENT also for what is not one machine's address. */
int fm_conntrack_address_parse(const char *text, struct fm_conntrack_address *ret, struct fm_error *err);

/* One flow; the fields' meaning is the kernel's (linux/netfilter/nf_conntrack_{common,tcp}.h). [0] is the side that began. */
struct fm_conntrack_flow {
	struct fm_conntrack_address address[2];
	uint16_t port[2];
	uint8_t protocol; /* IPPROTO_TCP, IPPROTO_UDP */
	bool seen_reply, assured;
	uint8_t tcp_state;     /* TCP_CONNTRACK_SYN_SENT to TCP_CONNTRACK_LAST_ACK; 0 of UDP */
	uint8_t tcp_flags[2];  /* IP_CT_TCP_FLAG_WINDOW_SCALE, IP_CT_TCP_FLAG_SACK_PERM */
	uint8_t tcp_wscale[2]; /* 0 without the flag */
	uint32_t timeout_s;    /* that is left */
	uint32_t mark;
};

/* The byte string between the hosts: a header (magic, version, number of entries, number left out) and 28 or 52 bytes an entry, all in network order. The decoder takes what the encoder makes and nothing else:
 * DATA_LOSS says what is wrong. *ret is malloc'ed, also for none. */
int fm_conntrack_encode(const struct fm_conntrack_flow *v, size_t n, uint32_t left_out, uint8_t **ret, size_t *ret_len,
                        struct fm_error *err);
int fm_conntrack_decode(const uint8_t *bytes, size_t len, struct fm_conntrack_flow **ret, size_t *ret_n, uint32_t *ret_left_out,
                        struct fm_error *err);

struct fm_conntrack;

int fm_conntrack_open(struct fm_conntrack **ret, struct fm_error *err);
void fm_conntrack_free(struct fm_conntrack *ct);
FM_DEFINE_CLEANUP(struct fm_conntrack *, fm_conntrack_free);
#define _fm_conntrack_ _fm_cleanup_(fm_conntrack_freep)
/* false: this kernel has no connection tracking (that can be asked). */
bool fm_conntrack_is_there(const struct fm_conntrack *ct);

struct fm_conntrack_dumped {
	size_t flows;      /* in the bytes */
	size_t translated; /* of these: had NAT at the source, and are carried without */
	size_t over;       /* more than max */
	size_t skipped;    /* another zone, another protocol, adjusted sequence numbers; what has ended is not counted */
};
/* Entries of these addresses (1 to FM_MAX_CONNTRACK_ADDRESSES), at most max (at most FM_MAX_CONNTRACK). */
int fm_conntrack_dump(struct fm_conntrack *ct, const struct fm_conntrack_address *v, size_t n, size_t max, uint8_t **ret, size_t *ret_len,
                      struct fm_conntrack_dumped *ret_what, struct fm_error *err);

/* The same in a thread of its own, for the freeze: going through a table of usual size takes several milliseconds, while CRIU has more to do. The session is not used by others until the end. `end` waits, and frees *d; it has to
 * be called. */
struct fm_conntrack_dumping;
int fm_conntrack_dump_begin(struct fm_conntrack *ct, const struct fm_conntrack_address *v, size_t n, size_t max,
                            struct fm_conntrack_dumping **ret, struct fm_error *err);
int fm_conntrack_dump_end(struct fm_conntrack_dumping *d, uint8_t **ret, size_t *ret_len, struct fm_conntrack_dumped *ret_what,
                          struct fm_error *err);

struct fm_conntrack_restored {
	size_t inserted;
	size_t replaced; /* of these: the table had an older entry of the same flow */
	size_t clashed;  /* left out: another flow has the answers' addresses and ports */
	size_t refused;  /* left out: the table is full, or there is none */
	size_t left_out; /* by the source */
};
/* The bytes come from another host: malformed ones are DATA_LOSS, and a flow that has neither end at one of the addresses is INVALID_ARGUMENT; nothing is inserted then. */
int fm_conntrack_restore(struct fm_conntrack *ct, const uint8_t *bytes, size_t len, const struct fm_conntrack_address *v, size_t n,
                         struct fm_conntrack_restored *ret, struct fm_error *err);

struct fm_conntrack_live {
	size_t tcp;        /* established, or one side has not closed yet */
	size_t udp;        /* in the table, that is within its time */
	size_t translated; /* of both: through NAT of this host */
};
/* Flows of these addresses, also those that reach one by translation. */
int fm_conntrack_count(struct fm_conntrack *ct, const struct fm_conntrack_address *v, size_t n, struct fm_conntrack_live *ret,
                       struct fm_error *err);

/* For each of any number of addresses, going through the table once. */
int fm_conntrack_count_each(struct fm_conntrack *ct, const struct fm_conntrack_address *v, size_t n, struct fm_conntrack_live *ret,
                            struct fm_error *err);

/* Entries of these addresses that have become stale because the container has left: all without NAT, but those with this host itself and with `keep` (the other containers here): their packets still pass. Translated ones
 * are needed for as long as clients use the old host; with `translated` they go as well (when the stub has gone). ret_deleted may be NULL. Called in the session's namespace. */
int fm_conntrack_forget(struct fm_conntrack *ct, const struct fm_conntrack_address *v, size_t n, const struct fm_conntrack_address *keep,
                        size_t n_keep, bool translated, size_t *ret_deleted, struct fm_error *err);

#endif
