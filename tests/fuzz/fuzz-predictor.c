/* SPDX-License-Identifier: MIT */
/*
 * fuzz-predictor.c - libFuzzer entry for states of predictors. A state is some hundred kilobytes: the input is a list of changes to a right one, {u24 offset, u8 length up to 15, bytes}, and the checksum
 * is made right again, as an attacker would. The first byte chooses the kinds of members. What is loaded gives forecasts that are numbers inside their intervals, also after further observations, and can
 * be saved and loaded again.
 */
#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "decision/predictor-internal.h"

#define HEADER_BYTES 24u
#define STEP_MS      300000
#define FED          200

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint32_t crc32_of(const uint8_t *data, size_t n)
{
	static uint32_t table[256];
	uint32_t crc = 0xffffffffu;
	for (uint32_t i = 0; i < 256 && !table[255]; i++) {
		table[i] = i;
		for (int bit = 0; bit < 8; bit++)
			table[i] = table[i] & 1 ? table[i] >> 1 ^ 0xedb88320u : table[i] >> 1;
	}
	for (size_t i = 0; i < n; i++)
		crc = crc >> 8 ^ table[(crc ^ data[i]) & 255];
	return ~crc;
}

/* Made once: what a state of these kinds looks like after some observations. */
static const struct fm_buf *right_state(bool expensive)
{
	static struct fm_buf state[2];
	struct fm_predictor_options o = { .members = expensive ? FM_PREDICTOR_FOREST | FM_PREDICTOR_LSTM : FM_PREDICTOR_CHEAP };
	struct fm_predictor *p = NULL;
	if (state[expensive].len)
		return &state[expensive];
	assert(fm_predictor_new(&o, &p, NULL) == 0);
	for (int i = 0; i < FED; i++)
		assert(fm_predictor_observe(p, (int64_t)i * STEP_MS, 10 + i % 7, NULL) == 0);
	assert(fm_predictor_save(p, &state[expensive], NULL) == 0);
	fm_predictor_free(p);
	return &state[expensive];
}

static void check_forecasts(const struct fm_predictor *p)
{
	struct fm_forecast f;
	for (unsigned h = 1; h <= FM_PREDICTOR_HORIZONS; h++) {
		if (fm_predictor_forecast(p, h, &f, NULL) < 0) {
			assert(p->core.series.count == 0);
			return;
		}
		assert(f.low <= f.value && f.value <= f.high);
	}
}

static void use(struct fm_predictor *p)
{
	struct fm_predictor *again = NULL;
	struct fm_buf buf = FM_BUF_INIT;
	/* the next steps, with one missing: long gaps only cost time */
	int64_t stamp = p->core.origin_ms + (int64_t)p->core.options.step_ms * (p->core.newest % 100000 + 1);
	check_forecasts(p);
	for (int i = 0; i < 3; i++, stamp += (int64_t)p->core.options.step_ms * (1 + i))
		(void)fm_predictor_observe(p, stamp, 11 + i, NULL);
	check_forecasts(p);
	assert(fm_predictor_save(p, &buf, NULL) == 0);
	if (fm_predictor_load(buf.data, buf.len, &again, NULL) == 0)
		fm_predictor_free(again);
	fm_buf_done(&buf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fm_predictor *p = NULL;
	struct fm_buf copy = FM_BUF_INIT;
	struct fm_error err = FM_ERROR_INIT;
	const struct fm_buf *right = right_state(size && data[0] & 1);
	uint32_t crc;

	/* as it is: mostly no state at all */
	if (fm_predictor_load(data, size, &p, &err) == 0)
		fm_predictor_free(p);
	fm_buf_add(&copy, right->data, right->len);
	for (size_t at = 1; at + 4 <= size;) {
		size_t offset = data[at] | (size_t)data[at + 1] << 8 | (size_t)data[at + 2] << 16, n = data[at + 3] & 15;
		for (at += 4; n > 0 && at < size; n--, at++, offset++)
			copy.data[HEADER_BYTES + offset % (copy.len - HEADER_BYTES)] = (char)data[at];
	}
	crc = crc32_of((const uint8_t *)copy.data + HEADER_BYTES, copy.len - HEADER_BYTES);
	memcpy(copy.data + 12, &crc, sizeof(crc));
	p = NULL;
	if (fm_predictor_load(copy.data, copy.len, &p, &err) == 0) {
		use(p);
		fm_predictor_free(p);
	} else {
		assert(err.code != FM_OK && err.message[0]);
	}
	fm_buf_done(&copy);
	return 0;
}
