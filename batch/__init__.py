"""Batch adapters: how ready jobs reach processors (installed and imported as ``toilcache.batch``).

Knows schedulers and local processes. Must not know the leader that drives it or how a worker runs a job.
"""
