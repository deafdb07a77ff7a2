#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Real programs (real.py) moved back and forth under load: no connection lost, no acknowledged write lost, nothing left behind; what cannot move is refused before anything is frozen.

--write-docs makes docs/compatibility.md of what this run has found; with --only, the programs of an earlier run that are not of this one stay in it.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import time

from common import HERE, STRETCH, Cluster, Tap, conclude, expect, fail, lab_name, mend, no_leftovers, unwind_on_signal
from real import MOVES, REFUSED

STRATEGIES = ("live", "cold", "post-copy", "pre-copy")
SHORT_MOVES = 2
READY_S = 60
RESULTS = os.path.join(HERE, "..", "..", "docs", "compatibility.json")
PAGE = os.path.join(HERE, "..", "..", "docs", "compatibility.md")


class Load:
    """programs/client.py in the client's host."""

    def __init__(self, cluster, program, address):
        words = [*program.client[:1], address, str(program.port), *program.client[1:], *(["--command", *program.command_line(address)] if program.command_line else [])]
        self.name, self.cluster = program.name, cluster
        self.process = cluster.lab.popen("cli", [sys.executable, os.path.join(HERE, "programs", "client.py"), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)

    def ask(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], 60 * STRETCH)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            fail(f"the client of {self.name} does not answer")
        report = json.loads(line)
        expect(not report["error"], f"the client of {self.name}: {report['error']}")
        return report

    def report(self):
        return self.ask("report")

    def more(self, seconds_max=60):
        goal = self.report()["acknowledged"] + 30
        self.cluster.wait(f"the client of {self.name} gets answers", lambda: self.report()["acknowledged"] >= goal, seconds_max)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Programs:
    def __init__(self, cluster, tap, options):
        self.cluster, self.tap, self.options = cluster, tap, options
        self.migrations = self.failed = self.tried = self.number = 0
        self.results = []

    @contextlib.contextmanager
    def started(self, program):
        """Yields its container's name and address."""
        self.number += 1
        name, address = f"real{self.number}", f"10.77.0.{100 + self.number}"
        bundle = program.bundle(self.cluster, name)
        try:
            self.cluster.cli("container", "run", name, "--host", "src", "--bundle", bundle, "--address", f"{address}/24")
            try:
                self.cluster.wait(f"{program.name} serves", lambda: program.ready is None or program.ready(self.cluster, address), READY_S)
            except Exception:
                self.tap.say(self.said(name))
                raise
            program.setup(self.cluster, address)
            yield name, address
        finally:
            mend(self.cluster)
            self.cluster.cli("container", "rm", "--force", name, check=False)
            subprocess.run(["rm", "-rf", bundle], check=False)

    def said(self, name):
        """By the program itself."""
        folder, lines = self.cluster.instance_dir(name), []
        for file in sorted(os.listdir(folder)):
            if file.endswith("log") or file.startswith("output"):
                with open(os.path.join(folder, file), encoding="utf-8", errors="replace") as log:
                    lines += log.read().splitlines()[-12:]
        return "\n".join(lines)

    def move(self, program, load, name, address, to, strategy):
        load.ask("reset")
        record = self.cluster.migrate(name, to, "--strategy", strategy)
        self.migrations += 1
        if record["state"] != "COMPLETED":
            fail(f"{strategy} to {to}: {record['path']}: {record['error_message']}")
        load.more()
        program.check(self.cluster, address, load)
        container = self.cluster.container(name)
        expect((container["host"], container["status"]) == (to, "running"), f"it is {container['status']} on {container['host']}, not running on {to}")
        no_leftovers(self.cluster)
        return {"strategy": strategy, "wait_ms": load.report()["longest_wait_ms"], "frozen_ms": record["frozen_us"] / 1000}

    def moves(self, program):
        with self.tap.test(f"{program.name}: {self.options.count} moves, {program.what}"):
            moves, error = [], ""
            self.tried += 1
            try:
                with self.started(program) as (name, address):
                    load = Load(self.cluster, program, address)
                    try:
                        load.more()
                        program.check(self.cluster, address, load)
                        for index in range(self.options.count):
                            moves.append(self.move(program, load, name, address, ("dst", "src")[index % 2], STRATEGIES[index % len(STRATEGIES)]))
                        load.ask("end")
                    finally:
                        load.end()
                no_leftovers(self.cluster)
            except Exception as failure:
                self.failed += 1
                error = str(failure).splitlines()[0]
                raise
            finally:
                self.results.append(result_of(program, moves=moves, error=error, limit=program.limit))
                for move in moves:
                    self.tap.say(f"{move['strategy']}: longest wait {move['wait_ms']:.0f} ms, frozen {move['frozen_ms']:.0f} ms")

    def refusal(self, program):
        """Nothing happens to it but that the user is told."""
        with self.tap.test(f"{program.name}: refused, {program.refused}"):
            message = ""
            self.tried += 1
            try:
                with self.started(program) as (name, address):
                    record = self.cluster.migrate(name, "dst")
                    message = record["error_message"]
                    expect(record["state"] == "FAILED" and program.refused in message, f"{record['state']}: {message}")
                    expect(record["frozen_us"] == 0, f"it was frozen for {record['frozen_us']} us")
                    expect(program.ready(self.cluster, address), "it does not answer any more")
                    container = self.cluster.container(name)
                    expect((container["host"], container["status"]) == ("src", "running"), f"it is {container['status']} on {container['host']}")
                    no_leftovers(self.cluster)
            except Exception:
                self.failed += 1
                raise
            self.results.append(result_of(program, refused=message, remedy=program.remedy))


