/* SPDX-License-Identifier: MIT */
/*
 * conntrack.c - the connection tracking table through nfnetlink. See conntrack.h.
 *
 * Going through the table costs what the table's size costs (262144 buckets: several milliseconds), once a question; each entry that is told, about a microsecond. So a table with few entries is asked for all of them at once.
 * With many, the kernel filters: an IPv4 address is then asked for twice: as the one that began (source of the original direction), and as the one that answers (source of the reply: that is the container also where the original destination was translated to it).
 * The kernel filters since Linux 5.8; before, it tells all, and the filter here does the work. Of IPv6 all is asked for: the kernel's filter has the comparison the wrong way round there (6.18 still) and tells all but those.
 */
#include "network/conntrack.h"

#include <arpa/inet.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <netinet/in.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>

#include "network/netlink.h"

/* The kernel's bit for "the source address" in CTA_FILTER_ORIG_FLAGS and CTA_FILTER_REPLY_FLAGS; its headers for programs do not name it. */
#define FILTER_IP_SRC (1u << 0)
#define FEW_ENTRIES   16384
#define ENTRY_BYTES   512 /* more than any request of ours */
#define WSCALE_MAX    14
#define TCP_FLAGS     (IP_CT_TCP_FLAG_WINDOW_SCALE | IP_CT_TCP_FLAG_SACK_PERM)
#define FORGET_ROUNDS 64 /* of FM_MAX_CONNTRACK each: new ones may come as fast as old ones go */

struct fm_conntrack {
	struct fm_nl *nl; /* NULL: there is nothing to talk to */
};

struct tuple {
	struct fm_conntrack_address src, dst;
	uint16_t sport, dport;
	uint8_t protocol;
};

/* An entry as the kernel told it. */
struct entry {
	struct tuple orig, reply;
	uint32_t status, timeout_s, mark;
	uint8_t tcp_state, tcp_flags[2], tcp_wscale[2];
	bool other_zone, adjusted;
};

/* ---- reading ---- */

static void read_address(const struct nlattr *a, struct fm_conntrack_address *ret, int family)
{
	size_t n = family == AF_INET ? 4 : 16;

	if (mnl_attr_get_payload_len(a) != n)
		return;
	ret->family = family;
	memcpy(ret->bytes, mnl_attr_get_payload(a), n);
}

static void read_ip(const struct nlattr *nest, struct tuple *t)
{
	const struct nlattr *a;

	mnl_attr_for_each_nested (a, nest) {
		int type = mnl_attr_get_type(a);

		if (type == CTA_IP_V4_SRC || type == CTA_IP_V6_SRC)
			read_address(a, &t->src, type == CTA_IP_V4_SRC ? AF_INET : AF_INET6);
		else if (type == CTA_IP_V4_DST || type == CTA_IP_V6_DST)
			read_address(a, &t->dst, type == CTA_IP_V4_DST ? AF_INET : AF_INET6);
	}
}

static void read_proto(const struct nlattr *nest, struct tuple *t)
{
	const struct nlattr *a;

	mnl_attr_for_each_nested (a, nest) {
		int type = mnl_attr_get_type(a);

		if (type == CTA_PROTO_NUM && mnl_attr_validate(a, MNL_TYPE_U8) >= 0)
			t->protocol = mnl_attr_get_u8(a);
		else if (type == CTA_PROTO_SRC_PORT && mnl_attr_validate(a, MNL_TYPE_U16) >= 0)
			t->sport = ntohs(mnl_attr_get_u16(a));
		else if (type == CTA_PROTO_DST_PORT && mnl_attr_validate(a, MNL_TYPE_U16) >= 0)
			t->dport = ntohs(mnl_attr_get_u16(a));
	}
}

static void read_tuple(const struct nlattr *nest, struct tuple *t, bool *other_zone)
{
	const struct nlattr *a;

	mnl_attr_for_each_nested (a, nest) {
		switch (mnl_attr_get_type(a)) {
		case CTA_TUPLE_IP:
			read_ip(a, t);
			break;
		case CTA_TUPLE_PROTO:
			read_proto(a, t);
			break;
		case CTA_TUPLE_ZONE:
			*other_zone = true;
			break;
		default:
			break;
		}
	}
}

