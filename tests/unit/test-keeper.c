/* SPDX-License-Identifier: MIT */
/*
 * test-keeper.c - what an agent looks after when a migration is over: real publications and tunnels with real connections, and announcements that a client hears.
 *
 *    cli 192.0.2.3 ---- host: br0 192.0.2.10 ---- ct 10.79.0.100, behind a route        web, more, shut: containers with an endpoint on br0
 */
#include <dirent.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <netinet/if_ether.h>

#include "basic/str.h"
#include "migration/keeper.h"
#include "migration/pb.h"
#include "migration/redirections.h"
#include "network/endpoints.h"
#include "network/stub.h"
#include "nslab.h"

#define STEP(name) FLEXIMIGRATE__V1__REDIRECTION_STEP__REDIRECTION_##name
#define ID         "m-3f9a61c2b07d"
#define PORT       6379
#define HOOK_PORT  8099
#define DEVICE     "fmt3f9a61c2"
#define DNAT(port)                                                                                                                         \
	"{\"driver\":\"dnat\",\"side\":\"source\",\"protocol\":\"tcp\",\"host_address\":\"192.0.2.10\",\"host_port\":" port                \
	",\"address\":\"10.79.0.100\",\"port\":6379}"
#define TUNNEL(address)                                                                                                                    \
	"{\"driver\":\"tunnel\",\"side\":\"source\",\"id\":\"3f9a61c2\",\"local\":\"192.0.2.10\",\"remote\":\"192.0.2.3\",\"addresses\":[" \
	"\"" address "\",\"FD79:0::0100\"]}"
#define MAX_KEPT       4
#define SOON_MS        8000 /* less than the grace of a record: nothing of that was waited for */
#define LATE_MS        5000 /* how much later than it should an announcement may come on a busy machine */
#define MAX_ANNOUNCING 32   /* of keeper.c */

enum { HOST, CLI, CT, WEB, MORE, SHUT, N_NS };
static const char *const names[] = { "host", "cli", "ct", "web", "more", "shut" };
static const unsigned after_ms[] = { 100, 300, 700, 1500, 3000 };

