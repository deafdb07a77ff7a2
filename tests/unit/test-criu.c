/* SPDX-License-Identifier: MIT */
/*
 * test-criu.c - real CRIU in real parents (criu-lab.h): freezing, moving, giving up, failing.
 *
 * Lazy restores are served by a small fault server in here, straight from the stopped source's memory, as the product's pager does over
 * the network. FM_TEST_CRIU_BENCH=1 also prints times for Redis with 0, 100 and 512 MB. FM_TEST_CRIU_LOG=<folder> makes CRIU write full
 * logs and keeps the last ones there.
 *
 * Needs root, python3, nsenter, ip, and CRIU in FM_CRIU_PREFIX (environment) or the default prefix.
 */
#include "criu-lab.h"

#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "container/criu-view.h"

/* ---- a fault server ---- */

#define MAX_TASKS     8
#define UNANSWERED_MS 3000 /* that CRIU is given where nobody answers it: all of it is waited for */

struct pager {
	struct fixture *f;
	const struct parent *source;
	int listener, stop;
	pthread_t thread;
	struct fm_lazy_range *ranges;
	size_t n_ranges;
	struct {
		int uffd;
		pid_t ns_pid, source;
	} tasks[MAX_TASKS];
	size_t n_tasks;
	unsigned long faults, pages;
	bool finished;
};

static pid_t tree_pid(const struct parent *p, pid_t ns_pid)
{
	pid_t root = host_pid(p, ROOT_PID), *tree, found = 0;
	size_t n;

	if (root == 0 || fm_proc_tree(root, &tree, &n, NULL) < 0)
		return 0;
	for (size_t i = 0; i < n; i++) {
		pid_t inner;
		if (fm_proc_ns_pid(tree[i], &inner, NULL) == 0 && inner == ns_pid)
			found = tree[i];
	}
	free(tree);
	return found;
}

static bool is_lazy(const struct pager *p, pid_t ns_pid, uint64_t addr)
{
	for (size_t i = 0; i < p->n_ranges; i++)
		if (p->ranges[i].ns_pid == ns_pid && addr >= p->ranges[i].vaddr && addr < p->ranges[i].vaddr + p->ranges[i].n_pages * 4096)
			return true;
	return false;
}

static void serve_events(struct pager *p, size_t task);

/* One page. While the task changes its mappings the kernel says EAGAIN until we have read of it; EEXIST: there already, but
 * somebody may still wait. */
static void fill(struct pager *p, size_t task, uint64_t addr)
{
	unsigned char page[4096] = { 0 };
	struct iovec local = { page, sizeof(page) }, remote = { (void *)(uintptr_t)addr, sizeof(page) };
	struct uffdio_copy copy = { .dst = addr, .src = (uintptr_t)page, .len = sizeof(page) };
	struct uffdio_range range = { .start = addr, .len = sizeof(page) };

	if (is_lazy(p, p->tasks[task].ns_pid, addr) && process_vm_readv(p->tasks[task].source, &local, 1, &remote, 1, 0) != sizeof(page))
		abort();
	while (ioctl(p->tasks[task].uffd, UFFDIO_COPY, &copy) < 0) {
		if (errno != EAGAIN) {
			ioctl(p->tasks[task].uffd, UFFDIO_WAKE, &range);
			return;
		}
		serve_events(p, task);
	}
	p->pages++;
}

/* What the task has given up must not come back. */
static void forget(struct pager *p, pid_t ns_pid, uint64_t start, uint64_t end)
{
	for (size_t i = 0, n = p->n_ranges; i < n; i++) {
		struct fm_lazy_range *r = &p->ranges[i], rest = *r;
		uint64_t r_end = r->vaddr + r->n_pages * 4096;

		if (r->ns_pid != ns_pid || r_end <= start || r->vaddr >= end)
			continue;
		r->n_pages = r->vaddr < start ? (start - r->vaddr) / 4096 : 0;
		if (r_end <= end)
			continue;
		rest.vaddr = end;
		rest.n_pages = (r_end - end) / 4096;
		p->ranges = reallocarray(p->ranges, p->n_ranges + 1, sizeof(*r));
		p->ranges[p->n_ranges++] = rest;
	}
}

static void serve_events(struct pager *p, size_t task)
{
	struct uffd_msg m;

	while (read(p->tasks[task].uffd, &m, sizeof(m)) == sizeof(m)) {
		if (m.event == UFFD_EVENT_PAGEFAULT) {
			p->faults++;
			fill(p, task, m.arg.pagefault.address & ~4095ull);
		} else if (m.event == UFFD_EVENT_REMOVE || m.event == UFFD_EVENT_UNMAP) {
			forget(p, p->tasks[task].ns_pid, m.arg.remove.start, m.arg.remove.end);
		}
	}
}

/* CRIU's side of the socket: per task an int32 pid, and its userfaultfd; at the end the word "RSTF". */
static bool serve_criu(struct pager *p, int sock)
{
	uint32_t word;
	size_t len = 0, n = 1;
	int fd = -1;

	if (recv(sock, &word, sizeof(word), MSG_WAITALL) != sizeof(word))
		return false;
	if (word == 0x52535446) {
		p->finished = true;
		return false;
	}
	char dummy[8];
	if (fm_recv_with_fds(sock, dummy, sizeof(dummy), &len, &fd, &n, NULL) < 0 || n != 1 || p->n_tasks == MAX_TASKS)
		abort();
	fcntl(fd, F_SETFL, O_NONBLOCK);
	p->tasks[p->n_tasks].uffd = fd;
	p->tasks[p->n_tasks].ns_pid = (pid_t)word;
	p->tasks[p->n_tasks++].source = tree_pid(p->source, (pid_t)word);
	return true;
}

