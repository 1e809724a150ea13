"""What programs read, for both sides: models and text. Argument start|pair, MODELS, FOLDER."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import shapes

import jaxdistill
from jaxdistill import hub
from jaxdistill.files import atomic_directory
from jaxdistill.models import select_layers


def start(models: Path, folder: Path) -> None:
    """A teacher, a student of its first layers, and short rows."""
    teacher = jaxdistill.load(hub.fetch("smollm2-135m-instruct", models)).pretrained
    config, params = select_layers(teacher.config, teacher.params, range(shapes.STUDENT_LAYERS))
    student = replace(
        teacher,
        config=config,
        params=jax.tree.map(jax.numpy.asarray, params),
        hf_config={**teacher.hf_config, "num_hidden_layers": shapes.STUDENT_LAYERS},
    )
    with atomic_directory(folder) as unfinished:
        hub.save(teacher, unfinished / "teacher")
        hub.save(student, unfinished / "student")
        _write(unfinished, _prompts())


def pair(models: Path, folder: Path) -> None:
    """A teacher and a student of unlike tokenizers, and rows longer than what is read."""
    prompts = _prompts()
    share = len(prompts) // shapes.PAIR_BATCH
    with atomic_directory(folder) as unfinished:
        for side, name in (("teacher", "gemma3-270m"), ("student", "smollm2-135m-instruct")):
            hub.save(jaxdistill.load(hub.fetch(name, models)).pretrained, unfinished / side)
        rows = (prompts[share * n : share * (n + 1)] for n in range(shapes.PAIR_BATCH))
        _write(unfinished, [" ".join(row) for row in rows])


def _prompts() -> list[str]:
    lines = Path("configs/quickstart/prompts.jsonl").read_text().splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def _write(folder: Path, texts: list[str]) -> None:
    lines = [json.dumps({"text": text}) for text in texts]
    (folder / "rows.jsonl").write_text("\n".join(lines))


if __name__ == "__main__" and not Path(sys.argv[3]).is_dir():
    {"start": start, "pair": pair}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
