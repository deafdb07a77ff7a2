/* SPDX-License-Identifier: MIT */
/*
 * fuzz-images.c - libFuzzer entry for a checkpoint on its way into its folder, and for what is read out of the folder then.
 *
 * Commands of fuzz.h, but a BEGIN's name is one of a few that mean something, or its payload. Whatever is sent: regular files of allowed names only, no more bytes than allowed, a file
 * that was there is as it was, and reading the lazy ranges either works or says why not.
 */
#include <dirent.h>
#include <sys/stat.h>

#include "basic/cleanup.h"
#include "basic/limits.h"
#include "container/images.h"
#include "fuzz.h"
#include "sync/images-transfer.h"

#define BYTES_MAX 4096u
#define MINE      "mine.img"

static const char *const names[] = { "pagemap-1.img",       "pagemap-2.img",           FM_IMAGES_HIDDEN, "core-1.img", MINE,
	                             "pagemap-shmem-3.img", "pagemap-99999999999.img", "pages-1.img" };

static size_t make_frames(const uint8_t *in, size_t n, uint8_t *wire)
{
	static const uint8_t heads[2][8] = { { 0x19, 0x43, 0x56, 0x54, 0x25, 0x40, 0x08, 0x56 }, { 'F', 'M', 'H', 'P', 1 } };
	size_t len = 0;
	uint64_t files = 0, bytes = 0;

	while (n >= 4) {
		size_t take = in[3] < n - 4 ? in[3] : n - 4;
		unsigned kind = in[0] % 8;
		if (kind < 3) { /* a whole file, with a head that its reader knows */
			const char *name = names[in[1] % 8];
			const uint8_t *head = heads[strcmp(name, FM_IMAGES_HIDDEN) == 0];
			len = fuzz_frame(wire, len, FM_FRAME_IMAGE_BEGIN, take + 8, 0, (const uint8_t *)name, strlen(name));
			len = fuzz_frame(wire, len, FM_FRAME_IMAGE_DATA, 0, 0, head, 8);
			len = take ? fuzz_frame(wire, len, FM_FRAME_IMAGE_DATA, 0, 0, in + 4, take) : len;
			bytes += take + 8;
			files++;
		} else if (kind == 3) {
			len = fuzz_frame(wire, len, FM_FRAME_IMAGE_BEGIN, in[1], in[2] & 1, in + 4, take);
		} else if (kind == 4) {
			len = fuzz_frame(wire, len, FM_FRAME_IMAGE_DATA, in[1], in[2], in + 4, take);
		} else if (kind == 5) {
			len = fuzz_frame(wire, len, FM_FRAME_IMAGES_END, in[1], in[2], in + 4, take);
		} else if (kind == 6) {
			len = fuzz_frame(wire, len, (enum fm_frame)in[1], in[2], 0, in + 4, take);
		} else {
			len = fuzz_frame(wire, len, FM_FRAME_IMAGES_END, files, bytes, in, 0);
		}
		in += 4 + take;
		n -= 4 + take;
	}
	return len;
}

static void check_folder(int dirfd)
{
	_fm_closedir_ DIR *d = fdopendir(openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	off_t sum = 0;
	char text[8];
	struct stat st;

	for (struct dirent *e; (e = readdir(d));) {
		if (e->d_name[0] == '.') {
			assert(strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0);
			continue;
		}
		assert(fstatat(dirfd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 0777) == 0600);
		assert(!strchr(e->d_name, '/') && strcmp(e->d_name, "lazy-pages.socket") != 0);
		sum += st.st_size;
	}
	assert(sum <= (off_t)BYTES_MAX + 4);
	int fd = openat(dirfd, MINE, O_RDONLY | O_CLOEXEC);
	assert(fd >= 0 && read(fd, text, sizeof(text)) == 4 && memcmp(text, "mine", 4) == 0);
	close(fd);
}

static void read_ranges(int dirfd)
{
	struct fm_error err = FM_ERROR_INIT;
	struct fm_lazy_range *v = NULL;
	size_t n = 0;

	if (fm_images_lazy_ranges(dirfd, &v, &n, &err) < 0) {
		assert(err.code != FM_OK && !v);
		return;
	}
	for (size_t i = 1; i < n; i++)
		assert(v[i - 1].ns_pid < v[i].ns_pid || (v[i - 1].ns_pid == v[i].ns_pid && v[i - 1].vaddr <= v[i].vaddr));
	free(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t wire[FUZZ_WIRE_MAX], buf[FM_MAX_FRAME_BYTES];
	struct fm_error err = FM_ERROR_INIT;
	uint64_t bytes = 0;
	char path[128], mine[160];
	int peer = -1;

	(void)snprintf(path, sizeof(path), "%s/images", fuzz_folder());
	(void)snprintf(mine, sizeof(mine), "%s/" MINE, path);
	if (mkdir(path, 0700) < 0)
		abort();
	fuzz_write_file(mine, (const uint8_t *)"mine", 4);
	int dirfd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct fm_stream *s = fuzz_stream(wire, make_frames(data, size, wire), &peer);
	int rc = fm_images_recv(s, dirfd, BYTES_MAX, NULL, buf, &bytes, 1000, -1, &err);
	assert((rc == 0) == (err.code == FM_OK));
	assert(rc < 0 || bytes <= BYTES_MAX);
	check_folder(dirfd);
	read_ranges(dirfd);
	fm_stream_free(s);
	close(peer);
	close(dirfd);
	if (fm_remove_tree(path, NULL) < 0)
		abort();
	return 0;
}
