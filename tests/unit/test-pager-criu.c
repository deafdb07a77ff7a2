/* SPDX-License-Identifier: MIT */
/*
 * test-pager-criu.c - the pager and the page source under real CRIU (criu-lab.h): two processes with random memory are dumped lazily,
 * restored in another parent, and filled there while they check, move, free and fork. FM_TEST_PAGER_MIB: memory of each (default 50).
 *
 * Needs root, python3, nsenter, and CRIU in FM_CRIU_PREFIX (environment) or the default prefix.
 */
#include "criu-lab.h"

#include <pthread.h>

#include "sync/page-source.h"
#include "sync/pager.h"

#define HANG_MS 120000

/* Each process answers on its own pair of fifos; what it knows of its memory is in its memory. */
static const char program[] =
        "import os, sys, zlib\n"
        "where, mib = sys.argv[1], int(sys.argv[2])\n"
        "def fifo(name):\n"
        "    return os.open('%s/%s' % (where, name), os.O_RDWR)\n"
        "def check():\n"
        "    for i, b in blocks.items():\n"
        "        if zlib.crc32(memoryview(b)[:1 << 20]) != want[i]: return 'block %d of process %d is wrong' % (i, os.getpid())\n"
        "        if any(memoryview(b)[1 << 20:]): return 'new memory of block %d is not empty' % i\n"
        "    return 'ok'\n"
        "def play():\n"
        "    for i in list(blocks):\n"
        "        if i % 3 == 0: blocks[i] += bytes(1 << 20)\n" /* moves */
        "        elif i % 3 == 1: del blocks[i]\n"             /* unmaps */
        "        if i % 16 == 5:\n"
        "            pid = os.fork()\n"
        "            if pid == 0: os._exit(0 if check() == 'ok' else 1)\n"
        "            if os.waitpid(pid, 0)[1] != 0: return 'the memory of a child of process %d is wrong' % os.getpid()\n"
        "    return check()\n"
        "n = '0' if os.fork() else '1'\n"
        "cmd, out = fifo('cmd' + n), fifo('out' + n)\n"
        "blocks = { i: bytearray(os.urandom(1 << 20)) for i in range(mib) }\n"
        "want = { i: zlib.crc32(b) for i, b in blocks.items() }\n"
        "os.write(out, b'ok\\n')\n"
        "while True:\n"
        "    c = os.read(cmd, 1)\n"
        "    os.write(out, ((check() if c == b'c' else play()) + '\\n').encode())\n";

struct guard {
	pthread_mutex_t lock;
	int fds[64];
	uint64_t keys[64];
	size_t n, ever;
};

struct post {
	struct fixture *f;
	struct guard guard;
	int cmd[2], out[2];
	pid_t root;
	struct fm_pager *pager;
	struct fm_page_source *source;
	struct fm_stream *streams[8]; /* pairs: the pager's, the source's */
	pthread_t threads[4];
	size_t n_streams;
};

static int keep(void *userdata, uint64_t key, int fd, struct fm_error *err)
{
	struct guard *g = &((struct post *)userdata)->guard;
	int r = -1;

	pthread_mutex_lock(&g->lock);
	if (g->n < FM_ARRAY_SIZE(g->fds)) {
		g->keys[g->n] = key;
		g->fds[g->n++] = fcntl(fd, F_DUPFD_CLOEXEC, 3);
		g->ever++;
		r = 0;
	}
	pthread_mutex_unlock(&g->lock);
	return r;
}

static int drop(void *userdata, uint64_t key, struct fm_error *err)
{
	struct guard *g = &((struct post *)userdata)->guard;

	pthread_mutex_lock(&g->lock);
	for (size_t i = g->n; i-- > 0;)
		if (key == UINT64_MAX || key == g->keys[i]) {
			close(g->fds[i]);
			g->fds[i] = g->fds[--g->n];
			g->keys[i] = g->keys[g->n];
		}
	pthread_mutex_unlock(&g->lock);
	return 0;
}

static int load(void *userdata, struct fm_pager_range **ret, size_t *ret_n, struct fm_error *err)
{
	struct fm_lazy_range *v = NULL;
	size_t n = 0;

	if (fm_images_lazy_ranges(((struct post *)userdata)->f->incoming, &v, &n, err) < 0)
		return -1;
	*ret = calloc(n ? n : 1, sizeof(**ret));
	for (size_t i = 0; i < n; i++)
		(*ret)[i] = (struct fm_pager_range){ .ns_pid = v[i].ns_pid, .vaddr = v[i].vaddr, .n_pages = v[i].n_pages };
	*ret_n = n;
	free(v);
	return 0;
}

