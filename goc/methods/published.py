"""The group `method`: published combinations of a schedule, a predictor and a selection, by the names they have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from goc.methods.base import PREDICTORS, SCHEDULES, into_blocks
from goc.system.registry import Registry

DEFAULT_SITE, DEFAULT_CLOCK, DEFAULT_SELECTION = "branch", "step", "none"


@dataclass(frozen=True)
class Method:
    """A combination that has a name.

    schedule, predictor, selection: options of these groups. about: one line of help. site, clock: as the settings of
    these names. paper: its arXiv number. settings: of the predictor, where the method is not its defaults.
    """

    schedule: str
    predictor: str
    about: str
    site: str = DEFAULT_SITE
    clock: str = DEFAULT_CLOCK
    paper: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    selection: str = DEFAULT_SELECTION

    @property
    def trained(self) -> bool:
        """Whether it needs something that was trained for the model."""
        return SCHEDULES[self.schedule].trained or PREDICTORS[self.predictor].trained

    @property
    def in_pipelines(self) -> bool:
        """Whether it works in a pipeline: nothing is trained for it, and it goes into no block."""
        return not (self.trained or into_blocks(SCHEDULES[self.schedule]))

    def node(self) -> dict[str, Any]:
        """What Hydra composes for it, in the package _global_."""
        chosen = [{"override /schedule": self.schedule}, {"override /predictor": self.predictor}]
        if self.selection != DEFAULT_SELECTION:
            chosen.append({"override /selection": self.selection})
        node: dict[str, Any] = {"defaults": chosen}
        if self.settings:
            node["predictor"] = dict(self.settings)
        return node | {
            key: getattr(self, key)
            for key, default in (("site", DEFAULT_SITE), ("clock", DEFAULT_CLOCK))
            if getattr(self, key) != default
        }


METHODS: Registry[Method] = Registry("method")


def add_method(name: str, method: Method, module: str) -> Method:
    """Enter a method under a name; `module` gives it."""
    named.cache_clear()
    return METHODS.add(name, method, module)


def name_of(schedule: str, predictor: Any, selection: str, site: str, clock: str) -> str:
    """What tables call a combination: the published name, or else its parts.

    predictor: its settings. Of them only those tell methods apart that a method sets.
    """
    kind = PREDICTORS[predictor.name]
    pinned = {key for method in METHODS.values() if method.predictor == predictor.name for key in method.settings}
    given = {key: getattr(predictor, key) for key in sorted(pinned) if getattr(predictor, key) != getattr(kind(), key)}
    selected = () if selection == DEFAULT_SELECTION else (selection,)
    parts = (schedule, predictor.name, *map(str, given.values()), *selected, site, clock)
    composed = "+".join(parts).removesuffix(f"+{DEFAULT_CLOCK}").removesuffix(f"+{DEFAULT_SITE}")
    return named().get((schedule, predictor.name, tuple(given.items()), selection, site, clock), composed)


@cache
def named() -> dict[tuple[Any, ...], str]:
    """Names of the methods by what they are made of."""
    return {
        (m.schedule, m.predictor, tuple(sorted(m.settings.items())), m.selection, m.site, m.clock): name
        for name, m in METHODS.items()
    }


GOC, TAYLORSEER = "2503.05156", "2503.06923"
COMPUTED = {"gradients": "computed"}
for _name, _method in {
    "none": Method("none", "reuse", "no cache: every feature of every step is computed"),
    "reuse": Method("uniform", "reuse", "evenly spread whole steps, reused: the rule-based baseline of the GOC paper"),
    "reuse_stack": Method("uniform", "reuse", "the same with one cell a step: what all blocks add", site="stack"),
    "goc": Method("uniform", "gradient_queue", "Gradient-Optimized Cache: uniform whole steps, a gradient queue, gated "
                  "at inflections", paper=GOC),
    "goc_stack": Method("uniform", "gradient_queue", "GOC with one cell a step: what all blocks together add to the "
                        "residual stream", site="stack"),
    "goc_logsnr": Method("uniform", "gradient_queue", "GOC with gradients taken against the noise level",
                         clock="logsnr"),
    "goc_stack_logsnr": Method("uniform", "gradient_queue", "both", site="stack", clock="logsnr"),
    "goc_anchored": Method("uniform", "gradient_queue", "GOC with gradients between computed features: does not "
                           "diverge at any ratio", settings=COMPUTED),
    "fora": Method("fora", "reuse", "every N-th step computed, its features reused; schedule.interval=N or the nearest "
                   "to cache_ratio", paper="2407.01425"),
    "fora_goc": Method("fora", "gradient_queue", "GOC on FORA's schedule"),
    "taylorseer": Method("taylorseer", "taylor", "Taylor expansion of the computed features; schedule.interval=N "
                         "predictor.order=O", paper=TAYLORSEER),
    "taylorseer_lite": Method("taylorseer", "taylor", "TaylorSeer with one cell a step", site="stack"),
    "taylorseer_logsnr": Method("taylorseer", "taylor", "TaylorSeer with derivatives against the noise level",
                                clock="logsnr"),
    "taylorseer_lite_logsnr": Method("taylorseer", "taylor", "both", site="stack", clock="logsnr"),
    "taylorseer_goc": Method("taylorseer", "gradient_queue", "the gradient queue on TaylorSeer's schedule"),
    "hicache": Method("taylorseer", "hicache", "TaylorSeer's schedule and differences, in scaled Hermite polynomials; "
                      "predictor.sigma", paper="2508.16984"),
    "foca": Method("taylorseer", "foca", "extrapolation by the mean of two slopes, on TaylorSeer's schedule",
                   paper="2508.16211"),
    "toca": Method("toca", "reuse", "tokens chosen by attention, age and place are computed in cached steps; "
                   "schedule.interval selection.ratio", selection="toca", paper="2410.05317"),
    "duca": Method("duca", "reuse", "ToCa, which computes nothing in every second cached step; schedule.interval "
                   "selection.ratio", selection="duca", paper="2412.18911"),
    "clusca": Method("taylorseer", "taylor", "TaylorSeer, where a token of each cluster is computed in cached steps; "
                     "schedule.interval predictor.order selection.clusters", selection="cluster", paper="2509.10312"),
    "l2c": Method("l2c", "reuse", "Learning-to-Cache: the cells that a learned router gives up, reused",
                  paper="2406.01733"),
    "l2c_goc": Method("l2c", "gradient_queue", "GOC on a learned router (the GOC paper, table 2)", paper=GOC),
    "smoothcache": Method("smoothcache", "reuse", "branches reused where calibration says that they change little",
                          paper="2411.10510"),
    "smoothcache_goc": Method("smoothcache", "gradient_queue", "GOC on SmoothCache's schedule"),
    "teacache": Method("teacache", "reuse", "skips a step while the first block's input has changed little; "
                       "schedule.threshold", site="stack", paper="2411.19108"),
    "first_block": Method("first_block", "reuse", "skips a step unless what the first block adds has changed much "
                          "(FBCache); schedule.threshold schedule.first_blocks", site="stack", paper="2510.05367"),
    "dicache": Method("dicache", "probe_aligned", "skips a step while what the first block gives has changed little; "
                      "schedule.threshold schedule.first_blocks", site="stack", paper="2508.17356"),
    "seacache": Method("seacache", "taylor", "skips a step while the network's input, filtered of noise, has changed "
                       "little; schedule.threshold", site="stack", settings={"order": 1}, paper="2602.18993"),
    "easycache": Method("easycache", "reuse", "skips the network while its output is expected to change little with "
                        "its input; schedule.threshold", site="stack", paper="2507.02860"),
    "speca": Method("verify", "taylor", "SpeCa: predicts until the last block, computed beside its prediction, was too "
                    "far from it; schedule.base_threshold predictor.order", settings={"order": 4},
                    paper="2509.11628"),
    "magcache": Method("magcache", "reuse", "skips steps while what the blocks add keeps its magnitude; "
                       "schedule.threshold", site="stack", paper="2506.09045"),
    "dynamic": Method("dynamic", "taylor", "whole steps by dynamic programming on calibrated feature errors (as CEM), "
                      "with a Taylor expansion", paper="2512.23258"),
    "dpcache": Method("dpcache", "taylor", "whole steps on the cheapest path of calibrated errors of what all blocks "
                      "add, with a Taylor expansion; schedule.first_steps", site="stack", paper="2602.22654"),
    "budcache": Method("budcache", "reuse", "whole steps found by annealing and hill climbing on calibration seeds, "
                       "reused", site="stack", paper="2606.13496"),
    "l2p": Method("taylorseer", "l2p", "weights on all values before, fitted to a calibration run", site="stack",
                  paper="2604.26365"),
    "chebbooster": Method("taylorseer", "barycentric", "barycentric extrapolation with Chebyshev weights; "
                          "predictor.length", paper="2608.23429"),
    "barycache": Method("taylorseer", "barycentric", "the same of what all blocks add, through two features; "
                        "predictor.length predictor.decay", site="stack", settings={"length": 2}, paper="2608.28670"),
    "searched": Method("searched", "taylor", "a schedule found on calibration seeds for this model and ratio, with a "
                       "Taylor expansion"),
    "halving": Method("halving", "taylor", "the same, from all that are known, as a surrogate proposes"),
    "searched_goc": Method("searched", "gradient_queue", "a searched schedule with the gradient queue between computed "
                           "features", settings=COMPUTED),
    "searched_learned": Method("searched", "learned", "a searched schedule with weights trained for each of its cached "
                               "steps (goc train weights)"),
    "front": Method("front", "learned", "schedules, weights of each cell and times found for several ratios at once "
                    "(goc train front): those closest to cache_ratio"),
}.items():  # fmt: skip
    add_method(_name, _method, __name__)
