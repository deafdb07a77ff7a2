#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tests on a kernel other than this machine's: the distribution's own, in an emulated machine, with unified cgroups (v2).

    tests/vm/vm.py [--short] [--tap] [--only TEXT] [--kernel PACKAGE] [--verbose]

What the running kernel has decides what the other tests can try. Here everybody gets the same: Debian's cloud kernel, which has soft-dirty bits (and, in Debian 12, no PAGEMAP_SCAN).
The machine is emulated by QEMU in software: slow, but no KVM is needed. Its root filesystem consists of the files of packages that are installed here, copied once into an image below the build folder;
our programs and tests come on a second disk. Nothing is installed or changed on this machine, and nothing listens.

The short form, for make check, is skipped where something is not there. One line for each test, "ok", "FAIL" or "skip" (with its reason); the last one is
    vm: passed=N failed=N skipped=N kernel=VERSION
"""

import argparse
import contextlib
import ctypes
import fcntl
import glob
import hashlib
import json
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.path.abspath(os.environ.get("BUILD") or os.path.join(ROOT, "build"))
PLACE = os.path.join(BUILD, "vm")
CRIU = "/opt/fleximigrate/criu"
INSIDE = "/fleximigrate"
KERNEL_PACKAGE = "linux-image-cloud-amd64"
QEMU = "qemu-system-x86_64"
TOOLS = (QEMU, "mke2fs", "depmod", "dpkg-deb", "dpkg-query", "apt-get", "tar")

# What the guest has besides the essential packages, and what these depend on.
PACKAGES = ("ca-certificates", "iproute2", "iptables", "kmod", "mount", "nftables", "procps", "python3", "redis-server", "redis-tools", "runc", "util-linux")
LEFT_OUT = re.compile(r"/usr/share/(doc|man|locale|info|lintian|bug|i18n|zoneinfo|perl|perl5|vim|fonts|X11|bash-completion)/|/usr/lib/x86_64-linux-gnu/perl|/usr/lib/(apt|systemd|udev)/|/boot/")
# Files that packages make when they are installed, so that no package has them.
ETC = ("alternatives", "group", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "nsswitch.conf", "passwd", "protocols", "services")
BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_console")  # the disks and the console; others are loaded when they are asked for
ROOT_IMAGE_MB = 3072
MEMORY_MB = 3072
QUIET_SECONDS_MAX = 900  # the guest says nothing for so long: it hangs
STRETCH = os.environ.get("FLEXIMIGRATE_TEST_STRETCH") or 15  # emulation is so much slower, about

# Programs of tests/unit: where the kernel matters.
SHORT_UNITS = {"test-tracker": {"FM_TEST_FILTER": "test_*soft_dirty", "FM_TEST_TRACKER_TIMES": "1"}, "test-cgroup": {}, "test-criu": {"FM_TEST_FILTER": "test_hidden*"}}
UNITS = ("test-tracker", "test-cgroup", "test-procmaps", "test-proc", "test-criu", "test-criu-smaps", "test-nest", "test-tree", "test-sockets", "test-pager", "test-pager-criu", "test-page-source", "test-push", "test-child", "test-runtime-runc")

# Of tests/e2e/strategies.py, by a part of their names.
MIGRATIONS = {"strategies": "MB there and back: live, post-copy, pre-copy, cold, auto", "tracking": "labels say how changes are found", "discovered": "somebody else started",
              "ordinary": "an ordinary container", "throttling": "writes faster than the link: moved with throttling"}
LEAST = {"e2e": 2}  # tests that a program has: besides "nothing is left" there is another


class VmError(Exception):
    """What went wrong, in words."""


class NotHere(VmError):
    """What is missing, and how to get it."""


def call(*argv, **options):
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        raise VmError(f"{' '.join(argv)[:200]}: {(done.stderr or done.stdout).strip()[-400:] or done.returncode}")
    return done.stdout


# ---------------------------------------------------------------- packages that are not installed here

def real_package(wanted):
    """The package that has the files, and its version: linux-image-cloud-amd64 only depends on it."""
    names = re.findall(r"^\s*Depends: (linux-image-\S+)", call("apt-cache", "depends", wanted), re.M) or [wanted]
    found = re.search(r"^\s*Candidate: (\S+)", call("apt-cache", "policy", names[0]), re.M)
    if not found or found.group(1) == "(none)":
        raise NotHere(f"apt knows no package {names[0]}; run apt-get update")
    return names[0], found.group(1)


def get_package(wanted):
    """Its files, unpacked below the build folder; once, until "make clean"."""
    folder = os.path.join(PLACE, "packages", wanted)
    if os.path.isdir(folder):
        return folder
    name, version = real_package(wanted)
    part = folder + ".part"
    shutil.rmtree(part, ignore_errors=True)
    os.makedirs(part)
    try:
        call("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", f"{name}={version}", cwd=part)
    except VmError as error:
        raise NotHere(f"the package {name} cannot be had: {error}") from error
    [archive] = glob.glob(os.path.join(part, "*.deb"))
    call("dpkg-deb", "-x", archive, part)
    os.unlink(archive)
    for release in os.listdir(os.path.join(part, "lib", "modules")) if os.path.isdir(os.path.join(part, "lib", "modules")) else ():
        call("depmod", "-b", part, release)
    os.rename(part, folder)
    return folder


def get_kernel(wanted):
    """(folder, release)"""
    folder = get_package(wanted)
    return folder, os.listdir(os.path.join(folder, "lib", "modules"))[0]


def busybox():
    """Static; as a package it would drive out another that a machine may have."""
    return glob.glob(os.path.join(get_package("busybox-static"), "**", "bin", "busybox"), recursive=True)[0]


# ---------------------------------------------------------------- the guest's root

def installed():
    """name -> (version, what it depends on, essential), and which package provides a name"""
    packages, provided = {}, {}
    fields = "${Package}\t${Version}\t${Depends}, ${Pre-Depends}\t${Essential}\t${Provides}\t${db:Status-Status}\n"
    for line in call("dpkg-query", "-W", "-f", fields).splitlines():
        name, version, depends, essential, provides, status = line.split("\t")
        if status != "installed":
            continue
        packages[name] = (version, depends, essential == "yes")
        for other in re.findall(r"([a-z0-9][a-z0-9.+-]+)(?: \([^)]*\))?(?:,|$)", provides):
            provided.setdefault(other, name)
    return packages, provided


def closure():
    """The packages that the guest has: those named, the essential ones, and whatever they need."""
    packages, provided = installed()
    missing = [name for name in PACKAGES if name not in packages]
    if missing:
        raise NotHere(f"not installed: {' '.join(missing)}; run tools/setup/install-packages.sh --group run --group test --group vm")
    todo, found = [*PACKAGES, *(name for name, (_, _, essential) in packages.items() if essential)], set()
    while todo:
        name = todo.pop()
        name = name if name in packages else provided.get(name)
        if not name or name in found:
            continue
        found.add(name)
        for alternatives in packages[name][1].split(","):
            todo += [word for word in (re.split(r"[ :(]", choice.strip())[0] for choice in alternatives.split("|")) if word in packages or word in provided][:1]
    return {name: packages[name][0] for name in sorted(found)}


def libraries():
    """Of our programs: they were linked here."""
    found = set()
    for program in programs():
        linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout  # it fails for static ones
        found.update(re.findall(r"(/\S+) \(0x", linked))
    return sorted(found)


def programs():
    top = [os.path.join(BUILD, name) for name in ("fleximigrate", "fleximigrate-nest")]
    for folder in ("tests/unit", "tests/e2e/programs", "tools"):
        top += glob.glob(os.path.join(BUILD, folder, "**", "*"), recursive=True)
    return sorted(path for path in top if os.path.isfile(path) and os.access(path, os.X_OK) and not path.endswith((".so", ".py")))


def files_of(packages):
    paths = set()
    for name in packages:
        for path in call("dpkg-query", "-L", name).splitlines():
            if path.startswith("/") and path != "/." and not LEFT_OUT.search(path + "/") and os.path.lexists(path):
                paths.add(path)
    for path in list(paths):  # Python need not compile them there
        if path.endswith(".py"):
            folder, name = os.path.split(path)
            paths.update(glob.glob(os.path.join(folder, "__pycache__", name[:-3] + ".cpython-*.pyc")))
    real = {os.path.realpath(path) for path in paths}
    for folder in ("/usr/bin", "/usr/sbin"):  # names that packages share: awk, iptables
        paths.update(entry.path for entry in os.scandir(folder) if entry.is_symlink() and os.readlink(entry.path).startswith("/etc/alternatives/") and os.path.realpath(entry.path) in real)
    for path in libraries():
        paths.update((path, os.path.realpath(path)))
    for name in ETC:
        top = os.path.join("/etc", name)
        paths.update([top] if os.path.exists(top) else [])
        for folder, _, names in os.walk(top):
            paths.update(os.path.join(folder, each) for each in names)
    return sorted(path for path in paths if not stat.S_ISSOCK(os.lstat(path).st_mode))


def make_root(kernel, release, image):
    """An ext4 image with the files of these packages and the kernel's modules."""
    with tempfile.TemporaryDirectory(prefix="root-", dir=PLACE) as folder:
        for name in ("bin", "sbin", "lib", "lib64"):
            if os.path.islink("/" + name):
                os.makedirs(os.path.join(folder, "usr", name), exist_ok=True)
                os.symlink(f"usr/{name}", os.path.join(folder, name))
        for name in ("proc", "sys", "dev", "run", "tmp", "root", "var/tmp", "var/lib", "opt", "srv", INSIDE.strip("/")):
            os.makedirs(os.path.join(folder, name), exist_ok=True)
        with tempfile.TemporaryFile(dir=PLACE) as names:
            names.write("\0".join(path.lstrip("/") for path in files_of(closure())).encode())
            names.seek(0)
            with subprocess.Popen(["tar", "-c", "-C", "/", "--no-recursion", "--null", "-T", "-"], stdin=names, stdout=subprocess.PIPE) as pack:
                call("tar", "-x", "-C", folder, "--keep-directory-symlink", stdin=pack.stdout)
        shutil.copytree(os.path.join(kernel, "lib", "modules", release), os.path.join(folder, "usr", "lib", "modules", release), symlinks=True)
        shutil.copy(busybox(), os.path.join(folder, "usr", "bin", "busybox"))
        part = image + ".part"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        call("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1,root_owner=0:0", "-d", folder, part, f"{ROOT_IMAGE_MB}m")
        os.rename(part, image)


