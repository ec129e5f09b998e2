"""Weights at the ends of their types, of no rank, of no condition, of every layout; several analyses at once."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from threadpoolctl import threadpool_limits

import rmt_compress as rmt
from rmt_compress.decomposition.blas_threads import _libraries, blas_threads
from rmt_compress.decomposition.kernels import TorchKernels
from rmt_compress.errors import CompressionError
from rmt_compress.spectrum import NumpyKernels, singular_values
from tests.samples.matrices import low_rank_plus_noise

NOISE = low_rank_plus_noise(100, 140, 3, size=4.0)
# Digits that do not depend on library, threads or layout; the fit needs 1e-4 of an eigenvalue.
SAME = 1e-5


def with_entry(value):
    matrix = NOISE.clone()
    matrix[3, 5] = value
    return matrix


def of_condition(exponent):
    u, v = (torch.linalg.qr(torch.randn(rows, 100, dtype=torch.float64))[0] for rows in (100, 140))
    return (u * torch.logspace(0, -exponent, 100, dtype=torch.float64)) @ v.T


# A weight -> its spikes, or why it is not analysed.
CASES = {
    "float16 near its largest": (lambda: torch.sign(NOISE).half() * 65504, 3),
    "float16 whose products overflow": (lambda: torch.Tensor.half(NOISE * 15000), 3),
    "float16 whose squares vanish": (lambda: torch.Tensor.half(NOISE * 1e-6), 3),
    "float16 below its smallest": (lambda: torch.Tensor.half(NOISE * 1e-7), "its bulk is zero"),
    "bfloat16 near its largest": (lambda: torch.Tensor.bfloat16(NOISE * 1e38), 3),
    "float32 whose squares overflow": (lambda: NOISE * 1e38, 3),
    "float32 below its smallest normal": (lambda: NOISE * 1e-40, 3),
    "float64 whose squares overflow": (lambda: NOISE.double() * 1e300, "squares of such numbers leave float64"),
    "float64 whose squares vanish": (lambda: NOISE.double() * 1e-310, "squares of such numbers leave float64"),
    "one NaN": (lambda: with_entry(torch.nan), "1 of its entries are NaN or Inf"),
    "one Inf": (lambda: with_entry(torch.inf), "1 of its entries are NaN or Inf"),
    "one -Inf": (lambda: with_entry(-torch.inf), "1 of its entries are NaN or Inf"),
    "all zero": (lambda: torch.zeros(100, 140), "rank 0 of 100"),
    "all the same": (lambda: torch.full((100, 140), 0.3), "rank 1 of 100"),
    "all eigenvalues the same": (lambda: 2 * torch.eye(100, 140), 0),
    "two values": (lambda: torch.sign(NOISE), 3),
    "condition 1e30": (lambda: of_condition(30), "rank 46 of 100"),
    "one row": (lambda: torch.ones(1, 140), "too few singular values"),
    "one column": (lambda: torch.ones(140, 1), "too few singular values"),
    "100,000 columns more than rows": (lambda: torch.randn(40, 100_040).half(), 0),
    "100,000 rows more than columns": (lambda: torch.randn(100_040, 40).half(), 0),
}


@pytest.mark.parametrize("case", CASES)
def test_every_weight_is_analysed_or_skipped_for_what_it_is(case):
    """Warnings are errors here: none is swallowed."""
    make, expected = CASES[case]
    weight = make()
    analysis = rmt.analyze({"fc.weight": weight}, jobs=1)
    json.dumps(analysis.to_json(), allow_nan=False)
    if isinstance(expected, str):
        assert [expected in layer.reason for layer in analysis.skipped] == [True]
        return
    (found,) = analysis.analyzed
    assert found.fit.spikes == expected
    if max(weight.shape) < 1000:
        exact = np.linalg.svd(weight.double().numpy(), compute_uv=False)
        assert found.singular_values[:75] == pytest.approx(exact[:75], rel=5e-5)


def test_a_cut_whose_entries_leave_the_type_is_refused_and_not_written_as_inf():
    state = {"fc.weight": (torch.sign(NOISE) * 65504).half()}
    plan = rmt.make_plan(rmt.analyze(state, gof=1.0), rule="rank:4")
    with pytest.raises(CompressionError, match=r"fc\.weight: at rank 4 .* too large for float16"):
        rmt.compress(state, plan, layout="dense")
    assert all(bool(part.isfinite().all()) for part in rmt.compress(state, plan).values())


def test_results_do_not_depend_on_layout_library_or_threads():
    weight = low_rank_plus_noise(100, 140, 3, size=4.0)
    strided = torch.zeros(200, 280)
    strided[::2, ::2] = weight
    layouts = {
        "rows": weight,
        "columns": weight.T.contiguous().T,
        "every other entry": strided[::2, ::2],
        "transposed": weight.T,
        "transposed columns": weight.T.contiguous(),
        "backwards and back": weight.flip(0).flip(0),
    }
    exact = np.linalg.svd(weight.double().numpy(), compute_uv=False)
    fits = {name: rmt.analyze({"fc.weight": each}, jobs=1).analyzed[0] for name, each in layouts.items()}
    for found in fits.values():
        assert found.fit.spikes == 3
        assert found.fit.sigma2 == pytest.approx(fits["rows"].fit.sigma2, rel=SAME)
        assert found.singular_values == pytest.approx(exact, rel=5e-5)
    for each in layouts.values():
        assert singular_values(each.numpy(), NumpyKernels())[:75] == pytest.approx(exact[:75], rel=SAME)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            with threadpool_limits(count, user_api="blas"):
                for numpy_from in (0, 10_000):  # numpy's library forms the Gram matrix, or torch's
                    values = singular_values(weight, TorchKernels(numpy_from=numpy_from))
                    assert values[:75] == pytest.approx(exact[:75], rel=SAME)
    finally:
        torch.set_num_threads(threads)


def blas_counts():
    return [library.get_num_threads() for library in _libraries(scipy=True)]


def test_threads_of_blas_are_given_back_whoever_leaves_first():
    with threadpool_limits(3, user_api="blas"):
        before = blas_counts()
        assert set(before) == {3}
        first, second = blas_threads(1), blas_threads(2)
        first.__enter__()
        second.__enter__()
        assert set(blas_counts()) == {1}
        first.__exit__(None, None, None)
        assert set(blas_counts()) == {2}
        second.__exit__(None, None, None)
        assert blas_counts() == before


def test_several_analyses_at_once_find_what_one_finds_and_leave_the_threads_as_they_were():
    state = {f"fc{number}.weight": low_rank_plus_noise(70, 90, 2, size=4.0) + number for number in range(3)}
    threads = torch.get_num_threads()
    together = threading.Barrier(4)

    def fits(jobs):
        return [(each.name, each.fit) for each in rmt.analyze(state, jobs=jobs).analyzed]

    def analyse(jobs):
        together.wait(300)
        return fits(jobs)

    with threadpool_limits(2, user_api="blas"):
        alone = {
            jobs: [(each.name, each.fit) for each in rmt.analyze(state, jobs=jobs).analyzed] for jobs in (1, 2)
        }
        before = blas_counts()
        with ThreadPoolExecutor(4) as pool:
            for jobs, found in zip((1, 2, 1, 2), pool.map(analyse, (1, 2, 1, 2)), strict=True):
                for (name, fit), (same, expected) in zip(found, alone[jobs], strict=True):
                    assert (name, fit.spikes) == (same, expected.spikes)
                    assert fit.sigma2 == pytest.approx(expected.sigma2, rel=SAME)
        assert blas_counts() == before
    assert torch.get_num_threads() == threads


@pytest.mark.slow
def test_several_processes_at_once_find_what_one_finds(python, tmp_path):
    state = {f"fc{number}.weight": low_rank_plus_noise(70, 90, 2, size=4.0) for number in range(2)}
    save_file(state, tmp_path / "model.safetensors")
    expected = {each.name: each.fit for each in rmt.analyze(state).analyzed}
    files = [(tmp_path / name).open("w+") for name in ("first", "second", "third")]
    command = ("-W", "error", "-m", "rmt_compress", "analyze", "model.safetensors", "--json")
    started = [python.start(*command, cwd=tmp_path, stdout=file) for file in files]
    for process, file in zip(started, files, strict=True):
        assert process.wait(300) == 0
        with file:
            file.seek(0)
            layers = json.load(file)["layers"]
        assert {layer["name"]: layer["spikes"] for layer in layers} == dict.fromkeys(expected, 2)
        for layer in layers:
            assert layer["sigma2"] == pytest.approx(expected[layer["name"]].sigma2, rel=SAME)