static void *pager_thread(void *arg)
{
	struct pager *p = arg;
	int sock = -1;

	for (;;) {
		struct pollfd fds[2 + MAX_TASKS] = { { .fd = p->stop, .events = POLLIN },
			                             { .fd = sock >= 0 ? sock : p->listener, .events = POLLIN } };
		size_t n = p->n_tasks;

		for (size_t i = 0; i < n; i++)
			fds[2 + i] = (struct pollfd){ .fd = p->tasks[i].uffd, .events = POLLIN };
		if (poll(fds, 2 + n, -1) < 0 || fds[0].revents)
			break;
		for (size_t i = 0; i < n; i++)
			if (fds[2 + i].revents & POLLIN)
				serve_events(p, i);
		if (fds[1].revents && sock < 0)
			sock = accept(p->listener, NULL, NULL);
		else if (fds[1].revents && !serve_criu(p, sock)) {
			close(sock);
			sock = -1;
		}
	}
	if (sock >= 0)
		close(sock);
	return NULL;
}

static void pager_start(struct pager *p, struct fixture *f, const struct parent *source)
{
	char path[96];

	*p = (struct pager){ .f = f, .source = source, .stop = eventfd(0, EFD_CLOEXEC) };
	snprintf(path, sizeof(path), "%s/incoming/lazy-pages.socket", f->dir);
	OK(fm_images_lazy_ranges(f->incoming, &p->ranges, &p->n_ranges, &oops));
	OK(fm_unix_listen(path, SOCK_STREAM, 0600, &p->listener, &oops));
	assert_int_equal(pthread_create(&p->thread, NULL, pager_thread, p), 0);
}

/* Everything that is still missing, then let go of the memory. */
static void pager_finish(struct pager *p)
{
	assert_int_equal(write(p->stop, &(uint64_t){ 1 }, 8), 8);
	pthread_join(p->thread, NULL);
	for (size_t t = 0; t < p->n_tasks; t++) {
		/* The list may change under us. */
		for (size_t i = 0; i < p->n_ranges; i++)
			for (uint64_t k = 0; p->ranges[i].ns_pid == p->tasks[t].ns_pid && k < p->ranges[i].n_pages; k++)
				fill(p, t, p->ranges[i].vaddr + k * 4096);
		close(p->tasks[t].uffd);
	}
	print_message("    %zu tasks, %zu ranges, %lu faults, %lu pages copied, finished %d\n", p->n_tasks, p->n_ranges, p->faults,
	              p->pages, p->finished);
	close(p->listener);
	close(p->stop);
	free(p->ranges);
}

/* ---- steps ---- */

static pid_t restore_with(struct fm_criu *c, bool lazy)
{
	struct fm_criu_restore_opts o = restore_opts(lazy);
	uint64_t t0 = fm_now_us();
	pid_t root = 0;

	OK(fm_criu_restore_begin(c, &o, &root, &oops));
	print_message("    restore %.1f ms\n", (double)(fm_now_us() - t0) / 1e3);
	return root;
}

static void commit(struct fm_criu *c)
{
	uint64_t t0 = fm_now_us();

	OK(fm_criu_restore_commit(c, TIMEOUT_MS, &oops));
	print_message("    commit %.1f ms\n", (double)(fm_now_us() - t0) / 1e3);
	fm_criu_free(c);
}

static void assert_error(const struct fm_error *err, enum fm_code code, const char *part)
{
	if (err->code != code || !strstr(err->message, part))
		fail_msg("unexpected error %s: %s (%s)", fm_code_to_string(err->code), err->message, err->hint);
	print_message("    as expected: %s%s%s\n", err->message, err->hint[0] ? " | hint: " : "", err->hint);
}

/* Nobody but PID 1 is left in the parent. */
static void assert_empty(const struct parent *p)
{
	uint64_t deadline = fm_now_ms() + 10000;
	size_t n = 0;

	/* PID 1 reaps by itself, but not before we are told of the end. */
	while (n != 1) {
		pid_t *tree;
		OK(fm_proc_tree(p->pid, &tree, &n, &oops));
		free(tree);
		assert_true(fm_now_ms() < deadline);
	}
}

/* ---- tests ---- */

static void test_refused_dump_leaves_the_tree_stopped(void **state)
{
	struct fixture *f = *state;
	uint64_t before[512];
	char buf[6];

	NEED(f);
	parent_start(&f->a);
	pid_t root = start_victim(f, &f->a);
	int client = parent_connect(&f->a, "127.0.0.1", PORT);
	echo(client, "before");
	for (int lazy = 0; lazy < 2; lazy++) {
		struct fm_criu_dump_opts o = dump_opts(lazy);
		struct fm_criu *c = criu_in(f, &f->a, f->images);

		OK(fm_criu_dump_begin(c, &o, &oops));
		memcpy(before, f->counters, sizeof(before));
		OK(fm_tree_stop(root, &oops));
		OK(fm_criu_dump_end(c, TIMEOUT_MS, &oops));
		OK(fm_tree_wait_stopped(root, 10000, &oops));
		fm_criu_free(c);
		/* The connection lives while the server stands: data is taken (and acknowledged) by the kernel. */
		assert_int_equal(send(client, "during", 6, MSG_NOSIGNAL), 6);
		assert_memory_equal(before, f->counters, sizeof(before));
		check_counters(f);
		OK(fm_tree_continue(root, &oops));
		assert_int_equal(recv(client, buf, 6, MSG_WAITALL), 6);
		assert_memory_equal(buf, "during", 6);
		wait_progress(f);
		echo(client, "after");
	}
	close(client);
}

