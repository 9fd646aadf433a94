"""What cannot be: one clear line each, and a pipeline as it was."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from closeness import relative_difference
from tiny_pipelines import MAKERS, caching, call, dit, prompt, randomized, sd3, wan
from torch import Tensor, nn

import goc
from goc.pipelines.calibrate import calibrate
from goc.pipelines.plan_file import PlanError
from goc.pipelines.session import PipelineError
from goc.pipelines.structure import StructureError
from goc.system.errors import ConfigError, GocError


@pytest.fixture
def pipe() -> Any:
    return sd3()


def the_line(caught: "pytest.ExceptionInfo[GocError]") -> str:
    (line,) = str(caught.value).splitlines()
    return line


def test_a_pipeline_with_a_unet_has_no_transformer() -> None:
    with pytest.raises(PipelineError, match="has no transformer, but a UNet") as caught:
        goc.enable_cache(SimpleNamespace(unet=nn.Linear(1, 1)))
    the_line(caught)


@pytest.mark.parametrize(
    ("method", "settings", "says"),
    [
        ("gocc", {}, "method=gocc: must be one of .*, dynamic, easycache, first_block, foca, fora"),
        ("l2c", {}, "method=l2c: needs what was trained"),
        ("searched_learned", {}, "method=searched_learned: needs what was trained"),
        ("l2p", {}, "method=l2p: needs what was trained"),
        ("speca", {}, "schedule=verify: not supported in a pipeline, which computes no block twice"),
        ("dpcache", {}, "goc.calibrate"),
        ("barycache", {"length": 0}, "predictor.length=0"),
        ("smoothcache", {}, "goc.calibrate"),
        ("searched", {}, "goc.calibrate"),
        ("goc", {"inflection_threshold": 0.0}, "goc.calibrate"),
        ("goc", {"interval": 3}, "interval=3: method=goc has no such setting; it has .*gradient_weights"),
        ("goc", {"cache_ratio": 1.0}, "cache_ratio=1.0: must be in"),
        ("taylorseer", {"order": -1}, "predictor.order=-1"),
        ("taylorseer", {"site": "block"}, "site=block"),
        ("teacache", {"threshold": -1.0}, "schedule.threshold=-1.0"),
        ("first_block", {"first_blocks": 0}, "schedule.first_blocks=0: must be at least 1"),
        ("first_block", {"site": "branch"}, "site=branch: must be stack with schedule=first_block"),
        ("seacache", {"max_skips": -1}, "schedule.max_skips=-1: must be at least 0"),
        ("dicache", {"retention": 1.0}, "schedule.retention=1.0: must be in"),
        ("easycache", {"threshold": float("nan")}, "schedule.threshold=nan"),
        ("easycache", {"decides_for": "all"}, "schedule.decides_for=all: must be one of sample, batch"),
        # selections of tokens
        ("fora", {"selection": "tokens"}, "^selection=tokens: must be one of cluster, duca, none, norm, random, toca$"),
        ("fora", {"selection": "norm", "site": "stack"}, "^site=stack: must be branch with selection=norm"),
        ("fora", {"selection": "norm", "site": "block"}, "^site=block: must be one of"),
        ("goc", {"selection": "toca"}, "^predictor=gradient_queue: must be one of .* with selection=toca"),
        ("first_block", {"selection": "norm", "site": "branch"}, "^site=branch: must be stack with schedule"),
        ("none", {"selection": "norm"}, "^selection=norm: must be none where no cell is cached"),
        ("fora", {"selection": "norm", "ratio": 2.0}, r"^selection\.ratio=2\.0: must be in \(0, 1\]"),
        ("fora", {"ratio": 0.1}, "^ratio=0.1: method=fora has no such setting; it has .*selection"),
        ("toca", {"clusters": 3}, "^clusters=3: method=toca has no such setting"),
        ("duca", {}, "^schedule=duca: not supported in a pipeline, whose stream is not kept"),
    ],
)
def test_unknown_methods_and_settings_are_named(pipe: Any, method: str, settings: dict[str, Any], says: str) -> None:
    kind = type(pipe)
    with pytest.raises(GocError, match=says) as caught:
        goc.enable_cache(pipe, method, **settings)
    the_line(caught)
    assert type(pipe) is kind
    assert not hasattr(pipe, "_goc_cache")


def test_a_second_cache_and_none_to_disable_are_refused(pipe: Any) -> None:
    with pytest.raises(PipelineError, match="has no cache"):
        goc.disable_cache(pipe)
    goc.enable_cache(pipe)
    with pytest.raises(PipelineError, match="has a cache already"):
        goc.enable_cache(pipe)
    other = type(pipe).__base__(**pipe.components)
    with pytest.raises(PipelineError, match="another pipeline's cache"):
        goc.enable_cache(other)


@pytest.mark.parametrize("site", ["branch", "stack"])
@pytest.mark.parametrize("where", ["block", "scheduler", "callback"])
def test_an_exception_in_a_call_leaves_nothing_behind(pipe: Any, site: str, where: str) -> None:
    uncached = call(pipe)
    cache = goc.enable_cache(pipe, "taylorseer", 0.5, site=site)
    expected = call(pipe)

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("broken")

    more: dict[str, Any] = {}
    if where == "block":
        handle = pipe.transformer.transformer_blocks[-1].norm2.register_forward_pre_hook(fail)
    elif where == "scheduler":
        pipe.scheduler.step = fail
    else:
        more["callback_on_step_end"] = fail
    with pytest.raises(RuntimeError, match="broken"):
        call(pipe, **more)
    if where == "block":
        handle.remove()
    elif where == "scheduler":
        del pipe.scheduler.step
    assert cache.tensors_held() == 0
    assert not cache.active
    assert torch.equal(call(pipe), expected)
    goc.disable_cache(pipe)
    assert torch.equal(call(pipe), uncached)


def test_the_transformer_alone_is_not_cached(pipe: Any) -> None:
    arguments = {"hidden_states": torch.randn(1, 4, 8, 8), "encoder_hidden_states": torch.randn(1, 5, 12),
                 "pooled_projections": torch.randn(1, 10), "timestep": torch.tensor([500.0])}  # fmt: skip
    expected = pipe.transformer(**arguments).sample
    cache = goc.enable_cache(pipe, "reuse", 0.5)
    for _ in range(2):
        assert torch.equal(pipe.transformer(**arguments).sample, expected)
    assert cache.tensors_held() == 0


class Mystery(nn.Module):
    """A transformer whose blocks say nothing by their names."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.grow = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.mix(x)
            return x + self.grow(x)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(self.Block() for _ in range(2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class MysteryPipeline:
    def __init__(self) -> None:
        self.transformer, self.scheduler = randomized(Mystery()), SimpleNamespace(timesteps=torch.arange(4, 0, -1))

    @torch.no_grad()
    def __call__(self) -> Tensor:
        x = torch.ones(1, 3, 4)
        for t in self.scheduler.timesteps:
            x = x - 0.1 * self.transformer(x, t)
        return x


def test_blocks_and_branches_that_are_not_found_can_be_named() -> None:
    pipe = MysteryPipeline()
    expected = pipe()
    with pytest.raises(StructureError, match=r"Mystery: no list of blocks .* blocks=\['layers', ...\]") as caught:
        goc.enable_cache(pipe, "reuse")
    the_line(caught)
    with pytest.raises(StructureError, match="blocks=layer: must be of Mystery's layers"):
        goc.enable_cache(pipe, "reuse", blocks=["layer"])
    with pytest.raises(StructureError, match="no block of Mystery has a module of one of these names"):
        goc.enable_cache(pipe, "reuse", blocks=["layers"], branches={"attn": ["attn"]})
    with pytest.raises(StructureError, match=r"branches=\['ff'\]: must be"):
        goc.enable_cache(pipe, "reuse", blocks=["layers"], branches={"ff": ["grow"]})
    for branches, places in ((None, 2), ({"attn": ["mix"], "mlp": ["grow"]}, 4)):
        with caching(pipe, "reuse", 0.5, blocks=["layers"], branches=branches) as cache:
            assert len(cache.layout.places) == places
            samples = pipe()
            assert relative_difference(samples, expected) > 1e-3
            assert cache.summary().calls == {"full": 2, "mixed": 0, "cached": 2}
        assert torch.equal(pipe(), expected)


@pytest.fixture(scope="module")
def planned() -> tuple[Any, Any]:
    made = wan()
    made.set_progress_bar_config(disable=True)
    return made, calibrate(made, [prompt(made)], "goc", steps=4)


def test_a_plan_is_for_one_model_its_weights_scheduler_and_steps(planned: tuple[Any, Any]) -> None:
    pipe, plan = planned
    with pytest.raises(PlanError, match=r"is for another transformer \(transformer WanTransformer3DModel, not SD3"):
        goc.enable_cache(sd3(), plan=plan)
    other = wan()
    with torch.no_grad():
        other.transformer.blocks[1].ffn.net[2].weight.mul_(1.05)
    with pytest.raises(PlanError, match="is for other weights"):
        goc.enable_cache(other, plan=plan)
    deeper = type(pipe.transformer).from_config({**pipe.transformer.config, "num_layers": 2})
    other.transformer = randomized(deeper)
    with pytest.raises(PlanError, match="is for a transformer of another config"):
        goc.enable_cache(other, plan=plan)
    scheduled = MAKERS["wan"]()
    scheduled.scheduler = sd3().scheduler
    with pytest.raises(PlanError, match="is for another scheduler"):
        goc.enable_cache(scheduled, plan=plan)
    with pytest.raises(PlanError, match="method=taylorseer: the plan was made with goc"):
        goc.enable_cache(pipe, "taylorseer", plan=plan)
    cache = goc.enable_cache(pipe, plan=plan)
    with pytest.raises(PlanError, match="is for 4 steps, not for 5") as caught:
        call(pipe, steps=5)
    the_line(caught)
    assert cache.tensors_held() == 0
    assert call(pipe, steps=4).isfinite().all()
    goc.disable_cache(pipe)


def test_a_cast_to_bfloat16_leaves_a_plan_valid(planned: tuple[Any, Any]) -> None:
    _, plan = planned
    cast = wan()
    cast.transformer.to(torch.bfloat16)
    goc.enable_cache(cast, plan=plan)


@pytest.mark.parametrize("prompts", [[], "a cat"])
def test_a_calibration_needs_a_list_of_prompts(prompts: Any) -> None:
    with pytest.raises(PipelineError, match="prompts="):
        calibrate(dit(), prompts, steps=4)


def test_a_calibration_of_unknown_settings_leaves_the_pipeline_alone(pipe: Any) -> None:
    kind = type(pipe)
    with pytest.raises(ConfigError, match="depth=3"):
        calibrate(pipe, [prompt(pipe)], depth=3, steps=4)
    assert type(pipe) is kind
