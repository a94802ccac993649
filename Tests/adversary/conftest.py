"""The same fixtures and reports as the system tests'."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "system"))

from harness.fixtures import *  # noqa: E402, F403
