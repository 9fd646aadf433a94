"""A pipeline's caches against others on the same weights: the project's own sampler, and diffusers' TaylorSeer."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from closeness import assert_near, relative_difference
from diffusers import DiTPipeline
from tiny_pipelines import BLOCKS, MAKERS, call, dit, randomized
from torch import Tensor

import goc
from goc.caching.cache import ScheduledCache
from goc.caching.expansion import Taylor
from goc.caching.predictor import GradientQueue, Predictor, Reuse
from goc.caching.schedule import fora, taylorseer, toca, uniform, whole_steps
from goc.caching.selection import Clusters, Norm, Random, Selection, ToCa, shares
from goc.check.contenders import ORDER
from goc.check.peers import add_taylorseer, diffusers_dit, predicted
from goc.models.dit import DiT
from goc.models.network import Site
from goc.models.packed import FLOAT8
from goc.pipelines.enable import attach
from goc.pipelines.session import Run
from goc.pipelines.tokens import generators_of
from goc.sampling.generation import Generation
from goc.sampling.noise import NoiseSchedule
from goc.sampling.solvers import DDIM, ddim_step, no_noise

STEPS = 8
CLASSES = 1000  # DiTPipeline's null label
LABELS = [3, 7]
PREDICTORS: dict[str, Any] = {
    "reuse": Reuse,
    "goc": lambda mask: GradientQueue(mask, [1.0]),
    "taylorseer": lambda mask: Taylor(mask, 2),
}


class OwnDDIM:
    """The project's DDIM as a diffusers scheduler; keeps the last latents."""

    def set_timesteps(self, steps: int) -> None:
        self.schedule, self.index = NoiseSchedule.respaced(steps), 0
        self.timesteps = torch.tensor(self.schedule.times.copy())

    def scale_model_input(self, x: Tensor, t: Tensor) -> Tensor:
        return x

    def step(self, output: Tensor, t: Tensor, x: Tensor) -> SimpleNamespace:
        self.last = ddim_step(self.schedule, self.index, x, output)
        self.index += 1
        return SimpleNamespace(prev_sample=self.last)


@pytest.fixture(scope="module")
def model() -> DiT:
    own = DiT(input_size=8, patch_size=2, in_channels=4, hidden_size=16, depth=BLOCKS, num_heads=2, num_classes=CLASSES)
    return randomized(own)


@pytest.fixture(scope="module")
def pipe(model: DiT) -> Any:
    transformer = diffusers_dit(model)
    for block in transformer.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0  # the frequencies of the public release
    made = DiTPipeline(transformer=transformer, vae=dit().vae, scheduler=OwnDDIM())
    made.set_progress_bar_config(disable=True)
    return made


def first_noise() -> Tensor:
    """What the pipeline starts at."""
    return torch.randn(len(LABELS), 4, 8, 8, generator=torch.Generator().manual_seed(7))


def own_latents(model: DiT, guidance: float, cache: ScheduledCache) -> Tensor:
    """The project's sampler, from the noise that the pipeline starts at."""
    solver = DDIM(NoiseSchedule.respaced(STEPS))
    generation = Generation(model, solver, guidance, 4, 0, lambda x: x, torch.device("cpu"))
    denoise = generation.denoiser(torch.tensor(LABELS), cache, solver.grid.times)
    with torch.inference_mode():
        *_, last = solver.sample(denoise, first_noise(), no_noise)
    return last


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("site", ["branch", "stack"])
@pytest.mark.parametrize("method", list(PREDICTORS))
def test_a_dit_pipeline_gives_what_the_projects_sampler_gives(
    model: DiT, pipe: Any, method: str, site: Site, guidance: float
) -> None:
    settings: dict[str, Any] = {"interval": 3} if method == "taylorseer" else {}
    mask = taylorseer(STEPS, BLOCKS, 3) if method == "taylorseer" else uniform(STEPS, BLOCKS, 0.5)
    mask = mask[:, :1, :1] if site == "stack" else mask
    expected = own_latents(model, guidance, ScheduledCache(mask, PREDICTORS[method](mask), site))
    goc.enable_cache(pipe, method, 0.5, site=site, **settings)
    try:
        generator = torch.Generator().manual_seed(7)
        pipe(class_labels=LABELS, guidance_scale=guidance, num_inference_steps=STEPS, generator=generator)
    finally:
        goc.disable_cache(pipe)
    latents = pipe.scheduler.last[: len(LABELS)]
    assert_near(latents, expected)


