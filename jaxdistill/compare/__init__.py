"""Comparisons: models beside each other on the same rows, and whether to change from the first."""

from jaxdistill.compare.options import Options as Options
from jaxdistill.compare.options import options as options
from jaxdistill.compare.run import compare as compare
