#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The six scenarios of docs/LIFECYCLE.md, each by a real cause in a real cluster.

For each: its log lines in order, its path, the final state, a service that serves its client on the right host with every acknowledged write and
no reconnect, and nothing left behind on any host. Without --tap every scenario's log is printed; the last line is then
    scenarios: N/6
"""

import contextlib
import os
import re
import subprocess
import sys

from common import Cluster, Resident, Tap, agent_with, arguments, conclude, expect, expect_lines, lab_name, mend, small_disk, unwind_on_signal

AUTH_PORT = 8081
SERVICE_PORT = 6379
HEALTH_PORT = 8080
STALL_MS = 4000

MANAGER = r"\[MigrationManager\]: "


def received(name, to):
    return rf"INFO {MANAGER}Received migration request .*'{name}'.*'{to}'.* Initial State: PENDING\."


def planned(name, to):
    return [
        received(name, to),
        rf"INFO {MANAGER}Evaluating policies for migration request '.+'\.",
        rf"INFO {MANAGER}Policy check passed\. Transitioning: PENDING -> PLANNING\.",
        rf"INFO \[DecisionEngine\]: Analyzing workload and resources for '{name}'\. Optimal strategy: .+\.",
        rf"INFO \[ResourceAllocator\]: Allocating resources on destination '{to}'\.",
        rf"INFO {MANAGER}Migration plan generated for '{name}'\. Transitioning: PLANNING -> PREPARATION\.",
        rf"INFO \[ContainerManager\]: Preparing .+ on '{to}'\.",
    ]


def prepared(name, to):
    return planned(name, to) + [
        r"INFO \[NetworkManager\]: .+",
        rf"INFO \[StateSynchronizer\]: Initiating checkpoint process for '{name}'\.",
        rf"INFO {MANAGER}Preparation phase complete for '{name}'\. Transitioning: PREPARATION -> EXECUTION\.",
        rf"INFO \[StateSynchronizer\]: Starting .+ state transfer \(Checkpoint ID: .+\) for '{name}' to '{to}'\.",
    ]


def moved(name, to):
    return prepared(name, to) + [
        r"INFO \[StateSynchronizer\]: .+ state transfer complete\. Total data transferred: [0-9.]+ MB\.",
        rf"INFO \[ContainerManager\]: Restoring container '{name}' state on '{to}' from checkpoint '.+'\.",
        rf"INFO {MANAGER}State transfer and restoration complete for '{name}'\. Transitioning: EXECUTION -> VERIFICATION\.",
        rf"INFO \[ResourceMonitor\]: Performing post-migration checks for '{name}' on '{to}'\.",
    ]


def failed(state):
    return [
        rf"ERROR {MANAGER}.+ Transitioning: {state} -> FAILED\.",
        rf"INFO {MANAGER}.+ State: FAILED -> ROLLBACK\.",
    ]


END_FAILED = rf"INFO {MANAGER}.+ Final State: FAILED\."


def success(name, source, to):
    return moved(name, to) + [
        r"INFO \[NetworkManager\]: Verifying network connectivity .+",
        rf"INFO {MANAGER}.+ Verification passed for '{name}'\. Transitioning: VERIFICATION -> COMPLETED\.",
        rf"INFO {MANAGER}Finalizing migration '.+'\. Cleaning up source resources on '{source}'\.",
        rf"INFO {MANAGER}Migration of container '{name}' to '{to}' completed successfully\. Final State: COMPLETED\.",
    ]


def failure_in_pending(name, to):
    return [
        received(name, to),
        rf"ERROR {MANAGER}.*Initial validation failed .+ Reason: .+",
        *failed("PENDING"),
        rf"INFO {MANAGER}.*Minimal rollback required .+",
        END_FAILED,
    ]


def failure_in_planning(name, to, policy):
    return [
        received(name, to),
        rf"INFO {MANAGER}Policy check passed\. Transitioning: PENDING -> PLANNING\.",
        rf"INFO \[PolicyEnforcer\]: Checking policy '{policy}'\.",
        rf"WARN \[PolicyEnforcer\]: Migration request '.+' violates policy '{policy}'\. .+",
        *failed("PLANNING"),
        rf"INFO {MANAGER}.*No actions to roll back .+ Final State: FAILED\.",
    ]


def failure_in_preparation(name, to, component):
    return planned(name, to) + [
        rf"ERROR \[{component}\]: .+",
        *failed("PREPARATION"),
        r"INFO \[ContainerManager\]: Reverted .+",
        r"INFO \[NetworkManager\]: Reverted .+",
        END_FAILED,
    ]


def failure_in_execution(name, source, to):
    return prepared(name, to) + [
        r"ERROR \[StateSynchronizer\]: .+",
        *failed("EXECUTION"),
        rf"INFO \[ContainerManager\]: Ensuring container '{name}' remains operational on source '{source}'\. Aborting destination restore\.",
        r"INFO \[NetworkManager\]: Reverting .+",
        rf"INFO \[StateSynchronizer\]: Discarding partial state data on '{to}'\.",
        END_FAILED,
    ]


def failure_in_verification(name, source, to):
    return moved(name, to) + [
        r"WARN \[ResourceMonitor\]: .+",
        *failed("VERIFICATION"),
        rf"INFO \[ContainerManager\]: Halting container '{name}' on destination '{to}' and .*reactivate on source '{source}'\.",
        r"INFO \[NetworkManager\]: Reverting .+",
        rf"INFO {MANAGER}.*[Ss]ervice .*restored on source\. Migration failed\. Final State: FAILED\.",
    ]


class Scenarios:
    def __init__(self, cluster, tap, options):
        self.cluster, self.tap, self.options = cluster, tap, options
        self.results = {}

    def show(self, number, title, lines):
        if not self.options.tap:
            print(f"\n--- scenario {number}: {title}")
            print("\n".join(lines) + "\n", flush=True)

    @contextlib.contextmanager
    def scenario(self, number, title):
        """A scenario has passed when all its variants have."""
        if self.options.only not in f"{number} {title}":
            yield False
            return
        before = self.tap.failed
        with self.tap.test(f"scenario {number}: {title}"):
            try:
                yield True
            finally:
                mend(self.cluster)
        self.results[number] = self.results.get(number, True) and self.tap.failed == before

    def over(self, number, title, migration, path, patterns):
        """The migration's end: log, path, state, and that the history tells the same."""
        record, lines = self.cluster.wait_over(migration)
        self.show(number, title, lines)
        expect(record["path"] == path, f"path '{record['path']}', not '{path}': {record['error_message']}")
        final = "COMPLETED" if path.endswith("6N") else "FAILED"
        expect(record["state"] == final, f"state {record['state']}, not {final}")
        if final == "FAILED":
            expect(record["error_message"], "no reason is on record")
        expect_lines(lines, patterns)
        log = [line for line in self.cluster.manager.log().splitlines() if line in set(lines)]
        expect(len(log) >= len(lines), "the manager's log lacks lines of the history")
        return record

    # ------------------------------------------------------------------ 1, 2, 3

    def success(self):
        title = "success"
        with self.scenario(1, title) as wanted:
            if not wanted:
                return
            redis = Resident(self.cluster, "redis1")
            migration = self.cluster.start_migration("redis1", "dst")
            record = self.over(1, title, migration, "1N 2N 3N 4N 5N 6N", success("redis1", "src", "dst"))
            expect(record["wire_bytes"] > 0 and record["frozen_us"] > 0, "no figures")
            redis.conclude("dst")

    def source_offline(self):
        title = "failure in PENDING: the source host is offline"
        with self.scenario(2, title) as wanted:
            if not wanted:
                return
            redis = Resident(self.cluster, "redis2")
            self.cluster.agents["src"].stop()
            self.cluster.wait_offline("src")
            migration = self.cluster.start_migration("redis2", "dst")
            record = self.over(2, title, migration, "1F", failure_in_pending("redis2", "dst"))
            expect("offline" in record["error_message"], record["error_message"])
            redis.more_writes()  # an agent that is away does not matter to its containers
            mend(self.cluster)
            redis.conclude("src")

    def policy(self):
        title = "failure in PLANNING: a policy denies"
        with self.scenario(3, title) as wanted:
            if not wanted:
                return
            redis = Resident(self.cluster, "redis3", options=["--label", "fleximigrate.migrate=deny"])
            migration = self.cluster.start_migration("redis3", "dst")
            self.over(3, title, migration, "1N 2F 8N", failure_in_planning("redis3", "dst", "placement"))
            redis.conclude("src")

    # ------------------------------------------------------------------ 4

    def disk_full(self):
        """The destination's disk has no room for files (inodes: what the planner cannot foresee)."""
        title = "failure in PREPARATION: the destination's disk is full"
        with self.scenario(4, title) as wanted:
            if not wanted:
                return
            redis = Resident(self.cluster, "redis4a")
            with small_disk(self.cluster, "dst", "size=64m,nr_inodes=40"):
                migration = self.cluster.start_migration("redis4a", "dst")
                record = self.over(4, title, migration, "1N 2N 3F 8N", failure_in_preparation("redis4a", "dst", "StateSynchronizer"))
                expect(re.search(r"[Nn]o space left|disk", record["error_message"]), record["error_message"])
                redis.conclude("src")

    def address_taken(self):
        """Another machine on the destination's bridge has the address of the container already."""
        title = "failure in PREPARATION: another machine has the address"
        with self.scenario(4, title) as wanted:
            if not wanted:
                return
            redis = Resident(self.cluster, "redis4b")
            with squatter(self.cluster, "dst", redis.ip):
                migration = self.cluster.start_migration("redis4b", "dst")
                record = self.over(4, title, migration, "1N 2N 3F 8N", failure_in_preparation("redis4b", "dst", "NetworkManager"))
                expect(redis.ip in record["error_message"], record["error_message"])
            redis.conclude("src")

    def bridge_missing(self):
        title = "failure in PREPARATION: the destination's bridge is missing"
        with self.scenario(4, title) as wanted:
            if not wanted:
                return
            redis = Resident(self.cluster, "redis4c")
            with agent_with(self.cluster, "dst", options=["--bridge", "br9"]):
                migration = self.cluster.start_migration("redis4c", "dst")
                record = self.over(4, title, migration, "1N 2N 3F 8N", failure_in_preparation("redis4c", "dst", "NetworkManager"))
                expect("br9" in record["error_message"], record["error_message"])
                redis.conclude("src")

    # ------------------------------------------------------------------ 5

    def criu_dies(self):
        """kill -9 of the CRIU that waits on the destination for its checkpoint. The stall makes sure that it waits long enough to be found."""
        title = "failure in EXECUTION: CRIU dies on the destination"
        with self.scenario(5, title) as wanted:
            if not wanted:
                return
            redis = Resident(self.cluster, "redis5a")
            with agent_with(self.cluster, "dst", fault=f"destination-after-prepare=stall:{STALL_MS}"):
                migration = self.cluster.start_migration("redis5a", "dst")
                self.cluster.wait("CRIU stands ready on dst", lambda: journal_tells(self.cluster, "dst", "destination", migration, "criu"), 30)
                for pid in criu_of(self.cluster, "dst"):
                    os.kill(pid, 9)
                self.over(5, title, migration, "1N 2N 3N 4F 8N", failure_in_execution("redis5a", "src", "dst"))
                redis.conclude("src")

    def link_cut(self):
        """Nobody tells anybody: the source has to notice the silence."""
        title = "failure in EXECUTION: the destination's link is cut"
        with self.scenario(5, title) as wanted:
            if not wanted:
                return
            redis = Resident(self.cluster, "redis5b")
            with agent_with(self.cluster, "dst", fault=f"destination-before-restore=stall:{STALL_MS}"):
                migration = self.cluster.start_migration("redis5b", "dst")
                self.cluster.wait("the source is frozen", lambda: journal_tells(self.cluster, "src", "source", migration, "FROZEN"), 30)
                with link_cut(self.cluster, "dst"):
                    self.cluster.wait_state(migration, "ROLLBACK")
                    # The service comes first: it is back before anybody can talk to the destination again.
                    redis.more_writes()
                self.over(5, title, migration, "1N 2N 3N 4F 8N", failure_in_execution("redis5b", "src", "dst"))
                redis.conclude("src")

    def agent_dies(self):
        title = "failure in EXECUTION: the destination's agent is killed"
        with self.scenario(5, title) as wanted:
            if not wanted:
                return
            redis = Resident(self.cluster, "redis5c")
            with agent_with(self.cluster, "dst", fault=f"destination-before-restore=stall:{STALL_MS}"):
                migration = self.cluster.start_migration("redis5c", "dst")
                self.cluster.wait("the source is frozen", lambda: journal_tells(self.cluster, "src", "source", migration, "FROZEN"), 30)
                self.cluster.agents["dst"].kill()
                self.cluster.wait_state(migration, "ROLLBACK")
                redis.more_writes()
                self.cluster.agents["dst"].start()
                self.over(5, title, migration, "1N 2N 3N 4F 8N", failure_in_execution("redis5c", "src", "dst"))
                redis.conclude("src")

    # ------------------------------------------------------------------ 6

    def health_fails(self, strategy):
        """The service's health depends on another one that the source's network reaches and the destination's firewall keeps away."""
        title = f"failure in VERIFICATION: HTTP 503 on the destination ({strategy})"
        name = "shop" + strategy[:1]
        with self.scenario(6, title) as wanted:
            if not wanted:
                return
            with auth_service(self.cluster, "src") as address, firewall(self.cluster, "dst", AUTH_PORT):
                command = ["python3", "/counter.py", "--port", str(SERVICE_PORT), "--health", str(HEALTH_PORT), "--depends", f"{address}:{AUTH_PORT}"]
                shop = Resident(self.cluster, name, command=command, python=True, options=["--health", f"http:{HEALTH_PORT}/healthz", "--health-attempts", "6"])
                migration = self.cluster.start_migration(name, "dst", "--strategy", strategy)
                self.cluster.wait_state(migration, "VERIFICATION")
                shop.more_writes()  # acknowledged by the destination: they have to come back
                expect(self.cluster.migration(migration)["state"] == "VERIFICATION", "the test was too slow: nothing was written on the destination")
                record = self.over(6, title, migration, "1N 2N 3N 4N 5F 8N", failure_in_verification(name, "src", "dst"))
                expect("503" in record["error_message"], record["error_message"])
                expect(record["lost_service_ms"] == 0, "service time was given up, though the destination's tree lived")
                shop.conclude("src")

    def run(self):
        self.success()
        self.source_offline()
        self.policy()
        self.disk_full()
        if not self.options.short:
            self.address_taken()
            self.bridge_missing()
        self.criu_dies()
        if not self.options.short:
            self.link_cut()
            self.agent_dies()
            self.health_fails("cold")
        self.health_fails("post-copy")


