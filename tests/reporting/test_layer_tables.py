"""Tables of layers: every row tells its layer, however little room there is."""

import io
import itertools
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from rmt_compress.reporting.layer_names import (
    block,
    blocks_named,
    common_prefix,
    names_in,
    network_order,
    sentence,
    sentences_merged,
)
from rmt_compress.reporting.layer_table import Column, LayerTable

LLAMA = [
    f"model.layers.{index}.{part}"
    for index in range(32)
    for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
]
T5 = [
    f"{side}.block.{index}.layer.0.SelfAttention.{part}"
    for side in ("encoder", "decoder")
    for index in range(12)
    for part in "qkvo"
]
BERT = [
    f"bert.encoder.layer.{index}.attention.self.{part}" for index in range(12) for part in ("query", "key", "value")
]


def test_blocks_come_in_the_order_of_their_numbers():
    names = ["head", "layers.10.up", "layers.2.up", "norm", "layers.2.down", "layers.10.down"]
    assert [names[i] for i in network_order(names)] == [
        "head",
        "layers.2.up",
        "layers.2.down",
        "layers.10.up",
        "layers.10.down",
        "norm",
    ]


def test_a_block_cut_by_a_shard_is_in_the_order_of_the_others():
    names = ["layers.0.down", "layers.0.up", "layers.1.up", "layers.1.down"]
    assert [names[i] for i in network_order(names)] == sorted(names)


@pytest.mark.parametrize("names", [LLAMA, T5, BERT, ["fc1", "fc2"], ["conv1", "layer1.0.conv1", "fc"]])
def test_the_order_of_a_network_stays(names):
    assert network_order(names) == list(range(len(names)))


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (["a.b.x", "a.b.y"], "a.b."),
        (["a.bc", "a.bd"], "a."),
        (["ab", "ac"], ""),
        (["a.b", "a.b.c"], "a."),
        (["a.b"], ""),
        (["a.b", "a.b"], ""),
        ([], ""),
    ],
)
def test_common_prefix(names, prefix):
    assert common_prefix(names) == prefix


@pytest.mark.parametrize("names", [LLAMA, T5, BERT, [*LLAMA, "lm_head"]])
@pytest.mark.parametrize("width", [14, 16, 20, 26, 33, 60])
def test_names_fit_and_differ(names, width):
    prefix, shown = names_in(width, names)
    assert len(set(shown)) == len(names)
    if width >= 26:
        assert max(map(len, shown)) <= width
    for name, short in zip(names, shown, strict=True):
        pattern = ".*".join(map(re.escape, short.split("…")))
        assert re.fullmatch(re.escape(prefix) + pattern, name)


def test_what_distinguishes_is_shown():
    assert names_in(44, BERT) == ("", BERT)
    prefix, shown = names_in(30, BERT)
    assert (prefix, shown[0]) == ("bert.encoder.layer.", "0.attention.self.query")
    _, shown = names_in(18, BERT)
    assert shown[4] == "1.attent….self.key"
    assert names_in(28, T5)[1][4] == "encoder.blo….1.lay….0.Sel….q"


def test_folded_names_and_sentences():
    assert block("layers.7.mlp.fc1") == "layers.*.mlp.fc1"
    assert blocks_named(["layers.2.up", "layers.10.up", "layers.3.up"]) == "layers.2–10.up"
    assert blocks_named(["layers.2.up"]) == "layers.2.up"
    texts = ["rank 3 of 64: 3 spikes (1,024 of 4,096)", "rank 12 of 64: 12 spikes (2,048 of 4,096)"]
    assert len({sentence(text) for text in texts}) == 1
    assert sentences_merged(texts) == "rank 3–12 of 64: 3–12 spikes (1,024–2,048 of 4,096)"
    assert sentence("fit error 0.12 is above 0.1") != sentence("rank 3 of 64")


COLUMNS = (Column("matrix", 1), Column("verdict", 9, right=False), Column("spikes", 5), Column("σ̂²", 2, plain="s2"))


def printed(table, width, **options):
    file = io.StringIO()
    Console(file=file, width=width, **options).print(table)
    return file.getvalue()


@pytest.mark.parametrize("names", [LLAMA, T5, BERT])
@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_every_row_tells_its_layer(names, width):
    rows = [["4096×4096", "noise", f"{index}/4096", "0.000123"] for index in range(len(names))]
    lines = printed(LayerTable("x.pt", names, COLUMNS, rows), width).splitlines()
    assert max(map(cell_len, lines)) <= width
    found = [line for line in lines if "noise" in line]
    assert len(found) == len(names)
    layers = {line.split()[0] for line in found}
    assert len(layers) == len(names) or width == 40  # there a name takes two lines


def test_the_important_columns_stay():
    rows = [["4096×4096", "noise", "3/4096", "0.000123"]] * len(BERT)
    shown = {
        width: [
            c.heading
            for c in COLUMNS
            if c.heading in printed(LayerTable("", BERT, COLUMNS, rows), width).split("─")[0]
        ]
        for width in (30, 36, 80)
    }
    assert shown[80] == [c.heading for c in COLUMNS]
    assert all("verdict" in headings for headings in shown.values())
    for less, more in itertools.pairwise(shown.values()):
        assert set(less) <= set(more)
    assert "no room here for: matrix" in " ".join(printed(LayerTable("", BERT, COLUMNS, rows), 40).split())


def test_a_strangers_text_is_no_markup():
    text = printed(LayerTable("exp[/1].pt :dog:", [":dog:[/x]"], (Column("why", 1, words=True),), [["a"]]), 60)
    assert "exp[/1].pt :dog:" in text
    assert ":dog:[/x]" in text
