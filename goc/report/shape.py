"""What result.json must look like before anything is computed with it. What older versions left out may be missing."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from goc.report.columns import QUARTILES
from goc.report.text import printable

DEEPEST = 32  # objects and lists in each other
LARGEST = 1e150  # of a number, so that its square is one too
MOST = 10_000_000  # of what is counted: steps, evaluations, samples
REQUIRED = ("method", "config", "metrics", "distance", "cost", "inflection")  # of every result
MEASURED = ("metrics", "distance", "converged", "cost")  # objects of numbers
ERROR = "_se"  # ends the names of standard errors

Check = Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _whole(value: Any) -> bool:
    return isinstance(value, int) and is_number(value)


def _number(least: float, most: float = LARGEST) -> Check:
    return lambda value: is_number(value) and least <= value <= most


def _count(least: int) -> Check:
    return lambda value: _whole(value) and least <= value <= MOST


def _is(*kinds: type) -> Check:
    return lambda value: isinstance(value, kinds)


def _either(*checks: Check) -> Check:
    return lambda value: any(check(value) for check in checks)


def _list(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


STEPS, SAMPLES = (_list(_count(0)), "a list of steps"), (_count(1), "a number of samples")
TEXT, OBJECT, NUMBER = (_is(str), "text"), (_is(dict), "an object"), (is_number, "a finite number")
SHARE = (lambda value: is_number(value) and 0 <= value < 1, "a share of at least 0 and below 1")
NAMED = (_is(str, dict), "a name or an object")
WAYS = ("sampler", "schedule", "predictor", "selection")
# path in result.json -> what is there, unless it is missing or null
SHAPE: dict[tuple[str, ...], tuple[Check, str]] = {
    ("method",): TEXT,
    **{(part,): OBJECT for part in ("config", *MEASURED, "inflection", "measurement", "samples")},
    ("config", "name"): TEXT,
    ("config", "model"): OBJECT,
    **{("config", "model", key): TEXT for key in ("name", "family", "objective")},
    **{("config", part): NAMED for part in WAYS},
    **{("config", part, key): TEXT for part in WAYS for key in ("name", "path")},
    ("config", "steps"): (_count(1), "a number of steps"),
    **{("config", key): SAMPLES for key in ("num_samples", "batch_size")},
    ("config", "seed"): (_whole, "a whole number"),
    **{("config", key): NUMBER for key in ("cfg_scale", "inflection_threshold", "cfg_cache")},
    ("config", "gradient_weights"): (_either(is_number, _is(str), _list(is_number)), "numbers"),
    ("config", "guidance_interval"): (_list(is_number), "numbers"),
    ("config", "correct_steps"): (_either(_is(str), _list(_whole)), "a list of steps"),
    **{("guidance", key): STEPS for key in ("unguided", "predicted")},
    ("cost", "cache_ratio"): SHARE,
    **{("cost", f"cache_ratio_{name}"): SHARE for name in QUARTILES},
    ("cost", "evaluations"): (_number(0, MOST), "a number of evaluations"),
    ("cost", "latency_ratio"): (lambda value: is_number(value) and value > 0, "a number above 0"),
    **{("cost", key): (_number(0), "a number of at least 0")
       for key in ("macs_evaluations", "gmacs_per_image", "ms_per_image")},
    **{(part, key): (_count(0), "a number of samples")
       for part, key in (("converged", "samples"), ("samples", "compared"))},
    ("inflection", "uncorrected_steps"): STEPS,
    ("inflection", "alignment"): (_list(_either(is_number, _is(type(None)))), "a list of numbers"),
    ("amplification",): NUMBER,
    ("cached_steps",): STEPS,
    ("cached_share",): (_list(_number(0, 1)), "a list of shares"),
    ("samples", "folder"): TEXT,
    ("fingerprint",): TEXT,
    ("tuned_on",): (lambda value: isinstance(value, dict) and all(map(_count(0), value.values())),
                    "numbers of samples"),
}  # fmt: skip


def problem_of(result: Any) -> str:
    """Why something that was read is no result, in a few words; empty if it is one."""
    return next(_problems(result), "")


def _problems(result: Any) -> Iterator[str]:
    if not isinstance(result, dict):
        yield "it holds no object"
        return
    yield from _unreadable(result)
    yield from (f"{key} is missing" for key in REQUIRED if result.get(key) is None)
    if not result.get("measurement"):
        yield "measurement is missing"
    for path, (check, expected) in SHAPE.items():
        value = _at(result, path)
        if value is not None and not check(value):
            yield f"{'.'.join(path)} is {_shown(value)}, not {expected}"
    if _at(result, ("config", "model", "name")) is None:
        yield "config.model.name is missing"
    for part in MEASURED:
        for name, value in (result.get(part) or {}).items():
            if value is not None and not is_number(value):
                yield f"{part}.{printable(name)} is {_shown(value)}, not a finite number"
            elif value is not None and name.endswith(ERROR) and value < 0:
                yield f"{part}.{printable(name)} is {_shown(value)}: an error is at least 0"
    yield from _uneven(result)


def _unreadable(value: Any) -> Iterator[str]:
    """What is too deep to be written again, or holds text that cannot be."""
    layer, depth = [value], 0
    while layer:
        if depth > DEEPEST:
            yield f"it is nested more than {DEEPEST} deep"
            return
        texts = [item for item in layer if isinstance(item, str)]
        texts += [key for item in layer if isinstance(item, dict) for key in item]
        if any("\ud800" <= character <= "\udfff" for text in texts if not text.isascii() for character in text):
            yield "it holds half a character"
            return
        inside = [item.values() if isinstance(item, dict) else item for item in layer if isinstance(item, dict | list)]
        layer, depth = [item for items in inside for item in items], depth + 1


def _uneven(result: dict[str, Any]) -> Iterator[str]:
    """Lists over a run's steps that are not of as many steps."""
    shares, alignment = result.get("cached_share"), result["inflection"].get("alignment")
    steps = next((len(values) for values in (shares, alignment) if values is not None), None)
    if steps is None:
        return
    if alignment is not None and len(alignment) != steps:
        yield f"inflection.alignment is of {len(alignment)} steps, cached_share of {steps}"
    for name, cached in (
        ("cached_steps", result.get("cached_steps")),
        ("inflection.uncorrected_steps", result["inflection"].get("uncorrected_steps")),
    ):
        if cached and max(cached) >= steps:
            yield f"{name} has step {max(cached)} of {steps}"


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _shown(value: Any) -> str:
    """A value in an error, short."""
    if isinstance(value, dict | list):
        return "a list" if isinstance(value, list) else "an object"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > LARGEST:
        return "a number too large"
    text = json.dumps(value, ensure_ascii=False)
    return printable(text if len(text) <= 40 else text[:40] + "…")
