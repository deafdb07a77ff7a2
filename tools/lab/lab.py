#!/usr/bin/env python3
"""Several hosts on one machine: network namespaces joined by a switch.

    NAME-src          NAME-dst          NAME-cli
    br0 10.77.0.1     br0 10.77.0.2     br0 10.77.0.3     02:77:00:00:00:0N
      |                 |                 |
     eth0              eth0              eth0
      |                 |                 |
    --src---------------dst---------------cli--   br0 in NAME-sw, the switch

A host's address is on its bridge, as on a container host: containers get ports
of that bridge. Names and addresses exist inside the namespaces only, so several
labs can be up at the same time. As a module, use class Lab; as a program, see
"lab.py --help". Needs root, iproute2, procps and util-linux.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time

NETNS = "/run/netns"
SUBNET, SUBNET6 = "10.77.0", "fd77::"
DEFAULT_HOSTS = ("src", "dst", "cli")
# A connection that loses its peer for some milliseconds tries again after its
# retransmission time-out, which Linux never lets fall under 200 ms. On a lab's
# round trip of microseconds that would hide what a switch-over itself costs.
DEFAULT_RTO_MIN = "5ms"
# A carrier's change is noticed by the kernel up to a second late.
READY_S_MAX = 10
GONE_S_MAX = 5
# Processes that were told to end just before may take a moment.
LEFTOVER_S_MAX = 1
# What a limited link holds back before it drops.
QUEUE_MS = 50
# How much longer everything that has a limit may take here: an emulated machine is 10 to 20 times slower.
STRETCH = float(os.environ.get("FLEXIMIGRATE_TEST_STRETCH") or 1)


class LabError(Exception):
    """What was asked, what went wrong, and what to do."""


class LeftoverError(LabError):
    """The lab is down, but processes still live in its namespaces."""


def _call(*argv, stdin=None):
    """Run a configuration command and return what it printed."""
    try:
        done = subprocess.run(argv, input=stdin, text=True, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is missing: run tools/setup/install-packages.sh --group run") from error
    if done.returncode != 0:
        raise LabError(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip() or done.returncode}")
    return done.stdout


def _wait(what, condition, seconds_max):
    deadline = time.monotonic() + seconds_max * STRETCH
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {seconds_max} s")
        time.sleep(0.005)


def _bits_per_second(rate):
    units = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?)bit", rate)
    if not match:
        raise LabError(f"rate '{rate}': write it like 500kbit, 100mbit or 1gbit")
    return float(match[1]) * units[match[2]]


class Lab:
    """A lab by name; making the object changes nothing, up() and down() do.

    hosts           names, in the order of their addresses (.1, .2, …)
    client_rto_min  the least TCP retransmission time-out of the client, None for
                    the kernel's own
    client          the host that has it; without, "cli" if there is one
    ipv6            hosts also have fd77::1, fd77::2, …; without, they have no IPv6 at all
    """

    def __init__(self, name, hosts=DEFAULT_HOSTS, client_rto_min=DEFAULT_RTO_MIN, client=None, ipv6=False):
        # No "-" in a name: NAME-HOST then belongs to one lab only.
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", name):
            raise LabError(f"lab name '{name}': use small letters, digits and _ (at most 31)")
        self.name = name
        self.hosts = tuple(hosts)
        for host in self.hosts:
            # The switch's port has the host's name; an interface name has at most 15 letters.
            if not re.fullmatch(r"[a-z][a-z0-9_]{0,14}", host) or host in ("lo", "br0", "sw"):
                raise LabError(f"host name '{host}': use small letters, digits and _ (at most 15), not lo, br0, sw")
        if not 1 <= len(self.hosts) <= 200 or len(set(self.hosts)) != len(self.hosts):
            raise LabError(f"hosts {','.join(self.hosts)}: 1 to 200 different names are needed")
        self.client_rto_min = client_rto_min
        self.client = client or ("cli" if "cli" in self.hosts else None)
        if self.client and self.client not in self.hosts:
            raise LabError(f"client '{self.client}' is none of the hosts {','.join(self.hosts)}")
        self.ipv6 = ipv6
        self._delay_lines = {}  # host: the process that is its link's latency

    @classmethod
    def existing(cls, name):
        """The lab that is up under this name."""
        lab = cls(name)
        hosts = lab._hosts_that_exist()
        if not lab.is_up() or not hosts:
            raise LabError(f"there is no lab '{name}'; start one with: lab.py up {name}")
        return cls(name, sorted(hosts, key=lab._number_that_exists))

    def __enter__(self):
        return self.up()

    def __exit__(self, kind, value, trace):
        try:
            self.down()
        except LabError as error:
            if value is None:
                raise
            # The first error is the one to look at.
            print(f"lab: {error}", file=sys.stderr)

    # --- names -------------------------------------------------------------

    def netns(self, host):
        """The name of a host's namespace ("sw" for the switch)."""
        if host != "sw" and host not in self.hosts:
            raise LabError(f"lab '{self.name}' has no host '{host}', only {', '.join(self.hosts)}")
        return f"{self.name}-{host}"

    def netns_path(self, host):
        return f"{NETNS}/{self.netns(host)}"

    def address(self, host):
        return f"{SUBNET}.{self.hosts.index(host) + 1}"

    def address6(self, host):
        return f"{SUBNET6}{self.hosts.index(host) + 1:x}"

    def mac(self, host):
        return f"02:77:00:00:00:{self.hosts.index(host) + 1:02x}"

    # --- up and down -------------------------------------------------------

    def is_up(self):
        # The switch is made first and removed last: it marks a lab.
        return os.path.exists(self.netns_path("sw"))

    def up(self):
        """Make the lab; one of the same name is taken down first."""
        if os.geteuid() != 0:
            raise LabError(f"lab '{self.name}': making network namespaces needs root")
        if self.is_up():
            self.down()
        try:
            self._make_switch()
            for host in self.hosts:
                self._make_host(host)
            _wait(f"lab '{self.name}': links come up", self._is_ready, READY_S_MAX)
            if self.client and self.client_rto_min:
                self._set_rto_min(self.client, self.client_rto_min)
        except BaseException:
            self._remove()
            raise
        return self

    def down(self):
        """Remove the lab. Processes are left alone: LeftoverError names them."""
        for host in list(self._delay_lines):
            self._end_delay_line(host)
        leftovers = self._leftovers()
        self._remove()
        if leftovers:
            lines = "\n".join(f"  {host}: pid {pid} {command}" for host, pid, command in leftovers)
            raise LeftoverError(f"lab '{self.name}' is down, but processes still live in it; end them:\n{lines}")

    def _make_netns(self, host):
        _call("ip", "netns", "add", self.netns(host))
        settings = ["net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0"]
        # Its address detection and router solicitations would be noise in captures.
        if self.ipv6:
            settings += ["net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.default.accept_ra=0"]
        elif os.path.exists("/proc/sys/net/ipv6"):
            settings += ["net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"]
        _call("nsenter", f"--net={self.netns_path(host)}", "sysctl", "-q", "-w", *settings)
        self._ip(host, "link set lo up")

    def _make_switch(self):
        self._make_netns("sw")
        self._ip("sw", "link add br0 type bridge stp_state 0 forward_delay 0", "link set br0 up")

    def _make_host(self, host):
        self._make_netns(host)
        _call("ip", "link", "add", "eth0", "netns", self.netns(host),
              "type", "veth", "peer", "name", host, "netns", self.netns("sw"))
        self._ip("sw", f"link set dev {host} master br0 up")
        self._ip(host,
                 f"link add br0 address {self.mac(host)} type bridge stp_state 0 forward_delay 0",
                 "link set eth0 master br0 up",
                 f"address add {self.address(host)}/24 dev br0",
                 *([f"address add {self.address6(host)}/64 dev br0 nodad"] if self.ipv6 else []),
                 "link set br0 up")

    def add_network(self, bridge, subnet, subnet6=None):
        """A second network, apart from the first: a bridge of this name in each host, with its number in these subnets ("10.78.0", "fd78::"), and one in the switch."""
        self._ip("sw", f"link add {bridge} type bridge stp_state 0 forward_delay 0", f"link set {bridge} up")
        for number, host in enumerate(self.hosts, 1):
            port = f"{bridge}-{number}"
            _call("ip", "link", "add", f"{bridge}-up", "netns", self.netns(host), "type", "veth", "peer", "name", port, "netns", self.netns("sw"))
            self._ip("sw", f"link set dev {port} master {bridge} up")
            self._ip(host,
                     f"link add {bridge} type bridge stp_state 0 forward_delay 0",
                     f"link set {bridge}-up master {bridge} up",
                     f"address add {subnet}.{number}/24 dev {bridge}",
                     *([f"address add {subnet6}{number:x}/64 dev {bridge} nodad"] if subnet6 else []),
                     f"link set {bridge} up")
        _wait(f"lab '{self.name}': {bridge} comes up", lambda: all(
            self._operstate(host, device) == "UP" for host in self.hosts for device in (f"{bridge}-up", bridge)), READY_S_MAX)

    def _is_ready(self):
        ports = json.loads(_call("bridge", "-netns", self.netns("sw"), "-json", "link") or "[]")
        forwarding = {port["ifname"] for port in ports if port.get("state") == "forwarding"}
        return forwarding >= set(self.hosts) and all(
            self._operstate(host, device) == "UP" for host in self.hosts for device in ("eth0", "br0"))

    def _operstate(self, host, device):
        return json.loads(_call("ip", "-netns", self.netns(host), "-json", "link", "show", "dev", device))[0]["operstate"]

    def _set_rto_min(self, host, rto_min):
        # "change" replaces the whole route, so it repeats what the kernel made.
        self._ip(host, f"route change {SUBNET}.0/24 dev br0 proto kernel scope link "
                       f"src {self.address(host)} rto_min {rto_min}")
        if self.ipv6:
            self._ip(host, f"route change {SUBNET6}/64 dev br0 proto kernel metric 256 rto_min {rto_min}")

    def _remove(self):
        # Devices first: a namespace is taken apart some time after its removal,
        # and until then its devices would still answer.
        hosts = self._hosts_that_exist() + (["sw"] if self.is_up() else [])
        for host in hosts:
            self._remove_devices(host)
        for host in hosts:
            _call("ip", "netns", "delete", f"{self.name}-{host}")
        _wait(f"lab '{self.name}': namespaces go away",
              lambda: not self.is_up() and not self._hosts_that_exist(), GONE_S_MAX)

    def _remove_devices(self, host):
        netns = f"{self.name}-{host}"
        for link in json.loads(_call("ip", "-netns", netns, "-json", "link", "show", "type", "veth") or "[]"):
            # Removing one end of a pair removes both: the other may be listed, too.
            subprocess.run(["ip", "-netns", netns, "link", "delete", "dev", link["ifname"]],
                           stderr=subprocess.DEVNULL, check=False)

    def _hosts_that_exist(self):
        if not self.is_up():
            return []
        prefix = f"{self.name}-"
        names = [entry[len(prefix):] for entry in os.listdir(NETNS) if entry.startswith(prefix)]
        return [name for name in names if name != "sw"]

    def _number_that_exists(self, host):
        links = json.loads(_call("ip", "-netns", f"{self.name}-{host}", "-json", "link", "show", "type", "bridge") or "[]")
        return next((int(link["address"][-2:], 16) for link in links if link["ifname"] == "br0"), 0)

    def _leftovers(self):
        """(host, pid, command line) of the processes in the namespaces."""
        deadline = time.monotonic() + LEFTOVER_S_MAX
        while True:
            found = [found for host in self._hosts_that_exist() + (["sw"] if self.is_up() else [])
                     for found in self._processes(host)]
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.02)

    def _processes(self, host):
        found = []
        for pid in _call("ip", "netns", "pids", f"{self.name}-{host}").split():
            try:
                with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
                    found.append((host, int(pid), file.read().replace("\0", " ").strip()))
            except OSError:
                pass  # it has ended meanwhile
        return found

    def _ip(self, host, *commands):
        _call("ip", "-netns", self.netns(host), "-batch", "-", stdin="\n".join(commands) + "\n")

    # --- use ---------------------------------------------------------------

    def _enter(self, host, argv):
        # Not "ip netns exec": that makes a private mount namespace, in which a
        # container's mounts would not be seen by anyone else.
        return ["nsenter", f"--net={self.netns_path(host)}", "--", *argv]

    def popen(self, host, argv, **options):
        """subprocess.Popen in a host; the process is argv's own, without a parent in between."""
        return subprocess.Popen(self._enter(host, argv), **options)

    def run(self, host, argv, **options):
        """subprocess.run in a host; without other options a failure raises, and output is captured text."""
        options.setdefault("check", True)
        options.setdefault("text", True)
        if "stdout" not in options and "stderr" not in options:
            options.setdefault("capture_output", True)
        return subprocess.run(self._enter(host, argv), **options)

    def shape(self, host, rate, fair=False):
        """Limit a host's link in both directions, "100mbit" for example; None: no limit.

        fair: what the host sends and receives itself and what its containers do have a queue each, and
        half of the link at least; without, one queue. (Kernels without fq_codel can do that much.)
        """
        for namespace, device, own in ((self.netns(host), "eth0", "src"), (self.netns("sw"), host, "dst")):
            _call("tc", "-netns", namespace, "qdisc", "replace", "dev", device, "root", "noqueue")
            if rate is None:
                continue
            bits = _bits_per_second(rate)
            # The bucket must hold what is sent between two timer ticks (10 ms at
            # the most), and one full-size segment offload.
            burst_bytes = max(128 * 1024, int(bits / 8 / 100))
            if not fair:
                _call("tc", "-netns", namespace, "qdisc", "replace", "dev", device, "root",
                      "tbf", "rate", rate, "burst", str(burst_bytes), "latency", f"{QUEUE_MS}ms")
                continue
            share = f"rate {int(bits / 2)} ceil {rate} burst {burst_bytes} cburst {burst_bytes} quantum 70000"
            queue = f"bfifo limit {max(burst_bytes, int(bits / 8 * QUEUE_MS / 1000))}"
            _call("tc", "-netns", namespace, "-batch", "-", stdin=f"""
                qdisc replace dev {device} root handle 1: htb default 20
                class replace dev {device} parent 1: classid 1:1 htb rate {rate} burst {burst_bytes} cburst {burst_bytes} quantum 70000
                class replace dev {device} parent 1:1 classid 1:10 htb {share}
                class replace dev {device} parent 1:1 classid 1:20 htb {share}
                qdisc replace dev {device} parent 1:10 handle 10: {queue}
                qdisc replace dev {device} parent 1:20 handle 20: {queue}
                filter replace dev {device} parent 1: protocol ip prio 1 handle 800::1 u32 match ip {own} {self.address(host)}/32 flowid 1:10
                """)

    def delay(self, host, round_trip_ms, delay_line):
        """Make each round trip over a host's link longer; once for each host. delay_line: the program (tools/lab/delay-line.c), which runs until the lab is down."""
        if host in self._delay_lines:
            raise LabError(f"lab '{self.name}': the link of '{host}' has a latency already")
        near, far = self._wire(host)
        self._ip("sw", f"link add {near} type veth peer name {far}", f"link set dev {host} nomaster", f"link set dev {near} up")
        line = self.popen("sw", [delay_line, host, near, str(round(round_trip_ms * 500))], stdout=subprocess.PIPE, text=True)
        self._delay_lines[host] = line
        if line.stdout.readline() != "ready\n":
            raise LabError(f"lab '{self.name}': {delay_line} did not start")
        self._ip("sw", f"link set dev {far} master br0 up")

    def _end_delay_line(self, host):
        with self._delay_lines.pop(host) as line:
            line.terminate()

    def _wire(self, host):
        """The pair between a host's port and the switch when its link has latency; device names have at most 15 letters."""
        return tuple(f"{end}{self.hosts.index(host)}-{host}"[:15] for end in "de")

    def _port(self, host):
        self.netns(host)
        return self._wire(host)[1] if host in self._delay_lines else host

    def cut(self, host):
        """Cut a host's link, at once. Its carrier stays: nobody is told, as behind a switch that failed."""
        self._ip("sw", f"link set dev {self._port(host)} nomaster")

    def heal(self, host):
        """Undo cut(), at once. (Taking the link down and up would need up to a second.)"""
        self._ip("sw", f"link set dev {self._port(host)} master br0")

    def status(self):
        """One dictionary for each host."""
        ports = json.loads(_call("ip", "-netns", self.netns("sw"), "-json", "link", "show", "master", "br0") or "[]")
        connected = {port["ifname"] for port in ports if port}
        return [{"host": host, "netns": self.netns(host), "address": self.address(host), "mac": self.mac(host),
                 "link": "connected" if host in connected else "cut",
                 "processes": [pid for _, pid, _ in self._processes(host)]} for host in self.hosts]