static void read_tcp(const struct nlattr *nest, struct entry *e)
{
	const struct nlattr *a;

	mnl_attr_for_each_nested (a, nest) {
		int type = mnl_attr_get_type(a);
		bool is_reply = type == CTA_PROTOINFO_TCP_WSCALE_REPLY || type == CTA_PROTOINFO_TCP_FLAGS_REPLY;

		if (mnl_attr_get_payload_len(a) < 1)
			continue;
		if (type == CTA_PROTOINFO_TCP_STATE)
			e->tcp_state = mnl_attr_get_u8(a);
		else if (type == CTA_PROTOINFO_TCP_WSCALE_ORIGINAL || type == CTA_PROTOINFO_TCP_WSCALE_REPLY)
			e->tcp_wscale[is_reply] = mnl_attr_get_u8(a);
		else if (type == CTA_PROTOINFO_TCP_FLAGS_ORIGINAL || type == CTA_PROTOINFO_TCP_FLAGS_REPLY)
			e->tcp_flags[is_reply] = mnl_attr_get_u8(a); /* struct nf_ct_tcp_flags begins with them */
	}
}

static void read_number(const struct nlattr *a, uint32_t *ret)
{
	if (mnl_attr_validate(a, MNL_TYPE_U32) >= 0)
		*ret = ntohl(mnl_attr_get_u32(a));
}

static void read_entry(const struct nlmsghdr *h, struct entry *e)
{
	const struct nlattr *a, *b;

	*e = (struct entry){ 0 };
	mnl_attr_for_each (a, h, sizeof(struct nfgenmsg)) {
		switch (mnl_attr_get_type(a)) {
		case CTA_TUPLE_ORIG:
			read_tuple(a, &e->orig, &e->other_zone);
			break;
		case CTA_TUPLE_REPLY:
			read_tuple(a, &e->reply, &e->other_zone);
			break;
		case CTA_STATUS:
			read_number(a, &e->status);
			break;
		case CTA_TIMEOUT:
			read_number(a, &e->timeout_s);
			break;
		case CTA_MARK:
			read_number(a, &e->mark);
			break;
		case CTA_ZONE:
			e->other_zone = true;
			break;
		case CTA_SEQ_ADJ_ORIG:
		case CTA_SEQ_ADJ_REPLY:
			e->adjusted = true;
			break;
		case CTA_PROTOINFO:
			mnl_attr_for_each_nested (b, a)
				if (mnl_attr_get_type(b) == CTA_PROTOINFO_TCP)
					read_tcp(b, e);
			break;
		default:
			break;
		}
	}
}

