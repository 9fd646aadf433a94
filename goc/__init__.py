"""Benchmarking feature caching for diffusion transformers: Gradient-Optimized Cache and its peers."""

from goc import _torchvision  # noqa: F401  (must run before anything imports timm or torch-fidelity)

__version__ = "0.1.0"
