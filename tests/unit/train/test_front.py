"""A front: schedules and weights for several numbers of evaluations, in one file that runs; and what is refused."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from plans import planned

from goc.caching.schedule import computed_steps_of
from goc.config import compose_config, validate
from goc.config.tuning import tuned_on
from goc.models.dit import DiT
from goc.models.schedules import Trained, read_front, read_schedule, trained_of
from goc.planning.denoiser import calibration_of, make_plan
from goc.runs.denoiser import calibration_alone
from goc.sampling.local_search import neighbours
from goc.sampling.search import final_latents
from goc.system.command import run_command
from goc.system.errors import ConfigError
from goc.train import front
from goc.train.learning import better
from goc.train.starts import LENGTH, Start, as_weights, best_start, distance_of, linear_predictors
from goc.train.targets import converged_targets

pytestmark = pytest.mark.slow
FILE = "outputs/fronts/digits-ddim6-cfg1.json"
TINY = ("steps=6", "calibration_samples=2", "schedule.search_samples=4", "schedule.search_evaluations=3", "--held=2",
        "--iterations=2", "--batch=2", "--samples=4", "--rivals=2")  # fmt: skip


def train(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["goc train front", *arguments])
    return run_command(front.main)


def test_a_front_is_one_file_that_runs_at_its_ratios_and_is_not_found_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(monkeypatch, *TINY, "--evaluations=5,3") == 0
    text, said = Path(FILE).read_text(), capsys.readouterr().out
    content = json.loads(text)
    assert list(content["front"]) == ["3", "5"]
    assert 0 < content["denoiser_evaluations"] <= content["estimated"]
    assert f"{content['denoiser_evaluations']:,} evaluations ({content['estimated']:,} estimated)" in said
    for entry in content["front"].values():
        assert entry["search_distance"] <= min(distance for _, distance in entry["begun_with"])
        assert min(entry["held_distances"]) == entry["held_distances"][entry["kept"] == "trained"]

    def never(*_: object) -> None:
        raise AssertionError("was trained before")

    monkeypatch.setattr(front, "fit", never)
    assert train(monkeypatch, *TINY, "--evaluations=5,3") == 0
    assert Path(FILE).read_text() == text

    for ratio, computed in ((0.8, 3), (0.2, 5)):
        config = compose_config(["method=front", "steps=6", f"cache_ratio={ratio}", "seed=2503"])
        validate(config)
        assert config.files["schedule.path"] == config.files["predictor.path"]
        calibration = calibration_alone(config, torch.device("cpu"), compiled=False)
        plan = make_plan(config.way, config.measurement.model, calibration)
        entry = content["front"][str(computed)]
        assert computed_steps_of(plan.mask) == entry["computed"]
        assert plan.learned is not None
        kept = plan.learned.weights
        assert all(torch.allclose(kept[int(step)], torch.tensor(row)) for step, row in entry["weights"].items())
        assert entry["weights"].keys() == {str(i) for i in range(6) if i not in entry["computed"]}
        times = calibration.generation.solver.grid.times
        assert plan.times is not None
        for step, shift in entry["shifts"].items():
            i = int(step)
            assert plan.times[i] == pytest.approx(times[i] + (shift * (times[i + 1] - times[i]) if i < 5 else 0))
        assert set(tuned_on(config.way, config.measurement).values()) == {6}  # trained and judged on; searched on fewer
    other = compose_config(["method=front", "steps=6", "cfg_scale=1.5", f"schedule.path={FILE}"])
    with pytest.raises(ConfigError, match=r"was trained for cfg_scale=1.0, not for 1.5"):
        make_plan(other.way, other.measurement.model, calibration_alone(other, torch.device("cpu"), compiled=False))


@pytest.mark.parametrize(
    ("settings", "message"),
    [(["--evaluations=2,4"], "--evaluations=2,4: must be whole numbers in [3, 5]"),
     (["--evaluations=4,6"], "--evaluations=4,6: must be"),
     (["--evaluations=four"], "--evaluations=four: must be"),
     (["--evaluations="], "--evaluations=: must be"),
     (["--evaluations=3", "--rivals=0"], "--rivals=0: must be at least 1"),
     (["--evaluations=3", "--turns=-1"], "--turns=-1: must be at least 0"),
     (["--evaluations=3", "schedule=uniform"], "schedule=uniform: must be halving here"),
     (["--evaluations=3", "sampler=ddpm"], "sampler=ddpm: must be a deterministic one")],
)  # fmt: skip
def test_what_cannot_be_a_front_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings: list[str], message: str
) -> None:
    assert train(monkeypatch, "steps=6", *settings) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_help_says_this_commands_own_defaults(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train(monkeypatch, "--help")
    said = " ".join(capsys.readouterr().out.split())
    assert "batches (default 60)" in said
    assert "learning rate at the start (default 0.01)" in said


def test_an_estimate_needs_no_weights_and_begins_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(monkeypatch, "model=dit_xl_2_256", "cfg_scale=1.5", "--evaluations=5", "--rivals=1", "--estimate") == 0
    training = 5 * (4 * 60 * 16 + 64 * 4 * 8) + 5 * (2 * 96 + 24 * sum(1 for _ in linear_predictors(*cells(20))))
    search = 64 * 20 + 96 * 20 + 5 * (96 * 120 - 64 * 20 // 5)
    total = search + training + (512 + 96) * 20
    assert f"{total:,} of the denoiser (each guided" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def cells(steps: int) -> tuple[torch.Tensor, list[float]]:
    return torch.zeros(steps, 1, 1, dtype=torch.bool), [float(i) for i in range(steps)]


def written(path: Path, entries: dict[str, object], evaluations: object = 6) -> str:
    path.write_text(json.dumps({"evaluations": evaluations, "front": entries}))
    return str(path)


def test_a_file_that_is_no_front_is_refused(tmp_path: Path) -> None:
    good = {"3": {"computed": [0, 2, 4]}}
    assert read_front(written(tmp_path / "good.json", good), 6) == {3: good["3"]}
    for entries, evaluations, message in (
        ({}, 6, "must have entries"),
        ({"4": {"computed": [0, 2, 4]}}, 6, "the entry 4 computes 3"),
        ({"3": {"computed": [0, 4, 2]}}, 6, "must be increasing"),
        ({"3": {"computed": [0, 2, 9]}}, 6, "must be increasing"),
        ({"3": [0, 2, 4]}, 6, "the entry 3 has no computed"),
        (good, 8, "is for 8 evaluations, not for 6"),
        (good, None, "must be increasing"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_front(written(tmp_path / "bad.json", dict(entries), evaluations), 6)
    with pytest.raises(ConfigError, match="is a front, of several schedules; schedule=front takes it"):
        read_schedule(written(tmp_path / "good.json", good), 6)
    (tmp_path / "schedule.json").write_text(json.dumps({"evaluations": 6, "computed": [0, 2]}))
    with pytest.raises(ConfigError, match=r"must be a front, as goc train front writes it"):
        read_front(str(tmp_path / "schedule.json"), 6)


def test_the_start_is_the_closest_known_predictor_and_stays_if_training_ends_farther(
    tiny_dit: DiT, tmp_path: Path
) -> None:
    plan, generation = planned(tiny_dit, tmp_path, "cache_ratio=0.6", "predictor=taylor")
    calibration = replace(calibration_of(plan.way, generation, {}, str(tmp_path)), samples=4)
    targets, log_snr = final_latents(calibration, None), generation.solver.grid.log_snr.tolist()
    distance, name, start = best_start(plan, calibration, targets, log_snr)
    cell = plan.mask[:, :1, :1]
    each = {one: as_weights(predictor, cell.flatten().tolist(), LENGTH)
            for one, predictor in linear_predictors(cell, log_snr)}  # fmt: skip
    ends = {one: distance_of(plan, Trained(weights), calibration, range(4), targets)
            for one, weights in each.items() if weights is not None}  # fmt: skip
    assert distance == ends[name] == min(ends.values()) < max(ends.values())
    assert torch.equal(start.weights, each[name] if each[name] is not None else torch.empty(0))
    worse = Trained(start.weights + 1)
    assert better(plan, calibration, range(4), targets, [start, worse])[0] == 0
    assert better(plan, calibration, range(4), targets, [worse, start])[0] == 1


def test_turns_compare_the_closest_schedules_around_the_closest_one_after_a_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    given = (*TINY, "--evaluations=3")
    entries = {}
    for turns in (0, 3):
        assert train(monkeypatch, *given, f"--turns={turns}", f"--out={turns}.json") == 0
        content = json.loads(Path(f"{turns}.json").read_text())
        assert content["denoiser_evaluations"] <= content["estimated"]
        assert content["training"]["turns"] == turns
        entries[turns] = content["front"]["3"]
    alone, found = entries[0], {tuple(one): distance for one, distance in entries[3]["compared"]}
    known = [tuple(one) for one, _ in alone["compared"]]
    assert [*found][: len(known)] == known
    assert found[tuple(entries[3]["computed"])] == min(found.values()) <= min(found[one] for one in known)
    best = min(known, key=found.__getitem__)
    config = compose_config(["method=halving", "steps=6"])
    validate(config)
    calibration = replace(calibration_alone(config, torch.device("cpu"), compiled=False), samples=4)
    maker = front.Maker(config, calibration, front.effort_of(options(), config), final_latents(calibration, None), {})
    starts = {one: maker.start(one).distance for one in neighbours(best, 6) if one not in known}
    first = [*found][len(known) : len(known) + 2]  # as many as rivals
    assert first == sorted(starts, key=lambda one: (starts[one], one))[:2]
    assert entries[3]["denoiser_evaluations"] > alone["denoiser_evaluations"]


def test_more_evaluations_that_end_farther_are_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ends = {3: [0.3, 0.2], 4: [0.25, 0.3], 5: [0.2, 0.1]}  # 4: the start is kept

    def entry(_: front.Maker, count: int, others: list[object]) -> dict[str, object]:
        return {"computed": range(count), "searched": range(count), "search_distance": 1.0, "start": "taylor1",
                "held_distances": ends[count], "kept": "trained", "denoiser_evaluations": 1}  # fmt: skip

    monkeypatch.setattr(front.Maker, "entry", entry)
    monkeypatch.setattr(front, "content", lambda *_: {})
    assert train(monkeypatch, *TINY, "--evaluations=3,4,5") == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]
    assert notes == ["note: 4 evaluations end farther than 3 on samples apart: --rivals and --turns look further"]


def test_another_front_is_taken_over_and_trained_on_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(monkeypatch, *TINY, "--evaluations=3", "--held=0", "--out=first.json") == 0
    first = json.loads(Path("first.json").read_text())["front"]["3"]
    assert first["kept"] == "trained"
    over = (*TINY, "cfg_scale=1.5", "--evaluations=3", "--begin=first.json")
    monkeypatch.setattr(front, "best_start", lambda *given: Start(0.0, "begun", given[-1]["begun"]))
    assert train(monkeypatch, *over, "--rivals=1", "--iterations=0", "schedule.search_evaluations=1") == 0
    content = json.loads(Path("outputs/fronts/digits-ddim6-cfg1.5.json").read_text())
    taken = content["front"]["3"]
    assert content["trained_for"]["cfg_scale"] == 1.5
    assert [taken[name] for name in ("computed", "weights", "shifts")] == [
        first[name] for name in ("computed", "weights", "shifts")
    ]
    assert (taken["kept"], taken["start"], len(taken["held_distances"])) == ("start", "begun", 1)
    assert "(trained)" not in capsys.readouterr().out.splitlines()[-3]
    assert train(monkeypatch, *over, "steps=8") == 1
    assert "--begin=first.json: is for 6 evaluations, not for 8" in capsys.readouterr().err
    assert train(monkeypatch, *over, "site=stack") == 1
    assert "--begin: has weights of 12 x 2 cells, not of 1 x 1" in capsys.readouterr().err


def test_weights_may_be_trained_towards_the_converged_solution(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = (*TINY, "--evaluations=3", "--rivals=1", "--batch=4", "--iterations=8", "--held=0")
    ends = {}
    for target in ("uncached", "converged"):
        assert train(monkeypatch, *given, f"--target={target}", f"--out={target}.json") == 0
        ends[target] = json.loads(Path(f"{target}.json").read_text())
    assert ends["converged"]["estimated"] - ends["uncached"]["estimated"] == 4 * (302 - 6)
    assert ends["converged"]["training"]["target"] == "converged"
    config = compose_config(["method=halving", "steps=6"])
    validate(config)
    calibration = replace(calibration_alone(config, torch.device("cpu"), compiled=False), samples=4)
    solution = converged_targets(config, calibration, 4)
    maker = front.Maker(config, calibration, front.effort_of(options(), config), solution, {})
    apart = {}
    for target, content in ends.items():
        entry = content["front"]["3"]
        trained, plan = trained_of(entry, 6, (12, 2), target), maker.plan(tuple(entry["computed"]))
        apart[target] = distance_of(plan, trained, calibration, range(4), solution)
    assert apart["converged"] < apart["uncached"]


def options() -> argparse.Namespace:
    return argparse.Namespace(
        iterations=2, batch=2, samples=4, held=0, rate=0.01, rivals=1, turns=0, keep=False, target="converged"
    )
