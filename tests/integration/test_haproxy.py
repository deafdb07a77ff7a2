#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The redirection driver "haproxy" (src/network/redirect-haproxy.c, by redirect-probe) against a real HAProxy with live clients, and against sockets that hang. Prints TAP.

HAProxy runs in a network namespace of this process's own with a folder that goes, and is ended by its pid. The containers are small HTTP servers in this process that say their name; each is at an
address of its own, so "the source is gone" is a closed port.
"""

import contextlib
import http.client
import http.server
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
from redirect_probe import PATIENCE_S, Redirect, Skip, Tap, expect, fail, own_network, same  # noqa: E402

HAPROXY = "/usr/sbin/haproxy"
SOURCE, DESTINATION, OTHER, PORT = "127.0.1.1", "127.0.2.1", "127.0.3.1", 8001
FRONT = {"be": 8080, "alone": 8081}
CLIENTS = 4


# ---- containers and clients ----

class Container:
    """An HTTP server that answers its name. /slow answers when it is told to."""

    def __init__(self, name, address):
        self.release, self.slow_arrived = threading.Event(), threading.Event()
        container = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):  # noqa: N802
                if self.path == "/slow":
                    container.slow_arrived.set()
                    container.release.wait(PATIENCE_S)
                body = name.encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads, request_queue_size = True, 128

            def handle_error(self, *_):
                pass  # a health check, or a client, that has gone

        self.server = Server((address, PORT), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def stop(self):
        self.release.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class Clients:
    """Threads that ask without end: a connection each time, or (the last one) one that stays. Every answer but 200 counts as failed."""

    def __init__(self, port):
        self.port, self.stop_now, self.lock = port, threading.Event(), threading.Condition()
        self.answers, self.failed = [], []
        self.threads = [threading.Thread(target=self.loop, args=(n == CLIENTS - 1,)) for n in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def loop(self, keep):
        connection = None
        while not self.stop_now.is_set():
            begin, answer, failure = time.monotonic(), None, None
            try:
                connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
                connection.request("GET", "/", headers={} if keep else {"Connection": "close"})
                response = connection.getresponse()
                answer = response.read().decode()
                failure = None if response.status == 200 else f"{response.status} {answer}"
            except (OSError, http.client.HTTPException) as error:
                failure = repr(error)
            if not keep or failure:
                connection.close()
                connection = None
            with self.lock:
                (self.failed if failure else self.answers).append((begin, failure or answer))
                self.lock.notify_all()

    def who(self, count=40):
        """Who answers the next `count` requests that begin from now on"""
        now = time.monotonic()
        fresh = lambda: [name for begin, name in self.answers if begin >= now]  # noqa: E731
        with self.lock:
            expect(self.lock.wait_for(lambda: len(fresh()) >= count or len(self.failed) > 0, PATIENCE_S), lambda: f"only {len(fresh())} answers in time")
            expect(not self.failed, lambda: f"{len(self.failed)} requests failed, the first: {self.failed[0]}")
            return set(fresh())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop_now.set()
        for thread in self.threads:
            thread.join()


# ---- HAProxy ----

class Haproxy:
    def __init__(self, folder):
        self.folder, self.socket = folder, os.path.join(folder, "admin.sock")
        config = os.path.join(folder, "haproxy.cfg")
        with open(config, "w", encoding="utf-8") as file:
            file.write(self.config())
        self.log = open(os.path.join(folder, "log"), "wb")
        self.process = subprocess.Popen([HAPROXY, "-f", config, "-db"], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.say("show info")
                return
            except OSError:
                if time.monotonic() > end or self.process.poll() is not None:
                    self.stop()
                    with open(self.log.name, encoding="utf-8", errors="replace") as file:
                        fail("HAProxy did not come up:\n" + file.read()[-2000:])
                time.sleep(0.02)

    def config(self):
        return f"""global
    stats socket {self.socket} level admin
    stats socket {self.folder}/operator.sock level operator
    stats socket {self.folder}/user.sock level user
    stats socket ipv4@127.0.0.1:9999 level admin
    stats socket ipv6@[::1]:9999 level admin
    nbthread 2
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
frontend f1
    bind 127.0.0.1:{FRONT["be"]}
    default_backend be
