/* SPDX-License-Identifier: MIT */
/*
 * network-measured.c - what agents report, as measurements of the topology's links. See network.h.
 *
 * Agents measure from end to end, a path's cost is the sum of its links'. Sharing out is multiplicative algebraic reconstruction (Gordon, Bender, Herman, "Algebraic reconstruction techniques (ART) for three-
 * dimensional electron microscopy and X-ray photography", 1970): begin with what is described; again and again, for each measured path, multiply the cost of each of its links by measured / sum. Links that no
 * measured path crosses stay as they are described; where measurements determine a link it comes out right whatever was described; where they do not, links of one path keep their described proportion.
 * Losses are added as -ln(1 - loss), which makes independent ones a sum.
 *
 * Paths are those of the description, not of the measurements: packets of the agents go where the network sends them, which does not know what we measure.
 */
#include <math.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "migration/network-internal.h"
#include "migration/usage.h"

#define REFRESH_MS     2000
#define PATHS_MAX      512 /* measured pairs that are looked at; with more, those of the first hosts */
#define SWEEPS         500 /* at most; it ends when nothing moves by more than SETTLED of itself */
#define SETTLED        1e-5
#define LATENCY_MIN_US 1.0  /* of a link that is described as having none, so that it can have a share */
#define LOSS_MIN       1e-9 /* likewise */

struct measured_path {
	struct fm_path path;
	double latency_us, loss; /* loss: -ln(1 - part) */
	uint64_t at_unix_ms;
};

struct work {
	FM_PB(Host) * *hosts;
	size_t n_hosts;
	struct measured_path *paths;
	size_t n_paths;
	double *cost; /* of each link */
	bool *crossed;
};

void fm_measured_init(struct fm_network *n)
{
	uint32_t links = fm_topology_n_links(n->d->topology);

	n->measured = calloc((size_t)links + 1, sizeof(*n->measured));
	if (!n->measured)
		abort();
	for (uint32_t i = 0; i < links; i++)
		n->measured[i].base = fm_topology_link(n->d->topology, i)->m;
}

static void work_done(struct work *w)
{
	for (size_t i = 0; i < w->n_hosts; i++)
		fm_pb_free(w->hosts[i]);
	free(w->hosts);
	for (size_t i = 0; i < w->n_paths; i++)
		fm_path_done(&w->paths[i].path);
	free(w->paths);
	free(w->cost);
	free(w->crossed);
}

/* ---- utilisation of hosts' links */

/* The links out of and into each node: the last one, and how many. Directed ones count for their direction only. */
struct ends {
	uint32_t link[2], n[2];
};

static struct ends *find_ends(const struct fm_topology *t)
{
	struct ends *ends = calloc((size_t)fm_topology_n_nodes(t) + 1, sizeof(*ends));

	for (uint32_t i = 0; ends && i < fm_topology_n_links(t); i++) {
		const struct fm_topology_link *l = fm_topology_link(t, i);
		for (int way = 0; way < (l->directed ? 1 : 2); way++) {
			struct ends *from = &ends[way ? l->to : l->from], *to = &ends[way ? l->from : l->to];
			from->link[0] = to->link[1] = i;
			from->n[0]++;
			to->n[1]++;
		}
	}
	return ends;
}

static void set_utilisation(struct fm_network *n, uint32_t link, double bytes_per_s, uint64_t at_unix_ms)
{
	const struct fm_topology_link *l = fm_topology_link(n->d->topology, link);
	struct fm_link_measurement m = l->m;
	double part = bytes_per_s / (double)(m.bandwidth_bytes_per_s ? m.bandwidth_bytes_per_s : 1);
	uint32_t ppm = part >= 1 ? FM_PPM : (uint32_t)(part * FM_PPM);

	/* both ends may be hosts, and both directions of one link: the greatest counts */
	m.utilisation_ppm = n->measured[link].utilisation && m.utilisation_ppm > ppm ? m.utilisation_ppm : ppm;
	if (fm_topology_measure(n->d->topology, link, &m, NULL) < 0)
		return;
	n->measured[link].utilisation = true;
	n->measured[link].at_unix_ms = at_unix_ms;
}

