/* SPDX-License-Identifier: MIT */
/*
 * openflow-codec.h - OpenFlow 1.4 messages to bytes and back.
 *
 * Pure functions on the caller's memory: no descriptors, no allocation, any thread. All numbers are the host's here, addresses (struct in_addr, in6_addr, MAC) are in the network's order.
 *
 * Encoding takes one message and writes it whole or not at all: RESOURCE_EXHAUSTED when it does not fit, INVALID_ARGUMENT when it says what OpenFlow cannot (a match on an IPv4 address
 * that is not one on eth_type 0x0800, …). Decoding takes one message of exactly `length` bytes (fm_of_message_length tells how many those are, from its first eight) and refuses what is
 * malformed with DATA_LOSS and a reason. Pointers in a decoded message lead into the bytes it was decoded from.
 *
 * A switch has flows of other people, too: what a match or an action list holds beyond the fields known here is skipped, checked in its form only, and marked with `more`. Such a match or
 * flow is never encoded (INVALID_ARGUMENT): written back it would be another one.
 */
#ifndef FM_NETWORK_OPENFLOW_CODEC_H
#define FM_NETWORK_OPENFLOW_CODEC_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/error.h"
#include "basic/limits.h"

#define FM_OF_VERSION           5u /* the wire's number of OpenFlow 1.4 */
#define FM_OF_HEADER_BYTES      8u
#define FM_OF_MESSAGE_BYTES_MAX 65535u
#define FM_OF_ECHO_BYTES_MAX    1024u /* of data in an echo request that is answered; more is refused */

#define FM_OF_PORT_MAX   0xffffff00u /* numbers above are reserved */
#define FM_OF_PORT_LOCAL 0xfffffffeu
#define FM_OF_PORT_ANY   0xffffffffu
#define FM_OF_GROUP_ANY  0xffffffffu
#define FM_OF_TABLE_ALL  0xffu

enum fm_of_type {
	FM_OF_HELLO = 0,
	FM_OF_ERROR = 1,
	FM_OF_ECHO_REQUEST = 2,
	FM_OF_ECHO_REPLY = 3,
	FM_OF_FEATURES_REQUEST = 5,
	FM_OF_FEATURES_REPLY = 6,
	FM_OF_SET_CONFIG = 9,
	FM_OF_PORT_STATUS = 12,
	FM_OF_FLOW_MOD = 14,
	FM_OF_MULTIPART_REQUEST = 18,
	FM_OF_MULTIPART_REPLY = 19,
	FM_OF_BARRIER_REQUEST = 20,
	FM_OF_BARRIER_REPLY = 21,
	FM_OF_ROLE_REQUEST = 24,
	FM_OF_ROLE_REPLY = 25,
	FM_OF_SET_ASYNC = 28,
	FM_OF_BUNDLE_CONTROL = 33,
	FM_OF_BUNDLE_ADD = 34,
	FM_OF_OTHER = 256, /* decoded only: a type that 1.4 has and that is of no interest here (PACKET_IN, …) */
};

/* Fields of a match: bits of fm_of_match.has. What they need (an IPv4 address: eth_type 0x0800) has to be there, too. */
enum fm_of_field {
	FM_OF_IN_PORT = 1 << 0,
	FM_OF_ETH_DST = 1 << 1,
	FM_OF_ETH_SRC = 1 << 2,
	FM_OF_ETH_TYPE = 1 << 3,
	FM_OF_VLAN_VID = 1 << 4, /* tagged, with this number; FM_OF_VLAN_NONE: untagged */
	FM_OF_IPV4_SRC = 1 << 5,
	FM_OF_IPV4_DST = 1 << 6,
	FM_OF_IPV6_SRC = 1 << 7,
	FM_OF_IPV6_DST = 1 << 8,
	FM_OF_ARP_OP = 1 << 9,
	FM_OF_ARP_SPA = 1 << 10,
	FM_OF_ARP_TPA = 1 << 11,
};
#define FM_OF_FIELDS_ALL 0xfffu
#define FM_OF_VLAN_NONE  0xffffu

