/* SPDX-License-Identifier: MIT */
/*
 * expr-eval.c - see expr.h: the tree's value. Recursion is as deep as the parser allows (FM_MAX_EXPR_DEPTH times the levels of precedence); texts that functions make live in one buffer of the evaluation.
 *
 * A value is known, unknown (and names the variable that is), or an error; errors win over everything that was reached.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decision/expr-internal.h"

#define SCRATCH_BYTES 2048 /* texts of lower() and upper() in one evaluation */

enum known { KNOWN, UNKNOWN, ERROR };

struct value {
	enum known known;
	unsigned variable; /* UNKNOWN */
	double number;     /* also of a yes or no */
	const char *text;
	size_t len;
};

struct run {
	const struct fm_expr *e;
	const struct fm_expr_env *env;
	const char *problem;
	uint32_t problem_at;
	size_t used;
	char scratch[SCRATCH_BYTES];
};

static struct value eval(struct run *r, uint16_t i);

static const struct node *node(const struct run *r, uint16_t i)
{
	return &r->e->nodes[i];
}

static struct value number(double v)
{
	return (struct value){ .number = v };
}

static struct value failed(struct run *r, uint16_t i, const char *problem)
{
	if (!r->problem) {
		r->problem = problem;
		r->problem_at = node(r, i)->start;
	}
	return (struct value){ .known = ERROR };
}

/* ---------------------------------------------------------------- numbers */

static struct value bounded(struct run *r, uint16_t i, double v)
{
	return isfinite(v) ? number(v) : failed(r, i, "a number grows over all bounds");
}

/* Python's: the remainder has the sign of the divisor, the quotient is rounded towards minus infinity */
static double python_modulo(double a, double b)
{
	double m = fmod(a, b);
	if (m != 0 && (m < 0) != (b < 0))
		m += b;
	return m;
}

static double python_floordiv(double a, double b)
{
	double m = fmod(a, b), q = (a - m) / b;
	if (m != 0 && (m < 0) != (b < 0))
		q -= 1;
	if (q == 0)
		return q;
	double whole = floor(q);
	return q - whole > 0.5 ? whole + 1 : whole;
}

static struct value arithmetic(struct run *r, uint16_t at, enum op op, double a, double b)
{
	if (b == 0 && (op == OP_DIV || op == OP_FLOORDIV || op == OP_MOD))
		return failed(r, at, "division by zero");
	switch (op) {
	case OP_ADD:
		return bounded(r, at, a + b);
	case OP_SUB:
		return bounded(r, at, a - b);
	case OP_MUL:
		return bounded(r, at, a * b);
	case OP_DIV:
		return bounded(r, at, a / b);
	case OP_FLOORDIV:
		return bounded(r, at, python_floordiv(a, b));
	default:
		return number(python_modulo(a, b));
	}
}

/* As Python does it: the decimal number that is nearest to the binary one, ties to the even digit. printf rounds correctly; over 2^52 there is nothing to round. */
static double python_round(double v, int digits)
{
	char text[64];
	if (digits == 0)
		return rint(v);
	if (fabs(v) >= 4503599627370496.0)
		return v;
	(void)snprintf(text, sizeof(text), "%.*f", digits, v);
	return strtod(text, NULL);
}

static struct value eval_arithmetic(struct run *r, uint16_t i)
{
	uint16_t k = node(r, i)->first;
	struct value sum = eval(r, k);
	for (k = node(r, k)->next; k != NO_NODE && sum.known != ERROR; k = node(r, k)->next) {
		struct value v = eval(r, k);
		if (v.known == ERROR)
			return v;
		if (sum.known == KNOWN && v.known == KNOWN)
			sum = arithmetic(r, k, (enum op)node(r, k)->op, sum.number, v.number);
		else if (sum.known == KNOWN)
			sum = v;
	}
	return sum;
}

/* ---------------------------------------------------------------- comparisons */

/* Of a value whose type is text; never NULL */
static const char *text_of(const struct value *v)
{
	return v->text ? v->text : "";
}

