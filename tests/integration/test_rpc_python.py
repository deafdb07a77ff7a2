#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A foreign gRPC client (python3-grpcio) against our server: over the Unix socket and over mutual TLS. Prints TAP.

usage: test_rpc_python.py [PATH-OF-test-rpc [PATH-OF-fleximigrate.proto]]; by default test-rpc of the build folder ($BUILD, or build).

test-rpc serves with FLEXIMIGRATE_TEST_RPC_SERVE set; it makes the certificates, too. Only generic calls are used, so that no gRPC plug-in
for protoc is needed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PROTO = os.path.join(ROOT, "api", "fleximigrate.proto")
PROGRAM = os.path.join(ROOT, os.environ.get("BUILD", "build"), "tests", "unit", "test-rpc")
SYSTEM_PYTHON = "/usr/bin/python3"  # the one that Debian's python3-grpcio belongs to
PATIENCE = 60  # a bound against hanging, never an expectation
MANAGER = "/fleximigrate.v1.Manager/"


def skip_all(reason):
    print(f"1..1\nok 1 - a foreign gRPC client # SKIP {reason}")
    sys.exit(0)


try:
    import grpc
    import google.protobuf  # noqa: F401
except ImportError as missing:
    if os.path.exists(SYSTEM_PYTHON) and os.path.realpath(sys.executable) != os.path.realpath(SYSTEM_PYTHON):
        os.execv(SYSTEM_PYTHON, [SYSTEM_PYTHON, *sys.argv])
    skip_all(f"needs python3-grpcio and python3-protobuf: {missing}")
if not shutil.which("protoc"):
    skip_all("needs protoc (protobuf-compiler)")


class Place:
    """A folder, our server in it, and the generated messages."""

    def __init__(self, program, proto):
        self.dir = tempfile.mkdtemp(prefix="fm-test-rpc-py-", dir="/tmp")  # short: a socket's path has 107 bytes
        try:
            self.start(program, os.path.abspath(proto))
        except BaseException:
            shutil.rmtree(self.dir)
            raise

    def start(self, program, proto):
        subprocess.run(["protoc", "--python_out=" + self.dir, "-I" + os.path.dirname(proto), proto], check=True)
        sys.path.insert(0, self.dir)
        import fleximigrate_pb2

        self.pb = fleximigrate_pb2
        env = dict(os.environ, FLEXIMIGRATE_TEST_RPC_SERVE=self.dir)
        self.server = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
        word, port = self.server.stdout.readline().split()
        assert word == b"ready", word
        self.port = int(port)

    def close(self):
        """Ends the server by its stdin and returns its exit status."""
        self.server.stdin.close()
        status = self.server.wait(PATIENCE)
        self.server.stdout.close()
        shutil.rmtree(self.dir)
        return status

    def unix(self):
        return grpc.insecure_channel("unix:" + self.dir + "/rpc.sock")

    def tls(self, authority, who, host="127.0.0.1"):
        """A channel that trusts `authority`; `who` = (authority, name) of our certificate, or None for none."""

        def read(folder, name):
            with open(os.path.join(self.dir, folder, name), "rb") as f:
                return f.read()

        key = cert = None
        if who:
            key, cert = read(who[0], who[1] + ".key"), read(who[0], who[1] + ".pem")
        return grpc.secure_channel(f"{host}:{self.port}", grpc.ssl_channel_credentials(read(authority, "ca.pem"), key, cert))

    def unary(self, channel, method, response):
        return channel.unary_unary(
            MANAGER + method, request_serializer=lambda m: m.SerializeToString(), response_deserializer=response.FromString
        )

    def get_host(self, channel, name, **kw):
        return self.unary(channel, "GetHost", self.pb.Host)(self.pb.NameRequest(name=name), timeout=kw.pop("timeout", PATIENCE), **kw)

    def info(self, channel):
        return self.unary(channel, "Info", self.pb.InfoResponse)(self.pb.Empty(), timeout=PATIENCE)

    def watch(self, channel, what):
        call = channel.unary_stream(
            MANAGER + "WatchMigration", request_serializer=lambda m: m.SerializeToString(), response_deserializer=self.pb.Event.FromString
        )
        return call(self.pb.WatchRequest(id=what), timeout=PATIENCE)


def failure(function):
    """Runs function, which must fail with a gRPC status; returns the status object."""
    try:
        result = function()
    except grpc.RpcError as e:
        return e
    raise AssertionError(f"succeeded with {result!r}")


# ---- the tests


def unix_unary(p):
    with p.unix() as ch:
        assert p.get_host(ch, "alpha").name == "alpha"
        assert p.info(ch).name == f"unix:uid={os.geteuid()},pid={os.getpid()}", p.info(ch).name
        assert p.get_host(ch, "not-utf8").name == "caf?"
        assert len(p.get_host(ch, "big").name) == 3 << 20


def unix_stream(p):
    with p.unix() as ch:
        events = list(p.watch(ch, "count:1000"))
        assert [e.seq for e in events] == list(range(1, 1001))
        assert events[-1].last and events[0].line == "an event's line"


def status_and_trailers(p):
    with p.unix() as ch:
        e = failure(lambda: p.get_host(ch, "missing"))
        assert e.code() == grpc.StatusCode.NOT_FOUND
        assert e.details() == "there is no host missing"
        trailers = dict(e.trailing_metadata())
        assert trailers["fleximigrate-phase"] == "preparation"
        assert trailers["fleximigrate-hint"] == "see `fleximigrate hosts` %E2%80%94 95% of them, %2541 too", trailers
        e = failure(lambda: p.get_host(ch, "dirty"))
        assert e.code() == grpc.StatusCode.DATA_LOSS and e.details() == "bad ? byte, cut ??"


