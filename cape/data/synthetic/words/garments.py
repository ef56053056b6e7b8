"""Texts of the keypoints of garments; see `cape.data.synthetic.vocabulary` for the placeholders."""

from __future__ import annotations

WORDS: dict[str, tuple[str, ...]] = {
    "{side} end of the collar": ("the {side} end of the collar", "neckline on the {side}",
                                 "{side} corner of the neck opening"),
    "middle of the collar": ("the middle of the collar", "lowest point of the neckline", "center of the neck opening"),
    "top of the hood": ("the top of the hood", "highest point of the hood", "upper end of the hood"),
    "{side} armpit": ("the {side} armpit", "where the {side} sleeve meets the side seam",
                      "below the {side} arm opening"),
    "{edge} end of the {side} cuff": ("the {edge} end of the {side} cuff",
                                      "{edge} corner of the {side} sleeve's opening", "{side} cuff on its {edge} side"),
    "{edge} end of the {side} leg hem": ("the {edge} end of the {side} leg's hem",
                                         "{edge} corner of the {side} trouser leg's opening",
                                         "bottom of the {side} leg on its {edge} side"),
    "{side} end of the hem": ("the {side} end of the hem", "{side} bottom corner",
                              "lower edge of the garment on the {side}"),
    "middle of the hem": ("the middle of the hem", "center of the bottom edge",
                          "middle of the lower edge of the garment"),
    "{side} end of the waist": ("the {side} end of the waist", "waistline on the {side}",
                                "{side} side of the waistband"),
    "middle of the waist": ("the middle of the waist", "center of the waistband", "front of the waistline"),
    "crotch": ("the crotch, where the legs part", "top of the inner leg seams", "between the two legs"),
}  # fmt: skip
"""Name → description and paraphrases."""
