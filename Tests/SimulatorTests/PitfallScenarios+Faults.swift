import LockEngine
import LockTypes
import Testing

extension PitfallScenarios {
  /// 19: every refusal meets an acquire. A wait outlives it, a try is told.
  @Test(arguments: RedisModel.Trouble.allCases.filter { $0 != .none })
  func anAcquireOutlivesARefusal(_ trouble: RedisModel.Trouble) {
    let scene = Scenario(hosts: 1)
    let waiter = scene.client(0)
    let other = scene.client(0)
    scene.world.server.redis.trouble = trouble
    let attempt = other.acquire(waitMilliseconds: 0)
    scene.wait(20)
    guard case .refused(.unavailable(let words)) = scene.answer(other, attempt) else {
      Issue.record("\(String(describing: scene.answer(other, attempt)))")
      return
    }
    #expect(words != nil)
    waiter.acquire()
    scene.wait(500)
    #expect(waiter.holds.isEmpty)
    scene.world.server.redis.trouble = .none
    #expect(scene.timeToGrant(waiter, atMostMilliseconds: 400) != nil)
    waiter.release()
    scene.wait(5)
    scene.expectNothingLeft()
  }

  /// 9, 19: every refusal meets a renewal; the next one comes, and the lock is kept.
  @Test(arguments: RedisModel.Trouble.allCases.filter { $0 != .none })
  func aHoldOutlivesARefusedRenewal(_ trouble: RedisModel.Trouble) {
    let scene = Scenario(hosts: 1, leaseMilliseconds: 3000)
    let holder = scene.holder(0)
    scene.wait(900)
    scene.world.server.redis.trouble = trouble
    scene.wait(900)
    scene.world.server.redis.trouble = .none
    scene.wait(9000)
    #expect(holder.wasToldLost == nil)
    #expect(scene.holder == "h0/1")
    holder.release()
    scene.wait(5)
    scene.expectNothingLeft()
  }

  /// 19: every refusal meets a release, which is repeated until it is done.
  @Test(arguments: RedisModel.Trouble.allCases.filter { $0 != .none })
  func aRefusedReleaseIsRepeated(_ trouble: RedisModel.Trouble) {
    let scene = Scenario(hosts: 2)
    let holder = scene.holder(0)
    scene.world.server.redis.trouble = trouble
    let release = holder.release()
    scene.wait(300)
    guard case .released = scene.answer(holder, release) else {
      Issue.record("the release is not answered")
      return
    }
    scene.world.server.redis.trouble = .none
    // A repeat every 100 ms, or a reconnect.
    #expect(scene.world.run(milliseconds: 400) { scene.lock == nil })
    scene.wait(200)
    scene.expectNothingLeft()
  }

  /// 19: the scripts are gone before each command.
  @Test func scriptsThatRedisForgotAreSentAgain() {
    let scene = Scenario(hosts: 2, leaseMilliseconds: 1000)
    for round in 0..<6 {
      let client = scene.client(round % 2)
      scene.world.server.redis.flushScripts()
      client.acquire()
      #expect(scene.timeToGrant(client, atMostMilliseconds: 10) != nil)
      scene.world.server.redis.flushScripts()
      scene.wait(2000)
      #expect(client.wasToldLost == nil)
      scene.world.server.redis.flushScripts()
      client.release()
      scene.wait(5)
      #expect(scene.lock == nil)
    }
    scene.expectNothingLeft()
  }

  /// 21: hosts that died in the queue cost nothing.
  @Test(arguments: [0, 1, 5, 20])
  func deadWaitersDoNotDelayTheNextOne(_ deadCount: Int) throws {
    let scene = Scenario(hosts: deadCount + 2)
    let holder = scene.holder(0)
    for host in 0..<deadCount {
      scene.client(host + 1).acquire()
      scene.wait(1)
    }
    scene.wait(5)
    let waiter = scene.client(deadCount + 1)
    waiter.acquire()
    scene.wait(5)
    #expect(scene.queue.count == deadCount + 1)
    for host in 0..<deadCount { scene.world.hosts[host + 1].crash(silently: false) }
    scene.wait(5)
    holder.release()
    let time = try #require(scene.timeToGrant(waiter, atMostMilliseconds: 1000))
    #expect(time == 1000)
    scene.expectSound()
  }

