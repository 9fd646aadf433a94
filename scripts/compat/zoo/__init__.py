"""The zoo: every transformer class of diffusers, tiny; one file for what is built alike."""
