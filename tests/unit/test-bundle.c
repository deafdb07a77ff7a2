/* SPDX-License-Identifier: MIT */
/* test-bundle.c - reading configs, well-formed and hostile, and making and removing instances. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "basic/io.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "container/bundle.h"
#include "container/nest.h"

#define NS_ALL "{\"type\":\"pid\"},{\"type\":\"mount\"},{\"type\":\"ipc\"},{\"type\":\"uts\"}"

static const char good[] =
        "{ \"ociVersion\": \"1.0.2\", \"x-unknown\": [1, 2.5, null],"
        "  \"process\": { \"terminal\": false, \"user\": { \"uid\": 1000, \"gid\": 100 }, \"cwd\": \"/srv\", \"args\": [\"redis-server\", "
        "\"--save\", \"\"] },"
        "  \"root\": { \"path\": \"rootfs\", \"readonly\": true }, \"hostname\": \"redis\","
        "  \"mounts\": [ { \"destination\": \"/proc\", \"type\": \"proc\", \"source\": \"proc\" },"
        "    { \"destination\": \"/data\", \"type\": \"bind\", \"source\": \"/srv/data\", \"options\": [\"rbind\", \"rw\"] },"
        "    { \"destination\": \"/more\", \"type\": \"none\", \"source\": \"/srv/more\", \"options\": [\"bind\"] },"
        "    { \"destination\": \"/etc/conf\", \"type\": \"bind\", \"source\": \"/srv/conf\", \"options\": [\"bind\", \"ro\"] } ],"
        "  \"annotations\": { \"org.example\": \"kept\", \"org.fleximigrate.migration\": \"m-old\" },"
        "  \"linux\": { \"namespaces\": [" NS_ALL ",{\"type\":\"network\",\"path\":\"/run/netns/a\"}],"
        "    \"resources\": { \"memory\": { \"limit\": 268435456 } }, \"cgroupsPath\": \"/user\" } }";

/* ociVersion, process, root and whatever else is given */
static char *config(const char *process, const char *more)
{
	return fm_xasprintf("{\"ociVersion\":\"1.0.2\",\"root\":{\"path\":\"/r\"},\"process\":%s%s}", process, more);
}

static void refused(const char *text, const char *says)
{
	struct fm_error err = FM_ERROR_INIT;
	struct fm_bundle_info i = { .terminal = true };

	assert_int_equal(fm_bundle_parse(text, "/base", &i, &err), -1);
	if (err.code != FM_E_INVALID_ARGUMENT || !strstr(err.message, says))
		fail_msg("expected '%s', got %s: %s", says, fm_code_to_string(err.code), err.message);
	assert_null(i.args); /* untouched */
	assert_true(i.terminal);
}

static void test_parse(void **state)
{
	struct fm_error err = FM_ERROR_INIT;
	struct fm_bundle_info i;
	_fm_free_ char *bare = config("{\"cwd\":\"/\",\"args\":[\"a\"],\"terminal\":true}", ""), *netns = NULL;

	if (fm_bundle_parse(good, "/base", &i, &err) < 0)
		fail_msg("%s", err.message);
	assert_string_equal(i.rootfs, "/base/rootfs");
	assert_string_equal(i.netns_path, "/run/netns/a");
	assert_int_equal(i.memory_limit_bytes, 268435456);
	assert_int_equal(i.uid, 1000);
	assert_int_equal(i.gid, 100);
	assert_false(i.terminal);
	assert_false(i.cgroup_namespace);
	assert_int_equal(fm_strv_len(i.args), 3);
	assert_string_equal(i.args[0], "redis-server");
	assert_string_equal(i.args[2], "");
	assert_int_equal(fm_strv_len(i.volumes), 2);
	assert_string_equal(i.volumes[0], "/srv/data");
	assert_string_equal(i.volumes[1], "/srv/more");
	assert_int_equal(fm_strv_len(i.volume_targets), 2);
	assert_string_equal(i.volume_targets[0], "/data");
	assert_string_equal(i.volume_targets[1], "/more");
	assert_int_equal(fm_strv_len(i.read_only), 1);
	assert_string_equal(i.read_only[0], "/srv/conf");
	assert_int_equal(fm_strv_len(i.read_only_targets), 1);
	assert_string_equal(i.read_only_targets[0], "/etc/conf");
	fm_bundle_info_done(&i);

	assert_int_equal(fm_bundle_parse(bare, NULL, &i, NULL), 0);
	assert_string_equal(i.rootfs, "/r");
	assert_null(i.netns_path); /* the host's */
	assert_int_equal(i.memory_limit_bytes, 0);
	assert_int_equal(i.uid, 0);
	assert_true(i.terminal);
	assert_null(i.volumes);
	fm_bundle_info_done(&i);
	fm_bundle_info_done(&i); /* twice is fine */

	netns = config(
	        "{\"cwd\":\"/\",\"args\":[\"a\"]}",
	        ",\"linux\":{\"namespaces\":[{\"type\":\"network\"},{\"type\":\"cgroup\"}],\"resources\":{\"memory\":{\"limit\":-1}}}");
	assert_int_equal(fm_bundle_parse(netns, NULL, &i, NULL), 0);
	assert_string_equal(i.netns_path, "");
	assert_true(i.cgroup_namespace);
	assert_int_equal(i.memory_limit_bytes, 0);
	fm_bundle_info_done(&i);
}

