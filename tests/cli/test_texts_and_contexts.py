"""Folders with a tokenizer: sentences in a table, and networks that take fewer tokens than are asked by default."""

import json
import random

import pytest
import torch

from tests.samples.command_line import one_error_line

WORDS = [f"w{number}" for number in range(95)]
CONTEXT = 16


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A classifier and a masked model that know words, and a decoder that knows bytes, all of a short context."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    home = tmp_path_factory.mktemp("words")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = Tokenizer(
        models.WordLevel({word: place for place, word in enumerate(special + WORDS)}, unk_token="[UNK]")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, **names)
    config = transformers.BertConfig(
        vocab_size=100,
        hidden_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=CONTEXT,
        num_labels=3,
    )
    torch.manual_seed(0)
    for name, kind in (("classes", "BertForSequenceClassification"), ("masked", "BertForMaskedLM")):
        getattr(transformers, kind)(config).save_pretrained(home / name)
        tokenizer.save_pretrained(home / name)
    small = transformers.GPT2Config(
        vocab_size=256, n_positions=CONTEXT, n_embd=48, n_layer=1, n_head=4, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(small).save_pretrained(home / "bytes")
    return home


def sentences(path, count=60):
    """Sentences of which some are longer than the context, with labels."""
    draw = random.Random(0)
    rows = [(" ".join(draw.choices(WORDS, k=draw.randrange(3, 20))), draw.randrange(3)) for _ in range(count)]
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows), encoding="utf-8")
    return rows


@pytest.mark.slow
@pytest.mark.traced
def test_sentences_of_a_table_are_what_the_library_s_own_loop_reads(run, folders, tmp_path):
    transformers = pytest.importorskip("transformers")
    rows = sentences(tmp_path / "s.csv")
    result = run("evaluate", folders / "classes", "--data", "csv:s.csv", "--json")
    assert result.returncode == 0, result.stderr
    assert f"Texts of more than {CONTEXT} tokens are cut." in result.stderr
    report = json.loads(result.stdout)["model"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders / "classes")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folders / "classes").eval()
    right = loss = 0.0
    with torch.no_grad():
        for text, label in rows:
            given = tokenizer(text, return_tensors="pt", truncation=True, max_length=CONTEXT)
            logits = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits
            right += float(logits.argmax() == label)
            loss += float(torch.nn.functional.cross_entropy(logits, torch.tensor([label])))
    assert report["accuracy"] == pytest.approx(right / len(rows))
    assert report["loss"] == pytest.approx(loss / len(rows), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ("masked", "bytes"))
def test_windows_are_no_longer_than_the_context(run, folders, tmp_path, name):
    text = " ".join(random.Random(1).choices(WORDS, k=400))
    (tmp_path / "words.txt").write_text(text, encoding="utf-8")
    result = run("evaluate", folders / name, "--data", "text:words.txt", "--json")
    assert result.returncode == 0, result.stderr
    tokens = len(text.split()) if name == "masked" else len(text)
    assert json.loads(result.stdout)["model"]["samples"] == tokens // CONTEXT


def test_what_has_no_tokenizer_says_so(run, folders, tmp_path):
    sentences(tmp_path / "s.csv")
    (tmp_path / "bare").mkdir()
    for file in ("config.json", "model.safetensors"):
        (tmp_path / "bare" / file).write_bytes((folders / "classes" / file).read_bytes())
    assert "there is no tokenizer in" in one_error_line(run("evaluate", "bare", "--data", "csv:s.csv"))
