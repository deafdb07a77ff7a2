/* SPDX-License-Identifier: MIT */
/*
 * fuzz-journal.c - libFuzzer entry for an agent's journal as it is found after a crash of the host: any bytes.
 *
 * The input is tried as it is, and as a recipe for records. What opens can be asked, undone, added to, and says the same when it is opened again; undoing is over when it says so.
 */
#include <jansson.h>

#include "basic/str.h"
#include "fuzz.h"
#include "migration/journal.h"

#define NAME "m-1.source.journal"

static int undo(void *userdata, const char *what, const char *arg, struct fm_error *err)
{
	unsigned *n = userdata;

	assert(what);
	(void)arg;
	++*n;
	return 0;
}

static void use(struct fm_journal *j, const char *folder)
{
	struct fm_journal *again = NULL;
	enum fm_decision d = fm_journal_decision(j);
	unsigned first = 0, second = 0;

	(void)fm_decision_to_string(d);
	(void)fm_journal_head(j, "container");
	(void)fm_journal_get(j, "root");
	assert(fm_journal_undo(j, undo, &first, NULL) == 0);
	assert(fm_journal_note(j, "root", "42", NULL) == 0);
	assert(fm_journal_undo(j, undo, &second, NULL) == 0 && second == 0);
	assert(fm_journal_open(folder, NAME, &again, NULL) == 0);
	assert(fm_journal_decision(again) == d && fm_journal_ran(again) == fm_journal_ran(j));
	assert(fm_streq(fm_journal_get(again, "root"), "42"));
	assert(fm_journal_undo(again, undo, &second, NULL) == 0 && second == 0);
	fm_journal_free(again);
}

static void open_and_use(const uint8_t *data, size_t size)
{
	const char *folder = fuzz_folder();
	struct fm_journal *j = NULL;
	struct fm_error err = FM_ERROR_INIT;
	char path[128];

	(void)snprintf(path, sizeof(path), "%s/" NAME, folder);
	fuzz_write_file(path, data, size);
	if (fm_journal_open(folder, NAME, &j, &err) == 0)
		use(j, folder);
	else
		assert(err.code == FM_E_NOT_FOUND || err.code == FM_E_DATA_LOSS || err.code == FM_E_RESOURCE_EXHAUSTED);
	fm_journal_free(j);
}

/* Records that are well-formed, of three bytes each: which, and of what. */
static size_t make_records(const uint8_t *in, size_t n, char *out, size_t cap)
{
	static const char *const forms[] = {
		"{\"k\":\"intent\",\"what\":\"%c\",\"arg\":\"%c\"}\n",
		"{\"k\":\"forget\",\"what\":\"%c\"}\n",
		"{\"k\":\"forget\",\"what\":\"%c\",\"arg\":\"%c\"}\n",
		"{\"k\":\"note\",\"key\":\"root\",\"value\":\"%c%c\"}\n",
		"{\"k\":\"decision\",\"decision\":%d,\"ran\":true,\"at_ms\":%d}\n",
		"{\"k\":\"intent\",\"what\":%d,\"arg\":%d}\n",
		"{\"k\":\"intent\",\"what\":\"%c\"}\n",
		"{\"what\":\"%c\",\"arg\":\"%c\"",
	};
	size_t len = (size_t)snprintf(out, cap, "{\"k\":\"head\",\"container\":\"web\"}\n");

#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wformat-nonliteral"
	for (; n >= 3 && cap - len > 128; in += 3, n -= 3)
		len += (size_t)snprintf(out + len, cap - len, forms[in[0] & 7], 'a' + in[1] % 3, 'a' + in[2] % 3);
#pragma clang diagnostic pop
	return len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char text[8192];

	open_and_use(data, size);
	open_and_use((const uint8_t *)text, make_records(data, size, text, sizeof(text)));
	return 0;
}
