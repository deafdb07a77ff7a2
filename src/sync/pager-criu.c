/* SPDX-License-Identifier: MIT */
/*
 * pager-criu.c - CRIU's side of the pager: the socket "lazy-pages.socket" in the images folder.
 *
 * What comes, on the one connection that `criu restore --lazy-pages` makes: for each task an int32, its pid in the tree's namespace, and
 * then one byte with the task's userfaultfd; a negative pid stands for a zombie, without a descriptor; at the end the word 0x52535446 (no
 * pid can be that large). Nothing is answered, so CRIU cannot be held up here. What makes the descriptors safe in time is that we neither
 * read a message from one nor put a page into place before its duplicate is kept, and that fm_pager_wait_kept tells our caller when all
 * are, before he lets CRIU run the tasks.
 *
 * The tasks hand their descriptors over *before* they map and register their memory. So pages are put in unasked only after the last word.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "sync/pager-internal.h"

#define SOCKET_NAME "lazy-pages.socket"
#define FINISHED    0x52535446
#define PID_MAX     (1 << 22)

int fm_pager_criu_listen(struct fm_pager *p, struct fm_error *err)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d/" SOCKET_NAME, p->o.images_dirfd);
	if (fm_unix_listen(path, SOCK_STREAM, 0600, &p->criu.listen_fd, err) < 0)
		return fm_error_prefix(err, "the socket for CRIU in the images folder");
	return fm_pager_watch(p, p->criu.listen_fd, FM_WATCH_LISTEN, err);
}

static void stop_listening(struct fm_pager *p)
{
	if (p->criu.listen_fd < 0)
		return;
	(void)unlinkat(p->o.images_dirfd, SOCKET_NAME, 0);
	fm_closep(&p->criu.listen_fd);
	p->criu.listen_fd = -1;
}

void fm_pager_criu_close(struct fm_pager *p)
{
	stop_listening(p);
	fm_closep(&p->criu.fd);
	p->criu.fd = -1;
}

static int check_peer(int fd, struct fm_error *err)
{
	struct ucred c;
	socklen_t len = sizeof(c);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &len) < 0)
		return fm_error_errno(err, errno, "cannot tell who connected to " SOCKET_NAME);
	if (c.uid != geteuid())
		return fm_error_set(err, FM_E_PERMISSION_DENIED, "user %u connected to " SOCKET_NAME, (unsigned)c.uid);
	return 0;
}

/* The images are complete by now: CRIU reads them too. */
static int load_table(struct fm_pager *p, struct fm_error *err)
{
	_fm_free_ struct fm_pager_range *v = NULL;
	struct fm_pager_table *t = NULL;
	size_t n = 0;

	if (p->o.load_ranges(p->o.userdata, &v, &n, err) < 0)
		return fm_error_prefix(err, "reading which pages are lazy");
	if (fm_table_create(p->o.images_dirfd, v, n, &t, err) < 0)
		return -1;
	fm_pager_lock(p);
	p->table = t;
	fm_pager_check_kept(p);
	fm_pager_unlock(p);
	return 0;
}

int fm_pager_criu_accept(struct fm_pager *p, struct fm_error *err)
{
	_fm_close_ int fd = -1;
	struct fm_error e = FM_ERROR_INIT;

	if (fm_accept(p->criu.listen_fd, 0, -1, &fd, &e) < 0) {
		if (e.code == FM_E_DEADLINE_EXCEEDED) /* gone again */
			return 0;
		*err = e;
		return fm_error_prefix(err, "waiting for CRIU");
	}
	if (check_peer(fd, err) < 0)
		return -1;
	stop_listening(p);
	if (load_table(p, err) < 0 || fm_pager_watch(p, fd, FM_WATCH_CRIU, err) < 0)
		return -1;
	p->criu.fd = FM_TAKE_FD(fd);
	return 0;
}

/* Keep first, serve then. */
static int take_task(struct fm_pager *p, pid_t pid, int fd_owned, struct fm_error *err)
{
	_fm_close_ int fd = fd_owned;
	struct fm_pager_space *s = NULL;

	if (fm_pager_prepare_uffd(fd, err) < 0)
		return fm_error_prefix(err, "what CRIU handed over for process %d", (int)pid);
	int number = fd;
	fm_pager_lock(p);
	int r = fm_table_add(p->table, pid, FM_TAKE_FD(fd), &s, err);
	uint64_t key = r == 0 ? s->key : 0;
	fm_pager_unlock(p);
	if (r < 0)
		return -1;
	/* Only this thread drops spaces, so the descriptor stays. */
	if (p->o.keep(p->o.userdata, key, number, err) < 0)
		return fm_error_prefix(err, "keeping the userfaultfd of process %d in safety", (int)pid);
	fm_pager_lock(p);
	fm_table_set_kept(p->table, s);
	fm_pager_check_kept(p);
	fm_pager_unlock(p);
	return fm_pager_watch(p, number, key, err);
}

static int take_descriptor(struct fm_pager *p, struct fm_error *err)
{
	char byte;
	int fd = -1;
	size_t len = 0, n = 1;

	if (fm_recv_with_fds(p->criu.fd, &byte, 1, &len, &fd, &n, err) < 0)
		return fm_error_prefix(err, "waiting for the userfaultfd of process %d", (int)p->criu.pid);
	if (len != 1 || n != 1)
		return fm_error_set(err, FM_E_ABORTED, "CRIU did not hand over the userfaultfd of process %d", (int)p->criu.pid);
	pid_t pid = p->criu.pid;
	p->criu.pid = 0;
	return take_task(p, pid, fd, err);
}

static int restore_finished(struct fm_pager *p, struct fm_error *err)
{
	pid_t absent = 0;

	fm_pager_lock(p);
	for (size_t i = 0; i < p->table->n_tasks && !absent; i++)
		if (p->table->tasks[i].state == FM_TASK_AWAITED)
			absent = p->table->tasks[i].pid;
	if (!absent)
		fm_pager_state_set_finished(p->table->state);
	p->look_again = true;
	fm_pager_unlock(p);
	fm_pager_criu_close(p);
	if (absent)
		return fm_error_set(err, FM_E_DATA_LOSS,
		                    "CRIU has finished, but process %d, of which the images list lazy pages, has no userfaultfd",
		                    (int)absent);
	return 0;
}

static int take_word(struct fm_pager *p, int32_t word, struct fm_error *err)
{
	if (word == FINISHED)
		return restore_finished(p, err);
	if (word == 0 || word > PID_MAX)
		return fm_error_set(err, FM_E_INTERNAL, "CRIU sent %#x where a pid belongs", (unsigned)word);
	if (word > 0)
		p->criu.pid = word;
	return 0;
}

int fm_pager_criu_read(struct fm_pager *p, struct fm_error *err)
{
	struct fm_pager_criu *c = &p->criu;
	int32_t word;

	if (c->fd < 0)
		return 0;
	if (c->pid)
		return take_descriptor(p, err);
	ssize_t r = recv(c->fd, c->word + c->have, sizeof(c->word) - c->have, MSG_DONTWAIT);
	if (r < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (r < 0)
		return fm_error_errno(err, errno, "cannot receive from CRIU");
	if (r == 0)
		return fm_error_set(err, FM_E_ABORTED, "CRIU ended before the restore was finished");
	c->have += (size_t)r;
	if (c->have < sizeof(c->word))
		return 0;
	c->have = 0;
	memcpy(&word, c->word, sizeof(word));
	return take_word(p, word, err);
}
