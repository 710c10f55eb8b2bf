"""What the page of shapes_vlm.py says beside its tables."""

ABOUT = """\
# Objectives on the built-in model of pictures

Every run trains the same 116,736 LoRA weights (rank 16) on the same 480 pairs about pictures (360 captions,
120 questions on what is there) from the same base, {steps} steps of {batch} pairs. Rates were chosen on
validation scenes, by the mean of the captions' score and the right answers on presence. Base and tuned model
answer about the same 200 held-out pictures greedily. Brackets are 95 % bootstrap intervals, over prompts and,
where there are several, seeds (single seeds in parentheses).

- *captions that name an absent thing*: hallucinating captions. *recall*: of the things that a picture shows,
  the share that its caption names. *exact*: captions right word by word. *presence*: right answers to "Is
  there a red circle?", half of them yes. *words*: of a caption.
- *margin*: log p(right) - log p(wrong) in nats, of the true caption and one as long in which an absent
  companion stands in the place of a thing. *without picture*: the same with the words of the prompt alone:
  what language wins. *of seeing*: the difference of the two. *log p of the right*: of the true caption.
- *seconds*: of one run's training on the processor.

{remarks}"""
REMARKS = ""
AGAINST = """\
Differences of runs with three seeds, seed by seed and prompt by prompt: points, and nats for margins.
"""
SEVERAL = """\
Prompts show 2, 3 and 4 pictures in turn ("Image1:", a picture, ...) and ask about one ("In Image2, is there a
red circle?"). Half of the answers are no, and then the thing is in another picture of the prompt, so that who
looks at all of them has half of the answers right.
"""
