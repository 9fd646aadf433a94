"""The checks of goc's caches in a loop or a pipeline: right, refused in one line, or wrong."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

import goc
from compat.loop import STEPS, Loop, counted, difference
from goc.models.network import Site
from goc.pipelines.structure import Layout, layout_of
from goc.system.errors import GocError

RIGHT, REFUSED, LATE, WRONG, FAILED = "right", "refused", "refused in the call", "wrong", "fails"
SAME = 1e-4  # of what is computed once more from the same input
CHANGED = 1e-4  # at least, of what is reused


class Called(Protocol):
    """What is called with a cache in it: a loop, or a pipeline of diffusers.

    others: calls that differ in steps, size, batch and text. residuals: whether a ControlNet's are given, where a loop
    can be `still`. half: bounds of the share that is computed where half is reused: steps may be odd, and features
    start anew where shapes change.
    """

    pipe: Any

    @property
    def transformers(self) -> Sequence[Any]: ...

    @property
    def others(self) -> Sequence[dict[str, Any]]: ...

    @property
    def residuals(self) -> Sequence[bool]: ...

    @property
    def half(self) -> tuple[float, float]: ...

    def call(self, **more: Any) -> Tensor: ...

    def still(self, residuals: bool) -> Tensor: ...


@dataclass(frozen=True)
class Result:
    """What came out of the checks. why: one line, for all that is not right."""

    verdict: str
    why: str = ""


class UnfitError(Exception):
    """A check that does not hold."""


def check(holds: bool, why: str) -> None:
    """Raise UnfitError if something does not hold."""
    if not holds:
        raise UnfitError(why)


def line(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}"[:200]


def verdict(run: Callable[[], None]) -> Result:
    """What a run of checks comes to."""
    try:
        run()
    except UnfitError as unfit:
        return Result(WRONG, str(unfit))
    except RefusedError as refused:
        return Result(REFUSED, str(refused.args[0]).splitlines()[0])
    except GocError as error:
        return Result(LATE, line(error))
    except Exception as error:  # whatever goes wrong in a call is this one's result
        return Result(FAILED, line(error))
    return Result(RIGHT)


class RefusedError(Exception):
    """A cache that cannot be enabled, by its one line."""


class Enabled:
    """A cache in a pipeline, as long as the block lasts."""

    def __init__(self, pipe: Any, method: str, ratio: float | None, **settings: Any) -> None:
        self.pipe, self.method, self.ratio, self.settings = pipe, method, ratio, settings

    def __enter__(self) -> Any:
        try:
            return goc.enable_cache(self.pipe, self.method, self.ratio, **self.settings)
        except GocError as error:
            raise RefusedError(str(error)) from error

    def __exit__(self, *_: Any) -> None:
        goc.disable_cache(self.pipe)


def check_site(called: Called, site: str) -> Result:
    """All checks of a cache at a site; the pipeline is without a cache afterwards, whatever comes of them."""
    torch._dynamo.reset()  # flex attention that failed once fails from then on

    def run() -> None:
        for one in (_same_bits, _half, _same_input, _methods, _others, _failure):
            one(called, site)

    result = verdict(run)
    if hasattr(called.pipe, "_goc_cache"):
        goc.disable_cache(called.pipe)
    return result


def _same_bits(called: Called, site: str) -> None:
    expected, kind = called.call(), type(called.pipe)
    for method, ratio in (("none", None), ("reuse", 0.0)):
        settings = {} if method == "none" else {"site": site}
        with Enabled(called.pipe, method, ratio, **settings):
            check(torch.equal(called.call(), expected), f"{method}, {ratio}: other bits than without a cache")
        check(type(called.pipe) is kind, "disable_cache leaves another class")
    check(torch.equal(called.call(), expected), "disable_cache: other bits than before")


def places(transformer: Any, site: str) -> Layout:
    """Where a cache would be, or why there is none."""
    try:
        return layout_of(transformer, cast(Site, site))
    except GocError as error:
        raise RefusedError(str(error)) from error


def _half(called: Called, site: str) -> None:
    modules = [
        transformer.get_submodule(place.name)
        for transformer in called.transformers
        for place in places(transformer, site).places
    ]
    with counted(modules) as uncached:
        expected = called.call()
    with counted(modules) as half, Enabled(called.pipe, "reuse", 0.5, site=site):
        called.call()  # a pass whose operations cannot be counted begins anew, once
        half.clear()
        cached = called.call()
    check(sum(uncached.values()) > 0, "no place is computed")
    low, high = called.half
    check(
        all(low * times <= half[module] <= high * times for module, times in uncached.items()),
        f"half reused: {half.total()} of {uncached.total()} calls of its modules are computed",
    )
    check(bool(cached.isfinite().all()), "half reused: not finite")
    check(difference(cached, expected) > CHANGED, "half reused: nothing changes")


def _same_input(called: Called, site: str) -> None:
    for residuals in called.residuals:
        expected = called.still(residuals)
        drift = difference(expected[1:], expected[:1].expand_as(expected[1:]))
        with Enabled(called.pipe, "reuse", 0.5, site=site):
            error = difference(called.still(residuals), expected)
        what = " with residuals" if residuals else ""
        check(error <= max(SAME, drift), f"same input{what}: reuse is {error:.2g} from computing")


def _methods(called: Called, site: str) -> None:
    for method in ("goc", "taylorseer"):
        with Enabled(called.pipe, method, 0.5, site=site):
            check(bool(called.call().isfinite().all()), f"{method}: not finite")


def _others(called: Called, site: str) -> None:
    alone = []
    for more in called.others:
        with Enabled(called.pipe, "taylorseer", 0.5, site=site):
            alone.append(called.call(**more))
    with Enabled(called.pipe, "taylorseer", 0.5, site=site) as cache:
        for more, expected in zip(called.others, alone, strict=True):
            check(torch.equal(called.call(**more), expected), f"{more}: depends on the calls before")
            check(cache.tensors_held() == 0, f"{cache.tensors_held()} tensors are held after a call")


class BrokenError(Exception):
    """What a block raises in a test."""


def _failure(called: Called, site: str) -> None:
    uncached = called.call()
    with Enabled(called.pipe, "taylorseer", 0.5, site=site) as cache:
        expected = called.call()
        module = called.transformers[0].get_submodule(cache.layout.places[0].name)
        calls = 0

        def fail(*_: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise BrokenError

        handle = module.register_forward_pre_hook(fail)
        try:
            called.call()
            check(False, "an error in a block does not arrive")
        except BrokenError:
            pass
        finally:
            handle.remove()
        check(cache.tensors_held() == 0 and not cache.active, "an error in a block leaves something behind")
        check(torch.equal(called.call(), expected), "after an error in a block: other bits")
    check(torch.equal(called.call(), uncached), "disable_cache: other bits than before")


class OfClass:
    """A loop around a tiny transformer, as what is checked."""

    half = 0.5, 0.5

    def __init__(self, loop: Loop, others: Sequence[dict[str, Any]], steps: int = STEPS) -> None:
        self.pipe, self.others, self.steps = loop, others, steps
        self.transformers = [loop.transformer]
        self.residuals = (False, True) if loop.tiny.residuals is not None else (False,)

    def call(self, **more: Any) -> Tensor:
        return self.pipe(**{"steps": self.steps, **more})

    def still(self, residuals: bool) -> Tensor:
        return self.pipe(steps=4, still=True, residuals=residuals)
