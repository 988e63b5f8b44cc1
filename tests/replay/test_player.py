import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import cycle, pairwise
from typing import TYPE_CHECKING

import pytest
import uvloop

from kvtide_operator.replay.blocks import key_of
from kvtide_operator.replay.link import FAILURES_IN_A_ROW_MAX
from kvtide_operator.replay.player import ReplayOptions, TargetError, replay
from kvtide_operator.replay.report import ReplayReport, ReplayTotals
from kvtide_operator.replay.targets import Target, owner_of

if TYPE_CHECKING:
    from kvtide_operator.workload.trace import Trace

BLOCK_BYTES = 4096
OPTIONS = ReplayOptions(block_bytes=BLOCK_BYTES)


def endless_cache(requests: list[list[int]]) -> tuple[int, int]:
    """Blocks looked up and blocks hit with room for everything, counted the slow way."""
    held: set[int] = set()
    looked_up = hit = 0
    for request in requests:
        misses = [index for index, block in enumerate(request) if block not in held]
        first_miss = misses[0] if misses else len(request)
        hit += first_miss
        looked_up += min(first_miss + 1, len(request))
        held.update(request)
    return looked_up, hit


@asynccontextmanager
async def fake_server(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object],
) -> AsyncIterator[Target]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield Target("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()


def test_totals_are_those_of_an_endless_cache(start_redis, make_trace, branching_requests) -> None:
    server = start_redis()
    progress: list[ReplayTotals] = []
    played = replay(make_trace(branching_requests), [server.target], OPTIONS, progress.append)
    report = uvloop.run(played)
    looked_up, hit = endless_cache(branching_requests)
    assert report.requests == len(branching_requests)
    assert report.blocks_requested == sum(map(len, branching_requests))
    assert (report.blocks_looked_up, report.blocks_hit) == (looked_up, hit)
    assert report.prefix_hit_ratio == hit / report.blocks_requested
    assert (report.errors, report.wrong_bytes, report.gave_up) == (0, 0, None)
    assert progress[-1].get_bytes == hit * BLOCK_BYTES
    assert progress[-1].set_bytes == (report.blocks_requested - hit) * BLOCK_BYTES
    assert all(before.requests <= after.requests for before, after in pairwise(progress))
    assert report.get_p50_ms <= report.get_p99_ms
    assert report.exists_p99_ms > 0
    with server.client() as client:
        assert client.dbsize() == len({block for request in branching_requests for block in request})
        stats = client.info("commandstats")
    assert stats["cmdstat_exists"]["calls"] == looked_up
    assert stats["cmdstat_get"]["calls"] == hit
    assert "cmdstat_kvtide.trace" not in stats


async def test_the_standard_event_loop_will_do(start_redis, make_trace) -> None:
    server = start_redis()
    report = await replay(make_trace([[1, 2], [1, 2, 3]]), [server.target], OPTIONS)
    assert (report.blocks_hit, report.errors, report.wrong_bytes) == (2, 0, 0)


@pytest.mark.parametrize("position", [0, 7, 8, BLOCK_BYTES - 1])
async def test_one_corrupted_byte_is_found(start_redis, make_trace, position: int) -> None:
    server = start_redis()
    trace = make_trace([[1, 2, 3]])
    await replay(trace, [server.target], OPTIONS)
    with server.client() as client:
        right = client.getrange(key_of(2), position, position)
        client.setrange(key_of(2), position, bytes([right[0] ^ 1]))
        report = await replay(trace, [server.target], OPTIONS)
        assert (report.blocks_hit, report.wrong_bytes, report.errors) == (3, 1, 0)


@pytest.mark.parametrize("value", [b"", b"short", b"x" * (BLOCK_BYTES + 1)])
async def test_a_value_of_another_length_is_wrong(start_redis, make_trace, value: bytes) -> None:
    server = start_redis()
    with server.client() as client:
        client.set(key_of(1), value)
    report = await replay(make_trace([[1]]), [server.target], OPTIONS)
    assert (report.blocks_hit, report.wrong_bytes) == (1, 1)


async def test_a_longer_right_value_is_wrong_and_another_seed_too(start_redis, make_trace) -> None:
    server = start_redis()
    trace = make_trace([[1]])
    await replay(trace, [server.target], OPTIONS)
    other = await replay(trace, [server.target], ReplayOptions(block_bytes=BLOCK_BYTES, seed=2))
    shorter = await replay(trace, [server.target], ReplayOptions(block_bytes=BLOCK_BYTES // 2))
    assert (other.wrong_bytes, shorter.wrong_bytes) == (1, 1)


def test_keys_are_where_the_slots_say_and_stay_there(start_redis, make_trace, branching_requests) -> None:
    servers = [start_redis(), start_redis(), start_redis()]
    targets = [server.target for server in servers]
    options = ReplayOptions(block_bytes=BLOCK_BYTES, connections=4)
    trace = make_trace(branching_requests)
    uvloop.run(replay(trace, targets, options))
    held = []
    for index, server in enumerate(servers):
        with server.client() as client:
            keys = set(client.scan_iter(count=1000))
        assert keys
        assert {owner_of(key, servers) for key in keys} == {index}
        held.append(keys)
    assert set.union(*held) == {key_of(block) for request in branching_requests for block in request}
    again = uvloop.run(replay(trace, targets, options))
    assert again.prefix_hit_ratio == 1.0
    assert again.errors == again.wrong_bytes == 0


async def test_refused_stores_are_errors_and_the_run_goes_on(start_redis, make_trace) -> None:
    server = start_redis("--maxmemory", "1", "--maxmemory-policy", "noeviction")
    report = await replay(make_trace([[1, 2], [1]]), [server.target], OPTIONS)
    assert (report.requests, report.blocks_hit, report.errors, report.gave_up) == (2, 0, 3, None)
    assert report.set_gb_s is None
    [reason] = report.error_reasons
    assert reason.startswith(f"{server.target}: OOM ")


async def test_a_password(start_redis, make_trace) -> None:
    server = start_redis("--requirepass", "se cret")
    trace = make_trace([[1], [1]])
    report = await replay(trace, [Target("127.0.0.1", server.port, password="se cret")], OPTIONS)
    assert (report.blocks_hit, report.errors) == (1, 0)
    for password in (None, "wrong"):
        with pytest.raises(TargetError, match=f"127.0.0.1:{server.port} refuses access"):
            await replay(trace, [Target("127.0.0.1", server.port, password=password)], OPTIONS)


async def test_a_target_that_is_down_at_the_start_is_named(
    start_redis, make_trace, unused_tcp_port: int
) -> None:
    server = start_redis()
    down = Target("127.0.0.1", unused_tcp_port)
    with pytest.raises(TargetError, match=f"{down}: no connection.*start the server"):
        await replay(make_trace([[1]]), [server.target, down], OPTIONS)


def test_a_target_that_dies_is_given_up(start_redis, make_trace) -> None:
    server = start_redis()
    trace = make_trace([[block, block + 1] for block in range(20_000)])

    def kill_it(totals: ReplayTotals) -> None:
        server.process.kill()

    report = uvloop.run(replay(trace, [server.target], OPTIONS, kill_it))
    assert 0 < report.requests < trace.requests
    assert report.errors >= FAILURES_IN_A_ROW_MAX
    assert f"{server.target} failed {FAILURES_IN_A_ROW_MAX} times in a row" in report.gave_up
    assert report.wall_s < 10
    assert report.blocks_hit <= report.blocks_looked_up <= report.blocks_requested


def test_a_restart_costs_errors_and_not_the_run(start_redis, make_trace) -> None:
    server = start_redis()
    trace = make_trace([[block, block + 1] for block in range(2_000)])
    restarted = []

    def restart(totals: ReplayTotals) -> None:
        if not restarted:
            server.process.kill()
            server.process.wait()
            restarted.append(start_redis(port=server.port))

    report = uvloop.run(replay(trace, [server.target], OPTIONS, restart))
    assert report.gave_up is None
    assert report.requests == trace.requests
    assert report.wrong_bytes == 0
    assert report.errors <= 1  # the command under way; the first after it finds the new server


def test_a_frozen_target_times_out(start_redis, make_trace) -> None:
    server = start_redis()
    trace = make_trace([[block] for block in range(3_000)])
    frozen = []

    def freeze_then_thaw(totals: ReplayTotals) -> None:
        if not frozen:
            os.kill(server.process.pid, signal.SIGSTOP)
            loop = asyncio.get_running_loop()
            frozen.append(loop.call_later(5.5, os.kill, server.process.pid, signal.SIGCONT))

    report = uvloop.run(replay(trace, [server.target], OPTIONS, freeze_then_thaw))
    assert (report.requests, report.errors, report.wrong_bytes) == (trace.requests, 1, 0)
    assert report.error_reasons == [f"{server.target}: no reply within 5 s"]


async def test_a_server_of_another_kind_is_given_up_with_a_reason(make_trace) -> None:
    garbage = cycle([b"HTTP/1.1 400 Bad Request\r\n\r\n", b"*0\r\n"])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"HELLO\r\n")
        writer.write(b"-ERR unknown command\r\n")
        await reader.read(1)
        writer.write(next(garbage))
        while await reader.read(10_000):
            pass

    async with fake_server(serve) as target:
        report = await replay(make_trace([[block] for block in range(100)]), [target], OPTIONS)
    assert report.errors == FAILURES_IN_A_ROW_MAX
    line, array, end = report.error_reasons
    assert line == f"{target}: sent b'HTTP/1.1 400 Bad', which is no reply that belongs here"
    assert array == f"{target}: sent an array where one value belongs"
    assert end == report.gave_up


@pytest.mark.parametrize("connections", [1, 4])
async def test_cancelling_stops_at_once(start_redis, make_trace, connections: int) -> None:
    server = start_redis()
    trace = make_trace([[1, 2], [3, 4]] * 5, arrival_s=[index * 100.0 for index in range(10)])
    options = ReplayOptions(block_bytes=BLOCK_BYTES, speed=1.0, connections=connections)
    task = asyncio.create_task(replay(trace, [server.target], options))
    with server.client() as client:
        while not client.exists(key_of(2)):
            await asyncio.sleep(0.01)
        task.cancel()
        async with asyncio.timeout(120):
            with pytest.raises(asyncio.CancelledError):
                await task
            while len(client.client_list()) > 1:
                await asyncio.sleep(0.01)


def test_the_pace_is_kept(start_redis, make_trace) -> None:
    server = start_redis()
    trace: Trace = make_trace([[1], [2], [3]], arrival_s=[0.0, 300.0, 600.0])
    report: ReplayReport = uvloop.run(
        replay(trace, [server.target], ReplayOptions(block_bytes=BLOCK_BYTES, speed=1000.0))
    )
    assert report.wall_s >= 0.6  # the trace's own pace would take the ten minutes that no test has
    assert 0 <= report.behind_max_s <= report.wall_s


async def test_requests_without_blocks_and_traces_without_requests(start_redis, make_trace) -> None:
    server = start_redis()
    report = await replay(make_trace([[], []]), [server.target], OPTIONS)
    assert (report.requests, report.blocks_requested, report.prefix_hit_ratio) == (2, 0, None)
    assert (await replay(make_trace([]), [server.target], OPTIONS)).requests == 0