# --- the command line ------------------------------------------------------

def _print_status(lab):
    for host in lab.status():
        print(f"{host['host']:<10} {host['address']:<12} {host['mac']}  netns {host['netns']:<20} "
              f"{host['link']:<10} {len(host['processes'])} processes")


def _command_up(arguments):
    rto_min = None if arguments.client_rto_min in ("off", "0") else arguments.client_rto_min
    _print_status(Lab(arguments.name, arguments.hosts.split(","), rto_min, arguments.client, arguments.ipv6).up())


def _command_down(arguments):
    Lab(arguments.name).down()


def _command_exec(arguments):
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise LabError("exec: no command; write: lab.py exec NAME HOST -- COMMAND")
    argv = Lab.existing(arguments.name)._enter(arguments.host, command)
    os.execvp(argv[0], argv)


def _command_status(arguments):
    _print_status(Lab.existing(arguments.name))


def _command_shape(arguments):
    Lab.existing(arguments.name).shape(arguments.host, None if arguments.rate == "off" else arguments.rate)


def _command_cut(arguments):
    Lab.existing(arguments.name).cut(arguments.host)


def _command_heal(arguments):
    Lab.existing(arguments.name).heal(arguments.host)


def _parse_arguments(argv):
    parser = argparse.ArgumentParser(
        prog="lab.py", description="Several hosts on one machine, in network namespaces joined by a switch.")
    commands = parser.add_subparsers(dest="verb", required=True)

    def command(name, function, help_text, *positionals):
        sub = commands.add_parser(name, help=help_text, description=help_text)
        sub.set_defaults(function=function)
        sub.add_argument("name", help="name of the lab")
        for positional in positionals:
            sub.add_argument(positional)
        return sub

    up = command("up", _command_up, "make a lab; one of the same name is removed first")
    up.add_argument("--hosts", default=",".join(DEFAULT_HOSTS), help="names, the first gets 10.77.0.1 (%(default)s)")
    up.add_argument("--client", help="the host that --client-rto-min is for (cli, if there is one)")
    up.add_argument("--client-rto-min", default=DEFAULT_RTO_MIN, metavar="TIME",
                    help="least TCP retransmission time-out of the client, or off (%(default)s; "
                         "the kernel's own 200ms would hide what a switch-over costs)")
    up.add_argument("--ipv6", action="store_true", help="hosts also have fd77::1, fd77::2, …; else they have no IPv6")
    command("down", _command_down, "remove a lab; fails if processes are left in it, and names them")
    command("exec", _command_exec, "run a command in a host", "host").add_argument(
        "command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    command("status", _command_status, "show a lab's hosts")
    command("shape", _command_shape, "limit a host's link, both directions (100mbit; off: no limit)", "host", "rate")
    command("cut", _command_cut, "cut a host's link", "host")
    command("heal", _command_heal, "undo cut", "host")
    return parser.parse_args(argv)


def main(argv=None):
    arguments = _parse_arguments(argv)
    # ip and sysctl are in folders that a plain PATH may lack.
    os.environ["PATH"] = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
    try:
        arguments.function(arguments)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
