#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What can be moved, and how: every strategy, nested and ordinary containers, processes, threads, files, output, the end after a move.

Each container has a client that increments its counter over one connection throughout. Nothing may be lost, doubled or left behind.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time

from common import REDIS, STRETCH, Cluster, Resident, Tap, agent_with, arguments, check_pages, clean_case, conclude, cpu_quota, expect, lab_name, no_leftovers, pages_resident, path_without, unwind_on_signal
from volumes import Volumes

ROUNDS_FACTOR = 3         # what rounds may send, of the memory's size: src/decision/converge.c
LINK_MB = 20              # a second
DIRTIER_S_MAX = 60
ROOTFS_BYTES_MAX = 8 << 20
HELD_MB = 80
OWN_MB_MAX = 24  # what such a program has besides
COUNTER = ["python3", "/counter.py"]
QUOTA_US = 190000  # of 100000: nearly two processors
# What a busy container changes all the time, and a downtime that this is too much for unless it is throttled. On a slow machine a round alone takes longer.
BUSY_MB, BUSY_DOWNTIME = (8, "100ms") if STRETCH == 1 else (32, "300ms")
TICKER = """
i=0
count() { while :; do i=$((i+1)); echo $i >>/data/$1; /bin/true; sleep 0.02; done; }
count first &
count second &
(count third) &
wait
"""


