/* SPDX-License-Identifier: MIT */
/*
 * placement.h - Decision Engine: which host is best for a container. Pure functions of a snapshot.
 *
 * First a filter says of each host why it will not do, if so. Then what is left gets a score: a weighted mean of the criteria below, each from 0 to 1, more is better. Weighted sums are the simplest
 * method of multi-criteria decision making, and the only one whose answer can be told in a line; the weights are given in percent and need not add up.
 *
 * A criterion about which nothing is known counts 0: no host wins by what is not known of it. A host whose use of processors or memory is not known takes nothing.
 */
#ifndef FM_DECISION_PLACEMENT_H
#define FM_DECISION_PLACEMENT_H

#include <stdbool.h>
#include <stddef.h>

#include "decision/snapshot.h"

enum fm_criterion {
	FM_CRITERION_CAPACITY,  /* room left under the thresholds after the move, of processors or memory, whichever is less */
	FM_CRITERION_PREDICTED, /* 1 - processors predicted to be used, with the container */
	FM_CRITERION_LATENCY,   /* 1 / (1 + ms on the way there): the move's round trips */
	FM_CRITERION_BANDWIDTH, /* b / (b + 1 Gbit/s), b what the link has free */
	FM_CRITERION_LABELS,    /* share of the labels that both have which are equal; 0.5 where they have none in common */
	FM_CRITERION_AFFINITY,  /* share of its group that is there; 0.5 where it has none */
	FM_CRITERION_IMAGE,     /* 1 where the host has its image: then its files need not be sent */
	FM_CRITERION_COST,      /* 1 - cost of an hour / that of the dearest host */
	_FM_CRITERION_MAX
};

struct fm_placement_weights {
	double percent[_FM_CRITERION_MAX];
};
/* capacity 30, predicted 20, latency 5, bandwidth 15, labels 5, affinity 10, image 10, cost 5 */
extern const struct fm_placement_weights fm_placement_default_weights;

struct fm_placement_host {
	size_t host;
	bool feasible;
	double score;                   /* 0 to 1; 0 of one that is not feasible */
	double part[_FM_CRITERION_MAX]; /* before weighting */
	char why[192];                  /* "it is cordoned"; of a feasible one, what its score is made of */
};

struct fm_plan_opts;
/* All hosts, the best first, those that will not do last; of equals the one with the lower index. The host where it is, is one that will not do. *ret: the caller frees it (free()).
 * FAILED_PRECONDITION when the container cannot be moved at all, saying why. */
int fm_placement(const struct fm_snapshot *s, size_t container, const struct fm_plan_opts *o, struct fm_placement_host **ret, size_t *ret_n,
                 struct fm_error *err);

#endif
