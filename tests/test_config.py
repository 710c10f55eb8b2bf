"""Reading configs: overrides, names, mixtures, the way back to plain values, and a run's identity."""

import ast
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from config_text import loaded, refusal, text

import mmalign
from mmalign._names import KINDS, class_of, name_of, names
from mmalign.adapters.diffusion import Diffusion
from mmalign.adapters.text import Text
from mmalign.config import Evaluation, RunConfig, Train, dump, from_tree, identity, load, to_tree
from mmalign.data.jsonl import Jsonl
from mmalign.objectives._sum import WeightedSum
from mmalign.objectives.dpo import DPO
from mmalign.objectives.ipo import IPO
from mmalign.objectives.kto import KTO
from mmalign.objectives.sft import SFT
from mmalign.types import AllMean, Objective, Outcome, Scores, State, UserError

FULL = text(
    model="{adapter: diffusion, path: m, noise_offset: 0.2, timesteps: {max: 0.5}, generation: {steps: 7}}",
    data="[{source: jsonl, path: a, weight: 2.5}, {source: parquet, path: b, columns: {prompt: p, id: ~}}]",
    objective="[{name: dpo, beta: 5000}, {name: sft, weight: 0.5}, {name: dpo}]",
    transforms="[{name: length_desensitized, alpha: 0.25}]",
    train="{epochs: 0.5, schedule: cosine, schedule_steps: 100, draws: fixed:3, betas: [0.8, 0.9]}",
    lora="{targets: [q, v], alpha: 16}",
    heldout="{source: hub, path: z, split: test}",
    views="{redraw: once}",
    reference="{name: path, path: other}",
    evaluation="{num_prompts: 3}",
    log="{every: 2, progress: false}",
    cache="null",
    output="runs/x",
    seed="3",
)


@dataclass(frozen=True)
class Scaled(Objective):
    """An objective from outside the package."""

    scale: float
    powers: list[float] = field(default_factory=list)
    roles = {"policy": ("chosen",)}

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        return Outcome(self.scale * scores["policy"]["chosen"].total(), {}, state)


@dataclass(frozen=True)
class Judge:
    """A judge from outside the package."""

    strict: bool = False


class NotADataclass:
    """Cannot be filled from a config."""


# ---------------------------------------------------------------- sections


def test_defaults(tmp_path: Path) -> None:
    config = loaded(tmp_path, text())
    assert config.model == Text("m")
    assert config.data == ((None, Jsonl(path="d.jsonl")),)
    assert config.objective == DPO()
    assert config.train == Train(steps=10)
    assert config.lora is None and config.heldout is None and config.transforms == ()


def test_empty_optional_sections_mean_their_defaults(tmp_path: Path) -> None:
    config = loaded(tmp_path, text(lora="", views="", log="", transforms="[]", cache="null"))
    assert config == dataclasses.replace(loaded(tmp_path, text()), cache=None)


def test_a_mixture_keeps_weights_in_order(tmp_path: Path) -> None:
    config = loaded(tmp_path, FULL)
    assert [weight for weight, _ in config.data] == [2.5, None]
    assert [type(source).__name__ for _, source in config.data] == ["Jsonl", "Parquet"]
    assert config.data[1][1].columns == {"prompt": "p", "id": None}


def test_a_list_of_objectives_is_a_weighted_sum(tmp_path: Path) -> None:
    objective = loaded(tmp_path, FULL).objective
    assert objective == WeightedSum(
        (("dpo0", 1.0, DPO(beta=5000.0)), ("sft", 0.5, SFT()), ("dpo2", 1.0, DPO()))
    )
    assert loaded(tmp_path, text(objective="[{name: ipo}]")).objective == WeightedSum((("ipo", 1.0, IPO()),))


def test_one_transform_needs_no_list(tmp_path: Path) -> None:
    one = loaded(tmp_path, text(transforms="{name: length_desensitized}")).transforms
    assert one == loaded(tmp_path, text(transforms="[{name: length_desensitized}]")).transforms


@pytest.mark.parametrize(("draws", "count"), [("fresh", None), ("fixed:1", 1), ("fixed:12", 12)])
def test_number_of_draws(draws: str, count: int | None) -> None:
    assert Train(steps=1, draws=draws).num_draws == count


# ---------------------------------------------------------------- overrides


def test_overrides_apply_in_order(tmp_path: Path) -> None:
    config = loaded(tmp_path, text(), ["train.lr=5e-6", "train.batch=4", "train.lr=1e-3", "lora.rank=2"])
    assert config.train == Train(steps=10, lr=1e-3, batch=4)
    assert config.lora is not None and config.lora.rank == 2


def test_overrides_may_hold_lists_mappings_and_null(tmp_path: Path) -> None:
    overrides = ["train.betas=[0.5, 0.6]", "lora={rank: 3, targets: [a]}", "cache=null", "output=a=b"]
    config = loaded(tmp_path, text(), overrides)
    assert config.train.betas == (0.5, 0.6)
    assert config.lora is not None and (config.lora.rank, config.lora.targets) == (3, ("a",))
    assert config.cache is None and config.output == "a=b"


