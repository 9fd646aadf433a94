"""The plans of methods that select tokens, from settings."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from closeness import assert_near
from plans import planned

from goc.caching.cache import ScheduledCache
from goc.caching.halves import HalfCaches
from goc.caching.selection import Clusters, ToCa
from goc.models.dit import DiT
from goc.system.errors import ConfigError

GUIDED, INTERVAL = "cfg_scale=1.5", "guidance_interval=[0.3,5]"
CLUSCA = ("method=clusca", "selection.clusters=2")


def cache_of(model: DiT, folder: Path, *settings: str) -> ScheduledCache:
    plan, _ = planned(model, folder, *settings)
    cache = plan.new_cache()
    assert isinstance(cache, ScheduledCache)
    return cache


def test_without_a_selection_there_is_none(tiny_dit: DiT, tmp_path: Path) -> None:
    cache = cache_of(tiny_dit, tmp_path, "method=reuse")
    assert cache.selection is None
    assert not cache.skipped


@pytest.mark.parametrize(
    ("settings", "interval"),
    [
        (["method=toca", "schedule.interval=4"], 4),
        (["method=toca", "cache_ratio=0.6"], 5),  # the interval closest to the ratio
        (["method=reuse", "selection=toca", "cache_ratio=0.8"], 5),  # a schedule without one: the mean distance
    ],
)
def test_a_tokens_age_counts_in_the_schedules_intervals(
    tiny_dit: DiT, tmp_path: Path, settings: list[str], interval: float
) -> None:
    cache = cache_of(tiny_dit, tmp_path, *settings)
    assert isinstance(cache.selection, ToCa)
    assert cache.selection.interval == pytest.approx(interval)


def test_settings_of_a_selection_reach_it(tiny_dit: DiT, tmp_path: Path) -> None:
    cache = cache_of(tiny_dit, tmp_path, *CLUSCA, "selection.propagation=0.5")
    assert isinstance(cache.selection, Clusters)
    assert (cache.selection.clusters, cache.selection.propagation) == (2, 0.5)
    cache = cache_of(tiny_dit, tmp_path, "method=duca", "schedule.interval=5", "selection.ratio=0.3")
    assert isinstance(cache.selection, ToCa)
    assert cache.selection.bonus == 1.8
    assert cache.skipped
    assert cache.selection.counts(4)[sorted(cache.skipped)].sum() == 0


def test_a_selection_where_no_mlp_is_cached_is_refused(tiny_dit: DiT, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^selection=toca: must be none where no MLP is cached \(schedule=fora\)$"):
        planned(tiny_dit, tmp_path, "method=fora", "schedule.interval=1", "selection=toca")


@pytest.mark.parametrize("settings", [("method=duca", "schedule.interval=5"), CLUSCA])
def test_a_half_that_is_not_always_evaluated_has_a_selection_of_its_own(
    tiny_dit: DiT, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    plan, generation = planned(tiny_dit, tmp_path, GUIDED, INTERVAL, *settings)
    caches = plan.new_cache()
    assert isinstance(caches, HalfCaches)
    places, cache = caches.halves.places, caches.unconditional
    assert isinstance(cache, ScheduledCache)
    assert {places[place] for place in cache.skipped} == {i for i in places[1:] if i in plan.skipped}
    cached = replace(generation, new_cache=plan.new_cache)
    together = cached.make(range(3))[0]["latents"]
    assert_near(together[1:2], cached.make(range(1, 2))[0]["latents"])
    assert torch.isfinite(together).all()
