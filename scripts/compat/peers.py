"""The same questions to the caches of others, on the same tiny transformers: diffusers' own, and cache-dit's."""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from compat.checks import CHANGED, FAILED, REFUSED, RIGHT, SAME, WRONG, Result, UnfitError, check, line
from compat.loop import Loop, counted, difference

NOTHING = "caches nothing"
ABSENT = "has none"  # of a class that diffusers says nothing about
ALWAYS = 1e9  # a threshold below which every change is


def first_block(transformer: Any) -> Callable[[], None]:
    """diffusers' FirstBlockCache, which caches whatever it can."""
    from diffusers import FirstBlockCacheConfig

    transformer.enable_cache(FirstBlockCacheConfig(threshold=ALWAYS))
    return transformer.disable_cache


def taylorseer(transformer: Any) -> Callable[[], None]:
    """diffusers' TaylorSeer, with the modules that it chooses."""
    from diffusers import TaylorSeerCacheConfig

    transformer.enable_cache(
        TaylorSeerCacheConfig(
            cache_interval=2, disable_cache_before_step=1, max_order=1, taylor_factors_dtype=torch.float32
        )
    )
    return transformer.disable_cache


def cache_dit(transformer: Any) -> Callable[[], None]:
    """cache-dit's DBCache with one computed block, which caches whatever it can."""
    os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "ERROR")  # read when it is imported
    import cache_dit as library

    settings = library.DBCacheConfig(
        Fn_compute_blocks=1, Bn_compute_blocks=0, residual_diff_threshold=ALWAYS, max_warmup_steps=1,
        enable_separate_cfg=False,
    )  # fmt: skip
    library.enable_cache(transformer, cache_config=settings)
    return lambda: library.disable_cache(transformer)


PEERS: dict[str, Callable[[Any], Callable[[], None]]] = {
    "diffusers' FirstBlock": first_block, "diffusers' TaylorSeer": taylorseer, "cache-dit": cache_dit,
}  # fmt: skip


def check_peer(name: str, make: Callable[[], Loop], others: list[dict[str, Any]]) -> Result:
    """Whether another's cache caches something, is right for the same input, runs in other calls, and comes out."""
    torch._dynamo.reset()
    loop = make()
    if name.startswith("diffusers") and not hasattr(loop.transformer, "enable_cache"):
        return Result(ABSENT)
    uncached = {residuals: loop(steps=4, still=True, residuals=residuals) for residuals in residuals_of(loop)}
    ordinary = loop()
    leaves = [module for module in loop.transformer.modules() if isinstance(module, nn.Linear)]
    with counted(leaves) as before:
        loop()
    try:
        disable = PEERS[name](loop.transformer)
    except Exception as error:  # whatever another project says is this one's result
        return Result(REFUSED, line(error))
    try:
        with counted(leaves) as cached_calls:
            cached = loop()
        if torch.equal(cached, ordinary) and cached_calls == before:
            return Result(NOTHING)
        check(difference(cached, ordinary) > CHANGED and cached_calls.total() < before.total(), "nothing is saved")
        for residuals, expected in uncached.items():
            drift = difference(expected[1:], expected[:1].expand_as(expected[1:]))
            far = difference(renewed(name, make, loop)(steps=4, still=True, residuals=residuals), expected)
            what = " with residuals" if residuals else ""
            check(far <= max(SAME, drift), f"same input{what}: reuse is {far:.2g} from computing")
        for more in others:
            check(bool(renewed(name, make, loop)(**more).isfinite().all()), f"{more}: not finite")
        disable()
        check(torch.equal(loop(), ordinary), "other bits than before")
    except UnfitError as unfit:
        return Result(WRONG, str(unfit))
    except Exception as error:
        return Result(FAILED, line(error))
    return Result(RIGHT)


def residuals_of(loop: Loop) -> tuple[bool, ...]:
    """With a ControlNet's residuals and without, where there are such."""
    return (False, True) if loop.tiny.residuals is not None else (False,)


def renewed(name: str, make: Callable[[], Loop], loop: Loop) -> Loop:
    """A loop at the beginning of a call: cache-dit forgets a call when it is enabled anew."""
    if name != "cache-dit":
        return loop
    fresh = make()
    PEERS[name](fresh.transformer)
    return fresh
