import ArgumentParser
import SystemStrings

/// Where a server listens.
enum ListenAddress: ExpressibleByArgument, CustomStringConvertible, Equatable, Sendable {
  case internet(host: String, port: Int)
  case unix(path: String)

  static func loopback(port: Int) -> ListenAddress { .internet(host: "127.0.0.1", port: port) }

  /// `PORT`, `ADDRESS:PORT`, `[ADDRESS]:PORT` or `unix:PATH`; nil for anything else.
  init?(argument: String) {
    if argument.hasPrefix("unix:") {
      let path = String(argument.dropFirst(5))
      guard !path.isEmpty else { return nil }
      self = .unix(path: path)
      return
    }
    let colon = argument.lastIndex(of: ":")
    let digits = colon.map { argument[argument.index(after: $0)...] } ?? argument[...]
    guard !digits.isEmpty, digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let port = Int(digits),
      port <= 65_535
    else { return nil }
    guard let colon else {
      self = .loopback(port: port)
      return
    }
    var host = argument[..<colon]
    if host.hasPrefix("["), host.hasSuffix("]") {
      host = host.dropFirst().dropLast()
    } else if host.contains(":") {
      return nil
    }
    // Not even by mistake everywhere.
    guard !host.isEmpty else { return nil }
    self = .internet(host: String(host), port: port)
  }

  /// Throws what is wrong with one that was given as --listen, in words.
  func check() throws {
    switch self {
    case .internet(host: "*", let port):
      throw ValidationError(
        "--listen takes an address and no *; all of them are 0.0.0.0:\(port), or [::]:\(port) with IPv6.")
    case .internet: break
    case .unix(let path):
      let count = SystemText.bytes(path).count
      guard count <= ListenSocket.pathBytesMax else {
        throw ValidationError(
          """
          --listen takes a path of up to \(ListenSocket.pathBytesMax) bytes; this one has \(count): give a shorter one, \
          or one that begins in the current directory.
          """)
      }
    }
  }

  var description: String {
    switch self {
    case .internet(let host, let port): host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    case .unix(let path): "unix:\(path)"
    }
  }

  var defaultValueDescription: String { description }
}
