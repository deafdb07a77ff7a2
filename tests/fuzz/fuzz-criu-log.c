/* SPDX-License-Identifier: MIT */
/* fuzz-criu-log.c - libFuzzer entry for CRIU's log, in which are names that the container's processes have chosen, and which becomes an error's text. */
#include "container/criu-log.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int folder_fd = -1;
	char path[128], text[600], small[24];

	if (folder_fd < 0)
		folder_fd = open(fuzz_folder(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	(void)snprintf(path, sizeof(path), "%s/dump.log", fuzz_folder());
	fuzz_write_file(path, data, size);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	memset(text, 'x', sizeof(text));
	fm_criu_log_errors(folder_fd, "dump.log", -1, text, sizeof(text));
	assert(strnlen(text, sizeof(text)) < sizeof(text) && !strchr(text, '\n'));
	(void)fm_criu_log_advice(text);
	memset(small, 'x', sizeof(small));
	fm_criu_log_errors(folder_fd, "dump.log", fd, small, sizeof(small));
	assert(strnlen(small, sizeof(small)) < sizeof(small) && !strchr(small, '\n'));
	fm_criu_log_errors(-1, NULL, fd, text, sizeof(text));
	assert(strnlen(text, sizeof(text)) < sizeof(text) && !strchr(text, '\n'));
	close(fd);
	return 0;
}
