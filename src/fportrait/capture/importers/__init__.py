"""Other people's folder layouts into ours, one module per layout; see docs/captures.md for the exact trees."""
