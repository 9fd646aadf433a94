from dataclasses import fields

import pytest
from composing import config_of as config

from goc.config import (
    Execution,
    Measurement,
    Output,
    Way,
    compose_config,
    flat,
    identity,
    label,
    run_id,
    validate,
)
from goc.config.settings import OF_GUIDANCE
from goc.methods import METHODS
from goc.system.errors import ConfigError


@pytest.mark.parametrize("settings", [
    ("seed=3", "method=goc", "steps=7", "gradient_weights=[1.2,0.5]", "model.num_heads=2"),
    ("decision=verify", "schedule.decay_rate=0.9", "correct_steps=null", "name='a b'"),
    ("model=digits_flow", "sampler=heun", "evaluations=20", "inflection_threshold=0.3"),
])  # fmt: skip
def test_what_tests_put_into_composed_groups_is_what_hydra_composes(settings: tuple[str, ...]) -> None:
    assert config(*settings) == compose_config(settings)


@pytest.mark.slow
@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.nightly)])
def test_a_method_is_the_same_as_its_schedule_and_predictor(every: int) -> None:
    for name, method in list(METHODS.items())[::every]:
        named = config(f"method={name}")
        parts = (f"schedule={method.schedule}", f"predictor={method.predictor}", f"site={method.site}",
                 f"selection={method.selection}")  # fmt: skip
        settings = [f"predictor.{key}={value}" for key, value in method.settings.items()]
        composed = config(*parts, f"clock={method.clock}", *settings)
        assert identity(named) == identity(composed)
        assert label(named.way) == name


def test_a_decision_is_the_method_of_its_name() -> None:
    names = ("teacache", "first_block", "dicache", "seacache", "easycache")
    methods = {"verify": "speca"} | {name: name for name in names}
    for name, method in methods.items():
        assert run_id(config(f"decision={name}")) == run_id(config(f"method={method}"))


def test_gradient_weights_turn_plain_reuse_into_the_gradient_queue() -> None:
    assert identity(config("method=reuse", "gradient_weights=[1.2]")) == identity(
        config("method=goc", "gradient_weights=[1.2]")
    )
    assert identity(config("method=goc", "gradient_weights=[]")) == identity(config("method=reuse"))
    assert label(config("method=fora", "gradient_weights=[1.2]").way) == "fora_goc"
    assert label(config("method=teacache", "predictor=taylor").way) == "teacache+taylor+stack"
    assert label(config("method=fora_goc", "clock=logsnr").way) == "fora+gradient_queue+branch+logsnr"


def test_settings_that_change_nothing_do_not_make_another_run() -> None:
    assert run_id(config("method=none", "cache_ratio=0.5")) == run_id(config("method=none", "cache_ratio=0.25"))
    assert run_id(config("method=fora", "inflection_threshold=0.3")) == run_id(config("method=fora"))
    fixed = ("method=fora", "schedule.interval=3")
    assert run_id(config(*fixed, "cache_ratio=0.1")) == run_id(config(*fixed)) != run_id(config("method=fora"))
    assert run_id(config("name=x", "device=cpu", "metrics=[fid]", "cache_dir=y", "latency_repeats=0")) == run_id(
        config()
    )
    pinned = "correct_steps=[3,5]"
    assert run_id(config(pinned, "inflection_threshold=0.3")) == run_id(config(pinned))


@pytest.mark.parametrize(
    "override",
    ["cache_ratio=0.25", "seed=1", "steps=50", "gradient_weights=[1.1]", "inflection_threshold=0.3", "num_samples=7",
     "cfg_scale=1.5", "batch_size=100", "sampler=ddpm", "model.num_heads=2", "correct_steps=[3]",
     "site=stack", "clock=logsnr", "inflection_scope=cell"],
)  # fmt: skip
def test_settings_that_change_the_images_make_another_run(override: str) -> None:
    assert run_id(config(override)) != run_id(config())


@pytest.mark.parametrize("method", ["reuse", "taylorseer", "hicache"])
def test_what_values_are_held_in_is_part_of_a_run_only_where_it_is_said(method: str) -> None:
    assert "dtype" not in identity(config(f"method={method}"))["predictor"]
    assert identity(config(f"method={method}", "predictor.dtype=null")) == identity(config(f"method={method}"))
    narrow = config(f"method={method}", "predictor.dtype=fp8")
    assert identity(narrow)["predictor"]["dtype"] == "fp8"
    assert run_id(narrow) != run_id(config(f"method={method}"))
    without = config(f"method={method}", "predictor.dtype=fp8", "cache_ratio=0")
    assert identity(without) == identity(config("method=none"))  # which holds nothing