/* How many times as much as now is expected; 1 at least. */
static double growth(const struct fm_network *n, const char *host, const struct fm_host_usage *u)
{
	double now = (double)u->network_in_bytes_per_s + (double)u->network_out_bytes_per_s;
	if (!n->traffic || u->network_in_bytes_per_s == FM_USAGE_UNKNOWN || u->network_out_bytes_per_s == FM_USAGE_UNKNOWN || now < 1)
		return 1;
	double ahead = n->traffic(n->traffic_userdata, host);
	return ahead > now ? ahead / now : 1;
}

void fm_network_set_forecast(struct fm_network *n, double (*traffic)(void *userdata, const char *host), void *userdata)
{
	n->traffic = traffic;
	n->traffic_userdata = userdata;
}

static void measure_utilisation(struct fm_network *n, const struct work *w)
{
	_fm_free_ struct ends *ends = find_ends(n->d->topology);

	for (size_t i = 0; i < w->n_hosts; i++) {
		struct fm_host_usage u;
		uint32_t node;
		if (!ends || !fm_streq(w->hosts[i]->status, "online") ||
		    fm_topology_find_node(n->d->topology, w->hosts[i]->name, &node, NULL) < 0)
			continue;
		fm_usage_host_figures(w->hosts[i]->usage, &u);
		double times = growth(n, w->hosts[i]->name, &u);
		if (u.network_out_bytes_per_s != FM_USAGE_UNKNOWN && ends[node].n[0] == 1)
			set_utilisation(n, ends[node].link[0], (double)u.network_out_bytes_per_s * times, w->hosts[i]->last_seen_unix_ms);
		if (u.network_in_bytes_per_s != FM_USAGE_UNKNOWN && ends[node].n[1] == 1)
			set_utilisation(n, ends[node].link[1], (double)u.network_in_bytes_per_s * times, w->hosts[i]->last_seen_unix_ms);
	}
}

/* ---- latency and loss of paths */

static void add_path(struct fm_network *n, struct work *w, uint32_t from, const FM_PB(PeerMeasure) * p, uint64_t at_unix_ms)
{
	struct measured_path *m = &w->paths[w->n_paths];
	uint32_t to;

	if (fm_topology_find_node(n->d->topology, p->host, &to, NULL) < 0 ||
	    fm_topology_shortest(n->d->topology, from, to, NULL, &m->path, NULL) < 0)
		return;
	double part = p->loss_ppm < FM_PPM ? (double)p->loss_ppm / FM_PPM : 1 - 1e-6;
	m->latency_us = (double)p->latency_us;
	m->loss = -log1p(-part);
	m->at_unix_ms = at_unix_ms;
	w->n_paths++;
}

static void find_paths(struct fm_network *n, struct work *w)
{
	for (size_t i = 0; i < w->n_hosts; i++) {
		const FM_PB(Host) *h = w->hosts[i];
		uint32_t from;
		if (!fm_streq(h->status, "online") || fm_topology_find_node(n->d->topology, h->name, &from, NULL) < 0)
			continue;
		for (size_t k = 0; k < h->n_peers && w->n_paths < PATHS_MAX; k++)
			add_path(n, w, from, h->peers[k], h->last_seen_unix_ms);
	}
}

/* cost holds the described ones, and is made to fit. */
static void share_out(struct work *w, bool loss)
{
	double most = 1;

	for (int sweep = 0; sweep < SWEEPS && most > SETTLED; sweep++) {
		most = 0;
		for (size_t i = 0; i < w->n_paths; i++) {
			const struct measured_path *p = &w->paths[i];
			double sum = 0, wanted = loss ? p->loss : p->latency_us;
			for (uint32_t k = 0; k < p->path.n_links; k++)
				sum += w->cost[p->path.links[k]];
			for (uint32_t k = 0; sum > 0 && k < p->path.n_links; k++)
				w->cost[p->path.links[k]] *= wanted / sum;
			if (sum > 0 && wanted > 0)
				most = fmax(most, fabs(log(wanted / sum)));
		}
	}
}

