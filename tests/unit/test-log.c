/* SPDX-License-Identifier: MIT */
/* Tests of basic/log. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "basic/cleanup.h"
#include "basic/log.h"
#include "basic/str.h"

FM_DEFINE_CLEANUP(struct fm_log *, fm_log_free);

/* Everything in fd, which is a memory file that grew by O_APPEND writes. */
static char *contents(int fd)
{
	off_t n = lseek(fd, 0, SEEK_END);
	char *text = calloc(1, (size_t)n + 1);

	assert_non_null(text);
	assert_int_equal(pread(fd, text, (size_t)n, 0), n);
	return text;
}

static int memory_file(void)
{
	int fd = memfd_create("log", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_SETFL, O_APPEND), 0);
	return fd;
}

static void test_human(void **state)
{
	_fm_close_ int fd = memory_file();
	_fm_cleanup_(fm_log_freep) struct fm_log *log = fm_log_new(fd, FM_LOG_HUMAN, FM_LOG_INFO);
	struct fm_log_fields fields = { .migration_id = "m-000000000001", .container = "web" };
	_fm_free_ char *text = NULL;

	errno = EXDEV;
	fm_log_write(log, FM_LOG_DEBUG, "Migration Manager", NULL, "not shown");
	fm_log_write(log, FM_LOG_INFO, "Migration Manager", NULL, "Starting migration of %s", "web");
	fm_log_write(log, FM_LOG_WARN, "Network Manager", &fields, "slow");
	fm_log_write(log, FM_LOG_ERROR, NULL, NULL, "bad");
	assert_int_equal(errno, EXDEV);
	text = contents(fd);
	assert_string_equal(text, "INFO [Migration Manager]: Starting migration of web\n"
	                          "WARN [Network Manager]: slow\n"
	                          "ERROR [FlexiMigrate]: bad\n");
}

static void test_debug_level(void **state)
{
	_fm_close_ int fd = memory_file();
	_fm_cleanup_(fm_log_freep) struct fm_log *log = fm_log_new(fd, FM_LOG_HUMAN, FM_LOG_DEBUG);
	_fm_free_ char *text = NULL;

	fm_log_write(log, FM_LOG_DEBUG, "Agent", NULL, "shown");
	text = contents(fd);
	assert_string_equal(text, "DEBUG [Agent]: shown\n");
}

/* what a container is called, or what a program printed, must not become a line of its own */
static void test_no_forgery(void **state)
{
	_fm_close_ int fd = memory_file();
	_fm_cleanup_(fm_log_freep) struct fm_log *log = fm_log_new(fd, FM_LOG_HUMAN, FM_LOG_INFO);
	_fm_free_ char *text = NULL;

	fm_log_write(log, FM_LOG_INFO, "A\nB", NULL, "name %s end", "x\nERROR [Migration Manager]: forged\x1b[2J");
	text = contents(fd);
	assert_string_equal(text, "INFO [A?B]: name x?ERROR [Migration Manager]: forged?[2J end\n");
}

static void test_long_message(void **state)
{
	_fm_close_ int fd = memory_file();
	_fm_cleanup_(fm_log_freep) struct fm_log *log = fm_log_new(fd, FM_LOG_HUMAN, FM_LOG_INFO);
	_fm_free_ char *text = NULL;
	char message[5000], component[500];

	memset(message, 'm', sizeof(message) - 1);
	message[sizeof(message) - 1] = '\0';
	memset(component, 'c', sizeof(component) - 1);
	component[sizeof(component) - 1] = '\0';
	fm_log_write(log, FM_LOG_ERROR, component, NULL, "%s", message);
	text = contents(fd);
	assert_in_range(strlen(text), 2048, 2048 + 128);
	assert_int_equal(text[strlen(text) - 1], '\n');
	assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
}

