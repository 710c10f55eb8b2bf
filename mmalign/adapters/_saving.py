"""Writing trained weights in upstream formats, the same bytes for the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def save_lora(model: Any, folder: Path, name: str, base: str, task: str | None = "CAUSAL_LM") -> None:
    """A PEFT folder with sorted settings, so that equal weights give equal files."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    config = model.peft_config[name]
    weights = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    prefix = "base_model.model."  # the place of the model inside a PeftModel
    state = {prefix + key: value.detach().cpu().contiguous() for key, value in sorted(weights.items())}
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = config.to_dict() | {
        "base_model_name_or_path": base,
        "task_type": task,
        "inference_mode": True,
    }
    text = json.dumps(settings, indent=2, sort_keys=True, default=sorted)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
