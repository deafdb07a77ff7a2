/* SPDX-License-Identifier: MIT */
/*
 * redirect-dnat.c - driver "dnat": a service that is published on a host's address, `docker run -p` style, on the host that the container leaves and on the one it comes to.
 *
 *   {"driver":"dnat","side":"source","protocol":"tcp","host_address":"192.0.2.10","host_port":6379,"address":"10.78.0.100","port":6379}
 *
 * A rule of our own table (nft.h) translates new connections to host_address:host_port into address:port, those of this host's own programs too. Nothing else is changed: how the packets get to the container, and its answers back
 * through this host so that they are translated back, is the matter of the routes (driver "tunnel" with the reply going back). The client's address is kept.
 *
 * Both sides are opened before the freeze. At the source the rule does at first what the publication that was there does, and goes on when that one goes with the container; it stays as a stub (stub.h) until its last flow
 * has ended. At the destination nobody knows the new address yet; a client that comes early is repeated by its own kernel. So there is nothing left to do in flip that could fail after the commit.
 *
 * Connections that exist keep the translation they began with, in the connection tracking entries of the host that translates (conntrack.h).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "basic/clock.h"
#include "basic/id.h"
#include "basic/io.h"
#include "basic/str.h"
#include "network/fields.h"
#include "network/nft.h"
#include "network/redirect-kernel.h"

#define UNDO_VERSION 1
#define MARK         "fleximigrate " /* then the id, a blank, and what the rule does: at most FM_NFT_COMMENT_MAX together */
#define ID_DIGITS    8
#define WHAT_MAX     104
#define WAIT_MAX_MS  5000

struct action {
	struct fm_nft_dnat rule;
	bool at_source;
	char from[WHAT_MAX]; /* "tcp 192.0.2.10:6379 to " */
	char what[WHAT_MAX]; /* "tcp 192.0.2.10:6379 to 10.78.0.100:6379" */
};

/* ---- words ---- */

static int read_address(const char *text, void *ret, struct fm_error *err)
{
	return fm_conntrack_address_parse(text, ret, err);
}

static void format_end(const struct fm_conntrack_address *a, uint16_t port, char ret[INET6_ADDRSTRLEN + 10])
{
	char text[INET6_ADDRSTRLEN] = "";

	(void)inet_ntop(a->family, a->bytes, text, sizeof(text));
	(void)snprintf(ret, INET6_ADDRSTRLEN + 10, a->family == AF_INET ? "%s:%u" : "[%s]:%u", text, port);
}

static int parse(const json_t *j, struct action *ret, struct fm_error *err)
{
	struct raw {
		bool at_source, tcp;
		struct fm_nft_dnat rule;
	} raw = { 0 };
	static const char *const sides[] = { "destination", "source", NULL }, *const protocols[] = { "udp", "tcp", NULL };
#define ADDRESS(member) .parse = read_address, .offset = offsetof(struct raw, member), .required = true
#define PORT(member)    .type = FM_FIELD_U16, .min = 1, .offset = offsetof(struct raw, member), .required = true
	static const struct fm_field fields[] = {
		FM_FIELD_DRIVER,
		{ .name = "side", .type = FM_FIELD_BOOL, .words = sides, .offset = offsetof(struct raw, at_source), .required = true },
		{ .name = "protocol", .type = FM_FIELD_BOOL, .words = protocols, .offset = offsetof(struct raw, tcp), .required = true },
		{ .name = "host_address", ADDRESS(rule.from) },
		{ .name = "host_port", PORT(rule.from_port) },
		{ .name = "address", ADDRESS(rule.to) },
		{ .name = "port", PORT(rule.to_port) },
		{ 0 },
	};
#undef ADDRESS
#undef PORT
	const struct fm_place at = { .who = "dnat" };
	char from[INET6_ADDRSTRLEN + 10], to[INET6_ADDRSTRLEN + 10];
	struct action a = { 0 };

	if (fm_fields_read(j, &at, fields, &raw, err) < 0)
		return -1;
	a.rule = raw.rule;
	a.rule.protocol = raw.tcp ? IPPROTO_TCP : IPPROTO_UDP;
	a.at_source = raw.at_source;
	if (a.rule.from.family != a.rule.to.family)
		return fm_field_wrong(&at, "address", "is not of host_address's kind (IPv4, IPv6)", err);
	format_end(&a.rule.from, a.rule.from_port, from);
	format_end(&a.rule.to, a.rule.to_port, to);
	if (fm_snprintf(a.from, sizeof(a.from), err, "%s %s to ", raw.tcp ? "tcp" : "udp", from) < 0 ||
	    fm_snprintf(a.what, sizeof(a.what), err, "%s%s", a.from, to) < 0)
		return -1;
	*ret = a;
	return 0;
}

