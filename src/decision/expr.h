/* SPDX-License-Identifier: MIT */
/*
 * expr.h - Decision Engine: the language of policies' CONDITIONS. A text becomes a typed tree once, the tree is evaluated as often as one likes. No eval, no loops, no side effects.
 *
 *   or and not   < <= > >= == !=, chained like 18 <= x <= 22   in, not in   + -   * / // %   unary - +   ( )   numbers   'texts' "texts"   true false   (a, b) [a, b] on the right of in   functions
 *
 * with Python's precedence, and Python's result for everything that is accepted. Not accepted, with a message that says so, is what is mostly a mistake: texts compared with numbers, numbers where a yes or no is
 * needed, ** and everything else that is not named above. Numbers are Python's floats; whole numbers are exact, as there, because literals from 2^53 on are refused.
 *
 * Functions: abs(n) round(n[, digits]) floor(n) ceil(n) min(n, n, …) max(n, n, …) len(t) lower(t) upper(t) startswith(t, t) endswith(t, t); lower and upper change ASCII letters only. known(x): was x measured?
 * default(x, y): x, or y where x is not known. And the vocabulary's look-ups, "label": label("key") is a text, "" where there is none.
 *
 * Three-valued (Kleene): a variable may be unknown. What needs it is unknown, too; but `unknown and false` is false, `unknown or true` is true, and so for chains and `in`. A division by zero, or a number that
 * grows over all bounds, ends the evaluation with an error, also beside an unknown; what `and`, `or` or a chain does not reach any more is not evaluated, as in Python.
 *
 * Parsing: linear in the text, one pass; limits FM_MAX_EXPR_BYTES, FM_MAX_EXPR_NODES, FM_MAX_EXPR_DEPTH. Errors are INVALID_ARGUMENT "line L, column C: …" (columns are characters); an unknown name tells the nearest
 * one there is. Evaluation: linear in the tree, nothing is allocated. A parsed expression is read-only: any number of threads.
 */
#ifndef FM_DECISION_EXPR_H
#define FM_DECISION_EXPR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"
#include "basic/error.h"

enum fm_expr_type { FM_EXPR_NUMBER = 1, FM_EXPR_TEXT, FM_EXPR_BOOL };

struct fm_expr_variable {
	const char *name;
	enum fm_expr_type type;
};

struct fm_expr_vocabulary {
	const struct fm_expr_variable *variables;
	size_t n_variables;
	const char *const *lookups; /* names of functions of one literal text; ends with NULL; may be NULL */
};

/* Of one variable. Unknown when all is zero. */
struct fm_expr_value {
	bool known;
	bool truth;
	double number;    /* finite */
	const char *text; /* ends with NUL */
	size_t len;
};

struct fm_expr_env {
	const struct fm_expr_value *values;                                        /* one for each variable of the vocabulary */
	const char *(*lookup)(void *userdata, unsigned function, const char *key); /* NULL: "" */
	void *userdata;
};

enum fm_truth { FM_TRUTH_FALSE, FM_TRUTH_TRUE, FM_TRUTH_UNKNOWN, FM_TRUTH_ERROR };

struct fm_expr_result {
	enum fm_truth truth;
	unsigned variable;     /* UNKNOWN: the first one that would have been needed */
	const char *problem;   /* ERROR: a static text, "division by zero" */
	unsigned line, column; /* of it */
};

/* A part of the expression that decided: "source_cpu_utilization > 80". */
struct fm_expr_part {
	unsigned node;
	const char *text; /* in the expression's text */
	size_t len;
	enum fm_truth truth;
};

struct fm_expr;

/* The expression has to be a yes or no. text is copied. The vocabulary is borrowed until the expression is freed. */
int fm_expr_parse(const char *text, size_t len, const struct fm_expr_vocabulary *v, struct fm_expr **ret, struct fm_error *err);
void fm_expr_free(struct fm_expr *e);
FM_DEFINE_CLEANUP(struct fm_expr *, fm_expr_free);

void fm_expr_eval(const struct fm_expr *e, const struct fm_expr_env *env, struct fm_expr_result *ret);

/* Which comparisons decided: those that alone made it so, or for a false `or`, a true `and`, an unknown one all that took part. At most max of them; returns how many. */
size_t fm_expr_explain(const struct fm_expr *e, const struct fm_expr_env *env, struct fm_expr_part *parts, size_t max);

bool fm_expr_uses(const struct fm_expr *e, unsigned variable);
bool fm_expr_part_uses(const struct fm_expr *e, const struct fm_expr_part *part, unsigned variable);
/* Where the variable is first, from 1; 0: nowhere */
unsigned fm_expr_line_of(const struct fm_expr *e, unsigned variable, unsigned *ret_column);

/* Of the names (NULL at the end) the one that was probably meant; NULL: none is near. For other messages of that kind. */
const char *fm_nearest_name(const char *name, const char *const *names);

#endif
