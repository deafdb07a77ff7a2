#!/usr/bin/env python3
"""Our migrations next to the same moves with stock tools: one run, one machine, the same workloads.

    bench/compare.py --quick             what "make bench-quick" does, under five minutes
    bench/compare.py                     everything, which takes days
    bench/compare.py --mb 512 --tools fleximigrate:live --runs 20 --links 1gbit
    bench/compare.py --visits 2          an idle container moves there and back: what the second move costs

What each figure means, and what it does not, is in bench/README.md. Compare figures of one run only: a machine's speed drifts.
"""

import argparse
import os
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "tools", "lab")]
import chart  # noqa: E402
import link  # noqa: E402
import meter  # noqa: E402
import podman  # noqa: E402
import report  # noqa: E402
import stock  # noqa: E402
import workload  # noqa: E402
from cluster import CONTAINER_IP, FORGETFUL, Cluster, ClusterError  # noqa: E402
from lab import LabError  # noqa: E402

RATE = 20000
SETTLE_S = 1.0
CLIENT_HOST = "cli"
NAME = "moved"
STRATEGIES = {"runc-stop-and-copy": "stop-and-copy", "runc-lazy": "lazy", "podman": "stop-and-copy"}  # of stock tools
OUR_TOOLS = ["fleximigrate:live", "fleximigrate:post-copy", "fleximigrate:pre-copy", "fleximigrate:cold"]
ALL_TOOLS = [*OUR_TOOLS, *STRATEGIES]
QUICK_TOOLS = ["fleximigrate:live", "fleximigrate:post-copy", "runc-stop-and-copy", "runc-lazy"]
FAILURES = (RuntimeError, ClusterError, LabError, OSError, subprocess.SubprocessError, ValueError)


class Ours:
    def __init__(self, cluster, case, strategy):
        self.cluster, self.case, self.strategy = cluster, case, strategy
        self.options = ["--streams", str(case.streams)] if case.streams else []

    def start(self):
        bundle = workload.make_bundle(self.cluster, self.case, NAME)
        self.cluster.cli("container", "run", NAME, "--host", "src", "--bundle", bundle, "--address", f"{CONTAINER_IP}/24")

    def move(self, to):
        """Returns the CPU seconds of each host, and when clients had not noticed anything yet."""
        agents = {host: self.cluster.agents[host].process.pid for host in ("src", "dst")}
        before = {host: meter.cpu_seconds(pid) for host, pid in agents.items()}
        migration = self.cluster.migrate(NAME, to, "--strategy", self.strategy, *self.options, timeout=900)
        if migration["state"] != "COMPLETED":
            raise RuntimeError(f"a migration failed: {migration['error_message']}")
        return {host: meter.cpu_seconds(pid) - before[host] for host, pid in agents.items()}, _windows(migration)

    def end(self):
        self.cluster.cli("container", "rm", "--force", NAME, check=False)


def _windows(migration):
    """Real times: all that comes before the freeze, and the rounds in it."""
    lasted = {phase["name"]: phase["duration_us"] / 1000 for phase in migration["phases"]}
    execution = next(transition["at_unix_ms"] for transition in migration["transitions"] if transition["to"] == "EXECUTION")
    freeze = execution + sum(lasted.get(name, 0) for name in ("rounds", "files-warm", "criu-ready"))
    windows = {"before_freeze": (migration["created_unix_ms"], freeze)}
    if "rounds" in lasted:
        windows["rounds"] = (execution, execution + lasted["rounds"])
    return windows


class Stock:
    def __init__(self, cluster, case):
        def bundle_for(host):
            return workload.make_bundle(cluster, case, f"{NAME}-{host}")
        if case.tool == "podman":
            self.container = podman.Podman(cluster.lab, NAME, bundle_for, workload.SERVERS[case.workload].command(case), CONTAINER_IP)
        else:
            self.container = stock.Runc(cluster.lab, NAME, bundle_for, CONTAINER_IP, lazy=case.tool == "runc-lazy")

    def start(self):
        self.container.start()

    def move(self, to):
        self.container.move()
        return self.container.cpu, {}

    def end(self):
        self.container.end()


