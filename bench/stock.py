"""The same moves with stock tools, as somebody would script them: runc and CRIU (podman.py: podman), images sent over the link, the address taken along.

What favours them is granted: the root filesystem, the network namespace and the bundle are at the destination before the clock starts, images lie in a tmpfs, the announcement of
the new place is sent at once, and nothing is verified.
"""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

import meter

MAC = "02:77:00:00:00:64"
PREFIX = "/opt/fleximigrate/criu"
PORT = 27100
# A lazy dump keeps all pages in pipes; without CAP_SYS_RESOURCE it may keep 64 MB, in pipes of 1 MB. These limits are lifted for stock CRIU as long as a bench runs.
PIPE_LIMITS = {"/proc/sys/fs/pipe-user-pages-soft": "0", "/proc/sys/fs/pipe-max-size": str(1 << 28)}
SEND = ["python3", "-c", """
import os, socket, subprocess, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as s:
    sys.exit(subprocess.call(["tar", "-C", sys.argv[3], "-cf", "-", "--sparse", "."], stdout=s.fileno()))
"""]
RECEIVE = ["python3", "-c", """
import socket, subprocess, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as l:
    print("ready", flush=True)
    s = l.accept()[0]
    with s:
        sys.exit(subprocess.call(["tar", "-C", sys.argv[3], "-xf", "-"], stdin=s.fileno()))
"""]


def _read(path):
    with open(path, encoding="ascii") as file:
        return file.read()


def _write_all(values):
    for path, value in values.items():
        with open(path, "w", encoding="ascii") as file:
            file.write(value)


def _announce(netns, address):
    """One gratuitous ARP from inside the container's namespace."""
    code = f"""
import socket
mac = bytes.fromhex({MAC.replace(':', '')!r})
ip = socket.inet_aton({address!r})
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0x0806))
s.send(b"\\xff" * 6 + mac + bytes.fromhex("08060001080006040001") + mac + ip + b"\\xff" * 6 + ip)
"""
    subprocess.run(["nsenter", f"--net=/run/netns/{netns}", "--", "python3", "-c", code], check=True)


class Container:
    """A container in a network namespace of its own, on one of two hosts of a lab; the namespace is on both, and what CRIU finds in it is the same."""

    def __init__(self, lab, name, address):
        self.lab, self.name, self.address = lab, name, address
        self.dir = tempfile.mkdtemp(prefix=f"fm-{lab.name}-", dir="/dev/shm")  # podman allows 50 letters
        self.environment = dict(os.environ, PATH=f"{PREFIX}:{os.environ['PATH']}:/usr/sbin:/sbin")
        self.netns, self.place, self.cpu = {}, None, {"src": 0.0, "dst": 0.0}
        for host in ("src", "dst"):
            self.netns[host] = f"{lab.name}-c{host}"

    def _ip(self, *words):
        subprocess.run(["ip", *words], check=True)

    def _make_netns(self, host):
        inside, outside = self.netns[host], self.lab.netns(host)
        self._ip("netns", "add", inside)
        self._ip("link", "add", "eth0", "netns", inside, "address", MAC, "type", "veth", "peer", "name", "stock", "netns", outside)
        self._ip("-netns", outside, "link", "set", "stock", "master", "br0", "up")
        self._ip("-netns", inside, "address", "add", f"{self.address}/24", "dev", "eth0")
        self._ip("-netns", inside, "link", "set", "lo", "up")

    def _run(self, host, argv, folder, **stdio):
        """A step on a host; when it fails, with what CRIU said."""
        try:
            self.cpu[host] += meter.run(argv, env=self.environment, **{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **stdio})
        except RuntimeError as error:
            said = []
            for name in ("dump.log", "restore.log", "lazy-pages.log"):
                path = os.path.join(folder, name)
                if os.path.exists(path):
                    with open(path, encoding="utf-8", errors="replace") as file:
                        said += [line for line in file if "Error" in line]
            raise RuntimeError(f"{error}\n{''.join(said[-8:])}") from error

    def make_hosts(self):
        for host in ("src", "dst"):
            self._make_netns(host)

    def _send(self, source, destination, path_from, path_to):
        with self.lab.popen(destination, [*RECEIVE, self.lab.address(destination), str(PORT), path_to], stdout=subprocess.PIPE) as receiver:
            receiver.stdout.readline()
            self.cpu[source] += meter.run(self.lab._enter(source, [*SEND, self.lab.address(destination), str(PORT), path_from]))
            self.cpu[destination] += meter.wait(receiver, ["receiving images"])

    def _close(self, host):
        """Until the sockets are there, a packet of a client would be answered with RST."""
        self._filter(host, "-A INPUT -j DROP\n")
        self._ip("-netns", self.netns[host], "link", "set", "eth0", "up")

    def _open(self, host):
        self._filter(host, "")
        _announce(self.netns[host], self.address)
        self.place = host

    def _filter(self, host, rules):
        subprocess.run(["nsenter", f"--net=/run/netns/{self.netns[host]}", "--", "iptables-restore"], input=f"*filter\n{rules}COMMIT\n", text=True, check=True)

    def _open_netns(self, host):
        """CRIU leaves the source's network locked; it is the next destination."""
        self._ip("-netns", self.netns[host], "link", "set", "eth0", "down")
        self._filter(host, "")

    def _folders(self, *names):
        paths = [os.path.join(self.dir, name) for name in names]
        for path in paths:
            shutil.rmtree(path, ignore_errors=True)
            os.mkdir(path)
        return paths

    def _end_what_hangs(self):
        """A restore that fails can leave CRIU waiting for ever, and its mounts."""
        for host in ("src", "dst"):
            for _, pid, command in self.lab._processes(host):
                if "criu" in command:
                    os.kill(pid, signal.SIGKILL)
        with open("/proc/self/mounts", encoding="utf-8") as file:
            mounts = [line.split()[1] for line in file]
        for mount in sorted((mount for mount in mounts if mount.startswith(self.dir + "/")), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=False)

    def end(self):
        for host in ("src", "dst"):
            subprocess.run(["ip", "netns", "delete", self.netns[host]], capture_output=True, check=False)
        self._end_what_hangs()
        shutil.rmtree(self.dir, ignore_errors=True)


