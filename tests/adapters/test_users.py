"""Users of a denoiser: the branch by hand, the neutral mode, what is off, saved, given and refused."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_families as tiny
from adapters import tiny_sdxl
from contract import Case
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from tiny_sd import pair, picture, prompt, save_pipeline
from torch import nn

from mmalign.adapters import _users as users
from mmalign.adapters._denoiser import Denoiser
from mmalign.adapters._latent_sampling import Generation
from mmalign.adapters._user_branches import branches, taken_out
from mmalign.adapters._user_config import User
from mmalign.adapters.diffusion import Diffusion
from mmalign.types import Batch, PreferenceSample, UserError

CPU = torch.device("cpu")
NAMES = ("ann", "bob")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("users"))


def adapter(folder: Path, user: User | None, **settings: Any) -> Denoiser:
    settings = {"generation": Generation(steps=2, guidance=2.0), **settings}
    return Diffusion(str(folder), user=user, **settings).build(CPU)


def awake(made: Denoiser, seed: int = 0) -> Denoiser:
    """Branches as after training: their outputs are no longer zero."""
    torch.manual_seed(seed)
    for branch in branches(made.policy).values():
        nn.init.normal_(branch.user_out.weight, std=0.5)
    return made


def samples(*names: Any) -> tuple[PreferenceSample, ...]:
    made = []
    for i, name in enumerate(names):
        plain = pair(f"s{i}", "cat", picture(i), picture(9 + i))
        made.append(
            PreferenceSample(plain.id, plain.examples, {} if name is None else {"user": name}, origin="r")
        )
    return tuple(made)


def errors(
    made: Denoiser, batch: Batch, model: nn.Module | None = None, **draw: torch.Tensor
) -> torch.Tensor:
    """Of every row, under the same noise for all samples."""
    drawn = made.draw(batch, [5] * len(batch.sample_ids))
    with torch.no_grad():
        found = made.logprobs(model or made.policy, batch, {**drawn, **draw}, frozenset()).error
    assert found is not None
    return found.flatten()


def test_the_branch_by_hand(folder: Path) -> None:
    """softmax(q k / sqrt(d)) v of two tokens, four heads, through the output, beside the text's."""
    made = awake(adapter(folder, User(NAMES, tokens=2, width=6)))
    name, branch = next(iter(branches(made.policy).items()))
    attention: Any = made.policy.get_submodule(name)
    stream = torch.Generator().manual_seed(1)
    x, text = (
        torch.randn(3, 5, attention.query_dim, generator=stream),
        torch.randn(3, 7, 32, generator=stream),
    )
    user = torch.randn(3, 2, 6, generator=stream)
    with torch.no_grad():
        plain = branch.inner(attention, x, text)
        ours = attention(x, encoder_hidden_states=text, user=user)
        size = branch.user_k.out_features // attention.heads
        q, k, v = attention.to_q(x), user @ branch.user_k.weight.T, user @ branch.user_v.weight.T
        heads = []
        for head in range(attention.heads):
            part = slice(head * size, (head + 1) * size)
            weights = (q[..., part] @ k[..., part].transpose(1, 2) / size**0.5).softmax(-1)
            heads.append(weights @ v[..., part])
        expected = plain + torch.cat(heads, -1) @ branch.user_out.weight.T
    assert torch.allclose(ours, expected, atol=1e-5) and not torch.allclose(ours, plain, atol=1e-3)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_nothing_changes_at_the_start(folder: Path, tmp_path: Path, family: str) -> None:
    path = folder if family == "sd" else tiny_sdxl.save_pipeline(tmp_path / "xl")
    plain, made = adapter(path, None), adapter(path, User(NAMES))
    given = samples("ann", "bob", "carl", None)
    batch = Case(made, given).batch()
    assert batch.inputs["user"].tolist() == [0, 0, 1, 1, -1, -1, -1, -1]
    assert torch.equal(errors(made, batch), errors(plain, Case(plain, given).batch()))
    asked = [prompt("cat")]
    with users.speaking_for(made.policy, {"ann": 1.0}):
        spoken = made.sample_pixels(made.policy, asked, [1])
    assert torch.equal(spoken, plain.sample_pixels(plain.policy, asked, [1]))
    assert len(branches(made.policy)) > 0 and made.self_check(made.policy, batch) < 1e-5