def one_move(subject, load, wires, source, destination):
    first = load.report()
    time.sleep(SETTLE_S)
    start = load.report()
    load.reset()
    sent, back = wires[source].bytes(), wires[destination].bytes()
    with meter.PeakMemory() as memory:
        clock = time.monotonic()
        cpu, windows = subject.move(destination)
        total_ms = (time.monotonic() - clock) * 1000
    end = load.report()
    gap = load.settled(end["now_ms"])
    quiet = (start["requests"] - first["requests"]) / (start["now_ms"] - first["now_ms"])
    busy = (end["requests"] - start["requests"]) / (end["now_ms"] - start["now_ms"])
    rates = {name: workload.per_ms(end, *windows[name]) if name in windows else None for name in ("rounds", "before_freeze")}
    return {"downtime_ms": gap["longest_gap_ms"], "downtime_from_ms": gap["gap_at_ms"] - gap["intervals_from_ms"] if gap["gap_at_ms"] else None, "total_ms": total_ms,
            "wire_bytes": wires[source].bytes() - sent, "back_bytes": wires[destination].bytes() - back, "cpu_source_s": cpu[source], "cpu_destination_s": cpu[destination],
            "peak_bytes": memory.bytes(),
            **{f"throughput_{name}": rate / quiet if quiet and rate is not None else None for name, rate in {**rates, "whole": busy}.items()}}


def described(case):
    name, _, strategy = case.tool.partition(":")
    return {"tool": name, "strategy": strategy or STRATEGIES[name], "workload": case.workload, "memory_mb": case.megabytes, "load": case.load(), "write_share": case.write_percent / 100,
            "pages_per_s": case.pages_per_s, "rate_per_s": 0 if case.idle else case.rate, "link": case.link, "queue": case.queue, "runs": case.runs, "streams": case.streams}


def measure(case):
    name, _, strategy = case.tool.partition(":")
    forget = {} if case.idle else {host: FORGETFUL for host in ("src", "dst")}  # moves go there and back: each is to be a first one
    with Cluster(f"bench{os.getpid() % 10000}", agent_options=forget) as cluster:
        subject = Ours(cluster, case, strategy) if name == "fleximigrate" else Stock(cluster, case)
        load = None
        try:
            link.delay(cluster.lab, case.link, workload.tool("delay-line"))
            link.shape(cluster.lab, case.link, case.queue == "fair")
            link_bits = link.measured_bits_per_s(cluster.lab)
            link.shape(cluster.lab, "unlimited")  # until it is loaded
            subject.start()
            workload.await_answer(cluster, CLIENT_HOST, case, CONTAINER_IP)
            load = workload.Load(cluster.lab, CLIENT_HOST, CONTAINER_IP, case)
            resident = meter.resident_bytes(f"/fleximigrate/{cluster.name}/")
            link.shape(cluster.lab, case.link, case.queue == "fair")
            wires = {"src": meter.Wire(cluster.lab, "src", "dst"), "dst": meter.Wire(cluster.lab, "dst", "src")}
            moves = [one_move(subject, load, wires, *(("src", "dst"), ("dst", "src"))[run % 2]) for run in range(case.runs)]
            link.shape(cluster.lab, "unlimited")
            last = load.finish()
        finally:
            if load:
                load.end()
            subject.end()
    return {**described(case), **report.summary(moves, resident, link_bits), "resident_bytes": resident, "link_measured_bits_per_s": round(link_bits),
            "moves": moves, "lost_writes": last["lost_writes"], "reconnects": 0 if not last["error"] else None, **(report.visits(moves) if case.idle else {})}


def measured(case):
    """A line of the result in any case: what cannot be measured, or was not, says why."""
    reason = (podman.missing() if case.tool == "podman" else None) or workload.missing(case)
    if reason is None:
        try:
            return measure(case)
        except FAILURES as error:
            return {**described(case), "failed": str(error).strip()}
    return {**described(case), "not_run": reason}


def _loads(arguments, name):
    """(percent of writes, pages per second) that make sense for a workload"""
    if name == "dirtier":
        return [(0, rate) for rate in arguments.pages_per_s]
    return [(percent, 0) for percent in arguments.writes] if workload.SERVERS[name].writes else [(0, 0)]


