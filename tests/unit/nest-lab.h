/* SPDX-License-Identifier: MIT */
/*
 * nest-lab.h - what the container tests share: the nest and the probe as static programs, and a tiny root filesystem with the probe in it.
 *
 * The programs come from the environment (FLEXIMIGRATE_NEST, FLEXIMIGRATE_NEST_PROBE; the build sets them) or are compiled here, beside
 * this file's sources. Everything lies in one mkdtemp folder, which lab_done removes.
 */
#ifndef FM_TESTS_NEST_LAB_H
#define FM_TESTS_NEST_LAB_H

#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "basic/io.h"
#include "basic/str.h"
#include "loop/child.h"

struct lab {
	char dir[64];
	char *nest;
	char *probe;
};

static inline int lab_copy(const char *from, const char *to)
{
	_fm_free_ char *data = NULL;
	size_t len = 0;

	if (fm_read_file(from, 16u << 20, &data, &len, NULL) < 0)
		return -1;
	return fm_write_file_atomic(to, data, len, 0755, NULL);
}

/* Compiles sources (NULL-terminated, names in the project) into a static program. */
static inline char *lab_build(const struct lab *lab, const char *name, const char *const *sources)
{
	_fm_free_ char *here = fm_xstrdup(__FILE__);
	_fm_free_ char *project = fm_xasprintf("%s/../..", dirname(here));
	_fm_cleanup_(fm_strv_freep) char **argv = NULL;
	char *out = fm_xasprintf("%s/%s", lab->dir, name), *include = fm_xasprintf("-I%s/src", project);
	const char *const fixed[] = { "cc", "-static", "-O1", "-std=gnu11", "-D_GNU_SOURCE", include, "-o", out };
	struct fm_child_opts opts = { .timeout_ms = 120000 };
	struct fm_child_result r = { 0 };
	struct fm_error err = FM_ERROR_INIT;

	for (size_t i = 0; i < FM_ARRAY_SIZE(fixed); i++)
		fm_strv_add(&argv, fixed[i]);
	free(include);
	for (size_t i = 0; sources[i]; i++) {
		_fm_free_ char *path = fm_xasprintf("%s/%s", project, sources[i]);

		fm_strv_add(&argv, path);
	}
	if (fm_child_run(argv, &opts, &r, &err) < 0) {
		printf("cannot build %s: %s\n", name, err.message);
		free(out);
		return NULL;
	}
	fm_child_result_done(&r);
	return out;
}

static inline void lab_done(struct lab *lab)
{
	if (lab->dir[0] && fm_remove_tree(lab->dir, NULL) < 0)
		printf("could not remove %s\n", lab->dir);
	free(lab->nest);
	free(lab->probe);
	*lab = (struct lab){ 0 };
}

/* 0, or -1 with the reason printed: then the tests skip. */
static inline int lab_init(struct lab *lab)
{
	static const char *const nest_sources[] = { "src/container/nest-main.c", "src/container/nest-io.c", "src/container/nest-control.c",
		                                    NULL };
	static const char *const probe_sources[] = { "tests/unit/nest-probe.c", NULL };
	const char *nest = getenv("FLEXIMIGRATE_NEST"), *probe = getenv("FLEXIMIGRATE_NEST_PROBE");

	*lab = (struct lab){ .dir = "/tmp/fm-nest-XXXXXX" };
	if (geteuid() != 0) {
		printf("needs root (namespaces)\n");
		lab->dir[0] = '\0';
		return -1;
	}
	if (!mkdtemp(lab->dir) || chmod(lab->dir, 0755) < 0)
		return -1;
	lab->nest = nest ? fm_xstrdup(nest) : lab_build(lab, "fleximigrate-nest", nest_sources);
	lab->probe = probe ? fm_xstrdup(probe) : lab_build(lab, "probe", probe_sources);
	if (!lab->nest || !lab->probe) {
		lab_done(lab);
		return -1;
	}
	return 0;
}

/* <lab>/<name> with /probe, /nest and mount points. malloc'ed path. */
static inline char *lab_rootfs(const struct lab *lab, const char *name)
{
	static const char *const dirs[] = { "", "/proc", "/dev", "/tmp", "/sys", "/.fleximigrate", "/.fleximigrate/run" };
	char *root = fm_xasprintf("%s/%s", lab->dir, name);
	_fm_free_ char *probe = fm_xasprintf("%s/probe", root), *nest = fm_xasprintf("%s/nest", root), *tmp = fm_xasprintf("%s/tmp", root);

	for (size_t i = 0; i < FM_ARRAY_SIZE(dirs); i++) {
		_fm_free_ char *d = fm_xasprintf("%s%s", root, dirs[i]);

		if (fm_mkdir_p(d, 0755, NULL) < 0)
			goto fail;
	}
	if (chmod(tmp, 01777) < 0 || lab_copy(lab->probe, probe) < 0 || lab_copy(lab->nest, nest) < 0)
		goto fail;
	return root;
fail:
	free(root);
	return NULL;
}

#endif
