/* SPDX-License-Identifier: MIT */
/*
 * doctor.c - see doctor.h. A leftover is something with our name on it (instance folder, pinned namespace, endpoint, images mount, a tunnel, a publication) to which no instance in the runtime, no
 * migration under way and no record of what is kept belongs.
 */
#include "migration/doctor.h"

#include <dirent.h>
#include <net/if.h>
#include <string.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/str.h"
#include "container/criu-view.h"
#include "migration/instances.h"
#include "migration/keeper.h"
#include "migration/pb.h"
#include "migration/places.h"
#include "migration/revisit-files.h"
#include "migration/volumes.h"
#include "network/redirect-tunnel.h"
#include "network/stub.h"
#include "sync/tracker.h"

#define REDIRECTION_TIMEOUT_MS 5000

struct exam {
	struct fm_host *h;
	FM_PB(DoctorResponse) * out;
	bool clean;
	struct fm_instance *instances;
	size_t n_instances;
	char **movers; /* ids under way */
};

static void find(struct exam *x, const char *severity, const char *subject, const char *detail, const char *remedy)
{
	FM_PB(Finding) *f = FM_PB_NEW(Finding, finding);
	fm_pb_set(&f->severity, severity);
	fm_pb_set(&f->subject, subject);
	fm_pb_set(&f->detail, detail);
	fm_pb_set(&f->remedy, remedy);
	FM_PB_ADD(x->out->findings, x->out->n_findings, f);
}

static void check_programs(struct exam *x)
{
	char version[128];
	struct fm_error e = FM_ERROR_INIT;
	if (x->h->criu_problem.code == FM_OK)
		find(x, "ok", "criu", x->h->criu.version_text, "");
	else
		find(x, "problem", "criu", x->h->criu_problem.message, x->h->criu_problem.hint);
	if (x->h->runtime->ops->version(x->h->runtime, version, sizeof(version), &e) == 0)
		find(x, "ok", "runtime", version, "");
	else
		find(x, "problem", "runtime", e.message, "install it: apt-get install runc");
	if (fm_host_ordinary_problem())
		find(x, "problem", "iptables", fm_host_ordinary_problem(), "install it: apt-get install iptables");
	if (access(x->h->nest_binary, X_OK) == 0)
		find(x, "ok", "nest", x->h->nest_binary, "");
	else
		find(x, "problem", "nest", "the init of parent containers is missing",
		     "install fleximigrate completely, or give --nest PATH");
	if (geteuid() != 0)
		find(x, "problem", "privileges", "not root: containers cannot be frozen, dumped or restored", "run the agent as root");
}

/* How changed pages are found before the freeze. Without any of the fast ways live and pre-copy still work, and cost a core. */
static void check_trackers(struct exam *x)
{
	struct fm_tracker_support t;
	fm_tracker_probe(&t);
	for (enum fm_tracker_backend b = FM_TRACKER_WRITE_PROTECT; b < _FM_TRACKER_MAX; b++) {
		_fm_free_ char *subject = fm_xasprintf("tracking %s", fm_tracker_backend_to_string(b));
		if (t.works[b])
			find(x, "ok", subject, b == t.best ? "works, and is used" : "works", "");
		else
			find(x, "note", subject, t.reason[b], b == t.best ? "" : "another way is used");
	}
	if (fm_criu_view_is_possible())
		find(x, "ok", "hidden memory", "CRIU is not shown the pages that we bring", "");
	else
		find(x, "note", "hidden memory",
		     "CRIU cannot be kept from dumping pages itself: downtime grows with memory, live goes on as post-copy",
		     "a kernel with CONFIG_SECCOMP_FILTER, Linux 5.6 or later");
}

static void check_network(struct exam *x)
{
	_fm_free_ char *detail = NULL;
	if (!x->h->bridge[0]) {
		find(x, "note", "bridge", "no default bridge: each container says its own", "give the agent --bridge NAME");
	} else if (if_nametoindex(x->h->bridge) == 0) {
		detail = fm_xasprintf("bridge '%s' does not exist", x->h->bridge);
		find(x, "problem", "bridge", detail, "create it (ip link add NAME type bridge) or give the agent another --bridge");
	} else {
		find(x, "ok", "bridge", x->h->bridge, "");
	}
}

