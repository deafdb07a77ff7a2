/* SPDX-License-Identifier: MIT */
/*
 * openflow-link.c - see openflow-link.h: the connection below the requests.
 *
 * Nothing blocks in send or recv: what waits to be sent is in `out`, and one loop (fm_of_pump) sends, receives and waits for both, so that a switch that talks while we send a long bundle
 * cannot get stuck with us, each waiting for the other to read. The deadline and the cancel descriptor are looked at in each turn: a switch that is never quiet does not outrun them.
 */
#include "network/openflow-link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "basic/clock.h"
#include "basic/id.h"
#include "basic/io.h"

#define HANDSHAKE_MS_MAX  10000
#define VERSION_BIT       (1u << FM_OF_VERSION)
#define BUSY_PAUSE_MS     10
#define MESSAGE_BYTES_OUT 2048u /* of any message that is sent from here, but for an echo's data */

#define PORT_REASONS    7u /* a port came, went, or changed */
#define MISS_SEND_BYTES 128u

/* waiting */

struct fm_of_wait fm_of_wait_for(int timeout_ms, int cancel_fd)
{
	return (struct fm_of_wait){ .deadline_ms = timeout_ms < 0 ? 0 : fm_now_ms() + (uint64_t)timeout_ms,
		                    .timeout_ms = timeout_ms,
		                    .cancel_fd = cancel_fd };
}

unsigned fm_of_backoff_ms(unsigned failures, uint32_t chance)
{
	unsigned ms = FM_OF_RETRY_MS_MIN;

	if (failures == 0)
		return 0;
	for (unsigned i = 1; i < failures && ms < FM_OF_RETRY_MS_MAX; i++)
		ms *= 2;
	if (ms > FM_OF_RETRY_MS_MAX)
		ms = FM_OF_RETRY_MS_MAX;
	return ms - chance % (ms / 2 + 1);
}

/* the connection as such */

static void try_later(struct fm_of *c)
{
	uint32_t chance;

	c->failures++;
	fm_random_bytes(&chance, sizeof(chance));
	c->retry_at_ms = fm_now_ms() + fm_of_backoff_ms(c->failures, chance);
}

static void forget_traffic(struct fm_of *c)
{
	fm_of_request_end(c);
	fm_buf_done(&c->out);
	c->out = FM_BUF_INIT;
	c->out_off = c->in_len = 0;
	c->n_events = 0;
	c->events_lost = false;
	c->hello_seen = false;
	c->prepared_first = c->prepared_last = 0;
	c->asked_ms = 0;
}

/* What we have not sent yet must not be sent later by the kernel, when somebody may have decided otherwise: the connection is reset. */
int fm_of_lose(struct fm_of *c, const struct fm_error *cause)
{
	struct linger at_once = { .l_onoff = 1, .l_linger = 0 };

	if (c->fd < 0)
		return -1;
	(void)setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	(void)close(c->fd);
	c->fd = -1;
	c->why_down = *cause;
	if (c->up_since_ms && fm_now_ms() - c->up_since_ms >= FM_OF_RETRY_MS_MAX) {
		c->failures = 0; /* it was well for a long time */
		c->retry_at_ms = 0;
	} else {
		try_later(c);
	}
	forget_traffic(c);
	return -1;
}

/* Loses the connection because of what is in *local, and tells the caller. */
static int lost(struct fm_of *c, const struct fm_error *local, struct fm_error *err)
{
	(void)fm_of_lose(c, local);
	if (err)
		*err = *local;
	return fm_error_prefix(err, "switch %s", c->name);
}

int fm_of_require_up(const struct fm_of *c, struct fm_error *err)
{
	if (c->fd >= 0)
		return 0;
	return fm_error_set(err, FM_E_UNAVAILABLE, "switch %s is not connected (%.500s)", c->name,
	                    c->why_down.message[0] ? c->why_down.message : "not yet");
}

/* out */

int fm_of_queue(struct fm_of *c, struct fm_of_message *m, struct fm_error *err)
{
	uint8_t buf[MESSAGE_BYTES_OUT];
	size_t n;

	m->xid = c->next_xid;
	if (fm_of_encode(m, buf, sizeof(buf), &n, err) < 0)
		return fm_error_prefix(err, "switch %s", c->name);
	if (c->out.len - c->out_off + n > FM_MAX_OF_OUTPUT_BYTES)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "switch %s: more than %u bytes wait to be sent", c->name,
		                    FM_MAX_OF_OUTPUT_BYTES);
	c->next_xid++;
	fm_buf_add(&c->out, buf, n);
	return 0;
}

