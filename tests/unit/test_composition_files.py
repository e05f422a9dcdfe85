"""Stores by URL: a directory, a file by its suffix, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from clarion.composition import FILE_SUFFIXES, open_backend
from clarion.errors import DataDirectoryOwned, InvalidInput
from clarion.events import Events
from clarion.events.hooks import HookRunner
from clarion.events.runtime import opened, store_url
from clarion.stores.sqlite import FILES
from clarion.testing.clock import FakeClock


def databases(directory: Path) -> set[str]:
    """Names without what SQLite itself puts beside a database that is open."""
    return {name for name in os.listdir(directory) if not name.endswith(("-wal", "-shm"))}


@pytest.mark.parametrize("suffix", FILE_SUFFIXES)
async def test_a_file_has_its_audit_beside_it(tmp_path: Path, suffix: str) -> None:
    async with open_backend(f"sqlite:{tmp_path}/events{suffix}") as backend:
        assert (await backend.log.bounds("acme")).head == 0
    assert databases(tmp_path) == {f"events{suffix}", f"events-audit{suffix}"}


@pytest.mark.parametrize("name", ["events", "events.data", "v1.0"])
async def test_any_other_path_is_a_directory(tmp_path: Path, name: str) -> None:
    async with open_backend(f"sqlite:{tmp_path}/{name}"):
        pass
    assert databases(tmp_path) == {name}
    assert set(FILES) <= databases(tmp_path / name)


async def test_two_files_in_one_directory_are_two_stores(tmp_path: Path) -> None:
    epochs = []
    for name in ("one.db", "two.db", "one.db"):
        async with open_backend(f"sqlite:{tmp_path}/{name}") as backend:
            epochs.append((await backend.log.bounds("acme")).epoch)
    assert epochs[0] == epochs[2]
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("url", ["", "memory:here", "sqlite:", "postgres://localhost", "file:events.db"])
async def test_what_names_no_store_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        async with open_backend(url):
            pass
    assert (caught.value.field, caught.value.rule) == ("url", "scheme")


@pytest.mark.parametrize(
    ("place", "url"),
    [
        (None, "memory:"),
        ("events.db", "sqlite:events.db"),
        (Path("data/events.db"), "sqlite:data/events.db"),
        ("sqlite:events.db", "sqlite:events.db"),
        ("memory:", "memory:"),
        ("C:\\events.db", "sqlite:C:\\events.db"),
        ("sqlite:events", "sqlite:events"),
        ("sqlite:/data/events.db", "sqlite:/data/events.db"),
    ],
    ids=str,
)
def test_a_path_stands_for_a_file(place: str | Path | None, url: str) -> None:
    assert store_url(place) == url


@pytest.mark.parametrize(
    ("place", "rule", "says"),
    [
        (7, "type", "not int"),
        (b"events.db", "type", "not bytes"),
        ("", "suffix", "no file's name"),
        ("events", "suffix", "for a directory write sqlite:events"),
        (Path("data/events.txt"), "suffix", "sqlite:data/events.txt"),
        (":memory:", "scheme", "use memory:"),
        ("memory:here", "scheme", "use memory:"),
        ("sqlite:", "scheme", "use memory:"),
        ("file:events.db", "scheme", "'file:'"),
        ("postgres://me:swordfish@here/db", "scheme", "'postgres:'"),
        (
            "sqlite:///events.db",
            "path",
            "write sqlite:/events.db for an absolute path, sqlite:events.db for a relative",
        ),
        ("sqlite:////data/events.db", "path", "write sqlite:/data/events.db"),
    ],
    ids=str,
)
def test_what_can_be_no_store_is_refused_before_it_is_opened(place: Any, rule: str, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Events(place)
    assert (caught.value.field, caught.value.rule) == ("url", rule)
    assert says in caught.value.message
    assert "swordfish" not in caught.value.message


def test_a_directory_is_no_file_and_a_file_no_directory(tmp_path: Path) -> None:
    (tmp_path / "kept.db").mkdir()
    (tmp_path / "notes").write_text("")
    for place, says in ((tmp_path / "kept.db", "is a directory"), (f"sqlite:{tmp_path}/notes", "is a file")):
        with pytest.raises(InvalidInput, match=says):
            store_url(place)


@pytest.mark.parametrize("url", ["sqlite:{}/missing/events.db", "sqlite:{}/missing/events"])
async def test_a_directory_that_is_not_there_is_named_and_not_made(tmp_path: Path, url: str) -> None:
    clock = FakeClock()
    with pytest.raises(InvalidInput, match=r"there is no directory .*missing"):
        async with opened(url.format(tmp_path), clock=clock, hooks=HookRunner(clock)):
            pass
    assert os.listdir(tmp_path) == []


async def test_the_lock_is_a_file_beside_the_store(tmp_path: Path) -> None:
    clock = FakeClock()
    async with opened(store_url(tmp_path / "events.db"), clock=clock, hooks=HookRunner(clock)):
        assert (tmp_path / "events.db.lock").exists()


async def test_a_file_is_one_librarys_at_a_time_and_free_after_it(tmp_path: Path) -> None:
    url, clock = store_url(tmp_path / "events.db"), FakeClock()
    async with opened(url, clock=clock, hooks=HookRunner(clock)):
        with pytest.raises(DataDirectoryOwned, match=r"events\.db"):
            async with opened(url, clock=clock, hooks=HookRunner(clock)):
                pass
        async with opened(store_url(tmp_path / "other.db"), clock=clock, hooks=HookRunner(clock)):
            pass
    async with opened(url, clock=clock, hooks=HookRunner(clock)):
        pass
