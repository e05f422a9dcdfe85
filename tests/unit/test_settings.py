"""Settings: which layer beats which, and errors that name the setting."""

from pathlib import Path

import pytest

from clarion.errors import InvalidInput
from clarion.settings import Settings, load_settings, read_settings, unknown_variables


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


@pytest.mark.parametrize(("name", "value", "told"), [
    ("RETENTION_DAYS", "0", "retention_days must be greater than 0 (from CLARION_RETENTION_DAYS)"),
    ("PORT", "x", "port must be a whole number, such as 8787 (from CLARION_PORT)"),
    ("PORT", "70000", "port must be at most 65535 (from CLARION_PORT)"),
    ("BUSY_TIMEOUT", "inf", "busy_timeout must be a number that is not infinite, such as 2.0"),
    ("LOG_LEVEL", "loud", "log_level must be debug, info, warning or error (from CLARION_LOG_LEVEL)"),
    ("ALLOWED_ORIGINS", "[oops", "allowed_origins must be a list, such as https://app.example.com or '["),
    ("ALLOWED_ORIGINS", "[1]", "allowed_origins must be a list of texts"),
    ("INBOUND", "x", "inbound must be a JSON object, such as '{"),
    ("INBOUND__GH", "x", "inbound.gh must be a table (from CLARION_INBOUND)"),
])  # fmt: skip
def test_a_wrong_variable_is_told_in_plain_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(f"CLARION_{name}", value)
    with pytest.raises(InvalidInput) as refused:
        load_settings(tmp_path)
    assert refused.value.message.startswith(told)


@pytest.mark.parametrize(
    "text", ["https://A.b,http://c:80", " https://a.b , http://c:80 ", '["https://a.b", "http://c:80"]']
)
def test_a_list_is_plain_text_or_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("CLARION_ALLOWED_ORIGINS", text)
    assert load_settings(tmp_path).allowed_origins == ("https://a.b", "http://c:80")


def test_a_list_in_the_file_is_a_list_or_one_text(tmp_path: Path) -> None:
    (tmp_path / "clarion.toml").write_text('allowed_origins = ["https://a.b"]\nallowed_hosts = "a.b"\n')
    settings = load_settings(tmp_path)
    assert (settings.allowed_origins, settings.allowed_hosts) == (("https://a.b",), ("a.b",))


@pytest.mark.parametrize(
    "origin", ["a.b", "https://a.b/", "https://a.b/c", "*", "https://*.b", "https://u@a.b", "null"]
)
def test_what_is_no_origin_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    monkeypatch.setenv("CLARION_ALLOWED_ORIGINS", origin)
    with pytest.raises(InvalidInput, match="without a path"):
        load_settings(tmp_path)


@pytest.mark.parametrize("host", ["https://a.b", "a.b:80", "a.b/c", "*.b"])
def test_what_is_no_host_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("CLARION_ALLOWED_HOSTS", host)
    with pytest.raises(InvalidInput, match="without scheme, port"):
        load_settings(tmp_path)


def test_no_limit_can_be_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clarion.toml").write_text("retention_mb = 5")
    monkeypatch.setenv("CLARION_RETENTION_MB", "none")
    assert load_settings(tmp_path).retention_mb is None


@pytest.mark.parametrize(("text", "told"), [
    ("prot = 1", "clarion.toml: there is no setting prot; did you mean port?"),
    ("[server]", "clarion.toml: there is no setting server; `clarion settings` lists them"),
    ('data = "x"', "clarion.toml: data cannot be set here"),
])  # fmt: skip
def test_what_does_not_belong_into_the_file_is_told(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "clarion.toml").write_text(text)
    with pytest.raises(InvalidInput) as refused:
        load_settings(tmp_path)
    assert refused.value.message.startswith(told)


def test_where_each_value_came_from_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clarion.toml").write_text("port = 1\nmax_connections = 5\n")
    monkeypatch.setenv("CLARION_PORT", "2")
    read = read_settings(tmp_path, log_level="error")
    assert read.origins == {"port": "CLARION_PORT", "max_connections": "clarion.toml", "log_level": "--log-level"}


def test_a_source_may_have_its_secret_from_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clarion.toml").write_text('[inbound.gh]\nkind = "github"\n')
    monkeypatch.setenv("CLARION_INBOUND__GH__SECRET", "s")
    assert load_settings(tmp_path).inbound == {"gh": {"kind": "github", "secret": "s"}}


def test_variables_that_nothing_reads_are_found_with_what_was_meant(tmp_path: Path) -> None:
    (tmp_path / "clarion.toml").write_text('[inbound.gh]\nsecret_env = ["CLARION_GH_SECRET"]\n')
    names = ["CLARION_PROT", "CLARION_XYZZY", "CLARION_KEY", "CLARION_URL", "CLARION_DATA", "clarion_host", "PATH",
             "CLARION_GH_SECRET", "CLARION_INBOUND__GH__KIND"]  # fmt: skip
    found = unknown_variables(load_settings(tmp_path), dict.fromkeys(names, "x"))
    assert found == {"CLARION_PROT": "CLARION_PORT", "CLARION_XYZZY": None}


def test_every_setting_is_documented() -> None:
    assert all(field.description for field in Settings.model_fields.values())
