/* SPDX-License-Identifier: MIT */
/*
 * expr-parse.c - see expr.h: from text to tree. A tokenizer that looks one token ahead, one function a level of precedence, types checked as nodes are made.
 *
 * Operators of one level become one node with all its operands, so the tree is only as deep as the text's parentheses, calls, nots and signs; that depth is limited on the way down.
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/limits.h"
#include "basic/str.h"
#include "decision/expr-internal.h"

#define EXACT_INTEGER 9007199254740992.0 /* 2^53 */
#define MAX_NUMBER    64                 /* characters of a literal */

enum token {
	T_END,
	T_NUMBER,
	T_TEXT,
	T_NAME,
	T_OPEN,
	T_CLOSE,
	T_OPEN_LIST,
	T_CLOSE_LIST,
	T_COMMA,
	T_OP,
	T_AND,
	T_OR,
	T_NOT,
	T_IN,
	T_TRUE,
	T_FALSE
};

struct parser {
	struct fm_expr *e;
	struct fm_error *err;
	const struct fm_expr_vocabulary *v;
	const char *text;
	uint32_t len, pos;
	uint32_t texts_len;
	unsigned depth;
	/* the token ahead, and where the one before it ended */
	enum token token;
	enum op op;
	uint32_t start, last_end;
	uint32_t literal, literal_len; /* T_TEXT: in texts */
	double number;
};

static const struct {
	const char *name;
	uint8_t result; /* 0: that of its first argument */
	uint8_t min, max;
	uint8_t argument; /* type; 0: any */
} functions[_F_MAX] = {
	[F_ABS] = { "abs", FM_EXPR_NUMBER, 1, 1, FM_EXPR_NUMBER },
	[F_ROUND] = { "round", FM_EXPR_NUMBER, 1, 2, FM_EXPR_NUMBER },
	[F_FLOOR] = { "floor", FM_EXPR_NUMBER, 1, 1, FM_EXPR_NUMBER },
	[F_CEIL] = { "ceil", FM_EXPR_NUMBER, 1, 1, FM_EXPR_NUMBER },
	[F_MIN] = { "min", FM_EXPR_NUMBER, 2, 255, FM_EXPR_NUMBER },
	[F_MAX] = { "max", FM_EXPR_NUMBER, 2, 255, FM_EXPR_NUMBER },
	[F_LEN] = { "len", FM_EXPR_NUMBER, 1, 1, FM_EXPR_TEXT },
	[F_LOWER] = { "lower", FM_EXPR_TEXT, 1, 1, FM_EXPR_TEXT },
	[F_UPPER] = { "upper", FM_EXPR_TEXT, 1, 1, FM_EXPR_TEXT },
	[F_STARTSWITH] = { "startswith", FM_EXPR_BOOL, 2, 2, FM_EXPR_TEXT },
	[F_ENDSWITH] = { "endswith", FM_EXPR_BOOL, 2, 2, FM_EXPR_TEXT },
	[F_KNOWN] = { "known", FM_EXPR_BOOL, 1, 1, 0 },
	[F_DEFAULT] = { "default", 0, 2, 2, 0 },
};

/* ---------------------------------------------------------------- errors */

void fm_expr_place(const struct fm_expr *e, uint32_t offset, unsigned *ret_line, unsigned *ret_column)
{
	unsigned line = 1, column = 1;
	for (uint32_t i = 0; i < offset && e->text[i]; i++) {
		if (e->text[i] == '\n') {
			line++;
			column = 1;
		} else if (((unsigned char)e->text[i] & 0xc0) != 0x80) {
			column++;
		}
	}
	*ret_line = line;
	*ret_column = column;
}

__attribute__((format(printf, 3, 4))) static int fail(struct parser *p, uint32_t offset, const char *fmt, ...)
{
	char text[400];
	unsigned line, column;
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	fm_expr_place(p->e, offset, &line, &column);
	return fm_error_set(p->err, FM_E_INVALID_ARGUMENT, "line %u, column %u: %s", line, column, text);
}

