"""A search on real trajectories: resumable, deterministic, and better than the schedules that it starts from."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from plans import planned

from goc.caching.schedule import computed_steps_of, computing
from goc.config import compose_config
from goc.models.dit import DiT
from goc.planning.denoiser import calibration_of, make_plan
from goc.sampling import search
from goc.system.errors import ConfigError

pytestmark = pytest.mark.slow
TRIED = 24  # schedules
QUICK = ("method=searched", "cache_ratio=0.6", "schedule.search_samples=3", f"schedule.search_evaluations={TRIED}")
FOUND = f"search-*found{TRIED}.json"


def found(model: DiT, folder: Path, *settings: str) -> list[int]:
    plan, _ = planned(model, folder, *QUICK, *settings)
    return computed_steps_of(plan.mask)


def distances(folder: Path) -> dict[str, Any]:
    (file,) = (file for file in folder.glob("search-*.json") if "found" not in file.name)
    return json.loads(file.read_text())["distances"]


@pytest.mark.parametrize(
    ("predictor", "site"), [("taylor", "branch"), ("reuse", "stack"), ("gradient_queue", "branch")]
)
def test_what_is_found_is_the_closest_of_all_that_were_tried(
    tiny_dit: DiT, tmp_path: Path, predictor: str, site: str
) -> None:
    schedule = found(tiny_dit, tmp_path, f"predictor={predictor}", f"site={site}")
    tried = distances(tmp_path)
    assert len(schedule) == 4
    assert len(tried) == TRIED
    assert ",".join(map(str, schedule)) == min(tried, key=lambda name: tried[name])
    assert min(tried.values()) < next(iter(tried.values()))  # the first one is the even schedule


def test_its_distance_is_that_of_the_samples_themselves(tiny_dit: DiT, tmp_path: Path) -> None:
    schedule = found(tiny_dit, tmp_path)
    plan, generation = planned(tiny_dit, tmp_path, *QUICK)
    calibration = replace(calibration_of(plan.way, generation, {}, str(tmp_path)), samples=3)
    own = search.final_latents(calibration, plan.new_cache)
    target = search.final_latents(calibration, None)
    each = [(a - b).norm() / b.norm() for a, b in zip(own, target, strict=True)]
    name = ",".join(map(str, schedule))
    assert distances(tmp_path)[name] == pytest.approx(torch.stack(each).mean().item(), rel=1e-4)


def test_budcache_finds_the_smallest_squared_error_of_as_many_schedules(tiny_dit: DiT, tmp_path: Path) -> None:
    budcache = (*QUICK, "method=budcache")
    plan, generation = planned(tiny_dit, tmp_path, *budcache)
    tried = distances(tmp_path)
    schedule = ",".join(map(str, computed_steps_of(plan.mask)))
    assert len(tried) == TRIED
    assert schedule == min(tried, key=lambda name: tried[name])
    calibration = replace(calibration_of(plan.way, generation, {}, str(tmp_path)), samples=3)
    own, target = (search.final_latents(calibration, new_cache) for new_cache in (plan.new_cache, None))
    assert tried[schedule] == pytest.approx((own - target).square().mean().item(), rel=1e-4)
    assert torch.equal(planned(tiny_dit, tmp_path, *budcache)[0].mask, plan.mask)
    planned(tiny_dit, tmp_path, *budcache, "schedule=searched")
    assert len(list(tmp_path.glob(FOUND))) == 2  # the same method's other search is another one


def stopped_once(patch: pytest.MonkeyPatch, measure: str, call: int) -> list[None]:
    """Stop a search, as Ctrl-C does, in a call of what it measures by; returns a list with an entry for each call."""
    measured, calls = getattr(search, measure), list[None]()

    def stop(*args: torch.Tensor) -> torch.Tensor:
        calls.append(None)
        if len(calls) == call:
            raise KeyboardInterrupt
        return measured(*args)

    patch.setattr(search, measure, stop)
    return calls


def test_a_stopped_search_goes_on_and_finds_the_same(
    tiny_dit: DiT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = found(tiny_dit, tmp_path / "whole")
    calls = stopped_once(monkeypatch, "mean_distance", 11)
    with pytest.raises(KeyboardInterrupt):
        found(tiny_dit, tmp_path / "stopped")
    assert len(distances(tmp_path / "stopped")) == 10
    assert found(tiny_dit, tmp_path / "stopped") == whole
    assert len(calls) == 11 + TRIED - 10  # what was tried before is not tried again
    assert distances(tmp_path / "stopped") == distances(tmp_path / "whole")


@pytest.mark.parametrize("kept", ["search-*[0-9a-f].json", FOUND])
def test_a_file_of_another_search_or_a_changed_one_is_made_again(
    tiny_dit: DiT, tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: str
) -> None:
    def file_in(folder: Path) -> Path:
        (file,) = (file for file in folder.glob(kept) if ("found" in file.name) == ("found" in kept))
        return file

    right = found(tiny_dit, tmp_path / "own")
    found(tiny_dit, tmp_path / "other", "calibration_seed=9", "predictor=reuse")
    own, alone = file_in(tmp_path / "own"), distances(tmp_path / "own")
    changed = json.loads(own.read_text())
    if "found" in kept:
        changed["computed"] = [0, 7, 8, 9]
    else:
        changed["distances"] = dict.fromkeys(changed["distances"], 1.0) | {"0,7,8,9": 0.0}
    for content in (file_in(tmp_path / "other").read_text(), json.dumps(changed)):
        own.write_text(content)
        if "found" not in kept:
            own.with_name(f"{own.stem}-found{TRIED}.json").unlink()
        caplog.clear()
        assert found(tiny_dit, tmp_path / "own") == right
        assert distances(tmp_path / "own") == alone
        assert own.name in caplog.text
        assert "made again" in caplog.text


def test_the_models_own_schedule_is_taken_for_the_same_search_only(
    tiny_dit: DiT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(tiny_dit, tmp_path)
    (file,) = tmp_path.glob(FOUND)
    content = json.loads(file.read_text()) | {"computed": [0, 7, 8, 9]}
    shipped = tmp_path / "shipped-ddim10-4.json"
    shipped.write_text(json.dumps(content))
    own = f"model.schedules='{tmp_path}/shipped-{{sampler}}{{steps}}-{{computed}}.json'"
    assert found(tiny_dit, tmp_path, own) == [0, 7, 8, 9]
    assert found(tiny_dit, tmp_path, own, "predictor=reuse") != [0, 7, 8, 9]
    shipped.write_text("{")
    assert found(tiny_dit, tmp_path, own) != [0, 7, 8, 9]


def test_a_diverging_schedule_is_the_worst_and_no_error(
    tiny_dit: DiT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = search.mean_distance
    monkeypatch.setattr(search, "mean_distance", lambda *args: measured(*args).where(measured(*args) < 0.1, torch.nan))
    schedule = found(tiny_dit, tmp_path)
    tried = distances(tmp_path)
    assert None in tried.values()  # JSON has no infinity
    assert tried[",".join(map(str, schedule))] < 0.1
    again = found(tiny_dit, tmp_path, f"schedule.search_evaluations={TRIED + 1}")
    assert again == schedule or len(distances(tmp_path)) == TRIED + 1


def test_a_ratio_that_leaves_one_step_is_refused(tiny_dit: DiT, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cache_ratio=0.95: leaves schedule=searched one computed step of 10"):
        planned(tiny_dit, tmp_path, "method=searched", "cache_ratio=0.95")


def test_a_found_schedule_named_elsewhere_is_that_schedule(tiny_dit: DiT, tmp_path: Path) -> None:
    schedule = found(tiny_dit, tmp_path)
    (file,) = tmp_path.glob(FOUND)
    plan, _ = planned(tiny_dit, tmp_path, "method=searched_goc", f"schedule.path={file}")
    assert torch.equal(plan.mask, computing(schedule, 10, tiny_dit.depth))


def test_batches_and_compilation_make_no_other_search(tiny_dit: DiT, tmp_path: Path) -> None:
    plan, generation = planned(tiny_dit, tmp_path, *QUICK)
    model = compose_config([]).measurement.model
    for key in ({"batch_size": 2, "compile": False}, {"batch_size": 3, "compile": True}, {"steps": 9}):
        make_plan(plan.way, model, calibration_of(plan.way, generation, key, str(tmp_path)))
    assert len(list(tmp_path.glob(FOUND))) == 2  # with the first three, and with other steps


def halved(model: DiT, folder: Path, *settings: str) -> dict[str, Any]:
    """What halving leaves of a search with as many samples as trying ten schedules on six takes."""
    planned(model, folder, "method=halving", "cache_ratio=0.6", "schedule.search_samples=6",
            "schedule.search_evaluations=10", *settings)  # fmt: skip
    (file,) = folder.glob("search-*found*.json")
    return json.loads(file.read_text())


def test_halving_ends_at_least_as_close_as_all_that_is_known_for_no_more_evaluations(
    tiny_dit: DiT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = halved(tiny_dit, tmp_path / "whole")
    begun = {tuple(schedule): distance for schedule, distance in whole["begun_with"]}
    programmed, _ = planned(tiny_dit, tmp_path / "other", "method=dynamic", "cache_ratio=0.6")
    for known in ([0, 2, 5, 7], computed_steps_of(programmed.mask)):  # even, and dynamic programming's
        assert tuple(known) in begun
    assert whole["distance"] <= min(begun.values())
    assert whole["tried"] > len(begun)
    assert whole["denoiser_evaluations"] <= 10 * 6 * 4 + 6 * 10  # trying ten on six, and these without a cache
    rivals = [distance for _, distance in whole["rivals"]]
    assert [whole["distance"], *rivals] == sorted([whole["distance"], *rivals])

    stopped_once(monkeypatch, "relative_distances", 8)
    with pytest.raises(KeyboardInterrupt):
        halved(tiny_dit, tmp_path / "stopped")
    kept = sum(map(len, distances(tmp_path / "stopped").values()))
    assert 0 < kept <= 7 * 6
    assert halved(tiny_dit, tmp_path / "stopped") == whole
