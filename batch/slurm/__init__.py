"""The batch adapter for Slurm. No word of Slurm stands above this room."""
