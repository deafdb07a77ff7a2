#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Paths over random topologies, ours against igraph's (python3-igraph, GPL: an oracle that is asked here and never linked). Prints TAP.

Ours come from topology-probe of the build folder ($BUILD, or build). igraph knows nothing of hosts that do not forward, of links that are down and of widths: it gets
the graph without the links that these rule out. The widest path's width is the greatest of those with which its graph is still connected.
"""

import json
import os
import random
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
from tap import Tap, expect  # noqa: E402

PROBE = os.path.join(ROOT, os.environ.get("BUILD", "build"), "tests", "unit", "topology-probe")
SYSTEM_PYTHON = "/usr/bin/python3"  # the one that Debian's python3-igraph belongs to
GRAPHS = 300
QUESTIONS = 3  # a graph, of each kind
PPM = 1000000

try:
    import igraph
except ImportError as missing:
    if os.path.exists(SYSTEM_PYTHON) and os.path.realpath(sys.executable) != os.path.realpath(SYSTEM_PYTHON):
        os.execv(SYSTEM_PYTHON, [SYSTEM_PYTHON, *sys.argv])
    print(f"1..1\nok 1 - paths as igraph finds them # SKIP needs python3-igraph: {missing}")
    sys.exit(0)


def make_topology(rng):
    """Up to 40 nodes; sparse and dense ones, with few latencies (ties) and many."""
    count, spread = rng.randint(2, 40), rng.choice((3, 1000000))
    names = [f"n{i}" for i in range(count)]
    hosts = [{"name": name, "forwards": rng.random() < 0.5} for name in names if rng.random() < 0.3]
    switches = [{"name": name} for name in names if name not in {host["name"] for host in hosts}]
    links = []
    for number in range(rng.randint(count // 2, count * 4)):
        ends = rng.sample(names, 2)
        links.append({"from": ends[0], "to": ends[1], "from_port": f"p{number}", "latency_us": rng.randint(0, spread), "bandwidth_bytes_per_s": rng.randint(0, spread),
                      "loss_ppm": rng.choice((0, rng.randint(0, PPM))), "utilisation_ppm": rng.randint(0, PPM), "directed": rng.random() < 0.2, "up": rng.random() < 0.9})
    return {"version": 1, "hosts": hosts, "switches": switches, "links": links}


def available(link):
    return -(-link["bandwidth_bytes_per_s"] * (PPM - link["utilisation_ppm"]) // PPM)


class Oracle:
    """igraph's view: all nodes, and an edge for each way over a link that may be used on a path from `source`."""

    def __init__(self, topology, source, least=0):
        self.links = topology["links"]
        names = [node["name"] for node in topology["hosts"] + topology["switches"]]
        ends = {host["name"] for host in topology["hosts"] if not host["forwards"]} - {source}
        self.ways = []  # (from, to, link) of each edge
        for number, link in enumerate(self.links):
            if not link["up"] or available(link) < least:
                continue
            for way in ((link["from"], link["to"]), (link["to"], link["from"]))[:1 if link["directed"] else 2]:
                if way[0] not in ends:
                    self.ways.append((*way, number))
        place = {name: index for index, name in enumerate(names)}
        self.place = place
        self.graph = igraph.Graph(n=len(names), edges=[(place[a], place[b]) for a, b, _ in self.ways], directed=True)
        self.weights = [self.links[number]["latency_us"] for _, _, number in self.ways]

    def distance(self, source, target):
        """None: there is no path"""
        if not self.ways:
            return None
        found = self.graph.distances(self.place[source], self.place[target], weights=self.weights)[0][0]
        return None if found == float("inf") else int(found)

    def several(self, source, target, k):
        """The latencies of the k shortest paths"""
        if self.distance(source, target) is None:
            return []
        paths = self.graph.get_k_shortest_paths(self.place[source], self.place[target], k=k, weights=self.weights, output="epath")
        return [sum(self.weights[edge] for edge in path) for path in paths]


