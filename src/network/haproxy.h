/* SPDX-License-Identifier: MIT */
/*
 * haproxy.h - a running HAProxy, asked and told over its runtime API ("stats socket … level admin"), as its management guide describes it in 9.3.
 *
 * One command a connection, in the socket's non-interactive mode: HAProxy answers and closes. It has no transactions and compares nothing: who wants to change a server asks first, and may be overtaken
 * between the two. What it says when it changes something is for people and differs between versions; so a change has been made when `fm_haproxy_look` says so afterwards, and its words are only told on.
 *
 * All of it lasts until HAProxy is reloaded: its configuration file is not written, and a reload begins with that (or with the state file, where one is configured).
 *
 * Codes: UNAVAILABLE nobody listens, or it closed without a word; PERMISSION_DENIED the socket's level is not admin; NOT_FOUND no such backend or server; DATA_LOSS what was answered is not what the
 * guide says; RESOURCE_EXHAUSTED it is too long; DEADLINE_EXCEEDED; CANCELLED. No state between calls: any thread.
 */
#ifndef FM_NETWORK_HAPROXY_H
#define FM_NETWORK_HAPROXY_H

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/error.h"

#define FM_HAPROXY_NAME_MAX 128 /* of a backend or server: letters, digits, '-', '_', '.' and ':', as HAProxy itself allows */

/* ---- words ---- */

struct fm_haproxy_address {
	char host[INET6_ADDRSTRLEN]; /* canonical */
	uint16_t port;
};

/* "10.77.0.100:6379", "[fd00::1]:6379". No names: naming it needs no name service. */
int fm_haproxy_address_parse(const char *text, struct fm_haproxy_address *ret, struct fm_error *err);
#define FM_HAPROXY_ADDRESS_TEXT (INET6_ADDRSTRLEN + 10)
const char *fm_haproxy_address_format(const struct fm_haproxy_address *a, char ret[FM_HAPROXY_ADDRESS_TEXT]);
int fm_haproxy_name_check(const char *name, struct fm_error *err);
/* "/run/haproxy/admin.sock", "tcp:192.0.2.1:9999", "tcp:[fd00::1]:9999" */
int fm_haproxy_socket_check(const char *socket, struct fm_error *err);

enum fm_haproxy_state { FM_HAPROXY_READY, FM_HAPROXY_DRAIN, FM_HAPROXY_MAINT };
const char *fm_haproxy_state_to_string(enum fm_haproxy_state s); /* as "set server … state" has it */
int fm_haproxy_state_from_string(const char *text, enum fm_haproxy_state *ret, struct fm_error *err);

/* ---- a server ---- */

struct fm_haproxy_server {
	struct fm_haproxy_address address; /* host "" when it has none */
	enum fm_haproxy_state state; /* what was ordered for this server; what it may have inherited from one that it tracks is not in it */
	bool up;                     /* takes traffic as far as checks know: not down, not soft-stopping */
	bool by_name;                /* its address comes from a name or an SRV record, and HAProxy may change it any time */
	bool checked_elsewhere;      /* health checks go to an address of their own */
	uint16_t check_port;         /* 0: the server's */
	unsigned weight;             /* at this moment */
	unsigned others_ready;       /* other servers of the backend that take new sessions now */
};

/* "show servers state BACKEND". */
int fm_haproxy_state_parse(const char *text, size_t n, const char *backend, const char *server, struct fm_haproxy_server *ret,
                           struct fm_error *err);
/* "show stat BACKEND 4 -1", CSV: sessions that the server has, and that wait for it. */
int fm_haproxy_stat_parse(const char *text, size_t n, const char *backend, const char *server, uint64_t *ret_sessions,
                          struct fm_error *err);
/* What HAProxy says to a command that it did not carry out, as an error. Returns -1. */
int fm_haproxy_reply_error(const char *text, size_t n, struct fm_error *err);

/* ---- asking and telling ---- */

struct fm_haproxy_call {
	const char *socket, *backend, *server;
	uint64_t deadline_ms; /* of fm_now_ms() */
	int cancel_fd;        /* readable: CANCELLED. -1 = none */
};

int fm_haproxy_look(const struct fm_haproxy_call *c, struct fm_haproxy_server *ret, struct fm_error *err);
int fm_haproxy_sessions(const struct fm_haproxy_call *c, uint64_t *ret, struct fm_error *err);
/* May we change servers over this socket? Changes nothing: the command is not complete, but rights come first. */
int fm_haproxy_may_change(const struct fm_haproxy_call *c, struct fm_error *err);
/*
 * These two are repeatable, and look afterwards. At `point` idle connections to the old address are closed, busy ones go on; where connections are used again (HTTP) those come to the idle ones later, still
 * to the old address, and are given new sessions.
 */
int fm_haproxy_point(const struct fm_haproxy_call *c, const struct fm_haproxy_address *to, struct fm_error *err);
int fm_haproxy_set_state(const struct fm_haproxy_call *c, enum fm_haproxy_state state, struct fm_error *err);
/* Between two questions: 0, or CANCELLED. Ends at the deadline at the latest. */
int fm_haproxy_pause(const struct fm_haproxy_call *c, unsigned ms, struct fm_error *err);

#endif
