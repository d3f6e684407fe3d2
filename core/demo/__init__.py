"""The embedded world: drawn pictures, their captions and judges, and the base trained on them."""
