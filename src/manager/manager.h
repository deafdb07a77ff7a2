/* SPDX-License-Identifier: MIT */
/* manager.h - `fleximigrate manager`: options, wiring, run until SIGINT or SIGTERM; SIGHUP has the description of the network and the policies read again. Returns the exit code. */
#ifndef FM_MANAGER_MANAGER_H
#define FM_MANAGER_MANAGER_H

int fm_manager_main(int argc, char **argv);

#endif
