"""What the start of a run reads, for both sides: a teacher, a student of its first layers, text."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import shapes

import jaxdistill
from jaxdistill import hub
from jaxdistill.files import whole_directory
from jaxdistill.models import select_layers

models, folder = Path(sys.argv[1]), Path(sys.argv[2])
if folder.is_dir():
    sys.exit()
teacher = jaxdistill.load(hub.fetch("smollm2-135m-instruct", models)).pretrained
config, params = select_layers(teacher.config, teacher.params, range(shapes.STUDENT_LAYERS))
student = replace(
    teacher,
    config=config,
    params=jax.tree.map(jax.numpy.asarray, params),
    hf_config={**teacher.hf_config, "num_hidden_layers": shapes.STUDENT_LAYERS},
)
prompts = Path("configs/quickstart/prompts.jsonl").read_text().splitlines()
with whole_directory(folder) as unfinished:
    hub.save(teacher, unfinished / "teacher")
    hub.save(student, unfinished / "student")
    lines = [json.dumps({"text": json.loads(line)["prompt"]}) for line in prompts]
    (unfinished / "rows.jsonl").write_text("\n".join(lines))
