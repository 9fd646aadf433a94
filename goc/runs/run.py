"""One run, from a config to result.json: load, plan, generate, measure, write."""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from goc.config import Config, flat, identity, label, validate
from goc.config.identity import way_files
from goc.config.settings import CONVERGED_SAMPLES, Measurement
from goc.config.tuning import tuned_on
from goc.metrics.features import Extractor
from goc.metrics.keep import KeepFeatures
from goc.metrics.lpips import lpips_sha256
from goc.metrics.registry import PLUGINS, field_of, plugins_of
from goc.planning.plan import Plan
from goc.report.result import Result
from goc.report.results import Influence, claim_folder, compared_samples, measurement_of, read_result, sole_run
from goc.runs.kinds import load, sources_of
from goc.runs.loaded import Loaded
from goc.runs.made import LPIPS
from goc.runs.measure import Generated, leave, measure
from goc.runs.second import REFERENCE as SECOND_REFERENCE
from goc.runs.second import Second
from goc.runs.sources import Sources, require_same
from goc.sampling.generate import generate
from goc.sampling.generation import SampleSource
from goc.sampling.labels import given_labels
from goc.sampling.shards import SampleSet
from goc.sampling.shared import shared_path
from goc.sampling.workers import Workers, join
from goc.system.device import choose_device, configure
from goc.system.errors import ConfigError, memory_for
from goc.system.files import content_key
from goc.system.memory import peak_memory, reset_peak_memory

log = logging.getLogger(__name__)

TRACKING = ("tracker", "wandb", "plugins", "offload")  # settings that change nothing in a run's folder
REFERENCE = "reference_sha256"  # of a result's measurement


def run(config: Config, folder: Path, notes: Sequence[str] = ()) -> Result | None:
    """Carry out one run in its folder and return its result; a finished run is only read back.

    Raises GocError for problems the user can solve. A stopped run goes on where it was when it is started again. With
    several workers, those that do not lead return None. notes: warnings to give before anything is generated.
    """
    validate(config)
    sources = sources_of(config.measurement)
    workers = join(config.execution.worker_timeout_s)
    second = Second.of(config.measurement.model, config.output.metrics)
    result = read_result(folder)
    if result is None or not is_result_of(result, config, sources, second) or not has_influence(folder, result):
        own = {**identity(config), **sources.weights()}
        with sole_run(folder) if workers.leads else contextlib.nullcontext():
            if workers.leads:
                claim_folder(folder, own)
            workers.agree("the config or the weights", content_key([identity(config), sources.weights()]))
            with memory_for(f"batch_size={config.way.batch_size}"):
                carry_out(config, folder, sources, second, workers, notes)
        return Result.load(folder) if workers.leads else None
    return Result(folder, result) if workers.leads else None


def is_result_of(result: dict[str, Any], config: Config, sources: Sources, second: Second | None = None) -> bool:
    """Whether a result is this config's, on the same weights, references and perceptual distance."""
    there, here = (
        {key: value for key, value in settings.items() if key not in TRACKING}
        for settings in (result["config"], flat(config))
    )
    measured = measurement_of(result)
    if result.get(PLUGINS, {}) != plugins_of(config.output.metrics):
        return False
    weights = sources.weights() | ({} if second is None else second.said())
    if there != here or any(measured.get(name) != value for name, value in weights.items()):
        return False
    # gigabytes are read for these, so they are asked for last, and only where the numbers depend on them; of what is
    # not there any more, the numbers are still right
    now_and_then = [(lpips_sha256, result.get(LPIPS)), (lambda: sources.reference_sha256, measured.get(REFERENCE))]
    if second is not None:
        now_and_then.append((second.reference_sha256, measured.get(SECOND_REFERENCE)))
    return all(then is None or now() in (None, then) for now, then in now_and_then)


def has_influence(folder: Path, result: dict[str, Any]) -> bool:
    """Whether what each sample contributes lies beside a result; if not, it is made again from the shards."""
    try:
        Influence(folder, result)
    except ValueError as error:
        log.warning("%s: %s: made again", folder, error)
        return False
    return True


