/* SPDX-License-Identifier: MIT */
/* restore-gate.c - see restore-gate.h. The runtime's restore blocks, so it runs on a thread of its own; the pipes are opened read-write here so that neither end waits for the other. */
#include "migration/restore-gate.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/str.h"
#include "container/bundle.h"

struct fm_restore_gate {
	struct fm_host *h;
	char *instance, *images, *dir, *script_config;
	int said_fd, go_fd, log_fd;
	int timeout_ms;
	pthread_t thread;
	bool started, answered;
	atomic_bool finished;
	int rc;
	struct fm_error error;
};

/* CRIU runs every script for every stage; only post-restore matters. `read` gets end of file if the agent dies. */
static const char script_text[] = "#!/bin/sh\n"
                                  "[ \"$CRTOOLS_SCRIPT_ACTION\" = post-restore ] || exit 0\n"
                                  "echo restored >'%s/gate.said' || exit 1\n"
                                  "read -r answer <'%s/gate.go' || exit 1\n"
                                  "[ \"$answer\" = go ]\n";

static void *run_restore(void *arg)
{
	struct fm_restore_gate *g = arg;
	_fm_free_ char *bundle = fm_xasprintf("%s/bundle", g->dir);
	struct fm_restore_opts o = { .image_dir = g->images,
		                     .work_dir = g->images,
		                     .bundle = bundle,
		                     .criu_config = g->script_config,
		                     .tcp_established = true,
		                     .timeout_ms = g->timeout_ms,
		                     .log_fd = g->log_fd };
	struct fm_runtime *rt; /* engines' ordinary containers are not moved: it is the usual one's */
	g->rc = fm_host_runtime(g->h, "", &rt, &g->error);
	if (g->rc == 0)
		g->rc = rt->ops->restore(rt, g->instance, &o, &g->error);
	atomic_store(&g->finished, true);
	return NULL;
}

static int open_fifo(const char *dir, const char *name, int *ret, struct fm_error *err)
{
	_fm_free_ char *path = fm_xasprintf("%s/%s", dir, name);
	if (mkfifo(path, 0600) < 0 && errno != EEXIST)
		return fm_error_errno(err, errno, "cannot make %s", path);
	*ret = open(path, O_RDWR | O_CLOEXEC);
	return *ret < 0 ? fm_error_errno(err, errno, "cannot open %s", path) : 0;
}

/*
 * With unified cgroups runc puts CRIU, and so what it restores, into the container's cgroup, and CRIU is to leave it at that: by itself it would make the source's cgroup here, with the values that it had
 * there, "frozen" among them, and wait for ever for what it restored in it (CRIU 4.2). A cgroup namespace, however, it makes only when cgroups are its business.
 */
static int leaves_cgroups(const struct fm_restore_gate *g, bool *ret, struct fm_error *err)
{
	struct fm_bundle_info info __attribute__((cleanup(fm_bundle_info_done))) = { 0 };
	_fm_free_ char *bundle = fm_xasprintf("%s/bundle", g->dir);
	_fm_free_ char *config = NULL;
	struct statfs fs;

	if (fm_bundle_read(bundle, &config, &info, err) < 0)
		return -1;
	*ret = statfs("/sys/fs/cgroup", &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC && !info.cgroup_namespace;
	return 0;
}

static int write_script(struct fm_restore_gate *g, struct fm_error *err)
{
	/* The images folder is noexec on purpose; the instance's folder is not. */
	_fm_free_ char *script = fm_xasprintf("%s/restore-gate.sh", g->dir);
	_fm_free_ char *text = fm_xasprintf(script_text, g->dir, g->dir);
	bool leave_cgroups;
	if (leaves_cgroups(g, &leave_cgroups, err) < 0)
		return -1;
	_fm_free_ char *config = fm_xasprintf("action-script %s\n%s", script, leave_cgroups ? "manage-cgroups=ignore\n" : "");
	g->script_config = fm_xasprintf("%s/restore-gate.conf", g->dir);
	if (fm_write_file_atomic(script, text, strlen(text), 0700, err) < 0)
		return -1;
	return fm_write_file_atomic(g->script_config, config, strlen(config), 0600, err);
}

static int wait_said(struct fm_restore_gate *g, int timeout_ms, int cancel_fd, struct fm_error *err)
{
	uint64_t deadline = fm_now_ms() + (uint64_t)timeout_ms;
	for (;;) {
		struct pollfd p[2] = { { .fd = g->said_fd, .events = POLLIN }, { .fd = cancel_fd, .events = POLLIN } };
		int n = poll(p, 2, 50); /* the slice only bounds how late an early failure of the runtime is noticed */
		if (n > 0 && (p[0].revents & POLLIN))
			return 0;
		if (n > 0 && (p[1].revents & POLLIN))
			return fm_error_set(err, FM_E_CANCELLED, "cancelled during the restore");
		if (atomic_load(&g->finished)) {
			if (g->rc < 0)
				*err = g->error;
			else
				(void)fm_error_set(err, FM_E_INTERNAL, "the runtime's restore went on without waiting for the commit");
			return -1;
		}
		if (!fm_deadline_left_ms(deadline))
			return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "the runtime did not restore within %d ms", timeout_ms);
	}
}

