#!/usr/bin/env python3
"""Our migrations next to the same moves with stock tools: one run, one machine, one workload.

    bench/compare.py --quick             what "make bench-quick" does, under five minutes
    bench/compare.py                     everything, which takes hours
    bench/compare.py --mb 512 --tools fleximigrate:live --runs 20 --links 1gbit

A Redis is filled with text and gets a paced load of reads and writes over 16 connections (load-client); it is moved back and forth. Each line of the result is one tool, strategy, size,
share of writes and link. Written to bench/results/latest.json:
    downtime_ms      the longest wait of any client for any reply, from the start of the move until all of it is over
    total_ms         from the order to the last page's arrival
    wire_bytes       from host to host, as the source's packet filter counts them
    resident_bytes   what Redis has in memory
    cpu_s            of the tools on the source and on the destination, the moved program not counted
    peak_extra_bytes the machine's memory in use at its peak, above what is was before and above the second copy that a move cannot do without
    throughput_ratio requests per second during the move (downtime included), relative to the seconds before
Compare figures of one run only: a machine's speed drifts.
"""

import argparse
import json
import os
import signal
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "tools", "lab")]
import meter  # noqa: E402
import report  # noqa: E402
import stock  # noqa: E402
import workload  # noqa: E402
from cluster import CONTAINER_IP, Cluster, build_dir  # noqa: E402

RATE = 20000
SETTLE_S = 0.5
REDIS = ["redis-server", "--save", "", "--appendonly", "no", "--protected-mode", "no", "--bind", "0.0.0.0", "--logfile", ""]
STOCK = {"runc-stop-and-copy": "stop-and-copy", "runc-lazy": "lazy"}
ALL_TOOLS = ["fleximigrate:live", "fleximigrate:post-copy", "fleximigrate:pre-copy", "fleximigrate:cold", "runc-stop-and-copy", "runc-lazy"]
QUICK_TOOLS = ["fleximigrate:live", "fleximigrate:post-copy", "runc-stop-and-copy", "runc-lazy"]


class Ours:
    def __init__(self, cluster, strategy):
        self.cluster, self.strategy = cluster, strategy
        cluster.run_redis("redis", "src")

    def move(self, to):
        """Returns the CPU seconds of each host."""
        agents = {host: self.cluster.agents[host].process.pid for host in ("src", "dst")}
        before = {host: meter.cpu_seconds(pid) for host, pid in agents.items()}
        migration = self.cluster.migrate("redis", to, "--strategy", self.strategy)
        if migration["state"] != "COMPLETED":
            raise SystemExit(f"a migration failed: {migration['error_message']}")
        return {host: meter.cpu_seconds(pid) - before[host] for host, pid in agents.items()}

    def end(self):
        self.cluster.cli("container", "rm", "--force", "redis", check=False)


class Stock:
    def __init__(self, cluster, tool):
        self.tool = tool
        self.runc = stock.Runc(cluster.lab, "redis", lambda host: cluster.make_bundle(f"redis-{host}", REDIS), CONTAINER_IP)
        self.runc.start()
        cluster.wait("Redis answers", lambda: cluster.redis(CONTAINER_IP, "PING", check=False).stdout.strip() == "PONG")

    def move(self, to):
        if self.tool == "runc-lazy":
            self.runc.move_lazy()
        else:
            self.runc.move_stop_and_copy()
        return self.runc.cpu

    def end(self):
        self.runc.end()


def resident_bytes(cluster):
    return int(next(line for line in cluster.redis(CONTAINER_IP, "INFO", "memory").stdout.splitlines() if line.startswith("used_memory_rss:")).split(":")[1])


def one_move(subject, load, wires, source, destination):
    first = load.report()
    time.sleep(SETTLE_S)
    load.reset()
    start = load.report()
    sent = wires[source].bytes()
    with meter.PeakMemory() as memory:
        clock = time.monotonic()
        cpu = subject.move(destination)
        total_ms = (time.monotonic() - clock) * 1000
    end = load.report()
    quiet = (start["requests"] - first["requests"]) / (start["now_ms"] - first["now_ms"])
    busy = (end["requests"] - start["requests"]) / (end["now_ms"] - start["now_ms"])
    return {"downtime_ms": end["longest_gap_ms"], "total_ms": total_ms, "wire_bytes": wires[source].bytes() - sent, "cpu_source_s": cpu[source], "cpu_destination_s": cpu[destination],
            "peak_bytes": memory.bytes(), "throughput_ratio": busy / quiet if quiet else None}


def measure(tool, megabytes, write_percent, link, runs, rate):
    name, _, strategy = tool.partition(":")
    with Cluster(f"bench{os.getpid() % 10000}") as cluster:
        subject = Ours(cluster, strategy) if name == "fleximigrate" else Stock(cluster, name)
        load = None
        try:
            load = workload.Load(cluster.lab, "cli", workload.program(build_dir()), CONTAINER_IP, megabytes, rate, write_percent)
            resident = resident_bytes(cluster)
            if link != "unlimited":
                for host in ("src", "dst"):
                    cluster.lab.shape(host, link)
            wires = {"src": meter.Wire(cluster.lab, "src", "dst"), "dst": meter.Wire(cluster.lab, "dst", "src")}
            moves = [one_move(subject, load, wires, *(("src", "dst"), ("dst", "src"))[run % 2]) for run in range(runs)]
            for host in ("src", "dst"):
                cluster.lab.shape(host, None)
            last = load.finish()
        finally:
            if load:
                load.end()
            subject.end()
    return {"tool": name, "strategy": strategy or STOCK[name], "workload": "redis", "memory_mb": megabytes, "write_share": write_percent / 100, "rate_per_s": rate, "link": link, "runs": runs,
            **report.summary(moves, resident), "resident_bytes": resident, "lost_writes": last["lost_writes"], "reconnects": 0 if not last["error"] else None}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="64 and 512 MB, 50 %% writes, no limit on the link, 5 runs")
    parser.add_argument("--tools", help=",".join(ALL_TOOLS))
    parser.add_argument("--mb", help="sizes of the Redis (64,512,2048; 0: empty)")
    parser.add_argument("--writes", help="percent of requests that write (0,20,80)")
    parser.add_argument("--links", help="unlimited,1gbit,100mbit")
    parser.add_argument("--runs", type=int, help="moves of each kind (10)")
    parser.add_argument("--rate", type=int, default=RATE, help="requests per second, 0: idle (%(default)s)")
    parser.add_argument("--output", default=os.path.join(HERE, "results"), help="folder of latest.json and index.html")
    arguments = parser.parse_args()
    quick = arguments.quick
    arguments.tools = (arguments.tools or ",".join(QUICK_TOOLS if quick else ALL_TOOLS)).split(",")
    arguments.mb = [int(word) for word in (arguments.mb or ("64,512" if quick else "64,512,2048")).split(",")]
    arguments.writes = [int(word) for word in (arguments.writes or ("50" if quick else "0,20,80")).split(",")]
    arguments.links = (arguments.links or ("unlimited" if quick else "unlimited,1gbit,100mbit")).split(",")
    arguments.runs = arguments.runs or (5 if quick else 10)
    return arguments


def main():
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and cleans up
    results = []
    for megabytes in arguments.mb:
        for write_percent in arguments.writes:
            for link in arguments.links:
                for tool in arguments.tools:
                    results.append(measure(tool, megabytes, write_percent, link, arguments.runs, arguments.rate))
                    print(report.line(results[-1]), flush=True)
    report.write(arguments.output, results)
    print(report.ratios(results))


if __name__ == "__main__":
    main()
