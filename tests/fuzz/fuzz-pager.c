/* SPDX-License-Identifier: MIT */
/*
 * fuzz-pager.c - libFuzzer entry for what a source answers to a destination that asks for pages, over two streams one after the other.
 *
 * The "restored" memory is a window of this process's own, registered as CRIU's restorer does. For each request the input has {u8 what, u8 how many}: the right answer in pieces, GONE, or one of
 * several lies, with contents that no honest source has. Whatever comes: a page of the window is still missing, or has its own content, or is zero because the source said GONE.
 */
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "basic/cleanup.h"
#include "fuzz.h"
#include "sync/pager.h"

#define PAGE     4096u
#define PAGES    24u
#define NS_PID   500
#define FINISHED 0x52535446u
#define LIE      0xee
#define HANG_MS  20000

static uint8_t *window;

struct script {
	const uint8_t *p, *end;
	bool gone[PAGES]; /* said so by the source */
};

static int load_ranges(void *userdata, struct fm_pager_range **ret, size_t *ret_n, struct fm_error *err)
{
	*ret = calloc(1, sizeof(**ret));
	if (!*ret)
		abort();
	**ret = (struct fm_pager_range){ .ns_pid = NS_PID, .vaddr = (uint64_t)(uintptr_t)window, .n_pages = PAGES };
	*ret_n = 1;
	return 0;
}

static int keep(void *userdata, uint64_t key, int fd, struct fm_error *err)
{
	return 0;
}

static int drop(void *userdata, uint64_t key, struct fm_error *err)
{
	return 0;
}

static void content(uint64_t address, uint8_t *to, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		memset(to + (size_t)i * PAGE, (int)((address - (uintptr_t)window) / PAGE + i + 1), PAGE);
}

/* What CRIU does for one task. Returns our duplicate of the userfaultfd. */
static int hand_over(const char *folder)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register r = { .range = { (uintptr_t)window, PAGES * PAGE }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	uint32_t words[2] = { NS_PID, FINISHED };
	char path[128];
	int sock = -1, fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	(void)snprintf(path, sizeof(path), "%s/lazy-pages.socket", folder);
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0 || madvise(window, PAGES * PAGE, MADV_DONTNEED) < 0 ||
	    ioctl(fd, UFFDIO_REGISTER, &r) < 0)
		abort();
	if (fm_unix_connect(path, SOCK_STREAM, &sock, NULL) < 0 || write(sock, &words[0], 4) != 4 ||
	    fm_send_with_fds(sock, "", 1, &fd, 1, NULL) < 0 || write(sock, &words[1], 4) != 4)
		abort();
	close(sock);
	return fd;
}

static void take_back(int fd)
{
	struct uffdio_range r = { (uintptr_t)window, PAGES * PAGE };

	(void)ioctl(fd, UFFDIO_UNREGISTER, &r);
	close(fd);
}

static int send_pages(struct fm_stream *s, enum fm_frame type, uint64_t pid, uint64_t address, const uint8_t *payload, size_t n)
{
	return fm_stream_send(s, type, pid, address, payload, n, HANG_MS, NULL);
}

/* The next piece of an answer, or a lie. Returns how many pages it was, 0 after a lie, -1 at the end. */
static int one_piece(struct fm_stream *s, struct script *c, uint64_t pid, uint64_t at, uint32_t left)
{
	static uint8_t buf[(PAGES + 2) * PAGE];
	uint8_t count[4];
	bool over = c->end - c->p < 2; /* then all is answered rightly */
	unsigned what = over ? 0 : c->p[0] % 16;
	uint32_t n = over ? left : 1 + c->p[1] % left;

	c->p += over ? 0 : 2;
	if (what < 7) {
		content(at, buf, n);
		return send_pages(s, FM_FRAME_PAGES, pid, at, buf, (size_t)n * PAGE) < 0 ? -1 : (int)n;
	}
	if (what < 9) {
		for (uint32_t i = 0; i < n; i++)
			c->gone[(at - (uintptr_t)window) / PAGE + i] = true;
		fm_put_le32(count, n);
		return send_pages(s, FM_FRAME_PAGES_GONE, pid, at, count, 4) < 0 ? -1 : (int)n;
	}
	memset(buf, LIE, sizeof(buf));
	fm_put_le32(count, what == 9 ? left + n : 0);
	if (what <= 10)
		return send_pages(s, FM_FRAME_PAGES_GONE, pid, at, count, 4) < 0 ? -1 : 0;
	if (what == 11)
		return send_pages(s, FM_FRAME_PAGES, pid + n, at, buf, (size_t)n * PAGE) < 0 ? -1 : 0;
	if (what == 12)
		return send_pages(s, FM_FRAME_PAGES, pid, at + (uint64_t)n * PAGE, buf, PAGE) < 0 ? -1 : 0;
	if (what == 13)
		return send_pages(s, FM_FRAME_PAGES, pid, at, buf, (size_t)(left + 1) * PAGE) < 0 ? -1 : 0;
	if (what == 14)
		return send_pages(s, FM_FRAME_PAGES, pid, at, buf, n * 100) < 0 ? -1 : 0;
	return -1; /* cut */
}

