"""Two runs side by side: the same samples are compared however they are cut into shards, and nothing else is read."""

import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.reports import result_of
from PIL import Image

from goc.report.compare import draw_most_different, main
from goc.report.results import load_result
from goc.sampling.shards import SampleSet
from goc.system.command import run_command

COUNT = 20


def run(folder: Path, latents: torch.Tensor, batch_size: int, where: str = "samples", kept: int = COUNT) -> Path:
    """A finished run with its samples on disk, of which the first `kept` have latents and images."""
    (folder / where).mkdir(parents=True)
    result = result_of(1 + batch_size, COUNT)
    result["config"]["batch_size"], result["samples"] = batch_size, {"folder": where}
    (folder / "result.json").write_text(json.dumps(result))
    made = SampleSet((folder / where).resolve(), COUNT, batch_size)
    shade = torch.arange(COUNT, dtype=torch.uint8)[:, None, None, None].expand(COUNT, 1, 4, 4)
    for indices in made.shards:
        part = slice(indices.start, indices.stop)
        tensors = {"labels": torch.zeros(len(indices), dtype=torch.long)}
        if indices.start < kept:
            tensors |= {"latents": latents[part].clone(), "images": shade[part].clone()}
        made.write(indices, tensors, {})
    return folder


LATENTS = torch.randn(COUNT, 1, 4, 4, generator=torch.Generator().manual_seed(0))
APART = LATENTS * (1 + 0.01 * torch.arange(COUNT)[:, None, None, None].flip(0))  # sample 0 is farthest, and so on


@pytest.mark.parametrize("sizes", [(8, 8), (8, 1), (1, 8), (8, 4), (7, 3), (20, 6)])
def test_samples_are_compared_by_their_index_whatever_the_batch_sizes(tmp_path: Path, sizes: tuple[int, int]) -> None:
    folders = [run(tmp_path / str(n), latents, size) for n, (latents, size) in
               enumerate(zip((APART, LATENTS), sizes, strict=True))]  # fmt: skip
    runs = [(folder, load_result(folder)) for folder in folders]
    worst, compared = draw_most_different(runs, tmp_path / "compare.png")
    assert (worst, compared) == (list(range(8)), COUNT)
    pixels = np.asarray(Image.open(tmp_path / "compare.png").convert("L"))
    cell = pixels.shape[0] // 3
    assert [int(pixels[cell // 2, cell * n + cell // 2]) for n in range(8)] == list(range(8))  # the pictures are theirs
    assert pixels[2 * cell + 2].max() <= 1 or pixels[2 * cell + cell // 2, cell // 2] == 0  # and do not differ


def test_of_runs_that_keep_different_numbers_the_common_ones_are_compared_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = run(tmp_path / "a", APART, 4, kept=9), run(tmp_path / "b", LATENTS, 8, kept=20)
    assert main([str(first), str(second)]) == 0
    assert "of the first 12, which both keep: 0, 1, 2, 3, 4, 5, 6, 7" in capsys.readouterr().out


@pytest.mark.parametrize(
    "case",
    ["deleted shard", "damaged shard", "shard is a link", "samples elsewhere", "absolute", "dots", "link", "other run",
     "not a cache", "no folder", "file", "nothing kept", "null byte", "shard is a pipe", "nowhere"],
)  # fmt: skip
def test_what_is_not_a_runs_own_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    study = tmp_path / "outputs" / "study"
    first, second = run(study / "a", APART, 8), run(study / "b", LATENTS, 4)
    outside = run(tmp_path / "else" / "where" / "x", APART, 4, where="uncached-0123456789abcdef")
    shard, result = second / "samples" / "shard-000004-000007.safetensors", load_result(second)
    elsewhere = {"samples elsewhere": os.path.relpath(outside / "uncached-0123456789abcdef", second),
                 "absolute": str(outside / "uncached-0123456789abcdef"), "dots": "../../../..",
                 "other run": "../a/samples",
                 "not a cache": "../../cache", "no folder": "result.json", "null byte": "sam\0ples",
                 "nowhere": None}  # fmt: skip
    (tmp_path / "outputs" / "cache").mkdir()
    says = {"deleted shard": "shard-000004-000007.safetensors: missing", "damaged shard": "safetensors: ",
            "shard is a link": "no file of this folder", "shard is a pipe": "no file of this folder",
            "link": "must be in the run's folder", "nothing kept": "keep no latents", "file": "holds no finished run",
            "no folder": "not there any more", "null byte": "not there any more", "nowhere": "not there any more",
            }.get(case, "must be in the run's folder")  # fmt: skip
    target: Path = second
    if case in elsewhere:
        (second / "result.json").write_text(json.dumps(result | {"samples": {"folder": elsewhere[case]}}))
    elif case == "file":
        target = second / "result.json"
    elif case == "nothing kept":
        target = run(study / "c", LATENTS, 4, kept=0)
    elif case == "link":
        (second / "samples").rename(tmp_path / "moved")
        (second / "samples").symlink_to(tmp_path / "moved")
    elif case == "damaged shard":
        shard.write_bytes(shard.read_bytes()[:-7] + b"changed")
    else:
        content = shard.read_bytes()
        shard.unlink()
        if case == "shard is a link":
            (tmp_path / "content").write_bytes(content)
            shard.symlink_to(tmp_path / "content")
        elif case == "shard is a pipe":
            os.mkfifo(shard)
    assert run_command(partial(main, [str(first), str(target)])) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert not (first / "compare.png").exists()


def test_uncached_samples_in_the_runs_cache_are_found_and_in_another_one_if_it_is_named(tmp_path: Path) -> None:
    study = tmp_path / "outputs" / "study"
    first = run(study / "a", APART, 8)
    second = run(study / "b", LATENTS, 4, where="../../cache/uncached-0123456789abcdef")
    third = run(study / "c", LATENTS, 4, where="../../../far/cache/uncached-0123456789abcdef")
    assert main([str(first), str(second)]) == 0
    assert run_command(partial(main, [str(first), str(third)])) == 1
    assert main([str(first), str(third), "--cache-dir", str(tmp_path / "far" / "cache")]) == 0