  /// 26: after every kind of fault, and a while of quiet, this host and Redis know the same.
  @Test(arguments: Fault.allCases, UInt64(1)...4)
  func afterAFaultTheHostsAndRedisAgree(_ fault: Fault, _ seed: UInt64) {
    let scene = Scenario(hosts: 2, leaseMilliseconds: 1000) {
      $0.seed = seed
      $0.faults = [fault]
      $0.linkTimeoutMilliseconds = 250
      $0.keepaliveMilliseconds = 500
    }
    _ = scene.holder(0)
    scene.client(1).acquire()
    scene.wait(5)
    for _ in 0..<3 {
      scene.world.strike(fault)
      scene.wait(30)
    }
    scene.wait(8000)
    scene.world.checker.verifyAgreement(0)
    for host in scene.world.hosts where host.isRunning {
      let state = host.engine.snapshot(of: LockName("lock-0"), waitersMax: 0, now: host.bootNow)?.leaseState
      let isHolder = scene.holder == host.me
      #expect((state == .held || state == .idle) == isHolder, "\(fault): \(host.me) is \(String(describing: state))")
      let isQueued = scene.queue.contains { $0.hasPrefix("1;\(host.me):") }
      #expect((state == .waiting) == isQueued, "\(fault): \(host.me) is \(String(describing: state)), \(scene.queue)")
    }
    for client in scene.world.clients { client.close() }
    scene.wait(100)
    if fault != .evictQueue { scene.expectNothingLeft() }
  }

  /// 28: a host that was away compares before it believes.
  @Test func aReconnectDoesNotBringALostHolderBack() throws {
    let scene = Scenario(hosts: 2)
    let first = scene.holder(0)
    scene.cut(0)
    scene.world.checker.unsafe(.lockKeyGone)
    _ = scene.world.server.operate(["DEL", "sl:{lock-0}"])
    let second = scene.holder(1)
    let value = try #require(scene.lock)
    #expect(scene.world.run(milliseconds: 300) { first.wasToldLost == .dataLoss })
    #expect(scene.lock == value)
    #expect(second.wasToldLost == nil)
    scene.wait(30_000)
    #expect(scene.lock == value)
    second.release()
    scene.wait(5)
    scene.expectNothingLeft()
  }

  /// 38: the lease ends before the local hand-over, because Redis is out of reach or because the host slept.
  @Test(arguments: [false, true])
  func nothingIsHandedOverUnderALeaseThatIsOver(_ isSuspended: Bool) {
    let scene = Scenario(hosts: 1, leaseMilliseconds: 1000) { $0.linkTimeoutMilliseconds = 250 }
    let holder = scene.holder(0)
    let neighbour = scene.client(0)
    neighbour.acquire()
    scene.wait(5)
    scene.world.server.stall()
    if isSuspended {
      scene.world.hosts[0].pause()
      holder.release()
      scene.wait(1500)
      scene.world.hosts[0].resume()
      scene.wait(1)
    } else {
      scene.wait(900)
      #expect(holder.wasToldLost == .leaseExpired)
      holder.release()
      scene.wait(1)
    }
    #expect(neighbour.holds.isEmpty)
    scene.world.server.resume()
    #expect(scene.timeToGrant(neighbour, atMostMilliseconds: 2000) != nil)
    scene.expectSound()
  }

  /// 39: the lock goes to a waiter that has just left, and from there at once to the next one.
  @Test(arguments: stride(from: 0, through: 1200, by: 100).map { $0 })
  func aGrantToAWaiterThatLeftPassesOn(_ offsetMicroseconds: Int) throws {
    let scene = Scenario(hosts: 3)
    let holder = scene.holder(0)
    let gone = scene.client(1)
    gone.acquire()
    scene.wait(5)
    let next = scene.client(2)
    next.acquire()
    scene.wait(5)
    holder.release()
    scene.waitMicroseconds(Int64(offsetMicroseconds))
    gone.close()
    let time = try #require(scene.timeToGrant(next, atMostMilliseconds: 1000))
    // The release's way to Redis and the message's way from there.
    #expect(time <= 2000)
    scene.expectSound()
  }

  /// 41: Redis does not answer; everybody is answered at the limit that they set.
  @Test func waitsEndAtTheirLimitsWhileRedisIsStopped() {
    let scene = Scenario(hosts: 2)
    _ = scene.holder(0)
    let early = scene.client(1)
    let earlyRequest = early.acquire(waitMilliseconds: 700)
    scene.wait(5)
    scene.world.server.stall()
    let start = scene.world.now
    var requests: [(client: SimulatedClient, id: RequestID, limit: Int64)] = []
    let limits: [Int64] = [1, 50, 333, 1000, 2500, 5000]
    for limit in limits {
      for host in 0...1 {
        let client = scene.client(host)
        requests.append((client, client.acquire(waitMilliseconds: limit), limit))
      }
    }
    for limit in limits {
      let those = requests.filter { $0.limit == limit }
      scene.world.run(until: start + limit * 1000 - 1)
      for (client, id, _) in those { #expect(scene.answer(client, id) == nil) }
      scene.world.run(until: start + limit * 1000 + 1)
      for (client, id, _) in those {
        guard case .refused = scene.answer(client, id) else {
          Issue.record("a wait of \(limit) ms is not answered")
          continue
        }
      }
    }
    guard case .refused = scene.answer(early, earlyRequest) else {
      Issue.record("a wait from before is not answered")
      return
    }
    let attempt = early.acquire(waitMilliseconds: 0)
    scene.wait(2100)
    #expect(scene.answer(early, attempt) == .refused(.unavailable(nil)))
    scene.expectSound()
  }
}
