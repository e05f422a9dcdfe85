"""What the documents say is so: links lead somewhere, commands run, the snippet works, the tables are complete."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from clarion.errors import ERRORS
from clarion.filters import ALIASES, ENVELOPE, OPERATORS
from clarion.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "ARCHITECTURE.md", *ROOT.glob("docs/**/*.md")])


def clarion(arguments: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CLARION_DATA": str(directory / "data"), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "clarion", *arguments]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:^    |`)make ([a-z]+)", page.read_text(), re.M))
    assert named <= targets


def test_the_consent_how_to_runs_as_it_is_written(tmp_path: Path) -> None:
    page = (ROOT / "docs/how-to/consent.md").read_text()
    commands = re.findall(r"^    clarion (.+)$", page, re.M)
    assert len(commands) == 5
    for command in commands:
        ran = clarion(shlex.split(command, comments=True), tmp_path)
        # `consent check` answers no with 1: the subject is suppressed by then.
        assert ran.returncode == (1 if " check " in command else 0), ran.stderr


def test_the_commands_that_emit_run_as_they_are_written(tmp_path: Path) -> None:
    pages = (ROOT / "README.md").read_text() + (ROOT / "docs/getting-started.md").read_text()
    commands = re.findall(r"^    (?:\.venv/bin/)?clarion ((?:emit|keys) .+)$", pages, re.M)
    assert len(commands) >= 5
    for command in commands:
        ran = clarion(shlex.split(command, comments=True), tmp_path)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.strip()


def test_the_filter_page_names_every_suffix_alias_and_envelope_field() -> None:
    page = (ROOT / "docs/how-to/filters.md").read_text()
    missing = [name for name in (*OPERATORS, *ENVELOPE) if name not in page]
    renamed = [alias for alias, names in ALIASES.items() if names != (alias,) and alias not in page]
    assert not missing + renamed


def test_the_settings_page_is_what_the_settings_say() -> None:
    page = (ROOT / "docs/reference/settings.md").read_text()
    for name, field in Settings.model_fields.items():
        assert f"| `{name}` |" in page
        assert str(field.description) in page


def test_the_http_page_names_every_error_that_a_client_can_meet() -> None:
    page = (ROOT / "docs/reference/http-api.md").read_text()
    for row in ERRORS.values():
        if row.http < 500 or row.http == 503:
            family = "invalid_…" if row.http == 422 else row.code
            assert f"`{family}`" in page, row.code


def test_the_readme_shows_what_the_demo_prints() -> None:
    from clarion import demo

    source = Path(demo.__file__).read_text()
    shown = (ROOT / "README.md").read_text()
    for line in ("Clarion pushes events to an MCP client the moment they happen", "a file appears in a watched folder"):
        assert line in source
        assert line in shown
