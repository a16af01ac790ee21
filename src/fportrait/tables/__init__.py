"""The tables between stages: their schema, the checks of their rows, and the one writer of `frames.parquet`."""