static const char *member(json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

static void test_json(void **state)
{
	_fm_close_ int fd = memory_file();
	_fm_cleanup_(fm_log_freep) struct fm_log *log = fm_log_new(fd, FM_LOG_JSON, FM_LOG_INFO);
	struct fm_log_fields fields = {
		.migration_id = "m-000000000001",
		.container = "web",
		.host = "host\xff-a",
		.state_from = "PREPARING",
		.state_to = "EXECUTING",
		.action = "state-change",
	};
	_fm_free_ char *text = NULL;
	json_t *o;

	fm_log_write(log, FM_LOG_WARN, "Migration Manager", &fields, "quote \" back \\ nl \n bad \xff good \xc3\xa9");
	text = contents(fd);
	assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
	o = json_loads(text, 0, NULL);
	assert_non_null(o);
	assert_string_equal(member(o, "log.level"), "warn");
	assert_string_equal(member(o, "message"), "quote \" back \\ nl ? bad ? good \xc3\xa9");
	assert_string_equal(member(o, "event.action"), "state-change");
	assert_string_equal(member(o, "container.id"), "web");
	assert_string_equal(member(o, "host.name"), "host?-a");
	assert_string_equal(member(o, "fleximigrate.component"), "Migration Manager");
	assert_string_equal(member(o, "fleximigrate.migration.id"), "m-000000000001");
	assert_string_equal(member(o, "fleximigrate.state.from"), "PREPARING");
	assert_string_equal(member(o, "fleximigrate.state.to"), "EXECUTING");
	assert_int_equal(strlen(member(o, "@timestamp")), strlen("2026-11-24T09:45:29.123Z"));
	json_decref(o);
}

static void test_json_without_fields(void **state)
{
	_fm_close_ int fd = memory_file();
	_fm_cleanup_(fm_log_freep) struct fm_log *log = fm_log_new(fd, FM_LOG_JSON, FM_LOG_INFO);
	_fm_free_ char *text = NULL;
	json_t *o;

	fm_log_write(log, FM_LOG_INFO, "Agent", NULL, "ready");
	text = contents(fd);
	o = json_loads(text, 0, NULL);
	assert_non_null(o);
	assert_string_equal(member(o, "event.action"), "log");
	assert_null(json_object_get(o, "container.id"));
	assert_null(json_object_get(o, "fleximigrate.migration.id"));
	json_decref(o);
}

static void observe(void *userdata, enum fm_log_level level, const char *component, const struct fm_log_fields *fields, const char *line)
{
	fm_buf_addf(userdata, "%s|%s|%s|%s\n", fm_log_level_to_string(level), component, fields->migration_id ? fields->migration_id : "-",
	            line);
}

static void test_observer(void **state)
{
	_fm_close_ int fd = memory_file();
	_fm_cleanup_(fm_log_freep) struct fm_log *log = fm_log_new(fd, FM_LOG_JSON, FM_LOG_INFO);
	struct fm_log_fields fields = { .migration_id = "m-1" };
	_fm_buf_ struct fm_buf seen = FM_BUF_INIT;

	fm_log_set_observer(log, observe, &seen);
	fm_log_write(log, FM_LOG_DEBUG, "A", &fields, "below the level");
	fm_log_write(log, FM_LOG_INFO, "A", &fields, "one\n");
	fm_log_write(log, FM_LOG_ERROR, "B", NULL, "two");
	assert_string_equal(seen.data, "INFO|A|m-1|INFO [A]: one?\nERROR|B|-|ERROR [B]: two\n");
	fm_log_set_observer(log, NULL, NULL);
	fm_log_write(log, FM_LOG_ERROR, "B", NULL, "three");
	assert_null(strstr(seen.data, "three"));
}

#define THREADS 4
#define LINES   200

static void *write_many(void *arg)
{
	for (int i = 0; i < LINES; i++)
		fm_log_write(arg, FM_LOG_INFO, "Thread", NULL, "line of %d words", 4);
	return NULL;
}

static void test_threads(void **state)
{
	static const char line[] = "INFO [Thread]: line of 4 words\n";
	_fm_close_ int fd = memory_file();
	_fm_cleanup_(fm_log_freep) struct fm_log *log = fm_log_new(fd, FM_LOG_HUMAN, FM_LOG_INFO);
	_fm_free_ char *text = NULL;
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, write_many, log), 0);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	text = contents(fd);
	assert_int_equal(strlen(text), THREADS * LINES * strlen(line));
	for (size_t i = 0; i < THREADS * LINES; i++)
		assert_memory_equal(text + i * strlen(line), line, strlen(line));
}

static void test_null_and_broken_fd(void **state)
{
	_fm_cleanup_(fm_log_freep) struct fm_log *log = fm_log_new(-1, FM_LOG_HUMAN, FM_LOG_INFO);

	fm_log_write(NULL, FM_LOG_ERROR, "A", NULL, "dropped");
	fm_log_set_observer(NULL, NULL, NULL);
	fm_log_free(NULL);
	fm_log_write(log, FM_LOG_ERROR, "A", NULL, "dropped too");
	fm_log_write(log, _FM_LOG_LEVEL_MAX, "A", NULL, "no such level");
}

static void test_levels(void **state)
{
	enum fm_log_level level = FM_LOG_INFO;

	for (int i = 0; i < _FM_LOG_LEVEL_MAX; i++) {
		assert_int_equal(fm_log_level_from_string(fm_log_level_to_string((enum fm_log_level)i), &level), 0);
		assert_int_equal(level, i);
	}
	assert_int_equal(fm_log_level_from_string("debug", &level), 0);
	assert_int_equal(level, FM_LOG_DEBUG);
	assert_int_equal(fm_log_level_from_string("loud", &level), -1);
	assert_int_equal(fm_log_level_from_string(NULL, &level), -1);
	assert_int_equal(level, FM_LOG_DEBUG);
	assert_string_equal(fm_log_level_to_string(_FM_LOG_LEVEL_MAX), "UNKNOWN");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_human),        cmocka_unit_test(test_debug_level), cmocka_unit_test(test_no_forgery),
		cmocka_unit_test(test_long_message), cmocka_unit_test(test_json),        cmocka_unit_test(test_json_without_fields),
		cmocka_unit_test(test_observer),     cmocka_unit_test(test_threads),     cmocka_unit_test(test_null_and_broken_fd),
		cmocka_unit_test(test_levels),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
