/* SPDX-License-Identifier: MIT */
/*
 * http.c - see http.h. libcurl's easy handle in a multi handle of its own: so one loop waits for the server, the deadline and the cancel descriptor.
 *
 * What libcurl would do of its own accord is switched off: other protocols, redirects, proxies, netrc, signals, waiting for "100 Continue", and waiting for the thread that looks up a name when the
 * call is over before the name server has answered.
 */
#include "loop/http.h"

#include <curl/curl.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

#include "basic/clock.h"
#include "basic/limits.h"
#include "basic/str.h"

#define WHERE_MAX 160

struct transfer {
	const struct fm_http_request *r;
	char where[WHERE_MAX]; /* the URL without its query, for messages */
	struct fm_buf body;
	size_t header_bytes, max_bytes;
	bool too_large;
	char detail[CURL_ERROR_SIZE];
};

static void slist_done(struct curl_slist **l)
{
	curl_slist_free_all(*l);
}

FM_DEFINE_CLEANUP(CURL *, curl_easy_cleanup);
FM_DEFINE_CLEANUP(CURLM *, curl_multi_cleanup);

void fm_http_response_done(struct fm_http_response *r)
{
	free(r->body);
	*r = (struct fm_http_response){ 0 };
}

/* ---- what is to be sent ---- */

static bool is_visible(const char *s)
{
	for (; *s; s++)
		if (*s <= ' ' || *s > '~')
			return false;
	return true;
}

static void where_of(const char *url, char ret[WHERE_MAX])
{
	size_t n = strcspn(url, "?#");

	(void)snprintf(ret, WHERE_MAX, "%.*s", (int)(n < WHERE_MAX ? n : WHERE_MAX - 1), url);
}

int fm_http_url_check(const char *url, struct fm_error *err)
{
	char where[WHERE_MAX];
	const char *host = NULL;

	if (!url)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "http: no URL");
	if (strnlen(url, FM_MAX_HTTP_URL_BYTES + 1) > FM_MAX_HTTP_URL_BYTES)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "http: a URL of more than %u characters", FM_MAX_HTTP_URL_BYTES);
	if (fm_str_startswith(url, "http://"))
		host = url + strlen("http://");
	else if (fm_str_startswith(url, "https://"))
		host = url + strlen("https://");
	where_of(url, where);
	if (!host || !is_visible(url) || strcspn(host, "/?#") == 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "http: '%s' is no URL of http:// or https://", where);
	if (memchr(host, '@', strcspn(host, "/?#"))) /* not shown */
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "http: a URL with a name or password in it; a header may carry a token");
	return 0;
}

static int header_check(const char *h, struct fm_error *err)
{
	size_t name = strcspn(h, ":");

	if (name == 0 || !h[name] || strnlen(h, FM_MAX_HTTP_HEADER_BYTES + 1) > FM_MAX_HTTP_HEADER_BYTES)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "http: a header has to be \"Name: value\" of at most %u characters",
		                    FM_MAX_HTTP_HEADER_BYTES);
	for (const char *c = h; *c; c++)
		if (((unsigned char)*c < ' ' && *c != '\t') || *c == 0x7f)
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "http: a header with control characters");
	return 0;
}

static int request_check(const struct fm_http_request *r, struct fm_error *err)
{
	size_t n = r->method ? strnlen(r->method, 17) : 0;

	if (n == 0 || n > 16 || strspn(r->method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != n)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "http: '%.16s' is no method", r->method ? r->method : "");
	if (fm_http_url_check(r->url, err) < 0)
		return -1;
	if (r->body && r->body_len > FM_MAX_HTTP_BODY_BYTES)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "http: a body of %zu bytes, at most %u can be sent", r->body_len,
		                    FM_MAX_HTTP_BODY_BYTES);
	if (r->unix_socket && (!*r->unix_socket || strlen(r->unix_socket) > FM_MAX_HTTP_SOCKET_PATH))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "http: the path of a socket has 1 to %u characters",
		                    FM_MAX_HTTP_SOCKET_PATH);
	return 0;
}

static int add_header(struct curl_slist **list, const char *h, struct fm_error *err)
{
	struct curl_slist *more;

	if (header_check(h, err) < 0)
		return -1;
	more = curl_slist_append(*list, h);
	if (!more)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "no memory for headers");
	*list = more;
	return 0;
}

static int headers_of(const struct fm_http_request *r, struct curl_slist **list, struct fm_error *err)
{
	_fm_free_ char *type = r->body ? fm_xasprintf("Content-Type: %s", r->content_type ? r->content_type : "application/json") : NULL;

	if (add_header(list, "Expect:", err) < 0 || (type && add_header(list, type, err) < 0))
		return -1;
	for (size_t i = 0; r->headers && r->headers[i]; i++) {
		if (i == FM_MAX_HTTP_HEADERS)
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "http: more than %u headers", FM_MAX_HTTP_HEADERS);
		if (add_header(list, r->headers[i], err) < 0)
			return -1;
	}
	return 0;
}

/* ---- what comes ---- */

