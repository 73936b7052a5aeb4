"""Built-in scores: formulas of VBench on features that need no download, and scores of its own.

One file a kind of score; each says its formula. ``registry`` has their names.
"""
