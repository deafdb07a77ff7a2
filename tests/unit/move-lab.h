/* SPDX-License-Identifier: MIT */
/*
 * move-lab.h - the laboratory of the redirections' tests: hosts as network namespaces, a container with live connections that moves between two of them, and a client that counts.
 *
 * What moves is a cable, not a process: the container's namespace "ct" has its eth0 on the bridge of a namespace "mux", and mux is plugged into one host or the other. So its connections are alive and the
 * network sees what it sees in a migration: nothing for a moment, then the same addresses at another host. Built and looked at with iproute2, which is not ours. All of it stands in a private mount
 * namespace under a temporary folder; even a crash leaves nothing behind. Included by one program.
 */
#ifndef FM_TESTS_MOVE_LAB_H
#define FM_TESTS_MOVE_LAB_H

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/str.h"
#include "loop/child.h"
#include "network/endpoint.h"
#include "network/redirect.h"

#define WAIT_MS          10000
#define MAX_NS           10
#define PORT             7007
#define MAX_SEQ          (1u << 16)
#define SLACK            25 /* numbers that may be under way when something is changed */
#define PACE_US          1000
#define LONGEST_STALL_MS 1000

struct move_lab {
	char dir[64];
	size_t n;
	char name[MAX_NS][16];
	int fd[MAX_NS];
};

static inline const char *lab_is_missing(void)
{
	if (geteuid() != 0)
		return "network namespaces need root";
	return NULL;
}

/* Its output, to be freed; the test fails with it otherwise. */
static inline char *lab_sh(const char *command)
{
	char *argv[] = { "sh", "-ec", (char *)command, NULL };
	struct fm_child_opts o = { .timeout_ms = WAIT_MS };
	struct fm_child_result r = { 0 };
	struct fm_error e = FM_ERROR_INIT;
	char *out;

	if (fm_child_run(argv, &o, &r, &e) < 0)
		fail_msg("%s: %s", command, e.message);
	out = fm_xstrdup(r.out ? r.out : "");
	fm_child_result_done(&r);
	return out;
}

static inline int lab_ns(const struct move_lab *lab, const char *name)
{
	for (size_t i = 0; i < lab->n; i++)
		if (fm_streq(lab->name[i], name))
			return lab->fd[i];
	fail_msg("no namespace %s", name);
	return -1;
}

/* Shell commands inside a namespace. */
__attribute__((format(printf, 3, 4))) static inline void at(const struct move_lab *lab, const char *ns, const char *fmt, ...)
{
	_fm_free_ char *inner = NULL, *command = NULL, *out = NULL;
	va_list ap;

	va_start(ap, fmt);
	assert_true(vasprintf(&inner, fmt, ap) >= 0);
	va_end(ap);
	command = fm_xasprintf("exec nsenter --net=%s/%s sh -ec '%s'", lab->dir, ns, inner);
	out = lab_sh(command);
}

/* All that a driver may touch, as iproute2 tells it, without what traffic changes. */
static inline char *snapshot(const struct move_lab *lab, const char *ns)
{
	_fm_free_ char *command = fm_xasprintf(
	        "exec nsenter --net=%s/%s sh -ec 'ip -d -o link | sed -E \"s/([a-z_]+_timer +[0-9.]+| state [A-Z]+)//g\"; ip -o addr; ip "
	        "rule; ip -6 rule; ip route show table all; ip -6 route show table all; "
	        "bridge fdb | grep -E \"permanent|static\" | sort; ip neigh show nud permanent; ip -6 neigh show nud permanent; "
	        "cat /proc/sys/net/ipv4/conf/*/rp_filter /proc/sys/net/ipv4/conf/*/forwarding'",
	        lab->dir, ns);

	return lab_sh(command);
}

/* Lines of a that are not in b. */
static inline void print_missing(const char *a, const char *b, const char *what)
{
	for (const char *line = a; *line;) {
		size_t n = strcspn(line, "\n");
		_fm_free_ char *copy = strndup(line, n);

		if (!strstr(b, copy))
			print_message("%s: %s\n", what, copy);
		line += n + (line[n] == '\n');
	}
}

