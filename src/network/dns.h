/* SPDX-License-Identifier: MIT */
/*
 * dns.h - a container's name at the name service: found out, changed as compare-and-swap, seen to be changed, undone.
 *
 * Updates after RFC 2136, signed with TSIG (RFC 8945). Vocabulary: a *record* is a name, a type and its one value; a *change* says what a record is and what it shall be, either of which may be
 * "absent". The server carries a change out only if the record has exactly the old value, no more and no less: whoever changed it in between wins, and we get ABORTED.
 *
 * Calling sequence: fm_dns_plan_* (asks, changes nothing) -> fm_dns_undo_format, into a journal -> fm_dns_apply -> fm_dns_verify. Undoing: fm_dns_undo_parse -> fm_dns_apply. An undo may be applied
 * whether or not its change ever was, and again: what is so already is DONE_ALREADY. Several changes are undone in the reverse order.
 *     A move to another address: plan_ttl(low), apply; [wait for the old time to live, move]; plan_replace, apply, verify; plan_ttl(as before), apply.
 *
 * Every call takes the zone, a deadline and a descriptor that cancels it; nothing is kept between calls, so any thread may make any. A call blocks its thread. After a failure of fm_dns_apply other
 * than ABORTED and INVALID_ARGUMENT it is not known whether the server has carried the change out, or will yet (a packet may come late): apply the undo, now or later, and verify.
 *
 * Codes: UNAUTHENTICATED the key (name, secret, algorithm) is not the server's, or an answer is not signed as it should be; PERMISSION_DENIED refused; ABORTED somebody else changed the record;
 * FAILED_PRECONDITION clocks differ, or not the zone's server; UNAVAILABLE the server fails or nobody listens; DEADLINE_EXCEEDED no answer; CANCELLED. Messages have the server and the name, hints what to do.
 */
#ifndef FM_NETWORK_DNS_H
#define FM_NETWORK_DNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "basic/error.h"
#include "basic/limits.h"

#define FM_DNS_NAME_MAX        253       /* characters, without the dot at the end */
#define FM_DNS_TTL_MAX         INT32_MAX /* s; the protocol's */
#define FM_DNS_SECRET_MIN      16        /* bytes: less can be guessed */
#define FM_DNS_SECRET_MAX      512
#define FM_DNS_DEADLINE_MAX_MS 120000 /* a request is signed once, and its time is good for 300 s */

enum fm_dns_type { FM_DNS_A = 1, FM_DNS_PTR = 12, FM_DNS_AAAA = 28 }; /* the numbers are those of the protocol */
enum fm_dns_algorithm { FM_DNS_HMAC_SHA256, FM_DNS_HMAC_SHA1, FM_DNS_HMAC_SHA224, FM_DNS_HMAC_SHA384, FM_DNS_HMAC_SHA512 };

/* ---- the zone and its server ---- */

struct fm_dns_zone {
	struct sockaddr_storage server;         /* IPv4 or IPv6, with the port */
	char zone[FM_DNS_NAME_MAX + 1];         /* all names here: small letters, no dot at the end */
	char reverse_zone[FM_DNS_NAME_MAX + 1]; /* "" = none: reverse records cannot be changed */
	char key_name[FM_DNS_NAME_MAX + 1];     /* "" = none: questions only */
	enum fm_dns_algorithm algorithm;
	size_t secret_len;
	uint8_t secret[FM_DNS_SECRET_MAX]; /* never in a message or a log */
};

struct fm_dns_words {
	const char *
	        server; /* "192.0.2.53", "192.0.2.53:5353", "2001:db8::53", "[2001:db8::53]:5353"; an address, so that naming it needs no name service */
	const char *zone;
	const char *reverse_zone; /* this and below: NULL or "" = none */
	const char *key_name;
	const char *algorithm;   /* "hmac-sha256" (and when none is said), -sha1, -sha224, -sha384, -sha512. MD5 is not taken. */
	const char *secret_file; /* base64, in a file that nobody but root or ourselves owns and nobody else can read (mode 0600 or less) */
};

