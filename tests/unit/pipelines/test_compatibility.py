"""The caches on transformers and pipelines of diffusers, one of a kind; scripts/compatibility.py tries all of them."""

from typing import Any

import pytest
from compat.checks import FAILED, LATE, REFUSED, RIGHT, WRONG, OfClass, Result, check_site
from compat.loop import Loop
from compat.pipes import OfPipeline, all_pipelines, build
from compat.special import TOO_LARGE
from compat.table import SITES, Row, reasons, untried, verdicts
from compat.tiny import Ask
from compat.zoo import ZOO

from goc.pipelines.forward_pass import Stream

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers deprecates what its own pipelines use
OTHERS: list[dict[str, Any]] = [{"ask": Ask(tokens=7, batch=2, size=12), "steps": 5}]
QUICK = [
    "AuraFlowTransformer2DModel", "CogVideoXTransformer3DModel", "Flux2Transformer2DModel",
    "Kandinsky5Transformer3DModel", "LTXVideoTransformer3DModel", "LatteTransformer3DModel", "SanaTransformer2DModel",
    "ZImageTransformer2DModel",
]  # fmt: skip
NO_TIMESTEP = "Cosmos3OmniTransformer", "MiniMaxMusic3RVQDepthDecoder", "RFD4ProteinaTransformer", "T5FilmDecoder"


def results_of(name: str) -> dict[str, str]:
    """What the checks give at each site."""
    if not ZOO[name].exists:
        pytest.skip(f"this diffusers has no {name}")
    called = OfClass(Loop(ZOO[name]), OTHERS, steps=4)
    results = {site: check_site(called, site) for site in SITES}
    return {site: f"{result.verdict} {result.why}".strip() for site, result in results.items()}


@pytest.mark.parametrize("name", QUICK)
def test_one_class_of_a_kind_is_right_at_both_sites(name: str) -> None:
    assert results_of(name) == dict.fromkeys(SITES, RIGHT)


@pytest.mark.nightly
@pytest.mark.parametrize("name", sorted(set(ZOO) - set(QUICK) - set(NO_TIMESTEP)))
def test_every_other_class_is_right_or_refused_when_the_cache_is_enabled(name: str) -> None:
    for result in results_of(name).values():
        assert result == RIGHT or result.startswith(f"{REFUSED} ")


@pytest.mark.parametrize("name", NO_TIMESTEP)
def test_what_has_no_timestep_is_refused_when_the_cache_is_enabled(name: str) -> None:
    for result in results_of(name).values():
        assert result.startswith(f"{REFUSED} {name}: its forward has no argument of the names")


def test_a_pipeline_with_a_controlnet_is_right_at_both_sites() -> None:
    called = OfPipeline(build("FluxControlNetPipeline"), [{"tokens": 7, "batch": 2}], steps=4)
    assert [check_site(called, site).verdict for site in SITES] == [RIGHT, RIGHT]


@pytest.mark.nightly
def test_every_pipeline_is_right_or_refused_when_the_cache_is_enabled() -> None:
    built, wrong = 0, {}
    for name in sorted(set(all_pipelines()) - set(TOO_LARGE)):
        try:
            called = OfPipeline(build(name))
            assert called.call().isfinite().all()
        except Exception:  # no tiny pipeline; docs/compatibility.md says why
            continue
        built += 1
        for site in SITES:
            result = check_site(called, site)
            if result.verdict not in (RIGHT, REFUSED):
                wrong[name, site] = result
    assert built > 100
    assert wrong == {}


def test_a_wrong_cache_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks are no formality: features that are off by a thousandth, and an error in a call, are seen."""
    called = OfClass(Loop(ZOO["SD3Transformer2DModel"]), OTHERS, steps=4)
    value = Stream.value
    monkeypatch.setattr(Stream, "value", lambda *args: None if (v := value(*args)) is None else 1.001 * v)
    wrong = check_site(called, "branch")
    assert wrong.verdict == WRONG
    assert wrong.why.startswith("same input: reuse is 0.000")
    monkeypatch.setattr(Stream, "value", lambda *args: [][0])
    assert check_site(called, "stack").verdict == FAILED
    monkeypatch.setattr(Stream, "value", value)
    assert check_site(called, "stack").verdict == RIGHT


def test_a_table_has_a_line_for_each_family_and_says_why() -> None:
    right = {site: Result(RIGHT) for site in SITES}
    late = {**right, "stack": Result(LATE, "B: `changed` | in place")}
    rows = [
        Row("B", "B", late),
        Row("A2", "A", right),
        Row("C", "C", missing="no tiny model yet"),
        Row("A1", "A", right),
    ]
    assert verdicts(rows, SITES, "classes") == [
        ("family", "classes", "branch", "stack"),
        ("A", "A1, A2", "right", "right"),
        ("B", "B", "right", "refused in the call"),
    ]
    assert reasons(rows, SITES)[1:] == [("stack", "refused in the call", "`` `changed` | in place ``", "B")]
    assert untried(rows)[1:] == [("C", "`no tiny model yet`")]
