#!/usr/bin/env python3
"""The demonstration: three hosts, a Redis with a live client, one migration.

Ends with a table for people and, as its last line, one for machines:
    demo: PASS strategy=… downtime_ms=… total_ms=… wire_bytes=… acknowledged=… found=… reconnects=0
    demo: FAIL reason=…                                                          (exit code 1)
It cleans up after itself, also after Ctrl-C.
"""

import argparse
import os
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lab"))
from cluster import CONTAINER_IP, Cluster, system_leftovers  # noqa: E402

SETTLE_ACKNOWLEDGED = 500


def say(text):
    print(text, flush=True)


def value_of(cluster, key):
    return int(cluster.redis(CONTAINER_IP, "GET", key).stdout.strip() or 0)


def wait_for_writes(cluster, more):
    goal = value_of(cluster, "counter") + more
    cluster.wait("the client writes", lambda: value_of(cluster, "counter") >= goal, 30)


def table(migration, report, found):
    rows = [("phase", "ms")]
    rows += [(phase["name"], f"{phase['duration_us'] / 1000:.1f}") for phase in migration["phases"]]
    width = max(len(row[0]) for row in rows)
    say("")
    for name, value in rows:
        say(f"  {name:<{width}}  {value:>10}")
    say("")
    say(f"  downtime, as the client saw it   {report['longest_gap_ms']:.1f} ms (longest wait for one reply)")
    say(f"  downtime, as the hosts measured  {migration['frozen_us'] / 1000:.1f} ms (source fenced to destination running)")
    say(f"  bytes on the wire                {migration['wire_bytes']:,}")
    say(f"  writes acknowledged / found      {report['last']:,} / {found:,}")
    say(f"  connections lost                 {0 if not report['error'] else 1}")
    say("")


def run(cluster, arguments):
    say(f"demo: hosts src, dst and cli are up, a manager on cli, an agent on each; starting Redis on src ({arguments.mb} MB of data)")
    cluster.run_redis("redis", "src")
    keys = cluster.load_redis(CONTAINER_IP, arguments.mb) if arguments.mb else 0
    say(f"demo: {keys:,} keys loaded; a client increments a counter over one connection")
    client = cluster.client()
    wait_for_writes(cluster, SETTLE_ACKNOWLEDGED)
    client.reset()
    say("demo: fleximigrate migrate redis --to dst")
    done = cluster.cli("migrate", "redis", "--to", "dst", "--strategy", arguments.strategy, check=False)
    for line in done.stdout.splitlines():
        if "[" in line:
            say(f"  {line}")
    migration = cluster.json("migration", "ls", "--limit", "1")["migrations"][0]
    if migration["state"] != "COMPLETED":
        raise RuntimeError(f"the migration ended {migration['state']}: {migration['error_message']}")
    wait_for_writes(cluster, SETTLE_ACKNOWLEDGED)
    report = client.finish()
    found = value_of(cluster, "counter")
    where = cluster.json("container", "show", "redis")["host"]
    table(migration, report, found)
    if report["error"]:
        raise RuntimeError(f"the client's connection failed: {report['error']}")
    if where != "dst":
        raise RuntimeError(f"the container is on {where}")
    if found != report["last"]:
        raise RuntimeError(f"{report['last']} writes were acknowledged, {found} are there")
    left = cluster.leftovers()
    if left:
        raise RuntimeError(f"left over: {', '.join(left)}")
    strategy = migration["strategy"].lower().replace("_", "-")
    total_ms = migration["finished_unix_ms"] - migration["created_unix_ms"]
    return (f"demo: PASS strategy={strategy} downtime_ms={report['longest_gap_ms']:.0f} total_ms={total_ms} wire_bytes={migration['wire_bytes']} "
            f"acknowledged={report['last']} found={found} reconnects=0")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, default=64, help="data in Redis, MB (default 64)")
    parser.add_argument("--strategy", default="post-copy", help="auto, cold or post-copy (default)")
    parser.add_argument("--keep", action="store_true", help="keep everything when it fails, for inspection")
    arguments = parser.parse_args()
    name = f"demo{os.getpid() % 100000}"
    # Ctrl-C and a polite kill are the same here: unwind, clean up.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    try:
        with Cluster(name, keep_on_failure=arguments.keep) as cluster:
            verdict, code = run(cluster, arguments), 0
    except KeyboardInterrupt:
        verdict, code = "demo: FAIL reason=interrupted", 130
    except Exception as error:  # pylint: disable=broad-except
        verdict, code = f"demo: FAIL reason={' '.join(str(error).split())}", 1
    left = [] if arguments.keep and code else system_leftovers(name)
    if left and code == 0:
        verdict, code = f"demo: FAIL reason=left over: {', '.join(left)}", 1
    say(f"demo: took {time.monotonic() - started:.1f} s, everything removed" if not left else f"demo: left over: {left}")
    say(verdict)
    return code


if __name__ == "__main__":
    sys.exit(main())
