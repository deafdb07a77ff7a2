/* SPDX-License-Identifier: MIT */
/* usage.h - the monitor's figures (monitor/usage.h) as messages of the contract and back, and what of a report is believed. Pure; any thread. */
#ifndef FM_MIGRATION_USAGE_H
#define FM_MIGRATION_USAGE_H

#include "migration/agent-api.h"
#include "monitor/usage.h"

/* NULL when nothing was measured yet. The caller frees it. */
FM_PB(HostUsage) * fm_usage_host_message(const struct fm_host_usage *u);
FM_PB(ContainerUsage) * fm_usage_container_message(const struct fm_container_usage *u);

/* The other way; m may be NULL: all unknown. */
void fm_usage_host_figures(const FM_PB(HostUsage) * m, struct fm_host_usage *ret);
void fm_usage_container_figures(const FM_PB(ContainerUsage) * m, struct fm_container_usage *ret);

/*
 * A report comes from outside. A figure that cannot be (not finite, negative, a percentage over 100, more than FM_USAGE_MAX) becomes unknown; more labels, peers and images than there may be are cut off, and so are
 * malformed ones. What only the manager says (cordoned, load) is taken out. Nothing of this is a reason to refuse the report: a host with one odd figure is still there.
 */
void fm_usage_check_host(FM_PB(Host) * h);
void fm_usage_check_container(FM_PB(Container) * c);

#define FM_USAGE_MAX 1e15 /* bytes a second, bytes, faults a second: nothing real comes near */

#endif
