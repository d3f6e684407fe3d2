"""Base models: reading checkpoints, their families, key maps, text encoders, tokenizers and VAE."""
