/* SPDX-License-Identifier: MIT */
/*
 * redirect-webhook.c - driver "webhook": somebody's own program is told, and does what has to be done. Run by the manager.
 *
 *   {"driver":"webhook","url":"https://hooks.example.org/moves","events":["flip","revert"],"headers":{"X-Team":"shop"},"secret_file":"hook.secret","ca_file":"hook.pem","required":true,
 *    "about":{"migration":"m-3f9a61c2b07d","container":"redis","source":"a","destination":"b"}}
 *
 * Each event is one POST of {"version":1,"event":"flip","delivery":"…","time":"2026-11-26T18:12:00.000Z","about":{…}}. 2xx is done, anything else an error, as a redirect to another place is: a signed message
 * goes where it was meant to go. With "secret_file" the header X-FlexiMigrate-Signature has "sha256=" and the HMAC-SHA256 of the body in hexadecimal digits.
 *
 * A step may come twice, so an event may, too, with the same delivery id: made of the undo's random number, which is one migration's, and the event. (The receiver has to take "revert" also when there was no
 * "flip": who died in between does not know.) "prepare" is asked before there is an undo, has an id that never comes again, and is how a receiver can refuse a move.
 *
 * "required": false: what the receiver says, and whether there is one, is no error; it is waited for OPTIONAL_MS at most.
 */
#include <ctype.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>
#include <strings.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/id.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "network/http.h"
#include "network/redirect-members.h"

#define ME                 "webhook"
#define HEADERS_MAX        8
#define HEADER_NAME_MAX    64
#define HEADER_VALUE_MAX   1024
#define OUR_HEADERS        4 /* with the NULL at the end */
#define ABOUT_BYTES_MAX    4096
#define RESPONSE_BYTES_MAX (64u << 10)
#define OPTIONAL_MS        2000
#define SECRET_BYTES_MIN   16
#define SECRET_BYTES_MAX   1024
#define SIGNATURE_BYTES    32

enum event { PREPARE, OPEN, FLIP, VERIFY, REVERT, N_EVENTS };

static const char *const event_names[N_EVENTS] = { "prepare", "open", "flip", "verify", "revert" };

struct job {
	const struct fm_redirect_call *call;
	const char *url;
	const json_t *about; /* NULL: nothing */
	char *headers[HEADERS_MAX + OUR_HEADERS];
	size_t n_headers;
	bool wants[N_EVENTS], required;
	char *ca_file;
	char secret[SECRET_BYTES_MAX];
	size_t secret_len; /* 0: not signed */
};

static void job_done(struct job *j)
{
	for (size_t i = 0; i < j->n_headers; i++)
		free(j->headers[i]);
	free(j->ca_file);
	explicit_bzero(j->secret, sizeof(j->secret));
}

static int no_memory(struct fm_error *err)
{
	return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "%s: no memory", ME);
}

/* ---- reading ---- */

static int read_events(const json_t *a, struct job *j, struct fm_error *err)
{
	const json_t *list = json_object_get(a, "events");

	if (!list) {
		j->wants[FLIP] = j->wants[REVERT] = true;
		return 0;
	}
	if (!json_is_array(list) || json_array_size(list) == 0 || json_array_size(list) > N_EVENTS)
		return fm_member_wrong(ME, "events", "is not a list of 1 to 5 of them", err);
	for (size_t i = 0; i < json_array_size(list); i++) {
		const char *name = json_string_value(json_array_get(list, i));
		size_t e = 0;

		while (e < N_EVENTS && !fm_streq(name, event_names[e]))
			e++;
		if (e == N_EVENTS || j->wants[e])
			return fm_member_wrong(ME, "events", "has something else than prepare, open, flip, verify and revert, or one twice",
			                       err);
		j->wants[e] = true;
	}
	return 0;
}

/* What is ours or the protocol's to say. */
static bool is_reserved(const char *name)
{
	static const char *const reserved[] = { "connection", "content-length", "content-type",      "expect", "host",
		                                "te",         "trailer",        "transfer-encoding", "upgrade" };

	for (size_t i = 0; i < FM_ARRAY_SIZE(reserved); i++)
		if (strcasecmp(name, reserved[i]) == 0)
			return true;
	return strncasecmp(name, "x-fleximigrate-", strlen("x-fleximigrate-")) == 0;
}

