#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The network's verbs against a real manager with a description (`--network FILE`): what they print, as text and as JSON, their exit codes, and files that the manager refuses. Prints TAP.

Hosts and containers are reported by a gRPC client in an agent's place (python3-grpcio).
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
from tap import Tap, expect  # noqa: E402

PROGRAM = os.path.join(ROOT, os.environ.get("BUILD", "build"), "fleximigrate")
PROTO = os.path.join(ROOT, "api", "fleximigrate.proto")
EXAMPLE = os.path.join(ROOT, "examples", "network.json")
SYSTEM_PYTHON = "/usr/bin/python3"  # the one that Debian's python3-grpcio belongs to
PATIENCE_S = 60  # a bound against hanging, never an expectation


def skip_all(reason):
    print(f"1..1\nok 1 - the network's verbs # SKIP {reason}")
    sys.exit(0)


try:
    import grpc
    import google.protobuf  # noqa: F401
except ImportError as missing:
    if os.path.exists(SYSTEM_PYTHON) and os.path.realpath(sys.executable) != os.path.realpath(SYSTEM_PYTHON):
        os.execv(SYSTEM_PYTHON, [SYSTEM_PYTHON, *sys.argv])
    skip_all(f"needs python3-grpcio and python3-protobuf: {missing}")
if not shutil.which("protoc"):
    skip_all("needs protoc (protobuf-compiler)")


def link(here, there, number, **more):
    return {"from": here, "to": there, "to_port_number": number, "latency_us": 100, "bandwidth_bytes_per_s": 125000000, **more}


# h1 and h2 at s1, the clients' gateway at s2; two links between the switches, the shorter one busy
DESCRIPTION = {
    "version": 1,
    "topology": {
        "version": 1, "hosts": [{"name": "h1"}, {"name": "h2"}, {"name": "gw", "forwards": True}], "switches": [{"name": "s1"}, {"name": "s2"}],
        "links": [link("h1", "s1", 1), link("h2", "s1", 2), link("gw", "s2", 1), link("s1", "s2", 2, from_port_number=3, utilisation_ppm=900000),
                  link("s1", "s2", 3, from_port="ge-0/0/4", from_port_number=4, latency_us=400)]},
    "openflow": {"switches": [{"switch": "s1", "address": "tcp:192.0.2.1:6653"}]},
    "intents": [{"service": "redis", "container": "redis", "clients": ["gw"], "min_bandwidth_bytes_per_s": 20000000, "max_gap_ms": 200},
                {"service": "greedy", "label": "app=greedy", "clients": ["gw"], "min_bandwidth_bytes_per_s": 200000000},
                {"service": "nobody", "container": "nobody"}],
}


class Manager:
    def __init__(self, folder, description):
        self.folder, self.socket = folder, os.path.join(folder, "m.sock")
        self.file = os.path.join(folder, "network.json")
        self.log = open(os.path.join(folder, "log"), "w+", encoding="utf-8")
        options = []
        if description is not None:
            with open(self.file, "w", encoding="utf-8") as file:
                file.write(description if isinstance(description, str) else json.dumps(description))
            options = ["--network", self.file]
        self.process = subprocess.Popen([PROGRAM, "manager", "--socket", self.socket, "--state-dir", os.path.join(folder, "state"), *options], stderr=self.log)

    def wait_ready(self):
        until = time.monotonic() + PATIENCE_S
        while " ready on " not in self.lines():
            expect(self.process.poll() is None and time.monotonic() < until, f"the manager does not start: {self.lines()}")
            time.sleep(0.02)
        return self

    def lines(self):
        with open(self.log.name, encoding="utf-8") as file:
            return file.read()

    def cli(self, *argv):
        return subprocess.run([PROGRAM, *argv, "--manager", f"unix:{self.socket}"], capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    def json(self, *argv, code=0):
        done = self.cli(*argv, "--output", "json")
        expect(done.returncode == code, f"{argv}: exit code {done.returncode}: {done.stdout} {done.stderr}")
        return json.loads(done.stdout)

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE_S)
        self.log.close()


@contextlib.contextmanager
def manager(description):
    folder = tempfile.mkdtemp(prefix="fm-test-net-", dir="/tmp")
    m = Manager(folder, description)
    try:
        yield m
    finally:
        m.stop()
        shutil.rmtree(folder)


def report(m, host, *containers):
    """In the place of that host's agent: (name, label's value or None)."""
    with tempfile.TemporaryDirectory(prefix="fm-test-net-") as folder:
        if "fleximigrate_pb2" not in sys.modules:
            subprocess.run(["protoc", "--python_out=" + folder, "-I" + os.path.dirname(PROTO), PROTO], check=True)
            sys.path.insert(0, folder)
        import fleximigrate_pb2 as pb
    request = pb.ReportRequest(host=pb.Host(name=host, address="192.0.2.1:7401"), protocol=1)
    for name, app in containers:
        labels = [pb.Label(key="app", value=app)] if app else []
        request.containers.append(pb.Container(name=name, instance=name, status="running", endpoint=pb.Endpoint(address="10.77.0.100/24"), labels=labels))
    with grpc.insecure_channel(f"unix:{m.socket}") as channel:
        call = channel.unary_unary("/fleximigrate.v1.Manager/Report", request_serializer=pb.ReportRequest.SerializeToString, response_deserializer=pb.ReportResponse.FromString)
        call(request, timeout=PATIENCE_S)


