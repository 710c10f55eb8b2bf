"""Broken configs: what is changed in a sound one, and what the refusal must say.

BASE names a model folder that looks like one and holds nothing, see `hollow`: a refusal about anything else
shows that no model was loaded.
"""

BASE = """\
model: {adapter: text, path: ./nowhere}
data: {source: jsonl, path: pairs.jsonl}
objective: {name: dpo, beta: 0.1}
train:
  steps: 2
  batch: 4
  lr: 0.001
cache: cache
output: out
"""
OBJECTIVE = "objective: {name: dpo, beta: 0.1}\n"
TRAIN = "  lr: 0.001\n"

# name -> (part of BASE, what stands there instead, words of the refusal)
EDITS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "word for a number": ("0.001", "five", ("config.yaml: train.lr", "must be a number, got 'five'")),
    "number with unit": ("0.001", "5e-6x", ("train.lr", "must be a number")),
    "no for false": (TRAIN, TRAIN + "  checkpointing: no\n", ("checkpointing", "true or false, got 'no'")),
    "on for a number": ("batch: 4", "batch: on", ("train.batch", "must be a number, got 'on'")),
    "octal": ("batch: 4", "batch: 012", ("train.batch", "must be a number, got '012'")),
    "underscore": ("batch: 4", "batch: 1_000", ("train.batch", "must be a number, got '1_000'")),
    "date": ("batch: 4", "batch: 2024-01-01", ("train.batch", "got '2024-01-01'")),
    "true for a number": ("batch: 4", "batch: true", ("train.batch", "must be a number, got true")),
    "fraction": ("batch: 4", "batch: 4.5", ("train.batch", "got 4.5")),
    "number for a text": ("output: out", "output: 7", ("output", "string", "got 7")),
    "key twice": (TRAIN, TRAIN * 2, ("config.yaml line 8", "key lr is given twice")),
    "section twice": (OBJECTIVE, OBJECTIVE * 2, ("line 4", "key objective is given twice")),
    "unknown section": (OBJECTIVE, OBJECTIVE + "trian: {}\n", ("trian", "did you mean train?")),
    "unknown key": ("  lr:", "  learning_rate:", ("unknown key learning_rate", "valid keys: steps, epochs")),
    "misspelt key": ("beta", "betta", ("objective: unknown key betta", "did you mean objective.beta?")),
    "unknown nested key": (
        "./nowhere",
        "./nowhere, generation: {top: 1}",
        ("model.generation", "unknown key top"),
    ),
    "unknown objective": ("name: dpo", "name: dpoo", ("no objective is called 'dpoo'", "did you mean dpo?")),
    "unknown adapter": ("adapter: text", "adapter: txet", ("no adapter", "'txet'", "did you mean text?")),
    "unknown choice": (TRAIN, TRAIN + "  precision: fp8\n", ("train.precision", "'fp32' or 'bf16'", "'fp8'")),
    "path for a name": ("name: dpo", "name: ../dpo", ("'../dpo'", "package.module:Class")),
    "no module": ("name: dpo, beta: 0.1", "name: no_such.place:Loss", ("no module named no_such",)),
    "no class": ("name: dpo, beta: 0.1", "name: os:Loss", ("os:Loss", "has no class Loss")),
    "tab": ("  steps", "\tsteps", ("config.yaml line 5", "tab")),
    "open bracket": ("beta: 0.1}", "beta: 0.1", ("config.yaml line",)),
    "python tag": (
        "./nowhere",
        "!!python/object/apply:os.getcwd []",
        ("line 1", "tag !!python", "supported"),
    ),
    "plain tag": ("./nowhere", "!!str x", ("line 1", "the tag !!str")),
    "alias": ("./nowhere", "&a x, dtype: *a", ("line 1", "anchors and aliases")),
    "number for a key": (OBJECTIVE, OBJECTIVE + "3: 4\n", ("line 4", "keys must be strings, got 3")),
    "nested deep": ("0.001", "[" * 40 + "]" * 40, ("config.yaml", "deeper than 20")),
    "nested very deep": ("0.001", "[" * 20_000 + "]" * 20_000, ("config.yaml", "not readable as YAML")),
    "negative lr": ("0.001", "-1", ("train.lr: must be above 0, got -1",)),
    "zero lr": ("0.001", "0", ("train.lr: must be above 0, got 0",)),
    "NaN": ("0.001", ".nan", ("train.lr", "finite number")),
    "infinite": ("0.001", ".inf", ("train.lr", "finite number")),
    "overflow": ("0.001", "1e999", ("train.lr", "finite number")),
    "NaN in words": ("0.001", "nan", ("train.lr", "must be a number, got 'nan'")),
    "NaN in quotes": ("0.001", '".nan"', ("train.lr", "must be a number, got '.nan'")),
    "negative beta": ("beta: 0.1", "beta: -0.1", ("objective.beta", "above 0", "-0.1")),
    "infinite beta": ("beta: 0.1", "beta: .inf", ("objective.beta", "finite number")),
    "zero batch": ("batch: 4", "batch: 0", ("train.batch: must be above 0, got 0",)),
    "steps and epochs": (
        "steps: 2",
        "steps: 2\n  epochs: 1",
        ("train.steps", "exactly one of steps and epochs"),
    ),
    "no length": ("  steps: 2\n", "", ("train.steps", "exactly one of steps and epochs")),
    "heldout all": ("pairs.jsonl", "pairs.jsonl, heldout: 1.5", ("data.heldout", "share", "1.5")),
    "list for a number": (
        "beta: 0.1",
        "beta: [0.1, 0.2]",
        ("objective.beta", "must be one number, got [0.1, 0.2]"),
    ),
    "number for a list": (TRAIN, TRAIN + "  betas: 0.9\n", ("train.betas", "got 0.9")),
    "text for a section": (
        OBJECTIVE,
        "objective: dpo\n",
        ("objective", "mapping with name: NAME, got 'dpo'"),
    ),
    "list for a section": ("train:\n", "train: []\nlog:\n", ("train", "must be a mapping")),
    "empty section": ("model: {adapter: text, path: ./nowhere}", "model:", ("model: the section is empty",)),
    "missing section": (OBJECTIVE, "", ("config.yaml: section objective is missing",)),
    "missing field": (", path: ./nowhere", "", ("model.path: this field is required",)),
    "empty mixture": ("{source: jsonl, path: pairs.jsonl}", "[]", ("data: the list of sources is empty",)),
    "weight zero": (
        "{source: jsonl, path: pairs.jsonl}",
        "[{source: jsonl, path: pairs.jsonl, weight: 0}]",
        ("data[0].weight: must be above 0, got 0",),
    ),
    "LoRA reference, no LoRA": (
        OBJECTIVE,
        OBJECTIVE + "reference: {name: lora_off}\n",
        ("reference.name=lora_off", "there is no LoRA", "section lora"),
    ),
    "no reference for DPO": (
        OBJECTIVE,
        OBJECTIVE + "reference: {name: none}\n",
        ("reference.name=none", "needs a reference"),
    ),
    "reference for SFT": (
        OBJECTIVE,
        "objective: {name: sft}\nreference: {name: copy}\n",
        ("reference.name=copy", "takes no reference"),
    ),
    "reference path unset": (
        OBJECTIVE,
        OBJECTIVE + "reference: {name: path}\n",
        ("reference.path", "needs a folder or hub id"),
    ),
    "reference path unread": (
        OBJECTIVE,
        OBJECTIVE + "reference: {name: copy, path: x}\n",
        ("reference.path", "only read with name path or cached"),
    ),
    "initial adapter unset": (
        OBJECTIVE,
        OBJECTIVE + "reference: {name: initial_adapter}\nlora: {rank: 2}\n",
        ("reference.name=initial_adapter", "lora.path"),
    ),
    "micro above batch": (TRAIN, TRAIN + "  micro_batch: 5\n", ("train.micro_batch", "5", "train.batch, 4")),
    "schedule without end": (TRAIN, TRAIN + "  schedule: cosine\n", ("train.schedule_steps", "cosine")),
    "end without schedule": (TRAIN, TRAIN + "  schedule_steps: 9\n", ("train.schedule_steps", "not read")),
    "draws for text": (TRAIN, TRAIN + "  draws: fixed:2\n", ("train.draws=fixed:K", "draws nothing")),
    "draws of none": (TRAIN, TRAIN + "  draws: fixed:0\n", ("train.draws", "fixed:K", "'fixed:0'")),
    "heldout twice": (
        "pairs.jsonl}",
        "pairs.jsonl, heldout: 2}\nheldout: {source: jsonl, path: pairs.jsonl}",
        ("heldout", "not both"),
    ),
    "MaPO for text": ("name: dpo, beta: 0.1", "name: mapo", ("mapo", "needs error", "adapter text offers")),
    "IPO of a length on pictures": (
        "model: {adapter: text",
        "model: {adapter: diffusion, weighting: min_snr, gamma: -1",
        ("model.gamma", "above 0", "-1"),
    ),
    "LoRA targets": (OBJECTIVE, OBJECTIVE + "lora: {targets: ((}\n", ("lora.targets", "regular expression")),
    "LoRA rank": (OBJECTIVE, OBJECTIVE + "lora: {rank: 0}\n", ("lora.rank: must be above 0, got 0",)),
    "no data file": (
        "pairs.jsonl",
        "gone.jsonl",
        ("'gone.jsonl'", "no such file (relative paths start at /"),
    ),
    "no data folder": ("pairs.jsonl", "gone/pairs.jsonl", ("data.path 'gone/pairs.jsonl'", "no such file")),
    "data a folder": ("pairs.jsonl", ".", ("data.path '.'", "not a regular file")),
    "data name too long": ("pairs.jsonl", "x" * 300, ("x" * 50, "File name too long")),
    "no data root": ("pairs.jsonl", "pairs.jsonl, root: gone", ("data.root 'gone'", "no such folder")),
    "no split": (
        "pairs.jsonl",
        "pairs.jsonl, split: test",
        ("pairs.jsonl row 1", "data.split", "no split column"),
    ),
    "no column": (
        "pairs.jsonl",
        "pairs.jsonl, columns: {chosen: good}",
        ("pairs.jsonl row 1", "data.columns names 'good'"),
    ),
    "no canonical field": (
        "pairs.jsonl",
        "pairs.jsonl, columns: {better: chosen}",
        ("data.columns", "'better' is no canonical field"),
    ),
    "batch above the data": ("batch: 4", "batch: 40", ("train.batch 40", "larger than the data (8 rows)")),
    "no model folder": ("./nowhere", "./gone", ("model.path", "no folder ./gone")),
    "model a file": ("./nowhere", "pairs.jsonl", ("model.path", "pairs.jsonl is a file")),
    "output a file": ("output: out", "output: pairs.jsonl", ("output: pairs.jsonl is a file",)),
    "output inside a file": (
        "output: out",
        "output: pairs.jsonl/run",
        ("output", "pairs.jsonl", "is a file"),
    ),
    "output the working folder": ("output: out", 'output: ""', ("output", "must name a folder")),
    "output the user's folder": ("output: out", "output: .", ("output: .", "not empty and holds no run")),
    "output name too long": ("output: out", "output: " + "y" * 300, ("y" * 50, "File name too long")),
    "model name too long": ("./nowhere", "./" + "z" * 300, ("z" * 50, "File name too long")),
    "cache a file": ("cache: cache", "cache: pairs.jsonl", ("cache", "pairs.jsonl", "is a file")),
}

