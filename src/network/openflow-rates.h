/* SPDX-License-Identifier: MIT */
/*
 * openflow-rates.h - what a switch's ports carry, from two readings of their counters: the utilisation of the topology's links (topology.h).
 *
 *   fm_of_port_counters(c, …, &before, …);   some seconds later:   fm_of_port_counters(c, …, &after, …);
 *   fm_of_port_rates(before, n, after, m, rates, &n_rates);
 *   measurement.utilisation_ppm = fm_of_utilisation_ppm(rate, measurement.bandwidth_bytes_per_s);   fm_topology_measure(…)
 *
 * Pure functions. The time between the readings is the switch's own, from the ports' ages, so neither our clock nor the way of the answers is in the figure.
 */
#ifndef FM_NETWORK_OPENFLOW_RATES_H
#define FM_NETWORK_OPENFLOW_RATES_H

#include "network/openflow-codec.h"

struct fm_of_rate {
	uint32_t port;
	uint64_t rx_bytes_per_s, tx_bytes_per_s; /* as the switch sees it: rx is what came in */
};

/*
 * One rate for each port that is in both readings, in the order of `after`; ret has room for n_after. A port that was made anew in between, whose counters went back, that does not count bytes, or
 * that is no older than before, has none.
 */
void fm_of_port_rates(const struct fm_of_counters *before, size_t n_before, const struct fm_of_counters *after, size_t n_after,
                      struct fm_of_rate *ret, size_t *ret_n);
/* At most 1000000; of no bandwidth everything is full. */
uint32_t fm_of_utilisation_ppm(uint64_t bytes_per_s, uint64_t bandwidth_bytes_per_s);

#endif
