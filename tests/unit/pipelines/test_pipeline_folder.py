"""A pipeline's folder: what run.py takes, what it refuses in one line, and its hash."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from goc.pipelines.folder import check_call, find_pipeline, load_pipeline, pipeline_class, pipeline_sha256
from goc.pipelines.prompts import read_prompts
from goc.system.errors import GocError


def index(folder: Path, name: str, **parts: str) -> Path:
    """A folder with an index of a pipeline of a class, and nothing else."""
    folder.mkdir(exist_ok=True)
    content: dict[str, Any] = {"_class_name": name, **{part: ["diffusers", cls] for part, cls in parts.items()}}
    (folder / "model_index.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("name", "parts", "message"),
    [
        ("StableDiffusionPipeline", {"unet": "UNet2DConditionModel"}, "has no transformer, but a UNet; caches are for"),
        ("StableDiffusionUpscalePipeline", {}, "has no transformer; caches are for pipelines with a transformer"),
        ("DiTPipeline", {"transformer": "A"}, "takes no prompt; run.py runs pipelines that make images or videos"),
        ("NextYearsPipeline", {"transformer": "A"}, "has no NextYearsPipeline"),
    ],
)
def test_pipelines_of_another_kind_are_refused(tmp_path: Path, name: str, parts: Any, message: str) -> None:
    with pytest.raises(GocError, match=f"model.pipeline={re.escape(str(tmp_path))}: .*{message}"):
        pipeline_class(index(tmp_path, name, **parts))


def test_what_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GocError, match=r"has no model_index\.json; must be a folder in diffusers' format, or its name"):
        find_pipeline(str(tmp_path))
    with pytest.raises(GocError, match=r"missing: no such folder; must be a folder in diffusers' format, or its name"):
        find_pipeline(str(tmp_path / "missing"))
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(GocError, match=r"its model_index\.json is damaged"):
        pipeline_class(tmp_path)
    (tmp_path / "model_index.json").write_text("[]")
    with pytest.raises(GocError, match=r"its model_index\.json is damaged \(must hold an object\)"):
        pipeline_class(tmp_path)


def test_arguments_that_the_call_does_not_have_are_refused(tiny_pipeline: Path) -> None:
    cls = pipeline_class(tiny_pipeline)
    check_call(cls, ["height"], 3.0)
    with pytest.raises(
        GocError, match=r"model\.call\.heigth: StableDiffusion3Pipeline has no such argument; it has prompt"
    ):
        check_call(cls, ["heigth"], 3.0)

    class Plain:
        def __call__(self, prompt: str) -> None: ...

    check_call(Plain, [], 1.0)
    with pytest.raises(GocError, match="cfg_scale=3: must be 1 with Plain, which has no guidance_scale"):
        check_call(Plain, [], 3.0)


def test_a_damaged_part_is_named(tiny_pipeline: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_pipeline, folder)
    (folder / "transformer" / "config.json").write_text("{")
    with pytest.raises(GocError, match=r"copy: its part transformer: its config\.json is damaged \(") as error:
        load_pipeline(folder, None, torch.device("cpu"))
    assert "\n" not in str(error.value)


def test_the_hash_is_of_the_parts_and_of_nothing_else(tiny_pipeline: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_pipeline, folder)
    expected = pipeline_sha256(tiny_pipeline)
    (folder / "prompts.txt").write_text("another prompt")
    assert pipeline_sha256(folder) == expected
    for changed in ("transformer/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"):
        content = (folder / changed).read_bytes()
        (folder / changed).write_bytes(content + b" ")
        assert pipeline_sha256(folder) != expected
        (folder / changed).write_bytes(content)
        assert pipeline_sha256(folder) == expected


def test_weights_are_loaded_in_the_format_that_is_asked_for(tiny_pipeline: Path) -> None:
    pipe = load_pipeline(tiny_pipeline, torch.bfloat16, torch.device("cpu"))
    assert {parameter.dtype for parameter in pipe.transformer.parameters()} == {torch.bfloat16}


def test_prompts_are_the_lines_that_are_not_empty(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\n\n  zwei V\u00f6gel \n", encoding="utf-8")
    assert read_prompts(path) == ("a cat", "zwei V\u00f6gel")
    for content, message in ((b"\n \n", "has no prompt in it"), (b"\xff\xfe", "must be a UTF-8 text file")):
        path.write_bytes(content)
        with pytest.raises(GocError, match=f"prompts={re.escape(str(path))}: {message}"):
            read_prompts(path)
    with pytest.raises(GocError, match=r"missing\.txt: no such file"):
        read_prompts(tmp_path / "missing.txt")
