import SidelockClient

// The code of the articles in Sources/SidelockClient/SidelockClient.docc and of README.md, which only compiles here:
// DocumentedCodeTests holds each block against this file.

private func work(_ token: Int64) async throws {}

private func stop() {}

enum DocumentedCode {
  static func landing() async throws {
    let client = try await SidelockClient.connect()
    try await client.withLock("orders") { lock in
      try await work(lock.token)  // cancelled when the lock is lost
    }
  }

  static func connecting() async throws {
    try await SidelockClient.withConnection { client in
      try await client.ping()
    }
  }

  static func holding(_ client: SidelockClient) async throws {
    try await client.withLock("orders", wait: .limit(.seconds(5))) { lock in
      try await work(lock.token)
    }
  }

  static func sharing(_ client: SidelockClient) async throws {
    try await client.withLock("data", mode: .shared) { lock in
      try await work(lock.token)
    }
    try await client.withLock("mail", mode: .permit(of: 4)) { lock in
      try await work(lock.token)
    }
    try await client.withLocks(["from", "to"]) { locks in
      for lock in locks { try await work(lock.token) }
    }
  }

  static func holdingLonger(_ client: SidelockClient) async throws {
    let lock = try await client.acquire("printer", maxHold: .seconds(60), meta: "invoice 4711")
    try await work(lock.token)
    try await lock.extend(maxHold: .seconds(60))
    try await lock.release()
  }

  static func looking(_ client: SidelockClient) async throws {
    let description = try await client.inspect("orders")
    for holder in description.holders {
      print(holder.host ?? "", holder.command ?? "", holder.heldMilliseconds ?? 0)
    }
  }

  static func losing(_ client: SidelockClient, _ steps: [@Sendable (Int64) async throws -> Void]) async throws {
    do {
      try await client.withLock("orders") { lock in
        for step in steps {
          try Task.checkCancellation()
          try await step(lock.token)
        }
      }
    } catch let error as SidelockError where error.reason == .lost {
      print("stopped: \(error)")
    }
  }

  static func hearing(_ client: SidelockClient) async throws -> Lock {
    let lock = try await client.acquire(
      "orders",
      onLost: { notice in
        print("lost \(notice.name) because of \(notice.reason); \(notice.graceMilliseconds ?? 0) ms are left")
        stop()
      })
    return lock
  }

  static func beingEnded(_ client: SidelockClient) async throws -> Lock {
    let lock = try await client.acquire("printer", lossAction: .terminate)
    return lock
  }

  static func failing(_ client: SidelockClient) async throws {
    do {
      let lock = try await client.acquire("deploy", wait: .try)
      try await work(lock.token)
      try await lock.release()
    } catch let error as SidelockError {
      switch error.reason {
      case .busy, .timeout: print("somebody else deploys")
      case .unavailable: print("Redis cannot be reached: \(error.detail ?? "")")
      case .lost: print("stop: \(error.message)")
      case .noDaemon, .noAnswer, .permission: print(error.message)
      default: throw error
      }
    }
  }
}
