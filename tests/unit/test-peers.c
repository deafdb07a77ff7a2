/* SPDX-License-Identifier: MIT */
/* test-peers.c - probes between agents on this machine's loopback: latency, loss, keys, and packets that nobody should answer. */
#include "check.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "basic/clock.h"
#include "monitor/peers.h"

#define EVERY_MS 40 /* so that the window of 100 is longer than a probe may take */

static const uint8_t key[FM_PEERS_KEY_BYTES] = "one key for all agents of a lab";
static const uint8_t other_key[FM_PEERS_KEY_BYTES] = "another one";

static uint16_t free_port(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	assert_true(fd >= 0 && bind(fd, (struct sockaddr *)&a, len) == 0 && getsockname(fd, (struct sockaddr *)&a, &len) == 0);
	close(fd);
	return ntohs(a.sin_port);
}

struct agent {
	struct fm_peers *p;
	struct fm_peer name;
};

static struct agent start(const char *host)
{
	struct agent a = { 0 };
	uint16_t port = free_port();

	assert_ok(fm_peers_new("127.0.0.1", port, EVERY_MS, &a.p, &err));
	(void)snprintf(a.name.host, sizeof(a.name.host), "%s", host);
	(void)snprintf(a.name.address, sizeof(a.name.address), "127.0.0.1:%u", port);
	return a;
}

/* Until there is a measure, or not within so long. */
static size_t measures(struct fm_peers *p, struct fm_peer_measure *m, int within_ms)
{
	uint64_t deadline = fm_now_ms() + (uint64_t)within_ms;
	size_t n;

	while ((n = fm_peers_measures(p, m, 4)) == 0 && fm_now_ms() < deadline)
		fm_pause_ms(5);
	return n;
}

static void test_both_ways(void **state)
{
	struct agent a = start("a"), b = start("b");
	struct fm_peer_measure m[4];

	fm_peers_set(b.p, key, sizeof(key), &a.name, 1);
	fm_peers_set(a.p, key, sizeof(key), &b.name, 1);
	assert_int_equal(measures(a.p, m, 20000), 1);
	assert_string_equal(m[0].host, "b");
	assert_true(m[0].latency_us < 100000 && m[0].at_unix_ms + 60000 > fm_realtime_ms());
	assert_int_equal(measures(b.p, m, 20000), 1);
	assert_string_equal(m[0].host, "a");
	/* only who is asked about has a measure */
	fm_peers_set(a.p, key, sizeof(key), NULL, 0);
	assert_int_equal(fm_peers_measures(a.p, m, 4), 0);
	fm_peers_free(a.p);
	fm_peers_free(b.p);
}

/* One that answered, and then does not any more: after a while some of its last probes are lost; and one that never answered has no measure. */
static void test_loss(void **state)
{
	struct agent a = start("a"), b = start("b");
	struct fm_peer_measure m[4];
	uint64_t deadline;

	fm_peers_set(b.p, key, sizeof(key), NULL, 0);
	fm_peers_set(a.p, key, sizeof(key), &b.name, 1);
	assert_int_equal(measures(a.p, m, 20000), 1);
	fm_peers_free(b.p);
	for (deadline = fm_now_ms() + 30000; fm_now_ms() < deadline && fm_peers_measures(a.p, m, 4) == 1 && m[0].loss_ppm < 900000;)
		fm_pause_ms(20);
	assert_true(m[0].loss_ppm >= 900000 && m[0].loss_ppm <= 1000000);
	struct agent c = start("c");
	fm_peers_free(c.p);
	fm_peers_set(a.p, key, sizeof(key), &c.name, 1);
	assert_int_equal(measures(a.p, m, FM_PEERS_LOST_MS + 500), 0);
	fm_peers_free(a.p);
}

static void test_keys(void **state)
{
	struct agent a = start("a"), b = start("b");
	struct fm_peer_measure m[4];

	fm_peers_set(a.p, key, sizeof(key), &b.name, 1);
	assert_int_equal(measures(a.p, m, 300), 0); /* b has none yet */
	fm_peers_set(b.p, other_key, sizeof(other_key), NULL, 0);
	assert_int_equal(measures(a.p, m, 300), 0);
	fm_peers_set(b.p, key, sizeof(key), NULL, 0); /* b has both now */
	assert_int_equal(measures(a.p, m, 20000), 1);
	fm_peers_set(b.p, "short", 5, NULL, 0);
	fm_peers_free(a.p);
	fm_peers_free(b.p);
}