/* Nothing is wrong with them; whoever looks for disk space, or memory, wants to know. */
static void tell_visited(struct exam *x)
{
	struct fm_revisit_pages_stats pages = { 0 };
	unsigned n = 0;
	uint64_t bytes = 0;
	fm_revisit_files_usage(x->h, &n, &bytes);
	_fm_free_ char *detail = fm_xasprintf("%u kept of containers that were here, %.1f MiB", n, (double)bytes / (1 << 20));
	find(x, "ok", "visited copies", detail, "");
	if (!x->h->revisit_pages) /* no agent */
		return;
	fm_revisit_pages_stats(x->h->revisit_pages, &pages);
	_fm_free_ char *memory = fm_xasprintf("of %zu containers that were here, %.1f MiB in memory, %.1f at most", pages.n,
	                                      (double)pages.bytes / (1 << 20), (double)pages.max_bytes / (1 << 20));
	find(x, "ok", "visited pages", memory, "");
}

static bool has_instance(const struct exam *x, const char *id)
{
	for (size_t i = 0; i < x->n_instances; i++)
		if (fm_streq(x->instances[i].id, id))
			return true;
	return false;
}

/* Does a migration under way own something of this name ("<container>.<migration>" or "<migration>.<role>")? */
static bool has_mover(const struct exam *x, const char *name)
{
	for (char **m = x->movers; m && *m; m++)
		if (strstr(name, *m))
			return true;
	return false;
}

static void leftover(struct exam *x, const char *subject, const char *what, const char *arg)
{
	struct fm_error e = FM_ERROR_INIT;
	if (!x->clean)
		find(x, "leftover", subject, "belongs to no instance and no migration", "'fleximigrate doctor --clean' removes it");
	else if (fm_host_undo(x->h, what, arg, &e) == 0)
		find(x, "ok", subject, "was left over; removed", "");
	else
		find(x, "leftover", subject, e.message, "remove it by hand");
}

/* Those whose runtime does not answer are in no list, and no leftovers. */
static void add_uncertain(struct exam *x, struct fm_instance **v)
{
	_fm_closedir_ DIR *d = opendir(x->h->instances_dir);
	x->instances = *v;
	for (struct dirent *e; d && (e = readdir(d));) {
		struct fm_local l __attribute__((cleanup(fm_local_done))) = FM_LOCAL_INIT;
		struct fm_error why = FM_ERROR_INIT;
		if (e->d_name[0] == '.' || has_instance(x, e->d_name) || fm_instances_open(x->h, e->d_name, &l, &why) == 0 ||
		    why.code == FM_E_NOT_FOUND)
			continue;
		struct fm_instance *more = realloc(*v, (x->n_instances + 1) * sizeof(**v));
		if (!more)
			return;
		more[x->n_instances] = (struct fm_instance){ 0 };
		(void)snprintf(more[x->n_instances++].id, sizeof(more->id), "%.127s", e->d_name);
		x->instances = *v = more;
		_fm_free_ char *subject = fm_xasprintf("container %s", e->d_name);
		find(x, "problem", subject, why.message, "nothing can be said about it, or removed of it, before its runtime answers");
	}
}

static void check_folder(struct exam *x, const char *dir, const char *label, const char *what, bool arg_is_path)
{
	_fm_closedir_ DIR *d = opendir(dir);
	for (struct dirent *e; d && (e = readdir(d));) {
		if (e->d_name[0] == '.' || has_instance(x, e->d_name) || has_mover(x, e->d_name))
			continue;
		_fm_free_ char *path = fm_xasprintf("%s/%s", dir, e->d_name);
		_fm_free_ char *subject = fm_xasprintf("%s %s", label, path);
		leftover(x, subject, what, arg_is_path ? path : e->d_name);
	}
}

