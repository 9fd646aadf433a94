"""What predictors hold in fewer bits than they are given: how much that is, and that it stands for the same value."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest
import torch
from cells import CELL, used_values
from closeness import assert_near, relative_difference
from generations import generation
from torch import Tensor

from goc.caching.anchored import AnchoredQueue
from goc.caching.cache import AdaptiveCache, ScheduledCache
from goc.caching.decision import TeaCache
from goc.caching.expansion import HiCache, Taylor
from goc.caching.predictor import GradientQueue, Predictor, Reuse
from goc.caching.samples import SampleCaches
from goc.caching.schedule import uniform
from goc.models.dit import DiT
from goc.models.network import Site
from goc.models.packed import FLOAT8, Packed, packed

FORMATS = {torch.float32: 4.0, torch.bfloat16: 2.0, FLOAT8: 1.0}  # bytes of a value
PREDICTORS: dict[str, Callable[..., Predictor]] = {
    "reuse": Reuse,
    "goc": partial(GradientQueue, weights=[1.2, -0.3]),
    "anchored": partial(AnchoredQueue, weights=[1.0]),
    "taylor": partial(Taylor, order=2),
    "hicache": partial(HiCache, order=2, sigma=0.5),
}
MASK = torch.tensor([False, False, True, False, True, True, False, True]).view(-1, 1, 1)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def smooth() -> Tensor:
    """A feature in every step [steps, N, tokens, hidden] that moves along a parabola."""
    start, slope, bend = torch.randn(3, 1, 2, 6, 8, generator=torch.Generator().manual_seed(3))
    t = torch.arange(len(MASK)).view(-1, 1, 1, 1) / 10
    return start + slope * t + bend * t**2


@pytest.mark.parametrize("name", PREDICTORS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.02), (FLOAT8, 0.2)])
def test_values_are_near_those_of_float32(name: str, dtype: torch.dtype, tolerance: float) -> None:
    forms = (dtype, None)
    rounded, exact = (torch.stack(used_values(PREDICTORS[name](MASK, dtype=form), MASK, smooth())) for form in forms)
    assert 0 < relative_difference(rounded, exact) < tolerance


@pytest.mark.parametrize("name", PREDICTORS)
def test_bytes_held_are_as_many_as_the_format_says(name: str) -> None:
    peaks = {}
    for dtype in FORMATS:
        cache = ScheduledCache(MASK, PREDICTORS[name](MASK, dtype=dtype))
        for step, feature in enumerate(smooth()):
            cache.begin_step(step)
            if cache.lookup(*CELL) is None:
                cache.store(*CELL, feature.clone())
        peaks[dtype] = cache.peak_cache_tensors, cache.peak_cache_bytes
    (count, _), *_ = peaks.values()
    for dtype, size in FORMATS.items():
        scales = 2 * 4 if dtype == FLOAT8 else 0
        assert peaks[dtype] == (count, count * (2 * 6 * 8 * size + scales))


def test_a_prediction_in_float8_is_made_of_the_feature_as_it_was_computed() -> None:
    before, feature = torch.randn(2, 2, 6, 8)
    mask = torch.tensor([False, False, True]).view(-1, 1, 1)
    queue = GradientQueue(mask, [1.0], dtype=FLOAT8)
    queue.store(0, CELL, before)
    queue.store(1, CELL, feature.clone())
    ((coefficient, value),) = queue.predict(2, CELL)
    assert isinstance(value, Packed)
    assert coefficient == 1
    assert_near(value.unpacked(), packed(2 * feature - packed(before).unpacked()).unpacked())


@pytest.mark.parametrize("site", ["branch", "stack"])
@pytest.mark.parametrize("name", PREDICTORS)
def test_samples_held_in_float8_are_near_those_held_as_they_come(tiny_dit: DiT, name: str, site: Site) -> None:
    mask = uniform(4, 3, 0.5) if site == "branch" else uniform(4, 3, 0.5)[:, :1, :1]
    latents, held = [], []
    for dtype in (FLOAT8, None):
        predictor = partial(PREDICTORS[name], mask, dtype=dtype)

        def new_cache(predictor: Callable[[], Predictor] = predictor) -> ScheduledCache:
            return ScheduledCache(mask, predictor(), site)

        cached = replace(generation(tiny_dit), new_cache=new_cache)
        made, cache = cached.make(range(3))
        assert isinstance(cache, ScheduledCache)
        latents.append(made["latents"])
        held.append(cache.peak_cache_bytes)
    assert 0 < relative_difference(*latents) < 0.1
    assert held[1] / 4 < held[0] < held[1] / 3  # a scale for each row


@pytest.mark.parametrize("name", ["reuse", "taylor"])
def test_samples_that_decide_for_themselves_part_and_join_in_float8(tiny_dit: DiT, name: str) -> None:
    possible = torch.ones(4, 1, 1, dtype=torch.bool)
    possible[0] = False

    def new_cache() -> AdaptiveCache:
        return AdaptiveCache(possible, PREDICTORS[name](possible, dtype=FLOAT8), TeaCache(1.0), "stack", True)

    cached = replace(generation(tiny_dit), new_cache=new_cache)
    together, cache = cached.make(range(8))
    assert isinstance(cache, SampleCaches)
    assert len({str(mask.tolist()) for mask in cache.mask}) > 1  # they part
    for sample in range(8):
        alone, _ = cached.make(range(sample, sample + 1))
        # rounding may tip a value to the next float8, which is no more than a few hundredths of one of many
        assert_near(alone["latents"][0], together["latents"][sample], 1e-3)