static bool is_header_name(const char *name)
{
	size_t n = strlen(name);

	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)name[i]) && !strchr("-_", name[i]))
			return false;
	return n > 0 && n <= HEADER_NAME_MAX && !is_reserved(name);
}

static int read_headers(const json_t *a, struct job *j, struct fm_error *err)
{
	json_t *o = json_object_get(a, "headers"), *value;
	const char *name, *text = NULL;

	if (o && (!json_is_object(o) || json_object_size(o) > HEADERS_MAX))
		return fm_member_wrong(ME, "headers", "is not an object with at most 8 of them", err);
	json_object_foreach(o, name, value)
	{
		if (!is_header_name(name))
			return fm_member_wrong(ME, "headers", "has a name that is none, or is not yours to set", err);
		if (fm_member_text(o, ME, name, true, HEADER_VALUE_MAX, &text, err) < 0)
			return fm_error_prefix(err, "headers");
		j->headers[j->n_headers++] = fm_xasprintf("%s: %s", name, text);
	}
	return 0;
}

static int read_about(const json_t *a, struct job *j, struct fm_error *err)
{
	j->about = json_object_get(a, "about");
	if (!j->about)
		return 0;
	if (!json_is_object(j->about))
		return fm_member_wrong(ME, "about", "is not an object", err);
	if (json_dumpb(j->about, NULL, 0, JSON_COMPACT) > ABOUT_BYTES_MAX)
		return fm_member_wrong(ME, "about", "has more than 4096 bytes", err);
	return 0;
}

static int read_action(const struct fm_redirect_call *c, const json_t *a, struct job *j, struct fm_error *err)
{
	static const char *const known[] = { "driver", "url", "events", "headers", "secret_file", "ca_file", "required", "about", NULL };

	j->call = c;
	j->required = true;
	if (fm_members_check(a, ME, known, err) < 0 || fm_member_text(a, ME, "url", true, FM_MAX_HTTP_URL_BYTES, &j->url, err) < 0 ||
	    read_events(a, j, err) < 0 || read_headers(a, j, err) < 0 || fm_member_bool(a, ME, "required", &j->required, err) < 0 ||
	    read_about(a, j, err) < 0)
		return -1;
	if (fm_http_url_check(j->url, err) < 0)
		return fm_error_prefix(err, "%s: url", ME);
	if (fm_member_secret_path(c, a, ME, "ca_file", false, &j->ca_file, err) < 0)
		return -1;
	return fm_member_secret(c, a, ME, "secret_file", SECRET_BYTES_MIN, j->secret, sizeof(j->secret), &j->secret_len, err);
}

/* ---- one event ---- */

static int sign(const struct job *j, const char *body, char **ret, struct fm_error *err)
{
	unsigned char mac[EVP_MAX_MD_SIZE];
	unsigned n = 0;
	char hex[2 * SIGNATURE_BYTES + 1];

	if (!HMAC(EVP_sha256(), j->secret, (int)j->secret_len, (const unsigned char *)body, strlen(body), mac, &n) || n != SIGNATURE_BYTES)
		return fm_error_set(err, FM_E_INTERNAL, "%s: the message cannot be signed", ME);
	for (unsigned i = 0; i < n; i++)
		(void)snprintf(hex + 2 * i, 3, "%02x", mac[i]);
	*ret = fm_xasprintf("X-FlexiMigrate-Signature: sha256=%s", hex);
	return 0;
}

