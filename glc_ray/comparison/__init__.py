"""The same prompts and seeds through several methods: catalog, scores, statistics, pictures.

variants: methods and ablations by name. design: the videos that are compared. values: scores and
cost of each; scores: what these say. statistics: means and differences with intervals. table, page,
plot: how they are shown. mosaic, sheet, pictures: the videos themselves, beside each other.
results: where all of it goes.
"""
