# SPDX-License-Identifier: MIT
"""Daemons of container engines for tests, each with folders of its own, in namespaces that take everything with them: call enter() first.

    engines.enter()                      # the script goes on in new mount, pid and network namespaces, /run is empty
    with engines.Docker("mytest") as d:
        d.load("image.tar")
        d.call("POST", "/containers/create?name=box", {...})
"""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PATIENCE_S = 20
ENTERED = "FLEXIMIGRATE_ENGINES_ENTERED"


def enter():
    """Start the running script again in namespaces of its own; they end with it, whatever it leaves behind."""
    if os.environ.get(ENTERED):
        subprocess.run(["sh", "-ec", "mount --make-rprivate /; mount -t tmpfs -o mode=755 engines /run; mount -t tmpfs engines /dev/shm"], check=True)
        return
    os.environ[ENTERED] = "1"
    os.execvp("unshare", ["unshare", "-nmpf", "--kill-child", "--mount-proc", sys.executable, *sys.argv])


class Daemon:
    program = None

    def __init__(self, name):
        self.name, self.process = name, None

    def __enter__(self):
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir="/var/tmp"))  # not on overlayfs or tmpfs
        self.socket = f"/run/{self.name}.sock"
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self):
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.program} does not come up:\n" + (self.folder / "log").read_text(errors="replace")[-2000:])
            time.sleep(0.05)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(PATIENCE_S)

    def answers(self):
        with socket.socket(socket.AF_UNIX) as s:
            return s.connect_ex(self.socket) == 0

    def __exit__(self, *_):
        try:
            self.stop()
        finally:
            with open("/proc/self/mounts") as mounts:
                inside = [line.split()[1] for line in mounts if str(self.folder) in line.split()[1]]
            for mount in reversed(inside):
                subprocess.run(["umount", "-l", mount], check=False)
            shutil.rmtree(self.folder, ignore_errors=True)
            for top in Path("/sys/fs/cgroup").glob(f"*/{self.name}"):
                for path in sorted(top.rglob("*/"), reverse=True):
                    if path.is_dir():
                        path.rmdir()
                top.rmdir()


class Docker(Daemon):
    program = "dockerd"

    def command(self):
        return ["dockerd", "--experimental", "--data-root", f"{self.folder}/data", "--exec-root", f"/run/{self.name}", "--pidfile", f"/run/{self.name}.pid", "-H", f"unix://{self.socket}",
                "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--bridge=none", "--ip-masq=false", "--userland-proxy=false", "--storage-driver", "overlay2", "--cgroup-parent", f"/{self.name}"]

    def raw(self, method, path, body=None, kind="application/json"):
        connection = http.client.HTTPConnection("docker", timeout=PATIENCE_S)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(PATIENCE_S)
        connection.sock.connect(self.socket)
        connection.request(method, "/v1.41" + path, body, {"Content-Type": kind, "Connection": "close"})
        answer = connection.getresponse()
        data = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {data.decode(errors='replace')}")
        return data

    def call(self, method, path, body=None):
        data = self.raw(method, path, None if body is None else json.dumps(body))
        return json.loads(data) if data.strip() else None

    def load(self, tar):
        return self.raw("POST", "/images/load", Path(tar).read_bytes(), "application/x-tar").decode()


class Containerd(Daemon):
    program = "containerd"

    def command(self):
        config = self.folder / "config.toml"
        config.write_text(f'version = 2\nroot = "{self.folder}/root"\nstate = "/run/{self.name}"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{self.socket}"\n')
        return ["containerd", "-c", str(config)]

    def ctr(self, *args):
        return subprocess.run(["ctr", "-a", self.socket, *args], check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout

    def load(self, tar):
        return self.ctr("image", "import", str(tar))


class Podman(Daemon):
    """No daemon: a folder that its command line works in."""

    program = "podman"

    def start(self):
        pass

    def podman(self, *args):
        f = self.folder
        command = ["podman", "--root", f"{f}/root", "--runroot", f"/run/{self.name}", "--tmpdir", f"/run/{self.name}-tmp", "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs"]
        return subprocess.run([*command, *args], check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout

    def load(self, tar):
        return self.podman("load", "-i", str(tar))
