/* SPDX-License-Identifier: MIT */
/* verb-predict.c - `predict backtest`: how well recorded series would have been predicted. Needs no manager. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "cli/cli.h"
#include "cli/verbs.h"
#include "decision/trace.h"

static const unsigned usual_horizons[] = { 1, 6, 12 };

struct backtest_options {
	const char *members, *output;
	uint64_t seed, step_ms;
	bool all_horizons, verbose;
	uint32_t kinds;
};

static bool is_shown(const struct backtest_options *o, unsigned horizon)
{
	for (size_t i = 0; i < FM_ARRAY_SIZE(usual_horizons); i++)
		if (usual_horizons[i] == horizon)
			return true;
	return o->all_horizons;
}

static int backtest_file(const struct backtest_options *o, const char *path, struct fm_backtest *ret, struct fm_error *err)
{
	_fm_cleanup_(fm_trace_done) struct fm_trace t = { 0 };
	_fm_free_ char *text = NULL;
	size_t n;
	struct fm_predictor_options options = { .step_ms = (uint32_t)o->step_ms, .members = o->kinds, .seed = o->seed };
	if (fm_read_file(path, FM_MAX_TRACE_BYTES, &text, &n, err) < 0)
		return -1;
	if (fm_trace_parse(text, n, &t, err) < 0 || fm_backtest_run(&t, &options, ret, err) < 0)
		return fm_error_prefix(err, "%s", path);
	return 0;
}

static json_t *members_to_json(const struct fm_predictor *p, unsigned horizon)
{
	json_t *all = json_object();
	struct fm_predictor_member m;
	for (unsigned i = 0; fm_predictor_member(p, i, horizon, &m); i++)
		json_object_set_new(all, m.name, json_real(m.weight));
	return all;
}

static void add_json(json_t *to, const struct backtest_options *o, const char *path, const struct fm_backtest *b)
{
	_fm_free_ char *shown = fm_xstrdup(path);
	fm_str_sanitize(shown); /* JSON takes valid UTF-8 only */
	for (unsigned h = 1; h <= FM_PREDICTOR_HORIZONS; h++) {
		const struct fm_backtest_horizon *z = &b->horizon[h - 1];
		json_t *entry;
		if (!is_shown(o, h))
			continue;
		/* what was not scored has no ratio, and JSON has no infinity */
		entry = json_pack("{s:s, s:i, s:o, s:o, s:I}", "file", shown, "horizon_steps", (int)h, "mae_ratio",
		                  z->scored && isfinite(z->ratio) ? json_real(z->ratio) : json_null(), "coverage90",
		                  z->scored ? json_real(z->coverage) : json_null(), "scored", (json_int_t)z->scored);
		if (entry && o->verbose)
			json_object_set_new(entry, "members", members_to_json(b->predictor, h));
		json_array_append_new(to, entry);
	}
}

/* Free it. */
static char *share_of(const struct fm_predictor *p, unsigned member, unsigned horizon)
{
	struct fm_predictor_member m = { 0 };
	(void)fm_predictor_member(p, member, horizon, &m);
	return fm_xasprintf("%.3f", m.weight);
}

static void print_members(const struct fm_backtest *b)
{
	struct fm_table *t = fm_table_new((const char *const[]){ "MEMBER", "KIND", "1", "6", "12", NULL });
	struct fm_predictor_member m;
	for (unsigned i = 0; fm_predictor_member(b->predictor, i, 1, &m); i++) {
		_fm_free_ char *at_1 = share_of(b->predictor, i, 1), *at_6 = share_of(b->predictor, i, 6),
		               *at_12 = share_of(b->predictor, i, 12);
		fm_table_row(t, m.name, fm_predictor_kind_to_string(m.kind), at_1, at_6, at_12, NULL);
	}
	fm_table_print(t);
}

static void print_text(const struct backtest_options *o, const char *path, const struct fm_backtest *b)
{
	struct fm_table *t = fm_table_new((const char *const[]){ "STEPS", "ERROR/LAST", "COVERAGE", "SCORED", NULL });
	printf("%s: %llu observations, %llu steps missing, %llu duplicates, %llu late\n", path, (unsigned long long)b->stats.observations,
	       (unsigned long long)b->stats.missing_steps, (unsigned long long)b->stats.duplicates, (unsigned long long)b->stats.late);
	for (unsigned h = 1; h <= FM_PREDICTOR_HORIZONS; h++) {
		const struct fm_backtest_horizon *z = &b->horizon[h - 1];
		_fm_free_ char *steps = fm_xasprintf("%u", h), *scored = fm_xasprintf("%llu", (unsigned long long)z->scored);
		_fm_free_ char *ratio = z->scored ? fm_xasprintf("%.3f", z->ratio) : fm_xstrdup("-");
		_fm_free_ char *coverage = z->scored ? fm_xasprintf("%.1f %%", z->coverage * 100) : fm_xstrdup("-");
		if (is_shown(o, h))
			fm_table_row(t, steps, ratio, coverage, scored, NULL);
	}
	fm_table_print(t);
	if (o->verbose)
		print_members(b);
}