static void serve(struct fm_stream *s, struct script *c)
{
	struct fm_frame_header h;
	uint8_t payload[8];

	while (fm_stream_recv(s, &h, payload, sizeof(payload), HANG_MS, -1, NULL) == 0 && h.type == FM_FRAME_PAGE_REQUEST) {
		uint32_t n = fm_get_le32(payload);
		int r = 0;
		assert(h.a == NS_PID && h.length == 8 && n > 0 && h.b >= (uintptr_t)window &&
		       h.b + (uint64_t)n * PAGE <= (uintptr_t)window + PAGES * PAGE);
		for (uint32_t got = 0; got < n; got += (uint32_t)r)
			if ((r = one_piece(s, c, h.a, h.b + (uint64_t)got * PAGE, n - got)) <= 0)
				break;
		if (r < 0)
			return;
	}
}

static bool one_stream(struct fm_pager *p, struct script *c)
{
	struct fm_stream *ours = NULL, *theirs = NULL;
	struct fm_error e = FM_ERROR_INIT;
	int sv[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0 || fm_stream_from_fd(sv[0], &ours, NULL) < 0 ||
	    fm_stream_from_fd(sv[1], &theirs, NULL) < 0)
		abort();
	bool go_on = fm_pager_set_stream(p, ours, &e) == 0;
	if (go_on)
		serve(theirs, c);
	fm_stream_shutdown(theirs);
	if (go_on && fm_pager_wait(p, HANG_MS, -1, &e) < 0) {
		assert(e.code == FM_E_UNAVAILABLE || e.code == FM_E_DATA_LOSS);
		go_on = e.code == FM_E_UNAVAILABLE;
	} else {
		go_on = false;
	}
	struct fm_pager_stats st;
	fm_pager_stats(p, &st);
	assert(st.pages_done <= st.pages_total && st.pages_total == PAGES && (!st.done || st.pages_done == PAGES));
	if (!go_on) { /* a pager that is over has the stream until it is freed */
		fm_pager_free(p);
	}
	fm_stream_free(ours);
	fm_stream_free(theirs);
	return go_on;
}

/* Pages that are there, without touching those that are not. */
static void check_window(const struct script *c)
{
	static int fd = -1;
	uint64_t entry;

	if (fd < 0)
		fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	for (unsigned i = 0; i < PAGES; i++) {
		const uint8_t *page = window + (size_t)i * PAGE;
		if (pread(fd, &entry, 8, (off_t)((uintptr_t)page / PAGE * 8)) != 8)
			abort();
		if (!(entry >> 62)) /* neither present nor swapped */
			continue;
		assert((page[0] == i + 1 || (page[0] == 0 && c->gone[i])) && memcmp(page, page + 1, PAGE - 1) == 0);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script c = { .p = data, .end = data + size };
	struct fm_pager *p = NULL;
	int dirfd = open(fuzz_folder(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct fm_pager_opts o = { .images_dirfd = dirfd, .load_ranges = load_ranges, .keep = keep, .drop = drop };

	if (!window)
		window = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (window == MAP_FAILED || fm_pager_new(&o, &p, NULL) < 0)
		abort();
	int fd = hand_over(fuzz_folder());
	if (fm_pager_wait_kept(p, HANG_MS, -1, NULL) < 0)
		abort();
	fm_pager_start_background(p);
	if (one_stream(p, &c) && one_stream(p, &c))
		fm_pager_free(p);
	check_window(&c);
	take_back(fd);
	close(dirfd);
	return 0;
}
