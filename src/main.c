/* SPDX-License-Identifier: MIT */
/* main.c - the one binary: manager, agent and command line. */
#include "cli/cli.h"

int main(int argc, char **argv)
{
	return fm_cli_main(argc, argv);
}