static int group_setup(void **state)
{
	if (!lab_possible())
		return 0;
	lab_up(names, N_NS);
	in_ns(HOST, "ip link add br0 type bridge && ip link set br0 up; ip link add c0 type veth peer name eth0 netns $DIR/cli; "
	            "ip link add t0 type veth peer name eth0 netns $DIR/ct; ip link set c0 master br0 up; ip link set t0 up; "
	            "ip address add 192.0.2.10/24 dev br0; ip address add 10.79.0.1/24 dev t0; echo 1 >/proc/sys/net/ipv4/ip_forward; "
	            "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
	in_ns(CLI, "ip link set eth0 up; ip address add 192.0.2.3/24 dev eth0; ip route add default via 192.0.2.10");
	in_ns(CT, "ip link set eth0 up; ip address add 10.79.0.100/24 dev eth0; ip route add default via 10.79.0.1");
	until_in(HOST, "bridge link show dev c0 | grep -q 'state forwarding'");
	return 0;
}

static int group_teardown(void **state)
{
	if (lab.n)
		lab_down();
	return 0;
}

static struct {
	char dir[64], folder[96], log_path[96];
	int log_fd;
	struct fm_log *log;
	struct fm_keeper *keeper;
	FM_PB(Redirection) redirections[MAX_KEPT], *v[MAX_KEPT];
	char *undo[MAX_KEPT];
	size_t n;
} w;

static int setup(void **state)
{
	memset(&w, 0, sizeof(w));
	(void)snprintf(w.dir, sizeof(w.dir), "/tmp/fm-test-keeper-XXXXXX");
	assert_non_null(mkdtemp(w.dir));
	(void)snprintf(w.folder, sizeof(w.folder), "%s/kept", w.dir);
	(void)snprintf(w.log_path, sizeof(w.log_path), "%s/log", w.dir);
	w.log_fd = open(w.log_path, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
	assert_sys(w.log_fd);
	w.log = fm_log_new(w.log_fd, FM_LOG_HUMAN, FM_LOG_INFO);
	return 0;
}

static int teardown(void **state)
{
	fm_keeper_free(w.keeper);
	fm_log_free(w.log);
	(void)close(w.log_fd);
	for (size_t i = 0; i < w.n; i++)
		free(w.undo[i]);
	return fm_remove_tree(w.dir, NULL);
}

static bool logged(const char *words)
{
	_fm_free_ char *text = NULL;

	assert_ok(fm_read_file(w.log_path, 1 << 20, &text, NULL, &err));
	return strstr(text, words);
}

static size_t files(void)
{
	_fm_closedir_ DIR *d = opendir(w.folder);
	size_t n = 0;

	assert_non_null(d);
	for (const struct dirent *e; (e = readdir(d));)
		n += e->d_name[0] != '.';
	return n;
}

/* ---- in the host's namespace ---- */

static int do_new(void *userdata, struct fm_error *e)
{
	return fm_keeper_new(w.folder, "/nowhere", w.log, &w.keeper, e);
}

/* As an agent that is started anew */
static void start(void)
{
	fm_keeper_free(w.keeper);
	w.keeper = NULL;
	assert_ok(fm_netns_call(lab.ns[HOST], do_new, NULL, &err));
}

static int do_arriving(void *userdata, struct fm_error *e)
{
	fm_keeper_arriving(w.keeper, userdata);
	return 0;
}

#define arriving(...) assert_ok(fm_netns_call(lab.ns[HOST], do_arriving, (const char *[]){ __VA_ARGS__, NULL }, &err))

struct taking {
	const FM_PB(Redirection) * r;
	int step;
	char *undo;
};

static int do_take(void *userdata, struct fm_error *e)
{
	struct fm_redirect_call c = { .deadline_ms = fm_now_ms() + LAB_WAIT_MS, .cancel_fd = -1 };
	struct taking *t = userdata;

	return fm_redirection_step(&c, t->r, (FM_PB(RedirectionStep))t->step, &t->undo, e);
}

static void add(const char *action, char *undo)
{
	FM_PB(Redirection) *r = &w.redirections[w.n];

	assert_true(w.n < MAX_KEPT);
	fleximigrate__v1__redirection__init(r);
	r->action = (char *)action;
	r->undo = w.undo[w.n] = undo;
	w.v[w.n++] = r;
}

/* As a migration leaves it: carried out, with what undoes it */
static void carry_out(const char *action)
{
	static const int steps[] = { STEP(OPEN), STEP(FLIPPED) };
	FM_PB(Redirection) asked = FLEXIMIGRATE__V1__REDIRECTION__INIT;
	struct taking t = { .r = &asked, .step = STEP(PREPARED) };

	asked.action = (char *)action;
	assert_ok(fm_netns_call(lab.ns[HOST], do_take, &t, &err));
	add(action, t.undo);
	t = (struct taking){ .r = w.v[w.n - 1] };
	for (size_t i = 0; i < FM_ARRAY_SIZE(steps); i++) {
		t.step = steps[i];
		assert_ok(fm_netns_call(lab.ns[HOST], do_take, &t, &err));
	}
}

static int keep(void)
{
	return fm_keeper_keep(w.keeper, ID, w.v, w.n, &err);
}

static bool is_published(void)
{
	_fm_free_ char *text = output_in(HOST, "nft list ruleset");

	return strstr(text, "10.79.0.100:6379");
}

static bool has_tunnel(void)
{
	_fm_free_ char *text = output_in(HOST, "ip link show; ip rule");

	return strstr(text, DEVICE) || strstr(text, "to 10.79.0.100 ");
}

/* How long it took, in ms */
static uint64_t until_gone(uint64_t limit_ms)
{
	uint64_t begin = fm_now_ms();

	while (fm_keeper_count(w.keeper)) {
		if (fm_now_ms() - begin >= limit_ms)
			fail_msg("it is still there after %u ms", (unsigned)limit_ms);
		fm_pause_ms(5);
	}
	return fm_now_ms() - begin;
}

static json_t *record(void)
{
	_fm_free_ char *path = fm_xasprintf("%s/" ID ".json", w.folder);
	json_t *j = json_load_file(path, 0, NULL);

	assert_non_null(j);
	return j;
}

/* Between two agents: what an operator, or a later version, has made of a record */
static void change_record(const char *member, json_int_t value)
{
	_fm_free_ char *path = fm_xasprintf("%s/" ID ".json", w.folder);
	json_t *j = record();

	fm_keeper_free(w.keeper);
	w.keeper = NULL;
	assert_int_equal(json_object_set_new(j, member, json_integer(value)), 0);
	assert_int_equal(json_dump_file(j, path, 0), 0);
	json_decref(j);
}

/* ---- records ---- */

static void test_record(void **state)
{
	json_t *j, *addresses, *action, *undo;

	if (!lab.n)
		skip();
	start();
	assert_int_equal(fm_keeper_count(w.keeper), 0);
	carry_out(DNAT("6379"));
	carry_out(DNAT("6380"));
	carry_out(TUNNEL("10.79.0.100"));
	assert_ok(keep());
	assert_int_equal(fm_keeper_count(w.keeper), 1);

	j = record();
	addresses = json_pack("[s, s]", "10.79.0.100", "FD79:0::0100");
	assert_true(json_equal(json_object_get(j, "addresses"), addresses));
	assert_string_equal(json_string_value(json_object_get(j, "flows")), "all");
	assert_null(json_object_get(j, "grace_ms"));
	assert_int_equal(json_array_size(json_object_get(j, "actions")), 3);
	for (size_t i = 0; i < 3; i++) {
		const json_t *one = json_array_get(json_object_get(j, "actions"), i);

		action = json_loads(w.v[i]->action, 0, NULL);
		undo = json_loads(w.v[i]->undo, 0, NULL);
		assert_true(json_equal(json_object_get(one, "action"), action));
		assert_true(json_equal(json_object_get(one, "undo"), undo));
		json_decref(action);
		json_decref(undo);
	}
	json_decref(addresses);

	/* again, and by an agent that has just been started; not what is something else */
	assert_ok(keep());
	start();
	assert_int_equal(fm_keeper_count(w.keeper), 1);
	assert_ok(keep());
	assert_int_equal(fm_keeper_count(w.keeper), 1);
	assert_int_equal(files(), 1);
	w.n--;
	assert_code(FM_E_ALREADY_EXISTS, keep());
	w.n++;
	action = record();
	assert_true(json_equal(j, action)); /* unchanged, its time included */
	json_decref(action);
	json_decref(j);
	assert_true(is_published() && has_tunnel());
	arriving("10.79.0.100");
	assert_int_equal(files(), 0);
	assert_false(is_published() || has_tunnel());
}

static void test_no_record(void **state)
{
	static const char *const damaged[] = { "", "[]", "{", "{\"a\":1,\"a\":1}" };

	if (!lab.n)
		skip();
	start();
	add(DNAT("6379"), strdup("{\"dnat\":1,\"id\":\"0badcafe\"}"));
	add(DNAT("6380"), NULL);
	for (size_t i = 0; i < FM_ARRAY_SIZE(damaged); i++) {
		w.v[1]->undo = (char *)damaged[i];
		assert_code(FM_E_INVALID_ARGUMENT, keep());
	}
	w.v[1]->undo = w.v[0]->undo;
	for (size_t i = 0; i < FM_ARRAY_SIZE(damaged); i++) {
		w.v[1]->action = (char *)damaged[i];
		assert_code(FM_E_INVALID_ARGUMENT, keep());
	}
	w.v[1]->action = (char *)DNAT("6380");
	w.n = 0;
	assert_code(FM_E_INVALID_ARGUMENT, keep());
	w.n = 2;
	assert_code(FM_E_INVALID_ARGUMENT, fm_keeper_keep(w.keeper, "../" ID, w.v, w.n, &err));
	assert_int_equal(fm_keeper_count(w.keeper), 0);
	assert_int_equal(files(), 0);
	assert_ok(keep());
	assert_int_equal(files(), 1);
}

static void test_damaged_record(void **state)
{
	_fm_free_ char *path = fm_xasprintf("%s/cut.json", w.folder);

	if (!lab.n)
		skip();
	assert_ok(fm_mkdir_p(w.folder, 0700, &err));
	assert_ok(fm_write_file_atomic(path, "{\"stub\":1,", 10, 0600, &err));
	start();
	assert_int_equal(fm_keeper_count(w.keeper), 0);
	assert_true(logged("'cut.json'"));
	assert_true(logged("needs an operator"));
	assert_int_equal(files(), 1);
}

/* ---- until the last flow ---- */

static void test_goes_after_the_last_flow(void **state)
{
	struct lab_connection one, two;
	uint64_t begin;
	int listener;

	if (!lab.n)
		skip();
	listener = listen_in(CT, PORT);
	start();
	carry_out(DNAT("6379"));
	one = connect_from(CLI, NULL, "192.0.2.10", PORT, listener);
	two = connect_from(CLI, NULL, "192.0.2.10", PORT, listener);
	assert_ok(keep());
	hang_up(&one);

	/* without any grace, and looked at some times: it is the other connection that holds it */
	change_record("grace_ms", 0);
	start();
	for (begin = fm_now_ms(); fm_now_ms() - begin < 3000; fm_pause_ms(20)) {
		talk(&two);
		assert_int_equal(fm_keeper_count(w.keeper), 1);
	}
	assert_true(is_published());
	hang_up(&two);
	(void)until_gone(SOON_MS);
	assert_false(is_published());
	assert_int_equal(files(), 0);
	assert_true(logged("'" ID "' left here for old connections is gone: no flows any more"));
	(void)close(listener);
}

static void test_grace(void **state)
{
	uint64_t begin;

	if (!lab.n)
		skip();
	start();
	carry_out(DNAT("6379"));
	begin = fm_now_ms();
	assert_ok(keep());
	(void)until_gone(FM_STUB_GRACE_MS + LATE_MS);
	assert_true(fm_now_ms() - begin >= FM_STUB_GRACE_MS);
	assert_false(is_published());
}

/* What goes through a tunnel is a flow, too, and a tunnel that is not there any more has none. */
static void test_tunnel(void **state)
{
	uint64_t begin;
	int udp;

	if (!lab.n)
		skip();
	start();
	carry_out(TUNNEL("10.79.0.100"));
	/* so that there is nothing but the counter */
	in_ns(HOST, "nft add table ip raw0; nft add chain ip raw0 p '{ type filter hook prerouting priority raw; }'; nft add rule ip raw0 "
	            "p notrack");
	udp = socket_in(CLI, SOCK_DGRAM, NULL, 0);
	assert_ok(keep());
	change_record("grace_ms", 2500); /* more than the time from one look to the next */
	start();
	for (begin = fm_now_ms(); fm_now_ms() - begin < 5500; fm_pause_ms(20)) {
		struct sockaddr_in6 to = lab_sockaddr("10.79.0.100", 9);

		assert_int_equal(sendto(udp, "x", 1, 0, (struct sockaddr *)&to, sizeof(to)), 1);
		assert_int_equal(fm_keeper_count(w.keeper), 1);
	}
	in_ns(HOST, "ip link del " DEVICE);
	(void)until_gone(SOON_MS);
	assert_false(has_tunnel());
	in_ns(HOST, "nft delete table ip raw0");
	(void)close(udp);
}

/* ---- the container comes back ---- */

static void test_arriving(void **state)
{
	struct lab_connection c;
	int listener;

	if (!lab.n)
		skip();
	listener = listen_in(CT, PORT);
	start();
	carry_out(DNAT("6379"));
	c = connect_from(CLI, NULL, "192.0.2.10", PORT, listener);
	assert_ok(keep());
	arriving("10.79.0.10", "10.79.0.101", "fd79::100", "192.0.2.10");
	assert_int_equal(fm_keeper_count(w.keeper), 1);
	assert_true(is_published());
	arriving("fd79::1", "10.79.0.100");
	assert_int_equal(fm_keeper_count(w.keeper), 0); /* with a flow, and at once */
	assert_false(is_published());
	assert_int_equal(files(), 0);
	assert_true(logged("'" ID "' left here for old connections is gone: the container is back"));
	arriving("10.79.0.100"); /* there is nothing any more */
	break_off(&c);
	(void)close(listener);
}

/*
 * Something takes its time to be reverted, as a walk through the kernel's table does: a container that is back meanwhile does not wait for that. Here it is somebody's web hook that takes the connection and
 * says nothing.
 */
static void test_arriving_waits_for_nobody(void **state)
{
	_fm_free_ char *hook = NULL;
	uint64_t begin;
	int listener, asked;

	if (!lab.n)
		skip();
	listener = listen_in(CLI, HOOK_PORT);
	start();
	carry_out(TUNNEL("10.79.0.7")); /* to which nothing was sent before */
	hook = fm_xasprintf("{\"driver\":\"webhook\",\"url\":\"http://192.0.2.3:%d/\",\"events\":[\"revert\"],\"required\":true}",
	                    HOOK_PORT);
	carry_out(hook);
	assert_ok(keep());
	change_record("grace_ms", 0);
	start();
	wait_readable(listener);
	asked = accept4(listener, NULL, NULL, SOCK_CLOEXEC); /* what it has kept is being reverted, and is not done with it */
	assert_sys(asked);

	carry_out(DNAT("6379"));
	assert_ok(fm_keeper_keep(w.keeper, "m-000000000002", &w.v[w.n - 1], 1, &err));
	assert_true(is_published());
	begin = fm_now_ms();
	arriving("10.79.0.100");
	assert_true(fm_now_ms() - begin < LATE_MS);
	assert_false(is_published());
	assert_int_equal(fm_keeper_count(w.keeper), 1);
	assert_true(has_tunnel());

	/* it answers after all, and the rest goes as well */
	assert_true(dprintf(asked, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n") > 0);
	(void)close(asked);
	(void)until_gone(SOON_MS);
	assert_false(has_tunnel());
	(void)close(listener);
}

/* In the words of whoever described the network, and in the kernel's */
static void test_arriving_otherwise_written(void **state)
{
	if (!lab.n)
		skip();
	start();
	carry_out(TUNNEL("10.79.0.100"));
	assert_ok(keep());
	arriving("fd79::1000");
	assert_int_equal(fm_keeper_count(w.keeper), 1);
	assert_true(has_tunnel());
	arriving("fd79::100");
	assert_int_equal(fm_keeper_count(w.keeper), 0);
	assert_false(has_tunnel());
}

/* Somebody's device has the place of the tunnel: it is not touched, and nothing is forgotten. */
static void test_arriving_tries_again(void **state)
{
	if (!lab.n)
		skip();
	start();
	carry_out(TUNNEL("10.79.0.100"));
	assert_ok(keep());
	in_ns(HOST, "ip link del " DEVICE "; ip link add " DEVICE " type bridge");
	arriving("10.79.0.100");
	assert_int_equal(fm_keeper_count(w.keeper), 1);
	assert_int_equal(files(), 1);
	assert_true(logged("'" ID "' left here for old connections cannot be taken away (trying again): stub " ID));
	in_ns(HOST, "ip link show " DEVICE "; ip rule | grep -q 'to 10.79.0.100 '; ip link del " DEVICE);
	(void)until_gone(SOON_MS);
	assert_true(logged("the container is back"));
	assert_false(has_tunnel());
	assert_int_equal(files(), 0);
}

/* ---- announcements ---- */

struct ending {
	struct fm_endpoint_config config;
	struct fm_endpoints *ends;
	char path[128];
	bool open;
};

static int do_end_up(void *userdata, struct fm_error *e)
{
	struct ending *x = userdata;

	if (fm_endpoints_new(&x->config, 1, x->path, &x->ends, e) < 0 || fm_endpoints_prepare(x->ends, false, e) < 0)
		return -1;
	return x->open ? fm_endpoints_open(x->ends, e) : 0;
}

static int do_end_down(void *userdata, struct fm_error *e)
{
	struct ending *x = userdata;

	fm_endpoints_free(x->ends);
	return fm_endpoint_remove(x->config.host_ifname, e);
}

static void end_up(struct ending *x, int ns, const char *address, bool open)
{
	const struct fm_endpoint_words words = { .bridge = "br0", .address = address };

	*x = (struct ending){ .open = open };
	assert_ok(fm_endpoint_config_parse(&words, names[ns], 0, &x->config, &err));
	(void)snprintf(x->path, sizeof(x->path), "%s/%s", lab.dir, names[ns]);
	assert_ok(fm_netns_call(lab.ns[HOST], do_end_up, x, &err));
}

static void end_down(struct ending *x)
{
	assert_ok(fm_netns_call(lab.ns[HOST], do_end_down, x, &err));
}

struct tap {
	const char *interface;
	int fd;
};

static int do_tap(void *userdata, struct fm_error *e)
{
	struct tap *t = userdata;
	struct sockaddr_ll at = { .sll_family = AF_PACKET,
		                  .sll_protocol = htons(ETH_P_ARP),
		                  .sll_ifindex = (int)if_nametoindex(t->interface) };

	t->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	assert_sys(t->fd);
	assert_true(at.sll_ifindex > 0);
	assert_sys(bind(t->fd, (struct sockaddr *)&at, sizeof(at)));
	return 0;
}

static int tap_in(int ns, const char *interface)
{
	struct tap t = { .interface = interface };

	assert_ok(fm_netns_call(lab.ns[ns], do_tap, &t, &err));
	return t.fd;
}

/* The next gratuitous ARP request and whose it is; of the two forms of an announcement that is the first. false: none within that time. */
static bool hear(int tap, int timeout_ms, struct in_addr *ret)
{
	uint64_t deadline = fm_now_ms() + (uint64_t)timeout_ms;

	do {
		struct {
			struct ether_header eth;
			struct ether_arp arp;
		} __attribute__((packed)) f;
		struct pollfd p = { .fd = tap, .events = POLLIN };

		if (poll(&p, 1, fm_deadline_left_ms(deadline)) != 1)
			return false;
		if (recv(tap, &f, sizeof(f), 0) < (ssize_t)sizeof(f) || ntohs(f.arp.arp_op) != ARPOP_REQUEST ||
		    memcmp(f.arp.arp_spa, f.arp.arp_tpa, 4) != 0)
			continue;
		memcpy(ret, f.arp.arp_spa, sizeof(*ret));
		return true;
	} while (true);
}

static bool is_of(struct in_addr heard, const struct ending *x)
{
	return heard.s_addr == x->config.address.s_addr;
}

static void opened(const struct ending *x)
{
	fm_keeper_opened(w.keeper, &x->config, 1, x->path);
}

/* As far as they are due before: hears those of x up to the given number, each not before its time; returns how many others there were. */
static unsigned hear_all(int tap, const struct ending *x, uint64_t since_ms, unsigned n)
{
	unsigned others = 0;

	for (unsigned i = 0; i < n;) {
		struct in_addr whose;
		uint64_t took_ms;

		if (!hear(tap, LATE_MS, &whose))
			fail_msg("announcement %u did not come", i + 1);
		took_ms = fm_now_ms() - since_ms;
		if (!is_of(whose, x)) {
			others++;
			continue;
		}
		if (took_ms < after_ms[i] || took_ms > after_ms[i] + LATE_MS)
			fail_msg("announcement %u came after %u ms", i + 1, (unsigned)took_ms);
		i++;
	}
	return others;
}

static void test_opened(void **state)
{
	struct ending web, more, shut;
	struct in_addr whose;
	char gone[128];
	int tap, shut_tap;
	uint64_t begin;

	if (!lab.n)
		skip();
	start();
	end_up(&web, WEB, "192.0.2.100/24", true);
	end_up(&more, MORE, "192.0.2.101/24", true);
	end_up(&shut, SHUT, "192.0.2.102/24", false);
	tap = tap_in(CLI, "eth0");
	shut_tap = tap_in(HOST, shut.config.host_ifname);
	(void)snprintf(gone, sizeof(gone), "%s/gone", lab.dir);
	begin = fm_now_ms();
	fm_keeper_opened(w.keeper, &shut.config, 1, gone); /* that namespace has gone before it could be announced */
	opened(&shut);
	opened(&more);
	opened(&web);

	/* one that is closed in the meantime is not announced any more */
	assert_true(hear(tap, LATE_MS, &whose));
	assert_true(is_of(whose, &more));
	assert_in_range(fm_now_ms() - begin, after_ms[0], after_ms[0] + LATE_MS);
	assert_ok(fm_endpoints_close(more.ends, &err));
	assert_int_equal(hear_all(tap, &web, begin, FM_ARRAY_SIZE(after_ms)), 0);

	/* three times, and no more: before the first of the next there is nothing of anybody */
	begin = fm_now_ms();
	opened(&web);
	assert_int_equal(hear_all(tap, &web, begin, 1), 0);
	assert_false(hear(shut_tap, 0, &whose)); /* what was to be said of it would have been said before */
	(void)close(tap);
	(void)close(shut_tap);
	end_down(&web);
	end_down(&more);
	end_down(&shut);
}

/* With too many at a time the oldest is left out; what cannot be is not taken. */
static void test_opened_many(void **state)
{
	struct fm_endpoint_config none[FM_MAX_ENDPOINTS + 1];
	struct ending web, more;
	uint64_t begin;
	int tap;

	if (!lab.n)
		skip();
	start();
	end_up(&web, WEB, "192.0.2.100/24", true);
	end_up(&more, MORE, "192.0.2.101/24", true);
	memset(none, 0, sizeof(none));
	tap = tap_in(CLI, "eth0");
	begin = fm_now_ms();
	opened(&web);
	for (unsigned i = 0; i < MAX_ANNOUNCING - 1; i++)
		fm_keeper_opened(w.keeper, &web.config, 1, "/nowhere");
	opened(&more);
	fm_keeper_opened(w.keeper, none, 0, more.path);
	fm_keeper_opened(w.keeper, none, FM_MAX_ENDPOINTS + 1, more.path);
	assert_int_equal(hear_all(tap, &more, begin, 1), 0);
	(void)close(tap);
	end_down(&web);
	end_down(&more);
}

static void test_no_keeper(void **state)
{
	struct fm_endpoint_config c = { 0 };
	char address[] = "10.79.0.100";

	fm_keeper_arriving(NULL, (char *[]){ address, NULL });
	fm_keeper_opened(NULL, &c, 1, "/nowhere");
	fm_keeper_free(NULL);
}

int main(void)
{
#define WITH_FOLDER(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		WITH_FOLDER(test_record),
		WITH_FOLDER(test_no_record),
		WITH_FOLDER(test_damaged_record),
		WITH_FOLDER(test_goes_after_the_last_flow),
		WITH_FOLDER(test_grace),
		WITH_FOLDER(test_tunnel),
		WITH_FOLDER(test_arriving),
		WITH_FOLDER(test_arriving_waits_for_nobody),
		WITH_FOLDER(test_arriving_otherwise_written),
		WITH_FOLDER(test_arriving_tries_again),
		WITH_FOLDER(test_opened),
		WITH_FOLDER(test_opened_many),
		cmocka_unit_test(test_no_keeper),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
