"""Ways to break sound tables (`helpers.tables.sound_tables`): each changes rows or people in place against one rule."""

from __future__ import annotations

import numpy as np

from helpers.tables import camera, turn


def clip_of(rows, dataset):
    return [row for row in rows if row["dataset"] == dataset][:9]


def mirror(rows, people):
    clip_of(rows, "PhoneCapture")[4]["body_rotation"] = np.diag([-1.0, 1, 1]).ravel()


def shear(rows, people):
    clip_of(rows, "PhoneCapture")[4]["head_rotation"] = (np.eye(3) + 0.001 * np.eye(3, k=1)).ravel()


def nan_code(rows, people):
    clip_of(rows, "PhoneCapture")[2]["expression_code"][5] = np.nan


def infinite_landmark(rows, people):
    clip_of(rows, "PhoneCapture")[2]["landmarks"][955] = np.inf


def short_code(rows, people):
    clip_of(rows, "PhoneCapture")[2]["expression_code"] = np.zeros(127, np.float32)


def hole(rows, people):
    rows.pop(3)


def late_start(rows, people):
    rows.pop(0)


def double(rows, people):
    rows.append(dict(rows[3]))


def moving_phone(rows, people):
    for t, row in enumerate(clip_of(rows, "PhoneCapture")):
        row["world_to_camera"] = camera(0.3 * t).ravel()


def travelling_phone(rows, people):
    clip_of(rows, "PhoneCapture")[8]["world_to_camera"] = camera(0, distance=0.57).ravel()


def blinking_view_sweep(rows, people):
    clip_of(rows, "ViewSweep")[5]["expression_code"] = clip_of(rows, "ViewSweep")[5]["expression_code"] + 0.4


def nodding_view_sweep(rows, people):
    clip_of(rows, "ViewSweep")[5]["head_rotation"] = turn(2).ravel()


def still_view_sweep(rows, people):
    for row in clip_of(rows, "ViewSweep"):
        row["world_to_camera"] = camera(0).ravel()


def frozen_dynamic_sweep(rows, people):
    for row in clip_of(rows, "DynamicSweep"):
        row["expression_code"] = clip_of(rows, "DynamicSweep")[0]["expression_code"]


def wandering_crop(rows, people):
    clip_of(rows, "PhoneCapture")[2]["crop"] = np.array([1.0, 0, 64])


def two_splits(rows, people):
    for row in clip_of(rows, "PhoneCapture"):
        row["split"] = "test"


def listed_twice(rows, people):
    people.append(dict(people[0]))


def unlisted(rows, people):
    people.pop(0)


def lost_reference(rows, people):
    people[0]["reference_frame"] = 99


def bad_shape(rows, people):
    people[0]["shape"] = np.array([0, 0, np.nan, 0])
