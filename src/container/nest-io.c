/* SPDX-License-Identifier: MIT */
/*
 * nest-io.c - copies the application's output to where the orchestrator listens.
 *
 * The application writes into named pipes, because CRIU can find those again by path on another host; the nest reads them and writes to
 * its own stdout and stderr. Each stream has one buffer. It is read only while the buffer is empty, so a slow orchestrator fills the
 * fifo and at last blocks the application, as it would without us: nothing is lost, and nothing grows.
 *
 * Our own stdout is shared with others (the runtime, a shim), so it must not be made non-blocking. Not blocking is had in another way:
 * poll says that there is room, and then no more is written than surely fits (a pipe with a free slot takes PIPE_BUF bytes; a socket
 * takes MSG_DONTWAIT).
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "container/nest-internal.h"

int nest_stream_open(struct nest_stream *s, const char *path, int out)
{
	struct stat st;

	/* The agent has made the fifos; a control folder without them is fine as well. The umask must not narrow them: the same fifo has
	 * to have the same mode on every host, or CRIU refuses to open it again. */
	if (mkfifo(path, 0600) == 0) {
		if (chmod(path, 0622) < 0)
			return -1;
	} else if (errno != EEXIST) {
		return -1;
	}
	s->in = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
	if (s->in < 0)
		return -1;
	if (fstat(s->in, &st) < 0)
		return -1;
	if (!S_ISFIFO(st.st_mode)) {
		errno = ENOTSUP;
		return -1;
	}
	s->hold = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
	if (s->hold < 0)
		return -1;
	if (fstat(out, &st) < 0)
		return -1;
	s->out = out;
	s->out_socket = S_ISSOCK(st.st_mode);
	s->out_pipe = S_ISFIFO(st.st_mode);
	s->out_broken = false;
	s->off = s->len = 0;
	s->budget = SIZE_MAX;
	return 0;
}

void nest_stream_poll(const struct nest_stream *s, struct pollfd *p)
{
	*p = (struct pollfd){ .fd = -1 };
	if (s->len > 0) {
		p->fd = s->out;
		p->events = POLLOUT;
	} else if (s->budget > 0) {
		p->fd = s->in;
		p->events = POLLIN;
	}
}

static void stream_fill(struct nest_stream *s)
{
	size_t cap = s->budget < sizeof s->buf ? s->budget : sizeof s->buf;
	ssize_t n = read(s->in, s->buf, cap);

	if (n > 0) {
		s->off = 0;
		s->len = (size_t)n;
		if (s->budget != SIZE_MAX)
			s->budget -= (size_t)n;
	} else if (s->budget != SIZE_MAX && !(n < 0 && errno == EINTR)) {
		s->budget = 0; /* after the application's end an empty fifo is drained */
	}
}

/* One write that cannot block. false: no more now. */
static bool stream_write_some(struct nest_stream *s)
{
	size_t chunk = s->len;
	ssize_t n;

	if (s->out_pipe && chunk > PIPE_BUF)
		chunk = PIPE_BUF;
	if (s->out_broken)
		n = (ssize_t)s->len;
	else if (s->out_socket)
		n = send(s->out, s->buf + s->off, chunk, MSG_DONTWAIT | MSG_NOSIGNAL);
	else
		n = write(s->out, s->buf + s->off, chunk);
	if (n < 0 && errno == EINTR)
		return true;
	if (n < 0 && errno == EAGAIN)
		return false;
	if (n <= 0) {
		/* A listener that went away stays away. Any other failure (the log's disk is full) costs this piece only: stopping the
		 * application for it would be worse. */
		if (n < 0 && (errno == EPIPE || errno == ECONNRESET))
			s->out_broken = true;
		n = (ssize_t)s->len;
	}
	s->off += (size_t)n;
	s->len -= (size_t)n;
	return s->len > 0;
}

void nest_stream_step(struct nest_stream *s, short revents)
{
	if (revents == 0)
		return;
	if (s->len == 0) {
		if (s->budget > 0)
			stream_fill(s);
		if (s->len == 0)
			return;
	}
	while (s->len > 0) {
		struct pollfd p = { .fd = s->out, .events = POLLOUT };

		if (!s->out_broken && poll(&p, 1, 0) <= 0)
			return;
		if (!stream_write_some(s))
			return;
	}
}

void nest_stream_finish(struct nest_stream *s)
{
	int waiting = 0;

	/* Whatever was written before the application ended is in the fifo now. Processes that survive it may go on writing for
	 * ever: they are not waited for. */
	if (ioctl(s->in, FIONREAD, &waiting) < 0 || waiting < 0)
		waiting = 0;
	s->budget = (size_t)waiting;
}

bool nest_stream_drained(const struct nest_stream *s)
{
	return s->len == 0 && s->budget == 0;
}
