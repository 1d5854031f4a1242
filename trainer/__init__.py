"""The run: configuration, DeepSpeed, the loop, checkpoints, evaluation."""
