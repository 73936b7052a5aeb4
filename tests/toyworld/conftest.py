"""The scripts under pipelines/toyworld are run by path; the tests import them the same way."""

import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "pipelines" / "toyworld"
sys.path.insert(0, str(SCRIPTS))
