# SPDX-License-Identifier: MIT
"""Volumes that travel; strategies.py runs these. Every host has a /srv of its own, as real hosts have."""

import contextlib
import os
import re
import shutil
import subprocess

from common import REDIS, Resident, agent_with, clean_case, expect

DONE = "1N 2N 3N 4N 5N 6N"


def with_appendonly():
    return [*(word if word != "no" or REDIS[index - 1] != "--appendonly" else "yes" for index, word in enumerate(REDIS)), "--dir", "/data"]


def facts(path):
    """All that has to be equal of one name, its content included."""
    st = os.lstat(path)
    content = None
    if os.path.islink(path):
        content = os.readlink(path)
    elif os.path.isfile(path):
        with open(path, "rb") as file:
            content = file.read()
    attributes = {} if os.path.islink(path) else {name: os.getxattr(path, name) for name in os.listxattr(path) if name.startswith("user.")}
    return {"mode": st.st_mode, "owner": (st.st_uid, st.st_gid), "links": st.st_nlink, "mtime": st.st_mtime_ns, "content": content, "attributes": attributes}


def tree(root):
    """Relative path -> facts, of everything below root and of root itself."""
    found = {".": facts(root)}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(folder, name)
            found[os.path.relpath(path, root)] = facts(path)
    return found


def names(root):
    return sorted(os.path.relpath(os.path.join(folder, name), root) for folder, folders, files in os.walk(root) for name in folders + files)


