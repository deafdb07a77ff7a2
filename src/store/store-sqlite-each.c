/* SPDX-License-Identifier: MIT */
/*
 * store-sqlite-each.c - reading a table of any size in pages.
 *
 * Reading hands rows to a callback that may want the store itself. So rows are copied out in pages of PAGE_ROWS under the
 * lock, and the callback runs without it; the next page starts after the last name seen, whatever has changed in between.
 */
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "store/store-sqlite.h"

#define PAGE_ROWS 64

struct row {
	char *host, *name;
	void *blob;
	size_t len;
	uint64_t seen_ms;
};
struct page {
	struct row rows[PAGE_ROWS];
	size_t n;
};

static void page_clear(struct page *p)
{
	for (size_t i = 0; i < p->n; i++) {
		free(p->rows[i].host);
		free(p->rows[i].name);
		free(p->rows[i].blob);
	}
	p->n = 0;
}

static int read_row(sqlite3_stmt *st, struct page *p, struct fm_error *err)
{
	struct row *row = &p->rows[p->n++]; /* counted first: page_clear frees what is half read */

	memset(row, 0, sizeof(*row));
	row->host = fm_sq_column_text(st, 0);
	row->name = fm_sq_column_text(st, 1);
	row->seen_ms = (uint64_t)sqlite3_column_int64(st, 2);
	if (!row->host || !row->name)
		return fm_sq_no_memory(err);
	return fm_sq_column_blob(st, 3, &row->blob, &row->len, err);
}

static int read_page(struct fm_store *s, enum fm_sq_slot slot, const char *sql, const char *host, const char *name, struct page *p,
                     struct fm_error *err)
{
	_fm_sq_lock_ struct fm_sqlite *sq = fm_sq_lock(s);
	struct fm_sq_conn *c = sq->relaxed;
	_fm_sq_reset_ sqlite3_stmt *st = fm_sq_stmt(c, slot, sql, err);
	int r;

	if (!st)
		return -1;
	fm_sq_text(st, 1, host);
	fm_sq_text(st, 2, name);
	fm_sq_int(st, 3, PAGE_ROWS);
	while ((r = fm_sq_step(c, st, err, "read reports")) > 0)
		if (read_row(st, p, err) < 0)
			return -1;
	return r;
}

int fm_sq_each(struct fm_store *s, enum fm_sq_slot slot, const char *sql, const char *first, fm_store_blob_fn fn, void *userdata,
               struct fm_error *err)
{
	_fm_cleanup_(page_clear) struct page last = { .n = 0 };
	_fm_cleanup_(page_clear) struct page page = { .n = 0 };

	do {
		const struct row *after = last.n ? &last.rows[last.n - 1] : NULL;

		if (read_page(s, slot, sql, after ? after->host : first, after ? after->name : "", &page, err) < 0)
			return -1;
		page_clear(&last);
		for (size_t i = 0; i < page.n; i++) {
			const struct row *r = &page.rows[i];

			if (fn(userdata, r->host, r->name, r->blob ? r->blob : "", r->len, r->seen_ms) != 0)
				return 0;
		}
		last = page;
		page.n = 0;
	} while (last.n == PAGE_ROWS);
	return 0;
}
