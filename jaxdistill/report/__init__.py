"""What a run has gained, to be read: a page of HTML, and the same tables for the console."""

from jaxdistill.report.comparison import QUANTITIES as QUANTITIES
from jaxdistill.report.comparison import Comparison as Comparison
from jaxdistill.report.comparison import Quantity as Quantity
from jaxdistill.report.comparison import Sample as Sample
from jaxdistill.report.comparison import fixed as fixed
from jaxdistill.report.comparison import megabytes as megabytes
from jaxdistill.report.comparison import percent as percent
from jaxdistill.report.comparison import printable as printable
from jaxdistill.report.comparison import rows as rows
from jaxdistill.report.console import ARROWS as ARROWS
from jaxdistill.report.console import print_comparison as print_comparison
from jaxdistill.report.console import print_samples as print_samples
from jaxdistill.report.console import print_table as print_table
from jaxdistill.report.curves import spent as spent
from jaxdistill.report.html import document as document
from jaxdistill.report.html import escaped as escaped
from jaxdistill.report.html import facts as facts
from jaxdistill.report.html import scrolled as scrolled
from jaxdistill.report.intervals import draw_intervals as draw_intervals
from jaxdistill.report.page import Report as Report
from jaxdistill.report.page import read_metrics as read_metrics
from jaxdistill.report.page import write as write
from jaxdistill.report.svg import standalone as standalone