/* Levenshtein's distance, row by row; more than SIZE_MAX / 2 for names that are too long to be one */
static size_t distance(const char *a, const char *b)
{
	size_t row[FM_MAX_NAME + 1], n = strlen(b);
	if (n > FM_MAX_NAME)
		return SIZE_MAX;
	for (size_t k = 0; k <= n; k++)
		row[k] = k;
	for (size_t i = 1; a[i - 1]; i++) {
		size_t diagonal = row[0];
		row[0] = i;
		for (size_t k = 1; k <= n; k++) {
			size_t best = diagonal + (a[i - 1] != b[k - 1]);
			diagonal = row[k];
			if (row[k] + 1 < best)
				best = row[k] + 1;
			if (row[k - 1] + 1 < best)
				best = row[k - 1] + 1;
			row[k] = best;
		}
	}
	return row[n];
}

static void nearer(const char *name, const char *candidate, const char **best, size_t *best_distance)
{
	size_t d = distance(name, candidate);
	if (d < *best_distance) {
		*best = candidate;
		*best_distance = d;
	}
}

/* How far a name may be off and still be meant: a third of it, two letters at least. */
static size_t near_enough(const char *name)
{
	size_t third = strlen(name) / 3;
	return (third > 2 ? third : 2) + 1;
}

const char *fm_nearest_name(const char *name, const char *const *names)
{
	const char *best = NULL;
	size_t d = near_enough(name);
	if (strlen(name) > FM_MAX_NAME)
		return NULL;
	for (; *names; names++)
		nearer(name, *names, &best, &d);
	return best;
}

static int unknown_name(struct parser *p, uint32_t offset, const char *name, bool call)
{
	const char *best = NULL;
	size_t d = near_enough(name);
	for (size_t i = 0; !call && i < p->v->n_variables; i++)
		nearer(name, p->v->variables[i].name, &best, &d);
	for (size_t i = 0; call && i < _F_MAX; i++)
		nearer(name, functions[i].name, &best, &d);
	for (const char *const *l = p->v->lookups; call && l && *l; l++)
		nearer(name, *l, &best, &d);
	return fail(p, offset, "there is no %s '%s'%s%s%s", call ? "function" : "variable", name, best ? "; is '" : "", best ? best : "",
	            best ? "' meant?" : "");
}

/* ---------------------------------------------------------------- tokens */

static bool is_name_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* The text ends with a NUL, so that one character ahead may always be looked at. */
static int number_token(struct parser *p)
{
	const char *s = p->text + p->pos, *q = s;
	bool whole = true;
	char copy[MAX_NUMBER + 1];
	while (is_digit(*q))
		q++;
	if (*q == '.') {
		whole = false;
		q++;
		while (is_digit(*q))
			q++;
	}
	if ((*q == 'e' || *q == 'E') && (is_digit(q[1]) || ((q[1] == '-' || q[1] == '+') && is_digit(q[2])))) {
		whole = false;
		q += 2;
		while (is_digit(*q))
			q++;
	}
	if (is_name_char(*q) || *q == '.')
		return fail(p, p->pos, "a number that goes on with '%c'", *q);
	if (q - s > MAX_NUMBER)
		return fail(p, p->pos, "a number of more than %d characters", MAX_NUMBER);
	if (whole && *s == '0' && q - s > 1)
		return fail(p, p->pos, "a number that begins with 0");
	memcpy(copy, s, (size_t)(q - s));
	copy[q - s] = '\0';
	p->number = strtod(copy, NULL);
	if (!isfinite(p->number) || (whole && p->number >= EXACT_INTEGER))
		return fail(p, p->pos, "the number %s is too large", copy);
	p->pos += (uint32_t)(q - s);
	p->token = T_NUMBER;
	return 0;
}

static int text_token(struct parser *p)
{
	static const char escapes[] = "\\'\"ntr", meanings[] = "\\'\"\n\t\r";
	char quote = p->text[p->pos];
	uint32_t i = p->pos + 1;
	p->literal = p->texts_len;
	for (; p->text[i] != quote; i++) {
		char c = p->text[i];
		if (i >= p->len || c == '\n' || c == '\0')
			return fail(p, p->pos, "a text without its closing %c", quote);
		if (c == '\\') {
			const char *which = p->text[i + 1] ? strchr(escapes, p->text[i + 1]) : NULL;
			if (!which)
				return fail(p, i, "after \\ only one of %s can stand in a text", escapes);
			c = meanings[which - escapes];
			i++;
		}
		p->e->texts[p->texts_len++] = c;
	}
	p->literal_len = p->texts_len - p->literal;
	p->e->texts[p->texts_len++] = '\0';
	p->pos = i + 1;
	p->token = T_TEXT;
	return 0;
}