frontend f2
    bind 127.0.0.1:{FRONT["alone"]}
    default_backend alone
backend be
    balance roundrobin
    server redis1 {SOURCE}:{PORT} weight 7
    server redis2 {OTHER}:{PORT}
    server spare {OTHER}:{PORT} disabled
backend alone
    option http-server-close
    server redis1 {SOURCE}:{PORT}
backend checked
    server redis1 {OTHER}:{PORT} check inter 50ms fall 1 rise 1
backend odd
    server named localhost:{PORT}
    server elsewhere {SOURCE}:{PORT} check addr {OTHER} inter 10s
    server port {SOURCE}:{PORT} check port 8002 inter 10s
    server v6 [fd00::1]:{PORT}
"""

    def say(self, command, path=None):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(PATIENCE_S)
            s.connect(path or self.socket)
            s.sendall(command.encode() + b"\n")
            with s.makefile("rb") as stream:
                return stream.read().decode()

    def rows(self):
        """All that HAProxy tells of its servers, without what changes by itself: times, and how the last check went"""
        titles, *rows = [line.split(" ") for line in self.say("show servers state").splitlines()[1:] if line]
        moving = ("srv_time_since_last_change", "srv_check_status", "srv_check_result", "srv_check_health", "srv_check_state")
        return {(row[1], row[3]): {title: value for title, value in zip(titles[1:], row) if title not in moving} for row in rows}

    def server(self, backend="be", server="redis1"):
        row = self.rows()[(backend, server)]
        return row["srv_addr"], {"0": "ready", "8": "drain", "1": "maint"}[row["srv_admin_state"]]

    def wait_until(self, backend, server, **wanted):
        end = time.monotonic() + PATIENCE_S
        while not wanted.items() <= self.rows()[(backend, server)].items():
            expect(time.monotonic() < end, lambda: f"{backend}/{server} is not {wanted} but {self.rows()[(backend, server)]}")
            time.sleep(0.02)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def same_rows(found, wanted):
    same({key: row for key, row in found.items() if row != wanted.get(key)}, {key: row for key, row in wanted.items() if row != found.get(key)})


class Lab:
    def __init__(self, folder):
        self.folder, self.stack = folder, contextlib.ExitStack()
        self.containers = {}
        for name, address in (("source", SOURCE), ("destination", DESTINATION), ("other", OTHER)):
            self.start(name, address)
        self.haproxy = Haproxy(folder)

    def start(self, name, address):
        self.containers[name] = Container(name, address)

    def reset(self):
        """What a case that failed has left is not the next one's failure."""
        if "source" not in self.containers:
            self.start("source", SOURCE)
        for backend, address in (("be", SOURCE), ("alone", SOURCE), ("checked", OTHER)):
            for order in (f"addr {address} port {PORT}", "state ready", "weight 100%"):
                self.haproxy.say(f"set server {backend}/redis1 {order}")
        self.haproxy.say("set server be/redis2 state ready")

    def stop_container(self, name):
        self.containers.pop(name).stop()

    def stop(self):
        self.haproxy.stop()
        for name in list(self.containers):
            self.stop_container(name)

    def move(self, backend="be", server="redis1", **members):
        action = {"driver": "haproxy", "socket": self.haproxy.socket, "backend": backend, "server": server, "from": f"{SOURCE}:{PORT}", "to": f"{DESTINATION}:{PORT}"}
        return Redirect(self.folder, action | members)

    @contextlib.contextmanager
    def unchanged(self):
        before = self.haproxy.rows()
        yield
        same_rows(self.haproxy.rows(), before)


# ---- cases ----

