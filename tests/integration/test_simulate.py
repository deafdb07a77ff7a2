#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""`fleximigrate simulate` with the examples (examples/simulate): figures that docs/SIMULATE.md has, formats, options and errors. Prints TAP."""

import csv
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
from tap import Tap, expect  # noqa: E402

PROGRAM = os.path.join(ROOT, os.environ.get("BUILD", "build"), "fleximigrate")
EXAMPLES = os.path.join(ROOT, "examples", "simulate")
PATIENCE_S = 300  # a bound against hanging: the longest takes some seconds


def run(*arguments):
    return subprocess.run([PROGRAM, "simulate", *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def simulate(name, *arguments):
    done = run(os.path.join(EXAMPLES, name), *arguments, "--output", "json")
    expect(done.returncode == 0 and not done.stderr, f"exit status {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)


def test_day_compared():
    """Balancing leaves hosts over their thresholds for less time than nothing does, planning ahead without going to and fro."""
    none, reactive, proactive = simulate("day.yaml", "--compare", "none,reactive,proactive")
    expect([entry["mode"] for entry in (none, reactive, proactive)] == ["none", "reactive", "proactive"], "modes in their order")
    expect(none["migrations"]["asked"] == 0 and none["violations"]["over_min"] > 600, f"nothing done: {none}")
    for entry in (reactive, proactive):
        expect(entry["violations"]["over_min"] < none["violations"]["over_min"] / 2, f"{entry['mode']}: {entry['violations']}")
        expect(0 < entry["migrations"]["moved"] < 300 and entry["migrations"]["wire_bytes"] > 0, f"{entry['mode']}: {entry['migrations']}")
        expect(entry["migrations"]["forecasts_met"] >= 0.8 * entry["migrations"]["moved"], f"{entry['mode']}: {entry['migrations']}")
    expect(proactive["migrations"]["ping_pong"] == 0, f"to and fro: {proactive['migrations']}")


def test_maintenance():
    """What is late is what was said to be; the host that failed had its containers for an hour."""
    report = simulate("maintenance.yaml")
    expect([drain["host"] for drain in report["drains"]] == ["node-1", "node-2"], f"drains {report['drains']}")
    expect(report["drains"][1]["missed"] >= report["drains"][1]["foretold"] > 0, f"30 s are too few: {report['drains'][1]}")
    expect(report["violations"]["deadline_misses"] == sum(drain["missed"] for drain in report["drains"]), f"{report['violations']}")
    expect(report["violations"]["outage_container_min"] > 0 and report["violations"]["outage_container_min"] % 60 == 0, f"{report['violations']}")
    moved = report["migrations"]
    expect(moved["asked"] == sum(moved[end] for end in ("moved", "failed", "denied", "refused", "overdue", "interrupted", "under_way")), f"{moved}")


def test_denials():
    """A policy that forbids all is counted by its name."""
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "p.yaml"), "w", encoding="utf-8") as file:
            file.write("policy_name: never\nCONDITIONS: 'true'\nACTIONS: [deny_migration]\n")
        path = os.path.join(folder, "s.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"duration": "1h", "mode": "reactive", "policies": "p.yaml", "hosts": [{"name": "h", "count": 2, "cpus": 10}],
                       "containers": [{"name": "c", "count": 2, "placement": "pack", "cpu": 3}], "events": [{"at": "30m", "load": "c", "factor": 1.5}]}, file)
        done = run(path, "--output", "json")
        expect(done.returncode == 0, done.stderr)
        report = json.loads(done.stdout)
        expect(report["violations"]["denials"] == [{"policy": "never", "denied": 6}], f"{report['violations']}")
        expect(report["violations"]["cpu_over_min"] == 30 and report["migrations"]["moved"] == 0, f"{report}")
        text = run(path).stdout
        expect("6 by never" in text, text)


def test_week():
    """100 hosts for a week, with a recorded load, brought together every evening."""
    none, both = simulate("night.yaml", "--compare", "none,proactive+consolidate")
    expect(both["hosts_in_use"]["mean"] < none["hosts_in_use"]["mean"] and both["cost"] < none["cost"], f"{both['hosts_in_use']} {none['hosts_in_use']}")


def test_same_again():
    with tempfile.TemporaryDirectory() as folder:
        texts = []
        for name in ("a.csv", "b.csv"):
            path = os.path.join(folder, name)
            done = run(os.path.join(EXAMPLES, "maintenance.yaml"), "--timeline", path)
            with open(path, encoding="utf-8") as file:
                texts.append((done.stdout, file.read()))
        expect(texts[0] == texts[1], "two runs differ")
        rows = list(csv.DictReader(texts[0][1].splitlines()))
        expect(len(rows) == 360 and rows[0]["timestamp"] == "2026-01-12 00:00:00" and rows[0]["mode"] == "reactive", f"{len(rows)} rows, first {rows[0]}")
        expect(max(int(row["hosts_offline"]) for row in rows) == 1 and all(float(row["memory_max_percent"]) <= 100 for row in rows), "offline hosts and memory")
    expect(run(os.path.join(EXAMPLES, "maintenance.yaml"), "--seed", "8").stdout != texts[0][0], "another seed, the same answer")


def test_errors():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "s.yaml")

        def refused(text, wanted, *arguments, status=2):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            done = run(path, *arguments)
            expect(done.returncode == status and wanted in done.stderr, f"{text!r}: {done.returncode} {done.stderr}")

        refused("hosts: [{nam: a}]\n", "s.yaml:1:10: a group of hosts has no member 'nam'; is 'name' meant?")
        refused("hosts: [{name: a}]\ncontainers: [{name: c, cpu: {kind: trace, file: none.csv}}]\n", "none.csv", status=3)
        refused("hosts: [{name: a}]\npolicies: none.yaml\n", "none.yaml", status=3)
        refused("hosts: [{name: a}]\n", "there is no mode 'fast'", "--mode", "fast")
        refused("hosts: [{name: a}]\n", "is there twice", "--compare", "none,none")
        refused("hosts: [{name: a, memory: 1G}]\ncontainers: [{name: c, memory: 2G, cpu: 1}]\n", "has room on no host", status=5)
        refused("hosts: [{name: a}]\n", "/nowhere/t.csv", "--timeline", "/nowhere/t.csv", status=3)


def main():
    tap = Tap("simulate", wants_tap=True)
    with tap.test("a day in three modes"):
        test_day_compared()
    with tap.test("drains, a failure and a policy"):
        test_maintenance()
    with tap.test("denials by policy"):
        test_denials()
    with tap.test("100 hosts for a week"):
        test_week()
    with tap.test("the same again, byte for byte; the timeline"):
        test_same_again()
    with tap.test("wrong scenarios and options"):
        test_errors()
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
