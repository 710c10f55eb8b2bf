"""The step-preference adapter: one-step predictions, which a fresh model scores as PickScore does."""

from pathlib import Path
from typing import Any

import contract
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from rewards.tiny_clip import save_transformers
from tiny_sd import example, pairs, picture, prompt, save_pipeline

from mmalign._build import build_named
from mmalign._names import KINDS
from mmalign.adapters._step_preference import StepPreferenceAdapter
from mmalign.objectives.bt import BradleyTerry
from mmalign.rewards.pick_score import PickScore
from mmalign.rewards.step_preference import StepPreference as Judge
from mmalign.types import LogProbs, Part, PreferenceSample, UserError

CPU = torch.device("cpu")
ROLES = ("chosen", "rejected")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP model and a diffusion pipeline."""
    found = tmp_path_factory.mktemp("stepwise")
    save_transformers(found / "clip")
    save_pipeline(found / "sd")
    return found


def section(root: Path, **fields: Any) -> dict[str, Any]:
    denoiser = {"adapter": "diffusion", "path": str(root / "sd"), **fields.pop("denoiser", {})}
    return {"adapter": "step_preference", "path": str(root / "clip"), "denoiser": denoiser, **fields}


def built(root: Path, **fields: Any) -> StepPreferenceAdapter:
    config = build_named(KINDS["model"], section(root, **fields), "model", allow_code=False)
    adapter: StepPreferenceAdapter = config.build(CPU)
    return adapter


@torch.no_grad()
def wake(adapter: StepPreferenceAdapter) -> StepPreferenceAdapter:
    """A conditioning under which timesteps tell."""
    stream = torch.Generator().manual_seed(5)
    for parameter in adapter._towers.timed.time.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=stream))
    return adapter


# ---------------------------------------------------------------- scores


@torch.no_grad()
@pytest.mark.parametrize("guidance", [5.0, 1.0])
def test_a_fresh_model_scores_the_one_step_prediction_as_pick_score_does(root: Path, guidance: float) -> None:
    """By upstream's scheduler, guided as published, for both sides with the same noise and level."""
    adapter = built(root, guidance=guidance)
    case = contract.Case(adapter, pairs(3))
    batch = case.batch()
    draw = adapter.draw(batch, [3, 4, 5])
    scores = adapter.logprobs(adapter.policy, batch, draw, frozenset())
    assert scores.values.shape == (6, 1) and scores.kind == "reward"
    parts, judge = adapter.denoiser._parts, PickScore(str(root / "clip"), device="cpu")
    scheduler = DDIMScheduler.from_config(parts.pipeline.scheduler.config)
    scheduler.set_timesteps(1000)
    clean = adapter.denoiser._clean_latents(batch, draw)
    for row, sample in enumerate(batch.row_sample.tolist()):
        level, noise = draw["timestep"][sample, 0], draw["noise"][sample]
        x = scheduler.add_noise(clean[row : row + 1], noise, level[None])
        said, nothing = batch.inputs["states"][row : row + 1], batch.inputs["empty_states"][None]
        under, without = (parts.denoiser(x, level[None], one).sample for one in (said, nothing))
        predicted = without + guidance * (under - without)
        found = scheduler.step(predicted, int(level), x).pred_original_sample
        pixels = parts.pipeline.vae.decode(found / parts.pipeline.vae.config.scaling_factor).sample
        caption = f"cat {sample}"
        expected = judge.reward((pixels / 2 + 0.5).clamp(0, 1), [caption])
        assert float(scores.values[row, 0]) == pytest.approx(float(expected), abs=0.05)
    assert len({round(float(v), 2) for v in scores.values}) == 6


def test_contract(root: Path) -> None:
    case = contract.Case(wake(built(root)), pairs(3))
    contract.check_shapes(case)
    contract.check_same_draw_same_scores(case)
    contract.check_batching_does_not_matter(case, 1e-3)  # of scores a hundred times a cosine
    contract.check_gradients_reach_the_policy_only(case)
    assert not any(p.requires_grad or p.grad is not None for p in case.adapter.denoiser.policy.parameters())


