/* SPDX-License-Identifier: MIT */
/* nft.c - see nft.h. Messages as `nft` would send them, so that `nft list ruleset` shows the table as text that it can read back. */
#include "network/nft.h"

#include <arpa/inet.h>
#include <endian.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "basic/str.h"

#define MARK           "made and removed by fleximigrate"
#define UDATA_COMMENT  0 /* nft's type of a comment in the user data of tables and rules */
#define PRIORITY       (-101)
#define CHANGE_BYTES   8192
#define CHANGE_TRIES   20
#define ANSWER_BYTES   32768
#define IPV4_DADDR     16 /* offsets in the headers */
#define IPV6_DADDR     24
#define TRANSPORT_PORT 2

static const struct {
	const char *name;
	uint32_t hook;
} chains[FM_NFT_N_CHAINS] = { { "prerouting", NF_INET_PRE_ROUTING }, { "output", NF_INET_LOCAL_OUT } };

void fm_nft_state_done(struct fm_nft_state *s)
{
	free(s->rules);
	*s = (struct fm_nft_state){ 0 };
}

int fm_nft_open(struct fm_nl **ret, struct fm_error *err)
{
	struct fm_error why = FM_ERROR_INIT;

	if (fm_nl_open_bus(NETLINK_NETFILTER, 0, ret, &why) == 0)
		return 0;
	if (why.sys_errno == EPROTONOSUPPORT)
		return fm_error_set(err, FM_E_UNIMPLEMENTED, "this kernel has no netfilter");
	if (err)
		*err = why;
	return -1;
}

static void put_generic(struct nlmsghdr *h, int family, uint16_t resource)
{
	struct nfgenmsg *g = mnl_nlmsg_put_extra_header(h, sizeof(*g));

	g->nfgen_family = (uint8_t)family;
	g->version = NFNETLINK_V0;
	g->res_id = htons(resource);
}

/* ---- looking ---- */

static void read_comment(const struct nlattr *a, char *ret, size_t cap)
{
	const uint8_t *p = mnl_attr_get_payload(a);
	size_t left = mnl_attr_get_payload_len(a);

	/* type, length, value; nft's strings end with a NUL, which is counted */
	while (left >= 2 && left - 2 >= p[1]) {
		size_t n = p[1];

		if (p[0] == UDATA_COMMENT && n > 0 && n <= cap && p[2 + n - 1] == '\0') {
			memcpy(ret, p + 2, n);
			return;
		}
		p += 2 + n;
		left -= 2 + n;
	}
}

static int generation_cb(const struct nlmsghdr *h, void *userdata)
{
	struct fm_nft_state *s = userdata;
	const struct nlattr *a;

	mnl_attr_for_each (a, h, sizeof(struct nfgenmsg))
		if (mnl_attr_get_type(a) == NFTA_GEN_ID && mnl_attr_validate(a, MNL_TYPE_U32) >= 0)
			s->generation = ntohl(mnl_attr_get_u32(a));
	return MNL_CB_OK;
}

static int table_cb(const struct nlmsghdr *h, void *userdata)
{
	struct fm_nft_state *s = userdata;
	bool is_it = false;
	char comment[FM_NFT_COMMENT_MAX + 1] = "";
	const struct nlattr *a;

	mnl_attr_for_each (a, h, sizeof(struct nfgenmsg)) {
		if (mnl_attr_get_type(a) == NFTA_TABLE_NAME)
			is_it = mnl_attr_validate(a, MNL_TYPE_NUL_STRING) >= 0 && fm_streq(mnl_attr_get_str(a), FM_NFT_TABLE);
		else if (mnl_attr_get_type(a) == NFTA_TABLE_USERDATA)
			read_comment(a, comment, sizeof(comment));
	}
	if (is_it) {
		s->exists = true;
		s->ours = fm_streq(comment, MARK);
	}
	return MNL_CB_OK;
}

