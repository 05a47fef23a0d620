"""toilcache, a container-first workflow engine with a node-wide file cache."""

__version__ = "0.1.0"
