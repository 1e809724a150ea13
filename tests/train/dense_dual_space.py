"""Dense dual-space distillation: projections between hidden states, and cross-model attention."""

import math
from typing import Any

import torch
from dense_divergences import kl
from dense_rows import Rows, Side, Values


def linear(module: Any, x: torch.Tensor) -> torch.Tensor:
    return x @ module["kernel"] + module["bias"]


def by_deviation(x: torch.Tensor) -> torch.Tensor:
    return x / (x.std(-1, correction=0, keepdim=True) + 1e-6)


def project(_: Rows, modules: Any, student: Side, teacher: Side) -> tuple[Any, Any]:
    to_student = linear(modules["to_student"], teacher.hidden[teacher.scored])
    return to_student, linear(modules["to_teacher"], student.hidden[student.scored])


def attend(rows: Rows, modules: Any, student: Side, teacher: Side) -> tuple[Any, Any]:
    """Cross-model attention between the completions of a row."""
    tokens, labels = [], []
    for model, side in ((rows.student, student), (rows.teacher, teacher)):
        tokens.append(model.embedding[[side.tokens[n] for n in side.scored]])
        labels.append(model.embedding[[side.labels[n] for n in side.scored]])
    queries, keys = (torch.cat(pair, dim=1) for pair in zip(tokens, labels, strict=True))
    keys = by_deviation(keys)
    scores = linear(modules["query"], queries) @ keys.T / math.sqrt(keys.shape[1])
    values = by_deviation(teacher.hidden[teacher.scored]) + by_deviation(labels[1])
    to_teacher = linear(modules["to_teacher"], student.hidden[student.scored])
    in_student_space = scores.softmax(1) @ linear(modules["to_student"], values)
    return in_student_space, scores.T.softmax(1) @ to_teacher


def dual_space(objective: Any, rows: Rows) -> Values:
    """−log t(label) + KL(t‖q) + KL(p‖s); LM heads are fixed, `t` is fixed in the divergence."""
    temperature, is_attending = objective.temperature, objective.type == "dskd_cma"
    names = "projected_cross_entropy", "student_space_kl", "teacher_space_kl"
    values: list[list[torch.Tensor]] = [[], [], []]
    for student, teacher in rows.pairs:
        in_student_space, in_teacher_space = (attend if is_attending else project)(
            rows, rows.modules[objective.type], student, teacher
        )
        t = in_student_space @ rows.student.lm_head.detach().T
        s = in_teacher_space @ rows.teacher.lm_head.T
        labels = torch.tensor([student.labels[n] for n in student.scored])
        values[0].append(-t.log_softmax(-1).gather(1, labels[:, None])[:, 0])
        log_t, log_q, log_p, log_s = (
            (logits / temperature).log_softmax(-1)
            for logits in (
                t.detach(),
                student.logits[student.scored],
                teacher.logits[teacher.scored],
                s,
            )
        )
        is_learned = t.argmax(1) == labels if is_attending else torch.ones_like(labels)
        values[1].append(kl(log_t, log_q) * is_learned)
        values[2].append(kl(log_p, log_s))
    means = {name: torch.cat(v).mean() for name, v in zip(names, values, strict=True)}
    return {"": torch.stack(list(means.values())).sum(), **means}
