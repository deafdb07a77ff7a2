# SPDX-License-Identifier: MIT
"""What is between the hosts of a lab (lab.py): a Linux bridge, Open vSwitch, VXLAN, a router.

A kind makes the namespace NAME-sw, its end of each host's link, and what is special in the hosts; it knows the addresses, what leads packets to a container
(place), and how to describe it all. Hosts look the same in all kinds: br0 with the host's address, eth0 the uplink.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

from commands import STRETCH, LabError, call, wait

RUN_DIR = "/run/fleximigrate-lab"  # what is no namespace: a folder for each lab with daemons
OPENFLOW_PORT = 6653
PRIORITY = 40000                   # of the flows that lead to containers: those that a redirection will find and change
TRUNK_DOWN, TRUNK_UP = 101, 102    # numbers of the ports between switches: to the one before, to the next
VXLAN_ID, VXLAN_PORT = 77, 4789
VXLAN_BYTES = 50                   # what it adds to a frame
LINK = {"latency_us": 50, "bandwidth_bytes_per_s": 1250000000}
END_S_MAX = 5

# Offloaded checksums are not filled in for a switch in user space: TCP would hang. (ethtool -K DEVICE tx off, which is not installed everywhere)
TX_OFF = """
import array, fcntl, socket, struct, sys
for device in sys.argv[1:]:
    value = array.array("B", struct.pack("II", 0x17, 0))
    request = struct.pack("16sP", device.encode(), value.buffer_info()[0])
    fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8946, request)
"""


class Bridge:
    """One switch that learns: a Linux bridge."""

    name = "bridge"
    title = "a Linux bridge"
    options = ()
    container_bridge = "br0"  # what hosts plug containers into

    def __init__(self, lab):
        self.lab = lab

    # --- addresses ---------------------------------------------------------

    def address(self, number):
        return f"10.77.0.{number}"

    def address6(self, number):
        return f"fd77::{number:x}"

    def switch_address(self):
        raise LabError(f"lab '{self.lab.name}': what is between its hosts has no address")

    def container(self, number):
        """What a container is to be given here; numbers from 101 to 250. gateway, gateway6: None where it needs none."""
        return {"mac": f"02:77:00:00:01:{number:02x}", "bridge": self.container_bridge, "address": f"10.77.0.{number}/24", "address6": f"fd77::{number}/64", "gateway": None, "gateway6": None}

    # --- making ------------------------------------------------------------

    def check(self):
        """What is missing on this machine is said before anything is made."""

    def make_switch(self):
        self.lab.ip("sw", "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0", "link set br0 up")

    def switch_of(self, _host):
        """The bridge in NAME-sw that the host's link is a port of."""
        return "br0"

    def make_uplink(self, host):
        call("ip", "link", "add", "eth0", "netns", self.lab.netns(host), "type", "veth", "peer", "name", host, "netns", self.lab.netns("sw"))
        self.lab.ip("sw", f"link set dev {host} master {self.switch_of(host)} up")

    def make_host(self, host):
        self.make_uplink(host)
        self.make_bridge(host, "eth0")

    def make_bridge(self, host, port, mtu=1500):
        number = self.lab.number(host)
        addresses = [f"address add {self.address(number)}/24 dev br0"] + ([f"address add {self.address6(number)}/64 dev br0 nodad"] if self.lab.ipv6 else [])
        self.lab.ip(host, f"link add br0 address {self.lab.mac(host)} mtu {mtu} type bridge stp_state 0 forward_delay 0 mcast_snooping 0", f"link set {port} master br0 up", *addresses, "link set br0 up")

    def connect(self):
        """After all hosts are made"""

    def is_ready(self):
        ports = json.loads(call("bridge", "-netns", self.lab.netns("sw"), "-json", "link") or "[]")
        return {port["ifname"] for port in ports if port.get("state") == "forwarding"} >= set(self.lab.hosts)

    def remove(self):
        """Before the namespaces go: daemons and files. Nothing there is no error."""

    # --- use ---------------------------------------------------------------

    def cut(self, host):
        self.lab.ip("sw", f"link set dev {self.lab.port(host)} nomaster")

    def heal(self, host):
        self.lab.ip("sw", f"link set dev {self.lab.port(host)} master {self.switch_of(host)}")

    def connected(self):
        ports = json.loads(call("ip", "-netns", self.lab.netns("sw"), "-json", "link", "show", "type", "veth") or "[]")
        return {port["ifname"] for port in ports if port.get("master")}

    def delayable(self):
        return True

    def place(self, container, host):
        """Lead packets for the container to that host, where that does not happen by itself. None: take away what leads there."""

    def flows(self):
        """{switch: its flows}"""
        return {}

    def links(self):
        return [{"from": host, "from_port": "eth0", "to": "sw", "to_port": host} for host in self.lab.hosts]

    def nodes(self):
        return {"hosts": [{"name": host} for host in self.lab.hosts], "switches": [{"name": "sw"}]}

    def describe(self):
        """What the manager's --network is about (src/network/description.h), without intents."""
        return {"version": 1, "topology": {"version": 1, **self.nodes(), "links": [{**link, **LINK} for link in self.links()]}}


