"""The training loop and its parts: precision, optimizer, learning rate, one step, the loop."""
