"""Does the policy gradient of sampled paths point where the reward rises, and which steps spoil it?

The built-in image model with an untrained LoRA samples ten steps with noise. For a reward that is a formula
on pixels its gradient can also be had through the sampler itself, noise held still: that is the true one. The
policy gradient of the same paths (advantage times the gradient of the steps' densities) is held against it,
with all steps and with only the noisiest. Writes results/path_gradient.md.

    python scripts/bench/path_gradient.py    # 8 prompts, 8 pictures each: about 1 min of one core
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mmalign import api
from mmalign.adapters._denoiser import Denoiser
from mmalign.adapters._transitions import Walk
from mmalign.rewards._probes import Probe
from mmalign.rewards.brightness import Brightness
from mmalign.rewards.saturation import Saturation
from mmalign.shapes.preferences import validation_prompts
from mmalign.training.setup import build_policy
from mmalign.types import Message, Part, Prepared, Row, derive_seed

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "objectives" / "diffusion" / "ddpo.yaml"
PROMPTS, EACH, TOGETHER = 8, 8, 8
REWARDS: dict[str, Probe] = {"brightness": Brightness(), "saturation": Saturation()}
ABOUT = """\
# Policy gradients of sampled paths

{pictures} pictures of {prompts} prompts by the built-in image model, ten noisy DDIM steps, guidance 3, one
draw of the noise. *share*: of the mean squared gradient of a path's log-density, the share of the step that
begins at *level* (of 1000). The cosines are those of the policy gradient over the steps down to that one
with the reward's own gradient, through the sampler: as it is, and with every weight divided by the root
mean square of its gradients over pictures, which is what Adam does.
"""
NEEDS = frozenset({"ratio", "transition"})


def weights(adapter: Denoiser) -> list[Tensor]:
    """The half of the LoRA that has a gradient before the first step."""
    return [p for name, p in adapter.policy.named_parameters() if p.requires_grad and "lora_B" in name]


def flat(found: Sequence[Tensor]) -> Tensor:
    return torch.cat([one.flatten() for one in found]).double()


def sampled(adapter: Denoiser) -> tuple[list[dict[str, Tensor]], dict[str, Tensor], dict[str, Tensor]]:
    """Rows of the paths, rewards [N] by name, and the true gradients [D] of their means."""
    texts = [text for text in validation_prompts(PROMPTS, 0) for _ in range(EACH)]
    prompts = [(Message("text", (Part("text", text),)),) for text in texts]
    seeds = [derive_seed(7, 0, str(place), "path_gradient") for place in range(len(texts))]
    rows: list[dict[str, Tensor]] = []
    rewards: dict[str, list[float]] = {name: [] for name in REWARDS}
    slopes = {name: torch.zeros(()) for name in REWARDS}
    for places, walk, noise in adapter._walks(adapter.policy, prompts, seeds):
        x = noise()
        path = [x]
        for step in range(len(walk.level)):
            mean, spread = walk._moments(x, step, torch.arange(len(x)))
            x = mean + spread[:, None, None, None] * noise()
            path.append(x.detach())
        pixels = (adapter._latents.decode(x) / 2 + 0.5).clamp(0, 1)
        for name, probe in REWARDS.items():
            found = probe.measure(pixels)
            slope = torch.autograd.grad(found.sum(), weights(adapter), retain_graph=True)
            slopes[name] = slopes[name] + flat(slope) / len(texts)
            rewards[name] += found.tolist()
        rows += kept_rows(walk, path, len(places))
    return rows, {name: torch.tensor(r).double() for name, r in rewards.items()}, slopes


def kept_rows(walk: Walk, path: Sequence[Tensor], count: int) -> list[dict[str, Tensor]]:
    stored = torch.stack(list(path[: walk.kept + 1]), 1)
    return [walk._row(stored[place], slice(0, walk.kept), place) for place in range(count)]


def step_gradients(adapter: Denoiser, rows: Sequence[dict[str, Tensor]]) -> Tensor:
    """Gradients of the log-density (a sum over elements) of every step of every path, [N, K, D]."""
    found = []
    for row in rows:
        batch = adapter.collate([Prepared("s", (Row("completion", 0, row),), encoded=True)], ["completion"])
        draw = adapter.draw(batch, [0])
        elements = row["path"][0].numel()
        for pick in draw["path_pick"].split(1, dim=1):
            scored = adapter.logprobs(adapter.policy, batch, {**draw, "path_pick": pick}, NEEDS)
            found.append(flat(torch.autograd.grad(scored.values.sum() * elements, weights(adapter))).float())
    return torch.stack(found).unflatten(0, (len(rows), -1))


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def page(levels: Sequence[int], steps: Tensor, rewards: dict[str, Tensor], slopes: dict[str, Tensor]) -> str:
    """The table: one row per number of steps that are kept."""
    power = steps.double().square().sum(-1).mean(0)
    lines = [
        ABOUT.format(pictures=len(steps), prompts=PROMPTS),
        "| level | share | " + " | ".join(f"{name}, cosine | as Adam has it" for name in REWARDS) + " |",
        "|" + "---|" * (2 + 2 * len(REWARDS)),
    ]
    advantages = {}
    for name, one in rewards.items():
        each = one.reshape(PROMPTS, EACH)
        advantages[name] = (each - each.mean(1, keepdim=True)).flatten()
    for kept in range(1, steps.shape[1] + 1):
        own = steps[:, :kept].double().sum(1)
        fields = [str(levels[kept - 1]), f"{float(power[kept - 1] / power.sum()):.1%}"]
        for name, slope in slopes.items():
            each = advantages[name][:, None] * own
            size = each.square().mean(0).sqrt().clamp(min=1e-12)
            fields += [f"{cosine(each.sum(0), slope):+.2f}", f"{cosine(each.sum(0) / size, slope):+.2f}"]
        lines.append(f"| {' | '.join(fields)} |")
    return "\n".join([*lines, "\nMade by `scripts/bench/path_gradient.py`."]) + "\n"


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = api.load_config(CONFIG, f"model.generation.batch={TOGETHER}")
    adapter = build_policy(config, torch.device("cpu"))
    assert isinstance(adapter, Denoiser)
    adapter.policy.eval()
    rows, rewards, slopes = sampled(adapter)
    made = page(rows[0]["path_level"].tolist(), step_gradients(adapter, rows), rewards, slopes)
    (Path(__file__).parent / "results" / "path_gradient.md").write_text(made)
    print(made)


if __name__ == "__main__":
    main()
