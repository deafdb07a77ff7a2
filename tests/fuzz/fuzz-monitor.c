/* SPDX-License-Identifier: MIT */
/* fuzz-monitor.c - libFuzzer entry for the texts of /proc and control groups, and for what arrives as a probe of another agent. */
#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "monitor/parse.h"
#include "monitor/peers.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void values(const char *text)
{
	uint64_t a = 0, b = 0;
	double d = NAN;

	(void)fm_parse_number(text, &a);
	(void)fm_parse_keyed(text, "pgfault", &a);
	(void)fm_parse_keyed(text, "MemTotal:", &a);
	(void)fm_parse_established(text, &a);
	if (fm_parse_cpu_ticks(text, &a, &b))
		assert(a <= b);
	if (fm_parse_pressure(text, &d))
		assert(d >= 0 && d <= 100);
	if (fm_parse_load1(text, &d))
		assert(d >= 0 && isfinite(d));
	(void)fm_parse_blkio(text, &a, &b);
	(void)fm_parse_io_stat(text, &a, &b);
}

/* Each line moves on, and names fit. */
static void lines(const char *text)
{
	struct fm_net_line n;
	struct fm_disk_line d;
	const char *end = text + strlen(text), *before;
	int pid;

	for (const char *p = before = text; fm_parse_net_line(&p, &n); before = p)
		assert(p > before && p <= end && n.name[0] && memchr(n.name, '\0', sizeof(n.name)));
	for (const char *p = before = text; fm_parse_disk_line(&p, &d); before = p)
		assert(p > before && p <= end && d.name[0] && memchr(d.name, '\0', sizeof(d.name)));
	for (const char *p = before = text; fm_parse_pid_line(&p, &pid); before = p)
		assert(p > before && p <= end && pid > 0);
}

/* Nobody can guess a code, so nothing that is made up is answered. */
static void packet(const uint8_t *data, size_t size)
{
	static const uint8_t key[FM_PEERS_KEY_BYTES] = "a key";
	static struct fm_peers *p;
	uint8_t answer[FM_PEERS_PACKET_BYTES];

	if (!p) {
		if (fm_peers_new("127.0.0.1", 0, 60000, &p, NULL) < 0)
			abort();
		fm_peers_set(p, key, sizeof(key), NULL, 0);
	}
	assert(fm_peers_packet(p, data, size, 0, 0, answer) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const starts[] = { "",
		                              "cpu  1 2 3 4",
		                              "some avg10=0.00 avg60=",
		                              " eth0: 1 2 3 4 5 6 7 8 9",
		                              "8 0 sda 1 2 3 4 5 6 7 8 9 1",
		                              "Tcp: A CurrEstab\nTcp: ",
		                              "8:0 rbytes=" };

	for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++) {
		size_t n = strlen(starts[i]);
		char *text = malloc(n + size + 1);
		if (!text)
			abort();
		memcpy(text, starts[i], n);
		if (size)
			memcpy(text + n, data, size);
		text[n + size] = '\0';
		values(text);
		lines(text);
		free(text);
	}
	packet(data, size);
	return 0;
}
