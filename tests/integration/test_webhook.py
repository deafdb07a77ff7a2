#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The redirection driver "webhook" (src/network/redirect-webhook.c, by redirect-probe) against a real HTTP server that checks signatures, and ones that refuse, hang and lead elsewhere. Prints TAP.

The receivers are Python's http.server in this process, in a network namespace of its own.
"""

import hashlib
import hmac
import http.server
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
from redirect_probe import PATIENCE_S, Redirect, Skip, Tap, expect, own_network, same  # noqa: E402

SECRET = "a secret of thirty-two bytes...."
ABOUT = {"migration": "m-3f9a61c2b07d", "container": "rédis", "source": "a", "destination": "b"}


class Receiver:
    """Answers `status` (a number, or what a function of the message says) to messages with the right signature, 401 to others; "hang" does not answer."""

    def __init__(self, status=204, context=None):
        self.status, self.messages, self.refused, self.arrived, self.done = status, [], 0, threading.Event(), threading.Event()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):  # noqa: N802
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.arrived.set()
                wanted = "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
                message = json.loads(body)
                if hmac.compare_digest(self.headers.get("X-FlexiMigrate-Signature", ""), wanted):
                    receiver.messages.append((message, dict(self.headers)))
                    status = receiver.status(message) if callable(receiver.status) else receiver.status
                else:
                    receiver.refused += 1
                    status = 401
                if status == "hang":
                    receiver.done.wait(PATIENCE_S)
                    return
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", receiver.leads_to)
                self.end_headers()
                if status >= 400:
                    self.wfile.write(b"the receiver says why")

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass  # somebody who went away, or does not like our certificate

        self.server = Server(("127.0.0.1", 0), Handler)
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.server.server_address[1]}/moves?token=nobody-needs-to-know"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.done.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def events(self):
        return [message["event"] for message, _ in self.messages]


def move(folder, url, **members):
    action = {"driver": "webhook", "url": url, "secret_file": "secret", "about": ABOUT}
    return Redirect(folder, {key: value for key, value in (action | members).items() if value is not None})


def case_events(folder):
    """By default: told when the new way is to be taken, and when it is to be undone."""
    with Receiver() as r:
        hook = move(folder, r.url, headers={"X-Team": "shop", "Authorization": "Bearer x"}).good("prepare", "open")
        same(r.events(), [])
        before_ms = time.time()
        hook.good("flip", "verify", "revert")
        same(r.events(), ["flip", "revert"])
        message, headers = r.messages[0]
        same(sorted(message), ["about", "delivery", "event", "time", "version"])
        same((message["version"], message["about"]), (1, ABOUT))
        stamp = time.mktime(time.strptime(message["time"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
        expect(abs(stamp - before_ms) < 60 and re.fullmatch(r".*T\d\d:\d\d:\d\d\.\d{3}Z", message["time"]), message["time"])
        same((headers["X-Team"], headers["Authorization"], headers["Content-Type"]), ("shop", "Bearer x", "application/json"))
        same((headers["X-FlexiMigrate-Event"], headers["X-FlexiMigrate-Delivery"]), ("flip", message["delivery"]))
        same(r.refused, 0)
    with Receiver() as r:
        move(folder, r.url, events=["verify", "open", "prepare", "revert", "flip"], about=None).good("prepare", "open", "flip", "verify", "revert")
        same(r.events(), ["prepare", "open", "flip", "verify", "revert"])
        same(r.messages[0][0]["about"], {})
        same(len({message["delivery"] for message, _ in r.messages}), 5)


def case_repeated(folder):
    """The same event of the same move has the same delivery id; another move's has another."""
    with Receiver() as r:
        hook = move(folder, r.url).good("prepare", "flip", "flip", "revert", "revert")
        ids = [message["delivery"] for message, _ in r.messages]
        expect(ids[0] == ids[1] != ids[2] == ids[3], ids)
        expect(re.fullmatch(r"[0-9a-f]{32}-flip", ids[0]), ids[0])
        hook.good("prepare", "flip")
        expect(r.messages[-1][0]["delivery"] not in ids, "another move has the same delivery id")


def case_refused(folder):
    for status, code in ((500, "UNAVAILABLE"), (400, "FAILED_PRECONDITION"), (409, "ABORTED"), (403, "PERMISSION_DENIED"), (404, "NOT_FOUND"), (302, "FAILED_PRECONDITION")):
        with Receiver() as elsewhere, Receiver(status) as r:
            r.leads_to = elsewhere.url
            error = move(folder, r.url).good("prepare", "open").bad("flip", code, str(status))
            expect("flip" in error["message"] and "nobody-needs" not in error["message"], error)
            expect(status < 400 or "the receiver says why" in error["message"], error)
            same((r.events(), elsewhere.events(), elsewhere.refused), (["flip"], [], 0))
    with Receiver(409) as r:
        move(folder, r.url, events=["prepare", "flip"]).bad("prepare", "ABORTED", "the receiver says why")
    with Receiver(lambda message: 500 if message["event"] == "flip" else 200) as r:
        hook = move(folder, r.url).good("prepare", "open")
        hook.bad("flip", "UNAVAILABLE", "500")
        hook.good("revert")