static void name_token(struct parser *p)
{
	static const struct {
		const char *name;
		enum token token;
	} words[] = { { "and", T_AND },   { "or", T_OR },     { "not", T_NOT },     { "in", T_IN },
		      { "true", T_TRUE }, { "True", T_TRUE }, { "false", T_FALSE }, { "False", T_FALSE } };
	uint32_t n = 0;
	while (is_name_char(p->text[p->pos + n]))
		n++;
	p->token = T_NAME;
	for (size_t i = 0; i < FM_ARRAY_SIZE(words); i++)
		if (strlen(words[i].name) == n && memcmp(words[i].name, p->text + p->pos, n) == 0)
			p->token = words[i].token;
	p->pos += n;
}

static int refused_sign(struct parser *p)
{
	static const struct {
		const char *sign, *instead;
	} refused[] = { { "**", "there are no powers" },
		        { "&&", "write 'and'" },
		        { "||", "write 'or'" },
		        { "!", "write 'not'" },
		        { "=", "write '=='" } };
	const unsigned char *s = (const unsigned char *)p->text + p->pos;
	for (size_t i = 0; i < FM_ARRAY_SIZE(refused); i++)
		if (strncmp((const char *)s, refused[i].sign, strlen(refused[i].sign)) == 0)
			return fail(p, p->pos, "'%s' is not known here: %s", refused[i].sign, refused[i].instead);
	if (*s < 0x20 || *s >= 0x7f)
		return fail(p, p->pos, "the character 0x%02x can only stand in a text", *s);
	return fail(p, p->pos, "the character '%c' is not known here", *s);
}

static int sign_token(struct parser *p)
{
	static const struct {
		const char *sign; /* longer ones first */
		enum token token;
		enum op op;
	} signs[] = { { "<=", T_OP, OP_LE },       { ">=", T_OP, OP_GE },     { "==", T_OP, OP_EQ },         { "!=", T_OP, OP_NE },
		      { "//", T_OP, OP_FLOORDIV }, { "<", T_OP, OP_LT },      { ">", T_OP, OP_GT },          { "+", T_OP, OP_ADD },
		      { "-", T_OP, OP_SUB },       { "*", T_OP, OP_MUL },     { "/", T_OP, OP_DIV },         { "%", T_OP, OP_MOD },
		      { "(", T_OPEN, OP_NONE },    { ")", T_CLOSE, OP_NONE }, { "[", T_OPEN_LIST, OP_NONE }, { "]", T_CLOSE_LIST, OP_NONE },
		      { ",", T_COMMA, OP_NONE } };
	const char *s = p->text + p->pos;
	if (strncmp(s, "**", 2) == 0)
		return refused_sign(p);
	for (size_t i = 0; i < FM_ARRAY_SIZE(signs); i++) {
		size_t n = strlen(signs[i].sign);
		if (strncmp(s, signs[i].sign, n) != 0)
			continue;
		p->token = signs[i].token;
		p->op = signs[i].op;
		p->pos += (uint32_t)n;
		return 0;
	}
	return refused_sign(p);
}

/* The next token is the one ahead. */
static int advance(struct parser *p)
{
	p->last_end = p->pos;
	p->pos += (uint32_t)strspn(p->text + p->pos, " \t\r\n");
	p->start = p->pos;
	p->op = OP_NONE;
	const char *s = p->text + p->pos;
	if (p->pos >= p->len) {
		p->token = T_END;
		return 0;
	}
	if (is_digit(*s) || (*s == '.' && is_digit(s[1])))
		return number_token(p);
	if (*s == '\'' || *s == '"')
		return text_token(p);
	if (!is_name_char(*s))
		return sign_token(p);
	name_token(p);
	return 0;
}

static int expect(struct parser *p, enum token token, const char *what)
{
	if (p->token != token)
		return fail(p, p->start, "%s is missing here", what);
	return advance(p);
}

/* ---------------------------------------------------------------- nodes */

static const char *type_name(unsigned type)
{
	return type == FM_EXPR_NUMBER ? "a number" : type == FM_EXPR_TEXT ? "a text" : type == FM_EXPR_BOOL ? "a yes or no" : "a list";
}

static struct node *at(struct parser *p, uint16_t i)
{
	return &p->e->nodes[i];
}