class Runc(Container):
    """Of bare runc. bundle_for: makes the bundle for a host."""

    def __init__(self, lab, name, bundle_for, address, lazy):
        super().__init__(lab, name, address)
        self.bundles, self.bundle_for = {}, bundle_for
        self.move = self.move_lazy if lazy else self.move_stop_and_copy
        self.pipe_limits = {path: _read(path) for path in PIPE_LIMITS}
        # Pipes are what a container engine gives a container, and what CRIU can hand on. The servers say less than one holds.
        self.pipes = [*os.pipe(), *os.pipe()]
        self.stdio = {"stdin": self.pipes[0], "stdout": self.pipes[3], "stderr": self.pipes[3]}

    def _configure(self, bundle, netns):
        path = os.path.join(bundle, "config.json")
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
        for namespace in config["linux"]["namespaces"]:
            if namespace["type"] == "network":
                namespace["path"] = f"/run/netns/{netns}"
        config["linux"]["cgroupsPath"] = f"/fleximigrate/{self.lab.name}/{self.name}-{netns}"
        with open(path, "w", encoding="utf-8") as file:
            json.dump(config, file)

    def _runc(self, host, *words):
        return ["runc", "--root", os.path.join(self.dir, f"runc-{host}"), *words]

    def start(self):
        _write_all(PIPE_LIMITS)
        self.make_hosts()
        for host in ("src", "dst"):
            self.bundles[host] = self.bundle_for(host)
            self._configure(self.bundles[host], self.netns[host])
        self._ip("-netns", self.netns["src"], "link", "set", "eth0", "up")
        self._run("src", self._runc("src", "run", "--detach", "--bundle", self.bundles["src"], self.name), self.dir, **self.stdio)
        self.place = "src"

    def _restore(self, host, images, *options):
        self._close(host)
        self._run(host, self.lab._enter(host, self._runc(host, "restore", "--detach", "--tcp-established", "--file-locks", "--image-path", images,
                                                         "--work-path", images, "--bundle", self.bundles[host], *options, self.name)), images, **self.stdio)
        self._open(host)

    def _checkpoint(self, source, images, *options):
        return self.lab._enter(source, self._runc(source, "checkpoint", "--tcp-established", "--file-locks", "--image-path", images, "--work-path", images, *options,
                                                  self.name))

    def move_stop_and_copy(self):
        source, destination = self.place, "dst" if self.place == "src" else "src"
        self.cpu = {source: 0.0, destination: 0.0}
        here, there = self._folders("images-here", "images-there")
        self._run(source, self._checkpoint(source, here), here)
        self._send(source, destination, here, there)
        self._restore(destination, there)
        self._open_netns(source)
        self._folders("images-here", "images-there")

    def move_lazy(self):
        source, destination = self.place, "dst" if self.place == "src" else "src"
        self.cpu = {source: 0.0, destination: 0.0}
        here, there = self._folders("images-here", "images-there")
        ready, status = os.pipe()
        dump = subprocess.Popen(self._checkpoint(source, here, "--lazy-pages", "--page-server", f"{self.lab.address(source)}:{PORT + 1}", "--status-fd", str(status)),
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self.environment, pass_fds=[status])
        os.close(status)
        with os.fdopen(ready, "rb") as file:
            if file.read(1) != b"\0":
                raise RuntimeError("the lazy checkpoint failed")
        self._send(source, destination, here, there)
        pages = self.lab.popen(destination, [os.path.join(PREFIX, "criu"), "lazy-pages", "--images-dir", there, "--work-dir", there, "--page-server", "--address", self.lab.address(source),
                                             "--port", str(PORT + 1), "-v1", "-o", "lazy-pages.log"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not os.path.exists(os.path.join(there, "lazy-pages.socket")):
            if pages.poll() is not None:
                raise RuntimeError("criu lazy-pages ended")
            time.sleep(0.001)
        self._restore(destination, there, "--lazy-pages")
        for process, host in ((pages, destination), (dump, source)):
            self.cpu[host] += meter.wait(process, ["the transfer of lazy pages"])
        self._open_netns(source)
        self._folders("images-here", "images-there")

    def end(self):
        _write_all(self.pipe_limits)
        for host in ("src", "dst"):
            subprocess.run(self._runc(host, "delete", "--force", self.name), capture_output=True, check=False)
        super().end()
        for fd in self.pipes:
            os.close(fd)
