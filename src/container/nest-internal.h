/* SPDX-License-Identifier: MIT */
/*
 * nest-internal.h - the parts of `fleximigrate-nest`: streams (nest-io.c), control socket (nest-control.c), marks (nest-marks.c),
 * the application and the loop (nest-main.c). One process, one thread, one struct nest; links nothing but libc.
 */
#ifndef FM_CONTAINER_NEST_INTERNAL_H
#define FM_CONTAINER_NEST_INTERNAL_H

#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "container/bundle.h" /* FM_NEST_RUN_MOUNT */
#include "container/nest.h"

#define NEST_MAX_CLIENTS   8
#define NEST_STREAM_BUF    65536
#define NEST_ADOPT_POLL_MS 100
#define NEST_HEALTH_MS     5000

/* One of the application's outputs: a fifo inside the control folder, copied to one of our own descriptors. */
struct nest_stream {
	int in;   /* reads the fifo, non-blocking */
	int hold; /* a write end of our own, so that `in` never sees the end of file */
	int out;  /* 1 or 2 */
	bool out_socket;
	bool out_pipe;
	bool out_broken; /* nobody listens any more: read and drop */
	size_t off, len; /* what waits in buf */
	size_t budget;   /* how much may still be read; SIZE_MAX until the application has ended */
	char buf[NEST_STREAM_BUF];
};

struct nest_kept {
	uint64_t key;
	int fd;
};

struct nest {
	enum fm_nest_state state;
	char **argv;      /* of the application, as we were told to start it */
	pid_t app;        /* 0 = none (any more) */
	int app_pidfd;    /* -1 where the kernel or a seccomp filter refuses pidfds */
	bool app_foreign; /* adopted, and not yet our child: somebody else may reap it */
	int app_status;   /* wait status, when state is EXITED, or GONE with app == 0 */
	bool finishing;   /* the application has ended: drain, then exit with exit_code */
	int exit_code;
	sigset_t held; /* signals that arrived while HELD */
	int signal_fd;
	int listen_fd;
	int clients[NEST_MAX_CLIENTS];
	struct nest_kept kept[FM_NEST_MAX_KEPT]; /* sorted by key */
	unsigned n_kept;
	struct nest_stream streams[2];
};

/* "fleximigrate-nest: WHAT: strerror(errnum)" on stderr; errnum 0 leaves the reason out. */
void nest_say(const char *what, int errnum);

/* nest-io.c. open: 0 or -1 with errno. */
int nest_stream_open(struct nest_stream *s, const char *name, int out);
void nest_stream_poll(const struct nest_stream *s, struct pollfd *p);
void nest_stream_step(struct nest_stream *s, short revents);
void nest_stream_finish(struct nest_stream *s);
bool nest_stream_drained(const struct nest_stream *s);

/* nest-control.c */
int nest_control_open(struct nest *n);
void nest_control_accept(struct nest *n);
/* `--health`, run inside of the container: 0 when PID 1 is a nest whose loop turns, else 1 with the reason on stderr. It ends with its application, so that one runs or is waited for. */
int nest_health(void);
/* One packet of clients[i]: answers, or closes it. */
void nest_control_serve(struct nest *n, unsigned i);

/* nest-marks.c: see nest.h. set and clear are durable when they return; 0 or an errno. clear takes all of them away. */
bool nest_mark_is_set(const char *name);
int nest_mark_set(const char *name);
int nest_marks_clear(void);
/* The control folder, where it is missing and may be made. 0 or -1 with errno. */
int nest_folder_make(void);

/* nest-main.c: the application. 0 or an errno. */
int nest_adopt(struct nest *n, pid_t pid);
int nest_start(struct nest *n); /* that of our own command line */
void nest_unhold(struct nest *n);

#endif