static void test_malformed(void **state)
{
	static const struct {
		const char *process, *more, *says;
	} cases[] = {
		{ "{\"args\":[\"a\"]}", "", "process.cwd is missing" },
		{ "{\"cwd\":\"x\",\"args\":[\"a\"]}", "", "process.cwd is not an absolute path" },
		{ "{\"cwd\":\"/\"}", "", "process.args is missing" },
		{ "{\"cwd\":\"/\",\"args\":[]}", "", "process.args has 0 members" },
		{ "{\"cwd\":\"/\",\"args\":\"a\"}", "", "process.args is not an array" },
		{ "{\"cwd\":\"/\",\"args\":[\"\"]}", "", "process.args[0]" },
		{ "{\"cwd\":\"/\",\"args\":[\"a\",7]}", "", "process.args[1]" },
		{ "{\"cwd\":\"/\",\"args\":[\"a\"],\"terminal\":1}", "", "process.terminal is not a boolean" },
		{ "{\"cwd\":\"/\",\"args\":[\"a\"],\"user\":{\"uid\":-1}}", "", "process.user.uid" },
		{ "{\"cwd\":\"/\",\"args\":[\"a\"],\"user\":{\"gid\":4294967295}}", "", "process.user.gid" },
		{ "{\"cwd\":\"/\",\"args\":[\"a\"],\"user\":{\"uid\":\"0\"}}", "", "process.user.uid is not an integer" },
		{ "[]", "", "process is not an object" },
		{ "{\"cwd\":\"/\",\"args\":[\"a\"],\"cwd\":\"/\"}", "", "duplicate" },
		{ "{\"cwd\":\"/\",\"args\":[\"a\\u0000b\"]}", "", "line 1" },
		{ "{\"cwd\":\"/\",\"args\":[\"a\"]}", ",\"linux\":[]", "linux is not an object" },
		{ "{\"cwd\":\"/\",\"args\":[\"a\"]}", ",\"linux\":{\"namespaces\":[{}]}", "namespaces[0] has no type" },
		{ "{\"cwd\":\"/\",\"args\":[\"a\"]}", ",\"linux\":{\"namespaces\":[\"pid\"]}", "namespaces[0] has no type" },
		{ "{\"cwd\":\"/\",\"args\":[\"a\"]}", ",\"linux\":{\"namespaces\":[{\"type\":\"network\",\"path\":1}]}",
		  "path is not a string" },
		{ "{\"cwd\":\"/\",\"args\":[\"a\"]}", ",\"linux\":{\"resources\":{\"memory\":{\"limit\":\"1G\"}}}",
		  "memory.limit is not an integer" },
		{ "{\"cwd\":\"/\",\"args\":[\"a\"]}", ",\"mounts\":[{}]", "mounts[0] has no destination" },
		{ "{\"cwd\":\"/\",\"args\":[\"a\"]}", ",\"mounts\":[[]]", "mounts[0] has no destination" },
		{ "{\"cwd\":\"/\",\"args\":[\"a\"]}", ",\"mounts\":[{\"destination\":\"/x\",\"type\":\"bind\",\"source\":\"x\"}]",
		  "bind mount at /x" },
		{ "{\"cwd\":\"/\",\"args\":[\"a\"]}", ",\"mounts\":[{\"destination\":\"/x\",\"type\":\"bind\"}]", "bind mount at /x" },
	};

	for (size_t i = 0; i < FM_ARRAY_SIZE(cases); i++) {
		_fm_free_ char *text = config(cases[i].process, cases[i].more);

		refused(text, cases[i].says);
	}
	refused("", "line 1");
	refused("{", "line 1, column 1");
	refused("[]", "not an object");
	refused("{}", "ociVersion is missing");
	refused("{\"ociVersion\":\"2.0.0\"}", "ociVersion '2.0.0'");
	refused("{\"ociVersion\":\"1.0.2\"}", "root is missing");
	refused("{\"ociVersion\":\"1.0.2\",\"root\":{\"path\":\"\"}}", "root.path is empty");
	{
		struct fm_error err = FM_ERROR_INIT;
		struct fm_bundle_info i;

		assert_int_equal(fm_bundle_parse(good, NULL, &i, &err), -1);
		assert_non_null(strstr(err.message, "relative"));
	}
}