class Vxlan(Bridge):
    """Hosts with an Ethernet of their own over an IP network: each has vx0 as the uplink of br0, underlay addresses 10.76.0.N on eth0."""

    name = "vxlan"
    title = "VXLAN between the hosts"
    options = ("learning",)

    def underlay(self, host):
        return f"10.76.0.{self.lab.number(host)}"

    def make_host(self, host):
        self.make_uplink(host)
        self.lab.ip(host, f"address add {self.underlay(host)}/24 dev eth0", "link set eth0 up",
                    f"link add vx0 mtu {1500 - VXLAN_BYTES} type vxlan id {VXLAN_ID} dstport {VXLAN_PORT} local {self.underlay(host)} {'learning' if self.lab.learning else 'nolearning'}")
        self.make_bridge(host, "vx0", 1500 - VXLAN_BYTES)

    def connect(self):
        for host in self.lab.hosts:
            others = [other for other in self.lab.hosts if other != host]
            for other in others:  # what has no entry of its own, and what is for all
                self._fdb(host, "append", "00:00:00:00:00:00", other)
                if not self.lab.learning:
                    self._fdb(host, "replace", self.lab.mac(other), other)

    def _fdb(self, host, verb, mac, other):
        call("bridge", "-netns", self.lab.netns(host), "fdb", verb, mac, "dev", "vx0", "dst", self.underlay(other), "self", "permanent")

    def place(self, container, host):
        if self.lab.learning:
            return
        for here in self.lab.hosts:
            if host and here != host:
                self._fdb(here, "replace", container["mac"], host)
            else:
                subprocess.run(["bridge", "-netns", self.lab.netns(here), "fdb", "delete", container["mac"], "dev", "vx0", "self"], stderr=subprocess.DEVNULL, check=False)

    def describe(self):
        return {**super().describe(), "vxlan": [{"device": "vx0", "hosts": {host: self.underlay(host) for host in self.lab.hosts}}]}