static void test_refused_dump_without_stop_goes_on(void **state)
{
	struct fixture *f = *state;

	NEED(f);
	parent_start(&f->a);
	start_victim(f, &f->a);
	int client = parent_connect(&f->a, "127.0.0.1", PORT);
	for (int by_free = 0; by_free < 2; by_free++) {
		struct fm_criu_dump_opts o = dump_opts(true);
		struct fm_criu *c = criu_in(f, &f->a, f->images);

		OK(fm_criu_dump_begin(c, &o, &oops));
		if (!by_free)
			OK(fm_criu_dump_end(c, TIMEOUT_MS, &oops));
		fm_criu_free(c);
		wait_progress(f);
		echo(client, "alive");
	}
	/* An unused CRIU leaves nothing, either. */
	fm_criu_free(criu_in(f, &f->a, f->images));
	struct stat st;
	assert_int_equal(fstatat(f->images, ".criu.kdat", &st, 0), -1);
	close(client);
}

struct move {
	struct parent *from, *to;
	const char *from_cable, *to_cable;
	int client;
	bool lazy, prepared;
	bool hidden; /* lazy, and CRIU is not even shown the pages */
};

/* One move, with a client on the connection all the time. */
static pid_t move(struct fixture *f, const struct move *m, pid_t root)
{
	struct fm_criu_dump_opts d = dump_opts(m->lazy && !m->hidden);
	struct fm_criu_restore_opts r = restore_opts(m->lazy);
	struct fm_criu *source, *destination;
	int frozen_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	eventfd_t count;
	struct pager pager;
	uint64_t frozen[512];
	char buf[6];

	folder_clear(f->images);
	folder_clear(f->incoming);
	source = m->hidden ? criu_hiding_in(f, m->from, f->images) : criu_in(f, m->from, f->images);
	destination = criu_in(f, m->to, f->incoming);
	if (m->hidden) {
		d.hide = root;
		d.frozen_fd = frozen_fd;
	}
	if (m->prepared) {
		OK(fm_criu_restore_prepare(destination, &r, &oops));
		OK(fm_criu_dump_prepare(source, &d, &oops));
		wait_progress(f); /* not touched yet */
	}
	network_fence(f, m->from_cable);
	dump_and_stop_opts(source, root, &d);
	assert_int_equal(eventfd_read(frozen_fd, &count) == 0, m->hidden);
	close(frozen_fd);
	memcpy(frozen, f->counters, sizeof(frozen));
	/* The client talks on: what it sends is lost now and comes again. */
	assert_int_equal(send(m->client, "moving", 6, MSG_NOSIGNAL), 6);
	transfer(f);
	if (m->lazy)
		pager_start(&pager, f, m->from);
	pid_t moved = restore_with(destination, m->lazy);
	assert_memory_equal(frozen, f->counters, sizeof(frozen));
	network_open(f, m->to_cable);
	commit(destination);
	/* CRIU is gone, its child now belongs to the parent's PID 1. */
	assert_int_equal(host_pid(m->to, ROOT_PID), moved);
	wait_progress(f);
	assert_int_equal(recv(m->client, buf, 6, MSG_WAITALL), 6);
	assert_memory_equal(buf, "moving", 6);
	echo(m->client, "moved");
	if (m->lazy)
		pager_finish(&pager);
	OK(fm_tree_kill(root, 10000, &oops));
	assert_empty(m->from);
	wait_progress(f);
	echo(m->client, "source gone");
	OK(fm_tree_stop(moved, &oops));
	check_counters(f);
	OK(fm_tree_continue(moved, &oops));
	return moved;
}

static void there_and_back(struct fixture *f, bool lazy, bool prepared, bool hidden)
{
	NEED(f);
	parent_start(&f->a);
	parent_start(&f->b);
	parent_start(&f->client);
	network_make(f);
	pid_t root = start_victim(f, &f->a);
	struct move m = {
		.from = &f->a, .to = &f->b, .from_cable = "ca", .to_cable = "cb", .lazy = lazy, .prepared = prepared, .hidden = hidden
	};
	m.client = parent_connect(&f->client, "10.9.0.2", PORT);
	echo(m.client, "before");
	root = move(f, &m, root);
	/* A new parent: the old one's network still holds the connection of the killed source, in FIN_WAIT1. */
	parent_stop(&f->a);
	parent_start(&f->a);
	network_cable(f, &f->a, "ca");
	m = (struct move){ .from = &f->b,
		           .to = &f->a,
		           .from_cable = "cb",
		           .to_cable = "ca",
		           .client = m.client,
		           .lazy = lazy,
		           .prepared = prepared,
		           .hidden = hidden };
	move(f, &m, root);
	close(m.client);
}

static void test_move_there_and_back(void **state)
{
	there_and_back(*state, false, false, false);
}

static void test_move_lazily_there_and_back(void **state)
{
	there_and_back(*state, true, true, false);
}

static void test_move_hidden_there_and_back(void **state)
{
	if (!fm_criu_view_is_possible()) {
		print_message("    not run: this kernel has no seccomp notifications\n");
		skip();
	}
	there_and_back(*state, true, true, true);
}

