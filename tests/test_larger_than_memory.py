"""Analysing with little memory, and going on where an interrupted analysis stopped."""

import json
import os
import threading

import pytest
import torch
from safetensors.torch import save_file

import rmt_compress as rmt
from rmt_compress.analysis import AnalysisSettings, RunSettings, memory_budget, without_torch
from rmt_compress.analysis import threads as schedule
from rmt_compress.analysis.analyzing import analyze_with
from rmt_compress.compression import compressed
from rmt_compress.errors import OutputError, SettingsError
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.pruning import road
from tests.samples.matrices import low_rank_plus_noise

ALL = AnalysisSettings(embeddings=True)


@pytest.fixture
def file(tmp_path):
    """Tall, wide, square, stacked, packed, of every type; one damaged, one of low rank, one a product."""
    damaged = torch.randn(9000, 40)
    damaged[7, 3] = float("nan")
    state = {
        "embed_tokens.weight": low_rank_plus_noise(9000, 70, 3).bfloat16(),
        "wide.weight": low_rank_plus_noise(70, 9000, 2).half(),
        "square.weight": low_rank_plus_noise(120, 120, 1),
        "double.weight": torch.randn(9000, 66, dtype=torch.float64),
        "mlp.experts.weight": torch.randn(4, 60, 50),
        "attn.in_proj_weight": torch.randn(180, 60),
        "conv.weight": torch.randn(40, 12, 3, 3),
        "nan.weight": damaged,
        "low.weight": (torch.randint(-3, 4, (9000, 3)) @ torch.randint(-3, 4, (3, 70))).float(),
        "zero.weight": torch.zeros(9000, 40),
        "lora.lora_A.weight": torch.randn(8, 64),
        "lora.lora_B.weight": torch.randn(64, 8),
    }
    save_file(state, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def tiny_program(monkeypatch):
    """Sizes then count the layers alone, and small ones go the way of large ones."""
    monkeypatch.setattr(memory_budget, "PROGRAM", 0)
    monkeypatch.setattr(without_torch, "_MOST_ENTRIES", 0)


def said(analysis):
    return json.dumps(analysis.to_json())


def same(found, expected, rel=1e-6):
    assert [(layer.tensor, layer.reason) for layer in found.layers] == [
        (layer.tensor, layer.reason) for layer in expected.layers
    ]
    for one, other in zip(found.analyzed, expected.analyzed, strict=True):
        assert one.fit.spikes == other.fit.spikes
        assert one.fit.gof == pytest.approx(other.fit.gof, abs=1e-6)
        assert one.singular_values == pytest.approx(other.singular_values, rel=rel)


def test_layers_that_do_not_fit_are_read_in_blocks_to_the_same_numbers(file, tiny_program, monkeypatch):
    expected = analyze_with(file, ALL)
    monkeypatch.setattr(memory_budget, "_need_in_blocks", lambda layer: 1)
    in_blocks = []
    original = schedule.analyze_in_blocks
    monkeypatch.setattr(
        schedule, "analyze_in_blocks", lambda layer, *rest: in_blocks.append(layer.tensor) or original(layer, *rest)
    )
    # A Gram matrix that is formed ahead would be that of a weight read whole.
    monkeypatch.setattr(schedule, "_plan", lambda work, jobs, threads: (0, True))
    found = analyze_with(file, ALL, RunSettings(jobs=2, max_memory=400_000))
    assert {
        "embed_tokens.weight",
        "wide.weight",
        "double.weight",
        "nan.weight",
        "low.weight",
        "zero.weight",
    } <= set(in_blocks)
    same(found, expected)
    by_name = {layer.tensor: layer for layer in found.layers}
    assert by_name["low.weight"].low_rank
    assert len(found.damaged) == 1
    half = [
        next(each for each in analysis.analyzed if each.tensor == "wide.weight") for analysis in (found, expected)
    ]
    # Of the short types the blocks are the slices that are converted of a tensor in memory.
    assert (half[0].singular_values == half[1].singular_values).all()


def test_what_does_not_fit_in_any_way_is_one_line(file, tiny_program):
    with pytest.raises(
        SettingsError,
        match=r"max-memory 1 MB: the program and .* may take .*; give as much, or leave the layer out \(--exclude",
    ):
        analyze_with(file, ALL, RunSettings(max_memory="1MB"))
    with pytest.raises(SettingsError, match="must be a size such as 4GB"):
        RunSettings(max_memory="much")


def test_the_program_itself_has_to_fit(file):
    with pytest.raises(SettingsError, match="max-memory 200 MB: the program alone takes 320 MB; give more"):
        rmt.analyze(file, max_memory="200MB")


@pytest.mark.parametrize(("room", "most"), ((3_000_000, 1), (7_000_000, 2), (10**9, 4)))
def test_no_more_layers_are_in_work_than_fit(room, most, tiny_program, monkeypatch, tmp_path):
    # Each takes 2.5 MB read whole: itself, two Gram matrices in float64 and what is converted.
    save_file({f"l{i}.weight": torch.randn(300, 300) for i in range(8)}, tmp_path / "m.safetensors")
    running, seen, lock, original = [0], [], threading.Lock(), schedule.analyze_layer

    def counted(*arguments):
        with lock:
            running[0] += 1
            seen.append(running[0])
        try:
            return original(*arguments)
        finally:
            with lock:
                running[0] -= 1

    monkeypatch.setattr(schedule, "analyze_layer", counted)
    monkeypatch.setattr(schedule, "_plan", lambda work, jobs, threads: (0, False))
    analyze_with(tmp_path / "m.safetensors", AnalysisSettings(), RunSettings(jobs=4, max_memory=room))
    assert max(seen) <= most
    assert len(seen) == 8


@pytest.mark.parametrize("noise", ("mp", "all"))
def test_an_interrupted_analysis_goes_on_to_the_same_bits(file, tmp_path, noise):
    asked = AnalysisSettings(exclude=("embed*", "wide", "double", "low"), noise=noise)
    expected = said(analyze_with(file, asked, RunSettings(jobs=2)))
    kept, told = tmp_path / "kept", []

    def stop(done, total, name):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze_with(file, asked, RunSettings(jobs=2, resume=kept), progress=stop)
    steps = []
    again = RunSettings(jobs=2, resume=kept, say=told.append)
    found = analyze_with(file, asked, again, progress=lambda *step: steps.append(step))
    assert told == [f"{kept}: 3 finished layers taken from it"]
    assert [done for done, _, _ in steps] == list(range(3, steps[0][1] + 1))
    assert steps[-1][2].bytes_done == steps[-1][2].bytes_in_all
    assert said(found) == expected
    assert said(analyze_with(file, asked, RunSettings(resume=kept))) == expected


def test_other_layers_may_be_chosen_and_other_settings_may_not(file, tmp_path):
    told = []
    rmt.analyze(file, resume=tmp_path / "kept", include=("square",))
    again = RunSettings(resume=tmp_path / "kept", say=told.append)
    few = analyze_with(file, AnalysisSettings(exclude=("conv",)), again)
    assert said(few) == said(rmt.analyze(file, exclude=("conv",)))
    analyze_with(file, AnalysisSettings(beta=0.2, include=("square",)), again)
    assert told == [
        f"{tmp_path / 'kept'}: 1 finished layer taken from it",
        f"{tmp_path / 'kept'} is begun anew: the settings changed since",
    ]


def test_no_checkpoint_is_taken_for_a_journal(file):
    before = file.read_bytes()
    with pytest.raises(OutputError, match="name another file"):
        rmt.analyze(file, resume=file)
    assert file.read_bytes() == before


@pytest.fixture
def cuttable(tmp_path):
    """Layers to cut, one of them packed, and some to keep."""
    state = {f"fc{i}.weight": low_rank_plus_noise(90, 120, i + 1) for i in range(4)}
    state |= {"attn.in_proj_weight": torch.randn(180, 60), "table.weight": torch.randn(400, 64)}
    save_file(state, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize(
    ("out", "cut"),
    (("out.safetensors", {}), ("out.pt", {"layout": "dense"}), ("out.safetensors", {"pack": "pivots"})),
)
def test_an_interrupted_prune_makes_the_same_file_and_no_factor_twice(cuttable, tmp_path, out, cut, monkeypatch):
    undisturbed = rmt.prune(cuttable, tmp_path / f"whole-{out}", **cut)
    kept, told, made, original = tmp_path / "kept", [], [], compressed.become

    def interrupted(read, steps):
        made.append(steps[0].layer.tensor)
        if made[-1] == "fc2.weight" and made.count("fc2.weight") == 1:
            raise KeyboardInterrupt
        return original(read, steps)

    monkeypatch.setattr(compressed, "become", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rmt.prune(cuttable, tmp_path / out, running=RunSettings(resume=kept), **cut)
    assert not (tmp_path / out).exists()
    again = RunSettings(resume=kept, say=told.append)
    result = rmt.prune(cuttable, tmp_path / out, running=again, **cut)
    assert [made.count(f"fc{number}.weight") for number in range(4)] == [1, 1, 2, 1]
    assert len(told) == 2
    assert f"{kept}.factors: 2 finished layers" in told[1]
    assert result.outcomes == undisturbed.outcomes
    assert (tmp_path / out).read_bytes() == (tmp_path / f"whole-{out}").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {cuttable.name, out, f"whole-{out}", "kept"}


def test_another_plan_voids_the_factors_and_not_the_layers(cuttable, tmp_path, monkeypatch):
    told = []
    with monkeypatch.context() as broken:
        broken.setattr(road, "write", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            rmt.prune(cuttable, tmp_path / "out.safetensors", running=RunSettings(resume=tmp_path / "kept"))
    rmt.prune(
        cuttable,
        tmp_path / "out.safetensors",
        plan=PlanSettings(keep_bulk=0.5),
        running=RunSettings(resume=tmp_path / "kept", say=told.append),
    )
    assert told == [
        f"{tmp_path / 'kept'}: 8 finished layers taken from it",
        f"{tmp_path / 'kept.factors'} is begun anew: the plan changed since",
    ]


def test_what_resumes_reads_weights_as_they_are_in_the_file(cuttable, tmp_path):
    with pytest.raises(SettingsError, match="leave --fold-batchnorm out"):
        rmt.prune(
            cuttable,
            tmp_path / "out.safetensors",
            running=RunSettings(resume=tmp_path / "kept"),
            fold_batchnorm=True,
        )


def test_a_weight_whose_cut_does_not_fit_is_one_line_and_its_analysis_is_kept(cuttable, tmp_path, monkeypatch):
    out, kept = tmp_path / "out.safetensors", tmp_path / "kept"
    with pytest.raises(
        SettingsError, match=r"the program and the cut of table\.weight .* may take 360 MB; give as much"
    ):
        rmt.prune(cuttable, out, running=RunSettings(resume=kept, max_memory="350MB"))
    assert not out.exists()
    roomy = RunSettings(resume=kept, max_memory="400MB")
    assert rmt.prune(cuttable, out, running=roomy).output == str(out)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="nothing to tell the system")
@pytest.mark.parametrize("jobs", (1, 2))
def test_what_is_read_next_is_told_to_the_system(cuttable, tmp_path, jobs, monkeypatch):
    told = []
    monkeypatch.setattr(os, "posix_fadvise", lambda file, start, length, advice: told.append((start, length)))
    monkeypatch.setattr(schedule, "_MOST_TOGETHER", 1)
    rmt.analyze(cuttable, jobs=jobs)
    # Of eight layers, three of them in one tensor, the first ones are read at once.
    assert len(told) == 8 - jobs
    told.clear()
    rmt.prune(cuttable, tmp_path / "out.safetensors", plan=rmt.make_plan(rmt.analyze(cuttable)))
    assert len(set(told)) == 6