static int order(const struct value *a, const struct value *b, unsigned type)
{
	if (type != FM_EXPR_TEXT)
		return (a->number > b->number) - (a->number < b->number);
	size_t n = a->len < b->len ? a->len : b->len;
	int c = memcmp(text_of(a), text_of(b), n); /* UTF-8 sorts like its characters */
	return c ? c : (a->len > b->len) - (a->len < b->len);
}

static bool holds(enum op op, int c)
{
	switch (op) {
	case OP_LT:
		return c < 0;
	case OP_LE:
		return c <= 0;
	case OP_GT:
		return c > 0;
	case OP_GE:
		return c >= 0;
	case OP_EQ:
		return c == 0;
	default:
		return c != 0;
	}
}

/* All entries are looked at, as Python makes the whole list first. */
static struct value in_list(struct run *r, const struct value *a, unsigned type, uint16_t list)
{
	struct value found = number(0);
	for (uint16_t k = node(r, list)->first; k != NO_NODE; k = node(r, k)->next) {
		struct value v = eval(r, k);
		if (v.known == ERROR)
			return v;
		const struct value *unknown = a->known == UNKNOWN ? a : v.known == UNKNOWN ? &v : NULL;
		if (unknown) {
			if (found.known == KNOWN && found.number == 0)
				found = *unknown;
		} else if (order(a, &v, type) == 0) {
			found = number(1);
		}
	}
	return found;
}

static struct value negated(struct value v)
{
	v.number = v.known == KNOWN ? v.number == 0 : v.number;
	return v;
}

static struct value is_in(struct run *r, const struct value *a, unsigned type, uint16_t right)
{
	if (node(r, right)->kind == LIST)
		return in_list(r, a, type, right);
	struct value b = eval(r, right);
	if (b.known != KNOWN || a->known == KNOWN)
		return b.known != KNOWN ? b : number(memmem(text_of(&b), b.len, text_of(a), a->len) != NULL);
	return *a;
}

/* One step of a chain; *ret_right is what the next one compares with */
static struct value step(struct run *r, const struct value *a, unsigned type, uint16_t k, struct value *ret_right)
{
	enum op op = (enum op)node(r, k)->op;
	if (op == OP_IN)
		return is_in(r, a, type, k);
	if (op == OP_NOT_IN)
		return negated(is_in(r, a, type, k));
	*ret_right = eval(r, k);
	if (ret_right->known == ERROR)
		return *ret_right;
	if (a->known == UNKNOWN || ret_right->known == UNKNOWN)
		return a->known == UNKNOWN ? *a : *ret_right;
	return number(holds(op, order(a, ret_right, type)));
}

static struct value eval_chain(struct run *r, uint16_t i)
{
	uint16_t k = node(r, i)->first;
	unsigned type = node(r, k)->type;
	struct value left = eval(r, k), all = number(1), right = { 0 };
	if (left.known == ERROR)
		return left;
	for (k = node(r, k)->next; k != NO_NODE; k = node(r, k)->next, left = right) {
		struct value v = step(r, &left, type, k, &right);
		if (v.known == ERROR || (v.known == KNOWN && v.number == 0))
			return v;
		if (v.known == UNKNOWN && all.known == KNOWN)
			all = v;
	}
	return all;
}

/* and: ends at the first false; or: at the first true */
static struct value eval_words(struct run *r, uint16_t i, double end)
{
	struct value all = number(!end);
	for (uint16_t k = node(r, i)->first; k != NO_NODE; k = node(r, k)->next) {
		struct value v = eval(r, k);
		if (v.known == ERROR || (v.known == KNOWN && v.number == end))
			return v;
		if (v.known == UNKNOWN && all.known == KNOWN)
			all = v;
	}
	return all;
}

/* ---------------------------------------------------------------- functions */

