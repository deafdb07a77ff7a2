#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Switch-overs through every kind of network that tools/lab can make, under connections and packets that never stop.

For each kind: manager and agents, a container with seq-server, a TCP client that increments a counter over one connection and a stream of UDP packets (of IPv6 as well, where containers have it), moves back and
forth, live and post-copy by turns. After each move it is COMPLETED, every connection lives and goes on, nothing is left over. At the end: every acknowledged increment is there, and without the container the
network is as it was before (Lab.snapshot). Then: 200 connections at once, and a container with two endpoints.

A kind that cannot be moved in yet is not run, and says why; it does not count. UDP packets that are sent into the freeze are lost by its nature: their number is told for each move. Last line:
    network: switchovers=N lost=0 resets=0 stalls_over_1s=0
lost: acknowledged increments that are gone; stalls_over_1s: moves in which some request waited longer. Exit status 0: all was well, and that many switch-overs were made.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from common import Cluster, Skip, Tap, conclude, expect, lab_name, unwind_on_signal  # noqa: E402
from cluster import MANAGER_HOST, build_dir  # noqa: E402
from commands import LabError  # noqa: E402
import snapshot  # noqa: E402
import traffic  # noqa: E402

PROGRAMS = os.path.join(build_dir(), "tools")
SERVER = os.path.join(PROGRAMS, "seq-server")
PORT = 7000
NUMBER = 101          # the container's, in its network
STALL_MS = 1000
MORE_S_MAX = 60       # until every connection has gone on after a move
KEPT_S_MAX = 60       # ten seconds after the last packet
CROWD = 200
CROWD_MOVES = 4
STRATEGIES = ("live", "post-copy")
SECOND = "10.80.0"    # network of the second endpoint, on br1


# --- the kinds of networks --------------------------------------------------------
# What the manager is told, as a file for --network (src/network/description.h); None: the port and its announcement are all that is needed.

def plain(_lab, _container):
    return None


def intent(lab, container, *drivers):
    """The lab's own description, and one intent: the container keeps its address, by these drivers."""
    return {**lab.describe(), "intents": [{"service": "server", "container": container, "keep": "address", "drivers": drivers}]}


def openflow(lab, container):
    return intent(lab, container, "openflow")


def vxlan(lab, container):
    return intent(lab, container, "vxlan")


def route(lab, container):
    # The old host has the containers' subnet on a bridge of its own: its own packets find the new host by the tunnel.
    return intent(lab, container, "route", "tunnel")




@dataclasses.dataclass(frozen=True)
class Kind:
    name: str
    lab: dict               # options of Lab
    network: object         # function(lab, container's name): the description


KINDS = [
    Kind("bridge", {"kind": "bridge"}, plain),
    Kind("vxlan-learning", {"kind": "vxlan", "learning": True}, plain),
    Kind("ovs-learning", {"kind": "ovs", "learning": True}, plain),
    Kind("ovs", {"kind": "ovs"}, openflow),
    Kind("ovs3", {"kind": "ovs3"}, openflow),
    Kind("vxlan", {"kind": "vxlan"}, vxlan),
    Kind("routed", {"kind": "routed"}, route),
]


def program_has(option, *verb):
    done = subprocess.run([os.path.join(build_dir(), "fleximigrate"), *verb, "--help"], capture_output=True, text=True, check=False)
    return f"  {option} " in done.stdout


def why_not(kind):
    """Why this kind is not run; None: it is."""
    if kind.network is not plain:
        if not program_has("--network", "manager"):
            return f"the manager has no --network: nothing redirects clients in a network of kind {kind.name}"
    if kind.lab["kind"].startswith("ovs") and not shutil.which("ovs-vswitchd"):
        return "Open vSwitch is not installed (package openvswitch-switch)"
    return None


def has_ipv6():
    return program_has("--endpoint", "container", "run")


# --- one network, one container, its clients ----------------------------------------

@dataclasses.dataclass
class Sum:
    switchovers: int = 0
    lost: int = 0
    resets: int = 0
    stalls: int = 0

    def line(self):
        return f"network: switchovers={self.switchovers} lost={self.lost} resets={self.resets} stalls_over_1s={self.stalls}"