def result_of(program, **more):
    return {"name": program.name, "version": program.version(), "what": program.what, "kernel": platform.release(), "date": datetime.date.today().isoformat(), **more}


# ---- the document

def order():
    return [program.name for program in (*MOVES, *REFUSED)]


def cell(text):
    return str(text).replace("|", "\\|") or "-"


def page(results):
    criu = "unknown"
    with contextlib.suppress(OSError), open("/opt/fleximigrate/criu/VERSION", encoding="ascii") as file:
        criu = file.read().strip()
    moved = [result for result in results if "moves" in result]
    lines = ["# What moves, and what does not", "",
             "Made by `tests/e2e/programs.py --write-docs` from what it measured; do not edit. Each program was moved between two hosts (network namespaces of one machine) as a nested container of runc,",
             "back and forth, strategies taking turns, under the load that is named. It counts as moved only if no connection was lost, every answer was the right one, every acknowledged write was there,",
             "and nothing was left behind on either host, after each move. *Wait* is the longest that any of the clients waited for an answer during a move, *frozen* is how long the program stood still.",
             "", f"CRIU {criu}.", "", "| Program | Version | Load | Moves | Result | Wait, ms: median, most | Frozen, ms: median, most | Kernel | Date |", "|---|---|---|---|---|---|---|---|---|"]
    for result in moved:
        moves = result["moves"]
        figures = [f"{statistics.median(values):.0f}, {max(values):.0f}" if values else "-" for values in ([move[key] for move in moves] for key in ("wait_ms", "frozen_ms"))]
        verdict = f"does not move: {result['error']}" if result["error"] else "moves" + (f", {result['limit']}" if result.get("limit") else "")
        lines.append("| " + " | ".join(map(cell, (result["name"], result["version"] or "ours", result["what"], len(moves), verdict, *figures, result["kernel"], result["date"]))) + " |")
    lines += ["", "## By strategy", "", "Frozen and longest wait, median of all moves of all programs above:", "", "| Strategy | Moves | Wait, ms | Frozen, ms |", "|---|---|---|---|"]
    for strategy in STRATEGIES:
        moves = [move for result in moved for move in result["moves"] if move["strategy"] == strategy]
        if moves:
            lines.append(f"| {strategy} | {len(moves)} | {statistics.median(move['wait_ms'] for move in moves):.0f} | {statistics.median(move['frozen_ms'] for move in moves):.0f} |")
    lines += ["", "## Refused", "", "Before anything is frozen; the program goes on where it is.", "", "| Program | Version | What is said | Remedy | Kernel | Date |", "|---|---|---|---|---|---|"]
    lines += ["| " + " | ".join(map(cell, (result["name"], result["version"] or "ours", result["refused"], result["remedy"], result["kernel"], result["date"]))) + " |" for result in results if "refused" in result]
    return "\n".join(lines) + "\n"


def write_docs(results):
    """What was not run now stays as it was found."""
    known = {}
    with contextlib.suppress(OSError), open(RESULTS, encoding="utf-8") as file:
        known = {result["name"]: result for result in json.load(file)}
    known.update({result["name"]: result for result in results})
    known = [known[name] for name in order() if name in known]
    with open(RESULTS, "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(result) for result in known) + "\n]\n")
    with open(PAGE, "w", encoding="utf-8") as file:
        file.write(page(known))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="the form for make check: some of them, two moves each")
    parser.add_argument("--tap", action="store_true", help="print TAP, for the test runner")
    parser.add_argument("--keep", action="store_true", help="keep everything when the program itself fails, for inspection")
    parser.add_argument("--only", metavar="TEXT", action="append", help="only programs with this in their name; several times: any of them")
    parser.add_argument("--count", type=int, default=20, help="moves of each (20)")
    parser.add_argument("--write-docs", action="store_true", help="write docs/compatibility.md")
    options = parser.parse_args()
    if options.short:
        options.count = SHORT_MOVES
    return options


def main():
    options = arguments()
    unwind_on_signal()
    name = lab_name("real")
    tap = Tap("programs", options.tap)
    wanted = [program for program in (*MOVES, *REFUSED) if (not options.short or program.short) and (not options.only or any(text in program.name for text in options.only))]
    started = time.monotonic()
    with Cluster(name, keep_on_failure=options.keep) as cluster:
        programs = Programs(cluster, tap, options)
        for program in wanted:
            (programs.refusal if program.refused else programs.moves)(program)
    code = conclude(tap, name)
    if options.write_docs:
        write_docs(programs.results)
    tap.say(f"{time.monotonic() - started:.0f} s")
    tap.say(f"programs: {programs.tried} migrations={programs.migrations} failed={programs.failed}")
    return code


if __name__ == "__main__":
    sys.exit(main())
