/* SPDX-License-Identifier: MIT */
/* criu-smaps.c - see criu-smaps.h. */
#include "container/criu-smaps.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/proc.h"
#include "basic/procmaps.h"

/* One mapping: two lines of a text, the second without its key. */
struct entry {
	const char *header, *flags;
};

/* Of one process; the text has NUL instead of line ends. */
struct listing {
	pid_t host_pid;
	char *text;
	struct entry *v;
	size_t n, cap;
	char *answered; /* NULL, or the maps for which this was handed out, with NUL instead of line ends */
	size_t answered_bytes;
};

struct fm_smaps {
	struct listing *v;
	size_t n;
};

FM_DEFINE_CLEANUP(struct fm_smaps *, fm_smaps_free);

static void listing_done(struct listing *l)
{
	free(l->text);
	free(l->v);
	free(l->answered);
	*l = (struct listing){ 0 };
}

void fm_smaps_free(struct fm_smaps *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n; i++)
		listing_done(&s->v[i]);
	free(s->v);
	free(s);
}

/* Whether the kernel has seen writes to the mapping is nobody's business, and changes. */
static void forget_soft_dirty(char *flags)
{
	char *sd = strstr(flags, "sd ");

	if (sd)
		memmove(sd, sd + 3, strlen(sd + 3) + 1);
}

static int add_entry(void *userdata, const char *header, char *flags)
{
	struct listing *l = userdata;

	if (l->n == l->cap) {
		size_t cap = l->cap ? 2 * l->cap : 256;
		struct entry *more = reallocarray(l->v, cap, sizeof(*more));
		if (!more)
			return -1;
		l->v = more;
		l->cap = cap;
	}
	forget_soft_dirty(flags);
	l->v[l->n++] = (struct entry){ .header = header, .flags = flags };
	return 0;
}

static int list(pid_t pid, struct listing *ret, struct fm_error *err)
{
	struct listing l = { .host_pid = pid };

	if (fm_proc_read(pid, "smaps", FM_PROC_SMAPS_MAX, &l.text, NULL, err) < 0)
		return -1;
	if (fm_smaps_each(l.text, add_entry, &l) < 0) {
		listing_done(&l);
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for the mappings of process %d", (int)pid);
	}
	*ret = l;
	return 0;
}

int fm_smaps_look(pid_t root, struct fm_smaps **ret, struct fm_error *err)
{
	_fm_cleanup_(fm_smaps_freep) struct fm_smaps *s = calloc(1, sizeof(*s));
	_fm_free_ pid_t *tree = NULL;
	size_t n = 0;

	if (!s)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	if (fm_proc_tree(root, &tree, &n, err) < 0)
		return -1;
	s->v = calloc(n ? n : 1, sizeof(*s->v));
	if (!s->v)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	for (size_t i = 0; i < n; i++)
		if (list(tree[i], &s->v[s->n], NULL) == 0)
			s->n++;
	*ret = FM_TAKE_PTR(s);
	return 0;
}

/* Both are in the order of addresses, so the search goes on where the last one ended. */
static const struct entry *find(const struct listing *l, size_t *at, const char *header)
{
	for (size_t i = *at; i < l->n; i++) {
		if (strcmp(l->v[i].header, header) != 0)
			continue;
		*at = i + 1;
		return &l->v[i];
	}
	return NULL;
}

static struct listing *listing_of(struct fm_smaps *s, pid_t host_pid)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->v[i].host_pid == host_pid)
			return &s->v[i];
	return NULL;
}

static bool write_answer(FILE *f, const struct listing *l, char *maps)
{
	size_t at = 0;

	for (char *line = *maps ? maps : NULL, *next; line; line = next) {
		next = fm_cut_line(line);
		const struct entry *e = find(l, &at, line);
		if (!e || fprintf(f, "%s\nVmFlags: %s\n", e->header, e->flags) < 0)
			return false;
	}
	return true;
}

char *fm_smaps_answer(struct fm_smaps *s, pid_t host_pid)
{
	struct listing *l = listing_of(s, host_pid);
	_fm_free_ char *maps = NULL;
	char *text = NULL;
	size_t n = 0, bytes = 0;

	if (!l || fm_proc_read(host_pid, "maps", FM_PROC_MAPS_MAX, &maps, &bytes, NULL) < 0)
		return NULL;
	FILE *f = open_memstream(&text, &n);
	if (!f)
		return NULL;
	bool known = write_answer(f, l, maps);
	if (fclose(f) != 0 || !known) {
		free(text);
		return NULL;
	}
	free(l->answered);
	l->answered = FM_TAKE_PTR(maps);
	l->answered_bytes = bytes;
	return text;
}

static int verify_one(const struct listing *l, struct fm_error *err)
{
	struct listing real = { 0 };
	size_t then = 0, now = 0;
	int rc = 0;

	if (list(l->host_pid, &real, err) < 0)
		return -1;
	for (const char *p = l->answered; rc == 0 && p < l->answered + l->answered_bytes; p += strlen(p) + 1) {
		const struct entry *said = find(l, &then, p), *is = find(&real, &now, p);
		if (!said || !is || strcmp(said->flags, is->flags) != 0)
			rc = fm_error_set(err, FM_E_ABORTED, "process %d changed the flags of its memory just before it was frozen: %.80s",
			                  (int)l->host_pid, p);
	}
	listing_done(&real);
	return rc < 0 ? fm_error_hint(err, "nothing is lost: migrate again") : 0;
}

int fm_smaps_verify(const struct fm_smaps *s, struct fm_error *err)
{
	for (size_t i = 0; s && i < s->n; i++)
		if (s->v[i].answered && verify_one(&s->v[i], err) < 0)
			return -1;
	return 0;
}