def case_move(lab):
    """Drained, the source really gone, re-pointed: no request fails, and each phase is answered by whom it should be."""
    h, r = lab.haproxy, lab.move(drain=True, max_drain_ms=5000)
    before = h.rows()
    with Clients(FRONT["be"]) as clients:
        same(clients.who(), {"source", "other"})
        r.good("prepare")
        same(h.server(), (SOURCE, "ready"))
        same(r.undo, {"address": f"{SOURCE}:{PORT}", "state": "ready"})
        r.good("open", "open")
        same(h.server(), (SOURCE, "drain"))
        same(clients.who(), {"other"})
        lab.stop_container("source")
        same(clients.who(), {"other"})
        r.bad("verify", "FAILED_PRECONDITION", SOURCE)
        r.good("flip", "flip", "verify")
        same(h.server(), (DESTINATION, "ready"))
        same(clients.who(), {"destination", "other"})
        r.good("open")  # by a process that does not know: what is flipped is not drained
        same(h.server(), (DESTINATION, "ready"))
    # and back; without load: a connection that is busy is used again afterwards, to the address that it has
    lab.start("source", SOURCE)
    r.good("revert", "revert")
    same_rows(h.rows(), before)
    with Clients(FRONT["be"]) as clients:
        same(clients.who(), {"source", "other"})


def case_only_address(lab):
    """A backend with one server cannot be drained, but re-pointed under its clients."""
    lab.move(backend="alone", drain=True).bad("prepare", "FAILED_PRECONDITION", "would refuse them all")
    r = lab.move(backend="alone")
    with lab.unchanged(), Clients(FRONT["alone"]) as clients:
        same(clients.who(), {"source"})
        r.good("prepare", "open", "flip", "verify")
        same(clients.who(), {"destination"})
        r.good("revert")
        same(clients.who(), {"source"})
    r = lab.move(drain=True).good("prepare")
    lab.haproxy.say("disable server be/redis2")
    r.bad("open", "FAILED_PRECONDITION", "would refuse them all")
    same(lab.haproxy.server(), (SOURCE, "ready"))
    lab.haproxy.say("enable server be/redis2")


def case_prefixes(lab):
    """Died anywhere: the undo leads back from every state in between, and flipping leads on."""
    h, r = lab.haproxy, lab.move(drain=True).good("prepare")
    orders = ("set server be/redis1 state drain", f"set server be/redis1 addr {DESTINATION} port {PORT}", "set server be/redis1 state ready")
    for step, end in (("revert", (SOURCE, "ready")), ("flip", (DESTINATION, "ready"))):
        for n in range(len(orders) + 1):
            before = h.rows()
            for order in orders[:n]:
                h.say(order)
            r.good(step, step)
            same(h.server(), end)
            r.good("revert")
            same_rows(h.rows(), before)


def case_waits_for_sessions(lab):
    """A request that is being answered holds open up, at most as long as it may."""
    h, source = lab.haproxy, lab.containers["source"]
    with socket.create_connection(("127.0.0.1", FRONT["be"])) as slow:
        h.say("disable server be/redis2")  # so that it gets to the source
        slow.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        expect(source.slow_arrived.wait(PATIENCE_S), "the request did not arrive")
        h.say("enable server be/redis2")
        short = lab.move(drain=True, max_drain_ms=150).good("prepare")
        begin = time.monotonic()
        short.good("open")
        expect(time.monotonic() - begin >= 0.15, "it did not wait")
        short.good("revert")
        with Clients(FRONT["be"]) as clients:
            long = lab.move(drain=True, max_drain_ms=600000).good("prepare")
            long.bad("open", "DEADLINE_EXCEEDED", "in time", timeout_ms=300)
            with subprocess.Popen(long.argv("open", timeout_ms=100000), stdout=subprocess.PIPE, text=True) as p:
                same(clients.who(), {"other"})
                same(p.poll(), None)
                source.release.set()
                same((p.communicate(timeout=PATIENCE_S)[0].strip(), p.returncode), ("{}", 0))
            with slow.makefile("rb") as stream:
                expect(stream.read().endswith(b"source"), "the request that waited was not answered")
            long.good("revert")
            same(clients.who(), {"source", "other"})


