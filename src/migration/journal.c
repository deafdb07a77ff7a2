/* SPDX-License-Identifier: MIT */
/*
 * journal.c - see journal.h. The whole file is kept parsed in memory (a migration has some dozens of records); appends go to the file first.
 * A record that cannot be written is a failure of the step that wanted it: nothing is done outside without its intent on record.
 */
#include "migration/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/str.h"

struct fm_journal {
	pthread_mutex_t lock;
	char *dir;
	char *path;
	int fd;
	off_t length;    /* of whole records; -1: the file's end is not known to be whole, nothing more may be added */
	json_t *head;    /* these three: NULL once it is removed */
	json_t *records; /* array of objects after the head */
	json_t *notes;   /* object: key -> string */
	enum fm_decision decision;
	bool ran;
};

static const char *const decision_names[] = { "UNKNOWN", "PREPARED", "FROZEN", "RESTORED", "COMMITTED", "ABORTED", "RELEASED" };

const char *fm_decision_to_string(enum fm_decision d)
{
	return (unsigned)d < FM_ARRAY_SIZE(decision_names) ? decision_names[d] : "UNKNOWN";
}

static int sync_dir(const char *dir, struct fm_error *err)
{
	_fm_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0)
		return fm_error_errno(err, errno, "cannot sync the journal folder %s", dir);
	return 0;
}

/* A record that failed must not be found by the next reader, nor be glued to the record after it. */
static int take_back(struct fm_journal *j)
{
	if (ftruncate(j->fd, j->length) < 0)
		j->length = -1;
	return -1;
}

/* One line, one write: a torn line can only be the last one. */
static int append(struct fm_journal *j, json_t *record, bool durable, struct fm_error *err)
{
	if (j->length < 0)
		return fm_error_set(err, FM_E_DATA_LOSS, "journal %s could not be written before; the agent has to be restarted", j->path);
	_fm_free_ char *text = json_dumps(record, JSON_COMPACT);
	if (!text)
		return fm_error_set(err, FM_E_INTERNAL, "cannot encode a journal record");
	_fm_free_ char *line = fm_xasprintf("%s\n", text);
	if (fm_write_full(j->fd, line, strlen(line), err) < 0) {
		(void)fm_error_prefix(err, "journal %s", j->path);
		return take_back(j);
	}
	if (durable && fdatasync(j->fd) < 0) {
		(void)fm_error_errno(err, errno, "cannot make the journal %s durable", j->path);
		return take_back(j);
	}
	j->length += (off_t)strlen(line);
	return 0;
}

static struct fm_journal *alloc_journal(const char *dir, const char *path)
{
	struct fm_journal *j = calloc(1, sizeof(*j));
	if (!j)
		return NULL;
	pthread_mutex_init(&j->lock, NULL);
	j->fd = -1;
	j->dir = fm_xstrdup(dir);
	j->path = fm_xstrdup(path);
	j->records = json_array();
	j->notes = json_object();
	return j;
}

static void drop_records(struct fm_journal *j)
{
	json_decref(j->head);
	json_decref(j->records);
	json_decref(j->notes);
	j->head = j->records = j->notes = NULL;
}

void fm_journal_free(struct fm_journal *j)
{
	if (!j)
		return;
	if (j->fd >= 0)
		(void)close(j->fd);
	drop_records(j);
	free(j->dir);
	free(j->path);
	pthread_mutex_destroy(&j->lock);
	free(j);
}
FM_DEFINE_CLEANUP(struct fm_journal *, fm_journal_free);

int fm_journal_create(const char *dir, const char *migration_id, const char *role, json_t *head, struct fm_journal **ret,
                      struct fm_error *err)
{
	_fm_free_ char *path = fm_xasprintf("%s/%s.%s.journal", dir, migration_id, role);
	_fm_cleanup_(fm_journal_freep) struct fm_journal *j = alloc_journal(dir, path);
	if (!j) {
		json_decref(head);
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	}
	j->head = head;
	json_object_set_new(head, "k", json_string("head"));
	json_object_set_new(head, "migration", json_string(migration_id));
	json_object_set_new(head, "role", json_string(role));
	json_object_set_new(head, "at_ms", json_integer((json_int_t)fm_realtime_ms()));
	j->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
	if (j->fd < 0)
		return fm_error_errno(err, errno, "cannot create the migration's journal %s", path);
	if (append(j, head, true, err) < 0 || sync_dir(dir, err) < 0) {
		(void)unlink(path);
		return -1;
	}
	*ret = FM_TAKE_PTR(j);
	return 0;
}

