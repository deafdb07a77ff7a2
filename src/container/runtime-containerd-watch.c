/* SPDX-License-Identifier: MIT */
/*
 * runtime-containerd-watch.c - design note.
 *
 * What tells of a change is a timer: it is readable once it has run out, and whoever reads it empties it. So a change "now" and a look "in a while" are the same.
 *
 * containerd does not say when a subscription has begun (its answer's head comes with the first event). What happened just before is not to be missed, and there is no way to ask: so the timer is set to
 * run out SETTLE_MS after the request has been sent. An event before that proves that the subscription stands. Should it take longer on a loaded host, AGAIN_MS later is another look.
 *
 * While containerd is away nothing is told but its going: there is nothing to be seen. Its version is asked for until it answers.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/str.h"
#include "container/runtime-containerd-internal.h"
#include "loop/pool.h"

#define SETTLE_MS      300
#define AGAIN_MS       60000
#define FIRST_PAUSE_MS 50
#define LAST_PAUSE_MS  1000
#define ASK_MS         2000

struct fm_containerd_watch {
	const struct fm_containerd_transport *t;
	const char *ns; /* of calls that have none of their own */
	char **filters;
	int timer;
	struct fm_stop stop;
	pthread_t thread;
};

static void tell_in(const struct fm_containerd_watch *w, unsigned ms)
{
	struct itimerspec when = { .it_value = { .tv_sec = ms / 1000, .tv_nsec = ms ? (ms % 1000) * 1000000L : 1 },
		                   .it_interval = { .tv_sec = AGAIN_MS / 1000 } };

	(void)timerfd_settime(w->timer, 0, &when, NULL);
}

static int on_event(void *arg, const ProtobufCMessage *message)
{
	const FmCtrdEvent *e = (const FmCtrdEvent *)message;

	/* programs that are run inside, health checks for one: nothing of the container changes */
	if (!fm_str_startswith(e->topic, "/tasks/exec-"))
		tell_in(arg, 0);
	return 0;
}

static bool answers(const struct fm_containerd_watch *w)
{
	FmCtrdEmpty nothing = FM_CTRD_EMPTY__INIT;
	ProtobufCMessage *m = NULL;

	if (w->t->call(w->t->userdata, w->ns, FM_CONTAINERD_VERSION, &nothing.base, &fm_ctrd_version__descriptor, ASK_MS, &m, NULL) < 0)
		return false;
	protobuf_c_message_free_unpacked(m, NULL);
	return true;
}

static void *watch_thread(void *arg)
{
	struct fm_containerd_watch *w = arg;
	FmCtrdFilters request = FM_CTRD_FILTERS__INIT;
	int pause_ms = FIRST_PAUSE_MS;

	request.filters = w->filters;
	request.n_filters = fm_strv_len(w->filters);
	while (!fm_stop_requested(&w->stop)) {
		if (answers(w)) {
			pause_ms = FIRST_PAUSE_MS;
			tell_in(w, SETTLE_MS);
			(void)w->t->stream(w->t->userdata, w->ns, "/containerd.services.events.v1.Events/Subscribe", &request.base,
			                   &fm_ctrd_event__descriptor, 0, w->stop.fd, on_event, w, NULL);
			tell_in(w, 0);
		}
		(void)fm_wait_fd(w->stop.fd, POLLIN, pause_ms, NULL);
		pause_ms = pause_ms * 2 > LAST_PAUSE_MS ? LAST_PAUSE_MS : pause_ms * 2;
	}
	return NULL;
}

static int start_thread(struct fm_containerd_watch *w, struct fm_error *err)
{
	sigset_t all, before;
	int e;

	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &before);
	e = pthread_create(&w->thread, NULL, watch_thread, w);
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	return e == 0 ? 0 : fm_error_errno(err, e, "starting the thread that listens to containerd");
}

int fm_containerd_watch_new(const struct fm_containerd_transport *t, char *const *namespaces, struct fm_containerd_watch **ret,
                            struct fm_error *err)
{
	struct fm_containerd_watch *w = calloc(1, sizeof *w);

	if (!w)
		return fm_error_errno(err, ENOMEM, "listening to containerd");
	w->t = t;
	w->ns = namespaces[0];
	w->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (w->timer < 0) {
		(void)fm_error_errno(err, errno, "listening to containerd");
		free(w);
		return -1;
	}
	if (fm_stop_init(&w->stop, err) < 0) {
		(void)close(w->timer);
		free(w);
		return -1;
	}
	for (size_t i = 0; namespaces[i]; i++) {
		_fm_free_ char *filter = fm_xasprintf("namespace==\"%s\",topic~=\"^/(tasks|containers)/\"", namespaces[i]);

		fm_strv_add(&w->filters, filter);
	}
	if (start_thread(w, err) < 0) {
		fm_stop_done(&w->stop);
		(void)close(w->timer);
		fm_strv_free(w->filters);
		free(w);
		return -1;
	}
	*ret = w;
	return 0;
}

int fm_containerd_watch_fd(const struct fm_containerd_watch *w)
{
	return w->timer;
}

void fm_containerd_watch_free(struct fm_containerd_watch *w)
{
	if (!w)
		return;
	fm_stop_request(&w->stop);
	(void)pthread_join(w->thread, NULL);
	fm_stop_done(&w->stop);
	(void)close(w->timer);
	fm_strv_free(w->filters);
	free(w);
}
