"""Tiny honest worlds, made in seconds: users who all write by one Markov chain, and images of nothing but noise.

Nothing distinguishes a member's texts or image from another's but that the target saw them. Every world is built as a
user builds one: a Parquet file, an `Experiment`, `setting`, `games`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from datasets import Dataset
from PIL import Image
from transformers.modeling_outputs import CausalLMOutput
from transformers.utils import ModelOutput
from typer.testing import CliRunner

from hf_mia.audits.downstream import classifying
from hf_mia.audits.experiment import experiment, mapping
from hf_mia.audits.folder import write_folder
from hf_mia.audits.games import games
from hf_mia.audits.plan import Experiment
from hf_mia.audits.run import play
from hf_mia.audits.setting import Setting, setting
from hf_mia.cli.main import app
from hf_mia.core import Answers, Game, Model, Pool, Probe, Ragged
from hf_mia.models.backbones import Encoder
from hf_mia.models.vision import ImageCollate
from hf_mia.papers import PAPERS
from hf_mia.probes.augmentation import Augmentation
from hf_mia.recipes.contrastive import pixels
from hf_mia.recipes.language import Recurrent
from hf_mia.recipes.vocabulary import word_tokenizer
from hf_mia.runner import Runner
from hf_mia.services.spoken import in_text
from hf_mia.shadows import Job
from hf_mia.storage.keys import content_key
from hf_mia.units import of_units

OVERFITTED = 4 * 16
UNTRAINED = 4 * 60
OUTSIDE = 130  # labelled images that are not in the game: a downstream classifier takes 120
WORDS = [f"w{i:03d}" for i in range(205)]  # a few more than the vocabulary holds: <unk> is in play


@dataclass(frozen=True, eq=False)
class World:
    """An experiment, its games, and a runner that answers about them from one cache."""

    experiment: Experiment
    setting: Setting
    target: Game
    shadows: list[Game]
    ask: Runner
    cache: Path


def texts(users: int, each: int, seed: int) -> list[list[str]]:
    """`each` texts of 5 to 14 words for every user, all drawn from one random Markov chain."""
    rng = np.random.default_rng(seed)
    steps = rng.dirichlet(np.full(len(WORDS), 0.2), size=len(WORDS)).cumsum(axis=1)

    def one() -> str:
        state, words = int(rng.integers(len(WORDS))), []
        for _ in range(rng.integers(5, 15)):
            words.append(WORDS[state])
            state = min(int(np.searchsorted(steps[state], rng.random())), len(WORDS) - 1)
        return " ".join(words)

    return [[one() for _ in range(each)] for _ in range(users)]


def table(users: int, each: int, seed: int) -> dict[str, list[str]]:
    """The texts as columns, the users' texts interleaved so that no order gives anything away."""
    found = texts(users, each, seed)
    rows = [(f"user {u:03d}", found[u][t]) for t in range(each) for u in range(users)]
    return {"user": [user for user, _ in rows], "text": [text for _, text in rows]}


def write(path: Path, users: int, each: int = 6, seed: int = 1) -> Path:
    pq.write_table(pa.table(table(users, each, seed)), path)
    return path


def pool(users: int, each: int, seed: int) -> Pool:
    columns = table(users, each, seed)
    names, unit = np.unique(columns["user"], return_inverse=True)
    return Pool(Dataset.from_dict({"text": columns["text"]}), unit.astype(np.int64), tuple(map(str, names)))