def cases(arguments):
    for name in arguments.workload:
        server = workload.SERVERS[name]
        for megabytes in arguments.mb if server.sized else [0]:
            for write_percent, pages_per_s in _loads(arguments, name):
                for rate in arguments.links:
                    for tool in arguments.tools:
                        yield workload.Case(tool=tool, workload=name, megabytes=megabytes, write_percent=write_percent, link=rate, queue=arguments.queue, runs=arguments.visits or arguments.runs,
                                            rate=arguments.rate, pages_per_s=pages_per_s, working_mb=arguments.working_mb, idle=bool(arguments.visits), streams=arguments.streams)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a Redis of 64 and 512 MB, 50 %% writes, no limit on the link, 5 runs")
    parser.add_argument("--tools", help=",".join(ALL_TOOLS))
    parser.add_argument("--workload", help=",".join(workload.SERVERS))
    parser.add_argument("--mb", help="sizes (64,512,2048; 0: empty); nginx has none")
    parser.add_argument("--writes", help="percent of requests that write, for redis and memcached (0,20,80)")
    parser.add_argument("--pages-per-s", help="pages that the dirtier changes in a second (1000,20000)")
    parser.add_argument("--working-mb", type=int, default=64, help="of the dirtier's memory are changed at all (%(default)s)")
    parser.add_argument("--links", help="unlimited,10gbit,1gbit,100mbit,1gbit+20ms (a round trip takes 20 ms longer)")
    parser.add_argument("--queue", default="fair", choices=("fair", "fifo"), help="what a limited link does with a migration and clients: a queue for each, or one (%(default)s)")
    parser.add_argument("--runs", type=int, help="moves of each kind (10)")
    parser.add_argument("--rate", type=int, default=RATE, help="requests per second (%(default)s); 0: none")
    parser.add_argument("--visits", type=int, default=0, metavar="N", help="an idle container makes N moves, there and back; our tools only, and no figures of a load")
    parser.add_argument("--streams", type=int, default=0, metavar="N", help="of pages before the switch-over, for our tools (%(default)s: what suits the host)")
    parser.add_argument("--output", default=os.path.join(HERE, "results"), help="folder of latest.json, index.html and the charts")
    arguments = parser.parse_args()
    quick, visits = arguments.quick, arguments.visits
    defaults = {"tools": QUICK_TOOLS if quick else OUR_TOOLS if visits else ALL_TOOLS, "workload": ["redis"] if quick else list(workload.SERVERS), "mb": [64, 512] if quick else [64, 512, 2048],
                "writes": [50] if quick else [0] if visits else [0, 20, 80], "pages_per_s": [1000] if visits else [1000, 20000],
                "links": ["unlimited"] if quick or visits else ["unlimited", "10gbit", "1gbit", "100mbit", "1gbit+20ms"]}
    for name, words in defaults.items():
        value = getattr(arguments, name)
        setattr(arguments, name, [type(words[0])(word) for word in value.split(",")] if value else words)
    arguments.runs = arguments.runs or (5 if quick else 10)
    _check(parser, arguments)
    return arguments


def _check(parser, arguments):
    for tool in arguments.tools:
        if tool not in ALL_TOOLS:
            parser.error(f"--tools: '{tool}' is none of {', '.join(ALL_TOOLS)}")
        if arguments.visits and tool not in OUR_TOOLS:
            parser.error(f"--visits: '{tool}' is not ours")
    for name in arguments.workload:
        if name not in workload.SERVERS:
            parser.error(f"--workload: '{name}' is none of {', '.join(workload.SERVERS)}")
    if arguments.visits == 1 or arguments.visits < 0:
        parser.error("--visits: at least 2, there and back")
    for rate in arguments.links:
        try:
            link.parts(rate)
        except ValueError as error:
            parser.error(f"--links: {error}")


def main():
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and cleans up
    results = []
    for case in cases(arguments):
        results.append(measured(case))
        print(report.line(results[-1]), flush=True)
        report.write(arguments.output, results)
    print(report.ratios(results))
    charts = chart.draw(arguments.output)
    print(f"{arguments.output}: {', '.join(['latest.json', 'index.html', *(charts or [])])}{' (charts as PNG need python3-matplotlib)' if charts is None else ''}")
    return 1 if any("failed" in r for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
