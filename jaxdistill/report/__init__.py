"""Reports: HTML pages, and the same tables on the console."""

from jaxdistill.report.console import print_previews as print_previews
from jaxdistill.report.console import print_samples as print_samples
from jaxdistill.report.console import print_table as print_table
from jaxdistill.report.heat_map import HeatMap as HeatMap
from jaxdistill.report.html import escape_html as escape_html
from jaxdistill.report.html import render_definitions as render_definitions
from jaxdistill.report.html import render_document as render_document
from jaxdistill.report.html import render_sample as render_sample
from jaxdistill.report.html import render_table as render_table
from jaxdistill.report.quantities import MISSING as MISSING
from jaxdistill.report.quantities import QUANTITIES as QUANTITIES
from jaxdistill.report.quantities import Comparison as Comparison
from jaxdistill.report.quantities import Quantity as Quantity
from jaxdistill.report.quantities import Sample as Sample
from jaxdistill.report.quantities import TableRow as TableRow
from jaxdistill.report.quantities import format_bytes as format_bytes
from jaxdistill.report.quantities import format_fixed as format_fixed
from jaxdistill.report.quantities import format_percent as format_percent
from jaxdistill.report.quantities import strip_control_characters as strip_control_characters
from jaxdistill.report.quantities import table_rows as table_rows
from jaxdistill.report.run_report import RunReport as RunReport
from jaxdistill.report.run_report import read_metrics as read_metrics
from jaxdistill.report.run_report import write_report as write_report
from jaxdistill.report.svg import draw_intervals as draw_intervals
from jaxdistill.report.svg import to_standalone_svg as to_standalone_svg
from jaxdistill.report.training_curves import training_effort as training_effort