class Routed(Bridge):
    """Each host in a subnet of its own, 10.77.N.0/24, a router in the middle.

    Containers have addresses of 10.79.0.0/24 on any host but the client's: they are ports of its bridge ct0, which is the same gateway (address and MAC) everywhere and has no uplink.
    The router has a route to each container alone (/32, /128).
    """

    name = "routed"
    title = "a router between the hosts' subnets"
    container_bridge = "ct0"
    gateway, gateway6, gateway_mac = "10.79.0.1", "fd79::1", "02:77:00:00:ff:ff"

    def address(self, number):
        return f"10.77.{number}.2"

    def address6(self, number):
        return f"fd77:0:0:{number:x}::2"

    def switch_address(self):
        return self.router(1)[0]

    def router(self, number):
        return f"10.77.{number}.1", f"fd77:0:0:{number:x}::1"

    def container(self, number):
        return {"mac": f"02:77:00:00:01:{number:02x}", "bridge": self.container_bridge, "address": f"10.79.0.{number}/24", "address6": f"fd79::{number}/64", "gateway": self.gateway, "gateway6": self.gateway6}

    def switch_of(self, host):
        return f"r{self.lab.number(host)}"

    def _six(self, *commands):
        return commands if self.lab.ipv6 else ()

    def _forward(self, host):
        self.lab.sysctl(host, "net.ipv4.ip_forward=1", *self._six("net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.default.forwarding=1"))

    def make_switch(self):
        self._forward("sw")

    def make_uplink(self, host):
        number = self.lab.number(host)
        four, six = self.router(number)
        # A bridge around each of the router's ports: the link can be cut while the address and its routes stay.
        self.lab.ip("sw", f"link add {self.switch_of(host)} address 02:77:00:00:02:{number:02x} type bridge stp_state 0 forward_delay 0 mcast_snooping 0", f"address add {four}/24 dev {self.switch_of(host)}",
                    *self._six(f"address add {six}/64 dev {self.switch_of(host)} nodad"), f"link set {self.switch_of(host)} up")
        super().make_uplink(host)

    def make_host(self, host):
        super().make_host(host)
        self._forward(host)
        four, six = self.router(self.lab.number(host))
        self.lab.ip(host, f"route add default via {four}", *self._six(f"route add default via {six}"))
        if host == self.lab.client:  # it would look for the containers on its own bridge
            return
        # ctk: a port that stays, so that the bridge keeps its carrier.
        self.lab.ip(host, f"link add ct0 address {self.gateway_mac} type bridge stp_state 0 forward_delay 0 mcast_snooping 0", "link add ctk type veth peer name ctk0", "link set ctk0 up", "link set ctk master ct0 up",
                    f"address add {self.gateway}/24 dev ct0", *self._six(f"address add {self.gateway6}/64 dev ct0 nodad"), "link set ct0 up")

    def is_ready(self):
        return super().is_ready() and all(self.lab.operstate(host, "ct0") == "UP" for host in self.lab.hosts if host != self.lab.client)

    def place(self, container, host):
        for family, member, length, address_of in [("-4", "address", 32, self.lab.address)] + ([("-6", "address6", 128, self.lab.address6)] if self.lab.ipv6 else []):
            route = f"{container[member].split('/')[0]}/{length}"
            if host:
                call("ip", "-netns", self.lab.netns("sw"), family, "route", "replace", route, "via", address_of(host))
            else:
                subprocess.run(["ip", "-netns", self.lab.netns("sw"), family, "route", "delete", route], stderr=subprocess.DEVNULL, check=False)

    def nodes(self):
        return {"hosts": [{"name": host} for host in self.lab.hosts] + [{"name": "sw", "forwards": True}], "switches": []}

    def describe(self):
        vias = [self.lab.address] + ([self.lab.address6] if self.lab.ipv6 else [])
        return {**super().describe(), "routers": [{"host": "sw", "via": {host: via(host) for host in self.lab.hosts}} for via in vias],
                "tunnels": {"hosts": {host: self.lab.address(host) for host in self.lab.hosts}}}