/* Its own number, and not ours to count */
static int queue_echo_reply(struct fm_of *c, const struct fm_of_message *request, struct fm_error *err)
{
	struct fm_of_message m = { .type = FM_OF_ECHO_REPLY, .echo = request->echo };
	uint32_t next = c->next_xid;

	c->next_xid = request->xid;
	int rc = fm_of_queue(c, &m, err);
	c->next_xid = next;
	return rc;
}

static int send_some(struct fm_of *c, struct fm_error *err)
{
	struct fm_error e = FM_ERROR_INIT;

	while (c->out_off < c->out.len) {
		ssize_t n = send(c->fd, c->out.data + c->out_off, c->out.len - c->out_off, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return 0;
		if (n < 0) {
			(void)fm_error_errno(&e, errno, "sending");
			e.code = FM_E_UNAVAILABLE;
			return lost(c, &e, err);
		}
		c->out_off += (size_t)n;
	}
	fm_buf_done(&c->out);
	c->out = FM_BUF_INIT;
	c->out_off = 0;
	return 0;
}

/* in */

static void keep_event(struct fm_of *c, const struct fm_of_port_status *s)
{
	if (c->n_events == FM_MAX_OF_EVENTS) {
		c->event_first = (c->event_first + 1) % FM_MAX_OF_EVENTS;
		c->n_events--;
		c->events_lost = true;
	}
	c->events[(c->event_first + c->n_events++) % FM_MAX_OF_EVENTS] = *s;
}

static bool within(uint32_t xid, uint32_t first, uint32_t last)
{
	return xid - first <= last - first;
}

static int take_error(struct fm_of *c, const struct fm_of_message *m, struct fm_error *err)
{
	struct fm_of_request *r = &c->request;
	char text[160];

	if (!c->hello_seen)
		return fm_error_set(err, FM_E_UNIMPLEMENTED, "it refuses to speak OpenFlow 1.4: %s",
		                    fm_of_error_text(m->error.type, m->error.code, text, sizeof(text)));
	/* a commit is refused twice: the change that cannot be, by its number in prepare, then the commit */
	bool detail = r->is_commit && c->prepared_last && within(m->xid, c->prepared_first, c->prepared_last);
	if (!r->active || (!within(m->xid, r->first, r->last) && !detail))
		return 0;
	if (!r->refused) {
		r->refused = true;
		r->refused_xid = m->xid;
		r->error_type = m->error.type;
		r->error_code = m->error.code;
	}
	if (m->xid == r->last)
		r->done = true;
	return 0;
}

static int take_answer(struct fm_of *c, const struct fm_of_message *m, struct fm_error *err)
{
	struct fm_of_request *r = &c->request;

	if (!r->active || r->done || m->xid != r->last)
		return 0;
	if (m->type != r->want || (m->type == FM_OF_BUNDLE_CONTROL && (m->bundle.kind != r->bundle || m->bundle.id != r->bundle_id)) ||
	    (m->type == FM_OF_MULTIPART_REPLY && m->multipart.kind != r->multipart))
		return fm_error_set(err, FM_E_DATA_LOSS, "it answers with a wrong %s", fm_of_type_to_string(m->type));
	r->done = true;
	if (m->type == FM_OF_FEATURES_REPLY)
		c->features = m->features;
	if (m->type != FM_OF_MULTIPART_REPLY)
		return 0;
	r->done = !m->multipart.to_be_continued;
	if (!fm_error_is_set(&r->failure) && fm_of_take_entries(r, m, &r->failure) < 0) {
		if (r->failure.code == FM_E_DATA_LOSS) {
			*err = r->failure;
			return -1;
		}
		r->done = true;
	}
	return 0;
}

static int take_message(struct fm_of *c, const struct fm_of_message *m, struct fm_error *err)
{
	switch (m->type) {
	case FM_OF_HELLO:
		c->hello_versions = m->hello.versions;
		c->hello_seen = true;
		return 0;
	case FM_OF_ERROR:
		return take_error(c, m, err);
	case FM_OF_ECHO_REQUEST:
		return queue_echo_reply(c, m, err);
	case FM_OF_PORT_STATUS:
		keep_event(c, &m->port_status);
		return 0;
	case FM_OF_ECHO_REPLY:
	case FM_OF_FEATURES_REPLY:
	case FM_OF_MULTIPART_REPLY:
	case FM_OF_BARRIER_REPLY:
	case FM_OF_ROLE_REPLY:
	case FM_OF_BUNDLE_CONTROL:
		return take_answer(c, m, err);
	case FM_OF_OTHER:
		return 0;
	default:
		return fm_error_set(err, FM_E_DATA_LOSS, "it sends a %s, which is for controllers to send", fm_of_type_to_string(m->type));
	}
}

/* Everything whole that is in the buffer */
static int take_input(struct fm_of *c, struct fm_error *err)
{
	size_t off = 0;

	while (c->in_len - off >= FM_OF_HEADER_BYTES) {
		struct fm_of_message m;
		size_t n;

		if (fm_of_message_length(c->in + off, &n, err) < 0)
			return -1;
		if (n > c->in_len - off)
			break;
		if (fm_of_decode(c->in + off, n, &m, err) < 0 || take_message(c, &m, err) < 0)
			return -1;
		off += n;
	}
	memmove(c->in, c->in + off, c->in_len - off);
	c->in_len -= off;
	return 0;
}

/* One read, if there is anything */
static int receive_some(struct fm_of *c, struct fm_error *err)
{
	struct fm_error e = FM_ERROR_INIT;
	ssize_t n;

	do
		n = recv(c->fd, c->in + c->in_len, sizeof(c->in) - c->in_len, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return 0;
	if (n <= 0) {
		if (n < 0)
			(void)fm_error_errno(&e, errno, "receiving");
		else
			(void)fm_error_set(&e, FM_E_UNAVAILABLE, "it has closed the connection");
		e.code = FM_E_UNAVAILABLE;
		return lost(c, &e, err);
	}
	c->in_len += (size_t)n;
	c->heard_ms = fm_now_ms();
	c->asked_ms = 0;
	return take_input(c, &e) < 0 ? lost(c, &e, err) : 0;
}

int fm_of_flush(struct fm_of *c, struct fm_error *err)
{
	if (send_some(c, err) < 0 || receive_some(c, err) < 0)
		return -1;
	return send_some(c, err);
}

int fm_of_pump(struct fm_of *c, const struct fm_of_wait *w, bool (*is_done)(const struct fm_of *c), struct fm_error *err)
{
	for (;;) {
		if (fm_of_flush(c, err) < 0)
			return -1;
		if (is_done(c))
			return 0;
		if (w->deadline_ms && fm_deadline_left_ms(w->deadline_ms) == 0)
			return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "switch %s did not answer within %d ms", c->name, w->timeout_ms);
		struct pollfd p[2] = { { .fd = c->fd, .events = (short)(POLLIN | (c->out_off < c->out.len ? POLLOUT : 0)) },
			               { .fd = w->cancel_fd, .events = POLLIN } };
		int n = poll(p, 2, w->deadline_ms ? fm_deadline_left_ms(w->deadline_ms) : -1);
		if (n < 0 && errno != EINTR)
			return fm_error_errno(err, errno, "waiting for switch %s", c->name);
		if (n > 0 && p[1].revents)
			return fm_error_set(err, FM_E_CANCELLED, "cancelled while waiting for switch %s", c->name);
	}
}

/* requests */

struct fm_of_request *fm_of_request_begin(struct fm_of *c, uint32_t first, enum fm_of_type want)
{
	fm_of_request_end(c);
	c->request = (struct fm_of_request){ .active = true, .first = first, .last = c->next_xid - 1, .want = want };
	return &c->request;
}

void fm_of_request_end(struct fm_of *c)
{
	free(c->request.flows);
	free(c->request.ports);
	free(c->request.counters);
	c->request = (struct fm_of_request){ 0 };
}

static bool request_is_done(const struct fm_of *c)
{
	return c->request.done;
}

int fm_of_request_wait(struct fm_of *c, const struct fm_of_wait *w, struct fm_error *err)
{
	const struct fm_of_request *r = &c->request;
	char text[160], which[64] = "";

	if (fm_of_pump(c, w, request_is_done, err) < 0)
		return -1;
	if (fm_error_is_set(&r->failure)) {
		if (err)
			*err = r->failure;
		return fm_error_prefix(err, "switch %s", c->name);
	}
	if (!r->refused)
		return 0;
	uint32_t first = r->is_commit ? c->prepared_first : r->is_prepare ? r->first + 1 : r->first;
	uint32_t last = r->is_commit ? c->prepared_last : r->is_prepare || r->first != r->last ? r->last - 1 : r->last;
	if (first != last && within(r->refused_xid, first, last))
		(void)fm_snprintf(which, sizeof(which), NULL, "change %u of %u: ", r->refused_xid - first + 1, last - first + 1);
	return fm_error_set(err, fm_of_error_code(r->error_type, r->error_code), "switch %s refuses: %s%s", c->name, which,
	                    fm_of_error_text(r->error_type, r->error_code, text, sizeof(text)));
}

/* from nothing to a connection */

static bool hello_is_seen(const struct fm_of *c)
{
	return c->hello_seen;
}

int fm_of_ask(struct fm_of *c, struct fm_of_message *m, enum fm_of_type want, const struct fm_of_wait *w, struct fm_error *err)
{
	if (fm_of_require_up(c, err) < 0 || fm_of_queue(c, m, err) < 0)
		return -1;
	(void)fm_of_request_begin(c, m->xid, want);
	int rc = fm_of_request_wait(c, w, err);
	fm_of_request_end(c);
	return rc;
}

/*
 * Of what a switch says unasked only changes of ports are wanted. (Open vSwitch says nothing at all over connections that it accepted, until it is told how much of a packet to send.) A
 * switch that knows neither message says so in an error that belongs to no request, and is taken as it is.
 */
static int ask_for_quiet(struct fm_of *c, struct fm_error *err)
{
	struct fm_of_message async = { .type = FM_OF_SET_ASYNC, .async.port_status = PORT_REASONS };
	struct fm_of_message config = { .type = FM_OF_SET_CONFIG, .config.miss_send_bytes = MISS_SEND_BYTES };

	return fm_of_queue(c, &async, err) < 0 ? -1 : fm_of_queue(c, &config, err);
}

static int shake_hands(struct fm_of *c, const struct fm_of_wait *w, struct fm_error *err)
{
	struct fm_of_message hello = { .type = FM_OF_HELLO, .hello.versions = VERSION_BIT };
	struct fm_of_message features = { .type = FM_OF_FEATURES_REQUEST };
	struct fm_of_message role = { .type = FM_OF_ROLE_REQUEST, .role = { FM_OF_ROLE_MASTER, c->generation } };

	if (fm_of_queue(c, &hello, err) < 0 || fm_of_pump(c, w, hello_is_seen, err) < 0)
		return -1;
	if (!(c->hello_versions & VERSION_BIT)) {
		(void)fm_error_set(err, FM_E_UNIMPLEMENTED, "switch %s does not speak OpenFlow 1.4", c->name);
		return fm_error_hint(err, "Open vSwitch: ovs-vsctl set bridge NAME protocols=OpenFlow14, or nothing at all");
	}
	if (ask_for_quiet(c, err) < 0 || fm_of_ask(c, &features, FM_OF_FEATURES_REPLY, w, err) < 0)
		return -1;
	if (c->features.auxiliary_id != 0)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "switch %s: this is an auxiliary connection", c->name);
	if (c->datapath_id && c->features.datapath_id != c->datapath_id)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "switch %s: it has datapath id %016llx now, it was %016llx", c->name,
		                    (unsigned long long)c->features.datapath_id, (unsigned long long)c->datapath_id);
	if (c->generation && fm_of_ask(c, &role, FM_OF_ROLE_REPLY, w, err) < 0)
		return -1;
	c->datapath_id = c->features.datapath_id;
	return 0;
}

