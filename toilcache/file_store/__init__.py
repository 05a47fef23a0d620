"""What a running job sees of the workflow's files: the interface, and the stores behind it.

Knows the job store below it and the job that runs. Must not know leaders, workers, adapters or containers.
"""