struct fm_of_match {
	uint32_t has;
	bool more; /* decoded only: other fields or masks as well */
	uint32_t in_port;
	uint8_t eth_dst[6], eth_src[6];
	uint16_t eth_type;
	uint16_t vlan_vid; /* 0…4095 or FM_OF_VLAN_NONE */
	uint16_t arp_op;
	struct in_addr ipv4_src, ipv4_dst, arp_spa, arp_tpa;
	struct in6_addr ipv6_src, ipv6_dst;
};

enum fm_of_action_kind {
	FM_OF_OUTPUT = 1, /* number: port */
	FM_OF_GROUP,      /* number: group */
	FM_OF_SET_ETH_DST,
	FM_OF_SET_ETH_SRC,
	FM_OF_SET_IPV4_SRC,
	FM_OF_SET_IPV4_DST,
	FM_OF_SET_IPV6_SRC,
	FM_OF_SET_IPV6_DST,
};

struct fm_of_action {
	enum fm_of_action_kind kind;
	union {
		uint32_t number;
		uint8_t mac[6];
		struct in_addr ipv4;
		struct in6_addr ipv6;
	};
};

/* One list of actions, applied at once. No action: the packet is dropped. */
struct fm_of_actions {
	unsigned n; /* <= FM_MAX_OF_ACTIONS */
	bool more;  /* decoded only: other actions or instructions as well */
	struct fm_of_action at[FM_MAX_OF_ACTIONS];
};

enum fm_of_command { FM_OF_ADD = 0, FM_OF_MODIFY = 1, FM_OF_MODIFY_STRICT = 2, FM_OF_DELETE = 3, FM_OF_DELETE_STRICT = 4 };
enum fm_of_flow_flag {
	FM_OF_SEND_FLOW_REM = 1 << 0,
	FM_OF_CHECK_OVERLAP = 1 << 1, /* refuse if another flow of the same priority could match the same packet */
	FM_OF_RESET_COUNTS = 1 << 2,
	FM_OF_NO_PACKET_COUNTS = 1 << 3,
	FM_OF_NO_BYTE_COUNTS = 1 << 4,
};

/* The strict commands mean the flow with this match and priority; the others all whose match is at least as narrow. */
struct fm_of_flow_mod {
	enum fm_of_command command;
	uint8_t table; /* FM_OF_TABLE_ALL with the deletes only */
	uint16_t priority;
	uint16_t idle_timeout_s, hard_timeout_s; /* 0: none */
	uint16_t flags;                          /* enum fm_of_flow_flag */
	uint64_t cookie, cookie_mask;            /* modify and delete: only flows whose cookie is this in the mask's bits */
	struct fm_of_match match;
	struct fm_of_actions actions; /* none with the deletes */
};

enum fm_of_bundle_kind {
	FM_OF_BUNDLE_OPEN = 0,
	FM_OF_BUNDLE_OPENED = 1,
	FM_OF_BUNDLE_CLOSE = 2,
	FM_OF_BUNDLE_CLOSED = 3,
	FM_OF_BUNDLE_COMMIT = 4,
	FM_OF_BUNDLE_COMMITTED = 5,
	FM_OF_BUNDLE_DISCARD = 6,
	FM_OF_BUNDLE_DISCARDED = 7,
};
#define FM_OF_BUNDLE_ATOMIC  1u
#define FM_OF_BUNDLE_ORDERED 2u

enum fm_of_multipart {
	FM_OF_MULTIPART_FLOWS = 1,
	FM_OF_MULTIPART_COUNTERS = 4,
	FM_OF_MULTIPART_PORTS = 13,
	FM_OF_MULTIPART_OTHER = 0x10000
};
enum fm_of_role { FM_OF_ROLE_NO_CHANGE = 0, FM_OF_ROLE_EQUAL = 1, FM_OF_ROLE_MASTER = 2, FM_OF_ROLE_SLAVE = 3 };

/* Which flows a request for statistics is about */
struct fm_of_flow_filter {
	uint8_t table; /* or FM_OF_TABLE_ALL */
	uint64_t cookie, cookie_mask;
	struct fm_of_match match; /* nothing: all */
};

struct fm_of_flow {
	uint8_t table;
	uint16_t priority, idle_timeout_s, hard_timeout_s, flags;
	uint32_t age_s;
	uint64_t cookie, packets, bytes; /* UINT64_MAX: the switch does not count these */
	struct fm_of_match match;
	struct fm_of_actions actions;
};