def test_every_row_is_scored_for_its_own_user(folder: Path) -> None:
    made = awake(adapter(folder, User(NAMES)))
    same = [pair("s", "cat", picture(1), picture(2))] * 4
    given = tuple(
        PreferenceSample(f"s{i}", one.examples, {} if name is None else {"user": name})
        for i, (one, name) in enumerate(zip(same, ("ann", "bob", "carl", None), strict=True))
    )
    batch = Case(made, given).batch()
    keep = {"no_user": torch.zeros(4, dtype=torch.bool)}
    ann, bob, carl, nobody = errors(made, batch, **keep).chunk(4)
    plain = adapter(folder, None)
    neutral = errors(plain, Case(plain, given).batch())[:2]
    assert torch.allclose(carl, neutral, rtol=1e-5) and torch.allclose(nobody, neutral, rtol=1e-5)
    assert not torch.allclose(ann, neutral, rtol=1e-3) and not torch.allclose(ann, bob, rtol=1e-3)
    dropped = errors(made, batch, no_user=torch.tensor([True, False, False, False])).chunk(4)
    assert torch.allclose(dropped[0], neutral, rtol=1e-5) and torch.equal(dropped[1], bob)
    alone = errors(made, Case(made, given[:1]).batch(), no_user=torch.zeros(1, dtype=torch.bool))
    assert torch.allclose(alone, ann, rtol=1e-5)
    assert made.self_check(made.policy, batch) < 1e-5
    rows = [made.prepare(sample, ("chosen", "rejected")).rows[0] for sample in given]
    assert len({row.key for row in rows}) == 3  # the two neutral ones are one
    assert made.check(given[2], ("chosen",)) == ("rows of no known user, scored in the neutral mode",)
    assert made.check(given[0], ("chosen",)) == ()


def test_a_frozen_source_knows_no_users(folder: Path) -> None:
    made = awake(adapter(folder, User(NAMES, dropout=0.0)))
    batch = Case(made, samples("ann", "bob")).batch()
    known, neutral = errors(made, batch), errors(made, batch, no_user=torch.ones(2, dtype=torch.bool))
    with users.switched_off(made.policy):
        assert torch.allclose(errors(made, batch), neutral, rtol=1e-6)
    assert torch.equal(errors(made, batch), known)
    frozen = copy.deepcopy(made.policy)
    users.turn_off(frozen)
    assert torch.allclose(errors(made, batch, frozen), neutral, rtol=1e-6)
    assert torch.equal(errors(made, batch), known)


def test_users_are_dropped_in_their_share(folder: Path) -> None:
    found = users.drop_users(range(2000), 0.25)
    assert found.float().mean() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(found[100:200], users.drop_users(range(100, 200), 0.25))
    made, plain = adapter(folder, User(NAMES)), adapter(folder, None)
    batch = Case(made, samples("ann")).batch()
    ours, theirs = made.draw(batch, [3]), plain.draw(batch, [3])
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())  # other draws stay


def test_blends_lie_between(folder: Path) -> None:
    made = awake(adapter(folder, User(NAMES)))
    table = users.users_of(made.policy)
    assert table is not None
    half = table.blended({"ann": 0.25, "bob": 0.75})
    assert torch.allclose(half, 0.25 * table.table[0] + 0.75 * table.table[1])
    asked, seeds = [prompt("cat"), prompt("a dog")], [1, 2]
    found = {}
    for name in ({"ann": 1.0}, {"bob": 1.0}, {"ann": 0.5, "bob": 0.5}):
        with users.speaking_for(made.policy, name):
            found[tuple(name)] = made.sample_pixels(made.policy, asked, seeds)
    found[()] = made.sample_pixels(made.policy, asked, seeds)
    assert torch.equal(
        found[()], adapter(folder, None).sample_pixels(adapter(folder, None).policy, asked, seeds)
    )
    kinds = list(found.values())
    assert all(not torch.equal(kinds[i], kinds[j]) for i in range(4) for j in range(i))
    with pytest.raises(UserError, match="user 'carl': has no vector in this run; known: ann, bob"):
        table.blended({"carl": 1.0})
    with (
        pytest.raises(UserError, match="this run's model knows no users"),
        users.speaking_for(nn.Linear(1, 1), {}),
    ):
        pass
    assert users.shares_of("ann") == {"ann": 1.0} and users.shares_of("ann=.3, bob=.7") == {
        "ann": 0.3,
        "bob": 0.7,
    }
    with pytest.raises(UserError, match="must be a name, or name=share"):
        users.shares_of("ann=much")


