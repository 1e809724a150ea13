"""Loss functions on arrays: one float32 value per position, in nats, not reduced further."""

from jaxdistill.losses.binary_cross_entropy import binary_cross_entropy as binary_cross_entropy
from jaxdistill.losses.divergences import forward_kl as forward_kl
from jaxdistill.losses.divergences import jensen_shannon as jensen_shannon
from jaxdistill.losses.divergences import reverse_kl as reverse_kl
from jaxdistill.losses.divergences import skew_kl as skew_kl
from jaxdistill.losses.divergences import skew_reverse_kl as skew_reverse_kl
from jaxdistill.losses.divergences import total_variation as total_variation
from jaxdistill.losses.sinkhorn import entropic_transport_cost as entropic_transport_cost
from jaxdistill.losses.sorted_difference import BoundedValue as BoundedValue
from jaxdistill.losses.sorted_difference import sorted_difference as sorted_difference
from jaxdistill.losses.sorted_difference import (
    sorted_difference_adaptive as sorted_difference_adaptive,
)
from jaxdistill.losses.sorted_difference import sorted_difference_top_k as sorted_difference_top_k
from jaxdistill.losses.token_distances import cosine_distance as cosine_distance
from jaxdistill.losses.token_distances import normalised_edit_distance as normalised_edit_distance
from jaxdistill.losses.vocab_buckets import bucket_log_probs as bucket_log_probs
from jaxdistill.losses.vocab_buckets import bucket_max_logits as bucket_max_logits
