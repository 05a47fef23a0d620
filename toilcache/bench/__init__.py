"""The benchmark command: measures this engine, and peers beside it in the same run.

Knows how to run whole programs and time them. Nothing else in the package may import it.
"""
