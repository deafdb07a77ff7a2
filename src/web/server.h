/* SPDX-License-Identifier: MIT */
/*
 * server.h - a small HTTP server for monitoring: GET and HEAD of /metrics, /healthz, /readyz, nothing else. One thread of libmicrohttpd's own.
 *
 * No TLS and no passwords: what is exposed is names and figures, read only, and it is meant for the loopback interface or a network of the operators' own. fm_web_server_is_local says which it is.
 * What a client can take is limited: connections, the length of its request, its idle time, the number of texts that wait to be read (basic/limits.h). A text is made at most every
 * FM_WEB_FRESH_MS; who asks again within that time gets the same one.
 *
 * /healthz is 200 while the process answers. /readyz is 200 when ready() returns 0, else 503 with its message.
 */
#ifndef FM_WEB_SERVER_H
#define FM_WEB_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include "basic/error.h"
#include "basic/log.h"
#include "web/exposition.h"

#define FM_WEB_FRESH_MS  200
#define FM_WEB_TIMEOUT_S 10 /* that a connection may be idle */

struct fm_web_server;

struct fm_web_server_opts {
	const char *address; /* "127.0.0.1:9401", "[::1]:9401"; ":9401" is loopback, "*:9401" every address; port 0: the kernel chooses */
	/* Both are called by the server's thread, one at a time, from fm_web_server_new on until fm_web_server_free returns. */
	void (*metrics)(void *userdata, struct fm_exposition *x);
	int (*ready)(void *userdata, struct fm_error *err);
	void *userdata;
};
int fm_web_server_new(const struct fm_web_server_opts *o, struct fm_web_server **ret, struct fm_error *err);
uint16_t fm_web_server_port(const struct fm_web_server *s);
bool fm_web_server_is_local(const struct fm_web_server *s); /* only this machine reaches it */
/* The line that says where it serves; a warning when others than this machine reach it. */
void fm_web_server_log(const struct fm_web_server *s, struct fm_log *log, const char *component);
void fm_web_server_free(struct fm_web_server *s);

#endif
