"""Plans: memory, time and exchanges of a run on chips that need not be there."""

from jaxdistill.plan.command import check_searchable as check_searchable
from jaxdistill.plan.command import largest_micro_batch as largest_micro_batch
from jaxdistill.plan.command import make_plans as make_plans
from jaxdistill.plan.command import parse_mesh as parse_mesh
from jaxdistill.plan.command import to_json as to_json
from jaxdistill.plan.estimate import Plan as Plan
from jaxdistill.plan.text import describe as describe
from jaxdistill.plan.topology import find_topology as find_topology
