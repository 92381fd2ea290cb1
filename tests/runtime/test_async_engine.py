import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.patience import PATIENCE
from tests.runtime.mock_engine import GARBAGE, HANG, HOLD, KILL, RAISE, SLOW

from pagedc.runtime.async_engine import AsyncEngine
from pagedc.runtime.engine_spawn import spawn_engine
from pagedc.runtime.errors import (
    ContextLengthError,
    EngineClosedError,
    EngineDeadError,
    EngineError,
    OverloadedError,
    PackageError,
    PagedcError,
    RequestError,
)
from pagedc.runtime.messages import TokenEvent
from pagedc.runtime.sampling_params import SamplingParams

COMMAND = (sys.executable, str(Path(__file__).with_name("mock_engine.py")))


def params(**changes: Any) -> SamplingParams:
    return SamplingParams(**({"ignore_eos": True, "max_tokens": 5, "seed": 1} | changes))


async def tokens_of(events: AsyncIterator[TokenEvent]) -> list[int]:
    return [token_id async for event in events for token_id in event.token_ids]


async def begin(engine: AsyncEngine, request_id: str) -> asyncio.Task[list[int]]:
    """A long request that has its first token; the task has the others, which wait while there is a HOLD."""
    events = engine.generate(request_id, [SLOW], params(max_tokens=60))
    await anext(events)
    task = asyncio.create_task(tokens_of(events))
    await asyncio.sleep(0)
    return task


@asynccontextmanager
async def running(package: str = "well") -> AsyncIterator[AsyncEngine]:
    engine = AsyncEngine(package, command=COMMAND)
    engine.spawn()
    try:
        await engine.start()
        yield engine
    finally:
        await engine.close()


def run(test: Callable[[AsyncEngine], Awaitable[None]], package: str = "well") -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE):
            async with running(package) as engine:
                await test(engine)

    asyncio.run(main())


def test_an_engine_that_hangs_is_killed_and_started_again() -> None:
    async def main() -> None:
        engine = AsyncEngine("well", step_timeout=2, command=COMMAND)
        await engine.start()
        try:
            with pytest.raises(EngineDeadError, match="killed by signal 9"):
                await tokens_of(engine.generate("a", [HANG], params()))
            engine._watch.timeout = PATIENCE  # the next ones are no slower than the machine
            assert len(await tokens_of(engine.generate("b", [1], params()))) == 5
            assert engine.num_restarts == 1
            engine._watch.look()  # without requests there is nothing to end
            assert len(await tokens_of(engine.generate("c", [1], params()))) == 5
            assert engine.num_restarts == 1
        finally:
            await engine.close()

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_requests_run_together_and_alike() -> None:
    async def test(engine: AsyncEngine) -> None:
        alone = await tokens_of(engine.generate("a", [1, 2, 3], params()))
        together = await asyncio.gather(
            *(
                tokens_of(engine.generate(f"r{i}", [1, 2, 3], params(seed=1 if i == 0 else i + 5)))
                for i in range(20)
            )
        )
        assert together[0] == alone
        assert len(alone) == 5
        assert engine.num_requests == 0
        assert engine.stats.num_generation_tokens == 105
        assert engine.is_ready

    run(test)


def test_what_the_engine_refuses_is_a_request_error() -> None:
    async def test(engine: AsyncEngine) -> None:
        with pytest.raises(RequestError, match="prompt holds token id 99"):
            await tokens_of(engine.generate("a", [99], params()))
        with pytest.raises(RequestError, match="max_model_len is 64") as caught:
            await tokens_of(engine.generate("a", [1] * 64, params()))
        assert caught.value.code == ContextLengthError.code
        with pytest.raises(RequestError, match="cannot be sent"):
            await tokens_of(engine.generate("a", [2**70], params()))
        with pytest.raises(RequestError, match="cannot be sent"):
            await tokens_of(engine.generate("\ud800", [1], params()))
        with pytest.raises(RequestError, match="Expected `int`, got `float`"):
            await tokens_of(engine.generate("a", [1.5], params()))  # type: ignore[list-item]
        assert engine.num_requests == 0
        assert len(await tokens_of(engine.generate("a", [1], params()))) == 5

    run(test)


