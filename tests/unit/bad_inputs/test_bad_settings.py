"""Bad settings: what no setting reads, what is forged, and what cannot be run are one line each."""

import re
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
from composing import config_of
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from refusals import Bad

import goc.mask
import goc.tracking.__main__ as tracking
from goc.config import compose_config, from_hydra, run_id, validate
from goc.config.hydra import composed, without_effect
from goc.config.known import nearest
from goc.system.command import run_command
from goc.system.errors import GocError, one_line

HEUN = ("model=digits_flow", "sampler=heun")
GUIDED = "cfg_scale=1.5"
A_PIPELINE = ("model=pipeline", "model.pipeline=a/b", "prompts=p.txt", "metrics=[]", GUIDED)
SEARCHED = ("schedule=searched", "predictor=taylor")
TEMPLATE = re.escape("must be a path, in which {model}, {sampler}, {steps}, {computed} and {cfg_scale} may stand")

# what is asked in this process alone: it composes and is not valid, or does not compose
REFUSED = [
    # no setting reads it
    Bad("top level", ("++num_sampels=32",), r"^num_sampels=32: no such setting; did you mean num_samples\?$"),
    Bad("with one plus", ("+cfg_scal=4",), r"^cfg_scal=4: no such setting; did you mean cfg_scale\?$"),
    Bad("without a plus", ("num_sampels=32",), r"^num_sampels=32: no such setting; did you mean num_samples\?$"),
    Bad("of the model", ("+model.num_class=3",), r"^model\.num_class=3: no such .*did you mean model\.num_classes\?$"),
    Bad("of a sampler without", ("sampler=ddpm", "+sampler.eta=1"), r"^sampler\.eta=1: .*; sampler=ddpm has none$"),
    Bad("of a sampler with", ("sampler=unipc", "+sampler.ordr=3"), r"^sampler\.ordr=3: .*did you mean sampler\.order"),
    Bad("of another predictor", ("predictor=reuse", "+predictor.order=2"), r"but predictor=taylor or hicache has it$"),
    Bad("of another, plain", ("predictor=reuse", "predictor.order=2"), r"^predictor\.order=2: no such setting; predic"),
    Bad("of another schedule", ("++schedule.interval=2",), r"but schedule=fora or taylorseer or \w+ or"),
    Bad("of wandb", ("++wandb.projet=x",), r"^wandb\.projet=x: no such setting; did you mean wandb\.project\?$"),
    Bad("of wandb, plain", ("wandb.projet=x",), r"^wandb\.projet=x: no such setting; did you mean wandb\.project\?$"),
    Bad("nested", ("+a.b.c=1",), r"^a\.b\.c=1: no such setting; --help lists all$"),
    Bad("as a group", ("+foo/bar=x",), r"^foo/bar=x: no such setting"),
    Bad("a group's name", ("methud=goc",), r"^methud=goc: no such setting; did you mean method\?$"),
    Bad("in a mapping", ("++sampler={eta:1}",), r"no such setting; sampler=ddim has timesteps$"),
    Bad("without its part", ("+threshold=0.1",), r"^threshold=0\.1: no such setting; did you mean schedule\.threshold"),
    # an option under the name of another
    Bad("forged sampler", ("sampler.name=zzz",), r"^sampler\.name=zzz: must be ddim; sampler=NAME chooses one of ddim"),
    Bad("forged as another", ("sampler={name:heun}",), r"^sampler\.name=heun: must be ddim"),
    Bad("schedule of no name", ("schedule.name=",), r"^schedule\.name=: must be uniform"),
    Bad("predictor of no name", ("predictor.name=",), r"^predictor\.name=: must be gradient_queue"),
    # nothing there
    Bad("taken out", ("~num_samples",), r"^num_samples: must be there"),
    Bad("taken out, a group", ("~sampler",), r"^sampler: must be there"),
    Bad("without a value", ("seed=???",), r"^seed=\?\?\?: must have a value$"),
    Bad("no sampler", ("sampler=null",), r"^sampler=null: must be the name of an option"),
    Bad("a model that is a number", ("model=5",), r"^model=5: must be the name of an option"),
    Bad("named after itself", ("name=${run_id:}",), r"^name=\$\{run_id:\}: must not name what is made of the settings"),
    # values of another kind
    Bad("a list of lists", ("gradient_weights=[[1]]",), r"^gradient_weights=\[\[1\]\]: must be a list of single value"),
    Bad("metrics in metrics", ("metrics=[[fid]]",), r"^metrics=\[\['fid'\]\]: must be a list of single values$"),
    Bad("a word for a number", ("num_samples=abc",), r"^num_samples=abc: .*could not be converted to Integer$"),
    Bad("null", ("num_samples=null",), r"^num_samples=null: .*not Optional$"),
    Bad("a fraction", ("num_samples=1.5",), r"^num_samples=1\.5: .*could not be converted to Integer$"),
    Bad("a step that is a fraction", ("correct_steps=[1.5]",), r"^correct_steps=\[1\.5\]: .*to Integer$"),
    Bad("no such interpolation", ("num_samples=${foo}",), r"^num_samples: Interpolation key 'foo' not found$"),
    # evaluations are answered for by themselves
    Bad("no evaluations", ("evaluations=0",), r"^evaluations=0: must be in \[2, 1000\]$"),
    Bad("less than none", ("evaluations=-2",), r"^evaluations=-2: must be in \[2, 1000\]$"),
    Bad("too many", ("evaluations=1001",), r"^evaluations=1001: must be in \[2, 1000\]$"),
    Bad("none, of pairs", (*HEUN, "evaluations=0"), r"^evaluations=0: must be a multiple of 2 .*, and in \[2, 2000\]$"),
    # guidance that cannot be saved, or not so
    Bad("an interval without guidance", ("guidance_interval=[0.3,5]",),
        r"^guidance_interval=\[0\.3, 5\.0\]: must be null with cfg_scale=1, wh"),
    Bad("halves without guidance", ("cfg_cache=0.5",), r"^cfg_cache=0\.5: must be null with cfg_scale=1, which"),
    Bad("a falling interval", (GUIDED, "guidance_interval=[5,0.3]"),
        r"^guidance_interval=\[5\.0, 0\.3\]: must be \[lo,hi\] with 0 <= lo < hi, "),
    Bad("an empty interval", (GUIDED, "guidance_interval=[1,1]"),
        r"^guidance_interval=\[1\.0, 1\.0\]: must be \[lo,hi\]"),
    Bad("one end", (GUIDED, "guidance_interval=[1]"), r"^guidance_interval=\[1\.0\]: must be \[lo,hi\]"),
    Bad("no end", (GUIDED, "guidance_interval=[1,inf]"), r"^guidance_interval=\[1\.0, inf\]: .* both finite, or null$"),
    Bad("no number", (GUIDED, "guidance_interval=[nan,1]"), r"^guidance_interval=\[nan, 1\.0\]: must be \[lo,hi\]"),
    Bad("a negative end", (GUIDED, "guidance_interval=[-1,1]"),
        r"^guidance_interval=\[-1\.0, 1\.0\]: must be \[lo,hi\]"),
    Bad("outside", (GUIDED, "guidance_interval=[200,300]"),
        r"^guidance_interval=.* noise levels that DDIM-20 visits, 0\.01 to 157$"),
    Bad("between", (GUIDED, "guidance_interval=[1,1.001]"),
        r"^guidance_interval=.*: must be \[lo,hi\] around at least one"),
    Bad("outside, flow", (*HEUN, GUIDED, "guidance_interval=[500,600]"),
        r"noise levels that Heun-20 visits, 0\.0127 to 79$"),
    Bad("every half", (GUIDED, "cfg_cache=1"), r"^cfg_cache=1\.0: must be in \[0, 1\), or null$"),
    Bad("halves that are no number", (GUIDED, "cfg_cache=nan"), r"^cfg_cache=nan: must be in \[0, 1\), or null$"),
    Bad("predicted otherwise", (GUIDED, "cfg_cache=0.5", "cfg_cache_predictor=goc"),
        r"^cfg_cache_predictor=goc: must be one of reuse, linear$"),
    Bad("no start", (GUIDED, "cfg_cache=0.5", "cfg_cache_start=0"), r"^cfg_cache_start=0: must be at least 1$"),
    Bad("a late start", (GUIDED, "cfg_cache=0.5", "cfg_cache_start=21"), r"^cfg_cache_start=21: must be at most 20$"),
    Bad("learned weights", (GUIDED, "cfg_cache=0.5", "method=searched_learned"),
        r"^predictor=learned: not supported with cfg_cache"),
    Bad("a pipeline's guidance", (*A_PIPELINE, "guidance_interval=[0.3,5]"),
        r"^guidance_interval=.*: must be null with model\.objective=pipeline"),
    Bad("a pipeline's halves", (*A_PIPELINE, "cfg_cache=0.5"),
        r"^cfg_cache=0\.5: must be null with model\.objective=pipeline"),
    # beyond all measure
    Bad("samples", ("num_samples=1000000000000",), r"^num_samples=1000000000000: must be at most 10000000$"),
    Bad("a batch", ("batch_size=1000000000000",), r"^batch_size=1000000000000: must be at most"),
    Bad("calibration", ("calibration_samples=1000000000000",), r"^calibration_samples=1000000000000: must be at most"),
    Bad("a search", (*SEARCHED, "schedule.search_evaluations=1000000000"), r"^schedule\.search_evaluations=.*at most"),
    Bad("samples of a search", (*SEARCHED, "schedule.search_samples=1000000000"), r"^schedule\.search_samples=.*at mo"),
    Bad("threads", ("threads=100000000",), r"^threads=100000000: must be at least 1 and at most"),
    Bad("a wait", ("worker_timeout_s=inf",), r"^worker_timeout_s=inf: must be more than 0 and at most"),
    Bad("timings", ("latency_repeats=1000000000",), r"^latency_repeats=1000000000: must be at most 10000$"),
    Bad("a seed", ("seed=99999999999999999999",), r"^seed=99999999999999999999: must be at most 9223372036854775807$"),
    Bad("distances", ("distance_samples=100000000000",), r"^distance_samples=100000000000: must be at least 0 and at"),
    Bad("channels", ("cfg_channels=100000000000000000000",), r"^cfg_channels=100000000000000000000: must be at most"),
    Bad("weights", ("gradient_weights=[1e30]",), r"^gradient_weights=\[1e\+30\]: must be finite numbers of at most 65"),
    Bad("a weight, negative", ("gradient_weights=[-1e300]",), r"^gradient_weights=\[-1e\+300\]: must be finite number"),
    Bad("blocks", ("model.depth=1000000000000",), r"^model\.depth=1000000000000: must be at most 4096$"),
    Bad("no blocks", ("model.depth=0",), r"^model\.depth=0: must be at least 1$"),
    Bad("no heads", ("model.num_heads=0",), r"^model\.num_heads=0: must be at least 1$"),
    Bad("no patch", ("model.patch_size=0",), r"^model\.patch_size=0: must be at least 1$"),
    Bad("less than no classes", ("model.num_classes=-1",), r"^model\.num_classes=-1: must be at least 1$"),
    Bad("no feature", ("method=chebbooster", "predictor.length=0"), r"^predictor\.length=0: must be at least 1$"),
    Bad("weights of no name", ("method=barycache", "predictor.rho=x"), r"^predictor\.rho=x: must be one of chebys"),
    Bad("no decay", ("method=barycache", "predictor.decay=0"), r"^predictor\.decay=0\.0: must be in \(0, 1\]$"),
    Bad("decay that is none", ("method=barycache", "predictor.decay=nan"), r"^predictor\.decay=nan: must be in \(0, 1"),
    Bad("no first step", ("method=dpcache", "schedule.first_steps=0"), r"^schedule\.first_steps=0: must be in \[1, 2"),
    Bad("an annealing", ("method=budcache", "schedule.search_evaluations=0"), r"^schedule\.search_evaluations=0: must"),
    Bad("held in what is no format", ("method=taylorseer", "predictor.dtype=fp4"),
        r"^predictor\.dtype=fp4: must be one of fp32, bf16, fp16, fp8, or null$"),
    Bad("held as it comes", ("method=foca", "+predictor.dtype=fp8"), r"^predictor\.dtype=fp8: no such setting; p"),
    Bad("tokens in float8", ("method=toca", "predictor.dtype=fp8"), r"^predictor\.dtype=fp8: not supported with selec"),
    # selections of tokens
    Bad("tokens of no cache", ("method=none", "selection=toca"), r"^selection=toca: must be none where no cell is"),
    Bad("tokens at ratio 0", ("method=toca", "cache_ratio=0"), r"^selection=toca: must be none where no cell is cac"),
    Bad("tokens of a stack", ("method=reuse_stack", "selection=random"), r"^site=stack: must be branch with selection"),
    Bad("skipped streams of a stack", ("schedule=duca", "predictor=reuse", "site=stack"), r"^site=stack: must be bran"),
    Bad("tokens of a queue", ("method=goc", "selection=toca"), r"^predictor=gradient_queue: must be one of reuse, tay"),
    Bad("tokens of weights", ("method=searched_learned", "selection=norm"), r"^predictor=learned: must be one of reu"),
    Bad("tokens as it runs", ("method=teacache", "site=branch", "selection=random"), r"^schedule=teacache: not suppor"),
    Bad("too many tokens", ("method=toca", "selection.ratio=1.1"), r"^selection\.ratio=1\.1: must be in \(0, 1\]"),
    Bad("no tokens", ("method=toca", "selection.ratio=0"), r"^selection\.ratio=0\.0: must be in .*selection=none comp"),
    Bad("a ratio that is none", ("method=toca", "selection.ratio=nan"), r"^selection\.ratio=nan: must be in \(0, 1\]"),
    Bad("an age", ("method=toca", "selection.age_weight=-1"), r"^selection\.age_weight=-1\.0: must be in \[0, 1000\]$"),
    Bad("a malus", ("method=duca", "selection.bonus=0.5"), r"^selection\.bonus=0\.5: must be in \[1, 1000\]$"),
    Bad("by block", ("method=toca", "selection.by_block=inf"), r"^selection\.by_block=inf: must be in \[-1, 1\]$"),
    Bad("by step", ("method=toca", "selection.by_step=-3"), r"^selection\.by_step=-3\.0: must be in \[-2, 2\]$"),
    Bad("no clusters", ("method=clusca", "selection.clusters=0"), r"^selection\.clusters=0: must be at least 1$"),
    Bad("more clusters than tokens", ("method=clusca", "selection.clusters=17"), r"^selection\.clusters=17: must be a"),
    Bad("propagation", ("method=clusca", "selection.propagation=2"), r"^selection\.propagation=2\.0: must be in \[0, "),
    Bad("ToCa of pairs", ("method=toca", *HEUN), r"^schedule=toca: not supported with sampler=heun"),
    Bad("of another selection", ("method=toca", "selection.clusters=2"), r"no such setting; .*but selection=cluster h"),
    Bad("an unknown selection", ("selection=foo",), r"Could not find 'selection/foo'"),
    Bad("a pipeline's stream", ("model=pipeline", "model.pipeline=x", "prompts=y", "sampler=scheduler", "method=duca"),
        r"^schedule=duca: not supported in a pipeline, whose stream is not kept"),
    Bad("a pipeline's tokens", ("model=pipeline", "model.pipeline=x", "prompts=y", "sampler=scheduler", "method=toca",
        "site=stack"), r"^site=stack: must be branch with selection=toca"),
    # texts
    Bad("a name of two lines", ("name='a\nb'",), r"^name=a b: must be a name on one line$"),
    Bad("a model without a name", ("model.name=",), r"^model\.name=: must be a name on one line, without \.\.$"),
    Bad("a model's name that leads away", ("model.name=../../x",), r"^model\.name=\.\./\.\./x: must be a name on one"),
    Bad("a null character", ("model.checkpoint='a\0b'",), r"^model\.checkpoint='a\\x00b': must be without a null"),
    # templates
    Bad("gigabytes", (*SEARCHED, "schedule.path='{steps!r:>9999999999}'"), TEMPLATE),
    Bad("a width", (*SEARCHED, "schedule.path='{steps:>99}'"), TEMPLATE),
    Bad("an attribute", (*SEARCHED, "schedule.path='{steps.real}'"), TEMPLATE),
    Bad("an item", (*SEARCHED, "schedule.path='{model[0]}'"), TEMPLATE),
    Bad("a position", (*SEARCHED, "schedule.path='{}'"), TEMPLATE),
    Bad("an open brace", (*SEARCHED, "schedule.path='{steps'"), TEMPLATE),
    Bad("in weights", (*SEARCHED[:1], "predictor=learned", "predictor.path='{nothing}'"), TEMPLATE),
    # Weights & Biases
    Bad("a long group", (f"wandb.group={'g' * 129}",), r"^wandb\.group=g+: must be 1 to 128 characters on one line$"),
    Bad("an empty project", ("wandb.project=",), r"^wandb\.project=: must be 1 to 128 characters on one line$"),
    Bad("a project as a path", ("wandb.project=a/b",), r"^wandb\.project=a/b: must be without / "),
    Bad("an entity as a path", ("wandb.entity=a/b",), r"^wandb\.entity=a/b: must be without / "),
    Bad("a long study", ("tracker=wandb", f"name={'n' * 121}"), r"^name=n+: must be of at most 120 characters with W&"),
    Bad("a long wait", ("wandb.timeout_s=inf",), r"^wandb\.timeout_s=inf: must be more than 0 and at most"),
]  # fmt: skip


