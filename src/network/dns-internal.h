/* SPDX-License-Identifier: MIT */
/*
 * dns-internal.h - what the name service's own files share. Private to network/.
 *
 *   dns.c           the operations: what is asked in which order, what an outcome means
 *   dns-config.c    words, names, addresses, the secret's file
 *   dns-undo.c      a change as a line of text
 *   dns-wire.c      messages: questions and updates out, answers in (record formats by ldns)
 *   dns-tsig.c      signatures. Not ldns's: its verification looks neither at the key's name nor at the algorithm, the time and the error that an answer was signed with, and takes a NULL key for one.
 *   dns-exchange.c  sockets: one request, its answer
 */
#ifndef FM_NETWORK_DNS_INTERNAL_H
#define FM_NETWORK_DNS_INTERNAL_H

#include "network/dns.h"

#define FM_DNS_HEADER_BYTES 12
#define FM_DNS_REQUEST_MAX  2048  /* ours: two records of the longest names fit */
#define FM_DNS_UDP_MAX      4096  /* we never announce more than the protocol's first 512 */
#define FM_DNS_MESSAGE_MAX  65535 /* TCP's length prefix */
#define FM_DNS_MAC_MAX      64    /* SHA-512 */
#define FM_DNS_FUDGE_S      300   /* RFC 8945's recommendation for how much clocks may differ */

enum { FM_DNS_OP_QUERY = 0, FM_DNS_OP_UPDATE = 5 };
enum { FM_DNS_CLASS_IN = 1, FM_DNS_CLASS_NONE = 254, FM_DNS_CLASS_ANY = 255 };
enum { FM_DNS_TYPE_CNAME = 5, FM_DNS_TYPE_SOA = 6, FM_DNS_TYPE_TSIG = 250 };
enum {
	FM_DNS_NOERROR = 0,
	FM_DNS_FORMERR = 1,
	FM_DNS_SERVFAIL = 2,
	FM_DNS_NXDOMAIN = 3,
	FM_DNS_NOTIMP = 4,
	FM_DNS_REFUSED = 5,
	FM_DNS_YXRRSET = 7,
	FM_DNS_NXRRSET = 8,
	FM_DNS_NOTAUTH = 9,
	FM_DNS_NOTZONE = 10,
	FM_DNS_BADSIG = 16, /* these in TSIG's own field */
	FM_DNS_BADKEY = 17,
	FM_DNS_BADTIME = 18,
	FM_DNS_BADTRUNC = 22,
};

/* ---- messages ---- */

struct fm_dns_request {
	size_t len;
	uint8_t wire[FM_DNS_REQUEST_MAX];
	uint16_t id;
	int opcode;
	char question[FM_DNS_NAME_MAX + 1]; /* or the zone of an update */
	uint16_t qtype;
	size_t mac_len; /* 0: not signed */
	uint8_t mac[FM_DNS_MAC_MAX];
};

/* The signature that ends a message, as it came. mac and other point into the message; NULL once that is gone. */
struct fm_dns_tsig {
	bool present, key_matches, algorithm_matches;
	size_t offset;                  /* where its record begins: what is before is what was signed */
	uint64_t time_s, server_time_s; /* the second with BADTIME only, else 0 */
	uint16_t fudge_s, original_id, error;
	const uint8_t *mac, *other;
	size_t mac_len, other_len;
};

struct fm_dns_answer {
	uint16_t id;
	int opcode, rcode;
	bool response, authoritative, truncated, has_question, question_matches;
	bool alias;    /* the name is a CNAME */
	bool too_many; /* more values than fit */
	struct fm_dns_rrset rrset;
	struct fm_dns_tsig tsig;
	bool verified; /* signed by who has the key */
};

int fm_dns_encode_query(const char *name, enum fm_dns_type type, struct fm_dns_request *ret, struct fm_error *err);
int fm_dns_encode_update(const char *zone, const struct fm_dns_change *change, struct fm_dns_request *ret, struct fm_error *err);
/* An update of the change's record that can never be carried out: the record shall exist and not exist. Were it carried out all the same, the record would be as the change's `from` says. */
int fm_dns_encode_rehearsal(const char *zone, const struct fm_dns_change *change, struct fm_dns_request *ret, struct fm_error *err);
/* DATA_LOSS when it is no message. Looks at every byte's meaning, decides nothing: whose answer it is, and whether to believe it, is judged with the fields. */
int fm_dns_decode(const uint8_t *wire, size_t n, const struct fm_dns_zone *zone, const struct fm_dns_request *request,
                  struct fm_dns_answer *ret, struct fm_error *err);

/* ---- signatures ---- */

const char *fm_dns_algorithm_name(enum fm_dns_algorithm a);
/* The wire form of a canonical name: its length; at most FM_DNS_NAME_MAX + 2 bytes. */
size_t fm_dns_name_to_wire(const char *name, uint8_t *ret);
int fm_dns_tsig_sign(const struct fm_dns_zone *zone, uint64_t now_s, struct fm_dns_request *r, struct fm_error *err);
/* Is the message signed with the zone's key as the answer to this request? Says nothing about its time. */
bool fm_dns_tsig_matches(const struct fm_dns_zone *zone, const struct fm_dns_request *request, const uint8_t *wire,
                         const struct fm_dns_tsig *t);

/* ---- one request, one answer ---- */

/* Signs, sends, repeats, waits. 0 with an answer that is the request's and, with a key, verified; its rcode may be any. */
int fm_dns_exchange(const struct fm_dns_call *c, struct fm_dns_request *request, struct fm_dns_answer *ret, struct fm_error *err);
/* 0 for NOERROR. What the server said, in words; about a key with its name. */
int fm_dns_rcode_error(const struct fm_dns_zone *zone, const struct fm_dns_answer *a, struct fm_error *err);
/* "192.0.2.53:53" */
void fm_dns_server_text(const struct fm_dns_zone *zone, char ret[80]);
/* Wait for `fd` (-1: only the time) at most until deadline_ms: 1 ready, 0 time over, -1 cancelled or failed. */
int fm_dns_wait(int fd, short events, uint64_t deadline_ms, int cancel_fd, struct fm_error *err);

/* ---- words ---- */

bool fm_dns_name_is_in(const char *name, const char *zone);
/* The canonical form of a value of this type; "" is INVALID_ARGUMENT. */
int fm_dns_value_parse(enum fm_dns_type type, const char *text, char ret[FM_DNS_NAME_MAX + 1], struct fm_error *err);
int fm_dns_change_check(const struct fm_dns_change *change, struct fm_error *err);

#endif