@pytest.mark.parametrize("how", ["close", "cancel"])
def test_leaving_the_generator_aborts_the_request(tmp_path: Path, how: str) -> None:
    (tmp_path / HOLD).touch()

    async def test(engine: AsyncEngine) -> None:
        if how == "close":
            events = engine.generate("a", [SLOW], params(max_tokens=60))
            await anext(events)
            await events.aclose()  # type: ignore[attr-defined]
        else:
            task = await begin(engine, "a")
            with pytest.raises(RequestError, match="request_id a is in use"):
                await tokens_of(engine.generate("a", [1], params()))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        (tmp_path / HOLD).unlink()
        await tokens_of(engine.generate("b", [1], params()))
        assert engine.stats.num_running == 0
        assert engine.stats.num_generation_tokens < 60

    run(test, str(tmp_path))


def test_one_sequence_or_all_can_be_aborted() -> None:
    async def test(engine: AsyncEngine) -> None:
        seen = []
        async for event in engine.generate("a", [SLOW, 1], params(n=3, max_tokens=6)):
            if event.index == 1:
                engine.abort("a", 1)
            seen.append(event)
        assert [event.index for event in seen].count(1) == 1
        assert sorted(event.index for event in seen if event.finish_reason == "length") == [0, 2]
        async for _ in engine.generate("b", [SLOW, 1], params(n=2, max_tokens=60)):
            engine.abort("b")
        engine.abort("unknown")
        await tokens_of(engine.generate("c", [1], params()))
        assert engine.stats.num_running == 0

    run(test)


@pytest.mark.parametrize("poison", [KILL, RAISE, GARBAGE])
def test_death_fails_open_requests_and_the_next_one_finds_a_new_engine(tmp_path: Path, poison: int) -> None:
    (tmp_path / HOLD).touch()

    async def test(engine: AsyncEngine) -> None:
        before = await tokens_of(engine.generate("b", [1], params()))
        innocent = await begin(engine, "a")
        guilty = asyncio.create_task(tokens_of(engine.generate("c", [poison], params())))
        await asyncio.sleep(0)
        (tmp_path / HOLD).unlink()
        with pytest.raises(EngineDeadError, match="is being restarted"):
            await guilty
        with pytest.raises(EngineDeadError):
            await innocent
        assert not engine.is_ready
        assert await tokens_of(engine.generate("d", [1], params())) == before
        assert engine.num_restarts == 1
        assert engine.num_requests == 0
        with pytest.raises(EngineDeadError):
            await tokens_of(engine.generate("e", [poison], params()))
        assert await tokens_of(engine.generate("f", [1], params())) == before
        assert engine.num_restarts == 2

    run(test, str(tmp_path))


def test_kill_9_from_outside(tmp_path: Path) -> None:
    (tmp_path / HOLD).touch()

    async def test(engine: AsyncEngine) -> None:
        assert engine._client is not None
        pid = engine._client._process.pid
        open_request = await begin(engine, "a")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EngineDeadError, match="killed by signal 9"):
            await open_request
        assert len(await tokens_of(engine.generate("b", [1], params()))) == 5

    run(test, str(tmp_path))


async def answered_at_last(engine: AsyncEngine) -> None:
    """Ask until one of its restarts succeeds."""
    while True:
        try:
            assert len(await tokens_of(engine.generate("c", [1], params()))) == 5
            return
        except PagedcError:
            continue


def test_a_restart_that_fails_says_why_and_is_tried_again(tmp_path: Path) -> None:
    async def test(engine: AsyncEngine) -> None:
        with pytest.raises(EngineDeadError):
            await tokens_of(engine.generate("a", [KILL], params()))
        with pytest.raises(PackageError, match="once is enough"):
            await tokens_of(engine.generate("b", [1], params()))
        (tmp_path / "once").unlink()
        await answered_at_last(engine)

    run(test, str(tmp_path / "once"))


