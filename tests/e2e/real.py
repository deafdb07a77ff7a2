# SPDX-License-Identifier: MIT
"""Real programs that are moved: what they are made of, how they are started, who talks to them meanwhile. From this machine's Debian packages.

MOVES can be moved; REFUSED say why not, before anything is frozen.
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
import typing

from common import HERE, Cluster, Failure, build_dir, expect

PROGRAMS = os.path.join(HERE, "programs")
sys.path.insert(0, PROGRAMS)
from client import LARGE_PERIOD, SMALL  # noqa: E402
OBJECTS = os.path.join(build_dir(), "tests", "e2e", "programs", "objects")
NOBODY = 65534


def _nothing(*_):
    pass


@dataclasses.dataclass
class Real:
    """
    prepare   (root filesystem): more files
    client    arguments of programs/client.py after the port; kind first
    ready     (cluster, address): raises or returns false until it serves
    check     (cluster, address, client): after each move and at the end
    around    (cluster, address): a context for each move
    """
    name: str
    what: str  # under which load
    command: list
    client: list
    port: int = 6379
    package: str = ""  # whose version it is; "" ours
    packages: tuple = ()  # whose files are all needed
    programs: tuple = ()
    python: bool = False
    environment: tuple = ()
    user: int = 0
    prepare: typing.Callable = _nothing
    ready: typing.Callable = None
    setup: typing.Callable = _nothing
    check: typing.Callable = _nothing
    command_line: typing.Callable = None  # (address): the last arguments of the client
    refused: str = ""  # what the refusal says
    remedy: str = ""
    short: bool = False
    limit: str = ""  # what to know

    def version(self):
        if not self.package:
            return ""
        return subprocess.run(["dpkg-query", "-W", "-f", "${Version}", self.package], capture_output=True, text=True, check=False).stdout

    def bundle(self, cluster: Cluster, name):
        """A root filesystem made once, each container has a copy."""
        root = cluster.path("rootfs", "real-" + re.sub(r"\W+", "-", self.name))
        if not os.path.isdir(root):
            words = [word for package in self.packages for word in ("--package", package)] + [word for program in self.programs or ("cat",) for word in ("--with", program)]
            cluster._run(os.path.join(HERE, "..", "..", "tools", "lab", "make-rootfs.sh"), root, *words, *(["--python"] if self.python else []), timeout=120)
            os.chmod(os.path.join(root, "data"), 0o1777)
            self.prepare(root)
        bundle = cluster.path("bundles", name)
        os.makedirs(bundle)
        cluster._run("cp", "-a", "--reflink=auto", root, os.path.join(bundle, "rootfs"))
        cluster._run(os.path.join(HERE, "..", "..", "tools", "lab", "make-bundle.sh"), bundle, "--", *self.command)
        path = os.path.join(bundle, "config.json")
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
        config["process"]["env"] += self.environment
        config["process"]["user"] = {"uid": self.user, "gid": self.user}
        with open(path, "w", encoding="utf-8") as file:
            json.dump(config, file)
        return bundle


# ---- pieces

def copies(*names):
    def prepare(root):
        for name in names:
            with open(os.path.join(PROGRAMS, name), "rb") as source, open(os.path.join(root, name), "wb") as target:
                target.write(source.read())
    return prepare


def write(root, path, text):
    os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
    with open(os.path.join(root, path), "wb") as file:
        file.write(text.encode() if isinstance(text, str) else text)


def pings(port=6379):
    """It answers as Redis does."""
    def ready(cluster, address):
        return cluster.lab.run("cli", ["redis-cli", "-h", address, "-p", str(port), "PING"], check=False, timeout=10).stdout.strip() == "PONG"
    return ready


def accepts(port):
    def ready(cluster, address):
        return cluster.lab.run("cli", ["python3", "-c", f"import socket; socket.create_connection(('{address}', {port}), 1)"], check=False, timeout=10).returncode == 0
    return ready


def state(cluster, address):
    done = cluster.lab.run("cli", ["redis-cli", "-h", address, "STATE"], check=False, timeout=60)
    return done.stdout.strip()


def keeps_working(cluster, address, _):
    """The part of it that no client asks for goes on, too."""
    before = int(state(cluster, address))
    cluster.wait("its other threads go on", lambda: int(state(cluster, address)) > before + 2, 30)


# ---- nginx

NGINX = """daemon off; user root; worker_processes 2; pid /run/nginx.pid; error_log stderr;
events { worker_connections 1024; }
http {
    access_log off; keepalive_timeout 600; keepalive_requests 1000000; sendfile on;
    client_body_temp_path /data/body; proxy_temp_path /data/proxy; fastcgi_temp_path /data/fastcgi; uwsgi_temp_path /data/uwsgi; scgi_temp_path /data/scgi;
    server { listen 80; root /data; location /large { limit_rate 100k; } }
}
"""


def nginx_files(root):
    write(root, "data/nginx.conf", NGINX)
    write(root, "data/small", SMALL)
    write(root, "data/large", LARGE_PERIOD * 64)
    os.makedirs(os.path.join(root, "var/log/nginx"), exist_ok=True)


# ---- apache: a process for each connection

APACHE = """ServerRoot /data
DefaultRuntimeDir /run
ServerName test
PidFile /run/apache2.pid
Listen 80
LoadModule mpm_prefork_module /usr/lib/apache2/modules/mod_mpm_prefork.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
User nobody
Group nogroup
Mutex fcntl:/run
StartServers 8
MaxRequestWorkers 100
KeepAliveTimeout 600
MaxKeepAliveRequests 0
DocumentRoot /data
ErrorLog /dev/stderr
"""


def apache_files(root):
    nginx_files(root)
    write(root, "data/apache.conf", APACHE)


# ---- databases

POSTGRES = "/usr/lib/postgresql/15/bin"
TABLE = "CREATE TABLE acknowledged (client INT, number INT, PRIMARY KEY (client, number));"
COUNT = "SELECT count(*) FROM acknowledged"


def postgres_tool(cluster, tool, address, *words, timeout=120):
    done = cluster.lab.run("cli", [f"{POSTGRES}/{tool}", "-h", address, "-U", "nobody", *words, "postgres"], check=False, timeout=timeout)
    expect(done.returncode == 0, f"{tool}: {done.stderr.strip()}")
    return done.stdout.strip()


def sql_check(query):
    """Every acknowledged insert is there. (One more may be on its way.)"""
    def check(cluster, address, client):
        acknowledged = client.report()["acknowledged"]
        found = int(query(cluster, address, COUNT))
        expect(found >= acknowledged, f"{acknowledged} inserts were acknowledged, {found} are there")
    return check


def postgres_query(cluster, address, text):
    return postgres_tool(cluster, "psql", address, "-X", "-q", "-t", "-A", "-c", text)


def postgres_ready(cluster, address):
    return cluster.lab.run("cli", [f"{POSTGRES}/pg_isready", "-h", address], check=False, timeout=10).returncode == 0


MARIA = ["mariadbd", "--no-defaults", "--user=root", "--datadir=/data/db", "--socket=/run/mariadb.sock", "--pid-file=/run/mariadb.pid", "--skip-grant-tables", "--bind-address=0.0.0.0", "--port=3306", "--skip-networking=0",
         "--skip-name-resolve", "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=1", "--lc-messages-dir=/usr/share/mysql"]
MARIA_START = """mkdir -p /data/db; cd /usr/share/mysql
(echo 'CREATE DATABASE IF NOT EXISTS mysql; USE mysql;'; cat mysql_system_tables.sql mysql_system_tables_data.sql; echo 'CREATE DATABASE test;') | {0} --bootstrap && exec {0}"""


def maria_cli(address):
    return ["mariadb", "--no-defaults", "-h", address, "-u", "root", "-N", "-B", "-n", "--skip-reconnect", "test"]


def maria_query(cluster, address, text):
    done = cluster.lab.run("cli", [*maria_cli(address), "-e", text], check=False, timeout=60)
    expect(done.returncode == 0, f"mariadb: {done.stderr.strip()}")
    return done.stdout.strip()


def maria_ready(cluster, address):
    return cluster.lab.run("cli", [*maria_cli(address), "-e", "SELECT 1"], check=False, timeout=10).returncode == 0


def maria(name, what, *options, **more):
    words = " ".join([*MARIA, *options])
    return Real(name, what, ["sh", "-c", MARIA_START.format(words)], ["sql", "--connections", "4"], port=3306, package="mariadb-server", packages=("mariadb-server", "mariadb-server-core"), programs=("cat", "mkdir"), ready=maria_ready,
                setup=lambda cluster, address: maria_query(cluster, address, TABLE), check=sql_check(maria_query), command_line=maria_cli, **more)


# ---- name server

KNOT = """server:
    listen: 0.0.0.0@53
    rundir: /run
