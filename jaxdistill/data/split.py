"""Which rows are held out: decided by what a row asks, not by luck or by order."""

import hashlib


def is_heldout(key: str, *, fraction: float, seed: int) -> bool:
    """Whether rows of this key are kept from training.

    It depends on nothing but the arguments, so a row keeps its side when others come and go, when
    the file is sorted, and when a teacher answers anew. A larger fraction only adds rows.

    Args:
        key: A row's `key`.
        fraction: Of all keys, how many are held out.
        seed: Another number, another choice.
    """
    digest = hashlib.sha256(f"{seed}\n{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64
