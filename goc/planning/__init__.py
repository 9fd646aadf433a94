"""A way's method on its model: which cells are cached, where they are corrected, and a cache that does it."""
