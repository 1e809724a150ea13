"""The same with Liger's chunked loss: arguments WORDS [compiled]."""

import sys

import shapes
import torch
from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
from measure import repeat

torch.manual_seed(0)
words = int(sys.argv[1])
student = torch.randn(shapes.JSD_ROWS, shapes.STUDENT_WIDTH, requires_grad=True)
teacher = torch.randn(shapes.JSD_ROWS, shapes.TEACHER_WIDTH)
matrix = (0.05 * torch.randn(words, shapes.STUDENT_WIDTH)).requires_grad_()
teacher_matrix = 0.05 * torch.randn(words, shapes.TEACHER_WIDTH)
labels = torch.zeros(shapes.JSD_ROWS, dtype=torch.long)
loss = LigerFusedLinearJSDLoss(
    # It forms the cross-entropy whatever its weight is: so both sides learn from it.
    weight_hard_loss=0.5,
    weight_soft_loss=0.5,
    beta=shapes.BETA,
    compiled="compiled" in sys.argv,
)


def work() -> None:
    """The mean and its gradients."""
    student.grad = matrix.grad = None
    value = loss(student, matrix, teacher, teacher_matrix, labels)
    (value[0] if isinstance(value, tuple) else value).backward()


repeat(work, repeats=3, units=shapes.JSD_ROWS)
