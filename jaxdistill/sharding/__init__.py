"""The device mesh, and shardings by the names of logical axes."""

from jaxdistill.sharding.logical_axes import LOGICAL_AXIS_RULES as LOGICAL_AXIS_RULES
from jaxdistill.sharding.logical_axes import batch_sharding as batch_sharding
from jaxdistill.sharding.logical_axes import named_shardings as named_shardings
from jaxdistill.sharding.logical_axes import num_batch_shards as num_batch_shards
from jaxdistill.sharding.logical_axes import replicated_sharding as replicated_sharding
from jaxdistill.sharding.mesh import MeshConfig as MeshConfig
from jaxdistill.sharding.mesh import make_mesh as make_mesh
