/* SPDX-License-Identifier: MIT */
/*
 * dns-exchange.c - one request, its answer.
 *
 * UDP first, repeated with growing pauses; TCP when the server says that its answer does not fit. Each request has a socket, and so a source port, of its own, connected: the kernel lets packets of
 * the server's address and port through and no others. What comes through must have the request's number, be a response to the same kind of question about the same name, else it is as if it had not
 * come. With a key it must also be signed as the answer to this very request. A complaint without a signature may be the server's (it cannot sign when it does not know the key) or an attacker's: it
 * is believed only if nothing better comes within a moment.
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "network/dns-internal.h"

#define FIRST_PAUSE_MS   250
#define UPDATE_PAUSE_MS  1000 /* the server writes it to its disk before it answers */
#define LONGEST_PAUSE_MS 2000
#define COMPLAINT_MS     200
#define REFUSALS_MAX     2 /* one may be a server that is being restarted */

enum verdict { NOT_OURS, CUT_SHORT, COMPLAINT, ANSWER };

struct exchange {
	const struct fm_dns_call *call;
	struct fm_dns_request *request;
	struct fm_dns_answer *answer;
	uint64_t begin_ms, deadline_ms;
	unsigned refusals, foreign;
	bool complaint; /* answer holds one */
};

int fm_dns_wait(int fd, short events, uint64_t deadline_ms, int cancel_fd, struct fm_error *err)
{
	for (;;) {
		struct pollfd p[2] = { { .fd = fd, .events = events }, { .fd = cancel_fd, .events = POLLIN } };
		int left_ms = fm_deadline_left_ms(deadline_ms), r = poll(p, 2, left_ms);

		if (r < 0 && errno != EINTR)
			return fm_error_errno(err, errno, "waiting for the name service");
		if (r > 0 && p[1].revents)
			return fm_error_set(err, FM_E_CANCELLED, "cancelled while waiting for the name service");
		if (r > 0)
			return 1;
		if (r == 0 && fm_deadline_left_ms(deadline_ms) == 0)
			return 0;
	}
}

/* ---- what has come ---- */

static enum verdict judge(struct exchange *x, const uint8_t *wire, size_t n, struct fm_error *err)
{
	const struct fm_dns_request *r = x->request;
	struct fm_dns_answer a;
	bool about_it;

	/* cheap first: this is what a flood of guesses costs */
	if (n < FM_DNS_HEADER_BYTES || !(wire[2] & 0x80) || ((unsigned)wire[0] << 8 | wire[1]) != r->id ||
	    (wire[2] >> 3 & 15) != r->opcode) {
		(void)fm_error_set(err, FM_E_DATA_LOSS, "name service: what came is not the answer to the request");
		return NOT_OURS;
	}
	if (fm_dns_decode(wire, n, x->call->zone, r, &a, err) < 0)
		return NOT_OURS;
	/* servers leave the question out when they could not read it, and may in answers to updates */
	about_it = a.has_question ? a.question_matches : r->opcode == FM_DNS_OP_UPDATE || a.rcode != FM_DNS_NOERROR;
	if (!about_it) {
		(void)fm_error_set(err, FM_E_DATA_LOSS, "name service: the answer is about something else");
		return NOT_OURS;
	}
	if (a.truncated)
		return CUT_SHORT;
	if (r->mac_len == 0 || a.verified) {
		*x->answer = a;
		return ANSWER;
	}
	if (!x->complaint)
		*x->answer = a;
	return COMPLAINT;
}

/* What a server may say that does not know our key, or does not know what we want. Nothing of it tells what is in the zone: that an unsigned answer cannot. */
static bool may_be_unsigned(int rcode)
{
	return rcode == FM_DNS_FORMERR || rcode == FM_DNS_SERVFAIL || rcode == FM_DNS_NOTIMP || rcode == FM_DNS_REFUSED ||
	       rcode == FM_DNS_NOTAUTH;
}

static int complaint_error(const struct exchange *x, struct fm_error *err)
{
	const struct fm_dns_answer *a = x->answer;

	if (may_be_unsigned(a->rcode))
		return fm_dns_rcode_error(x->call->zone, a, err);
	if (a->tsig.present)
		(void)fm_error_set(err, FM_E_UNAUTHENTICATED, "the answer's signature is wrong");
	else
		(void)fm_error_set(err, FM_E_UNAUTHENTICATED, "the answer is not signed");
	return fm_error_hint(err, "is something between us and the server that answers in its place? It was not believed");
}

