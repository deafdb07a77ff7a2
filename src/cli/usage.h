/* SPDX-License-Identifier: MIT */
/* usage.h - what is used, as cells and lines for people; "-" where it is not known. */
#ifndef FM_CLI_USAGE_H
#define FM_CLI_USAGE_H

#include "migration/usage.h"

/* Each writes into buf and returns it. */
const char *fm_show_percent(double v, char *buf, size_t cap);
const char *fm_show_number(double v, char *buf, size_t cap);
const char *fm_show_bytes(uint64_t v, char *buf, size_t cap);
const char *fm_show_rate(uint64_t bytes_per_s, char *buf, size_t cap);

/* Lines of `host show` and `container show`; nothing where nothing was measured. */
void fm_print_host_usage(const FM_PB(Host) * h);
void fm_print_container_usage(const FM_PB(Container) * c);

#endif
