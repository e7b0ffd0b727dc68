"""Which words fit in place of a text's words, asked of a masked language model and of word vectors; kept in the cache.

Jiao et al. 2020, "TinyBERT", https://arxiv.org/abs/1909.10351, algorithm 1: a word that is one word piece is masked
in "[CLS] text with the mask [SEP] text [SEP]" and the most probable pieces are taken, those that are whole words; a
word of several pieces has the nearest of the word vectors.

Shapes: B texts, L word pieces, V vocabulary.
"""

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import AutoConfig

from compress import corpus, masked
from compress.data import augment
from compress.data.augment import Place
from compress.data.load import Data, Examples, Text
from compress.models import SIGNED_POSITIONS, locate
from compress.progress import say
from compress.recipe import AugmentRecipe, Recipe, digest, place
from compress.stage import autocast_for
from compress.teacher import alone, weights_digest
from serve import cache

SIZE = 64  # masked texts a forward pass
EVERY = 100  # of these between two lines for the person who waits

Word = tuple[str, int, int]  # a text, and where in it the word stands


def augmented(recipe: Recipe, data: Data, pretrained: str | None, accelerator: Accelerator) -> Examples:
    """The copies of the training texts that `recipe.augment` asks for; `pretrained` is the model if it names none."""
    options = recipe.augment
    assert options is not None
    texts = list(dict.fromkeys(part for text in data.train.joined().texts for part in columns(text)))
    source = options.model or pretrained
    path = cache.folder() / "candidates" / f"{key_of(options, source, texts)}.json"
    with alone(path, accelerator):
        if not path.exists() and accelerator.is_main_process:
            found = places(options, source, texts, accelerator)
            part = path.with_suffix(".part")
            part.write_text(json.dumps([[asdict(one) for one in found[text]] for text in texts]), encoding="utf-8")
            part.replace(path)
    rows = json.loads(path.read_text(encoding="utf-8"))
    known = {
        t: [Place(p["start"], p["end"], tuple(p["words"])) for p in row] for t, row in zip(texts, rows, strict=True)
    }
    made = augment.augmented(data, known, options, seed=recipe.seed)
    say(f"augmented: {len(made.joined()):,} copies of {len(data.train.joined()):,} training examples")
    return made


def fingerprint(examples: Examples) -> str:
    """A name for these texts in this order."""
    return corpus.fingerprint([columns(text) for text in examples.texts])


def columns(text: Text) -> list[str]:
    return [text] if isinstance(text, str) else [*text]


def key_of(options: AugmentRecipe, source: str | None, texts: list[str]) -> str:
    """The cache's name for the candidates of these texts; how many copies are made of them does not matter."""
    vectors = hashlib.sha256(Path(place(options.vectors)).read_bytes()).hexdigest() if options.vectors else None
    model = weights_digest(locate(source)) if source else None
    return digest([model, vectors, options.candidates, corpus.fingerprint([texts])])


def check(options: AugmentRecipe) -> None:
    """ValueError for a model without a language-model head or a file without vectors, before anything trains."""
    if options.vectors:
        augment.read(place(options.vectors), most=2)
    if options.model and not masked.load(options.model)[2]:
        raise ValueError(
            f"augment.model must be a masked language model; {options.model} has no language-model head: name another, "
            "or leave it out and give pretraining, which trains one"
        )


def places(
    options: AugmentRecipe, source: str | None, texts: Sequence[str], accelerator: Accelerator
) -> dict[str, list[Place]]:
    """What may be replaced in each text, and by what."""
    asked: list[Word] = [(text, *span) for text in texts for span in augment.words(text)]
    found: dict[Word, list[str]] = {}
    if source:
        say(f"augmented: {source} is asked for words in {len(asked):,} places")
        found = fitting(source, asked, options.candidates, accelerator)
    if options.vectors:
        rest = [word for word in asked if word not in found]
        several = list(dict.fromkeys(text[start:end] for text, start, end in rest))
        near = augment.neighbours(place(options.vectors), several, options.candidates)
        found |= {word: near[name] for word in rest if (name := word[0][word[1] : word[2]]) in near}
    known: dict[str, list[Place]] = {text: [] for text in texts}
    for word in asked:
        if candidates := found.get(word):
            known[word[0]].append(Place(word[1], word[2], tuple(candidates)))
    return known


@torch.inference_mode()
def fitting(source: str, asked: Sequence[Word], count: int, accelerator: Accelerator) -> dict[Word, list[str]]:
    """For each word that is one word piece: those of the `count` most probable in its place that are whole words."""
    model, tokenizer, _ = masked.load(source)
    model = model.to(accelerator.device).eval()
    accepted = {*inspect.signature(model.lm.base_model.forward).parameters, "positions"}
    whole, longest = whole_words(tokenizer), most_pieces(source)
    encoded = {text: tokenizer(text, add_special_tokens=False) for text in dict.fromkeys(text for text, _, _ in asked)}
    single = [word for word in asked if is_one_piece(encoded[word[0]], word, tokenizer.unk_token_id)]
    single.sort(key=lambda word: len(encoded[word[0]]["input_ids"]))
    found: dict[Word, list[str]] = {}
    for start in range(0, len(single), SIZE):
        part = single[start : start + SIZE]
        if start and start % (SIZE * EVERY) == 0:
            say(f"augmented: {start:,} of {len(single):,} places are filled")
        batch, masks = pairs(part, tokenizer, longest)
        rows = [row for row, column in enumerate(masks) if column is not None]
        if not rows:
            continue  # texts so long that the mask was cut off
        length = batch["input_ids"].shape[1]
        positions = torch.tensor([row * length + masks[row] for row in rows])
        inputs = {
            name: x.to(accelerator.device) for name, x in {**batch, "positions": positions}.items() if name in accepted
        }
        with autocast_for("auto", accelerator.device)():
            best = model(**inputs).logits.topk(min(count, len(tokenizer))).indices.tolist()
        found |= {part[row]: [whole[i] for i in ids if i in whole] for row, ids in zip(rows, best, strict=True)}
    return found


def pairs(words: Sequence[Word], tokenizer: Any, longest: int) -> tuple[dict[str, torch.Tensor], list[int | None]]:
    """Each text with the word masked and then the text itself, as inputs [B, L], and the column of the mask."""
    hidden = [text[:start] + tokenizer.mask_token + text[end:] for text, start, end in words]
    originals = [text for text, _, _ in words]
    options = {"truncation": "longest_first", "max_length": longest, "padding": True, "return_tensors": "pt"}
    batch = tokenizer(hidden, originals, **options)
    masks = [batch.char_to_token(row, start, sequence_index=0) for row, (_, start, _) in enumerate(words)]
    return dict(batch), masks


def is_one_piece(encoded: Any, word: Word, unknown: int | None) -> bool:
    first, last = encoded.char_to_token(word[1]), encoded.char_to_token(word[2] - 1)
    return first is not None and first == last and encoded["input_ids"][first] != unknown


def whole_words(tokenizer: Any) -> dict[int, str]:
    """The word pieces that are words of letters by themselves, without the sign that some tokenizers put before."""
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    signed = any(token[:1] in "Ġ▁" for token in tokens if token)
    names = [token[1:] if signed and token[:1] in "Ġ▁" else None if signed else token for token in tokens]
    return {i: name for i, name in enumerate(names) if name and name.isalpha()}


def most_pieces(source: str) -> int:
    config = AutoConfig.from_pretrained(locate(source))
    return int(config.max_position_embeddings) - (2 if config.model_type in SIGNED_POSITIONS else 0)
