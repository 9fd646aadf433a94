"""Rules that decide as a pipeline runs, against those of diffusers with the same thresholds."""

from functools import cache
from typing import Any

import pytest
import torch
from closeness import assert_near, relative_difference
from diffusers import FirstBlockCacheConfig, MagCacheConfig, SeaCacheConfig
from tiny_pipelines import MAKERS, call
from torch import Tensor

import goc
from goc.caching.cache import ScheduledCache
from goc.caching.predictor import Reuse
from goc.caching.schedule import magcache
from goc.pipelines.enable import attach
from goc.pipelines.session import PipelineError, Run

STEPS = 10
METHODS = ("first_block", "dicache", "seacache", "easycache", "teacache")


@cache
def without_cache(name: str) -> Tensor:
    return call(MAKERS[name](), steps=STEPS)


def skipping(name: str, method: str, threshold: float, **settings: Any) -> tuple[Tensor, Any]:
    pipe = MAKERS[name]()
    cache = goc.enable_cache(pipe, method, threshold=threshold, **settings)
    return call(pipe, steps=STEPS), cache.summary()


@pytest.mark.parametrize("name", ["flux", "sd3", "wan", "pixart", "dit"])
@pytest.mark.parametrize("method", METHODS)
def test_a_larger_threshold_skips_more_and_none_changes_nothing(name: str, method: str) -> None:
    expected = without_cache(name)
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


def of_diffusers(name: str, config: Any, guidance: float) -> tuple[Any, Tensor, Tensor]:
    """A pipeline, what it gives without a cache, and with one of diffusers, which is taken out again."""
    pipe = MAKERS[name]()
    uncached = call(pipe, guidance=guidance, steps=STEPS)
    pipe.transformer.enable_cache(config)
    expected = call(pipe, guidance=guidance, steps=STEPS)
    pipe.transformer.disable_cache()
    return pipe, uncached, expected


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize(
    ("name", "method", "threshold"),
    [*((name, "first_block", threshold) for name in ("flux", "wan") for threshold in (0.05, 0.2, 0.5, 1.0)),
     *(("wan", "seacache", threshold) for threshold in (0.02, 0.1, 0.4))],
)  # fmt: skip
def test_the_rules_are_those_of_diffusers(name: str, method: str, threshold: float, guidance: float) -> None:
    config = {"first_block": FirstBlockCacheConfig, "seacache": SeaCacheConfig}[method](threshold=threshold)
    pipe, uncached, expected = of_diffusers(name, config, guidance)
    cache = goc.enable_cache(pipe, method, threshold=threshold)
    assert_near(call(pipe, guidance=guidance, steps=STEPS), expected)
    if threshold == {"first_block": 1.0, "seacache": 0.4}[method]:
        assert cache.summary().cached_share > 0
        assert relative_difference(expected, uncached) > 1e-3


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("threshold", [0.05, 0.3])
@pytest.mark.parametrize("name", ["flux", "wan"])
def test_magcache_with_given_magnitudes_is_that_of_diffusers(name: str, threshold: float, guidance: float) -> None:
    ratios = 1 - 0.02 * torch.arange(STEPS, dtype=torch.float64)
    config = MagCacheConfig(threshold=threshold, num_inference_steps=STEPS, mag_ratios=ratios.tolist())
    pipe, _, expected = of_diffusers(name, config, guidance)
    mask = magcache(ratios, threshold, 3, 0.2)

    def new_cache(run: Run) -> ScheduledCache:
        spread = run.layout.spread(mask)
        return ScheduledCache(spread, Reuse(spread), "stack")

    cache = attach(pipe, new_cache, site="stack")
    assert_near(call(pipe, guidance=guidance, steps=STEPS), expected)
    assert 0 < cache.summary().cached_share < 1


@pytest.mark.parametrize(("name", "threshold"), [("wan", 0.25), ("wan", 0.3), ("pixart", 0.8), ("pixart", 0.95)])
def test_the_first_blocks_rule_is_that_of_cache_dit(
    name: str, threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its F1B0, which has no threshold of 1 or more: there it caches always."""
    monkeypatch.setenv("CACHE_DIT_LOG_LEVEL", "ERROR")
    cache_dit = pytest.importorskip("cache_dit")
    pipe = MAKERS[name]()
    uncached = call(pipe, guidance=1.0, steps=STEPS)
    config = cache_dit.DBCacheConfig(
        Fn_compute_blocks=1, Bn_compute_blocks=0, max_warmup_steps=1, max_cached_steps=-1,
        max_continuous_cached_steps=-1, residual_diff_threshold=threshold, num_inference_steps=STEPS,
        enable_separate_cfg=False,
    )  # fmt: skip
    cache_dit.enable_cache(pipe, cache_config=config)
    expected = call(pipe, guidance=1.0, steps=STEPS)
    with pytest.raises(PipelineError, match="has a cache of cache-dit"):
        goc.enable_cache(pipe)
    cache_dit.disable_cache(pipe)
    cache = goc.enable_cache(MAKERS[name](), "first_block", threshold=threshold)
    assert_near(call(cache.pipe, guidance=1.0, steps=STEPS), expected)
    assert 0 < cache.summary().cached_share < 1
    assert relative_difference(expected, uncached) > 1e-5
