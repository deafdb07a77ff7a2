#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Moves that the network refuses, and moves whose clients follow a name, a load balancer or a tunnel: with real name servers, switches, controllers, routers and balancers around a real cluster.

Each laboratory (bridge, Open vSwitch, routed) has one container with seq-server and one TCP connection that increments a counter from the first to the last case. After a refused move the container runs where it was, the
connection goes on, the whole network is as it was before the move (Lab.snapshot), and nothing is left over. What is refused before the switch-over is refused with the path 1N 2N 3F 8N.
"""

import contextlib
import ctypes
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(ROOT, "tests", "integration")]
from common import STRETCH, Cluster, Skip, Tap, arguments, conclude, expect, lab_name, unwind_on_signal  # noqa: E402
from cluster import MANAGER_HOST, build_dir  # noqa: E402
import snapshot  # noqa: E402
import test_haproxy  # noqa: E402
import test_webhook  # noqa: E402
import traffic  # noqa: E402
from test_dns import KEY, SECRET, ZONE, Knot  # noqa: E402

PROGRAMS = os.path.join(build_dir(), "tools")
SERVER = os.path.join(PROGRAMS, "seq-server")
PORT, SECOND_PORT, PUBLISHED = 7000, 7001, 8000
NUMBER = 101           # the container's, in its network
SECOND = "10.80.0"     # network of its second endpoint, on br1
REFUSED = "1N 2N 3F 8N"
PATIENCE_S = 30
STEP_S_MAX = 7         # phase-redirect.c: a step may take 5 s; what is around it, 2 more
KEPT_S_MAX = 60        # ten seconds after the last packet
DNS_PORT, OPENFLOW_PORT, REST_PORT = 5301, 6699, 8080
NAME = f"service.{ZONE}"
TTL_S, TTL_MOVING_S = 3600, 5
OVS_PRIORITY_BELOW = 200  # a flow that leads to the container and is not the one that a move would find
CLONE_NEWNET = 0x40000000
CODES = {"DEADLINE_EXCEEDED": 4, "ALREADY_EXISTS": 6, "RESOURCE_EXHAUSTED": 8, "FAILED_PRECONDITION": 9, "ABORTED": 10, "UNAUTHENTICATED": 16}  # src/basic/error.h
APP = os.path.join(ROOT, "examples", "os-ken", "flows_rest.py")


# --- in a host's network --------------------------------------------------------------

@contextlib.contextmanager
def inside(lab, host):
    """This thread is in the host's network, and so is what it starts meanwhile: processes, threads, sockets."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(fd):
        if libc.setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns to the network of {host}")

    with open("/proc/thread-self/ns/net", "rb") as home, open(lab.netns_path(host), "rb") as there:
        enter(there.fileno())
        try:
            yield
        finally:
            enter(home.fileno())


@contextlib.contextmanager
def name_server(place, address):
    """knot next to the manager; NAME is at that address."""
    if not all(shutil.which(program) for program in (Knot.program, "dig", "nsupdate")):
        raise Skip("not installed: knot or bind9-dnsutils")
    folder = place.cluster.path("dns")
    os.makedirs(folder, exist_ok=True)
    with inside(place.lab, MANAGER_HOST):
        server = Knot(folder, DNS_PORT)
    try:
        with inside(place.lab, MANAGER_HOST):
            server.somebody_else(f"update add {NAME} {TTL_S} A {address}")
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


def dns_entry(key_file):
    return [{"name": "lab", "server": f"127.0.0.1:{DNS_PORT}", "zone": ZONE, "key": KEY, "algorithm": "hmac-sha256", "key_file": key_file, "ttl_s": TTL_MOVING_S}]


class Haproxy(test_haproxy.Haproxy):
    """In front of one server, which is at `address` first."""

    def __init__(self, folder, address):
        self.address = address
        super().__init__(folder)

    def config(self):
        return f"""global
    stats socket {self.socket} level admin
defaults
    mode tcp
    retries 3
    timeout connect 10s
    timeout client 60s
    timeout server 60s
frontend f
    bind 127.0.0.1:8080
    default_backend be
backend be
    server redis1 {self.address}
"""