static struct fm_pager_opts opts(struct post *p)
{
	return (struct fm_pager_opts){ .images_dirfd = p->f->incoming, .load_ranges = load, .keep = keep, .drop = drop, .userdata = p };
}

static void answer(struct post *p, int who)
{
	char line[128];
	size_t n = 0;

	do {
		struct pollfd pfd = { .fd = p->out[who], .events = POLLIN };
		assert_int_equal(poll(&pfd, 1, HANG_MS), 1);
		ssize_t r = read(p->out[who], line + n, sizeof(line) - 1 - n);
		assert_true(r > 0);
		n += (size_t)r;
	} while (line[n - 1] != '\n');
	line[n - 1] = 0;
	assert_string_equal(line, "ok");
}

static void ask(struct post *p, char what)
{
	for (int i = 0; i < 2; i++)
		assert_int_equal(write(p->cmd[i], &what, 1), 1);
	for (int i = 0; i < 2; i++)
		answer(p, i);
}

static int open_fifo(const struct post *p, const char *name, int i)
{
	char path[96];

	(void)snprintf(path, sizeof(path), "%s/%s%d", p->f->dir, name, i);
	assert_int_equal(mkfifo(path, 0600), 0);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void start_tree(struct post *p)
{
	struct fixture *f = p->f;
	const char *mib = getenv("FM_TEST_PAGER_MIB");
	char *const argv[] = { (char *)"python3", f->script, f->dir, (char *)(mib ? mib : "50"), NULL };

	for (int i = 0; i < 2; i++) {
		p->cmd[i] = open_fifo(p, "cmd", i);
		p->out[i] = open_fifo(p, "out", i);
	}
	OK(fm_write_file_atomic(f->script, program, sizeof(program) - 1, 0600, &oops));
	parent_start(&f->a);
	parent_start(&f->b);
	p->root = parent_spawn(&f->a, argv);
	assert_true(p->root > 0);
	for (int i = 0; i < 2; i++)
		answer(p, i);
}

static void open_source(struct post *p)
{
	struct fm_page_source_task tasks[8];
	pid_t *tree;
	size_t n;

	OK(fm_proc_tree(p->root, &tree, &n, &oops));
	assert_true(n == 2);
	for (size_t i = 0; i < n; i++) {
		tasks[i].host_pid = tree[i];
		OK(fm_proc_ns_pid(tree[i], &tasks[i].ns_pid, &oops));
	}
	free(tree);
	OK(fm_page_source_new(tasks, n, &p->source, &oops));
}

struct serving {
	struct fm_page_source *source;
	struct fm_stream *s;
};

static void *serve(void *arg)
{
	struct serving *s = arg;
	(void)fm_page_source_serve(s->source, s->s, -1, NULL);
	free(s);
	return NULL;
}

static void connect_source(struct post *p)
{
	struct serving *s = malloc(sizeof(*s));
	int listen_fd = -1, fds[2];
	uint16_t port = 0;
	char address[32];

	OK(fm_tcp_listen("127.0.0.1:0", 4, &listen_fd, &oops));
	OK(fm_tcp_local_port(listen_fd, &port, &oops));
	(void)snprintf(address, sizeof(address), "127.0.0.1:%u", port);
	OK(fm_tcp_connect(address, HANG_MS, &fds[0], &oops));
	OK(fm_accept(listen_fd, HANG_MS, -1, &fds[1], &oops));
	close(listen_fd);
	struct fm_stream **pair = &p->streams[2 * p->n_streams];
	OK(fm_stream_from_fd(fds[0], &pair[0], &oops));
	OK(fm_stream_from_fd(fds[1], &pair[1], &oops));
	*s = (struct serving){ p->source, pair[1] };
	assert_int_equal(pthread_create(&p->threads[p->n_streams++], NULL, serve, s), 0);
	OK(fm_pager_set_stream(p->pager, pair[0], &oops));
}

/* Up to the point where the tree stands restored and stopped. */
static struct fm_criu *restore_lazily(struct post *p)
{
	struct fixture *f = p->f;
	struct fm_pager_opts o = opts(p);
	struct fm_criu_restore_opts r = restore_opts(true);
	pid_t moved = 0;

	start_tree(p);
	dump_and_stop(f, &f->a, p->root, true);
	transfer(f);
	open_source(p);
	OK(fm_pager_new(&o, &p->pager, &oops));
	connect_source(p);
	struct fm_criu *c = criu_in(f, &f->b, f->incoming);
	uint64_t t = fm_now_us();
	OK(fm_criu_restore_begin(c, &r, &moved, &oops));
	OK(fm_pager_wait_kept(p->pager, HANG_MS, -1, &oops));
	print_message("    restore %.1f ms\n", (double)(fm_now_us() - t) / 1e3);
	return c;
}

static void finish(struct post *p)
{
	struct fm_pager_stats st = { 0 };

	OK(fm_pager_wait(p->pager, HANG_MS, -1, &oops));
	fm_pager_stats(p->pager, &st);
	assert_true(st.done);
	assert_int_equal(st.pages_done, st.pages_total);
	print_message("    %llu pages, %llu faults, p50 %llu us, p99 %llu us, %zu descriptors kept\n", (unsigned long long)st.pages_total,
	              (unsigned long long)st.faults, (unsigned long long)st.fault_latency_p50_us,
	              (unsigned long long)st.fault_latency_p99_us, p->guard.ever);
	assert_int_equal(p->guard.n, 0);
	OK(fm_tree_kill(p->root, 10000, &oops));
	ask(p, 'p');
	ask(p, 'c');
}

static int post_setup(void **state)
{
	struct post *p = calloc(1, sizeof(*p));
	void *f = NULL;

	if (setup(&f) < 0)
		return -1;
	p->f = f;
	pthread_mutex_init(&p->guard.lock, NULL);
	*state = p;
	return 0;
}

static int post_teardown(void **state)
{
	struct post *p = *state;
	void *f = p->f;

	fm_pager_free(p->pager);
	(void)drop(p, UINT64_MAX, NULL);
	for (size_t i = 0; i < p->n_streams; i++) {
		fm_stream_shutdown(p->streams[2 * i]);
		pthread_join(p->threads[i], NULL);
		fm_stream_free(p->streams[2 * i]);
		fm_stream_free(p->streams[2 * i + 1]);
	}
	fm_page_source_free(p->source);
	for (int i = 0; i < 2 && p->cmd[i]; i++) {
		close(p->cmd[i]);
		close(p->out[i]);
	}
	(void)teardown(&f);
	free(p);
	return 0;
}

static void test_restore_and_check(void **state)
{
	struct post *p = *state;

	NEED(p->f);
	struct fm_criu *c = restore_lazily(p);
	OK(fm_criu_restore_commit(c, TIMEOUT_MS, &oops));
	fm_criu_free(c);
	uint64_t t = fm_now_us();
	fm_pager_start_background(p->pager);
	ask(p, 'c');
	print_message("    all memory read after %.1f ms\n", (double)(fm_now_us() - t) / 1e3);
	finish(p);
}

/* Without background while the processes move, free and fork. */
static void test_restore_and_play(void **state)
{
	struct post *p = *state;

	NEED(p->f);
	struct fm_criu *c = restore_lazily(p);
	OK(fm_criu_restore_commit(c, TIMEOUT_MS, &oops));
	fm_criu_free(c);
	ask(p, 'p');
	fm_pager_start_background(p->pager);
	finish(p);
}

static void test_crash_while_they_play(void **state)
{
	struct post *p = *state;
	struct fm_pager_opts o = opts(p);
	int fds[64];
	uint64_t keys[64];

	NEED(p->f);
	struct fm_criu *c = restore_lazily(p);
	OK(fm_criu_restore_commit(c, TIMEOUT_MS, &oops));
	fm_criu_free(c);
	for (int i = 0; i < 2; i++)
		assert_int_equal(write(p->cmd[i], "p", 1), 1);
	for (int crash = 0; crash < 2; crash++) {
		fm_stream_shutdown(p->streams[2 * (p->n_streams - 1)]);
		fm_pager_free(p->pager);
		p->pager = NULL;
		size_t n = p->guard.n;
		for (size_t i = 0; i < n; i++) {
			fds[i] = fcntl(p->guard.fds[i], F_DUPFD_CLOEXEC, 3);
			keys[i] = p->guard.keys[i];
		}
		OK(fm_pager_recover(&o, fds, keys, n, &p->pager, &oops));
		connect_source(p);
	}
	fm_pager_start_background(p->pager);
	for (int i = 0; i < 2; i++)
		answer(p, i);
	finish(p);
}

static void test_aborted(void **state)
{
	struct post *p = *state;
	struct fm_error e = FM_ERROR_INIT;

	NEED(p->f);
	struct fm_criu *c = restore_lazily(p);
	OK(fm_criu_restore_abort(c, TIMEOUT_MS, &oops));
	fm_criu_free(c);
	assert_int_equal(fm_pager_wait(p->pager, HANG_MS, -1, &e), -1);
	assert_int_equal(e.code, FM_E_ABORTED);
	OK(fm_tree_continue(p->root, &oops));
	ask(p, 'p');
}

#define POST_TEST(t) cmocka_unit_test_setup_teardown(t, post_setup, post_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		POST_TEST(test_restore_and_check),
		POST_TEST(test_restore_and_play),
		POST_TEST(test_crash_while_they_play),
		POST_TEST(test_aborted),
	};
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