static inline void assert_unchanged(const struct move_lab *lab, const char *ns, const char *before)
{
	_fm_free_ char *now = snapshot(lab, ns);

	if (strcmp(now, before) == 0)
		return;
	print_missing(before, now, "was");
	print_missing(now, before, "is");
	fail_msg("%s is not as it was", ns);
}

/* The kernel finishes IPv6 addresses and their routes in the background: until that is over, so that later differences are somebody's doing. */
static inline void settle(const struct move_lab *lab)
{
	uint64_t deadline = fm_now_ms() + WAIT_MS;

	for (size_t i = 0; i < lab->n; i++) {
		_fm_free_ char *last = snapshot(lab, lab->name[i]);

		for (bool done = false; !done;) {
			char *now = snapshot(lab, lab->name[i]);

			done = strcmp(now, last) == 0 && !strstr(now, " tentative ");
			free(last);
			last = now;
			if (!done && fm_deadline_left_ms(deadline) == 0)
				fail_msg("%s does not come to rest", lab->name[i]);
		}
	}
}

static inline void lab_begin(struct move_lab *lab)
{
	*lab = (struct move_lab){ 0 };
	(void)snprintf(lab->dir, sizeof(lab->dir), "/tmp/fm-test-move-%d-XXXXXX", (int)getpid());
	assert_non_null(mkdtemp(lab->dir));
	assert_sys(unshare(CLONE_NEWNS));
	assert_sys(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
}

static inline void add_ns(struct move_lab *lab, const char *name)
{
	char path[128];

	assert_true(lab->n < MAX_NS);
	(void)snprintf(lab->name[lab->n], sizeof(lab->name[0]), "%s", name);
	(void)snprintf(path, sizeof(path), "%s/%s", lab->dir, name);
	assert_ok(fm_netns_create(path, &err));
	lab->fd[lab->n] = open(path, O_RDONLY | O_CLOEXEC);
	assert_sys(lab->fd[lab->n++]);
	/* addresses are usable at once, and nothing changes by itself */
	at(lab, name,
	   "for d in all default; do echo 0 >/proc/sys/net/ipv6/conf/$d/accept_dad; echo 0 "
	   ">/proc/sys/net/ipv6/conf/$d/router_solicitations; "
	   "echo 0 >/proc/sys/net/ipv6/conf/$d/accept_ra; done");
}

static inline void lab_end(struct move_lab *lab)
{
	for (size_t i = 0; i < lab->n; i++) {
		char path[128];

		(void)close(lab->fd[i]);
		(void)snprintf(path, sizeof(path), "%s/%s", lab->dir, lab->name[i]);
		assert_ok(fm_netns_remove(path, &err));
	}
	assert_sys(rmdir(lab->dir));
	lab->n = 0;
}

/* a's interface da to b's interface db, both up */
static inline void cable(const struct move_lab *lab, const char *a, const char *da, const char *b, const char *db)
{
	at(lab, a, "ip link add %s type veth peer name %s netns %s/%s && ip link set %s up", da, db, lab->dir, b, da);
	at(lab, b, "ip link set %s up", db);
}

/* ---- traffic ---- */

/* The container's side: answers TCP and UDP on PORT, both families. */
struct service {
	pthread_t thread;
	int listener, udp, stop;
	_Atomic uint8_t seen[MAX_SEQ]; /* how often each number came */
	atomic_uint highest;
};

/* The client's side: one TCP connection that asks and waits for the answer, and a UDP stream of numbers. */
struct client {
	pthread_t tcp_thread, udp_thread;
	int tcp, udp;
	atomic_bool stop;
	atomic_uint asked, sent; /* answered on TCP; numbers sent by UDP */
	atomic_uint longest_us;  /* of one answer */
	_Atomic int broken;      /* errno of the connection */
};

struct sockets {
	int type;
	const char *address; /* to connect to; NULL = listen */
	int fd;
};

static inline int make_socket(void *userdata, struct fm_error *e)
{
	struct sockets *s = userdata;
	struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_port = htons(PORT) };
	char mapped[64];
	int off = 0, on = 1;

	s->fd = socket(AF_INET6, s->type | SOCK_CLOEXEC, 0);
	assert_sys(s->fd);
	assert_sys(setsockopt(s->fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)));
	if (!s->address) {
		assert_sys(setsockopt(s->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)));
		assert_sys(bind(s->fd, (struct sockaddr *)&a, sizeof(a)));
		return s->type == SOCK_STREAM ? listen(s->fd, 8) : 0;
	}
	(void)snprintf(mapped, sizeof(mapped), strchr(s->address, ':') ? "%s" : "::ffff:%s", s->address);
	assert_int_equal(inet_pton(AF_INET6, mapped, &a.sin6_addr), 1);
	if (connect(s->fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		return fm_error_errno(e, errno, "connect to %s", s->address);
	if (s->type == SOCK_STREAM)
		assert_sys(setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)));
	return 0;
}