static bool address_equal(const struct fm_conntrack_address *a, const struct fm_conntrack_address *b)
{
	return a->family == b->family && memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

static bool address_is_in(const struct fm_conntrack_address *a, const struct fm_conntrack_address *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (address_equal(a, &v[i]))
			return true;
	return false;
}

static bool is_translated(const struct entry *e)
{
	return !address_equal(&e->orig.src, &e->reply.dst) || !address_equal(&e->orig.dst, &e->reply.src) ||
	       e->orig.sport != e->reply.dport || e->orig.dport != e->reply.sport;
}

/* ---- walking ---- */

struct walk {
	const struct fm_conntrack_address *v;
	size_t n;
	const struct fm_conntrack_address *only; /* NULL: any of them */
	bool began, answers;                     /* as which ends are told of this question */
	void (*cb)(const struct entry *e, bool answering, void *userdata);
	void *userdata;
};

static bool is_asked_for(const struct walk *w, const struct fm_conntrack_address *a)
{
	return w->only ? address_equal(a, w->only) : address_is_in(a, w->v, w->n);
}

static int walk_cb(const struct nlmsghdr *h, void *userdata)
{
	const struct walk *w = userdata;
	struct entry e;

	if (h->nlmsg_type != (NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW) || h->nlmsg_len < mnl_nlmsg_size(sizeof(struct nfgenmsg)))
		return MNL_CB_OK;
	read_entry(h, &e);
	/* each entry is told once: one between two of the addresses belongs to the one that began */
	if (address_is_in(&e.orig.src, w->v, w->n)) {
		if (w->began && is_asked_for(w, &e.orig.src))
			w->cb(&e, false, w->userdata);
	} else if (w->answers && is_asked_for(w, &e.reply.src)) {
		w->cb(&e, true, w->userdata);
	}
	return MNL_CB_OK;
}

/* The dump's header, in a message of its own so that libmnl can compose it; a: filter for this address, NULL for all of the family. */
static struct nlmsghdr *walk_question(char *buf, int family, const struct fm_conntrack_address *a, bool answering)
{
	struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
	struct nfgenmsg *g = mnl_nlmsg_put_extra_header(h, sizeof(*g));
	struct nlattr *filter, *tuple, *ip;

	g->nfgen_family = (uint8_t)family;
	g->version = NFNETLINK_V0;
	if (!a)
		return h;
	filter = mnl_attr_nest_start(h, CTA_FILTER);
	mnl_attr_put_u32(h, CTA_FILTER_ORIG_FLAGS, answering ? 0 : FILTER_IP_SRC);
	mnl_attr_put_u32(h, CTA_FILTER_REPLY_FLAGS, answering ? FILTER_IP_SRC : 0);
	mnl_attr_nest_end(h, filter);
	tuple = mnl_attr_nest_start(h, answering ? CTA_TUPLE_REPLY : CTA_TUPLE_ORIG);
	ip = mnl_attr_nest_start(h, CTA_TUPLE_IP);
	mnl_attr_put(h, CTA_IP_V4_SRC, 4, a->bytes);
	mnl_attr_nest_end(h, ip);
	mnl_attr_nest_end(h, tuple);
	return h;
}

static int ask(struct fm_conntrack *ct, struct walk *w, int family, struct fm_error *err)
{
	char buf[ENTRY_BYTES] __attribute__((aligned(8)));
	const struct nlmsghdr *h = walk_question(buf, family, w->only, w->answers);
	int rc = fm_nl_dump(ct->nl, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, mnl_nlmsg_get_payload(h), h->nlmsg_len - NLMSG_HDRLEN,
	                    walk_cb, w, NULL);

	return rc < 0 ? fm_nl_fail(ct->nl, rc, err, "read the connection tracking table") : 0;
}

static int stats_cb(const struct nlmsghdr *h, void *userdata)
{
	const struct nlattr *a;

	mnl_attr_for_each (a, h, sizeof(struct nfgenmsg))
		if (mnl_attr_get_type(a) == CTA_STATS_GLOBAL_ENTRIES)
			read_number(a, userdata);
	return MNL_CB_OK;
}

/* How many entries the table has. -EINVAL, -EOPNOTSUPP: nobody answers for connection tracking. */
static int table_entries(struct fm_nl *nl, uint32_t *ret)
{
	struct nfgenmsg g = { .nfgen_family = AF_UNSPEC, .version = NFNETLINK_V0 };

	*ret = 0;
	return fm_nl_get(nl, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET_STATS, &g, sizeof(g), stats_cb, ret);
}

static int walk_filtered(struct fm_conntrack *ct, struct walk *w, struct fm_error *err)
{
	bool six = false;

	for (size_t i = 0; i < w->n; i++) {
		six |= w->v[i].family == AF_INET6;
		if (w->v[i].family != AF_INET || address_is_in(&w->v[i], w->v, i))
			continue;
		w->only = &w->v[i];
		for (int answering = 0; answering < 2; answering++) {
			w->began = !answering;
			w->answers = answering;
			if (ask(ct, w, AF_INET, err) < 0)
				return -1;
		}
	}
	w->only = NULL;
	w->began = w->answers = true;
	return six ? ask(ct, w, AF_INET6, err) : 0;
}

static int walk(struct fm_conntrack *ct, const struct fm_conntrack_address *v, size_t n,
                void (*cb)(const struct entry *e, bool answering, void *userdata), void *userdata, struct fm_error *err)
{
	struct walk w = { .v = v, .n = n, .began = true, .answers = true, .cb = cb, .userdata = userdata };
	uint32_t entries;

	if (n == 0 || n > FM_MAX_CONNTRACK_ADDRESSES)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "tracked connections of %zu addresses, 1 to %d are possible", n,
		                    FM_MAX_CONNTRACK_ADDRESSES);
	if (!ct->nl)
		return 0;
	return table_entries(ct->nl, &entries) == 0 && entries > FEW_ENTRIES ? walk_filtered(ct, &w, err) : ask(ct, &w, AF_UNSPEC, err);
}

/* ---- the session ---- */

