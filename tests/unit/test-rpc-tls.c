/* SPDX-License-Identifier: MIT */
/*
 * test-rpc-tls.c - rpc/ over TCP with mutual TLS: who is let in and who is not, bad files, ports in use; and the table of agents' clients.
 */
#include "rpc-lab.h"

/* ---- mutual TLS */

static void start_tls_server(struct place *p, const struct fm_rpc_tls *tls, const char *address)
{
	struct fm_rpc_server_opts opts = { .methods = p->methods, .userdata = p, .tcp_address = address, .tls = *tls };
	struct fm_error err = FM_ERROR_INIT;

	fm_rpc_server_free(FM_TAKE_PTR(p->server), 0);
	if (fm_rpc_server_new(&opts, &p->server, &err) < 0)
		fail_msg("server: %s", err.message);
	assert_true(fm_rpc_server_tcp_port(p->server) > 0);
}

static int call_tls(struct place *p, const char *host, const struct fm_rpc_tls *tls, char *peer, size_t cap, struct fm_error *err)
{
	_fm_free_ char *target = fm_xasprintf("%s:%u", host, fm_rpc_server_tcp_port(p->server));
	struct fm_rpc_client *client = NULL;
	int r;

	*err = FM_ERROR_INIT;
	if (fm_rpc_client_new(target, tls, &client, err) < 0)
		return -1;
	r = get_peer(client, peer, cap, err);
	fm_rpc_client_free(client);
	return r;
}

/* A TLS client without certificate: true when the server spoke HTTP/2 to it. */
static bool served_without_certificate(uint16_t port)
{
	static const unsigned char alpn[] = { 2, 'h', '2' };
	static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0";
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	SSL *ssl = SSL_new(ctx);
	_fm_free_ char *address = fm_xasprintf("127.0.0.1:%u", port);
	_fm_close_ int fd = -1;
	struct fm_error err = FM_ERROR_INIT;
	unsigned char frame[9];
	bool served = false;

	assert_int_equal(fm_tcp_connect(address, PATIENCE_MS, &fd, &err), 0);
	assert_int_equal(fm_set_nonblocking(fd, false, &err), 0);
	assert_int_equal(SSL_set_fd(ssl, fd), 1);
	(void)SSL_set_alpn_protos(ssl, alpn, sizeof(alpn));
	(void)signal(SIGPIPE, SIG_IGN); /* OpenSSL's write raises it; gRPC's must not, so that the other tests run with the default */
	if (SSL_connect(ssl) == 1) {
		(void)SSL_write(ssl, preface, sizeof(preface) - 1);
		served = SSL_read(ssl, frame, sizeof(frame)) > 0;
	}
	(void)signal(SIGPIPE, SIG_DFL);
	SSL_free(ssl);
	SSL_CTX_free(ctx);
	return served;
}

static void concatenate(const char *a, const char *b, const char *to)
{
	_fm_free_ char *x = NULL, *y = NULL, *both = NULL;
	struct fm_error err = FM_ERROR_INIT;

	assert_int_equal(fm_read_file(a, 1u << 16, &x, NULL, &err), 0);
	assert_int_equal(fm_read_file(b, 1u << 16, &y, NULL, &err), 0);
	both = fm_xasprintf("%s%s", x, y);
	assert_int_equal(fm_write_file_atomic(to, both, strlen(both), 0600, &err), 0);
}

