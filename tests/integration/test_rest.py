#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The redirection driver "rest" (src/network/redirect-rest.c, by redirect-probe) against a real os-ken (examples/os-ken/flows_rest.py) with a real Open vSwitch behind it. Prints TAP.

Both are started here, in a network namespace of this process's own and a folder that goes, and ended by their pids. ovs-ofctl says what flows there really are. What a real controller cannot be brought to do is done
by a proxy in front of it.
"""

import contextlib
import ctypes
import http.client
import http.server
import json
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
from tap import Skip, Tap, expect, fail  # noqa: E402

PROBE = os.path.join(ROOT, os.environ.get("BUILD", "build"), "tests", "unit", "redirect-probe")
APP = os.path.join(ROOT, "examples", "os-ken", "flows_rest.py")
PATIENCE_S = 30  # a bound against hanging, never an expectation
SLACK_S = 3  # of a busy machine, beyond a deadline
SHORT_MS = 1500
CLONE_NEWNET = 0x40000000
REST_PORT, OPENFLOW_PORT = 8080, 6653
MAC, COOKIE, THEIR_COOKIE = "02:77:00:00:01:00", "0x666d000000000009", "0xfedcba9876543210"
DROP = "priority=1 actions=drop"
PACKETS_MAX, RATE_HZ, IN_FLIGHT, MOVES = 90000, 3000, 128, 6


def same(found, wanted):
    expect(found == wanted, lambda: f"{found} instead of {wanted}")


def until(condition, what):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            fail(f"not within {PATIENCE_S} s: {what}")
        time.sleep(0.02)


def run(*argv):
    return subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S, check=True, stdin=subprocess.DEVNULL).stdout


# ---- the lab ----

class Lab:
    """br-a (datapath 10; ports 1, 2, 3 are veths whose other ends p1, p2, p3 are the test's) and br-b (11, no ports), and a controller for both."""

    def __init__(self, folder):
        self.folder, self.processes, self.controller = folder, [], None
        os.environ.update(OVS_RUNDIR=folder, OVS_DBDIR=folder)
        for n in (1, 2, 3):
            run("ip", "link", "add", f"p{n}", "type", "veth", "peer", "name", f"s{n}")
            for end in ("p", "s"):
                run("ip", "link", "set", f"{end}{n}", "up")
        run("ovsdb-tool", "create", f"{folder}/db")
        self.start("ovsdb-server", f"--remote=punix:{folder}/db.sock", f"--unixctl={folder}/dbctl", f"{folder}/db")
        until(lambda: os.path.exists(f"{folder}/db.sock"), "the switch's database")
        self.vsctl("--no-wait", "init")
        for name, number in (("br-a", 10), ("br-b", 11)):
            self.vsctl("--no-wait", "add-br", name, "--", "set", "bridge", name, "datapath_type=netdev", "fail_mode=secure", f"other-config:datapath-id={number:016x}")
        for n in (1, 2, 3):
            self.vsctl("--no-wait", "add-port", "br-a", f"s{n}", "--", "set", "interface", f"s{n}", f"ofport_request={n}")
        self.switch = self.start("ovs-vswitchd", f"unix:{folder}/db.sock", f"--unixctl={folder}/ctl", f"--pidfile={folder}/vswitchd.pid")
        self.vsctl("set", "bridge", "br-a", "other-config:lab=up")
        self.use("1.4")

    def start(self, *argv, **environment):
        with open(f"{self.folder}/log", "ab") as log:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(os.environ, **environment))
        self.processes.append(process)
        return process

    def end(self, process):
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self.processes.remove(process)

    def close(self):
        for process in reversed(list(self.processes)):
            self.end(process)

    def vsctl(self, *argv):
        return run("ovs-vsctl", f"--db=unix:{self.folder}/db.sock", "--timeout=20", *argv)

    def use(self, version):
        """A controller that speaks this version, and the switches connected to it"""
        if self.controller:
            self.end(self.controller)
        for bridge in ("br-a", "br-b"):
            self.vsctl("set", "bridge", bridge, f"protocols=OpenFlow{version.replace('.', '')}", "--", "set-controller", bridge, f"tcp:127.0.0.1:{OPENFLOW_PORT}")
            self.vsctl("set", "controller", bridge, "max_backoff=1000")
        self.version = version
        self.controller = self.start("osken-manager", "--ofp-listen-host", "127.0.0.1", "--ofp-tcp-listen-port", str(OPENFLOW_PORT), APP, REST_LISTEN=f"127.0.0.1:{REST_PORT}", OPENFLOW=version)
        self.await_switches()

    def await_switches(self):
        def connected():
            with contextlib.suppress(OSError, http.client.HTTPException):
                return json.loads(forward("GET", "/stats/switches", b"")[1]) == [10, 11]
            return False
        until(connected, f"the controller's two switches; log: {self.log()}")

    def log(self):
        with open(f"{self.folder}/log", encoding="utf-8", errors="replace") as file:
            return file.read()[-1500:]

    def ofctl(self, command, bridge, *rest):
        return run("ovs-ofctl", "-O", f"OpenFlow{self.version.replace('.', '')}", *command.split(), f"unix:{self.folder}/{bridge}.mgmt", *rest)

    def flows(self, bridge):
        lines = self.ofctl("--no-stats --no-names --rsort=priority dump-flows", bridge).splitlines()
        return [line.strip() for line in lines if not line.startswith("OFPST")]

    def fresh(self):
        for bridge in ("br-a", "br-b"):
            self.ofctl("del-flows", bridge)
            self.ofctl("add-flow", bridge, "priority=1,actions=drop")

    def theirs(self, bridge, actions):
        self.ofctl("add-flow", bridge, f"cookie={THEIR_COOKIE},priority=500,dl_dst={MAC},actions={actions}")


