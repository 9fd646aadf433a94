"""Tracking: what Weights & Biases and the CSV tracker are told, and that neither ever stops a run."""

import base64
import hashlib
import json
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from application import STUDY, Run, Study, run_warm, without_account
from checkout import REPOSITORY, run_environment
from PIL import Image

from goc.report.result import Result
from goc.system.errors import GocError
from goc.tracking.__main__ import run_folders
from goc.tracking.csv_file import track_in_csv


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    without_account(monkeypatch, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def tracked(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A run of the study read back by a sweep that tracks it, and what it printed."""
    folder = tmp_path_factory.mktemp("tracked")
    shutil.copytree(study.outputs, folder / "outputs")
    with pytest.MonkeyPatch.context() as patch:
        without_account(patch, tmp_path_factory.mktemp("home"))
        settings = ("method=goc", "cache_ratio=0.4", *STUDY, "tracker=wandb", "wandb.project=caches")
        return Study(folder / "outputs", run_warm(folder, "-m", *settings))


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: LevelDB's log format after a header of 7 bytes, a protobuf in each record."""
    from wandb.proto.wandb_internal_pb2 import Record  # takes long, and one worker needs it

    data = path.read_bytes()
    assert data.startswith(b":W&B")
    position, parts = 7, b""
    while position < len(data):
        block_left = 32768 - position % 32768
        if block_left < 7:  # too little for another chunk: padding
            position += block_left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(parts)
            parts = b""


class Logged:
    """An offline W&B run, read back from the only one in a folder."""

    def __init__(self, folder: Path) -> None:
        (path,) = folder.glob("wandb/offline-run-*/*.wandb")
        self.files = path.parent / "files"
        self.config: dict[str, Any] = {}
        self.values: dict[str, Any] = {}  # of history and summary
        self.artifacts: list[Any] = []
        self.charts: list[str] = []
        for record in records(path):
            if record.HasField("run"):
                self.run = record.run
                self.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            elif record.HasField("config"):
                self.charts += [item.value_json for item in record.config.update if "visualize" in item.nested_key]
            elif record.HasField("artifact"):
                self.artifacts.append(record.artifact)
            for item in [*record.history.item, *record.summary.update]:
                values, path = self.values, list(item.nested_key) or [item.key]
                for key in path[:-1]:
                    values = values.setdefault(key, {})
                values[path[-1]] = json.loads(item.value_json)

    def table(self, key: str) -> pd.DataFrame:
        content = json.loads((self.files / self.values[key]["path"]).read_text())
        return pd.DataFrame(content["data"], columns=content["columns"])


def test_a_run_is_logged_with_its_config_numbers_and_pictures(tracked: Study) -> None:
    folder = tracked.run("goc")
    result, logged = tracked.result("goc"), Logged(folder)
    assert (logged.run.project, logged.run.run_group, logged.run.job_type) == ("caches", "study", "run")
    assert logged.run.display_name == folder.name
    assert logged.config.items() >= result["config"].items()
    for part in ("metrics", "distance", "cost"):
        for name, value in result[part].items():
            assert logged.values.get(f"{part}/{name}") == value, name
    assert logged.values["metrics/fid"] > 0
    assert logged.values["fingerprint"] == result["fingerprint"]
    assert logged.values["method"] == result["method"]
    for name in ("samples", "alignment"):
        path = logged.files / logged.values[name]["path"]
        assert path.read_bytes() == (folder / f"{name}.png").read_bytes()
    with Image.open(logged.files / logged.values["steps"]["path"]) as picture:
        assert picture.width > picture.height > 100
    shown = logged.table("table").set_index("of the run")["value"]
    for line in str(Result.load(folder)).splitlines()[1:4]:
        name, text = line.strip().split("  ", 1)
        assert shown[name] == text.strip()


def test_the_summary_of_a_sweep_has_its_table_curves_picture_and_files(tracked: Study) -> None:
    folder = tracked.folder
    logged = Logged(folder)
    assert (logged.run.project, logged.run.run_group, logged.run.job_type) == ("caches", "study", "summary")
    frame = pd.read_csv(folder / "results.csv")
    results = logged.table("results")
    for column in ("method", "fid", "mse", "macs_saved", "cached"):
        assert results[column].replace({None: float("nan")}).tolist() == pytest.approx(
            frame[column].tolist(), nan_ok=True
        )

    curve = logged.table("tradeoff/fid_table")
    cached = frame[frame["method"] == "goc"].sort_values("evaluations")
    line = curve[curve["lineKey"] == "goc"]
    assert line["lineVal"].tolist() == pytest.approx(cached["fid"].tolist())
    assert line["step"].tolist() == pytest.approx(cached["evaluations"].tolist())
    assert set(curve["lineKey"]) == {"goc", "reuse", "no cache"}
    kinds = [kind for chart in logged.charts for kind in ("wandb/lineseries/v0", "wandb/bar/v0") if kind in chart]
    assert len(kinds) == len(logged.charts)
    asked = {key.removesuffix("_table") for key in logged.values if key.startswith(("tradeoff/", "cost/time"))}
    assert asked == {"tradeoff/fid", "tradeoff/relative_l2_mean", "cost/time", "tradeoff/best"}
    assert set(logged.table("tradeoff/best")["method"]) == {"goc", "reuse", "no cache"}

    picture = logged.values["pictures/tradeoff"]
    assert (logged.files / picture["path"]).read_bytes() == (folder / "tradeoff.png").read_bytes()
    (artifact,) = [artifact for artifact in logged.artifacts if artifact.type == "results"]
    entries = {entry.path: entry for entry in artifact.manifest.contents}
    assert {"results.csv", "tradeoff.csv", "table.md", "table.tex", "report.html", "tradeoff.png"} <= entries.keys()
    for name, entry in entries.items():
        content = (folder / name).read_bytes()
        assert base64.b64decode(entry.digest) == hashlib.md5(content).digest()
        assert Path(entry.local_path).read_bytes() == content  # what `wandb sync` will send


def test_the_terminal_shows_one_line_for_each_tracked_run(tracked: Study) -> None:
    lines = [line for line in tracked.finished.stdout.splitlines() if "wandb" in line and "tracker=" not in line]
    assert len(lines) == 2  # and one for the sweep
    assert all(line.startswith("tracked: outputs/study/") and "wandb sync" in line for line in lines)
    assert "wandb" not in tracked.finished.stderr.lower()


def test_another_tracker_reads_a_finished_run_back(study_copy: Study, run_here: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in study_copy.folder.rglob("result.json")}
    for ratio in ("0.4", "0.2"):
        finished = run_here("method=goc", f"cache_ratio={ratio}", *STUDY, "tracker=csv")
        assert finished.stderr == ""
    assert before == {path: path.stat().st_mtime_ns for path in study_copy.folder.rglob("result.json")}
    tracked = pd.read_csv(study_copy.folder / "tracked.csv")
    report = pd.read_csv(study_copy.folder / "results.csv")
    assert tracked["cached"].round(6).tolist() == [0.4, 0.2]  # in the order of tracking
    assert tracked["run"].map(lambda run: (study_copy.folder / run / "result.json").exists()).all()
    expected = report[report["method"] == "goc"].sort_values("cached", ascending=False, ignore_index=True)
    pd.testing.assert_frame_equal(tracked.drop(columns="run"), expected, check_dtype=False)


def test_a_run_tracked_again_replaces_its_row_and_leaves_the_others_as_they_are(study_copy: Study) -> None:
    folders = run_folders([study_copy.folder])
    for folder in folders:
        path = track_in_csv(folder)
    before = path.read_text().splitlines()
    result = json.loads((folders[0] / "result.json").read_text())
    result["metrics"]["fid"] = 1234.5
    (folders[0] / "result.json").write_text(json.dumps(result))
    track_in_csv(folders[0])
    after = path.read_text().splitlines()
    assert after[:-1] == [before[0], *before[2:]]
    assert after[-1].startswith(folders[0].name + ",")
    assert "1234.5" in after[-1]


def test_runs_tracked_at_the_same_time_all_have_their_row(study_copy: Study) -> None:
    source = run_folders([study_copy.folder])[0]
    folders = [study_copy.folder / f"copy-{index}" for index in range(12)]
    for folder in folders:
        folder.mkdir()
        shutil.copy(source / "result.json", folder)
    with ThreadPoolExecutor(6) as pool:
        (path,) = set(pool.map(track_in_csv, folders))
    assert sorted(pd.read_csv(path)["run"]) == sorted(folder.name for folder in folders)


def test_a_file_that_is_no_table_of_runs_is_not_overwritten(study_copy: Study) -> None:
    path = study_copy.folder / "tracked.csv"
    for content in ("something else\n1\n", "", 'a,b\n"1'):
        path.write_text(content)
        with pytest.raises(GocError, match=r"tracked\.csv: is no table of tracked runs"):
            track_in_csv(run_folders([study_copy.folder])[0])
        assert path.read_text() == content


def test_without_an_account_the_warning_names_a_command_that_logs_the_run_later(
    study_copy: Study, run_here: Run
) -> None:
    settings = ("tracker=wandb", "wandb.mode=online", "wandb.group=a group")
    finished = run_here("method=goc", "cache_ratio=0.4", *STUDY, *settings)
    assert len(finished.stderr.splitlines()) == 1
    assert "API key" in finished.stderr
    python, *command = shlex.split(finished.stderr.split("to log it later: ")[1])
    assert python == "python"
    subprocess.run(
        [sys.executable, *command, "--mode=offline"],
        cwd=REPOSITORY,
        env=run_environment(),
        check=True,
        capture_output=True,
    )
    logged = Logged(next(folder for folder in run_folders([study_copy.folder]) if "r0.4" in folder.name))
    assert logged.run.run_group == "a group"
    assert logged.values["metrics/fid"] > 0
