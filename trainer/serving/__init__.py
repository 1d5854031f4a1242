"""Serves a trained run: recommendations for any history, and exports.

from trainer.serving import Recommender
Recommender.load("runs/first").recommend([[100012, 100345]], k=10)
"""

from trainer.serving.recommender import Recommendation as Recommendation
from trainer.serving.recommender import Recommender as Recommender
