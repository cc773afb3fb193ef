"""Training: the loop, its state, its losses and presets."""
