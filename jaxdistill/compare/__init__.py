"""Comparisons: models beside each other on the same rows, and whether to change from the first."""

from jaxdistill.compare.comparison import compare as compare
from jaxdistill.compare.options import CompareOptions as CompareOptions
from jaxdistill.compare.options import make_options as make_options