def test_saved_users_come_back_and_the_pipeline_is_upstream_s(folder: Path, tmp_path: Path) -> None:
    made = awake(adapter(folder, User(NAMES, tokens=2, width=8)))
    batch = Case(made, samples("ann", "bob")).batch()
    before = errors(made, batch)
    for target in (tmp_path / "one", tmp_path / "two"):
        made.save(made.policy, target, None)
    assert torch.equal(errors(made, batch), before)
    plain = StableDiffusionPipeline.from_pretrained(tmp_path / "one", local_files_only=True).unet.state_dict()
    assert plain.keys() == tiny.denoiser(tiny.load(folder)).state_dict().keys()
    file = tmp_path / "one" / "users.safetensors"
    assert file.read_bytes() == (tmp_path / "two" / "users.safetensors").read_bytes()
    again = adapter(tmp_path / "one", User(path=str(tmp_path / "one"), tokens=2, width=8))
    assert torch.equal(errors(again, Case(again, samples("ann", "bob")).batch()), before)
    more = adapter(folder, User(("carl", "bob"), path=str(tmp_path / "one"), tokens=2, width=8))
    table = users.users_of(more.policy)
    assert table is not None and table.names == ("carl", "bob")
    saved = load_file(file)["table"]
    assert torch.equal(table.table[1], saved[1]) and torch.allclose(table.table[0], saved.mean(0))
    with taken_out(made.policy):
        assert users.users_of(made.policy) is None and not branches(made.policy)
    assert users.users_of(made.policy) is not None and branches(made.policy)


def test_given_vectors_stay(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "vectors.safetensors"
    save_file({"bob": torch.ones(1, 8), "ann": torch.arange(8.0)}, file)
    made = adapter(folder, User(embeddings=str(file), tokens=1, width=8))
    table = users.users_of(made.policy)
    assert table is not None and table.names == ("ann", "bob")
    assert table.table.tolist() == [[list(map(float, range(8)))], [[1.0] * 8]]
    assert "users.table" not in dict(made.policy.named_parameters())
    assert "users.table" not in made.parts["users"] and len(made.parts["users"]) == 3 * len(
        branches(made.policy)
    )


def test_only_vectors_train_where_only_they_are_wanted(folder: Path, tmp_path: Path) -> None:
    made = awake(adapter(folder, User(NAMES)))
    made.save(made.policy, tmp_path / "run", None)
    few = adapter(folder, User(("carl",), path=str(tmp_path / "run"), learn="vectors"))
    users.freeze_for(few.policy)
    assert [n for n, p in few.policy.named_parameters() if p.requires_grad] == ["users.table"]


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({}, "user.names: give the users' names"),
        ({"names": ("a", "a")}, "each name once"),
        ({"names": ("a",), "embeddings": "x"}, "remove one of the two"),
        ({"embeddings": "x", "learn": "vectors"}, "those of user.embeddings are given"),
        ({"names": ("a",), "learn": "vectors"}, "needs user.path"),
        ({"names": ("a",), "tokens": 0}, "must be 1 or more"),
        ({"names": ("a",), "dropout": 1.0}, "must lie in"),
    ],
)
def test_sections_that_contradict_themselves(settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        User(**settings)


def test_files_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.safetensors"
    save_file({"ann": torch.ones(2, 8)}, wrong)
    with pytest.raises(UserError, match=r"ann must hold finite numbers of shape \[1, 8\]"):
        adapter(folder, User(embeddings=str(wrong), tokens=1, width=8))
    with pytest.raises(UserError, match="users.safetensors"):
        adapter(folder, User(path=str(tmp_path / "nowhere")))
    made = adapter(folder, User(NAMES, tokens=2, width=8))
    made.save(made.policy, tmp_path / "run", None)
    with pytest.raises(UserError, match="holds 2 tokens of width 8; set user.tokens and user.width"):
        adapter(folder, User(path=str(tmp_path / "run")))
    xl = tiny_sdxl.save_pipeline(tmp_path / "xl")
    with pytest.raises(UserError, match="its branches are of another network"):
        adapter(xl, User(path=str(tmp_path / "run"), tokens=2, width=8))
    sd3 = tiny.FAMILIES["sd3"](tmp_path / "sd3", 0)
    with pytest.raises(UserError, match="model.user: a StableDiffusion3Pipeline cannot be told of users"):
        adapter(sd3, User(NAMES))


def test_metrics_by_user() -> None:
    policy = nn.Module()
    policy.add_module("users", users.Users(("ann", "7"), torch.zeros(2, 1, 1), False, "all"))
    metrics = {"loss": torch.tensor([1.0, 2.0, 3.0]), "z": torch.zeros(3)}
    found = users.by_user(policy, ["ann", None, "bob"], metrics)
    assert found.keys() == {"loss/seen_users", "loss/unseen_users"}
    assert found["loss/seen_users"].nan_to_num(-1).tolist() == [1, -1, -1]
    assert found["loss/unseen_users"].nan_to_num(-1).tolist() == [-1, -1, 3]
    numbers = users.by_user(policy, torch.tensor([7.0, torch.nan, 8.0]), metrics)
    assert numbers["loss/seen_users"].nan_to_num(-1).tolist() == [1, -1, -1]
    assert users.by_user(nn.Linear(1, 1), ["ann"], metrics) == {}
