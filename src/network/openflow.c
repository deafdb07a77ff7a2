/* SPDX-License-Identifier: MIT */
/* openflow.c - what can be asked of a switch (openflow.h), over openflow-link.c. */
#include "network/openflow.h"

#include <string.h>

#include "basic/clock.h"
#include "network/openflow-link.h"

#define BUNDLE_FLAGS (FM_OF_BUNDLE_ATOMIC | FM_OF_BUNDLE_ORDERED)

bool fm_of_is_up(const struct fm_of *c)
{
	return c->fd >= 0;
}

int fm_of_check(struct fm_of *c, struct fm_error *err)
{
	return fm_of_require_up(c, err) < 0 ? -1 : fm_of_flush(c, err);
}

const char *fm_of_name(const struct fm_of *c)
{
	return c->name;
}

uint64_t fm_of_datapath_id(const struct fm_of *c)
{
	return c->datapath_id;
}

uint64_t fm_of_retry_at_ms(const struct fm_of *c)
{
	return c->fd >= 0 ? 0 : c->retry_at_ms;
}

/* signs of life */

uint64_t fm_of_keepalive_at_ms(const struct fm_of *c)
{
	return c->heard_ms + FM_OF_KEEPALIVE_MS;
}

static bool was_heard(const struct fm_of *c)
{
	return c->asked_ms == 0;
}

int fm_of_keepalive(struct fm_of *c, int timeout_ms, int cancel_fd, struct fm_error *err)
{
	struct fm_of_wait w = fm_of_wait_for(timeout_ms, cancel_fd);
	struct fm_of_message m = { .type = FM_OF_ECHO_REQUEST };
	struct fm_error e = FM_ERROR_INIT;

	if (fm_of_require_up(c, err) < 0 || fm_of_flush(c, err) < 0)
		return -1;
	if (fm_now_ms() < fm_of_keepalive_at_ms(c))
		return 0;
	if (!c->asked_ms) {
		if (fm_of_queue(c, &m, err) < 0)
			return -1;
		c->asked_ms = fm_now_ms();
	}
	uint64_t until = c->asked_ms + FM_OF_ECHO_PATIENCE_MS;
	if (!w.deadline_ms || w.deadline_ms > until)
		w.deadline_ms = until;
	if (fm_of_pump(c, &w, was_heard, &e) == 0)
		return 0;
	if (c->fd >= 0 && e.code == FM_E_DEADLINE_EXCEEDED && fm_now_ms() >= until) {
		(void)fm_error_set(&e, FM_E_UNAVAILABLE, "switch %s has given no sign of life for %u ms", c->name, FM_OF_ECHO_PATIENCE_MS);
		(void)fm_of_lose(c, &e);
	}
	if (err)
		*err = e;
	return -1;
}

/* flows, one by one */

int fm_of_barrier(struct fm_of *c, int timeout_ms, int cancel_fd, struct fm_error *err)
{
	struct fm_of_wait w = fm_of_wait_for(timeout_ms, cancel_fd);
	struct fm_of_message m = { .type = FM_OF_BARRIER_REQUEST };

	return fm_of_ask(c, &m, FM_OF_BARRIER_REPLY, &w, err);
}

static int check_count(const struct fm_of *c, size_t n, struct fm_error *err)
{
	if (n == 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "switch %s: a change without flows", c->name);
	if (n > FM_MAX_OF_BUNDLE_MESSAGES)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "switch %s: %zu changes at once, at most %u are allowed", c->name, n,
		                    FM_MAX_OF_BUNDLE_MESSAGES);
	return 0;
}

/* Nothing of a list that cannot be queued as a whole must be sent. */
static void unqueue(struct fm_of *c, size_t len)
{
	c->out.len = len;
}

static int queue_flow_mods(struct fm_of *c, const struct fm_of_flow_mod *mods, size_t n, struct fm_error *err)
{
	struct fm_of_message barrier = { .type = FM_OF_BARRIER_REQUEST };

	for (size_t i = 0; i < n; i++) {
		struct fm_of_message m = { .type = FM_OF_FLOW_MOD, .flow_mod = mods[i] };

		if (fm_of_queue(c, &m, err) < 0)
			return fm_error_prefix(err, "change %zu of %zu", i + 1, n);
	}
	return fm_of_queue(c, &barrier, err);
}

int fm_of_flow_mods(struct fm_of *c, const struct fm_of_flow_mod *mods, size_t n, int timeout_ms, int cancel_fd, struct fm_error *err)
{
	struct fm_of_wait w = fm_of_wait_for(timeout_ms, cancel_fd);
	uint32_t first = c->next_xid;
	size_t before = c->out.len;

	if (fm_of_require_up(c, err) < 0 || check_count(c, n, err) < 0)
		return -1;
	if (queue_flow_mods(c, mods, n, err) < 0) {
		unqueue(c, before);
		return -1;
	}
	(void)fm_of_request_begin(c, first, FM_OF_BARRIER_REPLY);
	int rc = fm_of_request_wait(c, &w, err);
	fm_of_request_end(c);
	return rc;
}

