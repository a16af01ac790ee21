"""Training of both encoders end to end with a decoder of talking-head video, and probes of what codes hold."""
