# SPDX-License-Identifier: MIT
"""What the end-to-end tests share: options, containers with a client that watches them, and the checks after each migration."""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(HERE)), "tools", "lab"))
from cluster import STRETCH, Cluster, ClusterError, build_dir, system_leftovers  # noqa: E402
from tap import Failure, Skip, Tap, expect, fail  # noqa: E402

MORE_WRITES = 30
PAGES = os.path.join(build_dir(), "tests", "e2e", "programs", "pages")
REDIS = ["redis-server", "--save", "", "--appendonly", "no", "--protected-mode", "no", "--bind", "0.0.0.0", "--enable-debug-command", "yes", "--logfile", ""]


def arguments(description, parts=()):
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="the form for make check")
    parser.add_argument("--tap", action="store_true", help="print TAP, for the test runner")
    parser.add_argument("--keep", action="store_true", help="keep everything when the program itself fails, for inspection")
    parser.add_argument("--only", metavar="TEXT", default="", help="only the tests with this in their name")
    if parts:
        parser.add_argument("--part", choices=parts, help="only these tests; together they are all")
    return parser.parse_args()


def lab_name(prefix):
    """Several runs at the same time do not meet."""
    return f"{prefix}{os.getpid() % 1000000}"


def unwind_on_signal():
    """A polite kill is a Ctrl-C: everything is cleaned up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


class Resident:
    """A container with a client that increments its counter over one connection, from the first to the last check."""

    numbers = iter(range(101, 250))

    def __init__(self, cluster, name, host="src", command=None, options=(), python=False, programs=(), port=6379, ip=None, binds=(), config=None, endpoints=()):
        self.cluster, self.name, self.host, self.port = cluster, name, host, port
        self.ip = ip or f"10.77.0.{next(Resident.numbers)}"
        command = command or REDIS
        bundle = cluster.make_bundle(name, command, programs=programs, python=python, binds=binds)
        if python:
            shutil.copy(os.path.join(HERE, "programs", "counter.py"), os.path.join(bundle, "rootfs", "counter.py"))
        if config:  # config(dict) changes config.json
            path = os.path.join(bundle, "config.json")
            with open(path, encoding="utf-8") as file:
                contents = json.load(file)
            config(contents)
            with open(path, "w", encoding="utf-8") as file:
                json.dump(contents, file)
        cluster.cli("container", "run", name, "--host", host, "--bundle", bundle,
                    *([word for endpoint in endpoints for word in ("--endpoint", endpoint)] or ["--address", f"{self.ip}/24"]), *options)
        cluster.wait(f"{name} answers", lambda: self.ask("PING", check=False) == "PONG", 30)
        self.client = cluster.client(self.ip, port)
        cluster.wait(f"the client of {name} is connected", lambda: self.counter() > 0, 30)
        self.more_writes()

    def ask(self, *words, check=True):
        """Over a connection of its own; "" when there is no answer now and check is False."""
        done = self.cluster.redis(self.ip, *words, check=False)
        expect(done.returncode == 0 or not check, f"{self.name} does not answer {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout.strip() if done.returncode == 0 else ""

    def counter(self):
        return int(self.ask("GET", "counter") or 0)

    def more_writes(self, seconds_max=30):
        """The client's connection works: new writes are acknowledged now."""
        def acknowledged():
            if not self.client.alive():
                fail(f"the client of {self.name} ended: {self.client.finish()}")
            report = self.client.report()
            return report["acknowledged"] if report else 0

        goal = acknowledged() + MORE_WRITES
        self.cluster.wait(f"the client of {self.name} writes", lambda: acknowledged() >= goal, seconds_max)

    def check(self, host):
        """It serves on that host, the connection lives, every acknowledged write is there, nothing is left behind anywhere."""
        self.more_writes()
        container = self.cluster.container(self.name)
        expect(container["host"] == host and container["status"] == "running", f"{self.name} is {container['status']} on {container['host']}, not running on {host}")
        places = [(c["host"], c["status"]) for c in self.cluster.json("container", "ls")["containers"] if c["name"] == self.name]
        expect(places == [(host, "running")], f"{self.name} is listed on {places}")
        no_leftovers(self.cluster)

    def conclude(self, host):
        """check(), and the client's own account; the container is removed."""
        self.check(host)
        report = self.client.finish()
        found = self.counter()
        expect(not report["error"], f"the client's connection: {report['error']}")
        expect(report["last"] == found, f"the client's last acknowledged write is {report['last']}, the container has {found}")
        self.remove()
        return report

    def remove(self):
        self.client.end()
        self.cluster.cli("container", "rm", "--force", self.name, check=False)


@contextlib.contextmanager
def agent_with(cluster, host, options=(), fault=None, path=None):
    """The host's agent restarted with other options, a fault point or another PATH; afterwards as it was. Later options win."""
    agent = cluster.agents[host]
    agent.stop()
    usual = agent.argv
    agent.argv = [*usual, *options]
    agent.start({name: value for name, value in (("FLEXIMIGRATE_FAULT", fault), ("PATH", path)) if value})
    cluster.wait_online()
    try:
        yield
    finally:
        agent.stop()
        agent.argv = usual
        agent.start()
        cluster.wait_online()


