"""The machine: devices, memory, files that are whole or absent, errors of one line, Slurm's jobs."""