static int make(struct parser *p, enum kind kind, unsigned type, uint32_t start, uint16_t *ret)
{
	if (p->e->n == FM_MAX_EXPR_NODES)
		return fail(p, start, "more than %u parts", FM_MAX_EXPR_NODES);
	*ret = p->e->n++;
	*at(p, *ret) = (struct node){
		.kind = (uint8_t)kind, .type = (uint8_t)type, .first = NO_NODE, .next = NO_NODE, .start = start, .end = p->last_end
	};
	return 0;
}

static int enter(struct parser *p)
{
	if (p->depth == FM_MAX_EXPR_DEPTH)
		return fail(p, p->start, "more than %u levels in each other", FM_MAX_EXPR_DEPTH);
	p->depth++;
	return 0;
}

static int want(struct parser *p, uint16_t node, unsigned type, const char *whose)
{
	if (at(p, node)->type == type)
		return 0;
	return fail(p, at(p, node)->start, "%s needs %s, this is %s", whose, type_name(type), type_name(at(p, node)->type));
}

static int parse_or(struct parser *p, uint16_t *ret);

/* An operand of what is on the right of `in`, or of a call: its type is the first one's. */
static int parse_list(struct parser *p, enum token close, uint16_t list, uint16_t first)
{
	uint16_t last = first, next = NO_NODE;
	at(p, list)->first = first;
	while (p->token == T_COMMA) {
		if (advance(p) < 0)
			return -1;
		if (p->token == close)
			break;
		if (parse_or(p, &next) < 0)
			return -1;
		if (last != NO_NODE && at(p, next)->type != at(p, first)->type)
			return fail(p, at(p, next)->start, "%s in a list of %s", type_name(at(p, next)->type),
			            type_name(at(p, first)->type) + 2);
		at(p, last)->next = next;
		last = next;
	}
	if (expect(p, close, close == T_CLOSE ? "')'" : "']'") < 0)
		return -1;
	at(p, list)->end = p->last_end;
	return 0;
}

/* ( … ): the same thing; ( …, …) and [ … ]: a list, which only `in` takes */
static int parse_brackets(struct parser *p, uint16_t *ret)
{
	uint32_t start = p->start;
	bool square = p->token == T_OPEN_LIST;
	enum token close = square ? T_CLOSE_LIST : T_CLOSE;
	uint16_t first = NO_NODE;
	if (advance(p) < 0)
		return -1;
	if (p->token != close && parse_or(p, &first) < 0)
		return -1;
	if (first != NO_NODE && !square && p->token != T_COMMA) {
		if (expect(p, close, "')'") < 0)
			return -1;
		at(p, first)->start = start;
		at(p, first)->end = p->last_end;
		*ret = first;
		return 0;
	}
	if (first != NO_NODE && at(p, first)->kind == LIST)
		return fail(p, at(p, first)->start, "a list in a list");
	if (make(p, LIST, 0, start, ret) < 0)
		return -1;
	return parse_list(p, close, *ret, first);
}

static int check_call(struct parser *p, uint16_t call, const char *name)
{
	unsigned f = at(p, call)->function, n = 0;
	for (uint16_t i = at(p, call)->first; i != NO_NODE; i = at(p, i)->next, n++) {
		if (at(p, i)->kind == LIST)
			return fail(p, at(p, i)->start, "%s() takes no list", name);
		if (functions[f].argument && want(p, i, functions[f].argument, name) < 0)
			return -1;
		if (f == F_DEFAULT && at(p, i)->type != at(p, at(p, call)->first)->type)
			return fail(p, at(p, i)->start, "default() needs two of a kind");
	}
	if (n < functions[f].min || n > functions[f].max)
		return fail(p, at(p, call)->start, "%s() takes %u%s argument%s, here are %u", name, functions[f].min,
		            functions[f].max == 255               ? " or more"
		            : functions[f].max > functions[f].min ? " or 2"
		                                                  : "",
		            functions[f].max == 1 ? "" : "s", n);
	if (f == F_ROUND && n == 2) {
		const struct node *digits = at(p, at(p, at(p, call)->first)->next);
		if (digits->kind != NUMBER || digits->number < 0 || digits->number > 15 || digits->number != floor(digits->number))
			return fail(p, digits->start, "the digits of round() have to be written as a whole number from 0 to 15");
	}
	if (functions[f].result == 0)
		at(p, call)->type = at(p, at(p, call)->first)->type;
	return 0;
}

