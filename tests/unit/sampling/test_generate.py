"""Generation: images depend on seed and settings only; shards survive kills and damage."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkout import REPOSITORY, run_environment
from closeness import assert_near
from generations import KEEP, generation
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from goc.models.dit import DiT
from goc.models.objective import DIFFUSION, FLOW
from goc.sampling.generate import generate
from goc.sampling.generation import draw
from goc.sampling.options import fitting
from goc.sampling.shards import Keep, SampleSet
from goc.sampling.workers import Workers
from goc.system.errors import GocError


def test_noise_and_label_depend_on_seed_and_index_only() -> None:
    generator, label = draw(7, 41, num_classes=1000)
    noise = torch.randn(4, generator=generator)
    torch.manual_seed(123)  # the global state has no part in it
    again, same_label = draw(7, 41, num_classes=1000)
    assert torch.equal(torch.randn(4, generator=again), noise)
    assert same_label == label
    others = [draw(7, 42, 1000), draw(8, 41, 1000), draw(41, 7, 1000)]
    assert all(not torch.equal(torch.randn(4, generator=other), noise) for other, _ in others)


def test_labels_cover_all_classes_evenly() -> None:
    counts = torch.bincount(torch.tensor([draw(0, i, 10)[1] for i in range(2000)]), minlength=10)
    assert counts.min() > 150
    assert counts.max() < 250


@pytest.mark.parametrize("sampler", [*fitting(DIFFUSION), *fitting(FLOW)])
def test_a_sample_does_not_depend_on_its_batch(tiny_dit: DiT, sampler: str) -> None:
    together, _ = generation(tiny_dit, sampler).make(range(0, 5))
    alone, _ = generation(tiny_dit, sampler).make(range(3, 4))
    assert_near(together["latents"][3:4], alone["latents"], 1e-4)  # values up to 1e8: ddpm's random variances
    assert together["labels"][3] == alone["labels"][0]


def test_shards_cover_every_sample_once_and_the_last_may_be_smaller(tmp_path: Path) -> None:
    samples = SampleSet(tmp_path, num_samples=10, batch_size=4)
    assert [list(indices) for indices in samples.shards] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("shard-*")}


def test_shards_made_in_any_order_are_the_same(tiny_dit: DiT, tmp_path: Path) -> None:
    forward, backward = SampleSet(tmp_path / "a", 12, 4), SampleSet(tmp_path / "b", 12, 4)
    generate(generation(tiny_dit), forward, KEEP, Workers())
    backward.shards.reverse()
    generate(generation(tiny_dit), backward, KEEP, Workers())
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_only_missing_and_damaged_shards_are_made_again(tiny_dit: DiT, tmp_path: Path, caplog) -> None:
    samples = SampleSet(tmp_path, 12, 4)
    assert generate(generation(tiny_dit), samples, KEEP, Workers()) == 12
    before = contents(tmp_path)
    assert generate(generation(tiny_dit), samples, KEEP, Workers()) == 0

    flipped, truncated, missing = (samples.path(indices) for indices in samples.shards)
    data = bytearray(flipped.read_bytes())
    data[-1] ^= 1
    flipped.write_bytes(data)
    truncated.write_bytes(truncated.read_bytes()[:-7])
    assert generate(generation(tiny_dit), samples, KEEP, Workers()) == 8
    assert contents(tmp_path) == before
    damaged = [record.getMessage() for record in caplog.records]
    assert len(damaged) == 2
    assert all("is damaged" in message and "made again" in message for message in damaged)

    missing.unlink()
    assert generate(generation(tiny_dit), samples, KEEP, Workers()) == 4
    assert contents(tmp_path) == before


def as_older_versions_wrote(path: Path) -> None:
    """Without the samples' indices in the header."""
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["shard"])
    kept = {name: about[name] for name in ("sha256", "cost", "of") if name in about}
    save_file(load_file(path), path, {"shard": json.dumps(kept)})


