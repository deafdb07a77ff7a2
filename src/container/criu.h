/* SPDX-License-Identifier: MIT */
/*
 * criu.h - one `criu swrk` inside a parent's namespaces, driven step by step over CRIU's RPC (protobuf over an inherited
 * SOCK_SEQPACKET).
 *
 * CRIU is executed from a prefix (bin/criu, lib/, lib/ld.so) through its own loader with descriptors, `ld.so --library-path
 * /proc/self/fd/L /proc/self/fd/B swrk N`, so that nothing has to be mounted into the parent, and nothing that the parent contains is
 * loaded or executed (criu-start.c: the parent is not trusted). The images folder is passed as a descriptor too (/proc/self/fd/I): it
 * need not be visible in the parent.
 *
 * Dump protocol (why there is no page server): with lazy pages CRIU walks and pins the memory, writes the metadata, and then notifies
 * `post-dump` while every task is still stopped by ptrace. fm_criu_dump_begin returns at this point. The caller stops the tree with
 * SIGSTOP (fm_tree_stop) and then calls fm_criu_dump_end, which answers the notification with a refusal: CRIU undoes everything (TCP
 * repair off, parasite cured, detach) and leaves the tasks "alive", i.e. in the pending SIGSTOP. The page server of stock CRIU, which
 * kills the source whenever anybody connects and closes, is never started; pages are read from the stopped tree by process_vm_readv. If
 * CRIU or we die before the SIGSTOP, the tree simply runs on, still the owner; after it, it stays stopped until somebody decides.
 * Sending the images may begin before dump_end. Processes that were stopped (SIGSTOP, SIGTSTP) before the dump are continued by
 * fm_tree_continue as well.
 *
 * Restore protocol: fm_criu_restore_begin returns at `post-restore`: sockets exist in repair mode, no task has run an instruction.
 * fm_criu_restore_commit lets it go on (repair off, resume); fm_criu_restore_abort refuses: CRIU kills what it made, nothing was sent
 * on any connection.
 *
 * CRIU is our child inside the parent's pid namespace, and the kernel lets that namespace (so also `runc delete`) end only when we have
 * reaped it: free the handle before the parent is removed.
 *
 * A handle belongs to one thread. Every wait has a deadline and a cancel_fd (-1 = none).
 */
#ifndef FM_CONTAINER_CRIU_H
#define FM_CONTAINER_CRIU_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "basic/error.h"

#define FM_CRIU_PREFIX_DEFAULT "/opt/fleximigrate/criu"
/* 4.2.0: works on kernels from 6.16 on; older ones may pass on older kernels, see fm_criu_install_probe */
#define FM_CRIU_MIN_VERSION 40200

struct fm_criu_install {
	char prefix[4096];
	int version;
	char version_text[32];
};
/* Finds and asks VERSION by RPC; FAILED_PRECONDITION with a hint (run tools/setup/install-criu.sh) when missing or too old.
 * min_version 0 = FM_CRIU_MIN_VERSION. */
int fm_criu_install_probe(const char *prefix, int min_version, struct fm_criu_install *ret, struct fm_error *err);

struct fm_criu;

struct fm_criu_start_opts {
	pid_t ns_pid;      /* enter mnt, pid, net, ipc, uts (and cgroup) namespaces of this process; 0 = stay outside */
	bool join_cgroups; /* put CRIU into the cgroups of ns_pid, so that what it restores is accounted there (v1 controllers and v2) */
	pid_t avoid_pid;   /* >0: first set ns_last_pid so that CRIU's own pid is above this */
	int images_dirfd;  /* borrowed; images and CRIU's work folder (log, lazy-pages.socket) */
	bool hide_memory;  /* for a dump with opts.hide: under the filter of criu-view.h */
	bool hide_maps;    /* and what the kernel would take long to say about mappings; worth it from 100 MB on */
};
/* Starts it and makes it load its kernel data (feature check, keep_open), so that the freeze pays nothing for that. */
int fm_criu_start(const struct fm_criu_install *inst, const struct fm_criu_start_opts *o, struct fm_criu **ret, struct fm_error *err);
/* Ends it if it still runs: between dump_begin and dump_end the tree goes on (unless it was stopped), between restore_begin and commit
 * what was restored is killed. Blocks until it has ended (up to 10 s, then it is killed). Removes what CRIU leaves in the images folder
 * that is no image. NULL-safe. */