static void measure_paths(struct fm_network *n, struct work *w)
{
	uint32_t links = fm_topology_n_links(n->d->topology);

	for (size_t i = 0; i < w->n_paths; i++)
		for (uint32_t k = 0; k < w->paths[i].path.n_links; k++) {
			struct fm_measured_link *m = &n->measured[w->paths[i].path.links[k]];
			w->crossed[w->paths[i].path.links[k]] = true;
			m->latency = m->loss = true;
			m->at_unix_ms = m->at_unix_ms > w->paths[i].at_unix_ms ? m->at_unix_ms : w->paths[i].at_unix_ms;
		}
	for (int loss = 0; loss < 2; loss++) {
		for (uint32_t i = 0; i < links; i++)
			w->cost[i] = loss ? fmax(-log1p(-fmin((double)n->measured[i].base.loss_ppm / FM_PPM, 1 - 1e-6)), LOSS_MIN)
			                  : fmax((double)n->measured[i].base.latency_us, LATENCY_MIN_US);
		share_out(w, loss);
		for (uint32_t i = 0; i < links; i++) {
			struct fm_link_measurement m = fm_topology_link(n->d->topology, i)->m;
			if (!w->crossed[i])
				continue;
			if (loss)
				m.loss_ppm = (uint32_t)lround(-expm1(-w->cost[i]) * FM_PPM);
			else
				m.latency_us = (uint64_t)fmin(w->cost[i] + 0.5, FM_MAX_LINK_LATENCY_US);
			(void)fm_topology_measure(n->d->topology, i, &m, NULL);
		}
	}
}

/* Everything as it is described: paths are to be found so, and what was measured once and is not any more is not known. */
static void reset(struct fm_network *n)
{
	for (uint32_t i = 0; i < fm_topology_n_links(n->d->topology); i++) {
		struct fm_measured_link *m = &n->measured[i];
		m->latency = m->loss = m->utilisation = m->told;
		(void)fm_topology_measure(n->d->topology, i, &m->base, NULL);
	}
}

static void take_over(struct fm_network *n, struct work *w)
{
	uint32_t links = fm_topology_n_links(n->d->topology);

	w->paths = calloc(PATHS_MAX, sizeof(*w->paths));
	w->cost = calloc((size_t)links + 1, sizeof(*w->cost));
	w->crossed = calloc((size_t)links + 1, sizeof(*w->crossed));
	if (!w->paths || !w->cost || !w->crossed)
		return; /* as it was, then */
	reset(n);
	find_paths(n, w);
	measure_paths(n, w);
	measure_utilisation(n, w);
}

void fm_network_refresh(struct fm_network *n)
{
	_fm_cleanup_(work_done) struct work w = { 0 };

	if (!n)
		return;
	pthread_rwlock_rdlock(&n->lock);
	bool due = !n->refreshed_ms || fm_now_ms() - n->refreshed_ms >= REFRESH_MS;
	pthread_rwlock_unlock(&n->lock);
	if (!due || fm_fleet_hosts(n->fleet, &w.hosts, &w.n_hosts, NULL) < 0)
		return;
	pthread_rwlock_wrlock(&n->lock);
	take_over(n, &w);
	n->refreshed_ms = fm_now_ms();
	pthread_rwlock_unlock(&n->lock);
}

/* ---- from host to host */

static void path_done(struct fm_path *p)
{
	fm_path_done(p);
}

int fm_network_between(struct fm_network *n, const char *from, const char *to, struct fm_network_way *ret, struct fm_error *err)
{
	_fm_cleanup_(path_done) struct fm_path p = { 0 };
	uint32_t a, b;

	if (fm_network_require(n, err) < 0)
		return -1;
	fm_network_refresh(n);
	pthread_rwlock_rdlock(&n->lock);
	const struct fm_topology *t = n->d->topology;
	int rc = fm_topology_find_node(t, from, &a, err) < 0 || fm_topology_find_node(t, to, &b, err) < 0
	                 ? -1
	                 : fm_topology_shortest(t, a, b, NULL, &p, err);
	if (rc == 0) {
		*ret = (struct fm_network_way){ .latency_us = p.latency_us, .loss_ppm = p.loss_ppm, .bandwidth_bytes_per_s = UINT64_MAX };
		for (uint32_t i = 0; i < p.n_links; i++) {
			const struct fm_link_measurement *m = &fm_topology_link(t, p.links[i])->m;
			ret->bandwidth_bytes_per_s = m->bandwidth_bytes_per_s < ret->bandwidth_bytes_per_s ? m->bandwidth_bytes_per_s
			                                                                                   : ret->bandwidth_bytes_per_s;
			ret->utilisation_ppm = m->utilisation_ppm > ret->utilisation_ppm ? m->utilisation_ppm : ret->utilisation_ppm;
		}
	}
	pthread_rwlock_unlock(&n->lock);
	return rc;
}