/* Too deep, too large, cut anywhere: refused, never worse. */
static void test_hostile(void **state)
{
	_fm_free_ char *deep = malloc(200001), *large = malloc(FM_MAX_CONFIG_BYTES + 2), *cut = fm_xstrdup(good), *strings = NULL;
	struct fm_bundle_info i;

	memset(deep, '[', 200000);
	deep[200000] = '\0';
	refused(deep, "deeper than 64");
	memset(large, ' ', FM_MAX_CONFIG_BYTES + 1);
	large[FM_MAX_CONFIG_BYTES + 1] = '\0';
	refused(large, "larger than");
	for (size_t n = strlen(good); n-- > 0;) {
		cut[n] = '\0';
		assert_int_equal(fm_bundle_parse(cut, "/base", &i, NULL), -1);
	}
	/* brackets within strings are no depth */
	memset(deep, '[', 500);
	deep[500] = '\0';
	strings = fm_xasprintf(
	        "{\"ociVersion\":\"1.0.2\",\"root\":{\"path\":\"/r\"},\"process\":{\"cwd\":\"/\",\"args\":[\"a\",\"\\\"%s\\\\\",\"%s\"]}}",
	        deep, deep);
	assert_int_equal(fm_bundle_parse(strings, NULL, &i, NULL), 0);
	fm_bundle_info_done(&i);
}

/* ---- bundles and instances on disk */

struct disk {
	char dir[64];
	char *instances;
};

static int disk_setup(void **state)
{
	struct disk *d = calloc(1, sizeof *d);

	(void)snprintf(d->dir, sizeof d->dir, "/tmp/fm-bundle-XXXXXX");
	if (!mkdtemp(d->dir))
		return -1;
	d->instances = fm_xasprintf("%s/instances", d->dir);
	*state = d;
	return 0;
}

static int disk_teardown(void **state)
{
	struct disk *d = *state;
	int r = fm_remove_tree(d->dir, NULL);

	free(d->instances);
	free(d);
	return r;
}

