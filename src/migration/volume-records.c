/* SPDX-License-Identifier: MIT */
/* volume-records.c - see volumes.h. A file is named by a hash of the path, which is in it too: another path's record is never taken for this one's. */
#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "basic/io.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "migration/volumes.h"

#define MAX_RECORD_BYTES 65536

static char *folder(const struct fm_host *h)
{
	return fm_xasprintf("%s/volumes", h->state_dir);
}

static char *file_of(const struct fm_host *h, const char *where)
{
	XXH128_hash_t x = XXH3_128bits(where, strlen(where));
	_fm_free_ char *dir = folder(h);
	return fm_xasprintf("%s/%016llx%016llx.json", dir, (unsigned long long)x.high64, (unsigned long long)x.low64);
}

static json_t *load(const char *file)
{
	_fm_free_ char *text = NULL;
	size_t n = 0;
	if (fm_read_file(file, MAX_RECORD_BYTES, &text, &n, NULL) < 0)
		return NULL;
	json_t *r = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL);
	if (json_is_object(r))
		return r;
	json_decref(r);
	return NULL;
}

json_t *fm_volume_record(struct fm_host *h, const char *where)
{
	_fm_free_ char *file = file_of(h, where);
	json_t *r = load(file);
	if (r && fm_streq(json_string_value(json_object_get(r, "path")), where))
		return r;
	json_decref(r);
	return NULL;
}

static int save(struct fm_host *h, const char *where, const json_t *r, struct fm_error *err)
{
	_fm_free_ char *dir = folder(h);
	_fm_free_ char *file = file_of(h, where);
	_fm_free_ char *text = json_dumps(r, JSON_INDENT(1));
	if (!text)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "cannot write down what is known of %s", where);
	if (fm_mkdir_p(dir, 0700, err) < 0)
		return -1;
	return fm_write_file_atomic(file, text, strlen(text), 0600, err);
}

static bool same_text(const json_t *a, const json_t *b, const char *key)
{
	return fm_streq(json_string_value(json_object_get(a, key)), json_string_value(json_object_get(b, key)));
}

int fm_volume_record_put(struct fm_host *h, const char *where, json_t *r, struct fm_error *err)
{
	json_t *old = fm_volume_record(h, where);
	int rc = 0;
	bool done = old && same_text(old, r, "migration") &&
	            json_is_true(json_object_get(old, "left")) == json_is_true(json_object_get(r, "left"));
	if (!done) {
		if (old) {
			(void)json_object_del(old, "before");
			(void)json_object_set(r, "before", old);
		}
		rc = save(h, where, r, err);
	}
	json_decref(old);
	json_decref(r);
	return rc;
}

int fm_volume_record_revert(struct fm_host *h, const char *where, const char *migration, struct fm_error *err)
{
	json_t *r = fm_volume_record(h, where);
	int rc = 0;
	if (r && fm_streq(json_string_value(json_object_get(r, "migration")), migration)) {
		const json_t *before = json_object_get(r, "before");
		rc = before ? save(h, where, before, err) : fm_volume_record_drop(h, where, err);
	}
	json_decref(r);
	return rc;
}

int fm_volume_record_drop(struct fm_host *h, const char *where, struct fm_error *err)
{
	_fm_free_ char *file = file_of(h, where);
	if (unlink(file) < 0 && errno != ENOENT)
		return fm_error_errno(err, errno, "cannot remove %s", file);
	return 0;
}

json_t *fm_volume_records(struct fm_host *h)
{
	json_t *all = json_array();
	_fm_free_ char *dir = folder(h);
	_fm_closedir_ DIR *d = opendir(dir);
	for (const struct dirent *e; d && (e = readdir(d));) {
		if (!fm_str_endswith(e->d_name, ".json"))
			continue;
		_fm_free_ char *file = fm_xasprintf("%s/%s", dir, e->d_name);
		json_t *r = load(file);
		if (r && json_string_value(json_object_get(r, "path")))
			(void)json_array_append(all, r);
		json_decref(r);
	}
	return all;
}

void fm_volumes_forget(struct fm_host *h, const char *container)
{
	json_t *all = fm_volume_records(h), *r;
	size_t i;
	json_array_foreach(all, i, r)
	{
		if (fm_streq(json_string_value(json_object_get(r, "container")), container) && !json_is_true(json_object_get(r, "left")))
			(void)fm_volume_record_drop(h, json_string_value(json_object_get(r, "path")), NULL);
	}
	json_decref(all);
}
