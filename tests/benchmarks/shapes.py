"""Shapes that both sides of a case share: SmolLM2-135M, and a student of ten of its layers."""

NUM_LAYERS, NUM_STUDENT_LAYERS = 30, 10
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
BATCH_SIZE, LENGTH, BETA = 4, 256, 0.5
JSD_POSITIONS, STUDENT_EMBED_DIM, TEACHER_EMBED_DIM = 2048, 576, 576
PROMPT_LENGTH, MAX_NEW_TOKENS = 32, 64
START_BATCH_SIZE = 2
CROSS_TOKENIZER_BATCH_SIZE, CROSS_TOKENIZER_LENGTH = 2, 256