def deadline_and_cancel(p):
    with p.unix() as ch:
        e = failure(lambda: p.get_host(ch, "slow", timeout=0.2))
        assert e.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        stream = p.watch(ch, "forever")
        assert next(stream).seq == 1
        stream.cancel()
        e = failure(lambda: next(stream))
        assert e.code() == grpc.StatusCode.CANCELLED
        flood = p.watch(ch, "flood")
        for _ in range(10):
            next(flood)
        flood.cancel()
        assert p.get_host(ch, "alpha").name == "alpha"


def unknown_method(p):
    with p.unix() as ch:
        for method in ("Nothing", "Migrate", ""):
            e = failure(lambda: p.unary(ch, method, p.pb.Host)(p.pb.Empty(), timeout=PATIENCE))
            assert e.code() == grpc.StatusCode.UNIMPLEMENTED, method


def raw(p, ch, data):
    return ch.unary_unary(MANAGER + "GetHost")(data, timeout=PATIENCE)


def malformed_bytes(p):
    with p.unix() as ch:
        for data in (b"\xff", b"\x0a\x05ab", b"\x08\x01", b"\x0a\x02\xc0\x80", b"\xff" * 100000, b"\x0a\xff\xff\xff\xff\x0f"):
            e = failure(lambda: raw(p, ch, data))
            assert e.code() == grpc.StatusCode.INVALID_ARGUMENT, (data[:10], e.code(), e.details())
        e = failure(lambda: ch.stream_unary(MANAGER + "GetHost")(iter(()), timeout=PATIENCE))  # no message at all
        assert e.code() == grpc.StatusCode.INVALID_ARGUMENT, e.details()
        assert p.get_host(ch, "alpha").name == "alpha"


def oversized_request(p):
    with p.unix() as ch:
        e = failure(lambda: p.get_host(ch, "x" * (5 << 20)))
        assert e.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, e.details()
        assert len(p.get_host(ch, "x" * (4 << 19)).name) == 4 << 19


def compressed_request(p):
    with p.unix() as ch:
        e = failure(lambda: p.get_host(ch, "x" * 100000, compression=grpc.Compression.Gzip))
        assert e.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL), e.details()
        assert p.get_host(ch, "alpha").name == "alpha"


def huge_metadata(p):
    with p.unix() as ch:
        e = failure(lambda: p.get_host(ch, "alpha", metadata=(("x-noise", "n" * 100000),)))
        # refused politely, or by closing the connection, as the library's version likes
        assert e.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE), e.details()
    with p.unix() as ch:
        assert p.get_host(ch, "alpha").name == "alpha"


def many_at_once(p):
    failures = []

    def one():
        try:
            with p.unix() as ch:
                for _ in range(20):
                    assert p.get_host(ch, "alpha").name == "alpha"
        except Exception as e:  # pylint: disable=broad-except
            failures.append(e)

    threads = [threading.Thread(target=one) for _ in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures, failures


def mutual_tls(p):
    with p.tls("ours", ("ours", "host-a")) as ch:
        assert p.info(ch).name == "host-a"
        assert len(list(p.watch(ch, "count:1000"))) == 1000
    with p.tls("ours", ("ours", "host-a"), "localhost") as ch:
        assert p.info(ch).name == "host-a"


def tls_refusals(p):
    channels = {
        "no certificate": p.tls("ours", None),
        "foreign certificate": p.tls("ours", ("theirs", "intruder")),
        "foreign authority": p.tls("theirs", ("theirs", "intruder")),
        "no TLS": grpc.insecure_channel(f"127.0.0.1:{p.port}"),
    }
    for what, ch in channels.items():
        e = failure(lambda: p.info(ch))
        assert e.code() == grpc.StatusCode.UNAVAILABLE, (what, e.code(), e.details())
        ch.close()
    with p.tls("ours", ("ours", "host-a")) as ch:
        assert p.info(ch).name == "host-a"


TESTS = [
    unix_unary,
    unix_stream,
    status_and_trailers,
    deadline_and_cancel,
    unknown_method,
    malformed_bytes,
    oversized_request,
    compressed_request,
    huge_metadata,
    many_at_once,
    mutual_tls,
    tls_refusals,
]


def main():
    program = sys.argv[1] if len(sys.argv) > 1 else PROGRAM
    if not os.access(program, os.X_OK):
        skip_all(f"{program} is not built")
    place = Place(program, sys.argv[2] if len(sys.argv) > 2 else PROTO)
    failed = False
    print(f"1..{len(TESTS) + 1}", flush=True)
    for i, test in enumerate(TESTS, 1):
        try:
            test(place)
            print(f"ok {i} - {test.__name__}", flush=True)
        except Exception as e:  # pylint: disable=broad-except
            failed = True
            print(f"not ok {i} - {test.__name__}\n# {type(e).__name__}: {e}".replace("\n", "\n# "), flush=True)
    status = place.close()
    print(f"{'ok' if status == 0 else 'not ok'} {len(TESTS) + 1} - the server ended with status {status}")
    return 1 if failed or status != 0 else 0


if __name__ == "__main__":
    sys.exit(main())
