/* SPDX-License-Identifier: MIT */
/*
 * tls-files.h - read the three PEM files of a mutual-TLS end and check them before anything listens or connects.
 *
 * gRPC takes bad files silently and fails later, in a handshake, without a reason. Here the file, the reason and the remedy are named:
 * unreadable, not PEM, key of another certificate, expired, not signed by the authority.
 */
#ifndef FM_RPC_TLS_FILES_H
#define FM_RPC_TLS_FILES_H

#include "basic/error.h"
#include "rpc/rpc.h"

struct fm_tls_files {
	char *ca_pem, *cert_pem, *key_pem;
}; /* NUL-terminated */

/* *ret: fm_tls_files_done, which also wipes the key. */
int fm_tls_files_load(const struct fm_rpc_tls *tls, struct fm_tls_files *ret, struct fm_error *err);
void fm_tls_files_done(struct fm_tls_files *f);

#endif
