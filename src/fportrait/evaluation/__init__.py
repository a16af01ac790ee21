"""How good is a model, and why: the protocol and its metrics, probes of single factors, cross-reenactment, slices,
other methods' videos, and the report that shows them.
"""
