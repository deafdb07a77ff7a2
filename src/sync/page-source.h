/* SPDX-License-Identifier: MIT */
/*
 * page-source.h - serves the pages of a stopped tree over a page stream: stateless, any page may be asked for again, so that a new connection resumes where the old one was cut.
 * Reads with process_vm_readv in large batches; never writes, never resumes anything. One thread calls serve.
 */
#ifndef FM_SYNC_PAGE_SOURCE_H
#define FM_SYNC_PAGE_SOURCE_H

#include <sys/types.h>

#include "sync/stream.h"

struct fm_page_source_task {
	pid_t ns_pid;
	pid_t host_pid;
};

struct fm_page_source;
int fm_page_source_new(const struct fm_page_source_task *tasks, size_t n, struct fm_page_source **ret, struct fm_error *err);
void fm_page_source_free(struct fm_page_source *p);
/* Answer requests until PAGES_DONE (returns 0) or the stream breaks (UNAVAILABLE: reconnect and call again) or cancel_fd. */
int fm_page_source_serve(struct fm_page_source *p, struct fm_stream *s, int cancel_fd, struct fm_error *err);
uint64_t fm_page_source_pages_sent(const struct fm_page_source *p);

#endif
