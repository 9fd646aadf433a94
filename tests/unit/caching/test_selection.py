"""Which tokens of a cached MLP are computed after all: properties that hold of any selection, and each rule by hand."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
import torch
from closeness import assert_near, relative_difference
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from goc.caching.cache import ScheduledCache
from goc.caching.expansion import HiCache, Taylor
from goc.caching.predictor import Predictor, Reuse
from goc.caching.schedule import duca_skipped, fora, taylorseer, toca, whole_steps
from goc.caching.selection import (
    Clusters,
    Norm,
    Random,
    Selection,
    ToCa,
    favour,
    k_means,
    members,
    shares,
)
from goc.models import layers
from goc.models.cost import image_macs
from goc.models.dit import DiT
from goc.models.network import ATTENTION, MLP
from goc.sampling.generation import Generation
from goc.sampling.noise import NoiseSchedule
from goc.sampling.solvers import DDIM

STEPS, DEPTH, TOKENS = 8, 3, 16
MASK = fora(STEPS, DEPTH, 4)
ALL, HALF, NOTHING = (torch.full((STEPS, DEPTH), share) for share in (1.0, 0.5, 0.0))
RULES: dict[str, Callable[[Tensor, Tensor], Selection]] = {
    "toca": lambda mask, share: ToCa(mask, share, 0.25, 4, 1.6),
    "random": Random,
    "norm": Norm,
}
EVERY: dict[str, Callable[[Tensor], Selection]] = {
    **{name: lambda mask, make=make: make(mask, HALF) for name, make in RULES.items()},
    "cluster": lambda mask: Clusters(mask, 5, 0.1),
}


@pytest.fixture
def model() -> DiT:
    """A random DiT of 16 tokens whose every block changes the output."""
    torch.manual_seed(0)
    model = DiT(input_size=8, patch_size=2, in_channels=2, hidden_size=16, depth=DEPTH, num_heads=2, num_classes=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def generation(
    model: DiT, new_cache: Callable[[], ScheduledCache] | None, seed: int = 0, scale: float = 1.5
) -> Generation:
    solver = DDIM(NoiseSchedule.respaced(STEPS))
    return Generation(model, solver, scale, 1, seed, lambda x: x, torch.device("cpu"), new_cache)


def made(
    model: DiT,
    mask: Tensor,
    selection: Selection | None,
    predictor: Callable[[Tensor], Predictor] = Reuse,
    count: int = 3,
) -> Tensor:
    """x of all steps [steps, n, C, H, W]."""
    cached = generation(model, lambda: ScheduledCache(mask, predictor(mask), selection=selection))
    with torch.inference_mode():
        return torch.stack(list(cached.trajectory(range(count), cached.batch_cache(count))[1]))


@pytest.mark.parametrize("name", RULES)
def test_with_all_tokens_the_mlp_of_the_predicted_stream_is_computed(name: str, model: DiT) -> None:
    attention_alone = MASK.clone()
    attention_alone[:, :, MLP] = False
    computed = made(model, attention_alone, None)
    for predictor in (Reuse, lambda mask: Taylor(mask, 0)):
        assert_near(made(model, MASK, RULES[name](MASK, ALL), predictor), computed)
    assert relative_difference(made(model, MASK, None), computed) > 0.01


@pytest.mark.parametrize(("name", "predictor"), product(RULES, (Reuse, lambda mask: HiCache(mask, 2, 0.5))))
def test_with_no_token_nothing_changes(name: str, predictor: Callable[[Tensor], Predictor], model: DiT) -> None:
    without = made(model, MASK, None, predictor)
    assert torch.equal(made(model, MASK, RULES[name](MASK, NOTHING), predictor), without)


@pytest.mark.parametrize("name", EVERY)
def test_selected_tokens_alone_are_computed_and_stay_in_what_is_held(name: str, model: DiT) -> None:
    class Watched(ScheduledCache):
        def refresh(self, block: int, branch: int, tokens: Tensor, fresh: Tensor) -> None:
            held = self.predictor.newest((block, branch))
            before = held.clone()
            assert tokens.shape == fresh.shape[:2]
            chosen = torch.zeros(held.shape[:2], dtype=torch.bool).scatter(1, tokens, True)
            super().refresh(block, branch, tokens, fresh)
            if not isinstance(self.selection, Clusters):
                assert torch.equal(held[~chosen], before[~chosen])
                assert torch.equal(held.gather(1, tokens.unsqueeze(-1).expand_as(fresh)), fresh)
            terms = self.predictor.predict(self.step, (block, branch))
            self.predictor.feature.setdefault((block, branch), held)  # which the last use lets go
            assert terms[0][1] is held
            seen.append((self.step, block, branch))

    seen: list[tuple[int, int, int]] = []
    cached = generation(model, lambda: Watched(MASK, Reuse(MASK), selection=EVERY[name](MASK)))
    cached.make(range(2))
    assert seen == [(i, block, MLP) for i, block in product(range(STEPS), range(DEPTH)) if MASK[i, block, MLP]]


@pytest.mark.parametrize("name", EVERY)
def test_a_sample_is_what_it_is_whatever_is_beside_it(name: str, model: DiT) -> None:
    cached = generation(model, lambda: ScheduledCache(MASK, Reuse(MASK), selection=EVERY[name](MASK)))
    together = cached.make(range(4))[0]["latents"]
    for index in range(4):
        assert_near(together[index : index + 1], cached.make(range(index, index + 1))[0]["latents"])


@pytest.mark.parametrize("name", ["random", "cluster"])
def test_draws_come_from_a_samples_own_seed_and_have_no_say_in_its_noise(name: str, model: DiT) -> None:
    def tokens(seed: int, scale: float) -> tuple[list[Tensor], Tensor]:
        class Watched(ScheduledCache):
            def selected(self, block: int, branch: int) -> Tensor | None:
                chosen = super().selected(block, branch)
                if chosen is not None:
                    selections.append(chosen)
                return chosen

        selections: list[Tensor] = []
        cached = generation(model, lambda: Watched(MASK, Reuse(MASK), selection=EVERY[name](MASK)), seed, scale)
        first = cached.drawn(range(2))[1]()
        cached.make(range(2))
        assert torch.equal(first, cached.drawn(range(2))[1]())
        return selections, first

    def same(some: list[Tensor], others: list[Tensor]) -> bool:
        return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))

    guided, x = tokens(0, 1.5)
    assert torch.equal(x, generation(model, None).drawn(range(2))[1]())
    assert same(guided, tokens(0, 1.5)[0])
    assert not same(guided, tokens(1, 1.5)[0])
    if name == "random":  # both halves of guidance have the same tokens, and the unguided run has them too
        assert all(torch.equal(*chosen.chunk(2)) for chosen in guided)
        assert same([chosen[:2] for chosen in guided], tokens(0, 1.0)[0])
    assert not torch.equal(guided[0][0], guided[0][1])
    assert not torch.equal(guided[0], guided[1])


@pytest.mark.parametrize("name", ["toca", "duca", "cluster", "attention computed", "nothing selected"])
def test_a_run_costs_what_torch_counts(name: str, model: DiT) -> None:
    mask, skipped, predictor = toca(STEPS, DEPTH, 3), list[int](), Reuse
    selection: Selection | None = ToCa(mask, shares(0.3, -0.2, 2.0, STEPS, DEPTH), 0.25, 3, 1.6)
    if name == "duca":
        skipped = duca_skipped(STEPS, 5)
        mask = toca(STEPS, DEPTH, 5)
        assert skipped
        selection = ToCa(mask, shares(0.3, -0.2, 2.0, STEPS, DEPTH), 0.25, 5, 1.8, skipped)
    elif name == "cluster":
        mask = taylorseer(STEPS, DEPTH, 3)
        selection = Clusters(mask, 5, 0.1)
    elif name == "attention computed":
        mask = MASK.clone()
        mask[:, :, ATTENTION] = False
        selection = Random(mask, HALF)
    elif name == "nothing selected":
        selection, skipped = None, [2]
        mask = whole_steps([1, 2], STEPS, DEPTH)
    cached = generation(
        model, lambda: ScheduledCache(mask, predictor(mask), selection=selection, skipped=skipped), scale=1.0
    )
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        _, cache = cached.make(range(1))
    cost = cached.cost(cache)
    assert counter.get_total_flops() // 2 == cost["macs_per_image"]
    full = image_macs(model, torch.zeros_like(mask), guided=False)
    assert replace(cached, cfg_scale=1.5).cost(cache)["macs_per_image"] == 2 * cost["macs_per_image"]
    assert cost["macs_per_image"] < full
    assert 0 < cost["cache_ratio"] <= mask.double().mean().item()
    assert (cost["cache_ratio"] < mask.double().mean().item()) is (selection is not None)


def test_half_the_tokens_of_every_mlp_are_a_quarter_of_a_cached_step(model: DiT) -> None:
    cached = generation(model, lambda: ScheduledCache(MASK, Reuse(MASK), selection=Random(MASK, HALF)))
    cost = cached.cost(cached.make(range(1))[1])
    assert cost["cache_ratio"] == pytest.approx(0.75 * MASK.double().mean().item())


def test_attention_is_computed_without_the_fused_kernel_only_where_a_score_needs_it(model: DiT) -> None:
    mask = whole_steps([2, 3, 6], 10, DEPTH)
    share = torch.full((10, DEPTH), 0.5)
    wanted = ToCa(mask, share, 0.25, 4, 1.6).attention_wanted
    assert [i for i, blocks in enumerate(wanted) if all(blocks)] == [1, 5]
    assert sum(map(sum, wanted)) == 2 * DEPTH
    assert [i for i, blocks in enumerate(ToCa(mask, share, 0.25, 4, 1.6, [6]).attention_wanted) if any(blocks)] == [1]
    assert not any(map(any, Random(mask, share).attention_wanted))
    mask[2, 1, ATTENTION] = False  # computed in the very step whose MLP is cached: of it, then
    assert ToCa(mask, share, 0.25, 4, 1.6).attention_wanted[2] == [False, True, False]
    assert ToCa(mask, share, 0.25, 4, 1.6).attention_wanted[1] == [True, False, True]


def test_attention_that_shows_its_probabilities_is_the_same_attention(
    model: DiT, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = model.blocks[0].attn
    x = torch.randn(5, TOKENS, 16, generator=torch.Generator().manual_seed(0))
    output, received = attention.with_received(x)
    assert_near(output, attention(x))
    queries, keys, _ = attention.qkv(x).unflatten(-1, (3, 2, 8)).unbind(2)
    expected = (
        torch.stack(
            [(queries[:, :, head] @ keys[:, :, head].transpose(1, 2) / 8**0.5).softmax(dim=-1) for head in range(2)]
        )
        .mean(dim=0)
        .sum(dim=1)
    )
    assert_near(received, expected)
    monkeypatch.setattr(layers, "MOST_PROBABILITIES", 2 * 2 * TOKENS**2)
    assert_near(attention.with_received(x), (output, received))


def test_shares_are_the_published_ones_at_depth_28_and_scale_with_the_depth() -> None:
    steps, rho, a, b = 50, 0.07, -0.2, 2.0
    share = shares(rho, a, b, steps, 28)
    for i, block in product(range(steps), range(28)):
        s = steps - 1 - i
        r = rho * (1 + a - 2 * a * block / 27) * (1 + b - 2 * b * s / steps) * 2.5
        assert share[i, block].item() == pytest.approx(min(max(r, 0), 1), abs=1e-6)
    for depth in (2, 5, 12):
        assert torch.equal(shares(rho, a, b, steps, depth)[:, [0, -1]], share[:, [0, -1]])
    assert shares(0.3, a, b, 20, 28)[10, 21] == 1.0  # exactly all tokens, which float64 misses by one bit


def test_the_best_token_of_every_patch_is_favoured() -> None:
    scores = torch.rand(3, 25, generator=torch.Generator().manual_seed(0))
    expected = scores.clone().unflatten(1, (5, 5))
    for row, top, left in product(range(3), range(0, 5, 2), range(0, 5, 2)):
        patch = expected[row, top : top + 2, left : left + 2]  # at the rim of an odd grid, what is left of one
        patch[patch == patch.max()] *= 2.0
    assert torch.equal(favour(scores, 2.0, (5, 5)), expected.flatten(1))


def test_an_old_token_comes_before_one_that_was_just_computed() -> None:
    selection = ToCa(whole_steps([1, 2, 3], 4, 1), torch.full((4, 1), 0.5), 1.0, 1.0, 1.0)
    held = torch.zeros(1, 4, 2)
    selection.attended(0, torch.tensor([[4.0, 3.0, 2.0, 1.0]]))
    selection.stored(0, held)
    assert sorted(selection.choose(0, 2, held)[0].tolist()) == [0, 1]
    assert sorted(selection.choose(0, 2, held)[0].tolist()) == [2, 3]
    selection.passed(0)  # a cached step in which none was computed makes all of them older
    selection.attended(0, torch.tensor([[1.0, 1.0, 1.0, 1.0]]))
    assert sorted(selection.choose(0, 2, held)[0].tolist()) == [0, 1]
    selection.stored(0, held)
    selection.attended(0, torch.tensor([[0.0, 0.0, 1.0, 2.0]]))
    assert sorted(selection.choose(0, 2, held)[0].tolist()) == [2, 3]


def test_the_longest_held_features_are_chosen() -> None:
    held = torch.tensor([[[3.0, 4.0], [0.0, 1.0], [-6.0, 0.0]]])
    assert Norm(MASK, ALL).choose(0, 2, held).tolist() == [[2, 0]]


def test_clusters_are_the_nearest_means_in_l1_and_one_without_tokens_stays() -> None:
    tokens = torch.tensor([[[0.0, 0.0], [0.0, 1.0], [10.0, 10.0], [10.0, 12.0]], [[1.0, 1.0]] * 4])
    start = torch.tensor([[[1.0, 1.0], [9.0, 9.0], [99.0, 99.0]], [[1.0, 1.0], [5.0, 5.0], [7.0, 7.0]]])
    labels, centroids = k_means(tokens, start, 3)
    assert labels.tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]
    assert centroids[0].tolist() == [[0.0, 0.5], [10.0, 11.0], [99.0, 99.0]]
    assert centroids[1].tolist() == [[1.0, 1.0], [5.0, 5.0], [7.0, 7.0]]
    # of (0, 0): (3, 3) is nearer in L2, and (0, 5) in L1
    assert k_means(torch.zeros(1, 1, 2), torch.tensor([[[3.0, 3.0], [0.0, 5.0]]]), 1)[0].tolist() == [[1]]


def test_a_token_of_every_cluster_is_drawn_evenly() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([[2, 0, 0, 2, 2, 0, 3]]).expand(6000, 7)
    drawn = members(labels, torch.rand(6000, 4, generator=generator))
    counts = [torch.bincount(drawn[:, cluster], minlength=7) for cluster in range(4)]
    assert counts[1].tolist() == [6000, 0, 0, 0, 0, 0, 0]  # none is in it
    assert counts[3].tolist() == [0, 0, 0, 0, 0, 0, 6000]
    for cluster in (0, 2):
        tokens = (labels[0] == cluster).nonzero().flatten().tolist()
        assert all(1850 < counts[cluster][token] < 2150 for token in tokens)
        assert counts[cluster].sum() == counts[cluster][tokens].sum()
    assert members(labels[:1], torch.ones(1, 4)).tolist() == [[5, 0, 4, 6]]  # rounding up leaves the cluster not


def test_what_is_held_goes_to_the_computed_token_of_its_own_cluster() -> None:
    selection = Clusters(MASK, 2, 0.25)
    selection.labels = torch.tensor([[0, 1, 0, 1]])
    held = torch.zeros(1, 4, 1)
    selection.write(0, held, torch.tensor([[2, 1]]), torch.tensor([[[8.0], [4.0]]]))
    assert held.flatten().tolist() == [2.0, 4.0, 8.0, 1.0]


def test_clusters_are_made_in_whole_steps_before_a_step_that_asks() -> None:
    mask = whole_steps([2, 4, 5], 9, DEPTH)
    mask[3, 0, 0] = True  # computed in part
    assert [i for i, made in enumerate(Clusters(mask, 2, 0.0).clustered) if made] == [0, 1]


def test_a_skipped_step_gives_what_came_out_of_the_last_block_before(model: DiT) -> None:
    mask = whole_steps([1, 2, 3], STEPS, DEPTH)
    cache = ScheduledCache(mask, Reuse(mask), skipped=[2, 3])
    streams = []
    model.final_layer.register_forward_pre_hook(lambda _, args: streams.append(args[0].clone()))
    generation(model, lambda: cache).make(range(2))
    assert torch.equal(streams[2], streams[1])
    assert torch.equal(streams[3], streams[1])
    assert not torch.equal(streams[1], streams[0])
    assert not torch.equal(streams[4], streams[3])
    assert cache.stream is None
