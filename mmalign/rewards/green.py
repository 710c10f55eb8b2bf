"""GREEN (arXiv 2405.03595) of radiology reports: matched findings over these and the errors that matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from mmalign.rewards._findings import ERRORS, clean, read_findings
from mmalign.rewards._scoring import TOTAL
from mmalign.rewards._templates import check_template, question
from mmalign.rewards._written import WrittenJudge
from mmalign.types import Message, Part

_LINES = "\n".join(f"({letter}) {kind}: " for letter, kind in ERRORS.items())
TEMPLATE = (
    "Compare the candidate, a report on a radiological study, with the reference, a radiologist's report on "
    "the same study. Count the findings that both share, and the errors of the candidate: those of clinical "
    "significance, which could change what is done for the patient, and the others. Styles and orders of the "
    "reports do not count.\nReference: {reference}\nCandidate: {response}\n"
    "Answer in exactly this form, with a number behind every colon, 0 where there is none, and after it, if "
    "you like, a full stop and what you counted:\n"
    f"[Clinically Significant Errors]:\n{_LINES}\n\n[Clinically Insignificant Errors]:\n{_LINES}\n\n"
    "[Matched Findings]: "
)


@dataclass(frozen=True)
class Green(WrittenJudge):
    """GREEN of a report, 0 to 1, from the findings and errors that a writer lists beside the right report.

    "score" is matched / (matched + significant), 0 without a match; `matched`, `significant` and
    `insignificant` are the counts. The pictures of the study are not shown. Both reports are put in lower
    case and without square brackets. A verdict without all sections and counts is none: where errors are
    missing from it, a report without a flaw would come out. `template` is in this project's words and asks
    for the form that GREEN's own model was trained to answer in.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"text"})
    costs: ClassVar[frozenset[str]] = frozenset({"significant", "insignificant"})

    template: str = TEMPLATE  # what is asked, with {reference} and {response} in their places

    def __post_init__(self) -> None:
        super().__post_init__()
        places = frozenset({"reference", "response"})
        check_template("template", self.template, places, places)

    @property
    def wants(self) -> frozenset[str]:
        """The right report."""
        return frozenset({"reference"})

    def verdicts_given(
        self,
        prompts: Sequence[tuple[Message, ...]],
        responses: Sequence[Part],
        told: Sequence[Mapping[str, str]],
    ) -> list[Mapping[str, float] | None]:
        """GREEN and the counts of every report; None for a verdict that cannot be read."""
        questions = [
            question(
                self.template,
                {"reference": clean(more["reference"]), "response": clean(str(response.data))},
                (),
            )
            for response, more in zip(responses, told, strict=True)
        ]
        return [self._read(text) for text in self.said(questions)]

    def _read(self, text: str | None) -> Mapping[str, float] | None:
        found = None if text is None else read_findings(text)
        if found is None:
            self.no_verdict(text, "judge.template, which asks for the form that is read")
            return None
        counts = (found.matched, found.significant, found.insignificant)
        names = ("matched", "significant", "insignificant")
        return {TOTAL: found.green, **dict(zip(names, map(float, counts), strict=True))}
