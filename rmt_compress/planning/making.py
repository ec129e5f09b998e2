"""From an analysis to one decision per layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmt_compress import spectrum
from rmt_compress.analysis.noise_models import noise_model
from rmt_compress.analysis.records import AnalyzedLayer
from rmt_compress.analysis.unfitted import SkippedLayer
from rmt_compress.errors import SettingsError
from rmt_compress.layers.group_patterns import pattern_called
from rmt_compress.layers.kinds import KINDS
from rmt_compress.layers.layer import Layer
from rmt_compress.layers.splitting import pattern_refusal, split_refusal, zeroing_refusal
from rmt_compress.plan import Action, LayerDecision, Plan
from rmt_compress.planning.settings import PlanSettings, Shrink, WhenNotSmaller

if TYPE_CHECKING:
    from rmt_compress.analysis.records import Analysis, LayerAnalysis
    from rmt_compress.analysis.settings import AnalysisSettings
    from rmt_compress.decomposition.moments import Moments

_LATER = ("sparsify_budget", "pattern", "shrink")


def make_plan(
    analysis: Analysis,
    *,
    gof: float | None = None,
    gof_conv: float | None = None,
    rule: str = PlanSettings.rule,
    keep_bulk: float = PlanSettings.keep_bulk,
    rank_multiple: int = PlanSettings.rank_multiple,
    when_not_smaller: WhenNotSmaller = PlanSettings.when_not_smaller,
    shrink: Shrink = PlanSettings.shrink,
    sparsify: float | None = None,
    sparsity: float | None = None,
    pattern: str | None = None,
    moments: Moments | None = None,
) -> Plan:
    """Decide what to do with every layer of an analysis; see `PlanSettings` for the arguments.

    Args:
        analysis: of the checkpoint that is to be compressed.
        gof: None for the threshold of the analysis.
        gof_conv: threshold for convolutions.
        rule: how the rank is chosen.
        keep_bulk: share of the bulk kept.
        rank_multiple: ranks are rounded up to a multiple of this.
        when_not_smaller: ``keep`` or ``truncate``.
        shrink: ``none``, ``frobenius``, ``operator`` or ``nuclear``.
        sparsify: magnitude threshold.
        sparsity: share of entries zeroed in each weight; `divide_sparsity` divides it otherwise.
        pattern: ``K:N``: K of every N neighbouring entries are kept.
        moments: what the pattern is chosen by, in the layers that these know; `compress` needs them too. None: the
            largest entries stay.

    Raises:
        SettingsError: a setting is out of range, or the analysis is of noise that nothing can be shrunk by.
    """
    settings = PlanSettings(
        gof=gof,
        gof_conv=gof_conv,
        rule=rule,
        keep_bulk=keep_bulk,
        rank_multiple=rank_multiple,
        when_not_smaller=when_not_smaller,
        shrink=shrink,
        sparsify=sparsify,
        sparsity=sparsity,
        pattern=pattern,
    )
    return plan_with(analysis, settings, moments)


def plan_with(analysis: Analysis, settings: PlanSettings, moments: Moments | None = None) -> Plan:
    """`make_plan`, its settings in one object."""
    asked = analysis.settings
    check_shrinkable(settings, asked)
    record = {
        "alpha": asked.alpha,
        "beta": asked.beta,
        "quantiles": asked.quantiles,
        "noise": asked.noise,
        **_recorded(settings),
        "gof": asked.gof if settings.gof is None else settings.gof,
    }
    if analysis.approximated:
        record["approximate_spectra"] = [layer.name for layer in analysis.approximated]
    known = frozenset() if moments is None else frozenset(moments.layers)
    layers = tuple(decide(layer, settings, known) for layer in analysis.layers)
    return Plan(settings=record, layers=layers, basis=noise_model(asked).basis)


def _recorded(settings: PlanSettings) -> dict[str, object]:
    """What a plan keeps of its settings: of those that its first versions had not only what is asked."""
    default = vars(PlanSettings())
    return {name: each for name, each in vars(settings).items() if name not in _LATER or each != default[name]}


def check_shrinkable(settings: PlanSettings, asked: AnalysisSettings) -> None:
    """Refuse to shrink by noise whose variances differ from row to row.

    Raises:
        SettingsError: that was asked.
    """
    if settings.shrink != "none" and asked.noise in ("equalized", "general"):
        raise SettingsError(
            [f"shrink needs noise of one variance, and that of noise {asked.noise} has many: leave out one of them"]
        )


def decide(analysis: LayerAnalysis, settings: PlanSettings, known: frozenset[str] = frozenset()) -> LayerDecision:
    """The decision for one layer; `known` are the tensors of layers whose inputs choose their patterns."""
    layer = analysis.layer
    action, rank, reason = _action(analysis, settings)
    # Damaged and left-out layers are not touched at all; small ones (an output layer) may still be sparsified.
    untouched = isinstance(analysis, SkippedLayer) and (analysis.left_out or not analysis.finite)
    sparsify = may_sparsify(layer) and not untouched
    pattern = settings.pattern if sparsify else None
    if pattern is not None and (refusal := pattern_refusal(layer, pattern_called(pattern), rank)) is not None:
        pattern, reason = None, f"{reason}; {refusal}"
    shrunk = rank is not None and shrinks(analysis, settings.shrink)
    return LayerDecision(
        name=layer.name,
        tensor=layer.tensor,
        kind=layer.kind,
        shape=layer.shape,
        action=action,
        rank=rank,
        sparsify=settings.sparsify if sparsify else None,
        sparsity=settings.sparsity if sparsify else None,
        pattern=pattern,
        pattern_by="inputs" if pattern is not None and layer.tensor in known and layer.groups == 1 else None,
        shrink=None if settings.shrink == "none" or not shrunk else settings.shrink,
        sigma=float(analysis.fit.sigma2**0.5) if shrunk and analysis.fit is not None else None,
        reason=reason,
    )


def shrinks(analysis: LayerAnalysis, shrink: Shrink) -> bool:
    """Whether the kept values of a layer that is cut are shrunk: those of a stack have noise of their own each."""
    return shrink != "none" and isinstance(analysis, AnalyzedLayer) and len(analysis.matrices) == 1


def may_sparsify(layer: Layer) -> bool:
    """Whether entries of a layer's weight may become zero.

    Not so of a tied weight, of which one place may be an embedding table, nor of a parameter that is no layer's
    weight.
    """
    return (
        zeroing_refusal(layer) is None
        and not layer.tied
        and (layer.in_graph or layer.kind in ("recurrent", "stack") or layer.stored.endswith("weight"))
    )


def _above(error: float, threshold: float) -> str:
    """A fit error with as many digits as show that it is above the threshold, three at least."""
    for digits in range(3, 17):
        if float(f"{error:.{digits}f}") > threshold:
            return f"{error:.{digits}f}"
    return repr(error)


def may_truncate(layer: Layer) -> bool:
    """Whether a weight may be cut in its own shape: no tied or fixed one, and a layer's weight by name or class."""
    return not (layer.tied or layer.why_fixed) and (
        layer.in_graph or layer.by_class or layer.kind in ("recurrent", "stack") or layer.stored.endswith("weight")
    )


