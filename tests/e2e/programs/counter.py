# SPDX-License-Identifier: MIT
"""A service for the end-to-end tests, to be run in a container. What it knows is in its memory only, and every request can change it.

Speaks as much of Redis' protocol as tools/lab/incr-client and redis-cli need: INCR and GET of one counter, STATE (what it is made of, as JSON),
FILE name text, UNLINK name, SAY text (to stdout), EXIT status, HOLD name (reads a file into memory of its own, page by page), HELD (SHA-256 of that).

  --journal FILE   every increment is written there as well before it is acknowledged: one number a line
  --rotate DIR     every tenth increment makes a file there and removes the one before the last
  --health PORT    HTTP there; GET /healthz is 200, or 503 while --depends does not accept a connection
  --depends A:P    another service that this one needs
  --workers N      N forked processes serve, the counter is in memory that they share
  --threads N      N threads that count by themselves, in every process that serves
  --dirty N        N MB of memory get new contents, from one end to the other, as fast as one processor can
"""

import argparse
import hashlib
import http.server
import json
import mmap
import os
import signal
import socket
import struct
import sys
import threading
import time

STALL_S = 2.0
DIRTY_BYTES = 1 << 17
DIRTY_TIMES = 3
SLOTS = 64  # u64 each: 0 is the counter, then the threads'


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=6379)
    parser.add_argument("--journal")
    parser.add_argument("--rotate")
    parser.add_argument("--health", type=int)
    parser.add_argument("--depends")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--dirty", type=int, default=0)
    return parser.parse_args()


class Service:
    def __init__(self, options):
        self.options = options
        self.memory = mmap.mmap(-1, SLOTS * 8)  # shared and anonymous: forked processes see the same
        self.journal = os.open(options.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) if options.journal else -1
        self.lock = threading.Lock()
        self.listener = socket.create_server(("0.0.0.0", options.port), backlog=64)
        self.threads = []
        self.children = []
        self.dirtied = 0
        self.held = None

    def slot(self, index, add=0):
        value = struct.unpack_from("<Q", self.memory, index * 8)[0] + add
        if add:
            struct.pack_into("<Q", self.memory, index * 8, value)
        return value

    def increment(self):
        with self.lock:
            value = self.slot(0, 1)
            if self.journal >= 0:
                os.write(self.journal, b"%d\n" % value)
            if self.options.rotate and value % 10 == 0:
                self.rotate(value // 10)
        return value

    def rotate(self, number):
        with open(f"{self.options.rotate}/{number}", "w", encoding="ascii") as file:
            file.write(f"{number}\n" * 100)
        try:
            os.unlink(f"{self.options.rotate}/{number - 2}")
        except FileNotFoundError:
            pass

    def hold(self, path):
        with open(path, "rb", buffering=0) as file:
            self.held = mmap.mmap(-1, os.fstat(file.fileno()).st_size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            done = 0
            while done < len(self.held):
                done += file.readinto(memoryview(self.held)[done:])

    def state(self):
        return {"pid": os.getpid(), "counter": self.slot(0), "threads": [self.slot(1 + index) for index in range(self.options.threads)], "children": len(self.children), "dirtied": self.dirtied}

    def answer(self, words):
        verb = words[0].upper()
        if verb == "PING":
            return b"+PONG\r\n"
        if verb == "INCR":
            return b":%d\r\n" % self.increment()
        if verb == "GET":
            return bulk(str(self.slot(0)))
        if verb == "STATE":
            return bulk(json.dumps(self.state()))
        if verb == "FILE":
            with open(words[1], "w", encoding="utf-8") as file:
                file.write(words[2])
            return b"+OK\r\n"
        if verb == "UNLINK":
            os.unlink(words[1])
            return b"+OK\r\n"
        if verb == "HOLD":
            self.hold(words[1])
            return b"+OK\r\n"
        if verb == "HELD":
            return bulk(hashlib.sha256(self.held).hexdigest())
        if verb == "SAY":
            print(words[1], flush=True)
            return b"+OK\r\n"
        if verb == "EXIT":
            os._exit(int(words[1]))
        return b"-ERR unknown command\r\n"

    # ------------------------------------------------------------------ serving

    def serve_connection(self, connection):
        stream = connection.makefile("rb")
        try:
            for words in requests(stream):
                connection.sendall(self.answer(words))
        except (OSError, ValueError):
            pass
        connection.close()

    def serve(self):
        self.start_threads()
        while True:
            connection, _ = self.listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.serve_connection, args=(connection,), daemon=True).start()

    def start_threads(self):
        def count(index):
            event = threading.Event()
            last = time.monotonic()
            while True:
                event.wait(0.005)
                waited = time.monotonic()
                self.slot(1 + index, 1)
                now = time.monotonic()
                if now - last > STALL_S:  # which explains what a test sees
                    os.write(2, f"thread {index} of {os.getpid()} stalled: {waited - last:.1f} s waiting, {now - waited:.1f} s counting\n".encode())
                last = now
        for index in range(self.options.threads):
            threading.Thread(target=count, args=(index,), daemon=True).start()

    def start_dirtying(self):
        """Nothing to compress or share, and nothing like what was there; each piece is made several times, so that the processor sets the pace and the memory does not."""
        def dirty():
            memory = mmap.mmap(-1, self.options.dirty << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            while True:
                for offset in range(0, len(memory), DIRTY_BYTES):
                    for _ in range(DIRTY_TIMES):
                        piece = os.urandom(DIRTY_BYTES)
                    memory[offset:offset + DIRTY_BYTES] = piece
                    self.dirtied += DIRTY_BYTES
        threading.Thread(target=dirty, daemon=True).start()

    def fork_workers(self):
        for _ in range(self.options.workers):
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                self.serve()
            self.children.append(pid)

    def wait_for_workers(self):
        """The first that ends gives the status."""
        _, status = os.wait()
        for child in self.children:
            try:
                os.kill(child, signal.SIGTERM)
            except ProcessLookupError:
                pass
        os._exit(os.waitstatus_to_exitcode(status))

    # ------------------------------------------------------------------ health

    def healthy(self):
        if not self.options.depends:
            return True
        address, port = self.options.depends.rsplit(":", 1)
        try:
            socket.create_connection((address, int(port)), timeout=0.3).close()
            return True
        except OSError:
            return False

    def start_health(self):
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                good = self.path == "/healthz" and service.healthy()
                body = b"ok\n" if good else b"auth-service cannot be reached\n"
                self.send_response(200 if good else 503)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("0.0.0.0", self.options.health), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()


def bulk(text):
    data = text.encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


def requests(stream):
    """Arrays of bulk strings, as every client sends them."""
    while True:
        head = stream.readline()
        if not head:
            return
        if head[:1] != b"*":
            raise ValueError("not an array")
        words = []
        for _ in range(int(head[1:])):
            length = int(stream.readline()[1:])
            words.append(stream.read(length + 2)[:-2].decode())
        yield words


def main():
    options = parse()

    def stop(*_):
        print("asked to stop", flush=True)
        os._exit(7)

    signal.signal(signal.SIGTERM, stop)
    service = Service(options)
    if options.health:
        service.start_health()
    if options.dirty:
        service.start_dirtying()
    print("serving", flush=True)
    if options.workers:
        service.fork_workers()
        service.wait_for_workers()
    service.serve()


if __name__ == "__main__":
    sys.exit(main())
