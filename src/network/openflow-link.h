/* SPDX-License-Identifier: MIT */
/*
 * openflow-link.h - what openflow-link.c (bytes, handshake, what arrives unasked) and openflow.c (what can be asked) share. Private to the two.
 *
 * There is at most one request at a time. It is one or several messages with numbers (xid) in a row, and is over when the last one is answered; errors for any of them belong to it. Whatever
 * else has a number is the late answer to a request that was given up, and is dropped.
 */
#ifndef FM_NETWORK_OPENFLOW_LINK_H
#define FM_NETWORK_OPENFLOW_LINK_H

#include "basic/str.h"
#include "network/openflow.h"

struct fm_of_request {
	bool active, done;
	uint32_t first, last;           /* xids; both included */
	enum fm_of_type want;           /* in answer to the last one */
	enum fm_of_bundle_kind bundle;  /* if that is BUNDLE_CONTROL */
	enum fm_of_multipart multipart; /* if that is MULTIPART_REPLY */
	uint32_t bundle_id;             /* of prepare and commit */
	bool is_prepare, is_commit;
	bool refused; /* one of them; the first refusal counts */
	uint32_t refused_xid;
	uint16_t error_type, error_code;
	struct fm_error failure;  /* an answer that is too much */
	struct fm_of_flow *flows; /* answers that are lists */
	struct fm_of_port *ports;
	struct fm_of_counters *counters;
	size_t n, cap;
};

struct fm_of {
	char *name, *address; /* address NULL: the switch called us */
	uint64_t generation, datapath_id;

	int fd; /* -1: down */
	struct fm_error why_down;
	unsigned failures; /* in a row */
	uint64_t retry_at_ms, up_since_ms;
	uint64_t heard_ms, asked_ms; /* last sign of life; when it was asked for one that has not come, or 0 */

	uint32_t next_xid, next_bundle;
	bool hello_seen;
	uint32_t hello_versions;
	struct fm_of_features features;
	uint32_t prepared_first, prepared_last; /* xids of the changes in the bundle that was prepared last; commit may quote them */

	struct fm_of_request request;
	struct fm_of_port_status *events; /* a ring of FM_MAX_OF_EVENTS */
	size_t event_first, n_events;
	bool events_lost;

	struct fm_buf out;
	size_t out_off; /* sent already */
	size_t in_len;
	uint8_t in[FM_OF_MESSAGE_BYTES_MAX + 1];
};

struct fm_of_wait {
	uint64_t deadline_ms; /* 0: none */
	int timeout_ms, cancel_fd;
};

struct fm_of_wait fm_of_wait_for(int timeout_ms, int cancel_fd);
/* Not up: says why. */
int fm_of_require_up(const struct fm_of *c, struct fm_error *err);
/* The connection is lost because of *cause (which is copied). Returns -1. */
int fm_of_lose(struct fm_of *c, const struct fm_error *cause);
/* Puts a message into the queue, gives it the next xid (and tells). Nothing is sent yet. */
int fm_of_queue(struct fm_of *c, struct fm_of_message *m, struct fm_error *err);
/* Sends and receives until is_done(c), the deadline, cancel, or the connection's end. */
int fm_of_pump(struct fm_of *c, const struct fm_of_wait *w, bool (*is_done)(const struct fm_of *c), struct fm_error *err);
/* Sends what goes out without waiting, and takes what has come. */
int fm_of_flush(struct fm_of *c, struct fm_error *err);
/* The request from the message `first` to the one that was queued last begins; nothing left of an earlier one. */
struct fm_of_request *fm_of_request_begin(struct fm_of *c, uint32_t first, enum fm_of_type want);
void fm_of_request_end(struct fm_of *c);
/* Waits for its answer and turns a refusal into an error. The request is not ended. */
int fm_of_request_wait(struct fm_of *c, const struct fm_of_wait *w, struct fm_error *err);
/* One message, its answer, and nothing else. */
int fm_of_ask(struct fm_of *c, struct fm_of_message *m, enum fm_of_type want, const struct fm_of_wait *w, struct fm_error *err);

/* openflow.c: a list that is an answer grows by what this part of it holds. */
int fm_of_take_entries(struct fm_of_request *r, const struct fm_of_message *m, struct fm_error *err);

#endif