int fm_conntrack_open(struct fm_conntrack **ret, struct fm_error *err)
{
	_fm_conntrack_ struct fm_conntrack *ct = calloc(1, sizeof(*ct));
	struct fm_error why = FM_ERROR_INIT;
	uint32_t entries;
	int rc;

	if (!ct)
		return fm_error_errno(err, ENOMEM, "open the connection tracking table");
	if (fm_nl_open_bus(NETLINK_NETFILTER, 0, &ct->nl, &why) < 0) {
		if (why.sys_errno != EPROTONOSUPPORT) {
			if (err)
				*err = why;
			return -1;
		}
		*ret = FM_TAKE_PTR(ct);
		return 0;
	}
	rc = table_entries(ct->nl, &entries);
	if (rc == -EINVAL || rc == -EOPNOTSUPP) {
		/* nfnetlink is there, nobody answers for connection tracking */
		fm_nl_close(ct->nl);
		ct->nl = NULL;
	} else if (rc < 0) {
		return fm_nl_fail(ct->nl, rc, err, "ask for the connection tracking table");
	}
	*ret = FM_TAKE_PTR(ct);
	return 0;
}

void fm_conntrack_free(struct fm_conntrack *ct)
{
	if (!ct)
		return;
	fm_nl_close(ct->nl);
	free(ct);
}

bool fm_conntrack_is_there(const struct fm_conntrack *ct)
{
	return ct->nl;
}

/* ---- out ---- */

struct dump {
	struct fm_conntrack_flow *v;
	size_t max;
	struct fm_conntrack_dumped what;
};

static bool is_over(const struct entry *e)
{
	return e->timeout_s == 0 || (e->status & IPS_DYING) ||
	       (e->orig.protocol == IPPROTO_TCP && (e->tcp_state < TCP_CONNTRACK_SYN_SENT || e->tcp_state > TCP_CONNTRACK_LAST_ACK));
}

static void dump_cb(const struct entry *e, bool answering, void *userdata)
{
	struct dump *d = userdata;
	const struct tuple *own = answering ? &e->reply : &e->orig;
	struct fm_conntrack_flow f = { .protocol = own->protocol,
		                       .seen_reply = e->status & IPS_SEEN_REPLY,
		                       .assured = (e->status & IPS_ASSURED) && (e->status & IPS_SEEN_REPLY),
		                       .tcp_state = e->tcp_state,
		                       .timeout_s = e->timeout_s < FM_MAX_CONNTRACK_TIMEOUT_S ? e->timeout_s : FM_MAX_CONNTRACK_TIMEOUT_S,
		                       .mark = e->mark };

	/* the container's own view: what it sends, seen from the one who began */
	f.address[answering] = own->src;
	f.address[!answering] = own->dst;
	f.port[answering] = own->sport;
	f.port[!answering] = own->dport;
	if (own->protocol != IPPROTO_TCP && own->protocol != IPPROTO_UDP) {
		d->what.skipped++;
		return;
	}
	if (is_over(e))
		return;
	if (e->other_zone || e->adjusted || !f.port[0] || !f.port[1] || f.address[0].family != f.address[1].family) {
		d->what.skipped++;
		return;
	}
	if (d->what.flows == d->max) {
		d->what.over++;
		return;
	}
	for (int i = 0; i < 2; i++) {
		f.tcp_flags[i] = e->tcp_flags[i] & TCP_FLAGS;
		if ((f.tcp_flags[i] & IP_CT_TCP_FLAG_WINDOW_SCALE))
			f.tcp_wscale[i] = e->tcp_wscale[i] < WSCALE_MAX ? e->tcp_wscale[i] : WSCALE_MAX;
	}
	d->what.translated += is_translated(e);
	d->v[d->what.flows++] = f;
}

int fm_conntrack_dump(struct fm_conntrack *ct, const struct fm_conntrack_address *v, size_t n, size_t max, uint8_t **ret, size_t *ret_len,
                      struct fm_conntrack_dumped *ret_what, struct fm_error *err)
{
	struct dump d = { .max = max < FM_MAX_CONNTRACK ? max : FM_MAX_CONNTRACK };
	_fm_free_ struct fm_conntrack_flow *flows = calloc(d.max ? d.max : 1, sizeof(*flows));

	if (!flows)
		return fm_error_errno(err, ENOMEM, "read the connection tracking table");
	d.v = flows;
	if (walk(ct, v, n, dump_cb, &d, err) < 0 ||
	    fm_conntrack_encode(flows, d.what.flows, (uint32_t)(d.what.over + d.what.skipped), ret, ret_len, err) < 0)
		return -1;
	*ret_what = d.what;
	return 0;
}

