"""Training, evaluation, and the files of a run, the same for every task."""
