# SPDX-License-Identifier: MIT
"""Programs that run beside each other: each in a session of its own and with its output in a file; all of them can be ended, and with them goes what they would leave behind.

Idle ones have the processors only while nobody else wants them, and stand still within `quiet()`. Used by tests/run.py.
"""

import contextlib
import glob
import os
import select
import shutil
import signal
import subprocess
import threading
import time

TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")
PREFIX = "fm-"                  # of the folders that unit tests make there
MAPPING_BYTES_MAX = 256 << 20   # of a sanitizer's shadow most was never touched
KILL_S_MAX = 20
# A kernel with autogroup shares out the processors among sessions first; without it there is no such file.
IDLE = ["sh", "-c", '{ echo 19 >/proc/self/autogroup; } 2>/dev/null; exec chrt --idle 0 "$@"', "idle"]


class Interrupted(Exception):
    """Nothing is started any more."""


class Program:
    """One that runs. polite_s: how long it may take to clean up after SIGINT; 0: it cannot, and what it has made is removed here."""

    def __init__(self, process, tag, polite_s, idle):
        self.process, self.tag, self.polite_s, self.idle, self.started = process, tag, polite_s, idle, time.time()

    def family(self):
        """Its session, and whatever else has its environment; who is dead already does not count."""
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    state, _, _, session = file.read().rpartition(b")")[2].split()[:4]
                if state == b"Z":
                    continue
                if int(session) != self.process.pid:
                    with open(f"/proc/{entry}/environ", "rb") as file:
                        if self.tag not in file.read().split(b"\0"):
                            continue
            except OSError:
                continue
            yield int(entry), state

    def stop(self):
        """All of it, and nothing that starts more meanwhile."""
        deadline = time.monotonic() + KILL_S_MAX
        while (running := [pid for pid, state in self.family() if state not in b"Tt"]) and time.monotonic() < deadline:
            send(signal.SIGSTOP, running)
            time.sleep(0.001)  # a signal takes effect in the kernel's own time

    def go_on(self):
        send(signal.SIGCONT, [pid for pid, _ in self.family()])

    def folders(self):
        """Temporary ones that were made since it was started and that it knows: their random names are in its memory."""
        found = {entry.path for place in filter(os.path.isdir, TEMPORARY) for entry in os.scandir(place)
                 if entry.name.startswith(PREFIX) and entry.stat(follow_symlinks=False).st_ctime >= self.started - 1}
        try:
            memory = b"".join(self.memory()) if found else b""
        except OSError:  # it has ended
            return set()
        return {path for path in found if path.encode() in memory}

    def memory(self):
        """What it has written: its variables, heap and stack."""
        with open(f"/proc/{self.process.pid}/maps", encoding="utf-8", errors="replace") as maps, open(f"/proc/{self.process.pid}/mem", "rb", 0) as memory:
            for line in maps:
                start, end = (int(word, 16) for word in line.split(maxsplit=1)[0].split("-"))
                if line.split()[1].startswith("rw") and end - start <= MAPPING_BYTES_MAX:
                    with contextlib.suppress(OSError):
                        memory.seek(start)
                        yield memory.read(end - start)

    def kill(self):
        """Whatever is left of it, and the folders and cgroups of one that cannot clean up."""
        folders, groups = set(), []
        if self.polite_s == 0:
            self.stop()
            folders = self.folders()
            for name in (f"fm-*-{self.process.pid}", *(f"{glob.escape(os.path.basename(folder))}*" for folder in folders)):
                groups += [group for parent in ("/sys/fs/cgroup", "/sys/fs/cgroup/*") for group in glob.glob(f"{parent}/{name}/")]
        deadline = time.monotonic() + KILL_S_MAX
        while (pids := [pid for pid, _ in self.family()] + [pid for group in groups for pid in members(group)]) and time.monotonic() < deadline:
            send(signal.SIGKILL, pids)
            time.sleep(0.005)
        for group in groups:
            with contextlib.suppress(OSError):
                os.rmdir(group)
        for folder in folders:
            remove(folder)


def send(number, pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def members(cgroup):
    with contextlib.suppress(OSError), open(os.path.join(cgroup, "cgroup.procs"), encoding="utf-8") as file:
        return [int(line) for line in file]
    return []


def remove(folder):
    """With what is mounted in it taken away before: behind a mount may be anything."""
    for _ in range(2):
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            points = [line.split()[4] for line in file]
        inside = [point for point in points if point == folder or point.startswith(folder + "/")]
        if not inside:
            shutil.rmtree(folder, ignore_errors=True)
            return
        for point in reversed(inside):
            subprocess.run(["umount", "--lazy", point], stderr=subprocess.DEVNULL, check=False)


class Programs:
    """Thread-safe."""

    def __init__(self):
        self.changed = threading.Condition()
        self.running, self.ending, self.quiet_ones, self.count = set(), False, 0, 0

    def run(self, argv, log, env=None, cwd=None, timeout_s=None, polite_s=0, idle=False):
        """(exit code, output); None for the code: it was not done in time."""
        with self.changed:
            while idle and self.quiet_ones and not self.ending:
                self.changed.wait()
            if self.ending:
                raise Interrupted
            self.count += 1
            tag = f"FLEXIMIGRATE_TEST_PROGRAM={os.getpid()}.{self.count}"
            name, value = tag.split("=")
            with open(log, "wb") as output:
                process = subprocess.Popen([*IDLE, *argv] if idle else argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,  # pylint: disable=consider-using-with
                                           env={**os.environ, **(env or {}), name: value}, cwd=cwd, start_new_session=True)
            program = Program(process, tag.encode(), polite_s, idle)
            self.running.add(program)
        in_time = ended_within(process, timeout_s)
        if not in_time:
            end([program])
        process.wait()
        with self.changed:
            self.running.discard(program)
            if self.ending:
                raise Interrupted
        with open(log, encoding="utf-8", errors="replace") as file:
            return process.returncode if in_time else None, file.read()

    @contextlib.contextmanager
    def quiet(self):
        """Idle programs stand still meanwhile: for what measures time."""
        with self.changed:
            self.quiet_ones += 1
            if self.quiet_ones == 1:
                for program in self.idle_ones():
                    program.stop()
        try:
            yield
        finally:
            with self.changed:
                self.quiet_ones -= 1
                if self.quiet_ones == 0:
                    for program in self.idle_ones():
                        program.go_on()
                    self.changed.notify_all()

    def idle_ones(self):
        return [program for program in self.running if program.idle]

    def end_all(self):
        """Of all that run, and of those that wait to be started; again while it works: at once."""
        with self.changed:
            self.ending = True
            self.changed.notify_all()
            programs = list(self.running)
        try:
            end(programs)
        except KeyboardInterrupt:
            for program in programs:
                program.kill()


def ended_within(process, seconds):
    """Without reaping it, so that its number stays its own."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(None if seconds is None else max(0, seconds) * 1000))
    finally:
        os.close(fd)


def end(programs):
    """Those that can clean up do so, all at the same time."""
    for program in programs:
        if program.polite_s:
            send(signal.SIGINT, [program.process.pid])
            program.go_on()
        else:
            program.kill()
    began = time.monotonic()
    for program in programs:
        if program.polite_s:
            ended_within(program.process, program.polite_s - (time.monotonic() - began))
            program.kill()
