# SPDX-License-Identifier: MIT
"""The witnesses of a move as objects: tools/lab/seq-client (many TCP connections, a UDP stream) and tools/lab/capture, started in a host of a lab."""

import json
import os
import select
import signal
import subprocess

from commands import STRETCH, LabError

REPORT_S_MAX = 90


class Witness:
    """A program that says "ready", reports JSON on SIGUSR2, and starts its figures anew on SIGUSR1."""

    def __init__(self, lab, host, argv):
        self.name = os.path.basename(argv[0])
        self.process = lab.popen(host, argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def ready(self, seconds_max=10):
        """Its connections stand."""
        if self._line(seconds_max) != "ready\n":
            raise LabError(f"{self.name} is not ready: {self.end() or 'no answer'}")
        return self

    def _line(self, seconds_max=REPORT_S_MAX):
        readable, _, _ = select.select([self.process.stdout], [], [], seconds_max * STRETCH)
        return self.process.stdout.readline() if readable else ""

    def alive(self):
        return self.process.poll() is None

    def reset(self):
        self.process.send_signal(signal.SIGUSR1)

    def report(self):
        """The figures so far, while it goes on"""
        self.process.send_signal(signal.SIGUSR2)
        line = self._line()
        if not line:
            raise LabError(f"{self.name} does not report: {self.end() or 'no answer'}")
        return json.loads(line)

    def finish(self):
        """Stop, and what it found"""
        if self.alive():
            self.process.terminate()
        out, said = self.process.communicate(timeout=REPORT_S_MAX * STRETCH)
        if not out:
            raise LabError(f"{self.name} reported nothing: {said.strip()}")
        return json.loads(out.splitlines()[-1])

    def end(self):
        """At once; what it said on stderr."""
        if self.alive():
            self.process.kill()
        said = "" if self.process.stderr.closed else self.process.stderr.read().strip()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()
        return said

    def __enter__(self):
        return self.ready()

    def __exit__(self, *_):
        self.end()


def stream(lab, programs, host, address, port, rate=10000):
    """UDP packets with numbers, to seq-server. programs: the folder with seq-client."""
    return Witness(lab, host, [os.path.join(programs, "seq-client"), "udp", address, str(port), str(rate)])


def crowd(lab, programs, host, address, port, connections=200, interval_us=50000):
    """TCP connections that increment a counter each, of seq-server or Redis."""
    return Witness(lab, host, [os.path.join(programs, "seq-client"), "tcp", address, str(port), str(connections), str(interval_us)])


def capture(lab, programs, host, device, path):
    """What passes the device; reset() forgets it, report() writes it to path."""
    return Witness(lab, host, [os.path.join(programs, "capture"), device, path])


__all__ = ["Witness", "capture", "crowd", "stream"]
