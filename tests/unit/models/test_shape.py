"""The settings of a denoiser's shape that its checkpoint tells."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from goc.config import compose_config, identity, validate
from goc.models.build import load_model
from goc.models.dit import DiT
from goc.models.shape import complete, told_by
from goc.runs.denoiser import loaded_generation
from goc.system.errors import ConfigError, GocError

OPEN = dict.fromkeys(("input_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads", "num_classes"), 0)
SHAPE = {"input_size": 16, "patch_size": 4, "in_channels": 3, "hidden_size": 384, "depth": 2, "num_heads": 6,
         "num_classes": 20}  # fmt: skip


@pytest.mark.parametrize("form", ["plain", "ddp", "training"])
@pytest.mark.parametrize(("more", "named"), [({}, ()), ({"labels": 20}, ()), ({"out_channels": 3}, ())])
def test_a_checkpoint_tells_the_shape_it_was_made_with(
    tmp_path: Path, form: str, more: dict[str, int], named: tuple[str, ...]
) -> None:
    """With a null label or without, with a learned variance or without, in whatever form trainings leave it."""
    state = DiT(**SHAPE, **more).state_dict()
    path = tmp_path / "mine.pt"
    if form == "ddp":
        state = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"ema": state, "opt": {}, "args": None} if form == "training" else state, path)
    assert complete(OPEN, path) == SHAPE


def test_what_is_named_counts_and_what_is_not_told_must_be_named(tmp_path: Path) -> None:
    model = DiT(**{**SHAPE, "hidden_size": 64, "num_heads": 4, "num_classes": 6})
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "pos_embed"}
    save_file(state, path := tmp_path / "mine.safetensors")
    given = dict(OPEN)
    for name, value in (("input_size", 16), ("num_heads", 4), ("num_classes", 6)):  # a table of 7 rows
        with pytest.raises(ConfigError, match=rf"model\.{name}=0: must be named, as the shapes in .*mine"):
            complete(given, path)
        given[name] = value
    assert complete(given, path) == {**SHAPE, "hidden_size": 64, "num_heads": 4, "num_classes": 6}


FORMS = {
    "as released": ({}, {}),
    "deeper, wider, larger patches": ({"depth": 4, "hidden_size": 96, "num_heads": 3, "patch_size": 8}, {}),
    "other classes, no null label": ({"num_classes": 30}, {"labels": 30}),
    "no learned variance": ({"in_channels": 4, "input_size": 8}, {"out_channels": 4}),
    "neither": ({"hidden_size": 64, "num_heads": 8}, {"labels": 20, "out_channels": 3}),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_a_checkpoint_makes_the_network_that_it_is_of(
    tmp_path: Path, form: tuple[dict[str, int], dict[str, int]], caplog: pytest.LogCaptureFixture
) -> None:
    """Its output, to the last bit; heads are named where the width is not a published one."""
    different, more = form
    shape = {**SHAPE, **different}
    torch.manual_seed(0)
    model = DiT(**shape, **more).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.1 * torch.randn_like(parameter))
    torch.save(model.state_dict(), path := tmp_path / "mine.pt")
    named = {} if shape["hidden_size"] == 384 else {"num_heads": shape["num_heads"]}
    with caplog.at_level("INFO"):
        read = complete({**OPEN, **named}, path)
    assert read == shape
    assert ("model.num_heads=6: as DiT's published models of width 384" in caplog.text) == (named == {})
    loaded = load_model(read, path)
    x = torch.randn(2, shape["in_channels"], shape["input_size"], shape["input_size"])
    inputs = x, torch.tensor([300]), torch.tensor([0, 19])
    assert (loaded.null_label, loaded.learned_variance) == ("labels" not in more, "out_channels" not in more)
    with torch.inference_mode():
        assert torch.equal(loaded(*inputs), model(*inputs))


def test_other_heads_than_the_published_ones_must_be_named_and_are_another_network(tmp_path: Path) -> None:
    model = DiT(**{**SHAPE, "num_heads": 12})
    torch.save(model.state_dict(), path := tmp_path / "mine.pt")
    assert complete(OPEN, path)["num_heads"] == 6
    assert complete({**OPEN, "num_heads": 12}, path) == {**SHAPE, "num_heads": 12}
    settings = ["model=dit", f"model.checkpoint={path}", "vae=null"]
    assumed, named = (compose_config([*settings, *more]) for more in ([], ["model.num_heads=12"]))
    assert identity(assumed) != identity(named)


def test_guidance_without_a_null_label_is_refused(tmp_path: Path) -> None:
    torch.save(DiT(**SHAPE, labels=20).state_dict(), path := tmp_path / "mine.pt")
    config = compose_config(["model=dit", f"model.checkpoint={path}", "vae=null", "cfg_scale=1.5"])
    validate(config)
    with pytest.raises(ConfigError, match=r"^cfg_scale=1\.5: must be 1 with this checkpoint, .* has no null label"):
        loaded_generation(config.measurement, config.way, path, torch.device("cpu"), compiled=False)


@pytest.mark.parametrize(
    "rows", [(1001, 1000), (1000, 1000), (11, 10), (101, 100), (7, None), (1, None)], ids=lambda pair: str(pair[0])
)
def test_a_label_table_tells_its_classes_or_leaves_them_open(rows: tuple[int, int | None]) -> None:
    state = {
        "x_embedder.proj.weight": torch.empty(8, 4, 2, 2),
        "blocks.0.attn.qkv.weight": torch.empty(24, 8),
        "y_embedder.embedding_table.weight": torch.empty(rows[0], 8),
    }
    assert (told_by(state).get("num_classes") or None) == rows[1]


def test_what_is_no_dit_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    with pytest.raises(GocError, match=r"model\.checkpoint=.*other\.pt: holds no DiT whose shape can be read"):
        complete(OPEN, tmp_path / "other.pt")
    with pytest.raises(GocError, match=r"model\.checkpoint=.*absent\.pt: no such file"):
        complete(OPEN, tmp_path / "absent.pt")


def test_a_file_is_all_that_a_model_needs(tmp_path: Path) -> None:
    torch.save(DiT(**SHAPE).state_dict(), tmp_path / "mine.pt")
    config = compose_config(["model=dit", f"model.checkpoint={tmp_path}/mine.pt", "vae=null"])
    validate(config)
    model = config.measurement.model
    assert model.shape() == SHAPE
    assert model.name == "mine"
    named = compose_config(["model=sit", f"model.checkpoint={tmp_path}/mine.pt", "vae=null", "model.name=other"])
    assert (named.measurement.model.name, named.measurement.model.objective) == ("other", "flow")
    assert named.way.sampler.name == "euler"
