"""A low-rank part and a sparse one: planted sums are found, and no turn makes the error larger."""

import pytest
import torch

from tests.samples.repository import REPOSITORY


@pytest.fixture
def low_rank_and_sparse(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "experiments"))
    return __import__("low_rank_and_sparse").low_rank_and_sparse


def test_a_planted_sum_is_found_again(low_rank_and_sparse):
    low = 10 * torch.randn(40, 3, dtype=torch.float64) @ torch.randn(3, 60, dtype=torch.float64)
    sparse = torch.zeros(40 * 60, dtype=torch.float64)
    sparse[torch.randperm(40 * 60)[:30]] = 20.0
    found = low_rank_and_sparse(low + sparse.reshape(40, 60), 3, 30, turns=60)
    torch.testing.assert_close(found.joined(), low + sparse.reshape(40, 60), atol=1e-6, rtol=1e-6)
    assert found.down.shape == (3, 60)
    assert int((found.sparse != 0).sum()) == 30


def test_the_error_never_rises(low_rank_and_sparse):
    matrix = torch.randn(30, 50, dtype=torch.float64)
    errors = [
        float((matrix - low_rank_and_sparse(matrix, 5, 100, turns=turns).joined()).norm()) for turns in (1, 2, 5)
    ]
    assert errors == sorted(errors, reverse=True)


def test_one_part_alone_is_the_best_of_its_kind(low_rank_and_sparse):
    matrix = torch.randn(30, 50, dtype=torch.float64)
    tail = torch.linalg.svdvals(matrix)[5:].norm()
    torch.testing.assert_close((matrix - low_rank_and_sparse(matrix, 5, 0).joined()).norm(), tail)
    smallest = matrix.abs().flatten().sort().values[:1000].norm()
    torch.testing.assert_close((matrix - low_rank_and_sparse(matrix, 0, 500).joined()).norm(), smallest)


@pytest.mark.parametrize(("rank", "entries", "turns"), [(31, 0, 1), (0, 1501, 1), (-1, 0, 1), (1, 1, 0)])
def test_what_cannot_be_is_refused(low_rank_and_sparse, rank, entries, turns):
    with pytest.raises(ValueError, match="no rank"):
        low_rank_and_sparse(torch.zeros(30, 50), rank, entries, turns=turns)
