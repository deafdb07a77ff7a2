/* SPDX-License-Identifier: MIT */
/* test-monitor-parse.c - texts of /proc and of control groups: as kernels write them, cut off, and with numbers that are too large. */
#include "check.h"

#include <math.h>

#include "monitor/parse.h"

static void test_numbers(void **state)
{
	uint64_t v = 7;

	assert_true(fm_parse_number("123\n", &v) && v == 123);
	assert_true(fm_parse_number("18446744073709551615", &v) && v == UINT64_MAX);
	assert_false(fm_parse_number("18446744073709551616", &v));
	assert_false(fm_parse_number("max\n", &v) || fm_parse_number("", &v) || fm_parse_number("12x", &v) || fm_parse_number("-1", &v));
	assert_true(fm_parse_keyed("pgfaultx 1\npgfault 22\npgmajfault 3\n", "pgfault", &v) && v == 22);
	assert_true(fm_parse_keyed("MemTotal:       16 kB\n", "MemTotal:", &v) && v == 16);
	assert_false(fm_parse_keyed("apgfault 22\n", "pgfault", &v) || fm_parse_keyed("pgfault", "pgfault", &v) ||
	             fm_parse_keyed("pgfault \n", "pgfault", &v));
}

static void test_processor(void **state)
{
	uint64_t busy, all;
	double v;

	assert_true(fm_parse_cpu_ticks("cpu  10 20 30 400 50 6 7 8 100 200\ncpu0 1 2\n", &busy, &all));
	assert_int_equal(all, 531); /* guests are in user already */
	assert_int_equal(busy, 81);
	assert_true(fm_parse_cpu_ticks("cpu 1 2 3 4\n", &busy, &all) && busy == 6 && all == 10); /* a kernel of old */
	assert_false(fm_parse_cpu_ticks("cpu 1 2 3\n", &busy, &all) || fm_parse_cpu_ticks("cpu0 1 2 3 4\n", &busy, &all) ||
	             fm_parse_cpu_ticks("", &busy, &all));
	assert_true(fm_parse_load1("0.52 0.58 0.59 1/467 12345\n", &v) && fabs(v - 0.52) < 1e-9);
	assert_false(fm_parse_load1("x", &v) || fm_parse_load1("1.", &v));
	assert_true(fm_parse_pressure("some avg10=1.00 avg60=12.34 avg300=0.00 total=5\nfull avg10=0.00 avg60=99.00 avg300=0.00 total=0\n",
	                              &v));
	assert_true(fabs(v - 12.34) < 1e-9);
	assert_false(fm_parse_pressure("some avg10=1.00\nfull avg10=0 avg60=99.00\n", &v)); /* the other line's */
	assert_false(fm_parse_pressure("full avg10=0 avg60=9.00\n", &v) || fm_parse_pressure("some avg60=1 \n", &v) == false);
	assert_false(fm_parse_pressure("some avg10=0 avg60=1000.00 \n", &v));
}

static void test_network(void **state)
{
	static const char text[] = "Inter-|   Receive                                                |  Transmit\n"
	                           " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo "
	                           "colls carrier compressed\n"
	                           "    lo: 100 1 0 0 0 0 0 0 100 1 0 0 0 0 0 0\n"
	                           "  eth0:4000 40 0 0 0 0 0 0 5000 50 0 0 0 0 0 0\n"
	                           "short: 1 2 3\n"
	                           "fm0123abcd: 7 1 0 0 0 0 0 0 8 1";
	struct fm_net_line l;
	const char *p = text;
	uint64_t v;

	assert_true(fm_parse_net_line(&p, &l) && strcmp(l.name, "lo") == 0);
	assert_true(fm_parse_net_line(&p, &l) && strcmp(l.name, "eth0") == 0 && l.in_bytes == 4000 && l.out_bytes == 5000);
	assert_true(fm_parse_net_line(&p, &l) && strcmp(l.name, "fm0123abcd") == 0 && l.in_bytes == 7 && l.out_bytes == 8);
	assert_false(fm_parse_net_line(&p, &l));
	assert_true(fm_parse_established("Ip: Forwarding DefaultTTL\nIp: 1 64\nTcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens "
	                                 "PassiveOpens AttemptFails EstabResets CurrEstab InSegs\n"
	                                 "Tcp: 1 200 120000 -1 5 6 7 8 42 10\nUdp: x\n",
	                                 &v) &&
	            v == 42);
	assert_false(fm_parse_established("Tcp: CurrEstab\n", &v) || fm_parse_established("Tcp: A B\nTcp: 1 2\n", &v) ||
	             fm_parse_established("Tcp: A CurrEstab\nTcp: 1\n", &v));
}

static void test_disks(void **state)
{
	static const char text[] = " 254       0 vda 690500 48815 1304 2150547 3215631 2383223 4999 7102162 1 665716 9551522\n 7 0 loop0 0 "
	                           "0 0\n   8  1 sda1 1 2 3 4 5 6 7 8 9 10 11\n";
	struct fm_disk_line d;
	const char *p = text;
	uint64_t in, out;

	assert_true(fm_parse_disk_line(&p, &d) && strcmp(d.name, "vda") == 0);
	assert_true(d.read_bytes == 1304 * 512 && d.written_bytes == 4999 * 512 && d.busy_ms == 665716);
	assert_true(fm_parse_disk_line(&p, &d) && strcmp(d.name, "sda1") == 0 && d.busy_ms == 10);
	assert_false(fm_parse_disk_line(&p, &d));
	assert_true(fm_parse_blkio("8:0 Read 100\n8:0 Write 20\n8:0 Sync 5\n8:0 Total 120\n254:0 Read 1\n254:0 Write 2\nTotal 123\n", &in,
	                           &out) &&
	            in == 101 && out == 22);
	assert_true(
	        fm_parse_io_stat("8:0 rbytes=100 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n254:0 rbytes=1 wbytes=2 rios=0\n", &in, &out) &&
	        in == 101 && out == 22);
	assert_true(fm_parse_io_stat("", &in, &out) && in == 0 && out == 0); /* it has not touched a disk */
	assert_false(fm_parse_io_stat("8:0 rbytes=x wbytes=1\n", &in, &out) ||
	             fm_parse_blkio("8:0 Read 18446744073709551615\n8:16 Read 1\n", &in, &out));
}

static void test_pids(void **state)
{
	const char *p = "12\n0\nx\n345\n6";
	int pid;

	assert_true(fm_parse_pid_line(&p, &pid) && pid == 12);
	assert_true(fm_parse_pid_line(&p, &pid) && pid == 345);
	assert_false(fm_parse_pid_line(&p, &pid)); /* "6" may be the beginning of "678" */
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_numbers), cmocka_unit_test(test_processor),
		                            cmocka_unit_test(test_network), cmocka_unit_test(test_disks), cmocka_unit_test(test_pids) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
