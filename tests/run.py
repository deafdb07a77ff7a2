#!/usr/bin/env python3
"""Runs every test and ends with the line "N passed, N failed[, N skipped]".

Groups, in this order; `tests/run.py GROUP…` runs some of them only:
    lint         include order, formatting, static analysis, texts that must agree with the code
    unit         tests/unit/test-*, plain build
    sanitizers   the same under AddressSanitizer and UndefinedBehaviorSanitizer
    integration  tests/integration/*.py
    e2e          tests/e2e/*.py in their short form: real hosts (namespaces), real containers, real migrations
    vm           tests/vm/vm.py in its short form: dirty tracking, cgroups and a dump on Debian's own kernel, in an emulated machine; skipped where there is no QEMU
    fuzz         every fuzzer for a few seconds

Unit tests are cmocka programs (their TAP output is counted); the others print TAP themselves: "ok N - name", "not ok N - name",
"ok N - name # SKIP reason". A program that ends without a plan or with a signal counts as a failure.
"""

import glob
import os
import re
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(ROOT, os.environ.get("BUILD", "build"))
SAN_BUILD = os.path.join(ROOT, os.environ.get("SAN_BUILD", "build-san"))
FUZZ_BUILD = os.path.join(ROOT, "build-fuzz")
PROGRAM_TIMEOUT_S = 900
FUZZ_SECONDS = 3

SAN_ENV = {"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:exitcode=99", "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}


class Tally:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.failures = []

    def add(self, passed, failed, skipped, name, output):
        self.passed += passed
        self.failed += failed
        self.skipped += skipped
        if failed:
            self.failures.append((name, output))


def count_tap(output):
    passed = failed = skipped = 0
    for line in output.splitlines():
        match = re.match(r"(not )?ok \d+\b(.*)", line)
        if not match:
            continue
        if re.search(r"#\s*skip", match.group(2), re.I):  # cmocka writes "not ok N # SKIP"
            skipped += 1
        elif match.group(1):
            failed += 1
        else:
            passed += 1
    return passed, failed, skipped


def run_program(tally, name, argv, env=None):
    started = time.monotonic()
    environment = dict(os.environ, CMOCKA_MESSAGE_OUTPUT="TAP", BUILD=BUILD, **(env or {}))
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=PROGRAM_TIMEOUT_S, env=environment, cwd=ROOT, check=False)
        output, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as late:
        output, code = (late.stdout or b"").decode(errors="replace") + f"\nnot within {PROGRAM_TIMEOUT_S} s", -1
    passed, failed, skipped = count_tap(output)
    if passed + failed + skipped == 0 or (code != 0 and failed == 0):
        failed += 1
        output += f"\n{name}: exit code {code} and no failing test named"
    tally.add(passed, failed, skipped, name, output)
    seconds = time.monotonic() - started
    print(f"{'FAIL' if failed else 'ok  '} {name}: {passed} passed, {failed} failed, {skipped} skipped ({seconds:.1f} s)", flush=True)
    for line in output.splitlines():
        if re.match(r"(not )?ok \d+.*#\s*skip", line, re.I) or "skipp" in line:
            print(f"     {line.strip()}", flush=True)


def build(directory, *options, targets=(), env=None):
    if not os.path.exists(os.path.join(directory, "build.ninja")):
        subprocess.run(["meson", "setup", directory, *options], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ, **(env or {})))
    subprocess.run(["ninja", "-C", directory, "--quiet", *targets], cwd=ROOT, check=True)


def unit(tally, directory, env, label):
    env = dict(env, FLEXIMIGRATE_NEST=os.path.join(directory, "fleximigrate-nest"), FLEXIMIGRATE_NEST_PROBE=os.path.join(directory, "tests", "unit", "nest-probe"))
    for program in sorted(glob.glob(os.path.join(directory, "tests", "unit", "test-*"))):
        if os.access(program, os.X_OK) and os.path.isfile(program):
            run_program(tally, f"{label} {os.path.basename(program)}", [program], env)


def group_lint(tally):
    for script in sorted(glob.glob(os.path.join(ROOT, "tests", "lint", "*.py"))):
        run_program(tally, f"lint {os.path.basename(script)}", [sys.executable, script])


def group_unit(tally):
    build(BUILD)
    unit(tally, BUILD, {}, "unit")


