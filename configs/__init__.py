"""One page per experiment: values and a header, no logic."""