static int rule_cb(const struct nlmsghdr *h, void *userdata)
{
	struct fm_nft_state *s = userdata;
	struct fm_nft_rule r = { .chain = -1 };
	bool is_it = false;
	const struct nlattr *a;

	mnl_attr_for_each (a, h, sizeof(struct nfgenmsg)) {
		bool is_text = mnl_attr_validate(a, MNL_TYPE_NUL_STRING) >= 0;

		switch (mnl_attr_get_type(a)) {
		case NFTA_RULE_TABLE:
			is_it = is_text && fm_streq(mnl_attr_get_str(a), FM_NFT_TABLE);
			break;
		case NFTA_RULE_CHAIN:
			for (int i = 0; i < FM_NFT_N_CHAINS && is_text; i++)
				if (fm_streq(mnl_attr_get_str(a), chains[i].name))
					r.chain = i;
			break;
		case NFTA_RULE_HANDLE:
			if (mnl_attr_validate(a, MNL_TYPE_U64) >= 0)
				r.handle = be64toh(mnl_attr_get_u64(a));
			break;
		case NFTA_RULE_USERDATA:
			read_comment(a, r.comment, sizeof(r.comment));
			break;
		default:
			break;
		}
	}
	if (is_it && s->n < FM_NFT_RULES_MAX)
		s->rules[s->n++] = r;
	return MNL_CB_OK;
}

static int ask(struct fm_nl *nl, int type, int family, mnl_cb_t cb, struct fm_nft_state *s, struct fm_error *err)
{
	struct nfgenmsg g = { .nfgen_family = (uint8_t)family, .version = NFNETLINK_V0 };
	uint16_t full_type = (uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | type);
	int rc = type == NFT_MSG_GETGEN ? fm_nl_get(nl, full_type, &g, sizeof(g), cb, s)
	                                : fm_nl_dump(nl, full_type, &g, sizeof(g), cb, s, NULL);

	if (rc == -EINVAL || rc == -EOPNOTSUPP)
		return fm_error_set(err, FM_E_UNIMPLEMENTED, "this kernel has no nf_tables");
	return rc < 0 ? fm_nl_fail(nl, rc, err, "read the nf_tables ruleset") : 0;
}

int fm_nft_look(struct fm_nl *nl, struct fm_nft_state *ret, struct fm_error *err)
{
	_fm_nft_state_ struct fm_nft_state s = { .rules = calloc(FM_NFT_RULES_MAX, sizeof(*s.rules)) };

	if (!s.rules)
		return fm_error_errno(err, ENOMEM, "read the nf_tables ruleset");
	if (ask(nl, NFT_MSG_GETGEN, AF_UNSPEC, generation_cb, &s, err) < 0 ||
	    ask(nl, NFT_MSG_GETTABLE, NFPROTO_INET, table_cb, &s, err) < 0 ||
	    (s.exists && ask(nl, NFT_MSG_GETRULE, NFPROTO_INET, rule_cb, &s, err) < 0))
		return -1;
	*ret = s;
	s.rules = NULL;
	return 0;
}

/* ---- changing ---- */

struct change {
	char buf[CHANGE_BYTES] __attribute__((aligned(8)));
	size_t len;
	struct nlmsghdr *last;
	uint32_t first; /* sequence number of the beginning */
	unsigned n;     /* requests between beginning and end */
};

static struct nlmsghdr *change_message(struct change *c, struct fm_nl *nl, uint16_t type, uint16_t flags)
{
	struct nlmsghdr *h;

	if (c->last)
		c->len += MNL_ALIGN(c->last->nlmsg_len);
	h = mnl_nlmsg_put_header(c->buf + c->len);
	h->nlmsg_type = type;
	h->nlmsg_flags = NLM_F_REQUEST | flags;
	h->nlmsg_seq = ++nl->seq;
	c->last = h;
	return h;
}