static struct fm_of_wait handshake_wait(int timeout_ms, int cancel_fd)
{
	return fm_of_wait_for(timeout_ms < 0 || timeout_ms > HANDSHAKE_MS_MAX ? HANDSHAKE_MS_MAX : timeout_ms, cancel_fd);
}

/* fd is owned from now on. */
static int begin(struct fm_of *c, int fd, const struct fm_of_wait *w, struct fm_error *err)
{
	struct fm_error e = FM_ERROR_INIT;
	int on = 1;

	c->fd = fd;
	c->up_since_ms = 0;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)); /* fails on a Unix socket, which needs none */
	forget_traffic(c);
	if (shake_hands(c, w, &e) < 0) {
		(void)fm_of_lose(c, &e);
		if (err)
			*err = e;
		return -1;
	}
	c->up_since_ms = c->heard_ms = fm_now_ms();
	return 0;
}

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
	struct sockaddr_un un;
};

/* The socket's address; 0 when it is none that can be known without asking a name server. */
static socklen_t numeric_address(const char *text, union address *ret)
{
	const char *colon = strrchr(text, ':');
	char host[INET6_ADDRSTRLEN + 2];
	size_t n = colon ? (size_t)(colon - text) : 0;
	int port;

	*ret = (union address){ 0 };
	if (fm_str_startswith(text, "unix:")) {
		ret->un.sun_family = AF_UNIX;
		return fm_snprintf(ret->un.sun_path, sizeof(ret->un.sun_path), NULL, "%s", text + strlen("unix:")) < 0 ? 0
		                                                                                                       : sizeof(ret->un);
	}
	text += strlen("tcp:");
	n -= n < strlen("tcp:") ? n : strlen("tcp:");
	if (!colon || fm_parse_int(colon + 1, 1, 65535, &port, NULL) < 0 || fm_snprintf(host, sizeof(host), NULL, "%.*s", (int)n, text) < 0)
		return 0;
	if (inet_pton(AF_INET, host, &ret->v4.sin_addr) == 1) {
		ret->v4.sin_family = AF_INET;
		ret->v4.sin_port = htons((uint16_t)port);
		return sizeof(ret->v4);
	}
	if (n < 2 || host[0] != '[' || host[n - 1] != ']')
		return 0;
	host[n - 1] = '\0';
	ret->v6.sin6_family = AF_INET6;
	ret->v6.sin6_port = htons((uint16_t)port);
	return inet_pton(AF_INET6, host + 1, &ret->v6.sin6_addr) == 1 ? sizeof(ret->v6) : 0;
}

