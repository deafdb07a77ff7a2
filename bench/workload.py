"""What is moved, and the load that a bench puts on it: servers as bundles, and tools/lab/load-client (its head explains the figures)."""

import json
import os
import select
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass

VALUE_BYTES = 1024
CONNECTIONS = 16
KEYS_MIN = 64
MIB = 1024 * 1024
WWW = "data/www"
NGINX_CONF = f"""
daemon off; user root; worker_processes 1; pid /run/nginx.pid; error_log stderr;
events {{ worker_connections 512; }}
http {{
    access_log off; keepalive_timeout 1d; keepalive_requests 1000000000;
    client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi; uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
    server {{ listen 80; root /{WWW}; }}
}}
"""


def tool(name):
    return os.path.join(os.path.abspath(os.environ.get("BUILD") or os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "build")), "tools", name)


@dataclass(frozen=True)
class Case:
    """One line of a result: what is moved how often under which load and with what."""

    tool: str
    workload: str
    megabytes: int
    write_percent: int
    link: str
    queue: str
    runs: int
    rate: int
    pages_per_s: int = 0
    working_mb: int = 0
    idle: bool = False
    streams: int = 0

    def load(self):
        """In words; with server, size and link it says all about a load."""
        if self.idle:
            return "idle"
        return f"{self.pages_per_s} pages/s" if self.workload == "dirtier" else f"{self.write_percent}% writes"


class Redis:
    """The reference: text of 1 KiB under many keys."""

    port, protocol, sized, writes, rate_max = 6379, "redis", True, True, None
    programs = ("redis-server",)

    def keys(self, case):
        return max(case.megabytes * MIB // 1280, KEYS_MIN)  # a value of 1 KiB and what Redis adds to it

    def command(self, case):
        return ["redis-server", "--save", "", "--appendonly", "no", "--protected-mode", "no", "--bind", "0.0.0.0", "--logfile", ""]

    def furnish(self, rootfs):
        pass


class Memcached(Redis):
    """The same keys and values in several threads, in memory that it never gives back."""

    port, protocol = 11211, "memcached"
    programs = ("memcached",)

    def keys(self, case):
        return max(case.megabytes * MIB // 1184, KEYS_MIN)  # the size of the slab for a value of 1 KiB

    def command(self, case):
        return ["memcached", "-u", "root", "-l", "0.0.0.0", "-p", str(self.port), "-m", str(case.megabytes * 3 // 2 + 64)]


class Nginx(Redis):
    """Two processes with little memory; what they serve are files of the container, so nothing is written and no size is to be chosen."""

    port, protocol, sized, writes = 80, "http", False, False
    programs = ("nginx",)

    def keys(self, case):
        return KEYS_MIN

    def command(self, case):
        return ["nginx", "-e", "stderr", "-c", "/data/nginx.conf"]

    def furnish(self, rootfs):
        os.makedirs(os.path.join(rootfs, WWW))
        with open(os.path.join(rootfs, "data", "nginx.conf"), "w", encoding="ascii") as file:
            file.write(NGINX_CONF)
        for key in range(KEYS_MIN):
            with open(os.path.join(rootfs, WWW, f"key:{key}"), "w", encoding="ascii") as file:
                file.write((f"{key} " * VALUE_BYTES)[:VALUE_BYTES])  # the same on every host


class Dirtier(Redis):
    """tools/lab/dirtier: changes pages of its own accord; the requests only ask whether it answers."""

    port, protocol, writes, rate_max = 7000, "dirtier", False, 1000

    @property
    def programs(self):
        return (tool("dirtier"),)

    def keys(self, case):
        return case.megabytes * (MIB // 4096)

    def command(self, case):
        return ["dirtier", str(self.port), str(case.megabytes), str(min(case.working_mb, case.megabytes)), str(0 if case.idle else case.pages_per_s)]


SERVERS = {"redis": Redis(), "memcached": Memcached(), "nginx": Nginx(), "dirtier": Dirtier()}


def missing(case):
    """Why this workload cannot be measured here, or None."""
    absent = [program for program in SERVERS[case.workload].programs if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]
    return f"{absent[0]} is not installed (tools/setup/install-packages.sh --group test)" if absent else None


def make_bundle(cluster, case, name):
    server = SERVERS[case.workload]
    bundle = cluster.make_bundle(name, server.command(case), server.programs)
    server.furnish(os.path.join(bundle, "rootfs"))
    return bundle


def await_answer(cluster, host, case, address):
    port = SERVERS[case.workload].port
    connect = ["python3", "-c", "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 1)", address, str(port)]
    cluster.wait(f"{case.workload} answers", lambda: cluster.lab.run(host, connect, check=False).returncode == 0)


class Load:
    """Fills a server and then sends the case's requests until finish()."""

    def __init__(self, lab, host, address, case):
        server = SERVERS[case.workload]
        rate = 0 if case.idle else min(case.rate, server.rate_max or case.rate)
        argv = [tool("load-client"), server.protocol, address, str(server.port), str(server.keys(case)), str(VALUE_BYTES), str(CONNECTIONS), str(rate),
                str(0 if case.idle else case.write_percent)]
        self.process = lab.popen(host, argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True)
        line = self._line(600)
        if line != "loaded\n":
            self.end()
            raise RuntimeError(f"loading {case.workload} failed: {line.strip()}")

    def _line(self, seconds_max):
        ready, _, _ = select.select([self.process.stdout], [], [], seconds_max)
        return self.process.stdout.readline() if ready else ""

    def reset(self):
        """Gaps and intervals count from here."""
        self.process.send_signal(signal.SIGUSR1)

    def report(self):
        self.process.send_signal(signal.SIGUSR2)
        line = self._line(150)
        if not line:
            raise RuntimeError("the load client does not answer")
        report = json.loads(line)
        if report["error"]:
            raise RuntimeError(f"the load client's connection failed: {report['error']}")
        return report

    def settled(self, since_ms):
        """The first report with no request on the way that is older than an instant of real time: then the longest gap is known."""
        deadline = time.monotonic() + 150
        while True:
            report = self.report()
            if report["now_ms"] - report["waiting_ms"] >= since_ms:
                return report
            if time.monotonic() > deadline:
                raise RuntimeError("a client is without a reply 150 s after the move")
            time.sleep(0.02)

    def finish(self):
        """Reads everything back; returns the last report."""
        self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=600)
        return json.loads(out.splitlines()[-1])

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def per_ms(report, from_ms, to_ms):
    """Replies per millisecond between two instants of real time, as the load client's intervals tell; None when that is no time."""
    width, start = report["interval_ms"], report["intervals_from_ms"]
    total = covered = 0.0
    for index, count in enumerate(report["per_interval"]):
        begin = start + index * width
        part = min(begin + width, to_ms) - max(begin, from_ms)
        if part > 0:
            total += count * part / width
            covered += part
    return total / covered if covered >= width else None
