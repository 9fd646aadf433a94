"""Checkpoints of people's own training: which of their tensors are the model, and what is said of it."""

import argparse
import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from closeness import assert_near
from safetensors.torch import load_file, save_file
from torch import Tensor

from goc.config import compose_config
from goc.models.build import load_model
from goc.models.checkpoint import load_state_dict
from goc.models.dit import DiT
from goc.sampling.generation import Generation
from goc.sampling.options import SAMPLERS
from goc.system.errors import ConfigError, GocError
from goc.system.files import ASSETS

SHAPE = {"input_size": 4, "patch_size": 2, "in_channels": 2, "hidden_size": 16, "depth": 3, "num_heads": 2,
         "num_classes": 5}  # fmt: skip
State = dict[str, Tensor]


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def other(state: State) -> State:
    """Weights of another model, in every tensor."""
    return {name: 1.5 * tensor for name, tensor in state.items()}


def inside(state: State) -> State:
    """The names that a model has whose blocks were compiled, or wrapped by FSDP, one by one."""
    words = {"blocks.0.": "blocks.0._orig_mod.", "blocks.1.": "blocks.1._fsdp_wrapped_module."}
    return {next((name.replace(a, b) for a, b in words.items() if a in name), name): t for name, t in state.items()}


ARGS = argparse.Namespace(model="DiT-XL/2", lr=1e-4, seeds=[0, 1], nested=argparse.Namespace(x=None))
ADAM = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-4}]}
LAYOUTS: dict[str, tuple[Callable[[State], Any], str]] = {
    "DiT's train.py": (lambda s: {"model": other(s), "ema": s, "opt": ADAM, "args": ARGS}, '"ema" is taken'),
    "train.py without EMA": (lambda s: {"model": s, "ema": None, "opt": ADAM, "args": ARGS}, '"model" is taken'),
    "model": (lambda s: {"model": s}, '"model" is taken'),
    "Lightning": (lambda s: {"state_dict": under("model.", s), "epoch": 3}, '"state_dict" under model.* is taken'),
    "Lightning with a decoder": (
        lambda s: {"state_dict": {**under("net.", s), "vae.conv.weight": torch.ones(2)}},
        '"state_dict" under net.* is taken (1 with other names left out)',
    ),
    "an EMA beside its model": (
        lambda s: {"state_dict": under("ema_model.", s) | under("model.", other(s))},
        "under ema_model.* is taken (42 with other names left out)",
    ),
    "DDP": (lambda s: under("module.", s), "what is under module.* is taken"),
    "DDP and torch.compile": (lambda s: {"model": under("module._orig_mod.", s)}, '"model" under module.* is taken'),
    "torch.compile": (lambda s: under("_orig_mod.", s), ""),
    "compiled and wrapped blocks": (inside, ""),
    "an entry in an entry": (lambda s: {"ema": {"state_dict": under("module.", s)}}, '"ema.state_dict" under module.*'),
    "a state dict": (lambda s: s, ""),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_model_of_a_training_is_found_and_what_was_taken_is_said(
    tiny_dit: DiT, tmp_path: Path, layout: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "goc")
    write, said = LAYOUTS[layout]
    state = tiny_dit.state_dict()
    torch.save(write(state), path := tmp_path / "w.ckpt")
    loaded = load_model(SHAPE, path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    assert caplog.messages == [] if not said else said in caplog.text
    assert len(caplog.messages) == bool(said)


@pytest.mark.parametrize(("content", "suffix"), [("safetensors", ".pt"), ("pt", ".safetensors"), ("old pt", ".bin")])
def test_a_file_is_read_as_what_it_is_whatever_its_name(
    tiny_dit: DiT, tmp_path: Path, content: str, suffix: str
) -> None:
    path = (tmp_path / "w").with_suffix(suffix)
    if content == "safetensors":
        save_file(tiny_dit.state_dict(), path)
    else:
        torch.save(tiny_dit.state_dict(), path, _use_new_zipfile_serialization=content == "pt")
    loaded = load_model(SHAPE, path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tiny_dit.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_loaded_as_float32(tiny_dit: DiT, tmp_path: Path, dtype: torch.dtype) -> None:
    state = {name: tensor.to(dtype) for name, tensor in tiny_dit.state_dict().items()}
    torch.save(state, path := tmp_path / "w.pt")
    loaded = load_model(SHAPE, path).state_dict()
    assert all(torch.equal(loaded[name], tensor.float()) for name, tensor in state.items())


def test_views_and_shared_storages_become_tensors_of_their_own(tiny_dit: DiT, tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in tiny_dit.state_dict().items()}
    for name, tensor in state.items():
        if name.endswith("fc1.weight"):  # transposed, and a slice of what is twice as large
            state[name] = torch.stack([tensor.t().contiguous(), torch.zeros_like(tensor.t())], dim=1)[:, 0].t()
    torch.save(state, path := tmp_path / "w.pt")
    model = load_model(SHAPE, path)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, tiny_dit.get_parameter(name))
        assert parameter.is_contiguous()


def trained(state: State, share: float) -> State:
    """The EMA of a training from scratch that has this share of the layers that start from zeros."""
    zeros = ("adaLN_modulation.1.weight", "final_layer.linear.weight")
    return {name: share * tensor if name.endswith(zeros) else tensor for name, tensor in state.items()}


@pytest.mark.parametrize(("share", "warned"), [(0.0, "0 %"), (0.1, "10 %"), (0.9, ""), (1.0, "")])
@pytest.mark.parametrize("layout", ["entries", "prefixes"])
def test_an_ema_that_was_hardly_updated_is_warned_of(
    tiny_dit: DiT, tmp_path: Path, caplog: pytest.LogCaptureFixture, share: float, warned: str, layout: str
) -> None:
    model = tiny_dit.state_dict()
    ema = trained(model, share)
    content: Any = {"model": under("module.", model), "ema": ema}
    if layout == "prefixes":
        content = {"state_dict": under("model.", model) | under("model_ema.", ema)}
    torch.save(content, path := tmp_path / "w.pt")
    load_model(SHAPE, path)
    assert ("its EMA was never updated, or hardly" in caplog.text) == bool(warned)
    assert warned in caplog.text


def test_an_untrained_model_says_nothing_of_its_ema(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = DiT(**SHAPE).state_dict()
    torch.save({"model": state, "ema": state}, path := tmp_path / "w.pt")
    load_model(SHAPE, path)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_ema_of_another_form_is_not_passed_over_in_silence(
    tiny_dit: DiT, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ema = {"decay": 0.999, "shadow_params": list(tiny_dit.state_dict().values())}
    torch.save({"model": tiny_dit.state_dict(), "ema": ema}, path := tmp_path / "w.pt")
    load_model(SHAPE, path)
    assert 'its "ema" may be an EMA, and is not what is run' in caplog.text


def generation(model: DiT, sampler: str, cfg_scale: float) -> Generation:
    solver = SAMPLERS[sampler]().solver(4)
    return Generation(model, solver, cfg_scale, 3, 0, lambda x: x[:, :1], torch.device("cpu"))


def without_null_label(model: DiT) -> State:
    state = dict(model.state_dict())
    state["y_embedder.embedding_table.weight"] = state["y_embedder.embedding_table.weight"][:-1].clone()
    return state


def without_variance(model: DiT) -> State:
    state = dict(model.state_dict())
    state["final_layer.linear.weight"] = model.output_halves()[:, 0].flatten(0, 1).clone()
    state["final_layer.linear.bias"] = model.final_layer.linear.bias.unflatten(0, (-1, 2, 2))[:, 0].flatten().clone()
    return state


def test_a_label_table_without_the_null_label_runs_without_guidance(
    tiny_dit: DiT, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_file(without_null_label(tiny_dit), path := tmp_path / "w.safetensors")
    model = load_model(SHAPE, path)
    assert "has a row for each of model.num_classes=5 and none for the null label" in caplog.text
    made, expected = (generation(m, "ddpm", 1.0).make(range(3))[0] for m in (model, copy.deepcopy(tiny_dit)))
    assert torch.equal(made["latents"], expected["latents"])
    with pytest.raises(ConfigError, match=r"^cfg_scale=1\.5: must be 1 with this checkpoint, whose label table has no"):
        generation(model, "ddim", 1.5)


@pytest.mark.parametrize("cfg_scale", [1.0, 1.5])
@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver", "unipc"])
def test_without_a_learned_variance_deterministic_solvers_make_the_same(
    tiny_dit: DiT, tmp_path: Path, sampler: str, cfg_scale: float
) -> None:
    save_file(without_variance(tiny_dit), path := tmp_path / "w.safetensors")
    model = load_model(SHAPE, path)
    x = torch.randn(2, 2, 4, 4)
    whole = tiny_dit(x, torch.tensor([300]), torch.tensor([0, 1]))[:, :2]
    torch.testing.assert_close(model(x, torch.tensor([300]), torch.tensor([0, 1])), whole)
    made, expected = (generation(m, sampler, cfg_scale).make(range(3))[0]["latents"] for m in (model, tiny_dit))
    assert (made - expected).norm() < 1e-3 * expected.norm()
    with pytest.raises(ConfigError, match=r"^sampler=ddpm: not supported with .* no learned variance"):
        generation(model, "ddpm", cfg_scale)


def test_latents_that_decode_to_no_numbers_are_no_black_images(tiny_dit: DiT) -> None:
    broken = Generation(tiny_dit, SAMPLERS["ddim"]().solver(4), 1.0, 3, 0, lambda x: x[:, :1] / 0, torch.device("cpu"))
    with pytest.raises(Exception, match=r"samples 0\.\.1: their decoded images are not finite"):
        broken.make(range(2))


def weights_of(model: DiT, value: float) -> dict[str, torch.Tensor]:
    """Weights of a model's names and shapes, all of one value."""
    return {name: torch.full_like(tensor, value) for name, tensor in model.state_dict().items()}


def dotless(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As latent diffusion's LitEma names what it averages: without dots, and without buffers."""
    weights = {f"diffusion_model.{name}".replace(".", ""): t for name, t in state.items() if name != "pos_embed"}
    return {f"model_ema.{name}": tensor for name, tensor in weights.items()}


AVERAGED = {
    name: lambda raw, ema, name=name: {"state_dict": raw, name: ema}
    for name in ("state_dict_ema", "ema_state_dict", "model_ema_state_dict", "params_ema", "ema_params", "EMA",
                 "ema_0.9999", "netEMA", "modelEma", "emaModel")
} | {
    "beside bare names": lambda raw, ema: raw | under("ema.", ema),
    "LitEma beside bare names": lambda raw, ema: {"state_dict": raw | dotless(ema)},
    "an optimizer of it": lambda raw, ema: {"model": raw, "ema": ema, "ema_optimizer": {"a": torch.ones(1)}},
    "in an entry": lambda raw, ema: {"model": {"params": raw, "params_ema": ema}},
    "LitEma": lambda raw, ema: {
        "state_dict": {**{f"model.diffusion_model.{n}": t for n, t in raw.items()}, **dotless(ema),
                       "model_ema.decay": torch.ones(1), "model_ema.num_updates": torch.ones(1)},
    },
}  # fmt: skip


@pytest.mark.parametrize("layout", AVERAGED.values(), ids=AVERAGED.keys())
def test_an_ema_is_taken_by_whatever_name(layout: Any, tiny_dit: DiT, tmp_path: Path) -> None:
    torch.save(layout(weights_of(tiny_dit, 1.0), weights_of(tiny_dit, 2.0)), tmp_path / "file.pt")
    state = load_state_dict(tmp_path / "file.pt", tiny_dit.state_dict())
    assert {name for name, tensor in state.items() if (tensor == 2).all()} >= state.keys() - {"pos_embed"}
    assert state.keys() == tiny_dit.state_dict().keys()


def test_an_ema_that_cannot_be_read_is_said(tiny_dit: DiT, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw = weights_of(tiny_dit, 1.0)
    for content in (
        {"model": raw, "ema_state": {"shadow": [1, 2]}},
        {**raw, "model_ema.other": torch.ones(2)},
        {"model": raw, "modelema": raw},
        {"model": raw, "averaged_model": raw},
    ):
        caplog.clear()
        torch.save(content, tmp_path / "file.pt")
        load_state_dict(tmp_path / "file.pt", tiny_dit.state_dict())
        assert "may be an EMA, and is not what is run" in caplog.text


def test_what_is_no_average_is_not_warned_of(tiny_dit: DiT, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rest = {"schema": {"version": 1}, "ema_decay": 0.9, "ema_optimizer": {"a": torch.ones(1)}}
    torch.save({"model": weights_of(tiny_dit, 1.0), **rest}, tmp_path / "file.pt")
    load_state_dict(tmp_path / "file.pt", tiny_dit.state_dict())
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("layout", [
    lambda state: {"net": state},
    lambda state: {"module": state, "ds_config": {"a": 1}, "optimizer": {"x": torch.ones(1)}},
    lambda state: {"net": state, "rng_state": {"cpu": torch.ones(1)}, "grad_scaler": {"scale": torch.ones(1)}},
    lambda state: {"generator": state, "step": 3}, lambda state: {"model": {"state_dict": state}},
    lambda state: {"state_dict": {f"model.diffusion_model.{name}": t for name, t in state.items()}, "epoch": 1},
])  # fmt: skip
def test_the_only_state_dict_of_a_file_is_the_model(layout: Any, tiny_dit: DiT, tmp_path: Path) -> None:
    torch.save(layout(weights_of(tiny_dit, 1.0)), tmp_path / "file.pt")
    assert load_state_dict(tmp_path / "file.pt", tiny_dit.state_dict()).keys() == tiny_dit.state_dict().keys()


@pytest.mark.parametrize(("content", "says"), [
    ({"net": 1, "step": 2}, r"holds no state dict \(its entries: net, step\)"),
    ({"a": {"w": torch.ones(1)}, "b": {"w": torch.ones(1)}}, "holds several state dicts, in its entries a, b"),
    ({"ema_1": {"w": torch.ones(1)}, "ema_2": {"w": torch.ones(1)}}, "holds several EMAs, in its entries ema_1, ema_2"),
])  # fmt: skip
def test_a_file_that_leaves_it_open_is_refused_by_its_entries(
    content: Any, says: str, tiny_dit: DiT, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(GocError, match=says):
        load_state_dict(tmp_path / "file.pt", tiny_dit.state_dict())


def test_positions_that_a_checkpoint_does_not_keep_are_computed(tmp_path: Path) -> None:
    file = ASSETS / "digits" / "diffusion-0.safetensors"
    state = load_file(file)
    shape = compose_config([]).measurement.model.shape()
    torch.save({name: tensor for name, tensor in state.items() if name != "pos_embed"}, tmp_path / "without.pt")
    assert_near(
        load_model(shape, tmp_path / "without.pt").pos_embed, state["pos_embed"], 1e-3
    )  # stored in half precision
    other = {**state, "pos_embed": state["pos_embed"] + 1}
    torch.save(other, tmp_path / "other.pt")
    assert torch.equal(load_model(shape, tmp_path / "other.pt").pos_embed, other["pos_embed"])
