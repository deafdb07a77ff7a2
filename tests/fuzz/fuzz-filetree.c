/* SPDX-License-Identifier: MIT */
/*
 * fuzz-filetree.c - libFuzzer entry for the receiver of files: whatever the sender says, nothing outside the root changes.
 *
 * Input: commands, made into proper frames. Bit 7 of a command's first byte: an entry or a deletion put together from a few bytes, well-formed more often than not, with paths that mostly
 * exist, or the hash of a content that was offered, mostly; else {u8 frame, u8 a, u16 length, payload} as it is. Every run ends with a look at the folder around the root, in which a file lies in wait; in the root, a link leads out.
 */
#include <assert.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "sync/file-known-internal.h"
#include "sync/filetree-internal.h"
#include "fuzz.h"

#define INPUT_MAX   16384u
#define WIRE_MAX    (64u << 10)
#define KNOWN_FILES 4u
#define KNOWN_BYTES 5000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *world; /* the folder around the root; one for the process */
static int world_fd = -1;
static char *copy; /* of an earlier visit; what is known is in it */
static struct fm_known *known;

static void remove_world(void)
{
	(void)fm_remove_tree(world, NULL);
	fm_known_free(known);
	(void)fm_remove_tree(copy, NULL);
	free(world);
	free(copy);
}

