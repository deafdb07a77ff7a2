#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The Resource Monitor in a running cluster: a container that uses a known amount is seen to use it, by every way that shows it, also after it was moved."""

import json
import os
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(HERE)), "tools", "lab"))
sys.path.insert(0, HERE)
from cluster import STRETCH, Cluster, build_dir, system_leftovers  # noqa: E402
from common import arguments  # noqa: E402
from tap import Tap, expect  # noqa: E402

NAME = "mone2e"
HOSTS = ("src", "dst", "cli")
ADDRESS = "10.77.0.100"
MEMORY_MB = 96
PAGES_PER_S = 5000  # of 24576, at random: 18.5 MB of different ones a second
DIRTY_BYTES_PER_S = 18.5e6
PATIENCE_S = 90


def write_description(cluster):
    link = [{"from": host, "to": "sw", "to_port_number": number, "latency_us": 5000, "bandwidth_bytes_per_s": 100_000_000} for number, host in enumerate(HOSTS, 1)]
    path = cluster.path("network.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"version": 1, "topology": {"version": 1, "hosts": [{"name": host} for host in HOSTS], "switches": [{"name": "sw"}], "links": link}}, file)
    return ["--network", path, "--load-time", "2s", "--memory-threshold", "99", "--cpu-threshold", "99", "--cpu-under", "80", "--memory-under", "80"]


def ticks(pid):
    """Seconds of processor time of a process and those it waited for."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:13]) / os.sysconf("SC_CLK_TCK")


def usage(cluster, name="busy"):
    return cluster.container(name).get("usage") or {}


def known(found, member, number):
    return bool(found) and number not in found.get("unknown", []) and member in found


def number_of(found, member):
    return float(found.get(member, 0))


class Monitoring:
    def __init__(self, cluster, tap):
        self.cluster, self.tap = cluster, tap

    def wait(self, what, condition):
        self.cluster.wait(what, condition, PATIENCE_S)

    def run_busy(self):
        dirtier = os.path.join(build_dir(), "tools", "dirtier")
        bundle = self.cluster.make_bundle("busy", ["/usr/bin/dirtier", "7000", str(MEMORY_MB), str(MEMORY_MB), str(PAGES_PER_S)], programs=(dirtier,))
        self.cluster.cli("container", "run", "busy", "--host", "src", "--bundle", bundle, "--address", f"{ADDRESS}/24", "--label", "fleximigrate.image=lab/dirtier:1")
        self.wait("the container is measured", lambda: known(usage(self.cluster), "cpu_cores", 2))

    def check_processor(self):
        """Means of several reports against the kernel's own count for the process."""
        pid = self.cluster.container("busy")["pid"]
        before, began = ticks(pid), time.monotonic()
        seen = []
        while time.monotonic() - began < 8 * STRETCH:
            seen.append(number_of(usage(self.cluster), "cpu_cores"))
            time.sleep(0.5)
        truth = (ticks(pid) - before) / (time.monotonic() - began)
        mean = sum(seen) / len(seen)
        expect(abs(mean - truth) < 0.25 * truth + 0.03, f"{mean:.3f} cores reported, {truth:.3f} used")

    def check_memory(self):
        self.wait("memory is measured", lambda: number_of(usage(self.cluster), "working_set_bytes") > MEMORY_MB * 1e6)
        found = usage(self.cluster)
        expect(MEMORY_MB << 20 <= int(found["memory_bytes"]) < (MEMORY_MB + 100) << 20, f"{found['memory_bytes']} bytes")
        expect(int(found["threads"]) >= 1, "no processes are counted")

    def check_dirty(self):
        self.wait("how fast it writes is known", lambda: known(usage(self.cluster), "dirty_bytes_per_s", 5))
        found = int(usage(self.cluster)["dirty_bytes_per_s"])
        expect(0.55 * DIRTY_BYTES_PER_S < found < 1.45 * DIRTY_BYTES_PER_S, f"{found} bytes a second instead of {DIRTY_BYTES_PER_S:.0f}")

    def check_connections_and_network(self):
        """One connection from the lab's client, and what it says."""
        client = self.cluster.lab.popen("cli", ["python3", "-c",
                                                "import socket, sys, time\ns = socket.create_connection(('%s', 7000))\n"
                                                "while True:\n    s.sendall(b'1\\n')\n    s.recv(65536)\n    time.sleep(0.002)" % ADDRESS], stdout=subprocess.DEVNULL)
        try:
            self.wait("its connection is counted", lambda: int(usage(self.cluster).get("connections", 0)) >= 1)
            self.wait("its network is counted", lambda: number_of(usage(self.cluster), "network_in_bytes_per_s") > 5000 and number_of(usage(self.cluster), "network_out_bytes_per_s") > 5000)
        finally:
            client.kill()
            client.wait()
        self.wait("it is quiet again", lambda: int(usage(self.cluster).get("connections", 0)) == 0 and number_of(usage(self.cluster), "network_in_bytes_per_s") < 5000)

    def check_host(self):
        host = self.cluster.json("host", "show", "src")
        found = host["usage"]
        expect(known(found, "cpu_percent", 2) and 0 <= number_of(found, "cpu_percent") <= 100, f"processor {found}")
        expect(int(found["memory_total_bytes"]) > int(found["memory_available_bytes"]) > 0, f"memory {found}")
        expect({"key": "zone", "value": "one"} in host["labels"], f"labels {host.get('labels')}")
        expect(host["images"] == ["lab/dirtier:1"], f"images {host.get('images')}")
        text = self.cluster.cli("host", "ls").stdout
        expect(all(column in text.splitlines()[0] for column in ("CPU", "MEM", "LOAD")), text)
        expect("Processor:" in self.cluster.cli("container", "show", "busy").stdout, "container show says nothing of it")

    def check_peers(self):
        """Everybody measures everybody: the lab's ways are short, and lose nothing."""
        def peers(host):
            return {peer["host"]: peer for peer in self.cluster.json("host", "show", host).get("peers", [])}
        for host in HOSTS:
            self.wait(f"{host} has measured its ways", lambda host=host: set(peers(host)) == set(HOSTS) - {host})
            for peer in peers(host).values():
                expect(0 < int(peer["latency_us"]) < 100_000, f"{host}: {peer}")

    def check_links(self):
        """The described 5 ms are not what is measured."""
        def link(name):
            return next(link for link in self.cluster.json("network", "show")["links"] if link["from"] == name)
        self.wait("links are measured", lambda: {7, 10, 11} <= set(link("src").get("measured", [])))
        found = link("src")
        expect(int(found["latency_us"]) < 5000 and int(found["described_latency_us"]) == 5000, f"{found}")
        expect("(5.000)" in self.cluster.cli("network", "show").stdout, "the description's latency is not shown beside")

    def snapshot(self):
        return json.loads(self.cluster.cli("snapshot", "--output", "json").stdout)

    def check_snapshot(self, host, moved):
        found = self.snapshot()
        busy = next(container for container in found["containers"] if container["name"] == "busy")
        expect(busy["host"] == host and busy["nested"] and busy["memory_bytes"] > MEMORY_MB << 20 and busy["cpu_cores"] > 0, f"{busy}")
        expect((busy.get("last_moved_unix_ms", 0) > 0) == moved and "cpu_predicted_cores" not in busy, f"{busy}")
        expect({entry["name"] for entry in found["hosts"]} == set(HOSTS), f"{found['hosts']}")
        expect(all(link["latency_ms"] < 100 and link["bandwidth_bytes_per_s"] == 100_000_000 for link in found["links"]) and len(found["links"]) == 3, f"{found['links']}")
        text = self.cluster.cli("snapshot").stdout
        expect("IN 30 MIN" in text and "busy" in text, text)

    def check_move(self):
        record = self.cluster.migrate("busy", "dst", "--strategy", "live")
        expect(record["path"] == "1N 2N 3N 4N 5N 6N", lambda: f"{record['path']}: {record['error_message']}")
        self.wait("it is measured where it is now", lambda: self.cluster.container("busy")["host"] == "dst" and known(usage(self.cluster), "cpu_cores", 2) and
                  number_of(usage(self.cluster), "cpu_cores") > 0)
        self.wait("its memory is looked at again", lambda: known(usage(self.cluster), "dirty_bytes_per_s", 5))
        self.check_snapshot("dst", True)

    def check_restart(self):
        """An agent that has just started knows no rates, and says so; the container's process is the same."""
        self.cluster.restart(self.cluster.agents["dst"])
        self.cluster.wait_online()
        self.wait("it is measured again", lambda: known(usage(self.cluster), "cpu_cores", 2))
        expect(int(usage(self.cluster).get("restarts", 0)) == 0, f"{usage(self.cluster)}")

    def run(self):
        for name, step in (("a container is measured", self.run_busy), ("its processor time is what the kernel counts", self.check_processor), ("its memory", self.check_memory),
                           ("how fast it writes its memory", self.check_dirty), ("its connections and what they carry", self.check_connections_and_network),
                           ("the host: usage, labels, images", self.check_host), ("ways between agents", self.check_peers), ("links of the description", self.check_links),
                           ("the snapshot", lambda: self.check_snapshot("src", False)), ("after a move", self.check_move), ("after the agent's restart", self.check_restart)):
            with self.tap.test(name):
                step()


def main():
    options = arguments(__doc__)
    tap = Tap("monitoring", options.tap)
    with Cluster(NAME, hosts=HOSTS, agent_options={"src": ["--label", "zone=one"], "dst": ["--monitor-period", "500ms"]}, manager_options=write_description, keep_on_failure=options.keep) as cluster:
        Monitoring(cluster, tap).run()
    with tap.test("nothing is left"):
        left = system_leftovers(NAME)
        expect(not left, f"left over: {left}")
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
