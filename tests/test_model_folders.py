"""Folders of a small transformer built from a config: loaded by transformers, and by the lines in the docs."""

import errno
import json
import os
import re
import shutil
from collections import namedtuple

import pytest
import torch
from safetensors.torch import load_file

import rmt_compress as rmt
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.compression import Compressed
from rmt_compress.errors import CheckpointError, OutputError
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.pruning.road import prune
from rmt_compress.saving.folders import write_folder
from tests.samples.repository import REPOSITORY
from tests.samples.seeds import repeatable

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("few_tokens")
DOCS = REPOSITORY / "docs" / "huggingface.md"
RANK = PlanSettings(rule="rank:12")


@pytest.fixture(scope="module")
@repeatable
def model():
    """A GPT-2 whose head is tied to its table."""
    config = transformers.GPT2Config(
        n_layer=2, n_head=2, n_embd=64, vocab_size=100, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config).eval()


@pytest.fixture(params=("one file", "shards", "shards of torch.save"))
def folder(request, model, tmp_path):
    """As `save_pretrained` and downloads leave it: config, tokenizer files, a card, and things to leave alone."""
    path = tmp_path / "gpt"
    limit = "1GB" if request.param == "one file" else "150KB"
    model.save_pretrained(path, max_shard_size=limit)
    if request.param == "shards of torch.save":
        index = json.loads((path / "model.safetensors.index.json").read_text())
        for name in set(index["weight_map"].values()):
            torch.save(
                load_file(path / name), path / name.replace("safetensors", "bin").replace("model", "pytorch_model")
            )
            (path / name).unlink()
        index["weight_map"] = {
            key: name.replace("safetensors", "bin").replace("model", "pytorch_model")
            for key, name in index["weight_map"].items()
        }
        (path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        (path / "model.safetensors.index.json").unlink()
    (path / "tokenizer.json").write_text('{"version": "1.0"}')
    (path / "README.md").write_text("A card.")
    (path / "tf_model.h5").write_bytes(b"another format")
    (path / ".cache").mkdir()
    return path


@pytest.fixture
def ids():
    return torch.randint(0, 100, (2, 16))


def outputs(model, ids):
    with torch.no_grad():
        return model(ids).logits


def expected(model, ids):
    """Outputs of the live model compressed by the same rule."""
    plan = rmt.make_plan(rmt.analyze(model), rule="rank:12")
    return outputs(rmt.compress(model, plan, layout="dense"), ids)


def test_dense_folders_are_loaded_by_from_pretrained(folder, model, ids, tmp_path):
    result = prune(folder, tmp_path / "small", plan=RANK, layout="dense")
    assert result.output == str(tmp_path / "small")
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    for name in ("config.json", "tokenizer.json"):
        assert (tmp_path / "small" / name).read_bytes() == (folder / name).read_bytes()
    assert (tmp_path / "small" / "README.md").read_text().endswith("\n\nA card.\n")
    loaded, report = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "small", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(outputs(loaded.eval(), ids), expected(model, ids), atol=1e-5, rtol=1e-5)
    assert loaded.lm_head.weight is loaded.transformer.wte.weight


def test_factorized_folders_are_loaded_by_the_lines_in_the_docs(folder, model, ids, tmp_path, monkeypatch):
    result = prune(folder, tmp_path / "small", plan=RANK)
    assert result.bytes_out < result.bytes_in / 2
    code = re.search(r"```python\n(# With neither.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
    assert code is not None
    lines = [line for line in code[1].splitlines() if line and not line.startswith(("#", "import", "from"))]
    assert len(lines) <= 10
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(code[1], namespace)
    torch.testing.assert_close(outputs(namespace["model"], ids), expected(model, ids), atol=1e-5, rtol=1e-5)
    again = rmt.load(tmp_path / "small", model=transformers.GPT2LMHeadModel(model.config).eval())
    torch.testing.assert_close(outputs(again, ids), expected(model, ids), atol=1e-5, rtol=1e-5)
    # Never half a model with random layers.
    with pytest.raises(OSError, match=r"no file named .*model\.safetensors"):
        transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "small")


@pytest.mark.parametrize("layout", ("dense", "factorized"))
def test_more_than_one_file(model, ids, tmp_path, layout):
    """As for models beyond 5 GB, with a smaller limit; some weights sparse."""
    model.save_pretrained(tmp_path / "gpt")
    target = tmp_path / "small"
    with open_checkpoint(tmp_path / "gpt") as checkpoint:
        plan = rmt.make_plan(rmt.analyze(checkpoint), rule="rank:12", sparsity=0.9)
        written = write_folder(
            Compressed(checkpoint, plan, layout=layout), target, source=tmp_path / "gpt", max_shard=30_000
        )
    stem = "model" if layout == "dense" else "factorized"
    files = sorted(target.glob("*.safetensors"))
    assert len(files) > 2
    assert files[0].name == f"{stem}-00001-of-{len(files):05}.safetensors"
    assert written.bytes == sum(file.stat().st_size for file in files)
    dense = rmt.compress(model, plan, layout="dense" if layout == "dense" else "factorized")
    if layout == "dense":
        loaded = transformers.GPT2LMHeadModel.from_pretrained(target)
    else:
        assert written.sparse
        loaded = rmt.load(target, model=transformers.GPT2LMHeadModel(model.config))
    torch.testing.assert_close(outputs(loaded.eval(), ids), outputs(dense, ids), atol=1e-5, rtol=1e-5)
    with open_checkpoint(target) as checkpoint:
        assert checkpoint.manifest.layout == layout
        assert checkpoint.manifest.source.name == "model.safetensors"
        assert "Compressed by rmt-compress" in checkpoint.notes[-1]
    original, multiplied = model.state_dict(), rmt.load_dense(target)
    assert {name: tensor.shape for name, tensor in multiplied.items()} == {
        name: tensor.shape for name, tensor in original.items() if name != "lm_head.weight"
    }
    with pytest.raises(CheckpointError, match="is compressed already"):
        prune(target)


def test_a_manifest_that_does_not_fit_the_files_makes_an_ordinary_folder(model, tmp_path):
    model.save_pretrained(tmp_path / "gpt")
    with open_checkpoint(tmp_path / "gpt") as checkpoint:
        plan = rmt.make_plan(rmt.analyze(checkpoint), rule="rank:12")
        write_folder(Compressed(checkpoint, plan), tmp_path / "small", source=tmp_path / "gpt", max_shard=30_000)
    index = tmp_path / "small" / "factorized.safetensors.index.json"
    text = index.read_text()
    index.write_text(text.replace('\\"rank\\":12', '\\"rank\\":11'))
    with open_checkpoint(tmp_path / "small") as checkpoint:
        assert checkpoint.manifest is None
        assert "Another program has changed the file" in checkpoint.notes[-1]
    index.write_text(text.replace("rmt-compress/manifest/1", "rmt-compress/manifest/9"))
    with pytest.raises(CheckpointError, match="its manifest is damaged or newer"):
        open_checkpoint(tmp_path / "small")


@pytest.fixture
def saved(model, tmp_path):
    model.save_pretrained(tmp_path / "gpt")
    return tmp_path / "gpt"


def test_the_default_is_a_folder_beside_and_a_file_name_gives_a_file(saved, tmp_path):
    assert prune(saved, plan=RANK).output == str(tmp_path / "gpt-pruned")
    assert (tmp_path / "gpt-pruned" / "factorized.safetensors").is_file()
    prune(saved, tmp_path / "one.safetensors", plan=RANK)
    assert (tmp_path / "one.safetensors").is_file()
    with pytest.raises(OutputError, match="must end in"):
        prune(saved, tmp_path / "one.h5", plan=RANK)


def test_outputs_that_would_destroy_something_are_refused(saved, tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.tex").write_text("years of work")
    (tmp_path / "plain").write_text("a file")
    for target, force, message in (
        (saved, True, "the output is the input"),
        (saved / "inside", True, "lies in the other"),
        (tmp_path, True, "lies in the other"),
        (taken, False, "not empty"),
        (taken, True, "not replaced, even with --force"),
        (tmp_path / "plain", True, "is a file"),
        (tmp_path / "no" / "where", True, "does not exist"),
    ):
        with pytest.raises(OutputError, match=message):
            prune(saved, target, plan=RANK, force=force)
    assert (taken / "thesis.tex").read_text() == "years of work"


def test_with_force_an_older_model_is_replaced_as_a_whole(saved, tmp_path):
    target = tmp_path / "small"
    prune(saved, target, plan=RANK)
    (target / "stale.json").write_text("{}")
    with pytest.raises(OutputError, match="not empty"):
        prune(saved, target, plan=RANK)
    prune(saved, target, plan=RANK, layout="dense", force=True)
    assert {path.name for path in target.iterdir()} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }
    assert {path.name for path in tmp_path.iterdir()} == {"gpt", "small"}


def test_nothing_is_left_where_it_fails(saved, tmp_path, monkeypatch):
    target = tmp_path / "small"
    prune(saved, target, plan=RANK)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
        with pytest.raises(OutputError, match=r"small: needs up to .* 1 are free"):
            prune(saved, target, plan=RANK, force=True)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(OutputError, match="small: cannot be written: No space left"):
            prune(saved, target, plan=RANK, force=True)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"gpt", "small"}
