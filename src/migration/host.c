/* SPDX-License-Identifier: MIT */
/* host.c - see host.h. */
#include "migration/host.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/str.h"
#include "loop/child.h"
#include "migration/instances.h"
#include "migration/pb.h"
#include "migration/revisit-files.h"
#include "monitor/host-facts.h"
#include "network/endpoint.h"

#define TMPFS_MAGIC_OPTIONS "size=%llu,mode=0700,nr_inodes=65536"

static int make_dir(char *dst, size_t cap, const char *base, const char *sub, struct fm_error *err)
{
	if (fm_snprintf(dst, cap, err, "%s%s%s", base, sub[0] ? "/" : "", sub) < 0)
		return -1;
	return fm_mkdir_p(dst, 0700, err);
}

int fm_host_init_dirs(struct fm_host *h, const char *state_dir, const char *run_dir, struct fm_error *err)
{
	_fm_free_ char *state = NULL;
	_fm_free_ char *run = NULL;
	if (fm_mkdir_p(state_dir, 0700, err) < 0 || fm_mkdir_p(run_dir, 0700, err) < 0)
		return -1;
	if (!(state = realpath(state_dir, NULL)) || !(run = realpath(run_dir, NULL)))
		return fm_error_errno(err, errno, "cannot resolve %s or %s", state_dir, run_dir);
	if (make_dir(h->state_dir, sizeof(h->state_dir), state, "", err) < 0 ||
	    make_dir(h->run_dir, sizeof(h->run_dir), run, "", err) < 0 ||
	    make_dir(h->instances_dir, sizeof(h->instances_dir), state, "instances", err) < 0 ||
	    make_dir(h->journals_dir, sizeof(h->journals_dir), state, "migrations", err) < 0 ||
	    make_dir(h->visited_dir, sizeof(h->visited_dir), state, "visited", err) < 0 ||
	    make_dir(h->netns_dir, sizeof(h->netns_dir), run, "netns", err) < 0 ||
	    make_dir(h->images_dir, sizeof(h->images_dir), run, "images", err) < 0)
		return -1;
	(void)snprintf(h->secrets_dir, sizeof(h->secrets_dir), "%s/secrets", h->state_dir);
	return 0;
}

static int unmount_images(const char *path, struct fm_error *err)
{
	/* A failed restore can leave CRIU's cgroup yard mounted below; detach takes it along. */
	if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 && errno != EINVAL && errno != ENOENT)
		return fm_error_errno(err, errno, "cannot unmount the images folder %s", path);
	if (rmdir(path) < 0 && errno != ENOENT)
		return fm_error_errno(err, errno, "cannot remove the images folder %s", path);
	return 0;
}

int fm_host_mount_images(const char *path, uint64_t max_bytes, int *ret_dirfd, struct fm_error *err)
{
	const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
	char options[128], noswap[144];
	(void)snprintf(options, sizeof(options), TMPFS_MAGIC_OPTIONS, (unsigned long long)max_bytes);
	(void)snprintf(noswap, sizeof(noswap), "%s,noswap", options);
	if (fm_mkdir_p(path, 0700, err) < 0)
		return -1;
	/* What was memory is not written to a swap disk, where the kernel can promise that (Linux 6.4). */
	if (mount("fleximigrate", path, "tmpfs", flags, noswap) < 0 && mount("fleximigrate", path, "tmpfs", flags, options) < 0)
		return fm_error_errno(err, errno, "cannot mount a tmpfs for the checkpoint's images at %s", path);
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return fm_error_errno(err, errno, "cannot open %s", path);
	*ret_dirfd = fd;
	return 0;
}

int fm_host_undo(struct fm_host *h, const char *what, const char *arg, struct fm_error *err)
{
	if (fm_streq(what, "instance"))
		return fm_instances_destroy(h, arg, err);
	if (fm_streq(what, "netns"))
		return fm_netns_remove(arg, err);
	if (fm_streq(what, "endpoint"))
		return fm_endpoint_remove(arg, err);
	if (fm_streq(what, "tmpfs"))
		return unmount_images(arg, err);
	if (fm_streq(what, "visited"))
		return fm_revisit_files_remove(h, arg, err);
	return fm_error_set(err, FM_E_INTERNAL, "no undo is known for '%s' (%s)", what, arg);
}