def get_root(kernel, release):
    key = hashlib.sha256(json.dumps([closure(), libraries(), release]).encode() + read(os.path.abspath(__file__))).hexdigest()[:12]
    image = os.path.join(PLACE, f"root-{key}.ext4")
    if not os.path.exists(image):
        for old in glob.glob(os.path.join(PLACE, "root-*.ext4*")):
            os.unlink(old)
        make_root(kernel, release, image)
    return image


# ---------------------------------------------------------------- what is new each time

class Cpio:
    """An archive as the kernel unpacks it into its first root ("newc")."""

    def __init__(self, file):
        self.file, self.inode = file, 0

    def add(self, name, mode, content=b"", device=(0, 0)):
        self.inode += 1
        head = "070701" + "".join(f"{number:08X}" for number in (self.inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name) + 1, 0))
        for part in (head.encode() + name.encode() + b"\0", content):
            self.file.write(part + b"\0" * (-len(part) % 4))


def read(path):
    with open(path, "rb") as file:
        return file.read()


def make_initramfs(kernel, release, path):
    top, wanted = os.path.join(kernel, "lib", "modules", release), []
    for line in read(os.path.join(top, "modules.dep")).decode().splitlines():
        module, needs = line.split(":", 1)
        if os.path.basename(module).split(".")[0] in BOOT_MODULES:
            wanted += [each for each in [*reversed(needs.split()), module] if each not in wanted]
    with open(path, "wb") as file:
        archive = Cpio(file)
        for name in ("bin", "dev", "proc", "root", "modules"):
            archive.add(name, stat.S_IFDIR | 0o755)
        archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
        archive.add("bin/busybox", stat.S_IFREG | 0o755, read(busybox()))
        archive.add("init", stat.S_IFREG | 0o755, read(os.path.join(HERE, "init.sh")))
        archive.add("modules/order", stat.S_IFREG | 0o644, "".join(f"{os.path.basename(module)}\n" for module in wanted).encode())
        for module in wanted:
            archive.add(f"modules/{os.path.basename(module)}", stat.S_IFREG | 0o644, read(os.path.join(top, module)))
        archive.add("TRAILER!!!", 0)


