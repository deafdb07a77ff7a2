/* SPDX-License-Identifier: MIT */
/* test-redirections.c - steps in the contract's words: which texts are refused, and that the others reach the driver: here a real publication (driver dnat) in a namespace, and a load balancer that never answers. */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "basic/str.h"
#include "migration/pb.h"
#include "migration/redirections.h"
#include "nslab.h"

#define STEP(name) FLEXIMIGRATE__V1__REDIRECTION_STEP__REDIRECTION_##name
#define DNAT                                                                                                                               \
	"{\"driver\":\"dnat\",\"side\":\"source\",\"protocol\":\"tcp\",\"host_address\":\"192.0.2.10\",\"host_port\":6379,"                \
	"\"address\":\"10.79.0.100\",\"port\":6379}"
#define UNDO "{\"dnat\":1,\"id\":\"0badcafe\"}"

enum { HOST, N_NS };
static const char *const names[] = { "host" };

static int group_setup(void **state)
{
	if (!lab_possible())
		return 0;
	lab_up(names, N_NS);
	in_ns(HOST,
	      "ip link add c0 type bridge; ip link set c0 up; ip address add 192.0.2.10/24 dev c0; echo 1 >/proc/sys/net/ipv4/ip_forward");
	return 0;
}

static int group_teardown(void **state)
{
	if (lab.n)
		lab_down();
	return 0;
}

static FM_PB(Redirection) redirection(const char *action, const char *undo)
{
	FM_PB(Redirection) r = FLEXIMIGRATE__V1__REDIRECTION__INIT;

	r.action = (char *)action;
	r.undo = (char *)undo;
	return r;
}

/* ---- texts ---- */

static int take(const char *action, const char *undo, int step)
{
	struct fm_redirect_call c = { .deadline_ms = fm_now_ms() + LAB_WAIT_MS, .cancel_fd = -1 };
	FM_PB(Redirection) r = redirection(action, undo);
	char *made = NULL;
	int rc = fm_redirection_step(&c, &r, (FM_PB(RedirectionStep))step, &made, &err);

	free(made);
	return rc;
}

static void refuses(const char *action, const char *undo, int step, const char *words)
{
	assert_code(FM_E_INVALID_ARGUMENT, take(action, undo, step));
	if (!strstr(err.message, words))
		fail_msg("'%.80s', '%.80s': '%s' does not say '%s'", action, undo, err.message, words);
}

/* JSON with as much white space behind it as makes it n bytes long */
static char *padded(const char *json, size_t n)
{
	char *text = malloc(n + 1);

	assert_non_null(text);
	memset(text, ' ', n);
	memcpy(text, json, strlen(json));
	text[n] = '\0';
	return text;
}

static void test_actions_refused(void **state)
{
	_fm_free_ char *longest = padded("{\"driver\":\"dnat\"}", FM_MAX_REDIRECT_BYTES);
	_fm_free_ char *too_long = padded("{\"driver\":\"dnat\"}", FM_MAX_REDIRECT_BYTES + 1);
	static const struct {
		const char *action, *words;
	} t[] = {
		{ "", "action of a redirection is no JSON object" },
		{ "{\"driver\":\"dnat\"", "action of a redirection is no JSON object" },
		{ "[" DNAT "]", "action of a redirection is no JSON object: another value" },
		{ DNAT DNAT, "action of a redirection is no JSON object" },
		{ "{\"driver\":\"dnat\",\"driver\":\"dnat\"}", "duplicate" },
		{ "{\"driver\":\"teleport\"}", "teleport" },
		{ "{\"driver\":7}", "driver" },
		{ "{}", "driver" },
	};

	for (size_t i = 0; i < FM_ARRAY_SIZE(t); i++)
		for (int step = STEP(PREPARED); step <= STEP(REVERTED); step++)
			refuses(t[i].action, UNDO, step, t[i].words);
	refuses(too_long, UNDO, STEP(PREPARED), "16385 bytes, more than 16384");
	refuses(longest, UNDO, STEP(PREPARED), "dnat: side"); /* that was read, and the driver wants more */
}

static void test_steps_refused(void **state)
{
	static const int no_steps[] = { -1, STEP(NEW), STEP(KEPT), STEP(KEPT) + 1 };

	for (size_t i = 0; i < FM_ARRAY_SIZE(no_steps); i++)
		refuses(DNAT, UNDO, no_steps[i], "is no step of a redirection");
}

static void test_title(void **state)
{
	FM_PB(Redirection) r = redirection(DNAT, "");

	assert_string_equal(fm_redirection_title(&r), fm_redirect_dnat.title);
	r.action = (char *)"{\"driver\":\"teleport\"}";
	assert_string_equal(fm_redirection_title(&r), "the network");
	r.action = (char *)"{";
	assert_string_equal(fm_redirection_title(&r), "the network");
}

/* ---- in the host's namespace ---- */

