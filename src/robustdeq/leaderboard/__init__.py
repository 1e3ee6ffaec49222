"""The leaderboard: what is said of a model, what is found when nothing of it is trusted, and the row that it makes."""

from robustdeq.leaderboard.entry import Entry, row_file
from robustdeq.leaderboard.judgement import SHORT, judged
from robustdeq.leaderboard.statement import Statement

__all__ = ["SHORT", "Entry", "Statement", "judged", "row_file"]
