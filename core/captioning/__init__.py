"""Captions: models that write them, rules that change them, and a journal that takes it back."""
