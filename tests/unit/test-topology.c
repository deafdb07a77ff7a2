/* SPDX-License-Identifier: MIT */
/* test-topology.c - the graph, its description, and its paths: by hand, and against all paths there are on small random graphs. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>

#include "basic/cleanup.h"
#include "basic/str.h"
#include "network/topology.h"

/* ---- graphs by hand */

/* "h:" a host, "f:" one that forwards, else a switch */
static uint32_t node(struct fm_topology *t, const char *name)
{
	bool host = fm_str_startswith(name, "h:") || fm_str_startswith(name, "f:");
	uint32_t n = 0;

	assert_ok(fm_topology_add_node(t, host ? name + 2 : name, host ? FM_NODE_HOST : FM_NODE_SWITCH, name[0] == 'f' && host, &n, &err));
	return n;
}

static uint32_t add(struct fm_topology *t, uint32_t from, uint32_t to, const char *port, uint64_t latency_us, uint64_t bandwidth,
                    uint32_t utilisation_ppm, bool directed)
{
	struct fm_topology_link l = {
		.from = from, .to = to, .m = { latency_us, bandwidth, 0, utilisation_ppm }, .directed = directed, .up = true
	};
	uint32_t n = 0;

	snprintf(l.from_port.name, sizeof(l.from_port.name), "%s", port);
	assert_ok(fm_topology_add_link(t, &l, &n, &err));
	return n;
}

/*
 * a - s1 - b fast and narrow, a - s2 - b slow and wide, a - s3 - s1 in between, c hangs at b:
 *
 *   a -10- s1 -10- b        links 0, 1    100 bytes/s
 *   a -50- s2 -50- b        links 2, 3   1000 bytes/s, half of it used
 *   a -15- s3 -15- s1       links 4, 5    300 bytes/s
 *   b -5- c                 link  6      1000 bytes/s
 */
enum { A, B, C, S1, S2, S3 };

static struct fm_topology *sample(void)
{
	static const char *const names[] = { "h:a", "h:b", "h:c", "s1", "s2", "s3" };
	struct fm_topology *t = fm_topology_new();

	assert_non_null(t);
	for (size_t i = 0; i < FM_ARRAY_SIZE(names); i++)
		assert_int_equal(node(t, names[i]), i);
	add(t, A, S1, "", 10, 100, 0, false);
	add(t, S1, B, "", 10, 100, 0, false);
	add(t, A, S2, "", 50, 1000, 500000, false);
	add(t, B, S2, "", 50, 1000, 500000, false);
	add(t, A, S3, "", 15, 300, 0, false);
	add(t, S3, S1, "", 15, 300, 0, false);
	add(t, B, C, "", 5, 1000, 0, false);
	return t;
}

/* "a s1 b" */
static void assert_path(const struct fm_topology *t, const struct fm_path *p, const char *names)
{
	_fm_buf_ struct fm_buf b = FM_BUF_INIT;

	for (uint32_t i = 0; i <= p->n_links; i++)
		fm_buf_addf(&b, "%s%s", i ? " " : "", fm_topology_node(t, p->nodes[i])->name);
	assert_string_equal(b.data, names);
}

static void assert_shortest(const struct fm_topology *t, uint32_t from, uint32_t to, const struct fm_path_constraints *c, const char *names)
{
	_fm_cleanup_(fm_path_done) struct fm_path p = { 0 };

	assert_ok(fm_topology_shortest(t, from, to, c, &p, &err));
	assert_path(t, &p, names);
}

static void assert_widest(const struct fm_topology *t, uint32_t from, uint32_t to, const struct fm_path_constraints *c, const char *names)
{
	_fm_cleanup_(fm_path_done) struct fm_path p = { 0 };

	assert_ok(fm_topology_widest(t, from, to, c, &p, &err));
	assert_path(t, &p, names);
}

/* None, for all three questions, and why. */
static void assert_none(const struct fm_topology *t, uint32_t from, uint32_t to, const struct fm_path_constraints *c, const char *why)
{
	struct fm_path p, *v;
	size_t n;

	assert_code(FM_E_NOT_FOUND, fm_topology_shortest(t, from, to, c, &p, &err));
	assert_non_null(strstr(err.message, why));
	assert_code(FM_E_NOT_FOUND, fm_topology_widest(t, from, to, c, &p, &err));
	assert_non_null(strstr(err.message, why));
	assert_code(FM_E_NOT_FOUND, fm_topology_k_shortest(t, from, to, 3, c, &v, &n, &err));
	assert_non_null(strstr(err.message, why));
}

static void test_shortest_and_widest(void **state)
{
	_fm_cleanup_(fm_topology_freep) struct fm_topology *t = sample();
	_fm_cleanup_(fm_path_done) struct fm_path p = { 0 };

	assert_ok(fm_topology_shortest(t, A, B, NULL, &p, &err));
	assert_path(t, &p, "a s1 b");
	assert_int_equal(p.links[0], 0);
	assert_int_equal(p.links[1], 1);
	assert_int_equal(p.latency_us, 20);
	assert_int_equal(p.available_bytes_per_s, 100);
	fm_path_done(&p);
	assert_ok(fm_topology_widest(t, B, A, NULL, &p, &err));
	assert_path(t, &p, "b s2 a");
	assert_int_equal(p.latency_us, 100);
	assert_int_equal(p.available_bytes_per_s, 500);
}

