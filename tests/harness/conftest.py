"""A tiny model, and offline tasks of every kind."""

import json
from pathlib import Path

import pytest
import tiny

CHOICE = """
task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/choice.jsonl}}, cache_dir: {folder}/cache}}
output_type: multiple_choice
test_split: test
fewshot_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: label
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
WRITE = """
task: tiny_write
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/choice.jsonl}}, cache_dir: {folder}/cache}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[label]}}}}"
generation_kwargs: {{until: ["."], max_gen_toks: 12, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""
PERPLEXITY = """
task: tiny_perplexity
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/text.jsonl}}, cache_dir: {folder}/cache}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: bits_per_byte}}]
"""
QUESTIONS = [
    {"question": f"What is {n} and {n}?", "choices": [f" It is {n}.", f" {2 * n}", " a cat"]}
    for n in range(7)
]
TEXTS = ["The cat sat on the mat. " * 9, "a", "What is the capital of France? " * 20, "Zürich 🙂"]


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model/`, of 64 positions, and `tasks/`."""
    folder = tmp_path_factory.mktemp("harness")
    # The vocabulary has no padding, which the harness's own model would take for tokens.
    tiny.model_folder(folder / "model", max_position_embeddings=64, vocab_size=320)
    rows = [{**row, "label": index % 3} for index, row in enumerate(QUESTIONS)]
    (folder / "choice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [{"text": text} for text in TEXTS]
    (folder / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    (folder / "tasks").mkdir()
    for name, task in (("choice", CHOICE), ("write", WRITE), ("perplexity", PERPLEXITY)):
        (folder / "tasks" / f"{name}.yaml").write_text(task.format(folder=folder))
    return folder
