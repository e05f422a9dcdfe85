"""One owner of a data directory, and how its commands find it."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from clarion.errors import DataDirectoryOwned, InvalidInput
from clarion.local import DataDirectory, local_bearer, local_tenant

OWNER = """
import sys
from pathlib import Path
from clarion.local import DataDirectory
directory = DataDirectory(Path(sys.argv[1]))
with directory.owned():
    directory.announce("http://127.0.0.1:1")
    print("mine", flush=True)
    sys.stdin.read()
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "a" / "data")
    with directory.owned():
        endpoint = directory.announce("http://127.0.0.1:1")
        assert mode(directory.path) == 0o700
        assert mode(directory.path / "endpoint.json") == 0o600
        assert json.loads((directory.path / "endpoint.json").read_text()) == {
            "url": "http://127.0.0.1:1", "secret": endpoint.secret,
        }  # fmt: skip
    assert not (directory.path / "endpoint.json").exists()


def test_each_announcement_has_a_secret_of_its_own(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    with directory.owned():
        first, second = (directory.announce("http://127.0.0.1:1").secret for _ in range(2))
        assert first != second
        assert len(first) >= 40


def test_a_second_owner_is_refused_while_the_first_is_there(tmp_path: Path) -> None:
    with DataDirectory(tmp_path).owned(), pytest.raises(DataDirectoryOwned), DataDirectory(tmp_path).owned():
        pass
    with DataDirectory(tmp_path).owned():
        pass


def test_another_process_is_found_until_it_dies_however_it_dies(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        directory = DataDirectory(tmp_path)
        found = directory.endpoint()
        assert found is not None
        assert found.url == "http://127.0.0.1:1"
        with pytest.raises(DataDirectoryOwned), directory.owned():
            pass
        process.kill()
        process.wait()
        assert (tmp_path / "endpoint.json").exists()  # nobody cleaned up
        assert directory.endpoint() is None
        with directory.owned():
            pass


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"url": "x"}', "null"])
def test_an_endpoint_that_makes_no_sense_is_none(tmp_path: Path, text: str) -> None:
    directory = DataDirectory(tmp_path)
    with directory.owned():
        (tmp_path / "endpoint.json").write_text(text)
        assert DataDirectory(tmp_path).endpoint() is None


def test_no_directory_is_no_endpoint_and_is_not_made(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "missing")
    assert directory.endpoint() is None
    assert not directory.path.exists()


def test_a_path_that_is_a_file_cannot_be_owned(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput), DataDirectory(tmp_path / "file").owned():
        pass


def test_a_bearer_names_its_tenant() -> None:
    assert local_tenant("s", local_bearer("s", "acme")) == "acme"
    assert local_tenant("t", local_bearer("s", "acme")) is None
