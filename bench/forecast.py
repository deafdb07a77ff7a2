#!/usr/bin/env python3
"""How well the manager knows what a move will cost, and whether strategy auto takes the best one.

    bench/forecast.py                    the grid once with each strategy, then five times with each and with auto (about 20 minutes on a quiet machine of two cores)
    bench/forecast.py --quick            a smaller grid, a few minutes

One manager, so one history. A line for each migration: what was predicted when it was planned, and what came of it; the same and more as JSON in bench/results/forecast.json. At the end both checks, and the exit status is 1 when one fails:

forecast    of the migrations after the first 30: the downtime was predicted within 30 % of the outcome or within 20 ms; to pass, in 80 %.
auto        The price of an outcome is that of docs/DECISION.md. In each visit of a cell one container is moved with auto and with each fixed strategy, in random order, so all prices of a visit are of the same minutes. The best strategy of a cell is
            the one with the lowest median price over all visits. auto's ratio is the geometric mean, over the cell's visits, of its price to the best strategy's of the same visit; over the grid, the geometric mean of the cells'. To pass, 1.15 over the grid.
            "Choice" is what is left of a cell's ratio without the luck of single moves: the medians of what auto took, as fixed strategies, to the best one's.

Two moves of the same kind never take equally long: "spread" is the median distance of a price from the median of its kind; ratios of cells are not to be known better than that over the root of the visits. How idle the machine was before is measured and said.
"""

import argparse
import json
import math
import os
import random
import shutil
import statistics
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "tools", "lab")]
import link  # noqa: E402
import workload  # noqa: E402
from cluster import CONTAINER_IP, FORGETFUL, Cluster  # noqa: E402

FIXED = ["live", "pre-copy", "post-copy", "cold"]
NEAR_FACTOR, NEAR_MS, NEAR_SHARE = 0.3, 20, 0.8
TOTAL_WEIGHT, WIRE_WEIGHT, ON_DEMAND_SLOWS, BANDWIDTH = 50, 50, 0.2, 1e9
TAUGHT, RATIO_MAX, QUIET_PERCENT = 30, 1.15, 80
HOPELESS = "does not converge"


def cells(arguments):
    for megabytes in arguments.mb:
        for rate in arguments.rates:
            yield f"{megabytes} MB, {rate}/s", workload.Case(tool="", workload="redis", megabytes=megabytes, write_percent=50, link="unlimited", queue="fair", runs=0, rate=rate)
    for pages in arguments.pages:
        yield f"dirty {pages}/s", workload.Case(tool="", workload="dirtier", megabytes=256, write_percent=0, link="unlimited", queue="fair", runs=0, rate=1000, pages_per_s=pages, working_mb=128)


def idle_percent(seconds=3):
    """Of all processors, now: what others do on this machine is in every figure."""

    def read():
        with open("/proc/stat", encoding="ascii") as file:
            ticks = [int(v) for v in file.readline().split()[1:9]]
        return ticks[3] + ticks[4], sum(ticks)

    before = read()
    time.sleep(seconds)
    after = read()
    return 100 * (after[0] - before[0]) / max(after[1] - before[1], 1)


def outcome(migration):
    lasted = {phase["name"]: phase["duration_us"] / 1000 for phase in migration["phases"]}
    total_ms = migration["finished_unix_ms"] - migration["created_unix_ms"]
    on_demand_ms = lasted.get("pages", 0) if migration["strategy"] == "POST_COPY" else 0  # with the others nearly all pages are there before
    downtime_ms = migration["frozen_us"] / 1000
    return {"downtime_ms": downtime_ms, "total_ms": total_ms, "pages_total": migration["pages_total"], "files_bytes": migration["files_bytes"], "on_demand_ms": on_demand_ms, "wire_bytes": migration["wire_bytes"], "phases_ms": lasted,
            "price": downtime_ms + total_ms / TOTAL_WEIGHT + migration["wire_bytes"] / BANDWIDTH * 1000 / WIRE_WEIGHT + ON_DEMAND_SLOWS * on_demand_ms}


