"""Work goes on to its end when whoever asked for it goes away."""

import asyncio
import gc

import pytest

from clarion.completion import complete


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_what_the_work_answers_or_raises_is_the_callers() -> None:
    async def answer() -> int:
        return 7

    async def fail() -> None:
        raise ValueError("no")

    assert await complete(answer()) == 7
    with pytest.raises(ValueError, match="no"):
        await complete(fail())


@pytest.mark.parametrize("fails", [False, True])
async def test_a_caller_that_leaves_leaves_at_once_and_the_work_ends(
    fails: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    free, done = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await free.wait()
        done.set()
        if fails:
            raise ValueError("with a subject in it")

    caller = asyncio.create_task(complete(work()))
    await settle()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gc.collect()
    free.set()
    await asyncio.wait_for(done.wait(), 5)
    await settle()
    gc.collect()  # an error that nobody took would be told of here
    assert "with a subject" not in "".join(capsys.readouterr())


async def test_a_caller_that_leaves_before_the_work_began_does_not_stop_it() -> None:
    done = asyncio.Event()

    async def work() -> None:
        done.set()

    caller = asyncio.create_task(complete(work()))
    await asyncio.sleep(0)  # it waits for work that has not had a turn
    caller.cancel()
    await asyncio.wait([caller])
    await asyncio.wait_for(done.wait(), 5)
