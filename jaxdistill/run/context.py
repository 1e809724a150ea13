"""Inputs of a run that stay the same while it trains."""

from dataclasses import dataclass

from jaxdistill.data import PreparedData
from jaxdistill.run.check import Inspection
from jaxdistill.run.config import RunConfig
from jaxdistill.run.folder import RunFolder


@dataclass(frozen=True)
class RunContext:
    """Config, folder, inspected models and tokenized rows of a run."""

    config: RunConfig
    folder: RunFolder
    inspection: Inspection
    prepared: PreparedData
