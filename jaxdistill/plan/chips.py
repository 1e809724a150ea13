"""Chips: what their vendors state of memory, speed and links."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """Stated figures of a chip; None where they are not known.

    Attributes:
        hbm_bytes: Memory that a program may use.
        flops: Matrix products in bfloat16, floating-point operations a second.
        hbm_bandwidth: Bytes a second from and to its memory.
        link_bandwidth: Bytes a second that it sends to others within its slice, over all links.
    """

    name: str
    hbm_bytes: int | None = None
    flops: float | None = None
    hbm_bandwidth: float | None = None
    link_bandwidth: float | None = None


_GIB = 2**30

# https://docs.cloud.google.com/tpu/docs (system architecture of each version, November 2026);
# links: half of the stated bidirectional bandwidth. The compiler states the usable memory.
CHIPS = {
    "v5e": Chip("TPU v5e", int(15.75 * _GIB), 197e12, 819e9, 100e9),
    "v5p": Chip("TPU v5p", int(95.74 * _GIB), 459e12, 2765e9, 300e9),
    "v6e": Chip("TPU v6e", int(31.25 * _GIB), 918e12, 1600e9, 200e9),
    # https://www.nvidia.com/en-us/data-center/h100/ and h200: SXM, dense, half of NVLink's total.
    "h100": Chip("NVIDIA H100", 80 * 10**9, 989e12, 3350e9, 450e9),
    "h200": Chip("NVIDIA H200", 141 * 10**9, 989e12, 4800e9, 450e9),
}
"""Chips by the name that a topology begins with."""

CPU = Chip("CPU")
