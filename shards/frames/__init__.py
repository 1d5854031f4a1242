"""From videos to frame features: which frames, decoding, encoding, the folder that they are written to."""
