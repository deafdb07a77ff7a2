/* SPDX-License-Identifier: MIT */
/* runtime.c - what all runtime drivers share: the names of a container's states. */
#include "container/runtime.h"

#include "basic/cleanup.h"

const char *fm_container_status_to_string(enum fm_container_status s)
{
	static const char *const names[] = { [FM_CONTAINER_UNKNOWN] = "unknown",
		                             [FM_CONTAINER_CREATED] = "created",
		                             [FM_CONTAINER_RUNNING] = "running",
		                             [FM_CONTAINER_PAUSED] = "paused",
		                             [FM_CONTAINER_STOPPED] = "stopped" };

	return (size_t)s < FM_ARRAY_SIZE(names) ? names[s] : names[FM_CONTAINER_UNKNOWN];
}
