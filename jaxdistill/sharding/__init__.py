"""Shardings by name: the mesh, and the one table from logical axes to mesh axes."""

from jaxdistill.sharding.mesh import MeshConfig as MeshConfig
from jaxdistill.sharding.mesh import make_mesh as make_mesh
from jaxdistill.sharding.rules import RULES as RULES
from jaxdistill.sharding.rules import batch_sharding as batch_sharding
from jaxdistill.sharding.rules import num_batch_shards as num_batch_shards
from jaxdistill.sharding.rules import replicated as replicated
from jaxdistill.sharding.rules import shardings as shardings
from jaxdistill.sharding.rules import undivided as undivided
