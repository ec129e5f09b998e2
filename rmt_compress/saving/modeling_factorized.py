"""Transformers' classes with some of their layers in two thin ones.

A copy of this file lies beside the weights of every factorized folder, and
``AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`` runs it. It needs torch, safetensors and
transformers (4.46 or later) and nothing else. ``modeling_factorized.LlamaForCausalLM`` is transformers' class with
layers in two, and so is every other name here that transformers has a model for.

``config.json`` says under ``factorized`` which weights are stored as two: ``layers``, name of the weight -> rank;
``transposed``, those of them that stand the other way round in their file (GPT-2's Conv1D, transposed
convolutions); ``shared``, other name of a tensor -> the name it is stored under. The product of the two is the
weight of the original network to the rounding of one multiplication.

Where a layer has one name in the file and in the class, the two thin layers are there before anything is loaded.
The library may have given it another name, or have joined several weights in one: then it gets the product, puts
it where it belongs, and whatever layer then holds it becomes two. What no single layer holds stays a product.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from contextlib import suppress
from typing import Any, NamedTuple

import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D
from transformers.utils.hub import cached_file

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_SPLITTABLE = (nn.Linear, Conv1D, *_CONVOLUTIONS, *_TRANSPOSED)

# The files of weights, the first of each kind that is there counts: as they were written beside this file, as
# `save_pretrained` of the classes here writes them, and as anybody else's does.
_FILES = (
    "factorized.safetensors",
    "factorized.safetensors.index.json",
    "model.factorized.safetensors",
    "model.safetensors.index.factorized.json",
    "model.safetensors",
    "model.safetensors.index.json",
)
_HUB_OPTIONS = ("cache_dir", "force_download", "proxies", "token", "revision", "local_files_only", "subfolder")

# Settings of the loading, not of the network, though its configuration has attributes of these names.
_NO_CONFIGURATION = {"dtype", "torch_dtype", "attn_implementation", "quantization_config", "generation_config"}


class Factors(nn.Sequential):
    """Two layers in the place of one, `down` and then `up`, with what a network may ask that one for."""

    def __init__(self, down: nn.Module, up: nn.Module, whole: nn.Module) -> None:
        super().__init__()
        self.down, self.up = down, up
        self._kind: type[nn.Module] = type(whole)
        self._shape = tuple(_weight(whole).shape)

    @property
    def weight(self) -> torch.Tensor:
        """The weight that the two stand for, of the shape it had."""
        down, up = _weight(self.down), _weight(self.up)
        if self._kind is Conv1D:
            return (up @ down).T
        if self._kind in _TRANSPOSED:
            return (down.flatten(1).T @ up.flatten(1)).view(self._shape)
        return (up.flatten(1) @ down.flatten(1)).view(self._shape)

    @property
    def bias(self) -> torch.Tensor | None:
        """The bias, which the second one has."""
        return self.up.bias  # type: ignore[return-value]

    @property
    def in_features(self) -> int:
        """Inputs of a Linear."""
        return self.down.in_features  # type: ignore[return-value]

    @property
    def out_features(self) -> int:
        """Outputs of a Linear."""
        return self.up.out_features  # type: ignore[return-value]


class Product(NamedTuple):
    """A weight as a product: its first axis is that of `left` (rows, r), the others are in `right` (r, columns).

    Both have one more axis at the front where the weight is a stack of matrices.
    """

    left: torch.Tensor
    right: torch.Tensor
    shape: tuple[int, ...]

    def whole(self) -> torch.Tensor:
        """The weight, multiplied in float32 at least, in the type of its factors."""
        dtype = torch.promote_types(self.left.dtype, torch.float32)
        return (self.left.to(dtype) @ self.right.to(dtype)).to(self.left.dtype).reshape(self.shape)

    def turned(self) -> Product:
        """The transposed weight of two axes."""
        return Product(self.right.T, self.left.T, self.shape[::-1])


def product(down: torch.Tensor, up: torch.Tensor, *, transposed: bool) -> Product:
    """The weight that two tensors of a file stand for."""
    if down.dim() == 3 and up.dim() == 3 and down.shape[0] == up.shape[0] and down.shape[1] == up.shape[2]:
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
    parts = (left.T, right.T) if pair._kind is Conv1D else (left.T, right)
    if pair._kind not in (Conv1D, *_TRANSPOSED):
        parts = (right, left)
    down, up = (part.reshape(_weight(own).shape) for part, own in zip(parts, (pair.down, pair.up), strict=True))
    return down.contiguous(), up.contiguous()


class Factorized:
    """What the classes here have beside what they have from transformers; it stands first among their bases."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        model: Any = self
        ranks = _factorized(config)["layers"]
        self.factor_places = {weight: place for weight in ranks if (place := _place(model, weight)) is not None}
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
        """The network from the tensors of a folder; further arguments are those of `from_pretrained`.

        Args:
            config: of the network, with the entry ``factorized``.
            state: the tensors by the names they have in the file; the dictionary is used up.
            args: as of `from_pretrained`.
            kwargs: as of `from_pretrained`.
        """
        config, stored = copy.deepcopy(config), _factorized(config)
        _decode(state)
        for other, kept in stored["shared"].items():
            if kept in state:
                state.setdefault(other, state[kept])
        factors = {}
        for weight in stored["layers"]:
            names = [f"{_stem(weight)}.{part}.weight" for part in ("down", "up")]
            if all(name in state for name in names):
                down, up = (state.pop(name) for name in names)
                factors[weight] = product(down, up, transposed=weight in stored["transposed"])
        config.factorized = {**stored, "layers": {weight: _rank(factors[weight]) for weight in factors}}
        cls._name_for_saving(config)
        blank = _skeleton(cls, config)
        places = blank.factor_places
        later = {}
        for weight, pair in factors.items():
            stem = _stem(weight)
            if weight in places:
                module = blank.get_submodule(places[weight])
                state[f"{stem}.down.weight"], state[f"{stem}.up.weight"] = factor_weights(module, pair)
                continue
            later[weight] = pair
            state[weight] = pair.whole()
            if f"{stem}.up.bias" in state:
                state[f"{stem}.bias"] = state.pop(f"{stem}.up.bias")
        config.factorized["layers"] = {weight: _rank(factors[weight]) for weight in places}
        base: Any = super()
        loaded = base.from_pretrained(None, *args, config=config, state_dict=state, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        found = _split_by_value(model, later)
        # A layer of another name is known by both: saved again, it may have either.
        model.config.factorized = {
            **stored,
            "layers": {
                **config.factorized["layers"],
                **{name: _rank(later[weight]) for weight, place in found.items() for name in (weight, f"{place}.weight")},
            },
        }
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
        """Let `save_pretrained` write this file too, as every version of the library does for a class that it names."""
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
    return module.weight  # type: ignore[no-any-return]


def _stem(weight: str) -> str:
    """What the names of a weight's two parts begin with; a stack may be a parameter of another name."""
    return weight.removesuffix(".weight")


def _rank(factors: Product) -> int:
    return factors.left.shape[-1]


def _factorized(config: Any) -> dict[str, Any]:
    entry = getattr(config, "factorized", None) or {}
    return {"layers": {}, "transposed": [], "shared": {}, **entry}


def _skeleton(cls: Any, config: Any) -> Any:
    """The network without memory for its weights."""
    config = copy.deepcopy(config)
    try:
        with torch.device("meta"):
            return cls(config)
    except (RuntimeError, NotImplementedError):  # a class that computes something from its own values
        return cls(config)


def _place(model: Any, weight: str) -> str | None:
    """Path of the layer that a weight of the file belongs to, where its name says so; else None."""
    stem = _stem(weight)
    if stem == weight or may_be_renamed(model, [weight, *(f"{stem}.{part}.weight" for part in ("down", "up"))]):
        return None
    prefix = f"{model.base_model_prefix}."
    modules = dict(model.named_modules())
    shared = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    for name in (stem, stem.removeprefix(prefix), f"{prefix}{stem}"):
        if name in modules and _splittable(modules[name]) and shared[id(modules[name].weight)] == 1:
            return name
    return None


def may_be_renamed(model: Any, names: list[str]) -> bool:
    """Whether the library gives tensors of these names other ones when it loads them; what is not known counts."""
    if getattr(model, "_checkpoint_conversion_mapping", None):
        return True
    if int(transformers.__version__.split(".")[0]) < 5:
        return False
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping

        steps = get_model_conversion_mapping(model)
        return any(step.rename_source_key(name)[1] is not None for step in steps for name in names)
    except (ImportError, AttributeError, TypeError, ValueError):
        return True


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
    """Split every layer whose weight is one of `products`; name of the weight -> path of its layer.

    Layers of one and the same weight may be taken for each other: they compute the same.
    """
    if not products:
        return {}
    layers: dict[Any, list[str]] = {}
    for name, module in model.named_modules():
        if _splittable(module) and module.weight.device.type != "meta" and module.weight.is_floating_point():
            layers.setdefault(_fingerprint(module.weight), []).append(name)
    found, pairs = {}, {}
    for weight, own in products.items():
        for factors in (own, own.turned()) if len(own.shape) == 2 else (own,):
            place = _holder(model, layers, factors)
            if place is None:
                continue
            whole = model.get_submodule(place)
            pair = split(whole, _rank(factors))
            with torch.no_grad():
                for part, values in zip((pair.down, pair.up), factor_weights(pair, factors), strict=True):
                    _weight(part).copy_(values)
            pair.up.register_parameter("bias", whole.bias)
            pairs[whole], found[weight] = pair, place
            break
    _replace(model, pairs)
    return found


def _holder(model: Any, layers: dict[Any, list[str]], factors: Product) -> str | None:
    """The layer whose weight a product is, which is then no longer in `layers`."""
    whole = factors.whole()
    for dtype in {key[1] for key in layers}:
        key = _fingerprint(whole.to(dtype))
        for name in layers.get(key, []):
            weight = _weight(model.get_submodule(name))
            if torch.equal(weight, whole.to(weight)):
                layers[key].remove(name)
                return name
    return None


def _fingerprint(weight: torch.Tensor) -> Any:
    return tuple(weight.shape), weight.dtype, tuple(weight.detach().flatten()[:8].tolist())


def _read(name: Any, hub: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a folder, or of one on the hub, as they are stored."""
    for file in _FILES:
        path = cached_file(name, file, _raise_exceptions_for_missing_entries=False, **hub)
        if path is None:
            continue
        if not path.endswith(".json"):
            return load_file(path)
        with open(path, encoding="utf-8") as index:
            shards = sorted(set(json.load(index)["weight_map"].values()))
        state = {}
        for shard in shards:
            state.update(load_file(cached_file(name, shard, **hub)))
        return state
    raise OSError(f"{name}: holds none of {', '.join(_FILES)}")


def _decode(state: dict[str, Any]) -> None:
    """Tensors stored as bitmask and values, NAME.bits, NAME.values and NAME.shape, as what they are."""
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
