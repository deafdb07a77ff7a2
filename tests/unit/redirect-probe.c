/* SPDX-License-Identifier: MIT */
/*
 * redirect-probe.c - the redirection drivers as a command: what tests/integration/test_rest.py drives against a real controller.
 *
 * usage: redirect-probe [--timeout MS] [--secrets DIR] [--cancel] prepare ACTION | open|flip|verify|revert ACTION UNDO | leftovers DRIVER KNOWN
 * All in JSON. prepare prints the undo, leftovers a line each. --cancel: stdin cancels. Failures: "CODE: message" and "hint: …" on stderr.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/clock.h"
#include "basic/str.h"
#include "network/redirect.h"

static void print_leftover(const char *what, void *userdata)
{
	(void)puts(what);
}

static int do_prepare(const struct fm_redirect_ops *driver, const struct fm_redirect_call *c, const json_t *action, struct fm_error *err)
{
	json_t *undo = NULL;

	if (driver->prepare(c, action, &undo, err) < 0)
		return -1;
	char *text = json_dumps(undo, JSON_COMPACT);
	(void)puts(text);
	free(text);
	json_decref(undo);
	return 0;
}

static int do_step(const struct fm_redirect_ops *driver, const struct fm_redirect_call *c, const char *step, const json_t *action,
                   const json_t *undo, struct fm_error *err)
{
	if (strcmp(step, "open") == 0)
		return driver->open(c, action, undo, err);
	if (strcmp(step, "flip") == 0)
		return driver->flip(c, action, undo, err);
	if (strcmp(step, "verify") == 0)
		return driver->verify(c, action, undo, err);
	if (strcmp(step, "revert") == 0)
		return driver->revert(c, action, undo, err);
	return fm_error_set(err, FM_E_INVALID_ARGUMENT, "there is no step '%s'", step);
}

static int run(const struct fm_redirect_call *c, char **arg, int n, struct fm_error *err)
{
	const struct fm_redirect_ops *driver = NULL;
	json_t *first = NULL, *second = n > 2 ? json_loads(arg[2], JSON_DECODE_ANY, NULL) : NULL;
	int rc;

	if (n == 3 && strcmp(arg[0], "leftovers") == 0) {
		driver = fm_redirect_driver(arg[1]);
		rc = driver ? driver->leftovers(c, second, print_leftover, NULL, err)
		            : fm_error_set(err, FM_E_INVALID_ARGUMENT, "no such driver");
	} else {
		first = json_loads(arg[1], 0, NULL);
		rc = fm_redirect_driver_of(first, &driver, err);
		if (rc == 0)
			rc = n == 2 && strcmp(arg[0], "prepare") == 0 ? do_prepare(driver, c, first, err)
			                                              : do_step(driver, c, arg[0], first, second, err);
	}
	json_decref(first);
	json_decref(second);
	return rc;
}

int main(int argc, char **argv)
{
	static const struct option options[] = { { "timeout", required_argument, NULL, 't' },
		                                 { "secrets", required_argument, NULL, 's' },
		                                 { "cancel", no_argument, NULL, 'c' },
		                                 { 0 } };
	struct fm_redirect_call c = { .cancel_fd = -1 };
	struct fm_error err = FM_ERROR_INIT;
	uint64_t timeout_ms = 10000;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 't')
			timeout_ms = strtoull(optarg, NULL, 10);
		else if (option == 's')
			c.secrets_dir = optarg;
		else if (option == 'c')
			c.cancel_fd = 0;
		else
			return 2;
	}
	if (argc - optind < 2)
		return 2;
	c.deadline_ms = fm_now_ms() + timeout_ms;
	if (run(&c, argv + optind, argc - optind, &err) == 0)
		return 0;
	(void)fprintf(stderr, "%s: %s\n", fm_code_to_string(err.code), err.message);
	if (err.hint[0])
		(void)fprintf(stderr, "hint: %s\n", err.hint);
	return 1;
}
