"""What each dashboard shows. Names of metrics come from their declarations."""

from dashboards.boards.decode import decode
from dashboards.boards.farm import farm
from dashboards.boards.faults import faults
from dashboards.boards.scores import scores
from dashboards.boards.video import video
from dashboards.boards.workers import workers

BOARDS = (farm, video, workers, decode, faults, scores)
"""In the order of their links."""
