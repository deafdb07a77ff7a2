/* SPDX-License-Identifier: MIT */
/*
 * pool.c - see pool.h.
 *
 * One mutex, one condition, one list. Migrations are few and long, so there is nothing to gain from anything cleverer. A job waits for a
 * thread only when all threads are busy: the limit counts jobs beyond the idle threads, so that max_queued = 0 means "run now or refuse".
 */
#include "loop/pool.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "basic/cleanup.h"

#define MAX_THREADS 1024

struct job {
	struct job *next;
	void (*fn)(void *arg);
	void *arg;
};

struct fm_pool {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct job *first, **last; /* under lock, as all below */
	size_t n_queued, max_queued;
	unsigned n_running;
	bool closing;
	unsigned n_threads; /* constant after fm_pool_new */
	pthread_t threads[];
};

static struct job *take_job(struct fm_pool *p)
{
	struct job *job = p->first;

	p->first = job->next;
	if (!p->first)
		p->last = &p->first;
	p->n_queued--;
	return job;
}

static void *worker(void *arg)
{
	struct fm_pool *p = arg;

	(void)pthread_mutex_lock(&p->lock);
	for (;;) {
		struct job *job;

		while (!p->first && !p->closing)
			(void)pthread_cond_wait(&p->wake, &p->lock);
		if (!p->first)
			break;
		job = take_job(p);
		p->n_running++;
		(void)pthread_mutex_unlock(&p->lock);

		job->fn(job->arg);
		free(job);

		(void)pthread_mutex_lock(&p->lock);
		p->n_running--;
	}
	(void)pthread_mutex_unlock(&p->lock);
	return NULL;
}

/* Signals of the process are for the main thread's signalfd; a fault in a worker must still end the process with the right signal. */
static void worker_signals(sigset_t *set)
{
	static const int own[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS };

	(void)sigfillset(set);
	for (size_t i = 0; i < FM_ARRAY_SIZE(own); i++)
		(void)sigdelset(set, own[i]);
}

static int start_threads(struct fm_pool *p, unsigned n)
{
	sigset_t blocked, before;
	int rc = 0;

	worker_signals(&blocked);
	/* inherited by the new threads, so that no signal can hit one before it has its mask */
	rc = pthread_sigmask(SIG_SETMASK, &blocked, &before);
	if (rc)
		return rc;
	while (p->n_threads < n) {
		rc = pthread_create(&p->threads[p->n_threads], NULL, worker, p);
		if (rc)
			break;
		(void)pthread_setname_np(p->threads[p->n_threads], "fm-worker");
		p->n_threads++;
	}
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	return rc;
}

int fm_pool_new(unsigned n_threads, size_t max_queued, struct fm_pool **ret, struct fm_error *err)
{
	struct fm_pool *p;
	int rc;

	if (n_threads == 0 || n_threads > MAX_THREADS)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a pool of %u threads (1 to %d)", n_threads, MAX_THREADS);
	p = calloc(1, sizeof(*p) + n_threads * sizeof(p->threads[0]));
	if (!p)
		return fm_error_errno(err, ENOMEM, "creating a pool of threads");
	(void)pthread_mutex_init(&p->lock, NULL);
	(void)pthread_cond_init(&p->wake, NULL);
	p->last = &p->first;
	p->max_queued = max_queued;
	rc = start_threads(p, n_threads);
	if (rc) {
		fm_pool_free(p);
		return fm_error_errno(err, rc, "creating a pool of %u threads", n_threads);
	}
	*ret = p;
	return 0;
}

int fm_pool_submit(struct fm_pool *p, void (*fn)(void *arg), void *arg, struct fm_error *err)
{
	struct job *job = calloc(1, sizeof(*job));
	enum fm_code refused = FM_OK;

	if (!job)
		return fm_error_errno(err, ENOMEM, "queueing a job");
	job->fn = fn;
	job->arg = arg;

	(void)pthread_mutex_lock(&p->lock);
	if (p->closing)
		refused = FM_E_CANCELLED;
	else if (p->n_queued >= p->max_queued + (p->n_threads - p->n_running))
		refused = FM_E_RESOURCE_EXHAUSTED;
	if (refused == FM_OK) {
		*p->last = job;
		p->last = &job->next;
		p->n_queued++;
		(void)pthread_cond_signal(&p->wake);
	}
	(void)pthread_mutex_unlock(&p->lock);

	if (refused == FM_OK)
		return 0;
	free(job);
	if (refused == FM_E_CANCELLED)
		return fm_error_set(err, refused, "queueing a job: shutting down");
	(void)fm_error_set(err, refused, "queueing a job: all %u workers are busy and %zu jobs wait already", p->n_threads, p->max_queued);
	return fm_error_hint(err, "try again when something has finished");
}

void fm_pool_free(struct fm_pool *p)
{
	if (!p)
		return;
	(void)pthread_mutex_lock(&p->lock);
	p->closing = true;
	(void)pthread_cond_broadcast(&p->wake);
	(void)pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->n_threads; i++)
		(void)pthread_join(p->threads[i], NULL);
	(void)pthread_cond_destroy(&p->wake);
	(void)pthread_mutex_destroy(&p->lock);
	free(p);
}

int fm_stop_init(struct fm_stop *s, struct fm_error *err)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	if (fd < 0)
		return fm_error_errno(err, errno, "creating a stop token");
	s->fd = fd;
	return 0;
}

void fm_stop_request(struct fm_stop *s)
{
	uint64_t one = 1;
	int saved = errno;

	/* EAGAIN: requested 2^64-2 times already; it is readable, which is all that matters */
	if (s->fd >= 0 && write(s->fd, &one, sizeof(one)) < 0)
		errno = saved;
	errno = saved;
}

bool fm_stop_requested(const struct fm_stop *s)
{
	struct pollfd p = { .fd = s->fd, .events = POLLIN };
	int saved = errno, n;

	do {
		n = poll(&p, 1, 0);
	} while (n < 0 && errno == EINTR);
	errno = saved;
	return n > 0 && p.revents & POLLIN;
}

void fm_stop_done(struct fm_stop *s)
{
	fm_closep(&s->fd);
	s->fd = -1;
}

int fm_signals_block(int *ret_signalfd, struct fm_error *err)
{
	return fm_signals_block_and(SIGTERM, ret_signalfd, err);
}

int fm_signals_block_and(int one_more, int *ret_signalfd, struct fm_error *err)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN };
	sigset_t set;
	int rc, fd;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, one_more);
	rc = pthread_sigmask(SIG_BLOCK, &set, NULL);
	if (rc)
		return fm_error_errno(err, rc, "blocking signals");
	if (sigaction(SIGPIPE, &ignore, NULL) < 0)
		return fm_error_errno(err, errno, "ignoring SIGPIPE");
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return fm_error_errno(err, errno, "creating a signal descriptor");
	*ret_signalfd = fd;
	return 0;
}
