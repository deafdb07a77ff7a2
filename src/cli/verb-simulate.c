/* SPDX-License-Identifier: MIT */
/* verb-simulate.c - `simulate SCENARIO`: a made-up cluster moved by the real decisions. Needs no manager. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "cli/cli.h"
#include "cli/verbs.h"
#include "decision/simulator.h"

struct simulate_options {
	const char *output, *compare, *timeline, *mode;
	uint64_t seed;
};

/* All that a scenario needs, read. */
struct files {
	struct fm_scenario *scenario;
	struct fm_trace *traces;
	size_t n_traces;
	struct fm_policies *policies;
};

static void files_done(struct files *f)
{
	for (size_t i = 0; i < f->n_traces; i++)
		fm_trace_done(&f->traces[i]);
	free(f->traces);
	fm_policies_free(f->policies);
	fm_scenario_free(f->scenario);
}

/* Names in a scenario are relative to its folder. Free it. */
static char *beside(const char *scenario, const char *name)
{
	const char *slash = strrchr(scenario, '/');
	if (name[0] == '/' || !slash)
		return fm_xstrdup(name);
	return fm_xasprintf("%.*s/%s", (int)(slash - scenario), scenario, name);
}

static int read_trace(const char *path, struct fm_trace *ret, struct fm_error *err)
{
	_fm_free_ char *text = NULL;
	size_t n = 0;
	if (fm_read_file(path, FM_MAX_TRACE_BYTES, &text, &n, err) < 0)
		return -1;
	return fm_trace_parse(text, n, ret, err) < 0 ? fm_error_prefix(err, "%s", path) : 0;
}

static int read_files(const char *path, struct files *f, struct fm_error *err)
{
	_fm_document_ struct fm_document *d = NULL;
	size_t n = 0;
	if (fm_document_read(path, NULL, &d, err) < 0 || fm_scenario_read(d, &f->scenario, err) < 0)
		return -1;
	char *const *names = fm_scenario_traces(f->scenario, &n);
	f->traces = calloc(n + 1, sizeof(*f->traces));
	if (!f->traces)
		return fm_error_errno(err, ENOMEM, "%zu traces", n);
	for (; f->n_traces < n; f->n_traces++) {
		_fm_free_ char *trace = beside(path, names[f->n_traces]);
		if (read_trace(trace, &f->traces[f->n_traces], err) < 0)
			return -1;
	}
	names = fm_scenario_policies(f->scenario, &n);
	f->policies = fm_policies_new();
	for (size_t i = 0; i < n; i++) {
		_fm_document_ struct fm_document *policy = NULL;
		_fm_free_ char *file = beside(path, names[i]);
		if (fm_document_read(file, NULL, &policy, err) < 0 || fm_policies_add(f->policies, policy, err) < 0)
			return -1;
	}
	return 0;
}

/* ---------------------------------------------------------------- timeline */

struct timeline {
	FILE *f;
	const char *mode;
};

static void write_row(void *userdata, const struct fm_simulation_row *r)
{
	struct timeline *t = userdata;
	char stamp[32];
	struct tm tm;
	time_t at = (time_t)(r->at_unix_ms / 1000);
	(void)gmtime_r(&at, &tm);
	(void)strftime(stamp, sizeof(stamp), "%Y-%m-%d %H:%M:%S", &tm);
	(void)fprintf(t->f, "%s,%s,%.3f,%zu,%zu,%zu,%zu,%.3f,%.3f,%.3f,%zu,%llu,%llu,%llu\n", stamp, t->mode, (double)r->at_ms / 1000,
	              r->hosts_in_use, r->hosts_offline, r->hosts_over_cpu, r->hosts_over_memory, r->cpu_mean_percent, r->cpu_max_percent,
	              r->memory_max_percent, r->moves_under_way, (unsigned long long)r->moves, (unsigned long long)r->denied,
	              (unsigned long long)r->wire_bytes);
}

static int open_timeline(const struct simulate_options *o, struct timeline *t, struct fm_error *err)
{
	if (!o->timeline)
		return 0;
	t->f = fopen(o->timeline, "we");
	if (!t->f)
		return fm_error_errno(err, errno, "%s", o->timeline);
	(void)fprintf(t->f,
	              "timestamp,mode,seconds,hosts_in_use,hosts_offline,hosts_over_cpu,hosts_over_memory,cpu_mean_percent,cpu_max_percent,"
	              "memory_max_percent,moves_under_way,moves,denied,wire_bytes\n");
	return 0;
}

static int close_timeline(const struct simulate_options *o, struct timeline *t, struct fm_error *err)
{
	if (!t->f)
		return 0;
	bool bad = ferror(t->f);
	return fclose(t->f) != 0 || bad ? fm_error_errno(err, errno ? errno : EIO, "%s", o->timeline) : 0;
}

/* ---------------------------------------------------------------- text */