def make_payload(plan, path):
    """Our programs, tests and tools, at the same places below another folder, and CRIU."""
    with tempfile.TemporaryDirectory(prefix="plan-", dir=PLACE) as folder:
        with open(os.path.join(folder, "plan.json"), "w", encoding="utf-8") as file:
            json.dump(plan, file)
        inside = INSIDE.strip("/")
        built = [os.path.relpath(program, BUILD) for program in programs()]
        tracked = [name for name in ("tests", "tools", "api") if os.path.isdir(os.path.join(ROOT, name))]
        call("tar", "-c", "-f", path, "--owner=0", "--group=0", "--exclude=__pycache__", "--exclude=tests/fuzz",
             "--transform", f"s,^(tests|tools|api)(/|$),{inside}/\\1\\2,xS;s,^plan.json$,{inside}/plan.json,xS;s,^\\./,{inside}/build/,S",
             "-C", folder, "plan.json", "-C", ROOT, *tracked, "-C", BUILD, *(f"./{name}" for name in built), "-C", "/", CRIU.strip("/"))


# ---------------------------------------------------------------- the plan

def step(name, argv, seconds_max, **env):
    inside = f"{INSIDE}/build"
    env = {"BUILD": inside, "CMOCKA_MESSAGE_OUTPUT": "TAP", "FLEXIMIGRATE_NEST": f"{inside}/fleximigrate-nest", "FLEXIMIGRATE_NEST_PROBE": f"{inside}/tests/unit/nest-probe",
           "FLEXIMIGRATE_TEST_STRETCH": str(STRETCH), **{name: value for name, value in os.environ.items() if name.startswith("FM_TEST_")}, **env}
    return {"name": name, "argv": argv, "seconds_max": seconds_max, "env": env}


