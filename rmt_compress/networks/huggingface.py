"""Hugging Face folders as networks: configuration, class and tokenizer are those the folder names.

The class is the one in ``architectures`` of ``config.json``, else the bare model that transformers has for its
``model_type``. Code that lies in the folder is run only where the checkpoint is trusted; the classes that we write
beside factorized weights are no such code, since the same ones are here. Weights go through the library's own
loading, which knows by what names it has saved them.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.config_file import CONFIG
from rmt_compress.checkpoints.free_memory import check_fits_memory
from rmt_compress.checkpoints.strict_json import parse_object
from rmt_compress.errors import CheckpointError, MissingDependencyError, UntrustedError
from rmt_compress.networks.computing_types import computing_type
from rmt_compress.saving.folder_code import MODULE
from rmt_compress.saving.folders import source_folder
from rmt_compress.wording import listed, one_line, problems_listed

if TYPE_CHECKING:
    from os import PathLike

    import torch
    from torch import nn

    from rmt_compress.checkpoints import Checkpoint
    from rmt_compress.progress import Progress

_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
)


def model_folder(checkpoint: Checkpoint) -> Path | None:
    """The folder of a checkpoint that transformers can tell the class of; None for every other one."""
    if checkpoint.path is None:
        return None
    folder = source_folder(checkpoint.path) or checkpoint.path.parent
    if not _config_of(folder).keys() & {"model_type", "architectures", "auto_map"}:
        return None
    return folder


def network_of(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    dtype: str | torch.dtype | None = None,
    progress: Progress | None = None,
) -> nn.Module:
    """The network in a Hugging Face folder, in evaluation mode on the CPU; layers stored as two stay two.

    Args:
        checkpoint: the weights.
        folder: where they lie, with a ``config.json``; see `model_folder`.
        dtype: what it computes in, as torch or its name; ``stored`` for what the file has. By default float32.
        progress: called after each tensor that is read.

    Raises:
        MissingDependencyError: transformers is not installed.
        UntrustedError: its class is code in the folder, and the checkpoint is not trusted.
        CheckpointError: no such class, or weights that are not those of the class; in one line.
        SettingsError: no such type.
    """
    from rmt_compress.saving.library_loading import build_from

    if find_spec("transformers") is None:
        raise MissingDependencyError("transformers", "hf", f"{folder}: running a Hugging Face folder")
    wanted = computing_type(checkpoint, dtype or "float32")
    raw = _config_of(folder)
    if "quantization_config" in raw:
        raise CheckpointError(
            f"{folder}: its weights are quantized, which is not run here; name the checkpoint they were made from"
        )
    config, cls = class_of(folder, trust=checkpoint.trusted)
    _check_size(folder, config, cls, wanted)
    loaded = build_from(checkpoint, cls, config, dtype=wanted, progress=progress)
    if loaded.problems:
        raise CheckpointError(
            f"{folder}: its weights are not those of {cls.__name__}, which {CONFIG} names: "
            f"{problems_listed(loaded.problems, 6)}; download both again, or name the right class in {CONFIG}"
        )
    network: nn.Module = loaded.model.eval()
    return network


def class_of(folder: Path, *, trust: bool) -> tuple[Any, Any]:
    """Configuration and class of the network in a folder.

    Args:
        folder: with a ``config.json``.
        trust: whether code that lies in the folder may be run.

    Raises:
        UntrustedError: either is code in the folder.
        CheckpointError: transformers knows no such network.
    """
    import transformers

    raw = _config_of(folder)
    own = raw.get("auto_map")
    # Ours builds on classes that are found without it.
    code = {
        auto: str(place)
        for auto, place in (own.items() if isinstance(own, dict) else ())
        if not str(place).startswith(f"{MODULE}.")
    }
    remote = {auto: place for auto, place in code.items() if auto == "AutoConfig" or auto.startswith("AutoModel")}
    names = [name for name in _texts(raw.get("architectures")) if name.isidentifier()]
    native = next((found for name in names if _is_network(found := getattr(transformers, name, None))), None)
    if native is None and not trust and (remote or isinstance(own, dict)):
        places = sorted({place.partition(".")[0] + ".py" for place in remote.values()}) or [f"{MODULE}.py"]
        raise UntrustedError(
            f"{folder}: its network is code in the folder ({listed(places)}), which is not run; if you trust it, "
            "add --trust (open_checkpoint(…, trust=True))"
        )
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust, local_files_only=True)
    except Exception as error:  # the library raises what it likes
        raise CheckpointError(_unknown(folder, raw, error)) from error
    if trust and (found := _class_in_folder(folder, own, names)) is not None:
        return config, found
    if native is not None:
        return config, native
    try:
        return config, transformers.AutoModel._model_mapping[type(config)]
    except (KeyError, AttributeError) as error:
        raise CheckpointError(_unknown(folder, raw, error)) from error


def tokenizer_of(folder: str | PathLike[str], *, trust: bool = False) -> Any:
    """The tokenizer that lies in a Hugging Face folder; None where there is none.

    Args:
        folder: the folder.
        trust: whether a tokenizer that is code in the folder may be run.

    Raises:
        MissingDependencyError: there is one, and transformers is not installed.
        CheckpointError: there is one that cannot be read, or is code in the folder and not trusted; in one line.
    """
    folder = Path(folder)
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        return None
    if find_spec("transformers") is None:
        raise MissingDependencyError("transformers", "hf", f"{folder}: its tokenizer")
    import transformers

    from rmt_compress.saving.library_loading import quiet

    try:
        with quiet():
            return transformers.AutoTokenizer.from_pretrained(
                folder, trust_remote_code=trust, local_files_only=True
            )
    except Exception as error:  # the library raises what it likes
        raise CheckpointError(f"{folder}: its tokenizer cannot be read: {one_line(error)[:300]}") from error


def _class_in_folder(folder: Path, auto_map: object, names: list[str]) -> Any:
    """The class in the folder's code: the one ``architectures`` names, else the first; None where there is none."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    places = [
        place
        for auto, place in (auto_map.items() if isinstance(auto_map, dict) else ())
        if auto.startswith("AutoModel") and isinstance(place, str)
    ]
    if not places or all(_is_ours_of_the_library(place) for place in places):
        return None
    named = [place for place in places if place.rpartition(".")[2] in names]
    place = (named or places)[0]
    try:
        return get_class_from_dynamic_module(place, folder, local_files_only=True)
    except Exception as error:  # a stranger's code raises what it likes
        raise CheckpointError(f"{folder}: its code ({place}) cannot be run: {one_line(error)[:300]}") from error