static int parse_call(struct parser *p, uint32_t start, const char *name, unsigned f, uint16_t *ret)
{
	uint16_t last = NO_NODE, next = NO_NODE;
	if (make(p, CALL, functions[f].result, start, ret) < 0)
		return -1;
	at(p, *ret)->function = (uint8_t)f;
	while (p->token != T_CLOSE) {
		if (parse_or(p, &next) < 0)
			return -1;
		if (last == NO_NODE)
			at(p, *ret)->first = next;
		else
			at(p, last)->next = next;
		last = next;
		if (p->token != T_COMMA)
			break;
		if (advance(p) < 0)
			return -1;
	}
	if (expect(p, T_CLOSE, "')'") < 0)
		return -1;
	at(p, *ret)->end = p->last_end;
	return check_call(p, *ret, name);
}

static int parse_lookup(struct parser *p, uint32_t start, const char *name, unsigned which, uint16_t *ret)
{
	if (p->token != T_TEXT)
		return fail(p, p->start, "%s() takes one text in quotes", name);
	if (make(p, LOOKUP, FM_EXPR_TEXT, start, ret) < 0)
		return -1;
	at(p, *ret)->index = p->literal;
	at(p, *ret)->len = which;
	if (advance(p) < 0 || expect(p, T_CLOSE, "')'") < 0)
		return -1;
	at(p, *ret)->end = p->last_end;
	return 0;
}

static int parse_name(struct parser *p, uint16_t *ret)
{
	char name[FM_MAX_NAME + 1];
	uint32_t start = p->start, n = p->pos - p->start;
	if (n > FM_MAX_NAME)
		return fail(p, start, "a name of %u characters", n);
	memcpy(name, p->text + start, n);
	name[n] = '\0';
	if (advance(p) < 0)
		return -1;
	if (p->token == T_OPEN) {
		if (advance(p) < 0)
			return -1;
		for (unsigned f = 0; f < _F_MAX; f++)
			if (fm_streq(functions[f].name, name))
				return parse_call(p, start, name, f, ret);
		for (unsigned l = 0; p->v->lookups && p->v->lookups[l]; l++)
			if (fm_streq(p->v->lookups[l], name))
				return parse_lookup(p, start, name, l, ret);
		return unknown_name(p, start, name, true);
	}
	for (size_t i = 0; i < p->v->n_variables; i++)
		if (fm_streq(p->v->variables[i].name, name)) {
			if (make(p, VARIABLE, p->v->variables[i].type, start, ret) < 0)
				return -1;
			at(p, *ret)->index = (uint32_t)i;
			return 0;
		}
	return unknown_name(p, start, name, false);
}

static int parse_literal(struct parser *p, uint16_t *ret)
{
	enum token token = p->token;
	double number = p->number;
	uint32_t start = p->start, literal = p->literal, len = p->literal_len;
	if (advance(p) < 0)
		return -1;
	if (make(p,
	         token == T_NUMBER ? NUMBER
	         : token == T_TEXT ? TEXT
	                           : TRUTH,
	         token == T_NUMBER ? FM_EXPR_NUMBER
	         : token == T_TEXT ? FM_EXPR_TEXT
	                           : FM_EXPR_BOOL,
	         start, ret) < 0)
		return -1;
	at(p, *ret)->number = token == T_NUMBER ? number : token == T_TRUE;
	at(p, *ret)->index = literal;
	at(p, *ret)->len = len;
	if (token == T_TEXT && p->token == T_TEXT)
		return fail(p, p->start, "two texts beside each other");
	return 0;
}

static int parse_primary(struct parser *p, uint16_t *ret)
{
	switch (p->token) {
	case T_NUMBER:
	case T_TEXT:
	case T_TRUE:
	case T_FALSE:
		return parse_literal(p, ret);
	case T_NAME:
		return parse_name(p, ret);
	case T_OPEN:
	case T_OPEN_LIST:
		return parse_brackets(p, ret);
	case T_END:
		return fail(p, p->start, "something is missing at the end");
	default:
		return fail(p, p->start, "a number, a text, a name or '(' is missing here");
	}
}

static int parse_factor(struct parser *p, uint16_t *ret)
{
	uint32_t start = p->start;
	bool minus = p->op == OP_SUB;
	uint16_t operand = NO_NODE;
	if (p->token != T_OP || (p->op != OP_SUB && p->op != OP_ADD))
		return parse_primary(p, ret);
	if (enter(p) < 0 || advance(p) < 0 || parse_factor(p, &operand) < 0 || want(p, operand, FM_EXPR_NUMBER, "a sign") < 0)
		return -1;
	p->depth--;
	*ret = operand;
	if (!minus) {
		at(p, operand)->start = start;
		return 0;
	}
	if (make(p, NEGATE, FM_EXPR_NUMBER, start, ret) < 0)
		return -1;
	at(p, *ret)->first = operand;
	return 0;
}

