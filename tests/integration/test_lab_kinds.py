#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The kinds of labs (tools/lab/kinds.py) and the traffic that watches moves (seq-client, seq-server, capture). Prints TAP. Arguments: "all", or the kinds and parts that are wanted.

A container is stood in for by a Box: a namespace with a server in it and a wire to several hosts, of which one is connected; changing that and telling the network is a move without a freeze.
"""

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "e2e"))
from common import Skip, Tap, conclude, expect, lab_name, unwind_on_signal  # noqa: E402
from cluster import build_dir, system_leftovers  # noqa: E402
from commands import call  # noqa: E402
from lab import Lab, LabError, LeftoverError  # noqa: E402
import snapshot  # noqa: E402
import traffic  # noqa: E402

PROGRAMS = os.path.join(build_dir(), "tools")
LAB_PY = os.path.join(os.path.dirname(os.path.dirname(HERE)), "tools", "lab", "lab.py")
PORT = 7000
BOX = 101
MOVES = 4
FLIPS = 20
FLIP_RATES = {"ovs": 10000, "ovs3": 2000}  # packets a second: as many as software switches, one after the other, can pass on two processors
FLIP_TRIES = 3
STALL_MS = 1000
ANNOUNCE_AGAIN_S = 0.7  # more than Open vSwitch's other_config:max-revalidator
ALL = [("bridge", {}), ("ovs", {}), ("ovs", {"learning": True}), ("ovs3", {}), ("vxlan", {}), ("vxlan", {"learning": True}), ("routed", {})]
SHORT = [("bridge", {}), ("ovs", {}), ("vxlan", {}), ("routed", {})]  # in "make check"; "make e2e-network" has all

# Is somebody there? A closed port's refusal is an answer, too.
REACH = ["python3", "-c", """
import socket, sys, time
deadline, missing = time.monotonic() + float(sys.argv[1]), list(sys.argv[2:])
while missing and time.monotonic() < deadline:
    for address in list(missing):
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as s:
            s.settimeout(0.3)
            try:
                s.connect((address, 9))
            except ConnectionRefusedError:
                missing.remove(address)
            except OSError:
                pass