def refused(m, code, message, *argv, hint=None):
    done = m.cli(*argv)
    said = done.stderr.strip().splitlines()
    expect(done.returncode == code, f"{argv}: exit code {done.returncode}, not {code}: {said}")
    expect(said and re.search(message, said[0]), f"{argv}: {said} does not match {message}")
    expect(hint is None or (len(said) > 1 and re.search(hint, said[1])), f"{argv}: no hint {hint} in {said}")
    expect(m.json(*argv, code=code)["error"]["message"] in said[0], "JSON has another message")


def table(text, first):
    """Rows of the table whose header begins with that word."""
    rows, inside = [], False
    for line in text.splitlines():
        if line.startswith(first + " "):
            inside = True
        elif not line:
            inside = False
        elif inside:
            rows.append(re.split(r"\s{2,}", line.strip()))
    return rows


def show(m):
    text = m.cli("network", "show").stdout
    nodes = {row[0]: row[1:] for row in table(text, "NODE")}
    expect(nodes["h1"] == ["host", "online", "-", "redis, web"], f"h1: {nodes['h1']}")
    expect(nodes["gw"] == ["host, forwards", "-", "-", "-"], f"gw: {nodes['gw']}")
    expect(nodes["s1"][2] == "openflow tcp:192.0.2.1:6653" and nodes["s2"][2] == "(learns)", f"switches: {nodes['s1']}, {nodes['s2']}")
    expect(nodes["lonely"][0] == "host, not in the topology", f"lonely: {nodes['lonely']}")
    links = table(text, "FROM")
    expect(len(links) == 5 and links[3] == ["s1:3", "--", "s2:2", "0.100 ms", "11.9 MiB/s", "119.2 MiB/s", "90.00 %", "0.00 %", "up"], f"links: {links}")
    expect(links[4][0] == "s1:ge-0/0/4", f"a port with a name: {links[4]}")
    drivers = {row[0]: row[1:] for row in table(text, "DRIVER")}
    expect(list(drivers) == ["bridge", "openflow", "rest", "vxlan", "route", "tunnel", "dns", "haproxy", "webhook", "dnat"] and drivers["bridge"][0] == "yes", f"drivers: {drivers}")
    expect(drivers["vxlan"][0] == "no", f"a driver of which nothing is described: {drivers['vxlan']}")
    same = m.json("network", "show")
    expect([n["name"] for n in same["nodes"]] == list(nodes) and len(same["links"]) == 5, f"as JSON: {same}")
    expect(same["links"][3]["available_bytes_per_s"] == 12500000 and same["links"][3]["from_port_number"] == 3, f"as JSON: {same['links'][3]}")


def path(m):
    lines = m.cli("network", "path", "h1", "gw").stdout.splitlines()
    expect(lines == ["h1 - s1 - s2 - gw", "  latency 0.300 ms, 11.9 MiB/s available, loss 0.00 %"], f"shortest: {lines}")
    lines = m.cli("network", "path", "h1", "gw", "--widest").stdout.splitlines()
    expect(lines[1:] == ["  latency 0.600 ms, 119.2 MiB/s available, loss 0.00 %"], f"widest: {lines}")
    lines = m.cli("network", "path", "h1", "gw", "--alternatives", "9").stdout.splitlines()
    expect(len(lines) == 4, f"alternatives: {lines}")
    found = m.json("network", "path", "h1", "gw", "--min-bandwidth", "50M")["paths"]
    expect(len(found) == 1 and found[0]["links"][1]["from_port"] == "ge-0/0/4" and found[0]["latency_us"] == 600, f"wide enough: {found}")
    refused(m, 3, "no path from \"h1\" to \"gw\" has .* available: the widest has 125000000", "network", "path", "h1", "gw", "--min-bandwidth", "1G")
    refused(m, 3, "no host or switch \"h9\"", "network", "path", "h1", "h9")
    refused(m, 2, "to itself", "network", "path", "h1", "h1")
    refused(m, 2, "one widest", "network", "path", "h1", "gw", "--widest", "--alternatives", "2")
    refused(m, 2, "more than there may be, 64", "network", "path", "h1", "gw", "--alternatives", "65")
    refused(m, 2, ".", "network", "path", "h1")


