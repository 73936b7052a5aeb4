"""The same prompts and seeds through several methods: catalog, scores, statistics, pictures.

variants: methods and ablations by name. design: the videos that are compared. values: scores and
cost of each. statistics: means and differences with intervals. table, plot, sheet: how they are
shown. mosaic: the videos themselves, beside each other.
"""