def _action(analysis: LayerAnalysis, settings: PlanSettings) -> tuple[Action, int | None, str]:
    if not isinstance(analysis, AnalyzedLayer):
        return "skipped", None, analysis.reason
    layer, fit = analysis.layer, analysis.fit
    rule, amount = settings.rule_and_amount
    gof = analysis.settings.gof if settings.gof is None else settings.gof
    if settings.gof_conv is not None and KINDS[layer.kind].convolution:
        gof = settings.gof_conv
    if rule.from_spikes and not analysis.fits_at(gof):
        return "kept", None, f"fit error {_above(fit.gof, gof)} is above {gof:g}: its bulk is no noise"
    rank = rule.keep(analysis, amount)
    rank = min(fit.p, -(-rank // settings.rank_multiple) * settings.rank_multiple)
    shrunk = ""
    if settings.shrink != "none":
        shrunk = f", shrunk ({settings.shrink})" if shrinks(analysis, settings.shrink) else ", not shrunk: a stack"
    if shrinks(analysis, settings.shrink):
        # What nothing is left of need not be kept.
        assert settings.shrink != "none"
        left = spectrum.shrunk(analysis.singular_values, fit.sigma2**0.5, analysis.matrix, settings.shrink)
        rank = min(rank, max(1, int((left > 0).sum())))
    because = (
        f"{fit.spikes} spike{'s' * (fit.spikes != 1)}, {rank - fit.spikes} of the bulk kept"
        if rule.from_spikes
        else settings.rule
    ) + shrunk
    if len(analysis.matrices) > 1:
        because += f"; the most that one of {len(analysis.matrices)} experts needs"
    before, after = layer.parameters, layer.factor_parameters(rank)
    refusal = split_refusal(layer)
    if refusal is None and after >= before:
        refusal = f"a split at rank {rank} would not be smaller ({after:,} of {before:,} parameters)"
    if refusal is None and layer.why_in_place is not None:
        return "truncated", rank, f"rank {rank} of {fit.p} in its own shape: {because}; {layer.why_in_place}"
    if refusal is None:
        return "factorized", rank, f"rank {rank} of {fit.p}: {because}"
    if settings.when_not_smaller == "truncate" and rank < fit.p and may_truncate(layer):
        return "truncated", rank, f"rank {rank} of {fit.p} in its own shape: {refusal}"
    return "kept", None, refusal
