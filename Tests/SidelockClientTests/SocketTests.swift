import Foundation
import SystemStrings
import Testing

@testable import SidelockClient

struct SocketTests {
  func find(_ explicit: String?, _ environment: [String: String], existing: Set<String> = []) -> String {
    SocketPath.find(explicit: explicit, environment: { environment[$0] }, exists: { existing.contains($0) })
  }

  @Test func theSocketIsFoundInThisOrder() {
    let user = "/run/user/7/sidelock/sidelock.sock"
    let environment = ["SIDELOCK_SOCKET": "/e", "XDG_RUNTIME_DIR": "/run/user/7"]
    #expect(find("/x", environment, existing: [user]) == "/x")
    #expect(find(nil, environment, existing: [user]) == "/e")
    #expect(find(nil, ["XDG_RUNTIME_DIR": "/run/user/7"], existing: [user]) == user)
    #expect(find(nil, ["XDG_RUNTIME_DIR": "/run/user/7"]) == "/run/sidelock/sidelock.sock")
    #expect(find(nil, [:], existing: [user]) == "/run/sidelock/sidelock.sock")
  }

  @Test func emptyTextsCountAsNotGiven() {
    #expect(find("", ["SIDELOCK_SOCKET": "/e"]) == "/e")
    #expect(find(nil, ["SIDELOCK_SOCKET": "", "XDG_RUNTIME_DIR": ""]) == SocketPath.system)
  }

  @Test(arguments: ["", String(repeating: "p", count: 108), "a\u{0}b"])
  func impossiblePathsAreRefused(path: String) {
    let error = #expect(throws: SidelockError.self) { try UnixSocket.connect(path: path) }
    #expect(error?.reason == .noDaemon)
  }

  @Test func failuresToConnectSayWhatToDo() throws {
    let system = UnixSocket.connectFailure(path: Array(SocketPath.system.utf8), error: ENOENT)
    #expect(system.message.contains("systemctl start sidelockd"))

    let path = FakeDaemon.temporaryPath()
    #expect(FileManager.default.createFile(atPath: path, contents: nil))
    chmod(path, 0o660)
    let closed = UnixSocket.connectFailure(path: Array(path.utf8), error: EACCES)
    #expect(closed.reason == .permission)
    #expect(closed.message.contains("root") || closed.message.contains("group"))
    chmod(path, 0o600)
    #expect(UnixSocket.connectFailure(path: Array(path.utf8), error: EACCES).message.contains("only"))
    #expect(UnixSocket.connectFailure(path: Array(path.utf8), error: EAGAIN).message.contains("may hang"))

    // A plain file instead of a socket.
    let error = #expect(throws: SidelockError.self) { try UnixSocket.connect(path: path) }
    #expect(error?.reason == .noDaemon)
    try FileManager.default.removeItem(atPath: (path as NSString).deletingLastPathComponent)
  }

  @Test func nobodyIsToldToJoinTheGroupOfRoot() {
    for mode in [0o660, 0o666, 0o600] as [mode_t] {
      let ofRoot = UnixSocket.advice(mode: mode, user: 0, group: 0)
      #expect(!ofRoot.contains("usermod"))
      #expect(ofRoot.contains("--socket-mode 0666"))
      #expect(!UnixSocket.advice(mode: mode, user: 1000, group: 0).contains("usermod"))
    }
    #expect(UnixSocket.advice(mode: 0o660, user: 0, group: 4_242_424).contains("sudo usermod -aG 4242424 "))
    #expect(UnixSocket.advice(mode: 0o600, user: 7, group: 4_242_424) == ": only its owner may (user id 7)")
  }

  @Test func aFullQueueOfConnectionsIsWaitedForOnlySoLong() throws {
    let path = FakeDaemon.temporaryPath()
    let listener = try FakeDaemon.listen(path)
    var connected: [CInt] = []
    defer {
      for descriptor in connected + [listener] { close(descriptor) }
      try? FileManager.default.removeItem(atPath: (path as NSString).deletingLastPathComponent)
    }
    // Nobody accepts, so that the queue is full after a few.
    var failure: SidelockError?
    while failure == nil, connected.count < 100 {
      do throws(SidelockError) {
        connected.append(try UnixSocket.connect(path: Array(path.utf8), milliseconds: 50))
      } catch {
        failure = error
      }
    }
    #expect(failure?.reason == .noAnswer)
  }

  @Test(
    arguments: [
      [], Array("plain".utf8), Array("é😀".utf8), [0xE9], [0x63, 0xE9, 0x66], [0xFF, 0xC3], [0xC3, 0xA9, 0xA9],
      // Half a surrogate, an overlong slash, and the characters that stand for bytes.
      [0xED, 0xA0, 0x80], [0xC0, 0xAF], Array("\u{10FF41}\u{10FFFF}".utf8), [0xF4, 0x8F, 0xBD],
    ] as [[UInt8]])
  func textsOfTheSystemAreKeptByteForByte(bytes: [UInt8]) {
    let text = SystemText.text(bytes)
    #expect(SystemText.bytes(text) == bytes)
    #expect(SystemText.bytes(text + "x" + text) == bytes + [0x78] + bytes)
    #expect(SystemText.utf8(text) == String(validating: bytes, as: UTF8.self))
  }

  @Test func whatIsNoTextIsShownAsBytes() {
    #expect(SystemText.shown(SystemText.text([0x63, 0x61, 0x66, 0xE9, 0x0A])) == "caf\\xE9\n")
    #expect(SystemText.shown(SystemText.text(Array("é\u{10FF41}".utf8))) == "é\u{10FF41}")
  }

  /// Pitfall 30: a child that inherits the socket would keep the locks.
  @Test func childrenDoNotInheritTheSocket() throws {
    let path = FakeDaemon.temporaryPath()
    let listener = try FakeDaemon.listen(path)
    let descriptor = try UnixSocket.connect(path: path)
    #expect(fcntl(descriptor, F_GETFD) & FD_CLOEXEC != 0)
    #expect(fcntl(descriptor, F_GETFL) & O_NONBLOCK == 0)
    close(descriptor)
    close(listener)
    try FileManager.default.removeItem(atPath: (path as NSString).deletingLastPathComponent)
  }
}
