/* SPDX-License-Identifier: MIT */
/* sockets.h - who listens in a container, and does it answer from here: the checks of the verification. */
#ifndef FM_NETWORK_SOCKETS_H
#define FM_NETWORK_SOCKETS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "basic/error.h"

struct fm_listener {
	char address[46];
	uint16_t port;
	char protocol[5];
}; /* protocol "tcp" */

/* Listening TCP sockets (v4 and v6) in the network namespace of pid, from /proc/PID/net/tcp{,6}. *ret malloc'ed (NULL when there is none),
 * sorted by port and address, without duplicates. NOT_FOUND when the process is gone. */
int fm_listeners(pid_t pid, struct fm_listener **ret, size_t *ret_n, struct fm_error *err);
/* Number of ESTABLISHED TCP connections there. */
int fm_established_count(pid_t pid, size_t *ret, struct fm_error *err);

/* Connect (and for HTTP: GET, expect 2xx/3xx) from the calling thread's network namespace. spec: "tcp:6379" or "http:8080/healthz".
 * ip: an IPv4 or IPv6 address as text. Latency of the whole probe in *ret_latency_us (may be NULL). Failure messages name what answered ("HTTP 503"). The answer
 * read is at most 8 KiB. UNAVAILABLE: refused or a wrong answer; DEADLINE_EXCEEDED: none in time. */
int fm_probe(const char *ip, const char *spec, int timeout_ms, uint64_t *ret_latency_us, struct fm_error *err);
int fm_probe_spec_check(const char *spec, struct fm_error *err); /* syntax only */

#endif
