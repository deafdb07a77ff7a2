/* SPDX-License-Identifier: MIT */
/* rulebook.c - policies from a file or a folder, replaced as a whole; see rules.h. */
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>

#include "basic/cleanup.h"
#include "basic/str.h"
#include "loop/http.h"
#include "migration/pb.h"
#include "migration/rules.h"

struct fm_rulebook {
	char *path;
	pthread_rwlock_t lock; /* guards set */
	struct fm_policies *set;
};

/* ---------------------------------------------------------------- reading */

static int add_file(struct fm_policies *set, const char *path, struct fm_error *err)
{
	_fm_document_ struct fm_document *d = NULL;
	if (fm_document_read(path, NULL, &d, err) < 0)
		return -1;
	return fm_policies_add(set, d, err);
}

static int is_policy_file(const struct dirent *e)
{
	return e->d_name[0] != '.' &&
	       (fm_str_endswith(e->d_name, ".yaml") || fm_str_endswith(e->d_name, ".yml") || fm_str_endswith(e->d_name, ".json"));
}

static int add_folder(struct fm_policies *set, const char *path, struct fm_error *err)
{
	struct dirent **v = NULL;
	int n = scandir(path, &v, is_policy_file, alphasort), rc = 0;
	if (n < 0)
		return fm_error_errno(err, errno, "reading the folder %s", path);
	if (n > (int)FM_MAX_POLICY_FILES)
		rc = fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "%s: %d files of policies, at most %u are read", path, n,
		                  FM_MAX_POLICY_FILES);
	for (int i = 0; i < n; i++) {
		_fm_free_ char *file = fm_xasprintf("%s/%s", path, v[i]->d_name);
		if (rc == 0)
			rc = add_file(set, file, err);
		free(v[i]);
	}
	free(v);
	return rc;
}

static int check_urls(const struct fm_policies *set, struct fm_error *err)
{
	for (size_t i = 0; i < set->n; i++)
		for (size_t k = 0; k < set->v[i]->n_actions; k++)
			if (set->v[i]->actions[k].action == FM_POLICY_NOTIFY && fm_http_url_check(set->v[i]->actions[k].argument, err) < 0)
				return fm_error_prefix(err, "%s: notify of policy '%s'", set->v[i]->at, set->v[i]->name);
	return 0;
}

int fm_policies_read(const char *path, struct fm_policies **ret, struct fm_error *err)
{
	_fm_cleanup_(fm_policies_freep) struct fm_policies *set = fm_policies_new();
	struct stat st;
	if (stat(path, &st) < 0)
		return fm_error_errno(err, errno, "policies: %s", path);
	if ((S_ISDIR(st.st_mode) ? add_folder(set, path, err) : add_file(set, path, err)) < 0 || check_urls(set, err) < 0)
		return -1;
	*ret = FM_TAKE_PTR(set);
	return 0;
}

/* ---------------------------------------------------------------- the book */

int fm_rulebook_open(const char *path, struct fm_rulebook **ret, struct fm_error *err)
{
	struct fm_policies *set = NULL;
	if (fm_policies_read(path, &set, err) < 0)
		return -1;
	struct fm_rulebook *b = calloc(1, sizeof(*b));
	if (!b)
		abort();
	b->path = fm_xstrdup(path);
	b->set = set;
	pthread_rwlock_init(&b->lock, NULL);
	*ret = b;
	return 0;
}

void fm_rulebook_free(struct fm_rulebook *b)
{
	if (!b)
		return;
	fm_policies_free(b->set);
	pthread_rwlock_destroy(&b->lock);
	free(b->path);
	free(b);
}

int fm_rulebook_reload(struct fm_rulebook *b, struct fm_error *err)
{
	struct fm_policies *set = NULL;
	if (fm_policies_read(b->path, &set, err) < 0)
		return -1;
	pthread_rwlock_wrlock(&b->lock);
	struct fm_policies *old = b->set;
	b->set = set;
	pthread_rwlock_unlock(&b->lock);
	fm_policies_free(old);
	return 0;
}

const struct fm_policies *fm_rulebook_hold(struct fm_rulebook *b)
{
	if (!b)
		return NULL;
	pthread_rwlock_rdlock(&b->lock);
	return b->set;
}

void fm_rulebook_release(struct fm_rulebook *b)
{
	if (b)
		pthread_rwlock_unlock(&b->lock);
}

size_t fm_rulebook_count(struct fm_rulebook *b)
{
	const struct fm_policies *set = fm_rulebook_hold(b);
	size_t n = set ? set->n : 0;
	fm_rulebook_release(b);
	return n;
}

/* ---------------------------------------------------------------- for people */

static void add_constraint(FM_PB(Policy) * to, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add_constraint(FM_PB(Policy) * to, const char *fmt, ...)
{
	char text[200];
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	fm_pb_add_string(&to->constraints, &to->n_constraints, text);
}

static void add_window(FM_PB(Policy) * to, const struct fm_policy_window *w)
{
	static const char names[][4] = { "mon", "tue", "wed", "thu", "fri", "sat", "sun" };
	char days[40] = "", offset[16] = "";
	for (unsigned i = 0; i < 7; i++)
		if (w->days >> i & 1)
			(void)snprintf(days + strlen(days), sizeof(days) - strlen(days), "%s%s", days[0] ? " " : "", names[i]);
	if (w->has_offset)
		(void)snprintf(offset, sizeof(offset), " %c%02d:%02d", w->utc_offset_s < 0 ? '-' : '+', abs(w->utc_offset_s) / 3600,
		               abs(w->utc_offset_s) / 60 % 60);
	add_constraint(to, "window %s %02u:%02u-%02u:%02u%s", w->days == 0x7f ? "daily" : days, w->from_minute / 60, w->from_minute % 60,
	               w->to_minute / 60, w->to_minute % 60, offset);
}

FM_PB(Policy) * fm_policy_to_pb(const struct fm_policy *p)
{
	FM_PB(Policy) *to = FM_PB_NEW(Policy, policy);
	fm_pb_set(&to->name, p->name);
	fm_pb_set(&to->description, p->description);
	fm_pb_set(&to->at, p->at);
	fm_pb_set(&to->conditions, p->conditions);
	to->priority = (int32_t)p->priority;
	for (size_t i = 0; i < p->n_actions; i++) {
		const char *name = fm_policy_action_name(p->actions[i].action);
		_fm_free_ char *text = p->actions[i].argument ? fm_xasprintf("%s(\"%s\")", name, p->actions[i].argument) : fm_xstrdup(name);
		fm_pb_add_string(&to->actions, &to->n_actions, text);
	}
	if (p->limits.global)
		add_constraint(to, "at most %u at a time", p->limits.global);
	if (p->limits.per_host)
		add_constraint(to, "at most %u of a host at a time", p->limits.per_host);
	if (p->limits.per_link)
		add_constraint(to, "at most %u between two hosts at a time", p->limits.per_link);
	if (p->duration_s)
		add_constraint(to, "at most %u s", p->duration_s);
	for (size_t i = 0; i < p->n_windows; i++)
		add_window(to, &p->windows[i]);
	return to;
}

void fm_rulebook_list(struct fm_rulebook *b, FM_PB(ListPoliciesResponse) * to)
{
	const struct fm_policies *set = fm_rulebook_hold(b);
	for (size_t i = 0; set && i < set->n; i++)
		FM_PB_ADD(to->policies, to->n_policies, fm_policy_to_pb(set->v[i]));
	fm_rulebook_release(b);
}
