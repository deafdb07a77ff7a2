/* SPDX-License-Identifier: MIT */
/* peers.c - see peers.h. Times of probes are real time, which is what the kernel stamps arrivals with; a leap of the clock costs the probes that are under way. */
#include "monitor/peers.h"

#include <errno.h>
#include <netdb.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "loop/pool.h"

/* Layout: magic, type, three bytes of zero, sequence, microseconds held, session, code; numbers in network order. */
#define QUESTION      1
#define ANSWER        2
#define SIGNED_BYTES  24u
#define CODE_BYTES    16u
#define NEW_KEY_MS    5000u /* until all agents have it: a report a second, and some patience */
#define HELD_MAX_US   10000000u
#define DRAIN_AT_ONCE 256 /* datagrams, before it is looked at the clock again */

static const uint8_t magic[4] = { 'F', 'M', 'p', 'r' };

enum probe_state { NONE, WAITING, ANSWERED, LOST };
struct probe {
	uint32_t seq;
	enum probe_state state;
	uint64_t sent_us;
};

struct peer {
	struct fm_peer name;
	struct sockaddr_storage to;
	socklen_t to_len;
	struct probe probe[FM_PEERS_WINDOW]; /* seq % FM_PEERS_WINDOW */
	uint64_t round_trip_us[FM_PEERS_RECENT];
	uint64_t n_round_trips, answered_unix_ms;
};

struct fm_peers {
	int fd;
	uint32_t every_ms;
	struct fm_stop stop;
	pthread_t thread;
	bool running;
	pthread_mutex_t lock; /* guards what follows */
	uint8_t key[2][FM_PEERS_KEY_BYTES];
	bool has_key[2]; /* the one in use, and the one before */
	uint64_t session, silent_until_ms;
	uint32_t seq;
	struct peer peer[FM_MAX_PEERS];
	size_t n;
	uint64_t answers_second; /* and how many there were in it */
	unsigned answers;
};

static uint64_t realtime_us(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* ---------------------------------------------------------------- packets */

static void put32(uint8_t *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static bool code_of(const uint8_t key[FM_PEERS_KEY_BYTES], const uint8_t *packet, uint8_t ret[CODE_BYTES])
{
	uint8_t whole[EVP_MAX_MD_SIZE];
	unsigned n = 0;

	if (!HMAC(EVP_sha256(), key, FM_PEERS_KEY_BYTES, packet, SIGNED_BYTES, whole, &n) || n < CODE_BYTES)
		return false;
	memcpy(ret, whole, CODE_BYTES);
	return true;
}

static bool encode(const struct fm_peers *p, uint8_t type, uint32_t seq, uint32_t held_us, uint64_t session, unsigned key, uint8_t *ret)
{
	memcpy(ret, magic, sizeof(magic));
	memset(ret + 4, 0, 4);
	ret[4] = type;
	put32(ret + 8, seq);
	put32(ret + 12, held_us);
	put32(ret + 16, (uint32_t)(session >> 32));
	put32(ret + 20, (uint32_t)session);
	return code_of(p->key[key], ret, ret + SIGNED_BYTES);
}

/* With which key it was made; -1: with none that is known here. */
static int verify(const struct fm_peers *p, const uint8_t *packet, size_t len)
{
	uint8_t code[CODE_BYTES];

	if (len != FM_PEERS_PACKET_BYTES || memcmp(packet, magic, sizeof(magic)) != 0 || packet[5] || packet[6] || packet[7])
		return -1;
	for (int k = 0; k < 2; k++)
		if (p->has_key[k] && code_of(p->key[k], packet, code) && CRYPTO_memcmp(code, packet + SIGNED_BYTES, CODE_BYTES) == 0)
			return k;
	return -1;
}

/* An answer to one of our questions: whose, is in the number. */
static void take_answer(struct fm_peers *p, uint32_t seq, uint32_t held_us, uint64_t arrived_us)
{
	for (size_t i = 0; i < p->n; i++) {
		struct peer *peer = &p->peer[i];
		struct probe *probe = &peer->probe[(seq / FM_MAX_PEERS) % FM_PEERS_WINDOW];
		if (probe->seq != seq || probe->state != WAITING)
			continue;
		probe->state = ANSWERED;
		peer->answered_unix_ms = arrived_us / 1000;
		if (arrived_us < probe->sent_us + held_us)
			return; /* the clock was set: it was answered, but nobody knows how fast */
		peer->round_trip_us[peer->n_round_trips++ % FM_PEERS_RECENT] = arrived_us - probe->sent_us - held_us;
		return;
	}
}

static bool may_answer(struct fm_peers *p)
{
	uint64_t second = fm_now_ms() / 1000;

	if (second != p->answers_second) {
		p->answers_second = second;
		p->answers = 0;
	}
	return p->answers++ < FM_PEERS_ANSWERS_PER_S;
}

size_t fm_peers_packet(struct fm_peers *p, const uint8_t *packet, size_t len, uint64_t arrived_us, uint32_t held_us,
                       uint8_t answer[FM_PEERS_PACKET_BYTES])
{
	size_t ret = 0;

	pthread_mutex_lock(&p->lock);
	int key = verify(p, packet, len);
	if (key >= 0) {
		uint64_t session = (uint64_t)get32(packet + 16) << 32 | get32(packet + 20);
		uint32_t seq = get32(packet + 8), held = get32(packet + 12);
		if (packet[4] == ANSWER && session == p->session && held <= HELD_MAX_US)
			take_answer(p, seq, held, arrived_us);
		else if (packet[4] == QUESTION && may_answer(p) && encode(p, ANSWER, seq, held_us, session, (unsigned)key, answer))
			ret = FM_PEERS_PACKET_BYTES;
	}
	pthread_mutex_unlock(&p->lock);
	return ret;
}

/* ---------------------------------------------------------------- the thread */

/* When it arrived, by the kernel; now where that does not say. */
static uint64_t arrival_of(struct msghdr *m, uint64_t now_us)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		struct timespec t;
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_TIMESTAMPNS)
			continue;
		memcpy(&t, CMSG_DATA(c), sizeof(t));
		return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
	}
	return now_us;
}