struct fm_conntrack_dumping {
	pthread_t thread;
	struct fm_conntrack *ct;
	struct fm_conntrack_address v[FM_MAX_CONNTRACK_ADDRESSES];
	size_t n, max, len;
	uint8_t *bytes;
	struct fm_conntrack_dumped what;
	struct fm_error err;
	int rc;
};

static void *dump_thread(void *arg)
{
	struct fm_conntrack_dumping *d = arg;

	d->rc = fm_conntrack_dump(d->ct, d->v, d->n, d->max, &d->bytes, &d->len, &d->what, &d->err);
	return NULL;
}

int fm_conntrack_dump_begin(struct fm_conntrack *ct, const struct fm_conntrack_address *v, size_t n, size_t max,
                            struct fm_conntrack_dumping **ret, struct fm_error *err)
{
	_fm_free_ struct fm_conntrack_dumping *d = calloc(1, sizeof(*d));
	int rc;

	if (!d)
		return fm_error_errno(err, ENOMEM, "read the connection tracking table");
	if (n == 0 || n > FM_MAX_CONNTRACK_ADDRESSES)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "tracked connections of %zu addresses, 1 to %d are possible", n,
		                    FM_MAX_CONNTRACK_ADDRESSES);
	d->ct = ct;
	memcpy(d->v, v, n * sizeof(*v));
	d->n = n;
	d->max = max;
	rc = pthread_create(&d->thread, NULL, dump_thread, d);
	if (rc != 0)
		return fm_error_errno(err, rc, "start a thread that reads the connection tracking table");
	*ret = FM_TAKE_PTR(d);
	return 0;
}

int fm_conntrack_dump_end(struct fm_conntrack_dumping *d, uint8_t **ret, size_t *ret_len, struct fm_conntrack_dumped *ret_what,
                          struct fm_error *err)
{
	int rc;

	(void)pthread_join(d->thread, NULL);
	rc = d->rc;
	if (rc == 0) {
		*ret = d->bytes;
		*ret_len = d->len;
		*ret_what = d->what;
	} else if (err) {
		*err = d->err;
	}
	free(d);
	return rc;
}

/* ---- in ---- */

static void put_tuple(struct nlmsghdr *h, int type, const struct tuple *t)
{
	struct nlattr *tuple = mnl_attr_nest_start(h, (uint16_t)type), *part;
	bool four = t->src.family == AF_INET;

	part = mnl_attr_nest_start(h, CTA_TUPLE_IP);
	mnl_attr_put(h, four ? CTA_IP_V4_SRC : CTA_IP_V6_SRC, four ? 4 : 16, t->src.bytes);
	mnl_attr_put(h, four ? CTA_IP_V4_DST : CTA_IP_V6_DST, four ? 4 : 16, t->dst.bytes);
	mnl_attr_nest_end(h, part);
	part = mnl_attr_nest_start(h, CTA_TUPLE_PROTO);
	mnl_attr_put_u8(h, CTA_PROTO_NUM, t->protocol);
	mnl_attr_put_u16(h, CTA_PROTO_SRC_PORT, htons(t->sport));
	mnl_attr_put_u16(h, CTA_PROTO_DST_PORT, htons(t->dport));
	mnl_attr_nest_end(h, part);
	mnl_attr_nest_end(h, tuple);
}

static struct nlmsghdr *begin(struct fm_conntrack *ct, int type, uint16_t flags, int family)
{
	struct nlmsghdr *h = fm_nl_begin(ct->nl, (uint16_t)(NFNL_SUBSYS_CTNETLINK << 8 | type), flags, ENTRY_BYTES);
	struct nfgenmsg *g;

	if (!h)
		return NULL;
	g = mnl_nlmsg_put_extra_header(h, sizeof(*g));
	g->nfgen_family = (uint8_t)family;
	g->version = NFNETLINK_V0;
	return h;
}

static struct tuple tuple_of(const struct fm_conntrack_flow *f, int from)
{
	return (struct tuple){
		.src = f->address[from], .dst = f->address[!from], .sport = f->port[from], .dport = f->port[!from], .protocol = f->protocol
	};
}

