"""Bad input as a user meets it: one line says what is wrong, and nothing is run."""

from pathlib import Path

import numpy as np
import pytest
from application import Run
from checkout import QUICK, SMALL
from PIL import Image
from refusals import Bad, assert_refused
from safetensors.torch import load_file, save_file

from goc.system.files import ASSETS

DEVICE = "must be a regular file, not a device"
NULL, PIPELINE = "/dev/null", ("model=pipeline", "model.pipeline=x", "prompts=y")
OVERLAYS = {
    "top": "num_sampels: 3",
    "deep": "sampler:\n  eta: 1",
    "sweep": "hydra:\n  sweeper:\n    params:\n      num_sampels: 1,2",
}
REFUSED = [
    Bad("in a sweep", ("-m", "+num_sampels=3,4"), r"num_sampels=3: no such setting; did you mean num_samples\?"),
    Bad("in a sweep, plain", ("-m", "num_sampels=3,4"), r"num_sampels=3: no such setting; did you mean num_samples\?"),
    Bad("in a grid", ("-m", "hydra/sweeper=union", "hydra.sweeper.grids=[{+num_sampels:'4,5'}]"), "num_sampels=4: no"),
    Bad("a name in a sweep", ("-m", "sampler.name=a,b"), r"sampler\.name=a: must be ddim"),
    Bad("in an overlay", ("experiment=top",), r"In 'experiment/top': num_sampels: no such setting; did you mean num_s"),
    Bad("deep in an overlay", ("experiment=deep",), r"In 'experiment/deep': sampler\.eta: no such setting; sampler=dd"),
    Bad("an overlay's sweep", ("-m", "experiment=sweep"), r"num_sampels=1: no such setting; did you mean num_samples"),
    Bad("no batches", ("-m", "seed=0,1", "hydra.sweeper.max_batch_size=0"), r"hydra\.sweeper\.max_batch_size=0: must"),
    Bad("no batches of a union", ("-m", "hydra/sweeper=union", "hydra.sweeper.grids=[{seed:'0,1'}]",
        "hydra.sweeper.max_batch_size=1.5"), r"hydra\.sweeper\.max_batch_size=1\.5: must be a whole number"),
    Bad("in another folder", ("hydra.job.chdir=true",), r"hydra\.job\.chdir=True: must be false; files are named from"),
    Bad("in another, swept", ("-m", "seed=0,1", "hydra.job.chdir=true"), r"hydra\.job\.chdir=True: must be false"),
    Bad("an option that is none", ("--foo",), r"^error: unrecognized arguments: --foo; settings are KEY=VALUE"),
    Bad("a short one", ("-x",), r"^error: unrecognized arguments: -x; settings are KEY=VALUE"),
    Bad("an option without its value", ("-c",), r"^error: argument --cfg/-c: expected one argument"),
    Bad("two things at once", ("-m", "--cfg=job", "seed=0,1"), r"^error: Only one of --run, --multirun, --cfg"),
    Bad("a search path", ("hydra.searchpath=[file:///nowhere]",), r"^error: hydra\.searchpath=/nowhere: is not there"),
    Bad("a package to search", ("hydra.searchpath=[pkg://nowhere]",), r"^error: hydra\.searchpath=nowhere: is not"),
    Bad("a path to search", ("hydra.searchpath=[/nowhere]",), r"^error: hydra\.searchpath=/nowhere: is not there"),
    Bad("a word", ("fora",), r"^error: fora: must be KEY=VALUE; --help lists settings$"),
    Bad("a number", ("1",), r"^error: 1: must be KEY=VALUE; --help lists settings$"),
    Bad("a value without a key", ("=1",), r"^error: =1: must be KEY=VALUE; --help lists settings$"),
    Bad("completion of what", ("-sc",), r"^error: Expecting one subcommand"),
    Bad("a missing argument of a call", (*PIPELINE, "+model.call.height=???"),
        r"^error: model\.call\.height=\?\?\?: must have a value$"),
    Bad("a text for grids", ("-m", "hydra/sweeper=union", "hydra.sweeper.grids=[a=1]"), r"hydra\.sweeper\.grids=\[a=1"),
    Bad("an interpolation", (*PIPELINE, "+model.call.height=${x}"),
        r"^error: model\.call\.height: Interpolation key 'x' not found$"),
    Bad("the steps of a call", (*PIPELINE, "+model.call.sigmas=[1,0.5]"),
        r"model\.call\.sigmas=\[.*: must not be there; steps decides it"),
    Bad("the times of a call", (*PIPELINE, "+model.call.timesteps=[999,1]"),
        r"model\.call\.timesteps=\[.*: must not be there; steps decides it"),
    Bad("a device as weights", ("model.checkpoint=/dev/zero",), r"model\.checkpoint=/dev/zero: is a device; must be"),
    Bad("in another, named", ("hydra.job.chdir=true", "hydra.run.dir=here"), r"hydra\.job\.chdir=True: must be false"),
    # values
    Bad("a ratio", ("cache_ratio=1.5",), r"^error: cache_ratio=1\.5: must be in \[0, 1\)"),
    Bad("a ratio that is no number", ("cache_ratio=half",), "cache_ratio.*half.*Float|Float.*half.*cache_ratio"),
    Bad("a method", ("method=gok",), "method/gok.* fora.* goc.* none"),
    Bad("a model", ("model=ditt",), "model/ditt.* digits"),
    Bad("a method in a sweep", ("-m", "method=goc,gok"), "method/gok.* fora.* goc.* none"),
    Bad("a setting", ("cach_ratio=0.5",), "cach_ratio"),
    Bad("a metric", ("metrics=[fid,lpips]",), "metrics=lpips: must be one of isc, fid, sfid, kid, prc"),
    Bad("a depth", ("model.depth=13",), r"does not fit the model.*blocks\.12"),
    Bad("an extractor", ("model.extractor=vgg",), r"model\.extractor=vgg.*digits"),
    Bad("a device", ("device=tpu",), "device=tpu: must be auto, cpu"),
    Bad("graphs on a CPU", ("graphs=true", "device=cpu"), r"^error: graphs=true: must be auto or false with dev"),
    # methods
    Bad("an interval", ("schedule.interval=9", "method=fora"), r"schedule\.interval=9: must be in \[1, 5\]"),
    Bad("no router", ("method=l2c",), r"schedule\.router=null.*steps=5.*goc train router model=\.\.\. steps=5"),
    Bad("a site", ("method=smoothcache", "site=stack"), "site=stack: schedule=smoothcache caches some cells of a step"),
    Bad("no schedule", ("method=smoothcache", "schedule.path=no.json"), r"schedule\.path=no\.json.*No such file"),
    Bad("a predictor's", ("predictor.order=3",), r"^error: predictor\.order=3: no such setting; predictor=gradient_q"),
    # files
    Bad("a missing checkpoint", ("model.checkpoint=no.pt",), r"^error: model\.checkpoint=no\.pt: no such file"),
    Bad("a folder", ("model.checkpoint=.",), r"^error: model\.checkpoint=\.: is a folder"),
    Bad("another's weights", ("model.checkpoint=asset:digits/extractor.safetensors",), "does not fit the model: .*"),
    Bad("guidance", ("model.checkpoint=no_null.safetensors", "cfg_scale=1.5"), r"^error: cfg_scale=1\.5: must be 1"),
    Bad("reference", ("model.reference=x.npz",), f"^error: model.reference=x.npz: {DEVICE}"),
    Bad("extractor", ("model.extractor_weights=/dev/null",), f"^error: model.extractor_weights=/dev/null: {DEVICE}"),
    Bad("another folder", ("model.extractor_weights=.",), "^error: model.extractor_weights=.: must be a regular file"),
    Bad("schedule", ("method=searched", f"schedule.path={NULL}"), f"^error: schedule.path={NULL}: .*{DEVICE}"),
    Bad("smoothcache", ("method=smoothcache", f"schedule.path={NULL}"), f"^error: schedule.path={NULL}: .*{DEVICE}"),
    Bad("learned", ("predictor=learned", f"predictor.path={NULL}"), f"^error: predictor.path={NULL}: .*{DEVICE}"),
    Bad("prompts", (*PIPELINE[:2], f"prompts={NULL}"), f"^error: prompts={NULL}: .*{DEVICE}"),
]  # fmt: skip