print(" ".join(missing))
"""]
# A gratuitous ARP request: switches learn the port from it.
ANNOUNCE = ["python3", "-c", """
import socket, sys
mac, address = bytes.fromhex(sys.argv[1].replace(":", "")), socket.inet_aton(sys.argv[2])
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0))
s.send(b"\\xff" * 6 + mac + b"\\x08\\x06\\x00\\x01\\x08\\x00\\x06\\x04\\x00\\x01" + mac + address + b"\\x00" * 6 + address)
"""]


def unreachable(lab, host, addresses, seconds=5):
    return lab.run(host, [*REACH, str(seconds), *addresses]).stdout.split()


class Box:
    """A namespace with a container's MAC and addresses, a wire to each of these hosts, and a seq-server."""

    def __init__(self, lab, number=BOX, hosts=("src", "dst"), name="box"):
        self.lab, self.hosts, self.container, self.where = lab, hosts, lab.container(number), hosts[0]
        self.netns, self.device = f"{lab.name}-{name}", f"{name}{number}"
        self.address, self.address6 = (self.container[key].split("/")[0] for key in ("address", "address6"))
        self.server = None

    def __enter__(self):
        call("ip", "netns", "add", self.netns)
        # Ports only forward: nothing of the box itself is on them.
        self.run("sysctl", "-q", "-w", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.default.disable_ipv6=1", "net.ipv4.conf.default.rp_filter=1", "net.ipv4.conf.default.arp_ignore=8")
        mtu = json.loads(call("ip", "-netns", self.lab.netns(self.where), "-json", "link", "show", "dev", "br0"))[0]["mtu"]
        # k0: something is always plugged in, so that the carrier stays.
        self.ip("link set lo up", f"link add eth0 address {self.container['mac']} mtu {mtu} type bridge stp_state 0 forward_delay 0 mcast_snooping 0", "link add k0 type veth peer name k1", "link set k1 up",
                "link set k0 up master eth0")
        self.run("sysctl", "-q", "-w", "net.ipv6.conf.eth0.disable_ipv6=0", "net.ipv4.conf.eth0.rp_filter=0", "net.ipv4.conf.eth0.arp_ignore=0")
        self.ip("link set eth0 up", f"address add {self.container['address']} dev eth0", f"address add {self.container['address6']} dev eth0 nodad")
        for index, host in enumerate(self.hosts):
            self.plug(index, host)
        if self.container["gateway"]:
            self.ip(f"route add default via {self.container['gateway']}", f"route add default via {self.container['gateway6']}")
        self.connect(self.where)
        self.server = subprocess.Popen(["nsenter", f"--net=/run/netns/{self.netns}", "--", os.path.join(PROGRAMS, "seq-server"), str(PORT)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        expect(self.server.stdout.readline() == "serving\n", "seq-server does not serve")
        self.lab.place(self.container, self.where)
        expect(not unreachable(self.lab, "cli", [self.address, self.address6]), "the box is not reached")
        return self

    def plug(self, index, host):
        call("ip", "link", "add", f"p{index}", "netns", self.netns, "type", "veth", "peer", "name", self.device, "netns", self.lab.netns(host))
        self.ip(f"link set p{index} up")
        self.lab.ip(host, f"link set {self.device} master {self.container['bridge']} up")

    def __exit__(self, *_):
        self.server.kill()
        self.server.wait()
        self.server.stdout.close()
        self.lab.place(self.container, None)
        for index in range(len(self.hosts)):
            self.ip(f"link delete p{index}")
        call("ip", "netns", "delete", self.netns)

    def run(self, *argv):
        return call("nsenter", f"--net=/run/netns/{self.netns}", "--", *argv)

    def ip(self, *commands):
        call("ip", "-netns", self.netns, "-batch", "-", stdin="\n".join(commands) + "\n")

    def connect(self, host):
        """Its wire leads to that host only; the network is told nothing."""
        self.ip(*(f"link set p{index} nomaster" for index in range(len(self.hosts)) if self.hosts[index] != host), f"link set p{self.hosts.index(host)} master eth0")
        self.where = host

    def announce(self):
        self.run(*ANNOUNCE, self.container["mac"], self.address)

    def announce_until(self, condition):
        """An Open vSwitch that learns may take the last packets of the old port for newer than the announcement (docs/NETWORK.md, Stalls): said again when its flows were looked through."""
        self.announced = getattr(self, "announced", 0)
        if condition():
            return True
        if self.lab.learning and time.monotonic() > self.announced + ANNOUNCE_AGAIN_S:
            self.announced = time.monotonic()
            self.announce()
        return False

    def move(self, host):
        self.connect(host)
        self.lab.place(self.container, host)
        self.announce()


def title(kind, options):
    return " ".join([kind, *options])


def until(what, condition, seconds_max=10):
    deadline = time.monotonic() + seconds_max
    while not condition():
        expect(time.monotonic() < deadline, f"{what}: not within {seconds_max} s")
        time.sleep(0.02)


# --- the kinds ----------------------------------------------------------------

def check_hosts(lab):
    for host in lab.hosts:
        others = [address for other in lab.hosts if other != host for address in (lab.address(other), lab.address6(other))]
        missing = unreachable(lab, host, others)
        expect(not missing, f"{host} does not reach {missing}")
    expect([entry["link"] for entry in lab.status()] == ["connected"] * len(lab.hosts), str(lab.status()))


def check_cut(lab):
    lab.cut("dst")
    expect(unreachable(lab, "src", [lab.address("dst"), lab.address6("dst")], 0.7) == [lab.address("dst"), lab.address6("dst")], "the link is cut and answers")
    expect(not unreachable(lab, "src", [lab.address("cli")]), "another link is cut, too")
    expect([entry["link"] for entry in lab.status()] == ["connected", "cut", "connected"], str(lab.status()))
    lab.heal("dst")
    expect(not unreachable(lab, "src", [lab.address("dst"), lab.address6("dst")]), "healed, and no answer")


def check_moves(lab, box):
    """One set of connections and one stream each of IPv4 and IPv6 through all moves"""
    stall_ms = STALL_MS * (3 if lab.learning else 1)
    with contextlib.ExitStack() as stack:
        crowds = [stack.enter_context(traffic.crowd(lab, PROGRAMS, "cli", address, PORT, 20, 5000)) for address in (box.address, box.address6)]
        streams = [stack.enter_context(traffic.stream(lab, PROGRAMS, "cli", address, PORT, 500)) for address in (box.address, box.address6)]
        for number in range(MOVES):
            to = box.hosts[(number + 1) % 2]
            box.move(to)
            for crowd in crowds:
                crowd.reset()
            until(f"all connections work after move {number + 1}, to {to}", lambda: box.announce_until(lambda: all(crowd.report()["moved"] == 20 for crowd in crowds)))
        for found in [crowd.finish() for crowd in crowds]:
            expect((found["alive"], found["lost"], found["twice"], found["resets"], found["hung"]) == (20, 0, 0, 0, 0) and found["longest_gap_ms"] < stall_ms, f"connections: {found}")
        for found in [stream.finish() for stream in streams]:
            expect(found["received"] > 0 and found["longest_gap_ms"] < stall_ms and found["settled"] == found["sent"], f"stream: {found}")


def check_untold(lab, box):
    """A network that does not learn goes on to the old host until it is told; one that learns does not."""
    to = box.hosts[1] if box.where == box.hosts[0] else box.hosts[0]
    box.connect(to)
    box.announce()
    learns = lab.learning or lab.kind == "bridge"
    missing = unreachable(lab, "cli", [box.address, box.address6], ANNOUNCE_AGAIN_S if learns else 0.7)
    if learns and missing:
        box.announce()
        missing = unreachable(lab, "cli", [box.address, box.address6], 5)
    expect(missing == ([] if learns else [box.address, box.address6]), f"moved, and the network was told nothing: {missing} of two addresses are not reached")
    box.move(to)
    expect(not unreachable(lab, "cli", [box.address, box.address6]), "told, and no answer")


def test_kind(tap, name, kind, options):
    with Lab(name, kind=kind, ipv6=True, **options) as lab:
        with tap.test(f"{title(kind, options)}: all hosts reach each other, IPv4 and IPv6"):
            check_hosts(lab)
        before = lab.snapshot()
        with tap.test(f"{title(kind, options)}: what was moved and taken away has left no trace"):
            with Box(lab) as box:
                with tap.test(f"{title(kind, options)}: connections and packets follow {MOVES} moves"):
                    check_moves(lab, box)
                with tap.test(f"{title(kind, options)}: who has to be told"):
                    check_untold(lab, box)
                with tap.test(f"{title(kind, options)}: the box is seen in the snapshot"):
                    changed = snapshot.compare(before, lab.snapshot())
                    expect(any("box101" in line for line in changed), str(changed))
                    learns = lab.learning or kind == "bridge"
                    expect(learns or any(word in line for line in changed for word in ("02:77:00:00:01:65", "10.79.0.101")), f"not what leads to it: {changed}")
            with tap.test(f"{title(kind, options)}: a link is cut and healed"):
                check_cut(lab)
            expect(not (left := snapshot.compare(before, lab.snapshot())), lambda: "\n".join(left))
    with tap.test(f"{title(kind, options)}: nothing is left of it"):
        expect(not system_leftovers(name), lambda: str(system_leftovers(name)))


# --- flows --------------------------------------------------------------------

def flip(lab, box, rate, hosts=("dst", "src")):
    """A stream through all flips, and how many of its packets that box had."""
    with traffic.stream(lab, PROGRAMS, "cli", box.address, PORT, rate) as stream:
        for number in range(FLIPS):
            seen = stream.report()["received"]
            until("packets come back", lambda: stream.report()["received"] > seen + rate / 50)
            lab.place(box.container, hosts[number % len(hosts)])
        found = stream.finish()
    state = json.loads(lab.run("cli", ["redis-cli", "-h", box.address, "-p", str(PORT), "STATE"]).stdout)
    return found, state["streams"][-1]["received"]


def test_flips(tap, name, kind, rate):
    """Two hosts have a box with the same addresses; all that decides between them is the flows. A busy machine loses packets of its own: one try without a loss is proof enough, for flips that lose some lose some in each."""
    with tap.test(f"{kind}: {FLIPS} flips of flows under {rate} packets a second lose none"), Lab(name, kind=kind, ipv6=True) as lab:
        with Box(lab, hosts=("dst",), name="two") as other, Box(lab, hosts=("src",), name="one") as box:
            for here in (other, box):  # what the one says to all must not teach the other's host
                call("bridge", "-netns", lab.netns(here.where), "fdb", "replace", here.container["mac"], "dev", here.device, "master", "static", "sticky")
            for _ in range(FLIP_TRIES):
                found, here = flip(lab, box, rate)
                tap.say(f"{kind}: {found}")
                expect(0 < here < found["received"] and found["settled"] == found["sent"], f"one server had {here} of {found}")  # the flips did something
                if found["lost"] == 0:
                    break
            if found["lost"]:
                still, _ = flip(lab, box, rate, ("src",))  # the same commands, and nothing changes
                if still["lost"]:
                    raise Skip(f"this machine is too busy now: {still['lost']} of {still['sent']} packets are lost without a flip")
            expect(found["lost"] == 0 and found["duplicates"] == 0, f"{found}")


# --- snapshots ----------------------------------------------------------------

CHANGES = [
    ("links", "link add x0 type veth peer name x1", "link delete x0"),
    ("addresses", "address add 10.9.9.9/32 dev br0", "address delete 10.9.9.9/32 dev br0"),
    ("addresses", "address add fd99::9/128 dev br0 nodad", "address delete fd99::9/128 dev br0"),
    ("routes", "route add 10.9.8.0/24 dev br0", "route delete 10.9.8.0/24 dev br0"),
    ("routes", "route add 10.9.8.0/24 dev br0 table 77", "route delete 10.9.8.0/24 dev br0 table 77"),
    ("routes", "route add fd98::/64 dev br0", "route delete fd98::/64 dev br0"),
    ("rules", "rule add from 10.9.9.9 table 77 priority 77", "rule delete priority 77"),
    ("rules", "-6 rule add from fd99::9 table 77 priority 77", "-6 rule delete priority 77"),
    ("neighbours", "neighbour add 10.77.0.99 lladdr 02:00:00:00:00:99 dev br0 nud permanent", "neighbour delete 10.77.0.99 dev br0"),
    ("neighbours", "neighbour add fd77::99 lladdr 02:00:00:00:00:99 dev br0 nud permanent", "neighbour delete fd77::99 dev br0"),
    ("links", "link set br0 mtu 1400", "link set br0 mtu 1500"),
]


def test_snapshot(tap, name):
    with Lab(name, kind="ovs", ipv6=True) as lab:
        before = lab.snapshot()

        def changed(what, part):
            found = snapshot.compare(before, lab.snapshot())
            expect(found and all(part in line for line in found), f"{what}: {found}")

        def same(what):
            found = snapshot.compare(before, lab.snapshot())
            expect(not found, f"{what}: {found}")

        for part, do, undo in CHANGES:
            with tap.test(f"snapshot: {do}"):
                call("ip", "-netns", lab.netns("src"), *do.split())
                found = snapshot.compare(before, lab.snapshot())
                expect(any(line.startswith(f"src {part}") for line in found) and all(line.startswith("src ") for line in found), f"{found}")
                call("ip", "-netns", lab.netns("src"), *undo.split())
                same(undo)
        with tap.test("snapshot: forwarding entries, nftables, flows"):
            call("bridge", "-netns", lab.netns("dst"), "fdb", "replace", "02:00:00:00:00:98", "dev", "eth0", "master", "static", "sticky")
            changed("fdb", "dst fdb: + ")
            call("bridge", "-netns", lab.netns("dst"), "fdb", "delete", "02:00:00:00:00:98", "dev", "eth0", "master")
            same("fdb")
            lab.run("cli", ["nft", "add table ip t; add chain ip t c { type filter hook input priority 0; }; add rule ip t c counter"])
            changed("nft", "cli nft: + ")
            lab.run("cli", ["nft", "delete table ip t"])
            same("nft")
            lab.place(lab.container(BOX), "dst")
            changed("flows", "flows br0: + priority=40000,dl_dst=02:77:00:00:01:65")
            lab.place(lab.container(BOX), None)
            same("flows")
        with tap.test("snapshot: traffic changes nothing in it"):
            check_hosts(lab)
            same("after traffic")


# --- the command line, and what goes wrong --------------------------------------

def lab_py(*argv, **options):
    return subprocess.run([sys.executable, LAB_PY, *argv], capture_output=True, text=True, check=False, **options)


def test_command_line(tap, name):
    with tap.test("lab.py: up, status, place, snapshot, down of another process's lab with daemons"):
        done = lab_py("up", name, "--kind", "ovs3", "--ipv6")
        expect(done.returncode == 0 and "three Open vSwitch bridges in a row, ipv6" in done.stdout and "fd77::2" in done.stdout, f"{done}")
        done = lab_py("status", name)
        expect(done.stdout.count("connected") == 3 and "three Open vSwitch" in done.stdout, f"{done}")
        expect(lab_py("place", name, "101", "dst").returncode == 0, "place")
        taken = json.loads(lab_py("snapshot", name).stdout)
        ways = [next(flow.split("actions=")[1] for flow in taken["flows"][switch] if "02:77:00:00:01:65" in flow) for switch in ("s1", "s2", "s3")]
        expect(ways == ["output:102", "output:2", "output:101"], f"{ways}")
        described = json.loads(lab_py("describe", name).stdout)
        expect([switch["address"] for switch in described["openflow"]["switches"]] == [f"tcp:10.78.0.254:{port}" for port in (6653, 6654, 6655)], f"{described}")
        expect([link["to_port_number"] for link in described["topology"]["links"]] == [1, 2, 3, 101, 101], f"{described}")
        done = lab_py("up", name)  # of another kind: the daemons of the first go
        expect(done.returncode == 0 and "a Linux bridge" in done.stdout, f"{done}")
        expect(not [left for left in system_leftovers(name) if not left.startswith("netns ")], lambda: str(system_leftovers(name)))
        done = lab_py("down", name)
        expect(done.returncode == 0, f"{done}")
        expect(not system_leftovers(name), lambda: str(system_leftovers(name)))


def test_switch_is_reached(tap, name):
    with tap.test("ovs: a host speaks to the switch over the management network, another lab's namespaces do not see it"), Lab(name, kind="ovs") as lab:
        said = lab.run("cli", ["ovs-ofctl", "-O", "OpenFlow14", "show", "tcp:10.78.0.254:6653"]).stdout
        expect("dpid:0000000000000001" in said and " 1(src)" in said and " 3(cli)" in said, said)
        expect(os.stat(f"/run/fleximigrate-lab/{name}").st_mode & 0o777 == 0o700, "its folder is open to others")


def test_description(tap, name):
    """What is described of each kind is what a manager takes."""
    program = os.path.join(build_dir(), "fleximigrate")
    for kind, options in ALL:
        with tap.test(f"{title(kind, options)}: the manager takes its description"), tempfile.TemporaryDirectory(prefix="fm-lab-kinds-") as folder:
            if "  --network " not in subprocess.run([program, "manager", "--help"], capture_output=True, text=True, check=True).stdout:
                raise Skip("the manager has no --network")
            path = os.path.join(folder, "network.json")
            with open(path, "w", encoding="utf-8") as file:
                json.dump(Lab(name, kind=kind, ipv6=True, **options).describe(), file)
            with subprocess.Popen([program, "manager", "--socket", f"{folder}/socket", "--state-dir", f"{folder}/state", "--network", path], stderr=subprocess.PIPE, text=True) as manager:
                said = ""
                while " ready on " not in said and (line := manager.stderr.readline()):
                    said += line
                manager.terminate()
                expect(" ready on " in said, said)


def test_failures(tap, name):
    with tap.test("what is wrong is said, and nothing is made"):
        for text, make in (("kind 'x'", lambda: Lab(name, kind="x")), ("no choice of learning", lambda: Lab(name, learning=True)), ("is taken", lambda: Lab(name, ["s1", "dst"], kind="ovs3")),
                           ("cannot have latency", lambda: Lab(name, kind="ovs").delay("dst", 1, "true"))):
            try:
                make()
                expect(False, f"{text}: it was accepted")
            except LabError as error:
                expect(text in str(error), f"{error}")
        done = lab_py("up", name, "--kind", "ovs", env={**os.environ, "PATH": "/nowhere"})
        expect(done.returncode == 1 and ("openvswitch-switch" in done.stderr), f"{done}")
        expect(not system_leftovers(name), lambda: str(system_leftovers(name)))
    with tap.test("a process that stays is named, and the lab goes all the same"):
        lab = Lab(name, kind="ovs").up()
        with lab.popen("sw", ["sleep", "100"]) as sleeper:
            try:
                lab.down()
                expect(False, "nothing was said")
            except LeftoverError as error:
                expect(f"pid {sleeper.pid} sleep" in str(error) and "ovs" not in str(error), f"{error}")
            finally:
                sleeper.kill()
        expect(not system_leftovers(name), lambda: str(system_leftovers(name)))
    with tap.test("daemons and a folder that a lab has left are found, and the next of that name removes them"):
        lab = Lab(name, kind="ovs").up()
        for host in ("src", "dst", "cli", "sw"):
            call("ip", "netns", "delete", f"{name}-{host}")
        left = system_leftovers(name)
        expect(sum(line.startswith("process ") for line in left) == 2 and f"folder /run/fleximigrate-lab/{name}" in left, f"{left}")
        with lab:
            check = unreachable(lab, "src", [lab.address("dst")])
            expect(not check, f"{check}")
        expect(not system_leftovers(name), lambda: str(system_leftovers(name)))


# --- the witnesses themselves ----------------------------------------------------

class FakeServer(threading.Thread):
    """Answers the first five increments well and the sixth with a number of its own; then in step with that."""

    def __init__(self, jump):
        super().__init__(daemon=True)
        self.jump = jump
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def run(self):
        connection, _ = self.listener.accept()
        with connection, self.listener:
            value = answered = 0
            while data := connection.recv(4096):
                if b"INCR" in data:
                    value += 1 + (self.jump if answered == 5 else 0)
                    answered += 1
                    connection.sendall(b":%d\r\n" % value)
                else:
                    connection.sendall(b"$%d\r\n%d\r\n" % (len(str(value)), value))


def test_crowd(tap, lab, box):
    for jump, member in ((-3, "lost"), (3, "twice")):
        with tap.test(f"seq-client: increments that are {member} are counted"):
            server = FakeServer(jump)
            server.start()
            client = subprocess.Popen([os.path.join(PROGRAMS, "seq-client"), "tcp", "127.0.0.1", str(server.port), "1", "1000"], stdout=subprocess.PIPE, text=True)
            expect(client.stdout.readline() == "ready\n", "not ready")

            def acknowledged():
                client.send_signal(subprocess.signal.SIGUSR2)
                return json.loads(client.stdout.readline())["acknowledged"]
            until("ten answers", lambda: acknowledged() >= 10)
            client.terminate()
            out, _ = client.communicate(timeout=30)
            found = json.loads(out)
            expect(found[member] == 3 and found["lost"] + found["twice"] == 3 and client.returncode == 1, f"{found}, exit code {client.returncode}")
    with tap.test("seq-client: 200 connections, each with a counter of its own; the server knows them all"):
        with traffic.crowd(lab, PROGRAMS, "cli", box.address6, PORT, 200, 20000) as crowd:
            until("all have counted", lambda: crowd.report()["moved"] == 200)
            state = json.loads(lab.run("cli", ["redis-cli", "-h", box.address, "-p", str(PORT), "STATE"]).stdout)
            expect(state["connections"] == 201 and state["keys"] >= 200, f"{state}")
            found = crowd.finish()
            expect(found["alive"] == 200 and found["acknowledged"] >= 200 and not found["lost"], f"{found}")
            expect(crowd.process.returncode == 0, f"exit code {crowd.process.returncode}")
    with tap.test("seq-client: a cut link is a long wait, not a loss"):
        with traffic.crowd(lab, PROGRAMS, "cli", box.address, PORT, 3, 1000) as crowd:
            lab.cut("cli")
            until("it waits", lambda: crowd.report()["waiting_ms"] > 400)
            lab.heal("cli")
            crowd.reset()
            until("it goes on", lambda: crowd.report()["moved"] == 3)
            found = crowd.finish()
            expect(found["longest_gap_ms"] > 400 and found["lost"] == found["resets"] == 0, f"{found}")


def test_stream(tap, lab, box):
    with tap.test("seq-client: packets that a cut link swallows are lost, those before and after are not"):
        with traffic.stream(lab, PROGRAMS, "cli", box.address, PORT, 1000) as stream:
            before = stream.report()
            lab.cut("cli")
            until("packets are sent into the cut", lambda: stream.report()["sent"] > before["sent"] + 300)
            cut = stream.report()
            lab.heal("cli")
            until("packets come back", lambda: stream.report()["received"] > cut["received"] + 300)
            found = stream.finish()
            expect(300 <= found["lost"] < 1000 and found["received"] + found["lost"] == found["sent"] == found["settled"], f"{found}")
            expect(found["longest_gap_ms"] > 250 and found["duplicates"] == 0, f"{found}")
    with tap.test("seq-server: what comes twice, late, or not at all is told apart"):
        code = """
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], int(sys.argv[2])))
s.settimeout(5)
for number in (0, 1, 1, 4, 3, 3, 7):
    s.send(struct.pack("=IIQ48x", 0x666d7371, 4242, number))
    s.recv(100)
s.send(b"something else")
"""
        lab.run("cli", ["python3", "-c", code, box.address, str(PORT)])
        state = json.loads(lab.run("cli", ["redis-cli", "-h", box.address, "-p", str(PORT), "STATE"]).stdout)
        found = next(entry for entry in state["streams"] if entry["stream"] == 4242)
        expect((found["received"], found["duplicates"], found["reordered"], found["missing"]) == (5, 2, 1, 3), f"{found}")


def packets(path):
    with open(path, "rb") as file:
        head = file.read(24)
        expect(struct.unpack("=IHH", head[:8]) == (0xa1b23c4d, 2, 4), f"{head}")
        while record := file.read(16):
            _, _, kept, _ = struct.unpack("=IIII", record)
            yield file.read(kept)


def test_capture(tap, lab, box):
    path = f"/tmp/{lab.name}.pcap"
    with tap.test("capture: keeps what passed, forgets when told, writes when asked"):
        try:
            with traffic.capture(lab, PROGRAMS, "cli", "eth0", path) as capture, traffic.crowd(lab, PROGRAMS, "cli", box.address, PORT, 1, 1000) as crowd:
                until("some requests", lambda: crowd.report()["acknowledged"] > 50)
                expect(not os.path.exists(path), "it was written without a word")
                told = capture.report()
                found = list(packets(path))
                expect(told["packets"] == len(found) >= 100 and told["overrun"] == 0, f"{told}, {len(found)} in the file")
                address = socket.inet_aton(box.address)
                expect(any(packet[26:30] == address for packet in found) and any(packet[30:34] == address for packet in found), "only one direction")
                crowd.end()
                capture.reset()
                until("it has forgotten", lambda: capture.report()["packets"] == 0)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def test_server_ends(tap, lab, box):
    with tap.test("seq-client: connections that end are resets, and named"):
        with traffic.crowd(lab, PROGRAMS, "cli", box.address, PORT, 5, 1000) as crowd:
            box.server.kill()
            until("all have ended", lambda: crowd.report()["alive"] == 0)
            found = crowd.finish()
            expect(found["resets"] == 5 and "connection 0" in found["error"] or "ended" in found["error"], f"{found}")
            expect(crowd.process.returncode == 1, f"exit code {crowd.process.returncode}")


def test_witnesses(tap, name):
    with Lab(name, ipv6=True) as lab, Box(lab) as box:
        test_crowd(tap, lab, box)
        test_stream(tap, lab, box)
        test_capture(tap, lab, box)
        test_server_ends(tap, lab, box)


def main():
    unwind_on_signal()
    tap, name = Tap("lab-kinds", True), lab_name("lk")
    wanted = sys.argv[1:]
    everything = "all" in wanted
    wanted = [] if everything else wanted
    for kind, options in ALL if everything or wanted else SHORT:
        if not wanted or title(kind, options) in wanted or kind in wanted:
            test_kind(tap, name, kind, options)
    for word, run in (("flips", lambda: [test_flips(tap, name, kind, rate) for kind, rate in FLIP_RATES.items() if everything or wanted or kind == "ovs"]), ("snapshot", lambda: test_snapshot(tap, name)), ("command", lambda: test_command_line(tap, name)),
                      ("switch", lambda: test_switch_is_reached(tap, name)), ("description", lambda: test_description(tap, name)), ("failures", lambda: test_failures(tap, name)), ("witnesses", lambda: test_witnesses(tap, name))):
        if not wanted or word in wanted:
            run()
    return conclude(tap, name)


if __name__ == "__main__":
    sys.exit(main())