static void check_endpoints(struct exam *x)
{
	_fm_free_ char(*v)[IFNAMSIZ] = NULL;
	size_t n = 0;
	if (fm_endpoint_list(&v, &n, NULL) < 0)
		return;
	for (size_t i = 0; i < n; i++) {
		bool known = x->movers && x->movers[0]; /* names are hashes: while a migration is under way nothing is certain */
		for (size_t k = 0; k < x->n_instances && !known; k++) {
			for (unsigned e = 0; e < FM_MAX_ENDPOINTS && !known; e++) {
				char name[IFNAMSIZ];
				fm_endpoint_host_ifname(x->instances[k].id, e, name);
				known = fm_streq(name, v[i]);
			}
		}
		_fm_free_ char *subject = fm_xasprintf("endpoint %s", v[i]);
		if (!known)
			leftover(x, subject, "endpoint", v[i]);
	}
}

static void check_journals(struct exam *x, bool agent_runs)
{
	_fm_closedir_ DIR *d = opendir(x->h->journals_dir);
	for (struct dirent *e; d && (e = readdir(d));) {
		if (!fm_str_endswith(e->d_name, ".journal") || has_mover(x, e->d_name))
			continue;
		_fm_free_ char *subject = fm_xasprintf("journal %s", e->d_name);
		find(x, agent_runs ? "note" : "leftover", subject, "a migration that has not been concluded on this host",
		     agent_runs ? "the manager concludes it" : "start the agent: it recovers from its journals");
	}
}

/* What was set aside or had only half come beside a volume. Never removed from here: nobody can tell any more whether it is the only copy. */
static void check_beside(struct exam *x, const char *path)
{
	_fm_free_ char *folder = fm_xstrdup(path);
	char *slash = strrchr(folder, '/');
	if (!slash || slash == folder)
		return;
	*slash = '\0';
	_fm_free_ char *prefix = fm_xasprintf("%s.fleximigrate-", slash + 1);
	_fm_closedir_ DIR *d = opendir(folder);
	for (struct dirent *e; d && (e = readdir(d));) {
		if (!fm_str_startswith(e->d_name, prefix) || has_mover(x, e->d_name))
			continue;
		_fm_free_ char *subject = fm_xasprintf("volume %s/%s", folder, e->d_name);
		find(x, "leftover", subject, "belongs to no migration", "look at it: if it is not the only copy, remove it by hand");
	}
}

static void check_volumes(struct exam *x)
{
	_fm_cleanup_(fm_strv_freep) char **paths = NULL;
	json_t *all = fm_volume_records(x->h), *r;
	size_t k;
	json_array_foreach(all, k, r)
	{
		const char *path = json_string_value(json_object_get(r, "path"));
		const char *container = json_string_value(json_object_get(r, "container"));
		_fm_free_ char *subject = fm_xasprintf("volume %s", path);
		_fm_free_ char *detail =
		        fm_xasprintf("container '%s' left this copy here when it was moved away", container ? container : "?");
		fm_strv_add(&paths, path);
		if (json_is_true(json_object_get(r, "left")) && fm_volume_is(path, json_string_value(json_object_get(r, "id"))))
			find(x, "note", subject, detail, "it is replaced when the container comes back; remove it when nobody needs it");
	}
	json_decref(all);
	for (size_t i = 0; i < x->n_instances; i++)
		fm_volumes_paths(x->h, x->instances[i].id, &paths);
	for (char **p = paths; p && *p; p++) {
		bool again = false;
		for (char **q = paths; q < p; q++)
			again = again || fm_streq(*p, *q);
		if (!again)
			check_beside(x, *p);
	}
}

/* ---- what redirections have left on this host */

struct redirections {
	struct exam *x;
	const struct fm_redirect_ops *ops;
	struct fm_stubs *stubs; /* without an agent */
	json_t *known;
	const char *doubt; /* NULL: what nobody knows is left over */
};

static void redirections_done(struct redirections *r)
{
	json_decref(r->known);
}

