"""Bad weights: checkpoints, pipelines, autoencoders, CLIPs, extractors and routers, each refused in one line."""

import argparse
import io
import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from goc.metrics import lpips
from goc.metrics.blip import BlipMatching
from goc.metrics.clip import ClipScore
from goc.metrics.features import load_extractor
from goc.models.build import load_model
from goc.models.decoder import find_vae, load_vae
from goc.models.dit import DiT
from goc.models.routers import load_router
from goc.pipelines.folder import find_pipeline, load_pipeline, pipeline_sha256
from goc.system.errors import GocError
from goc.system.files import resolve

CPU = torch.device("cpu")
SHAPE = {"input_size": 4, "patch_size": 2, "in_channels": 2, "hidden_size": 16, "depth": 3, "num_heads": 2,
         "num_classes": 5}  # fmt: skip
BIAS, TABLE, LAST = "final_layer.linear.bias", "y_embedder.embedding_table.weight", "blocks.2.mlp.fc2.weight"
DEEP = b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
State = dict[str, Tensor]


class Code:
    """What would make a folder if it were unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("pwned",)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(says: str, call: Callable[[], Any]) -> None:
    """A GocError of this text, and nothing of the input was run."""
    with pytest.raises(GocError) as error:
        call()
    assert re.search(says, str(error.value)), str(error.value)
    assert "weights_only" not in str(error.value)
    assert not Path("pwned").exists()


# ---------------------------------------------------------------- checkpoints of the project's denoiser


@dataclass(frozen=True)
class Checkpoint:
    """A bad checkpoint: what is saved in its place, of a good state dict, and what the answer says of it."""

    name: str
    content: Callable[[State], Any]  # bytes are the file; anything else is saved by torch
    says: str
    suffix: str = ".pt"

    def __str__(self) -> str:
        return self.name


def changed(**tensors: Callable[[Tensor], Tensor]) -> Callable[[State], State]:
    """A state dict with some of its tensors changed: bias, table, last."""
    names = {"bias": BIAS, "table": TABLE, "last": LAST}
    return lambda state: {**state, **{names[key]: change(state[names[key]]) for key, change in tensors.items()}}


def pickled(value: Any, protocol: int = 2) -> bytes:
    return pickle.dumps(value, protocol=protocol)


def saved(value: Any, cut: int | None = None, old: bool = False) -> bytes:
    """What torch saves, cut to so many bytes."""
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=not old)
    return file.getvalue()[:cut]


def zipped(**files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def header(claimed: int, text: bytes) -> bytes:
    return claimed.to_bytes(8, "little") + text


def cyclic(_: State) -> Any:
    content: dict[str, Any] = {}
    content["model"] = content
    return content


def beyond_its_file(_: State) -> bytes:
    text = json.dumps({"w": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}).encode()
    return header(len(text), text + bytes(64))


NAN, INF = float("nan"), float("inf")
DAMAGED, NO_STATE = "truncated or not a checkpoint", "holds no state dict"
CHECKPOINTS = [
    Checkpoint("empty", lambda s: b"", DAMAGED),
    Checkpoint("text", lambda s: b"a text\n", DAMAGED),
    Checkpoint("truncated", lambda s: saved(s, cut=5000), DAMAGED),
    Checkpoint("truncated in the old format", lambda s: saved(s, cut=5000, old=True), DAMAGED),
    Checkpoint("a zip of something else", lambda s: zipped(a=b"b"), DAMAGED),
    Checkpoint("a plain pickle", lambda s: pickled({"a": 1}), DAMAGED),
    Checkpoint("a plain pickle that runs code", lambda s: pickled(Code()), DAMAGED),
    Checkpoint("code", lambda s: {"model": s, "args": Code()}, r"a pickle that would run code"),
    Checkpoint("code in a Namespace", lambda s: {"model": s, "args": argparse.Namespace(a=Code())}, "would run code"),
    Checkpoint("an object", lambda s: {"model": s, "args": Path("a")}, r"would run code \(pathlib\.\w+\)"),
    Checkpoint("a list", lambda s: list(s.values()), NO_STATE),
    Checkpoint("a tensor", lambda s: s[BIAS], NO_STATE),
    Checkpoint("nothing", lambda s: {}, NO_STATE),
    Checkpoint("None", lambda s: None, NO_STATE),
    Checkpoint("other values", lambda s: {**s, "step": 3}, NO_STATE),
    Checkpoint("names that are numbers", lambda s: dict(enumerate(s.values())), NO_STATE),
    Checkpoint("an optimizer alone", lambda s: {"opt": s, "args": argparse.Namespace()}, NO_STATE),
    Checkpoint("within itself", cyclic, NO_STATE),
    Checkpoint("a tensor for an entry", lambda s: {"ema": s[BIAS], "x": 1}, NO_STATE),
    Checkpoint("two models", lambda s: {p + n: t for p in ("a.", "b.") for n, t in s.items()},
        r"models, under a\., b\."),
    Checkpoint("a name twice", lambda s: {**s, f"_orig_mod.{BIAS}": s[BIAS]}, f"holds {BIAS} twice"),
    Checkpoint("another model", lambda s: {"w": torch.ones(2)}, "38 more missing; w unexpected"),
    Checkpoint("a tensor missing", lambda s: {n: t for n, t in s.items() if n != LAST}, f"{LAST} missing$"),
    Checkpoint("a tensor too many", lambda s: {**s, "blocks.3.attn.qkv.bias": s[BIAS]},
        r"blocks\.3\.attn\.qkv\.bias unexp"),
    Checkpoint("no label table", lambda s: {n: t for n, t in s.items() if n != TABLE}, f"{TABLE} missing$"),
    Checkpoint("too few labels", changed(table=lambda t: t[:4].clone()), r"\[4, 16\] instead of \[6, 16\] of another"),
    Checkpoint("a table of one axis", changed(table=lambda t: t[:, 0].clone()), r"\[6\] instead of \[6, 16\]"),
    Checkpoint("half an output", changed(bias=lambda t: t[:8].clone()), r"\[16, 16\] instead of \[8, 16\] of another"),
    Checkpoint("a third of an output", changed(bias=lambda t: t[:5].clone()), r"\[5\] instead of \[16\] of another"),
    Checkpoint("without an axis", changed(bias=lambda t: t[0].clone()), r"\[\] instead of \[16\]"),
    Checkpoint("int8", changed(bias=lambda t: t.to(torch.int8)), rf"{BIAS} \(int8\) of another kind"),
    Checkpoint("bool", changed(bias=lambda t: t > 0), rf"{BIAS} \(bool\) of another kind"),
    Checkpoint("complex", changed(bias=lambda t: t.to(torch.complex64)), rf"{BIAS} \(complex64\) of another kind"),
    Checkpoint("sparse", changed(last=lambda t: t.to_sparse()), rf"{LAST} \(sparse\) of another kind"),
    Checkpoint("without values", changed(bias=lambda t: t.to("meta")), rf"{BIAS} \(without values\) of another kind"),
    Checkpoint("expanded without end", changed(bias=lambda t: t[:1].expand(10**12)), r"\[1000000000000\] instead of"),
    Checkpoint("NaN", changed(last=lambda t: t * NAN), f"not finite .* in {LAST}"),
    Checkpoint("infinite", changed(bias=lambda t: t + INF), f"not finite .* in {BIAS}"),
    Checkpoint("infinite in float32", changed(bias=lambda t: t.double() + 1e300), f"not finite .* in {BIAS}"),
    Checkpoint("NaN in fp16", changed(bias=lambda t: t.half() * NAN), f"not finite .* in {BIAS}"),
    Checkpoint("an EMA of NaN", lambda s: {"ema": changed(bias=lambda t: t * NAN)(s), "model": s}, f"in {BIAS}"),
    Checkpoint("empty safetensors", lambda s: b"", DAMAGED, ".safetensors"),
    Checkpoint("garbage safetensors", lambda s: b"garbage, and more of it", DAMAGED, ".safetensors"),
    Checkpoint("a header of 10**15 bytes", lambda s: header(10**15, b"{}"), DAMAGED, ".safetensors"),
    Checkpoint("a header of 10**15 bytes in a .pt", lambda s: header(10**15, b"{}"), DAMAGED),
    Checkpoint("a header that is no JSON", lambda s: header(9, b"{abc: 1}}"), DAMAGED, ".safetensors"),
    Checkpoint("a header of depth", lambda s: header(len(DEEP), DEEP), DAMAGED, ".safetensors"),
    Checkpoint("more values than bytes", beyond_its_file, DAMAGED, ".safetensors"),
    Checkpoint("code named safetensors", lambda s: saved(Code()), "would run code", ".safetensors"),
    Checkpoint("a damaged .bin", lambda s: b"PK\x03\x04", DAMAGED, ".bin"),
]  # fmt: skip


@pytest.mark.parametrize("bad", CHECKPOINTS, ids=str)
def test_a_bad_checkpoint_is_refused(tiny_dit: DiT, tmp_path: Path, bad: Checkpoint) -> None:
    path = (tmp_path / "w").with_suffix(bad.suffix)
    content = bad.content(tiny_dit.state_dict())
    path.write_bytes(content if isinstance(content, bytes) else saved(content))
    refused(rf"^model\.checkpoint={re.escape(str(path))}: .*{bad.says}", lambda: load_model(SHAPE, path))


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    refused(r"^model\.checkpoint=.*: is a folder; must be a \.safetensors file or", lambda: load_model(SHAPE, tmp_path))


# ---------------------------------------------------------------- folders of diffusers and transformers


Change = Callable[[Path], None]  # of a good folder into a bad one


@dataclass(frozen=True)
class Folder:
    """A pipeline's folder with something wrong with it, and what the answer says."""

    name: str
    change: Change
    says: str

    def __str__(self) -> str:
        return self.name


