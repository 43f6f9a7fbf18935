"""The bundled executors: this process, local worker processes, a Slurm cluster."""
