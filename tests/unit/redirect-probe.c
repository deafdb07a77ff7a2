/* SPDX-License-Identifier: MIT */
/*
 * redirect-probe.c - one step of any redirection (src/network/redirect.h) as a command, for integration tests of the drivers against real programs.
 *
 * usage: redirect-probe [--secrets DIR] [--timeout MS] [--cancel] STEP [JSON]
 *     STEP: prepare | open | flip | verify | revert with {"action":{…},"undo":{…}} (no undo for prepare); leftovers with {"driver":"…","known":[…]}
 * Without the argument JSON comes from stdin. --cancel: stdin cancels, so JSON is an argument. One line of JSON on stdout: {"undo":{…}}, {}, {"leftovers":["…"]} and exit code 0,
 * or {"error":{"code","message","hint"}} and 1. 2: wrong usage.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/str.h"
#include "network/redirect.h"

static int usage(const char *why)
{
	fprintf(stderr, "redirect-probe: %s\n", why);
	return 2;
}

static int print_json(json_t *o, int rc)
{
	_fm_cleanup_(json_decrefp) json_t *owned = o;
	_fm_free_ char *text = owned ? json_dumps(owned, JSON_COMPACT | JSON_SORT_KEYS) : NULL;

	puts(text ? text : "null");
	return rc;
}

static int print_error(const struct fm_error *err)
{
	json_t *o =
	        json_pack("{s:{s:s, s:s, s:s}}", "error", "code", fm_code_to_string(err->code), "message", err->message, "hint", err->hint);

	return print_json(o, 1);
}

static void add_leftover(const char *what, void *userdata)
{
	(void)json_array_append_new(userdata, json_string(what));
}

static int run_leftovers(const struct fm_redirect_call *c, const json_t *input)
{
	const struct fm_redirect_ops *ops = fm_redirect_driver(json_string_value(json_object_get(input, "driver")));
	_fm_cleanup_(json_decrefp) json_t *list = json_array();
	struct fm_error err = FM_ERROR_INIT;

	if (!ops)
		return usage("there is no such driver");
	if (ops->leftovers && ops->leftovers(c, json_object_get(input, "known"), add_leftover, list, &err) < 0)
		return print_error(&err);
	return print_json(json_pack("{s:O}", "leftovers", list), 0);
}

static int run_step(const struct fm_redirect_call *c, const char *step, const json_t *input)
{
	const json_t *action = json_object_get(input, "action"), *undo = json_object_get(input, "undo");
	const struct fm_redirect_ops *ops = NULL;
	struct fm_error err = FM_ERROR_INIT;
	json_t *made = NULL;

	if (fm_redirect_driver_of(action, &ops, &err) < 0)
		return print_error(&err);
	if (strcmp(step, "prepare") == 0)
		return ops->prepare(c, action, &made, &err) < 0 ? print_error(&err) : print_json(json_pack("{s:o}", "undo", made), 0);
	int (*f)(const struct fm_redirect_call *, const json_t *, const json_t *, struct fm_error *) =
	        strcmp(step, "open") == 0     ? ops->open
	        : strcmp(step, "flip") == 0   ? ops->flip
	        : strcmp(step, "verify") == 0 ? ops->verify
	        : strcmp(step, "revert") == 0 ? ops->revert
	                                      : NULL;
	if (!f)
		return usage("there is no such step");
	return f(c, action, undo, &err) < 0 ? print_error(&err) : print_json(json_object(), 0);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "secrets", 1, NULL, 's' }, { "timeout", 1, NULL, 't' }, { "cancel", 0, NULL, 'c' }, { NULL, 0, NULL, 0 }
	};
	struct fm_redirect_call call = { .cancel_fd = -1 };
	unsigned long timeout_ms = 5000;
	_fm_cleanup_(json_decrefp) json_t *input = NULL;
	json_error_t e;

	for (int o; (o = getopt_long(argc, argv, "+", options, NULL)) != -1;) {
		call.secrets_dir = o == 's' ? optarg : call.secrets_dir;
		timeout_ms = o == 't' ? strtoul(optarg, NULL, 10) : timeout_ms;
		call.cancel_fd = o == 'c' ? STDIN_FILENO : call.cancel_fd;
		if (o == '?')
			return 2;
	}
	if (argc - optind != 2 && (argc - optind != 1 || call.cancel_fd >= 0))
		return usage("STEP and, with --cancel, JSON are needed");
	input = argc - optind == 2 ? json_loads(argv[optind + 1], JSON_REJECT_DUPLICATES, &e)
	                           : json_loadf(stdin, JSON_REJECT_DUPLICATES, &e);
	if (!json_is_object(input))
		return usage("the input is not an object of JSON");
	call.deadline_ms = fm_now_ms() + timeout_ms;
	if (strcmp(argv[optind], "leftovers") == 0)
		return run_leftovers(&call, input);
	return run_step(&call, argv[optind], input);
}
