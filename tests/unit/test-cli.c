/* SPDX-License-Identifier: MIT */
/* test-cli.c - what the verbs share: exit codes, errors, JSON of every message of the contract, tables, finding the verb. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "cli/cli.h"
#include "cli/verbs.h"

/* ---------------------------------------------------------------- what is printed */

struct capture {
	int saved, fd, which;
};

static struct capture capture_begin(int which)
{
	char path[] = "/tmp/fm-test-cli-XXXXXX";
	struct capture c = { .which = which };
	(void)fflush(stdout);
	(void)fflush(stderr);
	c.fd = mkstemp(path);
	(void)unlink(path);
	c.saved = dup(which);
	assert_true(c.fd >= 0 && c.saved >= 0);
	(void)dup2(c.fd, which);
	return c;
}

static char *capture_end(struct capture *c)
{
	char *text = calloc(1, 65536);
	(void)fflush(stdout);
	(void)fflush(stderr);
	(void)dup2(c->saved, c->which);
	assert_true(pread(c->fd, text, 65535, 0) >= 0);
	(void)close(c->saved);
	(void)close(c->fd);
	return text;
}

/* ---------------------------------------------------------------- exit codes */

static void test_exit_codes(void **state)
{
	/* the table of cli.h */
	static const int want[_FM_CODE_MAX] = {
		[FM_OK] = 0,
		[FM_E_CANCELLED] = 130,
		[FM_E_UNKNOWN] = 1,
		[FM_E_INVALID_ARGUMENT] = 2,
		[FM_E_DEADLINE_EXCEEDED] = 7,
		[FM_E_NOT_FOUND] = 3,
		[FM_E_ALREADY_EXISTS] = 5,
		[FM_E_PERMISSION_DENIED] = 6,
		[FM_E_RESOURCE_EXHAUSTED] = 7,
		[FM_E_FAILED_PRECONDITION] = 5,
		[FM_E_ABORTED] = 5,
		[FM_E_OUT_OF_RANGE] = 2,
		[FM_E_UNIMPLEMENTED] = 5,
		[FM_E_INTERNAL] = 1,
		[FM_E_UNAVAILABLE] = 4,
		[FM_E_DATA_LOSS] = 1,
		[FM_E_UNAUTHENTICATED] = 6,
	};
	for (int c = 0; c < _FM_CODE_MAX; c++)
		assert_int_equal(fm_exit_code((enum fm_code)c), want[c]);
	assert_int_equal(fm_exit_code((enum fm_code)99), 1);
}

static void test_fail(void **state)
{
	struct fm_client_options o = { 0 };
	struct fm_error e = FM_ERROR_INIT;
	(void)fm_error_set(&e, FM_E_NOT_FOUND, "there is no \"x\"\n\xff");
	(void)fm_error_hint(&e, "look again");
	(void)fm_error_phase(&e, "planning");
	struct capture c = capture_begin(STDERR_FILENO);
	int rc = fm_cli_fail(&o, &e);
	_fm_free_ char *text = capture_end(&c);
	assert_int_equal(rc, 3);
	assert_string_equal(text, "fleximigrate: there is no \"x\"??\nhint: look again\n");
	o.output = "json";
	c = capture_begin(STDOUT_FILENO);
	rc = fm_cli_fail(&o, &e);
	_fm_free_ char *json = capture_end(&c);
	assert_int_equal(rc, 3);
	json_t *j = json_loads(json, 0, NULL);
	assert_non_null(j);
	json_t *error = json_object_get(j, "error");
	assert_string_equal(json_string_value(json_object_get(error, "code")), "NOT_FOUND");
	assert_string_equal(json_string_value(json_object_get(error, "hint")), "look again");
	assert_string_equal(json_string_value(json_object_get(error, "phase")), "planning");
	json_decref(j);
	c = capture_begin(STDERR_FILENO);
	rc = fm_cli_fail(NULL, &e);
	_fm_free_ char *again = capture_end(&c);
	assert_int_equal(rc, 3);
	assert_string_equal(again, text);
}

/* ---------------------------------------------------------------- JSON */

/* Every message of the contract, found from the two services. */
struct set {
	const ProtobufCMessageDescriptor *v[128];
	size_t n;
};

