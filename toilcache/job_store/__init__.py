"""Where a workflow keeps its jobs and files so that every node sees them.

The engine's upper layers know the verbs of `abstract`; `file_job_store` keeps them in a shared directory.
This package itself imports nothing, so that a worker pays for what it uses only.
"""
