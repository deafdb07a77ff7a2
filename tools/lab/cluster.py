#!/usr/bin/env python3
"""A FlexiMigrate cluster in a lab: hosts, a manager, an agent on each host, containers, clients.

Used by tools/demo.py and by the end-to-end tests; a user may build upon it as well. Everything it makes (namespaces, processes, containers,
folders) is gone when the context ends, whatever happened in it; leftovers() says what is not.

    with Cluster("demo") as cluster:
        cluster.run_redis("redis", "src")
        cluster.cli("migrate", "redis", "--to", "dst")
"""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, HERE)
from lab import STRETCH, Lab, LabError  # noqa: E402

CONTAINER_IP = "10.77.0.100"
FORGETFUL = ("--revisit-memory", "0", "--revisit-disk", "0")  # options of agents for which every arrival is the first
MANAGER_HOST = "cli"
START_S_MAX = 20


class ClusterError(Exception):
    """What was asked and what went wrong."""


def build_dir():
    return os.path.abspath(os.environ.get("BUILD") or os.path.join(ROOT, "build"))


def _tool(name):
    return os.path.join(HERE, name)


class Daemon:
    """One manager or agent process in a host."""

    def __init__(self, cluster, host, argv, log_path, env=None, enter=()):
        self.cluster, self.host, self.argv, self.log_path, self.env, self.enter = cluster, host, argv, log_path, env or {}, list(enter)
        self.process = None
        self.log_start = 0

    def start(self, env=None):
        self.log_start = os.path.getsize(self.log_path) if os.path.exists(self.log_path) else 0
        environment = dict(os.environ, **self.env, **(env or {}))
        with open(self.log_path, "ab") as log:
            self.process = self.cluster.lab.popen(self.host, [*self.enter, *self.argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True)
        return self

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def ready(self):
        """This process, not an earlier one, has come so far that it answers (an agent: the manager has heard of it)."""
        with open(self.log_path, "rb") as file:
            file.seek(self.log_start)
            log = file.read()
        return b" registered with the manager " in log if self.argv[1] == "agent" else b" ready on " in log

    def kill(self):
        """kill -9, as a crash"""
        if self.alive():
            self.process.kill()
            self.process.wait()

    def stop(self, timeout_s=30):
        if not self.alive():
            return
        self.process.terminate()
        try:
            self.process.wait(timeout_s * STRETCH)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()


class Cluster:
    """
    agent_options   more options of a host's agent: {"dst": ["--criu-prefix", "/some/where"]}
    state_tmpfs     a host's state folder on a tmpfs with these mount options: {"dst": "size=1m"} is a host with a small disk
    own_folders     folders of which every host has its own, as hosts have: ["/srv"]. Each agent then lives in a mount namespace of its host; private_path() is where the test finds them.
    ipv6            hosts also have addresses of IPv6
    lab_options     more of Lab: {"kind": "ovs"}
    manager_options more options of the manager; called with the cluster when its folder and its lab are there
    """

    def __init__(self, name, hosts=("src", "dst", "cli"), keep_on_failure=False, agent_options=None, state_tmpfs=None, own_folders=(), ipv6=False, lab_options=None, manager_options=None):
        self.name = name
        self.lab = Lab(name, hosts, ipv6=ipv6, **(lab_options or {}))
        self.manager_options = manager_options or (lambda cluster: [])
        self.hosts = (*hosts, *(["sw"] if self.lab.kind == "routed" else []))  # a router has an agent, too: it changes routes there
        self.dir = None
        self.agents = {}
        self.manager = None
        self.clients = []
        self.program = os.path.join(build_dir(), "fleximigrate")
        self.keep = keep_on_failure
        self.agent_options, self.state_tmpfs, self.own_folders = agent_options or {}, state_tmpfs or {}, own_folders

    # ------------------------------------------------------------------ life

    def __enter__(self):
        try:
            return self.up()
        except BaseException:
            self.down()
            raise

    def __exit__(self, kind, value, trace):
        if kind is not None and self.keep:
            print(f"cluster: kept for inspection in {self.dir}", file=sys.stderr)
            return
        self.down()

    def up(self):
        # The state must be on a disk (journals are fsync'ed for a reason), so not in /run or /dev/shm.
        self.dir = tempfile.mkdtemp(prefix=f"fleximigrate-{self.name}-", dir="/var/tmp")
        self.lab.up()
        self._make_pki()
        self.manager = Daemon(self, MANAGER_HOST, [self.program, "manager", "--listen", f"{self.lab.address(MANAGER_HOST)}:7400", "--socket", self.path("manager.sock"),
                                                   "--tls-dir", self.path("pki"), "--state-dir", self.path("manager"), *self.manager_options(self)], self.path("manager.log")).start()
        for host, options in self.state_tmpfs.items():
            os.makedirs(self.path("state", host))
            self._run("mount", "-t", "tmpfs", "-o", options, "fleximigrate-lab", self.path("state", host))
        if self.own_folders:
            self._make_mount_namespaces()
        for host in self.hosts:
            self.agents[host] = Daemon(self, host, self._agent_argv(host), self.path(f"agent-{host}.log"), enter=self.enter_mounts(host)).start()
        self.wait_online()
        return self

    def _make_mount_namespaces(self):
        """Each is held by a file, as network namespaces are: an agent's mounts outlive the agent, as on a host."""
        folder = self.path("mnt")
        os.makedirs(folder)
        self._run("mount", "--bind", folder, folder)
        self._run("mount", "--make-private", folder)
        for host in self.hosts:
            with open(self.path("mnt", host), "wb"):
                pass
            script = "set -e\n"
            for own in self.own_folders:
                os.makedirs(self.private_path(host, own))
                script += f"mount --bind '{self.private_path(host, own)}' '{own}'\n"
            self._run("unshare", f"--mount={self.path('mnt', host)}", "--propagation", "slave", "sh", "-c", script)

    def enter_mounts(self, host):
        return ["nsenter", f"--mount={self.path('mnt', host)}", "--"] if self.own_folders else []

    def private_path(self, host, path):
        """Where this machine has what that host has at path, which is in one of own_folders."""
        return self.path("private", host, path.strip("/"))

    def _make_pki(self):
        self._run(self.program, "pki", "init", "--dir", self.path("pki"))
        self._run(self.program, "pki", "issue", "manager", self.lab.address(MANAGER_HOST), "--dir", self.path("pki"))
        for host in self.hosts:
            self._run(self.program, "pki", "issue", host, self.lab.address(host), "--dir", self.path("pki"))

    def _agent_argv(self, host):
        return [self.program, "agent", "--name", host, "--manager", f"{self.lab.address(MANAGER_HOST)}:7400", "--listen", f"{self.lab.address(host)}:7401", "--tls-dir", self.path("pki"),
                "--state-dir", self.path("state", host), "--run-dir", self.path("run", host), "--runtime-root", self.path("runc", host), "--bridge", self.lab.fabric.container_bridge,
                "--cgroup", f"/fleximigrate/{self.name}/{host}", *self.agent_options.get(host, [])]

    def down(self):
        for client in self.clients:
            client.end()
        if self.dir is None:
            return
        self._remove_containers()
        for daemon in [*self.agents.values(), self.manager]:
            if daemon:
                daemon.stop()
        self._clean_by_force()
        try:
            self.lab.down()
        finally:
            shutil.rmtree(self.dir, ignore_errors=True)
            self.dir = None

    def _remove_containers(self):
        """The product's own way first: a user would do this."""
        try:
            for container in self.json("container", "ls")["containers"]:
                self.cli("container", "rm", "--force", container["name"], check=False)
        except (ClusterError, subprocess.TimeoutExpired, ValueError):
            pass  # no manager: by force below

    def _clean_by_force(self):
        for host in self.hosts:
            root = self.path("runc", host)
            for container in os.listdir(root) if os.path.isdir(root) else []:
                subprocess.run(["runc", "--root", root, "delete", "--force", container], capture_output=True, check=False)
        for line in sorted(_mounts_below(self.dir), reverse=True):
            subprocess.run(["umount", "-l", line], capture_output=True, check=False)
        for path in _cgroups(f"fleximigrate/{self.name}"):
            _rmdir_cgroup(path)

    def path(self, *parts):
        return os.path.join(self.dir, *parts)

    # ------------------------------------------------------------------ commands

    def _run(self, *argv, timeout=60, check=True):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout * STRETCH, check=False)
        if check and done.returncode != 0:
            raise ClusterError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
        return done

    def cli(self, *argv, timeout=300, check=True):
        """The command line, over the manager's Unix socket."""
        return self._run(self.program, *argv, "--manager", f"unix:{self.path('manager.sock')}", timeout=timeout, check=check)

    def json(self, *argv, **options):
        return json.loads(self.cli(*argv, "--output", "json", **options).stdout)

    def migrate(self, container, to, *options, timeout=300):
        """Returns the migration as the command line prints it (also when it FAILED); raises when it was refused."""
        done = self.cli("migrate", container, "--to", to, *options, "--output", "json", timeout=timeout, check=False)
        result = json.loads(done.stdout.strip().splitlines()[-1]) if done.stdout.strip() else {}
        if "error" in result or not result:
            raise ClusterError(result.get("error", {}).get("message") or done.stderr)
        return result

    def doctor(self, host):
        done = self._run(self.program, "doctor", "--socket", self.path("run", host, "agent.sock"), "--output", "json", check=False)
        return json.loads(done.stdout)["findings"]

    def wait(self, what, condition, seconds_max=START_S_MAX, explain=None):
        deadline = time.monotonic() + seconds_max * STRETCH
        while True:
            if condition():
                return
            if time.monotonic() > deadline:
                raise ClusterError(f"{what}: not within {seconds_max} s" + (f"; {explain()}" if explain else ""))
            time.sleep(0.05)

    def wait_online(self, hosts=None):
        wanted = set(hosts or self.hosts)

        def online():
            for daemon in [self.manager, *self.agents.values()]:
                if not daemon.alive():
                    raise ClusterError(f"{daemon.argv[1]} on {daemon.host} ended:\n{daemon.log()[-2000:]}")
            if not all(daemon.ready() for daemon in [self.manager, *(self.agents[host] for host in wanted)]):
                return False
            try:
                return wanted <= {host["name"] for host in self.json("host", "ls", timeout=10)["hosts"] if host["status"] == "online"}
            except (ClusterError, ValueError, subprocess.TimeoutExpired):
                return False
        self.wait("all hosts online", online)

    def restart(self, daemon, env=None):
        daemon.kill()
        daemon.start(env)
        return daemon

    def wait_offline(self, host):
        self.wait(f"host {host} offline", lambda: self.json("host", "show", host)["status"] == "offline", 30)

    # ------------------------------------------------------------------ migrations

    def start_migration(self, container, to, *options):
        """Returns the id at once."""
        return self.json("migrate", container, "--to", to, "--detach", *options)["id"]

    def migration(self, migration):
        return self.json("migration", "show", migration)

    def wait_state(self, migration, *states, seconds_max=60):
        def reached():
            record = self.migration(migration)
            if record["state"] not in states and record["finished_unix_ms"]:
                raise ClusterError(f"migration {migration} is over ({record['path']}: {record['error_message']}), {' or '.join(states)} did not come")
            return record["state"] in states
        self.wait(f"migration {migration} in {' or '.join(states)}", reached, seconds_max)

    def wait_over(self, migration, seconds_max=180):
        """Returns the migration and its log lines."""
        lines = self.cli("migration", "watch", migration, timeout=seconds_max, check=False).stdout.splitlines()
        return self.migration(migration), [line for line in lines if re.match(r"(DEBUG|INFO|WARN|ERROR) \[\w+\]: ", line)]

    # ------------------------------------------------------------------ containers

    def container(self, name):
        return self.json("container", "show", name)

    def instance_dir(self, name):
        """The folder of a container's instance on the host where it is: its log, and its root filesystem if it came from another host."""
        container = self.container(name)
        return self.path("state", container["host"], "instances", container["instance"])

    def rootfs_of(self, name):
        received = os.path.join(self.instance_dir(name), "rootfs")
        return received if os.path.isdir(received) else self.path("bundles", name, "rootfs")

    def _rootfs(self, programs, python):
        """A root filesystem with these programs; made once, each bundle gets a copy."""
        path = self.path("rootfs", ("_".join(map(os.path.basename, programs)) or "usual") + ("+python" if python else ""))
        if not os.path.isdir(path):
            options = [word for program in programs for word in ("--with", program)] + (["--python"] if python else [])
            self._run(_tool("make-rootfs.sh"), path, *options, timeout=120)
        return path

    def make_bundle(self, name, command, programs=(), python=False, memory=None, binds=()):
        """binds: (path on the host, path in the container, option), option "rw" or "ro"."""
        bundle = self.path("bundles", name)
        os.makedirs(bundle, exist_ok=True)
        self._run("cp", "-a", "--reflink=auto", self._rootfs(programs, python), os.path.join(bundle, "rootfs"))
        self._run(_tool("make-bundle.sh"), bundle, *(["--memory", str(memory)] if memory else []), "--", *command)
        if binds:
            with open(os.path.join(bundle, "config.json"), encoding="utf-8") as file:
                config = json.load(file)
            config["mounts"] += [{"destination": target, "type": "bind", "source": source, "options": ["rbind", option]} for source, target, option in binds]
            with open(os.path.join(bundle, "config.json"), "w", encoding="utf-8") as file:
                json.dump(config, file, indent=4)
        return bundle

    def run_redis(self, name="redis", host="src", ip=CONTAINER_IP, *options):
        bundle = self.make_bundle(name, ["redis-server", "--save", "", "--appendonly", "no", "--protected-mode", "no", "--bind", "0.0.0.0", "--enable-debug-command", "yes", "--logfile", ""])
        self.cli("container", "run", name, "--host", host, "--bundle", bundle, "--address", f"{ip}/24", *options)
        self.wait("Redis answers", lambda: self.redis(ip, "PING", check=False).stdout.strip() == "PONG")

    def redis(self, ip, *command, check=True, stdin=None):
        return self.lab.run(MANAGER_HOST, ["redis-cli", "-h", ip, *command], check=check, stdin=stdin, timeout=120 * STRETCH) if stdin is None else \
            self.lab.run(MANAGER_HOST, ["redis-cli", "-h", ip, *command], check=check, input=stdin, timeout=300 * STRETCH, text=False)

    def load_redis(self, ip, megabytes):
        """Random values of 1 KiB: nothing to compress or share."""
        chunk_keys = 4096
        total = megabytes * 1024 * 1024 // 1280  # 1 KiB of value and what Redis adds to it
        process = self.lab.popen(MANAGER_HOST, ["redis-cli", "-h", ip, "--pipe"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            for first in range(0, total, chunk_keys):
                data = os.urandom(1024 * min(chunk_keys, total - first))
                process.stdin.write(b"".join(b"*3\r\n$3\r\nSET\r\n$%d\r\nkey:%d\r\n$1024\r\n%b\r\n" % (len(b"key:%d" % key), key, data[(key - first) * 1024:(key - first + 1) * 1024])
                                             for key in range(first, min(first + chunk_keys, total))))
            process.stdin.close()
            if process.wait(300) != 0:
                raise ClusterError(f"loading Redis failed: {process.stderr.read().decode()}")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            process.stderr.close()
        return total

    def redis_digest(self, ip):
        return self.redis(ip, "DEBUG", "DIGEST").stdout.strip()

    def client(self, ip=CONTAINER_IP, port=6379, key="counter", interval_us=500, host=MANAGER_HOST):
        client = Client(self, host, ip, port, key, interval_us)
        self.clients.append(client)
        return client

    # ------------------------------------------------------------------ what is left

    def kept(self):
        """What hosts keep for old connections of containers that have left: goes by itself, some time after the last one. A publication (*.published.json) stays with its container."""
        return [f"{host}: {name}" for host in self.hosts for name in _names(self.path("state", host, "kept")) if not name.endswith(".published.json")]

    def published(self):
        """The hosts that keep a publication, of containers that are there."""
        return [host for host in self.hosts for name in _names(self.path("state", host, "kept")) if name.endswith(".published.json")]

    def leftovers(self, hosts=None):
        """Everything with our name on it that belongs to no running container, as doctor and the system see it."""
        found = []
        for host in hosts or self.hosts:
            if self.agents[host].alive():
                found += [f"{host}: {finding['subject']}" for finding in self.doctor(host) if finding["severity"] == "leftover"]
            found += [f"{host}: {name} in the state folder" for name in _names(self.path("state", host)) if name not in ("instances", "kept", "migrations", "visited", "volumes")]
            found += [f"{host}: visited copy {name} half removed" for name in _names(self.path("state", host, "visited")) if name.startswith(".")]
            journals = self.path("state", host, "migrations")
            found += [f"{host}: journal {name}" for name in (os.listdir(journals) if os.path.isdir(journals) else [])]
        return found


class Client:
    """tools/lab/incr-client: increments over one connection."""

    def __init__(self, cluster, host, ip, port, key, interval_us):
        program = os.path.join(build_dir(), "tools", "incr-client")
        self.process = cluster.lab.popen(host, [program, ip, str(port), key, str(interval_us)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True)

    def reset(self):
        self.process.send_signal(signal.SIGUSR1)

    def alive(self):
        return self.process.poll() is None

    def report(self, timeout_s=90):
        """The figures so far, while it goes on; None when it did not answer (it waits for a reply, or its connection is gone)."""
        self.process.send_signal(signal.SIGUSR2)
        ready, _, _ = select.select([self.process.stdout], [], [], timeout_s * STRETCH)
        line = self.process.stdout.readline() if ready else ""
        return json.loads(line) if line else None

    def finish(self, timeout_s=90):
        """Stop and report."""
        if self.alive():
            self.process.terminate()
        out, _ = self.process.communicate(timeout=timeout_s * STRETCH)
        return json.loads(out) if out else {"error": "no report", "acknowledged": 0, "last": 0, "longest_gap_ms": 0}

    def end(self):
        if self.alive():
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


def _names(directory):
    return os.listdir(directory) if os.path.isdir(directory) else []


def _mounts_below(directory):
    with open("/proc/self/mounts", encoding="utf-8") as file:
        return [line.split()[1] for line in file if line.split()[1].startswith(directory + "/")]


def _cgroups(path):
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        points = [line.split()[4] for line in file if re.search(r" - cgroup2? ", line)]
    return [os.path.join(point, path) for point in points if os.path.isdir(os.path.join(point, path))]


def _rmdir_cgroup(path):
    """A cgroup folder is removed from its leaves up; files in it do not count."""
    for folder, _, _ in os.walk(path, topdown=False):
        try:
            os.rmdir(folder)
        except OSError:
            pass
    try:
        os.rmdir(os.path.dirname(path))
    except OSError:
        pass


def system_leftovers(name):
    """After Cluster.down(): what of that lab is still on this machine."""
    found = [f"netns {entry}" for entry in (os.listdir("/run/netns") if os.path.isdir("/run/netns") else []) if entry.startswith(f"{name}-")]
    with open("/proc/self/mounts", encoding="utf-8") as file:
        found += [f"mount {line.split()[1]}" for line in file if f"fleximigrate-{name}-" in line]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read()
                if f"fleximigrate-{name}-".encode() in words or f"fleximigrate-lab/{name}/".encode() in words:
                    found.append(f"process {pid}")
        except OSError:
            pass
    found += [f"folder /var/tmp/{entry}" for entry in os.listdir("/var/tmp") if entry.startswith(f"fleximigrate-{name}-")]
    found += [f"folder {path}" for path in [f"/run/fleximigrate-lab/{name}"] if os.path.exists(path)]
    found += [f"cgroup {path}" for path in _cgroups(f"fleximigrate/{name}")]
    return found


__all__ = ["Cluster", "ClusterError", "Client", "LabError", "CONTAINER_IP", "system_leftovers", "build_dir"]
