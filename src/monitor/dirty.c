/* SPDX-License-Identifier: MIT */
/* dirty.c - see dirty.h. */
#include "monitor/dirty.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

#include "basic/cleanup.h"
#include "basic/procmaps.h"

#define PAGE         4096u
#define PRESENT      (1ull << 63)
#define LISTED_MAX   64u   /* processes whose size is asked for */
#define MAPPINGS_MAX 2048u /* of one process; with more it is not looked into */
#define DRAWS_A_PAGE 16u   /* addresses that are tried for each page: much of what is mapped may never have been touched */
#define PAGES_MIN    32u   /* fewer say nothing */
#define MAPS_BYTES   65536u
#define LINE_BYTES   8192u
#define BATCH        32u /* pages read with one call */

struct process {
	pid_t pid;
	uint64_t bytes; /* private */
};
struct mapping {
	uint64_t start, first_page; /* the number of its first page among all pages of its process */
};
struct sampled {
	uint64_t address, hash;
	pid_t pid;
	bool gone;
};

struct fm_dirty {
	char root[256];
	uint64_t random;
	struct process process[LISTED_MAX]; /* largest first; the first n_looked_into are looked into */
	size_t n_processes, n_looked_into;
	struct mapping mapping[MAPPINGS_MAX + 1];
	struct sampled sample[FM_DIRTY_PAGES];
	size_t n;
	uint64_t private_bytes, began_us;
	bool once_more;
	char text[MAPS_BYTES + LINE_BYTES];
	uint8_t pages[BATCH][PAGE];
};

struct fm_dirty *fm_dirty_new(uint64_t seed)
{
	struct fm_dirty *d = calloc(1, sizeof(*d));

	if (d)
		d->random = seed | 1;
	return d;
}

void fm_dirty_free(struct fm_dirty *d)
{
	free(d);
}

/* xorshift64*, Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled" (2016) */
static uint64_t draw(struct fm_dirty *d, uint64_t below)
{
	d->random ^= d->random >> 12;
	d->random ^= d->random << 25;
	d->random ^= d->random >> 27;
	return (uint64_t)(((__uint128_t)(d->random * 0x2545f4914f6cdd1dull) * below) >> 64);
}

/* ---- sizes */

/* Resident memory that is no file's and not shared: /proc/PID/statm, resident - shared. 0: it has ended. */
static uint64_t private_bytes(const struct fm_dirty *d, pid_t pid)
{
	char path[320], text[128];
	unsigned long long size, resident, shared;

	(void)snprintf(path, sizeof(path), "%s/proc/%d/statm", d->root, (int)pid);
	_fm_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? pread(fd, text, sizeof(text) - 1, 0) : -1;
	text[n > 0 ? n : 0] = '\0';
	if (sscanf(text, "%llu %llu %llu", &size, &resident, &shared) != 3 || shared > resident)
		return 0;
	return (uint64_t)(resident - shared) * PAGE;
}

static int larger_first(const void *a, const void *b)
{
	const struct process *x = a, *y = b;

	return (x->bytes < y->bytes) - (x->bytes > y->bytes);
}

static uint64_t measure(struct fm_dirty *d, const pid_t *pids, size_t n)
{
	uint64_t all = 0;

	d->n_processes = n < LISTED_MAX ? n : LISTED_MAX;
	for (size_t i = 0; i < d->n_processes; i++) {
		d->process[i] = (struct process){ .pid = pids[i], .bytes = private_bytes(d, pids[i]) };
		all += d->process[i].bytes;
	}
	qsort(d->process, d->n_processes, sizeof(d->process[0]), larger_first);
	for (d->n_looked_into = 0;
	     d->n_looked_into < d->n_processes && d->n_looked_into < FM_DIRTY_PROCESSES && d->process[d->n_looked_into].bytes;
	     d->n_looked_into++)
		;
	return all;
}

/* ---- which pages */

struct mappings {
	size_t n;
	uint64_t pages;
};

/* false: too many */
static bool add_mapping(struct fm_dirty *d, const char *line, struct mappings *all)
{
	struct fm_map m;

	if (!fm_map_parse(line, &m) || !m.writable || m.shared || strncmp(m.name, "[v", 2) == 0)
		return true;
	if (all->n == MAPPINGS_MAX)
		return false;
	d->mapping[all->n++] = (struct mapping){ .start = m.start, .first_page = all->pages };
	all->pages += (m.end - m.start) / PAGE;
	d->mapping[all->n].first_page = all->pages;
	return true;
}

/* The private writable mappings of a process; 0 pages: it cannot be looked into. The text is read piece by piece: a process may have a great many. */
static struct mappings find_mappings(struct fm_dirty *d, pid_t pid)
{
	struct mappings all = { 0 };
	char path[320];
	size_t have = 0;
	ssize_t n;

	(void)snprintf(path, sizeof(path), "%s/proc/%d/maps", d->root, (int)pid);
	_fm_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	while (fd >= 0 && (n = read(fd, d->text + have, MAPS_BYTES - have)) > 0) {
		char *line = d->text, *end;
		have += (size_t)n;
		d->text[have] = '\0';
		for (; (end = strchr(line, '\n')); line = end + 1) {
			*end = '\0';
			if (!add_mapping(d, line, &all))
				return (struct mappings){ 0 };
		}
		have = strlen(line);
		memmove(d->text, line, have);
		if (have > LINE_BYTES)
			return (struct mappings){ 0 };
	}
	return all;
}

