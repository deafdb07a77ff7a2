#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""kill -9 of the manager and of either agent in the middle of migrations, cut links and damaged pages, again and again; the invariants of docs/LIFECYCLE.md must hold.

A round: a migration starts (live, post-copy or cold), a victim is killed at a random instant of it (or at an enumerated fault point), comes back a random
short while later with the same arguments, and without anybody's help the migration has to be COMPLETED or FAILED within a deadline. Then: exactly one
runnable copy exists, on the host where the manager says; the client's connection lives and no acknowledged write is missing (unless the history says
for how long the service was lost); nothing is left over. The next round starts from wherever the container is. Last line:
    chaos: rounds=N violations=0
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(HERE)), "tools", "lab"))
from cluster import CONTAINER_IP, Cluster, ClusterError, system_leftovers  # noqa: E402

VICTIMS = ("manager", "source agent", "destination agent")
FINISH_S_MAX = 120    # a killed process, its return, the undoing: all of it takes seconds
SETTLE_S_MAX = 10     # for what may end a moment after the migration is concluded
AWAY_S_MAX = 1.5      # the victim comes back within
CUT_S_MAX = 3.0
CHUNKS = 40           # of 128 pages, in a move of --mb 16
WRITES = 20           # acknowledged after each round
# (fault point, victim). Points that the manager passes at every transition are numbered.
POINTS = [*((f"manager-after-transition@{nth}", "manager") for nth in range(1, 7)),
          ("manager-before-execute", "manager"), ("manager-after-execute", "manager"),
          ("source-after-mark", "source agent"), ("source-after-fence", "source agent"), ("source-after-dump", "source agent"), ("source-after-stop", "source agent"),
          ("source-before-commit", "source agent"), ("source-after-commit", "source agent"), ("source-before-release", "source agent"), ("source-after-visited", "source agent"),
          ("destination-after-files", "destination agent"), ("destination-after-prepare", "destination agent"), ("destination-before-restore", "destination agent"),
          ("destination-after-restore", "destination agent"), ("destination-after-commit", "destination agent"),
          ("destination-after-running", "destination agent"), ("destination-pages", "destination agent"), ("destination-verify", "destination agent")]
SHORT_POINTS = ("manager-after-transition@4", "source-after-stop", "source-after-commit", "destination-after-restore", "destination-after-commit")
PATHS = ("1N 2N 3N 4N 5N 6N", "1F", "1N 2F 8N", "1N 2N 3F 8N", "1N 2N 3N 4F 8N", "1N 2N 3N 4N 5F 8N")


class Report:
    """TAP lines if wanted, and the count of what failed."""

    def __init__(self, tap):
        self.tap, self.number, self.failed = tap, 0, 0

    def check(self, problems, name):
        self.number += 1
        self.failed += bool(problems)
        if self.tap:
            print(f"{'not ok' if problems else 'ok'} {self.number} - {name}", flush=True)
        for problem in problems:
            print(f"{'# ' if self.tap else ''}   VIOLATION {problem}", flush=True)

    def say(self, text):
        print(f"# {text}" if self.tap else text, flush=True)


