#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Policies in a real cluster: denied by an expression, by a window, for what is not known; approval and its notice; a duration that is over; the queue and its order; reading them again.

Denied and failed migrations leave the container where it was, with every acknowledged write and its client connected, and nothing behind. --short leaves out the slower ones.
"""

import contextlib
import json
import os
import signal
import sys
import time

from common import Cluster, Resident, Tap, agent_with, arguments, conclude, expect, expect_lines, lab_name, mend, no_leftovers, unwind_on_signal

STALL_MS = 6000
EXAMPLES = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "examples", "policies")
NONE = "[]\n"


class Policies:
    def __init__(self, cluster, tap, options):
        self.cluster, self.tap, self.options = cluster, tap, options

    def rules(self, text, refused=None):
        """The manager reads them again; what it says about it is in its log."""
        with open(self.cluster.path("policies", "rules.yaml"), "w", encoding="utf-8") as file:
            file.write(text)
        before = len(self.cluster.manager.log())
        self.cluster.manager.process.send_signal(signal.SIGHUP)
        said = "The changed policies are refused, those from before hold" if refused else "The policies were read again"
        self.cluster.wait("the policies are read again", lambda: said in self.cluster.manager.log()[before:], 10)
        expect(not refused or refused in self.cluster.manager.log()[before:], f"the log does not say '{refused}'")

    @contextlib.contextmanager
    def case(self, name):
        if self.options.only not in name:
            yield None
            return
        with self.tap.test(name):
            try:
                yield Resident(self.cluster, f"redis{self.tap.number + 1}")
            finally:
                mend(self.cluster)

    def denied(self, redis, policy, reason, *options):
        migration = self.cluster.start_migration(redis.name, "dst", *options)
        record, lines = self.cluster.wait_over(migration)
        expect(record["path"] == "1N 2F 8N", f"path {record['path']}: {record['error_message']}")
        expect(reason in record["error_message"] and policy in record["error_message"], record["error_message"])
        expect_lines(lines, [rf"INFO \[PolicyEnforcer\]: Checking policy '.+'\.", rf"WARN \[PolicyEnforcer\]: Migration request '.+' violates policy '{policy}'\. .+",
                             r"ERROR \[MigrationManager\]: .+ Transitioning: PLANNING -> FAILED\.", r"INFO \[MigrationManager\]: No actions to roll back for .+ Final State: FAILED\."])
        words = self.cluster.cli("policy", "explain", migration).stdout
        expect("Denied" in words and reason in words, words)
        decision = self.cluster.json("policy", "explain", migration)
        expect(decision["allowed"] is False, decision)
        return decision

    def by_expression(self):
        with self.case("denied by an expression, and by what is not known") as redis:
            if not redis:
                return
            self.rules("policy_name: nested_stay\nCONDITIONS: nested and container == '" + redis.name + "' and destination_host == 'dst'\nACTIONS: [deny_migration]\n")
            decision = self.denied(redis, "nested_stay", "it denies: nested")
            expect(decision["variables"]["container"] == redis.name and decision["variables"]["nested"] is True, decision)
            self.rules("policy_name: gold_only\nCONDITIONS: label('tier') == 'gold'\nACTIONS: [allow_migration]\n")
            decision = self.denied(redis, "default", "no policy allows it; 'gold_only'")
            expect(decision["labels"] == {'label("tier")': ""}, decision)
            self.rules("policy_name: predicted\nCONDITIONS: predicted_cpu > 80\nACTIONS: [allow_migration]\n")
            self.denied(redis, "predicted", "'predicted_cpu' is not known")
            redis.conclude("src")

    def by_window(self):
        with self.case("denied outside a window, allowed inside") as redis:
            if not redis:
                return
            days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
            day = (time.gmtime().tm_wday + 3) % 7
            text = "policy_name: window\nACTIONS: [allow_migration]\nCONSTRAINTS: {windows: [{days: [%s], utc_offset: \"+00:00\"}]}\n"
            self.rules(text % days[day])
            self.denied(redis, "window", "outside its windows")
            self.rules(text % ", ".join(days[:day] + days[day + 1:]))
            record, _ = self.cluster.wait_over(self.cluster.start_migration(redis.name, "dst"))
            expect(record["path"] == "1N 2N 3N 4N 5N 6N", record["error_message"])
            redis.conclude("dst")

    def approval(self):
        with self.case("approval is waited for, and somebody is told") as redis, Listener(self.cluster) as listener:
            if not redis:
                return
            self.rules(f"policy_name: ask\nACTIONS: [require_approval, 'notify(\"{listener.url}\")']\n")
            migration = self.cluster.start_migration(redis.name, "dst")
            self.cluster.wait("it waits", lambda: self.cluster.migration(migration)["sub_state"] == "AWAITING_APPROVAL", 30)
            expect("PLANNING (AWAITING_APPROVAL)" in self.cluster.cli("migration", "ls").stdout, "the list does not say that it waits")
            no_leftovers(self.cluster)
            self.cluster.restart(self.cluster.manager)  # kill -9: it is asked once more
            self.cluster.wait_online()
            self.cluster.wait("it waits again", lambda: self.cluster.migration(migration)["sub_state"] == "AWAITING_APPROVAL", 30)
            self.cluster.cli("migration", "approve", migration)
            record, _ = self.cluster.wait_over(migration)
            expect(record["path"] == "1N 2N 3N 4N 5N 6N" and record["approved_unix_ms"] > 0, record["error_message"])
            self.cluster.wait("the notices arrived", lambda: [n["outcome"] for n in listener.heard()][-1:] == ["allowed"], 15)
            expect(all(n["policy"] == "ask" and n["migration"] == migration and n["container"] == redis.name for n in listener.heard()), listener.heard())
            expect(self.cluster.cli("migration", "approve", migration, check=False).returncode == 5, "a finished one is approved")
            self.rules("policy_name: ask\nACTIONS: [require_approval]\n")
            migration = self.cluster.start_migration(redis.name, "src")
            self.cluster.wait("it waits", lambda: self.cluster.migration(migration)["sub_state"] == "AWAITING_APPROVAL", 30)
            self.cluster.cli("migration", "cancel", migration)
            record, _ = self.cluster.wait_over(migration)
            expect(record["path"] == "1N 2F 8N" and record["error_message"] == "cancelled", record["error_message"])
            redis.conclude("dst")

    def duration(self):
        with self.case("a migration that is over its duration is rolled back") as redis:
            if not redis:
                return
            self.rules("policy_name: quick\nACTIONS: [allow_migration]\nCONSTRAINTS: {migration_duration: 2}\n")
            with agent_with(self.cluster, "dst", fault=f"destination-after-prepare=stall:{STALL_MS}"):
                record, _ = self.cluster.wait_over(self.cluster.start_migration(redis.name, "dst"))
                expect(record["state"] == "FAILED" and "5F" not in record["path"] and "8N" in record["path"], record["path"])
                expect("policy 'quick' allows (migration_duration 2 s)" in record["error_message"], record["error_message"])
            redis.check("src")
            record, _ = self.cluster.wait_over(self.cluster.start_migration(redis.name, "dst"))
            expect(record["path"] == "1N 2N 3N 4N 5N 6N", record["error_message"])  # without the stall there is time enough
            redis.conclude("dst")

    def queue(self):
        with self.case("more than may be at a time wait, the urgent one least") as redis:
            if not redis:
                return
            others = [Resident(self.cluster, name) for name in ("patient", "urgent")]
            self.rules("- policy_name: one\n  ACTIONS: [allow_migration]\n  CONSTRAINTS: {max_concurrent_migrations: {per_link: 1}}\n"
                       "- policy_name: first\n  CONDITIONS: container == 'urgent'\n  ACTIONS: ['set_priority(\"high\")']\n")
            with agent_with(self.cluster, "dst", fault=f"destination-after-prepare=stall:{STALL_MS}"):
                migrations = [self.cluster.start_migration(redis.name, "dst")]
                self.cluster.wait_state(migrations[0], "PREPARATION", "EXECUTION")
                for other in others:
                    migrations.append(self.cluster.start_migration(other.name, "dst"))
                    self.cluster.wait(f"{other.name} waits", lambda: self.cluster.migration(migrations[-1])["sub_state"] == "QUEUED", 30)
                listed = self.cluster.cli("migration", "ls", "--active").stdout
                expect(listed.count("PLANNING (QUEUED)") == 2, listed)
                records = [self.cluster.wait_over(migration)[0] for migration in migrations]
            expect(all(record["path"] == "1N 2N 3N 4N 5N 6N" for record in records), [record["error_message"] for record in records])
            began = [next(t["at_unix_ms"] for t in record["transitions"] if t["to"] == "PREPARATION") for record in records]
            ended = [record["finished_unix_ms"] for record in records]
            expect(began[0] < ended[0] <= began[2] < ended[2] <= began[1], f"begun {began}, ended {ended}")
            for resident in (redis, *others):
                resident.conclude("dst")

    def read_again(self):
        with self.case("policies that are wrong are refused with their place, the manager keeps those it has") as redis:
            if not redis:
                return
            self.rules("policy_name: stay\nACTIONS: [rollback]\n")
            self.rules("policy_name: stay\nACTIONS: [allow_migration]\nCONDITIONS: nestd\n", refused="rules.yaml:3:13: CONDITIONS of 'stay', line 1, column 1: there is no variable 'nestd'; is 'nested' meant?")
            self.denied(redis, "stay", "it denies")
            names = [policy["name"] for policy in self.cluster.json("policy", "ls")["policies"]]
            expect(names == ["stay"], names)
            done = self.cluster._run(self.cluster.program, "policy", "check", EXAMPLES)  # pylint: disable=protected-access
            expect("adaptive_load_balancing" in done.stdout, done.stdout)
            redis.conclude("src")

    def run(self):
        self.by_expression()
        self.by_window()
        self.approval()
        self.duration()
        if not self.options.short:
            self.queue()
        self.read_again()
        self.rules(NONE)


class Listener:
    """Hears notices, in the manager's host."""

    PORT = 8099
    PROGRAM = ("import http.server, sys\nclass H(http.server.BaseHTTPRequestHandler):\n def do_POST(self):\n  body = self.rfile.read(int(self.headers['Content-Length']))\n"
               "  open(sys.argv[2], 'ab').write(body + b'\\n')\n  self.send_response(204)\n  self.end_headers()\n def log_message(self, *a): pass\n"
               "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()\n")

    def __init__(self, cluster):
        self.cluster, self.path, self.process = cluster, cluster.path("notices"), None
        self.url = f"http://127.0.0.1:{self.PORT}/notices"

    def __enter__(self):
        self.process = self.cluster.lab.popen(self.cluster.manager.host, [sys.executable, "-c", self.PROGRAM, str(self.PORT), self.path])
        return self

    def heard(self):
        if not os.path.exists(self.path):
            return []
        with open(self.path, encoding="utf-8") as file:
            return [json.loads(line) for line in file.read().splitlines()]

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def with_policies(cluster):
    os.makedirs(cluster.path("policies"), exist_ok=True)
    with open(cluster.path("policies", "rules.yaml"), "w", encoding="utf-8") as file:
        file.write(NONE)
    return ["--policies", cluster.path("policies")]


def main():
    options = arguments(__doc__)
    unwind_on_signal()
    name = lab_name("policy")
    tap = Tap("policies", options.tap)
    with Cluster(name, keep_on_failure=options.keep, manager_options=with_policies) as cluster:
        Policies(cluster, tap, options).run()
    return conclude(tap, name)


if __name__ == "__main__":
    sys.exit(main())