static void change_begin(struct change *c, struct fm_nl *nl, uint32_t generation)
{
	struct nlmsghdr *h;

	c->len = 0;
	c->last = NULL;
	c->n = 0;
	h = change_message(c, nl, NFNL_MSG_BATCH_BEGIN, 0);
	put_generic(h, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
	mnl_attr_put_u32(h, NFNL_BATCH_GENID, htonl(generation));
	c->first = h->nlmsg_seq;
}

/* NULL when the buffer has no room for another one of `need` bytes. */
static struct nlmsghdr *change_add(struct change *c, struct fm_nl *nl, int type, uint16_t flags, size_t need)
{
	struct nlmsghdr *h;

	if (c->len + MNL_ALIGN(c->last->nlmsg_len) + need + (size_t)(2 * NLMSG_HDRLEN) + sizeof(struct nfgenmsg) > sizeof(c->buf))
		return NULL;
	h = change_message(c, nl, (uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | type), NLM_F_ACK | flags);
	put_generic(h, NFPROTO_INET, 0);
	c->n++;
	return h;
}

/* The first failure among the answers, or 0. A failure of the whole (another generation, no permission) is told for the beginning alone. */
static int change_answers(struct change *c, struct fm_nl *nl)
{
	char buf[ANSWER_BYTES] __attribute__((aligned(8)));
	unsigned open = c->n;
	int result = 0;

	while (open > 0) {
		ssize_t got = mnl_socket_recvfrom(nl->sock, buf, sizeof(buf));
		int left = (int)got;

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		for (const struct nlmsghdr *h = (const void *)buf; mnl_nlmsg_ok(h, left); h = mnl_nlmsg_next(h, &left)) {
			const struct nlmsgerr *e = mnl_nlmsg_get_payload(h);

			if (h->nlmsg_type != NLMSG_ERROR || h->nlmsg_seq - c->first > c->n)
				continue;
			if (h->nlmsg_seq == c->first)
				return e->error < 0 ? e->error : -EBADMSG;
			if (result == 0)
				result = e->error;
			open--;
		}
	}
	return result;
}

/* All of it or nothing. -ERESTART: look again. */
static int change_commit(struct change *c, struct fm_nl *nl)
{
	struct nlmsghdr *h = change_message(c, nl, NFNL_MSG_BATCH_END, 0);

	put_generic(h, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
	c->len += h->nlmsg_len;
	if (c->n == 0)
		return 0;
	if (mnl_socket_sendto(nl->sock, c->buf, c->len) < 0)
		return -errno;
	return change_answers(c, nl);
}

static void put_comment(struct nlmsghdr *h, int type, const char *text)
{
	uint8_t data[2 + FM_NFT_COMMENT_MAX + 1];
	size_t n = strlen(text) + 1;

	data[0] = UDATA_COMMENT;
	data[1] = (uint8_t)n;
	memcpy(data + 2, text, n);
	mnl_attr_put(h, (uint16_t)type, 2 + n, data);
}

static bool put_table(struct change *c, struct fm_nl *nl)
{
	struct nlmsghdr *h = change_add(c, nl, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, 256);

	if (!h)
		return false;
	mnl_attr_put_strz(h, NFTA_TABLE_NAME, FM_NFT_TABLE);
	put_comment(h, NFTA_TABLE_USERDATA, MARK);
	return true;
}

/* A chain that is there with the same hook is kept by the kernel; with another one the whole change is refused. */
static bool put_chain(struct change *c, struct fm_nl *nl, enum fm_nft_chain chain)
{
	struct nlmsghdr *h = change_add(c, nl, NFT_MSG_NEWCHAIN, NLM_F_CREATE, 256);
	struct nlattr *hook;

	if (!h)
		return false;
	mnl_attr_put_strz(h, NFTA_CHAIN_TABLE, FM_NFT_TABLE);
	mnl_attr_put_strz(h, NFTA_CHAIN_NAME, chains[chain].name);
	hook = mnl_attr_nest_start(h, NFTA_CHAIN_HOOK);
	mnl_attr_put_u32(h, NFTA_HOOK_HOOKNUM, htonl(chains[chain].hook));
	mnl_attr_put_u32(h, NFTA_HOOK_PRIORITY, htonl((uint32_t)PRIORITY));
	mnl_attr_nest_end(h, hook);
	mnl_attr_put_strz(h, NFTA_CHAIN_TYPE, "nat");
	return true;
}

static struct nlattr *expression_begin(struct nlmsghdr *h, const char *name, struct nlattr **element)
{
	*element = mnl_attr_nest_start(h, NFTA_LIST_ELEM);
	mnl_attr_put_strz(h, NFTA_EXPR_NAME, name);
	return mnl_attr_nest_start(h, NFTA_EXPR_DATA);
}

static void expression_end(struct nlmsghdr *h, struct nlattr *data, struct nlattr *element)
{
	mnl_attr_nest_end(h, data);
	mnl_attr_nest_end(h, element);
}

static void put_value(struct nlmsghdr *h, int type, const void *value, size_t n)
{
	struct nlattr *nest = mnl_attr_nest_start(h, (uint16_t)type);

	mnl_attr_put(h, NFTA_DATA_VALUE, n, value);
	mnl_attr_nest_end(h, nest);
}

static void match_register(struct nlmsghdr *h, const void *value, size_t n)
{
	struct nlattr *element, *data = expression_begin(h, "cmp", &element);

	mnl_attr_put_u32(h, NFTA_CMP_SREG, htonl(NFT_REG_1));
	mnl_attr_put_u32(h, NFTA_CMP_OP, htonl(NFT_CMP_EQ));
	put_value(h, NFTA_CMP_DATA, value, n);
	expression_end(h, data, element);
}

static void match_meta(struct nlmsghdr *h, uint32_t key, uint8_t value)
{
	struct nlattr *element, *data = expression_begin(h, "meta", &element);

	mnl_attr_put_u32(h, NFTA_META_KEY, htonl(key));
	mnl_attr_put_u32(h, NFTA_META_DREG, htonl(NFT_REG_1));
	expression_end(h, data, element);
	match_register(h, &value, 1);
}

static void match_payload(struct nlmsghdr *h, uint32_t base, uint32_t offset, const void *value, size_t n)
{
	struct nlattr *element, *data = expression_begin(h, "payload", &element);

	mnl_attr_put_u32(h, NFTA_PAYLOAD_DREG, htonl(NFT_REG_1));
	mnl_attr_put_u32(h, NFTA_PAYLOAD_BASE, htonl(base));
	mnl_attr_put_u32(h, NFTA_PAYLOAD_OFFSET, htonl(offset));
	mnl_attr_put_u32(h, NFTA_PAYLOAD_LEN, htonl((uint32_t)n));
	expression_end(h, data, element);
	match_register(h, value, n);
}

static void load_register(struct nlmsghdr *h, uint32_t reg, const void *value, size_t n)
{
	struct nlattr *element, *data = expression_begin(h, "immediate", &element);

	mnl_attr_put_u32(h, NFTA_IMMEDIATE_DREG, htonl(reg));
	put_value(h, NFTA_IMMEDIATE_DATA, value, n);
	expression_end(h, data, element);
}

static bool put_dnat(struct change *c, struct fm_nl *nl, enum fm_nft_chain chain, const struct fm_nft_dnat *d, const char *comment)
{
	struct nlmsghdr *h = change_add(c, nl, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, 1536);
	bool four = d->from.family == AF_INET;
	uint32_t proto = four ? NFPROTO_IPV4 : NFPROTO_IPV6;
	uint16_t from_port = htons(d->from_port), to_port = htons(d->to_port);
	struct nlattr *list, *element, *data;

	if (!h)
		return false;
	mnl_attr_put_strz(h, NFTA_RULE_TABLE, FM_NFT_TABLE);
	mnl_attr_put_strz(h, NFTA_RULE_CHAIN, chains[chain].name);
	list = mnl_attr_nest_start(h, NFTA_RULE_EXPRESSIONS);
	match_meta(h, NFT_META_NFPROTO, (uint8_t)proto);
	match_payload(h, NFT_PAYLOAD_NETWORK_HEADER, four ? IPV4_DADDR : IPV6_DADDR, d->from.bytes, four ? 4 : 16);
	match_meta(h, NFT_META_L4PROTO, d->protocol);
	match_payload(h, NFT_PAYLOAD_TRANSPORT_HEADER, TRANSPORT_PORT, &from_port, sizeof(from_port));
	load_register(h, NFT_REG_1, d->to.bytes, four ? 4 : 16);
	load_register(h, NFT_REG_2, &to_port, sizeof(to_port));
	data = expression_begin(h, "nat", &element);
	mnl_attr_put_u32(h, NFTA_NAT_TYPE, htonl(NFT_NAT_DNAT));
	mnl_attr_put_u32(h, NFTA_NAT_FAMILY, htonl(proto));
	mnl_attr_put_u32(h, NFTA_NAT_REG_ADDR_MIN, htonl(NFT_REG_1));
	mnl_attr_put_u32(h, NFTA_NAT_REG_PROTO_MIN, htonl(NFT_REG_2));
	expression_end(h, data, element);
	mnl_attr_nest_end(h, list);
	put_comment(h, NFTA_RULE_USERDATA, comment);
	return true;
}

static bool has_rule(const struct fm_nft_state *s, enum fm_nft_chain chain, const char *comment)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->rules[i].chain == (int)chain && fm_streq(s->rules[i].comment, comment))
			return true;
	return false;
}

