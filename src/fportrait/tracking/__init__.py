"""From pixels to annotations: landmarks, head pose, shape, expression code and crop of every frame.

What runs on a user's clip, in order: `landmarks` (faces and their 478 points), `crops`, `refinement` and `head_turn`
(what the shipped networks add), `clips` (one video), `fit` and `views` (the body model), `segments` (one person),
`annotate` (rows), `captures` (the stage `track`) and `files` (`fportrait track`). What made the shipped files is in
`making`.
"""
