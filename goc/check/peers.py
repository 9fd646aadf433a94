"""Peers from the package index, on the same weights, for scripts/benchmark.py steps: diffusers' caches and cache-dit.

All of them work on diffusers' DiTTransformer2DModel, here with the project's weights (the tensors are shared, not
copied). Its uncached steps are a row of their own, which the peers' speed-ups are measured against. Both guidance
halves go through the model together. Where a peer decides as it runs whether a step is cached, it is told the answer,
so that it caches the same steps as the project's methods do; the work of deciding is still done.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from diffusers import DiTTransformer2DModel
from diffusers.hooks import FirstBlockCacheConfig, TaylorSeerCacheConfig
from diffusers.models.cache_utils import CacheMixin
from torch import Tensor, nn

from goc.caching.cache import StepCache
from goc.check.contenders import INTERVAL, ORDER, CachedSteps, Contender, Entry, Foreign, Workload, evenly, never
from goc.models.dit import DiT, DiTBlock, adaln_linear

BASELINE = "diffusers none"
WARM_UP = 2  # steps that diffusers' TaylorSeer computes first
BLOCK = r"transformer_blocks\.\d+"


class DiTWithCache(DiTTransformer2DModel, CacheMixin):
    """diffusers' DiT with diffusers' own enable_cache and cache_context, which that class was not given."""


def diffusers_weights(model: DiT) -> dict[str, Tensor]:
    """The project's weights under the names of DiTTransformer2DModel, which embeds the condition in every block."""
    named: dict[str, nn.Module] = {
        "pos_embed.proj": model.x_embedder.proj,
        "proj_out_1": adaln_linear(model.final_layer),
        "proj_out_2": model.final_layer.linear,
    }
    weights = {}
    for index, child in enumerate(model.blocks):
        block, name = cast(DiTBlock, child), f"transformer_blocks.{index}"
        embedder = f"{name}.norm1.emb"
        named |= {
            f"{embedder}.timestep_embedder.linear_1": model.t_embedder.mlp[0],
            f"{embedder}.timestep_embedder.linear_2": model.t_embedder.mlp[2],
            f"{embedder}.class_embedder.embedding_table": model.y_embedder.embedding_table,
            f"{name}.norm1.linear": adaln_linear(block),
            f"{name}.attn1.to_out.0": block.attn.proj,
            f"{name}.ff.net.0.proj": block.mlp.fc1,
            f"{name}.ff.net.2": block.mlp.fc2,
        }
        for key, value in block.attn.qkv.state_dict().items():
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                weights[f"{name}.attn1.to_{part}.{key}"] = rows
    for name, module in named.items():
        weights |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
    return weights


def diffusers_dit(model: DiT, make: Callable[..., Any] = DiTTransformer2DModel) -> Any:
    """diffusers' DiT, or a class derived from it, on the same weight tensors.

    It computes the same, except that its timestep frequencies are spaced slightly differently.
    """
    heads = cast(DiTBlock, model.blocks[0]).attn.num_heads
    with torch.device("meta"):
        other = make(
            num_attention_heads=heads,
            attention_head_dim=model.hidden_size // heads,
            in_channels=model.in_channels,
            out_channels=model.out_channels,
            num_layers=model.depth,
            sample_size=model.input_size,
            patch_size=model.patch_size,
            num_embeds_ada_norm=model.num_classes,
            norm_eps=1e-6,
        )
    other.load_state_dict(diffusers_weights(model), assign=True)
    other.pos_embed.pos_embed = model.pos_embed
    return other.eval().requires_grad_(False)


class Peer(Foreign):
    """diffusers' DiT, bare or with a cache; a step was cached if the last block's attention did not run."""

    make: Callable[..., Any] = DiTTransformer2DModel
    foreign = True

    def __init__(self, name: str, workload: Workload, cached_steps: CachedSteps = never) -> None:
        super().__init__(name, workload, cached_steps, BASELINE)
        self.dit = diffusers_dit(workload.model, self.make)
        self.computed = False
        last = self.dit.transformer_blocks[-1].attn1
        last.to_q.register_forward_pre_hook(lambda *_: setattr(self, "computed", True))

    def was_cached(self) -> bool:
        return not self.computed

    def __call__(self, x: Tensor, t: Tensor, y: Tensor, cache: StepCache) -> Tensor:
        self.computed = False
        with self.context(cache.step):
            return self.dit(x, timestep=t.expand(len(x)), class_labels=y, return_dict=False)[0]

    def context(self, step: int) -> contextlib.AbstractContextManager[None]:
        """What a step's forward pass is to run in."""
        return contextlib.nullcontext()

    def drop(self) -> None:
        """Without a cache, nothing is left."""


def add_taylorseer(model: Any, identifiers: list[str], skipped: list[str] | None, dtype: torch.dtype) -> None:
    """diffusers' TaylorSeer on a model's modules of these names (patterns); nothing is computed in skipped ones."""
    model.enable_cache(
        TaylorSeerCacheConfig(
            cache_interval=INTERVAL,
            disable_cache_before_step=WARM_UP,
            max_order=ORDER,
            taylor_factors_dtype=dtype,
            cache_identifiers=identifiers,
            skip_predict_identifiers=skipped,
        )
    )


