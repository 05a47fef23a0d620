"""What the engine knows about the machine it runs on.

This package knows process identity, the node's directories and the machine's size. It must not know
jobs, job stores or batch systems. Import the modules themselves: this file stays empty so that a worker
pays only for what it uses.
"""