static bool queue_delete(struct fm_conntrack *ct, const struct tuple *orig)
{
	struct nlmsghdr *h = begin(ct, IPCTNL_MSG_CT_DELETE, 0, orig->src.family);

	if (h)
		put_tuple(h, CTA_TUPLE_ORIG, orig);
	return h;
}

static bool queue_create(struct fm_conntrack *ct, const struct fm_conntrack_flow *f)
{
	struct nlmsghdr *h = begin(ct, IPCTNL_MSG_CT_NEW, NLM_F_CREATE | NLM_F_EXCL, f->address[0].family);
	struct tuple orig = tuple_of(f, 0), reply = tuple_of(f, 1);
	struct nlattr *info, *tcp;

	if (!h)
		return false;
	put_tuple(h, CTA_TUPLE_ORIG, &orig);
	put_tuple(h, CTA_TUPLE_REPLY, &reply);
	mnl_attr_put_u32(h, CTA_STATUS, htonl(IPS_CONFIRMED | (f->seen_reply ? IPS_SEEN_REPLY : 0u) | (f->assured ? IPS_ASSURED : 0u)));
	mnl_attr_put_u32(h, CTA_TIMEOUT, htonl(f->timeout_s));
	if (f->mark)
		mnl_attr_put_u32(h, CTA_MARK, htonl(f->mark));
	if (f->protocol != IPPROTO_TCP)
		return true;
	info = mnl_attr_nest_start(h, CTA_PROTOINFO);
	tcp = mnl_attr_nest_start(h, CTA_PROTOINFO_TCP);
	mnl_attr_put_u8(h, CTA_PROTOINFO_TCP_STATE, f->tcp_state);
	mnl_attr_put_u8(h, CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, f->tcp_wscale[0]);
	mnl_attr_put_u8(h, CTA_PROTOINFO_TCP_WSCALE_REPLY, f->tcp_wscale[1]);
	for (int i = 0; i < 2; i++) {
		struct nf_ct_tcp_flags flags = { .flags = f->tcp_flags[i] | IP_CT_TCP_FLAG_BE_LIBERAL,
			                         .mask = TCP_FLAGS | IP_CT_TCP_FLAG_BE_LIBERAL };

		mnl_attr_put(h, i ? CTA_PROTOINFO_TCP_FLAGS_REPLY : CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, sizeof(flags), &flags);
	}
	mnl_attr_nest_end(h, tcp);
	mnl_attr_nest_end(h, info);
	return true;
}

/* 0 when each of the `n` requests has been answered, whatever the answers are. */
static int flush(struct fm_conntrack *ct, int verdicts[FM_NL_BATCH_MAX], size_t n, struct fm_error *err)
{
	int rc;

	for (size_t i = 0; i < n; i++)
		verdicts[i] = 1;
	rc = fm_nl_flush_each(ct->nl, verdicts);
	for (size_t i = 0; i < n; i++)
		if (verdicts[i] == 1)
			return fm_nl_fail(ct->nl, rc < 0 ? rc : -EBADMSG, err, "write to the connection tracking table");
	return 0;
}

struct restore {
	struct fm_conntrack *ct;
	const struct fm_conntrack_flow *v;
	uint16_t *again; /* entries whose place was taken */
	size_t n_again;
	struct fm_conntrack_restored what;
};

static int restore_first(struct restore *r, size_t n, struct fm_error *err)
{
	int verdicts[FM_NL_BATCH_MAX];

	for (size_t i = 0, sent = 0; i < n; sent = i) {
		while (i < n && queue_create(r->ct, &r->v[i]))
			i++;
		if (flush(r->ct, verdicts, i - sent, err) < 0)
			return -1;
		for (size_t k = sent; k < i; k++) {
			int rc = verdicts[k - sent];

			r->what.inserted += rc == 0;
			r->what.refused += rc != 0 && rc != -EEXIST;
			if (rc == -EEXIST)
				r->again[r->n_again++] = (uint16_t)k;
		}
	}
	return 0;
}

