/* SPDX-License-Identifier: MIT */
/*
 * io.h - files and descriptors: whole reads and writes, durable replacement, trees, sockets.
 *
 * All descriptors are opened O_CLOEXEC. Functions that promise durability say "durable": file data and the directory entry are fsync'ed
 * before they return. Limits are parameters, never unlimited. Thread-safe (no state).
 */
#ifndef FM_BASIC_IO_H
#define FM_BASIC_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "basic/error.h"

/*
 * Read exactly / write exactly n bytes, retrying EINTR and short counts. EOF before n is DATA_LOSS. For blocking descriptors: EAGAIN
 * means that a SO_RCVTIMEO / SO_SNDTIMEO has run out and is DEADLINE_EXCEEDED. Writing to a socket or pipe needs SIGPIPE ignored
 * (fm_signals_block).
 */
int fm_read_full(int fd, void *buf, size_t n, struct fm_error *err);
int fm_write_full(int fd, const void *buf, size_t n, struct fm_error *err);

/* Whole file (also /proc files of unknown size), NUL-terminated in *ret_data (free()), length without the NUL in *ret_len (may be NULL).
 * More than max_bytes is RESOURCE_EXHAUSTED. */
int fm_read_file(const char *path, size_t max_bytes, char **ret_data, size_t *ret_len, struct fm_error *err);
int fm_read_file_at(int dirfd, const char *path, size_t max_bytes, char **ret_data, size_t *ret_len, struct fm_error *err);

/* Plain write of a small file such as a sysctl or cgroup file (no create, no truncate), in one write(2). */
int fm_write_file(const char *path, const char *text, struct fm_error *err);

/* Replace path atomically and durably: tmp file beside it, fsync, rename, fsync of the directory. */
int fm_write_file_atomic(const char *path, const void *data, size_t n, mode_t mode, struct fm_error *err);

int fm_mkdir_p(const char *path, mode_t mode, struct fm_error *err);
/*
 * Remove a tree, never crossing a mount point (FAILED_PRECONDITION, what is beneath stays) or following a symbolic link. Missing
 * path is success. A path that is no directory is unlinked. Deep trees are no danger to the stack.
 */
int fm_remove_tree(const char *path, struct fm_error *err);
/* Disk space (st_blocks) of all regular files below path, not crossing mount points or following symbolic links; hard links count each. */
int fm_tree_bytes(const char *path, uint64_t *ret, struct fm_error *err);
bool fm_path_exists(const char *path);

int fm_set_nonblocking(int fd, bool on, struct fm_error *err);

/*
 * Unix sockets. type: SOCK_STREAM or SOCK_SEQPACKET. listen removes a stale socket file first (only if nobody accepts on it, else
 * ALREADY_EXISTS), creates it with `mode`. Paths longer than sun_path are handled through /proc/self/fd. connect waits at most 10 s
 * for a busy listener.
 */
int fm_unix_listen(const char *path, int type, mode_t mode, int *ret_fd, struct fm_error *err);
int fm_unix_connect(const char *path, int type, int *ret_fd, struct fm_error *err);

/*
 * TCP. "host:port", "[v6]:port"; port 0 lets the kernel choose (fm_tcp_local_port). Listen sets SO_REUSEADDR; an empty host or "*"
 * listens on every address. timeout_ms < 0 waits for ever. Names are looked up by getaddrinfo(3), whose own time limit is not
 * counted. The connected socket is blocking.
 */
int fm_tcp_listen(const char *address, int backlog, int *ret_fd, struct fm_error *err);
int fm_tcp_connect(const char *address, int timeout_ms, int *ret_fd, struct fm_error *err);
int fm_tcp_local_port(int fd, uint16_t *ret_port, struct fm_error *err);
/* accept with deadline; DEADLINE_EXCEEDED when nobody came. cancel_fd (or -1) readable ends it with CANCELLED. Makes
 * listen_fd non-blocking, so that a lost race against another acceptor cannot block; the accepted socket is blocking. */
int fm_accept(int listen_fd, int timeout_ms, int cancel_fd, int *ret_fd, struct fm_error *err);
/* poll(2) for one fd with EINTR handling: 1 ready, 0 timed out, -1 error */
int fm_wait_fd(int fd, short events, int timeout_ms, struct fm_error *err);

/*
 * One message with up to 16 descriptors over a Unix socket. More descriptors than the capacity (also 0 or n_fds NULL), or a cut
 * message, is an error and closes them all. recv returns the length (0 = EOF) in *ret_len and fds in fds[] (CLOEXEC), *n_fds in:
 * capacity, out: count.
 */
int fm_send_with_fds(int sock, const void *buf, size_t n, const int *fds, size_t n_fds, struct fm_error *err);
int fm_recv_with_fds(int sock, void *buf, size_t cap, size_t *ret_len, int *fds, size_t *n_fds, struct fm_error *err);

#endif