static void collect(struct set *s, const ProtobufCMessageDescriptor *d)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->v[i] == d)
			return;
	s->v[s->n++] = d;
	for (unsigned i = 0; i < d->n_fields; i++)
		if (d->fields[i].type == PROTOBUF_C_TYPE_MESSAGE)
			collect(s, d->fields[i].descriptor);
}

static struct set all_messages(void)
{
	static const ProtobufCMessageDescriptor *const roots[] = {
		&fleximigrate__v1__event__descriptor,
		&fleximigrate__v1__empty__descriptor,
		&fleximigrate__v1__info_response__descriptor,
		&fleximigrate__v1__report_request__descriptor,
		&fleximigrate__v1__report_response__descriptor,
		&fleximigrate__v1__list_hosts_response__descriptor,
		&fleximigrate__v1__name_request__descriptor,
		&fleximigrate__v1__id_request__descriptor,
		&fleximigrate__v1__run_container_request__descriptor,
		&fleximigrate__v1__list_containers_request__descriptor,
		&fleximigrate__v1__list_containers_response__descriptor,
		&fleximigrate__v1__remove_container_request__descriptor,
		&fleximigrate__v1__migrate_request__descriptor,
		&fleximigrate__v1__list_migrations_request__descriptor,
		&fleximigrate__v1__list_migrations_response__descriptor,
		&fleximigrate__v1__watch_request__descriptor,
		&fleximigrate__v1__prepare_destination_request__descriptor,
		&fleximigrate__v1__prepare_destination_response__descriptor,
		&fleximigrate__v1__inspect_request__descriptor,
		&fleximigrate__v1__inspect_response__descriptor,
		&fleximigrate__v1__prepare_source_request__descriptor,
		&fleximigrate__v1__prepare_source_response__descriptor,
		&fleximigrate__v1__execute_request__descriptor,
		&fleximigrate__v1__mover_status__descriptor,
		&fleximigrate__v1__status_request__descriptor,
		&fleximigrate__v1__verify_request__descriptor,
		&fleximigrate__v1__verify_response__descriptor,
		&fleximigrate__v1__probe_request__descriptor,
		&fleximigrate__v1__abort_request__descriptor,
		&fleximigrate__v1__abort_response__descriptor,
		&fleximigrate__v1__doctor_request__descriptor,
		&fleximigrate__v1__doctor_response__descriptor,
		&fleximigrate__v1__get_network_response__descriptor,
		&fleximigrate__v1__find_paths_request__descriptor,
		&fleximigrate__v1__find_paths_response__descriptor,
		&fleximigrate__v1__check_network_response__descriptor,
		&fleximigrate__v1__list_intents_response__descriptor,
	};
	struct set s = { .n = 0 };
	for (size_t i = 0; i < FM_ARRAY_SIZE(roots); i++)
		collect(&s, roots[i]);
	return s;
}

static json_t *print_and_parse(const ProtobufCMessage *m)
{
	json_error_t je;
	struct capture c = capture_begin(STDOUT_FILENO);
	fm_print_json(m);
	_fm_free_ char *text = capture_end(&c);
	size_t n = strlen(text);
	assert_true(n > 0 && text[n - 1] == '\n' && !memchr(text, '\n', n - 1)); /* one line */
	json_t *j = json_loads(text, JSON_REJECT_DUPLICATES, &je);
	if (!j)
		fail_msg("%s: %s: %s", m->descriptor->name, je.text, text);
	return j;
}

/* Empty: every key but the unset messages. */
static void test_json_empty(void **state)
{
	struct set s = all_messages();
	assert_true(s.n >= 40);
	for (size_t i = 0; i < s.n; i++) {
		_fm_pb_ ProtobufCMessage *m = fm_pb_new_raw(s.v[i]);
		json_t *j = print_and_parse(m);
		size_t keys = 0;
		for (unsigned k = 0; k < s.v[i]->n_fields; k++) {
			const ProtobufCFieldDescriptor *f = &s.v[i]->fields[k];
			bool unset = f->type == PROTOBUF_C_TYPE_MESSAGE && f->label != PROTOBUF_C_LABEL_REPEATED;
			json_t *v = json_object_get(j, f->name);
			if (unset != !v)
				fail_msg("%s.%s is %s", s.v[i]->name, f->name, v ? "there" : "missing");
			if (f->label == PROTOBUF_C_LABEL_REPEATED)
				assert_true(json_is_array(v) && json_array_size(v) == 0);
			keys += v != NULL;
		}
		assert_int_equal(json_object_size(j), keys);
		json_decref(j);
	}
}

