"""What is said of long work while it lasts."""

from __future__ import annotations

import io

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