static inline int socket_in(const struct move_lab *lab, const char *ns, int type, const char *address)
{
	struct sockets s = { .type = type, .address = address };

	assert_ok(fm_netns_call(lab_ns(lab, ns), make_socket, &s, &err));
	return s.fd;
}

static inline void take_number(struct service *s)
{
	uint32_t n;

	while (recv(s->udp, &n, sizeof(n), MSG_DONTWAIT) == sizeof(n)) {
		if (n >= MAX_SEQ)
			continue;
		atomic_fetch_add(&s->seen[n], 1);
		if (n > atomic_load(&s->highest))
			atomic_store(&s->highest, n);
	}
}

static inline void *serve(void *arg)
{
	struct service *s = arg;
	struct pollfd p[4] = { { s->stop, POLLIN, 0 }, { s->udp, POLLIN, 0 }, { s->listener, POLLIN, 0 }, { -1, POLLIN, 0 } };

	while (poll(p, 4, -1) >= 0 && !p[0].revents) {
		char buf[65536];

		if (p[1].revents)
			take_number(s);
		if (p[2].revents) {
			if (p[3].fd >= 0)
				(void)close(p[3].fd);
			p[3].fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
		}
		if (p[3].fd >= 0 && (p[3].revents & (POLLIN | POLLHUP | POLLERR))) {
			ssize_t n = recv(p[3].fd, buf, sizeof(buf), MSG_DONTWAIT);

			if (n > 0)
				(void)send(p[3].fd, buf, (size_t)n, MSG_NOSIGNAL);
			else if (n == 0 || errno != EAGAIN) {
				(void)close(p[3].fd);
				p[3].fd = -1;
			}
		}
	}
	if (p[3].fd >= 0)
		(void)close(p[3].fd);
	return NULL;
}

static inline void service_start(const struct move_lab *lab, const char *ns, struct service *s)
{
	memset((void *)s, 0, sizeof(*s));
	s->listener = socket_in(lab, ns, SOCK_STREAM, NULL);
	s->udp = socket_in(lab, ns, SOCK_DGRAM, NULL);
	s->stop = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
}

static inline void service_stop(struct service *s)
{
	uint64_t one = 1;

	assert_int_equal(write(s->stop, &one, sizeof(one)), sizeof(one));
	assert_int_equal(pthread_join(s->thread, NULL), 0);
	(void)close(s->listener);
	(void)close(s->udp);
	(void)close(s->stop);
}

