"""Noise schedules, solvers and guidance; from seeds to shards of samples, resumable and shared by workers."""
