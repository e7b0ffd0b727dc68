"""What a model's answers are worth: metrics, and intervals by the percentile bootstrap over examples or questions.

Shapes: N examples, C classes, R resamples. Regression has logits [N, 1] or [N]. Metrics named cosine_ take vectors
[2N, D] and labels [2N] in the place of logits and labels: the texts of a pair stand side by side, with its score each.
"""

from serve.measures.intervals import agreement, interval
from serve.measures.metrics import DEFAULT_METRIC, METRICS, RANKED, higher_is_better, measure

__all__ = ["DEFAULT_METRIC", "METRICS", "RANKED", "agreement", "higher_is_better", "interval", "measure"]
