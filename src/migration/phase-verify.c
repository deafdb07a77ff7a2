/* SPDX-License-Identifier: MIT */
/* phase-verify.c - VERIFICATION: does the destination serve, seen from inside and from a client's side? And COMPLETED: only then the source's copy is freed. */
#include <netinet/in.h>
#include <poll.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "migration/coordinator-internal.h"

#define PAGES_TIMEOUT_MS 600000
#define HEALTH_PAUSE_MS  300
#define PATH_ATTEMPTS    3

/* Pages arrive by themselves; here is only watched, for progress and for the end. */
int fm_await_pages(struct fm_migration *m, struct fm_error *err)
{
	uint64_t deadline = fm_now_ms() + PAGES_TIMEOUT_MS;
	fm_migration_step(m, "fetching pages");
	while (m->pb->strategy != FLEXIMIGRATE__V1__STRATEGY__COLD) {
		_fm_pb_ FM_PB(MoverStatus) *s = NULL;
		struct fm_error e = FM_ERROR_INIT;
		if (fm_call_status(m, m->pb->destination, 200, &s, &e) < 0) {
			if (fm_pause_silence(m, m->pb->destination, &e))
				deadline = fm_now_ms() + PAGES_TIMEOUT_MS;
			if (fm_stop_requested(&m->c->shutdown) || !fm_deadline_left_ms(deadline)) {
				*err = e;
				return -1;
			}
			(void)fm_wait_fd(m->c->shutdown.fd, POLLIN, FM_RETRY_PAUSE_MS, NULL);
			continue;
		}
		fm_migration_take_status(m, s);
		fm_pause_take(m, s);
		if (s->pause) /* what cannot come is not late */
			deadline = fm_now_ms() + PAGES_TIMEOUT_MS;
		/* A released destination was released because its pages were complete. */
		if (fm_streq(s->step, "pages complete") || s->decision == FLEXIMIGRATE__V1__DECISION__RELEASED) {
			if (s->n_notes) /* what pages.c said last: how many pages and faults */
				fm_mlog(m, FM_LOG_INFO, "StateSynchronizer", "On '%s': %s.", m->pb->destination, s->notes[s->n_notes - 1]);
			return 0;
		}
		if (s->error_code)
			return fm_error_set(err, (enum fm_code)s->error_code, "%s", s->error_message);
		if (!s->alive)
			return fm_error_set(err, FM_E_DATA_LOSS, "the application of '%s' has ended on '%s'", m->pb->container,
			                    m->pb->destination);
		if (!fm_deadline_left_ms(deadline))
			return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "the pages did not arrive within %d s", PAGES_TIMEOUT_MS / 1000);
	}
	return 0;
}

static int verify_inside(struct fm_migration *m, struct fm_error *err)
{
	FM_PB(VerifyRequest) req = FLEXIMIGRATE__V1__VERIFY_REQUEST__INIT;
	_fm_pb_ FM_PB(VerifyResponse) *resp = NULL;
	req.migration_id = m->id;
	req.timeout_ms = 10000;
	if (m->facts) {
		req.n_listeners = m->facts->n_listeners;
		req.listeners = m->facts->listeners;
	}
	return fm_call_until_answered(m, m->pb->destination, FM_AGENT_VERIFY, &req, 30000, &resp, err);
}

struct address {
	char text[INET6_ADDRSTRLEN];
};

static bool is_ipv6(const struct address *a)
{
	return strchr(a->text, ':') != NULL;
}

static bool add_address(struct address *ret, const char *with_prefix)
{
	size_t n = strcspn(with_prefix, "/");
	if (n == 0 || n >= sizeof(ret->text))
		return false;
	memcpy(ret->text, with_prefix, n);
	ret->text[n] = '\0';
	return true;
}

/* The container's addresses, in the order of its endpoints, IPv4 first; how many. */
static size_t addresses(const struct fm_migration *m, struct address ret[2 * FM_MAX_ENDPOINTS])
{
	const FM_PB(Endpoint) * e;
	size_t n = 0;
	for (size_t i = 0; i < FM_MAX_ENDPOINTS && m->facts && (e = fm_pb_endpoint(m->facts->container, i)); i++) {
		n += add_address(&ret[n], e->address);
		n += add_address(&ret[n], e->address6);
	}
	return n;
}

/* port: where there is no health check */
static int probe(struct fm_migration *m, const char *from, const struct address *at, FM_PB(HealthCheck) * health, uint32_t port,
                 struct fm_error *err)
{
	FM_PB(ProbeRequest) req = FLEXIMIGRATE__V1__PROBE_REQUEST__INIT;
	_fm_pb_ FM_PB(VerifyResponse) *resp = NULL;
	req.address = (char *)at->text;
	req.port = port;
	req.health = health;
	if (fm_call(m, from, FM_AGENT_PROBE, &req, FM_CALL_TIMEOUT_MS, &resp, err) < 0)
		return -1;
	if (health && health->max_latency_ms && resp->latency_us > (uint64_t)health->max_latency_ms * 1000)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "latency %.1f ms is over the limit of %u ms",
		                    (double)resp->latency_us / 1000, health->max_latency_ms);
	return 0;
}