def copies_of(cluster, name):
    """{host: [(pid, command, state)]} of every process in the container's cgroups."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
                cgroups = file.read()
            with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
                stat = file.read()
        except OSError:
            continue
        for host in cluster.hosts:
            if f"/fleximigrate/{cluster.name}/{host}/{name}" in cgroups:
                found.setdefault(host, []).append((int(pid), stat[stat.index("(") + 1:stat.rindex(")")], stat[stat.rindex(")") + 2]))
    return found


def applications(cluster, name):
    """[(host, pid, state)] of every Redis of ours on the machine, running or not."""
    return [(host, pid, state) for host, processes in copies_of(cluster, name).items() for pid, command, state in processes
            if command.startswith("redis-server") and state not in "ZX"]


class Chaos:
    def __init__(self, cluster, arguments, report):
        self.cluster, self.arguments, self.report = cluster, arguments, report
        self.random = random.Random(arguments.seed)
        self.name = "redis"
        self.where = "src"
        self.client = None
        self.acknowledged = 0  # value of the counter that a client has seen
        self.typical_s = {}
        self.rounds = 0
        self.unexplained = 0

    # ------------------------------------------------------------------ helpers

    def other(self):
        return "dst" if self.where == "src" else "src"

    def daemon(self, victim):
        if victim == "manager":
            return self.cluster.manager
        return self.cluster.agents[self.where if victim == "source agent" else self.other()]

    def counter(self):
        return int(self.cluster.redis(CONTAINER_IP, "GET", "counter", check=False).stdout.strip() or -1)

    def new_client(self):
        if self.client:
            self.client.end()
        before = self.counter()
        self.client = self.cluster.client()
        # Before it has its handlers a signal would end it.
        self.cluster.wait("the client writes", lambda: self.counter() > max(before, 0), 30)

    def start(self, strategy):
        """Starts a migration without waiting for the command line's answer."""
        argv = [self.cluster.program, "migrate", self.name, "--to", self.other(), "--strategy", strategy, "--detach", "--output", "json",
                "--manager", f"unix:{self.cluster.path('manager.sock')}"]
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def newest(self):
        found = self.cluster.json("migration", "ls", "--limit", "1", timeout=20)["migrations"]
        return found[0] if found else None

    def wait_finished(self, known):
        """The migration after `known` when it is over; None: the request never reached the manager."""
        finished = None

        def over():
            nonlocal finished
            try:
                newest = self.newest()
            except (ClusterError, ValueError, subprocess.TimeoutExpired):
                return False
            if newest is None or newest["id"] == known:
                finished = None
                return True
            finished = newest
            return bool(int(newest["finished_unix_ms"]))
        self.cluster.wait("the migration is over", over, FINISH_S_MAX)
        return finished

    # ------------------------------------------------------------------ a round

    def round(self, victim, strategy, kill, what):
        """kill(daemon) kills it at the right moment; returns when it is dead."""
        self.rounds += 1
        problems = []
        known = (self.newest() or {}).get("id")
        daemon, started = self.daemon(victim), time.monotonic()
        request = self.start(strategy)
        migration = None
        try:
            kill(daemon)
            time.sleep(self.random.uniform(0, AWAY_S_MAX))
            if not daemon.alive():
                daemon.start()
            try:
                answer, _ = request.communicate(timeout=90)
            except subprocess.TimeoutExpired:
                request.kill()
                answer, _ = request.communicate()
                problems.append("the command line did not end")
            self.cluster.wait_online()
            migration = self.wait_finished(known)
            if migration is None and request.returncode == 0:
                problems.append(f"the manager accepted a migration and forgot it: {answer.strip()}")
        except ClusterError as error:
            problems.append(str(error))
            migration = self.newest()
        took = time.monotonic() - started
        if migration and migration["state"] == "COMPLETED":
            # The machine's speed changes; an instant after the end would test nothing.
            total_s = (int(migration["finished_unix_ms"]) - int(migration["created_unix_ms"])) / 1000
            self.typical_s[strategy] = (self.typical_s[strategy] + total_s) / 2
        problems += self.check(migration)
        outcome = "not started" if migration is None else f"{migration['state']} {migration['path']}"
        lost = f", lost service {migration['lost_service_ms']} ms" if migration and int(migration["lost_service_ms"]) else ""
        text = f"{what}: {outcome}{lost} after {took:.1f} s, {self.gap_text}"
        if migration and migration["state"] != "COMPLETED":
            text += f" ({migration['error_message']})"
        self.report.say(f"{self.rounds:3} {text}")
        self.report.check(problems, f"{what}: {outcome}")
        if problems and self.arguments.stop:
            raise ClusterError("stopped at the first violation")

    def check(self, migration):
        problems = []
        self.gap_text = ""
        if migration is not None:
            if not int(migration["finished_unix_ms"]):
                problems.append(f"migration {migration['id']} is still {migration['state']} ({migration['step']})")
            if migration["path"] not in PATHS or (migration["state"] == "COMPLETED") != (migration["path"] == PATHS[0]):
                problems.append(f"{migration['state']} has path '{migration['path']}'")
        problems += self.check_place(migration)
        problems += self.check_copies()
        problems += self.check_client(migration)
        problems += self.check_left()
        return problems

    def settled(self, ask):
        """The last answer that is empty, or what is still wrong after a while."""
        deadline = time.monotonic() + SETTLE_S_MAX
        while True:
            problems = ask()
            if not problems or time.monotonic() > deadline:
                return problems
            time.sleep(0.1)

    def check_place(self, migration):
        """Listed exactly once, where the outcome says; that is where the next round starts."""
        expected = self.other() if migration and migration["state"] == "COMPLETED" else self.where

        def ask():
            try:
                listed = [c for c in self.cluster.json("container", "ls")["containers"] if c["name"] == self.name]
            except (ClusterError, ValueError) as error:
                return [str(error)]
            if len(listed) != 1 or listed[0]["status"] != "running":
                return [f"the container is listed as {[(c['host'], c['status']) for c in listed]}"]
            self.where = listed[0]["host"]
            return []
        problems = self.settled(ask)
        # After a failed way back the container stays where all its writes are: the history says so.
        if not problems and self.where != expected and not (migration and "5F" in migration["path"]):
            problems.append(f"the container is on {self.where}, not on {expected}")
        return problems

    def check_copies(self):
        def ask():
            problems = []
            found = applications(self.cluster, self.name)
            if [(host, state in "TtD") for host, _, state in found] != [(self.where, False)]:
                problems.append(f"copies of the application: {found}, expected one that runs on {self.where}")
            for host, processes in copies_of(self.cluster, self.name).items():
                if host != self.where:
                    problems.append(f"processes on {host}: {processes}")
            for host in self.cluster.hosts:
                listed = subprocess.run(["runc", "--root", self.cluster.path("runc", host), "list", "-f", "json"], capture_output=True, text=True, check=False)
                instances = [i["id"] for i in json.loads(listed.stdout or "[]") or []]
                if len(instances) != (host == self.where):
                    problems.append(f"the runtime on {host} has {instances}")
            return problems
        return self.settled(ask)

    def check_client(self, migration):
        explained = migration is not None and int(migration["lost_service_ms"]) > 0
        first = self.client.report()
        seen = first
        deadline = time.monotonic() + 30
        while seen and not seen["error"] and seen["last"] < first["last"] + WRITES and time.monotonic() < deadline:
            time.sleep(0.05)
            seen = self.client.report()
        problems = []
        if not seen or seen["error"] or seen["last"] < first["last"] + WRITES:
            problems.append(f"the client's connection: {seen['error'] if seen and seen['error'] else 'no more replies'}")
        found = self.counter()
        if seen and found < seen["last"]:
            problems.append(f"the client has an acknowledgement of {seen['last']}, the counter is {found}")
        self.gap_text = f"longest wait {seen['longest_gap_ms']:.0f} ms" if seen else "no client"
        if problems:
            self.new_client()
            if explained:
                self.report.say(f"    explained by the history (lost_service_ms): {'; '.join(problems)}")
                problems = []
        self.client.reset()
        return problems

    def check_left(self):
        return self.settled(lambda: [f"left over: {entry}" for entry in self.cluster.leftovers()])

    # ------------------------------------------------------------------ the two kinds of rounds

    def measure(self):
        """What a migration takes when nobody is killed: the instants are spread over it."""
        for strategy in ("live", "post-copy", "cold"):
            started = time.monotonic()
            migration = self.cluster.migrate(self.name, self.other(), "--strategy", strategy)
            if migration["state"] != "COMPLETED":
                raise ClusterError(f"a migration without any fault failed: {migration['error_message']}")
            self.where = self.other()
            self.typical_s[strategy] = time.monotonic() - started
        self.report.say(f"chaos: seed {self.arguments.seed}; undisturbed, post-copy takes {self.typical_s['post-copy']:.2f} s, cold {self.typical_s['cold']:.2f} s")

    def random_round(self, victim):
        strategy = self.random.choice(("live", "live", "post-copy", "cold"))
        instant = self.random.uniform(0, self.typical_s[strategy])

        def kill(daemon):
            time.sleep(instant)
            daemon.kill()
        self.round(victim, strategy, kill, f"{victim} killed {instant:.3f} s into {strategy}")

    def cut_round(self, strategy):
        """A host is cut off for a while: nobody is told, packets are just gone."""
        host, instant, length = self.random.choice(("src", "dst")), self.random.uniform(0, self.typical_s[strategy]), self.random.uniform(0.05, CUT_S_MAX)

        def cut(_):
            time.sleep(instant)
            self.cluster.lab.cut(host)
            try:
                time.sleep(length)
            finally:
                self.cluster.lab.heal(host)
        self.round("manager", strategy, cut, f"{host} cut off for {length:.2f} s {instant:.3f} s into {strategy}")

    def damage_round(self):
        """One chunk of pages arrives damaged."""
        nth = self.random.randrange(1, CHUNKS)
        agent = self.daemon("source agent")
        self.cluster.restart(agent, {"FLEXIMIGRATE_FAULT": f"stream-corrupt@{nth}=fail"})
        self.cluster.wait_online()
        self.round("source agent", "live", lambda _: None, f"chunk {nth} of live damaged")
        self.cluster.restart(agent)
        self.cluster.wait_online()

    def fault_round(self):
        kind = self.random.choice(("cut", "cut", "damage", "source agent", "destination agent", "manager"))
        if kind == "cut":
            self.cut_round(self.random.choice(("live", "live", "post-copy")))
        elif kind == "damage":
            self.damage_round()
        else:
            self.random_round(kind)

    def point_round(self, point, victim):
        strategy = "post-copy"
        daemon = self.daemon(victim)
        self.cluster.restart(daemon, {"FLEXIMIGRATE_FAULT": f"{point}=kill"})
        self.cluster.wait_online()
        reached = True

        def kill(armed):
            nonlocal reached
            try:
                armed.process.wait(60)
            except subprocess.TimeoutExpired:
                reached = False
                armed.kill()
        self.round(victim, strategy, kill, f"{victim} at {point}")
        if not reached:
            self.report.check([f"the fault point {point} was not reached"], f"{point} is reached")

    def run(self):
        self.cluster.run_redis(self.name, "src")
        if self.arguments.mb:
            self.cluster.load_redis(CONTAINER_IP, self.arguments.mb)
        self.new_client()
        self.measure()
        points = [entry for entry in POINTS if self.arguments.points or (self.arguments.short and entry[0] in SHORT_POINTS)]
        if self.arguments.point:
            points = [entry for entry in POINTS if entry[0] in self.arguments.point]
        for point, victim in points:
            self.point_round(point, victim)
        for victim in VICTIMS:
            for _ in range(self.arguments.count):
                self.random_round(victim)
        for _ in range(self.arguments.faults):
            self.fault_round()
        last = self.client.finish()
        self.report.check([] if not last["error"] and self.counter() == last["last"] else [f"at the end: client {last}, counter {self.counter()}"],
                          "every acknowledged write is found")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, help="random rounds for each victim (default 10; --short 2; with --point(s) 0)")
    parser.add_argument("--faults", type=int, default=None, help="rounds of any fault, one after the other: links, pages, processes (default 0; --short 4)")
    parser.add_argument("--seed", type=int, default=None, help="of the random instants (default: a new one, printed)")
    parser.add_argument("--short", action="store_true", help="two random rounds a victim and a few fault points")
    parser.add_argument("--points", action="store_true", help="every fault point once")
    parser.add_argument("--point", action="append", help="this fault point (repeatable)")
    parser.add_argument("--mb", type=int, default=16, help="data in Redis, MB (default 16)")
    parser.add_argument("--tap", action="store_true", help="print TAP lines")
    parser.add_argument("--stop", action="store_true", help="stop at the first violation")
    parser.add_argument("--keep", action="store_true", help="with --stop: keep everything for inspection")
    arguments = parser.parse_args()
    if arguments.count is None:
        arguments.count = 2 if arguments.short else 0 if arguments.points or arguments.point else 10
    if arguments.faults is None:
        arguments.faults = 4 if arguments.short else 0
    if arguments.seed is None:
        arguments.seed = random.SystemRandom().randrange(1 << 32)
    name = f"chaos{os.getpid() % 100000}"
    report = Report(arguments.tap)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    chaos = None
    try:
        with Cluster(name, keep_on_failure=arguments.keep) as cluster:
            chaos = Chaos(cluster, arguments, report)
            chaos.run()
    except KeyboardInterrupt:
        report.check(["interrupted"], "the run came to its end")
    except Exception as error:  # pylint: disable=broad-except
        report.check([f"{type(error).__name__}: {error}"], "the run came to its end")
    if not (arguments.keep and report.failed):
        found = [entry for entry in system_leftovers(name) if not entry.startswith("cgroup ") or name in entry]
        report.check([f"left on the machine: {entry}" for entry in found], "nothing is left on the machine")
    if arguments.tap:
        print(f"1..{report.number}")
    report.say(f"took {time.monotonic() - started:.0f} s")
    print(f"{'# ' if arguments.tap else ''}chaos: rounds={chaos.rounds if chaos else 0} violations={report.failed}", flush=True)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