@pytest.mark.parametrize("older", [(), (0,), (1,), (0, 1)], ids=str)
def test_a_shard_under_the_name_of_another_is_made_again(
    tiny_dit: DiT, tmp_path: Path, caplog: pytest.LogCaptureFixture, older: tuple[int, ...]
) -> None:
    samples = SampleSet(tmp_path, 12, 4, "mine")
    generate(generation(tiny_dit), samples, KEEP, Workers())
    before = [samples.read(indices)[0]["latents"].clone() for indices in samples.shards]
    shutil.copy(samples.path(samples.shards[0]), samples.path(samples.shards[1]))
    for number in older:
        as_older_versions_wrote(samples.path(samples.shards[number]))
    assert generate(generation(tiny_dit), samples, KEEP, Workers()) in (4, 8)
    assert all(samples.read(i)[0]["latents"].equal(x) for i, x in zip(samples.shards, before, strict=True))
    assert "made again" in caplog.text
    assert generate(generation(tiny_dit), samples, KEEP, Workers()) == 0


def test_shards_of_older_versions_are_taken_and_a_changed_header_is_damage(tiny_dit: DiT, tmp_path: Path) -> None:
    samples = SampleSet(tmp_path, 12, 4)
    generate(generation(tiny_dit), samples, KEEP, Workers())
    for indices in samples.shards:
        as_older_versions_wrote(samples.path(indices))
    assert generate(generation(tiny_dit), samples, KEEP, Workers()) == 0
    path = samples.path(samples.shards[2])
    path.unlink()
    generate(generation(tiny_dit), samples, KEEP, Workers())
    content = path.read_bytes()
    path.write_bytes(content.replace(b"[8, 11]", b"[0, 03]").replace(b"cache_ratio", b"cache_rotio"))
    assert path.read_bytes() != content
    assert generate(generation(tiny_dit), samples, KEEP, Workers()) == 4


def test_non_finite_values_name_the_step_and_the_samples(tiny_dit: DiT) -> None:
    with torch.no_grad():
        tiny_dit.t_embedder.mlp[0].weight.fill_(torch.inf)
    with pytest.raises(GocError, match=r"samples 2\.\.3: not finite after step 0 of 4 \(method none\)$"):
        generation(tiny_dit).make(range(2, 4))


def test_a_shard_that_was_made_for_a_run_that_kept_less_is_made_again(tiny_dit: DiT, tmp_path: Path) -> None:
    class KeepLabels(Keep):
        def names(self, indices: range) -> frozenset[str]:
            return frozenset({"labels"}) if indices.start else super().names(indices)

    samples = SampleSet(tmp_path, 12, 4)
    assert generate(generation(tiny_dit), samples, KeepLabels(), Workers()) == 12
    assert [tensors.keys() for tensors, _ in map(samples.read, samples.shards)] == [
        {"labels", "latents", "images"},
        {"labels"},
        {"labels"},
    ]
    assert samples.first_images(3).shape == (3, 2, 4, 4)
    assert generate(generation(tiny_dit), samples, KEEP, Workers()) == 8
    assert generate(generation(tiny_dit), samples, KeepLabels(), Workers()) == 0


NO_ROOM = """
import resource, sys
from pathlib import Path
sys.path[:0] = {tests!r}
from generations import KEEP, generation, random_model
from goc.system.errors import GocError
from goc.sampling.options import SAMPLERS
from goc.sampling.generate import generate
from goc.sampling.shards import SampleSet
from goc.sampling.workers import Workers
folder, limit = Path(sys.argv[1]), int(sys.argv[2])
if limit:  # a file may not grow beyond it: the system refuses a write in the middle of a file
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    generate(generation(random_model()), SampleSet(folder, 10, 4), KEEP, Workers())
except GocError as error:
    sys.exit(str(error))
"""


@pytest.mark.slow
@pytest.mark.nightly
def test_a_full_disk_in_the_middle_of_a_shard_keeps_the_finished_ones(tmp_path: Path) -> None:
    script = NO_ROOM.format(tests=[str(REPOSITORY / "tests")])

    def attempt(folder: str, limit: int) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", script, str(tmp_path / folder), str(limit)]
        return subprocess.run(command, env=run_environment(), capture_output=True, text=True, check=False)

    attempt("whole", 0)
    whole = contents(tmp_path / "whole")
    assert len(whole) == 3
    # the last shard is the smallest, and the only one with room
    limit = max(map(len, whole.values())) - 1
    assert min(map(len, whole.values())) < limit
    refused = attempt("full", limit)
    assert refused.returncode == 1
    message = refused.stderr.splitlines()[-1]
    assert "shard-000000-000003.safetensors: could not be written (File too large)" in message
    assert "the finished shards are kept: make room, and start the same command again" in message
    assert not [path for path in (tmp_path / "full").iterdir() if path.is_file()]  # nothing half-written
    attempt("full", 0)
    assert contents(tmp_path / "full") == whole