def test_overrides_reach_into_lists(tmp_path: Path) -> None:
    config = loaded(tmp_path, FULL, ["data.1.path=c", "objective.0.beta=7", "objective.1={name: ipo}"])
    assert config.data[1][1].path == "c"
    assert [term for _, _, term in config.objective.terms] == [DPO(beta=7.0), IPO(), DPO()]


def test_what_an_override_dropped_stands_before_the_refusal_it_caused(tmp_path: Path) -> None:
    """Whether or not the caller prints notes itself; a refusal of another section is left as it is."""
    path = tmp_path / "c.yaml"
    path.write_text(text(model="{adapter: text, path: m}"))
    said: list[str] = []
    for notes in (None, said):
        with pytest.raises(UserError) as caught:
            load(path, ["model.adapter=diffusion"], notes=notes)
        line = str(caught.value)
        assert line.startswith("model: diffusion replaces the whole section; dropped: path m; then ")
        assert line.endswith("model.path: this field is required") and "\n" not in line
    with pytest.raises(UserError, match=r"^[^;]*train.batch: "):
        load(path, ["model.adapter=diffusion", "model.path=m", "train.batch=0"])


def test_another_name_replaces_the_section(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = text(objective="{name: dpo, beta: 0.5}")
    assert loaded(tmp_path, content, ["objective.name=ipo"]).objective == IPO()
    captured = capsys.readouterr()
    assert captured.out == "" and "objective: ipo replaces the whole section" in captured.err
    assert loaded(tmp_path, content, ["objective.name=dpo"]).objective == DPO(beta=0.5)
    assert loaded(tmp_path, content, ["objective.name=kto", "objective.beta=0.3"]).objective == KTO(beta=0.3)


# ---------------------------------------------------------------- names


def test_every_name_finds_its_class_and_back() -> None:
    for kind in KINDS.values():
        for name in names(kind):
            assert name_of(kind, class_of(kind, name)) == name
    assert class_of(KINDS["model"], "diffusion") is Diffusion


def test_dotted_names_need_permission(tmp_path: Path) -> None:
    content = text(objective=f"{{name: '{__name__}:Scaled', scale: 2}}")
    assert "--allow-code" in refusal(tmp_path, content)
    config = loaded(tmp_path, content, allow_code=True)
    assert config.objective == Scaled(2.0)
    assert to_tree(config)["objective"]["name"] == f"{__name__}:Scaled"
    assert from_tree(to_tree(config), "again", allow_code=True) == config


def test_fields_of_dotted_classes_are_checked_alike(tmp_path: Path) -> None:
    def line(fields: str) -> str:
        return refusal(tmp_path, text(objective=f"{{name: '{__name__}:Scaled', {fields}}}"), (), True)

    assert "did you mean objective.scale?" in line("scal: 2")
    assert "objective.scale: this field is required" in line("powers: [1]")
    assert "objective.powers.1: must be a finite number, got nan" in line("scale: 1, powers: [1, .nan]")
    assert "objective.powers.0: must be a number, got true" in line("scale: 1, powers: [true]")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (f"{__name__}:Nothing", "has no class Nothing"),
        (f"{__name__}:NotADataclass", "must be a dataclass"),
        ("no_such_module:Loss", "no module named no_such_module"),
        ("mmalign.objectives.dpo:Nothing", "has no class Nothing"),
    ],
)
def test_dotted_names_that_lead_nowhere(name: str, words: str, tmp_path: Path) -> None:
    assert words in refusal(tmp_path, text(objective=f"{{name: '{name}'}}"), (), True)


def test_a_dotted_name_inside_the_package_needs_no_permission(tmp_path: Path) -> None:
    assert loaded(tmp_path, text(objective="{name: 'mmalign.objectives.ipo:IPO'}")).objective == IPO()


def a_function(prompts: list[str], responses: list[Any]) -> list[float]:
    """What somebody writes who has a function and no class."""
    return [1.0] * len(responses)


def test_a_function_is_told_its_form(tmp_path: Path) -> None:
    own = f"{__name__}:a_function"
    form = f"is a function, not a class; write {{name: python_function, function: {own}}}"
    assert form in refusal(tmp_path, text(evaluation=f"{{judge: '{own}'}}"), (), True)
    metric = "{name: mm_vet, questions: q.json, images: i, judge: %s}"
    line = refusal(tmp_path, text(evaluation=f"{{metrics: [{metric % own}]}}"), (), True)
    assert f"metrics[0].judge: {own} {form}" in line
    objective = refusal(tmp_path, text(objective=f"{{name: '{own}'}}"), (), True)
    assert "must be a dataclass" in objective, "of which none stands for functions"


