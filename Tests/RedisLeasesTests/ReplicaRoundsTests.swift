import LockEngine
import LockTypes
import RESP
import Testing

@testable import RedisLeases

/// Rounds of WAIT, against a server whose replicas are as many and as slow as a test says.
@Suite struct ReplicaRoundsTests {
  /// The machine, and a server.
  final class World {
    var rounds: ReplicaRounds
    var now = BootInstant(nanoseconds: 1_000_000_000)
    /// The commands that the server has read and not answered.
    var asked: [String] = []
    /// All that it has read.
    var read: [String] = []
    var last: UInt64 = 0
    /// Whether a connection was wanted.
    var hasConnected = false

    init(_ durability: Durability = .memory, passesOn: Bool = true, isExpected: Bool = false) {
      rounds = ReplicaRounds(
        durability, passesOn: passesOn, key: Array("sl:ack:a/1".utf8),
        configuration: RedisConnectionConfiguration(clientName: "replicas", inbox: [], scripts: []),
        timeoutMilliseconds: 1000)
      rounds.isExpected = isExpected
    }

    /// With a connection that is ready.
    static func ready(_ durability: Durability = .memory, passesOn: Bool = true) -> World {
      let world = World(durability, passesOn: passesOn)
      world.rounds.linkUp(run: "r1")
      // Whoever asks first brings it about.
      world.ask(1)
      world.connect()
      world.hear(durability == .memory ? "+OK\r\n:1\r\n" : "+OK\r\n*2\r\n:1\r\n:1\r\n")
      #expect(world.answers().map(\.1) == [.enough(replicas: 1)])
      (world.asked, world.read) = ([], [])
      return world
    }

    @discardableResult
    func ask(_ replicas: Int, within milliseconds: Int64 = 1000) -> AcknowledgementID {
      last += 1
      let id = AcknowledgementID(last)
      rounds.ask(ReplicaRounds.Question(id: id, replicas: replicas, until: now.adding(milliseconds: milliseconds)))
      goOn()
      return id
    }

    func goOn() {
      rounds.goOn(now: now)
      if rounds.mustConnect() { hasConnected = true }
      readAll()
    }

    func readAll() {
      let bytes = rounds.takeOutput()
      // Each command is an array of blob strings.
      let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\r\n", omittingEmptySubsequences: false)
      var index = 0
      while index < lines.count, lines[index].hasPrefix("*"), let count = Int(lines[index].dropFirst()) {
        var words: [String] = []
        for part in 0..<count { words.append(String(lines[index + 2 + 2 * part])) }
        index += 1 + 2 * count
        asked.append(words.joined(separator: " "))
        read.append(asked[asked.count - 1])
      }
    }

    /// Makes the connection that is wanted, and answers its handshake; gives why it is of no use.
    @discardableResult
    func connect(run: String = "r1") -> String? {
      #expect(hasConnected)
      hasConnected = false
      let isWanted = rounds.connected(now: now)
      #expect(isWanted)
      readAll()
      let info = "# Server\r\nrun_id:\(run)\r\n"
      let hello = "%5\r\n+server\r\n+redis\r\n+version\r\n+7.0.0\r\n+proto\r\n:3\r\n+id\r\n:7\r\n+role\r\n+master\r\n"
      let answers = asked.map { command in
        switch command.split(separator: " ").first {
        case "HELLO": hello
        case "INFO": "$\(info.utf8.count)\r\n\(info)\r\n"
        case "CONFIG": "%0\r\n"
        default: "+PONG\r\n"
        }
      }
      asked = []
      return hear(answers.joined())
    }

    @discardableResult
    func hear(_ text: String) -> String? {
      let now = now
      let problem = Array(text.utf8).withUnsafeBytes { rounds.received($0, random: 1, now: now) }
      if problem == nil { goOn() }
      return problem
    }

    func timePassed() -> String? { rounds.timePassed(now: now) }

    func passedOn() -> [ReplicaRounds.Question] {
      var all: [ReplicaRounds.Question] = []
      while let next = rounds.nextPassedOn() { all.append(next) }
      return all
    }

    func takeFacts() -> ReplicaRounds.Facts? { rounds.takeFacts() }

    func answers() -> [(AcknowledgementID, AcknowledgementAnswer)] {
      var all: [(AcknowledgementID, AcknowledgementAnswer)] = []
      while let next = rounds.nextAnswer() { all.append(next) }
      return all
    }