static void test_read(void **state)
{
	struct disk *d = *state;
	struct fm_error err = FM_ERROR_INIT;
	_fm_free_ char *file = fm_xasprintf("%s/config.json", d->dir), *rootfs = fm_xasprintf("%s/rootfs", d->dir), *text = NULL;
	struct fm_bundle_info i;

	assert_int_equal(fm_bundle_read("/no/such/bundle", &text, &i, &err), -1);
	assert_int_equal(err.code, FM_E_NOT_FOUND);
	assert_int_equal(fm_bundle_read(d->dir, &text, &i, &err), -1);
	assert_int_equal(err.code, FM_E_NOT_FOUND);
	assert_int_equal(fm_write_file_atomic(file, good, strlen(good), 0644, NULL), 0);
	assert_int_equal(fm_bundle_read(d->dir, &text, &i, &err), -1); /* no rootfs */
	assert_int_equal(err.code, FM_E_NOT_FOUND);
	assert_non_null(strstr(err.message, rootfs));
	assert_int_equal(fm_write_file_atomic(rootfs, "", 0, 0644, NULL), 0);
	assert_int_equal(fm_bundle_read(d->dir, &text, &i, &err), -1);
	assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
	assert_int_equal(unlink(rootfs), 0);
	assert_int_equal(mkdir(rootfs, 0755), 0);
	assert_null(text);
	assert_int_equal(fm_bundle_read(d->dir, &text, &i, &err), 0);
	assert_string_equal(text, good);
	assert_string_equal(i.rootfs, rootfs);
	fm_bundle_info_done(&i);
}

static struct fm_instance_spec spec(struct disk *d, const char *text)
{
	return (struct fm_instance_spec){ .instances_dir = d->instances,
		                          .instance = "redis.1",
		                          .name = "redis",
		                          .config = text,
		                          .rootfs = "/srv/root",
		                          .netns_path = "/run/netns/b",
		                          .cgroup_path = "/fleximigrate/src/redis",
		                          .migration_id = "m-0123456789ab",
		                          .nested = true,
		                          .wait = true,
		                          .nest_binary = "/usr/libexec/fleximigrate-nest" };
}

static json_t *made(const char *bundle)
{
	_fm_free_ char *file = fm_xasprintf("%s/config.json", bundle);
	json_t *o = json_load_file(file, 0, NULL);

	assert_non_null(o);
	return o;
}

static const char *text_at(json_t *o, const char *a, const char *b)
{
	return json_string_value(json_object_get(json_object_get(o, a), b));
}

static void test_instance(void **state)
{
	struct disk *d = *state;
	struct fm_error err = FM_ERROR_INIT;
	_fm_free_ char *plain = fm_xstrdup(good), *bundle = NULL, *again = NULL, *want = NULL, *fifo = NULL, *folder = NULL, *mark = NULL;
	struct fm_instance_spec s;
	struct stat st;
	json_t *o, *args, *mounts, *last;

	/* as root the user's own ids, else ours */
	if (geteuid() != 0) {
		printf("needs root (hands the control folder to the application's uid)\n");
		skip();
	}
	s = spec(d, plain);
	if (fm_bundle_make_instance(&s, &bundle, &err) < 0)
		fail_msg("%s", err.message);
	want = fm_xasprintf("%s/redis.1/bundle", d->instances);
	assert_string_equal(bundle, want);
	o = made(bundle);
	args = json_object_get(json_object_get(o, "process"), "args");
	assert_int_equal(json_array_size(args), 5);
	assert_string_equal(json_string_value(json_array_get(args, 0)), FM_NEST_MOUNT);
	assert_string_equal(json_string_value(json_array_get(args, 1)), "--");
	assert_string_equal(json_string_value(json_array_get(args, 2)), "redis-server");
	assert_string_equal(json_string_value(json_array_get(args, 4)), "");
	mounts = json_object_get(o, "mounts");
	assert_int_equal(json_array_size(mounts), 6);
	last = json_array_get(mounts, 4);
	assert_string_equal(json_string_value(json_object_get(last, "destination")), FM_NEST_MOUNT);
	assert_string_equal(json_string_value(json_object_get(last, "source")), "/usr/libexec/fleximigrate-nest");
	last = json_array_get(mounts, 5);
	assert_string_equal(json_string_value(json_object_get(last, "destination")), FM_NEST_RUN_MOUNT);
	assert_string_equal(text_at(o, "root", "path"), "/srv/root");
	assert_true(json_is_true(json_object_get(json_object_get(o, "root"), "readonly")));
	assert_string_equal(text_at(o, "linux", "cgroupsPath"), "/fleximigrate/src/redis");
	assert_string_equal(text_at(o, "annotations", FM_ANNOTATION_NAME), "redis");
	assert_string_equal(text_at(o, "annotations", FM_ANNOTATION_KIND), "nested");
	assert_string_equal(text_at(o, "annotations", FM_ANNOTATION_MIGRATION), "m-0123456789ab");
	assert_string_equal(text_at(o, "annotations", "org.example"), "kept");
	assert_int_equal(json_array_size(json_object_get(o, "x-unknown")), 3); /* passed on */
	assert_string_equal(
	        json_string_value(json_object_get(json_array_get(json_object_get(json_object_get(o, "linux"), "namespaces"), 4), "path")),
	        "/run/netns/b");
	json_decref(o);
	fifo = fm_xasprintf("%s/redis.1/nest/out", d->instances);
	assert_int_equal(stat(fifo, &st), 0);
	assert_true(S_ISFIFO(st.st_mode));
	assert_int_equal(st.st_uid, 1000);
	assert_int_equal(st.st_gid, 100);
	mark = fm_xasprintf("%s/redis.1/nest/" FM_NEST_WAITING, d->instances);
	assert_int_equal(stat(mark, &st), 0);
	assert_int_equal(st.st_uid, 1000);
	/* a second one of the same name fails and leaves the first alone */
	assert_int_equal(fm_bundle_make_instance(&s, &again, &err), -1);
	assert_int_equal(err.code, FM_E_ALREADY_EXISTS);
	assert_null(again);
	json_decref(made(bundle));
	assert_int_equal(fm_bundle_remove_instance(d->instances, "redis.1", NULL), 0);
	assert_int_equal(fm_bundle_remove_instance(d->instances, "redis.1", NULL), 0);
	folder = fm_xasprintf("%s/redis.1", d->instances);
	assert_false(fm_path_exists(folder));
}

