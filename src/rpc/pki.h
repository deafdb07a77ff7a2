/* SPDX-License-Identifier: MIT */
/*
 * pki.h - a development certificate authority (`fleximigrate pki init|issue`): EC P-256, X.509v3, SHA-256, files PEM.
 *
 * Folder layout: ca.pem, ca.key (0600), NAME.pem, NAME.key (0600). The names in a host's certificate (subjectAltName) are its NAME and
 * every address given, and always "localhost", 127.0.0.1. extendedKeyUsage serverAuth+clientAuth. Existing files are never overwritten (ALREADY_EXISTS).
 */
#ifndef FM_RPC_PKI_H
#define FM_RPC_PKI_H

#include "basic/error.h"

int fm_pki_init(const char *dir, unsigned days, struct fm_error *err);
/* addresses: NULL-terminated DNS names or IP literals */
int fm_pki_issue(const char *dir, const char *name, char *const *addresses, unsigned days, struct fm_error *err);

#endif