#define FM_OF_PORT_NAME_BYTES 16
struct fm_of_port {
	uint32_t number;
	uint8_t mac[6];
	char name[FM_OF_PORT_NAME_BYTES]; /* always ends; unprintable bytes are '?' */
	bool down;                        /* taken down by an administrator */
	bool link_down;                   /* no carrier */
};

/* What a port has counted since it is there; UINT64_MAX: the switch does not count these */
struct fm_of_counters {
	uint32_t port;
	uint64_t age_us; /* how long it has counted */
	uint64_t rx_packets, tx_packets, rx_bytes, tx_bytes;
};

enum fm_of_port_reason { FM_OF_PORT_ADDED = 0, FM_OF_PORT_DELETED = 1, FM_OF_PORT_MODIFIED = 2 };
struct fm_of_port_status {
	enum fm_of_port_reason reason;
	struct fm_of_port port;
};

struct fm_of_features {
	uint64_t datapath_id;
	uint32_t buffers, capabilities;
	uint8_t tables, auxiliary_id;
};

/* A piece of the message it was decoded from; or, to be encoded, the caller's */
struct fm_of_bytes {
	const uint8_t *data;
	size_t n;
};

struct fm_of_message {
	enum fm_of_type type;
	uint32_t xid;
	union {
		struct {
			uint32_t versions; /* bit n: the wire's version n. Decoded: of a HELLO without a list, all up to its own */
		} hello;
		struct {
			uint16_t type, code;     /* type 0xffff: an experimenter's */
			struct fm_of_bytes data; /* the beginning of what was refused; or text, of a refused HELLO */
		} error;
		struct fm_of_bytes echo; /* both */
		struct fm_of_features features;
		struct {
			uint16_t flags, miss_send_bytes;
		} config;
		/* What the switch says unasked, bit by bit its reasons; the same for each role */
		struct {
			uint32_t packet_in, port_status, flow_removed;
		} async;
		struct fm_of_port_status port_status;
		struct fm_of_flow_mod flow_mod;
		struct {
			enum fm_of_multipart kind;
			bool to_be_continued;            /* replies */
			struct fm_of_flow_filter filter; /* requests for flows */
			struct fm_of_bytes entries;      /* replies: see fm_of_flow_next, fm_of_port_next, fm_of_counters_next */
		} multipart;
		struct {
			enum fm_of_role role;
			uint64_t generation;
		} role; /* both */
		struct {
			uint32_t id;
			enum fm_of_bundle_kind kind;
			uint16_t flags;
		} bundle;
		struct {
			uint32_t id;
			uint16_t flags;
			struct fm_of_flow_mod flow_mod; /* its xid is this message's */
		} bundle_add;
	};
};

int fm_of_encode(const struct fm_of_message *m, void *buf, size_t cap, size_t *ret_len, struct fm_error *err);
/* Of a message that begins with these 8 bytes. DATA_LOSS for less than a header, or a version that nobody could have agreed on (any is right for HELLO and ERROR). */
int fm_of_message_length(const void *header, size_t *ret, struct fm_error *err);
int fm_of_decode(const void *data, size_t n, struct fm_of_message *ret, struct fm_error *err);

/* The entries of a multipart reply, one a call: 1 and *ret, 0 at the end, -1. *rest moves on. */
int fm_of_flow_next(struct fm_of_bytes *rest, struct fm_of_flow *ret, struct fm_error *err);
int fm_of_port_next(struct fm_of_bytes *rest, struct fm_of_port *ret, struct fm_error *err);
int fm_of_counters_next(struct fm_of_bytes *rest, struct fm_of_counters *ret, struct fm_error *err);

/* "bad action: there is no such port to send to (2/4)" into buf, returns buf */
const char *fm_of_error_text(unsigned type, unsigned code, char *buf, size_t cap);
/* The house's code for a switch's refusal: full tables are RESOURCE_EXHAUSTED, missing permissions PERMISSION_DENIED, what it does not know UNIMPLEMENTED, else FAILED_PRECONDITION. */
enum fm_code fm_of_error_code(unsigned type, unsigned code);
const char *fm_of_type_to_string(unsigned type);

#endif