static struct value change_case(struct run *r, uint16_t i, const struct value *v, bool upper)
{
	char *to = r->scratch + r->used;
	if (v->len >= SCRATCH_BYTES - r->used)
		return failed(r, i, "a text is too long");
	for (size_t k = 0; k < v->len; k++) {
		char c = text_of(v)[k];
		to[k] = upper && c >= 'a' && c <= 'z' ? (char)(c - 32) : !upper && c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
	}
	to[v->len] = '\0';
	r->used += v->len + 1;
	return (struct value){ .text = to, .len = v->len };
}

static size_t characters(const struct value *v)
{
	size_t n = 0;
	for (size_t i = 0; i < v->len; i++)
		n += ((unsigned char)text_of(v)[i] & 0xc0) != 0x80;
	return n;
}

static struct value one_argument(struct run *r, uint16_t i, const struct value *a)
{
	switch ((enum function)node(r, i)->function) {
	case F_ABS:
		return number(fabs(a->number));
	case F_FLOOR:
		return number(floor(a->number));
	case F_CEIL:
		return number(ceil(a->number));
	case F_ROUND:
		return number(python_round(a->number, 0));
	case F_LEN:
		return number((double)characters(a));
	default:
		return change_case(r, i, a, node(r, i)->function == F_UPPER);
	}
}

static struct value two_arguments(struct run *r, uint16_t i, const struct value *a, const struct value *b)
{
	switch ((enum function)node(r, i)->function) {
	case F_MIN:
		return b->number < a->number ? *b : *a;
	case F_MAX:
		return b->number > a->number ? *b : *a;
	case F_ROUND:
		return number(python_round(a->number, (int)b->number));
	case F_STARTSWITH:
		return number(a->len >= b->len && memcmp(text_of(a), text_of(b), b->len) == 0);
	default:
		return number(a->len >= b->len && memcmp(text_of(a) + a->len - b->len, text_of(b), b->len) == 0);
	}
}

static struct value eval_call(struct run *r, uint16_t i)
{
	uint16_t k = node(r, i)->first;
	enum function f = (enum function)node(r, i)->function;
	struct value a = eval(r, k), b;
	if (a.known == ERROR)
		return a;
	if (f == F_KNOWN)
		return number(a.known == KNOWN);
	if (f == F_DEFAULT)
		return a.known == KNOWN ? a : eval(r, node(r, k)->next);
	if (node(r, k)->next == NO_NODE)
		return a.known == KNOWN ? one_argument(r, i, &a) : a;
	for (k = node(r, k)->next; k != NO_NODE; k = node(r, k)->next) {
		b = eval(r, k);
		if (b.known == ERROR)
			return b;
		if (a.known == KNOWN)
			a = b.known == KNOWN ? two_arguments(r, i, &a, &b) : b;
	}
	return a;
}

/* ---------------------------------------------------------------- the tree */

static struct value eval_variable(const struct run *r, const struct node *n)
{
	const struct fm_expr_value *v = &r->env->values[n->index];
	if (!v->known)
		return (struct value){ .known = UNKNOWN, .variable = n->index };
	if (n->type == FM_EXPR_TEXT)
		return (struct value){ .text = v->text, .len = v->len };
	return number(n->type == FM_EXPR_BOOL ? v->truth : v->number);
}

static struct value eval_lookup(const struct run *r, const struct node *n)
{
	const char *text = r->env->lookup ? r->env->lookup(r->env->userdata, n->len, r->e->texts + n->index) : NULL;
	return (struct value){ .text = text ? text : "", .len = text ? strlen(text) : 0 };
}

static struct value eval(struct run *r, uint16_t i)
{
	const struct node *n = node(r, i);
	switch ((enum kind)n->kind) {
	case TEXT:
		return (struct value){ .text = r->e->texts + n->index, .len = n->len };
	case VARIABLE:
		return eval_variable(r, n);
	case LOOKUP:
		return eval_lookup(r, n);
	case NEGATE: {
		struct value v = eval(r, n->first);
		v.number = -v.number;
		return v;
	}
	case NOT:
		return negated(eval(r, n->first));
	case AND:
		return eval_words(r, i, 0);
	case OR:
		return eval_words(r, i, 1);
	case COMPARE:
		return eval_chain(r, i);
	case SUM:
	case PRODUCT:
		return eval_arithmetic(r, i);
	case CALL:
		return eval_call(r, i);
	default:
		return number(n->number);
	}
}

