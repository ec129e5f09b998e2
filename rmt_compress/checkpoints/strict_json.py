"""JSON from an untrusted file: one object, no repeated keys, no endless nesting."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

_HALF = re.compile("[\ud800-\udfff]")


def parse_object(data: bytes) -> dict[str, object]:
    """The JSON object in UTF-8 text.

    Raises:
        ValueError: not UTF-8, not JSON, not an object, a key given twice, half a surrogate pair, NaN, or
            nested too deep; the message says which, without naming the file.
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON at character {error.pos}: {error.msg}") from error
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _unique(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    for text in (*result, *result.values()):
        # \\ud800 alone is valid JSON and no text: it could be neither printed nor written again.
        if isinstance(text, str) and _HALF.search(text):
            raise ValueError(f"{text!r} holds half a surrogate pair")
    if len(result) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key!r} is given twice")
            seen.add(key)
    return result


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} where a number is due")
