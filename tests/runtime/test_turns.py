"""Whose turn it is, against a search of all videos."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from glc_ray.runtime.turns import Turns, VideoTasks

changes = st.tuples(st.integers(0, 4), st.sampled_from(["submit", "sticky", "serve", "end"]))


def searched(videos: list[VideoTasks], *, away: bool) -> VideoTasks | None:
    able = [video for video in videos if video.waiting and not (video.sticky and away)]
    return min(able, key=lambda video: (-video.priority, video.served, video.order), default=None)


@given(
    priorities=st.lists(st.integers(0, 2), min_size=5, max_size=5),
    served=st.lists(st.integers(0, 3), min_size=5, max_size=5),
    steps=st.lists(changes, max_size=60),
)
def test_the_first_is_who_a_search_of_all_finds(
    priorities: list[int], served: list[int], steps: list[tuple[int, str]]
) -> None:
    pairs = zip(priorities, served, strict=True)
    videos = [VideoTasks(str(i), priority, i, count) for i, (priority, count) in enumerate(pairs)]
    turns = Turns()
    for index, change in steps:
        video = videos[index]
        if change == "end":
            video.waiting = {}
        elif change == "serve":
            if video.waiting:
                video.take(next(iter(video.waiting)))
                video.served += 1
        else:
            video.groups, video.waiting = ("global", "local", "local"), {}
            video.sticky = change == "sticky"
            for task in range(3):
                video.wait(task)
        turns.add(video)
        for away in (True, False):
            assert turns.first(away=away) is searched(videos, away=away)
