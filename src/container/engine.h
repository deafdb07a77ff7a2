/* SPDX-License-Identifier: MIT */
/*
 * engine.h - what the drivers of container engines (Docker, Podman) share: calls to the daemon's socket, its answers, watching its events, and moving a root filesystem into an engine's own store. For them only.
 *
 * Nothing of an engine's command line is used, only HTTP with JSON on its Unix socket. A daemon is an outsider: the size of an answer, the time it takes, the number of containers are limited (basic/limits.h), and what does not have
 * the expected form is DATA_LOSS. Paths of requests are made of checked names only.
 *
 * Errors of a call, by the status that the daemon answers: 400 INVALID_ARGUMENT, 403 PERMISSION_DENIED, 404 NOT_FOUND, 409 FAILED_PRECONDITION, 501 UNIMPLEMENTED, 503 UNAVAILABLE, any other INTERNAL, each with what it says.
 * UNAVAILABLE as well when nobody answers.
 */
#ifndef FM_CONTAINER_ENGINE_H
#define FM_CONTAINER_ENGINE_H

#include <jansson.h>
#include <pthread.h>

#include "basic/cleanup.h"
#include "container/runtime.h"

#define FM_ENGINE_TIMEOUT_MS   30000 /* of a call that does not wait for a container */
#define FM_ENGINE_LABEL_BUNDLE "org.fleximigrate.bundle"

struct fm_engine {
	struct fm_runtime rt; /* first */
	char *socket;
	const char *base;     /* of every path: "/v1.41" */
	pthread_mutex_t lock; /* one at a time makes the parent image */
};

static inline struct fm_engine *fm_engine_of(struct fm_runtime *rt)
{
	return (struct fm_engine *)rt;
}

int fm_engine_new(const struct fm_runtime_ops *ops, const char *socket, const char *base, struct fm_runtime **ret, struct fm_error *err);
void fm_engine_free(struct fm_runtime *rt);

struct fm_engine_call {
	const char *method;
	char *path;      /* below base, with its query; freed by fm_engine_do */
	json_t *body;    /* NULL: none; released by fm_engine_do */
	const char *raw; /* instead of it: a tar */
	size_t raw_len;
	int timeout_ms; /* 0: FM_ENGINE_TIMEOUT_MS */
};
/* 2xx, and 304 (nothing had to be done), is success. ret: the answer, NULL when nobody wants it. ret_status: 0 when there was none; may be NULL. */
int fm_engine_do(struct fm_engine *e, struct fm_engine_call c, json_t **ret, unsigned *ret_status, struct fm_error *err);

/* [A-Za-z0-9][A-Za-z0-9_.-]* of at most 127 characters: what a path may be made of. */
int fm_engine_check_id(const char *id, struct fm_error *err);
/* Of an image: also / : @ +, at most 255 characters, no "..", no empty part. */
int fm_engine_check_reference(const char *reference, struct fm_error *err);
/* %XX for whatever is not a letter, a digit or one of -._~; malloc */
char *fm_engine_escape(const char *s);

/* An answer's text: at most FM_MAX_HTTP_RESPONSE_BYTES. *ret is an object or an array. */
int fm_engine_parse(const char *text, size_t len, json_t **ret, struct fm_error *err);
/* An answer to inspect of either engine. runtime: the driver's name. */
int fm_engine_instance(const json_t *inspect, const char *runtime, struct fm_instance *ret, struct fm_error *err);
/* An answer to list of either engine: the engine's ids (64 hexadecimal digits), malloc'ed vector of strings. */
int fm_engine_ids(const json_t *list, char ***ret, struct fm_error *err);
/* RFC 3339 with any offset, in milliseconds of the epoch; 0 when it is something else */
uint64_t fm_engine_time(const char *s);

/* The engine's id (malloc) of an instance: by its label, else by its name. NOT_FOUND. */
int fm_engine_find(struct fm_engine *e, const char *id, char **ret, struct fm_error *err);

int fm_engine_inspect(struct fm_engine *e, const char *id, json_t **ret, struct fm_error *err);
/* By the engine's id: force, a missing one is success. A removal that somebody else has begun is waited for. */
int fm_engine_delete(struct fm_engine *e, const char *engine_id, struct fm_error *err);

/* The operations that are the same in both. */
int fm_engine_list(struct fm_runtime *rt, struct fm_instance **ret, size_t *ret_n, struct fm_error *err);
int fm_engine_state(struct fm_runtime *rt, const char *id, struct fm_instance *ret, struct fm_error *err);
int fm_engine_start(struct fm_runtime *rt, const char *id, struct fm_error *err);
int fm_engine_kill(struct fm_runtime *rt, const char *id, int signal, struct fm_error *err);
int fm_engine_pause(struct fm_runtime *rt, const char *id, struct fm_error *err);
int fm_engine_resume(struct fm_runtime *rt, const char *id, struct fm_error *err);
int fm_engine_stop(struct fm_runtime *rt, const char *id, int timeout_ms, struct fm_error *err);
int fm_engine_remove(struct fm_runtime *rt, const char *id, struct fm_error *err);

/* <bundle>/config.json, checked as fm_bundle_read does. */
int fm_engine_config(const char *bundle, json_t **ret, char **ret_rootfs, struct fm_error *err);

/*
 * engine-root.c: the content of folder `from` becomes that of `to`, an upper layer that nobody has mounted; what an engine has put there goes. Entries are renamed, so both have to be on one filesystem (FAILED_PRECONDITION); `from` stays as an
 * empty folder. When it fails, `from` is as it was (DATA_LOSS and a hint, should even that fail), and `to` is not to be used.
 */
int fm_engine_take_root(const char *from, const char *to, struct fm_error *err);

/* engine-request.c: the body of Docker's request to create what config says. INVALID_ARGUMENT with the member's name for what Docker cannot do. cgroupfs: its cgroups are named by paths. */
int fm_engine_docker_request(const json_t *config, const char *bundle, const char *image, bool cgroupfs, json_t **ret,
                             struct fm_error *err);

#endif
