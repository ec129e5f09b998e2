"""What `from_pretrained` needs to load a factorized folder by itself: classes, and their names in ``config.json``.

``modeling_factorized.py`` is the module of this name in `rmt_compress.layers`; ``config.json`` gets
``auto_map``, what class each of transformers' Auto classes finds there, and ``factorized``, which layers
are stored as two. Where a folder
brings code of its own, its classes with layers in two stand at the end of the module.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress import layers
from rmt_compress.checkpoints.config_file import CONFIG
from rmt_compress.checkpoints.strict_json import parse_object
from rmt_compress.layers.kinds import KINDS

if TYPE_CHECKING:
    from rmt_compress.checkpoints.manifest import Manifest

MODULE = "modeling_factorized"
"""Name of the module beside the weights, and of the one here that it is a copy of."""


def factorized_entry(manifest: Manifest | None) -> dict[str, Any]:
    """What ``config.json`` says under ``factorized``; see `modeling_factorized`."""
    split = manifest.factorized if manifest is not None else ()
    stacked = [layer.weight for layer in split if KINDS[layer.kind].stacked]
    return {
        "layers": {layer.weight: layer.rank for layer in split},
        "transposed": [
            layer.weight for layer in split if KINDS[layer.kind].outputs and layer.weight not in stacked
        ],
        "stacked": stacked,
        "shared": dict(manifest.ties) if manifest is not None else {},
    }


def add_code(folder: Path, manifest: Manifest) -> str | None:
    """Write the classes into a folder that is about to be given out, and name them in its ``config.json``.

    Returns:
        why that was not done, for a folder that transformers would know otherwise; None where it was, and where
        nothing says that the folder is one of transformers'.
    """
    try:
        config = parse_object((folder / CONFIG).read_bytes())
    except (OSError, ValueError):
        return None
    kind, named = config.get("model_type"), config.get("architectures")
    if not isinstance(kind, str) or not isinstance(named, list):
        return None
    if "quantization_config" in config:
        return _left_out("the other weights are quantized")
    own_module = folder / f"{MODULE}.py"
    if own_module.exists() and "factorized" in config:
        # The folder was factorized before, and its classes ask for nothing but what is stored as two.
        config["factorized"] = factorized_entry(manifest)
        (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return None
    if own_module.exists():
        return _left_out(f"its {MODULE}.py is another one")
    own = config.get("auto_map")
    auto_map = dict(own) if isinstance(own, dict) else {}
    lines: list[str] = []
    if any(name.startswith("AutoModel") for name in auto_map):
        classes, lines = _built_upon(auto_map)
        if not classes:
            return _left_out("its code is in another repository")
    elif find_spec("transformers") is None:
        return _left_out("transformers is not installed: pip install 'rmt-compress[hf]'")
    else:
        classes = _classes_of(kind, [name for name in named if isinstance(name, str)])
        if not classes:
            return _left_out(f"the installed transformers knows no {kind}")
    source = Path(layers.__file__).with_name(f"{MODULE}.py").read_text(encoding="utf-8")
    (folder / f"{MODULE}.py").write_text("\n".join((source, *lines)), encoding="utf-8")
    config["auto_map"] = auto_map | {auto: f"{MODULE}.{name}" for auto, name in classes.items()}
    config["factorized"] = factorized_entry(manifest)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return None


def _left_out(why: str) -> str:
    return f"from_pretrained cannot load the new folder by itself ({why}); see docs/huggingface.md"


def _classes_of(kind: str, named: list[str]) -> dict[str, str]:
    """Auto class -> class, for every one that transformers has for a model of this kind."""
    from transformers.models.auto import modeling_auto

    found = {}
    for auto, each in vars(modeling_auto).items():
        if not auto.startswith("AutoModel") or not hasattr(each, "_model_mapping"):
            continue
        names = each._model_mapping._model_mapping.get(kind)
        if names is not None:
            choice = (names,) if isinstance(names, str) else tuple(names)
            found[auto] = next((name for name in choice if name in named), choice[0])
    return found


def _built_upon(auto_map: dict[str, Any]) -> tuple[dict[str, str], list[str]]:
    """The same of a folder's own classes, and the lines that make them; none where they are somewhere else."""
    classes: dict[str, str] = {}
    lines: list[str] = []
    for auto, place in auto_map.items():
        module, _, name = str(place).rpartition(".")
        if not auto.startswith("AutoModel") or not (module.isidentifier() and name.isidentifier()):
            continue
        if name not in classes.values():
            lines += ["", f"from .{module} import {name} as Whole{name}  # noqa: E402", ""]
            lines += [f"{name} = factorized(Whole{name})", ""]
        classes[auto] = name
    return classes, lines