def case_somebody_else(lab):
    h, r = lab.haproxy, lab.move(drain=True).good("prepare", "open")
    for order, words in ((f"set server be/redis1 addr {OTHER} port {PORT}", OTHER), (f"set server be/redis1 addr {SOURCE} port 9", f"{SOURCE}:9"), ("set server be/redis1 state maint", "maint")):
        h.say(f"set server be/redis1 addr {SOURCE} port {PORT}")
        h.say("set server be/redis1 state drain")
        h.say(order)
        with lab.unchanged():
            for step in ("open", "flip", "revert"):
                r.bad(step, "ABORTED", words)
    h.say(f"set server be/redis1 addr {SOURCE} port {PORT}")
    h.say("set server be/redis1 state drain")
    r.good("revert")
    # what is not ours does not matter: a weight
    r.good("prepare", "open")
    h.say("set server be/redis1 weight 3")
    r.good("flip", "verify", "revert")
    same(h.rows()[("be", "redis1")]["srv_uweight"], "3")
    h.say("set server be/redis1 weight 100%")


def case_operators_decision(lab):
    """A server that was drained or in maintenance stays so, at its new address."""
    for state in ("drain", "maint"):
        lab.haproxy.say(f"set server be/redis1 state {state}")
        with lab.unchanged():
            r = lab.move(drain=True).good("prepare")
            same(r.undo["state"], state)
            r.good("open", "flip")
            same(lab.haproxy.server(), (DESTINATION, state))
            r.good("verify", "revert")
        lab.haproxy.say("set server be/redis1 state ready")


def case_same_address(lab):
    r = lab.move(drain=True, to=f"{SOURCE}:{PORT}")
    with lab.unchanged(), Clients(FRONT["be"]) as clients:
        r.good("prepare", "open", "open")
        same(clients.who(), {"other"})
        r.good("flip", "verify")
        same(clients.who(), {"source", "other"})
        r.good("open", "revert")
        same(clients.who(), {"source", "other"})


def case_checks(lab):
    """A new address that does not answer its health checks is not a success; one that does later is."""
    r = lab.move(backend="checked", **{"from": f"{OTHER}:{PORT}", "to": f"127.0.4.1:{PORT}"}).good("prepare", "flip")
    lab.haproxy.wait_until("checked", "redis1", srv_op_state="0")  # until its next check HAProxy knows the old address's only
    r.bad("verify", "FAILED_PRECONDITION", "down", timeout_ms=500)
    with subprocess.Popen(r.argv("verify", timeout_ms=20000), stdout=subprocess.PIPE, text=True) as p:
        late = Container("late", "127.0.4.1")
        try:
            same((p.communicate(timeout=PATIENCE_S)[0].strip(), p.returncode), ("{}", 0))
        finally:
            late.stop()
    r.good("revert")
    lab.haproxy.wait_until("checked", "redis1", srv_op_state="2")


