"""Studies: arms and seeds of one run, trained in turn and compared on the same held-out rows."""

from jaxdistill.study.config import StudyConfig as StudyConfig
from jaxdistill.study.config import read as read
from jaxdistill.study.runner import run as run
from jaxdistill.study.table import ArmResult as ArmResult