# name -> (bytes of the whole file, words of the refusal)
FILES: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "empty": (b"", ("config.yaml", "the file is empty")),
    "a comment": (b"# nothing yet\n", ("config.yaml", "the file is empty")),
    "a list": (b"- model\n- data\n", ("config.yaml", "must hold sections", "list")),
    "a word": (b"train\n", ("config.yaml", "must hold sections", "str")),
    "Latin-1": (BASE.encode() + b"# caf\xe9\n", ("config.yaml", "not UTF-8")),
    "binary": (b"\x00\x01\x02\x03", ("config.yaml",)),
    "too large": (b"#" * (2 << 20), ("config.yaml", "larger than 1 MiB")),
    "billion laughs": (
        b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        ("config.yaml line 1", "anchors and aliases"),
    ),
}

OVERRIDES: dict[str, tuple[str, tuple[str, ...]]] = {
    "no equals sign": ("train.lr", ("override 'train.lr'", "section.field=value")),
    "no name": ("=3", ("override '=3'", "section.field=value")),
    "no such section": ("trian.lr=3", ("unknown key trian", "did you mean train?")),
    "no such field": ("train.lrr=3", ("unknown key lrr", "did you mean train.lr?")),
    "inside a value": ("train.lr.x=3", ("override 'train.lr.x=3'", "holds a value")),
    "no such place": ("train.betas.0=0.5", ("train.betas",)),
    "bad value": ("train.lr=five", ("train.lr", "must be a number, got 'five'")),
    "broken YAML": ("train.lr=[1", ("override train.lr",)),
    "section for a value": ("train=3", ("train", "must be a mapping")),
    "MaPO by override": ("objective.name=mapo", ("mapo", "needs error")),
}
