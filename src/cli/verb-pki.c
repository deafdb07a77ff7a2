/* SPDX-License-Identifier: MIT */
/* verb-pki.c - `pki init`, `pki issue`: a development authority; a site with its own authority uses that. */
#include <stdio.h>

#include "basic/cleanup.h"
#include "cli/cli.h"
#include "cli/verbs.h"
#include "rpc/pki.h"

#define DEFAULT_DIR  "/etc/fleximigrate/pki"
#define DEFAULT_DAYS 825

int fm_verb_pki_init(int argc, char **argv)
{
	const char *dir = DEFAULT_DIR;
	uint64_t days = DEFAULT_DAYS;
	const struct fm_option table[] = {
		{ "dir", FM_OPT_STRING, &dir, "DIR", "where (default: " DEFAULT_DIR ")", NULL },
		{ "days", FM_OPT_UINT, &days, "N", "validity (default 825)", NULL },
		{ 0 },
	};
	const struct fm_command_line cl = {
		.usage = "fleximigrate pki init [--dir DIR] [--days N]",
		.summary = "Make a development certificate authority, and a certificate 'client' for the command line.",
		.options = table
	};
	struct fm_arguments args __attribute__((cleanup(fm_arguments_done))) = { 0 };
	struct fm_error err = FM_ERROR_INIT;
	int rc = fm_options_parse(&cl, argc, argv, &args, &err);
	if (rc > 0)
		return 0;
	if (rc < 0 || fm_pki_init(dir, (unsigned)days, &err) < 0 || fm_pki_issue(dir, "client", NULL, (unsigned)days, &err) < 0)
		return fm_cli_fail(NULL, &err);
	printf("Authority in %s (ca.pem; keep ca.key safe), with a certificate 'client' for the command line.\n"
	       "Next: 'fleximigrate pki issue manager ADDRESS', then 'fleximigrate pki issue HOST ADDRESS' for each host,\n"
	       "and copy ca.pem, NAME.pem and NAME.key to that host.\n",
	       dir);
	return 0;
}

int fm_verb_pki_issue(int argc, char **argv)
{
	const char *dir = DEFAULT_DIR;
	uint64_t days = DEFAULT_DAYS;
	const struct fm_option table[] = {
		{ "dir", FM_OPT_STRING, &dir, "DIR", "the authority's folder (default: " DEFAULT_DIR ")", NULL },
		{ "days", FM_OPT_UINT, &days, "N", "validity (default 825)", NULL },
		{ 0 },
	};
	const struct fm_command_line cl = { .usage = "fleximigrate pki issue NAME [ADDRESS]... [--dir DIR] [--days N]",
		                            .summary = "Issue a certificate for a host or the manager, valid for its addresses.",
		                            .options = table,
		                            .min_args = 1,
		                            .max_args = 17 };
	struct fm_arguments args __attribute__((cleanup(fm_arguments_done))) = { 0 };
	struct fm_error err = FM_ERROR_INIT;
	int rc = fm_options_parse(&cl, argc, argv, &args, &err);
	if (rc > 0)
		return 0;
	if (rc < 0 || fm_pki_issue(dir, args.v[0], args.v + 1, (unsigned)days, &err) < 0)
		return fm_cli_fail(NULL, &err);
	printf("Issued %s/%s.pem and %s.key.\n", dir, args.v[0], args.v[0]);
	return 0;
}
