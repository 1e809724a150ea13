"""Peer of `ours/jsd.py`: Liger's chunked loss. Arguments: VOCAB_SIZE [compiled]."""

import sys

import shapes
import torch
from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
from timing import time_repeats

torch.manual_seed(0)
vocab_size = int(sys.argv[1])
student = torch.randn(shapes.JSD_POSITIONS, shapes.STUDENT_EMBED_DIM, requires_grad=True)
teacher = torch.randn(shapes.JSD_POSITIONS, shapes.TEACHER_EMBED_DIM)
matrix = (0.05 * torch.randn(vocab_size, shapes.STUDENT_EMBED_DIM)).requires_grad_()
teacher_matrix = 0.05 * torch.randn(vocab_size, shapes.TEACHER_EMBED_DIM)
labels = torch.zeros(shapes.JSD_POSITIONS, dtype=torch.long)
loss = LigerFusedLinearJSDLoss(
    # Liger computes the cross-entropy at any weight, 0 included, so both sides include it.
    weight_hard_loss=0.5,
    weight_soft_loss=0.5,
    beta=shapes.BETA,
    compiled="compiled" in sys.argv,
)


def compute_gradients() -> None:
    """Compute the mean loss and its gradients."""
    student.grad = matrix.grad = None
    value = loss(student, matrix, teacher, teacher_matrix, labels)
    (value[0] if isinstance(value, tuple) else value).backward()


time_repeats(compute_gradients, repeats=3, units=shapes.JSD_POSITIONS)
