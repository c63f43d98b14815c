"""What MS-MARCO's evaluator of generated answers compares (Bajaj et al. 2016; version 2.1)."""

from collections.abc import Collection

NO_ANSWER = "No Answer Present."


def compared(prediction: str, references: Collection[str]) -> tuple[str, tuple[str, ...]] | None:
    """The prediction and references that its BLEU-1 and ROUGE-L ('coco') compare, or None for a row left out.

    Left out is a row without references or with 'No Answer Present.' among them; a prediction of those words, where
    there is an answer, counts as an empty one. The evaluator's words are spaCy's, in lower case.
    """
    if isinstance(references, str):  # its letters would pass as references
        raise TypeError(f"references is the string {references!r}, expected several strings")
    if not references or NO_ANSWER in references:
        return None
    return "" if prediction == NO_ANSWER else prediction, tuple(references)
