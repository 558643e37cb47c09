"""How a stage gets run: as a local process, as a SLURM job, or simulated."""