def case_refused_early(lab):
    """What cannot work is found in prepare, and nothing is changed."""
    h = lab.haproxy
    with lab.unchanged():
        lab.move(socket=f"{lab.folder}/operator.sock").bad("prepare", "PERMISSION_DENIED", "level admin")
        lab.move(socket=f"{lab.folder}/user.sock").bad("prepare", "PERMISSION_DENIED", "level admin")
        lab.move(socket=f"{lab.folder}/nothing.sock").bad("prepare", "UNAVAILABLE", "is HAProxy running")
        lab.move(socket="tcp:127.0.0.1:1").bad("prepare", "UNAVAILABLE", "Connection refused")
        lab.move(backend="nothing").bad("prepare", "NOT_FOUND", "backend")
        lab.move(server="nothing").bad("prepare", "NOT_FOUND", "nothing")
        lab.move(**{"from": f"{OTHER}:{PORT}"}).bad("prepare", "ABORTED", SOURCE)
        lab.move(backend="odd", server="named").bad("prepare", "FAILED_PRECONDITION", "from a name")
        lab.move(backend="odd", server="elsewhere").bad("prepare", "FAILED_PRECONDITION", "health checks")
        lab.move(backend="odd", server="port", to=f"{DESTINATION}:9").bad("prepare", "FAILED_PRECONDITION", "health checks")
        lab.move(backend="odd", server="port").good("prepare")
        for how in ("tcp:127.0.0.1:9999", "tcp:[::1]:9999"):
            lab.move(socket=how).good("prepare")
    r = lab.move(backend="odd", server="v6", **{"from": f"[FD00:0::1]:{PORT}", "to": f"[fd00::2]:{PORT}"})
    with lab.unchanged():
        r.good("prepare", "open", "flip", "verify")
        same(h.server("odd", "v6"), ("fd00::2", "ready"))
        r.good("revert")


def case_members(lab):
    lab.move().wrong_members([
        ("socket", "admin.sock", "absolute path"), ("socket", "/" + "x" * 120, "absolute path"), ("socket", "tcp:localhost:9999", "address"), ("socket", None, "missing"),
        ("backend", "be;show info", "name of a backend"), ("backend", "be redis", "name of a backend"), ("server", "x/y", "name of a backend"), ("server", "x\ny", "control"), ("server", "", "bytes"),
        ("from", "10.0.0.1", "with a port"), ("from", "host:80", "with a port"), ("to", "10.0.0.1:0", "with a port"), ("to", "10.0.0.1:65536", "with a port"), ("to", "fd00::1:80", "with a port"),
        ("drain", 1, "neither true nor false"), ("max_drain_ms", 600001, "from 0 to 600000"), ("max_drain_ms", 5, "without"), ("weight", 1, "not a member"),
    ])
    r = lab.move().good("prepare")
    for undo in ({}, [], None, {"address": f"{SOURCE}:{PORT}"}, r.undo | {"state": "READY"}, r.undo | {"more": 1}, r.undo | {"address": SOURCE}):
        for step in ("open", "flip", "verify", "revert"):
            r.bad(step, "DATA_LOSS", "undo", undo=undo if undo is not None else 0)


# ---- sockets that are none ----

class Hanging:
    """Accepts, and then does what handler(connection, command) does; accepts nothing with handler None."""

    def __init__(self, folder, handler):
        self.path, self.arrived, self.done = os.path.join(folder, "hanging.sock"), threading.Event(), threading.Event()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(0)
        self.handler, self.fillers = handler, []
        if handler is None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    filler = socket.socket(socket.AF_UNIX)
                    self.fillers.append(filler)
                    filler.setblocking(False)
                    filler.connect(self.path)
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        while self.handler:
            connection, _ = self.listener.accept()
            with connection, connection.makefile("rb") as stream:
                command = stream.readline()
                if not command:
                    return
                self.arrived.set()
                with contextlib.suppress(OSError):
                    self.handler(connection, command)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.done.set()
        if self.handler:
            with socket.socket(socket.AF_UNIX) as end:
                end.connect(self.path)
        self.thread.join()
        for each in [self.listener, *self.fillers]:
            each.close()
        os.unlink(self.path)


def timed(lab, hanging, code, words, timeout_ms=400):
    begin = time.monotonic()
    lab.move(socket=hanging.path).bad("prepare", code, words, timeout_ms=timeout_ms)
    took = time.monotonic() - begin
    expect(code != "DEADLINE_EXCEEDED" or 0.4 <= took < PATIENCE_S / 2, f"it took {took:.2f} s")