def move(cluster, name, to, strategy):
    """None when its rounds did not shrink, which only pre-copy gives up for."""
    migration = cluster.migrate(name, to, "--strategy", strategy, timeout=900)
    if migration["state"] != "COMPLETED" and HOPELESS in migration["error_message"]:
        return None
    if migration["state"] != "COMPLETED":
        raise RuntimeError(f"{strategy} to {to}: {migration['error_message']}")
    plan = migration["plan"]
    return {"asked": strategy, "strategy": migration["strategy"].lower().replace("_", "-"), "predicted_downtime_ms": plan["predicted_downtime_ms"], "predicted_total_ms": plan["predicted_total_ms"],
            "predicted_wire_bytes": plan["predicted_wire_bytes"], "low_ms": plan["downtime_low_ms"], "high_ms": plan["downtime_high_ms"], "known": plan["cost_case"], "options": plan["options"],
            "dirty_bytes_per_s": migration.get("dirty_bytes_per_s", 0), "compressibility": migration.get("compressibility", 0), **outcome(migration)}


def near(result):
    off = abs(result["predicted_downtime_ms"] - result["downtime_ms"])
    return off <= NEAR_MS or off <= NEAR_FACTOR * result["downtime_ms"]


def show(number, r):
    print(f"{number:3} {r['cell']:16} {r['asked']:9} {r['strategy']:9} downtime {r['downtime_ms']:7.1f} ms, predicted {r['predicted_downtime_ms']:5} ({r['low_ms']:.0f} to {r['high_ms']:.0f}){'' if near(r) else '  far'};"
          f" total {r['total_ms']} ms, predicted {r['predicted_total_ms']}; {r['wire_bytes'] / 1e6:.1f} MB, predicted {r['predicted_wire_bytes'] / 1e6:.1f}; price {r['price']:.1f}", flush=True)


def visit(cluster, cell, case, strategies, results, number):
    """One cell: a container of its own, moved back and forth. The manager remembers what a container's moves measured, so each cell's has a name of its own."""
    name = "".join(c if c.isalnum() else "-" for c in cell)
    bundle = workload.make_bundle(cluster, case, name)
    cluster.cli("container", "run", name, "--host", "src", "--bundle", bundle, "--address", f"{CONTAINER_IP}/24")
    load, at = None, "src"
    try:
        workload.await_answer(cluster, "cli", case, CONTAINER_IP)
        load = workload.Load(cluster.lab, "cli", CONTAINER_IP, case)
        for strategy in strategies:
            to = "dst" if at == "src" else "src"
            done = move(cluster, name, to, strategy)
            if not done:
                print(f"    {cell:16} {strategy:9} gave up: its rounds did not shrink", flush=True)
                continue
            at = to
            results.append({"cell": cell, "visit": number, "load1": os.getloadavg()[0], **done})
            show(len(results), results[-1])
        if load.finish()["lost_writes"]:
            raise RuntimeError("writes were lost")
    finally:
        if load:
            load.end()
        cluster.cli("container", "rm", "--force", name, check=False)
        shutil.rmtree(bundle, ignore_errors=True)


# ---------------------------------------------------------------- what it says


def sum_up_forecasts(results):
    taught = results[TAUGHT:]
    hits, within = sum(near(r) for r in taught), sum(r["low_ms"] <= r["downtime_ms"] <= r["high_ms"] for r in taught)
    for strategy in FIXED:
        of_it = [r for r in taught if r["strategy"] == strategy]
        if of_it:
            off = statistics.median([abs(r["predicted_downtime_ms"] / r["downtime_ms"] - 1) for r in of_it]), statistics.median([abs(r["predicted_total_ms"] / r["total_ms"] - 1) for r in of_it])
            print(f"{strategy:9} {len(of_it):4} moves, {100 * sum(near(r) for r in of_it) / len(of_it):3.0f} % near; off by {100 * off[0]:.0f} % in downtime, {100 * off[1]:.0f} % in total (medians)")
    passed = bool(taught) and hits >= NEAR_SHARE * len(taught)
    print(f"forecast: {'PASS' if passed else 'FAIL'} moves={len(results)} after={TAUGHT} near={hits}/{len(taught)} ({100 * hits / max(len(taught), 1):.0f} %; at least {100 * NEAR_SHARE:.0f}) in_band={100 * within / max(len(taught), 1):.0f} % (80 is right)")
    return passed


def median_prices(here):
    return {s: statistics.median([r["price"] for r in here if r["asked"] == s]) for s in FIXED if any(r["asked"] == s for r in here)}