/* Over the files, as they are compared elsewhere: the geometric mean of the ratios. */
static void print_means(const struct backtest_options *o, const double *log_ratio, const double *coverage, int files)
{
	printf("All %d files:\n", files);
	for (unsigned h = 1; h <= FM_PREDICTOR_HORIZONS; h++)
		if (is_shown(o, h))
			printf("  %2u steps: error/last %.3f (geometric mean), coverage %.1f %%\n", h, exp(log_ratio[h - 1] / files),
			       coverage[h - 1] / files * 100);
}

static int run_all(const struct backtest_options *o, const struct fm_arguments *args, struct fm_error *err)
{
	json_t *json = fm_streq(o->output, "json") ? json_array() : NULL;
	double log_ratio[FM_PREDICTOR_HORIZONS] = { 0 }, coverage[FM_PREDICTOR_HORIZONS] = { 0 };
	int rc = 0;
	for (int i = 0; i < args->n && rc == 0; i++) {
		_fm_cleanup_(fm_backtest_done) struct fm_backtest b = { 0 };
		rc = backtest_file(o, args->v[i], &b, err);
		for (unsigned h = 0; rc == 0 && h < FM_PREDICTOR_HORIZONS; h++) {
			log_ratio[h] += log(b.horizon[h].ratio);
			coverage[h] += b.horizon[h].coverage;
		}
		if (rc == 0 && json)
			add_json(json, o, args->v[i], &b);
		else if (rc == 0)
			print_text(o, args->v[i], &b);
	}
	if (rc == 0 && json) {
		_fm_free_ char *text = json_dumps(json, JSON_REAL_PRECISION(6));
		puts(text ? text : "[]");
	} else if (rc == 0 && args->n > 1) {
		print_means(o, log_ratio, coverage, args->n);
	}
	json_decref(json);
	return rc;
}

int fm_verb_predict_backtest(int argc, char **argv)
{
	struct backtest_options o = { .members = "all" };
	const struct fm_option table[] = {
		{ "members", FM_OPT_STRING, &o.members, "LIST",
		  "kinds of members (default: all): last, smoothing, window, seasonal, autoregressive, analog, forest, lstm; cheap is all "
		  "but the last two",
		  NULL },
		{ "horizons", FM_OPT_FLAG, &o.all_horizons, NULL, "show 1 to 12 steps (default: 1, 6 and 12)", NULL },
		{ "step", FM_OPT_DURATION, &o.step_ms, "TIME", "distance of values (default: the most frequent in the file)", NULL },
		{ "seed", FM_OPT_UINT, &o.seed, "N", "of forest and LSTM (default 0)", NULL },
		{ "verbose", FM_OPT_FLAG, &o.verbose, NULL, "show the members' shares at the end", NULL },
		{ "output", FM_OPT_CHOICE, &o.output, "FORMAT", "text (default) or json", "text|json" },
		{ 0 },
	};
	const struct fm_command_line cl = { .usage = "fleximigrate predict backtest FILE... [options]",
		                            .summary = "Tell how well recorded series would have been predicted: error relative to the "
		                                       "last value, and coverage of the 90 % interval.",
		                            .details = "Files are CSV, 'timestamp,value'. The first 70 % of each are observed, the rest is "
		                                       "predicted, step by step, from what was known before.",
		                            .options = table,
		                            .min_args = 1,
		                            .max_args = -1 };
	struct fm_arguments args __attribute__((cleanup(fm_arguments_done))) = { 0 };
	struct fm_error err = FM_ERROR_INIT;
	int rc = fm_options_parse(&cl, argc, argv, &args, &err);
	struct fm_client_options shown = { .output = o.output };
	if (rc > 0)
		return 0;
	if (rc == 0 && o.step_ms > UINT32_MAX)
		rc = fm_error_set(&err, FM_E_INVALID_ARGUMENT, "--step of more than a day");
	if (rc == 0)
		rc = fm_predictor_kinds_from_string(o.members, &o.kinds, &err);
	if (rc == 0)
		rc = run_all(&o, &args, &err);
	return rc < 0 ? fm_cli_fail(&shown, &err) : 0;
}