def case_hangs(lab):
    with Hanging(lab.folder, None) as hanging:
        timed(lab, hanging, "DEADLINE_EXCEEDED", "in time")
    with Hanging(lab.folder, lambda *_: hanging.done.wait(PATIENCE_S)) as hanging:
        timed(lab, hanging, "DEADLINE_EXCEEDED", "in time")

    def drips(connection, _):
        while not hanging.done.wait(0.02):
            connection.sendall(b"1")

    with Hanging(lab.folder, drips) as hanging:
        timed(lab, hanging, "DEADLINE_EXCEEDED", "in time")

    def floods(connection, _):
        while True:
            connection.sendall(b"1" * 65536)

    with Hanging(lab.folder, floods) as hanging:
        timed(lab, hanging, "RESOURCE_EXHAUSTED", "bytes", timeout_ms=20000)


def case_cancelled(lab):
    with Hanging(lab.folder, lambda *_: hanging.done.wait(PATIENCE_S)) as hanging:
        lab.move(socket=hanging.path).cancelled("prepare", hanging.arrived)
    r = lab.move()
    done = subprocess.run(r.argv("prepare", "--cancel"), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    expect('"CANCELLED"' in done.stdout, done.stdout)


def case_lies(lab):
    good = lab.haproxy.say("show servers state be")
    for answer, code, words in (
            ("", "UNAVAILABLE", "without an answer"), (good[:-1], "DATA_LOSS", "cut short"), (good[:-20], "DATA_LOSS", "cut short"), (good + good, "DATA_LOSS", "behind its end"),
            ("2" + good[1:], "UNIMPLEMENTED", "format"), (good.replace("srv_admin_state", "srv_admin"), "DATA_LOSS", "no column srv_admin_state"), (good.replace(f" {SOURCE} ", "  "), "DATA_LOSS", "none"),
            (good.replace("redis2", "redis1"), "DATA_LOSS", "twice"), (good.replace(f" {PORT} ", " 65536 "), "DATA_LOSS", "number"), (good.replace(f" {SOURCE} ", f" {SOURCE} 9 "), "DATA_LOSS", "columns"),
            ("HTTP/1.1 400 Bad Request\r\n\r\n", "FAILED_PRECONDITION", "HTTP/1.1 400")):
        with Hanging(lab.folder, lambda connection, _, answer=answer: connection.sendall(answer.encode())) as hanging:
            timed(lab, hanging, code, words, timeout_ms=10000)

    def refuses(connection, command):  # tells the truth, and changes nothing
        connection.sendall((good if command.startswith(b"show") else "Sorry.\n\n").encode())

    with Hanging(lab.folder, refuses) as hanging:
        r = lab.move(socket=hanging.path).good("prepare")
        r.bad("flip", "FAILED_PRECONDITION", "Sorry.")


CASES = [
    ("drained and re-pointed under load: no request fails; reverted exactly", case_move), ("only the address, under load", case_only_address), ("from every state in between, back and on", case_prefixes),
    ("waits for sessions to end, not for ever", case_waits_for_sessions), ("somebody else's change is left alone", case_somebody_else), ("an operator's drain or maintenance stays", case_operators_decision),
    ("the address stays", case_same_address), ("verified by health checks", case_checks), ("found in prepare: rights, names, addresses, checks", case_refused_early), ("members of the action and the undo", case_members),
    ("a socket that hangs, drips, floods", case_hangs), ("cancelled", case_cancelled), ("answers that are damaged", case_lies),
]


def main():
    tap = Tap("haproxy", True)
    reason = own_network() or (None if os.path.exists(HAPROXY) else "not installed: haproxy")
    if reason:
        with tap.test("haproxy"):
            raise Skip(reason)
        return tap.end()
    folder = tempfile.mkdtemp(prefix="fm-haproxy-")  # short: a socket's path has 107 bytes
    lab = None
    try:
        with tap.test("HAProxy starts"):
            lab = Lab(folder)
        for title, case in CASES if lab else []:
            with tap.test(title):
                lab.reset()
                case(lab)
    finally:
        if lab:
            lab.stop()
        shutil.rmtree(folder)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
