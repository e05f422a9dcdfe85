"""Settings: which layer beats which, and errors that name the setting."""

from pathlib import Path

import pytest

from clarion.errors import InvalidInput
from clarion.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("CLARION_"):
            monkeypatch.delenv(name)


def test_the_defaults_need_no_file(tmp_path: Path) -> None:
    settings = load_settings(tmp_path / "missing")
    assert (settings.host, settings.port, settings.synchronous) == ("127.0.0.1", 8787, "FULL")
    assert settings.data == tmp_path / "missing"


def test_an_argument_beats_the_environment_which_beats_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clarion.toml").write_text('port = 1\nretention_days = 1\nbusy_timeout = 1.5\nlog_format = "json"\n')
    monkeypatch.setenv("CLARION_PORT", "2")
    monkeypatch.setenv("CLARION_RETENTION_DAYS", "2")
    settings = load_settings(tmp_path, port=3, host=None)
    assert (settings.port, settings.retention_days, settings.busy_timeout) == (3, 2, 1.5)
    assert (settings.log_format, settings.host) == ("json", "127.0.0.1")


def test_inbound_sources_come_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "clarion.toml").write_text('[inbound.gh]\nkind = "github"\ntenant = "acme"\nsecret = "s"\n')
    assert load_settings(tmp_path).inbound == {"gh": {"kind": "github", "tenant": "acme", "secret": "s"}}


@pytest.mark.parametrize(("text", "field"), [
    ("port = 70000", "port"), ("port = -1", "port"), ('port = "x"', "port"), ("busy_timeout = 0", "busy_timeout"),
    ("retention_days = 0", "retention_days"), ('synchronous = "OFF"', "synchronous"), ("no_such = 1", "no_such"),
    ("max_payload_bytes = 1000000", "max_payload_bytes"), ('log_level = "loud"', "log_level"),
])  # fmt: skip
def test_a_setting_that_is_wrong_is_named(tmp_path: Path, text: str, field: str) -> None:
    (tmp_path / "clarion.toml").write_text(text)
    with pytest.raises(InvalidInput) as refused:
        load_settings(tmp_path)
    assert refused.value.field == field
    assert field in refused.value.message


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "clarion.toml").write_text("port = = 1")
    with pytest.raises(InvalidInput) as refused:
        load_settings(tmp_path)
    assert "clarion.toml" in refused.value.message


def test_a_wrong_variable_does_not_show_its_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLARION_PORT", "hunter2")
    with pytest.raises(InvalidInput) as refused:
        load_settings(tmp_path)
    assert "hunter2" not in refused.value.message


def test_variables_of_other_commands_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLARION_KEY", "x")
    monkeypatch.setenv("CLARION_URL", "x")
    load_settings(tmp_path)


def test_every_setting_is_documented() -> None:
    assert all(field.description for field in Settings.model_fields.values())
