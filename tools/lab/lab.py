#!/usr/bin/env python3
"""Several hosts on one machine: network namespaces joined by a switch, or by what else kinds.py has.

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

import snapshot
from commands import NETNS, STRETCH, LabError, LeftoverError, call as _call, wait as _wait
from kinds import KINDS

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
    kind            what is between the hosts: a name in KINDS
    learning        ovs, ovs3, vxlan: it finds out by itself where an address is; without, only what was entered is known
    """

    def __init__(self, name, hosts=DEFAULT_HOSTS, client_rto_min=DEFAULT_RTO_MIN, client=None, ipv6=False, kind="bridge", learning=False):
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
        self._delay_lines = {}  # host: the process that is its link's latency
        self.ipv6, self.learning = ipv6, learning
        if kind not in KINDS:
            raise LabError(f"kind '{kind}': there are {', '.join(KINDS)}")
        if learning and "learning" not in KINDS[kind].options:
            raise LabError(f"kind '{kind}' has no choice of learning")
        if kind != "bridge":  # names of devices next to the hosts' ports
            taken = [host for host in self.hosts if re.fullmatch(r"mgmt|[mrs][0-9]+", host)]
            if taken:
                raise LabError(f"host name '{taken[0]}' is taken in a lab of kind '{kind}'")
        self.fabric = KINDS[kind](self)

    @classmethod
    def existing(cls, name):
        """The lab that is up under this name."""
        lab = cls(name)
        hosts = lab._hosts_that_exist()
        if not lab.is_up() or not hosts:
            raise LabError(f"there is no lab '{name}'; start one with: lab.py up {name}")
        kind, *options = lab._mark_that_exists()
        return cls(name, sorted(hosts, key=lab._number_that_exists), kind=kind, **{option: True for option in options})

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

    def number(self, host):
        return self.hosts.index(host) + 1

    def address(self, host):
        """Of a host; of "sw", too, where that is a router."""
        if host == "sw":
            return self.fabric.switch_address()
        return self.fabric.address(self.number(host))

    def address6(self, host):
        return self.fabric.address6(self.number(host))

    def mac(self, host):
        return f"02:77:00:00:00:{self.number(host):02x}"

    def container(self, number):
        """mac, address and address6 (with prefix length) for a container in this network; numbers from 101 to 250."""
        return self.fabric.container(number)

    @property
    def kind(self):
        return self.fabric.name

    # --- up and down -------------------------------------------------------

    def is_up(self):
        # The switch is made first and removed last: it marks a lab.
        return os.path.exists(self.netns_path("sw"))

    def up(self):
        """Make the lab; one of the same name is taken down first."""
        if os.geteuid() != 0:
            raise LabError(f"lab '{self.name}': making network namespaces needs root")
        self.fabric.check()
        if self.is_up():
            self.down()
        try:
            self._make_netns("sw")
            self._leave_mark()
            self.fabric.make_switch()
            for host in self.hosts:
                self._make_netns(host)
                self.fabric.make_host(host)
            self.fabric.connect()
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
        if self.is_up():
            self._end_daemons()
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
            # On the bridges only: ports have no business with it.
            settings += ["net.ipv6.conf.all.accept_ra=0", "net.ipv6.conf.default.accept_ra=0", "net.ipv6.conf.default.accept_dad=0"]
        elif os.path.exists("/proc/sys/net/ipv6"):
            settings += ["net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"]
        self.sysctl(host, *settings)
        self.ip(host, "link set lo up")

    def add_network(self, bridge, subnet, subnet6=None):
        """A second network, apart from the first: a bridge of this name in each host, with its number in these subnets ("10.80.0", "fd80::"), and one in the switch."""
        self.ip("sw", f"link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0", f"link set {bridge} up")
        for number, host in enumerate(self.hosts, 1):
            port = f"{bridge}-{number}"
            _call("ip", "link", "add", f"{bridge}-up", "netns", self.netns(host), "type", "veth", "peer", "name", port, "netns", self.netns("sw"))
            self.ip("sw", f"link set dev {port} master {bridge} up")
            self.ip(host, f"link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0", f"link set {bridge}-up master {bridge} up", f"address add {subnet}.{number}/24 dev {bridge}",
                    *([f"address add {subnet6}{number:x}/64 dev {bridge} nodad"] if subnet6 else []), f"link set {bridge} up")
        _wait(f"lab '{self.name}': {bridge} comes up", lambda: all(self.operstate(host, device) == "UP" for host in self.hosts for device in (f"{bridge}-up", bridge)), READY_S_MAX)

    def _leave_mark(self):
        """What kind it is, where existing() finds it: it goes with the namespace."""
        words = [self.kind] + [option for option in ("ipv6", "learning") if getattr(self, option)]
        self.ip("sw", f"link set dev lo alias {','.join(words)}")

    def _mark_that_exists(self):
        return json.loads(_call("ip", "-netns", self.netns("sw"), "-json", "link", "show", "dev", "lo"))[0].get("ifalias", "bridge").split(",")

    def _is_ready(self):
        return self.fabric.is_ready() and all(self.operstate(host, device) == "UP" for host in self.hosts for device in ("eth0", "br0"))

    def operstate(self, host, device):
        return json.loads(_call("ip", "-netns", self.netns(host), "-json", "link", "show", "dev", device))[0]["operstate"]

    def _set_rto_min(self, host, rto_min):
        # "change" replaces the whole route, so it repeats what the kernel or the lab made.
        for route in json.loads(_call("ip", "-netns", self.netns(host), "-json", "route", "show", "dev", "br0")):
            self.ip(host, " ".join(["route change", route["dst"], "dev br0"] + [f"{word} {route[key]}" for word, key in (("via", "gateway"), ("proto", "protocol"), ("scope", "scope"), ("src", "prefsrc"))
                                                                              if key in route] + [f"rto_min {rto_min}"]))
        for route in json.loads(_call("ip", "-netns", self.netns(host), "-6", "-json", "route", "show", "dev", "br0")) if self.ipv6 else []:
            if not route["dst"].startswith("fe80"):
                self.ip(host, " ".join(["route change", route["dst"], "dev br0"] + [f"{word} {route[key]}" for word, key in (("via", "gateway"), ("proto", "protocol"), ("metric", "metric")) if key in route] +
                                       [f"rto_min {rto_min}"]))

    def _end_daemons(self):
        """Those of the lab that is there, which may be of another kind than this object."""
        kind = self._mark_that_exists()[0]
        (self.fabric if kind == self.kind or kind not in KINDS else KINDS[kind](self)).remove()

    def _remove(self):
        if self.is_up():
            self._end_daemons()
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

    def ip(self, host, *commands):
        _call("ip", "-netns", self.netns(host), "-batch", "-", stdin="\n".join(commands) + "\n")

    def sysctl(self, host, *settings):
        _call("nsenter", f"--net={self.netns_path(host)}", "--", "sysctl", "-q", "-w", *settings)

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
        if not self.fabric.delayable():
            raise LabError(f"lab '{self.name}': links of a lab of kind '{self.kind}' cannot have latency")
        near, far = self._wire(host)
        self.ip("sw", f"link add {near} type veth peer name {far}", f"link set dev {host} nomaster", f"link set dev {near} up")
        line = self.popen("sw", [delay_line, host, near, str(round(round_trip_ms * 500))], stdout=subprocess.PIPE, text=True)
        self._delay_lines[host] = line
        if line.stdout.readline() != "ready\n":
            raise LabError(f"lab '{self.name}': {delay_line} did not start")
        self.ip("sw", f"link set dev {far} master {self.fabric.switch_of(host)} up")

    def _end_delay_line(self, host):
        with self._delay_lines.pop(host) as line:
            line.terminate()

    def _wire(self, host):
        """The pair between a host's port and the switch when its link has latency; device names have at most 15 letters."""
        return tuple(f"{end}{self.hosts.index(host)}-{host}"[:15] for end in "de")

    def port(self, host):
        self.netns(host)
        return self._wire(host)[1] if host in self._delay_lines else host

    def cut(self, host):
        """Cut a host's link, at once. Its carrier stays: nobody is told, as behind a switch that failed."""
        self.netns(host)
        self.fabric.cut(host)

    def heal(self, host):
        """Undo cut(), at once. (Taking the link down and up would need up to a second.)"""
        self.netns(host)
        self.fabric.heal(host)

    def place(self, container, host):
        """Lead packets for a container (see container()) to that host where this network does not find out by itself; None: take away what leads to it."""
        if host is not None:
            self.netns(host)
        self.fabric.place(container, host)

    def snapshot(self):
        """All that can be told of the network's configuration, without what changes by itself; to be compared with snapshot.compare()."""
        taken = {host: snapshot.take(self.netns(host)) for host in ("sw", *self.hosts)}
        taken["flows"] = self.fabric.flows()
        return taken

    def describe(self):
        """This network as the network manager is told about it."""
        return self.fabric.describe()

    def status(self):
        """One dictionary for each host."""
        connected = {host for host in self.hosts if self.port(host) in self.fabric.connected()}
        return [{"host": host, "netns": self.netns(host), "address": self.address(host), "mac": self.mac(host), **({"address6": self.address6(host)} if self.ipv6 else {}),
                 "link": "connected" if host in connected else "cut",
                 "processes": [pid for _, pid, _ in self._processes(host)]} for host in self.hosts]


