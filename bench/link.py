"""The link between the two hosts of a lab: limited in both directions, with latency if wanted, and measured by sending something over it."""

import re
import subprocess

COPY_S = 1.0
RECEIVE = ["python3", "-c", """
import socket, sys, time
with socket.create_server((sys.argv[1], 0)) as l:
    print(l.getsockname()[1], flush=True)
    s = l.accept()[0]
    buffer, total, start = bytearray(1 << 20), 0, None
    while n := s.recv_into(buffer):
        start = start or time.monotonic()
        total += n
    print(total * 8 / (time.monotonic() - start))
"""]
SEND = ["python3", "-c", """
import socket, sys, time
data, end = bytes(1 << 20), time.monotonic() + float(sys.argv[3])
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as s:
    while time.monotonic() < end:
        s.sendall(data)
"""]


def parts(link):
    """The rate, and the milliseconds that a round trip takes longer"""
    match = re.fullmatch(r"(\d+(?:kbit|mbit|gbit)|unlimited)(?:\+(\d+)ms)?", link)
    if not match:
        raise ValueError(f"link '{link}': write it like 100mbit or 1gbit, or unlimited, or with a latency, 1gbit+20ms")
    return match[1], int(match[2] or 0)


def shape(lab, link, fair=False):
    rate = parts(link)[0]
    for host in ("src", "dst"):
        lab.shape(host, None if rate == "unlimited" else rate, fair)


def delay(lab, link, delay_line):
    """For as long as the lab is up."""
    milliseconds = parts(link)[1]
    if milliseconds:
        lab.delay("dst", milliseconds, delay_line)


def _copy(lab, source, destination):
    """Bits per second of a TCP connection, as the receiver sees them: without the packets' heads."""
    with lab.popen(destination, [*RECEIVE, lab.address(destination)], stdout=subprocess.PIPE, text=True) as receiver:
        port = receiver.stdout.readline().strip()
        lab.run(source, [*SEND, lab.address(destination), port, str(COPY_S)])
        return float(receiver.stdout.readline())


def measured_bits_per_s(lab):
    """The slower direction"""
    return min(_copy(lab, "src", "dst"), _copy(lab, "dst", "src"))
