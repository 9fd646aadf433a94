"""Parts in the formats of diffusers and transformers: good ones load in every form; which of their files decide."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from closeness import assert_near
from safetensors.torch import load_file, save_file
from torch import nn

from goc.metrics.blip import BlipMatching
from goc.metrics.clip import ClipIqa, ClipScore
from goc.metrics.scorers import find_scorer, scorer_sha256
from goc.models.decoder import vae_sha256
from goc.models.parts import check_tokenizer, load_part, part_files
from goc.pipelines.folder import load_pipeline, pipeline_sha256

CPU = torch.device("cpu")
SMALL = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
T5 = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
GEMMA = {**SMALL, "num_key_value_heads": 2, "head_dim": 8}
PLAIN_FLUX = {"in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
              "num_attention_heads": 2, "joint_attention_dim": 12, "pooled_projection_dim": 10,
              "axes_dims_rope": (4, 6, 6)}  # fmt: skip
MODELS: dict[str, Callable[[], Any]] = {
    # with weights that are tied, that are ignored, and that the library gives other names
    "T5": lambda: transformers.T5EncoderModel(transformers.T5Config(**T5)),
    "UMT5": lambda: transformers.UMT5EncoderModel(transformers.UMT5Config(**T5)),
    "CLIP": lambda: transformers.CLIPTextModel(transformers.CLIPTextConfig(**SMALL)),
    "Gemma": lambda: transformers.Gemma2Model(transformers.Gemma2Config(**GEMMA)),
    "Llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, tie_word_embeddings=True)),
    "FLUX": lambda: diffusers.FluxTransformer2DModel(**PLAIN_FLUX),
    "VAE": lambda: diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=2),
}


def options(model: nn.Module) -> dict[str, Any]:
    of_diffusers = isinstance(model, diffusers.ModelMixin)
    return {"low_cpu_mem_usage": False} if of_diffusers else {"dtype": torch.float32, "trust_remote_code": False}


@pytest.mark.parametrize("form", ["one file", "shards", "pickled"])
@pytest.mark.parametrize("name", MODELS)
def test_a_whole_model_loads_in_every_form(tmp_path: Path, name: str, form: str) -> None:
    model = MODELS[name]()
    model.save_pretrained(tmp_path, max_shard_size="5KB" if form == "shards" else "1GB")
    if form == "pickled":
        (path,) = tmp_path.glob("*.safetensors")
        path.unlink()
        stem = {"model": "pytorch_model"}.get(path.stem, path.stem)
        torch.save(model.state_dict(), tmp_path / f"{stem}.bin")
    loaded = load_part(type(model), tmp_path, **options(model)).state_dict()
    assert loaded.keys() == model.state_dict().keys()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in model.state_dict().items())


def test_what_a_library_knows_to_ignore_is_not_counted(tmp_path: Path) -> None:
    whole = transformers.T5ForConditionalGeneration(transformers.T5Config(**T5))
    whole.save_pretrained(tmp_path)
    encoder = load_part(transformers.T5EncoderModel, tmp_path, dtype=torch.float32)
    assert torch.equal(encoder.state_dict()["shared.weight"], whole.state_dict()["shared.weight"])


def test_a_snapshot_of_the_hub_whose_files_are_links_loads(tiny_pipeline: Path, tmp_path: Path) -> None:
    folder, blobs = tmp_path / "snapshot", tmp_path / "blobs"
    shutil.copytree(tiny_pipeline, folder)
    blobs.mkdir()
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        path.rename(blobs / str(number))
        path.symlink_to(blobs / str(number))
    load_pipeline(folder, None, CPU)
    assert pipeline_sha256(folder) == pipeline_sha256(tiny_pipeline)


def test_parts_are_loaded_as_the_pipeline_itself_loads_them(tiny_pipeline: Path) -> None:
    theirs = diffusers.StableDiffusion3Pipeline.from_pretrained(
        tiny_pipeline, dtype=torch.bfloat16, local_files_only=True, low_cpu_mem_usage=False, text_encoder_3=None,
        tokenizer_3=None,
    )  # fmt: skip
    ours = load_pipeline(tiny_pipeline, torch.bfloat16, CPU)
    for name in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        loaded, expected = getattr(ours, name).state_dict(), getattr(theirs, name).state_dict()
        assert loaded.keys() == expected.keys()
        # diffusers leaves some of them in the format of the file
        assert all(torch.equal(loaded[key], tensor.to(torch.bfloat16)) for key, tensor in expected.items())
        assert not getattr(ours, name).training


HASHES: dict[str, tuple[Callable[[Path], str], str, tuple[str, ...]]] = {
    # of what folder, and the files in it that decide
    "clip": (scorer_sha256, "clip", ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json",
                                   "processor_config.json", "model-00002-of-00002.safetensors",
                                   "model.safetensors.index.json", "merges.txt", "spiece.model")),
    "vae": (vae_sha256, "vae", ("diffusion_pytorch_model.safetensors", "config.json",
                                "diffusion_pytorch_model-00001-of-00002.safetensors")),
    "pipeline": (lambda folder: pipeline_sha256(folder.parent), "vae", (
        "config.json", "../scheduler/scheduler_config.json", "../tokenizer/tokenizer.json", "../model_index.json")),
}  # fmt: skip
WITHOUT_EFFECT = ("README.md", ".DS_Store", ".cache/huggingface/x.metadata", "flax_model.msgpack", "tf_model.h5",
                  "model.fp16.safetensors", "diffusion_pytorch_model.fp16.safetensors", "pytorch_model.bin",
                  "model.fp16-00001-of-00002.safetensors", "model.safetensors.index.fp16.json")  # fmt: skip


@pytest.mark.parametrize("name", HASHES)
def test_a_hash_is_of_all_files_that_decide_and_of_no_other(tiny_pipeline: Path, tmp_path: Path, name: str) -> None:
    sha256, part, deciding = HASHES[name]
    shutil.copytree(tiny_pipeline, tmp_path / "copy")
    folder = tmp_path / "copy" / part
    expected = sha256(folder)
    assert sha256(tiny_pipeline / part) == expected
    for file in deciding:
        before = (folder / file).read_bytes() if (folder / file).exists() else None
        (folder / file).write_bytes((before or b"{}") + b" ")
        assert sha256(folder) != expected, file
        (folder / file).unlink() if before is None else (folder / file).write_bytes(before)
    assert sha256(folder) == expected
    for file in WITHOUT_EFFECT:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"other")
        assert sha256(folder) == expected, file


def test_pickled_weights_decide_where_there_are_no_others(tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "config.json"):
        (tmp_path / name).write_bytes(b"{}")
    assert [path.name for path in part_files(tmp_path)] == ["config.json", "pytorch_model.bin"]


def test_a_clip_in_shards_scores_as_in_one_file(tiny_pipeline: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(tiny_pipeline / "clip", folder)
    whole = ClipScore.load(folder, CPU)
    (folder / "model.safetensors").unlink()
    whole.network.save_pretrained(folder, max_shard_size="5KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    texts = ["a cat", "two birds"]
    assert torch.equal(ClipScore.load(find_scorer("clip", str(folder)), CPU)(images, texts), whole(images, texts))


def test_clip_iqa_is_the_share_of_the_good_photo(tiny_pipeline: Path) -> None:
    """Its definition, from CLIP's parts: whatever the prompt says."""
    score = ClipIqa.load(tiny_pipeline / "clip", CPU)
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = score.processor(images=list(images), return_tensors="pt")
    about = score.processor(text=["Good photo.", "Bad photo."], return_tensors="pt", padding=True)
    seen = torch.nn.functional.normalize(score.network.get_image_features(**pixels).pooler_output)
    said = torch.nn.functional.normalize(score.network.get_text_features(**about).pooler_output)
    good, bad = (100 * seen @ said.T).exp().T
    assert_near(score(images, ["a cat", "two birds", "a map"]), good / (good + bad))
    assert torch.equal(score(images, ["", "x", "y"]), score(images, ["a cat", "two birds", "a map"]))


