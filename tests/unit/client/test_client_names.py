"""The package's names come from their modules, and none that needs the MCP SDK comes unasked."""

from __future__ import annotations

import subprocess
import sys

import pytest

import clarion.client


@pytest.mark.parametrize("name", clarion.client.__all__)
def test_every_public_name_is_there(name: str):
    assert getattr(clarion.client, name).__name__ == name


def test_another_name_is_not():
    with pytest.raises(AttributeError):
        clarion.client.Nonsense


def test_the_command_line_loads_neither_server_nor_sdk_for_its_help():
    program = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from clarion.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'mcp', 'rich', 'httpx2', 'starlette', 'uvicorn'} & set(sys.modules)))"
    )
    done = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, check=True, timeout=30)

    assert done.stdout.splitlines()[-1] == "[]"
