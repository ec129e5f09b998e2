import pytest

from rmt_compress.errors import SettingsError
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
        CycleSettings(every=0, gof=2, alpha=0.7, keep_bulk="2", sparsify="-1", mode="other", sparsify_after=-1)
    text = str(raised.value)
    for word in ("prune-every", "gof", "alpha", "retained share", "threshold must be", "mode", "sparsify-after"):
        assert word in text
    assert text.count("gof must") == 1


def test_cuts_begin_at_once_from_a_trained_network_and_never_come_last():
    assert CycleSettings(every=2).cuts(6, trained=True) == (0, 2, 4)
    assert CycleSettings(every=2).cuts(6, trained=False) == (2, 4)
    assert CycleSettings(every=3).cuts(3, trained=False) == ()


def test_differences_in_words():
    one, other = TrainingSettings(), TrainingSettings(epochs=3, learning_rate=0.5)
    assert differences(one, vars(other)) == ["epochs 3, now 10", "learning_rate 0.5, now 0.02"]
    assert differences(one, vars(other), free=("epochs", "learning_rate")) == []
    assert differences(CycleSettings(), {**vars(CycleSettings()), "include": []}) == []
    assert differences(CycleSettings(), None) == ["one prunes, the other does not"]
