/* SPDX-License-Identifier: MIT */
/*
 * images-transfer.c - see images-transfer.h.
 *
 * A lazy checkpoint is some fifty files of a few hundred bytes and one or two larger ones, and it is sent while the container stands still: files are read straight into a batch of
 * frames, so that the whole checkpoint usually leaves in one or two writes. The receiver trusts nothing: names, sizes, order and the final count are checked, files are created
 * exclusively and never through a link.
 */
#include "sync/images-transfer.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "sync/stream-internal.h"

#define BATCH_BYTES     (512u << 10)
#define MIN_CHUNK_BYTES 4096u /* less room than this in the batch: flush first */
#define NAME_BYTES      255u

static bool name_characters_ok(const char *name, size_t n)
{
	if (n == 0 || n > NAME_BYTES || name[0] == '.')
		return false;
	for (size_t i = 0; i < n; i++) {
		char c = name[i];
		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-'))
			return false;
	}
	return true;
}

/* Not part of a checkpoint: CRIU's logs, its lazy-pages socket, anybody's dot files */
static bool name_left_out(const char *name)
{
	return name[0] == '.' || fm_str_endswith(name, ".log") || fm_streq(name, "lazy-pages.socket");
}

static int send_file(struct fm_batch *b, int fd, const char *name, uint64_t size, struct fm_error *err)
{
	if (fm_batch_add(b, FM_FRAME_IMAGE_BEGIN, size, 0, name, strlen(name), err) < 0)
		return -1;
	for (uint64_t done = 0; done < size;) {
		uint64_t left = size - done;
		uint8_t *to;
		size_t room;
		if (fm_batch_reserve(b, left < MIN_CHUNK_BYTES ? (size_t)left : MIN_CHUNK_BYTES, &to, &room, err) < 0)
			return -1;
		size_t n = left < room ? (size_t)left : room;
		if (fm_read_full(fd, to, n, err) < 0)
			return fm_error_prefix(err, "image '%s'", name);
		fm_batch_commit(b, FM_FRAME_IMAGE_DATA, 0, 0, n);
		done += n;
	}
	return 0;
}

/* 1 sent, 0 left out */
static int send_entry(struct fm_batch *b, int dirfd, const char *name, uint64_t *ret_size, struct fm_error *err)
{
	struct stat st;

	if (name_left_out(name))
		return 0;
	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return fm_error_errno(err, errno, "cannot look at image '%s'", name);
	if (!S_ISREG(st.st_mode))
		return 0;
	if (!name_characters_ok(name, strlen(name)))
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "the checkpoint holds a file with an unexpected name, '%s'", name);
	_fm_close_ int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return fm_error_errno(err, errno, "cannot open image '%s'", name);
	if (fstat(fd, &st) < 0)
		return fm_error_errno(err, errno, "cannot look at image '%s'", name);
	if ((uint64_t)st.st_size > FM_MAX_IMAGE_FILE_BYTES)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "image '%s' has %llu bytes, more than any checkpoint should", name,
		                    (unsigned long long)st.st_size);
	if (send_file(b, fd, name, (uint64_t)st.st_size, err) < 0)
		return -1;
	*ret_size = (uint64_t)st.st_size;
	return 1;
}