static bool has_health(const struct fm_migration *m)
{
	return m->facts && m->facts->container->health && m->facts->container->health->probe[0] && m->facts->container->endpoint;
}

static int check_health(struct fm_migration *m, struct fm_error *err)
{
	struct address at[2 * FM_MAX_ENDPOINTS];
	if (!has_health(m) || addresses(m, at) == 0)
		return 0;
	FM_PB(HealthCheck) *h = m->facts->container->health;
	uint32_t attempts = h->attempts ? h->attempts : 3;
	for (uint32_t i = 1;; i++) {
		struct fm_error e = FM_ERROR_INIT;
		if (probe(m, m->pb->destination, &at[0], h, 0, &e) == 0)
			return 0;
		if (fm_stopping(m)) {
			*err = e;
			return -1;
		}
		fm_mlog(m, FM_LOG_WARN, "ResourceMonitor", "Health check '%s' of '%s' on '%s' failed (attempt %u of %u): %s.", h->probe,
		        m->pb->container, m->pb->destination, i, attempts, e.message);
		if (i >= attempts) {
			*err = e;
			return fm_error_prefix(err, "health check failed %u times", attempts);
		}
		(void)fm_wait_fd(m->c->shutdown.fd, POLLIN, HEALTH_PAUSE_MS, NULL);
	}
}

/* Of a socket that listens on all IPv6 addresses it is not known whether it takes IPv4, too: as a rule it does. */
enum listens { NOT_THERE, AS_A_RULE, CERTAINLY };

static enum listens listens_at(const FM_PB(Listener) * l, const struct address *a)
{
	const char *address = fm_str_startswith(l->address, "::ffff:") ? l->address + strlen("::ffff:") : l->address;
	if (fm_streq(address, a->text) || fm_streq(address, is_ipv6(a) ? "::" : "0.0.0.0"))
		return CERTAINLY;
	return fm_streq(address, "::") ? AS_A_RULE : NOT_THERE;
}

/* What listens at an address; the port of one that certainly does, if there is one. */
static enum listens find_listener(const struct fm_migration *m, const struct address *a, uint32_t *ret_port)
{
	enum listens best = NOT_THERE;
	for (size_t i = 0; i < m->facts->n_listeners; i++) {
		enum listens found = listens_at(m->facts->listeners[i], a);
		if (found <= best)
			continue;
		best = found;
		*ret_port = m->facts->listeners[i]->port;
	}
	return best;
}

/* One lost packet of a connection that is just being made costs its first retransmission, a second: that alone is no reason to carry a container back. */
static int probe_from_source(struct fm_migration *m, const struct address *a, FM_PB(HealthCheck) * health, uint32_t port,
                             struct fm_error *err)
{
	fm_mlog(m, FM_LOG_INFO, "NetworkManager", "Verifying network connectivity of '%s' (%s) from '%s'.", m->pb->container, a->text,
	        m->pb->source);
	for (unsigned i = 1;; i++) {
		struct fm_error e = FM_ERROR_INIT;
		if (probe(m, m->pb->source, a, health, port, &e) == 0)
			return 0;
		if (fm_stopping(m) || i == PATH_ATTEMPTS || fm_wait_fd(m->c->shutdown.fd, POLLIN, HEALTH_PAUSE_MS, NULL) != 0) {
			*err = e;
			return -1;
		}
	}
}

/* The source's host is a client like any other to the container now: its packets have to take the new way. The first address that there is, or that something listens at. */
static int check_path(struct fm_migration *m, struct fm_error *err)
{
	struct address at[2 * FM_MAX_ENDPOINTS];
	size_t n = addresses(m, at);
	struct fm_error first = FM_ERROR_INIT;
	if (n > 0 && has_health(m))
		return probe_from_source(m, &at[0], m->facts->container->health, 0, err);
	for (size_t i = 0; i < n; i++) {
		struct fm_error e = FM_ERROR_INIT;
		uint32_t port = 0;
		enum listens l = find_listener(m, &at[i], &port);
		if (l == NOT_THERE)
			continue;
		if (probe_from_source(m, &at[i], NULL, port, &e) == 0)
			return 0;
		if (first.code == FM_OK)
			first = e;
		if (l == CERTAINLY)
			break;
	}
	if (first.code != FM_OK) {
		*err = first;
		return -1;
	}
	fm_mlog(m, FM_LOG_INFO, "NetworkManager", "Verifying network connectivity of '%s': nothing of it listens, nothing to reach.",
	        m->pb->container);
	return 0;
}