static bool is_id(const char *text)
{
	return strlen(text) == ID_DIGITS && strspn(text, "0123456789abcdef") == ID_DIGITS;
}

/* The comment of this action's rules. */
static int parse_undo(const json_t *undo, const struct action *a, char ret[FM_NFT_COMMENT_MAX + 1], struct fm_error *err)
{
	struct raw {
		uint8_t dnat;
		const char *id;
	} raw = { 0 };
	static const struct fm_field fields[] = {
		{ FM_FIELD(struct raw, dnat), .type = FM_FIELD_U8, .min = UNDO_VERSION, .max = UNDO_VERSION, .required = true },
		{ FM_FIELD(struct raw, id), .check = is_id, .what = "is not eight hex digits", .required = true },
		{ 0 },
	};
	const struct fm_place at = { .who = "dnat: undo", .code = FM_E_DATA_LOSS };

	if (fm_fields_read(undo, &at, fields, &raw, err) < 0)
		return -1;
	return fm_snprintf(ret, FM_NFT_COMMENT_MAX + 1, err, MARK "%s %s", raw.id, a->what);
}

/* ---- common to the calls ---- */

static int open_session(const struct fm_redirect_call *c, struct fm_nl **ret, struct fm_error *err)
{
	_fm_nl_ struct fm_nl *nl = NULL;
	int left = fm_deadline_left_ms(c->deadline_ms);
	struct timeval wait;

	if (fm_redirect_may_go_on(c, "dnat", err) < 0 || fm_nft_open(&nl, err) < 0)
		return -1;
	if (left > WAIT_MAX_MS)
		left = WAIT_MAX_MS;
	wait = (struct timeval){ .tv_sec = left / 1000, .tv_usec = (left % 1000) * 1000L + 1 };
	if (setsockopt(mnl_socket_get_fd(nl->sock), SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)) < 0)
		return fm_error_errno(err, errno, "dnat: limit the wait for the kernel");
	*ret = FM_TAKE_PTR(nl);
	return 0;
}

/* What a rule of ours does, or NULL. */
static const char *what_of(const struct fm_nft_rule *r)
{
	const char *p = r->comment;

	if (!fm_str_startswith(p, MARK) || strlen(p) < sizeof(MARK) + ID_DIGITS + 1 || p[sizeof(MARK) - 1 + ID_DIGITS] != ' ')
		return NULL;
	return p + sizeof(MARK) + ID_DIGITS;
}

/* Our table is usable, and no rule of another action sends the same connections elsewhere. */
static int check_table(const struct fm_nft_state *s, const struct action *a, enum fm_code code_foreign, enum fm_code code_taken,
                       struct fm_error *err)
{
	if (s->exists && !s->ours) {
		(void)fm_error_set(err, code_foreign, "dnat: there is an nf_tables table inet %s that is not ours", FM_NFT_TABLE);
		return fm_error_hint(err, "look at it: nft list table inet %s", FM_NFT_TABLE);
	}
	for (size_t i = 0; i < s->n; i++) {
		const char *what = what_of(&s->rules[i]);

		if (what && fm_str_startswith(what, a->from) && strcmp(what, a->what) != 0)
			return fm_error_set(err, code_taken, "dnat: this host already translates %s", what);
	}
	return 0;
}

