"""One rank of a run: engine, step, loop, checkpoints, and what ends a rank that lost the others."""
