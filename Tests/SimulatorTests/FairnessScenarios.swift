import LockEngine
import LockTypes
import Testing

/// First come, first served over hosts, even for waiters behind holders on their own host.
@Suite struct FairnessScenarios {
  private struct Step {
    var host: Int
    var mode = HoldMode.exclusive
  }

  /// Without a budget for neighbours, so that nobody may pass.
  private func scene(hosts: Int) -> Scenario { Scenario(hosts: hosts) { $0.cohortMilliseconds = 0 } }

  /// Clients that ask in turn, each when all hosts can know of the one before.
  private func ask(_ steps: [Step], in scene: Scenario) -> [SimulatedClient] {
    steps.map { step in
      let client = scene.client(step.host)
      client.acquire(mode: step.mode)
      scene.wait(20)
      return client
    }
  }

  /// Gives the order in which they are served, the longest holding releasing first.
  private func drain(_ clients: [SimulatedClient], in scene: Scenario) -> [Int] {
    var order: [Int] = []
    func see() {
      for (index, client) in clients.enumerated() where !client.holds.isEmpty && !order.contains(index) {
        order.append(index)
      }
    }
    see()
    var next = 0
    while next < order.count {
      clients[order[next]].release()
      next += 1
      scene.wait(60)
      see()
    }
    return order
  }

  /// Two hosts have readers, and a writer waits on one of them; later readers on the other one come behind it.
  @Test func aWriterBehindReadersOfItsOwnHostIsNotPassedByReadersOfAnother() {
    let scene = scene(hosts: 2)
    let clients = ask(
      [.init(host: 0, mode: .shared), .init(host: 1, mode: .shared), .init(host: 0), .init(host: 1, mode: .shared)],
      in: scene)
    #expect(clients.map { !$0.holds.isEmpty } == [true, true, false, false])
    #expect(scene.queue.count == 2)
    #expect(drain(clients, in: scene) == [0, 1, 2, 3])
    scene.expectNothingLeft()
  }

  /// The same where the other host has no reader yet, so that it has to ask Redis.
  @Test func aWriterIsNotPassedByReadersOfAHostThatHasNone() {
    let scene = scene(hosts: 3)
    let clients = ask(
      [
        .init(host: 0, mode: .shared), .init(host: 0), .init(host: 1, mode: .shared), .init(host: 2),
        .init(host: 0, mode: .shared),
      ], in: scene)
    #expect(clients.map { !$0.holds.isEmpty } == [true, false, false, false, false])
    #expect(drain(clients, in: scene) == [0, 1, 2, 3, 4])
    scene.expectNothingLeft()
  }

  /// A waiter on the host that has the lock is served in its turn: that its host has the lock makes no difference.
  @Test(arguments: [[0, 0, 1], [0, 1, 0], [0, 1, 0, 2], [0, 0, 1, 0, 2, 1], [0, 1, 2, 0, 1, 2]])
  func writersAreServedInTheOrderInWhichTheyCame(_ hosts: [Int]) {
    let scene = scene(hosts: 3)
    let clients = ask(hosts.map { Step(host: $0) }, in: scene)
    #expect(drain(clients, in: scene) == Array(hosts.indices))
    scene.expectNothingLeft()
  }

  /// A host has one place in Redis: behind another host, each of its waiters takes a turn.
  @Test func aHostHasOnePlace() {
    let scene = scene(hosts: 3)
    let clients = ask([0, 1, 1, 2, 1].map { Step(host: $0) }, in: scene)
    #expect(scene.queue.count == 2)
    #expect(drain(clients, in: scene) == [0, 1, 3, 2, 4])
    scene.expectNothingLeft()
  }

  @Test func permitsAreGivenOutInTheOrderInWhichTheyWereAskedFor() {
    let scene = Scenario(hosts: 3) {
      $0.cohortMilliseconds = 0
      $0.capacities = [2]
    }
    let two = HoldMode.permit(of: 2)
    let clients = ask([0, 0, 0, 1, 0, 2].map { Step(host: $0, mode: two) }, in: scene)
    #expect(drain(clients, in: scene) == [0, 1, 2, 3, 4, 5])
    scene.expectNothingLeft()
  }

  /// The reader elsewhere came before the writer here, and can share what becomes shared.
  @Test func whatIsDowngradedIsSharedWithReadersElsewhereThatCameBeforeAWriterHere() {
    let scene = scene(hosts: 2)
    let clients = ask([.init(host: 0), .init(host: 1, mode: .shared), .init(host: 0)], in: scene)
    clients[0].downgrade(0, token: nil)
    scene.wait(20)
    #expect(clients.map { !$0.holds.isEmpty } == [true, true, false])
    #expect(drain(clients, in: scene) == [0, 1, 2])
    scene.expectNothingLeft()
  }

