# SPDX-License-Identifier: MIT
"""A client of a program that is moved: keeps its connections from beginning to end, checks every answer, and says on request what it has seen.

    client.py KIND ADDRESS PORT [--connections N] [--command WORD…]

A line on stdin is a question: "report" (a line of JSON: acknowledged, longest_wait_ms since the last "reset", error), "reset", "end" (the last report). It never connects again: a connection
that is lost is an error, and so is an answer that is not the right one.

  resp       INCR of a key for each connection, which only it increments: every answer is one more than the last
  memcached  incr, the same way, and values of 8 KiB that are read back
  http       keep-alive connections that ask for /small, as many more that read /large slowly; both are checked byte for byte
             (with --path only the former, for that, whose contents may be any)
  lines      a stream of numbers, a line each, without a gap
  sql        a command line of a database (--command) that inserts numbers and says each when it is in
  dns        queries over UDP; a datagram may get lost, and is asked again
"""

import argparse
import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time

PAUSE_S = 0.002
PATIENCE_S = 120
START_S = 30
SMALL = b"small and always the same\n"
LARGE_PERIOD = b"".join(b"%07x\n" % number for number in range(1 << 13))  # 64 KiB, over and over
VALUE_BYTES = 8192


class Wrong(Exception):
    """An answer that is not the right one, or no answer."""


class Watch:
    """What was seen, by any thread."""

    def __init__(self):
        self.lock = threading.Lock()
        self.acknowledged, self.longest_s, self.error, self.over = 0, 0.0, "", False
        self.waiting = {}  # since when, by connection

    def ask(self, who):
        with self.lock:
            self.waiting[who] = time.monotonic()

    def answered(self, who):
        with self.lock:
            self.acknowledged += 1
            self.longest_s = max(self.longest_s, time.monotonic() - self.waiting.pop(who))

    def failed(self, who, error):
        with self.lock:
            if not self.over and not self.error:
                self.error = f"connection {who}: {error or type(error).__name__}"

    def reset(self):
        with self.lock:
            self.longest_s = 0.0

    def report(self):
        with self.lock:
            return json.dumps({"acknowledged": self.acknowledged, "longest_wait_ms": round(self.longest_s * 1000, 1), "error": self.error})


