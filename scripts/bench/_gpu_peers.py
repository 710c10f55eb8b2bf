"""The peers of the GPU benchmark: the published scripts' steps over many pairs and pipelines of full size.

Every step they move pixels to the device, run the autoencoder on both pictures of every pair and the text
encoders on the captions, and read several scalars back for their log. Captions are tokenised beforehand.
Weights that train are in float32 under autocast, what is frozen is in bfloat16, as the scripts have it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from _diffusion_inputs import BETA, CLIP, LR, MAPO_BETA, MAPO_K, RANK, TRAIN_TIMESTEPS
from _gpu_models import Frozen
from _gpu_sides import INVERSION_BETA, INVERSION_GUIDANCE, Given, Pairs, perturb, state_of
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from torch import Tensor, nn

Told = dict[str, Tensor]  # what the denoiser is told, by its own argument names


@dataclass(frozen=True)
class Shared:
    """A policy and its optimizer that our side has as well: two would not fit beside each other."""

    model: Any
    optimizer: Any


class Peer(ABC):
    """What the scripts share. `exact_vae`: the autoencoder stays in float32."""

    exact_vae, with_reference = False, True

    def __init__(
        self,
        frozen: Frozen,
        pairs: Pairs,
        checkpointing: bool,
        shared: Shared | None = None,
        precision: str = "bf16",
    ) -> None:
        """Without `shared` a LoRA adapter trains on a network of this side's own. `precision`: bf16, fp32, or
        exact, float32 over the weights that bf16 has."""
        self.frozen, self.shape, self.checkpointing = frozen, frozen.shape, checkpointing
        self.half = torch.bfloat16 if precision == "bf16" else torch.float32
        self.device = frozen.device
        vae: Any = frozen.modules["vae"]
        self.vae = vae if self.exact_vae else _copied(vae).to(torch.bfloat16)
        self.reference: Any = None
        if shared is None:
            rounded = self.half if precision == "fp32" else torch.bfloat16
            self.model = frozen.denoiser(rounded).to(self.half).requires_grad_(False)
            settings = LoraConfig(
                r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=list(self.shape.targets)
            )
            self.model.add_adapter(settings)
            cast_training_params(self.model, dtype=torch.float32)
            perturb(self.model)
            trained = [p for p in self.model.parameters() if p.requires_grad]
            self.optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=0.0, fused=True)
        else:
            self.model, self.optimizer = shared.model, shared.optimizer
            if self.with_reference:
                self.reference = frozen.denoiser(self.half).requires_grad_(False)
        self.trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.scheduler = frozen.noise()
        self.ids = self._tokens(list(pairs.captions))
        scaled = pairs.pixels.float() / 127.5 - 1.0
        self.pixels = scaled.pin_memory() if self.device.type == "cuda" else scaled
        self.given: Given | None = None
        self.logs: dict[str, Tensor] = {}
        self.logged: dict[str, float] = {}

    # ------------------------------------------------------------ what goes in

    def _tokens(self, captions: list[str]) -> list[Tensor]:
        longest = {"tokenizer_3": 256}
        found = []
        for name, tokenizer in self.frozen.tokenizers.items():
            size = longest.get(name, 77)
            made = tokenizer(
                captions, max_length=size, padding="max_length", truncation=True, return_tensors="pt"
            )
            found.append(made.input_ids)
        return found

    def told(self) -> Told:
        """Text states, and what goes with them, of the captions."""
        found = self._encoded(self.ids)
        if self.given is None:
            return found
        pooled = "pooled_projections" if self.shape.flow else "text_embeds"
        names = {"states": "encoder_hidden_states", "pooled": pooled, "time_ids": "time_ids"}
        return {names[name]: value for name, value in self.given.told.items()}

    def _encoded(self, ids: list[Tensor]) -> Told:
        towers = [
            self.frozen.modules[n] for n in ("text_encoder", "text_encoder_2") if n in self.frozen.modules
        ]
        moved = [one.to(self.device, non_blocking=True) for one in ids]
        if len(towers) == 1:
            return {"encoder_hidden_states": towers[0](moved[0])[0]}
        out = [tower(one, output_hidden_states=True) for tower, one in zip(towers, moved, strict=False)]
        states = torch.cat([one.hidden_states[-2] for one in out], -1)
        if not self.shape.flow:
            return {
                "encoder_hidden_states": states,
                "text_embeds": out[1][0],
                "time_ids": self._sizes(len(states)),
            }
        long = self.frozen.modules["text_encoder_3"](moved[2])[0]
        states = torch.cat([F.pad(states, (0, long.shape[-1] - states.shape[-1])), long], 1)
        return {"encoder_hidden_states": states, "pooled_projections": torch.cat([one[0] for one in out], -1)}

    def _sizes(self, count: int) -> Tensor:
        side = float(self.shape.side)
        return torch.tensor([[side, side, 0.0, 0.0, side, side]], device=self.device).repeat(count, 1)

    def latents(self) -> Tensor:
        """Both pictures of every pair through the autoencoder, [2 B, C, h, w]; scaled."""
        pixels = self.pixels.to(self.device, dtype=self.vae.dtype, non_blocking=True)
        parts = [self.vae.encode(some).latent_dist.sample() for some in pixels.split(8)]
        if self.given is not None:
            return self.given.latents
        config = self.vae.config
        scaled: Tensor = (torch.cat(parts).float() - (config.shift_factor or 0.0)) * config.scaling_factor
        return scaled

    @torch.no_grad()
    def noised(self) -> tuple[Tensor, Tensor, Told, Tensor]:
        """Noised latents, what tells the noise level, what else is told, and the target, of all pictures."""
        latents, told = self.latents(), self.told()
        count = len(latents) // 2
        if self.given is None:
            noise = torch.randn_like(latents[:count])
            level = torch.randint(0, TRAIN_TIMESTEPS, (count,), device=self.device)
        else:
            noise, level = self.given.noise, self.given.timestep
        noise, level = noise.repeat(2, 1, 1, 1), level.repeat(2)
        told = {name: torch.cat([value, value]) for name, value in told.items()}
        if self.shape.flow:
            share = self.scheduler.sigmas.sort().values.to(self.device)[level].reshape(-1, 1, 1, 1)
            return (1 - share) * latents + share * noise, 1000 * share.flatten(), told, noise - latents
        return self.scheduler.add_noise(latents, noise, level), level, told, noise

    def call(self, model: Any, noisy: Tensor, time: Tensor, told: Told, autocast: bool = True) -> Tensor:
        """A prediction in float32."""
        told = {n: v if n == "time_ids" else v.to(self.half) for n, v in told.items()}
        half = autocast and self.half == torch.bfloat16
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            return self.forward(model, noisy.to(self.half), time, told).float()

    @staticmethod
    def forward(model: Any, noisy: Tensor, time: Tensor, told: Told) -> Tensor:
        """The denoiser's output."""
        added = {name: told[name] for name in ("text_embeds", "time_ids") if name in told}
        more: dict[str, Any] = {"added_cond_kwargs": added} if added else {}
        rest = {name: value for name, value in told.items() if name not in added}
        output: Tensor = model(noisy, timestep=time, **rest, **more).sample
        return output

    def reference_of(self, noisy: Tensor, time: Tensor, told: Told) -> Tensor:
        """The reference's prediction: the network without its adapter, or the frozen copy in bfloat16."""
        with torch.no_grad():
            if self.reference is not None:
                return self.call(self.reference, noisy, time, told, autocast=False)
            self.model.disable_adapters()
            found = self.call(self.model, noisy, time, told)
            self.model.enable_adapters()
            return found

    # ------------------------------------------------------------ the step

    def ready(self) -> None:
        """Put the model, which other sides may share, into this side's mode; not timed."""
        if self.checkpointing:
            self.model.enable_gradient_checkpointing()
        else:
            self.model.disable_gradient_checkpointing()
        self.model.train()

    @abstractmethod
    def loss(self) -> Tensor:
        """The loss [] of the pairs; fills `logs`."""

    def backward(self, pair: int = 0) -> float:
        """Loss of the step's pairs, its gradients added to what trains."""
        loss = self.loss()
        loss.backward()
        return float(loss.detach())

    def step(self) -> None:
        """A whole step."""
        self.loss().backward()
        torch.nn.utils.clip_grad_norm_(self.trainable, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.logged = {name: value.detach().item() for name, value in self.logs.items()}

    def held(self) -> list[Tensor]:
        """Everything that stays on the device between steps because of this side."""
        modules: list[nn.Module] = [self.model, self.vae, *self.frozen.modules.values()]
        if self.vae is not self.frozen.modules["vae"]:
            modules.remove(self.frozen.modules["vae"])
        if self.reference is not None:
            modules.append(self.reference)
        found = [value for one in modules for value in (*one.parameters(), *one.buffers())]
        return found + state_of(self.optimizer)


def _copied(module: Any) -> Any:
    made = type(module).from_config(module.config).to(module.device)
    made.load_state_dict(module.state_dict())
    return made.eval().requires_grad_(False)


def _errors(prediction: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(prediction.float(), target.float(), reduction="none").mean(dim=[1, 2, 3])


class DiffusionDPO(Peer):
    """Diffusion-DPO (arXiv 2311.12908). The scripts leave the half of the error out of their beta."""

    def loss(self) -> Tensor:
        """See `Peer`."""
        noisy, time, told, target = self.noised()
        errors = _errors(self.call(self.model, noisy, time, told), target)
        chosen, rejected = errors.chunk(2)
        theirs = _errors(self.reference_of(noisy, time, told), target)
        chosen_before, rejected_before = theirs.chunk(2)
        logits = (chosen_before - rejected_before) - (chosen - rejected)
        loss = -1 * F.logsigmoid(0.5 * BETA * logits).mean()
        self.logs = {
            "loss": loss,
            "raw_model_loss": 0.5 * (chosen.mean() + rejected.mean()),
            "ref_loss": theirs.mean(),
            "implicit_acc": (logits > 0).float().mean(),
        }
        return loss


class MaPO(Peer):
    """MaPO (arXiv 2406.06424): no reference, and the autoencoder in float32."""

    exact_vae, with_reference = True, False

    def loss(self) -> Tensor:
        """See `Peer`."""
        noisy, time, told, target = self.noised()
        chosen, rejected = _errors(self.call(self.model, noisy, time, told), target).chunk(2)
        win, lose = _bounded(chosen), _bounded(rejected)
        ratio = MAPO_BETA * F.logsigmoid((win - lose) * TRAIN_TIMESTEPS)
        loss = chosen.mean() - ratio.mean()
        self.logs = {"loss": loss, "win": win.mean(), "lose": lose.mean(), "or_loss": -ratio.mean()}
        return loss


def _bounded(error: Tensor) -> Tensor:
    return (MAPO_K * error) / (torch.exp(MAPO_K * error) - 1)


class InversionDPO(Peer):
    """Inversion-DPO (arXiv 2507.11554), one pair: each picture is inverted anew with the reference under
    guidance, then the policy predicts at all of those latents, and all graphs live until the one backward.
    The unconditional half is zeros, as the release has it for XL."""

    steps = 20

    def loss(self) -> Tensor:
        """See `Peer`."""
        with torch.no_grad():
            chosen, rejected = self.latents().chunk(2)
            told = self.told()
            empty = {
                name: value if name == "time_ids" else torch.zeros_like(value) for name, value in told.items()
            }
            both = {name: torch.cat([empty[name], told[name]]) for name in told}
        sampler = self.frozen.sampler()
        total = []
        for picture in (chosen, rejected):
            gaps = self._gaps(sampler, picture, both)
            total.append(torch.stack([weight * gap for weight, gap in gaps]).sum())
        inside = 0.5 * INVERSION_BETA * (total[0] - total[1]) / self.steps
        loss = -1 * F.logsigmoid(inside)
        self.logs = {"loss": loss, "gap": inside, "implicit_acc": (inside > 0).float()}
        return loss

    def _gaps(self, sampler: Any, clean: Tensor, both: Told) -> list[tuple[float, Tensor]]:
        """Weight and mean squared gap of the two models' predictions at every step of one inversion."""
        space = TRAIN_TIMESTEPS // self.steps
        upwards = [space * step for step in range(self.steps)]
        x, path, theirs = clean, [], []
        for level in upwards:
            with torch.no_grad():
                guided = self._guided(self._reference, x, level, both)
            path.append(x)
            theirs.append(guided)
            before = level - space
            alpha = sampler.alphas_cumprod[before] if before >= 0 else sampler.final_alpha_cumprod
            after = sampler.alphas_cumprod[level]
            x = after**0.5 * (x - (1 - alpha) ** 0.5 * guided) / alpha**0.5 + (1 - after) ** 0.5 * guided
        found = []
        for latents, level, target in zip(path, upwards, theirs, strict=True):
            ours = self._guided(self._policy, latents, level, both)
            weight = 1 / (2 * float(sampler.alphas_cumprod[level]))
            found.append((weight, (ours - target).pow(2).mean()))
        return found

    def _reference(self, x: Tensor, time: Tensor, told: Told) -> Tensor:
        return self.call(self.reference, x, time, told, autocast=False)

    def _policy(self, x: Tensor, time: Tensor, told: Told) -> Tensor:
        return self.call(self.model, x, time, told)

    def _guided(self, predict: Callable[..., Tensor], x: Tensor, level: int, both: Told) -> Tensor:
        time = torch.full((2,), level, device=self.device)
        empty, told = predict(torch.cat([x, x]), time, both).chunk(2)
        mixed: Tensor = empty + INVERSION_GUIDANCE * (told - empty)
        return mixed