struct serving {
	const char *action, *undo;
	int step;
	FM_PB(RedirectResponse) * response;
};

static int do_serve(void *userdata, struct fm_error *e)
{
	FM_PB(RedirectRequest) req = FLEXIMIGRATE__V1__REDIRECT_REQUEST__INIT;
	struct serving *s = userdata;
	FM_PB(Redirection) r = redirection(s->action, s->undo);

	req.step = (FM_PB(RedirectionStep))s->step;
	req.redirection = &r;
	return fm_redirection_serve(NULL, -1, &req, &s->response, e);
}

static int serve(struct serving *s, int step)
{
	s->step = step;
	s->response = NULL;
	return fm_netns_call(lab.ns[HOST], do_serve, s, &err);
}

static char *ruleset(void)
{
	return output_in(HOST, "nft -s list ruleset");
}

static void test_steps_reach_the_driver(void **state)
{
	struct serving s = { .action = DNAT, .undo = "" };
	_fm_free_ char *undo = NULL, *before = NULL, *prepared = NULL, *opened = NULL, *after = NULL;

	if (!lab.n)
		skip();
	before = ruleset();
	assert_ok(serve(&s, STEP(PREPARED)));
	undo = strdup(s.response->undo);
	fm_pb_free(s.response);
	assert_non_null(strstr(undo, "\"dnat\":1"));
	prepared = ruleset();
	assert_string_equal(prepared, before);
	s.undo = undo;
	assert_code(FM_E_FAILED_PRECONDITION, serve(&s, STEP(VERIFIED)));
	assert_true(fm_str_startswith(err.message, "dnat: of its two rules")); /* the driver, once */
	assert_string_equal(err.phase, "network");
	for (int step = STEP(OPEN); step <= STEP(REVERTED); step++) {
		assert_ok(serve(&s, step));
		assert_string_equal(s.response->undo, "");
		fm_pb_free(s.response);
		if (step == STEP(OPEN))
			opened = ruleset();
	}
	assert_non_null(strstr(opened, "10.79.0.100:6379"));
	after = ruleset();
	assert_string_equal(after, before);
}

/* Nothing is done that could not be undone, and nothing is undone by a guess. */
static void test_undo_refused(void **state)
{
	_fm_free_ char *too_long = padded(UNDO, FM_MAX_REDIRECT_UNDO_BYTES + 1);
	_fm_free_ char *longest = padded(UNDO, FM_MAX_REDIRECT_UNDO_BYTES);
	const struct {
		const char *undo;
		enum fm_code code;
	} t[] = {
		{ "", FM_E_INVALID_ARGUMENT },
		{ "null", FM_E_INVALID_ARGUMENT },
		{ "[]", FM_E_INVALID_ARGUMENT },
		{ "{\"dnat\":1,\"id\":\"0badca", FM_E_INVALID_ARGUMENT },
		{ "{\"dnat\":1,\"id\":\"0badcafe\",\"id\":\"0badcafe\"}", FM_E_INVALID_ARGUMENT },
		{ too_long, FM_E_INVALID_ARGUMENT },
		{ "{}", FM_E_DATA_LOSS },
		{ "{\"dnat\":2,\"id\":\"0badcafe\"}", FM_E_DATA_LOSS },
	};
	struct serving s = { .action = DNAT, .undo = longest };
	_fm_free_ char *before = NULL, *after = NULL;

	if (!lab.n)
		skip();
	before = ruleset();
	for (size_t i = 0; i < FM_ARRAY_SIZE(t); i++)
		for (int step = STEP(OPEN); step <= STEP(REVERTED); step++) {
			s.undo = t[i].undo;
			assert_code(t[i].code, serve(&s, step));
			assert_true(fm_str_startswith(err.message, "dnat: "));
			assert_string_equal(err.phase, "network");
		}
	after = ruleset();
	assert_string_equal(after, before);
	s.undo = longest;
	assert_ok(serve(&s, STEP(REVERTED)));
	fm_pb_free(s.response);
}

static void test_call_without_a_redirection(void **state)
{
	FM_PB(RedirectRequest) req = FLEXIMIGRATE__V1__REDIRECT_REQUEST__INIT;
	FM_PB(RedirectResponse) *resp = NULL;

	req.step = STEP(PREPARED);
	assert_code(FM_E_INVALID_ARGUMENT, fm_redirection_serve(NULL, -1, &req, &resp, &err));
	assert_string_equal(err.phase, "network");
	assert_null(resp);
}

/* ---- how long a call may take ---- */

/* A call to a load balancer that takes connections and says nothing. */
struct hanging {
	char path[64], action[256];
	int listener, cancel_fd;
	uint32_t timeout_ms;
	atomic_int tid;
	struct fm_error why;
	int rc;
};