static struct fm_redirect_call call_for(const struct exam *x)
{
	return (struct fm_redirect_call){ .deadline_ms = fm_now_ms() + REDIRECTION_TIMEOUT_MS,
		                          .cancel_fd = -1,
		                          .secrets_dir = x->h->secrets_dir };
}

/* Ids of migrations that are not over here. Without an agent the journals say which. */
static char **under_way(const struct exam *x)
{
	char **ids = NULL;
	_fm_closedir_ DIR *d = opendir(x->h->journals_dir);

	for (char **m = x->movers; m && *m; m++)
		fm_strv_add(&ids, *m);
	for (struct dirent *e; d && (e = readdir(d));) {
		_fm_free_ char *id = fm_str_endswith(e->d_name, ".journal") ? strndup(e->d_name, strcspn(e->d_name, ".")) : NULL;

		if (id)
			fm_strv_add(&ids, id);
	}
	return ids;
}

/* What a record says that cannot be read is not known: the keeper has told the operator. */
static bool are_all_read(const char *folder, const json_t *records)
{
	_fm_closedir_ DIR *d = opendir(folder);
	size_t n = 0;

	for (struct dirent *e; d && (e = readdir(d));)
		n += e->d_name[0] != '.' && fm_str_endswith(e->d_name, ".json");
	return n <= json_array_size(records);
}

static json_t *known_here(char *const *ids, const json_t *records)
{
	json_t *known = json_array();
	const json_t *record, *one;
	size_t i, k;

	json_array_foreach(records, i, record)
	{
		const json_t *actions = json_object_get(record, "actions");

		json_array_foreach(actions, k, one)
		{
			(void)json_array_append(known, json_object_get(one, "action"));
		}
	}
	for (char *const *m = ids; m && *m; m++) {
		char id[FM_TUNNEL_ID_LEN + 1];

		fm_tunnel_id(*m, id);
		(void)json_array_append_new(known, json_pack("{s:s, s:s}", "driver", fm_redirect_tunnel.name, "id", id));
	}
	return known;
}

/*
 * Redirections of a migration under way are on the manager's record only; of a tunnel the name says whose it is, of a publication nothing does, so that while a migration is under way here they are told and left alone. Migrations
 * first: what is kept has been handed over before the migration is forgotten.
 */
static void learn(struct redirections *r)
{
	_fm_free_ char *folder = fm_xasprintf("%s/kept", r->x->h->state_dir);
	_fm_cleanup_(fm_strv_freep) char **ids = under_way(r->x);
	_fm_cleanup_(json_decrefp) json_t *records = r->stubs ? fm_stubs_records(r->stubs) : fm_keeper_records(r->x->h->keeper);

	json_decref(r->known);
	r->known = known_here(ids, records);
	r->doubt = !are_all_read(folder, records)       ? "a record of what is kept here cannot be read: perhaps it is that one's"
	           : ids && r->ops == &fm_redirect_dnat ? "may belong to the migration that is under way"
	                                                : NULL;
}

static void redirection_left(const char *what, void *userdata)
{
	struct redirections *r = userdata;
	struct fm_redirect_call c = call_for(r->x);
	struct fm_error e = FM_ERROR_INIT;

	if (r->x->clean) /* it was there before this look: whose it is was on record before it was made */
		learn(r);
	if (r->doubt)
		find(r->x, "note", what, r->doubt, "ask again when that is settled");
	else if (!r->x->clean || !r->ops->clean)
		find(r->x, "leftover", what, "belongs to no migration, and to nothing that is kept",
		     r->ops->clean ? "'fleximigrate doctor --clean' removes it" : "remove it by hand");
	else if (r->ops->clean(&c, r->known, what, &e) == 0)
		find(r->x, "ok", what, "was left over; removed", "");
	else
		find(r->x, "leftover", what, e.message, "remove it by hand");
}