int fm_images_send(struct fm_stream *s, int images_dirfd, uint64_t *ret_bytes, int timeout_ms, struct fm_error *err)
{
	_fm_batch_ struct fm_batch b = { 0 };
	uint64_t files = 0, bytes = 0;

	if (fm_batch_init(&b, s, BATCH_BYTES, timeout_ms, -1, err) < 0)
		return -1;
	_fm_close_ int fd = openat(images_dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return fm_error_errno(err, errno, "cannot open the folder of the checkpoint");
	_fm_closedir_ DIR *dir = fdopendir(fd);
	if (!dir)
		return fm_error_errno(err, errno, "cannot read the folder of the checkpoint");
	(void)FM_TAKE_FD(fd); /* dir's */

	for (;;) {
		uint64_t size = 0;
		errno = 0;
		const struct dirent *d = readdir(dir);
		if (!d && errno)
			return fm_error_errno(err, errno, "cannot read the folder of the checkpoint");
		if (!d)
			break;
		int r = send_entry(&b, images_dirfd, d->d_name, &size, err);
		if (r < 0)
			return fm_stream_explain(s, err);
		files += (uint64_t)r;
		bytes += size;
	}
	if (fm_batch_add(&b, FM_FRAME_IMAGES_END, files, bytes, NULL, 0, err) < 0 || fm_batch_flush(&b, err) < 0)
		return fm_stream_explain(s, err);
	if (ret_bytes)
		*ret_bytes = bytes;
	return 0;
}

struct receiver {
	struct fm_stream *stream;
	int dirfd;
	uint64_t max_bytes;
	int fd; /* the file being written, -1 none */
	char name[NAME_BYTES + 1];
	uint64_t left; /* bytes still missing in it */
	uint64_t files, bytes;
};

static void receiver_done(struct receiver *r)
{
	fm_closep(&r->fd);
}

static int recv_begin(struct receiver *r, const struct fm_frame_header *h, const char *name, struct fm_error *err)
{
	if (r->left)
		return fm_error_set(err, FM_E_DATA_LOSS, "image '%s' ended %llu bytes early", r->name, (unsigned long long)r->left);
	if (!name_characters_ok(name, h->length) || h->b)
		return fm_error_set(err, FM_E_DATA_LOSS, "an image with a name that is not allowed arrived");
	memcpy(r->name, name, h->length);
	r->name[h->length] = 0;
	if (name_left_out(r->name))
		return fm_error_set(err, FM_E_DATA_LOSS, "an image with a name that is not allowed arrived: '%s'", r->name);
	if (h->a > FM_MAX_IMAGE_FILE_BYTES || h->a > r->max_bytes - r->bytes || r->files >= FM_MAX_IMAGE_FILES)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED,
		                    "the checkpoint is larger than the %llu bytes allowed (image '%s' has %llu)",
		                    (unsigned long long)r->max_bytes, r->name, (unsigned long long)h->a);

	fm_closep(&r->fd);
	r->fd = openat(r->dirfd, r->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (r->fd < 0)
		return fm_error_errno(err, errno, "cannot create image '%s'", r->name);
	r->left = h->a;
	r->bytes += h->a;
	r->files++;
	return 0;
}

static int recv_data(struct receiver *r, const struct fm_frame_header *h, const void *data, struct fm_error *err)
{
	if (h->length == 0 || h->length > r->left)
		return fm_error_set(err, FM_E_DATA_LOSS, "more data than announced for image '%s'", r->name);
	if (fm_write_full(r->fd, data, h->length, err) < 0)
		return fm_error_prefix(err, "image '%s'", r->name);
	r->left -= h->length;
	return 0;
}

static int recv_end(const struct receiver *r, const struct fm_frame_header *h, struct fm_error *err)
{
	if (r->left || h->a != r->files || h->b != r->bytes)
		return fm_error_set(err, FM_E_DATA_LOSS, "the checkpoint is incomplete: %llu files and %llu bytes of %llu and %llu arrived",
		                    (unsigned long long)r->files, (unsigned long long)(r->bytes - r->left), (unsigned long long)h->a,
		                    (unsigned long long)h->b);
	return 0;
}

/* 1 when that was the last frame */
static int recv_frame(struct receiver *r, const struct fm_frame_header *h, const void *buf, struct fm_error *err)
{
	switch (h->type) {
	case FM_FRAME_IMAGE_BEGIN:
		return recv_begin(r, h, buf, err);
	case FM_FRAME_IMAGE_DATA:
		return recv_data(r, h, buf, err);
	case FM_FRAME_IMAGES_END:
		return recv_end(r, h, err) < 0 ? -1 : 1;
	default:
		return fm_stream_unexpected(r->stream, h, "receiving the checkpoint", err);
	}
}

int fm_images_recv(struct fm_stream *s, int images_dirfd, uint64_t max_bytes, const struct fm_frame_header *first, void *buf,
                   uint64_t *ret_bytes, int timeout_ms, int cancel_fd, struct fm_error *err)
{
	_fm_cleanup_(receiver_done) struct receiver r = { .stream = s, .dirfd = images_dirfd, .max_bytes = max_bytes, .fd = -1 };
	struct fm_frame_header h = { 0 };
	int done = first ? recv_frame(&r, first, buf, err) : 0;

	while (done == 0) {
		if (fm_stream_recv(s, &h, buf, FM_MAX_FRAME_BYTES, timeout_ms, cancel_fd, err) < 0)
			return -1;
		done = recv_frame(&r, &h, buf, err);
	}
	if (done < 0)
		return -1;
	if (ret_bytes)
		*ret_bytes = r.bytes;
	return 0;
}
