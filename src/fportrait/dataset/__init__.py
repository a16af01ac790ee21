"""From annotated tables to batches: the gate (`validation`), latent shards (`encode`, `shards`), the exact order of
samples (`mixing`) and what a model is given of them (`batches`, `sampling`).
"""