/* Publications of containers that have gone without a word. */
static void check_published(struct exam *x, struct fm_stubs *stubs, const json_t *records)
{
	_fm_cleanup_(json_decrefp) json_t *left = NULL;
	struct fm_error e = FM_ERROR_INIT;
	const json_t *record;
	size_t i;

	if (fm_places_left(x->h, records, &left, &e) < 0) {
		find(x, "problem", "publications", e.message, "nothing can be said about publications before the runtime answers");
		return;
	}
	json_array_foreach(left, i, record)
	{
		const char *id = json_string_value(json_object_get(record, "id"));
		_fm_free_ char *subject = fm_xasprintf("publication %s", id);
		struct fm_redirect_call c = call_for(x);

		if (!x->clean)
			find(x, "leftover", subject, "its container is not here", "'fleximigrate doctor --clean' removes it");
		else if (x->h->keeper ? fm_keeper_left(x->h->keeper, record, &e) == 0 : fm_stubs_retire(stubs, id, &c, &e) == 0)
			find(x, "ok", subject, "was left over; removed", "");
		else
			find(x, "leftover", subject, e.message, "remove it by hand");
	}
}

static void check_driver(struct exam *x, const struct fm_redirect_ops *ops, struct fm_stubs *stubs)
{
	_fm_cleanup_(redirections_done) struct redirections r = { .x = x, .ops = ops, .stubs = stubs };
	_fm_cleanup_(json_decrefp) json_t *known = NULL;
	struct fm_redirect_call c = call_for(x);
	struct fm_error e = FM_ERROR_INIT;

	learn(&r);
	known = json_incref(r.known);
	if (ops->leftovers(&c, known, redirection_left, &r, &e) < 0 && e.code != FM_E_UNIMPLEMENTED)
		find(x, "problem", ops->title, e.message, "what is left over of it cannot be said");
}

/* What is on this host alone: drivers that change other machines are the manager's. */
static void check_redirections(struct exam *x)
{
	static const struct fm_redirect_ops *const here[] = { &fm_redirect_dnat, &fm_redirect_tunnel };
	_fm_free_ char *folder = fm_xasprintf("%s/kept", x->h->state_dir);
	_fm_stubs_ struct fm_stubs *stubs = NULL;
	_fm_cleanup_(json_decrefp) json_t *records = NULL;
	struct fm_error e = FM_ERROR_INIT;

	if (!x->h->keeper && fm_stubs_load(folder, NULL, NULL, &stubs, &e) < 0) {
		find(x, "problem", "what is kept", e.message, "nothing can be said about redirections before that can be read");
		return;
	}
	records = x->h->keeper ? fm_keeper_records(x->h->keeper) : fm_stubs_records(stubs);
	check_published(x, stubs, records);
	for (size_t i = 0; i < FM_ARRAY_SIZE(here); i++)
		check_driver(x, here[i], stubs);
}

int fm_doctor(struct fm_host *h, struct fm_movers *movers, bool clean, FM_PB(DoctorResponse) * ret, struct fm_error *err)
{
	struct exam x = { .h = h, .out = ret, .clean = clean };
	_fm_free_ struct fm_instance *instances = NULL;
	_fm_cleanup_(fm_strv_freep) char **ids = NULL;
	struct fm_error e = FM_ERROR_INIT;
	if (movers)
		fm_movers_ids(movers, &ids);
	check_programs(&x);
	check_trackers(&x);
	check_network(&x);
	tell_visited(&x);
	if (h->runtime->ops->list(h->runtime, &instances, &x.n_instances, &e) < 0) {
		find(&x, "problem", "runtime", e.message, "nothing can be said about leftovers before the runtime answers");
		return 0;
	}
	add_uncertain(&x, &instances);
	x.instances = instances;
	x.movers = ids;
	check_folder(&x, h->instances_dir, "instance", "instance", false);
	check_folder(&x, h->netns_dir, "namespace", "netns", true);
	check_folder(&x, h->images_dir, "images", "tmpfs", true);
	check_endpoints(&x);
	check_volumes(&x);
	check_redirections(&x);
	check_journals(&x, movers != NULL);
	return 0;
}
