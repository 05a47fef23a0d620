"""Container engines: how a command runs inside an image (installed and imported as ``toilcache.containers``).

Knows engines and their mounts. Must not know batch adapters, the leader or what runs inside the container.
"""
