/* SPDX-License-Identifier: MIT */
/* mover-internal.h - what the two sides and their recovery share; private to mover*.c. */
#ifndef FM_MIGRATION_MOVER_INTERNAL_H
#define FM_MIGRATION_MOVER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "basic/clock.h"
#include "basic/id.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/proc.h"
#include "basic/str.h"
#include "container/criu-view.h"
#include "container/images.h"
#include "container/nest.h"
#include "decision/strategy.h"
#include "loop/pool.h"
#include "migration/instances.h"
#include "migration/memory-files.h"
#include "migration/mover.h"
#include "migration/pb.h"
#include "migration/redirections.h"
#include "migration/volumes.h"
#include "network/hold.h"
#include "network/sockets.h"
#include "sync/filetree.h"
#include "sync/images-transfer.h"
#include "sync/page-source.h"
#include "sync/pager.h"
#include "sync/push.h"

#define FM_MOVER_IMAGES_MAX_BYTES (64ull << 30)
#define FM_MOVER_MAX_PHASES       24

/* Where a volume comes to, at the destination; see mover-volumes.c */
struct fm_volume_place {
	char *staging, *aside; /* aside NULL: nothing is in its way */
	char *top;             /* outermost folder that is made for it */
	bool fill, placed;
};

struct fm_mover {
	struct fm_host *h;
	char id[64];
	bool destination; /* role */
	char container[64];
	char instance[128];
	char peer[64];
	uint32_t epoch;
	enum fm_strategy strategy;
	bool lazy; /* pages are filled in by the fault server: every strategy but cold */
	struct {
		uint64_t max_downtime_ms, max_rounds_ms, bandwidth_bytes_per_s; /* 0: none, or the default */
		uint32_t max_throttle_percent;                                  /* of its processor time that may be taken away */
		uint32_t streams;                                               /* 0: as many as suit this host */
	} limits;
	char token[FM_TOKEN_LEN + 1];
	char stream_address[128];

	pthread_mutex_t lock; /* guards what follows up to the next blank line */
	pthread_cond_t changed;
	struct fm_error error; /* first failure */
	char step[64];
	struct {
		char name[24];
		uint64_t us;
	} phases[FM_MOVER_MAX_PHASES];
	size_t n_phases;
	uint64_t frozen_us;
	uint64_t wire_bytes; /* of streams that are gone */
	uint64_t pages_total, pages_done;
	unsigned n_rounds;          /* source: sent before the freeze */
	uint64_t dirty_bytes_per_s; /* source, by its rounds; 0 not measured, as the next one */
	double compressibility;
	struct {
		uint64_t since_unix_ms; /* 0: it is not paused */
		char reason[200];
	} pause;                    /* destination: pages are missing and cannot be fetched */
	uint32_t throttled_percent; /* source: the most that there was */
	bool alive_hint;            /* destination: the restored tree was seen */
	struct fm_local view;       /* of local: what liveness is asked with (control_dir, pid1, nested); never owns anything */
	bool executing;
	bool finished;     /* released or aborted: only status is answered */
	uint64_t ended_us; /* monotonic, when that came to be */
	unsigned users;

	struct fm_journal *journal;
	struct fm_stop stop; /* cancel_fd of everything that blocks */
	int images_fd;
	char images_path[1400];
	struct fm_local local;
	struct fm_endpoints *endpoints; /* NULL: it has none */
	struct fm_flows *flows;         /* NULL: no endpoint, or connections are not tracked here */
	struct fm_criu *criu;
	struct fm_stream *control, *pages;
	struct fm_nest_status nest;
	struct fm_volumes volumes; /* that travel; where: on this host */
	struct fm_memory_trees memory_trees;

	/* source */
	struct fm_manifest **volume_manifests; /* of each volume's last pass */
	char *source_rootfs, **exclude;        /* what does not travel of it */
	struct fm_manifest *manifest;
	struct fm_known *known; /* contents that the destination has; at the destination: those that it offered */
	struct fm_page_source *page_source;
	pid_t root;       /* host pid of the tree's root */
	pthread_t thread; /* source: page server; destination: accepts streams */
	bool thread_started;
	uint64_t fence_us; /* monotonic time of the fence */
	bool fenced, held, dumped;
	struct fm_rounds *rounds;        /* pre-copy and live; NULL when there are none (any more) */
	struct fm_throttle *throttle;    /* NULL: not allowed, or not needed yet */
	bool hide;                       /* CRIU is not shown the pages that are brought without it */
	struct fm_hold *hold;            /* what clients send meanwhile */
	FM_PB(ExecuteRequest) * execute; /* what was asked, with what this host changes of the network in the switch-over */

