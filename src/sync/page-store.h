/* SPDX-License-Identifier: MIT */
/*
 * page-store.h - the destination's copy of a tree's pages while it still runs at the source: the only full copy outside of the tree.
 *
 * Contents are kept once (found by XXH3-128 with a secret, and compared byte for byte: two pages with the same hash are two pages), zero pages not at all. A page is known
 * by (process id in the tree's namespace, address). All of it is memory of this process: nothing is left after a crash, and nothing has to be, because the frozen source still has everything
 * until the destination says that it does.
 *
 * Two ages. Filling: put, drop, from one thread. Sealed (fm_page_store_seal, when the source has frozen and everything has come): get from any thread, without a lock, pointers stay
 * valid until the store is freed or the page is given back by fm_page_store_taken. There is no way back from sealed to filling.
 *
 * Limits: max_bytes of unique content and as many names as 4 times that would need; beyond is RESOURCE_EXHAUSTED, and what is there stays as it was.
 */
#ifndef FM_SYNC_PAGE_STORE_H
#define FM_SYNC_PAGE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "basic/error.h"
#include "sync/hash-secret.h"

#define FM_PAGE_ADDRESS_END (1ull << 47) /* of what a task can have mapped */

struct fm_page_hash {
	uint64_t lo, hi; /* XXH3-128 with a secret */
};
struct fm_page_hash fm_page_hash(const struct fm_hash_secret *secret, const void *page);
bool fm_page_is_zero(const void *page);

struct fm_page_store;
int fm_page_store_new(uint64_t max_bytes, struct fm_page_store **ret, struct fm_error *err);
void fm_page_store_free(struct fm_page_store *s); /* NULL-safe */

/*
 * A new store hashes with a secret of its own, so that hashes mean nothing elsewhere. From here on it is this one, with which the source says KNOWN: what is there already is hashed again, some 0.1 s
 * for 1 GiB; nothing to do when it is the same. FAILED_PRECONDITION: another one when it is sealed.
 */
int fm_page_store_set_secret(struct fm_page_store *s, const struct fm_hash_secret *secret, struct fm_error *err);

/* vaddr: multiple of 4096. An older content of the page is given up. */
int fm_page_store_put(struct fm_page_store *s, pid_t ns_pid, uint64_t vaddr, const void *page, struct fm_error *err);
int fm_page_store_put_zero(struct fm_page_store *s, pid_t ns_pid, uint64_t vaddr, struct fm_error *err);
/* The same content as a page that is here already (of several with this hash any); NOT_FOUND when there is none with this hash. Zero pages have none. */
int fm_page_store_put_known(struct fm_page_store *s, pid_t ns_pid, uint64_t vaddr, struct fm_page_hash h, struct fm_error *err);
/* Only a content that is not here yet, and not zeros: a page that has not been there before. */
int fm_page_store_put_new(struct fm_page_store *s, pid_t ns_pid, uint64_t vaddr, const void *page, bool *ret_new, struct fm_error *err);
/* Forget: it has changed at the source (and will be asked for there), or is gone. Unknown ones are no error. */
int fm_page_store_drop(struct fm_page_store *s, pid_t ns_pid, uint64_t vaddr, uint64_t n_pages, struct fm_error *err);
/* Content for applying a difference while filling; NULL: not here. Valid until the next put. A zero page is a page of zeros. */
const void *fm_page_store_peek(const struct fm_page_store *s, pid_t ns_pid, uint64_t vaddr);
int fm_page_store_seal(struct fm_page_store *s, struct fm_error *err);
bool fm_page_store_is_sealed(const struct fm_page_store *s); /* the filling thread */

enum fm_page_have { FM_PAGE_NOT_HERE, FM_PAGE_ZERO, FM_PAGE_DATA };
/* *ret_page: NULL unless FM_PAGE_DATA */
enum fm_page_have fm_page_store_get(const struct fm_page_store *s, pid_t ns_pid, uint64_t vaddr, const void **ret_page);
/* How many pages from vaddr on, at most max, lie one after the other in the store (so that one copy brings them), or are zero, or are not here, like the first. *ret_page as for get. */
size_t fm_page_store_get_run(const struct fm_page_store *s, pid_t ns_pid, uint64_t vaddr, size_t max, enum fm_page_have *ret_have,
                             const void **ret_page);
/*
 * The restored tree has these: memory is given back in chunks of 2 MiB, as far as no other page has a content of the chunk. Any thread, while others get other pages. Sealed only. Nobody may
 * still use what a get of one of these pages (or a run over them) returned: its bytes may become zeros. A get that comes after finds NOT_HERE; one at the same time either that or the
 * page, and with the page the same danger.
 */
void fm_page_store_taken(struct fm_page_store *s, pid_t ns_pid, uint64_t vaddr, uint64_t n_pages);

/* All pages, in runs that lie one after the other. hashes: 0, 0 for a page of zeros. fn returns -1 to end it. Not while pages are taken, but by fn itself those that it was told of. */
typedef int (*fm_page_store_fn)(void *userdata, pid_t ns_pid, uint64_t vaddr, const struct fm_page_hash *hashes, size_t n,
                                struct fm_error *err);
int fm_page_store_each(const struct fm_page_store *s, fm_page_store_fn fn, void *userdata, struct fm_error *err);

struct fm_page_store_stats {
	uint64_t pages, zero_pages, unique_pages, bytes; /* pages: also the zero ones. bytes: of slots in use */
};
void fm_page_store_stats(const struct fm_page_store *s, struct fm_page_store_stats *ret);

#endif
