# SPDX-License-Identifier: MIT
"""Counters over asyncio, with as much of Redis' protocol as a client needs that increments them. Timers, a queue and a subprocess are at work besides."""

import asyncio

counters = {}
ticks = 0


async def words(reader):
    count = int((await reader.readline())[1:])
    found = []
    for _ in range(count):
        length = int((await reader.readline())[1:])
        found.append((await reader.readexactly(length + 2))[:-2].decode())
    return found


async def serve(reader, writer):
    try:
        while True:
            verb, *rest = await words(reader)
            if verb == "INCR":
                counters[rest[0]] = counters.get(rest[0], 0) + 1
                writer.write(b":%d\r\n" % counters[rest[0]])
            else:
                writer.write(b"+PONG\r\n" if verb == "PING" else b":%d\r\n" % ticks)
            await writer.drain()
    except (ValueError, EOFError, OSError):
        writer.close()


async def tick():
    """A child that answers each line, every fifty milliseconds."""
    global ticks
    child = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    while True:
        await asyncio.sleep(0.05)
        child.stdin.write(b"%d\n" % ticks)
        if int(await child.stdout.readline()) != ticks:
            raise SystemExit("the child's answer is another")
        ticks += 1


async def main():
    ticking = asyncio.create_task(tick())
    server = await asyncio.start_server(serve, "0.0.0.0", 6379)
    async with server:
        await ticking


asyncio.run(main())