static bool receive_one(struct fm_peers *p)
{
	uint8_t packet[FM_PEERS_PACKET_BYTES + 1], answer[FM_PEERS_PACKET_BYTES], control[128];
	struct sockaddr_storage from;
	struct iovec iov = { .iov_base = packet, .iov_len = sizeof(packet) };
	struct msghdr m = { .msg_name = &from,
		            .msg_namelen = sizeof(from),
		            .msg_iov = &iov,
		            .msg_iovlen = 1,
		            .msg_control = control,
		            .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(p->fd, &m, MSG_DONTWAIT);

	if (n < 0)
		return errno != EAGAIN && errno != EWOULDBLOCK; /* an ICMP error of what was sent before is taken here */
	uint64_t now_us = realtime_us(), arrived_us = arrival_of(&m, now_us);
	uint64_t held_us = now_us > arrived_us && now_us - arrived_us < HELD_MAX_US ? now_us - arrived_us : 0;
	size_t len = fm_peers_packet(p, packet, (size_t)n, arrived_us, (uint32_t)held_us, answer);
	if (len)
		(void)sendto(p->fd, answer, len, MSG_DONTWAIT, (struct sockaddr *)&from, m.msg_namelen);
	return true;
}

static void expire(struct peer *peer, uint64_t now_us)
{
	for (size_t i = 0; i < FM_PEERS_WINDOW; i++)
		if (peer->probe[i].state == WAITING && now_us > peer->probe[i].sent_us + FM_PEERS_LOST_MS * 1000ull)
			peer->probe[i].state = LOST;
}

/* Numbers count up; peer i has those with remainder i, so that each has its own row of places. */
static void ask_all(struct fm_peers *p)
{
	uint8_t packet[FM_PEERS_PACKET_BYTES];

	pthread_mutex_lock(&p->lock);
	uint32_t round = p->seq++;
	for (size_t i = 0; i < p->n; i++) {
		struct peer *peer = &p->peer[i];
		uint32_t seq = round * FM_MAX_PEERS + (uint32_t)i;
		expire(peer, realtime_us());
		if (!p->has_key[0] || fm_now_ms() < p->silent_until_ms || !encode(p, QUESTION, seq, 0, p->session, 0, packet))
			continue;
		peer->probe[round % FM_PEERS_WINDOW] = (struct probe){ .seq = seq, .state = WAITING, .sent_us = realtime_us() };
		(void)sendto(p->fd, packet, sizeof(packet), MSG_DONTWAIT, (struct sockaddr *)&peer->to, peer->to_len);
	}
	pthread_mutex_unlock(&p->lock);
}

static void *run(void *arg)
{
	struct fm_peers *p = arg;
	uint64_t next_ms = fm_now_ms();

	while (!fm_stop_requested(&p->stop)) {
		struct pollfd fds[] = { { .fd = p->fd, .events = POLLIN }, { .fd = p->stop.fd, .events = POLLIN } };
		if (fm_now_ms() >= next_ms) {
			ask_all(p);
			next_ms = fm_now_ms() + p->every_ms;
		}
		(void)poll(fds, 2, fm_deadline_left_ms(next_ms));
		for (int i = 0; i < DRAIN_AT_ONCE && (fds[0].revents & (POLLIN | POLLERR)) && receive_one(p); i++)
			;
	}
	return NULL;
}

/* ---------------------------------------------------------------- life */

static int resolve(const char *host, size_t host_len, const char *port, struct sockaddr_storage *ret, socklen_t *ret_len,
                   struct fm_error *err)
{
	const struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV };
	struct addrinfo *found = NULL;
	bool brackets = host_len > 2 && host[0] == '[' && host[host_len - 1] == ']';
	_fm_free_ char *plain = strndup(host + brackets, host_len - 2 * (size_t)brackets);

	if (!plain || getaddrinfo(plain, port, &hints, &found) != 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%.*s' is no address for datagrams", (int)host_len, host);
	memcpy(ret, found->ai_addr, found->ai_addrlen);
	*ret_len = found->ai_addrlen;
	freeaddrinfo(found);
	return 0;
}

static int open_socket(struct fm_peers *p, const char *host, uint16_t port, struct fm_error *err)
{
	struct sockaddr_storage a;
	socklen_t len;
	char text[8];
	int yes = 1;

	(void)snprintf(text, sizeof(text), "%u", port);
	if (resolve(host, strlen(host), text, &a, &len, err) < 0)
		return -1;
	p->fd = socket(a.ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (p->fd < 0 || bind(p->fd, (struct sockaddr *)&a, len) < 0)
		return fm_error_errno(err, errno, "cannot take UDP port %u of %s for probes", port, host);
	(void)setsockopt(p->fd, SOL_SOCKET, SO_TIMESTAMPNS, &yes, sizeof(yes)); /* without: our own clock, a little later */
	return 0;
}

int fm_peers_new(const char *host, uint16_t port, uint32_t every_ms, struct fm_peers **ret, struct fm_error *err)
{
	struct fm_peers *p = calloc(1, sizeof(*p));

	if (!p)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	*p = (struct fm_peers){ .fd = -1, .every_ms = every_ms ? every_ms : FM_PEERS_EVERY_MS, .stop = { .fd = -1 } };
	pthread_mutex_init(&p->lock, NULL);
	if (getrandom(&p->session, sizeof(p->session), 0) != sizeof(p->session) || open_socket(p, host, port, err) < 0 ||
	    fm_stop_init(&p->stop, err) < 0) {
		fm_peers_free(p);
		return -1;
	}
	int rc = pthread_create(&p->thread, NULL, run, p);
	if (rc != 0) {
		fm_peers_free(p);
		return fm_error_errno(err, rc, "cannot start the thread of probes");
	}
	p->running = true;
	*ret = p;
	return 0;
}

void fm_peers_free(struct fm_peers *p)
{
	if (!p)
		return;
	if (p->running) {
		fm_stop_request(&p->stop);
		pthread_join(p->thread, NULL);
	}
	if (p->stop.fd >= 0)
		fm_stop_done(&p->stop);
	if (p->fd >= 0)
		(void)close(p->fd);
	OPENSSL_cleanse(p->key, sizeof(p->key));
	pthread_mutex_destroy(&p->lock);
	free(p);
}

/* ---------------------------------------------------------------- who, and what is known */

static void set_key(struct fm_peers *p, const void *key, size_t len)
{
	bool has = len == FM_PEERS_KEY_BYTES;

	if (has == p->has_key[0] && (!has || memcmp(p->key[0], key, len) == 0))
		return;
	if (p->has_key[0]) { /* others may still have the old one, and ask with it */
		memcpy(p->key[1], p->key[0], sizeof(p->key[1]));
		p->has_key[1] = true;
		p->silent_until_ms = fm_now_ms() + NEW_KEY_MS;
		for (size_t i = 0; i < p->n; i++)
			for (size_t k = 0; k < FM_PEERS_WINDOW; k++)
				if (p->peer[i].probe[k].state == WAITING)
					p->peer[i].probe[k].state = NONE;
	}
	p->has_key[0] = has;
	if (has)
		memcpy(p->key[0], key, len);
	else
		p->has_key[1] = false;
}

static const struct peer *known_peer(const struct peer *v, size_t n, const struct fm_peer *name)
{
	for (size_t i = 0; i < n; i++)
		if (fm_streq(v[i].name.host, name->host) && fm_streq(v[i].name.address, name->address))
			return &v[i];
	return NULL;
}

static bool same(const struct fm_peers *p, const struct fm_peer *v, size_t n)
{
	bool yes = n == p->n;

	for (size_t i = 0; yes && i < n; i++)
		yes = fm_streq(p->peer[i].name.host, v[i].host) && fm_streq(p->peer[i].name.address, v[i].address);
	return yes;
}

/* Their places in the row of numbers are others now: what is under way counts as nothing. */
static void set_peers(struct fm_peers *p, const struct fm_peer *v, size_t n)
{
	struct peer *before = malloc(sizeof(p->peer));
	size_t n_before = p->n;

	if (!before)
		return; /* the old ones, then */
	memcpy(before, p->peer, sizeof(p->peer));
	p->n = 0;
	for (size_t i = 0; v && i < n && p->n < FM_MAX_PEERS; i++) {
		const struct peer *old = known_peer(before, n_before, &v[i]);
		struct peer *peer = &p->peer[p->n];
		const char *colon = strrchr(v[i].address, ':');
		*peer = old ? *old : (struct peer){ .name = v[i] };
		for (size_t k = 0; k < FM_PEERS_WINDOW; k++)
			if (peer->probe[k].state == WAITING)
				peer->probe[k].state = NONE;
		if (old || (colon && resolve(v[i].address, (size_t)(colon - v[i].address), colon + 1, &peer->to, &peer->to_len, NULL) == 0))
			p->n++;
	}
	free(before);
}

void fm_peers_set(struct fm_peers *p, const void *key, size_t key_len, const struct fm_peer *v, size_t n)
{
	pthread_mutex_lock(&p->lock);
	set_key(p, key, key_len);
	if (!same(p, v, n))
		set_peers(p, v, n);
	pthread_mutex_unlock(&p->lock);
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static struct fm_peer_measure summarise(struct peer *peer)
{
	uint64_t sorted[FM_PEERS_RECENT];
	size_t n = peer->n_round_trips < FM_PEERS_RECENT ? peer->n_round_trips : FM_PEERS_RECENT;
	uint64_t lost = 0, counted = 0;
	struct fm_peer_measure m = { .at_unix_ms = peer->answered_unix_ms };

	for (size_t i = 0; i < FM_PEERS_WINDOW; i++) {
		lost += peer->probe[i].state == LOST;
		counted += peer->probe[i].state == LOST || peer->probe[i].state == ANSWERED;
	}
	memcpy(sorted, peer->round_trip_us, n * sizeof(sorted[0]));
	qsort(sorted, n, sizeof(sorted[0]), by_size);
	(void)snprintf(m.host, sizeof(m.host), "%s", peer->name.host);
	m.latency_us = n ? sorted[n / 2] / 2 : 0;
	m.loss_ppm = counted ? (uint32_t)(lost * 1000000 / counted) : 0;
	return m;
}

size_t fm_peers_measures(struct fm_peers *p, struct fm_peer_measure *v, size_t cap)
{
	size_t n = 0;

	pthread_mutex_lock(&p->lock);
	for (size_t i = 0; i < p->n && n < cap; i++) {
		expire(&p->peer[i], realtime_us());
		if (p->peer[i].n_round_trips)
			v[n++] = summarise(&p->peer[i]);
	}
	pthread_mutex_unlock(&p->lock);
	return n;
}
