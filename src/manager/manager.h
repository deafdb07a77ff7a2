/* SPDX-License-Identifier: MIT */
/* manager.h - `fleximigrate manager`: options, wiring, run until SIGINT or SIGTERM. Returns the exit code. */
#ifndef FM_MANAGER_MANAGER_H
#define FM_MANAGER_MANAGER_H

int fm_manager_main(int argc, char **argv);

#endif
