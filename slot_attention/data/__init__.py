"""Data sets: made or read once, stored as arrays, and fed as batches."""
