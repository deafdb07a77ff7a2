/* SPDX-License-Identifier: MIT */
/*
 * fuzz-nest.c - libFuzzer entry for packets on the nest's control socket, any bytes and up to three descriptors with each. Its users are agents only, but behind it are the descriptors that keep a
 * post-copy's faults waiting.
 *
 * Input: {u8 form, u8 op, u8 arg, u8 key} a packet; form: bits 0-1 descriptors attached, bit 2 a version that is not known, bits 3-5 how many bytes too few. The application is not there: adopting fails or works as the
 * input says.
 */
#include <dirent.h>
#include <errno.h>
#include <poll.h>

#include "container/nest-internal.h"
#include "fuzz.h"

static int adopt_answer;

int nest_adopt(struct nest *n, pid_t pid)
{
	assert(pid >= 2);
	if (n->state != FM_NEST_EMPTY)
		return EBUSY;
	if (adopt_answer)
		return adopt_answer;
	n->state = FM_NEST_RUNNING;
	n->app = pid;
	return 0;
}

void nest_say(const char *what, int errnum)
{
}

int nest_start(struct nest *n)
{
	assert(n->state == FM_NEST_EMPTY);
	if (adopt_answer)
		return adopt_answer;
	n->state = FM_NEST_RUNNING;
	n->app = 500;
	return 0;
}

void nest_unhold(struct nest *n)
{
	assert(n->state == FM_NEST_HELD);
	n->state = FM_NEST_RUNNING;
}

static unsigned open_descriptors(void)
{
	unsigned n = 0;
	DIR *d = opendir("/proc/self/fd");

	while (d && readdir(d))
		n++;
	closedir(d);
	return n;
}

static void send_packet(int sock, const uint8_t *in, int fd)
{
	struct fm_nest_request q = {
		.version = FM_NEST_VERSION + !!(in[0] & 4), .op = in[1] % 12, .arg = in[2], .key = in[3] == 255 ? UINT64_MAX : in[3]
	};
	union {
		char buf[CMSG_SPACE(3 * sizeof(int))];
		struct cmsghdr align;
	} u = { 0 };
	struct iovec iov = { .iov_base = &q, .iov_len = sizeof(q) - (in[0] >> 3 & 7) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	unsigned n = in[0] & 3;

	if (n) {
		m.msg_control = u.buf;
		m.msg_controllen = CMSG_SPACE(n * sizeof(int));
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		*c = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(n * sizeof(int)) };
		for (unsigned i = 0; i < n; i++)
			memcpy(CMSG_DATA(c) + i * sizeof(int), &fd, sizeof(fd));
	}
	if (sendmsg(sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		abort();
}

/* What came with a reply is closed. Returns how many descriptors. */
static unsigned take_reply(int sock, struct fm_nest_reply *ret)
{
	union {
		char buf[CMSG_SPACE(32 * sizeof(int))];
		struct cmsghdr align;
	} u;
	struct iovec iov = { .iov_base = ret, .iov_len = sizeof(*ret) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = u.buf, .msg_controllen = sizeof(u.buf) };
	unsigned n = 0;

	assert(recvmsg(sock, &m, MSG_DONTWAIT) == (ssize_t)sizeof(*ret));
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
		for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++, n++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			close(fd);
		}
	return n;
}

static void one_packet(struct nest *n, const uint8_t *in, int fd)
{
	struct fm_nest_reply r = { 0 };
	int sv[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) < 0)
		abort();
	n->clients[0] = sv[0];
	adopt_answer = in[3] & 1 ? ESRCH : 0;
	send_packet(sv[1], in, fd);
	nest_control_serve(n, 0);
	unsigned fds = take_reply(sv[1], &r);
	assert(r.n_keys <= 16 && fds == r.n_keys && r.n_kept == n->n_kept && r.state == n->state);
	assert(!(in[0] >> 3 & 7) || r.error == EBADMSG);
	for (unsigned i = 1; i < n->n_kept; i++)
		assert(n->kept[i - 1].key < n->kept[i].key);
	assert(n->n_kept == 0 || n->kept[n->n_kept - 1].key != UINT64_MAX);
	if (n->clients[0] >= 0)
		close(n->clients[0]);
	n->clients[0] = -1;
	close(sv[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct nest n = { .state = FM_NEST_EMPTY, .app_pidfd = -1, .signal_fd = -1, .listen_fd = -1 };
	unsigned before = open_descriptors();
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	for (unsigned i = 0; i < NEST_MAX_CLIENTS; i++)
		n.clients[i] = -1;
	for (; size >= 4; data += 4, size -= 4)
		one_packet(&n, data, fd);
	assert(open_descriptors() == before + 1 + n.n_kept);
	for (unsigned i = 0; i < n.n_kept; i++)
		close(n.kept[i].fd);
	close(fd);
	return 0;
}