static void test_ordinary_instance(void **state)
{
	struct disk *d = *state;
	_fm_free_ char *text = config("{\"cwd\":\"/\",\"args\":[\"a\"]}", ""), *bundle = NULL, *nest = NULL, *log = NULL, *received = NULL;
	struct fm_instance_spec s = spec(d, text);
	json_t *o, *ns;

	s.nested = s.wait = false;
	s.migration_id = NULL;
	/* a root filesystem that came first does not disturb */
	received = fm_xasprintf("%s/redis.1/rootfs", d->instances);
	assert_int_equal(fm_mkdir_p(received, 0700, NULL), 0);
	assert_int_equal(fm_bundle_make_instance(&s, &bundle, NULL), 0);
	o = made(bundle);
	assert_string_equal(json_string_value(json_array_get(json_object_get(json_object_get(o, "process"), "args"), 0)), "a");
	assert_null(json_object_get(o, "mounts"));
	assert_string_equal(text_at(o, "annotations", FM_ANNOTATION_KIND), "ordinary");
	assert_null(text_at(o, "annotations", FM_ANNOTATION_MIGRATION));
	ns = json_array_get(json_object_get(json_object_get(o, "linux"), "namespaces"), 0); /* there was none */
	assert_string_equal(json_string_value(json_object_get(ns, "path")), "/run/netns/b");
	json_decref(o);
	nest = fm_xasprintf("%s/redis.1/nest", d->instances);
	log = fm_xasprintf("%s/redis.1/log", d->instances);
	assert_false(fm_path_exists(nest));
	assert_true(fm_path_exists(log));
	assert_int_equal(fm_bundle_remove_instance(d->instances, "redis.1", NULL), 0);
}

static void not_made(struct disk *d, const struct fm_instance_spec *s, const char *says)
{
	struct fm_error err = FM_ERROR_INIT;
	char *bundle = NULL;

	assert_int_equal(fm_bundle_make_instance(s, &bundle, &err), -1);
	if (err.code != FM_E_INVALID_ARGUMENT || !strstr(err.message, says))
		fail_msg("expected '%s', got %s: %s", says, fm_code_to_string(err.code), err.message);
	assert_null(bundle);
	assert_false(fm_path_exists(d->instances)); /* nothing was written */
}

