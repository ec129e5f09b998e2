"""Which layers are analysed alone, which side by side, and with how many threads."""

import weakref

import pytest
import scipy.linalg  # noqa: F401 - its BLAS is one of those that are counted
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from torch import nn

import rmt_compress as rmt
from rmt_compress.analysis import threads as schedule
from rmt_compress.decomposition.blas_threads import blas_threads
from rmt_compress.layers.layer import FactorPair, Layer


@pytest.fixture
def two_threads():
    """torch's and every BLAS library's, on whatever machine and however few the tests themselves are to use."""
    before = torch.get_num_threads()
    with threadpool_limits(2, user_api="blas"):
        torch.set_num_threads(2)
        assert set(blas_thread_counts()) == {2}
        yield
    torch.set_num_threads(before)


@pytest.fixture
def on_torch_s_road(monkeypatch):
    """Layers of any size scheduled as large ones are."""
    monkeypatch.setattr(schedule, "suits_numpy", lambda layer: False)


def plan(*shapes, jobs=2, threads=2):
    layers = [Layer(f"l{i}", f"l{i}.weight", "linear", shape, "float32") for i, shape in enumerate(shapes)]
    work = sorted((schedule._work(layer) for layer in layers), key=sum, reverse=True)
    return schedule._plan(work, jobs, threads)


def blas_thread_counts():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.mark.parametrize(
    ("shapes", "jobs", "threads", "expected"),
    (
        ([(1000, 1000)], 2, 2, (1, False)),
        ([(1000, 1000)] * 4, 1, 2, (4, False)),
        ([(128, 256)] * 200, 2, 2, (0, False)),
        # The large MLP of the benchmark: on two cores the others fill the time of the largest one's eigenvalues,
        ([(3000, 784), (3000, 3000), (2000, 3000), (500, 2000)], 2, 2, (0, True)),
        # on eight they do not.
        ([(3000, 784), (3000, 3000), (2000, 3000), (500, 2000)], 8, 8, (4, False)),
        ([(4000, 4000), (100, 100), (100, 100)], 2, 2, (1, False)),
    ),
)
def test_plan(shapes, jobs, threads, expected):
    assert plan(*shapes, jobs=jobs, threads=threads) == expected


def test_small_layers_are_handed_out_together():
    sizes = [2000, 128, 128, *[64] * 150]
    tasks = [(Layer(f"l{i}", f"l{i}.weight", "linear", (p, p), "float32"), None) for i, p in enumerate(sizes)]
    groups = list(schedule._groups(tasks))
    assert [task for group in groups for task in group] == tasks
    assert groups[0] == tasks[:1]
    work = [sum(sum(schedule._work(layer)) for layer, _ in group) for group in groups]
    assert all(len(group) == 8 or each >= 1e8 for group, each in zip(groups[:-1], work[:-1], strict=True))
    assert max(len(group) for group in groups) == 8
    assert len(next(schedule._groups([(Layer("m", "m.weight", "linear", (400, 400), "float32"), None)] * 5))) == 1
    assert list(schedule._groups([])) == []


def test_factors_have_no_gram_matrix_to_form_ahead():
    pair = FactorPair("l", "l.up", 5000, 5000)
    factors = schedule._work(Layer("l", "l.down", "factors", (900, 5000), "float32", pair=pair))
    others = [schedule._work(Layer("m", "m.weight", "linear", (700, 700), "float32"))] * 30
    assert factors.gram == 0
    assert sum(factors) > sum(others[0])
    assert schedule._plan([factors, *others], 2, 2)[1] is False


@pytest.mark.parametrize("expected", ((0, False), (0, True), (1, False), (1, True), (3, False)))
@pytest.mark.usefixtures("on_torch_s_road")
def test_every_plan_gives_the_same_numbers(expected, monkeypatch, two_threads):
    model = nn.Sequential(nn.Linear(90, 120), nn.Linear(120, 70), nn.Linear(70, 70))
    reference = rmt.analyze(model, jobs=1)
    monkeypatch.setattr(schedule, "_plan", lambda work, jobs, threads: expected)
    before = blas_thread_counts(), torch.get_num_threads()
    seen = []
    analysis = rmt.analyze(model, jobs=2, progress=lambda *step: seen.append(blas_thread_counts()))
    for layer, other in zip(analysis.analyzed, reference.analyzed, strict=True):
        assert layer.fit.spikes == other.fit.spikes
        assert layer.fit.gof == pytest.approx(other.fit.gof, abs=1e-5)
    assert len(seen) == 3
    alone, _ = expected
    assert all(counts == [1] * len(counts) for counts in seen[alone:])
    assert (blas_thread_counts(), torch.get_num_threads()) == before


@pytest.mark.usefixtures("on_torch_s_road")
def test_weight_whose_gram_matrix_was_formed_ahead_is_given_back(monkeypatch):
    monkeypatch.setattr(schedule, "_plan", lambda work, jobs, threads: (0, True))
    held = []
    original = schedule.LayerTask

    def noting(*arguments):
        task = original(*arguments)
        held.append(weakref.ref(task))
        return task

    monkeypatch.setattr(schedule, "LayerTask", noting)
    alive = []
    model = nn.Sequential(nn.Linear(90, 120), *(nn.Linear(64, 64) for _ in range(30)))
    rmt.analyze(model, jobs=1, progress=lambda done, total, name: alive.append(held[0]() is not None))
    assert len(held) == 1
    assert not alive[-1]


@pytest.mark.usefixtures("on_torch_s_road")
def test_damaged_weight_whose_gram_matrix_is_formed_ahead(monkeypatch):
    monkeypatch.setattr(schedule, "_plan", lambda work, jobs, threads: (0, True))
    model = nn.Sequential(nn.Linear(90, 120), nn.Linear(120, 70))
    with torch.no_grad():
        model[0].weight[3, 4] = float("nan")
    analysis = rmt.analyze(model, jobs=2)
    assert [layer.reason for layer in analysis.damaged] == ["1 of its entries are NaN or Inf"]
    assert len(analysis.analyzed) == 1


def test_threads_of_blas_are_given_back_after_an_error(two_threads):
    before = blas_thread_counts()
    inside = []

    def fail():
        with blas_threads(1):
            inside.extend(blas_thread_counts())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert inside == [1] * len(before)
    assert blas_thread_counts() == before


def test_threads_of_blas_are_never_raised(two_threads):
    with blas_threads(1), blas_threads(8):
        assert set(blas_thread_counts()) == {1}
