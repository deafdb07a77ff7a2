/* SPDX-License-Identifier: MIT */
/*
 * nest.h - talking to `fleximigrate-nest`, PID 1 of a parent container, and its wire format.
 *
 * The nest is a small static program: it starts the application as an *inner tree* (own session, child subreaper set before exec so that
 * orphans stay in the tree, pids from FM_NEST_FIRST_PID on), forwards signals and output, reaps, and ends with the application's exit
 * status. When it is to wait it starts nothing until a restored tree is adopted or it is told to start. It also keeps descriptors for others (the
 * userfaultfds of a post-copy restore), so that a crash of the fault server blocks faults instead of reading zeros.
 *
 * Output: the application's stdout and stderr are named pipes inside the control folder (FM_NEST_RUN_MOUNT/out, /err), so that CRIU
 * finds them by path on the destination too; the nest copies what arrives to its own stdout and stderr, i.e. to where the orchestrator
 * listens.
 *
 * When the application ends, what it wrote before is copied to the end (however slow the listener), then the nest exits with its
 * status, 128 + signal for a killed one, 127 / 126 when it could not be started (the reason is on stderr).
 *
 * Control: SOCK_SEQPACKET Unix socket <control folder>/nest.sock; one struct fm_nest_request per packet, one struct fm_nest_reply back.
 * The nest answers only peers from outside its pid namespace (SO_PEERCRED pid 0): the application cannot talk to it.
 *
 * States: EMPTY (waits, nothing adopted or started) -> RUNNING -> HELD (the agent stopped the tree: signals are not forwarded, but remembered;
 * they are delivered on the way back) -> RUNNING | GONE; EXITED. LEAVE needs HELD, so HOLD comes first. In GONE (the tree was moved
 * away and is killed here) signals are ignored and the nest ends with FM_NEST_EXIT_MOVED once the application is gone. An EMPTY nest ends by
 * SIGTERM, SIGINT, SIGQUIT or SIGHUP, with 128 + signal. Output is copied in every state.
 *
 * An orchestrator that sees a parent end may start it again (restart policies, a daemon's or a host's restart), always with the same command line, and an application started anew may be a second copy of
 * one that runs elsewhere. So what a parent does when it is started is said by marks, files in the control folder that are on disk before anybody relies on them:
 *
 *   FM_NEST_WAITING    somebody will say what belongs here: it waits, EMPTY. Written before the parent is made; it stays while an adopted tree may yet be given back (what takes it away is FENCE 0 or START), so
 *                      that a parent that dies meanwhile, and is started again, is empty.
 *   FM_NEST_HELD_MARK  the application is being moved away: nothing is started, it ends with FM_NEST_EXIT_MOVED. By FENCE 1, before the application is held; taken away by FENCE 0 when it stays.
 *   FM_NEST_MOVED      it has moved away: likewise, for good. By LEAVE; when it cannot be written LEAVE fails, and the tree is HELD as before.
 *
 * FM_NEST_WAITING (and --wait, for parents run by hand) comes before the others. With none of them the application is started, as in any container.
 *
 * A control folder that is missing is made where that is possible, and so are the fifos in it: a parent run by hand needs nothing from the host.
 */
#ifndef FM_CONTAINER_NEST_H
#define FM_CONTAINER_NEST_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "basic/error.h"

#define FM_NEST_FIRST_PID  500
#define FM_NEST_MOVED      "moved" /* marks in the control folder, see above */
#define FM_NEST_HELD_MARK  "held"
#define FM_NEST_WAITING    "waiting"
#define FM_NEST_EXIT_MOVED 97  /* documented exit status of a parent whose tree has been moved away */
#define FM_NEST_EXIT_SETUP 98  /* the nest itself could not work; reason on stderr */
#define FM_NEST_MAX_KEPT   512 /* one a process of a post-copy restore; descriptors are limited (1,024 by default) */
#define FM_NEST_VERSION    1

