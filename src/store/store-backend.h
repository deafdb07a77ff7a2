/* SPDX-License-Identifier: MIT */
/*
 * store-backend.h - what a backend of the store implements.
 *
 * Private to src/store. store.c checks every argument (NULL, lengths, ranges) before it calls here, so that all backends refuse the same
 * things; contracts are those of store.h. A backend embeds `struct fm_store` as its first member.
 */
#ifndef FM_STORE_STORE_BACKEND_H
#define FM_STORE_STORE_BACKEND_H

#include "store/store.h"

#define FM_STORE_MAX_ID     64
#define FM_STORE_MAX_NAME   255
#define FM_STORE_MAX_TEXT   2048       /* path, reason, error message, log line: cut */
#define FM_STORE_MAX_DETAIL (4u << 20) /* one RPC message */
#define FM_STORE_MAX_BLOB   (1u << 20)

struct fm_store_ops {
	void (*close)(struct fm_store *s);
	int (*migration_create)(struct fm_store *s, const struct fm_store_migration *m, uint32_t *ret_epoch, struct fm_error *err);
	int (*migration_transition)(struct fm_store *s, int expected, const struct fm_store_migration *m, const char *label,
	                            const char *reason, struct fm_error *err);
	int (*migration_update)(struct fm_store *s, const struct fm_store_migration *m, struct fm_error *err);
	int (*migration_get)(struct fm_store *s, const char *id, struct fm_store_migration *ret, struct fm_error *err);
	int (*migration_list)(struct fm_store *s, bool active_only, size_t limit, struct fm_store_migration **ret, size_t *ret_n,
	                      struct fm_error *err);
	int (*transition_list)(struct fm_store *s, const char *id, struct fm_store_transition **ret, size_t *ret_n, struct fm_error *err);
	int (*event_append)(struct fm_store *s, const char *id, const struct fm_store_event *e, uint64_t *ret_seq, struct fm_error *err);
	int (*event_list)(struct fm_store *s, const char *id, uint64_t after_seq, size_t limit, struct fm_store_event **ret, size_t *ret_n,
	                  struct fm_error *err);
	/* durable: when it returns, and of the kind only the newest FM_STORE_MAX_RECORDS stay; else as reports are, and all stay */
	int (*record_put)(struct fm_store *s, const char *kind, const char *id, uint64_t at_ms, const void *data, size_t len, bool durable,
	                  struct fm_error *err);
	int (*record_get)(struct fm_store *s, const char *kind, const char *id, void **ret, size_t *ret_len, struct fm_error *err);
	int (*record_delete)(struct fm_store *s, const char *kind, const char *id, struct fm_error *err);
	int (*record_list)(struct fm_store *s, const char *kind, size_t limit, struct fm_store_record **ret, size_t *ret_n,
	                   struct fm_error *err);
	int (*host_put)(struct fm_store *s, const char *name, const void *host, size_t host_len, uint64_t seen_ms, struct fm_error *err);
	int (*containers_put)(struct fm_store *s, const char *host, size_t n, const char *const *names, const void *const *blobs,
	                      const size_t *lens, struct fm_error *err);
	int (*host_each)(struct fm_store *s, fm_store_blob_fn fn, void *userdata, struct fm_error *err);
	int (*container_each)(struct fm_store *s, fm_store_blob_fn fn, void *userdata, struct fm_error *err);
	int (*record_each)(struct fm_store *s, const char *kind, fm_store_blob_fn fn, void *userdata, struct fm_error *err);
	int (*record_prune)(struct fm_store *s, const char *kind, uint64_t before_ms, struct fm_error *err);
};

struct fm_store {
	const struct fm_store_ops *ops;
};

#endif
