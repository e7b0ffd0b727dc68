"""What protocols see of a model, with tokenizers at toy size and no model behind them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from serve.encode import WordPieces
from serve.manifest import Embedding, Task
from serve.protocols.paths import routes
from serve.question import Answer, Context, Question

WORDS = "[PAD] [UNK] [CLS] [SEP] a the film is good bad do ##es ##n ' t é ! . 電".split()
MAX_LENGTH, MAX_TEXTS, SIZE = 8, 5, 4
TASKS = {
    "classes": Task(kind="classification", inputs=1, labels=("NEG", "POS"), metric="accuracy"),
    "pairs": Task(kind="classification", inputs=2, labels=("no", 'may"be', "yés"), metric="accuracy"),
    "value": Task(kind="regression", inputs=1, labels=("score",), metric="pearson"),
    "ranks": Task(kind="regression", inputs=2, labels=("score",), metric="pearson"),
    "vectors": Task(kind="embedding", inputs=1, metric="spearman", embedding=Embedding(size=SIZE, pooling="mean")),
    "lengths": Task(
        kind="embedding", inputs=1, metric="spearman", embedding=Embedding(size=SIZE, pooling="first", normalised=False)
    ),
}


def whole_tokenizer() -> Tokenizer:
    """BERT's, with nothing cut; the oracle of tokens."""
    tokenizer = Tokenizer(models.WordPiece({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(WORDS[:4])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Context]:
    """Of a model of each kind in TASKS, by its name."""
    path: Path = tmp_path_factory.mktemp("protocols") / "tokenizer.json"
    whole_tokenizer().save(str(path))
    encoder = WordPieces(path, max_length=MAX_LENGTH, pad_id=0, inputs=("input_ids",))
    made = {
        name: Context("Tiny Model", task, encoder, MAX_LENGTH, MAX_TEXTS, 1_700_000_000) for name, task in TASKS.items()
    }
    return made.__getitem__


def ask(context: Context, path: str, content: Any, headers: dict[bytes, bytes] | None = None) -> Question:
    """What a path's protocol reads in a body."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    question = routes(context)[path].read(body, context, headers or {})
    assert isinstance(question, Question)
    return question


def answer(*rows: Any) -> Answer:
    """What a model gave, three tokens a text."""
    return Answer(np.array(rows, np.float32), [3] * len(rows), [False] * len(rows))


def told(question: Question, *rows: Any) -> Any:
    """The answer as its client reads it."""
    written = question.write(answer(*rows))
    assert isinstance(written, bytes)
    return json.loads(written)