/* A question that was recorded, sent by somebody else: what comes back is no longer than it, and what comes back is not answered again. */
static void test_packets(void **state)
{
	struct agent a = start("a");
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct fm_peer spy = { .host = "spy" };
	uint8_t question[64], answer[FM_PEERS_PACKET_BYTES], again[FM_PEERS_PACKET_BYTES];
	socklen_t len = sizeof(here);

	assert_sys(bind(fd, (struct sockaddr *)&here, len));
	assert_sys(getsockname(fd, (struct sockaddr *)&here, &len));
	(void)snprintf(spy.address, sizeof(spy.address), "127.0.0.1:%u", ntohs(here.sin_port));
	fm_peers_set(a.p, key, sizeof(key), &spy, 1);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	assert_int_equal(poll(&p, 1, 20000), 1);
	assert_int_equal(recv(fd, question, sizeof(question), 0), FM_PEERS_PACKET_BYTES);
	struct agent b = start("b");
	assert_int_equal(fm_peers_packet(b.p, question, FM_PEERS_PACKET_BYTES, 0, 0, answer), 0); /* it has no key */
	fm_peers_set(b.p, key, sizeof(key), NULL, 0);
	assert_int_equal(fm_peers_packet(b.p, question, FM_PEERS_PACKET_BYTES, 0, 5, answer), FM_PEERS_PACKET_BYTES);
	assert_int_equal(fm_peers_packet(b.p, answer, FM_PEERS_PACKET_BYTES, 0, 0, again), 0);
	assert_int_equal(fm_peers_packet(a.p, answer, FM_PEERS_PACKET_BYTES, UINT64_MAX / 2, 0, again), 0);
	for (size_t i = 0; i < FM_PEERS_PACKET_BYTES; i++) { /* any byte that is another one */
		question[i] ^= 1;
		assert_int_equal(fm_peers_packet(b.p, question, FM_PEERS_PACKET_BYTES, 0, 0, answer), 0);
		question[i] ^= 1;
	}
	for (size_t n = 0; n < sizeof(question); n++)
		if (n != FM_PEERS_PACKET_BYTES)
			assert_int_equal(fm_peers_packet(b.p, question, n, 0, 0, answer), 0);
	unsigned answered = 0;
	uint64_t second = fm_now_ms() / 1000;
	while (fm_now_ms() / 1000 == second) /* a whole second from its beginning */
		fm_pause_ms(1);
	for (second = fm_now_ms() / 1000; fm_now_ms() / 1000 == second;)
		answered += fm_peers_packet(b.p, question, FM_PEERS_PACKET_BYTES, 0, 0, answer) > 0;
	assert_in_range(answered, 1, FM_PEERS_ANSWERS_PER_S + 1);
	close(fd);
	fm_peers_free(a.p);
	fm_peers_free(b.p);
}

static void test_addresses(void **state)
{
	struct agent a = start("a");
	const struct fm_peer wrong[] = { { "x", "nowhere" }, { "y", "example.org:1" }, { "z", "127.0.0.1:99999999" } };
	struct fm_peers *taken = NULL;
	struct fm_peer_measure m[4];

	assert_code(FM_E_ALREADY_EXISTS, fm_peers_new("127.0.0.1", (uint16_t)atoi(strrchr(a.name.address, ':') + 1), 0, &taken, &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_peers_new("localhost", 1, 0, &taken, &err));
	fm_peers_set(a.p, key, sizeof(key), wrong, 3);
	assert_int_equal(fm_peers_measures(a.p, m, 4), 0);
	fm_peers_free(a.p);
	fm_peers_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_both_ways), cmocka_unit_test(test_loss), cmocka_unit_test(test_keys),
		                            cmocka_unit_test(test_packets), cmocka_unit_test(test_addresses) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
