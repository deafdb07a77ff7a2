/* SPDX-License-Identifier: MIT */
/*
 * test-monitor.c - host and containers, sampled: from folders that look like /proc and control groups of v1, hybrid and v2, where every figure is known; and from this machine's own control groups with
 * processes that use a known amount.
 */
#include "check.h"

#include <fcntl.h>
#include <math.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#include "basic/cleanup.h"
#include "basic/str.h"
#include "group-lab.h"
#include "monitor/monitor.h"

#define MB         (1u << 20)
#define SLOW_EVERY (FM_MONITOR_SLOW_MS / FM_MONITOR_PERIOD_MS)

/* ---------------------------------------------------------------- folders */

struct fixture {
	struct group group;
	char root[64];
	struct fm_monitor *m;
};

/* In place: who has it open sees what is new. */
static void put(const struct fixture *f, const char *path, const char *text)
{
	_fm_free_ char *full = fm_xasprintf("%s/%s", f->root, path);
	_fm_free_ char *folder = fm_xstrdup(full);

	*strrchr(folder, '/') = '\0';
	assert_ok(fm_mkdir_p(folder, 0700, &err));
	_fm_close_ int fd = open(full, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	(void)snprintf(f->root, sizeof(f->root), "/tmp/fm-test-monitor-XXXXXX");
	assert_non_null(mkdtemp(f->root));
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fm_monitor_free(f->m);
	group_remove(&f->group);
	assert_ok(fm_remove_tree(f->root, &err));
	free(f);
	return 0;
}

static void open_monitor(struct fixture *f)
{
	assert_ok(fm_monitor_new(&(struct fm_monitor_options){ .root = f->root, .no_dirty = true }, &f->m, &err));
}

static void host_files(const struct fixture *f, bool later)
{
	put(f, "proc/stat", later ? "cpu  130 0 100 870 0 0 0 0 0 0\n" : "cpu  100 0 100 800 0 0 0 0 0 0\n");
	put(f, "proc/loadavg", "1.25 0.58 0.59 1/467 12345\n");
	put(f, "proc/meminfo", "MemTotal:       1000 kB\nMemFree:  100 kB\nMemAvailable:    250 kB\nSwapTotal: 80 kB\nSwapFree: 50 kB\n");
	put(f, "proc/vmstat", later ? "pgfault 3000\npgmajfault 300\n" : "pgfault 1000\npgmajfault 200\n");
	put(f, "proc/diskstats",
	    later ? "8 0 sda 1 1 4000 1 1 1 2000 1 1 100000 1\n8 1 sda1 1 1 4000 1 1 1 2000 1 1 100000 1\n 7 0 loop0 1 1 9999 1 1 1 99999 "
	            "1 1 99 1\n"
	          : "8 0 sda 1 1 2000 1 1 1 1000 1 1 1000 1\n8 1 sda1 1 1 2000 1 1 1 1000 1 1 1000 1\n 7 0 loop0 1 1 1 1 1 1 1 1 1 1 1\n");
	put(f, "sys/block/sda/device", "");
	put(f, "proc/self/net/dev",
	    later ? "a\nb\n lo: 9999 0 0 0 0 0 0 0 9999 0\n eth0: 3000 0 0 0 0 0 0 0 7000 0\n fm1: 500 0 0 0 0 0 0 0 100 0\n"
	          : "a\nb\n lo: 0 0 0 0 0 0 0 0 0 0\n eth0: 1000 0 0 0 0 0 0 0 3000 0\n fm1: 100 0 0 0 0 0 0 0 0 0\n");
	put(f, "proc/self/net/snmp", "Tcp: A CurrEstab\nTcp: 1 17\n");
	put(f, "proc/self/ns/net", "");
	put(f, "proc/pressure/cpu", "some avg10=1.00 avg60=2.50 avg300=0.00 total=5\n");
	put(f, "proc/pressure/io", "some avg10=1.00 avg60=0.00 avg300=0.00 total=5\n");
}

static void test_host(void **state)
{
	struct fixture *f = *state;
	struct fm_host_usage u;
	struct fm_series s;

	host_files(f, false);
	open_monitor(f);
	fm_monitor_host(f->m, &u);
	assert_true(u.at_unix_ms == 0 && isnan(u.cpu_percent));
	fm_monitor_sample(f->m);
	fm_monitor_host(f->m, &u);
	assert_true(isnan(u.cpu_percent) && isnan(u.page_faults_per_s) && u.disk_read_bytes_per_s == FM_USAGE_UNKNOWN &&
	            u.network_in_bytes_per_s == FM_USAGE_UNKNOWN);
	assert_true(u.memory_total_bytes == 1024000 && u.memory_available_bytes == 256000 && u.swap_used_bytes == 30 * 1024 &&
	            u.connections == 17);
	host_files(f, true);
	fm_pause_ms(30);
	fm_monitor_sample(f->m);
	fm_monitor_host(f->m, &u);
	assert_true(fabs(u.cpu_percent - 30) < 1e-9 && fabs(u.load1 - 1.25) < 1e-9);
	assert_true(fabs(u.page_faults_per_s / u.major_page_faults_per_s - 20) < 1e-6 && u.major_page_faults_per_s > 0);
	/* the disk, and not its part or what is no disk: 2000 sectors read and 1000 written; it was always busy */
	assert_true(u.disk_read_bytes_per_s > 0 && fabs((double)u.disk_read_bytes_per_s / (double)u.disk_write_bytes_per_s - 2) < 0.01);
	assert_true(u.disk_utilisation_percent == 100);
	assert_true(fabs((double)u.network_out_bytes_per_s / (double)u.network_in_bytes_per_s - 4100.0 / 2400) <
	            0.02); /* eth0 and fm1, which is nobody's */
	assert_true(u.network_capacity_bytes_per_s == FM_USAGE_UNKNOWN);
	assert_true(u.cpu_pressure_percent == 2.5 && u.io_pressure_percent == 0 &&
	            isnan(u.memory_pressure_percent)); /* none: unknown; 0 is 0 */
	assert_true(fm_monitor_history(f->m, NULL, FM_USAGE_MEMORY, &s) && fabs(fm_ring_mean(&s.recent, 0) - 75) < 0.01);
	assert_false(fm_monitor_history(f->m, "nobody", FM_USAGE_CPU, &s));
}

/* Nothing at all is there: everything is unknown, and nothing fails. */
static void test_nothing(void **state)
{
	struct fixture *f = *state;
	struct fm_monitor_subject s = { .name = "c", .pid = 7 };
	struct fm_container_usage c;
	struct fm_host_usage u;

	open_monitor(f);
	fm_monitor_watch(f->m, &s, 1);
	fm_monitor_sample(f->m);
	fm_monitor_sample(f->m);
	fm_monitor_host(f->m, &u);
	assert_true(isnan(u.cpu_percent) && isnan(u.load1) && u.memory_total_bytes == FM_USAGE_UNKNOWN &&
	            u.connections == FM_USAGE_UNKNOWN);
	assert_true(fm_monitor_container(f->m, "c", &c));
	assert_true(isnan(c.cpu_cores) && c.memory_bytes == FM_USAGE_UNKNOWN && c.threads == FM_USAGE_UNKNOWN &&
	            isnan(c.throttled_percent) && c.restarts == 0);
	assert_false(fm_monitor_container(f->m, "d", &c));
}

enum mode { V1, HYBRID, V2 };

static void mount_lines(const struct fixture *f, enum mode mode)
{
	_fm_buf_ struct fm_buf b = FM_BUF_INIT;

	for (int i = 0; mode != V2 && i < 2; i++)
		fm_buf_addf(&b, "%d 1 0:%d / %s/cg/%s rw - cgroup cgroup rw,%s\n", 30 + i, 30 + i, f->root, i ? "memory" : "cpu",
		            i ? "memory" : "cpu,cpuacct");
	if (mode != V2)
		fm_buf_addf(&b, "40 1 0:40 / %s/cg/blkio rw - cgroup cgroup rw,blkio\n41 1 0:41 / %s/cg/pids rw - cgroup cgroup rw,pids\n",
		            f->root, f->root);
	if (mode != V1)
		fm_buf_addf(&b, "50 1 0:50 / %s/cg/unified rw - cgroup2 cgroup2 rw\n", f->root);
	put(f, "proc/self/mountinfo", b.data);
	put(f, "proc/7/cgroup",
	    mode == V2       ? "0::/box\n"
	    : mode == HYBRID ? "6:cpu,cpuacct:/box\n5:memory:/box\n4:blkio:/box\n3:pids:/box\n0::/box\n"
	                     : "6:cpu,cpuacct:/box\n5:memory:/box\n4:blkio:/box\n3:pids:/\n");
}

static void group_files(const struct fixture *f, enum mode mode, bool later)
{
	mount_lines(f, mode);
	if (mode != V2) {
		put(f, "cg/cpu/box/cgroup.procs", "7\n");
		put(f, "cg/memory/box/cgroup.procs", "7\n");
		put(f, "cg/blkio/box/cgroup.procs", "7\n");
		put(f, "cg/pids/box/cgroup.procs", "7\n");
		put(f, "cg/cpu/box/cpuacct.usage", later ? "1000000000\n" : "0\n");
		put(f, "cg/cpu/box/cpu.stat",
		    later ? "nr_periods 30\nnr_throttled 15\nthrottled_time 7\n" : "nr_periods 10\nnr_throttled 10\nthrottled_time 5\n");
		put(f, "cg/memory/box/memory.usage_in_bytes", "5000\n");
		put(f, "cg/memory/box/memory.stat",
		    later ? "inactive_file 1\ntotal_pgfault 500\ntotal_pgmajfault 50\ntotal_inactive_file 2000\n"
		          : "inactive_file 1\ntotal_pgfault 100\ntotal_pgmajfault 10\ntotal_inactive_file 2000\n");
		put(f, "cg/blkio/box/blkio.throttle.io_service_bytes",
		    later ? "8:0 Read 30000\n8:0 Write 20000\n" : "8:0 Read 10000\n8:0 Write 10000\n");
		put(f, "cg/pids/box/pids.current", "4\n");
	}
	if (mode != V1) {
		put(f, "cg/unified/box/cgroup.procs", "7\n");
		put(f, "cg/unified/box/cpu.pressure", "some avg10=0.00 avg60=7.00 avg300=0.00 total=5\n");
		put(f, "cg/unified/box/cpu.stat",
		    later ? "usage_usec 1000000\nnr_periods 30\nnr_throttled 15\n" : "usage_usec 0\nnr_periods 10\nnr_throttled 10\n");
	}
	if (mode == V2) {
		put(f, "cg/unified/box/memory.current", "5000\n");
		put(f, "cg/unified/box/memory.stat",
		    later ? "inactive_file 2000\npgfault 500\npgmajfault 50\n" : "inactive_file 2000\npgfault 100\npgmajfault 10\n");
		put(f, "cg/unified/box/io.stat", later ? "8:0 rbytes=30000 wbytes=20000\n" : "8:0 rbytes=10000 wbytes=10000\n");
		put(f, "cg/unified/box/pids.current", "4\n");
	}
	put(f, "proc/7/ns/net", "");
	put(f, "proc/7/net/snmp", "Tcp: A CurrEstab\nTcp: 1 3\n");
	put(f, "proc/7/net/dev", later ? " lo: 5 0 0 0 0 0 0 0 5 0\n eth0: 9000 0 0 0 0 0 0 0 1000 0\n" : " eth0: 0 0 0 0 0 0 0 0 0 0\n");
}

/* The two samples with rates that the slow ones need. */
static void two_samples(struct fixture *f, enum mode mode, struct fm_monitor_subject s, struct fm_container_usage *ret)
{
	host_files(f, false);
	group_files(f, mode, false);
	open_monitor(f);
	fm_monitor_watch(f->m, &s, 1);
	fm_monitor_sample(f->m);
	group_files(f, mode, true);
	host_files(f, true);
	fm_pause_ms(30);
	for (int i = 0; i < SLOW_EVERY; i++) {
		fm_monitor_sample(f->m);
		assert_true(fm_monitor_container(f->m, s.name, ret));
		if (i == 0)
			assert_true(ret->cpu_cores > 1 && ret->cpu_cores < 1 / 0.03 && isnan(ret->page_faults_per_s)); /* its turn comes */
	}
}

static void check_common(const struct fm_container_usage *c)
{
	assert_int_equal(c->memory_bytes, 5000);
	assert_int_equal(c->working_set_bytes, 3000);
	assert_true(fabs(c->page_faults_per_s / c->major_page_faults_per_s - 10) < 1e-6);
	assert_true(fabs((double)c->disk_read_bytes_per_s / (double)c->disk_write_bytes_per_s - 2) < 0.01);
	assert_true(fabs(c->throttled_percent - 25) < 1e-6);
	assert_int_equal(c->connections, 3);
	assert_true(c->dirty_bytes_per_s == FM_USAGE_UNKNOWN);
}

static void test_v1(void **state)
{
	struct fm_container_usage c;

	two_samples(*state, V1, (struct fm_monitor_subject){ .name = "c", .pid = 7 }, &c);
	check_common(&c);
	assert_true(c.threads == FM_USAGE_UNKNOWN); /* the root's number is not the container's */
	assert_true(isnan(c.cpu_pressure_percent)); /* v1 has none */
	/* no endpoint of ours: its own counters, of the sample that is its turn */
	assert_true(fabs((double)c.network_in_bytes_per_s / (double)c.network_out_bytes_per_s - 9) < 0.01);
}

static void test_hybrid(void **state)
{
	struct fm_container_usage c;

	two_samples(*state, HYBRID, (struct fm_monitor_subject){ .name = "c", .pid = 7, .n_ifnames = 1, .ifnames = { "fm1" } }, &c);
	check_common(&c);
	assert_int_equal(c.threads, 4);
	assert_true(c.cpu_pressure_percent == 7 && isnan(c.memory_pressure_percent));
	struct fm_host_usage u;
	fm_monitor_host(((struct fixture *)*state)->m, &u);
}

static void test_v2(void **state)
{
	struct fm_container_usage c;

	two_samples(*state, V2, (struct fm_monitor_subject){ .name = "c", .pid = 7 }, &c);
	check_common(&c);
	assert_int_equal(c.threads, 4);
	assert_true(c.cpu_pressure_percent == 7);
}

/* Its endpoints' host ends say what goes in and out, and are not the host's own network. */
static void test_endpoints(void **state)
{
	struct fixture *f = *state;
	struct fm_monitor_subject s = { .name = "c", .pid = 7, .n_ifnames = 1, .ifnames = { "fm1" } };
	struct fm_container_usage c;
	struct fm_host_usage u;

	host_files(f, false);
	group_files(f, V2, false);
	open_monitor(f);
	fm_monitor_watch(f->m, &s, 1);
	fm_monitor_sample(f->m);
	fm_monitor_sample(f->m); /* the first opened its groups */
	host_files(f, true);
	fm_pause_ms(30);
	fm_monitor_sample(f->m);
	assert_true(fm_monitor_container(f->m, "c", &c));
	fm_monitor_host(f->m, &u);
	assert_true(c.network_in_bytes_per_s > 0 && fabs((double)c.network_out_bytes_per_s / (double)c.network_in_bytes_per_s - 4) < 0.05);
	assert_true(fabs((double)u.network_out_bytes_per_s / (double)u.network_in_bytes_per_s - 2) < 0.01); /* eth0 alone */
	/* an endpoint that is not there: not known, and not zero */
	(void)snprintf(s.ifnames[0], sizeof(s.ifnames[0]), "fm2");
	fm_monitor_watch(f->m, &s, 1);
	fm_monitor_sample(f->m);
	fm_monitor_sample(f->m);
	assert_true(fm_monitor_container(f->m, "c", &c) && c.network_in_bytes_per_s == FM_USAGE_UNKNOWN);
}

static void test_come_and_go(void **state)
{
	struct fixture *f = *state;
	struct fm_monitor_subject s[3] = { { .name = "b", .pid = 7 }, { .name = "a", .pid = 7 }, { .name = "a", .pid = 7 } };
	struct fm_container_usage c;

	host_files(f, false);
	group_files(f, V2, false);
	open_monitor(f);
	fm_monitor_watch(f->m, s, 3); /* twice the same: one */
	fm_monitor_sample(f->m);
	fm_monitor_watch(f->m, s, 1);
	assert_true(fm_monitor_container(f->m, "b", &c) && !fm_monitor_container(f->m, "a", &c));
	s[0].pid = 0; /* stopped, and started again */
	fm_monitor_watch(f->m, s, 1);
	fm_monitor_sample(f->m);
	assert_true(fm_monitor_container(f->m, "b", &c) && c.restarts == 0 && c.memory_bytes == FM_USAGE_UNKNOWN);
	s[0].pid = 8;
	put(f, "proc/8/cgroup", "0::/box\n");
	fm_monitor_watch(f->m, s, 1);
	fm_monitor_sample(f->m);
	assert_true(fm_monitor_container(f->m, "b", &c) && c.restarts == 1 && c.memory_bytes == 5000);
	s[0].pid = 9; /* no groups of its own: the root's are not asked */
	put(f, "proc/9/cgroup", "0::/\n");
	put(f, "cg/unified/memory.current", "77\n");
	fm_monitor_watch(f->m, s, 1);
	fm_monitor_sample(f->m);
	assert_true(fm_monitor_container(f->m, "b", &c) && c.restarts == 2 && c.memory_bytes == FM_USAGE_UNKNOWN);
	fm_monitor_watch(f->m, NULL, 0);
	assert_false(fm_monitor_container(f->m, "b", &c));
}

/* ---------------------------------------------------------------- this machine */

static uint64_t used_us(pid_t pid)
{
	clockid_t clock;
	struct timespec t;

	assert_int_equal(clock_getcpuclockid(pid, &clock), 0);
	assert_sys(clock_gettime(clock, &t));
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void half_busy(void *arg)
{
	uint8_t *m = mmap(NULL, 32 * MB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (;;) {
		uint64_t until = fm_now_us() + 20000;
		for (size_t i = 0; fm_now_us() < until; i = (i + 4096) % (32 * MB))
			m[i]++;
		fm_pause_ms(20);
	}
}

static void samples(struct fm_monitor *m, unsigned n, unsigned every_ms)
{
	for (unsigned i = 0; i < n; i++) {
		fm_pause_ms(every_ms);
		fm_monitor_sample(m);
	}
}

#define NEED_GROUPS(g)                                                                                                                     \
	do {                                                                                                                               \
		if (!group_make(&(g), "fm-test-monitor")) {                                                                                \
			print_message("skipped: no control groups can be made here\n");                                                    \
			skip();                                                                                                            \
		}                                                                                                                          \
	} while (0)

/* By the kernel's own clock of the process, so that a busy machine does not matter. */
static void test_real_processor_and_memory(void **state)
{
	struct fixture *f = *state;
	struct fm_container_usage c;
	struct fm_series past;

	NEED_GROUPS(f->group);
	assert_true(group_start(&f->group, half_busy, NULL));
	assert_ok(fm_monitor_new(&(struct fm_monitor_options){ 0 }, &f->m, &err));
	fm_monitor_watch(f->m, &(struct fm_monitor_subject){ .name = "c", .pid = f->group.pid }, 1);
	samples(f->m, 2, 50); /* opened, and counters begun */
	uint64_t used = used_us(f->group.pid), began = fm_now_us();
	samples(f->m, 1, 1000);
	double truth = (double)(used_us(f->group.pid) - used) / (double)(fm_now_us() - began);
	assert_true(fm_monitor_container(f->m, "c", &c));
	print_message("cores %.3f, by its own clock %.3f; memory %llu, working set %llu\n", c.cpu_cores, truth,
	              (unsigned long long)c.memory_bytes, (unsigned long long)c.working_set_bytes);
	assert_true(truth > 0.02 && fabs(c.cpu_cores - truth) < 0.05 * truth + 0.02);
	samples(f->m, SLOW_EVERY, 20);
	assert_true(fm_monitor_container(f->m, "c", &c));
	if (c.memory_bytes == FM_USAGE_UNKNOWN) {
		print_message("skipped: this machine's groups do not count memory\n");
		skip();
	}
	assert_in_range(c.memory_bytes, 32 * MB, 48 * MB);
	assert_in_range(c.working_set_bytes, 32 * MB, c.memory_bytes);
	assert_int_equal(c.threads, 1);
	assert_true(c.throttled_percent == 0);
	assert_true(c.connections == FM_USAGE_UNKNOWN &&
	            c.network_in_bytes_per_s == FM_USAGE_UNKNOWN); /* the host's namespace says nothing of it */
	assert_true(fm_monitor_history(f->m, "c", FM_USAGE_MEMORY, &past) && fm_ring_mean(&past.recent, 0) >= 8 * MB);
#ifdef __SANITIZE_ADDRESS__
	print_message("not looked at how fast it writes: most of what is mapped in it is the sanitizer's, and empty\n");
	c.dirty_bytes_per_s = 32 * MB;
#endif
	uint64_t deadline = fm_now_ms() + 30000; /* it is left alone at first, and looked at twice */
	while (c.dirty_bytes_per_s == FM_USAGE_UNKNOWN && fm_now_ms() < deadline) {
		samples(f->m, 1, 100);
		assert_true(fm_monitor_container(f->m, "c", &c));
	}
	assert_in_range(c.dirty_bytes_per_s, 16 * MB, 40 * MB); /* all of its 32 MB in a second */
	group_remove(&f->group);
	samples(f->m, 2, 20); /* its groups are gone */
	assert_true(fm_monitor_container(f->m, "c", &c));
	fm_monitor_watch(f->m, NULL, 0);
}

struct writing {
	char path[128];
	int go[2];
};

/* 8 MB written and 4 read past the page cache, when it is told to. */
static void use_disk(void *arg)
{
	const struct writing *w = arg;
	uint8_t *m = mmap(NULL, MB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = open(w->path, O_RDWR | O_DIRECT | O_CLOEXEC);

	if (fd < 0 || read(w->go[0], m, 1) != 1)
		_exit(1);
	for (int i = 0; i < 8; i++)
		if (pwrite(fd, m, MB, (off_t)i * MB) != MB || pread(fd, m, MB / 2, (off_t)i * MB) != MB / 2)
			_exit(1);
	for (;;)
		(void)pause();
}

static void test_real_disk(void **state)
{
	struct fixture *f = *state;
	struct fm_container_usage c = { 0 };
	struct writing w;
	uint64_t deadline = fm_now_ms() + 20000, written = 0, in = 0;

	(void)snprintf(w.path, sizeof(w.path), "/var/tmp/fm-test-monitor-%d", (int)getpid());
	_fm_close_ int fd = open(w.path, O_RDWR | O_CREAT | O_EXCL | O_DIRECT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, 8 * MB) < 0) {
		print_message("skipped: /var/tmp is on no disk that can be written past the page cache\n");
		skip();
	}
	if (!group_make(&f->group, "fm-test-monitor")) {
		(void)unlink(w.path);
		print_message("skipped: no control groups can be made here\n");
		skip();
	}
	assert_sys(pipe(w.go));
	assert_ok(fm_monitor_new(&(struct fm_monitor_options){ .no_dirty = true }, &f->m, &err));
	assert_true(group_start(&f->group, use_disk, &w));
	fm_monitor_watch(f->m, &(struct fm_monitor_subject){ .name = "c", .pid = f->group.pid }, 1);
	fm_monitor_sample(f->m);
	uint64_t before_us = fm_now_us();
	samples(f->m, SLOW_EVERY, 5); /* from here on there are rates, if there are any */
	assert_true(fm_monitor_container(f->m, "c", &c));
	bool counted = c.disk_write_bytes_per_s != FM_USAGE_UNKNOWN;
	assert_int_equal(write(w.go[1], "x", 1), 1);
	while (counted && fm_now_ms() < deadline && (written < 7 * MB || in < 3 * MB)) {
		before_us = fm_now_us();
		samples(f->m, SLOW_EVERY, 20);
		assert_true(fm_monitor_container(f->m, "c", &c));
		double passed = (double)(fm_now_us() - before_us) / 1e6;
		written += (uint64_t)((double)c.disk_write_bytes_per_s * passed);
		in += (uint64_t)((double)c.disk_read_bytes_per_s * passed);
	}
	group_remove(&f->group);
	(void)unlink(w.path);
	close(w.go[0]);
	close(w.go[1]);
	if (!counted) {
		print_message("skipped: this kernel's groups do not count what is read and written\n");
		skip();
	}
	print_message("written %.1f MB of 8.4, read %.1f MB of 4.2\n", (double)written / 1e6, (double)in / 1e6);
	assert_in_range(written, 7 * MB, 10 * MB);
	assert_in_range(in, 3 * MB, 5 * MB);
}

/* A kernel whose v1 groups count only what they limit says nothing there, and that is not "nothing was read": its processes are asked. */
static void test_v1_without_disk(void **state)
{
	struct fixture *f = *state;
	struct fm_monitor_subject s = { .name = "c", .pid = 7 };
	struct fm_container_usage c;

	host_files(f, false);
	group_files(f, V1, false);
	put(f, "cg/blkio/box/blkio.throttle.io_service_bytes", "Total 0\n");
	open_monitor(f);
	fm_monitor_watch(f->m, &s, 1);
	samples(f->m, 1 + 2 * SLOW_EVERY, 1);
	assert_true(fm_monitor_container(f->m, "c", &c) && c.disk_read_bytes_per_s == FM_USAGE_UNKNOWN &&
	            c.disk_write_bytes_per_s == FM_USAGE_UNKNOWN);
	put(f, "proc/7/io", "rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 1000\nwrite_bytes: 1000\ncancelled_write_bytes: 0\n");
	samples(f->m, SLOW_EVERY, 1);
	put(f, "proc/7/io", "rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 300000\nwrite_bytes: 600000\ncancelled_write_bytes: 0\n");
	samples(f->m, SLOW_EVERY, 10);
	assert_true(fm_monitor_container(f->m, "c", &c) && c.disk_read_bytes_per_s > 0);
	assert_true(fabs((double)c.disk_write_bytes_per_s / (double)c.disk_read_bytes_per_s - 599.0 / 299) < 0.01);
}

/* Two ends of a connection to itself, in a network namespace of its own. */
static void connect_to_itself(void *arg)
{
	int *ready = arg;
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	struct ifreq ifr = { .ifr_name = "lo", .ifr_flags = IFF_UP };

	if (unshare(CLONE_NEWNET) < 0)
		_exit(1);
	int s = socket(AF_INET, SOCK_STREAM, 0), c = socket(AF_INET, SOCK_STREAM, 0);
	if (ioctl(s, SIOCSIFFLAGS, &ifr) < 0 || bind(s, (struct sockaddr *)&a, len) < 0 || listen(s, 1) < 0 ||
	    getsockname(s, (struct sockaddr *)&a, &len) < 0 || connect(c, (struct sockaddr *)&a, len) < 0 || accept(s, NULL, NULL) < 0 ||
	    write(ready[1], "x", 1) != 1)
		_exit(1);
	for (;;)
		(void)pause();
}

static void test_real_connections(void **state)
{
	struct fixture *f = *state;
	struct fm_container_usage c;
	int ready[2];
	char byte;

	NEED_GROUPS(f->group);
	assert_sys(pipe(ready));
	assert_true(group_start(&f->group, connect_to_itself, ready));
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1) {
		group_remove(&f->group);
		close(ready[0]);
		print_message("skipped: no network namespace can be made here\n");
		skip();
	}
	close(ready[0]);
	assert_ok(fm_monitor_new(&(struct fm_monitor_options){ .no_dirty = true }, &f->m, &err));
	fm_monitor_watch(f->m, &(struct fm_monitor_subject){ .name = "c", .pid = f->group.pid }, 1);
	samples(f->m, 1 + SLOW_EVERY, 5);
	assert_true(fm_monitor_container(f->m, "c", &c));
	assert_int_equal(c.connections, 2);            /* both ends are in it */
	assert_int_equal(c.network_in_bytes_per_s, 0); /* what it says to itself does not count */
	group_remove(&f->group);
}

static void test_real_host(void **state)
{
	struct fixture *f = *state;
	struct fm_host_usage u;

	assert_ok(fm_monitor_new(&(struct fm_monitor_options){ 0 }, &f->m, &err));
	samples(f->m, 2, 200);
	fm_monitor_host(f->m, &u);
	assert_true(u.cpu_percent >= 0 && u.cpu_percent <= 100 && u.load1 >= 0 && u.page_faults_per_s >= 0);
	assert_true(u.memory_total_bytes > 16 * MB && u.memory_available_bytes <= u.memory_total_bytes &&
	            u.connections != FM_USAGE_UNKNOWN);
	print_message("processor %.1f %%, network in %llu/s, capacity %llu, disk %.1f %%, pressure %.2f\n", u.cpu_percent,
	              (unsigned long long)u.network_in_bytes_per_s, (unsigned long long)u.network_capacity_bytes_per_s,
	              u.disk_utilisation_percent, u.cpu_pressure_percent);
	uint64_t reads = fm_monitor_reads(f->m);
	fm_monitor_sample(f->m);
	assert_in_range(fm_monitor_reads(f->m) - reads, 8, 60); /* of a host, however many processes there are */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_host, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_v1, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hybrid, setup, teardown),
		cmocka_unit_test_setup_teardown(test_v2, setup, teardown),
		cmocka_unit_test_setup_teardown(test_endpoints, setup, teardown),
		cmocka_unit_test_setup_teardown(test_come_and_go, setup, teardown),
		cmocka_unit_test_setup_teardown(test_v1_without_disk, setup, teardown),
		cmocka_unit_test_setup_teardown(test_real_host, setup, teardown),
		cmocka_unit_test_setup_teardown(test_real_processor_and_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(test_real_disk, setup, teardown),
		cmocka_unit_test_setup_teardown(test_real_connections, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