# ---------------------------------------------------------------------- causes

def bridge_rules(cluster, host, table, *rules):
    """What that host's bridge does not forward."""
    text = "\n".join([f"table bridge {table} {{", "chain forward {", "type filter hook forward priority 0", *rules, "}", "}", ""])
    cluster.lab.run(host, ["nft", "-f", "-"], input=text)


@contextlib.contextmanager
def squatter(cluster, host, ip):
    """Somebody else's machine on that host's bridge, with that address."""
    netns = cluster.lab.netns(host)
    other = f"{cluster.name}-other"
    subprocess.run(["ip", "netns", "add", other], check=True)
    try:
        for command in (f"link add sq0 type veth peer name eth0 netns {other}", "link set sq0 master br0 up"):
            subprocess.run(["ip", "-netns", netns, *command.split()], check=True)
        for command in ("link set eth0 address 02:66:00:00:00:01 up", f"addr add {ip}/24 dev eth0"):
            subprocess.run(["ip", "-netns", other, *command.split()], check=True)
        # Only this bridge hears it: the container's own clients are not to be confused by the test.
        bridge_rules(cluster, host, "squatter", "iifname sq0 oifname eth0 drop", "iifname eth0 oifname sq0 drop")
        yield
    finally:
        subprocess.run(["ip", "netns", "del", other], check=False)
        subprocess.run(["ip", "-netns", netns, "link", "del", "sq0"], check=False, capture_output=True)
        cluster.lab.run(host, ["nft", "delete", "table", "bridge", "squatter"], check=False)