def make_plan(options):
    steps = [step(name, [f"{INSIDE}/build/tests/unit/{name}"], 900, **(SHORT_UNITS[name] if options.short else {})) for name in (SHORT_UNITS if options.short else UNITS)]
    if not options.short:
        strategies = ["python3", f"{INSIDE}/tests/e2e/strategies.py", "--short", "--tap", "--only"]
        steps += [step(f"e2e {name}", [*strategies, only], 900) for name, only in MIGRATIONS.items()]
    return [each for each in steps if options.only in each["name"]]


# ---------------------------------------------------------------- the guest

def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@contextlib.contextmanager
def guest(kernel, release, image, payload, initramfs, console):
    argv = [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-M", "pc", "-accel", "tcg,thread=multi", "-cpu", "max,la57=off", "-smp", str(os.cpu_count() or 1), "-m", str(MEMORY_MB),
            "-kernel", os.path.join(kernel, "boot", f"vmlinuz-{release}"), "-initrd", initramfs,
            "-append", "console=ttyS0 panic=-1 quiet loglevel=4 nokaslr mitigations=off",
            "-drive", f"file={image},format=raw,if=none,id=root,snapshot=on,cache=unsafe", "-device", "virtio-blk-pci,drive=root",
            "-drive", f"file={payload},format=raw,if=none,id=payload,readonly=on", "-device", "virtio-blk-pci,drive=payload",
            "-serial", f"file:{console}", "-device", "virtio-serial-pci", "-chardev", "stdio,id=out,signal=off", "-device", "virtconsole,chardev=out"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=die_with_parent, env=dict(os.environ, TMPDIR=PLACE)) as process:  # pylint: disable=subprocess-popen-preexec-fn
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def lines_of(process, seconds_max):
    """What the guest prints, until it ends. Too late or too quiet is an error."""
    deadline, rest = time.monotonic() + seconds_max, b""
    while True:
        left = min(deadline - time.monotonic(), QUIET_SECONDS_MAX)
        if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
            raise VmError(f"the guest was not done within {seconds_max:.0f} s, or said nothing for {QUIET_SECONDS_MAX} s")
        block = os.read(process.stdout.fileno(), 65536)
        if not block:
            return
        *whole, rest = (rest + block).split(b"\n")
        yield from (line.decode(errors="replace").rstrip("\r") for line in whole)


class Results:
    def __init__(self, tap, verbose):
        self.tap, self.verbose = tap, verbose
        self.passed = self.failed = self.skipped = self.number = 0

    def add(self, word, name, reason=""):
        self.number += 1
        setattr(self, {"ok": "passed", "FAIL": "failed", "skip": "skipped"}[word], getattr(self, {"ok": "passed", "FAIL": "failed", "skip": "skipped"}[word]) + 1)
        if self.tap:
            print(f"{'not ok' if word == 'FAIL' else 'ok'} {self.number} - {name}" + (f" # SKIP {reason}" if word == "skip" else ""), flush=True)
        else:
            print(f"{word:4} {name}" + (f": {reason}" if reason else ""), flush=True)

    def say(self, text):
        for line in text.splitlines():
            print(f"# {line}", flush=True)

    def program(self, name, lines, end):
        """The TAP of one program. cmocka gives a skip's reason in a line of its own before it; a program that dies does not say which test it was."""
        count = failed = 0
        before = ""
        for line in lines:
            match = re.match(r"(not )?ok \d+\s*(?:- )?(.*?)(?:\s*#\s*(skip)\b\s*(.*))?$", line, re.I)
            if not match:
                before = line if line.strip() and not line.startswith("1..") else before
                continue
            bad, title, skip, rest = match.groups()
            count += 1
            failed += bool(bad and not skip)
            if skip:  # cmocka: "not ok N # SKIP name"; tap.py: "ok N - name # SKIP reason"
                self.add("skip", f"{name} {title or rest}", rest if title else re.sub(r"^\W*((skipped|not run): )?", "", before) or "no reason given")
            else:
                self.add("FAIL" if bad else "ok", f"{name} {title}")
            before = ""
        if count < LEAST.get(name.split()[0], 1) or (end["code"] != 0 and not failed):
            self.add("FAIL", f"{name} (exit code {end['code']})")
            failed += 1
        if failed or self.verbose:
            self.say("\n".join(lines[-400:]))
        else:  # figures
            self.say("\n".join(line.lstrip("# ") for line in lines if re.match(r" {4}\d+ MB: |# (?!ok|not ok)", line)))
        self.say(f"{name}: {end['seconds']} s")