/* a OP b OP c … as one node; of one operand as that operand */
static int parse_level(struct parser *p, enum kind kind, enum op from, enum op to, int (*operand)(struct parser *p, uint16_t *ret),
                       uint16_t *ret)
{
	uint32_t start = p->start;
	uint16_t first = NO_NODE, last, next = NO_NODE;
	if (operand(p, &first) < 0)
		return -1;
	*ret = first;
	if (p->token != T_OP || p->op < from || p->op > to)
		return 0;
	if (want(p, first, FM_EXPR_NUMBER, "arithmetic") < 0 || make(p, kind, FM_EXPR_NUMBER, start, ret) < 0)
		return -1;
	at(p, *ret)->first = last = first;
	while (p->token == T_OP && p->op >= from && p->op <= to) {
		enum op op = p->op;
		if (advance(p) < 0 || operand(p, &next) < 0 || want(p, next, FM_EXPR_NUMBER, "arithmetic") < 0)
			return -1;
		at(p, next)->op = (uint8_t)op;
		at(p, last)->next = next;
		last = next;
	}
	at(p, *ret)->end = p->last_end;
	return 0;
}

static int parse_product(struct parser *p, uint16_t *ret)
{
	return parse_level(p, PRODUCT, OP_MUL, OP_MOD, parse_factor, ret);
}

static int parse_sum(struct parser *p, uint16_t *ret)
{
	return parse_level(p, SUM, OP_ADD, OP_SUB, parse_product, ret);
}

/* The operator ahead; `not in` is two words. OP_NONE: none that compares. */
static int take_comparison(struct parser *p, enum op *ret)
{
	*ret = OP_NONE;
	if (p->token == T_OP && p->op >= OP_LT && p->op <= OP_NE)
		*ret = p->op;
	else if (p->token == T_IN)
		*ret = OP_IN;
	else if (p->token == T_NOT)
		*ret = OP_NOT_IN;
	if (*ret == OP_NONE)
		return 0;
	if (advance(p) < 0)
		return -1;
	return *ret == OP_NOT_IN ? expect(p, T_IN, "'in' after 'not'") : 0;
}

static int check_in(struct parser *p, uint16_t left, uint16_t right)
{
	const struct node *l = at(p, left), *r = at(p, right);
	if (r->kind == LIST) {
		if (r->first != NO_NODE && at(p, r->first)->type != l->type)
			return fail(p, r->start, "%s is looked for in a list of %s", type_name(l->type),
			            type_name(at(p, r->first)->type) + 2);
		return 0;
	}
	if (l->type == FM_EXPR_TEXT && r->type == FM_EXPR_TEXT)
		return 0;
	return fail(p, r->start, "'in' needs a list, or two texts, on its sides");
}

static int check_comparison(struct parser *p, enum op op, uint16_t left, uint16_t right, bool chained)
{
	const struct node *l = at(p, left), *r = at(p, right);
	bool in = op == OP_IN || op == OP_NOT_IN;
	if (in && chained)
		return fail(p, r->start, "'in' cannot be chained with other comparisons: use parentheses");
	if (l->kind == LIST || (r->kind == LIST && !in))
		return fail(p, l->kind == LIST ? l->start : r->start, "a list can only stand on the right of 'in'");
	if (in)
		return check_in(p, left, right);
	if (l->type != r->type)
		return fail(p, r->start, "%s is compared with %s", type_name(l->type), type_name(r->type));
	if (l->type == FM_EXPR_BOOL && op != OP_EQ && op != OP_NE)
		return fail(p, r->start, "a yes or no is neither less nor more than another");
	return 0;
}