@pytest.mark.slow  # as many compositions take seconds
@pytest.mark.parametrize("bad", REFUSED, ids=str)
def test_a_bad_setting_is_one_line(bad: Bad) -> None:
    with pytest.raises((GocError, HydraException, OmegaConfBaseException)) as refused:
        validate(config_of(*bad.settings))
    line = one_line(refused.value)
    assert "\n" not in line
    assert re.search(bad.says, line), line


@pytest.mark.parametrize(("typed", "line"), [
    (("gradient_weights=[]", "predictor.gradients=computed"),
     "predictor.gradients=computed: has no effect with schedule=uniform and predictor=reuse"),
    (("correct_steps=[3]", "++inflection_threshold=0.3"), "inflection_threshold=0.3: has no effect with "
     "schedule=uniform and predictor=gradient_queue and correct_steps"),
    (("method=none", "cfg_cache_predictor=linear"), "cfg_cache_predictor=linear: has no effect without cfg_cache"),
    (("cfg_scale=4", "cfg_cache=0.5", "cfg_cache_start=2"), None),
    (("predictor=reuse", "gradient_weights=[1.2]"), None),  # which is the gradient queue
    (("predictor.gradients=computed", "correct_steps=[3]"), None),
])  # fmt: skip
def test_why_a_typed_setting_does_nothing(typed: tuple[str, ...], line: str | None) -> None:
    node = composed(typed)
    assert without_effect(node, from_hydra(node), typed) == ([] if line is None else [line])