def predicted(steps: int) -> list[int]:
    """The cached steps of `add_taylorseer`; it computes two, and then every INTERVAL-th from the one after next."""
    return [i for i in range(WARM_UP, steps) if (i - WARM_UP - 1) % INTERVAL]


def add_first_block(model: Any, blocks: nn.ModuleList) -> Any:
    """diffusers' FirstBlockCache on a model with these first blocks; its hook, whose threshold decides."""
    model.enable_cache(FirstBlockCacheConfig())
    (head,) = cast(Any, blocks[0])._diffusers_hook.hooks.values()
    return head


def add_cache_dit(model: Any, steps: int, cached: Sequence[int], order: int) -> Callable[[], None]:
    """cache-dit's DBCache on a model, with as few computed blocks as it allows; returns what empties it.

    order: of its Taylor calibrator; 0: plain reuse.
    """
    os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "ERROR")  # read when it is imported
    import cache_dit

    settings: dict[str, Any] = {
        "cache_config": cache_dit.DBCacheConfig(
            Fn_compute_blocks=1,
            Bn_compute_blocks=0,
            num_inference_steps=steps,
            steps_computation_mask=[int(step not in cached) for step in range(steps)],
            steps_computation_policy="static",
            enable_separate_cfg=False,
        )
    }
    if order:
        settings["calibrator_config"] = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=order)
    cache_dit.enable_cache(model, **settings)
    return lambda: cache_dit.refresh_context(model, **settings)


class Hooked(Peer):
    """One of diffusers' own caches."""

    make = DiTWithCache

    def context(self, step: int) -> contextlib.AbstractContextManager[None]:
        return self.dit.cache_context("guided")

    def drop(self) -> None:
        self.dit._reset_stateful_cache()


class DiffusersTaylorSeer(Hooked):
    """diffusers' TaylorSeer cache on attention and MLP of every block, or ("lite") on what the blocks all together do.

    Its default patterns match no module of a DiT, so they are given. Values are kept in the format they come in.
    """

    def __init__(self, name: str, workload: Workload, lite: bool) -> None:
        super().__init__(name, workload, predicted)
        identifiers = ["proj_out_2"] if lite else [rf"{BLOCK}\.(attn1|ff)"]
        add_taylorseer(self.dit, identifiers, [BLOCK] if lite else None, workload.autocast or torch.float32)


class DiffusersFirstBlock(Hooked):
    """diffusers' FirstBlockCache: a cached step runs the first block and reuses what the others added."""

    def __init__(self, name: str, workload: Workload, cached_steps: CachedSteps) -> None:
        super().__init__(name, workload, cached_steps)
        self.head = add_first_block(self.dit, self.dit.transformer_blocks)
        self.cached = set(cached_steps(workload.steps))

    def context(self, step: int) -> contextlib.AbstractContextManager[None]:
        self.head.threshold = float("inf") if step in self.cached else -1.0
        return super().context(step)


class CacheDiT(Peer):
    """cache-dit's DBCache with as few computed blocks as it allows, reusing or (order > 0) with its Taylor calibrator.

    Its cached steps are given by its mask, so it makes no comparison.
    """

    def __init__(self, name: str, workload: Workload, cached_steps: CachedSteps, order: int) -> None:
        super().__init__(name, workload, cached_steps)
        self.drop_context = add_cache_dit(self.dit, workload.steps, cached_steps(workload.steps), order)

    def drop(self) -> None:
        self.drop_context()


def peers(workload: Workload) -> Iterator[Entry]:
    """Every peer, or (its name, why there is none)."""
    half = evenly(0.5)
    makers: Sequence[tuple[str, Callable[[str], Contender]]] = [
        (BASELINE, lambda name: Peer(name, workload)),
        ("diffusers taylorseer", lambda name: DiffusersTaylorSeer(name, workload, lite=False)),
        ("diffusers taylorseer lite", lambda name: DiffusersTaylorSeer(name, workload, lite=True)),
        ("diffusers first block 50 %", lambda name: DiffusersFirstBlock(name, workload, half)),
        ("cache-dit 50 %", lambda name: CacheDiT(name, workload, half, 0)),
        ("cache-dit taylor 50 %", lambda name: CacheDiT(name, workload, half, ORDER)),
    ]
    for name, make in makers:
        try:
            yield make(name)
        except Exception as error:  # whatever goes wrong in another project is this row's result
            yield name, reason(error)


def is_peer(row: str) -> bool:
    """Whether a row of a table is of another project, by its name."""
    return row.startswith(("diffusers", "cache-dit"))


def reason(error: Exception) -> str:
    """One line that says why a peer has no numbers."""
    if isinstance(error, ImportError):
        return f"not installed: pip install '.[benchmark]' ({error})"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