/* A process with that much memory in use, and nothing else to do. */
static pid_t start_large(struct fixture *f, unsigned mib)
{
	static const char program[] = "import mmap, sys, time\n"
	                              "n = int(sys.argv[1]) << 20\n"
	                              "m = mmap.mmap(-1, n, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
	                              "m.madvise(15)\n" /* MADV_NOHUGEPAGE: as many entries as pages */
	                              "m[::4096] = b'x' * (n >> 12)\n"
	                              "while True: time.sleep(1000)\n";
	char text[16];

	(void)snprintf(text, sizeof(text), "%u", mib);
	char *const argv[] = { (char *)"python3", (char *)"-c", (char *)program, text, NULL };
	pid_t pid = parent_spawn(&f->a, argv);
	uint64_t deadline = fm_now_ms() + 120000, rss = 0;
	/* Python's own memory counts, too: the last page is there when it sleeps. */
	while ((rss < ((uint64_t)mib << 20) || fm_proc_state(pid) != 'S') && fm_now_ms() < deadline) {
		OK(fm_proc_status_number(pid, "RssAnon:", &rss, &oops));
		rss *= 1024;
		fm_pause_ms(5);
	}
	assert_true(rss >= (uint64_t)mib << 20);
	return pid;
}

/* How long the dump of a process takes, prepared as in a migration; it goes on afterwards. */
static uint64_t time_dump_us(struct fixture *f, pid_t root, bool hidden, uint64_t pages)
{
	struct fm_criu_start_opts so = {
		.ns_pid = f->a.pid, .avoid_pid = 1000, .images_dirfd = f->images, .hide_memory = hidden, .hide_maps = hidden
	};
	struct fm_criu_dump_opts d = dump_opts(!hidden);
	_fm_free_ struct fm_lazy_range *ranges = NULL;
	struct fm_criu *c = NULL;
	uint64_t found = 0;
	size_t n = 0;

	folder_clear(f->images);
	d.hide = hidden ? root : 0;
	OK(fm_criu_start(&f->install, &so, &c, &oops));
	OK(fm_criu_dump_prepare(c, &d, &oops));
	fm_criu_dump_look(c, root);
	uint64_t t0 = fm_now_us();
	OK(fm_criu_dump_begin(c, &d, &oops));
	uint64_t took = fm_now_us() - t0;
	OK(fm_tree_stop(root, &oops));
	OK(fm_criu_dump_verify(c, &oops));
	OK(fm_criu_dump_end(c, TIMEOUT_MS, &oops));
	OK(fm_tree_wait_stopped(root, 10000, &oops));
	OK(fm_tree_continue(root, &oops));
	fm_criu_free(c);
	OK(fm_images_lazy_ranges(f->images, &ranges, &n, &oops));
	for (size_t i = 0; i < n; i++)
		found += ranges[i].n_pages;
	assert_true(found >= pages); /* whoever brings them knows of them */
	return took;
}

/* What the filter is for: sixteen times the memory, and CRIU takes as long. The fastest of some dumps counts: only noise makes one slower. */
static void test_hidden_dump_does_not_grow(void **state)
{
	static const unsigned mib[] = { 16, 256 };
	struct fixture *f = *state;
	uint64_t hidden[2], shown[2];

	NEED(f);
	if (!fm_criu_view_is_possible()) {
		print_message("    not run: this kernel has no seccomp notifications\n");
		skip();
	}
	for (int i = 0; i < 2; i++) {
		parent_start(&f->a);
		pid_t root = start_large(f, mib[i]);
		hidden[i] = shown[i] = UINT64_MAX;
		for (int k = 0; k < 4; k++) {
			uint64_t h = time_dump_us(f, root, true, mib[i] * 256ull),
			         s = k < 2 ? time_dump_us(f, root, false, mib[i] * 256ull) : h;
			hidden[i] = h < hidden[i] ? h : hidden[i];
			shown[i] = k < 2 && s < shown[i] ? s : shown[i];
		}
		print_message("    %u MB: dump %.1f ms, %.1f with its memory shown\n", mib[i], (double)hidden[i] / 1e3,
		              (double)shown[i] / 1e3);
		parent_stop(&f->a);
	}
	assert_true(hidden[1] < 3 * hidden[0]);
}

static void test_aborted_restore_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	struct fm_criu *c;

	NEED(f);
	parent_start(&f->a);
	parent_start(&f->b);
	parent_start(&f->client);
	network_make(f);
	pid_t root = start_victim(f, &f->a);
	int client = parent_connect(&f->client, "10.9.0.2", PORT);
	echo(client, "before");
	network_fence(f, "ca");
	dump_and_stop(f, &f->a, root, false);
	transfer(f);
	for (int how = 0; how < 3; how++) {
		c = criu_in(f, &f->b, f->incoming);
		pid_t copy = restore_with(c, false);
		if (how == 0)
			OK(fm_criu_restore_abort(c, TIMEOUT_MS, &oops));
		if (how == 1) { /* its parent dies, as when the agent is killed */
			struct fm_error err = FM_ERROR_INIT;
			kill(fm_criu_pid(c), SIGKILL);
			assert_int_equal(fm_criu_restore_commit(c, TIMEOUT_MS, &err), -1);
			assert_error(&err, FM_E_UNAVAILABLE, "killed by signal 9");
			OK(fm_tree_kill(copy, 10000, &oops));
		}
		fm_criu_free(c);
		assert_empty(&f->b);
	}
	check_counters(f);
	network_open(f, "ca");
	OK(fm_tree_continue(root, &oops));
	wait_progress(f);
	echo(client, "never left");
	close(client);
}

