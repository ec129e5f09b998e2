"""The model card of a compressed folder: what the hub's libraries read of it, and what a person does.

The front matter is that of the folder that was compressed, with its licence, languages and data, and names that
folder as the base model where it has a name on the hub. Scores that it claims are left out: they are another
network's; what was measured of this one takes their place (``model-index``). Below stand what was done, what was
measured, how to load the folder, and the old card.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.config_file import CONFIG
from rmt_compress.checkpoints.provenance import tool_version
from rmt_compress.checkpoints.strict_json import parse_object
from rmt_compress.outputs import replacing
from rmt_compress.saving.folder_code import MODULE
from rmt_compress.saving.folders import source_folder
from rmt_compress.wording import printable

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

CARD = "README.md"

_TAGS = ("rmt-compress", "compressed", "low-rank")
_ON_THE_HUB = re.compile(r"[\w.-]+/[\w.-]+")
# Of another network, or the hub's own.
_NOT_KEPT = ("model-index", "model_name", "eval_results", "metrics", "base_model_relation", "widget", "new_version")
# Endings of transformers' classes -> what the hub calls their task.
_TASKS = {
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForConditionalGeneration": "text2text-generation",
    "ForImageClassification": "image-classification",
    "ForAudioClassification": "audio-classification",
}
_LONGEST = 1_000_000
"""Characters of an old card that is kept."""


@dataclass(frozen=True)
class CardNumbers:
    """One row of the table: what it is, before and after, as text."""

    what: str
    before: str
    after: str


@dataclass(frozen=True)
class CardScore:
    """What was measured of the network that the card is of.

    Attributes:
        metric: its name, as people read it; the hub's list has it in one word.
        value: shares as numbers from 0 to 1.
        data: as after ``--data``; of a file its name is told, not where it lies.
        samples: how many were asked, of the test part.
    """

    metric: str
    value: float
    data: str
    samples: int


def write_model_card(
    folder: Path,
    source: Path,
    *,
    summary: str,
    numbers: Sequence[CardNumbers],
    method: Sequence[str],
    score: CardScore | None = None,
) -> str | None:
    """Write ``README.md`` into a folder that has been written, in one piece.

    Args:
        folder: the compressed folder.
        source: the folder it was made from, or its index.
        summary: what it has cost, in sentences.
        numbers: sizes and scores.
        method: what was done, a sentence each.
        score: of the compressed network; None where none was measured.

    Returns:
        why there is none; None where it was written.

    Raises:
        OutputError: it cannot be written.
    """
    if find_spec("huggingface_hub") is None:
        return "no model card was written: that needs huggingface_hub (pip install 'rmt-compress[hf]')"
    from huggingface_hub import ModelCardData

    origin = source_folder(source) or source.parent
    known, text = _old_card(origin / CARD)
    config = _config(folder)
    base = _base_model(origin, config, known)
    tags = known.get("tags") if isinstance(known.get("tags"), list) else []
    data = {key: value for key, value in known.items() if key not in _NOT_KEPT}
    data |= {"tags": list(dict.fromkeys([*(tags or []), *_TAGS]))}
    data |= {} if base is None else {"base_model": base}
    if "architectures" in config:
        data.setdefault("library_name", "transformers")
    if score is not None:
        data |= {"model_name": printable(folder.resolve().name), "eval_results": [_result(score, known, config)]}
        data |= {"metrics": [_word(score.metric)]}
    front = ModelCardData(**data).to_yaml().strip()
    made_from = f"`{_code(base or origin.resolve().name)}`"
    lines = [
        f"# {_said(folder.resolve().name)}",
        f"Made from {made_from} by rmt-compress {tool_version()}, which cuts the noise out of a network's weights.",
        _said(summary),
        _table(numbers),
        "## How to load it",
        _loading(folder, config),
        "## What was done",
        "\n".join(f"- {_said(sentence)}" for sentence in method),
        "The plan, with every layer's rank and the reason for it, stands in the weights' own metadata: "
        f"`rmt-compress show {_code(folder.name)}`.",
        "## Licence",
        _licence(known),
    ]
    if text:
        lines += ["## The card of what it was made from", text]
    with replacing(folder / CARD) as path:
        path.write_text(f"---\n{front}\n---\n\n" + "\n\n".join(lines) + "\n", encoding="utf-8")
    return None


def _result(score: CardScore, known: dict[str, Any], config: dict[str, Any]) -> EvalResult:
    """A score as the hub lists it."""
    from huggingface_hub import EvalResult

    named = config.get("architectures")
    name = str(named[0]) if isinstance(named, list) and named else ""
    task = known.get("pipeline_tag")
    if not isinstance(task, str):
        task = next((task for ending, task in _TASKS.items() if name.endswith(ending)), "other")
    # Where a file lies is nobody's business but its owner's.
    data = printable(Path(score.data).name if "/" in score.data else score.data)
    return EvalResult(
        task_type=printable(task),
        dataset_name=f"{data}, {score.samples:,} test samples",
        dataset_type=_word(data),
        dataset_split="test",
        metric_type=_word(score.metric),
        metric_name=printable(score.metric),
        metric_value=float(f"{score.value:.6g}"),
    )


def _word(text: str) -> str:
    """A name as one word, as the hub's identifiers are."""
    return re.sub(r"[^\w.-]+", "-", printable(text).lower()).strip("-") or "unnamed"


