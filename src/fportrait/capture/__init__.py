"""What a camera saw: pictures and videos read as they are shown, calibrations, importers of other people's folders, and
the embedded world, which films people that it draws.
"""
