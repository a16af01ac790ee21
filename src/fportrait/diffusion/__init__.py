"""The model: FactorPortrait's transformer on Wan's blocks, the video codec, conditions, flow matching and sampling.

`conditions` declares what controls a video, `transformer` reads it, `pipeline` samples, `checkpoint` loads Wan's
weights.
"""

import logging

# bitsandbytes, which diffusers imports through peft, warns on a CPU that it lacks a kernel of 4-bit inference: unused.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