bool fm_of_address_is_numeric(const char *address)
{
	union address a;

	return (fm_str_startswith(address, "tcp:") || fm_str_startswith(address, "unix:/")) && numeric_address(address, &a) > 0;
}

/* Until fd (-1: none) is ready for `events`, for at most `ms`; DEADLINE_EXCEEDED, CANCELLED */
static int wait_for(const struct fm_of *c, int fd, short events, int ms, const struct fm_of_wait *w, struct fm_error *err)
{
	struct pollfd p[2] = { { .fd = fd, .events = events }, { .fd = w->cancel_fd, .events = POLLIN } };
	int left = fm_deadline_left_ms(w->deadline_ms);

	if (left == 0)
		return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "switch %s could not be connected to within %d ms", c->name,
		                    w->timeout_ms);
	int n = poll(p, 2, ms < left ? ms : left);
	if (n < 0 && errno != EINTR)
		return fm_error_errno(err, errno, "waiting for switch %s", c->name);
	if (n > 0 && p[1].revents)
		return fm_error_set(err, FM_E_CANCELLED, "cancelled while connecting to switch %s", c->name);
	return 0;
}

static int connect_refused(const struct fm_of *c, int failure, struct fm_error *err)
{
	(void)fm_error_errno(err, failure, "connecting to switch %s", c->name);
	if (err)
		err->code = failure == EACCES || failure == EPERM ? FM_E_PERMISSION_DENIED : FM_E_UNAVAILABLE;
	return fm_error_hint(
	        err,
	        "nothing listens there: is the switch up, and does it listen (Open vSwitch: ovs-vsctl set-controller BRIDGE ptcp:6653)?");
}

