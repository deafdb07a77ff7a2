/* SPDX-License-Identifier: MIT */
/*
 * forecasts.h - what the past of hosts and containers says about the next half hour: a predictor (decision/predictor.h) for each series that is asked about, fed with the 5-minute means of the usage history
 * (usage-history.h) as they become complete. Nothing is kept on a disk: after a restart they learn the 48 hours again that the history has.
 *
 * Learning takes at most a twentieth of a processor; until a series has caught up its forecast is unknown (NAN). At most FM_MAX_FORECASTS series are followed, those asked about first: hosts with all members of
 * the ensemble, beyond FULL_MAX of them with the cheap ones, containers with smoothing and windows. Thread-safe.
 */
#ifndef FM_MIGRATION_FORECASTS_H
#define FM_MIGRATION_FORECASTS_H

#include "migration/cluster-snapshot.h"

struct fm_forecasts;
struct fm_forecasts *fm_forecasts_new(void);
void fm_forecasts_free(struct fm_forecasts *f);

/* Half an hour ahead; for struct fm_snapshot_predictor, with the forecasts as userdata. */
double fm_forecasts_predict(void *forecasts, bool host, const char *name, enum fm_usage_kind kind, const struct fm_series *past);

#endif