/* One question, one answer; now and then a large one, so that segments of full size pass. */
static inline bool ask(struct client *c, size_t size)
{
	static _Thread_local char out[8192], in[8192];
	struct pollfd p = { c->tcp, POLLIN, 0 };
	size_t got = 0;

	memset(out, (int)size, size);
	if (send(c->tcp, out, size, MSG_NOSIGNAL) != (ssize_t)size)
		return false;
	while (got < size) {
		ssize_t n;

		if (poll(&p, 1, WAIT_MS) != 1) {
			errno = ETIMEDOUT;
			return false;
		}
		n = recv(c->tcp, in + got, size - got, 0);
		if (n <= 0) {
			errno = n == 0 ? ECONNRESET : errno;
			return false;
		}
		got += (size_t)n;
	}
	errno = EBADMSG;
	return memcmp(out, in, size) == 0;
}

static inline void *ask_on(void *arg)
{
	struct client *c = arg;

	while (!atomic_load(&c->stop)) {
		uint64_t before = fm_now_us(), took;

		if (!ask(c, atomic_load(&c->asked) % 8 == 7 ? 8000 : 16)) {
			atomic_store(&c->broken, errno ? errno : EIO);
			return NULL;
		}
		took = fm_now_us() - before;
		if (took > atomic_load(&c->longest_us))
			atomic_store(&c->longest_us, (unsigned)took);
		atomic_fetch_add(&c->asked, 1);
		(void)usleep(PACE_US); /* the stream's own pace */
	}
	return NULL;
}

static inline void *number_on(void *arg)
{
	struct client *c = arg;

	while (!atomic_load(&c->stop)) {
		uint32_t n = atomic_load(&c->sent);

		/* what nobody takes is lost, as on any network; ICMP's complaints come back as errors of the next one */
		if (n < MAX_SEQ && (send(c->udp, &n, sizeof(n), MSG_NOSIGNAL) == sizeof(n) || send(c->udp, &n, sizeof(n), MSG_NOSIGNAL)))
			atomic_store(&c->sent, n + 1);
		(void)usleep(PACE_US);
	}
	return NULL;
}

static inline void client_start(const struct move_lab *lab, const char *ns, const char *address, struct client *c)
{
	memset((void *)c, 0, sizeof(*c));
	c->tcp = socket_in(lab, ns, SOCK_STREAM, address);
	c->udp = socket_in(lab, ns, SOCK_DGRAM, address);
	assert_int_equal(pthread_create(&c->tcp_thread, NULL, ask_on, c), 0);
	assert_int_equal(pthread_create(&c->udp_thread, NULL, number_on, c), 0);
}

static inline void client_stop(struct client *c)
{
	atomic_store(&c->stop, true);
	assert_int_equal(pthread_join(c->tcp_thread, NULL), 0);
	assert_int_equal(pthread_join(c->udp_thread, NULL), 0);
	(void)close(c->tcp);
	(void)close(c->udp);
}

/* Until the service has numbers that are sent from now on, and the connection has had answers to new questions. */
static inline void await_traffic(const struct service *s, struct client *c)
{
	unsigned number = atomic_load(&c->sent) + 2 * SLACK, asked = atomic_load(&c->asked) + 16;
	uint64_t deadline = fm_now_ms() + WAIT_MS;

	while (atomic_load(&s->highest) < number || atomic_load(&c->asked) < asked) {
		if (atomic_load(&c->broken))
			fail_msg("the connection broke: %s", strerror(atomic_load(&c->broken)));
		if (fm_deadline_left_ms(deadline) == 0)
			fail_msg("no traffic: numbers up to %u (want %u), answers %u (want %u)", atomic_load(&s->highest), number,
			         atomic_load(&c->asked), asked);
		fm_pause_ms(1);
	}
}

