import argparse
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from goc.models.build import load_model
from goc.models.checkpoint import load_weights
from goc.models.dit import DiT
from goc.system.errors import GocError

SHAPE = {"input_size": 4, "patch_size": 2, "in_channels": 2, "hidden_size": 16, "depth": 3, "num_heads": 2,
         "num_classes": 5}  # fmt: skip


@pytest.mark.parametrize("form", ["safetensors", "pt", "pt with ema"])
def test_a_checkpoint_loads_into_the_model_it_was_made_from(tiny_dit: DiT, tmp_path: Path, form: str) -> None:
    if form == "safetensors":
        save_file(tiny_dit.state_dict(), path := tmp_path / "w.safetensors")
    else:
        state = tiny_dit.state_dict()
        torch.save({"ema": state, "opt": {}} if "ema" in form else state, path := tmp_path / "w.pt")
    fresh = DiT(4, 2, 2, 16, 3, 2, 5)
    load_weights(fresh, path)
    assert all(
        torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), tiny_dit.state_dict().values(), strict=True)
    )


def test_weights_of_another_model_name_the_tensors_that_differ(tiny_dit: DiT, tmp_path: Path) -> None:
    save_file(tiny_dit.state_dict(), path := tmp_path / "w.safetensors")
    with pytest.raises(GocError, match=r"blocks\.3\.attn\.qkv\.weight.* missing") as deeper:
        load_weights(DiT(4, 2, 2, 16, 4, 2, 5), path)
    assert "\n" not in str(deeper.value)
    with pytest.raises(GocError, match=r"blocks\.2\..* unexpected"):
        load_weights(DiT(4, 2, 2, 16, 2, 2, 5), path)
    with pytest.raises(GocError, match=r"embedding_table\.weight \[6, 16\] instead of \[10, 16\] of another shape"):
        load_weights(DiT(4, 2, 2, 16, 3, 2, 9), path)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_truncated_or_missing_checkpoint_is_one_line(tiny_dit: DiT, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w.{suffix}"
    with pytest.raises(GocError, match="no such file"):
        load_weights(DiT(**SHAPE), path)
    (save_file if suffix == "safetensors" else torch.save)(tiny_dit.state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(GocError, match="truncated or not a checkpoint") as error:
        load_weights(DiT(**SHAPE), path)
    assert "\n" not in str(error.value)


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "pwned"),)

    path = tmp_path / "w.pt"
    path.write_bytes(pickle.dumps(Malicious(), protocol=2))
    with pytest.raises(GocError):
        load_weights(DiT(**SHAPE), path)
    torch.save({"weight": Malicious()}, path)
    with pytest.raises(GocError):
        load_weights(DiT(**SHAPE), path)
    assert not (tmp_path / "pwned").exists()


def test_a_file_that_holds_no_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], path := tmp_path / "w.pt")
    with pytest.raises(GocError, match="holds no state dict"):
        load_weights(DiT(**SHAPE), path)


@pytest.mark.parametrize("content", [b"hello there\n", b"e: a text file\n", b"", b"PK\x03\x04 no zip", b"\x80\x02."])
def test_a_file_of_another_kind_named_like_a_checkpoint_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(GocError) as error:
        load_weights(DiT(**SHAPE), tmp_path / "w.pt")
    assert str(error.value) == (
        f"model.checkpoint={tmp_path / 'w.pt'}: truncated or not a checkpoint, or a pickle that would run code; "
        "must be a .safetensors file or a PyTorch state dict (.pt), of tensors alone"
    )


def test_a_refused_pickle_says_nothing_of_how_to_run_it(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(pickle.dumps({"weight": argparse.Namespace()}, protocol=4))
    with pytest.raises(GocError) as error:
        load_weights(DiT(**SHAPE), path)
    assert "a pickle that would run code" in str(error.value)
    assert "weights_only" not in str(error.value)
    assert not recwarn.list


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named_with_their_tensors(tiny_dit: DiT, tmp_path: Path, value: float) -> None:
    state = {name: tensor.clone() for name, tensor in tiny_dit.state_dict().items()}
    for name in ("blocks.0.attn.qkv.bias", "blocks.1.mlp.fc1.weight", "final_layer.linear.bias", "pos_embed"):
        state[name].view(-1)[-1] = value
    save_file(state, path := tmp_path / "w.safetensors")
    with pytest.raises(GocError) as error:
        load_weights(tiny_dit, path)
    named = str(error.value).removeprefix(f"model.checkpoint={path}: holds NaN or infinite values in ")
    assert named.endswith(" and 1 more")
    assert "blocks.0.attn.qkv.bias" in named


def save(model: DiT, path: Path, objective: str | None) -> Path:
    """A checkpoint, marked with its objective unless that is None."""
    save_file(model.state_dict(), path, None if objective is None else {"objective": objective})
    return path


@pytest.mark.parametrize(("said", "asked"), [("flow", "diffusion"), ("diffusion", "flow")])
def test_a_checkpoint_that_says_its_objective_is_refused_under_another(
    tiny_dit: DiT, tmp_path: Path, said: str, asked: str
) -> None:
    path = save(tiny_dit, tmp_path / "w.safetensors", said)
    load_model(SHAPE, path, said)
    with pytest.raises(GocError, match=rf"model\.objective={asked}: must be {said}, which .*w\.safetensors was"):
        load_model(SHAPE, path, asked)


def test_a_variance_half_of_zeros_tells_flow_matching(tiny_dit: DiT, tmp_path: Path) -> None:
    tiny_dit.output_halves()[:, 1] = 0
    path = save(tiny_dit, tmp_path / "w.safetensors", None)
    load_model(SHAPE, path, "flow")
    with pytest.raises(GocError, match=r"model\.objective=diffusion: must be flow"):
        load_model(SHAPE, path, "diffusion")


def test_a_trained_variance_under_flow_matching_is_warned_of(
    tiny_dit: DiT, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(tiny_dit, tmp_path / "w.safetensors", None)
    load_model(SHAPE, path, "diffusion")
    assert not caplog.text
    load_model(SHAPE, path, "flow")
    assert "its variance half is not zero, as in a diffusion model" in caplog.text


def test_the_halves_of_the_output_are_those_of_the_last_layer(tiny_dit: DiT) -> None:
    tiny_dit.output_halves()[:, 1] = 0
    tiny_dit.final_layer.linear.bias.zero_()
    output = tiny_dit(torch.randn(2, 2, 4, 4), torch.tensor([0.5]), torch.tensor([0, 1]))
    assert not output[:, 2:].any()
    assert output[:, :2].abs().min() > 0
