"""Transformers' classes with some of their layers in two thin ones.

A copy of this file lies beside the weights of every factorized folder, and
``AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`` runs it. It needs torch, safetensors and
transformers (4.46 or later) and nothing else. ``modeling_factorized.LlamaForCausalLM`` is transformers' class with
layers in two, and so is every other name here that transformers has a model for.

``config.json`` says under ``factorized`` which weights are stored as two: ``layers``, name of the weight -> rank;
``transposed``, those of them that stand the other way round in their file (GPT-2's Conv1D, transposed
convolutions); ``stacked``, those with one matrix per expert; ``shared``, other name of a tensor -> the name it is
stored under. The product of the two is the weight of the original network to the rounding of one multiplication.

Where a layer has one name in the file and in the class, the two thin layers are there before anything is loaded.
The library may have given it another name, or have joined several weights in one: then it gets the product, puts
it where it belongs, and whatever layer then holds it becomes two. What no single layer holds stays a product.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D
from transformers.utils.hub import cached_file

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_SETTINGS = (
    *("in_features", "out_features", "in_channels", "out_channels", "nf", "nx", "groups"),
    *("kernel_size", "stride", "padding", "dilation", "output_padding", "padding_mode"),
)
_SPLITTABLE = (nn.Linear, Conv1D, *_CONVOLUTIONS, *_TRANSPOSED)

# The first that is there counts: as written beside this file, as the classes here save, as all others do.
_FILES = (
    "factorized.safetensors",
    "factorized.safetensors.index.json",
    "model.factorized.safetensors",
    "model.safetensors.index.factorized.json",
    "model.safetensors",
    "model.safetensors.index.json",
)
_HUB_OPTIONS = ("cache_dir", "force_download", "proxies", "token", "revision", "local_files_only", "subfolder")

_NO_CONFIGURATION = {"dtype", "torch_dtype", "attn_implementation", "quantization_config", "generation_config"}


class Factors(nn.Sequential):
    """Two layers in the place of one, `down` and then `up`, with what a network may ask that one for."""

    def __init__(self, down: nn.Module, up: nn.Module, whole: nn.Module) -> None:
        super().__init__()
        self.down, self.up = down, up
        self._kind: type[nn.Module] = type(whole)
        for name in _SETTINGS:
            if hasattr(whole, name):
                setattr(self, name, getattr(whole, name))

    @property
    def swaps(self) -> bool:
        """Whether the weight that the two stand for is stored with its inputs first."""
        return self._kind is Conv1D or self._kind in _TRANSPOSED

    @property
    def weight(self) -> torch.Tensor:
        """The weight that the two stand for."""
        factors = product(_weight(self.down), _weight(self.up), transposed=self.swaps)
        return (factors.left @ factors.right).view(factors.shape)

    @property
    def bias(self) -> torch.Tensor | None:
        """The bias, which the second one has."""
        return self.up.bias  # type: ignore[return-value]  # a layer's, which the stubs take for a module too


class Product(NamedTuple):
    """A weight as `left` (rows, r) times `right` (r, columns), its first axis the rows; or a stack of such."""

    left: torch.Tensor
    right: torch.Tensor
    shape: tuple[int, ...]

    def whole(self) -> torch.Tensor:
        """The weight, multiplied in float32 at least, in the type of its factors."""
        dtype = torch.promote_types(self.left.dtype, torch.float32)
        return (self.left.to(dtype) @ self.right.to(dtype)).to(self.left.dtype).reshape(self.shape)


def product(down: torch.Tensor, up: torch.Tensor, *, transposed: bool, stacked: bool = False) -> Product:
    """The weight that two tensors of a file stand for."""
    if stacked:
        return Product(up, down, (*up.shape[:2], down.shape[2]))
    if not transposed:
        return Product(up.flatten(1), down.flatten(1), (up.shape[0], *down.shape[1:]))
    if down.dim() == 2:
        return Product(down.T, up.T, (down.shape[1], up.shape[0]))
    return Product(down.flatten(1).T, up.flatten(1), (down.shape[1], *up.shape[1:]))


def split(whole: nn.Module, rank: int) -> Factors:
    """Two layers of rank `rank` for one, of its type and on its device, with values of no meaning."""
    weight: Any = _weight(whole)
    place: Any = {"device": weight.device, "dtype": weight.dtype}
    bias = whole.bias is not None
    down: nn.Module
    up: nn.Module
    if isinstance(whole, nn.Linear | Conv1D):
        outputs, inputs = weight.shape if isinstance(whole, nn.Linear) else weight.shape[::-1]
        down, up = nn.Linear(inputs, rank, bias=False, **place), nn.Linear(rank, outputs, bias=bias, **place)
    else:
        kind: Any = type(whole)
        own: Any = {
            name: getattr(whole, name) for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        }
        if isinstance(whole, _TRANSPOSED):
            own["output_padding"] = whole.output_padding
            point = _CONVOLUTIONS[_TRANSPOSED.index(kind)]
            down = point(whole.in_channels, rank, 1, bias=False, **place)
            up = kind(rank, whole.out_channels, bias=bias, **own, **place)
        else:
            channels: Any = whole
            down = kind(channels.in_channels, rank, bias=False, **own, **place)
            up = kind(rank, channels.out_channels, 1, bias=bias, **place)
    return Factors(down, up, whole).train(whole.training)


def factor_weights(pair: Factors, factors: Product) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights of the two layers that compute a product, each of the shape its layer has."""
    left, right = factors.left, factors.right
    parts = (left.T, right.T if pair._kind is Conv1D else right) if pair.swaps else (right, left)
    down, up = (part.reshape(_weight(own).shape) for part, own in zip(parts, (pair.down, pair.up), strict=True))
    return down.contiguous(), up.contiguous()


