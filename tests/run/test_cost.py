"""What a model costs, in a process of its own, and all that may go wrong with that."""

from pathlib import Path

import pytest
import tiny
from safetensors.numpy import load_file

from jaxdistill import evals, run
from jaxdistill.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.model_folder(tmp_path_factory.mktemp("cost") / "model", hidden_size=128)


@pytest.mark.parametrize("runtime", ["jax"])
def test_the_numbers_agree_with_the_files(folder: Path, runtime):
    found = run.cost(str(folder), runtime=runtime, prompt_tokens=8, new_tokens=16, batch_size=2)
    assert isinstance(found, evals.Cost)
    tensors = load_file(folder / "model.safetensors")
    assert found.num_parameters == sum(tensor.size for tensor in tensors.values())
    assert found.size_on_disk == sum(file.stat().st_size for file in folder.iterdir())
    assert found.peak_bytes > 4 * found.num_parameters
    # A token of the sixteen takes no longer than all of them, and the first is one of them.
    whole = 2 * 16 / found.tokens_per_second
    assert 0 < found.first_token_seconds < whole


def test_lengths_that_the_model_does_not_read(folder: Path):
    with pytest.raises(UserError, match="200 tokens of a prompt and 57 new ones are more than"):
        run.cost(str(folder), prompt_tokens=200, new_tokens=57)
