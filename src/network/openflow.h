/* SPDX-License-Identifier: MIT */
/*
 * openflow.h - a standing connection to one OpenFlow 1.4 switch: flows, bundles, statistics, ports.
 *
 * A controller's side of OpenFlow, small: it changes the flows it is told to change and reads statistics; it is no learning switch and answers no packets. Why standing: a spawned ovs-ofctl
 * costs 20 to 45 ms, an answer over a connection that is there well below one.
 *
 * Calling order: fm_of_connect (a switch that listens, "tcp:HOST:PORT" or "unix:PATH") or fm_of_accept (a switch that has called us) -> any of the calls below, one at a time ->
 * fm_of_free. There is no thread behind a connection and no lock in it: one thread at a time uses it, and what arrives meanwhile is looked at in the next call. A switch may hang up on a
 * controller that does not answer its echo requests, so whoever keeps an idle connection calls fm_of_keepalive when fm_of_keepalive_at_ms says so.
 *
 * Time: every call ends at its deadline (timeout_ms from now; < 0: none) with DEADLINE_EXCEEDED, or with CANCELLED when cancel_fd (or -1) is readable. The connection is as good as before
 * then; an answer that comes too late is recognised and dropped. Whether the switch does what was asked is not known: for a commit that matters, see openflow-group.h.
 *
 * Errors: a switch's refusal is turned into words with the code that fm_of_error_code says; a lost connection is UNAVAILABLE, nonsense from the switch DATA_LOSS, and both end the
 * connection (fm_of_is_up is false then, and every call but fm_of_reconnect says UNAVAILABLE and why). Messages begin with the switch's name.
 *
 * Lost connections come back with fm_of_reconnect, whenever the caller thinks fit; fm_of_retry_at_ms says when that is sensible: at once after a connection
 * that was good for 10 s, else after 100 ms, twice as long after each failure up to 10 s, less up to a half of it by chance, so that many controllers do not call at the same moment.
 * Connecting ends at timeout_ms, after 10 s at most, and when cancelled; but for the look-up of a host's name, which has only the resolver's own limit: write addresses where that matters.
 */
#ifndef FM_NETWORK_OPENFLOW_H
#define FM_NETWORK_OPENFLOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "network/openflow-codec.h"

#define FM_OF_RETRY_MS_MIN     100u
#define FM_OF_RETRY_MS_MAX     10000u
#define FM_OF_KEEPALIVE_MS     2000u /* silence after which the switch is asked whether it is there */
#define FM_OF_ECHO_PATIENCE_MS 5000u /* and for how long its answer is waited for, unless the call's deadline is sooner */

struct fm_of;

struct fm_of_options {
	const char *address; /* "tcp:HOST:PORT", "tcp:[V6]:PORT" or "unix:PATH"; fm_of_accept: how the switch is called in messages */
	/*
	 * Not 0: claim the role of master with this generation on each connection. The switch then takes no changes any more from connections with an older claim, nor from an earlier
	 * connection of this one that it still has: a commit that was under way when the connection broke cannot come later than what the new one says. Other controllers lose
	 * their right to change flows, too. 0: stay an equal among others.
	 */
	uint64_t master_generation;
};

int fm_of_connect(const struct fm_of_options *o, int timeout_ms, int cancel_fd, struct fm_of **ret, struct fm_error *err);
/* fd: a connected stream socket, owned from now on, also on failure. Such a connection cannot be made again from here: the switch has to call again. */
int fm_of_accept(int fd, const struct fm_of_options *o, int timeout_ms, int cancel_fd, struct fm_of **ret, struct fm_error *err);
/* A connection that is down from the beginning: the first fm_of_reconnect makes it. For switches that may come later. */
int fm_of_new(const struct fm_of_options *o, struct fm_of **ret, struct fm_error *err);
void fm_of_free(struct fm_of *c);
FM_DEFINE_CLEANUP(struct fm_of *, fm_of_free);
#define _fm_of_ _fm_cleanup_(fm_of_freep)

