"""What other daemons take for a host, though it is none."""

from .waiting import wait_until

# The answers to `about` of a release that cannot be asked for events, and of one that can.
OLD, NEW = "5:0.0.1", "5:0.0.16:events"


def packed(*fields):
    return "".join(f"{len(str(field))}:{field}" for field in fields)


class FakeHost:
    """Listens at an inbox, notes what it is asked, and answers with what `answer` makes of a question."""

    def __init__(self, redis, name, answer):
        self.redis, self.heard, self.answer = redis, [], answer
        self.listener = redis.admin.pubsub()
        self.listener.subscribe(f"sidelock:inbox:{name}/00000000000000aa")
        wait_until(lambda: redis.admin.pubsub_channels(f"*inbox:{name}/*"), f"{name} to listen")

    def serve(self, questions):
        """Answers until it was asked so much in all."""
        wait_until(lambda: self._take() or len(self.heard) >= questions, "questions to the host")

    def _take(self):
        while (message := self.listener.get_message(timeout=0.05)) is not None:
            if message["type"] != "message":
                continue
            head, question = message["data"].decode().split(";", 1)[1].split(";", 1)
            _, number, asker = head.split(" ")
            self.heard.append(question)
            if (answer := self.answer(question)) is not None:
                self.redis.admin.publish(f"sidelock:inbox:{asker}", f"1;answer {number};{answer}")

    def close(self):
        self.listener.close()
