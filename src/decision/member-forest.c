/* SPDX-License-Identifier: MIT */
/*
 * member-forest.c - a random forest (Breiman 2001), grown by XGBoost's C library: one round of 40 trees in parallel on samples of rows and of columns, leaves set to the median of what falls into them.
 *
 * A forest cannot say what it has not seen, and levels of these series shift: inputs and answers are relative to center and scale of the step they belong to, and it is grown anew from the newest 800 steps
 * after every 144 observations. There is one for 1, 3, 6 and 12 steps; horizons between are interpolated. One thread, and its seed is the predictor's: same series, same forest.
 *
 * The library only grows. Its trees are read from its text form into arrays of our own, which are asked here: that takes microseconds, nothing of the library is held between two growings, and a state is
 * saved with its trees. When growing fails (memory), the forest says the last value until the next time.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xgboost/c_api.h>

#include "decision/predictor-internal.h"

#define FORESTS     4u
#define TREES       40u
#define NODES       127u /* of a tree of depth 6 */
#define ROWS        800u
#define ROWS_LEAST  150u
#define RECENT      12u /* newest values that are inputs */
#define COLUMNS     (RECENT + 4u)
#define EVERY_STEPS 144u
#define ANSWER_MOST 20.0
#define REACH       48u /* of the inputs into the past, in steps */
#define LEAF        255u

static const unsigned forest_horizon[FORESTS] = { 1, 3, 6, 12 };
static const unsigned further[COLUMNS - RECENT - 1] = { 17, 23, 47 };

struct node {
	float value;                /* of a leaf; else where it splits: smaller goes to `yes` */
	uint8_t column, yes, no, _; /* column LEAF: a leaf */
};
struct tree {
	struct node node[NODES];
};
struct forest {
	uint64_t seed, grown_at; /* grown_at: the series' count then; 0: not yet */
	uint64_t usable;
	double share[FORESTS]; /* of one tree in the answer */
	struct tree tree[FORESTS][TREES];
};

static void inputs_at(const struct fm_past *s, uint32_t back, float *x, double *ret_center, double *ret_scale)
{
	unsigned n = 0;
	fm_past_norm(s, back, ret_center, ret_scale);
	for (unsigned i = 0; i < RECENT; i++)
		x[n++] = (float)((fm_past_at(s, back + i) - *ret_center) / *ret_scale);
	for (unsigned i = 0; i < FM_ARRAY_SIZE(further); i++)
		x[n++] = (float)((fm_past_at(s, back + further[i]) - *ret_center) / *ret_scale);
	x[n] = s->n_day ? (float)((s->count - back) % s->n_day) : 0;
}

static int set_parameters(BoosterHandle b, uint64_t seed)
{
	char number[24];
	const char *const pairs[][2] = {
		{ "verbosity", "0" },
		{ "nthread", "1" },
		{ "tree_method", "hist" },
		{ "max_bin", "64" },
		{ "objective", "reg:absoluteerror" },
		{ "num_parallel_tree", "40" },
		{ "max_depth", "6" },
		{ "learning_rate", "1" },
		{ "subsample", "0.7" },
		{ "colsample_bynode", "0.5" },
		{ "min_child_weight", "5" },
		{ "lambda", "0" },
		{ "seed", number },
		{ "base_score", "0" },
	};
	(void)snprintf(number, sizeof(number), "%u", (unsigned)(seed & 0x7fffffff));
	for (unsigned i = 0; i < FM_ARRAY_SIZE(pairs); i++)
		if (XGBoosterSetParam(b, pairs[i][0], pairs[i][1]) != 0)
			return -1;
	return 0;
}

/*
 * A line of the library's text form: "3:[f2<-0.33] yes=5,no=6,missing=6" or "5:leaf=0.25". Children come after their parent; a number out of range is refused, so that asking always ends.
 */
static bool read_node(struct tree *t, const char *line)
{
	unsigned at, column, yes, no;
	float value;
	if (sscanf(line, " %u:leaf=%f", &at, &value) == 2) {
		if (at >= NODES || !isfinite(value))
			return false;
		t->node[at] = (struct node){ .value = value, .column = LEAF };
		return true;
	}
	if (sscanf(line, " %u:[f%u<%f] yes=%u,no=%u", &at, &column, &value, &yes, &no) != 5)
		return false;
	if (at >= NODES || column >= COLUMNS || !isfinite(value) || yes <= at || no <= at || yes >= NODES || no >= NODES)
		return false;
	t->node[at] = (struct node){ .value = value, .column = (uint8_t)column, .yes = (uint8_t)yes, .no = (uint8_t)no };
	return true;
}

static bool read_tree(struct tree *t, const char *text)
{
	for (unsigned i = 0; i < NODES; i++)
		t->node[i] = (struct node){ .column = LEAF };
	for (const char *end; *text; text = *end ? end + 1 : end) {
		end = strchrnul(text, '\n');
		if (!read_node(t, text))
			return false;
	}
	return true;
}

static bool read_trees(BoosterHandle b, struct tree *tree)
{
	const char **text;
	bst_ulong n;
	bool good = XGBoosterDumpModelEx(b, "", 0, "text", &n, &text) == 0 && n == TREES;
	for (unsigned i = 0; i < TREES && good; i++)
		good = read_tree(&tree[i], text[i]);
	return good;
}

