/* SPDX-License-Identifier: MIT */
/* agent.h - `fleximigrate agent`: options, wiring, run until SIGINT or SIGTERM. Returns the exit code. */
#ifndef FM_AGENT_AGENT_H
#define FM_AGENT_AGENT_H

int fm_agent_main(int argc, char **argv);

#endif
