"""Tunix from nothing to its first step, on the same files: argument FOLDER."""

import sys
from pathlib import Path

from measure import until

if __name__ == "__main__" and sys.argv[2:] != ["now"]:
    until([sys.executable, __file__, sys.argv[1], "now"], "step 1", cache="tunix")
    sys.exit()

import json

import jax
import jax.numpy as jnp
import numpy as np
import shapes
from flax import nnx
from transformers import AutoTokenizer
from tunix.distillation.distillation_trainer import TrainingInput
from tunix.models.llama3.params import create_model_from_safe_tensors
from tunix_parts import config, trainer

folder = Path(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(folder / "teacher")
texts = [json.loads(line)["text"] for line in (folder / "rows.jsonl").read_text().splitlines()]
rows = [ids[: shapes.LENGTH] for ids in tokenizer(texts)["input_ids"]]
tokens = np.zeros((shapes.START_BATCH, shapes.LENGTH), np.int32)
mask = np.zeros(tokens.shape, bool)
for place in range(shapes.START_BATCH):
    tokens[place, : len(rows[place])], mask[place, : len(rows[place])] = rows[place], True
mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
with mesh:
    student, teacher = (
        create_model_from_safe_tensors(str(folder / name), config(layers), mesh, jnp.float32)
        for name, layers in (("student", shapes.STUDENT_LAYERS), ("teacher", shapes.LAYERS))
    )
    trainer(student, teacher, 1).train([TrainingInput(input_tokens=tokens, input_mask=mask)])
jax.block_until_ready(nnx.state(student))
sys.stdout.write("step 1\n")
