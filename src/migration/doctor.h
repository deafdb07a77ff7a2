/* SPDX-License-Identifier: MIT */
/* doctor.h - what is missing on this host, what is left over, and what to do about it. */
#ifndef FM_MIGRATION_DOCTOR_H
#define FM_MIGRATION_DOCTOR_H

#include "migration/mover.h"

/* Appends findings. movers NULL: the agent does not run (then journals count as findings of their own). clean: also remove leftovers that belong to no migration and no instance
 * (each by the idempotent undo that made it). */
int fm_doctor(struct fm_host *h, struct fm_movers *movers, bool clean, FM_PB(DoctorResponse) * ret, struct fm_error *err);

#endif
