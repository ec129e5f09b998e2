"""The card of a compressed folder, read by the library that the hub reads it with."""

import json

import pytest
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results

from rmt_compress.saving import model_card
from rmt_compress.saving.model_card import CardNumbers, CardScore, write_model_card

OLD = """---
license: other
license_name: research-only
license_link: LICENSE
language: [en, de]
datasets: [books]
tags: [text-generation, low-rank]
model-index:
- name: big
  results: []
---
# Big

It writes.
"""
EVIL = "x</h1><script>alert(1)</script> | [a](http://b) ![c](d) `e`"


@pytest.fixture
def folders(tmp_path):
    """A folder and what it was compressed into, by their config files; cards are copied before this one is made."""

    def _made(card=None, *, name="big", config=None):
        source, target = tmp_path / name, tmp_path / "small"
        for each in (source, target):
            each.mkdir(parents=True)
            (each / "config.json").write_text(json.dumps({"architectures": ["GPT2LMHeadModel"]} | (config or {})))
        if card is not None:
            (source / "README.md").write_text(card)
        return source, target

    return _made


def written(source, target, *, summary="It lost nothing."):
    numbers = [CardNumbers(f"accuracy of {EVIL}", "90.00%", "89.00%")]
    assert (
        write_model_card(target, source, summary=summary, numbers=numbers, method=["Layers: 3 factorized."]) is None
    )
    return ModelCard.load(target / "README.md")


def test_what_the_old_card_says_is_kept_but_its_scores(folders):
    card = written(*folders(OLD, config={"_name_or_path": "someone/big"}))
    data = card.data.to_dict()
    assert (data["license"], data["license_name"], data["license_link"]) == ("other", "research-only", "LICENSE")
    assert data["language"] == ["en", "de"]
    assert data["datasets"] == ["books"]
    assert data["tags"] == ["text-generation", "low-rank", "rmt-compress", "compressed"]
    assert data["base_model"] == "someone/big"
    assert data["library_name"] == "transformers"
    assert "model-index" not in data
    assert "That of the original: research-only." in card.text
    assert card.text.endswith("# Big\n\nIt writes.\n")
    assert 'model = GPT2LMHeadModel.from_pretrained("small")' in card.text


@pytest.mark.parametrize(
    ("old", "config", "data", "task", "name", "word"),
    (
        (OLD, {}, "text:/home/me/books/test.txt", "text-generation", "test.txt", "test.txt"),
        ("---\npipeline_tag: translation\n---\n", {}, "wmt", "translation", "wmt", "wmt"),
        (None, {"architectures": ["XForMaskedLM"]}, "/home/me/Photos 2", "fill-mask", "Photos 2", "photos-2"),
        (None, {"architectures": ["Own"]}, "my.data:test set", "other", "my.data:test set", "my.data-test-set"),
    ),
)
def test_what_was_measured_stands_as_the_hub_lists_results(folders, old, config, data, task, name, word):
    """Read back, and checked once more, by the library that the hub's own checks are in."""
    source, target = folders(old, config=config)
    score = CardScore("mean square error", 0.123456789, data, 1500)
    assert write_model_card(target, source, summary="", numbers=[], method=[], score=score) is None
    card = ModelCard.load(target / "README.md")
    (result,) = card.data.eval_results
    assert (card.data.model_name, card.data.metrics) == ("small", ["mean-square-error"])
    assert (result.task_type, result.dataset_name, result.dataset_type) == (
        task,
        f"{name}, 1,500 test samples",
        word,
    )
    assert (result.metric_type, result.metric_name) == ("mean-square-error", "mean square error")
    assert result.metric_value == pytest.approx(0.123456789, abs=1e-6)
    assert result.dataset_split == "test"
    again = metadata_load(target / "README.md")
    assert model_index_to_eval_results(again["model-index"]) == ("small", [result])
    assert "/home/me" not in (target / "README.md").read_text()


def test_names_are_text(folders):
    card = written(*folders(name="big `" + "x" * 10), summary=f"Made from {EVIL}.")
    assert "<script>" not in card.text.replace("\\<script\\>", "")
    row = next(line for line in card.text.splitlines() if "90.00%" in line)
    assert row.replace("\\|", "").count("|") == 4
    assert "](http" not in card.text.replace("\\](http", "")
    assert "`big 'xxxxxxxxxx`" in card.text
    assert "names none. Ask its authors" in card.text


@pytest.mark.parametrize(
    "card", ("---\nlicense: [\n---\nIt writes.", "---\n- a\n---\nIt writes.", "It writes.", "---")
)
def test_a_card_that_cannot_be_read_is_text(folders, card):
    made = written(*folders(card))
    assert made.data.to_dict()["tags"] == ["rmt-compress", "compressed", "low-rank"]
    assert made.text.rstrip().endswith(card.rpartition("\n")[2])


def test_a_download_is_called_as_on_the_hub(folders):
    source, target = folders(OLD, name="models--some--one--big/snapshots/0123abc")
    assert written(source, target).data.base_model == "some/one--big"
    assert "Made from `some/one--big`" in (target / "README.md").read_text()


def test_without_the_library_there_is_none_and_that_is_said(folders, monkeypatch):
    source, target = folders(OLD)
    monkeypatch.setattr(model_card, "find_spec", lambda name: None)
    why = write_model_card(target, source, summary="", numbers=[], method=[])
    assert "huggingface_hub (pip install 'rmt-compress[hf]')" in why
    assert not (target / "README.md").exists()
