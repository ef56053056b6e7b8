"""The texts of keypoints: for each name a description and other ways to say it."""

from cape.data.synthetic.words import bodies, furniture, garments, heads, household, tools, vehicles

WORDS: dict[str, tuple[str, ...]] = {
    **heads.WORDS,
    **bodies.WORDS,
    **furniture.WORDS,
    **vehicles.WORDS,
    **garments.WORDS,
    **tools.WORDS,
    **household.WORDS,
}
"""Name → description and paraphrases; see `cape.data.synthetic.vocabulary` for the placeholders."""
