/* SPDX-License-Identifier: MIT */
/* server.c - see server.h. */
#include "web/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "basic/clock.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/str.h"

#define BACKLOG 64

struct fm_web_server {
	struct fm_web_server_opts o;
	struct MHD_Daemon *daemon;
	uint16_t port;
	bool local;
	char where[80]; /* "127.0.0.1:9401" */

	/* the server's thread only */
	struct MHD_Response *last; /* the newest text of /metrics; NULL: none */
	uint64_t last_ms;
	unsigned texts; /* of /metrics that exist: `last`, and older ones that somebody still reads */
};

/* One text that MHD frees when the last reader has it. */
struct text {
	struct fm_web_server *server;
	char *data;
};

static void free_text(void *cls)
{
	struct text *t = cls;
	t->server->texts--;
	free(t->data);
	free(t);
}

static void forget_last(struct fm_web_server *s)
{
	if (s->last)
		MHD_destroy_response(s->last); /* our reference; readers have theirs */
	s->last = NULL;
}

static struct MHD_Response *plain(const char *text)
{
	struct MHD_Response *r = MHD_create_response_from_buffer(strlen(text), (void *)text, MHD_RESPMEM_MUST_COPY);
	if (r)
		(void)MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, "text/plain; charset=utf-8");
	return r;
}

static enum MHD_Result say(struct MHD_Connection *c, unsigned code, const char *text)
{
	struct MHD_Response *r = plain(text);
	if (!r)
		return MHD_NO;
	if (code == MHD_HTTP_METHOD_NOT_ALLOWED)
		(void)MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
	enum MHD_Result rc = MHD_queue_response(c, code, r);
	MHD_destroy_response(r);
	return rc;
}

static int make_text(struct fm_web_server *s, struct fm_error *err)
{
	struct fm_exposition *x = fm_exposition_new(FM_MAX_WEB_RESPONSE_BYTES);
	struct text *t = calloc(1, sizeof(*t));
	size_t len = 0;
	if (!t)
		abort();
	t->server = s;
	s->o.metrics(s->o.userdata, x);
	int rc = fm_exposition_take(x, &t->data, &len, err);
	fm_exposition_free(x);
	s->texts++; /* free_text takes it away again, whoever calls it */
	if (rc == 0) {
		s->last = MHD_create_response_from_buffer_with_free_callback_cls(len, t->data, free_text, t);
		if (!s->last)
			rc = fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	}
	if (rc < 0) {
		free_text(t);
		return -1;
	}
	(void)MHD_add_response_header(s->last, MHD_HTTP_HEADER_CONTENT_TYPE, FM_EXPOSITION_CONTENT_TYPE);
	s->last_ms = fm_now_ms();
	return 0;
}

static enum MHD_Result metrics(struct fm_web_server *s, struct MHD_Connection *c)
{
	struct fm_error err = FM_ERROR_INIT;
	if (!s->last || fm_now_ms() >= s->last_ms + FM_WEB_FRESH_MS) {
		forget_last(s);
		if (s->texts >= FM_MAX_WEB_RESPONSES)
			return say(c, MHD_HTTP_SERVICE_UNAVAILABLE, "earlier answers are still being read; ask again\n");
		if (make_text(s, &err) < 0)
			return say(c, MHD_HTTP_INTERNAL_SERVER_ERROR, err.message);
	}
	return MHD_queue_response(c, MHD_HTTP_OK, s->last);
}

static enum MHD_Result readiness(struct fm_web_server *s, struct MHD_Connection *c)
{
	struct fm_error err = FM_ERROR_INIT;
	if (s->o.ready(s->o.userdata, &err) == 0)
		return say(c, MHD_HTTP_OK, "ready\n");
	_fm_free_ char *text = fm_xasprintf("%s\n", err.message);
	return say(c, MHD_HTTP_SERVICE_UNAVAILABLE, text);
}