/* One element of every field, by reflection. */
static void fill(ProtobufCMessage *m, int depth);

static void fill_value(const ProtobufCFieldDescriptor *f, void *p, int depth)
{
	switch (f->type) {
	case PROTOBUF_C_TYPE_STRING:
		*(char **)p = fm_xstrdup("t\"\\\xc3\xa9\x01");
		break;
	case PROTOBUF_C_TYPE_BYTES:
		((ProtobufCBinaryData *)p)->data = (uint8_t *)fm_xstrdup("any carnal pleas");
		((ProtobufCBinaryData *)p)->len = 16;
		break;
	case PROTOBUF_C_TYPE_BOOL:
		*(protobuf_c_boolean *)p = 1;
		break;
	case PROTOBUF_C_TYPE_FLOAT:
		*(float *)p = 0.5f;
		break;
	case PROTOBUF_C_TYPE_UINT64:
		*(uint64_t *)p = 1ull << 53;
		break;
	case PROTOBUF_C_TYPE_UINT32:
		*(uint32_t *)p = UINT32_MAX;
		break;
	case PROTOBUF_C_TYPE_INT32:
		*(int32_t *)p = -5;
		break;
	case PROTOBUF_C_TYPE_DOUBLE:
		*(double *)p = 0.25;
		break;
	case PROTOBUF_C_TYPE_ENUM:
		*(int *)p = ((const ProtobufCEnumDescriptor *)f->descriptor)->values[1].value;
		break;
	case PROTOBUF_C_TYPE_MESSAGE:
		*(ProtobufCMessage **)p = fm_pb_new_raw(f->descriptor);
		fill(*(ProtobufCMessage **)p, depth + 1);
		break;
	default:
		fail_msg("%s has a type that the contract did not have before", f->name);
	}
}

static void fill(ProtobufCMessage *m, int depth)
{
	assert_true(depth < 8);
	for (unsigned k = 0; k < m->descriptor->n_fields; k++) {
		const ProtobufCFieldDescriptor *f = &m->descriptor->fields[k];
		uint8_t *base = (uint8_t *)m;
		if (f->label != PROTOBUF_C_LABEL_REPEATED) {
			fill_value(f, base + f->offset, depth);
			continue;
		}
		*(size_t *)(void *)(base + f->quantifier_offset) = 1;
		*(void **)(void *)(base + f->offset) = calloc(1, 16);
		fill_value(f, *(void **)(void *)(base + f->offset), depth);
	}
}

static void check_value(const ProtobufCFieldDescriptor *f, const json_t *v)
{
	switch (f->type) {
	case PROTOBUF_C_TYPE_STRING:
		assert_string_equal(json_string_value(v), "t\"\\\xc3\xa9\x01");
		break;
	case PROTOBUF_C_TYPE_BYTES:
		assert_string_equal(json_string_value(v), "YW55IGNhcm5hbCBwbGVhcw==");
		break;
	case PROTOBUF_C_TYPE_BOOL:
		assert_true(json_is_true(v));
		break;
	case PROTOBUF_C_TYPE_FLOAT:
		assert_true(json_number_value(v) == 0.5);
		break;
	case PROTOBUF_C_TYPE_UINT64:
		assert_true(json_integer_value(v) == 1ll << 53);
		break;
	case PROTOBUF_C_TYPE_UINT32:
		assert_true(json_integer_value(v) == UINT32_MAX);
		break;
	case PROTOBUF_C_TYPE_INT32:
		assert_true(json_integer_value(v) == -5);
		break;
	case PROTOBUF_C_TYPE_DOUBLE:
		assert_true(json_number_value(v) == 0.25);
		break;
	case PROTOBUF_C_TYPE_ENUM:
		assert_string_equal(json_string_value(v), ((const ProtobufCEnumDescriptor *)f->descriptor)->values[1].name);
		break;
	default:
		assert_true(json_is_object(v));
		const ProtobufCMessageDescriptor *d = f->descriptor;
		for (unsigned k = 0; k < d->n_fields; k++) {
			const json_t *sub = json_object_get(v, d->fields[k].name);
			if (d->fields[k].label == PROTOBUF_C_LABEL_REPEATED) {
				assert_int_equal(json_array_size(sub), 1);
				sub = json_array_get(sub, 0);
			}
			if (!sub)
				fail_msg("%s.%s is missing", d->name, d->fields[k].name);
			check_value(&d->fields[k], sub);
		}
	}
}

