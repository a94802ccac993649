import AccessPolicy
import Glibc

extension AccountLookup {
  /// Asks the host's databases of users and groups. That may go over the network, and block: never on an event loop.
  static let ofThisHost = AccountLookup(
    user: { name in
      var record = passwd()
      return ask { buffer, size in
        var found: UnsafeMutablePointer<passwd>?
        let result = getpwnam_r(name, &record, buffer, size, &found)
        return (result, found.map(\.pointee.pw_uid))
      }
    },
    group: { name in
      var record = Glibc.group()
      return ask { buffer, size in
        var found: UnsafeMutablePointer<Glibc.group>?
        let result = getgrnam_r(name, &record, buffer, size, &found)
        return (result, found.map(\.pointee.gr_gid))
      }
    })

  /// A group with very many members needs a large buffer; this much is enough for hundreds of thousands, in bytes.
  private static let bufferBytesMax = 16 * 1024 * 1024

  private static func ask(_ question: (_ buffer: UnsafeMutablePointer<CChar>, _ size: Int) -> (Int32, UInt32?))
    -> AccountAnswer
  {
    var size = 4096
    while true {
      let buffer = UnsafeMutablePointer<CChar>.allocate(capacity: size)
      let (result, number) = question(buffer, size)
      buffer.deallocate()
      switch result {
      case 0: return number.map { .number($0) } ?? .unknown
      // Databases differ in what they say of a name that they do not know; see getpwnam(3).
      case ENOENT, ESRCH, EBADF, EPERM: return .unknown
      case EINTR: continue
      case ERANGE where size < bufferBytesMax: size *= 4
      default: return .failed(String(cString: strerror(result)))
      }
    }
  }
}
