"""Denoisers, their checkpoints, and the decoders that turn latents into images."""