/* Called when the headers are there (*state is NULL), and again when the body is. */
static enum MHD_Result answer(void *cls, struct MHD_Connection *c, const char *url, const char *method, const char *version,
                              const char *body, size_t *body_len, void **state)
{
	struct fm_web_server *s = cls;
	if (!fm_streq(method, MHD_HTTP_METHOD_GET) && !fm_streq(method, MHD_HTTP_METHOD_HEAD))
		return say(c, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD\n");
	if (*body_len > 0)
		return MHD_NO; /* what is asked for needs none; the connection ends */
	if (!*state) {
		*state = s;
		return MHD_YES;
	}
	if (fm_streq(url, "/metrics"))
		return metrics(s, c);
	if (fm_streq(url, "/healthz"))
		return say(c, MHD_HTTP_OK, "ok\n");
	if (fm_streq(url, "/readyz"))
		return readiness(s, c);
	return say(c, MHD_HTTP_NOT_FOUND, "there are /metrics, /healthz and /readyz\n");
}

static int listen_on(const char *address, int *ret_fd, struct fm_error *err)
{
	_fm_free_ char *loopback = address[0] == ':' ? fm_xasprintf("127.0.0.1%s", address) : NULL;
	return fm_tcp_listen(loopback ? loopback : address, BACKLOG, ret_fd, err);
}

static int look_where(struct fm_web_server *s, int fd, struct fm_error *err)
{
	union {
		struct sockaddr any;
		struct sockaddr_in in4;
		struct sockaddr_in6 in6;
	} a = { 0 };
	socklen_t n = sizeof(a);
	char host[INET6_ADDRSTRLEN] = "";
	if (getsockname(fd, &a.any, &n) < 0)
		return fm_error_errno(err, errno, "cannot tell where it listens");
	bool in6 = a.any.sa_family == AF_INET6;
	s->port = ntohs(in6 ? a.in6.sin6_port : a.in4.sin_port);
	s->local = in6 ? IN6_IS_ADDR_LOOPBACK(&a.in6.sin6_addr) != 0 : ntohl(a.in4.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	(void)inet_ntop(a.any.sa_family, in6 ? (const void *)&a.in6.sin6_addr : &a.in4.sin_addr, host, sizeof(host));
	(void)snprintf(s->where, sizeof(s->where), in6 ? "[%s]:%u" : "%s:%u", host, s->port);
	return 0;
}

int fm_web_server_new(const struct fm_web_server_opts *o, struct fm_web_server **ret, struct fm_error *err)
{
	_fm_close_ int fd = -1;
	struct fm_web_server *s = calloc(1, sizeof(*s));
	if (!s)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	s->o = *o;
	if (listen_on(o->address, &fd, err) < 0 || look_where(s, fd, err) < 0 || fm_set_nonblocking(fd, true, err) < 0) {
		free(s);
		return fm_error_prefix(err, "HTTP for monitoring");
	}
	s->daemon = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_AUTO, 0, NULL, NULL, answer, s, MHD_OPTION_LISTEN_SOCKET, fd,
	                             MHD_OPTION_CONNECTION_LIMIT, FM_MAX_WEB_CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT,
	                             (unsigned)FM_WEB_TIMEOUT_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)FM_MAX_WEB_REQUEST_BYTES,
	                             MHD_OPTION_END);
	if (!s->daemon) {
		free(s);
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "HTTP for monitoring: cannot start its thread on %s", o->address);
	}
	(void)FM_TAKE_FD(fd); /* closed by the daemon */
	*ret = s;
	return 0;
}

uint16_t fm_web_server_port(const struct fm_web_server *s)
{
	return s->port;
}

bool fm_web_server_is_local(const struct fm_web_server *s)
{
	return s->local;
}

void fm_web_server_log(const struct fm_web_server *s, struct fm_log *log, const char *component)
{
	if (s->local)
		fm_log_write(log, FM_LOG_INFO, component, NULL, "Metrics are served on http://%s/metrics.", s->where);
	else
		fm_log_write(log, FM_LOG_WARN, component, NULL,
		             "Metrics are served on http://%s/metrics, without TLS: whoever reaches that address reads the names of hosts "
		             "and containers, and figures.",
		             s->where);
}

void fm_web_server_free(struct fm_web_server *s)
{
	if (!s)
		return;
	MHD_stop_daemon(s->daemon);
	forget_last(s);
	free(s);
}
