"""The kinds of model that a run may be of; each says its files, and loads them."""

import torch

from goc.config import Config, Measurement, ModelConfig
from goc.metrics.backbones import timm_version
from goc.metrics.features import load_extractor
from goc.runs.denoiser import LoadedDenoiser
from goc.runs.loaded import Loaded
from goc.runs.pipeline import LoadedPipeline
from goc.runs.sources import Source, Sources, weights_of_extractor
from goc.system.files import resolve


def kind_of(model: ModelConfig) -> type[Loaded]:
    """A denoiser of this project, or a pipeline of diffusers."""
    return LoadedPipeline if model.is_pipeline else LoadedDenoiser


def sources_of(measurement: Measurement) -> Sources:
    """Find all files of a measurement; raises GocError naming the first that is missing, and how to get it."""
    model = measurement.model
    files, weights = {**kind_of(model).files(measurement)}, weights_of_extractor(model)
    reference = None if model.reference is None or weights is None else resolve(model.reference)
    files |= {"extractor": None if weights is None else Source(weights)}
    sources = Sources(files, reference, timm_version(model.extractor or ""))
    sources.weights()  # as the files are now
    return sources


def load(config: Config, sources: Sources, device: torch.device) -> Loaded:
    """Load a run's files to a device; raises GocError for a damaged one, or one that does not fit."""
    model, extractor = config.measurement.model, None
    if model.extractor is not None:
        extractor = load_extractor(model.extractor, sources.path("extractor"), device)
    return kind_of(model).load(config, sources, device, extractor)