/* A signature says when; a server that accepts our time can still have one that we do not. BADTIME has the server's time next to ours and is told in words elsewhere. */
static int check_time(const struct exchange *x, struct fm_error *err)
{
	const struct fm_dns_tsig *t = &x->answer->tsig;
	int64_t apart_s;

	if (!x->answer->verified || t->error == FM_DNS_BADTIME)
		return 0;
	apart_s = (int64_t)t->time_s - (int64_t)(fm_realtime_ms() / 1000);
	if (apart_s >= -(int64_t)FM_DNS_FUDGE_S && apart_s <= FM_DNS_FUDGE_S)
		return 0;
	(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "the answer is signed with a time that is %lld s from this host's clock",
	                   (long long)apart_s);
	return fm_error_hint(err, "set the clocks of this host and of the name server right (NTP): signatures are good for %d s",
	                     FM_DNS_FUDGE_S);
}

/* ---- UDP ---- */

static int open_socket(const struct exchange *x, int type, int *ret_fd, int *ret_connect_errno, struct fm_error *err)
{
	const struct sockaddr_storage *to = &x->call->zone->server;
	socklen_t n = to->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
	_fm_close_ int fd = socket(to->ss_family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return fm_error_errno(err, errno, "creating a socket");
	*ret_connect_errno = connect(fd, (const struct sockaddr *)to, n) < 0 ? errno : 0;
	*ret_fd = FM_TAKE_FD(fd);
	return 0;
}

static int nobody_there(int sys_errno, struct fm_error *err)
{
	(void)fm_error_errno(err, sys_errno, "it cannot be reached");
	if (err && err->code == FM_E_INTERNAL)
		err->code = FM_E_UNAVAILABLE;
	return fm_error_hint(err, "does the name server run there, on that port?");
}

/* One packet, or the word that there is nobody. *ret: what it was. */
static int udp_receive(struct exchange *x, int fd, enum verdict *ret, struct fm_error *err)
{
	uint8_t buf[FM_DNS_UDP_MAX];
	ssize_t n = recv(fd, buf, sizeof(buf), MSG_TRUNC);

	*ret = NOT_OURS;
	if (n < 0) {
		if (errno == EAGAIN || errno == EINTR)
			return 0;
		return ++x->refusals < REFUSALS_MAX ? 0 : nobody_there(errno, err);
	}
	if ((size_t)n <= sizeof(buf))
		*ret = judge(x, buf, (size_t)n, NULL);
	x->foreign += *ret == NOT_OURS;
	return 0;
}

/* Until the answer, or it is time to ask again. */
static int udp_listen(struct exchange *x, int fd, uint64_t until_ms, enum verdict *ret, struct fm_error *err)
{
	*ret = NOT_OURS;
	for (;;) {
		uint64_t end_ms = until_ms < x->deadline_ms ? until_ms : x->deadline_ms;
		int r = fm_dns_wait(fd, POLLIN, end_ms, x->call->cancel_fd, err);

		if (r <= 0)
			return r;
		if (udp_receive(x, fd, ret, err) < 0)
			return -1;
		if (*ret == COMPLAINT && !x->complaint) {
			uint64_t moment_ms = fm_now_ms() + COMPLAINT_MS;

			x->complaint = true;
			x->deadline_ms = moment_ms < x->deadline_ms ? moment_ms : x->deadline_ms;
		}
		if (*ret == ANSWER || *ret == CUT_SHORT)
			return 0;
	}
}

static int no_answer(const struct exchange *x, struct fm_error *err)
{
	(void)fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "no answer within %llu ms (%u packets that were not its answer were ignored)",
	                   (unsigned long long)(fm_now_ms() - x->begin_ms), x->foreign);
	return fm_error_hint(err, "is it the right address and port, and do firewalls let UDP and TCP through?");
}

