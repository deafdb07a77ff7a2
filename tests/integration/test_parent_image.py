#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The image fleximigrate/parent with the real engines: it is loaded by Docker, Podman and containerd, behaves as a container does, and a parent that Docker starts again is never a second copy of an
application that is moving or has moved. Prints TAP."""

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [os.path.join(ROOT, "tests", "e2e"), os.path.join(ROOT, "tools", "lab")]
from tap import Failure, Skip, Tap  # noqa: E402
import engines  # noqa: E402

BUILD = Path(ROOT) / os.environ.get("BUILD", "build")
HOLD, LEAVE, FENCE = 3, 5, 10
PATIENCE_S = 10


def expect(good, what):
    if not good:
        raise Failure(what)


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            raise Skip(f"{program} is not installed")


def make_image(out):
    subprocess.run([f"{ROOT}/tools/parent-image.py", "--nest", BUILD / "fleximigrate-nest", "--out", out], check=True, stdout=subprocess.DEVNULL)
    return (Path(out) / "fleximigrate-parent.tar").read_bytes()


class Box:
    """A container of the image in Docker, with the probe as its application."""

    def __init__(self, docker, name, *command, policy="no"):
        self.docker, self.name = docker, name
        host = {"NetworkMode": "none", "RestartPolicy": {"Name": policy}, "Binds": [f"{BUILD}/tests/unit/nest-probe:/probe:ro"]}
        docker.call("POST", f"/containers/create?name={name}", {"Image": "fleximigrate/parent", "Cmd": ["/probe", *command], "HostConfig": host})
        docker.call("POST", f"/containers/{name}/start")

    def state(self):
        info = self.docker.call("GET", f"/containers/{self.name}/json")
        return {**info["State"], "RestartCount": info["RestartCount"]}

    def until(self, good, what):
        deadline = time.monotonic() + PATIENCE_S
        while not good(self.state()):
            expect(time.monotonic() < deadline, f"{what}: {self.state()}")
            time.sleep(0.02)

    def logs(self):
        return self.docker.raw("GET", f"/containers/{self.name}/logs?stdout=1&stderr=1").decode(errors="replace")

    def until_logged(self, text, times=1):
        self.until(lambda _: self.logs().count(text) >= times, f"'{text}' {times} times in its log")

    def ask(self, op, arg=0):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.settimeout(PATIENCE_S)
            s.connect(f"/proc/{self.state()['Pid']}/root/.fleximigrate/run/nest.sock")
            s.send(struct.pack("=IIQQ", 1, op, arg, 0))
            error = struct.unpack_from("=IIi", s.recv(4096))[2]
        expect(error == 0, f"the nest answers {op} with error {error}")

    def crash(self):
        os.kill(self.state()["Pid"], signal.SIGKILL)

    def remove(self):
        self.docker.call("DELETE", f"/containers/{self.name}?force=1")


def test_container(docker):
    box = Box(docker, "plain", "signals")
    box.until_logged("ready")
    run = docker.call("POST", "/containers/plain/exec", {"Cmd": ["/.fleximigrate/nest", "--health"]})["Id"]
    docker.raw("POST", f"/exec/{run}/start", '{"Detach": false}')
    box.until(lambda _: not docker.call("GET", f"/exec/{run}/json")["Running"], "the check ends")  # nothing is attached: start does not wait
    expect(docker.call("GET", f"/exec/{run}/json")["ExitCode"] == 0, "it is not healthy")
    docker.call("POST", "/containers/plain/stop?t=8")
    expect("signal 15" in box.logs(), "the application has not seen docker stop")
    expect(box.state()["ExitCode"] == 7, f"not the application's status: {box.state()}")
    box.remove()


def test_restarts(docker):
    box = Box(docker, "again", "pause", policy="always")
    box.until_logged("pausing")
    box.ask(FENCE, 1)
    box.crash()
    box.until_logged("being moved to another host")
    expect(box.logs().count("pausing") == 1, "a second copy was started while the first was being moved")
    docker.call("POST", "/containers/again/stop?t=1")
    box.until(lambda state: not state["Running"] and not state["Restarting"], "docker stop ends it")
    box.remove()

    box = Box(docker, "crashed", "pause", policy="always")
    box.until_logged("pausing")
    box.ask(FENCE, 1)
    box.ask(FENCE, 0)
    box.crash()
    box.until_logged("pausing", 2)
    box.remove()


def test_moved(docker):
    boxes = [Box(docker, f"moved-{policy}", "pause", policy=policy) for policy in ("always", "unless-stopped", "on-failure", "no")]
    for box in boxes:
        box.until_logged("pausing")
        for op, arg in ((FENCE, 1), (HOLD, 0), (LEAVE, 0)):
            box.ask(op, arg)
        box.crash()
    for box in boxes[:3]:
        box.until_logged("was moved to another host")
    before = [box.logs().count("was moved to another host") for box in boxes[:2]]
    docker.stop()
    docker.start()
    for box, times in zip(boxes, before):  # those that a daemon starts when it comes up
        box.until_logged("was moved to another host", times + 1)
    boxes[3].until(lambda state: not state["Running"], "it ends")
    for box in boxes:
        expect(box.logs().count("pausing") == 1, f"{box.name}: a second copy was started")
        box.remove()


def main():
    if os.geteuid() != 0:
        print("1..0 # SKIP needs root (starts daemons of engines)")
        return 0
    engines.enter()
    tap = Tap("parent-image", True)
    with tempfile.TemporaryDirectory(prefix="parent-image-", dir="/var/tmp") as out:
        with tap.test("the same program makes the same image, of less than 5 MB"):
            image = make_image(out)
            expect(len(image) < 5_000_000 and image == make_image(out), "it differs from one time to the other")
        tar = f"{out}/fleximigrate-parent.tar"
        with tap.test("containerd loads it"):
            need("containerd", "ctr")
            with engines.Containerd("parent-image") as c:
                expect("docker.io/fleximigrate/parent:latest" in c.load(tar), "under another name")
        with tap.test("Podman loads it"):
            need("podman")
            with engines.Podman("parent-image") as p:
                expect("fleximigrate/parent" in p.load(tar), "under another name")
        if not shutil.which("dockerd"):
            with tap.test("Docker runs it"):
                need("dockerd")
        else:
            with engines.Docker("parent-image") as docker:
                docker.load(tar)
                for name, test in (("output, health, stop and status", test_container), ("started again while it is being moved", test_restarts), ("started again after it has moved", test_moved)):
                    with tap.test(f"Docker: {name}"):
                        test(docker)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
