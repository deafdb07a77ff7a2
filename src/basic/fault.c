/* SPDX-License-Identifier: MIT */
/*
 * fault.c - see fault.h.
 *
 * The object is read-only after fm_fault_new except for the passage counters, which are atomic: points are passed from many threads.
 * A point that the code passes but the list below lacks is reported as soon as anything is armed, so the list cannot fall behind.
 */
#include "basic/fault.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/str.h"

#define MAX_ARMED    32
#define MAX_STALL_MS 600000

static const char *const points[] = {
	"manager-after-transition",   "manager-before-execute",
	"manager-after-execute",      "source-after-mark",
	"source-after-fence",         "source-after-dump",
	"source-after-stop",          "source-before-commit",
	"source-after-commit",        "source-before-release",
	"source-after-visited",       "destination-after-prepare",
	"destination-before-restore", "destination-after-restore",
	"destination-after-commit",   "destination-after-running",
	"destination-pages",          "stream-corrupt",
	"destination-verify",         "destination-after-files",
	"source-throttled",           NULL,
};

enum action { ACTION_KILL, ACTION_FAIL, ACTION_STALL };

struct armed {
	const char *point; /* from the list above */
	enum action action;
	unsigned stall_ms;
	uint64_t only_nth; /* 0 = every passage */
	atomic_uint_fast64_t passed;
};

struct fm_fault {
	size_t n;
	struct armed armed[MAX_ARMED];
};

FM_DEFINE_CLEANUP(struct fm_fault *, fm_fault_free);

static const char *find_point(const char *name)
{
	for (size_t i = 0; points[i]; i++)
		if (strcmp(points[i], name) == 0)
			return points[i];
	return NULL;
}

static int parse_action(const char *text, struct armed *a, struct fm_error *err)
{
	int ms = 0;

	if (strcmp(text, "kill") == 0) {
		a->action = ACTION_KILL;
	} else if (strcmp(text, "fail") == 0) {
		a->action = ACTION_FAIL;
	} else if (fm_str_startswith(text, "stall:")) {
		if (fm_parse_int(text + strlen("stall:"), 0, MAX_STALL_MS, &ms, err) < 0)
			return fm_error_prefix(err, "fault action '%.64s'", text);
		a->action = ACTION_STALL;
		a->stall_ms = (unsigned)ms;
	} else {
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "fault action '%.64s' is none of kill, fail, stall:MS", text);
	}
	return 0;
}

/* item: "point[@N]=action", taken apart in place */
static int arm(struct fm_fault *f, char *item, struct fm_error *err)
{
	struct armed *a = &f->armed[f->n];
	char *action = strchr(item, '='), *nth;

	if (f->n == MAX_ARMED)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "more than %d faults armed", MAX_ARMED);
	if (!action)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "fault '%.64s' is not point=action", item);
	*action++ = '\0';
	nth = strchr(item, '@');
	if (nth)
		*nth++ = '\0';
	a->point = find_point(item);
	if (!a->point) {
		(void)fm_error_set(err, FM_E_INVALID_ARGUMENT, "fault point '%.64s' is unknown", item);
		return fm_error_hint(err, "the known points are listed in src/basic/fault.c");
	}
	if (nth && fm_parse_u64(nth, &a->only_nth, err) < 0)
		return fm_error_prefix(err, "fault point '%s'", a->point);
	if (nth && a->only_nth == 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "fault point '%s': passages are counted from 1", a->point);
	if (parse_action(action, a, err) < 0)
		return -1;
	f->n++;
	return 0;
}

int fm_fault_new(const char *spec, struct fm_fault **ret, struct fm_error *err)
{
	_fm_cleanup_(fm_fault_freep) struct fm_fault *f = calloc(1, sizeof(*f));
	_fm_free_ char *copy = fm_xstrdup(spec ? spec : "");
	char *rest = copy, *item;

	if (!f)
		return fm_error_errno(err, ENOMEM, "setting up fault points");
	while (*copy && (item = strsep(&rest, ",")))
		if (arm(f, item, err) < 0)
			return -1;
	*ret = FM_TAKE_PTR(f);
	return 0;
}

void fm_fault_free(struct fm_fault *f)
{
	free(f);
}

int fm_fault_point(struct fm_fault *f, const char *point, struct fm_error *err)
{
	if (!f || f->n == 0)
		return 0;
	if (!find_point(point))
		return fm_error_set(err, FM_E_INTERNAL, "fault point '%s' is missing in the list of fault points", point);
	for (size_t i = 0; i < f->n; i++) {
		struct armed *a = &f->armed[i];

		if (strcmp(a->point, point) != 0)
			continue;
		if (a->only_nth && atomic_fetch_add(&a->passed, 1) + 1 != a->only_nth)
			continue;
		switch (a->action) {
		case ACTION_KILL:
			(void)kill(getpid(), SIGKILL);
			for (;;) /* SIGKILL is on its way; nothing after this point may run */
				(void)pause();
		case ACTION_FAIL:
			return fm_error_set(err, FM_E_INTERNAL, "injected failure at fault point '%s'", point);
		case ACTION_STALL:
			fm_pause_ms(a->stall_ms);
			break;
		}
	}
	return 0;
}

const char *const *fm_fault_points(void)
{
	return points;
}