/* One forest from rows. */
static bool grow_one(const float *x, const float *answers, unsigned rows, uint64_t seed, struct tree *tree)
{
	DMatrixHandle matrix = NULL;
	BoosterHandle b = NULL;
	bool good = XGDMatrixCreateFromMat_omp(x, rows, COLUMNS, NAN, &matrix, 1) == 0 &&
	            XGDMatrixSetFloatInfo(matrix, "label", answers, rows) == 0 && XGBoosterCreate(&matrix, 1, &b) == 0 &&
	            set_parameters(b, seed) == 0 && XGBoosterUpdateOneIter(b, 0, matrix) == 0 && read_trees(b, tree);
	if (b)
		(void)XGBoosterFree(b);
	if (matrix)
		(void)XGDMatrixFree(matrix);
	return good;
}

static double sum_of_trees(const struct tree *tree, const float *x)
{
	double sum = 0;
	for (unsigned i = 0; i < TREES; i++) {
		const struct node *n = tree[i].node;
		while (n->column != LEAF)
			n = tree[i].node + (x[n->column] < n->value ? n->yes : n->no);
		sum += (double)n->value;
	}
	return sum;
}

/* XGBoost 1.7.4 does not divide leaves that it sets to medians by the number of trees grown in parallel, others do: what fits the rows better is right. */
static double share_of_tree(const struct tree *tree, const float *x, const float *answers, unsigned rows)
{
	double as_sum = 0, as_mean = 0;
	for (unsigned r = 0; r < rows; r++) {
		double sum = sum_of_trees(tree, x + (size_t)r * COLUMNS);
		as_sum += fabs(sum - (double)answers[r]);
		as_mean += fabs(sum / TREES - (double)answers[r]);
	}
	return as_sum < as_mean ? 1 : 1.0 / TREES;
}

static void grow(struct forest *f, const struct fm_past *s)
{
	uint32_t rows = s->n - FM_HORIZONS - REACH;
	_fm_free_ float *x = NULL, *answers = NULL;
	rows = rows < ROWS ? rows : ROWS;
	f->usable = 0;
	x = malloc(rows * COLUMNS * sizeof(*x));
	answers = malloc(FORESTS * rows * sizeof(*answers));
	if (!x || !answers)
		return;
	for (uint32_t r = 0; r < rows; r++) {
		double center, scale;
		inputs_at(s, FM_HORIZONS + r, x + (size_t)r * COLUMNS, &center, &scale);
		for (unsigned i = 0; i < FORESTS; i++) {
			double y = (fm_past_at(s, FM_HORIZONS + r - forest_horizon[i]) - center) / scale;
			answers[(size_t)i * rows + r] = (float)fmin(fmax(y, -ANSWER_MOST), ANSWER_MOST);
		}
	}
	f->usable = 1;
	for (unsigned i = 0; i < FORESTS && f->usable; i++) {
		f->usable = grow_one(x, answers + (size_t)i * rows, rows, f->seed + i, f->tree[i]);
		f->share[i] = share_of_tree(f->tree[i], x, answers + (size_t)i * rows, rows);
	}
}

static void forest_init(void *state, uint64_t seed)
{
	((struct forest *)state)->seed = seed;
}

static void forest_observe(void *state, const struct fm_past *s)
{
	struct forest *f = state;
	if (s->missing || s->count - f->grown_at < EVERY_STEPS || s->n < ROWS_LEAST + FM_HORIZONS + REACH)
		return;
	grow(f, s);
	f->grown_at = s->count;
}

/* What a made-up state must not do is to go round in circles or out of an array. */
static bool forest_wake(void *state, const struct fm_past *s)
{
	const struct forest *f = state;
	for (unsigned i = 0; i < FORESTS * TREES; i++)
		for (unsigned k = 0; k < NODES; k++) {
			const struct node *n = &f->tree[i / TREES][i % TREES].node[k];
			if (f->usable && n->column != LEAF &&
			    (n->column >= COLUMNS || n->yes <= k || n->no <= k || n->yes >= NODES || n->no >= NODES))
				return false;
		}
	return f->grown_at <= s->count;
}

static void forest_forecast(const void *state, const struct fm_past *s, double (*out)[FM_HORIZONS])
{
	const struct forest *f = state;
	float x[COLUMNS];
	double center, scale, answer[FORESTS];
	inputs_at(s, 0, x, &center, &scale);
	for (unsigned i = 0; i < FORESTS && f->usable; i++)
		answer[i] = f->share[i] * sum_of_trees(f->tree[i], x);
	for (unsigned h = 1, i = 0; h <= FM_HORIZONS; h++) {
		double part;
		if (!f->usable) {
			out[0][h - 1] = fm_past_at(s, 0);
			continue;
		}
		while (i + 2 < FORESTS && h > forest_horizon[i + 1])
			i++;
		part = (double)(h - forest_horizon[i]) / (forest_horizon[i + 1] - forest_horizon[i]);
		out[0][h - 1] = center + scale * (answer[i] + part * (answer[i + 1] - answer[i]));
	}
}

const struct fm_family fm_family_forest = {
	.kind = FM_PREDICTOR_FOREST,
	.n = 1,
	.names = { "forest" },
	.state_bytes = sizeof(struct forest),
	.init = forest_init,
	.observe = forest_observe,
	.forecast = forest_forecast,
	.wake = forest_wake,
};