class PairHaproxy(Haproxy):
    """With a second server, so that the first can be drained; what the first was, in order, as often as one can look."""

    def __init__(self, folder, address, second):
        self.second, self.stopped, self.seen = second, threading.Event(), []
        super().__init__(folder, address)
        self.watcher = threading.Thread(target=self.watch)
        self.watcher.start()

    def config(self):
        return super().config() + f"    server second {self.second}\n"

    def look(self):
        """(address, administrative state, sessions so far) of redis1"""
        row = self.rows()[("be", "redis1")]
        names, *rows = [line.lstrip("# ").split(",") for line in self.say("show stat").splitlines() if line]
        sessions = next(int(each[names.index("stot")]) for each in rows if each[:2] == ["be", "redis1"])
        return row["srv_addr"], {"0": "ready", "8": "drain"}.get(row["srv_admin_state"], row["srv_admin_state"]), sessions

    def watch(self):
        while not self.stopped.wait(0.01):
            self.seen.append(self.look())

    def states(self):
        """What followed what"""
        return [state for state, _ in itertools.groupby(each[:2] for each in self.seen)]

    def new_sessions_while(self, state):
        """Without those that were on their way when it began"""
        counts = [sessions for *each, sessions in self.seen if tuple(each) == state][2:]
        return counts[-1] - counts[0] if counts else None

    def stop(self):
        self.stopped.set()
        self.watcher.join()
        super().stop()


class Requests:
    """Threads that open a connection, increment, and close it, without end. Each answer that is no number counts as failed."""

    def __init__(self, lab, host, address, port, threads=4):
        self.address, self.port = address, port
        self.stopped, self.lock, self.answered, self.failed = threading.Event(), threading.Lock(), 0, []
        with inside(lab, host):
            self.threads = [threading.Thread(target=self.loop) for _ in range(threads)]
            for thread in self.threads:
                thread.start()

    def loop(self):
        while not self.stopped.is_set():
            try:
                with socket.create_connection((self.address, self.port), timeout=PATIENCE_S) as s:
                    s.sendall(b"*2\r\n$4\r\nINCR\r\n$7\r\nthrough\r\n")
                    answer = s.recv(100)
                failure = None if re.fullmatch(rb":\d+\r\n", answer) else repr(answer)
            except OSError as error:
                failure = repr(error)
            with self.lock:
                self.answered += failure is None
                self.failed += [failure] if failure else []
            self.stopped.wait(0.005)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stopped.set()
        for thread in self.threads:
            thread.join()


def settled(taken):
    """A container that was carried away and back is at an end of a new name and MAC: that is no difference."""
    text = re.sub(r"\bfe(:[0-9a-f]{2}){5}", "fe:", re.sub(r"\bfm[0-9a-f]{8}\b", "fm", re.sub(r'"link_netnsid": \d+', '"link_netnsid": 0', json.dumps(taken))))
    return {host: {what: sorted(items, key=json.dumps) if what in ("links", "fdb") else items for what, items in each.items()} for host, each in json.loads(text).items()}


# --- a laboratory with its container ----------------------------------------------------

