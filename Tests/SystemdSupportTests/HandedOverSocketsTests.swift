import Foundation
import Testing

@testable import SystemdSupport

/// What is done with what was handed over. How it is taken, from descriptors that a process has from its beginning, is
/// shown in Tests/system/test_lifecycle.py: here the test runner has them.
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

  private static func isOpen(_ descriptor: Int32) -> Bool { fcntl(descriptor, F_GETFD) >= 0 }

  @Test func theSocketIsFoundByItsNameAndTheOthersAreClosed() throws {
    let all = ["other", "sidelock", "third"].map { HandedOverDescriptor(name: $0, descriptor: Self.makeSocket()) }
    let listener = try HandedOverSockets.listener(named: "sidelock", among: all)
    #expect(listener == all[1].descriptor)
    #expect(Self.isOpen(all[1].descriptor))
    close(all[1].descriptor)
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