def test_a_dit_pipeline_holds_values_in_float8_as_the_project_does(model: DiT, pipe: Any) -> None:
    mask = taylorseer(STEPS, BLOCKS, 3)
    expected = own_latents(model, 1.0, ScheduledCache(mask, Taylor(mask, 2, dtype=FLOAT8), "branch"))
    goc.enable_cache(pipe, "taylorseer", 0.5, interval=3, dtype="fp8")
    try:
        generator = torch.Generator().manual_seed(7)
        pipe(class_labels=LABELS, guidance_scale=1.0, num_inference_steps=STEPS, generator=generator)
    finally:
        goc.disable_cache(pipe)
    assert_near(pipe.scheduler.last[: len(LABELS)], expected, 1e-3)  # rounding may tip a value to the next float8


SHARE = shares(0.2, -0.2, 2.0, STEPS, BLOCKS)
SELECTED: dict[str, tuple[dict[str, Any], Callable[..., Tensor], Callable[[Tensor], Selection]]] = {
    "toca": ({"method": "toca"}, toca, lambda mask: ToCa(mask, SHARE, 0.25, 4, 1.6)),
    "norm": ({"method": "fora", "selection": "norm"}, fora, lambda mask: Norm(mask, SHARE)),
    "random": ({"method": "fora", "selection": "random"}, fora, lambda mask: Random(mask, SHARE)),
    "clusca": ({"method": "clusca", "order": 2}, taylorseer, lambda mask: Clusters(mask, 5, 0.1)),
}


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("name", list(SELECTED))
def test_a_dit_pipeline_selects_the_tokens_that_the_project_selects(
    model: DiT, pipe: Any, name: str, guidance: float
) -> None:
    settings, schedule, select = SELECTED[name]
    mask = schedule(STEPS, BLOCKS, 4)

    def predictor() -> Predictor:
        return Taylor(mask, 2) if name == "clusca" else Reuse(mask)

    cache = ScheduledCache(mask, predictor(), selection=select(mask))
    cache.draw_from(generators_of(first_noise()))
    expected = own_latents(model, guidance, cache)
    own = {"clusters": 5, "propagation": 0.1} if name == "clusca" else {"ratio": 0.2}
    goc.enable_cache(pipe, cache_ratio=None, interval=4, **settings, **own)
    try:
        generator = torch.Generator().manual_seed(7)
        pipe(class_labels=LABELS, guidance_scale=guidance, num_inference_steps=STEPS, generator=generator)
    finally:
        goc.disable_cache(pipe)
    assert_near(pipe.scheduler.last[: len(LABELS)], expected)
    without = own_latents(model, guidance, ScheduledCache(mask, predictor()))
    assert relative_difference(without, expected) > 2e-4


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize(
    ("name", "blocks", "branches"),
    [("flux", "transformer_blocks", "attn|ff|ff_context"), ("wan", "blocks", "attn1|attn2|ffn")],
)
def test_taylorseer_equals_that_of_diffusers(name: str, blocks: str, branches: str, guidance: float) -> None:
    pipe = MAKERS[name]()
    transformer = pipe.transformer
    add_taylorseer(transformer, [rf"{blocks}\.\d+\.({branches})"], None, torch.float32)
    expected = call(pipe, guidance=guidance, steps=STEPS)
    transformer.disable_cache()
    cached = predicted(STEPS)
    uncached = call(pipe, guidance=guidance, steps=STEPS)

    def new_cache(run: Run) -> ScheduledCache:
        mask = run.layout.spread(whole_steps(cached, run.steps, run.layout.depth))
        predictor: Predictor = Taylor(mask, ORDER)
        return ScheduledCache(mask, predictor)

    attach(pipe, new_cache, blocks=[blocks])
    samples = call(pipe, guidance=guidance, steps=STEPS)
    assert_near(samples, expected)
    assert relative_difference(uncached, expected) > 1e-3
