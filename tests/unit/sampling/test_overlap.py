"""A batch is decoded and written while the next one is sampled: the same bytes, every error, nothing lost."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, call

import pytest
import torch
from filelock import Timeout
from generations import KEEP, generation
from torch import Tensor

from goc.metrics.features import load_extractor
from goc.metrics.keep import KeepFeatures
from goc.models.dit import DiT
from goc.sampling.generate import generate
from goc.sampling.generation import Generation
from goc.sampling.interrupt import StoppedError
from goc.sampling.overlap import Background, SecondStream
from goc.sampling.shards import SampleSet
from goc.sampling.workers import Workers
from goc.system.errors import GocError

PATIENCE_S = 30.0  # for what comes at once, or never
Before = Callable[[int], None]  # is told the number of a shard


@pytest.fixture
def before_sampling(monkeypatch: pytest.MonkeyPatch) -> Callable[[Before], None]:
    """Have something be done before a shard is sampled."""

    def watch(before: Before) -> None:
        sample = Generation.sample

        def watched(self: Generation, indices: range) -> Any:
            before(indices.start // 4)
            return sample(self, indices)

        monkeypatch.setattr(Generation, "sample", watched)

    return watch


class Watched(SampleSet):
    """12 samples in shards of 4; something is done before each is written."""

    def __init__(self, folder: Path, before: Before = lambda shard: None) -> None:
        super().__init__(folder, num_samples=12, batch_size=4)
        self.before = before

    def write(self, indices: range, tensors: dict[str, Tensor], cost: dict[str, Any]) -> None:
        self.before(indices.start // 4)
        super().write(indices, tensors, cost)

    def on_disk(self) -> list[int]:
        """Numbers of the shards that are there and whole."""
        return [number for number, indices in enumerate(self.shards) if self.finished(indices)]


def shards_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("shard-*")}


def test_overlapped_or_not_the_bytes_are_the_same(tiny_dit: DiT, tmp_path: Path) -> None:
    for name, overlapped in (("one", True), ("other", False)):
        assert generate(generation(tiny_dit), Watched(tmp_path / name), KEEP, Workers(), overlapped) == 12
    assert len(shards_in(tmp_path / "one")) == 3
    assert shards_in(tmp_path / "one") == shards_in(tmp_path / "other")


def test_the_next_batch_begins_before_the_last_is_written_and_no_further_one_does(
    tiny_dit: DiT, tmp_path: Path, before_sampling: Callable[[Before], None]
) -> None:
    begun = [Event() for _ in range(3)]

    def writing(shard: int) -> None:
        if shard < 2:
            assert begun[shard + 1].wait(PATIENCE_S), "was not sampled while the batch before it was written"
        if shard == 0:
            assert not begun[2].wait(0.1), "a third batch is in memory"

    samples = Watched(tmp_path, writing)
    before_sampling(lambda shard: begun[shard].set())
    assert generate(generation(tiny_dit), samples, KEEP, Workers()) == 12
    assert samples.on_disk() == [0, 1, 2]


def test_a_shard_is_locked_until_it_is_on_disk(tiny_dit: DiT, tmp_path: Path) -> None:
    def writing(shard: int) -> None:
        with pytest.raises(Timeout):
            samples.lock(samples.shards[shard]).acquire(blocking=False)

    samples = Watched(tmp_path, writing)
    generate(generation(tiny_dit), samples, KEEP, Workers())
    for indices in samples.shards:
        with samples.lock(indices).acquire(blocking=False):
            pass


@pytest.mark.parametrize("overlapped", [True, False])
def test_an_error_in_writing_ends_the_run_and_what_was_sampled_meanwhile_is_kept(
    tiny_dit: DiT, tmp_path: Path, before_sampling: Callable[[Before], None], overlapped: bool
) -> None:
    sampled: list[int] = []
    meanwhile = Event()

    def sampling(shard: int) -> None:
        sampled.append(shard)
        if shard == 1:
            meanwhile.set()

    def full(shard: int) -> None:
        if shard == 0:
            assert not overlapped or meanwhile.wait(PATIENCE_S)
            raise GocError("no room")

    before_sampling(sampling)

    samples = Watched(tmp_path, full)
    with pytest.raises(GocError, match=r"^no room$"):
        generate(generation(tiny_dit), samples, KEEP, Workers(), overlapped)
    assert sampled == ([0, 1] if overlapped else [0])
    assert samples.on_disk() == sampled[1:]
    with samples.lock(samples.shards[0]).acquire(blocking=False):
        pass


def test_the_error_of_the_earlier_shard_is_the_one_that_is_told(
    tiny_dit: DiT, tmp_path: Path, before_sampling: Callable[[Before], None]
) -> None:
    later = Event()

    def fail(shard: int) -> None:
        if shard == 1:
            later.set()
            raise GocError("of the later shard")

    def full(shard: int) -> None:
        assert later.wait(PATIENCE_S)
        raise GocError("of the earlier shard")

    before_sampling(fail)
    with pytest.raises(GocError, match="of the earlier shard"):
        generate(generation(tiny_dit), Watched(tmp_path, full), KEEP, Workers())


def test_values_that_are_not_finite_are_the_same_line_and_leave_no_shard(tiny_dit: DiT, tmp_path: Path) -> None:
    with torch.no_grad():
        tiny_dit.t_embedder.mlp[0].weight.fill_(torch.inf)
    with pytest.raises(GocError, match=r"^samples 0\.\.3: not finite after step 0 of 4 \(method none\)$"):
        generate(generation(tiny_dit), Watched(tmp_path), KEEP, Workers())
    assert not shards_in(tmp_path)


@pytest.mark.parametrize("second", [False, True])
def test_features_that_are_not_finite_are_not_kept(second: bool) -> None:
    extractor = load_extractor("digits", None, torch.device("cpu"))
    extractor.network.classifier.features.weight.data *= torch.inf
    keep = KeepFeatures(None if second else extractor, 0, images=False, second=extractor if second else None)
    made = {"images": torch.zeros(1, 1, 8, 8, dtype=torch.uint8), "labels": torch.zeros(1)}
    with pytest.raises(GocError, match=r"^model\.extractor=digits: gives features that are not finite"):
        keep.check(keep(range(100, 101), made))


def test_told_to_stop_it_ends_after_the_shard_in_hand_with_all_on_disk(
    tiny_dit: DiT, tmp_path: Path, before_sampling: Callable[[Before], None]
) -> None:
    def stop(shard: int) -> None:
        if shard == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    before_sampling(stop)
    samples = Watched(tmp_path)
    with pytest.raises(StoppedError, match="stopped by SIGTERM after the shard in hand; the same command goes on"):
        generate(generation(tiny_dit), samples, KEEP, Workers())
    assert samples.on_disk() == [0, 1]


def test_told_to_stop_while_the_last_shard_is_written_it_does(tiny_dit: DiT, tmp_path: Path) -> None:
    def writing(shard: int) -> None:
        if shard == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    samples = Watched(tmp_path, writing)
    with pytest.raises(StoppedError, match="stopped by SIGTERM"):
        generate(generation(tiny_dit), samples, KEEP, Workers())
    assert samples.on_disk() == [0, 1, 2]


def test_interrupted_it_ends_when_the_shard_before_is_on_disk(
    tiny_dit: DiT, tmp_path: Path, before_sampling: Callable[[Before], None]
) -> None:
    interrupted = Event()

    def interrupt(shard: int) -> None:
        if shard == 1:
            interrupted.set()
            raise KeyboardInterrupt

    before_sampling(interrupt)
    samples = Watched(tmp_path, lambda shard: interrupted.wait(PATIENCE_S) and None)
    with pytest.raises(KeyboardInterrupt):
        generate(generation(tiny_dit), samples, KEEP, Workers())
    assert samples.on_disk() == [0]


def test_an_interruption_is_told_and_not_the_error_behind_it() -> None:
    interrupted = Event()

    def fail() -> None:
        assert interrupted.wait(PATIENCE_S)
        raise GocError("no room")

    def work() -> None:
        with Background() as background:
            background.start(fail)
            interrupted.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()


def test_on_a_gpu_the_second_stream_waits_for_the_first_and_holds_what_it_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = MagicMock()
    for name in ("Stream", "current_stream", "stream"):
        monkeypatch.setattr(torch.cuda, name, getattr(gpu, name))
    stream = gpu.Stream.return_value
    tensor = SimpleNamespace(is_cuda=True, record_stream=gpu.record_stream)
    with SecondStream(torch.device("cuda:0")).after([tensor, torch.zeros(1)]):
        gpu.inside()
    names = [name for name, *_ in gpu.mock_calls]
    expected = ["Stream().wait_stream", "record_stream", "stream().__enter__", "inside", "stream().__exit__"]
    assert [name for name in names if name in expected] == expected
    assert stream.wait_stream.call_args == call(gpu.current_stream.return_value)
    assert gpu.record_stream.call_args_list == [call(stream)]