def our_flow(actions, cookie=COOKIE):
    return [f"cookie={cookie}, priority=500,dl_dst={MAC} actions={actions}", DROP]


def their_flow(actions):
    return our_flow(actions, THEIR_COOKIE)


def forward(method, path, body):
    """(status, body) of the real controller"""
    connection = http.client.HTTPConnection("127.0.0.1", REST_PORT, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        connection.request(method, path, body or None)
        answer = connection.getresponse()
        return answer.status, answer.read()


class Proxy(http.server.ThreadingHTTPServer):
    """In front of the controller. mood(method, path, body) says what becomes of a request: None passes it on, (status, body) is the answer instead, HANG never answers, a function gets the real answer and gives another."""

    HANG = "hang"
    daemon_threads = True

    def __init__(self, mood, tls=None):
        super().__init__(("127.0.0.1", 0), ProxyHandler)
        self.mood, self.seen, self.over = mood, [], threading.Event()
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server_address[1]}"
        self.thread = threading.Thread(target=self.serve_forever)

    def handle_error(self, request, client_address):
        """A client that goes before its answer, or does not trust us, is what some of the tests are about."""

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.shutdown()
        self.thread.join()
        self.server_close()


class ProxyHandler(http.server.BaseHTTPRequestHandler):
    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.command, self.path))
        what = self.server.mood(self.command, self.path, body)
        if what == Proxy.HANG:
            self.server.over.wait(PATIENCE_S)
            return
        status, text = what if isinstance(what, tuple) else forward(self.command, self.path, body)
        if callable(what):
            what = what(status, text)
            if what == Proxy.HANG:
                self.server.over.wait(PATIENCE_S)
                return
            status, text = what
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


# ---- the driver ----

def action(url=f"http://127.0.0.1:{REST_PORT}", switches=(("s1", 10, 2, 3), ("s2", 11, 1, 2)), **more):
    return dict({"driver": "rest", "url": url, "priority": 500, "cookie": COOKIE, "match": {"mac": MAC},
                 "switches": [dict(zip(("name", "dpid", "from_port", "to_port"), switch)) for switch in switches]}, **more)


def question(step, arguments):
    """What the probe takes: the action, its undo; for leftovers the driver and what is known."""
    given = [json.loads(each) if isinstance(each, str) and each[:1] in "{[" else each for each in arguments]
    return json.dumps(dict(zip(("driver", "known") if step == "leftovers" else ("action", "undo"), given)))


class Done:
    """One step: what it printed, or what went wrong as "CODE: message" and the hint."""

    def __init__(self, answer):
        error = answer.get("error")
        self.returncode = 1 if error else 0
        self.stderr = f"{error['code']}: {error['message']}\nhint: {error['hint']}" if error else ""
        self.stdout = "\n".join(answer["leftovers"]) if "leftovers" in answer else json.dumps(answer["undo"]) if "undo" in answer else ""


