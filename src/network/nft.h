/* SPDX-License-Identifier: MIT */
/*
 * nft.h - the one nf_tables table that is ours, "inet fleximigrate", through netlink. Private to network/.
 *
 * The table carries a mark (its comment); a table of that name without it is somebody else's and is left alone. Each rule carries a comment, by which it is found again. The table exists while it has rules: it comes with
 * the first (chains prerouting and output, nat, just before the priority that others use, so that a publication that is being replaced does not win), and goes with the last.
 *
 * A change is made on what was looked at: a transaction names the ruleset's generation, and the kernel refuses it when anybody has changed anything since; fm_nft_* then look again. Needs nf_tables with NAT in inet tables
 * and comments of tables (Linux 5.10). A session works on the network namespace that its thread was in when it was opened.
 */
#ifndef FM_NETWORK_NFT_H
#define FM_NETWORK_NFT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "network/conntrack.h"
#include "network/netlink.h"

#define FM_NFT_TABLE       "fleximigrate"
#define FM_NFT_COMMENT_MAX 127 /* nft's own limit is 128 */
#define FM_NFT_RULES_MAX   1024

enum fm_nft_chain { FM_NFT_PREROUTING, FM_NFT_OUTPUT, FM_NFT_N_CHAINS };

struct fm_nft_rule {
	uint64_t handle;
	int chain;                            /* enum fm_nft_chain, or -1: somebody's own */
	char comment[FM_NFT_COMMENT_MAX + 1]; /* "" when it has none */
};

struct fm_nft_state {
	uint32_t generation;
	bool exists, ours;
	size_t n;
	struct fm_nft_rule *rules;
};
void fm_nft_state_done(struct fm_nft_state *s);
#define _fm_nft_state_ _fm_cleanup_(fm_nft_state_done)

/* A destination address and port that is translated into another. */
struct fm_nft_dnat {
	uint8_t protocol; /* IPPROTO_TCP, IPPROTO_UDP */
	struct fm_conntrack_address from, to;
	uint16_t from_port, to_port;
};

/* UNIMPLEMENTED when this kernel has no nf_tables. */
int fm_nft_open(struct fm_nl **ret, struct fm_error *err);
int fm_nft_look(struct fm_nl *nl, struct fm_nft_state *ret, struct fm_error *err);
/* One rule in each chain, unless one with this comment is there. FAILED_PRECONDITION when the table is somebody else's. */
int fm_nft_dnat_add(struct fm_nl *nl, const struct fm_nft_dnat *d, const char *comment, struct fm_error *err);
/* The rules with this comment, and the table when nothing is left in it. None is success. */
int fm_nft_remove(struct fm_nl *nl, const char *comment, struct fm_error *err);

#endif