# --- the command line ------------------------------------------------------

def _print_status(lab):
    print(f"{lab.name}: {', '.join([lab.fabric.title] + [option for option in ('ipv6', 'learning') if getattr(lab, option)])}")
    for host in lab.status():
        print(f"{host['host']:<10} {host['address']:<12} {host['mac']}  {host.get('address6', ''):<14} netns {host['netns']:<20} "
              f"{host['link']:<10} {len(host['processes'])} processes")


def _command_up(arguments):
    rto_min = None if arguments.client_rto_min in ("off", "0") else arguments.client_rto_min
    _print_status(Lab(arguments.name, arguments.hosts.split(","), rto_min, arguments.client, arguments.ipv6, arguments.kind, arguments.learning).up())


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


def _command_snapshot(arguments):
    json.dump(Lab.existing(arguments.name).snapshot(), sys.stdout, indent=1, sort_keys=True)
    print()


def _command_describe(arguments):
    json.dump(Lab.existing(arguments.name).describe(), sys.stdout, indent=1)
    print()


def _command_place(arguments):
    lab = Lab.existing(arguments.name)
    lab.place(lab.container(arguments.number), None if arguments.host == "nowhere" else arguments.host)


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
    up.add_argument("--kind", default="bridge", choices=list(KINDS), help="what is between the hosts (%(default)s): " + "; ".join(f"{kind.name}: {kind.title}" for kind in KINDS.values()))
    up.add_argument("--ipv6", action="store_true", help="hosts also have fd77::1, fd77::2, …; else they have no IPv6")
    up.add_argument("--learning", action="store_true", help="ovs, ovs3, vxlan: find out where an address is, as a plain switch does; without, only what is entered is known")
    command("down", _command_down, "remove a lab; fails if processes are left in it, and names them")
    command("exec", _command_exec, "run a command in a host", "host").add_argument(
        "command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    command("status", _command_status, "show a lab's hosts")
    command("snapshot", _command_snapshot, "print the configuration of all of the lab's network as JSON: take two and compare")
    command("describe", _command_describe, "print the network as the network manager is told about it")
    place = command("place", _command_place, "lead packets for the container of that number (10.77.0.NUMBER; routed: 10.79.0.NUMBER) to a host")
    place.add_argument("number", type=int)
    place.add_argument("host", help="a host, or nowhere")
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
