"""What a process of a test loads before anything else when this folder is on its PYTHONPATH."""
