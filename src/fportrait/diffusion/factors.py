"""The four factors of control, as the paper, guidance, dropout and the commands name them.

`diffusion.conditions` says which conditions carry each.
"""

from __future__ import annotations

FACTORS = ("identity", "view", "pose", "expression")