static int bind_to(const struct fm_conntrack_address *a, int type, uint16_t port)
{
	_fm_close_ int fd = socket(a->family, type | SOCK_CLOEXEC, 0);
	struct sockaddr_in four = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	int on = 1;

	memcpy(&four.sin_addr, a->bytes, sizeof(four.sin_addr));
	memcpy(&six.sin6_addr, a->bytes, sizeof(six.sin6_addr));
	/* of TCP: connections that have ended are no obstacle, a listener is one */
	if (fd < 0 || (type == SOCK_STREAM && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0))
		return -errno;
	if ((a->family == AF_INET ? bind(fd, (struct sockaddr *)&four, sizeof(four)) : bind(fd, (struct sockaddr *)&six, sizeof(six))) < 0)
		return -errno;
	return 0;
}

static int check_host(const struct action *a, struct fm_error *err)
{
	bool four = a->rule.from.family == AF_INET;
	const char *path = four ? "/proc/sys/net/ipv4/ip_forward" : "/proc/sys/net/ipv6/conf/all/forwarding";
	_fm_free_ char *forwards = NULL;
	int rc = bind_to(&a->rule.from, SOCK_DGRAM, 0);

	if (rc == -EADDRNOTAVAIL)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "dnat: host_address is not an address of this host (%s)", a->what);
	if (rc < 0)
		return fm_error_errno(err, -rc, "dnat: look for host_address (%s)", a->what);
	rc = a->at_source ? 0 : bind_to(&a->rule.from, a->rule.protocol == IPPROTO_TCP ? SOCK_STREAM : SOCK_DGRAM, a->rule.from_port);
	if (rc == -EADDRINUSE)
		return fm_error_set(err, FM_E_ALREADY_EXISTS, "dnat: a program on this host has host_port already (%s)", a->what);
	if (rc < 0)
		return fm_error_errno(err, -rc, "dnat: look whether host_port is free (%s)", a->what);
	if (fm_read_file(path, 16, &forwards, NULL, err) < 0)
		return fm_error_prefix(err, "dnat: does this host forward");
	if (forwards[0] == '0') {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "dnat: this host does not forward packets (%s is 0)", path);
		return fm_error_hint(err, "sysctl -w net.%s=1", four ? "ipv4.ip_forward" : "ipv6.conf.all.forwarding");
	}
	return 0;
}

/* ---- the driver ---- */

static int dnat_prepare(const struct fm_redirect_call *c, const json_t *action, json_t **ret_undo, struct fm_error *err)
{
	_fm_nft_state_ struct fm_nft_state s = { 0 };
	_fm_nl_ struct fm_nl *nl = NULL;
	char token[FM_TOKEN_LEN + 1];
	struct action a;
	json_t *undo;

	if (parse(action, &a, err) < 0 || open_session(c, &nl, err) < 0 || fm_nft_look(nl, &s, err) < 0 ||
	    check_table(&s, &a, FM_E_FAILED_PRECONDITION, FM_E_ALREADY_EXISTS, err) < 0 || check_host(&a, err) < 0)
		return -1;
	fm_token_new(token);
	token[ID_DIGITS] = '\0';
	undo = json_pack("{s:i, s:s}", "dnat", UNDO_VERSION, "id", token);
	if (!undo)
		return fm_error_errno(err, ENOMEM, "dnat: prepare");
	*ret_undo = undo;
	return 0;
}

/* Also flip: the rules are there, or come. */
static int dnat_open(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	_fm_nft_state_ struct fm_nft_state s = { 0 };
	_fm_nl_ struct fm_nl *nl = NULL;
	char comment[FM_NFT_COMMENT_MAX + 1];
	struct action a;

	if (parse(action, &a, err) < 0 || parse_undo(undo, &a, comment, err) < 0 || open_session(c, &nl, err) < 0 ||
	    fm_nft_look(nl, &s, err) < 0 || check_table(&s, &a, FM_E_ABORTED, FM_E_ABORTED, err) < 0)
		return -1;
	return fm_nft_dnat_add(nl, &a.rule, comment, err) < 0 ? fm_error_prefix(err, "dnat: %s", a.what) : 0;
}

