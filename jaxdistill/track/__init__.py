"""Trackers of a run's metrics (console, `metrics.jsonl`, TensorBoard) and a progress bar."""

from jaxdistill.track.console import ConsoleTracker as ConsoleTracker
from jaxdistill.track.jsonl import JsonlTracker as JsonlTracker
from jaxdistill.track.progress import Progress as Progress
from jaxdistill.track.tensorboard import TensorBoardTracker as TensorBoardTracker
from jaxdistill.track.tracker import TrackConfig as TrackConfig
from jaxdistill.track.tracker import Tracker as Tracker
from jaxdistill.track.tracker import open_trackers as open_trackers
