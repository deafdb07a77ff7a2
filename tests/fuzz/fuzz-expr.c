/* SPDX-License-Identifier: MIT */
/* fuzz-expr.c - libFuzzer entry for conditions. What was read comes to one of four outcomes, twice to the same one; its explanation lies in the text and is not empty. The first byte says what is known. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "decision/expr.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct fm_expr_variable variables[] = {
	{ "x", FM_EXPR_NUMBER }, { "y", FM_EXPR_NUMBER }, { "t", FM_EXPR_TEXT }, { "b", FM_EXPR_BOOL }
};
static const char *const lookups[] = { "label", NULL };
static const struct fm_expr_vocabulary vocabulary = { variables, 4, lookups };

static const char *look_up(void *userdata, unsigned function, const char *key)
{
	assert(function == 0);
	return strlen(key) > 3 ? NULL : "abc";
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_fm_cleanup_(fm_expr_freep) struct fm_expr *e = NULL;
	struct fm_error err = FM_ERROR_INIT;
	struct fm_expr_result first, second;
	struct fm_expr_part parts[8];

	if (size == 0)
		return 0;
	int rc = fm_expr_parse((const char *)data + 1, size - 1, &vocabulary, &e, &err);
	assert((rc == 0) == (err.code == FM_OK));
	assert(rc == 0 || err.message[0]);
	if (rc < 0)
		return 0;
	const struct fm_expr_value values[] = { { .known = data[0] & 1, .number = 7 },
		                                { .known = data[0] & 2, .number = -2.5 },
		                                { .known = data[0] & 4, .text = "Critical", .len = 8 },
		                                { .known = data[0] & 8, .truth = data[0] & 16 } };
	const struct fm_expr_env env = { values, look_up, NULL };

	fm_expr_eval(e, &env, &first);
	fm_expr_eval(e, &env, &second);
	assert(first.truth == second.truth && first.variable == second.variable && first.problem == second.problem);
	assert((first.truth == FM_TRUTH_ERROR) == (first.problem != NULL));
	assert(first.truth != FM_TRUTH_UNKNOWN || (first.variable < 4 && !values[first.variable].known && fm_expr_uses(e, first.variable)));
	size_t n = fm_expr_explain(e, &env, parts, 8);
	assert(n > 0);
	for (size_t i = 0; i < n; i++) {
		char *copy = strndup(parts[i].text, parts[i].len);
		assert(copy && strlen(copy) == parts[i].len && parts[i].len > 0);
		free(copy);
	}
	return 0;
}