class Moved:
    """A container with seq-server in a cluster of that kind, and witnesses that watch it: (word, Witness) of TCP, of UDP."""

    def __init__(self, kind, options, tap, total):
        self.kind, self.options, self.tap, self.total = kind, options, tap, total
        self.lab_name = lab_name("nw")
        self.name = self.lab_name  # the machine's cgroups are shared by every lab: a name of our own
        self.where = "src"
        self.crowds, self.streams, self.captures = [], [], {}
        self.frozen_ms, self.gaps_ms, self.udp_lost = [], [], []
        self.cluster = Cluster(self.lab_name, keep_on_failure=options.keep, ipv6=has_ipv6(), lab_options=kind.lab, manager_options=self.manager_options)
        self.lab = self.cluster.lab
        self.container = self.lab.container(NUMBER)
        self.addresses = [self.container["address"].split("/")[0]] + ([self.container["address6"].split("/")[0]] if has_ipv6() else [])

    def manager_options(self, cluster):
        network = self.kind.network(self.lab, self.name)
        if network is None:
            return []
        path = cluster.path("network.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(network, file, indent=1)
        return ["--network", path]

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        try:
            self.stack.enter_context(self.cluster)
            self.before = self.lab.snapshot()
        except BaseException:
            self.stack.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *why):
        for witness in [*self.crowds, *self.streams, *self.captures.values()]:
            witness.end()
        return self.stack.__exit__(*why)

    def endpoint_options(self):
        c = self.container
        if has_ipv6():
            members = {"bridge": c["bridge"], "mac": c["mac"], "address": c["address"], "address6": c["address6"], "gateway": c["gateway"], "gateway6": c["gateway6"]}
            return ["--endpoint", ",".join(f"{key}={value}" for key, value in members.items() if value)]
        return ["--bridge", c["bridge"], "--mac", c["mac"], "--address", c["address"]] + (["--gateway", c["gateway"]] if c["gateway"] else [])

    def start(self, *more):
        """The container on src, and what leads to it, as an operator would have it."""
        bundle = self.cluster.make_bundle(self.name, [SERVER, str(PORT)], programs=[SERVER])
        self.cluster.cli("container", "run", self.name, "--host", "src", "--bundle", bundle, *self.endpoint_options(), *more)
        self.lab.place(self.container, "src")
        self.cluster.wait("the server answers", lambda: all(self.ask(address, "PING") == "PONG" for address in self.addresses), 30)
        return self

    def ask(self, address, *words):
        done = self.lab.run(MANAGER_HOST, ["redis-cli", "-h", address, "-p", str(PORT), *words], check=False, timeout=60)
        return done.stdout.strip()

    def watch(self, connections, interval_us, rate):
        for address in self.addresses:
            self.crowds.append(traffic.crowd(self.lab, PROGRAMS, MANAGER_HOST, address, PORT, connections, interval_us).ready(30))
            if rate:
                self.streams.append(traffic.stream(self.lab, PROGRAMS, MANAGER_HOST, address, PORT, rate).ready(30))
        if self.options.capture:
            os.makedirs(self.options.capture, exist_ok=True)
            self.captures = {host: traffic.capture(self.lab, PROGRAMS, host, "eth0", os.path.join(self.options.capture, f".{self.lab_name}-{host}.pcap")).ready() for host in self.lab.hosts}
        return self

    def keep_captures(self, number):
        """Of the move that failed: it is worth looking at."""
        for host, capture in self.captures.items():
            kept = os.path.join(self.options.capture, f"{self.kind.name}-{number}-{host}.pcap")
            try:
                told = capture.report()
                os.rename(os.path.join(self.options.capture, f".{self.lab_name}-{host}.pcap"), kept)
                self.tap.say(f"{kept}: {told['packets']} packets" + (f", {told['overrun']} more were missed" if told["overrun"] else ""))
            except (LabError, OSError) as error:
                self.tap.say(f"{kept}: {error}")

    # --- a move ----------------------------------------------------------------

    def move(self, number):
        to = "dst" if self.where == "src" else "src"
        strategy = STRATEGIES[number % len(STRATEGIES)] if self.options.strategy == "mixed" else self.options.strategy
        for witness in [*self.crowds, *self.streams, *self.captures.values()]:
            witness.reset()
        udp = [stream.report() for stream in self.streams]
        good = False
        try:
            migration = self.cluster.migrate(self.name, to, "--strategy", strategy)
            expect(migration["state"] == "COMPLETED", lambda: f"move {number + 1} to {to}, {strategy}: {migration['state']} {migration['path']}: {migration['error_message']}")
            self.where = to
            self.total.switchovers += 1
            gap_ms = self.all_go_on(number)
            stalled = gap_ms > STALL_MS
            self.total.stalls += stalled
            self.account(number, strategy, migration, gap_ms, udp)
            left = self.cluster.leftovers()
            expect(not left, lambda: f"left over after move {number + 1}: {left}")
            good = not stalled
        finally:
            if not good:
                self.keep_captures(number + 1)

    def all_go_on(self, number):
        """Every connection has an answer to a request of after the move; the longest wait of all."""
        longest = 0
        for crowd in self.crowds:
            longest = max(longest, crowd.report()["longest_gap_ms"])
            crowd.reset()
        seen = []

        def gone_on():
            seen[:] = [crowd.report() for crowd in self.crowds]
            ended = [report["error"] for report in seen if report["alive"] < report["connections"]]
            expect(not ended, lambda: f"after move {number + 1}: {ended[0]}")
            return all(report["moved"] == report["connections"] for report in seen)
        self.cluster.wait(f"all connections go on after move {number + 1}", gone_on, MORE_S_MAX, lambda: f"{seen}")
        return max(longest, *(report["longest_gap_ms"] for report in seen))

    def account(self, number, strategy, migration, gap_ms, udp_before):
        frozen_ms = migration["frozen_us"] / 1000
        told = []
        for before, stream in zip(udp_before, self.streams):
            after = stream.report()
            goal = after["sent"]

            def came_back(goal=goal, stream=stream):  # what was sent after the move: what was not before that will not be
                nonlocal after
                after = stream.report()
                return after["end"] >= goal
            self.cluster.wait(f"packets come back after move {number + 1}", came_back, MORE_S_MAX, lambda: f"{after}")
            lost = max(0, (after["end"] - after["received"]) - (before["end"] - before["received"]))
            self.udp_lost.append(lost)
            told.append(f"{lost} lost in {after['longest_gap_ms']:.0f} ms" + (f", {after['duplicates'] - before['duplicates']} twice" if after["duplicates"] > before["duplicates"] else ""))
        self.frozen_ms.append(frozen_ms)
        self.gaps_ms.append(gap_ms)
        self.tap.say(f"{self.kind.name:14} {number + 1:4} {strategy:9} -> {self.where}: frozen {frozen_ms:6.1f} ms, longest wait {gap_ms:6.1f} ms, UDP {', '.join(told) or '-'}{'   STALL' if gap_ms > STALL_MS else ''}")

    # --- the end ---------------------------------------------------------------

    def conclude(self):
        """What the witnesses say at last, and that the network is as it was."""
        found = [crowd.finish() for crowd in self.crowds]
        for report in found:
            self.total.lost += report["lost"]
            self.total.resets += report["resets"]
        streams = [stream.finish() for stream in self.streams]
        for report in found:
            expect((report["lost"], report["twice"], report["resets"], report["hung"]) == (0, 0, 0, 0) and report["alive"] == report["connections"], f"TCP: {report}")
        for report in streams:
            expect(report["received"] > 0 and report["settled"] == report["sent"], f"UDP: {report}")
        if self.gaps_ms:
            self.tap.say(f"{self.kind.name}: frozen median {statistics.median(self.frozen_ms):.1f} ms, most {max(self.frozen_ms):.1f} ms; longest wait median {statistics.median(self.gaps_ms):.1f} ms, "
                         f"most {max(self.gaps_ms):.1f} ms; UDP packets lost in all freezes {sum(self.udp_lost)}, at the end {[report['lost'] for report in streams]}")
        self.remove()

    def remove(self):
        self.cluster.cli("container", "rm", "--force", self.name)
        self.lab.place(self.container, None)
        self.cluster.wait("what was kept for old connections goes with the last of them", lambda: not self.cluster.kept(), KEPT_S_MAX, self.cluster.kept)
        changed = snapshot.compare(self.before, self.lab.snapshot())
        expect(not changed, lambda: "the network is not as it was:\n" + "\n".join(changed[:20]))


