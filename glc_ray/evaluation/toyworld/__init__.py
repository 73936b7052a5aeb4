"""Rules that read clips of the embedded model: its world is known, so right is right.

looks: how the world's words look. motion: the laws its objects move by, and how well a path fits
them. rules: what a clip shows, and whether a long video stays what its sentence says.
"""
