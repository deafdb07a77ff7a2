#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The name service's operations (src/network/dns.h, by dns-probe) against a real knot and a real BIND, and against a responder that does what servers should not. Prints TAP.

The servers are started here, in a network namespace of this process's own and a folder that goes, and ended by their pids. dig (BIND's) says what is really in a zone, nsupdate is the somebody else
who changes it, too.
"""

import base64
import contextlib
import ctypes
import errno
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
from tap import Skip, Tap, expect, fail  # noqa: E402

PROBE = os.path.join(ROOT, os.environ.get("BUILD", "build"), "tests", "unit", "dns-probe")
PATIENCE_S = 30  # a bound against hanging, never an expectation
UPDATE_PAUSE_S = 1  # dns-exchange.c: the first repetition of an update
CLONE_NEWNET = 0x40000000
ZONE, REVERSE = "lab.test", "77.10.in-addr.arpa"
KEY, SECRET = "mover.lab.test", base64.b64encode(b"a secret of thirty-two bytes....").decode()
LONG = "a-label-that-is-long-enough-to-need-some-room-in-an-answer"
RECORDS = {
    ZONE: f"""$TTL 3600
@ SOA ns.{ZONE}. admin.{ZONE}. 1 3600 600 86400 60
@ NS ns
ns A 127.0.0.1
web A 10.77.0.1
web6 AAAA fd00::1
lost A 10.77.0.1
ttl 7200 A 10.77.0.9
taken A 10.77.0.1
two A 10.77.0.2
two A 10.77.0.3
alias CNAME web
{"".join(f"{LONG} AAAA fd00:1:2:3:4:5:6:{n:x}00{chr(10)}" for n in range(1, 17))}
{"".join(f"many A 10.77.1.{n}{chr(10)}" for n in range(1, 61))}
""",
    REVERSE: f"""$TTL 3600
@ SOA ns.{ZONE}. admin.{ZONE}. 1 3600 600 86400 60
@ NS ns.{ZONE}.
1.0 PTR web.{ZONE}.
""",
}


# ---- servers ----

class Server:
    """A name server with the two zones, updates allowed with the key."""

    package = program = None
    no_right = None  # how an update with a key that may not is refused

    def __init__(self, folder, port):
        self.folder, self.port = os.path.join(folder, type(self).__name__.lower()), port
        os.mkdir(self.folder)
        for zone, text in RECORDS.items():
            self.write(zone + ".zone", text)
        self.log = open(os.path.join(self.folder, "log"), "wb")
        self.process = subprocess.Popen(self.command(), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise

    def write(self, name, text):
        with open(os.path.join(self.folder, name), "w", encoding="utf-8") as file:
            file.write(text)
        return os.path.join(self.folder, name)

    def wait_ready(self):
        end = time.monotonic() + PATIENCE_S
        while not (self.dig(ZONE, "SOA") and self.dig(REVERSE, "SOA")):
            if time.monotonic() > end or self.process.poll() is not None:
                with open(self.log.name, encoding="utf-8", errors="replace") as file:
                    fail(f"{self.program} did not come up:\n" + file.read()[-2000:])
            time.sleep(0.05)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def dig(self, name, kind, *options):
        """[(ttl, value)] as the server says it"""
        done = subprocess.run(["dig", "@127.0.0.1", "-p", str(self.port), "+tries=1", "+time=2", "+noall", "+answer", "+norecurse", *options, name, kind],
                              capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        rows = [line.split(None, 4) for line in done.stdout.splitlines() if line and not line.startswith(";")]
        return sorted((int(row[1]), row[4]) for row in rows if len(row) == 5 and row[3] == kind)

    def somebody_else(self, *lines):
        text = "\n".join([f"server 127.0.0.1 {self.port}", f"zone {ZONE}", f"key hmac-sha256:{KEY} {SECRET}", *lines, "send", ""])
        subprocess.run(["nsupdate"], input=text, text=True, capture_output=True, timeout=PATIENCE_S, check=True)


class Knot(Server):
    package, program, no_right = "knot", "/usr/sbin/knotd", ("UNAUTHENTICATED", "BADKEY")

    def command(self):
        zones = "".join(f"  - domain: {zone}\n    file: {zone}.zone\n    acl: [mover, reader]\n" for zone in RECORDS)
        config = self.write("knot.conf", f"""server:
    rundir: {self.folder}
    listen: [127.0.0.1@{self.port}, "::1@{self.port}"]
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stderr
    any: info
