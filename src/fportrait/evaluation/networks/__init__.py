"""Networks that metrics look through, written after their papers; weights are added with `fportrait weights`.

Parameter names are those of the published checkpoints, so that these load without a mapping. Every constructor takes
a width or depth, so that tests can build the same network small.
"""
