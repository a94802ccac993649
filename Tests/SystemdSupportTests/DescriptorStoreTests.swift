import Glibc
import Testing

@testable import SystemdSupport

/// A service manager's notification socket, which takes one message at a time.
private final class Manager {
  let path = "/tmp/sidelock-store-\(getpid())-\(UInt32.random(in: 0 ... .max)).sock"
  let descriptor: CInt

  init() {
    descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
    withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        _ = bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
  }

  deinit {
    close(descriptor)
    unlink(path)
  }

  /// The next message and the inode of the descriptor that came with it.
  func receive() -> (text: String, inode: UInt64?)? {
    var bytes = [UInt8](repeating: 0, count: 4096)
    var control = [UInt64](repeating: 0, count: 8)
    var message = msghdr()
    let count = bytes.withUnsafeMutableBytes { bytes in
      control.withUnsafeMutableBytes { control in
        var part = iovec(iov_base: bytes.baseAddress, iov_len: bytes.count)
        return withUnsafeMutablePointer(to: &part) { part in
          message.msg_iov = part
          message.msg_iovlen = 1
          message.msg_control = control.baseAddress
          message.msg_controllen = control.count
          return recvmsg(descriptor, &message, 0)
        }
      }
    }
    guard count > 0 else { return nil }
    let text = String(decoding: bytes.prefix(count), as: UTF8.self)
    guard message.msg_controllen > 0 else { return (text, nil) }
    // struct cmsghdr: length (8), level (4), type (4), then the descriptor.
    let received = CInt(truncatingIfNeeded: control[2])
    var status = stat()
    fstat(received, &status)
    close(received)
    return (text, UInt64(status.st_ino))
  }
}

private func makeFile() -> (descriptor: CInt, inode: UInt64) {
  let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
  var status = stat()
  fstat(descriptor, &status)
  return (descriptor, UInt64(status.st_ino))
}

@Suite struct DescriptorStoreTests {
  @Test func withoutAStoreThereIsNone() {
    func store(_ environment: [String: String]) -> DescriptorStore? { DescriptorStore { environment[$0] } }
    #expect(store([:]) == nil)
    #expect(store(["NOTIFY_SOCKET": "/run/x"]) == nil)
    #expect(store(["NOTIFY_SOCKET": "/run/x", "FDSTORE": "0"]) == nil)
    #expect(store(["NOTIFY_SOCKET": "/run/x", "FDSTORE": "many"]) == nil)
    #expect(store(["NOTIFY_SOCKET": "vsock:1:2", "FDSTORE": "10"]) == nil)
    #expect(store(["NOTIFY_SOCKET": "@abstract", "FDSTORE": "10"])?.capacity == 10)
  }

  @Test func descriptorsAreSentWithTheirNamesAndTakenOutByThem() throws {
    let manager = Manager()
    let store = try #require(DescriptorStore(notifySocket: manager.path, capacity: 10))
    let file = makeFile()
    store.add(file.descriptor, as: "client-7")
    store.remove("client-7")
    var message = try #require(manager.receive())
    #expect(message.text == "FDSTORE=1\nFDNAME=client-7")
    #expect(message.inode == file.inode)
    message = try #require(manager.receive())
    #expect(message.text == "FDSTOREREMOVE=1\nFDNAME=client-7")
    #expect(message.inode == nil)
    close(file.descriptor)
  }

  @Test func whatTheManagerDoesNotReadWaitsInItsOrderAndBlocksNobody() throws {
    let manager = Manager()
    let store = try #require(DescriptorStore(notifySocket: manager.path, capacity: 10_000))
    let file = makeFile()
    var sent = 0
    while !store.hasBacklog && sent < 10_000 {
      store.add(file.descriptor, as: "client-\(sent)")
      sent += 1
    }
    try #require(store.hasBacklog)
    store.add(file.descriptor, as: "gone")
    store.remove("gone")
    store.remove("client-0")
    var names: [String] = []
    for _ in 0..<10_000 {
      guard let message = manager.receive() else {
        guard store.hasBacklog else { break }
        store.retry()
        continue
      }
      names.append(String(message.text.split(separator: "\n")[1]))
    }
    #expect(names == (0..<sent).map { "FDNAME=client-\($0)" } + ["FDNAME=client-0"])
    close(file.descriptor)
  }

  /// What is written anew is added once more.
  @Test func whatWasAddedTwiceIsTakenOutAlthoughOneOfThemWasNotSent() throws {
    let manager = Manager()
    let store = try #require(DescriptorStore(notifySocket: manager.path, capacity: 10_000))
    let file = makeFile()
    store.add(file.descriptor, as: "twice")
    while !store.hasBacklog { store.add(file.descriptor, as: "other") }
    store.add(file.descriptor, as: "twice")
    store.remove("twice")
    var messages: [String] = []
    while let message = manager.receive() {
      store.retry()
      if message.text.hasSuffix("twice") { messages.append(message.text) }
    }
    #expect(messages == ["FDSTORE=1\nFDNAME=twice", "FDSTOREREMOVE=1\nFDNAME=twice"])
    close(file.descriptor)
  }

  @Test func theWitnessTellsWhetherAnythingIsKept() throws {
    let manager = Manager()
    let store = try #require(DescriptorStore(notifySocket: manager.path, capacity: 10))
    #expect(store.isKept, "nothing is known")
    store.addWitness(as: "witness")
    #expect(store.isKept, "the manager has not read it")
    // It reads it and closes what came along.
    let message = try #require(manager.receive())
    #expect(message.text == "FDSTORE=1\nFDNAME=witness" && message.inode != nil)
    #expect(!store.isKept)
  }

  @Test func whoCannotBeReachedKeepsNothing() throws {
    let store = try #require(DescriptorStore(notifySocket: "/nowhere/at/all", capacity: 10))
    store.addWitness(as: "witness")
    #expect(!store.isKept)
  }

  @Test func whatCannotBeSentEverIsGivenUp() throws {
    let store = try #require(DescriptorStore(notifySocket: "/nowhere/at/all", capacity: 10))
    let file = makeFile()
    store.add(file.descriptor, as: "client-1")
    #expect(!store.hasBacklog)
    close(file.descriptor)
  }
}
