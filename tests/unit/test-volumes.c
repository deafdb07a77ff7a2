/* SPDX-License-Identifier: MIT */
/* test-volumes.c - labels, paths, identities, and what is remembered of volumes. Volumes on their way are in tests/e2e/volumes.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "basic/io.h"
#include "basic/str.h"
#include "migration/pb.h"
#include "migration/volumes.h"

struct fixture {
	char dir[64];
	struct fm_host h;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	(void)snprintf(f->dir, sizeof(f->dir), "/tmp/fm-test-volumes-XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	(void)snprintf(f->h.state_dir, sizeof(f->h.state_dir), "%s/state", f->dir);
	*state = f;
	return mkdir(f->h.state_dir, 0700);
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	int rc = fm_remove_tree(f->dir, NULL);
	free(f);
	return rc;
}

static char *in(struct fixture *f, const char *name)
{
	return fm_xasprintf("%s/%s", f->dir, name);
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_ok(fm_write_full(fd, text, strlen(text), &err));
	close(fd);
}

/* ---------------------------------------------------------------- paths and labels */

static void test_paths(void **state)
{
	static const struct {
		const char *path, *clean;
	} cases[] = { { "/srv/data", "/srv/data" },
		      { "//srv///data//", "/srv/data" },
		      { "/srv/./data/.", "/srv/data" },
		      { "/", "/" },
		      { "/...", "/..." },
		      { "/srv/../etc", NULL },
		      { "/..", NULL },
		      { "srv/data", NULL },
		      { "", NULL } };
	for (size_t i = 0; i < FM_ARRAY_SIZE(cases); i++) {
		_fm_free_ char *clean = fm_volume_path_clean(cases[i].path);
		if (cases[i].clean)
			assert_string_equal(clean, cases[i].clean);
		else
			assert_null(clean);
	}
	assert_null(fm_volume_path_clean(NULL));
	assert_true(fm_paths_overlap("/srv/a", "/srv/a"));
	assert_true(fm_paths_overlap("/srv/a/b", "/srv/a"));
	assert_true(fm_paths_overlap("/srv/a", "/srv/a/b"));
	assert_true(fm_paths_overlap("/", "/srv"));
	assert_false(fm_paths_overlap("/srv/a", "/srv/ab"));
	assert_false(fm_paths_overlap("/srv/ab", "/srv/a"));
}

static int label(const char *value, bool *all, char ***shared, struct fm_error *ret_err)
{
	static char *targets[] = { "/data", "/other", NULL };
	_fm_pb_ FM_PB(Container) *c = FM_PB_NEW(Container, container);
	FM_PB(Label) *l = FM_PB_NEW(Label, label);
	fm_pb_set(&l->key, value ? "fleximigrate.volumes" : "something.else");
	fm_pb_set(&l->value, value ? value : "shared");
	FM_PB_ADD(c->labels, c->n_labels, l);
	return fm_volumes_label(c, targets, all, shared, ret_err);
}

static void test_label(void **state)
{
	static const char *const wrong[] = { "", "Shared", "shared:", "shared:/data,", "shared:/nowhere", "shared:data", "shared,/data" };
	bool all = true;
	char **shared = NULL;
	assert_ok(label(NULL, &all, &shared, &err));
	assert_false(all);
	assert_null(shared);
	assert_ok(label("shared", &all, &shared, &err));
	assert_true(all);
	assert_ok(label("shared:/data", &all, &shared, &err));
	assert_false(all);
	assert_int_equal(fm_strv_len(shared), 1);
	assert_string_equal(shared[0], "/data");
	fm_strv_free(shared);
	assert_ok(label("shared:/other/,//data", &all, &shared, &err));
	assert_int_equal(fm_strv_len(shared), 2);
	assert_string_equal(shared[0], "/other");
	fm_strv_free(shared);
	for (size_t i = 0; i < FM_ARRAY_SIZE(wrong); i++) {
		struct fm_error e = FM_ERROR_INIT;
		assert_int_equal(-1, label(wrong[i], &all, &shared, &e));
		assert_int_equal(e.code, FM_E_INVALID_ARGUMENT);
	}
}

