"""Rules that decide as a pipeline runs, against those of diffusers with the same thresholds."""

from typing import Any

import pytest
import torch
from closeness import assert_near, relative_difference
from diffusers import FirstBlockCacheConfig, MagCacheConfig, SeaCacheConfig
from tiny_pipelines import MAKERS, call, wan
from torch import Tensor

import goc
from goc.caching.cache import ScheduledCache
from goc.caching.predictor import Reuse
from goc.caching.schedule import magcache
from goc.pipelines.enable import attach
from goc.pipelines.session import Run

STEPS = 10
METHODS = ("first_block", "dicache", "seacache", "easycache", "teacache")


def skipping(name: str, method: str, threshold: float, **settings: Any) -> tuple[Tensor, Any]:
    pipe = MAKERS[name]()
    cache = goc.enable_cache(pipe, method, threshold=threshold, **settings)
    return call(pipe, steps=STEPS), cache.summary()


@pytest.mark.parametrize("name", ["flux", "sd3", "wan", "pixart", "dit"])
@pytest.mark.parametrize("method", METHODS)
def test_a_larger_threshold_skips_more_and_none_changes_nothing(name: str, method: str) -> None:
    expected = call(MAKERS[name](), steps=STEPS)
    shares = []
    for threshold in (0.0, 0.5, 1e9):
        samples, summary = skipping(name, method, threshold)
        shares.append(summary.cached_share)
        if threshold == 0:
            assert torch.equal(samples, expected)
    assert shares[0] == 0 < shares[2]
    assert shares == sorted(shares)
    assert samples.isfinite().all()
    assert relative_difference(samples, expected) > 1e-4


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("name", ["flux", "wan"])
def test_the_first_blocks_rule_is_that_of_diffusers(name: str, threshold: float, guidance: float) -> None:
    pipe = MAKERS[name]()
    uncached = call(pipe, guidance=guidance, steps=STEPS)
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))
    expected = call(pipe, guidance=guidance, steps=STEPS)
    pipe.transformer.disable_cache()
    cache = goc.enable_cache(pipe, "first_block", threshold=threshold)
    assert_near(call(pipe, guidance=guidance, steps=STEPS), expected)
    if threshold == 1.0:
        assert cache.summary().cached_share > 0
        assert relative_difference(expected, uncached) > 1e-3


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("threshold", [0.02, 0.1, 0.4])
def test_seacache_is_that_of_diffusers(threshold: float, guidance: float) -> None:
    pipe = wan()
    uncached = call(pipe, guidance=guidance, steps=STEPS)
    pipe.transformer.enable_cache(SeaCacheConfig(threshold=threshold))
    expected = call(pipe, guidance=guidance, steps=STEPS)
    pipe.transformer.disable_cache()
    cache = goc.enable_cache(pipe, "seacache", threshold=threshold)
    assert_near(call(pipe, guidance=guidance, steps=STEPS), expected)
    if threshold == 0.4:
        assert cache.summary().cached_share > 0
        assert relative_difference(expected, uncached) > 1e-3


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("threshold", [0.05, 0.3])
@pytest.mark.parametrize("name", ["flux", "wan"])
def test_magcache_with_given_magnitudes_is_that_of_diffusers(name: str, threshold: float, guidance: float) -> None:
    ratios = 1 - 0.02 * torch.arange(STEPS, dtype=torch.float64)
    pipe = MAKERS[name]()
    pipe.transformer.enable_cache(
        MagCacheConfig(threshold=threshold, num_inference_steps=STEPS, mag_ratios=ratios.tolist())
    )
    expected = call(pipe, guidance=guidance, steps=STEPS)
    pipe.transformer.disable_cache()
    mask = magcache(ratios, threshold, 3, 0.2)

    def new_cache(run: Run) -> ScheduledCache:
        spread = run.layout.spread(mask)
        return ScheduledCache(spread, Reuse(spread), "stack")

    cache = attach(pipe, new_cache, site="stack")
    assert_near(call(pipe, guidance=guidance, steps=STEPS), expected)
    assert 0 < cache.summary().cached_share < 1
