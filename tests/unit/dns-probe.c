/* SPDX-License-Identifier: MIT */
/*
 * dns-probe.c - the name service's operations as a command: what tests/integration/test_dns.py drives against real servers.
 *
 * usage: dns-probe [--server S] [--zone Z] [--reverse Z] [--key N] [--algorithm A] [--secret FILE] [--timeout MS] [--skew SECONDS] [--cancel] OPERATION …
 *     query NAME TYPE | verify NAME TYPE VALUE | plan NAME TYPE OLD VALUE TTL | plan-ttl NAME TYPE TTL | apply LINE
 * "-" is absent, "*" any old value. plan prints two lines: the change and its undo, either of which apply takes. --cancel: stdin cancels. Failures: "CODE: message" and "hint: …" on stderr.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/clock.h"
#include "network/dns.h"

/* The linker leads the library's calls here: a host whose clock is wrong. */
uint64_t __real_fm_realtime_ms(void);
uint64_t __wrap_fm_realtime_ms(void);
static long long skew_s;

uint64_t __wrap_fm_realtime_ms(void)
{
	return __real_fm_realtime_ms() + (uint64_t)(skew_s * 1000);
}

static const char *word(const char *arg)
{
	return strcmp(arg, "-") == 0 ? "" : arg;
}

static int show_plan(const struct fm_dns_change *plan, struct fm_error *err)
{
	struct fm_dns_change inverse;
	char line[FM_MAX_DNS_UNDO_BYTES], undo[FM_MAX_DNS_UNDO_BYTES];

	fm_dns_change_inverse(plan, &inverse);
	if (fm_dns_undo_format(&inverse, line, err) < 0 || fm_dns_undo_format(plan, undo, err) < 0)
		return -1;
	printf("%s\n%s\n", line, undo);
	return 0;
}

static int do_query(const struct fm_dns_call *c, const char *name, enum fm_dns_type type, struct fm_error *err)
{
	struct fm_dns_rrset set = { 0 };

	if (fm_dns_query(c, name, type, &set, err) < 0)
		return -1;
	printf("%u", set.ttl_s);
	for (size_t i = 0; i < set.n; i++)
		printf(" %s", set.value[i]);
	printf("\n");
	return 0;
}

static int do_plan(const struct fm_dns_call *c, enum fm_dns_type type, char **arg, struct fm_error *err)
{
	const char *old = strcmp(arg[3], "*") == 0 ? NULL : word(arg[3]);
	struct fm_dns_change plan;

	if (fm_dns_plan_replace(c, arg[1], type, old, word(arg[4]), (uint32_t)strtoul(arg[5], NULL, 10), &plan, err) < 0)
		return -1;
	return show_plan(&plan, err);
}

static int do_plan_ttl(const struct fm_dns_call *c, enum fm_dns_type type, char **arg, struct fm_error *err)
{
	struct fm_dns_change plan;

	if (fm_dns_plan_ttl(c, arg[1], type, (uint32_t)strtoul(arg[3], NULL, 10), &plan, err) < 0)
		return -1;
	return show_plan(&plan, err);
}

static int do_apply(const struct fm_dns_call *c, const char *line, struct fm_error *err)
{
	enum fm_dns_outcome outcome = FM_DNS_DONE;
	struct fm_dns_change change;

	if (fm_dns_undo_parse(line, &change, err) < 0 || fm_dns_apply(c, &change, &outcome, err) < 0)
		return -1;
	printf(outcome == FM_DNS_DONE ? "done\n" : "done already\n");
	return 0;
}

static int operate(const struct fm_dns_call *c, int argc, char **arg, struct fm_error *err)
{
	enum fm_dns_type type = FM_DNS_A;

	if (argc == 2 && strcmp(arg[0], "apply") == 0)
		return do_apply(c, arg[1], err);
	if (argc < 3 || fm_dns_type_from_string(arg[2], &type, err) < 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "dns-probe: no such operation");
	if (argc == 3 && strcmp(arg[0], "query") == 0)
		return do_query(c, arg[1], type, err);
	if (argc == 4 && strcmp(arg[0], "verify") == 0)
		return fm_dns_verify(c, arg[1], type, word(arg[3]), err);
	if (argc == 6 && strcmp(arg[0], "plan") == 0)
		return do_plan(c, type, arg, err);
	if (argc == 4 && strcmp(arg[0], "plan-ttl") == 0)
		return do_plan_ttl(c, type, arg, err);
	return fm_error_set(err, FM_E_INVALID_ARGUMENT, "dns-probe: no such operation");
}

int main(int argc, char **argv)
{
	static const struct option options[] = { { "server", 1, NULL, 's' },  { "zone", 1, NULL, 'z' },      { "reverse", 1, NULL, 'r' },
		                                 { "key", 1, NULL, 'k' },     { "algorithm", 1, NULL, 'a' }, { "secret", 1, NULL, 'f' },
		                                 { "timeout", 1, NULL, 't' }, { "skew", 1, NULL, 'w' },      { "cancel", 0, NULL, 'c' },
		                                 { NULL, 0, NULL, 0 } };
	struct fm_dns_words w = { 0 };
	struct fm_dns_zone zone = { 0 };
	struct fm_dns_call call = { .zone = &zone, .cancel_fd = -1 };
	struct fm_error err = FM_ERROR_INIT;
	unsigned long timeout_ms = 5000;
	int rc;

	for (int o; (o = getopt_long(argc, argv, "+", options, NULL)) != -1;) {
		w.server = o == 's' ? optarg : w.server;
		w.zone = o == 'z' ? optarg : w.zone;
		w.reverse_zone = o == 'r' ? optarg : w.reverse_zone;
		w.key_name = o == 'k' ? optarg : w.key_name;
		w.algorithm = o == 'a' ? optarg : w.algorithm;
		w.secret_file = o == 'f' ? optarg : w.secret_file;
		timeout_ms = o == 't' ? strtoul(optarg, NULL, 10) : timeout_ms;
		skew_s = o == 'w' ? strtoll(optarg, NULL, 10) : skew_s;
		call.cancel_fd = o == 'c' ? 0 : call.cancel_fd;
	}
	call.deadline_ms = fm_now_ms() + timeout_ms;
	rc = fm_dns_zone_parse(&w, &zone, &err) < 0 ? -1 : operate(&call, argc - optind, argv + optind, &err);
	fm_dns_zone_wipe(&zone);
	if (rc == 0)
		return 0;
	fprintf(stderr, "%s: %s\nhint: %s\n", fm_code_to_string(err.code), err.message, err.hint);
	return 1;
}