static size_t take_body(char *data, size_t size, size_t n, void *userdata)
{
	struct transfer *t = userdata;

	n *= size;
	if (n > t->max_bytes - t->body.len) {
		t->too_large = true;
		return 0;
	}
	fm_buf_add(&t->body, data, n);
	return n;
}

static size_t take_header(char *data, size_t size, size_t n, void *userdata)
{
	struct transfer *t = userdata;

	t->header_bytes += size * n;
	t->too_large = t->header_bytes > FM_MAX_HTTP_RESPONSE_HEADER_BYTES;
	return t->too_large ? 0 : size * n;
}

static curl_socket_t open_socket(void *userdata, curlsocktype purpose, struct curl_sockaddr *a)
{
	return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

/* ---- the call ---- */

static void library_init(void)
{
	(void)curl_global_init(CURL_GLOBAL_DEFAULT);
}

/* CURLE_OK as long as all were taken */
static CURLcode set_up_what(CURL *c, struct transfer *t, struct curl_slist *headers)
{
	const struct fm_http_request *r = t->r;
	CURLcode rc = CURLE_OK;

#define SET(option, value) (rc = rc == CURLE_OK ? curl_easy_setopt(c, option, value) : rc)
	SET(CURLOPT_URL, r->url);
	SET(CURLOPT_HTTPHEADER, headers);
	if (r->body) {
		SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->body_len);
		SET(CURLOPT_POSTFIELDS, r->body);
	}
	if (fm_streq(r->method, "HEAD"))
		SET(CURLOPT_NOBODY, 1L);
	SET(CURLOPT_CUSTOMREQUEST, r->method);
	if (r->unix_socket)
		SET(CURLOPT_UNIX_SOCKET_PATH, r->unix_socket);
	if (r->ca_file)
		SET(CURLOPT_CAINFO, r->ca_file);
	SET(CURLOPT_WRITEFUNCTION, take_body);
	SET(CURLOPT_WRITEDATA, (void *)t);
	SET(CURLOPT_HEADERFUNCTION, take_header);
	SET(CURLOPT_HEADERDATA, (void *)t);
	SET(CURLOPT_ERRORBUFFER, t->detail);
	return rc;
}

static CURLcode set_up_how(CURL *c)
{
	CURLcode rc = CURLE_OK;

	SET(CURLOPT_PROTOCOLS_STR, "http,https");
	SET(CURLOPT_FOLLOWLOCATION, 0L);
	SET(CURLOPT_PROXY, "");
	SET(CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
	SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	SET(CURLOPT_USERAGENT, "fleximigrate");
	SET(CURLOPT_NOSIGNAL, 1L);
	SET(CURLOPT_QUICK_EXIT, 1L);
	SET(CURLOPT_OPENSOCKETFUNCTION, open_socket);
#undef SET
	return rc;
}

static int failure(const struct transfer *t, CURLcode code, struct fm_error *err)
{
	static const struct {
		CURLcode code;
		enum fm_code meaning;
	} meanings[] = {
		{ CURLE_COULDNT_RESOLVE_HOST, FM_E_UNAVAILABLE },
		{ CURLE_COULDNT_CONNECT, FM_E_UNAVAILABLE },
		{ CURLE_GOT_NOTHING, FM_E_UNAVAILABLE },
		{ CURLE_SEND_ERROR, FM_E_UNAVAILABLE },
		{ CURLE_RECV_ERROR, FM_E_UNAVAILABLE },
		{ CURLE_PARTIAL_FILE, FM_E_UNAVAILABLE },
		{ CURLE_SSL_CONNECT_ERROR, FM_E_UNAVAILABLE },
		{ CURLE_OPERATION_TIMEDOUT, FM_E_DEADLINE_EXCEEDED },
		{ CURLE_PEER_FAILED_VERIFICATION, FM_E_UNAUTHENTICATED },
		{ CURLE_SSL_CACERT_BADFILE, FM_E_INVALID_ARGUMENT },
		{ CURLE_URL_MALFORMAT, FM_E_INVALID_ARGUMENT },
		{ CURLE_UNSUPPORTED_PROTOCOL, FM_E_DATA_LOSS }, /* HTTP/0.9: anything that is no HTTP */
		{ CURLE_WEIRD_SERVER_REPLY, FM_E_DATA_LOSS },
		{ CURLE_OUT_OF_MEMORY, FM_E_RESOURCE_EXHAUSTED },
	};
	enum fm_code meaning = FM_E_UNAVAILABLE;

	if (t->too_large)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "http: %s: an answer of more than %zu bytes, or too many headers",
		                    t->where, t->max_bytes);
	for (size_t i = 0; i < FM_ARRAY_SIZE(meanings); i++)
		if (meanings[i].code == code)
			meaning = meanings[i].meaning;
	(void)fm_error_set(err, meaning, "http: %s: %.256s", t->where, t->detail[0] ? t->detail : curl_easy_strerror(code));
	if (code == CURLE_PEER_FAILED_VERIFICATION)
		(void)fm_error_hint(err, "the server's certificate is not by an authority that is known here, or for another name");
	return -1;
}