static void apply(struct fm_journal *j, json_t *record)
{
	const char *kind = json_string_value(json_object_get(record, "k"));
	if (fm_streq(kind, "decision")) {
		j->decision = (enum fm_decision)json_integer_value(json_object_get(record, "decision"));
		j->ran = json_is_true(json_object_get(record, "ran"));
	} else if (fm_streq(kind, "note")) {
		const char *key = json_string_value(json_object_get(record, "key"));
		if (key)
			json_object_set(j->notes, key, json_object_get(record, "value"));
	}
	json_array_append(j->records, record);
}

int fm_journal_open(const char *dir, const char *file, struct fm_journal **ret, struct fm_error *err)
{
	_fm_free_ char *path = fm_xasprintf("%s/%s", dir, file);
	_fm_cleanup_(fm_journal_freep) struct fm_journal *j = alloc_journal(dir, path);
	if (!j)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	_fm_free_ char *text = NULL;
	size_t n = 0, whole = 0; /* whole: bytes up to and including the last complete line */
	if (fm_read_file(path, FM_MAX_JOURNAL_BYTES, &text, &n, err) < 0)
		return -1;
	for (char *line = text, *end; (end = memchr(line, '\n', n - whole)); line = end + 1) {
		json_error_t je;
		/* The parser takes a NUL for the end of its text. */
		bool text_only = !memchr(line, '\0', (size_t)(end - line));
		json_t *record = json_loadb(line, (size_t)(end - line), JSON_REJECT_DUPLICATES, &je);
		if (!json_is_object(record) || !text_only) {
			json_decref(record);
			return fm_error_set(err, FM_E_DATA_LOSS, "journal %s is damaged at byte %zu: %s", path, (size_t)(line - text),
			                    text_only ? je.text : "a NUL byte");
		}
		if (!j->head)
			j->head = json_incref(record);
		else
			apply(j, record);
		json_decref(record);
		whole = (size_t)(end + 1 - text);
	}
	if (!j->head)
		return fm_error_set(err, FM_E_NOT_FOUND, "journal %s has no head: it was being created when the agent stopped", path);
	if (!fm_streq(json_string_value(json_object_get(j->head, "k")), "head"))
		return fm_error_set(err, FM_E_DATA_LOSS, "journal %s does not begin with a head", path);
	j->fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
	if (j->fd < 0 || ftruncate(j->fd, (off_t)whole) < 0)
		return fm_error_errno(err, errno, "cannot open the journal %s", path);
	j->length = (off_t)whole;
	*ret = FM_TAKE_PTR(j);
	return 0;
}

int fm_journal_remove(struct fm_journal *j, struct fm_error *err)
{
	if (unlink(j->path) < 0 && errno != ENOENT)
		return fm_error_errno(err, errno, "cannot remove the journal %s", j->path);
	/* Nothing can be written any more. */
	pthread_mutex_lock(&j->lock);
	if (j->fd >= 0)
		(void)close(j->fd);
	j->fd = -1;
	pthread_mutex_unlock(&j->lock);
	if (sync_dir(j->dir, err) < 0)
		return -1;
	pthread_mutex_lock(&j->lock);
	drop_records(j);
	pthread_mutex_unlock(&j->lock);
	return 0;
}

/* Append and remember; takes the record. */
static int record(struct fm_journal *j, json_t *r, bool durable, struct fm_error *err)
{
	pthread_mutex_lock(&j->lock);
	int rc = append(j, r, durable, err);
	if (rc == 0)
		apply(j, r);
	pthread_mutex_unlock(&j->lock);
	json_decref(r);
	return rc;
}

int fm_journal_intent(struct fm_journal *j, const char *what, const char *arg, bool durable, struct fm_error *err)
{
	return record(j, json_pack("{s:s, s:s, s:s}", "k", "intent", "what", what, "arg", arg ? arg : ""), durable, err);
}

int fm_journal_forget(struct fm_journal *j, const char *what, struct fm_error *err)
{
	return record(j, json_pack("{s:s, s:s}", "k", "forget", "what", what), false, err);
}

