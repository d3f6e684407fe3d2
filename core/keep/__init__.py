"""What is kept of a study: baked, merged, resized and extracted networks, tags and presets."""