# --- the cases ----------------------------------------------------------------------

def run_kind(kind, moves, options, tap, total):
    with Moved(kind, options, tap, total) as moved:
        moved.start().watch(1, 500, options.rate)
        for number in range(moves):
            moved.move(number)
        expect(total.stalls == 0, "a request waited longer than a second")
        moved.conclude()


def run_crowd(options, tap, total):
    with Moved(KINDS[0], options, tap, total) as moved:
        moved.start().watch(CROWD, 50000, 0)
        for number in range(CROWD_MOVES if not options.short else 2):
            moved.move(number)
        state = json.loads(moved.ask(moved.addresses[0], "STATE"))
        expect(state["accepted"] - state["connections"] < CROWD and state["connections"] >= CROWD * len(moved.crowds), f"the server has {state}")
        moved.conclude()


def run_two_endpoints(options, tap, total):
    if not program_has("--endpoint", "container", "run"):
        raise Skip("not run: container run has no --endpoint: a container has one endpoint")
    with Moved(KINDS[0], options, tap, total) as moved:
        moved.lab.add_network("br1", SECOND, "fd80::")
        moved.before = moved.lab.snapshot()
        moved.addresses += [f"{SECOND}.{NUMBER}", f"fd80::{NUMBER}"]
        moved.start("--endpoint", f"bridge=br1,address={SECOND}.{NUMBER}/24,address6=fd80::{NUMBER}/64").watch(1, 500, options.rate)
        for number in range(CROWD_MOVES if not options.short else 2):
            moved.move(number)
        moved.conclude()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, help="switch-overs, over all kinds (500; with --short two for each kind)")
    parser.add_argument("--short", action="store_true", help="the form for make check")
    parser.add_argument("--tap", action="store_true", help="print TAP, for the test runner")
    parser.add_argument("--only", metavar="TEXT", default="", help="only what has this in its name: " + ", ".join([kind.name for kind in KINDS] + ["200 connections", "two endpoints"]))
    parser.add_argument("--strategy", default="mixed", choices=("mixed", *STRATEGIES, "pre-copy", "cold"), help="mixed: live and post-copy by turns")
    parser.add_argument("--rate", type=int, default=1000, help="UDP packets a second of each stream, 0 none (%(default)s)")
    parser.add_argument("--capture", metavar="DIR", help="keep what passed the hosts' uplinks during a move that failed")
    parser.add_argument("--keep", action="store_true", help="keep everything when it fails, for inspection")
    return parser.parse_args()