def test_what_values_are_held_in_stays_where_the_gradient_queue_becomes_reuse_and_back() -> None:
    queue, reuse = ("method=goc", "predictor.dtype=bf16"), ("method=reuse", "predictor.dtype=bf16")
    assert identity(config(*queue, "gradient_weights=[]")) == identity(config(*reuse))
    assert identity(config(*reuse, "gradient_weights=[1.0]"))["predictor"]["dtype"] == "bf16"


def test_gradient_weights_that_nothing_reads_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"gradient_weights=\[1\.2\]: must be empty with predictor=taylor"):
        validate(config("method=taylorseer", "gradient_weights=[1.2]"))


@pytest.mark.parametrize("method", ["l2c", "smoothcache", "teacache", "magcache"])
@pytest.mark.parametrize("value", ["nan", "inf", "-0.1"])
def test_a_threshold_must_be_one(method: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"schedule\.threshold={value}: must be a finite number of at least 0"):
        validate(config(f"method={method}", f"schedule.threshold={value}"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cache_ratio=1", r"cache_ratio=1\.0: must be in \[0, 1\)"),
        ("cache_ratio=-0.1", r"cache_ratio=-0\.1: must be in \[0, 1\)"),
        ("cache_ratio=nan", r"cache_ratio=nan: must be in \[0, 1\)"),
        ("steps=1", r"steps=1: must be in \[2, 1000\]"),
        (
            "sampler=euler",
            r"sampler=euler: must be one of ddim, ddpm, dpm_solver, unipc with model\.obj",
        ),
        (
            "model=digits_flow sampler=ddim",
            r"sampler=ddim: must be one of euler, heun, midpoint with",
        ),
        ("model.objective=score", r"model\.objective=score: must be one of diffusion, flow"),
        ("sampler=dpm_solver sampler.order=4", r"sampler\.order=4: must be one of 2, 3"),
        ("sampler=unipc sampler.spacing=karras", r"sampler\.spacing=karras: must be one of linear, logsnr"),
        ("model=digits_flow sampler=heun evaluations=5", "evaluations=5: must be a multiple of 2 with sampler=heun"),
        ("model=digits_flow sampler=heun method=teacache", "schedule=teacache: not supported with sampler=heun"),
        ("model=digits_flow sampler=midpoint method=l2c", "schedule=l2c: not supported with sampler=midpoint"),
        (
            "decision=uniform",
            "decision=uniform: must be one of dicache, easycache, first_block, seacache, teacache, ver",
        ),
        ("decision=verify schedule=fora", "decision=verify: is a method, and schedule=fora another; must be one of th"),
        ("decision=verify site=stack", "site=stack: must be branch with schedule=verify"),
        ("decision=verify model=digits_flow sampler=heun", "schedule=verify: not supported with sampler=heun"),
        ("decision=verify schedule.min_taylor_steps=9", r"max_taylor_steps=8: must be at least min_taylor_steps=9"),
        ("decision=verify schedule.min_taylor_steps=0", r"schedule\.min_taylor_steps=0: must be at least 1"),
        ("decision=verify schedule.base_threshold=inf", r"schedule\.base_threshold=inf: must be a finite number"),
        ("decision=verify schedule.decay_rate=1.1", r"schedule\.decay_rate=1\.1: must be in \[0, 1\]"),
        ("decision=verify predictor.order=-1", r"predictor\.order=-1: must be at least 0"),
        ("schedule=verify predictor=learned", "predictor=learned: must have a schedule of fixed steps, .*, not verify"),
        ("decision=dicache schedule=uniform", "decision=dicache: is a method, and schedule=uniform another"),
        ("decision=dicache method=goc", "decision=dicache: is a method, and method=goc another"),
        ("method=first_block site=branch", "site=branch: must be stack with schedule=first_block"),
        ("method=reuse_stack predictor=probe_aligned", "predictor=probe_aligned: must have schedule=dicache"),
        ("method=dicache schedule.first_blocks=0", r"schedule\.first_blocks=0: must be at least 1"),
        ("evaluations=1", r"evaluations=1: must be in \[2, 1000\]"),
        ("inflection_scope=block", "inflection_scope=block: must be one of step, cell"),
        ("correct_steps=[3,20]", r"correct_steps=\[3, 20\]: must be steps in \[1, 19\]"),
        ("correct_steps=[0]", r"correct_steps=\[0\]: must be steps in \[1, 19\]"),
        ("gradient_weights=[inf]", r"gradient_weights=\[inf\]: must be finite numbers"),
        ("num_samples=1", "num_samples=1: must be at least 2 for the metric fid"),
        ("num_samples=0", "num_samples=0: must be at least 1"),
        ("inflection_threshold=nan", "inflection_threshold=nan: must be a finite number, or null"),
        ("inflection_threshold=inf", "inflection_threshold=inf: must be a finite number, or null"),
        ("name=../../x", r"name=\.\./\.\./x: must be the name of a folder below outputs/, without \.\."),
        ("name=/tmp/x", "name=/tmp/x: must be the name of a folder below outputs/"),
        ("name=''", "name=: must be the name of a folder below outputs/"),
        ("metrics=[fid,lpips]", "metrics=lpips: must be one of isc, fid, sfid, kid, prc"),
        ("batch_size=0", "batch_size=0: must be at least 1"),
        ("seed=-1", "seed=-1: must be at least 0"),
        ("cfg_channels=0", "cfg_channels=0: must be at least 1"),
        ("site=block", "site=block: must be one of branch, stack"),
        ("clock=seconds", "clock=seconds: must be one of step, logsnr"),
        ("model.num_heads=5", r"model\.hidden_size=64: must be a multiple of num_heads"),
    ],
)
def test_settings_that_cannot_be_run_say_key_value_and_what_is_allowed(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        validate(config(*override.split()))
    assert "\n" not in str(error.value)


def test_a_budget_of_evaluations_is_the_run_of_so_many_steps() -> None:
    heun = ("model=digits_flow", "sampler=heun")
    assert run_id(config(*heun, "evaluations=20")) == run_id(config(*heun, "steps=10"))
    assert config(*heun, "evaluations=20").way.num_evaluations == 20
    assert run_id(config("evaluations=7")) == run_id(config("steps=7"))
    assert run_id(config(*heun)) != run_id(config("model=digits_flow"))
    correct = config(*heun, "steps=10", "correct_steps=[19]")
    validate(correct)  # a mask's first axis is the evaluation


def test_solvers_of_other_settings_are_other_runs_and_a_familys_name_is_none() -> None:
    solvers = ["sampler=dpm_solver", "sampler=dpm_solver sampler.order=3", "sampler=unipc sampler.spacing=logsnr"]
    assert len({run_id(config(*solver.split())) for solver in ["sampler=ddim", *solvers]}) == 4
    assert run_id(config("model.family=null")) == run_id(config())


def test_the_parts_hold_every_key_once_and_identity_is_two_of_them() -> None:
    parts = [Way, Measurement, Execution, Output]
    keys = [field.name for part in parts for field in fields(part)]
    assert sorted(keys) == sorted(set(keys))
    own = {f.name for part in (Measurement, Way) for f in fields(part)}
    # which became steps; as they were before they were settings
    left_out = {"evaluations", "inflection_signal", "class_labels", "selection"}
    pipeline = config("model=pipeline", "model.pipeline=x", "prompts=y")
    for found, others in (
        (config(), {"prompts"}),
        (pipeline, {"vae", "vae_batch_size", "cfg_channels", "class_labels"}),
    ):
        others = others | set(OF_GUIDANCE)
        assert flat(found).keys() == set(keys) - others - {"plugins", "graphs"}  # said where there are any
        assert identity(found).keys() == own - left_out - others


def test_a_pipelines_settings_are_not_a_denoisers() -> None:
    pipeline = config("model=pipeline", "model.pipeline=a/b", "prompts=y")
    validate(pipeline)
    assert pipeline.measurement.model.name == "b"
    assert {"pipeline", "call", "clip", "blip"} <= flat(pipeline)["model"].keys()
    assert not {"checkpoint", "input_size", "routers"} & flat(pipeline)["model"].keys()
    assert not {"pipeline", "call", "clip", "blip"} & flat(config())["model"].keys()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("model.pipeline=null", "model.pipeline=None: must be a folder in diffusers' format, or its name on the hub"),
        ("prompts=null", "prompts=None: must be a text file with a prompt a line"),
        ("graphs=true", "graphs=True: must be auto or false with model.objective=pipeline"),
        ("sampler=ddim", r"sampler=ddim: must be one of scheduler with model.objective=pipeline \(b\)"),
        ("vae=ema", "vae=ema: must be null with model.objective=pipeline, which has its own"),
        ("method=l2c", "schedule=l2c: not supported with model.objective=pipeline"),
        ("method=searched_learned", "predictor=learned: not supported with model.objective=pipeline"),
        ("method=l2p", "predictor=l2p: not supported with model.objective=pipeline"),
        ("converged_samples=8", "converged_samples=8: must be 0 or null with model.objective=pipeline"),
        ("metrics=[fid]", r"model.extractor=null: must be named for metrics=\[fid\]"),
        ("metrics=[fid] model.extractor=inception", r"model.reference=null: must be named for metrics=\[fid\]"),
        ("metrics=[clip]", r"model.clip=null: must be named for metrics=\[clip\]"),
        ("metrics=[clip_iqa]", r"model.clip=null: must be named for metrics=\[clip_iqa\]"),
        ("metrics=[blip_itm] model.clip=x", r"model.blip=null: must be named for metrics=\[blip_itm\]"),
        ("+model.call.generator=1", "model.call.generator=1: must not be there; seed decides it"),
    ],
)
def test_what_a_pipeline_cannot_have_is_named(overrides: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(config("model=pipeline", "model.pipeline=a/b", "prompts=y", *overrides.split()))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prompts=y", "prompts=y: must be null with model.objective=diffusion; model=pipeline has it"),
        ("model.pipeline=x", "model.pipeline=x: must be null with model.objective=diffusion; model=pipeline has it"),
        ("metrics=[clip]", "metrics=clip: not supported with digits, which has no prompts"),
        ("sampler=scheduler", "sampler=scheduler: must be one of ddim, ddpm, dpm_solver, unipc with"),
        ("model.reference=null", "model.reference=null: must be named for"),
    ],
)
def test_what_only_a_pipeline_has_is_refused_elsewhere(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(config(override))


def test_what_guidance_saves_is_in_a_ways_name_and_identity_where_it_saves_any() -> None:
    ways = {
        "goc": (),
        "goc+cfg0.5": ("cfg_cache=0.5",),
        "goc+cfg0.5linear": ("cfg_cache=0.5", "cfg_cache_predictor=linear"),
        "goc+cfg0.5linear-from3": ("cfg_cache=0.5", "cfg_cache_predictor=linear", "cfg_cache_start=3"),
        "goc+cfg0.50000001": ("cfg_cache=0.50000001",),
        "goc+interval0.3-5": ("guidance_interval=[0.3,5]",),
        "goc+interval0.3-5+cfg0.5": ("guidance_interval=[0.3,5]", "cfg_cache=0.5"),
        "interval0.3-5": ("guidance_interval=[0.3,5]", "method=none"),
        "cfg0.5": ("cfg_cache=0.5", "method=none"),
        "none": ("method=none",),
    }
    made = {name: config("cfg_scale=4", *settings) for name, settings in ways.items()}
    assert [label(own.way) for own in made.values()] == list(ways)
    assert len({run_id(own) for own in made.values()}) == len(ways)
    assert not {key for key in flat(made["goc"]) if key.startswith(("cfg_cache", "guidance"))}
    assert identity(made["goc+cfg0.5"])["cfg_cache_predictor"] == "reuse"
    assert identity(config("cfg_cache=0", "cfg_cache_predictor=linear", "cfg_cache_start=2")) == identity(config())


def test_folders_keep_the_names_they_had() -> None:
    """Of the version before settings had parts: a finished run is found again."""
    old = (
        "model.name=digits",
        "model.checkpoint=asset:digits/denoiser.safetensors",
        "model.routers='asset:digits/router-{sampler}{steps}.pt'",
    )
    assert run_id(config(*old)) == "goc-ddim20-r0.5-c986a282"
    assert run_id(config(*old, "method=taylorseer", "steps=50", "cfg_scale=1.5")) == "taylorseer-ddim50-r0.5-33dc6784"
    assert run_id(config(*old, "compile=true")) == "goc-ddim20-r0.5-2ef71d87"
