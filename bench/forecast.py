#!/usr/bin/env python3
"""How well the manager knows what a move will cost, and whether strategy auto takes the best one.

    bench/forecast.py                    three rounds over the grid with each strategy, then auto (about half an hour)
    bench/forecast.py --quick            a small grid, a few minutes

One manager, so one history. Each migration's record has what was predicted when it was planned and what came of it. A forecast of the downtime is near when it is within 30 % of the outcome or within 20 ms.
The price of an outcome is that of docs/DECISION.md; auto's is compared with the median price of each fixed strategy in the same cell.
"""

import argparse
import json
import os
import random
import statistics
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "tools", "lab")]
import link  # noqa: E402
import workload  # noqa: E402
from cluster import CONTAINER_IP, FORGETFUL, Cluster  # noqa: E402

NAME = "moved"
FIXED = ["live", "pre-copy", "post-copy", "cold"]
NEAR_FACTOR, NEAR_MS = 0.3, 20
TOTAL_WEIGHT, WIRE_WEIGHT, ON_DEMAND_SLOWS, BANDWIDTH = 50, 50, 0.2, 1e9
TAUGHT = 30


def cells(arguments):
    for megabytes in arguments.mb:
        for rate in arguments.rates:
            yield workload.Case(tool="fleximigrate:live", workload="redis", megabytes=megabytes, write_percent=50, link="unlimited", queue="fair", runs=0, rate=rate)


def outcome(migration):
    lasted = {phase["name"]: phase["duration_us"] / 1000 for phase in migration["phases"]}
    total_ms = migration["finished_unix_ms"] - migration["created_unix_ms"]
    on_demand_ms = lasted.get("pages", 0) if migration["strategy"] == "POST_COPY" else 0  # with the others nearly all pages are there before
    downtime_ms = migration["frozen_us"] / 1000
    return {"downtime_ms": downtime_ms, "total_ms": total_ms, "pages_total": migration["pages_total"], "on_demand_ms": on_demand_ms, "wire_bytes": migration["wire_bytes"],
            "price": downtime_ms + total_ms / TOTAL_WEIGHT + migration["wire_bytes"] / BANDWIDTH * 1000 / WIRE_WEIGHT + ON_DEMAND_SLOWS * on_demand_ms}


def move(cluster, to, strategy):
    migration = cluster.migrate(NAME, to, "--strategy", strategy, timeout=900)
    if migration["state"] != "COMPLETED":
        raise RuntimeError(f"{strategy} to {to}: {migration['error_message']}")
    plan = migration["plan"]
    return {"asked": strategy, "strategy": migration["strategy"].lower().replace("_", "-"), "predicted_downtime_ms": plan["predicted_downtime_ms"], "predicted_total_ms": plan["predicted_total_ms"],
            "low_ms": plan["downtime_low_ms"], "high_ms": plan["downtime_high_ms"], **outcome(migration)}


def near(result):
    off = abs(result["predicted_downtime_ms"] - result["downtime_ms"])
    return off <= NEAR_MS or off <= NEAR_FACTOR * result["downtime_ms"]


def visit(cluster, case, strategies, results):
    """One cell: a container of its own, moved back and forth."""
    bundle = workload.make_bundle(cluster, case, NAME)
    cluster.cli("container", "run", NAME, "--host", "src", "--bundle", bundle, "--address", f"{CONTAINER_IP}/24")
    load = None
    try:
        workload.await_answer(cluster, "cli", case, CONTAINER_IP)
        load = workload.Load(cluster.lab, "cli", CONTAINER_IP, case)
        for index, strategy in enumerate(strategies):
            results.append({"cell": f"{case.megabytes} MB, {case.rate}/s", **move(cluster, ("dst", "src")[index % 2], strategy)})
            r = results[-1]
            print(f"{len(results):3} {r['cell']:16} {strategy:9} {r['strategy']:9} downtime {r['downtime_ms']:7.1f} ms, predicted {r['predicted_downtime_ms']:5} ({r['low_ms']:.0f} to {r['high_ms']:.0f})"
                  f"{'' if near(r) else '  far'}; total {r['total_ms']} ms, predicted {r['predicted_total_ms']}; price {r['price']:.1f}", flush=True)
        if load.finish()["lost_writes"]:
            raise RuntimeError("writes were lost")
    finally:
        if load:
            load.end()
        cluster.cli("container", "rm", "--force", NAME, check=False)


def summary(results):
    taught = [r for r in results if r["asked"] != "auto"][TAUGHT:] + [r for r in results if r["asked"] == "auto"]
    hits = [near(r) for r in taught]
    within = [r["low_ms"] <= r["downtime_ms"] <= r["high_ms"] for r in taught]
    ratios = {}
    for cell in dict.fromkeys(r["cell"] for r in results):
        here = [r for r in results if r["cell"] == cell]
        prices = {s: statistics.median([r["price"] for r in here if r["asked"] == s]) for s in FIXED if any(r["asked"] == s for r in here)}
        auto = [r for r in here if r["asked"] == "auto"]
        if auto and prices:
            best = min(prices, key=prices.get)
            ratios[cell] = statistics.median([r["price"] for r in auto]) / prices[best]
            print(f"{cell:16} auto took {', '.join(sorted({r['strategy'] for r in auto}))}; price {ratios[cell]:.2f} of the best, {best} ({', '.join(f'{s} {p:.0f}' for s, p in prices.items())})")
    print(f"forecast: moves={len(results)} after={TAUGHT} near={sum(hits)}/{len(hits)} ({100 * sum(hits) / max(len(hits), 1):.0f} %) in_band={100 * sum(within) / max(len(within), 1):.0f} %")
    if ratios:
        print(f"auto: cells={len(ratios)} within_15_percent={sum(r <= 1.15 for r in ratios.values())} worst={max(ratios.values()):.2f} geometric_mean={statistics.geometric_mean(ratios.values()):.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="64 and 256 MB, one load, two rounds")
    parser.add_argument("--mb", help="sizes of a Redis (0,16,64,256,512)")
    parser.add_argument("--rates", help="requests per second, half of them writes (1000,10000)")
    parser.add_argument("--rounds", type=int, help="over the grid, each strategy once a round (3)")
    parser.add_argument("--auto", type=int, default=4, help="moves with auto in each cell, afterwards (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the order of strategies (%(default)s)")
    parser.add_argument("--output", help="JSON of every move")
    arguments = parser.parse_args()
    arguments.mb = [int(v) for v in (arguments.mb or ("64,256" if arguments.quick else "0,16,64,256,512")).split(",")]
    arguments.rates = [int(v) for v in (arguments.rates or ("5000" if arguments.quick else "1000,10000")).split(",")]
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 3)
    order, results = random.Random(arguments.seed), []
    with Cluster(f"fc{os.getpid() % 10000}", agent_options={host: FORGETFUL for host in ("src", "dst")}) as cluster:
        link.shape(cluster.lab, "unlimited")
        for _ in range(arguments.rounds):
            for case in cells(arguments):
                visit(cluster, case, order.sample(FIXED, len(FIXED)), results)
        for case in cells(arguments) if arguments.auto else []:
            visit(cluster, case, ["auto"] * arguments.auto, results)
    summary(results)
    if arguments.output:
        with open(arguments.output, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