    /// Each replica has what was written so many milliseconds later; others write all the time, so that a WAIT is about what
    /// was written before the command ahead of it. Gives what came of each question, and when.
    func serve(
      replicasAfter delays: [Int64], milliseconds: Int64, _ each: (World, Int64) -> Void = { _, _ in }
    ) -> [AcknowledgementID: (answer: AcknowledgementAnswer, at: Int64)] {
      var found: [AcknowledgementID: (answer: AcknowledgementAnswer, at: Int64)] = [:]
      var reach: Int64 = 0
      var waiting: (count: Int, reach: Int64, end: Int64)?
      for time in 0..<milliseconds {
        each(self, time)
        while let command = asked.first {
          if command.hasPrefix("SET") {
            asked.removeFirst()
            reach = time
            hear("+OK\r\n")
            continue
          }
          let words = command.split(separator: " ")
          let count = Int(words[words.count - 2]) ?? 0
          if waiting == nil {
            waiting = (count, reach, time + (Int64(words[words.count - 1]) ?? 0))
            reach = time
          }
          guard let wait = waiting else { break }
          let have = delays.count { wait.reach + $0 <= time }
          guard have >= wait.count || time >= wait.end else { break }
          waiting = nil
          asked.removeFirst()
          hear(words[0] == "WAIT" ? ":\(have)\r\n" : "*2\r\n:1\r\n:\(have)\r\n")
        }
        for (id, answer) in answers() { found[id] = (answer, time) }
        now = now.adding(milliseconds: 1)
        if let problem = rounds.timePassed(now: now) { Issue.record("\(problem)") }
        goOn()
      }
      return found
    }
  }

  @Test func itConnectsWhenSomebodyAsksAndAsksOnceForAll() {
    let world = World()
    world.rounds.linkUp(run: "r1")
    world.goOn()
    #expect(!world.hasConnected)
    let first = world.ask(1)
    let second = world.ask(1)
    #expect(world.connect() == nil)
    #expect(world.asked == ["SET sl:ack:a/1 1 PX 60000", "WAIT 1 50"])
    world.hear("+OK\r\n:2\r\n")
    let answers = world.answers()
    #expect(answers.map(\.0) == [first, second])
    #expect(answers.map(\.1) == [.enough(replicas: 2), .enough(replicas: 2)])
    #expect(world.rounds.nextDeadline == nil || world.asked.isEmpty)
  }

  @Test func whoComesDuringARoundIsNotCoveredByIt() {
    let world = World.ready()
    let first = world.ask(1)
    let second = world.ask(1)
    world.hear("+OK\r\n:1\r\n")
    #expect(world.answers().map(\.0) == [first])
    world.asked.removeFirst(2)
    #expect(world.asked == ["SET sl:ack:a/1 1 PX 60000", "WAIT 1 50"])
    world.hear("+OK\r\n:1\r\n")
    #expect(world.answers().map(\.0) == [second])
  }

  @Test func moreReplicasAreWaitedForWithoutWritingAgain() {
    let world = World.ready(passesOn: false)
    let one = world.ask(1)
    let two = world.ask(2)
    let found = world.serve(replicasAfter: [1, 80], milliseconds: 200)
    #expect(found[one]?.answer == .enough(replicas: 1))
    #expect(found[two]?.answer == .enough(replicas: 2))
    #expect(found[two].map { $0.at < 140 } == true, "\(found)")
    // One for each of the two that came one after the other.
    #expect(world.read.count { $0.hasPrefix("SET") } == 2)
  }

  /// 16 replicas of one: whoever asks for one beside it waits for one WAIT at the most.
  @Test(arguments: [Durability.memory, .disk]) func whoAsksForTooManyDelaysNobody(_ durability: Durability) {
    let world = World.ready(durability)
    var asked: [AcknowledgementID: Int64] = [:]
    var passedOn: [ReplicaRounds.Question] = []
    let found = world.serve(replicasAfter: [1], milliseconds: 1500) { world, time in
      if time % 200 == 0 { world.ask(16) }
      passedOn += world.passedOn()
      if time % 7 == 3, time < 1400 { asked[world.ask(1)] = time }
    }
    for (id, begin) in asked {
      #expect(found[id]?.answer == .enough(replicas: 1))
      let took = (found[id]?.at ?? .max) - begin
      #expect(took <= ReplicaRounds.waitMilliseconds + 10, "asked at \(begin) ms, answered after \(took) ms")
    }
    #expect(passedOn.count == 8 && passedOn.allSatisfy { $0.replicas == 16 && $0.known == 1 })
  }

