/* SPDX-License-Identifier: MIT */
/*
 * agent-client.c - design note.
 *
 * Entries are counted: a call keeps its entry while it runs, the table keeps one reference. So an entry whose address went out of date,
 * or that had to make room, leaves the table at once and is freed by its last call. A linear table is enough: hosts are few and a call
 * costs far more than the search.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "rpc/agent-client.h"

#define WAKE_TIMEOUT_MS 5000

struct entry {
	char *host, *address;
	struct fm_rpc_client *client;
	unsigned refs;
	uint64_t used; /* value of the table's clock at the last use */
};

struct fm_agent_clients {
	struct fm_rpc_tls tls; /* own copies; NULLs without TLS */
	bool has_tls;
	int (*resolve)(void *ud, const char *host, char *ret_address, size_t cap, struct fm_error *err);
	void *ud;
	pthread_mutex_t lock;
	struct entry **entries;
	size_t n_entries;
	uint64_t clock;
};

static void entry_unref(struct fm_agent_clients *c, struct entry *e)
{
	bool last;

	pthread_mutex_lock(&c->lock);
	last = --e->refs == 0;
	pthread_mutex_unlock(&c->lock);
	if (!last)
		return;
	fm_rpc_client_free(e->client);
	free(e->host);
	free(e->address);
	free(e);
}

/* Takes the entry out of the table; the caller gets the table's reference. */
static struct entry *take_at_locked(struct fm_agent_clients *c, size_t i)
{
	struct entry *e = c->entries[i];

	c->entries[i] = c->entries[--c->n_entries];
	return e;
}

/* A referenced entry for this host and address, or NULL. An entry for another address is out of date: it goes to *ret_stale. */
static struct entry *lookup(struct fm_agent_clients *c, const char *host, const char *address, struct entry **ret_stale)
{
	struct entry *found = NULL;

	pthread_mutex_lock(&c->lock);
	for (size_t i = 0; i < c->n_entries && !found && !*ret_stale; i++) {
		struct entry *e = c->entries[i];

		if (!fm_streq(e->host, host))
			continue;
		if (fm_streq(e->address, address)) {
			e->refs++;
			e->used = ++c->clock;
			found = e;
		} else {
			*ret_stale = take_at_locked(c, i);
		}
	}
	pthread_mutex_unlock(&c->lock);
	return found;
}

/* Put a new entry into the table, unless another thread was faster; that one's is then used. *ret_unwanted: what lost its place. */
static struct entry *insert(struct fm_agent_clients *c, struct entry *fresh, struct entry **ret_unwanted)
{
	struct entry *used = fresh;
	size_t oldest = 0;

	pthread_mutex_lock(&c->lock);
	for (size_t i = 0; i < c->n_entries; i++) {
		if (fm_streq(c->entries[i]->host, fresh->host) && fm_streq(c->entries[i]->address, fresh->address))
			used = c->entries[i];
		if (c->entries[i]->used < c->entries[oldest]->used)
			oldest = i;
	}
	if (used == fresh) {
		if (c->n_entries == FM_MAX_HOSTS)
			*ret_unwanted = take_at_locked(c, oldest);
		c->entries[c->n_entries++] = fresh;
	} else {
		*ret_unwanted = fresh;
	}
	used->refs++;
	used->used = ++c->clock;
	pthread_mutex_unlock(&c->lock);
	return used;
}

/* The host's entry, referenced; NULL with *err filled. */
static struct entry *get_entry(struct fm_agent_clients *c, const char *host, struct fm_error *err)
{
	struct entry *e, *unwanted = NULL;
	struct fm_rpc_client *client = NULL;
	char address[FM_MAX_PATH] = "";

	if (c->resolve(c->ud, host, address, sizeof(address), err) < 0)
		return NULL;
	e = lookup(c, host, address, &unwanted);
	if (unwanted)
		entry_unref(c, FM_TAKE_PTR(unwanted));
	if (!e) {
		/* outside the lock: it reads files */
		if (fm_rpc_client_new(address, c->has_tls ? &c->tls : NULL, &client, err) < 0)
			return NULL;
		e = calloc(1, sizeof(*e));
		if (!e) {
			fm_rpc_client_free(client);
			fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
			return NULL;
		}
		*e = (struct entry){ .host = fm_xstrdup(host), .address = fm_xstrdup(address), .client = client, .refs = 1 };
		e = insert(c, e, &unwanted);
		if (unwanted)
			entry_unref(c, unwanted);
	}
	return e;
}

