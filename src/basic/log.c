/* SPDX-License-Identifier: MIT */
/*
 * log.c - see log.h.
 *
 * No lock: the object does not change after start, every line is built on the caller's stack (or heap, for JSON) and leaves in one
 * write(2), which the kernel keeps whole for O_APPEND files and for pipes up to PIPE_BUF. A log that cannot be written
 * must not stop a migration, so write errors are ignored.
 */
#include "basic/log.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/str.h"

#define MESSAGE_MAX    2048
#define NAME_MAX_SHOWN 64
#define FIELD_MAX      512
#define ECS_VERSION    "8.11.0"

struct fm_log {
	int fd;
	enum fm_log_format format;
	enum fm_log_level min_level;
	fm_log_observer observer;
	void *observer_data;
};

static const char *const level_names[_FM_LOG_LEVEL_MAX] = {
	[FM_LOG_DEBUG] = "DEBUG",
	[FM_LOG_INFO] = "INFO",
	[FM_LOG_WARN] = "WARN",
	[FM_LOG_ERROR] = "ERROR",
};

/* ECS wants lower case */
static const char *const level_names_ecs[_FM_LOG_LEVEL_MAX] = {
	[FM_LOG_DEBUG] = "debug",
	[FM_LOG_INFO] = "info",
	[FM_LOG_WARN] = "warn",
	[FM_LOG_ERROR] = "error",
};

/* line: n bytes with '\n' at the end */
static void write_line(int fd, const char *line, size_t n)
{
	ssize_t done;

	do {
		done = write(fd, line, n);
	} while (done < 0 && errno == EINTR);
	/* a short write (full disk, slow pipe) loses the rest of this line, ignoring */
}

/* Adds key unless value is NULL. jansson refuses invalid UTF-8, so the copy is sanitised. */
static int add_string(json_t *object, const char *key, const char *value)
{
	char text[FIELD_MAX];

	if (!value)
		return 0;
	(void)snprintf(text, sizeof(text), "%s", value);
	fm_str_sanitize(text);
	return json_object_set_new(object, key, json_string(text));
}

/* One JSON object, malloc'ed, NULL when out of memory. message is sanitised already. */
static char *json_line(enum fm_log_level level, const char *component, const struct fm_log_fields *f, const char *message)
{
	_fm_cleanup_(json_decrefp) json_t *object = json_object();
	char when[32];
	int bad = 0;

	if (!object)
		return NULL;
	bad |= add_string(object, "@timestamp", fm_format_time(fm_realtime_ms(), when, sizeof(when)));
	bad |= add_string(object, "log.level", level_names_ecs[level]);
	bad |= json_object_set_new(object, "message", json_string(message));
	bad |= add_string(object, "ecs.version", ECS_VERSION);
	bad |= add_string(object, "event.action", f->action ? f->action : "log");
	bad |= add_string(object, "fleximigrate.component", component);
	bad |= add_string(object, "container.id", f->container);
	bad |= add_string(object, "host.name", f->host);
	bad |= add_string(object, "fleximigrate.migration.id", f->migration_id);
	bad |= add_string(object, "fleximigrate.state.from", f->state_from);
	bad |= add_string(object, "fleximigrate.state.to", f->state_to);
	return bad ? NULL : json_dumps(object, JSON_COMPACT);
}

struct fm_log *fm_log_new(int fd, enum fm_log_format format, enum fm_log_level min_level)
{
	struct fm_log *log = calloc(1, sizeof(*log));

	if (!log)
		return NULL;
	log->fd = fd;
	log->format = format;
	log->min_level = min_level;
	return log;
}

void fm_log_free(struct fm_log *log)
{
	free(log);
}

void fm_log_set_observer(struct fm_log *log, fm_log_observer fn, void *userdata)
{
	if (!log)
		return;
	log->observer = fn;
	log->observer_data = userdata;
}

void fm_log_write(struct fm_log *log, enum fm_log_level level, const char *component, const struct fm_log_fields *fields, const char *fmt,
                  ...)
{
	static const struct fm_log_fields no_fields;
	char message[MESSAGE_MAX], name[NAME_MAX_SHOWN], line[MESSAGE_MAX + NAME_MAX_SHOWN + 32];
	_fm_free_ char *json = NULL;
	int saved = errno, n;
	va_list ap;

	if (!log || (unsigned)level >= _FM_LOG_LEVEL_MAX || level < log->min_level)
		return;
	va_start(ap, fmt);
	n = vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	if (n < 0)
		message[0] = '\0';
	fm_str_sanitize(message);
	(void)snprintf(name, sizeof(name), "%s", component ? component : "FlexiMigrate");
	fm_str_sanitize(name);

	n = snprintf(line, sizeof(line), "%s [%s]: %s", level_names[level], name, message);
	if (log->observer)
		log->observer(log->observer_data, level, name, fields ? fields : &no_fields, line);

	if (log->format == FM_LOG_JSON)
		json = json_line(level, name, fields ? fields : &no_fields, message);
	if (json) {
		_fm_buf_ struct fm_buf out = FM_BUF_INIT;

		fm_buf_addf(&out, "%s\n", json);
		write_line(log->fd, out.data, out.len);
	} else {
		line[n] = '\n'; /* in place of the NUL: still one write */
		write_line(log->fd, line, (size_t)n + 1);
	}
	errno = saved;
}

const char *fm_log_level_to_string(enum fm_log_level level)
{
	return (unsigned)level < _FM_LOG_LEVEL_MAX ? level_names[level] : "UNKNOWN";
}

int fm_log_level_from_string(const char *name, enum fm_log_level *ret)
{
	for (unsigned i = 0; name && i < _FM_LOG_LEVEL_MAX; i++) {
		if (strcasecmp(level_names[i], name) == 0) {
			*ret = (enum fm_log_level)i;
			return 0;
		}
	}
	return -1;
}
