#!/usr/bin/env python3
"""Downtime of migrations, phase by phase, by size of memory and by strategy.

    bench/switchover.py [--mb 0,64,512] [--strategies post-copy,cold] [--runs 5] [--rto-min 5ms|off]

A Redis of each size is moved back and forth; one client increments over one connection. Prints, for each size and strategy, the median and the range of the client's longest wait for a
reply, of the freeze as the hosts measured it, and of each phase. The client's retransmission time-out quantises waits upwards: 5 ms at least is set on the lab client's route (the kernel's own
200 ms with --rto-min off). Compare figures of one run only: the machine's speed drifts.
"""

import argparse
import os
import statistics
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools", "lab"))
from cluster import CONTAINER_IP, FORGETFUL, Cluster  # noqa: E402


def spread(values):
    return f"{statistics.median(values):8.1f}  ({min(values):.1f} - {max(values):.1f})"


def one(cluster, client, to, strategy):
    client.reset()
    migration = cluster.migrate("redis", to, "--strategy", strategy)
    if migration["state"] != "COMPLETED":
        raise SystemExit(f"a migration failed: {migration['error_message']}")
    before = int(cluster.redis(CONTAINER_IP, "GET", "counter").stdout)
    cluster.wait("the client goes on", lambda: int(cluster.redis(CONTAINER_IP, "GET", "counter").stdout) > before + 100)
    return migration


def measure(megabytes, strategy, runs, rto_min):
    with Cluster(f"bench{os.getpid() % 10000}", agent_options={host: FORGETFUL for host in ("src", "dst")}) as cluster:
        if rto_min == "off":
            cluster.lab._set_rto_min("cli", "200ms")
        cluster.run_redis("redis", "src")
        if megabytes:
            cluster.load_redis(CONTAINER_IP, megabytes)
        gaps, frozen, totals, phases = [], [], [], {}
        for run in range(runs):
            client = cluster.client()
            cluster.wait("the client writes", lambda: cluster.redis(CONTAINER_IP, "GET", "counter", check=False).stdout.strip().isdigit())
            migration = one(cluster, client, ("dst", "src")[run % 2], strategy)
            report = client.finish()
            if report["error"]:
                raise SystemExit(f"the client's connection failed: {report['error']}")
            gaps.append(report["longest_gap_ms"])
            frozen.append(migration["frozen_us"] / 1000)
            totals.append(migration["finished_unix_ms"] - migration["created_unix_ms"])
            for phase in migration["phases"]:
                phases.setdefault(phase["name"], []).append(phase["duration_us"] / 1000)
    print(f"\n{megabytes} MB, {strategy}, {runs} runs; ms, median (min - max)")
    for name, values in [("client's longest wait", gaps), ("frozen", frozen), ("total", totals), *[(f"  {name}", values) for name, values in phases.items()]]:
        print(f"  {name:<24}{spread(values)}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", default="0,64,512")
    parser.add_argument("--strategies", default="post-copy,cold")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rto-min", default="5ms", choices=("5ms", "off"))
    arguments = parser.parse_args()
    for megabytes in arguments.mb.split(","):
        for strategy in arguments.strategies.split(","):
            measure(int(megabytes), strategy, arguments.runs, arguments.rto_min)


if __name__ == "__main__":
    main()
