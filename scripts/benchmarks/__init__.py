"""What scripts/benchmark.py measures with."""

import goc  # noqa: F401  (before what imports diffusers: it lets torchvision be imported)
