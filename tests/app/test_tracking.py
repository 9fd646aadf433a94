"""Tracking: what Weights & Biases and the CSV tracker are told, and that neither ever stops a run."""

import base64
import hashlib
import json
import shlex
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from application import Run, run_in
from checkout import REPOSITORY, SMALL, run_environment
from wandb.proto.wandb_internal_pb2 import Record

from goc.config import compose_config, validate
from goc.report.frame import over_seeds, series_names, table
from goc.system.errors import ConfigError, GocError
from goc.tracking.__main__ import run_folders
from goc.tracking.csv_file import track_in_csv
from goc.tracking.wandb_log import charts, curves

QUICK = (*SMALL, "latency_repeats=0", "metrics=[fid]")
SWEEP = ("method=none,goc", "cache_ratio=0.2,0.4", "name=study", *QUICK)


def without_account(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Whatever account the tests are run from: nobody is logged in, and no setting of theirs counts."""
    for name in [name for name in run_environment() if name.startswith("WANDB_")]:
        patch.delenv(name)
    patch.setenv("NETRC", str(folder / "netrc"))
    patch.setenv("WANDB_CONFIG_DIR", str(folder / "config"))
    patch.setenv("WANDB_CACHE_DIR", str(folder / "cache"))
    patch.setenv("WANDB_ERROR_REPORTING", "false")


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    without_account(monkeypatch, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, "subprocess.CompletedProcess[str]"]:
    """A tracked sweep: its folder, and what it printed. Without a cache its two ratios are one run, tracked twice."""
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        without_account(patch, tmp_path_factory.mktemp("home"))
        finished = run_in(folder, "-m", *SWEEP, "tracker=wandb", "wandb.project=caches")
    return folder / "outputs" / "study", finished


@pytest.fixture
def finished_study(sweep: tuple[Path, Any], tmp_path: Path) -> Path:
    """A copy of the sweep, where `run_py` finds its runs finished."""
    return shutil.copytree(sweep[0], tmp_path / "outputs" / "study", ignore=shutil.ignore_patterns("wandb", "*.lock"))


def records(path: Path) -> Iterator[Record]:
    """The records of a .wandb file: LevelDB's log format after a header of 7 bytes, a protobuf in each record."""
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


def test_a_run_is_logged_with_its_config_numbers_and_pictures(sweep: tuple[Path, Any]) -> None:
    folders = run_folders([sweep[0]])
    assert len(folders) == 3
    for folder in folders:
        result, logged = json.loads((folder / "result.json").read_text()), Logged(folder)
        assert (logged.run.project, logged.run.run_group, logged.run.job_type) == ("caches", "study", "run")
        assert logged.run.display_name == folder.name
        assert logged.config.items() >= result["config"].items()
        for part in ("metrics", "distance", "cost"):
            for name, value in result[part].items():
                assert logged.values.get(f"{part}/{name}") == value, name
        assert logged.values["metrics/fid"] > 0
        assert logged.values["fingerprint"] == result["fingerprint"]
        assert logged.values["method"] == result["method"]
        pictures = ("samples", "alignment") if result["method"] == "goc" else ("samples",)
        for name in pictures:
            path = logged.files / logged.values[name]["path"]
            assert path.read_bytes() == (folder / f"{name}.png").read_bytes()


def test_the_summary_of_a_sweep_has_its_table_curves_picture_and_files(sweep: tuple[Path, Any]) -> None:
    folder, _ = sweep
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
    assert set(curve["lineKey"]) == {"goc", "no cache"}
    assert len(logged.charts) == 4  # FID, drift, relative L2 and MSE
    assert all("wandb/lineseries/v0" in chart for chart in logged.charts)

    picture = logged.values["pictures/tradeoff"]
    assert (logged.files / picture["path"]).read_bytes() == (folder / "tradeoff.png").read_bytes()
    (artifact,) = [artifact for artifact in logged.artifacts if artifact.type == "results"]
    entries = {entry.path: entry for entry in artifact.manifest.contents}
    assert {"results.csv", "tradeoff.csv", "table.md", "table.tex", "report.html", "tradeoff.png"} <= entries.keys()
    for name, entry in entries.items():
        content = (folder / name).read_bytes()
        assert base64.b64decode(entry.digest) == hashlib.md5(content).digest()
        assert Path(entry.local_path).read_bytes() == content  # what `wandb sync` will send


def test_the_terminal_shows_one_line_for_each_tracked_run(sweep: tuple[Path, Any]) -> None:
    _, finished = sweep
    lines = [line for line in finished.stdout.splitlines() if "wandb" in line and "tracker=" not in line]
    assert len(lines) == 5
    assert all(line.startswith("tracked: outputs/study/") and "wandb sync" in line for line in lines)
    assert "wandb" not in finished.stderr.lower()


def test_another_tracker_reads_a_finished_run_back(finished_study: Path, run_here: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished_study.rglob("result.json")}
    for ratio in ("0.4", "0.2"):
        finished = run_here("method=goc", f"cache_ratio={ratio}", "name=study", *QUICK, "tracker=csv")
        assert finished.stderr == ""
    assert before == {path: path.stat().st_mtime_ns for path in finished_study.rglob("result.json")}
    tracked = pd.read_csv(finished_study / "tracked.csv")
    report = pd.read_csv(finished_study / "results.csv")
    assert tracked["cached"].round(6).tolist() == [0.4, 0.2]  # in the order of tracking
    assert tracked["run"].map(lambda run: (finished_study / run / "result.json").exists()).all()
    expected = report[report["method"] == "goc"].sort_values("cached", ascending=False, ignore_index=True)
    pd.testing.assert_frame_equal(tracked.drop(columns="run"), expected, check_dtype=False)


def test_a_run_tracked_again_replaces_its_row_and_leaves_the_others_as_they_are(finished_study: Path) -> None:
    folders = run_folders([finished_study])
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


def test_runs_tracked_at_the_same_time_all_have_their_row(finished_study: Path) -> None:
    source = run_folders([finished_study])[0]
    folders = [finished_study / f"copy-{index}" for index in range(12)]
    for folder in folders:
        folder.mkdir()
        shutil.copy(source / "result.json", folder)
    with ThreadPoolExecutor(6) as pool:
        (path,) = set(pool.map(track_in_csv, folders))
    assert sorted(pd.read_csv(path)["run"]) == sorted(folder.name for folder in folders)


def test_a_file_that_is_no_table_of_runs_is_not_overwritten(finished_study: Path) -> None:
    path = finished_study / "tracked.csv"
    for content in ("something else\n1\n", "", 'a,b\n"1'):
        path.write_text(content)
        with pytest.raises(GocError, match=r"tracked\.csv: is no table of tracked runs"):
            track_in_csv(run_folders([finished_study])[0])
        assert path.read_text() == content


class Server(ThreadingHTTPServer):
    """A W&B server: `reply` gets a GraphQL query and its variables, and returns the data, or None to die."""

    def __init__(self, reply: Callable[[str, dict[str, Any]], dict[str, Any] | None]) -> None:
        self.reply = reply
        self.queries: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)

    def die(self) -> None:
        self.socket.close()
        threading.Thread(target=self.shutdown, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/graphql":
            self.send_error(404)
            return
        request = json.loads(body)
        self.server.queries.append(request["operationName"])
        data = self.server.reply(request["operationName"], request.get("variables", {}))
        if data is None:
            self.close_connection = True
            self.server.die()
            return
        content = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


VIEWER = {"id": "1", "entity": "me", "username": "me", "email": "m@e", "flags": "{}", "teams": {"edges": []}}
PROJECT = {"id": "UA==", "name": "goc", "entity": {"id": "RQ==", "name": "me"}}


def hangs(query: str, variables: dict[str, Any]) -> dict[str, Any] | None:
    threading.Event().wait(60)  # longer than the run waits
    return None


def dies_once_it_has_accepted_the_run(query: str, variables: dict[str, Any]) -> dict[str, Any] | None:
    if query == "Viewer":
        return {"viewer": VIEWER}
    if query == "UpsertBucket" and "accepted" not in variables:
        bucket = {"id": "QQ==", "name": variables["name"], "displayName": "x", "config": "{}", "project": PROJECT}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}
    return None


