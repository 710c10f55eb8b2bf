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
REMARKS = """\
How far this goes:

- mDPO puts more weight on the picture than DPO: 6.5 nats more of the margin come from seeing (interval 5.8
  to 7.3). It does not name absent things less often: both are near 1.5 %, and the interval of the
  difference spans 0. What it saves is the rest of the caption. At one rate DPO's recall falls to two
  thirds, mDPO's stays; with the rate of each chosen on validation scenes mDPO has 7.5 points more exact
  captions (0.5 to 14.2).
- The margin without picture moves for none: wrong captions are as long as right ones and no likelier by
  themselves, so that language has little to win here.
- sft has the most exact captions. The chosen sides are right captions here, for the most part, so that a
  gain of preferences over imitation cannot show.
- Most of the fall of absent things is language: dpo on pairs whose pictures belong to other pairs still
  brings it from 36 % to 10 %. mdpo on such pairs unlearns to look: margins of seeing fall by a third.
- mdpo on shuffled labels looks more, too (its second term knows no label), and names absent things nearly
  as often as the base.
- DPO and its kin say too little at higher rates (table below): dpo, vdpo and dpo + sft at 2e-4, povid,
  bdhs, length_dpo, segment weights, ipo and simpo at 5e-4. At 1e-4, where they are shown, rows of one seed
  cannot rank them.
- chip as released (all in one sigmoid) leaves 22 % of the captions with absent things, and more at higher
  rates. re_align has 9 % at 1e-4; on validation scenes it had none at 5e-4, at a recall of 89 %.
- Rates: four were tried for dpo (5e-5 to 5e-4), mdpo and sft (1e-4 to 1e-3), three for chip, vdpo and dpo +
  sft, two (1e-4, 5e-4) for the other objectives. Rows named as variants, and hinge, rdpo, alpha_dpo and
  dmpo, take the rate of what they vary or of dpo. Betas were not tuned.
- A step of mdpo, chip, vdpo, re_align, povid and bdhs scores three or more answers where dpo scores two:
  steps and pairs are equal, seconds are not.
"""
AGAINST = """\
Differences of runs with three seeds, seed by seed and prompt by prompt: points, and nats for margins.
"""
SEVERAL = """\
Prompts show 2, 3 and 4 pictures in turn ("Image1:", a picture, ...) and ask about one ("In Image2, is there a
red circle?"). Half of the answers are no, and then the thing is in another picture of the prompt, so that who
looks at all of them has half of the answers right. Runs take the steps, batch and LoRA of the others.

- *built-in*: the shipped model has only ever seen one picture. Among several it answers a caption prompt
  with "zero". *taught*: the same, trained on (3,200 steps of all weights, mostly on 2 pictures) until it
  answers presence questions among several, but not yet captions. The starting weights of the heads of its
  dense loss were drawn without a seed then: a model made anew is of the same kind, not the same.
- *mia_dpo*: dpo + 0.1 sft on MIA-DPO's pairs as the taught model's own wrong answers make them, without a
  label: 1,085 pairs of 12,000 questions on presence, in 868 of which no is right; *as many yes as no*: the
  434 that the builder's `balance` leaves, about three epochs. Of balanced pairs, *drifted*: the 198 whose
  answer looked at its picture less than at the average one; *elsewhere*: no is right only where the thing is
  in another picture; *wrong numbers*: the pairs with another picture's number.
- *any answer*: as many balanced pairs of 2,400 questions, most of them answered rightly; rejected is the
  wrong answer, whatever the model says.
- *with captions*: 326 pairs of 900 rows, 275 of them captions; untaught 528 pairs. Sequences alone: cells of
  a collage cannot be made out in 48 x 48 pixels. *one picture*: the same number of steps on pairs, or on
  answers, about one picture. *higher rate*: 1e-4, where validation scenes chose 3e-5.
- *nats to the right*: log p(right) - log p(wrong) of yes and no, over the questions that the base answered
  rightly, and over the others; of the base itself, then of each run the change.

MIA-DPO's gain is not reproduced on the taught model. Why:

- Where an answer is yes or no, pairs are left only where the model errs: its own answer tells every pair, and
  to turn it fits them all. Training does that. At 1e-4 it takes 2.7 nats from the answers that the base had
  right and gives 2.8 to those that it had wrong, and presence falls by 36 points.
- With as many yes as no presence falls by 17 points at 1e-4: to say no always is no way out any more, to turn
  answers still is. At 3e-5, the best of three rates on validation scenes with balance and without, it
  falls by 2 (0.5 to 4.0) and by 1, which may be chance. sft on the chosen sides does the same, so it is not
  the loss; pairs with a thing that is elsewhere change nothing; wrong numbers, under which the rejected
  side is often not the model's own answer, do no harm.
- Attention cannot select here. An answer is one word, so that what counts is where the model looks after it.
  Its share is the same for right and wrong answers (last rows of this section), and the paper's thresholds
  leave out 1 of 1,086 wrong ones. Those below the average share train as all do.
- Among pairs of any answer to turn it does not fit: nothing is lost at the rates that were chosen, but the
  base's answers become surer, right and wrong ones alike. With a thing that is elsewhere (332 pairs) right
  answers become surer and wrong ones do not; presence stays where it was.
- Nor does anything else gain clearly: one picture has one point more, of which the intervals reach 0. So this
  says what happens to short closed answers on a small model, and nothing of long answers on a large one.

With captions, of which the taught model cannot yet write one among several, 3e-5 did best of three rates and
changes nothing; at 2e-4 presence fell by 16 points on validation scenes. On the built-in model, at the
config's own rate, the pairs teach the form of answers: its recall rises from 4 % to 36 %, which a model has
that takes any of the pictures, and presence by 9 points (-1 to 19).

Pairs of any answer and of things elsewhere were added when the others' figures on validation scenes had been
read (the taught model has 82.8 % there), seeds of the higher rate when held-out ones had; a smaller run, of
201 pairs, had been read on these held-out prompts before.
"""
ATTENTION = """\
Attention on the picture asked about, at the middle layer, of 2,400 of these questions:
"""
