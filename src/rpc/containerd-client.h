/* SPDX-License-Identifier: MIT */
/* containerd-client.h - how the containerd driver (container/runtime-containerd.h) reaches containerd: gRPC on its Unix socket, a connection a namespace. */
#ifndef FM_RPC_CONTAINERD_CLIENT_H
#define FM_RPC_CONTAINERD_CLIENT_H

#include "container/runtime-containerd.h"

/* socket: "/run/containerd/containerd.sock". Does not connect yet; reconnects by itself. ret->free frees it, which is the driver's to do once it has it. */
int fm_containerd_transport_new(const char *socket, struct fm_containerd_transport *ret, struct fm_error *err);

#endif
