#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""promtool's opinion of examples/monitoring and of what a manager and an agent expose when they have nothing to tell yet; their /healthz and /readyz. Prints TAP.

Both daemons run by themselves, on ports of the kernel's choice, in a folder that goes. With containers and migrations, and a real Prometheus: tests/e2e/metrics.py.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
from tap import Skip, Tap, expect, fail  # noqa: E402

PROGRAM = os.path.join(os.path.abspath(os.environ.get("BUILD") or os.path.join(ROOT, "build")), "fleximigrate")
EXAMPLES = os.path.join(ROOT, "examples", "monitoring")
PATIENCE_S = 60


def promtool(*words, text=None, cwd=EXAMPLES):
    if not shutil.which("promtool"):
        raise Skip("needs promtool, of the package prometheus")
    done = subprocess.run(["promtool", *words], input=text, capture_output=True, text=True, timeout=PATIENCE_S, cwd=cwd, check=False)
    return done.returncode, done.stdout + done.stderr


def clean(*words, text=None):
    code, said = promtool(*words, text=text)
    expect(code == 0, f"promtool {' '.join(words)}: exit code {code}: {said}")
    return said


class Daemon:
    """A manager or agent, and where it serves."""

    def __init__(self, folder, name, *words):
        self.log_path = os.path.join(folder, f"{name}.log")
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen([PROGRAM, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.url = self.wait_url()
        except BaseException:
            self.stop()
            raise

    def log(self):
        with open(self.log_path, encoding="utf-8") as file:
            return file.read()

    def wait_url(self):
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            match = re.search(r"Metrics are served on (http://\S+)/metrics\b", self.log())
            if match:
                return match.group(1)
            if self.process.poll() is not None:
                fail(f"it ended with {self.process.returncode}: {self.log()}")
            time.sleep(0.02)
        return fail(f"it serves nowhere: {self.log()}")

    def get(self, path):
        """code, text"""
        try:
            with urllib.request.urlopen(self.url + path, timeout=PATIENCE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()

    def wait(self, what, condition):
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                fail(f"{what}: not within {PATIENCE_S} s; {self.get('/readyz')}; {self.get('/metrics')[1]}; {self.log()}")
            time.sleep(0.05)

    def wait_ready(self, code):
        self.wait(f"/readyz is {code}", lambda: self.get("/readyz")[0] == code)

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE_S)


def value(text, series):
    match = re.search(rf"^{re.escape(series)} (\S+)$", text, re.M)
    return float(match.group(1)) if match else None


def manager(folder):
    return Daemon(folder, "manager", "manager", "--socket", os.path.join(folder, "m.sock"), "--state-dir", os.path.join(folder, "m"), "--http", "127.0.0.1:0")


def agent(folder, address="127.0.0.1:0"):
    return Daemon(folder, "agent", "agent", "--name", "lonely", "--manager", f"unix:{folder}/m.sock", "--state-dir", os.path.join(folder, "a"), "--run-dir", os.path.join(folder, "r"),
                  "--runtime-root", os.path.join(folder, "c"), "--http", address)


@contextlib.contextmanager
def folder_of_its_own():
    path = tempfile.mkdtemp(prefix="fm-test-mon-", dir="/tmp")
    try:
        yield path
    finally:
        shutil.rmtree(path)


def examples(tap):
    with tap.test("promtool check config: the example is valid"):
        clean("check", "config", "prometheus.yml")
    with tap.test("promtool check rules: the alert rules are valid"):
        expect("0 rules" not in clean("check", "rules", "alerts.yaml"), "no rules were found")
    with tap.test("promtool test rules: the alerts fire and keep quiet when they should"):
        clean("test", "rules", "alerts-test.yaml")
    with tap.test("promtool test rules: the tests can fail"):
        with folder_of_its_own() as folder:
            for name in ("alerts.yaml", "alerts-test.yaml"):
                shutil.copy(os.path.join(EXAMPLES, name), folder)
            with open(os.path.join(folder, "alerts.yaml"), "r+", encoding="utf-8") as file:
                rules = file.read().replace("fleximigrate_host_up{", "fleximigrate_host_down{")
                file.seek(0)
                file.write(rules)
            code, said = promtool("test", "rules", "alerts-test.yaml", cwd=folder)
            expect(code != 0 and "FleximigrateHostOffline" in said, f"exit code {code}: {said}")


def check_exposed(name, text, *wanted):
    said = clean("check", "metrics", text=text)
    expect(not said.strip(), f"{name}: {said}")
    for series in wanted:
        expect(value(text, series) is not None, f"{name} does not expose {series}")


def daemons(tap):
    with folder_of_its_own() as folder:
        first = manager(folder)
        try:
            with tap.test("manager: /metrics is clean, /healthz and /readyz are 200"):
                check_exposed("manager", first.get("/metrics")[1], 'fleximigrate_migrations_total{strategy="live",state="COMPLETED"}', 'fleximigrate_hosts{status="online"}', "process_open_fds",
                              'fleximigrate_migration_downtime_seconds_bucket{strategy="live",le="+Inf"}')
                expect(first.get("/healthz") == (200, "ok\n") and first.get("/readyz") == (200, "ready\n"), f"{first.get('/healthz')}, {first.get('/readyz')}")
            second = agent(folder)
            try:
                with tap.test("agent: /metrics is clean, and it is ready when the manager takes its reports"):
                    second.wait_ready(200)
                    text = second.get("/metrics")[1]
                    check_exposed("agent", text, 'fleximigrate_host_up{host="lonely"}', 'fleximigrate_agent_moves_total{role="source",decision="RELEASED"}', "fleximigrate_agent_journals")
                    second.wait("its metrics say so, too", lambda: value(second.get("/metrics")[1], "fleximigrate_agent_connected") == 1)
                    first.wait("the manager shows the host", lambda: value(first.get("/metrics")[1], 'fleximigrate_host_up{host="lonely"}') == 1)  # a text may be 200 ms old
                with tap.test("agent: not ready, and says so, when the manager is gone"):
                    first.stop()
                    second.wait_ready(503)
                    second.wait("its metrics say so, too", lambda: value(second.get("/metrics")[1], "fleximigrate_agent_connected") == 0)
                    expect(second.get("/healthz")[0] == 200, "its life does not depend on the manager")
            finally:
                second.stop()
        finally:
            if first.process.poll() is None:
                first.stop()
    with tap.test("an address that others reach is warned of"):
        with folder_of_its_own() as folder:
            daemon = agent(folder, "0.0.0.0:0")
            daemon.stop()
            expect(re.search(r"^WARN .*without TLS", daemon.log(), re.M), daemon.log())
    with tap.test("without --http nothing listens; with an address that is none it does not start"):
        with folder_of_its_own() as folder:
            words = [PROGRAM, "manager", "--socket", os.path.join(folder, "m.sock"), "--state-dir", os.path.join(folder, "m")]
            done = subprocess.run([*words, "--http", "9401"], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
            expect(done.returncode == 1 and "HTTP for monitoring" in done.stderr, f"{done.returncode}: {done.stderr}")
            silent = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            line = silent.stderr.readline()
            listening = subprocess.run(["ss", "-Htlnp"], capture_output=True, text=True, check=True).stdout
            silent.terminate()
            silent.communicate(timeout=PATIENCE_S)
            expect(" ready on " in line and f"pid={silent.pid}," not in listening, f"{line} {listening}")


def main():
    tap = Tap("monitoring", True)
    examples(tap)
    daemons(tap)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