def put(file: str, content: bytes) -> Change:
    return lambda folder: (folder / file).write_bytes(content) and None


def gone(path: str) -> Change:
    def change(folder: Path) -> None:
        (shutil.rmtree if (folder / path).is_dir() else os.unlink)(folder / path)

    return change


def moved(path: str, to: str) -> Change:
    return lambda folder: (folder / path).rename(folder / to) and None


def emptied(path: str) -> Change:
    def change(folder: Path) -> None:
        shutil.rmtree(folder / path)
        (folder / path).mkdir()

    return change


def says(file: str, **values: Any) -> Change:
    """Values in a JSON file."""

    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(content | values))

    return change


def index(name: str, entry: Any) -> Change:
    return says("model_index.json", **{name: entry})


def tensors(file: str, change_one: Callable[[State, str], Any]) -> Change:
    """A weights file in which something is done to one of its tensors."""

    def change(folder: Path) -> None:
        state = load_file(folder / file)
        change_one(state, sorted(state)[3])
        (folder / file).unlink()  # its tensors are read from it
        save_file(state, folder / file, {"format": "pt"})

    return change


def missing(state: State, name: str) -> None:
    del state[name]


def extra(state: State, name: str) -> None:
    state["layers.99.weight"] = torch.ones(2)


def misshapen(state: State, name: str) -> None:
    state[name] = torch.ones(3, 5)


