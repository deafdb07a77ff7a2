/* SPDX-License-Identifier: MIT */
/*
 * parse.h - the texts of /proc, /sys and control groups as numbers. Pure functions of text: what is missing or malformed is not there, and is never taken for zero. The text ends with NUL; it is not changed; lines
 * may be cut off at its end.
 *
 * Sources: proc(5), Documentation/filesystems/proc.rst, admin-guide/iostats.rst, accounting/psi.rst, admin-guide/cgroup-v1 and cgroup-v2.rst of the kernel.
 */
#ifndef FM_MONITOR_PARSE_H
#define FM_MONITOR_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* "123\n": the whole text is one number. false for "max" too. */
bool fm_parse_number(const char *text, uint64_t *ret);
/* The number after `key` and blanks at the beginning of a line: "pgfault 12", "MemTotal:   12 kB". */
bool fm_parse_keyed(const char *text, const char *key, uint64_t *ret);
/* The first line of /proc/stat: ticks in which processors did anything, and all; waiting for disks is idle, guests are in user already. */
bool fm_parse_cpu_ticks(const char *text, uint64_t *ret_busy, uint64_t *ret_all);
/* "some avg10=0.00 avg60=1.25 …": avg60 of the line of `some` */
bool fm_parse_pressure(const char *text, double *ret);
bool fm_parse_load1(const char *text, double *ret);
/* CurrEstab of /proc/net/snmp: established TCP connections (and those whose other side has closed) of a network namespace, IPv4 and IPv6. */
bool fm_parse_established(const char *text, uint64_t *ret);

struct fm_net_line {
	char name[16];
	uint64_t in_bytes, out_bytes;
};
/* The next interface of /proc/net/dev at *p, which moves on; false: there is none. */
bool fm_parse_net_line(const char **p, struct fm_net_line *ret);

struct fm_disk_line {
	char name[32];
	uint64_t read_bytes, written_bytes, busy_ms;
};
bool fm_parse_disk_line(const char **p, struct fm_disk_line *ret); /* of /proc/diskstats */

/* Sums over devices. v1: blkio.throttle.io_service_bytes ("8:0 Read 12"), v2: io.stat ("8:0 rbytes=12 wbytes=0 …"). An empty text is a group that has read and written nothing. */
bool fm_parse_blkio(const char *text, uint64_t *ret_read, uint64_t *ret_written);
bool fm_parse_io_stat(const char *text, uint64_t *ret_read, uint64_t *ret_written);

/* The next line of cgroup.procs. */
bool fm_parse_pid_line(const char **p, int *ret);

#endif
