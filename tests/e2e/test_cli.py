"""The real `clarion`, in processes of its own, as a person or a script uses it."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from clarion.local import DataDirectory

pytestmark = pytest.mark.e2e

CLARION = (sys.executable, "-m", "clarion")
POSITION = re.compile(r"[0-9a-f]{8}-\d+\n")
KEY = re.compile(r"clarion_[0-9A-Za-z]{12}_[0-9A-Za-z]{38}\n")


def environment(**given: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CLARION_")}
    return {**clean, **given}


def clarion(
    *arguments: str | Path, stdin: str | None = None, code: int = 0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and expect its exit code and never a traceback."""
    done = subprocess.run(
        (*CLARION, *map(str, arguments)), input=stdin, capture_output=True, text=True, timeout=60,
        env=environment(**variables),
    )  # fmt: skip
    assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    if code > 1:
        assert done.stdout == ""
        assert done.stderr.startswith("error: ")
    return done


@contextmanager
def running(*arguments: str | Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A command that runs until the block ends."""
    with subprocess.Popen(
        (*CLARION, *map(str, arguments)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
        env=environment(**variables),
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """The first line of stderr that holds `text`."""
    assert process.stderr is not None
    seen: list[str] = []
    for line in process.stderr:
        seen.append(line)
        if text in line:
            return line
    raise AssertionError(f"{text!r} did not come; stderr was {''.join(seen)}")


def stop(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> tuple[str, str]:
    process.send_signal(number)
    return process.communicate(timeout=20)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@dataclass(frozen=True)
class Served:
    url: str
    data: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that the module's tests share, each with a tenant of its own."""
    data = tmp_path_factory.mktemp("served") / "data"
    with running("serve", "--port", "0", "--data", data, "--log-level", "warning") as process:
        yield Served(read_until(process, "is listening on").split()[-1], data)
        stop(process)
        assert process.returncode == 0


_tenants = itertools.count()


@pytest.fixture
def here(served: Served) -> tuple[str, ...]:
    """Options that lead to the shared server and a tenant that nobody else uses."""
    return ("--data", str(served.data), "--tenant", f"t{next(_tenants)}")


def test_an_event_that_is_emitted_is_listened_to_in_order(here: tuple[str, ...]):
    with running("listen", "deal.*", "--json", "--filter", '{"amount_gte": 100}', *here) as listener:
        assert read_until(listener, "listening to deal.*") == 'listening to deal.* where {"amount_gte":100}\n'
        where = read_until(listener, "Ctrl-C ends")
        for amount in (100, 50, 200):
            clarion("emit", "deal.won", json.dumps({"amount": amount}), *here)
        assert listener.stdout is not None
        frames = [json.loads(listener.stdout.readline()) for _ in range(3)]
        rest, errors = stop(listener, signal.SIGINT)

    assert [frame["method"] for frame in frames] == [
        "notifications/pact/subscription.open", "notifications/pact/event", "notifications/pact/event",
    ]  # fmt: skip
    assert [frame["params"]["payload"]["amount"] for frame in frames[1:]] == [100, 200]
    assert all("heartbeat" in line for line in rest.splitlines())
    assert (listener.returncode, errors) == (0, "")
    assert re.fullmatch(r"on http://127\.0\.0\.1:\d+, tenant t\d+; times are \S+; Ctrl-C ends\n", where)


def test_listening_ends_its_own_subscription_and_keeps_a_named_one(served: Served, here: tuple[str, ...]):
    admin = clarion("keys", "create", "--role", "admin", "--module", "admin", *here).stdout.strip()
    for extra in ((), ("--client-id", "me")):
        with running("listen", "deal.*", *extra, *here) as listener:
            read_until(listener, "listening to deal.*")
            _, errors = stop(listener)
        assert listener.returncode == 0
    assert re.search(r"go on with --client-id me --from [0-9a-f]{8}-0\n", errors)

    import httpx2

    found = httpx2.get(
        f"{served.url}/v1/admin/mcp/outbound/subscriptions",
        headers={"authorization": f"Bearer {admin}"},
        trust_env=False,
    ).json()["subscriptions"]
    assert sorted((row["client_id"] == "me", row["status"]) for row in found) == [(False, "deleted"), (True, "active")]


def test_listening_from_a_cursor_begins_after_it(here: tuple[str, ...]):
    first = clarion("emit", "a.b", '{"n": 1}', *here).stdout.strip()
    clarion("emit", "a.b", '{"n": 2}', *here)
    for cursor, expected in ((first, [2]), ("earliest", [1, 2])):
        with running("listen", "a.*", "--from", cursor, "--json", *here) as listener:
            assert listener.stdout is not None
            frames = [json.loads(listener.stdout.readline()) for _ in range(len(expected) + 1)]
            stop(listener)
        assert [frame["params"]["payload"]["n"] for frame in frames[1:]] == expected
    assert "--from 'nonsense'" in clarion("listen", "a.*", "--from", "nonsense", *here, code=4).stderr


def test_the_readable_view_shows_who_and_what(here: tuple[str, ...]):
    with running("listen", "deal.*", *here) as listener:
        read_until(listener, "listening")
        clarion("emit", "deal.won", '{"amount": 5}', "--aggregate-type", "deal", "--aggregate-id", "d_1",
                "--actor", "ada", *here)  # fmt: skip
        assert listener.stdout is not None
        line = listener.stdout.readline()
        stop(listener)

    assert re.fullmatch(r"\d\d:\d\d:\d\d  deal\.won          deal/d_1 by ada  amount=5\n", line)


def test_a_key_is_alone_on_stdout_works_elsewhere_and_can_be_revoked(served: Served, here: tuple[str, ...]):
    made = clarion("keys", "create", "--role", "publisher", "--subject", "shop", *here)
    assert KEY.fullmatch(made.stdout)
    elsewhere = {"CLARION_URL": served.url, "CLARION_KEY": made.stdout.strip()}

    assert POSITION.fullmatch(clarion("emit", "a.b", **elsewhere).stdout)
    assert "role subscriber" in clarion("listen", "a.b", code=3, **elsewhere).stderr
    clarion("keys", "list", code=3, **elsewhere)

    (row,) = json.loads(clarion("keys", "list", "--json", *here).stdout)
    assert (row["subject"], row["role"], row["revoked_at"]) == ("shop", "publisher", None)
    assert made.stdout.strip() not in clarion("keys", "list", *here).stdout
    clarion("keys", "revoke", row["key_id"], *here)
    assert "revoked" in clarion("keys", "list", *here).stdout
    assert "CLARION_KEY" in clarion("emit", "a.b", code=3, **elsewhere).stderr


def test_a_key_of_one_tenant_sees_nothing_of_another(served: Served, here: tuple[str, ...]):
    key = clarion("keys", "create", "--role", "admin", "--data", served.data, "--tenant", "acme").stdout.strip()
    clarion("consent", "set", "ada", "withdrawn", *here)

    there = json.loads(clarion("consent", "show", "ada", "--json", CLARION_URL=served.url, CLARION_KEY=key).stdout)

    assert there == []
    assert "withdrawn" in clarion("consent", "show", "ada", *here).stdout


def test_emitting_takes_stdin_and_the_envelope_and_is_idempotent(here: tuple[str, ...]):
    same = ("emit", "deal.won", "-", "--event-id", "e-1", "--subject", "ada", "--subject", "bob", *here)
    first = clarion(*same, stdin='{"amount": 1}')
    again = clarion(*same, stdin='{"amount": 1}')

    assert POSITION.fullmatch(first.stdout)
    assert again.stdout == first.stdout
    assert "recorded before" in again.stderr
    assert "other content" in clarion(*same, stdin='{"amount": 2}', code=4).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("emit", "deal won"), 4, "topic 'deal won'"),
        (("emit", "a.b", '{"a":'), 4, "line 1, column"),
        (("emit", "a.b", "[1]"), 4, "JSON object"),
        (("emit", "a.b", "{}", "--occurred-at", "yesterday"), 4, "ISO 8601"),
        (("emit",), 2, "Missing argument"),
        (("emit", "a.b", "--nonsense"), 2, "--nonsense"),
        (("nonsense",), 2, "nonsense"),
        (("keys", "create", "--role", "king"), 2, "'king' is not one of publisher, subscriber, admin"),
        (("keys", "create", "--role", "admin", "--module", "x"), 2, "admin"),
        (("serve", "--log-level", "loud"), 2, "warning"),
        (("topics", "dael.won"), 4, "did you mean deal.won?"),
        (("keys", "revoke", "nobody"), 4, "no key"),
        (("topics", "--category", "sports"), 2, "crm"),
        (("consent", "set", "ada", "maybe"), 2, "granted"),
        (("import", "nowhere.ndjson"), 4, "nowhere.ndjson"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(served: Served, arguments: tuple[str, ...], code: int, told: str):
    done = clarion(*arguments, CLARION_DATA=str(served.data), code=code)

    assert told in done.stderr.splitlines()[0]


def test_listening_where_nobody_serves_tells_how_to_serve(data: Path):
    assert "clarion serve" in clarion("listen", "a.b", "--data", data, code=5).stderr
    assert not data.exists()


def test_wrong_patterns_and_filters_are_told_by_the_server(here: tuple[str, ...]):
    assert "deal won" in clarion("listen", "deal won", *here, code=4).stderr
    assert "amount_gte" in clarion(
        "listen", "deal.*", "--filter", '{"amount_gte": "much"}', *here, code=4
    ).stderr  # fmt: skip


def test_a_directory_that_nobody_serves_works_by_itself(data: Path):
    first = clarion("emit", "a.b", '{"n": 1}', "--data", data)
    position = first.stdout
    assert f"recorded in {data}, pushed when one starts" in first.stderr

    assert POSITION.fullmatch(position)
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    with running("serve", "--port", "0", "--data", data) as process:
        read_until(process, "is listening on")
        second = clarion("emit", "a.b", '{"n": 2}', "--data", data)
        assert second.stderr == ""
        assert second.stdout == position.replace("-1\n", "-2\n")
        stop(process)
    assert clarion("emit", "a.b", '{"n": 3}', "--data", data).stdout == position.replace("-1\n", "-3\n")


def test_commands_at_the_same_time_wait_for_each_other(data: Path):
    several = [
        subprocess.Popen((*CLARION, "emit", "a.b", "--data", str(data)), env=environment(), stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    positions = [process.communicate(timeout=60)[0] for process in several]

    assert [process.returncode for process in several] == [0, 0, 0]
    assert sorted(position.rpartition(b"-")[2] for position in positions) == [b"1\n", b"2\n", b"3\n"]


def test_a_second_server_is_refused_and_told_where_the_first_is(served: Served):
    assert served.url in clarion("serve", "--port", "0", "--data", served.data, code=5).stderr


def test_a_port_that_is_taken_and_a_setting_that_is_wrong_are_told(data: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "--port" in clarion("serve", "--port", port, "--data", data, code=1).stderr
    assert "port" in clarion("serve", "--data", data, CLARION_PORT="many", code=4).stderr


def test_the_endpoint_is_private_and_gone_with_the_server(data: Path):
    with running("serve", "--port", "0", "--data", data) as process:
        url = read_until(process, "is listening on").split()[-1]
        endpoint = DataDirectory(data).endpoint()
        assert endpoint is not None
        assert endpoint.url == url
        assert stat.S_IMODE((data / "endpoint.json").stat().st_mode) == 0o600
        stop(process)
    assert not (data / "endpoint.json").exists()


def test_a_directory_whose_server_was_killed_works(data: Path):
    with running("serve", "--port", "0", "--data", data) as process:
        read_until(process, "is listening on")
        process.kill()
        process.communicate()
    assert (data / "endpoint.json").exists()

    assert POSITION.fullmatch(clarion("emit", "a.b", "--data", data).stdout)


def test_listening_outlives_a_restart_of_the_server_and_misses_nothing(data: Path):
    with running("serve", "--port", "0", "--data", data) as first:
        read_until(first, "is listening on")
        listener = subprocess.Popen(
            (*CLARION, "listen", "a.*", "--json", "--data", str(data)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment(),
        )
        assert listener.stdout is not None
        listener.stdout.readline()
        clarion("emit", "a.b", '{"n": 1}', "--data", data)
        events = [json.loads(listener.stdout.readline())]
        stop(first)
    clarion("emit", "a.b", '{"n": 2}', "--data", data)
    with running("serve", "--port", "0", "--data", data) as second:
        read_until(second, "is listening on")
        clarion("emit", "a.b", '{"n": 3}', "--data", data)
        while len(events) < 3:
            frame = json.loads(listener.stdout.readline())
            events += [frame] if frame["method"].endswith("/event") else []
        _, errors = stop(listener)
        stop(second)

    assert [frame["params"]["payload"]["n"] for frame in events] == [1, 2, 3]
    assert listener.returncode == 0
    assert "connected again" in errors


def test_logs_are_json_lines_when_asked_for(data: Path):
    with running("serve", "--port", "0", "--data", data, "--log-format", "json") as process:
        announced = json.loads(read_until(process, "listening"))
        _, errors = stop(process)

    assert announced["url"].startswith("http://127.0.0.1:")
    assert all(json.loads(line) for line in errors.splitlines())


def test_a_server_that_is_not_there_is_unavailable():
    assert "is it running?" in clarion("topics", code=5, CLARION_URL="http://127.0.0.1:1", CLARION_KEY="k").stderr


def test_consent_is_recorded_shown_and_asked_for(here: tuple[str, ...]):
    assert "not allowed" in clarion("consent", "check", "ada", "--purpose", "marketing", *here, code=1).stdout
    clarion("consent", "set", "ada", "granted", "--purpose", "marketing", "--actor", "form", *here)
    assert clarion("consent", "check", "ada", "--purpose", "marketing", *here).stdout.startswith("allowed")
    clarion("consent", "set", "ada", "suppressed", "--reason", "stop", *here)

    assert json.loads(clarion("consent", "check", "ada", "--json", *here, code=1).stdout)["suppressed_by"] == "stop"
    lines = clarion("consent", "show", "ada", *here).stdout.splitlines()
    assert [line.split()[3] for line in lines[1:]] == ["suppressed", "granted"]


def test_an_import_records_the_good_lines_and_lists_the_bad_ones(data: Path, tmp_path: Path):
    lines = [json.dumps({"topic": "a.b", "payload": {"n": n}, "event_id": f"e{n}"}) for n in range(2500)]
    lines[1200] = "not json"
    lines[2300] = '{"topic": "bad topic", "payload": {}}'
    file = tmp_path / "events.ndjson"
    file.write_text("\n".join(lines))

    done = clarion("import", file, "--data", data, code=1)

    assert done.stdout == ""
    first, second, unserved, summary = done.stderr.splitlines()[1:]
    assert "no server runs here" in unserved
    assert first == "line 1201: not valid JSON at column 1"
    assert second.startswith("line 2301: topic 'bad topic'")
    assert summary == "2498 accepted, 0 duplicates, 2 failed"
    again = clarion("import", "-", "--data", data, stdin="\n".join(lines[:1000]))
    assert again.stderr.splitlines() == ["0 accepted, 1000 duplicates, 0 failed"]


def test_an_import_that_waits_for_stdin_ends_on_ctrl_c(data: Path):
    with subprocess.Popen(
        (*CLARION, "import", "-", "--data", str(data)), stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(),
    ) as process:  # fmt: skip
        read_until(process, "created the data directory")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_topics_are_listed_as_a_table_and_as_json(here: tuple[str, ...]):
    lines = clarion("topics", "--category", "integration", *here).stdout.splitlines()
    found = json.loads(clarion("topics", "--category", "integration", "--json", *here).stdout)

    assert [line.split()[0] for line in lines] == [row["topic"] for row in found]
    (one,) = json.loads(clarion("topics", "git.commit", "--json", *here).stdout)
    assert one == next(row for row in found if row["topic"] == "git.commit")
    assert "filters to try" in clarion("topics", "git.commit", *here).stdout


def test_settings_tells_every_value_in_effect_and_where_it_comes_from(data: Path):
    from clarion.settings import Settings

    data.mkdir()
    (data / "clarion.toml").write_text('port = 1\n[inbound.gh]\nkind = "github"\nsecret = "hush"\n')
    shown = clarion("settings", "--data", data, CLARION_RETENTION_DAYS="9").stdout
    rows = json.loads(clarion("settings", "--data", data, "--json", CLARION_RETENTION_DAYS="9").stdout)

    assert re.findall(r"^(\w+) = ", shown, re.M) == list(Settings.model_fields) == [row["setting"] for row in rows]
    for line in (f"data = {data}  (--data)", "port = 1  (clarion.toml)", "host = 127.0.0.1  (default)",
                 "retention_days = 9.0  (CLARION_RETENTION_DAYS)", "inbound = gh  (clarion.toml)"):  # fmt: skip
        assert line in shown
    assert "hush" not in shown + json.dumps(rows)


def test_a_group_without_a_command_shows_its_help():
    for group, command in (("keys", "revoke"), ("consent", "check")):
        done = subprocess.run((*CLARION, group), capture_output=True, text=True, timeout=60, env=environment())
        assert (done.returncode, done.stderr) == (2, "")
        assert re.search(rf"^  {command} ", done.stdout, re.M)


def test_help_fits_80_columns_and_cuts_no_summary():
    for command in ((), ("keys",), ("consent",), ("emit",), ("listen",), ("keys", "create"), ("serve",)):
        shown = clarion(*command, "--help", COLUMNS="80").stdout
        assert max(map(len, shown.splitlines())) <= 80, shown
        assert not re.search(r"\w\.\.\.$", shown.partition("Commands:")[2], re.M), shown


def test_serving_warns_of_a_variable_that_nothing_reads(data: Path):
    with running("serve", "--port", "0", "--data", data, CLARION_PROT="1", CLARION_KEY="k") as process:
        warned = read_until(process, "CLARION_")
        read_until(process, "is listening on")
        stop(process)
    assert warned == "! CLARION_PROT is no setting and is not used; did you mean CLARION_PORT?\n"


def test_a_directory_that_cannot_be_used_is_told_alike_by_all(tmp_path: Path):
    file = tmp_path / "file"
    file.touch()
    told = {clarion(*command, "--data", file, code=4).stderr for command in (("emit", "a.b"), ("serve", "--port", "0"))}

    assert told == {f"error: the data directory {file} cannot be used: File exists\n"}


def test_serving_on_every_address_tells_one_that_works(data: Path):
    with running("serve", "--host", "0.0.0.0", "--port", "0", "--data", data) as process:
        assert "http://127.0.0.1:" in read_until(process, "is listening on")
        assert "CLARION_ALLOWED_HOSTS" in read_until(process, "  open ")
        stop(process)


def test_every_command_has_help_with_an_example():
    commands = [
        ("serve",), ("emit",), ("listen",), ("topics",), ("import",), ("settings",), ("keys", "create"),
        ("keys", "list"), ("keys", "revoke"), ("consent", "set"), ("consent", "show"), ("consent", "check"),
    ]  # fmt: skip
    for command in commands:
        shown = clarion(*command, "--help").stdout
        assert f"clarion {' '.join(command)}" in shown.partition("Example")[2] or command == ("settings",), shown
    assert "Exit codes:" in clarion("--help").stdout
    assert re.fullmatch(r"clarion \d+\.\d+\.\d+\S*\n", clarion("--version").stdout)


def test_a_reader_that_has_gone_is_no_error(here: tuple[str, ...]):
    with subprocess.Popen(
        (*CLARION, "topics", "--json", *here), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment(),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.close()
        _, errors = process.communicate(timeout=60)
    assert b"Traceback" not in errors
    assert b"Exception" not in errors
