"""Runs of many seeds in several processes: the order, what is on disk when, and what comes of it."""

import json

import pytest

from tests.samples.repository import REPOSITORY

EXPERIMENTS = REPOSITORY / "experiments"
FULL = EXPERIMENTS / "data" / "reproduction" / "full"
ARMS = ("final ReLU, pruned", "final ReLU, normal", "no final ReLU, pruned", "no final ReLU, normal")


@pytest.fixture
def full_scale(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return __import__("full_scale")


def _line(arm, seed, accuracy, *, finished=True):
    start = {"event": "epoch", "epoch": 0, "test_accuracy": 0.1, "parameters": 100, "dead_outputs": 0}
    events = [{**start, "never_predicted": 9, "seconds": {"train": 0.0, "analyze": 0.0}}]
    events.append(
        {
            **events[0],
            "epoch": 1,
            "test_accuracy": accuracy,
            "never_predicted": 0,
            "seconds": {"train": 1.0, "analyze": 0.0},
        }
    )
    settings = {"arch": "mlp:64,10", "data": "digits", "training": {}, "cycle": None}
    head = {"example": "bssz24_mnist", "arm": arm, "seed": seed, "scale": "quick", "seconds": 2.0}
    run = {"seed": seed, "events": events}
    where = {"torch": "2", "device": "CPU", "date": "2026-01-31", "lanes": 3}
    return {**head, **where, "settings": settings, "finished": finished, "run": run}


def _write(file, lines):
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def test_what_is_wanted_is_there_and_comes_once(full_scale):
    found = full_scale.jobs("full")
    assert len({job.key for job in found}) == len(found)
    for name in dict.fromkeys(job.example for job in found):
        works = full_scale.example(name).works("full")
        asked = [job for job in found if job.example == name]
        assert {job.arm for job in asked} <= set(works)
        assert all(job.seed in works[job.arm].seeds or name in _MORE for job in asked)


# One seed is what their scripts run.
_MORE = ("sjk23_deep", "gradient_descent")


def test_a_run_that_does_not_fit_gives_way(full_scale):
    long, short = (full_scale.Job("x", name, 0, seconds) for name, seconds in (("long", 100.0), ("short", 5.0)))
    sent = []

    class Pipe:
        send = sent.append

    runner = object.__new__(full_scale.Runner)
    for left, pace, first in ((200, [], long), (50, [], short), (200, [3.0], short), (1, [], long)):
        runner._deadline, runner._pace = full_scale.time.monotonic() + left, pace
        runner._next(full_scale.Lane(None, Pipe()), [long, short])
        assert sent[-1] == first


def test_lines_become_numbers_tables_and_pictures(full_scale, tmp_path):
    lines = [_line(arm, seed, 0.5 + 0.1 * seed) for arm in ARMS[:3] for seed in (1, 0)]
    _write(tmp_path / "lines.jsonl", lines)
    broken = [_line(ARMS[3], 0, 0.25, finished=False), _line(ARMS[0], 2, 0.9, finished=False)]
    _write(tmp_path / "unfinished.jsonl", broken)
    (file,) = full_scale.collect(tmp_path, tmp_path / "out")
    ((_, numbers),) = full_scale.collected(full_scale.lines_of(tmp_path))
    assert [run["seed"] for run in numbers["arms"][ARMS[0]]["runs"]] == [0, 1]
    assert ARMS[3] not in numbers["arms"]
    assert numbers["seconds"] == 12.0
    text = file.read_text(encoding="utf-8")
    assert "50.00, 60.00" in text
    assert f"and not shown: {ARMS[3]}, seed 0; {ARMS[0]}, seed 2." in text
    assert "up to 3 runs at a time on a CPU (2026-01-31)" in text
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_committed_tables_are_those_of_the_committed_lines(full_scale):
    lines = full_scale.lines_of(FULL)
    found = {shown.name: shown.markdown(numbers) for shown, numbers in full_scale.collected(lines)}
    found["equal_time"] = __import__("equal_time").markdown(lines)
    assert {file.stem: file.read_text(encoding="utf-8") for file in FULL.glob("*.md")} == found
    assert {file.stem for file in FULL.glob("*.png")} == set(found)


def test_at_equal_time_the_last_epoch_that_was_over_counts(full_scale):
    equal_time = __import__("equal_time")
    normal, pruned = _line("normal", 0, 0.9), _line("pruned", 0, 0.8)
    pruned["run"]["events"][1]["seconds"] = {"train": 0.75, "analyze": 0.5}
    pair = next(equal_time.pairs([{**line, "example": "sjk23_deep"} for line in (pruned, normal)]))
    assert (pair.normal["arm"], pair.pruned["arm"]) == ("normal", "pruned")
    assert equal_time.at(pair.normal, 1.0) == (1, 0.9, 1.0)
    assert equal_time.at(pair.pruned, 1.24) == (0, 0.1, 1.0)
    assert equal_time.at(pair.pruned, 1.25) == (1, 0.8, 1.0)


@pytest.mark.slow
def test_finished_seeds_are_skipped_and_broken_ones_kept(python, tmp_path):
    script, out = EXPERIMENTS / "full_scale.py", tmp_path / "out"
    words = (script, out, "--quick", "--only", "sjk23_deep", "--lanes", "1")
    done = python.run(*words, "--seconds", "60")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (out / "lines.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted((line["arm"], line["seed"]) for line in lines) == [
        *(("normal", seed) for seed in (0, 1)),
        *(("pruned", seed) for seed in (0, 1)),
    ]
    assert (out / "unfinished.jsonl").read_text(encoding="utf-8") == ""
    again = python.run(*words, "--seconds", "60")
    assert again.stdout.startswith("0 runs wanted, 4 there already")
    assert not (out / "errors.jsonl").exists()
