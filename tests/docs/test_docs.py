"""What the documents say is so: links lead somewhere, and tables are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clarion.api.events import _FIELDS
from clarion.catalog import CATEGORIES
from clarion.cli.app import app
from clarion.client import EventFrame, HeartbeatFrame, LagFrame, OpenFrame, parse_frame
from clarion.errors import ERRORS
from clarion.filters import ALIASES, ENVELOPE, OPERATORS
from clarion.hub.services import SUPPRESSION_REASONS
from clarion.model import ConsentState, Role
from clarion.settings import Settings
from clarion.sources.emit import PRIORITIES
from docs.pages import section, table

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "ARCHITECTURE.md", *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", page.read_text()):
        found = page.parent / target if target else page
        assert found.exists(), f"{page.name} links to {target}, which is not there"
        if anchor:
            heads = re.findall(r"^#+ (.+)$", found.read_text(), re.M)
            assert anchor in {head.lower().replace(" ", "-") for head in heads}, f"{page.name}: {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:^    |`)make ([a-z]+)", page.read_text(), re.M))
    assert named <= targets


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


def test_the_command_line_page_lists_every_command() -> None:
    listed = " ".join(row[0] for row in table((ROOT / "docs/reference/cli.md").read_text()))
    commands = [one.name or one.callback.__name__ for one in app.registered_commands if one.callback is not None]
    commands += [str(one.name) for one in app.registered_groups]
    assert len(commands) >= 8
    for command in commands:
        assert f"`{command}" in listed, command


def test_the_http_page_names_every_error_that_a_client_can_meet() -> None:
    page = (ROOT / "docs/reference/http-api.md").read_text()
    for row in ERRORS.values():
        if row.http < 500 or row.http == 503:
            family = "invalid_…" if row.http == 422 else row.code
            assert f"`{family}`" in page, row.code


def test_the_http_page_describes_every_field_of_an_event_and_no_other() -> None:
    rows = table(section("reference/http-api.md", "An event"))
    documented = [name for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert documented == list(_FIELDS)


def test_the_http_page_names_every_state_reason_role_and_category() -> None:
    page = (ROOT / "docs/reference/http-api.md").read_text()
    for word in (*ConsentState, *SUPPRESSION_REASONS, *Role, *CATEGORIES, *PRIORITIES):
        assert re.search(rf"\b{word}\b", page), word


def test_the_frames_that_the_side_channel_page_shows_are_frames() -> None:
    frames = re.findall(r"^data: (.+)$", (ROOT / "docs/reference/side-channel.md").read_text(), re.M)
    kinds = [type(parse_frame(data, "")) for data in frames]
    assert kinds == [OpenFrame, EventFrame, LagFrame, HeartbeatFrame]


def test_the_readme_shows_what_the_demo_prints() -> None:
    from clarion import demo

    source = Path(demo.__file__).read_text()
    shown = (ROOT / "README.md").read_text()
    for line in ("Clarion pushes events to an MCP client the moment they happen", "a file appears in a watched folder"):
        assert line in source
        assert line in shown
