"""Connections that promise much and keep little, beside those whose answers are checked."""

import asyncio
import itertools
import random

from benches.resp_stream import ReplyReader, RespError, request
from benches.truth_replies import shown
from benches.truth_run import SILENCE_S, World


async def stall(world: World, number: int, stop: asyncio.Event) -> None:
    """Connections that promise much and keep little; what they never finished must not be seen."""
    rng = random.Random(f"{world.seed}-stall-{number}")
    for round_ in itertools.count():
        if stop.is_set() or not world.node.running:
            return
        name = b"stalled-%d-%d" % (number, round_)
        one = rng.choice((_announce, _die, _die_in_mset, _read_slowly, _half_a_header))
        try:
            await one(world, rng, name)
        except TimeoutError:
            world.findings.add("lost", f"no answer in {SILENCE_S:.0f} s beside {one.__name__} of {name!r}")
        except OSError as error:
            world.findings.add("lost", f"the node ended a connection of {one.__name__}: {error!r}")
        world.stalls += 1


async def _announce(world: World, rng: random.Random, name: bytes) -> None:
    length = rng.choice((66_058_000, 1_015_000, 16_384, 300_000))
    reader, writer = await asyncio.open_connection("127.0.0.1", world.node.port)
    del reader
    writer.write(b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(name), name, length))
    await asyncio.sleep(rng.uniform(0.2, 2))
    writer.transport.abort()
    await _unseen(world, name)


async def _die(world: World, rng: random.Random, name: bytes) -> None:
    length = int(2 ** rng.uniform(14, 24))
    _, writer = await asyncio.open_connection("127.0.0.1", world.node.port)
    writer.write(b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(name), name, length))
    writer.write(bytes(rng.randrange(length)))
    await asyncio.sleep(rng.uniform(0, 0.5))
    writer.transport.abort()
    await _unseen(world, name)


async def _die_in_mset(world: World, rng: random.Random, name: bytes) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", world.node.port)
    writer.write(b"*5\r\n$4\r\nMSET\r\n$%d\r\n%b\r\n$20000\r\n" % (len(name), name) + bytes(20_000))
    writer.write(b"\r\n$1\r\nx\r\n$1000000\r\n" + bytes(rng.randrange(1_000_000)))
    await asyncio.sleep(rng.uniform(0, 0.5))
    writer.transport.abort()
    await _unseen(world, name)


async def _half_a_header(world: World, rng: random.Random, name: bytes) -> None:
    del name
    said = b"*3\r\n$3\r\nSET\r\n$3\r\nabc\r\n$70000\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", world.node.port)
    writer.write(said[: rng.randrange(1, len(said))])
    await asyncio.sleep(rng.uniform(0.2, 2))
    writer.transport.abort()


async def _read_slowly(world: World, rng: random.Random, name: bytes) -> None:
    """Ask for much, read some of it slowly, and go."""
    del name
    reader, writer = await asyncio.open_connection("127.0.0.1", world.node.port, limit=16_384)
    keys = rng.sample(world.shared, 30) + world.large_keys[:1]
    writer.write(b"".join(request(b"GET", key.name) for key in keys) * 3)
    parser = ReplyReader()
    for _ in range(rng.randrange(5, 60)):
        try:
            piece = await asyncio.wait_for(reader.read(16_384), 1.0)
        except TimeoutError:
            break  # all is read
        for reply in parser.feed(piece):
            if isinstance(reply, RespError) or not (reply is None or type(reply) is bytes):
                world.findings.add("out_of_order", f"a slow reader's GET is answered with {shown(reply)}")
        await asyncio.sleep(0.02)
    writer.transport.abort()


async def _unseen(world: World, name: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.node.port)
    writer.write(request(b"GET", name))
    answer = await asyncio.wait_for(reader.readline(), SILENCE_S)
    if answer != b"$-1\r\n":
        world.findings.add(
            "wrong", f"GET {name!r}, which was never sent whole, is answered with {answer[:80]!r}"
        )
    writer.close()
