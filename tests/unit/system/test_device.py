from functools import partial
from typing import Any

import pytest
import torch
from closeness import assert_near, relative_difference
from torch._dynamo.utils import counters
from torch._inductor import metrics

from goc.caching.cache import ScheduledCache
from goc.caching.schedule import uniform
from goc.methods import Cells
from goc.methods.predictors import GradientQueueConfig
from goc.models.build import prepare
from goc.models.decoder import decode_pixels
from goc.models.dit import DiT
from goc.models.gated import add_compiled, add_gated
from goc.sampling.generation import Generation
from goc.sampling.noise import NoiseSchedule
from goc.sampling.solvers import DDIM
from goc.system.device import choose_device, configure, torch_format
from goc.system.errors import ConfigError

CPU = torch.device("cpu")
STEPS = 6


def latents(
    model: DiT,
    precision: str,
    compiled: bool = False,
    queue_dtype: str | None = None,
    samples: int = 4,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    mask = uniform(STEPS, model.depth, 0.5) if mask is None else mask
    queue = GradientQueueConfig(correct_scope="branch", dtype=queue_dtype)
    caches: list[ScheduledCache] = []

    def new_cache() -> ScheduledCache:
        caches.append(ScheduledCache(mask, queue.build(Cells(mask, gradient_weights=[1.0]))))
        return caches[-1]

    denoiser, solver = prepare(model, CPU, torch_format(precision), compiled), DDIM(NoiseSchedule.respaced(STEPS))
    generation = Generation(
        denoiser, solver, 1.5, 3, seed=0, decode=decode_pixels, device=CPU, new_cache=new_cache,
        autocast=torch_format(precision),
    )  # fmt: skip
    made, _ = generation.make(range(samples))
    assert made["latents"].dtype == torch.float32
    return made["latents"]


def test_bf16_stays_close_to_fp32_and_is_not_the_same(tiny_dit: DiT) -> None:
    full = latents(tiny_dit, "fp32")
    half = latents(tiny_dit, "bf16")
    assert 1e-5 < relative_difference(half, full) < 0.1
    assert tiny_dit.blocks[0].attn.qkv.weight.dtype == torch.bfloat16  # converted once, not in every step
    assert tiny_dit.pos_embed.dtype == torch.float32


@pytest.mark.parametrize(("queue_dtype", "held"), [(None, torch.bfloat16), ("fp32", torch.float32)])
def test_the_queues_format_is_a_choice(tiny_dit: DiT, queue_dtype: str | None, held: torch.dtype) -> None:
    mask = uniform(STEPS, tiny_dit.depth, 0.5)
    queue = GradientQueueConfig(correct_scope="branch", dtype=queue_dtype).build(Cells(mask, gradient_weights=[1.0]))
    for step in range(STEPS):
        feature = torch.full((2, 3), 1.0 + step, dtype=torch.bfloat16)
        if mask[step, 0, 0]:
            queue.predict(step, (0, 0))
        else:
            queue.store(step, (0, 0), feature)
        assert {tensor.dtype for tensor in queue.held()} <= {held}
    assert latents(tiny_dit, "bf16", queue_dtype=queue_dtype).isfinite().all()


# what makes code of the graphs takes long for whole branches; for the sum it is below
@pytest.fixture(params=["eager", pytest.param("inductor", marks=pytest.mark.nightly)])
def counted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What torch counts of what it compiles from now on."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=request.param))
    torch._dynamo.reset()
    counters.clear()
    return counters


@pytest.mark.slow
def test_whole_steps_compile_to_three_graphs_that_give_the_same_images(tiny_dit: DiT, counted: Any) -> None:
    """None of them is compiled in a later trajectory."""
    eager = latents(tiny_dit, "fp32")
    for _ in range(2):
        assert_near(latents(tiny_dit, "fp32", compiled=True), eager)
        assert counted["stats"]["unique_graphs"] == 3  # attention and MLP of a full step, the sum of a cached one
    assert not counted["graph_break"]


@pytest.mark.slow
def test_steps_that_are_cached_in_part_compile_to_no_more_graphs(tiny_dit: DiT, counted: Any) -> None:
    mask = torch.zeros(STEPS, tiny_dit.depth, 2, dtype=torch.bool)
    for step in range(1, STEPS):  # runs of 1 to 5 cached cells
        mask[step].view(-1)[:step] = True
    eager = latents(tiny_dit, "fp32", mask=mask)
    assert_near(latents(tiny_dit, "fp32", compiled=True, mask=mask), eager)
    assert counted["stats"]["unique_graphs"] == 2
    smaller = latents(tiny_dit, "fp32", compiled=True, mask=mask, samples=3)  # a last shard
    assert_near(smaller, eager[:3])


@pytest.mark.slow
@pytest.mark.parametrize("cells", [12, pytest.param(56, marks=pytest.mark.nightly)])
def test_a_compiled_cached_step_is_one_pass_over_the_residual_stream_and_the_same_sum(cells: int) -> None:
    torch._dynamo.reset()
    metrics.reset()
    gates, features = [torch.randn(2, 64) for _ in range(cells)], [torch.randn(2, 16, 64) for _ in range(cells)]
    stream, terms = torch.randn(2, 16, 64), [(1.0, *pair) for pair in zip(gates, features, strict=True)]
    with torch.inference_mode():
        assert_near(add_compiled()(stream.clone(), terms), add_gated(stream.clone(), terms))
    assert metrics.generated_kernel_count == 1


def test_devices_that_are_not_there_are_refused() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto", local_rank=1).type in ("cpu", "cuda")
    for name in ("tpu", "cuda:99"):
        with pytest.raises(ConfigError, match=f"device={name}: must be auto, cpu, or a device of this machine"):
            choose_device(name)


def test_deterministic_mode_refuses_what_has_no_deterministic_algorithm() -> None:
    before = torch.get_num_threads()
    try:
        configure(CPU, "fp32", deterministic=True, threads=1)
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == 1
        assert not torch.backends.cuda.matmul.allow_tf32
        configure(CPU, "tf32", deterministic=False, threads=None)
        assert torch.backends.cuda.matmul.allow_tf32
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        configure(CPU, "fp32", deterministic=False, threads=before)
