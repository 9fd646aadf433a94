"""For caches that skip a whole transformer: what it gave, from its latents to its output, and what stands in for it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from goc.caching.cache import AdaptiveCache
from goc.models.seen import Seen
from goc.pipelines.forward_pass import ForwardPass
from goc.pipelines.structure import StructureError

CELL = (0, 0)


def sample_of(output: Any) -> Tensor:
    """The tensor that a transformer predicts: its output, or the first of its outputs; raises StructureError."""
    first = next(iter(output.values())) if isinstance(output, Mapping) else output
    first = first[0] if isinstance(first, tuple) else first
    if not isinstance(first, Tensor):
        raise StructureError(f"the transformer gives {type(first).__name__}, not a tensor; use another schedule")
    return first


def with_sample(output: Any, sample: Tensor) -> Any:
    """An output like another one, with another prediction."""
    if isinstance(output, Mapping):
        (name, _), *others = output.items()
        return type(output)(**{name: sample, **dict(others)})
    return (sample, *output[1:]) if isinstance(output, tuple) else sample


def channels_of(latents: Tensor, sample: Tensor) -> int | None:
    """The channels of a prediction that go on from the latents, the others being a variance's; None: none do."""
    if latents.shape[:1] + latents.shape[2:] != sample.shape[:1] + sample.shape[2:]:
        return None
    return latents.shape[1] if latents.shape[1] <= sample.shape[1] else None


def seen_of(under_way: ForwardPass) -> Seen:
    """What such a cache looks at."""
    x = under_way.latents
    return Seen(x, x, x, lambda: x)


def stand_in(under_way: ForwardPass) -> Any:
    """The transformer's output if this step is skipped, or None."""
    stream, x = under_way.stream, under_way.latents
    under_way.decide_by(seen_of(under_way))
    value = stream.value(CELL) if stream.template is not None else None
    if value is None:
        return None
    sample = value.clone()
    if (channels := channels_of(x, sample)) is not None:
        sample[:, :channels] += x
    under_way.cached = len(under_way.layout.places)
    under_way.saved = under_way.operations.whole
    return with_sample(stream.template, sample)


def keep(under_way: ForwardPass, output: Any) -> None:
    """The transformer was computed."""
    stream, x, sample = under_way.stream, under_way.latents, sample_of(output)
    added, channels = sample.clone(), channels_of(x, sample)
    if channels is not None:
        added[:, :channels] -= x
    stream.template = with_sample(output, sample[:0])
    stream.give(CELL, added)
    under_way.computed = len(under_way.layout.places)
    assert isinstance(stream.cache, AdaptiveCache)
    stream.cache.decision.computed(seen_of(under_way), sample if channels is None else sample[:, :channels])
