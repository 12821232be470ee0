"""The paper's tables and figures, and the runs that they need."""