int fm_restore_gate_begin(struct fm_host *h, const char *instance, const char *images_path, const char *instance_dir, int timeout_ms,
                          int cancel_fd, struct fm_restore_gate **ret, struct fm_error *err)
{
	struct fm_restore_gate *g = calloc(1, sizeof(*g));
	if (!g)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	g->h = h;
	g->said_fd = g->go_fd = g->log_fd = -1;
	g->timeout_ms = timeout_ms;
	g->instance = fm_xstrdup(instance);
	g->images = fm_xstrdup(images_path);
	g->dir = fm_xstrdup(instance_dir);
	g->log_fd = open("/dev/null", O_WRONLY | O_CLOEXEC); /* as instances.c gives every ordinary container */
	if (write_script(g, err) < 0 || open_fifo(g->dir, "gate.said", &g->said_fd, err) < 0 ||
	    open_fifo(g->dir, "gate.go", &g->go_fd, err) < 0) {
		fm_restore_gate_free(g);
		return -1;
	}
	int rc = pthread_create(&g->thread, NULL, run_restore, g);
	if (rc != 0) {
		(void)fm_error_errno(err, rc, "cannot start a thread for the restore");
		fm_restore_gate_free(g);
		return -1;
	}
	g->started = true;
	if (wait_said(g, timeout_ms, cancel_fd, err) < 0) {
		fm_restore_gate_free(g);
		return -1;
	}
	*ret = g;
	return 0;
}

static void answer(struct fm_restore_gate *g, const char *word)
{
	if (!g->answered && g->go_fd >= 0)
		(void)fm_write_full(g->go_fd, word, strlen(word), NULL);
	g->answered = true;
	if (g->started)
		pthread_join(g->thread, NULL);
	g->started = false;
}

int fm_restore_gate_commit(struct fm_restore_gate *g, int timeout_ms, pid_t *ret_root, struct fm_error *err)
{
	struct fm_instance i;
	answer(g, "go\n");
	if (g->rc < 0) {
		*err = g->error;
		return -1;
	}
	if (g->h->runtime->ops->state(g->h->runtime, g->instance, &i, err) < 0)
		return -1;
	*ret_root = i.pid;
	return 0;
}

void fm_restore_gate_abort(struct fm_restore_gate *g)
{
	if (g)
		answer(g, "no\n");
}

void fm_restore_gate_free(struct fm_restore_gate *g)
{
	if (!g)
		return;
	answer(g, "no\n");
	if (g->said_fd >= 0)
		(void)close(g->said_fd);
	if (g->go_fd >= 0)
		(void)close(g->go_fd);
	if (g->log_fd >= 0)
		(void)close(g->log_fd);
	free(g->instance);
	free(g->images);
	free(g->dir);
	free(g->script_config);
	free(g);
}