static void test_constraints(void **state)
{
	_fm_cleanup_(fm_topology_freep) struct fm_topology *t = sample();
	struct fm_path_constraints wide = { .min_available_bytes_per_s = 101 }, quick = { .max_latency_us = 99 };
	struct fm_path_constraints no_s1 = { .avoid_nodes = (uint32_t[]){ S1 }, .n_avoid_nodes = 1 };
	struct fm_path_constraints no_0 = { .avoid_links = (uint32_t[]){ 6, 0 }, .n_avoid_links = 2 };

	assert_shortest(t, A, B, &wide, "a s2 b");
	assert_shortest(t, A, S1, &wide, "a s3 s1");
	assert_shortest(t, A, B, &no_s1, "a s2 b");
	assert_shortest(t, A, B, &no_0, "a s3 s1 b");
	/* too long when it is as wide as can be: the next in width, with its shortest path */
	assert_widest(t, A, B, &quick, "a s1 b");
	quick.max_latency_us = 100;
	assert_widest(t, A, B, &quick, "a s2 b");
	assert_widest(t, A, S1, NULL, "a s3 s1");
	assert_widest(t, A, S1, &(struct fm_path_constraints){ .max_latency_us = 29 }, "a s1");
}

static void test_why_there_is_none(void **state)
{
	_fm_cleanup_(fm_topology_freep) struct fm_topology *t = sample();
	uint32_t alone = node(t, "h:alone");

	assert_none(t, A, alone, NULL, "no links lead from \"a\" to \"alone\"");
	assert_none(t, A, C, NULL, "leads through a host that does not forward");
	assert_none(t, A, B, &(struct fm_path_constraints){ .min_available_bytes_per_s = 501 },
	            "has 501 bytes/s available: the widest has 500");
	assert_none(t, A, B, &(struct fm_path_constraints){ .max_latency_us = 19 }, "at most 19 us: the shortest has 20");
	assert_none(t, A, B, &(struct fm_path_constraints){ .max_latency_us = 99, .min_available_bytes_per_s = 101 },
	            "that is wide enough has a latency of at most 99 us: the shortest has 100");
	assert_none(t, A, B, &(struct fm_path_constraints){ .avoid_nodes = (uint32_t[]){ S1, S2 }, .n_avoid_nodes = 2 }, "to be avoided");
	assert_ok(fm_topology_set_up(t, 1, false, &err));
	assert_shortest(t, A, B, NULL, "a s2 b");
	assert_ok(fm_topology_set_up(t, 2, false, &err));
	assert_none(t, A, B, NULL, "has a link that is down");
	assert_ok(fm_topology_set_up(t, 1, true, &err));
	assert_shortest(t, A, B, NULL, "a s1 b");
}