/* The agent itself is killed, in the two moments in which it holds CRIU: the source's tree goes on, the destination's vanishes. */
static void test_killed_agent(void **state)
{
	struct fixture *f = *state;

	NEED(f);
	parent_start(&f->a);
	parent_start(&f->b);
	pid_t root = start_victim(f, &f->a);
	for (int restoring = 0; restoring < 2; restoring++) {
		int status = 0;

		if (restoring) {
			dump_and_stop(f, &f->a, root, false);
			transfer(f);
		}
		pid_t agent = fork();
		if (agent == 0) {
			struct fm_criu_start_opts so = { .ns_pid = restoring ? f->b.pid : f->a.pid,
				                         .avoid_pid = 1000,
				                         .images_dirfd = restoring ? f->incoming : f->images };
			struct fm_criu_restore_opts r = restore_opts(false);
			struct fm_criu_dump_opts d = dump_opts(true);
			struct fm_criu *c = NULL;
			pid_t copy = 0;

			if (fm_criu_start(&f->install, &so, &c, NULL) < 0 ||
			    (restoring ? fm_criu_restore_begin(c, &r, &copy, NULL) : fm_criu_dump_begin(c, &d, NULL)) < 0)
				_exit(1);
			raise(SIGKILL);
		}
		assert_int_equal(waitpid(agent, &status, 0), agent);
		assert_true(WIFSIGNALED(status));
		if (restoring) {
			assert_empty(&f->b);
			OK(fm_tree_continue(root, &oops));
		}
		wait_progress(f);
	}
	OK(fm_tree_stop(root, &oops));
	check_counters(f);
}

static void test_missing_pid(void **state)
{
	struct fixture *f = *state;
	struct fm_criu_dump_opts o = { .root_ns_pid = 777, .timeout_ms = TIMEOUT_MS, .cancel_fd = -1 };
	struct fm_error err = FM_ERROR_INIT;

	NEED(f);
	parent_start(&f->a);
	struct fm_criu *c = criu_in(f, &f->a, f->images);
	assert_int_equal(fm_criu_dump_begin(c, &o, &err), -1);
	assert_error(&err, FM_E_NOT_FOUND, "Error (");
	/* Nothing more can be asked of it. */
	err = FM_ERROR_INIT;
	assert_int_equal(fm_criu_dump_begin(c, &o, &err), -1);
	assert_int_equal(fm_criu_dump_end(c, 1000, NULL), -1);
	fm_criu_free(c);
	assert_empty(&f->a);
}

static void test_deadline_and_cancel(void **state)
{
	struct fixture *f = *state;

	NEED(f);
	parent_start(&f->a);
	pid_t root = start_victim(f, &f->a);
	int client = parent_connect(&f->a, "127.0.0.1", PORT);
	int cancel = eventfd(1, EFD_CLOEXEC);
	for (int how = 0; how < 3; how++) {
		struct fm_criu_dump_opts o = dump_opts(true);
		struct fm_error err = FM_ERROR_INIT;
		struct fm_criu *c = criu_in(f, &f->a, f->images);

		if (how < 2) /* else in the preparation */
			OK(fm_criu_dump_prepare(c, &o, &oops));
		o.timeout_ms = how == 0 ? 1 : TIMEOUT_MS;
		o.cancel_fd = how == 0 ? -1 : cancel;
		assert_int_equal(fm_criu_dump_begin(c, &o, &err), -1);
		assert_error(&err, how ? FM_E_CANCELLED : FM_E_DEADLINE_EXCEEDED, "could not dump process 500");
		fm_criu_free(c);
		wait_progress(f);
		echo(client, "still here");
	}
	OK(fm_tree_stop(root, &oops));
	check_counters(f);
	close(cancel);
	close(client);
}

static void test_killed_criu(void **state)
{
	struct fixture *f = *state;

	NEED(f);
	parent_start(&f->a);
	pid_t root = start_victim(f, &f->a);
	for (int stop = 0; stop < 2; stop++) {
		struct fm_criu_dump_opts o = dump_opts(true);
		struct fm_error err = FM_ERROR_INIT;
		struct fm_criu *c = criu_in(f, &f->a, f->images);

		OK(fm_criu_dump_begin(c, &o, &oops));
		if (stop)
			OK(fm_tree_stop(root, &oops));
		kill(fm_criu_pid(c), SIGKILL);
		assert_int_equal(fm_criu_dump_end(c, TIMEOUT_MS, &err), -1);
		assert_error(&err, FM_E_UNAVAILABLE, "killed by signal 9");
		fm_criu_free(c);
		if (stop) {
			OK(fm_tree_wait_stopped(root, 10000, &oops));
			check_counters(f);
			OK(fm_tree_continue(root, &oops));
		}
		wait_progress(f);
	}
}