def carry_out(
    config: Config, folder: Path, sources: Sources, second: Second | None, workers: Workers, notes: Sequence[str]
) -> None:
    """Make what is missing of a run together with the other workers; the leader measures it and writes its files."""
    execution = config.execution
    device = choose_device(execution.device, workers.local_rank)
    configure(device, config.measurement.precision, execution.deterministic, execution.threads)
    loaded = load(config, sources, device)
    sources.require_unchanged()
    # before anything is generated in vain
    reference = loaded.reference(sources.reference, config.output) if workers.leads else None
    extractor, second_reference = None, None
    if second is not None:
        if loaded.videos:
            raise ConfigError(f"metrics={','.join(config.output.metrics)}: not supported with videos")
        extractor = second.load(device)
        if workers.leads:
            second_reference = loaded.second_reference(second.reference, extractor, config.output)
    plan = loaded.plan()
    require_unchanged(config)
    if workers.leads:
        warn_of_tuning(config)
        warn_of_labels(config.measurement)
        for note in notes:
            log.warning("%s", note)
        if device.type == "cuda":
            for setting, why in config.chosen.items():
                log.info("%s=auto: %s", setting, why)
    generated = generate_all(config, folder, sources, workers, loaded, extractor, plan)
    if workers.leads:
        hashes = {**sources.weights(), REFERENCE: None if reference is None else reference.sha256}
        if second is not None and second_reference is not None:
            hashes |= {**second.said(), SECOND_REFERENCE: second_reference.sha256}
        solution = None
        if count := converged_samples(config):
            solution = loaded.converged(count)
        result, influence = measure(
            config, folder, generated, reference, second_reference, solution, hashes, workers.count
        )
        leave(result, influence, generated.samples, config.way, config.output)


def generate_all(
    config: Config,
    folder: Path,
    sources: Sources,
    workers: Workers,
    loaded: Loaded,
    second: Extractor | None,
    plan: Plan,
) -> Generated:
    """Generate the run's samples, and before them the uncached ones that they are compared with.

    second: another extractor, whose features of the samples are kept as well.
    """
    measurement, way, output, uncached = config.measurement, config.way, config.output, loaded.uncached
    cache_dir = Path(output.cache_dir)
    caching = plan.spares
    compared = compared_samples(measurement.num_samples, output.distance_samples, way.batch_size)
    kept = max(compared, converged_samples(config))
    scores = loaded.scores(output.metrics)
    fields = {field_of(name): score for name, score in scores.items()}
    keep = KeepFeatures(loaded.extractor, kept, output.save_images != "none", loaded.videos, fields, second)
    key = {**loaded.samples_key(), **sources.weights()}
    count = compared if caching else measurement.num_samples
    uncached_samples = SampleSet(shared_path(cache_dir, "uncached", key), count, way.batch_size, content_key(key))
    reset_peak_memory(uncached.device)
    made = generate(uncached, uncached_samples, keep, workers)
    cached: SampleSource = uncached
    samples = uncached_samples
    if caching:
        hint = way.predictor.divergence_hint
        cached = loaded.cached(plan, label(way), hint)
        own = content_key({**identity(config), **sources.weights(), "plan": plan.digest()})
        samples = SampleSet(folder / "samples", measurement.num_samples, way.batch_size, own)
        reset_peak_memory(uncached.device)
        made = generate(cached, samples, keep, workers)
    peak: dict[str, int | None] = {"peak_memory_bytes": None}
    if made:
        peak |= peak_memory(uncached.device)
    scored = {name: field_of(name) for name in scores}
    made_of = (samples, uncached_samples, keep.fields, scored, loaded.videos, keep.second_field)
    return Generated(*made_of, plan=plan, cached=cached, uncached=uncached, peak_memory=peak)


def require_unchanged(config: Config) -> None:
    """Raise GocError if a file that the way's method was read from has changed since the config was made."""
    require_same(config.files, way_files(config.way, config.measurement))


def warn_of_tuning(config: Config) -> None:
    """Say so where a run's method was tuned on samples that are scored."""
    seed = config.measurement.seed
    for what, count in tuned_on(config.way, config.measurement).items():
        log.warning(
            "seed=%d: the method was tuned on %d of the samples that are scored (by %s), so that its "
            "numbers flatter it; choose another seed",
            seed,
            count,
            what,
        )


def warn_of_labels(measurement: Measurement) -> None:
    """Say so where samples are fewer than the labels that they are given."""
    labels = given_labels(measurement.class_labels, measurement.model.num_classes)
    if len(labels) > (samples := measurement.num_samples):
        log.warning("num_samples=%d: only the first %d of %d class_labels are used", samples, samples, len(labels))


def converged_samples(config: Config) -> int:
    """How many samples' distance to the converged solution is measured."""
    wanted = config.output.converged_samples
    if wanted is None:
        wanted = CONVERGED_SAMPLES if config.way.sampler.deterministic else 0
    return min(wanted, config.measurement.num_samples)
