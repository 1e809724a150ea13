"""Peer of `ours/start.py`: Tunix from process start to its first step. Argument: FOLDER."""

import sys
from pathlib import Path

from timing import time_until_line

if __name__ == "__main__" and sys.argv[2:] != ["train"]:
    time_until_line([sys.executable, __file__, sys.argv[1], "train"], "step 1", cache="tunix")
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
from tunix_trainer import make_config, make_trainer

folder = Path(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(folder / "teacher")
texts = [json.loads(line)["text"] for line in (folder / "rows.jsonl").read_text().splitlines()]
sequences = [token_ids[: shapes.LENGTH] for token_ids in tokenizer(texts)["input_ids"]]
tokens = np.zeros((shapes.START_BATCH_SIZE, shapes.LENGTH), np.int32)
mask = np.zeros(tokens.shape, bool)
for index, sequence in enumerate(sequences[: shapes.START_BATCH_SIZE]):
    tokens[index, : len(sequence)], mask[index, : len(sequence)] = sequence, True
mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
with mesh:
    student, teacher = (
        create_model_from_safe_tensors(
            str(folder / name), make_config(num_layers), mesh, jnp.float32
        )
        for name, num_layers in (
            ("student", shapes.NUM_STUDENT_LAYERS),
            ("teacher", shapes.NUM_LAYERS),
        )
    )
    batch = TrainingInput(input_tokens=tokens, input_mask=mask)
    make_trainer(student, teacher, 1).train([batch])
jax.block_until_ready(nnx.state(student))
sys.stdout.write("step 1\n")
