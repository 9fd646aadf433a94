"""The help page: every setting with its meaning and default, every option, and the configuration as it stands."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass

from omegaconf import MISSING, OmegaConf

from goc.config.hydra import composed
from goc.config.known import CHOSEN, GROUPS
from goc.config.settings import Execution, Measurement, ModelConfig, Output, WandbConfig, Way
from goc.methods import METHODS
from goc.metrics.registry import METRICS
from goc.models.registry import MODELS
from goc.system.files import CONF


def _help_rows(cls: type, prefix: str = "") -> Iterator[str]:
    for f in fields(cls):
        text = f.metadata.get("help")
        if text is None or (prefix == "" and is_dataclass(f.type)):
            continue
        default = f.default_factory() if callable(f.default_factory) else f.default
        shown = "" if default is MISSING else f"  [{'null' if default is None else default}]"
        yield f"  {prefix + f.name:<26}{text}{shown}"


ENTRIES = {**GROUPS, "method": METHODS, "model": MODELS}


def _options() -> Iterator[str]:
    """A line for each group, with its options: files of conf/, and classes that are registered."""
    for group in sorted(CHOSEN):
        files = (path.stem for path in (CONF / group).glob("*.yaml"))
        yield f"  {group}: {', '.join(sorted({*files, *ENTRIES.get(group, ())}))}"


def help_page(overrides: Sequence[str]) -> str:
    """What `goc run --help` prints, with the configuration as overrides make it.

    Hydra's own page takes two seconds: it copies the whole configuration for each group.
    """

    def rows(cls: type, prefix: str = "") -> str:
        return "\n".join(_help_rows(cls, prefix))

    configuration = OmegaConf.to_yaml(composed(overrides))  # first, as overrides may name plugins
    groups = "\n".join(_options())
    return f"""Benchmark a feature cache on a diffusion transformer: generate images, score them, price them.

  python run.py                                    one run with the defaults
  python run.py cache_ratio=0.25 steps=50          another point
  python run.py -m method=reuse,goc cache_ratio=0.25,0.5,0.75   a sweep (-m): every combination

Settings (key=value) and their defaults:

== How the budget is spent ==
{rows(Way)}

== What is measured, equal in all rows of a table ==
{rows(Measurement)}

== Where and how it runs ==
{rows(Execution)}

== What is reported, and where to ==
{rows(Output)}

== Groups (group=option) ==
{groups}
  method=... is a published combination of schedule, predictor and selection.
  metrics=[...]: {", ".join(METRICS)}

== The model group's keys ==
{rows(ModelConfig, "model.")}

== With tracker=wandb ==
{rows(WandbConfig, "wandb.")}

== The configuration as it stands ==
{configuration}"""
