"""Benchmarking feature caching for diffusion transformers: Gradient-Optimized Cache and its peers."""

__version__ = "0.1.0"