static int udp_exchange(struct exchange *x, enum verdict *ret, struct fm_error *err)
{
	_fm_close_ int fd = -1;
	uint64_t pause_ms = x->request->opcode == FM_DNS_OP_UPDATE ? UPDATE_PAUSE_MS : FIRST_PAUSE_MS;
	int failure = 0;

	if (open_socket(x, SOCK_DGRAM, &fd, &failure, err) < 0)
		return -1;
	if (failure)
		return nobody_there(failure, err);
	while (fm_now_ms() < x->deadline_ms) {
		if (!x->complaint && send(fd, x->request->wire, x->request->len, MSG_NOSIGNAL) < 0 && errno != EAGAIN && errno != EINTR &&
		    ++x->refusals >= REFUSALS_MAX)
			return nobody_there(errno, err);
		if (udp_listen(x, fd, fm_now_ms() + pause_ms, ret, err) < 0)
			return -1;
		if (*ret == ANSWER || *ret == CUT_SHORT)
			return 0;
		pause_ms = pause_ms * 2 < LONGEST_PAUSE_MS ? pause_ms * 2 : LONGEST_PAUSE_MS;
	}
	return x->complaint ? complaint_error(x, err) : no_answer(x, err);
}

/* ---- TCP ---- */

static int tcp_connect(struct exchange *x, int *ret_fd, struct fm_error *err)
{
	_fm_close_ int fd = -1;
	int failure = 0, r;
	socklen_t n = sizeof(failure);

	if (open_socket(x, SOCK_STREAM, &fd, &failure, err) < 0)
		return -1;
	if (failure == EINPROGRESS) {
		r = fm_dns_wait(fd, POLLOUT, x->deadline_ms, x->call->cancel_fd, err);
		if (r <= 0)
			return r < 0 ? -1 : no_answer(x, err);
		if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &n) < 0)
			failure = errno;
	}
	if (failure)
		return nobody_there(failure, err);
	*ret_fd = FM_TAKE_FD(fd);
	return 0;
}

/* All n bytes, out or in. */
static int tcp_move(struct exchange *x, int fd, bool out, uint8_t *buf, size_t n, struct fm_error *err)
{
	size_t done = 0;

	while (done < n) {
		ssize_t r = out ? send(fd, buf + done, n - done, MSG_NOSIGNAL) : recv(fd, buf + done, n - done, 0);

		if (r > 0) {
			done += (size_t)r;
			continue;
		}
		if (r == 0)
			return fm_error_set(err, FM_E_UNAVAILABLE, "it closed the connection in the middle of an answer");
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return fm_error_errno(err, errno, "over TCP");
		r = fm_dns_wait(fd, out ? POLLOUT : POLLIN, x->deadline_ms, x->call->cancel_fd, err);
		if (r <= 0)
			return r < 0 ? -1 : no_answer(x, err);
	}
	return 0;
}

static int tcp_exchange(struct exchange *x, struct fm_error *err)
{
	uint8_t out[2 + FM_DNS_REQUEST_MAX], length[2];
	_fm_close_ int fd = -1;
	_fm_free_ uint8_t *in = NULL;
	size_t n;

	out[0] = (uint8_t)(x->request->len >> 8);
	out[1] = (uint8_t)x->request->len;
	memcpy(out + 2, x->request->wire, x->request->len);
	if (tcp_connect(x, &fd, err) < 0 || tcp_move(x, fd, true, out, 2 + x->request->len, err) < 0 ||
	    tcp_move(x, fd, false, length, 2, err) < 0)
		return -1;
	n = (size_t)length[0] << 8 | length[1]; /* at most FM_DNS_MESSAGE_MAX */
	in = malloc(n ? n : 1);
	if (!in)
		return fm_error_errno(err, ENOMEM, "receiving an answer");
	if (tcp_move(x, fd, false, in, n, err) < 0)
		return -1;
	switch (judge(x, in, n, err)) {
	case ANSWER:
		return 0;
	case COMPLAINT:
		return complaint_error(x, err);
	case CUT_SHORT:
		return fm_error_set(err, FM_E_DATA_LOSS, "the answer is cut short, over TCP too");
	default:
		return -1;
	}
}