def test_the_level_that_the_pair_was_noised_to_is_told(root: Path) -> None:
    """A picture equal on both sides scores the same: noise and level are the pair's; another level, another
    score, even of the same pixels."""
    adapter = wake(built(root))
    same = {role: (example("cat 1", picture(4)),) for role in ROLES}
    case = contract.Case(adapter, (PreferenceSample("a", same),))
    batch, scores = case.score()
    assert scores.values[0] == scores.values[1]
    draw = dict(adapter.draw(batch, [0]))
    inputs, level = adapter._seen(batch, draw)
    assert level.tolist() == draw["timestep"][0].repeat(2).tolist()
    text = batch.inputs["judge_text"]
    told = [
        adapter.policy(inputs, one, text[:, 0], text[:, 1], batch.inputs["judge_place"])
        for one in (level, 0 * level)
    ]
    assert bool((told[0] - told[1]).abs().min() > 1e-3)
    assert torch.equal(adapter.logprobs(adapter.policy, batch, draw, frozenset()).values[:, 0], told[0])


def test_captions_of_a_batch_run_once(root: Path) -> None:
    adapter = built(root)
    samples = [*pairs(2), PreferenceSample("again", pairs(1)[0].examples)]
    batch = contract.Case(adapter, tuple(samples)).batch()
    assert batch.inputs["judge_text"].shape == (2, 2, 77)
    assert batch.inputs["judge_place"].tolist() == [0, 0, 1, 1, 0, 0]