  /// Questions come faster than a replica answers: a round must last long enough for its answer.
  @Test func slowReplicasAreWaitedForHoweverManyAsk() {
    let world = World.ready(passesOn: false)
    var asked: [AcknowledgementID] = []
    let found = world.serve(replicasAfter: [150], milliseconds: 4000) { world, time in
      if time % 20 == 0, time < 2500 { asked.append(world.ask(1)) }
    }
    let good = asked.filter { found[$0]?.answer == .enough(replicas: 1) }
    #expect(good.count == asked.count, "\(good.count) of \(asked.count)")
  }

  /// The second replica is slower than a round lasts, and others ask for one all the time.
  @Test(arguments: [1, 2]) func whatARoundHasNotAnsweredIsPassedOn(_ others: Int) {
    let world = World.ready()
    var passedOn: [ReplicaRounds.Question] = []
    var two: AcknowledgementID?
    let end = world.now.adding(milliseconds: 1000)
    _ = world.serve(replicasAfter: [1, 200], milliseconds: 300) { world, time in
      if time == 0 { two = world.ask(2) }
      if time % 7 == 3 { world.ask(others) }
      passedOn += world.passedOn()
    }
    #expect(passedOn.first == two.map { ReplicaRounds.Question(id: $0, replicas: 2, until: end, known: 1) })
    #expect(passedOn.allSatisfy { $0.replicas == 2 })
  }

  /// What the first has found out is told where the second finds out no more.
  @Test func whatIsKnownIsToldWhenTheTimeIsOver() {
    let world = World.ready(passesOn: false)
    world.last += 1
    let id = AcknowledgementID(world.last)
    let until = world.now.adding(milliseconds: 100)
    world.rounds.ask(ReplicaRounds.Question(id: id, replicas: 3, until: until, known: 2))
    let found = world.serve(replicasAfter: [1], milliseconds: 200)
    #expect(found[id]?.answer == .tooFew(replicas: 2))
  }

  /// Of what is passed on, questions come faster than the second replica answers; and some for more than there are.
  @Test func replicasThatAreSlowerThanOthersAreWaitedFor() {
    let world = World.ready(passesOn: false)
    var asked: [AcknowledgementID] = []
    let found = world.serve(replicasAfter: [1, 200], milliseconds: 5000) { world, time in
      if time % 20 == 0, time < 3500 { asked.append(world.ask(2)) }
      if time % 90 == 50 { world.ask(16) }
    }
    let good = asked.filter { found[$0]?.answer == .enough(replicas: 2) }
    #expect(good.count == asked.count, "\(good.count) of \(asked.count)")
  }

  /// Rounds that nobody is answered by do not last until it is too late for those that others ask for.
  @Test func whoAsksForTooManyLeavesTimeForOthers() {
    let world = World.ready(passesOn: false)
    var two: [AcknowledgementID] = []
    let found = world.serve(replicasAfter: [1, 200], milliseconds: 8000) { world, time in
      if time % 20 == 0, time < 6500 { world.ask(16) }
      if time % 1500 == 1400, time < 6500 { two.append(world.ask(2)) }
    }
    #expect(two.count == 4 && two.allSatisfy { found[$0]?.answer == .enough(replicas: 2) }, "\(two.map { found[$0] })")
  }

  @Test func whenTheTimeIsOverItIsToldHowManyHadIt() {
    let world = World.ready(passesOn: false)
    let id = world.ask(3, within: 120)
    let found = world.serve(replicasAfter: [1, 2], milliseconds: 200)
    #expect(found[id]?.answer == .tooFew(replicas: 2))
    #expect(found[id].map { 119...121 ~= $0.at } == true)
  }

  @Test func theDiskOfThePrimaryCounts() {
    let world = World.ready(.disk, passesOn: false)
    let none = world.ask(0)
    world.hear("+OK\r\n*2\r\n:0\r\n:1\r\n")
    #expect(world.answers().isEmpty)
    world.hear("*2\r\n:1\r\n:0\r\n")
    #expect(world.answers().first.map { $0.0 == none && $0.1 == .enough(replicas: 0) } == true)
  }

