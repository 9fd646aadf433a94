import copy
import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from closeness import assert_near
from torch.utils._python_dispatch import TorchDispatchMode

import goc.models.layers
from goc.caching.cache import ScheduledCache
from goc.caching.predictor import GradientQueue
from goc.caching.schedule import uniform
from goc.models.dit import PUBLISHED_PATCHES, PUBLISHED_SIZES, DiT, DiTBlock
from goc.models.modulation import StackedModulation

# parameters of the public releases and of the DiT paper's table 4 (millions; patch 2, 256x256)
MILLIONS = {"S": 33, "B": 130, "L": 458, "XL": 675}


@pytest.mark.parametrize("size", PUBLISHED_SIZES)
@pytest.mark.parametrize("patch", PUBLISHED_PATCHES)
def test_every_published_size_runs_at_its_real_shape(size: str, patch: int) -> None:
    with torch.device("meta"):
        model = DiT.published(f"DiT-{size}/{patch}")
        output = model(torch.empty(2, 4, 32, 32), torch.zeros(2), torch.zeros(2, dtype=torch.long))
    assert output.shape == (2, 8, 32, 32)
    assert model.num_tokens == (32 // patch) ** 2


@pytest.mark.parametrize(("size", "millions"), MILLIONS.items())
def test_published_sizes_have_the_published_number_of_parameters(size: str, millions: int) -> None:
    with torch.device("meta"):
        model = DiT.published(f"DiT-{size}/2")
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=1)


def test_an_unknown_size_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"DiT-M/2: must be one of DiT-S/2.*DiT-XL/8"):
        DiT.published("DiT-M/2")


def test_parameter_names_are_those_of_the_public_release() -> None:
    with torch.device("meta"):
        names = set(DiT.published("DiT-XL/2").state_dict())
    block = {
        f"blocks.27.{layer}.{kind}"
        for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1")
        for kind in ("weight", "bias")
    }
    ends = {
        f"{layer}.{kind}"
        for layer in ("x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2", "final_layer.linear")
        for kind in ("weight", "bias")
    } | {"final_layer.adaLN_modulation.1.weight", "final_layer.adaLN_modulation.1.bias"}
    assert block | ends | {"pos_embed", "y_embedder.embedding_table.weight"} <= names
    assert len(names) == 28 * len(block) + len(ends) + 2


def test_a_new_model_predicts_zero_because_every_block_starts_as_the_identity() -> None:
    model = DiT(8, 2, 1, 16, 2, 2, 10)
    output = model(torch.randn(2, 1, 8, 8), torch.tensor([0, 999]), torch.tensor([0, 10]))
    assert torch.count_nonzero(output) == 0


def test_patches_are_put_back_where_they_came_from() -> None:
    model = DiT(4, 2, 1, 8, 1, 1, 2)
    # patch k holds, for its pixel (r, c), channel 0 = 100 k + 10 r + c and channel 1 = its negative
    patches = torch.tensor([[100 * k + 10 * r + c for r in range(2) for c in range(2)] for k in range(4)]).float()
    image = model.unpatchify(torch.stack([patches, -patches], dim=-1).reshape(1, 4, 8))
    assert image[0, 0].tolist() == [[0, 1, 100, 101], [10, 11, 110, 111], [200, 201, 300, 301], [210, 211, 310, 311]]
    assert torch.equal(image[0, 1], -image[0, 0])


def test_samples_of_a_batch_do_not_see_each_other(tiny_dit: DiT) -> None:
    x, t, y = torch.randn(3, 2, 4, 4), torch.tensor([5, 500, 999]), torch.tensor([0, 2, 5])
    together = tiny_dit(x, t, y)
    alone = torch.cat([tiny_dit(x[i : i + 1], t[i : i + 1], y[i : i + 1]) for i in range(3)])
    assert_near(together, alone)


