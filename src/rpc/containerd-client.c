/* SPDX-License-Identifier: MIT */
/* containerd-client.c - the transport of the containerd driver by our gRPC client; see containerd-client.h. A client's metadata is the same for all of its calls, so each namespace has a client. */
#include "rpc/containerd-client.h"

#include <pthread.h>
#include <stdlib.h>

#include "basic/limits.h"
#include "basic/str.h"
#include "rpc/rpc.h"

struct connection {
	char *ns;
	struct fm_rpc_client *client;
};

struct transport {
	char *target;
	pthread_mutex_t lock;
	struct connection v[FM_MAX_CONTAINERD_NAMESPACES]; /* under lock; what is in use stays until free */
};

static int client_of(struct transport *t, const char *ns, struct fm_rpc_client **ret, struct fm_error *err)
{
	struct connection *c = NULL;
	int r = 0;

	pthread_mutex_lock(&t->lock);
	for (size_t i = 0; i < FM_ARRAY_SIZE(t->v) && !c; i++)
		if (!t->v[i].ns || fm_streq(t->v[i].ns, ns))
			c = &t->v[i];
	if (!c) {
		r = fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "containerd: more than %d namespaces", FM_MAX_CONTAINERD_NAMESPACES);
	} else if (!c->ns) {
		r = fm_rpc_client_new_foreign(t->target, "containerd", "containerd-namespace", ns, &c->client, err);
		if (r == 0)
			c->ns = fm_xstrdup(ns);
	}
	if (r == 0)
		*ret = c->client;
	pthread_mutex_unlock(&t->lock);
	return r;
}

static int transport_call(void *userdata, const char *ns, const char *method, const ProtobufCMessage *request,
                          const ProtobufCMessageDescriptor *answer, int timeout_ms, ProtobufCMessage **ret, struct fm_error *err)
{
	struct fm_rpc_method m = { .path = method, .request = request->descriptor, .response = answer };
	struct fm_rpc_client *client = NULL;

	if (client_of(userdata, ns, &client, err) < 0)
		return -1;
	return fm_rpc_client_call(client, &m, request, timeout_ms, -1, ret, err);
}

static int transport_stream(void *userdata, const char *ns, const char *method, const ProtobufCMessage *request,
                            const ProtobufCMessageDescriptor *answer, int timeout_ms, int cancel_fd, fm_containerd_message_fn fn, void *arg,
                            struct fm_error *err)
{
	struct fm_rpc_method m = { .path = method, .request = request->descriptor, .response = answer };
	struct fm_rpc_client *client = NULL;

	if (client_of(userdata, ns, &client, err) < 0)
		return -1;
	return fm_rpc_client_stream(client, &m, request, timeout_ms, cancel_fd, fn, arg, err);
}

static void transport_free(void *userdata)
{
	struct transport *t = userdata;

	for (size_t i = 0; i < FM_ARRAY_SIZE(t->v); i++) {
		fm_rpc_client_free(t->v[i].client);
		free(t->v[i].ns);
	}
	(void)pthread_mutex_destroy(&t->lock);
	free(t->target);
	free(t);
}

int fm_containerd_transport_new(const char *socket, struct fm_containerd_transport *ret, struct fm_error *err)
{
	struct fm_rpc_client *probe = NULL;
	struct transport *t;
	char *target;

	if (!socket || socket[0] != '/')
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "containerd's socket '%s' is not an absolute path", socket ? socket : "");
	target = fm_xasprintf("unix:%s", socket);
	if (fm_rpc_client_new(target, NULL, &probe, err) < 0) { /* the path's length */
		free(target);
		return -1;
	}
	fm_rpc_client_free(probe);
	t = calloc(1, sizeof *t);
	if (!t) {
		free(target);
		return fm_error_errno(err, ENOMEM, "making containerd's client");
	}
	t->target = target;
	(void)pthread_mutex_init(&t->lock, NULL);
	*ret = (struct fm_containerd_transport){
		.userdata = t, .call = transport_call, .stream = transport_stream, .free = transport_free
	};
	return 0;
}
