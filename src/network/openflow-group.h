/* SPDX-License-Identifier: MIT */
/*
 * openflow-group.h - several switches change together, in two phases.
 *
 * Calling order: fm_of_group_new -> prepare -> commit -> fm_of_group_free; and fm_of_group_rollback at any time before that. The connections are the caller's, stay so, and must not be used for
 * anything else between prepare and the end. One thread at a time.
 *
 * - Prepare hands each switch its change as a bundle. One refuses: the bundles are discarded on all, nothing has changed anywhere, and the error names the switch and its reason.
 * - Commit tells all switches at once, so that they change within a round trip of each other. All agree: done. One refuses or does not answer: those that have changed, or may have, are taken
 *   back with the undo that the caller gave for each, as a bundle, too; and those that have not are left alone. The error is the first switch's that failed.
 *
 * Two switches have no common instant: between the first commit and the last, and between a commit and its undo, packets may see one new and one old. OpenFlow has no vote in which a switch
 * promises that its commit cannot fail; that it has taken the bundle is all that can be known beforehand, so commit can be refused (a full table), and the undo is for that.
 *
 * The undo has to be right on the changed switch and on the unchanged one (ADD of the old flows, DELETE_STRICT of the new ones: both may be repeated), because after an answer that did not come it
 * is not known which of the two it is. It is the caller's duty to have it in a journal before commit. Commit has 10 s from prepare on (Open vSwitch forgets idle bundles then, and refuses).
 *
 * A switch whose connection broke in the commit is connected again for the undo. A commit that is still on its way in the old connection then must not come after it: OpenFlow's means for that
 * is a master_generation for the connections (a switch hears only the newer claim). Without one it rests on the switch reading what it has of the old connection before it takes a new one.
 *
 * fm_of_group_state tells for each switch how things are, after each call, also after one that failed. While one is UNKNOWN or COMMITTED after a failed commit, fm_of_group_rollback may be tried
 * again, as often as it takes: that is the caller's to do.
 */
#ifndef FM_NETWORK_OPENFLOW_GROUP_H
#define FM_NETWORK_OPENFLOW_GROUP_H

#include <stddef.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "network/openflow.h"

enum fm_of_state {
	FM_OF_UNCHANGED = 0, /* as it was: nothing prepared, or discarded, or refused */
	FM_OF_PREPARED,      /* as it was, with a bundle that can be committed */
	FM_OF_COMMITTED,     /* changed */
	FM_OF_UNDONE,        /* it was changed (or may have been), and the undo has been carried out */
	FM_OF_UNKNOWN,       /* changed or not: it was told to commit and its answer did not come */
};

/* What one switch is to do, and what takes it back. Copied. */
struct fm_of_change {
	struct fm_of *conn;
	const struct fm_of_flow_mod *mods, *undo;
	size_t n_mods, n_undo; /* 1…FM_MAX_OF_BUNDLE_MESSAGES each */
};

struct fm_of_group;

/* n: 1…FM_MAX_OF_SWITCHES, each connection once. */
int fm_of_group_new(const struct fm_of_change *changes, size_t n, struct fm_of_group **ret, struct fm_error *err);
/* Says nothing to the switches: what is prepared then they forget by themselves. */
void fm_of_group_free(struct fm_of_group *g);
FM_DEFINE_CLEANUP(struct fm_of_group *, fm_of_group_free);
#define _fm_of_group_ _fm_cleanup_(fm_of_group_freep)

/* All or none PREPARED. timeout_ms is for all together. */
int fm_of_group_prepare(struct fm_of_group *g, int timeout_ms, int cancel_fd, struct fm_error *err);
/* All COMMITTED, or an error and what fm_of_group_state says. Only when all are PREPARED (else FAILED_PRECONDITION). The undo after a failure takes up to timeout_ms once more and cannot be cancelled. */
int fm_of_group_commit(struct fm_of_group *g, int timeout_ms, int cancel_fd, struct fm_error *err);
/* Discards what is prepared, undoes what is or may be committed (also after a commit that succeeded); connects again where that is necessary. Each switch has an equal part of what is left of the time. -1: at least one is COMMITTED or UNKNOWN still; the others
 * were dealt with all the same. Nothing to do is success. */
int fm_of_group_rollback(struct fm_of_group *g, int timeout_ms, int cancel_fd, struct fm_error *err);

size_t fm_of_group_size(const struct fm_of_group *g);
enum fm_of_state fm_of_group_state(const struct fm_of_group *g, size_t i);
const char *fm_of_state_to_string(enum fm_of_state s);
/* "br-a COMMITTED, br-b UNKNOWN" into buf (cut off when it does not fit), returns buf */
const char *fm_of_group_describe(const struct fm_of_group *g, char *buf, size_t cap);

#endif
