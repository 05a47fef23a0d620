"""Python runs this at the start of each process that has this folder on its PYTHONPATH."""

import fault_steps

fault_steps.install_from_environment()