static int change_fail(int rc, struct fm_error *err, const char *what)
{
	if (rc == -EBUSY || rc == -EEXIST)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION,
		                    "%s: the nf_tables table inet %s has chains that are not as they should be", what, FM_NFT_TABLE);
	if (rc == -ERESTART)
		return fm_error_set(err, FM_E_UNAVAILABLE, "%s: the nf_tables ruleset is being changed all the time", what);
	return fm_error_errno(err, -rc, "%s in the nf_tables table inet %s", what, FM_NFT_TABLE);
}

int fm_nft_dnat_add(struct fm_nl *nl, const struct fm_nft_dnat *d, const char *comment, struct fm_error *err)
{
	_fm_free_ struct change *c = malloc(sizeof(*c));
	int rc = -ERESTART;

	if (!c)
		return fm_error_errno(err, ENOMEM, "translate an address");
	for (int try = 0; try < CHANGE_TRIES && rc == -ERESTART; try++) {
		_fm_nft_state_ struct fm_nft_state s = { 0 };

		if (fm_nft_look(nl, &s, err) < 0)
			return -1;
		if (s.exists && !s.ours)
			return fm_error_set(err, FM_E_FAILED_PRECONDITION, "there is an nf_tables table inet %s that is not ours",
			                    FM_NFT_TABLE);
		change_begin(c, nl, s.generation);
		if (!s.exists && !put_table(c, nl))
			return fm_error_set(err, FM_E_INTERNAL, "a change of the ruleset is too long");
		for (int i = 0; i < FM_NFT_N_CHAINS; i++)
			if (!has_rule(&s, i, comment) && (!put_chain(c, nl, i) || !put_dnat(c, nl, i, d, comment)))
				return fm_error_set(err, FM_E_INTERNAL, "a change of the ruleset is too long");
		rc = change_commit(c, nl);
	}
	return rc < 0 ? change_fail(rc, err, "translate an address") : 0;
}