	/* destination */
	int root_fd; /* of the parent's root mount, where the runtime keeps the root filesystem itself; -1: in m->rootfs */
	struct fm_volume_place *places; /* of each volume */
	int listen_fd;
	struct fm_pager *pager;
	struct fm_incoming *incoming; /* push streams, and what came over them before the freeze */
	atomic_bool store_ready;      /* all of it has come: it says what the frozen tree had */
	int files_here_fd;            /* eventfd: the first pass is complete, and everything in its place */
	atomic_bool resumed;          /* the tree runs here */
	pthread_t control_thread;     /* follows the source */
	bool control_started;
	pthread_t follow_thread; /* follows the pager */
	bool follow_started;
	struct fm_neighbour *neighbours; /* room for FM_MAX_NEIGHBOURS */
	size_t n_neighbours;
	char *config; /* user's config.json */
	char rootfs[1500];
	FM_PB(Container) * description;
	FM_PB(PrepareDestinationRequest) * request;
	char **notes;
};

/* ---- mover.c */
int fm_mover_alloc(struct fm_host *h, const char *id, bool destination, struct fm_mover **ret, struct fm_error *err);
void fm_mover_destroy(struct fm_mover *m);
/* local is complete: let Status see it. */
void fm_mover_publish(struct fm_mover *m);
void fm_mover_step(struct fm_mover *m, const char *step);
void fm_mover_phase(struct fm_mover *m, const char *name, uint64_t us);
int fm_mover_fail(struct fm_mover *m, const struct fm_error *e); /* remembers the first failure; returns -1 */
void fm_mover_note(struct fm_mover *m, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void fm_mover_drop_streams(struct fm_mover *m);
const struct fm_stream_tls *fm_mover_tls(struct fm_mover *m);
int fm_mover_cancel_fd(struct fm_mover *m);
int fm_mover_mount_images(struct fm_mover *m, struct fm_error *err);
int fm_mover_fault(struct fm_mover *m, const char *point, struct fm_error *err);
/* The CRIU of an agent that is gone loses its peer and undoes, or ends, by itself what it was doing: nobody may touch the tree before. */
void fm_mover_await_criu(struct fm_mover *m, int timeout_ms, bool kill_it);
/* undo of every pending intent, newest first */
int fm_mover_undo(struct fm_mover *m, struct fm_error *err);

/* ---- mover-source.c */
int fm_source_prepare(struct fm_mover *m, FM_PB(PrepareSourceResponse) * resp, struct fm_error *err);
int fm_source_execute(struct fm_mover *m, uint64_t deadline_ms, struct fm_error *err);
int fm_source_release(struct fm_mover *m, struct fm_error *err);
int fm_source_abort(struct fm_mover *m, bool after_commit, struct fm_error *err);
int fm_source_recover(struct fm_mover *m, struct fm_error *err);
int fm_source_undo(struct fm_mover *m, const char *what, const char *arg, struct fm_error *err);

/* ---- rounds.c: the source's pages before the freeze, and the last set inside it. Each is nothing for other strategies. */
int fm_mover_tasks(struct fm_mover *m, struct fm_page_source_task **ret, size_t *ret_n, struct fm_error *err);
int fm_rounds_start(struct fm_mover *m, struct fm_error *err); /* with the first round, in the background */
unsigned fm_mover_streams(const struct fm_mover *m);           /* over how many it sends, or would */
int fm_rounds_run(struct fm_mover *m, struct fm_error *err);
int fm_rounds_last(struct fm_mover *m, struct fm_error *err);
int fm_rounds_start_final(struct fm_mover *m, struct fm_error *err);
int fm_rounds_frozen_fd(const struct fm_mover *m);
int fm_rounds_await_final(struct fm_mover *m, struct fm_error *err);
void fm_rounds_end(struct fm_mover *m);

/* ---- mover-volumes.c: in the order of a migration. Each is nothing where no volume travels. */
int fm_volumes_prepare_destination(struct fm_mover *m, struct fm_error *err); /* looks, refuses, makes room */
int fm_volumes_prepare_source(struct fm_mover *m, struct fm_error *err);
int fm_volumes_send(struct fm_mover *m, unsigned pass, bool last, int timeout_ms, uint64_t *ret_bytes, struct fm_error *err);
int fm_volumes_receive(struct fm_mover *m, uint8_t *buf, bool durable, int timeout_ms, struct fm_error *err);
int fm_volumes_place(struct fm_mover *m, struct fm_error *err);     /* destination, after the first pass */
int fm_volumes_note_sent(struct fm_mover *m, struct fm_error *err); /* source, after the last pass and before the commit */
void fm_volumes_left(struct fm_mover *m);                           /* source, once committed; repeatable */
void fm_volumes_came(struct fm_mover *m);                           /* destination, once it runs; repeatable */
int fm_volumes_sync(struct fm_mover *m, struct fm_error *err);      /* destination, before it counts as verified */
int fm_volumes_release_source(struct fm_mover *m, struct fm_error *err);
int fm_volumes_release_destination(struct fm_mover *m, struct fm_error *err);
void fm_volumes_revert(struct fm_mover *m); /* either: forget what fm_volumes_left or _came wrote down */
int fm_volumes_undo(struct fm_mover *m, const char *what, const char *arg, struct fm_error *err); /* intents "volume-…" */
void fm_mover_volumes_done(struct fm_mover *m);

/* ---- mover-memory-files.c: what is in the parent's tmpfs mounts. Each pass begins with a list, of nothing where there are none. */
int fm_memory_files_send(struct fm_mover *m, unsigned pass, bool last, int timeout_ms, uint64_t *ret_bytes, struct fm_error *err);
int fm_memory_files_receive(struct fm_mover *m, uint8_t *buf, int wait_ms, int timeout_ms, struct fm_error *err);

/* ---- throttle.c: what rounds.c decides is done to the processor time of the container's cgroup; nothing where it is not allowed. */
uint32_t fm_throttle_percent(const struct fm_mover *m); /* in force now */
/* What the container uses is measured while it is not throttled. */
void fm_throttle_round_begins(struct fm_mover *m);
void fm_throttle_round_ended(struct fm_mover *m);
/* -1: it cannot be done, and nothing has been changed that is not on record. */
int fm_throttle_to(struct fm_mover *m, uint32_t percent, const char *why, struct fm_error *err);
/* Everything as it was. Repeatable. */
void fm_throttle_lift(struct fm_mover *m);
int fm_throttle_undo(struct fm_mover *m, const char *was, struct fm_error *err); /* what the journal has */
void fm_throttle_free(struct fm_throttle *t);

/* ---- flows.c: tracked connections. Nothing where a host tracks none; a failure is a note. */
void fm_flows_open(struct fm_mover *m); /* either side, before the freeze */
void fm_flows_free(struct fm_mover *m);
void fm_flows_read(struct fm_mover *m); /* source, once nothing reaches the container: in the background */
int fm_flows_send(struct fm_mover *m, int timeout_ms, struct fm_error *err);                      /* and before the commit */
void fm_flows_forget(struct fm_mover *m);                                                         /* once it has left for good */
int fm_flows_take(struct fm_mover *m, const uint8_t *bytes, size_t length, struct fm_error *err); /* destination */
void fm_flows_restore(struct fm_mover *m);                                                        /* and before its ports open */

/* ---- mover-destination.c */
int fm_destination_prepare(struct fm_mover *m, FM_PB(PrepareDestinationResponse) * resp, struct fm_error *err);
int fm_destination_verify(struct fm_mover *m, const FM_PB(VerifyRequest) * req, FM_PB(VerifyResponse) * resp, struct fm_error *err);
int fm_destination_release(struct fm_mover *m, struct fm_error *err);
int fm_destination_abort(struct fm_mover *m, struct fm_error *err);
int fm_destination_recover(struct fm_mover *m, struct fm_error *err);
bool fm_destination_tree_alive(struct fm_mover *m);

/* ---- pages.c: the destination's pages after (and during) the restore */
int fm_pages_start(struct fm_mover *m, struct fm_error *err);
int fm_pages_recover(struct fm_mover *m, struct fm_error *err);
void fm_pages_refresh(struct fm_mover *m);
void fm_pages_stop(struct fm_mover *m);

/* ---- incoming.c: what the source pushes to the destination before the freeze */
/* Takes the stream, also on failure. The thread that accepts streams. */
int fm_incoming_take(struct fm_mover *m, struct fm_stream *s, const struct fm_stream_hello *what, struct fm_error *err);
/* As fm_page_store_get_run and fm_page_store_taken; nothing is here before it is certain what the frozen tree had. Any thread, until fm_incoming_end. */
size_t fm_incoming_get_run(struct fm_mover *m, pid_t ns_pid, uint64_t vaddr, size_t max, enum fm_page_have *ret_have,
                           const void **ret_page);
void fm_incoming_forget_files(struct fm_mover *m); /* pages of files: everything that is a page of a process has its own name by now */
void fm_incoming_taken(struct fm_mover *m, pid_t ns_pid, uint64_t vaddr, uint64_t n_pages);
void fm_incoming_end(struct fm_mover *m);

#endif