  @Test(arguments: [
    ("-ERR unknown command 'WAITAOF', with args beginning with: ", "Redis 7.2"),
    ("-ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.", "appendonly yes"),
    ("-NOPERM this user has no permissions to run the 'waitaof' command", "+waitaof"),
  ]) func theServersRefusalIsToldWithWhatHelps(_ error: String, _ help: String) {
    let world = World.ready(.disk)
    world.ask(1)
    world.hear("+OK\r\n\(error)\r\n")
    guard case .refused(let words)? = world.answers().first?.1 else {
      Issue.record("it was not refused")
      return
    }
    #expect(words.contains(help) && words.contains(error.dropFirst().prefix(10)))
  }

  @Test func aWriteThatIsRefusedProvesNothing() {
    let world = World.ready()
    world.ask(1)
    world.hear("-OOM command not allowed when used memory > 'maxmemory'.\r\n:1\r\n")
    guard case .refused? = world.answers().first?.1 else {
      Issue.record("it was not refused")
      return
    }
  }

  @Test func anotherServerIsNotBelieved() {
    let world = World()
    world.rounds.linkUp(run: "r1")
    let id = world.ask(1, within: 300)
    let problem = world.connect(run: "r2")
    #expect(problem?.contains("another server") == true)
    world.rounds.ended(problem ?? "", random: 0, now: world.now)
    world.now = world.now.adding(milliseconds: 300)
    _ = world.rounds.timePassed(now: world.now)
    let answers = world.answers()
    #expect(answers.map(\.0) == [id])
    let words = "no second connection to Redis, on which replicas are waited for: \(problem ?? "")"
    #expect(answers.map(\.1) == [.refused(words)])
  }

  @Test func whenTheLinkGoesDownNothingIsKnown() {
    let world = World.ready()
    let id = world.ask(1)
    world.rounds.linkDown()
    #expect(world.answers().map(\.1) == [.unknown])
    world.rounds.ask(ReplicaRounds.Question(id: AcknowledgementID(99), replicas: 1, until: world.now))
    #expect(world.answers().map(\.1) == [.unknown])
    world.rounds.forget(id)
    #expect(world.rounds.nextDeadline == nil)
  }

  @Test func aConnectionThatBreaksIsMadeAgainAndItsRoundRepeated() {
    let world = World.ready()
    let id = world.ask(1)
    world.rounds.ended("cut", random: 0, now: world.now)
    world.asked = []
    world.now = world.now.adding(milliseconds: 60)
    _ = world.rounds.timePassed(now: world.now)
    world.goOn()
    #expect(world.connect() == nil)
    #expect(world.asked == ["SET sl:ack:a/1 1 PX 60000", "WAIT 1 50"])
    world.hear("+OK\r\n:1\r\n")
    #expect(world.answers().map(\.0) == [id])
  }

  @Test func aServerThatIsSilentIsGivenUp() {
    let world = World.ready()
    world.ask(1, within: 5000)
    world.now = world.now.adding(milliseconds: 1049)
    #expect(world.timePassed() == nil)
    world.now = world.now.adding(milliseconds: 1)
    #expect(world.timePassed() != nil)
  }

  @Test func whereReplicasAreExpectedItLooksAtThem() {
    let world = World(isExpected: true)
    world.rounds.linkUp(run: "r1")
    world.goOn()
    world.connect()
    #expect(world.asked == ["INFO replication", "CONFIG GET min-replicas-to-write"])
    let info = "# Replication\r\nrole:master\r\nconnected_slaves:2\r\n"
    world.hear("$\(info.utf8.count)\r\n\(info)\r\n%1\r\n+min-replicas-to-write\r\n+1\r\n")
    #expect(world.takeFacts() == ReplicaRounds.Facts(connected: 2, leastToWrite: 1))
    #expect(world.takeFacts() == nil)
  }

  @Test func whatIsForgottenTakesNoMemory() {
    let world = World.ready()
    for number in 0..<10_000 as Range<UInt64> {
      let id = AcknowledgementID(1000 + number)
      world.rounds.ask(
        ReplicaRounds.Question(id: id, replicas: 16, until: world.now.adding(milliseconds: 60_000)))
      world.rounds.forget(id)
    }
    #expect(world.rounds.listedCount < 300)
  }
}