class Factorized:
    """What the classes here have beside what they have from transformers; it stands first among their bases."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        base: Any = super()
        base.__init__(config, *args, **kwargs)
        model: Any = self
        ranks = _factorized(config)["layers"]
        self.factor_places = _places(model, ranks)
        pairs = {
            model.get_submodule(place): split(model.get_submodule(place), ranks[weight])
            for weight, place in self.factor_places.items()
        }
        _replace(model, pairs)

    @classmethod
    def is_custom_code(cls) -> bool:
        """Whether names in the file are this code's own: they are those of the class that it builds on."""
        base: Any = cls.__mro__[cls.__mro__.index(Factorized) + 1]
        return bool(base.is_custom_code())

    @classmethod
    def from_pretrained(cls, name: Any = None, *args: Any, config: Any = None, **kwargs: Any) -> Any:
        """See `transformers.PreTrainedModel.from_pretrained`; a folder, or the name of one on the hub."""
        base: Any = super()
        if name is None and isinstance(config, transformers.PretrainedConfig):
            return cls.from_factors(config, kwargs.pop("state_dict"), *args, **kwargs)
        hub = {option: kwargs[option] for option in _HUB_OPTIONS if option in kwargs}
        given = config
        if not isinstance(config, transformers.PretrainedConfig):
            own: Any = cls
            config = own.config_class.from_pretrained(name if config is None else config, **hub)
        if not hasattr(config, "factorized"):  # any other folder of such a model
            return base.from_pretrained(name, *args, config=given, **kwargs)
        for option in (*_HUB_OPTIONS, "variant", "use_safetensors", "trust_remote_code"):
            kwargs.pop(option, None)
        if config is not given:
            for key in [key for key in kwargs if hasattr(config, key) and key not in _NO_CONFIGURATION]:
                setattr(config, key, kwargs.pop(key))
        loaded = cls.from_factors(config, _read(name, hub), *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.name_or_path = model.config.name_or_path = str(name)
        if model.can_generate():
            with suppress(OSError):  # there is none
                model.generation_config = transformers.GenerationConfig.from_pretrained(name, **hub)
        return loaded

    @classmethod
    def from_factors(cls, config: Any, state: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The network from the tensors of a folder by name, which are used up, and its configuration."""
        config, stored = copy.deepcopy(config), _factorized(config)
        cls._name_for_saving(config)
        products = _products(state, stored)
        config.factorized = stored | {"layers": {weight: _rank(own) for weight, own in products.items()}}
        blank = _skeleton(cls, config)
        later = dict(products)
        for weight, own in products.items():
            stem = _stem(weight)
            pair = blank.get_submodule(blank.factor_places[weight]) if weight in blank.factor_places else None
            # A bias that has another name in the file comes as one of a whole layer.
            if pair is not None and (pair.bias is not None) == (f"{stem}.up.bias" in state):
                state[f"{stem}.down.weight"], state[f"{stem}.up.weight"] = factor_weights(pair, own)
                del later[weight]
                continue
            state[weight] = own.whole()
            if f"{stem}.up.bias" in state:
                state[f"{stem}.bias"] = state.pop(f"{stem}.up.bias")
        config.factorized["layers"] = {
            weight: _rank(own) for weight, own in products.items() if weight not in later
        }
        base: Any = super()
        loaded = base.from_pretrained(None, *args, config=config, state_dict=state, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        places = model.factor_places | _split_by_value(model, later)
        # A layer of another name is known by both: saved again, it may have either.
        names = {name: weight for weight, place in places.items() for name in (weight, f"{place}.weight")}
        swapped = [name for name, weight in names.items() if model.get_submodule(places[weight]).swaps]
        layers = {name: _rank(products[weight]) for name, weight in names.items()}
        model.config.factorized = stored | {"layers": layers, "transposed": swapped}
        return loaded

    def save_pretrained(self, directory: Any, *args: Any, **kwargs: Any) -> Any:
        """See `transformers.PreTrainedModel.save_pretrained`; the files are called ``model.factorized…``.

        A plain class, which would fill the layers it does not find with random numbers, finds no file of its name.
        """
        base: Any = super()
        model: Any = self
        if _factorized(model.config)["layers"]:
            kwargs.setdefault("variant", "factorized")
        return base.save_pretrained(directory, *args, **kwargs)

    @classmethod
    def _name_for_saving(cls, config: Any) -> None:
        """Let `save_pretrained` write this file too, as for a class that knows its place in ``auto_map``."""
        own: Any = cls
        for auto, place in (getattr(config, "auto_map", None) or {}).items():
            if own._auto_class is None and str(place).endswith(f".{cls.__name__}"):
                own.register_for_auto_class(auto)


def __getattr__(name: str) -> Any:
    whole = getattr(transformers, name, None)
    if not (isinstance(whole, type) and issubclass(whole, transformers.PreTrainedModel)):
        raise AttributeError(f"transformers has no network called {name}")
    globals()[name] = factorized(whole)
    return globals()[name]


def factorized(whole: Any, module: str = __name__) -> Any:
    """The class `whole`, of transformers or built on it, with layers in two under the same name."""
    return type(whole.__name__, (Factorized, whole), {"__module__": module, "__doc__": whole.__doc__})


def _weight(module: Any) -> torch.Tensor:
    return module.weight  # type: ignore[no-any-return]  # a layer's, whatever its class


def _stem(weight: str) -> str:
    """What the names of a weight's two parts begin with; a stack may be a parameter of another name."""
    return weight.removesuffix(".weight")


def _rank(factors: Product) -> int:
    return factors.left.shape[-1]


def _products(state: dict[str, Any], stored: dict[str, Any]) -> dict[str, Product]:
    """The weights that are stored as two, taken out of `state`; what else is no plain tensor in it made one."""
    _decode(state)
    for other, kept in stored["shared"].items():
        if kept in state:
            state.setdefault(other, state[kept])
    products = {}
    for weight in stored["layers"]:
        names = [f"{_stem(weight)}.{part}.weight" for part in ("down", "up")]
        if all(name in state for name in names):
            down, up = (state.pop(name) for name in names)
            told = {kind: weight in stored[kind] for kind in ("transposed", "stacked")}
            products[weight] = product(down, up, **told)
    return products


def _factorized(config: Any) -> dict[str, Any]:
    entry = getattr(config, "factorized", None) or {}
    return {"layers": {}, "transposed": [], "stacked": [], "shared": {}, **entry}


def _skeleton(cls: Any, config: Any) -> Any:
    """The network without memory for its weights."""
    config = copy.deepcopy(config)
    try:
        with torch.device("meta"):
            return cls(config)
    except (RuntimeError, NotImplementedError):  # a class that computes something from its own values
        return cls(config)


def _places(model: Any, weights: Iterable[str]) -> dict[str, str]:
    """Weight of the file -> path of the layer it belongs to, for those whose names say so."""
    modules, prefix, renamed = dict(model.named_modules()), f"{model.base_model_prefix}.", renaming(model)
    shared = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    places = {}
    for weight in weights:
        stem = _stem(weight)
        if stem == weight or any(map(renamed, (weight, *(f"{stem}.{part}.weight" for part in ("down", "up"))))):
            continue
        for name in (stem, stem.removeprefix(prefix), f"{prefix}{stem}"):
            if name in modules and _splittable(modules[name]) and shared[id(modules[name].weight)] == 1:
                places[weight] = name
                break
    return places


def renaming(model: Any) -> Callable[[str], bool]:
    """Tells whether the library gives a tensor another name when it loads it; what is not known counts as such."""
    if int(transformers.__version__.split(".")[0]) < 5:
        return lambda _: bool(getattr(model, "_checkpoint_conversion_mapping", None))
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping

        steps = get_model_conversion_mapping(model)
        steps[0].rename_source_key("")
    except (ImportError, AttributeError, IndexError, TypeError, ValueError):
        return lambda _: True
    return lambda name: any(step.rename_source_key(name)[1] is not None for step in steps)


def _splittable(module: Any) -> bool:
    return type(module) in _SPLITTABLE and getattr(module, "groups", 1) == 1 and not hasattr(module, "_hf_hook")


def _replace(model: nn.Module, pairs: dict[nn.Module, Factors]) -> None:
    """Put every pair in all the places of the layer it stands for."""
    if not pairs:
        return
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in pairs:
                parent._modules[name] = pairs[child]


def _split_by_value(model: Any, products: dict[str, Product]) -> dict[str, str]:
    """Split each layer whose weight is one of `products`, equal ones at will; weight -> path of its layer."""
    if not products:
        return {}
    modules = {name: module for name, module in model.named_modules() if _splittable(module)}
    places, pairs = {}, {}
    for weight, own in products.items():
        whole = own.whole()
        place = next((name for name, module in modules.items() if _holds(module, whole)), None)
        if place is None:
            continue
        module = modules.pop(place)
        pair = split(module, _rank(own))
        with torch.no_grad():
            for part, values in zip((pair.down, pair.up), factor_weights(pair, own), strict=True):
                _weight(part).copy_(values)
        pair.up.register_parameter("bias", module.bias)
        places[weight], pairs[module] = place, pair
    _replace(model, pairs)
    return places


def _holds(module: Any, whole: torch.Tensor) -> bool:
    weight: torch.Tensor = module.weight
    if weight.shape != whole.shape or weight.device.type == "meta":
        return False
    few = [tensor.detach().flatten()[:8] for tensor in (weight, whole)]
    return torch.equal(few[0], few[1].to(weight)) and torch.equal(weight, whole.to(weight))


def _read(name: Any, hub: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a folder, or of one on the hub, as they are stored."""
    for file in _FILES:
        path = cached_file(name, file, _raise_exceptions_for_missing_entries=False, **hub)
        if path is None:
            continue
        if not path.endswith(".json"):
            return load_file(path)
        placement = json.loads(Path(path).read_text(encoding="utf-8"))["weight_map"]
        state = {}
        for shard in sorted(set(placement.values())):
            state.update(load_file(str(cached_file(name, shard, **hub))))
        return state
    raise OSError(f"{name}: holds none of {', '.join(_FILES)}")


def _decode(state: dict[str, Any]) -> None:
    """Tensors stored as bitmask and values, NAME.bits, NAME.values and NAME.shape, as what they are.

    So those without their rows of the identity, NAME.pivots saying which, and NAME.coefficients, the others; and
    k of every n entries, NAME.kept, at NAME.places in their groups, as NAME.pattern says.
    """
    for bits in [name for name in state if name.endswith(".bits")]:
        name = bits.removesuffix(".bits")
        parts = [f"{name}.{part}" for part in ("bits", "values", "shape")]
        if not all(part in state for part in parts):
            continue
        mask, values, shape = (state.pop(part) for part in parts)
        places = ((mask[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1).flatten().nonzero().flatten()
        dense = torch.zeros(int(shape.prod()), dtype=values.dtype)
        dense[places] = values
        state[name] = dense.reshape(shape.tolist())
    for pivots in [name for name in state if name.endswith(".pivots")]:
        name = pivots.removesuffix(".pivots")
        if f"{name}.coefficients" not in state:
            continue
        places, others = state.pop(pivots).long(), state.pop(f"{name}.coefficients")
        whole = others.new_zeros(len(places) + len(others), *others.shape[1:])
        whole[places, torch.arange(len(places))] = 1
        kept = torch.ones(len(whole), dtype=torch.bool).index_fill_(0, places, value=False)
        whole[kept] = others
        state[name] = whole
    for header in [name for name in state if name.endswith(".pattern")]:
        name = header.removesuffix(".pattern")
        if f"{name}.kept" not in state or f"{name}.places" not in state:
            continue
        count, of, axis, *shape = state.pop(header).tolist()
        kept, packed, width = state.pop(f"{name}.kept"), state.pop(f"{name}.places"), (of - 1).bit_length()
        bits = ((packed[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1).flatten()[: kept.numel() * width]
        where = (bits.reshape(-1, width).long() << torch.arange(width)).sum(1).reshape(-1, count)
        groups = kept.new_zeros(len(where), of).scatter_(1, where, kept.reshape(-1, count))
        rows = groups.reshape(len(kept), -1)
        state[name] = (rows.T if axis == 0 else rows).reshape(shape)
