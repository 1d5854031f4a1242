"""Sweeps and the paper's studies on Ray Tune. The only room that imports Ray Tune."""
