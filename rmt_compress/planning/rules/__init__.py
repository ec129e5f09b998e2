"""The rank rules. BEMA's edge is the default; the others are here to be compared with it, each with its source.

Every module of this folder defines one as its `RULE`: a new rule is a new module and nothing else. Help texts are
made from them, so numpy and scipy are imported inside functions.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from rmt_compress.planning.rank_rule import RankRule


def _found() -> dict[str, RankRule]:
    """By name; first those that count from the spikes, last those that are not swept."""
    rules: list[RankRule] = [
        import_module(f"{__name__}.{module.name}").RULE for module in pkgutil.iter_modules(__path__)
    ]
    rules.sort(key=lambda rule: (not rule.from_spikes, rule.grid is None, rule.name))
    return {rule.name: rule for rule in rules}


RULES = _found()
# Of those that are swept, in the order of their curves: what is a single point, for want of a number, comes last.
GRIDS = {
    rule.name: rule.grid
    for rule in sorted(RULES.values(), key=lambda rule: not (rule.from_spikes or rule.number))
    if rule.grid is not None
}


def usage() -> str:
    """How each is written: ``bema, energy:SHARE … or rank:COUNT``."""
    *most, last = (rule.usage for rule in RULES.values())
    return f"{', '.join(most)} or {last}"


def rule_and_number(text: str) -> tuple[RankRule, float | None]:
    """The rule written so, and its number, if any; a `ValueError` where there is no such rule or number."""
    if not isinstance(text, str):
        raise ValueError(f"the rule must be text, {usage()}, got {text!r}")
    name, _, written = text.partition(":")
    rule = RULES.get(name)
    try:
        if rule is None or bool(written) != (rule.number is not None):
            raise ValueError
        number = float(written) if written else None
    except ValueError:
        raise ValueError(f"the rule must be {usage()}, got {text!r}") from None
    if rule.number is not None and number is not None and not rule.number.suits(number):
        raise ValueError(f"{rule.usage} needs {rule.number.meaning}, got {written}")
    return rule, number