static uint64_t address_of(const struct fm_dirty *d, const struct mappings *all, uint64_t page)
{
	size_t low = 0, high = all->n;

	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;
		if (d->mapping[middle].first_page <= page)
			low = middle;
		else
			high = middle;
	}
	return d->mapping[low].start + (page - d->mapping[low].first_page) * PAGE;
}

/* A page that is not present is not asked for: that would bring it in, or even make somebody else wait. */
static bool is_present(int pagemap, uint64_t address)
{
	uint64_t entry;

	return pread(pagemap, &entry, sizeof(entry), (off_t)(address / PAGE * sizeof(entry))) == sizeof(entry) && (entry & PRESENT);
}

static void draw_pages(struct fm_dirty *d, pid_t pid, size_t wanted)
{
	char path[320];
	struct mappings all = find_mappings(d, pid);

	(void)snprintf(path, sizeof(path), "%s/proc/%d/pagemap", d->root, (int)pid);
	_fm_close_ int pagemap = open(path, O_RDONLY | O_CLOEXEC);
	if (pagemap < 0 || !all.pages)
		return;
	for (size_t tries = wanted * DRAWS_A_PAGE, got = 0; tries && got < wanted && d->n < FM_DIRTY_PAGES; tries--) {
		uint64_t address = address_of(d, &all, draw(d, all.pages));
		if (!is_present(pagemap, address))
			continue;
		d->sample[d->n++] = (struct sampled){ .address = address, .pid = pid };
		got++;
	}
}

/* ---- looking */

/* Pages first to last - 1, all of one process. Those that cannot be read are gone. Returns how many have another hash than before. */
static unsigned hash_batch(struct fm_dirty *d, size_t first, size_t last)
{
	struct iovec local[BATCH], remote[BATCH];
	unsigned changed = 0;
	size_t done = first;

	while (done < last) {
		size_t n = last - done;
		for (size_t i = 0; i < n; i++) {
			local[i] = (struct iovec){ .iov_base = d->pages[i], .iov_len = PAGE };
			remote[i] = (struct iovec){ .iov_base = (void *)(uintptr_t)d->sample[done + i].address, .iov_len = PAGE };
		}
		ssize_t got = process_vm_readv(d->sample[done].pid, local, n, remote, n, 0);
		size_t whole = got > 0 ? (size_t)got / PAGE : 0;
		for (size_t i = 0; i < whole; i++) {
			uint64_t hash = XXH3_64bits(d->pages[i], PAGE);
			changed += hash != d->sample[done + i].hash;
			d->sample[done + i].hash = hash;
		}
		done += whole;
		if (done < last)
			d->sample[done++].gone = true;
	}
	return changed;
}

static void compact(struct fm_dirty *d)
{
	size_t kept = 0;

	for (size_t i = 0; i < d->n; i++)
		if (!d->sample[i].gone)
			d->sample[kept++] = d->sample[i];
	d->n = kept;
}

/* As hash_batch, of all. `keep`: the hashes stay those of the first look. */
static unsigned hash_all(struct fm_dirty *d, bool keep)
{
	uint64_t before[FM_DIRTY_PAGES] = { 0 };
	unsigned changed = 0;

	for (size_t i = 0; i < d->n; i++)
		before[i] = d->sample[i].hash;
	for (size_t i = 0, end; i < d->n; i = end) {
		for (end = i; end < d->n && end - i < BATCH && d->sample[end].pid == d->sample[i].pid; end++)
			;
		changed += hash_batch(d, i, end);
	}
	for (size_t i = 0; keep && i < d->n; i++)
		d->sample[i].hash = before[i];
	compact(d);
	return changed;
}

bool fm_dirty_begin(struct fm_dirty *d, const char *root, const pid_t *pids, size_t n, uint64_t now_us)
{
	uint64_t looked_into = 0;

	(void)snprintf(d->root, sizeof(d->root), "%s", root);
	d->n = 0;
	d->once_more = false;
	d->began_us = now_us;
	d->private_bytes = measure(d, pids, n);
	for (size_t i = 0; i < d->n_looked_into; i++)
		looked_into += d->process[i].bytes;
	for (size_t i = 0; i < d->n_looked_into; i++)
		draw_pages(d, d->process[i].pid, (size_t)(d->process[i].bytes * FM_DIRTY_PAGES / looked_into));
	(void)hash_all(d, false);
	return d->n >= PAGES_MIN;
}

int fm_dirty_look(struct fm_dirty *d, uint64_t now_us, uint64_t *ret)
{
	uint64_t passed_us = now_us - d->began_us, now_bytes = 0;

	if (passed_us < (d->once_more ? FM_DIRTY_LONG_MS : FM_DIRTY_SHORT_MS) * 950ull)
		return 0;
	unsigned changed = hash_all(d, true);
	if (d->n < PAGES_MIN)
		return -1;
	if (changed < FM_DIRTY_FEW && !d->once_more) {
		d->once_more = true;
		return 0;
	}
	for (size_t i = 0; i < d->n_processes; i++) {
		uint64_t bytes = private_bytes(d, d->process[i].pid);
		if (!bytes && i < d->n_looked_into)
			return -1;
		now_bytes += bytes;
	}
	double grown = now_bytes > d->private_bytes ? (double)(now_bytes - d->private_bytes) : 0;
	double written = (double)d->private_bytes * changed / (double)d->n;
	*ret = (uint64_t)((written + grown) * 1e6 / (double)passed_us);
	return 1;
}
