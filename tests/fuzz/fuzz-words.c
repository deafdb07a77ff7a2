/* SPDX-License-Identifier: MIT */
/* fuzz-words.c - libFuzzer entry for the small texts of requests and options: addresses, health checks, names, sizes, times, trailers. The first byte chooses which. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/str.h"
#include "decision/strategy.h"
#include "network/endpoint.h"
#include "network/sockets.h"
#include "rpc/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void outcome(int rc, const struct fm_error *err)
{
	assert((rc == 0) == (err->code == FM_OK));
	assert(rc == 0 || err->message[0]);
}

/* Parts are separated by line ends. */
static void endpoint(char *text)
{
	struct fm_endpoint_config c = { 0 };
	struct fm_error err = FM_ERROR_INIT;
	char *part[7] = { text, "", "", "10.77.0.5/24", "", "", "" };

	for (unsigned i = 1; i < FM_ARRAY_SIZE(part); i++) {
		char *end = part[i - 1] ? strchr(part[i - 1], '\n') : NULL;
		if (!end)
			break;
		*end = '\0';
		part[i] = end + 1;
	}
	const struct fm_endpoint_words w = { part[0], part[1], part[2], part[3], part[4], part[5], part[6] };
	int rc = fm_endpoint_config_parse(&w, "name", 0, &c, &err);
	outcome(rc, &err);
	if (rc < 0)
		return;
	assert(c.bridge[0] && memchr(c.bridge, '\0', sizeof(c.bridge)) && memchr(c.ifname, '\0', sizeof(c.ifname)));
	assert(!(c.mac[0] & 1) && c.prefix_len <= 32 && c.prefix6_len <= 128 && (c.prefix_len || c.prefix6_len));
	assert((c.prefix_len == 0) == (c.address.s_addr == 0));
	assert((c.prefix6_len == 0) == (IN6_IS_ADDR_UNSPECIFIED(&c.address6) != 0));
	char text6[FM_ENDPOINT_ADDRESSES_LEN];
	fm_endpoint_addresses_format(&c, text6);
	assert(strlen(text6) < sizeof(text6));
}

static void wire_texts(const uint8_t *data, size_t size)
{
	char small[16], decoded[64], encoded[64];
	char *text = strndup((const char *)data, size);

	fm_wire_text(small, sizeof(small), (const char *)data, size);
	assert(strlen(small) < sizeof(small));
	for (const char *p = small; *p; p++)
		assert((unsigned char)*p >= ' ' && *p != 0x7f);
	fm_wire_trailer_decode(decoded, sizeof(decoded), (const char *)data, size);
	fm_wire_trailer_encode(encoded, sizeof(encoded), text);
	for (const char *p = encoded; *p; p++)
		assert(*p >= ' ' && *p < 0x7f);
	free(text);
}

static void numbers(const char *text)
{
	struct fm_error err = FM_ERROR_INIT;
	uint64_t v = 0;
	int i = 0;

	outcome(fm_parse_bytes(text, &v, &err), &err);
	err = FM_ERROR_INIT;
	outcome(fm_parse_duration_ms(text, &v, &err), &err);
	err = FM_ERROR_INIT;
	outcome(fm_parse_u64(text, &v, &err), &err);
	err = FM_ERROR_INIT;
	int rc = fm_parse_int(text, -3, 7, &i, &err);
	outcome(rc, &err);
	assert(rc < 0 || (i >= -3 && i <= 7));
}

static void names(char *text)
{
	enum fm_strategy s;
	struct fm_error err = FM_ERROR_INIT;

	outcome(fm_strategy_from_string(text, &s, &err), &err);
	if (fm_name_is_valid(text)) {
		assert(text[0] && text[0] != '.' && strlen(text) <= 63);
		for (const char *p = text; *p; p++)
			assert(*p > ' ' && *p < 0x7f && *p != '/');
	}
	fm_str_sanitize(text);
	for (const char *p = text; *p; p++)
		assert((unsigned char)*p >= ' ' && *p != 0x7f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fm_error err = FM_ERROR_INIT;

	if (size == 0)
		return 0;
	char *text = strndup((const char *)data + 1, size - 1);
	if (!text)
		return 0;
	switch (data[0] % 5) {
	case 0:
		endpoint(text);
		break;
	case 1:
		outcome(fm_probe_spec_check(text, &err), &err);
		break;
	case 2:
		wire_texts(data + 1, size - 1);
		break;
	case 3:
		numbers(text);
		break;
	default:
		names(text);
	}
	free(text);
	return 0;
}