def criu_of(cluster, host):
    """The CRIU processes below that host's agent."""
    agent = cluster.agents[host].process.pid
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/status", encoding="utf-8") as file:
                status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                command = file.read().split(b"\0")
        except OSError:
            continue
        if b"swrk" in command and int(status["PPid"]) == agent:
            found.append(int(pid))
    return found


def journal_tells(cluster, host, role, migration, word):
    try:
        with open(cluster.path("state", host, "migrations", f"{migration}.{role}.journal"), encoding="utf-8") as file:
            return f'"{word}"' in file.read()
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def link_cut(cluster, host):
    cluster.lab.cut(host)
    try:
        yield
    finally:
        cluster.lab.heal(host)


@contextlib.contextmanager
def auth_service(cluster, host):
    """Something that accepts connections on that host."""
    address = cluster.lab.address(host)
    server = cluster.lab.popen(host, [sys.executable, "-c", f"import socket; s = socket.create_server(('{address}', {AUTH_PORT}))\nwhile True: s.accept()[0].close()"])
    try:
        yield address
    finally:
        server.kill()
        server.wait()


@contextlib.contextmanager
def firewall(cluster, host, port):
    """That host lets no container reach this port."""
    bridge_rules(cluster, host, "guard", f"tcp dport {port} drop")
    try:
        yield
    finally:
        cluster.lab.run(host, ["nft", "delete", "table", "bridge", "guard"], check=False)


def main():
    options = arguments(__doc__)
    unwind_on_signal()
    name = lab_name("sc")
    tap = Tap("scenarios", options.tap)
    with Cluster(name, keep_on_failure=options.keep) as cluster:
        scenarios = Scenarios(cluster, tap, options)
        scenarios.run()
    code = conclude(tap, name)
    if not options.tap:
        print(f"scenarios: {sum(scenarios.results.values())}/6", flush=True)
        return 0 if code == 0 and sum(scenarios.results.values()) == 6 else 1
    return code


if __name__ == "__main__":
    sys.exit(main())