/* A listener on a Unix socket whose queue is full says EAGAIN, and nothing tells when it has room again. */
static int connect_to(const struct fm_of *c, const union address *a, socklen_t len, const struct fm_of_wait *w, int *ret_fd,
                      struct fm_error *err)
{
	_fm_close_ int fd = socket(a->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct pollfd done = { .fd = fd, .events = POLLOUT };
	int failure = 0;

	if (fd < 0)
		return fm_error_errno(err, errno, "creating a socket");
	while (connect(fd, &a->any, len) < 0 && errno != EISCONN) {
		if (errno == EAGAIN) {
			if (wait_for(c, -1, 0, BUSY_PAUSE_MS, w, err) < 0)
				return -1;
		} else if (errno == EINPROGRESS || errno == EALREADY) {
			break;
		} else if (errno != EINTR) {
			return connect_refused(c, errno, err);
		}
	}
	while (poll(&done, 1, 0) == 0)
		if (wait_for(c, fd, POLLOUT, HANDSHAKE_MS_MAX, w, err) < 0)
			return -1;
	socklen_t n = sizeof(failure);
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &n) < 0)
		return fm_error_errno(err, errno, "connecting to switch %s", c->name);
	if (failure)
		return connect_refused(c, failure, err);
	*ret_fd = FM_TAKE_FD(fd);
	return 0;
}

