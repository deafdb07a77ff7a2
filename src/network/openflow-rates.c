/* SPDX-License-Identifier: MIT */
/* openflow-rates.c - see openflow-rates.h. Products are made in 128 bits: counters are a stranger's numbers. */
#include "network/openflow-rates.h"

static const struct fm_of_counters *find(const struct fm_of_counters *v, size_t n, size_t hint, uint32_t port)
{
	if (hint < n && v[hint].port == port) /* most switches list their ports in the same order each time */
		return &v[hint];
	for (size_t i = 0; i < n; i++)
		if (v[i].port == port)
			return &v[i];
	return NULL;
}

static bool counts(const struct fm_of_counters *before, const struct fm_of_counters *after)
{
	return after->age_us > before->age_us && after->rx_bytes != UINT64_MAX && after->tx_bytes != UINT64_MAX &&
	       after->rx_bytes >= before->rx_bytes && after->tx_bytes >= before->tx_bytes;
}

static uint64_t ratio(uint64_t a, uint64_t times, uint64_t by)
{
	unsigned __int128 v = (unsigned __int128)a * times / by;

	return v > UINT64_MAX ? UINT64_MAX : (uint64_t)v;
}

void fm_of_port_rates(const struct fm_of_counters *before, size_t n_before, const struct fm_of_counters *after, size_t n_after,
                      struct fm_of_rate *ret, size_t *ret_n)
{
	size_t n = 0;

	for (size_t i = 0; i < n_after; i++) {
		const struct fm_of_counters *was = find(before, n_before, i, after[i].port);

		if (!was || !counts(was, &after[i]))
			continue;
		uint64_t us = after[i].age_us - was->age_us;
		ret[n++] = (struct fm_of_rate){ .port = after[i].port,
			                        .rx_bytes_per_s = ratio(after[i].rx_bytes - was->rx_bytes, 1000000, us),
			                        .tx_bytes_per_s = ratio(after[i].tx_bytes - was->tx_bytes, 1000000, us) };
	}
	*ret_n = n;
}

uint32_t fm_of_utilisation_ppm(uint64_t bytes_per_s, uint64_t bandwidth_bytes_per_s)
{
	uint64_t ppm = bandwidth_bytes_per_s ? ratio(bytes_per_s, 1000000, bandwidth_bytes_per_s) : 1000000;

	return ppm > 1000000 ? 1000000 : (uint32_t)ppm;
}
