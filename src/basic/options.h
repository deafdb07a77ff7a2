/* SPDX-License-Identifier: MIT */
/*
 * options.h - command lines as tables: `--name VALUE`, `--name=VALUE`, flags, positional arguments, and the help text made from the same table.
 *
 * Positional arguments may come before, between or after options; `--` ends options and what follows is kept apart (`rest`, e.g. a command to run).
 * `--help` prints the help to stdout and makes fm_options_parse return 1 (the caller exits 0).
 */
#ifndef FM_BASIC_OPTIONS_H
#define FM_BASIC_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/error.h"

enum fm_option_type {
	FM_OPT_FLAG,     /* bool */
	FM_OPT_STRING,   /* const char *, borrowed from argv */
	FM_OPT_STRINGS,  /* char **, a strv the caller frees; may be given several times */
	FM_OPT_UINT,     /* uint64_t */
	FM_OPT_DURATION, /* uint64_t, milliseconds */
	FM_OPT_BYTES,    /* uint64_t */
	FM_OPT_CHOICE,   /* const char *, one of `choices` ("a|b|c") */
};

struct fm_option {
	const char *name; /* without dashes */
	enum fm_option_type type;
	void *value;
	const char *arg; /* name of the argument in the help, "HOST" */
	const char *help;
	const char *choices; /* FM_OPT_CHOICE */
};

struct fm_command_line {
	const char *usage;               /* "fleximigrate migrate CONTAINER --to HOST [options]" */
	const char *summary;             /* one sentence */
	const char *details;             /* more for --help, may be NULL */
	const struct fm_option *options; /* ends with name NULL */
	int min_args, max_args;          /* positional; max -1 = any */
};

struct fm_arguments {
	char **v; /* positional arguments, borrowed strings, array freed by fm_arguments_done */
	int n;
	char **rest; /* what follows `--`, borrowed from argv, NULL when there was none */
};
void fm_arguments_done(struct fm_arguments *a);

/* argv[0] is the verb and skipped. 0 parsed, 1 help printed, -1 error (INVALID_ARGUMENT, or OUT_OF_RANGE for a number that is too large; the hint names --help). */
int fm_options_parse(const struct fm_command_line *cl, int argc, char **argv, struct fm_arguments *ret, struct fm_error *err);
void fm_options_print_help(const struct fm_command_line *cl);

#endif
