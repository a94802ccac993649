import Foundation
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
    let system = UnixSocket.connectFailure(path: SocketPath.system, error: ENOENT)
    #expect(system.message.contains("systemctl start sidelockd"))

    let path = FakeDaemon.temporaryPath()
    #expect(FileManager.default.createFile(atPath: path, contents: nil))
    chmod(path, 0o660)
    let closed = UnixSocket.connectFailure(path: path, error: EACCES)
    #expect(closed.reason == .permission)
    #expect(closed.message.contains("group"))
    chmod(path, 0o600)
    #expect(UnixSocket.connectFailure(path: path, error: EACCES).message.contains("only its owner"))
    #expect(UnixSocket.connectFailure(path: path, error: EAGAIN).message.contains("may hang"))

    // A plain file instead of a socket.
    let error = #expect(throws: SidelockError.self) { try UnixSocket.connect(path: path) }
    #expect(error?.reason == .noDaemon)
    try FileManager.default.removeItem(atPath: (path as NSString).deletingLastPathComponent)
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