static void test_json_full(void **state)
{
	struct set s = all_messages();
	for (size_t i = 0; i < s.n; i++) {
		_fm_pb_ ProtobufCMessage *m = fm_pb_new_raw(s.v[i]);
		const ProtobufCFieldDescriptor as_field = { .name = s.v[i]->name, .type = PROTOBUF_C_TYPE_MESSAGE, .descriptor = s.v[i] };
		fill(m, 0);
		json_t *j = print_and_parse(m);
		check_value(&as_field, j);
		json_decref(j);
	}
}

static void test_json_edges(void **state)
{
	_fm_pb_ FM_PB(Migration) *m = FM_PB_NEW(Migration, migration);
	fm_pb_set(&m->container, "not \xff utf-8");
	m->state = (FM_PB(State))77;
	m->wire_bytes = UINT64_MAX;
	json_t *j = print_and_parse(&m->base);
	assert_string_equal(json_string_value(json_object_get(j, "container")), "not ? utf-8");
	assert_int_equal(json_integer_value(json_object_get(j, "state")), 77);
	assert_true(json_number_value(json_object_get(j, "wire_bytes")) > 1.8e19);
	json_decref(j);
	static const char *const plain[] = { "", "f", "fo", "foo", "foob" };
	static const char *const base64[] = { "", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==" };
	for (size_t i = 0; i < FM_ARRAY_SIZE(plain); i++) {
		FM_PB(InspectResponse) r = FLEXIMIGRATE__V1__INSPECT_RESPONSE__INIT;
		r.config.data = (uint8_t *)plain[i];
		r.config.len = strlen(plain[i]);
		j = print_and_parse(&r.base);
		assert_string_equal(json_string_value(json_object_get(j, "config")), base64[i]);
		json_decref(j);
	}
}

/* ---------------------------------------------------------------- tables */

static void test_table(void **state)
{
	struct capture c = capture_begin(STDOUT_FILENO);
	struct fm_table *t = fm_table_new((const char *const[]){ "NAME", "N", "LAST", NULL });
	char volatile_cell[] = "alpha-long";
	fm_table_row(t, volatile_cell, "1", "x", (char *)NULL);
	volatile_cell[0] = '#'; /* cells are copied */
	fm_table_row(t, "b", "", "", (char *)NULL);
	fm_table_row(t, "short row", (char *)NULL);
	fm_table_print(t);
	t = fm_table_new((const char *const[]){ "ONLY", NULL });
	fm_table_print(t);
	_fm_free_ char *text = capture_end(&c);
	assert_string_equal(text, "NAME        N  LAST\n"
	                          "alpha-long  1  x\n"
	                          "b              \n"
	                          "short row      \n"
	                          "ONLY\n");
}

/* ---------------------------------------------------------------- verbs */

static int run(char **out, char **err, ...)
{
	char *argv[16] = { "fleximigrate" };
	int argc = 1;
	va_list ap;
	va_start(ap, err);
	for (char *s; argc < 15 && (s = va_arg(ap, char *));)
		argv[argc++] = s;
	va_end(ap);
	struct capture o = capture_begin(STDOUT_FILENO), e = capture_begin(STDERR_FILENO);
	int rc = fm_cli_main(argc, argv);
	*err = capture_end(&e);
	*out = capture_end(&o);
	return rc;
}
#define RUN(want, ...)                                                                                                                     \
	do {                                                                                                                               \
		free(out);                                                                                                                 \
		free(err);                                                                                                                 \
		out = err = NULL;                                                                                                          \
		assert_int_equal(run(&out, &err, ##__VA_ARGS__, (char *)NULL), want);                                                      \
	} while (0)

static void test_verbs(void **state)
{
	char *out = NULL, *err = NULL;
	RUN(2);
	assert_non_null(strstr(err, "Usage:"));
	RUN(0, "--help");
	for (const struct fm_verb *v = fm_verbs; v->name; v++)
		assert_non_null(strstr(out, v->summary));
	RUN(0, "--version");
	assert_non_null(strstr(out, "(protocol 1)"));
	RUN(0, "version", "--output", "json");
	json_t *j = json_loads(out, 0, NULL);
	assert_int_equal(json_integer_value(json_object_get(j, "protocol")), 1);
	json_decref(j);
	RUN(2, "nonsense");
	assert_non_null(strstr(err, "no verb 'nonsense'"));
	RUN(2, "host");
	RUN(2, "host", "nonsense");
	assert_non_null(strstr(err, "no verb 'host nonsense'"));
	RUN(2, "hos", "ls");
	RUN(2, "migrate", "web"); /* --to is missing */
	RUN(2, "migrate", "web", "--to", "beta", "--strategy", "teleport");
	RUN(2, "migration", "show");
	RUN(2, "version", "--output", "xml");
	/* every verb knows --help, and refuses what it does not know with 2 */
	for (const struct fm_verb *v = fm_verbs; v->name; v++) {
		_fm_free_ char *first = fm_xstrdup(v->name);
		char *second = strchr(first, ' ');
		if (second)
			*second++ = '\0';
		RUN(0, first, second ? second : "--help", "--help");
		assert_non_null(strstr(out, v->name));
		RUN(2, first, second ? second : "--no-such-option", "--no-such-option");
	}
	free(out);
	free(err);
}

/* What is wrong is said before anybody is asked. */
static void test_endpoint_texts(void **state)
{
	static const struct {
		const char *text, *also;
		int want;
	} v[] = {
		{ "address=10.77.0.5/24", "--ordinary", 4 },
		{ "bridge=br0,address=10.77.0.5/24,address6=fd77::5/"
		  "64,gateway=10.77.0.1,gateway6=fe80::1,interface=eth1,mac=02:77:00:00:01:00",
		  "--ordinary", 4 },
		{ "address6=fd77::5/64", "--endpoint=address=10.78.0.5/24", 4 },
		{ "address=10.77.0.5/24", "--endpoint=bridge=br1", 2 }, /* no address */
		{ "address=10.77.0.5/24", "--address=10.77.0.6/24", 2 },
		{ "address=10.77.0.5/24", "--bridge=br0", 2 },
		{ "", "--ordinary", 2 },
		{ "10.77.0.5/24", "--ordinary", 2 },
		{ "address=", "--ordinary", 2 },
		{ "address=10.77.0.5/24,", "--ordinary", 2 },
		{ "address=10.77.0.5/24,address=10.77.0.6/24", "--ordinary", 2 },
		{ "address=10.77.0.5/24,colour=blue", "--ordinary", 2 },
	};
	char *out = NULL, *err = NULL;
	for (size_t i = 0; i < FM_ARRAY_SIZE(v); i++) {
		free(out);
		free(err);
		int rc = run(&out, &err, "container", "run", "web", "--bundle", "/b", "--endpoint", v[i].text, v[i].also, "--manager",
		             "unix:/nonexistent/manager.sock", "--timeout", "1s", (char *)NULL);
		if (rc != v[i].want)
			fail_msg("'%s' and %s: exit code %d: %s", v[i].text, v[i].also, rc, err);
	}
	free(out);
	free(err);
}

static void test_manager_not_reachable(void **state)
{
	char *out = NULL, *err = NULL;
	RUN(4, "host", "ls", "--manager", "unix:/nonexistent/manager.sock", "--timeout", "1s");
	assert_true(fm_str_startswith(err, "fleximigrate: "));
	RUN(4, "host", "ls", "--manager", "unix:/nonexistent/manager.sock", "--timeout", "9999999h", "--output", "json");
	json_t *j = json_loads(out, 0, NULL);
	assert_string_equal(json_string_value(json_object_get(json_object_get(j, "error"), "code")), "UNAVAILABLE");
	json_decref(j);
	free(out);
	free(err);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_exit_codes),     cmocka_unit_test(test_fail),
		cmocka_unit_test(test_json_empty),     cmocka_unit_test(test_json_full),
		cmocka_unit_test(test_json_edges),     cmocka_unit_test(test_table),
		cmocka_unit_test(test_verbs),          cmocka_unit_test(test_manager_not_reachable),
		cmocka_unit_test(test_endpoint_texts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