database:
    storage: {self.folder}
    journal-db-max-size: 16M
key:
  - id: {KEY}
    algorithm: hmac-sha256
    secret: {SECRET}
  - id: reader.{ZONE}
    algorithm: hmac-sha512
    secret: {SECRET}
acl:
  - id: mover
    key: {KEY}
    action: update
  - id: reader
    key: reader.{ZONE}
    action: transfer
template:
  - id: default
    storage: {self.folder}
zone:
{zones}""")
        return [self.program, "-c", config]


class Bind(Server):
    package, program, no_right = "bind9", "/usr/sbin/named", ("PERMISSION_DENIED", "REFUSED")

    def command(self):
        zones = "".join(f'zone "{zone}" {{ type primary; file "{zone}.zone"; update-policy {{ grant {KEY} zonesub ANY; }}; }};\n' for zone in RECORDS)
        config = self.write("named.conf", f"""options {{
    directory "{self.folder}"; pid-file "{self.folder}/pid"; session-keyfile "{self.folder}/session"; lock-file none;
    listen-on port {self.port} {{ 127.0.0.1; }}; listen-on-v6 port {self.port} {{ ::1; }};
    recursion no; dnssec-validation no; notify no; minimal-responses yes; max-cache-size 16M;
}};
controls {{ }};
key "{KEY}" {{ algorithm hmac-sha256; secret "{SECRET}"; }};
key "reader.{ZONE}" {{ algorithm hmac-sha512; secret "{SECRET}"; }};
{zones}""")
        return [self.program, "-g", "-n", "1", "-c", config]


# ---- a responder between us and the server, or instead of it ----

class Responder:
    """handler(number of the packet, packet, reply, from elsewhere) for each packet; TCP connections get tcp(packet)."""

    def __init__(self, handler, tcp=None):
        self.udp, self.listener = self.same_port()
        self.port = self.udp.getsockname()[1]
        self.elsewhere = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.elsewhere.bind(("127.0.0.1", 0))
        self.handler, self.tcp, self.seen, self.tcp_seen, self.arrived = handler, tcp, [], 0, threading.Event()
        self.threads = [threading.Thread(target=self.serve_udp), threading.Thread(target=self.serve_tcp)]
        for thread in self.threads:
            thread.start()

    @staticmethod
    def same_port():
        """A port that is free for UDP may be one where a connection of an earlier test still waits for its end."""
        while True:
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            udp.bind(("127.0.0.1", 0))
            try:
                return udp, socket.create_server(udp.getsockname())
            except OSError as e:
                udp.close()
                if e.errno != errno.EADDRINUSE:
                    raise

    def serve_udp(self):
        while True:
            packet, peer = self.udp.recvfrom(65535)
            if not packet:
                return
            self.seen.append(packet)
            self.handler(len(self.seen), packet, lambda data: self.udp.sendto(data, peer), lambda data: self.elsewhere.sendto(data, peer))
            self.arrived.set()

    def serve_tcp(self):
        while True:
            connection, _ = self.listener.accept()
            with connection, connection.makefile("rb") as stream:
                head = stream.read(2)
                if len(head) < 2:
                    return
                self.tcp_seen += 1
                answer = self.tcp(stream.read(int.from_bytes(head, "big")))
                if answer is not None:
                    connection.sendall(len(answer).to_bytes(2, "big") + answer)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end, socket.create_connection(("127.0.0.1", self.port)):
            end.sendto(b"", ("127.0.0.1", self.port))
        for thread in self.threads:
            thread.join()
        for each in (self.udp, self.elsewhere, self.listener):
            each.close()


def forward(server, packet):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(PATIENCE_S)
        s.connect(("127.0.0.1", server.port))
        s.send(packet)
        return s.recv(65535)


def question_end(packet):
    at = 12
    while packet[at]:
        at += 1 + packet[at]
    return at + 5


def answer_to(packet, address, flags=0x8400, number=None, question=None):
    """One A record for the question of a packet. flags: response, authoritative."""
    number = packet[:2] if number is None else number
    question = packet[12:question_end(packet)] if question is None else question
    record = b"\xc0\x0c\x00\x01\x00\x01" + (60).to_bytes(4, "big") + b"\x00\x04" + socket.inet_aton(address)
    return number + flags.to_bytes(2, "big") + b"\0\1\0\1\0\0\0\0" + question + record


def other_number(packet):
    return bytes([packet[0] ^ 0x55, packet[1]])


# ---- the module ----

class Module:
    def __init__(self, folder):
        self.folder = folder
        self.secret = self.file("secret", SECRET + "\n")

    def file(self, name, text, mode=0o600):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, mode)
        return path

    def argv(self, port, *operation, key=KEY, algorithm="hmac-sha256", secret=None, zone=ZONE, server="127.0.0.1", options=(), timeout_ms=15000):
        signed = ["--key", key, "--algorithm", algorithm, "--secret", secret or self.secret] if key else []
        return [PROBE, "--server", f"{server}:{port}", "--zone", zone, "--reverse", REVERSE, "--timeout", str(timeout_ms), *signed, *options, *operation]

    def run(self, port, *operation, **how):
        done = subprocess.run(self.argv(port, *operation, **how), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        expect(SECRET[:-1] not in done.stdout + done.stderr, "the secret was told")
        expect(done.returncode in (0, 1), lambda: f"{operation}: ended with {done.returncode}: {done.stderr}")
        return done

    def good(self, port, *operation, **how):
        done = self.run(port, *operation, **how)
        expect(done.returncode == 0, lambda: f"{operation}: {done.stderr}")
        return done.stdout.splitlines()

    def apply(self, port, change, **how):
        """Once: done. A server that takes longer than our patience sees it twice and may answer the second first."""
        begin = time.monotonic()
        lines = self.good(port, "apply", change, **how)
        expect(lines == ["done"] or (lines == ["done already"] and time.monotonic() - begin > UPDATE_PAUSE_S), lambda: f"{change}: {lines}")

    def apply_twice(self, port, change, **how):
        self.apply(port, change, **how)
        same(self.good(port, "apply", change, **how), ["done already"])

    def bad(self, port, code, words, *operation, **how):
        done = self.run(port, *operation, **how)
        expect(done.returncode == 1 and done.stderr.startswith(code + ": "), lambda: f"{operation}: not {code}: {done.stderr or done.stdout}")
        expect(words in done.stderr, lambda: f"{operation}: \"{words}\" is not in {done.stderr}")
        return done.stderr


def same(found, wanted):
    expect(found == wanted, lambda: f"{found} instead of {wanted}")


# ---- cases for both servers ----

def case_query(m, s):
    same(m.good(s.port, "query", "web." + ZONE, "A"), ["3600 10.77.0.1"])
    same(m.good(s.port, "query", "WEB." + ZONE.upper() + ".", "A"), ["3600 10.77.0.1"])
    same(m.good(s.port, "query", "nobody." + ZONE, "A"), ["0"])
    same(m.good(s.port, "query", "web." + ZONE, "AAAA"), ["0"])
    same(m.good(s.port, "query", "web." + ZONE, "A", key=None), ["3600 10.77.0.1"])
    same(m.good(s.port, "query", "web." + ZONE, "A", server="[::1]"), ["3600 10.77.0.1"])
    same(m.good(s.port, "query", "web." + ZONE, "A", key="reader." + ZONE, algorithm="hmac-sha512"), ["3600 10.77.0.1"])
    m.bad(s.port, "FAILED_PRECONDITION", "alias", "query", "alias." + ZONE, "A")
    m.bad(s.port, "INVALID_ARGUMENT", "not in the zone", "query", "web.other.test", "A")


def case_swap(m, s):
    change, undo = m.good(s.port, "plan", "web." + ZONE, "A", "10.77.0.1", "10.77.0.2", "60")
    same(s.dig("web." + ZONE, "A"), [(3600, "10.77.0.1")])
    m.apply_twice(s.port, change)
    same(s.dig("web." + ZONE, "A"), [(60, "10.77.0.2")])
    m.good(s.port, "verify", "web." + ZONE, "A", "10.77.0.2")
    m.bad(s.port, "DEADLINE_EXCEEDED", "still 10.77.0.2, not 10.77.0.1", "verify", "web." + ZONE, "A", "10.77.0.1", timeout_ms=1500)
    m.apply_twice(s.port, undo)
    same(s.dig("web." + ZONE, "A"), [(3600, "10.77.0.1")])


def case_undo_of_nothing(m, s):
    """The crash came between the journal and the change."""
    _, undo = m.good(s.port, "plan", "web." + ZONE, "A", "*", "10.77.0.3", "60")
    same(m.good(s.port, "apply", undo), ["done already"])
    same(s.dig("web." + ZONE, "A"), [(3600, "10.77.0.1")])


def case_conflict(m, s):
    name = "taken." + ZONE
    change, undo = m.good(s.port, "plan", name, "A", "*", "10.77.0.2", "60")
    s.somebody_else(f"update delete {name} A", f"update add {name} 300 A 10.77.0.66")
    said = m.bad(s.port, "ABORTED", "it is 10.77.0.66 with 300 s", "apply", change)
    expect("somebody else" in said, said)
    m.bad(s.port, "ABORTED", "10.77.0.66", "apply", undo)
    m.bad(s.port, "ABORTED", "it is 10.77.0.66, not 10.77.0.1", "plan", name, "A", "10.77.0.1", "10.77.0.2", "60")
    # a second value next to the old one is a conflict, too
    change, _ = m.good(s.port, "plan", name, "A", "*", "10.77.0.2", "60")
    s.somebody_else(f"update add {name} 300 A 10.77.0.67")
    m.bad(s.port, "ABORTED", "and 1 more", "apply", change)
    same(s.dig(name, "A"), [(300, "10.77.0.66"), (300, "10.77.0.67")])
    s.somebody_else(f"update delete {name} A")
    m.bad(s.port, "ABORTED", "absent", "apply", change)


def case_several_values(m, s):
    m.bad(s.port, "FAILED_PRECONDITION", "only a record with one value", "plan", "two." + ZONE, "A", "*", "10.77.0.5", "60")
    m.bad(s.port, "RESOURCE_EXHAUSTED", "more than 16 values", "query", "many." + ZONE, "A")


def case_new_and_gone(m, s):
    name = "new." + ZONE
    change, undo = m.good(s.port, "plan", name, "A", "-", "10.77.0.7", "60")
    m.apply_twice(s.port, change)
    same(s.dig(name, "A"), [(60, "10.77.0.7")])
    s.somebody_else(f"update delete {name} A", f"update add {name} 60 A 10.77.0.8")
    m.bad(s.port, "ABORTED", "10.77.0.8", "apply", change)
    m.bad(s.port, "ABORTED", "10.77.0.8", "apply", undo)
    change, undo = m.good(s.port, "plan", name, "A", "10.77.0.8", "-", "0")
    m.apply_twice(s.port, change)
    m.good(s.port, "verify", name, "A", "-")
    same(s.dig(name, "A"), [])
    m.apply(s.port, undo)
    same(s.dig(name, "A"), [(60, "10.77.0.8")])
    m.bad(s.port, "NOT_FOUND", "no such record", "plan", "nobody." + ZONE, "A", "*", "-", "0")


def case_ttl(m, s):
    """The whole of a move: lowered, moved, restored; then all of it undone from the journal, in reverse."""
    name, journal = "ttl." + ZONE, []

    def step(*plan):
        change, undo = m.good(s.port, *plan)
        journal.append(undo)
        m.apply_twice(s.port, change)

    step("plan-ttl", name, "A", "5")
    same(s.dig(name, "A"), [(5, "10.77.0.9")])
    step("plan", name, "A", "10.77.0.9", "10.77.0.10", "5")
    same(s.dig(name, "A"), [(5, "10.77.0.10")])
    step("plan-ttl", name, "A", "7200")
    same(s.dig(name, "A"), [(7200, "10.77.0.10")])
    for undo in reversed(journal):
        m.apply(s.port, undo)
    same(s.dig(name, "A"), [(7200, "10.77.0.9")])
    change, _ = m.good(s.port, "plan-ttl", name, "A", "5")
    s.somebody_else(f"update delete {name} A", f"update add {name} 100 A 10.77.0.9")
    m.bad(s.port, "ABORTED", "with 100 s to live", "apply", change)
    m.bad(s.port, "NOT_FOUND", "no such record", "plan-ttl", "nobody." + ZONE, "A", "5")
    m.bad(s.port, "INVALID_ARGUMENT", "time to live", "plan-ttl", name, "A", "2147483648")


def case_reverse(m, s):
    old = "1.0." + REVERSE
    same(m.good(s.port, "query", "10.77.0.1", "PTR"), [f"3600 web.{ZONE}"])
    gone, undo_gone = m.good(s.port, "plan", "10.77.0.1", "PTR", "web." + ZONE, "-", "0")
    new, undo_new = m.good(s.port, "plan", "10.77.0.2", "PTR", "-", "web." + ZONE, "60")
    for change in (gone, new):
        m.apply(s.port, change)
    same((s.dig(old, "PTR"), s.dig("2.0." + REVERSE, "PTR")), ([], [(60, f"web.{ZONE}.")]))
    m.good(s.port, "verify", "10.77.0.2", "PTR", "web." + ZONE)
    for undo in (undo_new, undo_gone):
        m.apply(s.port, undo)
    same((s.dig(old, "PTR"), s.dig("2.0." + REVERSE, "PTR")), ([(3600, f"web.{ZONE}.")], []))


def case_ipv6(m, s):
    name = "web6." + ZONE
    change, undo = m.good(s.port, "plan", name, "AAAA", "FD00:0::1", "fd00::00:2", "60", server="[::1]")
    m.apply(s.port, change, server="[::1]")
    same(s.dig(name, "AAAA"), [(60, "fd00::2")])
    m.good(s.port, "verify", name, "AAAA", "fd00:0::2")
    m.apply(s.port, undo)
    same(s.dig(name, "AAAA"), [(3600, "fd00::1")])


def case_keys(m, s):
    change, _ = m.good(s.port, "plan", "web." + ZONE, "A", "*", "10.77.0.2", "60")
    wrong = m.file("wrong", base64.b64encode(b"another secret of 32 bytes......").decode())
    m.bad(s.port, "UNAUTHENTICATED", "BADSIG", "apply", change, secret=wrong)
    m.bad(s.port, "UNAUTHENTICATED", "BADSIG", "query", "web." + ZONE, "A", secret=wrong)
    m.bad(s.port, "UNAUTHENTICATED", "BADSIG", "verify", "web." + ZONE, "A", "10.77.0.1", secret=wrong)
    m.bad(s.port, "UNAUTHENTICATED", "BADKEY", "apply", change, key="stranger." + ZONE)
    m.bad(s.port, "UNAUTHENTICATED", "NOTAUTH", "apply", change, algorithm="hmac-sha512")
    m.bad(s.port, *s.no_right, "apply", change, key="reader." + ZONE, algorithm="hmac-sha512")
    m.bad(s.port, "INVALID_ARGUMENT", "without a key", "apply", change, key=None)
    same(s.dig("web." + ZONE, "A"), [(3600, "10.77.0.1")])


def case_clock(m, s):
    change, _ = m.good(s.port, "plan", "web." + ZONE, "A", "*", "10.77.0.2", "60")
    said = m.bad(s.port, "FAILED_PRECONDITION", "BADTIME", "apply", change, options=("--skew", "1000"))
    expect(any(f" {seconds} s apart" in said for seconds in range(995, 1006)) and "ahead of" in said, said)
    said = m.bad(s.port, "FAILED_PRECONDITION", "BADTIME", "apply", change, options=("--skew", "-1000"))
    expect("behind" in said, said)
    m.good(s.port, "query", "web." + ZONE, "A", options=("--skew", "200"))
    same(s.dig("web." + ZONE, "A"), [(3600, "10.77.0.1")])


def case_wrong_zone(m, s):
    change = f'{{"dns":1,"name":"web.other.test","type":"A","from":{{"value":"10.77.0.1","ttl":5}},"to":{{"value":"10.77.0.2","ttl":5}}}}'
    done = m.run(s.port, "apply", change, zone="other.test")
    expect(done.returncode == 1 and done.stderr.split(":")[0] in ("FAILED_PRECONDITION", "PERMISSION_DENIED"), done.stderr)
    expect("NOTAUTH: the server is not the zone's" in done.stderr or "REFUSED" in done.stderr, done.stderr)
    m.bad(s.port, "INVALID_ARGUMENT", "not in the zone", "apply", change)


def case_truncated(m, s):
    name = f"{LONG}.{ZONE}"
    expect(len(s.dig(name, "AAAA", "+notcp", "+ignore", "+noedns", "-y", f"hmac-sha256:{KEY}:{SECRET}")) < 16, "the answer fits into UDP")
    found = m.good(s.port, "query", name, "AAAA")[0].split()
    same(sorted(found[1:]), sorted(value for _, value in s.dig(name, "AAAA", "+tcp")))
    same(len(found), 17)


def case_lost_answer(m, s):
    """The update arrives, its answer does not: asked again, the server says that the record is not what it was."""
    name = "lost." + ZONE
    change, undo = m.good(s.port, "plan", name, "A", "*", "10.77.0.2", "60")

    def handler(number, packet, reply, _):
        answer = forward(s, packet)
        if number > 1:
            reply(answer)

    with Responder(handler) as between:
        same(m.good(between.port, "apply", change), ["done already"])
        expect(len(between.seen) >= 3 and between.seen[0] == between.seen[1], lambda: f"{len(between.seen)} packets")
    same(s.dig(name, "A"), [(60, "10.77.0.2")])
    m.apply(s.port, undo)


def case_tampering(m, s):
    """Somebody on the way who sees the request but has no key."""

    def forged_first(_number, packet, reply, _elsewhere):
        answer = forward(s, packet)
        reply(answer_to(packet, "6.6.6.6"))
        reply(answer)

    def changed(_number, packet, reply, _elsewhere):
        answer = bytearray(forward(s, packet))
        at = bytes(answer).index(socket.inet_aton("10.77.0.1"))
        answer[at + 3] ^= 1
        reply(bytes(answer))

    def unsigned(_number, packet, reply, _elsewhere):
        reply(answer_to(packet, "6.6.6.6"))

    def said_changed(_number, packet, reply, _elsewhere):
        reply(packet[:2] + b"\xa8\x08" + b"\0" * 8)  # NXRRSET

    change, _ = m.good(s.port, "plan", "web." + ZONE, "A", "*", "10.77.0.2", "60")
    with Responder(said_changed) as between:
        m.bad(between.port, "UNAUTHENTICATED", "not signed", "apply", change)
    with Responder(forged_first) as between:
        same(m.good(between.port, "query", "web." + ZONE, "A"), ["3600 10.77.0.1"])
    with Responder(changed) as between:
        m.bad(between.port, "UNAUTHENTICATED", "signature is wrong", "query", "web." + ZONE, "A")
    with Responder(unsigned) as between:
        m.bad(between.port, "UNAUTHENTICATED", "not signed", "query", "web." + ZONE, "A")


SERVER_CASES = [
    ("answers: present, absent, unsigned, other keys, over IPv6", case_query), ("compare and swap, verified, repeated, undone", case_swap),
    ("the undo of a change that never was", case_undo_of_nothing), ("somebody else's change is left alone", case_conflict), ("several values are refused", case_several_values),
    ("new and removed records", case_new_and_gone), ("time to live lowered and restored, undone from the journal", case_ttl), ("reverse records", case_reverse),
    ("AAAA, the server over IPv6", case_ipv6), ("wrong secret, name, algorithm, rights", case_keys), ("wrong clock", case_clock), ("wrong zone", case_wrong_zone),
    ("an answer too large for UDP", case_truncated), ("the answer to an update is lost", case_lost_answer), ("answers forged and changed on the way", case_tampering),
]


# ---- cases without a server ----

def case_foreign_answers(m):
    """Off the path: wrong number, wrong source, wrong question, rubbish; then the right one."""

    def handler(_number, packet, reply, elsewhere):
        reply(answer_to(packet, "6.6.6.6", number=other_number(packet)))
        elsewhere(answer_to(packet, "6.6.6.6"))
        reply(answer_to(packet, "6.6.6.6", question=b"\3web\5other\4test\0\0\1\0\1"))
        reply(answer_to(packet, "6.6.6.6", flags=0x0400))  # not an answer
        reply(answer_to(packet, "6.6.6.6", flags=0xAC00))  # to an update
        reply(answer_to(packet, "6.6.6.6")[:-2])
        reply(packet[:2] + b"\x84\0" + b"\xff" * 600)
        reply(answer_to(packet, "10.77.0.1"))

    with Responder(handler) as r:
        same(m.good(r.port, "query", "web." + ZONE, "A", key=None), ["60 10.77.0.1"])


def case_foreign_only(m):
    def handler(_number, packet, reply, _elsewhere):
        reply(answer_to(packet, "6.6.6.6", number=other_number(packet)))

    with Responder(handler) as r:
        said = m.bad(r.port, "DEADLINE_EXCEEDED", "were ignored", "query", "web." + ZONE, "A", key=None, timeout_ms=1500)
        expect("(0 packets" not in said, said)


def case_silence(m):
    with Responder(lambda *_: None) as r:
        begin = time.monotonic()
        m.bad(r.port, "DEADLINE_EXCEEDED", "no answer within", "query", "web." + ZONE, "A", timeout_ms=2000)
        took = time.monotonic() - begin
        expect(took >= 1.95, f"gave up after {took:.2f} s")
        expect(len(r.seen) >= 3 and len(set(r.seen)) == 1, f"{len(r.seen)} requests, {len(set(r.seen))} different ones")


def case_cancel(m):
    with Responder(lambda *_: None) as r:
        with subprocess.Popen(m.argv(r.port, "query", "web." + ZONE, "A", options=("--cancel",), timeout_ms=100000), stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as p:
            expect(r.arrived.wait(PATIENCE_S), "no request came")
            _, said = p.communicate(timeout=PATIENCE_S)  # closes its stdin
            expect(p.returncode == 1 and said.startswith("CANCELLED: "), said)
        sent = len(r.seen)
        m.bad(r.port, "CANCELLED", "cancelled", "query", "web." + ZONE, "A", options=("--cancel",))  # its stdin is at its end
        same(len(r.seen), sent)


def case_nobody(m):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    m.bad(port, "UNAVAILABLE", "Connection refused", "query", "web." + ZONE, "A")
    m.bad(53, "UNAVAILABLE", "cannot be reached", "query", "web." + ZONE, "A", server="192.0.2.1")


def case_tcp(m):
    """The answer that was cut short is asked for again over TCP; a TCP that hangs, lies or ends has the same deadline and the same checks."""
    cut = lambda _number, packet, reply, _elsewhere: reply(answer_to(packet, "6.6.6.6", flags=0x8600))  # noqa: E731
    with Responder(cut, lambda packet: answer_to(packet, "10.77.0.1")) as r:
        same(m.good(r.port, "query", "web." + ZONE, "A", key=None), ["60 10.77.0.1"])
        same(r.tcp_seen, 1)
    for answer, code, words in ((lambda packet: None, "UNAVAILABLE", "closed"), (lambda packet: answer_to(packet, "6.6.6.6", number=other_number(packet)), "DATA_LOSS", "not the answer"),
                                (lambda packet: b"", "DATA_LOSS", "not the answer"), (lambda packet: answer_to(packet, "6.6.6.6", flags=0x8600), "DATA_LOSS", "cut short")):
        with Responder(cut, answer) as r:
            m.bad(r.port, code, words, "query", "web." + ZONE, "A", key=None)
    release = threading.Event()
    with Responder(cut, lambda packet: release.wait(PATIENCE_S) and None) as r:
        m.bad(r.port, "DEADLINE_EXCEEDED", "no answer", "query", "web." + ZONE, "A", key=None, timeout_ms=1000)
        release.set()


def case_words(m):
    for code, flags, words in (("UNAVAILABLE", 0x8002, "SERVFAIL"), ("PERMISSION_DENIED", 0x8005, "REFUSED"), ("UNIMPLEMENTED", 0x8004, "NOTIMP"), ("INTERNAL", 0x8001, "FORMERR"),
                               ("FAILED_PRECONDITION", 0x8000, "not an authority")):
        with Responder(lambda _number, packet, reply, _elsewhere, flags=flags: reply(answer_to(packet, "6.6.6.6", flags=flags))) as r:
            m.bad(r.port, code, words, "query", "web." + ZONE, "A", key=None)


def case_patience(m):
    """Verifying goes on over a server that fails, and one that says the old value."""

    def handler(number, packet, reply, _elsewhere):
        reply(answer_to(packet, "10.77.0.2" if number > 3 else "10.77.0.1", flags=0x8002 if number == 1 else 0x8400))

    with Responder(handler) as r:
        m.good(r.port, "verify", "web." + ZONE, "A", "10.77.0.2", key=None)
        expect(len(r.seen) >= 4, f"{len(r.seen)} questions")


def case_secret_mode(m):
    readable = m.file("readable", SECRET, mode=0o640)
    m.bad(1, "PERMISSION_DENIED", "mode 0640", "query", "web." + ZONE, "A", secret=readable)


LONE_CASES = [
    ("answers with a wrong number, source or question are ignored", case_foreign_answers), ("nothing but such answers", case_foreign_only), ("a server that does not answer", case_silence),
    ("cancelled while waiting", case_cancel), ("nobody there", case_nobody), ("TCP when UDP is too small", case_tcp), ("response codes in words", case_words),
    ("verifying has patience", case_patience), ("a secret that others can read", case_secret_mode),
]


def own_network():
    if os.geteuid() != 0:
        return "network namespaces need root"
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        return f"no network namespace: {os.strerror(ctypes.get_errno())}"
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    return None


def server_tests(tap, m, server_type, folder, port):
    name = server_type.__name__
    missing = [package for package, program in ((server_type.package, server_type.program), ("bind9-dnsutils", "/usr/bin/nsupdate")) if not os.path.exists(program)]
    if missing:
        with tap.test(f"{name}: all of it"):
            raise Skip(f"not installed: {', '.join(missing)}")
        return
    with contextlib.ExitStack() as stack:
        server = None
        with tap.test(f"{name}: starts"):
            server = server_type(folder, port)
            stack.callback(server.stop)
        for title, case in SERVER_CASES if server else []:
            with tap.test(f"{name}: {title}"):
                case(m, server)


def main():
    tap = Tap("name service", True)
    reason = own_network()
    if reason or not os.path.exists(PROBE):
        with tap.test("name service"):
            raise Skip(reason or f"{PROBE} is not built")
        return tap.end()
    folder = tempfile.mkdtemp(prefix="fm-test-dns-")
    try:
        module = Module(folder)
        for title, case in LONE_CASES:
            with tap.test(title):
                case(module)
        for number, server_type in enumerate((Knot, Bind)):
            server_tests(tap, module, server_type, folder, 5301 + number)
    finally:
        shutil.rmtree(folder)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