def test_self_check_sees_a_wrong_tower(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = wake(built(root))
    batch, _ = contract.Case(adapter, pairs(2)).score()
    draw = adapter.draw(batch, [1, 2])
    assert adapter.self_check(adapter.policy, batch, draw) < 1e-6
    timed = adapter._towers.timed
    right = timed.pictures
    monkeypatch.setattr(timed, "pictures", lambda inputs, steps: right(inputs, steps // 2))
    assert adapter.self_check(adapter.policy, batch, draw) > 1e-4


# ---------------------------------------------------------------- the loss


def rows(values: torch.Tensor) -> LogProbs:
    """Scores [S] as one role's."""
    places = torch.arange(len(values))
    mask = torch.ones(len(values), 1, dtype=torch.bool)
    return LogProbs(values[:, None], mask, "reward", "aspect", places, torch.zeros_like(places))


def test_bradley_terry_with_ties_is_the_published_loss() -> None:
    """Cross-entropy over the two logits, a tie halfway less ln 2, each prompt's rows together weighing 1:
    d = 0.4 and a tie at d = 0.4 with three and one rows of their prompts. Equal but for ln 2 of the tie."""
    logits = torch.tensor([[20.4, 20.0], [20.4, 20.0]], dtype=torch.float64, requires_grad=True)
    share = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    weight = 1 / torch.tensor([3.0, 1.0], dtype=torch.float64)
    tie = torch.tensor([0.0, 1.0], dtype=torch.float64)
    each = F.cross_entropy(logits, share, reduction="none") - tie * torch.log(torch.tensor(2.0))
    published = (each * weight).sum() / weight.sum()
    assert each.tolist() == pytest.approx([0.5130153, 0.0198681], abs=1e-6)
    assert float(published.detach()) == pytest.approx(0.1431549, abs=1e-6)
    (theirs,) = torch.autograd.grad(published, logits)

    scores = {"policy": {role: rows(logits[:, i]) for i, role in enumerate(ROLES)}}
    loss = BradleyTerry(ties="label")(scores, {"tie": tie}, {}, lambda v, w=None: v.mean()).loss
    assert (loss - each).tolist() == pytest.approx([0.0, 0.6931472], abs=1e-6)
    (ours,) = torch.autograd.grad((loss * weight).sum() / weight.sum(), logits)
    assert torch.allclose(ours, theirs, atol=1e-12)
    assert ours[0, 0] < 0 < ours[0, 1]  # the chosen side's score rises
    assert ours[1, 0] > 0 > ours[1, 1]  # a tied pair's sides come together


# ---------------------------------------------------------------- files and refusals


def test_what_is_saved_is_loaded_by_judge_and_adapter(root: Path, tmp_path: Path) -> None:
    adapter = wake(built(root))
    case = contract.Case(adapter, pairs(2))

    def load(folder: Path) -> torch.nn.Module:
        return built(root, path=str(folder)).policy

    contract.check_reload(case, tmp_path / "saved", None, load)
    folder = tmp_path / "saved" / "one"
    names = {p.name for p in folder.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "time_conditioning.safetensors",
    } <= names
    judge = Judge(str(folder), device="cpu")
    pictures, captions, levels = [picture(1), picture(2)], ["cat 1", "cat"], [501, 0]
    scored = judge.score_steps([prompt(c) for c in captions], [Part("image", p) for p in pictures], levels)
    towers = adapter._towers
    ids = torch.stack([towers.ids(caption) for caption in captions])
    expected = adapter.policy(
        towers.load(pictures), torch.tensor(levels), ids[:, 0], ids[:, 1], torch.arange(2)
    )
    assert [one["score"] for one in scored] == pytest.approx(expected.tolist(), abs=1e-4)
    config = adapter.config
    assert config.at("x").path == "x" and config.at("x").denoiser == config.denoiser


def test_a_model_without_conditioning_starts_fresh_from_its_seed(root: Path) -> None:
    first, again, other = (built(root, seed=seed).policy.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    differ = {name for name, value in first.items() if not torch.equal(value, other[name])}
    assert differ == {"time.embedder.0.weight", "time.embedder.2.weight"}


def test_rows_are_kept_apart_from_those_of_the_denoiser_alone(root: Path) -> None:
    adapter = built(root)
    assert adapter.fingerprint() != adapter.denoiser.fingerprint()
    assert adapter.fingerprint() == built(root).fingerprint()


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"path": " "}, "model.path: must not be empty"),
        ({"guidance": -1.0}, "model.guidance: must be 0 or more, got -1.0"),
        ({"denoiser": {"adapter": "text"}}, "denoiser.adapter: text denoises nothing; use diffusion"),
        ({"denoiser": {"adapter": "difusion"}}, "did you mean diffusion"),
        ({"denoiser": {"num_draws": 2}}, "denoiser.num_draws: one draw denoised in one step has no use"),
        ({"denoiser": {"weighting": "min_snr"}}, "denoiser.weighting: one draw denoised in one step"),
        ({"denoiser": {"zero_terminal_snr": True}}, "denoiser.zero_terminal_snr: one draw"),
        ({"denoiser": {"nonsense": 1}}, "denoiser: no field is called|nonsense"),
        ({"path": "/nowhere/clip"}, "model.path: there is no folder or file /nowhere/clip"),
        ({"checkpoint": "/nowhere/spm.bin"}, "model.checkpoint: there is no file /nowhere/spm.bin"),
        ({"denoiser": {"path": "/nowhere/sd"}}, "/nowhere/sd"),
    ],
)
def test_what_cannot_work_is_refused(root: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        built(root, **fields)
    assert "\n" not in str(caught.value)


def test_what_it_does_not_do_is_said(root: Path, tmp_path: Path) -> None:
    adapter = built(root)
    with pytest.raises(UserError, match="trains whole; remove the section"):
        _ = adapter.lora_targets
    with pytest.raises(UserError, match="trains whole"):
        adapter.save(adapter.policy, tmp_path, "policy")
    with pytest.raises(UserError, match="scores pictures and makes none"):
        adapter.generate(adapter.policy, [prompt("cat")], [0])


def test_checkpointing_changes_no_gradient(root: Path) -> None:
    found = []
    for on in (False, True):
        adapter = wake(built(root))
        if on:
            adapter.enable_checkpointing()
        adapter.policy.train()
        contract.Case(adapter, pairs(2)).score()[1].total().sum().backward()
        found.append({name: p.grad for name, p in adapter.policy.named_parameters()})
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-4) for name in found[0])
