"""Classification and regression against scikit-learn and plain torch."""

import pytest
import torch
from sklearn.metrics import confusion_matrix, log_loss, mean_squared_error, r2_score, top_k_accuracy_score
from torch import nn
from torch.nn import functional

from rmt_compress.data.samples import Batch
from rmt_compress.errors import EvaluationError
from rmt_compress.networks.tasks.classification import Classification
from rmt_compress.networks.tasks.regression import Regression
from tests.samples.memory import Memory


class Echo(nn.Module):
    """Answers with its inputs."""

    def forward(self, x):
        return x


def test_classification_is_that_of_scikit_learn(rng):
    logits = torch.from_numpy(rng.normal(size=(500, 25))).float()
    labels = torch.from_numpy(rng.integers(0, 25, 500))
    score = Classification(Memory(logits, labels, "classes", 25)).score(Echo(), batch_size=33)
    shares = logits.double().softmax(1).numpy()
    assert score.value == score.accuracy == (logits.argmax(1) == labels).double().mean()
    assert score.details["top5"] == top_k_accuracy_score(labels, logits, k=5)
    assert score.loss == pytest.approx(log_loss(labels, shares, labels=range(25)), rel=1e-9)
    table = confusion_matrix(labels, logits.argmax(1))
    assert score.details["by_class"] == pytest.approx(table.diagonal() / table.sum(1))
    for right, answer, often in score.details["confused"]:
        assert table[right, answer] == often
        table[right, answer] = 0
    table[range(25), range(25)] = 0
    assert table.max() <= score.details["confused"][-1][2]
    assert score.guess == torch.bincount(labels).max().item() / 500
    assert score.samples == 500


def test_every_place_of_a_map_may_have_a_class(rng):
    logits = torch.from_numpy(rng.normal(size=(6, 4, 5, 3))).float()
    labels = torch.from_numpy(rng.integers(0, 4, (6, 5, 3)))
    labels[0, :2] = -100
    task = Classification(Memory(logits, labels, "classes", 4))
    score = task.score(Echo(), batch_size=4)
    assert score.loss == pytest.approx(float(functional.cross_entropy(logits.double(), labels)), rel=1e-9)
    asked = labels >= 0
    assert score.accuracy == float((logits.argmax(1) == labels)[asked].double().mean())
    assert score.samples == int(asked.sum())
    # The loss that is trained with is the same, and classes may be last.
    assert float(task.loss(logits.movedim(1, -1), Batch(logits, labels))) == pytest.approx(score.loss, rel=1e-5)


def test_regression_is_that_of_scikit_learn(rng):
    predicted = torch.from_numpy(rng.normal(size=(300, 3))).float()
    # Far from zero, where sums of squares would lose their digits.
    wanted = predicted + torch.from_numpy(rng.normal(size=(300, 3))).float() * 0.3
    task = Regression(Memory(predicted + 1000, wanted + 1000, "numbers"))
    score = task.score(Echo(), batch_size=64)
    assert score.value == score.loss == pytest.approx(mean_squared_error(wanted + 1000, predicted + 1000), rel=1e-6)
    expected = r2_score(wanted + 1000, predicted + 1000, multioutput="variance_weighted")
    assert score.details["r2"] == pytest.approx(expected, rel=1e-6)
    assert not score.metric.higher_is_better
    assert score.guess == pytest.approx(float(wanted.double().var(0, correction=0).mean()), rel=1e-4)


def test_one_number_may_stand_in_a_column_of_its_own():
    column, row = torch.arange(4.0)[:, None], torch.arange(4.0)
    assert Regression(Memory(column, row, "numbers")).score(Echo()).value == 0
    assert Regression(Memory(row, column, "numbers")).score(Echo()).value == 0
    # A last batch may hold one sample alone.
    assert Regression(Memory(column, row, "numbers")).score(Echo(), batch_size=3).value == 0


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Classification(Memory(torch.ones(4, 2), torch.tensor([0, 1, 2, 1]), "classes", 3)), "3 classes"),
        (Classification(Memory(torch.ones(4, 2))), "has no classes to compare"),
        (Classification(Memory(torch.full((4, 2), torch.nan), torch.ones(4).long(), "classes", 2)), "returns NaN"),
        (Classification(Memory(torch.ones(4), torch.ones(4).long(), "classes", 2)), "returns 4 numbers"),
        (Regression(Memory(torch.ones(4, 2), torch.ones(4, 3), "numbers")), "for targets of 4×3"),
        (Regression(Memory(torch.ones(4, 2), torch.ones(4).long(), "classes", 2)), "has no numbers"),
        (Classification(Memory({"y": torch.ones(4, 2)}, torch.ones(4).long(), "classes", 2)), "cannot take inputs"),
        (Classification(Memory(torch.ones(0, 2), torch.ones(0).long(), "classes", 2)), "holds no samples"),
    ],
)
def test_what_does_not_suit_is_one_line(task, words):
    with pytest.raises(EvaluationError, match=words) as error:
        task.score(Echo())
    assert "\n" not in str(error.value)


def test_a_network_may_return_many_things(rng):
    class Many(nn.Module):
        def __init__(self, made):
            super().__init__()
            self.made = made

        def forward(self, first, second):
            return self.made(first + second)

    logits = torch.from_numpy(rng.normal(size=(9, 3))).float()
    labels = torch.arange(9) % 3
    expected = Classification(Memory(2 * logits, labels, "classes", 3)).score(Echo()).loss
    inputs = {"first": logits, "second": logits}
    for made in (
        lambda x: (x, "more"),
        lambda x: {"loss": torch.tensor(0.0), "logits": x},
        lambda x: {"z": [x, 1]},
        lambda x: type("Output", (), {"logits": x})(),
    ):
        for given in (inputs, tuple(inputs.values())):
            assert Classification(Memory(given, labels, "classes", 3)).score(Many(made)).loss == expected