database:
    storage: /data
zone:
  - domain: example.
    storage: /data
    file: zone
"""
ZONE = """$TTL 60
@ SOA ns.example. mail.example. 1 60 60 60 60
@ NS ns
ns A 192.0.2.2
www A 192.0.2.1
"""


def knot_files(root):
    write(root, "data/knot.conf", KNOT)
    write(root, "data/zone", ZONE)


# ---- a monitor that scrapes itself

PROMETHEUS = "global: { scrape_interval: 250ms }\nscrape_configs: [ { job_name: self, static_configs: [ { targets: ['127.0.0.1:9090'] } ] } ]\n"


def prometheus_files(root):
    write(root, "data/prometheus.yml", PROMETHEUS)


def prometheus_value(cluster, address, query):
    script = f"import json,urllib.request,urllib.parse; print(urllib.request.urlopen('http://{address}:9090/api/v1/query?'+urllib.parse.urlencode({{'query': {query!r}}}), timeout=20).read().decode())"
    done = cluster.lab.run("cli", ["python3", "-c", script], check=False, timeout=60)
    expect(done.returncode == 0, f"query: {done.stderr.strip()[-200:]}")
    result = json.loads(done.stdout)["data"]["result"]
    return float(result[0]["value"][1]) if result else 0.0


def prometheus_check(cluster, address, _):
    samples = "prometheus_tsdb_head_samples_appended_total"
    before = prometheus_value(cluster, address, samples)
    cluster.wait("it scrapes", lambda: prometheus_value(cluster, address, samples) > before, 30)
    expect(prometheus_value(cluster, address, "min_over_time(up[10m])") == 1, "a scrape failed")


def objects_check(cluster, address, _):
    def look():
        text = state(cluster, address)
        try:
            found = json.loads(text)
        except ValueError as error:
            raise Failure(f"it does not say its state: {text}") from error
        expect(not found["wrong"], f"it says: {found['wrong']}")
        return found
    before = look()
    cluster.wait("all its parts go on", lambda: all(count > before["rounds"][name] + 2 for name, count in look()["rounds"].items()), 60)


RESP = ["resp", "--connections", "8"]
SINK = "import socket, sys; s = socket.create_server((str(), 6379)).accept()[0]; [s.sendall(line.encode()) for line in sys.stdin]"
SHELL = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done | cat | while read -r n; do echo $n; done | sh -c 'while read -r n; do echo $n; done' | python3 -c '" + SINK + "'"
SQLITE_SERVER = "sqlite_server.py"


def objects(name, what, *words, **more):
    return Real(name, what, [OBJECTS, *words], ["resp", "--connections", "4"], programs=(OBJECTS, "sleep"), ready=pings(), **({"check": objects_check} | more))


MOVES = [
    Real("Redis", "8 connections that increment", ["redis-server", "--save", "", "--appendonly", "no", "--protected-mode", "no", "--bind", "0.0.0.0", "--logfile", ""], RESP, package="redis-server", programs=("redis-server",), ready=pings(), short=True),
    Real("Redis with its append-only file", "8 connections that increment, fsync always", ["redis-server", "--save", "", "--appendonly", "yes", "--appendfsync", "always", "--dir", "/data", "--protected-mode", "no", "--bind", "0.0.0.0", "--logfile", ""], RESP,
         package="redis-server", programs=("redis-server",), ready=pings()),
    Real("memcached", "8 connections that increment, and values read back", ["memcached", "-u", "root", "-m", "64", "-t", "4", "-l", "0.0.0.0"], ["memcached", "--connections", "8"], 11211, "memcached", programs=("memcached",), ready=accepts(11211)),
    Real("nginx", "200 connections: 100 keep-alive, 100 slow downloads", ["nginx", "-e", "stderr", "-c", "/data/nginx.conf"], ["http", "--connections", "200"], 80, "nginx-light", programs=("nginx",), prepare=nginx_files, ready=accepts(80), short=True),
    Real("Apache httpd, prefork", "40 connections: 20 keep-alive, 20 downloads", ["apache2", "-f", "/data/apache.conf", "-D", "FOREGROUND"], ["http", "--connections", "40"], 80, "apache2-bin", ("apache2-bin",), prepare=apache_files, ready=accepts(80)),
    maria("MariaDB", "4 clients with acknowledged inserts", "--innodb-use-native-aio=0", limit="with innodb_use_native_aio=0"),
    Real("Python asyncio", "8 connections, a child process, timers", ["python3", "/aio_server.py"], RESP, package="python3", python=True, prepare=copies("aio_server.py"), ready=pings(), check=keeps_working, short=True),
    Real("Node.js", "8 connections, files, a worker thread, garbage collection", ["node", "/node_server.js"], RESP, package="nodejs", programs=("node",), prepare=copies("node_server.js"), environment=("UV_USE_IO_URING=0",), ready=pings(), check=keeps_working),
    Real("Java", "8 connections, 40 threads, JIT and garbage collection", ["java", "-Xmx128m", "-cp", "/data", "JavaServer"], RESP, package="openjdk-17-jre-headless", packages=("openjdk-17-jre-headless",), ready=pings(), check=keeps_working,
         prepare=lambda root: java_files(root)),
    Real("Prometheus (Go)", "scrapes itself four times a second, asked after each move", ["prometheus", "--config.file=/data/prometheus.yml", "--storage.tsdb.path=/data/tsdb", "--web.console.templates=/", "--web.console.libraries=/", "--web.user-assets=/"],
         ["http", "--connections", "4", "--path", "/-/ready"], 9090, "prometheus", programs=("prometheus",), prepare=prometheus_files, ready=accepts(9090), check=prometheus_check),
    Real("knot", "4 clients over UDP", ["knotd", "-c", "/data/knot.conf"], ["dns", "--connections", "4"], 53, "knot", programs=("knotd",), prepare=knot_files, ready=accepts(53)),
    Real("a shell pipeline", "five processes and a client that counts the lines", ["sh", "-c", SHELL], ["lines"], package="dash", programs=("cat", "sleep"), python=True),
    objects("100 threads", "mutexes, conditions, thread-local data", "threads", short=True),
    objects("timers", "POSIX timers, timerfd, itimer, sleeps in progress", "timers"),
    objects("kernel objects", "inotify, signalfd, eventfd, epoll, memfd, deleted files, pipes, locks", "objects"),
    objects("Unix sockets", "stream, datagram, sequenced packets, descriptors on their way", "unix"),
    objects("pseudo-terminals", "a shell with job control behind one", "pty"),
]


def java_files(root):
    done = subprocess.run(["javac", "-d", os.path.join(root, "data"), os.path.join(PROGRAMS, "JavaServer.java")], capture_output=True, text=True, check=False)
    expect(done.returncode == 0, f"javac: {done.stderr}")


REFUSED = [
    maria("MariaDB as it comes", "", refused="io_uring", remedy="start it with innodb_use_native_aio=0"),
    Real("Node.js with io_uring", "", ["node", "/node_server.js"], RESP, package="nodejs", programs=("node",), prepare=copies("node_server.js"), environment=("UV_USE_IO_URING=1",), ready=pings(), refused="io_uring", remedy="start it with UV_USE_IO_URING=0"),
    Real("PostgreSQL", "", ["sh", "-c", f"{POSTGRES}/initdb -D /data/pg -A trust >/dev/null && exec {POSTGRES}/postgres -D /data/pg -h 0.0.0.0 -k /tmp"], [], 5432, "postgresql-15", ("postgresql-15",), user=NOBODY, ready=postgres_ready, refused="System V"),
    objects("a program with System V shared memory", "", "sysv", refused="System V shared memory"),
    objects("a program with io_uring", "", "uring", refused="io_uring"),
]
