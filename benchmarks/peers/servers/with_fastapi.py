"""FastAPI: a plain `def` endpoint, which it runs in its pool of threads, so that one process uses every core.

https://fastapi.tiangolo.com/async/
"""

import os

import uvicorn
from fastapi import FastAPI
from peer_model import open_model
from pydantic import BaseModel

app = FastAPI()
model = open_model(os.environ["PEER_MODEL"])


class Question(BaseModel):
    texts: list[str]


class Answer(BaseModel):
    label: str
    score: float


@app.post("/predict")
def predict(question: Question) -> list[Answer]:
    return [Answer(**answer) for answer in model(question.texts)]


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PEER_PORT"]), access_log=False, log_level="warning")