static void test_unusable_instance(void **state)
{
	struct disk *d = *state;
	static const struct {
		const char *process, *more, *says;
	} cases[] = {
		{ "{\"cwd\":\"/\",\"args\":[\"a\"],\"terminal\":true}", ",\"linux\":{\"namespaces\":[" NS_ALL "]}", "terminal" },
		{ "{\"cwd\":\"/\",\"args\":[\"a\"]}", "", "pid namespace" },
		{ "{\"cwd\":\"/\",\"args\":[\"a\"]}",
		  ",\"linux\":{\"namespaces\":[{\"type\":\"pid\"},{\"type\":\"ipc\"},{\"type\":\"uts\"}]}", "mount namespace" },
		{ "{\"cwd\":\"/\",\"args\":[\"a\"]}",
		  ",\"linux\":{\"namespaces\":[{\"type\":\"pid\"},{\"type\":\"mount\"},{\"type\":\"ipc\",\"path\":\"/proc/1/ns/"
		  "ipc\"},{\"type\":\"uts\"}]}",
		  "joins another's" },
		{ "{\"cwd\":\"/\",\"args\":[\"a\"]}",
		  ",\"mounts\":[{\"destination\":\"/.fleximigrate\",\"type\":\"tmpfs\"}],\"linux\":{\"namespaces\":[" NS_ALL "]}",
		  "which is ours" },
		{ "{\"cwd\":\"/\",\"args\":[\"a\"],\"user\":{\"uid\":5}}",
		  ",\"linux\":{\"uidMappings\":[{\"containerID\":0,\"hostID\":100000,\"size\":5}],\"namespaces\":[" NS_ALL "]}",
		  "uidMappings does not map the id 5" },
	};
	struct fm_instance_spec s;

	for (size_t i = 0; i < FM_ARRAY_SIZE(cases); i++) {
		_fm_free_ char *text = config(cases[i].process, cases[i].more);

		s = spec(d, text);
		not_made(d, &s, cases[i].says);
	}
	s = spec(d, "{");
	not_made(d, &s, "line 1");
	s = spec(d, good);
	s.instance = "../x";
	not_made(d, &s, "not a valid name");
	s = spec(d, good);
	s.name = "";
	not_made(d, &s, "not a valid name");
	s = spec(d, good);
	s.rootfs = "relative";
	not_made(d, &s, "absolute");
	s = spec(d, good);
	s.nest_binary = NULL;
	not_made(d, &s, "nest's program");
	s = spec(d, good);
	s.rootfs = "/not-utf8-\xff";
	not_made(d, &s, "UTF-8");
	assert_int_equal(fm_bundle_remove_instance(d->dir, "..", NULL), -1);
	assert_int_equal(fm_bundle_remove_instance(d->dir, "", NULL), -1);
}

static void test_user_namespace(void **state)
{
	struct disk *d = *state;
	_fm_free_ char *text = config(
	        "{\"cwd\":\"/\",\"args\":[\"a\"],\"user\":{\"uid\":3,\"gid\":4}}",
	        ",\"linux\":{\"uidMappings\":[{\"containerID\":0,\"hostID\":100000,\"size\":3},{\"containerID\":3,\"hostID\":500,\"size\":"
	        "1}],"
	        "\"gidMappings\":[{\"containerID\":0,\"hostID\":200000,\"size\":65536}],\"namespaces\":[{\"type\":\"user\"}," NS_ALL "]}");
	_fm_free_ char *bundle = NULL, *control = fm_xasprintf("%s/redis.1/nest", d->instances);
	struct fm_instance_spec s = spec(d, text);
	struct stat st;

	if (geteuid() != 0) {
		printf("needs root (hands the control folder to the application's uid)\n");
		skip();
	}
	assert_int_equal(fm_bundle_make_instance(&s, &bundle, NULL), 0);
	assert_int_equal(stat(control, &st), 0);
	assert_int_equal(st.st_uid, 500);
	assert_int_equal(st.st_gid, 200004);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse),
		cmocka_unit_test(test_malformed),
		cmocka_unit_test(test_hostile),
		cmocka_unit_test_setup_teardown(test_read, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_instance, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_ordinary_instance, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_unusable_instance, disk_setup, disk_teardown),
		cmocka_unit_test_setup_teardown(test_user_namespace, disk_setup, disk_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
