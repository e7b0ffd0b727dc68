"""Tiny seeded models with weights large enough for answers to differ, and a word-piece tokeniser to feed them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from serve.artefact import Encoder
from serve.encode import WordPieces

WORDS = 1100  # over compress.export.graph.TABLE_ROWS, so that the table is quantised
BERT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
MAX_LENGTH = 24


def bert(labels: int = 3) -> BertForSequenceClassification:
    return _seeded(
        BertForSequenceClassification,
        BertConfig(
            vocab_size=WORDS,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=32,
            initializer_range=0.3,
            num_labels=labels,
        ),
    )


def roberta() -> RobertaForSequenceClassification:
    return _seeded(
        RobertaForSequenceClassification,
        RobertaConfig(
            vocab_size=WORDS,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=34,
            initializer_range=0.3,
        ),
    )


def distilbert() -> DistilBertForSequenceClassification:
    return _seeded(
        DistilBertForSequenceClassification,
        DistilBertConfig(
            vocab_size=WORDS,
            dim=32,
            n_layers=2,
            n_heads=2,
            hidden_dim=64,
            max_position_embeddings=32,
            initializer_range=0.3,
        ),
    )


def _seeded(architecture: type[PreTrainedModel], config: object) -> PreTrainedModel:
    torch.manual_seed(0)
    return architecture(config).eval()


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def student() -> BertForSequenceClassification:
    return bert()


@pytest.fixture
def encoder() -> Encoder:
    return Encoder(kind="wordpiece", max_length=MAX_LENGTH, inputs=BERT_INPUTS)


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    """A folder with a tokeniser, as an artefact has before its models are exported."""
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3} | {f"w{at}": at for at in range(4, WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@pytest.fixture
def pieces(staging: Path) -> WordPieces:
    return WordPieces(staging / "tokenizer.json", max_length=MAX_LENGTH, pad_id=0, inputs=BERT_INPUTS)


@pytest.fixture
def texts() -> Callable[..., list[str]]:
    """Texts of 0 to 20 words, some of them outliers for ranges."""

    def make(count: int, seed: int = 0) -> list[str]:
        random = np.random.default_rng(seed)
        lengths = random.integers(0, 21, count)
        return [" ".join(f"w{word}" for word in random.integers(4, WORDS, length)) for length in lengths]

    return make