int fm_nft_remove(struct fm_nl *nl, const char *comment, struct fm_error *err)
{
	_fm_free_ struct change *c = malloc(sizeof(*c));
	int rc = -ERESTART;

	if (!c)
		return fm_error_errno(err, ENOMEM, "remove a translation");
	for (int try = 0; try < CHANGE_TRIES && rc == -ERESTART; try++) {
		_fm_nft_state_ struct fm_nft_state s = { 0 };
		size_t left = 0;
		struct nlmsghdr *h;

		if (fm_nft_look(nl, &s, err) < 0)
			return -1;
		if (!s.ours)
			return 0;
		change_begin(c, nl, s.generation);
		for (size_t i = 0; i < s.n; i++) {
			if (s.rules[i].chain < 0 || !fm_streq(s.rules[i].comment, comment)) {
				left++;
				continue;
			}
			h = change_add(c, nl, NFT_MSG_DELRULE, 0, 128);
			if (!h)
				return fm_error_set(err, FM_E_INTERNAL, "a change of the ruleset is too long");
			mnl_attr_put_strz(h, NFTA_RULE_TABLE, FM_NFT_TABLE);
			mnl_attr_put_strz(h, NFTA_RULE_CHAIN, chains[s.rules[i].chain].name);
			mnl_attr_put_u64(h, NFTA_RULE_HANDLE, htobe64(s.rules[i].handle));
		}
		/* a crash between two removals, or nothing to do: an empty table of ours goes all the same */
		h = left ? NULL : change_add(c, nl, NFT_MSG_DELTABLE, 0, 128);
		if (h)
			mnl_attr_put_strz(h, NFTA_TABLE_NAME, FM_NFT_TABLE);
		rc = change_commit(c, nl);
	}
	return rc < 0 ? change_fail(rc, err, "remove a translation") : 0;
}
