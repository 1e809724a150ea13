"""The shapes that both sides are measured at: SmolLM2-135M, and a student of ten of its layers."""

LAYERS, STUDENT_LAYERS = 30, 10
CONFIG = {
    "model_type": "llama",
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "rope_theta": 100_000.0,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
}
BATCH, LENGTH, BETA = 4, 256, 0.5
JSD_ROWS, STUDENT_WIDTH, TEACHER_WIDTH = 2048, 576, 576
PROMPT, NEW_TOKENS = 32, 64
START_BATCH = 2
PAIR_BATCH, PAIR_LENGTH = 2, 256