static void *hang(void *arg)
{
	FM_PB(RedirectRequest) req = FLEXIMIGRATE__V1__REDIRECT_REQUEST__INIT;
	FM_PB(RedirectResponse) *resp = NULL;
	struct hanging *h = arg;
	FM_PB(Redirection) r = redirection(h->action, "");

	req.step = STEP(PREPARED);
	req.timeout_ms = h->timeout_ms;
	req.redirection = &r;
	atomic_store(&h->tid, (int)syscall(SYS_gettid));
	h->rc = fm_redirection_serve(NULL, h->cancel_fd, &req, &resp, &h->why);
	fm_pb_free(resp);
	return NULL;
}

static void hanging_up(struct hanging *h, uint32_t timeout_ms)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	*h = (struct hanging){ .timeout_ms = timeout_ms, .why = FM_ERROR_INIT };
	(void)snprintf(h->path, sizeof(h->path), "/tmp/fm-test-redirections-%d", (int)getpid());
	(void)snprintf(
	        h->action, sizeof(h->action),
	        "{\"driver\":\"haproxy\",\"socket\":\"%s\",\"backend\":\"be\",\"server\":\"one\",\"from\":\"10.77.0.100:6379\",\"to\":"
	        "\"10.78.0.100:6379\",\"drain\":false}",
	        h->path);
	(void)snprintf(a.sun_path, sizeof(a.sun_path), "%s", h->path);
	h->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_sys(bind(h->listener, (struct sockaddr *)&a, sizeof(a)));
	assert_sys(listen(h->listener, 8));
	h->cancel_fd = eventfd(0, EFD_CLOEXEC);
	assert_sys(h->cancel_fd);
}

static void hanging_down(struct hanging *h)
{
	(void)close(h->listener);
	(void)close(h->cancel_fd);
	(void)unlink(h->path);
}

/* What the kernel knows of a thread that waits in poll: for how long at most; -1: it does not wait there now. */
static int64_t waits_ms(int tid)
{
	_fm_free_ char *path = fm_xasprintf("/proc/self/task/%d/syscall", tid), *text = NULL;
	unsigned long long arg[3];
	long nr;

	if (fm_read_file(path, 512, &text, NULL, NULL) < 0 || sscanf(text, "%ld %llx %llx %llx", &nr, &arg[0], &arg[1], &arg[2]) != 4)
		return -1;
#ifdef SYS_poll
	if (nr == SYS_poll)
		return (int)arg[2];
#endif
	if (nr == SYS_ppoll && arg[2]) {
		struct timespec t;

		memcpy(&t, (const void *)(uintptr_t)arg[2], sizeof(t)); /* another thread's of this process */
		return t.tv_sec * 1000 + t.tv_nsec / 1000000;
	}
	return -1;
}

static bool kernel_tells(void)
{
	if (fm_path_exists("/proc/self/syscall"))
		return true;
	print_message("skipped: this kernel does not tell what a thread waits for (/proc/self/syscall)\n");
	return false;
}

/* How long it would wait that was asked to take this long. */
static int64_t limit_of(uint32_t timeout_ms)
{
	uint64_t deadline = fm_now_ms() + LAB_WAIT_MS, one = 1;
	struct hanging h;
	pthread_t thread;
	int64_t ms = -1;

	hanging_up(&h, timeout_ms);
	assert_int_equal(pthread_create(&thread, NULL, hang, &h), 0);
	while (ms < 0 && fm_deadline_left_ms(deadline) > 0)
		ms = atomic_load(&h.tid) ? waits_ms(atomic_load(&h.tid)) : -1;
	assert_int_equal(write(h.cancel_fd, &one, sizeof(one)), sizeof(one));
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(h.rc, -1);
	assert_int_equal(h.why.code, FM_E_CANCELLED);
	assert_string_equal(h.why.phase, "network");
	hanging_down(&h);
	return ms;
}

static void test_timeouts(void **state)
{
	if (!kernel_tells())
		skip();
	assert_in_range(limit_of(0), 2000, 5000);
	assert_in_range(limit_of(60000), 50000, 60000);
	assert_in_range(limit_of(120001), 110000, 120000);
	assert_in_range(limit_of(UINT32_MAX), 110000, 120000);
}

static void test_time_is_over(void **state)
{
	uint64_t begin = fm_now_ms();
	struct hanging h;

	hanging_up(&h, 200);
	(void)hang(&h);
	assert_int_equal(h.rc, -1);
	assert_int_equal(h.why.code, FM_E_DEADLINE_EXCEEDED);
	assert_string_equal(h.why.phase, "network");
	assert_true(fm_str_startswith(h.why.message, "haproxy: "));
	assert_in_range(fm_now_ms() - begin, 200, LAB_WAIT_MS);
	hanging_down(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_actions_refused), cmocka_unit_test(test_steps_refused),
		cmocka_unit_test(test_title),           cmocka_unit_test(test_steps_reach_the_driver),
		cmocka_unit_test(test_undo_refused),    cmocka_unit_test(test_call_without_a_redirection),
		cmocka_unit_test(test_timeouts),        cmocka_unit_test(test_time_is_over),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