/* ---------------------------------------------------------------- what is at a path */

static void test_identity(void **state)
{
	struct fixture *f = *state;
	_fm_free_ char *a = in(f, "a"), *b = in(f, "b");
	char id[FM_VOLUME_ID_LEN + 1], other[FM_VOLUME_ID_LEN + 1];
	struct fm_error e = FM_ERROR_INIT;
	assert_int_equal(-1, fm_volume_identity(a, id, &e));
	assert_int_equal(e.code, FM_E_NOT_FOUND);
	assert_int_equal(0, mkdir(a, 0700));
	assert_ok(fm_volume_identity(a, id, &err));
	assert_int_equal(0, rename(a, b));
	assert_false(fm_volume_is(a, id));
	assert_true(fm_volume_is(b, id)); /* whatever its name */
	assert_int_equal(0, mkdir(a, 0700));
	assert_ok(fm_volume_identity(a, other, &err));
	assert_string_not_equal(id, other);
	assert_false(fm_volume_is(a, ""));
	assert_false(fm_volume_is(a, NULL));
}

static void test_empty(void **state)
{
	struct fixture *f = *state;
	_fm_free_ char *d = in(f, "d"), *lost = in(f, "d/lost+found"), *file = in(f, "d/file"), *deep = in(f, "d/x/y");
	bool empty = false;
	assert_int_equal(0, mkdir(d, 0700));
	assert_ok(fm_volume_is_empty(d, &empty, &err));
	assert_true(empty);
	assert_int_equal(0, mkdir(lost, 0700)); /* of a file system that was just made */
	assert_ok(fm_volume_is_empty(d, &empty, &err));
	assert_true(empty);
	write_file(file, "something");
	assert_ok(fm_volume_is_empty(d, &empty, &err));
	assert_false(empty);
	assert_ok(fm_volume_is_empty(file, &empty, &err));
	assert_false(empty);
	assert_ok(fm_mkdir_p(deep, 0700, &err));
	assert_ok(fm_volume_empty(d, &err));
	assert_ok(fm_volume_is_empty(d, &empty, &err));
	assert_true(empty);
	assert_true(fm_path_exists(lost));
	write_file(file, "something");
	assert_ok(fm_volume_empty(file, &err));
	assert_ok(fm_volume_is_empty(file, &empty, &err));
	assert_true(empty);
	assert_true(fm_path_exists(file));
	assert_int_equal(0, unlink(file));
	assert_int_equal(0, symlink("/etc/hosts", file));
	assert_ok(fm_volume_is_empty(file, &empty, &err));
	assert_false(empty);
}

/* ---------------------------------------------------------------- records */

static void put(struct fixture *f, const char *path, const char *container, const char *migration, bool left)
{
	assert_ok(fm_volume_record_put(
	        &f->h, path, json_pack("{s:s, s:s, s:s, s:b}", "path", path, "container", container, "migration", migration, "left", left),
	        &err));
}

/* "migration[<before>]", "" none */
static void expect_record(struct fixture *f, const char *path, const char *want)
{
	json_t *r = fm_volume_record(&f->h, path);
	const json_t *before = json_object_get(r, "before");
	_fm_free_ char *text = fm_xasprintf("%s%s%s", r ? json_string_value(json_object_get(r, "migration")) : "", before ? "<" : "",
	                                    before ? json_string_value(json_object_get(before, "migration")) : "");
	assert_string_equal(text, want);
	json_decref(r);
}

