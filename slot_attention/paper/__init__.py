"""What the paper claims, as runs, tables and figures."""
