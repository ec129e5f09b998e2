"""Networks written as one word: what ``--arch`` accepts and sample models carry in their metadata.

    mlp:784,1000,10                                     784 inputs, 1000 hidden units, 10 outputs
    mlp:784,1000,10/init=normal,final=relu              with options
    cnn:3x32x32/32,64,p,128,128,p/256,10/dropout=0.35   channels×height×width / convolutions / fully connected
    package.module:Net, net.py:Net                      the user's own, of a module or a Python file: a class or
                                                        function that is called, or a network ready made
    net.py:Net(16, hidden=32)                           called with these arguments, which are literals

Options: ``init=uniform|normal|he|xavier|sparse`` (default ``uniform``), ``final=relu`` for a ReLU after the last
layer too (as in BSSZ24's runs; an output can die of it, method.md §9), and for a ``cnn`` ``dropout=P`` (default
0.35).

Models are `torch.nn.Sequential` of stock layers with names (``fc1``, ``conv1``, ``conv1_norm`` …), so their
files load without this package.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from rmt_compress.errors import SettingsError
from rmt_compress.object_reference import importing_from_here, is_reference, load_object, parse_reference
from rmt_compress.wording import one_line

if TYPE_CHECKING:
    from torch import nn

Init = Literal["uniform", "normal", "he", "xavier", "sparse"]
"""How weights begin, n = inputs of one output unit.