def test_a_pipelines_call_may_have_any_argument() -> None:
    pipeline = ("model=pipeline", "model.pipeline=a/b", "prompts=p.txt")
    config = compose_config([*pipeline, "+model.call.height=512", "+model.call.extra={a:[1,2]}"])
    validate(config)
    assert config.measurement.model.call == {"height": 512, "extra": {"a": [1, 2]}}


@pytest.mark.parametrize(("argument", "decides"), [
    ("sigmas=[1,0.5]", "steps"), ("num_inference_steps=null", "steps"), ("strength=0.5", "steps"),
    ("denoising_end=0.5", "steps"), ("num_videos_per_prompt=2", "num_samples"), ("seed=3", "seed"),
    ("guidance_schedule=[1]", "cfg_scale"), ("prompt_2=x", "prompts"), ("prompt_embeds_2=[1]", "prompts"),
    ("callback=f", "the run"), ("callback_on_step_end=f", "the run"), ("callback_steps=2", "the run"),
])  # fmt: skip
def test_a_pipelines_call_may_not_have_what_a_setting_decides(argument: str, decides: str) -> None:
    config = compose_config(["model=pipeline", "model.pipeline=a/b", "prompts=p.txt", f"+model.call.{argument}"])
    key = re.escape(argument.partition("=")[0])
    with pytest.raises(GocError, match=rf"^model\.call\.{key}=.*: must not be there; {decides} decides it$"):
        validate(config)