def probe(step, *arguments, timeout_ms=PATIENCE_S * 500, options=()):
    begin = time.monotonic()
    done = subprocess.run([PROBE, "--timeout", str(timeout_ms), *options, step, question(step, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    took = time.monotonic() - begin
    expect(done.returncode in (0, 1), lambda: f"{step}: ended with {done.returncode}: {done.stderr}")
    expect(took < timeout_ms / 1000 + SLACK_S, lambda: f"{step}: took {took:.1f} s of {timeout_ms} ms: {done.stderr}")
    return Done(json.loads(done.stdout))


def good(step, *arguments, **how):
    done = probe(step, *arguments, **how)
    expect(done.returncode == 0, lambda: f"{step}: {done.stderr}")
    return done.stdout


def bad(code, words, step, *arguments, **how):
    done = probe(step, *arguments, **how)
    expect(done.returncode == 1 and done.stderr.startswith(code + ": "), lambda: f"{step}: not {code}: {done.stderr or done.stdout}")
    expect(words in done.stderr, lambda: f"{step}: \"{words}\" is not in {done.stderr}")
    return done.stderr


def prepare(what=None):
    return json.loads(good("prepare", what or action()))


def same_flows(lab, a, b):
    same((lab.flows("br-a"), lab.flows("br-b")), (a, b))


# ---- cases ----

def case_there_and_back(lab):
    lab.theirs("br-b", "output:1")
    undo = prepare()
    same(undo, {"switches": [{"name": "s1", "was": None}, {"name": "s2", "was": {"cookie": THEIR_COOKIE, "output": [1]}}]})
    same_flows(lab, [DROP], their_flow("output:1"))
    for _ in range(2):
        good("open", action(), undo)
        same_flows(lab, our_flow("output:2,output:3"), their_flow("output:1,output:2"))
        bad("FAILED_PRECONDITION", "is to both ports", "verify", action(), undo)
    for _ in range(2):
        good("flip", action(), undo)
        same_flows(lab, our_flow("output:3"), their_flow("output:2"))
        good("verify", action(), undo)
    for _ in range(2):
        good("revert", action(), undo)
        same_flows(lab, [DROP], their_flow("output:1"))


def case_matches(lab):
    for match, words in (({"ipv4": "10.77.0.100"}, "ip,nw_dst=10.77.0.100"), ({"ipv6": "fd77::100", "vlan": 42}, "ipv6,dl_vlan=42,ipv6_dst=fd77::100"), ({"mac": MAC, "vlan": 42}, f"dl_vlan=42,dl_dst={MAC}")):
        what = action(match=match)
        undo = prepare(what)
        good("open", what, undo)
        expect(f"cookie={COOKIE}, priority=500,{words} actions=output:2,output:3" in lab.flows("br-a"), lambda: str(lab.flows("br-a")))
        good("flip", what, undo)
        good("verify", what, undo)
        good("revert", what, undo)
        same_flows(lab, [DROP], [DROP])


def case_in_the_way(lab):
    lab.theirs("br-b", "output:7")
    bad("FAILED_PRECONDITION", f"somebody else's: cookie {THEIR_COOKIE}, output:7 instead of output:1", "prepare", action())
    lab.theirs("br-b", "mod_dl_src:02:00:00:00:00:01,output:1")
    bad("FAILED_PRECONDITION", "output:1 and more", "prepare", action())
    lab.ofctl("add-flow", "br-b", f"idle_timeout=300,priority=500,dl_dst={MAC},actions=output:1")
    bad("FAILED_PRECONDITION", "expires", "prepare", action())
    lab.fresh()
    lab.ofctl("add-flow", "br-b", f"priority=501,dl_dst={MAC},actions=output:1")
    bad("FAILED_PRECONDITION", "priority 501", "prepare", action())


def case_somebody_else(lab):
    lab.theirs("br-b", "output:1")
    undo = prepare()
    lab.theirs("br-b", "output:9")
    bad("ABORTED", "output:9", "open", action(), undo)
    same_flows(lab, [DROP], their_flow("output:9"))
    lab.theirs("br-b", "output:1")
    good("flip", action(), undo)
    lab.theirs("br-b", "output:9")
    bad("ABORTED", "output:9", "revert", action(), undo)
    same_flows(lab, [DROP], their_flow("output:9"))


def case_unknown_switch(lab):
    bad("NOT_FOUND", "switch s2: the controller has no datapath 12", "prepare", action(switches=(("s1", 10, 2, 3), ("s2", 12, 1, 2))))
    bad("NOT_FOUND", "answers 404", "prepare", action(url=f"http://127.0.0.1:{REST_PORT}/elsewhere"))


def case_full_table(lab):
    """Refused by the second switch, once with the controller's word for it and once, as ryu does, without"""
    lab.theirs("br-a", "output:2")
    undo = prepare()
    lab.vsctl("--", "--id=@t", "create", "flow_table", "flow_limit=1", "overflow_policy=refuse", "--", "set", "bridge", "br-b", "flow_tables:0=@t")
    try:
        for step in ("open", "flip"):
            bad("FAILED_PRECONDITION", "the switch refuses: type 5, code 1", step, action(), undo)
            same_flows(lab, their_flow("output:2"), [DROP])
        with Proxy(lambda *_: lambda status, text: (200, b"") if status == 422 else (status, text)) as proxy:
            error = bad("FAILED_PRECONDITION", "switch s2 has not made the flow", "open", action(url=proxy.url), undo)
            expect("controller's log" in error, error)
            same_flows(lab, their_flow("output:2"), [DROP])
    finally:
        lab.vsctl("clear", "bridge", "br-b", "flow_tables")


def case_controller_hangs(lab):
    undo = prepare()
    good("open", action(), undo)
    lab.controller.send_signal(signal.SIGSTOP)
    try:
        for step in ("prepare", "open", "flip", "verify", "revert"):
            bad("DEADLINE_EXCEEDED", "is the controller running", step, action(), *([] if step == "prepare" else [undo]), timeout_ms=SHORT_MS)
    finally:
        lab.controller.send_signal(signal.SIGCONT)
    good("revert", action(), undo)
    same_flows(lab, [DROP], [DROP])


def case_hangs_in_the_middle(lab):
    """The first switch is changed when the second one's change hangs: not heard, or heard and not answered."""
    undo = prepare()
    for heard in (False, True):
        def mood(method, _path, body, heard=heard, count=[]):
            if method == "POST" and json.loads(body)["dpid"] == 11 and not count:
                count.append(1)
                return (lambda *_: Proxy.HANG) if heard else Proxy.HANG
            return None
        with Proxy(mood) as proxy:
            bad("DEADLINE_EXCEEDED", "switch s2", "open", action(url=proxy.url), undo, timeout_ms=2 * SHORT_MS)
        same_flows(lab, [DROP], [DROP])


def case_dies_in_the_middle(lab):
    """From the second switch's change on there is no controller any more; what cannot be taken back is said, and done when it is there again."""
    undo = prepare()
    dead = []

    def mood(method, _path, body):
        if method == "POST" and json.loads(body)["dpid"] == 11:
            dead.append(1)
        return (503, b"going down") if dead else None
    with Proxy(mood) as proxy:
        error = bad("UNAVAILABLE", "answers 503: going down", "open", action(url=proxy.url), undo)
        expect("switch s1 could not be taken back" in error, error)
    same_flows(lab, our_flow("output:2,output:3"), [DROP])
    good("revert", action(), undo)
    same_flows(lab, [DROP], [DROP])


def case_bad_answers(_lab):
    for answer, code, words in (((500, b"oops"), "UNAVAILABLE", "answers 500: oops"), ((401, b""), "UNAUTHENTICATED", "answers 401"), ((200, b"<html>"), "DATA_LOSS", "no JSON"),
                                ((200, b"{}"), "DATA_LOSS", "not a list"), ((302, b""), "FAILED_PRECONDITION", "answers 302")):
        with Proxy(lambda *_, answer=answer: answer) as proxy:
            bad(code, words, "prepare", action(url=proxy.url))
    with Proxy(lambda _method, path, _body: (200, b'{"10": 7}') if "/flow/" in path else None) as proxy:
        bad("DATA_LOSS", "without the flows of 10", "prepare", action(url=proxy.url))


def case_nobody(_lab):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        error = bad("DEADLINE_EXCEEDED", "127.0.0.1", "prepare", action(url=f"http://127.0.0.1:{port}"), timeout_ms=SHORT_MS)
        expect("is the controller running" in error, error)
    bad("UNAVAILABLE", "is the controller running", "prepare", action(url=f"http://127.0.0.1:{port}"))


def case_switch_hangs(lab):
    """The controller answers "no flows" then, which is not to be believed."""
    undo = prepare()
    lab.switch.send_signal(signal.SIGSTOP)
    try:
        same(json.loads(forward("GET", "/stats/flow/10", b"")[1]), {"10": []})
        bad("UNAVAILABLE", "switch s1 does not answer the controller", "prepare", action())
        bad("UNAVAILABLE", "switch s1 does not answer the controller", "open", action(), undo)
    finally:
        lab.switch.send_signal(signal.SIGCONT)
    lab.await_switches()
    same_flows(lab, [DROP], [DROP])


def case_cancel(_lab):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        process = subprocess.Popen([PROBE, "--timeout", str(PATIENCE_S * 1000), "--cancel", "prepare", question("prepare", [action(url=url)])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        connection, _ = mute.accept()
        with connection:
            expect(connection.recv(100).startswith(b"GET /stats/switches"), "not the first question")
            answer, _ = process.communicate("x", timeout=PATIENCE_S / 2)
    expect(json.loads(answer)["error"]["code"] == "CANCELLED", answer)


def case_tls(lab):
    names = ("cert.pem", "key.pem", "other.pem")
    cert, key, other = (os.path.join(lab.folder, name) for name in names)
    for path in (other, cert):
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", path, "-days", "2", "-subj", "/CN=lab", "-addext", "subjectAltName=IP:127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    secrets = ("--secrets", lab.folder)
    with Proxy(lambda *_: None, context) as proxy:
        good("prepare", action(url=proxy.url, ca=names[0]), options=secrets)
        bad("UNAUTHENTICATED", "certificate", "prepare", action(url=proxy.url, ca=names[2]), options=secrets)
        bad("UNAUTHENTICATED", "certificate", "prepare", action(url=proxy.url))
        bad("UNAUTHENTICATED", "certificate", "prepare", action(url=proxy.url.replace("127.0.0.1", "localhost"), ca=names[0]), options=secrets)
        bad("INVALID_ARGUMENT", "rest: ca", "prepare", action(url=proxy.url, ca=names[0]))


def case_leftovers(lab):
    lab.theirs("br-a", "output:9")
    lab.ofctl("add-flow", "br-b", "cookie=0x666d00000000beef,table=2,priority=9,ip,actions=output:3")
    known = [action(), {"driver": "dns"}]
    same(good("leftovers", "rest", known).splitlines(), ["switch s2: a flow of ours, cookie 0x666d00000000beef, table 2, priority 9, output:3"])


# ---- under load ----

class Stream:
    """Packets with numbers to the container's address, from p1; what comes at p2 and p3. A packet belongs to the receiver that was open when it was sent; the other one drops it."""

    HEAD = bytes.fromhex(MAC.replace(":", "")) + b"\x02\x77\0\0\0\x01\x88\xb5"
    WARM = 0xffffffff  # a number that is not counted

    def __init__(self):
        self.sockets = {n: self.socket(n) for n in (1, 2, 3)}
        self.open, self.owner, self.seen, self.arrived, self.kept, self.dropped, self.stop = 2, [], [], {2: 0, 3: 0}, {2: 0, 3: 0}, 0, False
        self.under_way, self.seconds = set(), 0
        self.thread = threading.Thread(target=self.run)

    @staticmethod
    def socket(number):
        each = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        each.setsockopt(263, 23, 1)  # SOL_PACKET, PACKET_IGNORE_OUTGOING
        each.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        each.bind((f"p{number}", 0))
        each.setblocking(False)
        return each

    def take(self):
        for port in (2, 3):
            with contextlib.suppress(BlockingIOError):
                while True:
                    frame = self.sockets[port].recv(100)
                    if frame[:14] != self.HEAD:
                        continue
                    number = int.from_bytes(frame[14:18], "big")
                    if number == self.WARM:  # a late one
                        continue
                    self.arrived[port] += 1
                    self.under_way.discard(number)
                    if self.owner[number] == port:
                        self.seen[number] += 1
                        self.kept[port] += 1
                    else:
                        self.dropped += 1

    def run(self):
        begin = time.monotonic()
        while not self.stop and len(self.owner) < PACKETS_MAX:
            number = len(self.owner)
            if time.monotonic() >= begin + number / RATE_HZ and len(self.under_way) < IN_FLIGHT:
                self.owner.append(self.open)
                self.seen.append(0)
                self.under_way.add(number)
                self.sockets[1].send(self.HEAD + number.to_bytes(4, "big") + bytes(42))
            else:
                time.sleep(0.0002)
            self.take()
        self.seconds = time.monotonic() - begin
        end = time.monotonic() + PATIENCE_S / 3
        while self.under_way and time.monotonic() < end:
            self.take()
        self.take()

    def await_way(self, port):
        """The switch's cache follows its table a moment later, and may drop packets that came before there was a flow for them."""
        def arrives():
            self.sockets[1].send(self.HEAD + self.WARM.to_bytes(4, "big") + bytes(42))
            while select.select([self.sockets[port]], [], [], 0.1)[0]:
                if self.sockets[port].recv(100)[:14] == self.HEAD:
                    return True
            return False
        until(arrives, f"packets at port {port}")

    @staticmethod
    def await_more(counters, port, more):
        wanted = counters[port] + more
        until(lambda: counters[port] >= wanted, f"packets at port {port}")


def case_stream(lab, tap):
    lab.ofctl("add-flow", "br-a", f"cookie={COOKIE},priority=500,dl_dst={MAC},actions=output:2")
    stream = Stream()
    stream.await_way(2)
    stream.thread.start()
    try:
        for move in range(MOVES):
            old, new = (2, 3) if move % 2 == 0 else (3, 2)
            what = action(switches=(("s1", 10, old, new),))
            undo = prepare(what)
            good("open", what, undo)
            stream.await_more(stream.arrived, new, 20)
            stream.open = new
            stream.await_more(stream.kept, new, 1)  # packets that were under way when the one closed have passed: a freeze is longer than that
            good("flip", what, undo)
            stream.await_more(stream.arrived, new, 100)
            good("verify", what, undo)
    finally:
        stream.stop = True
        stream.thread.join()
        for each in stream.sockets.values():
            each.close()
    seconds = stream.seconds
    tap.say(f"{len(stream.seen)} packets, {len(stream.seen) / seconds:.0f} a second; {MOVES} moves: lost {stream.seen.count(0)}, twice {sum(n > 1 for n in stream.seen)} at the application; "
            f"{stream.dropped} were dropped by a closed port")
    expect(set(stream.seen) == {1} and stream.dropped >= MOVES, "not each of them exactly once")


CASES = [
    ("there and back", case_there_and_back), ("IPv4, IPv6, VLAN", case_matches), ("flows that are in the way", case_in_the_way), ("flows that somebody else changes", case_somebody_else),
    ("a switch that the controller does not know", case_unknown_switch), ("a switch that refuses leaves the others as they were", case_full_table), ("a controller that hangs", case_controller_hangs),
    ("a change that hangs when another is made", case_hangs_in_the_middle), ("a controller that goes when a change is made", case_dies_in_the_middle), ("answers that are none", case_bad_answers),
    ("nobody there, nobody who answers", case_nobody), ("a switch that hangs is not an empty one", case_switch_hangs), ("cancelled while waiting", case_cancel), ("TLS", case_tls), ("leftovers", case_leftovers),
]


def own_network():
    if os.geteuid() != 0:
        return "network namespaces need root"
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        return f"no network namespace: {os.strerror(ctypes.get_errno())}"
    run("ip", "link", "set", "lo", "up")
    return None


def missing():
    packages = (("openvswitch-switch", "ovs-vswitchd"), ("python3-os-ken", "osken-manager"), ("openssl", "openssl"))
    without = [package for package, program in packages if not shutil.which(program)]
    if without:
        return f"not installed: {', '.join(without)}"
    return own_network() or (None if os.path.exists(PROBE) else f"{PROBE} is not built")


def all_cases(tap, lab):
    for title, case in CASES:
        with tap.test(title):
            lab.fresh()
            case(lab)
    with tap.test("moves under load lose nothing"):
        lab.fresh()
        case_stream(lab, tap)
    with tap.test("there and back, OpenFlow 1.3 and its dialect"):
        lab.use("1.3")
        lab.fresh()
        case_there_and_back(lab)
    with tap.test("IPv4, IPv6, VLAN, OpenFlow 1.3 and its dialect"):
        lab.fresh()
        case_matches(lab)


def main():
    tap = Tap("rest", True)
    reason = missing()
    if reason:
        with tap.test("rest"):
            raise Skip(reason)
        return tap.end()
    folder = tempfile.mkdtemp(prefix="fm-test-rest-")
    try:
        with contextlib.ExitStack() as stack:
            lab = None
            with tap.test("a switch and its controller start"):
                lab = Lab.__new__(Lab)
                stack.callback(lambda: Lab.close(lab) if hasattr(lab, "processes") else None)
                Lab.__init__(lab, folder)
            if hasattr(lab, "version") and lab.controller:
                all_cases(tap, lab)
    finally:
        shutil.rmtree(folder)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
