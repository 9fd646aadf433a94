"""Long work that is told to stop says what it keeps; killed at random moments, it still ends in the same bytes.

GOC_KILLS=4 kills each kind of work four times (default once), at moments that no seed decides.
"""

import json
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from checkout import run_environment
from PIL import Image
from warm import RUN, WarmProcess

from goc.metrics.real_images import EXTRACTION_BATCH

KILLS = int(os.environ.get("GOC_KILLS", "1"))
TINY = ("steps=6", "batch_size=6", "calibration_samples=6", "cache_dir=cache")
RUNS = (*TINY, "num_samples=12", "latency_repeats=0", "metrics=[isc]", "inflection_threshold=null", "hydra.run.dir=run")


@dataclass(frozen=True)
class Work:
    """A command of long work.

    bar: of the progress that shows that the work is under way; leaves: patterns of the files that it is for; says: what
    the line says that it ends with when it is told to stop; fault: of faults.py.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    bar: str
    leaves: tuple[str, ...]
    says: str
    fault: str | None = None

    def __str__(self) -> str:
        return self.name


WORK = (
    Work("search", RUN,
         (*RUNS, "method=searched", "cache_ratio=0.5", "steps=10", "schedule.search_evaluations=30",
          "schedule.search_samples=6",
          "converged_samples=0"),
         "schedule search", ("cache/search-*.json", "run/schedule.json"), "the schedules tried so far are kept"),
    Work("converged", RUN, (*RUNS, "method=none", "converged_samples=12"),
         "converged solution", ("cache/converged-*.safetensors",), "what was finished before it is kept"),
    Work("weights", "goc.train.weights",
         (*TINY, "cache_ratio=0.5", "schedule=uniform", "predictor=taylor", "--batch=4", "--iterations=10",
          "--samples=8", "--out=w.json"),
         "weights", ("w.json",), "the iterations done so far are kept"),
    Work("router", "goc.train.router", (*TINY, "--batch=2", "--iterations=12", "--out=router.pt"),
         "router", ("router.pt",), "the iterations done so far are kept"),
    Work("pipeline", RUN,
         ("num_samples=8", "batch_size=1", "steps=4", "latency_repeats=0", "calibration_samples=2", "cache_dir=cache",
          "method=goc", "cache_ratio=0.5", "model=pipeline", "hydra.run.dir=run"),
         "goc", ("cache/pipeline-plan-*.safetensors",), "after the shard in hand"),
    Work("reference", "goc.cli.reference",
         ("images", "--extractor=digits", "--crop=adm", "--size=8", "--workers=2", "--out=stats.safetensors"),
         "features of images", ("stats.safetensors",), "what was finished is kept", "slow_extraction"),
)  # fmt: skip

Start = Callable[[Work, Path], WarmProcess]


@pytest.fixture
def start(tiny_pipeline: Path) -> Iterator[Start]:
    processes: list[WarmProcess] = []

    def begin(work: Work, folder: Path) -> WarmProcess:
        folder.mkdir(exist_ok=True)
        arguments = [work.module, *work.arguments]
        if work.name == "pipeline":
            arguments += [f"model.pipeline={tiny_pipeline}", f"prompts={tiny_pipeline}/prompts.txt"]
        if work.name == "reference":
            some_images(folder / "images")
        environment = {**run_environment(), "TQDM_MININTERVAL": "0"}  # so that each unit of work is shown
        processes.append(WarmProcess(arguments, folder, environment, work.module, work.fault))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def some_images(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(7 * EXTRACTION_BATCH):
        if not (path := folder / f"{number}.jpg").exists():
            Image.new("L", (9 + number % 17, 8 + number % 13), number % 256).save(path)


def left_by(work: Work, folder: Path) -> dict[str, bytes]:
    """What the work is for, and every shard of samples: content by path."""
    paths = [path for pattern in (*work.leaves, "**/shard-*") for path in folder.glob(pattern)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def wait_for_progress(work: Work, process: WarmProcess) -> None:
    """Until the second unit of the work is done."""
    while process.poll() is None:
        shown = re.findall(rf"{work.bar}\b[^\r\n]*\| (\d+)/", process.files[1].read_text(encoding="utf-8"))
        if any(int(done) > 1 for done in shown):
            return
        time.sleep(0.002)


LONG = ("pipeline", "converged", "router", "weights")


@pytest.mark.parametrize(
    "work", [pytest.param(w, marks=[pytest.mark.nightly] * (str(w) in LONG)) for w in WORK], ids=str
)
def test_stopped_it_says_what_is_kept_and_killed_it_ends_in_the_same_bytes(
    start: Start, tmp_path: Path, work: Work
) -> None:
    alone = start(work, tmp_path / "alone")
    wait_for_progress(work, alone)
    begun = time.monotonic()
    _, stderr = alone.communicate()
    assert alone.returncode == 0, stderr
    lasts = time.monotonic() - begun
    expected = left_by(work, tmp_path / "alone")
    assert all(list((tmp_path / "alone").glob(pattern)) for pattern in work.leaves)

    stopped = start(work, tmp_path / "again")
    wait_for_progress(work, stopped)
    stopped.send_signal(signal.SIGTERM)
    _, stderr = stopped.communicate()
    assert stopped.returncode == 143, stderr
    assert "Traceback" not in stderr
    line = stderr.splitlines()[-1]
    assert line.startswith("error: stopped by SIGTERM")
    assert work.says in line
    assert "the same command" in line

    for _ in range(KILLS):
        killed = start(work, tmp_path / "again")
        if random.random() < 0.7:  # (else anywhere, before the work begins too)
            wait_for_progress(work, killed)
        time.sleep(random.random() * lasts)
        killed.kill()
        killed.wait()
    last = start(work, tmp_path / "again")
    _, stderr = last.communicate()
    assert last.returncode == 0, stderr
    assert left_by(work, tmp_path / "again") == expected


@pytest.mark.nightly
def test_a_training_goes_on_where_it_was_stopped(start: Start, tmp_path: Path) -> None:
    work = next(work for work in WORK if work.name == "weights")
    first = start(work, tmp_path / "here")
    wait_for_progress(work, first)
    first.kill()
    first.wait()
    second = start(work, tmp_path / "here")
    _, stderr = second.communicate()
    counts = [line.split("| ")[1].split("/")[0] for line in stderr.splitlines() if line.startswith("weights")]
    assert int(counts[0]) >= 2
    assert not list((tmp_path / "here" / "cache").glob("training-*.safetensors"))  # another one begins anew
    assert json.loads((tmp_path / "here" / "w.json").read_text())["training"]["iterations"] == 10
