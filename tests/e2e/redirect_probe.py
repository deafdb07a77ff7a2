# SPDX-License-Identifier: MIT
"""What the drivers' integration tests share: one step of a redirection by tests/unit/redirect-probe, and a network namespace of the process's own. Not a test."""

import ctypes
import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from tap import Skip, Tap, expect, fail

PROBE = os.path.join(ROOT, os.environ.get("BUILD", "build"), "tests", "unit", "redirect-probe")
PATIENCE_S = 30  # a bound against hanging, never an expectation
CLONE_NEWNET = 0x40000000


class Redirect:
    """A redirection, step by step. secrets: the folder in which its key files are."""

    def __init__(self, secrets, action):
        self.secrets, self.action, self.undo = secrets, action, None

    def argv(self, step, *options, undo=None, timeout_ms=10000):
        given = {"action": self.action} if step == "prepare" else {"action": self.action, "undo": self.undo if undo is None else undo}
        return [PROBE, "--secrets", self.secrets, "--timeout", str(timeout_ms), *options, step, json.dumps(given)]

    def run(self, step, **how):
        done = subprocess.run(self.argv(step, **how), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        expect(done.returncode in (0, 1) and not done.stderr, lambda: f"{step}: ended with {done.returncode}: {done.stderr}")
        return json.loads(done.stdout)

    def good(self, *steps, **how):
        for step in steps:
            said = self.run(step, **how)
            expect("error" not in said, lambda: f"{step}: {said}")
            if step == "prepare":
                self.undo = said["undo"]
        return self

    def bad(self, step, code, words, **how):
        said = self.run(step, **how)
        expect(said.get("error", {}).get("code") == code, lambda: f"{step}: not {code}: {said}")
        expect(words in said["error"]["message"] + " " + said["error"]["hint"], lambda: f"{step}: \"{words}\" is not in {said}")
        return said["error"]

    def cancelled(self, step, arrived):
        """Cancelled when `arrived` (a threading.Event) says that it waits."""
        with subprocess.Popen(self.argv(step, "--cancel", timeout_ms=100000), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
            expect(arrived.wait(PATIENCE_S), "nothing came")
            said, _ = p.communicate(timeout=PATIENCE_S)  # closes its stdin
        expect(json.loads(said)["error"]["code"] == "CANCELLED", said)

    def wrong_members(self, wrong):
        """[(member, value, words)]: each alone is refused, with the member's name. A value of None takes it away."""
        for member, value, words in wrong:
            action = {key: each for key, each in (self.action | {member: value}).items() if each is not None}
            error = Redirect(self.secrets, action).bad("prepare", "INVALID_ARGUMENT", words)
            expect(f"{self.action['driver']}: " in error["message"] and member in error["message"], f"{member}: {error}")


def same(found, wanted):
    expect(found == wanted, lambda: f"{found} instead of {wanted}")


def own_network():
    """Why this process cannot have a network of its own; None when it has one now."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        return f"no network namespace: {os.strerror(ctypes.get_errno())}"
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    return None if os.path.exists(PROBE) else f"{PROBE} is not built"


__all__ = ["PATIENCE_S", "Redirect", "Skip", "Tap", "expect", "fail", "own_network", "same"]

if __name__ == "__main__":
    sys.exit("redirect_probe.py is a module of the integration tests")