/* An entry of the same flow is older than what we were given: the container was here before, or this is a repetition. Nothing passes the closed endpoint between the two steps. */
static int restore_again(struct restore *r, struct fm_error *err)
{
	int verdicts[FM_NL_BATCH_MAX];

	for (size_t i = 0, sent = 0; i < r->n_again; sent = i) {
		for (; i < r->n_again && r->ct->nl->out_len + (size_t)(2 * ENTRY_BYTES) <= FM_NL_BATCH_BYTES; i++) {
			const struct fm_conntrack_flow *f = &r->v[r->again[i]];
			struct tuple orig = tuple_of(f, 0);

			if (!queue_delete(r->ct, &orig) || !queue_create(r->ct, f))
				return fm_error_set(err, FM_E_INTERNAL, "a batch of netlink requests is too small for two");
		}
		if (flush(r->ct, verdicts, 2 * (i - sent), err) < 0)
			return -1;
		for (size_t k = 0; k < i - sent; k++) {
			int rc = verdicts[2 * k + 1];

			r->what.inserted += rc == 0;
			r->what.replaced += rc == 0;
			r->what.clashed += rc == -EEXIST;
			r->what.refused += rc != 0 && rc != -EEXIST;
		}
	}
	return 0;
}

int fm_conntrack_restore(struct fm_conntrack *ct, const uint8_t *bytes, size_t len, const struct fm_conntrack_address *v, size_t n,
                         struct fm_conntrack_restored *ret, struct fm_error *err)
{
	_fm_free_ struct fm_conntrack_flow *flows = NULL;
	_fm_free_ uint16_t *again = NULL;
	struct restore r = { .ct = ct };
	uint32_t left_out;
	size_t n_flows;

	if (fm_conntrack_decode(bytes, len, &flows, &n_flows, &left_out, err) < 0)
		return -1;
	for (size_t i = 0; i < n_flows; i++)
		if (!address_is_in(&flows[i].address[0], v, n) && !address_is_in(&flows[i].address[1], v, n))
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "tracked connection %zu is not one of the container's", i);
	again = calloc(n_flows ? n_flows : 1, sizeof(*again));
	if (!again)
		return fm_error_errno(err, ENOMEM, "restore %zu tracked connections", n_flows);
	r.v = flows;
	r.again = again;
	r.what.left_out = left_out;
	if (!ct->nl)
		r.what.refused = n_flows;
	else if (restore_first(&r, n_flows, err) < 0 || restore_again(&r, err) < 0)
		return -1;
	*ret = r.what;
	return 0;
}

/* ---- what lives, and what has gone ---- */

static void count_one(struct fm_conntrack_live *live, const struct entry *e)
{
	bool tcp = e->orig.protocol == IPPROTO_TCP && e->tcp_state >= TCP_CONNTRACK_SYN_RECV && e->tcp_state <= TCP_CONNTRACK_CLOSE_WAIT;
	bool udp = e->orig.protocol == IPPROTO_UDP;

	if (is_over(e) || (!tcp && !udp))
		return;
	live->tcp += tcp;
	live->udp += udp;
	live->translated += is_translated(e);
}

static void count_cb(const struct entry *e, bool answering, void *userdata)
{
	count_one(userdata, e);
}

int fm_conntrack_count(struct fm_conntrack *ct, const struct fm_conntrack_address *v, size_t n, struct fm_conntrack_live *ret,
                       struct fm_error *err)
{
	struct fm_conntrack_live live = { 0 };

	if (walk(ct, v, n, count_cb, &live, err) < 0)
		return -1;
	*ret = live;
	return 0;
}

struct counted {
	struct fm_conntrack_address address;
	struct fm_conntrack_live live;
};

struct count_each {
	struct counted *v; /* sorted, none twice */
	size_t n;
};

static int compare_address(const void *a, const void *b)
{
	const struct fm_conntrack_address *x = a, *y = b;

	return x->family != y->family ? x->family - y->family : memcmp(x->bytes, y->bytes, sizeof(x->bytes));
}

static struct counted *find_counted(const struct count_each *c, const struct fm_conntrack_address *a)
{
	return bsearch(a, c->v, c->n, sizeof(*c->v), compare_address);
}

static int count_each_cb(const struct nlmsghdr *h, void *userdata)
{
	const struct count_each *c = userdata;
	struct counted *began, *answers;
	struct entry e;

	if (h->nlmsg_type != (NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW) || h->nlmsg_len < mnl_nlmsg_size(sizeof(struct nfgenmsg)))
		return MNL_CB_OK;
	read_entry(h, &e);
	began = find_counted(c, &e.orig.src);
	answers = find_counted(c, &e.reply.src);
	if (began)
		count_one(&began->live, &e);
	if (answers && answers != began)
		count_one(&answers->live, &e);
	return MNL_CB_OK;
}

