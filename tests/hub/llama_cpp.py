"""llama.cpp as a reference: node-llama-cpp's prebuilt library, driven by a small script."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

INSTALL = (
    "npm install --ignore-scripts --no-audit --no-fund --omit=optional "
    "node-llama-cpp@3.22.1 @node-llama-cpp/linux-x64@3.22.1"
)

# One thread: ggml's threads spin, which is slow beside other work.
_SCRIPT = """
import {getLlama, LlamaLogLevel} from "node-llama-cpp";
import fs from "fs";
const request = JSON.parse(fs.readFileSync("request.json", "utf8"));
const llama = await getLlama({
    gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: 1,
});
const model = await llama.loadModel({modelPath: request.model});
const {contextSize} = request;
const context = await model.createContext({contextSize, flashAttention: false});
const sequence = context.getSequence();
const options = {temperature: 1, topK: 0, topP: 1, minP: 0};
const outputs = await sequence.controlledEvaluate(
    request.tokens.map((token) => [token, {generateNext: {probabilities: true, options}}]));
await sequence.clearHistory();
const greedy = [];
for await (const token of sequence.evaluate(request.prompt, {temperature: 0})) {
    greedy.push(token);
    if (greedy.length >= request.newTokens) break;
}
fs.writeFileSync(request.output, JSON.stringify({
    tokens: request.texts.map((text) => model.tokenize(text, true)),
    probabilities: outputs.map((output) => [...output.next.probabilities.entries()]),
    greedy,
}));
process.exit(0);
"""

_VOCABULARY_SCRIPT = """
import {getLlama, LlamaLogLevel} from "node-llama-cpp";
import fs from "fs";
const request = JSON.parse(fs.readFileSync("request.json", "utf8"));
const llama = await getLlama({
    gpu: false, build: "never", logLevel: LlamaLogLevel.fatal, maxThreads: 1,
});
const results = [];
for (const modelPath of request.models) {
    const model = await llama.loadModel({modelPath, vocabOnly: true});
    results.push({
        tokens: request.texts.map((text) => model.tokenize(text, true)),
        end_ids: request.ids.filter((id) => model.isEogToken(id)),
        adds_bos: model.tokens.shouldPrependBosToken,
    });
}
fs.writeFileSync(request.output, JSON.stringify(results));
process.exit(0);
"""


@dataclass(frozen=True)
class LlamaCppVocabulary:
    """Vocabulary of a file in llama.cpp.

    Attributes:
        tokens: Token ids of each text, without BOS.
        end_ids: Ids that end a generation.
        adds_bos: BOS is added before a text.
    """

    tokens: list[list[int]]
    end_ids: list[int]
    adds_bos: bool


@dataclass(frozen=True)
class LlamaCppResult:
    """Output of llama.cpp.

    Attributes:
        tokens: Token ids of each text.
        log_probs: Log-probabilities of the next token after each input token, in nats.
        greedy: Token ids that greedy decoding generates after the prompt, without EOS.
    """

    tokens: list[list[int]]
    log_probs: np.ndarray
    greedy: list[int]


def install_llama_cpp(folder: Path) -> bool:
    """Install the library into a folder; False where npm is missing or cannot download."""
    try:
        subprocess.run(INSTALL.split(), cwd=folder, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    (folder / "reference.mjs").write_text(_SCRIPT)
    (folder / "vocabulary.mjs").write_text(_VOCABULARY_SCRIPT)
    return True


def run_llama_cpp(
    folder: Path,
    model: Path,
    *,
    texts: Sequence[str],
    tokens: Sequence[int],
    prompt: Sequence[int],
    new_tokens: int,
    context_size: int,
) -> LlamaCppResult:
    output = folder / "output.json"
    request = {
        "model": str(model),
        "output": str(output),
        "texts": texts,
        "tokens": tokens,
        "prompt": prompt,
        "newTokens": new_tokens,
        "contextSize": context_size,
    }
    (folder / "request.json").write_text(json.dumps(request))
    subprocess.run(["node", "reference.mjs"], cwd=folder, check=True)
    result = json.loads(output.read_text())
    probabilities = [[value for _, value in sorted(row)] for row in result["probabilities"]]
    return LlamaCppResult(result["tokens"], np.log(probabilities), result["greedy"])


def read_vocabularies(
    folder: Path, models: Sequence[Path], *, texts: Sequence[str], ids: Sequence[int]
) -> list[LlamaCppVocabulary]:
    """Tokenise texts with the vocabularies of files that may lack tensors; `ids` may end text."""
    output = folder / "output.json"
    request = {
        "models": [str(model) for model in models],
        "output": str(output),
        "texts": texts,
        "ids": list(ids),
    }
    (folder / "request.json").write_text(json.dumps(request))
    subprocess.run(["node", "vocabulary.mjs"], cwd=folder, check=True)
    return [LlamaCppVocabulary(**result) for result in json.loads(output.read_text())]
