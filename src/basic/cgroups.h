/* SPDX-License-Identifier: MIT */
/* cgroups.h - where the control groups of a process are, by the text of its /proc/PID/cgroup and of mountinfo; for all that read or write there. */
#ifndef FM_BASIC_CGROUPS_H
#define FM_BASIC_CGROUPS_H

#include <stdbool.h>

/* The folder of the cgroup of a line of /proc/PID/cgroup ("cpu,cpuacct" and "/path"; "" is cgroup v2), by the text of mountinfo; malloc'ed. NULL: it is not to be seen here. */
char *fm_cgroup_folder(const char *controllers, const char *path, const char *mountinfo);

/* Is the word in the list "cpu,cpuacct"? */
bool fm_cgroup_has_controller(const char *list, const char *word);

#endif