def test_a_section_within_a_section_is_named_by_word_or_mapping(tmp_path: Path) -> None:
    """And needs the same permission either way, however deep."""
    metric = "{name: mm_vet, questions: q.json, images: i, judge: %s}"
    short, long = (
        loaded(tmp_path, text(evaluation=f"{{metrics: [{metric % one}]}}"))
        for one in ("brightness", "{name: brightness}")
    )
    assert short == long and short.evaluation.metrics[0].judge == {"name": "brightness"}
    strange = f"'{__name__}:Judge'"
    for one in (metric % strange, "{name: image_swap, of: %s}" % (metric % strange)):  # noqa: UP031
        assert "--allow-code" in refusal(tmp_path, text(evaluation=f"{{metrics: [{one}]}}"))
    line = refusal(
        tmp_path, text(evaluation="{metrics: [{name: tempcompass, questions: q.json, videos: v}]}")
    )
    assert "metrics[0].questions: must be a mapping of key: value, got 'q.json'" in line


def test_a_judge_is_named_by_word_or_mapping(tmp_path: Path) -> None:
    short = loaded(tmp_path, text(evaluation=f"{{judge: '{__name__}:Judge'}}"), allow_code=True)
    assert short.evaluation == Evaluation(judge=Judge())
    long = text(evaluation=f"{{batch: 4, judge: {{name: '{__name__}:Judge', strict: true}}}}")
    config = loaded(tmp_path, long, allow_code=True)
    assert config.evaluation == Evaluation(batch=4, judge=Judge(strict=True))
    assert from_tree(to_tree(config), "again", allow_code=True) == config
    assert "--allow-code" in refusal(tmp_path, long)


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize("content", [text(), FULL], ids=["short", "full"])
def test_the_resolved_config_reads_back_as_the_same(content: str, tmp_path: Path) -> None:
    config = loaded(tmp_path, content)
    assert from_tree(to_tree(config), "again") == config
    assert loaded(tmp_path, dump(config)) == config
    assert yaml.safe_load(dump(config)).keys() == to_tree(config).keys()


def test_identity_ignores_length_folder_and_logging(tmp_path: Path) -> None:
    base = text(train="{steps: 10}")
    same = [
        "train.steps=99", "train.save_every=5", "train.keep=7", "train.eval_every=3", "train.workers=2",
        "train.timeout_s=9", "output=elsewhere", "cache=null", "log.every=1", "log.progress=false",
        "evaluation.num_prompts=2", "evaluation.seed=4",
    ]  # fmt: skip
    for override in same:
        assert identity(loaded(tmp_path, base, [override])) == identity(loaded(tmp_path, base)), override
    epochs = loaded(tmp_path, text(train="{epochs: 3}"))
    assert identity(epochs) == identity(loaded(tmp_path, base))


def test_identity_sees_everything_else(tmp_path: Path) -> None:
    other = [
        "seed=1", "model.path=n", "data.path=e", "objective.beta=0.2", "objective.name=ipo", "train.lr=1e-3",
        "train.batch=8", "train.micro_batch=1", "train.precision=bf16", "train.clip=null",
        "train.dropout=true", "train.draws=fixed:2", "lora.rank=8", "views.redraw=once",
        "reference.name=copy", "heldout.source=hub", "train.max_bad_steps=9",
        "transforms.name=length_desensitized",
    ]  # fmt: skip
    base = text(heldout="{source: jsonl, path: h}")
    ids = [identity(loaded(tmp_path, base))]
    for override in other:
        extra = ["heldout.path=h"] if override.startswith("heldout") else []
        ids.append(identity(loaded(tmp_path, base, [override, *extra])))
    assert len(set(ids)) == len(other) + 1


# ---------------------------------------------------------------- no silent fields


def _config_classes() -> Iterator[type]:
    """Every dataclass a config can fill, nested ones included."""
    found: list[type] = [class_of(kind, name) for kind in KINDS.values() for name in names(kind)]
    found.append(RunConfig)
    seen: set[type] = set()
    while found:
        cls = found.pop()
        if cls in seen:
            continue
        seen.add(cls)
        yield cls
        for hint in get_type_hints(cls).values():
            inner = [hint, *get_args(hint)]
            found += [h for h in inner if isinstance(h, type) and dataclasses.is_dataclass(h)]


def _attributes_read() -> set[str]:
    """Names read as attributes anywhere in the package but in the range checks of dataclasses."""
    read: set[str] = set()
    for path in Path(mmalign.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        checks = {
            node
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef) and function.name == "__post_init__"
            for node in ast.walk(function)
        }
        read |= {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node not in checks
        }
    return read


def test_every_field_of_every_config_class_is_read_somewhere() -> None:
    read = _attributes_read()
    classes = list(_config_classes())
    assert {RunConfig, Train, DPO, Text, Diffusion, Jsonl} <= set(classes)
    silent = [f"{c.__name__}.{f.name}" for c in classes for f in dataclasses.fields(c) if f.name not in read]
    assert silent == []


def test_naming_an_objective_replaces_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sum.yaml"
    path.write_text(text(objective="[{name: dpo, beta: 0.2}, {name: sft, weight: 2}]"))
    assert load(path, ["objective.name=dpo"]).objective == DPO()
    assert "replaces the whole section" in capsys.readouterr().err
    assert load(path, ["objective.0.beta=0.3"]).objective.terms[0][2] == DPO(beta=0.3)