/* INVALID_ARGUMENT names the wrong word; PERMISSION_DENIED when others could read the secret. */
int fm_dns_zone_parse(const struct fm_dns_words *w, struct fm_dns_zone *ret, struct fm_error *err);
void fm_dns_zone_wipe(struct fm_dns_zone *z); /* the secret is overwritten */
/* Canonical form of a host's name: at most FM_DNS_NAME_MAX letters, digits, '-' and '_' in labels of at most 63. */
int fm_dns_name_parse(const char *text, char ret[FM_DNS_NAME_MAX + 1], struct fm_error *err);
/* "10.0.0.5" -> "5.0.0.10.in-addr.arpa"; IPv6 likewise in ip6.arpa. */
int fm_dns_reverse_name(const char *address, char ret[FM_DNS_NAME_MAX + 1], struct fm_error *err);
const char *fm_dns_type_to_string(enum fm_dns_type t);
int fm_dns_type_from_string(const char *text, enum fm_dns_type *ret, struct fm_error *err);

/* ---- asking ---- */

struct fm_dns_call {
	const struct fm_dns_zone *zone;
	uint64_t deadline_ms; /* of the monotonic clock; one question or update ends after FM_DNS_DEADLINE_MAX_MS at the latest */
	int cancel_fd;        /* readable: CANCELLED. -1 = none */
};

struct fm_dns_rrset {
	size_t n; /* 0: there is no such record */
	uint32_t ttl_s;
	char value[FM_MAX_DNS_VALUES][FM_DNS_NAME_MAX + 1]; /* address or name, canonical */
};

/* What the zone's server itself says: not a cache's, and not cut short (TCP when UDP is too small). With a key both ways are signed. More than FM_MAX_DNS_VALUES values is RESOURCE_EXHAUSTED, a
 * name that is an alias FAILED_PRECONDITION. */
int fm_dns_query(const struct fm_dns_call *c, const char *name, enum fm_dns_type type, struct fm_dns_rrset *ret, struct fm_error *err);
/* Ask until the record has exactly this value ("": absent), or the deadline: then the message says what it has. A server that does not answer is asked again, a key that is wrong is not. */
int fm_dns_verify(const struct fm_dns_call *c, const char *name, enum fm_dns_type type, const char *value, struct fm_error *err);

/* ---- changing ---- */

struct fm_dns_side {
	char value[FM_DNS_NAME_MAX + 1]; /* "" = absent */
	uint32_t ttl_s;                  /* 0 when absent */
};

struct fm_dns_change {
	char name[FM_DNS_NAME_MAX + 1]; /* the record's owner; for a PTR the name below in-addr.arpa or ip6.arpa */
	enum fm_dns_type type;
	struct fm_dns_side from, to;
};

/* What would have to be done? Asks for the record as it is now, which is the change's `from`. old NULL: whatever it is, if it is one value or absent; else ABORTED when it is another ("" = must be
 * absent). value "" = remove. For a PTR `name` is the address. */
int fm_dns_plan_replace(const struct fm_dns_call *c, const char *name, enum fm_dns_type type, const char *old, const char *value,
                        uint32_t ttl_s, struct fm_dns_change *ret, struct fm_error *err);
/* The same value with another time to live. NOT_FOUND when the record is absent. */
int fm_dns_plan_ttl(const struct fm_dns_call *c, const char *name, enum fm_dns_type type, uint32_t ttl_s, struct fm_dns_change *ret,
                    struct fm_error *err);

enum fm_dns_outcome { FM_DNS_DONE, FM_DNS_DONE_ALREADY };
/* Compare and swap. A change of the time to live alone is compared on the value by the server, on the time to live by us just before. ret may be NULL. */
int fm_dns_apply(const struct fm_dns_call *c, const struct fm_dns_change *change, enum fm_dns_outcome *ret, struct fm_error *err);

/* Would the server let us? Asks it for the change on conditions that contradict each other, so it looks at key and rights, and changes nothing. Errors as those of fm_dns_apply, but never ABORTED; UNIMPLEMENTED
 * from a server that does not look at conditions. */
int fm_dns_rehearse(const struct fm_dns_call *c, const struct fm_dns_change *change, struct fm_error *err);

/* The undo of a change: one line of JSON without a line end, {"dns":1,"name","type","from":{"value","ttl"},"to":{…}}, at most FM_MAX_DNS_UNDO_BYTES bytes. It has no secret and no server. */
void fm_dns_change_inverse(const struct fm_dns_change *change, struct fm_dns_change *ret);
int fm_dns_undo_format(const struct fm_dns_change *change, char ret[FM_MAX_DNS_UNDO_BYTES], struct fm_error *err);
/* The change to apply. DATA_LOSS when the line is not such a text. */
int fm_dns_undo_parse(const char *line, struct fm_dns_change *ret, struct fm_error *err);

#endif