def ratio_of(here):
    """Of one cell: ratio, choice, best strategy; None where auto was not asked for."""
    pairs, taken, prices = [], [], median_prices(here)
    best = min(prices, key=prices.get) if prices else None
    for number in dict.fromkeys(r["visit"] for r in here):
        price = {r["asked"]: r["price"] for r in here if r["visit"] == number}
        if "auto" in price and best in price:
            pairs.append(math.log(price["auto"] / price[best]))
            taken += [r["strategy"] for r in here if r["visit"] == number and r["asked"] == "auto"]
    if not pairs:
        return None
    choice = statistics.mean(prices.get(s, math.inf) for s in taken) / prices[best]
    return math.exp(statistics.mean(pairs)), choice, best, prices, taken


def spread(results):
    kinds = {}
    for r in results:
        kinds.setdefault((r["cell"], r["strategy"]), []).append(r["price"])
    off = [abs(p / statistics.median(prices) - 1) for prices in kinds.values() if len(prices) > 2 for p in prices]
    return statistics.median(off) if off else math.nan


def sum_up_auto(results):
    ratios, choices = {}, {}
    measured = [r for r in results if r["visit"] > 0]
    for cell in dict.fromkeys(r["cell"] for r in measured):
        found = ratio_of([r for r in measured if r["cell"] == cell])
        if not found:
            continue
        ratios[cell], choices[cell], best, prices, taken = found
        print(f"{cell:16} auto took {', '.join(sorted(set(taken)))}; price {ratios[cell]:.2f} of the best, {best} ({', '.join(f'{s} {p:.0f}' for s, p in prices.items())}); choice {choices[cell]:.2f}")
    if not ratios:
        return False
    overall, worst = statistics.geometric_mean(ratios.values()), max(ratios, key=ratios.get)
    passed = overall <= RATIO_MAX
    print(f"auto: {'PASS' if passed else 'FAIL'} ratio={overall:.3f} (at most {RATIO_MAX}) cells={len(ratios)} within_15_percent={sum(r <= RATIO_MAX for r in ratios.values())} worst={ratios[worst]:.2f} ({worst})"
          f" choice={statistics.geometric_mean(choices.values()):.3f} choice_within_15_percent={sum(c <= RATIO_MAX for c in choices.values())} spread={100 * spread(measured):.0f} %")
    return passed


def arguments_of():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="0, 64 and 256 MB, two loads, a dirtier, two visits after the first")
    parser.add_argument("--mb", help="sizes of a Redis (0,16,64,256,512)")
    parser.add_argument("--rates", help="requests per second, half of them writes (1000,10000)")
    parser.add_argument("--pages", help="pages per second that a dirtier of 256 MB changes, of 128 MB (5000,40000)")
    parser.add_argument("--visits", type=int, help="of each cell after the first one, with auto and each strategy (5)")
    parser.add_argument("--seed", type=int, default=1, help="of the order of strategies (%(default)s)")
    parser.add_argument("--output", default=os.path.join(HERE, "results", "forecast.json"), help="JSON of every move (%(default)s)")
    arguments = parser.parse_args()
    arguments.mb = [int(v) for v in (arguments.mb or ("0,64,256" if arguments.quick else "0,16,64,256,512")).split(",")]
    arguments.rates = [int(v) for v in (arguments.rates or "1000,10000").split(",")]
    arguments.pages = [int(v) for v in (arguments.pages or ("40000" if arguments.quick else "5000,40000")).split(",")]
    arguments.visits = arguments.visits or (2 if arguments.quick else 5)
    return arguments


def measure(arguments, results):
    order, began = random.Random(arguments.seed), time.monotonic()
    with Cluster(f"fc{os.getpid() % 10000}", agent_options={host: FORGETFUL for host in ("src", "dst")}) as cluster:
        link.shape(cluster.lab, "unlimited")
        for number in range(1 + arguments.visits):
            strategies = FIXED + (["auto"] if number > 0 else [])
            for cell, case in cells(arguments):
                visit(cluster, cell, case, order.sample(strategies, len(strategies)), results, number)
    return time.monotonic() - began


def main():
    arguments, results = arguments_of(), []
    idle = idle_percent()
    seconds = measure(arguments, results)
    os.makedirs(os.path.dirname(os.path.abspath(arguments.output)), exist_ok=True)
    with open(arguments.output, "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
    passed = [sum_up_forecasts(results), sum_up_auto(results)]
    idle = min(idle, idle_percent())
    print(f"machine: {idle:.0f} % idle before or after{'' if idle >= QUIET_PERCENT else ': others worked on it, the figures are not to be trusted'}; it took {seconds / 60:.1f} minutes")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