class Place:
    def __init__(self, kind, options, tap, stack):
        self.tap, self.lab_name = tap, lab_name("rf")
        self.name = self.lab_name  # the machine's cgroups are shared by every lab: a name of our own
        self.cluster = Cluster(self.lab_name, keep_on_failure=options.keep, ipv6=True, lab_options={"kind": kind}, manager_options=self.manager_options)
        self.lab = self.cluster.lab
        self.where = "src"
        self.network_path = None
        self.witness = self.empty = None  # empty: the network without the container
        self.container = self.lab.container(NUMBER)
        self.address = self.container["address"].split("/")[0]
        stack.enter_context(self.cluster)
        stack.callback(self.end)

    def manager_options(self, cluster):
        self.network_path = cluster.path("network.json")
        self.write({"version": 1})
        self.policies("[]\n", cluster)
        return ["--network", self.network_path, "--policies", cluster.path("policies.yaml")]

    def policies(self, text, cluster=None):
        """The manager reads them when it is told of a network the next time."""
        with open((cluster or self.cluster).path("policies.yaml"), "w", encoding="utf-8") as file:
            file.write(text)

    def write(self, network):
        with open(self.network_path, "w", encoding="utf-8") as file:
            json.dump(network, file, indent=1)

    def describe(self, network, **intent):
        """The manager is told of this network, and of this intent for the container."""
        self.write({**network, "intents": [{"service": "server", "container": self.name, **intent}]})
        self.cluster.manager.stop()
        self.cluster.manager.start()
        self.cluster.wait_online()

    def secret(self, name, text):
        folder = self.cluster.path("manager", "secrets")
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with open(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            file.write(text + "\n")

    def start(self, *more, lead=True):
        c = self.container
        bundle = self.cluster.make_bundle(self.name, [SERVER, str(PORT)], programs=[SERVER])
        endpoint = ",".join(f"{key}={c[key]}" for key in ("bridge", "mac", "address", "gateway") if c[key])
        self.cluster.cli("container", "run", self.name, "--host", "src", "--bundle", bundle, "--endpoint", endpoint, *more)
        if lead:
            self.lab.place(c, "src")
        return self

    def watch(self):
        self.cluster.wait("the server answers", lambda: self.ask("PING") == "PONG", PATIENCE_S)
        self.witness = traffic.crowd(self.lab, PROGRAMS, MANAGER_HOST, self.address, PORT, 1, 500).ready(PATIENCE_S)
        return self

    def ask(self, *words, address=None, port=PORT):
        return self.lab.run(MANAGER_HOST, ["redis-cli", "-h", address or self.address, "-p", str(port), *words], check=False, timeout=60).stdout.strip()

    def end(self):
        if self.witness:
            self.witness.end()

    def goes_on(self):
        """The connection of all the time has answers to requests of from now on."""
        self.witness.reset()

        def moved():
            report = self.witness.report()
            expect(report["alive"] == 1 and not report["error"], lambda: f"the connection: {report}")
            return report["moved"] == 1
        self.cluster.wait("the connection goes on", moved, PATIENCE_S, self.witness.report)

    def stays(self):
        container = self.cluster.container(self.name)
        expect((container["host"], container["status"]) == (self.where, "running"), f"the container is {container['status']} on {container['host']}")
        self.goes_on()
        left = self.cluster.leftovers() + [f"kept: {each}" for each in self.cluster.kept()]
        expect(not left, lambda: f"left over: {left}")

    def same_network(self, before):
        changed = snapshot.compare(settled(before), settled(self.lab.snapshot()))
        expect(not changed, lambda: "the network is not as it was:\n" + "\n".join(changed[:20]))

    def refused(self, words, path=REFUSED, code=None):
        """A move that the network refuses, for a reason with these words. Returns seconds and the migration."""
        before, began = self.lab.snapshot(), time.monotonic()
        migration = self.cluster.migrate(self.name, "dst")
        took_s = time.monotonic() - began
        self.tap.say(f"{migration['state']} {migration['path']} in {took_s:.1f} s: {migration['error_message']}")
        expect((migration["state"], migration["path"]) == ("FAILED", path), lambda: f"{migration['state']} {migration['path']}: {migration['error_message']}")
        for each in [words] if isinstance(words, str) else words:
            expect(each in migration["error_message"], lambda each=each: f"\"{each}\" is not in: {migration['error_message']}")
        driver = re.match(r"(?:host \w+: )?(\w+): ", migration["error_message"])
        expect(driver is None or migration["error_message"].count(f"{driver[1]}: ") == 1, lambda: f"said twice: {migration['error_message']}")
        expect(code is None or migration["error_code"] == CODES[code], lambda: f"{migration['error_code']}, not {code}: {migration['error_message']}")
        self.stays()
        self.same_network(before)
        return took_s, migration

    def moves(self, to="dst"):
        migration = self.cluster.migrate(self.name, to)
        self.tap.say(f"{migration['state']} {migration['path']}, frozen {migration['frozen_us'] / 1000:.0f} ms")
        expect(migration["state"] == "COMPLETED", lambda: f"{migration['state']} {migration['path']}: {migration['error_message']}")
        self.where = to
        self.goes_on()
        return migration

    def conclude(self):
        """What the connection says at last."""
        if not self.witness.alive():  # a case needed its end, and has looked
            return
        report = self.witness.finish()
        expect((report["lost"], report["twice"], report["resets"], report["hung"]) == (0, 0, 0, 0) and report["alive"] == 1, f"the connection: {report}")


# --- in a network that learns ---------------------------------------------------------------

def addresses(place):
    return {"src": place.address, "dst": f"{SECOND}.{NUMBER}"}


def records(place, server):
    with inside(place.lab, MANAGER_HOST):
        return server.dig(NAME, "A")


def case_wrong_key(place):
    place.secret("wrong", "d3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmcgd3I=")
    with name_server(place, place.address) as server:
        place.describe({"version": 1, "dns": dns_entry("wrong")}, keep="name", name=NAME, dns="lab", addresses=addresses(place))
        place.refused(KEY, code="UNAUTHENTICATED")
        expect(records(place, server) == [(TTL_S, place.address)], lambda: f"{NAME} is {records(place, server)}")


def case_address_taken(place):
    """Another machine at the destination's bridge answers for the container's address."""
    place.describe({"version": 1}, keep="address")
    other, dst = f"{place.lab_name}-other", place.lab.netns("dst")

    def ip(*words):
        subprocess.run(["ip", *words], check=True, capture_output=True)

    ip("netns", "add", other)
    try:
        ip("-netns", dst, "link", "add", "ot0", "type", "veth", "peer", "name", "eth0", "netns", other)
        ip("-netns", other, "address", "add", f"{place.address}/24", "dev", "eth0")
        ip("-netns", other, "link", "set", "eth0", "up")
        ip("-netns", dst, "link", "set", "ot0", "master", "br0", "up")
        place.cluster.wait("the other machine's port is up", lambda: place.lab.operstate("dst", "ot0") == "UP" and place.lab.operstate("dst", "br0") == "UP", PATIENCE_S)
        place.refused(place.address, code="ALREADY_EXISTS")
    finally:
        subprocess.run(["ip", "-netns", dst, "link", "delete", "ot0"], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "delete", other], check=False)


