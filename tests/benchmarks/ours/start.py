"""`jaxdistill train` from process start to its first logged step. Argument: FOLDER."""

import sys
import tempfile

import shapes
from timing import time_until_line

folder = sys.argv[1]
with tempfile.TemporaryDirectory() as scratch:
    overrides = {
        "output": f"{scratch}/run",
        "student.model": f"{folder}/student",
        "student.layers": "null",
        "teacher.model": f"{folder}/teacher",
        "data.sources": f"{folder}/rows.jsonl",
        "data.heldout": "0",
        "data.rollout": "{type: dataset}",
        "data.loss_on": "all",
        "data.length": str(shapes.LENGTH),
        "train.batch_size": str(shapes.START_BATCH_SIZE),
        "train.log_every_steps": "1",
    }
    arguments = [f"{name}={value}" for name, value in overrides.items()]
    command = [sys.executable, "-m", "jaxdistill", "train", "configs/quickstart.yaml", *arguments]
    time_until_line(command, "step 1/", cache="jaxdistill")
