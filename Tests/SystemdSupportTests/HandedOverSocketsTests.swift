import Foundation
import Testing

@testable import SystemdSupport

/// Each test has a process of its own, for its environment and its descriptors.
@Suite struct HandedOverSocketsTests {
  private enum Kind {
    case listening
    case bound
    case datagram
  }

  private static func makeSocket(_ kind: Kind = .listening) -> Int32 {
    let type = kind == .datagram ? SOCK_DGRAM : SOCK_STREAM
    let made = socket(AF_UNIX, Int32(type.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    // The family alone: the kernel chooses an abstract name.
    let length = socklen_t(MemoryLayout<sa_family_t>.size)
    withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { _ = bind(made, $0, length) }
    }
    if kind == .listening { listen(made, 1) }
    return made
  }

  /// Announces sockets at the descriptors from 3 on, as a service manager does, and gives these descriptors back after
  /// `body` to whoever had them: the test runner talks to its parent over one.
  private static func withAnnounced<Result>(
    _ names: [String], toProcess pid: Int32 = getpid(), _ body: () throws -> Result
  ) rethrows -> Result {
    let places = names.indices.map { Int32(3 + $0) }
    let saved = places.map { fcntl($0, F_DUPFD_CLOEXEC, 100) }
    defer {
      for (place, old) in zip(places, saved) {
        if old >= 0 { dup2(old, place) } else { close(place) }
        close(old)
      }
    }
    for place in places {
      let made = makeSocket()
      if made != place {
        dup2(made, place)
        close(made)
      }
    }
    setenv("LISTEN_PID", "\(pid)", 1)
    setenv("LISTEN_FDS", "\(names.count)", 1)
    setenv("LISTEN_FDNAMES", names.joined(separator: ":"), 1)
    return try body()
  }

  private static func isOpen(_ descriptor: Int32) -> Bool { fcntl(descriptor, F_GETFD) >= 0 }

  @Test func theSocketIsFoundByItsNameAndTheOthersAreClosed() async {
    await #expect(processExitsWith: .success) {
      let (all, listener, open, isPrivate) = try HandedOverSocketsTests.withAnnounced(["other", "sidelock", "third"]) {
        let all = try HandedOverSockets.takeAll()
        let listener = try HandedOverSockets.listener(named: "sidelock", among: all)
        let open = (3...5).map(HandedOverSocketsTests.isOpen)
        return (all, listener, open, fcntl(4, F_GETFD) & FD_CLOEXEC != 0)
      }
      #expect(all.map(\.name) == ["other", "sidelock", "third"])
      #expect(all.map(\.descriptor) == [3, 4, 5])
      #expect(listener == 4)
      #expect(open == [false, true, false])
      #expect(isPrivate)
      #expect(getenv("LISTEN_FDS") == nil)
    }
  }

  @Test func withoutAServiceManagerThereIsNone() async {
    await #expect(processExitsWith: .success) {
      unsetenv("LISTEN_FDS")
      let all = try HandedOverSockets.takeAll()
      #expect(all == [])
      let listener = try HandedOverSockets.listener(named: "sidelock", among: all)
      #expect(listener == nil)
    }
  }

  @Test func socketsForAnotherProcessAreNotOurs() async {
    await #expect(processExitsWith: .success) {
      let all = try HandedOverSocketsTests.withAnnounced(["sidelock"], toProcess: 1) {
        try HandedOverSockets.takeAll()
      }
      #expect(all == [])
    }
  }

  @Test(arguments: [["other"], ["sidelock", "sidelock"], ["unknown", "other"]])
  func noSocketOrTwoOfTheNameAreAnError(_ names: [String]) {
    let all = names.map { HandedOverDescriptor(name: $0, descriptor: Self.makeSocket()) }
    #expect(throws: SocketActivationError.self) { try HandedOverSockets.listener(named: "sidelock", among: all) }
  }

  @Test func whatWasStoredIsToldFromSocketsByItsName() {
    let all = ["sidelock", "sidelock-state", "client-1", "client-", "other"].enumerated().map {
      HandedOverDescriptor(name: $1, descriptor: Int32(100 + $0))
    }
    let split = HandedOverSockets.split(all, prefixes: ["sidelock-state", "client-"])
    #expect(split.matching.map(\.descriptor) == [101, 102, 103])
    #expect(split.others.map(\.descriptor) == [100, 104])
  }

  @Test func anotherKindOfSocketIsAnError() {
    for kind in [Kind.bound, .datagram] {
      let all = [HandedOverDescriptor(name: "sidelock", descriptor: Self.makeSocket(kind))]
      #expect(throws: SocketActivationError.self) { try HandedOverSockets.listener(named: "sidelock", among: all) }
    }
  }
}