def shares(count, names):
    """{name: how many}: as equal as can be, all of them"""
    return {name: count // len(names) + (index < count % len(names)) for index, name in enumerate(names)}


def main():
    options = arguments()
    unwind_on_signal()
    tap, total, started = Tap("network", options.tap), Sum(), time.monotonic()
    reasons = {kind.name: why_not(kind) for kind in KINDS if options.only in kind.name}
    running = [kind for kind in KINDS if kind.name in reasons and not reasons[kind.name]]
    wanted = options.count or (2 * len(running) if options.short else 500)
    moves = shares(wanted, [kind.name for kind in running]) if running else {}
    for name, reason in reasons.items():
        if reason:
            with tap.test(f"moves through a network of kind {name}"):
                raise Skip(f"not run: {reason}")
    for kind in running:
        if moves[kind.name]:
            with tap.test(f"{moves[kind.name]} moves through a network of kind {kind.name}"):
                run_kind(kind, moves[kind.name], options, tap, total)
    counted = total.switchovers
    for name, run in ((f"{CROWD} connections at once", run_crowd), ("a container with two endpoints", run_two_endpoints)):
        if options.only in name:
            with tap.test(name):
                run(options, tap, total)
    if running:
        with tap.test(f"{wanted} switch-overs were made, none with a loss, a reset or a stall"):
            expect(counted == wanted and (total.lost, total.resets, total.stalls) == (0, 0, 0), total.line())
    failed = conclude(tap, lab_name("nw"))
    for name, reason in reasons.items():
        if reason:
            tap.say(f"network: not run: {name}: {reason}")
    tap.say(f"took {time.monotonic() - started:.0f} s")
    tap.say(total.line())
    # By hand, nothing that was run is not success.
    return failed or (1 if reasons and not running and not options.short else 0)


if __name__ == "__main__":
    sys.exit(main())
