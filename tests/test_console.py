"""What is said of long work while it lasts."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from deepfits import console


def told(monkeypatch, steps, total):
    """Return the lines of a log for times and units done until then."""
    out, now = io.StringIO(), [0.0]
    monkeypatch.setattr(console, "console", Console(file=out, width=200))
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    done = 0
    with console.show_progress("fit", total=total, unit="objects") as task:
        for now[0], number in steps:
            task.advance(number - done)
            done = number
    return out.getvalue().splitlines()[:-1]


def test_a_log_goes_by_lines(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=out, width=40))
    times = iter([0, 11, 12, 12.5])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(times))
    note = "003918-3-0213: 1033 sources, and a name that is long"
    with console.show_progress("detect", total=2, unit="fields") as task:
        task.advance(0, note)
        task.advance(1)
    assert out.getvalue().splitlines() == [f"detect: 0 of 2 fields ({note})", "detect: 1 field in 12.5 s"]
    handler = console.log_handler()
    record = logging.LogRecord(
        "deepfits", logging.INFO, "", 0, "a remark that is longer than a line " * 4, (), None
    )
    out.truncate(0)
    handler.emit(record)
    assert len(out.getvalue().splitlines()) == 1


def test_nothing_is_left_when_all_is_done(monkeypatch):
    lines = told(monkeypatch, [(50, 300), (100, 720)], 720)
    assert "min" in lines[0]
    assert lines[1].endswith("objects/s")


def seconds_left(line):
    minutes, seconds = line.split(", ")[-1].removesuffix(" s left").split(" min ")
    return 60 * int(minutes) + int(seconds)


def test_time_left_waits_for_a_speed_and_follows_it(monkeypatch):
    # Eight seconds to begin, then 10 objects a second: 80 s in all.
    lines = told(monkeypatch, [(t, 10 * max(t - 8, 0)) for t in range(1, 80)], 720)
    assert "left" not in lines[0]
    assert "20 of 720" in lines[0]
    for line, now in zip(lines[1:], range(20, 80, 10), strict=True):
        assert seconds_left(line) == pytest.approx(80 - now, rel=0.1 if now >= 40 else 0.7)
    # Twice as fast from the middle on.
    lines = told(monkeypatch, [(t, 10 * t + 10 * max(t - 100, 0)) for t in range(1, 180)], 3000)
    assert seconds_left(lines[14]) == pytest.approx(50, rel=0.25)
    # Days of work: something is said after half a minute.
    lines = told(monkeypatch, [(t, 10 * t) for t in range(1, 60)], 10**7)
    assert ["left" in line for line in lines[:4]] == [False, False, True, True]


def test_time_left_of_work_that_comes_in_lumps(monkeypatch):
    steps = [(t, 400 * (t // 60)) for t in range(1, 600)]
    lines = told(monkeypatch, steps, 4000)
    for line, now in zip(lines[12:48], range(130, 490, 10), strict=True):
        assert 0.5 < seconds_left(line) / (600 - now) < 2  # a lump more or less


def test_a_bar_waits_for_a_speed_too():
    rich = console.RichProgress(auto_refresh=False)
    number = rich.add_task("fit", total=1000, completed=500, begun=500.0, unit="", note="")
    task = rich.tasks[number]
    column = console._TimeLeft()
    task.start_time, task.completed = rich.get_time() - 10, 540
    assert "-" in column.render(task).plain
    rich.update(task.id, completed=560)
    rich.update(task.id, completed=600)
    assert "-" not in column.render(task).plain