static int dnat_verify(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	_fm_nft_state_ struct fm_nft_state s = { 0 };
	_fm_nl_ struct fm_nl *nl = NULL;
	char comment[FM_NFT_COMMENT_MAX + 1];
	unsigned seen = 0;
	struct action a;

	if (parse(action, &a, err) < 0 || parse_undo(undo, &a, comment, err) < 0 || open_session(c, &nl, err) < 0 ||
	    fm_nft_look(nl, &s, err) < 0)
		return -1;
	for (size_t i = 0; i < s.n; i++)
		if (s.rules[i].chain >= 0 && fm_streq(s.rules[i].comment, comment))
			seen |= 1u << s.rules[i].chain;
	if (!s.ours || seen != (1u << FM_NFT_N_CHAINS) - 1)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "dnat: of its two rules %s in table inet %s (%s)",
		                    seen ? "only one is" : "none is", FM_NFT_TABLE, a.what);
	return check_table(&s, &a, FM_E_FAILED_PRECONDITION, FM_E_FAILED_PRECONDITION, err);
}

static int dnat_revert(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	_fm_nl_ struct fm_nl *nl = NULL;
	char comment[FM_NFT_COMMENT_MAX + 1];
	struct action a;

	if (parse(action, &a, err) < 0 || parse_undo(undo, &a, comment, err) < 0 || open_session(c, &nl, err) < 0)
		return -1;
	return fm_nft_remove(nl, comment, err) < 0 ? fm_error_prefix(err, "dnat: %s", a.what) : 0;
}

static bool is_known(const json_t *known, const char *what)
{
	const json_t *j;
	size_t i;

	json_array_foreach(known, i, j)
	{
		struct action a;

		if (fm_streq(json_string_value(json_object_get(j, "driver")), fm_redirect_dnat.name) && parse(j, &a, NULL) == 0 &&
		    strcmp(a.what, what) == 0)
			return true;
	}
	return false;
}

#define LEFTOVER_MAX (FM_NFT_COMMENT_MAX + 64)

/* Once for the rules with the same comment; in words, or false. */
static bool is_leftover(const struct fm_nft_state *s, size_t i, const json_t *known, char ret[LEFTOVER_MAX])
{
	const char *what = what_of(&s->rules[i]);

	for (size_t k = 0; k < i; k++)
		if (strcmp(s->rules[k].comment, s->rules[i].comment) == 0)
			return false;
	if (!s->ours || !what || is_known(known, what))
		return false;
	(void)snprintf(ret, LEFTOVER_MAX, "nf_tables table inet %s: %s", FM_NFT_TABLE, s->rules[i].comment);
	fm_str_sanitize(ret);
	return true;
}

static int dnat_leftovers(const struct fm_redirect_call *c, const json_t *known, void (*cb)(const char *what, void *userdata),
                          void *userdata, struct fm_error *err)
{
	_fm_nft_state_ struct fm_nft_state s = { 0 };
	_fm_nl_ struct fm_nl *nl = NULL;
	char text[LEFTOVER_MAX];

	if (open_session(c, &nl, err) < 0 || fm_nft_look(nl, &s, err) < 0)
		return -1;
	for (size_t i = 0; i < s.n; i++)
		if (is_leftover(&s, i, known, text))
			cb(text, userdata);
	return 0;
}

static int dnat_clean(const struct fm_redirect_call *c, const json_t *known, const char *what, struct fm_error *err)
{
	_fm_nft_state_ struct fm_nft_state s = { 0 };
	_fm_nl_ struct fm_nl *nl = NULL;
	char text[LEFTOVER_MAX];

	if (open_session(c, &nl, err) < 0 || fm_nft_look(nl, &s, err) < 0)
		return -1;
	for (size_t i = 0; i < s.n; i++)
		if (is_leftover(&s, i, known, text) && strcmp(text, what) == 0 && fm_nft_remove(nl, s.rules[i].comment, err) < 0)
			return fm_error_prefix(err, "dnat: %s", what);
	return 0;
}

const struct fm_redirect_ops fm_redirect_dnat = {
	.name = "dnat",
	.title = "translation of a host's published address",
	.prepare = dnat_prepare,
	.open = dnat_open,
	.flip = dnat_open,
	.verify = dnat_verify,
	.revert = dnat_revert,
	.leftovers = dnat_leftovers,
	.clean = dnat_clean,
};
