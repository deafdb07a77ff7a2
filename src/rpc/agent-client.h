/* SPDX-License-Identifier: MIT */
/*
 * agent-client.h - struct fm_agent_api over gRPC: the coordinator names a host, this finds its address and keeps a client for it.
 *
 * A small cache, at most FM_MAX_HOSTS clients; one for each host, made anew when the host's address changes. Thread-safe; calls to one
 * host share its connection and run at the same time. Errors name the host; UNAVAILABLE carries a hint.
 *
 * `resolve` says at which address ("10.77.0.1:7401", "unix:/path") a host's agent answers; it is called for every call, possibly from many
 * threads at once, with no lock held. Its error is passed on, with the host's name.
 */
#ifndef FM_RPC_AGENT_CLIENT_H
#define FM_RPC_AGENT_CLIENT_H

#include <stddef.h>

#include "basic/error.h"
#include "migration/agent-api.h"
#include "rpc/rpc.h"

struct fm_agent_clients;

/* tls may be NULL when all addresses are Unix sockets; its paths are copied. The files are read when a host is called for
 * the first time or at a new address. */
int fm_agent_clients_new(const struct fm_rpc_tls *tls,
                         int (*resolve)(void *ud, const char *host, char *ret_address, size_t cap, struct fm_error *err), void *ud,
                         struct fm_agent_clients **ret, struct fm_error *err);
/* The vtable for the coordinator; valid until the free. */
struct fm_agent_api fm_agent_clients_api(struct fm_agent_clients *c);
/* No call may be under way. NULL is fine. */
void fm_agent_clients_free(struct fm_agent_clients *c);

#endif
