/* SPDX-License-Identifier: MIT */
/* options.c - see options.h. Not getopt_long: its global state does not suit verbs inside verbs, and its messages do not say what to do next. */
#include "basic/options.h"

#include <stdio.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/str.h"

void fm_arguments_done(struct fm_arguments *a)
{
	free(a->v);
	*a = (struct fm_arguments){ 0 };
}

void fm_options_print_help(const struct fm_command_line *cl)
{
	printf("Usage: %s\n\n%s\n", cl->usage, cl->summary);
	if (cl->details)
		printf("\n%s\n", cl->details);
	printf("\nOptions:\n");
	for (const struct fm_option *o = cl->options; o && o->name; o++) {
		char left[128];
		(void)snprintf(left, sizeof(left), "--%s%s%s", o->name, o->type == FM_OPT_FLAG ? "" : " ",
		               o->type == FM_OPT_FLAG ? ""
		               : o->choices           ? o->choices
		                                      : o->arg);
		printf("  %-34s %s\n", left, o->help);
	}
	printf("  %-34s %s\n", "--help", "this text");
}

static int bad(const struct fm_command_line *cl, struct fm_error *err)
{
	return fm_error_hint(err, "usage: %s; --help tells more", cl->usage);
}

static const struct fm_option *find(const struct fm_command_line *cl, const char *name, size_t n)
{
	for (const struct fm_option *o = cl->options; o && o->name; o++)
		if (strlen(o->name) == n && strncmp(o->name, name, n) == 0)
			return o;
	return NULL;
}

static int check_choice(const struct fm_option *o, const char *value, struct fm_error *err)
{
	size_t n = strlen(value);
	for (const char *p = o->choices; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
		if (n > 0 && strcspn(p, "|") == n && strncmp(p, value, n) == 0) {
			*(const char **)o->value = value;
			return 0;
		}
	return fm_error_set(err, FM_E_INVALID_ARGUMENT, "--%s must be one of %s, not '%s'", o->name, o->choices, value);
}

static int set_value(const struct fm_option *o, const char *value, struct fm_error *err)
{
	int rc = 0;
	switch (o->type) {
	case FM_OPT_FLAG:
		*(bool *)o->value = true;
		break;
	case FM_OPT_STRING:
		*(const char **)o->value = value;
		break;
	case FM_OPT_STRINGS:
		fm_strv_add(o->value, value);
		break;
	case FM_OPT_UINT:
		rc = fm_parse_u64(value, o->value, err);
		break;
	case FM_OPT_DURATION:
		rc = fm_parse_duration_ms(value, o->value, err);
		break;
	case FM_OPT_BYTES:
		rc = fm_parse_bytes(value, o->value, err);
		break;
	case FM_OPT_CHOICE:
		return check_choice(o, value, err);
	}
	return rc < 0 ? fm_error_prefix(err, "--%s", o->name) : 0;
}

/* One "--name[=value]"; *i moves on when the value is the next argument. */
static int take_option(const struct fm_command_line *cl, int argc, char **argv, int *i, struct fm_error *err)
{
	const char *name = argv[*i] + 2, *eq = strchr(name, '=');
	size_t n = eq ? (size_t)(eq - name) : strlen(name);
	const struct fm_option *o = find(cl, name, n);
	const char *value = eq ? eq + 1 : NULL;
	if (!o)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "there is no option --%.*s", (int)n, name);
	if (o->type == FM_OPT_FLAG && value)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "--%s takes no value", o->name);
	if (o->type != FM_OPT_FLAG && !value) {
		if (*i + 1 >= argc)
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "--%s needs a value (%s)", o->name,
			                    o->choices ? o->choices : o->arg);
		value = argv[++*i];
	}
	return set_value(o, value, err);
}

int fm_options_parse(const struct fm_command_line *cl, int argc, char **argv, struct fm_arguments *ret, struct fm_error *err)
{
	struct fm_arguments a __attribute__((cleanup(fm_arguments_done))) = { .v = calloc((size_t)argc + 1, sizeof(char *)) };
	if (!a.v)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--") == 0) {
			a.rest = argv + i + 1;
			break;
		}
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			fm_options_print_help(cl);
			return 1;
		}
		if (strncmp(argv[i], "--", 2) == 0) {
			if (take_option(cl, argc, argv, &i, err) < 0)
				return bad(cl, err);
		} else if (argv[i][0] == '-' && argv[i][1]) {
			(void)fm_error_set(err, FM_E_INVALID_ARGUMENT, "there is no option %s", argv[i]);
			return bad(cl, err);
		} else {
			a.v[a.n++] = argv[i];
		}
	}
	if (a.n < cl->min_args || (cl->max_args >= 0 && a.n > cl->max_args)) {
		(void)fm_error_set(err, FM_E_INVALID_ARGUMENT, a.n < cl->min_args ? "an argument is missing" : "unexpected argument '%s'",
		                   a.n > cl->max_args && cl->max_args >= 0 ? a.v[cl->max_args] : "");
		return bad(cl, err);
	}
	*ret = a;
	a.v = NULL;
	return 0;
}