static void test_mutual_tls(void **state)
{
	struct place *p = *state;
	struct authority ours, theirs;
	struct fm_rpc_tls mixed;
	struct fm_error err = FM_ERROR_INIT;
	char peer[128], both[128];

	make_authority(&ours, p->dir, "ours", "host-b");
	make_authority(&theirs, p->dir, "theirs", "intruder");
	start_tls_server(p, &ours.tls, "0.0.0.0:0");

	if (call_tls(p, "127.0.0.1", &ours.tls, peer, sizeof(peer), &err) < 0)
		fail_msg("%s", err.message);
	assert_string_equal(peer, "host-b");
	assert_int_equal(call_tls(p, "localhost", &ours.tls, peer, sizeof(peer), &err), 0);

	assert_false(served_without_certificate(fm_rpc_server_tcp_port(p->server)));
	/* their authority does not know the server */
	assert_int_equal(call_tls(p, "127.0.0.1", &theirs.tls, peer, sizeof(peer), &err), -1);
	assert_int_equal(err.code, FM_E_UNAVAILABLE);
	assert_true(*err.hint);
	/* they trust the server, but the server does not trust them */
	(void)snprintf(both, sizeof(both), "%s/both.pem", p->dir);
	concatenate(ours.ca, theirs.ca, both);
	mixed = (struct fm_rpc_tls){ both, theirs.cert, theirs.key };
	assert_int_equal(call_tls(p, "127.0.0.1", &mixed, peer, sizeof(peer), &err), -1);
	assert_int_equal(err.code, FM_E_UNAVAILABLE);
	/* a server that is not who we called: its certificate does not carry this address */
	assert_int_equal(call_tls(p, "127.0.0.2", &ours.tls, peer, sizeof(peer), &err), -1);
	assert_non_null(strstr(err.message, "127.0.0.2"));
	assert_int_equal(err.code, FM_E_UNAVAILABLE);
	/* a name that does not exist; whether the resolver says so in time or not */
	{
		struct fm_rpc_client *client = NULL;

		assert_int_equal(fm_rpc_client_new("no-such-host.invalid:7400", &ours.tls, &client, &err), 0);
		assert_int_equal(get_host(client, "alpha", 500, -1, NULL, &err), -1);
		assert_int_equal(err.code, FM_E_UNAVAILABLE);
		fm_rpc_client_free(client);
	}
	/* after all of that it still serves */
	assert_int_equal(call_tls(p, "127.0.0.1", &ours.tls, peer, sizeof(peer), &err), 0);
}

static void test_bad_certificates(void **state)
{
	struct place *p = *state;
	struct authority ours, theirs;
	struct fm_rpc_client *client = NULL;
	struct fm_error err = FM_ERROR_INIT;
	struct fm_rpc_tls tls;

	make_authority(&ours, p->dir, "ours", "host-b");
	make_authority(&theirs, p->dir, "theirs", "intruder");
	tls = (struct fm_rpc_tls){ ours.ca, ours.cert, theirs.key }; /* key of another certificate */
	assert_int_equal(fm_rpc_client_new("127.0.0.1:1", &tls, &client, &err), -1);
	assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
	tls = (struct fm_rpc_tls){ theirs.ca, ours.cert, ours.key }; /* another authority */
	err = FM_ERROR_INIT;
	assert_int_equal(fm_rpc_client_new("127.0.0.1:1", &tls, &client, &err), -1);
	assert_int_equal(err.code, FM_E_FAILED_PRECONDITION);
	assert_true(*err.hint);
	tls = (struct fm_rpc_tls){ ours.ca, ours.key, ours.key }; /* no certificate in the file */
	err = FM_ERROR_INIT;
	assert_int_equal(fm_rpc_client_new("127.0.0.1:1", &tls, &client, &err), -1);
	assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
	assert_non_null(strstr(err.message, "host-b.key"));
	tls = (struct fm_rpc_tls){ ours.ca, ours.cert, ours.cert }; /* no key in the file */
	err = FM_ERROR_INIT;
	assert_int_equal(fm_rpc_client_new("127.0.0.1:1", &tls, &client, &err), -1);
	assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
	assert_null(client);
}

static void test_port_in_use(void **state)
{
	struct place *p = *state;
	struct authority ours;
	struct fm_rpc_server *second = NULL;
	struct fm_error err = FM_ERROR_INIT;
	_fm_free_ char *address = NULL;
	struct fm_rpc_server_opts opts = { .methods = p->methods, .userdata = p };

	make_authority(&ours, p->dir, "ours", "host-b");
	start_tls_server(p, &ours.tls, "127.0.0.1:0");
	address = fm_xasprintf("127.0.0.1:%u", fm_rpc_server_tcp_port(p->server));
	opts.tcp_address = address;
	opts.tls = ours.tls;
	assert_int_equal(fm_rpc_server_new(&opts, &second, &err), -1);
	assert_non_null(strstr(err.message, "in use"));
	assert_true(*err.hint);
	opts.tcp_address = "192.0.2.1:7400"; /* not an address of ours */
	err = FM_ERROR_INIT;
	assert_int_equal(fm_rpc_server_new(&opts, &second, &err), -1);
	assert_null(second);
}