@pytest.mark.parametrize("heads", [1, 3, 5, 16])  # fewer than slices, not a multiple of them, and as published
def test_a_branch_in_slices_is_the_branch(heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    block = DiTBlock(4 * heads, heads)
    h, (shift, scale) = torch.randn(2, 6, 4 * heads), torch.randn(2, 2, 4 * heads)
    whole = [block.compute(branch, h, shift, scale) for branch in range(2)]
    calls = []
    for layer in (block.attn, block.mlp):
        layer.register_forward_hook(lambda *_: calls.append(1))
    monkeypatch.setattr(goc.models.layers, "WORTH_NUMBERS", 0)
    for branch, expected in enumerate(whole):
        feature = block.compute(branch, h, shift, scale)
        assert_near(feature, expected)
    assert not calls


@torch.inference_mode()
def test_stacked_modulation_gives_the_same_vectors_and_samples_without_more_memory(tiny_dit: DiT) -> None:
    activated = torch.randn(3, 16)
    cells = list(itertools.product(range(3), range(2)))
    apart = tiny_dit.modulation(activated)
    x, t, y = torch.randn(3, 2, 4, 4), torch.tensor([500]), torch.tensor([0, 2, 5])
    expected, names = tiny_dit(x, t, y), list(tiny_dit.state_dict())
    tiny_dit.stack_modulation()
    together = tiny_dit.modulation(activated)
    for cell in cells:
        assert_near(together.of(*cell), apart.of(*cell))
        assert_near(together.gate(*cell), apart.gate(*cell))
    assert_near(tiny_dit(x, t, y), expected)
    assert list(tiny_dit.state_dict()) == names
    assert tiny_dit.stacked is not None
    storages = {block.adaLN_modulation[1].weight.untyped_storage().data_ptr() for block in tiny_dit.blocks}
    assert storages == {tiny_dit.stacked.weight.untyped_storage().data_ptr()}


@torch.inference_mode()
def test_a_stacked_step_is_one_product_whether_computed_or_cached(tiny_dit: DiT) -> None:
    steps, depth = 4, 3
    tiny_dit.stack_modulation()
    mask = uniform(steps, depth, 0.5)
    cache = ScheduledCache(mask, GradientQueue(mask, [1.2]))
    x, y = torch.randn(2, 2, 4, 4), torch.tensor([1, 2])
    around, in_a_block = AROUND_THE_BLOCKS[0], 4  # products: queries, keys and values, the two after, the MLP's
    for step in range(steps):
        cache.begin_step(step)
        with Operations() as operations:
            tiny_dit(x, torch.tensor([step]), y, cache)
        counts = operations.counts
        cached = bool(mask[step].all())
        assert counts["linear"] == (around if cached else around + 1 + in_a_block * depth)
        assert (counts["baddbmm"], counts["addmm"]) == ((1, 0) if cached else (0, 0))


@torch.inference_mode()
def test_weights_of_a_stacked_model_are_loaded_and_copied_as_ever(tiny_dit: DiT) -> None:
    x, t, y = torch.randn(3, 2, 4, 4), torch.tensor([500]), torch.tensor([0, 2, 5])
    other = {name: 1.5 * value for name, value in tiny_dit.state_dict().items()}
    copied = copy.deepcopy(tiny_dit)
    copied.load_state_dict(other)
    expected = copied(x, t, y)
    tiny_dit.stack_modulation()
    copied = copy.deepcopy(tiny_dit)
    for model in (tiny_dit, copied):
        model.load_state_dict(other)
        assert_near(model(x, t, y), expected)
    assert isinstance(tiny_dit.modulation(torch.randn(3, 16)), StackedModulation)


def test_tokens_are_the_patch_convolution_plus_the_positions(tiny_dit: DiT) -> None:
    x = torch.randn(3, 2, 4, 4)
    expected = tiny_dit.x_embedder.proj(x).flatten(2).transpose(1, 2) + tiny_dit.pos_embed
    assert_near(tiny_dit.embed(x), expected)
    assert tiny_dit.embed(x).is_contiguous()


class Operations(TorchDispatchMode):
    """Counts the operations that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[operation.overloadpacket.__name__] += 1
        return operation(*args, **(kwargs or {}))


AROUND_THE_BLOCKS = 5, 1  # products (patches, the timestep's two, the final layer's two) and norms


@pytest.mark.parametrize("cache_ratio", [0.5, 0.75])
def test_a_cached_step_is_one_gate_and_one_addition_in_place_for_each_held_tensor(cache_ratio: float) -> None:
    depth, steps = 3, 8
    model = DiT(4, 2, 1, 16, depth, 2, 5)
    mask = uniform(steps, depth, cache_ratio)
    cache = ScheduledCache(mask, GradientQueue(mask, [1.2]))
    x, y = torch.randn(2, 1, 4, 4), torch.tensor([1, 2])
    with torch.inference_mode():
        for step in range(steps):
            cache.begin_step(step)
            read = len(cache.predictor.held())
            with Operations() as operations:
                model(x, torch.tensor([step]), y, cache)
            if mask[step].all():
                counts = operations.counts
                assert counts["addmm"] == 2 * depth
                assert 2 * depth <= counts["addcmul_"] <= read
                assert (counts["linear"], counts["layer_norm"]) == AROUND_THE_BLOCKS
                assert not {"scaled_dot_product_attention", "gelu", "lerp", "lerp_", "sub", "clone"} & counts.keys()