@contextlib.contextmanager
def told_when_interrupted(lines):
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise VmError("interrupted; the guest said last:\n" + "\n".join(lines()[-60:])) from interrupt


def run_guest(arguments, plan, results):
    """Returns the guest's kernel."""
    kernel, name, lines, release = "", None, [], ""
    with guest(*arguments) as process, told_when_interrupted(lambda: lines):
        for line in lines_of(process, sum(each["seconds_max"] for each in plan) + 300):
            match = re.match(r"@vm (\w+) (.*)", line)
            if not match:
                lines.append(line)
                continue
            word, fields = match.group(1), json.loads(match.group(2))
            if word == "up":
                release = fields["kernel"]
                results.say(f"kernel {release} is up after {fields['boot_seconds']} s")
            elif word == "begin":
                name, lines = fields["name"], []
            elif word == "end":
                results.program(name, [each for each in lines if each], fields)
                name = None
            elif word == "done":
                kernel = release
    if not kernel:
        tail = read(arguments[-1])[-3000:].decode(errors="replace") if os.path.exists(arguments[-1]) else ""
        raise VmError(f"the guest ended{' in ' + name if name else ''} before it was done; {' / '.join(line for line in lines[-5:] if line)}; its console: {tail}")
    return kernel


def prepare(options):
    os.makedirs(PLACE, exist_ok=True)
    kernel, release = get_kernel(options.kernel)
    image = get_root(kernel, release)
    plan = make_plan(options)
    if not plan:
        raise VmError(f"no test has '{options.only}' in its name")
    return kernel, release, image, plan


@contextlib.contextmanager
def alone():
    """One at a time below a build folder; what one that was killed has left is removed."""
    with open(os.path.join(PLACE, "lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for kind in ("run-*", "plan-*", "root-????????"):
            for left in glob.glob(os.path.join(PLACE, kind)):
                shutil.rmtree(left)
        yield


def missing():
    """Why it cannot be done here at all, or None."""
    lacking = [name for name in TOOLS if not shutil.which(name)]
    if os.uname().machine != "x86_64":
        return "the guest's kernel is for x86-64 only"
    if lacking:
        return f"not installed: {' '.join(lacking)}; run tools/setup/install-packages.sh --group vm"
    if not os.path.isdir(CRIU):
        return f"no CRIU in {CRIU}; run tools/setup/install-criu.sh"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="boot, dirty tracking, cgroups and one dump only")
    parser.add_argument("--tap", action="store_true", help="print TAP, for the test runner")
    parser.add_argument("--only", metavar="TEXT", default="", help="only the programs with this in their name")
    parser.add_argument("--kernel", metavar="PACKAGE", default=KERNEL_PACKAGE, help=f"default: {KERNEL_PACKAGE}")
    parser.add_argument("--verbose", action="store_true", help="print what the programs print")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    results, kernel = Results(options.tap, options.verbose), "none"
    why = missing()
    if why:
        results.add("skip" if options.short else "FAIL", "tests in a virtual machine", why)
    else:
        os.makedirs(PLACE, exist_ok=True)
        with alone(), tempfile.TemporaryDirectory(prefix="run-", dir=PLACE) as folder:
            try:
                found, release, image, plan = prepare(options)
                files = [os.path.join(folder, name) for name in ("payload.tar", "initramfs", "console")]
                make_payload(plan, files[0])
                make_initramfs(found, release, files[1])
                kernel = run_guest((found, release, image, *files), plan, results)
            except NotHere as error:
                results.add("skip" if options.short else "FAIL", "tests in a virtual machine", " ".join(str(error).split()))
            except VmError as error:
                results.add("FAIL", "the guest")
                results.say(str(error))
    if options.tap:
        print(f"1..{results.number}")
    print(f"{'# ' if options.tap else ''}vm: passed={results.passed} failed={results.failed} skipped={results.skipped} kernel={kernel}")
    return 1 if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
