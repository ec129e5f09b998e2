import json
from dataclasses import replace

import pytest

from rmt_compress.analysis import AnalysisSettings
from rmt_compress.errors import SettingsError
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.training import CycleSettings, TrainingSettings
from rmt_compress.training.settings import differences


def test_every_problem_of_the_training_is_named_at_once():
    with pytest.raises(SettingsError) as raised:
        TrainingSettings(epochs=0, batch_size=-1, learning_rate=0, momentum=1, schedule="x", l1=-1, loss="hinge")
    text = str(raised.value)
    for word in ("epochs", "batch-size", "learning rate", "momentum", "schedule", "l1", "loss"):
        assert word in text


def test_every_problem_of_the_cuts_is_named_at_once():
    with pytest.raises(SettingsError) as raised:
        CycleSettings(
            every=0, keep_bulk="2", sparsify="-1", mode="other", sparsify_after=-1, plan=PlanSettings(gof=1)
        )
    assert raised.value.problems == (
        "prune-every must be at least 1, got 0",
        "mode must be recombine or recursive, got 'other'",
        "sparsify-after must be a threshold of 0 or more, got -1",
        "the retained share must be auto, a number or a list of numbers from 0 to 1, or slope:NUMBER, got '2'",
        "the sparsification threshold must be XI or FIRST:LAST, of 0 or more, got '-1'",
        "gof of the cycle's plan is not asked: the cycle decides it itself",
    )


def test_cuts_begin_at_once_from_a_trained_network_and_never_come_last():
    assert CycleSettings(every=2).cuts(6, trained=True) == (0, 2, 4)
    assert CycleSettings(every=2).cuts(6, trained=False) == (2, 4)
    assert CycleSettings(every=3).cuts(3, trained=False) == ()


def test_differences_in_words():
    one, other = vars(TrainingSettings()), vars(TrainingSettings(epochs=3, learning_rate=0.5))
    assert differences(one, other) == ["epochs 3, now 10", "learning_rate 0.5, now 0.02"]
    assert differences(one, other, free=("epochs", "learning_rate")) == []
    cycle = CycleSettings().plain()
    assert differences(cycle, {**cycle, "include": []}) == []
    assert differences(cycle, None) == ["one prunes, the other does not"]


def test_a_cycle_is_kept_flat_and_as_by_the_first_version_unless_it_asks_for_more():
    cycle = CycleSettings(
        every=3,
        keep_bulk="0.4",
        analysis=AnalysisSettings(gof=0.2, exclude=("fc1",)),
        plan=PlanSettings(gof_conv=0.3),
        sparsify="0.01",
    )
    assert json.dumps(cycle.plain()) == (
        '{"every": 3, "mode": "recombine", "keep_bulk": "0.4", "gof": 0.2, "gof_conv": 0.3, "alpha": 0.25, '
        '"beta": 0.1, "quantiles": "midpoint", "include": [], "exclude": ["fc1"], "min_size": 32, '
        '"when_not_smaller": "keep", "rank_multiple": 1, "sparsify": "0.01", "sparsify_every": 1, "masks": "held", '
        '"sparsify_after": null}'
    )
    tables = replace(cycle, analysis=replace(cycle.analysis, embeddings=True))
    assert differences(tables.plain(), cycle.plain()) == ["embeddings None, now True"]
    assert differences(cycle.plain(), tables.plain()) == ["embeddings True, now None"]


def test_a_share_of_zeros_and_a_threshold_are_two_ways():
    with pytest.raises(SettingsError, match="sparsity says itself how many entries go"):
        CycleSettings(sparsity=0.5, sparsify="0.01")
    with pytest.raises(SettingsError, match="add --sparsity"):
        CycleSettings(sparsify_budget="edge")
    with pytest.raises(SettingsError, match="hybrid decides what comes back: leave masks held"):
        CycleSettings(sparsity=0.5, sparsify_budget="hybrid", masks="released")


def test_zeros_rise_evenly_and_are_all_there_before_the_last_epoch():
    cycle = CycleSettings(sparsity=0.8)
    assert [cycle.share_at(epoch, 5) for epoch in range(1, 6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])
    assert cycle.share_at(1, 1) == 0.8
