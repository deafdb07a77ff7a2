#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Plans in a running cluster of three hosts: a host is cordoned, drained by a deadline with clients connected, two are at once, and one that a real load overloads is balanced, and relieved unasked.

The hosts are network namespaces of one machine, so /proc/stat would say the same of all of them. Each host's agent therefore sees one of its own, written from what the host's control groups have used (as
lxcfs does for containers): the load is real, and is where its containers are.

What burns has a quota, and all of it together is half of the machine: so it gets what it wants, however busy the machine is with other things, and a host's use is what the test says. Nothing waits for means to
forget: a manager that is started anew has none of the time before.
"""

import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from common import STRETCH, Cluster, Resident, Skip, Tap, arguments, expect, lab_name, unwind_on_signal  # noqa: E402
from cluster import MANAGER_HOST, system_leftovers  # noqa: E402

HOSTS = ("a", "b", "c")
DEADLINE_S = 90
LIMITS = ("--memory-threshold", "100")  # memory is the whole machine's, and not what this is about
BURN = ["/bin/sh", "-c", "while :; do :; done"]
QUIET_S = 15  # three times as long as a host has to be over before it is acted on
SUSTAIN_S = 5
BURNERS = 3
BURNT = 36  # percent of all processors, by all burners together: as much as there is also beside other work
THRESHOLD = 30  # and proactive moves end 10 below: two of three leave, each to a host of its own, and 8 are left for everything else
CALM = 20
PERIOD_US = 100000


class Stat:
    """Writes a /proc/stat for each host, of what its control group has used of all processors."""

    def __init__(self, cluster):
        self.cluster, self.over = cluster, threading.Event()
        self.began = time.monotonic()
        os.makedirs(cluster.path("stat"))
        for host in HOSTS:
            self.write(host)
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        for host in HOSTS:
            self.cluster._run(*self.cluster.enter_mounts(host), "mount", "--bind", self.cluster.path("stat", host), "/proc/stat")
        self.thread.start()
        for host in HOSTS:  # an agent may have opened the other one
            self.cluster.restart(self.cluster.agents[host])
        self.cluster.wait_online()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def used_s(self, host):
        group = f"fleximigrate/{self.cluster.name}/{host}"
        for path, scale in ((f"/sys/fs/cgroup/cpuacct/{group}/cpuacct.usage", 1e9), (f"/sys/fs/cgroup/cpu,cpuacct/{group}/cpuacct.usage", 1e9), (f"/sys/fs/cgroup/{group}/cpu.stat", 1e6)):
            try:
                with open(path, encoding="ascii") as file:
                    words = file.read().split()
                return int(words[1] if words[0] == "usage_usec" else words[0]) / scale
            except (OSError, ValueError, IndexError):
                continue
        return 0.0

    def write(self, host):
        """Written in place: another file would not be the one that is mounted."""
        ticks = os.sysconf("SC_CLK_TCK")
        busy = int(self.used_s(host) * ticks)
        processors = os.cpu_count()
        idle = max(0, int((time.monotonic() - self.began + 1000) * ticks * processors) - busy)
        line = f"{busy} 0 0 {idle} 0 0 0 0 0 0"
        each = "".join(f"cpu{number} {busy // processors} 0 0 {idle // processors} 0 0 0 0 0 0\n" for number in range(processors))
        text = f"cpu  {line}\n{each}intr 0\nctxt 0\nbtime 0\nprocesses 1\nprocs_running 1\nprocs_blocked 0\n".ljust(2048, "\n")
        fd = os.open(self.cluster.path("stat", host), os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def run(self):
        while not self.over.wait(0.2):
            for host in HOSTS:
                self.write(host)


class Plans:
    def __init__(self, cluster, tap, options):
        self.cluster, self.tap, self.options = cluster, tap, options
        self.residents = []
        self.burners = [f"burn{number}" for number in range(BURNERS)]

    def cli(self, *argv, timeout=200):
        return self.cluster.cli(*argv, check=False, timeout=timeout)

    def where(self, name):
        return self.cluster.container(name)["host"]

    def cpu(self, host):
        usage = self.cluster.json("host", "show", host).get("usage") or {}
        return None if 2 in usage.get("unknown", []) or "cpu_percent" not in usage else float(usage["cpu_percent"])

    def quiet(self, host):
        used = self.cpu(host)
        return used is not None and used < CALM

    def need_usage(self):
        deadline = time.monotonic() + 20 * STRETCH
        while any(self.cpu(host) is None for host in HOSTS):
            if time.monotonic() > deadline:
                raise Skip("agents do not report what hosts use")
            time.sleep(0.2)

    def check_cordon(self):
        done = self.cli("migrate", self.residents[0].name, "--to", MANAGER_HOST)
        expect(done.returncode == 1 and "cordoned" in done.stdout + done.stderr, f"exit {done.returncode}: {done.stdout}{done.stderr}")
        self.cluster.restart(self.cluster.manager)
        self.cluster.wait_online((*HOSTS, MANAGER_HOST))
        expect(self.cluster.json("host", "show", MANAGER_HOST)["cordoned"], "forgotten by a restart")

    def check_dry_run(self):
        self.need_usage()
        plan = self.cluster.json("drain", "a", "--deadline", f"{DEADLINE_S}s", "--dry-run", *LIMITS)
        expect(len(plan["steps"]) == len(self.residents) and plan["complete"], f"{plan}")
        expect(all(step["to"] in ("b", "c") for step in plan["steps"]), f"{plan['steps']}")
        text = self.cluster.cli("drain", "a", "--deadline", "1s", "--dry-run", *LIMITS).stdout
        expect(text.startswith("Will not make it:"), text)
        expect(all(self.where(resident.name) == "a" for resident in self.residents) and not self.cluster.json("host", "show", "a")["cordoned"], "a dry run changed something")

    def check_drain(self):
        self.need_usage()
        began = time.monotonic()
        done = self.cli("drain", "a", "--deadline", f"{DEADLINE_S}s", *LIMITS)
        took = time.monotonic() - began
        expect(done.returncode == 0, f"exit {done.returncode}: {done.stdout}{done.stderr}")
        expect(took < DEADLINE_S * STRETCH, f"{took:.1f} s")
        self.tap.say(f"{len(self.residents)} containers were away after {took:.1f} s")
        for resident in self.residents:
            resident.check(self.where(resident.name))
        expect({self.where(resident.name) for resident in self.residents} <= {"b", "c"}, "somebody stayed")
        plan = self.cluster.json("plan", "ls")["plans"][0]
        expect(plan["state"] == "done" and all(step["state"] == "done" for step in plan["steps"]), f"{plan}")
        expect(self.cluster.json("host", "show", "a")["cordoned"], "the drained host is open")
        self.cluster.cli("host", "uncordon", "a")

    def check_two_drains(self):
        """Each finds the other one under way, and both do what they are for."""
        for host, resident in zip(("b", "c"), self.residents):
            if self.where(resident.name) != host:
                self.cluster.cli("migrate", resident.name, "--to", host)
        for host in ("b", "c"):  # before either plans: or one might fill the other
            self.cluster.cli("host", "cordon", host)
        self.need_usage()
        with ThreadPoolExecutor(2) as both:
            for done in both.map(lambda host: self.cli("drain", host, *LIMITS), ("b", "c")):
                expect(done.returncode == 0, f"exit {done.returncode}: {done.stdout}{done.stderr}")
        for resident in self.residents:
            expect(self.where(resident.name) == "a", f"{resident.name} is on {self.where(resident.name)}")
            resident.check("a")
        plans = self.cluster.json("plan", "ls")["plans"][:2]
        expect({plan["host"] for plan in plans} == {"b", "c"} and all(plan["state"] == "done" for plan in plans), f"{plans}")
        moved = [step["container"] for plan in plans for step in plan["steps"]]
        expect(sorted(moved) == sorted(resident.name for resident in self.residents), f"{moved}")
        for host in ("b", "c"):
            self.cluster.cli("host", "uncordon", host)

    def burn(self, name, host):
        bundle = self.cluster.make_bundle(name, BURN)
        path = os.path.join(bundle, "config.json")
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
        quota = PERIOD_US * os.cpu_count() * BURNT // 100 // len(self.burners)
        config["linux"].setdefault("resources", {})["cpu"] = {"quota": quota, "period": PERIOD_US}
        with open(path, "w", encoding="utf-8") as file:
            json.dump(config, file)
        self.cluster.cli("container", "run", name, "--host", host, "--bundle", bundle)

    def overload(self, *options):
        """What burns is all on b, and a third of it is too much. The manager that comes then, with these options, knows b as it is."""
        self.need_usage()
        for name in self.burners:
            self.burn(name, "b")
        self.cluster.wait("b is overloaded", lambda: (self.cpu("b") or 0) > THRESHOLD + 3, 60)
        manager = self.cluster.manager
        manager.stop()
        manager.argv = [*manager.argv, *options]
        manager.start()
        self.cluster.wait_online((*HOSTS, MANAGER_HOST))

    def end_burners(self):
        for name in self.burners:
            self.cluster.cli("container", "rm", "--force", name, check=False)

    def check_balance(self):
        self.overload()
        balance = ("balance", "--cpu-threshold", str(THRESHOLD), *LIMITS)
        # a container counts when its use is known
        self.cluster.wait("b is seen to be overloaded", lambda: any(step["from"] == "b" for step in self.cluster.json(*balance, "--dry-run")["steps"]), 120)
        done = self.cli(*balance, "--output", "json")  # exit 1: the host of the manager stays over, with what others do on this machine
        plan = json.loads(done.stdout)
        expect(plan["state"] == "done" and not [host for host in plan["over"] if host["name"] in HOSTS], lambda: f"{done.stdout}{done.stderr}")
        expect(any(step["from"] == "b" and step["state"] == "done" for step in plan["steps"]), lambda: f"nothing has left b: {done.stdout}")
        self.end_burners()
        self.cluster.wait("b is quiet again", lambda: self.quiet("b"), 60)

    def check_proactive(self):
        """The manager does it unasked, once."""
        before = len(self.cluster.json("plan", "ls")["plans"])
        self.end_burners()  # of a balance that failed
        self.overload("--proactive", "--proactive-period", "1s", "--proactive-time", f"{SUSTAIN_S}s", "--cpu-threshold", str(THRESHOLD), "--memory-threshold", "100")

        def relieved():
            plans = self.cluster.json("plan", "ls")["plans"]
            return len(plans) > before and plans[0]["kind"] == "proactive" and plans[0]["state"] == "done"
        self.cluster.wait("b is relieved", relieved, 90, lambda: json.dumps([self.cluster.json("host", "show", "b"), self.cluster.json("plan", "ls")["plans"][:1]]))
        moved = len(self.cluster.json("migration", "ls")["migrations"])
        places = {name: self.where(name) for name in self.burners}
        time.sleep(QUIET_S)  # what is looked for is that nothing happens
        expect(len(self.cluster.json("migration", "ls")["migrations"]) == moved and places == {name: self.where(name) for name in self.burners}, "it went on moving")

    def run(self):
        self.cluster.cli("host", "cordon", MANAGER_HOST)  # it sees what the whole machine uses
        for name in ("one", "two", "three"):
            self.residents.append(Resident(self.cluster, name, host="a"))
        for name, step in (("a cordoned host takes nothing, also after a restart", self.check_cordon), ("a dry run of a drain", self.check_dry_run), ("a drain by a deadline", self.check_drain), ("two drains at once", self.check_two_drains),
                           ("a host that is overloaded is balanced", self.check_balance), ("one that is overloaded is relieved unasked, once", self.check_proactive)):
            if self.options.only not in name:
                continue
            with self.tap.test(name):
                step()
        for resident in self.residents:
            with self.tap.test(f"{resident.name} and its client went through all of it"):
                resident.conclude(self.where(resident.name))


def main():
    options = arguments(__doc__)
    unwind_on_signal()
    tap = Tap("plans", options.tap)
    name = lab_name("plan")
    with Cluster(name, hosts=(*HOSTS, MANAGER_HOST), own_folders=("/srv",), keep_on_failure=options.keep) as cluster, Stat(cluster):
        Plans(cluster, tap, options).run()
    with tap.test("nothing is left"):
        left = system_leftovers(name)
        expect(not left, f"left over: {left}")
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
