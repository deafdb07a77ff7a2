/* SPDX-License-Identifier: MIT */
/*
 * ovs-lab.h - a real Open vSwitch with its datapath in user space, for one test program alone: in a network namespace of the program's own and a folder of its own, ended with it.
 *
 *   br-a: ports 1, 2, 3 are veths whose other ends p1, p2, p3 the test holds; listens on tcp:127.0.0.1:6653.  br-b: no ports, a Unix socket.
 *
 * What flows there are is asked with ovs-ofctl, which is not ours. Included by one program.
 */
#ifndef FM_TESTS_OVS_LAB_H
#define FM_TESTS_OVS_LAB_H

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/str.h"
#include "loop/child.h"
#include "network/openflow-group.h"

#define WAIT_MS 20000
#define TCP_A   "tcp:127.0.0.1:6653"
#define DPID_A  0xaull
#define DPID_B  0xbull

struct ovs_lab {
	char dir[64], address_b[128];
	pid_t db, vswitchd;
};

/* NULL: it can run here */
static inline const char *ovs_is_missing(void)
{
	if (geteuid() != 0)
		return "network namespaces need root";
	if (!fm_found_in_path("ovs-vswitchd") || !fm_found_in_path("ovs-ofctl"))
		return "Open vSwitch is not installed (package openvswitch-switch)";
	return NULL;
}

/* Its output, to be freed; the test fails with it otherwise. */
static inline char *lab_output(const char *command)
{
	char *argv[] = { "sh", "-c", (char *)command, NULL };
	struct fm_child_opts o = { .timeout_ms = WAIT_MS };
	struct fm_child_result r = { 0 };
	struct fm_error e = FM_ERROR_INIT;

	if (fm_child_run(argv, &o, &r, &e) < 0)
		fail_msg("%s: %s", command, e.message);
	char *out = fm_xstrdup(r.out);
	fm_child_result_done(&r);
	return out;
}

__attribute__((format(printf, 1, 2))) static inline void lab_run(const char *fmt, ...)
{
	_fm_free_ char *command = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&command, fmt, ap) < 0)
		abort();
	va_end(ap);
	free(lab_output(command));
}

/* A child that does not outlive us, whatever happens */
static inline pid_t lab_start(char *const *argv, const char *log)
{
	pid_t parent = getpid(), pid = fork();

	assert_true(pid >= 0);
	if (pid > 0)
		return pid;
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent || !freopen("/dev/null", "r", stdin) ||
	    !freopen(log, "a", stdout) || !freopen(log, "a", stderr))
		_exit(126);
	execvp(argv[0], argv);
	_exit(127);
}

static inline void lab_end(pid_t *pid, int signal_number)
{
	if (*pid <= 0)
		return;
	(void)kill(*pid, signal_number);
	(void)kill(*pid, SIGCONT);
	(void)waitpid(*pid, NULL, 0);
	*pid = 0;
}

static inline void lab_await_socket(const char *path)
{
	uint64_t deadline = fm_now_ms() + WAIT_MS;
	int fd;

	while (fm_unix_connect(path, SOCK_STREAM, &fd, NULL) < 0) {
		assert_true(fm_deadline_left_ms(deadline) > 0);
		fm_pause_ms(5);
	}
	close(fd);
}

/* The bridges come from its database; when ovs-vsctl without --no-wait returns, the switch has them. */
static inline void lab_start_switch(struct ovs_lab *lab)
{
	_fm_free_ char *db = fm_xasprintf("unix:%s/db.sock", lab->dir), *ctl = fm_xasprintf("--unixctl=%s/ctl", lab->dir),
	               *log = fm_xasprintf("%s/log", lab->dir), *pid = fm_xasprintf("--pidfile=%s/vswitchd.pid", lab->dir);
	char *argv[] = { "ovs-vswitchd", db, ctl, pid, NULL };

	lab->vswitchd = lab_start(argv, log);
	lab_run("ovs-vsctl --db=$DB --timeout=15 set bridge br-a other-config:lab=%d", (int)lab->vswitchd);
}

static inline void lab_up(struct ovs_lab *lab)
{
	*lab = (struct ovs_lab){ 0 };
	assert_sys(unshare(CLONE_NEWNET));
	(void)snprintf(lab->dir, sizeof(lab->dir), "/tmp/fm-ovs-XXXXXX");
	assert_non_null(mkdtemp(lab->dir));
	(void)snprintf(lab->address_b, sizeof(lab->address_b), "unix:%s/br-b.mgmt", lab->dir);
	_fm_free_ char *sock = fm_xasprintf("%s/db.sock", lab->dir), *remote = fm_xasprintf("--remote=punix:%s", sock),
	               *db = fm_xasprintf("%s/db", lab->dir), *ctl = fm_xasprintf("--unixctl=%s/dbctl", lab->dir),
	               *log = fm_xasprintf("%s/log", lab->dir), *address = fm_xasprintf("unix:%s", sock);
	setenv("OVS_RUNDIR", lab->dir, 1);
	setenv("OVS_DBDIR", lab->dir, 1);
	setenv("DB", address, 1);
	lab_run("ip link set lo up");
	for (int i = 1; i <= 3; i++)
		lab_run("ip link add p%d type veth peer name s%d && ip link set p%d up && ip link set s%d up", i, i, i, i);
	lab_run("ovsdb-tool create %s", db);
	lab->db = lab_start((char *[]){ "ovsdb-server", remote, ctl, db, NULL }, log);
	lab_await_socket(sock);
	lab_run("ovs-vsctl --db=$DB --no-wait init");
	lab_run("ovs-vsctl --db=$DB --no-wait add-br br-a -- set bridge br-a datapath_type=netdev fail_mode=secure "
	        "other-config:datapath-id=000000000000000a");
	lab_run("ovs-vsctl --db=$DB --no-wait add-br br-b -- set bridge br-b datapath_type=netdev fail_mode=secure "
	        "other-config:datapath-id=000000000000000b");
	for (int i = 1; i <= 3; i++)
		lab_run("ovs-vsctl --db=$DB --no-wait add-port br-a s%d -- set interface s%d ofport_request=%d", i, i, i);
	lab_run("ovs-vsctl --db=$DB --no-wait set-controller br-a ptcp:6653:127.0.0.1");
	lab_start_switch(lab);
}

static inline void lab_down(struct ovs_lab *lab)
{
	lab_end(&lab->vswitchd, SIGTERM);
	lab_end(&lab->db, SIGTERM);
	assert_ok(fm_remove_tree(lab->dir, &err));
}

/* ovs-ofctl's list of a bridge's flows without counters, one a line: "priority=7,dl_dst=… actions=output:2" */
static inline char *lab_flows(const char *bridge)
{
	_fm_free_ char *command =
	        fm_xasprintf("ovs-ofctl -O OpenFlow14 --no-stats --no-names --rsort=priority dump-flows unix:$OVS_RUNDIR/%s.mgmt | "
	                     "sed 's/^ *//; /^OFPST/d; s/^cookie=0x[0-9a-f]*, //'",
	                     bridge);

	return lab_output(command);
}

static inline void assert_flows(const char *bridge, const char *expected)
{
	_fm_free_ char *flows = lab_flows(bridge);

	assert_string_equal(flows, expected);
}

#endif
