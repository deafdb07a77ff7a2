#!/usr/bin/env python3
"""Runs every test and ends with the line "N passed, N failed[, N skipped]".

Groups, in this order; `tests/run.py GROUP…` runs some of them only, `tests/run.py [GROUP…] NAME…` some programs only: `tests/run.py unit test-keeper`, `tests/run.py 'test-redirect-*'`:
    lint         include order, formatting, static analysis, texts that must agree with the code
    unit         tests/unit/test-*, plain build
    integration  tests/integration/*.py
    e2e          tests/e2e/*.py in their short form: real hosts (namespaces), real containers, real migrations
    vm           tests/vm/vm.py in its short form: dirty tracking, cgroups and a dump on Debian's own kernel, in an emulated machine; skipped where there is no QEMU
    sanitizers   the unit tests under AddressSanitizer and UndefinedBehaviorSanitizer
    fuzz         every fuzzer for a few seconds

Unit tests are cmocka programs (their TAP output is counted); the others print TAP themselves: "ok N - name", "not ok N - name",
"ok N - name # SKIP reason". A program that ends without a plan or with a signal counts as a failure.

Most tests wait for most of the time: unit tests run beside each other, and what only computes (static analysis, the fuzzers, their builds and those with sanitizers) runs beside everything, at idle priority, until it is
needed. End-to-end tests run beside each other, too. A program's line is printed when it has ended; what it printed is in $BUILD/test-logs.
"""

import concurrent.futures
import dataclasses
import fnmatch
import glob
import os
import re
import shutil
import signal
import sys
import threading
import time
import typing

from programs import Interrupted, Programs

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(ROOT, os.environ.get("BUILD", "build"))
SAN_BUILD = os.path.join(ROOT, os.environ.get("SAN_BUILD", "build-san"))
FUZZ_BUILD = os.path.join(ROOT, "build-fuzz")
LOGS = os.path.join(BUILD, "test-logs")
PROGRAM_TIMEOUT_S = 900
BUILD_TIMEOUT_S = 3600
CLEAN_UP_S = 60
FUZZ_SECONDS = 4  # of which a program that is idle may have half
SHOWN_LINES = 120
HELPERS = ["fleximigrate", "fleximigrate-nest", "tests/unit/nest-probe", "tests/unit/hostile"]  # programs that unit tests run
PROCESSORS = os.cpu_count() or 1
WAITING = PROCESSORS + 1  # at a time, of programs that mostly wait