def test_blip_matching_is_its_heads_probability(tiny_pipeline: Path) -> None:
    score = BlipMatching.load(tiny_pipeline / "blip", CPU)
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    texts = ["a cat", "two birds above the sea", "a map"]
    given = score.processor(text=texts, images=list(images), return_tensors="pt", padding=True)
    expected = score.network(**given, use_itm_head=True).itm_score.softmax(dim=-1)[:, 1]
    assert_near(score(images, texts), expected)
    assert_near(score(images[1:2], texts[1:2]), expected[1:2])  # whatever is beside it
    assert (score(images, texts[::-1]) - expected).abs().max() > 1e-4


@pytest.mark.parametrize("files", [["tokenizer.json"], ["vocab.json", "merges.txt"], ["spiece.model"]])
def test_a_tokenizer_with_a_vocabulary_in_any_format_is_taken(tmp_path: Path, files: list[str]) -> None:
    for name in files:
        (tmp_path / name).write_text("")
    check_tokenizer(transformers.CLIPTokenizer, tmp_path)
    (tmp_path / files[-1]).unlink()
    with pytest.raises(ValueError, match=r"must have tokenizer\.json, or merges\.txt and vocab\.json"):
        check_tokenizer(transformers.CLIPTokenizer, tmp_path)


def test_values_of_half_precision_near_its_limit_are_finite(tmp_path: Path) -> None:
    model = MODELS["VAE"]()
    model.half().save_pretrained(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    state = load_file(path)
    name = sorted(state)[-1]
    save_file({**state, name: torch.full_like(state[name], 65504)}, path, {"format": "pt"})
    loaded = load_part(diffusers.AutoencoderKL, tmp_path, torch_dtype=torch.float16, low_cpu_mem_usage=False)
    assert loaded.dtype == torch.float16
