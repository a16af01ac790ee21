"""Units of work over processes or machines, each resumable by what it was made of: `map_engine` is the one door."""
