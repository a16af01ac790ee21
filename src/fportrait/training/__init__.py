"""The four stages: settings, the loop with exact resumption, losses, many processes, what a stage will cost; and the
recipe that makes the small base.
"""
