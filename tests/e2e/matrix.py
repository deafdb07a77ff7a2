#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The matrix: a Redis with a live client moves between every pair of runtimes, real daemons of which are started for each host.

Every move is from host to host and from one runtime to another (or the same): a container that began under Docker is moved to Podman, on to bare runc, and back. After each: no connection lost, every acknowledged write there,
nothing left behind on the host that it came from, and the engines agree (docs/CONTAINERS.md). Ends with "matrix: pairs=N migrations=N failed=0 skipped=N"; what was skipped is said with its reason before that.

The program enters namespaces of its own: mounts, processes and networks go with it, whatever happens."""

import os
import shutil
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(HERE)), "tools", "lab"))
sys.path.insert(0, HERE)
import engines  # noqa: E402
from common import Cluster, Resident, Tap, arguments, expect, lab_name, unwind_on_signal  # noqa: E402

RUNTIMES = ["docker", "podman", "containerd", "runc"]
CLASSES = {"docker": engines.Docker, "podman": engines.PodmanService if hasattr(engines, "PodmanService") else None, "containerd": engines.Containerd}
HOSTS = ("src", "dst")


class Matrix:
    """Two hosts with all runtimes that can be started here."""

    def __init__(self, name):
        self.name, self.daemons, self.missing = name, {}, {}

    def __enter__(self):
        for runtime in RUNTIMES[:-1]:
            self._start(runtime)
        options = {host: [word for (runtime, where), daemon in self.daemons.items() if where == host for word in ("--engine", f"{runtime}={daemon.socket}")] +
                   [word for runtime in self.missing if CLASSES[runtime] for word in ("--engine", f"{runtime}=off")] for host in HOSTS}
        self.cluster = Cluster(self.name, agent_options=options)
        try:
            self.cluster.__enter__()
        except BaseException:
            self._stop()
            raise
        return self

    def _start(self, runtime):
        kind = CLASSES[runtime]
        if kind is None or not shutil.which(kind.program):
            self.missing[runtime] = f"{runtime} is not installed" if kind else f"no driver of {runtime} yet"
            return
        for host in HOSTS:
            try:
                daemon = kind(f"{self.name}-{runtime}-{host}")
                daemon.__enter__()
                self.daemons[runtime, host] = daemon
            except (RuntimeError, OSError) as error:
                self.missing[runtime] = f"{runtime} does not start here: {str(error).splitlines()[0]}"
                return

    def _stop(self):
        for daemon in self.daemons.values():
            daemon.__exit__()

    def __exit__(self, *why):
        try:
            self.cluster.__exit__(*why)
        finally:
            self._stop()

    def there(self):
        return [runtime for runtime in RUNTIMES if runtime not in self.missing]


def tour(runtimes):
    """A walk over all ordered pairs, each once: every move begins where the one before ended (a complete digraph with loops has an Euler circuit)."""
    left = {a: list(runtimes) for a in runtimes}
    stack, walk = [runtimes[0]], []
    while stack:
        at = stack[-1]
        if left[at]:
            stack.append(left[at].pop())
        else:
            walk.append(stack.pop())
    return walk[::-1]


def anew(matrix, old, runtime):
    """A Redis under that runtime; the one there was, if any, failed."""
    if old:
        old.remove()
    return Resident(matrix.cluster, "redis", options=["--runtime", runtime])


def move(cluster, resident, runtime):
    to = HOSTS[1 - HOSTS.index(cluster.container("redis")["host"])]
    record = cluster.migrate("redis", to, "--runtime", runtime)
    expect(record["state"] == "COMPLETED", f"{record['state']}: {record['error_message']}")
    resident.check(to)
    found = cluster.container("redis")["runtime"]
    expect(found == runtime, f"it runs under {found}, not {runtime}")


def main():
    options = arguments(__doc__)
    engines.enter()
    unwind_on_signal()
    tap = Tap("matrix", options.tap)
    pairs, done = set(), 0
    with Matrix(lab_name("mx")) as matrix:
        walk = tour(matrix.there())
        for number in range(1 if options.short else int(os.environ.get("N", "20"))):
            resident = None
            for before, after in zip(walk, walk[1:]):
                resident = resident if resident and matrix.cluster.container("redis")["runtime"] == before else anew(matrix, resident, before)
                failed = tap.failed
                with tap.test(f"{before} to {after}"):
                    move(matrix.cluster, resident, after)
                pairs.add((before, after))
                done += 1
                if tap.failed > failed:
                    resident = anew(matrix, resident, after)
            with tap.test(f"the client's account after round {number + 1}"):
                resident.conclude(matrix.cluster.container("redis")["host"])
        for reason in matrix.missing.values():
            tap.say(f"skipped: {reason}")
    tap.say(f"matrix: pairs={len(pairs)} migrations={done} failed={tap.failed} skipped={len(RUNTIMES) ** 2 - len(pairs)}")
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