static int open_socket(const struct fm_of *c, const struct fm_of_wait *w, int *ret_fd, struct fm_error *err)
{
	union address a;
	socklen_t n = numeric_address(c->address, &a);

	if (n > 0)
		return connect_to(c, &a, n, w, ret_fd, err);
	if (fm_str_startswith(c->address, "unix:")) /* a long path */
		return fm_unix_connect(c->address + strlen("unix:"), SOCK_STREAM, ret_fd, err) < 0
		               ? fm_error_prefix(err, "switch %s", c->name)
		               : 0;
	return fm_tcp_connect(c->address + strlen("tcp:"), fm_deadline_left_ms(w->deadline_ms), ret_fd, err) < 0
	               ? fm_error_prefix(err, "switch %s", c->name)
	               : 0;
}

int fm_of_reconnect(struct fm_of *c, int timeout_ms, int cancel_fd, struct fm_error *err)
{
	struct fm_of_wait w = handshake_wait(timeout_ms, cancel_fd);
	struct fm_error e = FM_ERROR_INIT;
	int fd;

	if (c->fd >= 0)
		return 0;
	if (!c->address)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "switch %s has called us, and has to call again", c->name);
	if (open_socket(c, &w, &fd, &e) == 0)
		return begin(c, fd, &w, err);
	c->why_down = e;
	try_later(c);
	if (err)
		*err = e;
	return -1;
}

static int make(const struct fm_of_options *o, bool passive, struct fm_of **ret, struct fm_error *err)
{
	struct fm_of *c;
	uint32_t chance;

	if (!passive && !fm_str_startswith(o->address, "tcp:") && !fm_str_startswith(o->address, "unix:"))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%.128s' is no address of a switch: tcp:HOST:PORT or unix:PATH",
		                    o->address);
	c = calloc(1, sizeof(*c));
	if (c)
		c->events = calloc(FM_MAX_OF_EVENTS, sizeof(*c->events));
	if (!c || !c->events) {
		free(c);
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "no memory for a connection to a switch");
	}
	c->fd = -1;
	c->name = fm_xstrdup(o->address);
	c->address = passive ? NULL : fm_xstrdup(o->address);
	c->generation = o->master_generation;
	fm_random_bytes(&chance, sizeof(chance));
	c->next_xid = chance / 2 + 1; /* 0 is what switches give their own messages */
	c->next_bundle = 1;
	*ret = c;
	return 0;
}

int fm_of_new(const struct fm_of_options *o, struct fm_of **ret, struct fm_error *err)
{
	return make(o, false, ret, err);
}

int fm_of_connect(const struct fm_of_options *o, int timeout_ms, int cancel_fd, struct fm_of **ret, struct fm_error *err)
{
	_fm_of_ struct fm_of *c = NULL;

	if (make(o, false, &c, err) < 0 || fm_of_reconnect(c, timeout_ms, cancel_fd, err) < 0)
		return -1;
	*ret = FM_TAKE_PTR(c);
	return 0;
}

int fm_of_accept(int fd, const struct fm_of_options *o, int timeout_ms, int cancel_fd, struct fm_of **ret, struct fm_error *err)
{
	struct fm_of_wait w = handshake_wait(timeout_ms, cancel_fd);
	_fm_of_ struct fm_of *c = NULL;
	_fm_close_ int owned = fd;

	if (make(o, true, &c, err) < 0 || begin(c, FM_TAKE_FD(owned), &w, err) < 0)
		return -1;
	*ret = FM_TAKE_PTR(c);
	return 0;
}

void fm_of_free(struct fm_of *c)
{
	if (!c)
		return;
	if (c->fd >= 0)
		(void)close(c->fd);
	forget_traffic(c);
	free(c->events);
	free(c->name);
	free(c->address);
	free(c);
}