def case_followed(place):
    """Name, balancer and webhook in one move. The webhook is the last that is told of each step: what it finds then is what the others have done."""
    if not os.path.exists(test_haproxy.HAPROXY):
        raise Skip("not installed: haproxy")
    old, new = (addresses(place)[host] for host in ("src", "dst"))
    place.secret("right", SECRET)
    place.secret("hook", test_webhook.SECRET)
    folder, found = place.cluster.path("haproxy"), {}
    os.makedirs(folder)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(name_server(place, old))

        def look(message):
            found[message["event"]] = server.dig(NAME, "A")
            return 204

        with inside(place.lab, MANAGER_HOST):
            receiver = stack.enter_context(test_webhook.Receiver(look))
            haproxy = Haproxy(folder, f"{old}:{PORT}")
        stack.callback(haproxy.stop)
        place.describe({"version": 1, "dns": dns_entry("right"), "load_balancers": [{"name": "lb", "driver": "haproxy", "socket": haproxy.socket}],
                        "webhooks": [{"name": "hook", "url": receiver.url, "events": ["open", "flip"], "secret_file": "hook", "required": True}]},
                       keep="name", name=NAME, dns="lab", addresses=addresses(place), load_balancer={"name": "lb", "backend": "be", "server": "redis1", "port": PORT}, webhooks=["hook"])
        requests = stack.enter_context(Requests(place.lab, MANAGER_HOST, "127.0.0.1", 8080))
        place.cluster.wait("requests through the balancer", lambda: requests.answered > 50 or requests.failed, PATIENCE_S)
        place.moves()
        at_end = requests.answered
        place.cluster.wait("requests after the move", lambda: requests.answered > at_end + 50 or requests.failed, PATIENCE_S)
        expect(not requests.failed, lambda: f"{len(requests.failed)} requests failed, the first: {requests.failed[0]}")
        expect(haproxy.server() == (new, "ready"), lambda: f"the balancer's server is {haproxy.server()}")
        expect(found == {"open": [(TTL_MOVING_S, old)], "flip": [(TTL_S, new)]}, lambda: f"the name was {found}")
        expect(records(place, server) == [(TTL_S, new)], lambda: f"{NAME} is {records(place, server)}")
        expect(receiver.events() == ["open", "flip"] and receiver.refused == 0, lambda: f"the webhook got {receiver.events()}, refused {receiver.refused}")
        place.tap.say(f"{requests.answered} requests through the balancer, 0 failed; {NAME} {found['open']} -> {found['flip']}; webhook once for each of {receiver.events()}")


