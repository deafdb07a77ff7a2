#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Bad input, bad hosts, bad moments: each is refused or fails with one clear line, the right exit code and the right path.

A Redis with a connected client lives through all of it on the source: after every case it still serves there over the same connection, and nothing is
left behind anywhere.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys

from common import (Cluster, Resident, Skip, Tap, agent_with, arguments, conclude, expect, expect_error, lab_name, mend, no_leftovers, small_disk, unwind_on_signal)

OLD_CRIU = r"""
#include <unistd.h>
/* Answers every request as CRIU 3.17 answers VERSION. It names the file that a real one keeps the kernel's features in. */
const char cache[] = "/run/criu.kdat";
int main(void)
{
	static const unsigned char answer[] = { 0x08, 10, 0x10, 1, 0x52, 4, 0x08, 3, 0x10, 17 };
	char request[65536];
	while (read(3, request, sizeof(request)) > 0)
		if (write(3, answer, sizeof(answer)) < 0)
			break;
	return cache[0] != '/';
}
"""
CRIU_PREFIX = "/opt/fleximigrate/criu"
STALL_MS = 6000


class Inputs:
    def __init__(self, cluster, tap, options):
        self.cluster, self.tap, self.options = cluster, tap, options
        self.redis = Resident(cluster, "redis")

    @contextlib.contextmanager
    def case(self, name):
        """Whatever it is, the resident does not notice."""
        if self.options.only not in name:
            yield False
            return
        with self.tap.test(name):
            yield True
            mend(self.cluster)
            self.redis.check("src")

    def cli(self, *argv):
        return self.cluster.cli(*argv, check=False, timeout=120)

    def refused(self, code, message, *argv, hint=None):
        """An error, no record of a migration, and the same as JSON."""
        before = len(self.cluster.json("migration", "ls")["migrations"])
        expect_error(self.cli(*argv), code, message, hint)
        done = self.cli(*argv, "--output", "json")
        said = json.loads(done.stdout)
        expect(done.returncode == code and re.search(message, said["error"]["message"]), f"as JSON: exit code {done.returncode}, {said}")
        expect(not done.stderr, f"on stderr: {done.stderr}")
        after = len(self.cluster.json("migration", "ls")["migrations"])
        expect(after == before, "a migration was recorded")

    def failed(self, path, reason, container, to, *options, hint=None):
        """A migration that is on record as FAILED; the command says why in one line."""
        done = self.cli("migrate", container, "--to", to, *options)
        expect(done.returncode == 1, f"exit code {done.returncode}, not 1: {done.stderr or done.stdout}")
        record = self.cluster.json("migration", "ls", "--limit", "1")["migrations"][0]
        expect((record["path"], record["state"]) == (path, "FAILED"), f"path {record['path']}, state {record['state']}, not {path}: {record['error_message']}")
        expect(re.search(reason, record["error_message"]), f"the reason\n  {record['error_message']}\ndoes not match\n  {reason}")
        lines = [line for line in done.stdout.splitlines() if line.startswith("  reason ")]
        expect(len(lines) == 1 and record["error_message"] in lines[0], f"the command says {lines}")
        if hint:
            expect(re.search(hint, record["error_hint"]), f"the hint '{record['error_hint']}' does not match {hint}")
        return record

    # ------------------------------------------------------------------ requests for what is not there

    def unknown_container(self):
        with self.case("an unknown container") as wanted:
            if wanted:
                self.failed("1F", "no container 'nosuch'", "nosuch", "dst")
                self.refused(3, "no container 'nosuch'", "migrate", "nosuch", "--to", "dst", "--dry-run")
                self.refused(3, "no container 'nosuch'", "container", "show", "nosuch")
                self.refused(3, "no container 'nosuch'", "container", "rm", "nosuch")

    def unknown_host(self):
        with self.case("an unknown host") as wanted:
            if wanted:
                self.failed("1F", "no host 'nowhere'", "redis", "nowhere")
                self.refused(3, "no host 'nowhere'", "migrate", "redis", "--to", "nowhere", "--dry-run")
                self.refused(3, "no host 'nowhere'", "host", "show", "nowhere")
                self.refused(3, "no host 'nowhere'", "container", "run", "other", "--host", "nowhere", "--bundle", "/tmp")

    def same_host(self):
        with self.case("the destination is the source") as wanted:
            if wanted:
                self.failed("1F", "'redis' is on 'src' already", "redis", "src")
                self.refused(2, "'redis' is on 'src' already", "migrate", "redis", "--to", "src", "--dry-run")

    def offline_host(self):
        with self.case("a destination that is offline") as wanted:
            if wanted:
                self.cluster.agents["dst"].stop()
                self.cluster.wait_offline("dst")
                self.failed("1F", "destination host 'dst' is offline", "redis", "dst", hint="agent")
                self.refused(4, "host 'dst' is offline", "container", "run", "other", "--host", "dst", "--bundle", self.cluster.path("bundles", "redis"), hint="agent")

    def unknown_migration(self):
        with self.case("an unknown migration") as wanted:
            if wanted:
                for verb in ("show", "watch", "cancel"):
                    self.refused(3, "m-000000000000", "migration", verb, "m-000000000000")

    def no_manager(self):
        with self.case("a manager that is not there") as wanted:
            if wanted:
                for verb in (["host", "ls"], ["migrate", "redis", "--to", "dst"]):
                    done = subprocess.run([self.cluster.program, *verb, "--manager", "unix:/nonexistent/manager.sock"], capture_output=True, text=True, timeout=60, check=False)
                    expect_error(done, 4, "/nonexistent/manager.sock")

    # ------------------------------------------------------------------ words

    def bad_words(self):
        with self.case("unknown verbs and options, bad values") as wanted:
            if not wanted:
                return
            for argv in (["frobnicate"], ["migration", "frobnicate"], ["container"], ["host", "sl"]):
                expect_error(subprocess.run([self.cluster.program, *argv], capture_output=True, text=True, check=False), 2, "there is no verb", "--help")
            nothing = subprocess.run([self.cluster.program], capture_output=True, text=True, check=False)
            expect(nothing.returncode == 2 and "Usage" in nothing.stderr, f"no verb at all: exit code {nothing.returncode}, {nothing.stderr[:100]}")
            for argv in (["migrate", "redis", "--to", "dst", "--fast"], ["migrate", "redis", "--to"], ["migrate", "--to", "dst"], ["migrate", "redis", "redis", "--to", "dst"],
                         ["migrate", "redis"], ["migrate", "redis", "--to", "dst", "--max-total-time", "soon"], ["migrate", "redis", "--to", "dst", "--timeout", "-5s"],
                         ["host", "ls", "surplus"], ["migration", "ls", "--limit", "many"], ["container", "rm"], ["migrate", "redis", "--to", "dst", "--dry-run=yes"]):
                expect_error(self.cli(*argv), 2, ".", "usage|shows")
            expect_error(self.cli("host", "ls", "--output", "yaml"), 2, "--output must be one of text, json|text\\|json, not 'yaml'")
            for name in ("../redis", "re dis", "x" * 64, ""):
                self.refused(2, "is not a container name", "migrate", name, "--to", "dst")
            self.refused(2, "is not a host name", "migrate", "redis", "--to", "d/st")

    def strategies(self):
        with self.case("strategies that do not exist, limits that mean nothing") as wanted:
            if wanted:
                self.refused(2, "smallest one", "migrate", "redis", "--to", "dst", "--strategy", "live", "--bandwidth", "10")
                self.refused(2, "longest one", "migrate", "redis", "--to", "dst", "--strategy", "pre-copy", "--max-downtime", "800h")
                self.refused(2, "highest one, 99 %", "migrate", "redis", "--to", "dst", "--strategy", "pre-copy", "--max-throttle", "100")
                self.refused(2, "highest one, 99 %", "migrate", "redis", "--to", "dst", "--strategy", "pre-copy", "--max-throttle", str(2 ** 32 + 50))
                self.refused(2, "more than there may be, 16", "migrate", "redis", "--to", "dst", "--strategy", "live", "--streams", "17")
                self.refused(2, "more than there may be, 16", "migrate", "redis", "--to", "dst", "--strategy", "live", "--streams", str(2 ** 32 + 1))
                self.refused(2, "fleximigrate.streams: 'many' is no number", "container", "run", "idle", "--host", "src", "--bundle", self.cluster.path("bundles", "redis"),
                             "--label", "fleximigrate.streams=many")
                self.refused(2, "fleximigrate.throttle: 'all' is no percentage", "container", "run", "idle", "--host", "src", "--bundle", self.cluster.path("bundles", "redis"),
                             "--label", "fleximigrate.throttle=all")
                self.refused(2, "warp", "migrate", "redis", "--to", "dst", "--strategy", "warp", hint="post-copy")

    # ------------------------------------------------------------------ containers

    def bundles(self):
        with self.case("malformed bundles") as wanted:
            if not wanted:
                return
            good = self.cluster.path("bundles", "redis", "config.json")
            with open(good, encoding="utf-8") as file:
                config = json.load(file)

            def without(*path):
                copy = json.loads(json.dumps(config))
                folder = copy
                for key in path[:-1]:
                    folder = folder[key]
                del folder[path[-1]]
                return json.dumps(copy)

            def with_(value, *path):
                copy = json.loads(json.dumps(config))
                folder = copy
                for key in path[:-1]:
                    folder = folder[key]
                folder[path[-1]] = value
                return json.dumps(copy)

            shared = [namespace for namespace in config["linux"]["namespaces"] if namespace["type"] != "pid"]
            cases = [
                ("no JSON", "{ \"ociVersion\": ", "line 1, column"),
                ("another kind of JSON", "[]", "not an object"),
                ("nothing", "", "config.json"),
                ("no root", without("root"), "root"),
                ("no program", without("process", "args"), "process.args"),
                ("a program that is no list", with_("redis-server", "process", "args"), "process.args"),
                ("no such folder", with_("elsewhere", "root", "path"), "elsewhere: No such file or directory"),
                ("a terminal", with_(True, "process", "terminal"), "terminal"),
                ("the host's processes", with_(shared, "linux", "namespaces"), "pid namespace"),
                ("a duplicate key", '{"ociVersion": "1.0.2", "ociVersion": "1.0.2"}', "duplicate"),
                ("too deep", "[" * 5000, "deep|config.json"),
            ]
            bundle = self.cluster.path("bundles", "bad")
            os.makedirs(os.path.join(bundle, "rootfs"), exist_ok=True)
            for what, text, message in cases:
                with open(os.path.join(bundle, "config.json"), "w", encoding="utf-8") as file:
                    file.write(text)
                done = self.cli("container", "run", "bad", "--host", "src", "--bundle", bundle)
                try:
                    expect_error(done, 3 if what == "no such folder" else 2, message)
                except Exception as error:
                    raise type(error)(f"{what}: {error}") from error
                no_leftovers(self.cluster)
            self.refused(3, "/nonexistent", "container", "run", "bad", "--host", "src", "--bundle", "/nonexistent")
            shutil.rmtree(bundle)
            expect([c["name"] for c in self.cluster.json("container", "ls")["containers"]] == ["redis"], "a container came into being")

    def run_options(self):
        with self.case("container run with bad options") as wanted:
            if not wanted:
                return
            bundle = self.cluster.path("bundles", "redis")
            run = ["container", "run", "other", "--host", "src", "--bundle", bundle]
            self.refused(2, "--bundle is missing", "container", "run", "other", "--host", "src")
            self.refused(2, "there are 3 hosts", "container", "run", "other", "--bundle", bundle, hint="--host")
            self.refused(2, "KEY=VALUE", *run, "--label", "deny")
            self.refused(2, "address", *run, "--address", "10.77.0.300/24")
            self.refused(2, "address", *run, "--address", "10.77.0.30")
            self.refused(2, "MAC|mac", *run, "--address", "10.77.0.30/24", "--mac", "02:77")
            self.refused(2, "IPv6", *run, "--address6", "fd77::30")
            self.refused(2, "is no NAME=VALUE", *run, "--endpoint", "10.77.0.30/24", hint="address6")
            self.refused(2, "same subnet", *run, "--endpoint", "address=10.77.0.30/24", "--endpoint", "address=10.77.0.31/24")
            self.refused(2, "both have a gateway", *run, "--endpoint", "address=10.77.0.30/24,gateway=10.77.0.3", "--endpoint", "address=10.78.0.30/24,gateway=10.78.0.3")
            self.refused(5, "br9 does not exist", *run, "--endpoint", "address=10.77.0.30/24", "--endpoint", "bridge=br9,address=10.78.0.30/24")
            self.refused(2, "health check", *run, "--health", "ftp:21", hint="tcp:PORT")
            self.refused(2, "health check", *run, "--health", "tcp:99999")
            self.refused(5, "in use|own|taken", *run, "--address", f"{self.redis.ip}/24")
            self.refused(2, "container name", "container", "run", "a b", "--host", "src", "--bundle", bundle)
            self.refused(5, "already has a container 'redis'|exists", "container", "run", "redis", "--host", "src", "--bundle", bundle, hint="rm")
            self.refused(5, "'redis' exists on host 'src'", "container", "run", "redis", "--host", "dst", "--bundle", bundle, hint="unique")

    def running(self):
        with self.case("rm of a running container without --force") as wanted:
            if wanted:
                self.refused(5, "'redis' is running on 'src'", "container", "rm", "redis", hint="--force")

    def stopped(self):
        with self.case("a container that has ended") as wanted:
            if not wanted:
                return
            bundle = self.cluster.make_bundle("brief", ["sh", "-c", "sleep 0.2; exit 3"])
            self.cluster.cli("container", "run", "brief", "--host", "src", "--bundle", bundle)
            self.cluster.wait("it has ended", lambda: self.cluster.container("brief")["status"] == "stopped")
            self.failed("1N 2F 8N", "'brief' cannot be moved: .*not running", "brief", "dst")
            expect(self.cli("container", "rm", "brief").returncode == 0, "rm of a stopped container without --force")

    def unmovable(self):
        """Somebody has a process in the container that is not the application's (docker exec does that)."""
        with self.case("a container with a process that would stay behind") as wanted:
            if not wanted:
                return
            root = self.cluster.path("runc", "src")
            subprocess.run(["runc", "--root", root, "exec", "--detach", "redis", "sleep", "1000"], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                self.failed("1N 2F 8N", "'redis' cannot be moved: .*sleep.*does not belong to the application", "redis", "dst")
                self.refused(5, "does not belong to the application", "migrate", "redis", "--to", "dst", "--dry-run")
            finally:
                for line in subprocess.run(["runc", "--root", root, "ps", "redis"], capture_output=True, text=True, check=True).stdout.splitlines():
                    if "sleep 1000" in line:
                        os.kill(int(line.split()[1]), 9)

    # ------------------------------------------------------------------ hosts

    def full_disk(self):
        with self.case("a destination whose disk is full") as wanted:
            if not wanted:
                return
            with small_disk(self.cluster, "dst", "size=2m"):
                self.failed("1N 2F 8N", "policy 'destination_capacity': .*disk", "redis", "dst")
            with small_disk(self.cluster, "dst", "size=64m,nr_inodes=25"):
                record = self.failed("1N 2N 3F 8N", "No space left on device", "redis", "dst")
                expect(record["error_code"] == 8, f"error code {record['error_code']}, not RESOURCE_EXHAUSTED")
                no_leftovers(self.cluster)
            with small_disk(self.cluster, "dst", "size=64m,nr_inodes=6"):
                done = self.cli("container", "run", "other", "--host", "dst", "--bundle", self.cluster.path("bundles", "redis"))
                expect_error(done, 7, "No space left on device|[Dd]isk")
                no_leftovers(self.cluster)

    def taken_address(self):
        """Somebody behind the destination's bridge has the container's address, with another MAC."""
        with self.case("a destination where the address is taken") as wanted:
            if not wanted:
                return
            with squatter(self.cluster.lab, "dst", self.redis.ip) as mac:
                for strategy in ("live", "cold"):
                    record = self.failed("1N 2N 3F 8N", f"address {re.escape(self.redis.ip)} is in use behind .* \\({mac}\\)", "redis", "dst", "--strategy", strategy, hint="ip neigh")
                    expect(record["error_phase"] == "network", f"phase {record['error_phase']}")
                    no_leftovers(self.cluster)

    def old_criu(self):
        with self.case("a destination whose CRIU is too old") as wanted:
            if not wanted:
                return
            prefix = self.cluster.path("old-criu")
            make_old_criu(prefix)
            with agent_with(self.cluster, "dst", options=["--criu-prefix", prefix]):
                self.cluster.wait("the manager knows", lambda: self.cluster.json("host", "show", "dst")["criu_problem"])
                self.failed("1N 2F 8N", "policy 'destination_readiness': .*CRIU 3.17.0 .*too old: 4.2.0", "redis", "dst", hint="doctor")
                findings = {finding["subject"]: finding for finding in self.cluster.doctor("dst")}
                expect(findings["criu"]["severity"] == "problem" and "install-criu.sh" in findings["criu"]["remedy"], f"doctor says {findings['criu']}")

    def no_criu(self):
        with self.case("a source without CRIU") as wanted:
            if not wanted:
                return
            with agent_with(self.cluster, "src", options=["--criu-prefix", "/nonexistent"]):
                self.failed("1N 2F 8N", "'redis' cannot be moved: .*CRIU", "redis", "dst")

    # ------------------------------------------------------------------ moments

    def at_once(self):
        with self.case("a second migration at once, rm in the middle, cancel") as wanted:
            if not wanted:
                return
            with agent_with(self.cluster, "dst", fault=f"destination-after-prepare=stall:{STALL_MS}"):
                first = self.cluster.start_migration("redis", "dst")
                self.cluster.wait_state(first, "PREPARATION")
                self.refused(5, f"'redis'.*{first}|{first}.*'redis'|under way", "migrate", "redis", "--to", "dst")
                self.refused(5, "'redis' is being migrated", "container", "rm", "--force", "redis", hint="migration ls --active")
                expect(self.cluster.migration(first)["state"] == "PREPARATION", "the test was too slow")
                done = self.cli("migration", "cancel", first)
                expect(done.returncode == 0, f"cancel: {done.stderr}")
                record, _ = self.cluster.wait_over(first)
                expect(record["path"] == "1N 2N 3F 8N" and record["error_message"] == "cancelled", f"path {record['path']}, {record['error_message']}")
                no_leftovers(self.cluster)
            self.refused(5, f"'{first}' is over: FAILED", "migration", "cancel", first)

    def interrupted(self):
        """Ctrl-C on a watched migration cancels it: 130."""
        with self.case("Ctrl-C on migrate") as wanted:
            if not wanted:
                return
            with agent_with(self.cluster, "dst", fault=f"destination-after-prepare=stall:{STALL_MS}"):
                process = subprocess.Popen([self.cluster.program, "migrate", "redis", "--to", "dst", "--manager", f"unix:{self.cluster.path('manager.sock')}"], stdout=subprocess.PIPE,
                                           stderr=subprocess.PIPE, text=True)
                self.cluster.wait("it is under way", lambda: any(m["state"] == "PREPARATION" for m in self.cluster.json("migration", "ls", "--active")["migrations"]))
                process.send_signal(2)
                out, _ = process.communicate(timeout=60)
                expect(process.returncode == 130, f"exit code {process.returncode}, not 130")
                expect("Final State: FAILED." in out and "cancelled" in out, out)

    def limit(self):
        with self.case("a limit of time that is too short") as wanted:
            if not wanted:
                return
            with agent_with(self.cluster, "dst", fault="destination-after-prepare=stall:1500"):
                self.failed("1N 2N 3F 8N", "--max-total-time", "redis", "dst", "--max-total-time", "1s")

    def run(self):
        for case in (self.unknown_container, self.unknown_host, self.same_host, self.unknown_migration, self.no_manager, self.bad_words, self.strategies, self.bundles, self.run_options,
                     self.running, self.stopped, self.unmovable, self.at_once, self.full_disk, self.taken_address, self.old_criu, self.offline_host):
            case()
        if not self.options.short:
            for case in (self.no_criu, self.interrupted, self.limit):
                case()
        with self.tap.test("the resident: every acknowledged write is there, one connection"):
            self.redis.conclude("src")


@contextlib.contextmanager
def squatter(lab, host, ip):
    """Yields its MAC."""
    netns, device = f"{lab.netns(host)}-squat", "squat0"
    subprocess.run(["ip", "netns", "add", netns], check=True)
    try:
        lab.run(host, ["ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", netns], check=True)
        lab.run(host, ["ip", "link", "set", device, "master", "br0", "up"], check=True)
        for words in (["address", "add", f"{ip}/24", "dev", "eth0"], ["link", "set", "eth0", "up"]):
            subprocess.run(["ip", "-n", netns, *words], check=True)
        link = json.loads(subprocess.run(["ip", "-n", netns, "-j", "link", "show", "eth0"], check=True, capture_output=True, text=True).stdout)
        yield link[0]["address"]
    finally:
        subprocess.run(["ip", "netns", "del", netns], check=True)


def make_old_criu(prefix):
    if not os.path.isdir(CRIU_PREFIX):
        raise Skip(f"{CRIU_PREFIX} is missing: run tools/setup/install-criu.sh")
    os.makedirs(os.path.join(prefix, "bin"))
    os.symlink(os.path.join(CRIU_PREFIX, "lib"), os.path.join(prefix, "lib"))
    subprocess.run(["gcc", "-x", "c", "-o", os.path.join(prefix, "bin", "criu"), "-"], input=OLD_CRIU, text=True, check=True)


def main():
    options = arguments(__doc__)
    unwind_on_signal()
    name = lab_name("in")
    tap = Tap("inputs", options.tap)
    with Cluster(name, keep_on_failure=options.keep) as cluster:
        Inputs(cluster, tap, options).run()
    return conclude(tap, name)


if __name__ == "__main__":
    sys.exit(main())