class Strategies:
    def __init__(self, cluster, tap, options):
        self.cluster, self.tap, self.options = cluster, tap, options

    def case(self, name):
        return clean_case(self.cluster, self.tap, self.options, name)

    def move(self, resident, to, strategy="auto", *options):
        record = self.cluster.migrate(resident.name, to, "--strategy", strategy, *options)
        expect(record["path"] == "1N 2N 3N 4N 5N 6N", lambda: f"{strategy} to {to}: path {record['path']}: {record['error_message']}")
        used = record["strategy"].lower().replace("_", "-")
        expect(used == strategy or strategy == "auto" and used != "auto", f"asked for {strategy}, was {used}")
        resident.check(to)
        return record

    # ------------------------------------------------------------------ network

    def two_endpoints(self):
        """Connections over IPv4 and IPv6, to either endpoint, stay what they are; a host that has no place for the second gets neither."""
        with self.case("two endpoints with IPv4 and IPv6 each: live, pre-copy, cold, post-copy; a host without the second network is refused") as wanted:
            if not wanted:
                return
            self.cluster.lab.add_network("br1", "10.78.0", "fd78::")
            redis = Resident(self.cluster, "redis", command=[part for word in REDIS for part in ((word, "::") if word == "0.0.0.0" else (word,))], ip="10.77.0.100", endpoints=(
                "address=10.77.0.100/24,address6=fd77::100/64,gateway6=fd77::3", "bridge=br1,interface=net1,address=10.78.0.100/24,address6=fd78::100/64"))
            clients = {ip: self.cluster.client(ip, key=f"counter of {ip}") for ip in ("fd77::100", "10.78.0.100", "fd78::100")}
            shown = self.cluster.container(redis.name)
            expect([shown["endpoint"]["address6"], shown["more_endpoints"][0]["address"]] == ["fd77::100/64", "10.78.0.100/24"], f"shown as {shown}")
            expect("10.77.0.100/24, fd77::100/64, 10.78.0.100/24, fd78::100/64" in self.cluster.cli("container", "ls").stdout, "an address is missing in the list")
            for to, strategy in (("dst", "live"), ("src", "pre-copy"), ("dst", "cold"), ("src", "post-copy")):
                record = self.move(redis, to, strategy)
                self.write_more(clients)
                self.tap.say(f"{strategy}: frozen for {record['frozen_us'] / 1000:.0f} ms")
            self.cluster.lab.run("dst", ["ip", "link", "delete", "br1"])
            record = self.cluster.migrate(redis.name, "dst", "--strategy", "live")
            expect(record["state"] == "FAILED" and "br1 does not exist" in record["error_message"], f"{record['state']}: {record['error_message']}")
            self.write_more(clients)
            for ip, client in clients.items():
                report = client.finish()
                expect(not report["error"], f"the connection to {ip}: {report['error']}")
                self.tap.say(f"{ip}: longest gap {report['longest_gap_ms']:.0f} ms")
                expect(int(redis.ask("GET", f"counter of {ip}")) == report["last"], f"{ip}: the last acknowledged write is {report['last']}")
            redis.conclude("src")

    def write_more(self, clients):
        for ip, client in clients.items():
            before = client.report()["acknowledged"]
            self.cluster.wait(f"the client of {ip} writes", lambda client=client, before=before: client.report()["acknowledged"] > before + 20, 30)

    # ------------------------------------------------------------------ nested

    def there_and_back(self):
        megabytes = 8 if self.options.short else 128
        with self.case(f"Redis with {megabytes} MB there and back: live, post-copy, pre-copy, cold, auto; its data is the same") as wanted:
            if not wanted:
                return
            redis = Resident(self.cluster, "redis")
            self.cluster.load_redis(redis.ip, megabytes)
            digest = self.cluster.redis(redis.ip, "DEBUG", "DIGEST-VALUE", *(f"key:{index}" for index in range(0, megabytes * 800, 97))).stdout
            for to, strategy in (("dst", "live"), ("src", "post-copy"), ("dst", "pre-copy"), ("src", "cold"), ("dst", "auto"), ("src", "live")):
                self.move(redis, to, strategy)
                found = self.cluster.redis(redis.ip, "DEBUG", "DIGEST-VALUE", *(f"key:{index}" for index in range(0, megabytes * 800, 97))).stdout
                expect(found == digest, f"the data after {strategy} to {to} is another")
            redis.conclude("src")

    def whole_digest(self):
        """Nobody writes: the digest of everything is comparable."""
        with self.case("Redis at rest there and back: the digest of everything") as wanted:
            if not wanted:
                return
            redis = Resident(self.cluster, "redis")
            self.cluster.load_redis(redis.ip, 4 if self.options.short else 64)
            report = redis.client.finish()
            expect(not report["error"], report["error"])
            before = self.cluster.redis_digest(redis.ip)
            for to, strategy in (("dst", "post-copy"), ("src", "live"), ("dst", "pre-copy"), ("src", "cold")):
                record = self.cluster.migrate("redis", to, "--strategy", strategy)
                expect(record["state"] == "COMPLETED", record["error_message"])
                expect(self.cluster.redis_digest(redis.ip) == before, f"the digest after {strategy} to {to} is another")

    def second_visit(self):
        """A container comes back to where it was: its files are there still, and only what changed meanwhile travels."""
        for strategy in ("cold", "live"):
            with self.case(f"{strategy} there, back and there again: files that a host has already are not sent") as wanted:
                if wanted:
                    self.visit_again(strategy)

    def pages_kept(self):
        """Of an idle Redis that comes back hardly anything travels; of one that may leave nothing, everything."""
        for options, name in (((), "a host has already"), (("--label", "fleximigrate.revisit=no"), "were not to be kept")):
            with self.case(f"live there and back: pages that {name}") as wanted:
                if not wanted:
                    continue
                redis = Resident(self.cluster, "forgotten" if options else "remembered", options=options)
                self.cluster.load_redis(redis.ip, 48)
                before = self.pages_of("dst")
                there, back = (self.move(redis, to, "live")["wire_bytes"] for to in ("dst", "src"))
                self.tap.say(f"there {there} bytes, back {back}: {back / there:.1%}")
                expect(back > there * 0.8 if options else back <= there * 0.05, f"the way there took {there} bytes, the way back {back}")
                kept = self.pages_of("dst") - before
                expect(kept == (0 if options else 1), f"dst keeps the pages of {kept} containers more than before")
                redis.conclude("src")

    def pages_of_files(self):
        """What a program has read from its files is in its memory, too; the destination has the files, and need not get it twice."""
        for options, twice in (((), False), (("--label", "fleximigrate.file-pages=no"), True)):
            with self.case(f"live, {HELD_MB} MB of memory as in a file: {'sent twice, as was asked for' if twice else 'sent once'}") as wanted:
                if wanted:
                    name = "twice" if twice else "once"
                    holder = Resident(self.cluster, name, command=COUNTER, python=True, options=options)
                    self.hold_a_file(holder, self.cluster.rootfs_of(name), "/", twice)

    def pages_of_volumes(self):
        with self.case(f"live, {HELD_MB} MB of memory as in a file of a volume: sent once") as wanted:
            if not wanted:
                return
            folders = [os.path.join(self.cluster.private_path(host, "/srv"), "holder") for host in ("src", "dst")]
            os.makedirs(folders[0])
            self.hold_a_file(Resident(self.cluster, "holder", command=COUNTER, python=True, binds=[("/srv/holder", "/volume", "rw")]), folders[0], "/volume/", False)
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)

    def hold_a_file(self, holder, folder, inside, twice):
        content = os.urandom(HELD_MB << 20)
        with open(os.path.join(folder, "model"), "wb") as file:
            file.write(content)
        holder.ask("HOLD", f"{inside}model")
        record, lines = self.cluster.wait_over(self.cluster.start_migration(holder.name, "dst", "--strategy", "live"))
        expect(record["path"] == "1N 2N 3N 4N 5N 6N", lambda: f"path {record['path']}: {record['error_message']}")
        holder.check("dst")
        expect(holder.ask("HELD") == hashlib.sha256(content).hexdigest(), "its memory is another")
        files, memory = record["files_bytes"], record["wire_bytes"] - record["files_bytes"]
        phases = {phase["name"]: int(phase["duration_us"]) for phase in record["phases"]}
        self.tap.say(f"{holder.name}: {files / 1e6:.1f} MB of files, {memory / 1e6:.1f} MB of memory; files looked at for {phases.get('file-pages', 0) / 1000:.0f} ms, rounds {phases['rounds'] / 1000:.0f} ms, "
                     f"frozen for {int(record['frozen_us']) / 1000:.1f} ms")
        expect(files > HELD_MB << 20, f"only {files} bytes of files travelled")
        # How much is looked at in the time that there is for it depends on the machine: the largest file comes first, and all that was found of it must not travel.
        found = sum(int(match[1]) * 4096 for line in lines if (match := re.search(r"has (\d+) pages of files of", line)))
        expect(found == 0 if twice else found >= 8 << 20, f"{found} bytes of files were at hand: {lines}")
        most = OWN_MB_MAX + HELD_MB - 0.9 * min(found / (1 << 20), HELD_MB)
        expect(memory > HELD_MB << 20 if twice else memory < most * (1 << 20), f"{memory} bytes of memory travelled, {found} bytes of the file were at hand")
        holder.conclude("dst")

    def pages_of(self, host):
        """Of how many containers that left it the host keeps pages, as doctor says."""
        return int(next(finding["detail"] for finding in self.cluster.doctor(host) if finding["subject"] == "visited pages").split()[1])

    def visit_again(self, strategy):
        service = Resident(self.cluster, f"visitor-{strategy}", command=COUNTER, python=True)
        rootfs = self.cluster.rootfs_of(service.name)
        for name, text in (("stays", "as it was"), ("changes", "as it was")):
            with open(os.path.join(rootfs, name), "w", encoding="ascii") as file:
                file.write(text * 100000)
        kept = self.kept("src")
        first = self.move(service, "dst", strategy)["files_bytes"]
        expect(os.path.islink(self.visited("src", service)), "the source keeps no way to the bundle's files")
        self.rewrite(service, "changes", "changed at dst " * 80000)
        before = self.digest(service)
        second = self.move(service, "src", strategy)["files_bytes"]
        self.tap.say(f"{strategy}: {first} bytes of files, then {second}")
        expect(second <= first * 0.05 + 1200000, f"the way back took {second} bytes of files, the way there {first}, of which 1200000 had changed")
        expect(self.digest(service) == before, "files arrived with other contents")
        expect(not os.path.lexists(self.visited("src", service)), "the copy is kept where the container is")
        expect(os.path.isdir(self.visited("dst", service)), "the host that it left keeps no copy")
        third = self.move(service, "dst", strategy)["files_bytes"]
        expect(third <= first * 0.05, f"the second visit took {third} bytes of files, the first {first}")
        expect(self.digest(service) == before, "files arrived with other contents")
        self.tap.say(f"{strategy}: {third} bytes of files on the second visit")
        expect(self.kept("src") == kept + 1, f"doctor tells of {self.kept('src')} copies on src, before the first visit of {kept}")
        service.conclude("dst")
        expect(not os.path.lexists(self.visited("dst", service)), "removed, it has left a copy")

    def visited(self, host, service):
        return self.cluster.path("state", host, "visited", service.name)

    def kept(self, host):
        found = {finding["subject"]: finding for finding in self.cluster.doctor(host)}["visited copies"]
        expect(found["severity"] == "ok", found)
        return int(found["detail"].split()[0])

    def rewrite(self, service, name, text):
        """From outside, in place, as the container would."""
        with open(os.path.join(self.cluster.rootfs_of(service.name), name), "r+", encoding="ascii") as file:
            file.truncate(0)
            file.write(text)

    def digest(self, service):
        """Of names, modes and contents of what nobody writes meanwhile."""
        found = {}
        root = self.cluster.rootfs_of(service.name)
        for folder, _, names in os.walk(root):
            for path in (os.path.join(folder, name) for name in names if not folder.startswith(os.path.join(root, ".fleximigrate"))):
                status = os.lstat(path)
                with open(path, "rb") if stat.S_ISREG(status.st_mode) else contextlib.nullcontext(io.BytesIO()) as file:
                    content = hashlib.sha256(file.read()).hexdigest()
                found[os.path.relpath(path, root)] = (status.st_mode, status.st_uid, status.st_gid, content)
        return found

    def processes_and_files(self):
        """Two processes share the counter, each has threads; every increment is in a file before it is acknowledged; files come and go."""
        with self.case("several processes and threads, files that change until the freeze, output") as wanted:
            if not wanted:
                return
            command = [*COUNTER, "--workers", "2", "--threads", "3", "--journal", "/data/journal", "--rotate", "/data"]
            service = Resident(self.cluster, "service", command=command, python=True)
            for number, (to, strategy) in enumerate((("dst", "post-copy"), ("src", "live"), ("dst", "cold"), ("src", "pre-copy"))):
                service.ask("FILE", f"/data/kept{number}", f"written before move {number}")
                service.ask("FILE", f"/data/gone{number}", "removed before the move")
                service.ask("UNLINK", f"/data/gone{number}")
                threads = json.loads(service.ask("STATE"))["threads"]
                self.move(service, to, strategy)
                self.check_state(service, threads)
                service.ask("SAY", f"hello from {to} number {number}")
                self.cluster.wait("its output arrives", lambda: f"hello from {to} number {number}\n" in self.output("service"))
            service.check("src")
            report = service.client.finish()
            expect(not report["error"], report["error"])
            self.check_files(service)
            service.remove()

    def check_state(self, service, threads):
        def run_on():
            now = json.loads(service.ask("STATE"))["threads"]
            return all(after > before for before, after in zip(threads, now))
        self.cluster.wait("every thread goes on", run_on, 10, lambda: self.output("service")[-2000:])
        state = json.loads(service.ask("STATE"))
        expect(state["children"] in (0, 1, 2), state)
        self.cluster.wait("it is reported with three processes", lambda: self.cluster.container("service")["processes"] == 3, 5)

    def check_files(self, service):
        folder = os.path.join(self.cluster.rootfs_of("service"), "data")
        with open(os.path.join(folder, "journal"), encoding="ascii") as file:
            numbers = [int(line) for line in file]
        last = service.counter()
        expect(numbers == list(range(1, last + 1)), lambda: f"the journal has {len(numbers)} lines up to {numbers[-1:]}, the counter is {last}; first difference: "
               f"{next((pair for pair in enumerate(numbers, 1) if pair[0] != pair[1]), None)}")
        newest = last // 10
        expected = {"journal", "kept0", "kept1", "kept2", "kept3", str(newest), str(newest - 1)}
        found = set(os.listdir(folder))
        expect(found == expected, f"files {sorted(found)}, not {sorted(expected)}")
        with open(os.path.join(folder, str(newest)), encoding="ascii") as file:
            expect(file.read() == f"{newest}\n" * 100, "the newest file has other contents")

    def output(self, name):
        with open(os.path.join(self.cluster.instance_dir(name), "log"), encoding="utf-8", errors="replace") as file:
            return file.read()

    def shell(self):
        """A shell with background loops that start a process every few milliseconds: the tree changes until it is frozen."""
        with self.case("a shell that starts processes all the time") as wanted:
            if not wanted:
                return
            bundle = self.cluster.make_bundle("ticker", ["sh", "-c", TICKER])
            self.cluster.cli("container", "run", "ticker", "--host", "src", "--bundle", bundle)
            for to, strategy in (("dst", "live"), ("src", "post-copy")) if self.options.short else (("dst", "cold"), ("src", "post-copy"), ("dst", "live"), ("src", "pre-copy")) * 2:
                self.cluster.wait("it ticks", lambda: min(map(len, self.ticks().values())) > 5)
                before = {name: numbers[-1] for name, numbers in self.ticks().items()}
                record = self.cluster.migrate("ticker", to, "--strategy", strategy)
                expect(record["state"] == "COMPLETED", lambda: record["error_message"])
                self.cluster.wait("it ticks on", lambda: all(numbers[-1] > before[name] + 3 for name, numbers in self.ticks().items()))
                for name, numbers in self.ticks().items():
                    expect(numbers == list(range(1, len(numbers) + 1)), f"{name} did not count one by one after {strategy} to {to}: {numbers[-10:]}")
                no_leftovers(self.cluster)

    def ticks(self):
        folder = os.path.join(self.cluster.rootfs_of("ticker"), "data")
        found = {}
        for name in ("first", "second", "third"):
            path = os.path.join(folder, name)
            with open(path, encoding="ascii") if os.path.exists(path) else contextlib.nullcontext([]) as file:
                found[name] = [int(line) for line in file if line.endswith("\n")]
        return found

    # ------------------------------------------------------------------ rounds that cannot converge

    def dirtier(self):
        """All of its memory changes many times during a round, and every page is compared before it is written again: a page that is lost, old or zero is found by the program itself."""
        megabytes = 32 if self.options.short else 64
        with self.case(f"a program that writes {megabytes} MB faster than the link carries them: live, post-copy, pre-copy, cold") as wanted:
            if not wanted:
                return
            service = pages_resident(self.cluster, "dirtier", megabytes, "--write")
            for to, strategy, rounds in (("dst", "live", ROUNDS_FACTOR - 1), ("src", "post-copy", 0), ("dst", "pre-copy", ROUNDS_FACTOR), ("dst", "cold", 0)):
                before = check_pages(service)
                migration = self.cluster.start_migration("dirtier", to, "--strategy", strategy, "--bandwidth", f"{LINK_MB}M", "--max-total-time", f"{DIRTIER_S_MAX}s")
                record, lines = self.cluster.wait_over(migration)
                service.check("src" if strategy == "pre-copy" else to)
                self.check_dirtier(record, lines, strategy)
                after = check_pages(service)
                # What rounds have not brought for good comes once more, in the freeze or after it; all in all, it is not more than the factor.
                most = megabytes * 2**20 * (rounds + (strategy != "pre-copy")) * 1.03 + ROOTFS_BYTES_MAX
                sent, frozen = record["wire_bytes"], record["frozen_us"]
                expect(sent <= most, f"{strategy} sent {sent} bytes, more than {most:.0f}")
                self.tap.say(f"{strategy}: {record['state']} {record['path']}, {sent / 1e6:.0f} MB on the wire ({sent / megabytes / 2**20:.2f} times its memory), frozen for {frozen / 1000:.0f} ms, "
                             f"{after['checked'] - before['checked']} pages compared, none lost")
            service.conclude("dst")

    def check_dirtier(self, record, lines, strategy):
        total_s = (record["finished_unix_ms"] - record["created_unix_ms"]) / 1000
        expect(total_s <= DIRTIER_S_MAX, f"{strategy} took {total_s:.1f} s")
        if strategy == "pre-copy":
            expect(record["path"] == "1N 2N 3N 4F 8N", f"pre-copy: path {record['path']}: {record['error_message']}")
            expect("does not converge" in record["error_message"] and "--strategy live" in record["error_hint"], f"pre-copy: {record['error_message']}; hint: {record['error_hint']}")
            return
        expect(record["path"] == "1N 2N 3N 4N 5N 6N", f"{strategy}: path {record['path']}: {record['error_message']}")
        if strategy == "live":
            expect(any(re.search(r"[0-9]+ rounds .* changed again; what is left is fetched on demand", line) for line in lines), f"live's rounds have converged: {lines}")

    # ------------------------------------------------------------------ the end, after a move

    def end_after_move(self):
        with self.case("signals, exit and removal after a move") as wanted:
            if not wanted:
                return
            for name, end, said in (("stopped", self.stop_by_runtime, "asked to stop"), ("ended", lambda service: service.ask("EXIT", "5", check=False), "serving")):
                service = Resident(self.cluster, name, command=COUNTER, python=True)
                self.move(service, "dst", "post-copy")
                service.ask("SAY", "last words")
                service.client.end()
                end(service)
                self.cluster.wait(f"{name} has ended", lambda: self.cluster.container(name)["status"] == "stopped")
                output = self.output(name)
                expect("last words\n" in output, f"its output: {output}")
                expect(said == "serving" or said in output, f"its output: {output}")
                self.cluster.cli("container", "rm", name)
                no_leftovers(self.cluster)
            service = Resident(self.cluster, "removed")
            self.move(service, "dst", "cold")
            service.remove()
            names = [container["name"] for container in self.cluster.json("container", "ls")["containers"]]
            expect("removed" not in names, f"still listed: {names}")

    def stop_by_runtime(self, service):
        container = self.cluster.container(service.name)
        subprocess.run(["runc", "--root", self.cluster.path("runc", container["host"]), "kill", container["instance"], "TERM"], check=True)

    # ------------------------------------------------------------------ ordinary

    def ordinary(self):
        with self.case("an ordinary container: cold, there and back; post-copy is refused") as wanted:
            if not wanted:
                return
            redis = Resident(self.cluster, "plain", options=["--ordinary"])
            expect(self.cluster.container("plain")["kind"] == "ordinary", "its kind")
            record = self.cluster.migrate("plain", "dst", "--strategy", "post-copy")
            expect(record["path"] == "1N 2F 8N" and "cold" in record["error_message"], f"post-copy: {record['path']}: {record['error_message']}")
            redis.check("src")
            self.without_iptables(redis)
            self.move(redis, "dst", "cold")
            self.move(redis, "src", "auto")
            redis.conclude("src")

    def without_iptables(self, redis):
        """CRIU would fail in the middle of the freeze: found out before, on either host."""
        path = path_without(self.cluster.path("no-iptables"), ("iptables", "ip6tables"))
        for host in ("src", "dst"):
            with agent_with(self.cluster, host, path=path):
                record = self.cluster.migrate("plain", "dst", "--strategy", "cold")
                expect(record["path"] == "1N 2F 8N" and "iptables-restore is missing" in record["error_message"], f"without iptables on {host}: {record['path']}: {record['error_message']}")
                findings = {finding["subject"]: finding for finding in self.cluster.doctor(host)}
                expect(findings["iptables"]["severity"] == "problem" and "apt-get install iptables" in findings["iptables"]["remedy"], f"doctor says {findings}")
            redis.check("src")
            no_leftovers(self.cluster)

    def discovered(self):
        """Started by somebody else with the runtime alone; the agent finds it."""
        with self.case("a container that somebody else started: discovered, cold") as wanted:
            if not wanted:
                return
            script = "i=0; while :; do i=$((i+1)); echo $i >>/data/ticks; sleep 0.02; done"
            bundle = self.cluster.make_bundle("found", ["sh", "-c", script])
            root = self.cluster.path("runc", "src")
            self.cluster.lab.run("src", ["runc", "--root", root, "run", "--detach", "--bundle", bundle, "found"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.cluster.wait("the agent finds it", lambda: "found" in [container["name"] for container in self.cluster.json("container", "ls")["containers"]])
            record = self.cluster.migrate("found", "dst", "--strategy", "cold")
            expect(record["path"] == "1N 2N 3N 4N 5N 6N", lambda: f"path {record['path']}: {record['error_message']}")
            container = self.cluster.container("found")
            expect((container["host"], container["kind"], container["status"]) == ("dst", "ordinary", "running"), container)
            ticks = os.path.join(self.cluster.rootfs_of("found"), "data", "ticks")

            def numbers():
                with open(ticks, encoding="ascii") as file:
                    return [int(line) for line in file if line.endswith("\n")]
            before = len(numbers())
            self.cluster.wait("it goes on", lambda: len(numbers()) > before + 3)
            expect(numbers() == list(range(1, len(numbers()) + 1)), "it did not count one by one")
            expect(os.path.isdir(bundle), "the user's bundle was removed")

    def tracking(self):
        with self.case("labels say how changes are found; one that is no way to do it is told") as wanted:
            if not wanted:
                return
            redis = Resident(self.cluster, "redis-hash", options=["--label", "fleximigrate.tracking=hash"])
            self.cluster.load_redis(redis.ip, 8)
            self.move(redis, "dst", "pre-copy")
            log = self.cluster.agents["src"].log() + self.cluster.manager.log()
            expect("changes are found by hash" in log, "no line of the log says so")
            redis.conclude("dst")
            odd = Resident(self.cluster, "redis-odd", options=["--label", "fleximigrate.tracking=magic"])
            self.cluster.load_redis(odd.ip, 8)
            record = self.cluster.migrate(odd.name, "dst", "--strategy", "pre-copy")
            expect(record["state"] == "FAILED" and "magic" in record["error_message"], f"{record['state']}: {record['error_message']}")
            odd.conclude("src")

    # ------------------------------------------------------------------ several streams

    def streams(self):
        with self.case("pages over several streams; one of them breaks, the link is cut in a round, the way back has another number") as wanted:
            if not wanted:
                return
            redis = Resident(self.cluster, "redis-streams", options=["--label", "fleximigrate.streams=3"])
            self.cluster.load_redis(redis.ip, 48)
            plan = self.cluster.cli("migrate", redis.name, "--to", "dst", "--strategy", "live", "--dry-run").stdout
            expect("sent over 3" in plan, plan)
            with agent_with(self.cluster, "src", fault="stream-corrupt@30=fail"):
                self.move(redis, "dst", "live")
            log = self.cluster.manager.log()
            expect(re.search(r"stream [123] of 3 of pages broke .*: connecting again", log), "no stream broke")
            expect("rounds over 3 streams" in log, "no line of the log tells of three streams")
            there, back = (self.move(redis, to, "live", *options)["wire_bytes"] for to, options in (("src", ("--streams", "2")), ("dst", ())))
            self.tap.say(f"over two streams {there} bytes, back over three {back}")
            expect(back <= there * 0.05, f"one way took {there} bytes, the way back {back}: what dst has kept was of no use")
            self.move(redis, "src", "pre-copy", "--streams", "16")
            redis.conclude("src")
            self.cut_in_a_round()

    def cut_in_a_round(self):
        redis = Resident(self.cluster, "redis-cut")
        self.cluster.load_redis(redis.ip, 32)
        migration = self.cluster.start_migration(redis.name, "dst", "--strategy", "live", "--streams", "3", "--bandwidth", "8M")
        self.cluster.wait_state(migration, "EXECUTION")  # which begins with rounds
        self.cluster.lab.cut("dst")
        time.sleep(1)  # how long it is cut
        self.cluster.lab.heal("dst")
        record, _ = self.cluster.wait_over(migration)
        expect(record["path"] == "1N 2N 3N 4N 5N 6N", lambda: f"path {record['path']}: {record['error_message']}")
        rounds_us = next(phase["duration_us"] for phase in record["phases"] if phase["name"] == "rounds")
        expect(rounds_us > 1e6, f"the rounds took {rounds_us} us: they were over before the cut")
        redis.check("dst")
        redis.conclude("dst")

    # ------------------------------------------------------------------ throttling

    def busy(self):
        """Writes to its memory three times as fast as the bandwidth, which is returned; with a quota of its own that does not hinder it, and a label that allows throttling."""
        def quota(config):
            config["linux"].setdefault("resources", {})["cpu"] = {"quota": QUOTA_US, "period": 100000}
        service = Resident(self.cluster, "busy", command=[*COUNTER, "--dirty", str(BUSY_MB)], python=True, options=["--label", "fleximigrate.throttle=90"], config=quota)
        before, started = json.loads(service.ask("STATE"))["dirtied"], time.monotonic()
        time.sleep(0.5)  # a measurement, not a wait
        rate = (json.loads(service.ask("STATE"))["dirtied"] - before) / (time.monotonic() - started)
        expect(rate > 1e6, f"it dirties {rate:.0f} bytes/s only")
        return service, str(int(rate / 3))

    def expect_quota(self, service, place):
        self.cluster.wait("it is reported as it is now", lambda: cpu_quota(self.cluster.container(service.name)["pid"]) is not None)
        found = cpu_quota(self.cluster.container(service.name)["pid"])
        expect(found == QUOTA_US, f"its quota {place} is {found}, not {QUOTA_US}")

    def throttling(self):
        with self.case("a container that writes faster than the link: moved with throttling, not without; its quota is as before") as wanted:
            if not wanted:
                return
            service, bandwidth = self.busy()
            pre_copy = ("--strategy", "pre-copy", "--bandwidth", bandwidth, "--max-downtime", BUSY_DOWNTIME)
            plan = self.cluster.cli("migrate", service.name, "--to", "dst", "--strategy", "pre-copy", "--dry-run").stdout
            expect("up to 90 % of its processor time" in plan, plan)
            self.expect_no_convergence(service, "dst", [*pre_copy, "--max-throttle", "0"], 0)
            record = self.cluster.migrate(service.name, "dst", *pre_copy)
            expect(record["state"] == "COMPLETED", record["error_message"])
            expect(20 <= record["throttle_percent"] <= 90, f"throttled by {record['throttle_percent']} %")
            service.check("dst")
            self.expect_quota(service, "after the move")
            shown = self.cluster.cli("migration", "show", record["id"]).stdout
            expect(f"throttled to {100 - record['throttle_percent']} % of its processor time" in shown, shown)
            for name in ("agent-src", "manager"):
                with open(self.cluster.path(f"{name}.log"), encoding="utf-8") as file:
                    expect("throttled to 80 % of its processor time: what changes a round does not shrink" in file.read(), f"{name}'s log says nothing of it")
            self.expect_no_convergence(service, "src", [*pre_copy, "--max-throttle", "30"], 30)
            self.throttled_and_killed(service, pre_copy)
            self.throttled_and_cancelled(service, pre_copy)
            record = self.cluster.migrate(service.name, "src", "--strategy", "live", *pre_copy[2:], "--max-throttle", "90")
            expect(record["state"] == "COMPLETED" and record["throttle_percent"] >= 20, f"live: {record['error_message']}, throttled by {record['throttle_percent']} %")
            self.expect_quota(service, "after the way back")
            service.conclude("src")

    def expect_no_convergence(self, service, to, options, throttle):
        record = self.cluster.migrate(service.name, to, *options)
        expect(record["state"] == "FAILED" and "does not converge" in record["error_message"], f"{record['state']}: {record['error_message']}")
        expect(record["throttle_percent"] == throttle, f"throttled by {record['throttle_percent']} %, not {throttle}")
        expect(not throttle or f"throttled to {100 - throttle} %" in record["error_message"], record["error_message"])
        service.check("src" if to == "dst" else "dst")
        self.expect_quota(service, "after giving up")

    def throttled_and_killed(self, service, options):
        """The second step is there when the agent dies; the next agent puts the quota back."""
        pid = self.cluster.container(service.name)["pid"]
        agent = self.cluster.agents["dst"]
        agent.stop()
        agent.start({"FLEXIMIGRATE_FAULT": "source-throttled@2=kill"})
        self.cluster.wait_online()
        migration = self.cluster.start_migration(service.name, "src", *options)
        self.cluster.wait("the agent dies", lambda: not agent.alive(), 60)
        expect(0 < cpu_quota(pid) < QUOTA_US, f"the quota of {cpu_quota(pid)} that the dead agent left")
        agent.start()
        self.cluster.wait_online()
        expect(cpu_quota(pid) == QUOTA_US, f"the quota is {cpu_quota(pid)} after the agent's return")
        record, _ = self.cluster.wait_over(migration)
        expect(record["state"] == "FAILED", record["state"])
        service.check("dst")

    def throttled_and_cancelled(self, service, options):
        pid = self.cluster.container(service.name)["pid"]
        migration = self.cluster.start_migration(service.name, "src", *options)
        self.cluster.wait("it is throttled", lambda: cpu_quota(pid) < QUOTA_US, 60)
        self.cluster.cli("migration", "cancel", migration)
        record, _ = self.cluster.wait_over(migration)
        expect(record["state"] == "FAILED" and "cancelled" in record["error_message"], f"{record['state']}: {record['error_message']}")
        expect(cpu_quota(pid) == QUOTA_US, f"the quota is {cpu_quota(pid)} after the cancel")
        service.check("dst")

    def usual(self):
        self.there_and_back()
        self.tracking()
        self.whole_digest()
        self.second_visit()
        self.pages_kept()
        self.processes_and_files()
        self.shell()
        self.end_after_move()
        self.ordinary()
        self.discovered()

    def loaded(self):
        """Races between a program, or who looks at its pages, and a link: with other tests beside them somebody else might win."""
        self.streams()
        self.throttling()
        self.pages_of_files()
        self.dirtier()


def main():
    options = arguments(__doc__, ("usual", "loaded", "volumes"))
    unwind_on_signal()
    name = lab_name("st")
    tap = Tap("strategies", options.tap)
    started = time.monotonic()
    parts = [options.part] if options.part else ["usual", "loaded", "volumes"]
    with Cluster(name, keep_on_failure=options.keep) if "usual" in parts or "loaded" in parts else contextlib.nullcontext() as cluster:
        if "usual" in parts:
            Strategies(cluster, tap, options).usual()
        if "loaded" in parts:
            Strategies(cluster, tap, options).loaded()
    if "usual" in parts:
        with Cluster(name, keep_on_failure=options.keep, ipv6=True) as cluster:
            Strategies(cluster, tap, options).two_endpoints()
    # Hosts that do not share their files, as real ones: agents in mount namespaces of their own.
    if "loaded" in parts or "volumes" in parts:
        with Cluster(name, keep_on_failure=options.keep, own_folders=["/srv"]) as cluster:
            if "loaded" in parts:
                Strategies(cluster, tap, options).pages_of_volumes()
            if "volumes" in parts:
                Volumes(cluster, tap, options).run()
    tap.say(f"took {time.monotonic() - started:.0f} s")
    return conclude(tap, name)


if __name__ == "__main__":
    sys.exit(main())