/* bundles */

static int queue_bundle_control(struct fm_of *c, uint32_t id, enum fm_of_bundle_kind kind, struct fm_error *err)
{
	struct fm_of_message m = { .type = FM_OF_BUNDLE_CONTROL, .bundle = { .id = id, .kind = kind, .flags = BUNDLE_FLAGS } };

	return fm_of_queue(c, &m, err);
}

static int queue_bundle(struct fm_of *c, uint32_t id, const struct fm_of_flow_mod *mods, size_t n, struct fm_error *err)
{
	if (queue_bundle_control(c, id, FM_OF_BUNDLE_OPEN, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		struct fm_of_message m = { .type = FM_OF_BUNDLE_ADD,
			                   .bundle_add = { .id = id, .flags = BUNDLE_FLAGS, .flow_mod = mods[i] } };

		if (fm_of_queue(c, &m, err) < 0)
			return fm_error_prefix(err, "change %zu of %zu", i + 1, n);
	}
	return queue_bundle_control(c, id, FM_OF_BUNDLE_CLOSE, err);
}

int fm_of_bundle_prepare_begin(struct fm_of *c, const struct fm_of_flow_mod *mods, size_t n, uint32_t *ret_id, struct fm_error *err)
{
	uint32_t first = c->next_xid, id = c->next_bundle;
	size_t before = c->out.len;

	if (fm_of_require_up(c, err) < 0 || check_count(c, n, err) < 0)
		return -1;
	if (queue_bundle(c, id, mods, n, err) < 0) {
		unqueue(c, before);
		return -1;
	}
	c->next_bundle++;
	c->prepared_first = first + 1;
	c->prepared_last = first + (uint32_t)n;
	struct fm_of_request *r = fm_of_request_begin(c, first, FM_OF_BUNDLE_CONTROL);
	r->bundle = FM_OF_BUNDLE_CLOSED;
	r->bundle_id = id;
	r->is_prepare = true;
	*ret_id = id;
	return fm_of_flush(c, err);
}

static int bundle_end_begin(struct fm_of *c, uint32_t id, enum fm_of_bundle_kind kind, struct fm_error *err)
{
	if (fm_of_require_up(c, err) < 0 || queue_bundle_control(c, id, kind, err) < 0)
		return -1;
	struct fm_of_request *r = fm_of_request_begin(c, c->next_xid - 1, FM_OF_BUNDLE_CONTROL);
	r->bundle = (enum fm_of_bundle_kind)(kind + 1);
	r->bundle_id = id;
	r->is_commit = kind == FM_OF_BUNDLE_COMMIT;
	return fm_of_flush(c, err);
}

int fm_of_bundle_commit_begin(struct fm_of *c, uint32_t id, struct fm_error *err)
{
	return bundle_end_begin(c, id, FM_OF_BUNDLE_COMMIT, err);
}

/* What came of a prepare that failed is discarded without waiting for an answer: it comes before whatever is said next. */
int fm_of_finish(struct fm_of *c, int timeout_ms, int cancel_fd, struct fm_error *err)
{
	struct fm_of_wait w = fm_of_wait_for(timeout_ms, cancel_fd);

	if (fm_of_require_up(c, err) < 0)
		return -1;
	if (!c->request.active)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "switch %s was asked nothing", c->name);
	bool prepare = c->request.is_prepare;
	uint32_t id = c->request.bundle_id;
	int rc = fm_of_request_wait(c, &w, err);
	if (rc < 0 && prepare && c->fd >= 0 && queue_bundle_control(c, id, FM_OF_BUNDLE_DISCARD, NULL) == 0)
		(void)fm_of_flush(c, NULL);
	fm_of_request_end(c);
	return rc;
}

int fm_of_bundle_prepare(struct fm_of *c, const struct fm_of_flow_mod *mods, size_t n, int timeout_ms, int cancel_fd, uint32_t *ret_id,
                         struct fm_error *err)
{
	uint32_t id;

	if (fm_of_bundle_prepare_begin(c, mods, n, &id, err) < 0 || fm_of_finish(c, timeout_ms, cancel_fd, err) < 0)
		return -1;
	*ret_id = id;
	return 0;
}

int fm_of_bundle_commit(struct fm_of *c, uint32_t id, int timeout_ms, int cancel_fd, struct fm_error *err)
{
	if (fm_of_bundle_commit_begin(c, id, err) < 0)
		return -1;
	return fm_of_finish(c, timeout_ms, cancel_fd, err);
}

int fm_of_bundle_discard(struct fm_of *c, uint32_t id, int timeout_ms, int cancel_fd, struct fm_error *err)
{
	if (bundle_end_begin(c, id, FM_OF_BUNDLE_DISCARD, err) < 0)
		return -1;
	return fm_of_finish(c, timeout_ms, cancel_fd, err);
}

/* lists */

