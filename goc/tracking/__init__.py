"""Trackers of finished runs: one CSV file for a study, or Weights & Biases in a process of its own."""