/* A connection that died with an earlier agent or behind a cut link is often noticed by the first call on it only. That call must not be one that cannot be repeated: this one
 * can. Whatever it meets, the real call reports. */
static void wake(struct entry *e, int cancel_fd)
{
	FM_PB(Empty) req = FLEXIMIGRATE__V1__EMPTY__INIT;
	for (int attempt = 0; attempt < 2; attempt++) {
		struct fm_error ignored = FM_ERROR_INIT;
		ProtobufCMessage *resp = NULL;
		int r = fm_rpc_client_call(e->client, &fm_agent_methods[FM_AGENT_INFO], &req.base, WAKE_TIMEOUT_MS, cancel_fd, &resp,
		                           &ignored);
		if (resp)
			protobuf_c_message_free_unpacked(resp, NULL);
		if (r == 0 || ignored.code != FM_E_UNAVAILABLE)
			return;
	}
}

static int call_agent(void *userdata, const char *host, enum fm_agent_method method, const ProtobufCMessage *request, int timeout_ms,
                      int cancel_fd, ProtobufCMessage **ret, struct fm_error *err)
{
	struct fm_agent_clients *c = userdata;
	struct entry *e;
	int r;

	if ((unsigned)method >= _FM_AGENT_METHOD_MAX)
		return fm_error_set(err, FM_E_INTERNAL, "there is no agent method %d", (int)method);
	e = get_entry(c, host, err);
	if (!e)
		return fm_error_prefix(err, "host %s", host);
	if (method == FM_AGENT_RUN_CONTAINER || method == FM_AGENT_PREPARE_DESTINATION || method == FM_AGENT_PREPARE_SOURCE)
		wake(e, cancel_fd);
	r = fm_rpc_client_call(e->client, &fm_agent_methods[method], request, timeout_ms, cancel_fd, ret, err);
	entry_unref(c, e);
	if (r == 0)
		return 0;
	if (err && !*err->hint && (err->code == FM_E_UNAVAILABLE || err->code == FM_E_DEADLINE_EXCEEDED))
		fm_error_hint(err, "look at the agent's log on %s, and try again when it answers", host);
	return fm_error_prefix(err, "host %s", host);
}

int fm_agent_clients_new(const struct fm_rpc_tls *tls,
                         int (*resolve)(void *ud, const char *host, char *ret_address, size_t cap, struct fm_error *err), void *ud,
                         struct fm_agent_clients **ret, struct fm_error *err)
{
	struct fm_agent_clients *c = calloc(1, sizeof(*c));

	if (c)
		c->entries = calloc(FM_MAX_HOSTS, sizeof(struct entry *));
	if (!c || !c->entries) {
		free(c);
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "cannot prepare connections to agents: out of memory");
	}
	c->resolve = resolve;
	c->ud = ud;
	if (tls) {
		c->has_tls = true;
		c->tls.ca_pem_path = tls->ca_pem_path ? fm_xstrdup(tls->ca_pem_path) : NULL;
		c->tls.cert_pem_path = tls->cert_pem_path ? fm_xstrdup(tls->cert_pem_path) : NULL;
		c->tls.key_pem_path = tls->key_pem_path ? fm_xstrdup(tls->key_pem_path) : NULL;
	}
	(void)pthread_mutex_init(&c->lock, NULL);
	*ret = c;
	return 0;
}

struct fm_agent_api fm_agent_clients_api(struct fm_agent_clients *c)
{
	return (struct fm_agent_api){ .userdata = c, .call = call_agent };
}

void fm_agent_clients_free(struct fm_agent_clients *c)
{
	if (!c)
		return;
	while (c->n_entries > 0)
		entry_unref(c, take_at_locked(c, 0));
	(void)pthread_mutex_destroy(&c->lock);
	free((char *)(uintptr_t)c->tls.ca_pem_path);
	free((char *)(uintptr_t)c->tls.cert_pem_path);
	free((char *)(uintptr_t)c->tls.key_pem_path);
	free(c->entries);
	free(c);
}