int fm_host_runtime(struct fm_host *h, const char *name, struct fm_runtime **ret, struct fm_error *err)
{
	if (h->runtimes)
		return fm_runtimes_find(h->runtimes, name, ret, err) < 0 ? fm_error_prefix(err, "host '%s'", h->name) : 0;
	if (name && *name && !fm_streq(name, h->runtime->ops->name))
		return fm_error_set(err, FM_E_NOT_FOUND, "host '%s' has no runtime '%s', only %s", h->name, name, h->runtime->ops->name);
	*ret = h->runtime;
	return 0;
}

int fm_host_choose_runtime(struct fm_host *h, const char *asked, const char *name, struct fm_runtime **ret, struct fm_error *err)
{
	struct fm_runtime *rt;
	char version[128];
	if (asked && *asked)
		return fm_host_runtime(h, asked, ret, err);
	if (fm_host_runtime(h, name, &rt, NULL) == 0 && rt->ops->version(rt, version, sizeof(version), NULL) == 0) {
		*ret = rt;
		return 0;
	}
	return fm_host_runtime(h, "", ret, err);
}

/* The runtime's CRIU closes the container's network while it works, with iptables; for nested ones ours leaves that to the fence. */
const char *fm_host_ordinary_problem(void)
{
	return fm_found_in_path("iptables-restore") ? NULL
	                                            : "iptables-restore is missing, without which CRIU does not move ordinary containers";
}

static void report_runtime(const struct fm_host *h, FM_PB(Host) * ret, struct fm_runtime *rt, bool is_usual)
{
	FM_PB(HostRuntime) *r = FM_PB_NEW(HostRuntime, host_runtime);
	struct fm_error e = FM_ERROR_INIT;
	char version[128] = "";
	/* The usual one is a program and was asked at the start: one more process now and then might fall into a freeze. An engine only answers a request. */
	if (is_usual && h->runtime_version[0])
		(void)snprintf(version, sizeof(version), "%s", h->runtime_version);
	else if (rt->ops->version(rt, version, sizeof(version), &e) < 0)
		fm_pb_set(&r->problem, e.message);
	fm_pb_set(&r->name, rt->ops->name);
	fm_pb_set(&r->version, version);
	FM_PB_ADD(ret->runtimes, ret->n_runtimes, r);
}

void fm_host_report_runtimes(struct fm_host *h, FM_PB(Host) * ret)
{
	struct fm_runtime *rt, *usual;
	bool there;
	if (fm_host_runtime(h, "", &usual, NULL) < 0)
		return;
	if (!h->runtimes)
		report_runtime(h, ret, usual, true);
	for (size_t i = 0; h->runtimes && (rt = fm_runtimes_at(h->runtimes, i, &there)); i++)
		if (there)
			report_runtime(h, ret, rt, rt == usual);
}

static void report_machine(const struct fm_machine *m, FM_PB(Host) * ret)
{
	FM_PB(HostFacts) *f = ret->facts = FM_PB_NEW(HostFacts, host_facts);
	fm_pb_set(&f->machine, m->arch);
	fm_pb_set(&f->cpu_vendor, m->cpu_vendor);
	fm_pb_set(&f->cpu_model, m->cpu_model);
	fm_pb_set(&f->cpu_flags, m->cpu_flags);
	f->xsave_bytes = m->xsave_bytes;
	f->xsave_features = m->xsave_features;
	f->page_bytes = m->page_bytes;
	fm_pb_set(&f->cgroup_mode, m->cgroup_mode);
	fm_pb_set(&f->ordinary_problem, fm_host_ordinary_problem());
}

int fm_host_report(struct fm_host *h, FM_PB(Host) * ret, struct fm_error *err)
{
	struct fm_host_facts f;
	if (fm_host_facts_read(h->state_dir, &f, err) < 0)
		return -1;
	ret->cpus = f.cpus;
	ret->memory_total_bytes = f.memory_total_bytes;
	ret->memory_available_bytes = f.memory_available_bytes;
	ret->disk_available_bytes = f.disk_available_bytes;
	fm_pb_set(&ret->name, h->name);
	fm_pb_set(&ret->kernel, f.kernel);
	fm_pb_set(&ret->runtime_version, h->runtime_version);
	fm_pb_set(&ret->criu_version, h->criu_problem.code == FM_OK ? h->criu.version_text : "");
	fm_pb_set(&ret->criu_problem, h->criu_problem.message);
	fm_pb_set(&ret->bridge, h->bridge);
	fm_pb_set(&ret->stream_address, h->stream_host);
	report_machine(&h->machine, ret);
	return 0;
}
