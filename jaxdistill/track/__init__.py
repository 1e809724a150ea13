"""Trackers of a run's metrics (console, `metrics.jsonl`, TensorBoard) and a progress bar."""

from jaxdistill.track.metric_records import read_records as read_records
from jaxdistill.track.progress import Progress as Progress
from jaxdistill.track.tracker import ConsoleTracker as ConsoleTracker
from jaxdistill.track.tracker import JsonlTracker as JsonlTracker
from jaxdistill.track.tracker import TensorBoardTracker as TensorBoardTracker
from jaxdistill.track.tracker import TrackConfig as TrackConfig
from jaxdistill.track.tracker import Tracker as Tracker
from jaxdistill.track.tracker import open_trackers as open_trackers
