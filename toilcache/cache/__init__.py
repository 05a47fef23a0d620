"""The node cache: files that jobs read and write, kept once per node for all of its containers.

Knows files, references, jobs as (id, attempt) and space. Must not know what a job is, nor how a job store
keeps its files: it is handed functions for that.
"""
