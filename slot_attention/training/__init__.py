"""One loop for every task: training, evaluation, and a run on the disk."""
