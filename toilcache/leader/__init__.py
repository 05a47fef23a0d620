"""The leader: which job runs when, what becomes of it, and when the workflow is done.

Knows the job store and the verbs of a batch adapter. Must not know workers, schedulers or containers.
"""