def not_finite(state: State, name: str) -> None:
    state[name] = state[name] * NAN


def code_in(file: str, name: str) -> Change:
    """Pickled weights in place of a file, which would run code."""

    def change(folder: Path) -> None:
        (folder / file).unlink()
        torch.save({"weight": Code()}, (folder / file).with_name(name))

    return change


def several(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


def broken(part: str, file: str, pickle_name: str) -> list[Folder]:
    """What is refused of every model, wherever it is."""
    path, config = f"{part}/{file}", f"{part}/config.json"
    return [
        Folder(f"{part}: a tensor missing", tensors(path, missing),
            r"weights are not those of .*config\.json: \S+ missing$"),
        Folder(f"{part}: a tensor too many", tensors(path, extra), r"layers\.99\.weight unexpected$"),
        Folder(f"{part}: another shape", tensors(path, misshapen), r"\S+ of another shape$"),
        Folder(f"{part}: NaN", tensors(path, not_finite), r"values that are not finite \(NaN or infinite\) in \S+$"),
        Folder(f"{part}: garbage", put(path, b"garbage"), "no [A-Z].*, or damaged"),
        Folder(f"{part}: a header of 10**15 bytes", put(path, header(10**15, b"{}")), "no [A-Z].*, or damaged"),
        Folder(f"{part}: no weights", gone(path), "has no weights: must be diffusion_pytorch_model"),
        Folder(f"{part}: code", code_in(path, pickle_name), "no [A-Z].*, or damaged"),
        Folder(f"{part}: no config", gone(config), r"has no config\.json"),
        Folder(f"{part}: a damaged config", put(config, b"{"), r"its config\.json is damaged"),
        Folder(f"{part}: a config of depth", put(config, DEEP), r"its config\.json is damaged \(nested too deeply"),
        Folder(f"{part}: a config that is a list", put(config, b"[1]"),
            r"its config\.json is damaged \(must hold an object"),
        Folder(f"{part}: absurdly deep", says(config, num_layers=10**12), r"says num_layers=1e\+12: must be at most"),
    ]  # fmt: skip


SAFE, DIFFUSERS, ELSEWHERE = "model.safetensors", "diffusion_pytorch_model.safetensors", "which is no folder beside it"
NO_CLASS = "which is no class of diffusers or transformers"
SHARDS = b'{"metadata": {}, "weight_map": {"a": "../../other.safetensors"}}'
PIPELINES = [
    *broken("transformer", DIFFUSERS, "diffusion_pytorch_model.bin"),
    *broken("vae", DIFFUSERS, "diffusion_pytorch_model.bin"),
    *broken("text_encoder_2", SAFE, "pytorch_model.bin"),
    Folder("a shard elsewhere", put("vae/diffusion_pytorch_model.safetensors.index.json", SHARDS), "names ../../other"),
    Folder("an index of shards that is none", put(f"text_encoder/{SAFE}.index.json", b"{}"), "is damaged .must name"),
    Folder("an adapter", put("text_encoder/adapter_config.json", b"{}"), "has an adapter_config"),
    Folder("another class", index("transformer", ["diffusers", "FluxTransformer2DModel"]), "unexpected"),
    Folder("only another precision", moved(f"vae/{DIFFUSERS}", "vae/diffusion_pytorch_model.fp16.safetensors"),
        "has no weights"),
    Folder("no tokenizer folder", gone("tokenizer"), f"part tokenizer, {ELSEWHERE}"),
    Folder("an empty tokenizer folder", emptied("tokenizer_2"), "part tokenizer_2: has no vocabulary: must have"),
    Folder("no vocabulary", gone("tokenizer/tokenizer.json"),
        "part tokenizer: has no vocabulary: must have tokenizer.json"),
    Folder("a damaged vocabulary", put("tokenizer/tokenizer.json", b"\0"), "or damaged"),
    Folder("no scheduler folder", gone("scheduler"), f"part scheduler, {ELSEWHERE}"),
    Folder("a scheduler of nothing", put("scheduler/scheduler_config.json", b"{}"), "names no scheduler"),
    Folder("a part up the tree", index("../../../etc", ["diffusers", "AutoencoderKL"]),
        rf"\.\./\.\./\.\./etc, {ELSEWHERE}"),
    Folder("a part with a root", index("/usr/share", ["diffusers", "AutoencoderKL"]), f"/usr/share, {ELSEWHERE}"),
    Folder("a part that is the folder", index(".", ["diffusers", "AutoencoderKL"]), ELSEWHERE),
    Folder("a part of nothing", index("vae", []), "which must be a library and a class"),
    Folder("a part of numbers", index("vae", [1, 2]), "which must be a library and a class"),
    Folder("a part in a part", index("vae", [["diffusers"], ["AutoencoderKL"]]), "which must be a library and a class"),
    Folder("a part half there", index("vae", ["diffusers", None]), "which must be a library and a class"),
    Folder("a part of a word", index("vae", "diffusers"), "or damaged"),
    Folder("a part of Python's", index("vae", ["subprocess", "Popen"]), NO_CLASS),
    Folder("a part with its own code", several(put("vae/mine.py", b"import os; os.mkdir('pwned')"),
        index("vae", ["mine", "X"])), NO_CLASS),
    Folder("code beside a part", put("vae/diffusers.py", b"import os; os.mkdir('pwned')"), NO_CLASS),
    Folder("a part of next year's", index("vae", ["diffusers", "NextYears"]), "or damaged .*NextYears"),
    Folder("a scheduler for a part", index("vae", ["diffusers", "DDIMScheduler"]), "or damaged"),
    Folder("a part that names its class later", index("text_encoder", ["transformers", "AutoModel"]), "or damaged"),
    Folder("a module for a class", index("_class_name", "utils"), "has no utils$"),
    Folder("an attribute for a class", index("_class_name", "__doc__"), "has no __doc__$"),
    Folder("a model for a pipeline", index("_class_name", "UNet2DConditionModel"), "is no pipeline of diffusers$"),
    Folder("the class of all pipelines", index("_class_name", "DiffusionPipeline"), "takes no prompt"),
    Folder("a number for a class", index("_class_name", 3), "names no class of diffusers$"),
    Folder("an index of depth", put("model_index.json", DEEP), r"its model_index\.json is damaged \(nested too deeply"),
    Folder("an index that is a folder", several(gone("model_index.json"), lambda f: (f / "model_index.json").mkdir()),
        "has no model_index"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("bad", PIPELINES, ids=str)
def test_a_bad_pipeline_is_refused(tiny_pipeline: Path, tmp_path: Path, bad: Folder) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(tiny_pipeline, folder, ignore=shutil.ignore_patterns("clip", "blip"))
    bad.change(folder)

    def load() -> None:
        pipeline_sha256(find_pipeline(str(folder)))
        load_pipeline(folder, None, CPU)

    refused(rf"(?s)^model\.pipeline={re.escape(str(folder))}: .*{bad.says}", load)


CLIPS = [
    *broken("clip", SAFE, "pytorch_model.bin"),
    Folder("no vocabulary", gone("clip/tokenizer.json"), "has no vocabulary: must have tokenizer.json"),
    Folder("no preparation of images", gone("clip/processor_config.json"), "not a CLIP of transformers, or damaged"),
    Folder("images of another size", says("clip/processor_config.json", image_processor={
        "crop_size": {"height": 8, "width": 8}, "image_processor_type": "CLIPImageProcessor"}), "or damaged"),
    Folder("a text encoder", several(gone("clip"), moved("text_encoder", "clip")), r"missing"),
]  # fmt: skip


BLIPS = [
    Folder("no vocabulary", gone("blip/tokenizer.json"), "has no vocabulary: must have tokenizer.json"),
    Folder("no preparation of images", gone("blip/processor_config.json"), "not a BLIP of transformers, or damaged"),
    Folder("a CLIP", several(gone("blip"), moved("clip", "blip")), "no BlipForImageTextRetrieval|missing"),
]


@pytest.mark.slow
@pytest.mark.parametrize("bad", BLIPS, ids=str)
def test_a_bad_blip_is_refused(tiny_pipeline: Path, tmp_path: Path, bad: Folder) -> None:
    for part in ("clip", "blip"):
        shutil.copytree(tiny_pipeline / part, tmp_path / part)
    bad.change(tmp_path)
    folder = tmp_path / "blip"
    refused(rf"^model\.blip={re.escape(str(folder))}: .*{bad.says}", lambda: BlipMatching.load(folder, CPU))


@pytest.mark.slow
@pytest.mark.parametrize("bad", CLIPS, ids=str)
def test_a_bad_clip_is_refused(tiny_pipeline: Path, tmp_path: Path, bad: Folder) -> None:
    folder = tmp_path / "files"
    for part in ("clip", "text_encoder"):
        shutil.copytree(tiny_pipeline / part, folder / part)
    bad.change(folder)
    refused(
        rf"^model\.clip={re.escape(str(folder / 'clip'))}: .*{bad.says}", lambda: ClipScore.load(folder / "clip", CPU)
    )


VAES = [
    *broken("vae", DIFFUSERS, "diffusion_pytorch_model.bin"),
    Folder("grey images", says("vae/config.json", out_channels=1), "of another shape"),
]


@pytest.mark.slow
@pytest.mark.parametrize("bad", VAES, ids=str)
def test_a_bad_autoencoder_is_refused(tiny_pipeline: Path, tmp_path: Path, bad: Folder) -> None:
    folder = tmp_path / "vae"
    shutil.copytree(tiny_pipeline / "vae", folder)
    bad.change(tmp_path)

    def load() -> None:
        load_vae(find_vae(str(folder)), 4, CPU)

    with pytest.raises(GocError, match=rf"^vae={re.escape(str(folder))}: ") as error:
        load()
    lacks_files = "must be a folder with config.json and diffusion_pytorch_model.safetensors"
    assert re.search(bad.says, str(error.value)) or lacks_files in str(error.value)
    assert not Path("pwned").exists()


# ---------------------------------------------------------------- what scores are made with


def test_an_extractor_with_nan_is_refused(tmp_path: Path) -> None:
    state = load_file(resolve("asset:digits/extractor.safetensors"))
    state["features.bias"] = state["features.bias"] * NAN
    save_file(state, path := tmp_path / "w.safetensors")
    says = rf"^model\.extractor_weights={re.escape(str(path))}: .*not finite .* in classifier\.features\.bias"
    refused(says, lambda: load_extractor("digits", path, CPU))


def test_features_that_are_not_finite_are_refused() -> None:
    extractor = load_extractor("digits", None, CPU)
    extractor.network.classifier.features.weight.data *= INF
    says = r"^model\.extractor=digits: gives features that are not finite"
    refused(says, lambda: extractor.extract(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)))


def test_a_clip_score_that_is_not_finite_is_refused(tiny_pipeline: Path) -> None:
    score = ClipScore.load(tiny_pipeline / "clip", CPU)
    score.network.visual_projection.weight.data *= INF
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    refused(r"^model\.clip=.*: gives a score that is not finite", lambda: score(images, ["a cat"]))


@pytest.mark.parametrize("file", lpips.FILES)
def test_lpips_weights_with_nan_are_refused(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "weights" / "lpips" / "checkpoints"
    folder.mkdir(parents=True)
    for name in lpips.FILES:
        torch.save({"w": torch.tensor([NAN if name == file else 1.0])}, folder / name)
    refused("LPIPS's weights, or damaged .*", lambda: lpips.load_lpips(3, 64, CPU))


def router(**rows: Any) -> Callable[[], Any]:
    return lambda: {"routers": {f"{name.removeprefix('r')}.prob": row for name, row in rows.items()}}


ROUTERS = {
    "NaN": (router(r0=torch.full((6,), NAN), r1=torch.ones(6)), "must be a row of finite numbers"),
    "int": (router(r0=torch.ones(6, dtype=torch.int64), r1=torch.ones(6)), "is int64"),
    "a number": (router(r0=torch.tensor(1.0), r1=torch.ones(6)), "row of finite numbers"),
    "a list": (router(r0=[1.0] * 6, r1=torch.ones(6)), "not a router checkpoint"),
    "words": (router(first=torch.ones(6)), "not a router checkpoint"),
    "code": (lambda: {"routers": Code()}, "would run code"),
    "nothing": (lambda: {}, "not a router checkpoint"),
    "rows of two lengths": (router(r0=torch.ones(6), r1=torch.ones(4)), "is for a model of depth 2, 3, not 3"),
}


@pytest.mark.parametrize("name", ROUTERS)
def test_a_bad_router_is_refused(tmp_path: Path, name: str) -> None:
    content, says = ROUTERS[name]
    torch.save(content(), path := tmp_path / "r.pt")
    refused(rf"^schedule\.router={re.escape(str(path))}: .*{says}", lambda: load_router(path, 2, 3))
