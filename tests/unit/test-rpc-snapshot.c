/* SPDX-License-Identifier: MIT */
/* test-rpc-snapshot.c - the answer of GetSnapshot may be larger than the others: a large cluster fits, the limit holds, and no other method has got it. */
#include "rpc-lab.h"

#include "decision/snapshot.h"

#define N_HOSTS      1000
#define N_CONTAINERS 20000
#define N_WAYS       16 /* of a host: FM_MAX_PEERS */

static char name_buffer[64];

static char *name(const char *kind, size_t i)
{
	(void)snprintf(name_buffer, sizeof(name_buffer), "%s-of-a-service-with-a-name-%06zu", kind, i);
	return name_buffer;
}

static void fill_host(struct fm_snap_host *h)
{
	h->online = h->can_restore = true;
	h->cpus = 64;
	h->cpu_percent = h->cpu_predicted_percent = h->memory_percent = 100.0 / 3;
	h->cpu_pressure_percent = h->memory_pressure_percent = h->io_pressure_percent = h->disk_utilisation_percent = 100.0 / 7;
	h->loss_percent = h->latency_ms = 1.0 / 3;
	h->memory_total_bytes = h->memory_available_bytes = h->disk_available_bytes = 1ull << 40;
	h->network_in_bytes_per_s = h->network_out_bytes_per_s = h->network_capacity_bytes_per_s = 1250000000;
}

static void fill_container(struct fm_snap_container *c)
{
	c->nested = true;
	c->cpu_cores = c->cpu_predicted_cores = c->compressibility = 1.0 / 3;
	c->processes = 100;
	c->memory_bytes = c->memory_limit_bytes = c->working_set_bytes = 1ull << 36;
	c->dirty_bytes_per_s = c->network_in_bytes_per_s = c->network_out_bytes_per_s = c->disk_bytes_per_s = 123456789;
	c->connections = c->restarts = 1000;
	c->files_bytes = 1ull << 36;
	c->last_moved_unix_ms = 1700000000000;
	c->image = fm_xstrdup("registry.example.org/team/a-service-with-a-name:2026.11.27");
}

/* Of which everything is known */
static char *large_cluster(void)
{
	struct fm_snapshot *s = fm_snapshot_new(1700000000000);
	for (size_t i = 0; i < N_HOSTS; i++)
		fill_host(fm_snapshot_add_host(s, name("host", i)));
	for (size_t i = 0; i < N_CONTAINERS; i++)
		fill_container(fm_snapshot_add_container(s, name("container", i), i % N_HOSTS));
	for (size_t i = 0; i < (size_t)N_HOSTS * N_WAYS; i++) {
		struct fm_snap_link *l = fm_snapshot_add_link(s, i % N_HOSTS, (i + 1 + i / N_HOSTS) % N_HOSTS);
		l->latency_ms = l->loss_percent = l->utilisation_percent = l->predicted_utilisation_percent = 1.0 / 3;
		l->bandwidth_bytes_per_s = 1250000000;
	}
	char *text = fm_snapshot_to_json(s);
	fm_snapshot_free(s);
	return text;
}

static char *answer; /* of the handlers below; set before the server is asked */

static int handle_snapshot(void *userdata, struct fm_rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage **response,
                           struct fm_error *err)
{
	FM_PB(SnapshotResponse) *r = (FM_PB(SnapshotResponse) *)make(&fleximigrate__v1__snapshot_response__descriptor);
	r->json = fm_xstrdup(answer);
	*response = &r->base;
	return 0;
}

static int setup_snapshot(void **state)
{
	struct fm_error err = FM_ERROR_INIT;
	struct place *p = calloc(1, sizeof(*p));
	assert_non_null(p);
	place_init(p);
	p->methods[FM_MANAGER_GET_SNAPSHOT].unary = handle_snapshot;
	/* a server that answers another method with more than that method may: its own limit goes by the message */
	p->methods[FM_MANAGER_LIST_HOSTS].unary = handle_snapshot;
	p->methods[FM_MANAGER_LIST_HOSTS].response = p->methods[FM_MANAGER_GET_SNAPSHOT].response;
	start_server_with(p, 0);
	assert_int_equal(fm_rpc_client_new(p->target, NULL, &p->client, &err), 0);
	*state = p;
	return 0;
}

static int teardown_snapshot(void **state)
{
	free(FM_TAKE_PTR(answer));
	return teardown(state);
}

static int ask(struct place *p, const struct fm_rpc_method *method, size_t *ret_bytes, struct fm_error *err)
{
	FM_PB(Empty) empty = FLEXIMIGRATE__V1__EMPTY__INIT;
	ProtobufCMessage *r = NULL;
	*err = FM_ERROR_INIT;
	if (fm_rpc_client_call(p->client, method, &empty.base, PATIENCE_MS, -1, &r, err) < 0)
		return -1;
	const char *json = ((FM_PB(SnapshotResponse) *)r)->json;
	assert_string_equal(json, answer);
	*ret_bytes = strlen(json);
	protobuf_c_message_free_unpacked(r, NULL);
	return 0;
}

static void test_large_cluster(void **state)
{
	struct fm_error err;
	struct fm_snapshot *s = NULL;
	size_t n = 0;
	answer = large_cluster();
	assert_non_null(answer);
	if (ask(*state, MANAGER(FM_MANAGER_GET_SNAPSHOT), &n, &err) < 0)
		fail_msg("%zu bytes: %s", strlen(answer), err.message);
	print_message("%d hosts, %d containers, %d links: %.1f MiB\n", N_HOSTS, N_CONTAINERS, N_HOSTS * N_WAYS, (double)n / (1 << 20));
	assert_in_range(n, FM_MAX_RPC_MESSAGE_BYTES, FM_MAX_RPC_SNAPSHOT_BYTES / 2);
	assert_int_equal(fm_snapshot_parse(answer, n, &s, &err), 0);
	assert_int_equal(s->n_containers, N_CONTAINERS);
	fm_snapshot_free(s);
}

static void test_limit(void **state)
{
	struct fm_error err;
	size_t n = 0;
	answer = repeat('x', FM_MAX_RPC_SNAPSHOT_BYTES - 16);
	assert_int_equal(ask(*state, MANAGER(FM_MANAGER_GET_SNAPSHOT), &n, &err), 0);
	free(answer);
	answer = repeat('x', FM_MAX_RPC_SNAPSHOT_BYTES);
	assert_int_equal(ask(*state, MANAGER(FM_MANAGER_GET_SNAPSHOT), &n, &err), -1);
	assert_int_equal(err.code, FM_E_RESOURCE_EXHAUSTED);
	assert_non_null(strstr(err.message, "the limit is 50331648"));
}

/* The channel takes in so much; each other method has the usual limit, whatever the server sends. */
static void test_other_methods(void **state)
{
	struct fm_rpc_method lying = *MANAGER(FM_MANAGER_LIST_HOSTS);
	struct fm_error err;
	size_t n = 0;
	lying.response = MANAGER(FM_MANAGER_GET_SNAPSHOT)->response;
	answer = repeat('x', FM_MAX_RPC_MESSAGE_BYTES - 16);
	assert_int_equal(ask(*state, &lying, &n, &err), 0);
	free(answer);
	answer = repeat('x', FM_MAX_RPC_MESSAGE_BYTES + 1);
	assert_int_equal(ask(*state, &lying, &n, &err), -1);
	assert_int_equal(err.code, FM_E_RESOURCE_EXHAUSTED);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup_snapshot, teardown_snapshot)

int main(void)
{
	const struct CMUnitTest tests[] = { T(test_large_cluster), T(test_limit), T(test_other_methods) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
