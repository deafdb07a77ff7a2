/* SPDX-License-Identifier: MIT */
/*
 * test-filetree-hostile.c - a receiver of files against senders that lie: out of the tree, into other mounts, more than announced, nonsense.
 */
#include "stream-lab.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include "basic/str.h"
#include "sync/filetree-internal.h"
#include "sync/filetree.h"

struct fixture {
	char *dir, *root;
	int dir_fd, root_fd;
	struct fm_stream *out, *in;
	uint64_t frames;
};

static void new_streams(struct fixture *f)
{
	fm_stream_free(f->out);
	fm_stream_free(f->in);
	pair(&f->out, &f->in);
	f->frames = 0;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->dir = fm_xstrdup("/tmp/fm-test-hostile-XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	f->root = fm_xasprintf("%s/root", f->dir);
	if (mkdir(f->root, 0755) < 0)
		return -1;
	f->dir_fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	f->root_fd = open(f->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int fd = openat(f->dir_fd, "outside", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	close(fd);
	*state = f;
	new_streams(f);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fm_stream_free(f->out);
	fm_stream_free(f->in);
	close(f->dir_fd);
	close(f->root_fd);
	int r = fm_remove_tree(f->dir, NULL);
	free(f->dir);
	free(f->root);
	free(f);
	return r;
}

/* An entry as a sender would make it, and a chance to spoil it */
struct forged {
	uint32_t mode, uid, gid, rdev_major, rdev_minor, mtime_ns, flags;
	uint64_t size;
	const char *path, *target, *xattrs;
	size_t path_len, target_len, xattrs_len; /* 0 = strlen */
	int lie_path, lie_target, lie_xattrs;    /* added to the announced lengths */
};

static void send_entry(struct fixture *f, const struct forged *e)
{
	uint8_t p[FM_ENTRY_BYTES_MAX + 16];
	size_t path = e->path_len ? e->path_len : strlen(e->path), target = e->target_len ? e->target_len
	                                                                    : e->target   ? strlen(e->target)
	                                                                                  : 0;

	fm_put_le32(p, e->mode);
	fm_put_le32(p + 4, e->uid ? e->uid : geteuid());
	fm_put_le32(p + 8, e->gid ? e->gid : getegid());
	fm_put_le32(p + 12, e->rdev_major);
	fm_put_le32(p + 16, e->rdev_minor);
	fm_put_le32(p + 20, e->mtime_ns);
	fm_put_le64(p + 24, 1000);
	fm_put_le64(p + 32, e->size);
	fm_put_le32(p + 40, e->flags);
	fm_put_le16(p + 44, (uint16_t)((int)path + e->lie_path));
	fm_put_le16(p + 46, (uint16_t)((int)target + e->lie_target));
	fm_put_le32(p + 48, (uint32_t)((int)e->xattrs_len + e->lie_xattrs));
	memcpy(p + 52, e->path, path);
	if (target)
		memcpy(p + 52 + path, e->target, target);
	if (e->xattrs_len)
		memcpy(p + 52 + path + target, e->xattrs, e->xattrs_len);
	assert_ok(fm_stream_send(f->out, FM_FRAME_FILE_ENTRY, 0, 0, p, 52 + path + target + e->xattrs_len, WAIT_MS, &err));
	f->frames++;
}

#define entry(...) send_entry(f, &(struct forged){ __VA_ARGS__ })
#define REG        .mode = S_IFREG | 0644
#define DIR_       .mode = S_IFDIR | 0755
#define LNK        .mode = S_IFLNK | 0777

static void send_data(struct fixture *f, uint64_t offset, const char *text)
{
	assert_ok(fm_stream_send(f->out, FM_FRAME_FILE_DATA, offset, 0, text, strlen(text), WAIT_MS, &err));
}

static void send_delete(struct fixture *f, const char *path, size_t n)
{
	assert_ok(fm_stream_send(f->out, FM_FRAME_FILE_DELETE, 0, 0, path, n, WAIT_MS, &err));
	f->frames++;
}

/* What the receiver says about all that was sent so far; fresh streams for the next. */
static enum fm_code verdict(struct fixture *f, uint64_t max_bytes)
{
	assert_ok(fm_stream_send(f->out, FM_FRAME_FILES_END, 1, f->frames, NULL, 0, WAIT_MS, &err));
	err = FM_ERROR_INIT;
	int r = fm_filetree_recv(f->in, f->root, 0, max_bytes, WAIT_MS, -1, &err);
	enum fm_code code = r < 0 ? err.code : FM_OK;
	new_streams(f);
	return code;
}

#define accepted() assert_int_equal(FM_OK, verdict(f, 1 << 20))
#define refused()  assert_int_equal(FM_E_DATA_LOSS, verdict(f, 1 << 20))

static void nothing_outside(struct fixture *f)
{
	struct stat st;
	unsigned n = 0;
	_fm_closedir_ DIR *d = fdopendir(openat(f->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));

	while (readdir(d))
		n++;
	assert_int_equal(4, n); /* ".", "..", root, outside */
	assert_int_equal(0, fstatat(f->dir_fd, "outside", &st, AT_SYMLINK_NOFOLLOW));
	assert_true(st.st_size == 0 && st.st_nlink == 1 && (st.st_mode & 07777) == 0600);
}

static void test_honest(void **state)
{
	struct fixture *f = *state;

	entry(DIR_, .path = ".");
	entry(DIR_, .path = "a");
	entry(REG, .path = "a/b", .size = 10);
	send_data(f, 0, "he");
	send_data(f, 8, "lo");
	entry(LNK, .path = "a/l", .target = "/etc/../x");
	entry(REG, .path = "a/c", .flags = FM_ENTRY_HARD_LINK, .target = "a/b");
	entry(DIR_, .path = "a", .flags = FM_ENTRY_FOLDER_END);
	send_delete(f, "a/none", 6);
	accepted();
	nothing_outside(f);
}

/* A root that is one file takes nothing but that file; one that is a folder takes no file in its own place. */
static void test_single_file(void **state)
{
	struct fixture *f = *state;
	char *folder = f->root;

	entry(REG, .path = ".", .size = 2);
	refused();
	f->root = fm_xasprintf("%s/file", folder);
	close(open(f->root, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	entry(REG, .path = ".", .size = 2);
	send_data(f, 0, "ok");
	accepted();
	entry(REG, .path = "a", .size = 2);
	refused();
	entry(DIR_, .path = ".");
	refused();
	entry(LNK, .path = ".", .target = "/etc/passwd");
	refused();
	entry(REG, .path = ".", .flags = FM_ENTRY_HARD_LINK, .target = "a");
	refused();
	send_delete(f, "a", 1);
	refused();
	free(f->root);
	f->root = folder;
	nothing_outside(f);
}

/* Only what is a file of one name can be updated. */
static void test_updates(void **state)
{
	struct fixture *f = *state;

	entry(DIR_, .path = ".");
	entry(REG, .path = "a", .size = 4);
	send_data(f, 0, "abcd");
	entry(LNK, .path = "l", .target = "../outside");
	entry(DIR_, .path = "d");
	accepted();
	entry(REG, .path = "a", .size = 6, .flags = FM_ENTRY_UPDATE);
	send_data(f, 2, "xy");
	accepted();
	entry(REG, .path = "b", .size = 4, .flags = FM_ENTRY_UPDATE);
	refused();
	entry(REG, .path = "l", .size = 4, .flags = FM_ENTRY_UPDATE);
	refused();
	entry(REG, .path = "d", .size = 4, .flags = FM_ENTRY_UPDATE);
	refused();
	entry(DIR_, .path = "d", .flags = FM_ENTRY_UPDATE);
	refused();
	entry(REG, .path = "a", .size = 2, .flags = FM_ENTRY_UPDATE);
	send_data(f, 0, "abc");
	refused();
	entry(REG, .path = "c", .flags = FM_ENTRY_HARD_LINK, .target = "a");
	accepted();
	entry(REG, .path = "a", .size = 4, .flags = FM_ENTRY_UPDATE);
	refused();
	nothing_outside(f);
}

static void test_paths(void **state)
{
	struct fixture *f = *state;
	static const char *const paths[] = { "..",  "../outside", "a/../../outside", "/etc/x", "/", "a//b", "a/",
		                             "a/.", "./a",        "a/./b",           "...//" };
	char deep[1200], component[300];

	entry(DIR_, .path = "a");
	accepted();
	for (size_t i = 0; i < FM_ARRAY_SIZE(paths); i++) {
		entry(REG, .path = paths[i]);
		refused();
		entry(DIR_, .path = paths[i]);
		refused();
		entry(DIR_, .path = paths[i], .flags = FM_ENTRY_FOLDER_END);
		refused();
		entry(LNK, .path = paths[i], .target = "t");
		refused();
		send_delete(f, paths[i], strlen(paths[i]));
		refused();
		entry(REG, .path = "file");
		entry(REG, .path = "a/link", .flags = FM_ENTRY_HARD_LINK, .target = paths[i]);
		refused();
	}
	entry(REG, .path = "x\0y", .path_len = 3);
	refused();
	send_delete(f, "a\0b", 3);
	refused();
	send_delete(f, ".", 1);
	refused();
	send_delete(f, "", 0);
	refused();
	entry(REG, .path = ".");
	refused();
	entry(REG, .path = "l", .flags = FM_ENTRY_HARD_LINK, .target = ".");
	refused();
	memset(component, 'c', sizeof(component));
	component[256] = 0;
	entry(REG, .path = component);
	refused();
	for (size_t i = 0; i < 513; i++)
		deep[i] = i % 2 ? '/' : 'd';
	deep[513] = 0; /* 257 components */
	entry(REG, .path = deep);
	refused();
	entry(REG, .path = "missing/folder");
	refused();
	entry(REG, .path = "file");
	entry(REG, .path = "file/below-a-file");
	refused();
	nothing_outside(f);
}

/* The sender plants a link, or finds one here, and then goes through it. */
static void test_links_out(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(0, symlinkat(f->dir, f->root_fd, "trap"));
	assert_int_equal(0, symlinkat("../outside", f->root_fd, "file-trap"));
	entry(REG, .path = "trap/new", .size = 1);
	refused();
	entry(DIR_, .path = "trap/new");
	refused();
	send_delete(f, "trap/outside", 12);
	refused();
	entry(REG, .path = "stolen", .flags = FM_ENTRY_HARD_LINK, .target = "trap/outside");
	refused();
	entry(DIR_, .path = "trap", .flags = FM_ENTRY_FOLDER_END);
	refused();
	entry(LNK, .path = "own", .target = "..");
	entry(REG, .path = "own/new");
	refused();
	entry(LNK, .path = "own", .target = "/proc/self/root");
	entry(REG, .path = "own/tmp/fm-test-hostile-must-not-exist");
	refused();

	/* as the last component they are replaced, not followed */
	entry(REG, .path = "file-trap", .size = 4);
	send_data(f, 0, "mine");
	accepted();
	struct stat st;
	assert_int_equal(0, fstatat(f->root_fd, "file-trap", &st, AT_SYMLINK_NOFOLLOW));
	assert_true(S_ISREG(st.st_mode));
	entry(DIR_, .path = "trap");
	accepted();
	assert_int_equal(0, fstatat(f->root_fd, "trap", &st, AT_SYMLINK_NOFOLLOW));
	assert_true(S_ISDIR(st.st_mode));

	/* a deletion takes the link, not where it leads */
	assert_int_equal(0, mkdirat(f->root_fd, "folder", 0755));
	assert_int_equal(0, symlinkat(f->dir, f->root_fd, "folder/up"));
	send_delete(f, "folder", 6);
	accepted();
	nothing_outside(f);
}

static void test_malformed_entries(void **state)
{
	struct fixture *f = *state;
	struct forged bad[] = {
		{ .mode = 0644, .path = "x" },
		{ .mode = S_IFSOCK | 0644, .path = "x" },
		{ .mode = S_IFREG | 0200644, .path = "x" },
		{ REG, .path = "x", .flags = 4 },
		{ REG, .path = "x", .flags = FM_ENTRY_FOLDER_END },
		{ DIR_, .path = "x", .flags = FM_ENTRY_HARD_LINK, .target = "y" },
		{ DIR_, .path = "x", .flags = FM_ENTRY_FLAGS },
		{ REG, .path = "x", .flags = FM_ENTRY_HARD_LINK },
		{ REG, .path = "x", .flags = FM_ENTRY_HARD_LINK, .target = "y", .size = 1 },
		{ REG, .path = "x", .mtime_ns = 1000000000 },
		{ REG, .path = "x", .uid = UINT32_MAX },
		{ REG, .path = "x", .gid = UINT32_MAX },
		{ REG, .path = "x", .size = UINT64_MAX },
		{ REG, .path = "x", .size = 1ull << 63 },
		{ REG, .path = "x", .rdev_major = 1 },
		{ REG, .path = "x", .target = "y" },
		{ DIR_, .path = "x", .size = 1 },
		{ LNK, .path = "x" },
		{ LNK, .path = "x", .target = "a\0b", .target_len = 3 },
		{ LNK, .path = "x", .target = "y", .size = 1 },
		{ .mode = S_IFIFO | 0600, .path = "x", .size = 1 },
		{ .mode = S_IFIFO | 0600, .path = "x", .rdev_minor = 1 },
		{ REG, .path = "x", .lie_path = 1 },
		{ REG, .path = "x", .lie_path = 5000 },
		{ REG, .path = "xy", .lie_path = -1 },
		{ LNK, .path = "x", .target = "y", .lie_target = 1 },
		{ REG, .path = "x", .lie_xattrs = 1 },
		{ REG, .path = "x", .lie_xattrs = 100000 },
		{ REG, .path = "x", .lie_xattrs = -1 },
		/* attributes: too short, name empty, name runs out, value runs out, not ours to set, NUL in the name, on a fifo */
		{ REG, .path = "x", .xattrs = "\1\0\0\0\0", .xattrs_len = 5 },
		{ REG, .path = "x", .xattrs = "\0\0\0\0\0\0", .xattrs_len = 6 },
		{ REG, .path = "x", .xattrs = "\7\0\0\0\0\0user.a", .xattrs_len = 12 },
		{ REG, .path = "x", .xattrs = "\6\0\1\0\0\0user.a", .xattrs_len = 12 },
		{ REG, .path = "x", .xattrs = "\6\0\377\377\377\377user.a", .xattrs_len = 12 },
		{ REG, .path = "x", .xattrs = "\20\0\1\0\0\0security.selinuxv", .xattrs_len = 23 },
		{ REG, .path = "x", .xattrs = "\31\0\1\0\0\0trusted.overlay.redirect_v", .xattrs_len = 32 },
		{ REG, .path = "x", .xattrs = "\10\0\0\0\0\0user.\0ab", .xattrs_len = 14 },
		{ .mode = S_IFIFO | 0600, .path = "x", .xattrs = "\6\0\0\0\0\0user.a", .xattrs_len = 12 },
		{ DIR_, .path = "x", .flags = FM_ENTRY_FOLDER_END, .xattrs = "\6\0\0\0\0\0user.a", .xattrs_len = 12 },
	};

	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++) {
		send_entry(f, &bad[i]);
		enum fm_code code = verdict(f, 1 << 20);
		if (code != FM_E_DATA_LOSS)
			fail_msg("entry %zu: %s: %s", i, fm_code_to_string(code), err.message);
	}
	assert_int_equal(-1, faccessat(f->root_fd, "x", F_OK, AT_SYMLINK_NOFOLLOW));
	assert_ok(fm_stream_send(f->out, FM_FRAME_FILE_ENTRY, 0, 0, "short", 5, WAIT_MS, &err));
	refused();
	assert_ok(fm_stream_send(f->out, FM_FRAME_FILE_ENTRY, 0, 0, NULL, 0, WAIT_MS, &err));
	refused();
}

static void test_data(void **state)
{
	struct fixture *f = *state;

	send_data(f, 0, "of no file");
	refused();
	entry(DIR_, .path = "d");
	send_data(f, 0, "of a folder");
	refused();
	entry(REG, .path = "a", .size = 4);
	send_data(f, 0, "12345");
	refused();
	entry(REG, .path = "a", .size = 4);
	send_data(f, 5, "1");
	refused();
	entry(REG, .path = "a", .size = 4);
	send_data(f, UINT64_MAX, "1");
	refused();
	entry(REG, .path = "a", .size = 4);
	send_data(f, 2, "12");
	send_data(f, 0, "12"); /* backwards */
	refused();
	entry(REG, .path = "a", .size = 4);
	send_data(f, 0, "");
	refused();
	entry(REG, .path = "a", .size = 4);
	send_delete(f, "a", 1);
	send_data(f, 0, "1");
	refused();
	/* a frame of another dialogue */
	assert_ok(fm_stream_send(f->out, FM_FRAME_PAGES, 0, 0, "x", 1, WAIT_MS, &err));
	refused();
	assert_ok(fm_stream_send(f->out, FM_FRAME_ABORT, 0, 0, NULL, 0, WAIT_MS, &err));
	assert_int_equal(FM_E_CANCELLED, verdict(f, 1 << 20));
	/* one is missing */
	entry(REG, .path = "a");
	f->frames++;
	refused();
	/* cut */
	entry(REG, .path = "a", .size = 4);
	fm_stream_shutdown(f->out);
	err = FM_ERROR_INIT;
	assert_int_equal(-1, fm_filetree_recv(f->in, f->root, 0, 1 << 20, WAIT_MS, -1, &err));
	assert_int_equal(FM_E_UNAVAILABLE, err.code);
	nothing_outside(f);
}

static void test_limits(void **state)
{
	struct fixture *f = *state;
	int cancel = eventfd(1, EFD_CLOEXEC);

	entry(REG, .path = "a", .size = 100);
	send_data(f, 0, "0123456789");
	assert_int_equal(FM_OK, verdict(f, 53 + 10)); /* entry and data */
	entry(REG, .path = "a", .size = 100);
	send_data(f, 0, "0123456789");
	assert_int_equal(FM_E_RESOURCE_EXHAUSTED, verdict(f, 53 + 9));
	entry(REG, .path = "a");
	assert_int_equal(FM_E_RESOURCE_EXHAUSTED, verdict(f, 52));
	entry(REG, .path = "a", .size = INT64_MAX); /* sparse, but no filesystem has that: an error, not a crash */
	assert_int_not_equal(FM_OK, verdict(f, 1 << 20));

	err = FM_ERROR_INIT;
	assert_int_equal(-1, fm_filetree_recv(f->in, f->root, 0, 1 << 20, -1, cancel, &err));
	assert_int_equal(FM_E_CANCELLED, err.code);
	err = FM_ERROR_INIT;
	assert_int_equal(-1, fm_filetree_recv(f->in, f->root, 0, 1 << 20, 10, -1, &err));
	assert_int_equal(FM_E_DEADLINE_EXCEEDED, err.code);
	err = FM_ERROR_INIT;
	assert_int_equal(-1, fm_filetree_recv(f->in, "/nonexistent/root", 0, 1 << 20, 10, -1, &err));
	assert_int_equal(FM_E_NOT_FOUND, err.code);
	close(cancel);
}

/* Things of every kind in the way of every other kind */
static void test_replacing(void **state)
{
	struct fixture *f = *state;
	struct forged kinds[] = {
		{ REG, .path = "x" },
		{ DIR_, .path = "x" },
		{ LNK, .path = "x", .target = "nowhere" },
		{ .mode = S_IFIFO | 0600, .path = "x" },
		{ REG, .path = "x", .flags = FM_ENTRY_HARD_LINK, .target = "other" },
	};

	entry(REG, .path = "other", .size = 3);
	accepted();
	for (size_t i = 0; i < FM_ARRAY_SIZE(kinds); i++) {
		for (size_t k = 0; k < FM_ARRAY_SIZE(kinds); k++) {
			struct stat st;
			send_entry(f, &kinds[i]);
			if (S_ISDIR(kinds[i].mode))
				entry(REG, .path = "x/inside");
			send_entry(f, &kinds[k]);
			accepted();
			assert_int_equal(0, fstatat(f->root_fd, "x", &st, AT_SYMLINK_NOFOLLOW));
			assert_int_equal(kinds[k].mode & S_IFMT, st.st_mode & S_IFMT);
			send_delete(f, "x", 1);
			accepted();
			assert_int_equal(-1, fstatat(f->root_fd, "x", &st, AT_SYMLINK_NOFOLLOW));
		}
	}
	/* a link to itself is what it is already, or cannot be */
	entry(REG, .path = "other", .flags = FM_ENTRY_HARD_LINK, .target = "other");
	accepted();
	entry(REG, .path = "none", .flags = FM_ENTRY_HARD_LINK, .target = "none");
	assert_int_not_equal(FM_OK, verdict(f, 1 << 20));
	entry(DIR_, .path = "d");
	entry(REG, .path = "e", .flags = FM_ENTRY_HARD_LINK, .target = "d");
	assert_int_not_equal(FM_OK, verdict(f, 1 << 20));
	/* the folder goes away under its own name's target */
	entry(DIR_, .path = "d");
	entry(REG, .path = "d/inner");
	entry(REG, .path = "d", .flags = FM_ENTRY_HARD_LINK, .target = "d/inner");
	assert_int_not_equal(FM_OK, verdict(f, 1 << 20));
	/* a folder that was deleted is not remembered */
	entry(DIR_, .path = "g");
	entry(DIR_, .path = "g/h");
	entry(REG, .path = "g/h/file");
	send_delete(f, "g", 1);
	entry(REG, .path = "g/h/file");
	refused();
	nothing_outside(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(test_honest), T(test_single_file), T(test_updates),   T(test_paths), T(test_links_out), T(test_malformed_entries),
		T(test_data),   T(test_limits),      T(test_replacing),
	};
	return cmocka_run_group_tests_name("filetree-hostile", tests, NULL, NULL);
}