void fm_criu_free(struct fm_criu *c);
pid_t fm_criu_pid(const struct fm_criu *c);

struct fm_criu_dump_opts {
	pid_t root_ns_pid;
	bool lazy;
	/* Host pid of the root, or 0. The pages that a lazy dump would have left out are not even shown to CRIU (criu-view.h), which saves it their walking and pinning; started with
	 * hide_memory, and not together with lazy. What there is to bring is then in the images folder as a file of ours, which fm_images_lazy_ranges reads. */
	pid_t hide;
	int frozen_fd; /* with hide: an eventfd that is written to as soon as all tasks are frozen, long before dump_begin returns; 0 or -1 = none */
	int timeout_ms;
	int cancel_fd;
	int log_level;
};
/* Optional, before the fence: everything that CRIU does before it stops the first task. Then dump_begin (with the same options)
 * only has to freeze and dump. The tree is not touched yet. */
int fm_criu_dump_prepare(struct fm_criu *c, const struct fm_criu_dump_opts *o, struct fm_error *err);
/* Optional, the last thing before the fence: started with hide_maps, what CRIU will ask about the mappings of the tree at this root (host pid). */
void fm_criu_dump_look(struct fm_criu *c, pid_t root);
int fm_criu_dump_begin(struct fm_criu *c, const struct fm_criu_dump_opts *o, struct fm_error *err);
/* After dump_begin, while the tree is stopped (dump_end or not), before anything is made of the dump for good. ABORTED: it must not be used; the tree is as it was. */
int fm_criu_dump_verify(struct fm_criu *c, struct fm_error *err);
int fm_criu_dump_end(struct fm_criu *c, int timeout_ms, struct fm_error *err);

struct fm_criu_restore_opts {
	bool lazy;
	int timeout_ms;
	int cancel_fd;
	int log_level;
};
/* Optional, before the images are there: CRIU gets ready and waits for inventory.img. The images folder must not contain one yet;
 * then restore_begin (with the same options) only has to restore. */
int fm_criu_restore_prepare(struct fm_criu *c, const struct fm_criu_restore_opts *o, struct fm_error *err);
/* *ret_root: host pid of the restored root */
int fm_criu_restore_begin(struct fm_criu *c, const struct fm_criu_restore_opts *o, pid_t *ret_root, struct fm_error *err);
int fm_criu_restore_commit(struct fm_criu *c, int timeout_ms, struct fm_error *err);
int fm_criu_restore_abort(struct fm_criu *c, int timeout_ms, struct fm_error *err);

/* On failure the messages contain the last "Error (…)" lines of CRIU's log in the images folder. */

/* ---- the tree: stop, continue, blockers */

/* All of them refuse a root whose tree contains init or this program: INVALID_ARGUMENT. */
/* SIGSTOP to every task of the tree at root (host pid), until no new child appears; safe while ptrace holds them. */
int fm_tree_stop(pid_t root, struct fm_error *err);
/* Wait until every process of the tree is stopped (T) and no longer traced. */
int fm_tree_wait_stopped(pid_t root, int timeout_ms, struct fm_error *err);
int fm_tree_continue(pid_t root, struct fm_error *err);
/* SIGKILL the whole tree and wait until it is gone. */
int fm_tree_kill(pid_t root, int timeout_ms, struct fm_error *err);
/* Has a task of the tree a seccomp filter now? CRIU suspends filters while it is in a task, and the kernel lets nobody do so who is under one himself: such a tree cannot be hidden from CRIU (hide_memory,
 * hide_maps). What cannot be looked at counts as filtered. */
bool fm_tree_is_filtered(pid_t root);
/* What CRIU cannot dump, in plain words, found without freezing (io_uring descriptors, …; processes of the pid namespace outside
 * the tree). *ret: strv, may be NULL when none. */
int fm_tree_blockers(pid_t nest_pid, pid_t root, char ***ret, struct fm_error *err);

#endif
