/* SPDX-License-Identifier: MIT */
/*
 * expr-probe.c - conditions as a command, for tests/integration/test_expr_oracle.py and bench/policies.py: each line of the standard input is an expression of JSON form, {"expression": …, "variables": {name: value}};
 * the answer is a line, "true", "false", "unknown NAME", "error …" or "refused …". `expr-probe bench N EXPRESSION` reads variables from the standard input and says how many evaluations a second one core does.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/clock.h"
#include "basic/str.h"
#include "decision/expr.h"

#define MAX_VARIABLES 64

struct world {
	struct fm_expr_variable variables[MAX_VARIABLES];
	struct fm_expr_value values[MAX_VARIABLES];
	struct fm_expr_vocabulary vocabulary;
	struct fm_expr_env env;
};

static void read_world(json_t *variables, struct world *w)
{
	size_t n = 0;
	const char *name;
	json_t *v;

	memset(w, 0, sizeof(*w));
	json_object_foreach(variables, name, v)
	{
		if (n == MAX_VARIABLES)
			abort();
		w->variables[n].name = name;
		w->variables[n].type = json_is_string(v) ? FM_EXPR_TEXT : json_is_boolean(v) ? FM_EXPR_BOOL : FM_EXPR_NUMBER;
		w->values[n] = (struct fm_expr_value){ .known = !json_is_null(v),
			                               .truth = json_is_true(v),
			                               .number = json_number_value(v),
			                               .text = json_string_value(v),
			                               .len = json_string_length(v) };
		n++;
	}
	w->vocabulary = (struct fm_expr_vocabulary){ .variables = w->variables, .n_variables = n };
	w->env = (struct fm_expr_env){ .values = w->values };
}

static void answer(const char *text, struct world *w)
{
	_fm_cleanup_(fm_expr_freep) struct fm_expr *e = NULL;
	struct fm_error err = FM_ERROR_INIT;
	struct fm_expr_result r;

	if (fm_expr_parse(text, strlen(text), &w->vocabulary, &e, &err) < 0) {
		printf("refused %s\n", err.message);
		return;
	}
	fm_expr_eval(e, &w->env, &r);
	if (r.truth == FM_TRUTH_UNKNOWN)
		printf("unknown %s\n", w->variables[r.variable].name);
	else if (r.truth == FM_TRUTH_ERROR)
		printf("error %s\n", r.problem);
	else
		printf("%s\n", r.truth == FM_TRUTH_TRUE ? "true" : "false");
}

static int bench(unsigned long n, const char *text, struct world *w)
{
	_fm_cleanup_(fm_expr_freep) struct fm_expr *e = NULL;
	struct fm_error err = FM_ERROR_INIT;
	struct fm_expr_result r;
	unsigned long yes = 0;

	if (fm_expr_parse(text, strlen(text), &w->vocabulary, &e, &err) < 0) {
		fprintf(stderr, "%s\n", err.message);
		return 1;
	}
	uint64_t began = fm_thread_cpu_us();
	for (unsigned long i = 0; i < n; i++) {
		fm_expr_eval(e, &w->env, &r);
		yes += r.truth == FM_TRUTH_TRUE;
	}
	uint64_t us = fm_thread_cpu_us() - began;
	printf("{\"evaluations\": %lu, \"true\": %lu, \"per_second\": %.0f}\n", n, yes, us ? (double)n * 1e6 / (double)us : 0);
	return 0;
}

int main(int argc, char **argv)
{
	struct world w;
	char *line = NULL;
	size_t cap = 0;

	while (getline(&line, &cap, stdin) > 0) {
		json_t *o = json_loads(line, 0, NULL);

		if (!o)
			return 2;
		read_world(argc > 1 ? o : json_object_get(o, "variables"), &w);
		if (argc == 4 && fm_streq(argv[1], "bench")) {
			int rc = bench(strtoul(argv[2], NULL, 10), argv[3], &w);
			json_decref(o);
			free(line);
			return rc;
		}
		answer(json_string_value(json_object_get(o, "expression")), &w);
		json_decref(o);
	}
	free(line);
	return 0;
}