class Ovs(Bridge):
    """Open vSwitch with its datapath in user space; its daemons and files are the lab's own. Hosts reach it over a network of its own, mgmt0 10.78.0.N."""

    name = "ovs"
    title = "Open vSwitch"
    options = ("learning",)
    switches = ("br0",)
    management = "10.78.0.254"

    def __init__(self, lab):
        super().__init__(lab)
        self.folder = os.path.join(RUN_DIR, lab.name)
        self.env = dict(os.environ, OVS_RUNDIR=self.folder, OVS_DBDIR=self.folder, OVS_LOGDIR=self.folder, OVS_SYSCONFDIR=self.folder)

    def check(self):
        for program in ("ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl"):
            if not shutil.which(program):
                raise LabError(f"{program} is missing (package openvswitch-switch): run tools/setup/install-packages.sh --group test")

    # --- where things are --------------------------------------------------

    def switch_index(self, host):
        return (self.lab.number(host) - 1) % len(self.switches)

    def switch_of(self, host):
        return self.switches[self.switch_index(host)]

    def way(self, index, host):
        """The number of the port by which that switch sends to that host."""
        there = self.switch_index(host)
        return self.lab.number(host) if there == index else TRUNK_UP if there > index else TRUNK_DOWN

    def openflow(self, index):
        """(where the switch listens in the management network, its Unix socket)"""
        return f"tcp:{self.management}:{OPENFLOW_PORT + index}", f"unix:{self.folder}/{self.switches[index]}.mgmt"

    def datapath_id(self, index):
        return index + 1

    # --- making ------------------------------------------------------------

    def _vsctl(self, *argv):
        return call("ovs-vsctl", f"--db=unix:{self.folder}/db.sock", "--timeout=15", *argv, env=self.env, group="test")

    def _daemon(self, *argv):
        """Returns when it answers (--detach does that)."""
        name = argv[0]
        try:
            call("nsenter", f"--net={self.lab.netns_path('sw')}", "--", *argv, f"--unixctl={self.folder}/{name}.ctl", f"--pidfile={self.folder}/{name}.pid", f"--log-file={self.folder}/{name}.log",
                 "-vsyslog:off", "-vconsole:off", "--detach", env=self.env, group="test")
        except LabError as error:
            raise LabError(f"{error}\n{self._log_of(name)}") from error

    def _log_of(self, name):
        """Its end: the file goes with the lab."""
        try:
            with open(f"{self.folder}/{name}.log", encoding="utf-8", errors="replace") as file:
                return "".join(file.readlines()[-10:])
        except OSError:
            return ""

    def make_switch(self):
        if os.path.isdir(self.folder):  # of one whose namespaces were taken away by somebody else
            self.remove()
        os.makedirs(self.folder, mode=0o700)
        self.lab.ip("sw", "link add mgmt type bridge stp_state 0 forward_delay 0 mcast_snooping 0", f"address add {self.management}/24 dev mgmt", "link set mgmt up")
        database = f"{self.folder}/conf.db"
        call("ovsdb-tool", "create", database, env=self.env, group="test")
        self._daemon("ovsdb-server", database, f"--remote=punix:{self.folder}/db.sock")
        self._vsctl("--no-wait", "init")
        self._daemon("ovs-vswitchd", f"unix:{self.folder}/db.sock")
        for index, switch in enumerate(self.switches):
            self._vsctl("add-br", switch, "--", "set", "bridge", switch, "datapath_type=netdev", "fail_mode=secure", f"other-config:datapath-id={self.datapath_id(index):016x}",
                        f"other-config:hwaddr=02:77:00:00:03:{index + 1:02x}", "--", "set-controller", switch, f"ptcp:{OPENFLOW_PORT + index}:{self.management}")
            if index:
                down, up = self.trunk(index - 1)
                self.lab.ip("sw", f"link add {down} type veth peer name {up}", f"link set {down} up", f"link set {up} up")
                self._tx_off("sw", down, up)
                self._add_port(self.switches[index - 1], down, TRUNK_UP)
                self._add_port(switch, up, TRUNK_DOWN)

    def trunk(self, index):
        """Names of the two ends of the wire between that switch and the next"""
        return f"t{index + 1}-{index + 2}", f"t{index + 2}-{index + 1}"

    def _tx_off(self, host, *devices):
        self.lab.run(host, [sys.executable, "-c", TX_OFF, *devices])

    def _add_port(self, switch, device, number):
        self._vsctl("add-port", switch, device, "--", "set", "interface", device, f"ofport_request={number}")
        got = self._vsctl("get", "interface", device, "ofport").strip()
        if got != str(number):
            raise LabError(f"lab '{self.lab.name}': port {device} of {switch} got number {got}, not {number}\n{self._log_of('ovs-vswitchd')}")

    def make_uplink(self, host):
        number = self.lab.number(host)
        call("ip", "link", "add", "eth0", "netns", self.lab.netns(host), "type", "veth", "peer", "name", host, "netns", self.lab.netns("sw"))
        call("ip", "link", "add", "mgmt0", "netns", self.lab.netns(host), "type", "veth", "peer", "name", f"m{number}", "netns", self.lab.netns("sw"))
        self.lab.ip("sw", f"link set dev {host} up", f"link set dev m{number} master mgmt up")
        self.lab.ip(host, f"address add 10.78.0.{number}/24 dev mgmt0", "link set mgmt0 up")
        self._tx_off(host, "eth0")
        self._tx_off("sw", host)
        self._add_port(self.switch_of(host), host, number)

    def connect(self):
        """Without learning: a flow for each host, copies for all; what has no flow is dropped."""
        for index, switch in enumerate(self.switches):
            flows = ["priority=0,actions=NORMAL"] if self.lab.learning else \
                ["priority=50,dl_dst=01:00:00:00:00:00/01:00:00:00:00:00,actions=FLOOD"] + [f"priority=100,dl_dst={self.lab.mac(host)},actions=output:{self.way(index, host)}" for host in self.lab.hosts]
            self.ofctl(switch, "replace-flows", "-", stdin="\n".join(flows) + "\n")

    def ofctl(self, switch, command, *argv, options=(), stdin=None):
        return call("ovs-ofctl", "-O", "OpenFlow14", *options, command, f"unix:{self.folder}/{switch}.mgmt", *argv, stdin=stdin, env=self.env, group="test")

    def is_ready(self):
        return all(self.lab.operstate(host, "mgmt0") == "UP" and self.lab.operstate("sw", host) == "UP" for host in self.lab.hosts)

    # --- the end -----------------------------------------------------------

    def daemons(self):
        """Processes that have our folder in their command line"""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if words[0] in (b"ovs-vswitchd", b"ovsdb-server") and any(f"{self.folder}/".encode() in word for word in words):
                found.append(int(pid))
        return found

    def remove(self):
        deadline = time.monotonic() + END_S_MAX * STRETCH
        told = {}
        # The switch first: without its database it only complains.
        while found := self.daemons():
            late = time.monotonic() > deadline
            for pid in found:
                if told.get(pid) != late:
                    told[pid] = late
                    try:
                        os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
                    except ProcessLookupError:
                        pass
            if time.monotonic() > deadline + END_S_MAX:
                raise LabError(f"lab '{self.lab.name}': processes {found} do not end")
            time.sleep(0.01)
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            os.rmdir(RUN_DIR)
        except OSError:
            pass  # another lab's, or there is none

    # --- use ---------------------------------------------------------------

    def cut(self, host):
        for word in ("no-receive", "no-forward"):
            self.ofctl(self.switch_of(host), "mod-port", host, word)

    def heal(self, host):
        for word in ("receive", "forward"):
            self.ofctl(self.switch_of(host), "mod-port", host, word)

    def connected(self):
        found = set()
        for switch in self.switches:
            for name, config in re.findall(r"^ \d+\((\w+)\):.*\n(?: {5}(?!config).*\n)* {5}config: +(.*)$", self.ofctl(switch, "dump-ports-desc"), re.M):
                if "NO_FWD" not in config and "NO_RECV" not in config:
                    found.add(name)
        return found

    def delayable(self):
        return False

    def place(self, container, host):
        if self.lab.learning:
            return
        # From the host's own switch outwards: each sends to one that knows the new way already.
        for index in sorted(range(len(self.switches)), key=lambda index: abs(index - self.switch_index(host)) if host else index):
            switch = self.switches[index]
            if host:
                self.ofctl(switch, "add-flow", f"priority={PRIORITY},dl_dst={container['mac']},actions=output:{self.way(index, host)}")
            else:
                self.ofctl(switch, "del-flows", f"priority={PRIORITY},dl_dst={container['mac']}", options=["--strict"])

    def flows(self):
        found = {}
        for switch in self.switches:
            lines = self.ofctl(switch, "dump-flows", options=["--no-stats", "--no-names"]).splitlines()
            found[switch] = sorted(line.strip() for line in lines if not line.startswith(("OFPST_FLOW", "NXST_FLOW")))
        return found

    def nodes(self):
        return {**super().nodes(), "switches": [{"name": switch} for switch in self.switches]}

    def links(self):
        return [{"from": host, "from_port": "eth0", "to": self.switch_of(host), "to_port": host, "to_port_number": self.lab.number(host)} for host in self.lab.hosts] + \
            [{"from": self.switches[index], "from_port": self.trunk(index)[0], "from_port_number": TRUNK_UP, "to": self.switches[index + 1], "to_port": self.trunk(index)[1], "to_port_number": TRUNK_DOWN}
             for index in range(len(self.switches) - 1)]

    def describe(self):
        described = super().describe()
        if not self.lab.learning:
            described["openflow"] = {"priority": PRIORITY, "switches": [{"switch": switch, "address": self.openflow(index)[0]} for index, switch in enumerate(self.switches)]}
        return described


class Ovs3(Ovs):
    """Three switches in a row, the hosts spread over them: a move from one to the next changes flows of two."""

    name = "ovs3"
    title = "three Open vSwitch bridges in a row"
    switches = ("s1", "s2", "s3")


KINDS = {kind.name: kind for kind in (Bridge, Ovs, Ovs3, Vxlan, Routed)}