static void test_records(void **state)
{
	struct fixture *f = *state;
	expect_record(f, "/srv/a", "");
	put(f, "/srv/a", "redis", "m-1", false);
	expect_record(f, "/srv/a", "m-1");
	expect_record(f, "/srv/b", "");
	put(f, "/srv/a", "redis", "m-2", true);
	expect_record(f, "/srv/a", "m-2<m-1");
	put(f, "/srv/a", "redis", "m-2", true); /* again after a crash: what was before stays known */
	expect_record(f, "/srv/a", "m-2<m-1");
	put(f, "/srv/a", "redis", "m-3", false); /* one step back is enough */
	expect_record(f, "/srv/a", "m-3<m-2");
	json_t *r = fm_volume_record(&f->h, "/srv/a");
	assert_null(json_object_get(json_object_get(r, "before"), "before"));
	json_decref(r);

	assert_ok(fm_volume_record_revert(&f->h, "/srv/a", "m-2", &err)); /* another's */
	expect_record(f, "/srv/a", "m-3<m-2");
	assert_ok(fm_volume_record_revert(&f->h, "/srv/a", "m-3", &err));
	expect_record(f, "/srv/a", "m-2");
	assert_ok(fm_volume_record_revert(&f->h, "/srv/a", "m-2", &err));
	expect_record(f, "/srv/a", "");
	assert_ok(fm_volume_record_revert(&f->h, "/srv/a", "m-2", &err));
	assert_ok(fm_volume_record_drop(&f->h, "/srv/a", &err));
}

static void test_forget(void **state)
{
	struct fixture *f = *state;
	put(f, "/srv/a", "redis", "m-1", false);
	put(f, "/srv/b", "redis", "m-1", true); /* left here: may come back */
	put(f, "/srv/c", "other", "m-1", false);
	fm_volumes_forget(&f->h, "redis");
	json_t *all = fm_volume_records(&f->h);
	assert_int_equal(json_array_size(all), 2);
	json_decref(all);
	expect_record(f, "/srv/a", "");
	expect_record(f, "/srv/b", "m-1");
	expect_record(f, "/srv/c", "m-1");
}

/* One that cannot be read is none: nothing is replaced or removed because of it. */
static void test_damaged(void **state)
{
	struct fixture *f = *state;
	put(f, "/srv/a", "redis", "m-1", true);
	_fm_free_ char *dir = in(f, "state/volumes");
	_fm_free_ char *command = fm_xasprintf("for f in %s/*.json; do head -c 20 $f >$f.cut && mv $f.cut $f; done", dir);
	assert_int_equal(0, system(command));
	expect_record(f, "/srv/a", "");
	json_t *all = fm_volume_records(&f->h);
	assert_int_equal(json_array_size(all), 0);
	json_decref(all);
	put(f, "/srv/a", "redis", "m-2", false);
	expect_record(f, "/srv/a", "m-2");
}

/* ---------------------------------------------------------------- mount points that are files */

static void test_file_mount_points(void **state)
{
	struct fixture *f = *state;
	_fm_free_ char *root = in(f, "root"), *etc = in(f, "root/etc"), *conf = in(f, "root/etc/conf"), *alias = in(f, "root/alias");
	_fm_free_ char *file = in(f, "file"), *folder = in(f, "folder"), *out = in(f, "root/out");
	_fm_cleanup_(fm_strv_freep) char **found = NULL;
	assert_ok(fm_mkdir_p(etc, 0755, &err));
	assert_int_equal(0, mkdir(folder, 0755));
	write_file(conf, "");
	write_file(file, "");
	assert_int_equal(0, symlink("/etc", alias)); /* as the container sees it */
	assert_int_equal(0, symlink("/../../../etc/hosts", out));
	char *volumes[] = { file, folder, file, NULL }, *volume_targets[] = { "/alias/conf", "/etc", "/missing", NULL };
	char *read_only[] = { file, file, NULL }, *read_only_targets[] = { "/etc/conf", "/out", NULL };
	struct fm_bundle_info info = { .rootfs = root,
		                       .volumes = volumes,
		                       .volume_targets = volume_targets,
		                       .read_only = read_only,
		                       .read_only_targets = read_only_targets };
	fm_file_mount_points(&info, &found);
	assert_int_equal(fm_strv_len(found), 2);
	assert_string_equal(found[0], "etc/conf");
	assert_string_equal(found[1], "etc/conf");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(test_paths),   T(test_label),  T(test_identity), T(test_empty),
		T(test_records), T(test_forget), T(test_damaged),  T(test_file_mount_points),
	};
	return cmocka_run_group_tests_name("volumes", tests, NULL, NULL);
}