static void make_copy(void)
{
	const struct timespec until = { .tv_sec = INT64_MAX };
	struct fm_error err = FM_ERROR_INIT;
	int folder;

	copy = strdup(access("/dev/shm", W_OK) == 0 ? "/dev/shm/fm-fuzz-XXXXXX" : "/tmp/fm-fuzz-XXXXXX");
	if (!copy || !mkdtemp(copy) || (folder = open(copy, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		abort();
	for (unsigned i = 0; i < KNOWN_FILES; i++) {
		char name[2] = { (char)('a' + i), 0 };
		int fd = openat(folder, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		if (fd < 0 || ftruncate(fd, KNOWN_BYTES + i / 2) < 0 || pwrite(fd, name, 1, 100) != 1)
			abort();
		close(fd);
	}
	if (fm_known_scan(folder, &until, -1, &known, &err) < 0 || fm_known_count(known) != KNOWN_FILES)
		abort();
}

static void make_world(void)
{
	const struct rlimit small = { 1 << 20, 1 << 20 };

	world = strdup(access("/dev/shm", W_OK) == 0 ? "/dev/shm/fm-fuzz-XXXXXX" : "/tmp/fm-fuzz-XXXXXX");
	if (!world || !mkdtemp(world))
		abort();
	make_copy();
	atexit(remove_world);
	world_fd = open(world, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int fd = openat(world_fd, "outside", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	close(fd);
	(void)setrlimit(RLIMIT_FSIZE, &small);
}

static void check_world(void)
{
	struct stat st;
	unsigned n = 0;
	_fm_closedir_ DIR *d = fdopendir(openat(world_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));

	while (readdir(d))
		n++;
	assert(n == 4); /* ".", "..", root, outside */
	assert(fstatat(world_fd, "outside", &st, AT_SYMLINK_NOFOLLOW) == 0);
	assert(st.st_size == 0 && st.st_nlink == 1 && st.st_mode == (S_IFREG | 0600));
}

/* A path of one to four components, most of them to be found in the tree, from two bytes */
static size_t make_path(uint16_t choice, char *out)
{
	static const char *const parts[] = { "a", "b", "d", "up", "a", "b", "c", "d", "..", "outside", "root", ".", "", "up", "e", "f" };
	size_t n = 0;

	for (unsigned i = 0; i < 1u + (choice & 3); i++) {
		const char *part = parts[(choice >> (4 * (3 - i))) & 15];
		if (i)
			out[n++] = '/';
		memcpy(out + n, part, strlen(part));
		n += strlen(part);
	}
	return n;
}

/* An entry that gets past the decoder more often than not, from six bytes: kind and flags, mode, size, xattr, path, target */
static size_t make_entry(const uint8_t *in, uint8_t *p)
{
	static const uint32_t kinds[] = { S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO };
	static const uint8_t xattr[] = { 6, 0, 1, 0, 0, 0, 'u', 's', 'e', 'r', '.', 'a', 'v' };
	uint32_t kind = kinds[in[0] & 3], flags = in[0] >> 2 & 7 ? 0 : in[0] >> 5 & FM_ENTRY_FLAGS;
	char path[64], target[64];

	if (flags & FM_ENTRY_FOLDER_END)
		kind = S_IFDIR;
	else if (flags & FM_ENTRY_HARD_LINK && kind == S_IFDIR)
		kind = S_IFREG;
	size_t path_len = make_path(fm_get_le16(in + 2), path),
	       target_len = kind == S_IFLNK || (flags & FM_ENTRY_HARD_LINK) ? make_path(fm_get_le16(in + 4), target) : 0;
	size_t xattrs_len = (in[1] & 1) && !flags && (kind == S_IFREG || kind == S_IFDIR) ? sizeof(xattr) : 0;

	memset(p, 0, FM_ENTRY_FIXED_BYTES);
	fm_put_le32(p, kind | (uint32_t)(in[1] << 4));
	fm_put_le32(p + 4, geteuid());
	fm_put_le32(p + 8, getegid());
	fm_put_le64(p + 32, kind == S_IFREG && !flags ? (in[4] > 250 ? KNOWN_BYTES + (in[4] & 1) : in[4]) : 0);
	fm_put_le32(p + 40, flags);
	fm_put_le16(p + 44, (uint16_t)path_len);
	fm_put_le16(p + 46, (uint16_t)target_len);
	fm_put_le32(p + 48, (uint32_t)xattrs_len);
	memcpy(p + 52, path, path_len);
	memcpy(p + 52 + path_len, target, target_len);
	memcpy(p + 52 + path_len + target_len, xattr, xattrs_len);
	return FM_ENTRY_FIXED_BYTES + path_len + target_len + xattrs_len;
}

/* One that was offered, unless a bit says that it is none */
static size_t make_hash(const uint8_t *in, uint8_t *p)
{
	const struct fm_known_file *f = &known->files[in[0] % KNOWN_FILES];

	fm_put_le64(p, f->hash[0] ^ (in[1] > 250));
	fm_put_le64(p + 8, f->hash[1]);
	return FM_KNOWN_HASH_BYTES;
}

static size_t make_frames(const uint8_t *in, size_t n, uint8_t *out)
{
	static const enum fm_frame types[] = { FM_FRAME_FILE_ENTRY,  FM_FRAME_FILE_ENTRY, FM_FRAME_FILE_KNOWN, FM_FRAME_FILE_DATA,
		                               FM_FRAME_FILE_DELETE, FM_FRAME_FILES_END,  FM_FRAME_ABORT,      FM_FRAME_PAGES };
	uint8_t payload[1024];
	size_t len = 0;
	uint64_t frames = 0;

	while (n >= 7 && len < WIRE_MAX - 2048) {
		enum fm_frame type = types[in[0] & 7];
		size_t take;
		uint64_t a = in[1];
		if ((in[0] & 0x80) && type == FM_FRAME_FILE_KNOWN) {
			take = make_hash(in + 1, payload);
			in += 7;
			n -= 7;
		} else if ((in[0] & 0x80) && (type == FM_FRAME_FILE_ENTRY || type == FM_FRAME_FILE_DELETE)) {
			take = type == FM_FRAME_FILE_ENTRY ? make_entry(in + 1, payload) : make_path(fm_get_le16(in + 3), (char *)payload);
			in += 7;
			n -= 7;
		} else {
			take = fm_get_le16(in + 2) % 512;
			in += 4;
			n -= 4;
			take = take < n ? take : n;
			memcpy(payload, in, take);
			in += take;
			n -= take;
		}
		frames += type == FM_FRAME_FILE_ENTRY || type == FM_FRAME_FILE_DELETE;
		fm_frame_encode(out + len, type, a, type == FM_FRAME_FILES_END ? frames : 0, payload, take);
		memcpy(out + len + FM_FRAME_HEADER_BYTES, payload, take);
		len += FM_FRAME_HEADER_BYTES + take;
	}
	return len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t wire[WIRE_MAX];
	struct fm_error err = FM_ERROR_INIT;
	char root[64];
	int peer = -1;

	if (size < 6 || size > INPUT_MAX)
		return 0;
	if (world_fd < 0)
		make_world();
	(void)snprintf(root, sizeof(root), "%s/root", world);
	if (mkdirat(world_fd, "root", 0755) < 0 || symlinkat("..", world_fd, "root/up") < 0 || mkdirat(world_fd, "root/d", 0755) < 0)
		abort();
	size_t n = make_frames(data, size, wire);
	struct fm_stream *s = fuzz_stream(wire, n, &peer);
	int r = fm_filetree_recv_known(s, known, root, 0, 1 << 20, 1000, -1, &err);
	assert((r == 0) == (err.code == FM_OK));
	assert(!fm_known_is_bad(known)); /* nobody touches the copy, least of all the sender */
	fm_stream_free(s);
	close(peer);
	check_world();
	if (fm_remove_tree(root, &err) < 0)
		abort();
	return 0;
}
