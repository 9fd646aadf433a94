"""A pipeline's loop around a tiny transformer: what a pipeline of diffusers does, without its encoders."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, is_dataclass, replace
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from compat.tiny import Ask, Tiny

STEPS = 6
STILL = 2.0**-13  # by which timesteps differ in a loop whose steps are all alike: they are told apart, little else is


class Loop:
    """A stand-in for a pipeline: a transformer, a scheduler, and a call that goes through its timesteps."""

    def __init__(self, tiny: Tiny) -> None:
        self.tiny, self.transformer = tiny, tiny.build()
        self.scheduler: Any = FlowMatchEulerDiscreteScheduler()

    @torch.no_grad()
    def __call__(
        self, ask: Ask | None = None, steps: int = STEPS, *, still: bool = False, residuals: bool = False
    ) -> Tensor:
        """What the transformer gives in every step, [steps, numbers].

        still: every step is given the same latents, and all but the same timestep. residuals: those of a ControlNet are
        given too.
        """
        ask = ask or Ask()
        self.scheduler.set_timesteps(steps)
        latents = self.tiny.arguments(ask)[self.tiny.latents]
        outputs = []
        for step, (t, sigma, after) in enumerate(
            zip(self.scheduler.timesteps, self.scheduler.sigmas[:-1], self.scheduler.sigmas[1:], strict=True)
        ):
            now = replace(ask, t=500 + STILL * step if still else float(t))
            arguments = self.tiny.arguments(now)
            if residuals and self.tiny.residuals is not None:
                arguments |= self.tiny.residuals(now)
            if not still:
                arguments[self.tiny.latents] = latents
            with self.context():
                output = tensors_of(self.transformer(**arguments))
            outputs.append(torch.cat([tensor.flatten().float() for tensor in output]))
            latents = tree_map(lambda x, o=output[0], d=after - sigma: x + d * alike(o, x), latents)
        if getattr(self.transformer, "is_cache_enabled", False):  # as a pipeline's maybe_free_model_hooks
            self.transformer._reset_stateful_cache()
        return torch.stack(outputs)

    def context(self) -> contextlib.AbstractContextManager[Any]:
        """The name that a pipeline gives to its calls of the transformer."""
        named = getattr(self.transformer, "cache_context", None)
        return contextlib.nullcontext() if named is None else named("cond")


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors in whatever a model gives."""
    if is_dataclass(output) and not isinstance(output, type):
        output = asdict(output)
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def alike(output: Tensor, latents: Tensor) -> Tensor:
    """An output in the shape of the latents: cut off, or over and over again."""
    if output.shape == latents.shape:
        return output
    flat = output.flatten()
    return flat[torch.arange(latents.numel()) % flat.numel()].view_as(latents)


@contextlib.contextmanager
def counted(modules: Sequence[nn.Module]) -> Iterator[Counter[nn.Module]]:
    """Counts how often modules are computed, by their forward: whoever comes later stands around that."""
    times: Counter[nn.Module] = Counter()
    before = [(module, module.__dict__.get("forward")) for module in modules]

    def count(module: nn.Module) -> None:
        forward = module.forward

        def counting(*args: Any, **kwargs: Any) -> Any:
            times[module] += 1
            return forward(*args, **kwargs)

        module.forward = counting  # as a hook does

    for module in modules:
        count(module)
    try:
        yield times
    finally:
        for module, forward in before:
            del module.forward
            if forward is not None:
                module.forward = forward


def difference(one: Tensor, other: Tensor) -> float:
    """How far apart two results are, relative to the second's norm; infinite for different shapes."""
    if one.shape != other.shape or not one.isfinite().all():
        return float("inf")
    return float((one.double() - other.double()).norm() / other.double().norm())
