/* SPDX-License-Identifier: MIT */
/*
 * fuzz-source.c - libFuzzer entry for what a destination asks of a source: any requests at all. The pages are this process's own: three with known contents, an empty one between them, and whatever
 * else the input asks for.
 *
 * Each request that is answered is answered exactly once, in order and in full, with the pages' contents or GONE; after a request that is refused nothing more comes.
 */
#include <pthread.h>
#include <stdbool.h>
#include <sys/mman.h>

#include "basic/limits.h"
#include "fuzz.h"
#include "sync/page-source.h"

#define PAGE    4096u
#define NS_PID  5
#define ASK_MAX 64u

static uint64_t base; /* of the window: where the kernel has put it */

struct ask {
	uint64_t pid, address;
	uint32_t n_pages;
};

struct reader {
	struct fm_stream *s;
	struct ask asked[ASK_MAX];
	size_t n;
	bool half_an_answer;
};

static void make_window(void)
{
	uint8_t *p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		abort();
	for (unsigned i = 0; i < 4; i++)
		memset(p + i * PAGE, (int)i + 1, PAGE);
	/* The hole is not given back to the kernel: somebody else's mapping would get there. */
	if (mprotect(p + PAGE, PAGE, PROT_NONE) < 0 || madvise(p + PAGE, PAGE, MADV_DONTNEED) < 0)
		abort();
	base = (uint64_t)(uintptr_t)p;
}

/* Of the window it is known what has to come. */
static void check_page(uint64_t address, const uint8_t *page)
{
	if (address < base || address >= base + 4 * PAGE)
		return;
	uint8_t want = (uint8_t)((address - base) / PAGE + 1);
	want = want == 2 ? 0 : want; /* readable through /proc/PID/mem, and empty */
	assert(page[0] == want && memcmp(page, page + 1, PAGE - 1) == 0);
}

static void *read_answers(void *arg)
{
	static uint8_t buf[FM_MAX_FRAME_BYTES];
	struct reader *r = arg;
	struct fm_frame_header h;
	size_t at = 0;
	uint32_t got = 0;

	while (fm_stream_recv(r->s, &h, buf, sizeof(buf), -1, -1, NULL) == 0) {
		assert(h.type == FM_FRAME_PAGES || h.type == FM_FRAME_PAGES_GONE);
		assert(at < r->n && h.a == r->asked[at].pid && h.b == r->asked[at].address + (uint64_t)got * PAGE);
		bool gone = h.type == FM_FRAME_PAGES_GONE;
		assert(gone ? h.length == 4 : h.length % PAGE == 0);
		uint32_t n = gone ? fm_get_le32(buf) : h.length / PAGE;
		assert(n > 0 && n <= r->asked[at].n_pages - got);
		for (uint32_t i = 0; !gone && i < n; i++)
			check_page(h.b + (uint64_t)i * PAGE, buf + (size_t)i * PAGE);
		got += n;
		if (got == r->asked[at].n_pages) {
			at++;
			got = 0;
		}
	}
	r->half_an_answer = got > 0;
	return NULL;
}

/* {u8 kind, u8 pages, u16 page}: in or around the window; kind 7 takes 12 more bytes as they are. */
static size_t make_requests(const uint8_t *in, size_t n, uint8_t *wire, struct reader *r)
{
	size_t len = 0;

	while (n >= 4 && r->n < ASK_MAX) {
		unsigned kind = in[0] & 7;
		struct ask a = { .pid = NS_PID,
			         .address = base + (uint64_t)(fm_get_le16(in + 2) % 16) * PAGE - 4 * PAGE,
			         .n_pages = in[1] };
		size_t take = 4, payload_len = kind == 6 ? in[1] % 12 : 8;
		uint8_t payload[12] = { 0 };
		if (kind == 7 && n >= 16) {
			a = (struct ask){ .pid = in[1], .address = fm_get_le64(in + 4), .n_pages = fm_get_le32(in + 12) };
			take = 16;
		}
		fm_put_le32(payload, a.n_pages);
		r->asked[r->n++] = a;
		len = fuzz_frame(wire, len, kind == 5 ? (enum fm_frame)in[1] : FM_FRAME_PAGE_REQUEST, a.pid, a.address, payload,
		                 payload_len);
		in += take;
		n -= take;
	}
	return len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t wire[FUZZ_WIRE_MAX];
	static bool made;
	const struct fm_page_source_task me = { .ns_pid = NS_PID, .host_pid = getpid() };
	struct fm_page_source *source = NULL;
	struct fm_error err = FM_ERROR_INIT;
	struct reader r = { 0 };
	pthread_t thread;
	int peer = -1;

	if (!made)
		make_window();
	made = true;
	struct fm_stream *s = fuzz_stream(wire, make_requests(data, size, wire, &r), &peer);
	if (fm_stream_from_fd(peer, &r.s, NULL) < 0 || fm_page_source_new(&me, 1, &source, NULL) < 0 ||
	    pthread_create(&thread, NULL, read_answers, &r) != 0)
		abort();
	int rc = fm_page_source_serve(source, s, -1, &err);
	assert((rc == 0) == (err.code == FM_OK));
	fm_stream_free(s);
	pthread_join(thread, NULL);
	/* The requests' side has ended already: a source that has to wait while sending may give up, and says so. */
	assert(!r.half_an_answer || rc < 0);
	fm_stream_free(r.s);
	fm_page_source_free(source);
	return 0;
}