static bool is_readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return fd >= 0 && poll(&p, 1, 0) > 0;
}

/* Until the transfer is over, well or not: *ret says which. */
static int drive(CURLM *multi, const struct transfer *t, CURLcode *ret, struct fm_error *err)
{
	struct curl_waitfd cancel = { .fd = t->r->cancel_fd, .events = CURL_WAIT_POLLIN };
	int running = 1, queued;

	for (;;) {
		if (is_readable(t->r->cancel_fd))
			return fm_error_set(err, FM_E_CANCELLED, "http: %s: cancelled", t->where);
		if (curl_multi_perform(multi, &running) != CURLM_OK)
			return fm_error_set(err, FM_E_INTERNAL, "http: %s: libcurl does not go on", t->where);
		if (running == 0)
			break;
		int left_ms = fm_deadline_left_ms(t->r->deadline_ms);
		if (left_ms == 0)
			return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "http: %s: no whole answer within the time", t->where);
		if (curl_multi_poll(multi, &cancel, t->r->cancel_fd >= 0, left_ms, NULL) != CURLM_OK)
			return fm_error_set(err, FM_E_INTERNAL, "http: %s: waiting for it failed", t->where);
	}
	const struct CURLMsg *m = curl_multi_info_read(multi, &queued);
	if (!m || m->msg != CURLMSG_DONE)
		return fm_error_set(err, FM_E_INTERNAL, "http: %s: libcurl does not say how it ended", t->where);
	*ret = m->data.result;
	return 0;
}

static int perform(CURL *c, struct transfer *t, struct fm_error *err)
{
	_fm_cleanup_(curl_multi_cleanupp) CURLM *multi = curl_multi_init();
	CURLcode code = CURLE_OK;

	if (!multi || curl_multi_add_handle(multi, c) != CURLM_OK)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "http: no memory for a request");
	int rc = drive(multi, t, &code, err);
	(void)curl_multi_remove_handle(multi, c);
	if (rc < 0)
		return -1;
	return code == CURLE_OK ? 0 : failure(t, code, err);
}

static size_t limit_of(const struct fm_http_request *r)
{
	return r->max_response_bytes && r->max_response_bytes < FM_MAX_HTTP_RESPONSE_BYTES ? r->max_response_bytes
	                                                                                   : FM_MAX_HTTP_RESPONSE_BYTES;
}

static int call(struct transfer *t, struct fm_http_response *ret, struct fm_error *err)
{
	_fm_cleanup_(curl_easy_cleanupp) CURL *c = curl_easy_init(); /* goes before the headers that it uses */
	_fm_cleanup_(slist_done) struct curl_slist *headers = NULL;
	long status = 0;

	if (!c)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "http: no memory for a request");
	if (headers_of(t->r, &headers, err) < 0)
		return -1;
	CURLcode rc = set_up_what(c, t, headers);
	if (rc == CURLE_OK)
		rc = set_up_how(c);
	if (rc != CURLE_OK)
		return fm_error_set(err, FM_E_INTERNAL, "http: %s: libcurl does not take it: %s", t->where, curl_easy_strerror(rc));
	if (perform(c, t, err) < 0)
		return -1;
	(void)curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
	fm_buf_add(&t->body, "", 0);
	*ret = (struct fm_http_response){ .status = (unsigned)status, .body_len = t->body.len };
	ret->body = t->body.data ? FM_TAKE_PTR(t->body.data) : fm_xstrdup("");
	return 0;
}

int fm_http_call(const struct fm_http_request *r, struct fm_http_response *ret, struct fm_error *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct transfer t = { .r = r, .max_bytes = limit_of(r) };

	if (request_check(r, err) < 0)
		return -1;
	where_of(r->url, t.where);
	(void)pthread_once(&once, library_init);
	int rc = call(&t, ret, err);
	fm_buf_done(&t.body);
	return rc;
}

/* ---- what the answer means ---- */

static enum fm_code meaning_of(unsigned status)
{
	switch (status) {
	case 401:
		return FM_E_UNAUTHENTICATED;
	case 403:
		return FM_E_PERMISSION_DENIED;
	case 404:
	case 410:
		return FM_E_NOT_FOUND;
	case 405:
	case 501:
		return FM_E_UNIMPLEMENTED;
	case 409:
	case 412:
		return FM_E_ABORTED;
	case 413:
	case 429:
		return FM_E_RESOURCE_EXHAUSTED;
	default:
		return status >= 500 ? FM_E_UNAVAILABLE : FM_E_FAILED_PRECONDITION;
	}
}

int fm_http_expect_ok(const struct fm_http_request *r, const struct fm_http_response *answer, struct fm_error *err)
{
	char where[WHERE_MAX];

	if (answer->status >= 200 && answer->status < 300)
		return 0;
	where_of(r->url, where);
	return fm_error_set(err, meaning_of(answer->status), "http: %s %s answers %u%s%.160s", r->method, where, answer->status,
	                    answer->body[0] ? ": " : "", answer->body);
}
