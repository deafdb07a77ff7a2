"""The load that a bench puts on a Redis, and what it says about it: tools/lab/load-client (its head explains the figures)."""

import json
import os
import select
import signal
import subprocess

VALUE_BYTES = 1024
CONNECTIONS = 16
BYTES_PER_KEY = 1280  # a value of 1 KiB and what Redis adds to it


class Load:
    """Fills a Redis with `megabytes` and then sends `rate` requests a second, `write_percent` of them writes, until finish()."""

    def __init__(self, lab, host, program, address, megabytes, rate, write_percent):
        keys = max(megabytes * 1024 * 1024 // BYTES_PER_KEY, 64)
        argv = [program, address, "6379", str(keys), str(VALUE_BYTES), str(CONNECTIONS), str(rate), str(write_percent)]
        self.process = lab.popen(host, argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True)
        if self._line(600) != "loaded\n":
            self.end()
            raise RuntimeError(f"loading {address} failed")

    def _line(self, seconds_max):
        ready, _, _ = select.select([self.process.stdout], [], [], seconds_max)
        return self.process.stdout.readline() if ready else ""

    def reset(self):
        """Gaps count from here."""
        self.process.send_signal(signal.SIGUSR1)

    def report(self):
        self.process.send_signal(signal.SIGUSR2)
        line = self._line(150)
        if not line:
            raise RuntimeError("the load client does not answer")
        report = json.loads(line)
        if report["error"]:
            raise RuntimeError(f"the load client's connection failed: {report['error']}")
        return report

    def finish(self):
        """Reads everything back; returns the last report."""
        self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=600)
        return json.loads(out.splitlines()[-1])

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def program(build):
    return os.path.join(build, "tools", "load-client")