  /// And the other way round.
  @Test func whatIsDowngradedIsNotSharedWithReadersElsewhereThatCameAfterAWriterHere() {
    let scene = scene(hosts: 2)
    let clients = ask([.init(host: 0), .init(host: 0), .init(host: 1, mode: .shared)], in: scene)
    clients[0].downgrade(0, token: nil)
    scene.wait(20)
    #expect(clients.map { !$0.holds.isEmpty } == [true, false, false])
    #expect(drain(clients, in: scene) == [0, 1, 2])
    scene.expectNothingLeft()
  }

  /// A writer that gives up lets in those that waited for it, on any host, and leaves the readers alone.
  @Test func aWriterThatGivesUpBehindItsOwnHostsReadersLetsReadersElsewhereIn() {
    let scene = scene(hosts: 2)
    let clients = ask([.init(host: 0, mode: .shared), .init(host: 1, mode: .shared)], in: scene)
    let writer = scene.client(0)
    let wait = writer.acquire()
    scene.wait(20)
    let late = ask([.init(host: 1, mode: .shared)], in: scene)
    #expect(late[0].holds.isEmpty)
    writer.cancel(wait)
    scene.wait(20)
    #expect(!late[0].holds.isEmpty)
    #expect(clients.allSatisfy { !$0.holds.isEmpty && $0.wasToldLost == nil })
    // The host's new shared lease takes the place of its old one, and lives on.
    scene.wait(30_000)
    #expect((clients + late).allSatisfy { !$0.holds.isEmpty && $0.wasToldLost == nil })
    #expect(scene.lock?.components(separatedBy: "h1/").count == 2)
    for client in clients + late { client.release() }
    scene.wait(20)
    scene.expectNothingLeft()
  }

  /// The writer's host dies, and its readers with it: its place is nobody's.
  @Test func aWriterThatDiesBehindItsOwnHostsReadersIsPassedOver() {
    let scene = scene(hosts: 2)
    let clients = ask(
      [.init(host: 0, mode: .shared), .init(host: 1, mode: .shared), .init(host: 0), .init(host: 1)], in: scene)
    scene.world.hosts[0].crash(silently: false)
    clients[1].release()
    #expect(scene.timeToGrant(clients[3], atMostMilliseconds: 10_500) != nil)
    clients[3].release()
    scene.wait(20)
    scene.expectSound()
    #expect(scene.lock == nil && scene.queue.isEmpty)
  }

  /// The place outlives the connection, and outlives a lease that its host keeps longer than any queue lives.
  @Test(arguments: [true, false]) func aPlaceBehindOwnReadersIsKept(_ isCut: Bool) {
    let scene = scene(hosts: 2)
    let clients = ask([.init(host: 0, mode: .shared), .init(host: 0)], in: scene)
    if isCut {
      scene.cut(0)
      scene.wait(2)
      #expect(scene.world.run(milliseconds: 1000) { scene.world.hosts[0].linkIsUp })
    } else {
      scene.wait(60_000)
    }
    let late = ask([.init(host: 1, mode: .shared)], in: scene)
    #expect(late[0].holds.isEmpty)
    #expect(drain(clients + late, in: scene) == [0, 1, 2])
    scene.expectNothingLeft()
  }

  /// A request for several locks waits for one of them in the same way.
  @Test func aRequestForSeveralLocksIsNotPassedEither() {
    let scene = Scenario(hosts: 2) {
      $0.cohortMilliseconds = 0
      $0.nameCount = 2
      $0.capacities = [0, 0]
    }
    let reader = scene.client(0)
    reader.acquire(1, mode: .shared)
    scene.wait(20)
    let several = scene.client(0)
    several.acquire(
      Checker.Wish(names: [0, 1], isSeveral: true, mode: .exclusive, waitMilliseconds: nil, owner: nil))
    scene.wait(20)
    let late = scene.client(1)
    late.acquire(1, mode: .shared)
    scene.wait(20)
    #expect(late.holds.isEmpty)
    reader.release(1)
    scene.wait(20)
    #expect(several.holds.count == 2)
    several.release(0)
    several.release(1)
    scene.wait(20)
    #expect(!late.holds.isEmpty)
    late.release(1)
    scene.wait(20)
    scene.expectNothingLeft()
  }
}