/* A service whose pages cannot be fetched just now fails its checks for that reason alone: they are made once more when that is over. */
static int check_service(struct fm_migration *m, struct fm_error *err)
{
	for (;;) {
		struct fm_error e = FM_ERROR_INIT;
		if (check_health(m, &e) == 0 && check_path(m, &e) == 0)
			return 0;
		if (fm_stopping(m) || !fm_pause_holds(m)) {
			*err = e;
			return -1;
		}
		while (!fm_stopping(m) && fm_pause_holds(m))
			(void)fm_wait_fd(m->c->shutdown.fd, POLLIN, FM_RETRY_PAUSE_MS, NULL);
	}
}

int fm_load_facts(struct fm_migration *m, const char *host, struct fm_error *err)
{
	FM_PB(InspectRequest) req = FLEXIMIGRATE__V1__INSPECT_REQUEST__INIT;
	_fm_pb_ FM_PB(InspectResponse) *facts = NULL;
	if (m->facts)
		return 0;
	req.container = m->pb->container;
	if (fm_call_until_answered(m, host, FM_AGENT_INSPECT, &req, FM_CALL_TIMEOUT_MS, &facts, err) < 0)
		return -1;
	if (!facts->container)
		return fm_error_set(err, FM_E_INTERNAL, "host '%s' describes no container '%s'", host, m->pb->container);
	m->facts = FM_TAKE_PTR(facts);
	return 0;
}

int fm_phase_verification(struct fm_migration *m, struct fm_error *err)
{
	struct fm_error unknown = FM_ERROR_INIT;
	/* After a restart of the manager the facts come from the container's new host. */
	if (fm_load_facts(m, m->pb->destination, &unknown) < 0 && !fm_stopping(m))
		fm_mlog(m, FM_LOG_WARN, "ResourceMonitor", "'%s' cannot be inspected on '%s' (%s): its health check is left out.",
		        m->pb->container, m->pb->destination, unknown.message);
	fm_mlog(m, FM_LOG_INFO, "ResourceMonitor", "Performing post-migration checks for '%s' on '%s'.", m->pb->container,
	        m->pb->destination);
	if (fm_redirections_flip(m, err) < 0 || fm_redirections_verify(m, err) < 0 || check_service(m, err) < 0 ||
	    fm_await_pages(m, err) < 0 || verify_inside(m, err) < 0) {
		if (fm_stopping(m))
			return -1;
		fm_mlog(m, FM_LOG_WARN, "ResourceMonitor", "'%s' is not healthy on '%s': %s.", m->pb->container, m->pb->destination,
		        err->message);
		return fm_error_phase(err, "verification");
	}
	_fm_pb_ FM_PB(MoverStatus) *s = NULL;
	if (fm_call_status(m, m->pb->source, 0, &s, NULL) == 0)
		fm_migration_take_status(m, s);
	return fm_migration_transition(
	        m, FM_STATE_COMPLETED, NULL, err, FM_LOG_INFO,
	        "Post-migration checks done. Verification passed for '%s'. Transitioning: VERIFICATION -> COMPLETED.", m->pb->container);
}

/* Its instance, pids and figures are other ones there; whoever asks now should not get those of the source until the next report. */
static void refresh_fleet(struct fm_migration *m)
{
	FM_PB(InspectRequest) req = FLEXIMIGRATE__V1__INSPECT_REQUEST__INIT;
	_fm_pb_ FM_PB(InspectResponse) *resp = NULL;
	req.container = m->pb->container;
	if (fm_call(m, m->pb->destination, FM_AGENT_INSPECT, &req, FM_CALL_TIMEOUT_MS, &resp, NULL) < 0 || !resp->container)
		return;
	fm_pb_set(&resp->container->host, m->pb->destination);
	fm_fleet_container_put(m->c->o.fleet, resp->container);
}

int fm_phase_completed(struct fm_migration *m, struct fm_error *err)
{
	FM_PB(IdRequest) req = FLEXIMIGRATE__V1__ID_REQUEST__INIT;
	req.id = m->id;
	fm_migration_step(m, "finalizing");
	fm_fleet_container_moved(m->c->o.fleet, m->pb->container, m->pb->destination);
	fm_mlog(m, FM_LOG_INFO, "MigrationManager", "Finalizing migration '%s'. Cleaning up source resources on '%s'.", m->id,
	        m->pb->source);
	if (fm_redirections_keep(m, err) < 0 || fm_call_until_answered(m, m->pb->source, FM_AGENT_RELEASE, &req, 60000, NULL, err) < 0 ||
	    fm_call_until_answered(m, m->pb->destination, FM_AGENT_RELEASE, &req, 60000, NULL, err) < 0)
		return -1;
	fm_redirections_over(m);
	refresh_fleet(m);
	fm_migration_step(m, "completed");
	return fm_migration_transition(m, FM_STATE_COMPLETED, NULL, err, FM_LOG_INFO,
	                               "Migration of container '%s' to '%s' completed successfully. Final State: COMPLETED.",
	                               m->pb->container, m->pb->destination);
}
