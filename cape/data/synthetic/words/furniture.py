"""Texts of the keypoints of furniture; see `cape.data.synthetic.vocabulary` for the placeholders."""

from __future__ import annotations

WORDS: dict[str, tuple[str, ...]] = {
    "{end} {side} corner of the {top}": ("the {end} {side} corner of the {top}",
                                         "corner of the {top} at the {end} on the {side}",
                                         "{side} {end} edge of the {top}"),
    "top {side} corner of the {rest}": ("the top {side} corner of the {rest}", "upper {side} end of the {rest}",
                                        "{rest} at its top on the {side}"),
    "foot of the {end} {side} leg": ("the foot of the {end} {side} leg", "bottom of the {end} leg on the {side}",
                                     "lower end of the {side} {end} leg"),
    "foot of the front leg": ("the foot of the front leg", "bottom of the front leg",
                              "lower end of the leg at the front"),
    "foot of the {side} leg": ("the foot of the {side} leg", "bottom of the {side} leg",
                               "lower end of the leg on the {side}"),
    "top of the front leg": ("the top of the front leg", "where the front leg meets the seat",
                             "upper end of the leg at the front"),
    "top of the {side} leg": ("the top of the {side} leg", "where the {side} leg meets the seat",
                              "upper end of the leg on the {side}"),
    "front end of the {side} armrest": ("the front end of the {side} armrest", "front of the arm support on the {side}",
                                        "end of the {side} armrest"),
    "middle of the seat": ("the middle of the seat", "center of the seat", "where one sits"),
    "front of the seat": ("the front of the seat", "front edge of the seat", "middle of the seat's front"),
    "top of the backrest": ("the top of the backrest", "upper edge of the back of the chair",
                            "highest point of the backrest"),
    "bottom of the backrest": ("the bottom of the backrest", "lower edge of the back of the chair",
                               "where the backrest begins"),
    "{height} {end} {side} corner": ("the {height} {end} {side} corner", "{end} {side} corner at the {height}",
                                     "{height} corner on the {side} at the {end}"),
    "{side} door handle": ("the handle of the {side} door", "{side} door handle", "knob of the door on the {side}"),
    "{side} end of the {level} shelf": ("the {side} end of the {level} shelf", "{level} shelf at its {side} end",
                                        "{level} board on the {side}"),
}  # fmt: skip
"""Name → description and paraphrases."""