int fm_journal_note(struct fm_journal *j, const char *key, const char *value, struct fm_error *err)
{
	return record(j, json_pack("{s:s, s:s, s:s}", "k", "note", "key", key, "value", value), false, err);
}

int fm_journal_decide(struct fm_journal *j, enum fm_decision d, bool ran, struct fm_error *err)
{
	/* A decision that only says how far this process got is as good as the processes it is about: a host that loses its power loses both. The
	 * others outlive the host, because another host acts on them. */
	bool durable = d == FM_DECISION_COMMITTED || d == FM_DECISION_ABORTED || d == FM_DECISION_RELEASED;
	json_t *r = json_pack("{s:s, s:i, s:s, s:b, s:I}", "k", "decision", "decision", (int)d, "name", fm_decision_to_string(d), "ran",
	                      ran, "at_ms", (json_int_t)fm_realtime_ms());
	return record(j, r, durable, err);
}

int fm_journal_abort(struct fm_journal *j, struct fm_error *err)
{
	bool ran = fm_journal_ran(j);
	struct fm_error e = FM_ERROR_INIT;
	if (fm_journal_decide(j, FM_DECISION_ABORTED, ran, &e) == 0)
		return 0;
	pthread_mutex_lock(&j->lock);
	/* Whoever reads an unfinished journal aborts. Only what is on the disk has to be known for certain. */
	bool same = j->length >= 0 && j->decision != FM_DECISION_COMMITTED && j->decision != FM_DECISION_RELEASED;
	if (same)
		j->decision = FM_DECISION_ABORTED;
	pthread_mutex_unlock(&j->lock);
	if (!same && err)
		*err = e;
	return same ? 0 : -1;
}

enum fm_decision fm_journal_decision(struct fm_journal *j)
{
	pthread_mutex_lock(&j->lock);
	enum fm_decision d = j->decision;
	pthread_mutex_unlock(&j->lock);
	return d;
}

bool fm_journal_ran(struct fm_journal *j)
{
	pthread_mutex_lock(&j->lock);
	bool ran = j->ran;
	pthread_mutex_unlock(&j->lock);
	return ran;
}

const char *fm_journal_head(struct fm_journal *j, const char *key)
{
	return json_string_value(json_object_get(j->head, key));
}

const char *fm_journal_get(struct fm_journal *j, const char *key)
{
	pthread_mutex_lock(&j->lock);
	const char *v = json_string_value(json_object_get(j->notes, key));
	pthread_mutex_unlock(&j->lock);
	return v;
}

/* An intent counts until a later "forget" of the same name (and argument, where that one has an argument). */
static bool forgotten(json_t *records, size_t index, const char *what, const char *arg)
{
	for (size_t i = index + 1; i < json_array_size(records); i++) {
		json_t *r = json_array_get(records, i);
		if (fm_streq(json_string_value(json_object_get(r, "k")), "forget") &&
		    fm_streq(json_string_value(json_object_get(r, "what")), what) &&
		    (!json_object_get(r, "arg") || fm_streq(json_string_value(json_object_get(r, "arg")), arg)))
			return true;
	}
	return false;
}

int fm_journal_undo(struct fm_journal *j, fm_journal_undo_fn fn, void *userdata, struct fm_error *err)
{
	int rc = 0;
	pthread_mutex_lock(&j->lock);
	json_t *records = json_copy(j->records);
	pthread_mutex_unlock(&j->lock);
	for (size_t i = json_array_size(records); i-- > 0;) {
		json_t *r = json_array_get(records, i);
		const char *what = json_string_value(json_object_get(r, "what"));
		const char *arg = json_string_value(json_object_get(r, "arg"));
		if (!arg) /* none of ours: those that undo, and the record that it was undone, are about a text */
			arg = "";
		if (!fm_streq(json_string_value(json_object_get(r, "k")), "intent") || !what || forgotten(records, i, what, arg))
			continue;
		struct fm_error e = FM_ERROR_INIT;
		if (fn(userdata, what, arg, &e) < 0) {
			if (rc == 0 && err)
				*err = e;
			rc = -1;
		} else {
			(void)record(j, json_pack("{s:s, s:s, s:s}", "k", "forget", "what", what, "arg", arg), false, NULL);
		}
	}
	json_decref(records);
	return rc;
}