class Probe:
    def __init__(self):
        self.process = subprocess.Popen([PROBE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # pylint: disable=consider-using-with

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = []
        while (got := self.process.stdout.readline()) != "end\n":
            expect(got, f"the probe ended at '{line}' with {self.process.poll()}")
            answer.append(got.strip())
        return answer

    def open(self, path):
        expect(not (wrong := self.tell(f"open {path}")), f"{path}: {wrong}")

    def ask(self, what, source, target, k=0, least=0, latest=0):
        """[(latency, available, loss, links)]; none when there is no path"""
        answer = self.tell(f"{what} {source} {target} {k} {least} {latest}")
        if answer and answer[0].startswith("error"):
            expect(answer[0].startswith("error NOT_FOUND"), answer[0])
            return []
        return [(*map(int, line.split()[:3]), [int(word) for word in line.split()[3:]]) for line in answer]


def check_path(topology, oracle, source, target, path):
    """It leads there, over ways that the oracle has, no node twice, and its figures are those of its links."""
    latency, least, loss, links = path
    here, seen, arrives = source, {source}, 1.0
    for number in links:
        link = topology["links"][number]
        here = link["to"] if here == link["from"] else link["from"]
        expect(here not in seen and any(way[1] == here and way[2] == number for way in oracle.ways), f"link {number} does not lead to {here}")
        seen.add(here)
        arrives *= 1 - link["loss_ppm"] / PPM
    expect(here == target, f"a path to {here} instead of {target}")
    expect(latency == sum(topology["links"][number]["latency_us"] for number in links), f"a latency of {latency}")
    expect(least == min(available(topology["links"][number]) for number in links), f"{least} available")
    expect(abs(loss - (1 - arrives) * PPM) <= 0.51, f"a loss of {loss} instead of {(1 - arrives) * PPM}")


def check_shortest(topology, probe, source, target, rng):
    least = rng.choice((0, available(rng.choice(topology["links"]))))
    oracle = Oracle(topology, source, least)
    expected, found = oracle.distance(source, target), probe.ask("shortest", source, target, least=least)
    expect([path[0] for path in found] == ([] if expected is None else [expected]), f"{found} instead of {expected}")
    for path in found:
        check_path(topology, oracle, source, target, path)
        if path[0] > 1:  # the limit is met, and one below is not
            expect(probe.ask("shortest", source, target, least=least, latest=path[0]) == found, "not with its own latency as the limit")
            expect(not probe.ask("shortest", source, target, least=least, latest=path[0] - 1), "a path below the least latency")
    return bool(found)


def check_widest(topology, probe, source, target, rng):
    latest = rng.choice((0, rng.randint(1, 2 * max(link["latency_us"] for link in topology["links"]) + 1)))
    expected = None
    for width in sorted({available(link) for link in topology["links"]}, reverse=True):
        distance = Oracle(topology, source, width).distance(source, target)
        if distance is not None and (not latest or distance <= latest):
            expected = (distance, width)
            break
    found = probe.ask("widest", source, target, latest=latest)
    expect([path[:2] for path in found] == ([expected] if expected else []), f"{found} instead of {expected}")
    for path in found:
        check_path(topology, Oracle(topology, source), source, target, path)
    return bool(found)


def check_several(topology, probe, source, target, rng):
    k, oracle = rng.randint(1, 20), Oracle(topology, source)
    expected, found = oracle.several(source, target, k), probe.ask("several", source, target, k=k)
    expect([path[0] for path in found] == expected, f"{[path[0] for path in found]} instead of {expected}")
    expect(len({tuple(path[3]) for path in found}) == len(found), "a path twice")
    for path in found:
        check_path(topology, oracle, source, target, path)
    return len(found) > 1


def run(tap, probe, path):
    rng = random.Random(20261126)
    kinds = {"shortest": check_shortest, "widest": check_widest, "several": check_several}
    topologies = [make_topology(rng) for _ in range(GRAPHS)]
    for name, check in kinds.items():
        with tap.test(f"{name} over {GRAPHS} random topologies as igraph {igraph.__version__} finds it"):
            positive = 0
            for number, topology in enumerate(topologies):
                with open(path, "w", encoding="utf-8") as file:
                    json.dump(topology, file)
                probe.open(path)
                names = [node["name"] for node in topology["hosts"] + topology["switches"]]
                for _ in range(QUESTIONS):
                    source, target = rng.sample(names, 2)
                    try:
                        positive += check(topology, probe, source, target, rng)
                    except Exception as error:
                        raise type(error)(f"topology {number}, {source} to {target}: {error}") from error
            expect(positive > GRAPHS * QUESTIONS / 3, f"only {positive} questions had an answer worth comparing")


def main():
    tap = Tap("topology", wants_tap=True)
    with tempfile.TemporaryDirectory(prefix="fm-topology-") as folder:
        probe = Probe()
        try:
            run(tap, probe, os.path.join(folder, "topology.json"))
        finally:
            probe.process.stdin.close()
            probe.process.wait()
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
