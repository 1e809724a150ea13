"""Input files of a case, for jaxdistill and its peer: models and texts.

    PYTHONPATH=tests/benchmarks .venv/bin/python tests/benchmarks/inputs.py KIND MODELS FOLDER

KIND is `start` or `cross_tokenizer`; MODELS is the folder of downloaded models. An existing FOLDER
is kept.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import shapes

import jaxdistill
from jaxdistill import hub
from jaxdistill.files import atomic_directory


def write_start_inputs(models: Path, folder: Path) -> None:
    """Write a teacher, a student made of its first layers, and short texts."""
    teacher = jaxdistill.load(hub.fetch("smollm2-135m-instruct", models)).pretrained
    layers = range(shapes.NUM_STUDENT_LAYERS)
    model = teacher.language_model
    student = replace(
        teacher,
        language_model=model.with_layers(layers),
        params=jax.tree.map(jax.numpy.asarray, model.select_layers(teacher.params, layers)),
        hf_config={**teacher.hf_config, "num_hidden_layers": shapes.NUM_STUDENT_LAYERS},
    )
    with atomic_directory(folder) as unfinished:
        hub.save(teacher, unfinished / "teacher")
        hub.save(student, unfinished / "student")
        _write_texts(unfinished, _read_prompts())


def write_cross_tokenizer_inputs(models: Path, folder: Path) -> None:
    """Write a teacher and a student with different tokenizers, and texts longer than a sequence."""
    prompts = _read_prompts()
    num_prompts = len(prompts) // shapes.CROSS_TOKENIZER_BATCH_SIZE
    with atomic_directory(folder) as unfinished:
        for side, name in (("teacher", "gemma3-270m"), ("student", "smollm2-135m-instruct")):
            hub.save(jaxdistill.load(hub.fetch(name, models)).pretrained, unfinished / side)
        texts = [
            " ".join(prompts[num_prompts * n : num_prompts * (n + 1)])
            for n in range(shapes.CROSS_TOKENIZER_BATCH_SIZE)
        ]
        _write_texts(unfinished, texts)


def _read_prompts() -> list[str]:
    lines = Path("configs/quickstart/prompts.jsonl").read_text().splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def _write_texts(folder: Path, texts: list[str]) -> None:
    lines = [json.dumps({"text": text}) for text in texts]
    (folder / "rows.jsonl").write_text("\n".join(lines))


if __name__ == "__main__" and not Path(sys.argv[3]).is_dir():
    write_inputs = {
        "start": write_start_inputs,
        "cross_tokenizer": write_cross_tokenizer_inputs,
    }[sys.argv[1]]
    write_inputs(Path(sys.argv[2]), Path(sys.argv[3]))