def test_a_restart_without_a_process_is_tried_again() -> None:
    async def test(engine: AsyncEngine) -> None:
        command, engine._command = engine._command, ("/no/such/program",)  # as where no memory is left
        with pytest.raises(EngineDeadError):
            await tokens_of(engine.generate("a", [KILL], params()))
        with pytest.raises(EngineError, match="/no/such/program cannot be started"):
            await tokens_of(engine.generate("b", [1], params()))
        while engine.num_restarts < 2:
            await asyncio.sleep(0.01)
        engine._command = command
        await answered_at_last(engine)

    run(test)


def test_a_process_that_died_before_it_was_told_anything_says_how(tmp_path: Path) -> None:
    spawned = spawn_engine(tmp_path, (sys.executable, "-c", "raise SystemExit(7)"))
    spawned.process.wait()

    async def start() -> None:
        engine = AsyncEngine("well", command=COMMAND, spawned=spawned)
        try:
            await engine.start()
        finally:
            await engine.close()

    with pytest.raises(EngineError, match=r"died while starting \(exit code 7\)"):
        asyncio.run(start())


def test_a_start_that_fails_says_why() -> None:
    async def start(package: str, **changes: Any) -> None:
        engine = AsyncEngine(package, **({"command": COMMAND} | changes))
        try:
            await engine.start()
        finally:
            await engine.close()

    with pytest.raises(PackageError, match="unreadable: no such directory"):
        asyncio.run(start("unreadable"))
    with pytest.raises(EngineError, match=r"died while starting \(exit code 3\)"):
        asyncio.run(start("crash"))
    with pytest.raises(EngineError, match=r"died while starting \(exit code 4\)"):
        asyncio.run(start("slow crash"))  # as one that is descheduled between its last deeds
    with pytest.raises(EngineError, match="/no/such/python cannot be started"):
        asyncio.run(start("well", command=["/no/such/python"]))


def test_the_real_process_refuses_what_is_no_package(tmp_path: Path) -> None:
    async def start() -> None:
        engine = AsyncEngine(tmp_path)
        try:
            await engine.start()
        finally:
            await engine.close()

    with pytest.raises(PackageError, match="not a package"):
        asyncio.run(start())


def test_drain_waits_for_what_is_open_and_refuses_what_is_new(tmp_path: Path) -> None:
    (tmp_path / HOLD).touch()

    async def test(engine: AsyncEngine) -> None:
        task = asyncio.create_task(tokens_of(engine.generate("a", [SLOW], params(max_tokens=15))))
        await asyncio.sleep(0)
        assert not await engine.drain(timeout=0.05)
        with pytest.raises(OverloadedError, match="shutting down"):
            await tokens_of(engine.generate("b", [1], params()))
        (tmp_path / HOLD).unlink()
        assert await engine.drain(timeout=PATIENCE)
        assert len(await task) == 15
        assert not engine.is_ready

    run(test, str(tmp_path))


def test_close_ends_what_is_open(tmp_path: Path) -> None:
    (tmp_path / HOLD).touch()

    async def test(engine: AsyncEngine) -> None:
        task = await begin(engine, "a")
        (tmp_path / HOLD).unlink()
        await engine.close()
        await engine.close()
        with pytest.raises(EngineClosedError, match="closed"):
            await task
        with pytest.raises(EngineClosedError):
            await engine.start()

    run(test, str(tmp_path))


def test_the_engine_ends_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys; from pagedc.runtime.async_engine import AsyncEngine\n"
        "async def main():\n"
        "    engine = AsyncEngine('well', command=sys.argv[1:]); await engine.start()\n"
        "    print(engine._client._process.pid, flush=True); await asyncio.sleep(600)\n"
        "asyncio.run(main())"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, *COMMAND], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + PATIENCE
    while Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < end, "the engine outlives its parent"
        time.sleep(0.01)


def test_an_announced_grammar_hinders_nothing() -> None:
    async def test(engine: AsyncEngine) -> None:
        engine.prepare_grammars()
        assert len(await tokens_of(engine.generate("a", [1], params()))) == 5

    run(test)


def test_a_grammar_can_be_announced_to_an_engine_that_is_not_there() -> None:
    AsyncEngine("well", command=COMMAND).prepare_grammars()
