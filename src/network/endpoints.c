/* SPDX-License-Identifier: MIT */
/* endpoints.c - see endpoints.h. */
#include "network/endpoints.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "basic/cleanup.h"
#include "network/internal.h"

struct fm_endpoints {
	pthread_mutex_t
	        lock; /* a destination is given up by another thread than the one that prepares: rehome and close exclude each other */
	size_t n;
	struct fm_endpoint *v[FM_MAX_ENDPOINTS];
};

typedef int (*endpoint_fn)(struct fm_endpoint *e, struct fm_error *err);

/* fn for each; when one fails, undo for those before it. */
static int each(struct fm_endpoints *s, endpoint_fn fn, endpoint_fn undo, struct fm_error *err)
{
	for (size_t i = 0; s && i < s->n; i++) {
		if (fn(s->v[i], err) == 0)
			continue;
		while (undo && i-- > 0)
			(void)undo(s->v[i], NULL);
		return -1;
	}
	return 0;
}

int fm_endpoints_new(const struct fm_endpoint_config *v, size_t n, const char *netns_path, struct fm_endpoints **ret, struct fm_error *err)
{
	struct fm_endpoints *s;

	if (n == 0) {
		*ret = NULL;
		return 0;
	}
	if (fm_endpoints_check(v, n, err) < 0)
		return -1;
	s = calloc(1, sizeof(*s));
	if (!s)
		return fm_error_errno(err, ENOMEM, "create endpoints");
	pthread_mutex_init(&s->lock, NULL);
	for (; s->n < n; s->n++) {
		if (fm_endpoint_new(&v[s->n], netns_path, &s->v[s->n], err) < 0) {
			fm_endpoints_free(s);
			return -1;
		}
	}
	*ret = s;
	return 0;
}

void fm_endpoints_free(struct fm_endpoints *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n; i++)
		fm_endpoint_free(s->v[i]);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static int unprepare(struct fm_endpoint *e, struct fm_error *err)
{
	fm_endpoint_unprepare(e);
	return 0;
}

int fm_endpoints_prepare(struct fm_endpoints *s, bool check_duplicate, struct fm_error *err)
{
	for (size_t i = 0; s && i < s->n; i++) {
		if (fm_endpoint_prepare(s->v[i], check_duplicate, err) == 0)
			continue;
		while (i-- > 0)
			fm_endpoint_unprepare(s->v[i]);
		return -1;
	}
	return 0;
}

int fm_endpoints_rehome(struct fm_endpoints *s, const char *netns_path, struct fm_error *err)
{
	int rc = 0;

	if (!s)
		return 0;
	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < s->n && rc == 0; i++)
		rc = fm_endpoint_rehome(s->v[i], netns_path, err);
	if (rc == 0)
		rc = fm_endpoints_prepare(s, false, err);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

int fm_endpoints_await_free(struct fm_endpoints *s, struct fm_error *err)
{
	if (each(s, fm_endpoint_await_free, NULL, err) == 0)
		return 0;
	(void)each(s, unprepare, NULL, NULL);
	return -1;
}

int fm_endpoints_attach(struct fm_endpoints *s, struct fm_error *err)
{
	return each(s, fm_endpoint_attach, NULL, err);
}

int fm_endpoints_open(struct fm_endpoints *s, struct fm_error *err)
{
	return each(s, fm_endpoint_open, fm_endpoint_close, err);
}

int fm_endpoints_close_inbound(struct fm_endpoints *s, struct fm_error *err)
{
	return each(s, fm_endpoint_close_inbound, fm_endpoint_open, err);
}

int fm_endpoints_close(struct fm_endpoints *s, struct fm_error *err)
{
	int rc = 0;

	if (!s)
		return 0;
	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < s->n; i++)
		if (fm_endpoint_close(s->v[i], rc < 0 ? NULL : err) < 0)
			rc = -1;
	pthread_mutex_unlock(&s->lock);
	return rc;
}

int fm_endpoints_announce(struct fm_endpoints *s, struct fm_error *err)
{
	return each(s, fm_endpoint_announce, NULL, err);
}

bool fm_endpoints_is_open(struct fm_endpoints *s)
{
	for (size_t i = 0; s && i < s->n; i++)
		if (fm_endpoint_is_open(s->v[i]))
			return true;
	return false;
}

int fm_endpoints_neighbours(struct fm_endpoints *s, struct fm_neighbour *ret, size_t *n, struct fm_error *err)
{
	size_t got = 0;

	for (size_t i = 0; s && i < s->n; i++) {
		size_t room = *n - got;

		if (fm_endpoint_neighbours(s->v[i], ret + got, &room, err) < 0)
			return -1;
		for (size_t k = got; k < got + room; k++)
			ret[k].endpoint = (uint8_t)i;
		got += room;
	}
	*n = got;
	return 0;
}

int fm_endpoints_set_neighbours(struct fm_endpoints *s, const struct fm_neighbour *v, size_t n, struct fm_error *err)
{
	if (n == 0)
		return 0;
	if (n > FM_MAX_NEIGHBOURS)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "%zu neighbours, at most %d are taken", n, FM_MAX_NEIGHBOURS);
	for (size_t i = 0; i < n; i++)
		if (!s || v[i].endpoint >= s->n)
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a neighbour of endpoint %u, which there is not",
			                    v[i].endpoint + 1);
	_fm_free_ struct fm_neighbour *one = calloc(n, sizeof(*one));
	if (!one)
		return fm_error_errno(err, ENOMEM, "install %zu neighbours", n);
	for (size_t i = 0; i < s->n; i++) {
		size_t m = 0;

		for (size_t k = 0; k < n; k++)
			if (v[k].endpoint == i)
				one[m++] = v[k];
		if (fm_endpoint_set_neighbours(s->v[i], one, m, err) < 0)
			return -1;
	}
	return 0;
}