bool fm_of_is_up(const struct fm_of *c);
/* Takes what has come, without waiting: is the switch still there, as far as that is known? */
int fm_of_check(struct fm_of *c, struct fm_error *err);
/* Can it be connected to without asking a name server? */
bool fm_of_address_is_numeric(const char *address);
const char *fm_of_name(const struct fm_of *c);
uint64_t fm_of_datapath_id(const struct fm_of *c); /* 0 until the first handshake */
/* Connects again; nothing to do when it is up. FAILED_PRECONDITION when a switch with another datapath id answers there now. */
int fm_of_reconnect(struct fm_of *c, int timeout_ms, int cancel_fd, struct fm_error *err);
/* When to try again, on fm_now_ms' clock; 0: it is up, or now. */
uint64_t fm_of_retry_at_ms(const struct fm_of *c);
/* The pause after so many failures in a row; `chance` is any number. */
unsigned fm_of_backoff_ms(unsigned failures, uint32_t chance);

/* Answers what the switch has asked; asks it for a sign of life if it was silent for FM_OF_KEEPALIVE_MS. No answer: the connection is lost. */
int fm_of_keepalive(struct fm_of *c, int timeout_ms, int cancel_fd, struct fm_error *err);
uint64_t fm_of_keepalive_at_ms(const struct fm_of *c);

/* Returns when the switch has carried out all that was sent before. */
int fm_of_barrier(struct fm_of *c, int timeout_ms, int cancel_fd, struct fm_error *err);
/* Changes flows one by one, in order, without a bundle. When one is refused the error says which, and the others may have been carried out: for changes that belong together use a bundle. */
int fm_of_flow_mods(struct fm_of *c, const struct fm_of_flow_mod *mods, size_t n, int timeout_ms, int cancel_fd, struct fm_error *err);

/*
 * Bundles: all of a list of changes at one instant, or none. Prepare hands them over (open, add each, close), commit makes them true, discard forgets them. A switch need not notice in prepare
 * that it cannot do something; it refuses the commit then and nothing is changed. A refused prepare leaves no bundle behind (it is discarded). A bundle that is neither committed nor
 * discarded is dropped by the switch with the connection, or after some time (Open vSwitch: 10 s).
 */
int fm_of_bundle_prepare(struct fm_of *c, const struct fm_of_flow_mod *mods, size_t n, int timeout_ms, int cancel_fd, uint32_t *ret_id,
                         struct fm_error *err);
int fm_of_bundle_commit(struct fm_of *c, uint32_t id, int timeout_ms, int cancel_fd, struct fm_error *err);
int fm_of_bundle_discard(struct fm_of *c, uint32_t id, int timeout_ms, int cancel_fd, struct fm_error *err);

/*
 * The same in halves, for several switches at once: begin sends what the switch's buffers take and does not wait, finish sends the rest and waits for the answer. Between the two no other call
 * for this connection. After a begin that failed there is nothing to finish.
 */
int fm_of_bundle_prepare_begin(struct fm_of *c, const struct fm_of_flow_mod *mods, size_t n, uint32_t *ret_id, struct fm_error *err);
int fm_of_bundle_commit_begin(struct fm_of *c, uint32_t id, struct fm_error *err);
int fm_of_finish(struct fm_of *c, int timeout_ms, int cancel_fd, struct fm_error *err);

/* Flow statistics. filter NULL: all flows of all tables. *ret: free(); NULL when there are none. */
int fm_of_flows(struct fm_of *c, const struct fm_of_flow_filter *filter, int timeout_ms, int cancel_fd, struct fm_of_flow **ret,
                size_t *ret_n, struct fm_error *err);
int fm_of_ports(struct fm_of *c, int timeout_ms, int cancel_fd, struct fm_of_port **ret, size_t *ret_n, struct fm_error *err);
/* What all ports have counted; openflow-rates.h makes rates of two readings. */
int fm_of_port_counters(struct fm_of *c, int timeout_ms, int cancel_fd, struct fm_of_counters **ret, size_t *ret_n, struct fm_error *err);
/*
 * The oldest change of a port that was not asked for yet; waits for one. Events are kept while other calls go on, FM_MAX_OF_EVENTS of them: when older ones had to go this says ABORTED once
 * (ask fm_of_ports for how things are now), then goes on with those that are left. Those of a lost connection are forgotten.
 */
int fm_of_port_event(struct fm_of *c, int timeout_ms, int cancel_fd, struct fm_of_port_status *ret, struct fm_error *err);

#endif