def _is_ours_of_the_library(place: str) -> bool:
    """Whether a class in ``auto_map`` is one of transformers' with layers in two."""
    import transformers

    module, _, name = place.rpartition(".")
    return module == MODULE and _is_network(getattr(transformers, name, None))


def _is_network(found: object) -> bool:
    import transformers

    return isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)


def _check_size(folder: Path, config: Any, cls: Any, dtype: torch.dtype) -> None:
    """Refuse a network that does not fit in memory; sizes in a config are a stranger's numbers."""
    import copy

    import torch

    try:
        with torch.device("meta"):
            blank = cls(copy.deepcopy(config))
    except (RuntimeError, NotImplementedError):  # a class that computes something from its own values
        return
    except Exception as error:  # the library raises what it likes
        raise CheckpointError(
            f"{folder}: {cls.__name__} takes no such {CONFIG}: {one_line(error)[:300]}"
        ) from error
    needed = sum(parameter.numel() for parameter in blank.parameters()) * dtype.itemsize
    check_fits_memory(needed, f"{folder}: the network {cls.__name__}")


def _unknown(folder: Path, raw: dict[str, Any], error: Exception) -> str:
    import transformers

    kind = raw.get("model_type")
    known = transformers.CONFIG_MAPPING
    if isinstance(kind, str) and kind in known:
        return (
            f"{folder}: transformers {transformers.__version__} cannot read its {CONFIG}: {one_line(error)[:300]}"
        )
    named = (
        f"model_type {kind!r}"
        if kind is not None
        else f"no model_type, but {listed(_texts(raw.get('architectures')))}"
    )
    return (
        f"{folder}: {CONFIG} names {named}, which transformers {transformers.__version__} does not know; "
        "update transformers, or add --arch package.module:callable, the network"
    )


def _config_of(folder: Path) -> dict[str, Any]:
    try:
        return dict(parse_object((folder / CONFIG).read_bytes()))
    except (OSError, ValueError):
        return {}


def _texts(value: object) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