def _old_card(path: Path) -> tuple[dict[str, Any], str]:
    """The front matter and the text of the card that was copied; empty where there is none that can be read."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}, ""
    if len(text) > _LONGEST:
        return {}, ""
    if not text.startswith("---"):
        return {}, text.strip()
    try:
        card = ModelCard(text, ignore_metadata_errors=True)
    except (ValueError, YAMLError, RecursionError):
        return {}, text.strip()
    return dict(card.data.to_dict()), card.text.strip()


def _config(folder: Path) -> dict[str, Any]:
    try:
        return parse_object((folder / CONFIG).read_bytes())
    except (OSError, ValueError):
        return {}


def _base_model(origin: Path, config: dict[str, Any], known: dict[str, Any]) -> Any:
    """The name on the hub of what was compressed, else of what that was made from; None where nothing says it."""
    snapshot = origin.absolute()
    if snapshot.parent.name == "snapshots" and snapshot.parent.parent.name.startswith("models--"):
        return snapshot.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
    name = config.get("_name_or_path")
    if isinstance(name, str) and _ON_THE_HUB.fullmatch(name):
        return name
    return known.get("base_model")


def _loading(folder: Path, config: dict[str, Any]) -> str:
    """Lines of Python that load the folder, as it was written."""
    named = config.get("architectures")
    name = named[0] if isinstance(named, list) and named and str(named[0]).isidentifier() else None
    own = config.get("auto_map")
    if (folder / f"{MODULE}.py").is_file() and isinstance(own, dict):
        kinds = [auto for auto, place in own.items() if str(place).rpartition(".")[2] == name]
        auto = next((kind for kind in [*kinds, *own] if kind.startswith("AutoModel")), "AutoModel")
        loaded = f'{auto}.from_pretrained("{_code(folder.name)}", trust_remote_code=True)'
        why = f"Its layers are stored as two thin ones, which the classes in `{MODULE}.py` beside the weights join."
        return f"```python\nfrom transformers import {auto}\n\nmodel = {loaded}\n```\n\n{why}"
    if any(folder.glob("factorized*.safetensors")):
        lines = f'state = rmt.load_dense("{_code(folder.name)}")  # the original names and shapes'
        return f"```python\nimport rmt_compress as rmt\n\n{lines}\n```"
    auto = name or "AutoModel"
    lines = f'from transformers import {auto}\n\nmodel = {auto}.from_pretrained("{_code(folder.name)}")'
    return f"```python\n{lines}\n```\n\nNames and shapes of its weights are the original ones."


def _licence(known: dict[str, Any]) -> str:
    named = known.get("license_name") or known.get("license")
    if isinstance(named, list):
        named = ", ".join(map(str, named))
    if named is None:
        return "The card of the original names none. Ask its authors before you give this on."
    return f"That of the original: {_said(str(named))}."


def _table(numbers: Sequence[CardNumbers]) -> str:
    rows = [f"| {_cell(each.what)} | {_cell(each.before)} | {_cell(each.after)} |" for each in numbers]
    return "\n".join(("| | before | after |", "|---|--:|--:|", *rows))


def _said(text: str) -> str:
    """A text that may hold a stranger's name, with nothing in it that is HTML, a link or a picture."""
    return re.sub(r"([\\`*\[\]<>])", r"\\\1", printable(text))


def _cell(text: str) -> str:
    return _said(text).replace("|", "\\|")


def _code(text: str) -> str:
    """The same between backticks, and in a string of Python."""
    return json.dumps(printable(text), ensure_ascii=False)[1:-1].replace("`", "'")
