/* SPDX-License-Identifier: MIT */
/* fuzz-procmaps.c - libFuzzer entry for maps and smaps, in which a process has the names of its files and, with prctl, of its memory. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "basic/procmaps.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
	const char *text;
	size_t n, stop_after;
};

static char *copy_of(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);

	if (!text)
		abort();
	memcpy(text, data, size);
	text[size] = '\0';
	return text;
}

static void one_line(const char *line)
{
	struct fm_map m;

	if (!fm_map_parse(line, &m))
		return;
	assert(m.start < m.end);
	assert(m.name > line && m.name <= line + strlen(line));
	assert(*m.name != ' ');
	assert(!fm_map_is_private_anonymous(&m) || (!m.shared && m.inode == 0));
}

static int mapping(void *userdata, const char *header, char *flags)
{
	struct seen *s = userdata;

	one_line(header);
	assert(!strchr(header, '\n') && !strchr(flags, '\n') && header >= s->text && flags > header);
	(void)fm_smaps_has_flag(flags, "sd");
	return ++s->n == s->stop_after ? -5 : 0;
}

static void whole_text(const uint8_t *data, size_t size)
{
	char *maps = copy_of(data, size), *smaps = copy_of(data, size);
	struct seen s = { .text = smaps, .stop_after = size ? data[0] % 8 + 1 : 1 };

	for (char *line = *maps ? maps : NULL, *next; line; line = next) {
		next = fm_cut_line(line);
		one_line(line);
	}
	assert(fm_smaps_each(smaps, mapping, &s) == (s.n == s.stop_after ? -5 : 0));
	free(maps);
	free(smaps);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const starts[] = { "1000-2000 rw-p 00000000 00:00 0", "7f00-8f00 r--s 0 0:1 77", "1000-2000 rw-p 0 00:00 0 [" };

	whole_text(data, size);
	/* As the end of a line that is one. */
	for (unsigned i = 0; i < 3; i++) {
		size_t n = strlen(starts[i]);
		uint8_t *text = malloc(n + size);
		if (!text)
			abort();
		memcpy(text, starts[i], n);
		if (size)
			memcpy(text + n, data, size);
		whole_text(text, n + size);
		free(text);
	}
	return 0;
}