@pytest.mark.parametrize(
    ("reply", "last_answered"),
    [
        pytest.param(hangs, None, marks=pytest.mark.nightly),
        (dies_once_it_has_accepted_the_run, "UpsertBucket"),
    ],
)
def test_a_server_that_hangs_or_dies_costs_a_run_one_warning(
    reply: Any, last_answered: str | None, run_here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(reply) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)  # logged in, so online without being told to be
        finished = run_here("method=none", *QUICK, "tracker=wandb", "wandb.timeout_s=12")
        server.shutdown()
        serving.join()
    assert server.queries
    assert last_answered in (None, *server.queries)
    (folder,) = run_folders([tmp_path])
    assert "fid" in json.loads((folder / "result.json").read_text())["metrics"]
    (warning,) = [line for line in finished.stderr.splitlines() if line and "img/s" not in line]
    assert warning.startswith("WARNING: tracker=wandb: not logged: ")
    assert f"to log it later: python -m goc.tracking {folder} " in warning


def test_without_an_account_the_warning_names_a_command_that_logs_the_run_later(
    finished_study: Path, run_here: Run
) -> None:
    settings = ("tracker=wandb", "wandb.mode=online", "wandb.group=a group")
    finished = run_here("method=goc", "cache_ratio=0.4", "name=study", *QUICK, *settings)
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
    logged = Logged(next(folder for folder in run_folders([finished_study]) if "r0.4" in folder.name))
    assert logged.run.run_group == "a group"
    assert logged.values["metrics/fid"] > 0


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("tracker=mlflow", "tracker=mlflow: must be one of none, csv, wandb"),
        ("wandb.mode=shared", "wandb.mode=shared: must be one of online, offline, or null"),
        ("wandb.timeout_s=0", "wandb.timeout_s=0.0: must be more than 0 and at most 1e+08"),
    ],
)
def test_bad_settings_name_the_key_and_what_is_allowed(override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        validate(compose_config([override]))
    assert str(raised.value) == expected


def run(method: str, cached: float, fid: float | None, cfg_scale: float = 1.0) -> dict[str, Any]:
    """What the table takes of a result."""
    return {
        "method": method,
        "config": {"sampler": "ddim", "steps": 20, "cfg_scale": cfg_scale, "cache_ratio": cached, "seed": 0,
                   "model": {"name": "m"}},
        "measurement": {"cfg_scale": cfg_scale},
        "metrics": {"fid": fid},
        "cost": {"cache_ratio": cached, "macs_saved": 0.9 * cached},
    }  # fmt: skip


def test_a_curve_is_a_method_in_order_of_cost_and_no_cache_is_a_level() -> None:
    runs = [
        run("goc", 0.6, 5.0),
        run("none", 0.0, 3.0),
        run("goc", 0.2, 4.0),
        run("goc", 0.4, None),
        run("fora", 0.8, 9),
    ]
    points = over_seeds(table(runs))
    lines = curves(points.assign(series=series_names(points)), "fid")
    rounded = {name: [(round(cost, 6), fid) for cost, fid in points] for name, points in lines.items()}
    assert rounded == {"goc": [(8, 5), (16, 4)], "fora": [(4, 9)], "no cache": [(4, 3), (20, 3)]}


def test_runs_of_different_measurements_never_share_a_chart() -> None:
    made = charts(over_seeds(table([run("goc", 0.2, 4.0), run("goc", 0.2, 2.0, cfg_scale=1.5)])))
    assert len(made) == 2  # of FID; there is no MSE
    assert {key.split(",")[1] for key in made} == {" guidance 1.0", " guidance 1.5"}
