"""What a migration costs: CPU seconds of a tree of processes, bytes between two hosts, the machine's memory at its peak."""

import os
import subprocess
import threading
import time

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
SAMPLE_S = 0.02
STEP_S_MAX = 600  # 2 GB over 100 Mbit/s


def _stat(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()


def cpu_seconds(root):
    """Of a process, its descendants in our pid namespace, and those of them that have ended."""
    ours = os.stat("/proc/self/ns/pid").st_ino
    parents, ticks = {}, {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{pid}/ns/pid").st_ino != ours:
                continue
            fields = _stat(pid)
        except OSError:
            continue
        parents[int(pid)] = int(fields[1])
        ticks[int(pid)] = sum(map(int, fields[11:15]))
    family, grown = {root}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in family} - family
        family |= more
        grown = bool(more)
    return sum(ticks.get(pid, 0) for pid in family) * TICK_S


class Wire:
    """Bytes that one host sends to another, as its packet filter counts them: what the container's clients exchange with it is bridged, and not among them."""

    def __init__(self, lab, source, destination):
        self.lab, self.source = lab, source
        rules = f"""
            add table ip bench
            add counter ip bench sent
            add chain ip bench c {{ type filter hook output priority 0; }}
            add rule ip bench c ip daddr {lab.address(destination)} counter name sent
            """
        lab.run(source, ["nft", "-f", "-"], input=rules)

    def bytes(self):
        words = self.lab.run(self.source, ["nft", "list", "counter", "ip", "bench", "sent"]).stdout.split()
        return int(words[words.index("bytes") + 1])


def _used_bytes():
    with open("/proc/meminfo", encoding="ascii") as file:
        kib = {line.split(":")[0]: int(line.split()[1]) for line in file}
    return (kib["MemTotal"] - kib["MemFree"] - kib["Buffers"] - kib["Cached"] - kib["SReclaimable"] + kib["Shmem"]) * 1024


def resident_bytes(cgroup):
    """Of all processes in a control group (a part of its path) and those below."""
    kib = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
                if cgroup not in file.read():
                    continue
            with open(f"/proc/{pid}/status", encoding="utf-8") as file:
                kib += sum(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))
        except OSError:
            pass  # it has ended meanwhile
    return kib * 1024


class PeakMemory:
    """The most memory that was in use above what it was at the beginning; page cache does not count, tmpfs does."""

    def __enter__(self):
        self.before = self.peak = _used_bytes()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._sample, daemon=True)
        self.thread.start()
        return self

    def _sample(self):
        while not self.over.wait(SAMPLE_S):
            self.peak = max(self.peak, _used_bytes())

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def bytes(self):
        return self.peak - self.before


def wait(process, argv, seconds_max=STEP_S_MAX):
    """The CPU seconds of a command that must succeed, those of the children it has waited for included."""
    deadline = time.monotonic() + seconds_max
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise RuntimeError(f"{' '.join(argv)}: not within {seconds_max} s")
        time.sleep(0.001)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: exit {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def run(argv, **options):
    return wait(subprocess.Popen(argv, **options), argv)
