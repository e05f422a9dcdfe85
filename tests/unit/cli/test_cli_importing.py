"""`clarion.cli.importing`: lines keep their numbers, and a store that takes no writes is waited for."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarion.cli import importing
from clarion.cli.importing import Batch, LineReader, Summary, send_batch
from clarion.client import ApiClient
from clarion.errors import MalformedJSON, StoreUnavailable, describe


def batches(data: bytes) -> list[Batch]:
    reader = LineReader(io.BytesIO(data))
    found: list[Batch] = []
    while (batch := reader.batch()) is not None:
        found.append(batch)
    return found


@given(st.lists(st.sampled_from([b"", b"  ", b"{}", b"x", b"{}\r", b"\xff"])), st.booleans())
def test_every_line_with_content_has_its_own_number(lines: list[bytes], ended: bool):
    data = b"\n".join(lines) + (b"\n" if ended else b"")

    found = [pair for batch in batches(data) for pair in zip(batch.numbers, batch.lines, strict=True)]

    expected = [(n, line.rstrip(b"\r")) for n, line in enumerate(data.split(b"\n"), 1) if line.strip()]
    assert found == expected
    assert sum(batch.consumed for batch in batches(data)) == len(data)


def test_a_batch_is_a_thousand_lines_and_the_numbers_go_on():
    found = batches(b"{}\n" * 2500)

    assert [len(batch.lines) for batch in found] == [1000, 1000, 500]
    assert found[2].numbers[0] == 2001


def test_a_batch_is_bounded_in_bytes_too():
    line = b"x" * 1_000_000 + b"\n"

    assert [len(batch.lines) for batch in batches(line * 12)] == [9, 3]


def test_a_line_without_end_is_a_failure_of_its_own_and_is_not_kept():
    data = b"{}\n" + b"x" * (3 * importing.MAX_LINE_BYTES + 5) + b"\n{}\n"

    (batch,) = batches(data)

    assert batch.numbers == [1, 3]
    assert [failure.line for failure in batch.failures] == [2]
    assert batch.consumed == len(data)


class Store:
    """An API that answers what it is told to, and keeps what it was sent."""

    def __init__(self, *answers: list[int] | Exception) -> None:
        self._answers = list(answers)
        self.sent: list[list[bytes]] = []
        self.slept: list[float] = []

    async def emit_lines(self, lines: Sequence[bytes]) -> dict[str, Any]:
        self.sent.append(list(lines))
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {"results": [self._result(status) for status in answer]}

    @staticmethod
    def _result(status: int) -> dict[str, Any]:
        if status < 400:
            return {"status": status, "duplicate": status == 200}
        return {"status": status, "error": {"code": "invalid_topic", "message": f"no {status}"}}

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


async def send(store: Store, lines: Sequence[bytes]) -> Summary:
    summary = Summary()
    batch = Batch(lines, range(11, 11 + len(lines)), (), 1)
    await send_batch(cast(ApiClient, store), batch, summary, sleep=store.sleep, jitter=lambda: 0.0)
    return summary


async def test_results_are_counted_and_failures_keep_their_line_number():
    summary = await send(Store([201, 422, 200, 409]), [b"a", b"b", b"c", b"d"])

    assert (summary.accepted, summary.duplicates) == (1, 1)
    assert [(failure.line, failure.reason) for failure in summary.failures] == [(12, "no 422"), (14, "no 409")]


async def test_only_lines_that_met_a_full_store_are_offered_again():
    store = Store([201, 503, 422, 503], [201, 503], [200])

    summary = await send(store, [b"a", b"b", b"c", b"d"])

    assert store.sent == [[b"a", b"b", b"c", b"d"], [b"b", b"d"], [b"d"]]
    assert (summary.accepted, summary.duplicates, len(summary.failures)) == (2, 1, 1)
    assert store.slept == [0.25, 0.5]


async def test_retry_after_makes_the_wait_longer():
    store = Store(StoreUnavailable(details={"retry_after": "9"}), [201])

    assert (await send(store, [b"a"])).accepted == 1
    assert store.slept == [9.0]


async def test_a_store_that_stays_closed_ends_the_import():
    store = Store(*[StoreUnavailable() for _ in range(importing.ATTEMPTS)])

    with pytest.raises(StoreUnavailable):
        await send(store, [b"a"])
    assert len(store.sent) == importing.ATTEMPTS


async def test_a_json_error_tells_the_column_and_not_the_batchs_line():
    error = describe(MalformedJSON("line 1 is not valid JSON at column 4",
                                   details={"position": {"line": 1, "column": 4}}))  # fmt: skip

    class Refusing(Store):
        @staticmethod
        def _result(status: int) -> dict[str, Any]:
            return {"status": 400, "error": json.loads(json.dumps(error))}

    summary = await send(Refusing([400]), [b"x"])

    assert [(failure.line, failure.reason) for failure in summary.failures] == [(11, "not valid JSON at column 4")]
