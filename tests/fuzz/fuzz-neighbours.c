/* SPDX-License-Identifier: MIT */
/*
 * fuzz-neighbours.c - libFuzzer entry for what endpoints are told by others: a neighbour table from another host, and answers to the duplicate check. The first byte: 0 to 8 endpoints and a
 * table, else a frame; the second the table's count, or a family.
 */
#include <assert.h>
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "network/endpoints.h"
#include "network/frames.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void table(const uint8_t *data, size_t n, uint64_t count, size_t n_endpoints)
{
	static struct fm_neighbour v[FM_MAX_NEIGHBOURS];
	static uint8_t again[FM_NEIGHBOURS_MAX_BYTES];
	struct fm_error err = FM_ERROR_INIT;
	size_t got = 4711;

	int rc = fm_neighbours_decode(data, n, count, n_endpoints, v, &got, &err);
	assert((rc == 0) == (err.code == FM_OK) && (rc == 0 || got == 4711));
	if (rc < 0)
		return;
	/* what is taken has one form */
	assert(got == count && fm_neighbours_encode(v, got, again) == n && memcmp(again, data, n) == 0);
	for (size_t i = 0; i < got; i++)
		assert(v[i].endpoint < n_endpoints && !(v[i].mac[0] & 1));
}

static void frame(const uint8_t *data, size_t n, bool ipv6)
{
	struct in6_addr address6 = { .s6_addr = { 0xfd, 0x77, [15] = 5 } };
	uint8_t mac[6] = { 1 };
	bool claims = ipv6 ? fm_frame_nd_claims(data, n, &address6, mac)
	                   : fm_frame_arp_claims(data, n, (struct in_addr){ htonl(0x0a4d0005) }, mac);

	assert(claims || mac[0] == 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2)
		return 0;
	/* of its own, so that a byte too many is seen */
	size_t n = size - 2;
	uint8_t *copy = malloc(n ? n : 1);
	if (!copy)
		return 0;
	memcpy(copy, data + 2, n);
	if (data[0] <= FM_MAX_ENDPOINTS)
		table(copy, n, data[1], data[0]);
	else
		frame(copy, n, data[1] & 1);
	free(copy);
	return 0;
}
