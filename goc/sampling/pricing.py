"""What samples cost: MACs and held tensors as counted, and the time of the sampling loop beside the uncached one."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from goc.sampling.generation import SampleSource
from goc.sampling.shards import SampleSet


def price(samples: SampleSet, uncached: SampleSource) -> dict[str, Any]:
    """MACs and held tensors of a run, from what was counted for its shards: what really ran, averaged over samples."""
    shards = list(samples.costs())

    def average(key: str) -> float:
        return sum(count * cost[key] for count, cost in shards) / samples.num_samples

    macs, full = average("macs_per_image"), uncached.cost(None)["macs_per_image"]
    held = ("peak_cache_tensors", "peak_cache_bytes")
    ratio = average("cache_ratio")
    each = [ratio for _, cost in shards for ratio in cost.get("cache_ratios", [])]
    return {
        "cache_ratio": ratio,
        **spread(each),
        "evaluations": uncached.evaluations * (1 - ratio),  # of the whole network; parts of it count as parts
        "macs_evaluations": macs / (full / uncached.evaluations),
        "gmacs_per_forward": uncached.macs_per_forward / 1e9,
        "gmacs_per_image": macs / 1e9,
        "macs_saved": 1 - macs / full,
        **{key: max(cost[key] for _, cost in shards) for key in held},
    }


def spread(ratios: Sequence[float]) -> dict[str, float]:
    """How samples differ in what was cached of them, where each has a ratio of its own."""
    if not ratios:
        return {}
    names = ("min", "q25", "median", "q75", "max")
    quartiles = dict(zip(names, np.quantile(ratios, np.linspace(0, 1, len(names))), strict=True))
    return {f"cache_ratio_{name}": float(value) for name, value in {"std": np.std(ratios), **quartiles}.items()}


def latency(cached: SampleSource, uncached: SampleSource, samples: int, repeats: int) -> dict[str, float | None]:
    """Milliseconds per image of the sampling loop in batches of `samples`; None without repeats."""
    if repeats == 0:
        return {"ms_per_image": None, "ms_per_image_uncached": None, "latency_ratio": None}
    seconds, reference = side_by_side([cached, uncached], samples, repeats)
    return {
        "ms_per_image": 1000 * seconds,
        "ms_per_image_uncached": 1000 * reference,
        "latency_ratio": seconds / reference,
    }


def side_by_side(generations: Sequence[SampleSource], samples: int, repeats: int) -> list[float]:
    """Sampling time of each generation, seconds per image in batches of `samples`: the sum of each step's fastest.

    The generations take turns, one trajectory each, so that a machine whose speed drifts favours none of them; a step
    that something disturbed does not count if another repeat was spared.
    """
    fastest: list[list[float]] = [[] for _ in generations]
    for _ in range(repeats):
        for generation, best in zip(generations, fastest, strict=True):
            seconds = generation.step_seconds(samples)
            best[:] = map(min, best or [math.inf] * len(seconds), seconds)
    return [sum(best) / samples for best in fastest]