class Volumes:
    def __init__(self, cluster, tap, options):
        self.cluster, self.tap, self.options = cluster, tap, options

    @contextlib.contextmanager
    def case(self, name):
        with clean_case(self.cluster, self.tap, self.options, f"volume: {name}", self.nothing_beside) as wanted:
            yield wanted
        if wanted:
            self.clean()

    def nothing_beside(self):
        for host in ("src", "dst"):
            odd = [path for path in names(self.srv(host)) if ".fleximigrate-" in path]
            expect(not odd, f"left over in /srv of {host}: {odd}")

    def clean(self):
        for host in self.cluster.hosts:
            for name in os.listdir(self.srv(host)):
                path = self.srv(host, name)
                shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)

    def srv(self, host, *names):
        return os.path.join(self.cluster.private_path(host, "/srv"), *names)

    def move(self, resident, to, strategy="live"):
        record = self.cluster.migrate(resident.name, to, "--strategy", strategy)
        expect(record["path"] == DONE, lambda: f"{strategy} to {to}: path {record['path']}: {record['error_message']}")
        resident.check(to)
        phases = {phase["name"]: int(phase["duration_us"]) for phase in record["phases"]}
        if not self.options.tap:
            print(f"  {strategy} to {to}: frozen {int(record['frozen_us']) / 1000:.1f} ms, files-delta {phases['files-delta'] / 1000:.2f} ms")
        return record

    def refused(self, resident, to, message, path="1N 2N 3F 8N", strategy="live"):
        record = self.cluster.migrate(resident.name, to, "--strategy", strategy)
        expect(record["path"] == path and re.search(message, record["error_message"]), f"path {record['path']}: {record['error_message']}")
        expect(record["error_hint"] or path == "1N 2F 8N", "there is no hint")
        resident.check("src" if to == "dst" else "dst")
        return record

    def redis(self, name, binds=(), options=()):
        os.makedirs(self.srv("src", name, "data"))
        return Resident(self.cluster, name, command=with_appendonly(), binds=[(f"/srv/{name}/data", "/data", "rw"), *binds], options=options)

    def append_only_file(self, host, name):
        """The commands in it, as bytes, and how many increments they are."""
        folder = self.srv(host, name, "data", "appendonlydir")
        content = b""
        for file_name in sorted(file_name for file_name in os.listdir(folder) if ".incr." in file_name):
            with open(os.path.join(folder, file_name), "rb") as file:
                content += file.read()
        return content, content.count(b"$4\r\nINCR\r\n")

    # ------------------------------------------------------------------ there and back

    def database(self):
        with self.case("a Redis that appends to its file, there and back while clients write: every acknowledged write is in it") as wanted:
            if not wanted:
                return
            redis = self.redis("aof")
            for number, (to, strategy) in enumerate((("dst", "live"), ("src", "cold"), ("dst", "post-copy"), ("src", "live"))):
                origin = "src" if to == "dst" else "dst"
                self.move(redis, to, strategy)
                content, increments = self.append_only_file(to, "aof")
                expect(increments >= redis.counter() - 1 or self.written(to, redis), f"{increments} increments in the file after {strategy} to {to}")
                if number == 0:  # an administrator's: it stays as it was when it was left
                    before, _ = self.append_only_file(origin, "aof")
                    expect(before and content.startswith(before), f"the {len(before)} bytes that the source had are not the beginning of the {len(content)} at the destination")
                else:
                    expect(not os.path.lexists(self.srv(origin, "aof", "data")), f"what a migration had brought to {origin} is still there")
            report = redis.client.finish()
            expect(not report["error"], report["error"])
            expect(self.written("src", redis), "an acknowledged write is missing in the file")
            redis.remove()
            expect(self.append_only_file("src", "aof")[1] == report["last"], "removing the container touched its data")

    def written(self, host, redis):
        """Redis writes its file before it answers; its counter is what the file says, once nobody increments in between."""
        def equal():
            counter = redis.counter()
            return self.append_only_file(host, redis.name)[1] >= counter
        self.cluster.wait("the file has every increment", equal, 10)
        return True

    def exact(self):
        with self.case("sparse files, hard links, attributes, owners and times are exact; a second volume that is one file; read-only ones are there already") as wanted:
            if not wanted:
                return
            self.fill("src")
            for host in ("src", "dst"):
                os.makedirs(self.srv(host, "exact", "given"))
            with open(self.srv("src", "exact", "one.conf"), "w", encoding="ascii") as file:
                file.write("as it was\n")
            os.chmod(self.srv("src", "exact", "one.conf"), 0o640)
            binds = [("/srv/exact/data", "/data", "rw"), ("/srv/exact/one.conf", "/one.conf", "rw"), ("/srv/exact/given", "/given", "ro")]
            service = Resident(self.cluster, "exact", command=["python3", "/counter.py", "--journal", "/data/journal"], python=True, binds=binds)
            self.move(service, "dst", "live")
            before, after = tree(self.srv("src", "exact", "data")), tree(self.srv("dst", "exact", "data"))
            left, arrived = before.pop("journal"), after.pop("journal")
            expect(arrived["content"].startswith(left["content"]), "the journal at the destination does not begin with what the source had")
            for name in before:
                expect(before[name] == after.get(name), f"{name}: {before[name]} at the source, {after.get(name)} at the destination")
            expect(set(before) == set(after), f"other names: {set(before) ^ set(after)}")
            sparse = os.stat(self.srv("dst", "exact", "data", "sparse"))
            expect(sparse.st_blocks * 512 < 1 << 20, f"the sparse file takes {sparse.st_blocks} blocks")
            expect(facts(self.srv("src", "exact", "one.conf")) == facts(self.srv("dst", "exact", "one.conf")), "the single file differs")
            service.ask("FILE", "/one.conf", "written at the destination\n")
            found = facts(self.srv("dst", "exact", "one.conf"))["content"]
            expect(found == b"written at the destination\n", f"the container writes another file than the host has, which says {found}")
            self.move(service, "src", "cold")
            expect(facts(self.srv("src", "exact", "one.conf"))["content"] == b"written at the destination\n", "the single file did not come back")
            numbers = facts(self.srv("src", "exact", "data", "journal"))["content"].split()
            expect(numbers == [b"%d" % number for number in range(1, len(numbers) + 1)], "the journal does not count one by one")
            expect(os.listdir(self.srv("dst", "exact")) == ["given"], f"still on dst: {os.listdir(self.srv('dst', 'exact'))}")

    def fill(self, host):
        data = self.srv(host, "exact", "data")
        os.makedirs(os.path.join(data, "deep", "er"))
        with open(os.path.join(data, "deep", "file"), "wb") as file:
            file.write(os.urandom(300000))
        os.setxattr(os.path.join(data, "deep", "file"), "user.colour", b"green")
        os.link(os.path.join(data, "deep", "file"), os.path.join(data, "deep", "er", "again"))
        os.symlink("../nowhere", os.path.join(data, "deep", "link"))
        with open(os.path.join(data, "sparse"), "wb") as file:
            file.truncate(64 << 20)
            file.seek(32 << 20)
            file.write(b"in the middle")
        os.chown(os.path.join(data, "sparse"), 1234, 4321)
        os.chmod(os.path.join(data, "sparse"), 0o4711)
        os.utime(os.path.join(data, "deep"), ns=(1, 1234567890123456789))
        os.chown(data, 99, 98)
        os.chmod(data, 0o1777)

    def ordinary(self):
        with self.case("an ordinary container's, cold; a folder that an administrator prepared on the destination keeps being one") as wanted:
            if not wanted:
                return
            os.makedirs(self.srv("dst", "plain", "data"))
            kept = os.stat(self.srv("dst", "plain", "data")).st_ino
            redis = self.redis("plain", options=["--ordinary"])
            self.move(redis, "dst", "cold")
            self.written("dst", redis)
            self.move(redis, "src", "cold")
            self.written("src", redis)
            expect(os.stat(self.srv("dst", "plain", "data")).st_ino == kept and not os.listdir(self.srv("dst", "plain", "data")), "the prepared folder is not as it was")

    # ------------------------------------------------------------------ refused

    def occupied(self):
        with self.case("a path that is taken at the destination is refused, and nothing there is touched") as wanted:
            if not wanted:
                return
            redis = self.redis("taken")
            os.makedirs(self.srv("dst", "taken", "data"))
            with open(self.srv("dst", "taken", "data", "precious"), "w", encoding="ascii") as file:
                file.write("somebody's\n")
            before = tree(self.srv("dst"))
            record = self.refused(redis, "dst", r"host 'dst' has something at /srv/taken/data already")
            expect("fleximigrate.volumes=shared:/data" in record["error_hint"], record["error_hint"])
            expect(tree(self.srv("dst")) == before, "something was changed there")
            shutil.rmtree(self.srv("dst", "taken"))
            self.move(redis, "dst")
            self.doctor_tells()
            self.changed_behind(redis)

    def doctor_tells(self):
        """Which copy was left, and what lies beside a volume without belonging to a migration; that is never removed."""
        left = [finding["severity"] for finding in self.cluster.doctor("src") if finding["subject"] == "volume /srv/taken/data"]
        expect(left == ["note"], f"doctor says of the copy that was left: {left}")
        lost = self.srv("dst", "taken", "data.fleximigrate-m-000000000000-old")
        os.mkdir(lost)
        found = [finding["severity"] for finding in self.cluster.doctor("dst") if finding["subject"] == "volume /srv/taken/data.fleximigrate-m-000000000000-old"]
        expect(found == ["leftover"], f"doctor says of a copy that was forgotten: {found}")
        os.rmdir(lost)

    def changed_behind(self, redis):
        """What the container left is replaced only if nobody has used it since."""
        with open(self.srv("src", "taken", "data", "note"), "w", encoding="ascii") as file:
            file.write("written after the container had left\n")
        before = tree(self.srv("src"))
        self.refused(redis, "src", r"it was changed since")
        expect(tree(self.srv("src")) == before, "something was changed there")
        os.rename(self.srv("src", "taken", "data"), self.srv("src", "taken", "looked-at"))
        self.move(redis, "src")
        expect(os.path.exists(self.srv("src", "taken", "looked-at", "note")), "what was moved away is gone")

    def not_possible(self):
        with self.case("what cannot travel is said when planning; shared ones are left alone") as wanted:
            if not wanted:
                return
            os.makedirs(self.srv("src", "both"))
            os.makedirs(self.srv("dst", "both"))
            with open(self.srv("dst", "both", "own"), "w", encoding="ascii") as file:
                file.write("the destination's\n")
            first = self.redis("first", binds=[("/srv/both", "/both", "rw")])
            second = self.redis("second", binds=[("/srv/both", "/both", "ro")])
            self.refused(first, "dst", r"/srv/both is used by container 'second', too", path="1N 2F 8N")
            second.remove()
            first.remove()
            shutil.rmtree(self.srv("src", "first"))
            wrong = self.redis("wrong", options=["--label", "fleximigrate.volumes=shared:/elsewhere"])
            self.refused(wrong, "dst", r"names '/elsewhere', where the container has no writable volume", path="1N 2F 8N")
            shared = self.redis("shared", binds=[("/srv/both", "/both", "rw")], options=["--label", "fleximigrate.volumes=shared:/both"])
            self.move(shared, "dst")
            expect(os.listdir(self.srv("dst", "both")) == ["own"], "the shared one was touched")
            expect(self.append_only_file("dst", "shared")[1] > 0, "the other one did not travel")

    def no_room(self):
        with self.case("free space at the destination counts them") as wanted:
            if not wanted:
                return
            redis = self.redis("large")
            mount = self.srv("dst", "large")
            os.makedirs(mount)
            with open(self.srv("src", "large", "data", "ballast"), "wb") as file:
                file.write(os.urandom(8 << 20))
            self.in_host("dst", "mount", "-t", "tmpfs", "-o", "size=4m", "fleximigrate-lab", "/srv/large")
            try:
                self.refused(redis, "dst", r"the volume /srv/large/data and what else goes to that disk need 8\.\d MiB, 'dst' has")
            finally:
                self.in_host("dst", "umount", "/srv/large")
            expect(not os.listdir(mount), f"left there: {os.listdir(mount)}")

    def in_host(self, host, *command):
        subprocess.run([*self.cluster.enter_mounts(host), *command], check=True)

    # ------------------------------------------------------------------ in memory

    def memory(self):
        with self.case("what is in tmpfs mounts and /dev/shm, there and back, and still there after a rollback") as wanted:
            if not wanted:
                return
            def config(contents):
                contents["mounts"].append({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777", "size=32m"]})
            service = Resident(self.cluster, "shm", command=["python3", "/counter.py", "--journal", "/dev/shm/journal"], python=True, config=config)
            service.ask("FILE", "/scratch/kept", "only in memory\n")
            for to, strategy in (("dst", "live"), ("src", "cold")):
                self.move(service, to, strategy)
                root = f"/proc/{self.first_process(service)}/root"
                with open(f"{root}/scratch/kept", encoding="ascii") as file:
                    expect(file.read() == "only in memory\n", "the file in the tmpfs is not what it was")
                expect(os.stat(f"{root}/scratch").st_mode & 0o7777 == 0o1777, "the tmpfs has another mode")
                least = service.counter()
                with open(f"{root}/dev/shm/journal", encoding="ascii") as file:
                    numbers = file.read().rpartition("\n")[0].split()
                expect(numbers == [str(number) for number in range(1, len(numbers) + 1)], f"the journal in /dev/shm does not count one by one: {numbers[:3]} … {numbers[-3:]}")
                expect(len(numbers) >= least, f"{len(numbers)} numbers in the journal in /dev/shm, {least} were acknowledged")
            with open(f"{root}/scratch/more", "wb") as file:
                file.write(bytes(1 << 20))
            with agent_with(self.cluster, "dst", fault="destination-before-restore=fail"):
                record = self.cluster.migrate(service.name, "dst", "--strategy", "live")
                expect(record["state"] == "FAILED", record["state"])
            service.check("src")
            expect(os.path.getsize(f"/proc/{self.first_process(service)}/root/scratch/more") == 1 << 20, "a rollback took something away")

    @staticmethod
    def first_process(service):
        """Of the only container with a journal in /dev/shm that is not stopped: the counter, as this host numbers it."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
                with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                    state = file.read().rpartition(")")[2].split()[0]
                if b"/dev/shm/journal" in words and words[0].endswith(b"python3") and state not in "TZ":
                    return pid
        raise AssertionError(f"{service.name} has no process")

    # ------------------------------------------------------------------ when something fails

    def killed(self):
        """kill -9 of the destination's agent at several instants: nothing stays there, and the source goes on."""
        points = ("destination-after-files", "destination-after-prepare", "destination-before-restore", "destination-after-restore")
        with self.case("the destination's agent is killed in the middle: nothing of them stays there") as wanted:
            if not wanted:
                return
            redis = self.redis("kill")
            for point in points[::3] if self.options.short else points:
                with agent_with(self.cluster, "dst", fault=f"{point}=kill"):
                    migration = self.cluster.start_migration("kill", "dst", "--strategy", "live")
                    self.cluster.wait(f"the agent dies at {point}", lambda: not self.cluster.agents["dst"].alive(), 60)
                    self.cluster.agents["dst"].start()
                    record, _ = self.cluster.wait_over(migration)
                    expect(record["state"] == "FAILED", f"{point}: {record['state']}")
                redis.check("src")
                expect(not os.listdir(self.srv("dst")), lambda: f"after {point} there is {names(self.srv('dst'))}")
            self.move(redis, "dst")
            self.written("dst", redis)
            with agent_with(self.cluster, "src", fault="destination-after-prepare=kill"):  # on the way back, where its old copy was set aside
                before = tree(self.srv("src"))
                migration = self.cluster.start_migration("kill", "src", "--strategy", "live")
                self.cluster.wait("the agent dies", lambda: not self.cluster.agents["src"].alive(), 60)
                expect(len(os.listdir(self.srv("src", "kill"))) == 2, f"not set aside: {os.listdir(self.srv('src', 'kill'))}")
                self.cluster.agents["src"].start()
                record, _ = self.cluster.wait_over(migration)
                expect(record["state"] == "FAILED", record["state"])
            redis.check("dst")
            expect(tree(self.srv("src", "kill", "data")) == {path[len("kill/data/"):] or ".": value for path, value in before.items() if path.startswith("kill/data/")} |
                   {".": before["kill/data"]}, "the old copy is not as it was")
            self.move(redis, "src")
            self.written("src", redis)

    def source_killed(self):
        """After the commit, before anything is noted: the journal knows, and the copy may be replaced later."""
        with self.case("the source's agent is killed after the commit, and before it frees its copy") as wanted:
            if not wanted:
                return
            redis = self.redis("late")
            for to, point in (("dst", "source-after-commit"), ("src", "source-before-release")):
                origin = "src" if to == "dst" else "dst"
                with agent_with(self.cluster, origin, fault=f"{point}=kill"):
                    migration = self.cluster.start_migration("late", to, "--strategy", "live")
                    self.cluster.wait(f"the agent dies at {point}", lambda: not self.cluster.agents[origin].alive(), 60)
                    self.cluster.agents[origin].start()
                    record, _ = self.cluster.wait_over(migration)
                place = to if record["state"] == "COMPLETED" else origin
                redis.check(place)
                self.written(place, redis)
                if place != to:
                    self.move(redis, to)
            expect(not os.path.lexists(self.srv("dst", "late", "data")), "still on dst")

    def carried_back(self):
        with self.case("the destination is found bad after the switch-over: carried back with what was written there") as wanted:
            if not wanted:
                return
            redis = self.redis("back")
            with agent_with(self.cluster, "dst", fault="destination-verify=fail"):
                record = self.cluster.migrate("back", "dst", "--strategy", "live")
                expect(record["path"] == "1N 2N 3N 4N 5F 8N", f"path {record['path']}: {record['error_message']}")
                redis.check("src")
            self.written("src", redis)
            expect(not os.path.lexists(self.srv("dst", "back")), f"on dst: {names(self.srv('dst'))}")
            self.move(redis, "dst")
            self.move(redis, "src")

    def run(self):
        self.database()
        self.exact()
        self.memory()
        self.occupied()
        self.not_possible()
        self.killed()
        if not self.options.short:
            self.ordinary()
            self.no_room()
            self.source_killed()
        self.carried_back()
