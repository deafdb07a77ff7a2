#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Latency on a link of a lab (tools/lab/delay-line.c): round trips take as long as was asked for, what passes is whole, cut and heal work, and nothing stays when the lab goes. Prints TAP."""

import hashlib
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "e2e"))
from common import Tap, conclude, expect, lab_name, unwind_on_signal  # noqa: E402
from cluster import build_dir  # noqa: E402
from lab import Lab, LabError  # noqa: E402

ROUND_TRIP_MS = 20
MEGABYTES = 32  # in segment offloads of up to 64 KiB
TRIES = 5
# The shortest of some connections
CONNECT = ["python3", "-c", """
import socket, sys, time
best = None
for _ in range(int(sys.argv[2])):
    start = time.monotonic()
    with socket.socket() as s:
        s.settimeout(3)
        try:
            s.connect((sys.argv[1], 9))
        except ConnectionRefusedError:
            took = (time.monotonic() - start) * 1000
            best = min(best or took, took)
        except TimeoutError:
            pass
print(best)
"""]
RECEIVE = ["python3", "-c", """
import hashlib, socket, sys
with socket.create_server((sys.argv[1], 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    connection, seen = listener.accept()[0], hashlib.sha256()
    while data := connection.recv(1 << 20):
        seen.update(data)
    print(seen.hexdigest())
"""]
SEND = ["python3", "-c", """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as s:
    s.sendall(sys.stdin.buffer.read())
"""]


def round_trip_ms(lab, source, destination, tries=TRIES):
    """None: there is no connection"""
    told = lab.run(source, [*CONNECT, lab.address(destination), str(tries)]).stdout.strip()
    return None if told == "None" else float(told)


def copy(lab, source, destination):
    content = os.urandom(MEGABYTES << 20)
    with lab.popen(destination, [*RECEIVE, lab.address(destination)], stdout=subprocess.PIPE, text=True) as receiver:
        port = receiver.stdout.readline().strip()
        lab.run(source, [*SEND, lab.address(destination), port], input=content, text=False)
        expect(receiver.stdout.readline().strip() == hashlib.sha256(content).hexdigest(), "what arrived is not what was sent")


def main():
    unwind_on_signal()
    tap, name = Tap("lab-latency", True), lab_name("ll")
    with Lab(name, ["src", "dst", "cli"]) as lab:
        with tap.test("round trips over the link take longer, others do not"):
            lab.delay("dst", ROUND_TRIP_MS, os.path.join(build_dir(), "tools", "delay-line"))
            for source, destination in (("src", "dst"), ("dst", "cli")):
                took = round_trip_ms(lab, source, destination)
                expect(took >= ROUND_TRIP_MS, f"from {source} to {destination}: {took} ms")
            expect(round_trip_ms(lab, "src", "cli") < ROUND_TRIP_MS / 2, "the other link is slow, too")
        with tap.test("what passes is whole, with a limit as well"):
            copy(lab, "src", "dst")
            lab.shape("dst", "500mbit", fair=True)
            copy(lab, "dst", "src")
        with tap.test("cut and healed"):
            lab.cut("dst")
            expect(round_trip_ms(lab, "src", "dst", tries=1) is None, "the link is cut and answers")
            lab.heal("dst")
            expect(round_trip_ms(lab, "src", "dst") >= ROUND_TRIP_MS, "no latency any more")
        with tap.test("no second latency on one link"):
            try:
                lab.delay("dst", 1, "true")
                expect(False, "it was accepted")
            except LabError as error:
                expect("has a latency already" in str(error), str(error))
    return conclude(tap, name)


if __name__ == "__main__":
    sys.exit(main())
