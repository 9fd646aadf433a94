"""The plan of a run's method on its pipeline."""

from goc.config.settings import Way
from goc.pipelines.generation import PipelineGeneration
from goc.pipelines.method import uncalibrated_plan
from goc.pipelines.session import PipelineError
from goc.plan import Plan


def pipeline_plan(way: Way, generation: PipelineGeneration) -> Plan:
    """A way's plan for the calls of an uncached generation. Raises PipelineError or ConfigError."""
    if way.schedule.calibrates():
        raise PipelineError(f"schedule={way.schedule.name}: is measured in a calibration, which pipelines have none of")
    if way.inflection_threshold is not None:
        raise PipelineError(
            f"inflection_threshold={way.inflection_threshold:g}: is compared with what a calibration measures, which "
            "pipelines have none of; must be null"
        )
    return uncalibrated_plan(way, generation.calls.run("stack" if way.site == "stack" else "branch"))