def case_balancer_by_policy(place):
    """Only a move for which a policy has trigger_load_balancer_reconfiguration drains and re-points it; then one without, which leaves it."""
    if not os.path.exists(test_haproxy.HAPROXY):
        raise Skip("not installed: haproxy")
    here, there = place.where, "dst" if place.where == "src" else "src"
    old, new = (addresses(place)[host] for host in (here, there))
    folder = place.cluster.path("haproxy-policy")
    os.makedirs(folder)
    network = {"version": 1, "dns": dns_entry("right"), "load_balancers": [{"name": "lb", "driver": "haproxy", "socket": os.path.join(folder, "admin.sock")}]}
    wanted = {"keep": "name", "name": NAME, "dns": "lab", "addresses": addresses(place), "load_balancer": {"name": "lb", "backend": "be", "server": "redis1", "port": PORT, "drain": True, "by_policy": True}}
    place.secret("right", SECRET)
    with contextlib.ExitStack() as stack:
        stack.enter_context(name_server(place, old))
        second = place.lab.popen(MANAGER_HOST, [SERVER, str(SECOND_PORT)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(second.wait)
        stack.callback(second.kill)
        place.cluster.wait("the second server answers", lambda: place.ask("PING", address="127.0.0.1", port=SECOND_PORT) == "PONG", PATIENCE_S)
        with inside(place.lab, MANAGER_HOST):
            haproxy = PairHaproxy(folder, f"{old}:{PORT}", f"127.0.0.1:{SECOND_PORT}")
        stack.callback(haproxy.stop)
        requests = stack.enter_context(Requests(place.lab, MANAGER_HOST, "127.0.0.1", 8080))
        place.cluster.wait("requests through the balancer", lambda: requests.answered > 50 or requests.failed, PATIENCE_S)
        place.policies(f"- policy_name: follow\n  CONDITIONS: destination_host == '{there}'\n  ACTIONS: [allow_migration, trigger_load_balancer_reconfiguration]\n"
                       "- policy_name: back\n  ACTIONS: [allow_migration]\n")
        place.describe(network, **wanted)
        migration = place.moves(there)
        words = place.cluster.cli("policy", "explain", migration["id"]).stdout
        expect("its load balancer is led to the new host, as policy 'follow' wants" in words, words)
        sessions = haproxy.look()[2]
        place.cluster.wait("new sessions at the new address", lambda: haproxy.look()[2] > sessions + 20 or requests.failed, PATIENCE_S)
        expect(haproxy.states() == [(old, "ready"), (old, "drain"), (new, "drain"), (new, "ready")] or haproxy.states() == [(old, "ready"), (old, "drain"), (new, "ready")], lambda: f"the server was {haproxy.states()}")
        drained = haproxy.new_sessions_while((old, "drain"))
        expect(not drained, lambda: f"{drained} new sessions while it was drained, of {len(haproxy.seen)} looks")  # None: drained for less than three looks
        place.moves(here)
        expect(haproxy.look()[:2] == (new, "ready"), lambda: f"without the action the server is {haproxy.look()}")
        expect(not requests.failed, lambda: f"{len(requests.failed)} requests failed, the first: {requests.failed[0]}")
        place.tap.say(f"{haproxy.states()}, 0 new sessions while it was drained; {requests.answered} requests through the balancer, 0 failed")
    place.policies("[]\n")


def prepare_bridge(place):
    place.lab.add_network("br1", SECOND)
    place.empty = place.lab.snapshot()
    place.start("--endpoint", f"bridge=br1,address={SECOND}.{NUMBER}/24").watch()


# --- Open vSwitch -----------------------------------------------------------------------------

def prepare_ovs(place):
    if not shutil.which("ovs-vswitchd"):
        raise Skip("not installed: openvswitch-switch")
    place.empty = place.lab.snapshot()
    place.start(lead=False)
    lead(place)
    place.watch()


def lead(place):
    """A flow to where the container is, below the priority of those that a move finds: that will be one more."""
    place.lab.fabric.ofctl("br0", "add-flow", f"priority={OVS_PRIORITY_BELOW},dl_dst={place.container['mac']},actions=output:{place.lab.number(place.where)}")


def clear_ovs(place):
    place.lab.fabric.ofctl("br0", "del-flows", f"dl_dst={place.container['mac']}")


def set_controllers(place, *targets):
    """Open vSwitch forgets its flows with that."""
    place.lab.fabric._vsctl("set-controller", "br0", *targets)
    place.lab.fabric.connect()
    lead(place)


def case_switch_refuses(place):
    """Its table is full: a flow for the container is one too many."""
    fabric = place.lab.fabric
    place.describe(place.lab.describe(), keep="address", drivers=["openflow"])
    flows = len(place.lab.snapshot()["flows"]["br0"])
    fabric._vsctl("--id=@t", "create", "Flow_Table", f"flow_limit={flows}", "overflow_policy=refuse", "--", "set", "bridge", "br0", "flow_tables:0=@t")
    try:
        place.refused("the table is full", code="RESOURCE_EXHAUSTED")
    finally:
        fabric._vsctl("clear", "bridge", "br0", "flow_tables")


def behind_controller(place, url):
    network = place.lab.describe()
    del network["openflow"]
    return {**network, "controllers": [{"name": "c1", "url": url, "switches": [{"switch": "br0", "dpid": place.lab.fabric.datapath_id(0)}]}]}


def in_time(place, took_s):
    expect(took_s < STEP_S_MAX * STRETCH, f"it took {took_s:.1f} s")
    place.tap.say(f"given up after {took_s:.1f} s")


def case_controller_mute(place):
    """It takes the connection and never answers."""
    with inside(place.lab, MANAGER_HOST):
        listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        place.describe(behind_controller(place, f"http://127.0.0.1:{listener.getsockname()[1]}"), keep="address", drivers=["rest"])
        in_time(place, place.refused("rest", code="DEADLINE_EXCEEDED")[0])


def case_controller_stopped(place):
    """A real controller, which serves (the move is made), and is then stopped in the middle of its life."""
    if not shutil.which("osken-manager"):
        raise Skip("not installed: python3-os-ken")
    fabric, url = place.lab.fabric, f"http://{place.lab.fabric.management}:{REST_PORT}"
    usual = fabric._vsctl("get-controller", "br0").split()
    with open(place.cluster.path("os-ken.log"), "wb") as log:
        controller = place.lab.popen("sw", ["osken-manager", "--ofp-listen-host", "127.0.0.1", "--ofp-tcp-listen-port", str(OPENFLOW_PORT), APP], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                     env=dict(os.environ, REST_LISTEN=f"{fabric.management}:{REST_PORT}", OPENFLOW="1.4"))
    try:
        set_controllers(place, *usual, f"tcp:127.0.0.1:{OPENFLOW_PORT}")

        def served():
            done = place.lab.run(MANAGER_HOST, ["curl", "-s", "--max-time", "2", f"{url}/stats/switches"], check=False)
            return done.stdout.strip() == f"[{fabric.datapath_id(0)}]"
        place.cluster.wait("the controller has the switch", served, PATIENCE_S)
        place.describe(behind_controller(place, url), keep="address", drivers=["rest"])
        controller.send_signal(signal.SIGSTOP)
        in_time(place, place.refused("rest", code="DEADLINE_EXCEEDED")[0])
        controller.send_signal(signal.SIGCONT)
        place.moves()
        expect(not place.cluster.leftovers(), lambda: f"left over: {place.cluster.leftovers()}")
    finally:
        controller.send_signal(signal.SIGCONT)
        controller.terminate()
        controller.wait(PATIENCE_S)
        set_controllers(place, *usual)


# --- a router between subnets --------------------------------------------------------------------

THEIRS = "10.77.1.3"  # another address of the source's host: who routes there comes to the same container


def prepare_routed(place):
    place.lab.ip("src", f"address add {THEIRS}/24 dev br0")
    place.empty = place.lab.snapshot()
    place.start().watch()


def route(place):
    return place.lab.run("sw", ["ip", "route", "show", f"{place.address}/32"]).stdout.strip()


def change_route(place, via):
    place.lab.ip("sw", f"route replace {place.address}/32 via {via}")


def routes_kept(place):
    expect(f"via {THEIRS} " in route(place) + " ", lambda: f"their route is now: {route(place)}")


def case_route_changed_before(place):
    change_route(place, THEIRS)
    try:
        place.describe(place.lab.describe(), keep="address", drivers=["route", "tunnel"])
        place.refused(THEIRS)
        routes_kept(place)
    finally:
        change_route(place, place.lab.address("src"))


def case_route_changed_meanwhile(place):
    """After everything was prepared and opened, before the route is flipped: a webhook that is called then is the somebody else."""
    place.secret("hook", test_webhook.SECRET)
    before = place.lab.snapshot()

    def somebody(_message):
        change_route(place, THEIRS)
        return 204

    with contextlib.ExitStack() as stack:
        with inside(place.lab, MANAGER_HOST):
            receiver = stack.enter_context(test_webhook.Receiver(somebody))
        stack.callback(change_route, place, place.lab.address("src"))
        place.describe({**place.lab.describe(), "webhooks": [{"name": "hook", "url": receiver.url, "events": ["open"], "secret_file": "hook", "required": True}]},
                       keep="address", drivers=["route", "tunnel", "webhook"], webhooks=["hook"])
        migration = place.cluster.migrate(place.name, "dst")
        place.tap.say(f"{migration['state']} {migration['path']}: {migration['error_message']}")
        expect(receiver.events()[:1] == ["open"], lambda: f"the webhook got {receiver.events()}")
        expect((migration["state"], migration["error_code"]) == ("FAILED", CODES["ABORTED"]) and migration["path"].endswith("F 8N"), lambda: f"{migration['state']} {migration['path']}: {migration['error_message']}")
        expect(THEIRS in migration["error_message"], migration["error_message"])
        routes_kept(place)
        place.stays()
    place.same_network(before)


def tunnel_packets(place):
    """Of clients, that the source has sent into its tunnel; None: there is none."""
    links = json.loads(place.lab.run("src", ["ip", "-stats", "-json", "link", "show", "type", "vxlan"]).stdout or "[]")
    found = [link["stats64"]["tx"]["packets"] for link in links if link.get("ifname", "").startswith("fmt")]
    return found[0] if found else None


def publish(place, host, verb):
    if verb == "delete":
        rules = "delete table ip operator\n"
    else:
        rules = f"table ip operator {{\n chain c {{\n type nat hook prerouting priority dstnat\n ip daddr {place.lab.address(host)} tcp dport {PUBLISHED} dnat to {place.address}:{PORT}\n }}\n}}\n"
    place.lab.run(host, ["nft", "-f", "-"], input=rules)


def back_and_forth(place, connection):
    """While both connections live: what one move has left must not be in the way of the next."""
    for to in ("src", "dst"):
        connection.reset()
        place.moves(to)
        gap_ms = connection.report()["longest_gap_ms"]
        connection.reset()
        place.cluster.wait(f"the old connection goes on on {to}", lambda: connection.report()["moved"] == 1, PATIENCE_S, connection.report)
        expect(len(place.cluster.kept()) == 2, lambda: f"kept: {place.cluster.kept()}")
        expect(place.cluster.published() == [to], lambda: f"published: {place.cluster.published()}")
        place.tap.say(f"on {to}: the old connection's longest wait {gap_ms:.0f} ms")


def case_published(place):
    """Published on the hosts' addresses and followed by name: an old connection goes on by the old host and the tunnel, new ones come straight to the new host; with the old one's end the way back goes."""
    old, new = place.lab.address("src"), place.lab.address("dst")
    place.secret("right", SECRET)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(name_server(place, old))
        publish(place, "src", "add")
        connection = traffic.crowd(place.lab, PROGRAMS, MANAGER_HOST, old, PUBLISHED, 1, 2000).ready(PATIENCE_S)
        stack.callback(connection.end)
        place.describe({**place.lab.describe(), "dns": dns_entry("right")}, keep="name", name=NAME, dns="lab", addresses={"src": old, "dst": new},
                       publish=[{"host_port": PUBLISHED, "port": PORT, "protocol": "tcp"}])
        place.moves()
        publish(place, "src", "delete")  # its operator's goes with the container
        expect(records(place, server) == [(TTL_S, new)], lambda: f"{NAME} is {records(place, server)}")
        expect([each.split(":")[0] for each in place.cluster.kept()] == ["src", "dst"], lambda: f"kept: {place.cluster.kept()}")
        passed = tunnel_packets(place)
        expect(passed is not None, "there is no tunnel")
        gap_ms = connection.report()["longest_gap_ms"]
        connection.reset()
        place.cluster.wait("the old connection goes on", lambda: connection.report()["moved"] == 1, PATIENCE_S, connection.report)
        place.cluster.wait("it goes through the tunnel", lambda: tunnel_packets(place) > passed + 20, PATIENCE_S)
        back_and_forth(place, connection)
        report = connection.finish()
        expect((report["lost"], report["resets"], report["alive"]) == (0, 0, 1), f"the old connection: {report}")
        place.conclude()  # it has come by the tunnel, too: nobody has told the router
        ended, passed = time.monotonic(), tunnel_packets(place)
        for _ in range(5):
            expect(place.ask("PING", address=new, port=PUBLISHED) == "PONG", "a new connection gets no answer")
        # the old one's farewell may still be on its way: a handful; new ones would be dozens
        expect(tunnel_packets(place) - passed < 10, lambda: f"{tunnel_packets(place) - passed} packets of new connections went through the tunnel")
        place.cluster.wait("what was kept goes", lambda: not place.cluster.kept(), KEPT_S_MAX, place.cluster.kept)
        expect(tunnel_packets(place) is None, "the tunnel is still there")
        for host, rules in (("src", 0), ("dst", 2)):  # of the place, one in each chain; where it has been there are none any more
            found = place.lab.run(host, ["nft", "list", "ruleset"]).stdout.count(f"dnat ip to {place.address}:{PORT}")
            expect(found == rules, lambda: f"{found} rules of the publication on {host}")
        expect(place.ask("PING", address=new, port=PUBLISHED) == "PONG", "without the tunnel a new connection gets no answer")
        place.tap.say(f"kept for {time.monotonic() - ended:.1f} s after the old connection's end; its longest wait in the move {gap_ms:.0f} ms")

def clear_routed(place):
    """What its operator has to take away: the router's route. The publication has gone with the container."""
    place.lab.place(place.container, None)
    expect(not place.cluster.published(), lambda: f"published: {place.cluster.published()}")


# --- all of them ---------------------------------------------------------------------------------

PLACES = [
    ("bridge", prepare_bridge, lambda place: None, [
        ("a wrong TSIG key", case_wrong_key), ("the address is taken at the destination", case_address_taken), ("name, balancer and webhook follow", case_followed),
        ("the balancer follows where a policy wants it", case_balancer_by_policy)]),
    ("ovs", prepare_ovs, clear_ovs, [
        ("a switch refuses a flow", case_switch_refuses), ("a controller that never answers", case_controller_mute), ("a controller that is stopped, and goes on", case_controller_stopped)]),
    ("routed", prepare_routed, clear_routed, [
        ("a route that somebody changed before", case_route_changed_before), ("a route that somebody changes meanwhile", case_route_changed_meanwhile),
        ("an old connection by the tunnel, new ones to the new host, back and forth", case_published)]),
]


def run_place(kind, prepare, clear, cases, options, tap):
    with contextlib.ExitStack() as stack:
        place = None
        with tap.test(f"{kind}: a container under a connection"):
            place = Place(kind, options, tap, stack)
            prepare(place)
        if place is None or place.witness is None:
            return
        for title, case in cases:
            with tap.test(f"{kind}: {title}"):
                case(place)
        with tap.test(f"{kind}: the connection has lost nothing, and without the container the network is as it was before it came"):
            place.conclude()
            place.cluster.cli("container", "rm", "--force", place.name)
            clear(place)
            left = place.cluster.leftovers()
            expect(not left, lambda: f"left over: {left}")
            place.same_network(place.empty)


def main():
    options = arguments(__doc__)
    unwind_on_signal()
    tap, started = Tap("refusals", options.tap), time.monotonic()
    for kind, prepare, clear, cases in PLACES:
        wanted = [(title, case) for title, case in cases if options.only in f"{kind}: {title}"]
        if wanted:
            run_place(kind, prepare, clear, wanted, options, tap)
    failed = conclude(tap, lab_name("rf"))
    tap.say(f"took {time.monotonic() - started:.0f} s")
    return failed


if __name__ == "__main__":
    sys.exit(main())
