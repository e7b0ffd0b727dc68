"""Embedding distillation: the student's vector of a text is drawn to the teacher's.

Reimers, Gurevych 2020, "Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation",
https://arxiv.org/abs/2004.09813, section 2: the mean squared error to the teacher's vectors, of which we keep the
half in the student's own language. Its default here is 1 - cosine instead, which is what vectors are compared by;
for vectors 1 long both have the same gradient but for a factor, since |u - v|^2 = 2 (1 - cos).

A student whose vectors have another size learns through a linear map that is dropped at the end. What it then gives
are its own vectors, of its own size: they compare with one another as the teacher's do only as far as that map keeps
angles, and never with the teacher's.

When it helps: many sentences without labels, and a student that stands in for its teacher in an index built anew.

When it does not help: with few texts and many epochs the student learns these texts' vectors and not the teacher;
more texts without labels (a corpus) do more than more epochs.

Shapes: B texts, D numbers of the student's vector, E of the teacher's.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from compress.technique import Run, Step, Technique


def cosine_distance(student_BE: Tensor, teacher_BE: Tensor) -> Tensor:
    """1 - cos(u, v), mean over texts: 0 to 2, whatever the lengths."""
    return 1 - F.cosine_similarity(student_BE.float(), teacher_BE.float(), dim=-1).mean()


def squared_distance(student_BE: Tensor, teacher_BE: Tensor) -> Tensor:
    """|u - v|^2 of the vectors made 1 long, mean over texts; the paper's mean over numbers is E times smaller."""
    u_BE, v_BE = (F.normalize(x.float(), dim=-1) for x in (student_BE, teacher_BE))
    return (u_BE - v_BE).pow(2).sum(-1).mean()


DISTANCES = {"cosine": cosine_distance, "mse": squared_distance}


@dataclass
class EmbeddingDistillation(Technique):
    distance: Literal["cosine", "mse"] = "cosine"
    weight: float = 1.0  # of this term among others
    needs: ClassVar = ("teacher",)
    kinds: ClassVar = ("embedding",)

    def prepare(self, run: Run) -> None:
        self.project = None
        mine, theirs = run.model.embedding.size, run.teacher.embedding.size
        if mine != theirs:
            self.project = run.own(nn.Linear(mine, theirs))

    def loss(self, step: Step) -> Tensor:
        student = step.student.logits
        student = self.project(student) if self.project else student
        return self.weight * DISTANCES[self.distance](student, step.teacher.logits)
