"""The encoder of an artefact, by the kind that its manifest names."""

from serve.artefact import Artefact
from serve.encode import WordPieces
from serve.errors import ArtefactError
from serve.manifest import Task
from serve.ngram.encode import NGrams

AnyEncoder = WordPieces | NGrams


def open_encoder(artefact: Artefact) -> AnyEncoder:
    """What turns texts into the inputs of the artefact's models."""
    encoder, task = artefact.manifest.encoder, artefact.manifest.task
    path = artefact.root / encoder.file
    if encoder.kind == "wordpiece":
        return WordPieces(path, max_length=encoder.max_length, pad_id=encoder.pad_id, inputs=encoder.inputs)
    ngrams = NGrams(path, max_length=encoder.max_length)
    _check_question(ngrams, task)
    return ngrams


def _check_question(ngrams: NGrams, task: Task) -> None:
    """ArtefactError where the model's file answers another question than the manifest's."""
    inputs, outputs = ngrams.model.inputs, len(ngrams.model.out_bias)
    if task.kind == "embedding" or (inputs, outputs) != (task.inputs, task.outputs):
        raise ArtefactError(
            f"{ngrams.path} has {inputs} texts an example and {outputs} outputs, but the manifest says {task.kind} "
            f"with {task.inputs} and {task.outputs}; copy the artefact again"
        )
