/* SPDX-License-Identifier: MIT */
/*
 * http.h - one bounded request to somebody's HTTP server: a controller of switches, a load balancer, a webhook, a container engine.
 *
 * A call is a connection of its own: nothing is kept between calls, no cookies, no cache, no proxy (also not one from the environment), no compression. Redirects are never followed: they
 * are an answer like any other, and where they lead to is not where our request, and the secrets in its headers, were meant to go. Any thread. Only http.c uses libcurl.
 *
 * Every part is limited: the time (deadline_ms, the look-up of the name included), what is sent, and what is read. What the server says is the caller's to judge: fm_http_call returns 0 for any
 * whole answer, whatever its status; fm_http_expect_ok turns a status that is not 2xx into an error.
 *
 * Errors name the server without the query of the URL, which may hold a secret: INVALID_ARGUMENT a request that cannot be sent; UNAVAILABLE no connection, or one that broke;
 * DEADLINE_EXCEEDED, CANCELLED; UNAUTHENTICATED a certificate that does not hold; RESOURCE_EXHAUSTED an answer that is too large; DATA_LOSS no HTTP.
 */
#ifndef FM_LOOP_HTTP_H
#define FM_LOOP_HTTP_H

#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"
#include "basic/error.h"

struct fm_http_request {
	const char *method;         /* "GET", "POST", …: capital letters */
	const char *url;            /* http:// or https://; no name and password in it */
	const char *unix_socket;    /* NULL, or the path of the socket where the server is; the URL's host is what it is told then */
	const char *const *headers; /* NULL, or "Name: value" each and NULL at the end; at most FM_MAX_HTTP_HEADERS */
	const char *body;           /* NULL: none */
	size_t body_len;            /* at most FM_MAX_HTTP_BODY_BYTES */
	const char *content_type;   /* of the body; NULL: application/json */
	const char *ca_file;        /* PEM, instead of the system's authorities; NULL: those */
	uint64_t deadline_ms;       /* of fm_now_ms() */
	int cancel_fd;              /* -1: none */
	size_t max_response_bytes;  /* of the body; 0: FM_MAX_HTTP_RESPONSE_BYTES, which is also the most */
};

struct fm_http_response {
	unsigned status; /* 200, … */
	char *body;      /* ends with a NUL that is not counted; never NULL */
	size_t body_len;
};

int fm_http_call(const struct fm_http_request *r, struct fm_http_response *ret, struct fm_error *err);
void fm_http_response_done(struct fm_http_response *r);
#define _fm_http_response_ _fm_cleanup_(fm_http_response_done)

/*
 * 0 when the status is 2xx, else an error with the status and the beginning of what the server said about it: 400 and most others FAILED_PRECONDITION, 401 UNAUTHENTICATED, 403 PERMISSION_DENIED,
 * 404 and 410 NOT_FOUND, 405 and 501 UNIMPLEMENTED, 409 and 412 ABORTED, 413 and 429 RESOURCE_EXHAUSTED, the other 5xx UNAVAILABLE.
 */
int fm_http_expect_ok(const struct fm_http_request *r, const struct fm_http_response *answer, struct fm_error *err);

/* INVALID_ARGUMENT unless a request to this URL could be sent. For whoever reads a configuration. */
int fm_http_url_check(const char *url, struct fm_error *err);

#endif
