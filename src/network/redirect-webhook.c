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
#include "loop/http.h"
#include "network/redirect-secret.h"

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

static const char *const event_names[N_EVENTS + 1] = { "prepare", "open", "flip", "verify", "revert", NULL };

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

static int read_event(void *userdata, size_t i, const json_t *v, const struct fm_place *at, struct fm_error *err)
{
	static const struct fm_field how = { .type = FM_FIELD_WORD, .words = event_names };
	struct job *j = userdata;
	unsigned e = 0;

	if (fm_field_read(v, at, &how, &e, err) < 0)
		return -1;
	if (j->wants[e])
		return fm_field_wrong(at, NULL, "is there twice", err);
	j->wants[e] = true;
	return 0;
}

static int read_events(const json_t *list, const struct fm_place *at, struct job *j, struct fm_error *err)
{
	if (!list)
		j->wants[FLIP] = j->wants[REVERT] = true;
	return fm_fields_each(list, at, "events", read_event, j, err);
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

static int read_headers(const json_t *headers, const struct fm_place *at, struct job *j, struct fm_error *err)
{
	static const struct fm_field how = { .max = HEADER_VALUE_MAX };
	const char *name, *text = NULL;
	json_t *value;

	json_object_foreach((json_t *)headers, name, value)
	{
		struct fm_place one = fm_place_member(at, "headers");

		if (!is_header_name(name))
			return fm_field_wrong(&one, NULL, "has a name that is none, or is not yours to set", err);
		one = fm_place_member(&one, name);
		if (fm_field_read(value, &one, &how, &text, err) < 0)
			return -1;
		j->headers[j->n_headers++] = fm_xasprintf("%s: %s", name, text);
	}
	return 0;
}

struct words {
	const char *url, *secret_file, *ca_file;
	const json_t *events, *headers, *about;
	bool required;
};

static int read_words(const json_t *a, const struct fm_place *at, struct words *ret, struct fm_error *err)
{
	static const struct fm_field fields[] = {
		FM_FIELD_DRIVER,
		{ FM_FIELD(struct words, url), .max = FM_MAX_HTTP_URL_BYTES, .required = true },
		{ FM_FIELD(struct words, events), .type = FM_FIELD_LIST, .min = 1, .max = N_EVENTS },
		{ FM_FIELD(struct words, headers), .type = FM_FIELD_OBJECT, .max = HEADERS_MAX },
		{ FM_FIELD(struct words, secret_file), .max = FM_MAX_NAME },
		{ FM_FIELD(struct words, ca_file), .max = FM_MAX_NAME },
		{ FM_FIELD(struct words, required), .type = FM_FIELD_BOOL },
		{ FM_FIELD(struct words, about), .type = FM_FIELD_OBJECT },
		{ 0 },
	};

	if (fm_fields_read(a, at, fields, ret, err) < 0)
		return -1;
	if (fm_http_url_check(ret->url, err) < 0)
		return fm_field_error(at, "url", err);
	if (ret->about && json_dumpb(ret->about, NULL, 0, JSON_COMPACT) > ABOUT_BYTES_MAX)
		return fm_field_wrong(at, "about", "has more than 4096 bytes", err);
	return 0;
}

static int read_action(const struct fm_redirect_call *c, const json_t *a, struct job *j, struct fm_error *err)
{
	const struct fm_place at = { .who = ME };
	struct words w = { .required = true };

	if (read_words(a, &at, &w, err) < 0 || read_events(w.events, &at, j, err) < 0 || read_headers(w.headers, &at, j, err) < 0 ||
	    fm_redirect_secret_path(c, w.ca_file, &at, "ca_file", &j->ca_file, err) < 0)
		return -1;
	j->call = c;
	j->url = w.url;
	j->about = w.about;
	j->required = w.required;
	return fm_redirect_secret(c, w.secret_file, &at, "secret_file", SECRET_BYTES_MIN, j->secret, sizeof(j->secret), &j->secret_len,
	                          err);
}

static bool is_id(const char *text)
{
	return strlen(text) == FM_TOKEN_LEN && strspn(text, "0123456789abcdef") == FM_TOKEN_LEN;
}

static int read_undo(const json_t *undo, const char **ret_id, struct fm_error *err)
{
	static const struct fm_field fields[] = {
		{ .name = "id", .check = is_id, .what = "is not 32 hexadecimal digits", .required = true }, { 0 }
	};
	const struct fm_place at = { .who = ME ": undo", .code = FM_E_DATA_LOSS };

	return fm_fields_read(undo, &at, fields, ret_id, err);
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
	_fm_cleanup_(job_done) struct job j = { 0 };
	const char *id = NULL;

	return read_action(c, action, &j, err) < 0 || read_undo(undo, &id, err) < 0 ? -1 : tell(&j, e, id, err);
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