def test_known_keys_may_have_a_plus_and_stay_the_same_run() -> None:
    assert run_id(compose_config(["++seed=3", "++schedule={}"])) == run_id(compose_config(["seed=3"]))


def test_the_nearest_setting_is_one_that_a_person_would_name() -> None:
    typed = {"num_sample": "num_samples", "step": "steps", "chekpoint": "model.checkpoint", "xyz": None}
    assert {key: nearest(key) for key in typed} == typed


def test_braces_that_are_doubled_are_braces() -> None:
    config = compose_config([*SEARCHED, "schedule.path='{{x}}-{model}-{sampler}{steps}-{computed}-{cfg_scale}.json'"])
    assert config.way.schedule.path == "{x}-digits-ddim20-10-1.json"


def test_nothing_is_said_to_be_tracked_that_is_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert tracking.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "not tracked: WANDB_MODE=disabled\n"


def test_a_long_group_is_refused_before_wandb_is_asked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_command(partial(tracking.main, [str(tmp_path), f"--group={'g' * 129}"])) == 1
    assert "must be 1 to 128 characters on one line" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "says"),
    [
        (".", "--out=.: must be a file, not a folder"),
        ("mask.xyz", "--out=mask.xyz: must end in .png, .svg, .pdf"),
        ("mask", "--out=mask: must end in .png"),
        ("file/mask.png", "is a file, not a folder"),
    ],
)
def test_a_mask_is_only_drawn_where_a_picture_can_be(
    out: str, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert run_command(partial(goc.mask.main, ["steps=5", "--out", out])) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert says in line


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        ("goc.train.weights", ["--iterations", "-1"], "--iterations=-1: must be at least 1"),
        ("goc.train.weights", ["--samples", "0"], "--samples=0: must be at least 1"),
        ("goc.train.weights", ["--batch", "99999999999"], "--batch=99999999999: must be at least 1"),
        ("goc.train.weights", ["--rate", "nan"], "--rate=nan: must be at least 0"),
        ("goc.train.weights", ["--out", "."], "--out=.: must be a file, not a folder"),
        ("goc.train.router", ["--iterations", "0"], "--iterations=0: must be at least 1"),
        ("goc.train.router", ["--penalty", "inf"], "--penalty=inf: must be at least 0"),
        ("train_embedded", ["fashion", "denoiser", "--steps", "-5"], "--steps=-5: must be at least 1"),
        ("train_digits", ["denoiser", "--steps", "-5"], "--steps=-5: must be at least 1"),
        ("goc.cli.random_weights", ["--out", "x", "--reference-images", "-1"], "--reference-images=-1: must"),
        ("benchmark", ["uncertainty", "--samples", "0"], "--samples=0: must be at least 2"),
    ],
)
def test_a_scripts_bad_option_is_one_line_at_once(
    script: str, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [script, *arguments])
    assert run_command(import_module(script).main) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {says}")