def case_secrets(folder):
    def write(name, text, mode=0o600):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(os.path.join(folder, name), mode)

    write("wrong", "another secret of 32 bytes......")
    write("readable", SECRET, 0o640)
    write("short", "fifteen bytes..\n\n")
    write("long", "x" * 1025)
    write("lines", SECRET + "\r\n")
    write("exactly", "y" * 1024)
    with Receiver() as r:
        move(folder, r.url, secret_file="wrong").good("prepare").bad("flip", "UNAUTHENTICATED", "401")
        move(folder, r.url, secret_file=None).good("prepare").bad("flip", "UNAUTHENTICATED", "401")
        same((r.events(), r.refused), ([], 2))
        move(folder, r.url, secret_file="lines").good("prepare", "flip")
        same(r.events(), ["flip"])
        move(folder, r.url, secret_file="exactly").good("prepare")
        move(folder, r.url, secret_file="readable").bad("prepare", "PERMISSION_DENIED", "0640")
        move(folder, r.url, secret_file="short").bad("prepare", "INVALID_ARGUMENT", "can be guessed")
        move(folder, r.url, secret_file="long").bad("prepare", "INVALID_ARGUMENT", "more than 1024")
        move(folder, r.url, secret_file="nothing").bad("prepare", "NOT_FOUND", "nothing")
        os.mkfifo(os.path.join(folder, "fifo"), 0o600)
        move(folder, r.url, secret_file="fifo").bad("prepare", "INVALID_ARGUMENT", "not a file")


def case_optional(folder):
    """Not required: nothing that happens to it is an error, and it is not waited for longer than 2 s. What is wrong with the action still is."""
    with Receiver(500) as r:
        move(folder, r.url, required=False, events=["prepare", "flip"]).good("prepare", "flip")
        same(r.events(), ["prepare", "flip"])
    move(folder, "http://127.0.0.1:1/", required=False).good("prepare", "flip", "revert")
    move(folder, "http://127.0.0.1:1/").good("prepare").bad("flip", "UNAVAILABLE", "127.0.0.1")
    with Receiver("hang") as r:
        hook = move(folder, r.url, required=False).good("prepare")
        begin = time.monotonic()
        hook.good("flip", timeout_ms=100000)
        expect(time.monotonic() - begin < PATIENCE_S / 2, "it was waited for")
        r.arrived.clear()
        hook.cancelled("revert", r.arrived)
    move(folder, "http://127.0.0.1:1/", required=False, secret_file="none").bad("prepare", "NOT_FOUND", "none")


def case_hangs(folder):
    with Receiver("hang") as r:
        hook = move(folder, r.url).good("prepare")
        begin = time.monotonic()
        hook.bad("flip", "DEADLINE_EXCEEDED", "within the time", timeout_ms=400)
        expect(0.4 <= time.monotonic() - begin < PATIENCE_S / 2, "not at its deadline")
        r.arrived.clear()
        hook.cancelled("flip", r.arrived)


def case_tls(folder):
    key, certificate = os.path.join(folder, "key.pem"), os.path.join(folder, "hook.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=hook", "-addext",
                    "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True, timeout=PATIENCE_S)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with Receiver(context=context) as r:
        move(folder, r.url, ca_file="hook.pem").good("prepare", "flip")
        same(r.events(), ["flip"])
        move(folder, r.url).good("prepare").bad("flip", "UNAUTHENTICATED", "certificate")
        move(folder, r.url.replace("127.0.0.1", "localhost"), ca_file="hook.pem").good("prepare").bad("flip", "UNAUTHENTICATED", "certificate")
        same(r.events(), ["flip"])


def case_members(folder):
    move(folder, "http://127.0.0.1:1/").wrong_members([
        ("url", None, "missing"), ("url", "ftp://x/", "http://"), ("url", "http://user:word@x/", "name or password"), ("url", "http://x/" + "y" * 2048, "bytes"), ("events", [], "1 to 5"), ("events", "flip", "list"),
        ("events", ["flip", "flip"], "twice"), ("events", ["commit"], "is not prepare, open, flip, verify or revert"), ("events", [1], "is not prepare, open, flip, verify or revert"), ("headers", [], "object"), ("headers", {"Content-Length": "1"}, "not yours"),
        ("headers", {"x-fleximigrate-signature": "1"}, "not yours"), ("headers", {"X Y": "1"}, "not yours"), ("headers", {"X": "a\r\nY: b"}, "control"), ("headers", {"X": 1}, "string"),
        ("headers", {f"X{n}": "1" for n in range(9)}, "0 to 8"), ("secret_file", "../secret", "'/'"), ("ca_file", "/etc/ssl/cert.pem", "'/'"), ("required", "no", "neither"), ("about", [], "object"),
        ("about", {"x": "y" * 4096}, "4096"), ("method", "GET", "not a member"),
    ])
    hook = move(folder, "http://127.0.0.1:1/").good("prepare")
    for undo in ({}, {"id": "x" * 32}, {"id": "a" * 31}, {"id": 1}, hook.undo | {"more": 1}):
        for step in ("open", "flip", "verify", "revert"):
            hook.bad(step, "DATA_LOSS", "undo", undo=undo)


CASES = [
    ("events, message, headers, signature", case_events), ("repeated: the same delivery id", case_repeated), ("refused, led elsewhere", case_refused), ("secrets", case_secrets), ("not required", case_optional),
    ("hangs; cancelled", case_hangs), ("TLS", case_tls), ("members of the action and the undo", case_members),
]


def main():
    tap = Tap("webhook", True)
    reason = own_network()
    if reason:
        with tap.test("webhook"):
            raise Skip(reason)
        return tap.end()
    folder = tempfile.mkdtemp(prefix="fm-test-webhook-")
    try:
        with open(os.path.join(folder, "secret"), "w", opener=lambda path, flags: os.open(path, flags, 0o600), encoding="utf-8") as file:
            file.write(SECRET + "\n")
        for title, case in CASES:
            with tap.test(title):
                case(folder)
    finally:
        shutil.rmtree(folder)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
