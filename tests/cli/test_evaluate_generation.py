"""`evaluate --generate`: tokens per second of language models, in the table and in JSON."""

import json

import pytest

from rmt_compress.planning.settings import PlanSettings
from rmt_compress.pruning.road import prune
from tests.samples.command_line import one_error_line
from tests.samples.repository import DIGITS
from tests.samples.transformers_models import built

pytest.importorskip("transformers")


@pytest.fixture
def book(tmp_path):
    (tmp_path / "book.py").write_text(
        "import torch\n\n\ndef ids():\n    yield {'input_ids': torch.arange(64).view(4, 16)}\n"
    )
    return "book.py:ids"


@pytest.mark.slow
@pytest.mark.traced
def test_both_networks_in_table_and_json(run, tmp_path, book):
    built("llama").save_pretrained(tmp_path / "llama")
    prune(tmp_path / "llama", tmp_path / "small", plan=PlanSettings(rule="rank:12"))
    words = ("evaluate", "small", "--against", "llama", "--data", book, "--task", "causal")
    result = run(*words, "--generate", "3", "--prompt", "5")
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["small", "llama", "change"] in rows
    for verb, count in (("reading", "5"), ("writing", "3")):
        (row,) = (row for row in rows if row[:5] == ["tokens", "a", "second,", verb, count])
        assert all(int(number.replace(",", "")) > 0 for number in row[5:7])
    report = json.loads(run(*words, "--generate", "30", "--json").stdout)
    for side in ("model", "against"):
        speed = report[side]["generation"]
        # 64 places, of which 30 are to be written.
        assert (speed["prompt"], speed["written"], speed["batch"]) == (34, 30, 1)
        assert min(speed["prefill"], speed["decode"], speed["first_token_ms"]) > 0
    assert "generation" not in json.loads(run(*words, "--json").stdout)["model"]


def test_what_cannot_write_is_one_line(run, tmp_path, book):
    line = one_error_line(run("evaluate", DIGITS, "--data", "digits", "--generate", "4"))
    assert line.startswith(f"error: {DIGITS}: cannot write text: ")
    assert line.endswith("leave --generate out")
    built("bert").save_pretrained(tmp_path / "bert")
    line = one_error_line(run("evaluate", "bert", "--data", book, "--task", "agreement", "--generate", "4"))
    assert "bert" in line
    assert "cannot write text" in line
    assert "--generate N" in one_error_line(run("evaluate", DIGITS, "--data", "digits", "--prompt", "4"))