def check(m):
    done = m.cli("network", "check")
    expect(done.returncode == 1, f"exit code {done.returncode}")
    rows = table(done.stdout, "SERVICE")
    expect(["redis", "redis", "h1", "yes"] in rows and ["greedy", "web", "h1", "no"] in rows and ["nobody", "-", "-", "yes"] in rows, f"rows: {rows}")
    expect('web: no path from "gw" to "h1" has 200000000 bytes/s available: the widest has 125000000' in done.stdout.splitlines(), done.stdout)
    states = {i["service"]: i["met"] for i in m.json("network", "check", code=1)["intents"]}
    expect(states == {"redis": True, "greedy": False, "nobody": True}, f"as JSON: {states}")
    report(m, "h1", ("redis", None))  # the greedy one is gone
    done = m.cli("network", "check")
    expect(done.returncode == 0, f"exit code {done.returncode}: {done.stdout}")


def intents(m):
    rows = table(m.cli("intent", "list").stdout, "SERVICE")
    expect(rows[0] == ["redis", "redis", "address", "200 ms", "19.1 MiB/s", "none", "redis"], f"rows: {rows}")
    expect(rows[1][1] == "label app=greedy" and rows[2][-1] == "-", f"rows: {rows}")
    text = m.cli("intent", "show", "redis").stdout
    expect(re.search(r"^Service: +redis \(container redis\)$", text, re.M) and re.search(r"^Clients: +gw$", text, re.M), text)
    shown = m.json("intent", "show", "redis")
    expect(shown["max_gap_ms"] == 200 and shown["containers"] == ["redis"] and len(shown["drivers"]) == 10, f"as JSON: {shown}")
    expect([i["service"] for i in m.json("intent", "list")["intents"]] == ["redis", "greedy", "nobody"], "as JSON")
    refused(m, 3, "no service 'nosuch' has an intent", "intent", "show", "nosuch", hint="intent list")


def without():
    with manager(None) as m:
        m.wait_ready()
        for verb in (["network", "show"], ["network", "path", "a", "b"], ["network", "check"], ["intent", "list"], ["intent", "show", "redis"]):
            refused(m, 5, "no description of its network", *verb, hint="--network FILE")


def wrong_file(text, message):
    with manager(text) as m:
        code = m.process.wait(PATIENCE_S)
        expect(code == 1 and re.search(message, m.lines()), f"exit code {code}: {m.lines()}")


def reload(m, text, says):
    """SIGHUP, until the manager has said what became of it."""
    before = len(m.lines())
    with open(m.file, "w", encoding="utf-8") as file:
        file.write(text if isinstance(text, str) else json.dumps(text))
    m.process.send_signal(signal.SIGHUP)
    until = time.monotonic() + PATIENCE_S
    while not re.search(says, m.lines()[before:]):
        expect(m.process.poll() is None and time.monotonic() < until, f"SIGHUP: {m.lines()[before:]}")
        time.sleep(0.02)


def changed_file():
    with manager(DESCRIPTION) as m:
        m.wait_ready()
        names = [i["service"] for i in m.json("intent", "list")["intents"]]
        reload(m, '{"version": 1,\n "dns": [}', r"ERROR.*refused, the one from before holds: .*network\.json: network: line 2, column \d+")
        expect([i["service"] for i in m.json("intent", "list")["intents"]] == names, "a file that was refused counts")
        reload(m, dict(DESCRIPTION, intents=[{"service": "new", "container": "nobody"}]), r"INFO.*network\.json, was read again")
        expect([i["service"] for i in m.json("intent", "list")["intents"]] == ["new"], "the changed file does not count")
        expect(m.json("network", "check")["intents"][0]["service"] == "new", "the changed file does not count for check")
    with manager(None) as m:
        m.wait_ready()
        reload(m, "", "SIGHUP: there is nothing to read again")
        refused(m, 5, "no description of its network", "network", "show")


def example():
    """The file that the documents show is one that a manager takes."""
    with open(EXAMPLE, encoding="utf-8") as file:
        text = file.read()
    with manager(text) as m:
        m.wait_ready()
        shown = m.json("network", "show")
        expect(shown["nodes"] and m.json("intent", "list")["intents"], "an example of nothing")


def main():
    tap = Tap("network verbs", True)
    with manager(DESCRIPTION) as m:
        m.wait_ready()
        report(m, "h1", ("redis", None), ("web", "greedy"))
        report(m, "lonely")
        for name, test in (("network show", show), ("network path", path), ("intent list, intent show", intents), ("network check", check)):
            with tap.test(name):
                test(m)
    with tap.test("a manager without a description"):
        without()
    with tap.test("files that are no description"):
        wrong_file('{"version": 1,\n "dns": [}', r"network\.json: network: line 2, column \d+")
        wrong_file(dict(DESCRIPTION, openflow={"switches": [{"switch": "s9", "address": "tcp:192.0.2.1:6653"}]}), r"openflow\.switches\[0\]\.switch is not in the topology")
    with tap.test("SIGHUP: a changed file, one that is refused, none"):
        changed_file()
    with tap.test("examples/network.json"):
        example()
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