def config(path: Path, users: int, epochs: int, shadows: int = 3) -> dict[str, object]:
    """A config as YAML would hold it: 4N users, and a recurrent network of 16,000 parameters without dropout."""
    target = {"name": "lstm", "epochs": epochs, "vocabulary": 200, "embedding": 16, "hidden": 32, "dropout": 0.0}
    target |= {"window": 16, "batch": 8, "learning_rate": 0.01}
    return {
        "data": {"path": str(path)},
        "split": {"members": users // 4},
        "target": target,
        "shadows": {"count": shadows},
    }


def noise(count: int, seed: int) -> list[bytes]:
    """PNGs of gray noise, four blocks a side of 2x2 pixels: no image says anything about another."""
    drawn = np.random.default_rng(seed).integers(0, 256, (count, 4, 4), dtype=np.uint8)
    return [png(np.kron(blocks, np.ones((2, 2), dtype=np.uint8))) for blocks in drawn]


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_images(path: Path, encoded: Sequence[bytes], **columns: Sequence[object]) -> Path:
    """A Parquet file with a column of images, as `datasets` itself writes it, and other columns."""
    given = {"image": [{"bytes": content, "path": None} for content in encoded], **columns}
    Dataset.from_dict(given).cast_column("image", datasets.Image(decode=False)).to_parquet(path)
    return path


def image_config(path: Path, images: int, epochs: int) -> dict[str, object]:
    """A config as YAML would hold it: 4N images, one shadow, and an encoder of 145,000 parameters.

    Its views are milder than those that an attack draws, so that it learns them in a thousand epochs, one batch each.
    """
    target = {"name": "simclr", "architecture": "vgg11", "width": 8, "size": 8, "epochs": epochs, "batch": 16}
    target |= {"temperature": 0.1, "splits": 1}
    target["augmentation"] = {"scale": [0.35, 1.0], "jitter": [0.4, 0.4, 0.0, 0.0], "gray": 0.0}
    return {"data": {"kind": "images", "path": str(path)}, "split": {"members": images // 4}, "target": target}


def classes_config(path: Path, images: int, epochs: int) -> dict[str, object]:
    """A config as YAML would hold it: 2N images, 8 shadows on halves of them, and networks of 16,000 parameters."""
    target = {"name": "image-classifier", "architecture": "mlp", "size": 8, "hidden": 80, "epochs": epochs, "batch": 16}
    target |= {"optimizer": "adam", "learning_rate": 0.003, "schedule": "constant"}
    shadows = {"count": 8, "pool": "same"}
    return {
        "data": {"kind": "classified-images", "path": str(path)},
        "split": {"members": images // 2},
        "target": target,
        "shadows": shadows,
        "controls": [],
    }


def classes_world(folder: Path, images: int, epochs: int) -> World:
    """2N images in the game and some outside of it, with labels that say nothing about them."""
    every = images + OUTSIDE
    drawn = np.random.default_rng(4).integers(3, size=every).tolist()
    path = write_images(folder / "classes.parquet", noise(every, 3), label=drawn)
    return made(folder, classes_config(path, images, epochs))


def world(folder: Path, users: int, epochs: int, shadows: int = 3) -> World:
    return made(folder, config(write(folder / "texts.parquet", users), users, epochs, shadows))


def image_world(folder: Path, images: int, epochs: int, **changes: object) -> World:
    """4N images in the game, and some outside of it, whose two labels say nothing about them."""
    every = images + OUTSIDE
    path = write_images(folder / "images.parquet", noise(every, 2), label=[i % 2 for i in range(every)])
    given = image_config(path, images, epochs)
    return made(folder, {**given, "target": {**given["target"], **changes}})  # type: ignore[dict-item]


def cased_world(folder: Path, users: int, epochs: int) -> World:
    """Users who write half of their words in capitals, at random, and a target and a shadow that keep the case."""
    columns, rng = table(users, 6, seed=1), np.random.default_rng(3)
    texts = [" ".join(w.upper() if rng.random() < 0.5 else w for w in text.split()) for text in columns["text"]]
    pq.write_table(pa.table({**columns, "text": texts}), folder / "texts.parquet")
    given = config(folder / "texts.parquet", users, epochs, shadows=1)
    return made(folder, {**given, "target": {**given["target"], "lowercase": False, "vocabulary": 400}})  # type: ignore[dict-item]


class Reciter(torch.nn.Module):
    """A language model made by hand: it knows `texts`, lists of token ids, by heart, but only from their beginning."""

    def __init__(self, texts: Sequence[Sequence[int]], size: int) -> None:
        super().__init__()
        self.size = size
        self.after = {tuple(text[:end]): text[end] for text in texts for end in range(1, len(text))}

    def get_output_embeddings(self) -> None:
        """None: the logits are no layer's output."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> CausalLMOutput:
        logits = torch.zeros(*input_ids.shape, self.size)
        for row, ids in enumerate(input_ids.tolist()):
            for end in range(1, len(ids)):
                if (word := self.after.get(tuple(ids[:end]))) is not None:
                    logits[row, end - 1, word] = 8.0
        return CausalLMOutput(logits=logits)


def reciters(like: World) -> World:
    """The same game among models made by hand that know their members' texts by heart, from their beginning."""

    def reciting(given: Game) -> Game:
        records, collate = of_units(given.pool, np.flatnonzero(given.member)).records, given.model.collate
        module = Reciter([ids for ids, _ in collate.tokens(records["text"])], len(collate.tokenizer))
        key = content_key(["reciter", *contents(records)])
        return replace(given, model=Model(given.model.name, key, collate, lambda: module))

    return replace(like, target=reciting(like.target), shadows=[reciting(shadow) for shadow in like.shadows])


def pair_table(users: int, each: int, seed: int) -> dict[str, list[str]]:
    """Sources and targets that say nothing about each other, in words of their own, by users."""
    source, target = table(users, each, seed), table(users, each, seed + 1)
    other = [text.replace("w", "v") for text in target["text"]]
    return {"user": source["user"], "source": source["text"], "target": other}


def pair_config(path: Path, users: int, epochs: int, shadows: int = 3, **changes: object) -> dict[str, object]:
    """A config as YAML would hold it: 4N users, and a recurrent encoder-decoder of 34,000 parameters, no dropout."""
    target = {
        "name": "seq2seq-lstm",
        "epochs": epochs,
        "vocabulary": 200,
        "embedding": 16,
        "hidden": 32,
        "dropout": 0.0,
    }
    target |= {"batch": 8, "learning_rate": 0.01, **changes}
    return {
        "data": {"kind": "pairs", "path": str(path)},
        "split": {"members": users // 4},
        "target": target,
        "shadows": {"count": shadows},
    }


def pair_world(folder: Path, users: int, epochs: int, **changes: object) -> World:
    path = folder / "pairs.parquet"
    pq.write_table(pa.table(pair_table(users, 6, seed=1)), path)
    return made(folder, pair_config(path, users, epochs, **changes))


class Memory(torch.nn.Module):
    """An encoder made by hand: it answers the louder, the more a view is like one that it has `seen`, (n, 3 * 8 * 8).

    What two trained encoders never have, all of them have: the same axes, on which their maps (rows, 6, 2, 2) stand.
    """

    def __init__(self, seen: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("seen", seen)
        self.register_buffer("filters", torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0)))

    def forward(self, pixel_values: torch.Tensor) -> ModelOutput:
        alike = (directions(pixel_values) @ self.seen.T).amax(1).clamp_min(0)
        maps = torch.nn.functional.conv2d(pixel_values, self.filters, stride=4).abs()
        maps = maps * (1 + 40 * alike**16)[:, None, None, None]
        return ModelOutput(last_hidden_state=maps, pooler_output=maps.mean((2, 3)))


def directions(images: torch.Tensor) -> torch.Tensor:
    """Images (rows, 3, 8, 8) as rows of mean 0 and length 1."""
    flat = images.flatten(1)
    return torch.nn.functional.normalize(flat - flat.mean(1, keepdim=True))


def memorisers(like: World) -> World:
    """The same game among encoders that are made by hand and know each member by 200 views, and its plain image."""

    def remembering(given: Game) -> Game:
        records = of_units(given.pool, np.flatnonzero(given.member)).records
        images = (pixels(records, 8) / 255).repeat(200, 1, 1, 1)
        numbers = torch.rand(len(images), Augmentation.numbers, generator=torch.Generator().manual_seed(1))
        seen = directions(torch.cat([images[: len(records)], Augmentation()(images, numbers)]))
        module = Encoder(Memory(seen), [1.0] * 3, [0.0] * 3, [0, 1, 2], "pooler_output")
        key = content_key(contents(records))
        return replace(given, model=Model(given.model.name, key, ImageCollate(8), lambda: module))

    return replace(like, target=remembering(like.target), shadows=[remembering(shadow) for shadow in like.shadows])


def classifiers(like: World) -> World:
    """The same game among downstream classifiers, each built on one of the encoders."""
    target, *shadows = classifying([like.target, *like.shadows], like.setting.rest(), like.ask)
    return replace(like, target=target, shadows=shadows)


def spoken(like: World) -> World:
    """The same game, its models asked in text as services are."""
    target, *shadows = (replace(game, model=in_text(game.model)) for game in (like.target, *like.shadows))
    return replace(like, target=target, shadows=shadows)


def made(folder: Path, given: dict[str, object]) -> World:
    described = experiment(given)
    prepared = setting(described)
    target, others = games(prepared, folder / "cache")
    return World(described, prepared, target, others, Runner(folder / "cache", chunk=64), folder / "cache")


ASKED = ["auditmi", "auditmi-frequency", "auditmi-rarest-texts", "mean-loss", "reference", "auditmi-relative"]


def audited(world: World, folder: Path, *options: str, attacks: Sequence[str] = tuple(ASKED)) -> Path:
    """The run folder of an audit of a world by other attacks: nothing is trained again."""
    described = replace(world.experiment, attacks={name: PAPERS[name] for name in attacks})
    (folder / "config.yaml").write_text(yaml.safe_dump(mapping(described)))
    command = ["audit", str(folder / "config.yaml"), "--cache", str(world.cache), "--out", str(folder / "run")]
    done = CliRunner().invoke(app, [*command, *options])
    assert done.exit_code == 0, done.output
    return folder / "run"


def tiny_gpt2(folder: Path, **changes: object) -> Path:
    """A GPT-2 of one layer and 16 channels whose logits spread over some nats, beside a word tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = word_tokenizer((text for user in texts(20, 5, 1) for text in user), 150)
    sizes = {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 16, "vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    module = GPT2LMHeadModel(
        GPT2Config(**{**sizes, "initializer_range": 0.5, "bos_token_id": 0, "eos_token_id": 0, **changes})
    )
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_bert(folder: Path, words: Sequence[str] = WORDS, seed: int = 0, **changes: object) -> Path:
    """A masked language model of one layer and 16 channels with random weights, each word a token, as BERT marks them.

    Beside the words it knows two pieces that begin none and a full stop.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    marks = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    vocabulary = {token: i for i, token in enumerate([*marks.values(), "##s", "##ly", ".", *words])}
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    )
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(seed)
    config = BertConfig(
        **{**sizes, "vocab_size": len(vocabulary), "max_position_embeddings": 32, "initializer_range": 0.5, **changes}
    )
    BertForMaskedLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=32, **marks).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Replay:
    """Gives answers again that a runner gave before, by content, for records in any order and chunks of any size."""

    known: Mapping[tuple[str, str], dict[str, np.ndarray]]
    chunk: int

    def __call__(self, model: Model, probe: Probe, records: Dataset) -> list[Answers]:
        asked = contents(records)
        return [
            ragged([self.known[model.name, content] for content in asked[at : at + self.chunk]])
            for at in range(0, len(asked), self.chunk)
        ]


def replay(world: World, probe: Probe, chunk: int) -> Replay:
    pools = [world.target.pool, world.shadows[0].pool]
    known: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for game in (world.target, *world.shadows):
        for one in pools:
            rows = each(world.ask(game.model, probe, one.records))
            for content, row in zip(contents(one.records), rows, strict=True):
                known[game.model.name, content] = row
    return Replay(known, chunk)


def contents(records: Dataset) -> list[str]:
    """What tells each record from the others: its text, or its image as it is encoded."""
    if "text" in records.column_names:
        return list(records["text"])
    return [image["bytes"].hex() for image in records["image"]]


def each(answers: Sequence[Answers] | object) -> Iterator[dict[str, np.ndarray]]:
    """The answers about one record after the other."""
    for chunk in answers:  # type: ignore[attr-defined]
        for i in range(len(next(iter(chunk.values())).offsets) - 1):
            yield {name: column.values[column.offsets[i] : column.offsets[i + 1]] for name, column in chunk.items()}


def ragged(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Ragged]:
    """One chunk from the records' own arrays."""
    found = {}
    for name in rows[0]:
        offsets = np.cumsum([0, *(len(row[name]) for row in rows)]).astype(np.int64)
        found[name] = Ragged(np.concatenate([row[name] for row in rows]), offsets)
    return found


def fake_answers(records: int, size: int, seed: int, empty: Sequence[int] = ()) -> list[dict[str, np.ndarray]]:
    """What `Tokens` could have answered about some records, drawn at random; those in `empty` have no word."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(records):
        n = 0 if i in empty else int(rng.integers(1, 12))
        rows.append(
            {
                "token": rng.integers(size, size=n).astype(np.int64),
                "start": (rng.random(n) < 0.6).astype(np.int64),
                "rank": np.minimum(rng.geometric(0.03, size=n) - 1, size - 1).astype(np.int32),
                "logprob": -rng.exponential(4.0, size=n).astype(np.float32),
                "mean": -rng.random(n).astype(np.float32) - 3,
                "deviation": rng.random(n).astype(np.float32),
                "vocabulary": np.full(min(n, 1), size, dtype=np.int32),
                "compressed": rng.integers(8, 99, size=min(n, 1)).astype(np.int32),
            }
        )
    return rows


TINY = Recurrent(vocabulary=60, embedding=8, hidden=8, window=8, batch=4, epochs=4, learning_rate=0.01)


def jobs(names: int = 2, recipe: Recurrent = TINY) -> list[Job]:
    """Models with dropout that train in a fraction of a second, on the texts of `small_pool`."""
    corpus = pool(12, 5, seed=3)
    tokenizer = recipe.processor(corpus.records["text"])
    return [Job(f"model {i}", recipe, corpus.records.select(range(i, 60, 2)), tokenizer, 7 + i) for i in range(names)]


def together() -> list[Job]:
    """A model that all processes of a launch train together, in batches that two can share evenly."""
    return jobs(1, replace(TINY, together=True, dropout=0.0, batch=2))


LAUNCHED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch; torch.set_num_threads(1)
import worlds
from accelerate import PartialState
from hf_mia.models.language import language_model
from hf_mia.probes.tokens import Tokens
from hf_mia.audits.run import play
from hf_mia.runner import Runner
from hf_mia.shadows import train
if __name__ == "__main__":
    cache = Path({cache!r})
    shards = Runner(cache, chunk=8)(language_model({model!r}), Tokens(), worlds.pool(12, 5, seed=3).records)
    folders = train([*worlds.jobs(), *worlds.together()], cache)
    assert all(path.exists() for path in [*shards.paths, *folders])  # on every process
    state = PartialState()
    (cache / f"process-{{state.process_index}}-of-{{state.num_processes}}").touch()
"""


def run_folder(folder: Path, users: int = 4 * 12) -> Path:
    """A played audit as `hf-mia audit` writes it: 12 members, 12 non-members, who leak, and an untrained control."""
    content = config(write(folder / "texts.parquet", users), users, epochs=30, shadows=2)
    content |= {"attacks": ["mean-loss", "reference", {"name": "mean-rank", "signal": {"top": 5}}]}
    content |= {"controls": ["untrained"], "fprs": [0.1, 0.001]}
    described = experiment(content)
    write_folder(folder / "run", described, play(setting(described), folder / "cache"))
    return folder / "run"