int fm_dns_exchange(const struct fm_dns_call *c, struct fm_dns_request *request, struct fm_dns_answer *ret, struct fm_error *err)
{
	struct exchange x = { .call = c, .request = request, .answer = ret, .begin_ms = fm_now_ms() };
	enum verdict v = NOT_OURS;

	x.deadline_ms = x.begin_ms + FM_DNS_DEADLINE_MAX_MS;
	if (c->deadline_ms < x.deadline_ms)
		x.deadline_ms = c->deadline_ms;
	/* who has cancelled already must not find the update done */
	if (fm_dns_wait(-1, 0, 0, c->cancel_fd, err) < 0)
		return -1;
	if (c->zone->key_name[0] && fm_dns_tsig_sign(c->zone, fm_realtime_ms() / 1000, request, err) < 0)
		return -1;
	if (udp_exchange(&x, &v, err) < 0 || (v == CUT_SHORT && tcp_exchange(&x, err) < 0))
		return -1;
	ret->tsig.mac = ret->tsig.other = NULL; /* the message is gone */
	return check_time(&x, err);
}

/* ---- in words ---- */

static int notauth_error(const struct fm_dns_zone *zone, const struct fm_dns_answer *a, struct fm_error *err)
{
	int64_t apart_s;

	switch (a->tsig.present ? a->tsig.error : 0) {
	case FM_DNS_BADSIG:
		(void)fm_error_set(err, FM_E_UNAUTHENTICATED,
		                   "NOTAUTH, BADSIG: the server has the key '%s', but our signature with it is wrong", zone->key_name);
		return fm_error_hint(err, "the secret in the file is not the one in the server's configuration");
	case FM_DNS_BADKEY:
		(void)fm_error_set(err, FM_E_UNAUTHENTICATED,
		                   "NOTAUTH, BADKEY: the server has no key '%s' for this algorithm, or not for this zone", zone->key_name);
		return fm_error_hint(err, "compare the key's name and algorithm with the server's configuration; knot says this of keys "
		                          "that its acl does not let update, too");
	case FM_DNS_BADTIME:
		apart_s = (int64_t)a->tsig.server_time_s - (int64_t)(fm_realtime_ms() / 1000);
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "NOTAUTH, BADTIME: the server's clock and this host's are %lld s apart",
		                   (long long)(apart_s < 0 ? -apart_s : apart_s));
		return fm_error_hint(err, "this host's clock is %s the server's: set both right (NTP), signatures are good for %d s",
		                     apart_s < 0 ? "ahead of" : "behind", FM_DNS_FUDGE_S);
	case FM_DNS_BADTRUNC:
		return fm_error_set(err, FM_E_UNAUTHENTICATED, "NOTAUTH, BADTRUNC: the server wants another length of signature");
	default:
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "NOTAUTH: the server is not the zone's primary server");
		return fm_error_hint(err, "is the zone's name right, and is this the server that takes its updates?");
	}
}

int fm_dns_rcode_error(const struct fm_dns_zone *zone, const struct fm_dns_answer *a, struct fm_error *err)
{
	switch (a->rcode) {
	case FM_DNS_NOERROR:
		return 0;
	case FM_DNS_FORMERR:
		return fm_error_set(err, FM_E_INTERNAL, "FORMERR: the server does not understand the request");
	case FM_DNS_SERVFAIL:
		(void)fm_error_set(err, FM_E_UNAVAILABLE, "SERVFAIL: the server failed");
		return fm_error_hint(err, "its log says why; often it cannot write the zone's file or journal");
	case FM_DNS_NOTIMP:
		return fm_error_set(err, FM_E_UNIMPLEMENTED, "NOTIMP: the server takes no updates");
	case FM_DNS_REFUSED:
		(void)fm_error_set(err, FM_E_PERMISSION_DENIED, "REFUSED: the server does not allow it with this key, from this address");
		return fm_error_hint(
		        err, "allow the key to update the zone: knot's acl with action update, BIND's update-policy or allow-update");
	case FM_DNS_NOTAUTH:
		return notauth_error(zone, a, err);
	case FM_DNS_NOTZONE:
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "NOTZONE: the name is not in the zone");
	case FM_DNS_YXRRSET:
		return fm_error_set(err, FM_E_ABORTED, "YXRRSET: there is such a record, and there was none");
	case FM_DNS_NXRRSET:
		return fm_error_set(err, FM_E_ABORTED, "NXRRSET: the record is not what it was");
	default:
		return fm_error_set(err, FM_E_UNAVAILABLE, "the server answered with code %d", a->rcode);
	}
}