static void line(const char *what, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void line(const char *what, const char *fmt, ...)
{
	va_list ap;
	printf("  %-22s", what);
	va_start(ap, fmt);
	(void)vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
}

static unsigned long long u(uint64_t n)
{
	return n;
}

static void print_migrations(const struct fm_simulation *r)
{
	char bytes[32], wasted[32];
	line("migrations asked for",
	     "%llu by %llu plans: %llu moved, %llu denied, %llu refused, %llu failed, %llu over their time, %llu interrupted, %llu under "
	     "way",
	     u(r->asked), u(r->plans), u(r->moved), u(r->denied), u(r->refused), u(r->failed), u(r->overdue), u(r->interrupted),
	     u(r->under_way));
	line("strategies", "%llu live, %llu pre-copy, %llu post-copy, %llu cold", u(r->by_strategy[FM_STRATEGY_LIVE]),
	     u(r->by_strategy[FM_STRATEGY_PRE_COPY]), u(r->by_strategy[FM_STRATEGY_POST_COPY]), u(r->by_strategy[FM_STRATEGY_COLD]));
	line("bytes", "%s, and %s in vain", fm_format_bytes(r->wire_bytes, bytes, sizeof(bytes)),
	     fm_format_bytes(r->wasted_bytes, wasted, sizeof(wasted)));
	line("downtime", "%.1f s altogether, %.0f ms at most; as predicted in %llu of %llu", r->downtime_ms / 1000, r->longest_downtime_ms,
	     u(r->forecasts_met), u(r->moved));
	line("to and fro", "%llu went back within an hour", u(r->ping_pong));
	if (r->queued)
		line("waited", "%llu for max_concurrent_migrations of a policy", u(r->queued));
}

static void print_violations(const struct fm_simulation *r)
{
	line("over a threshold", "%.1f host-minutes: %.1f processors, %.1f memory", r->over_min, r->cpu_over_min, r->memory_over_min);
	line("not served", "%.1f core-minutes", r->unserved_core_min);
	if (r->outage_container_min > 0)
		line("on failed hosts", "%.1f container-minutes", r->outage_container_min);
	for (size_t i = 0; i < r->n_denials; i++)
		line("denied", "%llu by %s", u(r->denials[i].n), r->denials[i].policy[0] ? r->denials[i].policy : "none that allows it");
	for (size_t i = 0; i < r->n_drains; i++) {
		const struct fm_simulation_drain *d = &r->drains[i];
		_fm_free_ char *empty = d->empty_ms == FM_UNKNOWN ? fm_xstrdup("never empty")
		                                                  : fm_xasprintf("empty after %.1f s", (double)d->empty_ms / 1000);
		_fm_free_ char *deadline = d->deadline_ms ? fm_xasprintf(" of %.0f s", (double)d->deadline_ms / 1000) : fm_xstrdup("");
		line("drain", "'%s': %zu containers, %s%s; deadline%s missed by %zu, foretold %zu", d->host, d->containers, empty,
		     d->begun ? "" : " (not begun: another one was under way)", d->deadline_ms ? deadline : " (none)", d->missed,
		     d->foretold);
	}
}

static void print_one(const struct fm_simulation *r)
{
	printf("mode %s, seed %llu: %zu hosts, %zu containers, %llu steps, %.1f hours\n", fm_simulation_mode_to_string(r->mode), u(r->seed),
	       r->hosts, r->containers, u(r->steps), (double)r->duration_ms / 3600000);
	print_migrations(r);
	print_violations(r);
	line("hosts in use", "%.1f on average, %zu at most, %zu at the end", r->hosts_in_use_mean, r->hosts_in_use_most,
	     r->hosts_in_use_end);
	if (r->cost > 0)
		line("cost", "%.1f", r->cost);
}

static void print_comparison(struct fm_simulation *const *v, size_t n)
{
	struct fm_table *t = fm_table_new((const char *const[]){ "MODE", "OVER (HOST-MIN)", "CPU", "MEMORY", "UNSERVED (CORE-MIN)", "MOVES",
	                                                         "DENIED", "BACK", "BYTES", "DOWNTIME", "MISSED", "HOSTS", "COST", NULL });
	for (size_t i = 0; i < n; i++) {
		const struct fm_simulation *r = v[i];
		char size[32];
		_fm_free_ char *over = fm_xasprintf("%.1f", r->over_min), *cpu = fm_xasprintf("%.1f", r->cpu_over_min),
		               *memory = fm_xasprintf("%.1f", r->memory_over_min), *unserved = fm_xasprintf("%.1f", r->unserved_core_min),
		               *moves = fm_xasprintf("%llu", u(r->moved)), *denied = fm_xasprintf("%llu", u(r->denied)),
		               *back = fm_xasprintf("%llu", u(r->ping_pong)), *downtime = fm_xasprintf("%.1f s", r->downtime_ms / 1000),
		               *missed = fm_xasprintf("%llu", u(r->deadline_misses)), *hosts = fm_xasprintf("%.1f", r->hosts_in_use_mean),
		               *cost = fm_xasprintf("%.1f", r->cost);
		fm_table_row(t, fm_simulation_mode_to_string(r->mode), over, cpu, memory, unserved, moves, denied, back,
		             fm_format_bytes(r->wire_bytes, size, sizeof(size)), downtime, missed, hosts, cost, NULL);
	}
	fm_table_print(t);
}

/* ---------------------------------------------------------------- the whole */

/* "none,reactive": at most one of each, in that order */
static int parse_modes(const char *text, unsigned *modes, size_t *ret_n, struct fm_error *err)
{
	_fm_free_ char *copy = fm_xstrdup(text);
	char *save = NULL;
	*ret_n = 0;
	for (char *word = strtok_r(copy, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
		unsigned mode = 0;
		if (fm_simulation_mode_from_string(word, &mode, err) < 0)
			return -1;
		for (size_t i = 0; i < *ret_n; i++)
			if (modes[i] == mode)
				return fm_error_set(err, FM_E_INVALID_ARGUMENT, "mode '%s' is there twice", word);
		modes[(*ret_n)++] = mode;
	}
	return *ret_n ? 0 : fm_error_set(err, FM_E_INVALID_ARGUMENT, "no mode");
}

static int print_json(struct fm_simulation *const *v, size_t n, bool compared)
{
	json_t *list = json_array();
	for (size_t i = 0; i < n; i++)
		(void)json_array_append_new(list, fm_simulation_to_json(v[i]));
	_fm_free_ char *text = json_dumps(compared ? list : json_array_get(list, 0), JSON_COMPACT);
	puts(text ? text : "null");
	json_decref(list);
	return 0;
}

static int simulate_all(const struct simulate_options *o, const struct files *f, const unsigned *modes, size_t n, struct fm_simulation **v,
                        struct fm_error *err)
{
	struct timeline t = { 0 };
	struct fm_error late = FM_ERROR_INIT;
	int rc = open_timeline(o, &t, err);
	for (size_t i = 0; rc == 0 && i < n; i++) {
		t.mode = fm_simulation_mode_to_string(modes[i]);
		const struct fm_simulation_inputs in = { .traces = f->traces,
			                                 .policies = f->policies->n ? f->policies : NULL,
			                                 .mode = modes[i],
			                                 .seed = o->seed == UINT64_MAX ? fm_scenario_seed(f->scenario) : o->seed,
			                                 .row = t.f ? write_row : NULL,
			                                 .userdata = &t };
		rc = fm_simulate(f->scenario, &in, &v[i], err);
	}
	if (close_timeline(o, &t, rc == 0 ? err : &late) < 0)
		rc = -1;
	return rc;
}

static int simulate(const struct simulate_options *o, const char *path, struct fm_error *err)
{
	_fm_cleanup_(files_done) struct files f = { 0 };
	unsigned modes[FM_SIMULATE_MODES] = { 0 };
	struct fm_simulation *v[FM_SIMULATE_MODES] = { 0 };
	size_t n = 1;
	if (read_files(path, &f, err) < 0)
		return -1;
	modes[0] = fm_scenario_mode(f.scenario);
	if (o->mode && fm_simulation_mode_from_string(o->mode, &modes[0], err) < 0)
		return -1;
	if (o->compare && parse_modes(o->compare, modes, &n, err) < 0)
		return -1;
	int rc = simulate_all(o, &f, modes, n, v, err);
	if (rc == 0 && fm_streq(o->output, "json"))
		(void)print_json(v, n, o->compare != NULL);
	else if (rc == 0 && o->compare)
		print_comparison(v, n);
	else if (rc == 0)
		print_one(v[0]);
	for (size_t i = 0; i < n; i++)
		fm_simulation_free(v[i]);
	return rc;
}

int fm_verb_simulate(int argc, char **argv)
{
	struct simulate_options o = { .seed = UINT64_MAX };
	const struct fm_option table[] = {
		{ "mode", FM_OPT_STRING, &o.mode, "MODE",
		  "instead of the scenario's: none, reactive, proactive, consolidate, or several with +", NULL },
		{ "compare", FM_OPT_STRING, &o.compare, "MODES", "run it once in each of them, none,reactive,… and print a table", NULL },
		{ "seed", FM_OPT_UINT, &o.seed, "N", "instead of the scenario's", NULL },
		{ "timeline", FM_OPT_STRING, &o.timeline, "FILE", "write a line of CSV for each step", NULL },
		{ "output", FM_OPT_CHOICE, &o.output, "FORMAT", "text (default) or json", "text|json" },
		{ 0 },
	};
	const struct fm_command_line cl = {
		.usage = "fleximigrate simulate SCENARIO [options]",
		.summary = "Play a made-up cluster with the real decisions: what policies and modes would do, before they are used.",
		.details = "SCENARIO is YAML or JSON; docs/SIMULATE.md says what is in it. The same scenario and seed give the same "
		           "answer. Needs no manager.",
		.options = table,
		.min_args = 1,
		.max_args = 1
	};
	struct fm_arguments args __attribute__((cleanup(fm_arguments_done))) = { 0 };
	struct fm_error err = FM_ERROR_INIT;
	int rc = fm_options_parse(&cl, argc, argv, &args, &err);
	struct fm_client_options shown = { .output = o.output };
	if (rc > 0)
		return 0;
	if (rc == 0)
		rc = simulate(&o, args.v[0], &err);
	return rc < 0 ? fm_cli_fail(&shown, &err) : 0;
}
