"""`clarion.client.mcp_events.cursors`."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from clarion.client.mcp_events import CursorStore, FileCursors, MemoryCursors
from clarion.client.mcp_events.cursors import subscription_key
from clarion.errors import InvalidInput


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> CursorStore:
    return MemoryCursors() if request.param == "memory" else FileCursors(tmp_path / "cursors.json")


def names(directory: Path) -> list[str]:
    return [found.name for found in directory.iterdir()]


async def test_a_store_gives_back_what_was_put_last(store: CursorStore) -> None:
    assert await store.get("a") is None
    await store.put("a", "1")
    await store.put("b", "ü")
    await store.put("a", "2")
    assert (await store.get("a"), await store.get("b")) == ("2", "ü")
    await store.delete("a")
    await store.delete("never")
    assert (await store.get("a"), await store.get("b")) == (None, "ü")


async def test_a_file_outlives_its_store_and_is_nobody_elses_to_read(tmp_path: Path) -> None:
    path = tmp_path / "cursors.json"
    await FileCursors(path).put("a", "1")
    await FileCursors(path).put("b", "2")
    assert await FileCursors(path).get("a") == "1"
    assert json.loads(path.read_text()) == {"a": "1", "b": "2"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["cursors.json"]


async def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cursors.json"
    store = FileCursors(path)
    await store.put("a", "1")

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            await store.put("a", "2")
    assert json.loads(path.read_text()) == {"a": "1"}
    assert names(tmp_path) == ["cursors.json"]
    await store.put("a", "2")
    assert json.loads(path.read_text()) == {"a": "2"}


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', "nonsense"])
async def test_a_file_that_holds_no_cursors_is_refused_and_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "cursors.json"
    path.write_text(content)
    with pytest.raises(InvalidInput, match="holds no cursors"):
        await FileCursors(path).put("a", "1")
    assert path.read_text() == content


def test_a_key_depends_on_the_content_of_the_arguments_alone() -> None:
    one = subscription_key("a.b", {"x": 1, "y": [2, {"p": 1, "q": None}]})
    assert one == subscription_key("a.b", {"y": [2, {"q": None, "p": 1}], "x": 1})
    others = [subscription_key("a.c", {"x": 1}), subscription_key("a.b", {"x": 2}), subscription_key("a.b", {})]
    assert len({one, *others}) == 4
