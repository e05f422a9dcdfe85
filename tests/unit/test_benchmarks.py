"""The benchmarks themselves: both generators count the same, results survive saving, changes are called rightly."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks import nchan
from benchmarks.check import verdict
from benchmarks.contenders import CONTENDERS, RAW_NAME
from benchmarks.generator import Generator, generator
from benchmarks.markdown import write
from benchmarks.report import Goal, Row, collected, machine, save, saved
from benchmarks.serving import PeerMissing

RAW = next(one for one in CONTENDERS if one.name == RAW_NAME)
NCHAN = next(one for one in CONTENDERS if one.start is nchan.nchan)
STREAMS, EVENTS, WARMUP, BURST = 7, 9, 3, 5

linux = pytest.mark.skipif(sys.platform != "linux", reason="servers are watched through /proc")


@pytest.fixture(params=["native", "python"])
def load(request: pytest.FixtureRequest, tmp_path: Path):
    if request.param == "python":
        script = Path(nchan.__file__).with_name("load_python.py")
        yield Generator((sys.executable, str(script)), tmp_path, native=False)
        return
    if not shutil.which("cc"):
        assert not os.environ.get("CI"), "CI must have a C compiler"
        pytest.skip("no C compiler")
    with generator() as native:
        yield native


@linux
def test_both_generators_count_every_frame_of_the_counted_rounds(load: Generator):
    with RAW.start() as server:
        streams = [RAW.stream(server, number) for number in range(STREAMS)]
        found = load.pingpong(server, streams, [RAW.request(server, BURST)] * EVENTS, frames=BURST, warmup=WARMUP)
    assert found["streams"] == STREAMS
    assert found["requests"] == EVENTS - WARMUP
    assert found["frames"] == (EVENTS - WARMUP) * STREAMS * BURST
    assert found["bytes"] > found["frames"] * 400
    assert found["round_us"]["max"] >= found["round_us"]["p50"] > 0


@linux
def test_both_generators_send_pipelined_messages_to_nchan_and_count_them(load: Generator):
    try:
        with NCHAN.start() as server:
            streams = [NCHAN.stream(server, number) for number in range(STREAMS)]
            requests = [NCHAN.request(server, BURST)] * EVENTS
            found = load.pingpong(server, streams, requests, frames=BURST, warmup=WARMUP, answers=BURST)
    except PeerMissing as reason:
        assert not os.environ.get("CI"), "CI must have the peers"
        pytest.skip(str(reason))
    assert found["frames"] == (EVENTS - WARMUP) * STREAMS * BURST
    assert 430 < found["bytes"] / found["frames"] < 470


@linux
def test_a_peer_that_is_missing_is_said_to_be(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nchan, "MODULES", ("/nowhere",))
    with pytest.raises(PeerMissing, match=r"install_peers\.sh"), NCHAN.start():
        pass


def rows() -> list[Row]:
    goals = (Goal(1.0, True, of_ratio=True), Goal(0.75, True, of_ratio=True, floor=True))
    return [
        Row.paired("pushing", "frames/s", [90.0, 110.0, 100.0], [100.0, 100.0, 50.0], "nchan", goals=goals, who="ours"),
        Row.alone("pushing", "frames/s", [70.0], goals, "other", note="other is not installed", who="ours"),
        Row("statements", "", 0, (Goal(0, False),)),
    ]


def test_saved_results_are_read_as_they_were(tmp_path: Path):
    save(rows(), machine(), tmp_path)
    described, found = saved(tmp_path)
    assert found == rows()
    assert described["cores"] == str(os.cpu_count())


def test_a_ratio_is_the_median_over_pairs_and_not_the_ratio_of_medians():
    (row, *_) = rows()
    assert row.ratio == 1.1
    assert row.measured / (row.limit or 0) == 1.0


def test_the_page_says_of_every_goal_whether_it_was_met(tmp_path: Path):
    page = write(rows(), {"cpu": "fast"}, [tmp_path / "frames.png"], tmp_path).read_text()
    assert "≥ 1 of it met, ≥ 0.75 of it met (floor)" in page
    assert "other is not installed" in page
    assert "≥ 1 of it, not measured" in page
    assert "![frames](frames.png)" in page


def test_rounds_are_collected_by_who_was_measured():
    assert collected(rows()[:1], "pushing") == {"ours": (90.0, 110.0, 100.0), "nchan": (100.0, 100.0, 50.0)}


@pytest.mark.parametrize(
    ("unit", "factor", "said"),
    [("frames/s", 1.02, ""), ("frames/s", 3.0, "better"), ("frames/s", 0.3, "worse"), ("ms", 3.0, "worse")],
)
def test_a_change_is_called_one_only_outside_of_the_spread(unit: str, factor: float, said: str):
    was = Row.paired("x", unit, [90.0, 110.0, 100.0], [100.0, 100.0, 100.0], "peer")
    now = replace(was, rounds=tuple(one * factor for one in was.rounds))
    assert verdict(was, now) == said
