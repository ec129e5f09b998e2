"""A few runs disturbed at the calls that matter most; the long campaigns are `python -m tests.faults`."""

import json
from signal import Signals

import pytest

from tests.faults import tracing
from tests.faults.surroundings import changing_inputs, why_not_mounted
from tests.faults.table import PAGE, RESULTS, Row, mended, page
from tests.faults.trials import Bench
from tests.faults.works import WORKS

WHY_NOT = tracing.why_not()
FAULTS = (
    "write:signal=KILL:when=1",
    "rename:signal=KILL:when=1",
    "write:error=ENOSPC:when=2",
    "unlink:error=EIO:when=1",
    "fsync:signal=TERM:when=1",
    "fsync:signal=HUP:when=1",
    "fsync:signal=INT:when=1",
)


@pytest.mark.slow
@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
def test_what_is_left_of_a_disturbed_run_is_old_or_whole_and_the_next_run_is_as_if_nothing_had_been(
    python, tmp_path
):
    bench = Bench(python, WORKS["prune"], tmp_path / "prune")
    for number, inject in enumerate(FAULTS):
        _, _, name = inject.partition("signal=")
        sent = {"KILL": 9, "TERM": 15, "HUP": 1, "INT": 2}.get(name.partition(":")[0])
        trial = bench.try_with(inject, inject, existed=number % 2 == 0, sent=sent)
        assert not trial.problems, trial
        ends = -9 if sent == 9 else 128 + sent if sent else 0 if "unlink" in inject else 2
        assert (trial.status, trial.left) == (ends, "whole" if ends == 0 else "before")
    for trial in changing_inputs(bench, "model.safetensors", 2):
        assert not trial.problems, trial


@pytest.mark.slow
@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
def test_a_folder_that_is_replaced_is_old_or_whole_and_leftovers_go_with_the_next_run(python, tmp_path):
    bench = Bench(python, WORKS["folder"], tmp_path / "folder")
    assert "renameat2" in [call.name for call in bench.calls]
    # The new folder is in its place, and half of the old one is still beside it.
    trial = bench.try_with("unlinkat:signal=KILL:when=2", "KILL", existed=True, sent=9)
    assert not trial.problems, trial
    assert (trial.left, trial.strangers) == ("whole", 1)


@pytest.mark.slow
@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
def test_of_files_that_belong_together_there_are_all_or_none_wherever_a_signal_comes(python, tmp_path):
    bench = Bench(python, WORKS["sweep"], tmp_path / "sweep")
    writing = [call for call in bench.calls if call.name == "write" and "/swept/" in call.place]
    exchanging = [call for call in bench.calls if call.name == "renameat2" and "rank." in call.text]
    assert len(exchanging) == 3
    making, removing = (
        [call for call in bench.calls if call.name == name and ".rank." in call.text]
        for name in ("mkdir", "unlinkat")
    )
    done = {*exchanging, *removing}
    for number, call in enumerate((*making, writing[0], writing[-1], *exchanging, removing[0])):
        name = ("INT", "TERM", "HUP")[number % 3]
        sent = {"INT": 2, "TERM": 15, "HUP": 1}[name]
        inject = f"{call.name}:signal={name}:when={call.count}"
        trial = bench.try_with(inject, inject, existed=True, sent=sent)
        assert not trial.problems, trial
        assert (trial.status, trial.left) == (128 + sent, "whole" if call in done else "before")
        assert not trial.strangers, trial
    # Nothing is there that they could change places with.
    trial = bench.try_with("rename:signal=INT:when=2", "INT", existed=False, sent=2)
    assert not trial.problems, trial
    assert (trial.status, trial.left) == (130, "whole")


@pytest.mark.slow
@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
def test_a_graph_keeps_the_file_beside_it_wherever_a_signal_or_a_kill_comes(python, tmp_path):
    bench = Bench(python, WORKS["graph"], tmp_path / "graph")
    (exchanging,) = [call for call in bench.calls if call.name == "renameat2"]
    (data,) = [call for call in bench.calls if call.name == "rename" and ".data" in call.text]
    for call, name in ((exchanging, "INT"), (data, "TERM"), (data, "KILL"), (exchanging, "KILL")):
        sent = Signals[f"SIG{name}"]
        inject = f"{call.name}:signal={name}:when={call.count}"
        trial = bench.try_with(inject, inject, existed=True, sent=sent)
        assert not trial.problems, trial
        assert trial.status == (-sent if name == "KILL" else 128 + sent)
        assert trial.left == ("before" if name == "KILL" else "whole")


def test_the_page_is_made_of_the_recorded_figures():
    rows = [Row(**each) for each in json.loads(RESULTS.read_text())]
    assert PAGE.read_text() == page(rows, mended())
    assert not [(row.campaign, row.work) for row in rows if "half" in row.left or row.problems]
    assert {(each.campaign, each.work) for each in mended()} <= {(row.campaign, row.work) for row in rows}


def test_what_cannot_be_done_here_is_said():
    """Whoever reads a skipped test learns what to install."""
    assert WHY_NOT is None or "strace" in WHY_NOT
    assert (why := why_not_mounted()) is None or "mounted" in why
