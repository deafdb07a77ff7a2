"""The move of a podman container, as its manual says: checkpoint into a file, send the file, restore from it.

The image is at the destination before the clock starts, and the file is not compressed (podman's own choice, zstd, takes longer than sending).
"""

import os
import shutil
import subprocess
import time

import stock

IMAGE = "localhost/fleximigrate-bench:1"
ARCHIVE = "checkpoint.tar"
LIMIT = 1024
HELPERS_S_MAX = 30
LOCKS = "/dev/shm/libpod_lock"  # one for all storages of a user, and kept


def missing():
    """Why podman cannot be measured here, or None."""
    return None if shutil.which("podman") else "podman is not installed (tools/setup/install-packages.sh --group bench)"


class Podman(stock.Container):
    """Two podmans, one for each host, each with a storage of its own."""

    def __init__(self, lab, name, bundle_for, command, address):
        super().__init__(lab, name, address)
        self.bundle_for, self.command = bundle_for, command
        self.locks_are_ours = not os.path.exists(LOCKS)
        self.link = os.path.join(self.dir, "net")  # a checkpoint has the network namespace's path in it, which is one for both hosts

    def _podman(self, host, *words):
        folders = [word for option in ("root", "runroot", "tmpdir") for word in (f"--{option}", os.path.join(self.dir, f"{option}-{host}"))]
        return self.lab._enter(host, ["podman", *folders, "--runtime", "runc", "--cgroup-manager", "cgroupfs", "--storage-driver", "vfs", "--events-backend", "none", *words])

    def _point(self, host):
        if os.path.islink(self.link):
            os.remove(self.link)
        os.symlink(f"/run/netns/{self.netns[host]}", self.link)

    def _do(self, host, *words):
        done = subprocess.run(self._podman(host, *words), env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"podman {' '.join(words[:2])}: {done.stderr.strip()}")

    def start(self):
        self.make_hosts()
        rootfs, image = os.path.join(self.bundle_for("src"), "rootfs"), os.path.join(self.dir, "image.tar")
        subprocess.run(["tar", "-C", rootfs, "-cf", image, "."], check=True)
        self._do("src", "import", image, IMAGE)
        os.remove(image)
        self._do("src", "save", "--output", image, IMAGE)  # an import of its own would be another image to podman
        self._do("dst", "load", "--input", image)
        os.remove(image)
        self._ip("-netns", self.netns["src"], "link", "set", "eth0", "up")
        self._point("src")
        # podman asks for limits that a host without CAP_SYS_RESOURCE cannot set: these are lower than any host's.
        limits = ["--ulimit", f"nofile={LIMIT}:{LIMIT}", "--ulimit", f"nproc={LIMIT}:{LIMIT}"]
        self._do("src", "run", "--detach", "--name", self.name, "--network", f"ns:{self.link}", "--log-driver", "none", "--cgroup-parent", f"/fleximigrate/{self.lab.name}", *limits,
                 IMAGE, *self.command)
        self.place = "src"

    def move(self):
        source, destination = self.place, "dst" if self.place == "src" else "src"
        self.cpu = {source: 0.0, destination: 0.0}
        here, there = self._folders("images-here", "images-there")
        self._run(source, self._podman(source, "container", "checkpoint", "--compress", "none", "--tcp-established", "--file-locks", "--export", os.path.join(here, ARCHIVE), self.name), here)
        self._send(source, destination, here, there)
        self._close(destination)
        self._point(destination)
        self._run(destination, self._podman(destination, "container", "restore", "--tcp-established", "--file-locks", "--import", os.path.join(there, ARCHIVE)), there)
        self._open(destination)
        self._run(source, self._podman(source, "rm", self.name), here)
        self._open_netns(source)
        self._folders("images-here", "images-there")

    def _helpers(self):
        """Whether processes of podman are left: its monitor starts one that tidies up after a container has ended, and that would make our folders again."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    if self.dir.encode() in file.read():
                        return True
            except OSError:
                pass  # it has ended meanwhile
        return False

    def end(self):
        for host in ("src", "dst"):
            subprocess.run(self._podman(host, "rm", "--force", "--all", "--time", "0"), env=self.environment, capture_output=True, check=False)
        deadline = time.monotonic() + HELPERS_S_MAX
        while self._helpers() and time.monotonic() < deadline:
            time.sleep(0.02)
        super().end()
        if self.locks_are_ours and os.path.exists(LOCKS):
            os.remove(LOCKS)