static char *body_of(const struct job *j, enum event e, const char *delivery)
{
	_fm_cleanup_(json_decrefp) json_t *nothing = json_object(), *o = NULL;
	char now[32];

	o = json_pack("{s:i, s:s, s:s, s:s, s:O}", "version", 1, "event", event_names[e], "delivery", delivery, "time",
	              fm_format_time(fm_realtime_ms(), now, sizeof(now)), "about", j->about ? j->about : nothing);
	return o ? json_dumps(o, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
}

static int post(struct job *j, enum event e, const char *id, struct fm_error *err)
{
	char delivery[FM_TOKEN_LEN + 16];
	_fm_free_ char *body = NULL;
	_fm_http_response_ struct fm_http_response answer = { 0 };
	uint64_t optional_ms = fm_now_ms() + OPTIONAL_MS;
	struct fm_http_request r = { .method = "POST",
		                     .url = j->url,
		                     .headers = (const char *const *)j->headers,
		                     .ca_file = j->ca_file,
		                     .deadline_ms = j->call->deadline_ms,
		                     .cancel_fd = j->call->cancel_fd,
		                     .max_response_bytes = RESPONSE_BYTES_MAX };

	(void)snprintf(delivery, sizeof(delivery), "%s-%s", id, event_names[e]);
	body = body_of(j, e, delivery);
	if (!body)
		return no_memory(err);
	j->headers[j->n_headers++] = fm_xasprintf("X-FlexiMigrate-Event: %s", event_names[e]);
	j->headers[j->n_headers++] = fm_xasprintf("X-FlexiMigrate-Delivery: %s", delivery);
	if (j->secret_len > 0 && sign(j, body, &j->headers[j->n_headers], err) < 0)
		return -1;
	j->n_headers += j->secret_len > 0;
	r.body = body;
	r.body_len = strlen(body);
	if (!j->required && optional_ms < r.deadline_ms)
		r.deadline_ms = optional_ms;
	return fm_http_call(&r, &answer, err) < 0 ? -1 : fm_http_expect_ok(&r, &answer, err);
}

static int tell(struct job *j, enum event e, const char *id, struct fm_error *err)
{
	struct fm_error why = FM_ERROR_INIT;

	if (!j->wants[e] || post(j, e, id, &why) == 0 || (!j->required && why.code != FM_E_CANCELLED))
		return 0;
	if (err)
		*err = why;
	return fm_error_prefix(err, "%s: %s", ME, event_names[e]);
}

/* ---- the steps ---- */

static int prepare(const struct fm_redirect_call *c, const json_t *action, json_t **ret_undo, struct fm_error *err)
{
	_fm_cleanup_(job_done) struct job j = { 0 };
	_fm_cleanup_(json_decrefp) json_t *undo = NULL;
	char id[FM_TOKEN_LEN + 1];

	fm_token_new(id);
	undo = json_pack("{s:s}", "id", id);
	if (!undo)
		return no_memory(err);
	if (read_action(c, action, &j, err) < 0 || tell(&j, PREPARE, id, err) < 0)
		return -1;
	*ret_undo = FM_TAKE_PTR(undo);
	return 0;
}

static int step(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, enum event e, struct fm_error *err)
{
	static const char *const known[] = { "id", NULL };
	_fm_cleanup_(job_done) struct job j = { 0 };
	const char *id = NULL;

	if (read_action(c, action, &j, err) < 0)
		return -1;
	if (fm_members_check(undo, ME, known, err) < 0 || fm_member_text(undo, ME, "id", true, FM_TOKEN_LEN, &id, err) < 0)
		return fm_members_undo_error(ME, err);
	if (strspn(id, "0123456789abcdef") != FM_TOKEN_LEN) {
		(void)fm_member_wrong(ME, "id", "is not 32 hexadecimal digits", err);
		return fm_members_undo_error(ME, err);
	}
	return tell(&j, e, id, err);
}

static int do_open(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	return step(c, action, undo, OPEN, err);
}

static int flip(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	return step(c, action, undo, FLIP, err);
}

static int verify(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	return step(c, action, undo, VERIFY, err);
}

static int revert(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	return step(c, action, undo, REVERT, err);
}

const struct fm_redirect_ops fm_redirect_webhook = {
	.name = ME,
	.title = "a program of your own, by HTTP",
	.prepare = prepare,
	.open = do_open,
	.flip = flip,
	.verify = verify,
	.revert = revert,
};
