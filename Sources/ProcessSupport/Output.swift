import Glibc

/// A write failed: a full disk, a pipe that nobody reads, a closed descriptor.
package struct OutputError: Error {
  /// The errno.
  package var code: CInt

  /// The failure with this errno.
  package init(code: CInt) {
    self.code = code
  }

  /// Nobody wants the output, which is no fault and needs no word.
  package var isBrokenPipe: Bool { code == EPIPE }

  /// EX_IOERR; for a broken pipe the status that a shell gives to a death by SIGPIPE.
  package var exitStatus: CInt { isBrokenPipe ? 141 : 74 }

  /// What to say of standard output; nil where nothing need be said.
  package var words: String? {
    guard !isBrokenPipe else { return nil }
    var buffer = [CChar](repeating: 0, count: 256)
    strerror_r(code, &buffer, buffer.count)
    return "standard output: "
      + String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}

/// Writing to descriptors that other processes may share.
package enum Output {
  /// Writes all of `text`, waiting for room in it where the descriptor does not block.
  package static func write(_ text: String, to descriptor: CInt) throws(OutputError) {
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
      let count = rest.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
      if count >= 0 {
        rest = rest.dropFirst(count)
        continue
      }
      switch errno {
      case EINTR: continue
      case EAGAIN:
        // Another process that shares it has made it non-blocking.
        var entry = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
        _ = poll(&entry, 1, -1)
      default: throw OutputError(code: errno)
      }
    }
  }
}
