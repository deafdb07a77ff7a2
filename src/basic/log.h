/* SPDX-License-Identifier: MIT */
/*
 * log.h - the log as an object, passed as a parameter.
 *
 * Only migration/ and the mains (manager/, agent/, cli/) log. Modules below return struct fm_error and stay silent, so that
 * a failure is logged once, by who handles it.
 *
 * Two formats of the same events: FM_LOG_HUMAN "LEVEL [Component]: Message" (a contract, see docs/LIFECYCLE.md) and FM_LOG_JSON: one
 * JSON object a line with Elastic Common Schema names (@timestamp, log.level, event.action, message, container.id, host.name,
 * fleximigrate.component, fleximigrate.migration.id, fleximigrate.state.from, fleximigrate.state.to).
 *
 * Threads: every function may be called from any thread; a line is written with one write(2). Messages are cut at 2 KiB; control characters
 * become '?', so that no outsider's text can forge a line.
 */
#ifndef FM_BASIC_LOG_H
#define FM_BASIC_LOG_H

#include <stdarg.h>
#include <stdbool.h>

enum fm_log_level { FM_LOG_DEBUG, FM_LOG_INFO, FM_LOG_WARN, FM_LOG_ERROR, _FM_LOG_LEVEL_MAX };
enum fm_log_format { FM_LOG_HUMAN, FM_LOG_JSON };

/* What a line is about; any member may be NULL. Borrowed for the call. */
struct fm_log_fields {
	const char *migration_id;
	const char *container;
	const char *host;
	const char *state_from;
	const char *state_to;
	const char *action; /* event.action; NULL = "log" */
};

struct fm_log;

/* A log that writes to fd (borrowed, not closed). Never NULL except out of memory. */
struct fm_log *fm_log_new(int fd, enum fm_log_format format, enum fm_log_level min_level);
void fm_log_free(struct fm_log *log);

/* An observer also gets every line that passes min_level, formatted as human text without newline (used by the manager to keep a
 * migration's lines in the store). One observer; set it before threads start. Called with no lock held, possibly concurrently. */
typedef void (*fm_log_observer)(void *userdata, enum fm_log_level level, const char *component, const struct fm_log_fields *fields,
                                const char *line);
void fm_log_set_observer(struct fm_log *log, fm_log_observer fn, void *userdata);

/* log may be NULL (silently drops), fields may be NULL. */
void fm_log_write(struct fm_log *log, enum fm_log_level level, const char *component, const struct fm_log_fields *fields, const char *fmt,
                  ...) __attribute__((format(printf, 5, 6)));

const char *fm_log_level_to_string(enum fm_log_level level);
/* returns -1 for unknown names */
int fm_log_level_from_string(const char *name, enum fm_log_level *ret);

#endif
