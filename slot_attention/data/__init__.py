"""Data sets: made or read once, stored as plain arrays, fed as batches."""