/* Nothing twice, and lost only what was under way from number `first` to `last`. Call it when the traffic has ended. */
static inline void assert_numbers(const struct service *s, const struct client *c, unsigned first, unsigned last)
{
	unsigned highest = atomic_load(&s->highest), lost = 0, twice = 0, outside = 0;

	for (unsigned i = 0; i <= highest; i++) {
		unsigned n = s->seen[i];
		bool inside = i + SLACK >= first && i <= last + SLACK;

		lost += n == 0;
		if (n > 1 && twice++ < 20)
			print_message("%u times %u, %u to %u\n", n, i, first, last);
		if (n == 0 && !inside && outside++ < 20)
			print_message("lost %u, away from %u to %u\n", i, first, last);
	}
	print_message("numbers %u, lost %u (%u away from the freeze), twice %u; longest answer %u ms\n", highest + 1, lost, outside, twice,
	              atomic_load(&c->longest_us) / 1000);
	assert_int_equal(outside, 0);
	assert_int_equal(twice, 0);
	assert_int_equal(atomic_load(&c->broken), 0);
	assert_true(atomic_load(&c->longest_us) / 1000 < LONGEST_STALL_MS);
}

/* ---- drivers, called in a host's namespace ---- */

struct driver_call {
	const char *action;
	json_t *action_json;
	json_t *undo;
	enum { PREPARE, OPEN, FLIP, VERIFY, REVERT } what;
	struct fm_redirect_call c;
};

static inline int do_driver(void *userdata, struct fm_error *e)
{
	struct driver_call *d = userdata;
	const struct fm_redirect_ops *ops;

	if (fm_redirect_driver_of(d->action_json, &ops, e) < 0)
		return -1;
	switch (d->what) {
	case PREPARE:
		return ops->prepare(&d->c, d->action_json, &d->undo, e);
	case OPEN:
		return ops->open(&d->c, d->action_json, d->undo, e);
	case FLIP:
		return ops->flip(&d->c, d->action_json, d->undo, e);
	case VERIFY:
		return ops->verify(&d->c, d->action_json, d->undo, e);
	default:
		return ops->revert(&d->c, d->action_json, d->undo, e);
	}
}

/* One call, with the undo as text between calls, as a journal has it. PREPARE makes *undo. */
static inline int driver(const struct move_lab *lab, const char *ns, int what, const char *action, char **undo, struct fm_error *e)
{
	struct driver_call d = { .action = action, .what = what, .c = { .deadline_ms = fm_now_ms() + WAIT_MS, .cancel_fd = -1 } };
	int rc;

	d.action_json = json_loads(action, JSON_REJECT_DUPLICATES, NULL);
	if (what != PREPARE)
		d.undo = json_loads(*undo, JSON_REJECT_DUPLICATES, NULL);
	assert_non_null(d.action_json);
	rc = fm_netns_call(lab_ns(lab, ns), do_driver, &d, e);
	if (what == PREPARE && rc == 0) {
		free(*undo);
		*undo = json_dumps(d.undo, JSON_COMPACT | JSON_SORT_KEYS);
		assert_non_null(*undo);
	}
	json_decref(d.action_json);
	json_decref(d.undo);
	return rc;
}

/* Twice: the second does nothing. */
static inline void twice(const struct move_lab *lab, const char *ns, int what, const char *action, char **undo)
{
	_fm_free_ char *once = NULL;

	assert_ok(driver(lab, ns, what, action, undo, &err));
	once = snapshot(lab, ns);
	assert_ok(driver(lab, ns, what, action, undo, &err));
	assert_unchanged(lab, ns, once);
}

/* Whatever was called before, a revert by somebody who knows only action and undo leaves all as it was: after none, one, two, … of the calls. */
static inline void assert_every_stop_reverts(const struct move_lab *lab, const char *ns, const char *action)
{
	static const int calls[] = { OPEN, OPEN, FLIP, FLIP, VERIFY, OPEN, FLIP };
	_fm_free_ char *before = snapshot(lab, ns), *undo = NULL;

	for (size_t n = 0; n <= FM_ARRAY_SIZE(calls); n++) {
		assert_ok(driver(lab, ns, PREPARE, action, &undo, &err));
		assert_unchanged(lab, ns, before);
		for (size_t i = 0; i < n; i++)
			assert_ok(driver(lab, ns, calls[i], action, &undo, &err));
		twice(lab, ns, REVERT, action, &undo);
		assert_unchanged(lab, ns, before);
	}
}

#endif
