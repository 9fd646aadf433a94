"""The caches in five of diffusers' pipelines: DiT, PixArt-Sigma, SD3, FLUX and Wan, tiny and random."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from closeness import relative_difference
from tiny_pipelines import BLOCKS, MAKERS, STEPS, caching, call
from torch import nn

import goc

GUIDANCE = (1.0, 3.0)
SITES = ("branch", "stack")


@pytest.fixture(params=list(MAKERS), scope="module")
def pipe(request: pytest.FixtureRequest) -> Any:
    return MAKERS[request.param]()


@pytest.fixture(autouse=True)
def _without_cache(pipe: Any) -> Iterator[None]:
    yield
    if hasattr(pipe, "_goc_cache"):
        goc.disable_cache(pipe)


class Computed:
    """Counts how often modules are computed."""

    def __init__(self, *modules: nn.Module) -> None:
        self.times: Counter[nn.Module] = Counter()
        for module in modules:
            self._count(module)

    def _count(self, module: nn.Module) -> None:
        forward = module.forward

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.times[module] += 1
            return forward(*args, **kwargs)

        module.forward = counted

    def close(self) -> None:
        for module in self.times:
            del module.forward


def branches_of(pipe: Any) -> list[nn.Module]:
    """The modules that do a block's work: attention and feed-forward, as their blocks call them."""
    names = ("attn", "attn1", "attn2", "ff", "ff_context", "ffn", "proj_mlp", "proj_out")
    return [m for name, m in pipe.transformer.named_modules() if "blocks." in name and name.split(".")[-1] in names]


def blocks_of(pipe: Any) -> list[nn.Module]:
    lists = ("blocks", "transformer_blocks", "single_transformer_blocks")
    return [block for name in lists for block in getattr(pipe.transformer, name, [])]


@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize("site", SITES)
def test_a_cache_that_caches_nothing_changes_no_bit(pipe: Any, site: str, guidance: float) -> None:
    expected = call(pipe, guidance=guidance)
    goc.enable_cache(pipe, "reuse", 0.0, site=site)
    assert torch.equal(call(pipe, guidance=guidance), expected)


@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize(("site", "modules"), [("branch", branches_of), ("stack", blocks_of)])
def test_half_reused_computes_every_second_time_and_differs(
    pipe: Any, site: str, modules: Any, guidance: float
) -> None:
    expected = call(pipe, guidance=guidance)
    without = Computed(*modules(pipe))
    call(pipe, guidance=guidance)
    without.close()
    with_cache = Computed(*modules(pipe))
    with caching(pipe, "reuse", 0.5, site=site) as cache:
        samples = call(pipe, guidance=guidance)
    with_cache.close()
    assert with_cache.times == {module: times / 2 for module, times in without.times.items()}
    assert len(with_cache.times) >= BLOCKS
    assert samples.isfinite().all()
    assert relative_difference(samples, expected) > 1e-3
    assert cache.summary().cached_share == 0.5


@pytest.mark.parametrize("site", SITES)
def test_without_the_cache_the_samples_are_what_they_were(pipe: Any, site: str) -> None:
    expected = call(pipe)
    kind = type(pipe)
    cached = []
    for _ in range(2):
        with caching(pipe, "goc", 0.5, site=site):
            cached.append(call(pipe))
        assert type(pipe) is kind
        assert torch.equal(call(pipe), expected)
    assert torch.equal(*cached)
    assert not torch.equal(cached[0], expected)


@pytest.mark.parametrize("site", SITES)
def test_calls_of_other_prompts_steps_and_batches_do_not_disturb_each_other(pipe: Any, site: str) -> None:
    calls: list[dict[str, Any]] = [{"tokens": 5}, {"tokens": 8}, {"steps": STEPS + 3}, {"guidance": 1.0}]
    if type(pipe).__name__ != "WanPipeline":
        calls.append({"batch": 2})
    alone = []
    for settings in calls:
        with caching(pipe, "taylorseer", 0.5, site=site):
            alone.append(call(pipe, **settings))
    cache = goc.enable_cache(pipe, "taylorseer", 0.5, site=site)
    for settings, expected in zip(calls, alone, strict=True):
        assert torch.equal(call(pipe, **settings), expected)
        assert cache.tensors_held() == 0
