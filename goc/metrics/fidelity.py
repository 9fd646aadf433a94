"""What is used of torch-fidelity."""

from torch_fidelity import FeatureExtractorBase, register_feature_extractor
from torch_fidelity.defaults import DEFAULTS
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torch_fidelity.metric_kid import kernel_mmd
from torch_fidelity.utils import create_feature_extractor

__all__ = [
    "DEFAULTS",
    "URL_INCEPTION_V3",
    "FeatureExtractorBase",
    "FeatureExtractorInceptionV3",
    "create_feature_extractor",
    "fid_statistics_to_metric",
    "kernel_mmd",
    "register_feature_extractor",
]
