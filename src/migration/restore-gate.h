/* SPDX-License-Identifier: MIT */
/*
 * restore-gate.h - the runtime's own restore of an ordinary container, stopped at CRIU's post-restore until the commit.
 *
 * The runtime runs CRIU; CRIU runs our action script (a few lines of shell, written into the instance's folder), which says "restored" into one named pipe and waits for "go" from the other. No "go" (or our
 * death: end of file) makes CRIU kill what it restored, before its first instruction.
 */
#ifndef FM_MIGRATION_RESTORE_GATE_H
#define FM_MIGRATION_RESTORE_GATE_H

#include "migration/host.h"

struct fm_restore_gate;
/* Starts the restore and returns when CRIU is at post-restore. */
int fm_restore_gate_begin(struct fm_host *h, const char *instance, const char *images_path, const char *instance_dir, int timeout_ms,
                          int cancel_fd, struct fm_restore_gate **ret, struct fm_error *err);
int fm_restore_gate_commit(struct fm_restore_gate *g, int timeout_ms, pid_t *ret_root, struct fm_error *err);
void fm_restore_gate_abort(struct fm_restore_gate *g); /* waits until the restore is undone */
void fm_restore_gate_free(struct fm_restore_gate *g);  /* NULL-safe; aborts if neither was called */

#endif
