"""Serves an export, or a run, by HTTP: a start for a service of your own.

    pip install mealrec fastapi uvicorn
    python examples/serve.py EXPORT --port 8000
    curl localhost:8000/recommend --json '{"histories": [[100012, 100345]], "k": 5}'

It has no authentication: keep it on the loopback interface, or behind a server that has.
"""

from __future__ import annotations

import argparse

import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

from trainer.errors import UserError
from trainer.serving import Recommender


class Question(BaseModel):
    """Histories of original ids, oldest first, and how many videos each should get."""

    histories: list[list[int | str]] = Field(max_length=1024)
    k: int = 10
    deny: list[int | str] = []


class Answer(BaseModel):
    """The best videos for each history, best first, as pairs of id and score."""

    recommendations: list[list[tuple[int | str, float]]]


def make_app(recommender: Recommender) -> FastAPI:
    """Return the service of a recommender."""
    app = FastAPI(title="MealRec")

    @app.post("/recommend")
    def recommend(question: Question) -> Answer:
        try:
            found = recommender.recommend(question.histories, question.k, deny=question.deny)
        except UserError as error:
            raise HTTPException(422, str(error)) from None
        return Answer(recommendations=[[tuple(pair) for pair in row] for row in found])

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serves an export, or a run, by HTTP.")
    parser.add_argument("model", help="an export, or a run directory")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    uvicorn.run(make_app(Recommender.load(arguments.model)), port=arguments.port)
