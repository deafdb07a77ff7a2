#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""How many times a second one core evaluates the published example's conditions, in each of its cases. Ends with 1 when it is under 100,000."""

import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROBE = os.path.join(ROOT, os.environ.get("BUILD") or "build", "tests", "unit", "expr-probe")
N = 2_000_000
WANTED = 100_000
CASES = {
    "the first comparison decides": {"source_cpu_utilization": 91.5, "destination_cpu_utilization": 20},
    "the last one decides": {"source_cpu_utilization": 40, "network_congestion_prob": 0.1},
    "none holds, all are looked at": {"source_cpu_utilization": 90, "time_of_day": 20},
    "nothing was measured": {"source_cpu_utilization": None, "destination_cpu_utilization": None, "network_congestion_prob": None, "service_type": "critical"},
}
USUAL = {"source_cpu_utilization": 90, "destination_cpu_utilization": 60, "time_of_day": 12, "network_congestion_prob": 0.4, "service_type": "batch"}


def main():
    with open(os.path.join(ROOT, "examples", "published-policy.json"), encoding="utf-8") as file:
        conditions = json.load(file)[0]["CONDITIONS"]
    slowest = float("inf")
    for name, values in CASES.items():
        variables = {**USUAL, **values}
        answer = json.loads(subprocess.run([PROBE, "bench", str(N), conditions], input=json.dumps(variables), capture_output=True, text=True, check=True).stdout)
        slowest = min(slowest, answer["per_second"])
        print(f"{answer['per_second']:12,.0f} evaluations/s  {name}")
    print(f"policies: {'PASS' if slowest >= WANTED else 'FAIL'} slowest={slowest:.0f}/s wanted={WANTED}/s")
    return 0 if slowest >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