int fm_conntrack_count_each(struct fm_conntrack *ct, const struct fm_conntrack_address *v, size_t n, struct fm_conntrack_live *ret,
                            struct fm_error *err)
{
	struct nfgenmsg all = { .nfgen_family = AF_UNSPEC, .version = NFNETLINK_V0 };
	_fm_free_ struct counted *list = calloc(n ? n : 1, sizeof(*list));
	struct count_each c = { .v = list };
	int rc;

	if (!list)
		return fm_error_errno(err, ENOMEM, "count the flows of %zu addresses", n);
	for (size_t i = 0; i < n; i++)
		list[i].address = v[i];
	qsort(list, n, sizeof(*list), compare_address);
	for (size_t i = 0; i < n; i++)
		if (c.n == 0 || compare_address(&list[c.n - 1], &list[i]) != 0)
			list[c.n++] = list[i];
	rc = ct->nl && n ? fm_nl_dump(ct->nl, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, &all, sizeof(all), count_each_cb, &c, NULL)
	                 : 0;
	if (rc < 0)
		return fm_nl_fail(ct->nl, rc, err, "read the connection tracking table");
	for (size_t i = 0; i < n; i++) {
		const struct counted *found = find_counted(&c, &v[i]);

		ret[i] = found ? found->live : (struct fm_conntrack_live){ 0 };
	}
	return 0;
}

struct forget {
	struct tuple *v; /* FM_MAX_CONNTRACK */
	size_t n;
	bool more, translated;
	const struct fm_conntrack_address *keep;
	size_t n_keep;
};

/* Only an address of this host can be bound to. */
static bool address_is_local(const struct fm_conntrack_address *a)
{
	_fm_close_ int fd = socket(a->family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in four = { .sin_family = AF_INET };
	struct sockaddr_in6 six = { .sin6_family = AF_INET6 };

	memcpy(&four.sin_addr, a->bytes, sizeof(four.sin_addr));
	memcpy(&six.sin6_addr, a->bytes, sizeof(six.sin6_addr));
	return fd >= 0 && (a->family == AF_INET ? bind(fd, (struct sockaddr *)&four, sizeof(four)) == 0
	                                        : bind(fd, (struct sockaddr *)&six, sizeof(six)) == 0);
}

static void forget_cb(const struct entry *e, bool answering, void *userdata)
{
	struct forget *f = userdata;
	const struct tuple *own = answering ? &e->reply : &e->orig;

	if (own->protocol != IPPROTO_TCP && own->protocol != IPPROTO_UDP)
		return;
	if (e->other_zone || (is_translated(e) && !f->translated) || address_is_in(&own->dst, f->keep, f->n_keep) ||
	    address_is_local(&own->dst))
		return;
	if (f->n == FM_MAX_CONNTRACK)
		f->more = true;
	else
		f->v[f->n++] = e->orig;
}

static int forget_listed(struct fm_conntrack *ct, const struct forget *f, size_t *deleted, struct fm_error *err)
{
	int verdicts[FM_NL_BATCH_MAX];

	for (size_t i = 0, sent = 0; i < f->n; sent = i) {
		while (i < f->n && queue_delete(ct, &f->v[i]))
			i++;
		if (flush(ct, verdicts, i - sent, err) < 0)
			return -1;
		for (size_t k = 0; k < i - sent; k++)
			*deleted += verdicts[k] == 0;
	}
	return 0;
}

int fm_conntrack_forget(struct fm_conntrack *ct, const struct fm_conntrack_address *v, size_t n, const struct fm_conntrack_address *keep,
                        size_t n_keep, bool translated, size_t *ret_deleted, struct fm_error *err)
{
	_fm_free_ struct tuple *list = calloc(FM_MAX_CONNTRACK, sizeof(*list));
	size_t deleted = 0;

	if (!list)
		return fm_error_errno(err, ENOMEM, "read the connection tracking table");
	for (int round = 0; round < FORGET_ROUNDS; round++) {
		struct forget f = { .v = list, .translated = translated, .keep = keep, .n_keep = n_keep };

		if (walk(ct, v, n, forget_cb, &f, err) < 0 || forget_listed(ct, &f, &deleted, err) < 0)
			return -1;
		if (!f.more)
			break;
	}
	if (ret_deleted)
		*ret_deleted = deleted;
	return 0;
}
