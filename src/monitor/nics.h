/* SPDX-License-Identifier: MIT */
/*
 * nics.h - which interfaces are this host's way to others, and what they can carry. Private to monitor/.
 *
 * Those of hardware (they say on which bus they are); where there is none, as in a network namespace, all that are no loopback, no bridge, no tunnel and not the host end of a container's endpoint. Asked of the
 * kernel through a socket and not of /sys, which shows the namespace in which it was mounted. Looked for again now and then: they come and go.
 */
#ifndef FM_MONITOR_NICS_H
#define FM_MONITOR_NICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FM_NICS_MAX 64

struct fm_nics {
	char name[FM_NICS_MAX][16];
	size_t n;
	uint64_t capacity_bytes_per_s; /* of all that are up; 0: none says */
};

/* is_endpoint: is it the host end of a container's? Allocates. */
void fm_nics_find(struct fm_nics *ret, bool (*is_endpoint)(void *userdata, const char *name), void *userdata);
bool fm_nics_has(const struct fm_nics *n, const char *name);

#endif