@pytest.mark.parametrize("bad", REFUSED, ids=str)
def test_bad_input_is_one_line_and_nothing_is_run(bad: Bad, run_here: Run, tmp_path: Path) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    for name, text in OVERLAYS.items():
        (tmp_path / "own" / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    (tmp_path / "x.npz").symlink_to("/dev/null")
    weights, table = load_file(ASSETS / "digits" / "diffusion-0.safetensors"), "y_embedder.embedding_table.weight"
    save_file({**weights, table: weights[table][:-1].clone()}, tmp_path / "no_null.safetensors")
    flags = [setting for setting in bad.settings if setting.startswith("-")]
    settings = [setting for setting in bad.settings if not setting.startswith("-")]
    finished = run_here(*flags, f"--config-dir={tmp_path / 'own'}", *SMALL, *settings, check=False)
    assert_refused(finished, bad.says)
    assert [line for line in finished.stderr.splitlines() if not line.startswith(("error: ", "WARNING: "))] == []
    assert not list(tmp_path.rglob("result.json"))


def test_options_may_stand_between_settings(run_here: Run, tmp_path: Path) -> None:
    (tmp_path / "own" / "method").mkdir(parents=True)
    text = "# @package _global_\ndefaults:\n  - override /schedule: fora\nsteps: 7\n"
    (tmp_path / "own" / "method" / "mine.yaml").write_text(text)
    shown = run_here("seed=1", f"--config-dir={tmp_path / 'own'}", "method=mine", "--cfg", "job", "seed=2").stdout
    assert "steps: 7" in shown
    assert "seed: 2" in shown


def test_a_typed_setting_that_does_nothing_is_said(run_here: Run) -> None:
    said = run_here(
        "method=taylorseer", "inflection_threshold=0.5", "schedule.interval=2", "cache_ratio=0.3", *QUICK, "metrics=[]"
    )
    chosen = "with schedule=taylorseer and predictor=taylor"
    for setting in ("inflection_threshold=0.5", "cache_ratio=0.3"):
        assert f"{setting}: has no effect {chosen}" in said.stderr
    assert "interval" not in said.stderr
    assert (
        "has no effect"
        not in run_here("method=goc", "inflection_threshold=0.5", "cache_ratio=0.3", *QUICK, "metrics=[]").stderr
    )
    assert "has no effect" not in run_here("method=none", "cache_ratio=0.3", *QUICK, "metrics=[]").stderr


def test_a_working_folder_may_have_any_name(run_here: Run, tmp_path: Path) -> None:
    folder = tmp_path / "a ${x} {steps} %(y)s"
    folder.mkdir()
    finished = run_here(f"hydra.run.dir='{folder.name.replace('$', chr(92) + '$')}/run'", *QUICK, "metrics=[]")
    assert finished.returncode == 0
    assert (folder / "run" / "result.json").is_file()


def test_a_run_names_the_bad_image_of_its_reference(run_here: Run, tmp_path: Path) -> None:
    for index in range(2):
        Image.fromarray(np.arange(index, index + 64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / f"{index}.png")
    (tmp_path / "x.png").symlink_to("/dev/null")
    assert_refused(run_here("model.reference=.", *SMALL, check=False), "^error: model.reference=.: x.png is a device")
