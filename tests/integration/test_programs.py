#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What tests/run.py starts programs with (tests/programs.py): output and exit codes, what becomes of one that is too late or interrupted and of what it has started and made, and that idle ones stand still. Prints TAP."""

import os
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.dirname(HERE)
sys.path[:0] = [TESTS, os.path.join(TESTS, "e2e")]
from programs import Interrupted, Programs  # noqa: E402
from tap import Tap, expect  # noqa: E402

PATIENCE_S = 20
# Says the numbers of its children, of which one has a session of its own, and waits.
FAMILY = ["sh", "-c", 'sleep 1000 & setsid sleep 1001 & echo $! $$; wait']
# Makes a folder as unit tests do, says its name, and cannot clean up.
MESSY = [sys.executable, "-c", "import signal, tempfile; print(tempfile.mkdtemp(prefix='fm-test-programs-', dir='/tmp'), flush=True); signal.pause()"]
TIDY = [sys.executable, "-c", """
import signal, sys
try:
    print("ready", flush=True)
    signal.pause()
except KeyboardInterrupt:
    print("cleaned up", flush=True)
"""]
COUNTER = ["sh", "-c", "while :; do echo; sleep 0.01; done"]


def until(what, condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        expect(time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}")
        time.sleep(0.01)


def text_of(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


class Beside:
    """One that runs in a thread of its own."""

    def __init__(self, programs, folder, name, argv, **how):
        self.log, self.result = os.path.join(folder, name), None
        self.thread = threading.Thread(target=self.run, args=(programs, argv), kwargs=how)
        self.thread.start()

    def run(self, programs, argv, **how):
        try:
            self.result = programs.run(argv, self.log, **how)
        except Interrupted:
            self.result = "interrupted"

    def join(self):
        self.thread.join(PATIENCE_S)
        expect(not self.thread.is_alive(), "it has not returned")
        return self.result


def output_and_code(folder):
    programs, log = Programs(), os.path.join(folder, "log")
    found = programs.run(["sh", "-c", "echo out; echo err >&2; echo $WORD; cat; exit 7"], log, {"WORD": "word"}, timeout_s=PATIENCE_S)
    expect(found == (7, "out\nerr\nword\n"), f"{found}")
    found = programs.run(["sh", "-c", "kill -9 $$"], log)
    expect(found == (-9, ""), f"{found}")
    found = programs.run(["chrt", "-p", "0"], log, idle=True)
    expect(found[0] == 0 and "SCHED_IDLE" in found[1], f"{found}")
    try:
        found = programs.run([os.path.join(folder, "missing")], log)
    except FileNotFoundError:
        return
    expect(False, f"{found} of a program that is not there")


def too_late(folder):
    programs = Programs()
    code, output = programs.run(FAMILY, os.path.join(folder, "log"), timeout_s=1)
    pids = output.split()
    expect(code is None and len(pids) == 2 and not any(map(is_alive, pids)), f"{code}, {output}, alive: {[pid for pid in pids if is_alive(pid)]}")
    code, output = programs.run(TIDY, os.path.join(folder, "log"), timeout_s=2, polite_s=PATIENCE_S)
    expect(code is None and output == "ready\ncleaned up\n", f"{code}, {output}")


def interrupted(folder):
    programs = Programs()
    tidy, messy, family = (Beside(programs, folder, name, argv, polite_s=polite_s) for name, argv, polite_s in (("tidy", TIDY, PATIENCE_S), ("messy", MESSY, 0), ("family", FAMILY, 0)))
    with tempfile.TemporaryDirectory(prefix="fm-test-programs-", dir="/tmp") as other:  # somebody's
        until("all have begun", lambda: all(text_of(one.log).endswith("\n") for one in (tidy, messy, family)))
        made, pids = text_of(messy.log).strip(), text_of(family.log).split()
        expect(os.path.isdir(made) and all(map(is_alive, pids)), f"{made}, {pids}")
        programs.end_all()
        expect([one.join() for one in (tidy, messy, family)] == ["interrupted"] * 3, f"{[one.result for one in (tidy, messy, family)]}")
        expect(text_of(tidy.log) == "ready\ncleaned up\n", text_of(tidy.log))
        expect(not os.path.exists(made), f"{made} is still there")
        expect(os.path.isdir(other), "somebody else's folder is gone")
        expect(not any(map(is_alive, pids)), f"{pids} are alive")
    try:
        programs.run(["true"], os.path.join(folder, "late"))
    except Interrupted:
        return
    expect(False, "one was started afterwards")


def quiet(folder):
    programs = Programs()
    counter = Beside(programs, folder, "counter", COUNTER, idle=True)

    def size():
        return os.path.getsize(counter.log) if os.path.exists(counter.log) else 0
    until("it counts", lambda: size() > 0)
    with programs.quiet():
        before = size()
        second = Beside(programs, folder, "second", ["echo", "begun"], idle=True)
        code, _ = programs.run(["sleep", "0.3"], os.path.join(folder, "log"))
        expect(code == 0 and size() == before, f"{size() - before} counted meanwhile")
        expect(text_of(second.log) == "", "another idle one was started")
    until("it goes on", lambda: size() > before)
    expect(second.join() == (0, "begun\n"), f"{second.result}")
    programs.end_all()
    expect(counter.join() == "interrupted", f"{counter.result}")


def unknown_names(_):
    done = subprocess.run([os.path.join(TESTS, "run.py"), "unit", "test-that-is-not-there"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    expect(done.returncode == 2 and "test-that-is-not-there" in done.stderr and "sanitizers" in done.stderr, f"{done}")


def main():
    tap = Tap("programs", True)
    for name, case in (("output, exit code, idle priority", output_and_code), ("too late: it and all that it has started are ended", too_late),
                       ("interrupted: who can clean up does, who cannot leaves nothing", interrupted), ("quiet: idle programs stand still", quiet), ("names that are nobody's", unknown_names)):
        with tap.test(name), tempfile.TemporaryDirectory(prefix="fm-programs-") as folder:
            case(folder)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
