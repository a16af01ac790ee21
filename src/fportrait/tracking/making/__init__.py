"""What made the assets that tracking ships with: nothing here runs on a user's clip.

`calibration`, `head_turn` and `refinement` render people of the embedded world and measure, fit or train what the
modules of the same names in `fportrait.tracking` load; each is a command that rebuilds its file. `expression` and
`talking_head` train the encoders, `wide_expression` takes the expression encoder to people unlike those it learned on.
"""