static void test_restore_failures(void **state)
{
	struct fixture *f = *state;
	struct fm_criu_restore_opts o = { .timeout_ms = TIMEOUT_MS, .cancel_fd = -1 };
	struct fm_error err = FM_ERROR_INIT;
	pid_t root = 0;

	NEED(f);
	parent_start(&f->a);
	pid_t source = start_victim(f, &f->a);
	dump_and_stop(f, &f->a, source, false);

	/* its pid is taken: by the source */
	transfer(f);
	struct fm_criu *c = criu_in(f, &f->a, f->incoming);
	assert_int_equal(fm_criu_restore_begin(c, &o, &root, &err), -1);
	assert_error(&err, FM_E_FAILED_PRECONDITION, "500");
	fm_criu_free(c);
	assert_int_equal(host_pid(&f->a, ROOT_PID), source);

	/* lazily, but nobody serves */
	parent_start(&f->b);
	o.lazy = true;
	err = FM_ERROR_INIT;
	c = criu_in(f, &f->b, f->incoming);
	assert_int_equal(fm_criu_restore_begin(c, &o, &root, &err), -1);
	assert_error(&err, FM_E_FAILED_PRECONDITION, "lazy");
	fm_criu_free(c);
	assert_empty(&f->b);

	/* lazily, and the server does not answer: CRIU waits for it at the latest when it is to give up, until the deadline */
	struct pager p;
	struct fm_criu_restore_opts unanswered = { .lazy = true, .timeout_ms = UNANSWERED_MS };
	pager_start(&p, f, &f->a);
	assert_int_equal(write(p.stop, &(uint64_t){ 1 }, 8), 8);
	pthread_join(p.thread, NULL);
	int cancel = eventfd(0, EFD_CLOEXEC);
	c = criu_in(f, &f->b, f->incoming);
	o.cancel_fd = unanswered.cancel_fd = cancel;
	err = FM_ERROR_INIT;
	uint64_t began = fm_now_ms();
	if (fm_criu_restore_begin(c, &unanswered, &root, &err) < 0)
		assert_error(&err, FM_E_DEADLINE_EXCEEDED, "could not restore");
	else /* CRIU does not wait for answers: it may get this far */
		OK(fm_criu_restore_abort(c, UNANSWERED_MS, &oops));
	assert_true(fm_now_ms() - began < 2 * UNANSWERED_MS + TIMEOUT_MS);
	fm_criu_free(c);
	assert_empty(&f->b);
	close(p.listener);
	close(p.stop);
	free(p.ranges);

	/* cancelled */
	assert_int_equal(write(cancel, &(uint64_t){ 1 }, 8), 8);
	o.lazy = false;
	err = FM_ERROR_INIT;
	c = criu_in(f, &f->b, f->incoming);
	assert_int_equal(fm_criu_restore_begin(c, &o, &root, &err), -1);
	assert_error(&err, FM_E_CANCELLED, "could not restore");
	fm_criu_free(c);
	assert_empty(&f->b);
	close(cancel);
	o.cancel_fd = -1;

	/* prepared, but the images never come; come, but are none; are there already */
	for (int how = 0; how < 3; how++) {
		struct fm_criu_restore_opts ready = restore_opts(false);

		err = FM_ERROR_INIT;
		if (how < 2)
			folder_clear(f->incoming);
		c = criu_in(f, &f->b, f->incoming);
		if (how < 2) {
			OK(fm_criu_restore_prepare(c, &ready, &oops));
			assert_int_equal(faccessat(f->incoming, "inventory.img", F_OK, 0), -1);
		} else {
			assert_int_equal(fm_criu_restore_prepare(c, &ready, &err), -1);
			assert_error(&err, FM_E_ALREADY_EXISTS, "pipe");
			OK(fm_criu_restore_begin(c, &ready, &root, &oops));
		}
		if (how == 1) {
			assert_int_equal(fm_criu_restore_begin(c, &ready, &root, &err), -1);
			assert_error(&err, FM_E_NOT_FOUND, "inventory.img");
			transfer(f);
		}
		fm_criu_free(c);
		assert_empty(&f->b);
	}

	/* images that are none */
	int fd = openat(f->incoming, "inventory.img", O_WRONLY | O_TRUNC | O_CLOEXEC);
	assert_int_equal(write(fd, "nonsense nonsense", 17), 17);
	close(fd);
	err = FM_ERROR_INIT;
	c = criu_in(f, &f->b, f->incoming);
	assert_int_equal(fm_criu_restore_begin(c, &o, &root, &err), -1);
	assert_error(&err, FM_E_FAILED_PRECONDITION, "Error (");
	fm_criu_free(c);
	assert_empty(&f->b);

	OK(fm_tree_continue(source, &oops));
	wait_progress(f);
}

/* A container that wants to be root on the host: everything it could make CRIU load or run. */
static void hostile(void *arg)
{
	struct fixture *f = arg;
	char opts[320];

	snprintf(opts, sizeof(opts), "lowerdir=/etc,upperdir=%s/upper,workdir=%s/work", f->dir, f->dir);
	if (mount("overlay", "/etc", "overlay", 0, opts) < 0 || mount("tmpfs", "/run", "tmpfs", 0, NULL) < 0)
		_exit(95);
	mkdir("/etc/criu", 0755);
	int fd = open("/etc/criu/default.conf", O_WRONLY | O_CREAT, 0644);
	(void)!write(fd, "no-such-option\n", 15);
	fd = open("/run/criu.kdat", O_WRONLY | O_CREAT, 0644);
	(void)!write(fd, "forged", 6);
	fd = open("/etc/ld.so.preload", O_WRONLY | O_CREAT, 0644);
	(void)!write(fd, "libcmocka.so.0\n", 15);
}

static void test_container_cannot_inject(void **state)
{
	struct fixture *f = *state;
	char path[96];
	_fm_free_ char *maps = NULL, *forged = NULL, *victim_maps = NULL;

	NEED(f);
	snprintf(path, sizeof(path), "%s/upper", f->dir);
	mkdir(path, 0755);
	snprintf(path, sizeof(path), "%s/work", f->dir);
	mkdir(path, 0755);
	parent_start_prepared(&f->a, hostile, f);
	pid_t root = start_victim(f, &f->a);
	struct fm_criu *c = criu_in(f, &f->a, f->images);
	snprintf(path, sizeof(path), "/proc/%d/maps", (int)root);
	OK(fm_read_file(path, 1u << 20, &victim_maps, NULL, &oops));
	assert_non_null(strstr(victim_maps, "cmocka")); /* the trap works … */
	snprintf(path, sizeof(path), "/proc/%d/maps", (int)fm_criu_pid(c));
	OK(fm_read_file(path, 1u << 20, &maps, NULL, &oops));
	assert_null(strstr(maps, "cmocka")); /* … for others */
	assert_non_null(strstr(maps, "libc.so.6"));
	snprintf(path, sizeof(path), "/proc/%d/root/run/criu.kdat", (int)f->a.pid);
	OK(fm_read_file(path, 64, &forged, NULL, &oops));
	assert_string_equal(forged, "forged");
	fm_criu_free(c);
	dump_and_stop(f, &f->a, root, true);
	run("test \"$(ls -A /proc/%d/root/run)\" = criu.kdat", (int)f->a.pid);
}

