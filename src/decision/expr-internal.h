/* SPDX-License-Identifier: MIT */
/* expr-internal.h - the tree of an expression; private to expr-parse.c and expr-eval.c. */
#ifndef FM_DECISION_EXPR_INTERNAL_H
#define FM_DECISION_EXPR_INTERNAL_H

#include "decision/expr.h"

#define NO_NODE 0xffffu

enum kind { NUMBER, TEXT, TRUTH, VARIABLE, LOOKUP, NEGATE, NOT, AND, OR, COMPARE, SUM, PRODUCT, LIST, CALL };

/* Of a node: what stands between it and the one before it among the operands of a COMPARE, SUM or PRODUCT; of a CALL: which function. */
enum op {
	OP_NONE,
	OP_LT,
	OP_LE,
	OP_GT,
	OP_GE,
	OP_EQ,
	OP_NE,
	OP_IN,
	OP_NOT_IN,
	OP_ADD,
	OP_SUB,
	OP_MUL,
	OP_DIV,
	OP_FLOORDIV,
	OP_MOD,
};
enum function {
	F_ABS,
	F_ROUND,
	F_FLOOR,
	F_CEIL,
	F_MIN,
	F_MAX,
	F_LEN,
	F_LOWER,
	F_UPPER,
	F_STARTSWITH,
	F_ENDSWITH,
	F_KNOWN,
	F_DEFAULT,
	_F_MAX
};

struct node {
	uint8_t kind, type, op, function;
	uint16_t first, next; /* operands: the first of this node's, the next of its parent's; NO_NODE */
	uint32_t start, end;  /* in the text */
	uint32_t index, len;  /* VARIABLE, LOOKUP: which; TEXT, LOOKUP: where in texts, how long */
	double number;        /* NUMBER, TRUTH */
};

struct fm_expr {
	const struct fm_expr_vocabulary *v;
	char *text;
	char *texts; /* the literals, each with its NUL */
	struct node *nodes;
	uint16_t n, root;
};

void fm_expr_place(const struct fm_expr *e, uint32_t offset, unsigned *ret_line, unsigned *ret_column);

#endif