def connect(address, port):
    """Tries again while nobody listens yet."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            connection = socket.create_connection((address, port), timeout=PATIENCE_S)
            break
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def in_threads(watch, connections, work):
    """work(number) once, which returns what is to be done over and over."""
    def run(number):
        try:
            step = work(number)
            while not watch.over:
                watch.ask(number)
                step()
                watch.answered(number)
                time.sleep(PAUSE_S)
        except (OSError, ValueError, Wrong) as error:
            watch.failed(number, error)
    for number in range(connections):
        threading.Thread(target=run, args=(number,), daemon=True).start()


def counter(ask, first=None):
    last = first

    def step():
        nonlocal last
        value = ask()
        if last is not None and value != last + 1:
            raise Wrong(f"{value} after {last}")
        last = value
    return step


def line_of(stream):
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise Wrong("the connection was closed")
    return line


def resp(watch, options):
    def work(number):
        connection = connect(options.address, options.port)
        stream, key = connection.makefile("rb"), b"client%d" % number

        def ask():
            connection.sendall(b"*2\r\n$4\r\nINCR\r\n$%d\r\n%b\r\n" % (len(key), key))
            line = line_of(stream)
            if line[:1] != b":":
                raise Wrong(f"answer {line[:80]}")
            return int(line[1:])
        return counter(ask)
    in_threads(watch, options.connections, work)


def memcached(watch, options):
    def work(number):
        connection = connect(options.address, options.port)
        stream, rounds = connection.makefile("rb"), 0

        def command(text):
            connection.sendall(text)
            return line_of(stream)

        command(b"set n%d 0 0 1\r\n0\r\n" % number)
        count = counter(lambda: int(command(b"incr n%d 1\r\n" % number)), 0)

        def step():
            nonlocal rounds
            count()
            rounds += 1
            if rounds % 16 == 1:
                value = os.urandom(VALUE_BYTES // 2).hex().encode()
                if command(b"set v%d 0 0 %d\r\n%b\r\n" % (number, len(value), value)) != b"STORED\r\n":
                    raise Wrong("a value was not stored")
                command(b"get v%d\r\n" % number)
                if line_of(stream)[:-2] != value or line_of(stream) != b"END\r\n":
                    raise Wrong("a value is another")
        return step
    in_threads(watch, options.connections, work)


def lines(watch, options):
    def work(_):
        stream = connect(options.address, options.port).makefile("rb")
        return counter(lambda: int(line_of(stream)))
    in_threads(watch, 1, work)


def sql(watch, options):
    def work(number):
        process = subprocess.Popen(options.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # it ends when its stdin does
        last = 0

        def ask():
            process.stdin.write(b"INSERT INTO acknowledged VALUES (%d, %d); SELECT %d;\n" % (number, last + 1, last + 1))
            process.stdin.flush()
            return int(line_of(process.stdout))

        count = counter(ask, 0)

        def step():
            nonlocal last
            count()
            last += 1
        return step
    in_threads(watch, options.connections, work)


def dns(watch, options):
    def work(number):
        connection = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        connection.connect((options.address, options.port))
        connection.settimeout(0.05)
        asked = 0
        name = b"".join(bytes([len(label)]) + label for label in (b"www", b"example", b""))

        def step():
            nonlocal asked
            asked += 1
            query = struct.pack(">6H", (number << 12 | asked) & 0xffff, 0x0100, 1, 0, 0, 0) + name + struct.pack(">2H", 1, 1)
            deadline = time.monotonic() + PATIENCE_S
            while True:
                try:
                    connection.send(query)
                    answer = connection.recv(4096)
                    if answer[:2] == query[:2]:
                        break
                except (TimeoutError, ConnectionRefusedError):
                    pass
                if time.monotonic() > deadline:
                    raise Wrong("no answer")
            if answer[-4:] != bytes([192, 0, 2, 1]):
                raise Wrong("another answer")
        return step
    in_threads(watch, options.connections, work)


# ---- many connections

async def head(reader):
    status = await reader.readline()
    length = None
    while (line := await reader.readline()) not in (b"\r\n", b""):
        if line.lower().startswith(b"content-length:"):
            length = int(line[15:])
    if not status.startswith(b"HTTP/1.1 200") or length is None:
        raise Wrong(f"answer {status[:80]}")
    return length


async def keep_asking(watch, number, reader, writer, path):
    while not watch.over:
        watch.ask(number)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        if await reader.readexactly(await head(reader)) != SMALL and path == "/small":
            raise Wrong("/small is not what it was")
        watch.answered(number)
        await asyncio.sleep(0.1)


async def keep_loading(watch, number, reader, writer):
    """The server limits its speed: there is always something on its way."""
    while not watch.over:
        writer.write(b"GET /large HTTP/1.1\r\nHost: test\r\n\r\n")
        left, offset = await head(reader), 0
        while left:
            watch.ask(number)
            data = await reader.read(min(left, 16384))
            if not data or data != (LARGE_PERIOD * 2)[offset:offset + len(data)]:
                raise Wrong("/large is not what it was" if data else "a download was cut off")
            watch.answered(number)
            left, offset = left - len(data), (offset + len(data)) % len(LARGE_PERIOD)


def http(watch, options):
    async def connection(number):
        try:
            reader, writer = await asyncio.open_connection(options.address, options.port)
            if options.path != "/small" or number % 2 == 0:
                await keep_asking(watch, number, reader, writer, options.path)
            else:
                await keep_loading(watch, number, reader, writer)
        except (OSError, ValueError, EOFError, Wrong) as error:
            watch.failed(number, error)

    async def run():
        await asyncio.gather(*(connection(number) for number in range(options.connections)))
    threading.Thread(target=asyncio.run, args=(run(),), daemon=True).start()


KINDS = {"resp": resp, "memcached": memcached, "http": http, "lines": lines, "sql": sql, "dns": dns}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--path", default="/small")
    parser.add_argument("--command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    watch = Watch()
    KINDS[options.kind](watch, options)
    for line in sys.stdin:
        word = line.strip()
        if word == "reset":
            watch.reset()
        watch.over = word == "end"
        print(watch.report(), flush=True)
        if watch.over:
            break
    os._exit(0)


if __name__ == "__main__":
    main()
