import CSystemd
import Glibc

/// A descriptor that the service manager opened for this process.
public struct HandedOverDescriptor: Sendable, Equatable {
  /// The name that its unit gives it (`FileDescriptorName=`).
  public let name: String
  /// The descriptor; it is closed in programs that this process starts.
  public let descriptor: CInt
}

/// The service manager handed over something that the daemon cannot serve on.
public struct SocketActivationError: Error, CustomStringConvertible {
  /// What is wrong and what to do.
  public let description: String
}

/// What the service manager handed over at the start (sd_listen_fds_with_names).
public enum HandedOverSockets {
  /// Takes every descriptor, and the announcement out of the environment: nothing must be taken twice. To be
  /// called once, before there are other threads, as it changes the environment.
  ///
  /// - Throws: ``SocketActivationError`` when the announcement cannot be read.
  public static func takeAll() throws -> [HandedOverDescriptor] {
    var names: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?
    let count = sd_listen_fds_with_names(1, &names)
    guard count >= 0 else {
      throw SocketActivationError(
        description: "cannot take the sockets of the service manager: \(String(cString: strerror(-count)))")
    }
    guard let names else { return [] }
    defer { free(names) }
    return (0..<Int(count)).map { index in
      let name = names[index].map { String(cString: $0) } ?? ""
      free(names[index])
      return HandedOverDescriptor(name: name, descriptor: CInt(SD_LISTEN_FDS_START) + CInt(index))
    }
  }

  /// The descriptors whose names begin with one of these, and the others.
  public static func split(
    _ descriptors: [HandedOverDescriptor], prefixes: [String]
  ) -> (matching: [HandedOverDescriptor], others: [HandedOverDescriptor]) {
    let isMatching = { (descriptor: HandedOverDescriptor) in prefixes.contains { descriptor.name.hasPrefix($0) } }
    return (descriptors.filter(isMatching), descriptors.filter { !isMatching($0) })
  }

  /// The one listening Unix stream socket of this name. Everything else is closed: nobody would ever use it.
  ///
  /// - Returns: nil when nothing was handed over.
  /// - Throws: ``SocketActivationError`` when there is none of this name, or more than one, or it is another kind of
  ///   socket; a daemon that then made a socket of its own would serve where nobody looks for it.
  public static func listener(named name: String, among descriptors: [HandedOverDescriptor]) throws -> CInt? {
    guard !descriptors.isEmpty else { return nil }
    let matching = descriptors.filter { $0.name == name }
    let chosen = matching.count == 1 ? matching[0].descriptor : nil
    for other in descriptors where other.descriptor != chosen { close(other.descriptor) }
    guard let chosen else {
      let found = descriptors.map(\.name).joined(separator: ", ")
      throw SocketActivationError(
        description: "the service manager must hand over one socket named \(name) (FileDescriptorName=\(name) in the "
          + "socket unit, with one ListenStream=); it handed over: \(found)")
    }
    guard sd_is_socket_unix(chosen, Int32(SOCK_STREAM.rawValue), 1, nil, 0) > 0 else {
      close(chosen)
      throw SocketActivationError(
        description: "the socket \(name) of the service manager is not a listening Unix stream socket; give its unit "
          + "ListenStream= with a path")
    }
    return chosen
  }
}