static void test_questions_that_make_no_sense(void **state)
{
	_fm_cleanup_(fm_topology_freep) struct fm_topology *t = sample();
	uint32_t end[] = { B }, beyond[] = { 7 };
	struct fm_path p, *v;
	size_t n;

	assert_code(FM_E_INVALID_ARGUMENT, fm_topology_shortest(t, A, 6, NULL, &p, &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_topology_shortest(t, 6, A, NULL, &p, &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_topology_shortest(t, A, A, NULL, &p, &err));
	assert_code(FM_E_INVALID_ARGUMENT,
	            fm_topology_widest(t, A, B, &(struct fm_path_constraints){ .avoid_nodes = end, .n_avoid_nodes = 1 }, &p, &err));
	assert_code(FM_E_INVALID_ARGUMENT,
	            fm_topology_widest(t, A, B, &(struct fm_path_constraints){ .avoid_links = beyond, .n_avoid_links = 1 }, &p, &err));
	assert_code(FM_E_INVALID_ARGUMENT,
	            fm_topology_k_shortest(t, A, B, 2, &(struct fm_path_constraints){ .avoid_nodes = beyond, .n_avoid_nodes = 1 }, &v, &n,
	                                   &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_topology_k_shortest(t, A, B, 0, NULL, &v, &n, &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_topology_k_shortest(t, A, B, FM_MAX_PATHS + 1, NULL, &v, &n, &err));
}

static void test_several(void **state)
{
	static const char *const expected[] = { "a s1 b", "a s3 s1 b", "a s2 b" };
	_fm_cleanup_(fm_topology_freep) struct fm_topology *t = sample();
	struct fm_path *v = NULL;
	size_t n = 0;

	assert_ok(fm_topology_k_shortest(t, A, B, 10, NULL, &v, &n, &err));
	assert_int_equal(n, 3);
	for (size_t i = 0; i < n; i++)
		assert_path(t, &v[i], expected[i]);
	fm_paths_free(v, n);
	assert_ok(fm_topology_k_shortest(t, A, B, 10, &(struct fm_path_constraints){ .max_latency_us = 40 }, &v, &n, &err));
	assert_int_equal(n, 2);
	fm_paths_free(v, n);
	assert_ok(fm_topology_k_shortest(t, A, B, 1, NULL, &v, &n, &err));
	assert_int_equal(n, 1);
	fm_paths_free(v, n);
}

static void test_direction(void **state)
{
	_fm_cleanup_(fm_topology_freep) struct fm_topology *t = fm_topology_new();
	uint32_t a = node(t, "h:a"), b = node(t, "f:b"), c = node(t, "h:c"), there = add(t, a, b, "", 7, 10, 0, true), found = 0;

	add(t, b, c, "", 1, 10, 0, false);
	assert_shortest(t, a, c, NULL, "a b c");
	assert_none(t, c, a, NULL, "no links lead");
	assert_ok(fm_topology_find_link(t, "a", NULL, "b", NULL, &found, &err));
	assert_int_equal(found, there);
	assert_code(FM_E_NOT_FOUND, fm_topology_find_link(t, "b", NULL, "a", NULL, &found, &err));
	/* the same ports: not in the same direction again, but the other way */
	assert_code(FM_E_ALREADY_EXISTS, fm_topology_add_link(t, fm_topology_link(t, there), NULL, &err));
	add(t, b, a, "", 9, 10, 0, true);
	assert_shortest(t, c, a, NULL, "c b a");
}

static void test_parallel_links(void **state)
{
	_fm_cleanup_(fm_topology_freep) struct fm_topology *t = fm_topology_new();
	uint32_t a = node(t, "h:a"), b = node(t, "h:b"), slow = add(t, a, b, "eth0", 20, 10, 0, false),
	         quick = add(t, b, a, "eth1", 10, 10, 0, false);
	struct fm_topology_link l = { .from = a, .from_port = { .name = "x" }, .to = b, .to_port = { .name = "y" } };
	uint32_t found = 0;
	struct fm_path *v = NULL;
	size_t n = 0;

	assert_ok(fm_topology_k_shortest(t, a, b, 5, NULL, &v, &n, &err));
	assert_int_equal(n, 2);
	assert_int_equal(v[0].links[0], quick);
	assert_int_equal(v[1].links[0], slow);
	fm_paths_free(v, n);
	assert_code(FM_E_FAILED_PRECONDITION, fm_topology_find_link(t, "a", NULL, "b", NULL, &found, &err));
	assert_ok(fm_topology_find_link(t, "a", "eth0", "b", NULL, &found, &err));
	assert_int_equal(found, slow);
	assert_ok(fm_topology_find_link(t, "a", NULL, "b", "eth1", &found, &err));
	assert_int_equal(found, quick);
	assert_code(FM_E_NOT_FOUND, fm_topology_find_link(t, "a", "eth2", "b", NULL, &found, &err));
	/* a link between two named ports is one from either end, and another than between the ports of these names the other way round */
	assert_ok(fm_topology_add_link(t, &l, NULL, &err));
	l = (struct fm_topology_link){ .from = b, .from_port = { .name = "y" }, .to = a, .to_port = { .name = "x" }, .directed = true };
	assert_code(FM_E_ALREADY_EXISTS, fm_topology_add_link(t, &l, NULL, &err));
	l = (struct fm_topology_link){ .from = b, .from_port = { .name = "x" }, .to = a, .to_port = { .name = "y" }, .directed = true };
	assert_ok(fm_topology_add_link(t, &l, NULL, &err));
	assert_code(FM_E_NOT_FOUND, fm_topology_find_link(t, "a", NULL, "z", NULL, &found, &err));
}

/* Four paths of the same latency, a longer one among them: fewest links, then the links that were added first, seen from the end. */
static void test_ties(void **state)
{
	_fm_cleanup_(fm_topology_freep) struct fm_topology *t = fm_topology_new();
	uint32_t a = node(t, "h:a"), b = node(t, "h:b"), x = node(t, "x"), y = node(t, "y"), z = node(t, "z");

	add(t, a, z, "", 0, 10, 0, false);
	add(t, z, y, "", 5, 10, 0, false);
	add(t, a, y, "", 5, 10, 0, false);
	add(t, a, x, "", 5, 10, 0, false);
	add(t, x, b, "", 5, 10, 0, false);
	add(t, y, b, "", 5, 10, 0, false);
	assert_shortest(t, a, b, NULL, "a x b");
	assert_widest(t, a, b, NULL, "a x b");
	assert_shortest(t, b, a, NULL, "b y a");
}

static void test_measured_in_place(void **state)
{
	_fm_cleanup_(fm_topology_freep) struct fm_topology *t = sample();
	_fm_cleanup_(fm_path_done) struct fm_path p = { 0 };
	struct fm_link_measurement m = { 200, 1000, 500000, 999999 };

	assert_ok(fm_topology_shortest(t, A, B, NULL, &p, &err));
	assert_int_equal(p.loss_ppm, 0);
	assert_ok(fm_topology_measure(t, 0, &m, &err));
	m.latency_us = 30;
	assert_ok(fm_topology_measure(t, 1, &m, &err));
	fm_path_summarise(t, &p);
	assert_int_equal(p.latency_us, 230);
	assert_int_equal(p.available_bytes_per_s, 1); /* a thousandth of one, rounded up */
	assert_int_equal(p.loss_ppm, 750000);         /* half, and half of the rest */
	assert_shortest(t, A, B, NULL, "a s3 s1 b");
	m.utilisation_ppm = FM_PPM + 1;
	assert_code(FM_E_INVALID_ARGUMENT, fm_topology_measure(t, 0, &m, &err));
	m.utilisation_ppm = 0;
	m.loss_ppm = FM_PPM + 1;
	assert_code(FM_E_INVALID_ARGUMENT, fm_topology_measure(t, 0, &m, &err));
	m.loss_ppm = 0;
	m.latency_us = FM_MAX_LINK_LATENCY_US + 1;
	assert_code(FM_E_INVALID_ARGUMENT, fm_topology_measure(t, 0, &m, &err));
	m.latency_us = 0;
	m.bandwidth_bytes_per_s = FM_MAX_LINK_BYTES_PER_S + 1;
	assert_code(FM_E_INVALID_ARGUMENT, fm_topology_measure(t, 0, &m, &err));
	assert_int_equal(fm_topology_link(t, 0)->m.latency_us, 200);
	m = (struct fm_link_measurement){ FM_MAX_LINK_LATENCY_US, FM_MAX_LINK_BYTES_PER_S, FM_PPM, FM_PPM };
	assert_ok(fm_topology_measure(t, 0, &m, &err));
	assert_int_equal(fm_topology_link_available(fm_topology_link(t, 0)), 0);
	m.utilisation_ppm = 1;
	assert_ok(fm_topology_measure(t, 0, &m, &err));
	assert_int_equal(fm_topology_link_available(fm_topology_link(t, 0)), FM_MAX_LINK_BYTES_PER_S / FM_PPM * (FM_PPM - 1));
	assert_code(FM_E_INVALID_ARGUMENT, fm_topology_measure(t, 7, &m, &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_topology_set_up(t, 7, true, &err));
}

static void test_what_cannot_be_added(void **state)
{
	_fm_cleanup_(fm_topology_freep) struct fm_topology *t = sample();
	struct fm_topology_link l = *fm_topology_link(t, 0);

	assert_code(FM_E_INVALID_ARGUMENT, fm_topology_add_node(t, "-a", FM_NODE_HOST, false, NULL, &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_topology_add_node(t, NULL, FM_NODE_HOST, false, NULL, &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_topology_add_node(t, "x", 0, false, NULL, &err));
	assert_code(FM_E_ALREADY_EXISTS, fm_topology_add_node(t, "s1", FM_NODE_HOST, false, NULL, &err));
	assert_code(FM_E_ALREADY_EXISTS, fm_topology_add_link(t, &l, NULL, &err));
	l.from = S1; /* the other way round is the same link */
	l.to = A;
	assert_code(FM_E_ALREADY_EXISTS, fm_topology_add_link(t, &l, NULL, &err));
	l.directed = true; /* and half of it is there already, too */
	assert_code(FM_E_ALREADY_EXISTS, fm_topology_add_link(t, &l, NULL, &err));
	l.to_port.number = 1;
	strcpy(l.from_port.name, "eth0"); /* ports told apart by name at one end, by number at the other */
	assert_ok(fm_topology_add_link(t, &l, NULL, &err));
	l.directed = false; /* both ways where there is one */
	assert_code(FM_E_ALREADY_EXISTS, fm_topology_add_link(t, &l, NULL, &err));
	l.from = A;
	l.to = S1;
	l.from_port = (struct fm_topology_port){ .number = 1 };
	l.to_port = (struct fm_topology_port){ .name = "eth0" };
	assert_code(FM_E_ALREADY_EXISTS, fm_topology_add_link(t, &l, NULL, &err));
	l.from = S1;
	l.to = A;
	l.to_port.number = 0xffffff01;
	assert_code(FM_E_INVALID_ARGUMENT, fm_topology_add_link(t, &l, NULL, &err));
	l.to_port.number = 2;
	strcpy(l.to_port.name, "eth 0");
	assert_code(FM_E_INVALID_ARGUMENT, fm_topology_add_link(t, &l, NULL, &err));
	memset(l.to_port.name, 'x', sizeof(l.to_port.name));
	assert_code(FM_E_INVALID_ARGUMENT, fm_topology_add_link(t, &l, NULL, &err));
	l.to_port.name[0] = '\0';
	l.to = S1;
	assert_code(FM_E_INVALID_ARGUMENT, fm_topology_add_link(t, &l, NULL, &err));
	l.to = 6;
	assert_code(FM_E_INVALID_ARGUMENT, fm_topology_add_link(t, &l, NULL, &err));
	assert_int_equal(fm_topology_n_links(t), 8);
	assert_null(fm_topology_link(t, 8));
	assert_null(fm_topology_node(t, 6));
}

/* ---- random graphs, against every path there is */

#define NODES_MAX 7
#define LINKS_MAX 20
#define ALL_MAX   20000

static uint64_t random_state;

static uint32_t random_below(uint32_t n)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)(random_state >> 20) % n;
}

/* Small numbers, so that there are many ties. */
static struct fm_topology *random_topology(void)
{
	struct fm_topology *t = fm_topology_new();
	uint32_t spread = 1 + random_below(6), nodes = 2 + random_below(NODES_MAX - 1), links = nodes / 2 + random_below(LINKS_MAX - 3);

	assert_non_null(t);
	for (uint32_t i = 0; i < nodes; i++) {
		char name[16];

		snprintf(name, sizeof(name), "%s%u", random_below(6) ? "s" : random_below(2) ? "h:h" : "f:f", i);
		node(t, name);
	}
	for (uint32_t i = 0; i < links; i++) {
		uint32_t from = random_below(nodes), to = random_below(nodes), link;
		char port[16];

		snprintf(port, sizeof(port), "p%u", i);
		if (from == to)
			continue;
		link = add(t, from, to, port, random_below(spread), random_below(5) * 100, random_below(3) * 400000, random_below(4) == 0);
		assert_ok(fm_topology_set_up(t, link, random_below(12) > 0, &err));
	}
	return t;
}

struct all {
	const struct fm_topology *t;
	const struct fm_path_constraints *c;
	uint32_t to, n, nodes[NODES_MAX], links[NODES_MAX];
	uint64_t latency_us, available;
	struct {
		uint64_t latency_us, available;
		uint32_t n_links;
	} found[ALL_MAX];
	size_t n_found;
};

static bool contains(const uint32_t *v, size_t n, uint32_t x)
{
	for (size_t i = 0; i < n; i++)
		if (v[i] == x)
			return true;
	return false;
}

static bool may_cross(const struct all *a, uint32_t link, uint32_t here, uint32_t *ret_peer)
{
	const struct fm_topology_link *l = fm_topology_link(a->t, link);

	if (!l->up || (l->from != here && (l->directed || l->to != here)))
		return false;
	*ret_peer = l->from == here ? l->to : l->from;
	return !contains(a->nodes, a->n + 1, *ret_peer) && !contains(a->c->avoid_nodes, a->c->n_avoid_nodes, *ret_peer) &&
	       !contains(a->c->avoid_links, a->c->n_avoid_links, link) && fm_topology_link_available(l) >= a->c->min_available_bytes_per_s;
}

static void enumerate(struct all *a)
{
	uint32_t here = a->nodes[a->n], peer = 0;

	if (here == a->to) {
		if (a->c->max_latency_us && a->latency_us > a->c->max_latency_us)
			return;
		assert_true(a->n_found < ALL_MAX);
		a->found[a->n_found].latency_us = a->latency_us;
		a->found[a->n_found].available = a->available;
		a->found[a->n_found++].n_links = a->n;
		return;
	}
	if (a->n > 0 && !fm_topology_node(a->t, here)->forwards)
		return;
	for (uint32_t i = 0; i < fm_topology_n_links(a->t); i++) {
		uint64_t latency_us = a->latency_us, available = a->available, mine = fm_topology_link_available(fm_topology_link(a->t, i));

		if (!may_cross(a, i, here, &peer))
			continue;
		a->links[a->n++] = i;
		a->nodes[a->n] = peer;
		a->latency_us += fm_topology_link(a->t, i)->m.latency_us;
		a->available = mine < available ? mine : available;
		enumerate(a);
		a->n--;
		a->latency_us = latency_us;
		a->available = available;
	}
}

static int by_latency_and_links(const void *x, const void *y)
{
	const __typeof__(((struct all *)0)->found[0]) *a = x, *b = y;

	if (a->latency_us != b->latency_us)
		return a->latency_us < b->latency_us ? -1 : 1;
	return a->n_links < b->n_links ? -1 : a->n_links > b->n_links;
}

/* Is it one of those that are allowed, and are its figures right? */
static void check_path(const struct all *a, uint32_t from, const struct fm_path *p)
{
	struct all walk = { .t = a->t, .c = a->c };
	uint64_t latency_us = 0, available = UINT64_MAX;
	uint32_t peer = 0;

	assert_int_equal(p->nodes[0], from);
	assert_int_equal(p->nodes[p->n_links], a->to);
	walk.nodes[0] = from;
	for (uint32_t i = 0; i < p->n_links; i++) {
		const struct fm_topology_link *l = fm_topology_link(a->t, p->links[i]);
		uint64_t mine = fm_topology_link_available(l);

		assert_true(i == 0 || fm_topology_node(a->t, p->nodes[i])->forwards);
		assert_true(may_cross(&walk, p->links[i], p->nodes[i], &peer));
		assert_int_equal(peer, p->nodes[i + 1]);
		walk.nodes[++walk.n] = peer;
		latency_us += l->m.latency_us;
		available = mine < available ? mine : available;
	}
	assert_int_equal(p->latency_us, latency_us);
	assert_int_equal(p->available_bytes_per_s, available);
}

static void check_shortest_and_widest(struct all *a, uint32_t from)
{
	struct fm_path shortest = { 0 }, widest = { 0 };
	size_t best = 0;

	if (a->n_found == 0) {
		assert_code(FM_E_NOT_FOUND, fm_topology_shortest(a->t, from, a->to, a->c, &shortest, &err));
		assert_code(FM_E_NOT_FOUND, fm_topology_widest(a->t, from, a->to, a->c, &widest, &err));
		return;
	}
	for (size_t i = 1; i < a->n_found; i++) /* the first of the widest, in order of latency and links */
		if (a->found[i].available > a->found[best].available)
			best = i;
	assert_ok(fm_topology_shortest(a->t, from, a->to, a->c, &shortest, &err));
	assert_ok(fm_topology_widest(a->t, from, a->to, a->c, &widest, &err));
	check_path(a, from, &shortest);
	check_path(a, from, &widest);
	assert_int_equal(shortest.latency_us, a->found[0].latency_us);
	assert_int_equal(shortest.n_links, a->found[0].n_links);
	assert_int_equal(widest.available_bytes_per_s, a->found[best].available);
	assert_int_equal(widest.latency_us, a->found[best].latency_us);
	assert_int_equal(widest.n_links, a->found[best].n_links);
	fm_path_done(&shortest);
	fm_path_done(&widest);
}

static void check_several(struct all *a, uint32_t from)
{
	size_t k = 1 + random_below(FM_MAX_PATHS), n = 0, expected = a->n_found < k ? a->n_found : k;
	struct fm_path *v = NULL;

	if (a->n_found == 0) {
		assert_code(FM_E_NOT_FOUND, fm_topology_k_shortest(a->t, from, a->to, k, a->c, &v, &n, &err));
		return;
	}
	assert_ok(fm_topology_k_shortest(a->t, from, a->to, k, a->c, &v, &n, &err));
	assert_int_equal(n, expected);
	for (size_t i = 0; i < n; i++) {
		check_path(a, from, &v[i]);
		assert_int_equal(v[i].latency_us, a->found[i].latency_us);
		assert_int_equal(v[i].n_links, a->found[i].n_links);
		for (size_t j = 0; j < i; j++)
			assert_false(v[i].n_links == v[j].n_links && memcmp(v[i].links, v[j].links, v[i].n_links * sizeof(uint32_t)) == 0);
	}
	fm_paths_free(v, n);
}

static void test_random(void **state)
{
	struct all *a = calloc(1, sizeof(*a));
	size_t unreachable = 0, many = 0;

	assert_non_null(a);
	random_state = 0x9e3779b97f4a7c15;
	for (int round = 0; round < 4000; round++) {
		_fm_cleanup_(fm_topology_freep) struct fm_topology *t = random_topology();
		uint32_t nodes = fm_topology_n_nodes(t), links = fm_topology_n_links(t), from = random_below(nodes);
		uint32_t avoid_node = random_below(nodes), avoid_link = random_below(links + 1);
		struct fm_path_constraints c = { .max_latency_us = random_below(3) ? 0 : random_below(20),
			                         .min_available_bytes_per_s = random_below(3) ? 0 : random_below(300),
			                         .avoid_nodes = &avoid_node,
			                         .avoid_links = &avoid_link };

		memset(a, 0, offsetof(struct all, found));
		a->n_found = 0;
		a->t = t;
		a->c = &c;
		a->to = (from + 1 + random_below(nodes - 1)) % nodes;
		a->available = UINT64_MAX;
		a->nodes[0] = from;
		c.n_avoid_nodes = random_below(4) == 0 && avoid_node != from && avoid_node != a->to;
		c.n_avoid_links = random_below(2) == 0 && avoid_link < links;
		enumerate(a);
		qsort(a->found, a->n_found, sizeof(a->found[0]), by_latency_and_links);
		check_shortest_and_widest(a, from);
		check_several(a, from);
		unreachable += a->n_found == 0;
		many += a->n_found > 5;
	}
	free(a);
	/* the graphs are such that both happen often enough to mean something */
	assert_in_range(unreachable, 300, 3700);
	assert_in_range(many, 300, 3700);
}

/* ---- the description */

static struct fm_topology *parse(const char *text)
{
	struct fm_topology *t = NULL;

	assert_ok(fm_topology_parse(text, strlen(text), &t, &err));
	return t;
}

static void test_description(void **state)
{
	_fm_cleanup_(fm_topology_freep) struct fm_topology *t =
	        parse("{\"version\": 1, \"links\": [{\"from\": \"a\", \"from_port\": \"eth0\", \"to\": \"s1\", \"to_port\": \"ge-0/0/1\","
	              "\"to_port_number\": 7, \"latency_us\": 120, \"bandwidth_bytes_per_s\": 1250000000, \"loss_ppm\": 3,"
	              "\"utilisation_ppm\": 300000, \"directed\": true, \"up\": false},"
	              "{\"from\": \"s1\", \"to\": \"b\", \"latency_us\": 0, \"bandwidth_bytes_per_s\": 0}],"
	              "\"hosts\": [{\"name\": \"a\"}, {\"name\": \"b\", \"forwards\": true}], \"switches\": [{\"name\": \"s1\"}]}");
	const struct fm_topology_link *l = fm_topology_link(t, 0);

	assert_int_equal(fm_topology_n_nodes(t), 3);
	assert_int_equal(fm_topology_n_links(t), 2);
	assert_int_equal(fm_topology_node(t, 0)->kind, FM_NODE_HOST);
	assert_false(fm_topology_node(t, 0)->forwards);
	assert_true(fm_topology_node(t, 1)->forwards);
	assert_int_equal(fm_topology_node(t, 2)->kind, FM_NODE_SWITCH);
	assert_true(fm_topology_node(t, 2)->forwards);
	assert_int_equal(l->from, 0);
	assert_int_equal(l->to, 2);
	assert_string_equal(l->from_port.name, "eth0");
	assert_int_equal(l->from_port.number, 0);
	assert_string_equal(l->to_port.name, "ge-0/0/1");
	assert_int_equal(l->to_port.number, 7);
	assert_int_equal(l->m.latency_us, 120);
	assert_int_equal(l->m.bandwidth_bytes_per_s, 1250000000);
	assert_int_equal(l->m.loss_ppm, 3);
	assert_int_equal(l->m.utilisation_ppm, 300000);
	assert_true(l->directed);
	assert_false(l->up);
	l = fm_topology_link(t, 1);
	assert_string_equal(l->from_port.name, "");
	assert_false(l->directed);
	assert_true(l->up);
}

#define LINK(members) "{\"version\":1,\"switches\":[{\"name\":\"a\"},{\"name\":\"b\"}],\"links\":[{" members "}]}"
#define FULL(members) LINK("\"from\":\"a\",\"to\":\"b\",\"latency_us\":1,\"bandwidth_bytes_per_s\":1," members)

static void test_wrong_descriptions(void **state)
{
	static const struct {
		const char *text, *why;
		enum fm_code code;
	} wrong[] = {
		{ "", "line 1, column 0", FM_E_INVALID_ARGUMENT },
		{ "{\"version\": 1,\n \"hosts\" 2}", "line 2, column 10", FM_E_INVALID_ARGUMENT },
		{ "{\"version\": 1, \"version\": 1}", "duplicate", FM_E_INVALID_ARGUMENT },
		{ "{\"version\": 1} 2", "line 1", FM_E_INVALID_ARGUMENT },
		{ "[]", "topology: it is not an object", FM_E_INVALID_ARGUMENT },
		{ "{}", "topology: version is missing", FM_E_INVALID_ARGUMENT },
		{ "{\"version\": 2}", "version 2; only 1 is known", FM_E_INVALID_ARGUMENT },
		{ "{\"version\": 1, \"nodes\": []}", "topology: nodes is not a member", FM_E_INVALID_ARGUMENT },
		{ "{\"version\": 1, \"hosts\": {}}", "topology: hosts is not a list", FM_E_INVALID_ARGUMENT },
		{ "{\"version\": 1, \"hosts\": [\"a\"]}", "topology: hosts[0] is not an object", FM_E_INVALID_ARGUMENT },
		{ "{\"version\": 1, \"hosts\": [{}]}", "topology: hosts[0].name is missing", FM_E_INVALID_ARGUMENT },
		{ "{\"version\": 1, \"hosts\": [{\"name\": 7}]}", "topology: hosts[0].name is not a string", FM_E_INVALID_ARGUMENT },
		{ "{\"version\": 1, \"hosts\": [{\"name\": \"a b\"}]}", "topology: hosts[0]: \"a b\" is not a name",
		  FM_E_INVALID_ARGUMENT },
		{ "{\"version\": 1, \"hosts\": [{\"name\": \"a\", \"forwards\": 1}]}", "hosts[0].forwards is neither",
		  FM_E_INVALID_ARGUMENT },
		{ "{\"version\": 1, \"hosts\": [{\"name\": \"a\"}], \"switches\": [{\"name\": \"a\"}]}", "topology: switches[0]: there is",
		  FM_E_ALREADY_EXISTS },
		{ "{\"version\": 1, \"switches\": [{\"name\": \"a\", \"forwards\": true}]}", "switches[0].forwards is not a member",
		  FM_E_INVALID_ARGUMENT },
		{ LINK(""), "topology: links[0].from is missing", FM_E_INVALID_ARGUMENT },
		{ LINK("\"from\":\"c\",\"to\":\"b\",\"latency_us\":1,\"bandwidth_bytes_per_s\":1"),
		  "topology: links[0].from: there is no host or switch \"c\"", FM_E_INVALID_ARGUMENT },
		{ LINK("\"from\":\"a\",\"to\":\"b\""), "topology: links[0].latency_us is missing", FM_E_INVALID_ARGUMENT },
		{ LINK("\"from\":\"a\",\"to\":\"b\",\"latency_ms\":1"), "topology: links[0].latency_ms is not a member",
		  FM_E_INVALID_ARGUMENT },
		{ LINK("\"from\":\"a\",\"to\":\"b\",\"latency_us\":1"), "links[0].bandwidth_bytes_per_s is missing",
		  FM_E_INVALID_ARGUMENT },
		{ LINK("\"from\":\"a\",\"to\":\"b\",\"latency_us\":1.5"), "latency_us is not a whole number from 0 to 60000000",
		  FM_E_INVALID_ARGUMENT },
		{ LINK("\"from\":\"a\",\"to\":\"b\",\"latency_us\":-1"), "latency_us is not a whole number", FM_E_INVALID_ARGUMENT },
		{ LINK("\"from\":\"a\",\"to\":\"b\",\"latency_us\":60000001"), "latency_us is not a whole number", FM_E_INVALID_ARGUMENT },
		{ LINK("\"from\":\"a\",\"to\":\"a\",\"latency_us\":1,\"bandwidth_bytes_per_s\":1"),
		  "topology: links[0]: a link from \"a\" to itself", FM_E_INVALID_ARGUMENT },
		{ FULL("\"loss_ppm\":1000001"), "links[0].loss_ppm is not a whole number from 0 to 1000000", FM_E_INVALID_ARGUMENT },
		{ FULL("\"utilisation_ppm\":1000001"), "links[0].utilisation_ppm is not", FM_E_INVALID_ARGUMENT },
		{ FULL("\"from_port\":\"12345678901234567890123456789012\""), "links[0].from_port has 32 bytes; 1 to 31 are possible",
		  FM_E_INVALID_ARGUMENT },
		{ FULL("\"to_port\":\"a\\\"b\""), "topology: links[0]: \"a\"b\" is not the name of a port", FM_E_INVALID_ARGUMENT },
		{ FULL("\"to_port_number\":4294967041"), "topology: links[0]: port number 4294967041", FM_E_INVALID_ARGUMENT },
		{ FULL("\"up\":null"), "topology: links[0].up is neither", FM_E_INVALID_ARGUMENT },
		{ FULL("\"up\":true},{\"from\":\"b\",\"to\":\"a\",\"latency_us\":1,\"bandwidth_bytes_per_s\":1"),
		  "topology: links[1]: there is a link", FM_E_ALREADY_EXISTS },
		{ "{\"version\": 1, \"hosts\": [[[[]]]]}", "lists; there are three", FM_E_INVALID_ARGUMENT },
	};
	struct fm_topology *t = NULL;

	for (size_t i = 0; i < FM_ARRAY_SIZE(wrong); i++) {
		assert_code(wrong[i].code, fm_topology_parse(wrong[i].text, strlen(wrong[i].text), &t, &err));
		if (!strstr(err.message, wrong[i].why))
			fail_msg("%s\n\"%s\" does not say \"%s\"", wrong[i].text, err.message, wrong[i].why);
	}
	assert_null(t);
}

static void test_written_and_read(void **state)
{
	_fm_cleanup_(fm_topology_freep) struct fm_topology *t = NULL;

	random_state = 4711;
	for (int round = 0; round < 200; round++) {
		_fm_cleanup_(fm_topology_freep) struct fm_topology *a = random_topology(), *b = NULL, *c = NULL;
		_fm_free_ char *x = fm_topology_to_json(a), *y = NULL, *z = NULL;

		b = parse(x);
		assert_int_equal(fm_topology_n_nodes(a), fm_topology_n_nodes(b));
		assert_int_equal(fm_topology_n_links(a), fm_topology_n_links(b));
		for (uint32_t i = 0; i < fm_topology_n_links(a);
		     i++) { /* nodes are sorted into hosts and switches, links keep their numbers */
			struct fm_topology_link p = *fm_topology_link(a, i), q = *fm_topology_link(b, i);

			assert_string_equal(fm_topology_node(a, p.from)->name, fm_topology_node(b, q.from)->name);
			assert_string_equal(fm_topology_node(a, p.to)->name, fm_topology_node(b, q.to)->name);
			p.from = q.from;
			p.to = q.to;
			assert_memory_equal(&p.m, &q.m, sizeof(p.m));
			assert_true(p.directed == q.directed && p.up == q.up);
			assert_string_equal(p.from_port.name, q.from_port.name);
		}
		y = fm_topology_to_json(b);
		c = parse(y);
		z = fm_topology_to_json(c);
		assert_string_equal(y, z);
	}
	t = sample();
	_fm_free_ char *dot = fm_topology_to_dot(t);
	assert_non_null(strstr(dot, "\"a\" [shape=box];"));
	assert_non_null(strstr(dot, "\"s2\" [shape=ellipse];"));
	assert_non_null(strstr(
	        dot, "\"a\" -> \"s2\" [taillabel=\"\", headlabel=\"\", label=\"50 us, 500 bytes/s available\", dir=none, style=solid];"));
}

/* ---- limits */

static void fill_name(char *name, size_t cap, uint32_t i)
{
	memset(name, 'x', cap - 1);
	snprintf(name + cap - 9, 9, "%08u", i);
}

/* The largest there may be, with the longest names: neighbours in a ring of all nodes, over two links each. */
static struct fm_topology *largest(void)
{
	struct fm_topology *t = fm_topology_new();
	char name[FM_MAX_NAME];

	assert_non_null(t);
	for (uint32_t i = 0; i < FM_MAX_TOPOLOGY_NODES; i++) {
		fill_name(name, sizeof(name), i);
		assert_ok(fm_topology_add_node(t, name, FM_NODE_HOST, false, NULL, &err));
	}
	for (uint32_t i = 0; i < FM_MAX_TOPOLOGY_LINKS; i++) {
		struct fm_topology_link l = { .from = i % FM_MAX_TOPOLOGY_NODES, .to = (i + 1) % FM_MAX_TOPOLOGY_NODES };

		l.m = (struct fm_link_measurement){ FM_MAX_LINK_LATENCY_US, FM_MAX_LINK_BYTES_PER_S, FM_PPM, FM_PPM };
		l.from_port.number = l.to_port.number = 0xffffff00;
		fill_name(l.from_port.name, sizeof(l.from_port.name), i);
		fill_name(l.to_port.name, sizeof(l.to_port.name), i);
		assert_ok(fm_topology_add_link(t, &l, NULL, &err));
	}
	return t;
}

static void test_largest(void **state)
{
	_fm_cleanup_(fm_topology_freep) struct fm_topology *t = largest(), *again = NULL;
	struct fm_topology_link l = *fm_topology_link(t, 0);
	_fm_free_ char *text = NULL, *too_long = NULL;
	char name[FM_MAX_NAME + 1];
	uint32_t found = 0;

	assert_code(FM_E_RESOURCE_EXHAUSTED, fm_topology_add_node(t, "one-more", FM_NODE_HOST, false, NULL, &err));
	l.from_port.number = 1;
	assert_code(FM_E_RESOURCE_EXHAUSTED, fm_topology_add_link(t, &l, NULL, &err));
	fill_name(name, FM_MAX_NAME, 4321);
	name[FM_MAX_NAME - 1] = '\0';
	assert_ok(fm_topology_find_node(t, name, &found, &err));
	assert_int_equal(found, 4321);
	strcpy(name + FM_MAX_NAME - 1, "y");
	assert_code(FM_E_INVALID_ARGUMENT, fm_topology_add_node(t, name, FM_NODE_HOST, false, NULL, &err));
	text = fm_topology_to_json(t);
	assert_true(strlen(text) <= FM_MAX_TOPOLOGY_BYTES);
	again = parse(text);
	assert_int_equal(fm_topology_n_links(again), FM_MAX_TOPOLOGY_LINKS);
	/* the same with blanks behind */
	too_long = malloc(FM_MAX_TOPOLOGY_BYTES + 1);
	assert_non_null(too_long);
	memset(too_long, ' ', FM_MAX_TOPOLOGY_BYTES + 1);
	memcpy(too_long, text, strlen(text));
	fm_topology_free(again);
	again = NULL;
	assert_ok(fm_topology_parse(too_long, FM_MAX_TOPOLOGY_BYTES, &again, &err));
	assert_code(FM_E_RESOURCE_EXHAUSTED, fm_topology_parse(too_long, FM_MAX_TOPOLOGY_BYTES + 1, &again, &err));
	memset(too_long, '{', FM_MAX_TOPOLOGY_NODES + FM_MAX_TOPOLOGY_LINKS + 2);
	assert_code(FM_E_RESOURCE_EXHAUSTED, fm_topology_parse(too_long, FM_MAX_TOPOLOGY_NODES + FM_MAX_TOPOLOGY_LINKS + 2, &again, &err));
}

static void test_ports_of_one_node(void **state)
{
	_fm_cleanup_(fm_topology_freep) struct fm_topology *t = fm_topology_new();
	struct fm_topology_link l = { .from = 0, .to = 1, .up = true };

	node(t, "s1");
	node(t, "s2");
	for (uint32_t i = 0; i < FM_MAX_TOPOLOGY_PORTS; i++) {
		l.from_port.number = i;
		assert_ok(fm_topology_add_link(t, &l, NULL, &err));
	}
	l.from_port.number = FM_MAX_TOPOLOGY_PORTS;
	assert_code(FM_E_RESOURCE_EXHAUSTED, fm_topology_add_link(t, &l, NULL, &err));
	l.directed = true;
	l.from = 1;
	l.to = 0;
	assert_code(FM_E_RESOURCE_EXHAUSTED, fm_topology_add_link(t, &l, NULL, &err));
	assert_int_equal(fm_topology_n_links(t), FM_MAX_TOPOLOGY_PORTS);
}

/* A chain of thousands of double links has as many turns on each of its paths: one path is found at once, 64 are refused instead of searched for minutes. */
static void test_too_many_steps(void **state)
{
	_fm_cleanup_(fm_topology_freep) struct fm_topology *t = fm_topology_new();
	struct fm_path p = { 0 }, *v = NULL;
	size_t n = 0;

	for (uint32_t i = 0; i < 8000; i++) {
		char name[16];

		snprintf(name, sizeof(name), "s%u", i);
		node(t, name);
		if (i == 0)
			continue;
		add(t, i - 1, i, "p1", 1, 1, 0, false);
		add(t, i - 1, i, "p2", 1, 1, 0, false);
	}
	assert_ok(fm_topology_shortest(t, 0, 7999, NULL, &p, &err));
	assert_int_equal(p.latency_us, 7999);
	fm_path_done(&p);
	assert_code(FM_E_RESOURCE_EXHAUSTED, fm_topology_k_shortest(t, 0, 7999, FM_MAX_PATHS, NULL, &v, &n, &err));
	assert_non_null(strstr(err.message, "ask for fewer"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shortest_and_widest),
		cmocka_unit_test(test_constraints),
		cmocka_unit_test(test_why_there_is_none),
		cmocka_unit_test(test_questions_that_make_no_sense),
		cmocka_unit_test(test_several),
		cmocka_unit_test(test_direction),
		cmocka_unit_test(test_parallel_links),
		cmocka_unit_test(test_ties),
		cmocka_unit_test(test_measured_in_place),
		cmocka_unit_test(test_what_cannot_be_added),
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_description),
		cmocka_unit_test(test_wrong_descriptions),
		cmocka_unit_test(test_written_and_read),
		cmocka_unit_test(test_largest),
		cmocka_unit_test(test_ports_of_one_node),
		cmocka_unit_test(test_too_many_steps),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
