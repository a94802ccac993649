"""The conversations of protocol/transcripts, against a real daemon on both backends.

They cover the pitfalls 6 (a stale token), 25 (names apart) and 27 (sessions apart) among much else.
"""

import pytest
from harness import schema, transcript

FILES = sorted((schema.PROTOCOL / "transcripts").glob("*.jsonl"))
CASES = [(path, backend) for path in FILES for backend in transcript.load(path)[0]["backends"]]


@pytest.mark.parametrize("path, backend", CASES, ids=[f"{path.stem}-{backend}" for path, backend in CASES])
def test_transcript(lab, path, backend):
    _, steps = transcript.load(path)
    redis = lab.redis() if backend == "redis" else None
    transcript.Replay(lab.daemon(redis), backend, redis).play(steps)


def test_every_method_and_notification_occurs():
    text = "".join(path.read_text() for path in FILES)
    # It takes thousands of lines to be told that, or another host: test_hostile_clients.py, test_watch_all.py.
    elsewhere = {"missed", "host"}
    for name in {*schema.METHODS, *schema.NOTIFICATIONS} - elsewhere:
        assert f'"method": "{name}"' in text, f"no transcript shows {name}"
