"""Prompts that are shipped with the quickstart."""

from pathlib import Path

from jaxdistill.data import DataConfig, read_split

PROMPTS = Path(__file__).parents[2] / "configs" / "quickstart" / "prompts.jsonl"


def test_the_shipped_prompts_are_short_and_differ():
    split = read_split(DataConfig(sources=(str(PROMPTS),), heldout=0.1))
    prompts = [row.content.prompt for row in (*split.train, *split.heldout)]
    assert len({prompt.casefold() for prompt in prompts}) == len(prompts) == 360
    assert max(map(len, prompts)) < 200
    assert all(prompt and prompt == prompt.strip() for prompt in prompts)
