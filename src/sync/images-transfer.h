/* SPDX-License-Identifier: MIT */
/* images-transfer.h - a checkpoint's image files over a control stream: regular files of one flat folder, names checked ([A-Za-z0-9._-], no leading dot, no "lazy-pages.socket", no *.log), O_EXCL|O_NOFOLLOW at the receiver. */
#ifndef FM_SYNC_IMAGES_TRANSFER_H
#define FM_SYNC_IMAGES_TRANSFER_H

#include "sync/stream.h"

/* timeout_ms: longest time without progress. After a failure the receiver's folder holds part of the files and is to be thrown away.
 * At the sender other names and kinds of files (sub-folders, sockets, logs, dot files) are left out, but a regular file with a name that the receiver would refuse is FAILED_PRECONDITION: nothing is left behind silently. */
/* Send every image file, then IMAGES_END. Many small files are batched into few writes: this runs inside the freeze. */
int fm_images_send(struct fm_stream *s, int images_dirfd, uint64_t *ret_bytes, int timeout_ms, struct fm_error *err);
/* Receive until IMAGES_END; `first` is the frame header already received (or NULL) with its payload in buf (cap FM_MAX_FRAME_BYTES). max_bytes limits the sum. */
int fm_images_recv(struct fm_stream *s, int images_dirfd, uint64_t max_bytes, const struct fm_frame_header *first, void *buf,
                   uint64_t *ret_bytes, int timeout_ms, int cancel_fd, struct fm_error *err);

#endif
