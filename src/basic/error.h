/* SPDX-License-Identifier: MIT */
/*
 * error.h - the one error object.
 *
 * Every fallible function takes `struct fm_error *err` as its last parameter and returns 0 on
 * success or -1 on failure (or NULL for constructors). On failure it fills *err exactly once, at the
 * place that knows the cause; callers may add context in front (fm_error_prefix) and a hint for the
 * user (fm_error_hint). On success *err is untouched. `err` may be NULL when the caller does not care.
 *
 * Ownership: the caller owns the struct, usually on its stack (FM_ERROR_INIT); nothing is allocated, so it
 * can be copied, and needs no destructor. Not shared between threads.
 *
 * `code` is stable: it becomes the gRPC status (rpc/), the exit code (cli/) and the reason in the history. The
 * numbers equal gRPC's canonical status codes.
 */
#ifndef FM_BASIC_ERROR_H
#define FM_BASIC_ERROR_H

#include <stdbool.h>
#include <stddef.h>

enum fm_code {
	FM_OK = 0,
	FM_E_CANCELLED = 1,
	FM_E_UNKNOWN = 2,
	FM_E_INVALID_ARGUMENT = 3, /* the request can never succeed as written */
	FM_E_DEADLINE_EXCEEDED = 4,
	FM_E_NOT_FOUND = 5,
	FM_E_ALREADY_EXISTS = 6,
	FM_E_PERMISSION_DENIED = 7,
	FM_E_RESOURCE_EXHAUSTED = 8,  /* disk, memory, a limit of ours */
	FM_E_FAILED_PRECONDITION = 9, /* would succeed in another state of the system */
	FM_E_ABORTED = 10,            /* lost a race; retry the whole request */
	FM_E_OUT_OF_RANGE = 11,
	FM_E_UNIMPLEMENTED = 12,
	FM_E_INTERNAL = 13,
	FM_E_UNAVAILABLE = 14, /* peer or service not reachable now; retry later */
	FM_E_DATA_LOSS = 15,   /* checksum, short file, corrupt image */
	FM_E_UNAUTHENTICATED = 16,
	_FM_CODE_MAX
};

struct fm_error {
	enum fm_code code;
	int sys_errno;     /* errno that caused it, 0 when none */
	char phase[32];    /* where in a migration: "dump", "restore", …; "" when it does not matter */
	char message[768]; /* one line, what was asked and what went wrong */
	char hint[256];    /* one line, what to do next; may be "" */
};

#define FM_ERROR_INIT ((struct fm_error){ .code = FM_OK })

/* Fill *err; always returns -1, so that `return fm_error_set(err, …);` reads well. Control characters in the text are replaced by '?'. */
int fm_error_set(struct fm_error *err, enum fm_code code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/*
 * Same with an errno: appends ": <strerror>" and derives the code (ENOENT, ESRCH -> NOT_FOUND, ENOSPC/ENOMEM/EDQUOT/EMFILE/ENFILE ->
 * RESOURCE_EXHAUSTED, EACCES/EPERM/EROFS -> PERMISSION_DENIED, ETIMEDOUT -> DEADLINE_EXCEEDED, ECONN*, EPIPE, E*UNREACH ->
 * UNAVAILABLE, EEXIST, EADDRINUSE -> ALREADY_EXISTS, ECANCELED -> CANCELLED, ENOSYS, EOPNOTSUPP -> UNIMPLEMENTED, else INTERNAL).
 */
int fm_error_errno(struct fm_error *err, int sys_errno, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Put "text: " in front of the message. Keeps code and hint. Returns -1. */
int fm_error_prefix(struct fm_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Set the hint (what to do next), replacing an older one. Returns -1. */
int fm_error_hint(struct fm_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Set the phase unless one is set already. Returns -1. */
int fm_error_phase(struct fm_error *err, const char *phase);

/*
 * The five above always return -1. These wrappers let compilers and analyzers see it, so that they know that an output of a function
 * which ended in `return fm_error_…` was not used, instead of warning about it.
 */
#define fm_error_set(...)                                                                                                                  \
	({                                                                                                                                 \
		(void)(fm_error_set)(__VA_ARGS__);                                                                                         \
		-1;                                                                                                                        \
	})
#define fm_error_errno(...)                                                                                                                \
	({                                                                                                                                 \
		(void)(fm_error_errno)(__VA_ARGS__);                                                                                       \
		-1;                                                                                                                        \
	})
#define fm_error_prefix(...)                                                                                                               \
	({                                                                                                                                 \
		(void)(fm_error_prefix)(__VA_ARGS__);                                                                                      \
		-1;                                                                                                                        \
	})
#define fm_error_hint(...)                                                                                                                 \
	({                                                                                                                                 \
		(void)(fm_error_hint)(__VA_ARGS__);                                                                                        \
		-1;                                                                                                                        \
	})
#define fm_error_phase(...)                                                                                                                \
	({                                                                                                                                 \
		(void)(fm_error_phase)(__VA_ARGS__);                                                                                       \
		-1;                                                                                                                        \
	})

static inline bool fm_error_is_set(const struct fm_error *err)
{
	return err && err->code != FM_OK;
}
void fm_error_clear(struct fm_error *err);

/* "NOT_FOUND" <-> FM_E_NOT_FOUND. to_string never returns NULL; from_string returns FM_E_UNKNOWN for unknown names. */
const char *fm_code_to_string(enum fm_code code);
enum fm_code fm_code_from_string(const char *name);

#endif