``uniform``: weights and biases U(−1/√n, 1/√n) (SJK23, and what torch's layers do by themselves).
With zero biases: ``normal`` N(0, 1/n) (BSSZ24), ``he`` N(0, 2/n), ``xavier`` N(0, 2/(n + outputs));
``sparse`` as ``normal``, but nine of ten weights are 0 and the others √10 times as large (BSSZ24 §10.2 begins
sparse as well; how sparse we do not know).
"""
Final = Literal["none", "relu"]

# Share of the weights that are not 0 in a network that begins ``sparse``.
_FILLED = 0.1

POOL = 0
"""Stands for a 2×2 max-pool among the channels of a `CNN`; written ``p``."""
_SYNTAX = "mlp:784,1000,10, cnn:3x32x32/32,64,p,128,128,p/256,10, package.module:Net or net.py:Net(16)"


@dataclass(frozen=True)
class MLP:
    """Fully connected layers ``fc1``, ``fc2`` … with ReLU between them, after flattening the input.

    `sizes` are the units per layer, inputs first, at least two; `final`: ``relu`` puts a ReLU after the last layer
    as well.
    """

    sizes: tuple[int, ...]
    init: Init = "uniform"
    final: Final = "none"

    def __post_init__(self) -> None:
        problems = [f"layer size {size} is not positive" for size in self.sizes if size < 1]
        if len(self.sizes) < 2:
            problems.append("an mlp needs at least inputs and outputs (mlp:784,10)")
        _raise(problems + _option_problems(self.init, self.final))

    def __str__(self) -> str:
        return f"mlp:{_join(self.sizes)}{_options(init=self.init, final=self.final)}"

    def build(self) -> nn.Module:
        """A fresh model; its inputs are (N, …) with ``sizes[0]`` numbers each, its outputs (N, sizes[-1])."""
        from torch import nn

        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for index, (inputs, outputs) in enumerate(zip(self.sizes, self.sizes[1:], strict=False), start=1):
            layers[f"fc{index}"] = nn.Linear(inputs, outputs)
            if index < len(self.sizes) - 1 or self.final == "relu":
                layers[f"fc{index}_relu"] = nn.ReLU()
        return _initialized(nn.Sequential(layers), self.init)


@dataclass(frozen=True)
class CNN:
    """The VGG-like family of BSSZ24 (method.md §9).

    3×3 convolutions with padding 1, batch norm and ReLU after each, 2×2 max-pools; dropout on the flattened
    features; then fully connected layers, each but the last with batch norm and ReLU, dropout after the first of
    them. Layers are called ``conv1``, ``conv1_norm``, ``pool1``, ``fc1``, ``fc1_norm`` ….

    Attributes:
        image: channels, height, width of the input.
        features: output channels per convolution, with `POOL` where a pool stands. Where none is given there is
            one after every second convolution.
        classifier: units of the fully connected layers, classes last.
        dropout: its probability.
        init: see `Init`.
        final: ``relu`` puts a ReLU after the last layer as well.
    """

    image: tuple[int, int, int]
    features: tuple[int, ...]
    classifier: tuple[int, ...]
    dropout: float = 0.35
    init: Init = "uniform"
    final: Final = "none"

    def __post_init__(self) -> None:
        if POOL not in self.features:
            pooled = [(width, POOL) if index % 2 else (width,) for index, width in enumerate(self.features)]
            object.__setattr__(self, "features", tuple(width for pair in pooled for width in pair))
        problems = [f"image size {size} is not positive" for size in self.image if size < 1]
        problems += [f"{width} channels are not positive" for width in self.features if width < 0]
        problems += [f"layer size {size} is not positive" for size in self.classifier if size < 1]
        if len(self.image) != 3:
            problems.append("the image needs three sizes, channels×height×width (3x32x32)")
        elif min(self.image) > 0 and min(self.image[1:]) >> self.features.count(POOL) < 1:
            pools = self.features.count(POOL)
            problems.append(f"{pools} pools leave nothing of an image of {self.image[1]}×{self.image[2]} pixels")
        if not any(self.features):
            problems.append("a cnn needs at least one convolution")
        if not self.classifier:
            problems.append("a cnn needs at least one fully connected layer")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout={self.dropout} is outside [0, 1)")
        _raise(problems + _option_problems(self.init, self.final))

    def __str__(self) -> str:
        image = "x".join(map(str, self.image))
        features = ",".join("p" if width == POOL else str(width) for width in self.features)
        options = _options(dropout=self.dropout, init=self.init, final=self.final)
        return f"cnn:{image}/{features}/{_join(self.classifier)}{options}"

    def build(self) -> nn.Module:
        """A fresh model; inputs (N, *image), outputs (N, classifier[-1])."""
        from torch import nn

        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels, height, width = self.image
        convolutions = pools = 0
        for outputs in self.features:
            if outputs == POOL:
                pools += 1
                layers[f"pool{pools}"] = nn.MaxPool2d(2)
                height, width = height // 2, width // 2
                continue
            convolutions += 1
            layers[f"conv{convolutions}"] = nn.Conv2d(channels, outputs, kernel_size=3, padding=1)
            layers[f"conv{convolutions}_norm"] = nn.BatchNorm2d(outputs)
            layers[f"conv{convolutions}_relu"] = nn.ReLU()
            channels = outputs
        layers["flatten"] = nn.Flatten()
        layers["dropout"] = nn.Dropout(self.dropout)
        inputs = channels * height * width
        for index, outputs in enumerate(self.classifier, start=1):
            layers[f"fc{index}"] = nn.Linear(inputs, outputs)
            last = index == len(self.classifier)
            if not last:
                layers[f"fc{index}_norm"] = nn.BatchNorm1d(outputs)
            if not last or self.final == "relu":
                layers[f"fc{index}_relu"] = nn.ReLU()
            if index == 1 and not last:
                layers["fc1_dropout"] = nn.Dropout(self.dropout)
            inputs = outputs
        return _initialized(nn.Sequential(layers), self.init)


@dataclass(frozen=True)
class UserModel:
    """The user's own: ``package.module:Net`` or ``net.py:Net``, literal arguments behind it or not."""

    reference: str

    def __str__(self) -> str:
        return self.reference

    def found(self) -> Any:
        """The callable or the network that the text names; its module is imported."""
        try:
            found = load_object(self.reference)
        except ImportError as error:
            raise SettingsError([f"architecture {self.reference}: {error}"]) from error
        if not callable(found):
            what = type(found).__name__
            raise SettingsError([f"architecture {self.reference}: it is a {what}, neither a network nor callable"])
        return found

    def build(self) -> nn.Module:
        """What the callable returns, which must be a module; of a network ready made a copy."""
        from torch import nn

        try:
            found = self.found()
            if isinstance(found, nn.Module):
                return copy.deepcopy(found)
            with importing_from_here(parse_reference(self.reference).where):
                model = found()
        except SettingsError:
            raise
        except Exception as error:  # whatever the user's own function raises
            raise SettingsError(
                [f"architecture {self.reference}: calling it failed ({one_line(error)})"]
            ) from error
        if not isinstance(model, nn.Module):
            returned = type(model).__name__
            raise SettingsError([f"architecture {self.reference} returned {returned}, not a torch.nn.Module"])
        return model


Architecture = MLP | CNN | UserModel


def parse(spec: str) -> Architecture:
    """The architecture `spec` describes; ``str()`` of it is a spec again, ``parse(str(a)) == a``.

    A spec found in a file is text from a stranger: take `UserModel` from what the user typed only.

    Raises:
        SettingsError: every problem of the spec at once, each naming the offending part.
    """
    kind, _, rest = spec.partition(":")
    if kind not in ("mlp", "cnn"):
        if is_reference(spec):
            try:
                parse_reference(spec)
            except ValueError as error:
                raise SettingsError([f"architecture {spec!r}: {error}"]) from error
            return UserModel(spec)
        if spec.endswith(".py"):
            raise SettingsError([f"architecture {spec!r} is a file: name the class in it too, {spec}:Net"])
        raise SettingsError([f"architecture {spec!r} is none of {_SYNTAX}"])
    try:
        return _parse_mlp(rest) if kind == "mlp" else _parse_cnn(rest)
    except SettingsError as error:
        raise SettingsError([f"architecture {spec!r}: {problem}" for problem in error.problems]) from None


def build(spec: str, *, seed: int | None = None) -> nn.Module:
    """A fresh model of the architecture `spec`, in training mode, on the CPU, float32.

    Args:
        spec: see `parse`.
        seed: of the initial weights; torch's global random state is left as it was. None: drawn from that state.

    Raises:
        SettingsError: the spec is wrong, or the user's callable is.
    """
    import torch

    architecture = parse(spec)
    if seed is None:
        return architecture.build()
    if isinstance(architecture, UserModel):
        # A module that draws numbers when it is imported does so once only.
        architecture.found()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return architecture.build()


def _parse_mlp(text: str) -> MLP:
    parts, options, problems = _split(text, 1, ("init", "final"))
    sizes = _numbers(parts[0], ",", problems)
    _raise(problems)
    return MLP(sizes, **options)


def _parse_cnn(text: str) -> CNN:
    parts, options, problems = _split(text, 3, ("init", "final", "dropout"))
    # How many there must be is for `CNN` to say.
    image: Any = _numbers(parts[0], "x", problems)
    features = _numbers(parts[1], ",", problems, pools=True)
    classifier = _numbers(parts[2], ",", problems)
    dropout = options.pop("dropout", "0.35")
    try:
        probability = float(dropout)
    except ValueError:
        problems.append(f"dropout={dropout} is not a number")
    _raise(problems)
    return CNN(image, features, classifier, probability, **options)


def _split(text: str, count: int, known: Sequence[str]) -> tuple[list[str], dict[str, Any], list[str]]:
    """Split at slashes into `count` parts and options, with the problems met on the way."""
    parts = text.split("/")
    options: dict[str, Any] = {}
    problems = []
    if len(parts) > 1 and "=" in parts[-1]:
        for item in parts.pop().split(","):
            key, _, value = item.partition("=")
            if key not in known:
                problems.append(f"option {item!r} is unknown, known are {', '.join(known)}")
            elif key in options:
                problems.append(f"option {key} is given twice")
            options[key] = value
    if len(parts) != count:
        problems.append(f"{count} part{'s' * (count > 1)} before the options expected, {len(parts)} found")
        _raise(problems)
    return parts, options, problems


def _numbers(text: str, separator: str, problems: list[str], *, pools: bool = False) -> tuple[int, ...]:
    numbers = []
    for item in text.split(separator):
        if pools and item == "p":
            numbers.append(POOL)
        elif item.isdecimal() and int(item) > 0:
            numbers.append(int(item))
        else:
            problems.append(f"{item!r} is not a positive whole number")
    return tuple(numbers)


def _join(sizes: Sequence[int]) -> str:
    return ",".join(map(str, sizes))


def _options(*, init: Init, final: Final, dropout: float | None = None) -> str:
    """The options that differ from their defaults, dropout always where there is one."""
    items = [] if dropout is None else [f"dropout={dropout!r}"]
    items += [f"init={init}"] * (init != "uniform") + [f"final={final}"] * (final != "none")
    return f"/{','.join(items)}" if items else ""


def _option_problems(init: str, final: str) -> list[str]:
    choices = (("init", init, get_args(Init)), ("final", final, get_args(Final)))
    return [f"{key}={value} is none of {', '.join(known)}" for key, value, known in choices if value not in known]


def _raise(problems: Sequence[str]) -> None:
    if problems:
        raise SettingsError(problems)


def _initialized(model: nn.Module, init: Init) -> nn.Module:
    """Set the weights of `model` as `init` says; ``uniform`` is what torch's layers have done already."""
    import torch
    from torch import nn

    if init == "uniform":
        return model
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                inputs = layer.weight[0].numel()
                outputs = layer.weight.numel() // layer.weight.shape[1]
                variances = {"he": 2 / inputs, "xavier": 2 / (inputs + outputs)}
                layer.weight.normal_(0.0, math.sqrt(variances.get(init, 1 / inputs)))
                if init == "sparse":
                    layer.weight.mul_(torch.rand_like(layer.weight) < _FILLED).div_(math.sqrt(_FILLED))
                if layer.bias is not None:
                    layer.bias.zero_()
    return model