/* Room for one more of `size` bytes */
static int grow(void **list, size_t n, size_t *cap, size_t size, size_t max, struct fm_error *err)
{
	if (n >= max)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "its answer has more than %zu entries", max);
	if (n < *cap)
		return 0;
	size_t more = *cap ? *cap * 2 : 16;
	void *p = realloc(*list, more * size);
	if (!p)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "no memory for an answer of %zu entries", more);
	*list = p;
	*cap = more;
	return 0;
}

int fm_of_take_entries(struct fm_of_request *r, const struct fm_of_message *m, struct fm_error *err)
{
	struct fm_of_bytes rest = m->multipart.entries;
	struct fm_of_flow flow;
	struct fm_of_port port;
	struct fm_of_counters counters;
	int rc;

	if (r->multipart == FM_OF_MULTIPART_FLOWS) {
		while ((rc = fm_of_flow_next(&rest, &flow, err)) > 0) {
			if (grow((void **)&r->flows, r->n, &r->cap, sizeof(flow), FM_MAX_OF_FLOWS, err) < 0)
				return -1;
			r->flows[r->n++] = flow;
		}
	} else if (r->multipart == FM_OF_MULTIPART_COUNTERS) {
		while ((rc = fm_of_counters_next(&rest, &counters, err)) > 0) {
			if (grow((void **)&r->counters, r->n, &r->cap, sizeof(counters), FM_MAX_OF_PORTS, err) < 0)
				return -1;
			r->counters[r->n++] = counters;
		}
	} else {
		while ((rc = fm_of_port_next(&rest, &port, err)) > 0) {
			if (grow((void **)&r->ports, r->n, &r->cap, sizeof(port), FM_MAX_OF_PORTS, err) < 0)
				return -1;
			r->ports[r->n++] = port;
		}
	}
	return rc;
}

static int ask_list(struct fm_of *c, struct fm_of_message *m, const struct fm_of_wait *w, struct fm_error *err)
{
	if (fm_of_require_up(c, err) < 0 || fm_of_queue(c, m, err) < 0)
		return -1;
	fm_of_request_begin(c, m->xid, FM_OF_MULTIPART_REPLY)->multipart = m->multipart.kind;
	return fm_of_request_wait(c, w, err);
}

int fm_of_flows(struct fm_of *c, const struct fm_of_flow_filter *filter, int timeout_ms, int cancel_fd, struct fm_of_flow **ret,
                size_t *ret_n, struct fm_error *err)
{
	struct fm_of_wait w = fm_of_wait_for(timeout_ms, cancel_fd);
	struct fm_of_message m = { .type = FM_OF_MULTIPART_REQUEST, .multipart.kind = FM_OF_MULTIPART_FLOWS };

	m.multipart.filter = filter ? *filter : (struct fm_of_flow_filter){ .table = FM_OF_TABLE_ALL };
	int rc = ask_list(c, &m, &w, err);
	if (rc == 0) {
		*ret_n = c->request.n;
		*ret = FM_TAKE_PTR(c->request.flows);
	}
	fm_of_request_end(c);
	return rc;
}

int fm_of_ports(struct fm_of *c, int timeout_ms, int cancel_fd, struct fm_of_port **ret, size_t *ret_n, struct fm_error *err)
{
	struct fm_of_wait w = fm_of_wait_for(timeout_ms, cancel_fd);
	struct fm_of_message m = { .type = FM_OF_MULTIPART_REQUEST, .multipart.kind = FM_OF_MULTIPART_PORTS };

	int rc = ask_list(c, &m, &w, err);
	if (rc == 0) {
		*ret_n = c->request.n;
		*ret = FM_TAKE_PTR(c->request.ports);
	}
	fm_of_request_end(c);
	return rc;
}

int fm_of_port_counters(struct fm_of *c, int timeout_ms, int cancel_fd, struct fm_of_counters **ret, size_t *ret_n, struct fm_error *err)
{
	struct fm_of_wait w = fm_of_wait_for(timeout_ms, cancel_fd);
	struct fm_of_message m = { .type = FM_OF_MULTIPART_REQUEST, .multipart.kind = FM_OF_MULTIPART_COUNTERS };

	int rc = ask_list(c, &m, &w, err);
	if (rc == 0) {
		*ret_n = c->request.n;
		*ret = FM_TAKE_PTR(c->request.counters);
	}
	fm_of_request_end(c);
	return rc;
}

static bool has_event(const struct fm_of *c)
{
	return c->n_events > 0;
}

int fm_of_port_event(struct fm_of *c, int timeout_ms, int cancel_fd, struct fm_of_port_status *ret, struct fm_error *err)
{
	struct fm_of_wait w = fm_of_wait_for(timeout_ms, cancel_fd);

	if (fm_of_require_up(c, err) < 0 || fm_of_pump(c, &w, has_event, err) < 0)
		return -1;
	if (c->events_lost) {
		c->events_lost = false;
		return fm_error_set(err, FM_E_ABORTED, "switch %s: more than %u changes of ports, the first are lost", c->name,
		                    FM_MAX_OF_EVENTS);
	}
	*ret = c->events[c->event_first];
	c->event_first = (c->event_first + 1) % FM_MAX_OF_EVENTS;
	c->n_events--;
	return 0;
}