static void no_proc(void *arg)
{
	if (umount2("/proc", MNT_DETACH) < 0)
		_exit(96);
}

static void test_start_failures(void **state)
{
	struct fixture *f = *state;
	struct fm_criu_start_opts o = { .images_dirfd = f->images };
	struct fm_criu_install broken = { .version = 0 };
	struct fm_error err = FM_ERROR_INIT;
	struct fm_criu *c = NULL;

	NEED(f);
	/* no /proc of its own (the host's is below) */
	parent_start_prepared(&f->a, no_proc, NULL);
	o.ns_pid = f->a.pid;
	assert_int_equal(fm_criu_start(&f->install, &o, &c, &err), -1);
	assert_error(&err, FM_E_FAILED_PRECONDITION, "/proc");
	/* no such process */
	parent_stop(&f->a);
	err = FM_ERROR_INIT;
	assert_int_equal(fm_criu_start(&f->install, &o, &c, &err), -1);
	assert_error(&err, FM_E_NOT_FOUND, "there is no process");
	/* a user namespace */
	pid_t pid = clone_process(CLONE_NEWUSER | CLONE_NEWPID, 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pause();
		_exit(0);
	}
	if (pid > 0) {
		o.ns_pid = pid;
		err = FM_ERROR_INIT;
		assert_int_equal(fm_criu_start(&f->install, &o, &c, &err), -1);
		assert_error(&err, FM_E_FAILED_PRECONDITION, "user namespace");
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	/* not installed */
	strcpy(broken.prefix, f->dir);
	o.ns_pid = 0;
	err = FM_ERROR_INIT;
	assert_int_equal(fm_criu_start(&broken, &o, &c, &err), -1);
	assert_error(&err, FM_E_NOT_FOUND, "not installed");
	err = FM_ERROR_INIT;
	assert_int_equal(fm_criu_install_probe(f->dir, 0, &broken, &err), -1);
	assert_error(&err, FM_E_FAILED_PRECONDITION, "not installed");
	/* too old */
	err = FM_ERROR_INIT;
	assert_int_equal(fm_criu_install_probe(f->install.prefix, 990000, &broken, &err), -1);
	assert_error(&err, FM_E_FAILED_PRECONDITION, "too old");
	/* outside all namespaces it starts as well */
	OK(fm_criu_start(&f->install, &o, &c, &oops));
	fm_criu_free(c);
}

static void test_cgroups(void **state)
{
	struct fixture *f = *state;
	char group[128], path[192], pid[16];
	_fm_free_ char *ours = NULL, *theirs = NULL;

	NEED(f);
	parent_start(&f->a);
	pid_t root = start_victim(f, &f->a);
	dump_and_stop(f, &f->a, root, false);
	transfer(f);
	parent_start(&f->b);
	snprintf(group, sizeof(group), "/sys/fs/cgroup/pids/fm-test-%d", (int)getpid());
	if (mkdir(group, 0755) < 0) {
		snprintf(group, sizeof(group), "/sys/fs/cgroup/fm-test-%d", (int)getpid());
		if (mkdir(group, 0755) < 0) {
			print_message("skipped: no cgroups here\n");
			skip();
		}
	}
	snprintf(path, sizeof(path), "%s/cgroup.procs", group);
	snprintf(pid, sizeof(pid), "%d", (int)f->b.pid);
	OK(fm_write_file(path, pid, &oops));

	struct fm_criu_start_opts so = { .ns_pid = f->b.pid, .avoid_pid = 1000, .join_cgroups = true, .images_dirfd = f->incoming };
	struct fm_criu_restore_opts o = { .timeout_ms = TIMEOUT_MS, .cancel_fd = -1 };
	struct fm_criu *c = NULL;
	pid_t moved = 0;
	OK(fm_criu_start(&f->install, &so, &c, &oops));
	OK(fm_criu_restore_begin(c, &o, &moved, &oops));
	commit(c);
	snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)f->b.pid);
	OK(fm_read_file(path, 65536, &ours, NULL, &oops));
	snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)moved);
	OK(fm_read_file(path, 65536, &theirs, NULL, &oops));
	assert_string_equal(ours, theirs);
	assert_non_null(strstr(theirs, "fm-test-"));
	parent_stop(&f->b);
	uint64_t deadline = fm_now_ms() + 10000;
	while (rmdir(group) < 0 && fm_now_ms() < deadline)
		fm_pause_ms(5);
	assert_int_equal(access(group, F_OK), -1);
}

/* ---- Redis, with times ---- */

static void redis_command(int fd, const char *text, const char *want)
{
	char buf[256];

	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
	assert_int_equal(poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 60000), 1);
	ssize_t n = recv(fd, buf, sizeof(buf) - 1, 0);
	assert_true(n > 0);
	buf[n] = '\0';
	if (strncmp(buf, want, strlen(want)) != 0)
		fail_msg("Redis answered %s", buf);
}

