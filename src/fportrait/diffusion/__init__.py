import logging

# bitsandbytes, which diffusers imports through peft, warns on a CPU that it lacks a kernel of 4-bit inference: unused.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