enum fm_nest_op {
	FM_NEST_STATUS = 1,
	FM_NEST_ADOPT = 2, /* arg: pid (in the nest's namespace) of the restored root, from now on the application. State EMPTY only. */
	FM_NEST_HOLD = 3,  /* stop forwarding signals; does not stop the tree */
	FM_NEST_UNHOLD = 4,
	FM_NEST_LEAVE = 5, /* the application's end is expected: the tree has moved away. When it is gone, exit FM_NEST_EXIT_MOVED. */
	FM_NEST_KEEP = 6,  /* keep the attached descriptor under `key` (not UINT64_MAX); replaces an older one of the same key */
	FM_NEST_FETCH = 7, /* reply carries duplicates of up to 16 kept descriptors with key >= arg, their keys in reply.keys */
	FM_NEST_DROP = 8,  /* close the descriptor of `key`; key UINT64_MAX = all */
	FM_NEST_START =
	        9, /* start the program of the command line. State EMPTY only, and not where the application is elsewhere. Takes the marks away. */
	FM_NEST_FENCE =
	        10, /* arg 1: mark as held, an application must be here. arg 0: the application belongs here (or has ended): takes every mark away; not when EMPTY or GONE. */
};

enum fm_nest_state { FM_NEST_EMPTY = 1, FM_NEST_RUNNING = 2, FM_NEST_HELD = 3, FM_NEST_GONE = 4, FM_NEST_EXITED = 5 };

struct fm_nest_request {
	uint32_t version, op;
	uint64_t arg, key;
};
struct fm_nest_reply {
	uint32_t version, state;
	int32_t error;       /* 0 or errno */
	int32_t app_pid;     /* in the nest's pid namespace, 0 = none */
	int32_t exit_status; /* when EXITED: wait status */
	uint32_t n_kept;
	uint32_t n_keys;
	uint32_t reserved;
	uint64_t keys[16];
};

/*
 * ---- client side (agent). control_dir: host path of the control folder. Each call connects, asks, closes; deadline 5 s. Any thread.
 * No socket is NOT_FOUND, nobody listening UNAVAILABLE, a listener that is not the PID 1 of another pid namespace PERMISSION_DENIED (the
 * application may have replaced the socket), a request that does not fit the state FAILED_PRECONDITION.
 */
struct fm_nest_status {
	enum fm_nest_state state;
	pid_t app_ns_pid;
	int exit_status;
	unsigned n_kept;
};
int fm_nest_status(const char *control_dir, struct fm_nest_status *ret, struct fm_error *err);
int fm_nest_adopt(const char *control_dir, pid_t ns_pid, struct fm_error *err);
int fm_nest_hold(const char *control_dir, int on, struct fm_error *err);
int fm_nest_leave(const char *control_dir, struct fm_error *err);
int fm_nest_start(const char *control_dir, struct fm_error *err);
/* on == 0 works without a nest, too: then the marks are taken away here. */
int fm_nest_fence(const char *control_dir, int on, struct fm_error *err);
int fm_nest_keep(const char *control_dir, uint64_t key, int fd, struct fm_error *err);
/* ret_fds, ret_keys: malloc'ed, n entries */
int fm_nest_fetch(const char *control_dir, int **ret_fds, uint64_t **ret_keys, size_t *ret_n, struct fm_error *err);
int fm_nest_drop(const char *control_dir, uint64_t key, struct fm_error *err);

/* Prepare the control folder before the parent starts: fifos out and err, ownership uid:gid. waiting: FM_NEST_WAITING is there, durably, else it is not; other marks stay. */
int fm_nest_prepare_control(const char *control_dir, uid_t uid, gid_t gid, bool waiting, struct fm_error *err);

/* Host pid (as the caller's /proc shows it) of the process that has ns_pid in the pid namespace of nest_pid (the parent's PID 1).
 * NOT_FOUND when there is none. */
int fm_nest_host_pid(pid_t nest_pid, pid_t ns_pid, pid_t *ret, struct fm_error *err);

/* Write /proc/sys/kernel/ns_last_pid of the pid namespace of `pid`, so that the next process there gets last+1. */
int fm_pidns_set_last_pid(pid_t pid, pid_t last, struct fm_error *err);

#endif