/* Values that no deduplication or compression makes smaller, 64 to a round trip. */
static void redis_fill(int fd, int mib)
{
	unsigned char value[1024];
	uint64_t x = 88172645463325252ull;
	char reply[64 * 5];

	for (int i = 0; i < mib * 16; i++) {
		struct fm_buf b = FM_BUF_INIT;

		for (int j = 0; j < 64; j++) {
			for (size_t k = 0; k < sizeof(value); k += 8) {
				x ^= x << 13;
				x ^= x >> 7;
				x ^= x << 17;
				memcpy(value + k, &x, 8);
			}
			fm_buf_addf(&b, "*3\r\n$3\r\nSET\r\n$12\r\nkey:%08d\r\n$1024\r\n", 64 * i + j);
			fm_buf_add(&b, value, sizeof(value));
			fm_buf_add(&b, "\r\n", 2);
		}
		assert_int_equal(send(fd, b.data, b.len, MSG_NOSIGNAL), (ssize_t)b.len);
		assert_int_equal(recv(fd, reply, sizeof(reply), MSG_WAITALL), sizeof(reply));
		fm_buf_done(&b);
	}
}

static void redis_digest(int fd, char digest[64])
{
	ssize_t n;

	assert_int_equal(send(fd, "DEBUG DIGEST\r\n", 14, MSG_NOSIGNAL), 14);
	assert_int_equal(poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 60000), 1);
	n = recv(fd, digest, 63, 0);
	assert_true(n > 0);
	digest[n] = '\0';
}

static bool have_capability(int number)
{
	_fm_free_ char *status = NULL;
	char *line;

	if (fm_read_file("/proc/self/status", 65536, &status, NULL, NULL) < 0 || !(line = strstr(status, "\nCapEff:\t")))
		return false;
	return strtoull(line + strlen("\nCapEff:\t"), NULL, 16) >> number & 1;
}

static void redis_move(struct fixture *f, int mib)
{
	/* Without any capability, and where CRIU has CAP_SYS_RESOURCE (it reads the limits of others' processes), not as root either. */
	const char *uid = have_capability(24) ? "--reuid=65534" : "--reuid=0";
	char *const argv[] = { (char *)"setpriv",
		               (char *)uid,
		               (char *)"--clear-groups",
		               (char *)"--bounding-set=-all",
		               (char *)"--no-new-privs",
		               (char *)"redis-server",
		               (char *)"--save",
		               (char *)"",
		               (char *)"--protected-mode",
		               (char *)"no",
		               (char *)"--port",
		               (char *)"7000",
		               (char *)"--dir",
		               (char *)"/tmp",
		               (char *)"--enable-debug-command",
		               (char *)"yes",
		               NULL };
	char before[64], after[64];
	struct fm_criu_dump_opts d = dump_opts(true);
	struct fm_criu_restore_opts r = restore_opts(true);
	struct fm_criu *source, *destination;
	struct pager pager;
	int client = -1;

	print_message("  %d MB\n", mib);
	parent_start(&f->a);
	parent_start(&f->b);
	parent_start(&f->client);
	network_make(f);
	pid_t root = parent_spawn(&f->a, argv);
	uint64_t deadline = fm_now_ms() + 20000;
	while ((client = parent_try_connect(&f->client, "10.9.0.2", PORT)) < 0 && fm_now_ms() < deadline)
		fm_pause_ms(20);
	assert_true(client >= 0);
	redis_fill(client, mib);
	redis_digest(client, before);
	folder_clear(f->images);
	folder_clear(f->incoming);
	source = criu_in(f, &f->a, f->images);
	destination = criu_in(f, &f->b, f->incoming);
	OK(fm_criu_restore_prepare(destination, &r, &oops));
	OK(fm_criu_dump_prepare(source, &d, &oops));
	network_fence(f, "ca");
	dump_and_stop_with(source, root, true);
	transfer(f);
	pager_start(&pager, f, &f->a);
	restore_with(destination, true);
	network_open(f, "cb");
	commit(destination);
	redis_command(client, "PING\r\n", "+PONG");
	redis_digest(client, after);
	assert_string_equal(before, after);
	pager_finish(&pager);
	OK(fm_tree_kill(root, 10000, &oops));
	redis_command(client, "PING\r\n", "+PONG");
	close(client);
	parent_stop(&f->a);
	parent_stop(&f->b);
	parent_stop(&f->client);
}

static void test_redis(void **state)
{
	struct fixture *f = *state;

	NEED(f);
	if (!usable("redis-server") || !usable("setpriv")) {
		print_message("skipped: no redis-server\n");
		skip();
	}
	redis_move(f, 0);
	if (getenv("FM_TEST_CRIU_BENCH")) {
		redis_move(f, 0);
		redis_move(f, 100);
		redis_move(f, 512);
		redis_move(f, 512);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_refused_dump_leaves_the_tree_stopped, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused_dump_without_stop_goes_on, setup, teardown),
		cmocka_unit_test_setup_teardown(test_move_there_and_back, setup, teardown),
		cmocka_unit_test_setup_teardown(test_move_lazily_there_and_back, setup, teardown),
		cmocka_unit_test_setup_teardown(test_move_hidden_there_and_back, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hidden_dump_does_not_grow, setup, teardown),
		cmocka_unit_test_setup_teardown(test_aborted_restore_leaves_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_killed_agent, setup, teardown),
		cmocka_unit_test_setup_teardown(test_missing_pid, setup, teardown),
		cmocka_unit_test_setup_teardown(test_deadline_and_cancel, setup, teardown),
		cmocka_unit_test_setup_teardown(test_killed_criu, setup, teardown),
		cmocka_unit_test_setup_teardown(test_restore_failures, setup, teardown),
		cmocka_unit_test_setup_teardown(test_container_cannot_inject, setup, teardown),
		cmocka_unit_test_setup_teardown(test_start_failures, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cgroups, setup, teardown),
		cmocka_unit_test_setup_teardown(test_redis, setup, teardown),
	};

	cmocka_set_test_filter(getenv("FM_TEST_FILTER"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
