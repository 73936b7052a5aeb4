"""The report page of an output: what is in it, and how it gets there."""
