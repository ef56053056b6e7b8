"""What is said, as text and as tokens."""

from __future__ import annotations

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from cape.capellm.configuration import CapeLlmConfiguration, InstructionConfiguration, parse_capellm_configuration
from cape.capellm.coordinates import coordinates_text, parse_coordinates
from cape.capellm.grammar import AnswerGrammar, GrammarError
from cape.capellm.instructions import opening, question
from cape.capellm.tokenizer import CapeLlmTokenizer, TokenizerError, train_tokenizer
from cape.configuration import ConfigurationError
from cape.support import KeypointDefinition
from tests.cape.capellm.conftest import CATEGORY, Learnt, tiny

EYE = CATEGORY.keypoints[1]


def spoken(configuration: InstructionConfiguration, keypoint: KeypointDefinition = EYE) -> str:
    segments = (*opening(configuration, CATEGORY.name, CATEGORY.keypoints), *question(configuration, keypoint))
    return "".join(segment.text + ("</s>" if segment.spoken else "") for segment in segments)


def test_coordinates_have_three_decimals_and_stay_inside() -> None:
    assert coordinates_text(0.12345, 0.5) == " [0.123,0.500]"
    assert coordinates_text(-0.1, 1.0) == " [0.000,0.999]"
    assert parse_coordinates(" [0.123,0.500]") == (0.123, 0.5)
    for malformed in (" [0.12,0.500]", "[0.123,0.500", "[1.000,0.500]", "[0.123,0.500]]", ""):
        assert parse_coordinates(malformed) is None


def test_the_base_instruction_is_the_published_one() -> None:
    assert spoken(InstructionConfiguration()) == (
        "User: Where is the left eye of this object in this image? Please provide its coordinates.\n"
        "Reference: the left one of the two eyes\nAssistant:"
    )


def test_each_switch_changes_what_is_said() -> None:
    assert "Reference" not in spoken(InstructionConfiguration(descriptions=False))
    assert "Reference" not in spoken(InstructionConfiguration(), CATEGORY.keypoints[4])  # has no description
    assert spoken(InstructionConfiguration(keypoint_list=True)).startswith(
        "The keypoints of this object are: nose, left eye, right eye, root of the tail, neck.\nUser:"
    )
    assert spoken(InstructionConfiguration(outline=True)).startswith("This is a conversation")
    assert spoken(InstructionConfiguration(style="step_by_step")) == (
        "User: What is the object in this image?\nAssistant: cat body</s>"
        "User: What is the left eye of this object?\nAssistant: the left one of the two eyes</s>"
        "User: Where is the left eye of this object in this image? Please provide its coordinates.\nAssistant:"
    )


def test_three_digits_are_one_token(learnt: Learnt) -> None:
    tokenizer = learnt.tokenizer
    pieces = [tokenizer.tokenizer.id_to_token(i) for i in tokenizer.encode(" [0.123,0.056]")]
    assert pieces == ["Ġ[", "0", ".", "123", ",", "0", ".", "056", "]"]
    assert tokenizer.decode(tokenizer.encode("Überm Auge, 12345")) == "Überm Auge, 12345"


def test_segments_by_themselves_are_the_tokens_of_the_whole(learnt: Learnt) -> None:
    text = question(InstructionConfiguration(), EYE)[0].text + " [0.123,0.456]"
    apart = learnt.tokenizer.encode(text.removesuffix(" [0.123,0.456]")) + learnt.tokenizer.encode(" [0.123,0.456]")
    assert apart == learnt.tokenizer.encode(text)


def test_a_vocabulary_without_room_for_numbers_is_refused() -> None:
    with pytest.raises(TokenizerError, match="vocabulary 600: too small"):
        train_tokenizer(["nose"], CapeLlmConfiguration(), 600)


def test_a_tokenizer_without_an_end_token_is_refused() -> None:
    with pytest.raises(TokenizerError, match=r"no token <\|begin_of_text\|>"):
        CapeLlmTokenizer(Tokenizer(models.BPE()), CapeLlmConfiguration().special_tokens)


def digit_tokenizer() -> CapeLlmTokenizer:
    """Mistral's way: every digit a token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}|\p{L}+|[^\p{N}\p{L}]"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        ["where is the nose"],
        trainers.BpeTrainer(
            special_tokens=["<|begin_of_text|>", "<|end_of_text|>", "<KEYPOINT>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return CapeLlmTokenizer(tokenizer, tiny().special_tokens)


def test_a_number_is_one_decision_or_three(learnt: Learnt) -> None:
    together, apart = AnswerGrammar(learnt.tokenizer), AnswerGrammar(digit_tokenizer())
    assert len(together.numbers.children) == 1000
    assert len(apart.numbers.children) == 10
    assert together.numbers.centre == pytest.approx(apart.numbers.centre) == pytest.approx(0.4995)
    seven = apart.numbers.children[digit_tokenizer().encode("7")[0]]
    assert seven.centre == pytest.approx(0.7495)
    assert not seven.forced()[0]


def test_what_is_certain_is_forced() -> None:
    grammar = AnswerGrammar(digit_tokenizer())
    node = grammar.numbers
    for token in digit_tokenizer().encode("12"):
        node = node.children[token]
    for token in list(node.children)[1:]:
        del node.children[token]
    run, end = node.forced()
    assert run == digit_tokenizer().encode("0")
    assert end.centre == 0.12


def test_a_vocabulary_that_runs_digits_and_commas_together_is_refused() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.train_from_iterator(
        [f"{n:03d},0." for n in range(1000)],
        trainers.BpeTrainer(
            special_tokens=["<|begin_of_text|>", "<|end_of_text|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    with pytest.raises(GrammarError, match="tokens that span more than its digits"):
        AnswerGrammar(CapeLlmTokenizer(tokenizer, CapeLlmConfiguration().special_tokens))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ('{"vision": {"image_size": 225}}', "vision: Value error, image_size 225 is not a multiple of 1 × 14"),
        ('{"instruction": {"answer": "words"}}', "instruction.answer"),
        ('{"lora": 8}', "lora: Extra inputs"),
    ],
)
def test_a_wrong_configuration_names_its_field(document: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_capellm_configuration(document, "config.json")


def test_the_default_is_the_published_model() -> None:
    configuration = CapeLlmConfiguration()
    assert configuration.vision.tokens == 256
    assert configuration.vision.name == "dinov2-1024x24"
    assert configuration.language.width == 4096