def pages_resident(cluster, name, megabytes, *options):
    """A container whose program (programs/pages.c) knows what is in each of its pages."""
    return Resident(cluster, name, command=[PAGES, str(megabytes), "--port", "6379", *options], programs=[PAGES])


def check_pages(resident, seconds_max=60):
    """All of its pages are what they have to be: it has been through them again from now on, and found none that was not."""
    def state():
        return json.loads(resident.ask("STATE"))

    passes = state()["passes"]
    resident.cluster.wait(f"{resident.name} reads all its pages", lambda: state()["passes"] >= passes + 2, seconds_max)
    found = state()
    expect(found["zero"] == 0 and found["wrong"] == 0, f"pages of {resident.name} were lost: {found}")
    return found


def path_without(folder, prefixes):
    """A PATH with everything that ours has but programs whose name begins so."""
    os.makedirs(folder)
    for directory in os.environ["PATH"].split(":"):
        for name in os.listdir(directory) if os.path.isdir(directory) else ():
            link = os.path.join(folder, name)
            if not name.startswith(prefixes) and not os.path.lexists(link):
                os.symlink(os.path.join(directory, name), link)
    return folder


@contextlib.contextmanager
def small_disk(cluster, host, options):
    """That host's state is on a disk (a tmpfs with these mount options) of its own with hardly any room."""
    folder = cluster.path("state", host)
    cluster.agents[host].stop()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "fleximigrate-lab", folder], check=True)
    cluster.agents[host].start()
    cluster.wait_online()
    try:
        yield folder
    finally:
        cluster.agents[host].stop()
        subprocess.run(["umount", folder], check=True)
        cluster.agents[host].start()
        cluster.wait_online()


def cpu_quota(pid):
    """Of the cgroup that the process is in: microseconds a period, -1 when there is none, None when there is no such cgroup (any more)."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounts = [(fields[4], kind.split()[0], kind.split()[2].split(",")) for fields, kind in ((head.split(), tail) for head, tail in (line.split(" - ") for line in file))]
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
            groups = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return None
    for _, controllers, path in groups:
        for point, kind, options in mounts:
            name = "cpu.cfs_quota_us" if kind == "cgroup" and "cpu" in controllers.split(",") and "cpu" in options else "cpu.max" if kind == "cgroup2" and not controllers else None
            quota = f"{point}{path}/{name}"
            if name and os.path.exists(quota):
                with open(quota, encoding="ascii") as file:
                    word = file.read().split()[0]
                return -1 if word == "max" else int(word)
    return None


def no_leftovers(cluster):
    left = cluster.leftovers()
    expect(not left, lambda: f"left over: {left}")


@contextlib.contextmanager
def clean_case(cluster, tap, options, name, check=lambda: None):
    """A test, if it is wanted, that begins with no container and leaves nothing; check() looks for more of that while its containers are still there. Yields whether it is wanted."""
    if options.only not in name:
        yield False
        return
    with tap.test(name):
        try:
            yield True
            no_leftovers(cluster)
            check()
        finally:
            mend(cluster)
            for container in cluster.json("container", "ls")["containers"]:
                cluster.cli("container", "rm", "--force", container["name"], check=False)


def mend(cluster):
    """After a test, whatever happened in it: links up, daemons running, all hosts online."""
    for host in cluster.hosts:
        cluster.lab.heal(host)
    for daemon in [cluster.manager, *cluster.agents.values()]:
        if not daemon.alive():
            daemon.start()
    cluster.wait_online()


def expect_lines(lines, patterns):
    """Every pattern matches a whole line, in this order; other lines may be in between."""
    position = 0
    for pattern in patterns:
        for index in range(position, len(lines)):
            if re.fullmatch(pattern, lines[index]):
                position = index + 1
                break
        else:
            fail(f"no line (after line {position}) matches\n  {pattern}\nin\n  " + "\n  ".join(lines))


def expect_error(done, code, message, hint=None):
    """A command was refused: exit code, one line of message, a hint."""
    said = done.stderr.strip().splitlines()
    expect(done.returncode == code, f"exit code {done.returncode}, not {code}: {said or done.stdout.strip()}")
    expect(said and said[0].startswith("fleximigrate: "), f"no message: {said}")
    expect(re.search(message, said[0]), f"the message\n  {said[0]}\ndoes not match\n  {message}")
    hints = [line for line in said[1:] if line.startswith("hint: ")]
    expect(len(said) == 1 + len(hints) <= 2, f"more than a line and a hint: {said}")
    if hint is not None:
        expect(hints and re.search(hint, hints[0]), f"the hint {hints} does not match {hint}")


def conclude(tap, name):
    """After the last cluster is down."""
    left = system_leftovers(name)
    with tap.test("nothing is left on this machine"):
        expect(not left, lambda: f"left over: {left}")
    return tap.end()


__all__ = ["Cluster", "ClusterError", "Failure", "HERE", "REDIS", "Resident", "STRETCH", "Skip", "Tap", "agent_with", "arguments", "check_pages", "clean_case", "conclude", "cpu_quota", "expect", "expect_error", "expect_lines", "fail", "lab_name", "mend",
           "no_leftovers", "pages_resident", "small_disk", "system_leftovers", "unwind_on_signal"]
