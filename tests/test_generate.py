"""Generation: images depend on seed and settings only; shards survive kills and damage."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from goc.diffusion import NoiseSchedule
from goc.errors import GocError
from goc.generate import Generation, SampleSet, draw, generate
from goc.models.decoder import decode_pixels
from goc.models.dit import DiT


def generation(model: DiT, sampler: str = "ddim", seed: int = 0) -> Generation:
    return Generation(
        model=model,
        schedule=NoiseSchedule.respaced(4),
        sampler=sampler,
        cfg_scale=1.5,
        cfg_channels=3,
        seed=seed,
        decode=decode_pixels,
        device=torch.device("cpu"),
    )


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


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_sample_does_not_depend_on_its_batch(tiny_dit: DiT, sampler: str) -> None:
    together, _ = generation(tiny_dit, sampler).make(range(0, 5))
    alone, _ = generation(tiny_dit, sampler).make(range(3, 4))
    torch.testing.assert_close(together["latents"][3:4], alone["latents"], rtol=1e-4, atol=1e-4)
    assert together["labels"][3] == alone["labels"][0]


def test_shards_cover_every_sample_once_and_the_last_may_be_smaller(tmp_path: Path) -> None:
    samples = SampleSet(tmp_path, num_samples=10, batch_size=4)
    assert [list(indices) for indices in samples.shards] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def contents(folder: Path) -> dict[str, str]:
    """Digest of each shard's tensors (the header holds timings)."""
    samples = SampleSet(folder, 12, 4)
    digests = {}
    for indices in samples.shards:
        tensors, _ = samples.read(indices)
        digests[samples.path(indices).name] = hashlib.sha256(
            b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))
        ).hexdigest()
    return digests


def test_shards_made_in_any_order_are_the_same(tiny_dit: DiT, tmp_path: Path) -> None:
    forward, backward = SampleSet(tmp_path / "a", 12, 4), SampleSet(tmp_path / "b", 12, 4)
    generate(generation(tiny_dit), forward, "")
    backward.shards.reverse()
    generate(generation(tiny_dit), backward, "")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_only_missing_and_damaged_shards_are_made_again(tiny_dit: DiT, tmp_path: Path, caplog) -> None:
    samples = SampleSet(tmp_path, 12, 4)
    assert generate(generation(tiny_dit), samples, "") == 12
    before = contents(tmp_path)
    assert generate(generation(tiny_dit), samples, "") == 0

    flipped, truncated, missing = (samples.path(indices) for indices in samples.shards)
    data = bytearray(flipped.read_bytes())
    data[-1] ^= 1
    flipped.write_bytes(data)
    truncated.write_bytes(truncated.read_bytes()[:-7])
    assert generate(generation(tiny_dit), samples, "") == 8
    assert contents(tmp_path) == before
    damaged = [record.getMessage() for record in caplog.records]
    assert len(damaged) == 2
    assert all("is damaged" in message and "made again" in message for message in damaged)

    missing.unlink()
    assert generate(generation(tiny_dit), samples, "") == 4
    assert contents(tmp_path) == before


def test_non_finite_values_name_the_step_and_the_samples(tiny_dit: DiT) -> None:
    with torch.no_grad():
        tiny_dit.t_embedder.mlp[0].weight.fill_(torch.inf)
    with pytest.raises(GocError, match=r"samples 2\.\.3: not finite after step 0 of 4 \(method none\)$"):
        generation(tiny_dit).make(range(2, 4))


KILLED = """
import sys, torch
from pathlib import Path
from goc.generate import SampleSet, generate
sys.path.insert(0, {tests!r})
from test_generate import generation
from goc.models.dit import DiT
torch.set_num_threads(1)
torch.manual_seed(0)
model = DiT(input_size=4, patch_size=2, in_channels=2, hidden_size=16, depth=3, num_heads=2, num_classes=5)
generate(generation(model.eval()), SampleSet(Path({folder!r}), 400, 4), "")
"""


def test_a_killed_process_leaves_whole_shards_and_a_restart_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    script = KILLED.format(tests=str(Path(__file__).parent), folder=str(folder))
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(folder.glob("shard-*"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    samples = SampleSet(folder, 400, 4)
    finished = [indices for indices in samples.shards if samples.path(indices).exists()]
    assert 5 <= len(finished) < 100
    first = {indices: samples.read(indices) for indices in finished}  # raises if one is not whole
    subprocess.run([sys.executable, "-c", script], stderr=subprocess.DEVNULL, check=True)
    assert all(samples.path(indices).exists() for indices in samples.shards)
    for indices, (tensors, measured) in first.items():
        kept, kept_measured = samples.read(indices)
        assert torch.equal(kept["latents"], tensors["latents"])
        assert kept_measured == measured  # the file was not made again
