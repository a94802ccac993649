import SidelockClient
import Testing

@testable import sidelock

/// What a waiting command says, and when. Times are milliseconds.
struct WaitNewsTests {
  static let lock = lock(token: 5)

  static func lock(token: Int64, waiters: JSONValue = .array([])) -> LockDescription {
    LockDescription([
      "name": "x", "holding": 1,
      "holders": [
        [
          "host": "db1", "session": "7", "pid": 4711, "command": "sidelock run x -- pg_dump", "token": .int(token),
          "held_ms": 185_000,
        ]
      ],
      "waiters": waiters,
    ])
  }

  static let held = "waiting for x: held by 4711 (pg_dump) on db1 for 3 min"
  static let refuses = "waiting for x: Redis refuses or cannot be reached: "

  func notice(ahead: Int64 = 0, trouble: String? = nil, isRecovering: Bool = false) -> WaitNews.Notice {
    WaitNews.Notice(name: "x", ahead: ahead, trouble: trouble, isRecovering: isRecovering)
  }

  /// What is said until `end`, with the time; every look is answered at once with `lock`.
  func said(
    _ news: inout WaitNews, from start: Int64 = 0, until end: Int64, question: Int64? = nil,
    _ lock: LockDescription? = lock
  ) -> [String] {
    var words: [String] = []
    var now = start
    while let deadline = news.deadline(question: question), max(now, deadline) < end {
      now = max(now, deadline)
      for action in news.due(question: question, now: now) {
        switch action {
        case .say(let text): words.append("\(now) \(text)")
        case .look(let name):
          #expect(name == "x")
          for case .say(let text) in news.inspected(lock, now: now) { words.append("\(now) \(text)") }
        }
      }
    }
    return words
  }

  @Test func whoHasTheLockIsSaidAfterASecondAndWhenThatChanges() {
    var news = WaitNews(name: "x", now: 0)
    news.told(notice(ahead: 2), now: 10)
    #expect(said(&news, until: 100_000) == ["1000 \(Self.held), 2 before you"])
    // Nobody is told of a place more often than every three seconds.
    news.told(notice(ahead: 1), now: 100_000)
    news.told(notice(ahead: 0), now: 101_000)
    #expect(said(&news, from: 101_000, until: 200_000) == ["101000 \(Self.held)"])
  }

  @Test func anotherHolderIsNoticedThoughNobodyTellsOfIt() {
    var news = WaitNews(name: "x", now: 0)
    news.told(notice(), now: 10)
    _ = said(&news, until: 1001)
    #expect(said(&news, from: 1001, until: 100_000, Self.lock(token: 6)) == ["6000 \(Self.held)"])
  }

  @Test func aWaitThatIsShortSaysNothing() {
    var news = WaitNews(name: "x", now: 0)
    news.told(notice(), now: 10)
    #expect(said(&news, until: 1000) == [])
  }

  @Test func quietSaysNothingAtAll() {
    var news = WaitNews(name: "x", loudness: .quiet, now: 0)
    #expect(news.deadline(question: 0) == nil)
    news.told(notice(), now: 10)
    #expect(news.deadline(question: 0) == nil)
    news.told(notice(trouble: "no"), now: 20)
    #expect(news.deadline(question: 0) == nil)
  }

  @Test func verboseSaysItAtOnceWithUserAndThoseBefore() {
    var news = WaitNews(name: "x", loudness: .verbose, now: 0)
    news.place = ("db1", "9")
    news.told(notice(ahead: 1), now: 10)
    let waiters: JSONValue = [
      ["host": "db1", "session": "8", "pid": 12, "command": "cat", "waited_ms": 4000],
      ["host": "db1", "session": "9", "pid": 13, "command": "me", "waited_ms": 1],
      ["host": "db2", "session": "1", "pid": 14, "command": "far", "waited_ms": 1],
    ]
    #expect(
      said(&news, from: 10, until: 1000, Self.lock(token: 5, waiters: waiters)) == [
        "10 \(Self.held), 1 before you, 1 wait on other hosts, first 12 (cat) on db1 for 4 s"
      ])
  }

  @Test func whoMayNotLookIsToldWhatTheDaemonSays() {
    var news = WaitNews(name: "x", now: 0)
    news.told(notice(ahead: 3), now: 10)
    #expect(said(&news, until: 3000, nil) == ["1000 waiting for x: 3 before you"])
  }

  @Test func troubleWithRedisIsSaidOnceAndWhenItChanges() {
    var news = WaitNews(name: "x", now: 0)
    news.told(notice(trouble: "OOM no"), now: 100)
    #expect(said(&news, until: 60_000) == ["1000 \(Self.refuses)OOM no"])
    // Other words are said at once, but not more often than every few seconds.
    news.told(notice(trouble: "gone"), now: 60_000)
    #expect(said(&news, from: 60_000, until: 60_001) == ["60000 \(Self.refuses)gone"])
    news.told(notice(trouble: "back"), now: 60_100)
    #expect(said(&news, from: 60_100, until: 90_000) == ["63000 \(Self.refuses)back"])
    news.told(notice(), now: 90_000)
    #expect(said(&news, from: 90_000, until: 95_000) == ["91000 \(Self.held)"])
  }

  @Test func aGraceIsToldInTheDaemonsWords() {
    var news = WaitNews(name: "x", now: 0)
    news.told(notice(trouble: "other data", isRecovering: true), now: 100)
    #expect(said(&news, until: 60_000) == ["1000 waiting for x: other data"])
    // The same words about a Redis that refuses are another message.
    news.told(notice(trouble: "other data"), now: 70_000)
    #expect(said(&news, from: 70_000, until: 90_000) == ["70000 \(Self.refuses)other data"])
  }

  @Test func troubleThatPassesSoonIsNotSaid() {
    var news = WaitNews(name: "x", now: 0)
    news.told(notice(), now: 10)
    _ = said(&news, until: 2000)
    for now in stride(from: 4000 as Int64, to: 20_000, by: 1000) {
      news.told(notice(trouble: "OOM no"), now: now)
      #expect(said(&news, from: now, until: now + 900) == [])
      news.told(notice(), now: now + 900)
    }
  }

  @Test func aDaemonThatDoesNotAnswerIsSaid() {
    var news = WaitNews(name: "x", now: 0)
    #expect(said(&news, until: 60_000, question: 0) == ["1000 waiting for x: the daemon has not answered for 1 s"])
    news.answered(now: 60_000)
    news.told(notice(), now: 60_000)
    #expect(said(&news, from: 60_000, until: 70_000) == ["60000 \(Self.held)"])
    // So it does later, and what is so again is said again.
    #expect(
      said(&news, from: 70_000, until: 75_000, question: 70_000) == [
        "71000 waiting for x: the daemon has not answered for 1 s"
      ])
    news.answered(now: 75_000)
    #expect(said(&news, from: 75_000, until: 80_000) == ["75000 \(Self.held)"])
  }

  @Test func aDaemonThatTellsNothingIsSaidToWaitForRedis() {
    var news = WaitNews(name: "x", now: 0)
    #expect(said(&news, until: 60_000) == ["1000 waiting for x: Redis has not answered yet"])
  }

  @Test func aWaitInsideAnotherRunLooksAtOnce() {
    var news = WaitNews(name: "x", loudness: .quiet, isNested: true, now: 0)
    news.told(notice(), now: 10)
    #expect(news.due(question: nil, now: 10) == [.look("x")])
  }
}