static int parse_comparison(struct parser *p, uint16_t *ret)
{
	uint32_t start = p->start;
	uint16_t first = NO_NODE, last, next = NO_NODE;
	enum op op = OP_NONE;
	bool in = false;
	if (parse_sum(p, &first) < 0 || take_comparison(p, &op) < 0)
		return -1;
	*ret = first;
	if (op == OP_NONE)
		return 0;
	if (make(p, COMPARE, FM_EXPR_BOOL, start, ret) < 0)
		return -1;
	at(p, *ret)->first = last = first;
	while (op != OP_NONE) {
		if (parse_sum(p, &next) < 0 || check_comparison(p, op, last, next, last != first) < 0)
			return -1;
		in = op == OP_IN || op == OP_NOT_IN;
		at(p, next)->op = (uint8_t)op;
		at(p, last)->next = next;
		at(p, *ret)->end = p->last_end;
		last = next;
		if (take_comparison(p, &op) < 0)
			return -1;
		if (in && op != OP_NONE)
			return fail(p, p->start, "'in' cannot be chained with other comparisons: use parentheses");
	}
	return 0;
}

static int parse_not(struct parser *p, uint16_t *ret)
{
	uint32_t start = p->start;
	uint16_t operand = NO_NODE;
	if (p->token != T_NOT)
		return parse_comparison(p, ret);
	if (enter(p) < 0 || advance(p) < 0 || parse_not(p, &operand) < 0 || want(p, operand, FM_EXPR_BOOL, "'not'") < 0)
		return -1;
	p->depth--;
	if (make(p, NOT, FM_EXPR_BOOL, start, ret) < 0)
		return -1;
	at(p, *ret)->first = operand;
	return 0;
}

static int parse_words(struct parser *p, enum token word, enum kind kind, int (*operand)(struct parser *p, uint16_t *ret), uint16_t *ret)
{
	uint32_t start = p->start;
	const char *name = kind == AND ? "'and'" : "'or'";
	uint16_t first = NO_NODE, last, next = NO_NODE;
	if (operand(p, &first) < 0)
		return -1;
	*ret = first;
	if (p->token != word)
		return 0;
	if (want(p, first, FM_EXPR_BOOL, name) < 0 || make(p, kind, FM_EXPR_BOOL, start, ret) < 0)
		return -1;
	at(p, *ret)->first = last = first;
	while (p->token == word) {
		if (advance(p) < 0 || operand(p, &next) < 0 || want(p, next, FM_EXPR_BOOL, name) < 0)
			return -1;
		at(p, last)->next = next;
		last = next;
	}
	at(p, *ret)->end = p->last_end;
	return 0;
}

static int parse_and(struct parser *p, uint16_t *ret)
{
	return parse_words(p, T_AND, AND, parse_not, ret);
}

static int parse_or(struct parser *p, uint16_t *ret)
{
	if (enter(p) < 0 || parse_words(p, T_OR, OR, parse_and, ret) < 0)
		return -1;
	p->depth--;
	return 0;
}

/* ---------------------------------------------------------------- expressions */

int fm_expr_parse(const char *text, size_t len, const struct fm_expr_vocabulary *v, struct fm_expr **ret, struct fm_error *err)
{
	if (len > FM_MAX_EXPR_BYTES)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "an expression of %zu bytes, at most %u are read", len, FM_MAX_EXPR_BYTES);
	_fm_cleanup_(fm_expr_freep) struct fm_expr *e = calloc(1, sizeof(*e));
	if (!e || !(e->text = malloc(len + 1)) || !(e->texts = malloc(len + 2)) ||
	    !(e->nodes = calloc(FM_MAX_EXPR_NODES, sizeof(*e->nodes))))
		abort(); /* small, see the limits */
	memcpy(e->text, text, len);
	e->text[len] = '\0';
	e->v = v;
	struct parser p = { .e = e, .err = err, .v = v, .text = e->text, .len = (uint32_t)len };
	if (advance(&p) < 0 || parse_or(&p, &e->root) < 0)
		return -1;
	if (p.token != T_END)
		return fail(&p, p.start, "the expression should end here, or go on with an operator");
	if (e->nodes[e->root].kind == LIST || e->nodes[e->root].type != FM_EXPR_BOOL)
		return fail(&p, e->nodes[e->root].start, "it has to come to a yes or no, this is %s",
		            e->nodes[e->root].kind == LIST ? "a list" : type_name(e->nodes[e->root].type));
	struct node *fitting = reallocarray(e->nodes, e->n, sizeof(*e->nodes));
	e->nodes = fitting ? fitting : e->nodes;
	*ret = FM_TAKE_PTR(e);
	return 0;
}

void fm_expr_free(struct fm_expr *e)
{
	if (!e)
		return;
	free(e->text);
	free(e->texts);
	free(e->nodes);
	free(e);
}