static struct fm_expr_result result_of(const struct run *r, const struct value *v)
{
	struct fm_expr_result res = { .truth = v->known == KNOWN     ? v->number != 0 ? FM_TRUTH_TRUE : FM_TRUTH_FALSE
		                               : v->known == UNKNOWN ? FM_TRUTH_UNKNOWN
		                                                     : FM_TRUTH_ERROR,
		                      .variable = v->variable };
	if (v->known == ERROR) {
		res.problem = r->problem;
		fm_expr_place(r->e, r->problem_at, &res.line, &res.column);
	}
	return res;
}

static struct fm_expr_result eval_node(const struct fm_expr *e, const struct fm_expr_env *env, uint16_t i)
{
	struct run r;
	r.e = e;
	r.env = env;
	r.problem = NULL;
	r.used = 0;
	struct value v = eval(&r, i);
	return result_of(&r, &v);
}

void fm_expr_eval(const struct fm_expr *e, const struct fm_expr_env *env, struct fm_expr_result *ret)
{
	*ret = eval_node(e, env, e->root);
}

/* ---------------------------------------------------------------- explanation */

struct parts {
	const struct fm_expr *e;
	const struct fm_expr_env *env;
	struct fm_expr_part *v;
	size_t n, max;
};

/* Down to what compares. A word whose outcome one operand decided is that operand's matter; else each that came to the same, or is unknown, took part. */
static void explain(struct parts *p, uint16_t i)
{
	const struct node *n = &p->e->nodes[i];
	enum fm_truth truth = eval_node(p->e, p->env, i).truth;
	if (n->kind == NOT) {
		explain(p, n->first);
		return;
	}
	if (n->kind != AND && n->kind != OR) {
		if (p->n < p->max)
			p->v[p->n++] = (struct fm_expr_part){ i, p->e->text + n->start, n->end - n->start, truth };
		return;
	}
	bool one_decides = truth == FM_TRUTH_ERROR || truth == (n->kind == AND ? FM_TRUTH_FALSE : FM_TRUTH_TRUE);
	for (uint16_t k = n->first; k != NO_NODE; k = p->e->nodes[k].next) {
		if (eval_node(p->e, p->env, k).truth != truth)
			continue;
		explain(p, k);
		if (one_decides)
			return;
	}
}

size_t fm_expr_explain(const struct fm_expr *e, const struct fm_expr_env *env, struct fm_expr_part *parts, size_t max)
{
	struct parts p = { .e = e, .env = env, .v = parts, .max = max };
	explain(&p, e->root);
	return p.n;
}

static bool uses(const struct fm_expr *e, uint16_t i, unsigned variable)
{
	const struct node *n = &e->nodes[i];
	if (n->kind == VARIABLE && n->index == variable)
		return true;
	for (uint16_t k = n->first; k != NO_NODE; k = e->nodes[k].next)
		if (uses(e, k, variable))
			return true;
	return false;
}

bool fm_expr_part_uses(const struct fm_expr *e, const struct fm_expr_part *part, unsigned variable)
{
	return uses(e, (uint16_t)part->node, variable);
}

bool fm_expr_uses(const struct fm_expr *e, unsigned variable)
{
	return uses(e, e->root, variable);
}

unsigned fm_expr_line_of(const struct fm_expr *e, unsigned variable, unsigned *ret_column)
{
	unsigned line = 0;
	uint32_t first = UINT32_MAX;
	for (uint16_t i = 0; i < e->n; i++)
		if (e->nodes[i].kind == VARIABLE && e->nodes[i].index == variable && e->nodes[i].start < first)
			first = e->nodes[i].start;
	if (first != UINT32_MAX)
		fm_expr_place(e, first, &line, ret_column);
	return line;
}