SAN_ENV = {"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:exitcode=99", "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}
# With the sanitizers' instrumentation gcc 12 sees overflows of formatted texts that cannot be; the plain build has these warnings on.
SANITIZED = ("-Db_sanitize=address,undefined", "-Db_lundef=false", "-Dbuildtype=debug", "-Doptimization=1")
# Reports need lines, not variables; a sixth of the compiler's time is theirs.
LINES_ONLY = "-Dc_args=-g1"
NO_FALSE_WARNINGS = f"{LINES_ONLY} -Wno-format-overflow -Wno-format-truncation -Wno-maybe-uninitialized -Wno-stringop-truncation"

# Programs of groups that run beside each other that no other test runs beside, and why. QUIET: nor anything idle. A test that only gets slower beside others belongs in neither.
ALONE = {
    "test_lab_kinds.py": "counts what gets through within a time",
    "test_lab_latency.py": "measures round trips",
    "test_postcopy_crash.py": "cuts links and kills agents in the middle of transfers that a rate times",
    "test_stock_postcopy.py": "kills a fault server in the middle of a transfer",
    "soak.py": "no wait of its client may be longer by a second than the freeze explains",
    "monitoring.py": "compares what is reported with what the processors did",
    "strategies.py loaded": "programs that have to be faster than a link",
}
QUIET = {
    "test-cgroup": "compares the processor time that a busy process gets with its quota",
    "test-criu": "compares how long dumps take; its containers keep both processors busy",
    "plans.py": "its containers keep both processors busy, which leaves nothing to a fuzzer that is idle",
}
# Those that take longest begin first, so that none is left over at the end.
LONG = ("test-keeper", "test-redirect-vxlan", "test-tracker", "test-redirect-tunnel", "test-redirect-route", "test-redirect-openflow", "test-push-streams", "test_rest.py", "test_redirect_dns.py", "test_dns.py")


@dataclasses.dataclass
class Job:
    """A program of a group."""
    group: str
    name: str  # as it is asked for
    argv: list
    env: dict = dataclasses.field(default_factory=dict)
    cwd: str = ROOT
    idle: bool = False
    polite_s: float = CLEAN_UP_S
    scratch: str = ""  # a folder that is made for it and removed
    fuzzes: bool = False

    @property
    def quiet(self):
        return self.name in QUIET

    @property
    def alone(self):
        return self.quiet or self.name in ALONE

    @property
    def timeout_s(self):
        return BUILD_TIMEOUT_S if self.idle else PROGRAM_TIMEOUT_S  # who gets what others leave, and stands still at times

    def is_named(self, pattern):
        """Parts of a program have a second word, and go by the first as well."""
        return any(fnmatch.fnmatch(name, wanted) for name in (self.name, self.name.split()[0]) for wanted in (pattern, pattern + ".py"))

    def label(self):
        return f"{'sanitized' if self.group == 'sanitizers' else self.group} {self.name}"

    def log(self):
        return os.path.join(LOGS, self.label().replace(" ", "-") + ".log")


@dataclasses.dataclass
class Group:
    jobs: typing.Callable
    build: typing.Callable = None  # (runner, jobs, idle)
    workers: int = 1


class BuildFailed(Exception):
    pass


class Tally:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.failures, self.lock = [], threading.Lock()

    def add(self, passed, failed, skipped, name, output):
        self.passed += passed
        self.failed += failed
        self.skipped += skipped
        if failed:
            self.failures.append((name, output))

    def report(self, job, code, output, seconds):
        """One line; and what was skipped."""
        with self.lock:
            if job.fuzzes:
                units = re.search(r"number_of_executed_units: (\d+)", output)
                units = int(units.group(1)) if units else 0
                ok = code == 0 and units > 0
                self.add(int(ok), int(not ok), 0, job.label(), output)
                print(f"{'ok  ' if ok else 'FAIL'} {job.label()}: {units} inputs in {FUZZ_SECONDS} s", flush=True)
                return
            passed, failed, skipped = count_tap(output)
            if code is None:
                output += f"\nnot within {job.timeout_s} s"
            if passed + failed + skipped == 0 or (code != 0 and failed == 0):
                failed += 1
                output += f"\n{job.label()}: exit code {code} and no failing test named"
            self.add(passed, failed, skipped, job.label(), output)
            print(f"{'FAIL' if failed else 'ok  '} {job.label()}: {passed} passed, {failed} failed, {skipped} skipped ({seconds:.1f} s)", flush=True)
            for line in output.splitlines():
                if re.match(r"(not )?ok \d+.*#\s*skip", line, re.I) or "skipp" in line:
                    print(f"     {line.strip()}", flush=True)

    def broken(self, name, output):
        with self.lock:
            self.add(0, 1, 0, name, output)
            print(f"FAIL {name}", flush=True)


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


# ---- what there is, by group

def scripts(folder):
    return sorted(glob.glob(os.path.join(ROOT, "tests", folder, "*.py")))


def longest_first(names):
    return sorted(names, key=lambda name: (LONG.index(name) if name in LONG else len(LONG), name))


def lint_jobs():
    return [Job("lint", os.path.basename(script), [sys.executable, script], idle=script.endswith("tidy.py"), polite_s=1) for script in scripts("lint")]


def unit_jobs(group="unit", directory=BUILD, env=None):
    env = {**(env or {}), "FLEXIMIGRATE_NEST": os.path.join(directory, "fleximigrate-nest"), "FLEXIMIGRATE_NEST_PROBE": os.path.join(directory, "tests", "unit", "nest-probe")}
    names = [os.path.basename(source)[:-2] for source in glob.glob(os.path.join(ROOT, "tests", "unit", "test-*.c"))]
    return [Job(group, name, [os.path.join(directory, "tests", "unit", name)], env, polite_s=0)
            for name in longest_first(names)]


def sanitizer_jobs():
    return unit_jobs("sanitizers", SAN_BUILD, SAN_ENV)


def integration_jobs():
    return [Job("integration", name, [sys.executable, os.path.join(ROOT, "tests", "integration", name)]) for name in longest_first(map(os.path.basename, scripts("integration")))]


def e2e_jobs():
    """Those that take longest begin first; those that nothing runs beside come after the others in any case."""
    return [Job("e2e", program, [sys.executable, os.path.join(ROOT, "tests", "e2e", program.split()[0]), "--short", "--tap", *(word for part in program.split()[1:] for word in ("--part", part))])
            for program in ("network.py", "strategies.py usual", "refusals.py", "chaos.py", "strategies.py volumes", "scenarios.py", "inputs.py", "matrix.py", "metrics.py", "policies.py",
                            "strategies.py loaded", "programs.py", "plans.py", "monitoring.py", "soak.py")]


def vm_jobs():
    return [Job("vm", "vm.py", [sys.executable, os.path.join(ROOT, "tests", "vm", "vm.py"), "--short", "--tap"])]


def fuzz_jobs():
    jobs = []
    for source in sorted(glob.glob(os.path.join(ROOT, "tests", "fuzz", "fuzz-*.c"))):
        name = os.path.basename(source)[:-2]
        seeds = os.path.join(ROOT, "tests", "fuzz", "seeds", name.removeprefix("fuzz-"))
        corpus = os.path.join(LOGS, f"{name}.corpus")  # new inputs go there, not into the tree
        jobs.append(Job("fuzz", name, [os.path.join(FUZZ_BUILD, "tests", "fuzz", name), f"-max_total_time={FUZZ_SECONDS}", "-rss_limit_mb=2048", "-verbosity=0", "-print_final_stats=1",
                                       corpus, *([seeds] if os.path.isdir(seeds) else [])], cwd=FUZZ_BUILD, idle=True, polite_s=1, scratch=corpus, fuzzes=True))
    return jobs


# ---- what has to be built for it

def build_unit(runner, jobs, idle):
    runner.build(BUILD, jobs, idle)


def build_sanitizers(runner, jobs, idle):
    runner.build(SAN_BUILD, jobs, idle, *SANITIZED, NO_FALSE_WARNINGS)


def build_fuzz(runner, jobs, idle):
    runner.build(FUZZ_BUILD, jobs, idle, "-Dfuzz=true", "-Dtests=false", *SANITIZED, LINES_ONLY, env={"CC": "clang"})


GROUPS = {"lint": Group(lint_jobs, workers=2), "unit": Group(unit_jobs, build_unit, WAITING), "integration": Group(integration_jobs, workers=PROCESSORS), "e2e": Group(e2e_jobs, workers=WAITING), "vm": Group(vm_jobs),
          "sanitizers": Group(sanitizer_jobs, build_sanitizers, WAITING), "fuzz": Group(fuzz_jobs, build_fuzz)}


class Runner:
    """What was asked for: `jobs`, by group; `picked`: only some of each."""

    def __init__(self, jobs, picked):
        self.jobs, self.picked = jobs, picked
        self.tally, self.programs = Tally(), Programs()
        self.idle = concurrent.futures.ThreadPoolExecutor(1)  # one after the other: each of them has as many processes as there are processors
        self.fuzzers = concurrent.futures.ThreadPoolExecutor(PROCESSORS)
        self.builds, self.beside = {}, []

    def start_idle(self):
        """In the order in which it is needed."""
        for name in ("sanitizers", "fuzz"):
            if name in self.jobs:
                self.builds[name] = self.idle.submit(GROUPS[name].build, self, self.jobs[name], True)
        idle = [job for jobs in self.jobs.values() for job in jobs if job.idle]
        self.beside = [self.idle.submit(self.run, job) for job in idle if not job.fuzzes]
        before = [*self.builds.values(), *self.beside]
        self.beside += [self.fuzzers.submit(self.fuzz, job, before) for job in idle if job.fuzzes]

    def fuzz(self, job, before):
        for each in before:
            each.exception()
        if not self.builds[job.group].exception():  # otherwise the group says what is wrong
            self.run(job)

    def build(self, directory, jobs, idle, *options, env=None):
        programs = [os.path.relpath(job.argv[0], directory) for job in jobs]
        helpers = [] if directory == FUZZ_BUILD else HELPERS
        ninja_file, steps = os.path.join(directory, "build.ninja"), []
        if not os.path.exists(ninja_file):
            steps.append(["meson", "setup", directory, *options])
        elif not knows_all(ninja_file, programs):
            steps.append(["meson", "setup", "--reconfigure", directory])
        steps.append(["ninja", "-C", directory, "-j", str(PROCESSORS), *([*programs, *helpers] if self.picked else [])])
        for argv in steps:
            try:
                code, output = self.programs.run(argv, os.path.join(LOGS, os.path.basename(directory) + ".log"), env, ROOT, BUILD_TIMEOUT_S, CLEAN_UP_S, idle)
            except OSError as error:
                raise BuildFailed(str(error)) from error
            if code != 0:
                raise BuildFailed(output)

    def run(self, job):
        """In any thread."""
        started = time.monotonic()
        environment = {"CMOCKA_MESSAGE_OUTPUT": "TAP", "BUILD": BUILD, **job.env}
        if job.scratch:
            os.makedirs(job.scratch, exist_ok=True)
        try:
            code, output = self.programs.run(job.argv, job.log(), environment, job.cwd, job.timeout_s, job.polite_s, job.idle)
        except OSError as error:
            self.tally.broken(job.label(), f"cannot be started: {error}")
            return
        finally:
            if job.scratch:
                shutil.rmtree(job.scratch)
        self.tally.report(job, code, output, time.monotonic() - started)

    def run_quiet(self, job):
        with self.programs.quiet():
            self.run(job)

    def run_group(self, name):
        group, jobs = GROUPS[name], [job for job in self.jobs[name] if not job.idle]
        try:
            if name in self.builds:
                self.builds[name].result()
            elif group.build:
                group.build(self, jobs, False)
        except BuildFailed as failure:
            self.tally.broken(f"{name}: the build", str(failure))
            return
        together, alone = [job for job in jobs if not job.alone], [job for job in jobs if job.alone]
        for some, at_a_time in ((together, group.workers), (alone, 1)):
            pool = concurrent.futures.ThreadPoolExecutor(at_a_time)
            try:
                for done in concurrent.futures.as_completed([pool.submit(self.run_quiet if job.quiet else self.run, job) for job in some]):
                    done.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def run_all(self):
        self.start_idle()
        for name in self.jobs:
            self.run_group(name)
        for done in concurrent.futures.as_completed(self.beside):
            done.result()

    def end(self):
        for pool in (self.idle, self.fuzzers):
            pool.shutdown(wait=False, cancel_futures=True)
        self.programs.end_all()


def knows_all(ninja_file, programs):
    with open(ninja_file, encoding="utf-8", errors="surrogateescape") as file:
        text = file.read()
    return all(f"build {program}:" in text for program in programs)


def excerpt(output):
    """All of it if that can be read; otherwise what failed and why, with the lines around it, and the end: a leak report of what a failed test left is long, and says nothing."""
    lines = output.splitlines()
    shown = set(range(max(0, len(lines) - (SHOWN_LINES if len(lines) <= SHOWN_LINES else 30)), len(lines)))
    for at, line in enumerate(lines):
        if re.match(r"not ok (?!.*#\s*skip)|.*\berror\b:|ERROR:", line, re.I) and len(shown) < SHOWN_LINES:
            shown.update(range(max(0, at - 6), min(len(lines), at + 6)))
    return "\n".join(lines[at] for at in sorted(shown))


def select(words):
    """({group: [job]}, whether some were picked by name); LookupError for a word that is neither."""
    groups = [word for word in GROUPS if word in words] or list(GROUPS)
    patterns = [word for word in words if word not in GROUPS]
    jobs = {name: GROUPS[name].jobs() for name in groups}
    for pattern in patterns:
        if not any(job.is_named(pattern) for some in jobs.values() for job in some):
            raise LookupError(pattern)
    if patterns:
        jobs = {name: [job for job in some if any(map(job.is_named, patterns))] for name, some in jobs.items()}
    return {name: some for name, some in jobs.items() if some}, bool(patterns)


def main():
    try:
        runner = Runner(*select(sys.argv[1:]))
    except LookupError as error:
        print(f"run.py: there is no group and no program {error}; groups: {', '.join(GROUPS)}", file=sys.stderr)
        return 2
    # SIGINT also where it was ignored, as for what a shell starts with "&": the programs would inherit that. Not so SIGHUP: nohup means it.
    for number in (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else [])):
        signal.signal(number, signal.default_int_handler)
    os.makedirs(LOGS, exist_ok=True)
    tally, interrupted = runner.tally, False
    try:
        runner.run_all()
    except (KeyboardInterrupt, Interrupted):
        print("interrupted: what runs is ended", flush=True)
        interrupted = True
    finally:
        runner.end()
    for name, output in tally.failures:
        print(f"\n--- {name}\n" + excerpt(output))
    if tally.failures:
        print(f"\nall that was printed: {LOGS}")
    print(f"\n{tally.passed} passed, {tally.failed} failed, {tally.skipped} skipped{', interrupted' if interrupted else ''}")
    return 130 if interrupted else 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