/* ---- the table of agents */

struct directory {
	char address[2][128];
};

static int resolve(void *ud, const char *host, char *ret_address, size_t cap, struct fm_error *err)
{
	struct directory *d = ud;

	if (fm_streq(host, "alpha") || fm_streq(host, "beta"))
		return fm_snprintf(ret_address, cap, err, "%s", d->address[fm_streq(host, "beta")]);
	return fm_error_set(err, FM_E_NOT_FOUND, "no such host is registered");
}

static struct fm_rpc_server *start_agent(struct place *p, const char *socket)
{
	struct fm_rpc_method methods[_FM_AGENT_METHOD_MAX + 1];
	struct fm_rpc_server_opts opts = { .more_methods = methods, .userdata = p, .unix_path = socket };
	struct fm_rpc_server *server = NULL;
	struct fm_error err = FM_ERROR_INIT;

	memcpy(methods, fm_agent_methods, sizeof(methods)); /* the server keeps a copy of its own */
	methods[FM_AGENT_INFO].unary = handle_info;
	if (fm_rpc_server_new(&opts, &server, &err) < 0)
		fail_msg("agent: %s", err.message);
	return server;
}

static void test_agent_clients(void **state)
{
	struct place *p = *state;
	struct directory d = { 0 };
	struct fm_rpc_server *agents[2];
	struct fm_agent_clients *clients = NULL;
	FM_PB(Empty) empty = FLEXIMIGRATE__V1__EMPTY__INIT;
	struct fm_error err = FM_ERROR_INIT;
	ProtobufCMessage *response = NULL;
	struct fm_agent_api api;

	for (int i = 0; i < 2; i++) {
		(void)snprintf(d.address[i], sizeof(d.address[i]), "unix:%s/agent%d.sock", p->dir, i);
		agents[i] = start_agent(p, d.address[i] + 5);
	}
	assert_int_equal(fm_agent_clients_new(NULL, resolve, &d, &clients, &err), 0);
	api = fm_agent_clients_api(clients);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(
		        api.call(api.userdata, i % 2 ? "alpha" : "beta", FM_AGENT_INFO, &empty.base, PATIENCE_MS, -1, &response, &err), 0);
		protobuf_c_message_free_unpacked(FM_TAKE_PTR(response), NULL);
	}
	/* errors say which host */
	assert_int_equal(api.call(api.userdata, "gamma", FM_AGENT_INFO, &empty.base, PATIENCE_MS, -1, &response, &err), -1);
	assert_int_equal(err.code, FM_E_NOT_FOUND);
	assert_string_equal(err.message, "host gamma: no such host is registered");
	err = FM_ERROR_INIT;
	assert_int_equal(api.call(api.userdata, "alpha", FM_AGENT_LIST_CONTAINERS, &empty.base, PATIENCE_MS, -1, &response, &err), -1);
	assert_int_equal(err.code, FM_E_UNIMPLEMENTED);
	assert_true(fm_str_startswith(err.message, "host alpha: "));
	/* an agent that is gone, and its host's new address */
	fm_rpc_server_free(agents[1], 0);
	err = FM_ERROR_INIT;
	assert_int_equal(api.call(api.userdata, "beta", FM_AGENT_INFO, &empty.base, PATIENCE_MS, -1, &response, &err), -1);
	assert_int_equal(err.code, FM_E_UNAVAILABLE);
	assert_true(fm_str_startswith(err.message, "host beta: agent at unix:"));
	assert_true(*err.hint);
	memcpy(d.address[1], d.address[0], sizeof(d.address[1]));
	assert_int_equal(api.call(api.userdata, "beta", FM_AGENT_INFO, &empty.base, PATIENCE_MS, -1, &response, &err), 0);
	protobuf_c_message_free_unpacked(response, NULL);
	fm_agent_clients_free(clients);
	fm_agent_clients_free(NULL);
	fm_rpc_server_free(agents[0], 0);
}

#define IN_PLACE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_PLACE(test_mutual_tls),
		IN_PLACE(test_bad_certificates),
		IN_PLACE(test_port_in_use),
		IN_PLACE(test_agent_clients),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
