"""The typed configuration: settings in four parts, their validation, a run's identity, and Hydra's view of it all.

Nothing here imports torch, so that help, completion and errors in the settings come at once.
"""

from goc.config.hydra import compose_config, from_hydra, register
from goc.config.identity import flat, identity, label, run_id
from goc.config.settings import Config, Execution, Measurement, ModelConfig, Output, WandbConfig, Way
from goc.config.validation import validate

__all__ = [
    "Config", "Execution", "Measurement", "ModelConfig", "Output", "WandbConfig", "Way", "compose_config", "flat",
    "from_hydra", "identity", "label", "register", "run_id", "validate",
]  # fmt: skip