def group_sanitizers(tally):
    # With the sanitizers' instrumentation gcc 12 sees overflows of formatted texts that cannot be; the plain build has these warnings on.
    build(SAN_BUILD, "-Db_sanitize=address,undefined", "-Db_lundef=false", "-Dbuildtype=debug", "-Doptimization=1",
          "-Dc_args=-Wno-format-overflow -Wno-format-truncation -Wno-maybe-uninitialized -Wno-stringop-truncation")
    unit(tally, SAN_BUILD, SAN_ENV, "sanitized")


def group_integration(tally):
    for script in sorted(glob.glob(os.path.join(ROOT, "tests", "integration", "*.py"))):
        run_program(tally, f"integration {os.path.basename(script)}", [sys.executable, script])


def group_e2e(tally):
    for script in ("inputs.py", "scenarios.py", "strategies.py", "soak.py", "chaos.py", "network.py", "refusals.py", "policies.py"):
        run_program(tally, f"e2e {script}", [sys.executable, os.path.join(ROOT, "tests", "e2e", script), "--short", "--tap"])


def group_vm(tally):
    run_program(tally, "vm vm.py", [sys.executable, os.path.join(ROOT, "tests", "vm", "vm.py"), "--short", "--tap"])


def group_fuzz(tally):
    build(FUZZ_BUILD, "-Dfuzz=true", "-Dtests=false", "-Db_sanitize=address,undefined", "-Db_lundef=false", "-Dbuildtype=debug", "-Doptimization=1", env={"CC": "clang"})
    for program in sorted(glob.glob(os.path.join(FUZZ_BUILD, "tests", "fuzz", "fuzz-*"))):
        if not (os.access(program, os.X_OK) and os.path.isfile(program)):
            continue
        name = os.path.basename(program)
        seeds = os.path.join(ROOT, "tests", "fuzz", "seeds", name.removeprefix("fuzz-"))
        with tempfile.TemporaryDirectory(prefix="fm-fuzz-") as corpus:  # new inputs go there, not into the tree
            done = subprocess.run([program, f"-max_total_time={FUZZ_SECONDS}", "-rss_limit_mb=2048", "-verbosity=0", "-print_final_stats=1", corpus, *([seeds] if os.path.isdir(seeds) else [])],
                                  capture_output=True, text=True, errors="replace", cwd=FUZZ_BUILD, check=False)
        units = re.search(r"number_of_executed_units: (\d+)", done.stderr)
        ok = done.returncode == 0 and units and int(units.group(1)) > 0
        tally.add(int(bool(ok)), int(not ok), 0, f"fuzz {name}", done.stderr)
        print(f"{'ok  ' if ok else 'FAIL'} fuzz {name}: {units.group(1) if units else 0} inputs in {FUZZ_SECONDS} s", flush=True)


GROUPS = {"lint": group_lint, "unit": group_unit, "sanitizers": group_sanitizers, "integration": group_integration, "e2e": group_e2e, "vm": group_vm, "fuzz": group_fuzz}


def excerpt(output):
    """What failed and why, with the lines around it; and the end. A leak report of what a failed test left is long, and says nothing."""
    lines = output.splitlines()
    shown = set(range(max(0, len(lines) - 30), len(lines)))
    for at, line in enumerate(lines):
        if re.match(r"not ok (?!.*#\s*skip)|.*\berror\b:|ERROR:", line, re.I) and len(shown) < 120:
            shown.update(range(max(0, at - 6), min(len(lines), at + 6)))
    return "\n".join(lines[at] for at in sorted(shown))


def main():
    wanted = sys.argv[1:] or list(GROUPS)
    unknown = [name for name in wanted if name not in GROUPS]
    if unknown:
        print(f"run.py: there is no group {unknown[0]}; groups: {', '.join(GROUPS)}", file=sys.stderr)
        return 2
    tally = Tally()
    for name in wanted:
        try:
            GROUPS[name](tally)
        except subprocess.CalledProcessError as error:
            tally.add(0, 1, 0, name, str(error))
    for name, output in tally.failures:
        print(f"\n--- {name}\n" + excerpt(output))
    print(f"\n{tally.passed} passed, {tally.failed} failed, {tally.skipped} skipped")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
