"""Gaussian avatars: fitted to studio captures (`captures`, `fitting`), started by a prior over people (`prior`), drawn
by splatting (`splat`), and filmed under moving cameras (`sweeps`).
"""
